"""SPF (RFC 7208): whether the domain of a sender lets this client send.

pyspf decides. It knows the grammar, the order in which mechanisms are tried and the limits of section 4.6.4; what it
is slow at or wrong about is replaced by methods of a subclass, and nothing of pyspf itself is changed. It runs with the
answers that are there. Where it needs one more it stops and says which, that one is looked up, and it runs again from
the start: so nothing waits inside of it, and as every run but the last gets at least one question further, the limits
on questions bound the runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from ipaddress import ip_address
from typing import Any, NamedTuple, assert_never
from urllib.parse import quote

import spf

from smtproute.core.address import AddressError, Domain, written_ip
from smtproute.core.envelope import Envelope
from smtproute.core.lookup import Lookup, Unanswered
from smtproute.core.verdict import Verdict

__all__ = ["Identity", "Spf", "SpfResult", "check", "evaluate", "fault", "verdict"]

MAX_OCTETS = 32 * 1024
"""Of a record and all that it includes, together; RFC 7208 3.4 wants each to fit into 450."""
MAX_TERMS = 1000
"""Mechanisms and modifiers of them together."""
MAX_MACROS = 100
"""Percent signs of them together."""
MAX_QUESTIONS = 60
"""Put to DNS for one identity. RFC 7208 4.6.4 would let a record cause 110, and so use up what a message may ask:
then nobody would hear the DMARC policy of the domain that it claims to be from."""
MAX_TEXTS = 250
"""TXT records at one name; large companies have about a hundred."""
MAX_ADDRESSES = 100
"""That one mechanism compares with the client's; those of all exchangers are one list."""
MAX_EXPLANATION = 512
"""Octets of an explanation, before its macros."""

_LIGHT = 1024
"""Octets of records up to which a run takes less time than its way to the pool and back."""
_LONGEST_REASON = 300
_MOST_DIGITS = 3
"""Of a macro: "at least 127" has to be understood (RFC 7208 7.3), and int() of thousands is refused or slow."""

_MODIFIER = re.compile(r"([a-z][a-z0-9_.-]*)=(.*)", re.I)
_MACRO = re.compile(r"%(?:([%_-])|\{([slodiphcrtv])([0-9]*)(r?)([-.+,/_=]*)\})", re.I)
_MACRO_LAST = re.compile(r"%(?:[%_-]|\{[^{}%]*\})\Z")
_TOP_LABEL = re.compile(r"(?=[0-9]*[a-z-])[0-9a-z](?:[0-9a-z-]*[0-9a-z])?", re.I)
_LITERALLY = {"%": "%", "_": " ", "-": "%20"}
_UNPRINTABLE = re.compile(r"[^ -~]")


class SpfResult(StrEnum):
    """RFC 7208 2.6, in the words of RFC 8601 2.7.2."""

    NONE = "none"
    NEUTRAL = "neutral"
    PASS = "pass"
    FAIL = "fail"
    SOFTFAIL = "softfail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


class Identity(StrEnum):
    """Whose domain is asked, by the property's name of RFC 8601 2.7.2."""

    MAIL_FROM = "mailfrom"
    HELO = "helo"


@dataclass(frozen=True, slots=True)
class Spf:
    """What one identity came to."""

    identity: Identity
    domain: str
    """As A-labels."""
    result: SpfResult
    reason: str
    """Which mechanism of which record matched, or what is wrong, in words of printable ASCII."""
    sender: str = ""
    """The reverse-path; of a null one, and for HELO, postmaster at the domain that the client names (RFC 7208 2.4)."""
    lookups: int = 0
    """Terms that ask DNS, of which RFC 7208 4.6.4 allows 10."""
    voids: int = 0
    """Of these, the ones that found nothing, of which it allows 2."""
    record: str = ""
    """Of the domain itself."""
    explanation: str = ""
    """What the domain says to those whom it fails (RFC 7208 6.2), where it was asked and says anything."""


class _Question(NamedTuple):
    name: str
    """Lower-case; of a PTR the IP address."""
    type: str


class _Missing(Exception):
    """Answers that the evaluation cannot go on without."""

    def __init__(self, questions: Iterable[_Question]) -> None:
        super().__init__()
        self.questions = frozenset(questions)


