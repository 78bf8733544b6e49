"""Surroundings: what a scenario puts on its stage: names, servers, keys of others, relays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, assert_never

from smtproute.app import Refused
from smtproute.config.document import Mistake
from smtproute.mailauth.keys import SigningKey
from smtproute.smtp.listener import ListenerFailed
from smtproute.smtp.tls import TlsFault
from smtproute.testing.network import blackhole
from smtproute.testing.records import publish
from smtproute.testing.scenarios.mailing import Mailing
from smtproute.testing.scenarios.scenario import FIRST, BeforeTable, Down, Scenario, ServerTable
from smtproute.testing.script import options, rules
from smtproute.testing.stage import Flow, Stage
from smtproute.testing.upstream import Received, Upstream

__all__ = ["Surroundings"]


class Surroundings:
    """Of one scenario, on a stage of its own."""

    def __init__(self, scenario: Scenario, stage: Stage) -> None:
        self.keys: dict[str, SigningKey] = {}
        """Those of others, by domain."""
        self._scenario = scenario
        self._stage = stage
        self._servers: dict[str, list[Upstream]] = defaultdict(list)
        self._mailings: list[Mailing] = []
        self._changes: dict[str, list[dict[str, Any]]] = defaultdict(list)
        """What messages have changed of configurations so far, by relay, in order."""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def servers(self) -> Mapping[str, list[Upstream]]:
        """Every server that stood at a host, in order."""
        for host, upstream in self._stage.upstreams.items():
            if upstream not in self._servers[host]:
                self._servers[host].append(upstream)
        return self._servers

    @property
    def failed(self) -> list[str]:
        """What servers could not send, and why."""
        return [each for mailing in self._mailings for each in mailing.failed]

    @property
    def unvisited(self) -> list[str]:
        """What reports say of servers that have a table and stand in vain: its host may be misspelt."""
        hosts = [host for host, table in self._scenario.upstream.items() if table.down is None]
        return [
            f"upstream {host}: nobody connected"
            for host in hosts
            if not any(each.connections for each in self.servers.get(host, ()))
        ]

    async def set_up(self) -> None:
        """Everything; the relays run when it returns. Raises config.document.Mistake."""
        scenario, stage = self._scenario, self._stage
        publish(stage.zone, scenario.dns)
        for domain, key in scenario.keys.items():
            self.keys[domain] = stage.signer(domain, key.selector)
        for host, table in scenario.upstream.items():
            await self._server(host, table)
        folder = stage.folder / "files"
        folder.mkdir()
        self._start = scenario.lay_out(folder)
        for name in dict.fromkeys((FIRST, *scenario.relay)):
            host = scenario.relay[name].host if name in scenario.relay else ""
            try:
                await stage.relay(scenario.configuration(name, self._start), name=name, host=host)
            except (Refused, ListenerFailed, TlsFault) as refused:
                raise self._mistake(name, refused) from None
        for host, table in scenario.upstream.items():  # also at the addresses that configurations have for it
            self._down(host, table.down)

    async def change(self, flow: Flow, before: BeforeTable) -> None:
        """What is otherwise before a message is sent. Raises config.document.Mistake."""
        await flow.advance(before.advance)
        publish(self._stage.zone, before.dns)
        for host, table in before.upstream.items():
            await self._server(host, table)
        if before.config:
            self._changes[flow.name].append(before.config)
            try:
                await flow.configure(self._scenario.configuration(flow.name, self._start, self._changes[flow.name]))
            except Refused as refused:
                raise self._mistake(flow.name, refused) from None

    async def _server(self, host: str, table: ServerTable) -> None:
        """A server as its table has it, in the place of one that stands there."""
        stage = self._stage
        mailing = Mailing(stage, host)
        self._mailings.append(mailing)

        async def on_message(received: Received) -> None:
            if table.bounces:
                await mailing.bounce(received)
            if table.list is not None:
                await mailing.distribute(received, table.list)

        unsaid = ("seed",) if table.seed is None else ()  # then the stage's decides
        written = options(table, stage.authority, host)
        made: dict[str, Any] = {key: value for key, value in written.items() if key not in unsaid}
        self._servers[host].append(await stage.upstream(host, rules(table), **made, on_message=on_message))
        stage.network.unroutable.difference_update(stage.addresses(host))
        self._down(host, table.down)

    def _down(self, host: str, down: Down | None) -> None:
        network = self._stage.network
        for ip in self._stage.addresses(host):
            match down:
                case None:
                    pass
                case Down.REFUSED:
                    network.take_away(ip)
                case Down.UNREACHABLE:
                    network.unroutable.add(ip)
                case Down.SILENT:
                    network.put(ip, ("127.0.0.1", self._stack.enter_context(blackhole())))
                case _:
                    assert_never(down)

    def _mistake(self, relay: str, why: Exception) -> Mistake:
        at = "config" if relay == FIRST else f"relay.{relay}.config"
        return Mistake("\n".join(f"{self._scenario.shown}: {at}: {line}" for line in str(why).splitlines()))
