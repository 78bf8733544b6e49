"""Choice: which addresses of an endpoint's servers are tried, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from smtproute.core.reply import Refusal
from smtproute.core.settings import Server, Source

__all__ = [
    "Candidate",
    "Choice",
    "Exchange",
    "Exchanges",
    "Found",
    "Looked",
    "LookupFailed",
    "Passed",
    "Resolution",
    "Resolved",
    "order",
]


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
    reason: str = ""
    """What the status alone does not tell, in words."""
    at: float = 0.0
    """When DNS answered, in seconds since the epoch; 0 for the other sources."""
    ttl: float | None = None
    """Seconds from `at` until DNS is asked again; None: it was not asked."""
    stale: str = ""
    """Why DNS does not answer now, where this is its last good answer from before; else empty."""

    def __str__(self) -> str:
        if self.status is Resolution.OK:
            return f"{self.host} = {', '.join(f'{found.ip} ({found.source})' for found in self.addresses)}"
        asked = f" from {self.asked}" if self.asked else ""
        return f"{self.host}: {self.status}{asked}{f' ({self.reason})' if self.reason else ''}"


class LookupFailed(Exception):
    """DNS gave no answer, neither a record nor that there is none: SERVFAIL, timeout or refused. Temporary."""

    def __init__(self, resolved: Resolved) -> None:
        super().__init__(str(resolved))
        self.resolved = resolved


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
    reason: str = ""
    at: float = 0.0
    ttl: float | None = None
    stale: str = ""
    """These five as of Resolved."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One address to connect to."""

    server: Server
    ip: str
    source: Source
    backup: bool = False

    def __str__(self) -> str:
        if self.server.socket:
            return f"{self.server} ({self.source})"
        ip = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"{self.server.host} ({self.source}, {ip}:{self.server.port})"


@dataclass(frozen=True, slots=True)
class Looked:
    """What the look-up of one server's name came to."""

    server: Server
    resolved: Resolved
    backup: bool = False


@dataclass(frozen=True, slots=True)
class Passed:
    """An address that is not tried now."""

    candidate: Candidate
    why: str
    """"no route", "rests for 7 s after connection refused"."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Everything that was looked up for an endpoint, and the addresses in the order in which they are tried."""

    looked: tuple[Looked, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    passed: tuple[Passed, ...] = ()
    refusal: Refusal | None = None
    """Why there is nothing to try, where that is known before any server is asked."""


def order(looked: Sequence[Looked]) -> Choice:
    """Failover in the order of the configuration: each server's addresses, then the backup servers'."""
    by_rank = sorted(looked, key=lambda each: each.backup)
    candidates = [
        Candidate(each.server, found.ip, found.source, each.backup)
        for each in by_rank
        for found in each.resolved.addresses
    ]
    return Choice(tuple(by_rank), tuple(candidates))
