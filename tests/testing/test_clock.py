from __future__ import annotations

import asyncio

from smtproute.testing.clock import TurnedClock


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
