"""What the DKIM tests share: signatures made by hand, by dkimpy and by Perl, and how dkimpy and Perl judge ours."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import dkim
from arc_peers import AT, ZoneTxt, pem, signing_key, zone
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smtproute.core.lookup import Lookup
from smtproute.core.settings import Authentication
from smtproute.mailauth.canonical import relaxed_body, simple_body
from smtproute.mailauth.dkim import Signature, check
from smtproute.mailauth.header import message_digest, opened
from smtproute.mailauth.keys import SigningKey

BOUNDS = Authentication(header_size=512 * 1024)
NAME = "mail._domainkey.example.org"
TAGS = "v=1; a={a}; c=relaxed/relaxed; d=example.org; s={s}; h=from:to:subject; bh={bh}; b="


@lru_cache
def ed25519_key(domain: str = "example.org") -> SigningKey:
    return SigningKey(domain, "ed", Ed25519PrivateKey.generate())


def both() -> dict[str, str]:
    """The records of the RSA key and of the Ed25519 key."""
    return zone(signing_key(), ed25519_key())


def checked(
    message: bytes,
    asked: Lookup | Mapping[str, str | bytes] | None = None,
    *,
    at: float = AT,
    bounds: Authentication = BOUNDS,
) -> tuple[Signature, ...]:
    """check(), from outside an event loop."""
    lookup = ZoneTxt(both() if asked is None else asked) if asked is None or isinstance(asked, Mapping) else asked
    with ThreadPoolExecutor(1) as pool:
        return asyncio.run(check(message, lookup, pool, bounds, at))


def one(message: bytes, asked: Lookup | Mapping[str, str | bytes] | None = None, **others: float) -> Signature:
    """The only signature."""
    (signature,) = checked(message, asked, **others)
    return signature


def signed(
    raw: bytes, tags: str = TAGS, key: SigningKey | None = None, *, body: bytes | None = None, names: str = ""
) -> bytes:
    """The message with a signature whose tags are written as given; its b= must be empty and the last.

    It covers what `names` say, or else h=; `body` takes the place of the canonical body.
    """
    key = key or signing_key()
    header = opened(raw, BOUNDS)
    field_form, body_form = ("simple", "simple") if "c=simple" in tags or "c=" not in tags else ("relaxed", "relaxed")
    canonical = {"simple": simple_body, "relaxed": relaxed_body}[body_form](raw[header.body :])
    bh = base64.b64encode(sha256(canonical if body is None else body).digest()).decode()
    unsigned = b"DKIM-Signature: " + tags.format(a=key.algorithm, s=key.selector, bh=bh).encode() + b"\r\n"
    covered = (names or tags.partition("h=")[2].partition(";")[0]).encode().lower().split(b":")
    digest = message_digest(header, [name.strip() for name in covered], unsigned, field_form.encode())
    return unsigned[:-2] + base64.b64encode(key.sign(digest)) + b"\r\n" + raw


def by_dkimpy(message: bytes, records: Mapping[str, str] | None = None) -> bool:
    """What dkimpy as it comes says of the first signature; what it dies of comes out."""
    known = both() if records is None else records

    def look_up(name: bytes, timeout: float) -> bytes:
        return known.get(name.decode().rstrip("."), "").encode()

    return bool(dkim.DKIM(message).verify(dnsfunc=look_up))


def dkimpy_signed(message: bytes, canonicalize: tuple[bytes, bytes], *, length: bool = False) -> bytes:
    """The message with a signature by dkimpy's own sign."""
    key = signing_key()
    made = dkim.DKIM(message).sign(
        key.selector.encode(), key.domain.encode(), pem(key), canonicalize=canonicalize, length=length
    )
    return bytes(made) + message


_PERL_SIGN = r"""
use strict; use warnings; use JSON::PP; use Mail::DKIM::Signer; use Mail::DKIM::TextWrap;
sub slurp { open my $in, '<:raw', $_[0] or die "$_[0]: $!"; local $/; return scalar <$in> }
my $job = decode_json(do { local $/; <STDIN> });
binmode STDOUT;
for my $file (@{ $job->{files} }) {
    my $dkim = Mail::DKIM::Signer->new(
        Algorithm => $job->{algorithm}, Method => $job->{method}, Domain => $job->{domain},
        Selector => $job->{selector}, KeyFile => $job->{key});
    $dkim->PRINT(slurp($file)); $dkim->CLOSE;
    print $dkim->signature->as_string, "\0";
}
"""


def perl_signed(folder: Path, messages: Sequence[bytes], method: str) -> list[bytes]:
    """Each message with a signature by Mail::DKIM::Signer."""
    key = signing_key()
    files = []
    for at, message in enumerate(messages):
        files.append(str(folder / f"sign-{at}.eml"))
        Path(files[-1]).write_bytes(message)
    (folder / "sign.pem").write_bytes(pem(key))
    job = {"files": files, "algorithm": "rsa-sha256", "method": method, "key": str(folder / "sign.pem")}
    job |= {"domain": key.domain, "selector": key.selector}
    done = subprocess.run(["perl", "-e", _PERL_SIGN], input=json.dumps(job).encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    made = done.stdout.split(b"\0")[:-1]
    return [field + b"\r\n" + message for field, message in zip(made, messages, strict=True)]
