"""A clock that stands still until a test turns it."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

__all__ = ["TurnedClock"]


class TurnedClock:
    """A `world.Clock`: time passes by `advance` only."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()
        self._asleep = asyncio.Event()

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + max(0.0, seconds), next(self._numbers), woken))
        self._asleep.set()
        await woken

    async def asleep(self, sleepers: int = 1) -> None:
        """Until so many tasks sleep: only then does `advance` find them."""
        while sum(not woken.done() for _, _, woken in self._sleepers) < sleepers:
            self._asleep.clear()
            await self._asleep.wait()

    async def advance(self, seconds: float) -> None:
        """Lets time pass. Sleepers wake one after the other, in the order of their hour, each at its own hour.

        Each runs up to its next wait before the next one wakes; one that sleeps again within the time wakes again.
        """
        until = self._now + seconds
        await asyncio.sleep(0)
        while self._sleepers and self._sleepers[0][0] <= until:
            hour, _, woken = heapq.heappop(self._sleepers)
            if woken.done():
                continue
            self._now = max(self._now, hour)
            woken.set_result(None)
            await asyncio.sleep(0)
        self._now = until
