"""The world as rooms are given it: time, chance, ids, the network. A test hands in a world that it can turn."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Clock", "Network", "Place", "SystemClock", "SystemNetwork", "World", "dial"]

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


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


Place = tuple[str, int]
"""IP address and port."""


class Network(Protocol):
    """Where connections go, and where they come from."""

    async def connect(self, place: Place) -> socket.socket:
        """A connection to this place. Raises OSError."""
        ...

    def routed(self, ip: str) -> bool:
        """Whether there is a route to an IP address."""
        ...

    def caller(self, place: Place) -> Place:
        """Who a client is that connects from this place."""
        ...


class SystemNetwork:
    """The machine's own network: every place is itself."""

    async def connect(self, place: Place) -> socket.socket:
        return await dial(place)

    def routed(self, ip: str) -> bool:
        # A datagram socket that is connected sends nothing.
        try:
            with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM) as asked:
                asked.connect((ip, 9))
        except OSError as error:
            return error.errno not in _NO_ROUTE
        return True

    def caller(self, place: Place) -> Place:
        return place


async def dial(place: Place, began: Callable[[socket.socket], None] = lambda connection: None) -> socket.socket:
    """A connection to this place. `began` is given the socket before it is connected. Raises OSError."""
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    # asyncio sets TCP_NODELAY where it is told that this is TCP.
    connection = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        connection.setblocking(False)
        began(connection)
        await asyncio.get_running_loop().sock_connect(connection, place)
    except BaseException:
        connection.close()
        raise
    return connection


@dataclass(slots=True)
class World:
    """Handed to every room that needs one of these."""

    clock: Clock = field(default_factory=SystemClock)
    chance: random.Random = field(default_factory=random.SystemRandom)
    network: Network = field(default_factory=SystemNetwork)

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
