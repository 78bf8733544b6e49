"""Local aliases: `postfix-aliases.cf`, for addresses at the host name, behind a line of docker-mailserver's own."""

from __future__ import annotations

from smtproute.config.tables import alias_table
from smtproute.core.aliases import Entry, TextTable
from smtproute.core.finding import Finding, warning

__all__ = ["ALIASES", "read_local"]

ALIASES = "postfix-aliases.cf"
FIRST = "/etc/aliases"
"""Where docker-mailserver writes its own line, and behind it the folder's file."""


def read_local(octets: bytes | None, postmaster: str) -> tuple[tuple[TextTable, ...], tuple[Finding, ...]]:
    """The tables in the order in which they answer: docker-mailserver's `root: POSTMASTER_ADDRESS` goes first."""
    first = TextTable(FIRST, {"root": Entry(1, postmaster)})
    if octets is None:
        return (first,), ()
    table, findings = alias_table(ALIASES, octets)
    root = table.entries.get("root")
    if root is not None and root.value != postmaster:
        what = (
            f"docker-mailserver writes root: {postmaster} above this file, and of two lines the first counts: mail for"
            f" root goes to {postmaster}. Set POSTMASTER_ADDRESS in the environment."
        )
        shadowed = warning("root-shadowed", f"{ALIASES}:{root.line}", what, f"POSTMASTER_ADDRESS={root.value}")
        findings = (*findings, shadowed)
    return (first, table), findings
