"""`kill -9` between every pair of steps: no 250 without the message on disk, nothing lost after a 250.

A child process goes through all the verbs. Each file call and each statement of SQLite is a step; in run n the child
kills itself before step n, for n = 1, 2, 3 ... until a run comes to its end. What the child was told is in a pipe.
Then the parent opens what is left, and looks.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spooling import (
    NOW,
    Clock,
    bodies,
    claim,
    deferred,
    delivered,
    failed,
    happened,
    held,
    mail,
    octets,
    opened,
    told,
)

from smtproute.core.event import Happening
from smtproute.core.settings import Trace
from smtproute.spool.queue import Change, SpoolFailed, State
from smtproute.spool.sqlite import SqliteSpool

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""A kill leaves what was written, synced or not; a disk that need not sync makes hundreds of runs quick."""
LARGE = 1_300_000
SIZES = {
    "small": 500,
    "large": LARGE,
    "one": 500,
    "two": 300_000,
    "three": 500,
    "bounce": 700,
    "late": 500,
    "kept": 500,
}
COUNTS = dict.fromkeys(SIZES, 1) | {"small": 2}
LATER = NOW + 10 * 86400


class Steps:
    """Counts the steps of this process, and kills it before step number `last`."""

    def __init__(self, last: int) -> None:
        self._left = last

    def step(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Makes a step of every call that changes something on disk, and of every statement."""
        for name in "open", "write", "fsync", "rename", "unlink", "mkdir", "close":
            setattr(os, name, self._stepping(getattr(os, name)))
        steps = self

        class Connection(sqlite3.Connection):
            def execute(self, *args: Any) -> sqlite3.Cursor:
                steps.step()
                return super().execute(*args)

            def executemany(self, *args: Any) -> sqlite3.Cursor:
                steps.step()
                return super().executemany(*args)

        connect = sqlite3.connect
        sqlite3.connect = lambda *args, **kwargs: connect(*args, **kwargs, factory=Connection)  # type: ignore[assignment, misc]

    def _stepping(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*args: Any, **kwargs: Any) -> Any:
            self.step()
            return call(*args, **kwargs)

        return stepping


async def every_verb(folder: Path, report: Callable[[str], None]) -> None:
    """What the child does. It reports what a verb has promised, once the verb has returned."""
    clock = Clock()
    async with opened(folder, clock=clock) as spool:
        await spool.accept(mail("small", octets("small", SIZES["small"]), count=2))
        report("accepted small")

        body = spool.stage("large")
        content = octets("large", LARGE)
        await body.write(content[:1_100_000])
        await body.write(content[1_100_000:])
        await spool.accept(mail("large", body, size=LARGE))
        report("accepted large")

        async def accept(name: str) -> None:
            await spool.accept(mail(name, octets(name, SIZES[name])))
            report(f"accepted {name}")

        await asyncio.gather(accept("one"), accept("two"), accept("three"))

        entries = {(entry.message.id, entry.number): entry for entry in await claim(spool)}
        first, second, large = entries["small", 0], entries["small", 1], entries["large", 0]
        await spool.settle([delivered(first)], [told(Happening.DELIVERED, first)])
        report("delivered small")
        await spool.settle([deferred(second, NOW + 60)], [told(Happening.DEFERRED, second)])
        report("deferred small")
        bounce = mail("bounce", octets("bounce", SIZES["bounce"]))
        await spool.settle([failed(large)], [told(Happening.FAILED, large)], [bounce])
        report("failed large")
        await spool.change(Change.HOLD, ["one"], NOW)
        report("held one")
        await spool.change(Change.REMOVE, ["two"], NOW)
        report("removed two")
        report("sweeping")
        await spool.sweep(LATER, Trace(content=86400, events=20 * 86400))
        report("swept")
        await spool.sweep(LATER, Trace(content=86400, events=2 * 86400))
        report("forgotten")
        await accept("late")
        await spool.accept(held(mail("kept", octets("kept", SIZES["kept"]))))
        report("accepted kept")


def run_child(folder: Path, last: int) -> tuple[set[str], bool]:
    """What the child was told, and whether it came to its end."""
    reading, writing = os.pipe()
    write = os.write
    child = os.fork()
    if child == 0:
        status = 1
        try:
            steps = Steps(last)
            steps.watch()

            def report(line: str) -> None:
                steps.step()
                write(writing, f"{line}\n".encode())

            asyncio.run(every_verb(folder, report))
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        promised = set(pipe.read().splitlines())
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), f"the child failed: {status}"
    return promised, status == 0


async def look(folder: Path, promised: set[str]) -> None:
    """Everything that was promised is there, nothing is there by half."""
    async with opened(folder) as spool:
        present: dict[str, list[State]] = {}
        for entry in (await spool.read("", 100, False)).entries:
            present.setdefault(entry.message.id, []).append(entry.state)
        swept = {"large", "two"} if "sweeping" in promised else set()
        for name, size in SIZES.items():
            if f"accepted {name}" in promised and name not in swept:
                assert name in present, "acknowledged, and lost"
            if name not in present:
                assert await happened(spool, name) == [], "events of a message that is not there"
                continue
            assert len(present[name]) == COUNTS[name], "a message by half"
            assert (await happened(spool, name))[: 1 + COUNTS[name]] == ["received", *["planned"] * COUNTS[name]]
            if await there(spool, name):
                assert await spool.content(name) == octets(name, size), "not the octets that came"
            else:
                assert name in swept, "its content is gone"
        assert bodies(folder) == [name for name in ("large", "two") if await there(spool, name)]

        await settled(spool, promised, present)
        claimed = {(entry.message.id, entry.number) for entry in await claim(spool, LATER)}
        assert claimed == {
            (name, number)
            for name, states in present.items()
            for number, state in enumerate(states)
            if state is State.QUEUED
        }


async def there(spool: SqliteSpool, name: str) -> bool:
    """Whether its content is kept; where it is not, the spool must know that."""
    try:
        return bool(await spool.content(name))
    except SpoolFailed as gone:
        assert "not kept any more" in str(gone) or "there is no message" in str(gone), str(gone)
        return False


async def settled(spool: SqliteSpool, promised: set[str], present: dict[str, list[State]]) -> None:
    """What a verb has promised is so, and what it changes together has changed together."""
    for name, number, done, undone, what, promise in (
        ("small", 0, State.DELIVERED, State.QUEUED, Happening.DELIVERED, "delivered small"),
        ("large", 0, State.FAILED, State.QUEUED, Happening.FAILED, "failed large"),
        ("one", 0, State.HELD, State.QUEUED, Happening.HELD, "held one"),
        ("two", 0, State.REMOVED, State.QUEUED, Happening.REMOVED, "removed two"),
    ):
        if name in present:
            state = present[name][number]
            assert state in (done, undone)
            assert (state is done) == (what in await happened(spool, name)), "a change without its event"
            assert state is done or promise not in promised, "promised, and not so"
    if "small" in present:
        second = (await spool.entries("small"))[1]
        assert second.state is State.QUEUED
        assert (second.due_at, second.attempts) in ((NOW, 0), (NOW + 60, 1))
        assert second.attempts == 1 or "deferred small" not in promised
    if "large" in present:
        assert (present["large"] == [State.FAILED]) == ("bounce" in present), "a bounce without its cause"
    assert present.get("kept", [State.HELD]) == [State.HELD]
    if "swept" in promised:
        assert not await there(spool, "large")
    if "forgotten" in promised:
        assert not {"large", "two"} & set(present)


def test_killed_before_every_step() -> None:
    complete = False
    last = 0
    promises = set()
    while not complete:
        last += 1
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            promised, complete = run_child(Path(folder), last)
            promises.add(frozenset(promised))
            try:
                asyncio.run(look(Path(folder), promised))
            except AssertionError as wrong:
                raise AssertionError(f"killed before step {last}, promised {sorted(promised)}") from wrong
    assert last > 100
    assert len(promises) > 10


def test_killed_under_load() -> None:
    """Fifty callers; the parent kills at some acknowledgement, whatever goes on then."""
    for after in (1, 60, 230):
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            acknowledged = run_load(Path(folder), after)
            assert len(acknowledged) >= after
            asyncio.run(look_at_load(Path(folder), acknowledged))


def run_load(folder: Path, after: int) -> set[str]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(load(folder, lambda line: os.write(writing, f"{line}\n".encode())))
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        acknowledged = {pipe.readline().strip() for _ in range(after)}
        os.kill(child, signal.SIGKILL)
        acknowledged |= set(pipe.read().split("\n")[:-1])
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    return acknowledged


async def load(folder: Path, report: Callable[[str], object]) -> None:
    async with opened(folder) as spool:

        async def caller(name: int) -> None:
            for n in range(1000):
                message = f"{name:02}x{n:04}"
                await spool.accept(mail(message, octets(message, 300_000 if n % 10 == 9 else 700)))
                report(message)

        await asyncio.gather(*(caller(n) for n in range(50)))


async def look_at_load(folder: Path, acknowledged: set[str]) -> None:
    async with opened(folder) as spool:
        found = await claim(spool, limit=100_000)
        there = {entry.message.id for entry in found}
        assert acknowledged <= there
        large = [entry.message.id for entry in found if entry.message.size == 300_000]
        assert bodies(folder) == sorted(large)
        for entry in found:
            content = await spool.content(entry.message.id)
            assert content == octets(entry.message.id, entry.message.size)
