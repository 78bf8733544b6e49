"""What a route holds: queued and never claimed until an operator releases it. After `kill -9`: test_spool_kill.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from spooling import NOW, beside, claim, deferred, delivered, held, keys, mail, octets, opened

from smtproute.core.settings import Trace
from smtproute.spool.queue import Change, Changed, SpoolFailed, SpoolFull, State


async def test_it_is_never_claimed_and_its_companions_are(tmp_path: Path) -> None:
    both = mail("A", count=2)
    both = replace(both, deliveries=[replace(both.deliveries[0], held=True), both.deliveries[1]])
    async with opened(tmp_path) as spool:
        await spool.accept(both)
        await spool.accept(held(mail("B")))
        entries, due = await spool.claim(NOW + 10**6, 10)
        assert (keys(entries), due) == ([("A", 1)], None)
        await spool.settle([delivered(entries[0])], [])
        assert await spool.claim(NOW + 10**9, 10) == ([], None)
        listed = (await spool.read()).entries
        assert [(entry.message.id, entry.number, entry.state) for entry in listed] == [
            ("B", 0, State.HELD),
            ("A", 0, State.HELD),
        ]


async def test_a_bounce_may_be_held(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.accept(mail("A"))
        [entry] = await claim(spool)
        await spool.settle([delivered(entry)], [], [held(mail("DSN"))])
        assert await claim(spool, NOW + 10**6) == []
        assert [entry.state for entry in await spool.entries("DSN")] == [State.HELD]


async def test_released_it_is_due_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.accept(held(mail("A")))
        assert await spool.change(Change.RETRY, None, NOW) == []
        assert await spool.change(Change.RELEASE, ["A"], NOW + 5) == [Changed("A", 0, State.HELD, State.QUEUED)]
        [entry] = await claim(spool, NOW + 5)
        assert (entry.due_at, entry.attempts, entry.delivery.held) == (NOW + 5, 0, True)
        await spool.settle([deferred(entry, NOW + 60)], [])
        [entry] = await claim(spool, NOW + 60)  # its route's word was for its arrival
        assert entry.attempts == 1


@pytest.mark.parametrize("running", [True, False])
async def test_an_operator_releases_and_removes_it_beside_a_relay_and_with_none(tmp_path: Path, running: bool) -> None:
    async with opened(tmp_path) as spool:
        await spool.accept(held(mail("A")))
        await spool.accept(held(mail("B")))
        if running:
            async with beside(tmp_path) as operator:
                await change(operator)
    if not running:
        async with beside(tmp_path) as operator:
            await change(operator)
    async with opened(tmp_path) as spool:
        assert keys(await claim(spool)) == [("A", 0)]
        assert [entry.state for entry in await spool.entries("B")] == [State.REMOVED]


async def change(operator) -> None:  # type: ignore[no-untyped-def]
    assert await operator.change(Change.RELEASE, ["A"], NOW) == [Changed("A", 0, State.HELD, State.QUEUED)]
    assert await operator.change(Change.REMOVE, ["B"], NOW) == [Changed("B", 0, State.HELD, State.REMOVED)]


async def test_it_is_unfinished_mail_and_stays_so(tmp_path: Path) -> None:
    """It takes room in the queue, also after a restart, and no retention touches it."""
    async with opened(tmp_path, max_size=1200) as spool:
        await spool.accept(held(mail("A")))
        await spool.accept(mail("B"))
        with pytest.raises(SpoolFull):
            await spool.accept(mail("C"))
    async with opened(tmp_path, max_size=1200) as spool:
        with pytest.raises(SpoolFull):
            await spool.accept(mail("C"))
        assert keys(await claim(spool)) == [("B", 0)]
        await spool.sweep(NOW + 10**9, Trace(captures=0))
        assert await spool.content("A") == octets("A", 500)
        await spool.change(Change.REMOVE, ["A"], NOW)
        await spool.accept(mail("C"))
        await spool.sweep(NOW + 10**9, Trace())
        with pytest.raises(SpoolFailed):
            await spool.content("A")
