"""The Door of a session: permission and routing at RCPT, verdicts and the commit at DATA."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import partial
from typing import Protocol, assert_never

from smtproute.core.address import Address, AddressError
from smtproute.core.envelope import Client, Envelope
from smtproute.core.event import Emit, Event, Happening
from smtproute.core.login import Login
from smtproute.core.message import Span, fields, header_end
from smtproute.core.plan import Delivery, Plan, Tried, distinct, holdings, planned, set_aside
from smtproute.core.policy import refusal
from smtproute.core.proxy import queued
from smtproute.core.reply import Refusal, Reply
from smtproute.core.seals import excluded
from smtproute.core.settings import Limits, Listener, ReplyAfter, Role, Settings
from smtproute.core.snapshot import Snapshot
from smtproute.core.transcript import Arrow, Line, plain
from smtproute.core.verdict import Disposition, Judged
from smtproute.intake.facts import Usage, decided
from smtproute.intake.passwords import PasswordFault, Passwords
from smtproute.mailauth.header import looked
from smtproute.mailauth.results import forged, resinfo
from smtproute.smtp.wire import ContentRefused
from smtproute.spool.queue import LARGEST_ROW, Accepted, Message, Spool, SpoolFailed, SpoolFull, Staged
from smtproute.world import World

__all__ = ["InFlight", "Intake", "IntakeDoor", "Waiting"]

MAX_COPIES = 5000
"""Copies of one message, all aliases expanded; further recipients want a transaction of their own."""
MAX_HOPS = 50
"""`Received` fields (Postfix hopcount_limit)."""

_OK = Reply(250, "2.1.0", "Ok")
_NO_ROOM = Reply(452, "4.3.1", "No room for the message now: try again later")
_NOT_NOW = Reply(451, "4.3.0", "The message could not be stored: try again later")
_TOO_MANY_HOPS = Reply(554, "5.4.6", f"Too many hops: more than {MAX_HOPS} Received fields, the mail is in a loop")
_TOO_MANY = Reply(452, "4.5.3", "These recipients stand for too many: send to the others in another transaction")
_NO_LOGIN = Reply(535, "5.7.8", "Authentication failed: check the name and the password")
_NO_LOGIN_NOW = Reply(454, "4.7.0", "The password cannot be checked now: try again later")
_TOLD = 10
"""Recipients that the event of a refused message names."""
_HEADER_TOO_LARGE = Reply(554, "5.6.0", f"The header section is larger than {LARGEST_ROW} octets")

Judge = Callable[[bytes, Envelope, Settings], Awaitable[Judged]]
"""Gathers the verdicts on a message, and what follows. Whatever it holds, they come out."""
Explain = Callable[[Envelope, Address], Awaitable[tuple[Reply, Sequence[str]]]]
"""What RCPT would answer, and the lines that explain it."""


class Waiting(Protocol):
    """A client that waits for what the next hops say of its message (`ReplyAfter.DELIVERED`)."""

    async def reply(self, seconds: float) -> Reply:
        """What it hears, after so many seconds at the latest. After a refusal the message is not ours any more."""
        ...

    def hurry(self) -> None:
        """It waits no longer: the message is queued, unless that was decided otherwise already."""
        ...


class InFlight:
    """Octets of content that all sessions together hold in memory."""

    def __init__(self) -> None:
        self.octets = 0

    def take(self, octets: int, limits: Limits) -> bool:
        """Whether there was room for so many more."""
        if self.octets + octets > limits.in_flight:
            return False
        self.octets += octets
        return True

    def give_back(self, octets: int) -> None:
        self.octets -= octets


@dataclass(frozen=True, slots=True)
class Intake:
    """What all doors share."""

    snapshot: Callable[[], Snapshot]
    spool: Spool
    usage: Usage
    passwords: Passwords
    judge: Judge
    explain: Explain
    cpu: Executor
    wait: Callable[[str, Sequence[Delivery]], Waiting]
    """A client begins to wait for what becomes of the message with this queue id: before it is committed."""
    tasks: asyncio.TaskGroup
    """Owns the commits, so that they outlive a session whose client is gone."""
    in_flight: InFlight
    world: World
    emit: Emit

    def door(self, listener: Listener) -> IntakeDoor:
        """A door for one new session (`smtp.door.Doors`)."""
        return IntakeDoor(self, listener)


@dataclass(slots=True)
class _Transaction:
    snapshot: Snapshot
    envelope: Envelope
    plans: dict[Address | None, Plan]
    """By recipient as written: one that is named twice gets one plan."""


@dataclass(frozen=True, slots=True)
class _Header:
    """What the door wants to know of a header section."""

    hops: int
    """`Received` fields."""
    separator: bytes
    """The blank line that a message without a header section lacks, as Postfix cleanup(8) adds it.

    Without it our own header fields would run into the body.
    """
    forged: tuple[Span, ...]

    @classmethod
    def of(cls, content: bytes, hostname: str) -> _Header:
        """CPU bound."""
        header = fields(content)
        hops = sum(each.name == b"received" for each in header)
        separator = b"" if header or content.startswith(b"\r\n") else b"\r\n"
        return cls(hops, separator, forged(content, hostname))


@dataclass(slots=True)
class _Taken:
    """Content as far as it was read: the head, or the whole; and where the rest went."""

    held: bytearray
    whole: bool
    """`held` is all of it."""
    size: int = 0
    staged: Staged | None = None


class IntakeDoor:
    """Implements `smtp.door.Door`."""

    def __init__(self, intake: Intake, listener: Listener) -> None:
        self._intake = intake
        self._listener = listener
        self._transaction: _Transaction | None = None
        self._waiting: Waiting | None = None
        self._hurried = False

    async def connect(self, client: Client) -> Reply:
        return Reply(220, "", f"{self._intake.snapshot().settings.hostname} ESMTP smtproute")

    async def login(self, client: Client, name: str, password: bytes) -> Login | Reply:
        logins = self._intake.snapshot().logins
        try:
            login = await self._intake.passwords.login(logins, name, password, client.ip)
        except PasswordFault as fault:
            return self._not_logged_in(client, name, Refusal(_NO_LOGIN_NOW, "passwords", str(fault)))
        if login is None:
            return self._not_logged_in(client, name, Refusal(_NO_LOGIN, "passwords", "wrong name or password"))
        return login

    async def mail(self, envelope: Envelope) -> Reply:
        self._transaction = _Transaction(self._intake.snapshot(), envelope, {})
        return _OK

    async def rcpt(self, recipient: Address | None) -> Reply:
        transaction = self._open()
        again = transaction.plans.get(recipient)
        if again is not None:
            return again.reply
        routing, now = transaction.snapshot.routing, self._intake.world.clock.now()
        plan = await decided(routing, self._intake.usage, transaction.envelope, recipient, now)
        copies = sum(len(each.deliveries) for each in transaction.plans.values()) + len(plan.deliveries)
        if plan.refusal is not None:
            self._refused(transaction.envelope, str(plan.recipient), plan.refusal)
        elif copies > MAX_COPIES and transaction.plans:
            self._refused(transaction.envelope, str(plan.recipient), Refusal(_TOO_MANY, "intake", f"{copies} copies"))
            return _TOO_MANY
        else:
            # What did not match is `explain`'s to tell; a wide alias would keep thousands of such steps.
            steps = tuple(step for step in plan.steps if step.result is Tried.MATCHED)
            transaction.plans[recipient] = replace(plan, steps=steps)
        return plan.reply

    def reset(self) -> None:
        self._transaction = None

    def hurry(self) -> None:
        self._hurried = True
        if self._waiting is not None:
            self._waiting.hurry()

    async def explain(self, client: Client, address: Address) -> Reply:
        transaction = self._transaction
        envelope = transaction.envelope if transaction is not None else Envelope(client, None)
        reply, lines = await self._intake.explain(envelope, address)
        return Reply(reply.code, reply.enhanced, "\n".join(lines))

    async def data(self, content: AsyncIterator[bytes], transcript: Callable[[], Sequence[Line]]) -> Reply:
        transaction = self._open()
        self._transaction = None
        queue_id = self._intake.world.queue_id()
        try:
            reply = await self._received(queue_id, transaction, content, transcript)
            if reply.positive and self._waiting is not None:
                reply = await self._answered(queue_id, self._waiting)
        finally:
            if self._waiting is not None:
                self._waiting.hurry()
                self._waiting = None
        return reply

    async def _received(
        self,
        queue_id: str,
        transaction: _Transaction,
        content: AsyncIterator[bytes],
        transcript: Callable[[], Sequence[Line]],
    ) -> Reply:
        """Takes the message; positive if it is durable."""
        taken = _Taken(bytearray(), whole=True)
        try:
            reply = await self._take(taken, content, queue_id, transaction.snapshot.settings.limits)
            if reply is None:
                reply = await self._keep(queue_id, transaction, taken, transcript)
            else:
                self._refused(transaction.envelope, "", Refusal(reply, "intake", f"after {taken.size} octets"))
        except ContentRefused as refused:
            reply = refused.reply  # the session has told
        except SpoolFull as full:
            reply = self._failed(transaction, _NO_ROOM, full)
        except SpoolFailed as failed:
            reply = self._failed(transaction, _NOT_NOW, failed)
        finally:
            self._intake.in_flight.give_back(len(taken.held))
            if taken.staged is not None:
                with contextlib.suppress(SpoolFailed):  # what stays behind goes at the next start
                    await taken.staged.discard()
        return reply

    async def _answered(self, queue_id: str, waiting: Waiting) -> Reply:
        """What the client hears that waits for the next hops, and it is in the trace that it does."""
        reply = await waiting.reply(self._listener.proxy_timeout)
        event = Event(Happening.ANSWERED, self._intake.world.clock.now(), queue_id, facts={"reply": str(reply)})
        with contextlib.suppress(SpoolFailed):  # then the log alone has it
            await self._intake.spool.settle((), [event])
        self._intake.emit(event)
        return reply

    def _open(self) -> _Transaction:
        if self._transaction is None:
            raise AssertionError("the session asks for MAIL first")
        return self._transaction

    async def _take(self, taken: _Taken, content: AsyncIterator[bytes], queue_id: str, limits: Limits) -> Reply | None:
        """Reads the content to its end, or answers why it is not wanted."""
        intake = self._intake
        async for chunk in content:
            taken.size += len(chunk)
            if taken.staged is None or taken.whole:
                if not intake.in_flight.take(len(chunk), limits):
                    return _NO_ROOM
                taken.held += chunk
            if taken.staged is not None:
                await taken.staged.write(chunk)
            elif taken.size > LARGEST_ROW:
                head = bytes(taken.held)
                if header_end(head) == len(head):
                    return _HEADER_TOO_LARGE
                # Only signatures need the whole message in memory, to be verified.
                taken.whole = await looked(head, intake.cpu, _signed)
                taken.staged = intake.spool.stage(queue_id)
                await taken.staged.write(head)
        return None

    async def _keep(
        self,
        queue_id: str,
        transaction: _Transaction,
        taken: _Taken,
        transcript: Callable[[], Sequence[Line]],
    ) -> Reply:
        """Judges the message and commits it; the positive reply is only given once it is durable.

        A client that is to wait for the next hops waits from before the commit on.
        """
        intake, envelope = self._intake, transaction.envelope
        settings = transaction.snapshot.settings
        held = bytes(taken.held)
        header = await looked(held, intake.cpu, partial(_Header.of, hostname=str(settings.hostname)))
        if header.hops > MAX_HOPS:
            self._refused(envelope, "", Refusal(_TOO_MANY_HOPS, "intake", f"{header.hops} Received fields"))
            return _TOO_MANY_HOPS
        judged = await self._judged(held, envelope, settings)
        now = intake.world.clock.now()
        faults = [
            Event(Happening.FAULT, now, queue_id, facts={"where": "verdict", "detail": detail})
            for detail in judged.faults
        ]
        if judged.deferred or judged.disposition is Disposition.REJECT:
            for event in faults:
                intake.emit(event)
            return self._rejected(transaction, judged)
        plans = tuple(transaction.plans.values())
        deliveries, aside = distinct(plans), ""
        match judged.disposition:
            case Disposition.NONE:
                pass
            case Disposition.QUARANTINE:
                deliveries, aside = set_aside(deliveries), f"DMARC: {judged.reason}"
            case _:
                assert_never(judged.disposition)
        message = Message(
            id=queue_id,
            received_at=now,
            envelope=envelope,
            size=taken.size,
            trace_header=received_field(queue_id, envelope, plans, str(settings.hostname), now) + header.separator,
            forged=header.forged,
            verdicts=judged.verdicts,
        )
        reply = queued(queue_id)
        said = [_said(reply, envelope, now)]
        if self._listener.reply is ReplyAfter.DELIVERED and not self._hurried:
            self._waiting = intake.wait(queue_id, deliveries)
            said = []
        accepted = Accepted(
            message,
            taken.staged if taken.staged is not None else held,
            deliveries,
            [
                *_events(message, plans, [*transcript(), *said], judged),
                *faults,
                *holdings(deliveries, queue_id, now, aside),
            ],
        )
        # The commit must not die with the session: a client that is gone may still have its mail delivered.
        failure = await asyncio.shield(intake.tasks.create_task(self._commit(accepted)))
        if failure is not None:
            raise failure
        for event in accepted.events:
            intake.emit(event)
        return reply

    async def _judged(self, content: bytes, envelope: Envelope, settings: Settings) -> Judged:
        """What is found about the message; nothing where nobody would read it."""
        client = envelope.client
        ours = client.trusted or client.login is not None
        if client.role is not Role.INBOUND and ours and excluded(settings, client):
            return Judged()
        return await self._intake.judge(content, envelope, settings)

    def _rejected(self, transaction: _Transaction, judged: Judged) -> Reply:
        """Refuses a message whose author's domain asks for that, or may, for now."""
        reply = refusal(judged)
        recipients = [str(plan.recipient) for plan in transaction.plans.values()]
        if len(recipients) > _TOLD:
            recipients[_TOLD:] = [f"and {len(recipients) - _TOLD} more"]
        found = " ".join(resinfo(str(transaction.snapshot.settings.hostname), judged.verdicts))
        self._refused(transaction.envelope, ", ".join(recipients), Refusal(reply, "policy", found))
        return reply

    async def _commit(self, accepted: Accepted) -> Exception | None:
        """What went wrong is answered, not raised: the session raises it again, inside its verb."""
        try:
            await self._intake.spool.accept(accepted)
        except Exception as failed:  # noqa: BLE001 - the boundary around the verb, carried over to its task
            return failed
        return None

    def _refused(self, envelope: Envelope, recipient: str, refusal: Refusal) -> None:
        facts = {
            "listener": self._listener.name,
            "client": envelope.client.ip,
            "sender": str(envelope.reverse_path or ""),
            "recipient": recipient,
            "reply": str(refusal.reply),
            "says": refusal.says,
            "why": refusal.detail,
        }
        self._intake.emit(Event(Happening.REFUSED, self._intake.world.clock.now(), facts=facts))

    def _not_logged_in(self, client: Client, name: str, refusal: Refusal) -> Reply:
        """Makes it known who tried to log in, unless it is no address: then it may be the password, misplaced."""
        try:
            shown = str(Address.parse(name))
        except AddressError:
            shown = "[no address]"
        facts = {
            "listener": self._listener.name,
            "client": client.ip,
            "login": shown,
            "reply": str(refusal.reply),
            "says": refusal.says,
            "why": refusal.detail,
        }
        self._intake.emit(Event(Happening.REFUSED, self._intake.world.clock.now(), facts=facts))
        return refusal.reply

    def _failed(self, transaction: _Transaction, reply: Reply, failure: SpoolFailed) -> Reply:
        self._refused(transaction.envelope, "", Refusal(reply, "spool", str(failure)))
        return reply


