"""Health: what is remembered of the addresses of one endpoint, in memory, while the relay runs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from smtproute.core.choice import Candidate, Spot
from smtproute.core.health import Rest, rested

__all__ = ["FORGOTTEN", "Health"]

FORGOTTEN = 600.0
"""Seconds after which a rest that nobody has probed is forgotten: the address is gone, or nothing is sent to it."""


class Health:
    """Used by the event loop alone."""

    def __init__(self) -> None:
        self.turn = 0
        """How many messages have chosen (`Balance.ROUND_ROBIN`)."""
        self._rests: dict[Spot, Rest] = {}
        """In the order of their last failure."""
        self._probe_ended = asyncio.Event()

    def rests(self, now: float) -> Mapping[Spot, Rest]:
        """Those that failed, by address."""
        while self._rests:
            spot, rest = next(iter(self._rests.items()))
            if now <= rest.until + FORGOTTEN or rest.probed:
                break
            del self._rests[spot]
        return self._rests

    def probe(self, candidates: Sequence[Candidate]) -> dict[Spot, Rest]:
        """Takes these probes; `give_back` wants to have what it returns."""
        taken = {each.spot: self._rests[each.spot].taken() for each in candidates}
        self._rests.update(taken)
        return taken

    def give_back(self, taken: Mapping[Spot, Rest]) -> None:
        """Of these probes, those that came to nothing are another message's."""
        for spot, rest in taken.items():
            if self._rests.get(spot) is rest:
                self._rests[spot] = Rest(rest.failures, rest.until, rest.why)
                self._end()

    def failed(self, candidate: Candidate, now: float, why: str) -> Rest | None:
        """The rest that this begins or prolongs; None where it is resting already."""
        before = self._rests.get(candidate.spot)
        rest = rested(before, now, why)
        if rest is before:
            return None
        self._rests.pop(candidate.spot, None)
        self._rests[candidate.spot] = rest
        self._end()
        return rest

    def answered(self, candidate: Candidate) -> bool:
        """Whether it is well again."""
        if self._rests.pop(candidate.spot, None) is None:
            return False
        self._end()
        return True

    def forget(self) -> None:
        """Nothing rests any more."""
        self._rests.clear()
        self._end()

    async def probe_ended(self) -> None:
        """Until a probe has ended, well or not, or was given back. It lasts as long as its own deadlines allow."""
        await self._probe_ended.wait()

    def _end(self) -> None:
        self._probe_ended.set()
        self._probe_ended = asyncio.Event()
