"""Aliases: what the tables say that cannot work."""

from __future__ import annotations

from collections.abc import Iterator

from smtproute.core.address import Address, AddressError
from smtproute.core.aliases import TextTable
from smtproute.core.decide import Facts, decide
from smtproute.core.envelope import Client, Envelope
from smtproute.core.finding import Finding, error, warning
from smtproute.core.settings import Kind, Role
from smtproute.core.snapshot import Snapshot

__all__ = ["examine"]


def examine(snapshot: Snapshot) -> Iterator[Finding]:
    """Table faults, loops, and alias targets that nobody gets."""
    if not any(table.fault for table in snapshot.routing.aliases.tables):
        yield from _branches(snapshot)


def _branches(snapshot: Snapshot) -> Iterator[Finding]:
    """Decides for every address that a text table names, as for a stranger's mail if strangers may send any."""
    routing = snapshot.routing
    inbound = any(each.role is Role.INBOUND for each in snapshot.settings.listeners.values())
    envelope = Envelope(Client("192.0.2.1", 0, "", Role.INBOUND, trusted=not inbound), None)
    for table in routing.aliases.tables:
        for key, entry in table.entries.items() if isinstance(table, TextTable) else ():
            address = key if "@" in key else f"{key}@{routing.hostname}"
            try:
                recipient = Address.parse(f"anybody{address}" if address.startswith("@") else address)
            except AddressError as fault:
                yield warning("no-address", f"{table.file}:{entry.line}", f"The key never matches: {fault}.")
                continue
            plan = decide(Facts(routing), envelope, recipient)
            where = f"{table.file}:{entry.line}"
            if plan.refusal is not None:
                yield error("refused", where, f"{key}: {plan.refusal}.")
            for note in plan.notes:
                if "is a dead branch" not in note:
                    yield error("target", where, f"{key}: {note}.")
            for delivery in plan.deliveries:
                if delivery.kind is Kind.BOUNCE and delivery.refusal is not None:
                    what = (
                        f"{key}: {delivery.address} is a dead branch ({delivery.refusal.detail}): the others get"
                        " their copy, the sender gets a DSN for this one. Correct the target or take it out."
                    )
                    yield error("dead-branch", where, what)