def received_field(queue_id: str, envelope: Envelope, plans: Sequence[Plan], hostname: str, now: float) -> bytes:
    """Our Received field (RFC 5321 4.4, RFC 3848).

    `for` is only written for a single recipient, to betray none; nor is the login, which may be another address than
    the sender (Postfix smtpd_sasl_authenticated_header = no).
    """
    client = envelope.client
    literal = client.helo.startswith("[") and client.helo.endswith("]")
    special = '()<>@,;\\"' if literal else '()<>@,;:\\"[]'
    helo = "".join(octet if "!" <= octet <= "~" and octet not in special else "?" for octet in client.helo)
    ip = f"IPv6:{client.ip}" if ":" in client.ip else client.ip
    protocol = "ESMTP" if client.esmtp else "SMTP"
    if envelope.smtputf8:
        protocol = f"UTF8{protocol.removeprefix('E')}"
    secured = ("S" if client.tls else "") + ("A" if client.login is not None else "")
    lines = [
        f"Received: from {helo or 'unknown'} ([{ip}])",
        f"\tby {hostname} with {protocol}{secured} id {queue_id}",
    ]
    if len(plans) == 1:
        lines.append(f"\tfor <{plans[0].recipient}>")
    lines[-1] += f"; {formatdate(now)}"
    return "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n"


