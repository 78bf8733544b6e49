"""A real unbound as the DNS of endpoints."""

from __future__ import annotations

import pytest

from smtproute.core.event import Happening
from smtproute.testing.clock import TurnedClock
from smtproute.testing.upstream import on
from smtproute.testing.zone import Fault
from smtproute.world import World
from tests.e2e.conftest import Lab
from tests.resolve.unbound import unbound

pytestmark = pytest.mark.peer("unbound", "unbound-control")


async def test_names_of_the_internal_dns(lab: Lab) -> None:
    """It knows the one name itself, asks the zone for the second, and denies the third."""
    standby = await lab.upstream("gitlab-standby.internal", [on("MAIL", "451 4.3.0 Not now", times=1)])
    port = standby.port
    with unbound('local-data: "gitlab.internal. A 127.0.0.9"', forward=lab.zone.address) as server:
        lab.name_server = server.address
        names = ("gitlab.internal", "gitlab-standby.internal", "gone.internal")
        relay = await lab.application(*(f"{name}:{port}" for name in names))
        event = await lab.deferred(relay, "1@git.example.org")
        assert event.facts["detail"] == (
            f"no server took the message: gitlab.internal (dns, 127.0.0.9:{port}) connection refused; "
            f"gitlab-standby.internal (dns, 127.0.0.1:{port}) 451 4.3.0 Not now; "
            f"gone.internal: NXDOMAIN from {server.address}"
        )
        await lab.delivered(relay, "2@git.example.org")
    assert len(standby.received) == 1


async def test_a_failing_zone_is_told_from_a_name_that_is_not(lab: Lab) -> None:
    lab.zone.set("gitlab.internal", "ANY", Fault.SERVFAIL)
    with unbound(forward=lab.zone.address) as server:
        lab.name_server = server.address
        relay = await lab.application("gitlab.internal:25")
        event = await lab.deferred(relay, "x@git.example.org")
        assert f"gitlab.internal: SERVFAIL from {server.address}" in event.facts["detail"]


async def test_a_record_that_changes_moves_the_mail(lab: Lab) -> None:
    clock = TurnedClock(1_800_000_000.0)
    lab.world = World(clock=clock)
    lab.resolver = 'watch = "5s"'
    old = await lab.upstream("unused", ip="127.0.0.2")
    new = await lab.upstream("unused", ip="127.0.0.3", port=old.port)
    with unbound('local-zone: "internal." static', 'local-data: "gitlab.internal. A 127.0.0.2"') as server:
        lab.name_server = server.address
        relay = await lab.application(f"gitlab.internal:{old.port}")
        await lab.delivered(relay, "1@git.example.org")
        server.control("local_data_remove", "gitlab.internal.")
        server.control("local_data", "gitlab.internal. A 127.0.0.3")
        await clock.advance(5)
        (changed,) = await lab.journal.seen(Happening.RESOLVED)
        assert (changed.facts["appeared"], changed.facts["vanished"]) == (["127.0.0.3"], ["127.0.0.2"])
        await old.quiet()
        await lab.delivered(relay, "2@git.example.org")
    assert [len(each.received) for each in (old, new)] == [1, 1]
