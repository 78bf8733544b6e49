"""Record: a scenario of what a live relay just did, from its configuration file and its spool.

The servers answer as they did, the client sends what it sent, and every delivery is expected to end as it ended.
What a scenario cannot have, it says at its top. Secrets are never in it.
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, assert_never

from smtproute.config.document import PREFIX
from smtproute.core.address import written_ip
from smtproute.core.event import Event, Happening
from smtproute.core.message import fields
from smtproute.core.settings import Authentication, Discover, Endpoint, EndpointTls, ListenerTls, Settings
from smtproute.core.transcript import Arrow
from smtproute.mailauth.canonical import relaxed_field
from smtproute.mailauth.signature import read_tags
from smtproute.spool.queue import SpoolFailed
from smtproute.spool.reading import Reading
from smtproute.testing.pattern import coded
from smtproute.testing.rules import Verb
from smtproute.testing.scenarios import toml
from smtproute.testing.scenarios.exchanges import exchanges, script
from smtproute.testing.scenarios.notification import notified
from smtproute.testing.scenarios.outcome import Copy, copies
from smtproute.testing.scenarios.scenario import FIRST, Down, Place, Status
from smtproute.testing.staging import PASSWORD

__all__ = ["NotRecorded", "Recorded", "latest", "record"]

_LONG = 64 * 1024
"""Octets; a larger content stands in a file of its own."""
_PAGE = 100
_UNKNOWN = "PASSWORD"
"""Stands for a client's."""
_UNREPEATED = {
    Happening.RELEASED: "an operator released it",
    Happening.RETRIED: "an operator had it tried at once",
    Happening.REMOVED: "an operator removed it",
}


class NotRecorded(Exception):
    """There is nothing to record of a message; the text says why."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What is to be written."""

    text: str
    """The scenario."""
    beside: Mapping[str, bytes]
    """Files that it names, by name, for the same folder."""


async def latest(spool: Reading, number: int = 1) -> list[str]:
    """The queue ids of the last messages that clients sent, oldest first. Raises SpoolFailed."""
    found: dict[str, None] = {}
    cursor = ""
    while True:
        page = await spool.read(cursor, _PAGE, unfinished=False)
        for entry in page.entries:
            if not entry.message.bounce:
                found[entry.message.id] = None
            if len(found) > number:
                break
        cursor = page.cursor
        if not cursor or len(found) > number:
            return [*reversed([*found][:number])]


async def record(
    spool: Reading,
    messages: Sequence[str],
    file: Path,
    *,
    config: str | None,
    settings: Settings,
    environ: Mapping[str, str],
) -> Recorded:
    """The scenario of these messages, to be written into `file`; of a DSN it is that of the message it is about.

    `config`: the relay's configuration file, None where it has none; `settings`: what it says. Raises NotRecorded and
    SpoolFailed.
    """
    taken: dict[str, _Taken] = {}
    for message in messages:
        each = await _taken(spool, message)
        taken[each.id] = each
    return _Recording(sorted(taken.values(), key=lambda each: each.at), file, settings).written(config, environ)


@dataclass(slots=True)
class _Taken:
    """A message with all that is known of it."""

    id: str
    events: list[Event]
    content: bytes | None
    """None where it is not kept any more."""
    waiting: list[str]
    """Whose copies were not tried yet."""
    bounces: dict[str, bytes | None] = field(default_factory=dict)
    """The content of each DSN about it, by queue id."""

    @property
    def received(self) -> Event:
        return next(event for event in self.events if event.what is Happening.RECEIVED)

    @property
    def at(self) -> float:
        return self.received.at

    def of(self, what: Happening) -> list[Event]:
        """The events of one kind."""
        return [event for event in self.events if event.what is what]


async def _taken(spool: Reading, message: str) -> _Taken:
    """Raises NotRecorded and SpoolFailed."""
    events = [event for _, event in await spool.events(message)]
    received = next((event for event in events if event.what is Happening.RECEIVED), None)
    if received is None:
        raise NotRecorded(f"there is no message {message}, or its events are not kept any more")
    if "bounce_of" in received.facts:
        return await _taken(spool, received.facts["bounce_of"])
    untried = [entry for entry in await spool.entries(message) if not entry.attempts and not entry.state.finished]
    waiting = [str(entry.delivery.address) for entry in untried if not entry.delivery.held]
    taken = _Taken(message, events, await _content(spool, message), waiting)
    for event in taken.of(Happening.BOUNCED):
        if dsn := event.facts["dsn"]:
            taken.events += [event for _, event in await spool.events(dsn)]
            taken.bounces[dsn] = await _content(spool, dsn)
    return taken


async def _content(spool: Reading, message: str) -> bytes | None:
    try:
        return await spool.content(message)
    except SpoolFailed:
        return None


