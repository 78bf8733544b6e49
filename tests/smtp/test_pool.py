"""The pool: which connections are kept, how many there are, and what becomes of dead ones."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from smtproute.core.address import Address
from smtproute.core.choice import Candidate
from smtproute.core.outcome import Answer, Stage
from smtproute.core.reply import Reply
from smtproute.core.settings import Endpoint, EndpointTls, Server, Source
from smtproute.smtp.client import Dialogue, Mail
from smtproute.smtp.opening import Timeouts, Unreachable
from smtproute.smtp.pool import IDLE, NobodyReached, Pool
from smtproute.testing.clock import TurnedClock
from smtproute.testing.upstream import Drop, Hang, Mute, Raw, Reset, Upstream, Wait, on
from smtproute.world import World

CONTENT = b"Subject: hello\r\n\r\nHello.\r\n"
MAIL = Mail(Address.parse("sender@here.test"), (Address.parse("a@there.test"),))
TAKEN = (Answer(Stage.CONTENT, Reply(250, "2.0.0", "Taken")),)
PLAIN = Endpoint("there", tls=EndpointTls.NEVER)


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def pool(clock: TurnedClock) -> Pool:
    return Pool("relay.test", World(clock))


def candidate(upstream: Upstream, host: str = "mx.test") -> Candidate:
    return Candidate(Server(host, upstream.port), "127.0.0.1", Source.STATIC)


async def send(pool: Pool, upstream: Upstream, endpoint: Endpoint = PLAIN, content: bytes = CONTENT) -> Dialogue:
    return (await pool.send(endpoint, [candidate(upstream)], MAIL, content, 0.0)).dialogue


async def unreached(pool: Pool, upstream: Upstream, endpoint: Endpoint = PLAIN) -> Unreachable:
    with pytest.raises(NobodyReached) as raised:
        await send(pool, upstream, endpoint)
    ((told, why),) = raised.value.unreached
    assert told == candidate(upstream)
    return why


async def test_a_connection_is_used_again_and_closed_with_quit(pool: Pool) -> None:
    async with Upstream() as upstream:
        for _ in range(3):
            assert (await send(pool, upstream)).answers == TAKEN
        assert [received.connection for received in upstream.received] == [1, 1, 1]
        await pool.close()
        await upstream.quiet()
        assert upstream.sessions[0].commands()[-1] == "QUIT"


@pytest.mark.parametrize(
    "other",
    [
        replace(PLAIN, name="elsewhere"),
        replace(PLAIN, tls=EndpointTls.PREFER),
        replace(PLAIN, ca_file="/new.pem"),
        replace(PLAIN, verify=False),
    ],
)
async def test_a_connection_goes_by_the_settings_it_was_opened_with(pool: Pool, other: Endpoint) -> None:
    async with Upstream() as upstream:
        await send(pool, upstream)
        await send(pool, upstream, other)
        await send(pool, upstream)
        assert [received.connection for received in upstream.received] == [1, 2, 1]
        await pool.close()


async def test_another_server_name_on_the_same_address_is_another_connection(pool: Pool) -> None:
    async with Upstream() as upstream:
        await send(pool, upstream)
        await pool.send(PLAIN, [candidate(upstream, "other.test")], MAIL, CONTENT, 0.0)
        assert [received.connection for received in upstream.received] == [1, 2]
        await pool.close()


async def test_no_more_connections_than_allowed_and_first_come_first_served(pool: Pool) -> None:
    go = asyncio.Event()
    endpoint = replace(PLAIN, max_connections=2)
    contents = [b"%d\r\n" % number for number in range(10)]
    async with Upstream([on("CONTENT", Wait(go))]) as upstream:
        async with asyncio.TaskGroup() as group:
            for content in contents:
                group.create_task(send(pool, upstream, endpoint, content))
            await upstream.wait(2)
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(upstream.received) == upstream.connections == 2
            go.set()
        assert upstream.connections == 2
        for connection in (1, 2):
            order = [received.content for received in upstream.received if received.connection == connection]
            assert order == sorted(order)
        assert sorted(received.content for received in upstream.received) == contents
        await pool.close()


async def test_a_reload_that_allows_more_connections_lets_in_who_waits(pool: Pool) -> None:
    go = asyncio.Event()
    async with Upstream([on("CONTENT", Wait(go))]) as upstream:
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(send(pool, upstream, replace(PLAIN, max_connections=1)))
            await upstream.wait(1)
            group.create_task(send(pool, upstream, replace(PLAIN, max_connections=3)))
            await upstream.wait(3)
            go.set()
        await pool.close()


async def test_who_gives_up_waiting_takes_no_place(pool: Pool) -> None:
    go = asyncio.Event()
    endpoint = replace(PLAIN, max_connections=1)
    async with Upstream([on("CONTENT", Wait(go))]) as upstream:
        async with asyncio.TaskGroup() as group:
            group.create_task(send(pool, upstream, endpoint, b"first\r\n"))
            await upstream.wait(1)
            impatient = group.create_task(send(pool, upstream, endpoint, b"never\r\n"))
            group.create_task(send(pool, upstream, endpoint, b"last\r\n"))
            await asyncio.sleep(0)
            impatient.cancel()
            go.set()
        assert [received.content for received in upstream.received] == [b"first\r\n", b"last\r\n"]
        assert (await send(pool, upstream, endpoint)).answers == TAKEN
        await pool.close()


async def test_who_gives_up_just_when_the_place_is_free_passes_it_on(pool: Pool) -> None:
    go = asyncio.Event()
    async with Upstream([on("CONTENT", Wait(go))]) as upstream, asyncio.TaskGroup() as group:
        group.create_task(send(pool, upstream, replace(PLAIN, max_connections=1)))
        await upstream.wait(1)
        impatient = group.create_task(send(pool, upstream, replace(PLAIN, max_connections=1)))
        await asyncio.sleep(0)
        group.create_task(send(pool, upstream, replace(PLAIN, max_connections=2)))
        await asyncio.sleep(0)  # which lets the impatient one in
        impatient.cancel()
        await upstream.wait(2)
        go.set()
    await pool.close()


async def test_the_connection_used_last_is_used_first_and_the_others_grow_idle(pool: Pool) -> None:
    go = asyncio.Event()
    async with Upstream([on("CONTENT", Wait(go))]) as upstream:
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(send(pool, upstream))
            await upstream.wait(2)
            go.set()
        for _ in range(3):
            await send(pool, upstream)
        assert len({received.connection for received in upstream.received[2:]}) == 1
        await pool.close()


async def test_a_cancelled_send_gives_its_place_back_and_breaks_its_connection(pool: Pool) -> None:
    endpoint = replace(PLAIN, max_connections=1)
    async with Upstream([on("MAIL", Raw(b"250 2.1.0 not the e"), times=1)]) as upstream:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(send(pool, upstream, endpoint))
            await upstream.heard("DATA")
            sending.cancel()
        await upstream.quiet()
        assert (await send(pool, upstream, endpoint)).answers == TAKEN
        assert upstream.connections == 2
        await pool.close()


async def test_a_kept_connection_makes_room_for_another_server(pool: Pool) -> None:
    endpoint = replace(PLAIN, max_connections=1)
    async with Upstream() as first, Upstream() as second, asyncio.TaskGroup() as group:
        running = group.create_task(pool.run())
        await send(pool, first, endpoint)
        await send(pool, second, endpoint)
        await first.quiet()
        assert first.sessions[0].commands()[-1] == "QUIT"
        running.cancel()
    await pool.close()


@pytest.mark.parametrize("how", [Drop(), Reset(), "421 4.4.2 Idle too long"])
@pytest.mark.parametrize("verb", ["MAIL", "CONTENT"])
async def test_a_kept_connection_that_died_is_replaced_silently(pool: Pool, verb: str, how: Drop | Reset | str) -> None:
    """At CONTENT: right after the 250; at MAIL: as an answer to it."""
    script = [on("CONTENT", "250 2.0.0 Taken", how, times=1)]
    if verb == "MAIL":
        script = [on("MAIL", "250 2.1.0 Ok", times=1), on("MAIL", how, times=1)]
    async with Upstream(script) as upstream:
        await send(pool, upstream)
        if verb == "CONTENT":
            await upstream.quiet()
        dialogue = await send(pool, upstream)
        assert dialogue.answers == TAKEN
        assert [received.connection for received in upstream.received] == [1, 2]
        await pool.close()
    told = [line.text for line in dialogue.transcript]
    if verb == "MAIL":
        assert told[0] == "connection reused (transaction 2)"
    assert f"connected to mx.test (127.0.0.1:{upstream.port})" in told


async def test_a_server_that_went_away_while_its_connection_was_kept_is_unreachable(pool: Pool) -> None:
    async with Upstream() as upstream:
        await send(pool, upstream)
    assert (await unreached(pool, upstream)).answer == Answer(Stage.CONNECT, None, "connection refused")


async def test_nothing_is_sent_twice_once_mail_was_answered(pool: Pool) -> None:
    for verb, stage in (("RCPT", Stage.RCPT), ("DATA", Stage.DATA), ("CONTENT", Stage.CONTENT)):
        standard = {"RCPT": "250 2.1.5 Ok", "DATA": "354 Go", "CONTENT": "250 2.0.0 Taken"}[verb]
        async with Upstream([on(verb, standard, times=1), on(verb, Drop(), times=1)]) as upstream:
            await send(pool, upstream)
            dialogue = await send(pool, upstream)
            assert [(answer.stage, answer.reply) for answer in dialogue.answers] == [(stage, None)]
            assert upstream.connections == 1
            assert (await send(pool, upstream)).answers == TAKEN
            assert upstream.connections == 2
            await pool.close()


async def test_an_unusable_connection_is_not_kept(pool: Pool) -> None:
    async with Upstream([on("RCPT", "421 4.3.2 Enough", times=1)]) as upstream:
        assert (await send(pool, upstream)).answers == (Answer(Stage.RCPT, Reply(421, "4.3.2", "Enough")),)
        assert (await send(pool, upstream)).answers == TAKEN
        assert upstream.connections == 2
        await pool.close()


async def test_an_idle_connection_is_closed_in_time(pool: Pool, clock: TurnedClock) -> None:
    async with Upstream() as upstream, asyncio.TaskGroup() as group:
        reaper = group.create_task(pool.run())
        await send(pool, upstream)
        await clock.asleep()
        await clock.advance(IDLE - 10)
        await clock.asleep()
        await send(pool, upstream)
        assert upstream.connections == 1
        await clock.advance(IDLE - 1)
        await clock.asleep()
        assert upstream.sessions[0].open
        await clock.advance(10)
        await upstream.quiet()
        assert upstream.sessions[0].commands()[-1] == "QUIT"
        await send(pool, upstream)
        assert upstream.connections == 2
        reaper.cancel()
    await pool.close()


async def test_a_server_that_does_not_answer_quit_does_not_stop_the_others(clock: TurnedClock) -> None:
    pool = Pool("relay.test", World(clock))
    async with Upstream([on("QUIT", Hang())]) as deaf, Upstream() as upstream:
        await send(pool, deaf)
        await send(pool, upstream)
        async with asyncio.TaskGroup() as group:
            closing = group.create_task(pool.close())
            await upstream.quiet()
            assert not closing.done()
            closing.cancel()


async def test_a_connection_carries_so_many_messages_and_no_more(pool: Pool) -> None:
    endpoint = replace(PLAIN, max_messages=3)
    async with Upstream() as upstream, asyncio.TaskGroup() as group:
        running = group.create_task(pool.run())
        for _ in range(7):
            await send(pool, upstream, endpoint)
        assert [received.connection for received in upstream.received] == [1, 1, 1, 2, 2, 2, 3]
        await upstream.heard("QUIT")
        assert upstream.sessions[0].commands()[-1] == "QUIT"
        running.cancel()
    await pool.close()


async def test_no_message_waits_for_an_answer_to_quit() -> None:
    """Neither the last one of a connection, nor the one that it makes room for."""
    endpoint = replace(PLAIN, max_connections=1, max_messages=2)
    pool = Pool("relay.test", World(), Timeouts(quit=3600))
    async with asyncio.timeout(30), Upstream([on("QUIT", Mute())]) as mute, Upstream() as other:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(pool.run())
            for _ in range(3):
                assert (await send(pool, mute, endpoint)).answers == TAKEN
            assert (await send(pool, other, endpoint)).answers == TAKEN
            await mute.heard("QUIT")
            await other.wait(1)
            running.cancel()
        await pool.close()
        assert [session.commands()[-1] for session in mute.sessions] == ["QUIT", "QUIT"]


async def test_at_the_end_quit_is_said_on_every_connection(pool: Pool) -> None:
    """Though nobody parts any more from those that are done."""
    async with Upstream() as upstream:
        for most in (1, 1, 2):
            await send(pool, upstream, replace(PLAIN, max_messages=most))
        assert all(session.open for session in upstream.sessions)
        await pool.close()
        await upstream.quiet()
        assert [session.commands()[-1] for session in upstream.sessions] == ["QUIT"] * 3
