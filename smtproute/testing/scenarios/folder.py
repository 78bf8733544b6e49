"""Folder: which of its files are scenarios. It imports nothing of the relay, for whoever only looks."""

from __future__ import annotations

import tomllib
from pathlib import Path

__all__ = ["is_scenario"]


def is_scenario(file: Path) -> bool:
    """Whether a *.toml file of a folder is meant to be one; what cannot be read is, and its mistake is told."""
    try:
        return bool({"title", "message", "explain"}.intersection(tomllib.loads(file.read_text("utf-8-sig"))))
    except (OSError, ValueError):
        return True
