"""Looks over a configuration before production does: one module a family of findings.

A finding names a place, what will happen because of it, and what to write instead. Everything about routing is asked
of `core.decide`, through the survey; what single lines get wrong, their readers have found already.
"""

from __future__ import annotations

from smtproute.core.finding import Finding
from smtproute.core.snapshot import Snapshot
from smtproute.doctor import (
    accounts,
    aliases,
    bounces,
    files,
    hostname,
    keys,
    listeners,
    patterns,
    postmaster,
    quotas,
    relays,
    seals,
    srs,
)
from smtproute.doctor.survey import Survey, place
from smtproute.doctor.watching import Watch, watch

__all__ = ["Watch", "examine", "watch"]

FAMILIES = (
    accounts,
    aliases,
    patterns,
    files,
    hostname,
    postmaster,
    quotas,
    relays,
    srs,
    seals,
    keys,
    listeners,
    bounces,
)


def examine(snapshot: Snapshot) -> list[Finding]:
    """All findings, errors first, each name once a place."""
    survey = Survey(snapshot)
    found: dict[tuple[str, str], Finding] = {}
    for finding in snapshot.findings:
        found.setdefault((finding.name, f"{finding.where} {finding.what}"), finding)
    for family in FAMILIES:
        for finding in family.examine(survey):
            found.setdefault((finding.name, finding.where), finding)
    return sorted(found.values(), key=lambda finding: (-finding.severity.status, place(finding.where)))
