"""Authentication-Results: forged ones are found whatever their spelling, others are left; ours can be read back."""

from __future__ import annotations

import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.message import Edit, apply, fields
from smtproute.core.verdict import Verdict
from smtproute.mailauth.results import field, forged

US = "mx.example.org"
BEFORE = b"Received: from a by b\r\n"
AFTER = b"From: a@b.example\r\nSubject: Authentication-Results: mx.example.org; none\r\n\r\n"
BODY = b"Authentication-Results: mx.example.org; none\r\n"

EVIL = {
    "plain": b"Authentication-Results: mx.example.org; spf=pass\r\n",
    "no result": b"Authentication-Results: mx.example.org; none\r\n",
    "nothing after it": b"Authentication-Results: mx.example.org\r\n",
    "no space": b"Authentication-Results:mx.example.org;spf=pass\r\n",
    "case of the name": b"aUTHENTICATION-rESULTS: mx.example.org; spf=pass\r\n",
    "case of the id": b"Authentication-Results: MX.Example.ORG; spf=pass\r\n",
    "space before the colon": b"Authentication-Results \t: mx.example.org; spf=pass\r\n",
    "folded before": b"Authentication-Results:\r\n\tmx.example.org; spf=pass\r\n",
    "folded twice": b"Authentication-Results:\r\n \r\n\tmx.example.org\r\n ;\r\n spf=pass\r\n",
    "torn by folding": b"Authentication-Results: mx.exam\r\n ple.org; spf=pass\r\n",
    "comment before": b"Authentication-Results: (hello) mx.example.org; spf=pass\r\n",
    "comment with a semicolon": b"Authentication-Results: (a; b) mx.example.org; spf=pass\r\n",
    "nested comments": b"Authentication-Results: (a (b (c))(d)) mx.example.org (e); spf=pass\r\n",
    "comment with quoted pairs": b"Authentication-Results: (a \\) b \\( c) mx.example.org; spf=pass\r\n",
    "comment with a quote": b'Authentication-Results: (a " b) mx.example.org; spf=pass\r\n',
    "comment with our id, and our id": b"Authentication-Results: (x.org) mx.example.org (x.org); spf=pass\r\n",
    "folded comment": b"Authentication-Results: (a\r\n b)\r\n mx.example.org; spf=pass\r\n",
    "comment inside": b"Authentication-Results: mx.(x)example.org; spf=pass\r\n",
    "version": b"Authentication-Results: mx.example.org 1; spf=pass\r\n",
    "version in comments": b"Authentication-Results: mx.example.org (v) 1 (v); spf=pass\r\n",
    "version after a slash": b"Authentication-Results: mx.example.org/1; spf=pass\r\n",
    "torn, and a version": b"Authentication-Results: mx.exam ple.org 1; spf=pass\r\n",
    "quoted": b'Authentication-Results: "mx.example.org"; spf=pass\r\n',
    "quoted pairs": b'Authentication-Results: "m\\x.example\\.org" 1; spf=pass\r\n',
    "half quoted": b'Authentication-Results: "mx".example."org"; spf=pass\r\n',
    "quoted and folded": b'Authentication-Results:\r\n "mx.example.org"\r\n (c) 1; spf=pass\r\n',
    "escaped": b"Authentication-Results: mx\\.example.org; spf=pass\r\n",
    "trailing dot": b"Authentication-Results: mx.example.org.; spf=pass\r\n",
    "no semicolon": b"Authentication-Results: mx.example.org spf=pass\r\n",
    "comment that never closes": b"Authentication-Results: (mx.example.org; spf=pass\r\n",
    "id after a comment that never closes": b"Authentication-Results: ((a) mx.example.org; spf=pass\r\n",
    "quote that never closes": b'Authentication-Results: "MX.example.org; spf=pass\r\n',
    "backslash at the end": b"Authentication-Results: mx.example.org\\\r\n",
    "long comment": b"Authentication-Results: (" + b"a\r\n " * 3000 + b") mx.example.org; spf=pass\r\n",
    "after a line that is no field": b"no field at all\r\nAuthentication-Results: mx.example.org; spf=pass\r\n",
}

