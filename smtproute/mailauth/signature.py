"""One signature, DKIM's or ARC's: the tags of its field, the key that they name, and whether that key made it."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum

from dkim.util import InvalidTagValueList, parse_tag_value

from smtproute.core.address import AddressError, Domain
from smtproute.core.lookup import Lookup, Unanswered
from smtproute.mailauth.header import FORMS, Header
from smtproute.mailauth.keys import PublicKey, RecordFault, WeakKey, chosen, published

__all__ = [
    "DkimResult",
    "Records",
    "SignatureFault",
    "Tags",
    "Unavailable",
    "check_body",
    "check_times",
    "decoded",
    "domain_in",
    "forms",
    "key_name",
    "look_up",
    "plain",
    "read_tags",
    "signed_names",
    "verified",
]

Tags = Mapping[bytes, bytes]

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_NUMBER = re.compile(rb"[0-9]{1,20}")
_MOST_TAGS = 100
"""RFC 6376 3.5 has fourteen."""
_LONGEST_DOMAIN = 253
_DRIFT = 300
"""Seconds that a signature is good for beyond x=, because clocks differ (RFC 6376 3.5); OpenDKIM's ClockDrift."""
_WRONG_CLOCK = 36_000
"""Seconds that t= may lie in the future, because some mailers have no right time; dkimpy's."""


class DkimResult(StrEnum):
    """The words of RFC 8601 2.7.1."""

    NONE = "none"
    PASS = "pass"
    FAIL = "fail"
    POLICY = "policy"
    """It may be right, but it is none that we accept."""
    NEUTRAL = "neutral"
    """It cannot be read, or is of a kind that we do not know."""
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


class SignatureFault(ValueError):
    """A signature does not pass; the text says why."""

    def __init__(self, result: DkimResult, reason: str) -> None:
        super().__init__(reason)
        self.result = result


class Unavailable(str):
    """In place of a record: why the look-up could not be answered."""

    __slots__ = ()


Records = Mapping[str, bytes | Unavailable | None]
"""TXT records by name; None: there is no such record."""


def read_tags(value: bytes, size: int, largest: int) -> dict[bytes, bytes]:
    """The tags in the value of a signature field (RFC 6376 3.2), which is in relaxed form and had `size` octets.

    Those that are numbers are numbers of 20 digits at most. Raises SignatureFault, without much work where the field
    has more than `largest` octets.
    """
    if size > largest:
        raise SignatureFault(DkimResult.POLICY, f"it has more than {largest} octets")
    if _CONTROL.search(value) is not None:
        raise SignatureFault(DkimResult.NEUTRAL, "it holds a control character")
    if value.count(b";") > _MOST_TAGS:
        raise SignatureFault(DkimResult.NEUTRAL, f"it has more than {_MOST_TAGS} tags")
    try:
        tags: dict[bytes, bytes] = parse_tag_value(value)
    except InvalidTagValueList:
        raise SignatureFault(DkimResult.NEUTRAL, "it is no list of tags, or has one twice") from None
    # int() of thousands of digits is refused or slow.
    for name in (b"t", b"x", b"l"):
        if name in tags and _NUMBER.fullmatch(tags[name]) is None:
            raise SignatureFault(DkimResult.NEUTRAL, f"{name.decode()}= is no number")
    return tags


def domain_in(value: bytes) -> str | None:
    """A domain name in a tag, as A-labels; None where it is none that DNS can have."""
    if len(value) > _LONGEST_DOMAIN:
        return None
    try:
        domain = Domain.parse(value.decode())
    except (UnicodeDecodeError, AddressError):
        return None
    return None if domain.literal else domain.key


def key_name(tags: Tags) -> str | None:
    """The name of the record with the key of a signature (RFC 6376 3.6.2.1); None where it has none."""
    selector, domain = (domain_in(tags.get(tag, b"")) for tag in (b"s", b"d"))
    if selector is None or domain is None:
        return None
    name = f"{selector}._domainkey.{domain}"
    return name if len(name) <= _LONGEST_DOMAIN else None


def signed_names(tags: Tags) -> list[bytes]:
    """The header fields of h=, lower-case and in order. White space is single in relaxed form."""
    return tags[b"h"].lower().replace(b" :", b":").replace(b": ", b":").split(b":")


