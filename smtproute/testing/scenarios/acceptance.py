"""Acceptance: how a scenario's expectations would have to be changed to hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from smtproute.config.document import Location
from smtproute.intake.explain import Explained
from smtproute.testing.expect import route
from smtproute.testing.pattern import coded
from smtproute.testing.scenarios.comparison import Difference, Expected, Mismatch, differences
from smtproute.testing.scenarios.outcome import Copy
from smtproute.testing.scenarios.scenario import ExplainTable, MessageTable, Place
from smtproute.testing.scenarios.update import Append, Change, Put, Remove

__all__ = ["accepted", "accepted_replies", "accepted_routes"]


def accepted_routes(at: Location, table: ExplainTable, explained: Explained) -> Iterator[Change]:
    """For the table of an explanation: its reply and its routes."""
    yield Put((*at, "routes"), [route(leg.delivery) for leg in explained.legs])
    if not table.reply.answers(explained.plan.reply):
        yield Put((*at, "reply"), coded(str(explained.plan.reply)))


def accepted_replies(at: Location, differences: Iterable[Difference], written: Iterable[str]) -> Iterator[Change]:
    """For the table of a message: what the client heard; `written` are the keys that its replies have."""
    written = set(written)
    for each in differences:
        (step,) = each.key
        if each.now is not None:
            yield Put((*at, "replies", step), each.now)
        elif step in written:
            yield Remove((*at, "replies", step))


def accepted(at: Location, message: MessageTable, mismatches: Iterable[Mismatch]) -> Iterator[Change]:
    """For the expectations of messages; what none of them expects comes under `message`, which stands at `at`.

    Where a copy is missing and one of its kind was not expected, the expectation speaks of that one from now on, and
    keeps what holds of it.
    """
    missing: dict[Location, list[Expected]] = {}
    found: dict[str, list[Copy]] = {}
    """Alike, and so of one expectation."""
    for mismatch in mismatches:
        expected, copy = mismatch.expected, mismatch.copy
        if expected is None and copy is not None:
            found.setdefault(repr(_table(copy, message.relay)), []).append(copy)
        elif expected is not None and copy is None:
            missing.setdefault(expected.location, []).append(expected)
        elif expected is not None:
            yield from _changed(expected, mismatch.differences)
    whole = {at: several[0] for at, several in missing.items() if len(several) == _count(several[0])}
    instead = _nearest(whole, found)
    for location, several in missing.items():
        expected, count = several[0], _count(several[0])
        if location not in whole:
            yield Put((*location, "copies"), count - len(several))
        elif location not in instead:
            yield Remove(location)
        else:
            copies = found.pop(instead[location])
            yield from _replaced(expected, copies[0])
            if len(copies) != count:
                yield Put((*location, "copies"), len(copies))
    for copies in found.values():
        table = _table(copies[0], message.relay)
        if len(copies) != message.copies:
            table["copies"] = len(copies)
        yield Append((*at, "expect"), table)


def _count(expected: Expected) -> int:
    """How many copies it is about."""
    return expected.table.copies or len(expected.sent)


def _nearest(missing: Mapping[Location, Expected], found: Mapping[str, Sequence[Copy]]) -> dict[Location, str]:
    """Of each that is missing the copies of its kind that are most like it, where there are any left."""
    pairs = sorted(
        (
            (_likeness(expected, copies[0]), at, name)
            for at, expected in missing.items()
            for name, copies in found.items()
        ),
        key=lambda pair: pair[0],
        reverse=True,
    )
    nearest: dict[Location, str] = {}
    for _, at, name in pairs:
        if at not in nearest and name not in nearest.values() and found[name][0].place is missing[at].table.place:
            nearest[at] = name
    return nearest


def _likeness(expected: Expected, copy: Copy) -> tuple[bool, bool, float]:
    address = SequenceMatcher(None, copy.address, str(expected.table.address)).ratio()
    return copy.relay == expected.relay, copy.endpoint == (expected.table.endpoint or ""), address


def _replaced(expected: Expected, copy: Copy) -> Iterator[Change]:
    """An expectation that is to speak of another copy of its kind."""
    if copy.relay != expected.relay:
        yield Put((*expected.location, "relay"), copy.relay)
    if copy.place is Place.ENDPOINT and copy.endpoint != expected.table.endpoint:
        yield Put((*expected.location, "endpoint"), copy.endpoint)
    if not copy.is_for(expected.table.address):
        key = "to" if copy.place is Place.ENDPOINT else str(copy.place)
        yield Put((*expected.location, key), copy.address)
    yield from _changed(expected, differences(expected, copy))


def _changed(expected: Expected, wrong: Iterable[Difference]) -> Iterator[Change]:
    """An expectation of which some keys do not hold."""
    for each in wrong:
        place = (*expected.location, *each.key)
        yield Put(place, each.now) if each.now is not None else Remove(place)


def _table(copy: Copy, relay: str) -> dict[str, Any]:
    """An expectation of this copy."""
    table: dict[str, Any] = {str(copy.place): copy.endpoint if copy.place is Place.ENDPOINT else copy.address}
    if copy.place is Place.ENDPOINT:
        table["to"] = copy.address
    if copy.relay != relay:
        table["relay"] = copy.relay
    if copy.status is not copy.place.usual:
        table["status"] = str(copy.status)
    return table
