"""Judgement: everything that is checked about a message on its way in, all at once, and what follows from it."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from smtproute.core.envelope import Envelope
from smtproute.core.lookup import Lookup
from smtproute.core.policy import Ruling, Seal, rule
from smtproute.core.settings import Authentication, Role
from smtproute.core.verdict import Disposition, Judged, Verdict
from smtproute.mailauth import arc, dkim, dmarc, spf
from smtproute.mailauth.arc import Chain
from smtproute.mailauth.dkim import Signature
from smtproute.mailauth.dmarc import Dmarc, DmarcResult
from smtproute.mailauth.header import looked, opened
from smtproute.mailauth.lookups import Lookups
from smtproute.mailauth.spf import Spf

__all__ = ["Findings", "examine", "judge"]

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found about a message; None where it was not looked for, or where that check died of a fault."""

    ip: str
    """The client's."""
    spf: tuple[Spf, ...] | None = None
    """Of MAIL FROM, then of HELO."""
    signatures: tuple[Signature, ...] | None = None
    dmarc: Dmarc | None = None
    chain: Chain | None = None
    seals: tuple[Seal, ...] = ()
    """Of the chain, where DMARC fails and it may matter; newest first."""
    died: tuple[str, ...] = ()
    """The methods (`spf`, `dkim`, `dmarc`, `arc`) whose checks died of a fault of ours."""
    faults: tuple[str, ...] = ()
    """These faults in full."""

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        return self.told(Ruling())

    def told(self, ruling: Ruling) -> tuple[Verdict, ...]:
        """The verdicts, with what is done where DMARC fails."""
        found = [spf.verdict(each) for each in self.spf or ()]
        found += [dkim.verdict(each) for each in self.signatures or ()]
        if self.signatures is not None and not self.signatures:
            found.append(Verdict("dkim", "none", reason="it has no signature"))
        if self.dmarc is not None:
            found.append(dmarc.verdict(self.dmarc, ruling))
        if self.chain is not None:
            # RFC 8617 10.2: whose chain it is depends on who handed it over.
            found.append(replace(arc.verdict(self.chain), properties=(("smtp.remote-ip", self.ip),)))
        found += [Verdict(method, "temperror", reason="internal error") for method in self.died]
        return tuple(found)


class _Checks:
    """The boundary around each verdict: what a check dies of becomes a fault, and the others go on."""

    def __init__(self) -> None:
        self.died: list[str] = []
        self.faults: list[str] = []

    async def guarded(self, method: str, wanted: bool, check: Callable[[], Awaitable[Found]]) -> Found | None:
        """What comes out of a check; None where it is not wanted, or dies."""
        if not wanted:
            return None
        try:
            return await check()
        except Exception as fault:  # noqa: BLE001 - around a verdict
            self.died.append(method)
            self.faults.append(f"{method}: {''.join(traceback.format_exception(fault))}")
            return None


async def examine(
    message: bytes,
    envelope: Envelope,
    authentication: Authentication,
    lookup: Lookup,
    pool: Executor,
    receiver: str,
    *,
    at: float,
    explained: bool = False,
) -> Findings:
    """Checks what `authentication` wants checked, with one budget of time and look-ups for all of it.

    `receiver` is our host name, `at` when the message came in (seconds since the epoch), `explained` whether a domain
    is asked what it says to those whom its SPF fails. What takes CPU runs in `pool`. Whatever comes in and whatever
    breaks, Findings come out.
    """
    lookups = Lookups(lookup, authentication.timeout, authentication.lookups)
    # What DMARC asks depends on no signature and no record of SPF, so none of these may keep it from its answer.
    policies = Lookups(lookup, authentication.timeout, dmarc.MOST_QUESTIONS)
    checks = _Checks()
    signatures_wanted = authentication.dkim or authentication.arc
    header = await looked(message, pool, partial(opened, bounds=authentication)) if signatures_wanted else None

    async def signed() -> tuple[Signature, ...]:
        return await dkim.check(message, lookups.share(), pool, authentication, at, header)

    async def sealed() -> Chain:
        return await arc.evaluate(message, lookups.share(), pool, authentication, at, header)

    async def sent() -> tuple[Spf, Spf]:
        return await spf.check(envelope, lookups.share(), pool, receiver, explained=explained)

    async with asyncio.TaskGroup() as group:
        by_spf = group.create_task(checks.guarded("spf", authentication.spf, sent))
        by_dkim = group.create_task(checks.guarded("dkim", authentication.dkim, signed))
        by_arc = group.create_task(checks.guarded("arc", authentication.arc, sealed))
        asked = group.create_task(
            checks.guarded("dmarc", authentication.dmarc, lambda: dmarc.discover(message, policies.share(), pool))
        )
    discovery, of_spf, signatures, chain = asked.result(), by_spf.result(), by_dkim.result(), by_arc.result()

    async def together() -> tuple[Dmarc, tuple[Seal, ...]]:
        assert discovery is not None
        found = dmarc.judge(discovery, of_spf or (), signatures)
        if found.result is DmarcResult.FAIL and {"spf", "dkim"} & {*checks.died}:
            found = replace(found, result=DmarcResult.TEMPERROR, asked=Disposition.NONE)
        return found, dmarc.vouchers(found, chain, authentication.trusted_sealers)

    of_dmarc, seals = await checks.guarded("dmarc", discovery is not None, together) or (None, ())
    return Findings(
        envelope.client.ip, of_spf, signatures, of_dmarc, chain, seals, tuple(checks.died), tuple(checks.faults)
    )


async def judge(
    message: bytes,
    envelope: Envelope,
    authentication: Authentication,
    lookup: Lookup,
    pool: Executor,
    receiver: str,
    *,
    at: float,
    chance: float,
) -> Judged:
    """Everything about a message that was received, and what follows.

    `chance` is drawn from 0 to 1, 1 not included; the others are those of `examine`. Of a message that no inbound
    listener has taken only the chain is asked for, which a seal has to know.
    """
    client = envelope.client
    if client.role is not Role.INBOUND:
        authentication = replace(authentication, spf=False, dkim=False, dmarc=False)
    findings = await examine(message, envelope, authentication, lookup, pool, receiver, at=at)
    found = findings.dmarc
    if found is None:
        return Judged(findings.verdicts, faults=findings.faults)
    ruling = rule(authentication, found.asks, findings.seals, chance=chance, exempt=client.trusted)
    reason = f"{ruling.reason}; {found.reason}" if ruling.reason else ""
    return Judged(
        findings.told(ruling), ruling.disposition, ruling.deferred, reason, found.domain, faults=findings.faults
    )
