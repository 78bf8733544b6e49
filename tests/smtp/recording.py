"""A Door that keeps what it is asked, a listener before it, and a client that speaks in octets."""

from __future__ import annotations

import asyncio
import inspect
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

import pytest
import uvloop

from smtproute.core.address import Address
from smtproute.core.envelope import Client, Envelope
from smtproute.core.event import Event, Happening
from smtproute.core.login import Login
from smtproute.core.permit import LOOPBACK
from smtproute.core.reply import Reply
from smtproute.core.settings import Limits
from smtproute.core.settings import Listener as Settings
from smtproute.core.transcript import Line
from smtproute.smtp.listener import Listener
from smtproute.smtp.wire import Replies
from smtproute.world import World

LOCAL = tuple(ip_network(network) for network in LOOPBACK)


@dataclass
class Taken:
    envelope: Envelope
    recipients: list[Address | None]
    content: bytes
    transcript: Sequence[Line]


@dataclass
class House:
    """What the Doors of all sessions share: what came, and what is to be answered."""

    taken: list[Taken] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    replies: dict[str, Reply | Exception] = field(default_factory=dict)
    """By verb or by recipient."""
    early: bool = False
    """DATA is answered without reading the content."""
    reading: asyncio.Event = field(default_factory=asyncio.Event)
    """DATA was heard."""
    holding: asyncio.Event = field(default_factory=asyncio.Event)
    """The content was read to its end."""
    gate: asyncio.Event | None = None
    """DATA is answered when it is set."""
    committed: asyncio.Event = field(default_factory=asyncio.Event)
    passwords: dict[str, bytes] = field(default_factory=dict)
    """By name: who may log in."""
    logins: list[tuple[str, bytes]] = field(default_factory=list)
    """Who tried to."""
    checking: asyncio.Event | None = None
    """A login is answered when it is set."""
    hurried: asyncio.Event = field(default_factory=asyncio.Event)
    """The session has said that nobody waits."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def door(self, listener: Settings) -> RecordingDoor:
        return RecordingDoor(self)

    def said(self, what: Happening) -> list[Event]:
        return [event for event in self.events if event.what is what]

    def answer(self, key: str, otherwise: Reply) -> Reply:
        reply = self.replies.get(key, otherwise)
        if isinstance(reply, Exception):
            raise reply
        return reply


class RecordingDoor:
    def __init__(self, house: House) -> None:
        self.house = house
        self.envelope: Envelope | None = None
        self.recipients: list[Address | None] = []

    async def connect(self, client: Client) -> Reply:
        self.house.clients.append(client)
        return self.house.answer("connect", Reply(220, "", "mx.example ESMTP"))

    async def login(self, client: Client, name: str, password: bytes) -> Login | Reply:
        house = self.house
        house.logins.append((name, password))
        if house.checking is not None:
            await house.checking.wait()
        refusal = house.answer("login", Reply(535, "5.7.8", "Authentication failed"))
        if house.passwords.get(name) != password:
            return refusal
        address = Address.parse(name)
        return Login(address, address, "", "accounts:1")

    async def mail(self, envelope: Envelope) -> Reply:
        self.house.calls.append(f"mail {envelope.reverse_path}")
        reply = self.house.answer("mail", Reply(250, "2.1.0", "Sender ok"))
        self.envelope, self.recipients = envelope, []
        return reply

    async def rcpt(self, recipient: Address | None) -> Reply:
        self.house.calls.append(f"rcpt {recipient}")
        reply = self.house.answer(f"rcpt {recipient}", Reply(250, "2.1.5", "Recipient ok"))
        if reply.positive:
            self.recipients.append(recipient)
        return reply

    async def data(self, content: AsyncIterator[bytes], transcript: Callable[[], Sequence[Line]]) -> Reply:
        house = self.house
        house.reading.set()
        assert self.envelope is not None
        if house.early:
            return house.answer("data", Reply(452, "4.3.1", "No room"))
        octets = b"".join([chunk async for chunk in content])
        house.holding.set()
        reply = house.answer("data", Reply(250, "2.0.0", "Ok: queued as T1"))
        if house.gate is not None:
            await house.gate.wait()
        house.taken.append(Taken(self.envelope, self.recipients, octets, transcript()))
        house.committed.set()
        return reply

    def reset(self) -> None:
        self.house.calls.append("reset")
        self.house.gone.set()
        self.envelope, self.recipients = None, []
        self.house.answer("reset", Reply(250, "", ""))

    def hurry(self) -> None:
        self.house.hurried.set()

    async def explain(self, client: Client, address: Address) -> Reply:
        return self.house.answer("explain", Reply(250, "2.1.5", f"{address}\nis explained"))


@asynccontextmanager
async def listening(
    house: House, settings: Settings | None = None, limits: Limits | None = None
) -> AsyncIterator[Listener]:
    settings = settings or Settings("test", port=0, trusted_networks=LOCAL)
    async with Listener(
        settings, limits or Limits(), "mx.example", house.door, World(), house.events.append
    ) as listener:
        yield listener


class Peer:
    """A client that sends octets as they are and reads whole replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.replies = Replies()

    async def send(self, octets: bytes) -> None:
        self.writer.write(octets)
        await self.writer.drain()

    async def reply(self) -> Reply:
        while (reply := self.replies.next()) is None:
            octets = await self.reader.read(65536)
            if not octets:
                raise EOFError("the server closed the connection")
            self.replies.feed(octets)
        return reply

    async def say(self, *commands: str | bytes) -> Reply:
        """Sends the lines one after the other and gives the reply to the last one."""
        for command in commands:
            await self.send((command.encode() if isinstance(command, str) else command) + b"\r\n")
            reply = await self.reply()
        return reply

    async def rest(self) -> list[Reply]:
        """All replies until the server closes."""
        found = []
        try:
            while True:
                found.append(await self.reply())
        except EOFError:
            return found

    def half_close(self) -> None:
        self.writer.write_eof()


@asynccontextmanager
async def connected(listener: Listener, context: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    """A client that has not read the greeting."""
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(
            *listener.address, ssl=context, server_hostname="localhost" if context else None
        )
        try:
            yield Peer(reader, writer)
        finally:
            writer.transport.abort()


@asynccontextmanager
async def greeted(listener: Listener, context: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    """A client that has said EHLO."""
    async with connected(listener, context) as peer:
        assert (await peer.reply()).code == 220
        assert (await peer.say("EHLO client.example")).code == 250
        yield peer


def codes(replies: Sequence[Reply]) -> list[int]:
    return [reply.code for reply in replies]


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs an asynchronous test on asyncio's loop and on uvloop."""

    def run(new_loop: Callable[[], asyncio.AbstractEventLoop], **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(test(**fixtures))

    signature = inspect.signature(test)
    own = inspect.Parameter("new_loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__name__, run.__doc__ = test.__name__, test.__doc__
    run.__signature__ = signature.replace(parameters=[own, *signature.parameters.values()], return_annotation=None)  # type: ignore[attr-defined]
    run.__module__ = test.__module__
    run.pytestmark = list(getattr(test, "pytestmark", []))  # type: ignore[attr-defined]
    marked = pytest.mark.parametrize(
        "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
    )
    return marked(run)
