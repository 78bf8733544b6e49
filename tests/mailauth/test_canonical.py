"""Canonical forms: the same octets as dkimpy's, without its quadratic cost; and the lines that we write."""

from __future__ import annotations

import dkim
import pytest
from dkim.canonicalization import Relaxed, Simple
from hypothesis import example, given
from hypothesis import strategies as st

from smtproute.mailauth.canonical import (
    folded,
    relaxed_body,
    relaxed_field,
    relaxed_slices,
    simple_body,
    simple_field,
    simple_slices,
    without_signature,
)

_bodies = st.lists(st.sampled_from([b" ", b"\t", b"\r\n", b"  ", b"a", b"\xff", b"."]), max_size=30).map(b"".join)


@given(_bodies)
@example(b" " * 700 + b"\r\n")
def test_bodies_as_dkimpy(body: bytes) -> None:
    """Of bodies that end a line, as every body does on the wire; dkimpy keeps white space at an unfinished end."""
    body += b"\r\n"
    assert relaxed_body(body) == Relaxed.canonicalize_body(body)
    assert simple_body(body) == Simple.canonicalize_body(body)


@given(_bodies, st.integers(1, 12), _bodies)
@example(b"a \r", 3, b"\n \r\n\r\n")
@example(b"a\r\n\r", 4, b"\n b")
@example(b"a \r\n \r", 4, b"")
def test_a_body_is_the_same_in_slices_of_any_size(body: bytes, size: int, before: bytes) -> None:
    whole = len(body) + 1
    for slices in (relaxed_slices, simple_slices):
        made = list(slices(before + body, len(before), size))
        assert b"".join(made) == b"".join(slices(body, 0, whole))
        assert all(len(each) <= 2 * size + 2 for each in made)


@given(_bodies.map(lambda body: body + b"\r\n"), st.integers(1, 12))
def test_slices_as_dkimpy(body: bytes, size: int) -> None:
    assert b"".join(relaxed_slices(body, 0, size)) == Relaxed.canonicalize_body(body)
    assert b"".join(simple_slices(body, 0, size)) == Simple.canonicalize_body(body)


@pytest.mark.parametrize("run", [*range(2, 40), 255, 256, 257, 300, 511, 513, 65_537])
def test_runs_of_spaces(run: int) -> None:
    assert relaxed_body(b"a" + b" " * run + b"b" + b"\t " * run + b"\r\n") == b"a b\r\n"


@pytest.mark.parametrize(
    ("body", "relaxed", "simple"),
    [
        (b"", b"", b"\r\n"),
        (b"\r\n", b"", b"\r\n"),
        (b"\r\n\r\n\r\n", b"", b"\r\n"),
        (b"a", b"a\r\n", b"a\r\n"),
        (b"a \t", b"a\r\n", b"a \t\r\n"),
        (b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n", b" C \r\nD \t E\r\n"),
        (b"a\r\n" + b"\r\n" * 9000, b"a\r\n", b"a\r\n"),
    ],
)
def test_bodies(body: bytes, relaxed: bytes, simple: bytes) -> None:
    """RFC 6376 3.4.3 to 3.4.5."""
    assert (relaxed_body(body), simple_body(body)) == (relaxed, simple)


_values = st.lists(st.sampled_from([b" ", b"\t", b"\r\n ", b"\r\n\t", b"a", b":", b"\xc3\xbc"]), max_size=20).map(
    b"".join
)


@given(_values)
def test_fields_as_dkimpy(value: bytes) -> None:
    (name, canonical), *_ = Relaxed.canonicalize_headers([(b"X-Name", value + b"\r\n")])
    assert relaxed_field(b"X-Name:" + value + b"\r\n") == name + b":" + canonical
    assert relaxed_field(b"X-Name \t:" + value) == name + b":" + canonical
    assert simple_field(b"X-Name:" + value + b"\r\n") == simple_field(b"X-Name:" + value)


@pytest.mark.parametrize(
    ("field", "left"),
    [
        (b"A: a=1; b=xyz\r\n", b"A: a=1; b="),
        (b"A: b=xyz; bh=abc\r\n", b"A: b=; bh=abc"),
        (b"A: a=1;\r\n\tb = x\r\n yz== ;\r\n bh=b=c;\r\n", b"A: a=1;\r\n\tb =;\r\n bh=b=c;"),
        (b"A: a=b; bb=c\r\n", b"A: a=b; bb=c"),
        (b"A: b\r\n", b"A: b"),
        (b"b=x: b=y", b"b=x: b="),
    ],
)
def test_without_signature(field: bytes, left: bytes) -> None:
    assert without_signature(field) == left


_words = st.text(alphabet="ab;= ", min_size=1, max_size=150).map(lambda text: f"x{text}x")


@given(st.lists(_words, min_size=1, max_size=4))
def test_folding_loses_nothing(parts: list[str]) -> None:
    made = folded("X-Name", parts)
    assert made.replace(b"\r\n", b"").decode() == "X-Name: " + " ".join(parts)
    for line in made.split(b"\r\n"):
        assert line.strip()
        assert len(line) <= 76 or b" " not in line.strip().replace(b"  ", b"")
    assert dkim.rfc822_parse(made + b"\r\n\r\n")[0] == [[b"X-Name", made[7:] + b"\r\n"]]
