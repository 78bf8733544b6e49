"""The session: one client's connection. It reads commands through `wire`, asks its Door, and says the replies.

It is aiosmtpd's SMTP with the conversation replaced. Of aiosmtpd (1.4.6) it relies on this and nothing else:

- `SMTP.__init__(handler, hostname=, loop=)` makes the protocol whole without touching the network, and reads
  with a StreamReader whose limit is the class's `line_length_limit`;
- `SMTP` is an asyncio.StreamReaderProtocol, whose connection callbacks do their work when SMTP's are passed over:
  SMTP's start a task that nobody owns, and cancel it when the client has sent its last octet;
- `_cb_client_connected` keeps the reader and the writer as `_reader` and `_writer`;
- `_handle_client` is the conversation, `transport` the connection, `hostname` and `loop` what was given.
"""

from __future__ import annotations

import asyncio
import ssl
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import assert_never, cast

from aiosmtpd.smtp import SMTP

from smtproute.core import permit
from smtproute.core.address import Address
from smtproute.core.envelope import Client, Envelope
from smtproute.core.event import Emit, Event, Happening
from smtproute.core.reply import LOG_IN_FIRST, Reply
from smtproute.core.settings import Auth, Limits, Listener, ListenerTls, Role
from smtproute.core.transcript import Arrow, Line, Record, legible
from smtproute.smtp import sasl, wire
from smtproute.smtp.door import Door
from smtproute.smtp.sasl import Credentials, Mechanism, SaslError
from smtproute.smtp.wire import ClientGone, ContentRefused, Verb, WireError
from smtproute.world import World

__all__ = ["HANDSHAKE", "Session"]

_CHUNK = 65536
"""Octets of one read, and of replies gathered before they are written."""
HANDSHAKE = 60.0
"""Seconds for a TLS handshake, if limits.timeout is longer."""
_CLOSING = 5.0
"""Seconds for the last octets to leave before the connection is cut."""
_CUTTING = 0.2
"""The same when the listener has no more time."""
_TURN = 16
"""Commands that are answered before other sessions have their turn."""
_BEGINNING = 16_384
"""Characters that a transcript keeps of how the connection began, and as many of the latest EHLO."""
_TRANSACTION = 262_144 - 2 * _BEGINNING
"""Characters that it keeps of the transaction."""
_LONGEST = 1000
"""Characters that it keeps of a line."""
_LONGEST_NAME = 255
"""Characters that are kept of a name that proves nothing."""

_SHUTTING_DOWN = Reply(421, "4.3.2", "This server is shutting down: connect again later")
_READY_FOR_TLS = Reply(220, "2.0.0", "Ready to start TLS")
_SILENT = Reply(421, "4.4.2", "Nothing came from you for too long: connect again")
_TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many refused commands: mend what the replies above say, then connect again")
_TOO_MANY_LOGINS = Reply(421, "4.7.0", "Too many failed logins: connect again with the right name and password")
_STARTTLS_FIRST = Reply(530, "5.7.0", "Must issue a STARTTLS command first")
_NOT_IN_CLEAR = Reply(538, "5.7.11", "Encryption required: nobody logs in in plain text here")
_LOGGED_IN = Reply(235, "2.7.0", "Authentication successful")
_CANCELLED = Reply(501, "5.0.0", "Authentication cancelled, as you wished")
_NO_COMMAND = Reply(500, "5.5.2", "This is no command: HELP lists the verbs")
_FAULT = Reply(451, "4.3.0", "Something failed here, and it was noted: try again later")
_FAULT_BEFORE = Reply(451, "4.3.0", "The transaction was dropped when something failed here: begin again with MAIL")
_FAULT_AT_CONNECT = Reply(421, "4.3.0", "Something failed here, and it was noted: connect again later")


class _Secured(asyncio.StreamReaderProtocol):
    """Takes the session's place at the transport once STARTTLS has begun, and tells when the client is gone."""

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop, gone: Callable[[], None]) -> None:
        super().__init__(reader, loop=loop)
        self._gone = gone

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._gone()


