"""Lookups: what one message may ask of DNS, in one budget for everybody who judges it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from copy import copy
from typing import Any, TypeVar

from smtproute.core.lookup import Lookup, Unanswered

__all__ = ["Lookups"]

AT_ONCE = 4
"""Questions of one check that are under way at once: no message may take the places of all others."""
TURNS = 10
"""Parts of the time for all questions: who is waited for has one of them."""

Found = TypeVar("Found")


class Lookups:
    """A Lookup for one message: each question is asked once, however often and by however many it is put.

    `seconds` run from its making, for all questions together; of at most `most` different ones. What is past either
    raises Unanswered.
    """

    def __init__(self, lookup: Lookup, seconds: float, most: int) -> None:
        self._lookup = lookup
        self._seconds = seconds
        self._most = most
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._answers: dict[tuple[str, ...], tuple[Any, ...] | str] = {}
        """By question; a text is why there is no answer."""
        self._asking: dict[tuple[str, ...], asyncio.Event] = {}
        self._places: _Places | None = None

    def share(self) -> Lookups:
        """For one of several checks: the same questions within the same bounds, AT_ONCE of them at once.

        While a question waits for its turn the others get no more than a part of the time: so no number of silent
        servers keeps one that would answer from being asked.
        """
        shared = copy(self)
        shared._places = _Places(AT_ONCE, self._seconds / TURNS, self._deadline)
        return shared

    async def texts(self, name: str) -> tuple[bytes, ...]:
        return await self._answer(lambda: self._lookup.texts(name), "TXT", name)

    async def addresses(self, name: str, version: int) -> tuple[str, ...]:
        return await self._answer(lambda: self._lookup.addresses(name, version), "AAAA" if version == 6 else "A", name)

    async def exchanges(self, name: str) -> tuple[str, ...]:
        return await self._answer(lambda: self._lookup.exchanges(name), "MX", name)

    async def pointers(self, ip: str) -> tuple[str, ...]:
        return await self._answer(lambda: self._lookup.pointers(ip), "PTR", ip)

    async def _answer(self, ask: Callable[[], Awaitable[tuple[Found, ...]]], kind: str, name: str) -> tuple[Found, ...]:
        """The first to put a question asks it, the others wait for him; if he is cancelled the next takes over."""
        question = kind, name.lower().removesuffix(".")
        try:
            async with asyncio.timeout_at(self._deadline):
                while question not in self._answers and (asking := self._asking.get(question)) is not None:
                    await asking.wait()
                if question not in self._answers:
                    self._answers[question] = await self._asked(ask, question)
        except TimeoutError:
            self._answers.setdefault(question, f"{name}: no answer within {self._seconds:g} seconds")
        answer = self._answers[question]
        if isinstance(answer, str):
            raise Unanswered(answer)
        return answer

    async def _asked(
        self, ask: Callable[[], Awaitable[tuple[Found, ...]]], question: tuple[str, str]
    ) -> tuple[Found, ...] | str:
        if len(self._answers) + len(self._asking) >= self._most:
            return f"{question[1]}: not asked, after {self._most} look-ups for one message"
        asking = self._asking[question] = asyncio.Event()
        try:
            if self._places is None:
                return await ask()
            async with self._places.one():
                return await ask()
        except Unanswered as unanswered:
            return str(unanswered)
        except TimeoutError:
            return f"{question[1]}: no answer while other questions of the message waited"
        finally:
            del self._asking[question]
            asking.set()


class _Places:
    """Places for questions. As long as somebody waits for one, nobody keeps his for longer than it takes to give all of
    them an equal part of the time until `deadline`, but `turn` seconds at least.
    """

    def __init__(self, most: int, turn: float, deadline: float) -> None:
        self._most = most
        self._free = asyncio.Semaphore(most)
        self._turn = turn
        self._deadline = deadline
        self._waiting = 0
        self._held: dict[asyncio.Timeout, float] = {}
        """When each turn began."""

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Raises TimeoutError where the turn ends first."""
        self._waiting += 1
        try:
            if self._free.locked():
                self._hurry()
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            began = asyncio.get_running_loop().time()
            async with asyncio.timeout_at(self._ends(began) if self._waiting else None) as timeout:
                self._held[timeout] = began
                try:
                    yield
                finally:
                    del self._held[timeout]
        finally:
            self._free.release()

    def _hurry(self) -> None:
        for timeout, began in self._held.items():
            if not timeout.expired():
                timeout.reschedule(self._ends(began))

    def _ends(self, began: float) -> float:
        """When a turn ends that others wait for."""
        rounds = -(-(self._most + self._waiting) // self._most)
        return began + max(self._turn, (self._deadline - began) / rounds)
