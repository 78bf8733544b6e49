"""Answers: what DNS says to the questions, gathered at once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from typing import Protocol

from smtproute.core.address import Address, Domain
from smtproute.core.lookup import Lookup, Unanswered
from smtproute.doctor.dns.advice import advised
from smtproute.doctor.dns.questions import Questions
from smtproute.doctor.dns.terms import Term, spf_records, terms
from smtproute.mailauth.dmarc import organisational
from smtproute.mailauth.lookups import Lookups
from smtproute.mailauth.spf import Spf, SpfResult, evaluate

__all__ = ["NOBODY", "Answer", "Answers", "Zones", "gathered", "permissions", "public"]

NOBODY = "240.0.0.1"
"""An address that nobody has, nor writes into a record (RFC 1112 4): every SPF record is walked to its end for it."""
_SECONDS = 15.0
_MOST = 20_000
"""Questions; a domain takes about ten."""
_REPORTED = re.compile(r"mailto:[^\s@,!;]+@([^\s@,!;]+)", re.I)


class Zones(Lookup, Protocol):
    """A look-up that knows aliases as well."""

    async def alias(self, name: str) -> tuple[str, ...]:
        """The CNAME record. Raises Unanswered."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What DNS said to one question."""

    records: tuple[str, ...] = ()
    """TXT records as latin-1 text, the strings of each joined."""
    fault: str = ""
    """Why there is no answer; then nothing is known."""


@dataclass(frozen=True, slots=True)
class Answers:
    """By the name that was asked about; IP addresses by the host, PTR records by the IP address."""

    questions: Questions
    texts: Mapping[str, Answer] = field(default_factory=dict)
    addresses: Mapping[str, Answer] = field(default_factory=dict)
    """A and AAAA records."""
    exchanges: Mapping[str, Answer] = field(default_factory=dict)
    aliases: Mapping[str, Answer] = field(default_factory=dict)
    """CNAME records, of mail exchangers."""
    pointers: Mapping[str, Answer] = field(default_factory=dict)
    spf: Mapping[tuple[str, str], Spf] = field(default_factory=dict)
    """By domain and IP address: our own public ones, and NOBODY."""
    terms: Mapping[str, tuple[Term, ...]] = field(default_factory=dict)
    """Of the SPF records of the senders' domains that have one."""
    advice: Mapping[str, str] = field(default_factory=dict)
    """The SPF record to publish instead, by domain, of those with which something is wrong; tried already."""

    def unanswered(self) -> dict[str, str]:
        """Why, by name, of what DNS did not answer."""
        asked = (self.texts, self.addresses, self.exchanges, self.aliases, self.pointers)
        return {name: answer.fault for answers in asked for name, answer in answers.items() if answer.fault}

    @property
    def own(self) -> tuple[str, ...]:
        """The public addresses of this relay."""
        found = self.addresses.get(self.questions.hostname, Answer())
        return tuple(ip for ip in found.records if public(ip))


def public(ip: str) -> bool:
    """Whether others reach this address over the Internet."""
    return ip_address(ip).is_global


def permissions(domain: str, text: str) -> dict[str, str]:
    """By foreign host that a DMARC record has reports sent to, where the record is that allows it (RFC 7489 7.1)."""
    hosts = dict.fromkeys(host.lower().rstrip(".") for host in _REPORTED.findall(text))
    own = organisational(domain)
    return {host: f"{domain}._report._dmarc.{host}" for host in hosts if organisational(host) != own}


async def gathered(questions: Questions, zones: Zones, pool: Executor, seconds: float = _SECONDS) -> Answers:
    """Asks everything, what depends on nothing first, all within so many seconds."""
    deadline = asyncio.get_running_loop().time() + seconds
    lookup = Lookups(zones, seconds, _MOST)

    async def texts(name: str) -> tuple[str, ...]:
        return tuple(text.decode("latin-1") for text in await lookup.texts(name))

    async def addresses(name: str) -> tuple[str, ...]:
        async with asyncio.TaskGroup() as tasks:
            both = [tasks.create_task(_answer(partial(lookup.addresses, name, version))) for version in (4, 6)]
        v4, v6 = (task.result() for task in both)
        if (v4.fault and not v6.records) or (v6.fault and not v4.records):
            raise Unanswered(v4.fault or v6.fault)
        return v4.records + v6.records

    async def alias(name: str) -> tuple[str, ...]:
        try:
            async with asyncio.timeout_at(deadline):
                return await zones.alias(name)
        except TimeoutError:
            raise Unanswered(f"{name}: no answer within {seconds:g} seconds") from None

    async with asyncio.TaskGroup() as tasks:
        said = tasks.create_task(_all(texts, _text_names(questions)))
        exchanging = (*(questions.domains if questions.inbound else ()), *questions.targets)
        exchanges = tasks.create_task(_all(lookup.exchanges, exchanging))
        relay = tasks.create_task(_all(addresses, (questions.hostname,)))
    own = Answers(questions, addresses=relay.result()).own
    found = {domain: exchanges.result()[domain] for domain in questions.domains if questions.inbound}
    servers = [host for answer in found.values() for host in answer.records if host != "."]
    bare = [domain for domain, answer in found.items() if not answer.records]
    async with asyncio.TaskGroup() as tasks:
        aliases = tasks.create_task(_all(alias, servers))
        hosts = tasks.create_task(_all(addresses, (*servers, *bare)))
        pointers = tasks.create_task(_all(lookup.pointers, own))
        spf = tasks.create_task(_spf(questions, own, lookup, pool))
        permitted = tasks.create_task(_all(texts, _permission_names(questions, said.result())))
        costs = tasks.create_task(_terms(questions, said.result(), lookup))
    advice = await _advice(questions, own, said.result(), spf.result(), lookup, pool)
    names = await _all(addresses, (name for answer in pointers.result().values() for name in answer.records))
    return Answers(
        questions,
        texts={**said.result(), **permitted.result()},
        addresses={**relay.result(), **hosts.result(), **names},
        exchanges=exchanges.result(),
        aliases=aliases.result(),
        pointers=pointers.result(),
        spf=spf.result(),
        terms=costs.result(),
        advice=advice,
    )


