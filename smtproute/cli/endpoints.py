"""`smtproute endpoints`: what the names of endpoints resolve to now, and how far each address takes mail."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smtproute.cli.columns import columns
from smtproute.cli.configuration import OPTION

if TYPE_CHECKING:
    from smtproute.core.address import Address
    from smtproute.core.snapshot import Snapshot
    from smtproute.delivery.places import Errand, Place
    from smtproute.delivery.probe import Probe

__all__ = ["command", "probed"]

_HEADINGS = ("endpoint", "server", "address", "from", "ttl", "")


def command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Endpoints; default: all.", show_default=False)
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Connect to every address and try it, up to RCPT; nothing is sent.")
    ] = False,
    sender: Annotated[
        str, typer.Option("--from", metavar="ADDRESS", help="With --probe: MAIL FROM; empty is the null sender.")
    ] = "",
    recipient: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="ADDRESS",
            help="For whom: its domain's servers, with discover = recipient; with --probe RCPT TO, default postmaster.",
            show_default=False,
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="With --probe: every transcript, not only those of failures.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, one an address.")] = False,
    config: Annotated[str | None, OPTION] = None,
) -> None:
    """List what each server of each endpoint resolves to now: address, source, seconds that DNS lets it be kept.

    With --probe, every address is tried as the relay would: connect, greeting, EHLO, STARTTLS with the certificate,
    AUTH, MAIL, RCPT, and then RSET. Exit: 0; 2 a server that is no backup has no address or, with --probe, an address
    or a name fails.
    """
    import asyncio

    from smtproute.cli.configuration import loaded
    from smtproute.core.transcript import legible
    from smtproute.delivery.places import errands, lost

    if not probe and (sender or verbose):
        raise typer.BadParameter("--from and --verbose are for --probe")
    snapshot = loaded(config).snapshot
    from_, to = (_address(each) if each else None for each in (sender, recipient))
    wanted = _wanted(errands(snapshot, reverse_path=from_, recipient=to), names or ())
    if probe:
        probes = asyncio.run(probed(snapshot, wanted))
        lines = _told(probes, verbose)
        objects = [_probe_json(each) for each in probes]
        failed = not all(each.ok for each in probes)
    else:
        now, found = asyncio.run(_listed(snapshot, wanted))
        lines = columns([_HEADINGS, *(_row(each, now) for each in found)]) if found else []
        objects = [_place_json(each, now) for each in found]
        failed = any(not each.backup for each in lost(found))
    if as_json:
        for each in objects:
            print(json.dumps(each))
    else:
        for line in lines:
            print(legible(line))
    for line in _unlisted(wanted):
        print(line, file=sys.stderr if as_json else sys.stdout)
    raise typer.Exit(2 if failed else 0)


async def probed(snapshot: Snapshot, errands: Mapping[str, Errand]) -> list[Probe]:
    """One probe of each address of these errands, and of each name without one."""
    from smtproute.app import endpoints
    from smtproute.delivery.places import places
    from smtproute.delivery.probe import Prober
    from smtproute.world import World

    world = World()
    prober = Prober(errands.values(), str(snapshot.settings.hostname), world)
    return await prober.probe(await places(endpoints(snapshot.settings, world), errands.values()))


async def _listed(snapshot: Snapshot, errands: Mapping[str, Errand]) -> tuple[float, tuple[Place, ...]]:
    """The places, and when they were looked up."""
    from smtproute.app import endpoints
    from smtproute.delivery.places import places
    from smtproute.world import World

    world = World()
    found = await places(endpoints(snapshot.settings, world), errands.values())
    return world.clock.now(), found


def _wanted(errands: Mapping[str, Errand], names: Sequence[str]) -> dict[str, Errand]:
    unknown = [name for name in names if name not in errands]
    if unknown:
        raise typer.BadParameter(f"there is no endpoint {unknown[0]!r}: the configuration has {', '.join(errands)}")
    return {name: errand for name, errand in errands.items() if not names or name in names}


def _address(written: str) -> Address:
    from smtproute.core.address import Address, AddressError

    try:
        return Address.parse(written)
    except AddressError as error:
        raise typer.BadParameter(str(error)) from None


def _unlisted(errands: Mapping[str, Errand]) -> Iterator[str]:
    """What is said of endpoints of which nothing could be looked up."""
    if not errands:
        yield "there are no endpoints"
    for name, errand in errands.items():
        if errand.undirected:
            yield f"{name}: its servers are those of each recipient's domain; --to ADDRESS names one"


# What names resolve to


def _row(place: Place, now: float) -> tuple[str, ...]:
    left = _left(place, now)
    return (
        place.errand.endpoint.name,
        place.shown,
        place.found.ip if place.found is not None else "-",
        _source(place) or "-",
        f"{left} s" if left is not None else "-",
        ", ".join(_notes(place)),
    )


def _source(place: Place) -> str:
    """Where the address is from: "static", "dns 10.0.0.53"."""
    if place.found is None or place.resolved is None:
        return ""
    return f"{place.found.source} {place.resolved.asked}".rstrip()


def _left(place: Place, now: float) -> int | None:
    """Seconds until DNS is asked again; None where it was not asked."""
    if place.resolved is None or place.resolved.ttl is None:
        return None
    return max(0, round(place.resolved.at + place.resolved.ttl - now))


def _notes(place: Place) -> Iterator[str]:
    if place.why:
        yield place.why
    if place.backup:
        yield "backup"
    if place.server is not None and str(place.server) != place.written:
        yield f"MX of {place.written}"
    if place.resolved is not None and place.resolved.stale:
        yield f"stale: {place.resolved.stale}"


def _place_json(place: Place, now: float) -> dict[str, Any]:
    """What `--json` prints of a place; what is not known is null."""
    resolved, server = place.resolved, place.server
    return {
        "endpoint": place.errand.endpoint.name,
        "name": place.written,
        "server": server.host if server is not None else None,
        "port": server.port if server is not None and not server.socket else None,
        "backup": place.backup,
        "address": place.found.ip if place.found is not None else None,
        "source": str(place.found.source) if place.found is not None else None,
        "status": str(resolved.status) if resolved is not None else None,
        "asked": resolved.asked if resolved is not None else "",
        "ttl": _left(place, now),
        "stale": resolved.stale if resolved is not None else "",
        "why": place.why,
    }


# What addresses answer


def _told(probes: Sequence[Probe], verbose: bool) -> list[str]:
    """Each probe step by step, with its transcript where it failed; then all of them, a line each."""
    from smtproute.core.transcript import plain
    from smtproute.trace.text import transcript

    lines: list[str] = []
    for probe in probes:
        lines.append("  ".join(_heading(probe)))
        lines += [f"  {step:<9} {what}" for step, what in _steps(probe)]
        if verbose or not probe.ok:
            lines += [f"    {line}" for line in transcript(plain(probe.transcript))]
        lines.append("")
    return lines + columns([(*_heading(probe), _verdict(probe)) for probe in probes]) if probes else []


def _heading(probe: Probe) -> tuple[str, str, str]:
    """Endpoint, server, address."""
    place = probe.place
    address = "-"
    if place.found is not None:
        address = f"{place.found.ip} ({_source(place)}{', backup' if place.backup else ''})"
    elif place.backup:
        address = "- (backup)"
    return place.errand.endpoint.name, place.shown, address


def _verdict(probe: Probe) -> str:
    return "ok" if probe.ok else f"{_step(probe)} {_failed(probe)}"


def _failed(probe: Probe) -> str:
    return f"FAILED: {probe.answer.how}"


def _step(probe: Probe) -> str:
    """The command, or the stage, at which a probe ended."""
    from smtproute.core.outcome import Stage

    return {Stage.STARTTLS: _tls(probe), Stage.DATA: "rset"}.get(probe.answer.stage, str(probe.answer.stage))


def _tls(probe: Probe) -> str:
    from smtproute.core.settings import EndpointTls

    return "tls" if probe.place.errand.endpoint.tls is EndpointTls.IMPLICIT else "starttls"


def _steps(probe: Probe) -> Iterator[tuple[str, str]]:
    """What is known of each step, in order, up to the one that failed."""
    from smtproute.core.outcome import Stage

    learnt, errand = probe.learnt, probe.place.errand
    talked = probe.answer.stage in (Stage.MAIL, Stage.RCPT, Stage.DATA)
    if learnt.seconds is not None:
        yield "connect", f"{learnt.seconds * 1000:.1f} ms"
    if learnt.greeting is not None:
        yield "greeting", str(learnt.greeting)
    if learnt.extensions or talked:
        offered = [f"{keyword} {value}".rstrip() for keyword, value in learnt.extensions.items()]
        yield "ehlo", ", ".join(offered) or "no extension"
    if probe.downgrade:
        yield _tls(probe), f"plain text: {probe.downgrade}"
    elif learnt.tls:
        yield _tls(probe), learnt.tls
    shown = probe.certificate
    if shown is not None and not shown.refused:
        yield "", f"certificate {shown.told(probe.at)}; {'verified' if probe.verified else 'not verified'}"
    if errand.endpoint.username and talked:
        yield "auth", f"logged in as {errand.endpoint.username}"
    if not probe.ok:
        yield _step(probe), _failed(probe)
        if shown is not None and shown.refused:
            yield "", f"the certificate is {shown.told(probe.at)}"
    else:
        yield "rcpt", f"from <{_shown(errand.reverse_path, '')}> to <{_to(errand)}>: {probe.answer.reply}"


def _to(errand: Errand) -> str:
    return _shown(errand.recipient, "postmaster")


def _shown(address: Address | None, otherwise: str) -> str:
    return str(address) if address is not None else otherwise


def _probe_json(probe: Probe) -> dict[str, Any]:
    from smtproute.core.transcript import plain

    learnt, errand, answer = probe.learnt, probe.place.errand, probe.answer
    return {
        **_place_json(probe.place, probe.at),
        "ok": probe.ok,
        "step": _step(probe),
        "answer": answer.how,
        "connect_ms": round(learnt.seconds * 1000, 1) if learnt.seconds is not None else None,
        "greeting": str(learnt.greeting) if learnt.greeting is not None else None,
        "extensions": learnt.extensions,
        "tls": learnt.tls,
        "downgrade": probe.downgrade,
        "certificate": _certificate_json(probe),
        "login": errand.endpoint.username,
        "from": _shown(errand.reverse_path, ""),
        "to": _to(errand),
        "transcript": plain(probe.transcript),
    }


def _certificate_json(probe: Probe) -> dict[str, Any] | None:
    shown = probe.certificate
    if shown is None:
        return None
    return {
        "names": shown.names,
        "issuer": shown.issuer,
        "expires": datetime.fromtimestamp(shown.expires, UTC).isoformat(),
        "days": shown.days(probe.at),
        "verified": probe.verified,
        "refused": shown.refused,
    }
