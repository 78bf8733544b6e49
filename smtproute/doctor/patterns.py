"""Patterns: what the rules of a pcre table match, and what they do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from smtproute.core.address import Address, AddressError, Domain
from smtproute.core.aliases import LookupFault, PatternError, PcreRule, PcreTable, compile_pattern, targets
from smtproute.core.finding import Finding, error, warning
from smtproute.doctor.shapes import Branch, branches
from smtproute.doctor.survey import Survey, listed

__all__ = ["examine"]

_ODD = (" ", "<", ">", ",", ";")
"""What slips into patterns and no plain address has."""
PROBE = "probe-7c1e.example"
"""A domain that no pattern has a reason to name."""


@dataclass(frozen=True, slots=True)
class _Rule:
    where: str
    rule: PcreRule
    ways: tuple[Branch, ...]
    """None of them where the pattern is negated or not understood."""

    @property
    def text(self) -> str:
        return self.rule.condition.text

    @property
    def target(self) -> str:
        """The result as it is written."""
        pieces = (each.replace("$", "$$") if isinstance(each, str) else f"${{{each}}}" for each in self.rule.result)
        return "".join(pieces)

    def matches(self, address: Address) -> bool:
        try:
            return bool(self.rule.condition.match(str(address).encode("utf-8", "surrogateescape")))
        except LookupFault:
            return False


def examine(survey: Survey) -> Iterator[Finding]:
    """Patterns that make domains local, never match, match strangers' domains only, or take more than they say."""
    rules = list(_rules(survey))
    claims = _claims(survey, rules)
    taken: dict[str, list[Address]] = {}
    for mailbox in survey.routing.mailboxes.values():
        outlook = survey.outlook(mailbox.address)
        alias = outlook.alias
        if alias is not None and alias.rule in survey.patterns and not outlook.reaches(mailbox.address):
            taken.setdefault(alias.rule, []).append(mailbox.address)
    seen: dict[tuple[str, tuple[str, ...]], str] = {}
    for each in rules:
        same = (each.text, tuple(outer.text for outer in each.rule.enclosing))
        earlier = seen.setdefault(same, each.where)
        claimed = claims.get(each.where)
        if earlier != each.where:
            what = f"{each.text} stands in {earlier} already, and the first rule that matches wins. Take this one out."
            yield warning("pattern-never-matches", each.where, what)
        elif claimed is not None:
            yield claimed
        elif each.ways and all(way.never() for way in each.ways):
            what = f"{each.text} never matches: {each.ways[0].never()}. Its mail is refused or goes elsewhere."
            yield warning("pattern-never-matches", each.where, what, _mended(survey, each))
        else:
            yield from _foreign(survey, each)
            yield from _dead(survey, each)
            if each.where in taken:
                yield _takes(each, taken[each.where])
    for where in claims.keys() - {each.where for each in rules}:
        yield claims[where]


def _rules(survey: Survey) -> Iterator[_Rule]:
    for table in survey.tables.tables:
        for rule in table.rules if isinstance(table, PcreTable) else ():
            yield _Rule(f"{table.file}:{rule.line}", rule, _ways(rule))


def _ways(rule: PcreRule) -> tuple[Branch, ...]:
    text = rule.condition.text
    if rule.condition.negated or rule.condition.anchored:
        return ()
    end = text.rindex(text[0])
    return () if set(text[end + 1 :]) & set("mxU") else branches(text[1:end])


def _mended(survey: Survey, each: _Rule) -> str:
    """The line that the author of a pattern that never matches probably wants; "" where that is anybody's guess."""
    domain = next(iter(survey.mail_domains), "")
    way = each.ways[0]
    if not domain or len(each.ways) > 1 or not all(atom.literal or atom.wild for atom in way.body):
        return ""
    text = "".join(atom.text for atom in way.body if atom.literal not in _ODD)
    if text.startswith("@"):
        return f"{way.domain and '@' + way.domain} {each.target} (in postfix-virtual.cf)"
    return f"/^{text}{'' if '@' in text else '@' + _escaped(domain)}$/ {each.target}"


def _escaped(domain: str) -> str:
    return domain.replace(".", r"\.")


# Domains that become local


def _claims(survey: Survey, rules: list[_Rule]) -> dict[str, Finding]:
    """By the rule: the domains whose bare name it matches, where that does harm."""
    if survey.tables.alias_domains is not None:
        return {}
    ours: dict[str, list[str]] = {}
    for domain in survey.mail_domains:
        rule = survey.claim(domain)
        if rule is not None and domain in survey.peopled:
            ours.setdefault(rule, []).append(domain)
    foreign: dict[str, list[str]] = {}
    for each in rules:
        for way in each.ways:
            for candidate in dict.fromkeys((way.bare, way.sample())):
                if _foreign_domain(survey, candidate) and survey.claim(candidate) == each.where:
                    foreign.setdefault(each.where, []).append(candidate)
    everything = survey.claim(PROBE)
    targets = {each.where: (each.text, f"{each.target}") for each in rules}
    found = {}
    for where in dict.fromkeys((*ours, *foreign, *([everything] if everything else []))):
        text, target = targets.get(where, ("", ""))
        subject = text or (f'The key "{survey.entries[where].key}"' if where in survey.entries else "This line")
        own, others = ours.get(where, []), foreign.get(where, [])
        what = f"{subject} matches bare domains, which docker-mailserver takes for domains of aliases only."
        if where == everything:
            what += " It matches every domain: mail to the whole world is taken, from anyone, and never sent on."
        elif others:
            what += f" So all mail to {listed(others)} is taken here, from strangers and from your own users alike."
        if own:
            people = [str(account) for domain in own for account in survey.accounts(domain)]
            what += f" No mailbox of {listed(own)} is reached any more: mail to {listed(people)} gets 550."
        if text:
            found[where] = error("pattern-claims-domain", where, what, _with_at(survey, target, own))
        else:
            what += " docker-mailserver makes the domain local without this line: take it out."
            found[where] = error("alias-claims-domain", where, what)
    return found


