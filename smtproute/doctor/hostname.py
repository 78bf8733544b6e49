"""Host name: whether it is a mail domain at the same time."""

from __future__ import annotations

from collections.abc import Iterator

from smtproute.core.finding import Finding, error
from smtproute.doctor.survey import Survey, listed

__all__ = ["examine"]


def examine(survey: Survey) -> Iterator[Finding]:
    """Accounts at the host name, which Postfix delivers by local aliases (mydestination), never to a mailbox."""
    folder = survey.folder
    accounts = survey.accounts(folder.hostname) if folder is not None else []
    if folder is None or not accounts:
        return
    where = survey.routing.mailboxes[accounts[0].key].rule
    what = (
        f"{folder.hostname} is the host name and the domain of {listed([str(account) for account in accounts])}. For"
        " Postfix the host name is its own (mydestination), where it looks for local aliases and system users: mail to"
        f" {'this account' if len(accounts) == 1 else 'these accounts'} gets 550 User unknown, and the log warns not to"
        " list a domain in both mydestination and virtual_mailbox_domains."
    )
    yield error("hostname-is-domain", where, what, f"OVERRIDE_HOSTNAME=mail.{folder.hostname}")
