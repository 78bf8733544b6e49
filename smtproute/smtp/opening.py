"""The opening of a connection: from an address to a server that greeted us, secured the line and let us in."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import assert_never

from smtproute.core.outcome import Answer, Stage
from smtproute.core.reply import Reply
from smtproute.core.settings import EndpointTls, Server
from smtproute.core.transcript import Arrow, Line
from smtproute.smtp.channel import Broken, Channel, Said, connect
from smtproute.smtp.sasl import Credentials
from smtproute.world import World

__all__ = ["TIMEOUTS", "Learnt", "Opening", "Terms", "Timeouts", "Unreachable"]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that each step may take: the minima of RFC 5321 4.5.3.2; the RFC leaves connect, tls and quit open."""

    connect: float = 30.0
    tls: float = 60.0
    greeting: float = 300.0
    ehlo: float = 300.0
    """STARTTLS and each step of AUTH too."""
    mail: float = 300.0
    rcpt: float = 300.0
    data: float = 120.0
    block: float = 180.0
    """Until the server has taken the next block of content."""
    content: float = 600.0
    """From the final dot to the reply: too short, and messages are delivered twice (RFC 1047)."""
    quit: float = 5.0
    next_connect: float = 0.25
    """Until the next address of a server is tried beside one that is not connected (RFC 8305 5, Connection Attempt
    Delay)."""
    next_server: float = 1.0
    """The same, where the next address is another server's: one that is merely far away is not to lose its mail."""
    next_backup: float = 2.0
    """The same, where the next is the first backup."""
    next_greeting: float = 10.0
    """Until the next address is tried beside one that is connected and has not greeted: postscreen(8) lets a client
    wait for six seconds."""
    backup_greeting: float = 30.0
    """The same, where the next is the first backup."""
    patience: float = 30.0
    """The most that EHLO, STARTTLS and each step of AUTH may take where another address is left, and MAIL on a kept
    connection, where a new one is left: nothing of the message was sent by then."""

    @property
    def hurried(self) -> Timeouts:
        """Those of an opening that has no more than `patience`."""
        most = self.patience
        return replace(self, tls=min(self.tls, most), greeting=min(self.greeting, most), ehlo=min(self.ehlo, most))


TIMEOUTS = Timeouts()
_MAX_COMMAND = 512
"""Octets of a command with its CRLF (RFC 5321 4.5.3.1.4); a longer response to AUTH goes by itself (RFC 4954 4)."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a connection is opened with.

    `context` says what is verified, against which authorities, and which certificate we show; it may be None with
    `NEVER` only. With `PREFER`, TLS that is offered and fails is left out on a second connection. Credentials go over
    TLS, or nowhere.
    """

    tls: EndpointTls
    context: ssl.SSLContext | None
    helo: str
    tls_name: str = ""
    """The name that is asked for and verified; empty: the host name."""
    credentials: Credentials | None = None
    lmtp: bool = False
    timeouts: Timeouts = TIMEOUTS


@dataclass(slots=True)
class Learnt:
    """What a server showed of itself while a connection to it was opened; empty as far as it did not come to that."""

    seconds: float | None = None
    """That the TCP connection took."""
    greeting: Reply | None = None
    extensions: dict[str, str] = field(default_factory=dict)
    """Of the last EHLO: parameters by keyword in upper case."""
    tls: str = ""
    """Protocol and cipher."""
    certificate: bytes = b""
    """In DER; where it was refused it is not known."""


class Unreachable(Exception):
    """There is no dialogue with this server: the stage of `answer` is CONNECT, GREETING, EHLO, STARTTLS or AUTH.

    It is RESOLVE where the address was withdrawn meanwhile (`Pool.vanished`).
    """

    def __init__(self, answer: Answer, transcript: tuple[Line, ...], learnt: Learnt) -> None:
        super().__init__(f"{answer.stage}: {answer.reply or answer.detail}")
        self.answer = answer
        self.transcript = transcript
        self.learnt = learnt