INNOCENT = {
    "another id": b"Authentication-Results: mx.example.com; spf=pass\r\n",
    "a parent": b"Authentication-Results: example.org; spf=pass\r\n",
    "a child": b"Authentication-Results: a.mx.example.org; spf=pass\r\n",
    "a longer name": b"Authentication-Results: mx.example.organic; spf=pass\r\n",
    "our id in a comment": b"Authentication-Results: mx.example.com (mx.example.org); spf=pass\r\n",
    "our id in a result": b"Authentication-Results: mx.example.com; spf=pass smtp.mailfrom=mx.example.org\r\n",
    "our id after the semicolon": b"Authentication-Results: ; mx.example.org\r\n",
    "no id": b"Authentication-Results: spf=pass smtp.mailfrom=mx.example.org; dkim=none\r\n",
    "empty": b"Authentication-Results:\r\n",
    "unreadable, of others": b"Authentication-Results: (mx.example.com; spf=pass\r\n",
    "another field": b"ARC-Authentication-Results: i=1; mx.example.org; spf=pass\r\n",
    "yet another field": b"X-Authentication-Results: mx.example.org; spf=pass\r\n",
    "a longer field name": b"Authentication-Results-Original: mx.example.org; spf=pass\r\n",
    "in a folded line": b"X-Note: see\r\n Authentication-Results: mx.example.org; spf=pass\r\n",
    "invalid UTF-8": b"Authentication-Results: \xff\xfe; spf=pass\r\n",
}


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL.keys())
def test_what_claims_our_id_is_removed(evil: bytes) -> None:
    message = BEFORE + evil + AFTER + BODY
    spans = forged(message, US)
    at = message.lower().index(b"authentication-results")
    assert spans == ((at, len(BEFORE + evil)),)
    assert apply(Edit(spans), message) == BEFORE + evil[: at - len(BEFORE)] + AFTER + BODY


@pytest.mark.parametrize("innocent", INNOCENT.values(), ids=INNOCENT.keys())
def test_what_does_not_claim_our_id_stays(innocent: bytes) -> None:
    assert forged(BEFORE + innocent + AFTER + BODY, US) == ()


def test_all_of_them_are_found_in_order() -> None:
    evil = EVIL["plain"]
    message = evil + INNOCENT["another id"] + EVIL["quoted"] + AFTER + evil
    second = len(evil + INNOCENT["another id"])
    assert forged(message, US) == ((0, len(evil)), (second, second + len(EVIL["quoted"])))


def test_a_field_that_ends_the_message() -> None:
    message = b"Authentication-Results: mx.example.org; none"
    assert forged(message, US) == ((0, len(message)),)
    assert forged(b"", US) == ()


@pytest.mark.parametrize("written", ["mx.bücher.example", "MX.BÜCHER.example", "mx.xn--bcher-kva.EXAMPLE"])
@pytest.mark.parametrize("ours", ["mx.bücher.example", "mx.xn--bcher-kva.example"])
def test_a_labels_are_u_labels(written: str, ours: str) -> None:
    assert forged(f"Authentication-Results: {written}; spf=pass\r\n\r\n".encode(), ours)


@pytest.mark.parametrize(
    "written",
    [
        "ｍｘ.bücher.example",
        "mx.bücher。xn--mller-kva.example",
        "mx.b\u00adücher.müller.example",
        "(mx.bücher.müller.example",
    ],
)
def test_our_labels_are_ours_however_they_are_written(written: str) -> None:
    ours = "mx.bücher.müller.example" if "ller" in written else "mx.bücher.example"
    assert forged(f"Authentication-Results: {written}; spf=pass\r\n\r\n".encode(), ours)


def test_of_a_long_name_outside_of_ascii_it_is_not_asked_whose_it_is() -> None:
    """Its IDNA form takes milliseconds to work out, and there may be several hundred of them."""
    short, long = (f"Authentication-Results: {'柔' * n} 1; x\r\n".encode() for n in (60, 70))
    assert forged(short + long + b"\r\n", US) == ((len(short), len(short + long)),)


@pytest.mark.timeout(20)
def test_after_a_hundred_fields_all_go_unread() -> None:
    other = INNOCENT["another id"]
    assert forged(other * 100 + AFTER, US) == ()
    assert len(forged(other * 20_000 + AFTER, US)) == 19_900


@pytest.mark.timeout(20)
def test_hostile_fields_are_not_quadratic() -> None:
    for filler in (b"(" * 2_000_000, b'"' * 2_000_001, b"\\" * 2_000_001, b"a " * 1_000_000, b"\r\n " * 700_000):
        assert forged(b"Authentication-Results: " + filler + b"\r\n\r\n", US) == ()
    assert forged(b"authentication-results " * 200_000 + b"\r\n\r\n", US) == ()
    assert forged(b"authentication-results \r\n" * 100_000 + b"\r\n\r\n", US) == ()
    assert forged(b"X: y\r\n" + b" authentication-results:\r\n" * 100_000 + b"\r\nhi\r\n", US) == ()


@given(st.text(alphabet='mx.exampleorg ;()"\\\r\n\t1=\xfc\x00', max_size=60))
def test_spans_are_whole_lines(value: str) -> None:
    message = b"A: b\r\nAuthentication-Results: " + value.encode() + b"\r\nC: d\r\n\r\n"
    for start, end in forged(message, US):
        assert message[start:].lower().startswith(b"authentication-results")
        assert message[end - 1 : end] == b"\n" or end == len(message)
        assert message[end : end + 1] not in (b" ", b"\t")


