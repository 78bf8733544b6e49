"""Servers that fail rest, and come back; the error says what was tried, what was not, and why."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest

from smtproute.core.event import Event, Happening
from smtproute.core.settings import LogFormat
from smtproute.spool.queue import Change
from smtproute.testing.clock import TurnedClock
from smtproute.testing.upstream import Drop, Hang, Rule, on
from smtproute.trace.log import log_to
from smtproute.trace.text import render
from smtproute.world import World
from tests.e2e.conftest import LETTER, Client, Lab

RETRY = '[queue]\nretry = ["1m"]\n'


@pytest.fixture
def clock(lab: Lab) -> TurnedClock:
    clock = TurnedClock(1_800_000_000.0)
    lab.world = World(clock=clock)
    return clock


def attempts(lab: Lab, message: str) -> list[str]:
    """The servers that were tried for a message, in order."""
    return [event.facts["server"].partition(":")[0] for event in lab.journal.of(Happening.ATTEMPT, message)]


async def deferred(lab: Lab, message: str, times: int = 1) -> Event:
    return (await lab.journal.seen(Happening.DEFERRED, message, times))[-1]


async def test_the_error_is_the_same_in_trace_log_and_dsn(lab: Lab) -> None:
    lab.zone.set("gitlab.internal", "A", ["127.0.0.1"])
    relay = await lab.application("gitlab.internal:1", "gitlab-standby.internal", more="[queue]\nlifetime = 0")
    message = await lab.delivered(relay, "x@far.example")
    sentence = (
        "endpoint far: no server took the message: gitlab.internal (dns, 127.0.0.1:1) connection refused;"
        " gitlab-standby.internal: NXDOMAIN from 127.0.0.1"
    )
    assert sentence in "\n".join(render(await lab.trace(relay, message)))
    written = io.StringIO()
    log = log_to(written, LogFormat.JSON)
    (failed,) = lab.journal.of(Happening.FAILED, message)
    log(failed)
    assert json.loads(written.getvalue())["detail"].startswith(sentence)
    (bounced,) = await lab.journal.seen(Happening.BOUNCED, message)
    assert sentence.encode() in await relay.spool.content(bounced.facts["dsn"])


async def test_an_alias_hides_the_error_from_the_sender(lab: Lab) -> None:
    lab.write("dms/postfix-accounts.cf", "name@example.org|{PLAIN}x\n")
    lab.write("dms/postfix-virtual.cf", "sales@example.org team@far.example\n")
    relay = await lab.started(
        """
        [docker_mailserver]
        config = "dms"
        [listener.mx]
        bind = "127.0.0.1:0"
        role = "inbound"
        [endpoint.secret]
        servers = ["hidden.internal:1"]
        [queue]
        lifetime = 0
        [[route]]
        match = "*@far.example"
        endpoint = "secret"
        [[route]]
        match = "*@else.example"
        mode = "capture"
        """
    )
    message = await lab.delivered(relay, "sales@example.org")
    (bounced,) = await lab.journal.seen(Happening.BOUNCED, message)
    dsn = await relay.spool.content(bounced.facts["dsn"])
    assert b"hidden.internal" not in dsn and b"secret" not in dsn


async def test_a_server_that_refuses_rests_and_is_probed_by_one_message(lab: Lab, clock: TurnedClock) -> None:
    second = await lab.upstream("b.internal")
    lab.zone.set("a.internal", "A", ["127.0.0.3"])
    relay = await lab.application(f"a.internal:{second.port}", f"b.internal:{second.port}")
    first = await lab.delivered(relay, "x@far.example")
    assert attempts(lab, first) == ["a.internal", "b.internal"]
    (resting,) = lab.journal.of(Happening.RESTING)
    assert (resting.facts["ip"], resting.facts["seconds"], resting.facts["why"]) == (
        "127.0.0.3",
        1,
        "connection refused",
    )
    assert attempts(lab, await lab.delivered(relay, "x@far.example")) == ["b.internal"]
    await clock.advance(1)
    assert attempts(lab, await lab.delivered(relay, "x@far.example")) == ["a.internal", "b.internal"]
    assert [each.facts["seconds"] for each in lab.journal.of(Happening.RESTING)] == [1, 2]
    back = await lab.upstream("a.internal", ip="127.0.0.3", port=second.port)
    assert attempts(lab, await lab.delivered(relay, "x@far.example")) == ["b.internal"]
    await clock.advance(2)
    assert attempts(lab, await lab.delivered(relay, "x@far.example")) == ["a.internal"]
    (recovered,) = lab.journal.of(Happening.RECOVERED)
    assert recovered.facts["server"] == f"a.internal:{second.port}"
    assert attempts(lab, await lab.delivered(relay, "x@far.example")) == ["a.internal"]
    assert (len(back.received), len(second.received)) == (2, 4)


async def test_a_backup_is_left_when_a_primary_answers(lab: Lab, clock: TurnedClock) -> None:
    standby = await lab.upstream("s.internal")
    lab.zone.set("a.internal", "A", ["127.0.0.3"])
    relay = await lab.started(
        f"""
        default = {{ endpoint = "far" }}
        [listener.app]
        bind = "127.0.0.1:0"
        [endpoint.far]
        servers = ["a.internal:{standby.port}"]
        backup = ["s.internal:{standby.port}"]
        """
    )
    for _ in range(2):
        await lab.delivered(relay, "x@far.example")
    primary = await lab.upstream("a.internal", ip="127.0.0.3", port=standby.port)
    await clock.advance(1)
    for _ in range(2):
        await lab.delivered(relay, "x@far.example")
    assert (len(standby.received), len(primary.received)) == (2, 2)


async def test_where_all_rest_mail_is_put_off_without_a_connection(lab: Lab, clock: TurnedClock) -> None:
    far = await lab.upstream("a.internal", [on("CONNECT", "421 4.3.2 closing", times=1)])
    relay = await lab.application(f"a.internal:{far.port}", more=RETRY)
    first = await lab.deferred(relay, "x@far.example")
    assert first.facts["reply"] == "421 4.3.2 closing"
    second = await lab.deferred(relay, "y@far.example")
    assert second.facts["reply"] == "451 4.4.1 No server took the message"
    assert second.facts["detail"] == (
        f"no server took the message: a.internal (dns, 127.0.0.1:{far.port})"
        " rests for 1 s more after 1 failure: 421 4.3.2 closing"
    )
    assert second.facts["retry_at"] == clock.now() + 60
    assert far.connections == 1
    # Both are due at the same time: one probes, the other waits for that.
    await clock.advance(60)
    await lab.journal.seen(Happening.DELIVERED, times=2)
    assert len(lab.journal.of(Happening.DEFERRED)) == 2


async def test_who_retries_a_message_wants_it_tried(lab: Lab, clock: TurnedClock) -> None:
    far = await lab.upstream("a.internal", [on("CONNECT", Drop(), times=2)])
    relay = await lab.application(f"a.internal:{far.port}", more=RETRY)
    event = await lab.deferred(relay, "x@far.example")
    await relay.spool.change(Change.RETRY, [event.message], clock.now())
    await deferred(lab, event.message, 2)
    await relay.spool.change(Change.HOLD, [event.message], clock.now())
    await relay.spool.change(Change.RELEASE, [event.message], clock.now())
    await lab.journal.seen(Happening.DELIVERED, event.message)
    assert far.connections == 3


async def test_a_reload_forgets_what_rests(lab: Lab, clock: TurnedClock) -> None:
    far = await lab.upstream("a.internal", [on("CONNECT", Drop(), times=1)])
    relay = await lab.application(f"a.internal:{far.port}", more=RETRY)
    await lab.deferred(relay, "x@far.example")
    await relay.reload()
    await lab.delivered(relay, "y@far.example")


@pytest.mark.parametrize(
    "rule",
    [
        on("CONNECT", "554 5.3.2 no"),
        on("EHLO", "421 4.3.2 closing"),
        on("MAIL", Drop()),
        on("RCPT", "421 4.7.0 too much"),
        on("CONTENT", "421 4.3.2 closing"),
    ],
)
async def test_what_rests_a_server(lab: Lab, clock: TurnedClock, rule: Rule) -> None:
    first, second = await lab.upstream("a.internal", [rule]), await lab.upstream("b.internal", ip="127.0.0.2")
    relay = await lab.application(f"a.internal:{first.port}", f"b.internal:{second.port}")
    for _ in range(2):
        await lab.delivered(relay, "x@far.example")
    assert (first.connections, len(second.received)) == (1, 2)
    assert len(lab.journal.of(Happening.RESTING)) == 1


@pytest.mark.parametrize(
    "rule",
    [
        on("MAIL", "451 4.3.0 not now"),
        on("MAIL", "530 5.7.0 log in first"),
        on("RCPT", "452 4.2.2 full"),
        on("RCPT", Drop()),
        on("DATA", "451 4.3.0 no"),
        on("CONTENT", "451 4.3.0 no"),
    ],
)
async def test_what_rests_no_server(lab: Lab, clock: TurnedClock, rule: Rule) -> None:
    first, second = await lab.upstream("a.internal", [rule]), await lab.upstream("b.internal", ip="127.0.0.2")
    relay = await lab.application(f"a.internal:{first.port}", f"b.internal:{second.port}")
    for _ in range(2):
        assert attempts(lab, await lab.delivered(relay, "x@far.example")) == ["a.internal", "b.internal"]
    assert lab.journal.of(Happening.RESTING) == []


async def test_each_address_that_was_tried_is_an_attempt(lab: Lab) -> None:
    gone, busy = await lab.upstream("b.internal", [on("CONNECT", "554 5.3.2 no")]), await lab.upstream("c.internal")
    lab.zone.set("a.internal", "A", ["127.0.0.3"])
    servers = [f"a.internal:{gone.port}", f"b.internal:{gone.port}", f"c.internal:{busy.port}"]
    relay = await lab.application(*servers)
    message = await lab.delivered(relay, "x@far.example")
    events = lab.journal.of(Happening.ATTEMPT, message)
    assert [event.facts["server"] for event in events] == servers
    texts = [[text for _, _, text in event.facts["transcript"]] for event in events]
    assert texts[0] == [f"not connected to a.internal (127.0.0.3:{gone.port}): connection refused"]
    assert "554 5.3.2 no" in texts[1] and "." in texts[2]


async def test_a_downgrade_is_heard_once_for_each_connection(lab: Lab) -> None:
    far = await lab.upstream("a.internal")
    relay = await lab.application(f"a.internal:{far.port}")
    first = await lab.delivered(relay, "x@far.example")
    await lab.delivered(relay, "y@far.example")
    assert far.connections == 1
    (event,) = lab.journal.of(Happening.DOWNGRADED)
    assert event.message == first
    assert event.facts["endpoint"] == "far" and event.facts["server"] == f"a.internal:{far.port}"
    assert event.facts["ip"] == "127.0.0.1" and "STARTTLS" in event.facts["why"]


async def test_what_no_server_can_take_fails_at_once_whatever_was_passed_over(lab: Lab) -> None:
    far = await lab.upstream("a.internal", extensions=("PIPELINING",))
    lab.zone.set("a.internal", "AAAA", ["::1"])
    relay = await lab.application(f"a.internal:{far.port}")
    written = lab.folder / "smtproute.toml"
    written.write_text(written.read_text().replace("[endpoint.far]", '[endpoint.far]\nfamily = "ipv4"'))
    await relay.reload()
    message = await lab.delivered(relay, "x@far.example", content=LETTER + b"\xc3\xa4\r\n")
    (failed,) = lab.journal.of(Happening.FAILED, message)
    assert failed.facts["reply"].startswith("554 5.6.3 ")
    assert f"a.internal (dns, [::1]:{far.port}) IPv6, and family = ipv4" in failed.facts["detail"]


async def test_what_a_server_lacks_waits_while_another_rests(lab: Lab, clock: TurnedClock) -> None:
    plain = await lab.upstream("a.internal", extensions=("PIPELINING",))
    lab.zone.set("b.internal", "A", ["127.0.0.3"])
    relay = await lab.application(f"b.internal:{plain.port}", f"a.internal:{plain.port}")
    await lab.delivered(relay, "x@far.example")
    event = await lab.deferred(relay, "x@far.example", content=LETTER + b"\xc3\xa4\r\n")
    assert "8BITMIME" in event.facts["detail"] and "rests for 1 s more" in event.facts["detail"]


async def test_recipients_are_told_their_own_answers(lab: Lab) -> None:
    script = [on("RCPT", "451 4.2.1 busy", match="x@"), on("RCPT", "452 4.2.2 full", match="y@")]
    far = await lab.upstream("a.internal", script)
    relay = await lab.application(f"a.internal:{far.port}", more=RETRY)
    message = await lab.accepted(relay, "x@far.example", "y@far.example", "z@far.example")
    await lab.journal.seen(Happening.DELIVERED, message)
    await lab.journal.seen(Happening.DEFERRED, message, 2)
    told = {event.facts["address"]: event.facts["detail"] for event in lab.journal.of(Happening.DEFERRED, message)}
    assert told["x@far.example"].endswith(" 451 4.2.1 busy") and told["y@far.example"].endswith(" 452 4.2.2 full")


async def test_explain_shows_what_is_passed_over(lab: Lab) -> None:
    lab.zone.set("a.internal", "A", ["127.0.0.3"])
    relay = await lab.started(
        """
        default = { endpoint = "far" }
        [listener.app]
        bind = "127.0.0.1:0"
        debug = true
        [endpoint.far]
        servers = ["a.internal:1"]
        """
    )
    await lab.deferred(relay, "x@far.example")
    client = await Client.connect(relay.addresses["app"])
    said = await client.say("VRFY x@far.example")
    assert "passed over: a.internal (dns, 127.0.0.3:1) rests for " in said
    assert "no address can be tried now: mail would be accepted and deferred" in said


async def test_a_server_that_hangs_in_mid_transaction_is_not_rested(lab: Lab) -> None:
    lab.timeouts = replace(lab.timeouts, rcpt=0.2)
    first = await lab.upstream("a.internal", [on("RCPT", Hang(), times=1)])
    second = await lab.upstream("b.internal", ip="127.0.0.2")
    relay = await lab.application(f"a.internal:{first.port}", f"b.internal:{second.port}")
    assert attempts(lab, await lab.delivered(relay, "x@far.example")) == ["a.internal", "b.internal"]
    assert attempts(lab, await lab.delivered(relay, "x@far.example")) == ["a.internal"]
