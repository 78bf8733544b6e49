"""A scripted server as text: what a file for `smtproute upstream` says.

    tls = "none"

    [[rule]]
    at = "RCPT"
    to = "bob@there.example"
    skip = 1
    times = 2
    reply = "451 4.7.1 Come back"

    [[rule]]
    at = "CONTENT"
    chance = 0.3
    then = "drop"

`UpstreamTable` and `RuleTable` tell of each key.
"""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self, TypedDict, assert_never

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from smtproute.config import files
from smtproute.config.document import Document, Mistake, parse
from smtproute.config.schema import Credential, Many
from smtproute.config.validated import validated
from smtproute.core.aliases import PatternError
from smtproute.core.routes import RouteError, parse_match, parse_sender
from smtproute.testing.certificates import Authority, CertificateFault
from smtproute.testing.rules import (
    Action,
    Drop,
    HalfClose,
    Hang,
    Mute,
    Plaintext,
    Rate,
    Raw,
    Reset,
    Rule,
    Slow,
    Verb,
    Wait,
    expression,
    on,
)
from smtproute.testing.tables import Number, Octets, Pause, Table
from smtproute.testing.upstream import EXTENSIONS

__all__ = ["Options", "RuleTable", "Tls", "UpstreamTable", "options", "read", "rules"]

_NO_SENDER = (Verb.CONNECT, Verb.EHLO, Verb.HELO, Verb.LHLO, Verb.STARTTLS, Verb.AUTH)
"""Where nobody has said yet whose mail comes."""


class Tls(StrEnum):
    """How a server has TLS."""

    STARTTLS = "starttls"
    IMPLICIT = "implicit"
    NONE = "none"


class Then(StrEnum):
    """What becomes of the connection."""

    DROP = "drop"
    RESET = "reset"
    HALF_CLOSE = "half-close"
    HANG = "hang"
    MUTE = "mute"
    PLAINTEXT = "plaintext"


