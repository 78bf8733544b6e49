"""Which addresses a route claims."""

from __future__ import annotations

import pytest

from smtproute.core.address import Address
from smtproute.core.routes import Route, RouteError, Target, matching, parse_match
from smtproute.core.settings import Mode


@pytest.mark.parametrize(
    ("match", "address", "holds"),
    [
        ("a@x.example", "A@X.example", True),
        ("a@x.example", "b@x.example", False),
        ("*@x.example", "anyone@X.EXAMPLE", True),
        ("*@x.example", "anyone@sub.x.example", False),
        ("*@*.x.example", "anyone@sub.x.example", True),
        ("*@*.x.example", "anyone@deep.sub.x.example", True),
        ("*@*.x.example", "anyone@x.example", False),
        ("*@*.x.example", "anyone@evilx.example", False),
        ("*", "anyone@any.example", True),
        (r"regex:(sales|info)@x\.example", "INFO@x.example", True),
        (r"regex:(sales|info)@x\.example", "info@x.example.evil.example", False),
        (r"regex:info", "info@x.example", False),
        (r"regex:a|b@x\.example", "b@x.example", True),
        ("*@b\u00fccher.example", "a@xn--bcher-kva.example", True),
    ],
)
def test_match(match: str, address: str, holds: bool) -> None:
    assert bool(parse_match(match).holds(Address.parse(address))) is holds


@pytest.mark.parametrize("text", ["", "x.example", "@x.example", "a*@x.example", "*@*", "*@x.*", "regex:(", "a@b@c d"])
def test_what_is_no_match(text: str) -> None:
    with pytest.raises(RouteError):
        parse_match(text)


def test_the_whole_address_goes_before_the_one_without_detail() -> None:
    routes = (
        Route("route[0]", parse_match("a@x.example"), Target(Mode.CAPTURE)),
        Route("route[1]", parse_match("a+tag@x.example"), Target(Mode.REJECT)),
    )
    found = matching(routes, Address.parse("a+tag@x.example"), "+")
    assert found is not None and found.rule == "route[1]"
    found = matching(routes, Address.parse("a+other@x.example"), "+")
    assert found is not None and found.rule == "route[0]"
    assert matching(routes, Address.parse("a+other@x.example"), "") is None


def test_a_pattern_that_passes_its_limit_is_an_error() -> None:
    with pytest.raises(RouteError, match="match limit"):
        parse_match("regex:(a+)+[0-9]@x.example").holds(Address.parse("a" * 60 + "@x.example"))
