"""Update: new expectations in a scenario's file, everything else of which stays as it is written, octet by octet.

    changes = [
        Put(("message", 0, "expect", 1, "attempts"), 3),
        Put(("message", 0, "replies", "name@example.org"), "550 5.1.1"),
        Remove(("message", 0, "expect", 2)),
        Append(("message", 0, "expect"), {"mailbox": "name@example.org"}),
    ]
    new = updated(text, changes)
    print(difference(text, new, "flow.toml"))

Every location is one of the text as it was.
"""

from __future__ import annotations

import copy
import difflib
import io
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smtproute.config.document import Location
from smtproute.testing.scenarios import toml

__all__ = ["Append", "Change", "NotUpdated", "Put", "Remove", "difference", "updated"]

_EXPECTED = {"message": ("replies", "expect"), "explain": ("reply", "routes"), "arrived": ("messages", "connections")}
"""The keys of a scenario that say what is expected, by the table that they stand in."""


@dataclass(frozen=True, slots=True)
class Put:
    """A key gets this value, whether it is there already or not."""

    at: Location
    value: Any


@dataclass(frozen=True, slots=True)
class Remove:
    """A key, or a table of an array, goes."""

    at: Location


@dataclass(frozen=True, slots=True)
class Append:
    """An array of tables, which may not be there yet, gets one more."""

    at: Location
    table: Mapping[str, Any]


Change = Put | Remove | Append


class NotUpdated(ValueError):
    """The file is written in a way in which this change cannot be put into it; the text says which."""


def updated(text: str, changes: Sequence[Change]) -> str:
    """The text of a scenario with these changes of what it expects. Raises NotUpdated, and ValueError for no TOML."""
    wanted = tomllib.loads(text)
    for change in changes:
        if len(change.at) < 3 or change.at[2] not in _EXPECTED.get(str(change.at[0]), ()):
            raise NotUpdated(f"{_shown(change.at)} is no expectation")
    _apply(wanted, changes)
    written = _Written(text)
    for change in changes:
        match change:
            case Put(at, value):
                written.put(at, value)
            case Remove(at):
                written.remove(at)
            case Append(at, table):
                written.append(at, table)
    new = written.text()
    if tomllib.loads(new) != wanted:
        raise NotUpdated("the tables are written in an unusual order: change them by hand")
    return new


def difference(old: str, new: str, name: str) -> str:
    """What changes, as a unified diff; nothing where nothing does."""
    lines = difflib.unified_diff(_lines(old), _lines(new), name, f"{name} (as it is now)")
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def _lines(text: str) -> list[str]:
    """With their line feeds, which alone end lines in TOML."""
    return list(io.StringIO(text, newline="\n"))


def _apply(tables: dict[str, Any], changes: Sequence[Change]) -> None:
    """Makes the changes where they are values: what is removed from an array goes at last, so that places hold."""
    for change in changes:
        match change:
            case Put(at, value):
                _into(tables, at[:-1])[at[-1]] = copy.deepcopy(value)
            case Append(at, table):
                _into(tables, at[:-1]).setdefault(at[-1], []).append(copy.deepcopy(dict(table)))
            case Remove():
                pass
    removed = [change.at for change in changes if isinstance(change, Remove)]
    for at in sorted(removed, key=lambda at: [(isinstance(part, int), part) for part in at], reverse=True):
        within = _into(tables, at[:-1])
        del within[at[-1]]
        if isinstance(within, list) and not within:
            del _into(tables, at[:-2])[at[-2]]


def _into(tables: Any, at: Location) -> Any:
    """What stands there; a table that is not there yet is made."""
    for part in at:
        tables = tables[part] if isinstance(part, int) else tables.setdefault(part, {})
    return tables


@dataclass(slots=True)
class _Statement:
    """A key with its value, on one line or several: from line `first` up to line `end`."""

    at: Location
    first: int
    end: int
    value: Any
    touched: bool = False


@dataclass(slots=True)
class _Block:
    """A table with its header, or what stands above the first one."""

    at: Location
    first: int
    """The header's line; comments that stand right over it are before it."""
    end: int = 0
    """After its last statement; what follows belongs to the next one."""
    next: int = 0
    """Where the next one begins, with its comments."""
    statements: list[_Statement] = field(default_factory=list)
    added: dict[str, Any] = field(default_factory=dict)
    """Keys that it gets."""
    removed: bool = False


