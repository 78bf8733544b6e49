"""Records: what DNS alone says, for those who judge and check mail."""

from __future__ import annotations

import asyncio

import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.choice import Exchange, Resolution
from smtproute.core.lookup import Unanswered
from smtproute.resolve.records import Records, _question
from smtproute.testing.zone import Asked, Fault, Zone

LONG = "v=DKIM1; k=rsa; p=" + "A" * 800


@pytest.fixture
def records(resolver):
    """Makes the look-up of one resolver that asks these servers."""

    def make(*servers, **more):
        asking = resolver(*servers, **more)
        return Records(lambda: asking)

    return make


@pytest.mark.parametrize("values", [["v=DKIM1; p=abc"], [LONG], ["two", "one"], [""], ["\u00fc\x00"]])
async def test_texts_are_all_there_each_with_its_strings_joined(records, values):
    async with Zone({"mail._domainkey.example.org": {"TXT": values}}) as zone:
        found = await records(zone.address).texts("Mail._domainkey.example.org.")
    assert sorted(found) == sorted(value.encode() for value in values)


async def test_addresses_are_asked_for_by_version(records):
    async with Zone({"a.example": {"A": ["10.0.0.1", "10.0.0.2"], "AAAA": ["fd00::1"]}}) as zone:
        asking = records(zone.address)
        assert sorted(await asking.addresses("a.example", 4)) == ["10.0.0.1", "10.0.0.2"]
        assert zone.queries == [Asked("a.example", "A", "udp")]
        assert await asking.addresses("a.example", 6) == ("fd00::1",)


async def test_exchanges_come_by_preference_as_they_are_written(records):
    mx = ["20 Second.example", "10 z.example", "10 a.example"]
    async with Zone({"a.example": {"MX": mx}, "null.example": {"MX": ["0 ."]}, "none.example": {"A": []}}) as zone:
        asking = records(zone.address)
        assert await asking.exchanges("a.example") == ("a.example", "z.example", "Second.example")
        assert await asking.exchanges("null.example") == (".",)
        assert await asking.exchanges("none.example") == ()


async def test_pointers_are_names_without_their_last_dot(records):
    names = {
        "1.2.0.192.in-addr.arpa": {"PTR": ["host.example.org"]},
        "1" + ".0" * 23 + ".8.b.d.0.1.0.0.2.ip6.arpa": {"PTR": ["six.example.org"]},
    }
    async with Zone(names) as zone:
        asking = records(zone.address)
        assert await asking.pointers("192.0.2.1") == ("host.example.org",)
        assert await asking.pointers("2001:db8::1") == ("six.example.org",)
        assert await asking.pointers("192.0.2.2") == await asking.pointers("nobody") == ()


async def test_what_is_not_there_is_empty(records):
    async with Zone({"a.example": {"A": ["10.0.0.1"]}}) as zone:
        asking = records(zone.address)
        assert await asking.texts("a.example") == await asking.texts("b.example") == ()


async def test_static_and_hosts_entries_say_nothing(records, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("10.0.0.2 a.example\n")
    async with Zone({"a.example": {"A": ["10.0.0.3"]}}) as zone:
        asking = records(zone.address, hosts_file=str(hosts), static={"a.example": ("10.0.0.1",)})
        assert await asking.addresses("a.example", 4) == ("10.0.0.3",)


@pytest.mark.parametrize("fault", [Fault.SERVFAIL, Fault.REFUSED, Fault.TIMEOUT])
async def test_a_failure_says_who_did_not_answer(records, fault):
    async with Zone({"a.example": fault}) as zone:
        asking = records(zone.address, attempt=0.1 if fault is Fault.TIMEOUT else 5.0)
        for _ in range(2):
            with pytest.raises(Unanswered) as raised:
                await asking.texts("a.example")
    shown = {Fault.SERVFAIL: "SERVFAIL", Fault.REFUSED: "refused", Fault.TIMEOUT: "timeout"}[fault]
    assert str(raised.value) == f"a.example: {shown} from {zone.address}"


async def test_what_udp_truncates_is_asked_over_tcp(records):
    async with Zone({"a.example": {"TXT": [LONG]}}) as zone:
        assert await records(zone.address).texts("a.example") == (LONG.encode(),)
    assert zone.queries == [Asked("a.example", "TXT", "udp"), Asked("a.example", "TXT", "tcp")]


async def test_questions_are_joined_and_answers_kept(records):
    async with Zone({"a.example": {"TXT": ["hello"]}}) as zone:
        asking = records(zone.address)
        async with asyncio.TaskGroup() as tasks:
            for name in ("a.example", "A.example."):
                tasks.create_task(asking.texts(name))
        await asking.texts("a.example")
    assert zone.queries == [Asked("a.example", "TXT", "udp")]


async def test_what_strangers_ask_makes_nobody_forget_a_good_answer(resolver, clock):
    async with Zone({"a.example": {"A": ["10.0.0.1"]}}) as zone:
        asking = resolver(zone.address, stale=3600.0)
        await asking.exchanges("a.example")
        await Records(lambda: asking).exchanges("a.example")
        zone.set("a.example", "ANY", Fault.SERVFAIL)
        await clock.advance(61)
        found = await asking.exchanges("a.example")
    assert (found.status, found.exchanges) == (Resolution.OK, (Exchange(0, "a.example"),))


async def test_what_strangers_ask_takes_no_places_of_our_own_questions(resolver):
    silent = {f"{number}.example": Fault.TIMEOUT for number in range(100)}
    async with Zone({"a.example": {"A": ["10.0.0.1"]}, **silent}) as zone:
        asking = resolver(zone.address, attempt=60.0, total=60.0)
        records = Records(lambda: asking)
        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(records.texts(name)) for name in silent]
            while len(zone.queries) < len(silent):
                await asyncio.sleep(0)
            async with asyncio.timeout(30):
                assert (await asking.addresses("a.example")).status is Resolution.OK
            for task in waiting:
                task.cancel()


