"""Seals: which copies are sealed (ARC), and in whose name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from smtproute.core.address import Domain
from smtproute.core.envelope import Envelope
from smtproute.core.plan import Delivery
from smtproute.core.settings import ArcKey, Kind, Settings, SignBy

__all__ = ["Seal", "plan_seal"]


@dataclass(frozen=True, slots=True)
class Seal:
    """`key` seals the copy; without one, `reason` says why it goes unsealed, and `wanted` whether it should not."""

    key: ArcKey | None = None
    wanted: bool = False
    reason: str = ""


def plan_seal(settings: Settings, envelope: Envelope, delivery: Delivery, author: Domain | None) -> Seal:
    """Whether this copy is sealed, and by which key. `author` is the domain of the header From, None if unknown.

    A copy for an endpoint of mail from an inbound client is sealed, unless the route or the endpoint says no; mail
    of a trusted client only where its listener says so; what this relay wrote itself never.
    """
    arc = settings.arc
    if delivery.kind is not Kind.ENDPOINT:
        return Seal(reason="it does not leave the house")
    if arc.sign is SignBy.OFF:
        return Seal(reason="no sealing key is configured ([arc.keys])")
    endpoint = settings.endpoints.get(delivery.endpoint)
    if not delivery.seal or (endpoint is not None and not endpoint.seal):
        return Seal(reason=f"{'endpoint ' + delivery.endpoint if delivery.seal else delivery.rule} says seal = false")
    if envelope.client.trusted:
        listener = settings.listeners.get(envelope.client.listener)
        if listener is None or not listener.seal:
            return Seal(reason=f"it comes from a trusted client (listener.{envelope.client.listener} has seal = false)")
    recipient = delivery.recipient.domain
    match arc.sign:
        case SignBy.RECIPIENT:
            domain = recipient
        case SignBy.SENDER:
            domain = author if author is not None and author.key in arc.keys else recipient
        case SignBy.DOMAIN:
            domain = arc.domain if arc.domain is not None else recipient
        case _:
            assert_never(arc.sign)
    key = arc.keys.get(domain.key)
    if key is None:
        return Seal(wanted=True, reason=f"there is no sealing key for {domain}")
    return Seal(key, wanted=True)
