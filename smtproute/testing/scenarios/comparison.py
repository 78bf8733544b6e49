"""Comparison: the copies that a scenario expects against those that there are, in any order, and what is not so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smtproute.config.document import Location
from smtproute.testing.arrivals import headers
from smtproute.testing.difference import change
from smtproute.testing.expect import Sealing, missealed
from smtproute.testing.pattern import Pattern, coded
from smtproute.testing.scenarios.notification import notified
from smtproute.testing.scenarios.outcome import Copy
from smtproute.testing.scenarios.scenario import (
    FIRST,
    DsnTable,
    ExpectTable,
    MessageTable,
    Place,
    SealTable,
    Status,
    Unsealed,
)

__all__ = [
    "Difference",
    "Expected",
    "Mismatch",
    "compared",
    "differences",
    "matching",
    "told",
    "unanswered",
]


@dataclass(frozen=True, slots=True)
class Expected:
    """One expectation, with what it says of the message that it stands below."""

    table: ExpectTable
    relay: str
    """Whose delivery it is."""
    sent: tuple[bytes, ...] = ()
    """What was sent, each copy."""
    at: float = 0.0
    """When the first was sent, in seconds since the epoch, on the stage's clock."""
    location: Location = ()
    """Where it stands in its file."""

    @property
    def told(self) -> str:
        """What is expected where: `endpoint external for name@external.example`."""
        endpoint = f" {self.table.endpoint} for" if self.table.place is Place.ENDPOINT else ""
        return f"{self.table.place}{endpoint} {self.table.address}{_on(self.relay)}"


