"""The client against servers that others wrote."""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import socket
import ssl
from pathlib import Path

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from smtproute.core.address import Address
from smtproute.core.choice import Candidate
from smtproute.core.outcome import Answer, Stage
from smtproute.core.reply import Reply
from smtproute.core.settings import Endpoint, EndpointTls, Server, Source
from smtproute.smtp.client import Dialogue, Mail
from smtproute.smtp.pool import NobodyReached, Pool
from smtproute.world import World

CONTENT = "Subject: hello\r\n\r\n.dot\r\n..two\r\n.\r\nGrüße\r\n".encode()
MAIL = Mail(
    Address.parse("sender@here.test"),
    (Address.parse("a@there.test"), Address.parse("no@there.test"), Address.parse('"b c"@there.test')),
    eight_bit=True,
)


class Handler:
    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []

    async def handle_RCPT(  # noqa: N802 - the library's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("no@"):
            return "550 5.1.1 No such user"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.envelopes.append(envelope)
        return "250 2.0.0 Taken"


async def send_twice(endpoint: Endpoint, port: int) -> list[Dialogue]:
    pool = Pool("relay.test", World())
    candidate = Candidate(Server("localhost", port), "127.0.0.1", Source.STATIC)
    try:
        return [(await pool.send(endpoint, [candidate], MAIL, CONTENT, 0.0)).dialogue for _ in range(2)]
    finally:
        await pool.close()


@pytest.mark.parametrize("mode", [EndpointTls.PREFER, EndpointTls.REQUIRE, EndpointTls.IMPLICIT])
async def test_aiosmtpd(mode: EndpointTls, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    handler = Handler()
    controller = Controller(
        handler,
        hostname="127.0.0.1",
        port=_free_port(),
        enable_SMTPUTF8=True,
        tls_context=None if mode is EndpointTls.IMPLICIT else context,
        ssl_context=context if mode is EndpointTls.IMPLICIT else None,
    )
    await asyncio.to_thread(controller.start)
    try:
        dialogues = await send_twice(Endpoint("there", tls=mode, ca_file=str(tmp_path / "ca.pem")), controller.port)
    finally:
        await asyncio.to_thread(controller.stop)
    taken = Answer(Stage.CONTENT, Reply(250, "2.0.0", "Taken"))
    for dialogue in dialogues:
        assert dialogue.answers == (taken, Answer(Stage.RCPT, Reply(550, "5.1.1", "No such user")), taken)
        assert dialogue.tls
    assert dialogues[1].transcript[0].text == "connection reused (transaction 2)"
    for envelope in handler.envelopes:
        assert envelope.content == CONTENT
        assert envelope.mail_from == "sender@here.test"
        assert envelope.rcpt_tos == ["a@there.test", '"b c"@there.test']
    assert len(handler.envelopes) == 2


@pytest.mark.peer("smtp-sink")
async def test_smtp_sink(tmp_path: Path) -> None:
    port = _free_port()
    program = shutil.which("smtp-sink", path=os.environ.get("PATH", "") + ":/usr/sbin")
    assert program is not None
    root = ("-u", getpass.getuser()) if os.geteuid() == 0 else ()
    sink = await asyncio.create_subprocess_exec(
        program, *root, "-R", str(tmp_path), "-D", "message.", f"127.0.0.1:{port}", "10"
    )
    try:
        async with asyncio.timeout(10):
            while True:
                try:
                    dialogues = await send_twice(Endpoint("there"), port)
                    break
                except NobodyReached:  # not yet listening
                    await asyncio.sleep(0.01)
    finally:
        sink.terminate()
        await sink.wait()
    for dialogue in dialogues:
        assert [answer.stage for answer in dialogue.answers] == [Stage.CONTENT] * 3
        assert all(answer.reply is not None and answer.reply.code == 250 for answer in dialogue.answers)
    (dump,) = tmp_path.glob("message.*")
    text = dump.read_bytes()
    assert text.count(CONTENT.replace(b"\r\n", b"\n")) == 2  # it writes lines as Unix does
    assert text.count(b"X-Rcpt-Args: <a@there.test>\n") == 2


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
