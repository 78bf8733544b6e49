"""A lab: a folder, a name server, upstreams, and relays with a configuration written in the test."""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import ClassVar

import dns.message
import dns.rdatatype
import pytest

from smtproute.app import Relay
from smtproute.core.address import Address, Domain
from smtproute.core.event import Event, Happening
from smtproute.core.settings import DomainKey, EndpointTls, Server
from smtproute.mailauth.keys import KeyKind, generate, record
from smtproute.mailauth.keys import load as load_key
from smtproute.smtp.client import Connection, Dialogue, Mail
from smtproute.smtp.opening import TIMEOUTS, Timeouts
from smtproute.testing.clock import TurnedClock
from smtproute.testing.relay import Journal, running
from smtproute.testing.upstream import Rule, Upstream
from smtproute.testing.zone import Zone
from smtproute.world import World

LETTER = (
    b"From: Friend <friend@else.example>\r\nTo: name@example.org\r\nSubject: Hello\r\n"
    b"Date: Sun, 22 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@else.example>\r\n\r\nHello.\r\n"
)
SENDER = "friend@else.example"
ENDED = (Happening.DELIVERED, Happening.DEFERRED, Happening.FAILED)
"""How an attempt at a delivery ends."""
DMS = """
    [docker_mailserver]
    config = "dms"
    [listener.mx]
    bind = "127.0.0.1:0"
    role = "inbound"
    [endpoint.far]
    servers = ["mx.far.example:{port}"]
    [[route]]
    match = "*@far.example"
    endpoint = "far"
"""
"""An inbound relay with a docker-mailserver folder, and an upstream for far.example at {port}."""


class Client:
    """A line-by-line client, for what happens between two commands. The lab closes it."""

    opened: ClassVar[list[Client]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, address: tuple[str, int], **options) -> Client:
        client = cls(*await asyncio.open_connection(*address, **options))
        cls.opened.append(client)
        assert (await client.reply()).startswith("220 ")
        return client

    async def reply(self) -> str:
        lines = []
        while True:
            line = (await asyncio.wait_for(self.reader.readline(), 20)).decode()
            lines.append(line.rstrip("\r\n"))
            if line[3:4] != "-":
                return "\n".join(lines)

    async def say(self, line: str) -> str:
        self.writer.write(line.encode() + b"\r\n")
        return await self.reply()

    async def letter(self, recipient: str) -> str:
        assert (await self.say("EHLO client.example")).startswith("250")
        for line in ("MAIL FROM:<friend@else.example>", f"RCPT TO:<{recipient}>"):
            assert (await self.say(line)).startswith("250 ")
        assert (await self.say("DATA")).startswith("354 ")
        self.writer.write(LETTER + b".\r\n")
        return await self.reply()


