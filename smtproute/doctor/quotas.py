"""Quotas: limits that nobody asks for. What is wrong with single lines, the readers say."""

from __future__ import annotations

from collections.abc import Iterator

from smtproute.core.finding import Finding, warning
from smtproute.doctor.survey import Survey

__all__ = ["examine"]


def examine(survey: Survey) -> Iterator[Finding]:
    """Limits in a folder whose environment turns quotas off."""
    folder = survey.folder
    if folder is not None and "dovecot-quotas.cf" in folder.files and not folder.environment.on("ENABLE_QUOTAS"):
        where = folder.environment.rule("ENABLE_QUOTAS")
        what = "dovecot-quotas.cf has limits, and ENABLE_QUOTAS=0 leaves the quota plugin out: no mailbox is ever full."
        yield warning("quota-off", where, what, "ENABLE_QUOTAS=1")