def test_our_field() -> None:
    verdicts = [
        Verdict("arc", "fail", reason="ARC-Seal 2: the signature does not match"),
        Verdict("spf", "pass", (("smtp.mailfrom", "a@b.example"), ("smtp.remote-ip", "2001:db8::1"))),
        Verdict("iprev", "fail", (("policy.note", ""),), "a; b"),
    ]
    assert field(US, verdicts) == (
        b"Authentication-Results: mx.example.org;\r\n"
        b" arc=fail (ARC-Seal 2: the signature does not match);\r\n"
        b' spf=pass smtp.mailfrom=a@b.example smtp.remote-ip="2001:db8::1";\r\n'
        b' iprev=fail (a, b) policy.note=""\r\n'
    )
    assert field("mx.bücher.example", []) == b"Authentication-Results: mx.xn--bcher-kva.example;\r\n none\r\n"
    assert field(US, []) == b"Authentication-Results: mx.example.org;\r\n none\r\n"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("a@b.example", "a@b.example"),
        ("@b.example", "@b.example"),
        ("a+b=c/d@b.example", "a+b=c/d@b.example"),
        ('"a b"@b.example', '"a b"@b.example'),
        ('"a\\"b"@b.example', '"a\\"b"@b.example'),
        ('say "x"', '"say \\"x\\""'),
        ("a\\b", '"a\\\\b"'),
        ("", '""'),
        ("a;b", '"a;b"'),
        ("a=b", '"a=b"'),
        ("ü@b.example\r\n\0", '"?@b.example???"'),
        ("x" * 1000, "x" * 400),
    ],
)
def test_values_keep_to_the_grammar(value: str, written: str) -> None:
    made = field(US, [Verdict("spf", "pass", (("smtp.mailfrom", value),))])
    assert made.replace(b"\r\n ", b" ").endswith(f" spf=pass smtp.mailfrom={written}\r\n".encode())


def test_no_semicolon_but_between_results() -> None:
    made = field(US, [Verdict("dmarc", "fail", reason="SPF: fail; no DKIM signature"), Verdict("arc", "none")])
    assert made.count(b";") == 2 and b"(SPF: fail, no DKIM signature)" in made


def test_our_field_is_one_that_we_would_remove() -> None:
    ours = field(US, [Verdict("arc", "none")])
    assert forged(ours + AFTER, US) == ((0, len(ours)),)


_texts = st.text(max_size=500)


@given(_texts, _texts, _texts, _texts)
def test_whatever_the_texts_it_is_one_field_of_printable_lines(
    method: str, result: str, value: str, reason: str
) -> None:
    made = field(US, [Verdict(method, result, (("smtp.mailfrom", value),), reason)])
    assert len(fields(made + b"\r\n")) == 1
    assert fields(made + b"\r\n")[0].end == len(made)
    for line in made.split(b"\r\n"):
        assert len(line) <= 998
        assert all(32 <= octet < 127 for octet in line)
        assert not line or line.strip()


_PARSE = r"""
use strict; use warnings; use JSON::PP; use Mail::AuthenticationResults::Parser;
my $parsed = Mail::AuthenticationResults::Parser->new->parse(do { local $/; <STDIN> });
my @found;
for my $entry (@{ $parsed->search({ isa => 'entry' })->children }) {
    my @properties = map { [ $_->key, $_->value ] } grep { ref =~ /SubEntry/ } @{ $entry->children };
    push @found, [ $entry->key, $entry->value, \@properties ];
}
print encode_json([ $parsed->value->value, \@found ]);
"""


@pytest.mark.peer("perl:Mail::AuthenticationResults::Parser", "perl:JSON::PP")
def test_perl_reads_our_field_back() -> None:
    verdicts = [
        Verdict("arc", "fail", reason="we (both) said\\so; twice\r\n\0"),
        Verdict("spf", "pass", (("smtp.mailfrom", "odd; local@b.example"), ("smtp.remote-ip", "2001:db8::1"))),
        Verdict("dkim", "pass", (("header.d", "b.example"), ("header.b", "ab/+=="))),
    ]
    done = subprocess.run(["perl", "-e", _PARSE], input=field(US, verdicts), capture_output=True, check=True)
    assert json.loads(done.stdout) == [
        US,
        [
            ["arc", "fail", []],
            ["spf", "pass", [["smtp.mailfrom", "odd; local@b.example"], ["smtp.remote-ip", "2001:db8::1"]]],
            ["dkim", "pass", [["header.d", "b.example"], ["header.b", "ab/+=="]]],
        ],
    ]
