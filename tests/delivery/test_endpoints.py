"""Endpoints: what is looked up, what is passed over, who probes, and what is remembered for how long."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from smtproute.core.address import Domain
from smtproute.core.choice import Candidate, Choice
from smtproute.core.event import Event, Happening
from smtproute.core.settings import Balance, Discover, Endpoint, Family, Server
from smtproute.core.settings import Resolver as ResolverSettings
from smtproute.delivery.endpoint import Endpoints
from smtproute.delivery.health import FORGOTTEN
from smtproute.resolve.resolver import Resolver
from smtproute.testing.clock import TurnedClock
from smtproute.testing.network import StagedNetwork
from smtproute.testing.zone import Fault, Zone
from smtproute.world import SystemNetwork, World

HERE = Domain.parse("mail.example.org")
FAR = Domain.parse("far.example")
PAIR = Endpoint("pair", (Server("a.internal"), Server("b.internal")), (Server("s.internal"),))
ONE = Endpoint("one", (Server("a.internal"),))


class Bench:
    """Endpoints over a zone, with a clock to turn, and the events that they emit."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.clock = TurnedClock()
        self.events: list[Event] = []
        network = StagedNetwork()
        world = World(self.clock, network=network)
        self.unroutable = network.unroutable
        resolver = Resolver(ResolverSettings(servers=(zone.address,)), world)
        self.endpoints = Endpoints(lambda: resolver, HERE, world, self.events.append)

    async def look(self, endpoint: Endpoint, domain: Domain = FAR) -> Choice:
        return await self.endpoints.candidates(endpoint, domain)

    async def take(self, endpoint: Endpoint, domain: Domain = FAR) -> Choice:
        """What a message is given that waits for the probe of another once, and then goes nowhere."""
        async with self.endpoints.chosen(endpoint, domain) as choice:
            if choice.candidates or not choice.awaited:
                return choice
        await self.endpoints.probe_ended(endpoint)
        async with self.endpoints.chosen(endpoint, domain) as choice:
            return choice

    async def fail(self, endpoint: Endpoint, *hosts: str, why: str = "connection refused") -> None:
        for candidate in await self.named(endpoint, *hosts):
            self.endpoints.failed(endpoint, candidate, why)

    async def answer(self, endpoint: Endpoint, *hosts: str) -> None:
        for candidate in await self.named(endpoint, *hosts):
            self.endpoints.answered(endpoint, candidate)

    async def named(self, endpoint: Endpoint, *hosts: str) -> list[Candidate]:
        choice = await self.look(endpoint)
        every = [*choice.candidates, *(passed.candidate for passed in choice.passed)]
        return [each for each in every if each.server.host in hosts]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    names = {
        "a.internal": {"A": ["127.0.0.1"]},
        "b.internal": {"A": ["127.0.0.2"]},
        "s.internal": {"A": ["127.0.0.9"]},
        "both.internal": {"A": ["127.0.0.3"], "AAAA": ["::1"]},
        "six.internal": {"AAAA": ["::1"]},
    }
    async with asyncio.timeout(60), Zone(names, ttl=100_000) as zone:
        yield Bench(zone)


def hosts(choice: Choice) -> list[str]:
    return [each.server.host for each in choice.candidates]


def ips(choice: Choice) -> list[str]:
    return [each.ip for each in choice.candidates]


async def test_an_address_without_a_route_is_skipped(bench: Bench) -> None:
    bench.unroutable |= {"::1"}
    choice = await bench.look(Endpoint("both", (Server("both.internal"),)))
    assert ips(choice) == ["127.0.0.3"]
    assert [str(each) for each in choice.passed] == ["both.internal (dns, [::1]:25) no route"]


async def test_the_only_address_is_tried_route_or_not(bench: Bench) -> None:
    bench.unroutable |= {"::1"}
    assert ips(await bench.look(Endpoint("six", (Server("six.internal"),)))) == ["::1"]


async def test_the_family_decides(bench: Bench) -> None:
    both = Endpoint("both", (Server("both.internal"),))
    assert ips(await bench.look(both)) == ["127.0.0.3", "::1"]
    assert ips(await bench.look(replace(both, family=Family.IPV4))) == ["127.0.0.3"]
    assert ips(await bench.look(replace(both, family=Family.IPV6))) == ["::1"]


