"""Closer: a closer look at the signatures of a message than a verdict needs, for people who ask why."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

from smtproute.core.lookup import Lookup, Unanswered
from smtproute.core.settings import Authentication
from smtproute.mailauth.arc import Chain, instances
from smtproute.mailauth.diagnosis import diagnose
from smtproute.mailauth.dkim import DkimResult, Signature
from smtproute.mailauth.header import opened
from smtproute.mailauth.keys import chosen
from smtproute.mailauth.sets import survey
from smtproute.mailauth.signature import key_name

__all__ = ["Closer", "Facts"]

_WORK = 48 << 20
"""Octets that the closer look at all broken signatures of a message may cost, each what the message has and more."""
_MORE = 4 << 20
_NO_CLOSER = "What was changed was not looked for: the broken signatures before this one took all the work it may cost."

Facts = dict[str, Any]
"""One finding, as `smtproute verify --json` prints it."""


class Closer:
    """What was found about one message, and the changes that broke its signatures."""

    def __init__(self, message: bytes, lookup: Lookup, pool: Executor, bounds: Authentication, at: float) -> None:
        """`at` is when the message was judged, in seconds since the epoch."""
        self._message = message
        self._lookup = lookup
        self._pool = pool
        self._bounds = bounds
        self._at = at
        self._left = _WORK

    async def signatures(self, found: Sequence[Signature]) -> list[Facts]:
        """Each DKIM-Signature; one that is not there is a result too."""
        if not found:
            return [{"what": "dkim", "result": "none", "reason": "it has no signature"}]
        header = opened(self._message, self._bounds)
        raws = [each.raw(self._message) for each in header.fields if each.name == b"dkim-signature"]
        facts = []
        for number, each in enumerate(found):
            changes: tuple[str, ...] = ()
            if each.result is DkimResult.FAIL and number < min(len(raws), self._bounds.signatures):
                changes = await self._changes(raws[number], f"{each.selector}._domainkey.{each.domain}")
            facts.append(
                {
                    "what": "dkim",
                    "number": number + 1,
                    "result": str(each.result),
                    "reason": each.reason,
                    "domain": each.domain,
                    "selector": each.selector,
                    "identity": each.identity,
                    "algorithm": each.algorithm,
                    "value": each.value,
                    "changes": list(changes),
                }
            )
        return facts

    async def chain(self, chain: Chain) -> list[Facts]:
        """The chain, and each of its sets."""
        facts: list[Facts] = [{"what": "arc", "result": str(chain.status), "reason": chain.reason, "sets": chain.sets}]
        parts = survey(self._message, self._bounds).sets
        judged = await instances(self._message, self._lookup, self._pool, self._bounds, self._at)
        for each, part in zip(judged, parts, strict=True):
            changes: tuple[str, ...] = ()
            if each.signature_fault:
                changes = await self._changes(part.signature.raw, key_name(part.signature.tags))
            facts.append(
                {
                    "what": "arc-set",
                    "instance": each.number,
                    "cv": each.status,
                    "sealer": each.sealer,
                    "seal": "fail" if each.seal_fault else "pass",
                    "seal_reason": each.seal_fault,
                    "signer": each.signer,
                    "signature": "fail" if each.signature_fault else "pass",
                    "signature_reason": each.signature_fault,
                    "changes": list(changes),
                    "results": each.results,
                }
            )
        return facts

    async def _changes(self, signature: bytes, name: str | None) -> tuple[str, ...]:
        self._left -= len(self._message) + _MORE
        if self._left < 0:
            return (_NO_CLOSER,)
        try:
            record = chosen(await self._lookup.texts(name)) if name is not None else None
        except Unanswered:
            record = None
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, diagnose, self._message, signature, record, self._bounds)