class _TlsFailed(Exception):
    """STARTTLS was offered, preferred, and came to nothing; `detail` says why."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Opening:
    """One address on its way to a connection: `connect`, `greet`, `enter`, in this order, each once.

    Where one of them raises, or is cancelled, the socket is closed.
    """

    def __init__(self, server: Server, ip: str, terms: Terms, world: World, before: tuple[Line, ...] = ()) -> None:
        """`before` goes in front of the transcript."""
        self.terms = terms
        self.transcript = list(before)
        self.learnt = Learnt()
        self.downgrade = ""
        """Why it goes in plain text, though TLS is preferred."""
        self._channel: Channel | None = None
        self._server = server
        self._ip = ip
        self._world = world
        self._stage = Stage.CONNECT

    @property
    def channel(self) -> Channel:
        """Once it is connected."""
        assert self._channel is not None, "not connected"
        return self._channel

    async def connect(self) -> None:
        """TCP. Raises Unreachable."""
        self._stage = Stage.CONNECT
        loop = asyncio.get_running_loop()
        begun = loop.time()
        with self._ending():
            seconds = self.terms.timeouts.connect
            self._channel = await connect(self._server, self._ip, self._world, self.transcript, seconds)
        self.learnt.seconds = loop.time() - begun

    async def greet(self) -> None:
        """TLS where it is implicit, and the greeting. Raises Unreachable."""
        with self._ending():
            if self.terms.tls is EndpointTls.IMPLICIT:
                await self._secure()
            self._stage = Stage.GREETING
            self.learnt.greeting = await self.channel.reply(self.terms.timeouts.greeting)
            if not self.learnt.greeting.completed:
                raise Said(self.learnt.greeting)

    async def enter(self) -> None:
        """EHLO (HELO to a server that knows no EHLO), STARTTLS as `tls` wants it, AUTH. Raises Unreachable."""
        try:
            with self._ending():
                await self._enter()
        except _TlsFailed as failed:
            self._note(f"{failed.detail}: once more in plain text")
            self.downgrade = failed.detail
            self.learnt = Learnt()
            self.terms = replace(self.terms, tls=EndpointTls.NEVER, context=None)
            await self.connect()
            await self.greet()
            await self.enter()

    def hurry(self) -> None:
        """There are other addresses: the steps from here on have `Timeouts.patience`."""
        self.terms = replace(self.terms, timeouts=self.terms.timeouts.hurried)

    def abort(self) -> None:
        """Closes at once, however far it came."""
        self._close("connection given up")

    def give_up(self, stage: Stage, why: str) -> Unreachable:
        """Closes at once, for a reason that lies elsewhere, and says what to tell of it."""
        self._note(why)
        self.abort()
        return self._unreachable(Answer(stage, None, why))

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Closes unless all went well, and raises Unreachable for what the server is at fault for."""
        well = False
        try:
            yield
            well = True
        except Broken as broken:
            self._close(broken.detail)
            raise self._unreachable(Answer(self._stage, None, broken.detail)) from None
        except Said as said:
            raise self._unreachable(Answer(self._stage, said.reply)) from None
        finally:
            if not well:
                self.abort()

    def _unreachable(self, answer: Answer) -> Unreachable:
        return Unreachable(answer, tuple(self.transcript), self.learnt)

    def _close(self, why: str) -> None:
        if self._channel is not None:
            self._channel.fail(why)

    async def _enter(self) -> None:
        """Raises Broken and Said, or _TlsFailed where it may be tried again without TLS."""
        await self._hello()
        match self.terms.tls:
            case EndpointTls.PREFER | EndpointTls.REQUIRE:
                await self._starttls()
            case EndpointTls.NEVER | EndpointTls.IMPLICIT:
                pass
            case _:
                assert_never(self.terms.tls)
        if self.terms.credentials is not None:
            self._stage = Stage.AUTH
            await self._authenticate(self.terms.credentials)

    async def _hello(self) -> None:
        """EHLO, or HELO where that is not known (RFC 5321 3.2); LHLO in LMTP. Raises Broken, Said."""
        self._stage = Stage.EHLO
        channel, helo, seconds = self.channel, self.terms.helo, self.terms.timeouts.ehlo
        self.learnt.extensions = {}
        channel.say(f"{'LHLO' if self.terms.lmtp else 'EHLO'} {helo}")
        reply = await channel.reply(seconds)
        if reply.permanent and not self.terms.lmtp:
            channel.say(f"HELO {helo}")
            reply = await channel.reply(seconds)
        elif reply.completed:
            for line in reply.text.split("\n")[1:]:
                keyword, _, parameters = line.partition(" ")
                self.learnt.extensions[keyword.upper()] = parameters
        if not reply.completed:
            raise Said(reply)

    async def _starttls(self) -> None:
        """Raises Broken and Said, or _TlsFailed where plain text will do."""
        self._stage = Stage.STARTTLS
        channel = self.channel
        plain = self.terms.tls is EndpointTls.PREFER and self.terms.credentials is None
        if "STARTTLS" not in self.learnt.extensions:
            if self.terms.tls is EndpointTls.REQUIRE:
                raise Broken("TLS is required, and the server does not offer STARTTLS")
            self.downgrade = "the server does not offer STARTTLS"
            channel.note(f"{self.downgrade}: plain text")
            return
        channel.say("STARTTLS")  # where it is out of step already, plain text would mend nothing
        try:
            reply = await channel.reply(self.terms.timeouts.ehlo)
            if reply.code != 220:
                raise Said(reply)
            await self._secure()
            await self._hello()
        except Broken as broken:
            # Under TLS 1.3 a server that wants a certificate of ours refuses only after the handshake.
            if plain and (self._stage is Stage.STARTTLS or not broken.silent):
                raise _TlsFailed(broken.detail) from None
            raise
        except Said as said:
            if plain and self._stage is Stage.STARTTLS:
                raise _TlsFailed(f"STARTTLS was refused ({said.reply})") from None
            raise

    async def _secure(self) -> None:
        """Raises Broken."""
        self._stage = Stage.STARTTLS
        terms = self.terms
        assert terms.context is not None, "TLS needs a context"
        name = terms.tls_name or self._server.host
        await self.channel.start_tls(terms.context, name, handshake=terms.timeouts.tls, shutdown=terms.timeouts.quit)
        self.learnt.tls = self.channel.tls
        self.learnt.certificate = self.channel.certificate

    async def _authenticate(self, credentials: Credentials) -> None:
        """Logs in with PLAIN (RFC 4616), else with LOGIN. Raises Broken, Said."""
        if not self.channel.tls:
            raise Broken("not logged in: there is no TLS, and credentials are not sent in plain text")
        if "AUTH" not in self.learnt.extensions:
            raise Broken("not logged in: the server does not offer AUTH")
        offered = self.learnt.extensions["AUTH"].upper().split()
        name, password = credentials.name.encode(), credentials.password
        if "PLAIN" in offered:
            mechanism, responses = "PLAIN", [_base64(b"\0".join((b"", name, password)))]
        elif "LOGIN" in offered:
            mechanism, responses = "LOGIN", [_base64(name), _base64(password)]
        else:
            raise Broken(
                f"not logged in: the server offers neither PLAIN nor LOGIN but {' '.join(offered) or 'nothing'}"
            )
        initial = mechanism == "PLAIN" and len(f"AUTH PLAIN {responses[0]}\r\n") <= _MAX_COMMAND
        with self.channel.secret(*(response.encode() for response in responses), password):
            self.channel.say(f"AUTH PLAIN {responses[0]}" if initial else f"AUTH {mechanism}")
            reply = await self.channel.reply(self.terms.timeouts.ehlo)
            for response in responses[1:] if initial else responses:
                if reply.code != 334:
                    break
                self.channel.say(response)
                reply = await self.channel.reply(self.terms.timeouts.ehlo)
        if reply.code == 334:
            raise Broken("not logged in: the server asks for more than username and password")
        if not reply.completed:
            raise Said(reply)

    def _note(self, text: str) -> None:
        self.transcript.append(Line(Arrow.NOTE, self._world.clock.now(), text))


def _base64(octets: bytes) -> str:
    return b64encode(octets).decode()
