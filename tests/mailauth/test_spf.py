"""SPF: results and their reasons, where pyspf is steered round, hostile records, and a real name server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
import spf as pyspf
from hypothesis import given
from hypothesis import strategies as st
from spf_zone import TIMEOUT, ZoneLookup, evaluated

from smtproute.core.address import Address
from smtproute.core.envelope import Client, Envelope
from smtproute.core.lookup import Unanswered
from smtproute.core.settings import Authentication, Role
from smtproute.core.settings import Resolver as ResolverSettings
from smtproute.mailauth import spf
from smtproute.mailauth.judgement import examine
from smtproute.mailauth.lookups import Lookups
from smtproute.mailauth.results import field
from smtproute.mailauth.spf import Identity, SpfResult
from smtproute.resolve.records import Records
from smtproute.resolve.resolver import Resolver
from smtproute.testing.zone import Fault, Zone
from smtproute.world import World


def names(record: str, **more: Any) -> dict[str, Any]:
    """A zone with the record at example.com, and what else there is."""
    return {"example.com": {"TXT": [record]}, **more}


@pytest.fixture
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as made:
        yield made


MX = {"example.com": {"TXT": ["v=spf1 mx -all"], "MX": ["10 a.example.net", "20 b.example.net"]}}
HOSTS = {"a.example.net": {"A": ["198.51.100.1"]}, "b.example.net": {"A": ["192.0.2.1"]}}
NESTED = {
    "example.com": {"TXT": ["v=spf1 include:_a.example.net ~all"]},
    "_a.example.net": {"TXT": ["v=spf1 include:_no.example.net include:_b.example.net -all"]},
    "_b.example.net": {"TXT": ["v=spf1 redirect=_c.example.net"]},
    "_c.example.net": {"TXT": ["v=spf1 ip4:192.0.2.0/28 -all"]},
    "_no.example.net": {"TXT": ["v=spf1 -all"]},
}
NEUTRAL = NESTED | {
    "example.com": {"TXT": ["v=spf1 include:_a.example.net +all"]},
    "_a.example.net": {"TXT": ["v=spf1 ?include:_b.example.net"]},
}


@pytest.mark.parametrize(
    ("zone", "ip", "result", "reason", "lookups", "voids"),
    [
        (
            names("v=spf1 ip4:192.0.2.0/28 -all"),
            "192.0.2.1",
            "pass",
            "192.0.2.1 matches ip4:192.0.2.0/28 of example.com",
            0,
            0,
        ),
        (names("v=spf1 ip4:192.0.2.0/28 -all"), "192.0.2.16", "fail", "192.0.2.16 matches -all of example.com", 0, 0),
        (
            names("v=spf1 ip4:192.0.2.1"),
            "::ffff:192.0.2.1",
            "pass",
            "192.0.2.1 matches ip4:192.0.2.1 of example.com",
            0,
            0,
        ),
        (
            names("v=spf1 ip6:2001:DB8::/32 ~all"),
            "2001:db8::1",
            "pass",
            "2001:db8::1 matches ip6:2001:DB8::/32 of example.com",
            0,
            0,
        ),
        (names("v=spf1 ip4:0.0.0.0/0 ~all"), "fe80::1%eth0", "softfail", "fe80::1 matches ~all of example.com", 0, 0),
        (
            names("v=spf1 ?ip4:192.0.2.1 -all"),
            "192.0.2.1",
            "neutral",
            "192.0.2.1 matches ?ip4:192.0.2.1 of example.com",
            0,
            0,
        ),
        (names("v=spf1"), "192.0.2.1", "neutral", "no mechanism of example.com matches 192.0.2.1", 0, 0),
        (names("v=spf2 -all"), "192.0.2.1", "none", "example.com publishes no SPF record", 0, 0),
        (MX | HOSTS, "192.0.2.1", "pass", "192.0.2.1 matches mx of example.com", 1, 0),
        (
            names("v=spf1 a exists:no.example.com -all"),
            "192.0.2.1",
            "fail",
            "192.0.2.1 matches -all of example.com",
            2,
            2,
        ),
        (names("v=spf1 a a a -all"), "192.0.2.1", "permerror", "example.com: More than 2 look-ups found nothing", 3, 3),
        (
            NESTED,
            "192.0.2.1",
            "pass",
            "192.0.2.1 matches include:_a.example.net of example.com, through _c.example.net",
            4,
            0,
        ),
        (NESTED, "198.51.100.1", "softfail", "198.51.100.1 matches ~all of example.com", 4, 0),
        (NEUTRAL, "192.0.2.1", "pass", "192.0.2.1 matches +all of example.com", 3, 0),
        (
            names("v=spf1 redirect=_spf.example.com", **{"_spf.example.com": {"TXT": ["v=spf1 -all"]}}),
            "192.0.2.1",
            "fail",
            "192.0.2.1 matches -all of _spf.example.com",
            1,
            0,
        ),
        (
            names("v=spf1 include:_spf.example.com", **{"_spf.example.com": {"TXT": ["v=spf1 moo"]}}),
            "192.0.2.1",
            "permerror",
            "_spf.example.com: Unknown mechanism found: moo",
            1,
            0,
        ),
        (
            {"example.com": {"TXT": ["v=spf1 -all", "v=spf1 +all"]}},
            "192.0.2.1",
            "permerror",
            "example.com: Two or more type TXT spf records found.",
            0,
            0,
        ),
        (
            names("v=spf1 a:silent.example -all", **{"silent.example": TIMEOUT}),
            "192.0.2.1",
            "temperror",
            "silent.example: timeout",
            1,
            0,
        ),
        ({"example.com": TIMEOUT}, "192.0.2.1", "temperror", "example.com: timeout", 0, 0),
        ({}, "nonsense", "none", "nonsense is no IP address", 0, 0),
    ],
)
def test_results_say_why(zone: Any, ip: str, result: str, reason: str, lookups: int, voids: int) -> None:
    found = evaluated(zone, ip)
    assert (found.result, found.reason) == (result, reason)
    assert (found.lookups, found.voids) == (lookups, voids)


@pytest.mark.parametrize(
    ("domain", "reason"),
    [
        ("[192.0.2.1]", "[192.0.2.1] is an address literal, so it has no SPF record"),
        ("localhost", "no full domain name"),
        ("192.0.2.1", "no full domain name"),
        ("a..example", "no full domain name"),
        ("x" * 64 + ".example", "no full domain name"),
        ("", "no full domain name"),
        ("\u00fc.example", "no full domain name"),
    ],
)
def test_what_can_have_no_record_is_not_asked_for(domain: str, reason: str) -> None:
    zone = ZoneLookup({domain: {"TXT": ["v=spf1 -all"]}})
    found = evaluated(zone, sender=f"joe@{domain}", domain=domain)
    assert found.result is SpfResult.NONE
    assert reason in found.reason
    assert found.reason.isascii()
    assert zone.asked == []


def test_the_record_is_that_of_the_domain_itself() -> None:
    assert evaluated(NESTED).record == "v=spf1 include:_a.example.net ~all"


async def checked(pool: Executor, zone: Any, path: str, helo: str, ip: str = "192.0.2.1") -> tuple[spf.Spf, spf.Spf]:
    client = Client(ip, 25000, "in", Role.INBOUND, False, helo)
    envelope = Envelope(client, Address.parse(path) if path else None)
    return await spf.check(envelope, ZoneLookup(zone), pool, "mx.example.org")


IDENTITIES = {
    "example.com": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]},
    "mail.example.com": {"TXT": ["v=spf1 exists:%{l}.%{o}.t.example.com -all"]},
    "postmaster.mail.example.com.t.example.com": {"A": ["127.0.0.2"]},
    "xn--bcher-kva.example": {"TXT": ["v=spf1 exists:%{l}.%{d}.t.example.com -all"]},
    "joe.xn--bcher-kva.example.t.example.com": {"A": ["127.0.0.2"]},
}


@pytest.mark.parametrize(
    ("path", "helo", "results"),
    [
        (
            "joe@example.com",
            "mail.example.com",
            ("smtp.mailfrom=joe@example.com pass", "smtp.helo=mail.example.com pass"),
        ),
        ("", "mail.example.com", ("smtp.mailfrom=postmaster@mail.example.com pass", "smtp.helo=mail.example.com pass")),
        ("", "[192.0.2.1]", ("smtp.mailfrom=postmaster@[192.0.2.1] none", "smtp.helo=[192.0.2.1] none")),
        (
            "joe@B\u00fccher.example",
            "B\u00fccher.example.",
            ("smtp.mailfrom=joe@xn--bcher-kva.example pass", "smtp.helo=xn--bcher-kva.example fail"),
        ),
        ('"a@b"@example.com', "not a name", ('smtp.mailfrom="a@b"@example.com pass', "smtp.helo=not a name none")),
        ("joe@[192.0.2.1]", "", ("smtp.mailfrom=joe@[192.0.2.1] none", "smtp.helo= none")),
    ],
)
async def test_both_identities(pool: Executor, path: str, helo: str, results: tuple[str, str]) -> None:
    found = await checked(pool, IDENTITIES, path, helo)
    assert [each.identity for each in found] == [Identity.MAIL_FROM, Identity.HELO]
    for each, expected in zip(map(spf.verdict, found), results, strict=True):
        ((name, value),) = each.properties
        assert f"{name}={value} {each.result}" == expected


async def test_the_verdict_is_a_result_of_authentication_results(pool: Executor) -> None:
    verdicts = [spf.verdict(each) for each in await checked(pool, IDENTITIES, "joe@example.com", "mail.example.com")]
    unfolded = field("mx.example.org", verdicts).replace(b"\r\n", b"")
    assert b"spf=pass (192.0.2.1 matches ip4:192.0.2.1 of example.com) smtp.mailfrom=joe@example.com;" in unfolded
    assert b"spf=pass (192.0.2.1 matches exists:%{l}.%{o}.t.example.com of mail.example.com) smtp.helo=" in unfolded


def test_an_explanation_is_looked_up_once_it_is_wanted() -> None:
    """pyspf asks for it each time it reads the record, also of the included ones, whose nobody ever says."""
    zone = names(
        "v=spf1 include:_spf.example.com exp=why.%{d} -all",
        **{
            "_spf.example.com": {"TXT": ["v=spf1 ip4:192.0.2.1 exp=other.example.com -all"]},
            "why.example.com": {"TXT": ["%{c} may not send for %{o}, says %{r}."]},
        },
    )
    assert {("why.example.com", "TXT"), ("other.example.com", "TXT")} <= {*stock(zone)[1]}
    passing, failing = ZoneLookup(zone), ZoneLookup(zone)
    assert evaluated(passing).explanation == ""
    assert {name for name, _ in passing.asked} == {"example.com", "_spf.example.com"}
    found = evaluated(failing, "198.51.100.1")
    assert found.explanation == "198.51.100.1 may not send for example.com, says receiver.example."
    assert {name for name, _ in failing.asked} == {"example.com", "_spf.example.com", "why.example.com"}


async def test_nobody_is_asked_for_an_explanation_that_nobody_reads(pool: Executor) -> None:
    lookup = ZoneLookup(names("v=spf1 exp=why.example.com -all", **{"why.example.com": {"TXT": ["no"]}}))
    client = Client("192.0.2.1", 1, "mx", Role.INBOUND, trusted=False, helo="example.com")
    envelope = Envelope(client, Address.parse("joe@example.com"))
    found = await examine(b"\r\n", envelope, Authentication(), lookup, pool, "mx.example.org", at=0.0)
    assert [each.result for each in found.spf or ()] == [SpfResult.FAIL, SpfResult.FAIL]
    assert ("why.example.com", "TXT") not in lookup.asked
    found = await examine(b"\r\n", envelope, Authentication(), lookup, pool, "mx.example.org", at=0.0, explained=True)
    assert [each.explanation for each in found.spf or ()] == ["no", "no"]


def test_an_explanation_is_that_of_the_record_that_fails() -> None:
    zone = names(
        "v=spf1 exp=why.example.com redirect=_spf.example.com",
        **{
            "_spf.example.com": {"TXT": ["v=spf1 ?ip4:192.0.2.2 ~ip4:192.0.2.3 exp=why.example.org -all"]},
            "why.example.com": {"TXT": ["not this"]},
            "why.example.org": {"TXT": ["%{d} of %{o}"]},
        },
    )
    assert evaluated(zone).explanation == "_spf.example.com of example.com"
    for ip, result in (("192.0.2.2", SpfResult.NEUTRAL), ("192.0.2.3", SpfResult.SOFTFAIL)):
        found = evaluated(zone, ip)
        assert (found.result, found.explanation) == (result, "")


@pytest.mark.parametrize("text", [TIMEOUT, ["%{d"], ["\u00fc"], ["one", "two"], ["x" * 1000], []])
def test_an_explanation_that_is_no_good_changes_nothing(text: Any) -> None:
    found = evaluated(names("v=spf1 exp=why.example.com -all", **{"why.example.com": {"TXT": text}}))
    assert (found.result, found.explanation) == (SpfResult.FAIL, "")


def stock(zone: Any, ip: str = "192.0.2.1", sender: str = "joe@example.com", helo: str = "mail.example.com") -> Any:
    """What pyspf says, and what it asks."""
    lookup = ZoneLookup(zone)
    asked = []

    def answers(name: str, qtype: str, *_: Any) -> Iterator[Any]:
        asked.append((name, qtype))
        try:
            found = lookup._found(name, qtype)
        except Unanswered as unanswered:
            raise pyspf.TempError(str(unanswered)) from None
        for value in found:
            match qtype:
                case "TXT":
                    yield (name, qtype), (value.encode(),)
                case "MX":
                    yield (name, qtype), (int(value.split()[0]), value.split()[1])
                case _:
                    yield (name, qtype), value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyspf, "DNSLookup", answers)
        result, _, _ = pyspf.query(i=ip, s=sender, h=helo).check()
    return result, asked


POINTER = "1.2.0.192.in-addr.arpa"
THERE = {"A": ["127.0.0.2"]}
NOWHERE_6 = {
    "example.com": {"TXT": ["v=spf1 mx ip6:2001:db8::1 -all"], "MX": ["1 a.example", "2 b.example", "3 c.example"]}
}
REPEATED = "v=spf1 exists:" + "%{l}." * 4 + "t.example.com -all"
LABELS = "x." * 30 + "xxxxx"
FITTING = "x." * 18 + "xxxxx." + f"{LABELS}." * 3 + "t.example.com"


@pytest.mark.parametrize(
    ("zone", "more", "theirs", "ours"),
    [
        pytest.param(
            names("v=spf1 exists:%{l}.%{o} -all", **{'"a@b".example.com': THERE}),
            {"sender": '"a@b"@example.com'},
            "none",
            "pass",
            id="the domain is what follows the last @",
        ),
        pytest.param(
            names("v=spf1 REDIRECT=_spf.example.com", **{"_spf.example.com": {"TXT": ["v=spf1 -all"]}}),
            {},
            "neutral",
            "fail",
            id="modifiers are caseless (4.6.1)",
        ),
        pytest.param(
            names("v=spf1 x=1 ip4:192.0.2.1 x=2 -all"),
            {},
            "permerror",
            "pass",
            id="unknown modifiers are ignored however often (6)",
        ),
        pytest.param(
            names("v=spf1 ptr ip4:192.0.2.1 -all", **{POINTER: TIMEOUT}),
            {},
            "temperror",
            "pass",
            id="a client's names that cannot be looked up are no match (5.5)",
        ),
        pytest.param(
            names(
                "v=spf1 ptr -all",
                **{POINTER: {"PTR": ["a.example.com", "b.example.com"]}},
                **{"a.example.com": TIMEOUT, "b.example.com": {"A": ["192.0.2.1"]}},
            ),
            {},
            "temperror",
            "pass",
            id="a client's name whose address cannot be looked up is skipped (5.5)",
        ),
        pytest.param(
            names("v=spf1 ptr a ip4:192.0.2.1 -all", **{POINTER: {"PTR": [f"{x}.example" for x in "abc"]}}),
            {},
            "permerror",
            "pass",
            id="a client's names that lead nowhere are no void look-ups of the domain",
        ),
        pytest.param(
            {**NOWHERE_6, **{f"{x}.example": {"A": ["192.0.2.3"]} for x in "abc"}},
            {"ip": "2001:db8::1"},
            "permerror",
            "pass",
            id="exchangers without IPv6 are no void look-ups (4.6.4 counts terms)",
        ),
        pytest.param(
            names("v=spf1 exists:%{d0}.example.com ip4:192.0.2.1"),
            {},
            "pass",
            "permerror",
            id="a macro takes one part at least (7.1)",
        ),
        pytest.param(
            names("v=spf1 exists:%{d1x}.example.com ip4:192.0.2.1"),
            {},
            "pass",
            "permerror",
            id="a macro ends where its grammar ends (7.1)",
        ),
        pytest.param(
            names("v=spf1 exists:%{d2!}.example.com ip4:192.0.2.1"),
            {},
            "pass",
            "permerror",
            id="not every sign is a delimiter (7.1)",
        ),
        pytest.param(
            names("v=spf1 exists:%{dR}.t.example.com -all", **{"com.example.t.example.com": THERE}),
            {},
            "fail",
            "pass",
            id="r is caseless (7.1)",
        ),
        pytest.param(
            names("v=spf1 exists:%{h-}.t.example.com -all", **{"mail.x.t.example.com": THERE}),
            {"helo": "mail-x"},
            "fail",
            "pass",
            id="parts are joined by dots (7.3)",
        ),
        pytest.param(
            names("v=spf1 exists:t.%% ip4:192.0.2.1 -all"),
            {},
            "permerror",
            "pass",
            id="%% may be last (7.1)",
        ),
        pytest.param(
            names("v=spf1 exists:%{l}.example.com -all", **{"j\u00f6e.example.com": THERE}),
            {"sender": "j\u00f6e@example.com"},
            "pass",
            "fail",
            id="a local part beyond ASCII matches nothing (RFC 8616 4)",
        ),
        pytest.param(
            names("v=spf1 exists:%{L}.example.com -all", **{"j%c3%b6e.example.com": THERE}),
            {"sender": "j\u00f6e@example.com"},
            "pass",
            "fail",
            id="nor does it escaped (RFC 8616 4)",
        ),
        pytest.param(
            names(REPEATED, **{FITTING: THERE}),
            {"sender": f"{LABELS}@example.com"},
            "fail",
            "pass",
            id="a long name loses labels until it fits (7.3)",
        ),
        pytest.param(
            names("v=spf1 exists:a\tb.example.com ip4:192.0.2.1"),
            {},
            "pass",
            "permerror",
            id="a record is visible characters and spaces (12)",
        ),
        pytest.param(
            {"localhost": {"TXT": ["v=spf1 -all"]}},
            {"sender": "joe@localhost"},
            "fail",
            "none",
            id="a single label is no domain to ask (4.3)",
        ),
    ],
)
def test_where_pyspf_is_steered_round(zone: Any, more: dict[str, str], theirs: str, ours: str) -> None:
    assert stock(zone, **more)[0] == theirs
    assert evaluated(zone, **more).result == ours


@pytest.mark.parametrize("record", [f"v=spf1 a/{'1' * 5000} -all", f"v=spf1 a:%{{d{'1' * 5000}}}.example.com -all"])
def test_what_pyspf_dies_of_is_a_verdict(record: str) -> None:
    with pytest.raises(ValueError, match="4300 digits"):
        stock(names(record))
    assert evaluated(names(record)).result is SpfResult.PERMERROR


def test_redirect_beside_all_is_no_look_up() -> None:
    """RFC 7208 6.1 has it ignored. pyspf counts it when it reads it."""
    includes = {f"i{n}.example": {"TXT": ["v=spf1 -all"]} for n in range(10)}
    record = f"v=spf1 {' '.join(f'include:{name}' for name in includes)} -all redirect=other.example"
    assert stock(names(record, **includes))[0] == "permerror"
    found = evaluated(names(record, **includes))
    assert (found.result, found.lookups) == (SpfResult.FAIL, 10)
    assert evaluated(names("v=spf1 -all redirect=")).result is SpfResult.PERMERROR
    assert evaluated(names("v=spf1 -all redirect=a.example redirect=a.example")).result is SpfResult.PERMERROR


def test_exchangers_are_looked_up_together() -> None:
    """pyspf asks for one, waits, and asks for the next."""
    together: list[int] = []

    class Waiting(ZoneLookup):
        waiting = 0

        async def addresses(self, name: str, version: int) -> tuple[str, ...]:
            self.waiting += 1
            await asyncio.sleep(0)
            together.append(self.waiting)
            return await super().addresses(name, version)

    assert evaluated(Waiting(MX | HOSTS)).result is SpfResult.PASS
    assert together == [2, 2]


def test_a_question_is_put_once_however_often_it_runs() -> None:
    zone = ZoneLookup(NESTED)
    evaluated(zone)
    assert len(zone.asked) == len(set(zone.asked)) == 5


FULL = "a." * 100 + "x@example.com"
TEN = {f"m{n}.example": {"MX": [f"{k} h{n}x{k}.example" for k in range(10)]} for n in range(10)}
MANY = {f"h{n}x{k}.example": {"A": [f"10.{n}.{k}.{j}" for j in range(10)]} for n in range(10) for k in range(10)}
LOOP = {f"i{n}.example": {"TXT": [f"v=spf1 {'ip4:10.0.0.1 ' * 80} include:i{n + 1}.example -all"]} for n in range(12)}
NAMED = {f"p{n}.example": {"A": ["192.0.2.1"] * 200} for n in range(3000)}


@pytest.mark.parametrize(
    ("zone", "result", "reason"),
    [
        (names("v=spf1 " + "a " * 500_000), "permerror", "More than 32768 octets"),
        (names("v=spf1 " + "a " * 5000), "permerror", "More than 1000 terms"),
        (names("v=spf1 " + "ip4:10.0.0.1 " * 950 + "-all"), "fail", "matches -all"),
        (names("v=spf1 " + "ip6:2001:db8::1:2:3/64 " * 950 + "-all"), "fail", "matches -all"),
        (names("v=spf1 " + " ".join(f"m{n}=x" for n in range(950))), "neutral", "no mechanism"),
        (names("v=spf1 exists:" + "%{S1r-+.}" * 3000 + ".com"), "permerror", "More than 100 macros"),
        (names("v=spf1 exists:" + "%{S99r-+.}" * 100 + ".com -all"), "fail", "matches -all"),
        (names("v=spf1 exists:" + "%{" * 99 + ".com"), "permerror", "Not a macro"),
        (names("v=spf1 a:." + "a" * 30_000 + "!"), "permerror", "Not a domain name"),
        (names("v=spf1 a:." + "a-" * 15_000 + "!"), "permerror", "Not a domain name"),
        (names("v=spf1 a:" + "%." * 90 + "." * 30_000), "permerror", "Not a "),
        (names("v=spf1 a" + "/1" * 15_000), "permerror", "Unknown mechanism"),
        (
            names("v=spf1 " + " ".join(f"mx:{name}" for name in TEN) + " -all", **TEN, **MANY),
            "permerror",
            "More than 60 questions",
        ),
        ({"example.com": {"TXT": ["v=spf1 a"], "A": ["10.0.0.1"] * 4000}}, "permerror", "More than 100 addresses"),
        ({"example.com": {"TXT": ["v=spf1 mx"], "MX": [f"1 {n}.x" for n in range(11)]}}, "permerror", "10 MX records"),
        ({"example.com": {"TXT": ["x"] * 4000}}, "permerror", "More than 250 TXT records"),
        (names("v=spf1 include:i0.example", **LOOP), "permerror", "Too many DNS lookups"),
        (
            names("v=spf1 include:i0.example", **{"i0.example": {"TXT": ["v=spf1 redirect=i0.example"]}}),
            "permerror",
            "Too many",
        ),
        (names("v=spf1 ptr:example.com -all", **{POINTER: {"PTR": list(NAMED)}}, **NAMED), "fail", "matches -all"),
        (
            names(
                "v=spf1 ptr:%{p} -all",
                **{POINTER: {"PTR": ["x" * 64 + ".a", "..", "p.example"]}},
                **{"p.example": {"A": ["192.0.2.1"]}},
            ),
            "pass",
            "matches ptr",
        ),
        ({"example.com": {"TXT": [b"v=spf1 \xff -all"]}}, "permerror", "Non-ascii"),
        ({"example.com": {"TXT": [b"v=spf1 \x00 -all"]}}, "permerror", "control character"),
        ({"example.com": {"TXT": [b"", b"v=spf1 -all"]}}, "fail", "matches -all"),
    ],
)
def test_hostile_records_are_verdicts(zone: Any, result: str, reason: str) -> None:
    """Most of these take minutes where anything is quadratic, or tried without bound."""
    found = evaluated(zone, sender=FULL)
    assert (found.result, reason in found.reason) == (result, True), found.reason
    assert len(found.reason) <= 300


async def test_the_budget_of_a_message_bounds_it(pool: Executor) -> None:
    zone = ZoneLookup(names("v=spf1 " + " ".join(f"mx:{name}" for name in TEN) + " -all", **TEN, **MANY))
    found = await spf.evaluate(
        "192.0.2.1", "example.com", "joe@example.com", "h.example", Lookups(zone, 60.0, 20), pool, "mx.example.org"
    )
    assert found.result is SpfResult.TEMPERROR
    assert found.reason.endswith("not asked, after 20 look-ups for one message")
    assert len(zone.asked) == 20


async def test_who_is_cancelled_does_not_disturb_the_other(pool: Executor) -> None:
    arrived, allowed = asyncio.Event(), asyncio.Event()

    class Gate(ZoneLookup):
        async def addresses(self, name: str, version: int) -> tuple[str, ...]:
            arrived.set()
            await allowed.wait()
            return await super().addresses(name, version)

    lookups = Lookups(Gate(MX | HOSTS), 60.0, 100)
    ask = ("192.0.2.1", "example.com", "joe@example.com", "h.example", lookups, pool, "mx.example.org")
    async with asyncio.TaskGroup() as tasks:
        first, second = (tasks.create_task(spf.evaluate(*ask)) for _ in range(2))
        await arrived.wait()
        first.cancel()
        allowed.set()
    assert first.cancelled()
    assert second.result().result is SpfResult.PASS


async def test_through_a_name_server(pool: Executor) -> None:
    zone = Zone(
        {
            "example.com": {
                "TXT": ["unrelated", f"v=spf1 include:_spf.example.net {'ip4:10.0.0.1 ' * 60}mx -all"],
                "MX": ["10 a.example.net", "20 b.example.net"],
            },
            "_spf.example.net": {"CNAME": ["_spf.example.org"]},
            "_spf.example.org": {"TXT": ["v=spf1 exists:%{l}.%{ir}._spf.%{d} -all"]},
            "joe+tag.1.2.0.192._spf._spf.example.net": THERE,
            "a.example.net": {"A": ["198.51.100.1"], "AAAA": ["2001:db8::1"]},
            "b.example.net": {"A": ["198.51.100.2"]},
            "broken.example": {"TXT": Fault.SERVFAIL},
        }
    )
    async with zone:
        resolver = Resolver(ResolverSettings(servers=(zone.address,)), World())
        lookup = Lookups(Records(lambda: resolver), 60.0, 100)

        async def found(ip: str, sender: str) -> str:
            domain = sender.rpartition("@")[2]
            result = await spf.evaluate(ip, domain, sender, "h.example", lookup, pool, "mx.example.org")
            return f"{result.result}: {result.reason}"

        matched = "192.0.2.1 matches include:_spf.example.net of example.com"
        assert await found("192.0.2.1", "joe+tag@example.com") == f"pass: {matched}"
        assert await found("198.51.100.2", "ann@example.com") == "pass: 198.51.100.2 matches mx of example.com"
        assert await found("2001:db8::1", "ann@example.com") == "pass: 2001:db8::1 matches mx of example.com"
        assert await found("192.0.2.9", "ann@example.com") == "fail: 192.0.2.9 matches -all of example.com"
        assert (
            await found("192.0.2.9", "x@broken.example") == f"temperror: broken.example: SERVFAIL from {zone.address}"
        )
        assert await found("192.0.2.9", "x@none.example") == "none: none.example publishes no SPF record"


MECHANISMS = st.sampled_from(
    ["a", "mx", "ptr", "exists", "include", "ip4", "ip6", "all", "redirect", "exp", "prt", "x"]
)
DOMAINS = st.sampled_from(
    ["example.com", "a.example.com", "%{d}", "%{p2}.example.com", "%{S1r-}", "", "1.2.3.4", "::1"]
)
TERMS = st.one_of(
    st.builds(
        "{}{}{}{}{}".format,
        st.sampled_from(["", "+", "-", "~", "?", "%"]),
        MECHANISMS,
        st.sampled_from(":=/"),
        DOMAINS,
        st.sampled_from(["", "/24", "//64", "/33", ","]),
    ),
    st.text(max_size=20),
)
TEXTS = st.builds(
    lambda terms: " ".join(["v=spf1", *terms]).encode("utf-8", "surrogatepass"), st.lists(TERMS, max_size=8)
)
VALUES = st.lists(st.sampled_from(["192.0.2.1", "198.51.100.1"]), max_size=3)
TYPES = st.fixed_dictionaries(
    {
        "TXT": st.lists(TEXTS | st.binary(max_size=30), max_size=3) | st.just(TIMEOUT),
        "A": VALUES | st.just(TIMEOUT),
        "MX": st.lists(st.sampled_from(["1 example.com", "2 .", "3 a.example.com"]), max_size=3) | st.just(TIMEOUT),
        "PTR": st.lists(st.sampled_from(["example.com", "a\\.b.", "A.example.com", ""]), max_size=3) | st.just(TIMEOUT),
    }
)


@given(
    st.fixed_dictionaries({"example.com": TYPES, "a.example.com": TYPES, POINTER: TYPES}),
    st.text(max_size=30),
    st.just("example.com") | st.text(max_size=30),
    st.text(max_size=30),
    st.sampled_from(["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"]),
)
def test_only_verdicts_come_out(zone: Any, local: str, domain: str, helo: str, ip: str) -> None:
    found = evaluated(zone, ip, f"{local}@{domain}", helo, domain)
    assert isinstance(found.result, SpfResult)
    assert found.reason.isascii()
    assert found.reason.isprintable()
    assert field("mx.example.org", [spf.verdict(found)])
