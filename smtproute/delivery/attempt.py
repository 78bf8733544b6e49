"""Attempt: one try at bringing a job to its next hop, and the report of what became of each delivery in it."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import assert_never

from smtproute.core.address import Address
from smtproute.core.choice import Candidate, Choice
from smtproute.core.decide import relay_of
from smtproute.core.event import Event, Happening
from smtproute.core.message import apply
from smtproute.core.outcome import Answer, Judgement, Outcome, Result, judge, too_many, unwell
from smtproute.core.providers import Advice, explained
from smtproute.core.quota import UNLIMITED
from smtproute.core.relays import names_relay
from smtproute.core.reply import Refusal, Reply
from smtproute.core.retry import next_attempt
from smtproute.core.seals import Seal, plan_seal
from smtproute.core.settings import Endpoint, Kind, Store
from smtproute.core.signatures import Signatures, bounce_signatures, plan_signatures, unsigned
from smtproute.core.snapshot import Snapshot
from smtproute.core.transcript import plain
from smtproute.delivery.bounce import bounce
from smtproute.delivery.endpoint import Endpoints
from smtproute.delivery.lmtp import lmtp_copy, lmtp_endpoint
from smtproute.delivery.maildir import MailboxFailed, Maildir
from smtproute.delivery.outgoing import Copy, Outgoing, mailbox_edit
from smtproute.smtp.client import Dialogue, Mail
from smtproute.smtp.pool import NobodyReached, Pool
from smtproute.spool.queue import Accepted, Entry, Message, Spool, SpoolFailed
from smtproute.world import World

__all__ = ["Attempts", "Job", "Report"]

_BROKEN = Reply(451, "4.3.0", "Internal error: it will be tried again")
_GONE = Reply(451, "4.3.5", "The endpoint is not configured any more")
_UNREACHED = Reply(451, "4.4.1", "No server took the message")
_AMBIGUOUS = Reply(451, "4.4.2", "The message was sent, and the answer to it was lost")
_KEPT = Refusal(Reply(250, "2.0.0", "captured"), "spool")
_TOLD = 10
"""Servers of one kind that an error names: those that were tried, passed over, or not found."""


@dataclass(slots=True)
class Job:
    """Deliveries of one message that one transaction can carry, or that stay in the house together."""

    message: Message
    entries: list[Entry]
    sender: Address | None
    """The reverse-path that they leave with: that of the message, unless they are forwards (SRS)."""
    seal: Seal
    unrewritten: str = ""
    """Why that sender is the message's own, where it should have been rewritten."""


