"""Zone: a name server for tests, on real sockets. What it says is a mapping that can be changed while it runs.

    async with Zone({
        "gitlab.internal": {"A": ["127.0.0.1"]},
        "example.net": {"MX": ["10 mx.example.net"], "TXT": "v=spf1 mx -all", "AAAA": Fault.SERVFAIL},
        "broken.example": Fault.TIMEOUT,
        "203.0.113.9": {"PTR": "mx.example.net"},
    }) as zone:
        settings = Resolver(servers=(zone.address,))
        zone.set("gitlab.internal", "A", ["127.0.0.2"], ttl=5)

Values are in the form of a zone file, every name absolute with or without its last dot; a TXT value is the bare text,
cut into strings of 255 octets. In the place of a name an IP address (without a last dot) stands for its name under
in-addr.arpa or ip6.arpa.

It answers as a recursive server does: CNAMEs are followed inside the zone, a name it does not hold is NXDOMAIN, a type
it does not hold no data, both with an SOA. An answer over UDP that passes the client's limit (512 octets, or what EDNS
says) is cut and marked as truncated; over TCP it is whole.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from types import TracebackType
from typing import NamedTuple, Self, assert_never, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT
import dns.reversename
import dns.rrset

__all__ = ["Asked", "BadRecord", "Fault", "Zone", "record"]

_UDP_LIMIT = 512
"""Octets of an answer over UDP without EDNS (RFC 1035 4.2.1)."""
_CHAIN = 16
"""CNAMEs followed before the answer is SERVFAIL."""


class Fault(StrEnum):
    """What a name, or one type of it, answers whatever records it has."""

    NXDOMAIN = "NXDOMAIN"
    """As if there were no such name."""
    SERVFAIL = "SERVFAIL"
    REFUSED = "REFUSED"
    TIMEOUT = "timeout"
    """No answer at all."""
    TRUNCATED = "truncated"
    """Over UDP an empty answer that says it was cut, however short the whole one is; over TCP that."""
    NO_TCP = "no-tcp"
    """The same over UDP, and over TCP no answer: a firewall that knows DNS as UDP only."""


class BadRecord(ValueError):
    """A name, a type or a value that is none."""


class Asked(NamedTuple):
    """One query that arrived."""

    name: str
    """Lower-case, without the last dot."""
    type: str
    transport: str
    """`udp` or `tcp`."""


@dataclass(slots=True)
class _Held:
    """All that is said of one name."""

    records: dict[dns.rdatatype.RdataType, tuple[int | None, list[dns.rdata.Rdata]]] = field(default_factory=dict)
    """With their TTL; None is the zone's."""
    faults: dict[dns.rdatatype.RdataType, Fault] = field(default_factory=dict)

    def has(self, rdtype: dns.rdatatype.RdataType) -> bool:
        """Whether there is a record of this type."""
        return rdtype in self.records and bool(self.records[rdtype][1])


_NOBODY = _Held(faults={dns.rdatatype.ANY: Fault.NXDOMAIN})


