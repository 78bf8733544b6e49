"""What hostile clients, servers, tables and disks must not achieve."""

from __future__ import annotations

import asyncio
import errno
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from smtproute.core.address import Domain
from smtproute.core.event import Event, Happening
from smtproute.core.settings import LogFormat
from smtproute.mailauth.header import looked
from smtproute.spool.queue import Change, State
from smtproute.spool.sqlite import SqliteSpool
from smtproute.testing.rules import Moment, Rule, Verb, Wait, on
from smtproute.testing.upstream import Upstream
from smtproute.testing.zone import Fault
from smtproute.trace.log import log_to
from smtproute.trace.text import render
from tests.e2e.conftest import LETTER, Client, Lab
from tests.e2e.test_seals import FORWARD


async def test_a_quoted_local_part_does_not_become_two_addresses(lab: Lab) -> None:
    """A pcre result pastes the local part in: its quotes must come along, or it would name others.

    A stranger may not even write an address inside another; a trusted client may.
    """
    far = await lab.upstream("far.example")
    lab.write("re.cf", "/^(.*)@local\\.example$/ $1@internal.example\n")
    relay = await lab.started(
        f"""
        domains = ["local.example"]
        default = {{ endpoint = "out" }}
        [aliases]
        tables = ["pcre:re.cf"]
        [listener.mx]
        bind = "127.0.0.1:0"
        role = "inbound"
        [listener.app]
        bind = "127.0.0.1:0"
        role = "trusted"
        [endpoint.out]
        servers = ["far.example:{far.port}"]
        """
    )
    evil = ['"x@evil.example y"', '"x@evil.example,y"', '"<x@evil.example>"', '"x@evil.example>,<y"']
    for number, local in enumerate(evil):
        refused = await lab.send(relay, f"{local}@local.example", listener="mx")
        reply = refused.answers[0].reply
        assert reply is not None and (reply.code, reply.enhanced) == (554, "5.7.1")
        await lab.delivered(relay, f"{local}@local.example", listener="app")
        assert far.received[number].recipients == (f"{local}@internal.example",)


TWO = """
    default = {{ mode = "capture" }}
    [listener.app]
    bind = "127.0.0.1:0"
    [endpoint.hung]
    servers = ["hung.example:{hung}"]
    max_connections = 2
    [endpoint.good]
    servers = ["good.example:{good}"]
    [[route]]
    match = "*@hung.example"
    endpoint = "hung"
    [[route]]
    match = "*@good.example"
    endpoint = "good"
"""


