"""The pool: connections to the servers of endpoints, kept for the next message and limited in number."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from smtproute.core.choice import Candidate
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


_Key = tuple[Endpoint, Server, str]
"""Endpoint, server and IP address. The whole endpoint, so that after a reload nothing goes by the old settings."""


@dataclass(slots=True)
class _Kept:
    """A connection that waits for the next message."""

    key: _Key
    connection: Connection
    since: float


@dataclass(slots=True)
class _Lane:
    """The connections of one endpoint name: no more than `limit` at once, and who comes first goes first."""

    limit: int = 1
    busy: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    kept: list[_Kept] = field(default_factory=list)
    """In the order of `since`."""
    vanished: dict[tuple[Server, str], float] = field(default_factory=dict)
    """When each address was last withdrawn."""
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

    def surplus(self) -> Iterator[Connection]:
        """Takes out, oldest first, the kept connections that leave no room for those of `busy`."""
        while self.kept and self.busy + len(self.kept) > self.limit:
            yield self.kept.pop(0).connection


@dataclass(slots=True, eq=False)
class _Errand:
    """One message for one endpoint."""

    lane: _Lane
    endpoint: Endpoint
    mail: Mail
    content: bytes
    since: float
    """What vanishes from this time on is no candidate any more."""

    def lost(self, candidate: Candidate) -> bool:
        """Whether the candidate has vanished."""
        at = self.lane.vanished.get((candidate.server, candidate.ip))
        return at is not None and at >= self.since

    def key(self, candidate: Candidate) -> _Key:
        return self.endpoint, candidate.server, candidate.ip


class Pool:
    """Sends mail to candidates of endpoints over kept connections. One `run` owns the clearing away of idle ones."""

    def __init__(self, helo: str, world: World, timeouts: Timeouts = TIMEOUTS) -> None:
        self._helo = helo
        self._world = world
        self._timeouts = timeouts
        self._contexts: dict[tuple[EndpointTls, bool, str, str, str], ssl.SSLContext | None] = {}
        self._rates: dict[str, float] = {}
        self._lanes: dict[str, _Lane] = {}
        self._parting: list[Connection] = []
        """Connections to addresses that vanished, for `run` to close."""
        self._vanished = asyncio.Event()

    def prepare(self, endpoints: Collection[Endpoint]) -> None:
        """What these endpoints need, so that no delivery has to wait for it: at start and at each reload.

        Builds their TLS contexts anew, in tens of milliseconds. Raises TlsFault, and then nothing has changed.
        """
        self._contexts = {_settings(endpoint): tls_context(endpoint) for endpoint in endpoints}
        self._rates = {endpoint.name: endpoint.rate for endpoint in endpoints}

    async def turn(self, endpoint: Endpoint) -> None:
        """Until the endpoint's `rate` lets another message go. Who comes first goes first."""
        if not self._rate(endpoint):
            return
        lane = self._lane(endpoint.name)
        async with lane.pacing:
            while (rate := self._rate(endpoint)) and (seconds := pause(lane.went, rate, self._world.clock.now())):
                await self._world.clock.sleep(min(seconds, _GLANCE))
            lane.went = self._world.clock.now()

    async def send(
        self,
        endpoint: Endpoint,
        candidates: Sequence[Candidate],
        mail: Mail,
        content: bytes,
        since: float | None = None,
    ) -> Sent:
        """One transaction with the first of these candidates that is reached, by a kept connection or by a race.

        It waits for a place under `max_connections` first, which counts messages: for a moment a race may hold more
        sockets than that, on which nobody has been greeted yet. A kept connection to the first candidate that turns
        out dead before the server answered MAIL is replaced by a new one; nothing is ever sent twice after that.
        What has vanished since the candidates were looked up (`since`, else now) is left out. Raises NobodyReached.
        """
        lane = self._lane(endpoint.name)
        errand = _Errand(lane, endpoint, mail, content, self._world.clock.now() if since is None else since)
        await lane.enter(endpoint.max_connections)
        try:
            return await self._send(errand, candidates)
        finally:
            lane.leave()

    def vanished(self, endpoint: str, server: Server, ips: frozenset[str]) -> None:
        """These are no addresses of the server any more: idle connections to them are closed, others after use."""
        lane = self._lane(endpoint)
        addresses = {(server, ip) for ip in ips}
        now = self._world.clock.now()
        lane.vanished = {address: at for address, at in lane.vanished.items() if at > now - _MEMORY}
        lane.vanished |= dict.fromkeys(addresses, now)
        self._parting += [kept.connection for kept in lane.kept if kept.key[1:] in addresses]
        lane.kept = [kept for kept in lane.kept if kept.key[1:] not in addresses]
        self._vanished.set()

    async def run(self) -> None:
        """Closes what has been idle too long, and what `vanished` leaves, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_idle())
            while True:
                await self._vanished.wait()
                self._vanished.clear()
                parting, self._parting = self._parting, []
                for connection in parting:
                    group.create_task(connection.quit())

    async def close(self) -> None:
        """Closes every kept connection; called once nothing is being sent."""
        await self._part(None)

    def _lane(self, endpoint: str) -> _Lane:
        return self._lanes.setdefault(endpoint, _Lane())

    def _rate(self, endpoint: Endpoint) -> float:
        return self._rates.get(endpoint.name, endpoint.rate)

    async def _send(self, errand: _Errand, candidates: Sequence[Candidate]) -> Sent:
        """Raises NobodyReached."""
        first = candidates[0]
        before: tuple[Line, ...] = ()
        kept = errand.lane.take(errand.key(first))
        if kept is not None:
            try:
                return Sent(first, await self._transact(errand, first, kept))
            except Gone as gone:
                before = gone.transcript
        for connection in errand.lane.surplus():
            await connection.quit()
        candidate, connection, unreached = await self._reach(errand, candidates, before)
        return Sent(candidate, await self._transact(errand, candidate, connection), unreached)

    async def _reach(
        self, errand: _Errand, candidates: Sequence[Candidate], before: tuple[Line, ...]
    ) -> tuple[Candidate, Connection, tuple[tuple[Candidate, Unreachable], ...]]:
        """A new connection, to whom, and who failed; `before` is told of the first. Raises NobodyReached."""
        unreached: dict[Candidate, Unreachable] = {}
        try:
            terms = self._terms(errand.endpoint)
        except TlsFault as fault:
            note = Line(Arrow.NOTE, self._world.clock.now(), str(fault))
            at_fault = Unreachable(Answer(Stage.STARTTLS, None, str(fault)), (*before, note), Learnt())
            raise NobodyReached(tuple((candidate, at_fault) for candidate in candidates)) from None
        while waiting := [candidate for candidate in candidates if candidate not in unreached]:
            runners = []
            for candidate in waiting:
                told = before if candidate == candidates[0] else ()
                opening = Opening(candidate.server, candidate.ip, terms, self._world, told)
                if errand.lost(candidate):
                    unreached[candidate] = opening.give_up(Stage.RESOLVE, _VANISHED)
                else:
                    runners.append(Runner(candidate, opening))
            won = await Race(runners, self._timeouts).winner()
            unreached |= {runner.candidate: runner.failure for runner in runners if runner.failure is not None}
            if won is None:
                continue
            try:
                await won.opening.enter()
            except Unreachable as unreachable:
                unreached[won.candidate] = unreachable
                continue
            if not errand.lost(won.candidate):
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
            Credentials(endpoint.username, endpoint.password.encode()) if endpoint.username else None,
            endpoint.lmtp,
            self._timeouts,
        )

    async def _transact(self, errand: _Errand, candidate: Candidate, connection: Connection) -> Dialogue:
        """Raises Gone, on a kept connection only."""
        usable = False
        try:
            dialogue = await connection.send(errand.mail, errand.content)
            usable = dialogue.usable
        finally:
            if not usable:
                connection.abort()
        if not usable:
            return dialogue
        if errand.lost(candidate) or connection.transactions >= errand.endpoint.max_messages:
            await connection.quit()
        else:
            errand.lane.kept.append(_Kept(errand.key(candidate), connection, self._world.clock.now()))
        return dialogue

    async def _watch_idle(self) -> None:
        while True:
            await self._world.clock.sleep(_TICK)
            await self._part(self._world.clock.now() - IDLE)

    async def _part(self, before: float | None) -> None:
        """Says QUIT on every connection that was last used before this time (None: on all), on all at once."""
        parting, self._parting = self._parting, []
        for lane in self._lanes.values():
            while lane.kept and (before is None or lane.kept[0].since <= before):
                parting.append(lane.kept.pop(0).connection)
        async with asyncio.TaskGroup() as group:
            for connection in parting:
                group.create_task(connection.quit())


def _settings(endpoint: Endpoint) -> tuple[EndpointTls, bool, str, str, str]:
    """What its TLS context depends on."""
    return endpoint.tls, endpoint.verify, endpoint.ca_file, endpoint.certificate, endpoint.key
