"""While DNS fails: what it said last is used for a while, is called stale, and nobody waits twice."""

from __future__ import annotations

import asyncio

import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.choice import FAILED, Exchange, Resolution
from smtproute.core.lookup import Unanswered
from smtproute.resolve.lastgood import LastGood
from smtproute.resolve.nameservers import Answer
from smtproute.resolve.records import Records
from smtproute.testing.clock import TurnedClock
from smtproute.testing.zone import Fault, Zone

NAMES = {
    "a.example": {
        "A": ["10.0.0.1"],
        "AAAA": ["fd00::1"],
        "MX": ["10 mx.example"],
        "TXT": ["v=DKIM1; p=abc"],
    },
}
SHOWN = {Fault.SERVFAIL: "SERVFAIL", Fault.REFUSED: "refused", Fault.TIMEOUT: "timeout"}


def zone(ttl=60):
    return Zone(NAMES, ttl=ttl)


@pytest.mark.parametrize("fault", list(SHOWN))
async def test_the_last_good_answer_is_used_until_its_hour_is_over(resolver, clock, fault):
    async with zone() as dns_:
        asking = resolver(dns_.address, stale=600.0, attempt=0.1 if fault is Fault.TIMEOUT else 5.0)
        records = Records(lambda: asking)
        good = (
            await asking.addresses("a.example"),
            await asking.exchanges("a.example"),
            await records.texts("a.example"),
        )
        start = clock.now()
        dns_.set("a.example", "ANY", fault)
        why = f"{SHOWN[fault]} from {dns_.address}"
        for pause, ago in ((60, "60 s"), (599.5, "10 min")):
            await clock.advance(pause)
            resolved, exchanges = await asking.addresses("a.example"), await asking.exchanges("a.example")
            assert resolved.addresses == good[0].addresses
            assert (resolved.status, resolved.at, resolved.ttl, resolved.stale) == (Resolution.OK, start, 60, why)
            assert resolved.age == exchanges.age == clock.now() - start
            assert str(resolved) == f"a.example = 10.0.0.1 (dns), fd00::1 (dns), stale: {why}, answer of {ago} ago"
            assert str(exchanges) == f"MX of a.example = 10 mx.example, stale: {why}, answer of {ago} ago"
            assert exchanges.exchanges == (Exchange(10, "mx.example"),)
            assert (exchanges.status, exchanges.at, exchanges.ttl, exchanges.stale) == (Resolution.OK, start, 60, why)
            assert await records.texts("a.example") == good[2] == (b"v=DKIM1; p=abc",)
        await clock.advance(0.5)
        assert str(await asking.addresses("a.example")) == f"a.example: {why}"
        assert (await asking.exchanges("a.example")).exchanges == ()
        with pytest.raises(Unanswered):
            await records.texts("a.example")


async def test_dns_is_asked_again_after_a_short_while_and_its_answer_counts_at_once(resolver, clock):
    async with zone() as dns_:
        asking = resolver(dns_.address)
        await asking.addresses("a.example")
        dns_.set("a.example", "ANY", Fault.SERVFAIL)
        await clock.advance(60)
        assert (await asking.addresses("a.example")).stale
        dns_.set("a.example", "ANY", [])
        dns_.queries.clear()
        await clock.advance(29)
        assert (await asking.addresses("a.example")).stale
        assert dns_.queries == []
        await clock.advance(1)
        resolved = await asking.addresses("a.example")
    assert (resolved.status, resolved.stale) == (Resolution.NODATA, "")


async def test_a_denial_takes_the_place_of_the_last_good_answer(resolver, clock):
    async with zone() as dns_:
        asking = resolver(dns_.address)
        await asking.addresses("a.example")
        dns_.remove("a.example")
        await clock.advance(60)
        assert (await asking.addresses("a.example")).status is Resolution.NXDOMAIN
        dns_.set("a.example", "ANY", Fault.SERVFAIL)
        await clock.advance(60)
        resolved = await asking.addresses("a.example")
    assert (resolved.status, resolved.addresses, resolved.stale) == (Resolution.SERVFAIL, (), "")


async def test_of_two_families_the_one_that_fails_keeps_its_addresses(resolver, clock):
    async with zone() as dns_:
        asking = resolver(dns_.address)
        await asking.addresses("a.example")
        dns_.set("a.example", "A", ["10.0.0.2"])
        dns_.set("a.example", "AAAA", Fault.SERVFAIL)
        await clock.advance(60)
        resolved = await asking.addresses("a.example")
    assert [found.ip for found in resolved.addresses] == ["10.0.0.2", "fd00::1"]
    assert resolved.stale == f"SERVFAIL from {dns_.address}"


async def test_a_domain_without_mx_still_stands_for_itself(resolver, clock):
    async with Zone({"a.example": {"A": ["10.0.0.1"]}}) as dns_:
        asking = resolver(dns_.address)
        assert (await asking.exchanges("a.example")).exchanges == (Exchange(0, "a.example"),)
        dns_.set("a.example", "ANY", Fault.SERVFAIL)
        await clock.advance(60)
        exchanges = await asking.exchanges("a.example")
    assert exchanges.exchanges == (Exchange(0, "a.example"),)
    assert exchanges.stale == f"SERVFAIL from {dns_.address}"


