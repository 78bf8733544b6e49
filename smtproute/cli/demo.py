"""`smtproute demo`: the main job with nothing to set up, on real sockets.

One process holds a relay with a docker-mailserver folder, two upstream servers, and a name server that knows them.
The letters are signed, their domain publishes SPF and DMARC, and the relay says what it finds. The far end checks the
seals itself, with dkimpy.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smtproute.cli.configuration import OPTION

if TYPE_CHECKING:
    from smtproute.app import Relay
    from smtproute.mailauth.keys import SigningKey
    from smtproute.testing.relay import Journal
    from smtproute.testing.upstream import Received
    from smtproute.testing.zone import Zone

__all__ = ["command"]

SENDER = "friend@elsewhere.example"
_FOREVER = 1e9


@dataclass(frozen=True, slots=True)
class _Letter:
    recipient: str
    title: str


LETTERS = (
    _Letter("name@example.org", "one address that is a mailbox and a forwarding alias"),
    _Letter("sales@example.org", "a plain alias"),
    _Letter("anna@example.org", "a plain mailbox"),
    _Letter("root@git.example.org", "an address that is routed to an endpoint by host name"),
    _Letter("nobody@example.org", "an unknown address"),
)


def command(
    once: Annotated[bool, typer.Option("--once", help="End after the traces.")] = False,
    config: Annotated[str | None, OPTION] = None,
) -> None:
    """Send five messages through a relay with a docker-mailserver folder, and print what became of each."""
    import asyncio

    with tempfile.TemporaryDirectory(prefix="smtproute-demo-") as folder:
        asyncio.run(_demo(config or str(_example()), folder, once))


def _example() -> Path:
    """The demo's configuration: beside the package where it is installed, else in the source tree."""
    inside = Path(__file__).parent / "config" / "demo.toml"
    return inside if inside.exists() else Path(__file__).parents[2] / "config" / "demo.toml"


async def _demo(config: str, folder: str, once: bool) -> None:
    import asyncio

    from smtproute.app import Refused
    from smtproute.cli.configuration import refuse
    from smtproute.core.address import Domain
    from smtproute.core.settings import DomainKey
    from smtproute.mailauth.keys import KeyKind, generate, record
    from smtproute.mailauth.keys import load as load_key
    from smtproute.testing.relay import Journal, running
    from smtproute.testing.upstream import Upstream
    from smtproute.testing.zone import Zone

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    judged: list[str] = []
    journal = Journal()
    pem = Path(folder) / "friend.pem"
    pem.write_bytes(generate(KeyKind.ED25519))
    theirs = load_key(DomainKey(Domain.parse("elsewhere.example"), "friend", str(pem)))
    names = {
        "mx.external.example": {"A": ["127.0.0.1"]},
        "gitlab.internal": {"A": ["127.0.0.1"]},
        "elsewhere.example": {"TXT": ["v=spf1 ip4:127.0.0.1 -all"]},
        "friend._domainkey.elsewhere.example": {"TXT": [record(theirs)]},
        "_dmarc.elsewhere.example": {"TXT": ["v=DMARC1; p=reject"]},
    }
    async with AsyncExitStack() as stack:
        zone = await stack.enter_async_context(Zone(names))

        async def judge(received: Received) -> None:
            to = ", ".join(f"<{each}>" for each in received.recipients)
            judged.append(f"{_verified(received.content, zone)} for the copy to {to}")

        external = await stack.enter_async_context(Upstream(on_message=judge))
        gitlab = await stack.enter_async_context(Upstream(on_message=judge))
        environ = {
            **os.environ,
            "SMTPROUTE__STATE": folder,
            "SMTPROUTE__RESOLVER__SERVERS": f'["{zone.address}"]',
            "SMTPROUTE__ENDPOINT__EXTERNAL__SERVERS": f'["mx.external.example:{external.port}"]',
            "SMTPROUTE__ENDPOINT__GITLAB__SERVERS": f'["gitlab.internal:{gitlab.port}"]',
        }
        try:
            relay = await stack.enter_async_context(running(config, environ, emit=journal))
        except Refused as refused:
            refuse(str(refused))
        for key in relay.snapshot().settings.arc.keys.values():
            zone.set(f"{key.selector}._domainkey.{key.domain}", "TXT", [record(load_key(key))])
        for letter in LETTERS:
            await _send(letter, theirs, relay, journal)
            while judged:
                print(f"at the far end, checked by dkimpy: {judged.pop(0)}")
        host, port = next(iter(relay.addresses.values()))
        if not once:
            _invite(host, port, folder)
            async with asyncio.TaskGroup() as tasks:
                telling = tasks.create_task(_by_hand(relay, journal))
                await stop.wait()
                telling.cancel()