@pytest.mark.parametrize("type_", ["TXT", "A"])
async def test_an_answer_that_only_wastes_memory_is_none(records, type_):
    """One TXT record of 20000 strings is 60 kB on the wire, and a megabyte once it is read."""
    async with Zone({"a.example": {"TXT": [], "A": [f"10.0.{n // 250}.{n % 250}" for n in range(1000)]}}) as zone:
        strings = dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.IN, dns.rdatatype.TXT, [b"xy"] * 20_000)
        zone._names[dns.name.from_text("a.example")].records[dns.rdatatype.TXT] = None, [strings]
        asking = records(zone.address)
        with pytest.raises(Unanswered, match="a longer answer than any in use"):
            await (asking.texts("a.example") if type_ == "TXT" else asking.addresses("a.example", 4))


async def test_a_long_answer_is_given_and_not_kept(records, clock):
    """A stranger has as many names as he likes."""
    texts = [f"{number} {'x' * 600}" for number in range(30)]
    async with Zone({"a.example": {"TXT": texts[:10]}, "b.example": {"TXT": texts}}) as zone:
        asking = records(zone.address, stale=7200.0)
        for _ in range(2):
            assert len(await asking.texts("a.example")) == 10
            assert len(await asking.texts("b.example")) == 30
        asked = [query.name for query in zone.queries if query.transport == "tcp"]
        assert asked == ["a.example", "b.example", "b.example"]
        for name in ("a.example", "b.example"):
            zone.set(name, "ANY", Fault.SERVFAIL)
        await clock.advance(3600)
        assert len(await asking.texts("a.example")) == 10
        with pytest.raises(Unanswered):
            await asking.texts("b.example")


async def test_the_resolver_in_force_is_asked(resolver):
    async with Zone({"a.example": {"TXT": ["old"]}}) as old, Zone({"a.example": {"TXT": ["new"]}}) as new:
        force = [resolver(old.address)]
        asking = Records(lambda: force[-1])
        assert await asking.texts("a.example") == (b"old",)
        force.append(resolver(new.address))
        assert await asking.texts("a.example") == (b"new",)


@pytest.mark.parametrize(
    "name", ["joe+tag=x._spf.a.example", "a b.example", "-x-.example", "a\x00\\.example", "1.2.3.4"]
)
async def test_odd_octets_are_asked(records, name):
    """SPF macros make such names of local parts (RFC 7208 7.3)."""
    escaped = name.replace("\\", "\\\\").replace(" ", "\\032").replace("\x00", "\\000")
    async with Zone({f"{escaped}.": {"A": ["127.0.0.2"]}}) as zone:
        assert await records(zone.address).addresses(name, 4) == ("127.0.0.2",)


async def test_international_names_are_asked_as_a_labels(records):
    async with Zone({"xn--bcher-kva.example": {"TXT": ["hello"]}}) as zone:
        assert await records(zone.address).texts("B\u00fccher.example") == (b"hello",)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a..b", ".a.b", "x" * 64 + ".example", "a." * 127 + "a", "\ud800", "j\u00f6e+x.example"]
)
async def test_what_fits_into_no_question_is_not_there(records, name):
    async with Zone() as zone:
        assert await records(zone.address).texts(name) == ()
    assert zone.queries == []


@given(st.text() | st.text("ab.\\-\x00 \u00fc", max_size=300))
def test_any_text_is_a_question_or_none(name):
    question = _question(name)
    assert question is None or (question.isascii() and not question.endswith("."))
