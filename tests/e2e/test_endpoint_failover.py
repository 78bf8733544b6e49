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
from smtproute.spool.queue import Change
from smtproute.testing.upstream import Drop, Hang, Mute, Rule, Upstream, Wait, on
from smtproute.trace.log import log_to
from smtproute.trace.text import render
from tests.e2e.authority import ca_file, certified
from tests.e2e.conftest import LETTER, Client, Lab

BUSY = "421 4.3.2 Busy"
NOBODY = "127.0.0.9"
"""Nobody listens there."""
RETRY = '[queue]\nretry = ["1m"]\n'


async def pair(lab: Lab, *script: Rule) -> tuple[Upstream, Upstream, Relay]:
    """Two servers, of which the first has the script, and their relay."""
    first, second = await lab.upstream("a.far.example", script), await lab.upstream("b.far.example")
    return first, second, await lab.application(f"a.far.example:{first.port}", f"b.far.example:{second.port}")


def attempts(lab: Lab, message: str) -> list[str]:
    """The servers that were tried for a message, in order."""
    return [event.facts["server"].partition(":")[0] for event in lab.journal.of(Happening.ATTEMPT, message)]


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
async def test_what_rests_no_server(lab: Lab, rule: Rule) -> None:
    """The next one takes the message at once; Postal waits with the first."""
    lab.turned()
    _, second, relay = await pair(lab, rule)
    for _ in range(2):
        assert attempts(lab, await lab.delivered(relay, "x@far.example")) == ["a.far.example", "b.far.example"]
    assert (len(second.received), lab.journal.of(Happening.RESTING)) == (2, [])


async def test_a_server_that_hangs_in_mid_transaction_is_not_rested(lab: Lab) -> None:
    lab.timeouts = replace(lab.timeouts, rcpt=0.2)
    *_, relay = await pair(lab, on("RCPT", Hang(), times=1))
    assert attempts(lab, await lab.delivered(relay, "x@far.example")) == ["a.far.example", "b.far.example"]
    assert attempts(lab, await lab.delivered(relay, "x@far.example")) == ["a.far.example"]


async def test_a_server_that_says_nothing_costs_no_timeout(lab: Lab) -> None:
    """The next address is tried beside it (RFC 8305); its own deadline is five minutes, the test's half a minute."""
    lab.timeouts = replace(TIMEOUTS, next_greeting=0.05)
    first, second = await lab.upstream("a.far.example", [on("CONNECT", Hang())]), await lab.upstream("b.far.example")
    relay = await lab.application(f"a.far.example:{first.port}", f"b.far.example:{second.port}")
    await lab.delivered(relay, "x@far.example")
    assert len(second.received) == 1


# The error


async def test_the_error_says_what_was_tried_in_trace_log_and_dsn(lab: Lab) -> None:
    clock = lab.turned()
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


async def test_an_error_names_ten_addresses_of_a_kind_and_counts_the_others(lab: Lab) -> None:
    six = ", ".join(f'"::{number:x}"' for number in range(1, 201))
    lab.resolver = f'static = {{ "many.internal" = ["{NOBODY}", {six}] }}'
    relay = await lab.application("many.internal:9", keys='family = "ipv4"', more=RETRY)
    event = await lab.deferred(relay, "x@far.example")
    first, *others = event.facts["detail"].split("; ")
    assert first == f"no server took the message: many.internal (static, {NOBODY}:9) connection refused"
    assert [each.endswith(" IPv6, and family = ipv4") for each in others[:-1]] == [True] * 10
    assert others[-1] == "and 190 more"


@pytest.mark.parametrize(("verb", "step"), [("CONNECT", "greeting"), ("STARTTLS", "starttls"), ("AUTH", "auth")])
async def test_an_error_names_the_step_that_was_refused(lab: Lab, verb: str, step: str) -> None:
    users, script = {"app": "secret"}, [on(verb, "535 5.7.8 Not you")]
    far = await lab.upstream("a.internal", script, tls=certified("a.internal"), users=users)
    lab.write("password", "secret").chmod(0o600)
    keys = f'tls = "require"\nca_file = "{ca_file(lab.folder)}"\nusername = "app"\npassword_file = "password"'
    relay = await lab.application(f"a.internal:{far.port}", keys=keys, more=RETRY)
    event = await lab.deferred(relay, "x@far.example")
    assert event.facts["detail"].endswith(f"(dns, 127.0.0.1:{far.port}) {step}: 535 5.7.8 Not you")
    assert lab.journal.of(Happening.RESTING)[0].facts["why"] == f"{step}: 535 5.7.8 Not you"


