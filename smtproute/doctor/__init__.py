"""Looks over a configuration before production does: one module a family of findings.

A finding names a place, what will happen because of it, and what to write instead.
"""

from __future__ import annotations

from smtproute.core.finding import Finding
from smtproute.core.snapshot import Snapshot
from smtproute.doctor import aliases, bounces, keys, listeners

__all__ = ["examine"]


def examine(snapshot: Snapshot) -> list[Finding]:
    """All findings, errors first."""
    families = (aliases, keys, listeners, bounces)
    found = [*snapshot.findings, *(finding for family in families for finding in family.examine(snapshot))]
    return sorted(found, key=lambda finding: -finding.severity.status)
