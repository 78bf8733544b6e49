"""`check --dns`: a domain of which everything is published as it should be, and each thing that may be wrong."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from ipaddress import ip_address
from pathlib import Path

import dns.rdata
import dns.rdatatype
import pytest

from smtproute.config import load
from smtproute.core.address import Domain
from smtproute.core.finding import Finding
from smtproute.core.settings import DomainKey
from smtproute.doctor import examine
from smtproute.doctor.dns.answers import Answers, gathered
from smtproute.doctor.dns.forwards import forwarded
from smtproute.doctor.dns.questions import Questions, questions
from smtproute.doctor.survey import Survey
from smtproute.mailauth.keys import KeyKind, generate, record
from smtproute.mailauth.keys import load as load_key
from smtproute.resolve.records import Records
from smtproute.resolve.resolver import Resolver
from smtproute.testing.zone import Fault, Zone
from smtproute.world import World

V4, V6 = "192.175.48.7", "2620:4f:8000::7"
"""Public addresses: of networks that answer for what leads nowhere (AS112), and of no mail server."""
HOST, DOMAIN = "mail.example.org", "example.org"
REVERSE = "7.48.175.192.in-addr.arpa"
CONFIG = """
    state = "state"
    hostname = "mail.example.org"
    domains = ["example.org"]
    default = {{ endpoint = "out" }}
    [listener.mx]
    bind = "127.0.0.1:2525"
    role = "inbound"
    [endpoint.out]
    {endpoint}
    [arc]
    sign = "recipient"
    [[arc.keys."example.org"]]
    selector = "mail"
    file = "mail.pem"
    [[arc.keys."example.org"]]
    selector = "next"
    file = "next.pem"
    [[dkim.keys."example.org"]]
    selector = "mail"
    file = "mail.pem"
    [[dkim.keys."example.org"]]
    selector = "ed"
    file = "ed.pem"
    [srs]
    domain = "fwd.example.org"
    [aliases]
    tables = ["aliases"]
    [resolver]
    servers = ["{server}"]
"""
ALIASES = "out@example.org somebody@gmail.com, else@gmail.com\nfar@example.org x@far.example\n"


@cache
def pem(selector: str, bits: int) -> bytes:
    """A key for one test run; no private key is kept among the tests."""
    return generate(KeyKind.RSA, bits) if bits else generate(KeyKind.ED25519)


_RECORDS: dict[tuple[str, int], str] = {}


def record_of(selector: str, bits: int, file: str) -> str:
    """The record that belongs to it: a large key takes long to load."""
    if (selector, bits) not in _RECORDS:
        _RECORDS[selector, bits] = record(load_key(DomainKey(Domain.parse(DOMAIN), selector, file)))
    return _RECORDS[selector, bits]


class House:
    """A relay's folder and what is published for it."""

    def __init__(self, folder: Path, zone: Zone, bits: int = 2048, endpoint: str = 'discover = "recipient"') -> None:
        self.zone, self.file = zone, folder / "smtproute.toml"
        self.keys: dict[str, str] = {}
        """By selector, the record that belongs to it."""
        self.file.write_text(CONFIG.format(server=zone.address, endpoint=endpoint))
        (folder / "aliases").write_text(ALIASES)
        for selector, size in (("mail", bits), ("next", 2048), ("ed", 0)):
            path = folder / f"{selector}.pem"
            path.write_bytes(pem(selector, size))
            path.chmod(0o600)
            self.keys[selector] = record_of(selector, size, str(path))
            zone.set(f"{selector}._domainkey.{DOMAIN}", "TXT", [self.keys[selector]])

    async def answers(self, change: Questions | None = None) -> Answers:
        self.snapshot = load(str(self.file), {}, fqdn=lambda: HOST)
        asked = change or questions(Survey(self.snapshot))
        resolver = Resolver(self.snapshot.settings.resolver, World())
        with ThreadPoolExecutor(1) as pool:
            return await gathered(asked, Records(lambda: resolver), pool)

    async def findings(self) -> list[Finding]:
        answers = await self.answers()
        return examine(self.snapshot, answers=answers)


