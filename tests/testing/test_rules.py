"""Which rule of a script acts, and when."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtproute.core.routes import RouteError
from smtproute.testing.clock import TurnedClock
from smtproute.testing.rules import Moment, Rate, Rule, Script, Verb, on

RECIPIENTS = ("a@x.test", "b@x.test", "c@y.test")


def script(*rules: Rule, seed: int = 7, clock: TurnedClock | None = None) -> Script:
    return Script(rules, seed=seed, clock=clock or TurnedClock())


def rcpt(recipient: str = "a@x.test", sender: str = "s@here.test", client: str = "192.0.2.1") -> Moment:
    return Moment(Verb.RCPT, f"TO:<{recipient}>", client, sender, (recipient,))


def acted(script: Script, *moments: Moment) -> list[bool]:
    return [script.acting(moment) is not None for moment in moments]


def test_the_first_rule_that_acts_is_the_only_one() -> None:
    first, second = on("RCPT", "451 1", skip=1, times=2), on("RCPT", "451 2", times=1)
    made = script(on("MAIL", "550 No"), first, second)
    assert [made.acting(rcpt()) for _ in range(5)] == [second, first, first, None, None]


@settings(deadline=None)
@given(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 5)))
def test_skipped_and_counted(skip: int, times: int | None) -> None:
    made = script(on("RCPT", "451 Later", skip=skip, times=times))
    expected = [skip <= number < (99 if times is None else skip + times) for number in range(12)]
    assert acted(made, *[rcpt()] * 12) == expected


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        ({"recipient": "a@x.test"}, True),
        ({"recipient": "A@X.TEST"}, True),
        ({"recipient": "b@x.test"}, False),
        ({"recipient": "*@x.test"}, True),
        ({"recipient": "*"}, True),
        ({"recipient": "*@*.test"}, True),
        ({"recipient": "regex:[a-c]@.*"}, True),
        ({"recipient": "regex:@"}, False),
        ({"sender": "s@here.test"}, True),
        ({"sender": "<>"}, False),
        ({"sender": "*"}, True),
        ({"sender": "*@here.test", "recipient": "*@y.test"}, False),
        ({"match": "^to:<A"}, True),
        ({"match": "z"}, False),
        ({"chance": 0.0}, False),
    ],
    ids=str,
)
def test_whom_it_is_for(conditions: dict[str, str | float], holds: bool) -> None:
    assert acted(script(on("RCPT", "451 Later", **conditions)), rcpt()) == [holds]


def test_the_null_sender_and_one_who_is_not_known_yet() -> None:
    null, anybody = on("RCPT", "451 Later", sender="<>"), on("CONNECT", "451 Later", sender="*")
    assert acted(script(null), rcpt(sender=""), rcpt("no address")) == [True, False]
    assert acted(script(anybody), Moment(Verb.CONNECT, "192.0.2.1:1", "192.0.2.1")) == [False]
    assert acted(script(on("RCPT", "550 No", recipient="*@x.test")), rcpt("Postmaster")) == [False]


def test_later_any_recipient_will_do() -> None:
    made = script(on("DATA", "451 Later", recipient="c@y.test"))
    assert acted(made, *(Moment(Verb.DATA, "", "192.0.2.1", "", each) for each in (RECIPIENTS, RECIPIENTS[:2]))) == [
        True,
        False,
    ]


async def test_from_a_time_on_and_until_another() -> None:
    clock = TurnedClock()
    made = script(on("RCPT", "451 Later", since=10, until=20), clock=clock)
    seen = []
    for _ in range(5):
        seen += acted(made, rcpt())
        await clock.advance(5)
    assert seen == [False, False, True, True, False]


async def test_greylisting_is_for_each_client_sender_and_recipient() -> None:
    clock = TurnedClock()
    made = script(on("RCPT", greylist=300), clock=clock)
    assert (made.acting(rcpt()) or on("RCPT")).actions == ("451 4.7.1 Greylisted, come back later",)
    await clock.advance(299)
    assert acted(made, rcpt(), rcpt("b@x.test")) == [True, True]
    await clock.advance(1)
    others = (rcpt("b@x.test"), rcpt(sender="t@here.test"), rcpt(client="192.0.2.2"))
    assert acted(made, rcpt(), *others) == [False, True, True, True]
    await clock.advance(300)
    assert acted(made, rcpt(), *others) == [False, False, False, False]


async def test_a_rate_counts_what_is_within_it() -> None:
    clock = TurnedClock()
    made = script(on("RCPT", rate=Rate(2, 10)), clock=clock)
    assert (script(on("RCPT", rate=Rate(0))).acting(rcpt()) or on("RCPT")).actions == (
        "421 4.7.0 Too many, come back later",
    )
    seen = []
    for _ in range(7):
        seen += acted(made, rcpt())
        await clock.advance(5)
    assert seen == [False] * 7
    made = script(on("RCPT", rate=Rate(2, 10)), clock=clock)
    seen = []
    for _ in range(7):
        seen += acted(made, rcpt())
        await clock.advance(4)
    assert seen == [False, False, True, False, False, True, False]  # at 0, 4, 8, 12, 16, 20, 24 seconds


def test_in_the_middle_of_a_content_it_is_asked_once() -> None:
    made = script(on("CONTENT", "552 Full", after=100, skip=1))

    def content(*came: int) -> list[bool]:
        between = zip((0, *came), came, strict=False)
        return acted(made, *(Moment(Verb.CONTENT, "", "192.0.2.1", "", (), each) for each in between))

    assert content(50, 99, 100, 101, 200) == [False] * 5
    assert content(50, 99, 150, 200) == [False, False, True, False]
    assert acted(made, Moment(Verb.CONTENT, "x" * 500, "192.0.2.1", "", ())) == [False]


def test_chance_is_as_likely_as_it_says() -> None:
    made = script(on("RCPT", "451 Later", chance=0.3))
    assert 250 < sum(acted(made, *(rcpt(f"{number}@x.test") for number in range(1000)))) < 350
    assert 250 < sum(acted(made, *[rcpt()] * 1000)) < 350
    assert acted(script(on("RCPT", "451 Later", chance=1.0)), *[rcpt()] * 9) == [True] * 9


@settings(deadline=None)
@given(st.lists(st.sampled_from(RECIPIENTS), max_size=30), st.randoms(use_true_random=False), st.integers())
def test_what_chance_does_to_one_recipient_hangs_on_the_seed_alone(
    recipients: list[str], chance: random.Random, seed: int
) -> None:
    def drawn(order: list[str]) -> dict[str, list[bool]]:
        made = script(on("RCPT", "451 Later", chance=0.5), seed=seed)
        seen: dict[str, list[bool]] = {each: [] for each in RECIPIENTS}
        for each in order:
            seen[each] += acted(made, rcpt(each))
        return seen

    other = list(recipients)
    chance.shuffle(other)
    assert drawn(recipients) == drawn(other)


def test_another_seed_is_another_course() -> None:
    courses = {tuple(acted(script(on("RCPT", "451 L", chance=0.5), seed=seed), *[rcpt()] * 20)) for seed in range(5)}
    assert len(courses) == 5


def test_conditions_that_cannot_be_read() -> None:
    with pytest.raises(RouteError):
        on("RCPT", "550 No", recipient="bob@*")
    with pytest.raises(RouteError):
        on("RCPT", "550 No", sender="bob")
