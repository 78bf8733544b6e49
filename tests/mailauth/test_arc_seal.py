"""Sealing: what we add verifies elsewhere, octet by octet, and nothing a stranger wrote gets in."""

from __future__ import annotations

import base64
import re
import time
from pathlib import Path

import dkim
import pytest
from arc_peers import (
    AT,
    AUTHSERV_ID,
    BODIES,
    FOUND,
    HEADER,
    by_dkimpy,
    by_perl,
    dkimpy_sealed,
    five_megabytes,
    judged,
    message,
    pem,
    perl_sealed,
    results,
    sealed,
    signing_key,
    zone,
)
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from dkim.canonicalization import Relaxed
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from smtproute.core.message import fields
from smtproute.core.settings import Authentication
from smtproute.core.verdict import Verdict
from smtproute.mailauth import arc
from smtproute.mailauth.sign import SignFault

NONE = arc.Chain(arc.ChainStatus.NONE)
PASS, FAIL = arc.ChainStatus.PASS, arc.ChainStatus.FAIL
PERL = pytest.mark.peer("perl:Mail::DKIM::ARC::Verifier", "perl:Net::DNS", "perl:JSON::PP")
OTHER = signing_key("hop.example", 1024)
BOTH = zone(signing_key(), OTHER)


def came_to(chain: arc.Chain) -> tuple[arc.ChainStatus, int]:
    return chain.status, chain.sets


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_dkimpy_verifies(body: bytes) -> None:
    once = sealed(message(body), NONE)
    assert by_dkimpy(once) == "pass success"
    assert came_to(judged(once)) == (PASS, 1)


@PERL
def test_perl_verifies(tmp_path: Path) -> None:
    verdicts = by_perl(tmp_path, [sealed(message(body), NONE) for body in BODIES.values()])
    assert len(verdicts) == len(BODIES)
    assert {each.split()[0] for each in verdicts} == {"pass"}, dict(zip(BODIES, verdicts, strict=True))


@PERL
def test_the_peers_can_tell(tmp_path: Path) -> None:
    changed = sealed(message(BODIES["1 KB"]), NONE).replace(b"Hello,", b"Hallo,", 1)
    assert by_dkimpy(changed).startswith("fail")
    assert by_perl(tmp_path, [changed, message(b"")]) == [by_perl(tmp_path, [changed])[0], "none none"]
    assert by_perl(tmp_path, [changed])[0].startswith("fail")


@PERL
@pytest.mark.parametrize("eight_bit", [False, True], ids=["text", "8-bit"])
def test_five_megabytes(tmp_path: Path, eight_bit: bool) -> None:
    once = sealed(message(five_megabytes(eight_bit)), NONE)
    assert judged(once).status is PASS
    assert by_dkimpy(once) == "pass success"
    assert by_perl(tmp_path, [once])[0].startswith("pass")


@PERL
def test_three_hops(tmp_path: Path) -> None:
    hops = [message(BODIES["1 KB"])]
    for expected in ("none", "pass", "pass"):
        chain = judged(hops[-1])
        assert came_to(chain) == (arc.ChainStatus(expected), len(hops) - 1)
        received = b"Received: from hop by hop; Tue, 14 Nov 2023 22:13:20 +0000\r\n"
        hops.append(received + sealed(hops[-1], chain))
    assert [by_dkimpy(hop) for hop in hops[1:]] == ["pass success"] * 3
    assert [verdict.split()[0] for verdict in by_perl(tmp_path, hops[1:])] == ["pass"] * 3


@PERL
@pytest.mark.parametrize("body", ["1 KB", "8-bit", "empty"])
def test_extends_the_chain_of_perl(tmp_path: Path, body: str) -> None:
    theirs = perl_sealed(tmp_path, message(BODIES[body]), OTHER, "none")
    chain = judged(theirs, BOTH, time.time())
    assert came_to(chain) == (PASS, 1)
    ours = sealed(theirs, chain)
    assert came_to(judged(ours, BOTH, time.time())) == (PASS, 2)
    again = perl_sealed(tmp_path, ours, OTHER, "pass")
    assert came_to(judged(again, BOTH, time.time())) == (PASS, 3)
    assert [by_dkimpy(each, BOTH) for each in (ours, again)] == ["pass success"] * 2
    assert [verdict.split()[0] for verdict in by_perl(tmp_path, [ours, again], BOTH)] == ["pass"] * 2


