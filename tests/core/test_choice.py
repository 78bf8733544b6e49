"""Choice and health: which addresses are tried in which order, which are passed over, and for how long they rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.choice import MOST, Candidate, Choice, Found, Looked, Resolution, Resolved, Spot, order, rotated
from smtproute.core.health import LONGEST, Rest, rested
from smtproute.core.outcome import Answer, Stage, unwell
from smtproute.core.reply import Reply
from smtproute.core.settings import Balance, Family, Server, Source

NOW = 1000.0
IPS = ("192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2")


def looked(host: str, *ips: str, backup: bool = False) -> Looked:
    found = tuple(Found(ip, Source.DNS) for ip in ips)
    return Looked(Server(host), Resolved(host, Resolution.OK if found else Resolution.NXDOMAIN, found), backup)


def shown(choice: Choice) -> list[str]:
    return [f"{each.server.host} {each.ip}" for each in choice.candidates]


addresses = st.lists(st.sampled_from(IPS), max_size=4)
endpoints = st.lists(
    st.builds(
        lambda host, ips, backup: looked(host, *ips, backup=backup), st.sampled_from("ab"), addresses, st.booleans()
    ),
    max_size=6,
)
rest = st.builds(Rest, st.integers(1, 20), st.floats(NOW - 100, NOW + LONGEST), st.just("no"), st.booleans())


@given(
    endpoints,
    st.sampled_from(Balance),
    st.sampled_from(Family),
    st.integers(0, 1000),
    st.frozensets(st.sampled_from(IPS)),
    st.dictionaries(st.builds(lambda host, ip: (Server(host), ip), st.sampled_from("ab"), st.sampled_from(IPS)), rest),
)
def test_every_address_is_tried_once_or_passed_over_once(
    endpoint: list[Looked],
    balance: Balance,
    family: Family,
    turn: int,
    unroutable: frozenset[str],
    rests: Mapping[Spot, Rest],
) -> None:
    choice = order(endpoint, balance=balance, family=family, turn=turn, unroutable=unroutable, rests=rests, now=NOW)
    all_of_them = {(each.server, found.ip) for each in endpoint for found in each.resolved.addresses}
    told = [each.spot for each in choice.candidates] + [each.candidate.spot for each in choice.passed]
    assert Counter(told) == Counter(all_of_them)
    assert [each.backup for each in choice.candidates] == sorted(each.backup for each in choice.candidates)
    for candidate in choice.candidates:
        assert candidate.ip not in unroutable
        assert family is Family.ANY or (":" in candidate.ip) == (family is Family.IPV6)
        assert candidate.spot not in rests or not rests[candidate.spot].told(NOW)
    assert choice.probes == choice.candidates[: len(choice.probes)]
    assert all(each.spot in rests for each in choice.probes)
    assert all(each.why for each in choice.passed)


def test_one_attempt_tries_a_bounded_number_and_the_backups_all_the_same() -> None:
    many = looked("many", *(f"192.0.2.{n}" for n in range(200)))
    backups = looked("backup", *(f"198.51.100.{n}" for n in range(200)), backup=True)
    tried = order([many, backups]).candidates
    assert [each.backup for each in tried] == [False] * MOST + [True] * MOST
    resting = {each.spot: Rest(1, NOW + 1, "no") for each in tried}
    others = order([many, backups], rests=resting, now=NOW).candidates
    assert len(others) == 2 * MOST
    assert not {each.spot for each in others} & {each.spot for each in tried}


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_round_robin_is_fair_to_servers_and_to_their_addresses(sizes: list[int]) -> None:
    endpoint = [
        looked(f"s{number}", *(f"192.0.2.{number * 10 + each}" for each in range(size)))
        for number, size in enumerate(sizes)
    ]
    rounds = 6  # a multiple of each number of addresses
    turns = range(rounds * len(sizes))
    first = Counter(order(endpoint, balance=Balance.ROUND_ROBIN, turn=turn).candidates[0].spot for turn in turns)
    for each, size in zip(endpoint, sizes, strict=True):
        for found in each.resolved.addresses:
            assert first[each.server, found.ip] == rounds // size


def test_round_robin_step_by_step() -> None:
    endpoint = [
        looked("a", "192.0.2.1", "2001:db8::1"),
        looked("b", "192.0.2.2"),
        looked("s", "192.0.2.9", backup=True),
    ]
    rounds = [shown(order(endpoint, balance=Balance.ROUND_ROBIN, turn=turn)) for turn in range(5)]
    assert rounds == [
        ["a 192.0.2.1", "a 2001:db8::1", "b 192.0.2.2", "s 192.0.2.9"],
        ["b 192.0.2.2", "a 192.0.2.1", "a 2001:db8::1", "s 192.0.2.9"],
        ["a 2001:db8::1", "a 192.0.2.1", "b 192.0.2.2", "s 192.0.2.9"],
        ["b 192.0.2.2", "a 2001:db8::1", "a 192.0.2.1", "s 192.0.2.9"],
        ["a 192.0.2.1", "a 2001:db8::1", "b 192.0.2.2", "s 192.0.2.9"],
    ]


def test_failover_takes_no_turns() -> None:
    endpoint = [looked("a", "192.0.2.1", "192.0.2.2"), looked("b", "192.0.2.3")]
    assert {tuple(shown(order(endpoint, turn=turn))) for turn in range(6)} == {
        ("a 192.0.2.1", "a 192.0.2.2", "b 192.0.2.3")
    }


def test_a_server_that_rests_leaves_its_turns_to_all_others_alike() -> None:
    endpoint = [looked(host, f"192.0.2.{number}") for number, host in enumerate("abc", 1)]
    rests = {(Server("b"), "192.0.2.2"): Rest(1, NOW + 1, "no")}
    first = Counter(
        order(endpoint, balance=Balance.ROUND_ROBIN, turn=turn, rests=rests, now=NOW).candidates[0].server.host
        for turn in range(100)
    )
    assert first == {"a": 50, "c": 50}


def test_what_is_passed_over_says_why() -> None:
    spot = (Server("a"), "192.0.2.2")
    choice = order(
        [looked("a", "192.0.2.1", "192.0.2.2", "2001:db8::1"), looked("b", "192.0.2.3")],
        family=Family.IPV4,
        unroutable=frozenset({"192.0.2.1"}),
        rests={spot: Rest(3, NOW + 6.5, "connection refused")},
        now=NOW,
    )
    assert [str(each) for each in choice.passed] == [
        "a (dns, 192.0.2.1:25) no route",
        "a (dns, 192.0.2.2:25) rests for 7 s more after 3 failures: connection refused",
        "a (dns, [2001:db8::1]:25) IPv6, and family = ipv4",
    ]
    assert shown(choice) == ["b 192.0.2.3"]
    assert not choice.awaited
    (passed,) = order([looked("a", "192.0.2.1")], family=Family.IPV6).passed
    assert passed.why == "IPv4, and family = ipv6"


def test_a_socket_is_of_no_family() -> None:
    path = "/run/dovecot/lmtp"
    server = Looked(Server(path), Resolved(path, Resolution.OK, (Found(path, Source.WRITTEN),)))
    for family in Family:
        assert len(order([server], family=family).candidates) == 1


def test_one_message_probes_and_the_others_pass_over() -> None:
    endpoint = [looked("a", "192.0.2.1"), looked("b", "192.0.2.2"), looked("s", "192.0.2.9", backup=True)]
    a, b = (Server("a"), "192.0.2.1"), (Server("b"), "192.0.2.2")
    over = {spot: Rest(2, NOW - 1, "no") for spot in (a, b)}
    choice = order(endpoint, rests=over, now=NOW)
    assert shown(choice) == ["a 192.0.2.1", "b 192.0.2.2", "s 192.0.2.9"]
    assert [each.spot for each in choice.probes] == [a, b]
    taken = {spot: each.taken() for spot, each in over.items()}
    other = order(endpoint, rests=taken, now=NOW)
    assert (shown(other), other.probes, other.awaited) == (["s 192.0.2.9"], (), True)
    assert other.passed[0].why == "is tried by another message after 2 failures: no"


def test_behind_a_healthy_address_there_is_nothing_to_probe() -> None:
    """Whoever comes there has seen the healthy one fail, and needs it as much as the next."""
    endpoint = [looked("a", "192.0.2.1"), looked("b", "192.0.2.2")]
    choice = order(endpoint, rests={(Server("b"), "192.0.2.2"): Rest(1, NOW - 1, "no")}, now=NOW)
    assert shown(choice) == ["a 192.0.2.1", "b 192.0.2.2"]
    assert choice.probes == ()


@given(st.lists(st.floats(0, 200), max_size=30))
def test_pauses_grow_up_to_a_minute(waits: list[float]) -> None:
    now, before = NOW, None
    for wait in waits:
        now += wait
        resting = before is not None and before.lasts(now)
        after = rested(before, now, "no")
        if resting:
            assert after is before
        else:
            assert after.failures == (before.failures if before is not None else 0) + 1
            assert after.until - now == pytest.approx(min(LONGEST, 2.0 ** (after.failures - 1)))
        before = after


def test_the_first_pauses() -> None:
    now, rest, pauses = NOW, None, []
    for _ in range(8):
        rest = rested(rest, now, "no")
        pauses.append(rest.until - now)
        now = rest.until
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_clock_that_is_set_back_prolongs_nothing() -> None:
    resting = Rest(1, NOW + 1, "no")
    assert resting.told(NOW) == "rests for 1 s more after 1 failure: no"
    assert resting.told(NOW - 3600) == resting.told(NOW + 1) == ""


@given(st.lists(st.integers()), st.integers())
def test_rotated(items: list[int], by: int) -> None:
    assert sorted(rotated(items, by)) == sorted(items)
    assert not items or rotated(items, by)[0] == items[by % len(items)]


@pytest.mark.parametrize(
    ("answer", "ill"),
    [
        (Answer(Stage.CONNECT, None, "refused"), True),
        (Answer(Stage.GREETING, Reply(554, "", "no")), True),
        (Answer(Stage.EHLO, None, "silent"), True),
        (Answer(Stage.STARTTLS, None, "certificate refused"), True),
        (Answer(Stage.AUTH, Reply(535, "5.7.8", "who?")), True),
        (Answer(Stage.MAIL, None, "lost"), True),
        (Answer(Stage.RCPT, Reply(421, "4.3.2", "closing")), True),
        (Answer(Stage.CONTENT, Reply(421, "4.3.2", "closing")), True),
        (Answer(Stage.MAIL, Reply(451, "4.3.0", "later")), False),
        (Answer(Stage.MAIL, Reply(530, "5.7.0", "log in")), False),
        (Answer(Stage.MAIL, Reply(552, "5.3.4", "too large"), ours=True), False),
        (Answer(Stage.RCPT, None, "silent"), False),
        (Answer(Stage.DATA, None, "silent"), False),
        (Answer(Stage.CONTENT, None, "silent"), False),
        (Answer(Stage.CONTENT, Reply(250, "2.0.0", "yes")), False),
        (Answer(Stage.RESOLVE, None, "no address of the server any more"), False),
    ],
)
def test_which_failures_are_the_servers_own(answer: Answer, ill: bool) -> None:
    assert unwell(answer) is ill


def test_a_candidate_is_named_as_it_was_found() -> None:
    assert str(Candidate(Server("a", 26), "2001:db8::1", Source.STATIC)) == "a (static, [2001:db8::1]:26)"
