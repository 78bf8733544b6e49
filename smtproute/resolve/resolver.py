"""Resolver: what the house asks about names."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Set
from dataclasses import replace
from functools import partial
from typing import TypeVar, assert_never

import dns.name
import dns.rdata
import dns.rdatatype
from dns.rdtypes.ANY.MX import MX
from dns.rdtypes.ANY.TXT import TXT

from smtproute.core.address import AddressError, written_ip
from smtproute.core.choice import FAILED, Exchange, Exchanges, Found, LookupFailed, Resolution, Resolved
from smtproute.core.settings import Resolver as ResolverSettings
from smtproute.core.settings import Source
from smtproute.resolve.cache import Cache, Kept
from smtproute.resolve.lastgood import Known, LastGood
from smtproute.resolve.nameservers import NEGATIVE, Answer, NameServer, NameServers, system_servers
from smtproute.resolve.sources import Hosts, askable, static_table
from smtproute.world import World

__all__ = ["Resolver"]

_GRAVITY = (Resolution.TIMEOUT, Resolution.SERVFAIL, Resolution.REFUSED, Resolution.NXDOMAIN, Resolution.NODATA)
"""Which ending stands for two. Some servers deny the whole name when asked for AAAA (RFC 4074 4.2), so a denial is
believed only where both questions were answered: what may be temporary must not bounce mail."""
_GOOD = frozenset({Resolution.OK})
_MX_GOOD = frozenset({Resolution.OK, Resolution.NODATA})
"""A domain without MX stands for itself (RFC 5321 5.1)."""
_STRANGE = 1024
"""Answers of one type that are kept, of those that strangers make us ask for."""
_HEAVIEST = 128 << 10
"""Octets of memory of one such answer; a hundred long TXT records take a quarter."""
_HEAVY = 16 << 10
"""Of one that is kept; forty TXT records of ordinary length take less."""

Told = TypeVar("Told", Resolved, Exchanges)


class Resolver:
    """Addresses and mail exchangers of hosts, and the records of any name.

    Only `records` raises; a host that cannot be asked (malformed, too long) is NXDOMAIN with the reason. With `fresh`
    DNS is asked whatever is kept, and everybody has its answer from then on. While DNS fails, its last good answer is
    used for `settings.stale` seconds more.

    `attempt` and `total` are the seconds that one name server, and one look-up over all of them, may take; `patience`
    those of a look-up that is not fresh, and has an answer from before in reserve (RFC 8767 5). The hosts file and
    `resolv_conf` are read here. Raises ValueError for a static address or a server that is no IP address.
    """

    def __init__(
        self,
        settings: ResolverSettings,
        world: World,
        *,
        resolv_conf: str = "/etc/resolv.conf",
        attempt: float = 2.5,
        total: float = 10.0,
        patience: float = 1.8,
    ) -> None:
        self._settings = settings
        self._resolv_conf = resolv_conf
        self._servers = _servers(settings, resolv_conf)
        self._static = static_table(settings.static)
        self._hosts = Hosts(settings.hosts_file)
        self._dns = NameServers(self._servers, attempt=attempt, total=total)
        self._patience = patience
        self._clock = world.clock
        self._last_good = LastGood(world.clock, settings.stale)
        self._addresses = Cache(world.clock, self._ask_addresses)
        self._exchanges = Cache(world.clock, self._ask_exchanges)
        # What strangers make us ask takes nothing from what our own mail needs: no places, and no answers kept.
        self._strange_dns = NameServers(self._servers, attempt=attempt, total=total)
        self._strange_last_good = LastGood(world.clock, settings.stale, size=_STRANGE)
        self._strange: dict[dns.rdatatype.RdataType, Cache[Known]] = {}

    def refresh(self) -> None:
        """Reads the hosts file again if it changed."""
        self._hosts.refresh()

    def serves(self, settings: ResolverSettings) -> bool:
        """Whether one of these settings, made now, would be no other: this one may go on, with the answers it keeps."""
        return settings == self._settings and _servers(settings, self._resolv_conf) == self._servers

    async def addresses(self, host: str, *, fresh: bool = False) -> Resolved:
        """The addresses by the first source that has the host, IPv4 first. If none has it, what DNS said counts.

        Of a host that is an IP address, that address.
        """
        if (written := written_ip(host)) is not None:
            return Resolved(host, Resolution.OK, (Found(written, Source.WRITTEN),))
        try:
            name = askable(host)
        except AddressError as error:
            return Resolved(host, Resolution.NXDOMAIN, reason=str(error))
        missing = Resolved(name, Resolution.NXDOMAIN)
        for source in self._settings.order:
            match source:
                case Source.STATIC:
                    ips = self._static.get(name, ())
                case Source.HOSTS:
                    ips = self._hosts.find(name)
                case Source.DNS:
                    missing = self._aged(await self._addresses.get(name, fresh=fresh))
                    if missing.addresses:
                        return missing
                    ips = ()
                case Source.WRITTEN:
                    ips = ()
                case _:
                    assert_never(source)
            if ips:
                return Resolved(name, Resolution.OK, tuple(Found(ip, source) for ip in ips))
        return missing

    async def exchanges(self, domain: str, *, fresh: bool = False) -> Exchanges:
        """Where a domain takes its mail (RFC 5321 5.1), by DNS whatever the order of the sources.

        By rising preference, equals by name. A domain that exists without MX stands for itself (status OK); a null MX
        (RFC 7505) has no exchanges and status OK.
        """
        try:
            name = askable(domain)
        except AddressError as error:
            return Exchanges(domain, Resolution.NXDOMAIN, reason=str(error))
        return self._aged(await self._exchanges.get(name, fresh=fresh))

    async def records(self, name: str, rdtype: dns.rdatatype.RdataType) -> tuple[dns.rdata.Rdata, ...]:
        """What DNS has of one type, as it comes; none where there is none. Anybody's names may be asked for.

        `name` is absolute, lower-case, without its last dot, and has its odd octets escaped as in a zone file.
        Raises LookupFailed.
        """
        cache = self._strange.get(rdtype)
        if cache is None:
            cache = self._strange[rdtype] = Cache(self._clock, partial(self._ask_records, rdtype), size=_STRANGE)
        known = await cache.get(name)
        if known.answer.status in FAILED:
            raise LookupFailed(_resolved(name, known))
        return known.answer.records

    def _aged(self, answer: Told) -> Told:
        """The same, with its age."""
        return replace(answer, age=max(0.0, self._clock.now() - answer.at))

    async def _ask(
        self,
        name: str,
        rdtype: dns.rdatatype.RdataType,
        within: float,
        good: Set[Resolution] = _GOOD,
    ) -> Known:
        return self._last_good.judge(name, rdtype, await self._dns.ask(name, rdtype, within=within), good)

    def _within(self, fresh: bool, name: str, *rdtypes: dns.rdatatype.RdataType) -> float:
        """Seconds for these questions, as far as somebody waits who could do without."""
        return self._patience if not fresh and self._last_good.spares(name, *rdtypes) else math.inf

    async def _ask_addresses(self, name: str, fresh: bool) -> Kept[Resolved]:
        within = self._within(fresh, name, dns.rdatatype.A, dns.rdatatype.AAAA)
        async with asyncio.TaskGroup() as tasks:
            v4 = tasks.create_task(self._ask(name, dns.rdatatype.A, within))
            v6 = tasks.create_task(self._ask(name, dns.rdatatype.AAAA, within))
        both = (v4.result(), v6.result())
        having = [known for known in both if known.answer.records]
        if not having:
            gravest = min(both, key=lambda known: _GRAVITY.index(known.answer.status))
            return Kept(_resolved(name, gravest), gravest.until)
        first = min(having, key=lambda known: known.until)
        stale = next((known.stale for known in having if known.stale), "")
        ttl, until = first.answer.lifetime, first.until
        failed = next((known.answer for known in both if known.answer.status in FAILED), None)
        reason = ""
        if failed is not None:
            ttl, until = min(ttl, NEGATIVE), min(until, self._clock.now() + NEGATIVE)
            reason = f"{'AAAA' if failed is v6.result().answer else 'A'}: {failed}"
        found = tuple(Found(str(record), Source.DNS) for known in having for record in known.answer.records)
        asked = having[0].answer.asked
        resolved = Resolved(name, Resolution.OK, found, asked, reason, at=first.at, ttl=ttl, stale=stale)
        return Kept(resolved, until, min((known.spare for known in having if known.stale), default=0.0))

    async def _ask_exchanges(self, name: str, fresh: bool) -> Kept[Exchanges]:
        within = self._within(fresh, name, dns.rdatatype.MX)
        known = await self._ask(name, dns.rdatatype.MX, within, _MX_GOOD)
        return Kept(_exchanges(name, known), known.until, known.spare)

    async def _ask_records(self, rdtype: dns.rdatatype.RdataType, name: str, _: bool) -> Kept[Known]:
        within = self._patience if self._strange_last_good.spares(name, rdtype) else math.inf
        answer = await self._strange_dns.ask(name, rdtype, within=within)
        weight = sum(map(_weight, answer.records))
        if weight > _HEAVIEST:
            answer = Answer(Resolution.SERVFAIL, asked=answer.asked, reason="a longer answer than any in use")
        elif weight > _HEAVY:
            return Kept(self._strange_last_good.judge(name, rdtype, answer, frozenset()), 0.0)
        known = self._strange_last_good.judge(name, rdtype, answer, _GOOD)
        return Kept(known, known.until, known.spare)


def _weight(record: dns.rdata.Rdata) -> int:
    """Octets of memory, about: a TXT record may be thousands of strings."""
    return 200 + (sum(40 + len(string) for string in record.strings) if isinstance(record, TXT) else 0)


def _servers(settings: ResolverSettings, resolv_conf: str) -> list[NameServer]:
    return [NameServer.parse(text) for text in settings.servers] or system_servers(resolv_conf)


def _resolved(name: str, known: Known) -> Resolved:
    answer = known.answer
    return Resolved(name, answer.status, asked=answer.asked, reason=answer.reason, at=known.at, ttl=answer.lifetime)


def _exchanges(name: str, known: Known) -> Exchanges:
    answer = known.answer
    ending = Exchanges(
        name,
        answer.status,
        asked=answer.asked,
        reason=answer.reason,
        at=known.at,
        ttl=answer.lifetime,
        stale=known.stale,
    )
    if answer.status is Resolution.NODATA:
        return replace(ending, status=Resolution.OK, exchanges=(Exchange(0, name),))
    records = [record for record in answer.records if isinstance(record, MX)]
    # "." beside other exchangers is a mistake that takes nothing from them (RFC 7505 3).
    hosts = sorted((record.preference, _host(record)) for record in records if record.exchange != dns.name.root)
    exchanges = tuple(Exchange(preference, host) for preference, host in hosts)
    return replace(ending, exchanges=exchanges, null=bool(records) and not exchanges)


def _host(record: MX) -> str:
    """Without the last dot, unless it reads as an IP address then: an MX names a host (RFC 5321 5.1), never that."""
    name = record.exchange.to_text(omit_final_dot=True).lower()
    return name if written_ip(name) is None else f"{name}."
