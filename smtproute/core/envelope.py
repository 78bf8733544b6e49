"""Envelope and Client: who is speaking, and what MAIL FROM said."""

from __future__ import annotations

from dataclasses import dataclass

from smtproute.core.address import Address
from smtproute.core.settings import Role

__all__ = ["Client", "Envelope"]


@dataclass(frozen=True, slots=True)
class Client:
    """The peer of one SMTP session, as far as it is known."""

    ip: str
    port: int
    listener: str
    role: Role
    trusted: bool
    """Whether it may send anywhere: on a trusted listener, or inside `trusted_networks` of another one."""
    helo: str = ""
    esmtp: bool = False
    tls: str = ""
    """Protocol and cipher, "TLSv1.3 TLS_AES_256_GCM_SHA384"; empty in plain text."""
    login: Address | None = None
    """Who has logged in, in the form of the accounts file."""
    named: str | None = None
    """What it called itself where everybody logs in (`Auth.ANY`): noted, and nothing is decided by it."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is known at MAIL. The recipients follow one by one, each with a plan of its own."""

    client: Client
    reverse_path: Address | None
    """None is the null reverse-path, `MAIL FROM:<>`."""
    size: int | None = None
    """Octets, as the client declared (RFC 1870)."""
    eight_bit: bool = False
    """BODY=8BITMIME (RFC 6152)."""
    smtputf8: bool = False
    """SMTPUTF8 (RFC 6531)."""
