"""Dispatcher: claims what is due, brings each delivery to its next hop, settles what became of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from smtproute.core.event import Emit, Event, Happening
from smtproute.core.seals import Seal, plan_seal
from smtproute.core.settings import Discover, Kind
from smtproute.core.snapshot import Snapshot
from smtproute.delivery.attempt import Attempts, Job, Report
from smtproute.spool.queue import Entry, Settlement, Spool, SpoolFailed
from smtproute.world import World

__all__ = ["Dispatcher"]

WINDOW = 10_000
"""Deliveries that are claimed at once, running or waiting in their lane."""
CLAIM = 500
"""Of them, how many one look at the spool may bring, and one lane may have before it is left out of the next: a
server that hangs fills its own lane and nobody else's."""
LOCAL_LANE = 32
"""Jobs at once for the mailboxes, and for what stays in the spool."""
STALLED = 5.0
"""Seconds until the spool is asked again after it failed."""


@dataclass(slots=True)
class _Lane:
    """Jobs for one place, and how many of them may run at once."""

    width: int
    waiting: deque[Job] = field(default_factory=deque)
    running: int = 0
    claimed: int = 0
    """Deliveries, running ones included."""
    full: bool = False
    """Nothing more is claimed for it until half of it is gone."""


class Dispatcher:
    """Everything it needs is handed in; `run` is its only task, and owns the others."""

    def __init__(
        self,
        *,
        snapshot: Callable[[], Snapshot],
        spool: Spool,
        attempts: Attempts,
        world: World,
        emit: Emit,
    ) -> None:
        self._snapshot = snapshot
        self._spool = spool
        self._attempts = attempts
        self._world = world
        self._emit = emit
        self._lanes: dict[str, _Lane] = {}
        self._claimed = 0
        self._starved = False
        """Whether there was no room for all that was due."""
        self._wake = asyncio.Event()
        self._draining = False

    async def run(self) -> None:
        """Runs until `drain` has been called and everything under way is settled."""
        async with asyncio.TaskGroup() as tasks:
            watcher = tasks.create_task(self._watch())
            alarm: asyncio.Task[None] | None = None
            alarm_at: float | None = None
            while not self._draining:
                self._wake.clear()
                due = await self._claim(tasks)
                if due != alarm_at or (alarm is not None and alarm.done()):
                    if alarm is not None:
                        alarm.cancel()
                    alarm = tasks.create_task(self._alarm(due)) if due is not None else None
                    alarm_at = due
                await self._wake.wait()
            watcher.cancel()
            if alarm is not None:
                alarm.cancel()
            for lane in self._lanes.values():
                lane.waiting.clear()

    def drain(self) -> None:
        """Claims no more. What is in a lane and not begun stays in the spool."""
        self._draining = True
        self._wake.set()

    def nudge(self) -> None:
        """Looks at once for what is due: after a reload, say."""
        self._wake.set()

    async def _watch(self) -> None:
        while True:
            await self._spool.wait()
            self._wake.set()

    async def _alarm(self, due: float) -> None:
        await self._world.clock.sleep(max(0.0, due - self._world.clock.now()))
        self._wake.set()

    async def _claim(self, tasks: asyncio.TaskGroup) -> float | None:
        """Puts what is due into the lanes; answers when to look again."""
        now = self._world.clock.now()
        room = min(CLAIM, WINDOW - self._claimed)
        if room <= 0:
            self._starved = True
            return None
        without = frozenset(place for place, lane in self._lanes.items() if lane.full)
        try:
            entries, due = await self._spool.claim(now, room, without)
        except SpoolFailed as failed:
            self._emit(Event(Happening.FAULT, now, facts={"where": "claim", "detail": str(failed)}))
            return now + STALLED
        self._claimed += len(entries)
        self._starved = False
        for place, width, job in self._jobs(entries):
            lane = self._lanes.setdefault(place, _Lane(width))
            lane.width = width
            lane.waiting.append(job)
            lane.claimed += len(job.entries)
            lane.full = lane.full or lane.claimed >= CLAIM
            if lane.running < lane.width:
                lane.running += 1
                tasks.create_task(self._work(lane))
        return due

    def _jobs(self, entries: Sequence[Entry]) -> list[tuple[str, int, Job]]:
        """Sorts deliveries into jobs: one for each message, lane, sealing domain and, by its MX, domain."""
        settings = self._snapshot().settings
        jobs: dict[tuple[str, ...], tuple[str, int, Job]] = {}
        key: tuple[str, ...]
        for entry in entries:
            delivery = entry.delivery
            match delivery.kind:
                case Kind.ENDPOINT:
                    endpoint = settings.endpoints.get(delivery.endpoint)
                    width = endpoint.max_connections if endpoint else LOCAL_LANE
                    seal = (
                        Seal() if entry.message.bounce else plan_seal(settings, entry.message.envelope, delivery, None)
                    )
                    by_domain = endpoint is not None and endpoint.discover is Discover.RECIPIENT
                    own = seal.key.domain.key if seal.key is not None else seal.reason
                    key = (entry.message.id, delivery.place, own, delivery.address.domain.key if by_domain else "")
                case Kind.MAILBOX | Kind.CAPTURE | Kind.BOUNCE:
                    width, seal = LOCAL_LANE, Seal()
                    key = (entry.message.id, delivery.place)
                case _:
                    assert_never(delivery.kind)
            found = jobs.get(key)
            if found is None:
                jobs[key] = (delivery.place, width, Job(entry.message, [entry], seal))
            else:
                found[2].entries.append(entry)
        return list(jobs.values())

    async def _work(self, lane: _Lane) -> None:
        """Does the jobs of a lane until none waits."""
        try:
            while lane.waiting and lane.running <= lane.width:
                job = lane.waiting.popleft()
                claimed = len(job.entries)
                job.entries = await self._still(job.entries)
                if job.entries:
                    await self._attempts.attempt(job, self._settle)
                self._claimed -= claimed
                lane.claimed -= claimed
                if lane.full and lane.claimed <= CLAIM // 2:
                    lane.full = False
                    self._wake.set()
                elif self._starved and self._claimed <= WINDOW // 2:
                    self._wake.set()
        finally:
            lane.running -= 1

    async def _still(self, entries: list[Entry]) -> list[Entry]:
        """Those that an operator has not held or removed while they waited; all, where the spool cannot say."""
        try:
            return list(await self._spool.still(entries))
        except SpoolFailed:
            return entries

    async def _settle(self, job: Job, report: Report) -> None:
        """Commits outcomes, events and DSNs together; while the spool fails, it is asked again."""
        now = self._world.clock.now()
        events = report.all_events(now)
        settlements = [
            Settlement(entry.message.id, entry.number, outcome, entry.due_at, report.captured)
            for entry, outcome in report.outcomes
        ]
        while True:
            try:
                await self._spool.settle(settlements, events, report.bounces)
                break
            except SpoolFailed as fault:
                facts = {"where": "settle", "detail": str(fault)}
                self._emit(Event(Happening.FAULT, self._world.clock.now(), job.message.id, facts=facts))
                await self._world.clock.sleep(STALLED)
        for event in (*events, *(event for accepted in report.bounces for event in accepted.events)):
            self._emit(event)