def zone() -> Zone:
    spf = f"v=spf1 ip4:{V4} ip6:{V6} -all"
    return Zone(
        {
            HOST: {"A": [V4], "AAAA": [V6], "TXT": [spf]},
            REVERSE: {"PTR": [HOST]},
            ip_address(V6).reverse_pointer: {"PTR": [HOST]},
            DOMAIN: {"MX": [f"10 {HOST}"], "TXT": ["something else", spf]},
            "fwd.example.org": {"TXT": [spf]},
            f"_dmarc.{DOMAIN}": {"TXT": [f"v=DMARC1; p=reject; rua=mailto:dmarc@{DOMAIN}"]},
            f"{DOMAIN}._report._dmarc.b.example": {"TXT": ["v=DMARC1"]},
            "gmail.com": {"MX": ["5 gmail-smtp-in.l.google.com"]},
            "far.example": {"MX": ["5 mx.far.example"]},
        }
    )


async def test_a_domain_of_which_all_is_well(tmp_path: Path) -> None:
    async with zone() as served:
        house = House(tmp_path, served)
        assert await house.findings() == []
        answers = await house.answers()
        assert {key.selector: key.used for key in answers.questions.keys} == {"mail": True, "ed": True, "next": False}
        (gmail,) = forwarded(answers)
        assert gmail.provider.name == "Google" and gmail.addresses == ("somebody@gmail.com", "else@gmail.com")


async def test_without_answers_nothing_is_asked(tmp_path: Path) -> None:
    async with Zone({}) as served:
        house = House(tmp_path, served)
        snapshot = load(str(house.file), {}, fqdn=lambda: HOST)
        assert examine(snapshot) == [] and served.queries == []


Changes = Mapping[tuple[str, str], Sequence[str] | Fault]
SPF = {
    "spf-missing": ["no spf here"],
    "spf-two-records": [f"v=spf1 ip4:{V4} -all", f"v=spf1 include:other.example ip6:{V6} ~all"],
    "spf-syntax": [f"v=spf1 ipv4:{V4} -all"],
    "spf-lookups": ["v=spf1 " + " ".join(f"a:h{n}.example.org" for n in range(11)) + " -all"],
    "spf-void-lookups": ["v=spf1 a:no1.example.org a:no2.example.org a:no3.example.org -all"],
    "spf-not-covered": ["v=spf1 include:other.example -all"],
    "spf-pass-all": [f"v=spf1 ip4:{V4} ip6:{V6} +all"],
}
OURS = f"ip4:{V4} ip6:{V6}"
MENDED = {
    "spf-missing": f"v=spf1 {OURS} ~all",
    "spf-two-records": f"v=spf1 ip4:{V4} include:other.example ip6:{V6} ~all",
    "spf-syntax": f"v=spf1 ip6:{V6} ip4:{V4} -all",
    "spf-lookups": f"v=spf1 {OURS} a:h0.example.org",
    "spf-void-lookups": f"v=spf1 {OURS} -all",
    "spf-not-covered": f"v=spf1 {OURS} include:other.example -all",
    "spf-pass-all": f"v=spf1 {OURS} ~all",
}


def published(line: str) -> tuple[str, str]:
    """Name and text of a TXT record in the form of a zone file, as a name server reads it."""
    name, _, text = line.partition("\n")[0].partition(". IN TXT ")
    return name, b"".join(dns.rdata.from_text("IN", "TXT", text).strings).decode()


@pytest.mark.parametrize("domain", [DOMAIN, "fwd.example.org", HOST])
@pytest.mark.parametrize("name", SPF)
async def test_spf(name: str, domain: str, tmp_path: Path) -> None:
    async with zone() as served:
        house = House(tmp_path, served)
        served.set("other.example", "TXT", ["v=spf1 ip4:192.175.48.8 -all"])
        for number in range(11):
            served.set(f"h{number}.example.org", "A", ["192.175.48.9"])
        served.set(domain, "TXT", SPF[name])
        (finding,) = await house.findings()
        assert (finding.name, finding.where) == (name, domain)
        grave = name not in ("spf-missing", "spf-pass-all") or (name == "spf-missing" and domain == "fwd.example.org")
        assert finding.severity == ("error" if grave else "warning")
        where, text = published(finding.instead)
        assert where == domain and text.startswith(MENDED[name])
        # What is advised mends it.
        served.set(domain, "TXT", [text])
        assert [each.name for each in await house.findings()] in ([], ["spf-lookups-near"])


