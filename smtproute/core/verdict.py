"""Verdict: what a check of a message's authentication came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Disposition", "Judged", "Verdict", "results"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One resinfo of RFC 8601: `method=result`, its properties as (ptype.property, value), and why in words."""

    method: str
    result: str
    properties: tuple[tuple[str, str], ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        parts = [f"{self.method}={self.result}"]
        if self.reason:
            parts.append(f"({self.reason})")
        parts += [f"{name}={value}" for name, value in self.properties]
        return " ".join(parts)


def results(authserv_id: str, verdicts: Sequence[Verdict]) -> str:
    """The value of an Authentication-Results field (RFC 8601 2.2): authserv-id and what was found, or `none`."""
    return "; ".join([authserv_id, *(str(verdict) for verdict in verdicts)] if verdicts else [authserv_id, "none"])


class Disposition(StrEnum):
    """What the domain of the author asks of mail that it disowns (RFC 7489 6.3), and what is done with it."""

    NONE = "none"
    QUARANTINE = "quarantine"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Judged:
    """Everything that was found about a message, and what follows."""

    verdicts: tuple[Verdict, ...] = ()
    disposition: Disposition = Disposition.NONE
    """What is done with it: policy, `pct` and trusted seals have been asked."""
    deferred: bool = False
    """It is not taken now: it may be mail that is to be refused or set aside, and that cannot be told yet."""
    reason: str = ""
    """Why, in words, where it is refused or set aside, or would have been."""
    author: str = ""
    """The domain of the header From, as A-labels; "" where it names none."""
    faults: tuple[str, ...] = ()
    """Exceptions of ours that a check died of, in full: for the trace, never for a result."""
