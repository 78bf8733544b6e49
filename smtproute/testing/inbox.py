"""Inbox: waiting for mail without sleeping, and being sure that none comes.

    letter = await stage.inbox.wait_for(to="anna@external.example", subject="Hello*")
    await stage.inbox.assert_none()

A message is returned once only, whichever part of the inbox (`at`, `of`) returns it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self, overload

from smtproute.core.event import Event, Happening
from smtproute.core.transcript import plain
from smtproute.spool.queue import State
from smtproute.testing import refusals
from smtproute.testing.arrivals import Arrival
from smtproute.testing.pattern import Pattern
from smtproute.testing.report import MailAssertion, failure, folded
from smtproute.trace.text import transcript

if TYPE_CHECKING:
    from smtproute.testing.stage import Flow, Stage

__all__ = ["TIMEOUT", "Arrival", "Header", "Inbox"]

TIMEOUT = 10.0
"""Seconds that mail is waited for."""

Header = Mapping[str, str] | str
"""Header fields by name, each with the pattern of its value; or one of them as "Name: pattern"."""

_PAGE = 20
"""Deliveries that a report names."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a message must be like; without any condition, every message is."""

    told: str
    to: Pattern | None
    subject: Pattern | None
    headers: Mapping[str, Pattern]

    @classmethod
    def parse(cls, to: str | None, subject: str | None, header: Header | None) -> Self:
        """Raises ValueError for a pattern that is none."""
        if isinstance(header, str):
            name, colon, value = header.partition(":")
            if not colon:
                raise ValueError(f'header = "{header}": write "Name: pattern", or a mapping')
            header = {name.strip(): value.strip()}
        told = [f"to {to}"] if to is not None else []
        told += [f'with the subject "{subject}"'] if subject is not None else []
        told += [f'with "{name}: {value}"' for name, value in (header or {}).items()]
        return cls(
            ", ".join(told),
            Pattern.parse(_any_case(to)) if to is not None else None,
            Pattern.parse(subject) if subject is not None else None,
            {name: Pattern.parse(value) for name, value in (header or {}).items()},
        )

    def holds(self, arrival: Arrival) -> bool:
        return (
            (self.to is None or self.concerns((*arrival.recipients, *arrival.written)))
            and (self.subject is None or self.subject.holds(arrival.subject))
            and all(
                any(pattern.holds(value) for value in arrival.headers(name)) for name, pattern in self.headers.items()
            )
        )

    def concerns(self, recipients: Sequence[str]) -> bool:
        """Whether it may be about a message to these."""
        return self.to is None or any(self.to.holds(recipient.lower()) for recipient in recipients)


