"""DMARC (RFC 7489): whether the author's domain stands by a message, and what it asks for where it does not.

Ours from end to end. What is looked up depends on the header From alone, so `discover` goes on beside the checks of
SPF and DKIM, and `judge` puts all of them together.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache, partial

from publicsuffixlist import PublicSuffixList

from smtproute.core.address import Domain
from smtproute.core.author import MAX_DOMAINS, Author, author
from smtproute.core.lookup import Lookup, Unanswered
from smtproute.core.policy import Asked, Ruling, Seal
from smtproute.core.verdict import Disposition, Verdict
from smtproute.mailauth.arc import Chain, ChainStatus
from smtproute.mailauth.dkim import Signature
from smtproute.mailauth.results import read
from smtproute.mailauth.spf import Spf

__all__ = [
    "MOST_QUESTIONS",
    "VERSION",
    "Discovery",
    "Dmarc",
    "DmarcResult",
    "Identifier",
    "Published",
    "Record",
    "RecordFault",
    "aligned",
    "discover",
    "judge",
    "organisational",
    "parse",
    "record_in",
    "verdict",
    "vouchers",
]

MOST_QUESTIONS = 2 * MAX_DOMAINS
"""Of one message: each domain of its author, and the organisational domain of each."""

VERSION = re.compile(r"v[ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
"""How a record begins (RFC 7489 6.4), also one that takes reports for others (7.1)."""
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")
_PERCENT = re.compile(r"[0-9]{1,3}")
_STRICTNESS = (Disposition.NONE, Disposition.QUARANTINE, Disposition.REJECT)
_TOLD = 5
"""Identifiers that a reason names."""


class DmarcResult(StrEnum):
    """RFC 7489 11.2."""

    NONE = "none"
    """No policy is published, or the message names no author."""
    PASS = "pass"
    FAIL = "fail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


class RecordFault(ValueError):
    """What a domain publishes is no policy that could be followed; the text says why."""


@dataclass(frozen=True, slots=True)
class Record:
    """A DMARC record (RFC 7489 6.3), with defaults for what it leaves out."""

    policy: Disposition
    subdomains: Disposition
    strict_dkim: bool = False
    strict_spf: bool = False
    percent: int = 100
    text: str = field(default="", compare=False)
    """As it is published."""


@dataclass(frozen=True, slots=True)
class Published:
    """What an author's domain publishes (RFC 7489 6.6.3)."""

    domain: str
    """The author's, as A-labels."""
    record: Record | None = None
    at: str = ""
    """The name that the record stands at."""
    inherited: bool = False
    """The record is that of the organisational domain, and `domain` is below it."""
    without: DmarcResult = DmarcResult.NONE
    """What DMARC comes to without a record."""
    reason: str = ""
    """Why there is no record; beside an inherited one, why it is not known whether that of `domain` itself counts."""

    @property
    def asked(self) -> Disposition:
        """What is to become of mail that fails."""
        if self.record is None:
            return Disposition.NONE
        return self.record.subdomains if self.inherited else self.record.policy


@dataclass(frozen=True, slots=True)
class Discovery:
    """Everything about DMARC that can be said without SPF and DKIM."""

    author: Author
    published: tuple[Published, ...] = ()
    """One for each domain of the author."""


@dataclass(frozen=True, slots=True)
class Identifier:
    """A domain that SPF or DKIM speaks for, and what it came to."""

    method: str
    """`SPF` or `DKIM`."""
    domain: str
    result: str
    strict: bool
    aligned: bool
    reason: str

    def __str__(self) -> str:
        return f"{self.method} of {self.domain or 'no domain'}: {self.result}"


@dataclass(frozen=True, slots=True)
class Dmarc:
    """What DMARC came to."""

    result: DmarcResult
    reason: str
    domain: str = ""
    """The author's, as A-labels; "" where the message names none."""
    record: Record | None = None
    record_at: str = ""
    """The name that it stands at."""
    identifiers: tuple[Identifier, ...] = ()
    """What the record was held against: MAIL FROM, where SPF was judged, and each signature."""
    asked: Disposition = Disposition.NONE
    """What the domain asks for, `pct` left aside; NONE unless the result is fail, or a temperror instead of it."""
    hidden: bool = False
    """Nobody can say whose mail it is (`core.author`)."""

    @property
    def asks(self) -> Asked:
        """The same for `core.policy`."""
        percent = self.record.percent if self.record is not None else 100
        doubtful = self.result is DmarcResult.TEMPERROR
        return Asked(self.domain, self.asked, percent, doubtful=doubtful, hidden=self.hidden)


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()


def organisational(domain: str) -> str:
    """The organisational domain (RFC 7489 3.2) of a domain of A-labels, by the Public Suffix List.

    A public suffix is its own. The first call reads the list, which takes a tenth of a second.
    """
    return _suffixes().privatesuffix(domain) or domain


def aligned(one: str, other: str, *, strict: bool) -> bool:
    """Identifier alignment (RFC 7489 3.1) of two domains of A-labels."""
    return one == other or (not strict and organisational(one) == organisational(other))


