"""Differences: what a version of docker-mailserver does where it differs from our plan, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network

from smtproute.core.address import Address, AddressError, Domain
from smtproute.core.aliases import (
    MAX_NODES,
    Aliases,
    Expansion,
    LookupFault,
    TextTable,
    claimed,
    direct,
    expand,
    targets,
)
from smtproute.core.decide import Facts, Mailbox, Routing, limited, plan_sender, relay_of
from smtproute.core.docker_mailserver import Folder, Signing, UserdbLine
from smtproute.core.envelope import Envelope
from smtproute.core.permit import LOOPBACK, inside
from smtproute.core.plan import Delivery, Plan, Tried
from smtproute.core.quota import over
from smtproute.core.relays import Relays
from smtproute.core.reply import Refusal, Reply
from smtproute.core.seals import Seal
from smtproute.core.settings import Kind
from smtproute.core.srs import Sender

__all__ = ["differences", "quota_name"]

ARC_CONF = "rspamd/override.d/arc.conf"
LISTED = 3
"""Addresses that one sentence names."""


@dataclass(frozen=True, slots=True)
class _Case:
    """One recipient of a message, our plan for it, and what docker-mailserver would look at."""

    folder: Folder
    facts: Facts
    envelope: Envelope
    plan: Plan
    seals: Sequence[Seal]
    """Of the plan's deliveries, in their order; empty where nobody asked."""
    first: Address
    """The message's first recipient."""
    virtual: Aliases
    """What Postfix expands before it delivers: local(8) looks into the local aliases later."""
    expansion: Expansion
    """What those make of the recipient."""
    aliased: bool
    """Whether any alias has the recipient, a local one too."""

    @property
    def recipient(self) -> Address:
        return self.plan.recipient


@dataclass(frozen=True, slots=True)
class _Said:
    text: str
    variables: tuple[str, ...] = ()
    """Those of the environment that it rests on."""


def quota_name(folder: Folder, routing: Routing, recipient: Address) -> Address | None:
    """Whose quota docker-mailserver's Postfix asks at RCPT: a name of Dovecot's userdb, or None where it has no limit.

    That is the recipient as written, without `+detail`. Dovecot counts what is in the folder of that name, which for
    an alias's virtual account is a folder of its own (mail_location has the name, not the home).
    """
    line = _userdb_line(folder, recipient)
    account = _mailbox(routing, line.account) if line is not None else None
    return _without_detail(recipient) if account is not None and account.quota.limit else None


def differences(
    folder: Folder,
    facts: Facts,
    envelope: Envelope,
    plan: Plan,
    seals: Sequence[Seal] = (),
    first: Address | None = None,
) -> tuple[str, ...]:
    """What this version of docker-mailserver does with the recipient where it differs from our plan, in sentences.

    `facts.usage` should name the mailboxes that are limited and `quota_name`; what is not there is not judged.
    `first` is the message's first recipient, None where that is the plan's.
    """
    aliases = facts.routing.aliases
    virtual = replace(aliases, local=())
    expansion = expand(virtual, plan.recipient)
    steps = expand(aliases, plan.recipient).steps if aliases.local else expansion.steps
    aliased = any(step.result is Tried.MATCHED for step in steps)
    case = _Case(folder, facts, envelope, plan, seals, first or plan.recipient, virtual, expansion, aliased)
    sections = (_at_rcpt, _second_expansion, _sender_login, _sealing, _sender_rewriting, _relay)
    said = [each for section in sections for each in section(case)]
    names = dict.fromkeys(name for each in said for name in each.variables)
    sentences = [each.text for each in said]
    if names and not folder.environment.written:
        sentences.append(_assumed(folder, names))
    return tuple(dict.fromkeys(sentences))


def _assumed(folder: Folder, names: Iterable[str]) -> str:
    """What was taken for granted, because no environment file says it."""
    taken = [
        f"{name}=1 (as {ARC_CONF} suggests)"
        if name == "ENABLE_RSPAMD"
        else f"{name}={folder.environment[name]} (the default)"
        for name in names
    ]
    return f"There is no environment file (docker_mailserver.env): this holds if {' and '.join(taken)}."


