"""Keys: ours, read from a PEM file to sign with; others', read from a TXT record to verify with (RFC 6376 3.6.1)."""

from __future__ import annotations

import base64
import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)
from dkim.util import InvalidTagValueList, parse_tag_value

from smtproute.core.settings import DomainKey

__all__ = ["KeyFault", "RecordFault", "SigningKey", "chosen", "load", "public", "read", "record", "zone_line"]

MIN_BITS = 1024
"""RFC 8301 3.2: a shorter RSA key signs nothing."""
MAX_BITS = 8192
"""RFC 8301 3.2 has verifiers take 4096 bits; far beyond that a key is a way to burn our time."""
_MAX_EXPONENT_BITS = 64
_LARGEST = 64 << 10
"""Octets of a key file."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What a domain signs with. `domain` is an A-label; the public half is at `<selector>._domainkey.<domain>`."""

    domain: str
    selector: str
    private: RSAPrivateKey


class KeyFault(ValueError):
    """A key file cannot be signed with. The text names the file, what is wrong and how to mend it."""


class RecordFault(ValueError):
    """A TXT record holds no key that a signature may be verified with; the text says why."""


def load(key: DomainKey) -> SigningKey:
    """The signing key in `key.file`: RSA, in PEM (PKCS#1 or PKCS#8). Reads the file. Raises KeyFault."""
    new = f"make one with: openssl genrsa -out {key.file} 2048"
    try:
        text = read(key.file)
    except FileNotFoundError:
        raise KeyFault(f"{key.file}: there is no such file; {new}") from None
    except OSError as error:
        raise KeyFault(f"{key.file}: it cannot be read ({error.strerror}); let our user read this file") from None
    if not text.strip():
        raise KeyFault(f"{key.file}: the file is empty; {new}")
    if b"-----BEGIN " not in text:
        raise KeyFault(f"{key.file}: this is no PEM file; convert it with: openssl pkey -inform DER -in {key.file}")
    if b"PRIVATE KEY-----" not in text:
        raise KeyFault(f"{key.file}: it holds no private key; name the file with the private key of the pair")
    try:
        private = load_pem_private_key(text, password=None)
    except TypeError:
        raise KeyFault(
            f"{key.file}: the key is encrypted, and there is nobody to ask for the pass phrase; "
            f"decrypt it with: openssl pkey -in {key.file}"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFault(f"{key.file}: the private key is damaged or of an unknown kind; {new}") from None
    if not isinstance(private, RSAPrivateKey):
        raise KeyFault(f"{key.file}: ARC is sealed with RSA, and this is another kind of key; {new}")
    if not MIN_BITS <= private.key_size <= MAX_BITS:
        raise KeyFault(
            f"{key.file}: the key has {private.key_size} bits, and verifiers take {MIN_BITS} to {MAX_BITS}; {new}"
        )
    return SigningKey(key.domain.key, key.selector, private)


def read(file: str) -> bytes:
    """What a key file holds; nobody waits for a pipe. Raises OSError, also for what is no file of 64 KiB at most."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            raise OSError(errno.EINVAL, "It is no regular file of 64 KiB at most", file)
        return os.read(descriptor, _LARGEST)
    finally:
        os.close(descriptor)


def record(key: SigningKey) -> str:
    """The text of the TXT record to publish for `key`."""
    spki = key.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"v=DKIM1; k=rsa; p={base64.b64encode(spki).decode('ascii')}"


def public(text: bytes) -> RSAPublicKey:
    """The key in a TXT record, fit to verify rsa-sha256 signatures of mail. Raises RecordFault."""
    try:
        tags = parse_tag_value(text)
    except InvalidTagValueList:
        raise RecordFault("the key record is malformed") from None
    if tags.get(b"v", b"DKIM1") != b"DKIM1":
        raise RecordFault("the key record is of an unknown version")
    if tags.get(b"k", b"rsa") != b"rsa":
        raise RecordFault("the key is not an RSA key")
    if b"h" in tags and b"sha256" not in _list(tags[b"h"]):
        raise RecordFault("the key is not for sha256")
    if b"s" in tags and not {b"*", b"email"} & _list(tags[b"s"]):
        raise RecordFault("the key is not for mail")
    encoded = b"".join(tags.get(b"p", b"").split())
    if not encoded:
        raise RecordFault("the key was revoked" if b"p" in tags else "the key record holds no key")
    try:
        found = load_der_public_key(base64.b64decode(encoded, validate=True))
    except (ValueError, UnsupportedAlgorithm):
        raise RecordFault("the key is damaged") from None
    if not isinstance(found, RSAPublicKey):
        raise RecordFault("the key is not an RSA key")
    if not MIN_BITS <= found.key_size <= MAX_BITS:
        raise RecordFault(f"the key has {found.key_size} bits: not {MIN_BITS} to {MAX_BITS}")
    if found.public_numbers().e.bit_length() > _MAX_EXPONENT_BITS:
        raise RecordFault("the key's public exponent is too large")
    return found


def chosen(texts: Iterable[bytes]) -> bytes | None:
    """The one of several TXT records that is taken for the key, because a key may share its name with other records.

    One that starts with `v=DKIM1`, else one with a `p=`; among equals the first by octets, because servers rotate.
    None where there is no record.
    """
    return min(texts, key=lambda text: (not text.startswith(b"v=DKIM1"), b"p=" not in text, text), default=None)


def zone_line(name: str, text: str) -> str:
    """A TXT record as zone files have it (RFC 1035 5.1): in strings of 255 octets, which a reader joins again."""
    octets = text.encode()
    strings = [octets[at : at + 255] for at in range(0, len(octets), 255)] or [b""]
    return f"{name}. IN TXT {' '.join(map(_quoted, strings))}"


def _quoted(octets: bytes) -> str:
    plain = octets.decode("latin-1").replace("\\", r"\\").replace('"', r"\"")
    return '"' + "".join(sign if " " <= sign <= "~" else f"\\{ord(sign):03d}" for sign in plain) + '"'


def _list(value: bytes) -> set[bytes]:
    return {item.strip() for item in value.split(b":")}
