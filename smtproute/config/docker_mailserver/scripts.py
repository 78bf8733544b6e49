"""Scripts: a file as docker-mailserver's shell scripts read it, line by line and by grep, while Postfix reads its own.

Their reading decides which domains are local and who has an account; Postfix's decides where an alias leads.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

from smtproute.config.tables import decoded
from smtproute.core.finding import Finding, warning

__all__ = ["Grep", "endings", "second", "valid_lines"]

_RUN = re.compile(r"[^.]+")


def valid_lines(octets: bytes) -> Iterator[tuple[int, str]]:
    """Numbered lines without blank ones and comments (`_get_valid_lines_from_file`); CRLF has become LF."""
    for number, line in enumerate(decoded(octets).replace("\r", "").split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line


def endings(shown: str, octets: bytes) -> tuple[Finding, ...]:
    """What the scripts would mend about the ends of lines, if the container may write the file."""
    findings = []
    if b"\r\n" in octets:
        what = (
            "Lines end in CRLF. docker-mailserver turns them into LF, unless the folder is mounted read-only: then the"
            " CR becomes part of the last field, a password hash or an address."
        )
        number = octets.count(b"\n", 0, octets.index(b"\r\n")) + 1
        findings.append(warning("crlf", f"{shown}:{number}", what))
    if octets and not octets.endswith(b"\n"):
        what = (
            "The last line has no line end. docker-mailserver adds one, unless the folder is mounted read-only: then it"
            " warns that the line is not processed. Whatever is appended to the file joins this line."
        )
        number = octets.count(b"\n") + 1
        findings.append(warning("no-final-newline", f"{shown}:{number}", what))
    return tuple(findings)


def second(text: str) -> str:
    """`cut -d @ -f 2`: what is between the first @ and the next; the whole text where there is no @."""
    parts = text.split("@", 2)
    return parts[1] if len(parts) > 1 else text


class Grep:
    """A file in which `grep PATTERN` is answered: the first line that the pattern matches, anywhere in the line.

    Of grep's own characters `.`, `*`, `^` and `$` count; brackets and backslashes, which no account has, stand for
    themselves. Thousands of patterns against thousands of lines are asked by way of an index: a pattern with an @ and
    no `*` can only match round an @ of the file.
    """

    def __init__(self, octets: bytes, *, ignore_case: bool = False) -> None:
        self._lines = decoded(octets).removesuffix("\n").split("\n") if octets else []
        text = "\n".join(self._lines)
        self._fold = ignore_case and len(text.lower()) == len(text)
        self._text = text.lower() if self._fold else text
        self._starts = list(accumulate((len(line) + 1 for line in self._lines), initial=0))
        self._ats = [match.start() for match in re.finditer("@", self._text)]
        self._round: dict[tuple[int, int], dict[str, list[int]]] = {}
        self._known: dict[str, tuple[int, str] | None] = {}

    def first(self, pattern: str) -> tuple[int, str] | None:
        """The number and the text of the first line that matches; None where none does."""
        if pattern not in self._known:
            at = self._search(pattern.lower() if self._fold else pattern)
            line = None if at is None else bisect_right(self._starts, at)
            self._known[pattern] = None if line is None else (line, self._lines[line - 1])
        return self._known[pattern]

    def _search(self, pattern: str) -> int | None:
        """Where the first match begins."""
        middle = pattern.find("@")
        if middle < 0 or "*" in pattern or pattern.startswith("^") or pattern.endswith("$"):
            match = re.search(_expression(pattern), self._text, re.MULTILINE) if self._lines else None
            return None if match is None else match.start()
        runs = [(run.start() - middle, run[0]) for run in _RUN.finditer(pattern)]
        for at in min((self._places(offset, run) for offset, run in runs), key=len):
            start = at - middle
            found = self._text[start : start + len(pattern)] if start >= 0 else ""
            one_line = len(found) == len(pattern) and "\n" not in found
            if one_line and all(self._text.startswith(run, at + offset) for offset, run in runs):
                return start
        return None

    def _places(self, offset: int, run: str) -> list[int]:
        """Every @ of the file that has `run` at this distance."""
        index = self._round.get((offset, len(run)))
        if index is None:
            index = self._round[offset, len(run)] = {}
            for at in self._ats:
                if at + offset >= 0:
                    index.setdefault(self._text[at + offset : at + offset + len(run)], []).append(at)
        return index.get(run, [])


def _expression(pattern: str) -> str:
    """A basic regular expression, as grep takes it, in Python's syntax."""
    made: list[str] = []
    for at, character in enumerate(pattern):
        if character == ".":
            made.append(".")
        elif character == "*" and made and made[-1] != "^":
            if made[-1] != "*":
                made.append("*")
        elif (character == "^" and at == 0) or (character == "$" and at == len(pattern) - 1):
            made.append(character)
        else:
            made.append(re.escape(character))
    return "".join(made)
