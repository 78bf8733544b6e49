"""`reply = "delivered"`: the client waits for the next hops, and hears what they say."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sqlite3
import ssl

import pytest
import trustme

from smtproute.app import Relay
from smtproute.core.event import Happening
from smtproute.delivery.dispatcher import STALLED
from smtproute.spool.queue import Change, State
from smtproute.testing.upstream import Received, Rule, Upstream, Wait, on
from smtproute.trace.text import render
from tests.e2e.conftest import DMS, LETTER, Client, Lab
from tests.e2e.test_cli import serving

PROXY = """
    [listener.app]
    bind = "127.0.0.1:0"
    reply = "delivered"
    proxy_timeout = "{timeout}"
    {more}
    [limits]
    timeout = "{silence}"
    [endpoint.one]
    servers = ["mx.one.example:{one}"]
    max_connections = 1
    [endpoint.two]
    servers = ["mx.two.example:{two}"]
    [[route]]
    match = "*@one.example"
    endpoint = "one"
    [[route]]
    match = "*@two.example"
    endpoint = "two"
    [[route]]
    match = "*@kept.example"
    mode = "capture"
    [[route]]
    match = "*@waits.example"
    mode = "hold"
    [[route]]
    match = "*@back.example"
    mode = "bounce"
    [[route]]
    match = "*@else.example"
    mode = "capture"
    [queue]
    retry = ["1h"]
