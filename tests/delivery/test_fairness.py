"""Lanes: whose turn it is, and for whom there is room."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.address import Address
from smtproute.core.envelope import Client, Envelope
from smtproute.core.plan import Delivery
from smtproute.core.seals import Seal
from smtproute.core.settings import Kind, Role
from smtproute.delivery.attempt import Job
from smtproute.delivery.lanes import Claimed, Lane, Queued
from smtproute.spool.queue import Entry, Message, State, left_out

CLIENT = Client("127.0.0.1", 1, "app", Role.TRUSTED, trusted=True)
TO = Address.parse("x@to.example")


def queued(sender: str, domain: str = "", deliveries: int = 1, endpoint: str = "far") -> Queued:
    reverse_path = Address.parse(f"x@{sender}") if sender != "<>" else None
    message = Message("A", 0.0, Envelope(CLIENT, reverse_path), 1)
    recipient = Address.parse(f"x@{domain}") if domain else TO
    delivery = Delivery(Kind.ENDPOINT, recipient, recipient, endpoint)
    entries = [Entry(message, number, delivery, State.QUEUED, 0, 0.0) for number in range(deliveries)]
    return Queued(Job(message, entries, reverse_path, Seal()), delivery.place, entries[0].sender, domain)


def taken(lane: Lane) -> list[Queued]:
    found = []
    while (one := lane.take()) is not None:
        found.append(one)
        lane.done(one)
    return found


def test_one_letter_does_not_wait_for_a_newsletter() -> None:
    lane = Lane(1)
    bulk = [queued("bulk.example") for _ in range(10_000)]
    for one in bulk:
        lane.put(one)
    in_flight = lane.take()
    assert in_flight is bulk[0]
    for sender in ("person.example", "<>"):
        lane.put(queued(sender))
    assert [one.sender for one in (lane.take(), lane.take(), lane.take()) if one] == [
        "bulk.example",
        "person.example",
        "<>",
    ]
    assert taken(lane) == bulk[2:]


def test_the_recipients_domains_take_turns_within_their_senders_turn() -> None:
    lane = Lane(1)
    for n in range(1000):
        lane.put(queued("bulk.example", f"d{n % 4}.example"))
    lane.put(queued("person.example", "d0.example"))
    first = taken(lane)[:6]
    assert [(one.sender, one.domain) for one in first] == [
        ("bulk.example", "d0.example"),
        ("person.example", "d0.example"),
        ("bulk.example", "d1.example"),
        ("bulk.example", "d2.example"),
        ("bulk.example", "d3.example"),
        ("bulk.example", "d0.example"),
    ]


def test_a_dead_domain_holds_half_of_the_lane_at_most() -> None:
    lane = Lane(4)
    dead = [queued("bulk.example", "dead.example") for _ in range(9)]
    live = [queued("bulk.example", "live.example"), queued("person.example", "live.example")]
    for one in (*dead, *live):
        lane.put(one)
    assert [lane.take() for _ in range(5)] == [dead[0], live[1], live[0], dead[1], None]
    lane.done(dead[0])
    assert [lane.take(), lane.take()] == [dead[2], None]


names = st.sampled_from(["a.example", "b.example", "c.example", "<>"])
steps = st.lists(st.one_of(st.none(), st.tuples(names, st.sampled_from(["", "d.example", "e.example"]))), max_size=60)


@given(steps)
def test_nobody_is_passed_over_twice(steps: list[tuple[str, str] | None]) -> None:
    """While a domain waits, no other has a second turn; each domain's own jobs stay in order, and none is lost."""
    lane, waiting, out = Lane(1), [], []
    since: dict[str, Counter[str]] = {}
    for step in steps:
        if step is not None:
            one = queued(*step)
            lane.put(one)
            waiting.append(one)
            since.setdefault(one.sender, Counter())
            continue
        next_one = lane.take()
        if next_one is not None:
            lane.done(next_one)
        assert (next_one is None) == (not waiting)
        if next_one is None:
            continue
        group = (next_one.sender, next_one.domain)
        assert next(one for one in waiting if (one.sender, one.domain) == group) is next_one
        waiting.remove(next_one)
        out.append(next_one)
        for sender, turns in since.items():
            if sender != next_one.sender:
                turns[next_one.sender] += 1
                assert turns[next_one.sender] <= 1
        del since[next_one.sender]
        if any(one.sender == next_one.sender for one in waiting):
            since[next_one.sender] = Counter()
    assert len(out) + len(taken(lane)) == sum(step is not None for step in steps)


def filled(claimed: Claimed, *jobs: Queued) -> list[Queued]:
    for one in jobs:
        claimed.add(one)
    return list(jobs)


def test_a_sender_fills_its_own_share() -> None:
    claimed = Claimed()
    bulk = filled(claimed, *(queued("bulk.example") for _ in range(500)))
    assert claimed.full == {"endpoint far/bulk.example"}
    assert left_out(bulk[0].job.entries[0].place, claimed.full)
    for other in (queued("person.example"), queued("bulk.example", endpoint="near")):
        assert not left_out(other.job.entries[0].place, claimed.full)
    assert [claimed.remove(one) for one in bulk[:250]] == [False] * 249 + [True]
    assert (claimed.full, claimed.room) == (frozenset(), 39_750)


def test_an_endpoint_that_hangs_fills_its_own_share_whoever_sends() -> None:
    claimed = Claimed()
    filled(claimed, *(queued(f"d{n}.example") for n in range(2000)))
    assert claimed.full == {"endpoint far"}
    assert left_out(queued("person.example").job.entries[0].place, claimed.full)
    assert not left_out(queued("person.example", endpoint="near").job.entries[0].place, claimed.full)


def test_a_dead_domain_fills_its_own_share_where_it_chooses_the_server() -> None:
    claimed = Claimed()
    dead = filled(claimed, *(queued("bulk.example", "dead.example") for _ in range(100)))
    assert claimed.full == {"endpoint far/bulk.example/dead.example"}
    assert left_out(dead[0].job.entries[0].place, claimed.full)
    assert not left_out(queued("bulk.example", "live.example").job.entries[0].place, claimed.full)


def test_beyond_the_window_nothing_is_claimed_until_half_is_done() -> None:
    claimed = Claimed()
    all_jobs = filled(claimed, *(queued("x.example", endpoint=f"e{n}", deliveries=400) for n in range(100)))
    assert claimed.room == 0
    assert [claimed.remove(one) for one in all_jobs[:50]].index(True) == 49
    assert claimed.room == 20_000


@given(st.lists(st.tuples(names, st.sampled_from(["", "d.example"]), st.integers(1, 900)), max_size=8))
def test_what_is_done_leaves_no_trace(added: list[tuple[str, str, int]]) -> None:
    claimed = Claimed()
    jobs = filled(claimed, *(queued(*one) for one in added))
    for one in jobs:
        one.job.entries.clear()  # an operator has taken them out meanwhile
        claimed.remove(one)
    assert (claimed.full, claimed.room, vars(claimed)["_counts"]) == (frozenset(), 40_000, Counter())
