"""Virtual aliases: `postfix-virtual.cf` in two readings, Postfix's and that of docker-mailserver's scripts.

Postfix looks aliases up in it. The scripts take its local domains from it, and the virtual accounts of Dovecot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from smtproute.config.docker_mailserver.scripts import endings, second, valid_lines
from smtproute.config.tables import inline_comments, text_table
from smtproute.core.address import AddressError, Domain
from smtproute.core.aliases import TextTable
from smtproute.core.docker_mailserver import Line
from smtproute.core.finding import Finding, error, warning

__all__ = ["ReadVirtual", "read_virtual", "sought"]


@dataclass(frozen=True, slots=True)
class ReadVirtual:
    table: TextTable
    """As Postfix reads it."""
    lines: tuple[Line, ...] = ()
    """As the scripts read it."""
    domains: Mapping[str, str] = field(default_factory=dict)
    """Domain.key to the first rule that names it, in the scripts' reading."""
    vhost: frozenset[str] = frozenset()
    """The same as the scripts write them down, each a line."""
    findings: tuple[Finding, ...] = ()


def read_virtual(shown: str, octets: bytes) -> ReadVirtual:
    table, findings = text_table(shown, octets)
    lines: list[Line] = []
    domains: dict[str, str] = {}
    vhost: set[str] = set()
    for number, text in valid_lines(octets):
        if "\0" in text:
            continue  # the table says so
        key, value = (*text.split(None, 1), "")[:2]
        rule = f"{shown}:{number}"
        lines.append(Line(rule, key, value.strip()))
        domain = second(key)
        if domain == key.split("@")[0]:
            continue
        vhost.add(domain)
        for name in domain.split(","):  # Postfix parts the list of domains there
            try:
                domains.setdefault(Domain.parse(name).key, rule)
            except AddressError:
                continue
    findings = (
        *findings,
        *inline_comments(table),
        *_continued(shown, octets, domains),
        *endings(shown, octets),
    )
    return ReadVirtual(table, tuple(lines), domains, frozenset(vhost), findings)


def sought(alias: Line, version: str) -> tuple[str, ...]:
    """The texts that the scripts look for among the accounts, to make a virtual account of an alias.

    Before 16 that is the whole value, so that an alias of several targets has none (pull request 4581).
    """
    return tuple(alias.value.replace(",", " ").split()) if version == "16" else (alias.value,)


def _continued(shown: str, octets: bytes, domains: Mapping[str, str]) -> tuple[Finding, ...]:
    """The lines that begin with white space: more targets to Postfix, aliases of their own to the scripts."""
    findings: list[Finding] = []
    above: tuple[int, str] | None = None
    for number, text in valid_lines(octets):
        if not text[0].isspace():
            above = number, text
            continue
        if above is None:
            continue  # Postfix ignores it, and the table says so
        rule, words = f"{shown}:{number}", text.split()
        domain = second(words[0])
        new = domain != words[0] and domains.get(domain.lower()) == rule
        what = (
            f"A line that begins with white space continues line {above[0]} for Postfix: {', '.join(words)} become"
            f" targets of {above[1].split()[0]}. For docker-mailserver's scripts {words[0]} is an alias of its own"
            + (f": they make {domain} a local domain, whose other addresses bounce." if new else ".")
        )
        joined = ", ".join(" ".join((*above[1].split(None, 1)[1:], text)).replace(",", " ").split())
        instead = text.strip() if len(words) > 1 and "@" in words[0] and not new else f"{above[1].split()[0]} {joined}"
        findings.append((error if new else warning)("leading-space", rule, what, instead))
    return tuple(findings)
