"""Judging a chain: what passes, what fails and why, and that a hostile message gets a Chain, soon, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import dkim
import pytest
from arc_peers import AT, HEADER, ZoneTxt, by_dkimpy, judged, message, private, sealed, signing_key, zone
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from smtproute.core.lookup import Unanswered
from smtproute.core.settings import Authentication
from smtproute.core.verdict import Verdict
from smtproute.mailauth import arc
from smtproute.mailauth.canonical import relaxed_body, relaxed_field, simple_body
from smtproute.mailauth.header import message_digest
from smtproute.mailauth.keys import SigningKey, record
from smtproute.mailauth.sets import seal_digest, survey
from smtproute.mailauth.validation import validate

BOUNDS = Authentication()
TEXT = message(b"one  line\r\ntwo lines \r\n\r\n")
ONCE = sealed(TEXT)
TWICE = sealed(ONCE)
PASS, FAIL = arc.ChainStatus.PASS, arc.ChainStatus.FAIL

AAR = "ARC-Authentication-Results: i=1; mx.example.org; arc=none"
AMS = "ARC-Message-Signature: i=1; a=rsa-sha256; c=relaxed/relaxed; d=example.org; s=mail; t=1; h=from:to; bh={bh}; b="
SEAL = "ARC-Seal: i=1; a=rsa-sha256; cv=none; d=example.org; s=mail; t=1; b="


def handmade(
    raw: bytes = TEXT,
    aar: str = AAR,
    ams: str = AMS,
    seal: str = SEAL,
    body: bytes | None = None,
    form: str = "relaxed",
) -> bytes:
    """A set whose fields are written as given and signed as they are; each must have an empty b= somewhere."""
    header = survey(raw, BOUNDS).header
    assert header is not None
    canonical = relaxed_body(raw[header.body :]) if "c=simple/simple" not in ams else simple_body(raw[header.body :])
    bh = base64.b64encode(sha256(canonical if body is None else body).digest()).decode()
    names = [b"from", b"to", b"from"]
    unsigned = ams.format(bh=bh).encode() + b"\r\n"
    signature = _with(unsigned, message_digest(header, names, unsigned, form.encode()))
    results = aar.encode() + b"\r\n"
    last = seal.encode() + b"\r\n"
    last = _with(last, seal_digest((), relaxed_field(results), relaxed_field(signature), last))
    return last + signature + results + raw


def _with(field: bytes, digest: bytes) -> bytes:
    value = base64.b64encode(private().sign(digest, PKCS1v15(), Prehashed(SHA256())))
    before, found, after = field.rpartition(b" b=")
    assert found
    return before + found + value + after


def test_no_chain() -> None:
    assert judged(TEXT) == arc.Chain(arc.ChainStatus.NONE)
    assert judged(b"") == arc.Chain(arc.ChainStatus.NONE)
    assert judged(b"Subject: ARC-Seal: i=1\r\n\r\nARC-Seal: i=1\r\n") == arc.Chain(arc.ChainStatus.NONE)


def test_chains_that_pass() -> None:
    assert judged(ONCE) == arc.Chain(PASS, 1)
    assert judged(TWICE) == arc.Chain(PASS, 2)


def each_set(raw: bytes, records: dict[str, str], at: float = AT) -> tuple[arc.Instance, ...]:
    """instances(), from outside an event loop."""
    with ThreadPoolExecutor(1) as pool:
        return asyncio.run(arc.instances(raw, ZoneTxt(records), pool, BOUNDS, at))


def test_whose_seals_they_are_and_what_the_results_say() -> None:
    hop = signing_key("hop.example", 1024)
    raw = handmade(
        aar=AAR + "; spf=pass;\r\n\tspf=fail; \xff\x80 (", seal=SEAL.replace("d=example.org", "d=Example.ORG")
    )
    raw = sealed(raw, arc.Chain(PASS, 1), hop)
    with ThreadPoolExecutor(1) as pool:
        chain = asyncio.run(arc.evaluate(raw, ZoneTxt(zone(signing_key(), hop)), pool, BOUNDS, AT))
    assert chain.status is PASS
    assert chain.sealers == ("example.org", "hop.example")
    assert chain.results[0] == "mx.example.org; arc=none; spf=pass; spf=fail; \xff\x80 ("
    assert chain.results[1].startswith("mx.example.org; arc=none; spf=pass (192.0.2.1 is permitted)")


def test_every_set_on_its_own() -> None:
    hop = signing_key("hop.example", 1024)
    records = zone(signing_key(), hop)
    changed = ONCE.replace(b"two lines", b"three lines")
    raw = sealed(changed, arc.Chain(PASS, 1), hop)
    first, second = each_set(raw, records)
    assert (first.number, first.sealer, first.signer, first.status) == (1, "example.org", "example.org", "none")
    assert (first.seal_fault, first.signature_fault) == ("", "the body was changed")
    assert (second.number, second.sealer, second.signer, second.status) == (2, "hop.example", "hop.example", "pass")
    assert (second.seal_fault, second.signature_fault) == ("", "")
    assert second.results.startswith("mx.example.org;")
    (_, second) = each_set(raw, zone())
    assert second.seal_fault == second.signature_fault == "there is no key mail._domainkey.hop.example"


def test_a_set_that_breaks_a_rule_is_told_on_its_own() -> None:
    (only,) = each_set(handmade(ams=AMS.replace("d=example.org; ", "")), zone())
    assert only.signer == ""
    assert "missing" in only.signature_fault
    assert only.seal_fault == ""
    (only,) = each_set(handmade(seal=SEAL.replace("cv=none", "cv=fail")), zone())
    assert (only.status, only.seal_fault, only.signature_fault) == ("fail", "", "")


def test_a_set_is_judged_at_the_time_that_is_given() -> None:
    """The machine's is before that."""
    raw = handmade(ams=AMS.replace("t=1;", "t=4000000000;"), seal=SEAL.replace("t=1;", "t=4000000000;"))
    (only,) = each_set(raw, zone(), 4_000_000_000)
    assert (only.seal_fault, only.signature_fault) == ("", "")
    (only,) = each_set(raw, zone())
    assert only.seal_fault == only.signature_fault == "t= is in the future"


