"""The pool: connections to the servers of endpoints, kept for the next message and limited in number."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import assert_never

from smtproute.core.choice import Candidate
from smtproute.core.outcome import Answer, Stage
from smtproute.core.settings import Endpoint, EndpointTls, Server
from smtproute.core.transcript import Arrow, Line
from smtproute.smtp.client import TIMEOUTS, Connection, Dialogue, Gone, Mail, Timeouts, Unreachable
from smtproute.smtp.sasl import Credentials
from smtproute.world import World

__all__ = ["IDLE", "MAX_MESSAGES", "CaFileFault", "Pool", "tls_context"]

IDLE = 30.0
"""Seconds that a connection is kept unused: many messages to one endpoint share it, and servers that hang up on the
idle (RFC 5321 4.5.3.2.7 grants five minutes, busy ones take less) rarely do so before us."""
MAX_MESSAGES = 1000
"""Messages on one connection: then a new one, so that load balancers and DNS changes get their say."""
_TICK = 10.0
"""Seconds between two looks for connections that were idle too long."""


class CaFileFault(Exception):
    """An endpoint's `ca_file` cannot be read, or holds no certificate; the message names both."""


def tls_context(endpoint: Endpoint) -> ssl.SSLContext | None:
    """What an endpoint's TLS verifies, TLS 1.2 or later; None for `NEVER`. Raises CaFileFault.

    Reads files and parses certificates: tens of milliseconds with the system's authorities.
    """
    match endpoint.tls:
        case EndpointTls.NEVER:
            return None
        case EndpointTls.PREFER:
            verify = False
        case EndpointTls.REQUIRE | EndpointTls.IMPLICIT:
            verify = endpoint.verify
        case _:
            assert_never(endpoint.tls)
    if verify:
        try:
            context = ssl.create_default_context(cafile=endpoint.ca_file or None)
        except OSError as error:
            why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
            raise CaFileFault(f"endpoint.{endpoint.name}.ca_file = {endpoint.ca_file!r}: {why}") from None
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


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


class Pool:
    """Sends mail to candidates of endpoints over kept connections. One `run` owns the clearing away of idle ones."""

    def __init__(self, helo: str, world: World, timeouts: Timeouts = TIMEOUTS) -> None:
        self._helo = helo
        self._world = world
        self._timeouts = timeouts
        self._contexts: dict[tuple[EndpointTls, bool, str], ssl.SSLContext | None] = {}
        self._lanes: dict[str, _Lane] = {}

    def prepare(self, endpoints: Iterable[Endpoint]) -> None:
        """Builds the TLS contexts of these endpoints anew, so that no delivery has to: at start and at each reload.

        Raises CaFileFault, and then nothing has changed.
        """
        self._contexts = {_settings(endpoint): tls_context(endpoint) for endpoint in endpoints}

    async def send(self, endpoint: Endpoint, candidate: Candidate, mail: Mail, content: bytes) -> Dialogue:
        """One transaction with one address of one server, waiting for a place under `max_connections` first.

        A kept connection that turns out dead before the server answered MAIL is replaced by a new one; nothing is
        ever sent twice after that. Raises Unreachable, at STARTTLS where `ca_file` is at fault.
        """
        lane = self._lanes.setdefault(endpoint.name, _Lane())
        await lane.enter(endpoint.max_connections)
        try:
            return await self._send(lane, endpoint, candidate, mail, content)
        finally:
            lane.leave()

    async def run(self) -> None:
        """Closes what has been idle too long, for ever."""
        while True:
            await self._world.clock.sleep(_TICK)
            await self._part(self._world.clock.now() - IDLE)

    async def close(self) -> None:
        """Closes every kept connection; called once nothing is being sent."""
        await self._part(None)

    async def _send(
        self, lane: _Lane, endpoint: Endpoint, candidate: Candidate, mail: Mail, content: bytes
    ) -> Dialogue:
        key = (endpoint, candidate.server, candidate.ip)
        before: tuple[Line, ...] = ()
        kept = lane.take(key)
        if kept is not None:
            try:
                return await self._transact(lane, key, kept, mail, content)
            except Gone as gone:
                before = gone.transcript
        for connection in lane.surplus():
            await connection.quit()
        try:
            connection = await self._open(endpoint, candidate)
        except Unreachable as unreachable:
            raise Unreachable(unreachable.answer, before + unreachable.transcript) from None
        dialogue = await self._transact(lane, key, connection, mail, content)
        return replace(dialogue, transcript=before + dialogue.transcript)

    async def _open(self, endpoint: Endpoint, candidate: Candidate) -> Connection:
        settings = _settings(endpoint)
        if settings not in self._contexts:
            try:
                self._contexts[settings] = tls_context(endpoint)
            except CaFileFault as fault:
                note = Line(Arrow.NOTE, self._world.clock.now(), str(fault))
                raise Unreachable(Answer(Stage.STARTTLS, None, str(fault)), (note,)) from None
        return await Connection.open(
            candidate.server,
            candidate.ip,
            tls=endpoint.tls,
            context=self._contexts[settings],
            helo=self._helo,
            world=self._world,
            credentials=Credentials(endpoint.username, endpoint.password.encode()) if endpoint.username else None,
            lmtp=endpoint.lmtp,
            timeouts=self._timeouts,
        )

    async def _transact(self, lane: _Lane, key: _Key, connection: Connection, mail: Mail, content: bytes) -> Dialogue:
        """Raises Gone, on a kept connection only."""
        usable = False
        try:
            dialogue = await connection.send(mail, content)
            usable = dialogue.usable
        finally:
            if not usable:
                connection.abort()
        if usable and connection.transactions < MAX_MESSAGES:
            lane.kept.append(_Kept(key, connection, self._world.clock.now()))
        elif usable:
            await connection.quit()
        return dialogue

    async def _part(self, before: float | None) -> None:
        """Says QUIT on every connection that was last used before this time (None: on all), on all at once."""
        parting: list[Connection] = []
        for lane in self._lanes.values():
            while lane.kept and (before is None or lane.kept[0].since <= before):
                parting.append(lane.kept.pop(0).connection)
        async with asyncio.TaskGroup() as group:
            for connection in parting:
                group.create_task(connection.quit())


def _settings(endpoint: Endpoint) -> tuple[EndpointTls, bool, str]:
    return endpoint.tls, endpoint.verify, endpoint.ca_file
