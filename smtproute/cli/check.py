"""`smtproute check`: looks over configuration, tables and keys."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from smtproute.cli.configuration import OPTION

if TYPE_CHECKING:
    from smtproute.core.finding import Finding
    from smtproute.core.snapshot import Snapshot
    from smtproute.doctor import Watch
    from smtproute.doctor.dns.answers import Answers
    from smtproute.doctor.dns.forwards import Forwarded
    from smtproute.resolve.hidden import Hidden

__all__ = ["command"]


def command(
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, one a finding; findings only, no log lines.")
    ] = False,
    connect: Annotated[
        bool, typer.Option("--connect", help="Try every server of every endpoint as well, up to RCPT; nothing is sent.")
    ] = False,
    dns: Annotated[
        bool, typer.Option("--dns", help="Look at what is published for this relay as well: DKIM, SPF, DMARC, MX, PTR.")
    ] = False,
    config: Annotated[str | None, OPTION] = None,
) -> None:
    """Report what is wrong with the configuration, its tables and keys. Exit: 0 clean, 1 warnings, 2 errors.

    Without --dns DNS is asked only for names of endpoints that a static or hosts entry answers. With it each finding
    has the record to publish, and the providers of what aliases forward are named. Of a docker-mailserver folder also
    the log lines that are worth watching in production.
    """
    import asyncio

    from smtproute.app import Refused, load
    from smtproute.cli.configuration import reader
    from smtproute.cli.endpoints import probed
    from smtproute.core.finding import error
    from smtproute.delivery.hops import trials
    from smtproute.doctor import examine, watch
    from smtproute.doctor.dns.forwards import forwarded

    watched: tuple[Watch, ...] = ()
    forwards: tuple[Forwarded, ...] = ()
    try:
        snapshot = load(reader(config)).snapshot
        hidden = asyncio.run(_hidden(snapshot))
        probes = asyncio.run(probed(snapshot, trials(snapshot))) if connect else []
        answers = asyncio.run(_answers(snapshot)) if dns else None
        forwards = forwarded(answers) if answers is not None else ()
        findings, watched = examine(snapshot, hidden, probes, answers), watch(snapshot)
    except Refused as refused:
        findings = [error("configuration", *_parted(line)) for line in str(refused).splitlines()]
    if as_json:
        for finding in findings:
            print(json.dumps(finding.json()))
    else:
        for finding in findings:
            _show(finding)
        _sum(findings)
        _providers(forwards)
        _logs(watched)
    raise typer.Exit(max((finding.severity.status for finding in findings), default=0))


async def _hidden(snapshot: Snapshot) -> tuple[Hidden, ...]:
    from smtproute.delivery.hops import hosts
    from smtproute.resolve.hidden import hidden
    from smtproute.world import World

    return await hidden(snapshot.settings.resolver, hosts(snapshot.settings), World())


async def _answers(snapshot: Snapshot) -> Answers:
    from concurrent.futures import ThreadPoolExecutor

    from smtproute.app import records
    from smtproute.doctor.dns.answers import gathered
    from smtproute.doctor.dns.questions import questions
    from smtproute.doctor.survey import Survey
    from smtproute.world import World

    with ThreadPoolExecutor(1) as pool:
        return await gathered(questions(Survey(snapshot)), records(snapshot.settings, World()), pool)


def _parted(line: str) -> tuple[str, str]:
    where, parted, what = line.partition(": ")
    return (where, what) if parted else ("", line)


def _show(finding: Finding) -> None:
    """What is wrong, and below it what to write instead."""
    from smtproute.core.transcript import legible

    where = f"{finding.where}: " if finding.where else ""
    print(legible(f"{finding.severity}: {where}{finding.what} [{finding.name}]"))
    for number, line in enumerate(finding.instead.split("\n") if finding.instead else ()):
        print(f"{'             ' if number else '    instead: '}{legible(line)}")


def _sum(findings: Sequence[Finding]) -> None:
    """`2 errors, 3 warnings`; nothing to report goes where it is in nobody's way."""
    if not findings:
        print("nothing to report", file=sys.stderr)
        return
    counts = {"error": 0, "warning": 0}
    for finding in findings:
        counts[finding.severity] += 1
    print(", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items() if count))


def _providers(forwards: Sequence[Forwarded]) -> None:
    """Who takes what is forwarded, and what they ask of that."""
    from smtproute.core.transcript import legible
    from smtproute.doctor.survey import listed

    if forwards:
        print("\nwhat the providers of forwarded mail ask:")
    for each in forwards:
        print(legible(f"  {each.provider.name}, for {listed(each.addresses)}:"))
        print(f"    {each.provider.asks} ({each.provider.source})")


def _logs(watched: Sequence[Watch]) -> None:
    """The lines worth watching in production."""
    if not watched:
        return
    print("\nworth watching in production (grep -E in /var/log/mail of the container):")
    widths = [max(len(getattr(each, name)) for each in watched) for name in ("log", "pattern")]
    for each in watched:
        print(f"  {each.log:{widths[0]}}  {each.pattern:{widths[1]}}  {each.meaning}")
