"""Reading: what anybody may ask of a spool, the relay or an operator. One thread, with a connection of its own."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from smtproute.core.event import Emit, Event, Happening
from smtproute.spool import tables
from smtproute.spool.bodies import Bodies
from smtproute.spool.queue import Entry, Page, SpoolFailed
from smtproute.spool.schema import Body
from smtproute.spool.tables import Found
from smtproute.spool.writer import failure
from smtproute.world import World

__all__ = ["BODIES", "DATABASE", "Reading"]

DATABASE = "spool.db"
BODIES = "bodies"

T = TypeVar("T")


class Reading:
    """`content`, `read`, `entries` and `events` of a Spool. Each is one short transaction."""

    def __init__(
        self, folder: Path, world: World, emit: Emit, connection: sqlite3.Connection, thread: ThreadPoolExecutor
    ) -> None:
        """Owns the connection and the thread from now on. `emit` is told of rows that cannot be read."""
        self._folder = folder
        self._world = world
        self._emit = emit
        self._connection = connection
        self._thread = thread
        self._bodies = Bodies(folder / BODIES)

    async def content(self, message_id: str) -> bytes:
        """The message as it was received. Raises SpoolFailed."""
        return await self._ask(partial(_content, message_id=message_id, bodies=self._bodies))

    async def read(self, cursor: str = "", limit: int = 100, unfinished: bool = True, captured: bool = False) -> Page:
        """One page of deliveries: the unfinished, the captured whose message is kept, both, or (neither) all.

        Raises SpoolFailed, ValueError for a cursor that did not come from here.
        """
        found, next_page = await self._ask(
            partial(tables.page, cursor=cursor, limit=limit, unfinished=unfinished, captured=captured)
        )
        return Page(tuple(self._readable(found)), next_page)

    async def entries(self, message_id: str) -> Sequence[Entry]:
        """All deliveries of one message; empty when it is unknown. Raises SpoolFailed."""
        return self._readable(await self._ask(partial(tables.entries, message_id=message_id)))

    async def events(self, message_id: str, after: int = 0) -> Sequence[tuple[int, Event]]:
        """The events of one message in order, each with its number, after number `after`. Raises SpoolFailed."""
        events, corrupt = await self._ask(partial(tables.events, message_id=message_id, after=after))
        for why in corrupt:
            self._warn(message_id, None, f"an event cannot be read: {why}")
        return events

    async def close(self) -> None:
        """Waits for what was asked, and gives connection and thread back."""
        await self._ask(sqlite3.Connection.close)
        self._thread.shutdown()

    async def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Raises SpoolFailed."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, question, self._connection)
        except (sqlite3.Error, OSError) as error:
            raise failure(error) from error

    def _readable(self, found: Found) -> list[Entry]:
        for message, number, why in found.corrupt:
            self._warn(message, number, f"a delivery cannot be read: {why}")
        return found.entries

    def _warn(self, message: str, delivery: int | None, what: str) -> None:
        self._emit(Event(Happening.WARNING, self._world.clock.now(), message, delivery, {"what": f"spool: {what}"}))


def _content(connection: sqlite3.Connection, message_id: str, bodies: Bodies) -> bytes:
    body, size, octets = tables.content(connection, message_id)
    if body is Body.FILE:
        octets = bodies.read(message_id)
    if len(octets) != size:
        raise SpoolFailed(f"the content of {message_id} has {len(octets)} octets, and should have {size}")
    return octets
