"""`smtproute verify`: what the relay would find out about a message that is stored in a file."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smtproute.cli.configuration import OPTION
from smtproute.trace.judged import told

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from smtproute.cli.stored import Known, Stored
    from smtproute.core.envelope import Envelope
    from smtproute.core.policy import Ruling
    from smtproute.core.settings import Authentication, Settings
    from smtproute.mailauth.judgement import Findings

__all__ = ["command"]

UNREADABLE = 2
"""Exit status: there is no message to judge."""

Facts = dict[str, Any]


def command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The message; - is standard input.", show_default=False)],
    sender: Annotated[
        str | None,
        typer.Option("--from", metavar="ADDRESS", help="MAIL FROM; empty is the null sender.", show_default=False),
    ] = None,
    helo: Annotated[str | None, typer.Option(metavar="NAME", help="What the client said in EHLO.")] = None,
    client_ip: Annotated[str | None, typer.Option(help="The client's IP address.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, one a finding.")] = False,
    config: Annotated[str | None, OPTION] = None,
) -> None:
    """Judge a stored message as an inbound listener would: SPF, DKIM, DMARC and ARC, each with its reason.

    Of a signature that broke it is said which change broke it, where that can be told. What no option says of the
    envelope is taken from Return-Path and from the newest Received field; without a client's address there is no SPF.

    Exit status: 0 the message passes, 1 it does not, 2 FILE holds no message. It passes if DMARC does; where the
    author's domain publishes no DMARC policy, if SPF of MAIL FROM, a DKIM signature or the ARC chain does; and in no
    case if it has an ARC chain that fails.
    """
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from smtproute.cli.configuration import reader, refuse
    from smtproute.cli.stored import Unreadable, read
    from smtproute.config.document import Mistake
    from smtproute.core.transcript import legible

    try:
        settings = reader(config)().settings
    except Mistake as mistake:
        refuse(str(mistake))
    try:
        stored = read(file, settings.limits.message_size)
    except Unreadable as unreadable:
        print(legible(f"{file}: {unreadable}"), file=sys.stderr)
        raise typer.Exit(UNREADABLE) from None
    envelope = _Envelope(stored.message, sender, helo, client_ip)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        facts, passed = asyncio.run(_judged(stored, envelope, settings, pool))
    for each in facts:
        print(json.dumps(each) if as_json else "\n".join(told(each)))
    raise typer.Exit(0 if passed else 1)


class _Envelope:
    """The envelope, from the options or else from the message, and where each part of it was found."""

    def __init__(self, message: bytes, sender: str | None, helo: str | None, ip: str | None) -> None:
        from smtproute.cli.stored import Known, helo_and_ip, reverse_path

        unknown = Known("", "not known")
        found_helo, found_ip = helo_and_ip(message) or (unknown, unknown)
        self.sender: Known = (reverse_path(message) or unknown) if sender is None else Known(sender, "--from")
        self.helo: Known = found_helo if helo is None else Known(helo, "--helo")
        self.ip: Known = found_ip if ip is None else Known(ip, "--client-ip")
        self.envelope: Envelope = self._made()

    def _made(self) -> Envelope:
        from ipaddress import ip_address

        from smtproute.core.address import Address, AddressError
        from smtproute.core.envelope import Client, Envelope
        from smtproute.core.settings import Role

        try:
            ip = str(ip_address(self.ip.value)) if self.ip.value else ""
        except ValueError:
            raise typer.BadParameter(f"--client-ip {self.ip.value}: it is no IP address") from None
        try:
            path = Address.parse(text) if (text := self.sender.value.strip("<>")) else None
        except AddressError as error:
            raise typer.BadParameter(f"--from: {error}") from None
        return Envelope(Client(ip, 0, "", Role.INBOUND, False, helo=self.helo.value), path)


async def _judged(stored: Stored, given: _Envelope, settings: Settings, pool: Executor) -> tuple[list[Facts], bool]:
    """What is found, as `--json` prints it; and whether the message passes."""
    from smtproute.app import records
    from smtproute.core.policy import Ruling, rule
    from smtproute.mailauth.closer import Closer
    from smtproute.mailauth.judgement import examine
    from smtproute.mailauth.lookups import Lookups
    from smtproute.world import World

    world, wanted, receiver = World(), settings.authentication, str(settings.hostname)
    lookup = records(settings, world)
    # Without a client there is nobody whom SPF could be asked about.
    asked = wanted if given.ip.value else replace(wanted, spf=False)
    now = world.clock.now()
    found = await examine(stored.message, given.envelope, asked, lookup, pool, receiver, at=now, explained=True)
    ruling = Ruling()
    if found.dmarc is not None:
        ruling = rule(wanted, found.dmarc.asks, found.seals, chance=0.0)
    # Only what `examine` does not tell is asked for again, and the resolver knows most of it.
    more = Closer(stored.message, Lookups(lookup, wanted.timeout, wanted.lookups), pool, wanted, now)
    by_dkim = [_unjudged("dkim", "[authentication] dkim is false", found)]
    by_arc = [_unjudged("arc", "[authentication] arc is false", found)]
    facts = [
        _told(stored, given),
        *_spf(found, _without_spf(wanted)),
        *(by_dkim if found.signatures is None else await more.signatures(found.signatures)),
        _dmarc(found, ruling, wanted, "" if asked.spf else _without_spf(wanted)),
        *(by_arc if found.chain is None else await more.chain(found.chain)),
        _results(found, ruling, receiver),
    ]
    return facts, _passes(found)


def _passes(found: Findings) -> bool:
    """The rule of the command's help."""
    results = {verdict.method: verdict.result for verdict in found.verdicts if verdict.method in ("dmarc", "arc")}
    if results.get("arc") == "fail":
        return False
    if results.get("dmarc", "none") != "none":
        return results["dmarc"] == "pass"
    of_spf = [each.result for each in (found.spf or ())[:1]]
    return "pass" in (*of_spf, *(each.result for each in found.signatures or ()), results.get("arc"))


