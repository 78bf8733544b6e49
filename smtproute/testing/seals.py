"""Seals: whether what is sealed and signed on a copy that arrived is valid."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import replace

from smtproute.core.lookup import Lookup
from smtproute.core.settings import Authentication
from smtproute.mailauth import arc, dkim
from smtproute.mailauth.dkim import DkimResult
from smtproute.mailauth.sets import survey
from smtproute.testing.scenarios.outcome import Copy, Seal

__all__ = ["judged"]

_BOUNDS = Authentication()


async def judged(copy: Copy, lookup: Lookup, pool: Executor) -> Copy:
    """The copy with its newest seal, and with whose DKIM signatures on it verify, by the keys that DNS has now."""
    if copy.content is None:
        return copy
    seal = None
    found = survey(copy.content, _BOUNDS).sets
    instances = await arc.instances(copy.content, lookup, pool, _BOUNDS, copy.at) if found else ()
    if instances:
        newest = instances[-1]
        selector = found[-1].seal.tags.get(b"s", b"").decode("utf-8", "replace")
        fault = newest.seal_fault or newest.signature_fault
        seal = Seal(newest.number, newest.status, newest.sealer, selector, fault)
    signatures = await dkim.check(copy.content, lookup, pool, _BOUNDS, copy.at)
    signed = dict.fromkeys(each.domain.lower() for each in signatures if each.result is DkimResult.PASS)
    return replace(copy, seal=seal, signed=tuple(signed))
