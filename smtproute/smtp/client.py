"""The client side of one SMTP connection: it is opened, carries one transaction after another, and is closed.

Replies are read as they arrive, whatever is being written, so MAIL, every RCPT and DATA can leave in one write
without either side blocking the other (RFC 2920 3.1). Content leaves exactly as it was given: what a server does not
take as it is, it does not get. Every wait has a deadline, and whatever goes wrong becomes an Answer for each
recipient at the stage where it went wrong.

LMTP (RFC 2033) is the same conversation with another hello, and with one reply for each recipient after the dot.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NoReturn, Self

from smtproute.core.address import Address
from smtproute.core.message import header_end
from smtproute.core.outcome import Answer, Stage
from smtproute.core.reply import Reply
from smtproute.core.settings import EndpointTls, Server
from smtproute.core.transcript import Line
from smtproute.smtp import wire
from smtproute.smtp.channel import ASTRAY, CHUNK, Broken, Channel, Said
from smtproute.smtp.opening import TIMEOUTS, Opening, Terms, Timeouts
from smtproute.smtp.sasl import Credentials
from smtproute.world import World

__all__ = ["Connection", "Dialogue", "Gone", "Mail"]


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
    """Why this went in plain text though TLS was preferred (`EndpointTls.PREFER`); else empty."""
    new: bool = True
    """Whether it was the connection's first transaction."""


class Gone(Exception):
    """A kept connection turned out dead before the server answered MAIL; nothing of the message was sent."""

    def __init__(self, transcript: tuple[Line, ...]) -> None:
        super().__init__("the kept connection is gone")
        self.transcript = transcript


def _unheard() -> None:
    """Where nobody wants to know."""


