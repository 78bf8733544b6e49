"""Diagnosis: what was done to a message after it was signed, as far as a signature that broke still tells.

A digest says that something differs, never what. So what is known to befall mail on its way is undone, one change at
a time and some together, until the digest is the one that was signed. What is found that way is certain; where nothing
is found, it was another change. The number of trials is bounded, and so are the octets that they hash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from itertools import islice

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from smtproute.core.message import fields
from smtproute.core.settings import Authentication
from smtproute.mailauth.body_changes import change
from smtproute.mailauth.canonical import relaxed_body, relaxed_field, simple_body
from smtproute.mailauth.header import Header, message_digest, opened
from smtproute.mailauth.header_changes import copied, trials
from smtproute.mailauth.keys import RecordFault, published
from smtproute.mailauth.signature import SignatureFault, decoded, read_tags

__all__ = ["diagnose"]

_TRIALS = 1000
"""Changes of the header, and combinations of them, that are undone."""
_OCTETS = 32 << 20
"""That these trials may read, where each field counts for a thousand beside its own."""
_FILTERED = frozenset({"user-agent", "x-mailer", "x-enigmail", "x-originating-ip"})

_Tags = Mapping[bytes, bytes]
_Signs = Callable[[bytes], bool]
"""Whether this is the digest that was signed."""


def diagnose(message: bytes, signature: bytes, record: bytes | None, bounds: Authentication) -> tuple[str, ...]:
    """What was changed since `signature` was made, in sentences; nothing where it verifies or cannot be read.

    `signature` is a DKIM-Signature or ARC-Message-Signature of `message`, the field as it stands; `record` the TXT
    record of its key: without it only the body can be looked at. CPU bound.
    """
    header = opened(message, bounds)
    try:
        tags = read_tags(relaxed_field(signature).partition(b":")[2].strip(), len(signature), bounds.signature_size)
    except SignatureFault:
        return ()
    if header.fault or not tags.get(b"a", b"").endswith(b"-sha256"):
        return ()
    body = _body(header, tags)
    header_said = _fields(header, signature, tags, record)
    if body and header_said == ():
        return (*body, "The signed header fields are as they were.")
    if header_said and body == ():
        return (*header_said, "The body is as it was.")
    return (*(body or ()), *(header_said or ()))


def _body(header: Header, tags: _Tags) -> tuple[str, ...] | None:
    """What was done to the body; None where that cannot be told."""
    named = tags.get(b"c", b"").partition(b"/")[2] or b"simple"
    form = {b"relaxed": relaxed_body, b"simple": simple_body}.get(named)
    try:
        wanted = decoded(tags, b"bh")
    except (KeyError, SignatureFault):
        return None
    if form is None:
        return None
    body = header.message[header.body :]
    canonical = form(body)
    length = int(tags.get(b"l", len(canonical)))
    if sha256(canonical[:length]).digest() == wanted:
        return ()
    if length > len(canonical):
        return (f"The end of the body is gone: {length} octets were signed, and {len(canonical)} are there.",)
    if length < len(canonical):
        return (f"The body was changed within the first {length} octets, which were signed.",)
    return (change(body, form, wanted),)


def _fields(header: Header, signature: bytes, tags: _Tags, record: bytes | None) -> tuple[str, ...] | None:
    """What was done to the signed fields; None where that cannot be told."""
    form = tags.get(b"c", b"").partition(b"/")[0] or b"simple"
    if form not in (b"relaxed", b"simple") or record is None:
        return None
    try:
        signs = _signs(record, decoded(tags, b"b"))
    except (KeyError, SignatureFault, RecordFault):
        return None
    except InvalidSignature:
        return ("The signature was made with another key than the one that is published, or its b= was damaged.",)
    names = [name.strip().lower() for name in tags.get(b"h", b"").split(b":")]
    message = header.message
    signed = [each for each in header.fields if each.name in names and each.raw(message) != signature]

    def intact(section: bytes) -> bool:
        return signs(message_digest(Header(section, fields(section), len(section)), names, signature, form))

    section = b"".join(each.raw(message) for each in signed)
    if intact(section):
        return ()
    if b"z" in tags and (said := copied(message, header.fields, tags[b"z"])):
        return said
    most = min(_TRIALS, _OCTETS // (len(section) + 1000 * len(signed) + 1))
    for trial in islice(trials(message, header.fields, signed, names), most):
        if intact(trial.section):
            return trial.said
    return _unknown(names, {each.name: each.raw(message) for each in signed})


def _signs(record: bytes, value: bytes) -> _Signs:
    """Raises RecordFault; and InvalidSignature where the key did not make the signature, whatever it signs."""
    key = published(record)
    if isinstance(key.key, RSAPublicKey):
        wanted = key.key.recover_data_from_signature(value, PKCS1v15(), SHA256())
        return lambda digest: digest == wanted
    return lambda digest: key.made(value, digest)


def _unknown(names: Sequence[bytes], there: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """What is left to say where no known change is what happened; `there` are the signed fields, by name."""
    absent = sorted({name.decode("ascii", "replace") for name in names if name not in there})
    said = ["A signed header field was changed, added or removed, in no way that is known here."]
    if absent:
        said.append(
            f"Of the names in h= these have no field: {', '.join(absent)}. They were removed, or never there: many"
            " signers name what is not there, so that nobody adds it."
        )
    if not _FILTERED.isdisjoint(absent):
        said.append("docker-mailserver removes such fields from what it sends (smtp_header_checks), and so do others.")
    if there.get(b"mime-version", b"").rstrip() == b"Mime-Version: 1.0":
        said.append(
            "Mime-Version may have had a comment (Apple Mail writes one), which docker-mailserver removes on the"
            " way out (smtp_header_checks)."
        )
    return tuple(said)
