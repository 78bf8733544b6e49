"""Every mode of a route, and every condition, over real sockets."""

from __future__ import annotations

import json
import os
import signal
import textwrap
from pathlib import Path

from smtproute.app import Relay
from smtproute.core.event import Happening
from smtproute.spool.operator import OperatorSpool
from smtproute.spool.queue import Change, State
from smtproute.spool.sqlite import SqliteSpool
from smtproute.testing.upstream import Upstream, on
from smtproute.trace.text import render
from tests.e2e.conftest import LETTER, SENDER, Client, Lab
from tests.e2e.test_cli import listed, run, send, serving

MODES = """
    [listener.app]
    bind = "127.0.0.1:0"
    [endpoint.one]
    servers = ["one.example:{one}"]
    [endpoint.two]
    servers = ["two.example:{two}"]
    [[route]]
    match = "*@one.example"
    endpoint = "one"
    [[route]]
    match = "*@two.example"
    mode = "endpoint"
    endpoint = "two"
    [[route]]
    match = "*@kept.example"
    mode = "capture"
    [[route]]
    match = "*@later.example"
    mode = "hold"
    endpoint = "two"
    [[route]]
    match = "*@waits.example"
    mode = "hold"
    [[route]]
    match = "*@back.example"
    mode = "bounce"
    [[route]]
    match = "*@no.example"
    mode = "reject"
    [[route]]
    match = "*@else.example"
    mode = "capture"
"""


async def everything(lab: Lab) -> tuple[Upstream, Upstream, Relay]:
    """Two upstreams, and a relay with a route of each mode."""
    one, two = await lab.upstream("one.example"), await lab.upstream("two.example")
    relay = await lab.started(MODES.format(one=one.port, two=two.port))
    return one, two, relay


async def told(lab: Lab, relay: Relay, message: str) -> str:
    """The trace, as it is printed."""
    return "\n".join(render(await lab.trace(relay, message)))


async def test_endpoint(lab: Lab) -> None:
    _, two, relay = await everything(lab)
    message = await lab.delivered(relay, "x@two.example")
    assert [(each.reverse_path, each.recipients) for each in two.received] == [(SENDER, ("x@two.example",))]
    assert "  => endpoint two for x@two.example (route[1])" in await told(lab, relay, message)


async def test_capture(lab: Lab) -> None:
    one, two, relay = await everything(lab)
    message = await lab.delivered(relay, "x@kept.example")
    assert [each.state for each in await relay.spool.entries(message)] == [State.CAPTURED]
    assert await relay.spool.content(message) == LETTER
    assert (one.received, two.received) == ([], [])


async def test_reject(lab: Lab) -> None:
    _, _, relay = await everything(lab)
    (answer,) = (await lab.send(relay, "x@no.example")).answers
    assert str(answer.reply) == "550 5.7.1 Mail to this address is not accepted here"


async def test_hold_waits_for_its_release_and_then_goes_to_its_endpoint(lab: Lab) -> None:
    _, two, relay = await everything(lab)
    message = await lab.accepted(relay, "x@later.example")
    await lab.delivered(relay, "y@two.example")  # what came after it went past it
    assert [each.recipients for each in two.received] == [("y@two.example",)]
    (entry,) = await relay.spool.entries(message)
    assert (entry.state, entry.attempts) == (State.HELD, 0)
    (logged,) = lab.journal.of(Happening.HELD, message)
    assert (logged.delivery, logged.facts) == (0, {"address": "x@later.example", "rule": "route[3]"})

    await relay.spool.change(Change.RELEASE, [message], lab.world.clock.now())
    await lab.journal.finished(message, 1)
    assert [each.recipients for each in two.received] == [("y@two.example",), ("x@later.example",)]
    trace = await told(lab, relay, message)
    assert "  => hold, then endpoint two for x@later.example (route[3])" in trace
    assert " held      x@later.example by route[3], until the operator releases it\n" in trace
    assert " released  by the operator\n" in trace
    assert " delivered endpoint two for x@later.example: 250 " in trace


async def test_hold_without_an_endpoint_is_captured_once_it_is_released(lab: Lab) -> None:
    _, _, relay = await everything(lab)
    message = await lab.accepted(relay, "x@waits.example")
    assert "  => hold, then capture for x@waits.example (route[4])" in await told(lab, relay, message)
    await relay.spool.change(Change.RELEASE, None, lab.world.clock.now())
    await lab.journal.finished(message, 1)
    assert [each.state for each in await relay.spool.entries(message)] == [State.CAPTURED]


