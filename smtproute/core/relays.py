"""Relays: the server that takes a sender's mail to other places (Postfix sender_dependent_relayhost_maps, relayhost).

It is asked for addresses that are neither local nor claimed by a route, before the default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from smtproute.core.address import Address
from smtproute.core.plan import Step, Tried

__all__ = ["Relay", "Relays", "endpoint_name", "names_relay", "relay_for"]


@dataclass(frozen=True, slots=True)
class Relay:
    """A next hop as it is written, and where."""

    nexthop: str
    """`[host]:port`, or without brackets where its MX is asked."""
    rule: str


@dataclass(frozen=True, slots=True)
class Relays:
    by_sender: Mapping[str, Relay] = field(default_factory=dict)
    """By `user@domain`, `@domain`, or `<>` for the null sender, in lower case."""
    relayhost: Relay | None = None
    """Takes what no sender's entry does."""
    without: frozenset[str] = frozenset()
    """The senders, by the same keys, that only the relayhost takes mail of (`DUNNO`)."""
    credentials: Mapping[str, str] = field(default_factory=dict)
    """The senders that have credentials of their own, by `user@domain` or `@domain`: the rule. They go with them to
    whichever relay takes their mail."""
    fault: str = ""
    """Why the table of senders answers nothing, as in Postfix: mail to elsewhere gets 451 4.3.0."""
    credentials_fault: str = ""
    """Why the table of credentials answers nothing: mail for a relay is taken, and waits. Its endpoints say so too."""
    delimiter: str = "+"
    """What a `+detail` begins with (Postfix recipient_delimiter)."""


def endpoint_name(nexthop: str, credentials: str) -> str:
    """The name of the endpoint that stands for a relay, used with these credentials ("": the relay's own).

    No endpoint of the configuration file has a space in its name.
    """
    return f"relay {nexthop} as {credentials}" if credentials else f"relay {nexthop}"


def names_relay(endpoint: str) -> bool:
    """Whether the name is one that `endpoint_name` makes."""
    return endpoint.startswith("relay ")


def keys(sender: Address | None, delimiter: str, own: bool = False) -> Iterator[str]:
    """What is looked up for a sender: its address, that without `+detail`, its domain (mail_addr_find(3)).

    At our own names, before the domain, the local part alone, too.
    """
    if sender is None:
        yield "<>"
        return
    written = [each for each in (sender, sender.without_detail(delimiter)) if each is not None]
    yield from (each.key for each in written)
    if own:
        yield from (each.local.lower() for each in written)
    yield f"@{sender.domain.key}"


def relay_for(relays: Relays, sender: Address | None, steps: list[Step], own: bool = False) -> tuple[str, str] | None:
    """The name of the endpoint for mail of this sender to elsewhere, and the rule; None where it has no relay.

    `own` is whether the sender is at one of our own names.
    """
    asked = tuple(keys(sender, relays.delimiter, own))
    first = next((key for key in asked if key in relays.by_sender or key in relays.without), "")
    found = relays.by_sender.get(first, relays.relayhost)
    if found is None:
        if relays.by_sender:
            steps.append(Step("relays", str(sender or "<>"), Tried.SKIPPED, "this sender has no relay"))
        return None
    credentials = next((key for key in asked if key in relays.credentials), "")
    steps.append(Step(found.rule, str(sender or "<>"), Tried.MATCHED, f"this sender's relay: {found.nexthop}"))
    return endpoint_name(found.nexthop, credentials), found.rule
