"""Seals: which copies are sealed (ARC), and in whose name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar, assert_never

from smtproute.core.address import Domain
from smtproute.core.envelope import Client, Envelope
from smtproute.core.plan import Delivery
from smtproute.core.settings import Arc, Dkim, DomainKey, Kind, Settings, SignBy

__all__ = ["Seal", "excluded", "keyless", "mismatch", "nearest", "plan_seal"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seal:
    """`key` seals the copy; without one, `reason` says why it goes unsealed, and `wanted` whether it should not."""

    key: DomainKey | None = None
    wanted: bool = False
    reason: str = ""


def plan_seal(settings: Settings, envelope: Envelope, delivery: Delivery, author: Domain | None) -> Seal:
    """Whether this copy is sealed, and by which key. `author` is the domain of the header From, None if unknown.

    A copy for an endpoint of mail from an inbound client is sealed, unless the route or the endpoint says no; mail
    of a trusted client or a login only where its listener says so, or rspamd's options; what this relay wrote itself
    never.
    """
    arc = settings.arc
    if delivery.kind is not Kind.ENDPOINT:
        return Seal(reason="it does not leave the house")
    if arc.sign is SignBy.OFF:
        return Seal(reason="no sealing key is configured ([arc.keys])")
    endpoint = settings.endpoints.get(delivery.endpoint)
    if not delivery.seal or (endpoint is not None and not endpoint.seal):
        return Seal(reason=f"{'endpoint ' + delivery.endpoint if delivery.seal else delivery.rule} says seal = false")
    reason = excluded(settings, envelope.client)
    if reason:
        return Seal(reason=reason)
    if envelope.reverse_path is None and not arc.null_sender:
        return Seal(reason="it comes from the null sender (allow_envfrom_empty is off)")
    recipient = delivery.recipient.domain
    match arc.sign:
        case SignBy.RECIPIENT:
            domain = recipient
        case SignBy.SENDER:
            domain = author if author is not None and nearest(arc.keys, author, arc.parents) is not None else recipient
        case SignBy.DOMAIN:
            domain = arc.domain if arc.domain is not None else recipient
        case _:
            assert_never(arc.sign)
    key = nearest(arc.keys, domain, arc.parents)
    if key is None and arc.sign is SignBy.RECIPIENT and not delivery.expanded and _sends(settings, envelope.client):
        return Seal(reason=f"it is no forward, and there is no sealing key for {domain}")
    if key is None:
        return Seal(wanted=True, reason=f"there is no sealing key for {domain}")
    reason = mismatch(arc, envelope, author, key.domain)
    return Seal(wanted=True, reason=reason) if reason else Seal(key, wanted=True)


def _sends(settings: Settings, client: Client) -> bool:
    """Whether this client brings mail of its own, unless an alias makes a forward of it.

    A trusted client on a listener that says `seal = true` brings what others sent to it.
    """
    listener = settings.listeners.get(client.listener)
    return client.login is not None or (client.trusted and not (listener is not None and listener.seal))


def excluded(settings: Settings, client: Client) -> str:
    """Why nothing of this client's is sealed; empty where it may be."""
    arc = settings.arc
    listener = settings.listeners.get(client.listener)
    if listener is not None and listener.seal:
        return ""
    if client.login is not None:
        return (
            "" if arc.authenticated else f"{client.login} has logged in (listener.{client.listener} has seal = false)"
        )
    if client.trusted:
        return "" if arc.local else f"it comes from a trusted client (listener.{client.listener} has seal = false)"
    return "" if arc.inbound else "it comes from outside (sign_inbound is off)"


def keyless(arc: Arc, local_domains: Mapping[str, str]) -> dict[str, str]:
    """Of the local domains those whose forwarded mail has no key to be sealed with, each with its rule.

    Our own names are not asked: nobody outside knows them as domains of mail.
    """
    if arc.sign not in (SignBy.RECIPIENT, SignBy.SENDER):
        return {}
    return {
        domain: rule
        for domain, rule in local_domains.items()
        if rule != "hostname" and nearest(arc.keys, Domain(domain, domain), arc.parents) is None
    }


def nearest(keys: Mapping[str, T], domain: Domain, parents: bool) -> T | None:
    """What `keys` has for this domain, by Domain.key; with `parents` else for its nearest parent that has anything."""
    found = keys.get(domain.key)
    rest = domain.key
    while found is None and parents and "." in rest and not domain.literal:
        rest = rest.partition(".")[2]
        found = keys.get(rest)
    return found


def mismatch(options: Arc | Dkim, envelope: Envelope, author: Domain | None, signer: Domain) -> str:
    """Why a login or an author keeps the seal or signature of `signer` off; empty where neither does."""
    login, sender = envelope.client.login, envelope.reverse_path
    if login is not None and not options.username_mismatch and not _same(options, login.domain, signer):
        return f"{login} is not of {signer} (allow_username_mismatch is off)"
    if options.author_mismatch or author is None or sender is None or _same(options, author, sender.domain):
        return ""
    return f"its From is of {author}, its sender of {sender.domain} (allow_hdrfrom_mismatch is off)"


def _same(options: Arc | Dkim, one: Domain, other: Domain) -> bool:
    """Whether two domains count as one: with `parents`, also where one is inside the other."""
    if one == other:
        return True
    return options.parents and (one.key.endswith(f".{other.key}") or other.key.endswith(f".{one.key}"))