def _grouped(said: Iterable[tuple[str, Address, str]]) -> Iterator[str]:
    """Sentences of a beginning, an address and an end: one for all addresses of which the same is said."""
    groups: dict[tuple[str, str], list[str]] = {}
    for before, address, after in said:
        groups.setdefault((before, after), []).append(str(address))
    for (before, after), addresses in groups.items():
        more = f" and {len(addresses) - LISTED} more" if len(addresses) > LISTED else ""
        yield f"{before} {', '.join(addresses[:LISTED])}{more} {after}."


# Quota, and what is accepted only to bounce


_OVER = Reply(552, "5.2.2", "Mailbox is full")
_OVER_16 = Reply(554, "5.2.2", "Quota exceeded (mailbox for user is full)")
"""16.0.0 lost quota_status_overquota too: Dovecot's own words."""


def _without_detail(recipient: Address) -> Address:
    """As Dovecot's quota service does, whose recipient_delimiter is its default."""
    return recipient.without_detail("+") or recipient


def _userdb_line(folder: Folder, recipient: Address) -> UserdbLine | None:
    """The line that Dovecot finds for a recipient: of two with one name the first, and none with capitals."""
    name = _without_detail(recipient).key
    return next((line for line in folder.userdb if line.name == name), None)


def _quotas(folder: Folder) -> bool:
    """Whether Postfix asks Dovecot at all."""
    environment = folder.environment
    return (
        environment.on("ENABLE_QUOTAS")
        and environment["ACCOUNT_PROVISIONER"] == "FILE"
        and not environment.on("SMTP_ONLY")
    )


def _at_rcpt(case: _Case) -> Iterator[_Said]:
    """What Postfix answers to RCPT, and what becomes of mail that it accepts and we do not."""
    refusal, client = case.plan.refusal, case.envelope.client
    if refusal is not None and refusal.says not in ("aliases", "routing", "quota"):
        return  # what comes before the alias tables is refused there as here
    if refusal is not None and refusal.reply.enhanced == "4.3.0":
        return  # a table that cannot answer is asked at RCPT there too
    asked = client.login is None and not client.trusted and _quotas(case.folder)
    line = _userdb_line(case.folder, case.recipient)
    if asked and _local(case):
        theirs = _unknown(case) if line is None else _full(case, line)
        if theirs is not None:
            reply, why = theirs
            if refusal is None or (refusal.reply.code, refusal.reply.enhanced) != (reply.code, reply.enhanced):
                instead = " instead" if refusal is not None else ""
                yield _Said(f"At RCPT it answers {reply}{instead}: {why}.", ("ENABLE_QUOTAS",))
            return
    if refusal is None:
        if asked and line is None and _local(case) and case.aliased:
            text = f"Dovecot's quota service knows no {_without_detail(case.recipient)}"
            yield _Said(f'{text}: it logs "unknown user" and lets it pass.', ("ENABLE_QUOTAS",))
        full = (("The copy for", account, "bounces (552 5.2.2), where ours is deferred") for account in _fulls(case))
        yield from map(_Said, _grouped(full))
    else:
        yield from _accepted(case, refusal, line)


def _local(case: _Case) -> bool:
    """Whether docker-mailserver takes the recipient's domain for its own."""
    routing, domain = case.facts.routing, case.recipient.domain
    try:
        return domain.key in routing.local_domains or claimed(routing.aliases, domain) is not None
    except LookupFault:
        return False


def _unknown(case: _Case) -> tuple[Reply, str] | None:
    """The refusal of a name that Dovecot does not know: 16.0.0 lost quota_status_nouser = DUNNO."""
    if case.folder.version != "16":
        return None
    name = _without_detail(case.recipient)
    why = f"16.0.0 lets pass only what Dovecot's quota service knows, and {name} is no account and no virtual account"
    return Reply(554, "5.7.1", "Unknown user"), f"{why} (#4767, mended by #4769)"


