"""OpenDKIM: the keys that `opendkim/SigningTable` and `opendkim/KeyTable` sign with.

`setup config dkim` writes both. SigningTable says which key signs for whom, KeyTable what the key is: `name
domain:selector:file`. TrustedHosts says whose mail is signed, which has nothing to do with keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from smtproute.config import files
from smtproute.config.docker_mailserver.paths import Paths
from smtproute.config.tables import decoded
from smtproute.core.docker_mailserver import KeyFile, Line
from smtproute.core.finding import Finding, error, warning

__all__ = ["read_opendkim"]

KEYS = "opendkim/KeyTable"
SIGNERS = "opendkim/SigningTable"


@dataclass(frozen=True, slots=True)
class _Key:
    """A line of KeyTable. A domain of `%` is that of the sender."""

    domain: str
    selector: str
    written: str
    line: Line


def read_opendkim(
    folder: Path, paths: Paths, domains: Iterable[str] = ()
) -> tuple[tuple[KeyFile, ...], tuple[Finding, ...]]:
    """The keys that sign, in the order of SigningTable, and what is wrong with the two files. Raises OSError.

    Of the lines that stand for one author's domain the first counts (MultipleSignatures is off); `domains` are those
    that a pattern such as `*` may stand for. docker-mailserver copies the folder only where KeyTable is there. The
    keys themselves are not opened.
    """
    findings: list[Finding] = []
    if not files.present(folder / KEYS):
        if files.present(folder / SIGNERS):
            what = "There is no KeyTable beside it: docker-mailserver ignores the folder, and nothing is signed."
            findings.append(error("opendkim-table", SIGNERS, what, "setup config dkim"))
        return (), tuple(findings)
    keys = dict(_keys(folder, findings))
    found: dict[str, KeyFile] = {}
    told: set[str] = set()
    used: set[str] = set()
    if not files.present(folder / SIGNERS):
        what = "There is no SigningTable beside it: nothing is signed."
        findings.append(error("opendkim-table", KEYS, what, "setup config dkim"))
    for line in _lines(folder, SIGNERS):
        domain = _signs(line.key)
        key = keys.get(line.value)
        if not line.value:
            what = f"{line.key} names no key."
            findings.append(error("opendkim-table", line.rule, what, f"*@{domain} mail._domainkey.{domain}"))
        elif key is None:
            what = f"KeyTable has no key {line.value}: OpenDKIM refuses the mail of {line.key}, or leaves it unsigned."
            instead = f"{line.value} {domain}:mail:/etc/opendkim/keys/{domain}/mail.private"
            findings.append(error("opendkim-table", line.rule, what, f"{instead} (in KeyTable)"))
        else:
            used.add(line.value)
            for author in _authors(line, domains, findings):
                signed = author if key.domain == "%" else key.domain.lower()
                made = _key_file(key, signed, paths, findings, told)
                found.setdefault(author, made if author == signed else replace(made, author=author))
    findings += [
        warning("opendkim-table", key.line.rule, f"No line of SigningTable names {name}: this key signs nothing.")
        for name, key in keys.items()
        if name not in used and files.present(folder / SIGNERS)
    ]
    return tuple(found.values()), tuple(findings)


def _keys(folder: Path, findings: list[Finding]) -> Iterator[tuple[str, _Key]]:
    """The lines of KeyTable by name; of several with one name the first."""
    seen: set[str] = set()
    for line in _lines(folder, KEYS):
        domain, _, rest = line.value.partition(":")
        selector, _, file = rest.partition(":")
        if not (domain and selector and file):
            what = f"{line.key} is not followed by domain:selector:file."
            instead = (
                f"{line.key} {domain or 'example.org'}:mail:/etc/opendkim/keys/{domain or 'example.org'}/mail.private"
            )
            findings.append(error("opendkim-table", line.rule, what, instead))
        elif line.key in seen:
            what = f"{line.key} stands here already: the line is ignored."
            findings.append(warning("opendkim-table", line.rule, what))
        else:
            seen.add(line.key)
            yield line.key, _Key(domain, selector, file, line)


def _authors(line: Line, domains: Iterable[str], findings: list[Finding]) -> tuple[str, ...]:
    """The domains whose authors a line of SigningTable stands for, of these and the one that it names."""
    user, at, domain = line.key.rpartition("@")
    if user == "*" and "*" not in domain:
        return (domain.lower(),)
    if not at and not user and not domain.startswith("*"):
        what = f'{line.key} is not asked for: SigningTable is a "refile", whose keys are whole addresses.'
        findings.append(warning("opendkim-table", line.rule, what, f"*@{line.key} {line.value}"))
        return ()
    if at and user.rstrip("*"):
        what = f"{line.key} stands for some authors of a domain: here it signs for none of them."
        findings.append(warning("not-simulated", line.rule, what, f"*@{domain} {line.value}"))
        return ()
    pattern = re.sub(r"[?\[]", r"[\g<0>]", line.key.lower())  # only * is a wildcard there
    return tuple(each for each in domains if fnmatchcase(f"\0@{each}", pattern))


def _key_file(key: _Key, domain: str, paths: Paths, findings: list[Finding], told: set[str]) -> KeyFile:
    """The key as it signs for a domain. What is wrong with its path is told once."""
    path = key.written.replace("%", domain)
    here = paths.host(path)
    if path not in told:
        told.add(path)
        if here is None:
            what = f"{path} is in no place that is known outside the container: {domain} is not signed for here."
            instead = f"/etc/opendkim/keys/{domain}/{key.selector}.private"
            findings.append(error("opendkim-table", key.line.rule, what, instead))
        elif not files.there(here):
            what = f"There is no {here}: the mail of {domain} is not signed."
            findings.append(error("opendkim-table", key.line.rule, what, f"setup config dkim domain {domain}"))
    return KeyFile(domain, key.selector, str(here) if here is not None else "", path, key.line.rule)


def _signs(pattern: str) -> str:
    """The domain of a SigningTable key: `*@example.org`, `user@example.org`, `.example.org` or `example.org`."""
    return pattern.rpartition("@")[2].lstrip(".*")


def _lines(folder: Path, name: str) -> Iterator[Line]:
    """The lines of a table: a key, white space (a colon or = may be beside it), a value; `#` begins a comment."""
    file = folder / name
    if not files.present(file):
        return
    for number, raw in enumerate(decoded(files.read(file)).split("\n"), 1):
        text = re.split(r"(?:\A|\s)#", raw, maxsplit=1)[0].strip()
        if text:
            key, *value = text.split(maxsplit=1)
            yield Line(f"{name}:{number}", key, value[0] if value else "")
