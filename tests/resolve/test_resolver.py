"""Resolver: every outcome, against Zone over real sockets."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from smtproute.core.choice import Exchange, Found, Resolution
from smtproute.core.lookup import Unanswered
from smtproute.core.settings import Resolver as Settings
from smtproute.core.settings import Source
from smtproute.resolve.records import Records
from smtproute.testing.zone import Asked, Fault, Zone


def patience(outcome):
    """Seconds for one server: short only where no answer will come."""
    return 0.1 if outcome in (Resolution.TIMEOUT, Fault.TIMEOUT) else 5.0


async def test_addresses_are_ipv4_then_ipv6_and_say_where_they_are_from(resolver):
    async with Zone({"a.example": {"AAAA": ["fd00::1", "fd00::2"], "A": ["10.0.0.1", "10.0.0.2"]}}) as zone:
        resolved = await resolver(zone.address).addresses("A.Example.")
    assert resolved.host == "a.example"
    assert resolved.status is Resolution.OK
    assert resolved.addresses == tuple(Found(ip, Source.DNS) for ip in ("10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"))
    assert resolved.asked == zone.address
    assert sorted(zone.queries) == [Asked("a.example", "A", "udp"), Asked("a.example", "AAAA", "udp")]


@pytest.mark.parametrize(
    ("entry", "status"),
    [
        (None, Resolution.NXDOMAIN),
        ({"TXT": ["x"]}, Resolution.NODATA),
        (Fault.SERVFAIL, Resolution.SERVFAIL),
        (Fault.REFUSED, Resolution.REFUSED),
        (Fault.TIMEOUT, Resolution.TIMEOUT),
        ({"A": Fault.SERVFAIL}, Resolution.SERVFAIL),
        ({"AAAA": Fault.SERVFAIL}, Resolution.SERVFAIL),
        ({"A": Fault.REFUSED, "AAAA": Fault.SERVFAIL}, Resolution.SERVFAIL),
        ({"A": Fault.SERVFAIL, "AAAA": Fault.TIMEOUT}, Resolution.TIMEOUT),
    ],
)
async def test_outcomes_of_addresses_are_told_apart(resolver, entry, status):
    async with Zone({} if entry is None else {"a.example": entry}) as zone:
        resolved = await resolver(zone.address, attempt=patience(status)).addresses("a.example")
    assert (resolved.status, resolved.addresses, resolved.asked) == (status, (), zone.address)
    assert str(resolved) == f"a.example: {status} from {zone.address}"


async def test_one_family_that_fails_does_not_hide_the_other(resolver, clock):
    async with Zone({"a.example": {"A": ["10.0.0.1"], "AAAA": Fault.SERVFAIL}}, ttl=3600) as zone:
        asking = resolver(zone.address)
        assert [found.ip for found in (await asking.addresses("a.example")).addresses] == ["10.0.0.1"]
        zone.set("a.example", "AAAA", ["fd00::1"])
        await clock.advance(60)
        assert [found.ip for found in (await asking.addresses("a.example")).addresses] == ["10.0.0.1", "fd00::1"]


async def test_an_alias_is_followed(resolver):
    names = {
        "www.example": {"CNAME": ["alias.example"]},
        "alias.example": {"CNAME": ["host.example."]},
        "host.example": {"A": ["10.0.0.1"], "MX": ["10 mx.example"], "TXT": ["hello"]},
        "dangling.example": {"CNAME": ["nowhere.example"]},
        "loop.example": {"CNAME": ["loop.example"]},
    }
    async with Zone(names) as zone:
        asking = resolver(zone.address)
        assert [found.ip for found in (await asking.addresses("www.example")).addresses] == ["10.0.0.1"]
        assert (await asking.exchanges("www.example")).exchanges == (Exchange(10, "mx.example"),)
        assert await Records(lambda: asking).texts("www.example") == (b"hello",)
        assert (await asking.addresses("dangling.example")).status is Resolution.NXDOMAIN
        assert (await asking.addresses("loop.example")).status is Resolution.SERVFAIL


async def test_international_names_are_asked_as_a_labels(resolver):
    async with Zone({"xn--bcher-kva.example": {"A": ["10.0.0.1"], "MX": ["10 mx.example"]}}) as zone:
        asking = resolver(zone.address)
        assert (await asking.addresses("B\u00fccher.example")).status is Resolution.OK
        assert (await asking.exchanges("b\u00fccher.example")).exchanges == (Exchange(10, "mx.example"),)
    assert {query.name for query in zone.queries} == {"xn--bcher-kva.example"}


@pytest.mark.parametrize(
    "name", ["", "..", "a..b", "-bad-.example", "a b.example", "x" * 64, "[10.0.0.5]", "\ud800", "a\x00.example"]
)
async def test_a_name_that_cannot_be_asked_is_not_there_and_says_why(resolver, name):
    async with Zone() as zone:
        asking = resolver(zone.address)
        resolved = await asking.addresses(name)
        exchanges = await asking.exchanges(name)
    assert (resolved.status, resolved.host, resolved.asked) == (Resolution.NXDOMAIN, name, "")
    assert (exchanges.status, exchanges.exchanges) == (Resolution.NXDOMAIN, ())
    assert resolved.reason == exchanges.reason != ""
    assert str(exchanges) == f"MX of {name}: NXDOMAIN ({exchanges.reason})"
    assert zone.queries == []


@pytest.mark.parametrize(("host", "ip"), [("10.0.0.5", "10.0.0.5"), ("2001:DB8::0:5", "2001:db8::5")])
async def test_an_ip_address_is_its_own_address_and_has_no_exchanges(resolver, host, ip):
    async with Zone() as zone:
        asking = resolver(zone.address)
        resolved, exchanges = await asking.addresses(host), await asking.exchanges(host)
    assert (resolved.status, resolved.addresses) == (Resolution.OK, (Found(ip, Source.WRITTEN),))
    assert (exchanges.status, exchanges.exchanges) == (Resolution.NXDOMAIN, ())
    assert zone.queries == []


@pytest.mark.parametrize("resolv_conf", ["", "empty"])
async def test_without_a_name_server_it_says_so(resolver, tmp_path, resolv_conf):
    (tmp_path / "empty").touch()
    asking = resolver(resolv_conf=resolv_conf and str(tmp_path / resolv_conf))
    resolved = await asking.addresses("a.example")
    assert str(resolved) == "a.example: refused (no name server configured)"
    assert (await asking.exchanges("a.example")).reason == "no name server configured"
    with pytest.raises(Unanswered, match="no name server configured"):
        await Records(lambda: asking).texts("a.example")


async def test_the_first_source_that_has_the_name_answers(resolver, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("10.0.0.2 all.example two.example localhost\n")
    dns_names = {
        "all.example": {"A": ["10.0.0.3"]},
        "two.example": {"A": ["10.0.0.3"]},
        "one.example": {"A": ["10.0.0.3"]},
    }
    more = {"hosts_file": str(hosts), "static": {"all.example": ("10.0.0.1", "10.0.0.11")}}
    static, hosts_, dns_ = Source.STATIC, Source.HOSTS, Source.DNS
    async with Zone(dns_names) as zone:

        async def found(name, *order):
            resolved = await resolver(zone.address, order=order, **more).addresses(name)
            return [(address.ip, address.source) for address in resolved.addresses]

        assert await found("ALL.example", static, hosts_, dns_) == [("10.0.0.1", static), ("10.0.0.11", static)]
        assert await found("two.example", static, hosts_, dns_) == [("10.0.0.2", hosts_)]
        assert await found("localhost", static, hosts_, dns_) == [("10.0.0.2", hosts_)]
        assert zone.queries == []
        assert await found("one.example", static, hosts_, dns_) == [("10.0.0.3", dns_)]
        assert await found("all.example", dns_, hosts_, static) == [("10.0.0.3", dns_)]
        assert await found("localhost", dns_, hosts_, static) == [("10.0.0.2", hosts_)]
        assert await found("one.example", static, hosts_) == []


async def test_what_dns_said_counts_where_no_source_has_the_name(resolver):
    async with Zone({"a.example": Fault.SERVFAIL}) as zone:
        order = (Source.DNS, Source.STATIC, Source.HOSTS)
        failed = await resolver(zone.address, order=order).addresses("a.example")
        helped = await resolver(zone.address, order=order, static={"a.example": ("10.0.0.1",)}).addresses("a.example")
        without = await resolver(zone.address, order=(Source.STATIC,)).addresses("a.example")
    assert (failed.status, failed.asked) == (Resolution.SERVFAIL, zone.address)
    assert helped.status is Resolution.OK
    assert (without.status, without.asked) == (Resolution.NXDOMAIN, "")


async def test_refresh_reads_the_hosts_file_again(resolver, tmp_path):
    hosts = tmp_path / "hosts"
    asking = resolver(hosts_file=str(hosts), order=(Source.HOSTS,))
    assert (await asking.addresses("a")).status is Resolution.NXDOMAIN
    hosts.write_text("10.0.0.1 a\n")
    asking.refresh()
    assert (await asking.addresses("a")).status is Resolution.OK


async def test_exchanges_are_sorted(resolver):
    mx = ["20 c.example", "5 Z.example.", "10 b.example", "10 a.example"]
    async with Zone({"example.net": {"MX": mx}}) as zone:
        exchanges = await resolver(zone.address).exchanges("Example.NET")
    assert (exchanges.domain, exchanges.status, exchanges.asked) == ("example.net", Resolution.OK, zone.address)
    assert exchanges.exchanges == (
        Exchange(5, "z.example"),
        Exchange(10, "a.example"),
        Exchange(10, "b.example"),
        Exchange(20, "c.example"),
    )
    assert not exchanges.null
    assert str(exchanges) == "MX of example.net = 5 z.example, 10 a.example, 10 b.example, 20 c.example"


async def test_a_domain_without_mx_stands_for_itself(resolver):
    async with Zone({"example.net": {"A": ["10.0.0.1"]}}) as zone:
        exchanges = await resolver(zone.address).exchanges("example.net")
    assert (exchanges.status, exchanges.exchanges) == (Resolution.OK, (Exchange(0, "example.net"),))


async def test_an_exchange_that_is_no_host_name_is_not_there_and_says_why(resolver):
    mx = ["10 10.0.0.5", "20 -bad-.example", "30 a\\032b.example"]
    async with Zone({"example.net": {"MX": mx}}) as zone:
        asking = resolver(zone.address)
        exchanges = await asking.exchanges("example.net")
        found = [await asking.addresses(each.host) for each in exchanges.exchanges]
    assert [resolved.status for resolved in found] == [Resolution.NXDOMAIN] * 3
    assert "is an address, not a host name" in found[0].reason
    assert all("is no domain name" in resolved.reason for resolved in found[1:])
    assert [query.type for query in zone.queries] == ["MX"]


async def test_null_mx(resolver):
    async with Zone({"example.net": {"MX": ["0 ."]}, "both.example": {"MX": ["0 .", "10 mx.example"]}}) as zone:
        asking = resolver(zone.address)
        null = await asking.exchanges("example.net")
        both = await asking.exchanges("both.example")
    assert (null.status, null.null, null.exchanges) == (Resolution.OK, True, ())
    assert str(null) == f"example.net has a null MX from {zone.address}"
    assert (both.null, both.exchanges) == (False, (Exchange(10, "mx.example"),))


@pytest.mark.parametrize(
    ("entry", "status"),
    [
        (None, Resolution.NXDOMAIN),
        (Fault.SERVFAIL, Resolution.SERVFAIL),
        (Fault.REFUSED, Resolution.REFUSED),
        (Fault.TIMEOUT, Resolution.TIMEOUT),
    ],
)
async def test_outcomes_of_exchanges_are_told_apart(resolver, entry, status):
    async with Zone({} if entry is None else {"example.net": entry}) as zone:
        exchanges = await resolver(zone.address, attempt=patience(status)).exchanges("example.net")
    assert (exchanges.status, exchanges.asked) == (status, zone.address)
    assert (exchanges.exchanges, exchanges.null) == ((), False)
    assert str(exchanges) == f"MX of example.net: {status} from {zone.address}"


async def test_look_ups_of_one_name_are_joined(resolver):
    async with Zone({"a.example": {"A": ["10.0.0.1"]}}) as zone:
        asking = resolver(zone.address)
        results = await asyncio.gather(*(asking.addresses("a.example") for _ in range(100)))
    assert len(set(results)) == 1
    assert len(zone.queries) == 2


async def test_answers_are_kept_for_their_time_to_live(resolver, clock):
    async with Zone({"a.example": {"A": ["10.0.0.1"]}}, ttl=300) as zone:
        asking = resolver(zone.address)
        await asking.addresses("a.example")
        zone.set("a.example", "A", ["10.0.0.2"])
        await clock.advance(299)
        assert (await asking.addresses("a.example")).addresses[0].ip == "10.0.0.1"
        await clock.advance(1)
        assert (await asking.addresses("a.example")).addresses[0].ip == "10.0.0.2"


async def test_denials_are_kept_for_a_minute_and_failures_for_seconds(resolver, clock):
    async with Zone({"failing.example": Fault.SERVFAIL}, ttl=3600) as zone:
        asking = resolver(zone.address)
        assert (await asking.exchanges("new.example")).status is Resolution.NXDOMAIN
        assert (await asking.exchanges("failing.example")).status is Resolution.SERVFAIL
        zone.remove("failing.example")
        for name in ("new.example", "failing.example"):
            zone.set(name, "MX", ["10 mx.example"])
        assert (await asking.exchanges("failing.example")).status is Resolution.SERVFAIL
        await clock.advance(5)
        assert (await asking.exchanges("failing.example")).status is Resolution.OK
        await clock.advance(54)
        assert (await asking.exchanges("new.example")).status is Resolution.NXDOMAIN
        await clock.advance(1)
        assert (await asking.exchanges("new.example")).status is Resolution.OK


async def test_an_answer_says_when_it_was_given_and_how_long_it_holds(resolver, clock):
    names = {
        "a.example": {"A": ["10.0.0.1"], "MX": ["10 mx.example"]},
        "half.example": {"A": ["10.0.0.1"], "AAAA": Fault.SERVFAIL},
        "bad.example": Fault.SERVFAIL,
    }
    async with Zone(names, ttl=300) as zone:
        asking = resolver(zone.address, static={"static.example": ("10.0.0.1",)})
        start = clock.now()
        for name, ttl in (("a.example", 300), ("half.example", 60), ("absent.example", 60), ("bad.example", 5)):
            resolved = await asking.addresses(name)
            assert (resolved.at, resolved.ttl, resolved.stale) == (start, ttl, ""), name
        for name, ttl in (("a.example", 300), ("half.example", 60), ("absent.example", 60), ("bad.example", 5)):
            exchanges = await asking.exchanges(name)
            assert (exchanges.at, exchanges.ttl, exchanges.stale) == (start, ttl, ""), name
        await clock.advance(30)
        for answer in (await asking.addresses("a.example"), await asking.exchanges("a.example")):
            assert (answer.at, answer.age) == (start, 30)
        assert (await asking.addresses("a.example")).left == 270
        for name in ("static.example", "10.0.0.1", ".."):
            resolved = await asking.addresses(name)
            assert (resolved.at, resolved.age, resolved.ttl, resolved.left) == (0.0, 0.0, None, None)


async def test_a_family_that_dns_fails_to_tell_of_is_said(resolver):
    names = {"four.example": {"A": ["10.0.0.1"], "AAAA": Fault.SERVFAIL}}
    names["six.example"] = {"A": Fault.REFUSED, "AAAA": ["fd00::1"]}
    async with Zone(names) as zone:
        asking = resolver(zone.address)
        four, six = await asking.addresses("four.example"), await asking.addresses("six.example")
    assert str(four) == f"four.example = 10.0.0.1 (dns), AAAA: SERVFAIL from {zone.address}"
    assert str(six) == f"six.example = fd00::1 (dns), A: refused from {zone.address}"


async def test_a_fresh_look_up_asks_dns_and_everybody_has_its_answer(resolver):
    async with Zone({"a.example": {"A": ["10.0.0.1"], "MX": ["10 one.example"]}}) as zone:
        asking = resolver(zone.address)
        await asking.addresses("a.example")
        await asking.exchanges("a.example")
        zone.set("a.example", "A", ["10.0.0.2"])
        zone.set("a.example", "MX", ["10 two.example"])
        for fresh, ip, host in ((False, "10.0.0.1", "one"), (True, "10.0.0.2", "two"), (False, "10.0.0.2", "two")):
            assert (await asking.addresses("a.example", fresh=fresh)).addresses[0].ip == ip
            assert (await asking.exchanges("a.example", fresh=fresh)).exchanges[0].host == f"{host}.example"


async def test_a_resolver_goes_on_while_settings_and_name_servers_are_the_same(resolver, tmp_path):
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 10.0.0.53\n")
    asking = resolver(resolv_conf=str(file))
    settings = Settings(hosts_file=str(tmp_path / "absent"))
    assert asking.serves(settings)
    assert not asking.serves(replace(settings, static={"a": ("10.0.0.1",)}))
    file.write_text("nameserver 10.0.0.54\n")
    assert not asking.serves(settings)


def test_a_server_that_is_no_address_is_a_mistake(resolver):
    with pytest.raises(ValueError, match=r"ns\.example"):
        resolver("ns.example")
