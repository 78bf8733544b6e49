"""The client side of one SMTP connection: it is opened, carries one transaction after another, and is closed.

Replies are read as they arrive, whatever is being written, so MAIL, every RCPT and DATA can leave in one write
without either side blocking the other (RFC 2920 3.1). Content leaves exactly as it was given: what a server does not
take as it is, it does not get. Every wait has a deadline, and whatever goes wrong becomes an Answer for each
recipient at the stage where it went wrong.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Self, cast

from smtproute.core.address import Address
from smtproute.core.message import header_end
from smtproute.core.outcome import Answer, Stage
from smtproute.core.reply import Reply
from smtproute.core.settings import EndpointTls, Server
from smtproute.core.transcript import Arrow, Line, legible
from smtproute.smtp import wire
from smtproute.world import World

__all__ = ["TIMEOUTS", "Connection", "Dialogue", "Gone", "Mail", "Timeouts", "Unreachable"]

_CHUNK = 131_072
"""Octets of content that are written at once."""
_ALLOWANCE = 16_384
"""Octets that a server may say for each command, and to begin with: a transaction's transcript has an end."""
_ASTRAY = "the server is out of step: it answers what it was not asked"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that each step may take: the minima of RFC 5321 4.5.3.2; the RFC leaves connect, tls and quit open."""

    connect: float = 30.0
    tls: float = 60.0
    greeting: float = 300.0
    ehlo: float = 300.0
    mail: float = 300.0
    rcpt: float = 300.0
    data: float = 120.0
    block: float = 180.0
    """Until the server has taken the next block of content."""
    content: float = 600.0
    """From the final dot to the reply: too short, and messages are delivered twice (RFC 1047)."""
    quit: float = 5.0


TIMEOUTS = Timeouts()


@dataclass(frozen=True, slots=True)
class Mail:
    """The envelope of one transaction: what one server is told before the content."""

    reverse_path: Address | None
    recipients: tuple[Address, ...]
    """At least one."""
    eight_bit: bool = False
    """Whether the message came with BODY=8BITMIME (RFC 6152)."""
    smtputf8: bool = False
    """Whether the message came with SMTPUTF8 (RFC 6531)."""

    @property
    def ascii(self) -> bool:
        """Whether every address can be sent without SMTPUTF8."""
        return all(path is None or path.ascii for path in (self.reverse_path, *self.recipients))


@dataclass(frozen=True, slots=True)
class Dialogue:
    """What one transaction came to."""

    answers: tuple[Answer, ...]
    """One for each recipient, in their order."""
    transcript: tuple[Line, ...]
    """From the connect on, if this was the connection's first transaction."""
    tls: str
    """Protocol and cipher, "TLSv1.3 TLS_AES_256_GCM_SHA384"; empty in plain text."""
    usable: bool
    """Whether the connection may carry another transaction."""
    downgrade: str = ""
    """Why this went in plain text though the server offered TLS (`EndpointTls.PREFER`); else empty."""


class Unreachable(Exception):
    """There is no dialogue with this server: the stage of `answer` is CONNECT, GREETING, EHLO or STARTTLS."""

    def __init__(self, answer: Answer, transcript: tuple[Line, ...]) -> None:
        super().__init__(f"{answer.stage}: {answer.reply or answer.detail}")
        self.answer = answer
        self.transcript = transcript


class Gone(Exception):
    """A kept connection turned out dead before the server answered MAIL; nothing of the message was sent."""

    def __init__(self, transcript: tuple[Line, ...]) -> None:
        super().__init__("the kept connection is gone")
        self.transcript = transcript


