"""Postmaster: whether somebody gets the mail that every domain must take (RFC 5321 4.5.1)."""

from __future__ import annotations

from collections.abc import Iterator

from smtproute.core.address import Address, AddressError, Domain
from smtproute.core.finding import Finding, error, warning
from smtproute.doctor.survey import Survey, listed

__all__ = ["examine"]


def examine(survey: Survey) -> Iterator[Finding]:
    """POSTMASTER_ADDRESS, and postmaster at each mail domain."""
    folder = survey.folder
    if folder is None or not survey.routing.mailboxes:
        return
    written = folder.postmaster
    where = folder.environment.rule("POSTMASTER_ADDRESS")
    somebody = str(next(iter(survey.routing.mailboxes.values())).address)
    try:
        postmaster = Address.parse(written)
    except AddressError as fault:
        yield error("postmaster", where, f"{fault}: root's mail goes nowhere.", f"POSTMASTER_ADDRESS={somebody}")
        return
    refusal = None if survey.claim(postmaster.domain.key) else survey.outlook(postmaster).refusal
    if refusal is not None:
        named = "POSTMASTER_ADDRESS is" if "POSTMASTER_ADDRESS" in folder.environment.variables else "The postmaster is"
        what = (
            f"{named} {postmaster}, and nobody is there ({refusal.reply}): mail for root, reports, and what others"
            " write to the postmaster are lost."
        )
        yield error("postmaster", where, what, f"{postmaster} {somebody} (in postfix-virtual.cf)")
    ours = survey.tables.destinations
    domains = [domain for domain in survey.mail_domains if survey.claim(domain) is None and domain not in ours]
    missing = [
        each
        for each in (Address("postmaster", Domain.parse(domain)) for domain in domains)
        if each.key != postmaster.key and survey.stranger(each, survey.snapshot.routing) is not None
    ]
    if missing and not any(table.fault for table in survey.snapshot.routing.aliases.tables):
        addresses = [str(each) for each in missing]
        what = (
            f"{listed(addresses)} must take mail (RFC 5321 4.5.1), and strangers who write to"
            f" {'it' if len(missing) == 1 else 'them'} are refused: complaints about mail from the domain reach nobody,"
            " and some senders block domains without a postmaster."
        )
        lines = "\n".join(f"{address} {somebody if refusal is not None else postmaster}" for address in addresses)
        yield warning("no-postmaster", "postfix-virtual.cf", what, lines)
