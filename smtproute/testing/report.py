"""Report: what a test says that fails. What was expected, what arrived instead, the way of it, how to see it again."""

from __future__ import annotations

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

__all__ = ["MailAssertion", "arrived", "cut", "failure"]

_ROWS = 20
"""Messages that the table has."""
_TRACES = 5
_FIRST, _LAST = 60, 60
"""Lines of one trace: how it began, and how it ended."""
_WIDTH = 240
"""Characters of one line of a trace."""
_CELLS = {"place": 38, "from": 26, "to": 26, "subject": 26}
"""Characters of these columns, at most."""


class MailAssertion(AssertionError):
    """Mail did not do what a test expects of it; the message is the whole report."""


def cut(text: str, width: int) -> str:
    """The text in one legible line of so many characters at most."""
    text = legible(text)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def arrived(arrivals: Sequence[Arrival], concerned: Collection[str] = ()) -> str:
    """What arrived, as a table, in order. Where that is too much, the messages `concerned` (queue ids) are in it."""
    if not arrivals:
        return "nothing arrived"
    numbered = list(enumerate(arrivals, 1))
    first = sorted(numbered, key=lambda each: each[1].message not in concerned)
    shown = sorted(first[:_ROWS], key=lambda each: each[0])
    days = {_when(each)[:10] for _, each in shown}
    head = ["", f"{min(days)} UTC" if len(days) == 1 else "when (UTC)", *_CELLS, "octets"]
    relays = len({each.relay for each in arrivals}) > 1
    table = columns([head, *(_row(number, each, len(days) == 1, relays) for number, each in shown)], right={0, 6})
    more = [f"  {len(arrivals) - len(shown)} more"] if len(shown) < len(arrivals) else []
    count = "1 message" if len(arrivals) == 1 else f"{len(arrivals)} messages"
    return "\n".join([f"{count} arrived:", *(f"  {line}" for line in table), *more])


def failure(
    expected: str,
    *,
    arrivals: Sequence[Arrival] | None = None,
    traces: Sequence[Sequence[Event]] = (),
    seed: int | None = None,
    more: Sequence[str] = (),
) -> str:
    """The whole report, the most important first.

    `expected`: what was expected, and in what way it is not so. `more`: what explains that, a block of lines each.
    `arrivals`: everything that arrived; None where nothing was sent. `traces`: of each message concerned its events,
    the likeliest first. `seed`: of the stage; None where nothing was left to chance.
    """
    blocks = [expected, *more]
    if arrivals is not None:
        blocks.append(arrived(arrivals, {event.message for trace in traces for event in trace}))
    blocks += [_trace(trace) for trace in traces[:_TRACES] if trace]
    if len(traces) > _TRACES:
        blocks.append(f"{len(traces) - _TRACES} more traces")
    if seed is not None:
        blocks.append(f"seed {seed}: reproduce with --smtproute-seed {seed}")
    return "\n\n".join(blocks)


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


def _trace(events: Sequence[Event]) -> str:
    lines = [cut(line, _WIDTH) for line in render(events)]
    left = len(lines) - _FIRST - _LAST
    if left > 0:
        lines[_FIRST:-_LAST] = [f"... {left} lines ..."]
    return "\n".join(lines)
