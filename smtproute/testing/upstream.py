"""A real SMTP server that does as it is told: for tests, and as the far end of the demo.

Left alone it is a strict server that takes everything: commands in order, parameters only of what it offers, no
pipelining past what RFC 2920 allows. With `users` it wants a login over TLS first; with `lmtp` it speaks LMTP
(RFC 2033). A script of rules changes what it does at one verb:

    async with Upstream([on("RCPT", "550 5.1.1 No such user", match="bob@"), on("CONTENT", Drop(), times=1)]) as far:
        ...  # send something to far.port
        (message,) = await far.wait(1)

`testing.rules` has all that a rule may say. It shares no code with our own client and listener beyond the values of
the transcript.
"""

from __future__ import annotations

import asyncio
import binascii
import random
import re
import socket
import ssl
import struct
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, assert_never, cast

from smtproute.core.transcript import Arrow, Line
from smtproute.testing.rules import (
    Action,
    Drop,
    HalfClose,
    Hang,
    Moment,
    Mute,
    Plaintext,
    Rate,
    Raw,
    Reset,
    Rule,
    Script,
    Slow,
    Verb,
    Wait,
    on,
)
from smtproute.world import Clock, SystemClock

__all__ = [
    "EXTENSIONS",
    "Action",
    "Drop",
    "HalfClose",
    "Hang",
    "Mute",
    "Plaintext",
    "Rate",
    "Raw",
    "Received",
    "Reset",
    "Rule",
    "Session",
    "Slow",
    "Upstream",
    "Verb",
    "Wait",
    "on",
]

