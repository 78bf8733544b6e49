"""The pool: connections to the servers of endpoints, kept for the next message and limited in number."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from smtproute.core.choice import Candidate, Spot
from smtproute.core.limits import pause
from smtproute.core.outcome import Answer, Stage
from smtproute.core.settings import Endpoint, EndpointTls, Server
from smtproute.core.transcript import Arrow, Line
from smtproute.smtp.client import Connection, Dialogue, Gone, Mail
from smtproute.smtp.opening import TIMEOUTS, Learnt, Opening, Terms, Timeouts, Unreachable
from smtproute.smtp.race import Race, Runner
from smtproute.smtp.sasl import Credentials
from smtproute.smtp.tls import TlsFault, tls_context
from smtproute.world import World

__all__ = ["IDLE", "NobodyReached", "Pool", "Sent"]

IDLE = 30.0
"""Seconds that a connection is kept unused: many messages to one endpoint share it, and servers that hang up on the
idle (RFC 5321 4.5.3.2.7 grants five minutes, busy ones take less) rarely do so before us."""
_TICK = 10.0
"""Seconds between two looks for connections that were idle too long."""
_GLANCE = 1.0
"""Seconds after which who waits for its turn looks whether a reload has changed the rate."""
_MEMORY = 86400.0
"""Seconds after which a vanished address is forgotten: no message is under way for so long."""
_VANISHED = "it is no longer an address of the server"


@dataclass(frozen=True, slots=True)
class Sent:
    """One transaction, and with whom."""

    candidate: Candidate
    dialogue: Dialogue
    unreached: tuple[tuple[Candidate, Unreachable], ...] = ()
    """The candidates that failed before this one answered, or while it did."""


class NobodyReached(Exception):
    """No candidate came as far as MAIL."""

    def __init__(self, unreached: tuple[tuple[Candidate, Unreachable], ...]) -> None:
        super().__init__("; ".join(f"{candidate} {why}" for candidate, why in unreached))
        self.unreached = unreached
        """All of them."""


_Key = tuple[Endpoint, Spot]
"""The whole endpoint, so that after a reload nothing goes by the old settings."""


@dataclass(slots=True)
class _Kept:
    """A connection that waits for the next message."""

    key: _Key
    connection: Connection
    since: float


@dataclass(slots=True)
class _Connections:
    """The connections of one endpoint name: no more than `limit` at once, and who comes first goes first."""

    limit: int = 1
    busy: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    kept: list[_Kept] = field(default_factory=list)
    """In the order of `since`."""
    vanished: dict[Spot, float] = field(default_factory=dict)
    """When each address was last withdrawn (`Clock.monotonic`)."""
    pacing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Whose turn it is, by the rate: the others wait behind it."""
    went: float | None = None
    """When the last message had its turn."""

    async def enter(self, limit: int) -> None:
        """Takes a place, when there is one."""
        self.limit = limit
        turn = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Gives the place back."""
        self.busy -= 1
        self._admit()

    def _admit(self) -> None:
        while self.waiting and self.busy < self.limit:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self.busy += 1

    def take(self, key: _Key) -> Connection | None:
        """The connection of this key that was used last and looks alive; dead ones are forgotten."""
        self.kept = [kept for kept in self.kept if kept.connection.idle]
        for kept in reversed(self.kept):
            if kept.key == key:
                self.kept.remove(kept)
                return kept.connection
        return None

    def idle(self, before: float | None) -> Iterator[Connection]:
        """Takes out the kept connections that were last used before this time (None: all)."""
        while self.kept and (before is None or self.kept[0].since <= before):
            yield self.kept.pop(0).connection

    def surplus(self) -> Iterator[Connection]:
        """Takes out, oldest first, the kept connections that leave no room for those of `busy`."""
        while self.kept and self.busy + len(self.kept) > self.limit:
            yield self.kept.pop(0).connection


def _unheard(candidate: Candidate) -> None:
    """Where nobody wants to know."""


@dataclass(slots=True, eq=False)
class _Sending:
    """One message on its way to one endpoint."""

    connections: _Connections
    endpoint: Endpoint
    mail: Mail
    content: bytes
    at: float
    """What vanishes from this time on is no candidate any more (`Choice.at`)."""
    answered: Callable[[Candidate], None]

    def lost(self, candidate: Candidate) -> bool:
        """Whether the candidate has vanished."""
        at = self.connections.vanished.get(candidate.spot)
        return at is not None and at >= self.at

    def key(self, candidate: Candidate) -> _Key:
        return self.endpoint, candidate.spot


class Pool:
    """Sends mail to candidates of endpoints over kept connections. One `run` parts from those that are done."""

    def __init__(self, helo: str, world: World, timeouts: Timeouts = TIMEOUTS) -> None:
        self._helo = helo
        self._world = world
        self._timeouts = timeouts
        self._contexts: dict[tuple[EndpointTls, bool, str, str, str], ssl.SSLContext | None] = {}
        self._rates: dict[str, float] = {}
        self._connections: dict[str, _Connections] = {}
        """By name of endpoint."""
        self._done: list[Connection] = []
        """Connections that carry nothing more, for `run` to part from: no message waits for a server's 221."""
        self._parting = asyncio.Event()

    def prepare(self, endpoints: Collection[Endpoint]) -> None:
        """What these endpoints need, so that no delivery has to wait for it: at start and at each reload.

        Builds their TLS contexts anew, in tens of milliseconds. Raises TlsFault, and then nothing has changed.
        """
        self._contexts = {_settings(endpoint): tls_context(endpoint) for endpoint in endpoints}
        self._rates = {endpoint.name: endpoint.rate for endpoint in endpoints}

    async def turn(self, endpoint: Endpoint) -> bool:
        """Until the endpoint's `rate` lets another message go. Who comes first goes first. Whether it has one."""
        if not self._rate(endpoint):
            return False
        connections = self._of(endpoint.name)
        clock = self._world.clock
        async with connections.pacing:
            while (rate := self._rate(endpoint)) and (seconds := pause(connections.went, rate, clock.now())):
                await clock.sleep(min(seconds, _GLANCE))
            connections.went = clock.now()
        return True

    async def send(
        self,
        endpoint: Endpoint,
        candidates: Sequence[Candidate],
        mail: Mail,
        content: bytes,
        at: float,
        answered: Callable[[Candidate], None] = _unheard,
    ) -> Sent:
        """One transaction with the first of these candidates that is reached, by a kept connection or by a race.

        It waits for a place under `max_connections` first, which counts messages: for a moment there may be more
        sockets than that, in a race, on which nobody has been greeted yet, and after a QUIT. A kept connection to the
        first candidate that turns out dead before the server answered MAIL is replaced by a new one; nothing is ever
        sent twice after that. What has vanished since the candidates were chosen (`Choice.at`) is left out. `answered`
        hears who is well as soon as that is known, which is long before a large message has been taken. Raises
        NobodyReached.
        """
        connections = self._of(endpoint.name)
        sending = _Sending(connections, endpoint, mail, content, at, answered)
        await connections.enter(endpoint.max_connections)
        try:
            return await self._send(sending, candidates)
        finally:
            connections.leave()

    def vanished(self, endpoint: str, server: Server, ips: frozenset[str]) -> None:
        """These are no addresses of the server any more: idle connections to them are closed, others after use."""
        connections = self._of(endpoint)
        spots: set[Spot] = {(server, ip) for ip in ips}
        now = self._world.clock.monotonic()
        connections.vanished = {spot: at for spot, at in connections.vanished.items() if at > now - _MEMORY}
        connections.vanished |= dict.fromkeys(spots, now)
        self._part(kept.connection for kept in connections.kept if kept.key[1] in spots)
        connections.kept = [kept for kept in connections.kept if kept.key[1] not in spots]

    async def run(self) -> None:
        """Parts from connections that are done, and from those that have been idle too long, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_idle())
            while True:
                await self._parting.wait()
                self._parting.clear()
                for _ in self._done:
                    group.create_task(self._quit())

    async def close(self) -> None:
        """Parts from every connection; called once nothing is being sent."""
        for connections in self._connections.values():
            self._part(connections.idle(None))
        async with asyncio.TaskGroup() as group:
            for _ in self._done:
                group.create_task(self._quit())

    def _of(self, endpoint: str) -> _Connections:
        return self._connections.setdefault(endpoint, _Connections())

    def _part(self, connections: Iterable[Connection]) -> None:
        """These are done."""
        self._done += connections
        if self._done:
            self._parting.set()

    async def _quit(self) -> None:
        """Says QUIT on the next one that is done, if nobody else has: one that never begins leaves it to `close`."""
        if self._done:
            await self._done.pop(0).quit()

    def _rate(self, endpoint: Endpoint) -> float:
        return self._rates.get(endpoint.name, endpoint.rate)

    async def _send(self, sending: _Sending, candidates: Sequence[Candidate]) -> Sent:
        """Raises NobodyReached."""
        first = candidates[0]
        before: tuple[Line, ...] = ()
        kept = sending.connections.take(sending.key(first))
        if kept is not None:
            try:
                return Sent(first, await self._transact(sending, first, kept))
            except Gone as gone:
                before = gone.transcript
        self._part(sending.connections.surplus())
        candidate, connection, unreached = await self._reach(sending, candidates, before)
        return Sent(candidate, await self._transact(sending, candidate, connection), unreached)

    async def _reach(
        self, sending: _Sending, candidates: Sequence[Candidate], before: tuple[Line, ...]
    ) -> tuple[Candidate, Connection, tuple[tuple[Candidate, Unreachable], ...]]:
        """A new connection, to whom, and who failed; `before` is told of the first. Raises NobodyReached."""
        unreached: dict[Candidate, Unreachable] = {}
        try:
            terms = self._terms(sending.endpoint)
        except TlsFault as fault:
            note = Line(Arrow.NOTE, self._world.clock.now(), str(fault))
            at_fault = Unreachable(Answer(Stage.STARTTLS, None, str(fault)), (*before, note), Learnt())
            raise NobodyReached(tuple((candidate, at_fault) for candidate in candidates)) from None
        while waiting := [candidate for candidate in candidates if candidate not in unreached]:
            runners = []
            for candidate in waiting:
                told = before if candidate == candidates[0] else ()
                opening = Opening(candidate.server, candidate.ip, terms, self._world, told)
                if sending.lost(candidate):
                    unreached[candidate] = opening.give_up(Stage.RESOLVE, _VANISHED)
                else:
                    runners.append(Runner(candidate, opening))
            won = await Race(runners, self._timeouts).winner()
            unreached |= {runner.candidate: runner.failure for runner in runners if runner.failure is not None}
            if won is None:
                continue
            if any(runner.candidate not in unreached for runner in runners if runner is not won):
                won.opening.hurry()
            try:
                await won.opening.enter()
            except Unreachable as unreachable:
                unreached[won.candidate] = unreachable
                continue
            if not sending.lost(won.candidate):
                return won.candidate, Connection(won.opening), tuple(unreached.items())
            unreached[won.candidate] = won.opening.give_up(Stage.RESOLVE, _VANISHED)
        raise NobodyReached(tuple(unreached.items()))

    def _terms(self, endpoint: Endpoint) -> Terms:
        """Raises TlsFault."""
        settings = _settings(endpoint)
        if settings not in self._contexts:
            self._contexts[settings] = tls_context(endpoint)
        return Terms(
            endpoint.tls,
            self._contexts[settings],
            self._helo,
            endpoint.tls_name,
            Credentials.of(endpoint),
            endpoint.lmtp,
            self._timeouts,
        )

    async def _transact(self, sending: _Sending, candidate: Candidate, connection: Connection) -> Dialogue:
        """Raises Gone, on a kept connection only."""
        usable = False
        try:
            dialogue = await connection.send(sending.mail, sending.content, partial(sending.answered, candidate))
            usable = dialogue.usable
        finally:
            if not usable:
                connection.abort()
        if not usable:
            return dialogue
        if sending.lost(candidate) or connection.transactions >= sending.endpoint.max_messages:
            self._part([connection])
        else:
            sending.connections.kept.append(_Kept(sending.key(candidate), connection, self._world.clock.now()))
        return dialogue

    async def _watch_idle(self) -> None:
        while True:
            await self._world.clock.sleep(_TICK)
            for connections in self._connections.values():
                self._part(connections.idle(self._world.clock.now() - IDLE))


def _settings(endpoint: Endpoint) -> tuple[EndpointTls, bool, str, str, str]:
    """What its TLS context depends on."""
    return endpoint.tls, endpoint.verify, endpoint.ca_file, endpoint.certificate, endpoint.key
