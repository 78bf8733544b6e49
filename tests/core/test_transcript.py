"""The transcript: what is escaped in it, and that it has an end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.transcript import Arrow, Line, Record, legible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("250 Ok \\ caf\u00e9 \u4f60 \U0001f600 \u00a0", "250 Ok \\ caf\u00e9 \u4f60 \U0001f600 \u00a0"),
        ("\0\t\r\n\x1b[2J\x7f", r"\x00\t\r\n\x1b[2J\x7f"),
        ("\u0080\u0085\u009b2J\u009f", r"\x80\x85\x9b2J\x9f"),
        ("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e", r"\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e"),
        ("\u2028\u2029\u2066\u2067\u2068\u2069", r"\u2028\u2029\u2066\u2067\u2068\u2069"),
        ("\ud800\udfff", r"\ud800\udfff"),
    ],
)
def test_legible(text: str, shown: str) -> None:
    assert legible(text) == shown


@given(st.text(st.characters(), max_size=50))
def test_legible_text_can_be_written_out_and_stays_as_it_is(text: str) -> None:
    shown = legible(text)
    assert legible(shown) == shown
    assert len(shown.encode().splitlines()) <= 1


@given(st.lists(st.text("ab", max_size=300), max_size=60))
def test_a_record_keeps_what_came_first(texts: list[str]) -> None:
    record = Record(5000)
    for text in texts:
        record.add(Line(Arrow.SENT, 1.0, text))
    kept = [line.text for line in record.lines if line.arrow is Arrow.SENT]
    assert kept == texts[: len(kept)]
    assert sum(map(len, kept)) < 5000
    assert [line.arrow for line in record.lines[len(kept) :]] == ([] if len(kept) == len(texts) else [Arrow.NOTE])
    assert len(kept) >= min(len(texts), 5000 // 400)
    record.clear()
    assert record.lines == []
    record.add(Line(Arrow.SENT, 1.0, "again"))
    assert [line.text for line in record.lines] == ["again"]
