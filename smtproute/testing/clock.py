"""A clock that a test turns."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable
from itertools import count

__all__ = ["TurnedClock"]


class TurnedClock:
    """A `world.Clock`: it stands still, or with `runs` goes as fast as the machine's, and can be set forward."""

    def __init__(self, now: float = 1_700_000_000.0, *, runs: bool = False) -> None:
        self._began = time.monotonic() if runs else None
        self._start = now
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()
        self._asleep = asyncio.Event()

    def now(self) -> float:
        return self._start if self._began is None else self._start + time.monotonic() - self._began

    def monotonic(self) -> float:
        return self.now()

    async def sleep(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        seconds = max(0.0, seconds)
        heapq.heappush(self._sleepers, (self.now() + seconds, next(self._numbers), woken))
        self._asleep.set()
        alarm = None if self._began is None else loop.call_later(seconds, _wake, woken)
        try:
            await woken
        finally:
            if alarm is not None:
                alarm.cancel()

    async def asleep(self, sleepers: int = 1) -> None:
        """Until so many tasks sleep: only then does `advance` find them."""
        while sum(not woken.done() for _, _, woken in self._sleepers) < sleepers:
            self._asleep.clear()
            await self._asleep.wait()

    async def advance(self, seconds: float) -> None:
        """Lets time pass. Sleepers wake one after the other, in the order of their hour, each at its own hour.

        Each runs up to its next wait before the next one wakes; one that sleeps again within the time wakes again.
        """
        until = self.now() + seconds
        await asyncio.sleep(0)
        while self._sleepers and self._sleepers[0][0] <= until:
            hour, _, woken = heapq.heappop(self._sleepers)
            if woken.done():
                continue
            self._set(hour)
            woken.set_result(None)
            await asyncio.sleep(0)
        self._set(until)

    def jump(self, hour: float) -> None:
        """Sets the clock forward, as on a machine that was suspended: whose hour is past wakes now, at once."""
        self._set(hour)
        while self._sleepers and self._sleepers[0][0] <= hour:
            _wake(heapq.heappop(self._sleepers)[2])

    async def run(self, seconds: float, rest: Callable[[], Awaitable[float | None]]) -> None:
        """Lets time pass for somebody who has work to do at certain hours, each of which finds the work before done.

        `rest` waits until all that is due is done, and answers with the next hour, if there is one. Whoever sleeps
        meanwhile wakes at the first such hour after his own.
        """
        until = self.now() + seconds
        while (hour := await rest()) is not None and hour <= until:
            self.jump(hour)
        self.jump(until)
        await rest()

    def _set(self, hour: float) -> None:
        self._start += max(0.0, hour - self.now())


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
