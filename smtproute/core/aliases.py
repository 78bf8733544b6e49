"""Aliases: one address becomes others, by Postfix's rules for `virtual_alias_maps`.

Tables are text (texthash) or pcre. For one address the keys are, in order (virtual(5), "table search order"):
`user+detail@domain`, `user@domain`, then for our own host name `user+detail` and `user`, then `@domain`. Each key
is tried in every table before the next key; a pcre table sees the whole address only. What a look-up yields is
looked up again until nothing more is found; an address that yields itself stays. A `+detail` that the key did not
name is carried over to each target. A value `@b` under the key `@a` keeps the local part.

An address at our own host name that no virtual alias takes is looked up in the local aliases (aliases(5)), by
`user+detail` and then by `user`; there a detail is not carried over.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pcre2

from smtproute.core.address import MAX_LOCAL, Address, AddressError, Domain
from smtproute.core.plan import Step, Tried
from smtproute.core.reply import Refusal, Reply

__all__ = [
    "Aliases",
    "Condition",
    "Entry",
    "Expansion",
    "LookupFault",
    "PatternError",
    "PcreRule",
    "PcreTable",
    "Table",
    "TextTable",
    "claimed",
    "compile_pattern",
    "direct",
    "expand",
    "targets",
]

MAX_DEPTH = 1000
"""Postfix virtual_alias_recursion_limit."""
MAX_WIDTH = 1000
"""Postfix virtual_alias_expansion_limit."""
MAX_NODES = 10_000
"""Addresses looked up for one recipient: beyond it something grows without end."""
MATCH_LIMIT = 100_000
"""Steps that PCRE2 may take for one match: some milliseconds. Beyond it the look-up fails for now."""

PatternError = pcre2.PatternError


class LookupFault(Exception):
    """A table could not answer; the text is for the trace."""


def compile_pattern(pattern: str, options: int = 0) -> pcre2.Pattern:
    """A PCRE2 pattern with our match limit (without JIT, which hardened systems forbid). Raises PatternError."""
    octets = pattern.encode("utf-8", "surrogateescape")
    pcre2.compile(octets, options, jit=False)  # as it was written, so that an error names the right place
    return pcre2.compile(f"(*LIMIT_MATCH={MATCH_LIMIT})".encode() + octets, options, jit=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a text table."""

    line: int
    value: str


@dataclass(frozen=True, slots=True)
class TextTable:
    """A texthash table: lower-case key to entry. With a `fault` it answers nothing, as in Postfix."""

    file: str
    entries: Mapping[str, Entry] = field(default_factory=dict)
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """An enclosing `if` of a pcre table, or the pattern of a rule itself."""

    text: str
    pattern: pcre2.Pattern
    negated: bool = False
    anchored: bool = False
    """The flag A: it matches at the start of the address or not at all."""

    def match(self, subject: bytes) -> pcre2.Match | bool:
        """The match, or for a negated pattern True; False or None where it does not hold. Raises LookupFault."""
        try:
            found = self.pattern.match(subject) if self.anchored else self.pattern.search(subject)
        except pcre2.LibraryError as error:
            raise LookupFault(f"{self.text}: {error}") from None
        return found is None if self.negated else found


@dataclass(frozen=True, slots=True)
class PcreRule:
    """One rule of pcre_table(5). `result` is text and group numbers in order."""

    line: int
    condition: Condition
    result: tuple[str | int, ...]
    enclosing: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class PcreTable:
    file: str
    rules: tuple[PcreRule, ...] = ()
    fault: str = ""


Table = TextTable | PcreTable


@dataclass(frozen=True, slots=True)
class Aliases:
    """All tables in the order of the configuration."""

    tables: tuple[Table, ...]
    origin: Domain
    """Completes a target without a domain (Postfix myorigin)."""
    delimiter: str = "+"
    """Each of its characters begins a detail."""
    destinations: frozenset[str] = frozenset()
    """Our own names besides `origin` (Postfix mydestination), as Domain.key: there keys without a domain match."""
    local: tuple[TextTable, ...] = ()
    """aliases(5), for addresses at our own names."""
    claiming: bool = False
    """Whether a table that has a bare domain makes that domain local (Postfix virtual_alias_domains)."""

    def own(self, domain: Domain) -> bool:
        """Whether it is one of our own names."""
        return domain.key == self.origin.key or domain.key in self.destinations


@dataclass(frozen=True, slots=True)
class Expansion:
    finals: tuple[Address, ...]
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()
    fault: Refusal | None = None


@dataclass(frozen=True, slots=True)
class _Hit:
    rule: str
    key: str
    value: str
    detail: str


def _keys(address: Address, aliases: Aliases) -> Iterator[tuple[str, str, bool]]:
    """Each key with the detail that it leaves unmatched, and whether it is the whole address."""
    bare, detail = address.split_detail(aliases.delimiter)
    local, domain = address.local.lower(), address.domain.key
    bare = bare.lower()
    yield f"{local}@{domain}", "", True
    if detail:
        yield f"{bare}@{domain}", detail, False
    if aliases.own(address.domain):
        yield local, "", False
        if detail:
            yield bare, detail, False
    yield f"@{domain}", "", False


