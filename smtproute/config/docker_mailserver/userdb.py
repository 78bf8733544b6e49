"""Userdb: the file that docker-mailserver's `accounts.sh` writes for Dovecot, line by line, and what is odd about it.

An alias's virtual account is that of the account which grep finds its target in: anywhere in a line, its dots standing
for any character. Since 16 of several targets the first that is found counts (pull request 4581).
"""

from __future__ import annotations

import re

from smtproute.config.docker_mailserver.accounts import ReadAccounts
from smtproute.config.docker_mailserver.quotas import ReadQuotas, field_quota
from smtproute.config.docker_mailserver.quoting import head
from smtproute.config.docker_mailserver.scripts import Grep, second
from smtproute.config.docker_mailserver.virtual import sought
from smtproute.core.address import Address, AddressError
from smtproute.core.docker_mailserver import Line, UserdbLine
from smtproute.core.finding import Finding, error, warning
from smtproute.core.login import Login

__all__ = ["Userdb"]


class Userdb:
    """Dovecot's users as they are added: accounts first, then the virtual accounts of aliases."""

    def __init__(
        self,
        accounts: ReadAccounts,
        shown: str,
        octets: bytes,
        quotas: ReadQuotas,
        quotas_file: tuple[str, bytes],
        version: str,
    ) -> None:
        """`shown` and `octets` are the accounts file, `quotas_file` the same of the quotas."""
        self.lines: list[UserdbLine] = []
        self.findings: list[Finding] = []
        self._accounts = accounts
        self._shown = shown
        self._found = Grep(octets.replace(b"\r", b""))
        self._quotas = quotas
        self._quotas_shown, quotas_octets = quotas_file
        self._found_quota = Grep(quotas_octets.replace(b"\r", b""), ignore_case=True)
        self._version = version
        self._texts: dict[str, list[str]] = {}
        self._folded: set[str] = set()

    def add_accounts(self) -> None:
        """The accounts in the order of their file; a line that is part of an earlier one is left out."""
        for line in self._accounts.lines:
            password, _, fields = line.value.partition("|")
            user, domain = line.key.split("@")[0], second(line.key)
            quota = self._quota(f"{user}@{domain}", check=True)
            home = f"/var/mail/{domain}/{user}/home"
            text = _text(line.key, password, home, fields, quota)
            before = self._texts.setdefault(line.key, [])
            if not any(text in other for other in before):
                before.append(text)
                self._add(UserdbLine(line.key, line.key, password, home, quota or _written(fields), line.rule), text)

    def add_virtual(self, aliases: tuple[Line, ...]) -> None:
        """A virtual account for each alias of which a target is found among the accounts.

        Since 16 not for catch-alls.
        """
        for alias in aliases:
            if re.search(r".@." if self._version == "16" else "@", alias.key):
                self._alias(alias)

    def _alias(self, alias: Line) -> None:
        targets = sought(alias, self._version)
        logins = self._accounts.logins
        ours = next((logins[key] for each in targets if (key := each.lower()) in logins), None)
        target, hit = next(((each, hit) for each in targets if (hit := self._found.first(each))), ("", None))
        if hit is None:
            if ours is not None:
                what = (
                    f"docker-mailserver minds the case of {ours.name}, and makes no virtual account of {alias.key}: its"
                    " quota is not asked before mail is accepted."
                )
                self.findings.append(warning("userdb-case", alias.rule, what, f"{alias.key} {ours.name}"))
            return
        number, found = hit
        account, password, fields, *_ = *found.split("|"), "", ""
        if not password:
            what = (
                f"{_looking(target)} {self._shown}:{number}, where there is no password: it stops instead of starting."
            )
            self.findings.append(error("userdb-panic", alias.rule, what, _up_to(alias, targets, target)))
            return
        self._compare(alias, target, account, number, ours)
        home = f"/var/mail/{second(target)}/{target.split('@')[0]}/home"
        quota = self._quota(target)
        text = _text(alias.key, password, home, fields, quota)
        if text.lower() not in self._folded:
            self._add(UserdbLine(alias.key, account, password, home, quota or _written(fields), alias.rule), text)

    def _add(self, line: UserdbLine, text: str) -> None:
        self.lines.append(line)
        self._folded.add(text.lower())

    def _compare(self, alias: Line, target: str, account: str, number: int, ours: Login | None) -> None:
        """A finding where the account that grep finds is not the one that the target names.

        Not where nobody can log in by the name, which is no address, or it is an account's, which keeps it.
        """
        if account.lower() == (target.lower() if ours is None else ours.name.key):
            return
        try:
            name = Address.parse(alias.key)
        except AddressError:
            return
        if name.key in self._accounts.logins:
            return
        what = (
            f"{_looking(target)} {self._shown}:{number}: who has the password of {head(account)} logs in as"
            f" {alias.key} too. " + (f"Here {alias.key} belongs to {ours.name}." if ours else "Here nobody does.")
        )
        self.findings.append(warning("userdb-substring", alias.rule, what))

    def _quota(self, address: str, *, check: bool = False) -> str:
        """The quota that grep finds for an address; with `check` a finding where it is not its own."""
        hit = self._found_quota.first(f"{address}:")
        fields = [] if hit is None else hit[1].split(":")
        quota = fields[1] if len(fields) == 2 else ""
        if check and hit is not None and fields[0].strip().lower() != address.lower():
            own = next((line.value for line in self._quotas.lines if line.key.lower() == address.lower()), "")
            if own != quota:
                what = (
                    f'docker-mailserver looks for "{address}:" anywhere in a line, and finds "{hit[1].strip()}":'
                    f" {address} gets {'the limit ' + quota if quota else 'no limit of its own'}. Here only its own"
                    " line counts. Give it one, above this."
                )
                where = f"{self._quotas_shown}:{hit[0]}"
                self.findings.append(warning("quota-substring", where, what, f"{address}:{own or 0}"))
        return quota


def _written(fields: str) -> str:
    """The quota among the extra fields, as it is written."""
    found = field_quota(fields)
    return "" if found is None else found[0]


def _text(name: str, password: str, home: str, fields: str, quota: str) -> str:
    """A line of the file, but for the numbers of the user and the group."""
    rule = f"userdb_quota_rule=*:bytes={quota}" if quota else ""
    return f"{name}:{password}:::{home}::{' '.join(filter(None, (fields, rule)))}"


def _looking(target: str) -> str:
    if not target:
        return "For a line without a target docker-mailserver before version 16 takes"
    return f'docker-mailserver looks for "{target}" anywhere in a line, its dots for any character, and finds'


def _up_to(alias: Line, targets: tuple[str, ...], target: str) -> str:
    """The alias with those of its targets that stand before `target`; "" where none does."""
    kept = targets[: targets.index(target)]
    return f"{alias.key} {', '.join(kept)}" if kept else ""