_Answers = Mapping[_Question, Sequence[Any] | Unanswered]


@dataclass(frozen=True, slots=True)
class _Case:
    """One identity of one client, and what was made of records so far: it outlives the runs."""

    ip: str
    domain: str
    sender: str
    helo: str
    receiver: str
    identity: Identity
    explained: bool
    """Whether somebody wants to know the explanation."""
    terms: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """By domain and record: see `_Query._terms`."""
    expanded: dict[tuple[str, str], str] = field(default_factory=dict)
    """By domain and domain-spec."""

    def found(self, result: SpfResult, reason: str) -> Spf:
        reason = _UNPRINTABLE.sub("?", reason)[:_LONGEST_REASON]
        return Spf(self.identity, self.domain, result, reason, self.sender)


async def check(
    envelope: Envelope, lookup: Lookup, pool: Executor, receiver: str, *, explained: bool = False
) -> tuple[Spf, Spf]:
    """The MAIL FROM identity, and the HELO identity (RFC 7208 2.3, 2.4). `receiver` is our host name.

    Only if `explained` is what a domain says to those whom it fails looked up.
    """
    helo, path = _a_labels(envelope.client.helo), envelope.reverse_path
    ask = partial(evaluate, helo=helo, lookup=lookup, pool=pool, receiver=receiver, explained=explained)
    ip, greeted = envelope.client.ip, f"postmaster@{helo}"
    if path is None:
        of_helo = await ask(ip, helo, greeted, identity=Identity.HELO)
        return replace(of_helo, identity=Identity.MAIL_FROM), of_helo
    async with asyncio.TaskGroup() as tasks:
        by_path = tasks.create_task(ask(ip, path.domain.key, f"{path.quoted_local}@{path.domain.key}"))
        by_helo = tasks.create_task(ask(ip, helo, greeted, identity=Identity.HELO))
    return by_path.result(), by_helo.result()


async def evaluate(
    ip: str,
    domain: str,
    sender: str,
    helo: str,
    lookup: Lookup,
    pool: Executor,
    receiver: str,
    *,
    identity: Identity = Identity.MAIL_FROM,
    explained: bool = False,
) -> Spf:
    """check_host() of RFC 7208 4. Whatever names and records hold, a result comes out.

    Without a local part the sender is postmaster (4.3). Only if `explained` is what the domain says to those whom it
    fails looked up. What takes CPU runs in `pool`.
    """
    case = _Case(ip.partition("%")[0], domain.removesuffix("."), sender, helo, receiver, identity, explained)
    if written_ip(case.ip) is None:
        return case.found(SpfResult.NONE, f"{ip} is no IP address")
    if fault := _unfit(case.domain):
        return case.found(SpfResult.NONE, f"{domain or 'an empty name'} is {fault}")
    loop = asyncio.get_running_loop()
    answers: dict[_Question, Sequence[Any] | Unanswered] = {}
    missing = frozenset([_Question(case.domain.lower(), "TXT")])
    while True:
        async with asyncio.TaskGroup() as tasks:
            asked = {question: tasks.create_task(_ask(lookup, question)) for question in missing}
        answers |= {question: task.result() for question, task in asked.items()}
        weight = sum(len(text) for each in answers.values() if not isinstance(each, Unanswered) for text in each)
        if weight > _LIGHT:
            outcome = await loop.run_in_executor(pool, _run, case, answers)
        else:
            outcome = _run(case, answers)
        if isinstance(outcome, Spf):
            return outcome
        missing = outcome


async def _ask(lookup: Lookup, question: _Question) -> Sequence[Any] | Unanswered:
    name, kind = question
    try:
        match kind:
            case "TXT":
                return await lookup.texts(name)
            case "MX":
                return await lookup.exchanges(name)
            case "PTR":
                return await lookup.pointers(name)
            case _:
                return await lookup.addresses(name, 6 if kind == "AAAA" else 4)
    except Unanswered as unanswered:
        return unanswered


def verdict(found: Spf) -> Verdict:
    """One result of Authentication-Results (RFC 8601 2.7.2)."""
    match found.identity:
        case Identity.MAIL_FROM:
            value = found.sender
        case Identity.HELO:
            value = found.domain
        case _:
            assert_never(found.identity)
    return Verdict("spf", found.result.value, ((f"smtp.{found.identity}", value),), found.reason)


