"""`smtproute verify`: what the relay would find out about a message that is stored in a file."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smtproute.cli.configuration import OPTION
from smtproute.cli.judged import told

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from smtproute.cli.stored import Known, Stored
    from smtproute.core.envelope import Envelope
    from smtproute.core.policy import Ruling
    from smtproute.core.settings import Authentication, Settings
    from smtproute.mailauth.judgement import Findings
    from smtproute.mailauth.lookups import Lookups

__all__ = ["command"]

UNREADABLE = 2
"""Exit status: there is no message to judge."""
_CLOSER = 48 << 20
"""Octets that the closer look at all broken signatures of a message may cost, each what the message has and more."""
_MORE = 4 << 20
_NO_CLOSER = "What was changed was not looked for: the broken signatures before this one took all the work it may cost."

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
    more = _Closer(stored.message, found, Lookups(lookup, wanted.timeout, wanted.lookups), pool, wanted)
    facts = [
        _told(stored, given),
        *_spf(found, _without_spf(wanted)),
        *await more.signatures(),
        _dmarc(found, ruling, wanted, "" if asked.spf else _without_spf(wanted)),
        *await more.chain(),
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


class _Closer:
    """A closer look at what was found: the changes that broke signatures, each ARC set."""

    def __init__(
        self, message: bytes, found: Findings, lookups: Lookups, pool: Executor, bounds: Authentication
    ) -> None:
        self._message = message
        self._found = found
        self._lookups = lookups
        self._pool = pool
        self._bounds = bounds
        self._left = _CLOSER

    async def signatures(self) -> list[Facts]:
        """Each DKIM-Signature; one that is not there is a result too."""
        from smtproute.mailauth.dkim import DkimResult
        from smtproute.mailauth.header import opened

        signatures = self._found.signatures
        if signatures is None:
            return [_unjudged("dkim", "[authentication] dkim is false", self._found)]
        if not signatures:
            return [{"what": "dkim", "result": "none", "reason": "it has no signature"}]
        header = opened(self._message, self._bounds)
        raws = [each.raw(self._message) for each in header.fields if each.name == b"dkim-signature"]
        facts = []
        for number, each in enumerate(signatures):
            changes: tuple[str, ...] = ()
            if each.result is DkimResult.FAIL and number < min(len(raws), self._bounds.signatures):
                changes = await self._changes(raws[number], f"{each.selector}._domainkey.{each.domain}")
            facts.append(
                {
                    "what": "dkim",
                    "number": number + 1,
                    "result": str(each.result),
                    "reason": each.reason,
                    "domain": each.domain,
                    "selector": each.selector,
                    "identity": each.identity,
                    "algorithm": each.algorithm,
                    "value": each.value,
                    "changes": list(changes),
                }
            )
        return facts

    async def _changes(self, signature: bytes, name: str | None) -> tuple[str, ...]:
        import asyncio

        from smtproute.core.lookup import Unanswered
        from smtproute.mailauth.diagnosis import diagnose
        from smtproute.mailauth.keys import chosen

        self._left -= len(self._message) + _MORE
        if self._left < 0:
            return (_NO_CLOSER,)
        try:
            record = chosen(await self._lookups.texts(name)) if name is not None else None
        except Unanswered:
            record = None
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, diagnose, self._message, signature, record, self._bounds)

    async def chain(self) -> list[Facts]:
        """The chain, and each of its sets."""
        from smtproute.mailauth.arc import instances
        from smtproute.mailauth.sets import survey
        from smtproute.mailauth.signature import key_name

        chain = self._found.chain
        if chain is None:
            return [_unjudged("arc", "[authentication] arc is false", self._found)]
        facts: list[Facts] = [{"what": "arc", "result": str(chain.status), "reason": chain.reason, "sets": chain.sets}]
        parts = survey(self._message, self._bounds).sets
        judged = await instances(self._message, self._lookups, self._pool, self._bounds)
        for each, part in zip(judged, parts, strict=True):
            changes: tuple[str, ...] = ()
            if each.signature_fault:
                changes = await self._changes(part.signature.raw, key_name(part.signature.tags))
            facts.append(
                {
                    "what": "arc-set",
                    "instance": each.number,
                    "cv": each.status,
                    "sealer": each.sealer,
                    "seal": "fail" if each.seal_fault else "pass",
                    "seal_reason": each.seal_fault,
                    "signer": each.signer,
                    "signature": "fail" if each.signature_fault else "pass",
                    "signature_reason": each.signature_fault,
                    "changes": list(changes),
                    "results": each.results,
                }
            )
        return facts
