"""The relay itself: its addresses in DNS, and their names, which other servers ask for before they take its mail."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from smtproute.core.finding import Finding, error, warning
from smtproute.doctor.dns.answers import Answer, Answers
from smtproute.doctor.survey import listed

__all__ = ["examine"]


def examine(answers: Answers) -> Iterator[Finding]:
    """Addresses of the host name that are missing or private; PTR records that are missing or lead elsewhere."""
    host = answers.questions.hostname
    found = answers.addresses[host]
    if found.fault:
        return
    if not found.records:
        what = (
            f"This relay says EHLO {host}, and {host} has no address in DNS: many servers refuse its mail (Postfix"
            " reject_unknown_helo_hostname), and nothing can be said of SPF and PTR."
        )
        yield error("hostname-without-address", host, what, f"{host}. IN A <the address that others see>")
        return
    private = [ip for ip in found.records if ip not in answers.own]
    if private:
        what = (
            f"{listed(private)}: nobody outside reaches a private address. What SPF and PTR say of it is not looked at;"
            f" {'of the public ones it is.' if answers.own else 'other servers see another address.'}"
        )
        mend = "" if answers.own else f"{host}. IN A <the address that others see>"
        yield warning("address-private", host, what, mend)
    for ip in answers.own:
        pointer = answers.pointers[ip]
        if not pointer.fault:
            yield from _name(answers, ip, pointer)


def _name(answers: Answers, ip: str, pointer: Answer) -> Iterator[Finding]:
    host = answers.questions.hostname
    reverse = ip_address(ip).reverse_pointer
    mend = f"{reverse}. IN PTR {host}.\n(whoever owns the network publishes it: most have a form for it)"
    if not pointer.records:
        what = f"{ip} has no name (PTR record): Gmail and many others refuse or slow down mail from such an address."
        yield error("ptr-missing", reverse, what, mend)
        return
    if any(answers.addresses[name].fault for name in pointer.records):
        return
    back = [name.lower() for name in pointer.records if ip in answers.addresses[name].records]
    if not back:
        what = (
            f"{ip} is named {listed(pointer.records)}, which does not have this address: the name proves nothing, and"
            " Gmail and many others refuse or slow down mail from such an address."
        )
        yield error("ptr-leads-elsewhere", reverse, what, mend)
    elif host not in back:
        what = f"{ip} is named {listed(back)}, and this relay says EHLO {host}: some servers refuse two names."
        yield warning("ptr-other-name", reverse, what, mend)