def _lookup(address: Address, aliases: Aliases, steps: list[Step]) -> _Hit | None:
    """The first hit of any key in any table. Raises LookupFault."""
    # With its quotes: a local part with spaces must not become two addresses where a result pastes it in.
    whole = str(address).encode("utf-8", "surrogateescape")
    for key, detail, full in _keys(address, aliases):
        for table in aliases.tables:
            if isinstance(table, PcreTable) and not full:
                continue
            if table.fault:
                steps.append(Step(table.file, key, Tried.SKIPPED, f"the table cannot be used: {table.fault}"))
                raise LookupFault(f"{table.file}: {table.fault}")
            if isinstance(table, TextTable):
                entry = table.entries.get(key)
                if entry is None:
                    steps.append(Step(table.file, key, Tried.SKIPPED, "no such key"))
                    continue
                rule = f"{table.file}:{entry.line}"
                steps.append(Step(rule, key, Tried.MATCHED, f"alias to {entry.value}"))
                return _Hit(rule, key, entry.value, detail)
            hit = _search(table, key, whole, steps)
            if hit is not None:
                return hit
    return _local(address, aliases, steps) if aliases.own(address.domain) else None


def _local(address: Address, aliases: Aliases, steps: list[Step]) -> _Hit | None:
    """The first hit in the local aliases (local(8)). Raises LookupFault."""
    bare = address.without_detail(aliases.delimiter)
    for key in (each.local.lower() for each in (address, bare) if each is not None):
        for table in aliases.local:
            if table.fault:
                steps.append(Step(table.file, key, Tried.SKIPPED, f"the table cannot be used: {table.fault}"))
                raise LookupFault(f"{table.file}: {table.fault}")
            entry = table.entries.get(key)
            if entry is not None:
                rule = f"{table.file}:{entry.line}"
                steps.append(Step(rule, key, Tried.MATCHED, f"local alias to {entry.value}"))
                return _Hit(rule, key, entry.value, "")
            steps.append(Step(table.file, key, Tried.SKIPPED, "no such name"))
    return None


def direct(aliases: Aliases, address: Address) -> tuple[tuple[str, str], ...]:
    """What each table says of the address as it is written, in one step: rule and name. Raises LookupFault."""
    found: list[tuple[str, str]] = []
    for table in (*aliases.tables, *aliases.local):
        if table.fault:
            raise LookupFault(f"{table.file}: {table.fault}")
        if isinstance(table, TextTable):
            entry = table.entries.get(address.key)
            hit = (f"{table.file}:{entry.line}", entry.value) if entry is not None else None
        else:
            matched = _search(table, address.key, str(address).encode("utf-8", "surrogateescape"), [])
            hit = (matched.rule, matched.value) if matched is not None else None
        if hit is not None:
            found += [(hit[0], name) for name in re.split(r"[\s,]+", hit[1]) if name]
    return tuple(found)


def claimed(aliases: Aliases, domain: Domain) -> str | None:
    """The rule by which a table that has the bare domain makes it a domain of aliases; None where none does.

    Postfix: virtual_alias_domains = $virtual_alias_maps, which docker-mailserver leaves as it is. Raises LookupFault.
    """
    if not aliases.claiming or aliases.own(domain):
        return None
    for table in aliases.tables:
        if table.fault:
            raise LookupFault(f"{table.file}: {table.fault}")
        if isinstance(table, TextTable):
            entry = table.entries.get(domain.key)
            if entry is not None:
                return f"{table.file}:{entry.line}"
        else:
            hit = _search(table, domain.key, domain.key.encode(), [])
            if hit is not None:
                return hit.rule
    return None


def _search(table: PcreTable, key: str, whole: bytes, steps: list[Step]) -> _Hit | None:
    tried = whole.decode("utf-8", "surrogateescape")
    for rule in table.rules:
        name = f"{table.file}:{rule.line}"
        try:
            closed = next((outer for outer in rule.enclosing if not outer.match(whole)), None)
            found = False if closed is not None else rule.condition.match(whole)
        except LookupFault as fault:
            steps.append(Step(name, tried, Tried.SKIPPED, f"gave up: {fault}"))
            raise LookupFault(f"{name}: {fault}") from None
        if closed is not None:
            steps.append(Step(name, tried, Tried.SKIPPED, f"inside if {closed.text}, which does not hold"))
        elif not found:
            steps.append(Step(name, tried, Tried.SKIPPED, f"{rule.condition.text} does not match"))
        else:
            groups = () if found is True else found.groups()
            value = "".join(
                piece if isinstance(piece, str) else (groups[piece - 1] or b"").decode("utf-8", "surrogateescape")
                for piece in rule.result
            )
            if not value:
                steps.append(Step(name, tried, Tried.SKIPPED, f"{rule.condition.text}: the result is empty"))
                raise LookupFault(f"{name}: the result is empty")  # as Postfix maps_find(3)
            steps.append(Step(name, tried, Tried.MATCHED, f"{rule.condition.text}: alias to {value}"))
            return _Hit(name, key, value, "")
    if not table.rules:
        steps.append(Step(table.file, tried, Tried.SKIPPED, "the table is empty"))
    return None


