"""The spool's interface: five verbs, and the values that go through them."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from smtproute.core.envelope import Envelope
from smtproute.core.event import Event
from smtproute.core.message import Span
from smtproute.core.outcome import Outcome
from smtproute.core.plan import Delivery
from smtproute.core.verdict import Verdict

__all__ = [
    "LARGEST_ROW",
    "Accepted",
    "Change",
    "Changed",
    "Entry",
    "Message",
    "Page",
    "Settlement",
    "Spool",
    "SpoolBusy",
    "SpoolFailed",
    "SpoolFull",
    "SpoolVersion",
    "Staged",
    "State",
    "left_out",
]

LARGEST_ROW = 256 * 1024
"""Octets; a larger content is staged, so that its way to disk does not hold up the commits of others."""


class State(StrEnum):
    """How a delivery stands."""

    QUEUED = "queued"
    HELD = "held"
    DELIVERED = "delivered"
    CAPTURED = "captured"
    """Settled, and its message kept to be read."""
    FAILED = "failed"
    REMOVED = "removed"

    @property
    def finished(self) -> bool:
        return self not in (State.QUEUED, State.HELD)


class Change(StrEnum):
    """What an operator does to deliveries."""

    RETRY = "retry"
    HOLD = "hold"
    RELEASE = "release"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message without its content, which is kept exactly as it was received."""

    id: str
    received_at: float
    envelope: Envelope
    size: int
    trace_header: bytes = b""
    """Our Received field, put in front of every copy."""
    forged: tuple[Span, ...] = ()
    """Authentication-Results fields that claim our id, taken out of every copy."""
    verdicts: tuple[Verdict, ...] = ()
    bounce: bool = False
    """A DSN of ours."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One delivery in the spool."""

    message: Message
    number: int
    """From 0, within the message."""
    delivery: Delivery
    state: State
    attempts: int
    due_at: float
    """Seconds since the epoch; when it is to be tried (again)."""
    last: str = ""
    """What the last attempt came to, in words."""

    @property
    def sender(self) -> str:
        """The domain of the reverse-path; the null one, of DSNs, is a group of its own."""
        reverse_path = self.message.envelope.reverse_path
        return reverse_path.domain.key if reverse_path is not None else "<>"

    @property
    def place(self) -> str:
        """Where it goes, from whose domain, to whose: `endpoint far/from.example/to.example`.

        Deliveries wait for those of their own place, or of what it begins with, and for no others.
        """
        return f"{self.delivery.place}/{self.sender}/{self.delivery.address.domain.key}"


def left_out(place: str, without: Set[str]) -> bool:
    """Whether a place, or what it begins with (`endpoint far`, `endpoint far/from.example`), is among these."""
    if not without:
        return False
    sender, _, _ = place.rpartition("/")
    return place in without or sender in without or sender.rpartition("/")[0] in without


class Staged(Protocol):
    """A large body on its way to disk while DATA arrives."""

    async def write(self, chunk: bytes) -> None:
        """Raises SpoolFull, SpoolFailed."""
        ...

    async def discard(self) -> None:
        """Gives it up; also without effect after it was accepted."""
        ...


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message with everything that is committed with it."""

    message: Message
    content: bytes | Staged
    deliveries: Sequence[Delivery]
    events: Sequence[Event] = ()


@dataclass(frozen=True, slots=True)
class Settlement:
    """The outcome of one attempt at one delivery."""

    message: str
    number: int
    outcome: Outcome
    due_at: float
    """When it was due as it was claimed: where an operator has changed that meanwhile, the operator's time stands."""
    captured: bool = False
    """Delivered into the spool itself: state CAPTURED."""


@dataclass(frozen=True, slots=True)
class Changed:
    """What `change` did to one delivery."""

    message: str
    number: int
    before: State
    after: State
    in_flight: bool = False
    """An attempt is running: the change holds after it."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of entries, newest message first; `cursor` starts the next page, "" when there is none."""

    entries: tuple[Entry, ...]
    cursor: str


class SpoolFailed(Exception):
    """The spool could not do it, and nothing was changed: 451 4.3.0. Its text is for the trace."""


class SpoolFull(SpoolFailed):
    """No room on disk, or `queue.max_size` reached: 452 4.3.1."""


class SpoolBusy(SpoolFailed):
    """Another relay has the folder; raised when a spool is opened."""


class SpoolVersion(SpoolFailed):
    """The folder was written by another version of the program; raised when a spool is opened."""


class Spool(Protocol):
    """`accept`, `claim`, `settle` are the relay's; `change` is the operator's; `read` anybody's."""

    def stage(self, message_id: str) -> Staged:
        """Begins a body that is too large for a row."""
        ...

    async def accept(self, accepted: Accepted) -> None:
        """On return the message is durable, and what its route holds is HELD.

        Raises SpoolFull, SpoolFailed, and then nothing is kept.
        """
        ...

    async def claim(
        self, now: float, limit: int, without: frozenset[str] = frozenset()
    ) -> tuple[Sequence[Entry], float | None]:
        """Up to `limit` due deliveries, now the caller's until it settles them, and when the next one is due.

        None for the places `without` (`Entry.place`, or what it begins with), which have no room now.

        Raises SpoolFailed.
        """
        ...

    async def still(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Those of these claimed deliveries that no operator has held or removed meanwhile.

        The others are not the caller's any more. Asked before an attempt begins. Raises SpoolFailed.
        """
        ...

    @property
    def doubts(self) -> int:
        """How many times an operator's change was noticed."""
        ...

    async def wait(self) -> None:
        """Until there may be something new to claim."""
        ...

    async def content(self, message_id: str) -> bytes:
        """The message as it was received. Raises SpoolFailed."""
        ...

    async def settle(
        self, settlements: Sequence[Settlement], events: Sequence[Event], bounces: Sequence[Accepted] = ()
    ) -> None:
        """Records outcomes, their events, and the DSNs that they cause, all in one commit.

        An operator's change made while the attempt ran stands where it is deferred; what ended it has ended it.
        Raises SpoolFailed, SpoolFull; then nothing is recorded, and the deliveries are still the caller's.
        """
        ...

    async def change(self, change: Change, messages: Sequence[str] | None, at: float) -> Sequence[Changed]:
        """Applies to the unfinished deliveries of these messages (None: of all), in one transaction.

        RETRY makes queued ones due at `at`, HOLD holds them, RELEASE makes held ones due, REMOVE takes both out.
        What it does not apply to, or nobody knows, is not in the answer. Raises SpoolFailed.
        """
        ...

    async def read(self, cursor: str = "", limit: int = 100, unfinished: bool = True, captured: bool = False) -> Page:
        """One page of deliveries: the unfinished, the captured whose message is kept, both, or (neither) all.

        Raises SpoolFailed.
        """
        ...

    async def entries(self, message_id: str) -> Sequence[Entry]:
        """All deliveries of one message; empty when it is unknown."""
        ...

    async def events(self, message_id: str, after: int = 0) -> Sequence[tuple[int, Event]]:
        """The events of one message in order, each with its number, beginning after number `after`."""
        ...