async def flood(client: Client, recipient: str, messages: int) -> None:
    """Many small messages on one connection, pipelined."""
    await client.say("EHLO x")
    for _ in range(messages):
        client.writer.write(f"MAIL FROM:<a@b.example>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode())
        for _ in range(3):
            await client.reply()
        client.writer.write(LETTER + b".\r\n")
        assert (await client.reply()).startswith("250 ")


async def test_a_server_that_hangs_holds_back_its_own_mail_only(lab: Lab) -> None:
    gate = asyncio.Event()
    hung = await lab.upstream("hung.example", [on("CONNECT", Wait(gate))])
    good = await lab.upstream("good.example")
    relay = await lab.started(TWO.format(hung=hung.port, good=good.port))
    async with asyncio.TaskGroup() as clients:
        for number in range(10):
            client = await Client.connect(relay.addresses["app"])
            clients.create_task(flood(client, f"{number}@hung.example", 130))
    for number in range(5):
        await lab.delivered(relay, f"{number}@good.example")
    await lab.delivered(relay, "kept@elsewhere.example")
    assert len(good.received) == 5
    gate.set()
    await hung.wait(1300)


async def test_mail_that_waits_for_a_slow_server_heeds_the_operator(lab: Lab) -> None:
    gate = asyncio.Event()
    hung = await lab.upstream("hung.example", [on("CONNECT", Wait(gate))])
    relay = await lab.started(TWO.format(hung=hung.port, good=1))
    messages = [await lab.accepted(relay, f"{number}@hung.example") for number in range(20)]
    await lab.journal.until(lambda: hung.connections == 2)
    beside = await SqliteSpool.beside(str(lab.folder / "state" / "spool"), lab.world)
    await beside.change(Change.REMOVE, messages[10:], lab.world.clock.now())
    await beside.change(Change.HOLD, [messages[9]], lab.world.clock.now())
    await relay.spool.change(Change.HOLD, [messages[8]], lab.world.clock.now())  # noticed at once, as theirs soon are
    gate.set()
    await hung.wait(8)
    await lab.journal.seen(Happening.DELIVERED, times=8)
    states = [(await beside.entries(message))[0].state for message in messages]
    assert states == [State.DELIVERED] * 8 + [State.HELD] * 2 + [State.REMOVED] * 10
    await beside.change(Change.RELEASE, [messages[9]], lab.world.clock.now())
    await hung.wait(9)
    await beside.close()


async def test_one_recipient_named_a_thousand_times_is_one(lab: Lab) -> None:
    lab.write("aliases", "wide@here.example " + " ".join(f"u{n}@far.example" for n in range(900)) + "\n")
    relay = await lab.started('[aliases]\ntables = ["aliases"]\n[listener.app]\nbind = "127.0.0.1:0"')
    client = await Client.connect(relay.addresses["app"])
    await client.say("EHLO x")
    await client.say("MAIL FROM:<a@b.example>")
    client.writer.write(b"RCPT TO:<wide@here.example>\r\n" * 900)
    for _ in range(900):
        assert (await client.reply()).startswith("250 ")
    assert (await client.say("DATA")).startswith("354 ")
    client.writer.write(LETTER + b".\r\n")
    message = (await client.reply()).rsplit(" ", 1)[-1]
    planned = [each for each in await lab.trace(relay, message) if each.what is Happening.PLANNED]
    assert len(planned) == 1
    assert len(await relay.spool.entries(message)) == 900


async def test_recipients_that_stand_for_too_many_want_another_transaction(lab: Lab) -> None:
    lines = [f"w{each}@here.example " + " ".join(f"{each}.{n}@far.example" for n in range(1000)) for each in range(6)]
    lab.write("aliases", "\n".join(lines) + "\n")
    relay = await lab.started('[aliases]\ntables = ["aliases"]\n[listener.app]\nbind = "127.0.0.1:0"')
    client = await Client.connect(relay.addresses["app"])
    await client.say("EHLO x")
    await client.say("MAIL FROM:<a@b.example>")
    replies = [await client.say(f"RCPT TO:<w{each}@here.example>") for each in range(6)]
    assert [reply[:9] for reply in replies] == ["250 2.1.5"] * 5 + ["452 4.5.3"]


class _Broken:
    """A stream that cannot be written."""

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self) -> None:
        raise BrokenPipeError


@pytest.mark.parametrize("form", list(LogFormat))
def test_a_log_that_cannot_be_written_costs_its_lines_and_nothing_else(form: LogFormat) -> None:
    emit = log_to(_Broken(), form)  # type: ignore[arg-type]
    emit(Event(Happening.DRAINING, 0.0))


async def test_a_from_that_nests_forever_names_nobody(lab: Lab) -> None:
    far = await lab.upstream("mx.far.example")
    lab.write("aliases", "name@example.org me@far.example\n")
    config = textwrap.dedent(FORWARD.format(port=far.port, key=lab.key()))
    relay = await lab.started(config + '[arc]\nsign = "sender"\n')
    await lab.delivered(relay, "name@example.org", content=b"From: " + b"(" * 3000 + b"\r\n\r\nbody\r\n")
    assert b"d=example.org" in far.received[0].content
    await lab.delivered(relay, "name@example.org", content=b"From: <x@example.org>\r\n\r\nbody\r\n")
    assert not lab.journal.of(Happening.FAULT)


async def test_a_limit_on_recipients_costs_another_transaction_and_no_pause(lab: Lab) -> None:
    class Limited(Upstream):
        """It takes a hundred recipients in one transaction."""

        def rule(self, moment: Moment, note: Callable[[str], None]) -> Rule | None:
            if moment.verb is Verb.MAIL:
                self.count = 0
            if moment.verb is Verb.RCPT:
                self.count += 1
                if self.count > 100:
                    return on("RCPT", "452 4.5.3 too many recipients")
            return None

    far = await lab.stack.enter_async_context(Limited())
    lab.zone.set("far.example", "A", [far.host])
    relay = await lab.application(f"far.example:{far.port}")
    message = await lab.accepted(relay, *(f"{n}@far.example" for n in range(250)))
    await lab.journal.finished(message, 250)
    assert [len(each.recipients) for each in far.received] == [100, 100, 50]
    assert not lab.journal.of(Happening.DEFERRED)


