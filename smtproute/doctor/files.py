"""Files: lines that stand in the wrong file."""

from __future__ import annotations

from collections.abc import Iterator

from smtproute.core.address import Address, Domain
from smtproute.core.aliases import elsewhere, targets
from smtproute.core.finding import Finding, error, warning
from smtproute.doctor.survey import Survey

__all__ = ["examine"]

_SYSTEM = frozenset(
    {"abuse", "amavis", "clamav", "debian-spamd", "dovecot", "hostmaster", "mail", "mailer-daemon", "news", "nobody"}
    | {"noc", "opendkim", "opendmarc", "postfix", "postgrey", "postmaster", "postsrsd", "root", "rspamd", "security"}
    | {"usenet", "vmail", "webmaster", "www", "www-data"}
)
"""Names that mail on the machine itself is sent to (RFC 2142, and docker-mailserver's users)."""


def examine(survey: Survey) -> Iterator[Finding]:
    """Virtual aliases in postfix-aliases.cf, patterns and local aliases in postfix-virtual.cf."""
    if survey.folder is None:
        return
    for alias in survey.local_aliases:
        if alias.key not in _SYSTEM:
            yield from _meant(survey, alias.key, alias.value, alias.where)
    for alias in survey.aliases:
        if alias.key.startswith("/"):
            what = "A pattern in postfix-virtual.cf is taken for an address and never matches."
            yield error("wrong-file", alias.where, what, f"{alias.key} {alias.value} (in postfix-regexp.cf)")
        elif elsewhere(alias.value):
            what = (
                f"{alias.value} is a program or a file, and postfix-virtual.cf has addresses only: mail to {alias.key}"
                " is returned as undeliverable."
            )
            yield error("wrong-file", alias.where, what, f"{alias.key}: {alias.value} (in postfix-aliases.cf)")


def _meant(survey: Survey, name: str, value: str, where: str) -> Iterator[Finding]:
    """A name that leads to a mail domain, where the same name at that domain is unknown."""
    for target in targets(value):
        domain = target.rpartition("@")[2].lower()
        if "@" not in target or domain not in survey.mail_domains:
            continue
        meant = Address(name, Domain.parse(domain))
        if survey.outlook(meant).refusal is not None:
            what = (
                f"{name} is an alias at the host name only, {name}@{survey.tables.origin}: mail to {meant} gets 550"
                " User unknown."
            )
            yield warning("wrong-file", where, what, f"{meant} {value} (in postfix-virtual.cf)")
            return
