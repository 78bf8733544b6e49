"""Access: who may not send, who may not receive (access(5) tables, asked before anything is routed)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from smtproute.core.address import Address
from smtproute.core.aliases import Entry
from smtproute.core.plan import Step, Tried
from smtproute.core.reply import Refusal, Reply

__all__ = ["AccessTable", "refused"]

_REPLY = re.compile(r"([45])\d\d(?:\s+([245]\.\d{1,3}\.\d{1,3}))?(?:\s+(.*))?")


@dataclass(frozen=True, slots=True)
class AccessTable:
    """A texthash table: lower-case key to action. With a `fault` it answers nothing, as in Postfix."""

    file: str
    entries: Mapping[str, Entry] = field(default_factory=dict)
    fault: str = ""


def _keys(address: Address | None, delimiter: str) -> Iterator[str]:
    """The keys in the order of access(5), "email address patterns"."""
    if address is None:
        yield "<>"
        return
    bare = address.without_detail(delimiter)
    domain = address.domain.key
    locals_ = [each.local.lower() for each in (address, bare) if each is not None]
    yield from (f"{local}@{domain}" for local in locals_)
    yield domain
    labels = domain.split(".")
    yield from (".".join(labels[at:]) for at in range(1, len(labels)))
    yield from (f"{local}@" for local in locals_)


def refused(
    table: AccessTable, address: Address | None, subject: str, delimiter: str, steps: list[Step]
) -> Refusal | None:
    """Why `address` (None: the null sender) is refused, or None. `subject` is "Sender" or "Recipient".

    Understands OK, DUNNO, REJECT, DEFER and replies by number. What else access(5) knows stands for a restriction
    that is not simulated, and lets the address pass.
    """
    for key in _keys(address, delimiter):
        if table.fault:
            steps.append(Step(table.file, key, Tried.SKIPPED, f"the table cannot be used: {table.fault}"))
            return Refusal(Reply(451, "4.3.0", "Temporary lookup failure: try again later"), "access", table.fault)
        entry = table.entries.get(key)
        if entry is not None:
            rule = f"{table.file}:{entry.line}"
            steps.append(Step(rule, key, Tried.MATCHED, entry.value))
            return _refusal(entry.value, f"{subject} address rejected", rule)
    steps.append(Step(table.file, str(address or "<>"), Tried.SKIPPED, "no such key"))
    return None


def _refusal(action: str, what: str, rule: str) -> Refusal | None:
    word, _, text = action.partition(" ")
    match word.upper():
        case "REJECT":
            return Refusal(Reply(554, "5.7.1", f"{what}: {text.strip() or 'Access denied'}"), "access", rule)
        case "DEFER":
            return Refusal(Reply(450, "4.7.1", f"{what}: {text.strip() or 'Access denied'}"), "access", rule)
    numbered = _REPLY.fullmatch(action)
    if numbered is None:
        return None
    code = int(action[:3])
    enhanced = numbered[2] or f"{numbered[1]}.7.1"
    return Refusal(Reply(code, enhanced, f"{what}: {numbered[3] or 'Access denied'}"), "access", rule)
