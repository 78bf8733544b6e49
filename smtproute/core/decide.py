"""Decide: facts, envelope and one recipient come in; a Plan goes out. The relay and `explain` both call this."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import assert_never

from smtproute.core.access import refused as access_refused
from smtproute.core.address import Address, Domain
from smtproute.core.aliases import Aliases, LookupFault, TextTable, claimed, expand
from smtproute.core.envelope import Envelope
from smtproute.core.permit import STRANGER
from smtproute.core.plan import Delivery, Plan, Step, Tried
from smtproute.core.quota import FULL_FOR_NOW, UNLIMITED, Quota, over
from smtproute.core.relays import Relays, relay_for
from smtproute.core.reply import LOG_IN_FIRST, LOOKUP_FAILED, Refusal, Reply
from smtproute.core.routes import Route, RouteError, Target, matching
from smtproute.core.senders import owns
from smtproute.core.settings import Kind, Mode, Role, Srs
from smtproute.core.srs import Sender, SrsFault, original, sender_for

__all__ = ["Facts", "Mailbox", "Routing", "decide", "limited", "plan_sender", "relay_of", "weighed"]

_Claim = Callable[[Domain], str | None]
"""`claimed`, asked once for each domain of a decision: a table of patterns may be long."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An account, and where it is written."""

    address: Address
    rule: str
    quota: Quota = UNLIMITED


@dataclass(frozen=True, slots=True)
class Routing:
    """Everything that routing looks up."""

    hostname: Domain
    aliases: Aliases
    local_domains: Mapping[str, str]
    """Domain.key to the rule that makes it local."""
    mailboxes: Mapping[str, Mailbox]
    """By Address.key."""
    routes: tuple[Route, ...]
    default: Target
    relays: Relays = field(default_factory=Relays)
    send_access: TextTable | None = None
    receive_access: TextTable | None = None
    spoof_protection: bool = False
    """Whether an authenticated client may only send as an address that its login owns."""
    full: Reply = FULL_FOR_NOW
    """What RCPT answers where every copy is for a full mailbox."""
    srs: Srs = field(default_factory=Srs)
    """With its secrets, where they have been read."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was gathered for one decision."""

    routing: Routing
    usage: Mapping[str, int] = field(default_factory=dict)
    """Octets in mailboxes, by the Address.key of the account; a mailbox that is not named is not judged."""
    now: float = field(kw_only=True)
    """Seconds since the epoch: SRS addresses expire."""


_ROUTING = frozenset("@%!")
_DENIED = Reply(554, "5.7.1", "Relay access denied: this listener takes mail for its own domains only")
_ROUTED = Reply(554, "5.7.1", "Relay access denied: the address has another one inside it (one of @ % !)")
_UNKNOWN = Reply(550, "5.1.1", "User unknown: check the spelling of the address")
_INVALID = Reply(550, "5.1.1", "This SRS address has expired or is invalid: no mail was sent from it")
_REJECTED = Reply(550, "5.7.1", "Mail to this address is not accepted here")
_RETURNED = Reply(550, "5.7.1", "Mail to this address is returned to its sender")


def decide(facts: Facts, envelope: Envelope, recipient: Address | None) -> Plan:
    """Where mail from this envelope for this recipient goes: permission, then alias, mailbox, route, default; quota.

    An SRS address of ours is routed as the address that it stands for, before anything else (postsrsd's canonical
    maps), and open to anybody: it is a bounce.

    `recipient` None is `RCPT TO:<Postmaster>`, which is accepted from whoever may connect (RFC 5321 4.5.1), also from
    a sender whom an access list refuses or the login does not own (Postfix smtpd_check_rcpt()).
    """
    return weighed(_placed(facts, envelope, recipient), facts, envelope, recipient)


def _placed(facts: Facts, envelope: Envelope, recipient: Address | None) -> Plan:
    """The plan before anybody looks how full mailboxes are."""
    routing = facts.routing
    steps: list[Step] = []
    client = envelope.client
    if not client.trusted and (client.role is Role.TRUSTED or client.named is not None):
        refused = recipient or Address("postmaster", routing.hostname)
        steps.append(Step(f"listener.{client.listener}", client.ip, Tried.SKIPPED, "not in its trusted_networks"))
        return _refused(refused, steps, Refusal(STRANGER, "permission", f"{client.ip} is refused at connect"))
    claim: _Claim = cache(partial(claimed, routing.aliases))
    if recipient is None:
        postmaster = Address("postmaster", routing.hostname)
        plan = _route(facts, envelope, postmaster, postmaster, steps, claim)
        # The default is for addresses elsewhere: whoever it leads to would send our own postmaster's mail back.
        astray = any(each.rule == "default" and each.address == postmaster for each in plan.deliveries)
        read = any(each.kind is not Kind.BOUNCE for each in plan.deliveries)  # neither refused nor bounced
        return _capture(postmaster, plan) if astray or not read else plan
    returned, fault = _returned(facts, recipient, steps)
    try:
        refusal = _permit(routing, envelope, recipient, returned is not None, steps, claim)
    except (RouteError, LookupFault) as error:
        refusal = Refusal(LOOKUP_FAILED, "routing", str(error))
    if refusal is not None and refusal.reply is _DENIED and fault:
        refusal = Refusal(_INVALID, "srs", fault)
    if refusal is not None:
        return _refused(recipient, steps, refusal)
    return _route(facts, envelope, recipient, returned or recipient, steps, claim)


