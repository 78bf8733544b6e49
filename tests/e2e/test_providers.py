"""Providers: what their refusals mean stands in the trace and in the DSN; `explain` names them by the MX."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from smtproute.app import Relay
from smtproute.core.event import Happening
from smtproute.testing.upstream import on
from smtproute.testing.zone import Fault
from smtproute.trace.text import render
from tests.e2e.conftest import Lab

GMAIL, OUTLOOK = "gmail-smtp-in.l.google.com", "outlook-com.olc.protection.outlook.com"
YAHOO, TELEKOM = "mta5.am0.yahoodns.net", "mx00.t-online.de"
UNVERIFIED = "Cause: The next server could not verify the message: neither SPF nor DKIM passed."
REFUSALS = {
    GMAIL: ("550 5.7.26 This email has been blocked because the sender is unauthenticated. gsmtp", UNVERIFIED),
    OUTLOOK: ("550 5.7.515 Access denied, sending domain else.example does not meet the required level.", UNVERIFIED),
    YAHOO: (
        "554 5.7.9 Message not accepted for policy reasons. See https://postmaster.yahooinc.com/error-codes",
        "Cause: The next server refuses the message by its own policy",
    ),
}
"""At the end of DATA."""


def plain(dsn: bytes) -> str:
    """The DSN without its line ends: sentences are folded."""
    return " ".join(dsn.decode().split())


async def returned(lab: Lab, relay: Relay, message: str) -> str:
    (told,) = await lab.journal.seen(Happening.BOUNCED, message)
    return plain(await relay.spool.content(told.facts["dsn"]))


@pytest.mark.parametrize("host", REFUSALS)
async def test_a_known_refusal_is_explained_in_trace_and_dsn(lab: Lab, host: str) -> None:
    reply, cause = REFUSALS[host]
    far = await lab.upstream(host, [on("CONTENT", reply)])
    relay = await lab.application(f"{host}:{far.port}")
    message = await lab.delivered(relay, "somebody@far.example")
    (failed,) = lab.journal.of(Happening.FAILED, message)
    advice = failed.facts["advice"]
    trace = "\n".join(render(await lab.trace(relay, message)))
    assert f"  cause: {advice['cause']}" in trace and f"  mend: {advice['mend']} See {advice['source']}" in trace
    dsn = await returned(lab, relay, message)
    assert cause in dsn and f"Mend: {advice['mend']} See {advice['source']}" in dsn


async def test_a_deferral_is_explained_too(lab: Lab) -> None:
    reply = "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints"
    far = await lab.upstream(YAHOO, [on("MAIL", reply)])
    relay = await lab.application(f"{YAHOO}:{far.port}")
    event = await lab.deferred(relay, "somebody@far.example")
    trace = "\n".join(render(await lab.trace(relay, event.message)))
    assert "  cause: The next server takes fewer messages" in trace and "senders.yahooinc.com" in trace


async def test_a_server_that_refuses_the_connection_is_explained_too(lab: Lab) -> None:
    """The reply to the sender is ours then; what it means is told all the same, of the last server that said it."""
    far = await lab.upstream(TELEKOM, [on("CONNECT", "554 IP=192.0.2.1 - None/bad reputation. (NOWL)")])
    relay = await lab.application(f"{TELEKOM}:{far.port}", "nobody.far.example:25")
    event = await lab.deferred(relay, "somebody@far.example")
    assert event.facts["reply"].startswith("451 4.4.1 ")
    assert (
        event.facts["advice"]["cause"] == "The next server does not take mail from our address, which it does not know."
    )
    assert "postmaster.t-online.de" in "\n".join(render(await lab.trace(relay, event.message)))


async def test_a_refusal_that_nobody_knows_has_no_explanation(lab: Lab) -> None:
    far = await lab.upstream("mx.far.example", [on("RCPT", "550 5.1.1 No such user")])
    relay = await lab.application(f"mx.far.example:{far.port}")
    message = await lab.delivered(relay, "somebody@far.example")
    (failed,) = lab.journal.of(Happening.FAILED, message)
    assert failed.facts["advice"] is None
    assert "Cause:" not in await returned(lab, relay, message)
    assert "cause:" not in "\n".join(render(await lab.trace(relay, message)))


ALIASED = """
    domains = ["example.org"]
    [listener.mx]
    bind = "127.0.0.1:0"
    role = "inbound"
    [aliases]
    tables = ["aliases"]
    [endpoint.far]
    servers = ["{host}:{port}"]
    [[route]]
    match = "*@secret.example"
    endpoint = "far"
    [[route]]
    match = "*@else.example"
    mode = "capture"