class Zone:
    """A name server, UDP and TCP on one port; it listens inside `async with`."""

    def __init__(
        self,
        names: Mapping[str, Mapping[str, str | Sequence[str] | Fault] | Fault] | None = None,
        *,
        ttl: int = 60,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        """Raises BadRecord."""
        self.ttl = ttl
        """Seconds, of every record that has no TTL of its own, and of every denial."""
        self.host = host
        """An IP address of this machine."""
        self.port = port
        """The real one, once it listens; 0 is any that is free."""
        self.queries: list[Asked] = []
        """What was asked, in order."""
        self._names: dict[dns.name.Name, _Held] = {}
        self._transports: set[asyncio.BaseTransport] = set()
        for name, entry in (names or {}).items():
            for type_, values in ({"ANY": entry} if isinstance(entry, Fault) else entry).items():
                self.set(name, type_, values)

    @property
    def address(self) -> str:
        """`127.0.0.1:port`, as the settings of a resolver want it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def set(self, name: str, type: str, values: str | Sequence[str] | Fault, *, ttl: int | None = None) -> None:
        """Replaces the records of one type (`A`, `MX`, ...), and ends its fault.

        Without values the name exists and has no such record. `ttl` is theirs, in seconds (RFC 2181 5.2: records of
        one name and type have one); None is the zone's. A fault leaves the records in their place, for `recover`. Type
        `ANY` takes a fault, which stands for every type that has none of its own, or no values, which leaves the name
        without records and faults. Raises BadRecord.
        """
        try:
            self._set(name, type, values, ttl)
        except dns.exception.DNSException as error:
            told = f"set({name!r}, {type!r}, {values!r}): {str(error).rstrip('.')}"
            raise BadRecord(f"{told}. Write names, types and values as in a zone file.") from None

    def _set(self, name: str, type: str, values: str | Sequence[str] | Fault, ttl: int | None) -> None:
        rdtype = dns.rdatatype.from_text(type)
        if isinstance(values, Fault):
            self._names.setdefault(_name(name), _Held()).faults[rdtype] = values
            return
        records = [record(rdtype, value) for value in ([values] if isinstance(values, str) else values)]
        if rdtype == dns.rdatatype.ANY:
            self._names[_name(name)] = _Held()
            return
        held = self._names.setdefault(_name(name), _Held())
        held.records[rdtype] = ttl, records
        held.faults.pop(rdtype, None)

    def speaks(self, name: str, *types: str) -> bool:
        """Whether anything is said of these types of a name: records, that there are none, or a fault."""
        held = self._names.get(_name(name), _Held())
        wanted = {dns.rdatatype.ANY, *map(dns.rdatatype.from_text, types)}
        return not wanted.isdisjoint({*held.records, *held.faults})

    def recover(self, name: str) -> None:
        """Ends all faults of the name: its records are answered again. Raises KeyError if there is no such name."""
        self._names[_name(name)].faults.clear()

    def remove(self, name: str) -> None:
        """The name is NXDOMAIN from now on. Raises KeyError if it is already."""
        del self._names[_name(name)]

    def answer(self, query: dns.message.Message, transport: str = "tcp") -> dns.message.Message | None:
        """What is sent back, before it is cut to what fits; None: nothing. `transport` is as in `Asked`."""
        response = dns.message.make_response(query, recursion_available=True)
        if len(query.question) != 1:
            response.set_rcode(dns.rcode.FORMERR)
            return response
        name, rdtype = query.question[0].name, query.question[0].rdtype
        for _ in range(_CHAIN):
            held = self._names.get(name, _NOBODY)
            match held.faults.get(rdtype, held.faults.get(dns.rdatatype.ANY)):
                case Fault.NXDOMAIN:
                    response.set_rcode(dns.rcode.NXDOMAIN)
                    response.authority = [self._soa()]
                    return response
                case Fault.SERVFAIL | Fault.REFUSED as fault:
                    response.set_rcode(dns.rcode.from_text(fault))
                    return response
                case Fault.TIMEOUT:
                    return None
                case Fault.TRUNCATED | Fault.NO_TCP if transport == "udp":
                    response.answer.clear()
                    response.flags |= dns.flags.TC
                    return response
                case Fault.NO_TCP:
                    return None
                case Fault.TRUNCATED | None:
                    pass
                case fault:
                    assert_never(fault)
            found = rdtype if held.has(rdtype) else dns.rdatatype.CNAME
            if not held.has(found):
                response.authority = [self._soa()]
                return response
            ttl, records = held.records[found]
            response.answer.append(dns.rrset.from_rdata_list(name, self.ttl if ttl is None else ttl, records))
            if found == rdtype:
                return response
            name = dns.name.from_text(str(records[0]))
        response.set_rcode(dns.rcode.SERVFAIL)
        return response

    def _soa(self) -> dns.rrset.RRset:
        return dns.rrset.from_text(
            dns.name.root, self.ttl, "IN", "SOA", f"zone. admin.zone. 1 3600 600 86400 {self.ttl}"
        )

    def _respond(self, wire: bytes, transport: str) -> bytes | None:
        try:
            query = dns.message.from_wire(wire)
            for question in query.question:
                name = question.name.to_text(omit_final_dot=True).lower()
                self.queries.append(Asked(name, dns.rdatatype.to_text(question.rdtype), transport))
            response = self.answer(query, transport)
        except dns.exception.DNSException:
            return None
        if response is None:
            return None
        if transport == "tcp":
            return response.to_wire(max_size=65535, prepend_length=True, want_shuffle=False)
        limit = query.payload or _UDP_LIMIT
        return response.to_wire(max_size=limit, prefer_truncation=True, want_shuffle=False)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        while True:
            self._server = await loop.create_server(lambda: _Stream(self), self.host, self.port)
            port: int = self._server.sockets[0].getsockname()[1]
            try:
                transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), (self.host, port))
            except OSError as error:
                self._server.close()
                if self.port or error.errno != errno.EADDRINUSE:
                    raise
            else:
                self.port = port
                self._transports.add(transport)
                return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for transport in tuple(self._transports):
            transport.close()
        await self._server.wait_closed()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, zone: Zone) -> None:
        self._zone = zone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, client: tuple[str, int]) -> None:
        response = self._zone._respond(data, "udp")
        if response is not None:
            self._transport.sendto(response, client)


class _Stream(asyncio.Protocol):
    """Each message with its length in two octets before it (RFC 1035 4.2.2)."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._zone._transports.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._zone._transports.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 2 and len(self._buffer) >= (end := 2 + int.from_bytes(self._buffer[:2], "big")):
            message, self._buffer = self._buffer[2:end], self._buffer[end:]
            response = self._zone._respond(message, "tcp")
            if response is not None:
                self._transport.write(response)


def _name(text: str) -> dns.name.Name:
    """Raises dns.exception.DNSException."""
    try:
        return dns.reversename.from_address(str(ip_address(text)))
    except ValueError:
        return dns.name.from_text(text)


def record(rdtype: dns.rdatatype.RdataType, value: str) -> dns.rdata.Rdata:
    """One record of what `Zone.set` takes as a value. Raises dns.exception.DNSException."""
    if rdtype is dns.rdatatype.TXT:
        octets = value.encode()
        strings = [octets[at : at + 255] for at in range(0, len(octets), 255)] or [b""]
        return dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.IN, rdtype, strings)
    return dns.rdata.from_text(dns.rdataclass.IN, rdtype, value, origin=dns.name.root, relativize=False)
