"""Proxy: where the session of a client that waits (`reply = "delivered"`) and the attempts at its mail meet.

What a first attempt failed to deliver is held back until every copy has been tried, or nobody waits any longer: only
then is it known whether the client hears of it, or it is ours to try again and to return. That is decided once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace

from smtproute.core.outcome import Outcome, Result
from smtproute.core.plan import Delivery
from smtproute.core.proxy import Conclusion, conclude, queued
from smtproute.core.reply import Reply
from smtproute.delivery.attempt import Job, Report
from smtproute.spool.queue import Entry

__all__ = ["Proxy", "Waiting"]


class Proxy:
    """The clients that wait, by queue id. Used by the event loop alone."""

    def __init__(self) -> None:
        self._waiting: dict[str, Waiting] = {}

    def wait(self, queue_id: str, deliveries: Sequence[Delivery]) -> Waiting:
        """A client begins to wait: before its message can be claimed, so that no attempt is missed."""
        waiting = Waiting(queue_id, deliveries, self._waiting)
        self._waiting[queue_id] = waiting
        waiting.tried(())
        return waiting

    def of(self, queue_id: str) -> Waiting | None:
        """Who waits for this message; None once it is decided what is heard."""
        return self._waiting.get(queue_id)


class Waiting:
    """One client that waits: `reply` and `hurry` are its session's, the rest is the dispatcher's."""

    def __init__(self, queue_id: str, deliveries: Sequence[Delivery], all_waiting: dict[str, Waiting]) -> None:
        self._queue_id = queue_id
        self._deliveries = deliveries
        self._all_waiting = all_waiting
        self._outcomes: dict[int, Outcome] = {}
        """By number of the delivery."""
        self._conclusion: Conclusion | None = None
        self._decided = asyncio.Event()
        self._withdrawn = asyncio.Event()
        self.held_back: list[tuple[Job, Report]] = []
        """What attempts failed to deliver."""

    async def reply(self, seconds: float) -> Reply:
        """What the client hears, after so many seconds at most; longer only while a withdrawal is being committed."""
        try:
            async with asyncio.timeout(seconds):
                await self._decided.wait()
        except TimeoutError:
            pass
        finally:
            self.hurry()
        conclusion = await self.conclusion()
        if conclusion.withdrawn:
            await self._withdrawn.wait()
        return conclusion.reply

    def hurry(self) -> None:
        """The client waits no longer: if nothing is decided yet, the message is queued."""
        self._decide(Conclusion(queued(self._queue_id), withdrawn=False))

    def hold_back(self, job: Job, report: Report) -> bool:
        """Keeps what an attempt failed to deliver until it is decided; False where it is decided already."""
        if self._conclusion is None:
            self.held_back.append((replace(job, entries=[entry for entry, _ in report.outcomes]), report))
        return self._conclusion is None

    def tried(self, outcomes: Iterable[tuple[Entry, Outcome]]) -> None:
        """What an attempt came to. The last one decides, and those that are held are not waited for."""
        self._outcomes.update((entry.number, outcome) for entry, outcome in outcomes)
        if len(self._outcomes) == sum(not each.held for each in self._deliveries):
            tried = [(each, self._outcomes.get(number)) for number, each in enumerate(self._deliveries)]
            self._decide(conclude(self._queue_id, tried))

    async def conclusion(self) -> Conclusion:
        """What was decided, once it is."""
        await self._decided.wait()
        assert self._conclusion is not None
        return self._conclusion

    def withdrawal(self) -> Report:
        """All that was held back, as it ends where the client hears of it."""
        report = Report()
        for _, held_back in self.held_back:
            report.events += held_back.events
            report.outcomes += [
                (entry, replace(outcome, result=Result.WITHDRAWN, retry_at=None))
                for entry, outcome in held_back.outcomes
            ]
        return report

    def withdrawn(self) -> None:
        """The withdrawal is durable: the client may hear of it."""
        self._withdrawn.set()

    def _decide(self, conclusion: Conclusion) -> None:
        if self._conclusion is None:
            self._conclusion = conclusion
            self._decided.set()
            del self._all_waiting[self._queue_id]
