"""Names of endpoints that change while the relay runs."""

from __future__ import annotations

import io

import pytest

from smtproute.core.event import Event, Happening
from smtproute.core.settings import LogFormat
from smtproute.testing.zone import Fault
from smtproute.trace.log import log_to
from smtproute.trace.text import render
from tests.e2e.conftest import Client, Lab

GITLAB = "gitlab.internal"


async def moved(lab: Lab, ip: str) -> Event:
    """The zone has this address from now on; what the relay tells once it has seen it."""
    seen = len(lab.journal.of(Happening.RESOLVED))
    lab.zone.set(GITLAB, "A", [ip])
    return (await lab.journal.seen(Happening.RESOLVED, times=seen + 1))[-1]


async def test_a_server_that_moves_is_told_and_its_connection_ends(lab: Lab) -> None:
    lab.zone.ttl = 3600
    lab.resolver = 'watch = "1s"'
    old = await lab.upstream(GITLAB, ip="127.0.0.2")
    new = await lab.upstream("new.internal", ip="127.0.0.3", port=old.port)
    relay = await lab.application(f"{GITLAB}:{old.port}")
    await lab.delivered(relay, "anna@far.example")
    event = await moved(lab, "127.0.0.3")
    assert (event.facts["endpoint"], event.facts["appeared"], event.facts["vanished"]) == (
        "far",
        ["127.0.0.3"],
        ["127.0.0.2"],
    )
    await old.heard("QUIT")
    await lab.delivered(relay, "anna@far.example")
    assert (len(old.received), len(new.received)) == (1, 1)


async def test_a_reload_keeps_the_last_good_answers(lab: Lab) -> None:
    lab.resolver = 'watch = "0s"'
    far = await lab.upstream(GITLAB)
    relay = await lab.application(f"{GITLAB}:{far.port}")
    await lab.delivered(relay, "anna@far.example")
    lab.zone.set(GITLAB, "ANY", Fault.SERVFAIL)
    await relay.reload()
    assert lab.journal.of(Happening.RELOADED)
    await lab.delivered(relay, "anna@far.example")
    file = lab.folder / "smtproute.toml"
    file.write_text(file.read_text().replace("[resolver]", '[resolver]\nstale = "30m"'))
    await relay.reload()
    deferred = await lab.deferred(relay, "anna@far.example")
    assert f"{GITLAB}: SERVFAIL from {lab.zone.address}" in deferred.facts["detail"]


async def test_while_dns_fails_explain_says_that_the_answer_is_stale(lab: Lab) -> None:
    lab.resolver = 'watch = "1s"'
    lab.zone.set(GITLAB, "A", ["127.0.0.2"])
    relay = await lab.started(
        f"""
        default = {{ endpoint = "far" }}
        [listener.app]
        bind = "127.0.0.1:0"
        debug = true
        [endpoint.far]
        servers = ["{GITLAB}:2525"]
        """
    )
    client = await Client.connect(relay.addresses["app"])
    assert f"{GITLAB}:2525: 127.0.0.2 (dns)" in await client.say("VRFY anna@far.example")
    lab.zone.set(GITLAB, "ANY", Fault.SERVFAIL)
    (event,) = await lab.journal.seen(Happening.RESOLVED)
    why = f"stale: SERVFAIL from {lab.zone.address}"
    assert (event.facts["vanished"], event.facts["now"]) == ([], f"{GITLAB} = 127.0.0.2 (dns), {why}")
    assert f"{GITLAB}:2525: 127.0.0.2 (dns), {why}" in await client.say("VRFY anna@far.example")


@pytest.mark.parametrize("form", list(LogFormat))
def test_a_change_is_a_line_of_the_log(form: LogFormat) -> None:
    facts = {
        "endpoint": "gitlab",
        "server": "gitlab.internal:25",
        "appeared": [],
        "vanished": ["10.0.0.5", "fd00::5"],
        "now": "gitlab.internal: NXDOMAIN from 10.0.0.53",
    }
    event = Event(Happening.RESOLVED, 0.0, facts=facts)
    log = io.StringIO()
    log_to(log, form)(event)
    assert "10.0.0.5, fd00::5" in log.getvalue()
    assert "appeared" not in log.getvalue()
    assert render([event])[-1].endswith(
        "endpoint gitlab: gitlab.internal:25; vanished 10.0.0.5, fd00::5; now gitlab.internal: NXDOMAIN from 10.0.0.53"
    )