def _full(case: _Case, line: UserdbLine) -> tuple[Reply, str] | None:
    """The refusal by the quota of the recipient as written, whose mailbox may be one that gets nothing."""
    name = _without_detail(case.recipient)
    account = _mailbox(case.facts.routing, line.account)
    used = case.facts.usage.get(name.key)
    if account is None or used is None or not over(account.quota, used, case.envelope.size or 0):
        return None
    why = f"the quota is asked for {name} as written, before any alias, and its mailbox is full"
    why += f" ({used} of {account.quota.limit} octets)"
    if all(each.mailbox is None or each.mailbox.key != name.key for each in case.plan.deliveries):
        why += ", though nothing of this mail goes there"
    return _OVER_16 if case.folder.version == "16" else _OVER, why


def _mailbox(routing: Routing, account: str) -> Mailbox | None:
    try:
        return routing.mailboxes.get(Address.parse(account).key)
    except AddressError:
        return None


def _fulls(case: _Case) -> Iterator[Address]:
    """The full mailboxes among those that the mail is for."""
    routing, usage = case.facts.routing, case.facts.usage
    for account in limited(case.plan, routing):
        quota = routing.mailboxes[account.key].quota
        if over(quota, usage.get(account.key, 0), case.envelope.size or 0):
            yield account


def _accepted(case: _Case, refusal: Refusal, line: UserdbLine | None) -> Iterator[_Said]:
    """What becomes of mail that we refuse at RCPT and docker-mailserver does not."""
    login = case.envelope.client.login
    later = "It answers 250 at RCPT and bounces later, to a sender that may be forged"
    match refusal.says:
        case "aliases":
            if case.expansion.fault is not None:
                text = "It answers 250 at RCPT, then 451 4.6.0 Alias expansion error after DATA, at every retry"
                yield _Said(f"{text}: {refusal.detail}.")
            else:
                yield _Said(f"{later}: {refusal.detail}.")
        case "routing" if refusal.reply.enhanced == "5.1.1":
            if case.aliased:
                yield _Said(f"{later}: an alias has {case.recipient}, and where it leads is asked after the 250 only.")
            elif login is not None:
                text = "It answers 250 at RCPT and bounces to the sender: submission has"
                yield _Said(f"{text} smtpd_reject_unlisted_recipient=no, so that {login} hears of it by a bounce only.")
        case "quota":
            if not _quotas(case.folder):
                return
            if login is not None or case.envelope.client.trusted:
                why = "who has logged in" if login is not None else "a client in mynetworks"
                why = f"{why} is permitted before the quota is asked"
            elif line is None:
                why = f"Dovecot's quota service knows no {_without_detail(case.recipient)}, and lets it pass"
            elif line.name == line.account:
                why = f"the quota is asked for {line.name} as written, before any alias, and its mailbox has room"
            else:
                why = f"the quota is asked for {line.name}, a virtual account with the limit of {line.account} and a"
                why += " folder of its own, which no mail gets into"
            yield _Said(f"{later} (552 5.2.2): {why}.", ("ENABLE_QUOTAS",))


# Amavis


def _second_expansion(case: _Case) -> Iterator[_Said]:
    """Amavis hands mail back to a Postfix that expands aliases again (no_address_mappings is not set)."""
    finals = case.expansion.finals
    if not case.folder.environment.on("ENABLE_AMAVIS") or case.plan.refusal is not None or len(finals) < 2:
        return
    copies: Counter[str] = Counter()
    addresses: dict[str, Address] = {}
    for final in finals:
        again = expand(case.virtual, final).finals
        addresses.update((each.key, each) for each in again)
        copies.update(each.key for each in again)
        if copies.total() > MAX_NODES:
            return
    text = "Amavis hands the mail back and the aliases are expanded again:"
    several = [
        (f"{text} {count} copies go to", addresses[key], "(#683, #1354)") for key, count in copies.items() if count > 1
    ]
    yield from (_Said(each, ("ENABLE_AMAVIS",)) for each in _grouped(several))


# Who may send as whom