async def test_an_address_literal_in_helo_stays_one(lab: Lab) -> None:
    relay = await lab.started('[listener.app]\nbind = "127.0.0.1:0"')
    client = await Client.connect(relay.addresses["app"])
    await client.say("EHLO [IPv6:2001:db8::1]")
    for line in ("MAIL FROM:<a@b.example>", "RCPT TO:<x@far.example>", "DATA"):
        await client.say(line)
    client.writer.write(LETTER + b".\r\n")
    message = (await client.reply()).rsplit(" ", 1)[-1]
    header = (await relay.spool.entries(message))[0].message.trace_header
    assert header.startswith(b"Received: from [IPv6:2001:db8::1] ([127.0.0.1])\r\n")


async def test_wide_messages_for_a_server_that_hangs_hold_back_nobody_else(lab: Lab) -> None:
    gate = asyncio.Event()
    hung = await lab.upstream("hung.example", [on("MAIL", Wait(gate))])
    lab.write("aliases", "wide@here.example " + " ".join(f"u{n}@hung.example" for n in range(1000)) + "\n")
    config = TWO.format(hung=hung.port, good=1)
    relay = await lab.started(
        'domains = ["here.example"]\n' + textwrap.dedent(config) + '[aliases]\ntables = ["aliases"]'
    )
    client = await Client.connect(relay.addresses["app"])
    await flood(client, "wide@here.example", 12)
    await lab.delivered(relay, "kept@elsewhere.example")
    gate.set()


async def test_what_one_server_took_does_not_wait_for_the_next(lab: Lab) -> None:
    gate = asyncio.Event()
    first = await lab.upstream("a.example", [on("RCPT", "451 4.2.0 later", match="late@")])
    second = await lab.upstream("b.example", [on("MAIL", Wait(gate))])
    relay = await lab.application(f"a.example:{first.port}", f"b.example:{second.port}")
    message = await lab.accepted(relay, "now@far.example", "late@far.example")
    (kept,) = await first.wait(1)
    await second.heard(f"MAIL FROM:<friend@else.example> SIZE={len(kept.content)}")
    (delivered,) = await lab.journal.seen(Happening.DELIVERED, message)
    assert delivered.facts["address"] == "now@far.example"
    assert [str(each.state) for each in await relay.spool.entries(message)] == ["delivered", "queued"]
    gate.set()
    await lab.journal.finished(message, 2)
    assert [each.recipients for each in first.received + second.received] == [
        ("now@far.example",),
        ("late@far.example",),
    ]


async def test_a_held_message_that_fails_is_told_of_once(lab: Lab) -> None:
    gate = asyncio.Event()
    far = await lab.upstream("far.example", [on("RCPT", Wait(gate), "550 5.1.1 no")])
    relay = await lab.application(f"far.example:{far.port}")
    message = await lab.accepted(relay, "x@far.example")
    await far.heard("RCPT TO:<x@far.example>")
    await relay.spool.change(Change.HOLD, [message], lab.world.clock.now())
    gate.set()
    await lab.journal.seen(Happening.BOUNCED, message)
    assert [str(each.state) for each in await relay.spool.entries(message)] == ["failed"]
    assert await relay.spool.change(Change.RELEASE, [message], lab.world.clock.now()) == []


async def test_our_own_name_among_the_exchanges_ends_the_list(lab: Lab) -> None:
    """RFC 5321 5.1: we, and who is worse, would bring the mail back to us."""
    lab.zone.set("a.example", "A", ["127.0.0.1"])
    lab.zone.set("mail.example.org", "A", ["127.0.0.1"])
    lab.zone.set("backed.example", "MX", ["10 a.example", "20 mail.example.org", "30 b.example"])
    lab.zone.set("ours.example", "MX", ["10 mail.example.org", "20 a.example"])
    lab.zone.set("none.example", "MX", ["10 gone.example"])
    relay = await lab.started('[listener.app]\nbind = "127.0.0.1:0"\n[endpoint.world]\ndiscover = "recipient"')
    world = relay.snapshot().settings.endpoints["world"]

    async def asked(domain: str) -> tuple[list[str], str]:
        choice = await relay.endpoints.candidates(world, Domain.parse(domain))
        refusal = choice.refusal.reply.enhanced if choice.refusal is not None else ""
        return [each.server.host for each in choice.candidates], refusal

    assert await asked("backed.example") == (["a.example"], "")
    assert await asked("ours.example") == ([], "5.4.6")
    assert await asked("none.example") == ([], "5.4.4")
    lab.zone.set("gone.example", "ANY", Fault.SERVFAIL)
    lab.zone.set("other.example", "MX", ["10 failing.example"])
    lab.zone.set("failing.example", "ANY", Fault.SERVFAIL)
    assert await asked("other.example") == ([], "")


