"""dkimpy's walk over an ARC chain (RFC 8617 5.2 steps 3 to 6), with our parsing, hashing and OpenSSL's RSA under it.

dkimpy says which tags a field must have, what they may hold, and in which order the checks decide. What it is slow at
or wrong about is replaced by methods of a subclass; nothing of dkimpy itself is changed. It relies on these internals
of dkimpy 1.1, which the ARC suite would see move: `ARC.verify` calls `sorted_arc_headers` and, for each signature,
`verify_sig(sig, include_headers, sig_header, dnsfunc)`; before that for an ARC-Message-Signature it looks for the raw
field in `headers` by the text ` i=N;`.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import dkim
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from smtproute.core.address import AddressError, Domain
from smtproute.mailauth.canonical import relaxed_body, relaxed_field, simple_body, simple_field, without_signature
from smtproute.mailauth.keys import RecordFault, public
from smtproute.mailauth.sets import Header, Part, Survey, seal_digest

__all__ = ["Records", "Unavailable", "key_names", "message_digest", "validate"]

_FIELD_FORMS = {b"relaxed": relaxed_field, b"simple": simple_field}
_BODY_FORMS = {b"relaxed": relaxed_body, b"simple": simple_body}


class Unavailable(str):
    """In place of a record: why the look-up could not be answered."""

    __slots__ = ()


Records = Mapping[str, bytes | Unavailable | None]
"""TXT records by name; None: there is no such record."""


def key_name(tags: Mapping[bytes, bytes]) -> str | None:
    """The name of the record with the key of a signature (RFC 6376 3.6.2.1), as A-labels; None where it has none."""
    try:
        selector, domain = (Domain.parse(tags[tag].decode()) for tag in (b"s", b"d"))
    except (KeyError, UnicodeDecodeError, AddressError):
        return None
    name = f"{selector.key}._domainkey.{domain.key}"
    return None if selector.literal or domain.literal or len(name) > 253 else name


def key_names(found: Survey) -> frozenset[str]:
    """The records that validation needs: of each seal, and of the newest message signature."""
    parts = [each.seal for each in found.sets] + [each.signature for each in found.sets[-1:]]
    return frozenset(name for part in parts if (name := key_name(part.tags)) is not None)


def validate(found: Survey, records: Records) -> str:
    """Why the chain fails; "" where it passes. `found` has sets and no fault. CPU bound."""
    assert found.header is not None
    try:
        walk = _Walk(found.header, found, records)
        status, _, words = walk.verify()
    except Exception as error:  # noqa: BLE001 - a verdict: dkimpy meets whatever a stranger wrote
        return f"malformed beyond what could be read: {type(error).__name__}"
    return "" if status == dkim.CV_Pass else next(iter(walk.faults), words)


class _SignatureFault(ValueError):
    """A signature does not verify; the text says why."""


class _Silent:
    """dkimpy's logger: what it would say comes back as a fault."""

    def debug(self, words: str) -> None: ...

    def error(self, words: str) -> None: ...


class _Walk(dkim.ARC):  # type: ignore[misc]  # dkimpy has no types
    def __init__(self, header: Header, found: Survey, records: Records) -> None:
        super().__init__(logger=_Silent())
        self.header = header
        self.found = found
        self.records = records
        self.faults: list[str] = []
        # Where this text is not found, dkimpy dies of an IndexError. verify_sig takes the field itself from `found`.
        self.headers = [(b"arc-message-signature", b" i=" + each.signature.tags[b"i"] + b";") for each in found.sets]

    def sorted_arc_headers(self) -> tuple[int, list[tuple[int, tuple[bytes, bytes]]]]:
        """Descending by set, and within it ARC-Seal, ARC-Message-Signature, ARC-Authentication-Results."""
        headers = []
        for number, each in reversed(list(enumerate(self.found.sets, 1))):
            for part in (each.seal, each.signature, each.results):
                name, _, value = part.relaxed.partition(b":")
                headers.append((number, (name, value)))
        return self.found.highest, headers

    def verify_sig(self, sig: dict[bytes, bytes], include: list[bytes], header: tuple[bytes, bytes], _: Any) -> bool:
        instance = int(sig[b"i"])
        each = self.found.sets[instance - 1]
        seal = header[0] == b"ARC-Seal"
        if not seal and instance < self.found.highest:
            return False  # Only the newest decides (RFC 8617 5.2 step 4), so no key is asked for.
        try:
            if seal:
                before = self.found.sets[: instance - 1]
                digest = seal_digest(before, each.results.relaxed, each.signature.relaxed, each.seal.raw)
            else:
                digest = self._message_digest(sig, include, each.signature)
            self._verify(sig, digest)
        except _SignatureFault as fault:
            self.faults.append(f"ARC-{'Seal' if seal else 'Message-Signature'} {instance}: {fault}")
            return False
        return True

    def _message_digest(self, sig: dict[bytes, bytes], include: list[bytes], part: Part) -> bytes:
        """RFC 6376 3.7, with the body hash checked on the way."""
        field_form, _, body_form = sig[b"c"].partition(b"/")
        if field_form not in _FIELD_FORMS or (body_form or b"simple") not in _BODY_FORMS:
            raise _SignatureFault("unknown canonicalization c=")
        body = _BODY_FORMS[body_form or b"simple"](self.header.message[self.header.body :])
        if b"l" in sig and int(sig[b"l"]) != len(body):
            raise _SignatureFault("l= is not the length of the body: what was put after it would be unsigned")
        if sha256(body).digest() != _decoded(sig[b"bh"]):
            raise _SignatureFault("the body was changed")
        # One From more than was signed is one too many, whether h= says so or not.
        names = [*include, b"from"] if b"from" in include else include
        return message_digest(self.header, names, part.raw, field_form)

    def _verify(self, sig: dict[bytes, bytes], digest: bytes) -> None:
        name = key_name(sig)
        if name is None:
            raise _SignatureFault("s= and d= name no key")
        text = self.records.get(name)
        if isinstance(text, Unavailable):
            raise _SignatureFault(f"the key {name} could not be looked up: {text}")
        if text is None:
            raise _SignatureFault(f"there is no key {name}")
        try:
            public(text).verify(_decoded(sig[b"b"]), digest, PKCS1v15(), Prehashed(SHA256()))
        except RecordFault as fault:
            raise _SignatureFault(f"{name}: {fault}") from None
        except InvalidSignature:
            raise _SignatureFault("the signature does not match") from None


def message_digest(header: Header, names: Sequence[bytes], signature: bytes, form: bytes = b"relaxed") -> bytes:
    """The SHA-256 digest that an ARC-Message-Signature signs (RFC 6376 3.7).

    `names` are those of h=, lower-case; several of one name take the fields from the bottom up (5.4.2), one without
    a field is null. `signature` is the field itself as it stands, with or without its b=.
    """
    canonical = _FIELD_FORMS[form]
    left: dict[bytes, list[bytes]] = defaultdict(list)
    for field in header.fields:
        raw = field.raw(header.message)
        if raw != signature:
            left[field.name].append(raw)
    digest = sha256()
    for name in names:
        if left[name]:
            digest.update(canonical(left[name].pop()))
    digest.update(canonical(without_signature(signature)).removesuffix(b"\r\n"))
    return digest.digest()


def _decoded(value: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(value.split()), validate=True)
    except ValueError:
        raise _SignatureFault("a value is not base64") from None
