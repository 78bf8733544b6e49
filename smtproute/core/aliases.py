"""Aliases: one address becomes others, by Postfix's rules for `virtual_alias_maps`.

Tables are text (texthash) or pcre. For one address the keys are, in order (virtual(5), "table search order"):
`user+detail@domain`, `user@domain`, then for our own host name `user+detail` and `user`, then `@domain`. Each key
is tried in every table before the next key; a pcre table sees the whole address only. What a look-up yields is
looked up again until nothing more is found; an address that yields itself stays. A `+detail` that the key did not
name is carried over to each target. A value `@b` under the key `@a` keeps the local part.

An address at a name of the machine itself that no virtual alias takes is looked up in the local aliases
(aliases(5)), by `user+detail` and then by `user`; there a detail is not carried over. What they yield is looked up
there again where it is at such a name, else in the virtual aliases from the start: Postfix's local(8) sends it on as
a new message.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NoReturn

import pcre2

from smtproute.core.address import MAX_ADDRESS, MAX_LOCAL, Address, AddressError, Domain
from smtproute.core.plan import Step, Tried
from smtproute.core.reply import LOOKUP_FAILED, Refusal, Reply

__all__ = [
    "Aliases",
    "Condition",
    "Entry",
    "Expansion",
    "Fault",
    "Kept",
    "LookupFault",
    "PatternError",
    "PcreRule",
    "PcreTable",
    "Table",
    "TextTable",
    "Trouble",
    "claimed",
    "compile_pattern",
    "completed",
    "direct",
    "elsewhere",
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
    key: str = field(default="", compare=False)
    """As it is written, where that is known: look-ups of domains heed its case."""


@dataclass(frozen=True, slots=True)
class TextTable:
    """A texthash table, of aliases or of access: lower-case key to entry.

    With a `fault` it answers nothing, as in Postfix.
    """

    file: str
    entries: Mapping[str, Entry] = field(default_factory=dict)
    fault: str = ""
    folded: bool = False
    """Whether the fault is there only where keys are folded to lower case, which `claimed` does not do."""


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
    """Completes a target without a domain (Postfix myorigin). Keys without a domain match there."""
    delimiter: str = "+"
    """Each of its characters begins a detail."""
    unqualified: frozenset[str] = frozenset()
    """Further names at which keys without a domain match, as Domain.key."""
    destinations: frozenset[str] = frozenset()
    """The names of the machine itself (Postfix mydestination, inet_interfaces), as Domain.key: keys without a domain
    match there too, and there are local aliases and no mailboxes."""
    local: tuple[TextTable, ...] = ()
    """aliases(5), for addresses at `destinations`."""
    alias_domains: Mapping[str, str] | None = field(default_factory=dict)
    """The domains that have aliases and no mailboxes (Postfix virtual_alias_domains), as Domain.key, and the rule;
    None: those that the tables have bare."""

    def own(self, domain: Domain) -> bool:
        """Whether keys without a domain match there."""
        return domain.key == self.origin.key or domain.key in self.destinations or domain.key in self.unqualified


@dataclass(frozen=True, slots=True)
class Kept:
    """An address whose local alias leads to a file, a program or a list of addresses in a file, and the rule."""

    address: Address
    rule: str


class Trouble(StrEnum):
    """Why an expansion cannot be finished."""

    LOOP = "loop"
    """A circle without an address that stays."""
    TOO_DEEP = "too deep"
    """More than `MAX_DEPTH` aliases follow one another, or an address grows without end."""
    TOO_WIDE = "too wide"
    """More than `MAX_WIDTH` addresses, or `MAX_NODES` look-ups."""
    TABLE = "table"
    """A table cannot answer."""


_EXPANSION = Reply(451, "4.6.0", "Alias expansion error")
_REPLIES: Mapping[Trouble, Reply] = {
    Trouble.LOOP: Reply(451, "4.4.6", "Alias loop: the address leads back to itself"),
    Trouble.TOO_DEEP: _EXPANSION,
    Trouble.TOO_WIDE: _EXPANSION,
    Trouble.TABLE: LOOKUP_FAILED,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """What stopped an expansion."""

    trouble: Trouble
    detail: str
    circle: tuple[str, ...] = ()
    """Of a loop: its addresses as written, from the first back to it."""

    @property
    def refusal(self) -> Refusal:
        """What the sender hears."""
        return Refusal(_REPLIES[self.trouble], "aliases", self.detail)


@dataclass(frozen=True, slots=True)
class Expansion:
    finals: tuple[Address, ...]
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()
    fault: Fault | None = None
    kept: tuple[Kept, ...] = ()


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
    return None


def _local(address: Address, aliases: Aliases, steps: list[Step], parent: str) -> _Hit | None:
    """The first hit in the local aliases (local(8)), but for `parent`, which led here. Raises LookupFault."""
    bare = address.without_detail(aliases.delimiter)
    for key in (each.local.lower() for each in (address, bare) if each is not None):
        if key == parent:
            steps.append(Step("local aliases", key, Tried.SKIPPED, "it names itself, and is not asked again"))
            continue
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
    """What each table says of the address in lower case, in one step: rule and name. Raises LookupFault.

    smtpd(8) folds what it resolves, even where patterns heed the case.
    """
    found: list[tuple[str, str]] = []
    for table in (*aliases.tables, *aliases.local):
        if table.fault:
            raise LookupFault(f"{table.file}: {table.fault}")
        if isinstance(table, TextTable):
            entry = table.entries.get(address.key)
            hit = (f"{table.file}:{entry.line}", entry.value) if entry is not None else None
        else:
            matched = _search(table, address.key, str(address).lower().encode("utf-8", "surrogateescape"))
            hit = (matched.rule, matched.value) if matched is not None else None
        if hit is not None:
            found += [(hit[0], name) for name in re.split(r"[\s,]+", hit[1]) if name]
    return tuple(found)


def claimed(aliases: Aliases, domain: Domain) -> str | None:
    """The rule that makes it a domain of aliases, without mailboxes; None where none does. Raises LookupFault.

    With virtual_alias_domains = $virtual_alias_maps, which docker-mailserver leaves as it is, tables do that to the
    domains that they have bare. Keys are not folded to lower case then, as they are where aliases are looked up.
    """
    if domain.key in aliases.destinations:
        return None
    if aliases.alias_domains is not None:
        return aliases.alias_domains.get(domain.key)
    for table in aliases.tables:
        if table.fault and not (isinstance(table, TextTable) and table.folded):
            raise LookupFault(f"{table.file}: {table.fault}")
        if isinstance(table, TextTable):
            entry = table.entries.get(domain.key)
            if entry is not None and entry.key in ("", domain.key):
                return f"{table.file}:{entry.line}"
        else:
            hit = _match(table, domain.key, domain.key.encode())
            if hit is not None:
                return hit.rule
    return None


def _search(table: PcreTable, key: str, whole: bytes, steps: list[Step] | None = None) -> _Hit | None:
    """The first rule that matches. Raises LookupFault, also where its result is empty (Postfix maps_find(3))."""
    hit = _match(table, key, whole, steps)
    if hit is not None and not hit.value:
        raise LookupFault(f"{hit.rule}: the result is empty")
    return hit


def _match(table: PcreTable, key: str, whole: bytes, steps: list[Step] | None = None) -> _Hit | None:
    """The first rule that matches, whatever its result; each that was tried goes to `steps`. Raises LookupFault."""
    tried = whole.decode("utf-8", "surrogateescape")
    for rule in table.rules:
        try:
            closed = next((outer for outer in rule.enclosing if not outer.match(whole)), None)
            found = False if closed is not None else rule.condition.match(whole)
        except LookupFault as fault:
            name = f"{table.file}:{rule.line}"
            if steps is not None:
                steps.append(Step(name, tried, Tried.SKIPPED, f"gave up: {fault}"))
            raise LookupFault(f"{name}: {fault}") from None
        if found:
            name = f"{table.file}:{rule.line}"
            groups = () if found is True else found.groups()
            value = "".join(
                piece if isinstance(piece, str) else (groups[piece - 1] or b"").decode("utf-8", "surrogateescape")
                for piece in rule.result
            )
            if steps is not None:
                meaning = f"alias to {value}" if value else "the result is empty"
                steps.append(Step(name, tried, Tried.MATCHED, f"{rule.condition.text}: {meaning}"))
            return _Hit(name, key, value, "")
        if steps is not None:
            why = f"{rule.condition.text} does not match"
            if closed is not None:
                why = f"inside if {closed.text}, which does not hold"
            steps.append(Step(f"{table.file}:{rule.line}", tried, Tried.SKIPPED, why))
    if not table.rules and steps is not None:
        steps.append(Step(table.file, tried, Tried.SKIPPED, "the table is empty"))
    return None


_ELSEWHERE = re.compile(r'"?(?:/|\||~/|:include:)', re.IGNORECASE)
_TARGET = re.compile(
    r"""\((?:[^()\\]|\\.)*\)          # a comment
      | <(?P<route>[^<>]*)>           # an address in brackets
      | (?P<plain>(?:"(?:[^"\\]|\\.)*"|[^\s,"<>()])+)
      | (?P<end>,)
    """,
    re.VERBOSE,
)


def targets(value: str) -> tuple[str, ...]:
    """The addresses of an alias's value, parted by commas or white space; comments dropped (RFC 822, as Postfix).

    Of what stands before an address in brackets, back to the comma, nothing is an address: it is a name.
    """
    found: list[str] = []
    group = 0  # where what the last comma or bracket left begins
    for match in _TARGET.finditer(value):
        match match.lastgroup:
            case "route":
                found[group:] = [match["route"]]
                group = len(found)
            case "plain":
                found.append(match["plain"])
            case "end":
                group = len(found)
    return tuple(target for target in found if target)


def elsewhere(target: str) -> bool:
    """Whether a target of local aliases is a file, a program or a list of addresses in a file (aliases(5))."""
    return _ELSEWHERE.match(target) is not None


_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"')


def completed(target: str, origin: Domain) -> Address:
    """A target as an address, at `origin` where it has no domain. Raises AddressError.

    Its local part may be of several words of which some are quoted, as a pattern makes them: `"a b"c@d`.
    """
    whole = target if "@" in target else f"{target}@{origin.text}"
    local, _, domain = whole.rpartition("@")
    if '"' in local and _WORD.fullmatch(local) is None:
        bare = _WORD.sub(lambda word: re.sub(r"\\(.)", r"\1", word[1]), local)
        whole = str(Address(bare, Domain.parse(domain)))
    address = Address.parse(whole)
    if not address.domain.key.strip("0123456789."):
        raise AddressError(f"{address} has an IP address without brackets")
    return address


def _resolve(hit: _Hit, address: Address, aliases: Aliases, notes: list[str]) -> tuple[Address, ...]:
    """The addresses that a hit stands for, seen from `address`."""
    value = hit.value.strip()
    if value.startswith("@"):
        value = Address(address.local.removesuffix(hit.detail), address.domain).quoted_local + value
    addresses: list[Address] = []
    for target in targets(value):
        if (
            len(target) > MAX_ADDRESS or len(target.rpartition("@")[0]) > MAX_LOCAL
        ):  # what makes such addresses makes longer ones of them
            raise _Failed(Fault(Trouble.TOO_DEEP, f"{hit.rule}: it makes an address too long: {target}"))
        try:
            made = completed(target, aliases.origin)
        except AddressError as error:
            notes.append(f"{hit.rule}: {error}; this target gets nothing")
            continue
        addresses.append(Address(made.local + hit.detail, made.domain) if hit.detail else made)
    return tuple(addresses)


def expand(aliases: Aliases, recipient: Address) -> Expansion:
    """Everything that `recipient` becomes, in the order in which it is found, each final address once.

    Postfix (cleanup_map1n.c) expands an address that yields itself once and no more, so a circle through such an
    address ends there. A circle without one never would: it is a fault, as is each `Trouble`.
    """
    walk = _Walk(aliases, recipient)
    try:
        walk.virtual(recipient, ())
    except _Failed as failed:
        return Expansion((), tuple(walk.steps), tuple(walk.notes), failed.fault)
    return Expansion(tuple(walk.finals.values()), tuple(walk.steps), tuple(walk.notes), None, tuple(walk.kept.values()))


class _Failed(Exception):
    """The expansion cannot be finished."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.detail)
        self.fault = fault


