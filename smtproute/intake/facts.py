"""Facts: gathers what `decide` must know of the world, and decides. The door and `explain` both ask here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from smtproute.core.address import Address
from smtproute.core.decide import Facts, Routing, decide, limited, weighed
from smtproute.core.envelope import Envelope
from smtproute.core.plan import Plan

__all__ = ["Usage", "UsageUnknown", "decided"]

DEADLINE = 5.0
"""Seconds that a client waits at RCPT for mailboxes to be counted."""
AT_ONCE = 16
"""Mailboxes that one recipient has counted at the same time."""


class UsageUnknown(Exception):
    """What a mailbox holds cannot be told; the text says why."""


Usage = Callable[[Address], Awaitable[int]]
"""The octets in the mailbox of an account, as `core.quota` counts them. Raises UsageUnknown."""


async def decided(
    routing: Routing,
    usage: Usage,
    envelope: Envelope,
    recipient: Address | None,
    now: float,
    deadline: float = DEADLINE,
) -> Plan:
    """The plan for one recipient at the time `now`, with the quota of each mailbox that it leads to.

    A mailbox whose usage is not known, or not within `deadline` seconds, is not judged, and a note says so.
    """
    plan = decide(Facts(routing, now=now), envelope, recipient)
    accounts = tuple(dict.fromkeys(limited(plan, routing)))
    if not accounts:
        return plan
    known, unknown = await _gathered(usage, accounts, deadline)
    plan = weighed(plan, Facts(routing, known, now=now), envelope, recipient)
    return replace(plan, notes=(*plan.notes, *unknown))


async def _gathered(usage: Usage, accounts: Sequence[Address], deadline: float) -> tuple[dict[str, int], list[str]]:
    """What each mailbox holds, by Address.key, and a note for each that is not known."""
    known: dict[str, int] = {}
    why: dict[str, str] = {}
    bound = asyncio.Semaphore(AT_ONCE)

    async def ask(account: Address) -> None:
        async with bound:
            try:
                known[account.key] = await usage(account)
            except UsageUnknown as unknown:
                why[account.key] = str(unknown)

    try:
        async with asyncio.timeout(deadline), asyncio.TaskGroup() as asking:
            for account in accounts:
                asking.create_task(ask(account))
    except TimeoutError:
        pass
    late = f"it is not counted within {deadline:g} seconds"
    notes = [
        f"the quota of {account} is not judged: {why.get(account.key, late)}"
        for account in accounts
        if account.key not in known
    ]
    return known, notes