async def test_what_one_server_lacks_another_may_have_and_nobody_is_quoted_who_did_not_speak(lab: Lab) -> None:
    plain = await lab.upstream("plain.example", extensions=("PIPELINING",))
    able = await lab.upstream("able.example")
    relay = await lab.application(f"plain.example:{plain.port}", f"able.example:{able.port}")
    eight_bit = LETTER + b"\xc3\xa4\r\n"
    await lab.delivered(relay, "x@far.example", content=eight_bit)
    assert (len(plain.received), len(able.received)) == (0, 1)
    written = lab.folder / "smtproute.toml"
    written.write_text(written.read_text().replace(f', "able.example:{able.port}"', ""))
    await relay.reload()
    message = await lab.delivered(relay, "x@far.example", content=eight_bit)
    (bounced,) = await lab.journal.seen(Happening.BOUNCED, message)
    dsn = (await relay.spool.content(bounced.facts["dsn"])).decode()
    assert "<x@far.example>: this relay said: 554 5.6.3 " in dsn and "Remote-MTA" not in dsn


async def test_a_large_header_is_read_beside_the_loop(lab: Lab) -> None:
    far = await lab.upstream("far.example")
    relay = await lab.application(f"far.example:{far.port}")
    here = threading.get_ident()
    small, large = (b"X: y\r\n" * count + b"\r\n" + b"body\r\n" * 100_000 for count in (100, 10_000))
    with ThreadPoolExecutor(1) as pool:
        assert await looked(small, pool, lambda _: threading.get_ident()) == here
        assert await looked(large, pool, lambda _: threading.get_ident()) != here

    many = b"X: y\r\n" * 10_000
    forged = b"Authentication-Results: mail.example.org; spf=pass\r\n"
    for content in (many + forged + LETTER, many + forged + LETTER + b"body\r\n" * 100_000):
        await lab.delivered(relay, "x@far.example", content=content)
        received = far.received[-1].content
        assert received.endswith(content.removeprefix(many + forged)) and forged not in received
    dialogue = await lab.send(relay, "x@far.example", content=many + b"Received: by a\r\n" * 51 + LETTER)
    assert "554 5.4.6 Too many hops" in str(dialogue.answers[0].reply)


@pytest.mark.parametrize(
    ("content", "limits", "reply"),
    [
        (b"Subject: x\n\r\nHello.\r\n", "", "554 5.6.0 The message has a lone CR or LF"),
        (LETTER * 9, 'message_size = "1000B"', "552 5.3.4 "),
        (LETTER * 9, 'in_flight = "1000B"', "452 4.3.1 "),
        (b"X: y\r\n" * 50_000, "", "554 5.6.0 The header section is larger"),
    ],
    ids=["lone LF", "too large", "no room", "header too large"],
)
async def test_content_that_is_refused_is_told_of_once(lab: Lab, content: bytes, limits: str, reply: str) -> None:
    relay = await lab.application("far.example", more=f"\n[limits]\n{limits}\n")
    client = await Client.connect(next(iter(relay.addresses.values())))
    for line in ("EHLO client.example", "MAIL FROM:<friend@else.example>", "RCPT TO:<x@far.example>", "DATA"):
        await client.say(line)
    client.writer.write(content + b".\r\n")
    heard = await client.reply()
    assert heard.startswith(reply)
    (refused,) = lab.journal.of(Happening.REFUSED)
    assert refused.facts["reply"] == heard


async def test_nothing_that_a_server_says_steers_a_terminal(lab: Lab) -> None:
    far = await lab.upstream("far.example", [on("RCPT", "550 5.1.1 \x9b2J\x9d0;title\x9c \u202e no")])
    relay = await lab.application(f"far.example:{far.port}")
    message = await lab.delivered(relay, "x@far.example")
    (bounced,) = await lab.journal.seen(Happening.BOUNCED, message)
    shown = "\n".join(render(await lab.trace(relay, message)))
    dsn = (await relay.spool.content(bounced.facts["dsn"])).decode()
    last = (await relay.spool.entries(message))[0].last
    for text in (shown, dsn, last):
        assert "\\x9b2J" in text
        assert not set("\x9b\x9d\x9c\u202e") & set(text)