class _Walk:
    """One expansion under way."""

    def __init__(self, aliases: Aliases, recipient: Address) -> None:
        self.aliases = aliases
        self.recipient = recipient
        self.steps: list[Step] = []
        self.notes: list[str] = []
        self.finals: dict[str, Address] = {}
        self.kept: dict[str, Kept] = {}
        self._looked_up = 0

    def virtual(self, start: Address, trail: tuple[str, ...]) -> None:
        """Follows the virtual aliases from `start`, then the local ones of `destinations` among what stays.

        `trail` holds the addresses whose local aliases led here (Postfix's Delivered-To).
        """
        onwards: dict[str, tuple[Address, ...]] = {}  # by the address as written: patterns may heed the case
        keys: dict[str, str] = {}
        staying: dict[str, Address] = {}
        waiting = deque([(start, 0)])
        while waiting:
            address, depth = waiting.popleft()
            written = str(address)
            if written in onwards or address.key in staying:
                continue
            if depth >= MAX_DEPTH or len(address.local) > MAX_LOCAL:
                self._fail(Trouble.TOO_DEEP, f"more than {MAX_DEPTH} nested aliases at {address}")
            hit = self._hit(_lookup, address)
            keys[written] = address.key
            onwards[written] = onward = _resolve(hit, address, self.aliases, self.notes) if hit is not None else ()
            if hit is None:
                staying[address.key] = address
            elif any(each.key == address.key for each in onward):
                why = "names itself: it stays, and expands no more"
                self.steps.append(Step(hit.rule, written, Tried.MATCHED, why))
                staying[address.key] = address
            waiting.extend((each, depth + 1) for each in onward)
            if len(staying) > MAX_WIDTH:
                self._fail(Trouble.TOO_WIDE, f"more than {MAX_WIDTH} addresses from {self.recipient}")
        loop = _loop({written: onward for written, onward in onwards.items() if keys[written] not in staying})
        if loop is not None:
            names = " -> ".join(loop)
            self.steps.append(Step("aliases", str(self.recipient), Tried.MATCHED, f"a loop: {names}"))
            self._fail(Trouble.LOOP, f"loop: {names}", tuple(loop))
        for address in staying.values():
            if address.domain.key in self.aliases.destinations:
                self.local(address, trail)
            else:
                self.finals.setdefault(address.key, address)

    def local(self, top: Address, trail: tuple[str, ...]) -> None:
        """Follows the local aliases of an address at `destinations`, as Postfix's local(8) does.

        A name that no alias has stays, and so does one that leads back to itself: local(8) finds no such user, or a
        mail loop, and bounces either.
        """
        seen: set[tuple[str, str, bool]] = set()
        waiting = [(top, "", False)]  # with the alias that names it, which is not asked again; whether it has an owner
        while waiting:
            address, parent, owned = waiting.pop()
            if address.key in trail or (address.key, parent, owned) in seen:
                self.notes.append(f"the local aliases of {top} lead back to {address}: that ends in a bounce")
                self.finals.setdefault(address.key, address)
                continue
            seen.add((address.key, parent, owned))
            hit = self._hit(_local, address, parent)
            if hit is None and owned:
                # What a list with an owner leads to is sent as a new message, which virtual aliases see.
                self.virtual(address, (*trail, top.key))
                continue
            if hit is None:
                self.finals.setdefault(address.key, address)
                continue
            owned = owned or any(f"owner-{hit.key}" in table.entries for table in self.aliases.local)
            for target in targets(hit.value):
                if elsewhere(target):
                    why = f"leads to {target}, which is not simulated: captured"
                    self.steps.append(Step(hit.rule, hit.key, Tried.MATCHED, why))
                    self.kept.setdefault(address.key, Kept(address, hit.rule))
                    continue
                for onward in _resolve(_Hit(hit.rule, hit.key, target, ""), address, self.aliases, self.notes):
                    if onward.domain.key in self.aliases.destinations:
                        waiting.append((onward, hit.key, owned))
                    else:
                        self.virtual(onward, (*trail, top.key))

    def _hit(self, look: Callable[..., _Hit | None], address: Address, *more: str) -> _Hit | None:
        self._looked_up += 1
        if self._looked_up > MAX_NODES:
            self._fail(Trouble.TOO_WIDE, f"more than {MAX_NODES} aliases from {self.recipient}")
        try:
            return look(address, self.aliases, self.steps, *more)
        except LookupFault as fault:
            self._fail(Trouble.TABLE, str(fault))

    def _fail(self, trouble: Trouble, detail: str, circle: tuple[str, ...] = ()) -> NoReturn:
        raise _Failed(Fault(trouble, detail, circle))


def _loop(onwards: Mapping[str, tuple[Address, ...]]) -> list[str] | None:
    """A circle among the addresses that do not stay: each as written, from the first back to it."""
    done: set[str] = set()
    for start in onwards:
        path: dict[str, Iterator[Address]] = {} if start in done else {start: iter(onwards[start])}
        while path:
            last = next(reversed(path))
            step = next(path[last], None)
            if step is None:
                del path[last]
                done.add(last)
                continue
            written = str(step)
            if written in path:
                circle = list(path)
                return [*circle[circle.index(written) :], written]
            if written in onwards and written not in done:
                path[written] = iter(onwards[written])
    return None