class _Written:
    """A TOML text in its lines, and what is to become of them."""

    def __init__(self, text: str) -> None:
        self._break = "\r\n" if "\r\n" in text else "\n"
        self._lines = _lines(text)
        self._blocks = list(_blocks(self._lines))
        self._tables: dict[Location, dict[str, Any]] = {}
        """New tables, by the table of an array that they stand in and their key."""
        self._more: list[tuple[Location, Mapping[str, Any]]] = []
        """New tables of arrays."""

    def put(self, at: Location, value: Any) -> None:
        statement, rest = self._statement(at)
        if statement is not None:
            statement.value, statement.touched = _with(statement.value, rest, value), True
            return
        block = self._block(at[:-1])
        if block is not None:
            block.added[str(at[-1])] = value
        else:
            self._tables.setdefault(at[:-1], {})[str(at[-1])] = value

    def remove(self, at: Location) -> None:
        statement, rest = self._statement(at)
        if statement is None:
            for block in self._blocks:
                if block.at[: len(at)] == at:
                    block.removed = True
        elif not rest:
            statement.value, statement.touched = None, True
        else:
            statement.value, statement.touched = _with(statement.value, rest, _Gone), True

    def append(self, at: Location, table: Mapping[str, Any]) -> None:
        statement, rest = self._statement(at)
        if statement is None:
            self._more.append((at, table))
            return
        there = statement.value
        for part in rest:
            there = there[part] if isinstance(part, int) else there.get(part, [])
        statement.value, statement.touched = _with(statement.value, rest, [*there, dict(table)]), True

    def text(self) -> str:
        """As it is to be."""
        new: dict[int, list[str]] = {}
        """Lines that come before a line of the old text."""
        gone: set[int] = set()
        for block in self._blocks:
            if block.removed:
                gone.update(range(_comments(self._lines, block.first), block.next))
                continue
            for statement in block.statements:
                if statement.touched:
                    gone.update(range(statement.first, statement.end))
                    new.setdefault(statement.first, []).extend(self._statement_lines(block, statement))
            new.setdefault(block.end, []).extend(toml.assignment(*each) for each in block.added.items())
        for at, keys in self._tables.items():
            after = self._last(at[:-1], only=True)
            lines = ["", toml.header(_names(at)), *(toml.assignment(*each) for each in keys.items())]
            new.setdefault(after, []).extend(lines)
        for at, table in self._more:
            lines = ["", toml.header(_names(at), one_of_several=True)]
            new.setdefault(self._last(at[:-1]), []).extend(
                [*lines, *(toml.assignment(*each) for each in table.items())]
            )
        result: list[str] = []
        for number, line in enumerate([*self._lines, ""]):
            if new.get(number) and result and not result[-1].endswith("\n"):
                result[-1] += self._break
            result += [f"{each}{self._break}" for each in new.get(number, ())]
            if number not in gone:
                result.append(line)
        return "".join(result)

    def _statement_lines(self, block: _Block, statement: _Statement) -> list[str]:
        """A statement with its new value, and the comment that stood behind it.

        Raises NotUpdated where more than its value would be another one.
        """
        value = _without_gone(statement.value)
        if value is None or value == []:
            return []
        if len(statement.at) < 3 and statement.at[0] != "arrived":
            said = f"line {statement.first + 1} says more than what is expected, and would be written anew as a whole"
            raise NotUpdated(f"{said}: change it by hand")
        if statement.end > statement.first + 1 and _has_comment(self._lines[statement.first : statement.end]):
            said = f"line {statement.first + 1}: comments inside of this value would be lost"
            raise NotUpdated(f"{said}: change it by hand")
        first, last = self._lines[statement.first], self._lines[statement.end - 1]
        name = _name(first)
        return [f"{name} = {toml.value(value)}{_comment(last) if statement.end == statement.first + 1 else ''}"]

    def _statement(self, at: Location) -> tuple[_Statement | None, Location]:
        """The statement in which something stands, and where in its value."""
        for block in self._blocks:
            for statement in block.statements:
                if at[: len(statement.at)] == statement.at and (
                    len(statement.at) == len(at) or isinstance(statement.value, dict | list)
                ):
                    return statement, at[len(statement.at) :]
        return None, ()

    def _block(self, at: Location) -> _Block | None:
        return next((block for block in self._blocks if block.at == at), None)

    def _last(self, at: Location, *, only: bool = False) -> int:
        """The line after the table at this place: with all that it holds, or `only` with its own keys.

        Raises NotUpdated where it has no header.
        """
        blocks = [block for block in self._blocks if block.at == at or (not only and block.at[: len(at)] == at)]
        if not blocks:
            raise NotUpdated(f"{_shown(at)} stands inside of other tables: write it as [[{at[0]}]] first")
        return blocks[-1].end


