"""Signatures: which copies are signed (DKIM), and with which keys."""

from __future__ import annotations

from dataclasses import dataclass

from smtproute.core.aliases import Aliases
from smtproute.core.author import Author
from smtproute.core.envelope import Client, Envelope
from smtproute.core.seals import mismatch, nearest
from smtproute.core.senders import owns
from smtproute.core.settings import DomainKey, Settings

__all__ = ["Signatures", "plan_signatures", "unsigned"]


@dataclass(frozen=True, slots=True)
class Signatures:
    """Each of `keys` signs the copy; without any, `reason` says why, and `wanted` whether it should be signed."""

    keys: tuple[DomainKey, ...] = ()
    wanted: bool = False
    reason: str = ""


def plan_signatures(settings: Settings, aliases: Aliases, envelope: Envelope, author: Author) -> Signatures:
    """Whether the copies that leave for endpoints are signed, and with which keys; `author` is whom the From names.

    Mail of a trusted client, and what this relay wrote itself, is signed for the domain of its author; mail of a login
    where that is the login's own domain, or one with the same keys, or the login owns the author's address: nobody
    signs for others.
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
    if login is not None and nearest(dkim.keys, login.domain, dkim.parents) != keys:
        for address in author.addresses:
            refusal = owns(aliases, login, address, [])
            if refusal is not None:
                return Signatures(wanted=True, reason=f"{login} may not sign as {address}: {refusal.detail}")
    reason = mismatch(dkim, envelope, author.domain, keys[0].domain)
    return Signatures(wanted=True, reason=reason) if reason else Signatures(keys, wanted=True)


def unsigned(settings: Settings, client: Client) -> str:
    """Why nothing of this client's is signed; empty where it may be."""
    dkim = settings.dkim
    if not dkim.keys:
        return "no signing key is configured ([dkim.keys])"
    if client.login is not None:
        return "" if dkim.authenticated else f"{client.login} has logged in (sign_authenticated is off)"
    if client.trusted:
        return "" if dkim.local else "it comes from a trusted client (sign_local is off)"
    return "it comes from outside"
