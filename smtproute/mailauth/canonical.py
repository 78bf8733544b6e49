"""The canonical forms that signatures are made over (RFC 6376 3.4), and the fields that we write ourselves.

Every function here takes time near to linear in its input, whatever the input: the obvious regular expressions are
quadratic in a run of spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

__all__ = [
    "folded",
    "relaxed_body",
    "relaxed_field",
    "relaxed_slices",
    "simple_body",
    "simple_field",
    "simple_slices",
    "without_signature",
]

_WIDTH = 76
"""Octets of a line that we write, where words allow it (RFC 5322 2.1.1 wants 78 at most)."""

_SLICE = 256 << 10
"""Octets of a body that are worked on at a time: nobody else has the interpreter meanwhile."""

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
    return b"".join(relaxed_slices(body))


def relaxed_slices(message: bytes, start: int = 0, size: int = _SLICE) -> Iterator[bytes]:
    """The same, of the body that begins at `start`, made from `size` octets at a time."""
    empty = True
    lines = 0
    held = b""
    for at in range(start, len(message), size):
        text = _single_spaced(held + message[at : at + size])
        # What white space and line ends come to depends on what follows.
        held = text[-2:] if text.endswith(b" \r") else text[-1:] if text.endswith((b" ", b"\r")) else b""
        text = text.removesuffix(held).replace(b" \r\n", b"\r\n")
        end = _before_empty_lines(text)
        if end:
            yield from _line_ends(lines, size)
            yield text[:end]
            empty, lines = False, 0
        lines += (len(text) - end) // 2
    if last := held.removesuffix(b" "):
        yield from _line_ends(lines, size)
        yield last
    if last or not empty:
        yield b"\r\n"


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
    return b"".join(simple_slices(body))


def simple_slices(message: bytes, start: int = 0, size: int = _SLICE) -> Iterator[bytes]:
    """The same, of the body that begins at `start`, `size` octets at a time."""
    end = _before_empty_lines(message, start)
    for at in range(start, end, size):
        yield message[at : min(at + size, end)]
    yield b"\r\n"


def _before_empty_lines(text: bytes, start: int = 0) -> int:
    """Where the line ends begin that the text ends with."""
    end = len(text)
    for lines in (4096, 64, 1):
        tail = b"\r\n" * lines
        while text.endswith(tail, start, end):
            end -= len(tail)
    return end


def _line_ends(lines: int, size: int) -> Iterator[bytes]:
    while lines > 0:
        yield b"\r\n" * min(lines, size)
        lines -= size


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
