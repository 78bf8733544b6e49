"""Outcome: what became of mail, each copy in the words of an expectation, told from the events of its relay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smtproute.core.address import Address, AddressError
from smtproute.core.event import Event, Happening
from smtproute.core.message import Edit
from smtproute.core.settings import Kind
from smtproute.testing.expect import Sealing
from smtproute.testing.pattern import Pattern
from smtproute.testing.scenarios.scenario import Place, Status
from smtproute.trace.text import render

if TYPE_CHECKING:
    from smtproute.testing.arrivals import Arrival

__all__ = ["Copy", "copies"]

_STATUS = {
    Happening.DELIVERED: Status.DELIVERED,
    Happening.DEFERRED: Status.DEFERRED,
    Happening.FAILED: Status.FAILED,
    Happening.WITHDRAWN: Status.FAILED,
    Happening.HELD: Status.HELD,
}
"""How a delivery stands after this."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One delivery, as far as it has come."""

    relay: str
    message: str
    """Queue id."""
    number: int
    """Of the delivery, within the message."""
    place: Place
    address: str
    endpoint: str = ""
    status: Status = Status.DELIVERED
    attempts: int = 0
    reply: str = ""
    """The last answer."""
    at: float = 0.0
    """When that was, in seconds since the epoch, on the stage's clock."""
    server: str = ""
    """`host:port` that was asked last; empty: none was."""
    sender: str = ""
    """The reverse-path that it arrived with, or left with; "" is the null one."""
    tls: bool = False
    """Whether the last server was spoken to under TLS."""
    sealed: bool = False
    """Whether this relay put a seal on it."""
    content: bytes | None = None
    """As it arrived, with CRLF; None: it did not."""
    edit: Edit | None = None
    """How the last server's copy was made of the message as it was received."""
    sealing: Sealing | None = None
    """Its ARC chain; None: it did not arrive."""
    signed: tuple[str, ...] = ()
    """Whose DKIM signatures on it verify: domains, in lower case."""
    trace: tuple[str, ...] = ()
    """What `smtproute trace` prints of its message."""

    @property
    def told(self) -> str:
        """Where it went: `endpoint external for name@external.example`."""
        endpoint = f" {self.endpoint} for" if self.endpoint else ""
        return f"{self.place}{endpoint} {self.address}"

    def is_for(self, address: Address) -> bool:
        """Whether it is for this address, in which a * stands for any text."""
        try:
            key = Address.parse(self.address).key
        except AddressError:
            return False
        return key == address.key or ("*" in address.local and Pattern(address.key).holds(key))


def copies(relay: str, events: Sequence[Event], arrivals: Sequence[Arrival] = ()) -> list[Copy]:
    """How every delivery stands that these events of a relay tell of, in the order in which their messages came.

    `arrivals`: what arrived anywhere, for the content; of one that arrived more than once, the last.
    """
    messages: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.message:
            messages[event.message].append(event)
    arrived: dict[str, list[Arrival]] = defaultdict(list)
    for arrival in arrivals:
        if arrival.relay == relay:
            arrived[arrival.message].append(arrival)
    return [copy for message, told in messages.items() for copy in _of_message(relay, message, told, arrived[message])]


def _of_message(relay: str, message: str, events: Sequence[Event], arrivals: Sequence[Arrival]) -> list[Copy]:
    """The copies of one message."""
    sender = next((event.facts["sender"] for event in events if event.what is Happening.RECEIVED), "")
    last: dict[int, Event] = {}
    attempts: dict[int, Event] = {}
    for event in events:
        if event.what is Happening.ATTEMPT:
            attempts.update(dict.fromkeys(event.facts["recipients"], event))
        elif event.delivery is not None and event.what in _STATUS:
            last[event.delivery] = event
    trace = tuple(render(events))
    found = []
    for number, event in sorted(last.items()):
        facts, attempt, status = event.facts, attempts.get(number), _STATUS[event.what]
        held = status is Status.HELD
        came = [] if held else [each for each in arrivals if _brought(each, facts)]
        found.append(
            Copy(
                relay,
                message,
                number,
                Place.HELD if held else Place(facts["kind"]),
                facts["address"],
                "" if held else facts["endpoint"],
                status,
                attempts=facts.get("attempt", 0),
                reply=facts.get("reply", ""),
                at=event.at,
                server=attempt.facts["server"] if attempt is not None else "",
                sender=came[-1].sender if came else attempt.facts["sender"] if attempt is not None else sender,
                tls=attempt is not None and bool(attempt.facts["tls"]),
                sealed=attempt is not None and bool(attempt.facts["sealed"]),
                edit=_edit(attempt.facts) if attempt is not None else None,
                content=came[-1].wire if came else None,
                trace=trace,
            )
        )
    return found


def _edit(facts: Mapping[str, Any]) -> Edit:
    removed = tuple((start, end) for start, end in facts["removed"])
    return Edit(removed, facts["prepended"].encode("latin-1"))


def _brought(arrival: Arrival, facts: Mapping[str, Any]) -> bool:
    """Whether this is where the delivery of these facts arrived."""
    return (
        arrival.kind is Kind(facts["kind"])
        and arrival.endpoint == facts["endpoint"]
        and any(_same(each, Address.parse(facts["address"])) for each in arrival.recipients)
    )


def _same(text: str, address: Address) -> bool:
    """Whether a text is this address."""
    try:
        return Address.parse(text).key == address.key
    except AddressError:
        return False