def _verified(content: bytes, zone: Zone) -> str:
    """What dkimpy, as the far end, says of the ARC chain, asking the same name server."""
    import dkim
    import dns.message
    import dns.rdatatype

    def txt(name: bytes, timeout: int = 5) -> bytes | None:
        answer = zone.answer(dns.message.make_query(name.decode(), dns.rdatatype.TXT))
        for rrset in answer.answer if answer is not None else ():
            for each in rrset:
                return b"".join(each.strings)
        return None

    try:
        cv, _, reason = dkim.arc_verify(content, dnsfunc=txt)
    except dkim.DKIMException as malformed:
        return f"arc=none ({malformed})"
    return f"arc={cv.decode()}" if cv else f"arc=none ({reason})"


async def _send(letter: _Letter, key: SigningKey, relay: Relay, journal: Journal) -> None:
    """Sends one letter by SMTP, signed by its author's domain, waits for what becomes of it, prints its trace."""
    from email.utils import formatdate

    from smtproute.core.address import Address
    from smtproute.core.settings import Authentication, EndpointTls, Server
    from smtproute.core.transcript import plain
    from smtproute.mailauth.sign import sign
    from smtproute.smtp.client import Connection, Mail
    from smtproute.trace.text import render, transcript
    from smtproute.world import World

    world = World()
    host, port = next(iter(relay.addresses.values()))
    content = (
        f"From: A friend <{SENDER}>\r\nTo: {letter.recipient}\r\nSubject: Hello {letter.recipient}\r\n"
        f"Date: {formatdate(world.clock.now())}\r\nMessage-ID: <{world.token()}@elsewhere.example>\r\n\r\n"
        f"This is a letter to {letter.title}.\r\n"
    ).encode()
    content = sign(content, [key], int(world.clock.now()), Authentication()) + content
    connection = await Connection.open(
        Server(host, port), host, tls=EndpointTls.NEVER, context=None, helo="elsewhere.example", world=world
    )
    mail = Mail(Address.parse(SENDER), (Address.parse(letter.recipient),))
    dialogue = await connection.send(mail, content)
    await connection.quit()
    print(f"\n== {letter.title}: {letter.recipient}\n")
    answer = dialogue.answers[0]
    reply = answer.reply
    if reply is None or not reply.positive:
        print("refused while the client listened:")
        print("\n".join(f"  {line}" for line in transcript(plain(dialogue.transcript))))
        return
    message = reply.text.rsplit(" ", 1)[-1]
    entries = await relay.spool.entries(message)
    await journal.finished(message, len(entries))
    print("\n".join(render([event for _, event in await relay.spool.events(message)])))


async def _by_hand(relay: Relay, journal: Journal) -> None:
    """Prints the journey of whatever is sent from now on."""
    from smtproute.core.event import Happening
    from smtproute.trace.text import render

    for number in itertools.count(len(journal.of(Happening.RECEIVED)) + 1):
        message = (await journal.seen(Happening.RECEIVED, times=number, seconds=_FOREVER))[-1].message
        await journal.finished(message, len(await relay.spool.entries(message)))
        print("\n" + "\n".join(render([event for _, event in await relay.spool.events(message)])), flush=True)


def _invite(host: str, port: int, folder: str) -> None:
    print(
        f"\nThe relay stays up. By hand:\n\n  telnet {host} {port}\n\n"
        "then type HELP, or: EHLO me, EXPN name@example.org, MAIL FROM:<me@elsewhere.example>,"
        " RCPT TO:<name@example.org>, DATA.\n"
        "The journey of what you send is printed here.\n"
        f"Its mailboxes are under {folder}/mail. Control-C ends it.",
        flush=True,
    )
    sys.stdout.flush()
