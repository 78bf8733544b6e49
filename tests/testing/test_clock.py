from __future__ import annotations

import asyncio

from smtproute.testing.clock import StageClock, TurnedClock


async def test_sleepers_wake_in_the_order_of_their_hour_and_at_their_hour() -> None:
    clock = TurnedClock(1000.0)
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woken.append((name, clock.now()))

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("late", 30))
        group.create_task(sleeper("often", 10, 10, 10))
        group.create_task(sleeper("early", 5))
        group.create_task(sleeper("tie", 30))
        await clock.asleep(4)
        assert woken == []
        await clock.advance(4.9)
        assert woken == []
        await clock.advance(20.1)
        assert (woken, clock.now()) == ([("early", 1005.0), ("often", 1010.0), ("often", 1020.0)], 1025.0)
        await clock.advance(5)
    assert woken[3:] == [("late", 1030.0), ("tie", 1030.0), ("often", 1030.0)]


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = TurnedClock()
    async with asyncio.TaskGroup() as group:
        sleeping = group.create_task(clock.sleep(10))
        await clock.asleep()
        sleeping.cancel()
    await clock.advance(20)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(clock.sleep(1))
        await clock.asleep()
        await clock.advance(1)


async def test_the_clock_of_a_stage_is_moved_by_naps_only() -> None:
    clock = StageClock(1000.0, runs=False)
    await clock.sleep(0.01)
    assert clock.now() == 1000.01
    async with asyncio.TaskGroup() as group:
        group.create_task(clock.sleep(3600))
        await clock.asleep()
        assert clock.now() == 1000.01
        clock.jump(4600.01)
    assert clock.now() == 4600.01


async def test_the_clock_of_a_stage_runs_where_it_is_told_to() -> None:
    clock = StageClock(1000.0, runs=True)
    before = clock.now()
    await clock.sleep(0.01)
    assert 1000.0 <= before < clock.now()
    clock.jump(5000.0)
    assert clock.now() >= 5000.0
