"""Arrivals: what a stage's relays delivered, and what its servers took, in the order in which it came."""

from __future__ import annotations

import asyncio
import email
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from smtproute.core.event import Event, Happening
from smtproute.core.message import fields
from smtproute.core.settings import Kind
from smtproute.testing.upstream import Received

if TYPE_CHECKING:
    from smtproute.testing.stage import Flow, Stage

__all__ = ["Arrival", "Arrivals", "headers"]

_ID = re.compile(rb"\sid ([0-9A-Z]{15})\b")
"""In a Received field of ours."""
_DSN = re.compile(rb"\s*<([0-9A-Z]{15})\.[0-9a-f]{16}@")
"""The Message-ID of a DSN of ours, which has no Received field."""


_SPACE = re.compile(r"[ \t\r\n]+")


@dataclass(frozen=True, slots=True, repr=False)
class Arrival:
    """One copy that has come where it goes."""

    kind: Kind
    relay: str
    """Name of the relay that delivered it; empty where a server of the stage had it from somebody else."""
    sender: str
    """The reverse-path as it arrived; empty is the null one."""
    recipients: tuple[str, ...]
    """As it arrived."""
    written: tuple[str, ...]
    """The recipients that lead here, as the client wrote them."""
    content: bytes
    """Exactly as it arrived: what went over the wire, what lies in the Maildir (with LF), what was captured."""
    message: str
    """Queue id; empty where no relay delivered it."""
    at: float
    """Seconds since the epoch."""
    upstream: str = ""
    """The host that took it; empty for what stays in the house."""
    endpoint: str = ""
    """Name of the endpoint."""
    received: Received | None = None
    """What the host that took it knows of it."""

    def __repr__(self) -> str:
        return f"<Arrival: {self.kind} to {', '.join(self.recipients)}, {self.subject!r}, {len(self.content)} octets>"

    @property
    def addresses(self) -> tuple[str, ...]:
        """All of its envelopes: the sender, the recipients as they arrived and as they were written."""
        return self.sender, *self.recipients, *self.written

    @property
    def email(self) -> EmailMessage:
        """The message as Python's email package reads it."""
        return email.message_from_bytes(self.content, policy=default)

    @property
    def wire(self) -> bytes:
        """The content with line ends as on the wire, also where it lies in a Maildir."""
        return self.content if self.upstream or self.kind is not Kind.MAILBOX else _crlf(self.content)

    @property
    def subject(self) -> str:
        """Decoded (RFC 2047); empty where there is none."""
        return self.header("Subject") or ""

    @property
    def text(self) -> str:
        """The body in plain text, its lines ending in LF; empty where there is none."""
        return self._body("plain")

    @property
    def html(self) -> str:
        """The body in HTML, its lines ending in LF; empty where there is none."""
        return self._body("html")

    def header(self, name: str) -> str | None:
        """The topmost header field of this name, as in `headers`; None where there is none."""
        return next(iter(self.headers(name)), None)

    def headers(self, name: str) -> list[str]:
        """Every header field of this name, the topmost first: see `headers` of this module."""
        return headers(_crlf(self.content), name)

    def _body(self, kind: str) -> str:
        part = self.email.get_body(preferencelist=(kind,))
        return str(part.get_content()).replace("\r\n", "\n") if part is not None else ""


