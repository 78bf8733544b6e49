"""Selection: what `-k` chooses, as pytest's does: words that a name has in it, with and, or, not and parentheses."""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["SelectionFault", "selection"]

Selects = Callable[[str], bool]

_TOKENS = re.compile(r"[()]|[^\s()]+")


class SelectionFault(ValueError):
    """The expression is none; the text says why."""


def selection(expression: str) -> Selects:
    """Whether a name is chosen, whatever its case. Raises SelectionFault."""
    tokens = _TOKENS.findall(expression.lower())
    chosen = _either(tokens)
    if tokens:
        raise SelectionFault(f"there is more behind it: {' '.join(tokens)}. Put and, or, not between words")
    return lambda name: chosen(name.lower())


def _either(tokens: list[str]) -> Selects:
    """Takes what it reads out of `tokens`, as the functions below do."""
    first = _both(tokens)
    while tokens[:1] == ["or"]:
        del tokens[0]
        first = _or(first, _both(tokens))
    return first


def _both(tokens: list[str]) -> Selects:
    first = _one(tokens)
    while tokens[:1] == ["and"]:
        del tokens[0]
        first = _and(first, _one(tokens))
    return first


def _one(tokens: list[str]) -> Selects:
    token = tokens.pop(0) if tokens else ""
    match token:
        case "not":
            inner = _one(tokens)
            return lambda name: not inner(name)
        case "(":
            inner = _either(tokens)
            if tokens[:1] != [")"]:
                raise SelectionFault("a ( is not closed")
            del tokens[0]
            return inner
        case "" | ")" | "and" | "or":
            raise SelectionFault(f"a word is wanted {f'before {token!r}' if token else 'at its end'}")
        case _:
            return lambda name: token in name


def _or(one: Selects, other: Selects) -> Selects:
    return lambda name: one(name) or other(name)


def _and(one: Selects, other: Selects) -> Selects:
    return lambda name: one(name) and other(name)
