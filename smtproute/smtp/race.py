"""The race: several addresses of an endpoint are connected to, each a little after the one before it (RFC 8305 5).

The first that greets has won. A dead address so costs milliseconds and no timeout, and one that accepts and then
hangs some seconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from smtproute.core.choice import Candidate
from smtproute.core.outcome import Stage
from smtproute.smtp.opening import Opening, Timeouts, Unreachable

__all__ = ["ABREAST", "Race", "Runner"]

ABREAST = 10
"""How many addresses are raced at once: a name with a hundred dead ones is not to take every descriptor we have."""


@dataclass(slots=True, eq=False)
class Runner:
    """One candidate in the race. Times are the loop's."""

    candidate: Candidate
    opening: Opening
    started: float = 0.0
    connected: float | None = None
    greeted: bool = False
    failure: Unreachable | None = None


class Race:
    """One race over an endpoint's candidates, in their order."""

    def __init__(self, runners: Sequence[Runner], timeouts: Timeouts) -> None:
        self.started: list[Runner] = []
        """Those that have been connected to, or tried to."""
        self._waiting = deque(runners)
        self._timeouts = timeouts
        self._changed = asyncio.Event()

    async def winner(self) -> Runner | None:
        """The first that greets, None where none does; the sockets of all others are closed.

        A loser that showed no sign of life in its time has failed, too: its `failure` names the winner. One that was
        merely slower has not.
        """
        won: Runner | None = None
        try:
            async with asyncio.TaskGroup() as group:
                tasks: list[asyncio.Task[None]] = []
                first = await self._decided(group, tasks)
                if first is not None:
                    self._judge(first)
                for task in tasks:
                    task.cancel()
            won = first
        finally:
            for runner in self.started:
                if runner is not won:
                    runner.opening.abort()
        return won

    async def _decided(self, group: asyncio.TaskGroup, tasks: list[asyncio.Task[None]]) -> Runner | None:
        """Starts one after the other, until one has greeted or all have failed."""
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            first = next((runner for runner in self.started if runner.greeted), None)
            due = self._due()
            if first is not None or (due is None and all(runner.failure for runner in self.started)):
                return first
            if due is not None and due <= loop.time():
                runner = self._waiting.popleft()
                runner.started = loop.time()
                self.started.append(runner)
                tasks.append(group.create_task(self._run(runner)))
                continue
            try:
                async with asyncio.timeout_at(due):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _due(self) -> float | None:
        """When the next one starts if nothing happens; None: all have, or enough are under way."""
        under_way = sum(runner.failure is None for runner in self.started)
        if not self._waiting or under_way >= ABREAST:
            return None
        if not under_way:
            return 0.0
        last, timeouts = self.started[-1], self._timeouts
        if last.connected is not None and last.failure is None:
            return last.connected + timeouts.next_greeting
        if self._waiting[0].candidate.backup and not last.candidate.backup:
            return last.started + timeouts.next_backup
        return last.started + timeouts.next_connect

    async def _run(self, runner: Runner) -> None:
        try:
            await runner.opening.connect()
            runner.connected = asyncio.get_running_loop().time()
            self._changed.set()
            await runner.opening.greet()
            runner.greeted = True
        except Unreachable as unreachable:
            runner.failure = unreachable
        finally:
            self._changed.set()

    def _judge(self, won: Runner) -> None:
        """Gives up those that are late."""
        now = asyncio.get_running_loop().time()
        for runner in self.started:
            if runner.greeted or runner.failure is not None:
                continue
            if runner.connected is None:
                stage, what = Stage.CONNECT, "connection"
                seconds, patience = now - runner.started, self._timeouts.next_connect
            else:
                stage, what = Stage.GREETING, "greeting"
                seconds, patience = now - runner.connected, self._timeouts.next_greeting
            if seconds >= patience:
                why = f"no {what} within {round(seconds, 1):g} s, when {won.candidate} answered"
                runner.failure = runner.opening.give_up(stage, why)
