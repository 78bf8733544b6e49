"""MX: whether mail for the local domains comes to this relay."""

from __future__ import annotations

from collections.abc import Iterator

from smtproute.core.address import written_ip
from smtproute.core.finding import Finding, error, warning
from smtproute.doctor.dns.answers import Answer, Answers
from smtproute.doctor.survey import listed

__all__ = ["examine"]

_NULL = "."


def examine(answers: Answers) -> Iterator[Finding]:
    """MX records that are missing, take no mail, lead elsewhere or name no host. Only where strangers bring mail."""
    if not answers.questions.inbound:
        return
    for domain in answers.questions.domains:
        found = answers.exchanges[domain]
        if not found.fault:
            yield from _domain(answers, domain, found.records)


def _domain(answers: Answers, domain: str, hosts: tuple[str, ...]) -> Iterator[Finding]:
    mend = f"{domain}. IN MX 10 {answers.questions.hostname}."
    if not hosts:
        yield from _without(answers, domain, mend)
        return
    if hosts == (_NULL,):
        what = f"The MX of {domain} is a null MX (RFC 7505): it says that the domain takes no mail, and none is sent."
        yield error("mx-null", domain, what, mend)
        return
    written = [host for host in hosts if written_ip(host.rstrip(".")) is not None]
    if written:
        what = f"The MX of {domain} is {listed(written)}: without the name of a host (RFC 5321 5.1) nobody finds it."
        yield error("mx-address", domain, what, mend)
    named = [host for host in hosts if host not in written]
    for host in named:
        if alias := answers.aliases.get(host, Answer()).records:
            what = (
                f"The MX of {domain} is {host}, which is another name for {alias[0]} (CNAME): RFC 2181 10.3 forbids"
                " that, and some servers do not deliver."
            )
            yield warning("mx-alias", domain, what, f"{domain}. IN MX 10 {alias[0].rstrip('.')}.")
    lost = [host for host in named if _lost(answers, host)]
    if lost:
        some = len(lost) < len(named)
        what = (
            f"The MX of {domain} is {listed(lost)}, without an address in DNS: mail from outside"
            f" {'that goes there waits or comes back' if some else 'cannot be delivered by anybody'}."
        )
        mends = [f"{host.rstrip('.')}. IN A <its address>" for host in lost] if some else [mend]
        mends += ["(or take it out of the MX records)"] if some else []
        yield (warning if some else error)("mx-without-address", domain, what, "\n".join(mends))
    if len(lost) < len(named) and not any(_here(answers, host) or answers.addresses[host].fault for host in named):
        what = (
            f"The MX of {domain} is {listed(named)}, and none of that is this relay ({answers.questions.hostname}) or"
            " has its address: mail from outside for this local domain does not come here by itself."
        )
        yield warning("mx-elsewhere", domain, what, mend)


def _without(answers: Answers, domain: str, mend: str) -> Iterator[Finding]:
    """A domain without MX is its own (RFC 5321 5.1)."""
    found = answers.addresses.get(domain, Answer())
    if found.fault:
        return
    if _here(answers, domain):
        what = f"{domain} has no MX record. Mail comes here because the domain itself has this relay's address."
        yield warning("mx-missing", domain, what, mend)
    else:
        lost = f"goes to {listed(found.records)}" if found.records else "cannot be delivered by anybody"
        yield error("mx-missing", domain, f"{domain} has no MX record: mail from outside {lost}.", mend)


def _lost(answers: Answers, host: str) -> bool:
    """Whether nobody finds a mail exchanger. That this relay has no address is said elsewhere."""
    found = answers.addresses[host]
    return not (found.records or found.fault or answers.questions.hostname in _names(answers, host))


def _here(answers: Answers, host: str) -> bool:
    relay = answers.questions.hostname
    if relay in _names(answers, host):
        return True
    ours = set(answers.addresses[relay].records)
    return bool(ours & set(answers.addresses.get(host, Answer()).records))


def _names(answers: Answers, host: str) -> list[str]:
    """The host, and what it is another name for."""
    return [name.rstrip(".").lower() for name in (host, *answers.aliases.get(host, Answer()).records)]