class Inbox:
    """All that arrives on a stage, or the part of it that `at` and `of` make."""

    def __init__(
        self,
        stage: Stage,
        mine: Callable[[Sequence[str]], bool] = lambda addresses: True,
        where: str = "",
        *,
        sees: Callable[[Arrival], bool] = lambda arrival: True,
        returned: set[int] | None = None,
    ) -> None:
        """`mine` tells by the addresses of its envelope whether a message is for this inbox at all, where several
        tests share the stage; `where` is that in words. A part of an inbox `sees` so much of it, and has its numbers,
        among all arrivals, of those that were `returned`."""
        self._stage = stage
        self._mine = mine
        self._sees = sees
        self._where = where
        self._returned = set() if returned is None else returned
        self._began = len(stage.arrivals.all)
        self._parts: dict[str, Inbox] = {}

    @property
    def messages(self) -> list[Arrival]:
        """Everything so far, oldest first, whether it was returned or not."""
        return [arrival for arrival in self._all if self._sees(arrival)]

    def at(self, where: str) -> Inbox:
        """What arrives at a host, or at an endpoint, by name; the same object each time it is asked for."""
        host = where.lower()
        return self._part(f" at {where}", lambda arrival: arrival.upstream == host or arrival.endpoint == where)

    def of(self, relay: str) -> Inbox:
        """What a relay delivers, by its name; the same object each time it is asked for."""
        return self._part(f" of the relay {relay}", lambda arrival: arrival.relay == relay)

    @overload
    async def wait_for(  # type: ignore[overload-overlap] # 1 is an int
        self,
        *,
        to: str | None = None,
        subject: str | None = None,
        header: Header | None = None,
        n: Literal[1] = 1,
        timeout: float = TIMEOUT,
    ) -> Arrival: ...
    @overload
    async def wait_for(
        self,
        *,
        to: str | None = None,
        subject: str | None = None,
        header: Header | None = None,
        n: int,
        timeout: float = TIMEOUT,
    ) -> list[Arrival]: ...
    async def wait_for(
        self,
        *,
        to: str | None = None,
        subject: str | None = None,
        header: Header | None = None,
        n: int = 1,
        timeout: float = TIMEOUT,
    ) -> Arrival | list[Arrival]:
        """The oldest message that is so and was not returned yet, once it is there; with `n` the list of so many.

        `to` is a recipient as the message arrived or as the client wrote it, in any case; `subject` the decoded one;
        `header` one field of that name among all. `timeout` is in seconds. See `testing.pattern.Pattern`.

        Raises MailAssertion where they do not come in time, ValueError for a pattern that is none.
        """
        wanted = _Wanted.parse(to, subject, header)
        found: list[int] = []
        looked = 0
        try:
            async with asyncio.timeout(timeout):
                while True:
                    found += self._new(wanted, looked)
                    looked = len(self._stage.arrivals.all)
                    if len(found) >= n:
                        found = [number for number in found if number not in self._returned]
                    if len(found) >= n:
                        break
                    await self._stage.arrivals.more()
        except TimeoutError:
            raise MailAssertion(self._missing(wanted, n, timeout)) from None
        self._returned.update(found[:n])
        arrivals = [self._stage.arrivals.all[number] for number in found[:n]]
        return arrivals[0] if n == 1 else arrivals

    async def assert_none(
        self,
        *,
        to: str | None = None,
        subject: str | None = None,
        header: Header | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        """That no message which is so has come that was not returned yet, and that none is on its way.

        Answers as soon as no session is open and no delivery due or under way on any relay of the stage. A delivery
        that waits for its next attempt is not under way. Raises MailAssertion, also where all that is not at rest
        within `timeout` seconds, and ValueError for a pattern that is none.
        """
        wanted = _Wanted.parse(to, subject, header)
        try:
            await self._stage.quiet(timeout)
        except TimeoutError:
            raise await self.restless(timeout) from None
        found = self._new(wanted)
        if found:
            told = f"expected no {_listed('more mail', wanted)}{self._where}, and {_some(len(found))} came"
            raise MailAssertion(self._failure(told, messages=self._ids(found), meant=found))

    async def restless(self, timeout: float) -> MailAssertion:
        """What says that all has not come to rest within so many seconds, and what is open."""
        told = f"expected that all comes to rest within {timeout:g} s{self._where}, and it did not"
        return MailAssertion(self._failure(told, await _open(self._stage)))

    def _part(self, where: str, sees: Callable[[Arrival], bool]) -> Inbox:
        if where not in self._parts:
            whole = self._sees
            self._parts[where] = Inbox(
                self._stage,
                self._mine,
                self._where + where,
                sees=lambda arrival: whole(arrival) and sees(arrival),
                returned=self._returned,
            )
        return self._parts[where]

    @property
    def _all(self) -> list[Arrival]:
        """What arrived, also outside of this part."""
        return [arrival for arrival in self._stage.arrivals.all if self._mine(arrival.addresses)]

    def _new(self, wanted: _Wanted, first: int = 0) -> list[int]:
        """The numbers of those that are so and were not returned, from the `first` arrival on."""
        return [
            number
            for number, arrival in enumerate(self._stage.arrivals.all[first:], first)
            if number not in self._returned
            and self._mine(arrival.addresses)
            and self._sees(arrival)
            and wanted.holds(arrival)
        ]

    def _missing(self, wanted: _Wanted, n: int, timeout: float) -> str:
        came = len(self._new(wanted))
        returned = [self._stage.arrivals.all[number] for number in self._returned]
        before = sum(self._sees(arrival) and wanted.holds(arrival) for arrival in returned)
        told = f"expected {_listed(_some(n), wanted)}{self._where} within {timeout:g} s, and {_some(came)} came"
        told += f"; {_some(before)} that is so was returned before" if before == 1 else ""
        told += f"; {_some(before)} that are so were returned before" if before > 1 else ""
        return self._failure(told, self._at_the_door(wanted), self._concerned(wanted))

    def report(self, told: str = "", messages: Sequence[str] = ()) -> str:
        """What came, what was refused, and the traces of these messages (queue ids; none: of all, the latest first)."""
        if messages:
            return self._failure(told, messages=messages)
        anything = _Wanted.parse(None, None, None)
        return self._failure(told, self._at_the_door(anything), self._concerned(anything)).lstrip("\n")

    def _failure(
        self, told: str, more: Sequence[str] = (), messages: Sequence[str] = (), meant: Sequence[int] = ()
    ) -> str:
        traces = [_trace(self._stage, message) for message in dict.fromkeys(messages) if message]
        mine = [number for number, each in enumerate(self._stage.arrivals.all) if self._mine(each.addresses)]
        return failure(
            told,
            arrivals=self._all,
            traces=traces,
            again=self._stage.again,
            more=["\n".join(folded(more))] if more else [],
            meant=[row for row, number in enumerate(mine, 1) if number in meant],
        )

    def _ids(self, numbers: Sequence[int]) -> list[str]:
        return [self._stage.arrivals.all[number].message for number in numbers]

    def _concerned(self, wanted: _Wanted) -> list[str]:
        """The queue ids of messages that may be the one that is missing, the latest first; all, where none may be."""
        found: list[tuple[float, str]] = []
        others: list[tuple[float, str]] = []
        for flow in self._stage.flows.values():
            senders = {event.message: event.facts["sender"] for event in flow.journal.of(Happening.RECEIVED)}
            for event in flow.journal.of(Happening.PLANNED):
                recipients = [event.facts["recipient"], *(each["address"] for each in event.facts["deliveries"])]
                if self._mine([senders[event.message], *recipients]):
                    (found if wanted.concerns(recipients) else others).append((-event.at, event.message))
        return [message for _, message in sorted(found or others)]

    def _at_the_door(self, wanted: _Wanted) -> list[str]:
        """What the relays refused; where nothing was and nothing came, how far clients came."""
        told = self._refused(wanted)
        if self._all:
            return told
        strangers = len(self._stage.arrivals.all) - self._began
        if strangers:
            verb = "message came that has" if strangers == 1 else "messages came that have"
            told.append(f"{strangers} {verb} no address of this test: make its addresses with address(...)")
        elif not told:
            told = [line for flow in self._stage.flows.values() for line in _connected(flow)]
        return told

    def _refused(self, wanted: _Wanted) -> list[str]:
        """What the relays refused at the door that may be the message that is missing, the latest last."""
        return refusals.told(
            [
                refusal
                for flow in self._stage.flows.values()
                for refusal in flow.refusals
                if (not refusal.envelope or self._mine(refusal.envelope))
                and (not refusal.recipients or wanted.concerns(refusal.recipients))
            ]
        )


def _any_case(pattern: str) -> str:
    expression = pattern.removeprefix("regex:")
    return f"regex:(?i){expression}" if expression != pattern else pattern.lower()


def _some(messages: int) -> str:
    return {0: "none", 1: "1 message"}.get(messages, f"{messages} messages")


def _listed(what: str, wanted: _Wanted) -> str:
    return f"{what} {wanted.told}".rstrip()


def _trace(stage: Stage, message: str) -> list[Event]:
    return [event for flow in stage.flows.values() for event in flow.journal.events if event.message == message]


def _connected(flow: Flow) -> list[str]:
    """Whether clients have connected to a relay, and how it ended with them where it has no message of theirs."""
    if not flow.network.connections:
        places = " nor ".join(f"{host}:{port}" for host, port in flow.relay.addresses.values())
        return [f"no client has connected to {places}"]
    if flow.journal.of(Happening.RECEIVED):
        return []
    connections = "1 connection" if flow.network.connections == 1 else f"{flow.network.connections} connections"
    last = [event.facts["what"] for event in flow.journal.of(Happening.WARNING) if "client" in event.facts][-_PAGE:]
    for session in flow.relay.sessions:
        last += [f"{arrow} {text}" for arrow, _, text in plain(session.transcript())[-1:]]
    return [f"{flow.name} had {connections} and no message{': the last words were' if last else ''}", *_indented(last)]


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


async def _open(stage: Stage) -> list[str]:
    """What is not at rest: sessions with what was said, deliveries that are due."""
    told = []
    for flow in stage.flows.values():
        for session in flow.relay.sessions:
            client = session.client
            if stage.network.line((client.ip, client.port)):
                continue
            told.append(f"{flow.name}: a session of {client.ip} on listener {client.listener} is open")
            told += _indented(transcript(plain(session.transcript())))
        told += await _due(flow)
    return told


async def _due(flow: Flow) -> list[str]:
    now = flow.world.clock.now()
    page = await flow.relay.spool.read(limit=_PAGE)
    return [
        f"{flow.name}: delivery {entry.number} of {entry.message.id}, {entry.delivery.place} for"
        f" {entry.delivery.address}, is under way"
        for entry in page.entries
        if entry.state is State.QUEUED and entry.due_at <= now
    ]