class Connection:
    """A connection on which the server greeted us and answered EHLO; `send` is called on one mail at a time."""

    def __init__(self, opening: Opening) -> None:
        """Goes on where `Opening.enter` came to its end."""
        self.transactions = 0
        self.learnt = opening.learnt
        self._channel = opening.channel
        self._lmtp = opening.terms.lmtp
        self._timeouts = opening.terms.timeouts
        self._extensions = opening.learnt.extensions
        self._downgrade = opening.downgrade
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
        tls_name: str = "",
        credentials: Credentials | None = None,
        lmtp: bool = False,
        timeouts: Timeouts = TIMEOUTS,
    ) -> Self:
        """A connection to this one address, on these terms (see `Terms`). Raises Unreachable."""
        opening = Opening(server, ip, Terms(tls, context, helo, tls_name, credentials, lmtp, timeouts), world)
        await opening.connect()
        await opening.greet()
        await opening.enter()
        return cls(opening)

    @property
    def transcript(self) -> tuple[Line, ...]:
        """Of the transaction under way or, before the first one, of the opening."""
        return tuple(self._channel.transcript)

    @property
    def idle(self) -> bool:
        """Whether it looks fit for another transaction. A server that hangs up unseen shows only when written to."""
        return self._channel.idle

    async def send(self, mail: Mail, content: bytes, answered: Callable[[], None] = _unheard) -> Dialogue:
        """One transaction; `content` has CRLF line ends only. Raises Gone, and only on a connection used before.

        `answered` is called as soon as the server has answered MAIL, or need not be asked: it is well.
        """
        channel = self._channel
        self.transactions += 1
        if self.transactions > 1:
            channel.transcript = []
            channel.note(f"connection reused (transaction {self.transactions})")
        refusal = self._unfit(mail, content)
        if refusal is not None:
            channel.note(f"not sent: {refusal.detail}")
            answered()
            answers = (refusal,) * len(mail.recipients)
        else:
            commands = (self._mail(mail, content), *(f"RCPT TO:<{recipient}>" for recipient in mail.recipients))
            transaction = _Transaction(
                channel,
                self._timeouts,
                commands,
                answered,
                pipelining="PIPELINING" in self._extensions,
                lmtp=self._lmtp,
            )
            answers = await transaction.run(content, reset=self._reset_due, reused=self.transactions > 1)
            self._reset_due = transaction.begun
        return Dialogue(
            answers, self.transcript, channel.tls, channel.idle, self._downgrade, new=self.transactions == 1
        )

    async def rehearse(self, mail: Mail) -> tuple[Answer, ...]:
        """MAIL, each RCPT, and RSET in place of DATA: what was answered to each, as far as the connection held.

        Without a recipient it is for `<postmaster>`, which every server has (RFC 5321 4.5.1).
        """
        commands = [(Stage.MAIL, self._mail(mail, b""))]
        commands += [(Stage.RCPT, f"RCPT TO:<{recipient}>") for recipient in mail.recipients or ("postmaster",)]
        answers: list[Answer] = []
        try:
            for stage, command in (*commands, (Stage.DATA, "RSET")):
                self._channel.say(command)
                answers.append(Answer(stage, await self._channel.reply(self._timeouts.mail)))
        except Broken as broken:
            answers.append(Answer(stage, None, broken.detail))
        except Said as said:
            answers.append(Answer(stage, said.reply))
        return tuple(answers)

    async def quit(self) -> None:
        """QUIT, and the connection is closed, answered or not."""
        try:
            self._channel.say("QUIT")
            await self._channel.reply(self._timeouts.quit)
            await self._channel.close(self._timeouts.quit)
        except (Broken, Said):
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

    def __init__(
        self,
        channel: Channel,
        timeouts: Timeouts,
        commands: Sequence[str],
        answered: Callable[[], None],
        *,
        pipelining: bool,
        lmtp: bool,
    ) -> None:
        self.begun = False
        """The server holds an envelope, until RSET."""
        self._channel = channel
        self._timeouts = timeouts
        self._mail, *self._rcpts = commands
        self._answered = answered
        self._pipelining = pipelining
        self._lmtp = lmtp
        self._stage = Stage.MAIL
        self._heard = False
        self._answers: list[Answer | None] = [None] * len(self._rcpts)

    async def run(self, content: bytes, *, reset: bool, reused: bool) -> tuple[Answer, ...]:
        """The answer to each RCPT. Raises Gone if `reused`."""
        # A kept connection whose server has died says nothing; a living one may have the whole time on a new one.
        mail = min(self._timeouts.mail, self._timeouts.patience) if reused else self._timeouts.mail
        try:
            await self._converse(content, reset, mail)
        except Broken as broken:
            self._channel.fail(broken.detail)
            if reused and not self._heard:
                raise Gone(tuple(self._channel.transcript)) from None
            self._settle(Answer(self._stage, None, broken.detail))
        except Said as said:
            if reused and not self._heard:
                raise Gone(tuple(self._channel.transcript)) from None
            self._settle(Answer(self._stage, said.reply))
        return tuple(answer for answer in self._answers if answer is not None)

    async def _converse(self, content: bytes, reset: bool, mail: float) -> None:
        """Settles every recipient, or raises Broken or Said at `_stage`. `mail`: seconds for RSET and MAIL."""
        if self._pipelining:
            self._channel.say(*(("RSET",) if reset else ()), self._mail, *self._rcpts, "DATA")
        if reset:
            reply = await self._ask("RSET", mail)
            if not reply.completed:
                raise Broken(f"RSET was refused ({reply})")
        reply = await self._ask(self._mail, mail)
        self._heard = True
        self._answered()
        self.begun = reply.completed
        if not self.begun:
            self._settle(Answer(Stage.MAIL, reply))
            if not self._pipelining:
                return
        self._stage = Stage.RCPT
        taken = []
        for number, command in enumerate(self._rcpts):
            reply = await self._ask(command, self._timeouts.rcpt)
            if reply.completed:
                taken.append(number)
            elif self._answers[number] is None:
                self._answers[number] = Answer(Stage.RCPT, reply)
        if not taken and not self._pipelining:
            return
        self._stage = Stage.DATA
        reply = await self._ask("DATA", self._timeouts.data)
        if reply.code != 354:
            if reply.positive or self._channel.astray:
                self._astray("the server answered DATA with neither 354 nor a refusal" if reply.positive else ASTRAY)
            if reply.permanent and self.begun and taken:
                await self._in_step()
            self._settle(Answer(Stage.DATA, reply))
        elif self.begun and taken:
            await self._send(content, taken)
            self.begun = False
        elif taken:
            # A dot would now send an empty message to these recipients.
            self._channel.fail("the server took recipients of a sender that it refused")
        elif self._lmtp:
            # RFC 2033 4.2: DATA must fail without recipients; nobody knows how it would answer the dot.
            self._channel.fail("the server accepted DATA though it refused every recipient")
        else:
            self._channel.say(".")  # RFC 2920 3.1: the server accepted DATA though it refused every recipient
            await self._channel.reply(self._timeouts.content)
            self.begun = False

    async def _in_step(self) -> None:
        """Makes sure that a refusal of DATA, which fails mail for good, was not a stray reply before a late 354.

        RSET, which is due before the next transaction anyway, would now be answered by that 354. Raises Broken.
        """
        try:
            self._channel.say("RSET")
            reply = await self._channel.reply(self._timeouts.quit)
        except (Broken, Said):
            return  # many a server hangs up after a refusal, and that is no doubt
        if reply.code == 354:
            self._astray(ASTRAY)
        self.begun = not reply.completed

    def _astray(self, why: str) -> NoReturn:
        """Each reply may have been meant for the command before, so none of them settles anything. Raises Broken."""
        self._answers = [None] * len(self._rcpts)
        raise Broken(why)

    async def _ask(self, command: str, seconds: float) -> Reply:
        """The reply to a command, sent now unless it left in the pipelined write. Raises Broken, Said."""
        if not self._pipelining:
            self._channel.say(command)
        reply = await self._channel.reply(seconds)
        if reply.code == 421:
            raise Said(reply)
        return reply

    async def _send(self, content: bytes, taken: Sequence[int]) -> None:
        """Settles those that were taken: all by one reply, in LMTP each by its own.

        Raises Broken, at stage DATA as long as the final dot was not sent; in LMTP Said too.
        """
        stuffed = wire.stuff(content)
        large = len(stuffed) > CHUNK
        with self._channel.held() if large else nullcontext():
            whole = await self._channel.content(
                stuffed, len(content), len(taken) if self._lmtp else 1, self._timeouts.block
            )
            if whole:
                self._stage = Stage.CONTENT
            # A server that spoke before the end spoke of the message, not of a recipient.
            shares = [[number] for number in taken] if self._lmtp and whole else [taken]
            refused = False
            for share in shares:
                reply = await self._channel.reply(self._timeouts.content)
                if not whole and reply.positive:
                    raise Broken(f"the server answered before the end of the message ({reply})")
                for number in share:
                    self._answers[number] = Answer(Stage.CONTENT, reply)
                if reply.code == 421:
                    raise Said(reply)
                refused = refused or not reply.completed
        if large and refused:
            # It may have answered early, with content of ours still on its way: the two could be out of step.
            self._channel.fail("connection given up after the refusal")

    def _settle(self, answer: Answer) -> None:
        """For every recipient that has no answer yet."""
        self._answers = [settled or answer for settled in self._answers]


def _our(code: int, enhanced: str, why: str) -> Answer:
    return Answer(
        Stage.MAIL, Reply(code, enhanced, f"{why[0].upper()}{why[1:]}"), f"not sent by smtproute: {why}", ours=True
    )