"""


@pytest.mark.parametrize("host", REFUSALS)
async def test_behind_an_alias_neither_target_nor_provider_is_betrayed(lab: Lab, host: str) -> None:
    reply, cause = REFUSALS[host]
    far = await lab.upstream(host, [on("CONTENT", reply)])
    lab.write("aliases", "info@example.org me@secret.example\n")
    relay = await lab.started(ALIASED.format(host=host, port=far.port))
    message = await lab.delivered(relay, "info@example.org")
    dsn = await returned(lab, relay, message)
    assert cause in dsn and "Mend:" not in dsn and "See https" not in dsn
    words = ("secret", "google", "gmail", "gsmtp", "microsoft", "outlook", "yahoo", "5.7.515", "postmaster.live")
    assert not [word for word in words if word in dsn.lower()]
    assert host in "\n".join(render(await lab.trace(relay, message)))  # the operator sees it all


EXPLAINED = """
    domains = ["example.org"]
    default = {{ endpoint = "smarthost" }}
    [listener.mx]
    bind = "127.0.0.1:0"
    role = "inbound"
    [aliases]
    tables = ["aliases"]
    [endpoint.direct]
    discover = "recipient"
    [endpoint.smarthost]
    servers = ["smarthost.example:25"]
    [endpoint.inside]
    servers = ["git.inside.example:25"]
    [[route]]
    match = "*@gmail.com"
    endpoint = "direct"
    [[route]]
    match = "*@inside.example"
    endpoint = "inside"
    [[route]]
    match = "*@else.example"
    mode = "capture"
"""
ALIASES = {
    "direct@example.org": "me@gmail.com",
    "smart@example.org": "me@yahoo.com",
    "unknown@example.org": "me@far.example",
    "inside@example.org": "me@inside.example",
    "silent@example.org": "me@silent.example",
}


async def explained(file: Path, *options: str) -> str:
    line = [sys.executable, "-c", "from smtproute.cli import main; main()", "explain", *options, "-c", str(file)]
    process = await asyncio.create_subprocess_exec(*line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said, wrong = await asyncio.wait_for(process.communicate(), 60)
    assert not wrong, wrong.decode()
    return said.decode()


async def test_explain_names_the_provider_by_its_mx(lab: Lab) -> None:
    lab.write("aliases", "".join(f"{alias} {target}\n" for alias, target in ALIASES.items()))
    file = lab.config(EXPLAINED.format())
    for host in (GMAIL, "smarthost.example", "git.inside.example"):
        lab.zone.set(host, "A", ["127.0.0.1"])
    lab.zone.set("gmail.com", "MX", [f"5 {GMAIL}"])
    lab.zone.set("yahoo.com", "MX", [f"1 {YAHOO}"])
    lab.zone.set("silent.example", "MX", Fault.SERVFAIL)

    said = [json.loads(line) for line in (await explained(file, "--json", *ALIASES)).splitlines()]
    found = {each["recipient"]: each["deliveries"][0]["provider"] for each in said}
    assert found["direct@example.org"]["name"] == "Google"
    assert found["smart@example.org"]["name"] == "Yahoo and AOL"
    assert "ARC" in found["smart@example.org"]["asks"]
    assert found["smart@example.org"]["source"] == "https://senders.yahooinc.com/best-practices/"
    assert [found[f"{name}@example.org"] for name in ("unknown", "inside", "silent")] == [None] * 3
    notes = {each["recipient"]: each["notes"] for each in said}
    assert any("its provider is not known: " in note and "SERVFAIL" in note for note in notes["silent@example.org"])
    asked = {(query.name, query.type) for query in lab.zone.queries}
    assert ("yahoo.com", "MX") in asked and ("inside.example", "MX") not in asked

    lines = (await explained(file, "smart@example.org")).splitlines()
    assert any(line.startswith("     provider Yahoo and AOL: ") and "(https://" in line for line in lines)


async def test_explain_asks_no_dns_where_dns_is_no_source(lab: Lab) -> None:
    lab.write("aliases", "smart@example.org me@yahoo.com\n")
    lab.zone.set("yahoo.com", "MX", [f"1 {YAHOO}"])
    lab.resolver = 'order = ["static"]\nstatic = { "smarthost.example" = ["127.0.0.1"] }'
    file = lab.config(EXPLAINED.format())
    (told,) = (json.loads(line) for line in (await explained(file, "--json", "smart@example.org")).splitlines())
    assert told["deliveries"][0]["provider"] is None and lab.zone.queries == []
