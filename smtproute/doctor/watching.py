"""Watching: which lines of docker-mailserver's logs tell that something this folder relies on does not work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from smtproute.core.docker_mailserver import Folder
from smtproute.core.snapshot import Snapshot
from smtproute.doctor.survey import Survey

__all__ = ["Watch", "watch"]

MAIL = "mail.log"
RSPAMD = "rspamd.log"


@dataclass(frozen=True, slots=True)
class Watch:
    log: str
    """In the container's /var/log/mail."""
    pattern: str
    """For `grep -E`."""
    meaning: str


def watch(snapshot: Snapshot) -> tuple[Watch, ...]:
    """The lines worth watching for what this folder uses; none without a docker-mailserver folder."""
    folder = snapshot.folder
    return () if folder is None else tuple(_watched(Survey(snapshot), folder))


def _watched(survey: Survey, folder: Folder) -> Iterator[Watch]:
    if survey.aliases or survey.patterns:
        yield Watch(MAIL, "Temporary lookup failure|duplicate entry", "a table cannot be used: everybody gets 451")
        yield Watch(MAIL, "User unknown in virtual|status=bounced .*unknown", "an address or an alias's target is dead")
    if survey.forwards:
        yield Watch(MAIL, "orig_to=.*status=(deferred|bounced)", "a forwarded copy does not get through")
        yield Watch(MAIL, r"status=.*5\.7\.(1|26) ", "the next server refuses a forward: SPF, DKIM or DMARC failed")
    if folder.arc is not None:
        yield Watch(RSPAMD, "ARC_SIGNED", "wanted: every message that is forwarded has it; without, it is not sealed")
        yield Watch(RSPAMD, "skip ARC|cannot load private key|signing failure", "a message could not be sealed")
    if folder.environment.on("ENABLE_SRS"):
        yield Watch(MAIL, "srs_reverse: .* not reversed", "a bounce to a rewritten sender is lost")
    if any(mailbox.quota.limit for mailbox in survey.routing.mailboxes.values()):
        yield Watch(MAIL, r"5\.2\.2|4\.2\.2|Quota exceeded", "a mailbox is full: mail for it is refused")
    relays = survey.routing.relays
    if relays.by_sender or relays.relayhost is not None:
        yield Watch(MAIL, "SASL authentication failed|no mechanism available", "a relay does not take the credentials")
        yield Watch(MAIL, "TLS is required, but was not offered", "mail waits for a server without STARTTLS")
    if survey.routing.spoof_protection:
        yield Watch(MAIL, "not owned by user", "a login sends as an address that names it in no alias")
    if snapshot_logs_in(survey):
        yield Watch(MAIL, "auth failed|SASL (PLAIN|LOGIN) authentication failed", "somebody's password is wrong")


def snapshot_logs_in(survey: Survey) -> bool:
    """Whether anybody can log in."""
    return any(login.password for login in survey.snapshot.logins.values())