@PERL
@pytest.mark.parametrize("body", ["1 KB", "8-bit", "empty"])
def test_extends_the_chain_of_dkimpy(tmp_path: Path, body: str) -> None:
    pytest.importorskip("authres", reason="dkimpy signs ARC only with the package authres")
    theirs = dkimpy_sealed(message(BODIES[body]), OTHER, "none")
    chain = judged(theirs, BOTH)
    assert came_to(chain) == (PASS, 1)
    ours = sealed(theirs, chain)
    again = dkimpy_sealed(ours, OTHER, "pass")
    assert came_to(judged(again, BOTH)) == (PASS, 3)
    assert by_dkimpy(ours, BOTH) == "pass success"
    assert [verdict.split()[0] for verdict in by_perl(tmp_path, [ours, again], BOTH)] == ["pass"] * 2


_name = st.sampled_from([b"From", b"To", b"Subject", b"X-Other", b"DKIM-Signature", b"List-Id", b"CC", b"Received"])
_line = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_characters="\x7f"), max_size=30).map(
    lambda text: re.sub(r"\s", " ", text).encode()
)
_value = st.lists(_line, min_size=1, max_size=3).map(
    lambda lines: b" " + b"\r\n\t".join(line.strip() or b"x" for line in lines) + b"\r\n"
)
_header = st.lists(st.tuples(_name, _value), min_size=1, max_size=8).map(
    lambda pairs: b"".join(name + b":" + value for name, value in pairs)
)
_body = st.lists(
    st.sampled_from([b" ", b"\t", b"  ", b"\r\n", b"a", b"bc", b".", b"\xc3\xbc", b"\xff"]), max_size=40
).map(b"".join)


@given(_header, _body)
@settings(max_examples=60, deadline=None)
def test_any_message_sealed_verifies(header: bytes, body: bytes) -> None:
    once = sealed(message(body + b"\r\n", header), NONE)
    assert judged(once).status is PASS
    assert by_dkimpy(once) == "pass success"


_SIGNED_NAMES = set(re.split(r"[^a-z-]+", arc.SIGNED))
_SEALED = sealed(message(BODIES["1 KB"]), NONE)


def signed_spans(raw: bytes) -> list[tuple[int, int]]:
    """Where the parts of a sealed message stand that its seal covers: header fields, and last the body."""
    return [
        (field.start, field.end - 2)
        for field in fields(raw)
        if field.name.decode() in _SIGNED_NAMES or field.name.startswith(b"arc-")
    ] + [(raw.index(b"\r\n\r\n") + 4, len(raw))]


@given(_header, _body, st.data())
@settings(max_examples=100, deadline=None)
def test_a_changed_octet_in_a_signed_part_of_any_message_fails(header: bytes, body: bytes, data: st.DataObject) -> None:
    once = sealed(message(body + b"x\r\n", header), NONE, OTHER)
    spans = signed_spans(once)
    start, end = data.draw(st.sampled_from(spans))
    at, octet = data.draw(st.integers(start, end - 1)), data.draw(st.integers(33, 126))
    changed = once[:at] + bytes([octet]) + once[at + 1 :]
    assume(once[at + 1 : at + 2] != b"=")  # the last digit of base64 has bits that nobody reads
    # A name's case is folded before signing.
    before, after = once[at : at + 1], bytes([octet])
    in_name = (start, end) != spans[-1] and at < once.index(b":", start)
    same = before == after or (in_name and before.lower() == after.lower())
    assert (judged(changed, BOTH).status is PASS) is same


@pytest.mark.parametrize(
    "added", [b"From: Eve <eve@evil.example>\r\n", b"from : Eve <eve@evil.example>\r\n"], ids=["plain", "obsolete"]
)
def test_a_second_from_fails(added: bytes) -> None:
    assert judged(added + _SEALED).status is FAIL
    assert judged(_SEALED.replace(b"\r\n\r\n", b"\r\n" + added + b"\r\n", 1)).status is FAIL


def test_a_message_without_from_is_sealed_and_one_put_in_later_fails() -> None:
    once = sealed(b"Subject: x\r\n\r\ntext\r\n", NONE)
    assert by_dkimpy(once) == "pass success"
    assert judged(once).status is PASS
    assert judged(b"From: eve@evil.example\r\n" + once).status is FAIL


