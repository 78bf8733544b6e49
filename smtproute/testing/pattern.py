"""Pattern: how a text of a test is compared with what was said."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pcre2

from smtproute.core.aliases import PatternError, compile_pattern
from smtproute.core.reply import Reply

__all__ = ["Pattern", "coded"]

_CODES = re.compile(r"[2-5]\d\d(?: [245]\.\d+\.\d+)?")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text; with `*`, which stands for any text; or `regex:PATTERN`, which must match the whole."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Raises ValueError for a regular expression that is none."""
        if text.startswith("regex:"):
            try:
                _compiled(text)
            except PatternError as error:
                raise ValueError(f"the pattern does not compile: {error}.") from None
        return cls(text)

    def holds(self, said: str) -> bool:
        """Whether this is what was said; never where a regular expression passes its match limit."""
        if self.text.startswith("regex:"):
            try:
                return _compiled(self.text).match(said.encode("utf-8", "backslashreplace")) is not None
            except pcre2.LibraryError:
                return False
        return _holds(self.text.split("*"), said)

    def answers(self, reply: Reply | str) -> bool:
        """Whether this is the reply, or the code, or code and enhanced code, with which it begins."""
        said = str(reply)
        return self.holds(said) or (coded(self.text) == self.text and said.startswith(f"{self.text} "))

    def __str__(self) -> str:
        return self.text


def coded(reply: str) -> str | None:
    """The code with which a reply begins, with the enhanced one where it has one; None where there is no reply."""
    found = _CODES.match(reply)
    return None if found is None else found[0]


def _holds(pieces: list[str], said: str) -> bool:
    """Whether it is these pieces with any text between them: each is taken where it comes first, in linear time."""
    first, *middle = pieces
    if not middle:
        return said == first
    last = middle.pop()
    at, end = len(first), len(said) - len(last)
    if at > end or not said.startswith(first) or not said.endswith(last):
        return False
    for piece in middle:
        found = said.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def _compiled(text: str) -> pcre2.Pattern:
    """Raises PatternError."""
    written, options = text.removeprefix("regex:"), pcre2.DOTALL | pcre2.UNICODE
    compile_pattern(written, options)  # as it was written, so that an error names the right place
    return compile_pattern(f"(?:{written})\\z", options)
