"""Header fields as slices, and the Edit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.message import Edit, apply, fields, header_end

MESSAGE = b"Subject: one\r\n two\r\nFrom: a@b.example\r\nX:\r\n\r\nbody: no field\r\n"


def test_fields() -> None:
    found = fields(MESSAGE)
    assert [each.name for each in found] == [b"subject", b"from", b"x"]
    assert found[0].value(MESSAGE) == b" one\r\n two"
    assert found[1].raw(MESSAGE) == b"From: a@b.example\r\n"
    assert found[2].value(MESSAGE) == b""
    assert MESSAGE[header_end(MESSAGE) :] == b"\r\nbody: no field\r\n"


def test_where_the_header_ends() -> None:
    assert fields(b"") == fields(b"\r\nbody") == fields(b" folded from nothing\r\n\r\n") == ()
    assert [each.name for each in fields(b"A: 1\r\nno field\r\nB: 2\r\n\r\n")] == [b"a"]
    assert [each.name for each in fields(b"A: 1")] == [b"a"]
    assert [each.name for each in fields(b"A : 1\r\n\tmore")] == [b"a"]
    assert [each.name for each in fields(b"A\xff: 1\r\n\r\n")] == []
    assert header_end(b"A: 1") == 4


@given(st.lists(st.sampled_from([b"A: b", b"\r\n", b" ", b":", b"x", b"\r\n\r\n", b"\t", b"\xff"]), max_size=30))
def test_fields_are_disjoint_and_inside_the_header(pieces: list[bytes]) -> None:
    message = b"".join(pieces)
    at = 0
    for each in fields(message):
        assert each.start == at
        assert each.start < each.value_start <= each.end <= header_end(message)
        at = each.end


@given(st.binary(max_size=200), st.binary(max_size=20), st.lists(st.integers(0, 200), max_size=8))
def test_apply_takes_out_what_is_named_and_nothing_else(message: bytes, head: bytes, cuts: list[int]) -> None:
    marks = sorted({cut for cut in cuts if cut <= len(message)})
    spans = tuple(zip(marks[::2], marks[1::2], strict=False))
    gone = {at for start, end in spans for at in range(start, end)}
    kept = bytes(octet for at, octet in enumerate(message) if at not in gone)
    assert apply(Edit(spans, head), message) == head + kept
