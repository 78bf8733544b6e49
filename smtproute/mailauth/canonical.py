"""The canonical forms that signatures are made over (RFC 6376 3.4), and the fields that we write ourselves.

Every function here takes time near to linear in its input, whatever the input: the obvious regular expressions are
quadratic in a run of spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["folded", "relaxed_body", "relaxed_field", "simple_body", "simple_field", "without_signature"]

_WIDTH = 76
"""Octets of a line that we write, where words allow it (RFC 5322 2.1.1 wants 78 at most)."""

_FOLD = re.compile(r"(?<=[^ ])(?= [^ ])")


def relaxed_field(raw: bytes) -> bytes:
    """A header field, name to CRLF, in relaxed form (RFC 6376 3.4.2), with CRLF."""
    name, _, value = raw.partition(b":")
    words = _single_spaced(value.replace(b"\r\n", b"")).strip(b" ")
    return name.rstrip(b" \t").lower() + b":" + words + b"\r\n"


def simple_field(raw: bytes) -> bytes:
    """A header field in simple form (RFC 6376 3.4.1): as it is, with CRLF."""
    return raw if raw.endswith(b"\r\n") else raw + b"\r\n"


def without_signature(raw: bytes) -> bytes:
    """A signature field with the value of its b= tag, and the white space around that, taken out (RFC 6376 3.7)."""
    name, _, value = raw.removesuffix(b"\r\n").partition(b":")
    tags = value.split(b";")
    for at, tag in enumerate(tags):
        key, equals, _ = tag.partition(b"=")
        if equals and key.strip() == b"b":
            tags[at] = key + equals
    return name + b":" + b";".join(tags)


def relaxed_body(body: bytes) -> bytes:
    """A body in relaxed form (RFC 6376 3.4.4)."""
    body = _single_spaced(body)
    text = _without_empty_lines(body.replace(b" \r\n", b"\r\n").removesuffix(b" "))
    return text + b"\r\n" if text else b""


def _single_spaced(text: bytes) -> bytes:
    text = text.replace(b"\t", b" ")
    # Long runs first: a run of n spaces is gone after a handful of passes, not after log2(n).
    for run in (256, 16, 2):
        spaces = b" " * run
        while spaces in text:
            text = text.replace(spaces, b" ")
    return text


def simple_body(body: bytes) -> bytes:
    """A body in simple form (RFC 6376 3.4.3)."""
    return _without_empty_lines(body) + b"\r\n"


def _without_empty_lines(body: bytes) -> bytes:
    end = len(body)
    for lines in (4096, 64, 1):
        tail = b"\r\n" * lines
        while body.endswith(tail, 0, end):
            end -= len(tail)
    return body[:end]


def folded(name: str, parts: Iterable[str]) -> bytes:
    """A header field of ASCII text, without its final CRLF. Each part after the first starts a line of its own.

    Lines break only before a space of the text, so unfolding gives the text back; a longer word stays whole.
    """
    lines = [f"{name}:"]
    for at, part in enumerate(parts):
        if at:
            lines.append("")
        for piece in _FOLD.split(f" {part}"):
            if lines[-1] and len(lines[-1]) + len(piece) > _WIDTH:
                lines.append("")
            lines[-1] += piece
    return "\r\n".join(lines).encode("ascii")