def test_an_earlier_message_signature_may_have_expired() -> None:
    hop = signing_key("hop.example", 1024)
    raw = sealed(handmade(ams=AMS.replace("t=1;", f"x={AT - 301};")), arc.Chain(PASS, 1), hop)
    assert judged(raw, zone(signing_key(), hop)) == arc.Chain(PASS, 2)
    first, _ = each_set(raw, zone(signing_key(), hop))
    assert (first.seal_fault, first.signature_fault) == ("", "it expired at 2023-11-14 22:08:19 UTC")


def test_sets_that_are_not_complete_are_not_told_one_by_one() -> None:
    assert each_set(TEXT, {}) == ()
    assert each_set(TWICE.replace(b"i=2;", b"i=3;"), zone()) == ()


def test_the_verdict() -> None:
    assert arc.verdict(judged(TEXT)) == Verdict("arc", "none")
    assert arc.verdict(judged(ONCE)) == Verdict("arc", "pass")
    changed = arc.verdict(judged(ONCE.replace(b"one", b"ONE")))
    assert changed == Verdict("arc", "fail", reason="ARC-Message-Signature 1: the body was changed")


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"ams": AMS.replace("i=1; ", "i=1;"), "seal": SEAL.replace("i=1; ", "i=1;")},
        {"ams": AMS.replace(" i=1;", "\r\n\ti=1;"), "aar": AAR.replace(" i=1;", "\r\n\ti = 1 ;")},
        {"ams": AMS.replace("i=1;", "i =\t1\t;"), "seal": SEAL.replace("i=1; ", "")[:-3] + " i=1; b="},
        {"ams": AMS.replace("i=1; ", "") + "; i=1"},
        {"ams": AMS + " ; unknown=tag ;", "seal": SEAL + "\r\n ; x-y=z;"},
        {"ams": AMS.replace("ARC-Message-Signature", "arc-MESSAGE-signature"), "seal": SEAL.replace("ARC-S", "Arc-s")},
        {"ams": AMS.replace("c=relaxed/relaxed", "c=simple/simple"), "form": "simple"},
        {"ams": AMS.replace("c=relaxed/relaxed; ", "")},
        {"ams": AMS.replace("h=from:to", "h=\r\n From \r\n\t: TO")},
        {"ams": AMS.replace("t=1;", "l=21; t=1;")},
        {"seal": SEAL.replace("t=1; ", ""), "ams": AMS.replace("t=1; ", "")},
        {"ams": AMS.replace("bh={bh}", "bh=  {bh}\r\n\t")},
        {"ams": AMS.replace("t=1;", f"t={AT + 36_000};"), "seal": SEAL.replace("t=1;", f"t={AT + 36_000};")},
        {"ams": AMS.replace("t=1;", f"x={AT - 300};")},
    ],
    ids=range(15),
)
def test_unusual_but_right(parts: dict[str, str]) -> None:
    assert judged(handmade(**parts)) == arc.Chain(PASS, 1)


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"ams": AMS.replace("rsa-sha256", "rsa-sha1")}, "signature algorithm"),
        ({"seal": SEAL.replace("rsa-sha256", "ed25519-sha256")}, "signature algorithm"),
        ({"ams": AMS.replace("t=1;", "l=5; t=1;"), "body": b"one line\r\n"[:5]}, "l= covers 5 of 21 octets"),
        ({"ams": AMS.replace("t=1;", "l=500; t=1;")}, "l= covers 500 octets, and the body has 21"),
        ({"ams": AMS.replace("t=1;", f"t={'9' * 5000};")}, "t= is no number"),
        ({"ams": AMS.replace("t=1;", f"t={AT + 36_001};")}, "ARC-Message-Signature 1: t= is in the future"),
        ({"seal": SEAL.replace("t=1;", f"t={AT + 36_001};")}, "ARC-Seal 1: t= is in the future"),
        ({"ams": AMS.replace("t=1;", f"x={'1' * 5000};")}, "x= is no number"),
        ({"ams": AMS.replace("t=1;", "t=2; x=2;")}, "ARC-Message-Signature 1: x= is not after t="),
        ({"ams": AMS.replace("t=1;", f"x={AT - 301};")}, "it expired at 2023-11-14 22:08:19 UTC"),
        ({"ams": AMS.replace("t=1;", f"l={'1' * 70};")}, "l= is no number"),
        ({"ams": AMS.replace("c=relaxed/relaxed", "c=nofws")}, "canonicalization"),
        ({"ams": AMS.replace("h=from:to", "h=from:to:arc-seal")}, "MUST NOT sign ARC-Seal"),
        ({"ams": AMS.replace("bh={bh}", "bh=####")}, "not base64"),
        ({"ams": AMS.replace("bh={bh}", "bh={bh}; i=1")}, "malformed ARC-Message-Signature"),
        ({"ams": AMS.replace("d=example.org", "d=example..org")}, "name no key"),
        ({"ams": AMS.replace("d=example.org", "d=" + ".".join(["a" * 60] * 4))}, "name no key"),
        ({"ams": AMS.replace("s=mail", "s=[192.0.2.1]")}, "name no key"),
        ({"ams": AMS.replace("s=mail", "s=")}, "name no key"),
        ({"ams": AMS.replace("d=example.org; ", "")}, "missing"),
        ({"ams": AMS.replace("s=mail", "s=none")}, "there is no key none._domainkey.example.org"),
        ({"ams": AMS.replace("t=1;", "t=1;" + "x" * 20_000)}, "more than 16384 octets"),
        ({"ams": AMS.replace("t=1;", "t=1;" + "\x0c" * 10_000)}, "control character"),
        ({"ams": AMS.replace("i=1; ", "")}, "has no instance"),
        ({"ams": AMS.replace("i=1", "i=0")}, "has no instance"),
        ({"ams": AMS.replace("i=1", "i=-1")}, "has no instance"),
        ({"ams": AMS.replace("i=1", "i=" + "1" * 5000)}, "has no instance"),
        ({"ams": AMS.replace("i=1", "i=²")}, "has no instance"),
        ({"seal": SEAL.replace("cv=none", "cv=pass")}, "invalid status"),
        ({"seal": SEAL.replace("cv=none", "cv=None")}, "cv= value is not valid"),
        ({"seal": SEAL.replace("cv=none; ", "")}, "missing"),
        ({"seal": SEAL.replace("t=1;", "h=from;")}, "h= tag not permitted"),
        ({"seal": SEAL.replace("i=1", "i=2")}, "there is no ARC-Seal of i=1"),
        ({"aar": AAR.replace("i=1;", "i=1")}, "malformed ARC-Authentication-Results"),
        ({"aar": AAR.replace("i=1; ", "")}, "malformed ARC-Authentication-Results"),
        ({"aar": AAR + "\r\n" + AAR}, "there are two ARC-Authentication-Results of i=1"),
    ],
)
def test_signed_and_still_wrong(parts: dict[str, str], why: str) -> None:
    """Each of these is signed as it stands: only the rule fails it."""
    chain = judged(handmade(**parts))
    assert chain.status is FAIL
    assert why in chain.reason


