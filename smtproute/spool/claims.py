"""Claims: which deliveries this process has taken, and which it could take without asking the database.

A delivery is *taken* from the moment its accept is under way, or a look at the database has brought it, until it is
settled; no look brings it again meanwhile. Some of the taken are *ready* to be claimed; the claimed are somebody's.
All of this is memory: with the process it is gone, and everything unfinished is due again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence

from smtproute.spool.queue import Entry, left_out

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
        self._claimed: dict[Key, int] = {}
        """With how many doubts there had been when it was claimed, or found to be unchanged."""
        self._doubts = 0
        self._without: frozenset[str] = frozenset()
        """Places, or what places begin with, that nothing is claimed for now: what is due there is in the database."""
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

    def leave_out(self, places: frozenset[str]) -> None:
        """From now on nothing is claimed for these places."""
        if self._without - places:
            self.next_due = -math.inf
        if places - self._without:
            dropped = [entry for entry in self._ready if left_out(entry.place, places)]
            self._taken.difference_update(_key(entry) for entry in dropped)
            self._ready = deque(entry for entry in self._ready if _key(entry) in self._taken)
        self._without = places

    def take(self, limit: int) -> list[Entry]:
        """Claims up to `limit` of the ready ones, in the order in which they came to be due."""
        entries = [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]
        self._claimed.update((_key(entry), self._doubts) for entry in entries)
        return entries

    def doubtful(self, entries: Iterable[Entry]) -> bool:
        """Whether an operator may have changed one of these since it was claimed."""
        return any(self._claimed.get(_key(entry)) != self._doubts for entry in entries)

    def looked_over(self, kept: Iterable[Entry], lost: Iterable[Entry], doubts: int) -> None:
        """After a second look at claimed ones: some are as they were, the others are claimed no more."""
        self._claimed.update((_key(entry), doubts) for entry in kept)
        for entry in lost:
            self._claimed.pop(_key(entry), None)
            self._taken.discard(_key(entry))
            # A look that is under way, or that came since, has passed it over: it may be released again by now.
            self._outdated = True
            self.next_due = -math.inf

    @property
    def doubts(self) -> int:
        """How many times an operator's change was noticed."""
        return self._doubts

    def accepting(self, entries: Iterable[Entry]) -> None:
        """Their accept is under way."""
        self._taken.update(_key(entry) for entry in entries)

    def accepted(self, entries: Sequence[Entry], now: float) -> None:
        """They are durable. They are ready, unless older ones still wait in the database, or there are too many."""
        keeps_up = self.next_due > now and len(self._ready) + len(entries) <= READY
        for entry in entries:
            wanted = not left_out(entry.place, self._without)
            if keeps_up and wanted:
                self._ready.append(entry)
            else:
                self._taken.discard(_key(entry))
                if wanted:
                    self.next_due = min(self.next_due, entry.due_at)

    def refused(self, entries: Iterable[Entry]) -> None:
        """Their accept has failed."""
        self._taken.difference_update(_key(entry) for entry in entries)

    def settled(self, key: Key, retry_at: float | None) -> None:
        self._taken.discard(key)
        doubtful = self._claimed.pop(key, None) != self._doubts
        if self._looking:
            self._let_go.add(key)
        if retry_at is not None:
            # An operator may have said that it is due at once.
            self.next_due = -math.inf if doubtful else min(self.next_due, retry_at)

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
            key = _key(entry)
            if key not in self._taken and key not in let_go and not left_out(entry.place, self._without):
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
        self._taken.difference_update(_key(entry) for entry in self._ready)
        self._ready.clear()
        self._doubts += 1
        self._outdated = True
        self.next_due = -math.inf


def _key(entry: Entry) -> Key:
    return entry.message.id, entry.number