class _Broken(Exception):
    """The connection is lost, silent or out of step."""

    def __init__(self, detail: str, *, silent: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.silent = silent
        """The deadline passed, and the connection may well be alive."""


class _Said(Exception):
    """The server's reply ends the dialogue: 421 to anything, or no to what opens a connection."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


class _TlsFailed(Exception):
    """STARTTLS was offered, preferred, and came to nothing; `detail` says why."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class _Channel(asyncio.Protocol):
    """The socket with its replies and its transcript. asyncio and uvloop both set TCP_NODELAY on it."""

    def __init__(self, peer: str, world: World, transcript: list[Line]) -> None:
        self.transcript = transcript
        self.tls = ""
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
        self._record(Arrow.RECEIVED_TLS if self.tls else Arrow.RECEIVED, [_shown(line) for line in lines])
        try:
            self._parser.feed(data)
            while (reply := self._parser.next()) is not None:
                self._replies.append(reply)
        except wire.WireError as error:
            self.fail(error.reply.text)
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

        Raises _Broken where the connection is lost or the server went astray: each reply to come would be taken for
        the answer to a later command. Raises _Said where it said 421 unasked.
        """
        if not self.idle:
            if self._replies and not self.astray:
                self.fail("closed after 421")
                raise _Said(self._replies[0])
            self.fail(_ASTRAY)
            raise _Broken(self.lost)
        self._owed += len(commands)
        self._allowance += _ALLOWANCE * len(commands)
        self._record(Arrow.SENT_TLS if self.tls else Arrow.SENT, commands)
        self._transport.write("\r\n".join((*commands, "")).encode())

    async def reply(self, seconds: float) -> Reply:
        """The next reply; after a 421 the connection is closed (RFC 5321 3.8). Raises _Broken."""
        if not self._replies:
            try:
                async with asyncio.timeout(seconds):
                    while not self._replies and not self.lost:
                        await self._change()
            except TimeoutError:
                raise _Broken(f"no answer within {seconds:g} s", silent=True) from None
        if not self._replies:
            raise _Broken(self.lost)
        self._owed = max(0, self._owed - 1)
        reply = self._replies.popleft()
        if reply.code == 421:
            self.fail("closed after 421")
        return reply

    async def content(self, stuffed: bytes, size: int, seconds: float) -> bool:
        """Sends a message of `size` octets; False where the server spoke or hung up before the end was sent.

        A server that takes nothing for so many seconds is hung up on.
        """
        view = memoryview(stuffed)
        arrow = Arrow.SENT_TLS if self.tls else Arrow.SENT
        for at in range(0, len(view), _CHUNK):
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
            self._transport.write(view[at : at + _CHUNK])
        self._owed += 1
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

    async def start_tls(self, context: ssl.SSLContext, host: str, timeouts: Timeouts) -> None:
        """The handshake, with `host` as server name. Raises _Broken."""
        if self._replies or self._tail:
            self.note("dropped what the server sent in plain text before TLS")
        self._parser = wire.Replies()
        self._replies.clear()
        self._tail = b""
        try:
            transport = await asyncio.get_running_loop().start_tls(
                self._transport,
                self,
                context,
                server_hostname=host.removesuffix("."),
                ssl_handshake_timeout=timeouts.tls,
                ssl_shutdown_timeout=timeouts.quit,
            )
        except (OSError, ValueError) as error:
            raise _Broken(f"TLS handshake failed: {_why(error)}") from None
        if transport is None:
            raise _Broken("TLS handshake failed: connection lost")
        self._transport = transport
        secured = transport.get_extra_info("ssl_object")
        self.tls = f"{secured.version()} {secured.cipher()[0]}"
        self.note(f"TLS started: {self.tls}")

    async def close(self, seconds: float) -> None:
        """Closes, TLS with its close_notify, and waits until it is closed. Raises _Broken."""
        self._transport.close()
        try:
            async with asyncio.timeout(seconds):
                while not self.lost:
                    await self._change()
        except TimeoutError:
            raise _Broken("not closed in time") from None

    def _end(self, why: str) -> None:
        self.lost = why
        if self._tail:
            self._record(Arrow.RECEIVED_TLS if self.tls else Arrow.RECEIVED, (_shown(self._tail[:200]),))
        self.note(why)

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
        case OSError(errno=int(number)) if not isinstance(error, ssl.SSLError):
            return os.strerror(number)
        case _:
            return str(error) or "connection lost"


class Connection:
    """A connection on which the server greeted us and answered EHLO; `send` is called on one mail at a time."""

    def __init__(self, channel: _Channel, timeouts: Timeouts) -> None:
        self.transactions = 0
        self._channel = channel
        self._timeouts = timeouts
        self._extensions: dict[str, str] = {}
        self._downgrade = ""
        self._reset_due = False

    @classmethod
    async def open(
        cls,
        server: Server,
        ip: str,
        *,
        tls: EndpointTls,
        context: ssl.SSLContext | None,
        helo: str,
        world: World,
        timeouts: Timeouts = TIMEOUTS,
    ) -> Self:
        """Connects, says EHLO (HELO to a server that knows no EHLO), starts TLS as `tls` wants it.

        `context` says what is verified, and against which authorities; the name is `server.host`. It may be None
        with `NEVER` only. With `PREFER`, TLS that is offered and fails is left out on a second connection, and the
        transcript and `Dialogue.downgrade` say so. Raises Unreachable.
        """
        transcript: list[Line] = []
        try:
            return await cls._open(server, ip, tls, context, helo, world, timeouts, transcript)
        except _TlsFailed as failed:
            transcript.append(Line(Arrow.NOTE, world.clock.now(), f"{failed.detail}: once more in plain text"))
            connection = await cls._open(server, ip, EndpointTls.NEVER, None, helo, world, timeouts, transcript)
            connection._downgrade = failed.detail
            return connection

    @classmethod
    async def _open(
        cls,
        server: Server,
        ip: str,
        tls: EndpointTls,
        context: ssl.SSLContext | None,
        helo: str,
        world: World,
        timeouts: Timeouts,
        transcript: list[Line],
    ) -> Self:
        stage = Stage.CONNECT
        channel = await _connect(server, ip, world, timeouts, transcript)
        connection = cls(channel, timeouts)
        opened = False
        try:
            if tls is EndpointTls.IMPLICIT:
                stage = Stage.STARTTLS
                await channel.start_tls(_given(context), server.host, timeouts)
            stage = Stage.GREETING
            greeting = await channel.reply(timeouts.greeting)
            if not _done(greeting):
                raise _Said(greeting)
            stage = Stage.EHLO
            await connection._hello(helo)
            if tls in (EndpointTls.PREFER, EndpointTls.REQUIRE):
                stage = Stage.STARTTLS
                if "STARTTLS" in connection._extensions:
                    await connection._starttls(tls, _given(context), server.host)
                    stage = Stage.EHLO
                    await connection._hello(helo)
                elif tls is EndpointTls.REQUIRE:
                    raise _Broken("TLS is required, and the server does not offer STARTTLS")
                else:
                    channel.note("the server does not offer STARTTLS: plain text")
            opened = True
        except _Broken as broken:
            channel.fail(broken.detail)
            raise Unreachable(Answer(stage, None, broken.detail), tuple(transcript)) from None
        except _Said as said:
            raise Unreachable(Answer(stage, said.reply), tuple(transcript)) from None
        finally:
            if not opened:
                channel.fail("connection given up")
        return connection

    async def _hello(self, helo: str) -> None:
        """EHLO, or HELO where that is not known (RFC 5321 3.2). Raises _Broken, _Said."""
        self._extensions = {}
        self._channel.say(f"EHLO {helo}")
        reply = await self._channel.reply(self._timeouts.ehlo)
        if reply.permanent:
            self._channel.say(f"HELO {helo}")
            reply = await self._channel.reply(self._timeouts.ehlo)
        elif _done(reply):
            for line in reply.text.split("\n")[1:]:
                keyword, _, parameters = line.partition(" ")
                self._extensions[keyword.upper()] = parameters
        if not _done(reply):
            raise _Said(reply)

    async def _starttls(self, tls: EndpointTls, context: ssl.SSLContext, host: str) -> None:
        """Raises _Broken and _Said, or _TlsFailed where TLS is only preferred."""
        self._channel.say("STARTTLS")  # out of step already: plain text would mend nothing
        try:
            reply = await self._channel.reply(self._timeouts.ehlo)
            if reply.code != 220:
                raise _Said(reply)
            await self._channel.start_tls(context, host, self._timeouts)
        except _Broken as broken:
            if tls is EndpointTls.PREFER:
                raise _TlsFailed(broken.detail) from None
            raise
        except _Said as said:
            if tls is EndpointTls.PREFER:
                raise _TlsFailed(f"STARTTLS was refused ({said.reply})") from None
            raise

    @property
    def idle(self) -> bool:
        """Whether it looks fit for another transaction. A server that hangs up unseen shows only when written to."""
        return self._channel.idle

    async def send(self, mail: Mail, content: bytes) -> Dialogue:
        """One transaction; `content` has CRLF line ends only. Raises Gone, and only on a connection used before."""
        channel = self._channel
        self.transactions += 1
        if self.transactions > 1:
            channel.transcript = []
            channel.note(f"connection reused (transaction {self.transactions})")
        refusal = self._unfit(mail, content)
        if refusal is not None:
            channel.note(f"not sent: {refusal.detail}")
            answers = (refusal,) * len(mail.recipients)
        else:
            commands = (self._mail(mail, content), *(f"RCPT TO:<{recipient}>" for recipient in mail.recipients))
            transaction = _Transaction(channel, self._timeouts, commands, "PIPELINING" in self._extensions)
            answers = await transaction.run(content, reset=self._reset_due, reused=self.transactions > 1)
            self._reset_due = transaction.begun
        return Dialogue(answers, tuple(channel.transcript), channel.tls, channel.idle, self._downgrade)

    async def quit(self) -> None:
        """QUIT, and the connection is closed, answered or not."""
        try:
            self._channel.say("QUIT")
            await self._channel.reply(self._timeouts.quit)
            await self._channel.close(self._timeouts.quit)
        except (_Broken, _Said):
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        """Closes at once, in the middle of whatever it is."""
        self._channel.fail("connection given up")

    def _unfit(self, mail: Mail, content: bytes) -> Answer | None:
        """Our own refusal of what this server cannot take unless it were converted; no octet of it is sent.

        A message that came with SMTPUTF8 and needs it nowhere goes to any server, as Postfix lets it.
        """
        if "SMTPUTF8" not in self._extensions:
            if not mail.ascii:
                why = "the envelope has a non-ASCII address"
            elif mail.smtputf8 and not content[: header_end(content)].isascii():
                why = "the message has a non-ASCII header"
            else:
                why = ""
            if why:
                return _our(550, "5.6.7", f"{why}, and the server does not offer SMTPUTF8")
        if "8BITMIME" not in self._extensions and not content.isascii():
            return _our(554, "5.6.3", "the message has 8-bit octets, and the server does not offer 8BITMIME")
        limit = self._extensions.get("SIZE", "")
        if limit.isdecimal() and 0 < int(limit) < len(content):
            return _our(552, "5.3.4", f"the message has {len(content)} octets, and the server takes {limit}")
        return None

    def _mail(self, mail: Mail, content: bytes) -> str:
        parts = [f"MAIL FROM:<{mail.reverse_path or ''}>"]
        if "SIZE" in self._extensions:
            parts.append(f"SIZE={len(content)}")
        if "8BITMIME" in self._extensions and (mail.eight_bit or not content.isascii()):
            parts.append("BODY=8BITMIME")
        if "SMTPUTF8" in self._extensions and (mail.smtputf8 or not mail.ascii):
            parts.append("SMTPUTF8")
        return " ".join(parts)


class _Transaction:
    """One MAIL, its RCPTs, DATA and content. Where the server offers PIPELINING, all but the content is one write."""

    def __init__(self, channel: _Channel, timeouts: Timeouts, commands: Sequence[str], pipelining: bool) -> None:
        self.begun = False
        """The server holds an envelope, until RSET."""
        self._channel = channel
        self._timeouts = timeouts
        self._mail, *self._rcpts = commands
        self._pipelining = pipelining
        self._stage = Stage.MAIL
        self._heard = False
        self._answers: list[Answer | None] = [None] * len(self._rcpts)

    async def run(self, content: bytes, *, reset: bool, reused: bool) -> tuple[Answer, ...]:
        """The answer to each RCPT. Raises Gone if `reused`."""
        try:
            await self._converse(content, reset)
        except _Broken as broken:
            self._channel.fail(broken.detail)
            if reused and not self._heard and not broken.silent:
                raise Gone(tuple(self._channel.transcript)) from None
            self._settle(Answer(self._stage, None, broken.detail))
        except _Said as said:
            if reused and not self._heard:
                raise Gone(tuple(self._channel.transcript)) from None
            self._settle(Answer(self._stage, said.reply))
        return tuple(answer for answer in self._answers if answer is not None)

    async def _converse(self, content: bytes, reset: bool) -> None:
        """Settles every recipient, or raises _Broken or _Said at `_stage`."""
        if self._pipelining:
            self._channel.say(*(("RSET",) if reset else ()), self._mail, *self._rcpts, "DATA")
        if reset:
            reply = await self._ask("RSET", self._timeouts.mail)
            if not _done(reply):
                raise _Broken(f"RSET was refused ({reply})")
        reply = await self._ask(self._mail, self._timeouts.mail)
        self._heard = True
        self.begun = _done(reply)
        if not self.begun:
            self._settle(Answer(Stage.MAIL, reply))
            if not self._pipelining:
                return
        self._stage = Stage.RCPT
        taken = False
        for number, command in enumerate(self._rcpts):
            reply = await self._ask(command, self._timeouts.rcpt)
            if _done(reply):
                taken = True
            elif self._answers[number] is None:
                self._answers[number] = Answer(Stage.RCPT, reply)
        if not taken and not self._pipelining:
            return
        self._stage = Stage.DATA
        reply = await self._ask("DATA", self._timeouts.data)
        if reply.code != 354:
            if reply.positive or self._channel.astray:
                # Each reply may have been meant for the command before, so none of them settles anything.
                self._answers = [None] * len(self._rcpts)
                raise _Broken("the server answered DATA with neither 354 nor a refusal" if reply.positive else _ASTRAY)
            self._settle(Answer(Stage.DATA, reply))
        elif self.begun and taken:
            self._settle(Answer(Stage.CONTENT, await self._send(content)))
            self.begun = False
        elif taken:
            # A dot would now send an empty message to these recipients.
            self._channel.fail("the server took recipients of a sender that it refused")
        else:
            self._channel.say(".")  # RFC 2920 3.1: the server accepted DATA though it refused every recipient
            await self._channel.reply(self._timeouts.content)
            self.begun = False

    async def _ask(self, command: str, seconds: float) -> Reply:
        """The reply to a command, sent now unless it left in the pipelined write. Raises _Broken, _Said."""
        if not self._pipelining:
            self._channel.say(command)
        reply = await self._channel.reply(seconds)
        if reply.code == 421:
            raise _Said(reply)
        return reply

    async def _send(self, content: bytes) -> Reply:
        """The reply to the content. Raises _Broken; at stage DATA as long as the final dot was not sent."""
        stuffed = wire.stuff(content)
        large = len(stuffed) > _CHUNK
        with self._channel.held() if large else nullcontext():
            whole = await self._channel.content(stuffed, len(content), self._timeouts.block)
            if whole:
                self._stage = Stage.CONTENT
            reply = await self._channel.reply(self._timeouts.content)
        if not whole and reply.positive:
            raise _Broken(f"the server answered before the end of the message ({reply})")
        if large and not _done(reply):
            # It may have answered early, with content of ours still on its way: the two could be out of step.
            self._channel.fail("connection given up after the refusal")
        return reply

    def _settle(self, answer: Answer) -> None:
        """For every recipient that has no answer yet."""
        self._answers = [settled or answer for settled in self._answers]


async def _connect(server: Server, ip: str, world: World, timeouts: Timeouts, transcript: list[Line]) -> _Channel:
    """Raises Unreachable at CONNECT."""
    shown = f"{server.host} ({f'[{ip}]' if ':' in ip else ip}:{server.port})"
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeouts.connect):
            _, channel = await loop.create_connection(lambda: _Channel(shown, world, transcript), ip, server.port)
    except OSError as error:  # TimeoutError, which is one, has no number where the deadline is ours
        why = os.strerror(error.errno) if error.errno else f"no connection within {timeouts.connect:g} s"
        transcript.append(Line(Arrow.NOTE, world.clock.now(), f"not connected to {shown}: {why}"))
        raise Unreachable(Answer(Stage.CONNECT, None, why), tuple(transcript)) from None
    return channel


def _done(reply: Reply) -> bool:
    """2yz."""
    return 200 <= reply.code < 300


def _our(code: int, enhanced: str, why: str) -> Answer:
    return Answer(
        Stage.MAIL, Reply(code, enhanced, f"{why[0].upper()}{why[1:]}"), f"not sent by smtproute: {why}", ours=True
    )


def _given(context: ssl.SSLContext | None) -> ssl.SSLContext:
    assert context is not None, "TLS needs a context"
    return context
