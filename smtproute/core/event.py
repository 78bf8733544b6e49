"""Event: one step of a journey, written down. The events of one message are its trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["Emit", "Event", "Happening"]


class Happening(StrEnum):
    """What an event tells. Those of a message first, then those of the relay itself."""

    RECEIVED = "received"
    """The message is ours: client, envelope, size, the session's transcript, the forged results removed."""
    PLANNED = "planned"
    """Where one recipient's mail goes, and by which rules."""
    VERDICT = "verdict"
    """What the authentication checks found."""
    ATTEMPT = "attempt"
    """One dialogue with one server: address, source, TLS, transcript, the Edit that made the copy, how it failed."""
    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"
    UNSEALED = "unsealed"
    """A copy that should have been sealed left without a seal, and why."""
    UNSIGNED = "unsigned"
    """A copy that should have been signed (DKIM) left without a signature, and why."""
    BOUNCED = "bounced"
    """A DSN was queued, or why none was."""
    HELD = "held"
    RELEASED = "released"
    RETRIED = "retried"
    REMOVED = "removed"
    WITHDRAWN = "withdrawn"
    """A delivery failed, and the client that waits is told so (`ReplyAfter.DELIVERED`): it is not ours any more."""
    ANSWERED = "answered"
    """What the client heard that waited for the next hops (`ReplyAfter.DELIVERED`)."""
    DOWNGRADED = "downgraded"
    """A connection went on in plain text (`EndpointTls.PREFER`), and why."""

    RESOLVED = "resolved"
    """The addresses of an endpoint's server have changed, or whether there are any."""
    RESTING = "resting"
    """A server's address has failed: it is left alone for a while."""
    RECOVERED = "recovered"
    """An address that rested answers again."""
    LISTENING = "listening"
    RELOADED = "reloaded"
    RELOAD_REFUSED = "reload refused"
    DRAINING = "draining"
    STOPPED = "stopped"
    WARNING = "warning"
    REFUSED = "refused"
    """A command or a connection was refused at the door."""
    FAULT = "fault"
    """An exception of ours was caught: around a verb, an attempt or a verdict."""


@dataclass(frozen=True, slots=True)
class Event:
    """`facts` holds plain JSON values; octets are kept as latin-1 text."""

    what: Happening
    at: float
    """Seconds since the epoch."""
    message: str = ""
    """Queue id; empty for an event of the relay itself."""
    delivery: int | None = None
    """Number of the delivery within the message."""
    facts: Mapping[str, Any] = field(default_factory=dict)


Emit = Callable[[Event], None]
"""Where a room puts the events that are not committed with a change of the spool."""
