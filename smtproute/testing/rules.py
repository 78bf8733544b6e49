"""Rules: what a scripted server does, at which verb, for whom, how often and when; and which of them acts now.

The shape is that of James mock-smtp-server's behaviours: a command, a condition, a response, a number of answers.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import pcre2

from smtproute.config.schema import close
from smtproute.core.address import Address, AddressError
from smtproute.core.aliases import compile_pattern
from smtproute.core.routes import Form, Match, RouteError, parse_match, parse_sender
from smtproute.world import Clock

__all__ = [
    "Action",
    "Drop",
    "HalfClose",
    "Hang",
    "Moment",
    "Mute",
    "Plaintext",
    "Rate",
    "Raw",
    "Reset",
    "Rule",
    "Script",
    "Slow",
    "Verb",
    "Wait",
    "expression",
    "on",
]

_REPLY = re.compile(r"[2-5]\d\d( |-|$)")
GREYLISTED = "451 4.7.1 Greylisted, come back later"
TOO_MANY = "421 4.7.0 Too many, come back later"


class Verb(StrEnum):
    """Where a rule acts."""

    CONNECT = "CONNECT"
    """The greeting; argument: the client's address."""
    EHLO = "EHLO"
    HELO = "HELO"
    LHLO = "LHLO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    """Argument: the mechanism, and the initial response if it came with one."""
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    CONTENT = "CONTENT"
    """After the dot; argument: the message, as latin-1 (empty with `Rule.after`). In LMTP it acts once for each
    recipient that was taken, and the argument is the recipient."""
    RSET = "RSET"
    NOOP = "NOOP"
    QUIT = "QUIT"


@dataclass(frozen=True, slots=True)
class Raw:
    """These octets in place of a reply."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Break the connection (TCP RST)."""


@dataclass(frozen=True, slots=True)
class HalfClose:
    """Close our side of the connection (TCP FIN), and read on, until the client goes away."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Say nothing more, and read nothing more, until the server ends."""


@dataclass(frozen=True, slots=True)
class Mute:
    """Say nothing more, and read on, until the client goes away."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Go on after so many seconds, or when the event is set."""

    until: float | asyncio.Event


@dataclass(frozen=True, slots=True)
class Slow:
    """What is said from here on at this verb, the standard reply too, goes octet by octet, so many a second."""

    octets: float


@dataclass(frozen=True, slots=True)
class Plaintext:
    """At STARTTLS: say that TLS may begin, answer the client's handshake with a reply in plain text, and go on so."""


Action = str | Raw | Drop | Reset | HalfClose | Hang | Mute | Wait | Slow | Plaintext
"""A text is a reply, "550 5.1.1 No such user"; further lines of it come after "\\n"."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in any so many seconds."""

    most: int
    seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Rule:
    """Actions at a verb, in order. Where none of them answers or closes, the standard reply follows.

    It acts where all of its conditions hold. The first rule that acts is the only one.
    """

    verb: Verb
    actions: tuple[Action, ...]
    match: str = ""
    """A regular expression (PCRE2) that the command's argument must hold (case does not matter)."""
    times: int | None = None
    """How many times it acts; None: always."""
    after: int = 0
    """At CONTENT: act once so many octets have come, before the dot. A reply given then is the only one."""
    sender: Match | None = None
    """Of the transaction; from MAIL on."""
    recipient: Match | None = None
    """At RCPT the one that is asked for; later any of those that were taken, in LMTP at CONTENT the one answered."""
    skip: int = 0
    """How many times it lets pass before it acts."""
    chance: float = 1.0
    """How likely it is to act, from 0 to 1, each time that it could."""
    since: float = 0.0
    """Acts from so many seconds on after the script began."""
    until: float = math.inf
    """Acts until so many seconds after the script began."""
    greylist: float = 0.0
    """Acts for so many seconds after a client, with this sender and these recipients, first came here; 0: always."""
    rate: Rate | None = None
    """Acts on what is more than this."""


_VERBS = f" There are {', '.join(Verb)}."


def on(
    verb: str,
    *actions: Action,
    match: str = "",
    times: int | None = None,
    after: int = 0,
    sender: str = "",
    recipient: str = "",
    skip: int = 0,
    chance: float = 1.0,
    since: float = 0.0,
    until: float = math.inf,
    greylist: float = 0.0,
    rate: Rate | None = None,
) -> Rule:
    """A rule in one line. `sender` and `recipient` are written as in a route: `user@domain`, `*@domain`, ...; the verb
    in either case.

    Where no action is given, greylisting says 451, and a rate 421, after which the connection is over. Raises
    ValueError for a verb that does not exist and for a reply that is none, and core.routes.RouteError.
    """
    known = tuple(each.lower() for each in Verb)
    if verb.lower() not in known:
        raise ValueError(f"there is no verb {verb!r}.{close(verb, known) or _VERBS}")
    for action in actions:
        if isinstance(action, str) and _REPLY.match(action) is None:
            raise ValueError(f'{action!r} is no reply. Write a code and a text: "550 5.1.1 No such user".')
    if not actions and (greylist or rate):
        actions = (GREYLISTED if greylist else TOO_MANY,)
    return Rule(
        Verb(verb.upper()),
        actions,
        match,
        times,
        after,
        parse_sender(sender) if sender else None,
        parse_match(recipient) if recipient else None,
        skip,
        chance,
        since,
        until,
        greylist,
        rate,
    )


