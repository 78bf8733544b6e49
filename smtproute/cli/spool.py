"""The spool as the command line opens it: beside a running relay, or with none running."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from smtproute.cli.configuration import loaded, refuse
from smtproute.spool.operator import OperatorSpool
from smtproute.spool.queue import SpoolFailed
from smtproute.world import World

__all__ = ["opened"]


@asynccontextmanager
async def opened(config: str | None) -> AsyncIterator[OperatorSpool]:
    """The configured spool, without taking it from a relay; where there is none yet, the program ends with 78."""
    folder = Path(loaded(config).snapshot.settings.state) / "spool"
    try:
        spool = await OperatorSpool.open(str(folder), World())
    except SpoolFailed as failed:
        refuse(str(failed))
    try:
        yield spool
    finally:
        await spool.close()
