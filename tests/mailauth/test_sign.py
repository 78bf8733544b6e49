"""DKIM signing: what we sign verifies elsewhere, and signs what rspamd signs."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from arc_peers import _PERL_ZONE, AT, BODIES, HEADER, judged, message, pem, results, sealed, signing_key
from dkim_peers import BOUNDS, both, by_dkimpy, checked, ed25519_key
from hypothesis import given, settings
from hypothesis import strategies as st
from rspamd import OURS, rspamd

from smtproute.core.address import Domain
from smtproute.core.message import fields
from smtproute.core.settings import DomainKey
from smtproute.mailauth import arc
from smtproute.mailauth.dkim import DkimResult
from smtproute.mailauth.keys import KeyKind, SigningKey, generate, load, record
from smtproute.mailauth.sign import SIGNED, SignFault, sign
from smtproute.testing.zone import Zone

KEYS = (signing_key(), ed25519_key())
SMTPUTF8 = HEADER.replace(b"Ada <ada@", "Ädä <ädä@".encode()).replace(b"a  subject", "ein  Gruß".encode())
MESSAGES = {**{name: message(body) for name, body in BODIES.items()}, "SMTPUTF8": message(b"text\r\n", SMTPUTF8)}
PASSED = [DkimResult.PASS, DkimResult.PASS]


def signed(raw: bytes, keys: Sequence[SigningKey] = KEYS) -> bytes:
    return sign(raw, keys, AT, BOUNDS) + raw


def came_to(raw: bytes) -> list[DkimResult]:
    """What our own two signatures, the topmost, come to."""
    return [each.result for each in checked(raw)[:2]]


def h(raw: bytes, title: str) -> list[str]:
    """The names in h= of the topmost field of a name."""
    field = next(each for each in fields(raw) if each.name == title.lower().encode())
    value = re.sub(rb"\s", b"", field.value(raw)).decode()
    return value.partition(";h=")[2].partition(";")[0].split(":")


@pytest.mark.parametrize("raw", MESSAGES.values(), ids=MESSAGES.keys())
def test_dkimpy_verifies(raw: bytes) -> None:
    """dkimpy judges the first signature; Ed25519 it knows only with another package."""
    once = signed(raw)
    assert by_dkimpy(once)
    assert came_to(once) == PASSED


_PERL_VERIFY = (
    _PERL_ZONE
    + r"""