class _Gone:
    """Stands in the place of what is removed, so that the places behind it hold."""


def _with(value: Any, rest: Location, new: Any) -> Any:
    """The value with another one inside of it."""
    if not rest:
        return new
    value = copy.copy(value)
    inner = value[rest[0]] if isinstance(rest[0], int) else value.get(rest[0], {})
    value[rest[0]] = _with(inner, rest[1:], new)
    return value


def _without_gone(value: Any) -> Any:
    match value:
        case dict():
            return {name: _without_gone(each) for name, each in value.items() if each is not _Gone}
        case list():
            return [_without_gone(each) for each in value if each is not _Gone]
        case _:
            return value


def _blocks(lines: Sequence[str]) -> Iterator[_Block]:
    """The tables of a TOML text in order."""
    counts: dict[tuple[str, ...], int] = {}
    """How many tables each array has so far, by its location without the numbers of its own level."""
    block = _Block((), 0)
    number = 0
    while number < len(lines):
        line = lines[number].strip()
        if line.startswith("["):
            block.next = _comments(lines, number)
            yield block
            block = _Block(_location(line, counts), number, end=number + 1)
            number += 1
        elif not line or line.startswith("#"):
            number += 1
        else:
            statement = _statement(lines, number, block.at)
            block.statements.append(statement)
            block.end = number = statement.end
    block.next = len(lines)
    yield block


def _statement(lines: Sequence[str], first: int, at: Location) -> _Statement:
    """The statement that begins on this line: it has as many lines as TOML needs to make sense of it."""
    for end in range(first + 1, len(lines) + 1):
        try:
            value: Any = tomllib.loads("".join(lines[first:end]))
        except tomllib.TOMLDecodeError:
            continue
        for part in _keys(lines[first]):
            at, value = (*at, part), value[part]
        return _Statement(at, first, end, value)
    raise NotUpdated(f"line {first + 1}: no end of this value is found")


def _location(line: str, counts: dict[tuple[str, ...], int]) -> Location:
    """Where the table of a header stands; `counts` has the arrays so far, and is kept."""
    several = line.startswith("[[")
    parts = _keys(line.lstrip("["))
    at: Location = ()
    for length, part in enumerate(parts, 1):
        at = (*at, part)
        known = tuple(map(str, at))
        if several and length == len(parts):
            counts[known] = counts.get(known, -1) + 1
        if known in counts:
            at = (*at, counts[known])
    return at


_KEY = re.compile(r"""\s*(?:([A-Za-z0-9_-]+)|("(?:[^"\\]|\\.)*")|('[^']*'))\s*""")


def _keys(line: str) -> list[str]:
    """The parts of the key with which a line begins."""
    parts, at = [], 0
    while (found := _KEY.match(line, at)) is not None:
        bare, *quoted = found.groups()
        parts.append(bare or next(iter(tomllib.loads(f"x = {next(filter(None, quoted))}").values())))
        at = found.end() + 1
        if line[found.end() : at] != ".":
            break
    return parts


def _name(line: str) -> str:
    """The key as it is written, with what stands before it."""
    at = 0
    while (found := _KEY.match(line, at)) is not None:
        at = found.end()
        if line[at] != ".":
            break
        at += 1
    return line[:at].rstrip()


def _comment(line: str) -> str:
    """The comment behind a value, with the space before it."""
    for at in (found.start() for found in re.finditer("#", line)):
        try:
            tomllib.loads(line[:at])
        except tomllib.TOMLDecodeError:
            continue  # it is inside of a text
        before = line[:at]
        return before[len(before.rstrip()) :] + line[at:].rstrip()
    return ""


_TEXT = re.compile(r'''"""(?:\\.|[^\\])*?"{3,5}|\'{3}.*?\'{3,5}|"(?:\\.|[^"\\])*"|\'[^\']*\'''', re.DOTALL)
"""A text in its quotes; one of several lines may end in two quotes of its own."""


def _has_comment(lines: Sequence[str]) -> bool:
    """Whether there is a comment in a statement, not only a # in a text."""
    return "#" in _TEXT.sub("", "".join(lines))


def _comments(lines: Sequence[str], header: int) -> int:
    """Where the comments begin that stand right over a header."""
    while header > 0 and lines[header - 1].lstrip().startswith("#"):
        header -= 1
    return header


def _names(at: Location) -> tuple[str, ...]:
    return tuple(part for part in at if isinstance(part, str))


def _shown(at: Location) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).lstrip(".")
