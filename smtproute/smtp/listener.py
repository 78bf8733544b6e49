"""The listener: binds a port, owns the sessions that come of it, and ends them in order.

It is a context manager: on entry it listens, on exit every session is over. Whoever enters it is the task that a
failing session would take down, as asyncio.TaskGroup has it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

from smtproute.core.event import Emit, Event, Happening
from smtproute.core.reply import Reply
from smtproute.core.settings import Limits, ListenerTls
from smtproute.core.settings import Listener as Settings
from smtproute.smtp.door import Doors
from smtproute.smtp.session import SHUTTING_DOWN, Session
from smtproute.world import World

__all__ = ["Listener", "ListenerFailed", "server_context"]

_BACKLOG = 1024
_FULL = Reply(421, "4.3.2", "Too many connections here: connect again later")
_TOO_MANY = Reply(421, "4.7.0", "Too many connections from your address: close some, or connect again later")


class ListenerFailed(Exception):
    """A listener cannot begin, or cannot take its new settings; the text names it, the file or address, and why."""


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS 1.2 or later with the listener's certificate and key; None where it has no TLS. Raises ListenerFailed."""
    if settings.tls is ListenerTls.NONE:
        return None
    certificate, key = settings.certificate, settings.key or settings.certificate
    for file in (certificate, key):
        try:
            Path(file).read_bytes()
        except OSError as error:
            raise ListenerFailed(f"listener {settings.name}: {file}: {error.strerror}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # never asks at the terminal
    except (ssl.SSLError, ValueError) as error:
        why = error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error)
        raise ListenerFailed(f"listener {settings.name}: certificate {certificate}, key {key}: {why}") from error
    return context


class Listener:
    """One `[listener.NAME]` at work."""

    def __init__(
        self, settings: Settings, limits: Limits, hostname: str, doors: Doors, world: World, emit: Emit
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._context: ssl.SSLContext | None = None
        self._hostname = hostname
        self._doors = doors
        self._world = world
        self._emit = emit
        self._tasks = asyncio.TaskGroup()
        self._sessions: dict[asyncio.Task[None], Session] = {}
        self._by_address: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self._address = ("", 0)
        self._draining = False

    @property
    def settings(self) -> Settings:
        return self._settings

    @property
    def sessions(self) -> int:
        """How many are open."""
        return len(self._sessions)

    @property
    def address(self) -> tuple[str, int]:
        """Where it really listens: host and port."""
        return self._address

    async def __aenter__(self) -> Self:
        """Listens. Raises ListenerFailed."""
        settings = self._settings
        self._context = server_context(settings)
        await self._tasks.__aenter__()
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._accept, settings.host, settings.port, backlog=_BACKLOG)
        except OSError as error:
            await self._tasks.__aexit__(None, None, None)
            where = f"{settings.host}:{settings.port}"
            raise ListenerFailed(f"listener {settings.name}: {where}: {error.strerror or error}") from error
        host, port = self._address = self._server.sockets[0].getsockname()[:2]
        facts = {
            "listener": settings.name,
            "host": host,
            "port": port,
            "role": settings.role.value,
            "tls": settings.tls.value,
        }
        self._emit(Event(Happening.LISTENING, self._world.clock.now(), facts=facts))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops at once what `drain` has not ended."""
        self._stop_accepting()
        for task in self._sessions:
            task.cancel()
        await self._tasks.__aexit__(kind, error, traceback)

    def update(self, settings: Settings, limits: Limits, context: ssl.SSLContext | None) -> None:
        """For connections from now on; the open ones live on as they began. Host and port stay as they are bound.

        `context` is the `server_context` of these settings: it is made before anything is changed.
        """
        self._settings = settings
        self._limits = limits
        self._context = context

    async def drain(self, deadline: float) -> None:
        """Stops accepting; sessions end when their transaction has ended, or after `deadline` seconds."""
        self._stop_accepting()
        self._draining = True
        for session in self._sessions.values():
            session.shut_down()
        if self._sessions:
            await asyncio.wait(list(self._sessions), timeout=deadline)
        late = list(self._sessions)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    def _stop_accepting(self) -> None:
        if self._server is not None:
            self._server.close()

    def _accept(self) -> Session:
        return Session(
            self._settings,
            self._limits,
            self._context,
            self._hostname,
            self._doors,
            self._world,
            self._emit,
            self._opened,
        )

    def _opened(self, session: Session) -> None:
        """A connection stands: it becomes a session if there is room for one."""
        peer = session.peer
        if peer is None:
            session.transport.abort()
            return
        ip, port = peer
        refusal = None
        if self._draining:
            refusal = SHUTTING_DOWN
        elif len(self._sessions) >= self._limits.connections:
            refusal = _FULL
        elif self._by_address[ip] >= self._limits.connections_per_address:
            refusal = _TOO_MANY
        if refusal is not None:
            session.turn_away(refusal)
            facts = {"listener": self._settings.name, "client": ip, "command": "", "reply": str(refusal)}
            self._emit(Event(Happening.REFUSED, self._world.clock.now(), facts=facts))
            return
        task = session.start(ip, port, self._tasks)
        self._sessions[task] = session
        self._by_address[ip] += 1
        task.add_done_callback(lambda task: self._ended(task, ip))

    def _ended(self, task: asyncio.Task[None], ip: str) -> None:
        del self._sessions[task]
        self._by_address[ip] -= 1
        if not self._by_address[ip]:
            del self._by_address[ip]