@dataclass(slots=True)
class Report:
    """What the attempt at one job came to."""

    outcomes: list[tuple[Entry, Outcome]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    """What happened before the outcomes."""
    told: list[Event] = field(default_factory=list)
    """Whether and how the sender was told of a failure."""
    bounces: list[Accepted] = field(default_factory=list)
    captured: bool = False

    def clear(self) -> None:
        """Forgets what was settled."""
        self.outcomes, self.events, self.told, self.bounces = [], [], [], []

    def parted(self) -> tuple[Report, Report]:
        """What was delivered, and what was not. What happened before goes with the deliveries, if there are any."""
        delivered = [each for each in self.outcomes if each[1].result is Result.DELIVERED]
        failed = [each for each in self.outcomes if each[1].result is not Result.DELIVERED]
        if not delivered:
            return Report(), Report(failed, self.events)
        return Report(delivered, self.events, captured=self.captured), Report(failed)

    def all_events(self, now: float) -> list[Event]:
        """What happened, what became of each delivery, who was told."""
        ended = [_ended(entry, outcome, now) for entry, outcome in self.outcomes]
        return [*self.events, *ended, *self.told]


Settle = Callable[[Job, Report], Awaitable[None]]
"""Commits what a report holds."""
LookOver = Callable[[Job], Awaitable[None]]
"""Takes out of a job what an operator has held or removed while it waited."""


class Attempts:
    """Makes attempts. What it learns of servers, `Endpoints` keeps."""

    def __init__(
        self,
        *,
        snapshot: Callable[[], Snapshot],
        spool: Spool,
        endpoints: Endpoints,
        outgoing: Outgoing,
        pool: Pool,
        maildir: Maildir,
        world: World,
    ) -> None:
        self._snapshot = snapshot
        self._spool = spool
        self._endpoints = endpoints
        self._outgoing = outgoing
        self._pool = pool
        self._maildir = maildir
        self._world = world
        self._doubts = 0
        """How many changes by an operator were heeded."""

    async def attempt(self, job: Job, settle: Settle, look_over: LookOver) -> None:
        """One attempt at a job; every outcome goes to `settle`, some before others.

        Where the attempt has to wait before it begins, `look_over` is asked then.
        """
        report = Report()
        with self._guarded(job, report):
            await self._deliver(job, report, settle, look_over)
        if job.entries:
            await settle(job, report)

    @contextmanager
    def _guarded(self, job: Job, report: Report) -> Iterator[None]:
        """What breaks an attempt is a temporary failure of what has no outcome."""
        try:
            yield
        except Exception as fault:  # noqa: BLE001 - around an attempt
            detail = "".join(traceback.format_exception(fault))
            facts = {"where": "attempt", "detail": detail}
            report.events.append(Event(Happening.FAULT, self._world.clock.now(), job.message.id, facts=facts))
            # A failure of which no sender is told is no outcome yet.
            report.outcomes = [each for each in report.outcomes if each[1].result is not Result.FAILED]
            settled = {entry.number for entry, _ in report.outcomes}
            refusal = Refusal(_BROKEN, "smtproute", f"{type(fault).__name__}: {fault}")
            report.outcomes += [
                (entry, self._deferred(entry, refusal)) for entry in job.entries if entry.number not in settled
            ]

    async def _deliver(self, job: Job, report: Report, settle: Settle, look_over: LookOver) -> None:
        kind = job.entries[0].delivery.kind
        match kind:
            case Kind.MAILBOX:
                await self._to_mailboxes(job, report, settle, look_over)
            case Kind.CAPTURE:
                report.captured = True
                report.outcomes += [(entry, Outcome(Result.DELIVERED, _KEPT)) for entry in job.entries]
            case Kind.BOUNCE:
                report.outcomes += [(entry, _dead(entry)) for entry in job.entries]
            case Kind.ENDPOINT:
                await self._to_endpoint(job, report, settle, look_over)
            case _:
                assert_never(kind)

    async def tell(self, job: Job, report: Report) -> None:
        """Makes the DSN for what failed for good; without the original where that cannot be read."""
        failed = [(entry, outcome) for entry, outcome in report.outcomes if outcome.result is Result.FAILED]
        if not failed:
            return
        try:
            original = await self._spool.content(job.message.id)
        except SpoolFailed:
            original = b""
        with self._guarded(replace(job, entries=[entry for entry, _ in failed]), report):
            accepted, event = bounce(failed, original, self._snapshot().routing, self._world)
            report.told = [event]
            report.bounces += [accepted] if accepted is not None else []

    async def _to_mailboxes(self, job: Job, report: Report, settle: Settle, look_over: LookOver) -> None:
        store = self._snapshot().settings.accounts.store
        match store:
            case Store.MAILDIR:
                await self._to_maildir(job, report)
            case Store.LMTP:
                await self._to_endpoint(job, report, settle, look_over)
            case _:
                assert_never(store)

    async def _to_maildir(self, job: Job, report: Report) -> None:
        hostname = str(self._snapshot().settings.hostname)
        content = await self._spool.content(job.message.id)
        for entry in job.entries:
            mailbox = entry.delivery.mailbox
            assert mailbox is not None
            name = f"{int(job.message.received_at)}.{job.message.id}_{entry.number}.{hostname}"
            account = self._snapshot().routing.mailboxes.get(mailbox.key)
            quota = account.quota if account is not None else UNLIMITED
            copied = apply(mailbox_edit(entry, hostname), content)
            try:
                file = await self._maildir.deliver(mailbox, name, copied, quota, junk=entry.delivery.junk)
            except MailboxFailed as failed:
                report.outcomes.append((entry, self._judged(entry, failed.refusal)))
            else:
                kept = Refusal(Reply(250, "2.0.0", "delivered to the mailbox"), "maildir", file)
                report.outcomes.append((entry, Outcome(Result.DELIVERED, kept)))

    def _endpoint(self, job: Job) -> Endpoint | None:
        """The endpoint of the plan, as it is configured now.

        A relay's name is its next hop: where that was edited, its sender's relay now.
        """
        snapshot = self._snapshot()
        delivery = job.entries[0].delivery
        if delivery.kind is Kind.MAILBOX:
            accounts = snapshot.settings.accounts
            return lmtp_endpoint(accounts) if accounts.lmtp is not None else None
        name = delivery.endpoint
        if names_relay(name) and name not in snapshot.settings.endpoints:
            name, _ = relay_of(snapshot.routing, job.sender, []) or ("", "")
        return snapshot.settings.endpoints.get(name)

    async def _to_endpoint(self, job: Job, report: Report, settle: Settle, look_over: LookOver) -> None:
        """To an endpoint, or to the LMTP server that has the mailboxes.

        The configuration, and what an operator wants, may have changed after each wait: both are asked again.
        """
        endpoint = self._endpoint(job)
        if endpoint is not None and await self._pool.turn(endpoint):
            await look_over(job)
        waited = False
        while job.entries:
            endpoint = self._endpoint(job)
            delivery = job.entries[0].delivery
            if endpoint is None:
                refusal = Refusal(_GONE, delivery.place, "it was removed from the configuration")
                report.outcomes += [(entry, self._deferred(entry, refusal)) for entry in job.entries]
                return
            if self._spool.doubts != self._doubts:
                self._doubts = self._spool.doubts
                self._endpoints.forget()  # who retries a message wants it tried
            async with self._endpoints.chosen(endpoint, delivery.address.domain) as choice:
                if choice.candidates or not choice.awaited or waited:
                    await self._to_candidates(job, endpoint, choice, report, settle)
                    return
            await self._endpoints.probe_ended(endpoint)
            await look_over(job)
            waited = True

    async def _to_candidates(
        self, job: Job, endpoint: Endpoint, choice: Choice, report: Report, settle: Settle
    ) -> None:
        if choice.refusal is None and choice.candidates:
            copy = await self._copy(job, endpoint, report)
            await self._failover(job, endpoint, choice, copy, report, settle)
            return
        refusal = choice.refusal or Refusal(_UNREACHED, f"endpoint {endpoint.name}", _nobody(choice, ()))
        report.outcomes += [(entry, self._judged(entry, refusal)) for entry in job.entries]

    async def _copy(self, job: Job, endpoint: Endpoint, report: Report) -> Copy:
        """What leaves for an endpoint."""
        snapshot = self._snapshot()
        settings = snapshot.settings
        content = await self._spool.content(job.message.id)
        if endpoint.lmtp:
            junk = job.entries[0].delivery.junk  # one message, one judgement
            return lmtp_copy(job.message, content, str(settings.hostname), junk=junk)
        envelope, seal = job.message.envelope, job.seal
        signatures = Signatures(reason=unsigned(settings, envelope.client))
        by_author = seal.wanted and settings.arc.by_author
        if job.message.bounce:
            signatures = bounce_signatures(settings)
        elif by_author or not signatures.reason:
            author = await self._outgoing.author(content)
            signatures = plan_signatures(settings, snapshot.routing.aliases, envelope, author)
            if by_author:
                seal = plan_seal(settings, envelope, job.entries[0].delivery, author.domain)
        copy = await self._outgoing.copy(job.message, content, signatures, seal, settings)
        for what, why in ((Happening.UNSIGNED, copy.unsigned), (Happening.UNSEALED, copy.unsealed)):
            if why:
                facts = {"endpoint": endpoint.name, "why": why}
                report.events.append(Event(what, self._world.clock.now(), job.message.id, facts=facts))
        return copy

    async def _failover(
        self, job: Job, endpoint: Endpoint, choice: Choice, copy: Copy, report: Report, settle: Settle
    ) -> None:
        """Sends to the first server that is reached, and to the next what that one has not answered for good."""
        message = job.message
        eight_bit = not copy.content.isascii()
        waiting = list(job.entries)
        said: dict[int, list[tuple[Candidate, Answer]]] = {entry.number: [] for entry in waiting}
        candidates = list(choice.candidates)
        while waiting and candidates:
            recipients = tuple(each.delivery.address for each in waiting)
            mail = Mail(job.sender, recipients, eight_bit, message.envelope.smtputf8)
            left = waiting
            for candidate, dialogue in await self._dialogues(endpoint, candidates, mail, copy.content, choice.at):
                self._learn(endpoint, candidate, dialogue)
                report.events.append(self._dialogue(job, endpoint, candidate, copy, waiting, dialogue))
                if dialogue.new and dialogue.downgrade:
                    report.events.append(self._downgraded(job, endpoint, candidate, dialogue.downgrade))
                candidates.remove(candidate)
                left = []
                for entry, answer in zip(waiting, dialogue.answers, strict=True):
                    said[entry.number].append((candidate, answer))
                    outcome = self._answered(entry, candidate, answer)
                    if outcome is None:
                        left.append(entry)
                    else:
                        report.outcomes.append((entry, outcome))
                # A server that took some and wants the others in another transaction gets that at once.
                if len(left) < len(waiting) and any(too_many(said[entry.number][-1][1]) for entry in left):
                    candidates.insert(0, candidate)
            waiting = left
            if report.outcomes and waiting and candidates:
                # The next server may take its time: what this one took must not wait for it, nor be sent again.
                await settle(job, report)
                job.entries = waiting
                report.clear()
        for entry in waiting:
            report.outcomes.append((entry, self._nobody_took(entry, endpoint, choice, said[entry.number])))

    async def _dialogues(
        self, endpoint: Endpoint, candidates: Sequence[Candidate], mail: Mail, content: bytes, at: float
    ) -> list[tuple[Candidate, Dialogue]]:
        """One transaction with the first candidate that is reached, and before it what came of those that were not."""
        try:
            well = partial(self._endpoints.answered, endpoint)
            sent = await self._pool.send(endpoint, candidates, mail, content, at, well)
            unreached, reached = sent.unreached, [(sent.candidate, sent.dialogue)]
        except NobodyReached as nobody:
            unreached, reached = nobody.unreached, []
        failed = [
            (candidate, Dialogue((why.answer,) * len(mail.recipients), why.transcript, "", usable=False))
            for candidate, why in unreached
        ]
        return failed + reached

    def _learn(self, endpoint: Endpoint, candidate: Candidate, dialogue: Dialogue) -> None:
        """Whether the server itself has failed. That it is well, the pool has told already."""
        failure = next((answer for answer in dialogue.answers if unwell(answer)), None)
        if failure is not None:
            self._endpoints.failed(endpoint, candidate, failure.told)

    def _nobody_took(
        self, entry: Entry, endpoint: Endpoint, choice: Choice, said: Sequence[tuple[Candidate, Answer]]
    ) -> Outcome:
        """The outcome where no candidate has answered for good; at least one was asked."""
        candidate, answer = said[-1]
        says, detail = f"endpoint {endpoint.name}", _nobody(choice, said)
        everywhere = {each.server for each in choice.looked} == {each.server for each, _ in said}
        if everywhere and answer.reply is not None and all(each.ours for _, each in said):
            # Every server there is lacks what the message needs: no later attempt would find another.
            return Outcome(Result.FAILED, Refusal(answer.reply, says, detail))
        # The last server's own words where it had some for us; else ours, and nobody is named as their source.
        own = answer.reply if answer.reply is not None and answer.reply.temporary else None
        refusal = Refusal(own or _UNREACHED, says, detail)
        return self._deferred(entry, refusal, _host(candidate) if own else "", _meaning(said))

    def _dialogue(
        self,
        job: Job,
        endpoint: Endpoint,
        candidate: Candidate,
        copy: Copy,
        waiting: list[Entry],
        dialogue: Dialogue,
    ) -> Event:
        facts = {
            "endpoint": endpoint.name,
            "server": str(candidate.server),
            "ip": candidate.ip,
            "source": str(candidate.source),
            "backup": candidate.backup,
            "tls": dialogue.tls,
            "downgrade": dialogue.downgrade,
            "failed": _failure(dialogue),
            "sender": str(job.sender or ""),
            "rewritten": job.sender != job.message.envelope.reverse_path,
            "unrewritten": job.unrewritten,
            "recipients": [entry.number for entry in waiting],
            "signed": [{"domain": str(key.domain), "selector": key.selector} for key in copy.signed],
            "sealed": str(copy.sealed.domain) if copy.sealed is not None else "",
            "removed": [list(span) for span in copy.edit.removed],
            "prepended": copy.edit.prepended.decode("latin-1"),
            "transcript": plain(dialogue.transcript),
        }
        return Event(Happening.ATTEMPT, self._world.clock.now(), job.message.id, facts=facts)

    def _downgraded(self, job: Job, endpoint: Endpoint, candidate: Candidate, why: str) -> Event:
        facts = {"endpoint": endpoint.name, "server": str(candidate.server), "ip": candidate.ip, "why": why}
        return Event(Happening.DOWNGRADED, self._world.clock.now(), job.message.id, facts=facts)

    def _answered(self, entry: Entry, candidate: Candidate, answer: Answer) -> Outcome | None:
        """The outcome that a server's answer settles; None where the next server is to be asked."""
        says, host = str(candidate), _host(candidate)
        judgement = judge(answer)
        match judgement:
            case Judgement.ACCEPTED:
                assert answer.reply is not None
                return Outcome(Result.DELIVERED, Refusal(answer.reply, says), server=host)
            case Judgement.FINAL:
                assert answer.reply is not None
                refusal = Refusal(answer.reply, says, answer.detail)
                return Outcome(Result.FAILED, refusal, server=host, advice=_meaning([(candidate, answer)]))
            case Judgement.AMBIGUOUS:
                detail = f"ambiguous: {answer.detail} after the final dot; it may have been taken"
                return self._deferred(entry, Refusal(_AMBIGUOUS, says, detail))
            case Judgement.NEXT_SERVER:
                return None
            case _:
                assert_never(judgement)

    def _judged(self, entry: Entry, refusal: Refusal) -> Outcome:
        return self._deferred(entry, refusal) if refusal.temporary else Outcome(Result.FAILED, refusal)

    def _deferred(self, entry: Entry, refusal: Refusal, server: str = "", advice: Advice | None = None) -> Outcome:
        """To be tried again by the schedule, or failed where the lifetime is over."""
        queue = self._snapshot().settings.queue
        now = self._world.clock.now()
        again = next_attempt(queue, entry.message.received_at, entry.attempts + 1, now)
        if again is None:
            return Outcome(Result.FAILED, refusal, server=server, advice=advice)
        return Outcome(Result.DEFERRED, refusal, again, server, advice)


def _dead(entry: Entry) -> Outcome:
    refusal = entry.delivery.refusal
    assert refusal is not None
    return Outcome(Result.FAILED, refusal)


def _host(candidate: Candidate) -> str:
    """The server's name for those outside; what listens on a UNIX socket is a part of this relay to them."""
    return "" if candidate.server.socket else candidate.server.host


def _meaning(said: Sequence[tuple[Candidate, Answer]]) -> Advice | None:
    """What the last of these refusals means of which that is known."""
    for candidate, answer in reversed(said):
        if answer.reply is not None and not answer.ours:
            advice = explained(answer.reply, _host(candidate))
            if advice is not None:
                return advice
    return None


def _nobody(choice: Choice, said: Sequence[tuple[Candidate, Answer]]) -> str:
    """Everything that was tried, and how each ended, and what was not tried, and why, in one line."""
    tried = {candidate: answer.told for candidate, answer in said}
    parts = [
        *_some([f"{candidate} {how}" for candidate, how in tried.items()]),
        *_some([str(passed) for passed in choice.passed]),
        *_some([str(looked.resolved) for looked in choice.looked if not looked.resolved.addresses]),
    ]
    return f"no server took the message: {'; '.join(parts)}"


def _some(parts: Sequence[str]) -> list[str]:
    """The first of them, and how many more there are: a name may have hundreds of addresses."""
    more = [f"and {len(parts) - _TOLD} more"] if len(parts) > _TOLD else []
    return [*parts[:_TOLD], *more]


def _failure(dialogue: Dialogue) -> str:
    """How a dialogue failed that came to the same for every recipient; else empty."""
    answer = dialogue.answers[0]
    same = all(each == answer for each in dialogue.answers)
    return answer.told if same and judge(answer) is not Judgement.ACCEPTED else ""


def _ended(entry: Entry, outcome: Outcome, now: float) -> Event:
    match outcome.result:
        case Result.DELIVERED:
            what = Happening.DELIVERED
        case Result.DEFERRED:
            what = Happening.DEFERRED
        case Result.FAILED:
            what = Happening.FAILED
        case Result.WITHDRAWN:
            what = Happening.WITHDRAWN
        case _:
            assert_never(outcome.result)
    delivery = entry.delivery
    facts = {
        "kind": str(delivery.kind),
        "address": str(delivery.address),
        "recipient": str(delivery.recipient),
        "endpoint": delivery.endpoint,
        "reply": str(outcome.refusal.reply),
        "says": outcome.refusal.says,
        "detail": outcome.refusal.detail,
        "advice": outcome.advice.json() if outcome.advice is not None else None,
        "attempt": entry.attempts + 1,
        "delay": round(now - entry.message.received_at, 3),
        "retry_at": outcome.retry_at,
    }
    return Event(what, now, entry.message.id, entry.number, facts)
