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
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self, TypedDict, assert_never
import ssl

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
from smtproute.config.schema import Credential, Many, Pause, Size
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
    on,
)
from smtproute.testing.tables import Table, validated
from smtproute.testing.upstream import EXTENSIONS

__all__ = ["Options", "RuleTable", "Tls", "UpstreamTable", "options", "read", "rules"]

_NO_SENDER = (Verb.CONNECT, Verb.EHLO, Verb.HELO, Verb.LHLO, Verb.STARTTLS, Verb.AUTH)
"""Where nobody has said yet whose mail comes."""


class Tls(StrEnum):
    """How a server has TLS."""

    STARTTLS = "starttls"
    IMPLICIT = "implicit"
    NONE = "none"


class Certificate(StrEnum):
    """What a server's certificate is like."""

    GOOD = "good"
    EXPIRED = "expired"
    WRONG_NAME = "wrong-name"
    SELF_SIGNED = "self-signed"


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
        re.compile(text)
    except re.error as error:
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


def _count(value: int) -> int:
    if value < 1:
        raise ValueError("a whole number is wanted, 1 or more.")
    return value


_Text = WithJsonSchema({"type": "string"})
_Duration = Annotated[
    Pause, WithJsonSchema({"type": ["string", "integer"], "pattern": "^[0-9]+ ?[smhd]$", "examples": ["2s", "5m"]})
]
_Size = Annotated[Size, WithJsonSchema({"type": ["string", "integer"], "examples": ["100KB", "1MiB"]})]
_Count = Annotated[int, AfterValidator(_count), Field(json_schema_extra={"minimum": 1})]


class RuleTable(Table):
    """What the server does at one verb: where every condition holds, it does what is written, in the order of the
    keys below. The first rule whose conditions hold is the only one."""

    at: Annotated[Verb, BeforeValidator(_verb), Field(strict=False)]
    """The verb; CONNECT is the greeting, CONTENT the end of the message (in LMTP, once for each recipient)."""
    sender: Annotated[str, AfterValidator(_sender)] | None = Field(None, alias="from")
    """Whose mail: user@domain, *@domain, *@*.domain, *, regex:PATTERN or <>, the null sender."""
    recipient: Annotated[str, AfterValidator(_recipient)] | None = Field(None, alias="to")
    """To whom: user@domain, *@domain, *@*.domain, * or regex:PATTERN; after RCPT, any recipient that was taken."""
    match: Annotated[str, AfterValidator(_expression)] = ""
    """A regular expression that the verb's argument must hold; case does not matter. At CONTENT it is the message."""
    octets: _Size | None = None
    """At CONTENT: act as soon as so many octets have come, before the message is complete."""
    skip: Annotated[int, AfterValidator(_count), Field(json_schema_extra={"minimum": 1})] | None = None
    """How many times to let pass first."""
    times: _Count | None = None
    """How many times to act; without it, always."""
    chance: Annotated[float, AfterValidator(_share), Field(strict=False)] = 1.0
    """How likely it is to act, from 0 to 1; the server's seed decides."""
    since: _Duration | None = None
    """Act from so long on after the server began."""
    until: _Duration | None = None
    """Act until so long after the server began."""
    greylist: _Duration | None = None
    """Act for so long after a client, sender and recipient first came; without a reply, 451."""
    rate: Annotated[Rate, PlainValidator(_rate), WithJsonSchema({"type": "string", "examples": ["5/s"]})] | None = None
    """Act on what is more than this; without a reply, 421 and the connection is closed."""
    delay: _Duration | None = None
    """Wait so long."""
    slow: Annotated[float, AfterValidator(_positive), Field(strict=False)] | None = None
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
    def _known_by_then(cls, value: str | None, info: ValidationInfo) -> str | None:
        at = info.data.get("at")
        if at in _NO_SENDER or (at is Verb.MAIL and info.field_name == "recipient"):
            raise ValueError(f"at {at} that is not known yet. Act at {'RCPT' if info.field_name != 'sender' else 'MAIL'}.")
        return value
