"""The race: who is connected to when, who wins, who has failed, and that no socket is left open."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace

import pytest
import trustme

from smtproute.core.address import Address
from smtproute.core.choice import Candidate
from smtproute.core.outcome import Answer, Judgement, Stage, judge
from smtproute.core.reply import Reply
from smtproute.core.settings import Endpoint, EndpointTls, Server, Source
from smtproute.smtp.client import Mail
from smtproute.smtp.opening import Opening, Terms, Timeouts
from smtproute.smtp.pool import NobodyReached, Pool, Sent
from smtproute.smtp.race import ABREAST, Race, Runner
from smtproute.testing.clock import TurnedClock
from smtproute.testing.network import blackhole
from smtproute.testing.upstream import Drop, Mute, Upstream, Wait, on
from smtproute.world import SystemClock, World

CONTENT = b"Subject: hello\r\n\r\nHello.\r\n"
MAIL = Mail(Address.parse("sender@here.test"), (Address.parse("a@there.test"),))
TAKEN = (Answer(Stage.CONTENT, Reply(250, "2.0.0", "Taken")),)
PLAIN = Endpoint("there", tls=EndpointTls.NEVER)
LONG = 3600.0
PATIENT = Timeouts(next_connect=LONG, next_server=LONG, next_backup=LONG, next_greeting=LONG, backup_greeting=LONG)
"""No address is tried beside another: only what has failed makes way."""
SILENT = on("CONNECT", Mute())


@pytest.fixture
def refused() -> Iterator[int]:
    """A port on which nobody listens, and nobody will meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def dead() -> Iterator[int]:
    with blackhole() as port:
        yield port


def at(port: int, host: str = "mx.test", backup: bool = False, ip: str = "127.0.0.1") -> Candidate:
    return Candidate(Server(host, port), ip, Source.STATIC, backup)


def runners(*candidates: Candidate) -> list[Runner]:
    terms = Terms(EndpointTls.NEVER, None, "relay.test")
    return [Runner(each, Opening(each.server, each.ip, terms, World())) for each in candidates]


async def send(timeouts: Timeouts, *candidates: Candidate, endpoint: Endpoint = PLAIN) -> Sent:
    pool = Pool("relay.test", World(), timeouts)
    try:
        return await pool.send(endpoint, candidates, MAIL, CONTENT, 0.0)
    finally:
        await pool.close()


def failures(told: Sent | NobodyReached) -> list[tuple[Candidate, Stage, str]]:
    return [(who, why.answer.stage, why.answer.detail or str(why.answer.reply)) for who, why in told.unreached]


async def test_the_first_that_answers_is_the_only_one_that_is_asked() -> None:
    async with Upstream() as first, Upstream() as second:
        sent = await send(Timeouts(), at(first.port), at(second.port))
        assert (first.connections, second.connections) == (1, 0)
    assert (sent.candidate, sent.dialogue.answers, sent.unreached) == (at(first.port), TAKEN, ())


async def test_a_refused_connection_makes_way_at_once(refused: int) -> None:
    async with Upstream() as second:
        sent = await send(PATIENT, at(refused), at(second.port))
        assert len(second.received) == 1
    assert sent.candidate == at(second.port)
    assert failures(sent) == [(at(refused), Stage.CONNECT, "connection refused")]


async def test_the_next_address_of_a_server_is_tried_soon_and_another_server_later(dead: int) -> None:
    timeouts = replace(PATIENT, next_connect=0.1)
    async with Upstream(host="127.0.0.2", port=dead) as second, Upstream() as other:
        sent = await send(timeouts, at(dead), at(dead, ip="127.0.0.2"), at(other.port))
        assert (second.connections, other.connections) == (1, 0)
    assert sent.candidate == at(dead, ip="127.0.0.2")
    ((who, why),) = sent.unreached
    assert (who, why.answer.stage) == (at(dead), Stage.CONNECT)
    assert why.answer.detail.endswith(f" s, when mx.test (static, 127.0.0.2:{dead}) answered")


