"""Tables: the SQL of each verb. Functions over a connection; who commits is the caller.

What the relay writes all day goes in many rows a statement: each statement gives up the interpreter lock and has to
win it back from a busy event loop, so that statements, not rows, are what a commit costs.

SQLite 3.33 is enough (UPDATE FROM).
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar, assert_never

from smtproute.core.event import Event, Happening
from smtproute.core.outcome import Result
from smtproute.spool import codec
from smtproute.spool.queue import Change, Entry, Message, Settlement, SpoolFailed, State
from smtproute.spool.schema import Body, KeptFor

__all__ = [
    "Dropped",
    "Due",
    "Found",
    "Rows",
    "change",
    "content",
    "drop_content",
    "drop_excess_captures",
    "drop_messages",
    "due",
    "entries",
    "events",
    "next_number",
    "page",
    "unfinished_octets",
    "wants_body",
    "write",
]

_CHUNK = 64
"""Rows a statement at most; smaller powers of two for the rest, so that few statement texts are ever compiled."""

T = TypeVar("T")

_UNFINISHED = "state IN ('queued', 'held')"
_NO_UNFINISHED = f"NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.message = message.id AND {_UNFINISHED})"


@dataclass(slots=True)
class Rows:
    """What verbs want written, ready to be bound; the rows of many callers make one."""

    messages: list[tuple[int, str, float, int, str, str, str, float]] = field(default_factory=list)
    contents: list[tuple[int, bytes]] = field(default_factory=list)
    deliveries: list[tuple[str, int, str, int, float, str, str, str]] = field(default_factory=list)
    events: list[tuple[str, int | None, str, float, str]] = field(default_factory=list)
    settlements: list[tuple[str, int, str, float, float | None, str]] = field(default_factory=list)
    settled_at: float = 0.0
    unfinished: int = 0
    """Octets of the messages among these that have something to deliver."""

    @property
    def octets(self) -> int:
        """Of content."""
        return sum(len(content) for _, content in self.contents)

    def message(self, number: int, message: Message, body: Body, deliveries: int) -> None:
        if deliveries:
            self.unfinished += message.size
        self.messages.append(
            (
                number,
                message.id,
                message.received_at,
                message.size,
                codec.pack_message(message),
                body.value,
                (KeptFor.DELIVERY if deliveries else KeptFor.CONTENT).value,
                message.received_at,
            )
        )

    def delivery(self, entry: Entry) -> None:
        self.deliveries.append(
            (
                entry.message.id,
                entry.number,
                entry.state.value,
                entry.attempts,
                entry.due_at,
                entry.last,
                codec.pack_delivery(entry.delivery),
                entry.place,
            )
        )

    def event(self, event: Event) -> None:
        facts = codec.pack_facts(event.facts)
        self.events.append((event.message, event.delivery, event.what.value, event.at, facts))

    def settle(self, settlement: Settlement) -> None:
        outcome = settlement.outcome
        match outcome.result:
            case Result.DELIVERED:
                state = State.CAPTURED if settlement.captured else State.DELIVERED
            case Result.DEFERRED:
                state = State.QUEUED
            case Result.FAILED:
                state = State.FAILED
            case Result.WITHDRAWN:
                state = State.REMOVED
            case _:
                assert_never(outcome.result)
        last = str(outcome.refusal).encode("utf-8", "backslashreplace").decode()
        row = (settlement.message, settlement.number, state.value, settlement.due_at, outcome.retry_at, last)
        self.settlements.append(row)

    def add(self, other: Rows) -> None:
        self.messages += other.messages
        self.contents += other.contents
        self.deliveries += other.deliveries
        self.events += other.events
        self.settlements += other.settlements
        self.settled_at = max(self.settled_at, other.settled_at)
        self.unfinished += other.unfinished


def write(connection: sqlite3.Connection, rows: Rows) -> int:
    """Writes them all, and says by how many octets the unfinished mail has grown. Raises sqlite3.Error."""
    _insert(connection, "message (number, id, received_at, size, head, body, kept_for, kept_since)", rows.messages)
    _insert(connection, "content (message, octets)", rows.contents)
    _insert(connection, "delivery (message, number, state, attempts, due_at, last, plan, place)", rows.deliveries)
    _insert(connection, "event (message, delivery, what, at, facts)", rows.events)
    for chunk in _chunks(rows.settlements):
        connection.execute(_settle_sql(len(chunk)), [value for row in chunk for value in row])
    messages = list(dict.fromkeys(row[0] for row in rows.settlements))
    return rows.unfinished - _finish(connection, messages, rows.settled_at)


def _insert(connection: sqlite3.Connection, into: str, rows: Sequence[tuple[object, ...]]) -> None:
    for chunk in _chunks(rows):
        connection.execute(_insert_sql(into, len(chunk), len(chunk[0])), [value for row in chunk for value in row])


def _chunks(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    start = 0
    while start < len(rows):
        count = min(_CHUNK, 1 << ((len(rows) - start).bit_length() - 1))
        yield rows[start : start + count]
        start += count


@lru_cache
def _values(rows: int, columns: int) -> str:
    return ", ".join(["(" + ", ".join("?" * columns) + ")"] * rows)


@lru_cache
def _insert_sql(into: str, rows: int, columns: int) -> str:
    return f"INSERT INTO {into} VALUES {_values(rows, columns)}"


@lru_cache
def _settle_sql(rows: int) -> str:
    """What ends a delivery ends it. Deferred, it stays HELD or REMOVED where an operator has said so meanwhile, and
    is due when the operator has said.
    """
    return f"""
        WITH outcome (message, number, state, claimed, due_at, last) AS (VALUES {_values(rows, 6)})
        UPDATE delivery SET
            state = CASE
                WHEN outcome.state <> 'queued' OR delivery.state = 'queued' THEN outcome.state
                ELSE delivery.state
            END,
            attempts = delivery.attempts + 1,
            due_at = CASE
                WHEN delivery.due_at <> outcome.claimed THEN delivery.due_at
                ELSE coalesce(outcome.due_at, delivery.due_at)
            END,
            last = outcome.last
        FROM outcome
        WHERE delivery.message = outcome.message AND delivery.number = outcome.number"""


def _finish(connection: sqlite3.Connection, messages: Sequence[str], at: float) -> int:
    """Moves on those of the messages that nothing is left to do for; the octets that this takes from the queue."""
    octets = 0
    for chunk in _chunks(messages):
        freed, finished = _finish_sql(len(chunk))
        octets += connection.execute(freed, chunk).fetchone()[0]
        connection.execute(finished, [at, *chunk])
    return octets


@lru_cache
def _finish_sql(messages: int) -> tuple[str, str]:
    which = f"id IN {_values(1, messages)} AND {_NO_UNFINISHED}"
    captured = "EXISTS (SELECT 1 FROM delivery WHERE delivery.message = message.id AND state = 'captured')"
    return (
        # The plus keeps SQLite from going through the whole queue by the other index.
        f"SELECT coalesce(sum(size), 0) FROM message WHERE +kept_for = 'delivery' AND {which}",
        f"""UPDATE message SET kept_for = CASE WHEN {captured} THEN 'capture' ELSE 'content' END, kept_since = ?
            WHERE kept_for <> 'trace' AND {which}""",
    )


def unfinished_octets(connection: sqlite3.Connection) -> int:
    """The size of all unfinished mail."""
    found = connection.execute("SELECT coalesce(sum(size), 0) FROM message WHERE kept_for = 'delivery'").fetchone()
    return int(found[0])


def next_number(connection: sqlite3.Connection) -> int:
    """A number that no message has, nor any after it."""
    return int(connection.execute("SELECT coalesce(max(number), 0) + 1 FROM message").fetchone()[0])


def wants_body(connection: sqlite3.Connection, message_id: str) -> bool:
    """Whether a row names the file."""
    found = connection.execute("SELECT 1 FROM message WHERE id = ? AND body = 'file'", (message_id,))
    return found.fetchone() is not None


def change(
    connection: sqlite3.Connection, change: Change, messages: Sequence[str] | None, at: float
) -> list[tuple[str, int, State, State, float]]:
    """Message, number, state before, state after, and due_at before, of each delivery that it applied to."""
    match change:
        case Change.RETRY:
            which, after, happening = "state = 'queued'", State.QUEUED, Happening.RETRIED
        case Change.HOLD:
            which, after, happening = "state = 'queued'", State.HELD, Happening.HELD
        case Change.RELEASE:
            which, after, happening = "state = 'held'", State.QUEUED, Happening.RELEASED
        case Change.REMOVE:
            which, after, happening = _UNFINISHED, State.REMOVED, Happening.REMOVED
        case _:
            assert_never(change)
    changed: list[tuple[str, int, State, State, float]] = []
    scopes: list[tuple[str, tuple[str, ...]]] = [("", ())]
    if messages is not None:
        scopes = [(" AND message = ?", (message,)) for message in dict.fromkeys(messages)]
    for scope, binding in scopes:
        where = f"WHERE {_UNFINISHED} AND {which}{scope}"
        rows = connection.execute(f"SELECT message, number, state, due_at FROM delivery {where}", binding).fetchall()
        if not rows:
            continue
        changed += [(message, number, State(state), after, due_at) for message, number, state, due_at in rows]
        connection.execute(
            f"""INSERT INTO event (message, delivery, what, at, facts)
                SELECT message, number, ?, ?, '{{}}' FROM delivery {where}""",
            (happening.value, at, *binding),
        )
        connection.execute(
            f"UPDATE delivery SET state = ?, due_at = coalesce(?, due_at) {where}",
            (after.value, at if after is State.QUEUED else None, *binding),
        )
    if after.finished:
        _finish(connection, list(dict.fromkeys(row[0] for row in changed)), at)
    return changed


@dataclass(frozen=True, slots=True)
class Found:
    """Entries that were read, and those that could not be: message, number, why."""

    entries: list[Entry]
    corrupt: list[tuple[str, int, str]]


@dataclass(frozen=True, slots=True)
class Due:
    """What a look for due deliveries brought, and when the next one is due that it did not bring."""

    found: Found
    next_due: float


_ENTRY = "d.message, d.number, d.state, d.attempts, d.due_at, d.last, d.plan, m.received_at, m.size, m.head"
_FROM = "FROM delivery d LEFT JOIN message m ON m.id = d.message"


def due(connection: sqlite3.Connection, now: float, taken: Set[tuple[str, int]], without: Set[str], limit: int) -> Due:
    """Up to `limit` queued deliveries that are due, not taken and not `left_out`, the longest due first.

    Raises sqlite3.Error.
    """
    bounds = _bounds(without)
    keys: list[tuple[str, int]] = []
    next_due = math.inf
    connection.execute("BEGIN")
    try:
        # First by the index alone: those that are taken stand at its beginning, and there may be thousands.
        with closing(
            connection.execute(
                "SELECT CAST(due_at AS REAL), message, number FROM delivery"
                f" WHERE state = 'queued' AND {_outside(0, len(bounds))} ORDER BY due_at",
                bounds,
            )
        ) as waiting:
            for due_at, message, number in waiting:
                if (message, number) in taken:
                    continue
                if due_at > now or len(keys) == limit:
                    next_due = due_at
                    break
                keys.append((message, number))
        one = f"SELECT {_ENTRY} {_FROM} WHERE d.message = ? AND d.number = ?"
        return Due(_found([connection.execute(one, key).fetchone() for key in keys]), next_due)
    finally:
        connection.execute("COMMIT")


def _bounds(places: Set[str]) -> list[str]:
    """The starts and ends, in order, of the ranges of what is one of these places, or begins with one."""
    bounds: list[str] = []
    exact = [(place, f"{place}\0") for place in places]
    for start, end in sorted([*exact, *((f"{place}/", f"{place}0") for place in places)]):  # 0 comes after /
        if not bounds or start >= bounds[-1]:
            bounds += (start, end)
    return bounds


def _outside(first: int, last: int) -> str:
    """SQL: whether a place that comes between the bounds `first` and `last` is in none of the ranges.

    By halves: a thousand places are a dozen comparisons, and no expression too deep for SQLite (1000). It binds
    32,766 bounds: 8000 places, many times as many as are without room at a time.
    """
    if first == last:
        return str(int(first % 2 == 0))
    middle = (first + last) // 2
    below, above = _outside(first, middle), _outside(middle + 1, last)
    return f"CASE WHEN place < ?{middle + 1} THEN {below} ELSE {above} END"


def entries(connection: sqlite3.Connection, message_id: str) -> Found:
    """All deliveries of one message. Raises sqlite3.Error."""
    return _found(
        connection.execute(f"SELECT {_ENTRY} {_FROM} WHERE d.message = ? ORDER BY d.number", (message_id,)).fetchall()
    )


def page(
    connection: sqlite3.Connection, cursor: str, limit: int, unfinished: bool, captured: bool
) -> tuple[Found, str]:
    """See `Spool.read`. Raises sqlite3.Error, ValueError for a cursor that is none of ours."""
    kinds = []
    if unfinished:
        kinds.append(f"d.{_UNFINISHED}")
    if captured:
        kinds.append("d.state = 'captured' AND m.body IS NOT NULL")
    where = " OR ".join(kinds) or "1"
    binding: list[object] = []
    if cursor:
        message, _, number = cursor.rpartition(".")
        where = f"({where}) AND d.message <= ? AND NOT (d.message = ? AND d.number <= ?)"
        binding = [message, message, int(number)]
    rows = connection.execute(
        f"SELECT {_ENTRY} {_FROM} WHERE {where} ORDER BY d.message DESC, d.number LIMIT ?", [*binding, limit + 1]
    ).fetchall()
    more = len(rows) > limit
    rows = rows[:limit]
    return _found(rows), f"{rows[-1][0]}.{rows[-1][1]}" if more else ""


def _found(rows: Sequence[tuple[Any, ...]]) -> Found:
    found = Found([], [])
    messages: dict[str, Message] = {}
    for message_id, number, state, attempts, due_at, last, plan, received_at, size, head in rows:
        try:
            message = messages.get(message_id)
            if message is None:
                message = codec.unpack_message(message_id, received_at, size, head)
                messages[message_id] = message
            found.entries.append(codec.unpack_entry(message, number, state, attempts, due_at, last, plan))
        except ValueError as error:
            found.corrupt.append((message_id, number, str(error)))
    return found


def events(connection: sqlite3.Connection, message_id: str, after: int) -> tuple[list[tuple[int, Event]], list[str]]:
    """Events in order, each with its number; and why others could not be read. Raises sqlite3.Error."""
    found = []
    corrupt = []
    for number, delivery, what, at, facts in connection.execute(
        "SELECT number, delivery, what, at, facts FROM event WHERE message = ? AND number > ? ORDER BY number",
        (message_id, after),
    ):
        try:
            found.append((number, codec.unpack_event(message_id, delivery, what, at, facts)))
        except ValueError as error:
            corrupt.append(f"number {number}, {error}")
    return found, corrupt


def content(connection: sqlite3.Connection, message_id: str) -> tuple[Body, int, bytes]:
    """Where the content is, its size, and, from a row, the content. Raises SpoolFailed, sqlite3.Error."""
    found = connection.execute(
        "SELECT body, size, octets FROM message LEFT JOIN content ON content.message = number WHERE id = ?",
        (message_id,),
    ).fetchone()
    if found is None:
        raise SpoolFailed(f"there is no message {message_id}")
    body, size, octets = found
    if body is None:
        raise SpoolFailed(f"the content of {message_id} is not kept any more")
    return Body(body), size, octets or b""


@dataclass(frozen=True, slots=True)
class Dropped:
    """What one slice of retention let go of."""

    messages: list[str]
    files: list[str]
    """Of these, the bodies to unlink once it has committed."""


def drop_content(connection: sqlite3.Connection, kept_for: KeptFor, before: float, limit: int) -> Dropped:
    """Lets go of contents that have been kept for this since before then. Raises sqlite3.Error."""
    return _drop_content(
        connection,
        connection.execute(
            "SELECT number, id, body FROM message WHERE kept_for = ? AND kept_since < ? ORDER BY kept_since LIMIT ?",
            (kept_for.value, before, limit),
        ).fetchall(),
    )


def drop_excess_captures(connection: sqlite3.Connection, keep: int, limit: int) -> Dropped:
    """Lets go of the contents of captured messages beyond the newest `keep`. Raises sqlite3.Error."""
    return _drop_content(
        connection,
        connection.execute(
            """SELECT number, id, body FROM message WHERE kept_for = 'capture'
               ORDER BY kept_since DESC, number DESC LIMIT ? OFFSET ?""",
            (limit, keep),
        ).fetchall(),
    )


def _drop_content(connection: sqlite3.Connection, messages: list[tuple[int, str, str | None]]) -> Dropped:
    numbers = [(number,) for number, _, _ in messages]
    connection.executemany("DELETE FROM content WHERE message = ?", numbers)
    connection.executemany("UPDATE message SET body = NULL, kept_for = 'trace' WHERE number = ?", numbers)
    return Dropped([row[1] for row in messages], [row[1] for row in messages if row[2] == Body.FILE])


def drop_messages(connection: sqlite3.Connection, before: float, limit: int) -> Dropped:
    """Lets go of all that is left of messages finished before then. Raises sqlite3.Error."""
    messages = connection.execute(
        "SELECT id FROM message WHERE kept_for = 'trace' AND kept_since < ? ORDER BY kept_since LIMIT ?",
        (before, limit),
    ).fetchall()
    for table, column in ("event", "message"), ("delivery", "message"), ("message", "id"):
        connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", messages)
    return Dropped([message for (message,) in messages], [])
