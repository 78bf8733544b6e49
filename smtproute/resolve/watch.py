"""Watch: the names of endpoints are looked up again and again, so that a change is known before mail meets it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import assert_never

from smtproute.core.address import written_ip
from smtproute.core.choice import Exchanges, Resolution, Resolved
from smtproute.core.event import Emit, Event, Happening
from smtproute.core.settings import Discover, Endpoint, Server, Settings
from smtproute.resolve.resolver import Resolver
from smtproute.world import World

__all__ = ["Watch"]

AT_ONCE = 16
"""Names that are looked up at once."""

Vanished = Callable[[str, Server, frozenset[str]], None]
"""Is told the addresses that a server of an endpoint, named, has no longer."""
_Seen = Mapping[Server, Resolved]
"""What each server of one endpoint resolved to."""


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
        await self._refresh()
        async with asyncio.TaskGroup() as tasks:
            for endpoint in endpoints.values():
                tasks.create_task(self._look_at(endpoint))

    async def _look_at(self, endpoint: Endpoint) -> None:
        servers = dict.fromkeys(
            server
            for server in (*endpoint.servers, *endpoint.backup)
            if not server.socket and written_ip(server.host) is None
        )
        now: dict[Server, Resolved] = {}
        match endpoint.discover:
            case Discover.A:
                async with asyncio.TaskGroup() as tasks:
                    asked = {server: tasks.create_task(self._addresses(server)) for server in servers}
                now = {server: task.result() for server, task in asked.items()}
            case Discover.MX:
                async with asyncio.TaskGroup() as tasks:
                    relays = [tasks.create_task(self._relays(server)) for server in servers]
                for relay in relays:
                    now.update(relay.result())
            case Discover.RECIPIENT:
                pass
            case _:
                assert_never(endpoint.discover)
        before = self._seen.get(endpoint.name)
        if before is None:  # at the first look nothing has changed; what is wrong is told all the same
            before = {server: replace(resolved, stale="") for server, resolved in now.items() if resolved.addresses}
        self._seen[endpoint.name] = now
        self._tell(endpoint, before, now)

    async def _addresses(self, server: Server) -> Resolved:
        async with self._places:
            return await self._resolver().addresses(server.host, fresh=True)

    async def _relays(self, server: Server) -> _Seen:
        """The mail exchangers of a server's name, on its port; the name itself while it has none."""
        async with self._places:
            found = await self._resolver().exchanges(server.host, fresh=True)
        if not found.exchanges:
            return {server: _without(found)}
        async with asyncio.TaskGroup() as tasks:
            asked = {
                relay: tasks.create_task(self._addresses(relay))
                for relay in (Server(each.host, server.port) for each in found.exchanges)
            }
        resolved = {relay: task.result() for relay, task in asked.items()}
        if not found.stale:
            return resolved
        return {relay: replace(each, stale=found.stale) if each.addresses else each for relay, each in resolved.items()}

    def _tell(self, endpoint: Endpoint, before: _Seen, now: _Seen) -> None:
        for server in {**before, **now}:
            was, then = before.get(server), now.get(server)
            appeared = _ips(then) - _ips(was)
            vanished = _ips(was) - _ips(then)
            # A name that is new and resolves to nothing has no address to tell of.
            news = was is None or (then is not None and bool(then.stale) != bool(was.stale))
            if not (appeared or vanished or news):
                continue
            facts = {
                "endpoint": endpoint.name,
                "server": str(server),
                "appeared": sorted(appeared),
                "vanished": sorted(vanished),
                "now": str(then) if then is not None else "no server of the endpoint any more",
            }
            self._emit(Event(Happening.RESOLVED, self._world.clock.now(), facts=facts))
            if vanished:
                self._vanished(endpoint.name, server, vanished)


def _ips(resolved: Resolved | None) -> frozenset[str]:
    return frozenset(found.ip for found in resolved.addresses) if resolved is not None else frozenset()


def _without(found: Exchanges) -> Resolved:
    """Of a name without mail exchangers: what DNS said instead."""
    status = Resolution.NODATA if found.null else found.status
    why = "a null MX: it takes no mail" if found.null else found.reason
    return Resolved(f"MX of {found.domain}", status, asked=found.asked, reason=why, at=found.at, ttl=found.ttl)
