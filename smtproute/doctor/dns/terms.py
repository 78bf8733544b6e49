"""Terms of SPF records, and the look-ups that each costs with all that it includes (RFC 7208 4.6.4)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from smtproute.core.lookup import Lookup, Unanswered

__all__ = ["MOST", "Term", "spf_records", "terms"]

MOST = 100
"""Look-ups that are counted; beyond that nobody follows a record."""

_ALL = re.compile(r"[+?~-]?all", re.I)
_ASKING = re.compile(r"[+?~-]?(a|mx|ptr|exists|include)(?::([^/]+))?(?:/.*)?|(redirect)=(.+)", re.I)


@dataclass(frozen=True, slots=True)
class Term:
    """A mechanism or modifier as it is written."""

    text: str
    lookups: int = 0
    """Its own and those of the records that it brings in, whoever the client is."""
    voids: tuple[str, ...] = ()
    """What finds nothing: itself, or terms of these records."""
    domains: frozenset[str] = frozenset()
    """Those whose records it brings in."""


def spf_records(texts: Iterable[str]) -> list[str]:
    """The SPF records among TXT records (RFC 7208 4.5)."""
    return [text for text in texts if text.lower().split(" ")[0] == "v=spf1"]


async def terms(domain: str, record: str, lookup: Lookup) -> tuple[Term, ...]:
    """The terms of a record in order. What stands behind `all` costs nothing; a name with macros is not followed."""
    return tuple(await _Walk(lookup).terms(domain, record))


class _Walk:
    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._used = 0

    async def terms(self, domain: str, record: str) -> list[Term]:
        written = [text for text in record.split(" ")[1:] if text]
        end = next((at for at, text in enumerate(written) if _ALL.fullmatch(text)), None)
        before = [text for text in written[:end] if end is None or not text.lower().startswith("redirect=")]
        # A redirect comes last, wherever it stands.
        before.sort(key=lambda text: text.lower().startswith("redirect="))
        return [
            *[await self._term(domain, text) for text in before],
            *(Term(text) for text in written if text not in before),
        ]

    async def _term(self, domain: str, text: str) -> Term:
        asking = _ASKING.fullmatch(text)
        if asking is None or self._used >= MOST:
            return Term(text)
        self._used += 1
        kind, name = (asking[1] or asking[3]).lower(), (asking[2] or asking[4] or domain).lower().rstrip(".")
        if "%" in name or kind in ("ptr", "exists"):
            return Term(text, 1)
        try:
            match kind:
                case "a":
                    found: tuple[object, ...] = await self._lookup.addresses(name, 4)
                    found = found or await self._lookup.addresses(name, 6)
                case "mx":
                    found = await self._lookup.exchanges(name)
                case _:
                    return await self._included(text, name)
        except Unanswered:
            return Term(text, 1)
        return Term(text, 1, () if found else (text,))

    async def _included(self, text: str, name: str) -> Term:
        texts = [each.decode("latin-1") for each in await self._lookup.texts(name)]
        below = await self.terms(name, records[0]) if len(records := spf_records(texts)) == 1 else []
        return Term(
            text,
            1 + sum(each.lookups for each in below),
            tuple(void for each in below for void in each.voids) if texts else (text,),
            frozenset((name,)).union(*(each.domains for each in below)),
        )