EXTENSIONS = ("PIPELINING", "SIZE 50000000", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
"""What EHLO offers. STARTTLS is added where there is a TLS context, and AUTH under TLS where there are users."""


@dataclass(frozen=True, slots=True)
class Received:
    """One message that was taken. A connection that a rule breaks after the dot leaves it taken: the client is not
    told, and may send it again."""

    connection: int
    """Number of the connection, from 1."""
    helo: str
    tls: str
    """Protocol and cipher; empty in plain text."""
    reverse_path: str
    parameters: tuple[str, ...]
    """Of MAIL, as sent."""
    recipients: tuple[str, ...]
    recipient_parameters: tuple[tuple[str, ...], ...]
    """Of each RCPT."""
    login: str
    """Who logged in; empty: nobody."""
    content: bytes
    """Dots unstuffed, nothing else touched."""
    transcript: tuple[Line, ...]
    """The whole connection up to here; -> is what this server said."""


@dataclass(slots=True)
class Session:
    """One connection, as it went."""

    number: int
    helo: str = ""
    tls: str = ""
    certificate: bytes = b""
    """The client's, in DER, where the TLS context asks for one."""
    login: str = ""
    open: bool = True
    transcript: list[Line] = field(default_factory=list)

    def commands(self) -> list[str]:
        """What the client said, content left out."""
        return [line.text for line in self.transcript if line.arrow in (Arrow.RECEIVED, Arrow.RECEIVED_TLS)]


class Upstream:
    """Listens on `host` from `async with` on; leaving it breaks what is still connected."""

    def __init__(
        self,
        script: Sequence[Rule] = (),
        *,
        tls: ssl.SSLContext | None = None,
        implicit: bool = False,
        users: Mapping[str, str] | None = None,
        mechanisms: str = "PLAIN LOGIN",
        lmtp: bool = False,
        extensions: Sequence[str] = EXTENSIONS,
        on_taken: Callable[[Received], None] | None = None,
        on_message: Callable[[Received], Awaitable[None]] | None = None,
        on_end: Callable[[Session], None] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        seed: int | None = None,
    ) -> None:
        """`tls` alone offers STARTTLS; with `implicit`, TLS begins with the connection.

        `users` are passwords by name; `mechanisms` is what AUTH then offers. A `host` with a slash is the path of a
        UNIX socket.

        `on_taken` is told of each message that was taken; `on_message` runs after it and before the 250, `on_end`
        after a connection is over.

        `seed` decides what rules leave to chance; None: another one each time.
        """
        self.host = host
        self.port = port
        """The real one, once it listens."""
        self.received: list[Received] = []
        self.sessions: list[Session] = []
        """Every connection so far, unless who made the server takes those that are over out."""
        self.connections = 0
        """How many there have been."""
        self.peak = 0
        """The most connections that were open at once."""
        self.tls = tls
        self.users = users
        self.mechanisms = mechanisms
        self.lmtp = lmtp
        self.extensions = tuple(extensions)
        self.on_taken = on_taken
        self.on_message = on_message
        self.on_end = on_end
        self.clock = clock or SystemClock()
        self.seed = random.SystemRandom().getrandbits(32) if seed is None else seed
        self._implicit = implicit
        self.script(*script)
        self._changed = asyncio.Event()
        self._group = asyncio.TaskGroup()
        self._closing = False
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        loop = asyncio.get_running_loop()
        if "/" in self.host:
            self._server = await loop.create_unix_server(lambda: _Peer(self._accept), self.host)
            return self
        context = self.tls if self._implicit else None
        self._server = await loop.create_server(lambda: _Peer(self._accept), self.host, self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing = True
        self._server.close()
        for task in self._serving:
            task.cancel()
        await self._group.__aexit__(None, None, None)  # what was raised inside leaves as it is, in no group

    async def wait(self, messages: int, timeout: float = 30.0) -> list[Received]:
        """The first so many messages, once they are there. Raises TimeoutError after so many seconds, as the others."""
        await self._until(lambda: len(self.received) >= messages, timeout, _counted(messages, "message"))
        return self.received[:messages]

    async def connected(self, connections: int = 1, timeout: float = 30.0) -> None:
        """Until so many connections have been made. Raises TimeoutError."""
        await self._until(lambda: self.connections >= connections, timeout, _counted(connections, "connection"))

    async def quiet(self, timeout: float = 30.0) -> None:
        """Until no connection is open. Raises TimeoutError."""
        await self._until(lambda: not any(each.open for each in self.sessions), timeout, "every connection to end")

    async def heard(self, command: str, timeout: float = 30.0) -> Session:
        """The first session in which the client has said this, once it has. Raises TimeoutError."""
        said = f"a client to say {command}"
        await self._until(lambda: any(command in each.commands() for each in self.sessions), timeout, said)
        return next(session for session in self.sessions if command in session.commands())

    def script(self, *rules: Rule) -> None:
        """Does as these rules say from the next command on; they count from nothing, and their time begins."""
        self._script = Script(rules, seed=self.seed, clock=self.clock)

    def rule(self, moment: Moment, note: Callable[[str], None]) -> Rule | None:
        """The rule that acts now, and so counts; as `Script.acting`."""
        return self._script.acting(moment, note)

    def happened(self) -> None:
        """Wakes whoever waits for something."""
        self._changed.set()

    def _accept(self, peer: _Peer) -> None:
        if self._closing:
            peer.transport.abort()
            return
        self.connections += 1
        session = Session(self.connections)
        self.sessions.append(session)
        self.peak = max(self.peak, sum(each.open for each in self.sessions))
        self.happened()
        task = self._group.create_task(_Dialogue(self, peer, session).run())
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _until(self, true: Callable[[], bool], timeout: float, wanted: str) -> None:
        try:
            async with asyncio.timeout(timeout):
                while not true():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            had = f"{_counted(len(self.received), 'message')} on {_counted(self.connections, 'connection')}"
            told = [f"waited {timeout:g} s for {wanted}: there were {had}"]
            for session in [each for each in self.sessions if each.open][:_TOLD]:
                told.append(f"connection {session.number} is open:")
                told += [f"  {line.arrow} {line.text}" for line in session.transcript]
            raise TimeoutError("\n".join(told)) from None


class _Closed(Exception):
    """The connection is over."""


class _Overlong(Exception):
    """A line is too long."""


class _Peer(asyncio.Protocol):
    """One client's socket: what has come, and how to wait for more."""

    def __init__(self, accept: Callable[[_Peer], None]) -> None:
        self.buffer = bytearray()
        self.closed = False
        self.transport: asyncio.Transport
        self._accept = accept
        self._came = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._accept(self)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._came.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._came.set()

    async def more(self) -> None:
        """Until more has come. Raises _Closed."""
        if self.closed:
            raise _Closed
        self._came.clear()
        await self._came.wait()

    async def line(self) -> bytes:
        """The next line with its LF. Raises _Closed, _Overlong."""
        while (end := self.buffer.find(b"\n", 0, _MAX_LINE) + 1) == 0:
            if len(self.buffer) >= _MAX_LINE:
                raise _Overlong
            await self.more()
        line = bytes(self.buffer[:end])
        del self.buffer[:end]
        return line


_PATH = re.compile(r'(?:FROM|TO):<((?:"(?:\\.|[^"\\])*"|[^">])*)>((?: [^ ]+)*)', re.IGNORECASE)
_LAST = (Verb.EHLO, Verb.LHLO, Verb.STARTTLS, Verb.AUTH, Verb.DATA, Verb.QUIT)
"""Commands after which a client waits, pipelining or not (RFC 2920 3.1)."""
_MAX_LINE = 65_536
"""Octets of a command with its line end, or of a response of AUTH: more than any program that speaks SMTP sends."""
_AUTH = re.compile(r"(\s*AUTH)\b(?:(\s+(?:PLAIN|LOGIN))(?!\S))?(.*)", re.IGNORECASE | re.DOTALL)
_SECRET = "[credentials]"
_TOLD = 3
"""Open connections whose dialogue is told where something is waited for in vain."""
_TLS = "220 2.0.0 Go ahead"
_NO_TLS = "500 5.5.2 There is no such command"


class _Dialogue:
    """One client's session, command by command."""

    def __init__(self, upstream: Upstream, peer: _Peer, session: Session) -> None:
        self._upstream = upstream
        self._peer = peer
        self._session = session
        self._offered: dict[str, str] = {}
        self._mail: tuple[str, tuple[str, ...]] | None = None
        self._rcpts: list[tuple[str, tuple[str, ...]]] = []
        self._pace = 0.0
        """Octets a second; 0: all at once."""

    async def run(self) -> None:
        self._name_tls()
        try:
            if await self._answer(self._moment(Verb.CONNECT, self._peername()), "220 upstream.test ESMTP"):
                while True:
                    await self._command()
        except _Closed:
            pass
        except asyncio.CancelledError:
            self._peer.transport.abort()
            raise
        finally:
            self._peer.transport.close()
            self._session.open = False
            self._upstream.happened()
            if self._upstream.on_end is not None:
                self._upstream.on_end(self._session)

    async def _line(self) -> bytes:
        """The next line with its LF. Raises _Closed, after an answer where the line is too long."""
        try:
            return await self._peer.line()
        except _Overlong:
            self._note(Arrow.NOTE, f"a line of more than {_MAX_LINE} octets")
            await self._say("500 5.5.2 The line is too long")
            raise _Closed from None

    async def _command(self) -> None:
        line = await self._line()
        self._pace = 0.0
        self._note(self._received, _concealed(line.removesuffix(b"\r\n").decode("utf-8", "backslashreplace")))
        text = line.decode("utf-8", "replace")
        if not text.endswith("\r\n"):
            await self._say("500 5.5.2 End lines with CRLF")
            return
        word, _, argument = text[:-2].partition(" ")
        try:
            verb = Verb(word.upper())
        except ValueError:
            await self._say(f"500 5.5.2 There is no command {word}")
            return
        if self._peer.buffer and (verb in _LAST or "PIPELINING" not in self._offered):
            await self._say("503 5.5.0 Improper use of pipelining")
            raise _Closed
        if verb in ((Verb.EHLO, Verb.HELO) if self._upstream.lmtp else (Verb.LHLO,)):
            await self._say(f"500 5.5.1 This is no {'SMTP' if self._upstream.lmtp else 'LMTP'} server")
            return
        match verb:
            case Verb.EHLO | Verb.HELO | Verb.LHLO:
                await self._hello(verb, argument)
            case Verb.STARTTLS:
                await self._starttls()
            case Verb.AUTH:
                await self._authenticate(argument)
            case Verb.MAIL:
                await self._envelope_mail(argument)
            case Verb.RCPT:
                await self._envelope_rcpt(argument)
            case Verb.DATA:
                await self._data()
            case Verb.RSET:
                self._forget()
                await self._answer(self._moment(verb, argument), "250 2.0.0 Ok")
            case Verb.NOOP:
                await self._answer(self._moment(verb, argument), "250 2.0.0 Ok")
            case Verb.QUIT:
                await self._answer(self._moment(verb, argument), "221 2.0.0 Bye")
                raise _Closed
            case Verb.CONNECT | Verb.CONTENT:
                await self._say(f"500 5.5.2 There is no command {word}")
            case _:
                assert_never(verb)

    async def _hello(self, verb: Verb, argument: str) -> None:
        offered = self._upstream.extensions if verb is not Verb.HELO else ()
        if verb is not Verb.HELO and self._upstream.tls is not None and not self._session.tls:
            offered += ("STARTTLS",)
        if verb is not Verb.HELO and self._upstream.users is not None and self._session.tls:
            offered += (f"AUTH {self._upstream.mechanisms}",)
        said = await self._answer(self._moment(verb, argument), "250 " + "\n".join(("upstream.test", *offered)))
        if said:
            self._session.helo = argument
            self._forget()
            words = [line[4:].partition(" ") for line in said.splitlines()[1:]]
            self._offered = {keyword.upper(): value for keyword, _, value in words}

    async def _starttls(self) -> None:
        context = self._upstream.tls
        if context is None or self._session.tls:
            await self._say("503 5.5.1 There is no TLS to start")
            return
        if not await self._answer(self._moment(Verb.STARTTLS), _TLS):
            return
        self._peer.buffer.clear()
        try:
            transport = await asyncio.get_running_loop().start_tls(
                self._peer.transport, self._peer, context, server_side=True
            )
        except OSError as error:
            self._note(Arrow.NOTE, f"TLS handshake failed: {error}")
            raise _Closed from None
        if transport is None:
            raise _Closed
        self._peer.transport = transport
        self._session.helo = ""
        self._offered = {}
        self._forget()
        self._name_tls()

    async def _authenticate(self, argument: str) -> None:
        """AUTH PLAIN and AUTH LOGIN (RFC 4954), with an initial response or without. Raises _Closed."""
        mechanism, _, initial = argument.partition(" ")
        if mechanism.upper() not in self._offered.get("AUTH", "").split() or self._session.login:
            await self._say("503 5.5.1 Not now")
            return
        if await self._act(self._rule(self._moment(Verb.AUTH, argument))) is not None:
            return
        prompts = ["334 "] if mechanism.upper() == "PLAIN" else ["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6"]
        responses = [initial] if initial else []
        for prompt in prompts[len(responses) :]:
            await self._say(prompt)
            line = (await self._line()).decode("latin-1").rstrip("\r\n")
            self._note(self._received, _SECRET)
            responses.append(line)
        try:
            parts = b"\0".join(b64decode(response, validate=True) for response in responses).split(b"\0")
        except binascii.Error:
            parts = []
        if len(parts) < 2:
            await self._say("501 5.5.2 That is no login")
            return
        username, password = (part.decode("utf-8", "replace") for part in parts[-2:])
        if (self._upstream.users or {}).get(username) == password:
            self._session.login = username
            await self._say("235 2.7.0 Welcome")
        else:
            await self._say("535 5.7.8 No")

    async def _envelope_mail(self, argument: str) -> None:
        path = _PATH.fullmatch(argument)
        if self._upstream.users is not None and not self._session.login:
            reply = "530 5.7.0 Log in first"
        elif not self._session.helo or self._mail is not None:
            reply = "503 5.5.1 Not now"
        elif path is None or not argument.upper().startswith("FROM:"):
            reply = "501 5.5.4 Syntax: MAIL FROM:<address>"
        else:
            reply = self._judge(path[1], path[2].split())
        moment = self._moment(Verb.MAIL, argument, sender=path[1] if path is not None else None)
        said = await self._answer(moment, reply)
        if said and path is not None:
            self._mail = path[1], tuple(path[2].split())

    async def _envelope_rcpt(self, argument: str) -> None:
        path = _PATH.fullmatch(argument)
        if self._mail is None:
            reply = "503 5.5.1 MAIL first"
        elif path is None or not argument.upper().startswith("TO:") or not path[1]:
            reply = "501 5.5.4 Syntax: RCPT TO:<address>"
        elif path[2]:
            reply = "555 5.5.4 No such parameter"
        elif not path[1].isascii() and "SMTPUTF8" not in map(str.upper, self._mail[1]):
            reply = "553 5.6.7 SMTPUTF8 was not declared"
        else:
            reply = "250 2.1.5 Ok"
        moment = self._moment(Verb.RCPT, argument, recipients=(path[1],) if path is not None else ())
        said = await self._answer(moment, reply)
        if said and path is not None:
            self._rcpts.append((path[1], tuple(path[2].split())))

    def _judge(self, path: str, parameters: list[str]) -> str:
        """The standard reply to MAIL with these parameters."""
        for parameter in parameters:
            name, _, value = parameter.upper().partition("=")
            keyword = {"BODY": "8BITMIME"}.get(name, name)
            if keyword not in self._offered or keyword not in ("SIZE", "8BITMIME", "SMTPUTF8"):
                return f"555 5.5.4 {name} is not offered"
            limit = self._offered[keyword]
            if name == "SIZE" and limit.isdecimal() and 0 < int(limit) < int(value):
                return "552 5.3.4 Too large"
        if not path.isascii() and "SMTPUTF8" not in map(str.upper, parameters):
            return "553 5.6.7 SMTPUTF8 was not declared"
        return "250 2.1.0 Ok"

    async def _data(self) -> None:
        standard = "354 End with a dot" if self._rcpts else "554 5.5.1 No valid recipients"
        said = await self._answer(self._moment(Verb.DATA), standard)
        if not said.startswith("354"):
            return
        early: Rule | None = None
        answered = False
        searched = came = 0
        while True:
            if self._peer.buffer.startswith(b".\r\n"):
                content, length = b"", 3
                break
            end = self._peer.buffer.find(b"\r\n.\r\n", searched)
            if end >= 0:
                content, length = bytes(self._peer.buffer[: end + 2]), end + 5
                break
            searched = max(0, len(self._peer.buffer) - 4)
            if early is None:
                early = self._rule(self._moment(Verb.CONTENT, came=(came, len(self._peer.buffer))))
                came = len(self._peer.buffer)
                answered = (await self._act(early)) is not None
            await self._peer.more()
        del self._peer.buffer[:length]
        content = b"\r\n".join(line.removeprefix(b".") for line in content.split(b"\r\n"))
        self._note(self._received, f"[{len(content)} octets]")
        self._note(self._received, ".")
        if not answered:
            await self._take(content)
        self._forget()

    async def _take(self, content: bytes) -> None:
        """Answers the dot, in LMTP for each recipient. What no reply refuses is received, before any answer leaves."""
        standard = "250 2.0.0 Taken" if self._rcpts else "554 5.5.1 No valid recipients"
        if self._upstream.lmtp:
            moments = [self._moment(Verb.CONTENT, path, recipients=(path,)) for path, _ in self._rcpts]
        else:
            moments = [self._moment(Verb.CONTENT, content.decode("latin-1"))]
        rules = [self._rule(moment) for moment in moments]
        takes = [_takes(rule, standard) for rule in rules]
        taken = self._rcpts
        if self._upstream.lmtp:
            taken = [rcpt for rcpt, took in zip(self._rcpts, takes, strict=True) if took]
        if self._mail is not None and any(takes):
            received = Received(
                self._session.number,
                self._session.helo,
                self._session.tls,
                *self._mail,
                tuple(path for path, _ in taken),
                tuple(parameters for _, parameters in taken),
                self._session.login,
                content,
                tuple(self._session.transcript),
            )
            self._upstream.received.append(received)
            self._upstream.happened()
            if self._upstream.on_taken is not None:
                self._upstream.on_taken(received)
            if self._upstream.on_message is not None:
                await self._upstream.on_message(received)
        for rule in rules:
            if await self._act(rule) is None:
                await self._say(self._standard(standard))

    def _moment(
        self,
        verb: Verb,
        argument: str = "",
        *,
        sender: str | None = None,
        recipients: Sequence[str] | None = None,
        came: tuple[int, int] | None = None,
    ) -> Moment:
        """Now. `sender` and `recipients` are those of the command, else those of the transaction."""
        if sender is None and self._mail is not None:
            sender = self._mail[0]
        if recipients is None:
            recipients = [path for path, _ in self._rcpts]
        return Moment(verb, argument, self._peername().rpartition(":")[0], sender, tuple(recipients), came)

    def _rule(self, moment: Moment) -> Rule | None:
        return self._upstream.rule(moment, lambda text: self._note(Arrow.NOTE, text))

    async def _answer(self, moment: Moment, standard: str) -> str:
        """Acts by the rule for this moment, else answers as is standard; the reply if it was positive, else ""."""
        said = await self._act(self._rule(moment))
        if said is None:
            said = _lines(self._standard(standard))
            await self._say(self._standard(standard))
        return said if said[:1] in ("2", "3") else ""

    def _standard(self, reply: str) -> str:
        """Without the enhanced code where none are offered."""
        if "ENHANCEDSTATUSCODES" in self._upstream.extensions:
            return reply
        return re.sub(r"^(\d{3} )\d\.\d\.\d ", r"\1", reply)

    async def _act(self, rule: Rule | None) -> str | None:
        """The first reply that a rule gave, None where it gave none. Raises _Closed."""
        said: str | None = None
        self._pace = 0.0
        for action in rule.actions if rule is not None else ():
            match action:
                case str():
                    said = said if said is not None else _lines(action)
                    await self._say(action)
                case Raw():
                    octets = action.octets.decode("utf-8", "backslashreplace")
                    said = said if said is not None else octets
                    await self._send(action.octets)
                case Drop():
                    raise _Closed
                case Reset():
                    sock = self._peer.transport.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self._peer.transport.abort()
                    raise _Closed
                case Hang():
                    self._peer.transport.pause_reading()
                    await asyncio.Event().wait()
                case Mute():
                    await self._ignore()
                case HalfClose():
                    self._half_close()
                    await self._ignore()
                case Wait():
                    if isinstance(action.until, asyncio.Event):
                        await action.until.wait()
                    else:
                        await self._upstream.clock.sleep(action.until)
                case Slow():
                    self._pace = action.octets
                case Plaintext():
                    await self._say(_TLS)
                    await self._peer.more()
                    self._peer.buffer.clear()
                    said = _lines(_NO_TLS)
                    await self._say(_NO_TLS)
                case _:
                    assert_never(action)
        return said

    async def _say(self, reply: str) -> None:
        """Sends a reply; after a 421 the connection is over."""
        await self._send(_lines(reply).encode())
        if reply.startswith("421"):
            raise _Closed

    async def _ignore(self) -> None:
        """Reads on until the client goes away. Raises _Closed."""
        while True:
            await self._peer.more()

    def _half_close(self) -> None:
        self._note(Arrow.NOTE, "our side is closed")
        if self._peer.transport.can_write_eof():
            self._peer.transport.write_eof()
        else:  # TLS
            ours = self._peer.transport.get_extra_info("socket")
            with socket.fromfd(ours.fileno(), ours.family, ours.type) as same:
                same.shutdown(socket.SHUT_WR)

    async def _send(self, octets: bytes) -> None:
        for line in octets.decode("utf-8", "backslashreplace").splitlines():
            self._note(Arrow.SENT_TLS if self._session.tls else Arrow.SENT, line)
        if not self._pace:
            self._peer.transport.write(octets)
            return
        for octet in octets:
            await self._upstream.clock.sleep(1 / self._pace)
            if self._peer.closed:
                raise _Closed
            self._peer.transport.write(bytes([octet]))

    def _forget(self) -> None:
        self._mail = None
        self._rcpts = []

    @property
    def _received(self) -> Arrow:
        return Arrow.RECEIVED_TLS if self._session.tls else Arrow.RECEIVED

    def _note(self, arrow: Arrow, text: str) -> None:
        self._session.transcript.append(Line(arrow, self._upstream.clock.now(), text))
        self._upstream.happened()

    def _name_tls(self) -> None:
        secured = self._peer.transport.get_extra_info("ssl_object")
        if secured is not None:
            self._session.tls = f"{secured.version()} {secured.cipher()[0]}"
            self._session.certificate = secured.getpeercert(True) or b""

    def _peername(self) -> str:
        peer = self._peer.transport.get_extra_info("peername")
        return f"{peer[0]}:{peer[1]}" if peer else self._upstream.host


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _concealed(line: str) -> str:
    """As it may be written down: of AUTH only a mechanism that we know, in whose place a password may stand."""
    found = _AUTH.fullmatch(line)
    if found is None or not found[3].strip():
        return line
    return f"{found[1]}{found[2] or ''} {_SECRET}"


def _takes(rule: Rule | None, standard: str) -> bool:
    """Whether what answers the dot, if anything, is no refusal."""
    replies = [action for action in rule.actions if isinstance(action, str)] if rule else []
    return (replies or [standard])[0].startswith("2")


def _lines(reply: str) -> str:
    """A reply as it goes over the wire."""
    code, lines = reply[:3], reply[4:].split("\n")
    last = len(lines) - 1
    return "".join(f"{code}{' ' if number == last else '-'}{line}\r\n" for number, line in enumerate(lines))
