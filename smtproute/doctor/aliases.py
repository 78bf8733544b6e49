"""Aliases: what the text tables say that cannot work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from smtproute.core.address import AddressError
from smtproute.core.aliases import Trouble, completed, elsewhere, targets
from smtproute.core.finding import Finding, error, warning
from smtproute.doctor.survey import Alias, Survey, listed

__all__ = ["examine"]


def examine(survey: Survey) -> Iterator[Finding]:
    """Loops, aliases beyond Postfix's limits, targets that nobody gets, keys and targets that are no addresses."""
    loops: dict[frozenset[str], list[Alias]] = {}
    paths: dict[frozenset[str], str] = {}
    deep: list[Alias] = []
    for alias in survey.aliases:
        if alias.key.startswith("/"):
            continue  # a pattern in the wrong file
        if "." in alias.key and "@" not in alias.key and survey.claim(alias.key) == alias.where:
            continue  # a domain, which the patterns' family knows
        if alias.address is None:
            if "@" in alias.key:
                what = f'The key "{alias.key}" is no address that mail can have: the line never matches.'
                yield warning("no-address", alias.where, what)
            continue
        fault = survey.fault(alias.address)
        if fault is None:
            yield from _targets(survey, alias)
            yield from _strangers(survey, alias)
            continue
        match fault.trouble:
            case Trouble.LOOP:
                circle = frozenset(fault.circle)
                loops.setdefault(circle, []).append(alias)
                paths.setdefault(circle, " -> ".join(fault.circle))
            case Trouble.TOO_DEEP:
                deep.append(alias)
            case Trouble.TOO_WIDE:
                what = (
                    f"{alias.key} becomes more than 1000 addresses, Postfix's virtual_alias_expansion_limit: its mail"
                    " gets 451 4.6.0 after DATA, again at every retry, and is returned to the sender after days. So"
                    " many readers are for a mailing list manager."
                )
                yield error("alias-too-wide", alias.where, what)
            case Trouble.TABLE:
                what = f"Mail to {alias.key} is put off again and again: {fault.refusal}."
                yield error("alias-fails", alias.where, what)
            case _:
                assert_never(fault.trouble)
    for alias in survey.local_aliases:
        outlook = survey.outlook(alias.address) if alias.address is not None and "@" not in alias.key else None
        if alias.where.startswith("/"):
            continue  # docker-mailserver's own line, which the postmaster's family knows
        if outlook is not None and outlook.alias is not None and outlook.alias.rule == alias.where:
            yield from _targets(survey, alias)
    for circle, aliases in loops.items():
        yield _loop(survey, circle, paths[circle], aliases)
    if deep:
        names = listed([alias.key for alias in deep])
        what = (
            f"{names}: more than 1000 aliases follow one another (Postfix's virtual_alias_recursion_limit), or the"
            " address grows without end. That mail gets 451 4.6.0 after DATA, again at every retry, and is returned to"
            " the sender after days."
        )
        yield error("alias-too-deep", deep[0].where, what, f"{deep[0].key} {survey.somebody(deep[0])}")


def _loop(survey: Survey, circle: frozenset[str], path: str, aliases: list[Alias]) -> Finding:
    """One finding for all that leads into one circle."""
    inside = [alias for alias in aliases if alias.address is not None and alias.address.key in circle]
    outside = [alias.key for alias in aliases if alias not in inside]
    what = (
        f"A loop: {path}. Postfix accepts the recipient, then answers 451 4.6.0 after DATA, again at every retry: the"
        " sender gets the message back after days, and nobody here sees it."
    )
    if outside:
        what += f" So does mail to {listed(outside)}, which leads there."
    first = (inside or aliases)[0]
    return error("alias-loop", first.where, what, f"{first.key} {survey.somebody(first)}")