def test_what_is_put_after_l_is_not_accepted() -> None:
    """dkimpy as it comes accepts it."""
    body = b"one line\r\n"
    raw = handmade(
        message(b"one line\r\nand what was put after it\r\n"), ams=AMS.replace("t=1;", "l=10; t=1;"), body=body
    )
    assert by_dkimpy(raw) == "pass success"
    assert judged(raw).status is FAIL


CHANGED = ONCE.replace(b"two lines", b"three lines")
NO_SPACE, FOLDED = AMS.replace(" i=1;", "i=1;"), AMS.replace(" i=1;", "\r\n\ti=1;")


@pytest.mark.parametrize(
    ("raw", "theirs", "status", "why"),
    [
        pytest.param(handmade(ams=AMS.replace("t=1;", f"t={'9' * 5000};")), ValueError, FAIL, "t= is no", id="5000"),
        pytest.param(handmade(ams=NO_SPACE), IndexError, PASS, "", id="i= without a space"),
        pytest.param(handmade(ams=FOLDED), IndexError, PASS, "", id="i= after a tab"),
        pytest.param(
            ONCE.replace(b"ARC-Seal: ", b"ARC-Seal:\r\ni=1; "),
            dkim.MessageFormatError,
            FAIL,
            "malformed header section",
            id="i= at the start of a line",
        ),
        pytest.param(
            b"a line without a colon\r\n" + ONCE, dkim.MessageFormatError, FAIL, "malformed header", id="no colon"
        ),
        pytest.param(sealed(CHANGED), None, FAIL, "ARC-Seal 2 says cv=fail", id="ends in cv=fail"),
        # Both say the same, but see test_no_input_is_quadratic.
        pytest.param(sealed(message(b" " * 1000 + b"x\r\n")), b"pass", PASS, "", id="spaces"),
    ],
)
def test_where_dkimpy_as_it_comes_dies_or_says_nothing(
    raw: bytes, theirs: bytes | type[Exception] | None, status: arc.ChainStatus, why: str
) -> None:
    """`theirs` is its status, or what escapes from it."""

    def look_up(name: bytes, timeout: int) -> bytes:
        return zone()[name.decode().rstrip(".")].encode()

    if isinstance(theirs, type):
        with pytest.raises(theirs):
            dkim.arc_verify(raw, dnsfunc=look_up)
    else:
        assert dkim.arc_verify(raw, dnsfunc=look_up)[0] == theirs
    chain = judged(raw)
    assert chain.status is status
    assert why in chain.reason