"""
"""DSNs to the sender are captured."""

NO_USER = on("RCPT", "550 5.1.1 No such user")
GREYLISTED = on("RCPT", "450 4.2.0 Greylisted")


def _without_id(reply: str) -> str:
    return re.sub(r" \(trace [A-Z0-9]+\)$", "", reply)


class House:
    """A relay with two next hops."""

    def __init__(self, lab: Lab, one: Upstream, two: Upstream, relay: Relay) -> None:
        self.lab, self.one, self.two, self.relay = lab, one, two, relay

    async def reply(self, *recipients: str) -> str:
        """What the client hears after the dot; of a refusal without the id that stands behind it."""
        dialogue = await self.lab.send(self.relay, *recipients)
        return _without_id(str(dialogue.answers[0].reply))

    @property
    def message(self) -> str:
        """The queue id of the first message."""
        return self.lab.journal.of(Happening.RECEIVED)[0].message

    async def states(self, message: str = "") -> list[State]:
        return [entry.state for entry in await self.relay.spool.entries(message or self.message)]

    async def returned(self) -> list[str]:
        """Whom DSNs are about."""
        about = []
        for entry in (await self.relay.spool.read(captured=True)).entries:
            content = await self.relay.spool.content(entry.message.id)
            about += re.findall(rb"\nFinal-Recipient: rfc822; ?(\S+)", content)
        return [each.decode() for each in about]

    async def trace(self) -> str:
        return "\n".join(render(await self.lab.trace(self.relay, self.message)))


def written(one: Upstream, two: Upstream, timeout: str = "5m", silence: str = "5m", more: str = "") -> str:
    return PROXY.format(one=one.port, two=two.port, timeout=timeout, silence=silence, more=more)


async def house(lab: Lab, one: list[Rule] | None = None, two: list[Rule] | None = None, **options: str) -> House:
    first, second = await lab.upstream("mx.one.example", one or []), await lab.upstream("mx.two.example", two or [])
    return House(lab, first, second, await lab.started(written(first, second, **options)))


async def begun(client: Client, *recipients: str) -> None:
    """A letter up to its dot, whose answer is not awaited."""
    for line in ("EHLO client.example", "MAIL FROM:<friend@else.example>", *(f"RCPT TO:<{to}>" for to in recipients)):
        assert (await client.say(line)).startswith("250")
    assert (await client.say("DATA")).startswith("354")
    client.writer.write(LETTER + b".\r\n")


async def test_all_accepted_the_client_hears_the_next_hops_own_words(lab: Lab) -> None:
    at = await house(lab, [on("CONTENT", "250 2.6.0 <1@x> Queued mail\nfor delivery")])
    reply = await at.reply("x@one.example", "y@two.example", "z@kept.example")
    assert reply == f"250 2.6.0 <1@x> Queued mail for delivery (relayed as {at.message})"
    assert len(at.one.received) == len(at.two.received) == 1
    assert await at.states() == [State.DELIVERED, State.DELIVERED, State.CAPTURED]
    trace = await at.trace()
    assert f" answered  the client heard: {reply}\n" in f"{trace}\n"
    assert "250 2.0.0 Ok: queued as" not in trace.partition("planned")[0]


async def test_all_refused_for_good_nothing_is_left_and_nothing_is_returned(lab: Lab) -> None:
    at = await house(lab, [NO_USER], [on("CONTENT", "554 5.7.1 Spam")])
    assert await at.reply("x@one.example", "y@two.example") == "554 5.7.1 Spam"
    assert await at.states() == [State.REMOVED, State.REMOVED]
    assert (await at.relay.spool.read()).entries == ()
    assert await at.returned() == []
    trace = await at.trace()
    assert "withdrawn endpoint one for x@one.example: 550 5.1.1 No such user (says " in trace
    assert trace.endswith(f"answered  the client heard: 554 5.7.1 Spam (trace {at.message})")
    for what in (Happening.BOUNCED, Happening.FAILED, Happening.DEFERRED):
        assert lab.journal.of(what) == []


async def test_the_entry_is_gone_before_the_reply(lab: Lab) -> None:
    """While the withdrawal cannot be committed the client hears nothing, however long it was to wait."""
    clock, gate = lab.turned(), asyncio.Event()
    at = await house(lab, [NO_USER], [on("CONTENT", Wait(gate))], timeout="1s")
    with contextlib.closing(sqlite3.connect(lab.folder / "state" / "spool" / "spool.db")) as database:
        full = "BEFORE UPDATE ON delivery BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        database.execute(f"CREATE TRIGGER full {full}")
        waiting = asyncio.ensure_future(at.reply("x@one.example"))
        (fault,) = await lab.journal.seen(Happening.FAULT)
        assert (fault.facts["where"], await at.states()) == ("settle", [State.QUEUED])
        assert (await at.reply("y@two.example")).startswith("250 2.0.0 Ok: queued as ")  # after its second, the later
        assert not waiting.done()
        database.execute("DROP TRIGGER full")
    await clock.advance(STALLED)
    assert await waiting == "550 5.1.1 No such user"
    assert await at.states() == [State.REMOVED]
    gate.set()


async def test_all_failed_for_now_the_client_is_to_try_again_and_we_do_not(lab: Lab) -> None:
    at = await house(lab, [GREYLISTED], [on("CONTENT", "452 4.2.2 Full")])
    assert await at.reply("x@one.example", "y@two.example") == "452 4.2.2 Full"
    assert await at.states() == [State.REMOVED, State.REMOVED]
    assert await at.relay.spool.claim(lab.world.clock.now() + 86400, 10) == ([], None)
    assert (lab.journal.of(Happening.DEFERRED), await at.returned()) == ([], [])
    assert await at.reply("x@one.example", "y@two.example") == "452 4.2.2 Full"  # its own next try


async def test_where_nobody_is_reached_the_reply_is_ours(lab: Lab) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        two = await lab.upstream("mx.two.example")
        lab.zone.set("mx.one.example", "A", ["127.0.0.1"])
        text = PROXY.format(one=closed.getsockname()[1], two=two.port, timeout="5m", silence="5m", more="")
        at = House(lab, two, two, await lab.started(text))
        assert await at.reply("x@one.example") == "451 4.4.1 No server took the message"
        assert await at.states() == [State.REMOVED]


@pytest.mark.parametrize(
    ("one", "two", "states", "returned"),
    [
        ([], [NO_USER], [State.DELIVERED, State.FAILED], ["y@two.example"]),
        ([], [GREYLISTED], [State.DELIVERED, State.QUEUED], []),
        ([NO_USER], [GREYLISTED], [State.FAILED, State.QUEUED], ["x@one.example"]),
    ],
)
async def test_mixed_is_ours(
    lab: Lab, one: list[Rule], two: list[Rule], states: list[State], returned: list[str]
) -> None:
    at = await house(lab, one, two)
    assert await at.reply("x@one.example", "y@two.example") == f"250 2.0.0 Ok: queued as {at.message}"
    ended = (Happening.DELIVERED, Happening.FAILED, Happening.DEFERRED)
    await lab.journal.until(
        lambda: sum(each.message == at.message and each.what in ended for each in lab.journal.events) == 2
    )
    assert await at.states() == states
    assert await at.returned() == returned


async def test_recipients_of_one_transaction_of_whom_some_are_refused(lab: Lab) -> None:
    at = await house(lab, [on("RCPT", "550 5.1.1 No such user", match="gone@")])
    assert (await at.reply("x@one.example", "gone@one.example")).startswith("250 2.0.0 Ok: queued as ")
    await lab.journal.finished(at.message, 2)
    assert await at.states() == [State.DELIVERED, State.FAILED]
    assert await at.returned() == ["gone@one.example"]


async def test_what_is_held_or_returned_on_purpose_was_accepted(lab: Lab) -> None:
    at = await house(lab, [NO_USER])
    assert (await at.reply("x@waits.example")).startswith("250 2.0.0 Ok: queued as ")
    assert await at.states() == [State.HELD]
    assert (await at.reply("x@back.example")).startswith("250 2.0.0 Ok: queued as ")
    assert (await at.reply("x@waits.example", "y@one.example")).startswith("250 2.0.0 Ok: queued as ")
    await lab.journal.seen(Happening.BOUNCED, times=2)
    assert sorted(await at.returned()) == ["x@back.example", "y@one.example"]


async def test_a_mailbox_answers_once_the_copy_is_there(lab: Lab) -> None:
    lab.write("dms/postfix-accounts.cf", "name@example.org|{SHA512-CRYPT}$6$x$y\n")
    relay = await lab.started(
        DMS.format(port=1).replace('role = "inbound"', 'role = "inbound"\n    reply = "delivered"')
    )
    dialogue = await lab.send(relay, "name@example.org")
    (received,) = lab.journal.of(Happening.RECEIVED)
    assert str(dialogue.answers[0].reply) == f"250 2.0.0 Ok: queued as {received.message}"
    (kept,) = lab.mailbox("name@example.org")
    assert kept.endswith(LETTER.replace(b"\r\n", b"\n"))


@pytest.mark.parametrize(
    ("says", "state"),
    [("250 2.0.0 Late", State.DELIVERED), ("550 5.1.1 Late", State.FAILED), ("450 4.2.0 Late", State.QUEUED)],
)
async def test_after_the_timeout_it_is_queued_and_goes_on_as_ever(lab: Lab, says: str, state: State) -> None:
    """The session's own patience with its client is shorter, and has nothing to do with it."""
    gate = asyncio.Event()
    at = await house(lab, [on("CONTENT", Wait(gate), says)], timeout="2s", silence="1s")
    assert await at.reply("x@one.example") == f"250 2.0.0 Ok: queued as {at.message}"
    assert (await at.trace()).endswith(f"answered  the client heard: 250 2.0.0 Ok: queued as {at.message}")
    assert await at.states() == [State.QUEUED]
    gate.set()
    ended = (Happening.DELIVERED, Happening.FAILED, Happening.DEFERRED)
    await lab.journal.until(lambda: any(lab.journal.of(what, at.message) for what in ended))
    assert await at.states() == [state]
    assert await at.returned() == (["x@one.example"] if state is State.FAILED else [])


