"""Cache: answers kept for their lifetime, and one question asked once, however many wait for the answer."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from smtproute.world import Clock

__all__ = ["Cache", "Kept"]

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Kept(Generic[Value]):
    """A value, and when it is asked for again; 0: it is not kept at all."""

    value: Value
    until: float
    spare: float = 0.0
    """Of one from before, because now there is none: until then nobody waits for the better one that is asked for."""


class Cache(Generic[Value]):
    """`fetch(name, fresh)` answers a value and its lifetime. At most `size` are kept; the oldest goes first."""

    def __init__(self, clock: Clock, fetch: Callable[[str, bool], Awaitable[Kept[Value]]], *, size: int = 4096) -> None:
        self._clock = clock
        self._fetch = fetch
        self._size = size
        self._kept: OrderedDict[str, Kept[Value]] = OrderedDict()
        self._asking: dict[tuple[str, bool], asyncio.Event] = {}
        """By name, and whether the question is a fresh one: that may take longer than others wait."""

    async def get(self, name: str, *, fresh: bool = False) -> Value:
        """The value kept, or fetched; `fresh`: fetched, whatever is kept. Raises what `fetch` raises.

        The first to miss it fetches, the others wait for him. If he is cancelled the next of them takes over, so
        that no task is needed that nobody owns.
        """
        while True:
            kept = self._kept.get(name)
            asking = self._asking.get((name, fresh))
            if kept is not None and not fresh and self._clock.now() < kept.until:
                return kept.value
            asked = asking is not None or (name, True) in self._asking
            if kept is not None and not fresh and asked and self._clock.now() < kept.spare:
                return kept.value
            if asking is None:
                break
            await asking.wait()
            fresh = fresh and self._kept.get(name) is kept
        asking = self._asking[name, fresh] = asyncio.Event()
        try:
            fetched = await self._fetch(name, fresh)
            self._keep(name, fetched)
        finally:
            del self._asking[name, fresh]
            asking.set()
        return fetched.value

    def _keep(self, name: str, fetched: Kept[Value]) -> None:
        if not fetched.until:
            self._kept.pop(name, None)
            return
        self._kept[name] = fetched
        self._kept.move_to_end(name)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)
