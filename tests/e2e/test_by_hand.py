"""What a person types, into telnet and swaks, against a running relay."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import shutil
import subprocess

import pytest

from smtproute.app import Relay
from tests.e2e.conftest import Client, Lab

MX = """
    domains = ["here.example"]
    [aliases]
    tables = ["aliases"]
    [accounts]
    file = "accounts"
    [listener.mx]
    bind = "127.0.0.1:0"
    role = "inbound"
    debug = true
    [listener.quiet]
    bind = "127.0.0.1:0"
    role = "inbound"
"""


async def started(lab: Lab) -> Relay:
    lab.write("aliases", "both@here.example both@here.example, me@far.example\n")
    lab.write("accounts", "both@here.example|{SHA512-CRYPT}$6$x$y\n")
    return await lab.started(MX)


class Telnet:
    """A telnet in a terminal of its own."""

    def __init__(self, address: tuple[str, int]) -> None:
        ours, theirs = pty.openpty()
        self.terminal = ours
        self.process = subprocess.Popen(
            ["telnet", *map(str, address)], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self.seen = ""

    async def until(self, pattern: str) -> str:
        """What the screen shows up to and with the pattern, from where the last look ended."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(20):
            while (found := re.search(pattern, self.seen, re.MULTILINE)) is None:
                ready = asyncio.Event()
                loop.add_reader(self.terminal, ready.set)
                await ready.wait()
                loop.remove_reader(self.terminal)
                self.seen += os.read(self.terminal, 65536).decode(errors="replace").replace("\r", "")
        shown, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return shown

    async def type(self, line: str, pattern: str) -> str:
        os.write(self.terminal, line.encode() + b"\n")
        return await self.until(pattern)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


@pytest.mark.peer("telnet")
async def test_a_whole_session_by_telnet(lab: Lab) -> None:
    relay = await started(lab)
    telnet = Telnet(relay.addresses["mx"])
    try:
        await telnet.until(r"^220 mail\.example\.org ESMTP smtproute$")
        helped = await telnet.type("HELP", r"^214 .*$")
        assert "MAIL" in helped and "EXPN" in helped
        assert "MAIL FROM:<" in await telnet.type("help mail", r"^214 .*$")
        assert "HELP" in await telnet.type("FROB friend", r"^500 5\.5\.2 .*$")
        await telnet.type("MAIL FROM:<me@else.example>", r"^503 5\.5\.1 .*EHLO.*$")
        await telnet.type("ehlo me", r"^250 .*$")
        assert "<" in await telnet.type("mail from: me@else.example", r"^501 5\.\d\.\d .*$")
        await telnet.type("mail from:<me@else.example>", r"^250 2\.1\.0 .*$")
        await telnet.type("rcpt to:<nobody@here.example>", r"^550 5\.1\.1 .*$")
        await telnet.type("rcpt to:<x@far.example>", r"^554 5\.7\.1 .*$")
        explained = await telnet.type("expn both@here.example", r"^250 .*$")
        assert re.search(r"^250-2\.1\.5 .*aliases:1 +both@here\.example: alias to", explained, re.MULTILINE)
        assert "-> mailbox both@here.example" in explained
        assert "me@far.example" in explained
        await telnet.type("rcpt to:<both@here.example>", r"^250 2\.1\.5 .*$")
        await telnet.type("data", r"^354 .*$")
        os.write(telnet.terminal, b"Subject: by hand\n\nHello\n")
        queued = await telnet.type(".", r"^250 2\.0\.0 Ok: queued as \w+$")
        message = queued.rsplit(" ", 1)[-1]
        await telnet.type("quit", r"^221 2\.0\.0 .*$")
    finally:
        telnet.close()
    await lab.journal.finished(message, 2)
    assert lab.mailbox("both@here.example")[0].endswith(b"Subject: by hand\n\nHello\n")


async def test_without_debug_vrfy_and_expn_tell_nothing(lab: Lab) -> None:
    relay = await started(lab)
    client = await Client.connect(relay.addresses["quiet"])
    await client.say("EHLO x")
    assert (await client.say("VRFY both@here.example")).startswith("252 2.")
    assert (await client.say("EXPN both@here.example")).startswith("502 5.5.1 ")


@pytest.mark.peer("nc")
async def test_netcat_without_crlf_is_told_what_to_do(lab: Lab) -> None:
    relay = await started(lab)
    host, port = relay.addresses["mx"]
    nc = await asyncio.create_subprocess_exec(
        "nc", "-q1", host, str(port), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(nc.communicate(b"EHLO me\nQUIT\n"), 20)
    assert b"end lines with CRLF: telnet does, nc needs -C" in out


@pytest.mark.peer("swaks")
async def test_swaks(lab: Lab) -> None:
    relay = await started(lab)
    host, port = relay.addresses["mx"]
    swaks = await asyncio.create_subprocess_exec(
        shutil.which("swaks") or "swaks",
        *(
            "--server",
            host,
            "--port",
            str(port),
            "--from",
            "me@else.example",
            "--to",
            "both@here.example",
            "--pipeline",
        ),
        stdout=subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(swaks.communicate(), 30)
    assert swaks.returncode == 0, out.decode()
    queued = re.search(r"queued as (\w+)", out.decode())
    assert queued is not None
    await lab.journal.finished(queued[1], 2)
    assert len(lab.mailbox("both@here.example")) == 1


RELAY_ATTEMPTS = [
    # nmap's smtp-open-relay, with here.example as the server's domain and relaytest.example as the tester's
    ("", "relaytest@relaytest.example"),
    ("antispam@relaytest.example", "relaytest@relaytest.example"),
    ("antispam@here.example", "relaytest@relaytest.example"),
    ("antispam@[127.0.0.1]", "relaytest@relaytest.example"),
    ("antispam@mail.example.org", "relaytest@relaytest.example"),
    ("antispam@[127.0.0.1]", "relaytest%relaytest.example@[127.0.0.1]"),
    ("antispam@[127.0.0.1]", "relaytest%relaytest.example@here.example"),
    ("antispam@[127.0.0.1]", '"relaytest@relaytest.example"'),
    ("antispam@[127.0.0.1]", '"relaytest%relaytest.example"'),
    ("antispam@[127.0.0.1]", "relaytest@relaytest.example@[127.0.0.1]"),
    ("antispam@[127.0.0.1]", '"relaytest@relaytest.example"@[127.0.0.1]'),
    ("antispam@[127.0.0.1]", "relaytest@relaytest.example@here.example"),
    ("antispam@[127.0.0.1]", "@[127.0.0.1]:relaytest@relaytest.example"),
    ("antispam@[127.0.0.1]", "@here.example:relaytest@relaytest.example"),
    ("antispam@[127.0.0.1]", "relaytest.example!relaytest"),
    ("antispam@[127.0.0.1]", "relaytest.example!relaytest@[127.0.0.1]"),
    ("antispam@[127.0.0.1]", "relaytest.example!relaytest@here.example"),
]


@pytest.mark.parametrize(("sender", "recipient"), RELAY_ATTEMPTS)
async def test_it_is_no_open_relay(lab: Lab, sender: str, recipient: str) -> None:
    relay = await started(lab)
    client = await Client.connect(relay.addresses["mx"])
    await client.say("EHLO x")
    assert (await client.say(f"MAIL FROM:<{sender}>")).startswith("250 ")
    assert (await client.say(f"RCPT TO:<{recipient}>"))[0] == "5"
