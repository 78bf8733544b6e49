"""Quotas: `dovecot-quotas.cf`, and the default that the environment sets."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from smtproute.config.tables import decoded
from smtproute.core.docker_mailserver import Environment, Line
from smtproute.core.finding import Finding, error, warning
from smtproute.core.quota import Quota

__all__ = ["ReadQuotas", "default_quota", "field_quota", "no_account", "number", "octets_of", "read_quotas"]

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True, slots=True)
class ReadQuotas:
    lines: tuple[Line, ...] = ()
    """Cut at the colon."""
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    """By address in lower case."""
    findings: tuple[Finding, ...] = ()


def octets_of(written: str, default: int = 1) -> int:
    """The octets of `5M`: units are powers of 1024, and only their first letter counts (Dovecot quota_rule).

    `default` is the unit where none is written. Raises ValueError.
    """
    match = re.fullmatch(r"([0-9]{1,15})([A-Za-z]*)", written)
    if match is None or match[2][:1].lower() not in _UNITS:
        raise ValueError(f'"{written[:40]}" is no size')
    return int(match[1]) * (_UNITS[match[2][:1].lower()] if match[2] else default)


def read_quotas(shown: str, octets: bytes) -> ReadQuotas:
    """The quota of each address, the first line of an address before later ones."""
    lines: list[Line] = []
    quotas: dict[str, Quota] = {}
    rules: dict[str, str] = {}
    findings: list[Finding] = []
    for number, raw in enumerate(decoded(octets).split("\n"), 1):
        text = raw.strip()
        if not text or text.startswith("#"):
            continue
        rule = f"{shown}:{number}"
        address, colon, written = text.partition(":")
        if not colon or ":" in written or not written.strip():
            what = f'"{text}" is no address:limit: the line is ignored.'
            findings.append(warning("quota-line", rule, what, f"{(address.split() or ['address'])[0]}:5G"))
            continue
        lines.append(Line(rule, address.strip(), written.strip()))
        key = address.strip().lower()
        if key in rules:
            what = f"{key} has a quota already ({rules[key]}): the line is ignored."
            findings.append(warning("duplicate-key", rule, what))
            continue
        rules[key] = rule
        try:
            limit = octets_of(written)
        except ValueError as why:
            what = (
                f"{why}: a number and B, k, M, G or T is wanted, or 0. Dovecot refuses the user for its invalid quota:"
                f" mail for {key} waits in the queue. Here it has no limit."
            )
            digits = re.match(r"\s*([0-9]{1,15})(?![0-9])", written)
            findings.append(error("quota-unit", rule, what, f"{key}:{digits[1] if digits else 5}G"))
            continue
        if limit and written[-1].isdigit():
            what = f"A number without a unit is a number of octets: {key} may hold {limit} octets."
            findings.append(warning("quota-unit", rule, what, f"{key}:{written}M"))
        quotas[key] = Quota(limit, rule=rule)
    return ReadQuotas(tuple(lines), quotas, tuple(findings))


def no_account(quotas: ReadQuotas, accounts: Collection[str]) -> tuple[Finding, ...]:
    """Quota lines of addresses that are not accounts; `accounts` are keys of Address."""
    return tuple(
        warning("quota-no-account", line.rule, f"{line.key} is no account: the line limits nobody.")
        for line in quotas.lines
        if line.key.lower() not in accounts
    )


def number(written: str) -> int | None:
    """A number of octets; None where it is none, or has more than 18 digits."""
    return int(written) if re.fullmatch(r"[0-9]{1,18}", written) else None


def default_quota(environment: Environment) -> Quota:
    """What a mailbox without a line of its own may hold.

    docker-mailserver writes the millions of POSTFIX_MAILBOX_SIZE_LIMIT with an M, which is 1024 * 1024 to Dovecot.
    """
    written = environment["POSTFIX_MAILBOX_SIZE_LIMIT"]
    millions = (number(written) or 0) // 1_000_000
    return Quota(millions << 20, rule=environment.source("POSTFIX_MAILBOX_SIZE_LIMIT"))


_FIELD = re.compile(r"userdb_quota_rule=\*:(bytes|storage)=([^\s:]*)")


def field_quota(fields: str) -> tuple[str, int] | None:
    """The quota among an account's extra fields, `userdb_quota_rule=*:bytes=1G`: as written, and its default unit.

    None where there is none.
    """
    match = _FIELD.search(fields)
    return None if match is None else (match[2], 1024 if match[1] == "storage" else 1)