async def test_a_default_that_holds_for_one_that_releases_it_elsewhere(lab: Lab) -> None:
    """The operator's own connection to the spool, while the relay runs."""
    far = await lab.upstream("far.example")
    relay = await lab.started(
        'default = { mode = "hold", endpoint = "far" }\n[listener.app]\nbind = "127.0.0.1:0"\n'
        f'[endpoint.far]\nservers = ["far.example:{far.port}"]'
    )
    message = await lab.accepted(relay, "x@anywhere.example", "y@anywhere.example")
    operator: OperatorSpool = await SqliteSpool.beside(str(lab.folder / "state" / "spool"), lab.world)
    try:
        assert len(await operator.change(Change.RELEASE, [message], lab.world.clock.now())) == 2
    finally:
        await operator.close()
    await lab.journal.finished(message, 2)
    assert [each.recipients for each in far.received] == [("x@anywhere.example", "y@anywhere.example")]


async def test_what_is_released_after_the_queues_lifetime_gets_one_attempt(lab: Lab) -> None:
    clock = lab.turned()
    two = await lab.upstream("two.example", [on("RCPT", "451 4.2.0 not now", times=1)])
    relay = await lab.started(textwrap.dedent(MODES.format(one=25, two=two.port)) + '[queue]\nlifetime = "1h"\n')
    kept = await lab.accepted(relay, "x@later.example")
    lost = await lab.accepted(relay, "y@later.example")
    await clock.advance(2 * 3600)
    assert [(await relay.spool.entries(each))[0].state for each in (kept, lost)] == [State.HELD] * 2
    await relay.spool.change(Change.RELEASE, [lost], clock.now())
    await lab.journal.seen(Happening.FAILED, lost)
    await relay.spool.change(Change.RELEASE, [kept], clock.now())
    await lab.journal.seen(Happening.DELIVERED, kept)
    assert (await relay.spool.entries(lost))[0].attempts == 1
    assert [each.recipients for each in two.received] == [("x@later.example",)]


def test_what_is_held_outlives_kill_9(tmp_path: Path) -> None:
    file = tmp_path / "smtproute.toml"
    file.write_text(
        f'state = "{tmp_path}/state"\nhostname = "mail.example.org"\n[listener.app]\nbind = "127.0.0.1:0"\n'
        '[[route]]\nmatch = "*"\nmode = "hold"\n'
    )
    with serving(file) as (process, address):
        kept, dropped = send(address, "a@far.example"), send(address, "b@far.example")
        os.kill(process.pid, signal.SIGKILL)
    assert {(each["id"], each["state"], each["kind"]) for each in listed(file)} == {
        (kept, "held", "capture"),
        (dropped, "held", "capture"),
    }
    assert run("queue", "remove", dropped, "-c", str(file)).stdout == f"{dropped}.0  held -> removed\n"
    with serving(file) as (_, address):
        send(address, "c@far.example")
        assert kept in {each["id"] for each in listed(file)}
        assert run("queue", "release", kept, "-c", str(file)).stdout == f"{kept}.0  held -> queued\n"
        for _ in range(100):
            if [each["id"] for each in listed(file, "--captured")] == [kept]:
                break
        assert [each["id"] for each in listed(file, "--captured")] == [kept]


async def test_bounce_takes_the_message_and_tells_the_sender_at_once(lab: Lab) -> None:
    _, _, relay = await everything(lab)
    message = await lab.accepted(relay, "x@back.example")
    (bounced,) = await lab.journal.seen(Happening.BOUNCED, message)
    dsn = await relay.spool.content(bounced.facts["dsn"])
    assert f"To: {SENDER}\r\n".encode() in dsn
    assert b"\r\nFinal-Recipient: rfc822; x@back.example\r\nAction: failed\r\nStatus: 5.7.1\r\n" in dsn
    assert b"Mail to this address is returned to its sender" in dsn and dsn.count(b"route[") == 0
    assert LETTER in dsn
    await lab.journal.finished(bounced.facts["dsn"], 1)
    trace = await told(lab, relay, message)
    assert "  => bounce for x@back.example (route[5])" in trace and "dead branch" not in trace
    assert f" bounced   DSN {bounced.facts['dsn']} to {SENDER}" in trace


async def test_bounce_tells_no_null_sender(lab: Lab) -> None:
    _, _, relay = await everything(lab)
    message = await lab.accepted(relay, "x@back.example", sender=None)
    (bounced,) = await lab.journal.seen(Happening.BOUNCED, message)
    assert bounced.facts["dsn"] == ""
    assert " bounced   no DSN: the message has a null sender: nobody to tell" in await told(lab, relay, message)
    assert {each.message for each in lab.journal.of(Happening.RECEIVED)} == {message}


