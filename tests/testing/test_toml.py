"""TOML as text is read as what was written."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from typing import Any

import pytest

from smtproute.testing.scenarios import toml

TEXTS = ["", "plain", "a\nb\n", "\nfirst", "it's", "'''", "''", "end'", 'say "x"', '"""', 'end"', "\\d+ \\", "\ttab"]
UNUSUAL = ["\r\n", "\x00\x7f", "a\\\n  b", '""' * 4, "'''" + '"', "\u2028é\x85", "'''\\u0041", "'''\\\""]


@pytest.mark.parametrize("text", TEXTS + UNUSUAL, ids=ascii)
def test_a_text(text: str) -> None:
    assert tomllib.loads(f"x = {toml.value(text)}")["x"] == text
    assert tomllib.loads(f"x = {toml.paragraph(text)}")["x"] == text


def test_backslashes_stay_where_they_can() -> None:
    assert toml.paragraph("\\d+\n") == "'''\n\\d+\n'''"


@pytest.mark.parametrize(
    "value",
    [True, 3, 0.5, [], ["a", 1], {}, {"a.b": {"c": [False]}}, datetime(2026, 11, 22, 10, tzinfo=UTC)],
    ids=str,
)
def test_a_value(value: Any) -> None:
    assert tomllib.loads(toml.assignment("a key", value)) == {"a key": value}


def test_what_toml_does_not_have() -> None:
    with pytest.raises(TypeError, match="TOML has no NoneType"):
        toml.value(None)


def test_headers() -> None:
    assert toml.header(("upstream", "mx.there.example")) == '[upstream."mx.there.example"]'
    assert toml.header(("message", "expect"), one_of_several=True) == "[[message.expect]]"
