"""The channel: one connection's socket, with the replies that come over it and the transcript of both sides.

Replies are read as they arrive, whatever is being written. Every wait has a deadline, and a server that says too much,
or what it was not asked, is hung up on.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import cast

from smtproute.core.reply import Reply
from smtproute.core.settings import Server
from smtproute.core.transcript import Arrow, Line, legible
from smtproute.smtp import wire
from smtproute.world import World

__all__ = ["ASTRAY", "CHUNK", "Broken", "Channel", "Said", "connect"]

CHUNK = 131_072
"""Octets of content that are written at once."""
_ALLOWANCE = 16_384
"""Octets that a server may say for each command, and to begin with: a transaction's transcript has an end."""
ASTRAY = "the server is out of step: it answers what it was not asked"


class Broken(Exception):
    """The connection is lost, silent or out of step."""

    def __init__(self, detail: str, *, silent: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.silent = silent
        """The deadline passed, and the connection may well be alive."""


class Said(Exception):
    """The server's reply ends the dialogue: 421 to anything, or no to what opens a connection."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


class Channel(asyncio.Protocol):
    """The socket with its replies and its transcript. asyncio and uvloop both set TCP_NODELAY on it."""

    def __init__(self, peer: str, world: World, transcript: list[Line]) -> None:
        self.transcript = transcript
        self.tls = ""
        self.certificate = b""
        """The server's, in DER; empty in plain text."""
        self.lost = ""
        """Why the connection is of no more use."""
        self._peer = peer
        self._clock = world.clock
        self._transport: asyncio.Transport
        self._parser = wire.Replies()
        self._replies: deque[Reply] = deque()
        self._owed = 1
        """Replies that the server still has to give, those in `_replies` included. First the greeting."""
        self._allowance = _ALLOWANCE
        self._tail = b""
        """The beginning of a line."""
        self._secrets: tuple[bytes, ...] = ()
        """What no transcript may show, see `secret`."""
        self._full = False
        self._waiter: asyncio.Future[None] | None = None
        self._second: int | None = None
        """A second descriptor of the socket, see `held`."""

    @property
    def idle(self) -> bool:
        """Whether it is alive, with every question answered and nothing said unasked."""
        return not (self.lost or self._owed or self._replies or self._tail)

    @property
    def astray(self) -> bool:
        """Whether, with every question answered, the server says more. A 421 needs no question (RFC 5321 3.8)."""
        return bool(self._tail or (self._replies and self._replies[0].code != 421))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.note(f"connected to {self._peer}")

    def data_received(self, data: bytes) -> None:
        if self.lost:
            return
        *lines, self._tail = (self._tail + data).split(b"\n")
        if self._secrets:
            lines = [self._masked(line) for line in lines]
        self._record(Arrow.RECEIVED_TLS if self.tls else Arrow.RECEIVED, [_shown(line) for line in lines])
        try:
            self._parser.feed(b"".join(line + b"\n" for line in lines) if self._secrets else data)
            while (reply := self._parser.next()) is not None:
                self._replies.append(reply)
        except wire.WireError as error:
            self.fail(_within(error.reply.text))
        self._allowance -= len(data)
        if len(self._replies) > self._owed + 1:
            self.fail("the server answers what it was not asked")
        elif self._allowance < 0:
            self.fail("the server says too much")
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._second is not None:
            with suppress(OSError):
                self.data_received(os.read(self._second, 65_536))
        if not self.lost:
            self._end(f"connection lost: {_why(exc)}" if exc else "the server closed the connection")
        self._wake()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._wake()

    def fail(self, why: str) -> None:
        """Ends the connection at once; what is not yet sent is dropped."""
        if not self.lost:
            self._end(why)
            self._transport.abort()

    def note(self, text: str) -> None:
        self._record(Arrow.NOTE, (text,))

    def say(self, *commands: str) -> None:
        """Sends commands in one write; each is owed a reply.

        Raises Broken where the connection is lost or the server went astray: each reply to come would be taken for
        the answer to a later command. Raises Said where it said 421 unasked.
        """
        if not self.idle:
            if self._replies and not self.astray:
                self.fail("closed after 421")
                raise Said(self._replies[0])
            self.fail(ASTRAY)
            raise Broken(self.lost)
        self._owed += len(commands)
        self._allowance += _ALLOWANCE * len(commands)
        shown = [self._masked(command.encode()).decode() for command in commands] if self._secrets else commands
        self._record(Arrow.SENT_TLS if self.tls else Arrow.SENT, shown)
        self._transport.write("\r\n".join((*commands, "")).encode())

    async def reply(self, seconds: float) -> Reply:
        """The next reply; after a 421 the connection is closed (RFC 5321 3.8). Raises Broken."""
        if not self._replies:
            try:
                async with asyncio.timeout(seconds):
                    while not self._replies and not self.lost:
                        await self._change()
            except TimeoutError:
                raise Broken(f"no answer within {seconds:g} s", silent=True) from None
        if not self._replies:
            raise Broken(self.lost)
        self._owed = max(0, self._owed - 1)
        reply = self._replies.popleft()
        if reply.code == 421:
            self.fail("closed after 421")
        return reply

    @contextmanager
    def secret(self, *texts: bytes) -> Iterator[None]:
        """Meanwhile these texts stand as [credentials] in transcript and replies: some servers say what they heard."""
        self._secrets = tuple(sorted(filter(None, texts), key=len, reverse=True))
        try:
            yield
        finally:
            if not self._tail:  # a line that is half here may still tell them
                self._secrets = ()

    async def content(self, stuffed: bytes, size: int, replies: int, seconds: float) -> bool:
        """Sends a message of `size` octets, to which the server then owes so many replies.

        False where it spoke or hung up before the end was sent. A server that takes nothing for so many seconds is
        hung up on.
        """
        view = memoryview(stuffed)
        arrow = Arrow.SENT_TLS if self.tls else Arrow.SENT
        for at in range(0, len(view), CHUNK):
            if at:
                try:
                    async with asyncio.timeout(seconds):
                        await asyncio.sleep(0)  # else nothing is read, nor a lost connection noticed
                        while self._full and not self._replies and not self.lost:
                            await self._change()
                except TimeoutError:
                    self.fail(f"the server took no content for {seconds:g} s")
            if self._replies or self.lost:
                self._record(arrow, (f"[about {at} of {size} octets]",))
                return False
            self._transport.write(view[at : at + CHUNK])
        self._owed += replies
        self._record(arrow, (f"[{size} octets]", "."))
        return True

    @contextmanager
    def held(self) -> Iterator[None]:
        """While much is sent in plain text, keeps the socket open beyond the transport.

        A server that refuses in mid-content and hangs up has said why, but once a write fails neither asyncio nor
        uvloop reads what had arrived; `connection_lost` then does. Under TLS it stays unread: the retry asks again.
        """
        if self.tls or self.lost:
            yield
            return
        self._second = os.dup(self._transport.get_extra_info("socket").fileno())
        try:
            yield
        finally:
            os.close(self._second)
            self._second = None

    async def start_tls(self, context: ssl.SSLContext, host: str, *, handshake: float, shutdown: float) -> None:
        """TLS, with `host` as server name, and the seconds that its beginning and its end may take. Raises Broken."""
        if self._replies or self._tail:
            self.note("dropped what the server sent in plain text before TLS")
        self._parser = wire.Replies()
        self._replies.clear()
        self._tail = b""
        if self.lost:
            raise Broken(f"TLS handshake failed: {self.lost}")
        try:
            transport = await asyncio.get_running_loop().start_tls(
                self._transport,
                self,
                context,
                server_hostname=host.removesuffix("."),
                ssl_handshake_timeout=handshake,
                ssl_shutdown_timeout=shutdown,
            )
        except (OSError, ValueError) as error:
            raise Broken(f"TLS handshake failed: {_why(error)}") from None
        if transport is None:
            raise Broken("TLS handshake failed: connection lost")
        self._transport = transport
        secured = transport.get_extra_info("ssl_object")
        self.tls = f"{secured.version()} {secured.cipher()[0]}"
        self.certificate = secured.getpeercert(True) or b""
        self.note(f"TLS started: {self.tls}")

    async def close(self, seconds: float) -> None:
        """Closes, TLS with its close_notify, and waits until it is closed. Raises Broken."""
        self._transport.close()
        try:
            async with asyncio.timeout(seconds):
                while not self.lost:
                    await self._change()
        except TimeoutError:
            raise Broken("not closed in time") from None

    def _end(self, why: str) -> None:
        self.lost = why
        if self._tail and not self._secrets:
            self._record(Arrow.RECEIVED_TLS if self.tls else Arrow.RECEIVED, (_shown(self._tail[:200]),))
        self.note(why)

    def _masked(self, line: bytes) -> bytes:
        """A line without the secrets; a reply's code stays what it is."""
        code, text = (line[:3], line[3:]) if line[:3].isdigit() else (b"", line)
        for secret in self._secrets:
            text = text.replace(secret, b"[credentials]")
        return code + text

    async def _change(self) -> None:
        """Until something was received, the send buffer has room again, or the connection is lost."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _record(self, arrow: Arrow, lines: Sequence[str]) -> None:
        now = self._clock.now()
        self.transcript += [Line(arrow, now, line) for line in lines]


def _shown(line: bytes) -> str:
    """A line as the transcript shows it: a server must not steer our terminal."""
    return legible(line.removesuffix(b"\r").decode("utf-8", "backslashreplace"))


def _why(error: Exception) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"certificate refused: {error.verify_message}"
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER"):
            return "what the server speaks there is no TLS"
        case OSError(errno=int(number)) if not isinstance(error, ssl.SSLError):
            return _within(os.strerror(number))
        case _:
            return str(error) or "connection lost"


def _within(text: str) -> str:
    """As it stands within a sentence: "connection refused"."""
    return text[:1].lower() + text[1:]


async def connect(server: Server, ip: str, world: World, transcript: list[Line], seconds: float) -> Channel:
    """A channel to an IP address, or to the UNIX socket that `server` names. Raises Broken."""
    shown = server.host if server.socket else f"{server.host} ({f'[{ip}]' if ':' in ip else ip}:{server.port})"

    def made() -> Channel:
        return Channel(shown, world, transcript)

    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            if server.socket:
                _, channel = await loop.create_unix_connection(made, server.host)
            else:
                connection = await world.network.connect((ip, server.port))
                _, channel = await loop.create_connection(made, sock=connection)
    except OSError as error:  # TimeoutError, which is one, has no number where the deadline is ours
        why = _within(os.strerror(error.errno)) if error.errno else f"no connection within {seconds:g} s"
        transcript.append(Line(Arrow.NOTE, world.clock.now(), f"not connected to {shown}: {why}"))
        raise Broken(why) from None
    return channel