async def test_another_server_is_not_asked_as_soon_as_the_next_address(dead: int) -> None:
    first, second = runners(at(dead), at(dead, "b.test"))
    race = Race([first, second], replace(PATIENT, next_connect=0.0))
    async with asyncio.TaskGroup() as group:
        racing = group.create_task(race.winner())
        for _ in range(50):
            await asyncio.sleep(0)
        assert race.started == [first]
        racing.cancel()


async def test_who_connects_after_another_was_started_has_not_failed() -> None:
    """The first server's queue is full; once there is room, the operating system's second try gets through."""
    loop, gate = asyncio.get_running_loop(), asyncio.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        full.setblocking(False)
        async with Upstream([on("CONNECT", Wait(gate))]) as near:
            first, second = runners(at(full.getsockname()[1]), at(near.port))
            race = Race([first, second], replace(PATIENT, next_server=0.0))
            async with asyncio.TaskGroup() as group:
                winning = group.create_task(race.winner())
                await near.connected()
                assert first.late
                accepted = [(await loop.sock_accept(full))[0] for _ in range(2)]
                while first.stage is Stage.CONNECT:
                    await asyncio.sleep(0)
                gate.set()
                assert await winning is second
            for each in accepted:
                each.close()
            second.opening.abort()
    assert (first.failure, second.failure) == (None, None)


async def test_an_address_that_does_not_answer_costs_a_moment(dead: int) -> None:
    async with Upstream() as second:
        sent = await send(replace(PATIENT, next_server=0.1), at(dead), at(second.port, "b.test"))
    ((who, why),) = sent.unreached
    assert (who, why.answer.stage, why.answer.reply) == (at(dead), Stage.CONNECT, None)
    told = f" s, when b.test (static, 127.0.0.1:{second.port}) answered"
    assert why.answer.detail.startswith("no connection within 0.")
    assert why.answer.detail.endswith(told)
    assert judge(why.answer) is Judgement.NEXT_SERVER


async def test_a_server_that_accepts_and_hangs_holds_its_message_for_seconds_only() -> None:
    async with Upstream([SILENT]) as first, Upstream() as second:
        sent = await send(replace(PATIENT, next_greeting=0.1), at(first.port), at(second.port, "b.test"))
        await first.quiet()
    ((who, why),) = sent.unreached
    assert (who, why.answer.stage) == (at(first.port), Stage.GREETING)
    assert why.answer.detail.startswith("no greeting within 0.")
    assert why.answer.detail.endswith(f" s, when b.test (static, 127.0.0.1:{second.port}) answered")
    assert [line.text for line in why.transcript] == [
        f"connected to mx.test (127.0.0.1:{first.port})",
        why.answer.detail,
        "connection given up",
    ]
    assert sent.candidate == at(second.port, "b.test")


async def test_tls_from_the_start_is_part_of_the_race() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("mx.test").configure_cert(context)
    endpoint = replace(PLAIN, tls=EndpointTls.IMPLICIT, verify=False)
    async with Upstream([SILENT]) as first, Upstream(tls=context, implicit=True) as second:
        sent = await send(replace(PATIENT, next_greeting=0.1), at(first.port), at(second.port), endpoint=endpoint)
        await first.quiet()
    assert sent.dialogue.tls
    assert [(who, stage) for who, stage, _ in failures(sent)] == [(at(first.port), Stage.GREETING)]


async def test_who_is_slow_to_greet_may_still_be_the_first() -> None:
    go = asyncio.Event()
    async with Upstream([on("CONNECT", Wait(go))]) as first, Upstream([SILENT]) as second:
        async with asyncio.TaskGroup() as group:
            timeouts = replace(PATIENT, next_greeting=0.05)
            sending = group.create_task(send(timeouts, at(first.port), at(second.port)))
            await second.connected()
            go.set()
        await second.quiet()
        assert len(first.received) == 1
    assert sending.result().candidate == at(first.port)


