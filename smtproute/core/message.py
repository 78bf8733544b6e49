"""A message as octets: its header fields as slices, and the Edit that makes a copy of it.

A message is never regenerated. What leaves differs from what came only by spans that were removed and bytes that
were prepended, so a signature over the rest survives.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Edit", "Field", "Span", "apply", "fields", "header_end"]

Span = tuple[int, int]
"""Offsets in octets, the end not included."""

_NAME = re.compile(rb"[!-9;-~]+")
"""RFC 5322 2.2."""


@dataclass(frozen=True, slots=True)
class Field:
    """One header field of a message: lower-case name, and where it stands with its folding and final CRLF."""

    name: bytes
    start: int
    end: int
    value_start: int

    def value(self, message: bytes) -> bytes:
        """The field body, still folded, without the final CRLF."""
        return message[self.value_start : self.end].removesuffix(b"\r\n")

    def raw(self, message: bytes) -> bytes:
        """The whole field as it stands, with its final CRLF."""
        return message[self.start : self.end]


def header_end(message: bytes) -> int:
    """The offset just after the header section's last CRLF (the blank line, if any, starts there)."""
    if message.startswith(b"\r\n"):
        return 0
    end = message.find(b"\r\n\r\n")
    return len(message) if end < 0 else end + 2


def fields(message: bytes) -> tuple[Field, ...]:
    """The header fields in order (RFC 5322 2.2).

    Reading stops at the blank line, and at the first line that can be no field, as Postfix cleanup(8) does: what
    follows is body.
    """
    found: list[Field] = []
    end = header_end(message)
    at = 0
    while at < end:
        stop = message.find(b"\r\n", at, end)
        stop = end if stop < 0 else stop + 2
        while stop < end and message[stop] in b" \t":
            after = message.find(b"\r\n", stop, end)
            stop = end if after < 0 else after + 2
        colon = message.find(b":", at, stop)
        name = message[at:colon].rstrip(b" \t") if colon > at else b""
        if _NAME.fullmatch(name) is None:
            break
        found.append(Field(name.lower(), at, stop, colon + 1))
        at = stop
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Edit:
    """How a copy differs from the stored message: spans taken out (ascending, disjoint), bytes put in front."""

    removed: tuple[Span, ...] = ()
    prepended: bytes = b""


def apply(edit: Edit, message: bytes) -> bytes:
    """The copy that `edit` makes of `message`."""
    if not edit.removed:
        return edit.prepended + message if edit.prepended else message
    parts = [edit.prepended]
    at = 0
    for start, end in edit.removed:
        parts.append(message[at:start])
        at = end
    parts.append(message[at:])
    return b"".join(parts)
