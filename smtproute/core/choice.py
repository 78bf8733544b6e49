"""Choice: which addresses of an endpoint's servers are tried, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from smtproute.core.settings import Server, Source

__all__ = ["Candidate", "Choice", "Exchange", "Exchanges", "Found", "Resolution", "Resolved", "order"]


class Resolution(StrEnum):
    """How a look-up ended. Kept apart, because each has another cause and another mend."""

    OK = "ok"
    NXDOMAIN = "NXDOMAIN"
    NODATA = "no data"
    SERVFAIL = "SERVFAIL"
    TIMEOUT = "timeout"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Found:
    """One address of a host name, and where it was found."""

    ip: str
    source: Source


@dataclass(frozen=True, slots=True)
class Resolved:
    """The addresses of one host name."""

    host: str
    status: Resolution
    addresses: tuple[Found, ...] = ()
    asked: str = ""
    """The DNS server that answered, or that did not; empty for the other sources."""

    def __str__(self) -> str:
        if self.status is Resolution.OK:
            return f"{self.host} = {', '.join(f'{found.ip} ({found.source})' for found in self.addresses)}"
        return f"{self.host}: {self.status}{f' from {self.asked}' if self.asked else ''}"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One MX record."""

    preference: int
    host: str


@dataclass(frozen=True, slots=True)
class Exchanges:
    """The mail exchangers of a domain (RFC 5321 5.1). `implicit`: it has none and stands for itself."""

    domain: str
    status: Resolution
    exchanges: tuple[Exchange, ...] = ()
    """By rising preference."""
    implicit: bool = False
    null: bool = False
    """A null MX (RFC 7505): the domain takes no mail."""
    asked: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One address to connect to."""

    server: Server
    ip: str
    source: Source
    backup: bool = False

    def __str__(self) -> str:
        ip = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"{self.server.host} ({self.source}, {ip}:{self.server.port})"


@dataclass(frozen=True, slots=True)
class Choice:
    """The addresses in the order in which they are tried, and the servers that have none."""

    candidates: tuple[Candidate, ...]
    missing: tuple[Resolved, ...] = ()


def order(servers: Sequence[tuple[Server, Resolved]], backup: Sequence[tuple[Server, Resolved]] = ()) -> Choice:
    """Failover in the order of the configuration: each server's addresses, then the backup servers'."""
    candidates = []
    missing = []
    for standby, group in ((False, servers), (True, backup)):
        for server, resolved in group:
            if not resolved.addresses:
                missing.append(resolved)
            candidates += [Candidate(server, found.ip, found.source, standby) for found in resolved.addresses]
    return Choice(tuple(candidates), tuple(missing))
