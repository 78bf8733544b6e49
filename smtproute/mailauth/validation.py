"""dkimpy's walk over an ARC chain (RFC 8617 5.2 steps 3 to 6), with our parsing, hashing and OpenSSL's RSA under it.

dkimpy says which tags a field must have, what they may hold, and in which order the checks decide. What it is slow at
or wrong about is replaced by methods of a subclass; nothing of dkimpy itself is changed. It relies on these internals
of dkimpy 1.1, which the ARC suite would see move: `ARC.verify` calls `sorted_arc_headers` and, for each signature,
`verify_sig(sig, include_headers, sig_header, dnsfunc)`; before that for an ARC-Message-Signature it looks for the raw
field in `headers` by the text ` i=N;`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import dkim

from smtproute.mailauth.header import Header, message_digest
from smtproute.mailauth.sets import Part, Survey, seal_digest
from smtproute.mailauth.signature import (
    Records,
    SignatureFault,
    Tags,
    check_body,
    check_times,
    forms,
    key_name,
    plain,
    signed_names,
    verified,
)

__all__ = ["judge_each", "key_names", "validate"]

_SIGNATURE_TAGS = (b"i", b"a", b"b", b"bh", b"d", b"h", b"s")
_SEAL_TAGS = (b"i", b"a", b"b", b"cv", b"d", b"s")


def key_names(found: Survey, *, every: bool = False) -> frozenset[str]:
    """The records that validation needs: of each seal, and of the newest message signature or of `every` one."""
    signed = found.sets if every else found.sets[-1:]
    parts = [each.seal for each in found.sets] + [each.signature for each in signed]
    return frozenset(name for part in parts if (name := key_name(part.tags)) is not None)


def validate(found: Survey, records: Records, at: float) -> str:
    """Why the chain fails; "" where it passes. `found` has sets and no fault. CPU bound.

    `at` is when the message came in, in seconds since the epoch.
    """
    assert found.header is not None
    try:
        walk = _Walk(found.header, found, records, at)
        status, _, words = walk.verify()
    except Exception as error:  # noqa: BLE001 - a verdict: dkimpy meets whatever a stranger wrote
        return f"malformed beyond what could be read: {type(error).__name__}"
    return "" if status == dkim.CV_Pass else next(iter(walk.faults), plain(words))


def judge_each(found: Survey, records: Records, at: float) -> tuple[tuple[str, str], ...]:
    """Of each set, from 1 on: why its ARC-Message-Signature does not verify, and why its ARC-Seal does not.

    "" where it does. `at` is as for `validate`. CPU bound.
    """
    assert found.header is not None
    walk = _Walk(found.header, found, records, at)
    return tuple(
        (
            _fault(each.signature, _SIGNATURE_TAGS, partial(walk.verify_signature, instance)),
            _fault(each.seal, _SEAL_TAGS, partial(walk.verify_seal, instance)),
        )
        for instance, each in enumerate(found.sets, 1)
    )


def _fault(part: Part, mandatory: Sequence[bytes], verify: Callable[[], None]) -> str:
    try:
        dkim.validate_signature_fields(_timeless(part.tags), mandatory, arc=True)
        verify()
    except (dkim.ValidationError, SignatureFault) as fault:
        return plain(str(fault))
    return ""


def _timeless(tags: Tags) -> dict[bytes, bytes]:
    """What dkimpy checks: it would compare t= and x= with the machine's time, whatever the world's is."""
    return {name: value for name, value in tags.items() if name not in (b"t", b"x")}


class _Silent:
    """dkimpy's logger: what it would say comes back as a fault."""

    def debug(self, words: str) -> None: ...

    def error(self, words: str) -> None: ...


class _Walk(dkim.ARC):  # type: ignore[misc]  # dkimpy has no types
    def __init__(self, header: Header, found: Survey, records: Records, at: float) -> None:
        super().__init__(logger=_Silent())
        self.header = header
        self.found = found
        self.records = records
        self.at = at
        self.faults: list[str] = []
        # Where this text is not found, dkimpy dies of an IndexError. verify_sig takes the field itself from `found`.
        self.headers = [(b"arc-message-signature", b" i=" + each.signature.tags[b"i"] + b";") for each in found.sets]

    def sorted_arc_headers(self) -> tuple[int, list[tuple[int, tuple[bytes, bytes]]]]:
        """Descending by set, and within it ARC-Seal, ARC-Message-Signature, ARC-Authentication-Results.

        dkimpy reads tags in the text of the first two, and of the last one only asks that it is there.
        """
        headers = []
        for number, each in reversed(list(enumerate(self.found.sets, 1))):
            for part in (each.seal, each.signature, each.results):
                tags = b";".join(name + b"=" + value for name, value in _timeless(part.tags).items())
                headers.append((number, (part.relaxed.partition(b":")[0], tags)))
        return self.found.highest, headers

    def verify_sig(self, sig: dict[bytes, bytes], _: list[bytes], header: tuple[bytes, bytes], __: Any) -> bool:
        instance = int(sig[b"i"])
        seal = header[0] == b"ARC-Seal"
        if not seal and instance < self.found.highest:
            return False  # Only the newest decides (RFC 8617 5.2 step 4), so no key is asked for.
        try:
            if seal:
                self.verify_seal(instance)
            else:
                self.verify_signature(instance)
        except SignatureFault as fault:
            self.faults.append(f"ARC-{'Seal' if seal else 'Message-Signature'} {instance}: {fault}")
            return False
        return True

    def verify_seal(self, instance: int) -> None:
        """RFC 8617 5.1.1. Raises SignatureFault."""
        each = self.found.sets[instance - 1]
        check_times(each.seal.tags, self.at)
        # Where the chain had failed, a seal covers its own set alone (RFC 8617 5.1.2).
        before = self.found.sets[: instance - 1] if each.seal.tags.get(b"cv") != b"fail" else ()
        digest = seal_digest(before, each.results.relaxed, each.signature.relaxed, each.seal.raw)
        verified(each.seal.tags, digest, self.records)

    def verify_signature(self, instance: int) -> None:
        """RFC 6376 3.7, as RFC 8617 4.1.2 has it. Raises SignatureFault."""
        part = self.found.sets[instance - 1].signature
        check_times(part.tags, self.at)
        field_form, body_form = forms(part.tags.get(b"c", b"relaxed/relaxed"))
        check_body(part.tags, self.header, body_form)
        names = signed_names(part.tags)
        # One From more than was signed is one too many, whether h= says so or not.
        if b"from" in names:
            names.append(b"from")
        verified(part.tags, message_digest(self.header, names, part.raw, field_form), self.records)