@pytest.mark.parametrize(
    "raw", [b"", b"\r\n", b"\r\ntext\r\n", b"Subject: x\r\n", b"Subject: x\r\n\r\n", b"Subject: x"]
)
def test_the_smallest_messages(raw: bytes) -> None:
    assert judged(sealed(raw, NONE)).status is PASS


def test_fields_of_one_name_are_signed_from_the_bottom_up() -> None:
    first, second = b"DKIM-Signature: a=1\r\n", b"DKIM-Signature: a=2\r\n"
    once = sealed(first + second + b"From: a@b.example\r\n\r\ntext\r\n", NONE)
    assert judged(once).status is PASS
    assert by_dkimpy(once) == "pass success"
    swapped = once.replace(first + second, second + first)
    assert swapped != once
    assert judged(swapped).status is FAIL


def test_a_hop_may_put_what_it_likes_before_and_between_unsigned_fields() -> None:
    at = _SEALED.index(b"From: ")
    grown = b"Return-Path: <>\r\n" + _SEALED[:at] + b"X-Spam: no\r\nReceived: from a by b\r\n" + _SEALED[at:]
    grown = grown.replace(b"Received: from sender.example", b"Authentication-Results: x; none\r\nReceived: from s")
    assert judged(grown).status is PASS


def test_the_fields_as_they_are_written() -> None:
    made = arc.seal(
        message(b"text\r\n"), chain=NONE, key=signing_key(), results=results(FOUND), at=AT, bounds=Authentication()
    )
    assert [field.name for field in fields(made + b"\r\n")] == [
        b"arc-seal",
        b"arc-message-signature",
        b"arc-authentication-results",
    ]
    assert made.endswith(b"\r\n") and b"\r\n\r\n" not in made
    assert all(len(line) <= 76 for line in made.split(b"\r\n") if not line.startswith(b" b="))
    text = re.sub(rb"\r\n ", b" ", made).decode("ascii")
    unsigned = re.sub(r"\b(b|bh)=[A-Za-z0-9+/= ]*", r"\1=", text.split("ARC-Authentication")[0])
    assert unsigned.splitlines() == [
        "ARC-Seal: a=rsa-sha256; b=; cv=none; d=example.org; i=1; s=mail; t=1700000000",
        "ARC-Message-Signature: a=rsa-sha256; b=; bh=; c=relaxed/relaxed; d=example.org; "
        "h=from:from:reply-to:subject:subject:date:date:message-id: message-id:to:to:cc:mime-version:mime-version:"
        "content-type: content-type:content-transfer-encoding:content-transfer-encoding: "
        "dkim-signature:dkim-signature; "
        "i=1; s=mail; t=1700000000",
    ]
    assert text.splitlines()[-1] == (
        "ARC-Authentication-Results: i=1; mx.example.org; arc=none; "
        "spf=pass (192.0.2.1 is permitted) smtp.mailfrom=ada@sender.example; "
        'dkim=pass header.d=sender.example header.b="ab/+cd=="'
    )


def test_results_in_the_message_never_enter_the_seal() -> None:
    forged = f"Authentication-Results: {AUTHSERV_ID}; arc=pass; dmarc=pass header.from=bank.example\r\n".encode()
    made = arc.seal(
        forged + message(b"text\r\n"),
        chain=NONE,
        key=signing_key(),
        results=results([Verdict("arc", "none")]),
        at=AT,
        bounds=Authentication(),
    )
    assert b"bank.example" not in made
    assert made.endswith(b"ARC-Authentication-Results: i=1; mx.example.org;\r\n arc=none\r\n")


def test_what_the_results_say_in_comments_is_kept() -> None:
    """authres, by which dkimpy as it comes reads results and writes them again, drops comments."""
    authres = pytest.importorskip("authres", reason="dkimpy signs ARC only with the package authres")
    text = f"{AUTHSERV_ID}; spf=pass (192.0.2.1 is permitted) smtp.mailfrom=ada@sender.example"
    assert "permitted" not in str(authres.parse(f"Authentication-Results: {text}"))
    raw, key = message(b"text\r\n"), signing_key()
    theirs = dkim.arc_sign(
        f"Authentication-Results: {text}\r\n".encode() + raw, b"mail", b"example.org", pem(key), AUTHSERV_ID.encode()
    )
    assert b"smtp.mailfrom=ada@sender.example" in b"".join(theirs) and b"permitted" not in b"".join(theirs)
    ours = arc.seal(raw, chain=NONE, key=key, results=text, at=AT, bounds=Authentication())
    assert b" spf=pass (192.0.2.1 is permitted) smtp.mailfrom=ada@sender.example\r\n" in ours


