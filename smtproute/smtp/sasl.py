"""SASL: how a client says who it is (RFC 4954, RFC 4616). Responses in, a challenge or the credentials out. No I/O.

Nothing that a client sent stands in an exception's text or in a value's repr.
"""

from __future__ import annotations

import binascii
from base64 import b64encode
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, Self, assert_never

from smtproute.core.reply import Reply
from smtproute.core.settings import Endpoint

__all__ = ["Credentials", "Exchange", "Mechanism", "SaslError", "challenge", "decoded", "exchange"]


_NOT_FOR_ANOTHER = Reply(535, "5.7.8", "Nobody acts for another here: leave the authorization identity empty")


class Mechanism(StrEnum):
    """The mechanisms that are spoken here, in the order in which EHLO offers them."""

    PLAIN = "PLAIN"
    LOGIN = "LOGIN"


class SaslError(ValueError):
    """The exchange cannot go on; `reply` tells the client why, and what to do instead."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who logs in. Clients that know nothing of UTF-8 send passwords in other encodings, so that octets stay."""

    name: str
    """What a client sent that was no UTF-8 is escaped with backslashes."""
    password: bytes = field(repr=False)

    @classmethod
    def of(cls, endpoint: Endpoint) -> Self | None:
        """What we log in with at an endpoint; None where we do not."""
        return cls(endpoint.username, endpoint.password.encode()) if endpoint.username else None


class Exchange(Protocol):
    """One run of a mechanism."""

    def take(self, response: bytes | None) -> bytes | Credentials:
        """The next challenge, or the credentials. `response` is None if there is no initial one. Raises SaslError."""
        ...


def exchange(mechanism: str) -> Exchange:
    """A new run of the mechanism. Raises SaslError."""
    if mechanism not in Mechanism.__members__:
        raise SaslError(Reply(504, "5.5.4", f"This mechanism is not known here: send AUTH {' or '.join(Mechanism)}"))
    chosen = Mechanism(mechanism)
    match chosen:
        case Mechanism.PLAIN:
            return _Plain()
        case Mechanism.LOGIN:
            return _Login()
        case _:
            assert_never(chosen)


class _Plain:
    """RFC 4616: identity to act as, NUL, name, NUL, password."""

    def take(self, response: bytes | None) -> bytes | Credentials:
        if response is None:
            return b""
        parts = response.split(b"\0")
        if len(parts) != 3:
            raise SaslError(Reply(501, "5.5.2", "PLAIN is malformed: send base64 of NUL, name, NUL, password"))
        identity, name, password = parts
        if identity not in (b"", name):
            raise SaslError(_NOT_FOR_ANOTHER)
        return Credentials(_text(name), password)


class _Login:
    """LOGIN, which no RFC describes: the name is asked for, then the password."""

    def __init__(self) -> None:
        self._name: bytes | None = None

    def take(self, response: bytes | None) -> bytes | Credentials:
        if response is None:
            return b"Username:"
        if self._name is None:
            self._name = response
            return b"Password:"
        return Credentials(_text(self._name), response)


def decoded(response: bytes) -> bytes:
    """The octets of a response that stands in base64. Raises SaslError."""
    try:
        return binascii.a2b_base64(response, strict_mode=True)
    except binascii.Error:
        raise SaslError(Reply(501, "5.5.2", "The response is not base64")) from None


def challenge(octets: bytes) -> Reply:
    """A challenge as it is said (RFC 4954 4)."""
    return Reply(334, "", b64encode(octets).decode("ascii"))


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "backslashreplace")
