"""Accounts: `postfix-accounts.cf` as people mean it: mailboxes and logins.

What docker-mailserver's scripts make of the same lines is in `userdb`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from smtproute.config.docker_mailserver.quotas import ReadQuotas, field_quota, octets_of
from smtproute.config.docker_mailserver.quoting import head
from smtproute.config.docker_mailserver.scripts import second, valid_lines
from smtproute.config.docker_mailserver.virtual import sought
from smtproute.config.tables import utf8
from smtproute.core.address import Address, AddressError, Domain
from smtproute.core.decide import Mailbox
from smtproute.core.docker_mailserver import Line
from smtproute.core.finding import Finding, error, warning
from smtproute.core.login import Login
from smtproute.core.quota import UNLIMITED, Quota

__all__ = ["ReadAccounts", "read_accounts", "virtual_logins"]

_WANTED = "address|{SHA512-CRYPT}hash"


@dataclass(frozen=True, slots=True)
class ReadAccounts:
    mailboxes: Mapping[str, Mailbox] = field(default_factory=dict)
    """By Address.key."""
    logins: Mapping[str, Login] = field(default_factory=dict)
    """By Address.key."""
    domains: Mapping[str, str] = field(default_factory=dict)
    """Domain.key to the first rule that names it: the second `@` field of each line, whether or not it is sound."""
    vhost: frozenset[str] = frozenset()
    """The same as the scripts write them down, each a line."""
    lines: tuple[Line, ...] = field(default=(), repr=False)
    """Cut at the first bar."""
    findings: tuple[Finding, ...] = ()


def read_accounts(
    shown: str, octets: bytes, quotas: ReadQuotas | None = None, default: Quota = UNLIMITED
) -> ReadAccounts:
    """The mailboxes and logins of `address|hash|fields` lines, and the findings about lines that are none.

    Without `quotas` no mailbox has a limit, whatever its fields say.
    """
    lines: list[Line] = []
    mailboxes: dict[str, Mailbox] = {}
    logins: dict[str, Login] = {}
    domains: dict[str, str] = {}
    vhost: set[str] = set()
    findings: list[Finding] = []
    for number, text in valid_lines(octets):
        rule = f"{shown}:{number}"
        if "\0" in text:
            findings.append(warning("nul-octet", rule, "A NUL octet: the line is ignored."))
            continue
        if not utf8(text):
            findings.append(warning("not-utf-8", rule, "Not UTF-8: the line is ignored."))
            continue
        written, _, rest = text.partition("|")
        lines.append(Line(rule, written, rest))
        domain = second(written)
        try:
            domains.setdefault(Domain.parse(domain.strip()).key, rule)
        except AddressError:
            domain = head(domain)  # what follows may be a hash, and others quote domains
        vhost.add(domain)
        try:
            address = Address.parse(written)
        except AddressError as fault:
            findings.append(_no_address(rule, written, rest, fault))
            continue
        earlier = mailboxes.get(address.key)
        if earlier is not None:
            findings.append(_twice(rule, address, earlier))
            continue
        password, _, fields = rest.partition("|")
        mailboxes[address.key] = Mailbox(address, rule, _quota(address, fields, rule, quotas, default, findings))
        logins[address.key] = Login(address, address, password if password.strip() else "", rule)
        if not password.strip():
            what = f"{address} has no password hash: it gets mail, and nobody can log in."
            findings.append(warning("no-password", rule, what, f"{address}|{{SHA512-CRYPT}}hash"))
        elif " " in password or "\t" in password:
            what = f"What follows the hash is taken for a part of it: nobody can log in as {address}."
            findings.append(error("inline-comment", rule, what, f"{address}|{{SHA512-CRYPT}}hash"))
        elif not password.startswith(("{", "$6$")):
            what = (
                "Without {SCHEME} a password is taken for a SHA512-CRYPT hash, and this is none: nobody can log in as"
                f" {address}."
            )
            findings.append(error("no-scheme", rule, what, f"{address}|{{SHA512-CRYPT}}hash"))
    return ReadAccounts(mailboxes, logins, domains, frozenset(vhost), tuple(lines), tuple(findings))


def _no_address(rule: str, written: str, rest: str, fault: AddressError) -> Finding:
    """About a line whose address is none, or has white space round it."""
    bare = written.strip()
    if bare != written:
        try:
            Address.parse(bare)
        except AddressError:
            pass
        else:
            leading = written[:1].isspace()
            name = "leading-space" if leading else "trailing-space"
            after = (
                "adds the line to the one above: there is no mailbox." if leading else "takes its mail, which bounces."
            )
            what = (
                f'The white space belongs to the name: Dovecot knows "{written}", and nobody can log in as {bare}.'
                f" Postfix {after}"
            )
            return error(name, rule, what, f"{bare}|{{SHA512-CRYPT}}hash")
    if head(written) != written:
        what = f'"{head(written)}" is not all that stands before the first |, or before the end of the line: the'
        return warning("account-line", rule, f"{what} line is ignored.", _WANTED)
    return warning("account-line", rule, f"{fault}: the line is ignored.", _WANTED)


def _twice(rule: str, address: Address, earlier: Mailbox) -> Finding:
    """About a second line of one account."""
    if str(address) == str(earlier.address):
        what = f"{address} is an account already ({earlier.rule}): the line is ignored."
        return warning("account-twice", rule, what)
    what = (
        f"{address} is the account {earlier.address} ({earlier.rule}) in other letters. docker-mailserver writes both"
        " into Postfix's table of mailboxes, which a duplicate key makes unusable: every recipient gets 451 4.3.0."
        " Take one of the lines out."
    )
    return error("duplicate-key", rule, what)


def _quota(
    address: Address, fields: str, rule: str, quotas: ReadQuotas | None, default: Quota, findings: list[Finding]
) -> Quota:
    """Its line in the quota file, else what its extra fields say, else the default."""
    if quotas is None:
        return UNLIMITED
    own, field_ = quotas.quotas.get(address.key), field_quota(fields)
    if own is not None or field_ is None:
        return own or default
    try:
        return Quota(octets_of(*field_), rule=rule)
    except ValueError:
        what = f"userdb_quota_rule names no size. Dovecot refuses the user: mail for {address} waits in the queue."
        findings.append(error("quota-unit", rule, what, "userdb_quota_rule=*:bytes=5G"))
        return default


def virtual_logins(virtual: tuple[Line, ...], accounts: ReadAccounts, version: str) -> Mapping[str, Login]:
    """The virtual account of each alias that leads to an account: of several targets since 16 the first that is one.

    An alias that has an account's own name has none: the account keeps its password and quota.
    """
    found: dict[str, Login] = {}
    for line in virtual:
        try:
            name = Address.parse(line.key)
        except AddressError:
            continue
        keys = (target.lower() for target in sought(line, version))
        account = next((accounts.logins[key] for key in keys if key in accounts.logins), None)
        if account is not None and name.key not in accounts.logins:
            found.setdefault(name.key, Login(name, account.name, account.password, line.rule))
    return found
