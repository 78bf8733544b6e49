"""How a text of a test is compared with what was said."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtproute.testing.pattern import Pattern


@given(st.text("ab*\n", max_size=8), st.text("ab*\n", max_size=12))
def test_a_star_stands_for_any_text(written: str, said: str) -> None:
    meant = ".*".join(map(re.escape, written.split("*")))
    assert Pattern(written).holds(said) is (re.fullmatch(meant, said, re.DOTALL) is not None)


@pytest.mark.parametrize(
    ("written", "said", "holds"),
    [
        ("a*a", "a", False),
        ("ab*ba", "aba", False),
        ("*ab*ab*", "ab ab", True),
        ("*ab*ab*", "aab", False),
        ("a*b*c", "a c b c", True),
        ("a*b*c", "a c b", False),
        ("subject=" + "*a" * 8 + "*b", "subject=" + "a" * 60, False),
        ("*a" * 1000 + "*b", "a" * 100_000, False),
    ],
    ids=["one for two", "overlap", "twice", "once", "last piece", "no last piece", "many stars", "very many stars"],
)
def test_pieces_do_not_overlap_and_many_stars_cost_nothing(written: str, said: str, holds: bool) -> None:
    assert Pattern(written).holds(said) is holds


def test_a_regular_expression_without_end_holds_nothing() -> None:
    assert not Pattern.parse("regex:(a+)+(a+)+b").holds("a" * 60 + "!b!")
