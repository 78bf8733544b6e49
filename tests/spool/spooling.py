"""What the spool's tests make mail of."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from smtproute.core.address import Address
from smtproute.core.envelope import Client, Envelope
from smtproute.core.event import Emit, Event, Happening
from smtproute.core.outcome import Outcome, Result
from smtproute.core.plan import Delivery
from smtproute.core.reply import Refusal, Reply
from smtproute.core.settings import Kind, Role
from smtproute.spool.operator import OperatorSpool
from smtproute.spool.queue import Accepted, Entry, Message, Settlement, Staged
from smtproute.spool.sqlite import SqliteSpool
from smtproute.world import World

NOW = 1_700_000_000.0
SENDER = Address.parse("Sender+tag@Example.org")
CLIENT = Client("192.0.2.1", 40000, "mx", Role.INBOUND, False, "mail.example.org", True, "TLSv1.3 X")


class Clock:
    """Stands still until a test turns it."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


def ignore(event: Event) -> None:
    pass


@asynccontextmanager
async def opened(
    folder: Path, *, clock: Clock | None = None, emit: Emit = ignore, max_size: int = 10**9
) -> AsyncIterator[SqliteSpool]:
    spool = await SqliteSpool.open(str(folder), World(clock or Clock()), emit, max_size=max_size)
    try:
        yield spool
    finally:
        await spool.close()


@asynccontextmanager
async def beside(folder: Path, emit: Emit = ignore) -> AsyncIterator[OperatorSpool]:
    spool = await SqliteSpool.beside(str(folder), World(Clock()), emit)
    try:
        yield spool
    finally:
        await spool.close()


def octets(message_id: str, size: int) -> bytes:
    """A content that is the same each time for this id, and no other id's."""
    line = f"{message_id}: \x00\xff line\r\n".encode("latin-1")
    return (line * (size // len(line) + 1))[:size]


def deliveries(count: int) -> list[Delivery]:
    return [
        Delivery(Kind.ENDPOINT, Address.parse(f"r{n}@git.example.org"), Address.parse("alias@example.org"), "gitlab")
        for n in range(count)
    ]


def mail(
    message_id: str, content: bytes | Staged = b"", *, size: int | None = None, count: int = 1, at: float = NOW
) -> Accepted:
    """A message with `count` deliveries and an event of each kind that an accept has."""
    if isinstance(content, bytes):
        content = content or octets(message_id, 500)
        size = len(content)
    assert size is not None
    message = Message(message_id, at, Envelope(CLIENT, SENDER, size), size, b"Received: by us\r\n", ((3, 9),))
    events = [Event(Happening.RECEIVED, at, message_id, None, {"size": size})]
    events += [Event(Happening.PLANNED, at, message_id, n, {"rule": "route[0]"}) for n in range(count)]
    return Accepted(message, content, deliveries(count), events)


def held(accepted: Accepted) -> Accepted:
    """The same, its deliveries held by their route."""
    return replace(accepted, deliveries=[replace(each, held=True) for each in accepted.deliveries])


def refusal(code: int) -> Refusal:
    return Refusal(Reply(code, f"{code // 100}.0.0", "said"), "gitlab.internal", "detail")


def delivered(entry: Entry, *, captured: bool = False) -> Settlement:
    return Settlement(entry.message.id, entry.number, Outcome(Result.DELIVERED, refusal(250)), entry.due_at, captured)


def deferred(entry: Entry, retry_at: float) -> Settlement:
    return Settlement(entry.message.id, entry.number, Outcome(Result.DEFERRED, refusal(451), retry_at), entry.due_at)


def failed(entry: Entry) -> Settlement:
    return Settlement(entry.message.id, entry.number, Outcome(Result.FAILED, refusal(550)), entry.due_at)


def told(what: Happening, entry: Entry, at: float = NOW) -> Event:
    return Event(what, at, entry.message.id, entry.number, {"server": "gitlab.internal"})


async def claim(spool: SqliteSpool, now: float = NOW, limit: int = 100) -> Sequence[Entry]:
    entries, _ = await spool.claim(now, limit)
    return entries


def keys(entries: Sequence[Entry]) -> list[tuple[str, int]]:
    return [(entry.message.id, entry.number) for entry in entries]


async def happened(spool: SqliteSpool | OperatorSpool, message_id: str) -> list[Happening]:
    return [event.what for _, event in await spool.events(message_id)]


def bodies(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "bodies"))