@pytest.mark.peer("unshare")
def test_a_machine_without_a_network_has_no_routes() -> None:
    asked = "from smtproute.world import SystemNetwork as N; print(N().routed('192.0.2.1'), N().routed('2001:db8::1'))"
    alone = ("unshare", "-rn")
    if subprocess.run([*alone, "true"], capture_output=True, timeout=30).returncode:
        pytest.skip("no namespaces here")
    done = subprocess.run([*alone, sys.executable, "-c", asked], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False False\n", done.stderr


def test_loopback_has_a_route() -> None:
    assert SystemNetwork().routed("127.0.0.77")


async def test_a_turn_is_taken_by_who_sends_and_not_by_who_looks(bench: Bench) -> None:
    endpoint = replace(PAIR, balance=Balance.ROUND_ROBIN)
    for _ in range(3):
        assert hosts(await bench.look(endpoint))[0] == "a.internal"
    assert [hosts(await bench.take(endpoint))[0][0] for _ in range(4)] == ["a", "b", "a", "b"]


async def test_the_names_of_relays_take_turns_and_their_exchangers_do_not(bench: Bench) -> None:
    bench.zone.set("one.example", "MX", ["10 a.internal", "20 b.internal"])
    bench.zone.set("two.example", "MX", ["10 s.internal"])
    endpoint = Endpoint(
        "mx", (Server("one.example"), Server("two.example")), discover=Discover.MX, balance=Balance.ROUND_ROBIN
    )
    assert hosts(await bench.take(endpoint)) == ["a.internal", "b.internal", "s.internal"]
    assert hosts(await bench.take(endpoint)) == ["s.internal", "a.internal", "b.internal"]


@pytest.mark.parametrize("discover", [Discover.MX, Discover.RECIPIENT])
async def test_our_own_name_as_best_exchanger_is_a_loop(bench: Bench, discover: Discover) -> None:
    bench.zone.set("far.example", "MX", ["10 mail.example.org", "20 a.internal"])
    choice = await bench.look(Endpoint("mx", (Server("far.example"),), discover=discover))
    assert choice.refusal is not None
    assert (choice.refusal.reply.code, choice.refusal.reply.enhanced) == (554, "5.4.6")
    bench.zone.set("behind.example", "MX", ["5 a.internal", "10 mail.example.org", "20 b.internal"])
    endpoint = Endpoint("mx", (Server("behind.example"),), discover=discover)
    assert hosts(await bench.look(endpoint, Domain.parse("behind.example"))) == ["a.internal"]


async def test_other_mistakes_of_a_relays_name_wait_to_be_mended(bench: Bench) -> None:
    for host in ("gone.example", "null.example"):
        bench.zone.set("null.example", "MX", ["0 ."])
        choice = await bench.look(Endpoint("mx", (Server(host),), discover=Discover.MX))
        assert choice.refusal is not None and choice.refusal.temporary


async def test_a_refusal_says_what_dns_said(bench: Bench) -> None:
    bench.zone.set("null.example", "MX", ["0 ."])
    bench.zone.set("bad.example", "ANY", Fault.SERVFAIL)
    dns = bench.zone.address
    for domain, said in {
        "null.example": f"null.example has a null MX from {dns}",
        "gone.example": f"MX of gone.example: NXDOMAIN from {dns}",
        "bad.example": f"MX of bad.example: SERVFAIL from {dns}",
    }.items():
        choice = await bench.look(Endpoint("mx", (), discover=Discover.RECIPIENT), Domain.parse(domain))
        assert choice.refusal is not None and choice.refusal.detail == said


async def test_an_endpoint_that_resolves_to_nothing_has_no_candidates_and_no_refusal(bench: Bench) -> None:
    bench.zone.set("a.internal", "ANY", Fault.SERVFAIL)
    choice = await bench.look(ONE)
    assert (choice.candidates, choice.refusal) == ((), None)


# What rests


async def test_a_failure_rests_one_address_of_one_endpoint(bench: Bench) -> None:
    await bench.fail(PAIR, "a.internal")
    choice = await bench.take(PAIR)
    assert hosts(choice) == ["b.internal", "s.internal"]
    assert [str(each) for each in choice.passed] == [
        "a.internal (dns, 127.0.0.1:25) rests for 1 s more after 1 failure: connection refused"
    ]
    assert hosts(await bench.take(ONE)) == ["a.internal"]
    (event,) = bench.events
    assert event.what is Happening.RESTING and event.message == ""
    assert event.facts == {
        "endpoint": "pair",
        "server": "a.internal:25",
        "ip": "127.0.0.1",
        "seconds": 1,
        "why": "connection refused",
    }


async def test_messages_that_fail_together_fail_once(bench: Bench) -> None:
    for _ in range(10):
        await bench.fail(ONE, "a.internal")
    assert len(bench.events) == 1
    assert (await bench.look(ONE)).passed[0].why.startswith("rests for 1 s more after 1 failure")


async def test_pauses_grow_while_probes_fail_and_end_with_the_first_success(bench: Bench) -> None:
    for _ in range(8):
        async with bench.endpoints.chosen(PAIR, FAR) as choice:
            assert hosts(choice)[0] == "a.internal"
            await bench.fail(PAIR, "a.internal")
        await bench.clock.advance(bench.events[-1].facts["seconds"])
    assert [event.facts["seconds"] for event in bench.events] == [1, 2, 4, 8, 16, 32, 60, 60]
    await bench.answer(PAIR, "a.internal", "b.internal")
    assert bench.events[-1].what is Happening.RECOVERED
    assert bench.events[-1].facts == {"endpoint": "pair", "server": "a.internal:25", "ip": "127.0.0.1"}
    await bench.fail(PAIR, "a.internal")
    assert bench.events[-1].facts["seconds"] == 1


async def test_one_message_probes_in_the_usual_place_and_others_pass_over(bench: Bench) -> None:
    await bench.fail(PAIR, "a.internal")
    await bench.clock.advance(1)
    async with bench.endpoints.chosen(PAIR, FAR) as probing:
        assert hosts(probing) == ["a.internal", "b.internal", "s.internal"]
        async with bench.endpoints.chosen(PAIR, FAR) as other:
            assert hosts(other) == ["b.internal", "s.internal"]
        assert hosts(await bench.look(PAIR)) == ["b.internal", "s.internal"]
        await bench.answer(PAIR, "a.internal")
        assert hosts(await bench.take(PAIR))[0] == "a.internal"


async def test_a_backup_is_used_only_while_no_primary_answers(bench: Bench) -> None:
    await bench.fail(PAIR, "a.internal", "b.internal")
    assert hosts(await bench.take(PAIR)) == ["s.internal"]
    await bench.clock.advance(1)
    async with bench.endpoints.chosen(PAIR, FAR) as probing:
        assert hosts(probing) == ["a.internal", "b.internal", "s.internal"]
        assert hosts(await bench.take(PAIR)) == ["s.internal"]
        await bench.answer(PAIR, "b.internal")
        assert hosts(await bench.take(PAIR)) == ["b.internal", "s.internal"]


async def test_a_probe_that_came_to_nothing_is_given_back(bench: Bench) -> None:
    await bench.fail(ONE, "a.internal")
    await bench.clock.advance(1)
    taken = asyncio.Event()

    async def cancelled() -> None:
        async with bench.endpoints.chosen(ONE, FAR) as choice:
            assert hosts(choice) == ["a.internal"]
            taken.set()
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        first = group.create_task(cancelled())
        await taken.wait()
        assert (await bench.look(ONE)).passed[
            0
        ].why == "is tried by another message after 1 failure: connection refused"
        second = group.create_task(bench.take(ONE))
        await asyncio.sleep(0)
        first.cancel()
        assert hosts(await second) == ["a.internal"]
    assert hosts(await bench.take(ONE)) == ["a.internal"]


async def test_a_probe_is_not_given_back_by_who_has_it_no_more(bench: Bench) -> None:
    await bench.fail(ONE, "a.internal")
    await bench.clock.advance(1)
    async with bench.endpoints.chosen(ONE, FAR):
        await bench.fail(ONE, "a.internal")
        await bench.clock.advance(2)
        second = bench.endpoints.chosen(ONE, FAR)
        assert hosts(await second.__aenter__()) == ["a.internal"]
    assert hosts(await bench.look(ONE)) == []
    await second.__aexit__(None, None, None)
    assert hosts(await bench.look(ONE)) == ["a.internal"]


@pytest.mark.parametrize("well", [True, False])
async def test_where_nothing_else_is_left_the_others_wait_for_the_probe(bench: Bench, well: bool) -> None:
    await bench.fail(ONE, "a.internal")
    await bench.clock.advance(1)
    async with asyncio.TaskGroup() as group:
        async with bench.endpoints.chosen(ONE, FAR):
            waiting = [group.create_task(bench.take(ONE)) for _ in range(3)]
            for _ in range(20):
                await asyncio.sleep(0)
            assert not any(task.done() for task in waiting)
            await (bench.answer if well else bench.fail)(ONE, "a.internal")
        for task in waiting:
            choice = await task
            assert hosts(choice) == (["a.internal"] if well else [])
            if not well:
                assert choice.passed[0].why == "rests for 2 s more after 2 failures: connection refused"


async def test_a_choice_is_as_old_as_its_look_ups_and_not_as_the_wait_for_a_probe(bench: Bench) -> None:
    await bench.fail(ONE, "a.internal")
    await bench.clock.advance(1)
    async with asyncio.TaskGroup() as group, bench.endpoints.chosen(ONE, FAR):
        waiting = group.create_task(bench.take(ONE))
        await asyncio.sleep(0)
        await bench.clock.advance(7)
        await bench.answer(ONE, "a.internal")
        assert (await waiting).at == bench.clock.monotonic()


async def test_forgetting_wakes_who_waits_and_leaves_nothing(bench: Bench) -> None:
    await bench.fail(ONE, "a.internal")
    assert hosts(await bench.take(ONE)) == []
    await bench.clock.advance(1)
    async with asyncio.TaskGroup() as group, bench.endpoints.chosen(ONE, FAR):
        waiting = group.create_task(bench.take(ONE))
        await asyncio.sleep(0)
        bench.endpoints.forget()
        assert hosts(await waiting) == ["a.internal"]
    await bench.fail(ONE, "a.internal")
    assert bench.events[-1].facts["seconds"] == 1


async def test_what_nobody_asks_for_any_more_is_dropped(bench: Bench) -> None:
    await bench.fail(ONE, "a.internal")
    candidate = (await bench.named(ONE, "a.internal"))[0]
    await bench.clock.advance(2)
    assert (await bench.take(ONE)).probes == (candidate,)
    await bench.clock.advance(FORGOTTEN)
    assert (await bench.take(ONE)).probes == ()
