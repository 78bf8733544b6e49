"""Report: what a test says that fails. What was expected, what arrived instead, the way of it, how to see it again."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from smtproute.core.event import Event
from smtproute.core.settings import Kind
from smtproute.core.transcript import legible
from smtproute.trace.columns import columns
from smtproute.trace.text import clock, render

if TYPE_CHECKING:
    from smtproute.testing.arrivals import Arrival

__all__ = ["MailAssertion", "again", "arrived", "cut", "failure", "folded"]

_ROWS = 20
"""Messages that the table has."""
_TRACES = 5
_FIRST, _LAST = 60, 60
"""Lines of one trace: how it began, and how it ended."""
_WIDTH = 240
"""Characters of one line of a trace."""
_CELLS = {"place": 38, "from": 26, "to": 26, "subject": 26}
"""Characters of these columns, at most."""


_OFFER = re.compile(r" +[0-9:.]+ \S+ 250([ -])(.*)")
"""In a transcript, a line of what EHLO offers."""


class MailAssertion(AssertionError):
    """Mail did not do what a test expects of it; the message is the whole report."""


MailAssertion.__module__ = "smtproute.testing"  # as tests know it, and as pytest shows it


def cut(text: str, width: int) -> str:
    """The text in one legible line of so many characters at most."""
    text = legible(text)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def again(seed: int, how: str) -> str:
    """How the same is seen again. `how` says where the seed is given, of which it has `{}`."""
    return f"seed {seed}: reproduce with {how.format(seed)}"


def arrived(arrivals: Sequence[Arrival], concerned: Collection[str] = (), meant: Collection[int] = ()) -> str:
    """What arrived, as a table, in order. Where that is too much, the messages `concerned` (queue ids) are in it.

    Rows that are `meant` (numbers, from 1) are marked, unless all are.
    """
    if not arrivals:
        return "nothing arrived"
    numbered = list(enumerate(arrivals, 1))
    marked = {*meant} if len(meant) < len(arrivals) else set()
    first = sorted(numbered, key=lambda each: (each[0] not in marked, each[1].message not in concerned))
    shown = sorted(first[:_ROWS], key=lambda each: each[0])
    days = {_when(each)[:10] for _, each in shown}
    head = ["", f"{min(days)} UTC" if len(days) == 1 else "when (UTC)", *_CELLS, "octets"]
    relays = len({each.relay for each in arrivals}) > 1
    table = columns([head, *(_row(number, each, len(days) == 1, relays) for number, each in shown)], right={0, 6})
    table[1:] = [f"{'>' if number in marked else ' '} {row}" for (number, _), row in zip(shown, table[1:], strict=True)]
    table[0] = f"  {table[0]}"
    more = [f"  {len(arrivals) - len(shown)} more"] if len(shown) < len(arrivals) else []
    count = "1 message" if len(arrivals) == 1 else f"{len(arrivals)} messages"
    told = ", of which those marked > are meant" if marked else ""
    return "\n".join([f"{count} arrived{told}:", *table, *more])


def failure(
    expected: str,
    *,
    arrivals: Sequence[Arrival] | None = None,
    traces: Sequence[Sequence[Event]] = (),
    again: str = "",
    more: Sequence[str] = (),
    meant: Collection[int] = (),
) -> str:
    """The whole report, the most important first.

    `expected`: what was expected, and in what way it is not so. `more`: what explains that, a block of lines each.
    `arrivals`: everything that arrived; None where nothing was sent. `traces`: of each message concerned its events,
    the likeliest first. `again`: see `again`. `meant`: see `arrived`.
    """
    blocks = [expected, *more]
    if arrivals is not None:
        blocks.append(arrived(arrivals, {event.message for trace in traces for event in trace}, meant))
    blocks += [_trace(trace) for trace in traces[:_TRACES] if trace]
    if len(traces) > _TRACES:
        blocks.append(f"{len(traces) - _TRACES} more traces")
    return "\n\n".join([*blocks, *([again] if again else [])])


def _row(number: int, arrival: Arrival, same_day: bool, relays: bool) -> list[str]:
    when = clock(arrival.at) if same_day else _when(arrival)
    cells = {
        "place": f"{_place(arrival)} by {arrival.relay}" if relays and arrival.relay else _place(arrival),
        "from": f"<{arrival.sender}>",
        "to": ", ".join(arrival.recipients),
        "subject": arrival.subject,
    }
    return [
        str(number),
        when,
        *(cut(cells[name], width) for name, width in _CELLS.items()),
        str(len(arrival.content)),
    ]


def _when(arrival: Arrival) -> str:
    return datetime.fromtimestamp(arrival.at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _place(arrival: Arrival) -> str:
    if arrival.kind is Kind.ENDPOINT:
        return f"{arrival.endpoint} at {arrival.upstream}" if arrival.endpoint else arrival.upstream
    return str(arrival.kind)


def folded(lines: Sequence[str]) -> list[str]:
    """The lines of transcripts, with all that EHLO offers in one."""
    found: list[str] = []
    goes_on = False
    for line in lines:
        offer = _OFFER.fullmatch(line)
        if goes_on and offer is not None:
            found[-1] += f", {offer[2]}"
        else:
            found.append(line)
        goes_on = offer is not None and offer[1] == "-"
    return found


def _trace(events: Sequence[Event]) -> str:
    lines = [cut(line, _WIDTH) for line in folded(render(events))]
    left = len(lines) - _FIRST - _LAST
    if left > 0:
        lines[_FIRST:-_LAST] = [f"... {left} lines ..."]
    return "\n".join(lines)
