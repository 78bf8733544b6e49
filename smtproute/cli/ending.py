"""What became of one scenario, as `smtproute test` tells it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Ending", "Verdict"]


class Verdict(StrEnum):
    """How a scenario ended."""

    OK = "ok"
    UPDATED = "updated"
    """It passes as it is now: its expectations were changed."""
    FAILED = "FAILED"
    BROKEN = "BROKEN"
    """It cannot be played: the file has mistakes."""
    FAULT = "FAULT"
    """Something broke while it was played."""


@dataclass(frozen=True, slots=True)
class Ending:
    """One file."""

    file: str
    verdict: Verdict
    title: str = ""
    seconds: float = 0.0
    told: str = ""
    """Everything there is to say where it is not ok: of one that was updated, how."""

    @property
    def passed(self) -> bool:
        """Whether everything is as its file has it."""
        return self.verdict in (Verdict.OK, Verdict.UPDATED)
