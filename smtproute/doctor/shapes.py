"""Shapes: what is certain about the text that a pattern matches, found by reading the pattern.

A pattern is taken apart into branches, one for each way through its alternatives; a branch is a row of atoms, each a
matcher of one character or a repeated group. What is not understood (look-around, back references, inline options)
makes the whole pattern have no shape, and nothing is claimed about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import pcre2

__all__ = ["Atom", "Branch", "branches"]

MAX_BRANCHES = 64
"""Ways through one pattern that are looked at; beyond it, it has no shape."""

_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))) + "é"
_UNQUOTED = re.sub(r'[ ()<>,;\\"]', "", _PRINTABLE)
"""What an address without quotes may have, domain literals included."""
_DOMAIN = re.sub(r"[^A-Za-z0-9._\-\[\]:é]", "", _PRINTABLE)


@dataclass(frozen=True, slots=True)
class Atom:
    text: str
    """As it stands in the pattern, without its quantifier; `^` and `$` are atoms too."""
    quantifier: str = ""
    inner: tuple[Branch, ...] = ()
    """Of a repeated group: its branches."""

    @property
    def literal(self) -> str:
        """The one character that it stands for; "" where it may be another."""
        if self.quantifier or self.inner or len(self.text) == 0:
            return ""
        if len(self.text) == 1:
            return "" if self.text in ".^$" else self.text
        return self.text[1] if self.text[0] == "\\" and not self.text[1].isalnum() and len(self.text) == 2 else ""

    @property
    def wild(self) -> bool:
        """A dot that may be meant as one."""
        return self.text == "." and not self.quantifier

    @property
    def start(self) -> bool:
        return self.text in ("^", "\\A")

    @property
    def end(self) -> bool:
        return self.text in ("$", "\\z", "\\Z")

    @property
    def needed(self) -> bool:
        """Whether every match has a character by it."""
        if self.start or self.end or (self.quantifier and self.quantifier[0] in "*?"):
            return False
        if self.quantifier and re.match(r"\{0", self.quantifier):
            return False
        return all(any(atom.needed for atom in each.atoms) for each in self.inner)

    def some(self, characters: str) -> str:
        """The first of the characters that it can match, alone or within; "" if none."""
        if self.start or self.end:
            return ""
        if self.inner:
            return next((found for each in self.inner for atom in each.atoms if (found := atom.some(characters))), "")
        return _some(self.text, characters)


@lru_cache(maxsize=4096)
def _some(text: str, characters: str) -> str:
    pattern = pcre2.compile(
        text.encode("utf-8", "surrogateescape"), int(pcre2.IGNORECASE) | int(pcre2.DOTALL), jit=False
    )
    return next((each for each in characters if pattern.search(each.encode())), "")


@dataclass(frozen=True, slots=True)
class Branch:
    """One way through a pattern."""

    atoms: tuple[Atom, ...]

    @property
    def start(self) -> bool:
        """Whether it matches at the start of the address only."""
        return bool(self.atoms) and self.atoms[0].start

    @property
    def end(self) -> bool:
        return bool(self.atoms) and self.atoms[-1].end

    @property
    def body(self) -> tuple[Atom, ...]:
        """Without the anchors at its ends."""
        return self.atoms[self.start : len(self.atoms) - self.end]

    @property
    def tail(self) -> tuple[Atom, ...] | None:
        """What stands after its last `@`, where that is certain."""
        return self._after(tuple(at for at, atom in enumerate(self.body) if atom.some("@")))

    @property
    def written(self) -> tuple[Atom, ...] | None:
        """The same where wild dots are meant as dots."""
        return self._after(tuple(at for at, atom in enumerate(self.body) if atom.some("@") and not atom.wild))

    def _after(self, holding: tuple[int, ...]) -> tuple[Atom, ...] | None:
        """What stands after the last of the atoms that may be an `@`, if it can be nothing else."""
        if not holding or self.body[holding[-1]].literal != "@":
            return None
        return self.body[holding[-1] + 1 :]

    @property
    def domain(self) -> str:
        """The domain that is written after its `@`, a wild dot as a dot; "" where it is not written out."""
        tail = self.written
        if not tail or not all(atom.literal or atom.wild for atom in tail):
            return ""
        return "".join(atom.literal or "." for atom in tail).lower()

    @property
    def bare(self) -> str:
        """The domain that it ends in, where it might match that domain alone."""
        run = ""
        for atom in reversed(self.body):
            if not (atom.literal or atom.wild) or atom.literal == "@":
                break
            run = (atom.literal or ".") + run
        return run.lower().strip(".-")

    def never(self) -> str:
        """Why no address can match it; "" where one may."""
        atoms = self.body
        for at, atom in enumerate(atoms):
            beyond = atoms[:at] if atom.start else atoms[at + 1 :] if atom.end else ()
            if any(each.needed for each in beyond):
                return f"it wants text on the outer side of {atom.text}"
        unmatched = next((atom for atom in atoms if atom.needed and not atom.some(_PRINTABLE)), None)
        if unmatched is not None:
            return f"no address has the character that {unmatched.text} stands for"
        if self.start and self.end and not any(atom.some("@") for atom in atoms):
            return "it is anchored at both ends and has no place for an @, and what is looked up is the whole address"
        if self.start and atoms and atoms[0].needed:
            if atoms[0].literal == "@":
                return "it wants the @ at the very start, and every address has something before it"
            odd = next((atom for atom in atoms if atom.needed and not atom.some(_UNQUOTED)), None)
            if odd is not None and not atoms[0].some('"'):
                return f'no address has "{odd.literal or odd.text}" outside quotes'
        tail = self.tail
        if self.end and tail is not None:
            odd = next((atom for atom in tail if atom.needed and not atom.some(_DOMAIN)), None)
            if odd is not None:
                return f'no domain has "{odd.literal or odd.text}"'
            if not tail:
                return "it wants the address to end in @"
        return ""

    def strict(self) -> str:
        """The same pattern with its dots escaped and both ends anchored, as its author probably meant it."""
        text = "".join((r"\." if atom.wild else atom.text) + atom.quantifier for atom in self.body)
        first = self.body[0].literal if self.body else ""
        before = "^" if self.start or first != "@" else "^.+"
        whole = any(atom.literal == "@" for atom in self.body) or self.end
        return f"{before}{text}{'' if whole else '@.+'}$"

    def sample(self) -> str:
        """A text that it matches, as a rule; "" where none is easily made."""
        return "".join(_sample(atom) for atom in self.body)


def _sample(atom: Atom) -> str:
    if atom.literal:
        return atom.literal
    if not atom.needed:
        return ""
    if atom.inner:
        return atom.inner[0].sample()
    count = int(times[1]) if (times := re.match(r"\{(\d+)", atom.quantifier)) else 1
    return atom.some("x0abcdefghijklmnopqrstuvwyz123456789.-_@") * min(count, 64)


_ATOM = re.compile(
    r"""(?P<set>\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\])
      | (?P<escape>\\(?:[dDwWsShHAzZ]|[^A-Za-z0-9]))
      | (?P<open>\((?:\?:)?(?!\?|\*))
      | (?P<plain>[^\\\[\](){}*+?|])
      | (?P<brace>\{(?!\d+(?:,\d*)?\}))
    """,
    re.VERBOSE | re.DOTALL,
)
_QUANTIFIER = re.compile(r"(?:[*+?]|\{\d+(?:,\d*)?\})[+?]?")


class _Unknown(Exception):
    """Something in the pattern is not understood."""


def branches(pattern: str) -> tuple[Branch, ...]:
    """The ways through a pattern, in the text between its delimiters; none where it is not understood."""
    try:
        found, at = _alternatives(pattern, 0)
        if at != len(pattern):
            return ()
        return tuple(Branch(atoms) for atoms in found)
    except _Unknown:
        return ()


def _alternatives(text: str, at: int) -> tuple[list[tuple[Atom, ...]], int]:
    """The ways through `text` from `at` to the closing bracket or the end, and where that is. Raises _Unknown."""
    found: list[tuple[Atom, ...]] = []
    while True:
        rows, at = _row(text, at)
        found += rows
        if len(found) > MAX_BRANCHES:
            raise _Unknown
        if at < len(text) and text[at] == "|":
            at += 1
            continue
        return found, at


def _row(text: str, at: int) -> tuple[list[tuple[Atom, ...]], int]:
    """The ways through one alternative."""
    parts: list[list[tuple[Atom, ...]]] = []
    while at < len(text) and text[at] not in "|)":
        match = _ATOM.match(text, at)
        if match is None:
            raise _Unknown
        if match["open"]:
            inner, closing = _alternatives(text, match.end())
            if closing >= len(text):
                raise _Unknown
            after = closing + 1
            quantifier = _quantifier(text, after)
            group = Atom(text[at:after], quantifier, tuple(Branch(atoms) for atoms in inner))
            parts.append([(group,)] if quantifier else inner)
        else:
            after = match.end()
            quantifier = _quantifier(text, after)
            parts.append([(Atom(match[0], quantifier),)])
        at = after + len(quantifier)
    ways = 1
    for part in parts:
        ways *= len(part)
        if ways > MAX_BRANCHES:
            raise _Unknown
    return [tuple(_joined(way)) for way in product(*parts)], at


def _quantifier(text: str, at: int) -> str:
    match = _QUANTIFIER.match(text, at)
    return match[0] if match else ""


def _joined(way: tuple[tuple[Atom, ...], ...]) -> Iterator[Atom]:
    for atoms in way:
        yield from atoms