def _returned(facts: Facts, recipient: Address, steps: list[Step]) -> tuple[Address | None, str]:
    """The address that an SRS address of ours stands for; None where it is none, or is not valid, and why it is not."""
    returned, srs = None, facts.routing.srs
    try:
        # What we rewrote may have come back to us under another server's SRS1, and been rewritten again.
        while (found := original(srs, returned or recipient, facts.now)) is not None:
            steps.append(Step("srs", str(returned or recipient), Tried.MATCHED, f"a sender that we rewrote: {found}"))
            returned = found
    except SrsFault as fault:
        steps.append(Step("srs", str(returned or recipient), Tried.SKIPPED, f"not turned back: {fault}"))
        return None, str(fault)
    return returned, ""


def limited(plan: Plan, routing: Routing) -> tuple[Address, ...]:
    """The accounts of the plan's mailboxes that have a quota: whose usage `Facts` should name."""
    accounts = [delivery.mailbox for delivery in plan.deliveries if delivery.mailbox is not None]
    return tuple(account for account in accounts if routing.mailboxes[account.key].quota.limit)


def weighed(plan: Plan, facts: Facts, envelope: Envelope, recipient: Address | None) -> Plan:
    """A plan of `decide` for this recipient, with the mailboxes that `facts` names: refused where all are full.

    Of several copies those for full mailboxes are deferred.
    """
    steps: list[Step] = []
    full = [
        why
        for delivery in plan.deliveries
        if delivery.mailbox is not None and (why := _full(facts, delivery.mailbox, envelope.size or 0, steps))
    ]
    if not steps:
        return plan
    plan = replace(plan, steps=(*plan.steps, *steps))
    dead = _dead_branches(plan.deliveries)
    if len(full) + len(dead) < len(plan.deliveries):
        return replace(plan, notes=(*plan.notes, *(f"{why}: its copy is deferred, the others go out" for why in full)))
    reply, notes = facts.routing.full, tuple(note for note in plan.notes if note not in dead)
    refusal = Refusal(reply, "quota", "; ".join(full))
    refused = replace(plan, reply=reply, deliveries=(), refusal=refusal, notes=notes)
    return refused if recipient is not None else _capture(plan.recipient, refused)


def _permit(
    routing: Routing, envelope: Envelope, recipient: Address, returned: bool, steps: list[Step], claim: _Claim
) -> Refusal | None:
    """Why this client may not send this: the order is that of Postfix's smtpd restrictions in docker-mailserver.

    `returned` is whether the recipient is an SRS address of ours.
    Raises RouteError, LookupFault.
    """
    client, sender = envelope.client, envelope.reverse_path
    listener = f"listener.{client.listener}"
    delimiter = routing.aliases.delimiter
    if client.role is Role.SUBMISSION and client.login is None and client.named is None:
        steps.append(Step(listener, client.ip, Tried.SKIPPED, "nobody has logged in"))
        return Refusal(LOG_IN_FIRST, "permission", f"{client.ip} has not logged in")
    if client.login is not None and routing.spoof_protection and sender is not None:
        refusal = owns(routing.aliases, client.login, sender, steps)
        if refusal is not None:
            return refusal
    if routing.send_access is not None:
        refusal = access_refused(routing.send_access, sender, "Sender", delimiter, steps)
        if refusal is not None:
            return refusal
    refusal = None if returned else _denied(routing, envelope, recipient, steps, claim)
    if refusal is not None:
        return refusal
    # Postfix allow_untrusted_routing: another server may take a%b@c for a@b, and would be our open relay.
    if not returned and client.login is None and not client.trusted and not _ROUTING.isdisjoint(recipient.local):
        steps.append(Step(listener, str(recipient), Tried.SKIPPED, "another address is inside it: for trusted clients"))
        return Refusal(_ROUTED, "permission", f"{recipient} has another address inside it")
    if routing.receive_access is not None:
        return access_refused(routing.receive_access, recipient, "Recipient", delimiter, steps)
    return None


