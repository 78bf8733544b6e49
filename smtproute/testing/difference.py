"""Difference: what was done to a message on its way beside header fields that were put in front of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import islice, takewhile

from smtproute.core.message import Edit, Span, apply, fields, header_end

__all__ = ["change"]

_BEFORE, _AFTER = 60, 50
"""Octets of a line that are shown before and after the first that differs."""
_NAMES = 20
"""Header fields that are named."""
_LINE_END = re.compile(rb"\r\n|\r|\n")
_STEP = 4096
"""Octets compared at once."""


def change(sent: bytes, received: bytes, without: Iterable[str] = ()) -> str:
    """What was done to a message, in lines; "" where header fields were put in front of it, and nothing else.

    `without`: the names of header fields that were to be removed on the way.
    """
    names = {name.lower().encode() for name in without}
    removed = tuple((each.start, each.end) for each in fields(sent) if each.name in names)
    wanted = apply(Edit(removed), sent)
    front = len(received) - len(wanted)
    if received.endswith(wanted) and _are_fields(received[:front]):
        return ""
    return "\n".join(_told(sent, removed, wanted, received))


def _told(sent: bytes, removed: Sequence[Span], wanted: bytes, received: bytes) -> Iterator[str]:
    if received.endswith(wanted):
        front = received[: len(received) - len(wanted)]
        at = max((each.end for each in fields(front)), default=0)
        yield "what was put in front is no header field:"
        yield f"line {_line_number(received, at)} as received:  {_Shown.at(received, at).text}"
        return
    compared = _compared(wanted, received)
    begins = _but_for_line_ends(wanted, received)
    if begins is not None:
        start, same = begins, _common(wanted, received[begins:])
    else:
        start, same = _aligned(wanted, received, compared.start)
    as_sent = f"line {_line_number(sent, same, removed)} as sent:"
    as_received = f"line {_line_number(received, start + same)} as received:"
    width = max(len(as_sent), len(as_received))
    was, is_now = _Shown.at(wanted, same), _Shown.at(received, start + same)
    yield f"{as_sent:<{width}}  {was.text}"
    yield f"{as_received:<{width}}  {is_now.text}"
    if was.caret == is_now.caret:
        yield " " * (width + 2 + was.caret) + "^"
    if begins is not None:
        yield f"only line ends differ: as sent {_ends(wanted)}, as received {_ends(received[start:])}"
        return
    for what, which in (
        ("changed", compared.changed),
        ("missing", compared.missing),
        ("added among those sent", compared.added),
        ("put in front", compared.front),
    ):
        if which:
            yield f"header fields {what}: {_listed(which)}"
    before, after = _body(wanted), _body(received)
    if before == after:
        yield "the body is as it was sent"
    else:
        yield f"the body was changed: {len(before)} octets were sent, {len(after)} received"


@dataclass(frozen=True, slots=True)
class _Compared:
    """Names of header fields, in order."""

    front: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    start: int = 0
    """Where what was sent begins in what was received."""


def _compared(wanted: bytes, received: bytes) -> _Compared:
    """Field by field from the last one up: fields are put in front, so the lower ones belong together."""
    is_there = fields(received)
    then = [each.raw(wanted) for each in reversed(fields(wanted))]
    now = [each.raw(received) for each in reversed(is_there)]
    front: list[str] = []
    added: list[str] = []
    missing: list[str] = []
    changed: list[str] = []
    for whether, i1, i2, j1, j2 in SequenceMatcher(None, then, now, False).get_opcodes():
        if whether == "equal":
            continue
        was, is_now = [*map(_name, then[i1:i2])], [*map(_name, now[j1:j2])]
        for same, k1, k2, l1, l2 in SequenceMatcher(None, _folded(was), _folded(is_now), False).get_opcodes():
            if same == "equal":
                changed += is_now[l1:l2]
                continue
            missing += was[k1:k2]
            top = l1 + (k2 - k1) if i1 + k2 == len(then) else l2
            added += is_now[l1:top]
            front += is_now[top:l2]
    start = is_there[len(front) - 1].end if front else 0
    return _Compared(front[::-1], added[::-1], missing[::-1], changed[::-1], start)


def _folded(names: Iterable[str]) -> list[str]:
    return [name.lower() for name in names]


def _name(raw: bytes) -> str:
    return raw.partition(b":")[0].strip().decode("ascii", "replace")


def _aligned(wanted: bytes, received: bytes, start: int) -> tuple[int, int]:
    """Where in `received` what was sent begins, and how many octets are the same from there.

    `start` is where it begins by the header fields. Where one octet is another one, these may be read otherwise.
    """
    front = len(received) - len(wanted)
    if front >= 0:
        same = _common(wanted, received[front:])
        if same + _common(wanted[same:][::-1], received[front + same :][::-1]) >= len(wanted) - 1:
            return front, same
    return start, _common(wanted, received[start:])


def _common(one: bytes, other: bytes) -> int:
    """How many octets both begin with."""
    at, end = 0, min(len(one), len(other))
    while at < end and one[at : at + _STEP] == other[at : at + _STEP]:
        at += _STEP
    pairs = zip(one[at : at + _STEP], other[at : at + _STEP], strict=False)
    return min(end, at + sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _are_fields(front: bytes) -> bool:
    """Whether it is whole header fields and nothing else."""
    return not front or (front.endswith(b"\r\n") and max((each.end for each in fields(front)), default=0) == len(front))


def _line_number(message: bytes, at: int, removed: Sequence[Span] = ()) -> int:
    """Of the line with the octet `at`, counted in the message without the spans that were removed from it."""
    for start, end in removed:
        if start <= at:
            at += end - start
    return message.count(b"\n", 0, at) + 1


@dataclass(frozen=True, slots=True)
class _Shown:
    """A line, legible octet by octet."""

    text: str
    caret: int
    """Characters before the octet that it is about; -1 where there is none."""

    @classmethod
    def at(cls, message: bytes, at: int) -> _Shown:
        """The line with the octet `at`, or what of it is near."""
        if at >= len(message) and (not message or message.endswith(b"\n")):
            return cls("(the message has ended)", -1)
        begin = message.rfind(b"\n", 0, at) + 1
        end = message.find(b"\n", at) + 1 or len(message)
        first, last = max(begin, at - _BEFORE), min(end, at + _AFTER)
        before = ("..." if first > begin else "") + '"' + _octets(message[first:at])
        return cls(before + _octets(message[at:last]) + '"' + ("..." if last < end else ""), len(before))


def _octets(octets: bytes) -> str:
    return octets.decode("latin-1").encode("unicode_escape").decode("ascii").replace('"', '\\"')


def _but_for_line_ends(wanted: bytes, received: bytes) -> int | None:
    """Where in `received` what was sent begins, if lines in front of it and line ends are all that differs."""
    bare, all_bare = _LINE_END.sub(b"\n", wanted), _LINE_END.sub(b"\n", received)
    front = all_bare.removesuffix(bare)
    if not all_bare.endswith(bare) or not (front.endswith(b"\n") or not front):
        return None
    return max((each.end() for each in islice(_LINE_END.finditer(received), front.count(b"\n"))), default=0)


def _ends(message: bytes) -> str:
    """How its lines end: "12 CRLF, 1 LF"."""
    both = message.count(b"\r\n")
    count = {"CRLF": both, "LF": message.count(b"\n") - both, "CR": message.count(b"\r") - both}
    return ", ".join(f"{number} {end}" for end, number in count.items() if number) or "none"


def _body(message: bytes) -> bytes:
    return message[header_end(message) + 2 :]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more