def forms(canonicalization: bytes) -> tuple[bytes, bytes]:
    """The forms of header fields and body in c= (RFC 6376 3.5). Raises SignatureFault."""
    field, slash, body = canonicalization.partition(b"/")
    body = body if slash else b"simple"
    if field not in FORMS or body not in FORMS:
        raise SignatureFault(DkimResult.NEUTRAL, "unknown canonicalization c=")
    return field, body


def check_times(tags: Tags, at: float) -> None:
    """t= and x= (RFC 6376 3.5) of a signature that is judged `at` seconds since the epoch. Raises SignatureFault."""
    made = int(tags[b"t"]) if b"t" in tags else None
    if made is not None and made > at + _WRONG_CLOCK:
        raise SignatureFault(DkimResult.NEUTRAL, "t= is in the future")
    if b"x" not in tags:
        return
    ends = int(tags[b"x"])
    if made is not None and ends <= made:
        raise SignatureFault(DkimResult.NEUTRAL, "x= is not after t=")
    if ends + _DRIFT < at:
        raise SignatureFault(
            DkimResult.FAIL, f"it expired at {datetime.fromtimestamp(ends, UTC):%Y-%m-%d %H:%M:%S} UTC"
        )


def check_body(tags: Tags, header: Header, form: bytes) -> None:
    """That the body is the one that was signed, all of it (bh=, l=). CPU bound. Raises SignatureFault.

    What is put after l= octets is unsigned (RFC 6376 8.2), so what covers a part only is not looked into.
    """
    length, digest = header.body_hash(form)
    signed = int(tags.get(b"l", length))
    if signed < length:
        raise SignatureFault(DkimResult.POLICY, f"l= covers {signed} of {length} octets: the rest is unsigned")
    if signed > length:
        raise SignatureFault(DkimResult.FAIL, f"l= covers {signed} octets, and the body has {length}")
    if digest != decoded(tags, b"bh"):
        raise SignatureFault(DkimResult.FAIL, "the body was changed")


async def look_up(names: Iterable[str], lookup: Lookup) -> Records:
    """The key records, asked for all at once."""
    records: dict[str, bytes | Unavailable | None] = {}

    async def ask(name: str) -> None:
        try:
            records[name] = chosen(await lookup.texts(name))
        except Unanswered as error:
            records[name] = Unavailable(str(error))

    async with asyncio.TaskGroup() as group:
        for name in sorted(set(names)):
            group.create_task(ask(name))
    return records


def verified(tags: Tags, digest: bytes, records: Records) -> PublicKey:
    """The key that signed `digest`, as d=, s=, a= and b= say. CPU bound. Raises SignatureFault."""
    name = key_name(tags)
    if name is None:
        raise SignatureFault(DkimResult.NEUTRAL, "s= and d= name no key")
    text = records.get(name)
    if isinstance(text, Unavailable):
        raise SignatureFault(DkimResult.TEMPERROR, f"the key {name} could not be looked up: {text}")
    if text is None:
        raise SignatureFault(DkimResult.PERMERROR, f"there is no key {name}")
    try:
        key = published(text)
    except RecordFault as fault:
        # RFC 8301 3.2: a signature by a weak key is as good as broken.
        result = DkimResult.FAIL if isinstance(fault, WeakKey) else DkimResult.PERMERROR
        raise SignatureFault(result, f"{name}: {fault}") from None
    if tags[b"a"] != f"{key.kind}-sha256".encode():
        raise SignatureFault(DkimResult.PERMERROR, f"{name}: a {key} makes no {tags[b'a'].decode()} signatures")
    if not key.made(decoded(tags, b"b"), digest):
        raise SignatureFault(DkimResult.FAIL, f"the signature does not match {name}, a {key}")
    return key


def decoded(tags: Tags, tag: bytes) -> bytes:
    """The octets in a tag of base64, which may be folded. Raises SignatureFault."""
    try:
        return base64.b64decode(b"".join(tags[tag].split()), validate=True)
    except ValueError:
        raise SignatureFault(DkimResult.NEUTRAL, f"{tag.decode()}= is not base64") from None


def plain(words: str) -> str:
    """What dkimpy says, without the marks that Python puts around octets."""
    return words.replace("b'", "").replace("'", "")