use Mail::DKIM::Verifier;
for my $file (@{ $job->{files} }) {
    my $dkim = Mail::DKIM::Verifier->new;
    $dkim->PRINT(slurp($file)); $dkim->CLOSE;
    my ($ours) = grep { $_->algorithm eq 'rsa-sha256' && $_->domain eq 'example.org' } $dkim->signatures;
    print $ours->result, "\n";
}
"""
)


@pytest.mark.peer("perl:Mail::DKIM::Verifier", "perl:Net::DNS", "perl:JSON::PP")
def test_perl_verifies(tmp_path: Path) -> None:
    """Of RSA; this Mail::DKIM knows no Ed25519."""
    files = []
    for at, raw in enumerate([*map(signed, MESSAGES.values()), signed(message(b"one")).replace(b"one", b"two")]):
        files.append(str(tmp_path / f"{at}.eml"))
        Path(files[-1]).write_bytes(raw)
    job = json.dumps({"zone": both(), "files": files})
    done = subprocess.run(["perl", "-e", _PERL_VERIFY], input=job.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split() == ["pass"] * len(MESSAGES) + ["fail"]


ASTRAY = ("only white space", "every octet")
"""Bodies whose relaxed form rspamd 3.4 gets wrong: lines of white space at the end, vertical tabs."""


@pytest.mark.peer("rspamd")
async def test_rspamd_verifies_both_and_signs_the_same_fields(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(pem(signing_key()))
    more = b"Sender: x@sender.example\r\nIn-Reply-To: <0@x>\r\nReferences: <0@x>\r\nList-Id: <l.example>\r\nX: y\r\n"
    bare = b"From: Ada <ada@sender.example>\r\nTo: a@b.example\r\nCc: e@f.example\r\n\r\ntext\r\n"
    messages = {**MESSAGES, "more": more + MESSAGES["1 KB"], "bare": bare}
    async with Zone({name: {"TXT": [text]} for name, text in both().items()}) as names:
        with rspamd(names.address, {"sender.example": ("mail", tmp_path / "key.pem")}) as server:
            for name, raw in messages.items():
                once, theirs = signed(raw), await server.scan(raw, OURS)
                assert h(once, "DKIM-Signature") == h(theirs.signatures, "DKIM-Signature"), name
                # A plain name rspamd 3.4 takes once, against its own manual; there are two DKIM-Signature fields.
                assert set(h(_seal(raw), "ARC-Message-Signature")) == set(h(theirs.seal, "ARC-Message-Signature")), name
                if name not in ASTRAY:
                    passed = (await server.scan(once)).symbols["R_DKIM_ALLOW"]
                    assert sorted(passed) == ["example.org:s=ed", "example.org:s=mail"], name
            changed = once.replace(b"text", b"next")
            assert "R_DKIM_ALLOW" not in (await server.scan(changed)).symbols


def _seal(raw: bytes) -> bytes:
    chain = arc.Chain(arc.ChainStatus.NONE)
    return arc.seal(raw, chain=chain, key=signing_key(), results=results([]), at=AT, bounds=BOUNDS)


def test_the_field_as_it_is_written() -> None:
    made = sign(message(b"text\r\n"), KEYS, AT, BOUNDS)
    assert max(map(len, made.split(b"\r\n"))) <= 76
    assert made.endswith(b"\r\n") and b"\r\n\r\n" not in made
    text = re.sub(rb"\b(b|bh)=[A-Za-z0-9+/= ]*", rb"\1=", made.replace(b"\r\n ", b" ")).decode()
    names = (
        "h=from:from:reply-to:subject:subject:date:date:message-id: message-id:to:to:cc:mime-version:mime-version:"
        "content-type: content-type:content-transfer-encoding:content-transfer-encoding; bh=; b="
    )
    assert text.splitlines() == [
        f"DKIM-Signature: v=1; a={algorithm}-sha256; c=relaxed/relaxed; d=example.org; s={selector}; t=1700000000; "
        + names
        for algorithm, selector in (("rsa", "mail"), ("ed25519", "ed"))
    ]
    one, other = re.findall(rb"bh=([^;]*);", made)
    assert one == other


@pytest.mark.parametrize("name", ["From", "Reply-To", "Subject", "To", "Cc", "Date", "MIME-Version"])
def test_a_field_put_in_later_breaks_both(name: str) -> None:
    added = f"{name}: eve@evil.example\r\n".encode()
    once = signed(message(b"text\r\n"))
    assert DkimResult.PASS not in came_to(added + once)
    assert DkimResult.PASS not in came_to(once.replace(b"\r\n\r\n", b"\r\n" + added + b"\r\n", 1))


def test_what_hops_add_breaks_nothing() -> None:
    once = signed(message(b"text\r\n"))
    added = b"Return-Path: <>\r\nReceived: from a by b\r\nAuthentication-Results: x; none\r\nList-Id: <l>\r\n"
    assert came_to(added + once) == PASSED
    assert by_dkimpy(added + once)


_value = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_characters="\x7f"), max_size=30)
_name = st.sampled_from(["From", "To", "Subject", "X-Other", "List-Id", "CC", "References"])


def _message(pairs: list[tuple[str, list[str]]], body: bytes) -> bytes:
    lines = [f"{name}: " + "\r\n\t".join(re.sub(r"\s", "_", value) + "." for value in values) for name, values in pairs]
    return "".join(f"{line}\r\n" for line in ["From: a@b.example", *lines]).encode() + b"\r\n" + body


_messages = st.builds(
    _message,
    st.lists(st.tuples(_name, st.lists(_value, min_size=1, max_size=3)), max_size=6),
    st.lists(st.sampled_from([b" ", b"\t", b"  ", b"\r\n", b"a", b"bc", b".", b"\xc3\xbc", b"\xff"]), max_size=40).map(
        b"".join
    ),
)


@given(_messages)
@settings(max_examples=60, deadline=None)
def test_any_message_signed_and_sealed_verifies(raw: bytes) -> None:
    once = signed(raw)
    both_made = sealed(once, arc.Chain(arc.ChainStatus.NONE))
    assert came_to(once) == came_to(both_made) == PASSED
    assert judged(both_made).status is arc.ChainStatus.PASS
    if raw.endswith(b"\r\n"):  # dkimpy has no relaxed form of white space without an end
        assert by_dkimpy(once)


_ONCE = sealed(signed(message(BODIES["1 KB"])), arc.Chain(arc.ChainStatus.NONE))
_FIELDS = [each for each in fields(_ONCE) if each.name.decode() in re.split(r"[^a-z-]+", SIGNED)]
_OWN = [each for each in fields(_ONCE) if each.name == b"dkim-signature" and b"d=example.org" in each.raw(_ONCE)]
_BODY = _ONCE.index(b"\r\n\r\n") + 4
_SPANS = [*((each.start, each.end - 2) for each in (*_FIELDS, *_OWN)), (_BODY, len(_ONCE))]


@given(st.sampled_from([at for start, end in _SPANS for at in range(start, end)]), st.integers(33, 126))
@settings(max_examples=150, deadline=None)
def test_a_changed_octet_in_a_signed_part_fails(at: int, octet: int) -> None:
    changed = _ONCE[:at] + bytes([octet]) + _ONCE[at + 1 :]
    before, after = _ONCE[at : at + 1], bytes([octet])
    in_name = any(each.start <= at < each.value_start - 1 for each in (*_FIELDS, *_OWN))
    same = before == after or (in_name and before.lower() == after.lower())
    passed = {each.selector for each in checked(changed) if each.result is DkimResult.PASS}
    own = next((_OWN.index(each) for each in _OWN if each.start <= at < each.end), None)
    if same:
        assert passed == {"mail", "ed"}
    elif own is None:
        assert not passed
    else:  # a signature covers itself, and not the other
        assert KEYS[own].selector not in passed
    assert (judged(changed).status is arc.ChainStatus.PASS) is same


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"no header at all", "no header field"),
        (b"From: a@b.example\r\na line without a colon\r\n\r\ntext\r\n", "no header field"),
        (b"X: " + b"x" * 600_000 + b"\r\n\r\n", "octets"),
        (b"X: y\r\n" * 11_000 + b"\r\n", "lines"),
        (b"List-Id: x\r\n" * 3000 + b"\r\n", "too many header fields to sign"),
    ],
)
def test_what_cannot_be_signed(raw: bytes, why: str) -> None:
    with pytest.raises(SignFault, match=why):
        sign(raw, KEYS, AT, BOUNDS)


@pytest.mark.parametrize("kind", KeyKind)
def test_a_new_key_signs(tmp_path: Path, kind: KeyKind) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(generate(kind, 1024))
    assert file.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    key = load(DomainKey(Domain.parse("Bücher.example"), "s", str(file)))
    assert (key.kind, key.algorithm) == (kind, f"{kind}-sha256")
    assert record(key).startswith(f"v=DKIM1; k={kind}; p=")
    raw = signed(message(b"text\r\n"), (key,))
    (first, *_) = checked(raw, {"s._domainkey.xn--bcher-kva.example": record(key)})
    assert (first.result, first.domain) == (DkimResult.PASS, "xn--bcher-kva.example")
