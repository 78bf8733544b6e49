"""The ARC sets that stand in a message's header (RFC 8617 4), found and bounded before anything costly is done."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from dkim.util import InvalidTagValueList, parse_tag_value

from smtproute.core.message import Field, fields, header_end
from smtproute.mailauth.canonical import relaxed_field, without_signature

__all__ = ["MAX_SETS", "MAX_SIGNATURE", "ArcSet", "Header", "Part", "Survey", "seal_digest", "survey"]

MAX_SETS = 50
"""RFC 8617 4.2.1."""
MAX_HEADER = 512 * 1024
"""Octets of a header section that we look into."""
MAX_LINES = 10_000
"""Lines of it."""
MAX_SIGNATURE = 16 * 1024
"""Octets of one ARC-Seal or ARC-Message-Signature; a real one has about one thousand."""

_RESULTS, _SIGNATURE, _SEAL = b"arc-authentication-results", b"arc-message-signature", b"arc-seal"
_TITLES = {
    _RESULTS: "ARC-Authentication-Results",
    _SIGNATURE: "ARC-Message-Signature",
    _SEAL: "ARC-Seal",
}
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_RESULTS_INSTANCE = re.compile(rb"i ?= ?([^ ;]*) ?;")
_NUMBER = re.compile(rb"[0-9]{1,20}")
_TOO_MANY = f"there are more than {MAX_SETS} ARC sets"


@dataclass(frozen=True, slots=True)
class Header:
    """A message taken apart: its fields, and where its body starts."""

    message: bytes
    fields: tuple[Field, ...]
    body: int


@dataclass(frozen=True, slots=True)
class Part:
    """One ARC header field: as it stands, in relaxed form, and its tags (none for ARC-Authentication-Results)."""

    raw: bytes
    relaxed: bytes
    instance: int
    tags: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class ArcSet:
    results: Part
    signature: Part
    seal: Part


@dataclass(frozen=True, slots=True)
class Survey:
    """What can be said of a message's ARC sets without any key."""

    header: Header | None
    """None where the header section is malformed or out of bounds; `fault` says how."""
    present: bool
    """Whether there is any ARC field, or what looks like one in a header section that is not read."""
    highest: int = 0
    """The highest instance from 1 to MAX_SETS that was seen."""
    sealable: bool = True
    """Whether one more set may be added: the last seal does not say cv=fail, and the number is not used up."""
    sets: tuple[ArcSet, ...] = ()
    """From 1 on, each complete; none where there is a fault."""
    fault: str = ""
    """What fails the chain before any signature is looked at."""


def survey(message: bytes) -> Survey:
    """Looks the ARC sets over: our bounds, and steps 1 to 3.B of RFC 8617 5.2."""
    end = header_end(message)
    if end > MAX_HEADER:
        return _unread(message, end, f"the header section has more than {MAX_HEADER} octets")
    if message.count(b"\r\n", 0, end) > MAX_LINES:
        return _unread(message, end, f"the header section has more than {MAX_LINES} lines")
    found = fields(message)
    if (found[-1].end if found else 0) < end:
        return _unread(message, end, "malformed header section: it has a line that is no header field")
    return _survey(Header(message, found, end + 2))


def _unread(message: bytes, end: int, fault: str) -> Survey:
    header = b"\n" + message[:end].lower()
    return Survey(None, any(b"\n" + name in header for name in _TITLES), fault=fault)


def _survey(header: Header) -> Survey:
    arc = [field for field in header.fields if field.name in _TITLES]
    if len(arc) > len(_TITLES) * MAX_SETS:
        return Survey(header, True, MAX_SETS, False, fault=_TOO_MANY)
    sets: dict[int, dict[bytes, Part]] = defaultdict(dict)
    faults: list[str] = []
    for field in arc:
        title = _TITLES[field.name]
        try:
            part = _part(field, header.message)
        except ValueError as error:
            faults.append(f"malformed {title}: {error}")
            continue
        if field.name in sets[part.instance]:
            faults.append(f"there are two {title} of i={part.instance}")
        sets[part.instance][field.name] = part
    last = max(sets, default=0)
    ended = _SEAL in sets[last] and sets[last][_SEAL].tags.get(b"cv") == b"fail"
    if ended:
        faults.insert(0, f"ARC-Seal {last} says cv=fail")
    if last > MAX_SETS:
        faults.insert(0, _TOO_MANY)
    for instance in range(1, min(last, MAX_SETS) + 1):
        faults += [f"there is no {_TITLES[name]} of i={instance}" for name in _TITLES if name not in sets[instance]]
    sealable = not ended and last < MAX_SETS
    if faults:
        return Survey(header, True, min(last, MAX_SETS), sealable, fault=faults[0])
    complete = tuple(ArcSet(sets[n][_RESULTS], sets[n][_SIGNATURE], sets[n][_SEAL]) for n in range(1, last + 1))
    return Survey(header, bool(arc), last, sealable, complete)


def _part(field: Field, message: bytes) -> Part:
    """One ARC field, read as far as its instance needs. Raises ValueError."""
    raw = field.raw(message)
    relaxed = relaxed_field(raw)
    value = relaxed[len(field.name) + 1 : -2]
    tags: dict[bytes, bytes] = {}
    if field.name == _RESULTS:
        leading = _RESULTS_INSTANCE.match(value)
        instance = leading[1] if leading is not None else b""
    else:
        if len(raw) > MAX_SIGNATURE:
            raise ValueError(f"it has more than {MAX_SIGNATURE} octets")
        if _CONTROL.search(value) is not None:
            raise ValueError("it holds a control character")
        try:
            tags = parse_tag_value(value)
        except InvalidTagValueList:
            raise ValueError("it is no list of tags, or has one twice") from None
        # int() of thousands of digits is refused or slow.
        for name in (b"t", b"x", b"l"):
            if name in tags and _NUMBER.fullmatch(tags[name]) is None:
                raise ValueError(f"{name.decode()}= is no number")
        instance = tags.get(b"i", b"")
    if _NUMBER.fullmatch(instance) is None or int(instance) == 0:
        raise ValueError("it has no instance i=")
    return Part(raw, relaxed, int(instance), tags)


def seal_digest(before: Sequence[ArcSet], results: bytes, signature: bytes, seal: bytes) -> bytes:
    """The SHA-256 digest that an ARC-Seal signs (RFC 8617 5.1.1): sets before it, its own set, itself without b=.

    `results` and `signature` are in relaxed form, `seal` as it stands.
    """
    digest = sha256()
    for earlier in before:
        digest.update(earlier.results.relaxed)
        digest.update(earlier.signature.relaxed)
        digest.update(earlier.seal.relaxed)
    digest.update(results)
    digest.update(signature)
    digest.update(relaxed_field(without_signature(seal)).removesuffix(b"\r\n"))
    return digest.digest()
