"""Endpoint: from its name in the configuration to the addresses that are tried, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import assert_never

from smtproute.core.address import Domain, written_ip
from smtproute.core.choice import Choice, Exchanges, Found, Looked, Resolution, Resolved, order
from smtproute.core.reply import Refusal, Reply
from smtproute.core.settings import Discover, Endpoint, Server, Source
from smtproute.resolve.resolver import Resolver
from smtproute.world import World

__all__ = ["Endpoints"]

_NO_SUCH_DOMAIN = Reply(550, "5.1.2", "The domain does not exist")
_NULL_MX = Reply(556, "5.1.10", "The domain takes no mail (null MX)")
_LITERAL = Reply(550, "5.1.2", "An address literal has no MX to discover")
_LOOP = Reply(554, "5.4.6", "Mail for the domain loops back here")
_NO_HOST = Reply(550, "5.4.4", "No mail server of the domain has an address")
_NO_ADDRESS = (Resolution.NXDOMAIN, Resolution.NODATA)
_NO_WAY = Reply(451, "4.4.4", "The next hop has no mail server: it will be tried again")
_NO_ANSWER = Reply(451, "4.4.3", "The mail servers of the domain could not be looked up")


class Endpoints:
    """Looks up endpoints' servers. `explain` and the dispatcher ask the same question here."""

    def __init__(self, resolver: Callable[[], Resolver], hostname: Domain, world: World) -> None:
        self._resolver = resolver
        self._hostname = hostname
        self._world = world

    async def candidates(self, endpoint: Endpoint, domain: Domain) -> Choice:
        """The addresses to try for mail to `domain`, and everything that was looked up on the way."""
        if endpoint.fault is not None:
            return Choice(refusal=endpoint.fault)
        match endpoint.discover:
            case Discover.A:
                return order(await self._look(endpoint.servers) + await self._look(endpoint.backup, backup=True))
            case Discover.MX:
                choices = [await self._relays(server) for server in endpoint.servers]
                choices += [await self._relays(server, backup=True) for server in endpoint.backup]
                return _joined(choices)
            case Discover.RECIPIENT:
                if domain.literal:
                    return Choice(refusal=Refusal(_LITERAL, "routing", f"{domain} with discover = recipient"))
                return await self._exchanges(Server(domain.key))
            case _:
                assert_never(endpoint.discover)

    async def _relays(self, server: Server, backup: bool = False) -> Choice:
        """The mail exchangers of a server's name; an IP address stands for itself.

        What is wrong with the name is a mistake of the configuration, or of its DNS, and none of the recipient's: the
        mail waits, as it does in Postfix for a relayhost.
        """
        if written_ip(server.host) is not None:
            return order(await self._look([server], backup))
        choice = await self._exchanges(server, backup)
        if choice.refusal is not None and not choice.refusal.temporary:
            return replace(choice, refusal=replace(choice.refusal, reply=_NO_WAY))
        return choice

    async def _exchanges(self, domain: Server, backup: bool = False) -> Choice:
        """The mail exchangers of a domain (RFC 5321 5.1), on this port."""
        found = await self._resolver().exchanges(domain.host)
        refusal = _refusal(found)
        if refusal is not None:
            return Choice(refusal=refusal)
        # Where our own name is among them, it and the worse ones would bring the mail back to us (RFC 5321 5.1).
        own = min((each.preference for each in found.exchanges if each.host == self._hostname.key), default=None)
        usable = [each for each in found.exchanges if own is None or each.preference < own]
        if not usable:
            return Choice(refusal=Refusal(_LOOP, "DNS", f"{self._hostname} is the best MX of {domain.host}"))
        # Equal preferences are tried in random order, to spread the load (RFC 5321 5.1).
        ranked = sorted(usable, key=lambda each: (each.preference, self._world.chance.random()))
        choice = order(await self._look([Server(each.host, domain.port) for each in ranked], backup))
        if all(each.resolved.status in _NO_ADDRESS for each in choice.looked):
            said = "; ".join(str(each.resolved) for each in choice.looked)
            return replace(choice, refusal=Refusal(_NO_HOST, "DNS", f"MX of {domain.host}: {said}"))
        return choice

    async def _look(self, servers: Sequence[Server], backup: bool = False) -> list[Looked]:
        if len(servers) == 1:
            return [Looked(servers[0], await self._addresses(servers[0]), backup)]
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(self._addresses(server)) for server in servers]
        return [Looked(server, task.result(), backup) for server, task in zip(servers, asked, strict=True)]

    async def _addresses(self, server: Server) -> Resolved:
        if server.socket:
            return Resolved(server.host, Resolution.OK, (Found(server.host, Source.WRITTEN),))
        return await self._resolver().addresses(server.host)


def _joined(choices: Sequence[Choice]) -> Choice:
    """One choice of several: a name that is refused takes nothing from the others."""
    refusals = [choice.refusal for choice in choices if choice.refusal is not None]
    refusal = None
    if len(refusals) == len(choices):
        refusal = next((each for each in refusals if each.temporary), refusals[0])
    return Choice(
        tuple(looked for choice in choices for looked in choice.looked),
        tuple(candidate for choice in choices for candidate in choice.candidates),
        refusal=refusal,
    )


def _refusal(found: Exchanges) -> Refusal | None:
    if found.null:
        return Refusal(_NULL_MX, "DNS", f"{found.domain} has a null MX (from {found.asked})")
    if found.status is Resolution.NXDOMAIN:
        return Refusal(_NO_SUCH_DOMAIN, "DNS", f"{found.domain}: NXDOMAIN from {found.asked}")
    if not found.exchanges:
        return Refusal(_NO_ANSWER, "DNS", f"MX of {found.domain}: {found.status} from {found.asked or 'no server'}")
    return None
