"""Keys: ours, read from a PEM file to sign with; others', read from a TXT record to verify with (RFC 6376 3.6.1)."""

from __future__ import annotations

import base64
import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import assert_never

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)
from dkim.util import InvalidTagValueList, parse_tag_value

from smtproute.core.settings import DomainKey

__all__ = [
    "KeyFault",
    "KeyKind",
    "PublicKey",
    "RecordFault",
    "SigningKey",
    "WeakKey",
    "chosen",
    "generate",
    "load",
    "published",
    "read",
    "record",
    "zone_line",
]

MIN_BITS = 1024
"""RFC 8301 3.2: a shorter RSA key signs nothing."""
MAX_BITS = 8192
"""RFC 8301 3.2 has verifiers take 4096 bits; far beyond that a key is a way to burn our time."""
_MAX_EXPONENT_BITS = 64
_LARGEST = 64 << 10
"""Octets of a key file."""
_LONGEST_RECORD = 8 << 10
"""Octets of a TXT record that we read; the largest key we take has about 1400."""
_MOST_TAGS = 100
"""RFC 6376 3.6.1 has seven."""


class KeyKind(StrEnum):
    """The key types of RFC 6376 3.6.1 and RFC 8463 4, by their names in k=."""

    RSA = "rsa"
    ED25519 = "ed25519"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What a domain signs with. `domain` is an A-label; the public half is at `<selector>._domainkey.<domain>`."""

    domain: str
    selector: str
    private: RSAPrivateKey | Ed25519PrivateKey

    @property
    def kind(self) -> KeyKind:
        return KeyKind.RSA if isinstance(self.private, RSAPrivateKey) else KeyKind.ED25519

    @property
    def algorithm(self) -> str:
        """The value of a= for its signatures."""
        return f"{self.kind}-sha256"

    def sign(self, digest: bytes) -> bytes:
        """The signature over a SHA-256 digest, which Ed25519 takes as its message (RFC 8463 3). CPU bound."""
        if isinstance(self.private, RSAPrivateKey):
            return self.private.sign(digest, PKCS1v15(), Prehashed(SHA256()))
        return self.private.sign(digest)


class KeyFault(ValueError):
    """A key file cannot be signed with. The text names the file, what is wrong and how to mend it."""


class RecordFault(ValueError):
    """A TXT record holds no key that a signature may be verified with; the text says why."""


class WeakKey(RecordFault):
    """Its RSA key is too short to be trusted (RFC 8301 3.2)."""


def load(key: DomainKey, *, sealing: bool = False) -> SigningKey:
    """The signing key in `key.file`: RSA (PKCS#1 or PKCS#8) or Ed25519 (PKCS#8) in PEM, or Ed25519 as rspamd writes it;
    for `sealing` RSA alone.

    Reads the file. Raises KeyFault.
    """
    new = f"make one with: smtproute keys new {key.domain}"
    try:
        text = read(key.file)
    except FileNotFoundError:
        raise KeyFault(f"{key.file}: there is no such file; {new}") from None
    except OSError as error:
        raise KeyFault(f"{key.file}: it cannot be read ({error.strerror}); let our user read this file") from None
    if not text.strip():
        raise KeyFault(f"{key.file}: the file is empty; {new}")
    private = _bare(text) or _pem(key.file, text, new)
    if isinstance(private, Ed25519PrivateKey) and not sealing:
        return SigningKey(key.domain.key, key.selector, private)
    if not isinstance(private, RSAPrivateKey):
        use = "ARC is sealed with RSA" if sealing else "DKIM is signed with RSA or Ed25519"
        raise KeyFault(f"{key.file}: {use}, and this is another kind of key; {new}")
    if not MIN_BITS <= private.key_size <= MAX_BITS:
        raise KeyFault(
            f"{key.file}: the key has {private.key_size} bits, and verifiers take {MIN_BITS} to {MAX_BITS}; {new}"
        )
    return SigningKey(key.domain.key, key.selector, private)


def _bare(text: bytes) -> Ed25519PrivateKey | None:
    """An Ed25519 key as `rspamadm dkim_keygen -t ed25519` writes it: base64 of the seed and the public key."""
    try:
        octets = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        return None
    return Ed25519PrivateKey.from_private_bytes(octets[:32]) if len(octets) in (32, 64) else None


def _pem(file: str, text: bytes, new: str) -> PrivateKeyTypes:
    """The private key in a PEM file; `new` says how a new one is made. Raises KeyFault."""
    if b"-----BEGIN " not in text:
        raise KeyFault(f"{file}: this is no PEM file; convert it with: openssl pkey -inform DER -in {file}")
    if b"PRIVATE KEY-----" not in text:
        raise KeyFault(f"{file}: it holds no private key; name the file with the private key of the pair")
    try:
        return _sound(text)
    except TypeError:
        raise KeyFault(
            f"{file}: the key is encrypted, and there is nobody to ask for the pass phrase; "
            f"decrypt it with: openssl pkey -in {file}"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFault(f"{file}: the private key is damaged or of an unknown kind; {new}") from None


@lru_cache(maxsize=256)
def _sound(text: bytes) -> PrivateKeyTypes:
    """As cryptography reads it. It takes a tenth of a second to see that an RSA key is sound: once is enough."""
    return load_pem_private_key(text, password=None)


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


def generate(kind: KeyKind, bits: int = 2048) -> bytes:
    """A new private key in PEM (PKCS#8), with so many `bits` if it is RSA. CPU bound."""
    private: RSAPrivateKey | Ed25519PrivateKey
    match kind:
        case KeyKind.RSA:
            private = generate_private_key(public_exponent=65537, key_size=bits)
        case KeyKind.ED25519:
            private = Ed25519PrivateKey.generate()
        case _:
            assert_never(kind)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def record(key: SigningKey) -> str:
    """The text of the TXT record to publish for `key`: an RSA key in DER, an Ed25519 key as it is (RFC 8463 4.2)."""
    public_key = key.private.public_key()
    if isinstance(public_key, RSAPublicKey):
        octets = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    else:
        octets = public_key.public_bytes_raw()
    return f"v=DKIM1; k={key.kind}; p={base64.b64encode(octets).decode('ascii')}"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What a TXT record says of a key. In words it is, say, `2048-bit RSA key`."""

    key: RSAPublicKey | Ed25519PublicKey
    strict: bool = False
    """t=s: it signs for the domain itself, for nothing below it."""
    testing: bool = False
    """t=y: the domain is trying DKIM out."""

    @property
    def kind(self) -> KeyKind:
        return KeyKind.RSA if isinstance(self.key, RSAPublicKey) else KeyKind.ED25519

    def made(self, signature: bytes, digest: bytes) -> bool:
        """Whether the private half made this signature over a SHA-256 digest. CPU bound."""
        try:
            if isinstance(self.key, RSAPublicKey):
                self.key.verify(signature, digest, PKCS1v15(), Prehashed(SHA256()))
            else:
                self.key.verify(signature, digest)
        except InvalidSignature:
            return False
        return True

    def __str__(self) -> str:
        kind = f"{self.key.key_size}-bit RSA key" if isinstance(self.key, RSAPublicKey) else "256-bit Ed25519 key"
        return f"{kind} in testing mode" if self.testing else kind


@lru_cache(maxsize=256)
def published(text: bytes) -> PublicKey:
    """What a TXT record says of a key that is fit to verify signatures of mail. Raises RecordFault."""
    if len(text) > _LONGEST_RECORD:
        raise RecordFault(f"the key record has more than {_LONGEST_RECORD} octets")
    if text.count(b";") > _MOST_TAGS:
        raise RecordFault(f"the key record has more than {_MOST_TAGS} tags")
    try:
        tags = parse_tag_value(text)
    except InvalidTagValueList:
        raise RecordFault("the key record is malformed") from None
    if tags.get(b"v", b"DKIM1") != b"DKIM1":
        raise RecordFault("the key record is of an unknown version")
    if b"h" in tags and b"sha256" not in _list(tags[b"h"]):
        raise RecordFault("the key is not for sha256")
    if b"s" in tags and not {b"*", b"email"} & _list(tags[b"s"]):
        raise RecordFault("the key is not for mail")
    encoded = b"".join(tags.get(b"p", b"").split())
    if not encoded:
        raise RecordFault("the key was revoked" if b"p" in tags else "the key record holds no key")
    try:
        octets = base64.b64decode(encoded, validate=True)
    except ValueError:
        raise RecordFault("the key is damaged: p= is not base64") from None
    flags = _list(tags.get(b"t", b""))
    match tags.get(b"k", b"rsa"):
        case b"rsa":
            return PublicKey(_rsa(octets), b"s" in flags, b"y" in flags)
        case b"ed25519":
            return PublicKey(_ed25519(octets), b"s" in flags, b"y" in flags)
        case _:
            raise RecordFault("the key is neither RSA nor Ed25519")


def _rsa(octets: bytes) -> RSAPublicKey:
    try:
        found = load_der_public_key(octets)
    except (ValueError, UnsupportedAlgorithm):
        raise RecordFault("the key is damaged") from None
    if not isinstance(found, RSAPublicKey):
        raise RecordFault("the key is not an RSA key")
    if found.key_size < MIN_BITS:
        raise WeakKey(f"the key has {found.key_size} bits: not {MIN_BITS} to {MAX_BITS}")
    if found.key_size > MAX_BITS:
        raise RecordFault(f"the key has {found.key_size} bits: not {MIN_BITS} to {MAX_BITS}")
    if found.public_numbers().e.bit_length() > _MAX_EXPONENT_BITS:
        raise RecordFault("the key's public exponent is too large")
    return found


def _ed25519(octets: bytes) -> Ed25519PublicKey:
    if len(octets) != 32:
        raise RecordFault(f"the key is damaged: an Ed25519 key has 32 octets, this has {len(octets)} (RFC 8463 4.2)")
    return Ed25519PublicKey.from_public_bytes(octets)


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