def _denied(
    routing: Routing, envelope: Envelope, recipient: Address, steps: list[Step], claim: _Claim
) -> Refusal | None:
    """Why the client may not send to the recipient's domain at all. Raises RouteError, LookupFault."""
    client = envelope.client
    listener = f"listener.{client.listener}"
    if client.login is not None:
        steps.append(Step(listener, str(client.login), Tried.MATCHED, "who has logged in may send anywhere"))
        return None
    if client.trusted:
        steps.append(Step(listener, client.ip, Tried.MATCHED, "a trusted client may send anywhere"))
        return None
    local = _local(routing, recipient.domain)
    if local is not None:
        steps.append(Step(local, recipient.domain.key, Tried.MATCHED, "a local domain: anyone may send to it"))
        return None
    rule = claim(recipient.domain)
    if rule is not None:
        why = "matches the bare domain, which makes it local: anyone may send to it"
        steps.append(Step(rule, recipient.domain.key, Tried.MATCHED, why))
        return None
    steps.append(Step("domains", recipient.domain.key, Tried.SKIPPED, "not a local domain"))
    tried: list[Step] = []
    route = matching(routing.routes, recipient, routing.aliases.delimiter, envelope, tried, strangers=True)
    if route is not None and route.target.mode is Mode.REJECT:
        # A route before it that asks for the sender is for those who may send here, and senders are forged.
        steps.append(replace(tried[-1], why=f"{tried[-1].why}: nobody may send to it"))
        return Refusal(_REJECTED, "routing", f"{route.rule} rejects {recipient}")
    if route is not None:
        who = "anyone there" if route.conditions else "anyone"
        steps.append(replace(tried[-1], why=f"{tried[-1].why}: {who} may send to it"))
        return None
    why = "not a trusted client, and no route lets strangers send to the address"
    steps += [*tried, Step(listener, client.ip, Tried.SKIPPED, why)]
    return Refusal(_DENIED, "permission", f"{recipient.domain} is not local")


def _local(routing: Routing, domain: Domain) -> str | None:
    """The rule that makes the domain local."""
    own = "hostname" if domain.key in routing.aliases.destinations else None
    return routing.local_domains.get(domain.key, own)


def _route(
    facts: Facts, envelope: Envelope, recipient: Address, start: Address, steps: list[Step], claim: _Claim
) -> Plan:
    """The plan for a recipient whose mail is permitted; `start` is the address that is looked up first."""
    expansion = expand(facts.routing.aliases, start)
    steps += expansion.steps
    if expansion.fault is not None:
        return _refused(recipient, steps, expansion.fault.refusal, expansion.notes)
    try:
        deliveries = [_final(facts, envelope, address, recipient, steps, claim) for address in expansion.finals]
    except (RouteError, LookupFault) as error:
        return _refused(recipient, steps, Refusal(LOOKUP_FAILED, "routing", str(error)), expansion.notes)
    deliveries += [Delivery(Kind.CAPTURE, kept.address, recipient, rule=kept.rule) for kept in expansion.kept]
    dead = [delivery.refusal for delivery in deliveries if delivery.refusal is not None and delivery.dead]
    if len(dead) == len(deliveries):
        refusal = Refusal(_UNKNOWN, "routing", "the alias has no usable target") if not dead else dead[0]
        if any(each.reply != refusal.reply for each in dead):
            refusal = Refusal(_UNKNOWN, "routing", "no address that it stands for is deliverable")
        return _refused(recipient, steps, refusal, expansion.notes)
    reply = Reply(250, "2.1.5", f"{recipient} accepted")
    notes = (*expansion.notes, *_dead_branches(deliveries))
    return Plan(recipient, reply, tuple(steps), tuple(deliveries), None, notes)


def _dead_branches(deliveries: Sequence[Delivery]) -> tuple[str, ...]:
    """A note for each copy that nobody gets, though no route says so."""
    return tuple(
        f"{delivery.address} is a dead branch ({delivery.refusal.reply}): the sender gets a DSN for it"
        for delivery in deliveries
        if delivery.refusal is not None and delivery.dead
    )


def _full(facts: Facts, account: Address, size: int, steps: list[Step]) -> str:
    """Why the mailbox has no room for the message; "" where it has."""
    used = facts.usage.get(account.key)
    quota = facts.routing.mailboxes[account.key].quota
    if used is None or not quota.limit:
        return ""
    held = f"{used} of {quota.limit} octets"
    if not over(quota, used, size):
        steps.append(Step(quota.rule, str(account), Tried.SKIPPED, f"it has room: {held}"))
        return ""
    steps.append(Step(quota.rule, str(account), Tried.MATCHED, f"over quota: {held}, and {size} more"))
    return f"the mailbox of {account} is full ({held})"


