"""Relays: what credentials do to mail that goes to no relay. What is wrong with single lines, the readers say."""

from __future__ import annotations

from collections.abc import Iterator

from smtproute.core.docker_mailserver import Folder
from smtproute.core.finding import Finding, warning
from smtproute.doctor.survey import Survey, listed

__all__ = ["examine"]


def examine(survey: Survey) -> Iterator[Finding]:
    """Credentials force TLS for every delivery, while some mail goes to servers that need not have it."""
    folder = survey.folder
    relays = survey.routing.relays
    if folder is None or not relays.by_sender or relays.relayhost is not None:
        return  # nothing goes to a relay, or everything does
    where = _credentials(folder)
    if not where or "smtp_tls_security_level" in folder.main:
        return
    what = (
        "With any relay credentials docker-mailserver sets smtp_tls_security_level = encrypt for all mail, also for"
        " what goes to no relay: servers without STARTTLS get nothing, and their mail waits until it is returned."
    )
    named = [key for forwards in survey.forwards.values() for key, _ in forwards]
    if named:
        what += f" Forwards keep their sender and so go past the relays: {listed(named)}."
    yield warning("relay-forces-tls", where, what, "smtp_tls_security_level = may (in postfix-main.cf)")


def _credentials(folder: Folder) -> str:
    """Where credentials are written that docker-mailserver's scripts use."""
    if folder.passwords:
        return folder.passwords[0].rule
    both = folder.environment["RELAY_USER"] and folder.environment["RELAY_PASSWORD"]
    return folder.environment.rule("RELAY_USER") if both else ""