async def test_log_and_trace_of_an_attempt_say_how_it_failed(lab: Lab) -> None:
    busy, good = await lab.upstream("b.internal", [on("MAIL", "451 4.3.0 no")]), await lab.upstream("c.internal")
    lab.resolver = f'static = {{ "a.internal" = ["{NOBODY}"] }}'
    relay = await lab.application(f"a.internal:{busy.port}", f"b.internal:{busy.port}", f"c.internal:{good.port}")
    message = await lab.delivered(relay, "x@far.example", "y@far.example")
    attempts = lab.journal.of(Happening.ATTEMPT, message)
    log = io.StringIO()
    for event in attempts:
        log_to(log, LogFormat.JSON)(event)
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    failed = ["connection refused", "451 4.3.0 no", None]
    assert [(each.get("failed"), each["recipients"]) for each in lines] == [(each, 2) for each in failed]
    heads = [each[13:].split(None, 1)[1] for each in render(attempts, transcripts=False)[1:]]
    assert heads == [
        f"endpoint far: a.internal:{busy.port} at {NOBODY} (static) FAILED: connection refused",
        f"endpoint far: b.internal:{busy.port} at 127.0.0.1 (dns), plain text"
        " (the server does not offer STARTTLS) FAILED: 451 4.3.0 no",
        f"endpoint far: c.internal:{good.port} at 127.0.0.1 (dns), plain text (the server does not offer STARTTLS)",
    ]


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
    resting = lab.journal.of(Happening.RESTING)[0].facts
    assert (resting["ip"], resting["seconds"], resting["why"]) == ("127.0.0.3", 1, "connection refused")


async def test_recipients_are_told_their_own_answers(lab: Lab) -> None:
    script = [on("RCPT", "451 4.2.1 busy", match="x@"), on("RCPT", "452 4.2.2 full", match="y@")]
    far = await lab.upstream("a.internal", script)
    relay = await lab.application(f"a.internal:{far.port}", more=RETRY)
    message = await lab.accepted(relay, "x@far.example", "y@far.example", "z@far.example")
    await lab.journal.seen(Happening.DELIVERED, message)
    await lab.journal.seen(Happening.DEFERRED, message, 2)
    told = {event.facts["address"]: event.facts["detail"] for event in lab.journal.of(Happening.DEFERRED, message)}
    assert told["x@far.example"].endswith(" 451 4.2.1 busy") and told["y@far.example"].endswith(" 452 4.2.2 full")


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


async def test_what_a_server_lacks_waits_while_another_rests(lab: Lab) -> None:
    lab.turned()
    plain = await lab.upstream("a.internal", extensions=("PIPELINING",))
    lab.zone.set("b.internal", "A", ["127.0.0.3"])
    relay = await lab.application(f"b.internal:{plain.port}", f"a.internal:{plain.port}")
    await lab.delivered(relay, "x@far.example")
    event = await lab.deferred(relay, "x@far.example", content=LETTER + b"\xc3\xa4\r\n")
    assert "8BITMIME" in event.facts["detail"] and "rests for 1 s more" in event.facts["detail"]


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


# Rest


async def test_a_server_that_failed_is_left_alone_and_taken_up_again(lab: Lab) -> None:
    clock = lab.turned()
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


