"""`smtproute endpoints`: what the names of endpoints resolve to now, and how far each address takes mail."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smtproute.cli.configuration import OPTION
from smtproute.trace.columns import columns

if TYPE_CHECKING:
    from smtproute.core.address import Address
    from smtproute.core.snapshot import Snapshot
    from smtproute.delivery.hops import Hop, Trial
    from smtproute.delivery.probe import Probe

__all__ = ["command", "probed"]

_HEADINGS = ("endpoint", "server", "address", "from", "ttl", "age", "")


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
            help="For whom: its domain's servers, with discover = recipient; with --probe RCPT TO, else whom the"
            " first route names, or postmaster.",
            show_default=False,
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="With --probe: every transcript, not only those of failures.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, one an address.")] = False,
    config: Annotated[str | None, OPTION] = None,
) -> None:
    """List what each server of each endpoint resolves to now: address, source, seconds left and age of DNS's answer.

    With --probe, every address is tried as the relay would: connect, greeting, EHLO, STARTTLS with the certificate,
    AUTH, MAIL, RCPT, and then RSET. Exit: 0; 2 a server that is no backup has no address or, with --probe, an address
    or a name fails.
    """
    import asyncio

    from smtproute.cli.configuration import loaded
    from smtproute.core.transcript import legible
    from smtproute.delivery.hops import lost, trials

    if not probe and (sender or verbose):
        raise typer.BadParameter("--from and --verbose are for --probe")
    snapshot = loaded(config).snapshot
    from_, to = (_address(each) if each else None for each in (sender, recipient))
    wanted = _wanted(trials(snapshot, reverse_path=from_, recipient=to), names or ())
    if probe:
        probes = asyncio.run(probed(snapshot, wanted))
        lines = _told(probes, verbose)
        objects = [_probe_json(each) for each in probes]
        hops = [each.hop for each in probes]
        failed = not all(each.ok for each in probes)
    else:
        hops = asyncio.run(_listed(snapshot, wanted))
        lines = columns([_HEADINGS, *map(_row, hops)]) if hops else []
        objects = [_hop_json(each) for each in hops]
        failed = any(not each.backup for each in lost(hops))
    if as_json:
        for each in objects:
            print(json.dumps(each))
    else:
        for line in lines:
            print(legible(line))
    for line in (*_unlisted(wanted), *_meanwhile(hops, snapshot.settings.resolver.stale)):
        print(line, file=sys.stderr if as_json else sys.stdout)
    raise typer.Exit(2 if failed else 0)


async def probed(snapshot: Snapshot, trials: Mapping[str, Trial]) -> list[Probe]:
    """One probe of each address of these trials, and of each name without one."""
    from smtproute.app import endpoints
    from smtproute.delivery.hops import hops
    from smtproute.delivery.probe import Prober
    from smtproute.world import World

    world = World()
    prober = Prober(trials.values(), str(snapshot.settings.hostname), world)
    return await prober.probe(await hops(endpoints(snapshot.settings, world), trials.values()))


async def _listed(snapshot: Snapshot, trials: Mapping[str, Trial]) -> list[Hop]:
    from smtproute.app import endpoints
    from smtproute.delivery.hops import hops
    from smtproute.world import World

    return [*await hops(endpoints(snapshot.settings, World()), trials.values())]


def _wanted(trials: Mapping[str, Trial], names: Sequence[str]) -> dict[str, Trial]:
    unknown = [name for name in names if name not in trials]
    if unknown:
        raise typer.BadParameter(f"there is no endpoint {unknown[0]!r}: the configuration has {', '.join(trials)}")
    return {name: trial for name, trial in trials.items() if not names or name in names}


def _address(written: str) -> Address:
    from smtproute.core.address import Address, AddressError

    try:
        return Address.parse(written)
    except AddressError as error:
        raise typer.BadParameter(str(error)) from None


def _unlisted(trials: Mapping[str, Trial]) -> Iterator[str]:
    """What is said of endpoints of which nothing could be looked up."""
    if not trials:
        yield "there are no endpoints"
    for name, trial in trials.items():
        if trial.undirected:
            yield f"{name}: its servers are those of each recipient's domain; --to ADDRESS names one"


def _meanwhile(hops: Sequence[Hop], stale: float) -> Iterator[str]:
    """What goes on where DNS fails; `stale`: as `resolver.stale`."""
    from smtproute.resolve.lastgood import goes_on

    if stale and any(each.unanswered for each in hops):
        yield f"note: {goes_on(stale)}"


# What names resolve to


def _row(hop: Hop) -> tuple[str, ...]:
    return (
        hop.trial.endpoint.name,
        hop.shown,
        hop.found.ip if hop.found is not None else "-",
        _source(hop) or "-",
        *(f"{seconds} s" if seconds is not None else "-" for seconds in _times(hop)),
        ", ".join(_notes(hop)),
    )


def _source(hop: Hop) -> str:
    """Where the address is from: "static", "dns 10.0.0.53"."""
    if hop.found is None or hop.resolved is None:
        return ""
    return f"{hop.found.source} {hop.resolved.asked}".rstrip()


def _times(hop: Hop) -> tuple[int | None, int | None]:
    """Seconds until DNS is asked again, and since it answered; None where it was not asked."""
    if hop.resolved is None or hop.resolved.left is None:
        return None, None
    return hop.resolved.left, round(hop.resolved.age)


def _notes(hop: Hop) -> Iterator[str]:
    if hop.why:
        yield hop.why
    if hop.backup:
        yield "backup"
    if hop.server is not None and str(hop.server) != hop.written:
        yield f"MX of {hop.written}"
    if hop.resolved is not None and hop.found is not None:
        yield from hop.resolved.remarks


def _hop_json(hop: Hop) -> dict[str, Any]:
    """What `--json` prints of a hop; what is not known is null."""
    resolved, server = hop.resolved, hop.server
    left, age = _times(hop)
    return {
        "endpoint": hop.trial.endpoint.name,
        "name": hop.written,
        "server": server.host if server is not None else None,
        "port": server.port if server is not None and not server.socket else None,
        "backup": hop.backup,
        "address": hop.found.ip if hop.found is not None else None,
        "source": str(hop.found.source) if hop.found is not None else None,
        "status": str(resolved.status) if resolved is not None else None,
        "asked": resolved.asked if resolved is not None else "",
        "ttl": left,
        "age": age,
        "stale": resolved.stale if resolved is not None else "",
        "why": hop.why,
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
    hop = probe.hop
    address = "-"
    if hop.found is not None:
        address = f"{hop.found.ip} ({_source(hop)}{', backup' if hop.backup else ''})"
    elif hop.backup:
        address = "- (backup)"
    return hop.trial.endpoint.name, hop.shown, address


def _verdict(probe: Probe) -> str:
    if not probe.ok:
        return f"{_step(probe)} {_failed(probe)}"
    if probe.learnt.tls:
        return "ok" if probe.verified else "ok, TLS not verified"
    return "ok, plain text"


def _failed(probe: Probe) -> str:
    return f"FAILED: {probe.answer.how}"


def _step(probe: Probe) -> str:
    """The command, or the stage, at which a probe ended."""
    from smtproute.core.outcome import Stage

    return {Stage.STARTTLS: _tls(probe), Stage.DATA: "rset"}.get(probe.answer.stage, str(probe.answer.stage))


def _tls(probe: Probe) -> str:
    from smtproute.core.settings import EndpointTls

    return "tls" if probe.hop.trial.endpoint.tls is EndpointTls.IMPLICIT else "starttls"


def _steps(probe: Probe) -> Iterator[tuple[str, str]]:
    """What is known of each step, in order, up to the one that failed."""
    from smtproute.core.outcome import Stage

    learnt, trial = probe.learnt, probe.hop.trial
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
    if trial.endpoint.username and talked:
        yield "auth", f"logged in as {trial.endpoint.username}"
    if not probe.ok:
        yield _step(probe), _failed(probe)
        if shown is not None and shown.refused:
            yield "", f"the certificate is {shown.told(probe.at)}"
    else:
        yield "rcpt", f"from <{_shown(trial.reverse_path, '')}> to <{_to(trial)}>: {probe.answer.reply}"


def _to(trial: Trial) -> str:
    return _shown(trial.recipient, "postmaster")


def _shown(address: Address | None, otherwise: str) -> str:
    return str(address) if address is not None else otherwise


def _probe_json(probe: Probe) -> dict[str, Any]:
    from smtproute.core.transcript import plain

    learnt, trial, answer = probe.learnt, probe.hop.trial, probe.answer
    return {
        **_hop_json(probe.hop),
        "ok": probe.ok,
        "step": _step(probe),
        "answer": answer.how,
        "connect_ms": round(learnt.seconds * 1000, 1) if learnt.seconds is not None else None,
        "greeting": str(learnt.greeting) if learnt.greeting is not None else None,
        "extensions": learnt.extensions,
        "tls": learnt.tls,
        "downgrade": probe.downgrade,
        "certificate": _certificate_json(probe),
        "login": trial.endpoint.username,
        "from": _shown(trial.reverse_path, ""),
        "to": _to(trial),
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
