"""Relay tables: the two that docker-mailserver's scripts (helpers/relay.sh) put together, as Postfix reads them.

Next hops by sender are made of the lines of `postfix-relaymap.cf` that have a value, and of `RELAY_HOST` for each of
docker-mailserver's domains that has neither entry nor opt-out line; credentials of `postfix-sasl-password.cf` and
`RELAY_USER`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from smtproute.config.docker_mailserver import quoting
from smtproute.config.docker_mailserver.scripts import valid_lines
from smtproute.config.tables import decoded, text_table
from smtproute.core.aliases import TextTable
from smtproute.core.docker_mailserver import Environment, Line
from smtproute.core.finding import Finding, error, warning

__all__ = ["LOGIN", "PASSWORDS", "RELAYMAP", "ScriptTable", "credentials", "env_relay", "hops", "written"]

RELAYMAP = "postfix-relaymap.cf"
PASSWORDS = "postfix-sasl-password.cf"
LOGIN = "user:password"
"""Stands in findings for what no finding may show."""


@dataclass(frozen=True, slots=True)
class ScriptTable:
    """A texthash table that the scripts put together: the lines of a file, and their own behind them."""

    table: TextTable
    lines: int
    """How many lines the file has."""
    own: str
    """The rule of the scripts' own lines."""

    @property
    def fault(self) -> str:
        if not self.table.fault:
            return ""
        return f"{self.table.file}: {self.table.fault}"

    def rule(self, line: int) -> str:
        return f"{self.table.file}:{line}" if line <= self.lines else self.own


_PAIR = re.compile(r"\s*[^#\s]\S*\s+\S", re.ASCII)
"""What the scripts copy of postfix-relaymap.cf: a line with a value."""
_COMMENT = re.compile(r"\s*(?:#|\Z)", re.ASCII)
"""What is no line to either."""


def hops(text: str, environment: Environment, vhost: Iterable[str], findings: list[Finding]) -> ScriptTable:
    """Next hops by sender. Lines that are not copied are left blank, so that the others keep their numbers."""
    lines = text.split("\n")
    copied = [line if _PAIR.match(line) else "" for line in lines]
    entries = _words(line for line in copied if line.startswith("@") and line.split(maxsplit=1)[1:])
    opt_outs = _words(line.strip() for line in lines if not line.split(maxsplit=1)[1:])
    own = []
    for domain in sorted(set(vhost)) if environment["RELAY_HOST"] else ():
        key = re.compile(re.escape(f"@{domain}").replace(r"\.", "."))  # to the scripts' grep a dot is any character
        alike = entries.get(len(domain) + 1, []) + opt_outs.get(len(domain) + 1, [])
        if not any(map(key.fullmatch, alike)):
            own.append(f"@{domain}    {env_relay(environment)}")
    if copied[-1] and own:
        what = (
            "The last line does not end: docker-mailserver's scripts write their first entry for RELAY_HOST behind it, "
            "and neither of the two can be used."
        )
        findings.append(error("no-final-newline", f"{RELAYMAP}:{len(lines)}", what, f"{copied[-1].strip()}\\n"))
    return _table(
        RELAYMAP,
        "\n".join(copied) + "".join(f"{line}\n" for line in own),
        len(lines) if lines[-1] else len(lines) - 1,
        environment.rule("RELAY_HOST"),
        "mail from every sender to other places is deferred.",
        findings,
    )


def _words(lines: Iterable[str]) -> dict[int, list[str]]:
    """The first word of each line, by its length."""
    words: dict[int, list[str]] = {}
    for line in lines:
        word = line.split(maxsplit=1)[:1]
        if word:
            words.setdefault(len(word[0]), []).append(word[0])
    return words


def credentials(passwords: bytes | None, environment: Environment, findings: list[Finding]) -> ScriptTable:
    """`user:password` by sender, server or next hop. No finding about it shows a value."""
    lines = decoded(passwords or b"").replace("\r", "").split("\n")
    kept = ["" if _COMMENT.match(line) else line for line in lines]
    count = len(lines) if lines[-1] else len(lines) - 1
    if kept[-1]:
        kept.append("")  # the scripts mend a missing newline here
    own = ""
    relay = environment["DEFAULT_RELAY_HOST"] or (environment["RELAY_HOST"] and env_relay(environment))
    if relay and environment["RELAY_USER"] and environment["RELAY_PASSWORD"]:
        login = f"{environment['RELAY_USER']}:{environment['RELAY_PASSWORD']}"
        own = f"{relay}    {login.partition(chr(10))[0]}\n"  # what is more of a secret's file nobody asks for
    found: list[Finding] = []
    table = _table(
        PASSWORDS,
        "\n".join(kept) + own,
        count,
        environment.rule("RELAY_USER"),
        "mail for every relay is deferred.",
        found,
        quoting.key,
    )
    findings += [replace(each, instead=LOGIN if each.name == "no-value" else "") for each in found]
    for key, entry in table.table.entries.items():
        if ":" not in entry.value:
            shown = quoting.key(key)
            what = f'The credentials for "{shown}" have no colon: the password is empty.'
            findings.append(error("relay-credentials", table.rule(entry.line), what, f"{shown} {LOGIN}"))
    return table


def _table(
    file: str,
    text: str,
    lines: int,
    own: str,
    consequence: str,
    findings: list[Finding],
    quoted: Callable[[str], str] = str,
) -> ScriptTable:
    """The table as Postfix reads it. `consequence` is what a duplicate key leads to, `quoted` as in text_table."""
    read, found = text_table(file, text, quoted)
    table = ScriptTable(read, lines, own)
    for each in found:
        rule = table.rule(int(each.where.rpartition(":")[2]))
        if each.name == "duplicate-key":
            what = f"{each.what.partition(' makes ')[0]} makes the whole table unusable: {consequence}"
            if rule == own:
                what += f" The second one is written by docker-mailserver's scripts because of {own}."
            each = replace(each, what=what, instead="")
        findings.append(replace(each, where=rule))
    before = False
    for number, line in enumerate(text.split("\n"), 1):
        if not _COMMENT.match(line):
            if line[0].isspace() and before:
                what = (
                    "A line that begins with white space continues the one above: Postfix reads the two as one entry."
                )
                findings.append(warning("continuation-line", f"{file}:{number}", what, line.strip()))
            before = True
    return table


def env_relay(environment: Environment) -> str:
    """RELAY_HOST and RELAY_PORT as a next hop: the scripts always write brackets."""
    return f"[{environment['RELAY_HOST']}]:{environment['RELAY_PORT']}"


def written(file: str, octets: bytes) -> Iterator[Line]:
    for number, line in valid_lines(octets):
        key, *value = line.split(maxsplit=1)
        yield Line(f"{file}:{number}", key, value[0].strip() if value else "")
