"""Endpoint: from its name in the configuration to the addresses that are tried, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import assert_never

from smtproute.core.address import Domain, written_ip
from smtproute.core.choice import (
    MOST,
    Candidate,
    Choice,
    Exchanges,
    Found,
    Looked,
    Resolution,
    Resolved,
    order,
    rotated,
)
from smtproute.core.event import Emit, Event, Happening
from smtproute.core.reply import Refusal, Reply
from smtproute.core.settings import Balance, Discover, Endpoint, Server, Source
from smtproute.delivery.health import Health
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


def _unheard(event: Event) -> None:
    """Where nobody sends, nothing rests."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What the look-ups of an endpoint came to, in the order of its servers."""

    looked: tuple[Looked, ...] = ()
    refusal: Refusal | None = None


class Endpoints:
    """Looks up endpoints' servers, and remembers which of their addresses failed.

    `explain` and the dispatcher ask the same question here.
    """

    def __init__(
        self,
        resolver: Callable[[], Resolver],
        hostname: Domain,
        world: World,
        emit: Emit = _unheard,
    ) -> None:
        self._resolver = resolver
        self._hostname = hostname
        self._world = world
        self._emit = emit
        self._health: dict[str, Health] = {}
        """By name of endpoint."""

    async def candidates(self, endpoint: Endpoint, domain: Domain) -> Choice:
        """The addresses to try for mail to `domain` now, and everything that was looked up on the way.

        It changes nothing: whoever is going to send asks `chosen`.
        """
        return await self._choice(endpoint, domain, self._health.get(endpoint.name) or Health())

    @asynccontextmanager
    async def chosen(self, endpoint: Endpoint, domain: Domain) -> AsyncIterator[Choice]:
        """The same for one message that is going to be sent: its turn, and its probes until the block is left.

        Where all that is left is being probed by another message (`Choice.awaited`), `probe_ended` can be waited for
        right after the block: it is for the caller to look then what has changed meanwhile.
        """
        health = self._health.setdefault(endpoint.name, Health())
        choice = await self._choice(endpoint, domain, health)
        health.turn += bool(choice.candidates)
        taken = health.probe(choice.probes)
        try:
            yield choice
        finally:
            health.give_back(taken)

    async def probe_ended(self, endpoint: Endpoint) -> None:
        """Until a probe of this endpoint has ended, well or not, or was given back."""
        await self._health.setdefault(endpoint.name, Health()).probe_ended()

    def failed(self, endpoint: Endpoint, candidate: Candidate, why: str) -> None:
        """A server was asked and is not well: it rests."""
        now = self._world.clock.now()
        rest = self._health.setdefault(endpoint.name, Health()).failed(candidate, now, why)
        if rest is not None:
            self._tell(Happening.RESTING, endpoint, candidate, seconds=round(rest.until - now), why=why)

    def answered(self, endpoint: Endpoint, candidate: Candidate) -> None:
        """A server is well: it rests no more."""
        health = self._health.get(endpoint.name)
        if health is not None and health.answered(candidate):
            self._tell(Happening.RECOVERED, endpoint, candidate)

    def forget(self) -> None:
        """Nothing rests any more: an operator, or another configuration, wants it tried."""
        for health in self._health.values():
            health.forget()
        self._health.clear()

    def _tell(self, what: Happening, endpoint: Endpoint, candidate: Candidate, **more: object) -> None:
        facts = {"endpoint": endpoint.name, "server": str(candidate.server), "ip": candidate.ip, **more}
        self._emit(Event(what, self._world.clock.now(), facts=facts))

    async def _choice(self, endpoint: Endpoint, domain: Domain, health: Health) -> Choice:
        """Nothing is awaited once the turn and the rests are read."""
        at = self._world.clock.monotonic()
        found = await self._found(endpoint, domain, health)
        if found.refusal is not None:
            return Choice(found.looked, refusal=found.refusal, at=at)
        ips = {each.ip for looked in found.looked if not looked.server.socket for each in looked.resolved.addresses}
        routed = self._world.network.routed
        unroutable = frozenset(ip for ip in ips if not routed(ip)) if len(ips) > 1 else frozenset[str]()
        now = self._world.clock.now()
        choice = order(
            found.looked,
            balance=endpoint.balance if endpoint.discover is Discover.A else Balance.FAILOVER,
            family=endpoint.family,
            turn=health.turn,
            unroutable=unroutable,
            rests=health.rests(now),
            now=now,
        )
        return replace(choice, at=at)

    async def _found(self, endpoint: Endpoint, domain: Domain, health: Health) -> _Found:
        if endpoint.fault is not None:
            return _Found(refusal=endpoint.fault)
        match endpoint.discover:
            case Discover.A:
                looked = await self._look(endpoint.servers) + await self._look(endpoint.backup, backup=True)
                return _Found(tuple(looked))
            case Discover.MX:
                found = [await self._relays(server) for server in endpoint.servers]
                backup = [await self._relays(server, backup=True) for server in endpoint.backup]
                # In each turn another name comes first; among the exchangers of a name their preference decides.
                turn = health.turn if endpoint.balance is Balance.ROUND_ROBIN else 0
                return _joined(rotated(found, turn) + rotated(backup, turn))
            case Discover.RECIPIENT:
                if domain.literal:
                    return _Found(refusal=Refusal(_LITERAL, "routing", f"{domain} with discover = recipient"))
                return await self._exchanges(Server(domain.key))
            case _:
                assert_never(endpoint.discover)

    async def _relays(self, server: Server, backup: bool = False) -> _Found:
        """The mail exchangers of a server's name; an IP address stands for itself.

        What is wrong with the name is a mistake of the configuration, or of its DNS, and none of the recipient's: the
        mail waits, as it does in Postfix for a relayhost. A loop back to us does not mend itself: it fails.
        """
        if written_ip(server.host) is not None:
            return _Found(tuple(await self._look([server], backup)))
        found = await self._exchanges(server, backup)
        refusal = found.refusal
        if refusal is None or refusal.temporary or refusal.reply is _LOOP:
            return found
        return replace(found, refusal=replace(refusal, reply=_NO_WAY))

    async def _exchanges(self, domain: Server, backup: bool = False) -> _Found:
        """The mail exchangers of a domain (RFC 5321 5.1), on this port."""
        found = await self._resolver().exchanges(domain.host)
        refusal = _refusal(found)
        if refusal is not None:
            return _Found(refusal=refusal)
        # Where our own name is among them, it and the worse ones would bring the mail back to us (RFC 5321 5.1).
        own = min((each.preference for each in found.exchanges if each.host == self._hostname.key), default=None)
        usable = [each for each in found.exchanges if own is None or each.preference < own]
        if not usable:
            return _Found(refusal=Refusal(_LOOP, "DNS", f"{self._hostname} is the best MX of {domain.host}"))
        # Equal preferences are tried in random order, to spread the load (RFC 5321 5.1).
        ranked = sorted(usable, key=lambda each: (each.preference, self._world.chance.random()))[:MOST]
        looked = tuple(await self._look([Server(each.host, domain.port) for each in ranked], backup))
        if all(each.resolved.status in _NO_ADDRESS for each in looked):
            said = "; ".join(str(each.resolved) for each in looked)
            return _Found(looked, Refusal(_NO_HOST, "DNS", f"MX of {domain.host}: {said}"))
        return _Found(looked)

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


def _joined(found: Sequence[_Found]) -> _Found:
    """One of several: a name that is refused takes nothing from the others."""
    refusals = [each.refusal for each in found if each.refusal is not None]
    refusal = None
    if len(refusals) == len(found):
        refusal = next((each for each in refusals if each.temporary), refusals[0])
    return _Found(tuple(looked for each in found for looked in each.looked), refusal)


def _refusal(found: Exchanges) -> Refusal | None:
    if found.null:
        return Refusal(_NULL_MX, "DNS", str(found))
    if found.status is Resolution.NXDOMAIN:
        return Refusal(_NO_SUCH_DOMAIN, "DNS", str(found))
    if not found.exchanges:
        return Refusal(_NO_ANSWER, "DNS", str(found))
    return None