INCLUDING = [f"include:i{n}.example" for n in range(9)]
BIG = "v=spf1 " + " ".join(INCLUDING) + " ~all"


@pytest.mark.parametrize(
    ("terms", "name", "says", "mended", "without"),
    [
        (" ".join(INCLUDING[:8]), "", "", "", ""),
        (" ".join(INCLUDING), "spf-lookups-near", "takes 9 of the 10 look-ups", "", ""),
        (
            "include:big.example",
            "spf-lookups-near",
            "10 of the 10 look-ups that it may (include:big.example 10)",
            "",
            "",
        ),
        (
            "mx include:big.example",
            "spf-lookups",
            "takes 11 look-ups (mx 1, include:big.example 10)",
            "include:big.example -all",
            "(without mx: ",
        ),
        (
            "redirect=big.example include:i0.example include:many.example",
            "spf-lookups",
            "takes 24 look-ups (include:i0.example 1, include:many.example 13, redirect=big.example 10)",
            "redirect=big.example -all",
            "",
        ),
        (
            "include:endless.example",
            "spf-lookups",
            "more than 10 look-ups",
            "-all",
            "(without include:endless.example: ",
        ),
        (
            "a:no1.example.org include:void.example a:no2.example.org",
            "spf-void-lookups",
            "These are a:no1.example.org, mx:gone.example and a:no2.example.org",
            "include:void.example -all",
            "(without a:no1.example.org and a:no2.example.org: ",
        ),
        (
            "include:i1.example include:above.example",
            "spf-syntax",
            "broken.example: ",
            "include:i1.example -all",
            "(without include:above.example: until the record of broken.example is mended by who publishes it)",
        ),
        (
            "include:i1.example include:nobody.example",
            "spf-syntax",
            "No valid SPF record for included domain: nobody.example",
            "include:i1.example -all",
            "(without include:nobody.example: ",
        ),
    ],
)
async def test_what_an_spf_record_costs(
    terms: str, name: str, says: str, mended: str, without: str, tmp_path: Path
) -> None:
    """Counted to its end, term by term; what is advised takes out as little as may be."""
    async with zone() as served:
        house = House(tmp_path, served)
        for n in range(12):
            served.set(f"i{n}.example", "TXT", ["v=spf1 ip4:192.175.48.8 ~all"])
        served.set("big.example", "TXT", [BIG])
        served.set("many.example", "TXT", ["v=spf1 " + " ".join(f"include:i{n}.example" for n in range(12))])
        served.set("endless.example", "TXT", ["v=spf1 include:endless2.example"])
        served.set("endless2.example", "TXT", ["v=spf1 include:endless.example"])
        served.set("void.example", "TXT", ["v=spf1 mx:gone.example -all"])
        served.set("above.example", "TXT", ["v=spf1 include:broken.example -all"])
        served.set("broken.example", "TXT", ["v=spf1 ipv4:192.175.48.8 -all"])
        end = "" if "redirect" in terms else " -all"
        served.set(DOMAIN, "TXT", [f"v=spf1 {OURS} {terms}{end}"])
        found = await house.findings()
        assert [each.name for each in found] == ([name] if name else [])
        for finding in found:
            assert finding.severity == "warning" and says in finding.what
            if mended:
                _, text = published(finding.instead)
                assert text == f"v=spf1 {OURS} {mended.removesuffix(' -all') if not end else mended}"
                assert without in finding.instead


async def test_spf_is_no_error_where_mail_leaves_by_another_server(tmp_path: Path) -> None:
    async with zone() as served:
        house = House(tmp_path, served, endpoint='servers = ["relay.example.net"]')
        served.set(DOMAIN, "TXT", ["v=spf1 include:relay.example -all"])
        served.set("relay.example", "TXT", ["v=spf1 ip4:192.175.48.8 -all"])
        (finding,) = await house.findings()
        assert (finding.severity, finding.name) == ("warning", "spf-not-covered")
        assert "1 of the 10 look-ups" in finding.what


