"""Explain: what would happen to a recipient, by the same steps as for mail that is really sent.

The same `decided`, the same `candidates`, the same `plan_seal` as the relay; nothing is connected to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, assert_never

from smtproute.core.address import Address, Domain
from smtproute.core.choice import Choice, Resolution, Resolved
from smtproute.core.decide import Facts
from smtproute.core.differences import differences, quota_name
from smtproute.core.envelope import Envelope
from smtproute.core.plan import Delivery, Plan
from smtproute.core.reply import Reply
from smtproute.core.seals import Seal, plan_seal
from smtproute.core.settings import Endpoint, Kind
from smtproute.core.snapshot import Snapshot
from smtproute.intake.facts import DEADLINE, Usage, UsageUnknown, decided
from smtproute.resolve.lastgood import goes_on

__all__ = ["Candidates", "Explained", "Leg", "explain", "leg_json", "reply_json", "status"]

Candidates = Callable[[Endpoint, Domain], Awaitable[Choice]]
"""The addresses that an endpoint would be tried at, for mail to this domain."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One copy, as it would go."""

    delivery: Delivery
    choice: Choice | None
    """None where it is no endpoint's."""
    seal: Seal

    @property
    def undeliverable(self) -> bool:
        refused = self.choice.refusal if self.choice is not None else None
        return self.delivery.kind is Kind.BOUNCE or (refused is not None and not refused.temporary)

    @property
    def deferred(self) -> bool:
        waits = self.delivery.held or (self.choice is not None and not self.choice.candidates)
        return waits and not self.undeliverable


@dataclass(frozen=True, slots=True)
class Explained:
    """One recipient."""

    plan: Plan
    legs: tuple[Leg, ...]
    sender: str
    notes: tuple[str, ...]
    version: str = ""
    """docker-mailserver's, where its folder is simulated."""
    differences: tuple[str, ...] = ()
    """What that version does otherwise."""

    @property
    def status(self) -> int:
        """0 deliverable, 1 some of it deferred or held, 2 some of it refused or undeliverable (as exim -bt)."""
        return status(self.plan, self.legs)

    def json(self) -> dict[str, Any]:
        """The object that `explain --json` prints."""
        told = {
            "recipient": str(self.plan.recipient),
            "reply": reply_json(self.plan.reply),
            "steps": [
                {"rule": step.rule, "tried": step.tried, "result": str(step.result), "why": step.why}
                for step in self.plan.steps
            ],
            "deliveries": [leg_json(leg, self.sender) for leg in self.legs],
            "notes": list(self.notes),
        }
        if self.version:
            told["docker_mailserver"] = {"version": self.version, "differences": list(self.differences)}
        return told

    def lines(self) -> list[str]:
        """The same for people."""
        lines = [str(self.plan.recipient), f"  reply {self.plan.reply}"]
        if self.plan.refusal is not None and self.plan.refusal.detail:
            lines.append(f"  because {self.plan.refusal.detail}")
        width = max((len(step.rule) for step in self.plan.steps), default=0)
        lines += [f"  {step.result:<7}  {step.rule:<{width}}  {step.tried}: {step.why}" for step in self.plan.steps]
        for leg in self.legs:
            lines += _leg_lines(leg)
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  docker-mailserver {self.version}: {said}" for said in self.differences]
        return lines


async def explain(
    snapshot: Snapshot, candidates: Candidates, usage: Usage, envelope: Envelope, recipients: Sequence[Address]
) -> list[Explained]:
    """What would happen to each recipient of one message with this envelope."""
    explained: list[Explained] = []
    seen: dict[str, Address] = {}
    held: dict[str, int] = {}

    async def counted(account: Address) -> int:
        if account.key not in held:
            held[account.key] = await usage(account)
        return held[account.key]

    for recipient in recipients:
        plan = await decided(snapshot.routing, counted, envelope, recipient)
        notes = list(plan.notes)
        legs = []
        for delivery in plan.deliveries:
            first = seen.setdefault(delivery.address.key, recipient)
            if first is not recipient:
                notes.append(
                    f"{delivery.address} gets one copy, already counted under {first}; Postfix would send it two"
                )
            choice = None
            if delivery.kind is Kind.ENDPOINT:
                choice = await candidates(snapshot.settings.endpoints[delivery.endpoint], delivery.address.domain)
            seal = plan_seal(snapshot.settings, envelope, delivery, None)
            if seal.wanted and snapshot.settings.arc.by_author:
                notes.append(f"{delivery.address}: not predicted: the header From may choose another sealing domain")
            legs.append(Leg(delivery, choice, seal))
        stale = goes_on(snapshot.settings.resolver.stale)
        if stale and any(leg.choice is not None and leg.choice.unanswered for leg in legs):
            notes.append(stale)
        told = Explained(plan, tuple(legs), str(envelope.reverse_path or ""), tuple(notes))
        folder = snapshot.folder
        if folder is not None:
            asked = quota_name(folder, snapshot.routing, plan.recipient)
            if asked is not None:
                with suppress(UsageUnknown, TimeoutError):
                    async with asyncio.timeout(DEADLINE):
                        await counted(asked)
            facts, seals = Facts(snapshot.routing, held), [leg.seal for leg in legs]
            said = differences(folder, facts, envelope, plan, seals, explained[0].plan.recipient if explained else None)
            told = replace(told, version=folder.version, differences=said)
        explained.append(told)
    return explained


