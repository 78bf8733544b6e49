"""Which server takes the message when another does not, who is left alone for a while, and what is said of it all."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from dataclasses import replace

import pytest

from smtproute.app import Relay
from smtproute.core.event import Happening
from smtproute.core.settings import LogFormat
from smtproute.smtp.opening import TIMEOUTS
from smtproute.testing.clock import TurnedClock
from smtproute.testing.upstream import Hang, Rule, Upstream, Wait, on
from smtproute.trace.log import log_to
from smtproute.trace.text import render
from smtproute.world import World
from tests.e2e.conftest import Lab

BUSY = "421 4.3.2 Busy"
NOBODY = "127.0.0.9"
"""Nobody listens there."""


def turned(lab: Lab) -> TurnedClock:
    clock = TurnedClock(1_800_000_000.0)
    lab.world = World(clock=clock)
    return clock


async def attempts(lab: Lab, relay: Relay, message: str) -> list[str]:
    """The servers that were tried, in order."""
    return [each.facts["server"] for each in await lab.trace(relay, message) if each.what is Happening.ATTEMPT]


async def test_a_server_that_refuses_leads_to_the_next_and_both_are_in_the_trace(lab: Lab) -> None:
    second = await lab.upstream("b.far.example")
    lab.zone.set("a.far.example", "A", [NOBODY])
    relay = await lab.application(f"a.far.example:{second.port}", f"b.far.example:{second.port}")
    message = await lab.delivered(relay, "x@far.example")
    said = "\n".join(render(await lab.trace(relay, message)))
    assert f"not connected to a.far.example ({NOBODY}:{second.port}): connection refused" in said
    assert f"connected to b.far.example (127.0.0.1:{second.port})" in said
    assert await attempts(lab, relay, message) == [f"a.far.example:{second.port}", f"b.far.example:{second.port}"]


async def test_a_server_that_says_nothing_costs_no_timeout(lab: Lab) -> None:
    """The next address is tried beside it (RFC 8305); its own deadline is five minutes, the test's half a minute."""
    lab.timeouts = replace(TIMEOUTS, next_greeting=0.05)
    first, second = await lab.upstream("a.far.example", [on("CONNECT", Hang())]), await lab.upstream("b.far.example")
    relay = await lab.application(f"a.far.example:{first.port}", f"b.far.example:{second.port}")
    await lab.delivered(relay, "x@far.example")
    assert len(second.received) == 1


@pytest.mark.parametrize(
    "rule",
    [
        on("MAIL", "451 4.7.1 Greylisted"),
        on("RCPT", "450 4.2.1 Busy"),
        on("DATA", "421 4.3.2 Closing"),
        on("CONTENT", "452 4.3.1 No room"),
    ],
    ids=lambda rule: str(rule.verb),
)
async def test_not_now_leads_to_the_next_server(lab: Lab, rule: Rule) -> None:
    """Postal waits with the first."""
    first, second = await lab.upstream("a.far.example", [rule]), await lab.upstream("b.far.example")
    relay = await lab.application(f"a.far.example:{first.port}", f"b.far.example:{second.port}")
    message = await lab.delivered(relay, "x@far.example")
    assert (len(first.received), len(second.received)) == (0, 1)
    assert len(await attempts(lab, relay, message)) == 2


# The error


async def test_the_error_says_what_was_tried_in_trace_log_and_dsn(lab: Lab) -> None:
    clock = turned(lab)
    with socket.create_server((NOBODY, 0)) as closed:
        port = closed.getsockname()[1]
    lab.resolver = f'static = {{ "gitlab.internal" = ["{NOBODY}"] }}'
    relay = await lab.started(
        f"""
        default = {{ endpoint = "gitlab" }}
        [listener.app]
        bind = "127.0.0.1:0"
        [endpoint.gitlab]
        servers = ["gitlab.internal:{port}"]
        backup = ["gitlab-standby.internal:25"]
        [[route]]
        match = "*@else.example"
        mode = "capture"
        [queue]
        retry = ["1m"]
        lifetime = "1m"
        """
    )
    error = (
        f"endpoint gitlab: no server took the message: gitlab.internal (static, {NOBODY}:{port}) connection refused; "
        f"gitlab-standby.internal: NXDOMAIN from {lab.zone.address}"
    )
    event = await lab.deferred(relay, "dev@git.example.org")
    assert error in "\n".join(render(await lab.trace(relay, event.message)))
    log = io.StringIO()
    log_to(log, LogFormat.JSON)(event)
    assert json.loads(log.getvalue())["detail"] == error

    await clock.advance(60)
    (bounced,) = await lab.journal.seen(Happening.BOUNCED, event.message)
    dsn = (await relay.spool.content(bounced.facts["dsn"])).decode()
    assert f"    {error}\r\n" in dsn and "Status: 4.4.1\r\n" in dsn


# Rest


