"""Snapshot: one whole configuration, frozen. A reload makes another and swaps the reference."""

from __future__ import annotations

from dataclasses import dataclass

from smtproute.core.decide import Routing
from smtproute.core.settings import Settings

__all__ = ["Snapshot"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    settings: Settings
    routing: Routing
    warnings: tuple[str, ...] = ()
    """Faults inside tables and DMS files that do not stop `serve`: each with file and line."""