def _targets(survey: Survey, alias: Alias) -> Iterator[Finding]:
    """Targets that nobody gets, each where it is named."""
    assert alias.address is not None
    for fault in _no_addresses(survey, alias):
        what = f"{alias.key}: {fault}; this target gets nothing. Its mail goes to the other targets only."
        kept = [str(each) for each in survey.direct(alias)] or [survey.somebody(alias)]
        yield error("target-no-address", alias.where, what, f"{alias.key} {','.join(kept)}")
    if elsewhere(alias.value):
        return  # a line in the wrong file, or a local alias
    if alias.catch_all and alias.value.startswith("@"):
        yield from _domain_alias(survey, alias)
        return
    named = list(survey.direct(alias))
    dead = [str(each) for each in named if _dead(survey, alias, each.key)]
    if not dead:
        return
    live = [str(each) for each in named if str(each) not in dead]
    branch = f"{listed(dead)} {'is a dead branch' if len(dead) == 1 else 'are dead branches'}"
    if live:
        what = (
            f"{branch} of {alias.key}: no such account or alias is there. Postfix accepts the message, then returns it"
            " for that target to its sender, who is often forged (backscatter). The others get their copy."
        )
        yield error("dead-branch", alias.where, what, f"{alias.key} {','.join(live)}")
    else:
        what = (
            f"{branch} of {alias.key}, and there is no other: no such account or alias is there. Postfix accepts each"
            " message, then returns it to its sender, who is often forged (backscatter). Here RCPT is refused."
        )
        yield error("dead-alias", alias.where, what, f"setup email add {dead[0]}")


def _no_addresses(survey: Survey, alias: Alias) -> Iterator[AddressError]:
    """What is wrong with each target that is no address."""
    for number, target in enumerate(targets(alias.value)):
        if elsewhere(target) or (number == 0 and alias.value.startswith("@")):
            continue  # a line in the wrong file, or a local alias; or the same name at another domain
        try:
            completed(target, survey.tables.origin)
        except AddressError as fault:
            yield fault


def _dead(survey: Survey, alias: Alias, target: str) -> bool:
    """Whether nobody gets what is for this target of the entry, because of this entry and no other."""
    assert alias.address is not None
    if target == alias.address.key:
        outlook = survey.outlook(alias.address)
        stays = any(each.address.key == target and each.dead for each in outlook.deliveries)
        return stays or (outlook.refusal is not None and not outlook.deliveries)
    address = next(each for each in survey.direct(alias) if each.key == target)
    if not survey.local(address.domain.key) and not survey.picky:
        return False
    outlook = survey.outlook(address)
    gone = outlook.refusal is not None and outlook.refusal.reply.permanent
    return gone and outlook.alias is None and survey.claim(address.domain.key) is None


def _domain_alias(survey: Survey, alias: Alias) -> Iterator[Finding]:
    """`@a @b`: every address of a becomes the same of b, whether b has it or not."""
    assert alias.address is not None
    outlook = survey.outlook(alias.address)
    domain = alias.value.removeprefix("@")
    if outlook.refusal is not None and outlook.refusal.reply.permanent:
        what = (
            f"Postfix accepts every address {alias.key}, because the key matches it. What {domain} does not have is"
            " returned afterwards to its sender, who is often forged (backscatter)."
        )
        people = survey.accounts(domain) or [alias.address]
        lines = "\n".join(f"{each.quoted_local}{alias.key} {each.quoted_local}{alias.value}" for each in people)
        yield warning("domain-alias", alias.where, what, lines)


def _strangers(survey: Survey, alias: Alias) -> Iterator[Finding]:
    """A key whose domain is not local: permission comes before routing."""
    assert alias.address is not None
    domain = alias.address.domain
    if not survey.inbound or survey.local(domain.key):
        return
    if survey.stranger(alias.address) is not None:
        what = (
            f"{alias.key} is {alias.address}, and {domain} is no local domain: strangers who write to it get 554 5.7.1."
        )
        yield error("alias-foreign", alias.where, what, f'domains = ["{domain}"]')