class Arrivals:
    """Everything that arrived anywhere on a stage, from `async with` on."""

    def __init__(self, stage: Stage) -> None:
        self.all: list[Arrival] = []
        self._stage = stage
        self._came: asyncio.Queue[tuple[Flow, Event] | tuple[str, Received, float]] = asyncio.Queue()
        self._more = asyncio.Event()
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._reading = self._group.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._reading.cancel()
        await self._group.__aexit__(None, None, None)  # what was raised inside leaves as it is, in no group

    def happened(self, flow: Flow, event: Event) -> None:
        """Something happened to a relay."""
        if event.what is Happening.DELIVERED:
            self._came.put_nowait((flow, event))

    def taken(self, host: str, received: Received) -> None:
        """A server of the stage took a message."""
        self._came.put_nowait((host, received, self._stage.clock.now()))

    async def more(self) -> None:
        """Until something has arrived."""
        self._more.clear()
        await self._more.wait()

    async def caught_up(self) -> None:
        """Until all that has come so far is in `all`."""
        await self._came.join()

    async def _read(self) -> None:
        while True:
            match await self._came.get():
                case (flow, event):
                    arrival = await _kept(flow, event)
                case (host, received, at):
                    arrival = await self._sent(host, received, at)
            if arrival is not None:
                self.all.append(arrival)
                self._more.set()
            self._came.task_done()

    async def _sent(self, host: str, received: Received, at: float) -> Arrival:
        """What a server took, with the relay that sent it, if one did."""
        message = _queue_id(received.content)
        wanted = {recipient.lower() for recipient in received.recipients}
        for flow in self._stage.flows.values() if message else ():
            plans = _plans(await flow.trace(message))
            going = {each["address"].lower(): each for plan in plans for each in plan["deliveries"] if _leaves(each)}
            # Else it may have passed the relay on its way to somebody who sent it here.
            if not wanted or not wanted <= going.keys():
                continue
            first = going[received.recipients[0].lower()]
            return Arrival(
                kind=Kind.MAILBOX if first["kind"] == Kind.MAILBOX else Kind.ENDPOINT,
                relay=flow.name,
                sender=received.reverse_path,
                recipients=received.recipients,
                written=_written(plans, wanted),
                content=received.content,
                message=message,
                at=at,
                upstream=host,
                endpoint=first["endpoint"],
                received=received,
            )
        return Arrival(
            kind=Kind.ENDPOINT,
            relay="",
            sender=received.reverse_path,
            recipients=received.recipients,
            written=(),
            content=received.content,
            message="",
            at=at,
            upstream=host,
            received=received,
        )


def headers(content: bytes, name: str) -> list[str]:
    """The values of every header field of this name, the topmost first: unfolded, decoded (RFC 2047), and each run of
    white space one blank."""
    wanted = name.lower().encode()
    return [_decoded(each.value(content)) for each in fields(content) if each.name == wanted]


async def _kept(flow: Flow, event: Event) -> Arrival | None:
    """What stays in the house; None for what a server took."""
    facts = event.facts
    kind = Kind(facts["kind"])
    if kind is Kind.CAPTURE:
        content = await flow.relay.spool.content(event.message)
    elif kind is Kind.MAILBOX and facts["says"] == "maildir":
        content = await asyncio.to_thread(Path(facts["detail"]).read_bytes)
    else:
        return None
    events = await flow.trace(event.message)
    (sender,) = {each.facts["sender"] for each in events if each.what is Happening.RECEIVED}
    return Arrival(
        kind=kind,
        relay=flow.name,
        sender=sender,
        recipients=(facts["address"],),
        written=_written(_plans(events), {facts["address"].lower()}),
        content=content,
        message=event.message,
        at=event.at,
    )


def _plans(events: Sequence[Event]) -> list[Any]:
    """The facts of each recipient's plan."""
    return [event.facts for event in events if event.what is Happening.PLANNED]


def _leaves(delivery: Any) -> bool:
    """Whether a server takes this delivery of a plan: an endpoint's, or the one that has the mailboxes."""
    return bool(delivery["endpoint"]) or delivery["kind"] == Kind.MAILBOX


def _written(plans: Sequence[Any], arrived: set[str]) -> tuple[str, ...]:
    """The recipients of which a plan leads to one of these addresses, which are in lower case."""
    return tuple(
        plan["recipient"]
        for plan in plans
        if any(each["address"].lower() in arrived and each["kind"] != Kind.BOUNCE for each in plan["deliveries"])
    )


def _queue_id(content: bytes) -> str:
    """Under which a relay had this message last; empty where it names none."""
    values = {each.name: each.value(content) for each in reversed(fields(content))}
    newest, own = values.get(b"received"), values.get(b"message-id", b"")
    found = _ID.search(newest) if newest is not None else _DSN.match(own)
    return found[1].decode() if found is not None else ""


def _decoded(value: bytes) -> str:
    text = value.replace(b"\r\n", b"").decode("utf-8", "replace")
    text = str(default.header_factory("Subject", text)) if "=?" in text else text
    return _SPACE.sub(" ", text).strip()


def _crlf(content: bytes) -> bytes:
    """With line ends as on the wire: in a Maildir they are LF."""
    return content if b"\r\n" in content else content.replace(b"\n", b"\r\n")
