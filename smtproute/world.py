"""The world as rooms are given it: time, chance and ids. A test hands in a world that it can turn."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Clock", "SystemClock", "World"]

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Clock(Protocol):
    """What time it is, and waiting for it to pass."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment: nobody sets this clock, so it tells what came before what."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(slots=True)
class World:
    """Handed to every room that needs one of these."""

    clock: Clock = field(default_factory=SystemClock)
    chance: random.Random = field(default_factory=random.SystemRandom)

    def queue_id(self) -> str:
        """A new queue id: 15 characters that sort by time (microseconds) and then by chance."""
        number = (int(self.clock.now() * 1e6) << 23) | self.chance.getrandbits(23)
        digits = []
        for _ in range(15):
            number, digit = divmod(number, 32)
            digits.append(_ALPHABET[digit])
        return "".join(reversed(digits))

    def token(self) -> str:
        """A name that nobody else has: 16 hexadecimal digits."""
        return f"{self.chance.getrandbits(64):016x}"
