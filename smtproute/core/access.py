"""Access: who may not send, who may not receive (access(5) tables, asked before anything is routed)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from smtproute.core.address import Address
from smtproute.core.aliases import TextTable
from smtproute.core.plan import Step, Tried
from smtproute.core.reply import LOOKUP_FAILED, Refusal, Reply

__all__ = ["refused"]

_REPLY = re.compile(r"([45])[0-9]{2}(?:\s+([245]\.[0-9]{1,3}\.[0-9]{1,3}))?(?:\s+(.*))?")


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
    table: TextTable, address: Address | None, subject: str, delimiter: str, steps: list[Step]
) -> Refusal | None:
    """Why `address` (None: the null sender) is refused, or None. `subject` is "Sender" or "Recipient".

    Understands OK, DUNNO, REJECT, DEFER and replies by number and text. A number alone means OK: it is the time of
    something (access(5), "all-numerical"). What else access(5) knows stands for a restriction that is not simulated,
    and lets the address pass.
    """
    for key in _keys(address, delimiter):
        if table.fault:
            steps.append(Step(table.file, key, Tried.SKIPPED, f"the table cannot be used: {table.fault}"))
            return Refusal(LOOKUP_FAILED, "access", table.fault)
        entry = table.entries.get(key)
        if entry is not None:
            rule = f"{table.file}:{entry.line}"
            steps.append(Step(rule, key, Tried.MATCHED, entry.value))
            return _refusal(entry.value, f"{subject} address rejected", rule)
    steps.append(Step(table.file, str(address or "<>"), Tried.SKIPPED, "no such key"))
    return None


def _refusal(action: str, what: str, rule: str) -> Refusal | None:
    word, *rest = action.split(None, 1)
    text = rest[0] if rest else "Access denied"
    match word.upper():
        case "REJECT":
            return Refusal(Reply(554, "5.7.1", f"{what}: {text}"), "access", rule)
        case "DEFER":
            return Refusal(Reply(450, "4.7.1", f"{what}: {text}"), "access", rule)
    if not rest:
        return None
    numbered = _REPLY.fullmatch(action)
    if numbered is None:
        return None
    code = int(action[:3])
    enhanced = numbered[2] or f"{numbered[1]}.7.1"
    return Refusal(Reply(code, enhanced, f"{what}: {numbered[3] or 'Access denied'}"), "access", rule)
