"""`smtproute explain`: what would happen to an address, and by which rules."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from smtproute.cli.configuration import OPTION

__all__ = ["command"]


def command(
    addresses: Annotated[list[str], typer.Argument(metavar="ADDRESS", show_default=False)],
    sender: Annotated[str, typer.Option("--from", help="MAIL FROM; empty is the null sender.")] = "",
    client_ip: Annotated[
        str | None,
        typer.Option(
            help="The client's IP address; default: a stranger's, or on a trusted listener this machine's.",
            show_default=False,
        ),
    ] = None,
    listener: Annotated[
        str | None, typer.Option(help="The listener that it speaks to; default: the first.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, one a recipient.")] = False,
    config: Annotated[str | None, OPTION] = None,
) -> None:
    """Explain where mail for each address goes and why. Nothing is sent, nothing is connected to.

    Exit status: 0 deliverable, 1 some of it deferred, 2 some of it refused or undeliverable.
    """
    from smtproute.app import endpoints
    from smtproute.cli.configuration import loaded
    from smtproute.core.address import Address, AddressError
    from smtproute.core.envelope import Client, Envelope
    from smtproute.core.permit import trusts
    from smtproute.core.settings import Role
    from smtproute.intake.explain import explain
    from smtproute.world import World

    snapshot = loaded(config).snapshot
    listeners = snapshot.settings.listeners
    name = listener if listener is not None else next(iter(listeners))
    if name not in listeners:
        raise typer.BadParameter(f"there is no listener {name!r}: the configuration has {', '.join(listeners)}")
    try:
        recipients = [Address.parse(address) for address in addresses]
        reverse_path = Address.parse(sender) if sender else None
    except AddressError as error:
        raise typer.BadParameter(str(error)) from None
    # Who usually speaks to it: a stranger (TEST-NET-1) to an inbound listener, this machine to a trusted one.
    usual = "192.0.2.1" if listeners[name].role is Role.INBOUND else "127.0.0.1"
    ip = client_ip if client_ip is not None else usual
    try:
        client = Client(ip, 0, name, listeners[name].role, trusts(listeners[name], ip))
    except ValueError:
        raise typer.BadParameter(f"--client-ip {ip}: it is no IP address") from None
    envelope = Envelope(client, reverse_path)
    explained = asyncio.run(explain(snapshot, endpoints(snapshot.settings, World()).candidates, envelope, recipients))
    for each in explained:
        print(json.dumps(each.json(), ensure_ascii=False) if as_json else "\n".join(each.lines()))
    raise typer.Exit(max((each.status for each in explained), default=0))