def _sender_login(case: _Case) -> Iterator[_Said]:
    """What the login maps say of the sender (smtpd_sender_login_maps), where that surprises."""
    login, sender, routing = case.envelope.client.login, case.envelope.reverse_path, case.facts.routing
    if login is None or sender is None or login.key == sender.key:
        return
    try:
        named = {owner.lower() for _, owner in direct(routing.aliases, sender)}
    except LookupFault:
        return
    if login.key in named:
        return
    if not routing.spoof_protection:
        text = f"Without SPOOF_PROTECTION=1 who has logged in may send as anybody, {login} as {sender}"
        yield _Said(f"{text}: nothing else looks at it.", ("SPOOF_PROTECTION",))
        return
    for key, rule in _hidden(routing.aliases, login, sender):
        text = f"SPOOF_PROTECTION=1 ends in a pattern that answers every address with itself, so {key} ({rule})"
        yield _Said(f"{text} is never asked and does not let {login} send as {sender} (#4442): write {sender} {login}.")


def _hidden(aliases: Aliases, login: Address, sender: Address) -> Iterator[tuple[str, str]]:
    """Keys that name the login, and that Postfix would ask if nothing answered before: and their rules."""
    bare = sender.without_detail(aliases.delimiter)
    if bare is not None and bare.key == login.key:
        yield str(bare), "the login itself"
    for key in (bare.key if bare is not None else "", f"@{sender.domain.key}"):
        for table in aliases.tables:
            entry = table.entries.get(key) if isinstance(table, TextTable) else None
            if entry is not None and login.key in (target.lower() for target in targets(entry.value)):
                yield key, f"{table.file}:{entry.line}"


# Seals


_LOOKS_LOCAL = tuple(
    ip_network(each)
    for each in (*LOOPBACK, "10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8")
)
"""What rspamd takes for local: behind the gateway of a container network that is everybody."""


def _sealing(case: _Case) -> Iterator[_Said]:
    """rspamd seals a message once, before aliases are expanded; we seal each copy.

    Of mail that was submitted nothing is said: whether its ARC module sees that depends on more than the folder.
    """
    arc, client = case.folder.arc, case.envelope.client
    copies = [pair for pair in zip(case.plan.deliveries, case.seals, strict=False) if pair[0].kind is Kind.ENDPOINT]
    if client.login is not None or (arc is not None and _option(arc, "use_domain", "recipient") != "recipient"):
        return
    variables = ("ENABLE_RSPAMD",) if arc is not None else ()
    yield from (_Said(text, variables) for text in _grouped(_otherwise_sealed(case, copies)))


def _otherwise_sealed(case: _Case, copies: Sequence[tuple[Delivery, Seal]]) -> Iterator[tuple[str, Address, str]]:
    theirs, why = _sealed_by(case)
    for delivery, seal in copies:
        ours = seal.key.domain.key if seal.key is not None else ""
        if ours and not theirs:
            yield "The copy for", delivery.address, f"is not sealed: {why}"
        elif theirs and ours != theirs:
            here = f", not by {ours}" if ours else ""
            yield "rspamd seals the copy for", delivery.address, f"by {theirs}{here}: {why}"
        elif seal.wanted and not ours:
            after = "is not sealed there either, and the log says so at debug level only"
            yield "The copy for", delivery.address, f"{after}: {why}"
        elif theirs and case.first == case.recipient and _other_domains(case):
            before = "rspamd seals a message once, by the domain of its first recipient: behind one of another domain"
            yield f"{before} the copy for", delivery.address, f"is not sealed by {theirs}"


def _sealed_by(case: _Case) -> tuple[str, str]:
    """The domain by which rspamd seals the message ("": not at all), and why."""
    arc, environment, client = case.folder.arc, case.folder.environment, case.envelope.client
    if arc is None:
        return "", f"the folder has no {ARC_CONF}"
    if environment.written and not environment.on("ENABLE_RSPAMD"):
        return "", "ENABLE_RSPAMD is not 1"
    if inside(client.ip, _LOOKS_LOCAL):
        if not arc.option("sign_local", False):
            return "", f"{client.ip} looks local to rspamd, and sign_local is not true in {arc.file}"
    elif not arc.option("sign_inbound", True):
        return "", f"sign_inbound is not true in {arc.file}"
    domain = case.first.domain.key
    asked = arc.asked(domain)
    why = f"the domain of the first recipient, {case.first}, before aliases"
    if asked != domain:
        why = f"use_esld makes {asked} of {domain}, {why}"
    if not any(key.domain.lower() == asked for key in arc.keys) and not {"path", "path_map"} & arc.options.keys():
        return "", f"{arc.file} has no key for {asked} ({why})"
    return asked, why


