"""SPF (RFC 7208): whether the domains that this relay sends for let it send."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from smtproute.core.finding import Finding, error, warning
from smtproute.doctor.dns.advice import passing_all, with_ours
from smtproute.doctor.dns.answers import NOBODY, Answers
from smtproute.doctor.dns.terms import MOST, Term, spf_records
from smtproute.doctor.survey import listed
from smtproute.mailauth.keys import zone_line
from smtproute.mailauth.spf import Spf, SpfResult

__all__ = ["examine"]

_LOOKUPS = 10
"""Terms that ask DNS (RFC 7208 4.6.4)."""
_NEAR = 9
"""Of them, from where on it is worth a warning."""
_VOIDS = 2
"""Of these, how many may find nothing."""


def examine(answers: Answers) -> Iterator[Finding]:
    """Records that are missing, doubled, broken, too expensive, for everybody, or without our own addresses."""
    for domain in answers.questions.senders:
        found = answers.texts[domain]
        if found.fault:
            continue
        match records := spf_records(found.records):
            case []:
                yield _missing(answers, domain)
            case [record]:
                yield from _record(answers, domain, record)
            case _:
                what = (
                    f"{domain} has {len(records)} SPF records. With more than one none counts (permerror, RFC 7208"
                    " 4.5): SPF passes for nobody."
                )
                yield error("spf-two-records", domain, what, _advice(answers, domain))


def _missing(answers: Answers, domain: str) -> Finding:
    asked = answers.questions
    what = f"{domain} has no SPF record{_role(answers, domain)}: nothing says that this relay may send for it."
    bare = domain != asked.hostname and domain not in asked.signers
    if bare:
        what += " Its mail is not signed (DKIM) here either; Gmail refuses mail that has neither (550 5.7.26)."
    say = error if bare and asked.direct else warning
    return say("spf-missing", domain, what, zone_line(domain, f"v=spf1 {_ours(answers, answers.own)} ~all"))


def _role(answers: Answers, domain: str) -> str:
    """Why a domain matters that nobody has an address at."""
    if domain == answers.questions.srs:
        return " (the senders of forwarded mail are there: SRS)"
    if domain == answers.questions.hostname:
        return " (bounces have no sender and are judged by the EHLO name)"
    return ""


def _record(answers: Answers, domain: str, record: str) -> Iterator[Finding]:
    nobody = answers.spf[domain, NOBODY]
    own = {ip: answers.spf[domain, ip] for ip in answers.own}
    waiting = next((each for each in (*own.values(), nobody) if each.result is SpfResult.TEMPERROR), None)
    if waiting is not None:
        what = f"DNS does not answer now: {waiting.reason}. The SPF of {domain} is not judged to its end."
        yield warning("dns-unanswered", domain, what)
        return
    broken = next((each for each in (*own.values(), nobody) if each.result is SpfResult.PERMERROR), None)
    if broken is not None:
        yield _broken(answers, domain, broken, ours=not own or broken is not nobody)
    used = sum(term.lookups for term in answers.terms[domain])
    if broken is None and _NEAR <= used <= _LOOKUPS:
        what = (
            f"The SPF of {domain} takes {used} of the {_LOOKUPS} look-ups that it may"
            f" ({_costs(answers.terms[domain])}). With more than {_LOOKUPS}, be it that an included record grows, SPF"
            " passes for nobody (permerror, RFC 7208 4.6.4). Take out what does not send any more; addresses (ip4, ip6)"
            " take none."
        )
        yield warning("spf-lookups-near", domain, what)
    if nobody.result is SpfResult.PASS:
        what = f"The SPF of {domain} lets everybody send for it ({nobody.reason}): it protects nobody from forgery."
        mend = _advice(answers, domain, record) if passing_all(domain, NOBODY, nobody) else ""
        yield warning("spf-pass-all", domain, what, mend)
    refused = {ip: each for ip, each in own.items() if each.result not in (SpfResult.PASS, SpfResult.PERMERROR)}
    if refused:
        results = ", ".join(f"{ip} is {each.result} ({each.reason})" for ip, each in refused.items())
        used = max(each.lookups for each in refused.values())
        fails = any(each.result is SpfResult.FAIL for each in refused.values())
        what = (
            f"The SPF of {domain}{_role(answers, domain)} does not cover this relay: {results}. Mail that it sends"
            f" itself for {domain} {'fails' if fails else 'does not pass'} SPF."
            f" The record takes {used} of the {_LOOKUPS} look-ups that it may."
        )
        say = error if fails and answers.questions.direct else warning
        yield say("spf-not-covered", domain, what, _advice(answers, domain, record))


def _broken(answers: Answers, domain: str, spf: Spf, *, ours: bool) -> Finding:
    """A record that cannot be followed to its end (permerror); `ours`: not even to our own addresses."""
    say = error if ours else warning
    if ours:
        whose = "nobody passes who does not match before that, and this relay does not"
    else:
        whose = "this relay matches before that and passes, whoever does not match so gets no result"
    terms = answers.terms[domain]

    def without(out: Sequence[Term], why: str) -> str:
        kept = " ".join(["v=spf1", *(term.text for term in terms if term not in out)])
        if not re.search(r" [+?~-]?all\b| redirect=", kept, re.I):
            kept += " ~all"
        text = with_ours(kept, answers.own) if ours else kept
        return f"{zone_line(domain, text)}\n(without {listed([term.text for term in out])}: {why})"

    if spf.lookups > _LOOKUPS:
        used = sum(term.lookups for term in terms)
        number = f"{used} look-ups" if _LOOKUPS < used < MOST else f"more than {_LOOKUPS} look-ups"
        what = (
            f"The SPF of {domain} takes {number} ({_costs(terms)}), and {_LOOKUPS} are the most that there may be (RFC"
            f" 7208 4.6.4): {whose} (permerror). Take out what does not send any more; addresses (ip4, ip6) take none."
        )
        out = _dearest(terms)
        mend = without(out, "of what still sends by it, write the addresses there, as ip4: and ip6:") if out else ""
        return say("spf-lookups", domain, what, mend)
    if spf.voids > _VOIDS:
        voids = [void for term in terms for void in term.voids]
        out = [term for term in terms if term.text in term.voids]
        if len(voids) - len(out) > _VOIDS:
            out = [term for term in terms if term.voids]
        what = (
            f"The SPF of {domain} names more than {_VOIDS} hosts or domains that are not there, the most that there may"
            f" be (RFC 7208 4.6.4): {whose} (permerror). "
        )
        if len(voids) <= _VOIDS:
            return say("spf-void-lookups", domain, f"{what}Take out names that have no address for IPv4, or for IPv6.")
        why = "nothing is there, or in the records that it includes"
        return say("spf-void-lookups", domain, f"{what}These are {listed(voids)}.", without(out, why))
    what = f"The SPF of {domain} cannot be followed: {spf.reason.removeprefix(f'{domain}: ')}. So {whose} (permerror)."
    at = spf.reason.partition(": ")[0]
    out = [term for term in terms if at in term.domains]
    if out:
        return say("spf-syntax", domain, what, without(out, f"until the record of {at} is mended by who publishes it"))
    kept = answers.advice[domain].split()
    lost = [term.text for term in terms if kept and term.text not in kept]
    mend = _advice(answers, domain) + (f"\n(without {listed(lost)}: as written it cannot be followed)" if lost else "")
    return say("spf-syntax", domain, what, mend)


def _advice(answers: Answers, domain: str, record: str = "") -> str:
    """The mended record as it is published; "" where none is known that is better than this one."""
    better = answers.advice[domain]
    return zone_line(domain, better) if better.split() not in ([], record.split()) else ""


def _costs(terms: Sequence[Term]) -> str:
    """`include:one.example 4, mx 1`"""
    return ", ".join(f"{term.text} {term.lookups}" for term in terms if term.lookups)


def _dearest(terms: Sequence[Term]) -> list[Term]:
    """As few terms as may be, and no dearer ones than need be, without which there are not too many look-ups."""
    left, out = [term for term in terms if term.lookups], []
    while (over := sum(term.lookups for term in left) - _LOOKUPS) > 0:
        enough = [term for term in reversed(left) if term.lookups >= over]
        out.append(min(enough or [max(left, key=_lookups)], key=_lookups))
        left.remove(out[-1])
    return out


def _lookups(term: Term) -> int:
    return term.lookups


def _ours(answers: Answers, ips: Sequence[str]) -> str:
    """Mechanisms for these addresses of ours, which take no look-up; without any, for the host name."""
    if not ips:
        return f"a:{answers.questions.hostname}"
    return " ".join(f"ip6:{ip}" if ":" in ip else f"ip4:{ip}" for ip in ips)
