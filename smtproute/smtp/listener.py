"""The listener: binds a port, owns the sessions that come of it, and ends them in order.

It accepts by itself, so that every connection is a task of its TaskGroup from the first octet, the TLS handshake
included. It is a context manager: on entry it listens, on exit every session is over.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import traceback
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from smtproute.core.event import Emit, Event, Happening
from smtproute.core.reply import Reply
from smtproute.core.settings import Limits, ListenerTls
from smtproute.core.settings import Listener as Settings
from smtproute.smtp.door import Doors
from smtproute.smtp.session import HANDSHAKE, Session
from smtproute.world import Place, World

__all__ = ["Listener", "ListenerFailed", "server_context"]

_BACKLOG = 1024
_PAUSE = 1.0
"""Seconds before accepting is tried again when the machine has no descriptor or memory left for a connection."""

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
        self._accepting: asyncio.Task[None] | None = None
        self._sessions: dict[asyncio.Task[None], Session | None] = {}
        """None during the TLS handshake."""
        self._callers: dict[asyncio.Task[None], Place] = {}
        self._by_address: Counter[str] = Counter()
        self._address = ("", 0)
        self._closing = False

    @property
    def settings(self) -> Settings:
        return self._settings

    @property
    def address(self) -> tuple[str, int]:
        """Where it really listens: host and port."""
        return self._address

    @property
    def sessions(self) -> int:
        """How many connections are open."""
        return len(self._sessions)

    @property
    def open(self) -> list[Session]:
        """The sessions of the open connections, but for those whose TLS has yet to begin."""
        return [session for session in self._sessions.values() if session is not None]

    def served(self, task: asyncio.Task[Any] | None) -> Session | None:
        """The session that a task serves; None where it serves none of these."""
        return self._sessions.get(task) if task is not None else None

    async def __aenter__(self) -> Self:
        """Listens. Raises ListenerFailed."""
        settings = self._settings
        self._context = server_context(settings)
        listening = await self._bind()
        self._address = listening.getsockname()[:2]
        await self._tasks.__aenter__()
        self._accepting = self._tasks.create_task(self._accept(listening))
        host, port = self._address
        facts = {"host": host, "port": port, "role": settings.role.value, "tls": settings.tls.value}
        self._tell(Happening.LISTENING, **facts)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends at once what `drain` has not ended."""
        self._stop_accepting()
        for task in self._sessions:
            task.cancel()
        await self._tasks.__aexit__(kind, error, traceback)

    def update(self, settings: Settings, limits: Limits, context: ssl.SSLContext | None) -> None:
        """For connections from now on; the open ones live on as they began. Host and port stay as they are bound.

        `context` is the `server_context` of these settings: whatever is wrong with it is known before this.
        """
        self._settings = settings
        self._limits = limits
        self._context = context

    def serving(self, besides: Callable[[Place], bool] = lambda place: False) -> list[asyncio.Task[None]]:
        """The open connections, but for those from such places."""
        return [task for task, place in self._callers.items() if not besides(place)]

    async def quiet(self, besides: Callable[[Place], bool] = lambda place: False) -> None:
        """Until no connection is open, but for those from such places."""
        while serving := self.serving(besides):
            await asyncio.wait(serving)

    async def drain(self, deadline: float) -> None:
        """Accepts no more. Sessions end when their transaction has ended, and all after `deadline` seconds."""
        self._stop_accepting()
        for task, session in self._sessions.items():
            if session is None:
                task.cancel()
            else:
                session.shut_down()
        if self._sessions:
            _, late = await asyncio.wait(list(self._sessions), timeout=deadline)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    def _stop_accepting(self) -> None:
        self._closing = True
        if self._accepting is not None:
            self._accepting.cancel()

    async def _bind(self) -> socket.socket:
        """The listening socket; on `::` it takes IPv4 as well, and of a host name it takes the first address."""
        settings = self._settings
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, _, _, _, address = found[0]
            dual = address[0] == "::" and socket.has_dualstack_ipv6()
            listening = socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            raise ListenerFailed(f"listener {settings.name}: {where}: {error.strerror or error}") from error
        listening.setblocking(False)
        return listening

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listening:
            while True:
                try:
                    connection, name = await loop.sock_accept(listening)
                except ConnectionAbortedError:
                    continue  # it has gone already
                except OSError as error:
                    self._tell(Happening.WARNING, what=f"a connection could not be accepted: {error}")
                    await self._world.clock.sleep(_PAUSE)
                else:
                    self._opened(connection, *self._world.network.caller(_peer(name)))
                    await asyncio.sleep(0)  # it begins and counts, and those that are open go on

    def _opened(self, connection: socket.socket, ip: str, port: int) -> None:
        """A connection becomes a session if there is room for one."""
        if len(self._sessions) >= self._limits.connections:
            self._turn_away(connection, ip, _FULL)
        elif self._by_address[ip] >= self._limits.connections_per_address:
            self._turn_away(connection, ip, _TOO_MANY)
        else:
            session = Session(
                ip,
                port,
                self._settings,
                self._limits,
                self._context,
                self._hostname,
                self._doors(self._settings),
                self._world,
                self._emit,
            )
            implicit = self._settings.tls is ListenerTls.IMPLICIT
            self._tasks.create_task(self._serve(session, connection, self._context if implicit else None))

    def _turn_away(self, connection: socket.socket, ip: str, reply: Reply) -> None:
        """With a last word, if the client is not expecting TLS."""
        with connection:
            connection.setblocking(False)
            if self._settings.tls is not ListenerTls.IMPLICIT:
                try:
                    connection.send(reply.wire())
                except OSError:
                    pass  # it has gone already
        self._tell(Happening.REFUSED, client=ip, command="", reply=str(reply))

    async def _serve(self, session: Session, connection: socket.socket, context: ssl.SSLContext | None) -> None:
        """The connection from its first octet to its last."""
        if self._closing:
            connection.close()
            return
        task, ip = asyncio.current_task(), session.client.ip
        assert task is not None
        self._sessions[task] = None
        self._callers[task] = ip, session.client.port
        self._by_address[ip] += 1
        try:
            async with asyncio.timeout(min(HANDSHAKE, self._limits.timeout)):
                loop = asyncio.get_running_loop()
                await loop.connect_accepted_socket(lambda: session, connection, ssl=context)
        except OSError as error:
            failed = "TLS handshake" if context else "connection"
            self._tell(Happening.WARNING, client=ip, what=f"{failed} failed: {error!r}")
        else:
            self._sessions[task] = session
            await self._guarded(session)
        finally:
            del self._sessions[task], self._callers[task]
            self._by_address[ip] -= 1
            if not self._by_address[ip]:
                del self._by_address[ip]

    async def _guarded(self, session: Session) -> None:
        """One session's fault is no other session's."""
        try:
            await session.serve()
        except Exception as error:  # noqa: BLE001 (around the verbs of a session, where its own guard was not)
            facts = {"where": "session", "error": repr(error), "traceback": traceback.format_exc()}
            self._tell(Happening.FAULT, client=session.client.ip, **facts)

    def _tell(self, what: Happening, /, **facts: Any) -> None:
        self._emit(Event(what, self._world.clock.now(), facts={"listener": self._settings.name, **facts}))


def _peer(name: tuple[Any, ...]) -> Place:
    """IP address and port of a client; an IPv4 address that is mapped into IPv6 as the IPv4 address."""
    mapped = getattr(ip_address(name[0]), "ipv4_mapped", None)
    return str(mapped or name[0]), name[1]
