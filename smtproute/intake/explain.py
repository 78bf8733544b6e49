"""Explain: what would happen to a recipient, by the same steps as for mail that is really sent.

The same `decided`, `candidates`, `plan_sender`, `plan_signatures` and `plan_seal` as the relay; nothing is connected
to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, assert_never

from smtproute.core.address import Address, Domain
from smtproute.core.author import Author
from smtproute.core.choice import Choice, Resolution, Resolved
from smtproute.core.decide import Facts, plan_sender
from smtproute.core.differences import differences, quota_name
from smtproute.core.envelope import Envelope
from smtproute.core.lookup import Lookup, Unanswered
from smtproute.core.plan import Delivery, Plan
from smtproute.core.providers import Provider
from smtproute.core.reply import Reply
from smtproute.core.seals import Seal, plan_seal
from smtproute.core.settings import Endpoint, Kind, Policy, Role
from smtproute.core.signatures import Signatures, plan_signatures
from smtproute.core.snapshot import Snapshot
from smtproute.core.srs import Sender
from smtproute.intake.facts import DEADLINE, Usage, UsageUnknown, decided
from smtproute.intake.targets import Targets
from smtproute.resolve.lastgood import goes_on

__all__ = ["Candidates", "Explained", "Leg", "explain", "leg_json", "reply_json", "signatures", "status"]

Candidates = Callable[[Endpoint, Domain], Awaitable[Choice]]
"""The addresses that an endpoint would be tried at, for mail to this domain."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One copy, as it would go."""

    delivery: Delivery
    choice: Choice | None
    """None where it is no endpoint's."""
    sender: Sender
    signatures: Signatures
    seal: Seal
    provider: Provider | None = None
    """Who takes mail for its target, where that is one of those who are known."""

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
            "deliveries": [leg_json(leg) for leg in self.legs],
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
    snapshot: Snapshot,
    candidates: Candidates,
    usage: Usage,
    envelope: Envelope,
    recipients: Sequence[Address],
    now: float,
    lookup: Lookup | None = None,
) -> list[Explained]:
    """What would happen to each recipient of one message with this envelope, at the time `now`.

    `lookup` is asked for the mail exchangers of targets whose mail leaves by another server.
    """
    targets = Targets(lookup)
    explained: list[Explained] = []
    seen: dict[str, Address] = {}
    held: dict[str, int] = {}

    async def counted(account: Address) -> int:
        if account.key not in held:
            held[account.key] = await usage(account)
        return held[account.key]

    for recipient in recipients:
        plan = await decided(snapshot.routing, counted, envelope, recipient, now)
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
            signed = signatures(snapshot, envelope, delivery)
            if signed.wanted:
                notes.append(f"{delivery.address}: not predicted: the header From decides who signs, not the sender")
            seal = plan_seal(snapshot.settings, envelope, delivery, None)
            if seal.wanted and snapshot.settings.arc.by_author:
                notes.append(f"{delivery.address}: not predicted: the header From may choose another sealing domain")
            sender = plan_sender(snapshot.routing, envelope, delivery, now)
            provider = None
            try:
                provider = await targets.provider(snapshot, delivery, choice)
            except Unanswered as unanswered:
                notes.append(f"{delivery.address}: its provider is not known: {unanswered}")
            legs.append(Leg(delivery, choice, sender, signed, seal, provider))
        stale = goes_on(snapshot.settings.resolver.stale)
        if stale and any(leg.choice is not None and leg.choice.unanswered for leg in legs):
            notes.append(stale)
        if plan.deliveries and _enforced(snapshot, envelope):
            notes.append("not predicted: policy is enforce, by which mail that fails DMARC is refused or set aside")
        told = Explained(plan, tuple(legs), tuple(notes))
        folder = snapshot.folder
        if folder is not None:
            asked = quota_name(folder, snapshot.routing, plan.recipient)
            if asked is not None:
                with suppress(UsageUnknown, TimeoutError):
                    async with asyncio.timeout(DEADLINE):
                        await counted(asked)
            facts, seals = Facts(snapshot.routing, held, now=now), [leg.seal for leg in legs]
            said = differences(folder, facts, envelope, plan, seals, explained[0].plan.recipient if explained else None)
            told = replace(told, version=folder.version, differences=said)
        explained.append(told)
    return explained


def signatures(snapshot: Snapshot, envelope: Envelope, delivery: Delivery) -> Signatures:
    """Who signs a copy whose header From is the envelope's sender."""
    if delivery.kind is not Kind.ENDPOINT:
        return Signatures(reason="it does not leave the house")
    sender = envelope.reverse_path
    author = Author((sender,)) if sender is not None else Author(fault="the null sender names no From")
    return plan_signatures(snapshot.settings, snapshot.routing.aliases, envelope, author)


def status(plan: Plan, legs: Sequence[Leg]) -> int:
    """The exit status that a recipient leads to."""
    refusal = plan.refusal
    if (refusal is not None and not refusal.temporary) or any(leg.undeliverable for leg in legs):
        return 2
    return 1 if refusal is not None or any(leg.deferred for leg in legs) else 0


def reply_json(reply: Reply) -> dict[str, Any]:
    return {"code": reply.code, "enhanced": reply.enhanced, "text": reply.text}


def leg_json(leg: Leg) -> dict[str, Any]:
    delivery, key, sender = leg.delivery, leg.seal.key, leg.sender
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
        "provider": leg.provider.json() if leg.provider is not None else None,
        "signatures": [{"domain": each.domain.key, "selector": each.selector} for each in leg.signatures.keys],
        "seal": {"domain": key.domain.key, "selector": key.selector} if key is not None else None,
        "sender": str(sender.path or ""),
        "srs": {"rewritten": sender.rewritten, "why": sender.why},
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
    if leg.provider is not None:
        lines.append(f"     provider {leg.provider.name}: {leg.provider.asks} ({leg.provider.source})")
    sender = leg.sender
    said = f"rewritten by SRS: {sender.path} ({sender.why})" if sender.rewritten else f"left: {sender.why}"
    lines.append(f"     sender {said}")
    lines += [f"     signed by {each.domain} with selector {each.selector}" for each in leg.signatures.keys]
    if not leg.signatures.keys:
        lines.append(f"     {'UNSIGNED' if leg.signatures.wanted else 'not signed'}: {leg.signatures.reason}")
    key = leg.seal.key
    if key is not None:
        lines.append(f"     sealed by {key.domain} with selector {key.selector}")
    else:
        lines.append(f"     {'UNSEALED' if leg.seal.wanted else 'not sealed'}: {leg.seal.reason}")
    return lines


def _enforced(snapshot: Snapshot, envelope: Envelope) -> bool:
    """Whether DMARC has a say in what becomes of mail with this envelope."""
    settings, client = snapshot.settings.authentication, envelope.client
    inbound = client.role is Role.INBOUND and not client.trusted
    return inbound and settings.dmarc and settings.policy is Policy.ENFORCE


def _asked(resolved: Resolved) -> tuple[str, ...]:
    """The DNS server that gave the addresses, and how long they hold: a stale answer says its age instead."""
    if resolved.left is None:
        return ()
    return (f"from {resolved.asked}{'' if resolved.stale else f' for {resolved.left} s more'}",)
