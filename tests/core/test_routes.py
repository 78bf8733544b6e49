"""Which addresses a route claims, for whom, and what routes say of each other."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.address import Address
from smtproute.core.decide import Facts, decide
from smtproute.core.envelope import Client, Envelope
from smtproute.core.permit import inside
from smtproute.core.plan import Step, Tried
from smtproute.core.routes import (
    Form,
    Route,
    RouteError,
    Target,
    covers,
    matching,
    opens,
    parse_match,
    parse_sender,
    shadows,
)
from smtproute.core.settings import Listener, Mode, Role
from tests.core.routing import envelope, routing

CAPTURE = Target(Mode.CAPTURE)


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
    with pytest.raises(RouteError):
        parse_sender(text)


def test_the_null_reverse_path_is_a_sender_and_no_recipient() -> None:
    assert parse_sender("<>").form is Form.NULL
    with pytest.raises(RouteError):
        parse_match("<>")


def test_the_whole_address_goes_before_the_one_without_detail() -> None:
    routes = (
        Route("route[0]", parse_match("a@x.example"), Target(Mode.CAPTURE)),
        Route("route[1]", parse_match("a+tag@x.example"), Target(Mode.REJECT)),
    )
    found = matching(routes, Address.parse("a+tag@x.example"), "+", envelope())
    assert found is not None and found.rule == "route[1]"
    found = matching(routes, Address.parse("a+other@x.example"), "+", envelope())
    assert found is not None and found.rule == "route[0]"
    assert matching(routes, Address.parse("a+other@x.example"), "", envelope()) is None


def test_a_pattern_that_passes_its_limit_is_an_error() -> None:
    with pytest.raises(RouteError, match="match limit"):
        parse_match("regex:(a+)+[0-9]@x.example").holds(Address.parse("a" * 60 + "@x.example"))


# Conditions


@pytest.mark.parametrize(
    ("sender", "reverse_path", "holds"),
    [
        ("*", "a@x.example", True),
        ("*", None, True),
        ("<>", None, True),
        ("<>", "a@x.example", False),
        ("*@x.example", "A@X.example", True),
        ("*@x.example", None, False),
        ("regex:.*", None, False),
        ("regex:.*", "a@x.example", True),
        ("*@*.example", None, False),
        ("a@x.example", "a+detail@x.example", True),
        ("a+detail@x.example", "a+detail@x.example", True),
        ("a+detail@x.example", "a+other@x.example", False),
        ("a@x.example", "b+a@x.example", False),
    ],
)
def test_senders(sender: str, reverse_path: str | None, holds: bool) -> None:
    route = Route("route[0]", parse_match("*"), CAPTURE, sender=parse_sender(sender))
    found = matching((route,), Address.parse("to@y.example"), "+", envelope(sender=reverse_path))
    assert (found is route) is holds


def test_a_step_names_the_condition_that_does_not_hold() -> None:
    match = parse_match("*@x.example")
    networks = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))
    routes = (
        Route("route[0]", parse_match("*@y.example"), CAPTURE, listener="elsewhere"),
        Route("route[1]", match, CAPTURE, sender=parse_sender("*@example.org")),
        Route("route[2]", match, CAPTURE, clients=networks),
        Route("route[3]", match, CAPTURE, listener="application"),
        Route("route[4]", match, CAPTURE, sender=parse_sender("*"), clients=(ip_network("192.0.2.1"),), listener="mx"),
    )
    steps: list[Step] = []
    to = Address.parse("to@x.example")
    matching(routes, to, "+", envelope(sender="a@b.example"), steps)
    assert [(step.rule, step.result, step.why, step.conditional) for step in steps] == [
        ("route[0]", Tried.SKIPPED, "*@y.example does not match", False),
        ("route[1]", Tried.SKIPPED, "sender a@b.example is not *@example.org", True),
        ("route[2]", Tried.SKIPPED, "client 192.0.2.1 is not in 10.0.0.0/8, 2001:db8::/32", True),
        ("route[3]", Tried.SKIPPED, "listener mx is not application", True),
        ("route[4]", Tried.MATCHED, "*@x.example matches, sender *, client 192.0.2.1/32, listener mx", True),
    ]
    steps.clear()
    own = Envelope(Client("127.0.0.1", 0, "", Role.TRUSTED, trusted=True), None)
    assert matching(routes, to, "+", own, steps) is None
    assert [step.why for step in steps[1::2]] == [
        "sender <> is not *@example.org",
        "listener (none) is not application",
    ]


matches = st.sampled_from(
    [
        "*",
        "*@x.example",
        "*@y.example",
        "*@*.example",
        "*@*.x.example",
        "*@sub.x.example",
        "a@x.example",
        "a+t@x.example",
        "b@sub.x.example",
        r"regex:.*@x\.example",
        "regex:a.*",
    ]
)
networks = st.sampled_from(
    ["127.0.0.0/8", "127.0.0.1", "192.0.2.0/24", "192.0.2.1", "0.0.0.0/0", "2001:db8::/32", "2001:db8::1", "::/0"]
).map(ip_network)
routes_made = st.builds(
    Route,
    st.just("route[0]"),
    matches.map(parse_match),
    st.sampled_from([CAPTURE, Target(Mode.REJECT), Target(Mode.HOLD, "x"), Target(Mode.BOUNCE)]),
    st.none() | (matches | st.just("<>")).map(parse_sender),
    st.lists(networks, max_size=2).map(tuple),
    st.sampled_from(["", "mx", "sub"]),
)
several = st.lists(routes_made, max_size=5).map(
    lambda made: tuple(replace(each, rule=f"route[{number}]") for number, each in enumerate(made))
)
addresses = st.sampled_from(
    ["a@x.example", "a+t@x.example", "a+u@x.example", "b@sub.x.example", "c@y.example", "d@far.test"]
).map(Address.parse)
envelopes = st.builds(
    Envelope,
    st.builds(
        Client,
        st.sampled_from(["127.0.0.1", "127.0.0.2", "192.0.2.1", "192.0.2.9", "::ffff:192.0.2.1", "2001:db8::1"]),
        st.just(0),
        st.sampled_from(["", "mx", "sub"]),
        st.just(Role.INBOUND),
        st.just(False),
    ),
    st.none() | addresses,
)


def holds(route: Route, who: Envelope) -> bool:
    """Whether all its conditions do, asked one by one."""
    sender, bare = who.reverse_path, who.reverse_path and who.reverse_path.without_detail("+")
    if route.sender is None or route.sender.text == "*":
        sent = True
    elif sender is None:
        sent = route.sender.text == "<>"
    else:
        sent = any(each is not None and route.sender.holds(each) for each in (sender, bare))
    there = not route.clients or inside(who.client.ip, route.clients)
    return sent and there and route.listener in ("", who.client.listener)


@given(several, addresses, envelopes)
def test_the_first_in_file_order_whose_conditions_hold(
    routes: tuple[Route, ...], address: Address, who: Envelope
) -> None:
    bare = address.without_detail("+")
    asked = (address,) if bare is None else (address, bare)
    expected = [each for one in asked for each in routes if each.match.holds(one) and holds(each, who)]
    steps: list[Step] = []
    found = matching(routes, address, "+", who, steps)
    assert found == next(iter(expected), None)
    assert [step.rule for step in steps if step.result is Tried.MATCHED] == ([found.rule] if found else [])
    unconditional = tuple(each for each in routes if not each.conditions)
    if found is None:
        assert matching(unconditional, address, "+", who) is None


@given(several, addresses, envelopes)
def test_conditions_never_widen(routes: tuple[Route, ...], address: Address, who: Envelope) -> None:
    """What a route permits strangers with conditions, it permits without; a sender condition permits nobody."""
    permitted = matching(routes, address, "+", who, strangers=True)
    if permitted is not None:
        assert permitted.sender is None and holds(permitted, who)
        lifted = tuple(replace(each, clients=(), listener="") for each in routes)
        assert matching(lifted, address, "+", who, strangers=True) is not None
    anybody = tuple(replace(each, sender=parse_sender("*")) for each in routes)
    assert matching(anybody, address, "+", who, strangers=True) is None


@given(several, addresses, envelopes)
def test_no_sender_opens_a_route_to_strangers(routes: tuple[Route, ...], address: Address, who: Envelope) -> None:
    """Whoever a stranger claims to be, the same recipients are refused."""
    tables = replace(routing(), routes=routes)
    denied = decide(Facts(tables, now=0.0), who, address).reply.code == 554
    for sender in (None, Address.parse("a@x.example"), Address.parse("b@sub.x.example")):
        assert (decide(Facts(tables, now=0.0), replace(who, reverse_path=sender), address).reply.code == 554) is denied
    assert denied is (matching(tuple(each for each in routes if each.sender is None), address, "+", who) is None)


def test_a_route_that_rejects_lets_no_forged_sender_in() -> None:
    """Not even where a route before it would take mail of that sender."""
    partner = parse_match("*@partner.example")
    ours = Route("route[0]", partner, Target(Mode.ENDPOINT, "partner"), parse_sender("*@ours.example"))
    rejects = Route("route[1]", partner, Target(Mode.REJECT))
    tables = Facts(replace(routing(), routes=(ours, rejects)), now=0.0)
    address = Address.parse("x@partner.example")
    for sender in ("forged@ours.example", "x@else.example"):
        refused = decide(tables, envelope(sender=sender), address)
        assert (refused.reply.code, refused.reply.enhanced, refused.deliveries) == (550, "5.7.1", ())
    (copy,) = decide(tables, envelope(trusted=True, sender="a@ours.example"), address).deliveries
    assert copy.endpoint == "partner"


@given(matches, matches, addresses)
def test_what_covers_holds_wherever_the_other_does(wide: str, narrow: str, address: Address) -> None:
    if covers(parse_match(wide), parse_match(narrow)) and parse_match(narrow).holds(address):
        assert parse_match(wide).holds(address)


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        ("*", "regex:a@x.example", True),
        ("*@x.example", "a@x.example", True),
        ("*@x.example", "*@X.example", True),
        ("*@*.example", "*@x.example", True),
        ("*@*.example", "a@x.example", True),
        ("*@*.example", "*@*.x.example", True),
        ("*@*.x.example", "*@x.example", False),
        ("*@x.example", "*@*.x.example", False),
        ("*@*.xample", "*@x.example", False),
        ("regex:a.*", "regex:a.*", True),
        ("regex:a.*", "a@x.example", True),
        ("regex:.*", "*@x.example", False),
        ("a@x.example", "*@x.example", False),
        ("a@x.example", "a+t@x.example", False),
    ],
)
def test_what_covers_what(wide: str, narrow: str, covered: bool) -> None:
    assert covers(parse_match(wide), parse_match(narrow)) is covered


@given(routes_made, routes_made, addresses, envelopes)
def test_nothing_comes_to_a_route_behind_one_that_shadows_it(
    earlier: Route, later: Route, address: Address, who: Envelope
) -> None:
    later = replace(later, rule="route[1]")
    if shadows(earlier, later):
        assert matching((earlier, later), address, "+", who) is not later
    assert shadows(earlier, earlier)


@pytest.mark.parametrize("listener", ["", "mx", "application", "submission"])
@pytest.mark.parametrize("networks", [(), ("10.0.0.0/8",), ("0.0.0.0/0",), ("0.0.0.0/1", "128.0.0.0/1"), ("2000::/3",)])
@pytest.mark.parametrize("sender", [None, "*", "*@example.org", "<>"])
@pytest.mark.parametrize("match", ["*", "regex:.+@.+", "*@example.org"])
@pytest.mark.parametrize("inbound", [True, False])
def test_what_would_be_an_open_relay(
    match: str, sender: str | None, networks: tuple[str, ...], listener: str, inbound: bool
) -> None:
    """Judged by what becomes of a stranger's mail for an address that nobody names, at every listener."""
    route = Route(
        "route[0]",
        parse_match(match),
        CAPTURE,
        parse_sender(sender) if sender is not None else None,
        tuple(map(ip_network, networks)),
        listener,
    )
    listeners = {
        "application": Listener("application"),
        "submission": Listener("submission", role=Role.SUBMISSION),
        **({"mx": Listener("mx", role=Role.INBOUND)} if inbound else {}),
    }
    open_by = {
        each.name
        for each in listeners.values()
        for ip in ("192.0.2.1", "2600::1")
        for reverse_path in (None, Address.parse("a@example.org"))
        if decide(
            Facts(replace(routing(), routes=(route,)), now=0.0),
            Envelope(Client(ip, 0, each.name, each.role, trusted=False), reverse_path),
            Address.parse("somebody@far.test"),
        ).reply.positive
    }
    assert opens(route, listeners) == next(iter(open_by), "")
