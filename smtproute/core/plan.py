"""Plan: where one recipient's mail goes, and the steps by which that was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from smtproute.core.address import Address
from smtproute.core.event import Event, Happening
from smtproute.core.reply import Refusal, Reply
from smtproute.core.settings import Kind, Mode

__all__ = ["Delivery", "Plan", "Step", "Tried", "distinct", "holdings", "planned", "set_aside"]


class Tried(StrEnum):
    MATCHED = "matched"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Step:
    """One rule that was tried."""

    rule: str
    """`file:line`, or the configuration key."""
    tried: str
    """The key that was looked up."""
    result: Tried
    why: str
    conditional: bool = False
    """The rule names it, and who sends decides whether the rule takes it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One copy: what it is, for which final address, and for which recipient as the client wrote it."""

    kind: Kind
    address: Address
    recipient: Address
    endpoint: str = ""
    """Name of the endpoint, with `Kind.ENDPOINT`."""
    mailbox: Address | None = None
    """The account whose mailbox it is, with `Kind.MAILBOX`."""
    rule: str = ""
    """The rule that settled it."""
    seal: bool = True
    """False where the route says `seal = false`."""
    refusal: Refusal | None = None
    """What the sender is told, with `Kind.BOUNCE`."""
    held: bool = False
    """It waits in the queue until an operator releases it: the route says `mode = "hold"`, or it was set aside."""
    deliberate: bool = False
    """The route says `mode = "bounce"`: RCPT accepts it all the same."""
    junk: bool = False
    """It goes into the mailbox's Junk folder: the domain of its author asks for quarantine (DMARC)."""

    @property
    def place(self) -> str:
        """Where it goes: deliveries for one place wait for each other, and for nobody else."""
        return f"{self.kind} {self.endpoint}".rstrip()

    @property
    def told(self) -> str:
        """What explain and trace call it: its kind, or that it is held."""
        return str(Mode.HOLD) if self.held else str(self.kind)

    @property
    def expanded(self) -> bool:
        """Whether it came of an alias, whose target the sender is not told."""
        return self.address.key != self.recipient.key

    @property
    def dead(self) -> bool:
        """Whether nobody gets it, and nobody wanted that."""
        return self.kind is Kind.BOUNCE and not self.deliberate


@dataclass(frozen=True, slots=True)
class Plan:
    """Fixed at the 250: final addresses, kinds, endpoint names. Servers and seals are decided at each attempt."""

    recipient: Address
    reply: Reply
    """What RCPT answers."""
    steps: tuple[Step, ...]
    deliveries: tuple[Delivery, ...] = ()
    """Empty when refused."""
    refusal: Refusal | None = None
    notes: tuple[str, ...] = ()


def distinct(plans: tuple[Plan, ...]) -> tuple[Delivery, ...]:
    """The deliveries of a whole message: one for each final address, the first recipient's kept.

    Postfix sends two copies when two RCPTs alias to one address; one is what people expect. A live branch wins
    over one that is bounced, on purpose or not. Whether it is held makes no difference: that is by the route of the
    final address, which is the same for every recipient of the message.
    """
    kept: dict[str, Delivery] = {}
    for plan in plans:
        for delivery in plan.deliveries:
            before = kept.get(delivery.address.key)
            if before is None or (before.kind is Kind.BOUNCE and delivery.kind is not Kind.BOUNCE):
                kept[delivery.address.key] = delivery
    return tuple(kept.values())


def planned(plan: Plan, message_id: str, at: float) -> Event:
    """The event that tells a recipient's plan: the rules that matched (`explain` lists the others), the copies."""
    facts = {
        "recipient": str(plan.recipient),
        "steps": [[step.rule, step.tried, step.why] for step in plan.steps if step.result is Tried.MATCHED],
        "deliveries": [
            {"kind": each.told, "address": str(each.address), "endpoint": each.endpoint, "rule": each.rule}
            for each in plan.deliveries
        ],
        "notes": list(plan.notes),
    }
    return Event(Happening.PLANNED, at, message_id, facts=facts)


def set_aside(deliveries: Sequence[Delivery]) -> tuple[Delivery, ...]:
    """The same in quarantine: the mailbox copies go to Junk, and what would leave the house is held."""
    return tuple(
        replace(each, junk=each.kind is Kind.MAILBOX, held=each.held or each.kind is Kind.ENDPOINT)
        for each in deliveries
    )


def holdings(deliveries: Sequence[Delivery], message_id: str, at: float, reason: str = "") -> list[Event]:
    """The events that tell which copies of a message are held from the start, and by which rule.

    `reason`: why they are, where they were set aside.
    """
    return [
        Event(Happening.HELD, at, message_id, number, {"address": str(each.address), "rule": reason or each.rule})
        for number, each in enumerate(deliveries)
        if each.held
    ]