def fault(term: str, domain: str) -> str:
    """What is wrong with a single term of the domain's record, whatever DNS says; empty: nothing."""
    for ip in ("192.0.2.1", "2001:db8::1"):
        case = _Case(ip, domain, f"postmaster@{domain}", domain, domain, Identity.MAIL_FROM, explained=False)
        try:
            _Query(case, {})._terms(f"v=spf1 {term}")
        except _Missing:
            continue
        except (spf.PermError, ValueError) as error:
            return str(error)
    return ""


def _a_labels(name: str) -> str:
    try:
        return Domain.parse(name).key
    except AddressError:
        return name


def _unfit(domain: str) -> str:
    """Why there is no record to look for (RFC 7208 4.3); empty where there may be one."""
    if domain.startswith("["):
        return "an address literal, so it has no SPF record"
    if not _askable(domain) or "." not in domain or domain.rpartition(".")[2].isdigit():
        return "no full domain name, so it has no SPF record"
    return ""


def _askable(name: str) -> bool:
    """Whether DNS has a question for it. A local part beyond ASCII matches no name (RFC 8616 4)."""
    return name.isascii() and len(name) <= 253 and all(0 < len(label) < 64 for label in name.split("."))


def _run(case: _Case, answers: _Answers) -> Spf | frozenset[_Question]:
    """The result, or what has to be looked up first. CPU bound."""
    try:
        return _Query(case, answers).judged()
    except _Missing as missing:
        return missing.questions
    except Exception as error:  # noqa: BLE001 - a verdict: pyspf meets whatever a stranger published
        return case.found(SpfResult.PERMERROR, f"{case.domain}: a record cannot be read ({type(error).__name__})")


class _Explanation(NamedTuple):
    """Where an explanation stands: it is looked up once it is wanted."""

    name: str
    domain: str


