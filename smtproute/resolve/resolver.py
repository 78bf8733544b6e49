"""Resolver: what the house asks about names."""

from __future__ import annotations

import asyncio
from typing import assert_never

import dns.name
import dns.rdatatype
from dns.rdtypes.ANY.MX import MX
from dns.rdtypes.ANY.TXT import TXT

from smtproute.core.address import AddressError, written_ip
from smtproute.core.choice import Exchange, Exchanges, Found, LookupFailed, Resolution, Resolved
from smtproute.core.settings import Resolver as ResolverSettings
from smtproute.core.settings import Source
from smtproute.resolve.cache import Cache
from smtproute.resolve.nameservers import FAILED, NEGATIVE, Answer, NameServer, NameServers, system_servers
from smtproute.resolve.sources import Hosts, askable, static_table
from smtproute.world import World

__all__ = ["Resolver"]

_GRAVITY = (Resolution.TIMEOUT, Resolution.SERVFAIL, Resolution.REFUSED, Resolution.NXDOMAIN, Resolution.NODATA)
"""Which ending stands for two. Some servers deny the whole name when asked for AAAA (RFC 4074 4.2), so a denial is
believed only where both questions were answered: what may be temporary must not bounce mail."""


class Resolver:
    """Addresses, mail exchangers and texts of names.

    Only `txt` raises; a name that cannot be asked (malformed, too long) is NXDOMAIN with the reason.
    `attempt` and `total` are the seconds that one name server, and one look-up over all of them, may take. The hosts
    file and `resolv_conf` are read here. Raises ValueError for a static address or a server that is no IP address.
    """

    def __init__(
        self,
        settings: ResolverSettings,
        world: World,
        *,
        resolv_conf: str = "/etc/resolv.conf",
        attempt: float = 2.5,
        total: float = 10.0,
    ) -> None:
        servers = [NameServer.parse(text) for text in settings.servers] or system_servers(resolv_conf)
        self._order = settings.order
        self._static = static_table(settings.static)
        self._hosts = Hosts(settings.hosts_file)
        self._dns = NameServers(servers, attempt=attempt, total=total)
        self._addresses = Cache(world.clock, self._ask_addresses)
        self._exchanges = Cache(world.clock, self._ask_exchanges)
        self._texts = Cache(world.clock, self._ask_text)

    def refresh(self) -> None:
        """Reads the hosts file again if it changed."""
        self._hosts.refresh()

    async def addresses(self, host: str) -> Resolved:
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
        for source in self._order:
            match source:
                case Source.STATIC:
                    ips = self._static.get(name, ())
                case Source.HOSTS:
                    ips = self._hosts.find(name)
                case Source.DNS:
                    missing = await self._addresses.get(name)
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

    async def exchanges(self, domain: str) -> Exchanges:
        """Where a domain takes its mail (RFC 5321 5.1), by DNS whatever the order of the sources.

        By rising preference, equals by name. A domain that exists without MX stands for itself (`implicit`, status
        OK); a null MX (RFC 7505) has no exchanges and status OK.
        """
        try:
            name = askable(domain)
        except AddressError as error:
            return Exchanges(domain, Resolution.NXDOMAIN, reason=str(error))
        return await self._exchanges.get(name)

    async def txt(self, name: str) -> bytes | None:
        """The TXT record, its strings joined (RFC 6376 3.6.2.2); None if there is none.

        Of several, because a key may share its name with other records: one that starts with `v=DKIM1`, else one
        with a `p=`; among equals the first by octets, because servers rotate. Raises LookupFailed.
        """
        try:
            found = await self._texts.get(askable(name))
        except AddressError:
            return None
        if isinstance(found, Resolved):
            raise LookupFailed(found)
        return found

    async def _ask_addresses(self, name: str) -> tuple[Resolved, float]:
        async with asyncio.TaskGroup() as tasks:
            v4 = tasks.create_task(self._dns.ask(name, dns.rdatatype.A))
            v6 = tasks.create_task(self._dns.ask(name, dns.rdatatype.AAAA))
        answers = (v4.result(), v6.result())
        having = [answer for answer in answers if answer.records]
        if not having:
            gravest = min(answers, key=lambda answer: _GRAVITY.index(answer.status))
            return _resolved(name, gravest), gravest.lifetime
        lifetime = min(answer.lifetime for answer in having)
        if any(answer.status in FAILED for answer in answers):
            lifetime = min(lifetime, NEGATIVE)
        found = tuple(Found(str(record), Source.DNS) for answer in having for record in answer.records)
        return Resolved(name, Resolution.OK, found, having[0].asked), lifetime

    async def _ask_exchanges(self, name: str) -> tuple[Exchanges, float]:
        answer = await self._dns.ask(name, dns.rdatatype.MX)
        return _exchanges(name, answer), answer.lifetime

    async def _ask_text(self, name: str) -> tuple[bytes | Resolved | None, float]:
        answer = await self._dns.ask(name, dns.rdatatype.TXT)
        if answer.status in FAILED:
            return _resolved(name, answer), answer.lifetime
        texts = [b"".join(record.strings) for record in answer.records if isinstance(record, TXT)]
        return min(texts, key=_unlike_key, default=None), answer.lifetime


def _resolved(name: str, answer: Answer) -> Resolved:
    return Resolved(name, answer.status, asked=answer.asked, reason=answer.reason)


def _exchanges(name: str, answer: Answer) -> Exchanges:
    if answer.status is Resolution.NODATA:
        return Exchanges(name, Resolution.OK, (Exchange(0, name),), implicit=True, asked=answer.asked)
    records = [record for record in answer.records if isinstance(record, MX)]
    # "." beside other exchangers is a mistake that takes nothing from them (RFC 7505 3).
    hosts = sorted(
        (record.preference, record.exchange.to_text(omit_final_dot=True).lower())
        for record in records
        if record.exchange != dns.name.root
    )
    exchanges = tuple(Exchange(preference, host) for preference, host in hosts)
    null = bool(records) and not exchanges
    return Exchanges(name, answer.status, exchanges, null=null, asked=answer.asked, reason=answer.reason)


def _unlike_key(text: bytes) -> tuple[bool, bool, bytes]:
    return not text.startswith(b"v=DKIM1"), b"p=" not in text, text
