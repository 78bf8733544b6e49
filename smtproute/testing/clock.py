"""Clocks that a test turns."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable
from itertools import count

__all__ = ["StageClock", "TurnedClock"]

_NAP = 1.0
"""Seconds. A relay that keeps a rate sleeps so long at most, and then looks at the clock."""


class TurnedClock:
    """A `world.Clock` that stands still: time passes by `advance` only."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()
        self._asleep = asyncio.Event()

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self.now()

    async def sleep(self, seconds: float) -> None:
        await self._lie_down(max(0.0, seconds))

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

    def _lie_down(self, seconds: float) -> asyncio.Future[None]:
        """What is done once so much time has passed."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now() + seconds, next(self._numbers), woken))
        self._asleep.set()
        return woken

    def _set(self, hour: float) -> None:
        self._now = max(self._now, hour)


class StageClock(TurnedClock):
    """The clock of a stage: whoever sleeps wakes as on any machine, and it can be set forward meanwhile.

    With `runs` it goes as the machine's does. Else it stands, so that the same things happen at the same hours in
    every run; only a sleep of a second at most, by which a relay keeps a rate, moves it.
    """

    def __init__(self, now: float, *, runs: bool) -> None:
        super().__init__(now)
        self._began = time.monotonic() if runs else None

    def now(self) -> float:
        return self._now if self._began is None else self._now + time.monotonic() - self._began

    async def sleep(self, seconds: float) -> None:
        woken = self._lie_down(max(0.0, seconds))
        hour = self.now() + seconds
        alarm = asyncio.get_running_loop().call_later(seconds, _wake, woken)
        try:
            await woken
        finally:
            alarm.cancel()
        if seconds <= _NAP:
            self._set(hour)

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
        self._now += max(0.0, hour - self.now())


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
