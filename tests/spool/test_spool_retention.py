"""What is kept for how long."""

from __future__ import annotations

from pathlib import Path

import pytest
from spooling import NOW, Clock, bodies, claim, deferred, delivered, failed, happened, keys, mail, octets, opened, told

from smtproute.core.event import Happening
from smtproute.core.settings import Trace
from smtproute.spool.queue import Change, SpoolFailed, State

DAY = 86400.0
MB = 1 << 20


async def test_content_goes_first_and_the_trace_later(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock=clock) as spool:
        await spool.accept(mail("A"))
        await spool.accept(mail("B", octets("B", MB)))
        await spool.accept(mail("old", at=NOW - 100 * DAY))
        _, first, second = await claim(spool)
        await spool.settle([delivered(first)], [told(Happening.DELIVERED, first)])
        clock.time = NOW + DAY
        await spool.settle([failed(second)], [told(Happening.FAILED, second)])
        trace = Trace(content=2 * DAY, events=5 * DAY)

        await spool.sweep(NOW + 2 * DAY, trace)
        assert await spool.content("A") == octets("A", 500)
        await spool.sweep(NOW + 2 * DAY + 1, trace)
        with pytest.raises(SpoolFailed, match="not kept any more"):
            await spool.content("A")
        assert await spool.content("B") == octets("B", MB)
        await spool.sweep(NOW + 3 * DAY + 1, trace)
        assert bodies(tmp_path) == []
        with pytest.raises(SpoolFailed, match="not kept any more"):
            await spool.content("B")
        for name in "AB":
            assert len(await happened(spool, name)) == 3
        assert keys((await spool.read(unfinished=False)).entries) == [("old", 0), ("B", 0), ("A", 0)]

        await spool.sweep(NOW + 5 * DAY + 1, trace)
        assert await spool.entries("A") == []
        assert await happened(spool, "A") == []
        assert await happened(spool, "B") == ["received", "planned", "failed"]
        await spool.sweep(NOW + 1000 * DAY, trace)
        assert keys((await spool.read(unfinished=False)).entries) == [("old", 0)]
        assert await spool.content("old") == octets("old", 500)
        assert await happened(spool, "old") == ["received", "planned"]


async def test_a_message_is_unfinished_while_one_delivery_is(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.accept(mail("A", count=2))
        first, second = await claim(spool)
        await spool.change(Change.HOLD, None, NOW)
        await spool.settle([delivered(first), deferred(second, NOW + 60)], [])
        assert [entry.state for entry in await spool.entries("A")] == [State.DELIVERED, State.HELD]
        await spool.sweep(NOW + 1000 * DAY, Trace())
        assert await spool.content("A") == octets("A", 500)
        await spool.change(Change.REMOVE, None, NOW)
        await spool.sweep(NOW + 1000 * DAY, Trace())
        assert await spool.entries("A") == []


async def test_captures_are_kept_by_age_and_by_count(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock=clock) as spool:
        for n in range(6):
            clock.time = NOW + n
            await spool.accept(mail(f"M{n}", octets(f"M{n}", 300_000 if n % 2 else 500)))
            [entry] = await claim(spool)
            await spool.settle([delivered(entry, captured=True)], [])
        trace = Trace(content=0, captures=4, captured=10 * DAY, events=20 * DAY)
        await spool.sweep(NOW + DAY, trace)
        kept = (await spool.read(unfinished=False, captured=True)).entries
        assert keys(kept) == [("M5", 0), ("M4", 0), ("M3", 0), ("M2", 0)]
        assert bodies(tmp_path) == ["M3", "M5"]
        assert await spool.content("M2") == octets("M2", 500)
        await spool.sweep(NOW + 10 * DAY + 4, trace)
        assert keys((await spool.read(unfinished=False, captured=True)).entries) == [("M5", 0), ("M4", 0)]
        await spool.sweep(NOW + 11 * DAY, trace)
        assert bodies(tmp_path) == []
        assert [entry.state for entry in await spool.entries("M5")] == [State.CAPTURED]
        await spool.sweep(NOW + 21 * DAY, trace)
        assert (await spool.read(unfinished=False)).entries == ()


async def test_more_than_one_slice(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        for n in range(250):
            await spool.accept(mail(f"M{n:03}"))
        entries = await claim(spool, limit=1000)
        await spool.settle([delivered(entry) for entry in entries], [])
        await spool.accept(mail("new"))
        await spool.sweep(NOW + 1000 * DAY, Trace())
        assert keys((await spool.read(unfinished=False)).entries) == [("new", 0)]
        assert await happened(spool, "M000") == []
        assert await happened(spool, "new") == ["received", "planned"]
