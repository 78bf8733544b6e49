"""Verdict: what a check of a message's authentication came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Verdict", "results"]


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
