"""Dispatcher: claims what is due, brings each delivery to its next hop, settles what became of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import assert_never

from smtproute.core.decide import plan_sender
from smtproute.core.event import Emit, Event, Happening
from smtproute.core.seals import Seal, plan_seal
from smtproute.core.settings import Discover, Kind
from smtproute.core.snapshot import Snapshot
from smtproute.delivery.attempt import Attempts, Job, Report
from smtproute.delivery.lanes import Claimed, Lane, Queued
from smtproute.delivery.proxy import Proxy, Waiting
from smtproute.spool.queue import Entry, Settlement, Spool, SpoolFailed
from smtproute.world import World

__all__ = ["Dispatcher"]

CLAIM = 500
"""Deliveries that one look at the spool may bring."""
LOCAL_LANE = 32
"""Jobs at once for the mailboxes, and for what stays in the spool."""
STALLED = 5.0
"""Seconds until the spool is asked again after it failed."""


class Dispatcher:
    """Everything it needs is handed in; `run` is its only task, and owns the others."""

    def __init__(
        self,
        *,
        snapshot: Callable[[], Snapshot],
        spool: Spool,
        attempts: Attempts,
        proxy: Proxy,
        world: World,
        emit: Emit,
    ) -> None:
        self._snapshot = snapshot
        self._spool = spool
        self._attempts = attempts
        self._proxy = proxy
        self._world = world
        self._emit = emit
        self._lanes: dict[str, Lane] = {}
        self._claimed = Claimed()
        self._due: float | None = None
        """When there is something to claim, as far as is known."""
        self._tasks = asyncio.TaskGroup()
        self._wake = asyncio.Event()
        self._rested = asyncio.Event()
        """Nothing is under way, and the latest look at the spool found nothing that is due."""
        self._awaited = 0
        """How many wait for that."""
        self._draining = False

    async def run(self) -> None:
        """Runs until `drain` has been called and everything under way is settled."""
        async with self._tasks as tasks:
            watcher = tasks.create_task(self._watch())
            alarm: asyncio.Task[None] | None = None
            alarm_at: float | None = None
            while not self._draining:
                self._wake.clear()
                due = self._due = await self._claim()
                if due != alarm_at or (alarm is not None and alarm.done()):
                    if alarm is not None:
                        alarm.cancel()
                    alarm = tasks.create_task(self._alarm(due)) if due is not None else None
                    alarm_at = due
                if self._resting:
                    self._rested.set()
                await self._wake.wait()
            watcher.cancel()
            if alarm is not None:
                alarm.cancel()
            for lane in self._lanes.values():
                lane.clear()

    async def rest(self) -> float | None:
        """Until nothing that was accepted before is due or under way; answers when something will be, if anything."""
        self._awaited += 1
        try:
            while True:
                self._rested.clear()
                self._wake.set()
                await self._rested.wait()
                if self._resting:
                    return self._due
        finally:
            self._awaited -= 1

    def drain(self) -> None:
        """Claims no more. What is in a lane and not begun stays in the spool."""
        self._draining = True
        self._wake.set()

    def nudge(self) -> None:
        """Looks at once for what is due, and lets as many run as the configuration now allows: after a reload."""
        for lane in self._lanes.values() if not self._draining else ():
            lane.width = self._width(lane.endpoint)
            for _ in range(min(lane.waiting, lane.width - lane.running)):
                self._begin(lane)
        self._wake.set()

    @property
    def _resting(self) -> bool:
        return self._claimed.none and (self._due is None or self._due > self._world.clock.now())

    async def _watch(self) -> None:
        while True:
            await self._spool.wait()
            self._wake.set()

    async def _alarm(self, due: float) -> None:
        await self._world.clock.sleep(max(0.0, due - self._world.clock.now()))
        self._wake.set()

    async def _claim(self) -> float | None:
        """Puts what is due into the lanes; answers when to look again."""
        now = self._world.clock.now()
        room = min(CLAIM, self._claimed.room)
        if room <= 0:
            return None
        try:
            entries, due = await self._spool.claim(now, room, self._claimed.full)
        except SpoolFailed as failed:
            self._emit(Event(Happening.FAULT, now, facts={"where": "claim", "detail": str(failed)}))
            return now + STALLED
        for queued in self._queued(entries):
            self._claimed.add(queued)
            endpoint = queued.job.entries[0].delivery.endpoint
            lane = self._lanes.setdefault(queued.lane, Lane(0, endpoint))
            lane.width = self._width(endpoint)
            lane.put(queued)
            if lane.running < lane.width:
                self._begin(lane)
        return due

    def _begin(self, lane: Lane) -> None:
        lane.running += 1
        self._tasks.create_task(self._work(lane))

    def _width(self, name: str) -> int:
        """How many jobs for this endpoint may run at once."""
        endpoint = self._snapshot().settings.endpoints.get(name)
        return endpoint.max_connections if endpoint is not None else LOCAL_LANE

    def _queued(self, entries: Sequence[Entry]) -> list[Queued]:
        """Sorts deliveries into jobs: one for each message, lane, sender, sealing domain and, by its MX, domain."""
        snapshot = self._snapshot()
        settings = snapshot.settings
        jobs: dict[tuple[str, ...], tuple[str, Job]] = {}
        for entry in entries:
            delivery, message = entry.delivery, entry.message
            domain = own = ""
            # By the time of the message: each attempt at it has the same sender.
            sender = plan_sender(snapshot.routing, message.envelope, delivery, message.received_at)
            match delivery.kind:
                case Kind.ENDPOINT:
                    endpoint = settings.endpoints.get(delivery.endpoint)
                    seal = Seal() if message.bounce else plan_seal(settings, message.envelope, delivery, None)
                    own = seal.key.domain.key if seal.key is not None else seal.reason
                    if endpoint is not None and endpoint.discover is Discover.RECIPIENT:
                        domain = delivery.address.domain.key
                case Kind.MAILBOX | Kind.CAPTURE | Kind.BOUNCE:
                    seal = Seal()
                case _:
                    assert_never(delivery.kind)
            key = (message.id, delivery.place, str(sender.path or ""), own, domain)
            if key in jobs:
                jobs[key][1].entries.append(entry)
            else:
                unrewritten = sender.why if sender.wanted else ""
                jobs[key] = (domain, Job(message, [entry], sender.path, seal, unrewritten))
        return [
            Queued(job, job.entries[0].delivery.place, job.entries[0].sender, domain) for domain, job in jobs.values()
        ]

    async def _work(self, lane: Lane) -> None:
        """Does the jobs of a lane until none waits."""
        try:
            while lane.running <= lane.width and (queued := lane.take()) is not None:
                job = queued.job
                await self._look_over(job)
                if job.entries:
                    await self._attempts.attempt(job, self._settle, self._look_over)
                lane.done(queued)
                if self._claimed.remove(queued) or (self._awaited and self._claimed.none):
                    self._wake.set()
        finally:
            lane.running -= 1

    async def _look_over(self, job: Job) -> None:
        """Takes out what an operator has held or removed while it waited; nothing, where the spool cannot say.

        A client that may wait for it hears that its message is queued.
        """
        entries = len(job.entries)
        with contextlib.suppress(SpoolFailed):
            job.entries = list(await self._spool.still(job.entries))
        waiting = self._proxy.of(job.message.id)
        if waiting is not None and len(job.entries) < entries:
            waiting.hurry()

    async def _settle(self, job: Job, report: Report) -> None:
        """Settles what became of a job; what a client waits for and was not delivered, once it is decided whose it is.

        That takes no place in the lane meanwhile.
        """
        waiting = self._proxy.of(job.message.id)
        if waiting is None:
            await self._record(job, report)
            return
        delivered, failed = report.parted()
        if delivered.outcomes:
            await self._record(job, delivered)
        if failed.outcomes:
            if not waiting.hold_back(job, failed):
                await self._record(job, failed)
            elif len(waiting.held_back) == 1:
                self._tasks.create_task(self._conclude(job, waiting))
        waiting.tried(report.outcomes)

    async def _conclude(self, job: Job, waiting: Waiting) -> None:
        """Settles what was held back for a client that waits: taken back as a whole, or as ever."""
        if (await waiting.conclusion()).withdrawn:
            await self._record(job, waiting.withdrawal())
            waiting.withdrawn()
            return
        for each, report in waiting.held_back:
            await self._record(each, report)

    async def _record(self, job: Job, report: Report) -> None:
        """Commits outcomes, events and DSNs together; while the spool fails, it is asked again."""
        await self._attempts.tell(job, report)
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
