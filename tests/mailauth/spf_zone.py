"""A Lookup over a mapping, in which SPF is tested."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any

from smtproute.core.lookup import Unanswered
from smtproute.mailauth import spf

TIMEOUT = "TIMEOUT"
Names = Mapping[str, Mapping[str, Sequence[str | bytes] | str] | str]


class ZoneLookup:
    """`names` as testing.zone has them; TIMEOUT in place of a type's values, or of a whole name. It keeps what was
    asked."""

    def __init__(self, names: Names) -> None:
        self.names = {name.lower().removesuffix("."): types for name, types in names.items()}
        self.asked: list[tuple[str, str]] = []

    async def texts(self, name: str) -> tuple[bytes, ...]:
        return tuple(text if isinstance(text, bytes) else text.encode() for text in self._found(name, "TXT"))

    async def addresses(self, name: str, version: int) -> tuple[str, ...]:
        return tuple(self._found(name, "AAAA" if version == 6 else "A"))

    async def exchanges(self, name: str) -> tuple[str, ...]:
        return tuple(value.split()[1] for value in sorted(self._found(name, "MX"), key=lambda v: int(v.split()[0])))

    async def pointers(self, ip: str) -> tuple[str, ...]:
        return tuple(self._found(ip_address(ip).reverse_pointer, "PTR"))

    def _found(self, name: str, type: str) -> Sequence[Any]:
        self.asked.append((name, type))
        for _ in range(10):
            types = self.names.get(name.lower().removesuffix("."), {})
            found = types if isinstance(types, str) else types.get(type, ())
            if found == TIMEOUT:
                raise Unanswered(f"{name}: timeout")
            if found or isinstance(types, str) or "CNAME" not in types:
                return found
            (name,) = types["CNAME"]
        return ()


def evaluated(
    names: Names | ZoneLookup,
    ip: str = "192.0.2.1",
    sender: str = "joe@example.com",
    helo: str = "mail.example.com",
    domain: str | None = None,
) -> spf.Spf:
    """What `spf.evaluate` says, in a loop and a pool of its own."""
    lookup = names if isinstance(names, ZoneLookup) else ZoneLookup(names)
    with ThreadPoolExecutor(1) as pool:
        asked = spf.evaluate(
            ip,
            domain or sender.rpartition("@")[2],
            sender,
            helo,
            lookup,
            pool,
            "receiver.example",
            explained=True,
        )
        return asyncio.run(asked)
