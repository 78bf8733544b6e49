"""Cache: answers kept for their lifetime, and one question asked once, however many wait for the answer."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from smtproute.world import Clock

__all__ = ["Cache"]

Value = TypeVar("Value")


class Cache(Generic[Value]):
    """`fetch(name)` answers a value and its lifetime in seconds. At most `size` are kept; the oldest goes first."""

    def __init__(
        self, clock: Clock, fetch: Callable[[str], Awaitable[tuple[Value, float]]], *, size: int = 4096
    ) -> None:
        self._clock = clock
        self._fetch = fetch
        self._size = size
        self._kept: OrderedDict[str, tuple[Value, float]] = OrderedDict()
        self._asking: dict[str, asyncio.Event] = {}

    async def get(self, name: str) -> Value:
        """The value kept, or fetched; raises what `fetch` raises.

        The first to miss it fetches, the others wait for him. If he is cancelled the next of them takes over, so
        that no task is needed that nobody owns.
        """
        while True:
            kept = self._kept.get(name)
            if kept is not None and self._clock.now() < kept[1]:
                return kept[0]
            asking = self._asking.get(name)
            if asking is None:
                break
            await asking.wait()
        asking = self._asking[name] = asyncio.Event()
        try:
            value, lifetime = await self._fetch(name)
            self._keep(name, value, self._clock.now() + lifetime)
        finally:
            del self._asking[name]
            asking.set()
        return value

    def _keep(self, name: str, value: Value, until: float) -> None:
        self._kept[name] = value, until
        self._kept.move_to_end(name)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)
