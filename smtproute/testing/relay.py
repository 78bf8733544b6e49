"""A relay in this process, and a journal of its events to wait on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

from smtproute.app import Relay
from smtproute.config.load import load
from smtproute.core.event import Emit, Event, Happening
from smtproute.smtp.opening import TIMEOUTS, Timeouts
from smtproute.world import World

__all__ = ["Journal", "running"]

_ENDED = (Happening.DELIVERED, Happening.FAILED)


class Journal:
    """An Emit that keeps every event and wakes whoever waits for one."""

    def __init__(self, also: Emit | None = None) -> None:
        """`also` is told of each event too."""
        self.events: list[Event] = []
        self._also = also
        self._more = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._more.set()
        if self._also is not None:
            self._also(event)

    def of(self, what: Happening, message: str = "") -> list[Event]:
        """The events of one kind so far, of one message or of all."""
        return [each for each in self.events if each.what is what and message in ("", each.message)]

    async def until(self, true: Callable[[], bool], seconds: float = 30.0) -> None:
        """Until it holds; asked again after each event. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not true():
                self._more.clear()
                await self._more.wait()

    async def seen(self, what: Happening, message: str = "", times: int = 1, seconds: float = 30.0) -> list[Event]:
        """The events of a kind, once there are so many. Raises TimeoutError."""
        await self.until(lambda: len(self.of(what, message)) >= times, seconds)
        return self.of(what, message)

    async def finished(self, message: str, deliveries: int, seconds: float = 30.0) -> None:
        """Until so many deliveries of a message are delivered or failed. Raises TimeoutError."""
        await self.until(
            lambda: sum(each.message == message and each.what in _ENDED for each in self.events) >= deliveries, seconds
        )


@contextlib.asynccontextmanager
async def running(
    file: str | None,
    environ: Mapping[str, str],
    *,
    emit: Journal,
    world: World | None = None,
    timeouts: Timeouts = TIMEOUTS,
) -> AsyncIterator[Relay]:
    """A relay with this configuration file and these overrides, as `smtproute serve` would run it.

    `timeouts`: how long it waits for the servers that it sends to.
    """
    async with Relay.running(
        lambda: load(file, environ, fqdn=lambda: "localhost.localdomain"),
        world=world or World(),
        emit=emit,
        timeouts=timeouts,
    ) as relay:
        yield relay