async def test_a_dsn_meets_the_modes_as_any_mail(lab: Lab) -> None:
    """Of its own bounce nobody is told, and one for an address that is held waits there."""
    _, _, relay = await everything(lab)
    message = await lab.accepted(relay, "x@back.example", sender="y@back.example")
    (bounced,) = await lab.journal.seen(Happening.BOUNCED, message)
    (again,) = await lab.journal.seen(Happening.BOUNCED, bounced.facts["dsn"])
    assert again.facts["dsn"] == ""
    message = await lab.accepted(relay, "x@back.example", sender="y@waits.example")
    (bounced,) = await lab.journal.seen(Happening.BOUNCED, message)
    dsn = bounced.facts["dsn"]
    await lab.journal.seen(Happening.HELD, dsn)
    assert [each.state for each in await relay.spool.entries(dsn)] == [State.HELD]


CONDITIONS = """
    [listener.mx]
    bind = "127.0.0.1:0"
    role = "inbound"
    [listener.app]
    bind = "127.0.0.1:0"
    [[route]]
    match = "*@from.example"
    mode = "reject"
    sender = "*@bad.example"
    [[route]]
    match = "*@from.example"
    mode = "capture"
    sender = "<>"
    [[route]]
    match = "*@from.example"
    mode = "bounce"
    sender = "friend@else.example"
    [[route]]
    match = "*@there.example"
    mode = "hold"
    client = ["192.0.2.0/24", "127.0.0.2"]
    [[route]]
    match = "*@by.example"
    mode = "capture"
    listener = "mx"
    [[route]]
    match = "*"
    mode = "hold"
    listener = "app"
    client = "127.0.0.1"
    [[route]]
    match = "*"
    mode = "reject"
    listener = "app"
    sender = "*"
"""


async def rules(lab: Lab, relay: Relay, *recipients: str, listener: str = "app", **options) -> list[str]:
    """The rule that each recipient of a message was routed by."""
    message = await lab.accepted(relay, *recipients, listener=listener, **options)
    return [each.delivery.rule for each in await relay.spool.entries(message)]


async def test_conditions_on_the_sender(lab: Lab) -> None:
    relay = await lab.started(CONDITIONS)
    both = ("x@from.example", "x@other.example")
    assert await rules(lab, relay, *both) == ["route[2]", "route[5]"]
    assert await rules(lab, relay, *both, sender="friend+tag@ELSE.example") == ["route[2]", "route[5]"]
    assert await rules(lab, relay, *both, sender=None) == ["route[1]", "route[5]"]
    assert await rules(lab, relay, *both, sender="who@ever.example") == ["route[5]", "route[5]"]
    (refused, taken) = (await lab.send(relay, *both, sender="x@bad.example", listener="app")).answers
    assert (str(refused.reply)[:9], str(taken.reply)[:9]) == ("550 5.7.1", "250 2.0.0")


async def test_conditions_on_the_client(lab: Lab) -> None:
    """127.0.0.1 and 127.0.0.2 are two clients of one listener; only one of them is let in by a route."""
    relay = await lab.started(CONDITIONS)
    replies = {}
    for ip in ("127.0.0.1", "127.0.0.2"):
        client = await Client.connect(relay.addresses["mx"], local_addr=(ip, 0))
        await client.say("EHLO client.example")
        await client.say(f"MAIL FROM:<{SENDER}>")
        replies[ip] = [await client.say(f"RCPT TO:<x@{domain}.example>") for domain in ("there", "other", "by")]
        replies[ip] = [each[:9] for each in replies[ip]]
        await client.say("QUIT")
    assert replies == {
        "127.0.0.1": ["554 5.7.1", "554 5.7.1", "250 2.1.5"],
        "127.0.0.2": ["250 2.1.5", "554 5.7.1", "250 2.1.5"],
    }
    client = await Client.connect(relay.addresses["app"], local_addr=("127.0.0.2", 0))
    assert (await client.letter("x@there.example")).startswith("250 ")
    (held,) = lab.journal.of(Happening.HELD)
    assert held.facts == {"address": "x@there.example", "rule": "route[3]"}
    await client.say("MAIL FROM:<>")
    assert (await client.say("RCPT TO:<x@other.example>")).startswith("550 5.7.1 ")


async def test_conditions_on_the_listener(lab: Lab) -> None:
    relay = await lab.started(CONDITIONS)
    assert await rules(lab, relay, "x@by.example", listener="mx") == ["route[4]"]
    assert await rules(lab, relay, "x@by.example", listener="app") == ["route[5]"]


async def test_no_sender_lets_a_stranger_in(lab: Lab) -> None:
    relay = await lab.started(CONDITIONS)
    for sender in (SENDER, None, "x@bad.example"):
        (answer,) = (await lab.send(relay, "x@from.example", sender=sender, listener="mx")).answers
        assert str(answer.reply).startswith("554 5.7.1 Relay access denied"), sender