async def test_of_two_that_greet_at_once_one_is_left() -> None:
    go = asyncio.Event()
    greets = on("CONNECT", Wait(go))
    async with Upstream([greets]) as first, Upstream([greets]) as second:
        async with asyncio.TaskGroup() as group:
            timeouts = replace(PATIENT, next_greeting=0.0)
            sending = group.create_task(send(timeouts, at(first.port), at(second.port)))
            await first.connected()
            await second.connected()
            for _ in range(50):
                await asyncio.sleep(0)
            go.set()
        await first.quiet()
        await second.quiet()
        assert len(first.received) + len(second.received) == 1
    assert sending.result().dialogue.answers == TAKEN


async def test_who_was_beaten_before_it_was_late_has_not_failed(dead: int) -> None:
    """It has its turn where the winner then fails."""
    go = asyncio.Event()
    timeouts = replace(PATIENT, next_greeting=0.05, connect=LONG)
    async with Upstream([on("CONNECT", Wait(go))]) as upstream:
        first, second = runners(at(upstream.port), at(dead))
        race = Race([first, second], timeouts)
        async with asyncio.TaskGroup() as group:
            winning = group.create_task(race.winner())
            while len(race.started) < 2:
                await asyncio.sleep(0)
            go.set()
        first.opening.abort()
        await upstream.quiet()
    assert winning.result() is first
    assert (first.failure, second.failure) == (None, None)


async def test_a_backup_waits_for_the_primaries(refused: int, dead: int) -> None:
    timeouts = replace(PATIENT, next_server=0.0, connect=0.3)
    async with Upstream() as backup:
        sent = await send(timeouts, at(dead), at(refused), at(backup.port, backup=True))
    assert sent.candidate.backup
    assert failures(sent) == [
        (at(dead), Stage.CONNECT, "no connection within 0.3 s"),
        (at(refused), Stage.CONNECT, "connection refused"),
    ]


async def test_a_backup_does_not_wait_for_ever(dead: int) -> None:
    async with Upstream() as backup:
        timeouts = replace(PATIENT, next_server=0.0, next_backup=0.1, connect=LONG)
        sent = await send(timeouts, at(dead), at(backup.port, backup=True))
    assert sent.candidate.backup
    assert [(who, stage) for who, stage, _ in failures(sent)] == [(at(dead), Stage.CONNECT)]


async def test_a_backup_waits_longer_for_a_primary_that_is_connected(dead: int) -> None:
    """However long another primary has not been connected."""
    gate = asyncio.Event()
    timeouts = replace(PATIENT, next_greeting=0.0, next_backup=0.0, connect=LONG)
    async with Upstream([on("CONNECT", Wait(gate))]) as first, Upstream() as backup:
        started = runners(at(first.port), at(dead), at(backup.port, backup=True))
        race = Race(started, timeouts)
        async with asyncio.TaskGroup() as group:
            winning = group.create_task(race.winner())
            while len(race.started) < 2:
                await asyncio.sleep(0)
            for _ in range(50):
                await asyncio.sleep(0)
            gate.set()
        started[0].opening.abort()
        assert (winning.result(), backup.connections) == (started[0], 0)


async def test_a_backup_does_not_wait_for_ever_for_a_greeting() -> None:
    async with Upstream([SILENT]) as first, Upstream() as backup:
        timeouts = replace(PATIENT, backup_greeting=0.1)
        sent = await send(timeouts, at(first.port), at(backup.port, backup=True))
    assert sent.candidate.backup
    assert [(who, stage) for who, stage, _ in failures(sent)] == [(at(first.port), Stage.GREETING)]


async def test_backups_are_tried_beside_each_other_as_primaries_are(dead: int) -> None:
    async with Upstream() as second:
        timeouts = replace(PATIENT, next_server=0.1, connect=LONG)
        sent = await send(timeouts, at(dead, backup=True), at(second.port, backup=True))
    assert sent.candidate == at(second.port, backup=True)


