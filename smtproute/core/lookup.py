"""Lookup: what DNS says, as those ask who judge or check mail."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Lookup", "Unanswered"]


class Unanswered(Exception):
    """A look-up could not be answered for now (SERVFAIL, timeout, refused); the text says why."""


class Lookup(Protocol):
    """DNS alone: no hosts file. What is not there, or is no name that can be asked, is an empty tuple.

    Everything raises Unanswered.
    """

    async def texts(self, name: str) -> tuple[bytes, ...]:
        """The TXT records, the strings of each joined (RFC 6376 3.6.2.2, RFC 7208 3.3)."""
        ...

    async def addresses(self, name: str, version: int) -> tuple[str, ...]:
        """The A records (version 4) or the AAAA records (version 6)."""
        ...

    async def exchanges(self, name: str) -> tuple[str, ...]:
        """The hosts of the MX records as they are written, by rising preference; a null MX (RFC 7505) is "."."""
        ...

    async def pointers(self, ip: str) -> tuple[str, ...]:
        """The names of an IP address: its PTR records, without the last dot."""
        ...
