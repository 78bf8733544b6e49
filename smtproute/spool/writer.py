"""Writer: the one thread that writes. What many callers want at the same time becomes one transaction, and one fsync.

A job that fails inside the transaction must not fail its companions: the transaction is rolled back, and each job
runs again on its own. A commit that fails fails them all, and nothing of it is kept.

Work on body files is done between two transactions, one step at a time, so that commits wait for one step at most.
"""

from __future__ import annotations

import asyncio
import errno
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from smtproute.spool import tables
from smtproute.spool.queue import SpoolFailed, SpoolFull
from smtproute.spool.tables import Rows

__all__ = ["Job", "Writer", "failure"]

_BATCH = 256
"""Jobs in one transaction."""
_BATCH_OCTETS = 4 << 20
"""Octets of content in one transaction."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FAULTS = (sqlite3.Error, OSError, SpoolFailed, OverflowError, UnicodeError)
"""What a job may meet: the last two where SQLite cannot hold a value."""

T = TypeVar("T")


def failure(error: Exception) -> SpoolFailed:
    """What SQLite or the file system says, as the spool says it."""
    if isinstance(error, SpoolFailed):
        return error
    full = (
        error.errno in _NO_ROOM
        if isinstance(error, OSError)
        else getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    )
    return (SpoolFull if full else SpoolFailed)(f"{type(error).__name__}: {error}")


@dataclass(slots=True, eq=False)
class Job(Generic[T]):
    """What one caller wants done; any part may be missing. All but `done` runs in the writer's thread."""

    step: Callable[[], T] | None = None
    """On its own, before the transaction: work on files."""
    rows: Rows | None = None
    """Written together with the rows of others."""
    bounded: bool = False
    """Whether `max_size` applies to the rows."""
    work: Callable[[sqlite3.Connection], T] | None = None
    """In the transaction."""
    recount: bool = False
    """Whether `work` may change how much mail is unfinished."""
    undo: Callable[[], None] | None = None
    """Takes `step` back where what followed it failed. Raises OSError."""
    done: Callable[[SpoolFailed | None], None] | None = None
    """In the event loop, before the caller wakes; also where the caller was cancelled meanwhile."""
    future: asyncio.Future[Any] = field(init=False)
    result: T | None = field(default=None, init=False)
    error: SpoolFailed | None = field(default=None, init=False)


