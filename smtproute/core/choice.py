"""Choice: which addresses of an endpoint's servers are tried, in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile
from typing import TypeVar

from smtproute.core.health import Rest
from smtproute.core.reply import Refusal
from smtproute.core.settings import Balance, Family, Server, Source

__all__ = [
    "FAILED",
    "MOST",
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
    "Spot",
    "ending",
    "order",
    "rotated",
]

T = TypeVar("T")
MOST = 10
"""Addresses that one attempt tries, and as many of backup servers (Postfix smtp_mx_address_limit has 5): a name with
thousands of dead ones must not hold its mail, nor a place, for hours. They rest then, and others have their turn."""
Spot = tuple[Server, str]
"""A server and one of its IP addresses."""


class Resolution(StrEnum):
    """How a look-up ended. Kept apart, because each has another cause and another mend."""

    OK = "ok"
    NXDOMAIN = "NXDOMAIN"
    NODATA = "no data"
    SERVFAIL = "SERVFAIL"
    TIMEOUT = "timeout"
    REFUSED = "refused"


FAILED = frozenset({Resolution.SERVFAIL, Resolution.TIMEOUT, Resolution.REFUSED})
"""Endings that tell nothing about the name."""


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
    age: float = 0.0
    """Seconds from `at` until the resolver handed it out."""
    ttl: float | None = None
    """Seconds from `at` for which the answer holds: the record's, within our bounds; None: DNS was not asked."""
    stale: str = ""
    """Why DNS does not answer now, where this is its last good answer from before; else empty."""

    @property
    def left(self) -> int | None:
        """Seconds until DNS is asked again; None: it was not asked."""
        return max(0, round(self.ttl - self.age)) if self.ttl is not None else None

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is not well with an answer that has addresses."""
        return _stale(self) or ((self.reason,) if self.reason else ())

    def __str__(self) -> str:
        if self.status is Resolution.OK:
            found = (f"{found.ip} ({found.source})" for found in self.addresses)
            return f"{self.host} = {', '.join((*found, *self.remarks))}"
        return f"{self.host}: {ending(self.status, self.asked, self.reason)}"


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
    """The mail exchangers of a domain (RFC 5321 5.1). One that has none stands for itself."""

    domain: str
    status: Resolution
    exchanges: tuple[Exchange, ...] = ()
    """By rising preference."""
    null: bool = False
    """A null MX (RFC 7505): the domain takes no mail."""
    asked: str = ""
    reason: str = ""
    at: float = 0.0
    age: float = 0.0
    ttl: float | None = None
    stale: str = ""
    """These six as of Resolved."""

    def __str__(self) -> str:
        if self.exchanges:
            found = (f"{each.preference} {each.host}" for each in self.exchanges)
            return f"MX of {self.domain} = {', '.join((*found, *_stale(self)))}"
        if self.null:
            return f"{self.domain} has a null MX{f' from {self.asked}' if self.asked else ''}"
        return f"MX of {self.domain}: {ending(self.status, self.asked, self.reason)}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One address to connect to."""

    server: Server
    ip: str
    source: Source
    backup: bool = False

    @property
    def spot(self) -> Spot:
        return self.server, self.ip

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
    """"no route", "rests for 7 s more after 3 failures: connection refused"."""

    def __str__(self) -> str:
        return f"{self.candidate} {self.why}"


