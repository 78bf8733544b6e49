"""The resolver and a real unbound, the name server of many houses: each ending as it says it."""

from __future__ import annotations

import pytest

from smtproute.core.choice import Exchange, Found, Resolution
from smtproute.core.lookup import Unanswered
from smtproute.core.settings import Source
from smtproute.resolve.records import Records
from smtproute.testing.zone import Fault, Zone
from tests.resolve.unbound import unbound

pytestmark = pytest.mark.peer("unbound", "unbound-control")

OURS = (
    'local-zone: "internal." static',
    'local-data: "gitlab.internal. 300 IN A 10.0.0.5"',
    'local-data: "gitlab.internal. 300 IN AAAA fd00::5"',
    'local-data: "internal. 300 IN MX 10 gitlab.internal."',
    'local-data: "text.internal. 300 IN TXT hello"',
    'local-zone: "closed.example." refuse',
)


async def test_an_address_has_its_server_its_time_and_its_lifetime(resolver, clock):
    with unbound(*OURS) as server:
        asking = resolver(server.address)
        resolved = await asking.addresses("gitlab.internal")
        exchanges = await asking.exchanges("internal")
    assert resolved.addresses == (Found("10.0.0.5", Source.DNS), Found("fd00::5", Source.DNS))
    assert (resolved.asked, resolved.at, resolved.ttl, resolved.stale) == (server.address, clock.now(), 300, "")
    assert exchanges.exchanges == (Exchange(10, "gitlab.internal"),)
    assert (exchanges.asked, exchanges.at, exchanges.ttl) == (server.address, clock.now(), 300)


@pytest.mark.parametrize(
    ("name", "status", "attempt"),
    [
        ("nobody.internal", Resolution.NXDOMAIN, 5.0),
        ("text.internal", Resolution.NODATA, 5.0),
        ("closed.example", Resolution.REFUSED, 5.0),
        ("broken.example", Resolution.SERVFAIL, 5.0),
        ("silent.example", Resolution.TIMEOUT, 0.2),
    ],
)
async def test_outcomes_are_told_apart(resolver, name, status, attempt):
    async with Zone({"broken.example": Fault.SERVFAIL, "silent.example": Fault.TIMEOUT}) as zone:
        with unbound(*OURS, forward=zone.address) as server:
            asking = resolver(server.address, attempt=attempt)
            records = Records(lambda: asking)
            resolved = await asking.addresses(name)
            exchanges = await asking.exchanges(name)
            if status in (Resolution.NXDOMAIN, Resolution.NODATA):
                assert (await records.texts(name)) == ((b"hello",) if status is Resolution.NODATA else ())
            else:
                with pytest.raises(Unanswered, match=f"{name}: {status} from {server.address}"):
                    await records.texts(name)
    assert str(resolved) == f"{name}: {status} from {server.address}"
    assert (exchanges.status, exchanges.exchanges) == (
        (Resolution.OK, (Exchange(0, name),)) if status is Resolution.NODATA else (status, ())
    )


async def test_an_alias_is_followed(resolver):
    names = {
        "git.example": {"CNAME": ["alias.example"]},
        "alias.example": {"CNAME": ["host.example"]},
        "host.example": {"A": ["10.0.0.1"], "MX": ["10 mx.example"]},
        "dangling.example": {"CNAME": ["nowhere.example"]},
        "loop.example": {"CNAME": ["pool.example"]},
        "pool.example": {"CNAME": ["loop.example"]},
    }
    async with Zone(names, ttl=120) as zone:
        with unbound(forward=zone.address) as server:
            asking = resolver(server.address)
            resolved = await asking.addresses("git.example")
            exchanges = await asking.exchanges("git.example")
            dangling = await asking.addresses("dangling.example")
            loop = await asking.addresses("loop.example")
    assert [found.ip for found in resolved.addresses] == ["10.0.0.1"]
    assert exchanges.exchanges == (Exchange(10, "mx.example"),)
    assert dangling.status is Resolution.NXDOMAIN
    assert loop.status is Resolution.SERVFAIL


async def test_a_change_is_found_and_while_the_zone_fails_the_last_answer_is_used(resolver, clock):
    async with Zone({"gitlab.internal": {"A": ["10.0.0.1"]}}, ttl=60) as zone:
        with unbound(forward=zone.address) as server:
            asking = resolver(server.address, stale=600.0)
            assert (await asking.addresses("gitlab.internal")).addresses[0].ip == "10.0.0.1"
            zone.set("gitlab.internal", "A", ["10.0.0.2"])
            server.control("flush_zone", ".")
            assert (await asking.addresses("gitlab.internal")).addresses[0].ip == "10.0.0.1"
            assert (await asking.addresses("gitlab.internal", fresh=True)).addresses[0].ip == "10.0.0.2"
            zone.set("gitlab.internal", "ANY", Fault.SERVFAIL)
            server.control("flush_zone", ".")
            await clock.advance(60)
            resolved = await asking.addresses("gitlab.internal")
    assert (
        str(resolved) == f"gitlab.internal = 10.0.0.2 (dns), stale: SERVFAIL from {server.address}, answer of 60 s ago"
    )
