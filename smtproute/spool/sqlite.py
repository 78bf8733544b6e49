"""SqliteSpool: the relay's spool."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import math
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from smtproute.core.event import Emit, Event
from smtproute.core.settings import Trace
from smtproute.spool import schema, tables
from smtproute.spool.bodies import Bodies, StagedBody, free_octets, sync_folder
from smtproute.spool.claims import READY, Claims, Key
from smtproute.spool.operator import OperatorSpool
from smtproute.spool.queue import (
    LARGEST_ROW,
    Accepted,
    Change,
    Changed,
    Entry,
    Settlement,
    SpoolBusy,
    SpoolFailed,
    SpoolVersion,
    State,
)
from smtproute.spool.reading import BODIES, DATABASE, Reading
from smtproute.spool.schema import Body, KeptFor
from smtproute.spool.tables import Dropped, Rows
from smtproute.spool.writer import Job, Writer, failure
from smtproute.world import World

__all__ = ["SqliteSpool"]

_POLL = 0.2
"""Seconds between two looks for commits of other processes."""
_CACHE = 32 << 20
"""Octets of the contents of recent small messages that are kept in memory."""
_SLICE = 100
"""Messages that retention lets go of in one transaction."""
_LOCK_TRIES, _LOCK_PAUSE = 10, 0.05
"""An operator who asks whether a relay runs holds the lock for a moment; a relay holds it for good."""
_LOOK = READY // 2
"""Deliveries that one look at the database brings, if so many are due."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Opened:
    """A folder that is locked, cleaned and of this version."""

    lock: int
    writing: sqlite3.Connection
    reading: sqlite3.Connection
    next_number: int
    unfinished: int


def _unheard(event: Event) -> None:
    """Where nobody wants to hear."""