_TARGET = re.compile(
    r"""\((?:[^()\\]|\\.)*\)          # a comment
      | <(?P<route>[^<>]*)>           # an address in brackets
      | (?P<plain>(?:"(?:[^"\\]|\\.)*"|[^\s,"<>()])+)
    """,
    re.VERBOSE,
)


def targets(value: str) -> tuple[str, ...]:
    """The addresses of an alias's value, parted by commas or white space; comments dropped (RFC 822, as Postfix)."""
    found = [match["route"] or match["plain"] or "" for match in _TARGET.finditer(value)]
    return tuple(target for target in found if target)


def _resolve(hit: _Hit, address: Address, aliases: Aliases, notes: list[str]) -> tuple[Address, ...]:
    """The addresses that a hit stands for, seen from `address`."""
    value = hit.value.strip()
    if value.startswith("@"):
        value = Address(address.local.removesuffix(hit.detail), address.domain).quoted_local + value
    addresses: list[Address] = []
    for target in targets(value):
        try:
            made = Address.parse(target if "@" in target else f"{target}@{aliases.origin.text}")
        except AddressError as error:
            notes.append(f"{hit.rule}: {error}; this target gets nothing")
            continue
        addresses.append(Address(made.local + hit.detail, made.domain) if hit.detail else made)
    return tuple(addresses)


def expand(aliases: Aliases, recipient: Address) -> Expansion:
    """Everything that `recipient` becomes, in the order in which it is found, each final address once.

    Postfix (cleanup_map1n.c) expands an address that yields itself once and no more, so a circle through such an
    address ends there. A circle without one never would: it is a fault (451 4.4.6), as are more than `MAX_DEPTH`
    nested or `MAX_WIDTH` addresses (451 4.6.0) and a table that cannot answer (451 4.3.0).
    """
    steps: list[Step] = []
    notes: list[str] = []
    finals: dict[str, Address] = {}
    onwards: dict[str, tuple[Address, ...]] = {}
    waiting = deque([(recipient, 0)])

    def failed(code: str, text: str, detail: str) -> Expansion:
        return Expansion((), tuple(steps), tuple(notes), Refusal(Reply(451, code, text), "aliases", detail))

    while waiting:
        address, depth = waiting.popleft()
        key = address.key
        if key in onwards:
            continue
        if depth >= MAX_DEPTH or len(address.local) > MAX_LOCAL:
            return failed("4.6.0", "Alias expansion error", f"more than {MAX_DEPTH} nested aliases at {address}")
        if len(onwards) >= MAX_NODES:
            return failed("4.6.0", "Alias expansion error", f"more than {MAX_NODES} aliases from {recipient}")
        try:
            hit = _lookup(address, aliases, steps)
        except LookupFault as fault:
            return failed("4.3.0", "Temporary lookup failure: try again later", str(fault))
        if hit is None:
            onwards[key] = ()
            finals[key] = address
        else:
            onward = _resolve(hit, address, aliases, notes)
            if any(each.key == key for each in onward):
                steps.append(Step(hit.rule, str(address), Tried.MATCHED, "names itself: it stays, and expands no more"))
                finals[key] = address
            onwards[key] = onward
            waiting.extend((each, depth + 1) for each in onward if each.key != key)
        if len(finals) > MAX_WIDTH:
            return failed("4.6.0", "Alias expansion error", f"more than {MAX_WIDTH} addresses from {recipient}")
    loop = _loop({key: onward for key, onward in onwards.items() if key not in finals})
    if loop is not None:
        names = " -> ".join(loop)
        steps.append(Step("aliases", str(recipient), Tried.MATCHED, f"a loop: {names}"))
        return failed("4.4.6", "Alias loop: the address leads back to itself", f"loop: {names}")
    return Expansion(tuple(finals.values()), tuple(steps), tuple(notes))


def _loop(onwards: Mapping[str, tuple[Address, ...]]) -> list[str] | None:
    """A circle among the addresses that do not stay: their keys from the first back to it."""
    done: set[str] = set()
    for start in onwards:
        path: dict[str, Iterator[Address]] = {} if start in done else {start: iter(onwards[start])}
        while path:
            key = next(reversed(path))
            step = next(path[key], None)
            if step is None:
                del path[key]
                done.add(key)
            elif step.key in path:
                circle = list(path)
                return [*circle[circle.index(step.key) :], step.key]
            elif step.key in onwards and step.key not in done:
                path[step.key] = iter(onwards[step.key])
    return None
