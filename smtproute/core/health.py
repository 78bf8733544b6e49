"""Health: an address that failed is left alone for a while, and then tried again by one message."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

__all__ = ["LONGEST", "Rest", "rested"]

LONGEST = 60.0
"""Seconds of the longest pause between two probes."""


@dataclass(frozen=True, slots=True)
class Rest:
    """How an address that failed stands."""

    failures: int
    """In a row."""
    until: float
    """Seconds since the epoch; after it one message probes whether it is well again."""
    why: str
    """How it failed last."""
    probed: bool = False
    """Whether that message is on its way."""

    def lasts(self, now: float) -> bool:
        """Whether the pause is not over. A clock that was set back does not prolong it."""
        return now < self.until <= now + LONGEST

    def told(self, now: float) -> str:
        """Why the address is passed over; empty where it is not."""
        failures = f"{self.failures} failure{'s' if self.failures > 1 else ''}"
        if self.probed:
            return f"is tried by another message after {failures}: {self.why}"
        if self.lasts(now):
            return f"rests for {math.ceil(self.until - now)} s more after {failures}: {self.why}"
        return ""

    def taken(self) -> Rest:
        """The same while it is probed."""
        return replace(self, probed=True)


def rested(before: Rest | None, now: float, why: str) -> Rest:
    """After one failure more: pauses of 1, 2, 4, ... seconds, up to `LONGEST`.

    Messages that were under way together fail together: while it rests, a failure is none more.
    """
    if before is None:
        return Rest(1, now + 1.0, why)
    if before.lasts(now):
        return before
    failures = before.failures + 1
    return Rest(failures, now + min(LONGEST, 2.0 ** min(before.failures, 10)), why)
