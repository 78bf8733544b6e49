"""Schema: the tables, what brings an older spool to them, and how the database is opened."""

from __future__ import annotations

import sqlite3
from enum import StrEnum
from pathlib import Path

from smtproute.spool.queue import SpoolVersion

__all__ = ["MIGRATIONS", "Body", "KeptFor", "connect", "migrate", "version"]

_BUSY = 10.0
"""Seconds to wait for the commit of another process."""
_CHECKPOINT = 4000
"""Pages of the WAL after which a commit also copies them into the database."""
_WAL_LIMIT = 64 << 20
"""Octets to which the WAL is cut back after it grew."""


class Body(StrEnum):
    """Where the content of a message is; NULL: it is not kept any more."""

    ROW = "row"
    FILE = "file"


class KeptFor(StrEnum):
    """What a message is still kept for, in the order in which these end."""

    DELIVERY = "delivery"
    """A delivery of it is unfinished."""
    CAPTURE = "capture"
    """Finished, and captured: its content is what somebody wants to see."""
    CONTENT = "content"
    """Finished, with its content."""
    TRACE = "trace"
    """Finished, without its content."""


MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE message (
            number INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            received_at REAL NOT NULL,
            size INTEGER NOT NULL,
            head TEXT NOT NULL,
            body TEXT,
            kept_for TEXT NOT NULL,
            kept_since REAL NOT NULL
        )""",
        "CREATE INDEX message_kept ON message (kept_for, kept_since, size)",
        """CREATE TABLE content (
            message INTEGER PRIMARY KEY,
            octets BLOB NOT NULL
        )""",
        """CREATE TABLE delivery (
            message TEXT NOT NULL,
            number INTEGER NOT NULL,
            state TEXT NOT NULL,
            attempts INTEGER NOT NULL,
            due_at REAL NOT NULL,
            last TEXT NOT NULL,
            plan TEXT NOT NULL,
            place TEXT NOT NULL,
            PRIMARY KEY (message, number)
        ) WITHOUT ROWID""",
        # `state` and `place` stand in it so that SQLite (3.40) finds all that a look asks for in the index itself.
        "CREATE INDEX delivery_due ON delivery (due_at, state, place) WHERE state = 'queued'",
        "CREATE INDEX delivery_unfinished ON delivery (message, number) WHERE state IN ('queued', 'held')",
        "CREATE INDEX delivery_captured ON delivery (message, number) WHERE state = 'captured'",
        """CREATE TABLE event (
            number INTEGER PRIMARY KEY,
            message TEXT NOT NULL,
            delivery INTEGER,
            what TEXT NOT NULL,
            at REAL NOT NULL,
            facts TEXT NOT NULL
        )""",
        "CREATE INDEX event_message ON event (message)",
    ),
    (
        # A place had no domains in it (`Entry.place`). What cannot be read stays as it is: nothing is made of it.
        """UPDATE delivery SET place = place || '/' || coalesce(
                (SELECT coalesce(json_extract(head, '$.reverse_path[2]'), json_extract(head, '$.reverse_path[1]'))
                 FROM message WHERE id = delivery.message),
                '<>'
            ) || '/' || coalesce(json_extract(plan, '$.address[2]'), json_extract(plan, '$.address[1]'), '')
            WHERE state IN ('queued', 'held') AND json_valid(plan)
            AND EXISTS (SELECT 1 FROM message WHERE id = delivery.message AND json_valid(head))""",
    ),
)
"""What brings a spool of version n to n + 1; `user_version` counts how many have been applied. Only ever appended to:
the spools of every release open in the next."""


def connect(path: Path, *, query_only: bool = False) -> sqlite3.Connection:
    """A connection that is used by one thread at a time, in autocommit mode. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        path, timeout=_BUSY, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    # A damaged text must not stop the rows around it; it is found out when its value is made (JSON here is ASCII).
    connection.text_factory = lambda octets: octets.decode("utf-8", "replace")
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
        if query_only:
            connection.execute("PRAGMA query_only = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection) -> None:
    """Brings the spool to this version. Raises SpoolVersion for one of a newer version, sqlite3.Error."""
    found = version(connection)
    if found > len(MIGRATIONS):
        raise SpoolVersion(
            f"the spool is of version {found}, and this program knows versions up to {len(MIGRATIONS)}:"
            " run the newer program that wrote it"
        )
    for number, statements in enumerate(MIGRATIONS[found:], found + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
