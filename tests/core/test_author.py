"""Whom a From names: one reading for everybody who asks, and no reading of what could be read in two ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.author import MAX_DOMAINS, MAX_FIELD, MAX_FIELDS, author

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
    b"A <a@[IPv6:2001:db8::1]>": "[ipv6:2001:db8::1]",
    b"a @ b.example": "b.example",
    b"a@b(x).example": "b.example",
    b"A (c) <a . c\r\n @ (c) b . (c) example>": "b.example",
    b'"john" . "doe \\" x"@b.example': "b.example",
    b"<@d.example:a@b.example>": "b.example",
    b"<@d.example,@e.example : a@b.example>": "b.example",
    b"a..c.@b.example": "b.example",
    b"\xffa@b.example": "b.example",
    b"a@b.example: c@d.example;": "d.example",
    b"Max @ Foo: Team <a@b.example>": "b.example",
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
    b"<a@b.example, c@b.example>": ("its From cannot be read: 'b.example , c @ b.example' is no part of an address"),
    b"<a@b.example@b.example>": "its From cannot be read: 'b.example @ b.example' is no part of an address",
    b"<@d.example:b.example>": (
        "its From cannot be read: 'b.example' is no address: it needs a local part, @ and a domain"
    ),
    b"<a@b.example> x": "its From cannot be read: the brackets are in disorder",
    b"\xff\xfe a@b.example": "its From cannot be read: '\ufffd\ufffd a' is no part of an address",
    b"a\0@b.example": (
        "its From cannot be read: '\"a\\x00\"@b.example' is no address: its quoted local part is malformed"
    ),
    b'"a@b.example"': "its From has an @, and names no address",
    b"root (Cron Daemon)": "its From names no address",
    b"<": "its From cannot be read: the brackets are in disorder",
    b"A a@b.example": "its From cannot be read: 'A a' is no part of an address",
    b'"a@b.example': "its From cannot be read: something in quotes or in a comment does not end",
    b"(a@b.example": "its From cannot be read: a comment does not end",
    b"a@b..example": "its From cannot be read: 'b..example' is no domain name",
    b"a" * MAX_FIELD + b"@b.example": f"its From cannot be read: it is longer than {MAX_FIELD} octets",
}

HIDING = {b"<a@b.example@b.example>", b"<@d.example:b.example>", b"a@b..example", b"a" * MAX_FIELD + b"@b.example"}


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
    assert found.hidden is (value in HIDING)
    assert bool(found.domains) is (b"@" in value and not found.hidden)


@pytest.mark.parametrize(
    "value",
    [
        b"Foo a@b.example",
        b"<'a@b.example'>",
        b"<mailto:a@b.example>",
        b"Foo <<a@b.example>>",
        b"A -> B <a@b.example>",
        b"I <3 You <a@b . example>",
        b'27" TV <a@b.example.>',
        b":( Shop <a@b.example>",
    ],
)
def test_of_what_is_malformed_the_domains_are_told(value: bytes) -> None:
    found = author(message(value))
    assert (found.domain, [domain.key for domain in found.domains], found.hidden) == (None, ["b.example"], False)


@pytest.mark.parametrize(
    "name",
    [
        b"alice@author.example via List",
        b"'alice@author.example' via List",
        b"support@shop.example",
        b"Ceo c @ (x) d . example",
        b"x@ y@@ z",
        b"@ E x",
    ],
)
def test_an_address_in_a_name_is_a_name_with_quotes_and_without(name: bytes) -> None:
    """Lists and ticket systems write so: the author is whoever stands in brackets."""
    for written in (name, b'"' + name + b'"'):
        found = author(message(written + b" <list@lists.example>"))
        assert (found.fault, found.hidden) == ("", False)
        assert found.domain is not None and found.domain.key == "lists.example"


def test_beyond_the_bounds_is_hidden() -> None:
    fine = [b"a@%d.example" % number for number in range(MAX_DOMAINS)]
    for values, fault in (
        ([b"a@b.example"] * MAX_FIELDS, ""),
        ([b"a@b.example"] * (MAX_FIELDS + 1), f"its From cannot be read: it is one of more than {MAX_FIELDS}"),
        ([b"x"] * (MAX_FIELDS + 1), ""),
        ([b", ".join(fine)], ""),
        ([b", ".join([*fine, b"a@x.example"])], f"its From names more than {MAX_DOMAINS} domains"),
        ([b"x" * MAX_FIELD + b"x"], ""),
    ):
        found = author(message(*values))
        assert found.hidden is bool(fault)
        assert not fault or found.fault == fault


@pytest.mark.parametrize(
    ("head", "hidden"),
    [
        (b"no field\r\nFrom: a@b.example\r\n", True),
        (b"From: a@b.example\r\nno field\r\nX: y\r\nfrom : A\r\n\t<c@d.example>\r\n", True),
        (b"From a@b.example Sun Nov 22 10:00:00\r\nFrom: a@b.example\r\n", False),
        (b">From a@b.example Sun Nov 22 10:00:00\r\nno field\r\nFrom: a@b.example\r\n", True),
        (b"From: a@b.example\r\nno field\r\nX-From: c@d.example\r\n", False),
        (b"no field\r\n\r\nFrom: c@d.example\r\n", False),
    ],
)
def test_below_a_line_that_is_no_header_field_a_from_is_hidden(head: bytes, hidden: bool) -> None:
    found = author(head + b"\r\nbody\r\n")
    assert found.hidden is hidden
    assert (found.fault == "it has a From below a line that is no header field") is hidden


def test_one_field_is_wanted() -> None:
    assert (author(message()).fault, author(message()).hidden) == ("it has no From field", False)
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
    assert found.fault in ("it has 2000 From fields", "its From cannot be read: it is longer than 8192 octets")


@pytest.mark.timeout(10)
def test_work_below_the_header_is_bounded() -> None:
    assert author(b"no field\r\n" + b"\nfrom\t" * 200_000).fault == "it has no From field"