class Session(SMTP):
    """One connection. Once it stands, `serve` is the whole conversation."""

    line_length_limit = _CHUNK
    transport: asyncio.Transport

    def __init__(
        self,
        ip: str,
        port: int,
        settings: Listener,
        limits: Limits,
        context: ssl.SSLContext | None,
        hostname: str,
        door: Door,
        world: World,
        emit: Emit,
    ) -> None:
        super().__init__(None, hostname=hostname, loop=asyncio.get_running_loop())
        self.client = Client(ip, port, settings.name, settings.role, trusted=permit.trusts(settings, ip))
        self._settings = settings
        self._limits = limits
        self._context = context
        self._door = door
        self._clock = world.clock
        self._emit = emit

        self._lines = wire.CommandLines()
        self._replies: list[bytes] = []
        self._gathered = 0
        self._waiting: asyncio.Timeout | None = None
        self._negotiating = False
        """TLS is being negotiated: no reply can be written."""
        self._over = False
        self._draining = False
        self._errors = 0
        self._failed_logins = 0
        self._after_auth = False
        """Since an AUTH there was no other command: what cannot be understood may be a response to it."""

        self._envelope: Envelope | None = None
        self._content: wire.Content | None = None
        self._tried = 0
        self._recipients = 0
        self._faulted = False

        self._heard = ""
        self._opening = Record(_BEGINNING)
        self._hello = Record(_BEGINNING)
        self._said = Record(_TRANSACTION)
        self._record = self._opening

    # The connection, as asyncio calls it.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super(SMTP, self).connection_made(transport)
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def eof_received(self) -> bool | None:
        """The client has sent everything, and may still be waiting for our replies: nothing is cancelled.

        Nor can it be told from one that is gone: it gets them without delay.
        """
        self._door.hurry()
        return super(SMTP, self).eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        """The next read or write will tell. A Door that is committing goes on."""
        super(SMTP, self).connection_lost(error)
        self._door.hurry()

    # What the listener does with it.

    async def serve(self) -> None:
        """Speaks with the client until one of the two has had enough."""
        await self._handle_client()

    def shut_down(self) -> None:
        """Ends the session as soon as no transaction is open: now, if it is idle."""
        self._draining = True
        self._door.hurry()
        if not self._in_transaction and self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(self.loop.time())

    @property
    def _in_transaction(self) -> bool:
        return self._envelope is not None or self._content is not None

    # The conversation.

    async def _handle_client(self) -> None:
        patience = _CLOSING
        try:
            await self._converse()
        except ClientGone:
            pass
        except asyncio.CancelledError:
            patience = _CUTTING
            if not self._negotiating:
                self._say(_SHUTTING_DOWN)
                self._writer.write(b"".join(self._replies))
            raise
        finally:
            await self._guarded(self._reset)
            await self._close(patience)

    async def _close(self, patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                if not self._negotiating:
                    self._writer.close()
                    await self._writer.wait_closed()
        except OSError:  # TimeoutError is one
            pass
        finally:
            with suppress(AttributeError):  # Python 3.11.2: an ended TLS transport has lost what it would abort
                self.transport.abort()

    async def _converse(self) -> None:
        self._write_down(Arrow.NOTE, f"connected from [{self.client.ip}]:{self.client.port}")
        if self._settings.tls is ListenerTls.IMPLICIT:
            self._tls_started()
        self._say(await self._greeting())
        self._record = self._said
        heard = 0
        while not self._over:
            if self._draining and not self._in_transaction:
                self._say(_SHUTTING_DOWN)
                break
            try:
                line = self._lines.next()
            except WireError as error:
                self._say(self._not_understood(error.line or b"[a line too long to be kept]", error.reply))
            else:
                if line is None:
                    await self._flush()
                    self._lines.feed(await self._read())
                    continue
                await self._answer(line)
            if self._gathered >= _CHUNK:
                await self._flush()
            heard += 1
            if heard % _TURN == 0:
                await asyncio.sleep(0)  # what was pipelined, or waits to be read, is answered without any waiting
        await self._flush()

    async def _greeting(self) -> Reply:
        reply = permit.STRANGER
        if permit.admits(self._settings, self.client.ip):
            reply = await self._guarded(partial(self._door.connect, self.client))
        else:
            self._refused(reply)
        self._over = not reply.positive
        return _FAULT_AT_CONNECT if reply is _FAULT else reply

    async def _answer(self, line: bytes) -> None:
        """One command: heard, obeyed, answered; then both sides are at the beginning of the next one."""
        reply = await self._guarded(partial(self._obey, line))
        while self._content is not None and not self._content.done:
            await self._more(self._content)  # the Door had seen enough; the client goes on to the end
        self._content = None
        if reply is _FAULT:
            await self._guarded(self._reset)
            self._faulted = True
        self._say(reply)
        self._record = self._said
        if reply is _READY_FOR_TLS:
            await self._flush()
            await self._start_tls()

    async def _guarded(self, step: Callable[[], Awaitable[Reply]]) -> Reply:
        """The reply of a step. Whatever fails in it is noted, and the client hears 451 and may go on."""
        try:
            return await step()
        except ClientGone:
            raise
        except Exception as error:  # noqa: BLE001 (the one around a verb)
            where = f"session: {self._heard or 'connect'}"
            self._tell(Happening.FAULT, where=where, error=repr(error), traceback=traceback.format_exc())
            return _FAULT

    # The verbs.

    async def _obey(self, line: bytes) -> Reply:
        try:
            command = wire.parse_command(line, smtputf8=self._envelope is not None and self._envelope.smtputf8)
        except WireError as error:
            return self._not_understood(line, error.reply)
        match command:
            case wire.Ehlo() | wire.Helo():
                self._said.clear()
                self._hello.clear()
                self._record = self._hello
            case wire.Mail() | wire.Starttls() if not self._in_transaction:
                self._said.clear()
        self._hear(line)
        match command:
            case wire.Ehlo(host):
                return await self._welcome(host, esmtp=True)
            case wire.Helo(host):
                return await self._welcome(host, esmtp=False)
            case wire.Starttls():
                return await self._starttls()
            case wire.Auth():
                return await self._auth(command)
            case wire.Mail():
                return await self._mail(command)
            case wire.Rcpt(recipient):
                return await self._rcpt(recipient)
            case wire.Data():
                return await self._data()
            case wire.Rset():
                return await self._reset()
            case wire.Vrfy(address):
                if self._settings.debug:
                    return await self._door.explain(self.client, address)
                return Reply(252, "2.5.2", "Nothing is verified here: send MAIL and RCPT to find out")
            case wire.Expn(address):
                if self._settings.debug:
                    return await self._door.explain(self.client, address)
                return self._refused(Reply(502, "5.5.1", "Nothing is expanded here: that wants a debug listener"))
            case wire.Noop():
                return Reply(250, "2.0.0", "OK")
            case wire.Help(topic):
                return self._help(topic)
            case wire.Quit():
                self._over = True
                return Reply(221, "2.0.0", "Bye")
            case _:
                assert_never(command)

    def _not_understood(self, line: bytes, reply: Reply) -> Reply:
        """A line that is no command. Right after AUTH it may be a password, and nobody hears or reads it again."""
        if self._after_auth and reply.code == 500:
            line, reply = wire.SECRET.encode(), _NO_COMMAND
        self._hear(line)
        return self._refused(reply)

    async def _welcome(self, host: str, esmtp: bool) -> Reply:
        await self._reset()
        self.client = replace(self.client, helo=host, esmtp=esmtp)
        if not esmtp:
            return Reply(250, "", self.hostname)
        offers = [self.hostname, "PIPELINING", f"SIZE {self._limits.message_size}", "8BITMIME", "SMTPUTF8"]
        if self._may_start_tls:
            offers.append("STARTTLS")
        if self._may_log_in and not self._logged_in:
            offers.append(" ".join([Verb.AUTH, *Mechanism]))
        return Reply(250, "", "\n".join([*offers, "ENHANCEDSTATUSCODES", "HELP"]))

    @property
    def _may_start_tls(self) -> bool:
        return self._settings.tls is ListenerTls.STARTTLS and not self.client.tls

    async def _starttls(self) -> Reply:
        if self.client.tls:
            return self._refused(Reply(503, "5.5.1", "TLS is active already: go on with MAIL"))
        if not self._may_start_tls:
            return self._refused(Reply(502, "5.5.1", "There is no TLS on this listener: go on in plain text"))
        await self._reset()
        self.transport.pause_reading()  # what comes after the 220 is for TLS
        return _READY_FOR_TLS

    @property
    def _may_log_in(self) -> bool:
        return permit.logs_in(self._settings, self.client.ip, tls=bool(self.client.tls))

    @property
    def _logged_in(self) -> bool:
        return self.client.login is not None or self.client.named is not None

    @property
    def _refusal_in_clear(self) -> Reply | None:
        """Why nobody logs in as long as nothing is encrypted; None where somebody may."""
        if self._may_log_in:
            return None
        return _STARTTLS_FIRST if self._may_start_tls else _NOT_IN_CLEAR

    async def _auth(self, command: wire.Auth) -> Reply:
        refusal = self._refusal_of_auth
        if refusal is not None:
            return self._refused(refusal)
        try:
            credentials = await self._credentials(command)
        except (SaslError, WireError) as error:
            return self._refused(error.reply)
        match self._settings.auth:
            case Auth.ACCOUNTS:
                answer = await self._door.login(self.client, credentials.name, credentials.password)
                if isinstance(answer, Reply):
                    return answer
                self.client = replace(self.client, login=answer.name)
            case Auth.ANY:
                self.client = replace(self.client, named=_named(credentials))
            case _:
                assert_never(self._settings.auth)
        self._record = self._opening
        self._remember()
        return _LOGGED_IN

    @property
    def _refusal_of_auth(self) -> Reply | None:
        """Why AUTH is out of place (RFC 4954 4); None where it is not."""
        if not permit.takes_logins(self._settings):
            return Reply(502, "5.5.1", "AUTH is not offered: there is no login here: send MAIL")
        if not self.client.esmtp:
            return Reply(503, "5.5.1", "Send EHLO first")
        if self._in_transaction:
            return Reply(503, "5.5.1", "A transaction is open: finish it, or send RSET first")
        if self._logged_in:
            return Reply(503, "5.5.1", "You have logged in already: go on with MAIL")
        return self._refusal_in_clear

    async def _credentials(self, command: wire.Auth) -> Credentials:
        """The exchange, up to what the client has to say. Raises SaslError, WireError, ClientGone."""
        exchange = sasl.exchange(command.mechanism)
        response: bytes | None = None
        if command.initial is not None:
            response = b"" if command.initial == "=" else sasl.decoded(command.initial.encode("ascii"))
        while not isinstance(taken := exchange.take(response), Credentials):
            self._say(sasl.challenge(taken))
            response = await self._response()
        return taken

    async def _response(self) -> bytes:
        """The client's next response. Raises SaslError, WireError, ClientGone."""
        try:
            while (line := self._lines.response()) is None:
                await self._flush()
                data = b"" if self._draining else await self._read()
                if not data:
                    raise SaslError(_SHUTTING_DOWN)
                self._lines.feed(data)
        except WireError:
            self._write_down(self._received, wire.SECRET)
            raise
        if line == b"*":
            self._write_down(self._received, "*")
            raise SaslError(_CANCELLED)
        self._write_down(self._received, wire.SECRET)
        return sasl.decoded(line)

    async def _mail(self, command: wire.Mail) -> Reply:
        if not self.client.helo:
            return self._refused(Reply(503, "5.5.1", "Send EHLO or HELO first"))
        if self._settings.role is Role.SUBMISSION and not self._logged_in:
            return self._refused(self._refusal_in_clear or LOG_IN_FIRST)
        if self._envelope is not None:
            return self._refused(Reply(503, "5.5.1", "A transaction is open: go on with RCPT, or send RSET first"))
        limit = self._limits.message_size
        if command.size is not None and command.size > limit:
            return self._refused(Reply(552, "5.3.4", f"A message has at most {limit} octets here: send less"))
        envelope = Envelope(self.client, command.reverse_path, command.size, command.eight_bit, command.smtputf8)
        self._tried = self._recipients = 0
        self._faulted = False
        reply = await self._door.mail(envelope)
        if reply.positive:
            self._envelope = envelope
        return reply

    async def _rcpt(self, recipient: Address | None) -> Reply:
        if self._envelope is None:
            return self._refused(_FAULT_BEFORE if self._faulted else Reply(503, "5.5.1", "Send MAIL first"))
        self._tried += 1
        limit = self._limits.recipients
        if self._recipients >= limit:
            text = f"A message has at most {limit} recipients here: send it to the others in another transaction"
            return self._refused(Reply(452, "4.5.3", text))
        reply = await self._door.rcpt(recipient)
        if reply.positive:
            self._recipients += 1
        return reply

    async def _data(self) -> Reply:
        if self._envelope is None:
            return self._refused(_FAULT_BEFORE if self._faulted else Reply(503, "5.5.1", "Send MAIL and RCPT first"))
        if not self._tried:
            return self._refused(Reply(503, "5.5.1", "Send RCPT first"))
        if not self._recipients:
            return self._refused(Reply(554, "5.5.1", "No recipient was accepted: send RCPT with another address"))
        self._say(Reply(354, "", "Send the message, then a line with a single dot"))
        await self._flush()
        self._content = wire.Content(self._limits.message_size, self._settings.bare_newline)
        self._envelope = None
        try:
            async with aclosing(self._pieces(self._content)) as pieces:
                reply = await self._door.data(pieces, self.transcript)
        except ContentRefused as refused:
            self._door.reset()
            return refused.reply
        if reply.positive:
            self._errors = 0
        return reply

    async def _reset(self) -> Reply:
        self._envelope = None
        self._faulted = False
        self._door.reset()
        return Reply(250, "2.0.0", "No transaction is open")

    def _help(self, topic: Verb | None) -> Reply:
        if topic is not None:
            return Reply(214, "2.0.0", wire.SYNTAX[topic])
        spoken = " ".join(verb for verb in Verb if self._spoken(verb))
        return Reply(
            214, "2.0.0", f"{spoken}\nHELP with a verb tells its syntax\nA message: EHLO, MAIL, RCPT, DATA, QUIT"
        )

    def _spoken(self, verb: Verb) -> bool:
        match verb:
            case Verb.STARTTLS:
                return self._may_start_tls
            case Verb.AUTH:
                return self._may_log_in
            case Verb.VRFY | Verb.EXPN:
                return self._settings.debug
            case _:
                return True

    # Octets in and out.

    async def _pieces(self, content: wire.Content) -> AsyncGenerator[bytes, None]:
        """The content as the Door reads it."""
        while not content.done:
            piece = await self._more(content)
            if piece:
                yield piece
        if content.refusal is not None:
            raise ContentRefused(self._refused(content.refusal))

    async def _more(self, content: wire.Content) -> bytes:
        """The next piece of the content; when it has ended, the commands after it are back where they belong."""
        piece = content.feed(self._lines.take() or await self._read())
        if content.done:
            self._lines.feed(content.leftover)
            self._write_down(self._received, f"[{content.size} octets]")
        return piece

    async def _read(self) -> bytes:
        """What has come; nothing if `shut_down` ended the waiting. Raises ClientGone."""
        if self._over:
            raise ClientGone("the client has been told to go")
        try:
            async with asyncio.timeout(self._limits.timeout) as self._waiting:
                data = await self._reader.read(_CHUNK)
        except TimeoutError:
            if self._draining and not self._in_transaction:
                return b""
            self._say(self._refused(_SILENT))
            await self._flush()
            raise ClientGone("the client fell silent") from None
        except OSError as error:
            raise ClientGone(str(error)) from error
        finally:
            self._waiting = None
        if not data:
            raise ClientGone("the client hung up")
        return data

    async def _flush(self) -> None:
        """Writes the replies gathered. Raises ClientGone."""
        if not self._replies:
            return
        self._writer.write(b"".join(self._replies))
        self._replies.clear()
        self._gathered = 0
        try:
            async with asyncio.timeout(self._limits.timeout):
                await self._writer.drain()
        except OSError as error:
            raise ClientGone(str(error)) from error

    async def _start_tls(self) -> None:
        """Negotiates TLS and starts over (RFC 3207 4.2). Raises ClientGone.

        What was received in plain text stays behind with the reader that received it.
        """
        assert self._context is not None
        self._negotiating = True
        self._lines = wire.CommandLines()
        reader = asyncio.StreamReader(limit=_CHUNK, loop=self.loop)
        protocol = _Secured(reader, self.loop, self._door.hurry)
        try:
            async with asyncio.timeout(min(HANDSHAKE, self._limits.timeout)) as self._waiting:
                transport = await self.loop.start_tls(self.transport, protocol, self._context, server_side=True)
            if transport is None:
                raise ConnectionResetError("the client hung up")
        except OSError as error:
            self._tell(Happening.WARNING, what=f"TLS handshake failed: {error!r}")
            raise ClientGone(str(error)) from error
        finally:
            self._waiting = None
        protocol.connection_made(transport)
        self._plain = self._writer  # kept: from Python 3.13 on, a writer that is let go closes its transport
        self._reader, self._writer = reader, asyncio.StreamWriter(transport, protocol, reader, self.loop)
        self.transport = transport
        self._negotiating = False
        self._record = self._opening
        self._remember()
        self._tls_started()
        self._record = self._said

    def _tls_started(self) -> None:
        tls = self.transport.get_extra_info("ssl_object")
        secured = f"{tls.version()} {tls.cipher()[0]}"
        self.client = replace(self.client, helo="", esmtp=False, login=None, named=None, tls=secured)
        self._write_down(Arrow.NOTE, f"TLS started: {self.client.tls}")

    # What is said, and what is written down.

    def _say(self, reply: Reply) -> None:
        """Gathers a reply for the next flush. After a 421, too many errors or failed logins, the session is over."""
        octets = reply.wire()
        self._replies.append(octets)
        self._gathered += len(octets)
        arrow = Arrow.SENT_TLS if self.client.tls else Arrow.SENT
        for line in octets.split(b"\r\n")[:-1]:
            self._write_down(arrow, _shown(line))
        if reply.code == 421:
            self._over = True
        if reply.code == 535:
            self._failed_logins += 1
            if self._failed_logins >= self._limits.auth_failures:
                self._say(self._refused(_TOO_MANY_LOGINS))
        if reply.permanent:
            self._errors += 1
            if self._errors >= self._limits.errors and not self._over:
                self._say(self._refused(_TOO_MANY_ERRORS))

    def _refused(self, reply: Reply) -> Reply:
        """Makes it known that the session itself refuses what it heard last; the Door speaks for its own refusals."""
        self._tell(Happening.REFUSED, command=self._heard, reply=str(reply))
        return reply

    def _tell(self, what: Happening, /, **facts: str) -> None:
        facts = {"listener": self._settings.name, "client": self.client.ip, **facts}
        self._emit(Event(what, self._clock.now(), facts=facts))

    def _hear(self, line: bytes) -> None:
        self._after_auth = wire.secretive(line) or line == wire.SECRET.encode()
        self._heard = _shown(wire.concealed(line)) if line else "[an empty line]"
        self._write_down(self._received, self._heard)

    def _remember(self) -> None:
        """What was said until now is how the connection began."""
        for line in (*self._hello.lines, *self._said.lines):
            self._opening.add(line)
        self._hello.clear()
        self._said.clear()

    @property
    def _received(self) -> Arrow:
        return Arrow.RECEIVED_TLS if self.client.tls else Arrow.RECEIVED

    def _write_down(self, arrow: Arrow, text: str) -> None:
        self._record.add(Line(arrow, self._clock.now(), text))

    def transcript(self) -> Sequence[Line]:
        """How the connection began, the latest EHLO, and what was said since the latest MAIL."""
        return (*self._opening.lines, *self._hello.lines, *self._said.lines)


def _named(credentials: Credentials) -> str:
    """What a client calls itself where every login is good, as it may be noted.

    At some providers one token is both name and password. PLAIN lets a name be 255 octets long (RFC 4616 2).
    """
    if credentials.name.encode() == credentials.password:
        return wire.SECRET
    return credentials.name[:_LONGEST_NAME]


def _shown(line: bytes) -> str:
    text = legible(line.decode("utf-8", "backslashreplace")[: _LONGEST + 1])  # which makes no text shorter
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} [cut: the line has {len(line)} octets]"
