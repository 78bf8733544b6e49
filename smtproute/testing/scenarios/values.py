"""Values: what a scenario's keys may be. Text becomes what it stands for; what is wrong with it is a ValueError that
says so, with the mend.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, PlainValidator, WithJsonSchema

from smtproute.config.schema import Name
from smtproute.core.address import Address, AddressError, Domain, written_ip
from smtproute.testing.pattern import Pattern

__all__ = [
    "Config",
    "DomainName",
    "Email",
    "FilePath",
    "Host",
    "Hour",
    "Ip",
    "Login",
    "Recipient",
    "RelayName",
    "ReversePath",
    "Route",
    "Sender",
    "Text",
    "Texts",
    "referred",
]

_REFERENCE = re.compile(r"\{([^{}]+)\.sender\}")

_PLACES = ("mailbox", "endpoint", "capture", "held", "bounce")


def referred(text: str) -> str | None:
    """Of which message this is the reverse-path, by number or name; None where it is an address."""
    found = _REFERENCE.fullmatch(text)
    return None if found is None else found[1]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("text is wanted. Write it in quotes.")  # noqa: TRY004 (pydantic takes ValueError only)
    return value


def _address(value: object) -> Address:
    try:
        return Address.parse(_text(value))
    except AddressError as error:
        raise ValueError(f'{error}. Write it as "name@example.org".') from None


def _sender(text: str) -> str:
    return text if not text or referred(text) is not None else _mailbox(text)


def _reverse_path(text: str) -> str:
    return text and str(_address(text))


def _recipient(text: str) -> str:
    if text.lower() == "postmaster" or referred(text) is not None:
        return text
    return _mailbox(text)


def _mailbox(text: str) -> str:
    if text.startswith("{"):
        raise ValueError('no reference. Write "{1.sender}", with the number or the name of an earlier message.')
    return str(_address(text))


def _route(text: str) -> str:
    """What is called `endpoint NAME ADDRESS`, or a place and an address."""
    place, _, address = text.partition(" ")
    endpoint = ""
    if place == "endpoint":
        endpoint, _, address = address.partition(" ")
    blank = " " in address and not address.startswith('"')
    if place not in _PLACES or not address or blank or bool(endpoint) is not (place == "endpoint"):
        raise ValueError('no route. Write "mailbox name@example.org" or "endpoint external name@there.example".')
    _address(address)
    return text


def _domain(text: str) -> str:
    try:
        return Domain.parse(text).key
    except AddressError as error:
        raise ValueError(f'{error}. Write it as "example.org".') from None


def _host(text: str) -> str:
    """A host name or an IP address, as stages know them."""
    return written_ip(text) or _domain(text)


def _ip(text: str) -> str:
    ip = written_ip(text)
    if ip is None:
        raise ValueError('an IP address is wanted. Write "203.0.113.9" or "2001:db8::9".')
    return ip


def _pattern(value: object) -> Pattern:
    return Pattern.parse(_text(value))


def _patterns(value: object) -> tuple[Pattern, ...]:
    written = [value] if isinstance(value, str) else value
    if not isinstance(written, list) or not written:
        raise ValueError("a text is wanted, or a list of them.")
    return tuple(map(_pattern, written))


def _config(value: object) -> dict[str, Any] | str:
    if isinstance(value, dict) or (isinstance(value, str) and value):
        return value
    raise ValueError('the configuration is a table, [config], or the path of one: config = "smtproute.toml".')


def _hour(value: object) -> datetime:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    raise ValueError("a time with its zone is wanted. Write it without quotes: 2026-11-22T10:00:00Z.")


def _login(value: object) -> tuple[str, str]:
    match value:
        case [str(user), str(password)]:
            return user, password
    raise ValueError('a name and a password are wanted. Write ["user", "password"].')


def _inside(text: str) -> str:
    """A path that stays in its folder."""
    path = PurePosixPath(text)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in text:
        raise ValueError('a path below the configuration\'s folder is wanted. Write it as "dms/postfix-virtual.cf".')
    return text


_STRING = WithJsonSchema({"type": "string"})
_TEXTS = [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]

Email = Annotated[Address, PlainValidator(_address), WithJsonSchema({"type": "string", "pattern": "@"})]
Text = Annotated[Pattern, PlainValidator(_pattern), _STRING]
Texts = Annotated[tuple[Pattern, ...], PlainValidator(_patterns), WithJsonSchema({"anyOf": _TEXTS})]
DomainName = Annotated[str, AfterValidator(_domain)]
Host = Annotated[str, AfterValidator(_host)]
RelayName = Annotated[Name, _STRING]
Route = Annotated[str, AfterValidator(_route)]
Config = Annotated[
    dict[str, Any] | str, PlainValidator(_config), WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string"}]})
]
Hour = Annotated[datetime, PlainValidator(_hour), WithJsonSchema({"type": "string", "format": "date-time"})]
Ip = Annotated[str, AfterValidator(_ip)]
FilePath = Annotated[str, AfterValidator(_inside)]
Login = Annotated[
    tuple[str, str],
    PlainValidator(_login),
    WithJsonSchema({"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}),
]
ReversePath = Annotated[str, AfterValidator(_reverse_path)]
"""An address, or "" for the null sender."""
Sender = Annotated[str, AfterValidator(_sender)]
"""An address, "" for the null sender, or a reference."""
Recipient = Annotated[str, AfterValidator(_recipient)]
"""An address, "postmaster", or a reference."""
