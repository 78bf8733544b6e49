"""`smtproute upstream`: a scripted server on a port, for any program to send to."""

from __future__ import annotations

import os
import signal
import tempfile
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

from smtproute.cli.ready import READY, write_ready

if TYPE_CHECKING:
    from smtproute.testing.certificates import Authority
    from smtproute.testing.script import UpstreamTable
    from smtproute.testing.upstream import Received, Session, Upstream

__all__ = ["command"]


def command(
    script: Annotated[
        Path | None,
        typer.Argument(metavar="SCRIPT", help="What it does (TOML); default: take all.", show_default=False),
    ] = None,
    host: Annotated[str, typer.Option(metavar="IP", help="Where it listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 0,
    name: Annotated[str, typer.Option(metavar="HOST", help="Whom its certificate is for.")] = "localhost",
    save: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write each message here, as it came.", show_default=False)
    ] = None,
    ready_file: Annotated[Path | None, READY] = None,
) -> None:
    """Run a server that answers by a script: refuses, delays, drops, greylists, has a bad certificate.

    Shows each message that it takes and the transcript of each connection. SIGINT and SIGTERM end it.
    """
    import asyncio

    from smtproute.cli.configuration import refuse
    from smtproute.config.document import Mistake
    from smtproute.core.address import AddressError, Domain, written_ip
    from smtproute.testing.script import UpstreamTable, read

    if written_ip(host) is None:
        raise typer.BadParameter(f"{host!r} is no IP address", param_hint="--host")
    try:
        Domain.parse(name)
    except AddressError as error:
        raise typer.BadParameter(str(error), param_hint="--name") from None
    try:
        table = read(script) if script is not None else UpstreamTable()
    except Mistake as mistake:
        refuse(str(mistake))
    if save is not None:
        try:
            save.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise typer.BadParameter(f"{save}: {(error.strerror or str(error)).lower()}", param_hint="--save") from None
    try:
        asyncio.run(_serve(table, host, port, name, save, ready_file))
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)


async def _serve(
    table: UpstreamTable, host: str, port: int, name: str, save: Path | None, ready_file: Path | None
) -> None:
    import asyncio

    from smtproute.cli.configuration import refuse
    from smtproute.testing.certificates import Authority
    from smtproute.testing.script import options, rules
    from smtproute.testing.upstream import Upstream

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    taken = count(1)

    async def take(received: Received) -> None:
        file = None if save is None else save / f"{next(taken)}.eml"
        if file is not None:
            file.write_bytes(received.content)
        print(_message(received, file), flush=True)
        upstream.received.clear()  # nobody asks for it again, and this may run for long

    def end(session: Session) -> None:
        print(_session(session), flush=True)
        upstream.sessions.remove(session)

    async with AsyncExitStack() as stack:
        authority = Authority(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smtproute-"))))
        upstream = Upstream(
            rules(table),
            **options(table, authority, name, _addresses(host)),
            host=host,
            port=port,
            on_message=take,
            on_end=end,
        )
        try:
            await stack.enter_async_context(upstream)
        except OSError as error:
            refuse(f"{host}:{port}: cannot be listened on: {os.strerror(error.errno or 0).lower()}. Choose another.")
        if ready_file is not None:
            protocol = "lmtp" if table.lmtp else "smtp"
            write_ready(ready_file, {protocol: (upstream.host, upstream.port)}, ca_file=authority.file)
        print(_listening(upstream, table, authority), flush=True)
        await stop.wait()


def _addresses(host: str) -> tuple[str, ...]:
    """What else its certificate is for: where it can be reached on this machine."""
    return tuple(dict.fromkeys(("127.0.0.1", "::1", "localhost", host)))


def _listening(upstream: Upstream, table: UpstreamTable, authority: Authority) -> str:
    from smtproute.testing.script import Tls

    facts = ["LMTP" if table.lmtp else "SMTP"]
    match table.tls:
        case Tls.NONE:
            pass
        case Tls.STARTTLS:
            facts += ["STARTTLS", f"CA file {authority.file}"]
        case Tls.IMPLICIT:
            facts += ["TLS", f"CA file {authority.file}"]
        case _:
            assert_never(table.tls)
    if any(rule.chance < 1 for rule in table.rule):
        facts.append(f"seed {upstream.seed}")
    shown = f"[{upstream.host}]" if ":" in upstream.host else upstream.host
    return f"listening on {shown}:{upstream.port} ({', '.join(facts)})"


def _message(received: Received, file: Path | None) -> str:
    from smtproute.core.transcript import legible

    to = ", ".join(f"<{each}>" for each in received.recipients)
    where = "" if file is None else f", in {file}"
    said = f"message from <{received.reverse_path}> to {to}: {len(received.content)} octets"
    return legible(f"{said}, by connection {received.connection}{where}")


def _session(session: Session) -> str:
    from smtproute.core.transcript import legible, plain
    from smtproute.trace.text import transcript

    secured = f" ({session.tls})" if session.tls else ""
    lines = [f"connection {session.number}{secured}:", *transcript(plain(session.transcript))]
    return "\n  ".join(map(legible, lines))
