"""What happens to mail while it waits for its turn, for a probe or for a connection: a reload, or an operator."""

from __future__ import annotations

import asyncio

from smtproute.app import Relay
from smtproute.core.event import Happening
from smtproute.spool.queue import Change, State
from smtproute.testing.upstream import Received, Wait, on
from tests.e2e.authority import ca_file, certified
from tests.e2e.conftest import Lab

BUSY = "421 4.3.2 Busy"
SPACE = 3.0
"""Seconds between two messages at 20/m."""


async def burst(lab: Lab, relay: Relay, messages: int) -> list[str]:
    """Hands in so many, one after the other."""
    return [await lab.accepted(relay, f"{number}@far.example") for number in range(messages)]


async def reload(lab: Lab, relay: Relay, old: str, new: str) -> None:
    """With this in the configuration in place of that."""
    file = lab.folder / "smtproute.toml"
    before = file.read_text()
    assert old in before
    file.write_text(before.replace(old, new))
    await relay.reload()
    assert lab.journal.of(Happening.RELOADED)


async def test_who_waits_for_a_turn_goes_to_the_servers_of_a_reload(lab: Lab) -> None:
    clock = lab.turned()
    old, new = await lab.upstream("old.far.example"), await lab.upstream("new.far.example")
    relay = await lab.application(f"old.far.example:{old.port}", keys='rate = "20/m"')
    messages = await burst(lab, relay, 4)
    await lab.journal.seen(Happening.DELIVERED)
    await reload(lab, relay, f"old.far.example:{old.port}", f"new.far.example:{new.port}")
    for number in range(2, 5):
        await clock.advance(SPACE)
        await lab.journal.seen(Happening.DELIVERED, times=number)
    for message in messages:
        await lab.journal.finished(message, 1)
    assert (len(old.received), len(new.received)) == (1, 3)


async def test_who_waits_for_a_turn_goes_by_the_tls_of_a_reload(lab: Lab) -> None:
    clock = lab.turned()
    far = await lab.upstream("a.far.example", tls=certified("a.far.example"))
    relay = await lab.application(f"a.far.example:{far.port}", keys='rate = "20/m"\ntls = "never"')
    await burst(lab, relay, 4)
    await lab.journal.seen(Happening.DELIVERED)
    await reload(lab, relay, 'tls = "never"', f'tls = "require"\nca_file = "{ca_file(lab.folder)}"')
    for number in range(2, 5):
        await clock.advance(SPACE)
        await lab.journal.seen(Happening.DELIVERED, times=number)
    assert [bool(each.tls) for each in far.received] == [False, True, True, True]


async def test_who_waits_for_a_probe_goes_to_the_servers_of_a_reload(lab: Lab) -> None:
    clock, gate = lab.turned(), asyncio.Event()
    old = await lab.upstream("old.far.example", [on("CONNECT", BUSY, times=1), on("EHLO", Wait(gate), times=1)])
    new = await lab.upstream("new.far.example")
    relay = await lab.application(f"old.far.example:{old.port}", more='[queue]\nretry = ["1h"]')
    await lab.deferred(relay, "0@far.example")
    await clock.advance(1)
    probe = await lab.accepted(relay, "probe@far.example")
    await old.heard("EHLO mail.example.org")
    waiting = await lab.accepted(relay, "waiting@far.example")
    await reload(lab, relay, f"old.far.example:{old.port}", f"new.far.example:{new.port}")
    gate.set()
    await lab.journal.finished(waiting, 1)
    await lab.journal.finished(probe, 1)
    assert [each.recipients for each in new.received] == [("waiting@far.example",)]


async def test_what_is_removed_or_held_while_it_waits_for_its_turn_does_not_go(lab: Lab) -> None:
    clock = lab.turned()
    far = await lab.upstream("a.far.example")
    relay = await lab.application(f"a.far.example:{far.port}", keys='rate = "20/m"')
    messages = await burst(lab, relay, 3)
    (first,) = await lab.journal.seen(Happening.DELIVERED)
    removed, held = [each for each in messages if each != first.message]
    last = await lab.accepted(relay, "last@far.example")
    await relay.spool.change(Change.REMOVE, [removed], clock.now())
    await relay.spool.change(Change.HOLD, [held], clock.now())
    while not lab.journal.of(Happening.DELIVERED, last):
        await clock.asleep()
        await clock.advance(1)
    assert [each.recipients for each in far.received][1:] == [("last@far.example",)]
    assert [each.state for each in await relay.spool.entries(held)] == [State.HELD]


async def test_what_is_removed_while_it_waits_for_a_probe_does_not_go(lab: Lab) -> None:
    clock, gate = lab.turned(), asyncio.Event()
    far = await lab.upstream("a.far.example", [on("CONNECT", BUSY, times=1), on("EHLO", Wait(gate), times=1)])
    relay = await lab.application(f"a.far.example:{far.port}", more='[queue]\nretry = ["1h"]')
    await lab.deferred(relay, "0@far.example")
    await clock.advance(1)
    probe = await lab.accepted(relay, "probe@far.example")
    await far.heard("EHLO mail.example.org")
    removed = await lab.accepted(relay, "removed@far.example")
    for _ in range(1000):  # until it waits for the probe
        await asyncio.sleep(0)
    await relay.spool.change(Change.REMOVE, [removed], clock.now())
    gate.set()
    await lab.journal.finished(probe, 1)
    await lab.delivered(relay, "last@far.example")
    assert [each.recipients for each in far.received] == [("probe@far.example",), ("last@far.example",)]


async def test_a_probe_whose_message_takes_long_holds_nobody_up(lab: Lab) -> None:
    clock, gate = lab.turned(), asyncio.Event()
    far = await lab.upstream("a.far.example", [on("CONNECT", BUSY, times=1), on("CONTENT", Wait(gate), times=1)])
    relay = await lab.application(f"a.far.example:{far.port}", more='[queue]\nretry = ["1h"]')
    await lab.deferred(relay, "0@far.example")
    await clock.advance(1)
    probe = await lab.accepted(relay, "probe@far.example")
    for number in range(5):
        await lab.delivered(relay, f"{number}@far.example")
    assert lab.journal.of(Happening.DELIVERED, probe) == []
    gate.set()
    await lab.journal.finished(probe, 1)
    assert len(lab.journal.of(Happening.RECOVERED)) == 1


async def test_a_reload_that_allows_more_connections_holds_for_what_waits(lab: Lab) -> None:
    gate, busy, most = asyncio.Event(), set[int](), 0

    async def taken(received: Received) -> None:
        nonlocal most
        busy.add(received.connection)
        most = max(most, len(busy))
        await gate.wait()
        busy.remove(received.connection)

    far = await lab.upstream("a.far.example", on_message=taken)
    relay = await lab.application(f"a.far.example:{far.port}", keys="max_connections = 1")
    messages = await burst(lab, relay, 8)
    await far.wait(1)
    await reload(lab, relay, "max_connections = 1", "max_connections = 4")
    await far.wait(4)
    gate.set()
    for message in messages:
        await lab.journal.finished(message, 1)
    assert most == 4
