"""The records that `check --dns` proposes: who publishes one as it is printed is never worse off."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtproute.core.finding import Finding
from smtproute.core.lookup import Unanswered
from smtproute.doctor.dns import examine
from smtproute.doctor.dns.answers import gathered
from smtproute.doctor.dns.questions import Key, Questions
from smtproute.mailauth.spf import SpfResult, evaluate
from tests.doctor.test_dns import DMARC, DOMAIN, HOST, OURS, V4, V6, published

ED25519 = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
RSA = (
    "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYt"
    "IxN2SnFCjxOCKG9v3b4jYfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhi"
    "tdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB"
)


@dataclass
class Texts:
    """A look-up that knows what is in a table; names in `away` have no answer."""

    texts_: Mapping[str, Sequence[str]]
    addresses_: Mapping[str, Sequence[str]] = field(default_factory=dict)
    away: bool = False

    async def texts(self, name: str) -> tuple[bytes, ...]:
        return tuple(text.encode("latin-1") for text in self._found(self.texts_, name))

    async def addresses(self, name: str, version: int) -> tuple[str, ...]:
        return tuple(ip for ip in self._found(self.addresses_, name) if (":" in ip) == (version == 6))

    async def exchanges(self, name: str) -> tuple[str, ...]:
        return tuple(self._found({}, name))

    async def pointers(self, ip: str) -> tuple[str, ...]:
        return tuple(self._found({}, ip))

    async def alias(self, name: str) -> tuple[str, ...]:
        return tuple(self._found({}, name))

    def _found(self, table: Mapping[str, Sequence[str]], name: str) -> Sequence[str]:
        if self.away:
            raise Unanswered(f"{name}: nobody answers")
        return table.get(name, ())


AROUND = {
    HOST: [f"v=spf1 {OURS} -all"],
    DMARC: [f"v=DMARC1; p=reject; rua=mailto:postmaster@{DOMAIN}"],
    "good.example": ["v=spf1 ip4:192.175.48.21 -all"],
    "open.example": ["v=spf1 +all"],
    "broken.example": ["v=spf1 ipv4:192.175.48.22 -all"],
}
THEIRS = ("broken.example", "dead.example", "gone.example")
"""Whose records cannot be followed, or are not there."""
ASKED = Questions(hostname=HOST, domains=(DOMAIN,), signers={DOMAIN: (DOMAIN,)}, direct=True)
SENDERS = [f"192.175.48.{n}" for n in range(20, 26)]


def zones(**changes: Sequence[str]) -> Texts:
    return Texts({**AROUND, **changes}, {HOST: [V4, V6], "mx.example.org": ["192.175.48.20"]})


def found(name: str, texts: Sequence[str], asked: Questions = ASKED) -> list[Finding]:
    """What is said of these records at this name; what is said of others does not change."""
    around = {} if name == DOMAIN else {DOMAIN: [f"v=spf1 {OURS} -all"]}
    with ThreadPoolExecutor(1) as pool:
        answers = asyncio.run(gathered(asked, zones(**around, **{name: texts}), pool))
    return [each for each in examine(answers) if each.where == name]


def passing(records: Sequence[str]) -> set[str]:
    """The addresses of others that the records let send by more than that they let everybody."""

    async def each() -> set[str]:
        with ThreadPoolExecutor(1) as pool:
            ask = partial(evaluate, lookup=zones(**{DOMAIN: records}), pool=pool, receiver=HOST)
            results = {ip: await ask(ip, DOMAIN, f"postmaster@{DOMAIN}", HOST) for ip in SENDERS}
        return {
            ip
            for ip, spf in results.items()
            if spf.result is SpfResult.PASS and f"all of {DOMAIN}" not in spf.reason and "open." not in spf.reason
        }

    return asyncio.run(each())


def better_for_it(name: str, texts: Sequence[str]) -> None:
    """Each record that is proposed clears what it is proposed for, and makes no new error."""
    before = found(name, texts)
    errors = {each.name for each in before if each.severity == "error"}
    for finding in before:
        if not finding.instead.startswith(f"{name}. IN TXT "):
            continue
        _, text = published(finding.instead)
        after = found(name, [text])
        # What others publish is theirs to mend; the first advice is about what is not.
        mine = {each.name for each in after if not any(f"{other}: " in each.what for other in THEIRS)}
        assert finding.name not in mine, (texts, text)
        assert {each.name for each in after if each.severity == "error"} <= errors, (texts, text)
        if name == DOMAIN:
            assert passing(texts) <= passing([text]), (texts, text)
            kept = text.split(" ")
            assert all(term in kept for term in SOUND if any(term in each.split(" ") for each in texts)), (texts, text)


SOUND = ["ip4:192.175.48.23", "ip6:2620:4f:8000::/48", "include:good.example", "a:mx.example.org", "?ip4:192.175.48.25"]
SPOILT = [
    "ip4:192.175.48.24,",
    "ipv4:192.175.48.24",
    "192.175.48.24",
    "a:192.175.48.24/32",
    "ip4:192.175.48.24;ip4:192.175.48.22",
    "ip4: 192.175.48.24",
    "ip4:999.1.1.1",
    "ip4:192.175.48.0/99",
    "include:dead.example",
    "include:gone.example",
    "include: good.example",
    "include:broken.example",
    "include:open.example",
    "include:",
    "mx:",
    "exits:x.example",
    "redirect=dead.example",
    "redirect=good.example",
    "exp=%{q}.example",
    "ALL",
    "\x96all",
]
ENDS = ["", "-all", "~all", "?all", "+all", "all", "-all."]
TERMS = st.lists(st.sampled_from([*SOUND, *SPOILT]), max_size=6)


@st.composite
def spf_records(draw: st.DrawFn) -> str:
    return " ".join(["v=spf1", *draw(TERMS), draw(st.sampled_from(ENDS))]).strip()


@settings(max_examples=150, deadline=None)
@given(st.lists(spf_records(), min_size=1, max_size=2))
def test_any_advice_on_spf_makes_nothing_worse(records: list[str]) -> None:
    # What stands behind the end counts for nothing, so it may be left out.
    ended = [record for record in records if " all " in f"{record.lower()} " and not record.endswith("all")]
    if not ended and not any(" ALL " in record for record in records):
        better_for_it(DOMAIN, records)


TAGS = ["p=none", "p=reject", "p=rejct", "p = quarantine", "sp=none", "adkim=s", "adkim=strict", "pct=50", "pct=500"]
REPORTS = [f"rua=mailto:dmarc@{DOMAIN}", "rua=a@b.example", "rua=mailto:a@b.example,c", "ruf=", "fo=1:d", "ruaa=x"]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda version, tags, between: between.join([version, *tags]),
            st.sampled_from(["v=DMARC1", "v=dmarc1", "v = DMARC1", "v=DMARC2"]),
            st.lists(st.sampled_from([*TAGS, *REPORTS]), max_size=5),
            st.sampled_from(["; ", ";", " ", ", "]),
        ),
        min_size=1,
        max_size=2,
    )
)
def test_any_advice_on_dmarc_makes_nothing_worse(records: list[str]) -> None:
    better_for_it(DMARC, records)


@pytest.mark.parametrize(
    ("record", "advised"),
    [
        (
            "v=spf1 ip4:5.9.1.1, include:good.example a:mx.example.org -all",
            f"v=spf1 {OURS} ip4:5.9.1.1 include:good.example a:mx.example.org -all",
        ),
        ("v=spf1 ipv4:5.9.1.1 ip4: 5.9.1.2 -all", f"v=spf1 {OURS} ip4:5.9.1.1 ip4:5.9.1.2 -all"),
        ("v=spf1 include:dead.example include:gone.example -all", f"v=spf1 {OURS} -all"),
        ("v=spf1 ip4:5.9.1.1 redirect=dead.example", f"v=spf1 {OURS} ip4:5.9.1.1 ~all"),
        ("v=spf1 a:2620:4f:8000::1 -all", f"v=spf1 {OURS} ip6:2620:4f:8000::1 -all"),
        ("v=spf1 +all", f"v=spf1 {OURS} ~all"),
        (f"v=spf1 ip4:{V4} ALL", f"v=spf1 ip6:{V6} ip4:{V4} ~all"),
        ("v=spf1 include:open.example -all", ""),
        (f"v=spf1 {OURS} ip4:0.0.0.0/0 -all", ""),
    ],
)
def test_an_spf_record_is_mended_term_by_term(record: str, advised: str) -> None:
    (finding,) = found(DOMAIN, [record])
    assert (published(finding.instead)[1] if finding.instead else "") == advised
    assert "mechnisms" not in finding.what and finding.what.count(f"{DOMAIN}:") == 0


@pytest.mark.parametrize(("end", "says"), [("-all", "fails SPF"), ("~all", "not pass SPF"), ("?all", "not pass SPF")])
def test_only_fail_is_a_failure(end: str, says: str) -> None:
    (finding,) = found(DOMAIN, [f"v=spf1 {end}"])
    assert finding.name == "spf-not-covered" and says in finding.what


def test_two_records_are_merged_into_one_that_covers_this_relay() -> None:
    (finding,) = found(DOMAIN, ["v=spf1 ip4:5.9.1.1 redirect=good.example", "v=spf1 ipv4:5.9.1.2 -all"])
    _, text = published(finding.instead)
    assert text == f"v=spf1 {OURS} ip4:5.9.1.1 include:good.example ip4:5.9.1.2 -all"


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        (RSA.replace("; p=", "; h=sha1; p="), "dkim-broken", "is broken: the key is not for sha256."),
        (RSA.replace("; p=", "; s=tlsrpt; p="), "dkim-broken", "is broken: the key is not for mail."),
        (RSA.replace("k=rsa", "k=ed25519"), "dkim-broken", "is broken: the key is damaged: an Ed25519 key has 32"),
        (RSA.replace(";", ","), "dkim-broken", "there has to be a semicolon between tags"),
        (RSA.replace("rsa;", "rsa"), "dkim-broken", "there has to be a semicolon between tags"),
        (RSA[:-20], "dkim-broken", "it is cut off after 196 of 216 characters of p="),
        ("v=DKIM1; k=rsa; p=", "dkim-revoked", "its p= is empty"),
        (ED25519, "dkim-other-key", "another key"),
    ],
)
def test_why_a_key_is_of_no_use(text: str, name: str, says: str) -> None:
    key = Key(DOMAIN, "mail", RSA, "dkim.keys")
    asked = Questions(hostname=HOST, keys=(key,))
    (finding,) = found(key.name, [text], asked)
    assert (finding.name, published(finding.instead)) == (name, (key.name, RSA)) and says in finding.what
    assert [each.name for each in found(key.name, [RSA], asked)] == ["dkim-short"]


def test_of_two_policies_the_mildest_is_proposed_and_both_are_named() -> None:
    texts = ["v=DMARC1; p=reject", "v=DMARC1; p=none"]
    (finding,) = found(DMARC, texts)
    assert all(text in finding.what for text in texts) and "mildest" in finding.what
    assert published(finding.instead)[1].startswith("v=DMARC1; p=none;")


@pytest.mark.parametrize(
    ("host", "permission", "warned"),
    [
        ("far.example", [], True),
        ("far.example", ["v=spf1 -all"], True),
        ("far.example", ["v=DMARC1"], False),
        ("far.example", ["v=DMARC1; rua=mailto:else@far.example"], False),
        (f"reports.{DOMAIN}", [], False),
    ],
)
def test_reports_go_only_where_they_are_wanted(host: str, permission: list[str], warned: bool) -> None:
    name = f"{DOMAIN}._report._dmarc.{host}"
    records = {DOMAIN: [f"v=spf1 {OURS} -all"], DMARC: [f"v=DMARC1; p=reject; rua=mailto:x@{host}"], name: permission}
    with ThreadPoolExecutor(1) as pool:
        answers = asyncio.run(gathered(ASKED, zones(**records), pool))
    seen = [each for each in examine(answers) if each.where == DMARC]
    assert [(each.severity, each.name) for each in seen] == ([("warning", "dmarc-report-foreign")] if warned else [])
    assert not warned or published(seen[0].instead) == (name, "v=DMARC1")


def test_dns_that_is_away_is_one_finding() -> None:
    with ThreadPoolExecutor(1) as pool:
        answers = asyncio.run(gathered(ASKED, Texts({}, away=True), pool))
    (finding,) = examine(answers)
    assert finding.name == "dns-unanswered" and "for 3 names" in finding.what
    assert all(name in finding.what for name in (HOST, DOMAIN, DMARC))
