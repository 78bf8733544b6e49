"""DMARC: the records that count, what is aligned, what is asked; and where the stock library says otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spf_zone import TIMEOUT, Names, ZoneLookup

from smtproute.core.address import Domain
from smtproute.core.policy import Ruling, Seal
from smtproute.core.verdict import Disposition
from smtproute.mailauth import dmarc
from smtproute.mailauth.arc import Chain, ChainStatus
from smtproute.mailauth.dkim import DkimResult, Signature
from smtproute.mailauth.dmarc import Dmarc, DmarcResult, Record, RecordFault
from smtproute.mailauth.spf import Identity, Spf, SpfResult

REJECT, QUARANTINE, NONE = Disposition.REJECT, Disposition.QUARANTINE, Disposition.NONE


def judged(
    names: Names,
    author: str = "a@example.org",
    spf: tuple[str, str] | None = None,
    signatures: Sequence[tuple[str, str]] | None = (),
) -> Dmarc:
    """What DMARC says of a message with this From; SPF and DKIM as (domain, result)."""
    message = f"From: {author}\r\nSubject: x\r\n\r\nbody\r\n".encode() if author else b"Subject: x\r\n\r\nbody\r\n"
    by_spf = [Spf(Identity.MAIL_FROM, spf[0], SpfResult(spf[1]), "")] if spf else []
    by_dkim = None if signatures is None else [Signature(DkimResult(how), "", name) for name, how in signatures]
    return dmarc.judge(discovered(message, ZoneLookup(names)), by_spf, by_dkim)


def discovered(message: bytes, lookup: ZoneLookup) -> dmarc.Discovery:
    async def found() -> dmarc.Discovery:
        with ThreadPoolExecutor(1) as pool:
            return await dmarc.discover(message, lookup, pool)

    return asyncio.run(found())


def published(*texts: str, domain: str = "example.org") -> dict[str, Mapping[str, Sequence[str]]]:
    return {f"_dmarc.{domain}": {"TXT": texts}}


RECORDS = {
    "v=DMARC1; p=reject": Record(REJECT, REJECT),
    "v=DMARC1;p=none": Record(NONE, NONE),
    "V = DMARC1 ; P = Quarantine ; SP = NONE ;": Record(QUARANTINE, NONE),
    "v=DMARC1; sp=reject; p=none": Record(NONE, REJECT),
    "v=DMARC1; p=reject; adkim=s; aspf=S; pct=20": Record(REJECT, REJECT, True, True, 20),
    "v=DMARC1; p=reject; adkim=x; aspf=; pct=101": Record(REJECT, REJECT),
    "v=DMARC1; p=reject; pct=-1; ri=x; fo; =; ;; unknown=1": Record(REJECT, REJECT),
    "v=DMARC1; p=reject; pct=00": Record(REJECT, REJECT, percent=0),
    "v=DMARC1; p=reject; p=none": Record(REJECT, REJECT),
    "v=DMARC1; p=reject; pct=" + "1" * 5000: Record(REJECT, REJECT),
    "v=DMARC1; p=wrong; rua=mailto:a@example.org": Record(NONE, NONE),
    "v=DMARC1; rua=mailto:a@example.org!10m": Record(NONE, NONE),
    "v=DMARC1; p=reject; sp=wrong; rua=x, mailto:a@example.org": Record(NONE, NONE),
}
BROKEN = [
    "v=DMARC1",
    "v=DMARC1;",
    "v=DMARC1; p=wrong",
    "v=DMARC1; p=reject; sp=wrong",
    "v=DMARC1; p=; rua=",
    "v=DMARC1; rua=nobody",
    "v=DMARC1; p reject",
]
OTHERS = ["v=DMARC2; p=reject", "v=dmarc1; p=reject", "v=DMARC10; p=reject", "p=reject; v=DMARC1", " v=DMARC1", "x", ""]


@pytest.mark.parametrize("text", RECORDS)
def test_records(text: str) -> None:
    """RFC 7489 6.3, 6.6.3: what is wrong beside p= and sp= is passed over; with a rua= these are p=none."""
    assert dmarc.record_in([b"other", text.replace("V ", "v ").encode()]) == RECORDS[text]


@pytest.mark.parametrize("text", BROKEN)
def test_records_that_ask_for_nothing(text: str) -> None:
    with pytest.raises(RecordFault, match="no valid p=, or an invalid sp=, and no rua="):
        dmarc.record_in([text.encode()])
    found = judged(published(text))
    assert (found.result, found.asked) == (DmarcResult.PERMERROR, NONE)


def test_records_of_others_are_discarded() -> None:
    assert dmarc.record_in([text.encode() for text in OTHERS]) is None
    assert dmarc.record_in([b"\xff", *(text.encode() for text in OTHERS), b"v=DMARC1; p=none"]) == Record(NONE, NONE)


def test_of_several_records_none_counts() -> None:
    """RFC 7489 6.6.3 5: and the organisational domain is not asked instead."""
    names = {
        **published("v=DMARC1; p=none", "v=DMARC1; p=reject", domain="a.example.org"),
        **published("v=DMARC1; p=none"),
    }
    found = judged(names, "x@a.example.org")
    assert (found.result, found.asked) == (DmarcResult.PERMERROR, NONE)
    assert found.reason == "_dmarc.a.example.org: there are 2 DMARC records, so none counts"


@given(
    st.lists(st.binary(max_size=40) | st.sampled_from([b"v=DMARC1; ", b"p=reject", b"; sp=", b"; rua=a:b", b"; pct="]))
)
def test_a_record_is_a_record_or_a_fault(parts: list[bytes]) -> None:
    try:
        found = dmarc.record_in([b"v=DMARC1;" + b"".join(parts)])
    except RecordFault:
        return
    assert found is not None and 0 <= found.percent <= 100


@pytest.mark.parametrize(
    ("domain", "parent"),
    [
        ("example.org", "example.org"),
        ("a.b.example.org", "example.org"),
        ("my-domain.com", "my-domain.com"),
        ("mail.my-domain.com", "my-domain.com"),
        ("a.example.co.uk", "example.co.uk"),
        ("co.uk", "co.uk"),
        ("a.b.xn--bcher-kva.de", "xn--bcher-kva.de"),
        ("a.xn--55qx5d.cn", "a.xn--55qx5d.cn"),
        ("a.b.city.kawasaki.jp", "city.kawasaki.jp"),
        ("a.b.unheard-of", "b.unheard-of"),
        ("localhost", "localhost"),
        ("", ""),
        ("a..b", "a..b"),
    ],
)
def test_organisational_domains(domain: str, parent: str) -> None:
    assert dmarc.organisational(domain) == parent


def test_the_record_is_the_domains_own_or_that_of_its_organisational_domain() -> None:
    record = "v=DMARC1; p=reject; sp=quarantine"
    own = judged(published(record, domain="a.b.example.org"), "x@a.b.example.org")
    assert (own.result, own.domain, own.asked) == (DmarcResult.FAIL, "a.b.example.org", REJECT)
    inherited = judged(published(record), "x@a.b.example.org")
    assert (inherited.result, inherited.domain, inherited.asked) == (DmarcResult.FAIL, "a.b.example.org", QUARANTINE)
    assert judged(published("v=DMARC1; p=reject"), "x@a.b.example.org").asked is REJECT
    assert judged(published(record)).asked is REJECT
    between = judged(published(record, domain="b.example.org"), "x@a.b.example.org")
    assert (between.result, between.reason) == (
        DmarcResult.NONE,
        "there is no DMARC record at _dmarc.a.b.example.org or _dmarc.example.org",
    )


def test_both_names_are_asked_at_once() -> None:
    lookup = ZoneLookup(published("v=DMARC1; p=none", domain="a.example.org"))
    discovered(b"From: x@a.example.org\r\n\r\n", lookup)
    assert sorted(lookup.asked) == [("_dmarc.a.example.org", "TXT"), ("_dmarc.example.org", "TXT")]
    assert judged({"_dmarc.a.example.org": {}, "_dmarc.example.org": TIMEOUT}, "x@a.example.org").result == "temperror"
    names = {**published("v=DMARC1; p=none", domain="a.example.org"), "_dmarc.example.org": TIMEOUT}
    assert judged(names, "x@a.example.org").result == "fail"


def test_no_answer_is_a_temperror() -> None:
    found = judged({"_dmarc.example.org": TIMEOUT})
    assert (found.result, found.asked, found.asks.doubtful) == (DmarcResult.TEMPERROR, NONE, True)
    assert found.reason == "_dmarc.example.org could not be looked up: _dmarc.example.org: timeout"


STRICT = "v=DMARC1; p=reject; adkim=s; aspf=s"
RELAXED = "v=DMARC1; p=reject"
ALIGNMENT = [
    (RELAXED, ("example.org", "pass"), (), "pass"),
    (RELAXED, ("bounce.example.org", "pass"), (), "pass"),
    (STRICT, ("bounce.example.org", "pass"), (), "fail"),
    (STRICT, ("example.org", "pass"), (), "pass"),
    (RELAXED, ("example.org", "softfail"), (), "fail"),
    (RELAXED, ("example.net", "pass"), (), "fail"),
    (RELAXED, ("notexample.org", "pass"), (), "fail"),
    (RELAXED, None, (("example.org", "pass"),), "pass"),
    (RELAXED, None, (("esp.example", "pass"), ("mail.example.org", "pass")), "pass"),
    (STRICT, None, (("esp.example", "pass"), ("mail.example.org", "pass")), "fail"),
    (STRICT, None, (("mail.example.org", "pass"), ("example.org", "fail"), ("example.org", "pass")), "pass"),
    (RELAXED, ("example.net", "fail"), (("example.org", "policy"),), "fail"),
    (RELAXED, ("example.net", "fail"), (("example.org", "temperror"),), "temperror"),
    (RELAXED, ("example.org", "temperror"), (("esp.example", "pass"),), "temperror"),
    (RELAXED, ("example.org", "temperror"), (("example.org", "pass"),), "pass"),
    (RELAXED, ("example.net", "temperror"), (("esp.example", "temperror"),), "fail"),
    (RELAXED, None, None, "fail"),
    (RELAXED, ("", "none"), (("", "neutral"),), "fail"),
]


@pytest.mark.parametrize(("record", "spf", "signatures", "result"), ALIGNMENT)
def test_alignment(
    record: str, spf: tuple[str, str] | None, signatures: Sequence[tuple[str, str]] | None, result: str
) -> None:
    found = judged(published(record), spf=spf, signatures=signatures)
    assert (found.result, found.asked) == (result, REJECT if result in ("fail", "temperror") else NONE)


def test_a_temperror_tells_what_waits_and_what_is_asked_for_meanwhile() -> None:
    names = published("v=DMARC1; p=reject; sp=quarantine; pct=50")
    waits = judged(names, "x@a.example.org", spf=("b.example.org", "temperror"))
    assert waits.reason == "SPF of b.example.org: temperror, aligned"
    assert (waits.result, waits.asked, waits.asks.percent, waits.asks.doubtful) == ("temperror", QUARANTINE, 50, True)
    assert judged(names, spf=("else.example", "temperror")).result == "fail", "nobody waits for what is not aligned"
    assert judged(published("v=DMARC1; p=none"), spf=("example.org", "temperror")).asked is NONE


def test_a_domain_that_does_not_answer_is_under_the_policy_of_its_organisation() -> None:
    """Until it answers: a name below an organisation whose server fails is easily found, or made to fail."""
    names = {**published("v=DMARC1; p=none; sp=reject"), "_dmarc.a.example.org": TIMEOUT}
    found = judged(names, "x@a.example.org", spf=("else.example", "pass"))
    assert (found.result, found.asked, found.asks.doubtful) == ("temperror", REJECT, True)
    assert found.reason == "_dmarc.a.example.org could not be looked up: _dmarc.a.example.org: timeout"
    passed = judged(names, "x@a.example.org", spf=("a.example.org", "pass"))
    assert (passed.result, passed.asked) == ("temperror", NONE), "by that policy it would pass"
    for nothing in ({}, published("v=DMARC1"), {"_dmarc.example.org": TIMEOUT}):
        unknown = judged({**nothing, "_dmarc.a.example.org": TIMEOUT}, "x@a.example.org")
        assert (unknown.result, unknown.asked, unknown.reason) == ("temperror", NONE, found.reason)


def test_of_several_authors_one_that_may_fail_counts() -> None:
    names = {**published("v=DMARC1; p=reject"), **published("v=DMARC1; p=none", domain="b.example")}
    both = judged(names, "x@b.example, y@example.org", signatures=[("example.org", "temperror")])
    assert (both.result, both.asked) == ("temperror", REJECT)
    names["_dmarc.b.example"] = {"TXT": ["v=DMARC1; p=reject"]}
    both = judged(names, "y@example.org, x@b.example", signatures=[("example.org", "temperror")])
    assert (both.result, both.asked, both.domain) == ("fail", REJECT, "b.example"), "it fails, whatever the other does"


def test_a_public_suffix_is_nobodys_parent() -> None:
    names = published("v=DMARC1; p=reject", domain="a.co.uk")
    assert judged(names, "x@a.co.uk", spf=("b.co.uk", "pass")).result == "fail"
    assert judged(names, "x@a.co.uk", spf=("co.uk", "pass")).result == "fail"


def test_authors_of_all_kinds() -> None:
    record = "v=DMARC1; p=reject"
    hyphen = judged(
        published(record, domain="my-domain.com"), "a@my-domain.com", signatures=[("my-domain.com", "pass")]
    )
    assert (hyphen.result, hyphen.domain) == ("pass", "my-domain.com")
    idn = judged(
        published(record, domain="xn--bcher-kva.de"), "ü <a@bücher.de>", signatures=[("xn--bcher-kva.de", "pass")]
    )
    assert (idn.result, idn.domain) == ("pass", "xn--bcher-kva.de")
    assert judged({}, "").reason == "it has no From field"
    assert judged({}, "nobody").reason == "its From names no address"
    assert judged({}, "a@[192.0.2.1]") == Dmarc(DmarcResult.NONE, "its From names an address literal", "[192.0.2.1]")
    assert {judged({}, each).result for each in ("", "nobody", "root (Cron Daemon)", "<", "a@[192.0.2.1]")} == {
        DmarcResult.NONE
    }


def test_several_authors_pass_nowhere_and_the_strictest_policy_counts() -> None:
    """RFC 7489 6.6.1: so nobody hides behind an author of his own."""
    names = {**published("v=DMARC1; p=none", domain="evil.example"), **published("v=DMARC1; p=reject")}
    both = judged(names, "x@evil.example, boss@example.org", spf=("evil.example", "pass"))
    assert (both.result, both.domain, both.asked) == ("fail", "example.org", REJECT)
    assert both.reason.startswith("its From names several domains, and this fails: nothing aligned passed")
    twice = judged(names, "x@evil.example\r\nFrom: boss@example.org", spf=("evil.example", "pass"))
    assert (twice.result, twice.asked) == ("fail", REJECT)
    nothing = judged({}, "x@evil.example, boss@example.org")
    assert (nothing.result, nothing.reason) == ("permerror", "its From names several domains")
    passed = judged(names, "a@example.org\r\nFrom: b@example.org", spf=("example.org", "pass"))
    assert (passed.result, passed.reason) == ("permerror", "it has 2 From fields")


@pytest.mark.parametrize("broken", ["", "<", "x:;", '"'])
def test_a_broken_from_beside_it_hides_no_author(broken: str) -> None:
    names = published("v=DMARC1; p=reject")
    for author in (f"{broken}\r\nFrom: boss@example.org", f"boss@example.org\r\nFrom: {broken}"):
        found = judged(names, author)
        assert (found.result, found.domain, found.asked, found.hidden) == ("fail", "example.org", REJECT, False)
        passed = judged(names, author, spf=("example.org", "pass"))
        assert (passed.result, passed.reason) == ("permerror", "it has 2 From fields")


def test_an_author_that_cannot_be_read_passes_nothing_and_may_fail() -> None:
    names = published("v=DMARC1; p=reject")
    fault = "its From cannot be read: something in quotes or in a comment does not end"
    passed = judged(names, '"boss <boss@example.org>', spf=("example.org", "pass"))
    assert (passed.result, passed.domain, passed.asked, passed.reason) == ("permerror", "", "none", fault)
    failed = judged(names, '"boss <boss@example.org>')
    assert (failed.result, failed.domain, failed.asked) == ("fail", "example.org", REJECT)
    hidden = judged(names, '"boss <boss@example(x).org>', spf=("example.org", "pass"))
    assert (hidden.result, hidden.asks.hidden, hidden.reason) == ("permerror", True, fault)


def test_an_address_in_the_name_is_no_author() -> None:
    names = {**published("v=DMARC1; p=none", domain="lists.example"), **published("v=DMARC1; p=reject")}
    found = judged(names, "boss@example.org via List <x@lists.example>", spf=("lists.example", "pass"))
    assert (found.result, found.domain) == ("pass", "lists.example")
    literal = judged(names, "boss@example.org <x@[192.0.2.1]>", spf=("other.example", "pass"))
    assert (literal.result, literal.domain) == ("none", "[192.0.2.1]")


def test_a_flood_of_authors_is_bounded() -> None:
    lookup = ZoneLookup({})
    discovered(b"From: " + b", ".join(b"a@%d.example" % n for n in range(400)) + b"\r\n\r\n", lookup)
    assert len(lookup.asked) == dmarc.MAX_DOMAINS


def test_the_reason_names_what_was_there() -> None:
    found = judged(
        published("v=DMARC1; p=quarantine; sp=none; pct=30"),
        spf=("bounce.example.net", "pass"),
        signatures=[("esp.example", "pass"), ("example.org", "fail")],
    )
    assert str(dmarc.verdict(found, Ruling(QUARANTINE, "example.org asks for quarantine"))) == (
        "dmarc=fail (p=quarantine sp=none pct=30; example.org asks for quarantine; nothing aligned passed; "
        "SPF of bounce.example.net: pass, not aligned; DKIM of esp.example: pass, not aligned; "
        "DKIM of example.org: fail) "
        "header.from=example.org policy.dmarc=quarantine policy.applied-disposition=quarantine"
    )
    many = judged(published("v=DMARC1; p=none"), signatures=[(f"{n}.example", "pass") for n in range(9)])
    assert many.reason.endswith("DKIM of 4.example: pass, not aligned; 4 more")
    unasked = "nothing aligned passed; SPF was not judged"
    assert judged(published("v=DMARC1; p=none")).reason == f"{unasked}; no DKIM signature"
    assert judged(published("v=DMARC1; p=none"), signatures=None).reason == unasked
    passed = judged(published("v=DMARC1; p=reject"), spf=("a.example.org", "pass"))
    assert str(dmarc.verdict(passed, Ruling())) == (
        "dmarc=pass (p=reject; SPF of a.example.org: pass, aligned) header.from=example.org"
    )


SEALED = [
    ("mx.list.example; dmarc=pass (p=reject) header.from=example.org", "dmarc=pass"),
    ("mx.list.example; dmarc=PASS", "dmarc=pass"),
    ("mx.list.example; dmarc=pass header.from=other.example", ""),
    ("mx.list.example; spf=pass smtp.mailfrom=a@example.org; dmarc=fail header.from=example.org", ""),
    ("mx.list.example; spf=fail smtp.mailfrom=a@example.org; dkim=pass header.d=mail.example.org", "dkim=pass"),
    ("mx.list.example; dkim=fail header.d=example.org; dkim=pass header.i=@example.org", "dkim=pass"),
    ("mx.list.example; spf=pass smtp.mailfrom=SRS0=a=b=example.org=x@mail.example.org", "spf=pass"),
    ("mx.list.example; spf=pass smtp.mailfrom=example.net", ""),
    ("mx.list.example; spf=pass", ""),
    ("mx.list.example; arc=pass; none", ""),
    ("", ""),
    ('(dmarc=pass) mx; x=(dmarc=pass); "; dmarc=pass"', ""),
]


@pytest.mark.parametrize(("results", "passed"), SEALED)
def test_what_a_sealer_vouches_for(results: str, passed: str) -> None:
    trusted = Domain.parse("list.example")
    failed = judged(published("v=DMARC1; p=reject"))
    chain = Chain(ChainStatus.PASS, 2, sealers=("other.example", "list.example"), results=("x; dmarc=pass", results))
    assert dmarc.vouchers(failed, chain, [trusted]) == (Seal(trusted, passed),)
    assert dmarc.vouchers(failed, chain, []) == ()
    assert dmarc.vouchers(failed, replace(chain, sealers=chain.sealers[::-1]), [trusted]) == ()
    assert dmarc.vouchers(failed, Chain(ChainStatus.FAIL, 2, "broken"), [trusted]) == ()
    assert dmarc.vouchers(judged(published("v=DMARC1; p=none")), chain, [trusted]) == ()
    assert dmarc.vouchers(failed, None, [trusted]) == ()