def expression(text: str) -> pcre2.Pattern:
    """What `Rule.match` says, with the match limit of routes. Raises core.aliases.PatternError."""
    return compile_pattern(text, pcre2.IGNORECASE | pcre2.UNICODE)


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a dialogue stands when a rule may act."""

    verb: Verb
    argument: str
    client: str
    """Its address, without the port."""
    sender: str | None = None
    """The reverse-path, empty where it is null; None before MAIL."""
    recipients: tuple[str, ...] = ()
    came: tuple[int, int] | None = None
    """In the middle of a content: how many octets of it had come when rules were last asked, and how many now."""

    @property
    def correspondents(self) -> tuple[str | None, tuple[str, ...]]:
        """What stays the same when a client comes back."""
        return self.sender, self.recipients


@dataclass(slots=True)
class _Counted:
    """A rule, and what it has seen so far."""

    rule: Rule
    pattern: pcre2.Pattern
    """Of `Rule.match`."""
    let_pass: int = 0
    acted: int = 0
    drawn: Counter[tuple[str | None, tuple[str, ...]]] = field(default_factory=Counter)
    first: dict[tuple[str, str | None, tuple[str, ...]], float] = field(default_factory=dict)
    """When each client, sender and recipients came first."""
    recent: deque[float] = field(default_factory=deque)
    """When each of those came that were within the rate."""


class Script:
    """Rules in order, and how often each has acted."""

    def __init__(self, rules: Sequence[Rule], *, seed: int, clock: Clock) -> None:
        """`seed` decides what is left to chance: for each rule, sender and recipients on its own, so that what happens
        to them does not hang on what else comes meanwhile, and in which order.

        Raises core.aliases.PatternError for a `match` that does not compile."""
        self._rules = [_Counted(rule, expression(rule.match)) for rule in rules]
        self._seed = seed
        self._clock = clock
        self._began = clock.monotonic()

    def acting(self, moment: Moment, note: Callable[[str], None] | None = None) -> Rule | None:
        """The rule that acts now, and so counts. `note` is told of a pattern that passed its match limit: its rule
        does not act."""
        now = self._clock.monotonic()
        for number, counted in enumerate(self._rules):
            if (
                _named(counted, moment, note)
                and counted.rule.since <= now - self._began < counted.rule.until
                and (counted.rule.times is None or counted.acted < counted.rule.times)
                and _young(counted, moment, now)
                and _beyond(counted, now)
                and _skipped(counted)
                and self._drawn(number, counted, moment)
            ):
                counted.acted += 1
                return counted.rule
        return None

    def _drawn(self, number: int, counted: _Counted, moment: Moment) -> bool:
        """Whether chance has it act."""
        if counted.rule.chance >= 1:
            return True
        who = moment.correspondents
        counted.drawn[who] += 1
        return random.Random(f"{self._seed} {number} {who} {counted.drawn[who]}").random() < counted.rule.chance


def _named(counted: _Counted, moment: Moment, note: Callable[[str], None] | None) -> bool:
    """Whether the rule speaks of such a moment at all."""
    rule = counted.rule
    due = rule.after == 0 if moment.came is None else moment.came[0] < rule.after <= moment.came[1]
    if not due or rule.verb is not moment.verb:
        return False
    try:
        return (
            (not rule.match or counted.pattern.search(moment.argument.encode()) is not None)
            and (rule.sender is None or (moment.sender is not None and _holds(rule.sender, moment.sender)))
            and (rule.recipient is None or any(_holds(rule.recipient, each) for each in moment.recipients))
        )
    except pcre2.LibraryError as error:
        fault = f"{rule.match}: {error}"
    except RouteError as error:
        fault = str(error)
    if note is not None:
        note(f"a rule at {rule.verb} does not act: {fault}")
    return False


def _holds(match: Match, path: str) -> bool:
    """Raises core.routes.RouteError where a pattern passed its match limit."""
    if match.form is Form.ALL:
        return True
    try:
        return match.holds(Address.parse(path)) if path else match.form is Form.NULL
    except AddressError:
        return False


def _young(counted: _Counted, moment: Moment, now: float) -> bool:
    """Whether greylisting, if any, still turns them away."""
    if not counted.rule.greylist:
        return True
    first = counted.first.setdefault((moment.client, *moment.correspondents), now)
    return now - first < counted.rule.greylist


def _beyond(counted: _Counted, now: float) -> bool:
    """Whether this is more than the rate, if any."""
    rate, recent = counted.rule.rate, counted.recent
    if rate is None:
        return True
    while recent and now - recent[0] >= rate.seconds:
        recent.popleft()
    if len(recent) >= rate.most:
        return True
    recent.append(now)
    return False


def _skipped(counted: _Counted) -> bool:
    """Whether enough have passed."""
    if counted.let_pass < counted.rule.skip:
        counted.let_pass += 1
        return False
    return True