MAIL, DMARC = f"mail._domainkey.{DOMAIN}", f"_dmarc.{DOMAIN}"


@pytest.mark.parametrize("selector", ["mail", "ed", "next"])
async def test_dkim(selector: str, tmp_path: Path) -> None:
    """A key that is used makes errors, one that waits for its turn warnings."""
    async with zone() as served:
        house = House(tmp_path, served)
        ours, name = house.keys[selector], f"{selector}._domainkey.{DOMAIN}"
        other = house.keys[{"mail": "next", "next": "mail", "ed": "mail"}[selector]]
        half = len(ours) // 2
        cases: list[tuple[str, list[str]]] = [
            ("dkim-missing", []),
            ("dkim-other-key", [other]),
            ("dkim-revoked", ["v=DKIM1; p="]),
            ("dkim-broken", ["v=DKIM1; k=rsa"]),
            ("dkim-broken", [ours[:-20]]),
            ("dkim-broken", [f'"{ours[:half]}" "{ours[half:]}"']),
            ("dkim-broken", [ours.replace("; ", r"\; ")]),
            ("dkim-broken", [ours[:half], ours[half:]]),
            ("dkim-broken", [ours.replace("DKIM1", "DKIM2")]),
            ("dkim-two-records", [ours, other]),
        ]
        for expected, texts in cases:
            if texts:
                served.set(name, "TXT", texts)
            else:
                served.remove(name)
            (finding,) = await house.findings()
            assert (finding.name, finding.where) == (expected, name), texts
            assert finding.severity == ("warning" if selector == "next" else "error")
            assert published(finding.instead) == (name, ours)
        for harmless in ([ours, "something else"], [ours[:half] + " " + ours[half:]], [ours.replace("v=DKIM1; ", "")]):
            served.set(name, "TXT", harmless)
            assert await house.findings() == [], harmless


async def test_dkim_says_why_a_record_is_broken(tmp_path: Path) -> None:
    async with zone() as served:
        house = House(tmp_path, served)
        for text, why in ((house.keys["mail"][:-20], "cut off after"), (f'"{house.keys["mail"]}"', "quotes")):
            served.set(MAIL, "TXT", [text])
            (finding,) = await house.findings()
            assert why in finding.what


@pytest.mark.parametrize(("bits", "testing", "name"), [(1024, False, "dkim-short"), (2048, True, "dkim-testing")])
async def test_dkim_that_is_weak_or_on_trial(bits: int, testing: bool, name: str, tmp_path: Path) -> None:
    async with zone() as served:
        house = House(tmp_path, served, bits)
        if testing:
            served.set(MAIL, "TXT", [house.keys["mail"].replace("k=rsa", "k=rsa; t=y")])
        (finding,) = await house.findings()
        assert (finding.severity, finding.name, finding.where) == ("warning", name, MAIL)