def _final(
    facts: Facts, envelope: Envelope, address: Address, recipient: Address, steps: list[Step], claim: _Claim
) -> Delivery:
    """What happens to one final address: mailbox, route, refusal in a local domain, the sender's relay, the default.

    Raises RouteError, LookupFault.
    """
    routing = facts.routing
    bare = address.without_detail(routing.aliases.delimiter)
    # Postfix looks for mailboxes at no name of its own machine and in no domain that it takes for one of aliases
    # (trivial-rewrite(8), resolve.c).
    ours = address.domain.key in routing.aliases.destinations
    aliased = claim(address.domain)
    if ours:
        why = "our own name, where only aliases are looked up: an account there is never reached"
        steps.append(Step("hostname", address.domain.key, Tried.SKIPPED, why))
    if aliased is not None:
        why = "makes it a domain of aliases only: none of its mailboxes is reached"
        steps.append(Step(aliased, address.domain.key, Tried.MATCHED, why))
    for each in () if ours or aliased is not None else (address,) if bare is None else (address, bare):
        mailbox = routing.mailboxes.get(each.key)
        if mailbox is not None:
            steps.append(Step(mailbox.rule, str(each), Tried.MATCHED, f"mailbox of {mailbox.address}"))
            return Delivery(Kind.MAILBOX, address, recipient, mailbox=mailbox.address, rule=mailbox.rule)
        steps.append(Step("accounts", str(each), Tried.SKIPPED, "no such account"))
    route = matching(routing.routes, address, routing.aliases.delimiter, envelope, steps)
    if route is not None:
        return _claimed(route.rule, route.target, address, recipient)
    local = aliased or _local(routing, address.domain)
    if local is not None:
        steps.append(Step(local, address.domain.key, Tried.MATCHED, "a local domain that has no such address"))
        refusal = Refusal(_UNKNOWN, "routing", f"{address} has no alias, no account and no route")
        return Delivery(Kind.BOUNCE, address, recipient, rule=local, refusal=refusal)
    steps.append(Step("domains", address.domain.key, Tried.SKIPPED, "not a local domain"))
    if routing.relays.fault:
        raise LookupFault(routing.relays.fault)
    copy = Delivery(Kind.ENDPOINT, address, recipient)
    relay = relay_of(routing, plan_sender(routing, envelope, copy, facts.now).path, steps)
    if relay is not None:
        endpoint, rule = relay
        return replace(copy, endpoint=endpoint, rule=rule)
    steps.append(Step("default", str(address), Tried.MATCHED, f"nothing else claims it: {routing.default}"))
    return _claimed("default", routing.default, address, recipient)


def plan_sender(routing: Routing, envelope: Envelope, delivery: Delivery, at: float) -> Sender:
    """The reverse-path of a copy of a message that was received `at`."""

    def local(domain: Domain) -> bool:
        return _local(routing, domain) is not None

    return sender_for(routing.srs, envelope.reverse_path, delivery, local, at)


def relay_of(routing: Routing, sender: Address | None, steps: list[Step]) -> tuple[str, str] | None:
    """The endpoint for mail of this sender to elsewhere, and the rule; None where it has no relay."""
    own = sender is not None and routing.aliases.own(sender.domain)
    return relay_for(routing.relays, sender, steps, own)


def _claimed(rule: str, target: Target, address: Address, recipient: Address) -> Delivery:
    match target.mode:
        case Mode.ENDPOINT:
            return Delivery(Kind.ENDPOINT, address, recipient, target.endpoint, rule=rule, seal=target.seal)
        case Mode.CAPTURE:
            return Delivery(Kind.CAPTURE, address, recipient, rule=rule)
        case Mode.HOLD:
            kind = Kind.ENDPOINT if target.endpoint else Kind.CAPTURE
            return Delivery(kind, address, recipient, target.endpoint, rule=rule, seal=target.seal, held=True)
        case Mode.BOUNCE:
            refusal = Refusal(_RETURNED, rule)
            return Delivery(Kind.BOUNCE, address, recipient, rule=rule, refusal=refusal, deliberate=True)
        case Mode.REJECT:
            refusal = Refusal(_REJECTED, "routing", f"{rule} rejects {address}")
            return Delivery(Kind.BOUNCE, address, recipient, rule=rule, refusal=refusal)
        case _:
            assert_never(target.mode)


def _refused(recipient: Address, steps: list[Step], refusal: Refusal, notes: tuple[str, ...] = ()) -> Plan:
    return Plan(recipient, refusal.reply, tuple(steps), (), refusal, notes)


def _capture(postmaster: Address, plan: Plan) -> Plan:
    """Postmaster's mail where nobody is postmaster: kept to be read."""
    step = Step("RFC 5321 4.5.1", "postmaster", Tried.MATCHED, "always accepted: nobody is postmaster here, captured")
    reply = Reply(250, "2.1.5", "postmaster accepted")
    delivery = Delivery(Kind.CAPTURE, postmaster, postmaster, rule=step.rule)
    return Plan(postmaster, reply, (*plan.steps, step), (delivery,), None, plan.notes)
