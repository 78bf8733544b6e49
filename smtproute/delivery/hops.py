"""Hops: every address of every server of an endpoint, and names without one, as an operator wants them listed.

By the same look-ups as the relay. Backup servers, and addresses that rest or that failover would not reach, are
listed too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from smtproute.core.address import Address, Domain
from smtproute.core.choice import FAILED, Candidate, Choice, Found, Looked, Resolution, Resolved, Spot
from smtproute.core.decide import Routing
from smtproute.core.routes import Form
from smtproute.core.settings import Discover, Endpoint, Server, Settings, Store
from smtproute.core.snapshot import Snapshot
from smtproute.delivery.endpoint import Endpoints
from smtproute.delivery.lmtp import lmtp_endpoint

__all__ = ["Hop", "Trial", "hops", "hosts", "lost", "trials"]

_NOWHERE = Domain.parse("localhost")
"""The recipient's domain where none is asked for it."""


@dataclass(frozen=True, slots=True)
class Trial:
    """An endpoint, and the envelope that it is tried with."""

    endpoint: Endpoint
    reverse_path: Address | None = None
    recipient: Address | None = None
    """None: `<postmaster>`, which every server takes mail for (RFC 5321 4.5.1)."""

    @property
    def undirected(self) -> bool:
        """Whether its servers are those of a recipient's domain, and there is no recipient."""
        return self.endpoint.discover is Discover.RECIPIENT and self.recipient is None


@dataclass(frozen=True, slots=True)
class Hop:
    """One address of an endpoint, or a name that has none."""

    trial: Trial
    written: str
    """The server as the configuration has it; with `Discover.RECIPIENT` the recipient's domain."""
    server: Server | None
    """Whom it was found for: the same, or a mail exchanger of it; None where it did not come to that."""
    backup: bool
    resolved: Resolved | None = None
    found: Found | None = None
    why: str = ""
    """Why there is no address, or why this one is not used; empty for one that is."""
    unanswered: bool = False
    """Whether there is no address because DNS fails."""

    @property
    def usable(self) -> bool:
        return self.found is not None and not self.why

    @property
    def shown(self) -> str:
        """Host and port."""
        return str(self.server or self.written)

    def __str__(self) -> str:
        """As the trace names it: host, source, address and port."""
        if self.server is None or self.found is None:
            return self.shown
        return str(Candidate(self.server, self.found.ip, self.found.source, self.backup))


def trials(
    snapshot: Snapshot, *, reverse_path: Address | None = None, recipient: Address | None = None
) -> dict[str, Trial]:
    """One for each endpoint: those of the file, docker-mailserver's relays, the mailboxes' LMTP server.

    Where nobody says for whom, it is for whom the first route to it names: an address, or postmaster at a domain.
    """
    return {
        endpoint.name: Trial(endpoint, reverse_path, recipient or _recipient(snapshot.routing, endpoint))
        for endpoint in _endpoints(snapshot.settings)
    }


def _endpoints(settings: Settings) -> Iterator[Endpoint]:
    yield from settings.endpoints.values()
    if settings.accounts.store is Store.LMTP:
        yield lmtp_endpoint(settings.accounts)


def _recipient(routing: Routing, endpoint: Endpoint) -> Address | None:
    if endpoint.lmtp:  # nobody else is known there
        return next((mailbox.address for mailbox in routing.mailboxes.values()), None)
    for route in routing.routes:
        if route.target.endpoint == endpoint.name:
            if route.match.form is Form.ADDRESS:
                return Address.parse(route.match.text)
            if route.match.form is Form.DOMAIN:
                return Address("postmaster", Domain.parse(route.match.key))
    return None


async def hops(endpoints: Endpoints, trials: Iterable[Trial]) -> tuple[Hop, ...]:
    """Every address of these trials, an endpoint's backup servers last; of a name without one, why.

    Of an endpoint whose servers are those of a recipient's domain there is nothing without a recipient.
    """
    async with asyncio.TaskGroup() as tasks:
        asked = [
            tasks.create_task(_found(endpoints, trial, endpoint, written))
            for trial in trials
            for written, endpoint in _names(trial)
        ]
    return tuple(hop for each in asked for hop in each.result())


def _names(trial: Trial) -> Iterator[tuple[str, Endpoint]]:
    """Each name that is looked up, and the endpoint with no other server."""
    endpoint = trial.endpoint
    if endpoint.discover is Discover.RECIPIENT:
        if trial.recipient is not None:
            yield str(trial.recipient.domain), endpoint
    elif endpoint.fault is not None:
        yield endpoint.name, endpoint
    else:
        yield from ((str(each), replace(endpoint, servers=(each,), backup=())) for each in endpoint.servers)
        yield from ((str(each), replace(endpoint, servers=(), backup=(each,))) for each in endpoint.backup)


async def _found(endpoints: Endpoints, trial: Trial, endpoint: Endpoint, written: str) -> tuple[Hop, ...]:
    """The hops of one name."""
    choice = await endpoints.candidates(endpoint, trial.recipient.domain if trial.recipient else _NOWHERE)
    if not choice.looked:
        backup = not endpoint.servers and bool(endpoint.backup)
        return (Hop(trial, written, None, backup, why=_refused(choice), unanswered=choice.unanswered),)
    unused = {each.candidate.spot: each.why for each in choice.passed}
    return tuple(hop for looked in choice.looked for hop in _targets(trial, written, looked, unused))


def _targets(trial: Trial, written: str, looked: Looked, unused: Mapping[Spot, str]) -> list[Hop]:
    """The hops of one server; `unused`: the addresses that are passed over, and why."""
    resolved = looked.resolved
    if not resolved.addresses:
        failed = resolved.status in FAILED
        return [Hop(trial, written, looked.server, looked.backup, resolved, why=_failure(resolved), unanswered=failed)]
    return [
        Hop(trial, written, looked.server, looked.backup, resolved, found, unused.get((looked.server, found.ip), ""))
        for found in resolved.addresses
    ]


def _refused(choice: Choice) -> str:
    refusal = choice.refusal
    return (refusal.detail or refusal.reply.text) if refusal is not None else "no server"


def _failure(resolved: Resolved) -> str:
    """How the look-up ended, without the name that stands beside it."""
    return str(resolved).removeprefix(f"{resolved.host}: ") if resolved.status is not Resolution.OK else "no address"


def lost(found: Sequence[Hop]) -> tuple[Hop, ...]:
    """The hops of names that give no usable address."""
    good = {_name(each) for each in found if each.usable}
    return tuple(each for each in found if _name(each) not in good)


def _name(hop: Hop) -> tuple[str, str, bool]:
    return hop.trial.endpoint.name, hop.written, hop.backup


def hosts(settings: Settings) -> tuple[str, ...]:
    """The host names of endpoints whose own addresses are used; no UNIX sockets."""
    endpoints = [each for each in _endpoints(settings) if each.discover is Discover.A]
    servers = [server for each in endpoints for server in (*each.servers, *each.backup)]
    return tuple(dict.fromkeys(server.host for server in servers if not server.socket))