def _said(reply: Reply, envelope: Envelope, at: float) -> Line:
    """The reply as the transcript has it: it is committed with the message, so it is there if it was given."""
    return Line(Arrow.SENT_TLS if envelope.client.tls else Arrow.SENT, at, str(reply))


def _signed(content: bytes) -> bool:
    """Whether there may be signatures to verify. CPU bound."""
    return any(each.name in (b"arc-seal", b"dkim-signature") for each in fields(content))


def _events(message: Message, plans: Sequence[Plan], transcript: Sequence[Line], judged: Judged) -> list[Event]:
    envelope, client = message.envelope, message.envelope.client

    def event(what: Happening, **facts: object) -> Event:
        return Event(what, message.received_at, message.id, facts=facts)

    received = event(
        Happening.RECEIVED,
        listener=client.listener,
        role=str(client.role),
        trusted=client.trusted,
        client=client.ip,
        helo=client.helo,
        tls=client.tls,
        login=str(client.login or ""),
        named=client.named,
        sender=str(envelope.reverse_path or ""),
        size=message.size,
        forged=len(message.forged),
        transcript=plain(transcript),
    )
    found = event(
        Happening.VERDICT,
        verdicts=[str(verdict) for verdict in judged.verdicts],
        disposition=str(judged.disposition),
        reason=judged.reason,
    )
    plans_told = [planned(plan, message.id, message.received_at) for plan in plans]
    return [received, *plans_told, *([found] if judged.verdicts else ())]
