"""Transcript: what went over one connection, line by line, as the trace shows it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Arrow", "Line", "Record", "legible", "plain"]

_RANGES = "\x00-\x1f\x7f-\x9f\u061c-\u061c\u200e-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_STEERING = re.compile(f"[{_RANGES}]")
_ESCAPED = {
    code: chr(code).encode("unicode_escape").decode("ascii")
    for first, _, last in zip(*[iter(_RANGES)] * 3, strict=True)
    for code in range(ord(first), ord(last) + 1)
}
_LINE = 64
"""Characters that a line counts for beside its text: a flood of short lines is a flood too."""


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
    """One line without its CRLF, legible, octets that are no UTF-8 escaped too. Content stands as "[123 octets]"."""

    arrow: Arrow
    at: float
    """Seconds since the epoch."""
    text: str


class Record:
    """Lines as they are written down, up to `limit` characters: what came first stays, a note says that more came."""

    def __init__(self, limit: int) -> None:
        self.lines: list[Line] = []
        self._limit = self._room = limit

    def add(self, line: Line) -> None:
        if self._room <= 0:
            return
        self._room -= len(line.text) + _LINE
        if self._room <= 0:
            line = Line(Arrow.NOTE, line.at, "the transcript is cut here: more was said than it keeps")
        self.lines.append(line)

    def clear(self) -> None:
        self.lines.clear()
        self._room = self._limit


def legible(text: str) -> str:
    """The text with backslash escapes for whatever steers a terminal, breaks a line or turns the direction of reading.

    That is C0, DEL and C1 controls, line and paragraph separators, bidirectional marks, embeddings, overrides and
    isolates (UAX 9 2), and surrogates, which cannot be written out at all. Legible text stays as it is.
    """
    return text.translate(_ESCAPED) if _STEERING.search(text) else text


def plain(lines: Sequence[Line]) -> list[list[str | float]]:
    """The lines as JSON values, for an event: [arrow, time, text] each."""
    return [[str(line.arrow), line.at, line.text] for line in lines]
