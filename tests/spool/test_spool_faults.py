"""What the disk, SQLite and damaged rows can do to it."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from spooling import (
    NOW,
    beside,
    bodies,
    claim,
    deferred,
    delivered,
    happened,
    keys,
    mail,
    octets,
    opened,
    told,
)

from smtproute.core.event import Event, Happening
from smtproute.core.settings import Trace
from smtproute.spool import schema
from smtproute.spool.queue import Change, SpoolFailed, SpoolFull, State
from smtproute.spool.sqlite import SqliteSpool
from smtproute.world import World

MB = 1 << 20


class Connection(sqlite3.Connection):
    """A connection whose statements a test can make fail."""

    before: Callable[[str], None] = staticmethod(lambda statement: None)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        Connection.before(statement)
        return super().execute(statement, *values)


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Connection]]:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: connect(*args, **kwargs, factory=Connection))
    yield Connection
    Connection.before = staticmethod(lambda statement: None)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk may be mounted here: {mounted.stderr.decode()}")
    yield tmp_path / "spool"
    subprocess.run(["umount", str(tmp_path)], check=True)


def fail(what: str, times: int, error: Exception) -> Callable[[str], None]:
    """Raises at the next statements that begin so."""
    left = times

    def before(statement: str) -> None:
        nonlocal left
        if statement.startswith(what) and left:
            left -= 1
            raise error

    return before


# Group commit


async def test_callers_at_the_same_time_share_a_commit(tmp_path: Path, statements: type[Connection]) -> None:
    async with opened(tmp_path) as spool:
        commits = []
        statements.before = staticmethod(lambda statement: commits.append(statement) if statement == "COMMIT" else None)
        await asyncio.gather(*(spool.accept(mail(f"M{n:02}")) for n in range(100)))
        assert 1 <= len(commits) < 10
        assert len(await claim(spool)) == 100


async def test_a_commit_that_takes_its_time_holds_up_nobody_else(tmp_path: Path, statements: type[Connection]) -> None:
    go_on = threading.Event()
    waiting = threading.Event()

    def before(statement: str) -> None:
        if statement == "COMMIT" and threading.current_thread().name == "spool-writer":
            waiting.set()
            go_on.wait()

    async with opened(tmp_path) as spool:
        await spool.accept(mail("A"))
        assert keys(await claim(spool)) == [("A", 0)]
        statements.before = staticmethod(before)
        accepting = asyncio.ensure_future(spool.accept(mail("B")))
        await asyncio.to_thread(waiting.wait)
        assert keys(await spool.entries("A")) == [("A", 0)]
        assert await spool.entries("B") == []
        assert await claim(spool) == []
        assert not accepting.done()
        go_on.set()
        await accepting
        assert keys(await claim(spool)) == [("B", 0)]


async def test_everything_is_synced_in_order_before_it_is_acknowledged(
    tmp_path: Path, statements: type[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill does not show what was not synced, so the calls themselves are looked at."""
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def fsyncing(descriptor: int) -> None:
        fsync(descriptor)
        done.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync body")

    def renaming(*args: Any, **kwargs: Any) -> None:
        rename(*args, **kwargs)
        done.append("rename")

    def before(statement: str) -> None:
        if threading.current_thread().name == "spool-writer":
            done.append(statement.split()[0])

    async with opened(tmp_path) as spool:
        monkeypatch.setattr(os, "fsync", fsyncing)
        monkeypatch.setattr(os, "rename", renaming)
        body = spool.stage("A")
        await body.write(b"x" * MB)
        await body.write(b"x")
        done.clear()
        statements.before = staticmethod(before)
        await spool.accept(mail("A", body, size=MB + 1))
        done.append("250")
        assert done == ["sync body", "rename", "sync folder", "BEGIN", *["INSERT"] * 3, "COMMIT", "250"]
    with closing(sqlite3.connect(tmp_path / "spool.db")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with closing(schema.connect(tmp_path / "spool.db")) as database:
        assert database.execute("PRAGMA synchronous").fetchone() == (2,)


async def test_a_statement_that_fails_in_a_batch_is_run_again_one_by_one(
    tmp_path: Path, statements: type[Connection]
) -> None:
    async with opened(tmp_path) as spool:
        statements.before = staticmethod(fail("INSERT INTO delivery", 2, sqlite3.OperationalError("disk I/O error")))
        came = await asyncio.gather(
            *(spool.accept(mail(f"M{n}", octets(f"M{n}", 300_000 if n == 3 else 500))) for n in range(6)),
            spool.change(Change.HOLD, None, NOW),
            return_exceptions=True,
        )
        lost = [n for n, error in enumerate(came) if isinstance(error, SpoolFailed)]
        assert len(lost) == 1
        assert "disk I/O error" in str(came[lost[0]])
        there = [entry.message.id for entry in (await spool.read()).entries]
        assert sorted(there) == [f"M{n}" for n in range(6) if n not in lost]
        assert bodies(tmp_path) == ["M3"]


@pytest.mark.parametrize("what", ["BEGIN", "COMMIT"])
async def test_a_commit_that_fails_fails_all_and_keeps_nothing(
    tmp_path: Path, statements: type[Connection], what: str
) -> None:
    async with opened(tmp_path) as spool:
        await spool.accept(mail("A"))
        [entry] = await claim(spool)
        statements.before = staticmethod(fail(what, 9, sqlite3.OperationalError("disk I/O error")))
        verbs = [
            spool.accept(mail("B")),
            spool.accept(mail("C", octets("C", MB))),
            spool.settle([delivered(entry)], [told(Happening.DELIVERED, entry)], [mail("D")]),
            spool.change(Change.HOLD, None, NOW),
        ]
        came = await asyncio.gather(*verbs, return_exceptions=True)
        assert [type(each) for each in came] == [SpoolFailed] * 4
        statements.before = staticmethod(lambda statement: None)
        assert [(e.message.id, e.state) for e in (await spool.read("", 10, False)).entries] == [("A", State.QUEUED)]
        assert await happened(spool, "A") == ["received", "planned"]
        assert bodies(tmp_path) == []
        assert await claim(spool) == []
        await spool.settle([deferred(entry, NOW)], [])
        await spool.accept(mail("B"))
        assert keys(await claim(spool)) == [("A", 0), ("B", 0)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_an_error_of_ours_in_the_writer_leaves_nobody_waiting(
    tmp_path: Path, statements: type[Connection]
) -> None:
    async with opened(tmp_path) as spool, asyncio.timeout(10):
        watching = asyncio.ensure_future(spool.watch())
        statements.before = staticmethod(fail("COMMIT", 1, RuntimeError("ours")))
        verbs = [
            spool.accept(mail("A")),
            spool.accept(mail("B", octets("B", MB))),
            spool.change(Change.HOLD, None, NOW),
        ]
        came = await asyncio.gather(*verbs, return_exceptions=True)
        assert [type(each) for each in came] == [SpoolFailed] * 3
        with pytest.raises(SpoolFailed):
            await watching
        with pytest.raises(SpoolFailed):
            await spool.accept(mail("C"))
    async with opened(tmp_path) as spool:
        assert await claim(spool) == []
        assert bodies(tmp_path) == []


async def test_a_claim_that_fails_loses_nothing(tmp_path: Path, statements: type[Connection]) -> None:
    async with opened(tmp_path) as spool:
        await spool.accept(mail("A"))
    async with opened(tmp_path) as spool:
        statements.before = staticmethod(fail("SELECT CAST", 1, sqlite3.OperationalError("disk I/O error")))
        with pytest.raises(SpoolFailed):
            await claim(spool)
        assert keys(await claim(spool)) == [("A", 0)]


async def test_retention_that_fails_warns_and_goes_on_next_time(tmp_path: Path, statements: type[Connection]) -> None:
    warnings: list[Event] = []
    async with opened(tmp_path, emit=warnings.append) as spool:
        await spool.accept(mail("A"))
        await spool.settle([delivered(entry) for entry in await claim(spool)], [])
        statements.before = staticmethod(fail("BEGIN", 1, sqlite3.OperationalError("disk I/O error")))
        await spool.sweep(NOW + 1e9, Trace())
        assert [(event.what, "disk I/O error" in event.facts["what"]) for event in warnings] == [("warning", True)]
        await spool.sweep(NOW + 1e9, Trace())
        assert await spool.entries("A") == []


# A full disk


async def test_a_full_disk_refuses_and_keeps_what_it_has(small_disk: Path) -> None:
    async with opened(small_disk) as spool:
        accepted = []
        with pytest.raises(SpoolFull):
            for n in range(100):
                await spool.accept(mail(f"M{n:02}", octets(f"M{n:02}", 50_000)))
                accepted.append(f"M{n:02}")
        assert len(accepted) > 5
        body = spool.stage("big")
        with pytest.raises(SpoolFull):
            await body.write(b"x" * 3 * MB)
        with pytest.raises(SpoolFailed):
            await body.write(b"x" * 3 * MB)
        await body.discard()
        with pytest.raises(SpoolFull):
            await spool.accept(mail("whole", octets("whole", 3 * MB)))
        assert bodies(small_disk) == []
        entries = await claim(spool)
        assert keys(entries) == [(name, 0) for name in accepted]
        for name in accepted:
            assert await spool.content(name) == octets(name, 50_000)
    async with opened(small_disk) as spool:
        assert keys(await claim(spool)) == [(name, 0) for name in accepted]
        for name in accepted:
            assert await spool.content(name) == octets(name, 50_000)


async def test_a_full_database_takes_mail_again_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def limited(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.execute("PRAGMA max_page_count = 100")
        return connection

    monkeypatch.setattr(sqlite3, "connect", limited)
    async with opened(tmp_path) as spool:
        given = [mail(f"M{n:02}", octets(f"M{n:02}", 20_000)) for n in range(30)]
        came = await asyncio.gather(*(spool.accept(each) for each in given), return_exceptions=True)
        kinds = {type(each) for each in came}
        assert kinds == {type(None), SpoolFull}
        accepted = [given[n].message.id for n, each in enumerate(came) if each is None]
        entries = await claim(spool)
        assert sorted(keys(entries)) == [(name, 0) for name in accepted]
        with pytest.raises(SpoolFull):
            await spool.accept(mail("Y", octets("Y", 20_000)))
        for entry in entries:
            await spool.settle([delivered(entry)], [])
        await spool.sweep(NOW + 2 * 86400, Trace())
        await spool.accept(mail("Z", octets("Z", 20_000)))
        assert keys(await claim(spool)) == [("Z", 0)]


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "open"])
@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, SpoolFull), (errno.EIO, SpoolFailed)])
async def test_a_body_that_cannot_be_kept_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, error: type[SpoolFailed]
) -> None:
    """Every file call of a large body's accept in turn, the folder's sync included."""
    real = getattr(os, call)
    async with opened(tmp_path) as spool:
        for at in range(1, 10):
            calls = 0

            def failing(*args: Any, at: int = at, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == at:
                    raise OSError(number, os.strerror(number))
                return real(*args, **kwargs)

            with monkeypatch.context() as patch:
                patch.setattr(os, call, failing)
                try:
                    await spool.accept(mail("A", octets("A", MB)))
                    break
                except SpoolFailed as failed:
                    assert type(failed) is error
            assert bodies(tmp_path) == []
            assert await spool.entries("A") == []
        assert at > 1
        assert await spool.content("A") == octets("A", MB)
        await spool.accept(mail("B"))
        assert keys(await claim(spool)) == [("A", 0), ("B", 0)]


# Damaged rows


DAMAGE = [
    "UPDATE delivery SET plan = 'x' WHERE message = 'B'",
    "UPDATE delivery SET plan = '{}' WHERE message = 'B'",
    "UPDATE delivery SET plan = '[]' WHERE message = 'B'",
    """UPDATE delivery SET plan = '{"kind": "teleport", "address": ["a", "b"]}' WHERE message = 'B'""",
    """UPDATE delivery SET plan = '{"kind": "mailbox", "address": ["a"]}' WHERE message = 'B'""",
    """UPDATE delivery SET plan = '{"kind": "mailbox", "address": ["a", 1]}' WHERE message = 'B'""",
    "UPDATE delivery SET plan = CAST(x'7b22ff' AS TEXT) WHERE message = 'B'",
    "UPDATE delivery SET plan = x'00' WHERE message = 'B'",
    "UPDATE delivery SET due_at = 'soon' WHERE message = 'B'",
    "UPDATE delivery SET attempts = 'some' WHERE message = 'B'",
    "UPDATE message SET head = '{' WHERE id = 'B'",
    """UPDATE message SET head = '{"client": 5}' WHERE id = 'B'""",
    """UPDATE message SET head = '{"client": {"role": "guest"}}' WHERE id = 'B'""",
    """UPDATE message SET head = '{"forged": [1]}' WHERE id = 'B'""",
    """UPDATE message SET head = replace(hex(zeroblob(50000)), '00', '[') WHERE id = 'B'""",
    "DELETE FROM message WHERE id = 'B'",
]


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_row_is_set_aside_and_the_others_go_on(tmp_path: Path, damage: str) -> None:
    async with opened(tmp_path) as spool:
        for name in "ABC":
            await spool.accept(mail(name))
    with closing(sqlite3.connect(tmp_path / "spool.db")) as database, database:
        database.execute(damage)
    warnings: list[Event] = []
    async with opened(tmp_path, emit=warnings.append) as spool:
        assert await spool.claim(NOW, 10) == (await spool.entries("A") + await spool.entries("C"), None)
        assert [(event.what, event.message, event.delivery) for event in warnings] == [("warning", "B", 0)]
        assert await spool.claim(NOW, 10) == ([], None)
        assert len(warnings) == 1
        assert sorted(keys((await spool.read()).entries)) == [("A", 0), ("C", 0)]
        assert len(warnings) == 2
        [changed] = await spool.change(Change.REMOVE, ["B"], NOW)
        assert changed.after is State.REMOVED
    async with beside(tmp_path, warnings.append) as operator:
        assert await operator.entries("B") == []
        assert len(warnings) == 3


async def test_a_damaged_event_is_left_out(tmp_path: Path) -> None:
    warnings: list[Event] = []
    async with opened(tmp_path, emit=warnings.append) as spool:
        await spool.accept(mail("A", count=2))
        with closing(sqlite3.connect(tmp_path / "spool.db")) as database, database:
            database.execute("UPDATE event SET what = 'teleported' WHERE delivery = 0")
        assert await happened(spool, "A") == ["received", "planned"]
        assert "teleported" in warnings[0].facts["what"]


async def test_what_is_no_database_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "spool.db").write_bytes(b"this is no database" * 1000)
    with pytest.raises(SpoolFailed, match="not a database"):
        async with opened(tmp_path):
            pass
    with pytest.raises(SpoolFailed, match="not a database"):
        async with beside(tmp_path):
            pass


async def test_a_reserve_is_kept_for_what_is_in_the_queue(tmp_path: Path) -> None:
    """Nothing more is accepted on a disk that is nearly full; what was accepted is settled."""
    folder = str(tmp_path / "spool")
    spool = await SqliteSpool.open(folder, World(), lambda event: None, max_size=10**9)
    await spool.accept(mail("A"))
    await spool.close()
    spool = await SqliteSpool.open(folder, World(), lambda event: None, max_size=10**9, reserve=1 << 62)
    try:
        with pytest.raises(SpoolFull, match="are free on the disk"):
            await spool.accept(mail("B"))
        ((entry,), _) = await spool.claim(NOW + 1, 9)
        await spool.settle([delivered(entry)], [])
        assert [each.state for each in await spool.entries("A")] == [State.DELIVERED]
    finally:
        await spool.close()
