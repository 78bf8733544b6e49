"""Proxy: what a client hears that waits for the next hops (`reply = "delivered"`), and who keeps what they refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smtproute.core.outcome import Outcome, Result
from smtproute.core.plan import Delivery
from smtproute.core.reply import Reply, behind_alias
from smtproute.core.settings import Kind
from smtproute.core.transcript import legible

__all__ = ["Attempted", "Conclusion", "conclude", "queued"]

_LONGEST = 400
"""Characters of a next hop's text: the line stays within 512 octets (RFC 5321 4.5.3.1.5)."""
_NOT_NOW = Reply(451, "4.4.1", "No server took the message")

Attempted = tuple[Delivery, Outcome | None]
"""A delivery with what its first attempt came to; None: it is held, and not tried."""


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What the client hears of a whole message."""

    reply: Reply
    withdrawn: bool
    """Nobody took any of it, and the client is told so: we try nothing again, and return nothing."""


def queued(queue_id: str) -> Reply:
    """The message is ours, whatever becomes of it."""
    return Reply(250, "2.0.0", f"Ok: queued as {queue_id}")


def conclude(queue_id: str, tried: Sequence[Attempted]) -> Conclusion:
    """One reply for all deliveries of a message, as SMTP has it.

    Where one of them was taken it must be positive, and what failed is ours to try again or to return. So it is where
    some failed for good and some for now, for which there is no reply.
    """
    refused = [(each, outcome) for each, outcome in tried if outcome is not None and not _taken(each, outcome)]
    if not refused:
        return Conclusion(_accepted(queue_id, tried), withdrawn=False)
    if len(refused) == len(tried):
        for_good = [outcome.result is Result.FAILED and outcome.refusal.reply.permanent for _, outcome in refused]
        if all(for_good):
            each, outcome = refused[-1]
            return Conclusion(_refused(queue_id, each, outcome.refusal.reply), withdrawn=True)
        if not any(for_good):
            # The last that a server has said; ours where no server was reached.
            each, outcome = ([one for one in refused if one[1].server] or refused)[-1]
            return Conclusion(_refused(queue_id, each, _not_now(outcome.refusal.reply)), withdrawn=True)
    return Conclusion(queued(queue_id), withdrawn=False)


def _taken(delivery: Delivery, outcome: Outcome) -> bool:
    """What the route returns on purpose was taken: the sender hears of it by DSN."""
    return outcome.result is Result.DELIVERED or delivery.deliberate


def _accepted(queue_id: str, tried: Sequence[Attempted]) -> Reply:
    """The words of the first next hop, with our id behind them; ours where there was none that may be quoted."""
    for each, outcome in tried:
        if outcome is None or outcome.result is not Result.DELIVERED:
            continue
        if each.kind is Kind.ENDPOINT and not each.expanded:
            theirs = _relayed(each, outcome.refusal.reply)
            return Reply(250, theirs.enhanced, f"{theirs.text or 'Ok'} (relayed as {queue_id})")
    return queued(queue_id)


def _not_now(reply: Reply) -> Reply:
    if not reply.temporary:
        return _NOT_NOW
    # 421 would say that it is we who close the connection.
    return Reply(451, reply.enhanced, reply.text) if reply.code == 421 else reply


def _refused(queue_id: str, delivery: Delivery, reply: Reply) -> Reply:
    """A next hop's words, with the id behind them by which the trace is found."""
    theirs = _relayed(delivery, reply)
    return Reply(theirs.code, theirs.enhanced, f"{theirs.text} (trace {queue_id})")


def _relayed(delivery: Delivery, reply: Reply) -> Reply:
    """A next hop's reply as the client hears it: one line in ASCII, with an enhanced code of the reply's class."""
    if delivery.expanded and not reply.positive:
        reply = behind_alias(reply)
    text = legible(" ".join(reply.text.split())).encode("ascii", "backslashreplace").decode()
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    kind = str(reply.code)[0]
    return Reply(reply.code, reply.enhanced if reply.enhanced.startswith(f"{kind}.") else f"{kind}.0.0", text)