def _foreign_domain(survey: Survey, text: str) -> bool:
    if "." not in text or text in survey.routing.local_domains:
        return False
    try:
        return Domain.parse(text).key == text
    except AddressError:
        return False


def _with_at(survey: Survey, target: str, domains: list[str]) -> str:
    """The lines of postfix-virtual.cf that do what a pattern over whole domains of ours is for."""
    if not domains or "$" in target:
        return r"/^sales@example\.org$/, with the whole address between ^ and $"
    people = "".join(f"{account} {account}\n" for domain in domains for account in survey.accounts(domain))
    return f"{people}{''.join(f'@{domain} {target}' + chr(10) for domain in domains)}(in postfix-virtual.cf)"


# Domains that are not local


def _foreign(survey: Survey, each: _Rule) -> Iterator[Finding]:
    domains = [way.domain for way in each.ways if way.domain and not way.never() and not _reaches(survey, way)]
    if not domains:
        return
    strange = listed(list(dict.fromkeys(domains)))
    what = (
        f"{each.text} is for {strange}, which is no local domain: docker-mailserver takes domains from"
        " postfix-accounts.cf and postfix-virtual.cf, not from here. Strangers who write to it get 554 5.7.1."
    )
    lines = "\n".join(f"postmaster@{domain} {survey.tables.origin}" for domain in dict.fromkeys(domains))
    folder = survey.folder
    if folder is not None:
        lines = "\n".join(f"postmaster@{domain} {folder.postmaster}" for domain in dict.fromkeys(domains))
    yield error("pattern-foreign", each.where, what, f"{lines} (in postfix-virtual.cf)")


def _reaches(survey: Survey, way: Branch) -> bool:
    """Whether a local domain can stand where the branch has its domain."""
    tail = "".join(r"." if atom.wild else atom.text for atom in way.written or ())
    pattern = compile_pattern(f"^(?i:{tail}){'$' if way.end else ''}")
    if any(pattern.search(domain.encode()) for domain in survey.routing.local_domains):
        return True
    return survey.claim(way.domain) is not None


# Targets, and accounts taken


def _dead(survey: Survey, each: _Rule) -> Iterator[Finding]:
    """A result without groups that leads nowhere: asked with an address that the pattern matches."""
    if not each.ways or any(isinstance(piece, int) for piece in each.rule.result):
        return
    way = next((way for way in each.ways if not way.never()), each.ways[0])
    sample = way.sample()
    local, at, domain = sample.partition("@")
    if not at:
        domain = next(iter(survey.mail_domains), "")
    try:
        address = Address.parse(f"{local or 'x'}@{domain}")
    except AddressError:
        return
    outlook = survey.outlook(address)
    if outlook.alias is None or outlook.alias.rule != each.where:
        return
    dead = [one.address.key for one in outlook.deliveries if one.dead]
    if outlook.refusal is not None and outlook.refusal.reply.permanent:
        what = (
            f"{each.text} leads to {each.target}, and nobody is there: Postfix accepts each message, then returns it to"
            " its sender, who is often forged (backscatter). Here RCPT is refused."
        )
        yield error("dead-alias", each.where, what, f"setup email add {next(iter(targets(each.target)))}")
    elif dead:
        what = (
            f"{each.text} leads to {listed(dead)} among others, and nobody is there: Postfix accepts the message, then"
            " returns it for that target to its sender, who is often forged (backscatter)."
        )
        live = ", ".join(target for target in targets(each.target) if target.lower() not in dead)
        yield error("dead-branch", each.where, what, f"{each.text} {live}")


def _takes(each: _Rule, accounts: list[Address]) -> Finding:
    """Accounts whose mail a pattern takes: more than it says, or just what it says."""
    selves = "\n".join(f"{account} {account}" for account in accounts)
    wide = [account for account in accounts if not _said(each, account)]
    if wide:
        what = (
            f"{each.text} matches more than it says: {listed([str(account) for account in wide])} too, because a dot"
            " stands for any character and a pattern without ^ and $ matches anywhere. Its result gets that mail, and"
            " the mailbox stays empty."
        )
        strict = "\n".join(f"/{way.strict()}/ {each.target}" for way in each.ways)
        return warning("pattern-too-wide", each.where, what, strict)
    mailbox = "its mailbox stays" if len(accounts) == 1 else "their mailboxes stay"
    what = (
        f"{each.text} takes the mail of {listed([str(account) for account in accounts])}: aliases come before"
        f" mailboxes, and {mailbox} empty. An entry of postfix-virtual.cf goes before a pattern."
    )
    return error("pattern-steals", each.where, what, f"{selves} (in postfix-virtual.cf)")


def _said(each: _Rule, account: Address) -> bool:
    """Whether the pattern matches the account even with its dots escaped and its ends anchored."""
    if not each.ways:
        return True
    text = str(account).encode("utf-8", "surrogateescape")
    try:
        return any(compile_pattern(f"(?i){way.strict()}").search(text) for way in each.ways)
    except PatternError:
        return True
