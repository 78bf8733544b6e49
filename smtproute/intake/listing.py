"""Listing: every address that the tables know, a line each, and which lines differ between two configurations.

A line is what `decide` says of the address; no server is looked up and no mailbox is counted, so that the text is the
same every time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, assert_never

from smtproute.core.address import Address, AddressError, Domain
from smtproute.core.aliases import PcreRule, PcreTable, TextTable, completed, elsewhere, targets
from smtproute.core.decide import Facts, decide, plan_sender
from smtproute.core.envelope import Envelope
from smtproute.core.plan import Plan
from smtproute.core.seals import plan_seal
from smtproute.core.settings import Kind
from smtproute.core.snapshot import Snapshot
from smtproute.intake.explain import Leg, leg_json, reply_json, signatures, status

__all__ = ["ANYBODY", "Change", "Known", "Listed", "changes", "known", "listed"]

ANYBODY = "anybody-else-7c1e9a"
"""The local part that catch-alls are decided for: nothing else has it. It is shown as `*`."""


@dataclass(frozen=True, slots=True)
class Known:
    """An address that is written somewhere, or a pattern, whose addresses nobody can list."""

    shown: str
    """`name@example.org`, `*@example.org` or `/pattern/`."""
    address: Address | None
    """What is decided; None for a pattern."""
    targets: str = ""
    """Of a pattern, as they are written."""


@dataclass(frozen=True, slots=True)
class Listed:
    """What becomes of mail for something known."""

    known: Known
    plan: Plan | None
    """None for a pattern."""
    legs: tuple[Leg, ...] = ()
    conditions: tuple[str, ...] = ()
    """Those of the routes that name it: who sends decides what becomes of it."""

    @property
    def status(self) -> int:
        """As of `explain`."""
        return 0 if self.plan is None else status(self.plan, self.legs)

    @property
    def what(self) -> str:
        """What follows the arrow."""
        if self.plan is None:
            return f"pattern, to {self.known.targets}" if self.known.targets else "pattern, to nobody"
        said = str(self.plan.reply) if self.plan.refusal is not None else "; ".join(map(_leg, self.legs))
        if self.conditions:
            said += f" (it depends on {'; '.join(self.conditions)})"
        return self._anonymous(said)

    def line(self) -> str:
        return f"{self.known.shown} -> {self.what}"

    def json(self) -> dict[str, Any]:
        """The object that `explain --all --json` prints."""
        if self.plan is None:
            targets = self.known.targets
            return {"address": self.known.shown, "reply": None, "deliveries": [], "conditions": [], "targets": targets}
        reply, deliveries = reply_json(self.plan.reply), [leg_json(leg) for leg in self.legs]
        for told, key in ((reply, "text"), *((delivery, "address") for delivery in deliveries)):
            told[key] = self._anonymous(told[key])
        return {
            "address": self.known.shown,
            "reply": reply,
            "deliveries": deliveries,
            "conditions": list(self.conditions),
        }

    def _anonymous(self, text: str) -> str:
        return text.replace(ANYBODY, "*") if self.known.shown.startswith("*@") else text


@dataclass(frozen=True, slots=True)
class Change:
    """Two lines for one address that are not the same; None where a pattern is not there."""

    was: Listed | None
    will_be: Listed | None

    def lines(self) -> list[str]:
        lines = [f"- {self.was.line()}"] if self.was is not None else []
        return [*lines, f"+ {self.will_be.line()}"] if self.will_be is not None else lines

    def json(self) -> dict[str, Any]:
        """The object that `explain --diff --json` prints."""
        either = self.was or self.will_be
        return {
            "address": either.known.shown if either is not None else "",
            "was": self.was.json() if self.was is not None else None,
            "will_be": self.will_be.json() if self.will_be is not None else None,
        }


def known(snapshot: Snapshot) -> list[Known]:
    """What the accounts and the tables name: addresses by domain and local part, then patterns as they stand.

    That is accounts, keys of tables (those without a domain at our host name) and what an alias leads to that is
    local. A name is listed in lower case, since that is how it is looked up.
    """
    aliases, routing = snapshot.routing.aliases, snapshot.routing
    found: dict[str, Address] = {key: mailbox.address for key, mailbox in routing.mailboxes.items()}
    patterns: list[Known] = []
    for table in (*aliases.tables, *aliases.local):
        match table:
            case TextTable():
                for key, entry in table.entries.items():
                    found.update(_addresses(key, aliases.origin))
                    if table not in aliases.local or not elsewhere(entry.value):
                        found.update(_targets(snapshot, entry.value))
            case PcreTable():
                for rule in table.rules:
                    patterns.append(_pattern(rule))
                    if all(isinstance(piece, str) for piece in rule.result):
                        found.update(_targets(snapshot, "".join(map(str, rule.result))))
            case _:
                assert_never(table)
    return [*map(_known, sorted(found.values(), key=_order)), *patterns]


def listed(snapshot: Snapshot, envelope: Envelope, what: Known, now: float) -> Listed:
    """What becomes of mail for it, from this envelope, at the time `now`."""
    if what.address is None:
        return Listed(what, None)
    plan = decide(Facts(snapshot.routing, now=now), envelope, what.address)
    legs = tuple(
        Leg(
            delivery,
            None,
            plan_sender(snapshot.routing, envelope, delivery, now),
            signatures(snapshot, envelope, delivery),
            plan_seal(snapshot.settings, envelope, delivery, None),
        )
        for delivery in plan.deliveries
    )
    named = {step.rule for step in plan.steps if step.conditional}
    conditions = tuple(
        f"{route.rule}: {', '.join(route.conditions)}" for route in snapshot.routing.routes if route.rule in named
    )
    return Listed(what, plan, legs, conditions)


def changes(was: Snapshot, will_be: Snapshot, envelope: Envelope, now: float) -> Iterator[Change]:
    """What is not the same in two configurations, for everything that either knows, in the order of `known`."""
    before, after = known(was), known(will_be)
    addresses = {each.shown: each.address for each in (*before, *after) if each.address is not None}
    for address in sorted(addresses.values(), key=_order):
        one = listed(was, envelope, _known(address), now)
        other = listed(will_be, envelope, _known(address), now)
        if one.line() != other.line():
            yield Change(one, other)
    gone, new = ([each for each in side if each.address is None] for side in (before, after))
    kept = [each for each in gone if each in new]
    yield from (Change(Listed(each, None), None) for each in gone if each not in kept)
    yield from (Change(None, Listed(each, None)) for each in new if each not in kept)


def _known(address: Address) -> Known:
    folded = Address(address.local.lower(), Domain(address.domain.key, address.domain.key))
    return Known(f"*@{folded.domain}" if folded.local == ANYBODY else str(folded), folded)


def _order(address: Address) -> tuple[str, str]:
    return address.domain.key, "" if address.local == ANYBODY else address.local.lower()


def _addresses(key: str, origin: Domain) -> dict[str, Address]:
    """The address that a key of a text table stands for, by Address.key; nothing where it never matches."""
    local, at, domain = key.rpartition("@")
    if key.endswith(":"):
        return {}
    try:
        address = Address(local or ANYBODY, Domain.parse(domain)) if at else Address(key, origin)
        Address.parse(str(address))
    except AddressError:
        return {}
    return {address.key: address}


def _targets(snapshot: Snapshot, value: str) -> dict[str, Address]:
    """The addresses of an alias's value that are at a local domain, by Address.key."""
    routing = snapshot.routing
    found = {}
    for target in targets(value):
        try:
            address = completed(target, routing.aliases.origin)
        except AddressError:
            continue
        if address.domain.key in routing.local_domains or routing.aliases.own(address.domain):
            found[address.key] = address
    return found