class Lab:
    """What a test needs around a relay; everything ends with the test."""

    def __init__(self, folder: Path, stack: AsyncExitStack, zone: Zone) -> None:
        self.folder = folder
        self.stack = stack
        self.zone = zone
        self.journal = Journal()
        self.world: World = World()
        self.timeouts: Timeouts = TIMEOUTS
        """How long the relays wait for upstreams."""
        self.name_server = zone.address
        """Whom the relays ask."""
        self.resolver = ""
        """Further lines of the configuration's [resolver]."""

    def turned(self) -> TurnedClock:
        """The clock of the relays that start after this: it stands until the test turns it."""
        clock = TurnedClock(1_800_000_000.0)
        self.world = World(clock=clock)
        return clock

    async def upstream(self, host: str, script: Sequence[Rule] = (), *, ip: str = "127.0.0.1", **options) -> Upstream:
        """An upstream server that `host` resolves to."""
        made = await self.stack.enter_async_context(Upstream(script, host=ip, **options))
        self.zone.set(host, "AAAA" if ":" in ip else "A", [ip])
        return made

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def config(self, text: str) -> Path:
        """Writes the configuration: the test's part, with a state folder and the name server."""
        head = f'state = "{self.folder}/state"\nhostname = "mail.example.org"\n'
        tail = f'\n[resolver]\nservers = ["{self.name_server}"]\n{textwrap.dedent(self.resolver)}'
        return self.write("smtproute.toml", head + textwrap.dedent(text) + tail)

    def key(self, domain: str = "example.org", selector: str = "mail", kind: KeyKind = KeyKind.RSA) -> str:
        """A signing key in the lab's folder and in its DNS; returns the file's name."""
        file = self.folder / f"{selector}-{domain}.pem"
        file.write_bytes(generate(kind))
        file.chmod(0o600)
        loaded = load_key(DomainKey(Domain.parse(domain), selector, str(file)))
        self.zone.set(f"{selector}._domainkey.{domain}", "TXT", [record(loaded)])
        return file.name

    @asynccontextmanager
    async def relay(self, file: Path) -> AsyncIterator[Relay]:
        async with running(str(file), {}, emit=self.journal, world=self.world, timeouts=self.timeouts) as relay:
            yield relay

    async def started(self, text: str) -> Relay:
        """A relay with this configuration, until the test ends."""
        return await self.stack.enter_async_context(self.relay(self.config(text)))

    async def application(self, *servers: str, keys: str = "", more: str = "") -> Relay:
        """A relay for an application: all to an endpoint of these servers, bounces for the sender captured.

        `keys`: further lines of the endpoint.
        """
        text = f"""
            default = {{ endpoint = "far" }}
            [listener.app]
            bind = "127.0.0.1:0"
            [endpoint.far]
            servers = {json.dumps(servers)}
            {keys}
            [[route]]
            match = "*@else.example"
            mode = "capture"
        """
        return await self.started(textwrap.dedent(text) + textwrap.dedent(more))

    async def send(
        self,
        relay: Relay,
        *recipients: str,
        content: bytes = LETTER,
        sender: str | None = SENDER,
        listener: str | None = None,
    ) -> Dialogue:
        """One transaction by our own client."""
        host, port = relay.addresses[listener or next(iter(relay.addresses))]
        connection = await Connection.open(
            Server(host, port), host, tls=EndpointTls.NEVER, context=None, helo="client.example", world=World()
        )
        mail = Mail(Address.parse(sender) if sender else None, tuple(Address.parse(each) for each in recipients))
        dialogue = await connection.send(mail, content)
        await connection.quit()
        return dialogue

    async def accepted(self, relay: Relay, *recipients: str, **options) -> str:
        """Sends, and returns the queue id."""
        dialogue = await self.send(relay, *recipients, **options)
        reply = dialogue.answers[0].reply
        assert reply is not None and reply.code == 250, dialogue.transcript
        return reply.text.rsplit(" ", 1)[-1]

    async def delivered(self, relay: Relay, *recipients: str, **options) -> str:
        """Sends, waits until nothing more is to be done, and returns the queue id."""
        message = await self.accepted(relay, *recipients, **options)
        await self.journal.finished(message, len(await relay.spool.entries(message)))
        return message

    async def ended(self, message: str, deliveries: int = 1) -> list[Event]:
        """How the first attempts at so many deliveries of a message ended, once they have."""

        def found() -> list[Event]:
            return [each for each in self.journal.events if each.message == message and each.what in ENDED]

        await self.journal.until(lambda: len(found()) >= deliveries)
        return found()[:deliveries]

    async def deferred(self, relay: Relay, *recipients: str, **options) -> Event:
        """Sends, and waits until one delivery of it is put off; the event that says so."""
        message = await self.accepted(relay, *recipients, **options)
        return (await self.journal.seen(Happening.DEFERRED, message))[0]

    async def trace(self, relay: Relay, message: str) -> list[Event]:
        return [event for _, event in await relay.spool.events(message)]

    def mailbox(self, address: str) -> list[bytes]:
        """The messages in a mailbox, as they stand on disk, oldest first."""
        local, domain = address.split("@")
        folder = self.folder / "state" / "mail" / domain / local / "new"
        return [file.read_bytes() for file in sorted(folder.glob("*"))]

    def txt(self, name: bytes, timeout: int = 5) -> bytes | None:
        """A look-up for dkimpy, in the lab's zone."""
        answer = self.zone.answer(dns.message.make_query(name.decode(), dns.rdatatype.TXT))
        return next((b"".join(each.strings) for rrset in answer.answer for each in rrset), None) if answer else None


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with asyncio.timeout(60), AsyncExitStack() as stack:
        zone = await stack.enter_async_context(Zone({}))
        yield Lab(tmp_path, stack, zone)
        # A relay that stops waits for open transactions: nobody is left who would end them.
        while Client.opened:
            Client.opened.pop().writer.close()
