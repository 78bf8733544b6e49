"""Access lists: `postfix-send-access.cf` and `postfix-receive-access.cf`, read as Postfix reads access(5) tables."""

from __future__ import annotations

import re

from smtproute.config.tables import text_table
from smtproute.core.access import AccessTable
from smtproute.core.finding import Finding, warning

__all__ = ["RECEIVE", "SEND", "read_access"]

SEND = "postfix-send-access.cf"
RECEIVE = "postfix-receive-access.cf"

_SIMULATED = re.compile(r"OK|DUNNO|REJECT(\s.*)?|DEFER(\s.*)?|[0-9]+|[45][0-9]{2}(\s.*)?", re.IGNORECASE | re.DOTALL)


def read_access(shown: str, octets: bytes) -> tuple[AccessTable, tuple[Finding, ...]]:
    table, findings = text_table(shown, octets)
    unknown = tuple(
        warning(
            "not-simulated",
            f"{shown}:{entry.line}",
            f'The action "{entry.value}" is not simulated: here the address passes.',
            f"{key} REJECT",
        )
        for key, entry in table.entries.items()
        if _SIMULATED.fullmatch(entry.value) is None
    )
    return AccessTable(shown, table.entries, table.fault), (*findings, *unknown)