def _pattern(rule: PcreRule) -> Known:
    result = "".join(piece.replace("$", "$$") if isinstance(piece, str) else f"${{{piece}}}" for piece in rule.result)
    conditions = "".join(f"if {each.text} " for each in rule.enclosing)
    return Known(f"{conditions}{rule.condition.text}", None, result)


def _leg(leg: Leg) -> str:
    delivery = leg.delivery
    until = "hold, then " if delivery.held else ""
    match delivery.kind:
        case Kind.MAILBOX:
            mailbox = delivery.mailbox
            same = mailbox is not None and mailbox.key == delivery.address.key
            return f"mailbox {mailbox}" if same else f"mailbox {mailbox} for {delivery.address}"
        case Kind.CAPTURE:
            return f"{until}capture of {delivery.address}"
        case Kind.BOUNCE:
            what = "undeliverable" if delivery.dead else "bounce of"
            return f"{what} {delivery.address} ({delivery.refusal.reply if delivery.refusal else ''})"
        case Kind.ENDPOINT:
            told = ["sender rewritten"] if leg.sender.rewritten else []
            told += [f"signed by {key.domain} with selector {key.selector}" for key in leg.signatures.keys]
            if leg.signatures.wanted and not leg.signatures.keys:
                told.append(f"UNSIGNED: {leg.signatures.reason}")
            if leg.seal.key is not None:
                told.append(f"sealed by {leg.seal.key.domain}")
            elif leg.seal.wanted:
                told.append(f"UNSEALED: {leg.seal.reason}")
            marks = f" ({'; '.join(told)})" if told else ""
            return f"{until}endpoint {delivery.endpoint} for {delivery.address}{marks}"
        case _:
            assert_never(delivery.kind)
