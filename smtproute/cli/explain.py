"""`smtproute explain`: what would happen to an address, and by which rules; to all that are known; what changes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from smtproute.cli.configuration import OPTION

if TYPE_CHECKING:
    from smtproute.core.address import Address
    from smtproute.core.envelope import Envelope
    from smtproute.core.snapshot import Snapshot

__all__ = ["command"]

_OPTIONS = {"client": "--client-ip ", "login": "--auth ", "size": "--size "}
"""Those that are said together with their value."""


def command(
    addresses: Annotated[
        list[str] | None, typer.Argument(metavar="ADDRESS", help="Recipients of one message.", show_default=False)
    ] = None,
    sender: Annotated[str, typer.Option("--from", help="MAIL FROM; empty is the null sender.")] = "",
    client_ip: Annotated[
        str | None,
        typer.Option(
            help="The client's IP address; default: a stranger's, or on a trusted listener this machine's.",
            show_default=False,
        ),
    ] = None,
    listener: Annotated[
        str | None,
        typer.Option(
            help="The listener that it speaks to; default: the first, with --auth the first for submission.",
            show_default=False,
        ),
    ] = None,
    login: Annotated[
        str | None,
        typer.Option("--auth", metavar="USER", help="Who has logged in: an account or an alias of one."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="OCTETS", help="The message's size, which full mailboxes are judged by.", show_default=False
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="One line for every address that the accounts and alias tables know.")
    ] = False,
    other: Annotated[
        str | None,
        typer.Option(
            "--diff",
            metavar="OTHER_FOLDER",
            help="Show which addresses change when OTHER_FOLDER takes the place of docker_mailserver.config.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, one a recipient.")] = False,
    config: Annotated[str | None, OPTION] = None,
) -> None:
    """Explain where mail for each address goes and why. Nothing is sent, nothing is connected to.

    With --all, every address that is written anywhere gets one line instead, by domain and name: accounts, aliases,
    catch-alls as *@domain, local targets; then patterns, which are shown and not decided. No server is looked up and
    no mailbox is counted, so that the text is fit for diff.

    With --diff OTHER_FOLDER, a new version of the docker-mailserver folder, only what changes is shown: "-" is what
    becomes of the address with the folder that is configured, "+" what will become of it with OTHER_FOLDER. Neither
    is written to.

    Exit status: 0 deliverable, 1 some of it deferred or held, 2 some of it refused or undeliverable. With --diff: 0
    nothing changes, 1 something does, 78 OTHER_FOLDER cannot be used.
    """
    from smtproute.cli.configuration import loaded

    if addresses and (everything or other is not None):
        raise typer.BadParameter("name addresses, or use --all or --diff: not both")
    if not addresses and not everything and other is None:
        raise typer.BadParameter("Missing argument ADDRESS: name addresses, or use --all or --diff")
    snapshot = loaded(config).snapshot
    envelope = _envelope(snapshot, sender, client_ip, listener, login, size)
    if other is not None:
        _changes(snapshot, _with_folder(snapshot, other, config), envelope, as_json)
    if everything:
        _everything(snapshot, envelope, as_json)
    _each(snapshot, envelope, [_address(address) for address in addresses or ()], as_json)


def _each(snapshot: Snapshot, envelope: Envelope, recipients: list[Address], as_json: bool) -> NoReturn:
    import asyncio

    from smtproute.app import endpoints, records, usage
    from smtproute.core.transcript import legible
    from smtproute.intake.explain import explain
    from smtproute.world import World

    world = World()
    candidates, now = endpoints(snapshot.settings, world).candidates, world.clock.now()
    with usage(snapshot.settings) as held:
        lookup = records(snapshot.settings, world)
        explained = asyncio.run(explain(snapshot, candidates, held, envelope, recipients, now, lookup))
    for each in explained:
        print(json.dumps(each.json()) if as_json else "\n".join(map(legible, each.lines())))
    raise typer.Exit(max((each.status for each in explained), default=0))


def _everything(snapshot: Snapshot, envelope: Envelope, as_json: bool) -> NoReturn:
    from smtproute.core.transcript import legible
    from smtproute.intake.listing import known, listed
    from smtproute.world import SystemClock

    worst, now = 0, SystemClock().now()
    for each in known(snapshot):
        line = listed(snapshot, envelope, each, now)
        worst = max(worst, line.status)
        print(json.dumps(line.json()) if as_json else legible(line.line()))
    raise typer.Exit(worst)


def _changes(was: Snapshot, will_be: Snapshot, envelope: Envelope, as_json: bool) -> NoReturn:
    from smtproute.core.transcript import legible
    from smtproute.intake.listing import changes
    from smtproute.world import SystemClock

    count = 0
    for each in changes(was, will_be, envelope, SystemClock().now()):
        count += 1
        print(json.dumps(each.json()) if as_json else "\n".join(map(legible, each.lines())))
    told = {0: "nothing changes", 1: "1 line changes"}.get(count, f"{count} lines change")
    print(told, file=sys.stderr)
    raise typer.Exit(1 if count else 0)


def _with_folder(snapshot: Snapshot, other: str, config: str | None) -> Snapshot:
    """The same configuration with another docker-mailserver folder."""
    from smtproute.cli.configuration import loaded, refuse

    if snapshot.folder is None:
        raise typer.BadParameter("--diff compares docker-mailserver folders: write docker_mailserver.config first")
    folder = Path(other).absolute()
    if not folder.is_dir():
        refuse(f"--diff {other}: no such folder")
    return loaded(config, {"SMTPROUTE__DOCKER_MAILSERVER__CONFIG": str(folder)}).snapshot


def _envelope(
    snapshot: Snapshot,
    sender: str,
    client_ip: str | None,
    listener: str | None,
    login: str | None,
    size: int | None,
) -> Envelope:
    """Who speaks, from the options."""
    from smtproute.core.address import AddressError
    from smtproute.intake.speaker import SpeakerFault, speaker

    path = _address(sender) if sender else None
    try:
        return speaker(snapshot, sender=path, client=client_ip, listener=listener, login=login, size=size)
    except SpeakerFault as fault:
        raise typer.BadParameter(f"{_OPTIONS.get(fault.named, '')}{fault}") from None
    except AddressError as error:
        raise typer.BadParameter(str(error)) from None


def _address(written: str) -> Address:
    from smtproute.core.address import Address, AddressError

    try:
        return Address.parse(written)
    except AddressError as error:
        raise typer.BadParameter(str(error)) from None
