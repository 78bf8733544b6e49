"""What is gathered before a decision: whose usage is asked, and what becomes of it where it is not known."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from smtproute.core.address import Address
from smtproute.core.decide import Routing
from smtproute.core.plan import Plan
from smtproute.core.quota import Quota
from smtproute.intake.facts import UsageUnknown, decided
from tests.core.routing import envelope, routing

ALIASES = {
    "all@example.org": "anna@example.org, ben@example.org",
    "keep@example.org": "keep@example.org, me@far.example",
    "away@example.org": "me@far.example",
    "twice@example.org": "anna+1@example.org, anna+2@example.org",
}


def limited(*full: str) -> Routing:
    """Accounts of which these have a quota of 100 octets."""
    made = routing(ALIASES, accounts=("anna@example.org", "ben@example.org", "keep@example.org", "away@example.org"))
    mailboxes = {
        key: replace(mailbox, quota=Quota(100, rule=f"quotas:{key}")) if key in full else mailbox
        for key, mailbox in made.mailboxes.items()
    }
    return replace(made, mailboxes=mailboxes)


class Held:
    """A usage that remembers who asked."""

    def __init__(self, octets: Mapping[str, int]) -> None:
        self.octets = octets
        self.asked: list[str] = []

    async def __call__(self, account: Address) -> int:
        self.asked.append(account.key)
        if account.key not in self.octets:
            raise UsageUnknown("the disk is gone")
        return self.octets[account.key]


async def plan(made: Routing, held: Held, recipient: str, size: int | None = None) -> Plan:
    return await decided(made, held, replace(envelope(), size=size), Address.parse(recipient), now=0.0)


async def test_only_final_mailboxes_with_a_quota_are_asked() -> None:
    made = limited("anna@example.org", "away@example.org")
    held = Held({"anna@example.org": 100, "away@example.org": 100})
    assert (await plan(made, held, "ben@example.org")).refusal is None
    # Its own mailbox is full and idle: the mail only passes.
    assert (await plan(made, held, "away@example.org")).refusal is None
    assert (await plan(made, held, "nobody@example.org")).reply.code == 550
    assert held.asked == []
    refused = await plan(made, held, "anna@example.org")
    assert refused.refusal is not None and refused.refusal.says == "quota"
    assert str(refused.reply) == "452 4.2.2 Mailbox is full: try again later"
    assert held.asked == ["anna@example.org"]


async def test_one_account_is_asked_once() -> None:
    held = Held({"anna@example.org": 100})
    assert (await plan(limited("anna@example.org"), held, "twice@example.org")).reply.code == 452
    assert held.asked == ["anna@example.org"]


async def test_some_full_mailboxes_do_not_refuse_the_others() -> None:
    made = limited("anna@example.org", "ben@example.org", "keep@example.org")
    one = await plan(made, Held({"anna@example.org": 100, "ben@example.org": 99}), "all@example.org")
    assert one.refusal is None and len(one.deliveries) == 2
    assert one.notes == (
        "the mailbox of anna@example.org is full (100 of 100 octets): its copy is deferred, the others go out",
    )
    both = await plan(made, Held({"anna@example.org": 100, "ben@example.org": 99}), "all@example.org", size=12)
    assert both.reply.code == 452
    forwarded = await plan(made, Held({"keep@example.org": 500}), "keep@example.org")
    assert forwarded.refusal is None and len(forwarded.deliveries) == 2


async def test_what_is_not_known_is_not_judged_and_noted() -> None:
    made = limited("anna@example.org", "ben@example.org")
    unjudged = await plan(made, Held({"ben@example.org": 100}), "all@example.org")
    assert unjudged.refusal is None
    assert unjudged.notes[-1] == "the quota of anna@example.org is not judged: the disk is gone"


async def test_a_count_that_takes_too_long_is_given_up() -> None:
    async def slow(account: Address) -> int:
        if account.key == "ben@example.org":
            return 100
        await asyncio.Event().wait()
        raise AssertionError

    made = limited("anna@example.org", "ben@example.org")
    late = await decided(made, slow, envelope(), Address.parse("all@example.org"), now=0.0, deadline=0.01)
    assert late.refusal is None
    assert late.notes == (
        "the mailbox of ben@example.org is full (100 of 100 octets): its copy is deferred, the others go out",
        "the quota of anna@example.org is not judged: it is not counted within 0.01 seconds",
    )
