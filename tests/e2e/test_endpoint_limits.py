"""How mail is spread over servers and connections, and how fast it goes."""

from __future__ import annotations

import asyncio

import pytest

from smtproute.app import Relay
from smtproute.core.event import Happening
from smtproute.testing.upstream import Received, Upstream, on
from tests.e2e.conftest import Lab


async def burst(lab: Lab, relay: Relay, messages: int, sender: str = "friend@else.example") -> list[str]:
    """Hands in so many at once."""
    sent = [lab.accepted(relay, f"{number}@far.example", sender=sender) for number in range(messages)]
    return list(await asyncio.gather(*sent))


async def all_delivered(lab: Lab, messages: list[str]) -> None:
    for message in messages:
        await lab.journal.finished(message, 1)


# Balance


async def addresses(lab: Lab, **hosts: int) -> tuple[dict[str, Upstream], int]:
    """Names with so many addresses each, all with an upstream on the same port."""
    made: dict[str, Upstream] = {}
    port = 0
    for host, count in hosts.items():
        ips = [f"127.0.0.{len(made) + number + 2}" for number in range(count)]
        for ip in ips:
            made[ip] = await lab.upstream(f"{host}.far.example", ip=ip, port=port)
            port = made[ip].port
        lab.zone.set(f"{host}.far.example", "A", ips)
    return made, port


@pytest.mark.parametrize("at_once", [False, True])
async def test_round_robin_gives_every_address_the_same(lab: Lab, at_once: bool) -> None:
    made, port = await addresses(lab, a=2, b=2)
    relay = await lab.application(f"a.far.example:{port}", f"b.far.example:{port}", keys='balance = "round-robin"')
    if at_once:
        await all_delivered(lab, await burst(lab, relay, 40))
    else:
        for number in range(40):
            await lab.delivered(relay, f"{number}@far.example")
    assert [len(each.received) for each in made.values()] == [10, 10, 10, 10]


async def test_round_robin_gives_every_server_the_same_however_many_addresses_it_has(lab: Lab) -> None:
    made, port = await addresses(lab, a=2, b=1)
    relay = await lab.application(f"a.far.example:{port}", f"b.far.example:{port}", keys='balance = "round-robin"')
    for number in range(12):
        await lab.delivered(relay, f"{number}@far.example")
    assert [len(each.received) for each in made.values()] == [3, 3, 6]


async def test_failover_stays_with_the_first_address(lab: Lab) -> None:
    made, port = await addresses(lab, a=2, b=2)
    relay = await lab.application(f"a.far.example:{port}", f"b.far.example:{port}")
    for number in range(8):
        await lab.delivered(relay, f"{number}@far.example")
    assert [len(each.received) for each in made.values()] == [8, 0, 0, 0]


async def test_round_robin_gives_the_share_of_one_that_fails_to_the_others(lab: Lab) -> None:
    lab.turned()  # so that it rests
    bad = await lab.upstream("a.far.example", [on("CONNECT", "421 4.3.2 Busy")])
    good = [await lab.upstream(f"{name}.far.example") for name in "bc"]
    servers = [f"{name}.far.example:{each.port}" for name, each in zip("abc", (bad, *good), strict=True)]
    relay = await lab.application(*servers, keys='balance = "round-robin"')
    for number in range(13):
        await lab.delivered(relay, f"{number}@far.example")
    assert (bad.connections, sorted(len(each.received) for each in good)) == (1, [6, 7])


# Connections


async def test_one_connection_carries_message_after_message(lab: Lab) -> None:
    far = await lab.upstream("a.far.example")
    relay = await lab.application(f"a.far.example:{far.port}")
    for number in range(5):
        await lab.delivered(relay, f"{number}@far.example")
    assert [each.connection for each in far.received] == [1] * 5
    attempts = lab.journal.of(Happening.ATTEMPT)
    assert [str(each.facts["transcript"]).count("connection reused") for each in attempts] == [0, 1, 1, 1, 1]


async def test_after_max_messages_comes_a_new_connection(lab: Lab) -> None:
    far = await lab.upstream("a.far.example")
    relay = await lab.application(f"a.far.example:{far.port}", keys="max_messages = 2")
    for number in range(5):
        await lab.delivered(relay, f"{number}@far.example")
    assert [each.connection for each in far.received] == [1, 1, 2, 2, 3]
    assert [session.commands()[-1] for session in far.sessions[:2]] == ["QUIT", "QUIT"]


async def test_an_idle_connection_is_parted_from(lab: Lab) -> None:
    clock = lab.turned()
    far = await lab.upstream("a.far.example")
    relay = await lab.application(f"a.far.example:{far.port}")
    await lab.delivered(relay, "1@far.example")
    await clock.advance(60)
    await far.quiet()
    assert far.sessions[0].commands()[-1] == "QUIT"
    await lab.delivered(relay, "2@far.example")
    assert far.connections == 2


async def test_no_more_than_max_connections_at_once(lab: Lab) -> None:
    full, gate = asyncio.Event(), asyncio.Event()
    busy: list[int] = []

    async def taken(received: Received) -> None:
        busy.append(received.connection)
        if len(busy) == 3:
            full.set()
        await gate.wait()

    far = await lab.upstream("a.far.example", on_message=taken)
    relay = await lab.application(f"a.far.example:{far.port}", keys="max_connections = 3")
    messages = await burst(lab, relay, 12)
    await full.wait()
    gate.set()
    await all_delivered(lab, messages)
    assert (sorted(busy[:3]), far.connections) == ([1, 2, 3], 3)


async def test_no_more_messages_a_second_than_rate(lab: Lab) -> None:
    clock = lab.turned()
    far = await lab.upstream("a.far.example")
    relay = await lab.application(f"a.far.example:{far.port}", keys='rate = "2/s"')
    messages = await burst(lab, relay, 6)
    for number in range(1, 7):
        await lab.journal.seen(Happening.ATTEMPT, times=number)
        assert len(far.received) == number
        await clock.advance(0.5)
    await all_delivered(lab, messages)
    began = [event.at for event in lab.journal.of(Happening.ATTEMPT)]
    assert [at - began[0] for at in began] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