def written(folder: Path, text: str) -> Path:
    """A configuration that asks no DNS."""
    file = folder / "smtproute.toml"
    static = '[resolver]\norder = ["static"]\nstatic = { "two.example" = ["127.0.0.1"] }\n'
    file.write_text(f'state = "state"\nhostname = "mail.example.org"\n{textwrap.dedent(text)}{static}')
    return file


def test_explain_names_the_mode_and_each_condition_that_does_not_hold(tmp_path: Path) -> None:
    file = written(tmp_path, MODES.format(one=25, two=25))
    held = run("explain", "-c", str(file), "--json", "x@later.example", "x@waits.example")
    copies = [json.loads(line)["deliveries"][0] for line in held.stdout.splitlines()]
    assert [(each["kind"], each["endpoint"], each["rule"]) for each in copies] == [
        ("hold", "two", "route[3]"),
        ("hold", None, "route[4]"),
    ]
    assert held.returncode == 1
    done = run("explain", "-c", str(file), "--json", "x@back.example")
    bounced = json.loads(done.stdout)
    assert (bounced["reply"]["code"], bounced["deliveries"][0]["kind"], bounced["notes"]) == (250, "bounce", [])
    assert done.returncode == 2
    text = run("explain", "-c", str(file), "x@later.example", "x@waits.example", "x@back.example").stdout
    assert "  -> hold until it is released, then endpoint two for x@later.example (route[3])\n" in text
    assert "  -> hold of x@waits.example (route[4]): kept until it is released, then captured\n" in text
    assert "  -> bounce of x@back.example (route[5]): accepted, then its sender is told 550 5.7.1 Mail to " in text

    file = written(tmp_path, CONDITIONS)
    strange = run("explain", "-c", str(file), "x@from.example", "--from", "a@b.example").stdout
    assert "route[0]     x@from.example: its condition sender *@bad.example permits nobody, for senders are " in strange
    ours = ("--listener", "app", "--client-ip", "127.0.0.2", "--from", "a@b.example")
    text = run("explain", "-c", str(file), "x@from.example", *ours).stdout
    for said in (
        "sender a@b.example is not *@bad.example",
        "sender a@b.example is not <>",
        "*@there.example does not match",
        "client 127.0.0.2 is not in 127.0.0.1/32",
        "* matches, sender *, listener app",
    ):
        assert f": {said}\n" in text
    text = run("explain", "-c", str(file), "x@by.example", *ours).stdout
    assert ": listener app is not mx\n" in text


def test_a_listing_says_where_it_depends_on_who_sends(tmp_path: Path) -> None:
    (tmp_path / "virtual").write_text("all@example.org x@from.example,y@there.example,z@late.example\n")
    file = written(
        tmp_path,
        'default = { mode = "hold" }\n'
        + textwrap.dedent(CONDITIONS).replace('match = "*"', 'match = "*@wide.example"')
        + '[aliases]\ntables = ["virtual"]\n',
    )
    line = run("explain", "-c", str(file), "--all", "--from", SENDER).stdout
    assert line == (
        "all@example.org -> bounce of x@from.example (550 5.7.1 Mail to this address is returned to its sender);"
        " hold, then capture of y@there.example; hold, then capture of z@late.example"
        " (it depends on route[0]: sender *@bad.example; route[1]: sender <>; route[2]: sender friend@else.example;"
        " route[3]: client 192.0.2.0/24, 127.0.0.2/32)\n"
    )
    done = run("explain", "-c", str(file), "--all", "--json", "--from", SENDER)
    told = json.loads(done.stdout)
    assert [each["kind"] for each in told["deliveries"]] == ["bounce", "hold", "hold"]
    assert told["conditions"][0] == "route[0]: sender *@bad.example"


def test_a_mistyped_condition_keeps_the_relay_from_starting(tmp_path: Path) -> None:
    file = written(tmp_path, CONDITIONS.replace('listener = "app"', 'listener = "ap"', 1))
    done = run("check", "-c", str(file))
    assert 'route[5].listener = "ap": there is no [listener.ap]. Did you mean "app"?' in done.stdout + done.stderr


async def test_a_reload_makes_no_open_relay_of_a_listener_that_it_cannot_close(lab: Lab) -> None:
    """An inbound listener that is not written any more listens until the restart, by the new routes."""
    relay = await lab.started('[listener.mx]\nbind = "127.0.0.1:0"\nrole = "inbound"\n')
    lab.config('[listener.app]\nbind = "127.0.0.1:0"\n[[route]]\nmatch = "*"\nmode = "capture"\n')
    await relay.reload()
    (refused,) = lab.journal.of(Happening.RELOAD_REFUSED)
    assert "route[0]: anyone could send anywhere through the inbound listener mx" in refused.facts["why"]
    (answer,) = (await lab.send(relay, "x@anywhere.example", listener="mx")).answers
    assert str(answer.reply).startswith("554 5.7.1 ")