async def pair(lab: Lab, *script: Rule) -> tuple[Upstream, Upstream, Relay]:
    """Two servers, of which the first has the script, and their relay."""
    first, second = await lab.upstream("a.far.example", script), await lab.upstream("b.far.example")
    return first, second, await lab.application(f"a.far.example:{first.port}", f"b.far.example:{second.port}")


async def test_a_server_that_failed_is_left_alone_and_taken_up_again(lab: Lab) -> None:
    clock = turned(lab)
    first, second, relay = await pair(lab, on("CONNECT", BUSY, times=1))
    await lab.delivered(relay, "1@far.example")
    (resting,) = lab.journal.of(Happening.RESTING)
    assert (resting.facts["endpoint"], resting.facts["server"]) == ("far", f"a.far.example:{first.port}")
    assert BUSY in resting.facts["why"]
    await lab.delivered(relay, "2@far.example")
    assert (first.connections, len(second.received), lab.journal.of(Happening.RECOVERED)) == (1, 2, [])

    await clock.advance(resting.facts["seconds"])
    await lab.delivered(relay, "3@far.example")
    (recovered,) = lab.journal.of(Happening.RECOVERED)
    assert recovered.facts["server"] == f"a.far.example:{first.port}"
    await lab.delivered(relay, "4@far.example")
    assert [each.recipients for each in first.received] == [("3@far.example",), ("4@far.example",)]


async def test_each_failure_prolongs_the_rest(lab: Lab) -> None:
    clock = turned(lab)
    first, second, relay = await pair(lab, on("CONNECT", BUSY))
    for number in range(1, 9):
        await lab.delivered(relay, "x@far.example")
        assert first.connections == number
        resting = lab.journal.of(Happening.RESTING)
        assert len(resting) == number
        await clock.advance(resting[-1].facts["seconds"])
    pauses = [each.facts["seconds"] for each in resting]
    assert pauses == sorted(pauses) and pauses[0] < pauses[1] < pauses[4] and pauses[-1] == pauses[-2]
    assert len(second.received) == 8


async def test_after_a_rest_one_message_probes_and_the_others_do_not_wait_for_it(lab: Lab) -> None:
    clock, gate = turned(lab), asyncio.Event()
    first, second, relay = await pair(lab, on("CONNECT", BUSY, times=1), on("EHLO", Wait(gate), times=1))
    await lab.delivered(relay, "0@far.example")
    (resting,) = lab.journal.of(Happening.RESTING)
    await clock.advance(resting.facts["seconds"])
    probe = await lab.accepted(relay, "probe@far.example")
    await first.heard("EHLO mail.example.org")
    for number in range(5):
        await lab.delivered(relay, f"{number}@far.example")
    assert (first.connections, len(second.received)) == (2, 6)
    gate.set()
    await lab.journal.finished(probe, 1)
    assert [each.recipients for each in first.received] == [("probe@far.example",)]


async def test_what_waits_is_tried_again_though_all_servers_rest(lab: Lab) -> None:
    """A rest never loses a message: when its pause is over, so is theirs."""
    clock = turned(lab)
    far = await lab.upstream("a.far.example", [on("CONNECT", BUSY, times=1)])
    relay = await lab.application(f"a.far.example:{far.port}")
    first = await lab.deferred(relay, "1@far.example")
    second = await lab.deferred(relay, "2@far.example")
    assert far.connections == 1
    assert f"a.far.example (dns, 127.0.0.1:{far.port}) rests for " in second.facts["detail"]
    assert BUSY in second.facts["detail"]
    await clock.advance(60)
    for event in (first, second):
        await lab.journal.finished(event.message, 1)
    assert len(far.received) == 2


# Standby


async def test_a_backup_is_used_while_no_primary_answers_and_left_when_one_does(lab: Lab) -> None:
    clock = turned(lab)
    first = await lab.upstream("a.far.example", [on("CONNECT", BUSY, times=2)])
    second = await lab.upstream("b.far.example", [on("CONNECT", BUSY, times=1)])
    standby = await lab.upstream("c.far.example")
    servers = f"a.far.example:{first.port}", f"b.far.example:{second.port}"
    relay = await lab.application(*servers, keys=f'backup = ["c.far.example:{standby.port}"]')
    for number in range(3):
        message = await lab.delivered(relay, f"{number}@far.example")
    assert [len(each.received) for each in (first, second, standby)] == [0, 0, 3]
    (attempt,) = [each for each in await lab.trace(relay, message) if each.what is Happening.ATTEMPT]
    assert attempt.facts["backup"] and ", a backup)" in "\n".join(render([attempt]))

    await clock.advance(1)
    await lab.delivered(relay, "4@far.example")
    await lab.delivered(relay, "5@far.example")
    assert [len(each.received) for each in (first, second, standby)] == [0, 2, 3]
    await clock.advance(60)
    await lab.delivered(relay, "6@far.example")
    assert [len(each.received) for each in (first, second, standby)] == [1, 2, 3]
