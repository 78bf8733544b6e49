"""The spool as the command line opens it: beside a running relay, or with none running."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from smtproute.cli.configuration import reader, refuse
from smtproute.core.event import Event

if TYPE_CHECKING:
    from smtproute.spool.operator import OperatorSpool

__all__ = ["opened"]


def _unreadable(event: Event) -> None:
    """A row that cannot be read: said, and passed over."""
    print(f"{event.what}: {dict(event.facts)}", file=sys.stderr)


@asynccontextmanager
async def opened(config: str | None) -> AsyncIterator[OperatorSpool]:
    """The configured spool, without taking it from a relay; where there is none yet, the program ends with 78."""
    from smtproute.config.document import Mistake
    from smtproute.config.load import find
    from smtproute.spool.queue import SpoolFailed
    from smtproute.spool.sqlite import SqliteSpool
    from smtproute.world import World

    try:
        folder = Path(reader(config)().settings.state) / "spool"
        spool = await SqliteSpool.beside(str(folder), World(), _unreadable)
    except Mistake as mistake:
        refuse(str(mistake))
    except SpoolFailed as failed:
        mend = "" if find(config, os.environ, Path.cwd()) else ". Name the relay's configuration file by -c"
        refuse(f"{folder}: {failed}{mend}")
    try:
        yield spool
    except SpoolFailed as failed:
        refuse(str(failed))
    finally:
        await spool.close()
