"""Transcript: what went over one connection, line by line, as the trace shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Arrow", "Line", "plain"]


class Arrow(StrEnum):
    """swaks's arrows, seen from us."""

    SENT = "->"
    RECEIVED = "<-"
    SENT_TLS = "~>"
    RECEIVED_TLS = "<~"
    NOTE = "=="
    """Not on the wire: what happened (connected, TLS started, connection lost)."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its CRLF; octets that are no UTF-8 as backslash escapes. Content stands as "[123 octets]"."""

    arrow: Arrow
    at: float
    """Seconds since the epoch."""
    text: str


def plain(lines: Sequence[Line]) -> list[list[str | float]]:
    """The lines as JSON values, for an event: [arrow, time, text] each."""
    return [[str(line.arrow), line.at, line.text] for line in lines]