def _told(stored: Stored, given: _Envelope) -> Facts:
    return {
        "what": "message",
        "octets": len(stored.message),
        "notes": list(stored.notes),
        "mail_from": {"value": given.sender.value.strip("<>"), "where": given.sender.where},
        "helo": {"value": given.helo.value, "where": given.helo.where},
        "client_ip": {"value": given.ip.value, "where": given.ip.where},
    }


def _spf(found: Findings, why: str) -> list[Facts]:
    if found.spf is None:
        return [_unjudged("spf", why, found)]
    return [
        {
            "what": "spf",
            "identity": str(each.identity),
            "domain": each.domain,
            "result": str(each.result),
            "reason": each.reason,
            "record": each.record,
            "lookups": each.lookups,
            "explanation": each.explanation,
        }
        for each in found.spf
    ]


def _without_spf(wanted: Authentication) -> str:
    """Why SPF is not judged, where it is not."""
    return "the client's address is not known: give --client-ip" if wanted.spf else "[authentication] spf is false"


def _dmarc(found: Findings, ruling: Ruling, wanted: Authentication, without_spf: str) -> Facts:
    """`without_spf`: why there is no SPF; then a fail goes as far as DKIM goes, and SPF might have passed."""
    from smtproute.mailauth.dmarc import DmarcResult

    dmarc = found.dmarc
    if dmarc is None:
        return _unjudged("dmarc", "[authentication] dmarc is false", found)
    partial = bool(without_spf) and dmarc.result is DmarcResult.FAIL
    return {
        "what": "dmarc",
        "result": str(dmarc.result),
        "partial": partial,
        "reason": f"{dmarc.reason} ({without_spf})" if partial else dmarc.reason,
        "domain": dmarc.domain,
        "record_at": dmarc.record_at or None,
        "record": dmarc.record.text if dmarc.record is not None else None,
        "identifiers": [
            {
                "method": each.method.lower(),
                "domain": each.domain,
                "result": each.result,
                "aligned": each.aligned,
                "strict": each.strict,
            }
            for each in dmarc.identifiers
        ],
        "asked": str(dmarc.asked),
        "policy": str(wanted.policy),
        "disposition": str(ruling.disposition),
        "deferred": ruling.deferred,
        "ruling": ruling.reason,
    }


def _unjudged(method: str, why: str, found: Findings) -> Facts:
    """What stands for a check that was not made, or that died."""
    died = next((fault for fault in found.faults if fault.startswith(f"{method}:")), "")
    reason = f"an internal error: {died.strip().splitlines()[-1]}" if died else why
    return {"what": method, "result": None, "reason": reason}


def _results(found: Findings, ruling: Ruling, receiver: str) -> Facts:
    """The field as the relay would write it; of a client that is not known nothing is said."""
    from smtproute.mailauth.results import field

    verdicts = [
        replace(each, properties=tuple((name, value) for name, value in each.properties if value))
        for each in found.told(ruling)
    ]
    return {"what": "authentication-results", "field": field(receiver, verdicts).decode("ascii").replace("\r\n", "\n")}
