"""What is taken, ready and claimed, where a look at the database and a commit cross."""

from __future__ import annotations

import math
from dataclasses import replace

from spooling import NOW, deliveries, keys, mail

from smtproute.core.settings import Kind
from smtproute.spool.claims import READY, Claims
from smtproute.spool.queue import Entry, State


def entry(name: str, due_at: float = NOW) -> Entry:
    return Entry(mail(name).message, 0, deliveries(1)[0], State.QUEUED, 0, due_at)


def looked() -> Claims:
    """After a look that found nothing."""
    claims = Claims()
    claims.look()
    claims.found([], [], math.inf)
    return claims


def test_nothing_is_known_before_the_first_look() -> None:
    claims = Claims()
    claims.accepting([entry("A")])
    claims.accepted([entry("A")], NOW)
    assert claims.take(9) == []
    assert claims.next_due == -math.inf
    assert claims.look() == frozenset()


def test_a_look_does_not_bring_what_is_being_accepted() -> None:
    claims = looked()
    claims.accepting([entry("A")])
    assert claims.look() == {("A", 0)}
    claims.accepted([entry("A")], NOW)
    claims.found([entry("A")], [], math.inf)
    assert keys(claims.take(9)) == [("A", 0)]


def test_a_look_that_crosses_a_settlement_brings_nothing_that_was_settled() -> None:
    claims = looked()
    claims.accepting([entry("A")])
    claims.accepted([entry("A")], NOW)
    [taken] = claims.take(9)
    claims.look()
    claims.settled(("A", 0), NOW + 60)
    claims.found([taken], [], math.inf)
    assert claims.take(9) == []
    assert claims.next_due == NOW + 60
    assert claims.look() == frozenset()


def test_a_look_that_crosses_an_operators_change_is_done_again() -> None:
    claims = looked()
    claims.look()
    claims.doubt()
    claims.found([entry("A")], [], math.inf)
    assert claims.take(9) == []
    assert claims.next_due == -math.inf
    assert claims.look() == frozenset()
    claims.found([entry("A")], [], math.inf)
    assert keys(claims.take(9)) == [("A", 0)]


def test_doubt_gives_back_what_is_ready_and_keeps_what_is_claimed() -> None:
    claims = looked()
    for name in "AB":
        claims.accepting([entry(name)])
        claims.accepted([entry(name)], NOW)
    claims.take(1)
    claims.doubt()
    assert claims.look() == {("A", 0)}
    assert claims.claimed(("A", 0))
    assert not claims.claimed(("B", 0))


def test_a_failed_accept_leaves_nothing() -> None:
    claims = looked()
    claims.accepting([entry("A")])
    claims.refused([entry("A")])
    assert claims.look() == frozenset()


def test_what_has_no_room_is_left_to_the_next_look() -> None:
    claims = looked()
    many = [entry(f"M{n}", NOW - 1) for n in range(READY + 1)]
    claims.accepting(many)
    claims.accepted(many, NOW)
    assert claims.ready == 0
    assert claims.next_due == NOW - 1
    claims.accepting([entry("A")])
    claims.accepted([entry("A")], NOW)
    assert claims.take(9) == []


def test_what_cannot_be_read_is_not_brought_again() -> None:
    claims = Claims()
    claims.look()
    claims.found([], [("A", 0)], math.inf)
    assert claims.look() == {("A", 0)}


def test_what_is_settled_is_forgotten() -> None:
    """A relay that always keeps up never looks at the database again: nothing may pile up meanwhile."""
    claims = looked()
    for number in range(1000):
        one = entry(f"M{number}")
        claims.accepting([one])
        claims.accepted([one], NOW)
        (taken,) = claims.take(9)
        claims.settled((taken.message.id, taken.number), None)
    assert sum(len(kept) for kept in vars(claims).values() if hasattr(kept, "__len__")) == 0


def at(name: str, endpoint: str) -> Entry:
    one = entry(name)
    return replace(one, delivery=replace(one.delivery, kind=Kind.ENDPOINT, endpoint=endpoint))


def test_what_is_left_out_waits_in_the_database() -> None:
    claims = looked()
    for one in (at("A", "slow"), at("B", "quick")):
        claims.accepting([one])
        claims.accepted([one], NOW)
    claims.leave_out(frozenset({"endpoint slow"}))
    assert keys(claims.take(9)) == [("B", 0)]
    claims.accepting([at("C", "slow")])
    claims.accepted([at("C", "slow")], NOW)
    assert (claims.take(9), claims.next_due) == ([], math.inf)
    claims.leave_out(frozenset())
    assert claims.next_due == -math.inf
    assert claims.look() == {("B", 0)}
    claims.found([at("A", "slow"), at("C", "slow")], [], math.inf)
    assert keys(claims.take(9)) == [("A", 0), ("C", 0)]


def test_a_claim_is_doubtful_after_a_change_until_it_was_looked_over() -> None:
    claims = looked()
    for name in "AB":
        claims.accepting([entry(name)])
        claims.accepted([entry(name)], NOW)
    both = claims.take(9)
    assert not claims.doubtful(both)
    claims.doubt()
    assert claims.doubtful(both)
    claims.looked_over(both[:1], both[1:], claims.doubts)
    assert not claims.doubtful(both[:1])
    assert (claims.claimed(("A", 0)), claims.claimed(("B", 0))) == (True, False)
    assert claims.look() == {("A", 0)}