@pytest.mark.parametrize(
    ("changed", "sets", "sealable", "why"),
    [
        (TWICE.replace(b"cv=pass; d=example.org; i=2", b"cv=fail; d=example.org; i=2"), 2, False, "cv=fail"),
        (
            TWICE.replace(b"cv=none; d=example.org; i=1", b"cv=fail; d=example.org; i=1"),
            2,
            True,
            "ARC-Seal 2: the signature",
        ),
        (TWICE.replace(b"cv=pass; d=example.org; i=2", b"cv=none; d=example.org; i=2"), 2, True, "ARC-Seal 2"),
        (TWICE.replace(b"i=2;", b"i=3;"), 3, True, "of i=2"),
        (TWICE.replace(b"i=2;", b"i=51;"), 50, False, "more than 50"),
        (TWICE.replace(b"i=1;", b"i=01;"), 2, True, "ARC-Seal 2: the signature does not match"),
        (TWICE.replace(b"i=1;", b"i=0;"), 2, True, "no instance"),
        (ONCE + ONCE, 1, True, ""),
        (ONCE[: ONCE.index(b"Received:")] + ONCE, 1, True, "there are two"),
        (ONCE[ONCE.index(b"ARC-Message") :], 1, True, "there is no ARC-Seal of i=1"),
        (b"ARC-Seal: i=1; cv=fail\r\n" + TEXT, 1, False, "cv=fail"),
        (b"ARC-Seal: nonsense\r\n" + TEXT, 0, True, "malformed ARC-Seal"),
        (b"ARC-Seal:\r\n" + TEXT, 0, True, "malformed ARC-Seal"),
        (b"ARC-Seal: i=1; i=1; cv=none\r\n" + TEXT, 0, True, "malformed ARC-Seal"),
        (b"a line without a colon\r\n" + ONCE, 0, True, "malformed header section"),
        (ONCE.replace(b"From:", b"From\r\n:"), 0, True, "malformed header section"),
        (b"ARC-Seal: i=1; b=x\r\n" * 200 + TEXT, 50, False, "more than 50"),
        (b"X: " + b"x" * 600_000 + b"\r\n" + ONCE, 0, True, "octets"),
        (b"X: y\r\n" * 11_000 + ONCE, 0, True, "lines"),
    ],
)
def test_chains_that_are_broken(changed: bytes, sets: int, sealable: bool, why: str) -> None:
    chain = judged(changed)
    assert (chain.status, chain.sets, chain.sealable) == (FAIL, sets, sealable)
    assert why in chain.reason and chain.reason


