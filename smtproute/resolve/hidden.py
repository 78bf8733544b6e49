"""Hidden: names for which a static or hosts entry answers, and DNS would answer too."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import takewhile

from smtproute.core.choice import Resolution, Resolved
from smtproute.core.settings import Resolver as ResolverSettings
from smtproute.core.settings import Source
from smtproute.resolve.resolver import Resolver
from smtproute.world import World

__all__ = ["Hidden", "hidden"]

_SECONDS = 3.0
"""For all look-ups together: they are made at once."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """One host name with two answers."""

    used: Resolved
    """The entry's."""
    dns: Resolved
    """What DNS says, and nobody asks."""

    @property
    def source(self) -> Source:
        """Where the entry stands."""
        return self.used.addresses[0].source

    @property
    def differs(self) -> bool:
        return {found.ip for found in self.used.addresses} != {found.ip for found in self.dns.addresses}


async def hidden(settings: ResolverSettings, hosts: Iterable[str], world: World) -> tuple[Hidden, ...]:
    """Which of these host names an entry takes before DNS has its turn, though DNS has them.

    DNS is asked for those alone. One that fails, or does not have the name, hides nothing; nor does `localhost`,
    which is no matter of DNS (RFC 6761 6.3).
    """
    if Source.DNS not in settings.order:
        return ()
    before = tuple(takewhile(lambda source: source is not Source.DNS, settings.order))
    entries = Resolver(replace(settings, order=before), world)
    asked = Resolver(replace(settings, order=(Source.DNS,)), world, attempt=_SECONDS / 2, total=_SECONDS)
    known = [await entries.addresses(host) for host in dict.fromkeys(hosts)]
    used = [each for each in known if _entry(each) and not f".{each.host}".endswith(".localhost")]
    async with asyncio.TaskGroup() as tasks:
        answers = [tasks.create_task(asked.addresses(each.host)) for each in used]
    pairs = zip(used, (answer.result() for answer in answers), strict=True)
    return tuple(Hidden(each, dns) for each, dns in pairs if dns.status is Resolution.OK)


def _entry(found: Resolved) -> bool:
    return bool(found.addresses) and found.addresses[0].source in (Source.STATIC, Source.HOSTS)
