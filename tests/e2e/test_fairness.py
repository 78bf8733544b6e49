"""One slow server, and one sender with much mail, hold back nobody else's."""

from __future__ import annotations

import asyncio

import pytest

from smtproute.core.event import Happening
from smtproute.delivery import lanes
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


async def test_a_slow_server_does_not_hold_back_another_endpoints_mail(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where more is due for it than one lane may claim, before a restart and after it."""
    monkeypatch.setattr(lanes, "_LANE", 5)
    gate = asyncio.Event()
    slow, quick = (
        await lab.upstream("mx.slow.example", [on("CONNECT", Wait(gate))]),
        await lab.upstream("mx.quick.example"),
    )
    file = lab.config(TWO.format(slow=slow.port, quick=quick.port))
    async with lab.relay(file) as relay:
        for n in range(20):
            await lab.accepted(relay, f"x{n}@slow.example", sender=f"x@d{n % 7}.example")
        await lab.delivered(relay, "before@quick.example")
        assert slow.received == []
        gate.set()
        await slow.wait(20)
    assert len(quick.received) == 1


async def test_the_letter_of_a_person_passes_a_newsletter(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which only a part has been claimed."""
    monkeypatch.setattr(lanes, "_SENDER", 4)
    gate = asyncio.Event()
    far = await lab.upstream("mx.slow.example", [on("CONTENT", Wait(gate), times=1)])
    relay = await lab.started(TWO.format(slow=far.port, quick=1))
    for n in range(40):
        await lab.accepted(relay, f"x{n}@slow.example", sender="news@bulk.example")
    await far.heard("DATA")
    await lab.accepted(relay, "a@slow.example", sender="me@person.example")
    await lab.accepted(relay, "b@slow.example", sender=None)
    gate.set()
    senders = [received.reverse_path for received in await far.wait(42)]
    in_flight, turn = 1, 1
    assert senders.index("me@person.example") <= in_flight + turn
    assert senders.index("") <= in_flight + turn + 1


async def test_a_newsletter_of_yesterday_is_passed_after_a_restart(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is claimed from the disk then, the longest due first."""
    monkeypatch.setattr(lanes, "_SENDER", 4)
    monkeypatch.setattr("smtproute.delivery.dispatcher.CLAIM", 5)
    gate = asyncio.Event()
    script = [on("CONTENT", "451 4.3.0 Not now", times=31), on("CONTENT", Wait(gate), times=1)]
    far = await lab.upstream("mx.slow.example", script)
    file = lab.config(TWO.format(slow=far.port, quick=1) + '[queue]\nretry = ["1h"]\n')
    async with lab.relay(file) as relay:
        for n in range(30):
            await lab.accepted(relay, f"x{n}@slow.example", sender="news@bulk.example")
        await lab.accepted(relay, "a@slow.example", sender="me@person.example")
        await lab.journal.seen(Happening.DEFERRED, times=31)
    async with lab.relay(file) as relay:
        await relay.spool.change(Change.RETRY, None, lab.world.clock.now())
        gate.set()
        senders = [received.reverse_path for received in await far.wait(31)]
        assert senders.index("me@person.example") < 10
        await lab.journal.seen(Happening.DELIVERED, times=31)
        page = await relay.spool.read(unfinished=False)
        assert {entry.state for entry in page.entries} == {State.DELIVERED}