class SqliteSpool(Reading):
    """A `Spool` in a folder of its own: see `open`. `watch` is to run as a task of the relay's."""

    def __init__(
        self,
        folder: Path,
        world: World,
        emit: Emit,
        opened: _Opened,
        thread: ThreadPoolExecutor,
        max_size: int,
        reserve: int,
    ) -> None:
        super().__init__(folder, world, emit, opened.reading, thread)
        self._lock = opened.lock
        self._writer = Writer(opened.writing, opened.unfinished, max_size, reserve, partial(free_octets, folder))
        self._numbers = itertools.count(opened.next_number)
        self._claims = Claims()
        self._looking = asyncio.Lock()
        self._news = asyncio.Event()
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._recent_octets = 0

    @classmethod
    async def open(cls, folder: str, world: World, emit: Emit, *, max_size: int, reserve: int = 0) -> SqliteSpool:
        """The relay's: makes the folder where there is none, locks it, removes what a crash left behind.

        `max_size`: octets of unfinished mail beyond which `accept` raises SpoolFull, as it does while fewer than
        `reserve` octets are free on the disk: what was accepted can then still be settled. `emit` is told of rows that
        cannot be read. Raises SpoolBusy where another relay has the folder, SpoolVersion, SpoolFailed.
        """
        path = Path(folder)
        thread, opened = await _in_thread(partial(_open, path), f"{path}")
        return cls(path, world, emit, opened, thread, max_size, reserve)

    @staticmethod
    async def beside(folder: str, world: World, emit: Emit = _unheard) -> OperatorSpool:
        """An operator's: opens what is there, whether a relay runs on it or not. It takes no lock.

        `emit` is told of rows that cannot be read. Raises SpoolVersion, and SpoolFailed, also where there is no spool
        yet.
        """
        path = Path(folder)
        thread, connection = await _in_thread(partial(_open_beside, path), f"{path}")
        return OperatorSpool(path, world, emit, connection, thread)

    def stage(self, message_id: str) -> StagedBody:
        """Begins a body that is too large for a row."""
        return StagedBody(self._bodies, message_id, lambda step: self._writer.submit(Job(step=step)))

    async def accept(self, accepted: Accepted) -> None:
        """On return the message is durable; cancelled meanwhile, it may be. See `Spool.accept`."""
        body = self._body(accepted)
        rows = Rows()
        entries = self._arriving(accepted, body, rows)
        job = Job[None](rows=rows, bounded=True, done=partial(self._arrived, [(accepted, entries)]))
        if body is not None:
            body.hand_over()
            job.step, job.undo = body.finish, body.take_back
        self._claims.accepting(entries)
        await self._writer.submit(job)

    async def claim(
        self, now: float, limit: int, without: frozenset[str] = frozenset()
    ) -> tuple[Sequence[Entry], float | None]:
        """See `Spool.claim`. What was accepted a moment ago comes from memory, all else from the database."""
        claims = self._claims
        async with self._looking:
            claims.leave_out(without)
            while claims.ready < limit and claims.next_due <= now:
                await self._look(now, without, max(limit - claims.ready, _LOOK))
            entries = claims.take(limit)
        next_due = now if claims.ready else claims.next_due
        return entries, None if next_due == math.inf else next_due

    async def still(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """See `Spool.still`. The database is asked only where a change was noticed since they were claimed."""
        if not self._claims.doubtful(entries):
            return entries
        doubts = self._claims.doubts
        queued: set[Key] = set()
        for message_id in dict.fromkeys(entry.message.id for entry in entries):
            queued |= {
                (message_id, entry.number) for entry in await self.entries(message_id) if entry.state is State.QUEUED
            }
        kept = [entry for entry in entries if (entry.message.id, entry.number) in queued]
        lost = [entry for entry in entries if (entry.message.id, entry.number) not in queued]
        self._claims.looked_over(kept, lost, doubts)
        if lost:
            self._news.set()
        return kept

    @property
    def doubts(self) -> int:
        """See `Spool.doubts`."""
        return self._claims.doubts

    async def wait(self) -> None:
        """Until there may be something new to claim. For one task."""
        await self._news.wait()
        self._news.clear()

    async def watch(self) -> None:
        """Notices what other processes change, until cancelled. Raises SpoolFailed when the spool has died."""
        while True:
            # Not the world's clock: the other process is not in its time.
            await asyncio.sleep(_POLL)
            try:
                changed = await self._writer.changed_elsewhere()
            except SpoolFailed:
                if self._writer.closed:
                    raise
                continue  # Whoever accepts or settles meets the same fault, and reports it.
            if changed:
                self._claims.doubt()
                self._news.set()

    async def content(self, message_id: str) -> bytes:
        """The message as it was received. Raises SpoolFailed."""
        recent = self._recent.get(message_id)
        if recent is not None:
            self._recent.move_to_end(message_id)
            return recent
        content = await super().content(message_id)
        self._remember(message_id, content)
        return content

    async def settle(
        self, settlements: Sequence[Settlement], events: Sequence[Event], bounces: Sequence[Accepted] = ()
    ) -> None:
        """See `Spool.settle`. A bounce's content is octets; it goes into a row, and `max_size` does not keep it out."""
        rows = Rows(settled_at=self._world.clock.now())
        for settlement in settlements:
            rows.settle(settlement)
        for event in events:
            rows.event(event)
        arriving = [(accepted, self._arriving(accepted, None, rows)) for accepted in bounces]
        for _, entries in arriving:
            self._claims.accepting(entries)
        await self._writer.submit(Job(rows=rows, done=partial(self._settled, settlements, arriving)))

    async def change(self, change: Change, messages: Sequence[str] | None, at: float) -> Sequence[Changed]:
        """See `Spool.change`."""
        work = partial(tables.change, change=change, messages=messages, at=at)
        changed = await self._writer.submit(Job(work=work, recount=True, done=self._changed))
        return [
            Changed(message, number, before, after, self._claims.claimed((message, number)))
            for message, number, before, after, _ in changed
        ]

    async def sweep(self, now: float, trace: Trace) -> None:
        """Lets go of what has been kept long enough, in slices between the commits of others; unfinished mail never.

        Where the spool fails, it warns and stops: the next sweep goes on.
        """
        drops: tuple[Callable[[sqlite3.Connection], Dropped], ...] = (
            partial(tables.drop_content, kept_for=KeptFor.CONTENT, before=now - trace.content, limit=_SLICE),
            partial(tables.drop_content, kept_for=KeptFor.CAPTURE, before=now - trace.captured, limit=_SLICE),
            partial(tables.drop_excess_captures, keep=trace.captures, limit=_SLICE),
            partial(tables.drop_messages, before=now - trace.events, limit=_SLICE),
        )
        try:
            for drop in drops:
                while await self._drop(drop) == _SLICE:
                    pass
        except SpoolFailed as failed:
            self._warn("", None, f"retention has to wait: {failed}")

    async def close(self) -> None:
        """Commits what was asked for, and gives the folder free."""
        try:
            await super().close()
        finally:
            await self._writer.close()
            os.close(self._lock)

    def _body(self, accepted: Accepted) -> StagedBody | None:
        """The file that the content is in, or is to go to in one step; None for a row."""
        content = accepted.content
        if isinstance(content, bytes):
            if len(content) <= LARGEST_ROW:
                return None
            body = self.stage(accepted.message.id)
            body.fill(content)
            return body
        if not isinstance(content, StagedBody):
            raise TypeError(f"the content of {accepted.message.id} was not staged by this spool")
        return content

    def _arriving(self, accepted: Accepted, body: StagedBody | None, rows: Rows) -> list[Entry]:
        """Puts the message into `rows`; its deliveries as they will be claimed, without those that are held."""
        message = accepted.message
        number = next(self._numbers)
        if body is not None:
            size = body.size
        elif isinstance(accepted.content, bytes):
            size = len(accepted.content)
            rows.contents.append((number, accepted.content))
        else:
            raise TypeError(f"the content of {message.id} is staged, and should be octets")
        if size != message.size:
            raise ValueError(f"{message.id} has {size} octets, not {message.size}")
        rows.message(number, message, Body.ROW if body is None else Body.FILE, len(accepted.deliveries))
        entries = [
            Entry(message, each, delivery, State.HELD if delivery.held else State.QUEUED, 0, message.received_at)
            for each, delivery in enumerate(accepted.deliveries)
        ]
        for entry in entries:
            rows.delivery(entry)
        for event in accepted.events:
            rows.event(event)
        return [entry for entry in entries if entry.state is State.QUEUED]

    def _arrived(self, arriving: Sequence[tuple[Accepted, list[Entry]]], error: SpoolFailed | None) -> None:
        for accepted, entries in arriving:
            if error is not None:
                self._claims.refused(entries)
                continue
            self._claims.accepted(entries, self._world.clock.now())
            if isinstance(accepted.content, bytes):
                self._remember(accepted.message.id, accepted.content)
            self._news.set()

    def _settled(
        self,
        settlements: Sequence[Settlement],
        arriving: Sequence[tuple[Accepted, list[Entry]]],
        error: SpoolFailed | None,
    ) -> None:
        if error is None:
            for settlement in settlements:
                retry_at = settlement.outcome.retry_at
                self._claims.settled((settlement.message, settlement.number), retry_at)
                if retry_at is not None:
                    self._news.set()
        self._arrived(arriving, error)

    def _changed(self, error: SpoolFailed | None) -> None:
        if error is None:
            self._claims.doubt()
            self._news.set()

    async def _look(self, now: float, without: frozenset[str], limit: int) -> None:
        taken = self._claims.look()
        try:
            due = await self._ask(partial(tables.due, now=now, taken=taken, without=without, limit=limit))
        except BaseException:
            self._claims.missed()
            raise
        entries = self._readable(due.found)
        self._claims.found(entries, [(message, number) for message, number, _ in due.found.corrupt], due.next_due)

    async def _drop(self, drop: Callable[[sqlite3.Connection], Dropped]) -> int:
        dropped = await self._writer.submit(Job(work=drop))
        for message_id in dropped.messages:
            self._recent_octets -= len(self._recent.pop(message_id, b""))
        for message_id in dropped.files:
            await self._writer.submit(Job(step=partial(self._bodies.remove, message_id)))
        return len(dropped.messages)

    def _remember(self, message_id: str, content: bytes) -> None:
        if len(content) > LARGEST_ROW or message_id in self._recent:
            return
        self._recent[message_id] = content
        self._recent_octets += len(content)
        while self._recent_octets > _CACHE:
            _, oldest = self._recent.popitem(last=False)
            self._recent_octets -= len(oldest)


async def _in_thread(opening: Callable[[], T], what: str) -> tuple[ThreadPoolExecutor, T]:
    """The thread that reads from now on, and what was opened in it. Raises SpoolFailed."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="spool-reader")
    try:
        return thread, await asyncio.get_running_loop().run_in_executor(thread, opening)
    except (sqlite3.Error, OSError, SpoolFailed) as error:
        thread.shutdown()
        failed = failure(error)
        raise type(failed)(f"{what}: {failed}") from error


def _open(folder: Path) -> _Opened:
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        sync_folder(folder.parent)
    elif folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(lock)
        return _ours(folder, lock)
    except BaseException:
        os.close(lock)
        raise


def _lock(descriptor: int) -> None:
    pause = threading.Event()
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pause.wait(_LOCK_PAUSE)
    raise SpoolBusy("another relay has this spool")


def _ours(folder: Path, lock: int) -> _Opened:
    database, bodies = folder / DATABASE, folder / BODIES
    os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    bodies.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder)
    writing = schema.connect(database)
    try:
        schema.migrate(writing)
        Bodies(bodies).remove_strays(partial(tables.wants_body, writing))
        reading = schema.connect(database, query_only=True)
        return _Opened(lock, writing, reading, tables.next_number(writing), tables.unfinished_octets(writing))
    except BaseException:
        writing.close()
        raise


def _open_beside(folder: Path) -> sqlite3.Connection:
    database = folder / DATABASE
    if not database.is_file():
        raise SpoolFailed("there is no spool here yet")
    connection = schema.connect(database)
    try:
        found = schema.version(connection)
        if found == 0:
            raise SpoolFailed("there is no spool here yet")
        if found != len(schema.MIGRATIONS):
            raise SpoolVersion(
                f"the spool is of version {found}, and this program is for version {len(schema.MIGRATIONS)}:"
                " use the same program as the relay"
            )
    except BaseException:
        connection.close()
        raise
    return connection
