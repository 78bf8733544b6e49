"""Outcome: what became of a delivery after an attempt, and how a next hop's answers are judged."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from smtproute.core.providers import Advice
from smtproute.core.reply import Refusal, Reply

__all__ = ["Answer", "Judgement", "Outcome", "Result", "Stage", "judge", "too_many", "unwell"]


class Result(StrEnum):
    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"
    WITHDRAWN = "withdrawn"
    """The client waited for it and hears that it failed: we neither try it again nor return it."""


class Stage(StrEnum):
    """How far a dialogue with a server came (RFC 5321 3)."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    GREETING = "greeting"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    CONTENT = "content"
    """The message and its final dot."""


class Judgement(StrEnum):
    ACCEPTED = "accepted"
    NEXT_SERVER = "next server"
    """This server cannot take it now; another may."""
    FINAL = "final"
    """No other server would say otherwise."""
    AMBIGUOUS = "ambiguous"
    """The server may have taken it (RFC 1047): not to be tried elsewhere at once, but again after a pause."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered for one recipient, at the stage that settled it.

    `reply` is None where the connection broke or timed out; `detail` then says how.
    """

    stage: Stage
    reply: Reply | None
    detail: str = ""
    ours: bool = False
    """The reply is our own: the server lacks what the message needs, and was not asked."""

    @property
    def ambiguous(self) -> bool:
        """The server may have taken the message: the connection broke after the final dot (RFC 1047)."""
        return self.stage is Stage.CONTENT and self.reply is None

    @property
    def how(self) -> str:
        """What is told of it: how the connection ended, or the server's own words."""
        return self.detail or str(self.reply or "connection lost")

    @property
    def told(self) -> str:
        """The same, and the step where the server refused more than this message."""
        opening = self.stage in (Stage.GREETING, Stage.EHLO, Stage.STARTTLS, Stage.AUTH)
        return f"{self.stage}: {self.how}" if opening and self.reply is not None else self.how


def too_many(answer: Answer) -> bool:
    """Whether the server only takes no more recipients in this transaction (RFC 5321 4.5.3.1.10)."""
    reply = answer.reply
    return answer.stage is Stage.RCPT and reply is not None and reply.code == 452 and reply.enhanced in ("4.5.3", "")


def unwell(answer: Answer) -> bool:
    """Whether the server fails, whatever it is sent: it did not come to MAIL, was lost there, or says 421.

    One that has a reason not to take this message now, or hangs over its content, may well take another.
    """
    if answer.ours:
        return False
    if answer.reply is not None and answer.reply.code == 421:
        return True
    match answer.stage:
        case Stage.CONNECT | Stage.GREETING | Stage.EHLO | Stage.STARTTLS | Stage.AUTH:
            return True
        case Stage.MAIL:
            return answer.reply is None
        case Stage.RESOLVE | Stage.RCPT | Stage.DATA | Stage.CONTENT:
            return False
        case _:
            assert_never(answer.stage)


def judge(answer: Answer) -> Judgement:
    """Failures before MAIL concern the server; so do 4yz, lost connections, and 530 to MAIL. Other 5yz are final."""
    if answer.ambiguous:
        return Judgement.AMBIGUOUS
    if answer.ours:
        return Judgement.NEXT_SERVER
    reply = answer.reply
    if reply is None or reply.temporary:
        return Judgement.NEXT_SERVER
    match answer.stage:
        case Stage.RESOLVE | Stage.CONNECT | Stage.GREETING | Stage.EHLO | Stage.STARTTLS | Stage.AUTH:
            return Judgement.NEXT_SERVER
        case Stage.MAIL | Stage.RCPT | Stage.DATA | Stage.CONTENT:
            if answer.stage is Stage.CONTENT and reply.completed:
                return Judgement.ACCEPTED
            if not reply.permanent or (answer.stage is Stage.MAIL and reply.code == 530):
                return Judgement.NEXT_SERVER
            return Judgement.FINAL
        case _:
            assert_never(answer.stage)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one delivery stands after an attempt."""

    result: Result
    refusal: Refusal
    """The answer that settled it and who gave it; a positive reply when delivered."""
    retry_at: float | None = None
    """Seconds since the epoch; only when deferred."""
    server: str = ""
    """Host name of the server that answered; empty when it was this relay."""
    advice: Advice | None = None
    """What the refusal of a server means, where that is known."""
