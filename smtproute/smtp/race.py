"""The race: several addresses of an endpoint are connected to, each a little after the one before it (RFC 8305 5).

The first that greets has won. A dead address so costs milliseconds and no timeout, and one that accepts and then
hangs some seconds. How long is waited before the next one starts depends on what it is waited for (`Timeouts.next_*`).
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
    """One candidate in the race."""

    candidate: Candidate
    opening: Opening
    stage: Stage = Stage.CONNECT
    """What it waits for; with `GREETING` it is connected."""
    since: float = 0.0
    """When that began: the loop's time."""
    late: bool = False
    """That took so long that another was started."""
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

        A loser that kept us waiting until another was started has failed, too, unless it has connected since: its
        `failure` names the winner. One that was merely slower has not.
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
                for late in self._under_way():
                    late.late = True
                runner = self._waiting.popleft()
                runner.since = loop.time()
                self.started.append(runner)
                tasks.append(group.create_task(self._run(runner)))
                continue
            try:
                async with asyncio.timeout_at(due):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _under_way(self) -> list[Runner]:
        """Those that have been started and have not failed."""
        return [runner for runner in self.started if runner.failure is None]

    def _due(self) -> float | None:
        """When the next one starts if nothing happens; None: all have, or enough are under way."""
        under_way = self._under_way()
        if not self._waiting or len(under_way) >= ABREAST:
            return None
        return max((runner.since + self._patience(runner, self._waiting[0]) for runner in under_way), default=0.0)

    def _patience(self, runner: Runner, following: Runner) -> float:
        """Seconds that `following` does not start beside `runner`."""
        timeouts = self._timeouts
        backup = following.candidate.backup and not runner.candidate.backup
        if runner.stage is Stage.GREETING:
            return timeouts.backup_greeting if backup else timeouts.next_greeting
        if backup:
            return timeouts.next_backup
        same = following.candidate.server == runner.candidate.server
        return timeouts.next_connect if same else timeouts.next_server

    async def _run(self, runner: Runner) -> None:
        try:
            await runner.opening.connect()
            runner.stage, runner.since, runner.late = Stage.GREETING, asyncio.get_running_loop().time(), False
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
        for runner in self._under_way():
            if runner.late and not runner.greeted:
                what = "connection" if runner.stage is Stage.CONNECT else "greeting"
                why = f"no {what} within {round(now - runner.since, 1):g} s, when {won.candidate} answered"
                runner.failure = runner.opening.give_up(runner.stage, why)
