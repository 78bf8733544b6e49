"""The ARC sets that stand in a message's header (RFC 8617 4), found and bounded before anything costly is done."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from smtproute.core.message import Field
from smtproute.core.settings import Authentication
from smtproute.mailauth.canonical import relaxed_field, without_signature
from smtproute.mailauth.header import Header, opened
from smtproute.mailauth.signature import read_tags

__all__ = ["MAX_SETS", "NAMES", "ArcSet", "Part", "Survey", "seal_digest", "survey", "surveyed"]

MAX_SETS = 50
"""RFC 8617 4.2.1."""

_RESULTS, _SIGNATURE, _SEAL = b"arc-authentication-results", b"arc-message-signature", b"arc-seal"
_TITLES = {
    _RESULTS: "ARC-Authentication-Results",
    _SIGNATURE: "ARC-Message-Signature",
    _SEAL: "ARC-Seal",
}
_RESULTS_INSTANCE = re.compile(rb"i ?= ?([^ ;]*) ?;")
_NUMBER = re.compile(rb"[0-9]{1,20}")
NAMES = tuple(_TITLES)
"""Of the fields of a set, lower-case."""
_TOO_MANY = f"there are more than {MAX_SETS} ARC sets"


@dataclass(frozen=True, slots=True)
class Part:
    """One ARC header field: as it stands, in relaxed form, and its tags (none for ARC-Authentication-Results)."""

    raw: bytes
    relaxed: bytes
    instance: int
    tags: Mapping[bytes, bytes]

    @property
    def text(self) -> str:
        """What follows the instance in an ARC-Authentication-Results, whatever it is."""
        return self.relaxed.partition(b";")[2].strip().decode("utf-8", "replace")


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
    """From 1 on, where they are complete; none otherwise."""
    fault: str = ""
    """What fails the chain before any signature is looked at."""


def survey(message: bytes, bounds: Authentication) -> Survey:
    """Looks the ARC sets of a message over: our bounds, and steps 1 to 3.B of RFC 8617 5.2. CPU bound."""
    return surveyed(opened(message, bounds), bounds)


def surveyed(header: Header, bounds: Authentication) -> Survey:
    """The same of a message that was opened before."""
    if header.fault:
        return Survey(None, header.mentions(*_TITLES), fault=header.fault)
    arc = [field for field in header.fields if field.name in _TITLES]
    if len(arc) > len(_TITLES) * MAX_SETS:
        return Survey(header, True, MAX_SETS, False, fault=_TOO_MANY)
    sets: dict[int, dict[bytes, Part]] = defaultdict(dict)
    faults: list[str] = []
    for field in arc:
        title = _TITLES[field.name]
        try:
            part = _part(field, header.message, bounds)
        except ValueError as error:
            faults.append(f"malformed {title}: {error}")
            continue
        if field.name in sets[part.instance]:
            faults.append(f"there are two {title} of i={part.instance}")
        sets[part.instance][field.name] = part
    last = max(sets, default=0)
    if last > MAX_SETS:
        faults.insert(0, _TOO_MANY)
    for instance in range(1, min(last, MAX_SETS) + 1):
        faults += [f"there is no {_TITLES[name]} of i={instance}" for name in _TITLES if name not in sets[instance]]
    complete: tuple[ArcSet, ...] = ()
    if not faults:
        complete = tuple(ArcSet(sets[n][_RESULTS], sets[n][_SIGNATURE], sets[n][_SEAL]) for n in range(1, last + 1))
    ended = _SEAL in sets[last] and sets[last][_SEAL].tags.get(b"cv") == b"fail"
    if ended and last <= MAX_SETS:
        faults.insert(0, f"ARC-Seal {last} says cv=fail")
    sealable = not ended and last < MAX_SETS
    return Survey(header, bool(arc), min(last, MAX_SETS), sealable, complete, faults[0] if faults else "")


def _part(field: Field, message: bytes, bounds: Authentication) -> Part:
    """One ARC field, read as far as its instance needs. Raises ValueError."""
    raw = field.raw(message)
    relaxed = relaxed_field(raw)
    value = relaxed[len(field.name) + 1 : -2]
    tags: dict[bytes, bytes] = {}
    if field.name == _RESULTS:
        leading = _RESULTS_INSTANCE.match(value)
        instance = leading[1] if leading is not None else b""
    else:
        tags = read_tags(value, len(raw), bounds.signature_size)
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