class Writer:
    """Owns the connection that it is given, and its thread, until it is closed."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        unfinished: int,
        max_size: int,
        reserve: int,
        free: Callable[[], int],
    ) -> None:
        """`unfinished`: octets of unfinished mail now; `max_size`: beyond which nothing more is accepted.

        Nothing is accepted either while `free()` is below `reserve` octets, so that settling finds room.
        """
        self._connection = connection
        self._unfinished = unfinished
        self._max_size = max_size
        self._reserve = reserve
        self._free = free
        self._seen = -1
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._steps: deque[Job[Any]] = deque()
        self._commits: deque[Job[Any]] = deque()
        self._running: list[Job[Any]] = []
        self._closed = False
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether it takes no more jobs: it was closed, or its thread has died."""
        return self._closed

    def submit(self, job: Job[T]) -> asyncio.Future[T]:
        """Puts it in the queue. The future ends after the commit; it raises SpoolFailed, SpoolFull.

        Cancelling the future takes nothing back.
        """
        job.future = self._loop.create_future()
        if self._closed:
            job.error = SpoolFailed("the spool is closed")
            self._complete([job])
        else:
            self._queue.put(job)
        return job.future

    async def changed_elsewhere(self) -> bool:
        """Whether another process has committed since this was asked last. Raises SpoolFailed."""
        return await self.submit(Job(step=self._look_elsewhere))

    async def close(self) -> None:
        """Does what is in the queue, then ends the thread and closes the connection."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await self._ended.wait()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._seen = self._data_version()
            while self._gather():
                if self._commits:
                    self._commit()
                if self._steps:
                    self._step(self._steps.popleft())
        finally:
            try:
                self._connection.close()
            finally:
                self._tell(self._end)

    def _gather(self) -> bool:
        """Sorts the queue into what commits and what steps; waits where there is neither. False at the end."""
        try:
            while True:
                job = self._queue.get(block=not self._commits and not self._steps)
                if job is None:
                    # Nothing comes after it. Put back, it is found again when all before it is done.
                    self._queue.put(None)
                    return bool(self._commits or self._steps)
                (self._commits if job.step is None else self._steps).append(job)
        except Empty:
            return True

    def _step(self, job: Job[Any]) -> None:
        self._running = [job]
        assert job.step is not None
        try:
            job.result = job.step()
        except _FAULTS as error:
            job.error = failure(error)
        if job.error is None and (job.rows is not None or job.work is not None):
            self._commits.append(job)
        else:
            self._tell(self._complete, [job])

    def _commit(self) -> None:
        jobs: list[Job[Any]] = []
        octets = 0
        while self._commits and len(jobs) < _BATCH and octets < _BATCH_OCTETS:
            job = self._commits.popleft()
            jobs.append(job)
            octets += job.rows.octets if job.rows is not None else 0
        self._running = jobs
        self._transact(jobs)
        for job in jobs:
            if job.error is not None and job.undo is not None:
                try:
                    job.undo()
                except OSError:
                    pass  # It goes at the next start, as every file without a row.
        self._tell(self._complete, jobs)

    def _transact(self, jobs: list[Job[Any]]) -> None:
        """One transaction; where it cannot be written, one for each job."""
        jobs = self._admitted(jobs)
        if not jobs:
            return
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                unfinished = self._write(jobs)
            except _FAULTS as error:
                self._roll_back()
                if len(jobs) == 1:
                    jobs[0].error = failure(error)
                else:
                    for job in jobs:
                        self._transact([job])
                return
            self._connection.execute("COMMIT")
            self._unfinished = unfinished
        except sqlite3.Error as error:
            self._roll_back()
            for job in jobs:
                job.error = failure(error)

    def _admitted(self, jobs: list[Job[Any]]) -> list[Job[Any]]:
        admitted = []
        unfinished = self._unfinished
        short = self._short() if any(job.bounded for job in jobs) else ""
        for job in jobs:
            more = job.rows.unfinished if job.rows is not None else 0
            if job.bounded and unfinished + more > self._max_size:
                job.error = SpoolFull(f"{unfinished} octets of unfinished mail, {self._max_size} are allowed")
            elif job.bounded and short:
                job.error = SpoolFull(short)
            else:
                unfinished += more
                admitted.append(job)
        return admitted

    def _short(self) -> str:
        """Why there is too little room on the disk; nothing where there is enough."""
        if not self._reserve:
            return ""
        try:
            free = self._free()
        except OSError as error:
            return f"how much room the disk has cannot be told: {error}"
        if free >= self._reserve:
            return ""
        return f"{free} octets are free on the disk, {self._reserve} are kept for what is in the queue"

    def _write(self, jobs: list[Job[Any]]) -> int:
        """Everything that they want; how many octets of mail are unfinished then."""
        rows = Rows()
        for job in jobs:
            if job.rows is not None:
                rows.add(job.rows)
        unfinished = self._unfinished + tables.write(self._connection, rows)
        for job in jobs:
            if job.work is not None:
                job.result = job.work(self._connection)
        if any(job.recount for job in jobs):
            unfinished = tables.unfinished_octets(self._connection)
        return unfinished

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _look_elsewhere(self) -> bool:
        seen, self._seen = self._seen, self._data_version()
        if seen == self._seen:
            return False
        self._unfinished = tables.unfinished_octets(self._connection)
        return True

    def _data_version(self) -> int:
        """It moves with the commits of other connections only."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def _tell(self, callback: Callable[..., None], *values: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *values)
        except RuntimeError:
            pass  # The loop is closed: nobody is left who waits.

    def _complete(self, jobs: list[Job[Any]]) -> None:
        for job in jobs:
            if job.done is not None:
                job.done(job.error)
            if job.future.done():
                continue
            if job.error is None:
                job.future.set_result(job.result)
            else:
                job.future.set_exception(job.error)

    def _end(self) -> None:
        """Fails what is left, where the thread died of an error of ours."""
        self._closed = True
        left = dict.fromkeys(job for job in (*self._running, *self._commits, *self._steps) if not job.future.done())
        while not self._queue.empty():
            job = self._queue.get()
            if job is not None:
                left[job] = None
        for job in left:
            job.error = SpoolFailed("the spool's writer has died")
        self._complete(list(left))
        self._ended.set()
