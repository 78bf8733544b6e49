"""`smtproute trace`: the journey of one message."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from smtproute.cli.configuration import OPTION

__all__ = ["command"]

POLL = 0.2
"""Seconds between two looks with --follow."""


def command(
    message: Annotated[str, typer.Argument(metavar="ID")],
    follow: Annotated[bool, typer.Option("--follow", help="Go on until every delivery is finished.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, one an event.")] = False,
    octets_in: Annotated[bool, typer.Option("--in", help="Write the exact octets that came in, instead.")] = False,
    octets_out: Annotated[
        int | None,
        typer.Option(
            "--out", metavar="N", help="Write the exact octets that delivery N sent last.", show_default=False
        ),
    ] = None,
    config: Annotated[str | None, OPTION] = None,
) -> None:
    """Tell the journey of one message: session, decisions, attempts with their transcripts, outcomes."""
    import asyncio

    if octets_in or octets_out is not None:
        asyncio.run(_octets(config, message, octets_out))
    else:
        asyncio.run(_trace(config, message, follow, as_json))


async def _trace(config: str | None, message: str, follow: bool, as_json: bool) -> None:
    import asyncio

    from smtproute.cli.spool import opened
    from smtproute.trace.text import render

    async with opened(config) as spool:
        last = 0
        shown = False
        while True:
            finished = all(entry.state.finished for entry in await spool.entries(message))
            new = await spool.events(message, last)
            if not new and not shown:
                print(f"there is no message {message}", file=sys.stderr)
                raise typer.Exit(1)
            events = [event for _, event in new]
            if as_json:
                for event in events:
                    print(
                        json.dumps(
                            {
                                "what": str(event.what),
                                "at": event.at,
                                "message": event.message,
                                "delivery": event.delivery,
                                "facts": dict(event.facts),
                            }
                        )
                    )
            elif events:
                print("\n".join(render(events)[1 if shown else 0 :]), flush=True)
            shown = True
            last = new[-1][0] if new else last
            if not follow or finished:
                return
            await asyncio.sleep(POLL)


async def _octets(config: str | None, message: str, delivery: int | None) -> None:
    """The message as it came, or the copy that was made of it at the last attempt."""
    from smtproute.cli.spool import opened
    from smtproute.core.event import Happening
    from smtproute.core.message import Edit, apply
    from smtproute.spool.queue import SpoolFailed

    async with opened(config) as spool:
        try:
            content = await spool.content(message)
        except SpoolFailed as gone:
            print(f"the content of {message} is not kept: {gone}", file=sys.stderr)
            raise typer.Exit(1) from None
        if delivery is not None:
            made = [
                event.facts
                for _, event in await spool.events(message)
                if event.what is Happening.ATTEMPT and delivery in event.facts["recipients"]
            ]
            if not made:
                print(f"delivery {delivery} of {message} was never sent to an endpoint", file=sys.stderr)
                raise typer.Exit(1)
            removed = tuple((start, end) for start, end in made[-1]["removed"])
            content = apply(Edit(removed, made[-1]["prepended"].encode("latin-1")), content)
    sys.stdout.buffer.write(content)