@pytest.mark.parametrize("verb", ["EHLO", "STARTTLS", "AUTH"])
async def test_a_server_that_greets_and_then_says_nothing_costs_one_message_its_time(lab: Lab, verb: str) -> None:
    clock = lab.turned()
    lab.timeouts = replace(TIMEOUTS, ehlo=0.5)
    hosts = ("a.far.example", "b.far.example")
    first, second = [
        await lab.upstream(host, script, tls=certified(host), users={"app": "secret"})
        for host, script in zip(hosts, ([on(verb, Mute())], []), strict=True)
    ]
    lab.write("password", "secret").chmod(0o600)
    keys = f'tls = "require"\nca_file = "{ca_file(lab.folder)}"\nusername = "app"\npassword_file = "password"'
    relay = await lab.application(f"{hosts[0]}:{first.port}", f"{hosts[1]}:{second.port}", keys=keys)
    for number in range(3):
        await lab.delivered(relay, f"{number}@far.example")
    assert (first.connections, len(second.received)) == (1, 3)
    (resting,) = lab.journal.of(Happening.RESTING)
    assert (resting.facts["server"], resting.facts["why"]) == (f"{hosts[0]}:{first.port}", "no answer within 0.5 s")

    await clock.advance(resting.facts["seconds"])
    for number in range(3):
        await lab.delivered(relay, f"{number}@far.example")
    assert (first.connections, len(second.received)) == (2, 6)


@pytest.mark.parametrize("rule", [on("CONNECT", BUSY), on("MAIL", Drop())])
async def test_each_failure_prolongs_the_rest(lab: Lab, rule: Rule) -> None:
    clock = lab.turned()
    first, second, relay = await pair(lab, rule)
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
    clock, gate = lab.turned(), asyncio.Event()
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
async def test_what_rests_a_server(lab: Lab, rule: Rule) -> None:
    lab.turned()
    first, second, relay = await pair(lab, rule)
    for _ in range(2):
        await lab.delivered(relay, "x@far.example")
    assert (first.connections, len(second.received)) == (1, 2)
    assert len(lab.journal.of(Happening.RESTING)) == 1


async def test_where_all_rest_mail_is_put_off_without_a_connection(lab: Lab) -> None:
    """A rest never loses a message: when its pause is over, so is theirs."""
    clock = lab.turned()
    far = await lab.upstream("a.internal", [on("CONNECT", "421 4.3.2 closing", times=1)])
    relay = await lab.application(f"a.internal:{far.port}", more=RETRY)
    first = await lab.deferred(relay, "x@far.example")
    assert first.facts["reply"] == "421 4.3.2 closing"
    second = await lab.deferred(relay, "y@far.example")
    assert second.facts["reply"] == "451 4.4.1 No server took the message"
    assert second.facts["detail"] == (
        f"no server took the message: a.internal (dns, 127.0.0.1:{far.port})"
        " rests for 1 s more after 1 failure: greeting: 421 4.3.2 closing"
    )
    assert second.facts["retry_at"] == clock.now() + 60
    assert far.connections == 1
    # Both are due at the same time: one probes, the other waits for that.
    await clock.advance(60)
    await lab.journal.seen(Happening.DELIVERED, times=2)
    assert len(lab.journal.of(Happening.DEFERRED)) == 2


async def test_who_retries_a_message_wants_it_tried(lab: Lab) -> None:
    clock = lab.turned()
    far = await lab.upstream("a.internal", [on("CONNECT", Drop(), times=2)])
    relay = await lab.application(f"a.internal:{far.port}", more=RETRY)
    event = await lab.deferred(relay, "x@far.example")
    await relay.spool.change(Change.RETRY, [event.message], clock.now())
    await lab.journal.seen(Happening.DEFERRED, event.message, 2)
    await relay.spool.change(Change.HOLD, [event.message], clock.now())
    await relay.spool.change(Change.RELEASE, [event.message], clock.now())
    await lab.journal.seen(Happening.DELIVERED, event.message)
    assert far.connections == 3


async def test_a_reload_forgets_what_rests(lab: Lab) -> None:
    lab.turned()
    far = await lab.upstream("a.internal", [on("CONNECT", Drop(), times=1)])
    relay = await lab.application(f"a.internal:{far.port}", more=RETRY)
    await lab.deferred(relay, "x@far.example")
    await relay.reload()
    await lab.delivered(relay, "y@far.example")


# Standby


async def test_a_backup_is_used_while_no_primary_answers_and_left_when_one_does(lab: Lab) -> None:
    clock = lab.turned()
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