@pytest.mark.parametrize(("verb", "stage"), [("EHLO", Stage.EHLO), ("STARTTLS", Stage.STARTTLS), ("AUTH", Stage.AUTH)])
async def test_a_winner_that_fails_later_makes_way(verb: str, stage: Stage, refused: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("mx.test").configure_cert(context)
    endpoint = replace(PLAIN, tls=EndpointTls.REQUIRE, verify=False, username="app", password="secret")
    no = on(verb, "454 4.7.0 No")
    users = {"app": "secret"}
    async with Upstream([no], tls=context, users=users) as first, Upstream(tls=context, users=users) as third:
        candidates = at(first.port), at(refused), at(third.port)
        sent = await send(PATIENT, *candidates, endpoint=endpoint)
        await first.quiet()
    assert sent.candidate == at(third.port)
    assert sent.dialogue.answers == TAKEN
    assert failures(sent) == [
        (at(first.port), stage, "454 4.7.0 No"),
        (at(refused), Stage.CONNECT, "connection refused"),
    ]


@pytest.mark.parametrize(("verb", "stage"), [("EHLO", Stage.EHLO), ("STARTTLS", Stage.STARTTLS), ("AUTH", Stage.AUTH)])
async def test_a_winner_that_is_silent_then_makes_way_soon_where_another_is_left(verb: str, stage: Stage) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("mx.test").configure_cert(context)
    endpoint = replace(PLAIN, tls=EndpointTls.REQUIRE, verify=False, username="app", password="secret")
    users = {"app": "secret"}
    async with Upstream([on(verb, Mute())], tls=context, users=users) as first:
        async with Upstream(tls=context, users=users) as second:
            timeouts = replace(PATIENT, patience=0.2)
            sent = await send(timeouts, at(first.port), at(second.port, backup=True), endpoint=endpoint)
        await first.quiet()
    assert sent.candidate == at(second.port, backup=True)
    assert failures(sent) == [(at(first.port), stage, "no answer within 0.2 s")]


async def test_the_last_that_is_left_has_its_whole_time(refused: int) -> None:
    async with Upstream([on("EHLO", Wait(0.2)), on("MAIL", Wait(0.2))]) as last:
        sent = await send(replace(PATIENT, patience=0.05), at(refused), at(last.port))
    assert (sent.candidate, sent.dialogue.answers) == (at(last.port), TAKEN)


async def test_a_kept_connection_that_is_silent_makes_way_to_a_new_one() -> None:
    pool = Pool("relay.test", World(), replace(PATIENT, patience=0.1))
    async with Upstream([on("MAIL", "250 2.1.0 Ok", times=1), on("MAIL", Mute(), times=1)]) as only:
        for _ in range(2):
            assert (await pool.send(PLAIN, [at(only.port)], MAIL, CONTENT, 0.0)).dialogue.answers == TAKEN
        assert [received.connection for received in only.received] == [1, 2]
        await pool.close()


async def test_the_plain_text_after_tls_that_failed_belongs_to_the_same_candidate() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    async with Upstream([on("STARTTLS", "454 4.7.0 No")], tls=context) as first, Upstream() as second:
        endpoint = replace(PLAIN, tls=EndpointTls.PREFER)
        sent = await send(PATIENT, at(first.port), at(second.port), endpoint=endpoint)
        assert (first.connections, second.connections) == (2, 0)
    assert (sent.candidate, sent.unreached) == (at(first.port), ())
    assert sent.dialogue.downgrade == "STARTTLS was refused (454 4.7.0 No)"


async def test_when_nobody_is_reached_everybody_is_named(refused: int, dead: int) -> None:
    timeouts = replace(PATIENT, next_server=0.0, next_greeting=0.0, connect=0.3, greeting=0.3)
    async with Upstream([on("CONNECT", "554 5.7.1 Go away")]) as rude, Upstream([SILENT]) as silent:
        candidates = at(dead), at(refused), at(rude.port), at(silent.port)
        with pytest.raises(NobodyReached) as raised:
            await send(timeouts, *candidates)
        await rude.quiet()
        await silent.quiet()
    assert sorted(failures(raised.value), key=lambda each: candidates.index(each[0])) == [
        (at(dead), Stage.CONNECT, "no connection within 0.3 s"),
        (at(refused), Stage.CONNECT, "connection refused"),
        (at(rude.port), Stage.GREETING, "554 5.7.1 Go away"),
        (at(silent.port), Stage.GREETING, "no answer within 0.3 s"),
    ]
    assert f"mx.test (static, 127.0.0.1:{refused}) connect: connection refused" in str(raised.value)


async def test_no_more_than_so_many_are_raced_at_once(dead: int) -> None:
    candidates = [at(dead, f"{number}.test") for number in range(ABREAST + 5)]
    race = Race(runners(*candidates), replace(PATIENT, next_server=0.0, connect=LONG))
    async with asyncio.TaskGroup() as group:
        racing = group.create_task(race.winner())
        while len(race.started) < ABREAST:
            await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(race.started) == ABREAST
        racing.cancel()


async def test_who_gives_up_in_mid_race_leaves_no_socket_and_no_place_behind() -> None:
    endpoint = replace(PLAIN, max_connections=1)
    pool = Pool("relay.test", World(), replace(PATIENT, next_greeting=0.0))
    async with Upstream([SILENT]) as first, Upstream([SILENT]) as second, Upstream() as third:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(pool.send(endpoint, [at(first.port), at(second.port)], MAIL, CONTENT, 0.0))
            await first.connected()
            await second.connected()
            sending.cancel()
        await first.quiet()
        await second.quiet()
        assert (await pool.send(endpoint, [at(third.port)], MAIL, CONTENT, 0.0)).dialogue.answers == TAKEN
        await pool.close()


async def test_a_kept_connection_that_died_makes_way_to_the_next_server() -> None:
    pool = Pool("relay.test", World(), PATIENT)
    script = [on("CONNECT", "220 Hello", times=1), on("CONNECT", "554 5.7.1 Not again")]
    script += [on("MAIL", "250 2.1.0 Ok", times=1), on("MAIL", Drop())]
    async with Upstream(script) as first, Upstream() as second:
        candidates = at(first.port), at(second.port)
        await pool.send(PLAIN, candidates, MAIL, CONTENT, 0.0)
        sent = await pool.send(PLAIN, candidates, MAIL, CONTENT, 0.0)
        assert sent.candidate == at(second.port)
        await pool.close()
    ((who, why),) = sent.unreached
    assert (who, why.answer) == (at(first.port), Answer(Stage.GREETING, Reply(554, "5.7.1", "Not again")))
    assert why.transcript[0].text == "connection reused (transaction 2)"


# Addresses that vanish


async def test_an_idle_connection_to_a_vanished_address_is_closed_and_no_other() -> None:
    clock = SystemClock()
    pool = Pool("relay.test", World(clock))
    other = replace(PLAIN, name="elsewhere")
    async with Upstream() as upstream, asyncio.TaskGroup() as group:
        running = group.create_task(pool.run())
        candidate = at(upstream.port)
        await pool.send(PLAIN, [candidate], MAIL, CONTENT, 0.0)
        await pool.send(other, [candidate], MAIL, CONTENT, 0.0)
        pool.vanished("there", candidate.server, frozenset({"127.0.0.9"}))
        pool.vanished("there", Server("b.test", upstream.port), frozenset({candidate.ip}))
        pool.vanished("there", candidate.server, frozenset({candidate.ip, "127.0.0.9"}))
        session = await upstream.heard("QUIT")
        assert session.number == 1
        await pool.send(other, [candidate], MAIL, CONTENT, 0.0)
        await pool.send(PLAIN, [candidate], MAIL, CONTENT, clock.monotonic())
        assert [received.connection for received in upstream.received] == [1, 2, 2, 3]
        running.cancel()
    await pool.close()


async def test_a_busy_connection_to_a_vanished_address_is_closed_after_its_message() -> None:
    go = asyncio.Event()
    pool = Pool("relay.test", World())
    async with Upstream([on("CONTENT", Wait(go))]) as upstream:
        candidate = at(upstream.port)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(pool.send(PLAIN, [candidate], MAIL, CONTENT, 0.0))
            await upstream.wait(1)
            pool.vanished("there", candidate.server, frozenset({candidate.ip}))
            go.set()
        assert sending.result().dialogue.answers == TAKEN
        await pool.close()
        await upstream.quiet()
        assert upstream.sessions[0].commands()[-1] == "QUIT"


async def test_who_waits_for_a_place_or_a_greeting_does_not_go_to_a_vanished_address() -> None:
    go = asyncio.Event()
    endpoint = replace(PLAIN, max_connections=1)
    pool = Pool("relay.test", World(), PATIENT)
    async with Upstream([on("CONNECT", Wait(go))]) as old, Upstream() as new:
        async with asyncio.TaskGroup() as group:
            candidates = at(old.port), at(new.port)
            sending = [group.create_task(pool.send(endpoint, candidates, MAIL, CONTENT, 0.0)) for _ in range(2)]
            await old.connected()
            pool.vanished("there", candidates[0].server, frozenset({candidates[0].ip}))
            go.set()
        assert (old.connections, old.received, len(new.received)) == (1, [], 2)
        await old.quiet()
        await pool.close()
    for task in sending:
        assert failures(task.result()) == [(candidates[0], Stage.RESOLVE, "it is no longer an address of the server")]


async def test_what_vanished_after_the_choice_is_left_out_until_there_is_another_choice() -> None:
    clock = TurnedClock()
    pool = Pool("relay.test", World(clock))
    async with Upstream() as old, Upstream() as new:
        candidates = at(old.port), at(new.port)
        before = clock.monotonic()
        await clock.advance(1)
        pool.vanished("there", candidates[0].server, frozenset({candidates[0].ip}))
        sent = await pool.send(PLAIN, candidates, MAIL, CONTENT, before)
        assert (sent.candidate, old.connections) == (candidates[1], 0)
        await clock.advance(1)
        sent = await pool.send(PLAIN, candidates, MAIL, CONTENT, clock.monotonic())
        assert sent.candidate == candidates[0]
        await pool.close()


# The rate


async def test_messages_have_their_turn_one_space_apart() -> None:
    clock = TurnedClock()
    pool = Pool("relay.test", World(clock))
    endpoint = replace(PLAIN, rate=0.25)
    went: list[tuple[int, float]] = []
    begun = clock.now()

    async def message(number: int) -> None:
        await pool.turn(endpoint)
        went.append((number, clock.now() - begun))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(message(number)) for number in range(4)]
        await clock.asleep()
        tasks[1].cancel()  # who gives up takes nobody's turn
        for _ in range(8):
            await clock.asleep()
            await clock.advance(1)
        assert went == [(0, 0), (2, 4), (3, 8)]
    await pool.turn(replace(PLAIN, name="elsewhere", rate=0.25))
    await pool.turn(PLAIN)


async def test_a_reload_that_changes_the_rate_holds_for_who_waits_already() -> None:
    clock = TurnedClock()
    pool = Pool("relay.test", World(clock))
    slow, fast = replace(PLAIN, rate=0.001), replace(PLAIN, rate=0.5)
    pool.prepare([slow])
    await pool.turn(slow)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(pool.turn(slow))
        await clock.asleep()
        await clock.advance(5)
        assert not waiting.done()
        pool.prepare([fast])
        await clock.advance(1)
    begun = clock.now()
    pool.prepare([PLAIN])
    await pool.turn(fast)
    assert clock.now() == begun