def status(plan: Plan, legs: Sequence[Leg]) -> int:
    """The exit status that a recipient leads to."""
    refusal = plan.refusal
    if (refusal is not None and not refusal.temporary) or any(leg.undeliverable for leg in legs):
        return 2
    return 1 if refusal is not None or any(leg.deferred for leg in legs) else 0


def reply_json(reply: Reply) -> dict[str, Any]:
    return {"code": reply.code, "enhanced": reply.enhanced, "text": reply.text}


def leg_json(leg: Leg, sender: str) -> dict[str, Any]:
    delivery, key = leg.delivery, leg.seal.key
    servers = []
    for looked in leg.choice.looked if leg.choice is not None else ():
        resolved, found = looked.resolved, looked.resolved.addresses
        servers.append(
            {
                "host": looked.server.host,
                "port": looked.server.port,
                "backup": looked.backup,
                "status": str(resolved.status),
                "addresses": [each.ip for each in found],
                "source": str(found[0].source) if found else None,
                "asked": resolved.asked,
                "ttl": resolved.left,
                "age": round(resolved.age) if resolved.left is not None else None,
                "stale": resolved.stale,
            }
        )
    return {
        "kind": delivery.told,
        "address": str(delivery.address),
        "endpoint": delivery.endpoint or None,
        "servers": servers,
        "passed_over": [
            {"host": server.host, "port": server.port, "ip": ip, "why": each.why}
            for each in (leg.choice.passed if leg.choice is not None else ())
            for server, ip in (each.candidate.spot,)
        ],
        "seal": {"domain": key.domain.key, "selector": key.selector} if key is not None else None,
        "sender": sender,
        "rule": delivery.rule,
    }


def _leg_lines(leg: Leg) -> list[str]:
    delivery = leg.delivery
    match delivery.kind:
        case Kind.MAILBOX:
            return [f"  -> mailbox {delivery.mailbox} for {delivery.address}"]
        case Kind.CAPTURE if delivery.held:
            return [f"  -> hold of {delivery.address} ({delivery.rule}): kept until it is released, then captured"]
        case Kind.CAPTURE:
            return [f"  -> capture of {delivery.address} ({delivery.rule}): kept here, goes nowhere"]
        case Kind.BOUNCE:
            reply = delivery.refusal.reply if delivery.refusal else ""
            if delivery.dead:
                return [f"  -> undeliverable: {delivery.address} ({reply})"]
            return [f"  -> bounce of {delivery.address} ({delivery.rule}): accepted, then its sender is told {reply}"]
        case Kind.ENDPOINT:
            pass
        case _:
            assert_never(delivery.kind)
    until = "hold until it is released, then " if delivery.held else ""
    lines = [f"  -> {until}endpoint {delivery.endpoint} for {delivery.address} ({delivery.rule})"]
    choice = leg.choice
    if choice is not None:
        for looked in choice.looked:
            standby = " backup" if looked.backup else ""
            if looked.resolved.status is Resolution.OK:
                found = [f"{each.ip} ({each.source})" for each in looked.resolved.addresses]
                said = ", ".join((*found, *_asked(looked.resolved), *looked.resolved.remarks))
                lines.append(f"     server{standby} {looked.server}: {said}")
            else:
                lines.append(f"     server{standby} {looked.server}: no address: {looked.resolved}")
        lines += [f"     passed over: {passed}" for passed in choice.passed]
        if choice.refusal is not None:
            lines.append(f"     {choice.refusal}")
        elif not choice.candidates:
            none = "no address can be tried" if choice.passed else "no server has an address"
            lines.append(f"     {none} now: mail would be accepted and deferred")
    key = leg.seal.key
    if key is not None:
        lines.append(f"     sealed by {key.domain} with selector {key.selector}")
    else:
        lines.append(f"     {'UNSEALED' if leg.seal.wanted else 'not sealed'}: {leg.seal.reason}")
    return lines


def _asked(resolved: Resolved) -> tuple[str, ...]:
    """The DNS server that gave the addresses, and how long they hold: a stale answer says its age instead."""
    if resolved.left is None:
        return ()
    return (f"from {resolved.asked}{'' if resolved.stale else f' for {resolved.left} s more'}",)