async def test_what_failed_first_waits_for_the_others_outside_of_its_lane(lab: Lab) -> None:
    gate = asyncio.Event()
    at = await house(lab, [on("RCPT", "450 4.2.0 Greylisted", match="x@")], [on("CONTENT", Wait(gate), times=1)])
    waiting = asyncio.ensure_future(at.reply("x@one.example", "y@two.example"))
    await at.two.heard("DATA")
    assert (await at.reply("next@one.example")).startswith("250 ")  # max_connections = 1
    assert await at.states() == [State.QUEUED, State.QUEUED]
    assert lab.journal.of(Happening.DEFERRED) == []
    gate.set()
    assert (await waiting).startswith("250 2.0.0 Ok: queued as ")
    await lab.journal.seen(Happening.DEFERRED, at.message)


async def test_pipelined_commands_wait_for_their_turn(lab: Lab) -> None:
    gate = asyncio.Event()
    at = await house(lab, [on("CONTENT", Wait(gate), "550 5.7.1 No")])
    client = await Client.connect(at.relay.addresses["app"])
    await begun(client, "x@one.example")
    client.writer.write(b"NOOP\r\nQUIT\r\n")
    await at.one.heard("DATA")
    gate.set()
    assert [_without_id(await client.reply()) for _ in range(3)] == ["550 5.7.1 No", "250 2.0.0 OK", "221 2.0.0 Bye"]


