"""Name servers: one question put to one after the other, until one answers."""

from __future__ import annotations

import asyncio
import errno
import math
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

import dns.asyncbackend
import dns.asyncquery
import dns.exception
import dns.flags
import dns.inet
import dns.message
import dns.rcode
import dns.rdata
import dns.rdatatype

from smtproute.core.choice import FAILED, Resolution, ending
from smtproute.resolve.files import text_of

__all__ = ["AT_ONCE", "NEGATIVE", "Answer", "NameServer", "NameServers", "system_servers"]

AT_ONCE = 100
"""Questions that are under way at once, each with a socket: the longest list of mail exchangers takes no more."""
SHORTEST = 5.0
"""Seconds an answer is kept at least, whatever its TTL, and a failure exactly: a burst of mail asks once."""
LONGEST = 86400.0
"""Seconds a record is kept at most."""
NEGATIVE = 60.0
"""Seconds a denial is kept at most (RFC 2308 5 allows hours): who adds a missing record wants to see it work."""

_ROUNDS = 2
"""How often a silent server is tried (resolv.conf(5) attempts)."""
_LACKS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What this machine, or this process, has too little of: no server is asked."""


@dataclass(frozen=True, slots=True)
class NameServer:
    ip: str
    port: int = 53

    @classmethod
    def parse(cls, text: str) -> Self:
        """`10.0.0.53`, `10.0.0.53:5353`, `::1`, `[::1]`, `[::1]:5353`. Raises ValueError."""
        if text.startswith("["):
            ip, bracket, port = text[1:].partition("]")
            if not bracket or (port and not port.startswith(":")):
                raise ValueError(f"{text!r} is no address of a name server")
            port = port[1:] if port else "53"
        elif text.count(":") == 1:
            ip, _, port = text.partition(":")
        else:
            ip, port = text, "53"
        if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError(f"{text!r} has no port of a name server")
        return cls(str(ip_address(ip)), int(port))

    def __str__(self) -> str:
        if self.port == 53:
            return self.ip
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


def system_servers(resolv_conf: str) -> list[NameServer]:
    """The name servers of a resolv.conf(5). One that cannot be read, or names none, is an empty list."""
    try:
        lines = text_of(Path(resolv_conf)).splitlines()
    except OSError:
        return []
    servers = []
    for line in lines:
        match line.split():
            case ["nameserver", address, *_]:
                try:
                    servers.append(NameServer(str(ip_address(address))))
                except ValueError:
                    continue
    return servers


@dataclass(frozen=True, slots=True)
class Answer:
    """How one question ended; `OK` has records, the others have none."""

    status: Resolution
    records: tuple[dns.rdata.Rdata, ...] = ()
    lifetime: float = SHORTEST
    """Seconds for which it may be kept."""
    asked: str = ""
    reason: str = ""

    def __str__(self) -> str:
        return ending(self.status, self.asked, self.reason)


class NameServers:
    """Asks in order, over UDP, and over TCP what UDP truncates. `attempt` and `total` are seconds.

    Without EDNS, as the C library: a long answer costs a TCP connection once in its lifetime, and no server is too old.
    """

    def __init__(self, servers: Sequence[NameServer], *, attempt: float, total: float) -> None:
        self._servers = list(servers)
        self._attempt = attempt
        self._total = total
        self._places = asyncio.Semaphore(AT_ONCE)

    async def ask(self, name: str, rdtype: dns.rdatatype.RdataType, *, within: float = math.inf) -> Answer:
        """Never raises. A server that fails is passed over for the next; if all fail, the last failure counts.

        `within`: seconds that it may take, where they are fewer than `total`; each server has its share of them.
        """
        if not self._servers:
            return Answer(Resolution.REFUSED, reason="no name server configured")
        total = min(self._total, within)
        attempt = min(self._attempt, total / len(self._servers))
        failures: dict[NameServer, Answer] = {}
        try:
            async with asyncio.timeout(total):
                for server in self._servers * _ROUNDS:
                    if server in failures and failures[server].status is not Resolution.TIMEOUT:
                        continue
                    answer = await self._ask_one(server, name, rdtype, attempt)
                    if answer.status not in FAILED:
                        self._put_last([server for server in failures if failures[server].status is Resolution.TIMEOUT])
                        return answer
                    failures[server] = answer
        except TimeoutError:
            failures.setdefault(server, Answer(Resolution.TIMEOUT, asked=str(server)))
        *others, last = failures.values()
        reasons = [last.reason, *(f"{failure.asked}: {failure.reason or failure.status}" for failure in others)]
        return Answer(last.status, asked=last.asked, reason="; ".join(filter(None, reasons)))

    def _put_last(self, silent: Sequence[NameServer]) -> None:
        """So that one dead server does not delay every look-up."""
        self._servers.sort(key=lambda server: server in silent)

    async def _ask_one(self, server: NameServer, name: str, rdtype: dns.rdatatype.RdataType, attempt: float) -> Answer:
        asked = str(server)
        try:
            async with self._places, asyncio.timeout(attempt):
                return _read(await _exchange(server, dns.message.make_query(name, rdtype)), asked)
        except TimeoutError:
            return Answer(Resolution.TIMEOUT, asked=asked)
        except OSError as error:
            return _unasked(error, asked)
        except (EOFError, dns.exception.DNSException) as error:
            return Answer(Resolution.SERVFAIL, asked=asked, reason=f"malformed answer: {error or type(error).__name__}")


def _unasked(error: OSError, asked: str) -> Answer:
    """Of a server that could not be asked: why."""
    why = (error.strerror or str(error)).lower()
    if error.errno in _LACKS:
        return Answer(Resolution.SERVFAIL, asked=asked, reason=f"not asked: {why} (here)")
    if isinstance(error, ConnectionRefusedError):
        why = f"no name server there: {why}"
    return Answer(Resolution.REFUSED, asked=asked, reason=why)


async def _exchange(server: NameServer, query: dns.message.Message) -> dns.message.QueryMessage:
    backend: Any = dns.asyncbackend.get_default_backend()
    family = dns.inet.af_for_address(server.ip)
    # A connected socket: the kernel drops what others send, and a closed port is an error instead of silence.
    async with await backend.make_socket(family, socket.SOCK_DGRAM, 0, None, (server.ip, server.port)) as udp:
        response, _ = await dns.asyncquery.udp_with_fallback(
            query, server.ip, port=server.port, udp_sock=udp, ignore_errors=True
        )
    assert isinstance(response, dns.message.QueryMessage)  # it has the opcode of the query, or it was ignored
    return response


def _read(response: dns.message.QueryMessage, asked: str) -> Answer:
    """Raises dns.exception.DNSException for a response that makes no sense."""
    match response.rcode():
        case dns.rcode.NOERROR | dns.rcode.NXDOMAIN:
            pass
        case dns.rcode.REFUSED:
            return Answer(Resolution.REFUSED, asked=asked)
        case dns.rcode.SERVFAIL:
            return Answer(Resolution.SERVFAIL, asked=asked)
        case other:
            return Answer(Resolution.SERVFAIL, asked=asked, reason=dns.rcode.to_text(other))
    chain = response.resolve_chaining()
    if chain.answer is not None:
        lifetime = min(max(chain.minimum_ttl, SHORTEST), LONGEST)
        return Answer(Resolution.OK, tuple(chain.answer), lifetime, asked)
    kept = min(max(chain.minimum_ttl, SHORTEST), NEGATIVE)
    if response.rcode() == dns.rcode.NXDOMAIN:
        return Answer(Resolution.NXDOMAIN, (), kept, asked)
    if not response.flags & (dns.flags.RA | dns.flags.AA):
        return Answer(Resolution.SERVFAIL, asked=asked, reason="a referral: the server is not recursive")
    return Answer(Resolution.NODATA, (), kept, asked)
