"""Finding and reading the configuration, for every command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from smtproute.app import Loaded
    from smtproute.core.snapshot import Snapshot

__all__ = ["CONFIG", "OPTION", "loaded", "reader", "refuse"]

CONFIG = 78
"""EX_CONFIG of sysexits(3)."""

OPTION = typer.Option("--config", "-c", help="Configuration file (TOML).", show_default=False)


def reader(config: str | None, overrides: Mapping[str, str] | None = None) -> Callable[[], Snapshot]:
    """What reads the configuration, now and at each reload. It raises config.document.Mistake.

    `overrides` are variables that go before those of the environment.
    """
    import socket

    from smtproute.config.load import find, load

    environ = {**os.environ, **(overrides or {})}
    file = find(config, environ, Path.cwd())  # once: a file that is gone at a reload is a mistake, not no file

    def read() -> Snapshot:
        return load(file, environ, fqdn=socket.getfqdn)

    return read


def loaded(config: str | None, overrides: Mapping[str, str] | None = None) -> Loaded:
    """The configuration with its keys, as `reader` reads it; a mistake ends the program with status 78."""
    from smtproute.app import Refused, load

    try:
        return load(reader(config, overrides))
    except Refused as refused:
        refuse(str(refused))


def refuse(text: str) -> NoReturn:
    """Says what is wrong with the configuration, and ends."""
    print(text, file=sys.stderr)
    raise typer.Exit(CONFIG)
