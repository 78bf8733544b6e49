"""Watch: the names of endpoints are looked up again and again, so that a change is known before mail meets it."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from dns.exception import DNSException

from smtproute.core.address import written_ip
from smtproute.core.choice import FAILED, Exchanges, Resolution, Resolved
from smtproute.core.event import Emit, Event, Happening
from smtproute.core.settings import Discover, Endpoint, Server, Settings
from smtproute.resolve.resolver import Resolver
from smtproute.world import World

__all__ = ["Watch"]

AT_ONCE = 16
"""Names that are looked up at once."""

Vanished = Callable[[str, Server, frozenset[str]], None]
"""Is told the addresses that a server of an endpoint, named, has no longer."""
_UNFORESEEN = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    DNSException,
)
"""What a look-up may raise that nobody thought of: the next ones must go on."""


@dataclass(frozen=True, slots=True)
class _Sight:
    """What was seen of one server of an endpoint."""

    name: Server
    """Itself, or whose mail exchanger it is."""
    resolved: Resolved
    ips: frozenset[str]
    """Its addresses; those of before as well, where DNS fails and does not tell whether they are gone."""

    @property
    def trouble(self) -> tuple[bool, bool]:
        return self.resolved.status in FAILED, bool(self.resolved.stale)


_Seen = Mapping[Server, _Sight]


class Watch:
    """Looks up afresh every `resolver.watch` seconds and tells each change once (`Happening.RESOLVED`).

    `refresh` reads the hosts file again. `run` is the only task.
    """

    def __init__(
        self,
        *,
        settings: Callable[[], Settings],
        resolver: Callable[[], Resolver],
        refresh: Callable[[], Awaitable[None]],
        vanished: Vanished,
        world: World,
        emit: Emit,
    ) -> None:
        self._settings = settings
        self._resolver = resolver
        self._refresh = refresh
        self._vanished = vanished
        self._world = world
        self._emit = emit
        self._seen: dict[str, _Seen] = {}
        """By the endpoint's name."""
        self._wake = asyncio.Event()
        self._places = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """Looks at once, and then for ever; while `resolver.watch` is 0 it waits for a nudge."""
        while True:
            self._wake.clear()
            pause = self._settings().resolver.watch
            if pause:
                await self._look()
            async with asyncio.TaskGroup() as tasks:
                alarm = tasks.create_task(self._alarm(pause)) if pause else None
                await self._wake.wait()
                if alarm is not None:
                    alarm.cancel()

    def nudge(self) -> None:
        """Looks at once: after a reload."""
        self._wake.set()

    async def _alarm(self, pause: float) -> None:
        await self._world.clock.sleep(pause)
        self._wake.set()

    async def _look(self) -> None:
        endpoints = self._settings().endpoints
        self._seen = {name: seen for name, seen in self._seen.items() if name in endpoints}
        await self._outlived(self._refresh())
        async with asyncio.TaskGroup() as tasks:
            for endpoint in endpoints.values():
                tasks.create_task(self._outlived(self._look_at(endpoint)))

    async def _outlived(self, step: Awaitable[None]) -> None:
        """Whatever fails in a step is noted, and the watch goes on."""
        try:
            await step
        except* _UNFORESEEN as faults:
            facts = {"where": "watch", "detail": "".join(traceback.format_exception(faults))}
            self._emit(Event(Happening.FAULT, self._world.clock.now(), facts=facts))

    async def _look_at(self, endpoint: Endpoint) -> None:
        servers = dict.fromkeys(
            server
            for server in (*endpoint.servers, *endpoint.backup)
            if not server.socket and written_ip(server.host) is None
        )
        before = self._seen.get(endpoint.name)
        known = before or {}
        asked: dict[Server, asyncio.Task[Mapping[Server, Resolved]]] = {}
        async with asyncio.TaskGroup() as tasks:
            for server in servers:
                match endpoint.discover:
                    case Discover.A:
                        asked[server] = tasks.create_task(self._itself(server))
                    case Discover.MX:
                        relays = [relay for relay, sight in known.items() if sight.name == server]
                        asked[server] = tasks.create_task(self._relays(server, relays))
                    case Discover.RECIPIENT:
                        pass
                    case _:
                        assert_never(endpoint.discover)
        now = {
            server: _Sight(name, resolved, _ips(resolved, known.get(server)))
            for name, task in asked.items()
            for server, resolved in task.result().items()
        }
        if before is None:  # at the first look nothing has changed; what is wrong is told all the same
            before = {
                server: replace(sight, resolved=replace(sight.resolved, stale=""))
                for server, sight in now.items()
                if sight.ips
            }
        self._seen[endpoint.name] = now
        self._tell(endpoint, before, now)

    async def _itself(self, server: Server) -> Mapping[Server, Resolved]:
        return {server: await self._addresses(server)}

    async def _addresses(self, server: Server) -> Resolved:
        async with self._places:
            return await self._resolver().addresses(server.host, fresh=True)

    async def _relays(self, server: Server, known: Collection[Server]) -> Mapping[Server, Resolved]:
        """The mail exchangers of a server's name, on its port; the name itself while it has none.

        While DNS fails to tell them, those that are known.
        """
        async with self._places:
            found = await self._resolver().exchanges(server.host, fresh=True)
        if not found.exchanges:
            unchanged = known if found.status in FAILED else ()
            return dict.fromkeys(unchanged or (server,), _without(found))
        async with asyncio.TaskGroup() as tasks:
            asked = {
                relay: tasks.create_task(self._addresses(relay))
                for relay in (Server(each.host, server.port) for each in found.exchanges)
            }
        resolved = {relay: task.result() for relay, task in asked.items()}
        if not found.stale:
            return resolved
        return {
            relay: replace(each, stale=found.stale, age=found.age) if each.addresses else each
            for relay, each in resolved.items()
        }

    def _tell(self, endpoint: Endpoint, before: _Seen, now: _Seen) -> None:
        for server in {**before, **now}:
            was, then = before.get(server), now.get(server)
            here, there = (each.ips if each is not None else frozenset[str]() for each in (then, was))
            appeared, vanished = here - there, there - here
            # A name that is new and resolves to nothing has no address to tell of.
            news = was is None or (then is not None and then.trouble != was.trouble)
            if not (appeared or vanished or news):
                continue
            facts = {
                "endpoint": endpoint.name,
                "server": str(server),
                "appeared": sorted(appeared),
                "vanished": sorted(vanished),
                "now": str(then.resolved) if then is not None else "no server of the endpoint any more",
            }
            self._emit(Event(Happening.RESOLVED, self._world.clock.now(), facts=facts))
            if vanished:
                self._vanished(endpoint.name, server, vanished)


def _ips(resolved: Resolved, before: _Sight | None) -> frozenset[str]:
    """The addresses of a server; of a family that DNS fails to tell of, those that were seen before."""
    ips = frozenset(found.ip for found in resolved.addresses)
    failed = resolved.status in FAILED or (resolved.status is Resolution.OK and resolved.reason)
    if before is None or not failed:
        return ips
    told = {":" in ip for ip in ips}
    return ips | {ip for ip in before.ips if (":" in ip) not in told}


def _without(found: Exchanges) -> Resolved:
    """Of a name without mail exchangers: what DNS said instead."""
    status = Resolution.NODATA if found.null else found.status
    why = "a null MX: it takes no mail" if found.null else found.reason
    return Resolved(f"MX of {found.domain}", status, asked=found.asked, reason=why, at=found.at, ttl=found.ttl)