def test_a_malformed_header_without_arc_has_no_chain() -> None:
    assert judged(b"a line without a colon, but arc-ane\r\n" + TEXT) == arc.Chain(arc.ChainStatus.NONE)


def test_the_order_of_the_sets_in_the_header_does_not_matter() -> None:
    fields = TWICE[: TWICE.index(b"Received:")]
    second, first = fields[: fields.index(b"ARC-Seal", 10)], fields[fields.index(b"ARC-Seal", 10) :]
    assert judged(first + second + TEXT) == arc.Chain(PASS, 2)


def _spki(key: object) -> str:
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    return base64.b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def _integer(value: int) -> bytes:
    octets = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return b"\x02" + _length(len(octets)) + octets


def _length(octets: int) -> bytes:
    return bytes([octets]) if octets < 128 else b"\x82" + octets.to_bytes(2, "big")


def _rsa(modulus: int, exponent: int) -> str:
    inner = _integer(modulus) + _integer(exponent)
    return base64.b64encode(b"\x30" + _length(len(inner)) + inner).decode()


ED25519 = ed25519.Ed25519PrivateKey.generate()
GOOD = record(signing_key())
MODULUS = private().public_key().public_numbers().n


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds no key"),
        ("v=DKIM1; k=rsa; p=", "revoked"),
        (GOOD.replace("DKIM1", "DKIM2"), "unknown version"),
        (GOOD.replace("k=rsa", "k=ed25519"), "an Ed25519 key has 32 octets"),
        pytest.param(
            record(SigningKey("example.org", "mail", ED25519)),
            "a 256-bit Ed25519 key makes no rsa-sha256 signatures",
            id="an Ed25519 key",
        ),
        (GOOD.replace("k=rsa", "k=dsa"), "neither RSA nor Ed25519"),
        (GOOD + "; n=" + "x" * 10_000, "more than 8192 octets"),
        (";".join(f"x{at}=" for at in range(200)), "more than 100 tags"),
        (GOOD.replace("k=rsa", "h=sha1"), "not for sha256"),
        (GOOD.replace("k=rsa", "s=tlsrpt"), "not for mail"),
        (GOOD.replace("k=rsa", "k=rsa; k=rsa"), "malformed"),
        (GOOD[:-20], "damaged"),
        (GOOD + "§", "damaged"),
        ("no tags at all", "malformed"),
        pytest.param(f"k=rsa; p={_spki(ed25519.Ed25519PrivateKey.generate())}", "not an RSA key", id="another key"),
        (f"k=rsa; p={_rsa(2**511 + 111, 65537)}", ""),
        (f"k=rsa; p={_rsa(2**16383 + 12345, 2**16383 + 1)}", ""),
        (f"k=rsa; p={_rsa(MODULUS, 2**2000 + 1)}", ""),
    ],
)
@pytest.mark.timeout(20)
def test_records_that_hold_no_fit_key(text: str, why: str) -> None:
    chain = judged(ONCE, {"mail._domainkey.example.org": text})
    assert chain.status is FAIL
    assert chain.reason.startswith("ARC-Message-Signature 1: mail._domainkey.example.org: ")
    assert why in chain.reason


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("v=DKIM1; k=rsa; ", ""),
        GOOD.replace("k=rsa", "h=sha1 : sha256; s=other:email; t=y:s; n=a note"),
        GOOD.replace("p=MIIB", "p= MI IB"),
        f"k=rsa; p={_rsa(MODULUS, 65537)}",
    ],
)
def test_records_that_hold_a_key(text: str) -> None:
    assert judged(ONCE, {"mail._domainkey.example.org": text}) == arc.Chain(PASS, 1)