def _verb(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _recipient(text: str) -> str:
    try:
        parse_match(text)
    except RouteError as error:
        raise ValueError(f"{error}.") from None
    return text


def _sender(text: str) -> str:
    try:
        parse_sender(text)
    except RouteError as error:
        raise ValueError(f'{error}. "<>" is the null sender.') from None
    return text


def _expression(text: str) -> str:
    try:
        expression(text)
    except PatternError as error:
        raise ValueError(f"no regular expression: {error}. A \\ before a sign means the sign itself.") from None
    return text


def _reply(text: str) -> str:
    """Lines without those that end the text, as TOML's long texts have one."""
    text = text.rstrip("\n")
    if re.fullmatch(r"[2-5][0-9][0-9] [^\0-\x09\x0b-\x1f\x7f]*", text) is None:
        raise ValueError('no reply. Write "550 5.1.1 No such user"; further lines without a code, after "\\n".')
    return text


def _octets(text: str) -> str:
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError('a sign here is one octet. Write octets as "\\u0000" to "\\u00ff".') from None
    return text


def _extension(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*(?: [!-~]+)*", text) is None:
        raise ValueError('no extension (RFC 5321 4.1.1.1). Write it as EHLO shows it: "SIZE 1000000".')
    return text


def _rate(value: object) -> Rate:
    units = {"s": 1, "m": 60, "h": 3600}
    found = re.fullmatch(r"([1-9][0-9]{0,8}) ?/ ?([smh])", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError('a rate is wanted, one at least. Write "5/s", "100/m" or "1000/h".')
    return Rate(int(found[1]), units[found[2]])


def _positive(value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError("a number above 0 is wanted.")
    return value


def _share(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError("a number from 0 to 1 is wanted. Write 0.3 for three in ten.")
    return value


class RuleTable(Table):
    """What the server does at one verb: where every condition holds, it does what is written, in the order of the
    keys below. The first rule whose conditions hold is the only one."""

    at: Annotated[Verb, Field(strict=False), BeforeValidator(_verb)]
    """The verb; CONNECT is the greeting, CONTENT the end of the message (in LMTP, once for each recipient)."""
    sender: Annotated[str, AfterValidator(_sender)] | None = Field(None, alias="from")
    """Whose mail: user@domain, *@domain, *@*.domain, *, regex:PATTERN or <>, the null sender."""
    recipient: Annotated[str, AfterValidator(_recipient)] | None = Field(None, alias="to")
    """To whom: user@domain, *@domain, *@*.domain, * or regex:PATTERN; after RCPT, any recipient that was taken."""
    match: Annotated[str, AfterValidator(_expression)] = ""
    """A regular expression (PCRE2) that the verb's argument must hold; case does not matter. At CONTENT that is the
    message."""
    octets: Octets | None = None
    """At CONTENT: act as soon as so many octets have come, before the message is complete."""
    skip: Number | None = None
    """How many times to let pass first."""
    times: Number | None = None
    """How many times to act; without it, always."""
    chance: Annotated[float, AfterValidator(_share)] = 1.0
    """How likely it is to act, from 0 to 1; the server's seed decides."""
    since: Pause | None = None
    """Act from so long on after the server began."""
    until: Pause | None = None
    """Act until so long after the server began."""
    greylist: Pause | None = None
    """Act for so long after a client, sender and recipient first came; without a reply, 451."""
    rate: Annotated[Rate, PlainValidator(_rate), WithJsonSchema({"type": "string", "examples": ["5/s"]})] | None = None
    """Act on what is more than this; without a reply, 421 and the connection is closed."""
    delay: Pause | None = None
    """Wait so long."""
    slow: Annotated[float, AfterValidator(_positive)] | None = None
    """Say what follows octet by octet, so many a second."""
    reply: Annotated[str, AfterValidator(_reply)] | None = None
    """In place of the standard reply. Further lines come after a line break, without the code."""
    garbage: Annotated[str, AfterValidator(_octets)] | None = None
    """Octets as they are, one for each character up to U+00FF, in place of a reply or after it."""
    then: Annotated[Then, Field(strict=False)] | None = None
    """What becomes of the connection: drop closes it, reset breaks it, half-close closes our side and reads on, hang
    neither speaks nor reads any more, mute reads on, plaintext (at STARTTLS) promises TLS and has none."""

    @field_validator("sender", "recipient")
    @classmethod
    def _known(cls, value: str | None, info: ValidationInfo) -> str | None:
        at, first = info.data.get("at"), Verb.MAIL if info.field_name == "sender" else Verb.RCPT
        if at in _NO_SENDER or (at is Verb.MAIL and first is Verb.RCPT):
            raise ValueError(f"nobody knows that at {at} yet. Act at {first} or later.")
        return value

    @field_validator("octets")
    @classmethod
    def _in_the_content(cls, value: int | None, info: ValidationInfo) -> int | None:
        if info.data.get("at", Verb.CONTENT) is not Verb.CONTENT:
            raise ValueError('only a message has so many. Write at = "CONTENT".')
        if info.data.get("match"):
            raise ValueError("there is nothing to match yet. Leave match or octets out.")
        return value

    @field_validator("until")
    @classmethod
    def _later(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and value <= (info.data.get("since") or 0.0):
            raise ValueError("it ends before it begins. Write a longer time than since has.")
        return value

    @field_validator("then")
    @classmethod
    def _at_starttls(cls, value: Then | None, info: ValidationInfo) -> Then | None:
        if value is Then.PLAINTEXT and info.data.get("at", Verb.STARTTLS) is not Verb.STARTTLS:
            raise ValueError('TLS begins at STARTTLS only. Write at = "STARTTLS".')
        return value

    @model_validator(mode="after")
    def _does(self) -> Self:
        said = (self.greylist, self.rate, self.delay, self.slow, self.reply, self.garbage, self.then)
        if all(each is None for each in said):
            raise ValueError('it does nothing. Write reply = "451 4.7.1 Come back", or delay, slow, garbage or then.')
        return self


class UpstreamTable(Table):
    """A server of a test. Where no rule says otherwise it is strict, and takes everything."""

    lmtp: bool = False
    """Speak LMTP in place of SMTP."""
    tls: Annotated[Tls, Field(strict=False)] = Tls.STARTTLS
    """starttls offers it, implicit begins with it, none has none."""
    certificate: Annotated[CertificateFault, Field(strict=False)] | None = None
    """What is wrong with its certificate; default: nothing, but that clients do not know its authority."""
    users: dict[str, Annotated[Credential, WithJsonSchema({"type": "string"})]] | None = None
    """Passwords by name. Where they are written, clients must log in before MAIL, under TLS."""
    extensions: Many[Annotated[str, AfterValidator(_extension)]] = EXTENSIONS
    """What EHLO offers, beside STARTTLS and AUTH."""
    seed: int | None = None
    """Decides all that rules leave to chance; without it, each run has another one, and shows it."""
    rule: Many[RuleTable] = ()
    """What it does, where it does not simply take the mail."""

    @field_validator("certificate", "users")
    @classmethod
    def _under_tls(cls, value: object, info: ValidationInfo) -> object:
        if info.data.get("tls") is Tls.NONE:
            wanted = "clients log in" if info.field_name == "users" else "there is a certificate"
            raise ValueError(f'{wanted} under TLS only. Write tls = "starttls", or leave {info.field_name} out.')
        return value


class Options(TypedDict):
    """What `testing.upstream.Upstream` is made with, beside its rules."""

    tls: ssl.SSLContext | None
    implicit: bool
    users: dict[str, str] | None
    lmtp: bool
    extensions: tuple[str, ...]
    seed: int | None


def options(table: UpstreamTable, authority: Authority, name: str, more: Sequence[str] = ()) -> Options:
    """What the server of a table is made with. Its certificate is for the host `name`, and for `more` names and IPs.

    Raises AddressError for a name that is none.
    """
    return {
        "tls": None if table.tls is Tls.NONE else authority.context(name, fault=table.certificate, more=more),
        "implicit": table.tls is Tls.IMPLICIT,
        "users": table.users,
        "lmtp": table.lmtp,
        "extensions": table.extensions,
        "seed": table.seed,
    }


def rules(table: UpstreamTable) -> tuple[Rule, ...]:
    """The rules of a table, in its order."""
    return tuple(
        on(
            each.at,
            *_actions(each),
            match=each.match,
            times=each.times,
            after=each.octets or 0,
            sender=each.sender or "",
            recipient=each.recipient or "",
            skip=each.skip or 0,
            chance=each.chance,
            since=each.since or 0.0,
            until=math.inf if each.until is None else each.until,
            greylist=each.greylist or 0.0,
            rate=each.rate,
        )
        for each in table.rule
    )


def read(path: Path) -> UpstreamTable:
    """The script in a file. Raises config.document.Mistake."""
    try:
        octets = files.read(path)
    except OSError as error:
        raise Mistake(f"{path}: cannot be read: {(error.strerror or 'error').lower()}.") from None
    document = Document(str(path), path.parent, parse(octets, str(path)))
    if {"title", "message", "explain"}.intersection(document.tables):
        raise Mistake(f"{path}: a scenario, and no script of one server. Play it: smtproute test {path}")
    return validated(UpstreamTable, document)


def _actions(table: RuleTable) -> list[Action]:
    actions: list[Action] = []
    if table.delay is not None:
        actions.append(Wait(table.delay))
    if table.slow is not None:
        actions.append(Slow(table.slow))
    if table.reply is not None:
        actions.append(table.reply)
    if table.garbage is not None:
        actions.append(Raw(table.garbage.encode("latin-1")))
    if table.then is not None:
        actions.append(_last(table.then))
    return actions


def _last(then: Then) -> Action:
    match then:
        case Then.DROP:
            return Drop()
        case Then.RESET:
            return Reset()
        case Then.HALF_CLOSE:
            return HalfClose()
        case Then.HANG:
            return Hang()
        case Then.MUTE:
            return Mute()
        case Then.PLAINTEXT:
            return Plaintext()
        case _:
            assert_never(then)