async def test_a_fresh_question_that_fails_takes_no_time_from_the_answer_that_holds(resolver, clock):
    async with zone(ttl=300) as dns_:
        asking = resolver(dns_.address, stale=0.0)
        await asking.addresses("a.example")
        dns_.set("a.example", "ANY", Fault.SERVFAIL)
        assert (await asking.addresses("a.example", fresh=True)).stale
        dns_.queries.clear()
        await clock.advance(299)
        assert (await asking.addresses("a.example")).status is Resolution.OK
        assert dns_.queries == []
        await clock.advance(1)
        assert (await asking.addresses("a.example")).status is Resolution.SERVFAIL


async def test_who_comes_while_a_silent_server_is_asked_again_has_the_stale_answer(resolver, clock):
    async with zone() as dns_:
        asking = resolver(dns_.address, attempt=0.1)
        await asking.addresses("a.example")
        dns_.set("a.example", "ANY", Fault.TIMEOUT)
        await clock.advance(60)
        assert (await asking.addresses("a.example")).stale
        await clock.advance(30)
        async with asyncio.TaskGroup() as tasks:
            again = tasks.create_task(asking.addresses("a.example"))
            await asyncio.sleep(0)
            others = [await asking.addresses("a.example") for _ in range(10)]
            assert not again.done()
        assert all(each.stale for each in (again.result(), *others))


@pytest.mark.parametrize("ask", ["addresses", "exchanges", "texts"])
async def test_with_a_stale_answer_at_hand_nobody_waits_long_for_a_silent_server(resolver, clock, ask):
    """AAAA, of which there never was a record, holds up nobody either."""
    async with Zone({"a.example": {**NAMES["a.example"], "AAAA": []}}) as dns_:
        inner = resolver(dns_.address, attempt=60.0, total=60.0, patience=0.1)
        asking = Records(lambda: inner).texts if ask == "texts" else getattr(inner, ask)
        good = await asking("a.example")
        dns_.set("a.example", "ANY", Fault.TIMEOUT)
        await clock.advance(60)
        async with asyncio.timeout(30):
            answer = await asking("a.example")
    if ask == "texts":
        assert answer == good
    else:
        assert answer.stale == f"timeout from {dns_.address}"


@pytest.mark.parametrize("stale", [3600.0, 0.0])
async def test_a_fresh_question_takes_the_whole_time_and_holds_nobody_up(resolver, clock, stale):
    async with zone() as dns_:
        asking = resolver(dns_.address, attempt=0.5, patience=0.01, stale=stale)
        await asking.addresses("a.example")
        dns_.set("a.example", "ANY", Fault.TIMEOUT)
        dns_.queries.clear()
        await clock.advance(60)
        async with asyncio.TaskGroup() as tasks:
            fresh = tasks.create_task(asking.addresses("a.example", fresh=True))
            while not dns_.queries:
                await asyncio.sleep(0)
            meanwhile = tasks.create_task(asking.addresses("a.example"))
            if stale:
                assert (await meanwhile).stale
                assert not fresh.done()
            dns_.set("a.example", "ANY", [])
        assert fresh.result().status is Resolution.NODATA
        assert (await asking.addresses("a.example")).status is Resolution.NODATA


def test_the_oldest_is_dropped_beyond_the_size(clock):
    last = LastGood(clock, 600.0, size=2)
    good = frozenset({Resolution.OK})
    for name in ("a", "b", "a", "c"):
        last.judge(name, dns.rdatatype.A, Answer(Resolution.OK), good)
    failed = {name: last.judge(name, dns.rdatatype.A, Answer(Resolution.TIMEOUT), good) for name in "abc"}
    assert {name for name, known in failed.items() if known.stale} == {"a", "c"}


@given(
    st.lists(st.tuples(st.sampled_from(Resolution), st.integers(5, 100), st.integers(0, 100)), min_size=1),
    st.integers(0, 200),
)
async def test_what_is_believed(asked, keep):
    """Each answer as it is; each failure too, unless an answer of before is good, or was within `keep` seconds."""
    clock = TurnedClock(0.0)
    last_good = LastGood(clock, keep)
    good = None
    now = 0
    for status, lifetime, pause in asked:
        known = last_good.judge("a", dns.rdatatype.A, Answer(status, lifetime=lifetime), frozenset({Resolution.OK}))
        if status not in FAILED:
            good = (now, lifetime) if status is Resolution.OK else None
            assert (known.answer.status, known.at, known.until, known.stale) == (status, now, now + lifetime, "")
        elif good is not None and now < sum(good) + keep:
            assert (known.answer.status, known.at, known.stale) == (Resolution.OK, good[0], str(status))
            assert now < known.until <= sum(good) + keep
        else:
            assert (known.answer.status, known.at, known.until, known.stale) == (status, now, now + lifetime, "")
        now += pause
        await clock.advance(pause)