def _option(signing: Signing, name: str, default: str) -> str:
    line = signing.options.get(name)
    return default if line is None else line.value.lower()


def _other_domains(case: _Case) -> bool:
    """Whether a message for the recipient may have another of a different local domain."""
    routing = case.facts.routing
    own = {case.recipient.domain.key, routing.hostname.key, *routing.aliases.destinations}
    return any(domain not in own for domain in routing.local_domains)


# The sender on the way out


def _rewritten(folder: Folder, sender: Address | None) -> Address | None:
    """What postsrsd makes of the sender; None where it stays."""
    environment = folder.environment
    if sender is None or not environment.on("ENABLE_SRS") or "envelope_sender" not in environment["SRS_SENDER_CLASSES"]:
        return None
    try:
        domain = Domain.parse(folder.srs_domain)
    except AddressError:
        return None
    if sender.domain == domain or folder.srs_spares(sender.domain.key):
        return None
    return Address(f"SRS0=HASH=TT={sender.domain.key}={sender.local}", domain)


def _sender(case: _Case, delivery: Delivery) -> Sender:
    """Ours."""
    return plan_sender(case.facts.routing, case.envelope, delivery, case.facts.now)


def _sender_rewriting(case: _Case) -> Iterator[_Said]:
    """postsrsd rewrites the sender of a message, before anybody asks where its copies go; we that of each forward."""
    sender, rewritten = case.envelope.reverse_path, _rewritten(case.folder, case.envelope.reverse_path)
    copies = [(each.address, each.kind, _sender(case, each).rewritten) for each in case.plan.deliveries]
    if rewritten is None:
        after = f"keeps its sender, {sender}"
        kept = (("Without SRS the copy for", address, after) for address, _, ours in copies if ours)
        yield from (_Said(text, ("ENABLE_SRS",)) for text in _grouped(kept))
        return
    here = [str(address) for address, kind, _ in copies if kind is Kind.MAILBOX]
    out = [str(address) for address, kind, ours in copies if kind is Kind.ENDPOINT and not ours]
    if here or out:
        text = f"ENABLE_SRS=1 makes {rewritten} of the sender {sender} (HASH and TT are its seal and day)"
        text += f", in what stays here too: {', '.join(here[:LISTED])}" if here else ""
        text += f", also for {', '.join(out[:LISTED])}" if out else ""
        yield _Said(f"{text}.")


def _relay(case: _Case) -> Iterator[_Said]:
    """Which relay takes the copies that go elsewhere, where the sender at that moment is another than ours."""
    relays, sender = case.facts.routing.relays, case.envelope.reverse_path
    rewritten = _rewritten(case.folder, sender)
    theirs = relay_of(case.facts.routing, rewritten or sender, [])
    said = []
    for delivery in case.plan.deliveries:
        ours = relay_of(case.facts.routing, _sender(case, delivery).path, [])
        if delivery.rule not in ("default", ours[1] if ours is not None else "default"):
            continue
        where = f"to the MX of {delivery.address.domain}" if theirs is None else f"through {theirs[0]} ({theirs[1]})"
        if theirs != ours and rewritten is not None:
            after = f"goes {where}: its relay is chosen after SRS, by a sender at {rewritten.domain} (#4544)"
            said.append(("The copy for", delivery.address, after))
        elif theirs is None and sender is not None and case.aliased and _has_relay(relays, case.recipient):
            after = f"goes {where}: a forward keeps its sender, {sender}, so that the relay of {case.recipient.domain}"
            said.append(("The copy for", delivery.address, f"{after} does not take it (#3962)"))
    yield from map(_Said, _grouped(said))


def _has_relay(relays: Relays, address: Address) -> bool:
    return address.key in relays.by_sender or f"@{address.domain.key}" in relays.by_sender
