"""DKIM signing (RFC 6376, RFC 8463), and how a signature field is written, which ARC's are too (RFC 8617 4.1)."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from functools import partial
from textwrap import wrap

from smtproute.core.settings import Authentication
from smtproute.mailauth.canonical import folded
from smtproute.mailauth.header import Header, message_digest, opened
from smtproute.mailauth.keys import SigningKey

__all__ = ["SIGNED", "SignFault", "body_hash", "names_tag", "sign", "signature", "signed_names"]

SIGNED = (
    "(o)from:(x)sender:(o)reply-to:(o)subject:(x)date:(x)message-id:(o)to:(o)cc:"
    "(x)mime-version:(x)content-type:(x)content-transfer-encoding:"
    "resent-to:resent-cc:resent-from:resent-sender:resent-message-id:(x)in-reply-to:(x)references:"
    "list-id:list-help:list-owner:list-unsubscribe:list-unsubscribe-post:list-subscribe:list-post:"
    "(x)openpgp:(x)autocrypt"
)
"""What rspamd's dkim_signing signs, in its own words (sign_headers): each field as often as it is there; with (x) once
more if it is there at all, with (o) in any case, so that none can be put in later (RFC 6376 8.15)."""

_LONGEST = 16 * 1024
"""Octets of a signature field that we write."""


class SignFault(ValueError):
    """A message cannot be signed or sealed; the text says why."""


def sign(message: bytes, keys: Sequence[SigningKey], at: int, bounds: Authentication) -> bytes:
    """A DKIM-Signature field for each key, each with CRLF, to be put in front of exactly these octets.

    relaxed/relaxed, of the whole body (never l=); `at` is in seconds since the epoch. CPU bound, the GIL released in
    hashing and RSA: call it in a pool. Raises SignFault.
    """
    header = opened(message, bounds)
    if header.fault:
        raise SignFault(header.fault)
    names = signed_names(header, SIGNED)
    digest = partial(message_digest, header, names)
    made = []
    for key in keys:
        algorithm = f"v=1; a={key.algorithm}; c=relaxed/relaxed;"
        signer = f"d={key.domain}; s={key.selector}; t={at};"
        tags = [f"{algorithm} {signer}", names_tag(names), f"bh={body_hash(header)};", "b="]
        made.append(signature("DKIM-Signature", tags, key, digest))
    return b"".join(made)


def signature(
    title: str, tags: Sequence[str], key: SigningKey, digest: Callable[[bytes], bytes], width: int = 72
) -> bytes:
    """A signature field with CRLF. Each part of `tags` starts a line, and one of them is b= alone, where the signature
    goes, folded to `width` octets; `digest` makes of the field with b= empty what is signed. Raises SignFault.
    """
    field = folded(title, tags)
    value = base64.b64encode(key.sign(digest(field)))
    lines = b"\r\n ".join(value[at : at + width] for at in range(0, len(value), width))
    before, empty, after = field.partition(b"\r\n b=")
    signed = before + empty + lines + after + b"\r\n"
    if len(signed) > _LONGEST:
        raise SignFault("it has too many header fields to sign")
    return signed


def signed_names(header: Header, wanted: str) -> list[bytes]:
    """The names for h=, of those that `wanted` lists as rspamd's sign_headers do."""
    names: list[bytes] = []
    for each in wanted.split(":"):
        name = each.removeprefix("(o)").removeprefix("(x)").encode("ascii")
        there = header.count(name)
        once_more = each.startswith("(o)") or (each.startswith("(x)") and there > 0)
        names += [name] * (there + once_more)
    return names


def names_tag(names: Sequence[bytes]) -> str:
    """The tag h=, with spaces only where a line may break."""
    lines = wrap(b": ".join(names).decode("ascii"), 70, break_long_words=False, break_on_hyphens=False)
    return f"h={' '.join(line.replace(': ', ':') for line in lines)};"


def body_hash(header: Header) -> str:
    """The value of bh= for a body in relaxed form."""
    _, digest = header.body_hash(b"relaxed")
    return base64.b64encode(digest).decode("ascii")
