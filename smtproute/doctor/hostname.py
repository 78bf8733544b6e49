"""Host name: whether it is a mail domain at the same time. The same of the domains that postfix-main.cf lists."""

from __future__ import annotations

from collections.abc import Iterator

from smtproute.core.docker_mailserver import Folder
from smtproute.core.finding import Finding, error
from smtproute.doctor.survey import Survey, listed

__all__ = ["examine"]


def examine(survey: Survey) -> Iterator[Finding]:
    """Accounts at names of the machine, which has local aliases only, and in domains that have virtual ones only."""
    folder = survey.folder
    if folder is None:
        return
    tables = survey.tables
    if "mydestination" in folder.main:
        yield from _parameter(survey, folder, "mydestination", tables.destinations)
    elif folder.hostname in survey.peopled & tables.destinations:
        yield _hostname(survey, folder)
    if tables.alias_domains:
        yield from _parameter(survey, folder, "virtual_alias_domains", frozenset(tables.alias_domains))


def _hostname(survey: Survey, folder: Folder) -> Finding:
    accounts = survey.accounts(folder.hostname)
    where = survey.routing.mailboxes[accounts[0].key].rule
    what = (
        f"{folder.hostname} is the host name and the domain of {listed([str(account) for account in accounts])}. For"
        " Postfix the host name is its own (mydestination), where it looks for local aliases and system users: mail to"
        f" {'this account' if len(accounts) == 1 else 'these accounts'} gets 550 User unknown, and the log warns not to"
        " list a domain in both mydestination and virtual_mailbox_domains."
    )
    return error("hostname-is-domain", where, what, f"OVERRIDE_HOSTNAME=mail.{folder.hostname}")


def _parameter(survey: Survey, folder: Folder, name: str, domains: frozenset[str]) -> Iterator[Finding]:
    """Accounts whose domain a parameter takes."""
    taken = sorted(survey.peopled & domains)
    if taken:
        accounts = [account for domain in taken for account in survey.accounts(domain)]
        what = (
            f"{name} has {listed(taken)}, where Postfix then looks for aliases only: mail to"
            f" {listed([str(account) for account in accounts])} gets 550 User unknown."
        )
        yield error("domain-without-mailboxes", folder.main[name].rule, what, f"{name} = (without {listed(taken)})")
