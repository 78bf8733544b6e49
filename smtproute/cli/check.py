"""`smtproute check`: looks over configuration, tables and keys."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from smtproute.cli.configuration import OPTION

__all__ = ["command"]


def command(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, one a finding.")] = False,
    config: Annotated[str | None, OPTION] = None,
) -> None:
    """Report what is wrong with the configuration, its tables and keys. Exit: 0 clean, 1 warnings, 2 errors."""
    from smtproute.app import Refused, load
    from smtproute.cli.configuration import reader
    from smtproute.core.finding import error
    from smtproute.doctor import examine

    try:
        findings = examine(load(reader(config)).snapshot)
    except Refused as refused:
        findings = [error("configuration", *_parted(line)) for line in str(refused).splitlines()]
    for finding in findings:
        print(json.dumps(finding.json(), ensure_ascii=False) if as_json else finding)
    if not findings and not as_json:
        print("nothing to report", file=sys.stderr)
    raise typer.Exit(max((finding.severity.status for finding in findings), default=0))


def _parted(line: str) -> tuple[str, str]:
    where, parted, what = line.partition(": ")
    return (where, what) if parted else ("", line)
