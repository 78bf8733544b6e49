"""OperatorSpool: the spool as the command line opens it, beside a running relay or with none running."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from smtproute.spool import tables
from smtproute.spool.queue import Change, Changed, State
from smtproute.spool.reading import Reading

__all__ = ["OperatorSpool", "held_by_relay"]


class OperatorSpool(Reading):
    """What can be read, and `change`. Opened by `SqliteSpool.beside`.

    A running relay notices a change at its next poll.
    """

    async def change(self, change: Change, messages: Sequence[str] | None, at: float) -> Sequence[Changed]:
        """See `Spool.change`. What is in flight only the relay knows: here it is what is due while one runs."""
        return await self._ask(partial(_change, change=change, messages=messages, at=at, folder=self._folder))


def held_by_relay(folder: Path) -> bool:
    """Whether a relay runs on the folder. For a moment this locks against a relay that starts; it tries again."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _change(
    connection: sqlite3.Connection, change: Change, messages: Sequence[str] | None, at: float, folder: Path
) -> list[Changed]:
    running = held_by_relay(folder)
    connection.execute("BEGIN IMMEDIATE")
    try:
        changed = tables.change(connection, change, messages, at)
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return [
        Changed(message, number, before, after, running and before is State.QUEUED and due_at <= at)
        for message, number, before, after, due_at in changed
    ]
