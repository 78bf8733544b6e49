"""What is claimed about patterns holds for every address."""

from __future__ import annotations

import pcre2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtproute.core.aliases import PatternError, compile_pattern
from smtproute.doctor.shapes import branches

OPTIONS = int(pcre2.IGNORECASE) | int(pcre2.DOTALL)

locals_ = st.text("ab.x+0-", min_size=1, max_size=6) | st.text('ab @x"', max_size=4).map(lambda text: f'"{text}"')
domains = st.sampled_from(["x.example", "a.example", "b.a.example", "x-example", "[192.0.2.1]"])
addresses = st.tuples(locals_, domains).map("@".join)

pieces = st.sampled_from(
    [
        "a",
        "b",
        "x",
        "@",
        "@",
        r"\.",
        ".",
        " ",
        "$",
        "^",
        "[ab]",
        "[^@]",
        r"\d",
        r"\S",
        "(a|b)",
        "(x|@a)",
        "(?:ab)",
        "-",
        '"',
    ]
)
quantified = st.tuples(pieces, st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{0,2}"])).map("".join)
ends = st.sampled_from([r"x\.example", r"(a|x)\.example", "x.example", "", " x"])
patterns = st.tuples(
    st.sampled_from(["", "^"]), st.lists(quantified, max_size=4).map("".join), ends, st.sampled_from(["", "$"])
).map("".join)


@settings(max_examples=500, deadline=None)
@given(patterns, st.lists(addresses, min_size=1, max_size=20))
def test_a_pattern_that_never_matches_matches_no_address(pattern: str, tried: list[str]) -> None:
    ways = branches(pattern)
    try:
        compiled = compile_pattern(pattern, OPTIONS)
    except PatternError:
        return
    samples = [way.sample() for way in ways if "@" in way.sample().strip("@") and '"' not in way.sample()]
    if ways and all(way.never() for way in ways):
        for address in tried:
            assert compiled.search(address.encode()) is None, address
    elif ways and all(way.end and way.domain for way in ways):
        for address in [*tried, *samples]:
            if compiled.search(address.encode()) is not None:
                domain = address.rpartition("@")[2]
                assert any(len(way.domain) == len(domain) for way in ways), address


@pytest.mark.parametrize(
    "pattern",
    [
        r"^sales$",
        r"^@x\.example$",
        r"^a b@x\.example$",
        r"^a@x\.example $",
        r"a$b",
        "a^b",
        r"^a@$",
        r"^[a-z]+\.example$",
    ],
)
def test_patterns_that_never_match(pattern: str) -> None:
    assert all(way.never() for way in branches(pattern)) and branches(pattern)


@pytest.mark.parametrize("pattern", [r"a@x\.example", "^.*$", r"^[^a]+$", r"@x\.example$", r'^"a b"@x', "(a|^)b", "$"])
def test_patterns_that_may_match(pattern: str) -> None:
    assert not all(way.never() for way in branches(pattern))


@pytest.mark.parametrize(
    "pattern", [r"(?=a)b", r"(a)\1", r"(?i)a", r"\bx", "(?<n>a)", "(*ACCEPT)a", "(a", "a)", "[a", r"\Qa\E"]
)
def test_what_is_not_understood_has_no_shape(pattern: str) -> None:
    assert branches(pattern) == ()


def test_the_parts_of_a_pattern() -> None:
    one, other = branches(r"^info@example.(com|org)$")
    assert (one.domain, other.domain) == ("example.com", "example.org")
    assert one.sample() == "info@examplexcom" and one.start and one.end
    assert other.strict() == r"^info@example\.org$"
    (tail,) = branches(r"gmail\.com$")
    assert tail.bare == "gmail.com" and tail.domain == ""


def test_octets_that_are_no_utf8() -> None:
    """They reach here as a file's octets do: by surrogates."""
    (way,) = branches("^\udcfc@x\\.example$")
    assert way.never() == "no address has the character that \udcfc stands for"
    assert way.sample() == "\udcfc@x.example"