@dataclass(frozen=True, slots=True)
class Choice:
    """Everything that was looked up for an endpoint, and the addresses in the order in which they are tried."""

    looked: tuple[Looked, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    passed: tuple[Passed, ...] = ()
    refusal: Refusal | None = None
    """Why there is nothing to try, where that is known before any server is asked."""
    probes: tuple[Candidate, ...] = ()
    """The first candidates, as far as they have rested: whoever takes this choice probes them, and nobody else."""
    awaited: bool = False
    """Whether another message probes one that is passed over."""
    at: float = 0.0
    """When the look-ups began (`Clock.monotonic`): what vanishes from then on may still be among the candidates."""

    @property
    def unanswered(self) -> bool:
        """Whether DNS fails for one of the names: its servers (4.4.3, RFC 3463) or the addresses of one."""
        refused = self.refusal is not None and self.refusal.reply.enhanced == "4.4.3"
        return refused or any(each.resolved.status in FAILED for each in self.looked)


def order(
    looked: Sequence[Looked],
    *,
    balance: Balance = Balance.FAILOVER,
    family: Family = Family.ANY,
    turn: int = 0,
    unroutable: frozenset[str] = frozenset(),
    rests: Mapping[Spot, Rest] | None = None,
    now: float = 0.0,
) -> Choice:
    """The usable addresses, each once and at most `MOST`, those of backup servers last; which others are passed over.

    Failover: in the order of the configuration, each server's addresses as the resolver has them. Round-robin: with
    each `turn` the next server comes first, and with each round the next address of each; then as failover.
    `unroutable`: IP addresses without a route. `now`: seconds since the epoch, for the rests.
    """
    rests = rests or {}
    ranked = tuple(sorted(looked, key=lambda each: each.backup))
    usable: tuple[list[list[Candidate]], list[list[Candidate]]] = ([], [])
    passed: list[Passed] = []
    seen: set[Spot] = set()
    for each in ranked:
        addresses = []
        for found in each.resolved.addresses:
            candidate = Candidate(each.server, found.ip, found.source, each.backup)
            if candidate.spot in seen:
                continue
            seen.add(candidate.spot)
            rest = rests.get(candidate.spot)
            why = _unfit(candidate, family, unroutable) or (rest.told(now) if rest is not None else "")
            if why:
                passed.append(Passed(candidate, why))
            else:
                addresses.append(candidate)
        if addresses:
            usable[each.backup].append(addresses)
    turn = turn if balance is Balance.ROUND_ROBIN else 0
    candidates = (*_in_turn(usable[False], turn)[:MOST], *_in_turn(usable[True], turn)[:MOST])
    if not rests:
        return Choice(ranked, candidates, tuple(passed))
    # One that rested and stands behind a healthy one is tried by whoever comes so far: that one has failed meanwhile.
    probes = tuple(takewhile(lambda candidate: candidate.spot in rests, candidates))
    awaited = any(rest.probed for each in passed if (rest := rests.get(each.candidate.spot)) is not None)
    return Choice(ranked, candidates, tuple(passed), probes=probes, awaited=awaited)


def ending(status: Resolution, asked: str, reason: str) -> str:
    """How a question ended, and whom it was put to: "SERVFAIL from 10.0.0.53"."""
    return f"{status}{f' from {asked}' if asked else ''}{f' ({reason})' if reason else ''}"


def rotated(items: Sequence[T], by: int) -> list[T]:
    """The same items, beginning with number `by` of an endless round."""
    start = by % len(items) if items else 0
    return [*items[start:], *items[:start]]


def _stale(answer: Resolved | Exchanges) -> tuple[str, ...]:
    """Why an answer is used that is too old, and how old it is; nothing of one that is not."""
    if not answer.stale:
        return ()
    seconds = int(answer.age)
    old = f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"
    return f"stale: {answer.stale}", f"answer of {old} ago"


def _in_turn(servers: Sequence[Sequence[Candidate]], turn: int) -> list[Candidate]:
    """The addresses of servers, of which each has some."""
    rounds = turn // len(servers) if servers else 0
    return [candidate for addresses in rotated(servers, turn) for candidate in rotated(addresses, rounds)]


def _unfit(candidate: Candidate, family: Family, unroutable: frozenset[str]) -> str:
    """What keeps an address from being used at all; empty: nothing."""
    if family is not Family.ANY and not candidate.server.socket:
        version, name = (Family.IPV6, "IPv6") if ":" in candidate.ip else (Family.IPV4, "IPv4")
        if version is not family:
            return f"{name}, and family = {family}"
    return "no route" if candidate.ip in unroutable else ""
