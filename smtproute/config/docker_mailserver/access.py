"""Access lists: `postfix-send-access.cf` and `postfix-receive-access.cf`, read as Postfix reads access(5) tables."""

from __future__ import annotations

import re
from collections.abc import Iterator

from smtproute.config.tables import text_table
from smtproute.core.aliases import TextTable
from smtproute.core.finding import Finding, warning

__all__ = ["RECEIVE", "SEND", "read_access"]

SEND = "postfix-send-access.cf"
RECEIVE = "postfix-receive-access.cf"

_SIMULATED = re.compile(r"OK|DUNNO|REJECT(\s.*)?|DEFER(\s.*)?|[0-9]+|[45][0-9]{2}\s.*", re.IGNORECASE | re.DOTALL)
_CODE = re.compile(r"[45][0-9]{2}")


def read_access(shown: str, octets: bytes) -> tuple[TextTable, tuple[Finding, ...]]:
    table, findings = text_table(shown, octets)
    return table, (*findings, *_doubtful(table))


def _doubtful(table: TextTable) -> Iterator[Finding]:
    """Actions that do not do what they seem to."""
    for key, entry in table.entries.items():
        where = f"{table.file}:{entry.line}"
        if _CODE.fullmatch(entry.value) is not None:
            what = f"A number without a text means OK to Postfix: {key} passes."
            yield warning("access-number", where, what, f"{key} {entry.value} Access denied")
        elif _SIMULATED.fullmatch(entry.value) is None:
            what = f'The action "{entry.value}" is not simulated: here the address passes.'
            yield warning("not-simulated", where, what, f"{key} REJECT")
