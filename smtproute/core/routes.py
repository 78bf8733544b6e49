"""Routes: which rule of the configuration claims a final address. The first that matches, in file order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pcre2

from smtproute.core.address import Address, AddressError, Domain
from smtproute.core.aliases import PatternError, compile_pattern
from smtproute.core.plan import Step, Tried
from smtproute.core.settings import Mode

__all__ = ["Match", "Route", "RouteError", "Target", "matching", "parse_match"]


class RouteError(ValueError):
    """A `match` is of no known form, or a pattern gave up; the message says why."""


@dataclass(frozen=True, slots=True)
class Match:
    """What a route matches, as written, and the test."""

    text: str
    holds: Callable[[Address], bool]


@dataclass(frozen=True, slots=True)
class Target:
    """What happens to an address that was claimed."""

    mode: Mode
    endpoint: str = ""
    seal: bool = True


@dataclass(frozen=True, slots=True)
class Route:
    rule: str
    """Its place in the configuration, "route[0]"."""
    match: Match
    target: Target


def parse_match(text: str) -> Match:
    """`user@domain`, `*@domain`, `*@*.domain`, `*`, `regex:...` (the whole address). Raises RouteError."""
    if text == "*":
        return Match(text, lambda address: True)
    if text.startswith("regex:"):
        written = text.removeprefix("regex:")
        try:
            compile_pattern(written, pcre2.IGNORECASE)  # as it was written, so that an error names the right place
            pattern = compile_pattern(f"(?:{written})\\z", pcre2.IGNORECASE)
        except PatternError as error:
            raise RouteError(f"the pattern does not compile: {error}") from None
        return Match(text, lambda address: _fullmatch(pattern, address, text))
    local, at, domain = text.rpartition("@")
    if not at or not local:
        raise RouteError("write user@domain, *@domain, *@*.domain, * or regex:PATTERN")
    try:
        if local == "*" and domain.startswith("*."):
            suffix = "." + Domain.parse(domain.removeprefix("*.")).key
            return Match(text, lambda address: address.domain.key.endswith(suffix))
        if local == "*":
            key = Domain.parse(domain).key
            return Match(text, lambda address: address.domain.key == key)
        if "*" in local or "*" in domain:
            raise RouteError("* stands for a whole local part or leading labels: *@domain, *@*.domain; else use regex:")
        whole = Address.parse(text).key
    except AddressError as error:
        raise RouteError(str(error)) from None
    return Match(text, lambda address: address.key == whole)


def _fullmatch(pattern: pcre2.Pattern, address: Address, text: str) -> bool:
    try:
        return pattern.match(address.key.encode("utf-8", "surrogateescape")) is not None
    except pcre2.LibraryError as error:
        raise RouteError(f"{text}: {error}") from None


def matching(
    routes: tuple[Route, ...], address: Address, delimiter: str, steps: list[Step] | None = None
) -> Route | None:
    """The first route that claims `address`, else the first that claims it without its `+detail`.

    Each rule tried is added to `steps`. Raises RouteError where a pattern passed its match limit.
    """
    bare = address.without_detail(delimiter)
    for each in (address,) if bare is None else (address, bare):
        for route in routes:
            holds = route.match.holds(each)
            if steps is not None:
                tried = Tried.MATCHED if holds else Tried.SKIPPED
                why = f"{route.match.text} matches" if holds else f"{route.match.text} does not match"
                steps.append(Step(route.rule, str(each), tried, why))
            if holds:
                return route
    return None
