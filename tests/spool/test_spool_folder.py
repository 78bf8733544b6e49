"""The folder: who may have it, what is in it, and which version it is of."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from spooling import NOW, Clock, beside, bodies, claim, delivered, happened, keys, mail, octets, opened

from smtproute.spool import schema
from smtproute.spool.queue import Change, Changed, SpoolBusy, SpoolFailed, SpoolVersion, State

MB = 1 << 20
VERSION = len(schema.MIGRATIONS)


async def test_the_folder_is_nobody_elses_business(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        async with opened(tmp_path / "state" / "spool") as spool:
            await spool.accept(mail("A", octets("A", MB)))
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state" / "spool").rglob("*")}
            assert modes == {
                "spool.db": 0o600,
                "spool.db-wal": 0o600,
                "spool.db-shm": 0o600,
                "bodies": 0o700,
                "A": 0o600,
            }
            assert stat.S_IMODE((tmp_path / "state" / "spool").stat().st_mode) == 0o700
    finally:
        os.umask(old)


async def test_a_folder_that_others_may_read_is_closed_to_them(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    async with opened(tmp_path):
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


async def test_a_second_relay_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(SpoolBusy, match=str(tmp_path)):
            async with opened(tmp_path):
                pass
    async with opened(tmp_path):
        pass


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SpoolFailed, match="file"):
        async with opened(tmp_path / "file" / "spool"):
            pass


async def test_what_a_crash_left_behind_is_removed(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.accept(mail("A", octets("A", MB)))
        await spool.accept(mail("small"))
        await spool.stage("C").write(b"x" * MB)
    (tmp_path / "bodies" / "B").write_bytes(b"renamed, and no row")
    (tmp_path / "bodies" / "small").write_bytes(b"its row has it")
    assert bodies(tmp_path) == ["A", "B", "C.tmp", "small"]
    async with opened(tmp_path) as spool:
        assert bodies(tmp_path) == ["A"]
        assert await spool.content("A") == octets("A", MB)


async def test_a_spool_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.accept(mail("A"))
    with closing(sqlite3.connect(tmp_path / "spool.db")) as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    (tmp_path / "bodies" / "B").write_bytes(b"")
    with pytest.raises(SpoolVersion, match=rf"version {VERSION + 1}.*up to {VERSION}.*newer program"):
        async with opened(tmp_path):
            pass
    with pytest.raises(SpoolVersion, match=rf"version {VERSION + 1}.*version {VERSION}"):
        async with beside(tmp_path):
            pass
    assert bodies(tmp_path) == ["B"]


async def test_an_older_spool_opens_in_a_newer_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as spool:
        await spool.accept(mail("A"))
    newer = ("ALTER TABLE message ADD COLUMN priority INTEGER NOT NULL DEFAULT 3", "CREATE TABLE lane (name TEXT)")
    broken = ("CREATE TABLE half (name TEXT)", "CREATE TABLE nonsense")
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, newer, broken))
    with pytest.raises(SpoolVersion, match=rf"version {VERSION}.*version {VERSION + 2}"):
        async with beside(tmp_path):
            pass
    with pytest.raises(SpoolFailed):
        async with opened(tmp_path):
            pass
    with closing(sqlite3.connect(tmp_path / "spool.db")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (VERSION + 1,)
        assert database.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'half'").fetchone() == (0,)
        assert database.execute("SELECT priority FROM message").fetchall() == [(3,)]
    monkeypatch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[: VERSION + 1])
    async with opened(tmp_path) as spool:
        assert keys(await claim(spool)) == [("A", 0)]
        assert await spool.content("A") == octets("A", 500)


# The operator, with a relay and without


async def test_where_there_is_no_spool_an_operator_hears_so(tmp_path: Path) -> None:
    for folder in tmp_path / "none", tmp_path:
        with pytest.raises(SpoolFailed, match="no spool here yet"):
            async with beside(folder):
                pass
    assert os.listdir(tmp_path) == []
    (tmp_path / "spool.db").touch()
    with pytest.raises(SpoolFailed, match="no spool here yet"):
        async with beside(tmp_path):
            pass


async def test_an_operator_changes_a_spool_without_a_relay(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        for name in "ABC":
            await spool.accept(mail(name))
    async with beside(tmp_path) as operator:
        assert await operator.change(Change.HOLD, ["A"], NOW + 1) == [Changed("A", 0, State.QUEUED, State.HELD)]
        assert await operator.change(Change.REMOVE, ["B"], NOW + 1) == [Changed("B", 0, State.QUEUED, State.REMOVED)]
        assert await happened(operator, "B") == ["received", "planned", "removed"]
        async with opened(tmp_path) as spool:
            assert keys(await claim(spool)) == [("C", 0)]


async def test_an_operator_hears_what_is_in_flight_beside_a_relay(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool, beside(tmp_path) as operator:
        await spool.accept(mail("A"))
        [entry] = await claim(spool)
        assert await operator.change(Change.HOLD, None, NOW) == [
            Changed("A", 0, State.QUEUED, State.HELD, in_flight=True)
        ]
        assert await operator.change(Change.RELEASE, None, NOW) == [Changed("A", 0, State.HELD, State.QUEUED)]
        assert await operator.change(Change.REMOVE, None, NOW - 9) == [Changed("A", 0, State.QUEUED, State.REMOVED)]
        await spool.settle([delivered(entry)], [])
        assert [entry.state for entry in await operator.entries("A")] == [State.DELIVERED]


SCRIPT = """
import asyncio, sys
from smtproute.spool.queue import Change
from smtproute.spool.sqlite import SqliteSpool
from smtproute.world import World

async def main():
    spool = await SqliteSpool.beside(sys.argv[1], World())
    for change in sys.argv[2:]:
        for each in await spool.change(Change(change), None, float(1_700_000_000)):
            print(each.message, each.before, each.after, each.in_flight)
    await spool.close()

asyncio.run(main())
"""


async def test_a_change_by_another_process_wakes_the_relay(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, max_size=1000, clock=clock) as spool, asyncio.timeout(20):
        watching = asyncio.ensure_future(spool.watch())
        await spool.accept(mail("A"))
        await spool.accept(mail("B"))
        await spool.wait()
        [first] = await claim(spool, limit=1)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SCRIPT, str(tmp_path), "remove", stdout=subprocess.PIPE
        )
        await spool.wait()
        output, _ = await process.communicate()
        assert output.decode().splitlines() == ["A queued removed True", "B queued removed True"]
        assert await claim(spool) == []
        # Its octets are free again.
        await spool.accept(mail("C"))
        await spool.accept(mail("D"))
        assert keys(await claim(spool)) == [("C", 0), ("D", 0)]
        watching.cancel()
        assert first.message.id == "A"


async def test_watching_a_closed_spool_ends(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        watching = asyncio.ensure_future(spool.watch())
    with pytest.raises(SpoolFailed):
        await watching
