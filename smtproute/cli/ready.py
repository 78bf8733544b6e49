"""The ready file: tells whoever started a server that it listens, and where."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import typer

__all__ = ["READY", "write_ready"]


def _unwritten(file: Path | None) -> Path | None:
    """Removes what a process before this one has left, which says wrong things; before anything slow is done.

    Raises typer.BadParameter where the file could not be written.
    """
    if file is not None:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise typer.BadParameter(f"{file}: {(error.strerror or str(error)).lower()}") from None
        if not file.parent.is_dir():
            raise typer.BadParameter(f"{file.parent} is no folder: make it first")
    return file


READY = typer.Option(
    "--ready-file", help="Write the listeners' addresses here, as JSON, once they listen.", callback=_unwritten
)


def write_ready(file: Path, addresses: Mapping[str, tuple[str, int]], **more: str) -> None:
    """Whole or not at all: whoever waits for the file reads it the moment it is there."""
    listeners = {name: {"host": host, "port": port} for name, (host, port) in addresses.items()}
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps({"listeners": listeners, **more}) + "\n")
    os.replace(part, file)  # noqa: PTH105 - atomic, and named as what it is
