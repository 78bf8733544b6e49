"""Acceptance: how a scenario's expectations would have to be changed to hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from smtproute.config.document import Location
from smtproute.intake.explain import Explained
from smtproute.testing.expect import route
from smtproute.testing.scenarios.comparison import Difference, Mismatch, coded
from smtproute.testing.scenarios.outcome import Copy
from smtproute.testing.scenarios.scenario import ExplainTable, Place, Status
from smtproute.testing.scenarios.update import Append, Change, Put, Remove

__all__ = ["accepted", "accepted_replies", "accepted_routes"]

_USUAL = {Place.HELD: Status.HELD, Place.BOUNCE: Status.FAILED}
"""What an expectation means that names no status; of all others it is delivered."""


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


def accepted(at: Location, relay: str, mismatches: Iterable[Mismatch]) -> Iterator[Change]:
    """For the expectations of messages; what none of them expects comes under the message at `at`, sent to `relay`."""
    for mismatch in mismatches:
        expected, copy = mismatch.expected, mismatch.copy
        if expected is None and copy is not None:
            yield Append((*at, "expect"), _table(copy, relay))
        elif expected is not None and copy is None:
            yield Remove(expected.location)
        elif expected is not None:
            for each in mismatch.differences:
                place = (*expected.location, *each.key)
                yield Put(place, each.now) if each.now is not None else Remove(place)


def _table(copy: Copy, relay: str) -> dict[str, Any]:
    """An expectation of this copy."""
    table: dict[str, Any] = {str(copy.place): copy.endpoint if copy.place is Place.ENDPOINT else copy.address}
    if copy.place is Place.ENDPOINT:
        table["to"] = copy.address
    if copy.relay != relay:
        table["relay"] = copy.relay
    if copy.status is not _USUAL.get(copy.place, Status.DELIVERED):
        table["status"] = str(copy.status)
    return table
