"""Advice: an SPF record mended term by term (RFC 7208 4.6), and tried before anybody is told to publish it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from ipaddress import ip_interface

from smtproute.mailauth.spf import Spf, SpfResult, fault

__all__ = ["advised", "passing_all", "with_ours"]

_ROUNDS = 20
"""Each takes one more term out."""
_SHORT = re.compile(r"([+?~-]?)(?:(?:ipv?[46]?|a|mx):)?(.*)", re.I | re.S)
"""How addresses are written by mistake."""

Results = Mapping[str, Spf]
"""By IP address."""


async def advised(domain: str, records: Sequence[str], nobody: str, ask: Callable[[str], Awaitable[Results]]) -> str:
    """What to publish instead of these records; "" where nothing can be said.

    `ask` tells what a record comes to for our own addresses, and for `nobody`, an address that no record may pass.
    """
    record = " ".join(["v=spf1", *_merged([_readable(domain, record) for record in records])])
    for _ in range(_ROUNDS):
        results = await ask(record)
        if any(each.result is SpfResult.TEMPERROR for each in results.values()):
            return ""
        better = _better(domain, record, results, nobody)
        if better == record:
            return record
        record = better
    return ""


def with_ours(record: str, ips: Sequence[str]) -> str:
    """The record with these addresses first: what stands before them could fail, or take look-ups."""
    version, _, rest = record.partition(" ")
    return " ".join([version, *(f"ip6:{ip}" if ":" in ip else f"ip4:{ip}" for ip in ips), *rest.split()])


def passing_all(domain: str, ip: str, spf: Spf) -> str:
    """The `+all` of the domain's own record that lets an address pass; "" where something else does."""
    named = re.fullmatch(rf"{re.escape(ip)} matches (\+?all) of {re.escape(domain)}", spf.reason, re.I)
    return named[1] if named is not None and spf.result is SpfResult.PASS else ""


def _better(domain: str, record: str, results: Results, nobody: str) -> str:
    """One step to a record with which nothing is wrong; the record itself where there is none."""
    terms = record.split(" ")[1:]
    own = {ip: each for ip, each in results.items() if ip != nobody}
    for each in results.values():
        broken = each.result is SpfResult.PERMERROR and each.reason.startswith(f"{domain}: ")
        for term in terms if broken else ():
            # Of a redirect only the domain is named.
            if each.reason.endswith((f": {term}", f": {term.partition('=')[2] or term}")):
                return _closed([kept for kept in terms if kept != term])
    if everybody := passing_all(domain, nobody, results[nobody]):
        return _closed(["~all" if term == everybody else term for term in terms])
    return with_ours(record, [ip for ip, each in own.items() if each.result is not SpfResult.PASS])


def _readable(domain: str, record: str) -> list[str]:
    """The terms, without those that have no sense whatever DNS says, unless it is plain what was meant."""
    terms: list[str] = []
    for term in record.split()[1:]:
        if terms and terms[-1].endswith(":") and fault(term, domain):
            terms[-1] += term
        else:
            terms.append(term)
    return [each for term in terms for each in ([term] if not fault(term, domain) else _meant(term, domain))]


def _meant(term: str, domain: str) -> Iterator[str]:
    for part in filter(None, re.split("[,;]+", term)):
        written = _SHORT.fullmatch(part)
        assert written is not None
        try:
            network = ip_interface(written[2])
        except ValueError:
            meant = part
        else:
            whole = network.network.prefixlen == network.max_prefixlen
            meant = f"{written[1]}ip{network.version}:{network.ip if whole else network.with_prefixlen}"
        if not fault(meant, domain):
            yield meant


def _merged(records: Sequence[list[str]]) -> list[str]:
    """All that the records name, in one. A redirect of one of several is an `include`; they end with one `all`."""
    if len(records) == 1:
        return _single(records[0])
    terms = dict.fromkeys(term for record in records for term in _single(record))
    ends = [term for term in terms if _end(term)]
    included = [re.sub("^redirect=", "include:", term, flags=re.I) for term in terms if term not in ends]
    return _single([*dict.fromkeys(included), ends[0] if len(ends) == 1 else "~all"])


def _single(terms: Sequence[str]) -> list[str]:
    """Without what there may be once only, where it comes again (RFC 7208 6), and what stands behind the end."""
    end = next((number for number, term in enumerate(terms) if _end(term)), len(terms))
    kept: dict[str, str] = {}
    for number, term in enumerate(terms):
        name = term.partition("=")[0].lower()
        modifier = name in ("redirect", "exp")
        if modifier or number <= end:
            kept.setdefault(name if modifier else term, term)
    return list(kept.values())


def _end(term: str) -> bool:
    return term.lower().lstrip("+-~?") == "all"


def _closed(terms: Sequence[str]) -> str:
    """The record of these terms. One without an end says nothing of everybody else; this one does."""
    ended = any(_end(term) or term.lower().startswith("redirect=") for term in terms)
    return " ".join(["v=spf1", *terms, *(() if ended else ("~all",))])
