"""Signatures by dkimpy and by Perl's Mail::DKIM, over every kind of body: we find what they meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from arc_peers import BODIES, message
from dkim_peers import by_dkimpy, checked, dkimpy_signed, perl_signed, signed
from hypothesis import given, settings
from hypothesis import strategies as st

from smtproute.mailauth.dkim import DkimResult
from smtproute.world import SystemClock

HEADER = (
    "From: Ada  Grün <ada@sender.example>\r\n"
    "To: Bob <bob@bücher.example>,\r\n\tCarl  <carl@example.org>\r\n"
    "Subject:   eine  Überschrift\r\n   in two lines \t\r\n"
    "Date: Tue, 14 Nov 2023 22:13:19 +0000\r\n"
    "Message-ID: <1@sender.example>\r\n"
).encode()
MESSAGES = {name: message(body, HEADER) for name, body in BODIES.items()}
FORMS = [(b"relaxed", b"relaxed"), (b"simple", b"simple"), (b"relaxed", b"simple"), (b"simple", b"relaxed")]
NOW = SystemClock().now()
"""The peers sign with the time of the system."""


def results(raw: bytes) -> set[DkimResult]:
    return {each.result for each in checked(raw, at=NOW)}


@pytest.mark.parametrize("forms", FORMS, ids=lambda forms: b"/".join(forms).decode())
@pytest.mark.parametrize("body", MESSAGES)
def test_dkimpy_signs(body: str, forms: tuple[bytes, bytes]) -> None:
    raw = dkimpy_signed(MESSAGES[body], forms)
    assert results(raw) == {DkimResult.PASS}
    assert results(raw.replace(b"two lines", b"one line")) == {DkimResult.FAIL}
    assert results(raw + b"more") == {DkimResult.FAIL}


@pytest.mark.parametrize("forms", FORMS, ids=lambda forms: b"/".join(forms).decode())
def test_dkimpy_signs_a_length(forms: tuple[bytes, bytes]) -> None:
    raw = dkimpy_signed(MESSAGES["1 KB"], forms, length=True)
    assert results(raw) == {DkimResult.PASS}
    assert results(raw + b"more\r\n") == {DkimResult.POLICY}


@pytest.mark.peer("perl:Mail::DKIM::Signer", "perl:JSON::PP")
@pytest.mark.parametrize("method", ["relaxed", "simple", "relaxed/simple", "simple/relaxed"])
def test_perl_signs(tmp_path: Path, method: str) -> None:
    # On the wire every line ends. Mail::DKIM's simple form does not add what is missing (RFC 6376 3.4.3): ours does.
    messages = [raw if raw.endswith(b"\r\n") else raw + b"\r\n" for raw in MESSAGES.values()]
    for name, raw in zip(MESSAGES, perl_signed(tmp_path, messages, method), strict=True):
        kept = raw if MESSAGES[name].endswith(b"\r\n") else raw.removesuffix(b"\r\n")
        assert results(kept) == {DkimResult.PASS}, name
        assert results(kept + b"more") == {DkimResult.FAIL}, name


_lines = st.lists(
    st.sampled_from([b" ", b"\t", b"  ", b"\r\n", b"a", b"bc", b".", b"\xc3\xbc", b"\xff"]), max_size=40
).map(b"".join)


@given(_lines)
@settings(max_examples=60, deadline=None)
def test_any_body_signed_passes_with_dkimpy_and_with_us(body: bytes) -> None:
    raw = signed(message(body + b"\r\n", HEADER))
    assert by_dkimpy(raw)
    assert results(raw) == {DkimResult.PASS}


_SIGNED = signed(MESSAGES["1 KB"])
_START = _SIGNED.index(b"\r\nFrom:") + 2
_END = _SIGNED.index(b"\r\nDate:")


@given(st.integers(_START, _END - 1), st.integers(33, 126))
@settings(max_examples=150, deadline=None)
def test_a_changed_octet_fails(at: int, octet: int) -> None:
    changed = _SIGNED[:at] + bytes([octet]) + _SIGNED[at + 1 :]
    name = any(_SIGNED.startswith(field, _SIGNED.rfind(b"\n", 0, at) + 1) for field in (b"From", b"To", b"Subject"))
    in_name = name and b":" not in _SIGNED[_SIGNED.rfind(b"\n", 0, at) + 1 : at + 1]
    same = changed == _SIGNED or (in_name and changed.lower() == _SIGNED.lower())
    assert (results(changed) == {DkimResult.PASS}) == same
