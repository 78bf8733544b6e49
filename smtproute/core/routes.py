"""Routes: which rule of the configuration claims a final address. The first that matches, in file order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import assert_never

import pcre2

from smtproute.core.address import Address, AddressError, Domain
from smtproute.core.aliases import PatternError, compile_pattern
from smtproute.core.envelope import Envelope
from smtproute.core.permit import inside
from smtproute.core.plan import Step, Tried
from smtproute.core.settings import Listener, Mode, Network, Role

__all__ = [
    "Form",
    "Match",
    "Route",
    "RouteError",
    "Target",
    "covers",
    "matching",
    "opens",
    "parse_match",
    "parse_sender",
    "shadows",
]


class RouteError(ValueError):
    """A `match` is of no known form, or a pattern gave up; the message says why."""


class Form(StrEnum):
    """How a match is written."""

    ALL = "*"
    BELOW = "*@*.domain"
    DOMAIN = "*@domain"
    ADDRESS = "user@domain"
    PATTERN = "regex:PATTERN"
    NULL = "<>"
    """The null reverse-path, of senders only."""


@dataclass(frozen=True, slots=True)
class Match:
    """What a route matches, as written, and the test."""

    text: str
    holds: Callable[[Address], bool]
    form: Form
    key: str = ""
    """What the form has beside its signs: Address.key, Domain.key, or the pattern."""


@dataclass(frozen=True, slots=True)
class Target:
    """What happens to an address that was claimed."""

    mode: Mode
    endpoint: str = ""
    """With `Mode.ENDPOINT`; with `Mode.HOLD` where it goes once it is released, or nothing."""
    seal: bool = True

    def __str__(self) -> str:
        if self.mode is Mode.HOLD and self.endpoint:
            return f"hold, then endpoint {self.endpoint}"
        return f"{self.mode} {self.endpoint}".rstrip()


@dataclass(frozen=True, slots=True)
class Route:
    """A rule, and its conditions: all that are written must hold."""

    rule: str
    """Its place in the configuration, "route[0]"."""
    match: Match
    target: Target
    sender: Match | None = None
    """Whom MAIL FROM names, with or without its `+detail`; `Form.ALL` is everybody, the null reverse-path too."""
    clients: tuple[Network, ...] = ()
    """Where the client is; none: anywhere. Mail of this relay itself, a DSN, comes from 127.0.0.1."""
    listener: str = ""
    """Which listener it speaks to; empty: any. Mail of this relay itself came by none."""

    @property
    def conditions(self) -> tuple[str, ...]:
        """As they are written: "sender *@example.org"."""
        return (
            *([f"sender {self.sender.text}"] if self.sender is not None else ()),
            *([f"client {_listed(self.clients)}"] if self.clients else ()),
            *([f"listener {self.listener}"] if self.listener else ()),
        )


def parse_match(text: str) -> Match:
    """`user@domain`, `*@domain`, `*@*.domain`, `*`, `regex:...` (the whole address). Raises RouteError."""
    if text == "*":
        return Match(text, lambda address: True, Form.ALL)
    if text.startswith("regex:"):
        written = text.removeprefix("regex:")
        try:
            compile_pattern(written, pcre2.IGNORECASE)  # as it was written, so that an error names the right place
            pattern = compile_pattern(f"(?:{written})\\z", pcre2.IGNORECASE)
        except PatternError as error:
            raise RouteError(f"the pattern does not compile: {error}") from None
        return Match(text, lambda address: _fullmatch(pattern, address, text), Form.PATTERN, written)
    local, at, domain = text.rpartition("@")
    if not at or not local:
        raise RouteError("write user@domain, *@domain, *@*.domain, * or regex:PATTERN")
    try:
        if local == "*" and domain.startswith("*."):
            key = Domain.parse(domain.removeprefix("*.")).key
            return Match(text, lambda address: address.domain.key.endswith(f".{key}"), Form.BELOW, key)
        if local == "*":
            key = Domain.parse(domain).key
            return Match(text, lambda address: address.domain.key == key, Form.DOMAIN, key)
        if "*" in local or "*" in domain:
            raise RouteError("* stands for a whole local part or leading labels: *@domain, *@*.domain; else use regex:")
        key = Address.parse(text).key
    except AddressError as error:
        raise RouteError(str(error)) from None
    return Match(text, lambda address: address.key == key, Form.ADDRESS, key)


def parse_sender(text: str) -> Match:
    """As `parse_match`, and `<>` for the null reverse-path. Raises RouteError."""
    return Match(text, lambda address: False, Form.NULL) if text == "<>" else parse_match(text)


def _fullmatch(pattern: pcre2.Pattern, address: Address, text: str) -> bool:
    try:
        return pattern.match(address.key.encode("utf-8", "surrogateescape")) is not None
    except pcre2.LibraryError as error:
        raise RouteError(f"{text}: {error}") from None


def matching(
    routes: tuple[Route, ...],
    address: Address,
    delimiter: str,
    envelope: Envelope,
    steps: list[Step] | None = None,
    *,
    strangers: bool = False,
) -> Route | None:
    """The first route that claims `address`, else the first that claims it without its `+detail`.

    With `strangers` only one that permits strangers to send there: a sender, who may be forged, permits nobody. Each
    rule tried is added to `steps`. Raises RouteError where a pattern passed its match limit.
    """
    bare = address.without_detail(delimiter)
    for each in (address,) if bare is None else (address, bare):
        for route in routes:
            named = route.match.holds(each)
            why = _unmet(route, envelope, delimiter, strangers) if named else f"{route.match.text} does not match"
            if steps is not None:
                tried = Tried.SKIPPED if why else Tried.MATCHED
                said = why or ", ".join((f"{route.match.text} matches", *route.conditions))
                steps.append(Step(route.rule, str(each), tried, said, conditional=named and bool(route.conditions)))
            if not why:
                return route
    return None


def _unmet(route: Route, envelope: Envelope, delimiter: str, strangers: bool) -> str:
    """Which condition does not hold; empty where all do."""
    client = envelope.client
    if route.listener not in ("", client.listener):
        return f"listener {client.listener or '(none)'} is not {route.listener}"
    if route.clients and not inside(client.ip, route.clients):
        return f"client {client.ip} is not in {_listed(route.clients)}"
    if route.sender is None:
        return ""
    if strangers:
        return f"its condition sender {route.sender.text} permits nobody, for senders are forged"
    sent = _sent_by(route.sender, envelope.reverse_path, delimiter)
    return "" if sent else f"sender {envelope.reverse_path or '<>'} is not {route.sender.text}"


def _sent_by(match: Match, sender: Address | None, delimiter: str) -> bool:
    """Raises RouteError."""
    if sender is None:
        return match.form in (Form.ALL, Form.NULL)
    bare = sender.without_detail(delimiter)
    return match.holds(sender) or (bare is not None and match.holds(bare))


def _listed(networks: tuple[Network, ...]) -> str:
    return ", ".join(map(str, networks))


# What routes say of each other


def covers(wide: Match, narrow: Match) -> bool:
    """Whether `wide` certainly holds wherever `narrow` does. Raises RouteError."""
    if wide.form is Form.ALL or (wide.form, wide.key) == (narrow.form, narrow.key):
        return True
    match narrow.form:
        case Form.ADDRESS:
            return wide.holds(Address.parse(narrow.text))
        case Form.DOMAIN:
            return wide.form is Form.BELOW and narrow.key.endswith(f".{wide.key}")
        case Form.BELOW:
            return wide.form is Form.BELOW and narrow.key.endswith(f".{wide.key}")
        case Form.ALL | Form.PATTERN | Form.NULL:
            return False
        case _:
            assert_never(narrow.form)


def shadows(earlier: Route, later: Route) -> bool:
    """Whether `earlier` certainly takes everything that `later`, behind it, would. Raises RouteError."""
    return (
        covers(earlier.match, later.match)
        and earlier.listener in ("", later.listener)
        and (not earlier.clients or (bool(later.clients) and _within(later.clients, earlier.clients)))
        and (
            earlier.sender is None
            or earlier.sender.form is Form.ALL
            or (later.sender is not None and covers(earlier.sender, later.sender))
        )
    )


def _within(networks: tuple[Network, ...], others: tuple[Network, ...]) -> bool:
    """Whether each of the networks is inside one of the others."""
    return all(any(_part_of(network, other) for other in others) for network in networks)


def _part_of(network: Network, other: Network) -> bool:
    match network, other:
        case (IPv4Network(), IPv4Network()):
            return network.subnet_of(other)
        case (IPv6Network(), IPv6Network()):
            return network.subnet_of(other)
        case _:
            return False


_NOBODYS = tuple(
    map(Address.parse, ("a8f3@probe-7c1e.invalid", "x@y.test", "someone.else+tag@mail.probe-7c1e.example"))
)
"""Addresses that no route has a reason to name."""
_IPV4, _IPV6 = IPv4Network("0.0.0.0/0"), IPv6Network("2000::/3")
"""Where strangers are: of IPv6 in what is given out (RFC 4291 2.4)."""


def opens(route: Route, listeners: Mapping[str, Listener]) -> str:
    """The inbound listener by which the route lets anyone send anywhere, an open relay; empty where it does not.

    A sender condition permits nobody. Networks keep strangers out, and so does a listener that is not inbound.
    """
    through = [name for name, each in listeners.items() if each.role is Role.INBOUND and route.listener in ("", name)]
    if not through or route.sender is not None or (route.clients and not _everybody(route.clients)):
        return ""
    return through[0] if any(_names(route.match, each) for each in _NOBODYS) else ""


def _everybody(networks: tuple[Network, ...]) -> bool:
    four = collapse_addresses(each for each in networks if isinstance(each, IPv4Network))
    six = collapse_addresses(each for each in networks if isinstance(each, IPv6Network))
    return any(_IPV4.subnet_of(each) for each in four) or any(_IPV6.subnet_of(each) for each in six)


def _names(match: Match, address: Address) -> bool:
    try:
        return match.holds(address)
    except RouteError:
        return False
