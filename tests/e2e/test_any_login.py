"""`auth = "any"` from the login to the next hop: mail goes as if nobody had logged in, and who did is in the trace."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode

import pytest

from smtproute.core.event import Happening
from smtproute.core.message import fields
from smtproute.trace.text import render
from tests.e2e.conftest import LETTER, Client, Lab
from tests.e2e.test_cli import run
from tests.e2e.test_signing import signers
from tests.e2e.test_submission import kept

PASSWORD = "s3cr3t w0rd"
CONFIG = """
    default = {{ endpoint = "far" }}
    [docker_mailserver]
    config = "dms"
    env = "mailserver.env"
    [listener.app]
    bind = "127.0.0.1:0"
    auth = "any"
    [listener.submission]
    bind = "127.0.0.1:0"
    role = "submission"
    auth = "any"
    [endpoint.far]
    servers = ["mx.far.example:{port}"]
    [[dkim.keys."example.org"]]
    selector = "rsa"
    file = "{key}"
"""


def login(name: str) -> str:
    return "AUTH PLAIN " + b64encode(f"\0{name}\0{PASSWORD}".encode()).decode()


async def sent(lab: Lab, address: tuple[str, int], *auth: str) -> str:
    """One transaction as the boss, whoever has logged in; the queue id, once it has been delivered."""
    client = await Client.connect(address)
    for line in ("EHLO app.example", *auth, "MAIL FROM:<boss@example.org>", "RCPT TO:<you@far.example>"):
        assert (await client.say(line)).startswith("2"), line
    assert (await client.say("DATA")).startswith("354 ")
    client.writer.write(LETTER.replace(b"friend@else.example", b"boss@example.org") + b".\r\n")
    message = (await client.reply()).rsplit(" ", 1)[-1]
    await lab.journal.finished(message, 1)
    return message


@pytest.mark.parametrize("name", ["name@example.org", "apikey"])
@pytest.mark.parametrize("listener", ["app", "submission"])
async def test_a_login_that_proves_nothing_changes_nothing(lab: Lab, listener: str, name: str) -> None:
    """An account's login would be refused the boss's address (SPOOF_PROTECTION)."""
    lab.write("dms/postfix-accounts.cf", "name@example.org|{PLAIN}other\nboss@example.org|{PLAIN}other\n")
    lab.write("mailserver.env", "SPOOF_PROTECTION=1\n")
    far = await lab.upstream("mx.far.example")
    relay = await lab.started(CONFIG.format(port=far.port, key=lab.key("example.org", "rsa")))
    without = await sent(lab, relay.addresses["app"])
    noted = await sent(lab, relay.addresses[listener], login(name))
    for received in far.received:
        assert await signers(lab, received.content) == ["example.org rsa"], "as a trusted client's"
        (trace,) = [each for each in fields(received.content) if each.name == b"received"]
        assert b" with ESMTP id " in trace.value(received.content), "it vouches for nobody"
        assert received.reverse_path == "boss@example.org"
    assert [fact.facts["named"] for fact in lab.journal.of(Happening.RECEIVED)] == [None, name]
    assert [fact.facts["login"] for fact in lab.journal.of(Happening.RECEIVED)] == ["", ""]
    (entry,) = await relay.spool.entries(noted)
    assert entry.message.envelope.client.named == name
    shown = "\n".join(render(await lab.trace(relay, noted)))
    assert f'logged in as {name} (auth = "any")' in shown and "AUTH PLAIN [credentials]" in shown
    assert "logged in" not in "\n".join(render(await lab.trace(relay, without)))
    for secret in (PASSWORD, login(name).split()[2]):
        assert secret.encode() not in kept(lab)


async def test_explain_takes_any_login_too(lab: Lab) -> None:
    lab.write("dms/postfix-accounts.cf", "boss@example.org|{PLAIN}other\n")
    lab.write("mailserver.env", "SPOOF_PROTECTION=1\n")
    await lab.upstream("mx.far.example")
    file = lab.config(CONFIG.format(port=25, key=lab.key("example.org", "rsa")))

    async def explained(*options: str) -> dict:
        command = ("explain", "you@far.example", "--json", "-c", str(file), "--from", "boss@example.org", *options)
        done = await asyncio.to_thread(run, *command)  # the name server is in this thread
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    assert (await explained("--listener", "submission"))["reply"]["code"] == 530
    (copy,) = (await explained("--auth", "apikey"))["deliveries"]
    assert copy["endpoint"] == "far"
    refused = await explained("--auth", "apikey", "--client-ip", "192.0.2.1")
    assert refused["reply"]["code"] == 554
