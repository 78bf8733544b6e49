"""Author: whose address the header From names (RFC 5322 3.6.2)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from smtproute.core.address import Address, AddressError, Domain
from smtproute.core.message import fields

__all__ = ["Author", "author"]

MAX_FIELD = 8 * 1024
"""Octets of a From that is read; a real one has about one hundred."""
MAX_FIELDS = 10
"""From fields that are read, where there should be one."""

_OUTSIDE = re.compile(
    r'(?P<space>\s+)|(?P<open>\()|(?P<mark>[<>,:;])|(?P<text>(?:[^\s"(<>,:;]|"(?:[^"\\]|\\.)*")+)', re.S
)
_COMMENT = re.compile(r"(?P<open>\()|(?P<close>\))|(?P<text>(?:[^()\\]|\\.)+)", re.S)


@dataclass(frozen=True, slots=True)
class Author:
    """The addresses that a message's From names, and why they are not those of one author; "" where they are."""

    addresses: tuple[Address, ...] = ()
    fault: str = ""

    @property
    def domains(self) -> tuple[Domain, ...]:
        """The domains of the addresses, each once."""
        return tuple(dict.fromkeys(address.domain for address in self.addresses))

    @property
    def domain(self) -> Domain | None:
        """The one domain of the author; None where there is a fault."""
        return None if self.fault else self.addresses[0].domain


def author(message: bytes) -> Author:
    """Whom the header From names: one field with addresses of one domain, or a fault.

    A display name is not looked into, whatever it says, and may be written without quotes, as many do.
    """
    found = [each for each in fields(message) if each.name == b"from"]
    if not found:
        return Author(fault="it has no From field")
    addresses: list[Address] = []
    fault = f"it has {len(found)} From fields" if len(found) > 1 else ""
    for each in found[:MAX_FIELDS]:
        value = each.value(message)
        try:
            if len(value) > MAX_FIELD:
                raise AddressError(f"it is longer than {MAX_FIELD} octets")
            addresses += _addresses(_tokens(value.decode("utf-8", "replace")))
        except AddressError as error:
            fault = fault or f"its From cannot be read: {error}"
    if not fault and not addresses:
        fault = "its From names no address"
    if not fault and len({address.domain for address in addresses}) > 1:
        fault = "its From names several domains"
    return Author(tuple(addresses), fault)


def _tokens(text: str) -> list[str]:
    """Words as they stand, and the marks between them; comments are left out. Raises AddressError."""
    tokens: list[str] = []
    depth = at = 0
    while at < len(text):
        token = (_COMMENT if depth else _OUTSIDE).match(text, at)
        if token is None:
            raise AddressError("something in quotes or in a comment does not end")
        at = token.end()
        match token.lastgroup:
            case "open":
                depth += 1
            case "close":
                depth -= 1
            case "text" | "mark" if not depth:
                tokens.append(token[0])
    if depth:
        raise AddressError("a comment does not end")
    return tokens


def _addresses(tokens: Sequence[str]) -> list[Address]:
    """Raises AddressError."""
    found: list[Address] = []
    words: list[str] = []
    bracketed: list[str] | None = None
    inside = False
    for token in (*tokens, ","):
        if inside and bracketed is not None and token not in "<>,:;":
            bracketed.append(token)
        elif inside and token == ">":
            inside = False
        elif inside or token == ">" or (bracketed is not None and token not in ",;"):
            raise AddressError("the brackets are in disorder")
        elif token == "<":
            bracketed, inside = [], True
        elif token == ":":  # it ends the name of a group
            if any("@" in word for word in words):
                raise AddressError("there is an address where the name of a group is expected")
            words = []
        elif token in ",;":
            spec = words if bracketed is None else bracketed
            if bracketed is not None or any("@" in word for word in words):
                found.append(Address.parse(" ".join(spec)))
            words, bracketed = [], None
        else:
            words.append(token)
    return found