async def discover(message: bytes, lookup: Lookup, pool: Executor) -> Discovery:
    """The author of a message, and what the domain of it publishes; of several domains each."""
    found, parents = await asyncio.get_running_loop().run_in_executor(pool, _authors, message)
    async with asyncio.TaskGroup() as group:
        published = [group.create_task(_published(domain, parent, lookup)) for domain, parent in parents]
    return Discovery(found, tuple(task.result() for task in published))


def _authors(message: bytes) -> tuple[Author, list[tuple[str, str]]]:
    """The author, and the domains to look up, each with its organisational domain. CPU bound."""
    found = author(message)
    domains = [domain.key for domain in found.domains if not domain.literal]
    return found, [(domain, organisational(domain)) for domain in domains[:MAX_DOMAINS]]


async def _published(domain: str, parent: str, lookup: Lookup) -> Published:
    async with asyncio.TaskGroup() as group:
        asked = {name: group.create_task(_texts(name, lookup)) for name in dict.fromkeys((domain, parent))}
    unanswered = ""
    for name, task in asked.items():
        texts = task.result()
        if isinstance(texts, Unanswered):
            unanswered = unanswered or f"_dmarc.{name} could not be looked up: {texts}"
            continue
        try:
            record = record_in(texts)
        except RecordFault as fault:
            if unanswered:
                continue
            return Published(domain, without=DmarcResult.PERMERROR, reason=f"_dmarc.{name}: {fault}")
        if record is not None:
            return Published(domain, record, f"_dmarc.{name}", inherited=name != domain, reason=unanswered)
    if unanswered:
        return Published(domain, without=DmarcResult.TEMPERROR, reason=unanswered)
    return Published(domain, reason=f"there is no DMARC record at {' or '.join(f'_dmarc.{name}' for name in asked)}")


async def _texts(name: str, lookup: Lookup) -> tuple[bytes, ...] | Unanswered:
    try:
        return await lookup.texts(f"_dmarc.{name}")
    except Unanswered as unanswered:
        return unanswered


def record_in(texts: Sequence[bytes]) -> Record | None:
    """The DMARC record among the TXT records of a name; None where there is none (RFC 7489 6.6.3).

    Raises RecordFault for several, and for one that could not be followed.
    """
    records = [text for each in texts if VERSION.match(text := each.decode("utf-8", "replace"))]
    if len(records) > 1:
        raise RecordFault(f"there are {len(records)} DMARC records, so none counts")
    return parse(records[0]) if records else None


def parse(text: str) -> Record:
    """A record that begins with its version. What is wrong beside p= and sp= is passed over. Raises RecordFault.

    Names and values are taken in any case (RFC 7489 6.4); of a tag that is there twice, the first.
    """
    tags: dict[str, str] = {}
    for tag in text.split(";"):
        name, equals, value = tag.partition("=")
        if equals:
            tags.setdefault(name.strip().lower(), value.strip())
    try:
        policy = Disposition(tags.get("p", "").lower())
        subdomains = Disposition(tags["sp"].lower()) if "sp" in tags else policy
    except ValueError:
        # It watches, and does not say well what it wants: p=none (RFC 7489 6.6.3 6).
        if not any(_URI.fullmatch(uri.strip()) for uri in tags.get("rua", "").split(",")):
            raise RecordFault("it has no valid p=, or an invalid sp=, and no rua=") from None
        policy = subdomains = Disposition.NONE
    percent = int(tags["pct"]) if _PERCENT.fullmatch(tags.get("pct", "")) else 100
    return Record(
        policy,
        subdomains,
        strict_dkim=tags.get("adkim", "").lower() == "s",
        strict_spf=tags.get("aspf", "").lower() == "s",
        percent=percent if percent <= 100 else 100,
        text=text,
    )


def judge(discovery: Discovery, spf: Sequence[Spf], signatures: Sequence[Signature] | None) -> Dmarc:
    """Puts everything together (RFC 7489 6.6.2).

    `spf` begins with MAIL FROM, as `spf.check` has it, or is empty; `signatures` is None where DKIM was not checked.
    A message whose From has a fault passes nowhere. Where it fails by one of the domains in it, the strictest policy
    counts (RFC 7489 6.6.1).
    """
    found = discovery.author
    if found.hidden:
        return Dmarc(DmarcResult.PERMERROR, found.fault, hidden=True)
    each = [_judged(published, spf, signatures) for published in discovery.published]
    failed = [dmarc for dmarc in each if dmarc.result is DmarcResult.FAIL or dmarc.asked is not Disposition.NONE]
    if failed and found.fault:
        strictest = max(failed, key=lambda dmarc: (_STRICTNESS.index(dmarc.asked), dmarc.result is DmarcResult.FAIL))
        return replace(strictest, reason=f"{found.fault}, and this fails: {strictest.reason}")
    if found.domain is not None:
        literal = Dmarc(DmarcResult.NONE, "its From names an address literal", found.domain.key)
        return next((dmarc for dmarc in each if dmarc.domain == literal.domain), literal)
    return Dmarc(DmarcResult.PERMERROR if found.domains else DmarcResult.NONE, found.fault)


