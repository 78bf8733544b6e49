"""DKIM (RFC 6376, RFC 8301, RFC 8463): judging the signatures that a message brings.

Of dkimpy the grammar of a signature is taken: the list of tags, and which of them must be there. What it lets pass
or dies of, the algorithm, identity, times and body length, is looked at here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import dkim

from smtproute.core.lookup import Lookup
from smtproute.core.message import Field
from smtproute.core.settings import Authentication
from smtproute.core.verdict import Verdict
from smtproute.mailauth.canonical import relaxed_field
from smtproute.mailauth.header import Header, message_digest, opened
from smtproute.mailauth.keys import PublicKey
from smtproute.mailauth.signature import (
    DkimResult,
    Records,
    SignatureFault,
    Tags,
    check_body,
    check_times,
    domain_in,
    forms,
    key_name,
    look_up,
    plain,
    read_tags,
    signed_names,
    verified,
)

__all__ = ["DkimResult", "Signature", "check", "verdict"]

_NAME = b"dkim-signature"
_GRAMMAR = (b"v", b"a", b"b", b"bh", b"d", b"h", b"s")
"""The tags that dkimpy is right about: they must be there, in v= and b= is what may be, d= holds no specials."""
_MOST_NAMES = 1000
"""In h=; a real one has about thirty."""
_LONGEST_REASON = 300


@dataclass(frozen=True, slots=True)
class Signature:
    """What a DKIM-Signature came to. Of one that cannot be read some texts are empty."""

    result: DkimResult
    reason: str
    """In words; of one that passes, what kind of key made it."""
    domain: str = ""
    """d=, as A-labels."""
    selector: str = ""
    identity: str = ""
    """i=, as it was written or by default."""
    algorithm: str = ""
    value: str = ""
    """The first characters of b=, by which RFC 6008 tells signatures apart."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """A DKIM-Signature that was read: its tags, and why it fails before any key is asked for."""

    raw: bytes
    tags: Tags
    fault: SignatureFault | None


async def check(
    message: bytes, lookup: Lookup, pool: Executor, bounds: Authentication, at: float, header: Header | None = None
) -> tuple[Signature, ...]:
    """Judges every DKIM-Signature of a message, in their order (RFC 6376 6); none where there is none.

    `at` is when the message came in, in seconds since the epoch. `header` is the message as `opened`, where it was
    before. All keys are looked up at once; what takes CPU runs in `pool`. Those beyond `bounds` are one result
    together. Whatever the message holds, results come out.
    """
    if header is not None and not header.mentions(_NAME):
        return ()
    loop = asyncio.get_running_loop()
    read, claims = await loop.run_in_executor(pool, _read, message, bounds, at, header)
    if read.fault:
        return (Signature(DkimResult.PERMERROR, read.fault),) if read.mentions(_NAME) else ()
    names = {name for claim in claims if claim.fault is None and (name := key_name(claim.tags)) is not None}
    records = await look_up(names, lookup)
    judged = await loop.run_in_executor(pool, _judge, read, claims, records) if claims else ()
    more = read.count(_NAME) - len(claims)
    if more:
        reason = f"{more} more signatures were not looked at: there are more than {bounds.signatures}"
        return (*judged, Signature(DkimResult.POLICY, reason))
    return judged


def verdict(signature: Signature) -> Verdict:
    """One signature as a result of Authentication-Results (RFC 8601 2.7.1, RFC 6008)."""
    properties = (
        ("header.d", signature.domain),
        ("header.i", signature.identity),
        ("header.s", signature.selector),
        ("header.a", signature.algorithm),
        ("header.b", signature.value),
    )
    return Verdict("dkim", signature.result, tuple(each for each in properties if each[1]), signature.reason)


def _read(
    message: bytes, bounds: Authentication, at: float, header: Header | None
) -> tuple[Header, tuple[_Claim, ...]]:
    header = header or opened(message, bounds)
    found = [field for field in header.fields if field.name == _NAME]
    return header, tuple(_claim(header, field, bounds, at) for field in found[: bounds.signatures])


def _claim(header: Header, field: Field, bounds: Authentication, at: float) -> _Claim:
    raw = field.raw(header.message)
    tags: Tags = {}
    try:
        value = relaxed_field(raw)[len(_NAME) + 1 : -2] if len(raw) <= bounds.signature_size else b""
        tags = read_tags(value, len(raw), bounds.signature_size)
        _check_tags(tags)
        _check_identity(tags)
        check_times(tags, at)
        _check_author(tags, header)
    except SignatureFault as fault:
        return _Claim(raw, tags, fault)
    return _Claim(raw, tags, None)


def _check_tags(tags: Tags) -> None:
    """RFC 6376 6.1.1: what must be there, and what we can verify. Raises SignatureFault."""
    algorithm = tags.get(b"a", b"")
    if algorithm == b"rsa-sha1":
        raise SignatureFault(DkimResult.FAIL, "rsa-sha1 can be forged, and counts no more (RFC 8301)")
    try:
        dkim.validate_signature_fields({name: tags[name] for name in _GRAMMAR if name in tags}, _GRAMMAR)
    except dkim.ValidationError as fault:
        raise SignatureFault(DkimResult.NEUTRAL, plain(str(fault))) from None
    forms(tags.get(b"c", b"simple/simple"))
    if b"q" in tags and b"dns/txt" not in [method.strip() for method in tags[b"q"].split(b":")]:
        raise SignatureFault(DkimResult.NEUTRAL, "q= names no way to a key that we know")


def _check_identity(tags: Tags) -> None:
    """That i= is of d= or below it (RFC 6376 3.5), and what the key is asked for by. Raises SignatureFault."""
    if key_name(tags) is None:
        raise SignatureFault(DkimResult.NEUTRAL, "s= and d= name no key")
    identity, domain = _identity(tags), domain_in(tags[b"d"])
    if domain is None or identity is None:
        raise SignatureFault(DkimResult.NEUTRAL, "i= is no address")
    if identity != domain and not identity.endswith(f".{domain}"):
        raise SignatureFault(DkimResult.PERMERROR, f"i= is not of the domain {domain}")


def _identity(tags: Tags) -> str | None:
    """The domain of i=, which is d= by default (RFC 6376 3.5); None where it has none."""
    _, at, domain = tags.get(b"i", b"@" + tags[b"d"]).rpartition(b"@")
    return domain_in(domain) if at else None


def _check_author(tags: Tags, header: Header) -> None:
    """That From is signed (RFC 6376 5.4), and that none was put in (8.15). Raises SignatureFault."""
    names = signed_names(tags)
    if len(names) > _MOST_NAMES:
        raise SignatureFault(DkimResult.POLICY, f"h= has more than {_MOST_NAMES} names")
    signed = names.count(b"from")
    if not signed:
        raise SignatureFault(DkimResult.PERMERROR, "From is not signed: h= does not name it")
    there = header.count(b"from")
    if there > signed:
        raise SignatureFault(DkimResult.FAIL, f"there are {there} From fields, and h= covers {signed}")


def _judge(header: Header, claims: Sequence[_Claim], records: Records) -> tuple[Signature, ...]:
    return tuple(_judged(header, claim, records) for claim in claims)


def _verify(header: Header, tags: Tags, raw: bytes, records: Records) -> PublicKey:
    """The key that made the signature. Raises SignatureFault."""
    field_form, body_form = forms(tags.get(b"c", b"simple/simple"))
    check_body(tags, header, body_form)
    key = verified(tags, message_digest(header, signed_names(tags), raw, field_form), records)
    if key.strict and _identity(tags) != domain_in(tags[b"d"]):
        raise SignatureFault(DkimResult.PERMERROR, f"i= is below d=, for which {key_name(tags)} is not meant (t=s)")
    return key


def _judged(header: Header, claim: _Claim, records: Records) -> Signature:
    tags = claim.tags
    try:
        if claim.fault is not None:
            raise claim.fault
        result, reason = DkimResult.PASS, str(_verify(header, tags, claim.raw, records))
    except SignatureFault as fault:
        result, reason = fault.result, str(fault)
    domain = domain_in(tags.get(b"d", b"")) or ""
    return Signature(
        result,
        reason[:_LONGEST_REASON],
        domain,
        domain_in(tags.get(b"s", b"")) or "",
        _text(tags.get(b"i", b"")) or (f"@{domain}" if domain else ""),
        _text(tags.get(b"a", b"")),
        _text(b"".join(tags.get(b"b", b"").split()))[:8],
    )


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
