"""Other people's clients against a listener: smtplib, swaks, and telnet in a terminal."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import smtplib
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from recording import LOCAL, House, listening, on_both_loops
from swaks import swaks

from smtproute.core.address import Address
from smtproute.core.reply import Reply
from smtproute.core.settings import Listener as Settings
from smtproute.core.settings import ListenerTls

SETTINGS = Settings("test", port=0, trusted_networks=LOCAL)
NO_SUCH_USER = Reply(550, "5.1.1", "No such user")


@on_both_loops
async def test_smtplib(tmp_path: Path) -> None:
    authority = trustme.CA()
    pem = tmp_path / "mx.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    message = b"Subject: x\r\n\r\n.dot\r\n..\r\n" + b"8-bit \xff\r\n" * 10_000

    def session(address: tuple[str, int]) -> dict[str, tuple[int, bytes]]:
        with smtplib.SMTP(*address, local_hostname="client.example") as client:
            client.starttls(context=context)
            assert client.verify("c@d.example")[0] == 252
            refused = client.sendmail("", ["c@d.example", "no@d.example"], message, mail_options=["BODY=8BITMIME"])
            client.sendmail("ü@b.example", ["ß@d.example"], message, mail_options=["SMTPUTF8"])
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                client.sendmail("a@b.example", ["no@d.example"], message)
            with pytest.raises(smtplib.SMTPDataError, match="554"):
                client.mail("a@b.example")
                client.rcpt("c@d.example")
                client.putcmd("data")
                client.getreply()
                client.send(b"bare\nnewline\r\n.\r\n")
                code, text = client.getreply()
                raise smtplib.SMTPDataError(code, text)
            client.sendmail("a@b.example", ["c@d.example"], b"the last one\r\n")
        return refused

    house = House(replies={"rcpt no@d.example": NO_SUCH_USER})
    settings = replace(SETTINGS, tls=ListenerTls.STARTTLS, certificate=str(pem))
    async with listening(house, settings) as listener:
        refused = await asyncio.to_thread(session, listener.address)
    assert refused == {"no@d.example": (550, b"5.1.1 No such user")}
    one, two, last = house.taken
    assert one.content == two.content == message and last.content == b"the last one\r\n"
    assert one.envelope.reverse_path is None and one.envelope.eight_bit and one.envelope.size == len(message)
    assert two.envelope.smtputf8 and two.recipients == [Address.parse("ß@d.example")]
    assert last.envelope.client.helo == "client.example" and last.envelope.client.tls


@pytest.mark.peer("swaks")
async def test_swaks() -> None:
    house = House(replies={"rcpt no@d.example": NO_SUCH_USER})
    async with listening(house) as listener:
        envelope = ("--from", "a@b.example", "--to", "c@d.example,e@d.example")
        status, printed = await swaks(listener.address, *envelope, "--pipeline")
        assert status == 0, printed
        assert "<-  250 2.0.0 Ok: queued as T1" in printed
        status, printed = await swaks(listener.address, "--from", "<>", "--to", "no@d.example")
        assert status == 24, printed
        assert "<** 550 5.1.1 No such user" in printed
    (taken,) = house.taken
    assert [str(recipient) for recipient in taken.recipients] == ["c@d.example", "e@d.example"]
    assert b"\r\n\r\nThis is a test mailing\r\n" in taken.content


@pytest.mark.peer("swaks", "perl:Net::SSLeay")
@pytest.mark.parametrize(("tls", "option"), [(ListenerTls.STARTTLS, "--tls"), (ListenerTls.IMPLICIT, "--tlsc")])
async def test_swaks_under_tls(tmp_path: Path, tls: ListenerTls, option: str) -> None:
    pem = tmp_path / "mx.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    house = House()
    async with listening(house, replace(SETTINGS, tls=tls, certificate=str(pem))) as listener:
        status, printed = await swaks(listener.address, "--from", "a@b.example", "--to", "c@d.example", option)
    assert status == 0, printed
    assert "<~  250 2.0.0 Ok: queued as T1" in printed
    assert house.taken[0].envelope.client.tls


class Telnet:
    """A person at a terminal."""

    def __init__(self, terminal: int) -> None:
        self.terminal = terminal
        self.screen = ""

    def until(self, pattern: str) -> str:
        """What appears up to the end of a line that begins so. The terminal ends when telnet does."""
        while (found := re.search(rf"^{pattern}.*\n", self.screen, re.MULTILINE)) is None:
            self.screen += os.read(self.terminal, 65536).decode().replace("\r", "")
        shown, self.screen = self.screen[: found.end()], self.screen[found.end() :]
        return shown

    def types(self, line: str, pattern: str) -> str:
        os.write(self.terminal, line.encode() + b"\n")
        return self.until(pattern)


@contextmanager
def telnet(address: tuple[str, int]) -> Iterator[Telnet]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["telnet", address[0], str(address[1])], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        yield Telnet(ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.peer("telnet")
async def test_telnet() -> None:
    house = House(replies={"rcpt no@d.example": NO_SUCH_USER})

    def typed(address: tuple[str, int]) -> None:
        with telnet(address) as person:
            person.until("220 mx.example")
            assert "EHLO" in person.types("help", "214 ")
            assert "RCPT TO:<address>" in person.types("help rcpt", "214 2.0.0 ")
            assert "EHLO or HELO" in person.types("mail from:<a@b.example>", "503 5.5.1 ")
            assert "HELP lists the verbs" in person.types("hello", "500 5.5.2 ")
            assert "EHLO your.host.name" in person.types("ehlo", "501 5.5.4 ")
            person.types("ehlo me", "250 HELP")
            assert "MAIL FROM:<address>" in person.types("mail from: a@b.example", "501 5.1.7 ")
            person.types("mail from: <a@b.example>", "250 2.1.0 ")
            person.types("rcpt to:<no@d.example>", "550 5.1.1 ")
            assert "another address" in person.types("data", "554 5.5.1 ")
            person.types("rcpt to:<c@d.example>", "250 2.1.5 ")
            assert "single dot" in person.types("data", "354 ")
            os.write(person.terminal, b"Subject: by hand\n\nhello\n")
            assert "queued as T1" in person.types(".", "250 2.0.0 ")
            person.types("quit", "221 2.0.0 ")
            person.until("Connection closed by foreign host")

    async with listening(house) as listener, asyncio.timeout(30):
        await asyncio.to_thread(typed, listener.address)
    assert house.taken[0].content == b"Subject: by hand\r\n\r\nhello\r\n"