def _judged(published: Published, spf: Sequence[Spf], signatures: Sequence[Signature] | None) -> Dmarc:
    record, domain = published.record, published.domain
    if record is None:
        return Dmarc(published.without, published.reason, domain)
    identifiers = tuple(_identifiers(domain, record, spf, signatures or ()))
    found = partial(Dmarc, domain=domain, record=record, record_at=published.at, identifiers=identifiers)
    ours = [each for each in identifiers if each.aligned]
    passed = next((each for each in ours if each.result == "pass"), None)
    if published.reason:
        asked = Disposition.NONE if passed is not None else published.asked
        return found(DmarcResult.TEMPERROR, published.reason, asked=asked)
    if passed is not None:
        return found(DmarcResult.PASS, f"{passed}, aligned")
    waiting = next((each for each in ours if each.result == "temperror"), None)
    if waiting is not None:
        why = f": {waiting.reason}" if waiting.reason else ""
        return found(DmarcResult.TEMPERROR, f"{waiting}, aligned{why}", asked=published.asked)
    unsigned = ["no DKIM signature"] if signatures is not None and not signatures else []
    unasked = [] if spf else ["SPF was not judged"]
    reason = "; ".join(["nothing aligned passed", *unasked, *_told(identifiers), *unsigned])
    return found(DmarcResult.FAIL, reason, asked=published.asked)


def _identifiers(
    domain: str, record: Record, spf: Sequence[Spf], signatures: Sequence[Signature]
) -> Iterator[Identifier]:
    """What can be aligned with the author's domain."""
    spoken = [("SPF", each.domain, each.result.value, record.strict_spf, each.reason) for each in spf[:1]]
    spoken += [("DKIM", each.domain, each.result.value, record.strict_dkim, each.reason) for each in signatures]
    for method, by, result, strict, reason in spoken:
        yield Identifier(method, by, result, strict, aligned(by, domain, strict=strict), reason)


def _told(identifiers: Sequence[Identifier]) -> list[str]:
    told = [f"{each}{'' if each.aligned or each.result != 'pass' else ', not aligned'}" for each in identifiers]
    if len(told) > _TOLD:
        told[_TOLD:] = [f"{len(told) - _TOLD} more"]
    return told


def vouchers(dmarc: Dmarc, chain: Chain | None, trusted: Sequence[Domain]) -> tuple[Seal, ...]:
    """The sets of a chain that passes, newest first, back to the first whose sealer is not trusted.

    None where nothing is asked for that they could stand against.
    """
    if dmarc.asked is Disposition.NONE or chain is None or chain.status is not ChainStatus.PASS:
        return ()
    seals = []
    keys = {domain.key: domain for domain in trusted}
    for sealer, results in zip(reversed(chain.sealers), reversed(chain.results), strict=True):
        if sealer not in keys:
            break
        seals.append(Seal(keys[sealer], _passed(read(results), dmarc)))
    return tuple(seals)


def _passed(results: Sequence[Verdict], dmarc: Dmarc) -> str:
    """By what a sealer says that the author's domain stood by the message as it came there; "" where it did not.

    That is DMARC; where the sealer did not ask it, an SPF or DKIM result that is aligned.
    """
    assert dmarc.record is not None
    asked = [each for each in results if each.method == "dmarc"]
    for each in asked or results:
        properties = dict(each.properties)
        match each.method:
            case "dmarc":
                found, strict = properties.get("header.from", dmarc.domain), True
            case "spf":
                found, strict = properties.get("smtp.mailfrom", ""), dmarc.record.strict_spf
            case "dkim":
                found, strict = properties.get("header.d") or properties.get("header.i", ""), dmarc.record.strict_dkim
            case _:
                continue
        if each.result == "pass" and aligned(found.rpartition("@")[2].lower(), dmarc.domain, strict=strict):
            return f"{each.method}=pass"
    return ""


def verdict(dmarc: Dmarc, ruling: Ruling) -> Verdict:
    """As one result of Authentication-Results (RFC 7489 11.1), with what is asked for, and what is done about it.

    `policy.dmarc` is registered with IANA; the other two are those that some receivers write.
    """
    properties = [("header.from", dmarc.domain)] if dmarc.domain else []
    if dmarc.result is DmarcResult.FAIL:
        properties.append(("policy.dmarc", str(dmarc.asked)))
    if dmarc.result is DmarcResult.FAIL and dmarc.asked is not Disposition.NONE:
        properties.append(("policy.applied-disposition", str(ruling.disposition)))
    if ruling.override is not None:
        properties.append(("policy.override-reason", str(ruling.override)))
    reasons = [_asks(dmarc.record) if dmarc.record is not None else "", ruling.reason, dmarc.reason]
    return Verdict("dmarc", dmarc.result, tuple(properties), "; ".join(filter(None, reasons)))


def _asks(record: Record) -> str:
    said = [f"p={record.policy}"]
    if record.subdomains is not record.policy:
        said.append(f"sp={record.subdomains}")
    if record.percent < 100:
        said.append(f"pct={record.percent}")
    return " ".join(said)
