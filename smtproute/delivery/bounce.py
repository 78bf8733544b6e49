"""Bounce: a delivery that failed for good is told to the sender, once."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import formatdate

from smtproute.core.decide import Facts, Routing, decide
from smtproute.core.dsn import Failure, compose
from smtproute.core.envelope import Client, Envelope
from smtproute.core.event import Event, Happening
from smtproute.core.outcome import Outcome
from smtproute.core.plan import holdings, planned
from smtproute.core.reply import behind_alias
from smtproute.core.settings import Role
from smtproute.spool.queue import Accepted, Entry
from smtproute.spool.queue import Message as Stored
from smtproute.world import World

__all__ = ["bounce"]

_SELF = Client("127.0.0.1", 0, "", Role.TRUSTED, trusted=True, helo="localhost")
"""This relay, as the client of its own DSNs."""


def bounce(
    failed: Sequence[tuple[Entry, Outcome]], original: bytes, routing: Routing, world: World
) -> tuple[Accepted | None, Event]:
    """The DSN for failed deliveries of one message, and the event that tells of it.

    None for a null sender (RFC 5321 6.1: a bounce is not bounced), and where the sender cannot be reached.
    """
    message = failed[0][0].message
    sender = message.envelope.reverse_path
    now = world.clock.now()

    def told(**facts: object) -> Event:
        return Event(Happening.BOUNCED, now, message.id, facts=facts)

    if sender is None:
        return None, told(dsn="", why="the message has a null sender: nobody to tell")
    plan = decide(Facts(routing, now=now), Envelope(_SELF, None), sender)
    if plan.refusal is not None:
        return None, told(dsn="", why=f"the sender {sender} cannot be told: {plan.refusal}")
    failures = []
    for entry, outcome in failed:
        delivery = entry.delivery
        expanded = delivery.expanded
        refusal, advice = outcome.refusal, outcome.advice
        failures.append(
            Failure(
                delivery.recipient,
                behind_alias(refusal.reply) if expanded else refusal.reply,
                server="" if expanded else outcome.server,
                detail="" if expanded or not refusal.detail else f"{refusal.says}: {refusal.detail}",
                gave_up=refusal.temporary,
                cause=f"Cause: {advice.cause}" if advice is not None else "",
                mend=f"Mend: {advice.mend} See {advice.source}" if advice is not None and not expanded else "",
            )
        )
    queue_id = world.queue_id()
    content = compose(
        reporting=routing.hostname,
        sender=sender,
        queue_id=message.id,
        message_id=f"{queue_id}.{world.token()}",
        date=formatdate(now),
        arrival=formatdate(message.received_at),
        boundary=f"={world.token()}=",
        failures=failures,
        original=original,
    )
    envelope = Envelope(_SELF, None, len(content), eight_bit=not content.isascii(), smtputf8=not sender.ascii)
    events = [
        Event(
            Happening.RECEIVED,
            now,
            queue_id,
            facts={"listener": "", "client": "this relay", "sender": "", "size": len(content), "bounce_of": message.id},
        ),
        planned(plan, queue_id, now),
        *holdings(plan.deliveries, queue_id, now),
    ]
    stored = Stored(id=queue_id, received_at=now, envelope=envelope, size=len(content), bounce=True)
    return Accepted(stored, content, plan.deliveries, events), told(dsn=queue_id, to=str(sender), why="")
