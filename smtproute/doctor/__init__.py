"""Looks over a configuration before production does: one module a family of findings.

A finding names a place, what will happen because of it, and what to write instead. Everything about routing is asked
of `core.decide`, through the survey; what single lines get wrong, their readers have found already.
"""

from __future__ import annotations

from collections.abc import Sequence

from smtproute.core.finding import Finding
from smtproute.core.snapshot import Snapshot
from smtproute.delivery.probe import Probe
from smtproute.doctor import (
    accounts,
    aliases,
    bounces,
    dns,
    endpoints,
    files,
    hostname,
    keys,
    listeners,
    patterns,
    postmaster,
    quotas,
    relays,
    routes,
    seals,
    srs,
)
from smtproute.doctor.dns.answers import Answers
from smtproute.doctor.survey import Survey, place
from smtproute.doctor.watching import Watch, watch
from smtproute.resolve.hidden import Hidden

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
    endpoints,
    routes,
)


def examine(
    snapshot: Snapshot,
    hidden: Sequence[Hidden] = (),
    probes: Sequence[Probe] = (),
    answers: Answers | None = None,
) -> list[Finding]:
    """All findings, errors first, each name once a place.

    `hidden`, `probes` and `answers` are what the network was asked before, if it was.
    """
    survey = Survey(snapshot)
    found: dict[tuple[str, str], Finding] = {}
    resolver = snapshot.settings.resolver
    asked = (*endpoints.doubled(hidden, resolver.hosts_file), *endpoints.reached(probes, resolver.stale))
    published = dns.examine(answers) if answers is not None else ()
    for finding in (*snapshot.findings, *asked, *published):
        found.setdefault((finding.name, f"{finding.where} {finding.what}"), finding)
    for family in FAMILIES:
        for finding in family.examine(survey):
            found.setdefault((finding.name, finding.where), finding)
    return sorted(found.values(), key=lambda finding: (-finding.severity.status, place(finding.where)))