def test_a_key_of_another_domain_does_not_fit() -> None:
    other = SigningKey("example.org", "mail", private(1024))
    assert judged(ONCE, zone(other)).reason == (
        "ARC-Message-Signature 1: the signature does not match mail._domainkey.example.org, a 1024-bit RSA key"
    )


def test_no_record() -> None:
    assert judged(ONCE, {}).reason == "ARC-Message-Signature 1: there is no key mail._domainkey.example.org"


def test_only_the_keys_that_decide_are_asked_for_and_each_once() -> None:
    hop = signing_key("hop.example", 1024)
    last = SigningKey("last.example", "mail", private())
    records = zone(signing_key(), hop, last)
    raw = sealed(sealed(ONCE, arc.Chain(PASS, 1), hop), arc.Chain(PASS, 2), last)
    txt = ZoneTxt(records)
    assert judged(raw, txt) == arc.Chain(PASS, 3)
    assert sorted(txt.asked) == sorted(records)
    broken = ZoneTxt(records)
    assert judged(raw.replace(b"i=2;", b"i=7;"), broken).status is FAIL
    assert broken.asked == []


async def test_the_names_are_asked_for_at_once() -> None:
    hop = signing_key("hop.example", 1024)
    together = asyncio.Barrier(2)

    class Together(ZoneTxt):
        async def texts(self, name: str) -> tuple[bytes, ...]:
            await together.wait()
            return await super().texts(name)

    with ThreadPoolExecutor(1) as pool:
        raw = sealed(ONCE, arc.Chain(PASS, 1), hop)
        chain = await arc.evaluate(raw, Together(zone(signing_key(), hop)), pool, BOUNDS, AT)
    assert chain.status is PASS


def test_only_the_newest_message_signature_decides() -> None:
    hop = signing_key("hop.example", 1024)
    raw = sealed(sealed(TEXT, key=hop), arc.Chain(PASS, 1))
    assert judged(raw, zone()).reason == "ARC-Seal 1: there is no key mail._domainkey.hop.example"


def test_a_second_from_fails_though_one_was_signed() -> None:
    raw = handmade()
    assert judged(raw).status is PASS
    assert judged(b"From: eve@evil.example\r\n" + raw).status is FAIL


def test_dns_trouble_fails_the_chain_and_says_so() -> None:
    class Broken(ZoneTxt):
        async def texts(self, name: str) -> tuple[bytes, ...]:
            raise Unanswered("SERVFAIL from 192.0.2.53")

    assert judged(ONCE, Broken({})) == arc.Chain(
        FAIL,
        1,
        "ARC-Message-Signature 1: the key mail._domainkey.example.org could not be looked up: SERVFAIL from 192.0.2.53",
    )