def test_verdicts_cannot_break_out_of_the_field() -> None:
    evil = "x\r\nBcc: eve@evil.example\r\n\r\n\0 (a) \\ ü"
    made = arc.seal(
        message(b"text\r\n"),
        chain=NONE,
        key=signing_key(),
        results=results([Verdict("spf", "pass", (("smtp.mailfrom", evil),), evil)]),
        at=AT,
        bounds=Authentication(),
    )
    assert [field.name for field in fields(made)] == [
        b"arc-seal",
        b"arc-message-signature",
        b"arc-authentication-results",
    ]
    assert by_dkimpy(made + message(b"text\r\n")) == "pass success"


def test_a_failed_chain_is_sealed_with_its_own_set_alone() -> None:
    """RFC 8617 5.1.2, computed again from the octets with dkimpy's canonicalization."""
    broken = _SEALED.replace(b"Hello,", b"Hallo,", 1)
    chain = judged(broken)
    assert (chain.status, chain.sets, chain.sealable) == (FAIL, 1, True)
    twice = sealed(broken, chain)
    own = [field.raw(twice) for field in fields(twice)[:3]]
    assert b" cv=fail; d=example.org; i=2;" in own[0]
    ordered = [raw.split(b":", 1) for raw in (own[2], own[1], re.sub(rb" b=[^;]*", b" b=", own[0]))]
    canonical = b"".join(name + b":" + value for name, value in Relaxed.canonicalize_headers(ordered)).rstrip()
    signature = base64.b64decode(own[0].split(b" b=")[1].split(b";")[0])
    signing_key().private.public_key().verify(signature, canonical, PKCS1v15(), SHA256())
    ended = judged(twice)
    assert (*came_to(ended), ended.reason, ended.sealable) == (FAIL, 2, "ARC-Seal 2 says cv=fail", False)
    assert by_dkimpy(twice).startswith("fail ARC-Seal[2] reported failure")
    with pytest.raises(SignFault, match="cv=fail"):
        sealed(twice, ended)


def test_the_fiftieth_set_is_the_last() -> None:
    raw, chain = message(b"text\r\n"), NONE
    for number in range(1, 51):
        raw = sealed(raw, chain, signing_key("example.org", 1024))
        chain = arc.Chain(PASS, number)
    full = judged(raw, zone(signing_key("example.org", 1024)))
    assert (*came_to(full), full.sealable) == (PASS, 50, False)
    with pytest.raises(SignFault, match="50 sets"):
        sealed(raw, arc.Chain(PASS, 50, sealable=False))


@pytest.mark.parametrize(
    ("raw", "chain", "why"),
    [
        (b"no header at all", NONE, "no header field"),
        (b"From: a@b.example\r\na line without a colon\r\n\r\ntext\r\n", NONE, "no header field"),
        (b" folded from nothing\r\n\r\n", NONE, "no header field"),
        (b"X: " + b"x" * 600_000 + b"\r\n\r\n", NONE, "octets"),
        (b"X: y\r\n" * 11_000 + b"\r\n", NONE, "lines"),
        (b"DKIM-Signature: x\r\n" * 2000 + b"\r\n", NONE, "too many header fields to sign"),
        (_SEALED, NONE, "not the chain of this message"),
        (_SEALED, arc.Chain(PASS, 2), "not the chain of this message"),
        (message(b""), arc.Chain(PASS, 1), "not the chain of this message"),
        (_SEALED.replace(b"i=1;", b"i=2;"), arc.Chain(PASS, 2), "not the chain of this message"),
        (HEADER, arc.Chain(FAIL, 0, "ended", sealable=False), "ended"),
    ],
)
def test_what_cannot_be_sealed(raw: bytes, chain: arc.Chain, why: str) -> None:
    with pytest.raises(SignFault, match=why):
        sealed(raw, chain)
