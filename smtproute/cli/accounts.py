"""`smtproute accounts`: who can log in, and how full each one's mailbox is. The relay may run or not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smtproute.cli.configuration import OPTION
from smtproute.trace.columns import columns

if TYPE_CHECKING:
    from smtproute.core.snapshot import Snapshot

__all__ = ["command"]

ROOT = "User quota"
"""What docker-mailserver calls the one quota root that a mailbox has."""

_HEADINGS = ("account", "stands for", "quota root", "used", "limit", "full", "rule")
_RIGHT = (3, 4, 5)
"""The columns of numbers."""


def command(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, one an account.")] = False,
    config: Annotated[str | None, OPTION] = None,
) -> None:
    """List accounts, and the virtual accounts of aliases, with quota and usage. Reads the mailboxes; exit status 0."""
    import asyncio

    from smtproute.cli.configuration import reader, refuse
    from smtproute.config.document import Mistake
    from smtproute.core.transcript import legible

    try:
        snapshot = reader(config)()
    except Mistake as mistake:
        refuse(str(mistake))
    found = asyncio.run(_accounts(snapshot))
    if as_json:
        for each in found:
            print(json.dumps(each))
        return
    rows = [tuple(map(legible, _row(each))) for each in found]
    print("\n".join(columns([_HEADINGS, *rows], _RIGHT)) if found else "there are no accounts")
    for account, why in {each["account"]: each["why"] for each in found if each["why"]}.items():
        print(legible(f"the usage of {account} is not known: {why}"))


async def _accounts(snapshot: Snapshot) -> list[dict[str, Any]]:
    """What `--json` prints of each, accounts first. Sizes are octets; a limit of 0 is none."""
    from smtproute.app import usage
    from smtproute.core.quota import UNLIMITED
    from smtproute.intake.facts import UsageUnknown

    held: dict[str, int | None] = {}
    why: dict[str, str] = {}
    found = []
    with usage(snapshot.settings) as octets:
        for login in sorted(snapshot.logins.values(), key=lambda each: each.virtual):
            key = login.account.key
            if key not in held:
                try:
                    held[key] = await octets(login.account)
                except UsageUnknown as unknown:
                    held[key], why[key] = None, str(unknown)
            mailbox = snapshot.routing.mailboxes.get(key)
            quota = mailbox.quota if mailbox is not None else UNLIMITED
            used = held[key]
            found.append(
                {
                    "name": str(login.name),
                    "account": str(login.account),
                    "virtual": login.virtual,
                    "root": ROOT,
                    "usage": used,
                    "limit": quota.limit,
                    "percent": used * 100 // quota.limit if used is not None and quota.limit else None,
                    "rule": quota.rule,
                    "why": why.get(key, ""),
                }
            )
    return found


def _row(facts: dict[str, Any]) -> tuple[str, ...]:
    return (
        facts["name"],
        facts["account"] if facts["virtual"] else "-",
        facts["root"],
        _size(facts["usage"]) if facts["usage"] is not None else "-",
        _size(facts["limit"]) if facts["limit"] else "unlimited",
        f"{facts['percent']}%" if facts["percent"] is not None else "-",
        facts["rule"] or "-",
    )


def _size(octets: int) -> str:
    """As docker-mailserver's quota file counts: by 1024."""
    size, units = float(octets), iter("kMGT")
    unit = ""
    while size >= 1024 and unit != "T":
        size, unit = size / 1024, next(units)
    return f"{size:.1f}".removesuffix(".0") + (unit or "B")
