"""An endpoint's address changes while mail is pouring in: nothing is lost, and the old address gets nothing more."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from smtproute.app import Relay
from smtproute.core.event import Event, Happening
from smtproute.testing.clock import TurnedClock
from smtproute.testing.upstream import Upstream, Wait, on
from smtproute.world import World
from tests.e2e.conftest import Lab

OLD, NEW = "127.0.0.2", "127.0.0.3"
CLIENTS = 6
CONNECTIONS = 4
BEFORE = 100
"""Messages that the old server has when the name changes."""
AFTER = 20
"""Messages that each client hands in once the change is known."""
MOST = 500
"""Messages that a client hands in at most."""


async def pour(lab: Lab, relay: Relay, client: int, queued: list[str]) -> None:
    """One client's messages, one after the other, each to a recipient of its own."""
    after = 0
    for number in range(MOST):
        known = bool(lab.journal.of(Happening.RESOLVED))
        queued.append(await lab.accepted(relay, f"{client}-{number}@far.example"))
        after += known
        if after == AFTER:
            return
    raise AssertionError("the change was not noticed")


@pytest.mark.parametrize("stopped", [False, True], ids=["the old server goes on", "the old server stops"])
async def test_under_load(lab: Lab, stopped: bool) -> None:
    lab.resolver = 'watch = "1s"'
    async with AsyncExitStack() as stack:
        # It takes its time to answer EHLO: when the name changes, connections to it are being opened.
        old = await stack.enter_async_context(Upstream([on("EHLO", Wait(0.02))], host=OLD))
        new = await lab.upstream("far.internal", ip=NEW, port=old.port)
        lab.zone.set("far.internal", "A", [OLD])
        keys = f"max_connections = {CONNECTIONS}\nmax_messages = 2"
        relay = await lab.application(f"far.internal:{old.port}", keys=keys, more='[queue]\nretry = ["1s"]')
        queued: list[str] = []
        async with asyncio.TaskGroup() as clients:
            for client in range(CLIENTS):
                clients.create_task(pour(lab, relay, client, queued))
            await old.wait(BEFORE)
            assert new.received == []
            lab.zone.set("far.internal", "A", [NEW])
            if stopped:
                await stack.aclose()
        for message in queued:
            await lab.journal.finished(message, 1)
        (changed,) = lab.journal.of(Happening.RESOLVED)
        assert (changed.facts["appeared"], changed.facts["vanished"]) == ([NEW], [OLD])
        await old.quiet()

    copies = Counter(recipient for far in (old, new) for each in far.received for recipient in each.recipients)
    assert len(copies) == len(queued) >= BEFORE + CLIENTS * AFTER
    # Of a server that stops after the dot nobody knows whether it has taken the message: then it is sent again.
    assert {recipient for recipient, count in copies.items() if count > 1} <= ambiguous(lab)
    assert lab.journal.of(Happening.FAILED) == []

    late = [line for line in said_to(lab, OLD) if line[0] > changed.at]
    assert [text for _, text in late if text.startswith("MAIL ")] == []
    assert sum(text.startswith("connected to ") for _, text in late) <= CONNECTIONS  # those under way at that moment
    assert len(new.received) >= CLIENTS * AFTER


async def test_a_message_under_way_does_not_go_on_to_an_address_that_vanished_meanwhile(lab: Lab) -> None:
    clock, gate = TurnedClock(1_800_000_000.0), asyncio.Event()
    lab.world = World(clock=clock)
    lab.resolver = 'watch = "5s"'
    first = await lab.upstream("a.internal", [on("DATA", Wait(gate), "451 4.7.1 Not now")])
    old = await lab.upstream("b.internal", ip=OLD)
    relay = await lab.application(f"a.internal:{first.port}", f"b.internal:{old.port}", more='[queue]\nretry = ["1m"]')
    message = await lab.accepted(relay, "x@far.example")
    await first.heard("DATA")
    new = await lab.upstream("b.internal", ip=NEW, port=old.port)
    await clock.advance(5)
    await lab.journal.seen(Happening.RESOLVED)
    await clock.advance(1)
    gate.set()
    (deferred,) = await lab.journal.seen(Happening.DEFERRED, message)
    assert f"b.internal (dns, {OLD}:{old.port}) it is no longer an address of the server" in deferred.facts["detail"]
    await clock.advance(60)
    await lab.journal.finished(message, 1)
    assert (old.connections, len(new.received), lab.journal.of(Happening.RESTING)) == (0, 1, [])


def ambiguous(lab: Lab) -> set[str]:
    """The recipients of whom nobody knows whether a server has taken their message."""
    deferred = lab.journal.of(Happening.DEFERRED)
    return {event.facts["address"] for event in deferred if "ambiguous" in event.facts["detail"]}


def said_to(lab: Lab, ip: str) -> list[tuple[float, str]]:
    """What went to this address and what was noted of it, with its time."""
    attempts: list[Event] = [each for each in lab.journal.of(Happening.ATTEMPT) if each.facts["ip"] == ip]
    lines = [line for each in attempts for line in each.facts["transcript"]]
    return [(at, text) for arrow, at, text in lines if arrow in ("->", "==")]
