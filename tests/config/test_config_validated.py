"""A test's tables against their model: unknown keys at every depth are named with what is known there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from smtproute.config.document import Document, Mistake
from smtproute.config.validated import validated
from smtproute.testing.tables import Table


class Inner(Table):
    from_: str = Field("", alias="from")
    number: float = 0.0


class Outer(Table):
    one: Inner | None = None
    many: Annotated[tuple[Inner, ...], Field(strict=False)] = ()
    few: Annotated[tuple[Inner, ...], Field(strict=False)] | None = None
    named: dict[str, Inner] = Field({})


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"mony": []}, 'mony: unknown key. Did you mean "many"?'),
        ({"zzz": []}, "zzz: unknown key. Known here: one, many, few, named."),
        ({"one": {"form": ""}}, 'one.form: unknown key. Did you mean "from"?'),
        ({"many": [{}, {"zzz": 1}]}, "many[1].zzz: unknown key. Known here: from, number."),
        ({"few": [{"zzz": 1}]}, "few[0].zzz: unknown key. Known here: from, number."),
        (
            {"named": {"mx.far.example": {"zzz": 1}}},
            'named."mx.far.example".zzz: unknown key. Known here: from, number.',
        ),
        ({"named": {"x": {"from": 1}}}, "named.x.from = 1: text is wanted. Write it in quotes."),
        ({"one": {"number": "1"}}, 'one.number = "1": a number is wanted.'),
        ({"named": []}, "named = []: a table is wanted. Write { key = value }, or the key under a [table]."),
    ],
)
def test_what_is_wrong(tables: dict[str, Any], said: str) -> None:
    with pytest.raises(Mistake) as raised:
        validated(Outer, Document("file", Path("/"), tables))
    assert raised.value.lines == (f"file: {said}",)


def test_what_is_right() -> None:
    outer = validated(Outer, Document("file", Path("/"), {"one": {"from": "a", "number": 1}, "many": [{}]}))
    assert (outer.one, outer.many) == (Inner.model_validate({"from": "a", "number": 1}), (Inner(),))