@pytest.mark.parametrize(
    ("texts", "name", "says", "mended"),
    [
        ([], "dmarc-missing", "no DMARC record", "v=DMARC1; p=none; rua=mailto:postmaster@example.org"),
        (
            ["v=DMARC1; p=reject", "v=DMARC1; p=none"],
            "dmarc-two-records",
            "2 DMARC records",
            "v=DMARC1; p=none; rua=",
        ),
        (
            ["v=DMARC1 p=none"],
            "dmarc-syntax",
            "what it means: a semicolon is missing before p=.",
            "v=DMARC1; p=none; rua=",
        ),
        (
            ["v=DMARC1; p=none, rua=mailto:a@b.example"],
            "dmarc-syntax",
            "a semicolon is missing before rua=.",
            "v=DMARC1; p=none; rua=mailto:a@b.example",
        ),
        (
            ["v=DMARC1; p=reject; ruaa=mailto:a@b.example"],
            "dmarc-syntax",
            "no tag ruaa: rua=?",
            "v=DMARC1; p=reject; rua=",
        ),
        (
            ["v=DMARC1; p=rejct; rua=mailto:a@b.example"],
            "dmarc-syntax",
            "p=rejct is no value of it: reject?",
            "v=DMARC1; p=reject; rua=",
        ),
        (
            ["v=DMARC1; p=rejct; adkim=x"],
            "dmarc-syntax",
            "p=rejct is no value of it: reject?; adkim=x is no value",
            "v=DMARC1; p=reject; rua=",
        ),
        (
            ["v=DMARC1; p=none; sp=quarantain; adkim=strict; rua=mailto:a@b.example"],
            "dmarc-syntax",
            "adkim=strict is no value of it: s?",
            "v=DMARC1; p=none; adkim=s; sp=quarantine; rua=",
        ),
        (["v=DMARC1; p=reject; pct=150"], "dmarc-syntax", "pct=150", "v=DMARC1; p=reject; rua="),
        (["v=DMARC1; p=reject; p=none"], "dmarc-syntax", "p= is there twice", "v=DMARC1; p=reject; rua="),
        (["p=reject; v=DMARC1"], "dmarc-missing", "no DMARC record", "v=DMARC1; p=none"),
        (["v=dmarc1; p=reject"], "dmarc-syntax", "in capitals", "v=DMARC1; p=reject"),
        (["v=DMARC1; rua=mailto:a@b.example"], "dmarc-policy", "no p=", "v=DMARC1; p=none; rua=mailto:a@b.example"),
        (
            ["v=DMARC1; p=reject; rua=a@b.example"],
            "dmarc-report-address",
            "a@b.example",
            "v=DMARC1; p=reject; rua=mailto:",
        ),
        (["v=DMARC1; p=none"], "dmarc-idle", "nobody tells", "v=DMARC1; p=none; rua=mailto:postmaster@example.org"),
    ],
)
async def test_dmarc(texts: list[str], name: str, says: str, mended: str, tmp_path: Path) -> None:
    async with zone() as served:
        house = House(tmp_path, served)
        served.set(DMARC, "TXT", texts)
        (finding,) = await house.findings()
        assert (finding.severity, finding.name, finding.where) == ("warning", name, DMARC)
        assert says in finding.what
        where, text = published(finding.instead)
        assert where == DMARC and text.startswith(mended)
        served.set(DMARC, "TXT", [text])
        assert await house.findings() == []


async def test_dmarc_of_the_organisation_is_enough(tmp_path: Path) -> None:
    async with zone() as served:
        house = House(tmp_path, served)
        answers = await house.answers()
        below = replace(
            answers.questions, domains=("sub.example.org",), signers={}, keys=(), inbound=False, sending=False
        )
        served.set("sub.example.org", "TXT", [f"v=spf1 ip4:{V4} ip6:{V6} -all"])
        assert examine(house.snapshot, answers=await house.answers(below)) == []
        served.remove(DMARC)
        (finding,) = examine(house.snapshot, answers=await house.answers(below))
        assert (finding.name, finding.where) == ("dmarc-missing", "_dmarc.sub.example.org")


@pytest.mark.parametrize(
    ("text", "signer", "severity"),
    [
        ("v=DMARC1; p=reject; adkim=s", "sub.example.org", "error"),
        ("v=DMARC1; p=none; adkim=s; rua=mailto:a@b.example", "sub.example.org", "warning"),
        ("v=DMARC1; p=reject", "other.example", "error"),
        ("v=DMARC1; p=reject", "sub.example.org", ""),
        ("v=DMARC1; p=reject; adkim=s", DOMAIN, ""),
    ],
)
async def test_what_we_sign_with_aligns(text: str, signer: str, severity: str, tmp_path: Path) -> None:
    async with zone() as served:
        house = House(tmp_path, served)
        served.set(DMARC, "TXT", [text])
        answers = await house.answers()
        answers = replace(answers, questions=replace(answers.questions, signers={DOMAIN: (signer,)}))
        found = examine(house.snapshot, answers=answers)
        assert [(each.severity, each.name) for each in found] == ([(severity, "dmarc-unaligned")] if severity else [])


