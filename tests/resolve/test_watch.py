"""The watch: each change of an endpoint's addresses is told once, and its connections are parted from."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from smtproute.core.address import Domain
from smtproute.core.event import Happening
from smtproute.core.settings import Accounts, Discover, Endpoint, Server, Settings, Source
from smtproute.core.settings import Resolver as ResolverSettings
from smtproute.resolve import Resolver
from smtproute.resolve.watch import AT_ONCE, Watch
from smtproute.testing.zone import Fault, Zone
from smtproute.world import World

GITLAB = Server("gitlab.internal", 25)


class House:
    """A watch with what it is handed; `look` waits until it has looked once more."""

    def __init__(self, clock, zone, tmp_path, **more):
        self.clock = clock
        self.zone = zone
        self.hosts = tmp_path / "hosts"
        self.world = World(clock=clock)
        resolver = ResolverSettings(servers=(zone.address,), hosts_file=str(self.hosts), watch=30.0)
        self.settings = Settings(Domain.parse("mail.example"), "", {}, {}, Accounts(""), replace(resolver, **more))
        self.resolver = Resolver(self.settings.resolver, self.world)
        self.events = []
        self.vanished = []
        self.watch = Watch(
            settings=lambda: self.settings,
            resolver=lambda: self.resolver,
            refresh=lambda: self.refresh(),
            vanished=lambda *gone: self.vanished.append(gone),
            world=self.world,
            emit=self.events.append,
        )

    async def refresh(self):
        self.resolver.refresh()

    def endpoints(self, *endpoints):
        self.settings = replace(self.settings, endpoints={each.name: each for each in endpoints})

    @asynccontextmanager
    async def running(self):
        """The watch runs, and has looked once."""
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self.watch.run())
            await self.clock.asleep()
            yield
            watching.cancel()

    async def look(self, seconds=30.0):
        await self.clock.advance(seconds)
        await self.clock.asleep()

    def told(self):
        """The facts of the events since it was asked last."""
        told, self.events[:] = [event.facts for event in self.events], []
        assert all(facts["now"] for facts in told)
        return told

    def changes(self):
        return [(facts["server"], facts["appeared"], facts["vanished"]) for facts in self.told()]


@pytest.fixture
async def house(clock, tmp_path):
    async with Zone({"gitlab.internal": {"A": ["10.0.0.1", "10.0.0.2"]}}, ttl=3600) as zone:
        made = House(clock, zone, tmp_path)
        made.endpoints(Endpoint("gitlab", (GITLAB,)))
        yield made


async def test_a_change_is_told_once_whatever_its_time_to_live(house):
    async with house.running():
        assert house.told() == []
        house.zone.set("gitlab.internal", "A", ["10.0.0.3", "10.0.0.2"])
        await house.look(29)
        assert house.told() == []
        await house.look(1)
        (event,) = house.events
        assert (event.what, event.at, event.message) == (Happening.RESOLVED, house.clock.now(), "")
        assert event.facts == {
            "endpoint": "gitlab",
            "server": "gitlab.internal:25",
            "appeared": ["10.0.0.3"],
            "vanished": ["10.0.0.1"],
            "now": "gitlab.internal = 10.0.0.3 (dns), 10.0.0.2 (dns)",
        }
        assert house.vanished == [("gitlab", GITLAB, frozenset({"10.0.0.1"}))]
        assert [found.ip for found in (await house.resolver.addresses("gitlab.internal")).addresses] == [
            "10.0.0.3",
            "10.0.0.2",
        ]
        house.told()
        house.zone.set("gitlab.internal", "A", ["10.0.0.2", "10.0.0.3"])
        await house.look()
        assert house.told() == []
    assert len(house.vanished) == 1


async def test_a_name_that_stops_and_starts_to_resolve(house):
    async with house.running():
        house.zone.remove("gitlab.internal")
        await house.look()
        (facts,) = house.told()
        assert (facts["appeared"], facts["vanished"]) == ([], ["10.0.0.1", "10.0.0.2"])
        assert facts["now"] == f"gitlab.internal: NXDOMAIN from {house.zone.address}"
        await house.look()
        assert house.told() == []
        house.zone.set("gitlab.internal", "AAAA", ["fd00::1"])
        await house.look()
        assert house.changes() == [("gitlab.internal:25", ["fd00::1"], [])]
    assert house.vanished == [("gitlab", GITLAB, frozenset({"10.0.0.1", "10.0.0.2"}))]


async def test_while_dns_fails_nothing_vanishes_until_the_last_answer_is_too_old(house):
    house.resolver = Resolver(replace(house.settings.resolver, stale=600.0), house.world)
    house.zone.ttl = 60
    async with house.running():
        house.zone.set("gitlab.internal", "ANY", Fault.SERVFAIL)
        for _ in range(2):
            await house.look()
        (facts,) = house.told()
        assert (facts["appeared"], facts["vanished"]) == ([], [])
        why = f"SERVFAIL from {house.zone.address}"
        answer = "gitlab.internal = 10.0.0.1 (dns), 10.0.0.2 (dns)"
        assert facts["now"] == f"{answer}, stale: {why}, answer of 30 s ago"
        assert house.vanished == []
        house.zone.remove("gitlab.internal")
        house.zone.set("gitlab.internal", "A", ["10.0.0.1", "10.0.0.2"])
        await house.look()
        (facts,) = house.told()
        assert facts["now"] == answer
        house.zone.set("gitlab.internal", "ANY", Fault.SERVFAIL)
        for _ in range(21):
            await house.look()
        assert [facts["vanished"] for facts in house.told()] == [[]]
        await house.look()
        (facts,) = house.told()
        assert (facts["appeared"], facts["vanished"], facts["now"]) == ([], [], f"gitlab.internal: {why}")
    assert house.vanished == []


@pytest.mark.parametrize("fault", [Fault.SERVFAIL, Fault.REFUSED])
async def test_a_failure_is_told_once_and_nothing_vanishes_until_dns_says_so(house, fault):
    house.resolver = Resolver(replace(house.settings.resolver, stale=0.0), house.world)
    house.zone.ttl = 30
    async with house.running():
        house.zone.set("gitlab.internal", "ANY", fault)
        for _ in range(3):
            await house.look()
        (facts,) = house.told()
        assert (facts["appeared"], facts["vanished"]) == ([], [])
        assert facts["now"].startswith("gitlab.internal: ")
        house.zone.remove("gitlab.internal")
        house.zone.set("gitlab.internal", "A", ["10.0.0.1", "10.0.0.2"])
        await house.look()
        (facts,) = house.told()
        assert (facts["appeared"], facts["vanished"]) == ([], [])
        assert facts["now"] == "gitlab.internal = 10.0.0.1 (dns), 10.0.0.2 (dns)"
        house.zone.set("gitlab.internal", "ANY", fault)
        await house.look()
        assert (house.changes(), house.vanished) == ([("gitlab.internal:25", [], [])], [])
        house.zone.remove("gitlab.internal")
        await house.look()
        assert house.changes() == [("gitlab.internal:25", [], ["10.0.0.1", "10.0.0.2"])]
    assert house.vanished == [("gitlab", GITLAB, frozenset({"10.0.0.1", "10.0.0.2"}))]


async def test_of_two_families_the_one_that_fails_keeps_its_addresses(house):
    house.resolver = Resolver(replace(house.settings.resolver, stale=0.0), house.world)
    house.zone.ttl = 30
    house.zone.set("gitlab.internal", "AAAA", ["fd00::1"])
    async with house.running():
        house.zone.set("gitlab.internal", "AAAA", Fault.SERVFAIL)
        house.zone.set("gitlab.internal", "A", ["10.0.0.2"])
        await house.look()
        assert house.changes() == [("gitlab.internal:25", [], ["10.0.0.1"])]
        house.zone.set("gitlab.internal", "AAAA", [])
        await house.look()
        assert house.changes() == [("gitlab.internal:25", [], ["fd00::1"])]


async def test_while_dns_fails_to_tell_the_exchangers_they_stay(house):
    house.resolver = Resolver(replace(house.settings.resolver, stale=0.0), house.world)
    house.zone.ttl = 30
    house.endpoints(Endpoint("far", (Server("example.net", 26),), discover=Discover.MX))
    house.zone.set("one.example", "A", ["10.0.0.1"])
    house.zone.set("example.net", "MX", ["10 one.example"])
    async with house.running():
        for fault in (Fault.SERVFAIL, Fault.REFUSED):
            house.zone.set("example.net", "MX", fault)
            await house.look()
        (facts,) = house.told()
        assert (facts["server"], facts["appeared"], facts["vanished"]) == ("one.example:26", [], [])
        assert facts["now"] == f"MX of example.net: SERVFAIL from {house.zone.address}"
        house.zone.set("example.net", "MX", ["10 one.example"])
        await house.look()
        (facts,) = house.told()
        assert facts["now"] == "one.example = 10.0.0.1 (dns)"
    assert house.vanished == []


async def test_what_nobody_thought_of_is_told_and_the_next_look_goes_on(house):
    class Failing(Resolver):
        """Fails for a name as a library may."""

        async def addresses(self, host, *, fresh=False):
            if host == "bad.internal":
                raise ValueError("no such thing")
            return await super().addresses(host, fresh=fresh)

    house.resolver = Failing(house.settings.resolver, house.world)
    house.endpoints(Endpoint("gitlab", (GITLAB,)), Endpoint("bad", (Server("bad.internal"), GITLAB)))
    async with house.running():
        house.zone.set("gitlab.internal", "A", ["10.0.0.1"])
        await house.look()
        faults = [event.facts for event in house.events if event.what is Happening.FAULT]
        assert [facts["where"] for facts in faults] == ["watch"] * 2
        assert all("ValueError: no such thing" in facts["detail"] for facts in faults)
    assert house.vanished == [("gitlab", GITLAB, frozenset({"10.0.0.2"}))]


async def test_a_hosts_file_that_breaks_the_reader_stops_no_look(house):
    async def broken():
        raise RecursionError

    house.refresh = broken
    async with house.running():
        house.zone.set("gitlab.internal", "A", ["10.0.0.1"])
        await house.look()
    assert [event.what for event in house.events] == [Happening.FAULT] * 2 + [Happening.RESOLVED]


async def test_at_the_first_look_only_what_is_wrong_is_told(house):
    house.endpoints(Endpoint("far", (GITLAB, Server("absent.internal", 2525)), backup=(Server("standby.internal"),)))
    house.zone.set("standby.internal", "A", ["10.0.0.9"])
    async with house.running():
        (facts,) = house.told()
        assert (facts["endpoint"], facts["server"]) == ("far", "absent.internal:2525")
        assert facts["now"] == f"absent.internal: NXDOMAIN from {house.zone.address}"
        house.zone.set("standby.internal", "A", ["10.0.0.8"])
        await house.look()
        assert house.changes() == [("standby.internal:25", ["10.0.0.8"], ["10.0.0.9"])]


async def test_the_exchangers_of_a_name_are_watched(house):
    house.endpoints(Endpoint("far", (Server("example.net", 26),), discover=Discover.MX))
    for host, ip in (("one.example", "10.0.0.1"), ("two.example", "10.0.0.2")):
        house.zone.set(host, "A", [ip])
    house.zone.set("example.net", "MX", ["10 one.example"])
    async with house.running():
        assert house.told() == []
        house.zone.set("example.net", "MX", ["10 two.example", "20 absent.example"])
        await house.look()
        assert sorted(house.changes()) == [
            ("absent.example:26", [], []),
            ("one.example:26", [], ["10.0.0.1"]),
            ("two.example:26", ["10.0.0.2"], []),
        ]
        assert house.vanished == [("far", Server("one.example", 26), frozenset({"10.0.0.1"}))]
        house.zone.set("example.net", "MX", Fault.SERVFAIL)
        await house.look()
        (facts,) = house.told()
        why = f"SERVFAIL from {house.zone.address}"
        assert facts["now"] == f"two.example = 10.0.0.2 (dns), stale: {why}, answer of 30 s ago"
        house.zone.remove("example.net")
        await house.look()
        told = {facts["server"]: facts for facts in house.told()}
        assert told.keys() == {"two.example:26", "example.net:26"}
        assert told["two.example:26"]["vanished"] == ["10.0.0.2"]
        assert told["two.example:26"]["now"] == "no server of the endpoint any more"
        assert told["example.net:26"]["now"] == f"MX of example.net: NXDOMAIN from {house.zone.address}"
        await house.look()
        assert house.told() == []


async def test_a_name_that_takes_no_mail_is_told(house):
    house.endpoints(Endpoint("far", (Server("null.example"),), discover=Discover.MX))
    house.zone.set("null.example", "MX", ["0 ."])
    async with house.running():
        (facts,) = house.told()
    assert facts["now"] == f"MX of null.example: no data from {house.zone.address} (a null MX: it takes no mail)"


async def test_at_the_first_look_what_is_stale_is_told(house):
    await house.resolver.addresses("gitlab.internal")
    house.zone.set("gitlab.internal", "ANY", Fault.SERVFAIL)
    async with house.running():
        (facts,) = house.told()
    assert facts["now"].endswith(f", stale: SERVFAIL from {house.zone.address}, answer of 0 s ago")


async def test_what_has_no_name_of_its_own_is_not_asked_for(house):
    house.endpoints(
        Endpoint("all", (), discover=Discover.RECIPIENT),
        Endpoint("relay [10.0.0.5]:25", (Server("10.0.0.5"), Server("fd00::5")), relay=True),
        Endpoint("relay mx", (Server("10.0.0.5"),), discover=Discover.MX, relay=True),
        Endpoint("mailboxes", (Server("/run/lmtp"),), lmtp=True),
    )
    async with house.running():
        await house.look()
    assert house.events == house.zone.queries == []


async def test_the_relays_of_a_folder_are_watched(house):
    house.endpoints(Endpoint("relay [gitlab.internal]:587", (Server("gitlab.internal", 587),), relay=True))
    async with house.running():
        house.zone.set("gitlab.internal", "A", ["10.0.0.1"])
        await house.look()
        (facts,) = house.told()
    assert (facts["endpoint"], facts["server"]) == ("relay [gitlab.internal]:587", "gitlab.internal:587")
    assert facts["vanished"] == ["10.0.0.2"]


async def test_an_edit_of_the_hosts_file_is_seen(house):
    async with house.running():
        house.hosts.write_text("10.0.0.7 gitlab.internal\n")
        await house.look()
        (facts,) = house.told()
    assert facts["now"] == "gitlab.internal = 10.0.0.7 (hosts)"
    assert facts["vanished"] == ["10.0.0.1", "10.0.0.2"]


async def test_after_a_reload_it_goes_by_the_new_settings_at_once(house):
    async with house.running():
        house.endpoints(Endpoint("gitlab", (GITLAB, Server("new.internal"))), Endpoint("other", (GITLAB,)))
        house.settings = replace(house.settings, resolver=replace(house.settings.resolver, watch=5.0))
        house.watch.nudge()
        await house.look(0)
        assert [(facts["endpoint"], facts["server"]) for facts in house.told()] == [("gitlab", "new.internal:25")]
        house.zone.set("gitlab.internal", "A", ["10.0.0.2"])
        await house.look(5)
        assert sorted(facts["endpoint"] for facts in house.told()) == ["gitlab", "other"]
        house.endpoints(Endpoint("other", (Server("new.internal"),)))
        house.watch.nudge()
        await house.look(0)
        assert [facts["endpoint"] for facts in house.told()] == ["other", "other"]
        assert house.vanished[-1] == ("other", GITLAB, frozenset({"10.0.0.2"}))
        house.zone.set("gitlab.internal", "A", ["10.0.0.3"])
        house.endpoints(Endpoint("gitlab", (GITLAB,)))
        house.watch.nudge()
        await house.look(0)
        assert house.told() == [], "of an endpoint that went away nothing is remembered"


async def test_without_a_pause_it_never_looks(house):
    house.settings = replace(house.settings, resolver=replace(house.settings.resolver, watch=0.0))
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(house.watch.run())
        for name in ("before.internal", "after.internal"):
            house.watch.nudge()
            await house.resolver.addresses(name)
        assert {query.name for query in house.zone.queries} == {"before.internal", "after.internal"}
        house.zone.queries.clear()
        house.settings = replace(house.settings, resolver=replace(house.settings.resolver, watch=30.0))
        house.watch.nudge()
        await house.clock.asleep()
        assert {query.name for query in house.zone.queries} == {"gitlab.internal"}
        watching.cancel()


async def test_many_names_are_looked_up_at_once_and_not_all(house):
    class Slow(Resolver):
        """Answers nobody until it is allowed to."""

        asking = 0
        enough, allowed = asyncio.Event(), asyncio.Event()

        async def addresses(self, host, *, fresh=False):
            self.asking += 1
            if self.asking == AT_ONCE:
                self.enough.set()
            await self.allowed.wait()
            return await super().addresses(host, fresh=fresh)

    house.resolver = Slow(replace(house.settings.resolver, order=(Source.STATIC,)), house.world)
    house.endpoints(Endpoint("many", tuple(Server(f"n{number}.internal") for number in range(3 * AT_ONCE))))
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(house.watch.run())
        await house.resolver.enough.wait()
        assert house.resolver.asking == AT_ONCE
        house.resolver.allowed.set()
        await house.clock.asleep()
        watching.cancel()
    assert len(house.told()) == 3 * AT_ONCE
