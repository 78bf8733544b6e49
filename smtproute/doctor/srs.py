"""SRS: whether the senders of forwarded mail are rewritten, to a domain that takes the bounces back, and safely."""

from __future__ import annotations

from collections.abc import Iterator

from smtproute.core.address import AddressError, Domain
from smtproute.core.docker_mailserver import Folder
from smtproute.core.finding import Finding, error, warning
from smtproute.core.settings import Srs
from smtproute.doctor.survey import Survey, listed

__all__ = ["examine"]


SHORT = 12
"""Characters of a secret, below which it is found by trying."""


def examine(survey: Survey) -> Iterator[Finding]:
    """The secrets, and what the environment says of SRS, where there is an environment file."""
    yield from _secrets(survey.snapshot.settings.srs)
    folder = survey.folder
    if folder is None or not folder.environment.written:
        return
    if folder.environment.on("ENABLE_SRS"):
        yield from _domain(survey, folder)
    elif survey.forwards and survey.snapshot.settings.srs.domain is None:
        named = [key for forwards in survey.forwards.values() for key, _ in forwards]
        what = (
            f"Mail to {listed(named)} is forwarded with its own sender, for whose domain this host may not send: SPF"
            " fails at the next server, which may refuse the mail or take it for spam unless a DKIM signature survives."
        )
        yield warning("srs-off", folder.environment.rule("ENABLE_SRS"), what, "ENABLE_SRS=1")


def _secrets(srs: Srs) -> Iterator[Finding]:
    """Anybody who has seen one rewritten sender can try secrets, as fast as he likes."""
    short = sum(len(secret) < SHORT for secret in srs.secrets)
    if short:
        what = (
            f"{'A secret' if short == 1 else f'{short} secrets'} of SRS {'has' if short == 1 else 'have'} fewer than"
            f" {SHORT} characters: who finds it by trying can send to everybody through this relay, as if it were a"
            " bounce."
        )
        yield warning("srs-secret", srs.secret_file or "srs.secret", what, "openssl rand -base64 18")


def _domain(survey: Survey, folder: Folder) -> Iterator[Finding]:
    environment = folder.environment
    rule = environment.rule("SRS_DOMAINNAME")
    best = next(iter(survey.mail_domains), folder.hostname)
    try:
        domain = Domain.parse(folder.srs_domain)
    except AddressError as fault:
        yield error("srs-domain", rule, f"{fault}: every rewritten sender is broken.", f"SRS_DOMAINNAME={best}")
        return
    if not survey.local(domain.key):
        what = (
            f"Forwarded mail gets senders at {domain}, and that is no local domain: docker-mailserver answers bounces"
            " with 554 5.7.1, though this relay takes them, and servers that check the sender refuse the mail."
        )
        yield error("srs-domain", rule, what, f"SRS_DOMAINNAME={best}")
    rewritten = [each for each in survey.mail_domains if each != domain.key and not folder.srs_spares(each)]
    if rewritten:
        what = (
            f"postsrsd rewrites every sender that is not at {domain} or in SRS_EXCLUDE_DOMAINS: also those of your own"
            f" users at {listed(rewritten)}, even in local mail. Their mail goes out in the name of {domain}, and past"
            f" the relays of postfix-relaymap.cf for {'it' if len(rewritten) == 1 else 'them'}."
        )
        mend = f"SRS_EXCLUDE_DOMAINS={','.join((*environment.srs_excluded, *rewritten))}"
        yield warning("srs-exclude", environment.rule("SRS_EXCLUDE_DOMAINS"), what, mend)
    classes = environment["SRS_SENDER_CLASSES"]
    if "header_sender" in classes:
        what = (
            f"SRS_SENDER_CLASSES={classes} rewrites the From that the author signed: every DKIM signature of forwarded"
            " mail breaks, and so does DMARC."
        )
        mend = "SRS_SENDER_CLASSES=envelope_sender"
        yield error("srs-header", environment.rule("SRS_SENDER_CLASSES"), what, mend)
