"""Targets: whose servers take the mail of an address elsewhere, for `explain`."""

from __future__ import annotations

from ipaddress import ip_address

from smtproute.core.choice import Choice
from smtproute.core.lookup import Lookup
from smtproute.core.plan import Delivery
from smtproute.core.providers import Provider, provider_of
from smtproute.core.routes import Form
from smtproute.core.settings import Discover, Kind, Source
from smtproute.core.snapshot import Snapshot
from smtproute.mailauth.lookups import Lookups

__all__ = ["Targets"]

_SECONDS = 3.0
"""For all questions of one message together."""
_MOST = 100
"""Domains that are asked about."""


class Targets:
    """Names the providers of one message's targets. Without a look-up nothing is asked that is not known already."""

    def __init__(self, lookup: Lookup | None) -> None:
        self._lookup = Lookups(lookup, _SECONDS, _MOST) if lookup is not None else None

    async def provider(self, snapshot: Snapshot, delivery: Delivery, choice: Choice | None) -> Provider | None:
        """Who takes mail at the mail exchangers of a copy's domain; None where it is nobody who is known.

        Not asked for mail that stays inside, nor where DNS is no source of addresses. Raises Unanswered.
        """
        domain = delivery.address.domain
        if delivery.kind is not Kind.ENDPOINT or choice is None or domain.literal:
            return None
        if snapshot.settings.endpoints[delivery.endpoint].discover is Discover.RECIPIENT:
            return provider_of([looked.server.host for looked in choice.looked])
        if self._lookup is None or Source.DNS not in snapshot.settings.resolver.order:
            return None
        if domain.key in snapshot.routing.local_domains or _inside(snapshot, delivery, choice):
            return None
        return provider_of(await self._lookup.exchanges(domain.key))


def _inside(snapshot: Snapshot, delivery: Delivery, choice: Choice) -> bool:
    """Whether a route sends the mail of this very domain, or address, to private addresses."""
    route = next((route for route in snapshot.routing.routes if route.rule == delivery.rule), None)
    if route is None or route.match.form not in (Form.ADDRESS, Form.DOMAIN):
        return False
    found = [each.ip for looked in choice.looked if not looked.server.socket for each in looked.resolved.addresses]
    return all(ip_address(ip).is_private for ip in found)
