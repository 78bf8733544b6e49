"""Claims: which deliveries this process has taken, and which it could take without asking the database.

A delivery is *taken* from the moment its accept is under way, or a look at the database has brought it, until it is
settled; no look brings it again meanwhile. Some of the taken are *ready* to be claimed; the claimed are somebody's.
All of this is memory: with the process it is gone, and everything unfinished is due again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence

from smtproute.spool.queue import Entry

__all__ = ["READY", "Claims", "Key"]

Key = tuple[str, int]
"""Message and number."""

READY = 1000
"""How many deliveries wait in memory to be claimed; all others are looked up."""


class Claims:
    """Used by the event loop alone."""

    def __init__(self) -> None:
        self.next_due = -math.inf
        """Before this time the database has nothing to claim that is not taken."""
        self._ready: deque[Entry] = deque()
        self._taken: set[Key] = set()
        self._claimed: set[Key] = set()
        self._looking = False
        self._let_go: set[Key] = set()
        """Settled since the look under way began, which may have seen them unsettled."""
        self._outdated = False
        """Whether what the look under way brings is no longer to be trusted."""

    @property
    def ready(self) -> int:
        return len(self._ready)

    def claimed(self, key: Key) -> bool:
        """Whether an attempt at it is running."""
        return key in self._claimed

    def take(self, limit: int) -> list[Entry]:
        """Claims up to `limit` of the ready ones, in the order in which they came to be due."""
        entries = [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]
        self._claimed.update((entry.message.id, entry.number) for entry in entries)
        return entries

    def accepting(self, entries: Iterable[Entry]) -> None:
        """Their accept is under way."""
        self._taken.update((entry.message.id, entry.number) for entry in entries)

    def accepted(self, entries: Sequence[Entry], now: float) -> None:
        """They are durable. They are ready, unless older ones still wait in the database, or there are too many."""
        if self.next_due > now and len(self._ready) + len(entries) <= READY:
            self._ready += entries
        else:
            for entry in entries:
                self._taken.discard((entry.message.id, entry.number))
                self.next_due = min(self.next_due, entry.due_at)

    def refused(self, entries: Iterable[Entry]) -> None:
        """Their accept has failed."""
        self._taken.difference_update((entry.message.id, entry.number) for entry in entries)

    def settled(self, key: Key, retry_at: float | None) -> None:
        self._taken.discard(key)
        self._claimed.discard(key)
        if self._looking:
            self._let_go.add(key)
        if retry_at is not None:
            self.next_due = min(self.next_due, retry_at)

    def look(self) -> frozenset[Key]:
        """A look at the database begins: what it is not to bring. `found` or `missed` ends it."""
        self.next_due = math.inf
        self._looking = True
        self._outdated = False
        return frozenset(self._taken)

    def found(self, entries: Iterable[Entry], aside: Iterable[Key], next_due: float) -> None:
        """What the look has brought, what it could not read (taken for good), and when the next one is due."""
        if self._outdated:
            self.missed()
            return
        let_go = self._looked()
        self._taken.update(aside)
        for entry in entries:
            key = (entry.message.id, entry.number)
            if key not in self._taken and key not in let_go:
                self._taken.add(key)
                self._ready.append(entry)
        self.next_due = min(self.next_due, next_due)

    def missed(self) -> None:
        """The look failed."""
        self._looked()
        self.next_due = -math.inf

    def _looked(self) -> set[Key]:
        """What was settled while the look was under way, which is now over."""
        self._looking = False
        let_go, self._let_go = self._let_go, set()
        return let_go

    def doubt(self) -> None:
        """An operator has changed the queue: what is ready may be held or removed, what was not due may be due."""
        self._taken.difference_update((entry.message.id, entry.number) for entry in self._ready)
        self._ready.clear()
        self._outdated = True
        self.next_due = -math.inf
