"""Whom a From names: one reading for everybody who asks, and no reading of what could be read in two ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.author import MAX_FIELD, author

NAMED = {
    b"a@b.example": "b.example",
    b"A B <a@b.example>": "b.example",
    b"Doe, John <a@my-b.example>": "my-b.example",
    b'"x@evil.example" <a@b.example>': "b.example",
    b"x@evil.example <a@b.example>": "b.example",
    b'"a <x@evil.example>, " <a@b.example>': "b.example",
    b"(x@evil.example) a@b.example (c (d) \\) )": "b.example",
    b"a@b.example, c@B.Example.": "b.example",
    b"Team: a@b.example, Someone <c@b.example>;": "b.example",
    b"a@b.example\r\n\t, \r\n c@b.example": "b.example",
    b"< a@b.example >": "b.example",
    b'"john doe"@b.example': "b.example",
    b"=?utf-8?q?a=40evil=2eexample?= <a@b.example>": "b.example",
    "ü <a@bücher.example>".encode(): "xn--bcher-kva.example",
    b"a@xn--bcher-kva.example": "xn--bcher-kva.example",
    b"a@[192.0.2.1]": "[192.0.2.1]",
}
NOBODY = {
    b"": "its From names no address",
    b"Nobody": "its From names no address",
    b"undisclosed:;": "its From names no address",
    b"<>": "its From cannot be read: '' is no address: it needs a local part, @ and a domain",
    b"a@b.example, c@d.example": "its From names several domains",
    b"a@b.example <c@d.example> <e@f.example>": "its From cannot be read: the brackets are in disorder",
    b"<a@b.example> c@d.example": "its From cannot be read: the brackets are in disorder",
    b"<a@b.example": "its From cannot be read: the brackets are in disorder",
    b"a@b.example>": "its From cannot be read: the brackets are in disorder",
    b"<@d.example:a@b.example>": "its From cannot be read: the brackets are in disorder",
    b"a@b.example: c@d.example;": (
        "its From cannot be read: there is an address where the name of a group is expected"
    ),
    b"A a@b.example": "its From cannot be read: 'A a@b.example' is no address: its local part is malformed",
    b'"a@b.example': "its From cannot be read: something in quotes or in a comment does not end",
    b"(a@b.example": "its From cannot be read: a comment does not end",
    b"a@b..example": "its From cannot be read: 'b..example' is no domain name",
    b"a" * MAX_FIELD + b"@b.example": f"its From cannot be read: it is longer than {MAX_FIELD} octets",
}


def message(*values: bytes) -> bytes:
    return b"".join(b"From: %s\r\n" % value for value in values) + b"Subject: x\r\n\r\nFrom: x@body.example\r\n"


@pytest.mark.parametrize("value", NAMED)
def test_who_is_named(value: bytes) -> None:
    found = author(message(value))
    assert (found.fault, found.domain and found.domain.key) == ("", NAMED[value])


@pytest.mark.parametrize("value", NOBODY)
def test_who_is_not(value: bytes) -> None:
    found = author(message(value))
    assert (found.fault, found.domain) == (NOBODY[value], None)


def test_one_field_is_wanted() -> None:
    assert author(message()).fault == "it has no From field"
    twice = author(message(b"a@b.example", b"c@b.example"))
    assert (twice.fault, twice.domain) == ("it has 2 From fields", None)
    assert [str(address) for address in twice.addresses] == ["a@b.example", "c@b.example"]
    assert [domain.key for domain in author(message(b"a@b.example", b"<", b"c@d.example")).domains] == [
        "b.example",
        "d.example",
    ]


@given(st.lists(st.sampled_from(['"', "\\", "(", ")", "<", ">", ",", ":", ";", "@", ".", " ", "a", "b.example", "ü"])))
def test_whatever_it_holds_an_author_or_a_fault_comes_out(parts: list[str]) -> None:
    found = author(message("".join(parts).encode()))
    assert (found.domain is None) is bool(found.fault)
    if found.domain is not None:
        assert {address.domain for address in found.addresses} == {found.domain}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("piece", [b"(", b'"', b"a@b,", b"<", b"\\", b" ", b'""', b'"\\', b"(\\", b"(a", b"(a)", b"a:"])
def test_work_is_bounded(piece: bytes) -> None:
    found = author(message(*[piece * (MAX_FIELD // len(piece))] * 2000))
    assert found.fault == "it has 2000 From fields"
