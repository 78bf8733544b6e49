"""One slow server, and one sender with much mail, hold back nobody else's: with more of it than may be claimed."""

from __future__ import annotations

import asyncio

from smtproute.core.event import Happening
from smtproute.spool.queue import Change, State
from smtproute.testing.upstream import Wait, on
from tests.e2e.conftest import Lab

TWO = """
    [listener.app]
    bind = "127.0.0.1:0"
    [endpoint.slow]
    servers = ["mx.slow.example:{slow}"]
    max_connections = 1
    [endpoint.quick]
    servers = ["mx.quick.example:{quick}"]
    [[route]]
    match = "*@slow.example"
    endpoint = "slow"
    [[route]]
    match = "*@quick.example"
    endpoint = "quick"
"""
BULK = "news@bulk.example"
PERSON = "me@person.example"


def recipients(count: int) -> list[str]:
    """Each is a delivery of its own, and they are claimed by deliveries."""
    return [f"x{number}@slow.example" for number in range(count)]


async def test_a_slow_server_holds_back_its_own_mail_only(lab: Lab) -> None:
    """2400 deliveries, of which one lane may claim 2000."""
    gate = asyncio.Event()
    slow = await lab.upstream("mx.slow.example", [on("CONNECT", Wait(gate))])
    quick = await lab.upstream("mx.quick.example")
    relay = await lab.started(TWO.format(slow=slow.port, quick=quick.port))
    waiting = [await lab.accepted(relay, *recipients(400), sender=f"x@d{n}.example") for n in range(6)]
    for number in range(5):
        await lab.delivered(relay, f"{number}@quick.example")
    assert (len(quick.received), slow.received) == (5, [])
    gate.set()
    for message in waiting:
        await lab.journal.finished(message, 400)


async def test_the_slow_servers_own_recipients_do_not_delay_the_others_of_the_same_message(lab: Lab) -> None:
    gate = asyncio.Event()
    slow = await lab.upstream("mx.slow.example", [on("MAIL", Wait(gate))])
    quick = await lab.upstream("mx.quick.example")
    relay = await lab.started(TWO.format(slow=slow.port, quick=quick.port))
    message = await lab.accepted(relay, "x@slow.example", "x@quick.example")
    (event,) = await lab.ended(message)
    assert (event.facts["address"], len(quick.received), slow.received) == ("x@quick.example", 1, [])
    gate.set()
    await lab.journal.finished(message, 2)


async def test_the_letter_of_a_person_passes_a_newsletter(lab: Lab) -> None:
    """Of whose 2400 deliveries 500 have been claimed: a lane that it filled would take no other sender's."""
    gate = asyncio.Event()
    far = await lab.upstream("mx.slow.example", [on("CONTENT", Wait(gate), times=1)])
    relay = await lab.started(TWO.format(slow=far.port, quick=1))
    for _ in range(40):
        await lab.accepted(relay, *recipients(60), sender=BULK)
    await far.heard("DATA")
    await lab.accepted(relay, "a@slow.example", sender=PERSON)
    await lab.accepted(relay, "b@slow.example", sender=None)
    gate.set()
    senders = [received.reverse_path for received in await far.wait(42)]
    assert senders.index(PERSON) < 10 and senders.index("") < 10


async def test_a_newsletter_of_yesterday_is_passed_after_a_restart(lab: Lab) -> None:
    """Everything is claimed from the disk then, the longest due first."""
    gate = asyncio.Event()
    script = [on("CONTENT", "451 4.3.0 Not now", times=41), on("CONTENT", Wait(gate), times=1)]
    far = await lab.upstream("mx.slow.example", script)
    file = lab.config(TWO.format(slow=far.port, quick=1) + '[queue]\nretry = ["1h"]\n')
    async with lab.relay(file) as relay:
        for _ in range(40):
            await lab.accepted(relay, *recipients(60), sender=BULK)
        await lab.accepted(relay, "a@slow.example", sender=PERSON)
        await lab.journal.seen(Happening.DEFERRED, times=2401)
    async with lab.relay(file) as relay:
        await relay.spool.change(Change.RETRY, None, lab.world.clock.now())
        gate.set()
        senders = [received.reverse_path for received in await far.wait(41)]
        assert senders.index(PERSON) < 15
        await lab.journal.seen(Happening.DELIVERED, times=2401)
        page = await relay.spool.read(unfinished=False, limit=3000)
        assert {entry.state for entry in page.entries} == {State.DELIVERED}
