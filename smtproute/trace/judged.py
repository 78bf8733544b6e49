"""What `smtproute verify` found, as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from textwrap import wrap
from typing import Any

from smtproute.core.transcript import legible

__all__ = ["told"]

WIDTH = 100
"""Columns of the text."""
_INDENT = 22

Facts = dict[str, Any]


def told(facts: Facts) -> Iterator[str]:
    """The lines of one finding, as `--json` has it: what it is, what it came to, and beside both everything else."""
    return map(legible, _lines(facts))


def _lines(facts: Facts) -> Iterator[str]:
    match facts["what"]:
        case "message":
            yield from _block("message", f"{facts['octets']} octets", facts["notes"])
            path = f"<{facts['mail_from']['value']}>" if facts["mail_from"]["where"] != "not known" else ""
            for label, value, where in (
                ("MAIL FROM", path, facts["mail_from"]["where"]),
                ("EHLO", facts["helo"]["value"], facts["helo"]["where"]),
                ("client", facts["client_ip"]["value"], facts["client_ip"]["where"]),
            ):
                yield from _block(label, f"{value} ({where})" if value else where, ())
            yield ""
        case "authentication-results":
            yield from ("", "what the relay would write:")
            yield from (f"  {line}" for line in facts["field"].splitlines())
        case "spf" | "dkim" | "dmarc" | "arc" if facts["result"] is None:
            yield from _block(facts["what"], "not judged", [facts["reason"]])
        case "spf":
            identity = "MAIL FROM" if facts["identity"] == "mailfrom" else "EHLO"
            record = [f"record: {facts['record']}"] if facts["record"] else []
            says = [f"{facts['domain']} says: {facts['explanation']}"] if facts["explanation"] else []
            lines = [f"{identity} {facts['domain']}", facts["reason"], *record, *says]
            yield from _block("spf", facts["result"], lines)
        case "dkim" if "number" in facts:
            named = (("selector ", "selector"), ("", "algorithm"), ("i=", "identity"), ("b=", "value"))
            who = ", ".join(f"{sign}{facts[name]}" for sign, name in named if facts[name])
            changes = [f"- {change}" for change in facts["changes"]]
            lines = [f"{facts['domain']}{', ' if who else ''}{who}", facts["reason"], *changes]
            yield from _block(f"dkim {facts['number']}", facts["result"], lines)
        case "dmarc":
            result = f"{facts['result']}{', as far as DKIM goes' if facts['partial'] else ''}"
            yield from _block("dmarc", result, _dmarc(facts))
        case "arc-set":
            yield from _block(f"arc i={facts['instance']}", f"cv={facts['cv']}", _set(facts))
        case what:
            sets = [f"{facts['sets']} sets" if facts["sets"] > 1 else "1 set"] if facts.get("sets") else []
            yield from _block(what, facts["result"], [*sets, facts["reason"]])


def _dmarc(facts: Facts) -> Iterator[str]:
    yield facts["domain"]
    yield facts["reason"]
    if facts["record"] is not None:
        yield f"{facts['record_at']}: {facts['record']}"
    for each in facts["identifiers"]:
        how = "strict" if each["strict"] else "relaxed"
        whether = f"{'aligned' if each['aligned'] else 'not aligned'} ({how})"
        yield f"- {each['method']}={each['result']} of {each['domain'] or 'no domain'}: {whether}"
    if facts["ruling"]:
        yield f"policy: {facts['ruling']}"
        yield "disposition: not taken now (451)" if facts["deferred"] else f"disposition: {facts['disposition']}"


def _set(facts: Facts) -> Iterator[str]:
    yield f"ARC-Seal of {facts['sealer'] or 'no domain'}: {facts['seal_reason'] or 'pass'}"
    yield f"ARC-Message-Signature of {facts['signer'] or 'no domain'}: {facts['signature_reason'] or 'pass'}"
    yield from (f"- {change}" for change in facts["changes"])
    yield f"it says: {facts['results']}"


def _block(label: str, result: str, lines: Iterable[str]) -> Iterator[str]:
    """A label, a result, and lines beside both; the first of them beside the two words."""
    head = f"{label:<10} {result:<11}"
    wrapped: list[str] = []
    for line in filter(None, lines):
        then = "  " if line.startswith("- ") else ""
        wrapped += wrap(line, WIDTH - _INDENT, subsequent_indent=then, break_on_hyphens=False)
    if not wrapped or len(head.rstrip()) >= _INDENT:
        yield head.rstrip()
    else:
        yield f"{head}{wrapped.pop(0)}"
    yield from (f"{' ' * _INDENT}{line}" for line in wrapped)