@dataclass(frozen=True, slots=True)
class Difference:
    """One key of an expectation that does not hold."""

    key: Location
    text: str
    """In words: "status is deferred, not delivered"."""
    now: Any = None
    """The value with which it would hold; None: there is none, it would have to go."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """What is not as it was expected: a copy that is otherwise, is missing, or was not expected."""

    expected: Expected | None
    copy: Copy | None
    differences: tuple[Difference, ...] = ()
    instead: tuple[Copy, ...] = ()
    """Of one that is missing: what else there is for its address, or else what went where it should have gone."""

    @property
    def text(self) -> str:
        """All of it; where a difference takes several lines, at its end."""
        if self.expected is None:
            return f"not expected: {' and '.join(map(_shown, self.copies))}"
        if self.copy is None:
            shown = "; instead there is " + " and ".join(map(_shown, self.instead)) if self.instead else ""
            return f"expected {self.expected.told}: there is none{shown}"
        there = "it arrived" if self.copy.content is not None else "it is there"
        wrong = sorted(dict.fromkeys(each.text for each in self.differences), key=lambda text: "\n" in text)
        return f"expected {self.expected.told}: {there}, but {'; '.join(wrong)}"

    @property
    def copies(self) -> tuple[Copy, ...]:
        """Those concerned."""
        return self.instead if self.copy is None else (self.copy,)


def compared(expected: Sequence[Expected], actual: Sequence[Copy], *, nothing_else: bool = True) -> list[Mismatch]:
    """What is not so; with `nothing_else` also every copy that nobody expects.

    Expectations and copies are paired so that as many as can be are met; of the others those that speak of one place
    belong together, the most similar first.
    """
    said = [[differences(each, copy) if _speaks_of(each, copy) else None for copy in actual] for each in expected]
    met = matching([[number for number, row in enumerate(line) if row == []] for line in said])
    left = [number for number in range(len(actual)) if number not in met.values()]
    close = sorted(
        (len(row), at, number)
        for at, line in enumerate(said)
        for number, row in enumerate(line)
        if row is not None and at not in met and number in left
    )
    nearest: dict[int, int] = {}
    for _, at, number in close:
        if at not in nearest and number in left:
            nearest[at] = number
            left.remove(number)
    others = [actual[number] for number in left]
    found = []
    for at, each in enumerate(expected):
        if at in nearest:
            found.append(Mismatch(each, actual[nearest[at]], tuple(said[at][nearest[at]] or ())))
        elif at not in met:
            near = [copy for copy in others if copy.is_for(each.table.address)]
            found.append(Mismatch(each, None, instead=tuple(near or [copy for copy in others if _goes(each, copy)])))
    if nothing_else:
        found += [Mismatch(None, copy) for copy in others]
    return found


def told(mismatches: Sequence[Mismatch]) -> list[str]:
    """Their texts; a copy that stands in the place of a missing one is not named a second time."""
    named = [copy for each in mismatches for copy in each.instead]
    return [each.text for each in mismatches if each.expected is not None or each.copy not in named]


def matching(choices: Sequence[Sequence[int]]) -> dict[int, int]:
    """Of each one at most one of its choices, each taken once, for as many as can be (Kuhn's algorithm)."""
    taken: dict[int, int] = {}

    def place(one: int, tried: set[int]) -> bool:
        for choice in choices[one]:
            if choice not in tried:
                tried.add(choice)
                if choice not in taken or place(taken[choice], tried):
                    taken[choice] = one
                    return True
        return False

    for one in range(len(choices)):
        place(one, set())
    return {one: choice for choice, one in taken.items()}


def unanswered(message: MessageTable, replies: Mapping[str, str]) -> list[Difference]:
    """Which replies are not as the message expects them.

    `replies`: by step and by recipient as it is written; "" where one was due and none came.
    """
    found = []
    for step in dict.fromkeys((*replies, *message.replies)):
        wanted, reply = message.replies.get(step, _usual(step)), replies.get(step, "")
        if not wanted.answers(reply):
            now = None if _usual(step).answers(reply) else coded(reply)
            text = f"expected {step} to be answered {wanted}: the client heard {reply or 'nothing there'}"
            found.append(Difference((step,), text, now))
    return found


def differences(expected: Expected, copy: Copy) -> list[Difference]:
    """What is not so of a copy that goes where it should."""
    return [*_of_delivery(expected, copy), *_of_content(expected, copy)]


def _of_delivery(expected: Expected, copy: Copy) -> Iterator[Difference]:
    table = expected.table
    if copy.status is not table.stands:
        why = f" ({copy.reply})" if copy.reply else ""
        yield _wrong("status", f"is {copy.status}{why}, not {table.stands}", str(copy.status))
    if table.server is not None and not _serves(table.server, copy.server):
        yield _wrong("server", f"is {copy.server or 'none'}, not {table.server}", copy.server or None)
    if table.attempts is not None and copy.attempts != table.attempts:
        yield _wrong("attempts", f"are {copy.attempts}, not {table.attempts}", copy.attempts)
    if table.reply is not None and not table.reply.answers(copy.reply):
        yield _wrong("reply", f"is {copy.reply or 'none'}, not {table.reply}", coded(copy.reply))
    took = copy.at - expected.at
    if table.after is not None and took < table.after:
        yield Difference(("after",), f"it took {took:.1f} s, not {table.after:g} s at least")
    if table.within is not None and took > table.within:
        yield Difference(("within",), f"it took {took:.1f} s, not {table.within:g} s at most")
    if table.sender is not None and not table.sender.holds(copy.sender):
        yield _wrong("sender", f"is <{copy.sender}>, not <{table.sender}>", copy.sender)
    if table.tls is not None and copy.tls is not table.tls:
        how, wanted = ("TLS", "plain text") if copy.tls else ("plain text", "TLS")
        yield Difference(("tls",), f"it went in {how}, not in {wanted}", copy.tls)
    lines = iter(copy.trace)
    for pattern in table.trace:  # each is looked for after the one before it
        if not any(pattern.holds(line) for line in lines):
            yield Difference(("trace",), f"its trace has no line {str(pattern)!r}, or not in this order")
            break


def _of_content(expected: Expected, copy: Copy) -> Iterator[Difference]:
    table, content = expected.table, copy.content
    if content is None:
        for key in ("headers", "absent", "unchanged", "seal", "signed", "dsn"):
            if getattr(table, key) or (isinstance(table.seal, SealTable) and key == "seal"):
                yield Difference((key,), "it did not arrive, so that nothing can be said of its content")
        return
    for name, patterns in table.headers.items():
        values = headers(content, name)
        if not all(any(pattern.holds(value) for value in values) for pattern in patterns):
            there = " and ".join(map(repr, values)) or "not there"
            text = f"{name} is {there}, not {' and '.join(repr(str(pattern)) for pattern in patterns)}"
            yield Difference(("headers", name), text, values or None)
    present = [name for name in table.absent if headers(content, name)]
    if present:
        text = " and ".join(f"{name} is there: {' and '.join(map(repr, headers(content, name)))}" for name in present)
        yield Difference(("absent",), text, [name for name in table.absent if name not in present] or None)
    if table.unchanged and expected.sent and all(change(sent, content) for sent in expected.sent):
        yield Difference(("unchanged",), f"it was changed: {change(expected.sent[0], content)}")
    if table.seal is not None and copy.sealing is not None and (said := _of_seal(table.seal, copy, copy.sealing)):
        yield Difference(("seal",), said, _written(copy.sealing))
    missing = [domain for domain in table.signed if domain not in copy.signed]
    if missing:
        text = f"signed by {', '.join(copy.signed) or 'nobody'}, not by {', '.join(missing)}"
        yield Difference(("signed",), text, list(copy.signed) or None)
    if table.dsn is not None and (wrong := _of_dsn(table.dsn, content)) is not None:
        yield wrong


def _wrong(key: str, text: str, now: Any) -> Difference:
    return Difference((key,), f"{key} {text}", now)


def _of_seal(table: SealTable, copy: Copy, found: Sealing) -> str:
    if isinstance(table, Unsealed):
        return f"{copy.relay} has sealed it: {_pairs(_newest(found))}" if copy.sealed else ""
    return missealed(found, cv=table.cv, i=table.i, domain=table.domain, selector=table.selector)


def _written(found: Sealing) -> dict[str, Any] | None:
    """The newest set as an expectation has it; None where none would hold."""
    written = _newest(found)
    return None if not written or missealed(found, **written) else written


def _newest(found: Sealing) -> dict[str, Any]:
    if not found.sets:
        return {}
    newest = found.sets[-1]
    return {"i": newest.number, "cv": newest.status, "domain": newest.sealer, "selector": newest.selector}


def _of_dsn(table: DsnTable, content: bytes) -> Difference | None:
    said = notified(content)
    if not said:
        return Difference(("dsn",), "it is no delivery status notification")
    written = {key: getattr(table, key) for key in ("recipient", "status", "action", "diagnostic")}
    wanted = {key: str(value) for key, value in written.items() if value is not None}
    for each in said:
        plain = all(each[key].lower() == value.lower() for key, value in wanted.items() if key != "diagnostic")
        if plain and (table.diagnostic is None or table.diagnostic.holds(each["diagnostic"])):
            return None
    shown = " and ".join(_pairs(each) for each in said)
    now = {key: value for key, value in said[0].items() if key in wanted}
    return Difference(("dsn",), f"it says {shown}, not {_pairs(wanted)}", now)


def _pairs(said: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in said.items())


def _speaks_of(expected: Expected, copy: Copy) -> bool:
    """Whether a copy goes where it should, for whom it should."""
    return _goes(expected, copy) and copy.is_for(expected.table.address)


def _goes(expected: Expected, copy: Copy) -> bool:
    """Whether a copy goes where it should, for whomever."""
    table = expected.table
    if copy.relay != expected.relay or copy.place is not table.place:
        return False
    return table.place is not Place.ENDPOINT or copy.endpoint == table.endpoint


def _serves(wanted: Pattern, server: str) -> bool:
    """Whether this is the server, with its port or without."""
    return wanted.holds(server) or wanted.holds(server.rpartition(":")[0])


def _shown(copy: Copy) -> str:
    by = f" by {copy.server}" if copy.server else ""
    reply = f" ({copy.reply})" if copy.reply else ""
    held = "" if copy.status is Status.HELD else f", {copy.status}{by}{reply}"
    return f"{copy.told}{_on(copy.relay)}{held}"


def _on(relay: str) -> str:
    return "" if relay == FIRST else f" on relay {relay}"


def _usual(step: str) -> Pattern:
    """What is answered where nothing is said of it."""
    return Pattern({"CONNECT": "220", "AUTH": "235"}.get(step, "250"))