@pytest.mark.parametrize(
    ("text", "domain", "sending", "warned"),
    [
        ("v=DMARC1; p=reject", DOMAIN, True, True),
        ("v=DMARC1; p=quarantine; sp=none", DOMAIN, True, True),
        ("v=DMARC1; p=reject", DOMAIN, False, False),
        ("v=DMARC1; p=none; rua=mailto:a@b.example", DOMAIN, True, False),
        ("v=DMARC1; p=reject", "sub.example.org", True, True),
        ("v=DMARC1; p=reject; sp=none", "sub.example.org", True, False),
    ],
)
async def test_a_policy_that_hangs_on_spf_alone(
    text: str, domain: str, sending: bool, warned: bool, tmp_path: Path
) -> None:
    async with zone() as served:
        house = House(tmp_path, served)
        served.set(DMARC, "TXT", [text])
        served.set("sub.example.org", "TXT", [f"v=spf1 {OURS} -all"])
        asked = (await house.answers()).questions
        assert asked.sending
        asked = replace(asked, domains=(domain,), signers={}, inbound=False, sending=sending)
        found = examine(house.snapshot, answers=await house.answers(asked))
        where = f"_dmarc.{domain}"
        assert [(each.severity, each.name, each.where) for each in found] == (
            [("warning", "dmarc-unsigned", where)] if warned else []
        )
        assert not warned or f"smtproute keys new {domain}" in found[0].instead


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({(DOMAIN, "MX"): []}, [("error", "mx-missing", DOMAIN)]),
        ({(DOMAIN, "MX"): [], (DOMAIN, "A"): [V4]}, [("warning", "mx-missing", DOMAIN)]),
        ({(DOMAIN, "MX"): ["0 ."]}, [("error", "mx-null", DOMAIN)]),
        ({(DOMAIN, "MX"): ["10 mx.else.example"]}, [("error", "mx-without-address", DOMAIN)]),
        (
            {(DOMAIN, "MX"): ["10 mx.else.example"], ("mx.else.example", "A"): ["192.175.48.9"]},
            [("warning", "mx-elsewhere", DOMAIN)],
        ),
        ({(DOMAIN, "MX"): ["10 mx.else.example"], ("mx.else.example", "A"): [V4]}, []),
        (
            {(DOMAIN, "MX"): ["10 mx.else.example", f"20 {HOST}"], ("mx.else.example", "A"): ["192.175.48.9"]},
            [],
        ),
        ({(DOMAIN, "MX"): [f"10 {HOST}", "20 gone.example"]}, [("warning", "mx-without-address", DOMAIN)]),
        (
            {(DOMAIN, "MX"): [f"10 {HOST}", "20 gone.example"], ("gone.example", "ANY"): Fault.SERVFAIL},
            [("warning", "dns-unanswered", "gone.example")],
        ),
        ({(DOMAIN, "MX"): [f"10 {V4}"]}, [("error", "mx-address", DOMAIN)]),
        ({(DOMAIN, "MX"): ["10 alias.example"], ("alias.example", "CNAME"): [HOST]}, [("warning", "mx-alias", DOMAIN)]),
        (
            {(HOST, "A"): [], (HOST, "AAAA"): [], (DOMAIN, "MX"): ["10 al.example"], ("al.example", "CNAME"): [HOST]},
            [("error", "hostname-without-address", HOST), ("warning", "mx-alias", DOMAIN)],
        ),
        ({(REVERSE, "PTR"): []}, [("error", "ptr-missing", REVERSE)]),
        ({(REVERSE, "PTR"): ["else.example"]}, [("error", "ptr-leads-elsewhere", REVERSE)]),
        (
            {(REVERSE, "PTR"): ["else.example"], ("else.example", "A"): [V4]},
            [("warning", "ptr-other-name", REVERSE)],
        ),
        ({(REVERSE, "PTR"): ["else.example", "MAIL.example.org"]}, []),
        ({(HOST, "A"): [V4, "10.0.0.7"]}, [("warning", "address-private", HOST)]),
        ({(HOST, "A"): ["10.0.0.7"], (HOST, "AAAA"): []}, [("warning", "address-private", HOST)]),
        (
            {(HOST, "A"): [], (HOST, "AAAA"): []},
            [("error", "hostname-without-address", HOST)],
        ),
    ],
)
async def test_hosts(changes: Changes, expected: list[tuple[str, str, str]], tmp_path: Path) -> None:
    async with zone() as served:
        house = House(tmp_path, served)
        for (name, type_), values in changes.items():
            served.set(name, type_, values)
        found = await house.findings()
        assert sorted((str(each.severity), each.name, each.where) for each in found) == sorted(expected)
        for each in found:
            kind = {"mx": " IN MX 10 mail.example.org.", "ptr": f"{REVERSE}. IN PTR mail.example.org."}.get(
                each.name.split("-")[0]
            )
            if (each.severity, each.name) == ("warning", "mx-without-address"):
                kind = "gone.example. IN A "
            assert kind is None or kind in each.instead


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({(MAIL, "TXT"): Fault.SERVFAIL}, {MAIL}),
        ({(DMARC, "TXT"): Fault.SERVFAIL}, {DMARC}),
        ({(DOMAIN, "TXT"): Fault.REFUSED}, {DOMAIN}),
        ({(DOMAIN, "MX"): Fault.SERVFAIL}, {DOMAIN}),
        ({(HOST, "A"): Fault.SERVFAIL, (HOST, "AAAA"): Fault.SERVFAIL}, {HOST}),
        ({(REVERSE, "PTR"): Fault.SERVFAIL}, {V4}),
        ({("gmail.com", "MX"): Fault.SERVFAIL}, {"gmail.com"}),
        ({(DOMAIN, "TXT"): ["v=spf1 include:o.example -all"], ("o.example", "TXT"): Fault.SERVFAIL}, {DOMAIN}),
    ],
)
async def test_no_answer_is_not_taken_for_nothing(changes: Changes, expected: set[str], tmp_path: Path) -> None:
    async with zone() as served:
        house = House(tmp_path, served)
        for (name, type_), values in changes.items():
            served.set(name, type_, values)
        found = await house.findings()
        assert {(str(each.severity), each.name) for each in found} == {("warning", "dns-unanswered")}
        assert {each.where for each in found} == expected


