"""One reply for all deliveries: whatever became of each, nothing is lost and nothing is promised twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.address import Address
from smtproute.core.outcome import Outcome, Result
from smtproute.core.plan import Delivery
from smtproute.core.proxy import Attempted, conclude, queued
from smtproute.core.reply import Refusal, Reply
from smtproute.core.settings import Kind

ID = "9FQ2"
WRITTEN, TARGET = Address.parse("name@here.example"), Address.parse("private@far.example")


def delivery(kind: Kind = Kind.ENDPOINT, *, alias: bool = False, deliberate: bool = False) -> Delivery:
    return Delivery(kind, TARGET if alias else WRITTEN, WRITTEN, "far", deliberate=deliberate)


def outcome(result: Result, reply: Reply, server: str = "mx.far.example") -> Outcome:
    return Outcome(result, Refusal(reply, "mx.far.example:25"), server=server)


def accepted(text: str = "Ok: queued as 4XYZ", enhanced: str = "2.0.0") -> Outcome:
    return outcome(Result.DELIVERED, Reply(250, enhanced, text))


def refused(text: str = "no such user", code: int = 550, enhanced: str = "5.1.1") -> Outcome:
    return outcome(Result.FAILED, Reply(code, enhanced, text))


def deferred(text: str = "greylisted", code: int = 450, enhanced: str = "4.2.0") -> Outcome:
    return outcome(Result.DEFERRED, Reply(code, enhanced, text))


UNREACHED = outcome(Result.DEFERRED, Reply(451, "4.4.1", "No server took the message"), server="")
MAILBOX = outcome(Result.DELIVERED, Reply(250, "2.0.0", "delivered to the mailbox"), server="")


def concluded(*outcomes: Outcome | None) -> tuple[str, bool]:
    conclusion = conclude(ID, [(delivery(), each) for each in outcomes])
    return str(conclusion.reply), conclusion.withdrawn


QUEUED = f"250 2.0.0 Ok: queued as {ID}"


@pytest.mark.parametrize(
    ("outcomes", "reply", "withdrawn"),
    [
        ([accepted()], f"250 2.0.0 Ok: queued as 4XYZ (relayed as {ID})", False),
        ([accepted("first"), accepted("second")], f"250 2.0.0 first (relayed as {ID})", False),
        ([accepted("", "")], f"250 2.0.0 Ok (relayed as {ID})", False),
        ([accepted("fine", "2.6.0")], f"250 2.6.0 fine (relayed as {ID})", False),
        ([refused()], f"550 5.1.1 no such user (trace {ID})", True),
        ([refused(), refused("full", 552, "5.2.2")], f"552 5.2.2 full (trace {ID})", True),
        ([refused("no", 554, "")], f"554 5.0.0 no (trace {ID})", True),
        ([deferred()], f"450 4.2.0 greylisted (trace {ID})", True),
        ([UNREACHED], f"451 4.4.1 No server took the message (trace {ID})", True),
        ([deferred(), UNREACHED], f"450 4.2.0 greylisted (trace {ID})", True),
        ([deferred("one"), deferred("two", 452, "4.2.2")], f"452 4.2.2 two (trace {ID})", True),
        ([deferred("closing", 421, "4.3.2")], f"451 4.3.2 closing (trace {ID})", True),
        ([refused(), deferred()], QUEUED, False),
        ([accepted(), deferred()], QUEUED, False),
        ([accepted(), refused()], QUEUED, False),
        ([None], QUEUED, False),
        ([None, refused()], QUEUED, False),
        ([None, accepted("theirs")], f"250 2.0.0 theirs (relayed as {ID})", False),
        ([outcome(Result.FAILED, Reply(452, "4.2.2", "full"))], f"452 4.2.2 full (trace {ID})", True),
    ],
)
def test_the_reply(outcomes: list[Outcome | None], reply: str, withdrawn: bool) -> None:
    assert concluded(*outcomes) == (reply, withdrawn)


def test_a_next_hops_words_are_one_legible_line() -> None:
    assert concluded(refused("no\nsuch  user\u00e4")) == (f"550 5.1.1 no such user\\xe4 (trace {ID})", True)
    reply, _ = concluded(accepted("x" * 10_000))
    assert reply.endswith(f"... (relayed as {ID})")


def test_what_goes_to_the_mailbox_is_queued_here_and_the_endpoint_has_the_word() -> None:
    mailbox: Attempted = (delivery(Kind.MAILBOX), MAILBOX)
    assert conclude(ID, [mailbox]).reply == queued(ID)
    assert conclude(ID, [mailbox, (delivery(), accepted("theirs"))]).reply.text == f"theirs (relayed as {ID})"


def test_what_the_route_returns_is_taken_and_what_nobody_wanted_is_not() -> None:
    on_purpose = (delivery(Kind.BOUNCE, deliberate=True), refused())
    assert conclude(ID, [on_purpose]).reply == queued(ID)
    assert not conclude(ID, [on_purpose, (delivery(), refused())]).withdrawn
    dead = (delivery(Kind.BOUNCE), refused("dead", 550, "5.1.1"))
    assert conclude(ID, [dead, (delivery(), refused())]).withdrawn
    assert not conclude(ID, [dead, (delivery(), accepted())]).withdrawn


@given(st.sampled_from([accepted, refused, deferred]))
def test_the_target_of_an_alias_is_never_told(made: object) -> None:
    behind = made(f"<{TARGET}> is well known here")  # type: ignore[operator]
    assert str(TARGET) not in str(conclude(ID, [(delivery(alias=True), behind)]).reply)


texts = st.text(max_size=600)
enhanced = st.sampled_from(["", "2.0.0", "4.2.2", "5.1.1"])
outcomes = st.one_of(
    st.none(),
    st.builds(accepted, texts, enhanced),
    st.builds(refused, texts, st.integers(500, 559), enhanced),
    st.builds(deferred, texts, st.integers(400, 499), enhanced),
    st.just(UNREACHED),
)
deliveries = st.builds(
    delivery, st.sampled_from([Kind.ENDPOINT, Kind.MAILBOX]), alias=st.booleans(), deliberate=st.booleans()
)


@given(st.lists(st.tuples(deliveries, outcomes), min_size=1, max_size=6))
def test_a_refusal_and_only_a_refusal_leaves_nothing_with_us(tried: list[Attempted]) -> None:
    conclusion = conclude(ID, tried)
    assert conclusion.withdrawn == (not conclusion.reply.positive)
    if conclusion.withdrawn:
        assert not any(each.deliberate or fared is None or fared.result is Result.DELIVERED for each, fared in tried)
    else:
        assert conclusion.reply.code == 250
    assert ID in conclusion.reply.text


@given(st.lists(st.tuples(deliveries, outcomes), min_size=1, max_size=6))
def test_the_reply_is_a_reply_of_the_session(tried: list[Attempted]) -> None:
    reply = conclude(ID, tried).reply
    assert len(reply.wire()) <= 512
    assert reply.wire().count(b"\r\n") == 1
    assert reply.text.isascii()
    assert reply.text.isprintable()
    assert reply.enhanced.startswith(f"{str(reply.code)[0]}.")
    assert reply.code != 421
