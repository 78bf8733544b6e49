"""Judging DKIM signatures: the examples of the RFCs, each rule, and what dkimpy as it comes makes of the same."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import dkim
import pytest
from arc_peers import AT, ZoneTxt, message, pem, private, signing_key, zone
from dkim_peers import BOUNDS, NAME, TAGS, both, by_dkimpy, checked, ed25519_key, one, signed

from smtproute.core.lookup import Unanswered
from smtproute.core.settings import Authentication
from smtproute.core.verdict import Verdict
from smtproute.mailauth.canonical import relaxed_body
from smtproute.mailauth.dkim import DkimResult, Signature, check, verdict
from smtproute.mailauth.header import opened
from smtproute.mailauth.keys import SigningKey, record
from smtproute.world import SystemClock

PASS, FAIL, POLICY, NEUTRAL = DkimResult.PASS, DkimResult.FAIL, DkimResult.POLICY, DkimResult.NEUTRAL
TEMPERROR, PERMERROR = DkimResult.TEMPERROR, DkimResult.PERMERROR

TEXT = message(
    b"one  line\r\ntwo lines \r\n\r\n", b"From: Ada <ada@example.org>\r\nTo: bob@example.net\r\nSubject: x\r\n"
)
LENGTH = len(relaxed_body(b"one  line\r\ntwo lines \r\n\r\n"))
GOOD = record(signing_key())

RFC6376_KEY = (
    "v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQ"
    "KBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYt"
    "IxN2SnFCjxOCKG9v3b4jYfcTNh5ijSsq631uBItLa7od+v"
    "/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhi"
    "tdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB"
)
DINNER = """\
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game. Are you hungry yet?

Joe.
"""
RFC6376 = (
    """\
DKIM-Signature: v=1; a=rsa-sha256; s=brisbane; d=example.com;
      c=simple/simple; q=dns/txt; i=joe@football.example.com;
      h=Received : From : To : Subject : Date : Message-ID;
      bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
      b=AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB
      4nujc7YopdG5dWLSdNg6xNAZpOPr+kHxt1IrE+NahM6L/LbvaHut
      KVdkLLkpVaVVQPzeRDI009SO2Il5Lu7rDNH6mZckBdrIx0orEtZV
      4bmp/YzhwvcubU4=;
Received: from client1.football.example.com  [192.0.2.1]
      by submitserver.example.com with SUBMISSION;
      Fri, 11 Jul 2003 21:01:54 -0700 (PDT)
"""
    + DINNER
)
RFC8463_KEYS = {
    "brisbane._domainkey.football.example.com": ("v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="),
    "test._domainkey.football.example.com": (
        "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWR"
        "iGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutAC"
        "DfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3"
        "Ip3G+2kryOTIKT+l/K4w3QIDAQAB"
    ),
}
RFC8463 = (
    """\
DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
"""
    + DINNER
)


def test_the_example_of_rfc_6376() -> None:
    assert checked(RFC6376.replace("\n", "\r\n").encode(), {"brisbane._domainkey.example.com": RFC6376_KEY}) == (
        Signature(
            PASS,
            "1024-bit RSA key",
            "example.com",
            "brisbane",
            "joe@football.example.com",
            "rsa-sha256",
            "AuUoFEfD",
        ),
    )


def test_both_signatures_of_rfc_8463() -> None:
    raw = RFC8463.replace("\n", "\r\n").encode()
    ed25519, rsa = checked(raw, RFC8463_KEYS)
    assert (ed25519.result, ed25519.reason, ed25519.algorithm) == (PASS, "256-bit Ed25519 key", "ed25519-sha256")
    assert (rsa.result, rsa.reason, rsa.algorithm) == (PASS, "1024-bit RSA key", "rsa-sha256")
    assert {each.result for each in checked(raw.replace(b"dinner", b"supper"), RFC8463_KEYS)} == {FAIL}


def test_no_signature() -> None:
    assert checked(TEXT) == ()
    assert checked(b"") == ()
    assert checked(b"Subject: DKIM-Signature: v=1\r\n\r\nDKIM-Signature: v=1\r\n") == ()
    assert checked(b"no header field\r\n\r\nDKIM-Signature: v=1\r\n") == ()


def test_the_verdict() -> None:
    assert verdict(one(signed(TEXT))) == Verdict(
        "dkim",
        "pass",
        (
            ("header.d", "example.org"),
            ("header.i", "@example.org"),
            ("header.s", "mail"),
            ("header.a", "rsa-sha256"),
            ("header.b", one(signed(TEXT)).value),
        ),
        "2048-bit RSA key",
    )
    assert len(one(signed(TEXT)).value) == 8
    assert verdict(one(b"DKIM-Signature: v\r\n" + TEXT)) == Verdict(
        "dkim", "neutral", (), "it is no list of tags, or has one twice"
    )


@pytest.mark.parametrize(
    "tags",
    [
        TAGS,
        TAGS.replace("v=1; a={a}; ", "a={a};v=1;"),
        TAGS.replace("c=relaxed/relaxed", "c=simple/simple"),
        TAGS.replace("c=relaxed/relaxed; ", ""),
        TAGS.replace("h=from:to:subject", "h=\r\n From \r\n\t: TO:subject"),
        TAGS.replace("h=from:to:subject", "h=from:from:to:to:subject:x-none:subject"),
        TAGS.replace("v=1;", f"v=1; l={LENGTH};"),
        TAGS.replace("v=1;", f"v=1; t={AT}; x={AT + 1};"),
        TAGS.replace("v=1;", f"v=1; x={AT - 300};"),
        TAGS.replace("v=1;", f"v=1; t={AT + 36_000};"),
        TAGS.replace("v=1;", "v=1; q=dns/other : dns/txt;"),
        TAGS.replace("v=1;", "v=1; i=@example.org;"),
        TAGS.replace("v=1;", "v=1; i=Ada=20L@lists.EXAMPLE.org;"),
        TAGS.replace("d=example.org", "d=Example.ORG"),
        TAGS.replace("v=1;", "v=1; unknown=tag; z=From:ada;"),
        TAGS.replace("bh={bh}", "bh=  {bh}\r\n\t"),
        TAGS.replace(" ", "\r\n "),
    ],
    ids=range(17),
)
@pytest.mark.parametrize("key", [signing_key(), ed25519_key()], ids=["RSA", "Ed25519"])
def test_what_passes(tags: str, key: SigningKey) -> None:
    found = one(signed(TEXT, tags, key))
    reason = "2048-bit RSA key" if key.kind == "rsa" else "256-bit Ed25519 key"
    assert (found.result, found.reason, found.domain) == (PASS, reason, "example.org")


@pytest.mark.parametrize(
    ("tags", "result", "why"),
    [
        (TAGS.replace("v=1; ", ""), NEUTRAL, "missing v="),
        (TAGS.replace("v=1", "v=2"), NEUTRAL, "v= value is not 1 (2)"),
        (TAGS.replace("d=example.org; ", ""), NEUTRAL, "missing d="),
        (TAGS.replace("h=from:to:subject; ", ""), NEUTRAL, "missing h="),
        (TAGS.replace("bh={bh}", "bh=####"), NEUTRAL, "bh= is not base64"),
        (TAGS.replace("bh={bh}", "bh=YWJj"), FAIL, "the body was changed"),
        (TAGS.replace("v=1", "v=1; d=example.org"), NEUTRAL, "no list of tags, or has one twice"),
        (TAGS.replace("v=1", "v=1; nonsense"), NEUTRAL, "no list of tags"),
        (TAGS.replace("v=1", "v=1; n=\0"), NEUTRAL, "control character"),
        (TAGS.replace("v=1", "v=1" + ";" * 200), NEUTRAL, "more than 100 tags"),
        (TAGS.replace("v=1", "v=1; n=" + "x" * 20_000), POLICY, "more than 16384 octets"),
        (TAGS.replace("a={a}", "a=rsa-sha1"), FAIL, "rsa-sha1 can be forged"),
        (TAGS.replace("a={a}", "a=rsa-md5"), NEUTRAL, "unknown signature algorithm: rsa-md5"),
        (TAGS.replace("a={a}", "a=ed25519-sha256"), PERMERROR, "a 2048-bit RSA key makes no ed25519-sha256 signatures"),
        (TAGS.replace("c=relaxed/relaxed", "c=nofws"), NEUTRAL, "unknown canonicalization"),
        (TAGS.replace("c=relaxed/relaxed", "c=relaxed/"), NEUTRAL, "unknown canonicalization"),
        (TAGS.replace("v=1", "v=1; q=http"), NEUTRAL, "q= names no way"),
        (TAGS.replace("d=example.org", "d=example..org"), NEUTRAL, "s= and d= name no key"),
        (TAGS.replace("d=example.org", "d=" + ".".join(["a" * 60] * 4)), NEUTRAL, "s= and d= name no key"),
        (TAGS.replace("d=example.org", "d=exa mple.org"), NEUTRAL, "s= and d= name no key"),
        (TAGS.replace("s={s}", "s="), NEUTRAL, "s= and d= name no key"),
        (TAGS.replace("s={s}", "s=none"), PERMERROR, "there is no key none._domainkey.example.org"),
        (TAGS.replace("v=1", "v=1; i=example.org"), NEUTRAL, "i= is no address"),
        (TAGS.replace("v=1", "v=1; i=ada@"), NEUTRAL, "i= is no address"),
        (TAGS.replace("v=1", "v=1; i=@org"), PERMERROR, "i= is not of the domain example.org"),
        (TAGS.replace("v=1", "v=1; i=@badexample.org"), PERMERROR, "i= is not of the domain example.org"),
        (TAGS.replace("v=1", "v=1; i=@example.org.evil.example"), PERMERROR, "i= is not of the domain example.org"),
        (TAGS.replace("h=from:to:subject", "h=to:subject"), PERMERROR, "From is not signed"),
        (TAGS.replace("h=from:to:subject", "h="), PERMERROR, "From is not signed"),
        (TAGS.replace("v=1", f"v=1; t={'9' * 5000}"), NEUTRAL, "t= is no number"),
        (TAGS.replace("v=1", "v=1; t=-1"), NEUTRAL, "t= is no number"),
        (TAGS.replace("v=1", "v=1; l="), NEUTRAL, "l= is no number"),
        (TAGS.replace("v=1", f"v=1; t={AT + 36_001}"), NEUTRAL, "t= is in the future"),
        (TAGS.replace("v=1", f"v=1; t={AT}; x={AT}"), NEUTRAL, "x= is not after t="),
        (TAGS.replace("v=1", f"v=1; x={AT - 301}"), FAIL, "it expired at 2023-11-14 22:08:19 UTC"),
        (TAGS.replace("v=1", f"v=1; l={LENGTH - 1}"), POLICY, f"l= covers {LENGTH - 1} of {LENGTH} octets"),
        (TAGS.replace("v=1", "v=1; l=0"), POLICY, "the rest is unsigned"),
        (TAGS.replace("v=1", f"v=1; l={LENGTH + 1}"), FAIL, f"and the body has {LENGTH}"),
        (TAGS.replace("v=1", "v=1; l=" + "9" * 20), FAIL, f"and the body has {LENGTH}"),
    ],
    ids=range(39),
)
def test_what_does_not_pass(tags: str, result: DkimResult, why: str) -> None:
    found = one(signed(TEXT, tags))
    assert found.result is result
    assert why in found.reason


def test_the_time_decides() -> None:
    raw = signed(TEXT, TAGS.replace("v=1", f"v=1; t={AT - 500}; x={AT}"))
    assert one(raw, at=AT + 300.0).result is PASS
    assert one(raw, at=AT + 300.5).result is FAIL
    assert one(raw, at=AT - 36_501).result is NEUTRAL


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (signed(TEXT).replace(b"two", b"TWO"), "the body was changed"),
        (signed(TEXT) + b"more\r\n", "the body was changed"),
        (
            signed(TEXT).replace(b"Subject: x", b"Subject: y"),
            f"the signature does not match {NAME}, a 2048-bit RSA key",
        ),
        (signed(TEXT, key=ed25519_key()).replace(b"Subject: x", b"Subject: y"), "a 256-bit Ed25519 key"),
        (signed(TEXT).replace(b"\r\nFrom:", b"\r\nFrom: eve@example.net\r\nFrom:"), "2 From fields, and h= covers 1"),
        (signed(TEXT, TAGS.replace("h=from", "h=from:from")).replace(b"\r\nTo:", b"\r\nFrom: eve\r\nTo:"), "not match"),
        (
            signed(TEXT, TAGS.replace("h=from", "h=x-none:from")).replace(b"\r\nTo:", b"\r\nX-None: y\r\nTo:"),
            "not match",
        ),
    ],
    ids=range(7),
)
def test_what_was_changed(changed: bytes, why: str) -> None:
    found = one(changed)
    assert found.result is FAIL
    assert why in found.reason


def test_fields_of_one_name_are_signed_from_the_bottom_up() -> None:
    raw = signed(TEXT.replace(b"Subject: x", b"Subject: first\r\nX: y\r\nSubject: last"))
    assert by_dkimpy(raw)
    assert one(raw).result is PASS
    assert one(raw.replace(b"first", b"other")).result is PASS
    assert one(raw.replace(b"last", b"other")).result is FAIL


def test_two_from_fields_that_were_both_signed() -> None:
    raw = message(b"text\r\n", b"From: a@example.org\r\nFrom: b@example.org\r\nTo: c@example.net\r\nSubject: x\r\n")
    assert one(signed(raw, TAGS.replace("h=from", "h=from:from"))).result is PASS


@pytest.mark.parametrize(
    ("text", "result", "why"),
    [
        ("", PERMERROR, f"{NAME}: the key record holds no key"),
        ("v=DKIM1; k=rsa; p=", PERMERROR, f"{NAME}: the key was revoked"),
        (GOOD.replace("DKIM1", "DKIM2"), PERMERROR, "unknown version"),
        (GOOD.replace("k=rsa", "k=ed25519"), PERMERROR, "an Ed25519 key has 32 octets"),
        (GOOD.replace("k=rsa", "k=dsa"), PERMERROR, "neither RSA nor Ed25519"),
        (GOOD.replace("k=rsa", "h=sha1"), PERMERROR, "not for sha256"),
        (GOOD.replace("k=rsa", "s=tlsrpt"), PERMERROR, "not for mail"),
        (GOOD[:-20], PERMERROR, "damaged"),
        ("nonsense", PERMERROR, "malformed"),
        (record(SigningKey("example.org", "mail", private(1024))), FAIL, f"does not match {NAME}, a 1024-bit RSA key"),
        (GOOD.replace("k=rsa", "t=s"), PASS, "2048-bit RSA key"),
        (GOOD.replace("k=rsa", "t=y:s"), PASS, "2048-bit RSA key in testing mode"),
        (GOOD.replace("k=rsa", "g=nobody; h=sha1:sha256; s=email; n=a note"), PASS, "2048-bit RSA key"),
    ],
)
def test_records(text: str, result: DkimResult, why: str) -> None:
    found = one(signed(TEXT), {NAME: text})
    assert found.result is result
    assert why in found.reason


# Made once, because libraries no longer make one of 512 bits.
WEAK = (
    "v=DKIM1; p=MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBALWie/wKcxc4d4bTm+oSctBP/+gQoSOGgYxhP+o3+1bGYAJ+3koWG9HWewPK"
    "RABmuVc2CO3GMuYFRInfAPO3bQ8CAwEAAQ=="
)


def test_a_short_key_fails() -> None:
    found = one(signed(TEXT), {NAME: WEAK})
    assert (found.result, found.reason) == (FAIL, f"{NAME}: the key has 512 bits: not 1024 to 8192")


def test_of_several_records_the_key_is_taken() -> None:
    class Several(ZoneTxt):
        async def texts(self, name: str) -> tuple[bytes, ...]:
            return (b"v=spf1 -all", GOOD.encode(), b"a note; p=")

    assert one(signed(TEXT), Several({})).result is PASS


def test_a_look_up_that_is_not_answered() -> None:
    class Broken(ZoneTxt):
        async def texts(self, name: str) -> tuple[bytes, ...]:
            if name == NAME:
                raise Unanswered("SERVFAIL from 192.0.2.53")
            return await super().texts(name)

    rsa, ed25519 = checked(signed(signed(TEXT, key=ed25519_key())), Broken(both()))
    assert rsa.result is TEMPERROR
    assert rsa.reason == f"the key {NAME} could not be looked up: SERVFAIL from 192.0.2.53"
    assert ed25519.result is PASS


async def test_keys_are_looked_up_at_once_and_only_where_they_can_decide() -> None:
    together = asyncio.Barrier(2)
    asked = []

    class Together(ZoneTxt):
        async def texts(self, name: str) -> tuple[bytes, ...]:
            asked.append(name)
            await together.wait()
            return await super().texts(name)

    raw = signed(signed(TEXT, key=ed25519_key()))
    raw = signed(signed(raw, TAGS.replace("s={s}", "s=unread; x=1")))
    with ThreadPoolExecutor(1) as pool:
        found = await check(raw, Together(both()), pool, BOUNDS, AT)
    assert [each.result for each in found] == [PASS, FAIL, PASS, PASS]
    assert asked == ["ed._domainkey.example.org", NAME]


async def test_a_message_that_was_opened_before() -> None:
    raw = signed(TEXT)
    with ThreadPoolExecutor(1) as pool:
        (found,) = await check(raw, ZoneTxt(zone()), pool, BOUNDS, AT, opened(raw, BOUNDS))
    assert found.result is PASS


def test_more_signatures_than_are_looked_at() -> None:
    raw = TEXT
    for _ in range(3):
        raw = signed(raw, key=ed25519_key())
    found = checked(raw, bounds=Authentication(signatures=2))
    assert [each.result for each in found] == [PASS, PASS, POLICY]
    assert found[2] == Signature(POLICY, "1 more signatures were not looked at: there are more than 2")


@pytest.mark.parametrize(
    ("raw", "bounds", "why"),
    [
        (signed(TEXT), Authentication(header_size=200), "more than 200 octets"),
        (signed(TEXT), Authentication(header_lines=3), "more than 3 lines"),
        (b"a line without colon\r\n" + signed(TEXT), BOUNDS, "malformed header section"),
        (signed(TEXT).replace(b"To:", b"To"), BOUNDS, "malformed header section"),
    ],
)
def test_header_sections_that_are_not_looked_into(raw: bytes, bounds: Authentication, why: str) -> None:
    found = one(raw, bounds=bounds)
    assert found.result is PERMERROR
    assert why in found.reason


def test_the_size_of_a_signature_is_bounded() -> None:
    assert one(signed(TEXT), bounds=Authentication(signature_size=300)).result is POLICY


def test_an_internationalized_domain() -> None:
    asked = ZoneTxt({"mail._domainkey.xn--bcher-kva.example": GOOD})
    raw = signed(TEXT, TAGS.replace("d=example.org", "d=bücher.example; i=ada@news.xn--bcher-kva.example"))
    assert one(raw, asked) == Signature(
        PASS,
        "2048-bit RSA key",
        "xn--bcher-kva.example",
        "mail",
        "ada@news.xn--bcher-kva.example",
        "rsa-sha256",
        one(raw, asked).value,
    )


# What dkimpy as it comes makes of the same.


def test_rsa_sha1_is_accepted_by_dkimpy() -> None:
    body = b"text\r\n"
    raw = message(body, b"From: ada@example.org\r\n")
    signer = dkim.DKIM(raw, signature_algorithm=b"rsa-sha1")
    field = signer.sign(b"mail", b"example.org", pem(signing_key()), include_headers=[b"from"])
    assert by_dkimpy(field + raw)
    assert one(field + raw).result is FAIL


def test_what_a_key_is_for_is_not_asked_by_dkimpy() -> None:
    for_sha1 = {NAME: GOOD.replace("k=rsa", "h=sha1")}
    assert by_dkimpy(signed(TEXT), for_sha1)
    assert one(signed(TEXT), for_sha1).result is PERMERROR


def test_a_strict_key_signs_for_subdomains_with_dkimpy() -> None:
    strict = {NAME: GOOD.replace("k=rsa", "t=s")}
    below = signed(TEXT, TAGS.replace("v=1", "v=1; i=@lists.example.org"))
    assert by_dkimpy(below, strict)
    assert one(below, strict).result is PERMERROR
    assert one(below, strict).reason == f"i= is below d=, for which {NAME} is not meant (t=s)"
    assert one(signed(TEXT, TAGS.replace("v=1", "v=1; i=ada@EXAMPLE.org")), strict).result is PASS


def test_what_is_appended_after_l_is_accepted_by_dkimpy() -> None:
    raw = signed(TEXT, TAGS.replace("v=1", f"v=1; l={LENGTH}")) + b"and what was put after it\r\n"
    assert by_dkimpy(raw)
    assert one(raw).result is POLICY
    assert one(raw).reason == f"l= covers {LENGTH} of {LENGTH + 29} octets: the rest is unsigned"


def test_an_expired_signature_is_good_for_ten_hours_more_with_dkimpy() -> None:
    now = int(SystemClock().now())
    raw = signed(TEXT, TAGS.replace("v=1", f"v=1; x={now - 3600}"))
    assert by_dkimpy(raw)
    assert one(raw, at=now).result is FAIL


@pytest.mark.parametrize(
    ("tags", "dies", "result"),
    [
        (TAGS.replace("v=1", "v=1; i=example.org"), IndexError, NEUTRAL),
        (TAGS.replace("v=1", f"v=1; t={'9' * 5000}"), ValueError, NEUTRAL),
        (TAGS.replace("bh={bh}", "bh=aaaaa==="), ValueError, NEUTRAL),
        (TAGS.replace("v=1", "v=1; l="), ValueError, NEUTRAL),
    ],
)
def test_what_dkimpy_dies_of(tags: str, dies: type[Exception], result: DkimResult) -> None:
    raw = signed(TEXT, tags)
    with pytest.raises(dies):
        by_dkimpy(raw)
    assert one(raw).result is result


def test_a_second_method_of_looking_up_is_refused_by_dkimpy() -> None:
    raw = signed(TEXT, TAGS.replace("v=1", "v=1; q=dns/txt:dns/other"))
    with pytest.raises(dkim.ValidationError, match="q= value"):
        by_dkimpy(raw)
    assert one(raw).result is PASS


def test_that_from_is_signed_is_not_asked_by_dkimpy() -> None:
    raw = signed(TEXT, TAGS.replace("h=from:to:subject", "h=to:subject"))
    assert by_dkimpy(raw)
    assert one(raw).result is PERMERROR
