"""Accounts: mailboxes whose mail an alias takes, and domains that have none."""

from __future__ import annotations

from collections.abc import Iterator

from smtproute.core.address import Address
from smtproute.core.finding import Finding, error, warning
from smtproute.doctor.survey import Outlook, Survey, listed

__all__ = ["examine"]


def examine(survey: Survey) -> Iterator[Finding]:
    """Accounts that are aliases too, catch-alls that steal from accounts, domains of aliases only."""
    stolen: dict[str, list[Address]] = {}
    for mailbox in survey.routing.mailboxes.values():
        account = mailbox.address
        outlook = survey.outlook(account)
        if outlook.alias is None or outlook.alias.rule in survey.patterns or survey.claim(account.domain.key):
            continue  # no alias; or a finding of the patterns
        if outlook.alias.tried.startswith("@"):
            if not outlook.reaches(account):
                stolen.setdefault(outlook.alias.rule, []).append(account)
        elif outlook.refusal is None:
            yield from _both(survey, account, outlook)
    for where, accounts in stolen.items():
        yield _catch_all(survey, where, accounts)
    yield from _domains_without_accounts(survey)


def _both(survey: Survey, account: Address, outlook: Outlook) -> Iterator[Finding]:
    """An account that is an alias too."""
    assert outlook.alias is not None
    entry = survey.entries.get(outlook.alias.rule)
    if entry is None:
        return  # a misread line
    others = [str(each.address) for each in outlook.deliveries if each.mailbox is None or each.mailbox != account]
    folder = survey.folder
    if not outlook.reaches(account):
        what = (
            f"{account} is an account and an alias: its mail goes to {listed(others)} only, and its mailbox stays"
            " empty. Login and submission as that address still work."
        )
        if folder is not None and folder.environment.on("ENABLE_QUOTAS"):
            what += " docker-mailserver still asks the idle mailbox's quota: once it is full, forwards are refused."
        keep = f"{entry.key} {account},{entry.value}"
        yield warning("alias-takes-account", entry.where, what, keep)
    elif others:
        what = f"{account} is an account and an alias that names itself: its mailbox keeps a copy, and {listed(others)}"
        what += " gets one." if len(others) == 1 else " get one each."
        if folder is None or not folder.environment.on("ENABLE_AMAVIS"):
            yield warning("alias-keeps-copy", entry.where, f"{what} Nothing need be changed if that is meant.")
            return
        what += (
            " docker-mailserver expands the alias twice, before and after Amavis (ENABLE_AMAVIS=1, the default): the"
            " forwarded copy arrives twice."
        )
        yield warning("alias-keeps-copy", entry.where, what, "ENABLE_AMAVIS=0")


def _catch_all(survey: Survey, where: str, accounts: list[Address]) -> Finding:
    entry = survey.entries.get(where)
    key = entry.key if entry is not None else f"@{accounts[0].domain}"
    value = entry.value if entry is not None else ""
    have = "has" if len(accounts) == 1 else "have"
    what = (
        f"The catch-all {key} takes the mail of accounts too, because aliases come before mailboxes: {value} gets"
        f" what is for {listed([str(each) for each in accounts])}, which {have} no alias to"
        f" {'itself' if len(accounts) == 1 else 'themselves'}. The setup command refuses such"
        " lines: write them by hand."
    )
    return error("catch-all-steals", where, what, "\n".join(f"{each} {each}" for each in accounts))


def _domains_without_accounts(survey: Survey) -> Iterator[Finding]:
    folder = survey.folder
    if folder is None:
        return
    if not survey.routing.mailboxes and not folder.environment.on("SMTP_ONLY"):
        if folder.environment["ACCOUNT_PROVISIONER"] != "FILE":
            return
        what = (
            "There is no account at all: docker-mailserver waits two minutes for one, then stops, and starts again."
            " No mail is accepted, not even for aliases."
        )
        yield error("no-account", "postfix-accounts.cf", what, f"setup email add postmaster@{folder.domain}")
        return
    for domain in survey.mail_domains:
        if domain in survey.peopled or domain in survey.tables.destinations or folder.environment.on("SMTP_ONLY"):
            continue
        named = [alias for alias in survey.aliases if alias.address is not None and alias.address.domain.key == domain]
        where = named[0].where
        what = (
            f"{domain} has aliases and no account. Mail to {listed([alias.key for alias in named])} is accepted: keys"
            " of postfix-virtual.cf make their domain local (patterns of postfix-regexp.cf would not). But nobody can"
            f" log in as an address of {domain}: whoever answers as one logs in as an account of another domain, or"
            " needs an account here with an alias of the same name."
        )
        yield warning("forward-only-domain", where, what, f"setup email add you@{domain}")