async def test_a_silent_name_server_holds_nobody_up_for_long(tmp_path: Path) -> None:
    async with Zone({"org": Fault.TIMEOUT}) as served:
        house = House(tmp_path, served)
        for name in (HOST, DOMAIN, DMARC, MAIL, "fwd.example.org"):
            served.set(name, "ANY", Fault.TIMEOUT)
        snapshot = load(str(house.file), {}, fqdn=lambda: HOST)
        resolver = Resolver(snapshot.settings.resolver, World())
        with ThreadPoolExecutor(1) as pool:
            answers = await gathered(questions(Survey(snapshot)), Records(lambda: resolver), pool, seconds=0.3)
        found = examine(snapshot, answers=answers)
        assert {"dns-unanswered"} <= {each.name for each in found}
        assert not [each for each in found if each.where in (HOST, DOMAIN) and each.name != "dns-unanswered"]


async def test_the_command(tmp_path: Path) -> None:
    """As it is run: findings with records to publish, in text and as JSON; the providers of what is forwarded."""
    async with zone() as served:
        house = House(tmp_path, served)
        assert (await command(house, "--dns"))[0] == 0
        served.set(DOMAIN, "MX", ["0 ."])
        code, said = await command(house, "--dns")
        assert code == 2 and "[mx-null]" in said
        assert "    instead: example.org. IN MX 10 mail.example.org." in said.splitlines()
        assert "Google, for somebody@gmail.com and else@gmail.com:" in said and "support.google.com" in said
        code, said = await command(house, "--dns", "--json")
        (finding,) = map(json.loads, said.splitlines())
        assert finding["name"] == "mx-null" and finding["instead"] == "example.org. IN MX 10 mail.example.org."
        assert (await command(house))[0] == 0


async def command(house: House, *options: str) -> tuple[int, str]:
    main = "from smtproute.cli import main; main()"
    line = [sys.executable, "-c", main, "check", "-c", str(house.file), *options]
    process = await asyncio.create_subprocess_exec(*line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said, wrong = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None and b"Traceback" not in wrong, wrong.decode()
    return process.returncode, said.decode()