def test_an_internationalized_domain_is_looked_up_as_a_labels() -> None:
    txt = ZoneTxt({})
    judged(handmade(seal=SEAL.replace("example.org", "bücher.example")), txt)
    assert sorted(txt.asked) == ["mail._domainkey.example.org", "mail._domainkey.xn--bcher-kva.example"]


def test_whatever_escapes_from_dkimpy_is_a_failed_chain() -> None:
    found = survey(ONCE, BOUNDS)
    part = dataclasses.replace(found.sets[0].signature, tags={})
    doctored = dataclasses.replace(found, sets=(dataclasses.replace(found.sets[0], signature=part),))
    assert validate(doctored, {}, AT).startswith("malformed beyond what could be read")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(message(b" " * 5_000_000 + b"\r\n"), id="spaces"),
        pytest.param(message(b"\r\n" * 2_500_000), id="empty lines"),
        pytest.param(message(b" \t \r\n" * 1_000_000), id="blank lines"),
        pytest.param(message(b"".join(b" " * (at % 700) + b"x" for at in range(15_000))), id="runs"),
        pytest.param(message(b"\tx" * 2_500_000), id="tabs"),
        pytest.param(message(b"x", HEADER + b"List-Id: " + b" " * 400_000 + b"x\r\n"), id="spaces in a field"),
        pytest.param(message(b"x", HEADER + b"Subject:" + b"\r\n \t" * 9_000 + b"\r\n"), id="folds"),
        pytest.param(message(b"x", HEADER + b"CC: " + b"a " * 200_000 + b"\r\n"), id="words"),
    ],
)
def test_no_input_is_quadratic(raw: bytes) -> None:
    """The guard is the time-out: the regular expressions of dkimpy need minutes for some of these."""
    assert judged(sealed(raw, arc.Chain(arc.ChainStatus.NONE))) == arc.Chain(PASS, 1)


@pytest.mark.timeout(20)
def test_hostile_fields_are_not_quadratic() -> None:
    for hostile in (
        AMS.replace("h=from:to", "h=" + " :" * 7_000),
        AMS.replace("t=1;", "t=1" + " " * 15_000 + ";"),
        AMS.replace("bh={bh}", "bh=" + "= " * 7_000),
        AMS.replace("t=1;", ";" * 15_000),
        AMS.replace("h=from:to", "h=" + "a:" * 7_000),
    ):
        assert judged(handmade(TEXT, ams=hostile)).sets <= 1
    wide = "".join(f"X-{at}: y\r\n" for at in range(9_000)).encode()
    assert judged(handmade(wide + TEXT, ams=AMS.replace("h=from:to", "h=" + "x-1:" * 4_000))).status is FAIL


_ARC_END = TWICE.index(b"Received:")
_WORDS = b"| |;|=|i=|i=1;|i=2|\r\n\t|\r\n|\r\n\r\n|b=|h=:|\0|\xff|:|cv=fail|cv=none|99999999999|ARC-Seal: |a=|("
_PIECES = st.sampled_from([*_WORDS.split(b"|"), b"t=" + b"9" * 5000, b"\r\nARC-Seal: i=3\r\n"])
_edits = st.lists(st.tuples(st.integers(0, _ARC_END), st.integers(0, 40), _PIECES), min_size=1, max_size=4)


@given(_edits)
@settings(max_examples=300, deadline=None)
def test_mutated_fields_give_a_chain(edits: list[tuple[int, int, bytes]]) -> None:
    raw = TWICE
    for at, removed, put in edits:
        raw = raw[:at] + put + raw[at + removed :]
    chain = judged(raw)
    assert isinstance(chain, arc.Chain)
    assert 0 <= chain.sets <= 50
    assert (chain.status is FAIL) == bool(chain.reason)
    if chain.sealable and survey(raw, BOUNDS).header is not None:
        assert judged(sealed(raw, chain)).sets == chain.sets + 1


@given(st.binary(max_size=300), st.sampled_from([b"", b"ARC-Seal: i=1;", b"ARC-Message-Signature: i=1;", b"ARC-"]))
@settings(max_examples=200, deadline=None)
def test_garbage_gives_a_chain(garbage: bytes, start: bytes) -> None:
    assert isinstance(judged(start + garbage), arc.Chain)
