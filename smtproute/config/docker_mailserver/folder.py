"""docker-mailserver's files: accounts, aliases and pattern aliases of an unmodified configuration folder.

docker-mailserver copies `postfix-virtual.cf` and `postfix-regexp.cf` to Postfix as they are, makes a mailbox of each
line of `postfix-accounts.cf`, and calls local: the domains of accounts, those of the keys of `postfix-virtual.cf`
that have an `@`, and, since `mydestination` has them, the host name and localhost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from smtproute.config.tables import decoded, key_domains, pcre_table, text_table, utf8
from smtproute.core.address import Address, AddressError, Domain
from smtproute.core.aliases import Table
from smtproute.core.decide import Mailbox
from smtproute.core.finding import Finding, warning

__all__ = ["Lists", "accounts", "domains", "read"]

ACCOUNTS = "postfix-accounts.cf"
VIRTUAL = "postfix-virtual.cf"
REGEXP = "postfix-regexp.cf"


@dataclass(frozen=True, slots=True)
class Lists:
    """Who and what is here, as the files list it."""

    mailboxes: Mapping[str, Mailbox]
    """By Address.key."""
    tables: tuple[Table, ...]
    local_domains: Mapping[str, str]
    """Domain.key to the rule that makes it local."""
    findings: tuple[Finding, ...]


def read(folder: Path, hostname: Domain) -> Lists | None:
    """What is in the folder; None where it has neither accounts nor aliases. Raises OSError."""
    octets = {name: (folder / name).read_bytes() for name in (ACCOUNTS, VIRTUAL, REGEXP) if (folder / name).exists()}
    if ACCOUNTS not in octets and VIRTUAL not in octets:
        return None
    mailboxes, findings = accounts(ACCOUNTS, octets.get(ACCOUNTS, b""))
    virtual, more = text_table(VIRTUAL, octets.get(VIRTUAL, b""))
    regexp, most = pcre_table(REGEXP, octets.get(REGEXP, b""))
    tables = tuple(table for table in (virtual, regexp) if table.file in octets)
    local = {hostname.key: "hostname", "localhost": "hostname", **key_domains(virtual), **domains(mailboxes)}
    return Lists(mailboxes, tables, local, (*findings, *more, *most))


def accounts(shown: str, text: bytes | str) -> tuple[Mapping[str, Mailbox], tuple[Finding, ...]]:
    """The mailboxes of `address|hash|fields` lines by Address.key, and the findings about lines that are none."""
    mailboxes: dict[str, Mailbox] = {}
    findings: list[Finding] = []
    for number, raw in enumerate(decoded(text).split("\n"), 1):
        line = raw.replace("\r", "")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        written, _, rest = line.partition("|")
        if not utf8(written):
            findings.append(warning("not-utf-8", f"{shown}:{number}", "Not UTF-8: the line is ignored."))
            continue
        try:
            address = Address.parse(written)
        except AddressError as error:
            what = f"{error}: the line is ignored."
            findings.append(warning("account-line", f"{shown}:{number}", what, "address|{SHA512-CRYPT}hash"))
            continue
        earlier = mailboxes.setdefault(address.key, Mailbox(address, f"{shown}:{number}"))
        if earlier.rule != f"{shown}:{number}":
            what = f"{address} is an account already ({earlier.rule}): the line is ignored."
            findings.append(warning("account-twice", f"{shown}:{number}", what))
        elif not rest.partition("|")[0].startswith("{"):
            what = f"{address} has no password hash: it gets mail, and nobody can log in."
            findings.append(warning("no-password", f"{shown}:{number}", what, f"{address}|{{SHA512-CRYPT}}hash"))
    return mailboxes, tuple(findings)


def domains(mailboxes: Mapping[str, Mailbox]) -> Mapping[str, str]:
    """The domains of accounts, each with the first rule that names it."""
    found: dict[str, str] = {}
    for mailbox in mailboxes.values():
        found.setdefault(mailbox.address.domain.key, mailbox.rule)
    return found
