"""Zone: a name server for tests, on real sockets. What it says is a mapping that can be changed while it runs.

    async with Zone({
        "gitlab.internal": {"A": ["127.0.0.1"]},
        "example.net": {"MX": ["10 mx.example.net"], "AAAA": Fault.SERVFAIL},
        "broken.example": Fault.TIMEOUT,
    }) as zone:
        settings = Resolver(servers=(zone.address,))

Values are in the form of a zone file, every name absolute with or without its last dot; a TXT value is the bare text,
cut into strings of 255 octets. It answers as a recursive server does: CNAMEs are followed inside the zone, a name it
does not hold is NXDOMAIN, a type it does not hold no data, both with an SOA. An answer over UDP that passes the
client's limit (512 octets, or what EDNS says) is cut and marked as truncated; over TCP it is whole.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import TracebackType
from typing import NamedTuple, Self, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT
import dns.rrset

__all__ = ["Asked", "Fault", "Zone"]

_HOST = "127.0.0.1"
_UDP_LIMIT = 512
"""Octets of an answer over UDP without EDNS (RFC 1035 4.2.1)."""
_CHAIN = 16
"""CNAMEs followed before the answer is SERVFAIL."""


class Fault(StrEnum):
    """What a name, or one type of it, has instead of records."""

    SERVFAIL = "SERVFAIL"
    REFUSED = "REFUSED"
    TIMEOUT = "timeout"
    """No answer at all."""


class Asked(NamedTuple):
    """One query that arrived."""

    name: str
    """Lower-case, without the last dot."""
    type: str
    transport: str
    """`udp` or `tcp`."""


class Zone:
    """A name server on a free port of 127.0.0.1, UDP and TCP; it listens inside `async with`."""

    def __init__(
        self, names: Mapping[str, Mapping[str, Sequence[str] | Fault] | Fault] | None = None, *, ttl: int = 60
    ) -> None:
        self.ttl = ttl
        """Seconds, of every record and of every denial."""
        self.queries: list[Asked] = []
        """What was asked, in order."""
        self._names: dict[dns.name.Name, dict[dns.rdatatype.RdataType, list[dns.rdata.Rdata] | Fault]] = {}
        self._transports: set[asyncio.BaseTransport] = set()
        self._port = 0
        for name, entry in (names or {}).items():
            for type_, values in ({"ANY": entry} if isinstance(entry, Fault) else entry).items():
                self.set(name, type_, values)

    @property
    def address(self) -> str:
        """`127.0.0.1:port`, as the settings of a resolver want it."""
        return f"{_HOST}:{self._port}"

    def set(self, name: str, type: str, values: Sequence[str] | Fault) -> None:
        """Replaces the records of one type (`A`, `MX`, ...). A fault at type `ANY` stands for every type.

        Without values the name exists and has no such record. Raises dns.exception.DNSException for bad values.
        """
        rdtype = dns.rdatatype.from_text(type)
        held = values if isinstance(values, Fault) else [_record(rdtype, value) for value in values]
        self._names.setdefault(dns.name.from_text(name), {})[rdtype] = held

    def remove(self, name: str) -> None:
        """The name is NXDOMAIN from now on. Raises KeyError if it is already."""
        del self._names[dns.name.from_text(name)]

    def answer(self, query: dns.message.Message) -> dns.message.Message | None:
        """What is sent back; None: nothing."""
        response = dns.message.make_response(query, recursion_available=True)
        if len(query.question) != 1:
            response.set_rcode(dns.rcode.FORMERR)
            return response
        name, rdtype = query.question[0].name, query.question[0].rdtype
        for _ in range(_CHAIN):
            types = self._names.get(name)
            if types is None:
                response.set_rcode(dns.rcode.NXDOMAIN)
                response.authority = [self._soa()]
                return response
            match types.get(dns.rdatatype.ANY, types.get(rdtype)):
                case Fault.TIMEOUT:
                    return None
                case Fault() as fault:
                    response.set_rcode(dns.rcode.from_text(fault))
                    return response
                case [_, *_] as records:
                    response.answer.append(dns.rrset.from_rdata_list(name, self.ttl, records))
                    return response
            match types.get(dns.rdatatype.CNAME):
                case [alias, *_] as records:
                    response.answer.append(dns.rrset.from_rdata_list(name, self.ttl, records))
                    name = dns.name.from_text(str(alias))
                case _:
                    response.authority = [self._soa()]
                    return response
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
            response = self.answer(query)
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
            self._server = await loop.create_server(lambda: _Stream(self), _HOST, 0)
            self._port = self._server.sockets[0].getsockname()[1]
            try:
                transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), (_HOST, self._port))
            except OSError as error:
                self._server.close()
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
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


def _record(rdtype: dns.rdatatype.RdataType, value: str) -> dns.rdata.Rdata:
    if rdtype is dns.rdatatype.TXT:
        octets = value.encode()
        strings = [octets[at : at + 255] for at in range(0, len(octets), 255)] or [b""]
        return dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.IN, rdtype, strings)
    return dns.rdata.from_text(dns.rdataclass.IN, rdtype, value, origin=dns.name.root, relativize=False)