class _Recording:
    """Several messages on their way into one scenario."""

    def __init__(self, taken: Sequence[_Taken], file: Path, settings: Settings) -> None:
        self._taken = taken
        self._file = file
        self._settings = settings
        self._recipients = {
            (event.message, event.delivery): str(event.facts["address"])
            for each in taken
            for event in each.events
            if "address" in event.facts
        }
        """Whose each delivery is, by queue id and number."""
        self._beside: dict[str, bytes] = {}
        self._notes: dict[str, None] = {}
        """What cannot be played again."""

    def written(self, config: str | None, environ: Mapping[str, str]) -> Recorded:
        """The whole."""
        lines: list[str] = []
        if config is not None:
            folder = self._file.absolute().parent
            lines += [toml.assignment("config", os.path.relpath(Path(config).absolute(), folder))]
        if variables := sorted(name for name in environ if name.startswith(PREFIX)):
            self._notes[f"what the environment set: {', '.join(variables)}"] = None
        attempts = [event for each in self._taken for event in each.of(Happening.ATTEMPT)]
        attempts.sort(key=lambda event: event.at)
        lines += self._dns(attempts)
        lines += self._servers(attempts)
        for number, taken in enumerate(self._taken):
            following = self._taken[number + 1].at if number + 1 < len(self._taken) else None
            lines += self._message(taken, following)
        first = self._taken[0]
        now = datetime.fromtimestamp(int(first.at), UTC)
        ids = ", ".join(each.id for each in self._taken)
        head = [f"# Recorded from a live relay: {ids}."]
        if self._notes:
            head += ["# Not played again as it was:", *(f"# - {note}" for note in self._notes)]
        facts = first.received.facts
        title = f"{facts['sender'] or '<>'} to {', '.join(_heard(first))}, as it went on {now:%Y-%m-%d}"
        head += [toml.assignment("title", title), toml.assignment("now", now)]
        return Recorded("\n".join([*head, *lines, ""]), self._beside)

    # Who is there

    def _dns(self, attempts: Sequence[Event]) -> list[str]:
        """What DNS said of the servers that were asked, as far as that can be told."""
        names: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for event in attempts:
            host, ip = _host(event), event.facts["ip"]
            if "/" not in host and written_ip(host) is None:  # neither a socket nor an IP address
                for owner in self._owners(event):
                    if owner.lower() != host.lower():
                        _add(names[owner.lower()]["MX"], host)
                if not ip_address(ip).is_loopback:
                    _add(names[host.lower()]["AAAA" if ":" in ip else "A"], ip)
        lines = []
        for name, records in names.items():
            lines += ["", toml.header(("dns", name))] if records else []
            for type_, values in records.items():
                if type_ == "MX":
                    values = [f"{10 * number} {value}" for number, value in enumerate(values, 1)]
                lines.append(toml.assignment(type_, values))
        return lines

    def _owners(self, attempt: Event) -> list[str]:
        """The domains by whose MX a server was found."""
        endpoint = self._endpoint(attempt)
        match endpoint.discover:
            case Discover.A:
                return []
            case Discover.MX:
                servers = [each.host for each in (*endpoint.servers, *endpoint.backup)]
                return servers if len(servers) == 1 else []
            case Discover.RECIPIENT:
                numbers = [(attempt.message, number) for number in attempt.facts["recipients"]]
                return [self._recipients[each].rpartition("@")[2] for each in numbers if each in self._recipients]
            case _:
                assert_never(endpoint.discover)

    def _servers(self, attempts: Sequence[Event]) -> list[str]:
        """How each server answered, where it did not simply take the mail."""
        asked: dict[str, list[Event]] = defaultdict(list)
        for event in attempts:
            asked[_host(event).lower()].append(event)
        lines = []
        for host, events in asked.items():
            transcripts = [event.facts["transcript"] for event in events]
            down = [why for each in transcripts if (why := _not_connected(each))]
            keys: dict[str, Any] = {}
            if len(down) == len(transcripts):
                keys["down"] = str(_down(down[-1]))
            elif down:
                self._notes[f"{host} could not be connected to {len(down)} times ({down[-1]})"] = None
            elif any(_without_tls(each) for each in transcripts):
                keys["tls"] = "none"
            if any(text.startswith("LHLO ") for each in transcripts for _, _, text in each):
                keys["lmtp"] = True
            rules = script([exchanges(each) for each in transcripts])
            endpoint = self._endpoint(events[-1])
            if keys or rules:
                keys |= self._entering(endpoint, host)
            if keys or rules or host not in (each.host for each in (*endpoint.servers, *endpoint.backup)):
                lines += ["", toml.header(("upstream", host)), *_assignments(keys)]
            for rule in rules:
                lines += [toml.header(("upstream", host, "rule"), one_of_several=True), *_assignments(rule)]
        return lines

    def _entering(self, endpoint: Endpoint, host: str) -> dict[str, Any]:
        """What the relay needs of a server before it sends."""
        keys: dict[str, Any] = {"tls": "implicit"} if endpoint.tls is EndpointTls.IMPLICIT else {}
        if endpoint.username:
            self._notes[f"the password of {endpoint.username} at {host}: {PASSWORD!r} stands for it"] = None
            keys["users"] = {endpoint.username: PASSWORD}
        return keys

    def _endpoint(self, attempt: Event) -> Endpoint:
        """To which endpoint an attempt belongs; one that is in no configuration has no servers."""
        return self._settings.endpoints.get(attempt.facts["endpoint"], Endpoint(""))

    # What was sent, and what came of it

    def _message(self, taken: _Taken, following: float | None) -> list[str]:
        facts = taken.received.facts
        keys: dict[str, Any] = {"listener": facts["listener"]}
        if facts["client"] != "127.0.0.1":
            keys["client"] = facts["client"]
        if facts["helo"]:
            keys["helo"] = facts["helo"]
        keys |= self._login(facts)
        keys |= {"from": facts["sender"], "to": _heard(taken)}
        if (within := _within(taken, following)) > 0:
            keys["within"] = f"{within}s"
        lines = ["", "[[message]]", *_assignments(keys), *self._letter(taken)]
        if replies := _replies(taken):
            lines += ["", "[message.replies]", *_assignments(replies)]
        found = copies(FIRST, taken.events)
        for copy in found:
            lines += ["", "[[message.expect]]", *_assignments(self._expected(taken, copy))]
        self._explain(taken, found)
        return lines

    def _login(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """How the client proved who it is."""
        listener = self._settings.listeners.get(facts["listener"])
        starttls = bool(facts["tls"]) and (listener is None or listener.tls is ListenerTls.STARTTLS)
        keys: dict[str, Any] = {"tls": True} if starttls else {}
        if facts["login"]:
            self._notes[f"the login of {facts['login']}: write its password in the place of {_UNKNOWN}"] = None
            keys["login"] = [facts["login"], _UNKNOWN]
        elif facts.get("named"):
            keys["login"] = [facts["named"], _UNKNOWN]
        return keys

    def _letter(self, taken: _Taken) -> list[str]:
        """The content, here or in a file."""
        content = taken.content
        if content is None:
            self._notes[f"the content of {taken.id}, which is not kept any more: a short letter stands for it"] = None
            return []
        if re.search(rb"(?<!\r)\n", content):
            self._notes[f"the line ends of {taken.id} that are LF alone"] = None
        text = _readable(content)
        if text is not None:
            return [f"content = {toml.paragraph(text)}"]
        name = f"{self._file.stem}-{taken.id}.eml"
        self._beside[name] = content
        return [toml.assignment("file", name)]

    def _expected(self, taken: _Taken, copy: Copy) -> dict[str, Any]:
        """One delivery, as an expectation has it."""
        keys: dict[str, Any] = {str(copy.place): copy.endpoint or copy.address}
        if copy.place is Place.ENDPOINT:
            keys["to"] = copy.address
        if copy.status is not copy.place.usual:
            keys["status"] = str(copy.status)
        if copy.attempts > 1:
            keys["attempts"] = copy.attempts
        if copy.status in (Status.DEFERRED, Status.FAILED) and copy.reply:
            keys["reply"] = copy.reply
        attempt = _attempt(taken, copy)
        if copy.place is Place.ENDPOINT and attempt is not None:
            facts = attempt.facts
            keys["server"] = facts["server"]
            if facts["rewritten"]:
                keys["sender"] = f"{facts['sender'][:4]}*"
            if copy.status is Status.DELIVERED:
                keys["tls"] = bool(facts["tls"])
                if signed := [each["domain"] for each in facts["signed"]]:
                    keys["signed"] = signed
                if facts["sealed"]:
                    keys["seal"] = self._seal(facts)
        if copy.message in taken.bounces:
            for said in notified(taken.bounces[copy.message] or b"")[:1]:
                keys["dsn"] = {key: said[key] for key in ("recipient", "status", "action")}
        return keys

    def _seal(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The seal that a copy got."""
        prepended = facts["prepended"].encode("latin-1") + b"\r\n"
        (ours,) = (each.raw(prepended) for each in fields(prepended) if each.name == b"arc-seal")
        tags = read_tags(relaxed_field(ours).partition(b":")[2].strip(), len(ours), Authentication().signature_size)
        seal: dict[str, Any] = {"i": int(tags[b"i"])}
        if tags[b"cv"] == b"none":
            seal["cv"] = "none"
        else:
            self._notes["what became of ARC sets of others, whose keys are not known here"] = None
        return seal | {"domain": facts["sealed"]}

    def _explain(self, taken: _Taken, found: Sequence[Copy]) -> None:
        """Notes what hangs on something that the scenario does not have."""
        judged = [text for event in taken.of(Happening.VERDICT) for text in event.facts["verdicts"]]
        if found_something := [text for text in judged if "=none" not in text.split(" ")[0]]:
            said = "; ".join(found_something)
            self._notes[f"the DNS of those who sent {taken.id}, on which hung what was found of it: {said}"] = None
        for event in taken.events:
            if what := _UNREPEATED.get(event.what):
                self._notes[f"{taken.id}: {what}"] = None
            elif event.what is Happening.HELD and "rule" not in event.facts:
                self._notes[f"{taken.id}: an operator held it"] = None
        for copy in found:
            if copy.place is Place.ENDPOINT and copy.status is Status.DEFERRED and _attempt(taken, copy) is None:
                self._notes[f"why no server was asked for {copy.address}: {copy.reply}"] = None
        for address in taken.waiting:
            self._notes[f"the copy for {address}, which had not been tried yet"] = None


def _heard(taken: _Taken) -> list[str]:
    """The recipients as the client said them."""
    said = [
        each.path or "postmaster"
        for each in exchanges(taken.received.facts["transcript"], server=True)
        if each.verb is Verb.RCPT and each.reply[:1] in "245"
    ]
    planned = [event.facts["recipient"] for event in taken.of(Happening.PLANNED) if event.message == taken.id]
    known = {each.lower() for each in said}
    return [*dict.fromkeys([*said, *(each for each in planned if each.lower() not in known and not said)])]


def _replies(taken: _Taken) -> dict[str, str]:
    """What the client heard, where that is not simply 250."""
    said = exchanges(taken.received.facts["transcript"], server=True)
    replies = {each.path: _codes(each.reply) for each in said if each.verb is Verb.RCPT and each.refused}
    for event in taken.of(Happening.ANSWERED):
        if not event.facts["reply"].startswith("2"):
            replies["DATA"] = _codes(event.facts["reply"])
    return replies


def _codes(reply: str) -> str:
    """The codes with which a reply begins: what follows may name the client."""
    return coded(reply) or reply


def _within(taken: _Taken, following: float | None) -> int:
    """Seconds that pass after the message: up to the next one, or until all had happened, and nothing after that."""
    if following is not None:
        return int(following - taken.at)
    ends = [
        event for event in taken.events if event.what in (Happening.DELIVERED, Happening.DEFERRED, Happening.FAILED)
    ]
    if not ends:
        return 0
    last = max(event.at for event in ends)
    waiting = {event.delivery: event.facts["retry_at"] for event in ends if event.message == taken.id}
    due = [hour for hour in waiting.values() if hour is not None]
    if due:
        return int((last + min(due)) / 2 - taken.at)
    return math.ceil(last - taken.at) if last - taken.at >= 1 else 0


def _attempt(taken: _Taken, copy: Copy) -> Event | None:
    """The last dialogue about a copy."""
    about = [
        event
        for event in taken.of(Happening.ATTEMPT)
        if event.message == copy.message and copy.number in event.facts["recipients"]
    ]
    return about[-1] if about else None


def _readable(content: bytes) -> str | None:
    """The content as a text that can stand in the scenario; None for one that cannot, or is too long."""
    try:
        text = content.replace(b"\r\n", b"\n").decode()
    except UnicodeDecodeError:
        return None
    return None if len(content) > _LONG or re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text) else text


def _assignments(keys: Mapping[str, Any]) -> list[str]:
    return [toml.assignment(name, value) for name, value in keys.items()]


def _host(attempt: Event) -> str:
    host, colon, port = str(attempt.facts["server"]).rpartition(":")
    return host if colon and port.isdecimal() else str(attempt.facts["server"])


def _add(values: list[str], value: str) -> None:
    if value not in values:
        values.append(value)


def _not_connected(transcript: Sequence[Sequence[Any]]) -> str:
    """Why there was no connection; "" where there was one."""
    if any(arrow != Arrow.NOTE for arrow, _, _ in transcript):
        return ""
    notes = [text for _, _, text in transcript if text.startswith("not connected to ")]
    return notes[-1].rpartition(": ")[2] if notes else ""


def _down(why: str) -> Down:
    """In what way a server is down to whom it meets so."""
    if why.startswith("no connection within"):
        return Down.SILENT
    return Down.REFUSED if "refused" in why else Down.UNREACHABLE


def _without_tls(transcript: Sequence[Sequence[Any]]) -> bool:
    """Whether a server that was greeted offered no STARTTLS."""
    greeted = [each for each in exchanges(transcript) if each.verb is Verb.EHLO and not each.refused]
    return bool(greeted) and not any("STARTTLS" in each.reply.upper().split("\n") for each in greeted)
