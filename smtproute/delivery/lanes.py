"""Lanes: jobs that wait until their endpoint has a connection for them, and how many deliveries are claimed at once.

Both go by place (`Entry.place`). Lanes do not wait for each other. Within one, the domains of senders take turns, so
that a newsletter does not hold up a letter; and where the recipient's domain chooses the server, so do these.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field

from smtproute.delivery.attempt import Job

__all__ = ["Claimed", "Lane", "Queued"]

_WINDOW = 40_000
"""Deliveries that are claimed at once, running or waiting in their lane."""
_LANE = 2000
"""Of them, how many one lane may have: a server that hangs fills its own lane and nobody else's."""
_SENDER = 500
"""Of these, the domain of one sender: the others find room beside it."""
_DOMAIN = 100
"""And of these, a recipient's domain that chooses the server."""


@dataclass(slots=True)
class Queued:
    """A job on its way through a lane."""

    job: Job
    lane: str
    """`Delivery.place`."""
    sender: str
    domain: str
    """The recipient's, where it chooses the server; else empty."""
    deliveries: int = field(init=False)
    """As they were claimed: by the time that its turn comes, an operator may have taken some out."""

    def __post_init__(self) -> None:
        self.deliveries = len(self.job.entries)

    def shares(self) -> list[tuple[str, int]]:
        """Every place that it counts for, with how many deliveries may be there."""
        shares = [("", _WINDOW), (self.lane, _LANE), (f"{self.lane}/{self.sender}", _SENDER)]
        return [*shares, (f"{self.lane}/{self.sender}/{self.domain}", _DOMAIN)] if self.domain else shares


class Claimed:
    """How many deliveries are claimed, and where there is no room for more until half of them are gone."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._full: set[str] = set()

    @property
    def room(self) -> int:
        """How many more may be claimed at all; none from when there was no room until half are gone."""
        return 0 if "" in self._full else _WINDOW - self._counts[""]

    @property
    def full(self) -> frozenset[str]:
        """The places without room."""
        return frozenset(self._full)

    @property
    def none(self) -> bool:
        """Whether nothing is claimed."""
        return not self._counts

    def add(self, queued: Queued) -> None:
        for place, share in queued.shares():
            self._counts[place] += queued.deliveries
            if self._counts[place] >= share:
                self._full.add(place)

    def remove(self, queued: Queued) -> bool:
        """It is done. Whether there is room now where there was none."""
        roomy = False
        for place, share in queued.shares():
            self._counts[place] -= queued.deliveries
            if place in self._full and self._counts[place] <= share // 2:
                self._full.remove(place)
                roomy = True
            if not self._counts[place]:
                del self._counts[place]
        return roomy


class Lane:
    """Jobs for one endpoint, or for what stays in the house, and how many of them may run at once."""

    def __init__(self, width: int, endpoint: str = "") -> None:
        self.width = width
        self.endpoint = endpoint
        """Its name; empty for what stays in the house."""
        self.running = 0
        self._waiting: OrderedDict[str, OrderedDict[str, deque[Queued]]] = OrderedDict()
        """By the sender's domain and the recipient's; whose turn it is stands first."""
        self._busy: Counter[str] = Counter()
        """How many of a recipient's domain run, where it chooses the server: half of the lane at most."""

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return sum(len(jobs) for domains in self._waiting.values() for jobs in domains.values())

    def put(self, queued: Queued) -> None:
        domains = self._waiting.setdefault(queued.sender, OrderedDict())
        domains.setdefault(queued.domain, deque()).append(queued)

    def take(self) -> Queued | None:
        """The job whose turn it is, to be given back as `done`; None where none may run."""
        for sender, domains in self._waiting.items():
            for domain, jobs in domains.items():
                if domain and self._busy[domain] >= max(1, self.width // 2):
                    continue
                queued = jobs.popleft()
                self._busy[domain] += 1
                domains.move_to_end(domain)
                self._waiting.move_to_end(sender)
                if not jobs:
                    del domains[domain]
                if not domains:
                    del self._waiting[sender]
                return queued
        return None

    def done(self, queued: Queued) -> None:
        """It runs no longer."""
        self._busy[queued.domain] -= 1
        if not self._busy[queued.domain]:
            del self._busy[queued.domain]

    def clear(self) -> None:
        """Nobody does what waits."""
        self._waiting.clear()
