"""`smtproute serve`: runs the relay."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from smtproute.cli.configuration import OPTION
from smtproute.cli.ready import READY, write_ready

if TYPE_CHECKING:
    import asyncio

    from smtproute.app import Relay
    from smtproute.core.settings import LogFormat
    from smtproute.core.snapshot import Snapshot

__all__ = ["command", "event_loop"]

_NO_FILE = """\
There is no configuration file: every message is captured, and nothing leaves. What was captured is in {state}:
  smtproute queue list --captured
  smtproute queue show ID"""


def command(
    config: Annotated[str | None, OPTION] = None,
    ready_file: Annotated[Path | None, READY] = None,
) -> None:
    """Run the relay. SIGTERM drains and ends it, SIGHUP reloads the configuration."""
    import asyncio

    from smtproute.app import Refused
    from smtproute.cli.configuration import loaded, reader, refuse
    from smtproute.config.load import find
    from smtproute.smtp.listener import ListenerFailed
    from smtproute.smtp.tls import TlsFault
    from smtproute.spool.queue import SpoolFailed

    log = loaded(config).snapshot.settings.log
    file = find(config, os.environ, Path.cwd())
    try:
        with asyncio.Runner(loop_factory=event_loop()) as runner:
            runner.run(_serve(reader(config), file, log.format, ready_file))
    except* (Refused, TlsFault, ListenerFailed, SpoolFailed) as failed:
        first: BaseException = failed
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        refuse(str(first))
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)


def event_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's loop where it is installed, else asyncio's own."""
    import asyncio

    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    new: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return new


async def _serve(read: Callable[[], Snapshot], file: str | None, form: LogFormat, ready_file: Path | None) -> None:
    import asyncio

    from smtproute.app import Relay
    from smtproute.trace.log import log_to
    from smtproute.world import World

    stop, again = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, again.set)
    async with (
        Relay.running(read, world=World(), emit=log_to(sys.stderr, form)) as relay,
        asyncio.TaskGroup() as tasks,
    ):
        for name, (host, port) in relay.addresses.items():
            print(f"listening on {f'[{host}]' if ':' in host else host}:{port} ({name})", flush=True)
        if file is None:
            print(_NO_FILE.format(state=relay.snapshot().settings.state), flush=True)
        if ready_file is not None:
            write_ready(ready_file, relay.addresses)
        reloading = tasks.create_task(_reload(relay, again))
        await stop.wait()
        reloading.cancel()


async def _reload(relay: Relay, again: asyncio.Event) -> None:
    while True:
        await again.wait()
        again.clear()
        await relay.reload()
