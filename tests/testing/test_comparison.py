"""Expectations and copies are compared in any order, and as many as can be are met."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from smtproute.testing.arrivals import headers
from smtproute.testing.scenarios.comparison import Expected, compared, matching, told, unanswered
from smtproute.testing.scenarios.outcome import Copy
from smtproute.testing.scenarios.scenario import ExpectTable, MessageTable, Place, Status

ADDRESSES = ("a@x.example", "b@x.example")


def expected(**keys: object) -> Expected:
    return Expected(ExpectTable.model_validate(keys), "relay")


def copy(place: Place = Place.MAILBOX, address: str = "a@x.example", **facts: object) -> Copy:
    return Copy("relay", "ID", 0, place, address, **facts)  # type: ignore[arg-type]


choices = st.lists(st.lists(st.integers(0, 4), max_size=5, unique=True), max_size=5)


@given(choices)
def test_a_matching_is_as_large_as_any(choices: list[list[int]]) -> None:
    found = matching(choices)
    assert len(set(found.values())) == len(found)
    assert all(choice in choices[one] for one, choice in found.items())
    most = max(
        sum(choice in row for row, choice in zip(choices, order, strict=False)) for order in permutations(range(5))
    )
    assert len(found) == most


tables = st.builds(
    expected, mailbox=st.sampled_from(ADDRESSES), attempts=st.sampled_from((1, 2)), status=st.sampled_from([*Status])
)
mailboxes = st.builds(
    copy, address=st.sampled_from(ADDRESSES), attempts=st.sampled_from((1, 2)), status=st.sampled_from([*Status])
)


@given(st.lists(mailboxes, max_size=6), st.randoms(use_true_random=False))
def test_what_is_expected_as_it_is_passes_in_any_order(copies: list[Copy], chance) -> None:
    wanted = [expected(mailbox=each.address, attempts=each.attempts, status=str(each.status)) for each in copies]
    chance.shuffle(wanted)
    assert compared(wanted, copies) == []


@given(st.lists(tables, max_size=5), st.lists(mailboxes, max_size=5))
def test_every_expectation_and_every_copy_is_accounted_for(wanted: list[Expected], copies: list[Copy]) -> None:
    """It passes if and only if each expectation has a copy of its own, and no copy is left."""
    found = compared(wanted, copies)
    assert all(each.text for each in found)
    unmet = [each for each in found if each.expected is not None]
    paired = [each for each in found if each.expected is not None and each.copy is not None]
    extra = [each for each in found if each.expected is None]
    met = len(wanted) - len(unmet)
    assert met + len(paired) + len(extra) == len(copies)
    assert compared(wanted, copies, nothing_else=False) == unmet
    for each in paired:
        assert each.expected is not None and each.copy is not None
        assert each.copy.is_for(each.expected.table.address)
        assert each.differences


def test_the_copy_that_is_met_is_not_explained_away() -> None:
    """The first expectation would take either copy, the second only the one that the first might have taken."""
    wanted = [expected(mailbox="a@x.example"), expected(mailbox="a@x.example", attempts=1)]
    assert compared(wanted, [copy(attempts=1), copy(attempts=3)]) == []


def test_what_nearly_holds_is_explained_by_the_most_similar_copy() -> None:
    wanted = [expected(mailbox="a@x.example", attempts=2, reply="250")]
    far, near = copy(attempts=3, reply="451 4.4.1 No"), copy(attempts=1, reply="250 2.0.0 Ok")
    mismatch, left = compared(wanted, [far, near])
    assert mismatch.text == "expected mailbox a@x.example: it is there, but attempts are 1, not 2"
    assert left.text == "not expected: mailbox a@x.example, delivered (451 4.4.1 No)"


def test_what_went_elsewhere_is_named() -> None:
    wanted = [expected(endpoint="far", to="A@X.example")]
    missing, left = compared(wanted, [copy()])
    assert missing.text == (
        "expected endpoint far for A@X.example: there is none; instead there is mailbox a@x.example, delivered"
    )
    assert left.text == "not expected: mailbox a@x.example, delivered"
    (other,) = compared(
        [expected(endpoint="far", to="a@x.example")], [copy(Place.ENDPOINT, endpoint="near")], nothing_else=False
    )
    assert "instead there is endpoint near for a@x.example" in other.text


def test_what_went_to_somebody_else_is_named_once() -> None:
    """A wrong `to`: what went where the copy should have gone stands in its place, and is not left over too."""
    wanted = [expected(endpoint="far", to="nema@x.example"), expected(mailbox="a@x.example")]
    there = [copy(Place.ENDPOINT, "name@x.example", endpoint="far"), copy(), copy(address="b@x.example")]
    found = compared(wanted, there)
    assert told(found) == [
        "expected endpoint far for nema@x.example: there is none; "
        "instead there is endpoint far for name@x.example, delivered",
        "not expected: mailbox b@x.example, delivered",
    ]
    assert len(found) == 3


def test_a_copy_of_another_relay_is_another_one() -> None:
    table = ExpectTable.model_validate({"mailbox": "a@x.example"})
    (missing,) = compared([Expected(table, "b")], [copy()], nothing_else=False)
    assert missing.text == (
        "expected mailbox a@x.example on relay b: there is none; instead there is mailbox a@x.example, delivered"
    )


def test_of_a_copy_that_did_not_arrive_nothing_is_said() -> None:
    wanted = expected(mailbox="a@x.example", status="deferred", headers={"Subject": "x"}, seal=False, unchanged=True)
    (mismatch,) = compared([wanted], [copy(status=Status.DEFERRED)])
    assert mismatch.text.endswith("but it did not arrive, so that nothing can be said of its content")
    assert [each.key for each in mismatch.differences] == [("headers",), ("unchanged",), ("seal",)]


def test_each_pattern_of_a_header_field_wants_one_of_the_fields() -> None:
    content = b"Received: by b\r\n\tfor a\r\nReceived: by c\r\n\r\n"
    assert headers(content, "received") == ["by b for a", "by c"]
    wanted = expected(mailbox="a@x.example", headers={"Received": ["by c", "* for a"]})
    assert compared([wanted], [copy(content=content)]) == []
    wanted = expected(mailbox="a@x.example", headers={"Received": ["by c", "by d"]})
    assert "Received is 'by b for a' and 'by c'" in compared([wanted], [copy(content=content)])[0].text


def test_replies() -> None:
    message = MessageTable.model_validate({"from": "", "to": ["a@x.example"], "replies": {"a@x.example": "550"}})
    assert unanswered(message, {"CONNECT": "220 hi", "MAIL": "250 Ok", "a@x.example": "550 5.1.1 No"}) == []
    found = unanswered(message, {"CONNECT": "554 No"})
    assert [each.text for each in found] == [
        "expected CONNECT to be answered 220: the client heard 554 No",
        "expected a@x.example to be answered 550: the client heard nothing there",
    ]
