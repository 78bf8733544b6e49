"""Relays: the server that takes a sender's mail to other places (Postfix sender_dependent_relayhost_maps, relayhost).

It is asked for addresses that are neither local nor claimed by a route, before the default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from smtproute.core.address import Address
from smtproute.core.plan import Step, Tried

__all__ = ["Relay", "Relays", "endpoint_name", "relay_for"]


@dataclass(frozen=True, slots=True)
class Relay:
    """A next hop as it is written, and where."""

    nexthop: str
    """`[host]:port`, or without brackets where its MX is asked."""
    rule: str


@dataclass(frozen=True, slots=True)
class Relays:
    by_sender: Mapping[str, Relay] = field(default_factory=dict)
    """By `user@domain` or `@domain`, in lower case."""
    relayhost: Relay | None = None
    """Takes what no sender's entry does."""
    credentials: Mapping[str, str] = field(default_factory=dict)
    """The senders that have credentials of their own, by `user@domain` or `@domain`: the rule. They go with them to
    whichever relay takes their mail."""
    fault: str = ""
    """Why the table of senders answers nothing, as in Postfix: mail to elsewhere is deferred."""


def endpoint_name(nexthop: str, credentials: str) -> str:
    """The name of the endpoint that stands for a relay, used with these credentials ("": the relay's own)."""
    return f"relay {nexthop} as {credentials}" if credentials else f"relay {nexthop}"


def keys(sender: Address | None) -> Iterator[str]:
    """What is looked up for a sender: its address, then its domain. The null sender has neither."""
    if sender is not None:
        yield sender.key
        yield f"@{sender.domain.key}"


def relay_for(relays: Relays, sender: Address | None, steps: list[Step]) -> tuple[str, str] | None:
    """The name of the endpoint for mail of this sender to elsewhere, and the rule; None where it has no relay."""
    found = next((relays.by_sender[key] for key in keys(sender) if key in relays.by_sender), relays.relayhost)
    if found is None:
        if relays.by_sender:
            steps.append(Step("relays", str(sender or "<>"), Tried.SKIPPED, "this sender has no relay"))
        return None
    own = next((key for key in keys(sender) if key in relays.credentials), "")
    steps.append(Step(found.rule, str(sender or "<>"), Tried.MATCHED, f"this sender's relay: {found.nexthop}"))
    return endpoint_name(found.nexthop, own), found.rule
