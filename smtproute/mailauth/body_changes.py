"""What befalls the body of a message on its way: each known change undone, until the hash is the one that was signed.

The number of trials is bounded, and so are the octets that they hash.
"""

from __future__ import annotations

import base64
import quopri
import re
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import accumulate, islice

from smtproute.mailauth.canonical import relaxed_body

__all__ = ["Form", "change", "quoted"]

Form = Callable[[bytes], bytes]
"""Makes the canonical form of a body."""

_OCTETS = 32 << 20
"""That the trials of one body may hash."""
_LARGEST = 1 << 20
"""Octets of a body in which lines are looked for that were put in elsewhere than at its end."""
_FOOTER = 1000
"""Lines at the end that may be a footer."""
_RUN = 25
"""Lines that may have been put in elsewhere."""
_PLACES = 10
"""MIME parts at whose beginning, and at whose end, such lines are looked for."""
_LINE = 998
"""Octets after which Postfix breaks a line (smtp_line_length_limit)."""
_SHOWN = 70

_BOUNDARY = re.compile(rb"(?:\A|\r\n)(--[^\r\n]{1,200})\r\n")
_STUFFED = re.compile(rb"(?m)^\.\.")
_UNSTUFFED = re.compile(rb"(?m)^\.")
_FROM = re.compile(rb"(?m)^>From ")


def change(body: bytes, form: Form, wanted: bytes) -> str:
    """What was done to a body whose canonical form had the SHA-256 digest `wanted`, in a sentence. CPU bound."""
    tries = _OCTETS // (len(body) + 1)
    for said, undone in islice(_known(body), tries):
        if undone != body and sha256(form(undone)).digest() == wanted:
            return f"The body was changed: {said}."
    canonical = form(body)
    added = _footer(canonical, form(b""), wanted)
    if not added and len(canonical) <= _LARGEST:
        added = _inserted(canonical, wanted, tries)
    return added or "The body was changed, in no way that is known here."


def quoted(octets: bytes) -> str:
    """What a stranger wrote, on one line and cut where it is long."""
    text = " ".join(octets.decode("utf-8", "replace").split())
    return f'"{text[:_SHOWN]}..."' if len(text) > _SHOWN else f'"{text}"'


def _known(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Changes of a whole body: what happened, and the body as it was before."""
    relaxed = relaxed_body(body)
    yield "white space was added", relaxed
    yield "blank lines were put before it", body.lstrip(b"\r\n")
    yield "a blank line before it is gone", b"\r\n" + body
    yield "its lines ended in bare LF, and now in CRLF", body.replace(b"\r\n", b"\n")
    yield 'lines that began with "From " got a ">" before it', _FROM.sub(b"From ", body)
    yield "lines that began with a dot got one more", _STUFFED.sub(b".", body)
    yield "lines that began with a dot lost one", _UNSTUFFED.sub(b"..", body)
    yield f"lines longer than {_LINE} octets were broken", _joined(body)
    yield 'the space after the "--" before a signature is gone', _signature_marked(body)
    yield "white space was added", _signature_marked(relaxed)
    yield "it was encoded as quoted-printable", quopri.decodestring(body)
    decoded = _base64(body)
    if decoded is not None:
        yield "it was encoded as base64", decoded
        yield "it was encoded as base64, and its line ends changed", decoded.replace(b"\n", b"\r\n")
    for before, after in (("latin-1", "utf-8"), ("cp1252", "utf-8"), ("utf-8", "latin-1"), ("utf-8", "cp1252")):
        try:
            yield f"its charset was changed from {before} to {after}", body.decode(after).encode(before)
        except UnicodeError:
            continue
    boundary = _BOUNDARY.search(body)
    if boundary is not None:
        for part in body.split(b"\r\n" + boundary[1])[:_PLACES]:
            content = part.partition(b"\r\n\r\n")[2]
            yield f"it became one part of a multipart, which begins {quoted(boundary[1])}", content
            yield f"it became one part of a multipart, which begins {quoted(boundary[1])}", content + b"\r\n"


def _signature_marked(body: bytes) -> bytes:
    return body.replace(b"\r\n--\r\n", b"\r\n-- \r\n")


def _joined(body: bytes) -> bytes:
    """The body with lines joined that Postfix broke: one of exactly 998 octets, and the next with a space before it."""
    joined: list[bytes] = []
    full = False
    for line in body.split(b"\r\n"):
        if full and line.startswith(b" "):
            joined.append(line[1:])
        else:
            joined += [b"\r\n", line] if joined else [line]
        full = len(line) == _LINE
    return b"".join(joined)


def _base64(body: bytes) -> bytes | None:
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except ValueError:
        return None


def _footer(canonical: bytes, empty: bytes, wanted: bytes) -> str:
    """Lines that were put after the signed body; "" where that is not it."""
    if sha256(empty).digest() == wanted:
        return f"{_told(canonical)}: nothing was there when it was signed."
    ends = [len(canonical)]
    while len(ends) < _FOOTER and (end := canonical.rfind(b"\r\n", 0, ends[-1] - 2)) >= 0:
        ends.append(end + 2)
    digest = sha256()
    at = 0
    for end in reversed(ends):
        digest.update(canonical[at:end])
        at = end
        if digest.digest() == wanted:
            return f"{_told(canonical[end:])} after the body that was signed."
    return ""


def _inserted(canonical: bytes, wanted: bytes, tries: int) -> str:
    """Lines that were put in where the body or one of its MIME parts begins, or where a part ends; else ""."""
    lines = canonical.split(b"\r\n")[:-1]
    starts = [0, *accumulate(len(line) + 2 for line in lines)]
    boundaries = [at for at, line in enumerate(lines) if line.startswith(b"--")]
    begins = [0]
    for at in boundaries[:_PLACES]:
        begins += [n + 1 for n in range(at, min(at + _RUN, len(lines))) if not lines[n]][:1]
    runs = {(first, last) for first in begins for last in range(first + 1, min(first + _RUN, len(lines)) + 1)}
    runs |= {(first, last) for last in boundaries[-_PLACES:] for first in range(max(0, last - _RUN), last)}
    for first, last in islice(sorted(runs), tries):
        digest = sha256(canonical[: starts[first]])
        digest.update(canonical[starts[last] :])
        if digest.digest() == wanted:
            return f"{_told(canonical[starts[first] : starts[last]])} into the body, as line {first + 1} and on."
    return ""


def _told(lines: bytes) -> str:
    count = lines.count(b"\r\n")
    first = quoted(lines.lstrip().partition(b"\r\n")[0])
    size, were = ("1 line", "was") if count == 1 else (f"{count} lines", "were")
    return f"{size} ({len(lines)} octets), the first of them {first}, {were} put"
