"""Signatures: whose on a copy that arrived are valid."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import replace

from smtproute.core.lookup import Lookup
from smtproute.core.settings import Authentication
from smtproute.mailauth import dkim
from smtproute.mailauth.dkim import DkimResult
from smtproute.testing.expect import sealing
from smtproute.testing.scenarios.outcome import Copy

__all__ = ["judged"]


async def judged(copy: Copy, lookup: Lookup, pool: Executor) -> Copy:
    """The copy with its ARC chain, and with whose DKIM signatures on it verify, by the keys that DNS has now."""
    if copy.content is None:
        return copy
    chain = await sealing(copy.content, lookup, pool, copy.at)
    signatures = await dkim.check(copy.content, lookup, pool, Authentication(), copy.at)
    signed = dict.fromkeys(each.domain.lower() for each in signatures if each.result is DkimResult.PASS)
    return replace(copy, sealing=chain, signed=tuple(signed))
