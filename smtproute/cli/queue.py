"""`smtproute queue`: what waits in the spool, and what an operator does to it. The relay may run or not."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smtproute.cli.configuration import OPTION

if TYPE_CHECKING:
    from smtproute.spool.queue import State

__all__ = ["app"]

app = typer.Typer(help="List the queue, and retry, hold, release or remove what is in it.", no_args_is_help=True)

IDS = typer.Argument(metavar="ID", show_default=False)
ALL = typer.Option("--all", help="Every unfinished message.")


@app.command("list")
def list_(
    finished: Annotated[bool, typer.Option("--finished", help="Also what is delivered, failed or removed.")] = False,
    captured: Annotated[bool, typer.Option("--captured", help="What was captured.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, one a delivery.")] = False,
    config: Annotated[str | None, OPTION] = None,
) -> None:
    """List deliveries, newest message first."""
    import asyncio

    asyncio.run(_list(config, finished, captured, as_json))


async def _list(config: str | None, finished: bool, captured: bool, as_json: bool) -> None:
    from smtproute.cli.spool import opened

    count = 0
    async with opened(config) as spool:
        cursor = ""
        while True:
            page = await spool.read(cursor, unfinished=not (finished or captured), captured=captured)
            for entry in page.entries:
                count += 1
                facts = _facts(entry)
                print(json.dumps(facts) if as_json else _line(facts))
            cursor = page.cursor
            if not cursor:
                break
    if not count and not as_json:
        print("nothing was captured" if captured else "the queue is empty")


@app.command("show")
def show(
    message: Annotated[str, typer.Argument(metavar="ID")],
    config: Annotated[str | None, OPTION] = None,
) -> None:
    """Print one message: its deliveries, then the content exactly as it was received."""
    import asyncio

    asyncio.run(_show(config, message))


async def _show(config: str | None, message: str) -> None:
    from smtproute.cli.spool import opened
    from smtproute.spool.queue import SpoolFailed

    async with opened(config) as spool:
        entries = await spool.entries(message)
        if not entries:
            print(f"there is no message {message}", file=sys.stderr)
            raise typer.Exit(1)
        for entry in entries:
            print(_line(_facts(entry)))
        print(flush=True)
        try:
            sys.stdout.buffer.write(await spool.content(message))
        except SpoolFailed as gone:
            print(f"(the content is not kept: {gone})")


def _changing(name: str, text: str) -> None:
    """Registers one of the commands that change the queue."""

    def command(
        messages: Annotated[list[str] | None, IDS] = None,
        everything: Annotated[bool, ALL] = False,
        config: Annotated[str | None, OPTION] = None,
    ) -> None:
        import asyncio

        if bool(messages) == everything:
            raise typer.BadParameter("name the messages, or say --all")
        raise typer.Exit(asyncio.run(_change(config, name, None if everything else messages)))

    command.__doc__ = text
    app.command(name)(command)


async def _change(config: str | None, name: str, messages: list[str] | None) -> int:
    from smtproute.cli.spool import opened
    from smtproute.spool.queue import Change
    from smtproute.world import SystemClock

    async with opened(config) as spool:
        changed = await spool.change(Change(name), messages, SystemClock().now())
        untouched = {
            each: [entry.state for entry in await spool.entries(each)]
            for each in messages or ()
            if each not in {one.message for one in changed}
        }
    for each in changed:
        later = ", after the attempt if one is running" if each.in_flight else ""
        print(f"{each.message}.{each.number}  {each.before} -> {each.after}{later}")
    for message, states in untouched.items():
        print(f"{message}  {_why_untouched(name, message, states)}")
    if messages is None and not changed:
        print(f"nothing to {name}")
    return 1 if untouched else 0


def _why_untouched(name: str, message: str, states: Sequence[State]) -> str:
    """Why a change did not apply to a message, whose deliveries are in these states."""
    if states:
        unfinished = ", ".join(dict.fromkeys(str(each) for each in states if not each.finished))
        return f"nothing to {name}: it is {unfinished or 'finished'}"
    whole, dot, _ = message.partition(".")
    return f"there is no such message{f': write {whole}, for all its deliveries' if dot else ''}"


_changing("retry", "Try these messages again now.")
_changing("hold", "Keep these messages until they are released.")
_changing("release", "Let held messages go.")
_changing("remove", "Take these messages out of the queue; nobody is told.")


def _facts(entry: Any) -> dict[str, Any]:
    delivery, message = entry.delivery, entry.message
    return {
        "id": message.id,
        "number": entry.number,
        "state": str(entry.state),
        "received_at": message.received_at,
        "size": message.size,
        "sender": str(message.envelope.reverse_path or ""),
        "recipient": str(delivery.recipient),
        "kind": str(delivery.kind),
        "endpoint": delivery.endpoint,
        "address": str(delivery.address),
        "attempts": entry.attempts,
        "due_at": entry.due_at,
        "last": entry.last,
    }


def _line(facts: dict[str, Any]) -> str:
    from smtproute.core.transcript import legible

    to = f"{facts['kind']} {facts['endpoint']}".rstrip()
    due = f", due {_time(facts['due_at'])}" if facts["state"] == "queued" else ""
    last = f"\n    {legible(facts['last'])}" if facts["last"] else ""
    return (
        f"{facts['id']}.{facts['number']}  {facts['state']:<9} {_time(facts['received_at'])} {facts['size']:>8}"
        f"  <{facts['sender']}> to <{facts['address']}> by {to}, attempts {facts['attempts']}{due}{last}"
    )


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