async def test_an_operator_takes_out_what_a_client_waits_for(lab: Lab) -> None:
    gate = asyncio.Event()
    at = await house(lab, [on("CONTENT", Wait(gate), times=1)])
    first = asyncio.ensure_future(at.reply("x@one.example"))
    await at.one.heard("DATA")
    second = asyncio.ensure_future(at.reply("y@one.example"))
    held = (await lab.journal.seen(Happening.RECEIVED, times=2))[1].message
    await at.relay.spool.change(Change.HOLD, [held], lab.world.clock.now())
    gate.set()
    assert (await first).startswith("250 ")
    assert await second == f"250 2.0.0 Ok: queued as {held}"
    assert await at.states(held) == [State.HELD]


@pytest.mark.parametrize("how", ["close", "reset", "starttls"])
async def test_a_client_that_goes_leaves_its_mail_with_us(lab: Lab, how: str) -> None:
    gate = asyncio.Event()
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(lab.folder / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(lab.folder / "cert.pem"))
    more = 'tls = "starttls"\n    certificate = "cert.pem"\n    key = "key.pem"'
    at = await house(lab, [on("CONTENT", Wait(gate), "450 4.2.0 Not now")], more=more)
    client = await Client.connect(at.relay.addresses["app"])
    if how == "starttls":
        assert (await client.say("STARTTLS")).startswith("220")
        context = ssl.create_default_context()
        authority.configure_trust(context)
        await client.writer.start_tls(context, server_hostname="127.0.0.1")
    await begun(client, "x@one.example")
    await at.one.heard("DATA")
    if how == "reset":
        client.writer.transport.abort()
    else:
        client.writer.close()
    (answered,) = await lab.journal.seen(Happening.ANSWERED)
    assert answered.facts["reply"] == f"250 2.0.0 Ok: queued as {at.message}"
    gate.set()
    await lab.journal.seen(Happening.DEFERRED, at.message)
    assert await at.states() == [State.QUEUED]


async def test_a_relay_that_stops_keeps_nobody_waiting_and_loses_nothing(lab: Lab) -> None:
    gate = asyncio.Event()
    one = await lab.upstream("mx.one.example", [on("CONTENT", Wait(gate), "450 4.2.0 Not now", times=1)])
    two = await lab.upstream("mx.two.example")
    text = written(one, two).replace('"1h"', '"1s"')
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(lab.relay(lab.config(text)))
        waiting = await Client.connect(relay.addresses["app"])
        await begun(waiting, "x@one.example")
        await one.heard("DATA")
        writing = await Client.connect(relay.addresses["app"])
        for line in ("EHLO x", "MAIL FROM:<a@else.example>", "RCPT TO:<late@two.example>"):
            assert (await writing.say(line)).startswith("250")
        stopping = asyncio.ensure_future(stack.aclose())
        assert (await waiting.reply()).startswith("250 2.0.0 Ok: queued as ")
        assert (await writing.say("DATA")).startswith("354")
        writing.writer.write(LETTER + b".\r\n")
        assert (await writing.reply()).startswith("250 2.0.0 Ok: queued as ")
        assert not stopping.done()
        gate.set()
        await stopping
    assert one.received == []
    async with lab.relay(lab.folder / "smtproute.toml"):
        assert (await one.wait(1))[0].recipients == ("x@one.example",)
        assert (await two.wait(1))[0].recipients == ("late@two.example",)


async def test_a_crash_before_the_reply_may_duplicate_and_does_not_lose(lab: Lab) -> None:
    kill: list[int] = []

    async def crash(received: Received) -> None:
        if kill:
            os.kill(kill.pop(), signal.SIGKILL)

    async with Upstream(on_message=crash) as far:
        file = lab.folder / "smtproute.toml"
        file.write_text(
            f'state = "{lab.folder}/state"\nhostname = "mail.example.org"\ndefault = {{ endpoint = "far" }}\n'
            '[listener.app]\nbind = "127.0.0.1:0"\nreply = "delivered"\n'
            f'[endpoint.far]\nservers = ["far.internal:{far.port}"]\n'
            '[resolver]\nstatic = { "far.internal" = ["127.0.0.1"] }\n'
        )
        with serving(file) as (process, address):
            kill.append(process.pid)
            client = await Client.connect(address)
            await begun(client, "x@far.example")
            assert await asyncio.wait_for(client.reader.read(), 20) == b""
        assert len(far.received) == 1
        with serving(file):
            first, second = await far.wait(2)
        assert first.content == second.content
        assert first.recipients == second.recipients == ("x@far.example",)