def _text_names(questions: Questions) -> list[str]:
    names = [*questions.senders, *(key.name for key in questions.keys)]
    for domain in questions.domains:
        names += [f"_dmarc.{domain}", f"_dmarc.{organisational(domain)}"]
    return names


def _permission_names(questions: Questions, said: Mapping[str, Answer]) -> list[str]:
    found = [(domain, text) for domain in questions.domains for text in said[f"_dmarc.{domain}"].records]
    return [name for domain, text in found for name in permissions(domain, text).values()]


async def _answer(ask: Callable[[], Awaitable[tuple[str, ...]]]) -> Answer:
    try:
        return Answer(await ask())
    except Unanswered as unanswered:
        return Answer(fault=str(unanswered))


async def _all(ask: Callable[[str], Awaitable[tuple[str, ...]]], names: Iterable[str]) -> dict[str, Answer]:
    """The answers for each name, in order."""
    async with asyncio.TaskGroup() as tasks:
        asked = {name: tasks.create_task(_answer(partial(ask, name))) for name in dict.fromkeys(names)}
    return {name: task.result() for name, task in asked.items()}


async def _spf(
    questions: Questions, own: tuple[str, ...], lookup: Lookup, pool: Executor
) -> dict[tuple[str, str], Spf]:
    """How the SPF of each sender's domain judges our own addresses, and one of nobody's."""
    async with asyncio.TaskGroup() as tasks:
        asked = {
            domain: tasks.create_task(_results(domain, own, questions.hostname, lookup, pool))
            for domain in questions.senders
        }
    return {(domain, ip): each for domain, task in asked.items() for ip, each in task.result().items()}


async def _results(domain: str, own: tuple[str, ...], helo: str, lookup: Lookup, pool: Executor) -> dict[str, Spf]:
    sender = str(Address("postmaster", Domain(domain, domain)))
    async with asyncio.TaskGroup() as tasks:
        asked = {ip: tasks.create_task(evaluate(ip, domain, sender, helo, lookup, pool, helo)) for ip in (*own, NOBODY)}
    return {ip: task.result() for ip, task in asked.items()}


@dataclass(frozen=True, slots=True)
class _Trial:
    """DNS as it would be with another record at one name."""

    lookup: Lookup
    name: str
    record: str

    async def texts(self, name: str) -> tuple[bytes, ...]:
        return (self.record.encode("latin-1"),) if name == self.name else await self.lookup.texts(name)

    async def addresses(self, name: str, version: int) -> tuple[str, ...]:
        return await self.lookup.addresses(name, version)

    async def exchanges(self, name: str) -> tuple[str, ...]:
        return await self.lookup.exchanges(name)

    async def pointers(self, ip: str) -> tuple[str, ...]:
        return await self.lookup.pointers(ip)


async def _advice(
    questions: Questions,
    own: tuple[str, ...],
    said: Mapping[str, Answer],
    found: Mapping[tuple[str, str], Spf],
    lookup: Lookup,
    pool: Executor,
) -> dict[str, str]:
    advice = {}
    for domain in questions.senders:
        records = spf_records(said[domain].records)
        passes = [found[domain, ip].result is SpfResult.PASS for ip in own]
        stranger = found[domain, NOBODY].result in (SpfResult.PASS, SpfResult.PERMERROR)
        if records and (stranger or not all(passes)):

            async def ask(record: str, domain: str = domain) -> dict[str, Spf]:
                return await _results(domain, own, questions.hostname, _Trial(lookup, domain, record), pool)

            advice[domain] = await advised(domain, records, NOBODY, ask)
    return advice


async def _terms(questions: Questions, said: Mapping[str, Answer], lookup: Lookup) -> dict[str, tuple[Term, ...]]:
    async with asyncio.TaskGroup() as tasks:
        asked = {}
        for domain in questions.senders:
            records = spf_records(said[domain].records)
            if len(records) == 1:
                asked[domain] = tasks.create_task(terms(domain, records[0], lookup))
    return {domain: task.result() for domain, task in asked.items()}