class _Query(spf.query):  # type: ignore[misc]  # pyspf has no types
    def __init__(self, case: _Case, answers: _Answers) -> None:
        super().__init__(case.ip, case.sender, case.helo, receiver=case.receiver)
        # pyspf cuts at the first "@", which may stand in a quoted local part.
        self.l = case.sender.rpartition("@")[0] or "postmaster"
        self.o = self.d = self.at = case.domain
        self.case = case
        self.answers = answers
        self.through = ""
        """The innermost of the included records that just passed."""
        self.record = ""

    def judged(self) -> Spf:
        word, _, words = self.check()
        result = SpfResult(word)
        explanation = ""
        match result:
            case SpfResult.NONE:
                return self.case.found(result, f"{self.case.domain} publishes no SPF record")
            case SpfResult.TEMPERROR:
                reason = words.removeprefix("SPF Temporary Error: ")
            case SpfResult.PERMERROR:
                words = words.removeprefix("SPF Permanent Error: ").replace("mechnisms", "mechanisms")
                reason = f"{self.at}: {words}"
            case SpfResult.PASS | SpfResult.FAIL | SpfResult.SOFTFAIL | SpfResult.NEUTRAL:
                reason = self._match()
                if self.case.explained and result is SpfResult.FAIL and isinstance(words, _Explanation):
                    explanation = self._explained(words)
            case _:
                assert_never(result)
        return replace(
            self.case.found(result, reason),
            lookups=self.lookups,
            voids=self.void_lookups,
            record=_UNPRINTABLE.sub("?", self.record),
            explanation=_UNPRINTABLE.sub("?", explanation),
        )

    def _match(self) -> str:
        if self.mechanism is None:
            return f"no mechanism of {self.at} matches {self.c}"
        match = f"{self.c} matches {self.mechanism} of {self.at}"
        return f"{match}, through {self.through}" if self.through not in self.mechanism else match

    def dns(self, name: str, qtype: str, cnames: Any = None, ignore_void: bool = False) -> list[Any]:
        """What was answered. CNAMEs were followed by whoever answered. Raises _Missing, TempError, PermError."""
        name = name.removesuffix(".").lower()
        if not _askable(name):
            return []
        found = self._answer(_Question(name, qtype))
        if not found and not ignore_void:
            self.void_lookups += 1
            if self.void_lookups > spf.MAX_VOID_LOOKUPS:
                raise spf.PermError(f"More than {spf.MAX_VOID_LOOKUPS} look-ups found nothing")
        if qtype != "TXT":
            return list(found)
        if len(found) > MAX_TEXTS:
            raise spf.PermError(f"More than {MAX_TEXTS} TXT records")
        return [(text,) for text in found]

    def _answer(self, question: _Question) -> Sequence[Any]:
        self._need([question])
        answer = self.answers[question]
        if isinstance(answer, Unanswered):
            raise spf.TempError(str(answer))
        return answer

    def dns_spf(self, domain: str) -> str | None:
        before, self.at = self.at, domain
        record: str | None = super().dns_spf(domain)
        self.at = before
        return record

    def dns_mx(self, domainname: str) -> list[str]:
        """The addresses of the exchangers, all looked up at once. One without any is no void look-up of its own."""
        hosts = self.dns(domainname, "MX")
        if len(hosts) > spf.MAX_MX:
            raise spf.PermError(f"{domainname} has more than {spf.MAX_MX} MX records")
        self._need_addresses(hosts)
        return [ip for host in hosts for ip in self.dns(host, self.A, ignore_void=True)]

    def validated_ptrs(self) -> list[str]:
        """The names of the client that lead back to it. A look-up that fails is no match (RFC 7208 5.5)."""
        try:
            names = [name.lower() for name in self._answer(_Question(self.c, "PTR"))[: spf.MAX_PTR]]
        except spf.TempError:
            return []
        self._need_addresses(names)
        return [name for name in names if self._leads_back(name)]

    def _leads_back(self, name: str) -> bool:
        try:
            return self.cidrmatch(self.dns(name, self.A, ignore_void=True), self.cidrmax)
        except (spf.TempError, spf.PermError):
            return False

    def _need_addresses(self, hosts: Iterable[str]) -> None:
        names = (host.removesuffix(".").lower() for host in hosts)
        self._need(_Question(name, self.A) for name in names if _askable(name))

    def _need(self, questions: Iterable[_Question]) -> None:
        missing = {question for question in questions if question not in self.answers}
        if len(self.answers) + len(missing) > MAX_QUESTIONS:
            raise spf.PermError(f"More than {MAX_QUESTIONS} questions to DNS")
        if missing:
            raise _Missing(missing)

    def cidrmatch(self, ipaddrs: Sequence[str], n: int) -> bool:
        if len(ipaddrs) > MAX_ADDRESSES:
            raise spf.PermError(f"More than {MAX_ADDRESSES} addresses to compare with")
        shift = self.cidrmax - n
        client = int(self.ipaddr) >> shift
        addresses = map(ip_address, ipaddrs)
        return any(ip.version == self.ipaddr.version and int(ip) >> shift == client for ip in addresses)

    def check1(self, record: str | None, domain: str, recursion: int) -> tuple[str, int, Any]:
        before, self.at = self.at, domain
        if not (recursion or self.record):
            self.record = record or ""
        found: tuple[str, int, Any] = super().check1(record, domain, recursion)
        if recursion:
            self.at = before
            self.through = (self.through or domain) if found[0] == "pass" else ""
        return found

    def check0(self, record: str | None, recursion: int) -> tuple[str, int, Any]:
        found: tuple[str, int, Any] = super().check0(record and " ".join(["v=spf1", *self._terms(record)]), recursion)
        return found

    def _terms(self, record: str) -> list[str]:
        """The terms of a record that can decide, after all were checked; so a long record is read in one run only.

        An ip4 or ip6 that does not match is left out, and what follows one that does, or `all`; `redirect` too then
        (RFC 7208 6.1); and mechanisms far beyond the limit of look-ups. Modifiers have their names in lower case, and
        the unknown ones are gone.
        """
        known = self.case.terms.get((self.d, record))
        if known is not None:
            return known
        records = [record, *(each for _, each in self.case.terms)]
        if sum(map(len, records)) > MAX_OCTETS:
            raise spf.PermError(f"More than {MAX_OCTETS} octets, with what was read before")
        if sum(each.count(" ") for each in records) > MAX_TERMS:
            raise spf.PermError(f"More than {MAX_TERMS} terms, with what was read before")
        if sum(each.count("%") for each in records) > MAX_MACROS:
            raise spf.PermError(f"More than {MAX_MACROS} macros, with what was read before")
        if _UNPRINTABLE.search(record) is not None:
            raise spf.PermError("The record holds a control character")
        modifiers: dict[str, str] = {}
        mechanisms: list[str] = []
        asking, decided = 0, False
        for term in filter(None, record.split(" ")[1:]):
            modifier = _MODIFIER.fullmatch(term)
            if modifier is not None:
                self._check_modifier(modifier[1].lower(), modifier[2], modifiers)
                continue
            _, mechanism, argument, length, _ = self.validate_mechanism(term)
            if decided:
                continue
            match mechanism:
                case "ip4" | "ip6":
                    decided = (mechanism == "ip6") == (self.v == "ip6") and self.cidrmatch([argument], length)
                    useful = decided
                case "all":
                    decided = useful = True
                case _:
                    asking += 1
                    useful = asking <= spf.MAX_LOOKUP + 1
            if useful:
                mechanisms.append(term)
        if decided:
            modifiers.pop("redirect", None)
        terms = [*mechanisms, *(f"{name}={value}" for name, value in modifiers.items())]
        self.case.terms[self.d, record] = terms
        return terms

    def _check_modifier(self, name: str, value: str, known: dict[str, str]) -> None:
        if name not in ("exp", "redirect"):
            self.expand(value)
            return
        if name in known:
            raise spf.PermError(f"{name}= stands there twice")
        self.expand_domain(value)
        known[name] = value

    def expand_domain(self, arg: str) -> str:
        """A domain-spec (RFC 7208 7.1) with its macros expanded."""
        _, dot, label = arg.removesuffix(".").rpartition(".")
        if _MACRO_LAST.search(arg) is None and not (dot and _TOP_LABEL.fullmatch(label)):
            raise spf.PermError(f"Not a domain name: {arg}")
        return self.expand(arg)

    def expand(self, s: str, stripdot: bool = True) -> str:
        """A text with its macros expanded (RFC 7208 7.3); a domain name (`stripdot`) is cut on the left to fit."""
        if stripdot and (known := self.case.expanded.get((self.d, s))) is not None:
            return known
        if "%" in _MACRO.sub("", s):
            raise spf.PermError(f"Not a macro: {s}")
        text = _MACRO.sub(partial(self._expanded, stripdot), s)
        if not stripdot:
            return text
        text = text.removesuffix(".")
        if len(text) > 253 and (dot := text.find(".", len(text) - 254)) >= 0:
            text = text[dot + 1 :]
        self.case.expanded[self.d, s] = text
        return text

    def _expanded(self, in_name: bool, macro: re.Match[str]) -> str:
        literal, letter, digits, reverse, delimiters = macro.groups()
        if literal:
            return _LITERALLY[literal]
        if in_name and letter in "crtCRT":
            raise spf.PermError(f"A macro of explanations only: {macro[0]}")
        if len(digits) > _MOST_DIGITS or (digits and not int(digits)):
            raise spf.PermError(f"Not a number of parts: {macro[0]}")
        value: str = self.getp() if letter in "pP" else getattr(self, letter.lower())
        if digits or reverse or delimiters:
            parts = re.split(f"[{re.escape(delimiters)}]" if delimiters else r"\.", value)
            if reverse:
                parts.reverse()
            value = ".".join(parts[-int(digits) :] if digits else parts)
        # What is beyond ASCII stays so, and then no name is asked (RFC 8616 4).
        return quote(value, safe="~") if letter.isupper() and value.isascii() else value

    def get_explanation(self, spec: str) -> _Explanation:
        """pyspf asks for it when it reads the record; here nobody does, unless the result is fail."""
        return _Explanation(spec, self.d)

    def _explained(self, where: _Explanation) -> str:
        """Whatever is wrong with it, the result stands (RFC 7208 6.2)."""
        self.d = where.domain
        with contextlib.suppress(spf.PermError, spf.TempError):
            texts = self.dns_txt(where.name, ignore_void=True)
            if len(texts) == 1 and len(texts[0]) <= MAX_EXPLANATION:
                return self.expand(spf.to_ascii(texts[0]), stripdot=False)
        return ""
