"""LastGood: while DNS fails, what it said before stays in use (RFC 8767), for a while and never unsaid."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Set
from dataclasses import dataclass

import dns.rdatatype

from smtproute.core.choice import FAILED, Resolution
from smtproute.resolve.nameservers import Answer
from smtproute.world import Clock

__all__ = ["RECHECK", "Known", "LastGood", "goes_on"]

RECHECK = 30.0
"""Seconds after a failure until DNS is asked again, where there is an answer from before (RFC 8767 5)."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is to be believed of one question, now."""

    answer: Answer
    at: float
    """When DNS gave it."""
    until: float
    """When DNS is asked again."""
    stale: str = ""
    """Why DNS does not answer now, where this is its last good answer from before."""
    spare: float = 0.0
    """Until when such an answer is used."""


class LastGood:
    """The last good answer to each question. It is used for `keep` seconds after its lifetime while DNS fails.

    At most `size` are kept; the oldest goes first.
    """

    def __init__(self, clock: Clock, keep: float, *, size: int = 8192) -> None:
        self._clock = clock
        self._keep = keep
        self._size = size
        self._last: OrderedDict[tuple[str, dns.rdatatype.RdataType], Known] = OrderedDict()

    def spares(self, name: str, *rdtypes: dns.rdatatype.RdataType) -> bool:
        """Whether a failure of one of these questions would have an answer from before in its place, now."""
        known = [last for each in rdtypes if (last := self._last.get((name, each))) is not None]
        return any(self._clock.now() < last.until + self._keep for last in known)

    def judge(self, name: str, rdtype: dns.rdatatype.RdataType, answer: Answer, good: Set[Resolution]) -> Known:
        """The answer that DNS gave just now; the last one with a `good` ending in its place, if this is a failure.

        Any other ending is an answer, and the last good one is forgotten.
        """
        now = self._clock.now()
        question = (name, rdtype)
        known = Known(answer, now, now + answer.lifetime)
        if answer.status in FAILED:
            last = self._last.get(question)
            if last is None or now >= (spare := last.until + self._keep):
                return known
            # One that was asked again before its time is as good as it was until then.
            again = min(max(now + RECHECK, last.until), spare)
            return Known(last.answer, last.at, again, str(answer), spare)
        self._last.pop(question, None)
        if answer.status in good:
            self._last[question] = known
            if len(self._last) > self._size:
                self._last.popitem(last=False)
        return known


def goes_on(keep: float) -> str:
    """What a command says where DNS fails it, which has no answer from before; empty where none is kept."""
    if not keep:
        return ""
    length, unit = next((each for each in ((86400, "d"), (3600, "h"), (60, "m")) if keep >= each[0]), (1, "s"))
    most = f"{keep / length:g}{unit} (resolver.stale)"
    return f"a running relay goes on with its last good answer, where it has one, for up to {most}"
