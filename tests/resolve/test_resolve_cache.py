"""Cache: joining, lifetimes, the bound, fresh questions, stale values, and what cancelling does."""

from __future__ import annotations

import asyncio

import pytest

from smtproute.resolve.cache import Cache, Kept


class Source:
    """Answers the number of the question, once it is allowed to; the first `failing` questions raise."""

    def __init__(self, clock, lifetime: float = 60.0, failing: int = 0, spare: float = 0.0) -> None:
        self.asked: list[str] = []
        self.arrived = asyncio.Event()
        self.allowed = asyncio.Event()
        self._clock = clock
        self._lifetime = lifetime
        self._failing = failing
        self._spare = spare

    async def fetch(self, name: str, fresh: bool) -> Kept[int]:
        self.asked.append(name)
        number = len(self.asked)
        self.arrived.set()
        await self.allowed.wait()
        if number <= self._failing:
            raise OSError("no")
        return Kept(number, self._clock.now() + self._lifetime, self._clock.now() + self._spare)


async def test_a_hundred_who_ask_at_once_ask_once(clock):
    source = Source(clock)
    cache = Cache(clock, source.fetch)
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(cache.get("a")) for _ in range(100)]
        await source.arrived.wait()
        source.allowed.set()
    assert {task.result() for task in waiting} == {1}
    assert source.asked == ["a"]


async def test_names_do_not_wait_for_each_other(clock):
    slow, quick = Source(clock), Source(clock)
    quick.allowed.set()
    cache = Cache(clock, lambda name, fresh: (slow if name == "slow" else quick).fetch(name, fresh))
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(cache.get("slow"))
        await slow.arrived.wait()
        assert await cache.get("quick") == 1
        assert not waiting.done()
        slow.allowed.set()


async def test_cancelling_one_who_waits_leaves_the_others(clock):
    source = Source(clock)
    cache = Cache(clock, source.fetch)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(cache.get("a"))
        await source.arrived.wait()
        second = tasks.create_task(cache.get("a"))
        third = tasks.create_task(cache.get("a"))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        source.allowed.set()
    assert second.cancelled()
    assert first.result() == third.result() == 1
    assert source.asked == ["a"]


async def test_cancelling_the_one_who_asks_hands_the_question_on(clock):
    source = Source(clock)
    cache = Cache(clock, source.fetch)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(cache.get("a"))
        await source.arrived.wait()
        others = [tasks.create_task(cache.get("a")) for _ in range(5)]
        await asyncio.sleep(0)
        source.arrived.clear()
        first.cancel()
        await source.arrived.wait()
        source.allowed.set()
    assert first.cancelled()
    assert [task.result() for task in others] == [2] * 5
    assert source.asked == ["a", "a"]


async def test_a_failure_reaches_who_asked_and_is_not_kept(clock):
    source = Source(clock, failing=1)
    source.allowed.set()
    cache = Cache(clock, source.fetch)
    with pytest.raises(OSError, match="no"):
        await cache.get("a")
    assert await cache.get("a") == 2


async def test_a_value_is_kept_until_its_lifetime_is_over(clock):
    source = Source(clock, lifetime=60.0)
    source.allowed.set()
    cache = Cache(clock, source.fetch)
    assert await cache.get("a") == 1
    await clock.advance(59)
    assert await cache.get("a") == 1
    await clock.advance(1)
    assert await cache.get("a") == 2


async def test_the_oldest_is_dropped_beyond_the_size(clock):
    source = Source(clock)
    source.allowed.set()
    cache = Cache(clock, source.fetch, size=2)
    for name in ("a", "b", "c", "b", "c", "a"):
        await cache.get(name)
    assert source.asked == ["a", "b", "c", "a"]


async def test_a_name_fetched_again_counts_as_new(clock):
    source = Source(clock, lifetime=10.0)
    source.allowed.set()
    cache = Cache(clock, source.fetch, size=2)
    await cache.get("a")
    await clock.advance(5)
    await cache.get("b")
    await clock.advance(5)
    for name in ("a", "c", "a"):
        await cache.get(name)
    assert source.asked == ["a", "b", "a", "c"]


async def test_a_fresh_question_is_asked_whatever_is_kept_and_its_answer_is_everybodys(clock):
    source = Source(clock)
    source.allowed.set()
    cache = Cache(clock, source.fetch)
    assert await cache.get("a") == 1
    assert await cache.get("a", fresh=True) == 2
    assert await cache.get("a") == 2


async def test_while_a_fresh_question_is_asked_what_is_kept_is_good(clock):
    source = Source(clock)
    source.allowed.set()
    cache = Cache(clock, source.fetch)
    await cache.get("a")
    source.allowed.clear()
    source.arrived.clear()
    async with asyncio.TaskGroup() as tasks:
        fresh = tasks.create_task(cache.get("a", fresh=True))
        await source.arrived.wait()
        joined = tasks.create_task(cache.get("a", fresh=True))
        assert await cache.get("a") == 1
        assert not fresh.done()
        source.allowed.set()
    assert fresh.result() == joined.result() == 2
    assert source.asked == ["a", "a"]


async def test_a_fresh_question_that_is_cancelled_is_asked_by_the_next(clock):
    source = Source(clock)
    source.allowed.set()
    cache = Cache(clock, source.fetch)
    await cache.get("a")
    source.allowed.clear()
    source.arrived.clear()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(cache.get("a", fresh=True))
        await source.arrived.wait()
        second = tasks.create_task(cache.get("a", fresh=True))
        await asyncio.sleep(0)
        source.arrived.clear()
        first.cancel()
        await source.arrived.wait()
        source.allowed.set()
    assert second.result() == 3


async def test_who_asks_waits_for_better_than_a_stale_value_and_nobody_else_until_it_is_too_old(clock):
    source = Source(clock, lifetime=5.0, spare=10.0)
    source.allowed.set()
    cache = Cache(clock, source.fetch)
    await cache.get("a")
    await clock.advance(5)
    source.allowed.clear()
    source.arrived.clear()
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(cache.get("a"))
        await source.arrived.wait()
        assert await cache.get("a") == 1
        await clock.advance(5)
        late = tasks.create_task(cache.get("a"))
        await asyncio.sleep(0)
        assert not late.done()
        source.allowed.set()
    assert asking.result() == late.result() == 2
