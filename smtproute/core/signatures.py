"""Signatures: which copies are signed (DKIM), and with which keys."""

from __future__ import annotations

from dataclasses import dataclass

from smtproute.core.aliases import Aliases
from smtproute.core.author import Author
from smtproute.core.envelope import Client, Envelope
from smtproute.core.seals import mismatch, nearest
from smtproute.core.senders import owns
from smtproute.core.settings import DomainKey, Settings

__all__ = ["Signatures", "bounce_signatures", "plan_signatures", "unsigned"]

_KEYLESS = "no signing key is configured ([dkim.keys])"


@dataclass(frozen=True, slots=True)
class Signatures:
    """Each of `keys` signs the copy; without any, `reason` says why, and `wanted` whether it should be signed."""

    keys: tuple[DomainKey, ...] = ()
    wanted: bool = False
    reason: str = ""


def plan_signatures(settings: Settings, aliases: Aliases, envelope: Envelope, author: Author) -> Signatures:
    """Whether the copies that leave for endpoints are signed, and with which keys; `author` is whom the From names.

    Mail of a trusted client is signed for the domain of its author; mail of a login where that is the login's own
    domain, or the login owns the author's address: nobody signs for others.
    """
    dkim, login = settings.dkim, envelope.client.login
    reason = unsigned(settings, envelope.client)
    if reason:
        return Signatures(reason=reason)
    if envelope.reverse_path is None and not dkim.null_sender:
        return Signatures(reason="it comes from the null sender (allow_envfrom_empty is off)")
    if author.domain is None:
        return Signatures(wanted=True, reason=author.fault)
    keys = nearest(dkim.keys, author.domain, dkim.parents)
    if not keys:
        return Signatures(wanted=True, reason=f"there is no signing key for {author.domain}")
    if login is not None and login.domain != author.domain:
        for address in author.addresses:
            refusal = owns(aliases, login, address, [])
            if refusal is not None:
                return Signatures(wanted=True, reason=f"{login} may not sign as {address}: {refusal.detail}")
    reason = mismatch(dkim, envelope, author.domain, keys[0].domain)
    return Signatures(wanted=True, reason=reason) if reason else Signatures(keys, wanted=True)


def bounce_signatures(settings: Settings) -> Signatures:
    """Which keys sign a DSN that this relay wrote itself, whose From is of its host name.

    Those of the nearest domain above it do, whatever the options say of subdomains: to DMARC that is as good (relaxed
    alignment, RFC 7489 3.1.1).
    """
    if not settings.dkim.keys:
        return Signatures(reason=_KEYLESS)
    keys = nearest(settings.dkim.keys, settings.hostname, parents=True)
    if keys is None:
        reason = f"there is no signing key for {settings.hostname}, nor for a domain above it"
        return Signatures(wanted=True, reason=reason)
    return Signatures(keys, wanted=True)


def unsigned(settings: Settings, client: Client) -> str:
    """Why nothing of this client's is signed; empty where it may be."""
    dkim = settings.dkim
    if not dkim.keys:
        return _KEYLESS
    if client.login is not None:
        return "" if dkim.authenticated else f"{client.login} has logged in (sign_authenticated is off)"
    if client.trusted:
        return "" if dkim.local else "it comes from a trusted client (sign_local is off)"
    return "it comes from outside"
