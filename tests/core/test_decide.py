"""Permission and routing: every row of docs/design.md section 2."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.address import Address
from smtproute.core.aliases import Condition, PcreRule, PcreTable, direct
from smtproute.core.decide import Facts, Mailbox, Routing, decide, limited, weighed
from smtproute.core.envelope import Client, Envelope
from smtproute.core.plan import Delivery, Plan, Tried, distinct
from smtproute.core.quota import FULL, Quota, over
from smtproute.core.reply import Refusal
from smtproute.core.routes import Target
from smtproute.core.settings import Kind, Mode, Role
from tests.core.routing import HOST, envelope, routing, text_table

PARTNER = Target(Mode.ENDPOINT, "partner")
HOLD = Target(Mode.HOLD, "partner")
BOUNCE = Target(Mode.BOUNCE)
STRANGER = envelope()
TRUSTED = envelope(trusted=True, role=Role.TRUSTED)
MYNETWORKS = envelope(trusted=True, role=Role.INBOUND)


def plan(tables: Routing, recipient: str | None, who: Envelope = STRANGER) -> Plan:
    return decide(Facts(tables, now=0.0), who, Address.parse(recipient) if recipient is not None else None)


def copies(made: Plan) -> list[tuple[str, str, str]]:
    return [(str(each.kind), str(each.address), each.endpoint) for each in made.deliveries]


class TestPermission:
    tables = routing(
        {"alias@virtual.example": "me@ext.example", "foreign": "x@ext.example"},
        accounts=("anna@accounts.example",),
        domains=("written.example",),
        routes=(("*@routed.example", PARTNER), ("bob@one.example", PARTNER)),
        default=Target(Mode.ENDPOINT, "smarthost"),
    )

    def test_local_domains_are_those_of_domains_accounts_and_alias_keys(self) -> None:
        assert plan(self.tables, "alias@virtual.example").reply.code == 250
        assert plan(self.tables, "anna@accounts.example").reply.code == 250
        assert plan(self.tables, "nobody@written.example").reply.enhanced == "5.1.1"
        assert plan(self.tables, "nobody@virtual.example").reply.enhanced == "5.1.1"
        assert plan(self.tables, "nobody@accounts.example").reply.enhanced == "5.1.1"

    def test_a_stranger_may_send_to_local_domains_and_to_what_a_route_names(self) -> None:
        assert copies(plan(self.tables, "x@routed.example")) == [("endpoint", "x@routed.example", "partner")]
        assert plan(self.tables, "bob@one.example").reply.code == 250
        assert plan(self.tables, "bob+tag@one.example").reply.code == 250

    def test_all_else_is_denied_to_a_stranger_whatever_the_default_says(self) -> None:
        denied = plan(self.tables, "x@far.example")
        assert str(denied.reply).startswith("554 5.7.1 ")
        assert denied.deliveries == ()
        assert plan(self.tables, "alice@one.example").reply.code == 554
        assert plan(self.tables, "user@[192.0.2.9]").reply.code == 554

    def test_an_alias_hit_alone_makes_no_domain_local(self) -> None:
        tables = routing({"here@x.example": "y@x.example"}, accounts=("y@x.example",))
        assert plan(tables, "here@x.example").reply.code == 250
        from tests.core.test_aliases import pcre

        tables = routing(pcre((".*@far", ("y@x.example",))), accounts=("y@x.example",))
        assert plan(tables, "who@far.example").reply.code == 554

    def test_a_trusted_client_may_send_anywhere(self) -> None:
        for who in (TRUSTED, MYNETWORKS):
            assert copies(plan(self.tables, "x@far.example", who)) == [("endpoint", "x@far.example", "smarthost")]
            assert plan(self.tables, "nobody@written.example", who).reply.enhanced == "5.1.1"

    def test_the_result_of_an_alias_has_its_recipients_permission(self) -> None:
        assert copies(plan(self.tables, "alias@virtual.example")) == [("endpoint", "me@ext.example", "smarthost")]


class TestRouting:
    def test_alias_before_mailbox_before_route_before_unknown_before_default(self) -> None:
        everything = (("*@x.example", PARTNER),)
        alias = routing({"a@x.example": "b@ext.example"}, accounts=("a@x.example",), routes=everything)
        assert copies(plan(alias, "a@x.example")) == [("capture", "b@ext.example", "")]
        mailbox = routing({}, accounts=("a@x.example",), routes=everything)
        assert copies(plan(mailbox, "a@x.example")) == [("mailbox", "a@x.example", "")]
        route = routing({}, domains=("x.example",), routes=everything)
        assert copies(plan(route, "a@x.example")) == [("endpoint", "a@x.example", "partner")]
        unknown = routing({}, domains=("x.example",))
        assert str(plan(unknown, "a@x.example").reply).startswith("550 5.1.1 ")
        assert copies(plan(routing(), "a@x.example", TRUSTED)) == [("capture", "a@x.example", "")]

    def test_one_address_is_both_mailbox_and_alias(self) -> None:
        both = routing({"a@x.example": "a@x.example, me@ext.example"}, accounts=("a@x.example",), default=PARTNER)
        assert copies(plan(both, "a@x.example")) == [
            ("mailbox", "a@x.example", ""),
            ("endpoint", "me@ext.example", "partner"),
        ]

    def test_an_alias_of_the_accounts_name_without_itself_only_forwards(self) -> None:
        only = routing({"a@x.example": "me@ext.example"}, accounts=("a@x.example",))
        assert copies(plan(only, "a@x.example")) == [("capture", "me@ext.example", "")]

    def test_a_catch_all_steals_an_account_without_a_self_alias(self) -> None:
        stolen = routing({"@x.example": "all@x.example"}, accounts=("a@x.example", "all@x.example"))
        assert copies(plan(stolen, "a@x.example")) == [("mailbox", "all@x.example", "")]

    def test_a_mailbox_is_found_without_its_detail_and_the_address_stays(self) -> None:
        tables = routing({}, accounts=("a@x.example",))
        (delivery,) = plan(tables, "A+Tag@x.example").deliveries
        assert (str(delivery.address), str(delivery.mailbox)) == ("A+Tag@x.example", "a@x.example")

    def test_a_dead_branch_is_named_and_the_rest_accepted(self) -> None:
        tables = routing({"a@x.example": "gone@x.example, me@ext.example"})
        made = plan(tables, "a@x.example")
        assert made.reply.code == 250
        assert copies(made) == [("bounce", "gone@x.example", ""), ("capture", "me@ext.example", "")]
        assert "gone@x.example is a dead branch" in made.notes[0]

    def test_no_live_branch_is_refused(self) -> None:
        made = plan(routing({"a@x.example": "gone@x.example, lost@x.example"}), "a@x.example")
        assert str(made.reply).startswith("550 5.1.1 ")
        assert made.deliveries == ()

    def test_reject(self) -> None:
        tables = routing({}, domains=("x.example",), routes=(("no@x.example", Target(Mode.REJECT)),))
        assert str(plan(tables, "no@x.example").reply).startswith("550 5.7.1 ")

    def test_hold_keeps_for_its_endpoint_or_to_be_captured(self) -> None:
        tables = routing(routes=(("*@x.example", HOLD), ("*@y.example", Target(Mode.HOLD))))
        (later,) = plan(tables, "a@x.example").deliveries
        assert (later.kind, later.endpoint, later.held, later.told) == (Kind.ENDPOINT, "partner", True, "hold")
        (later,) = plan(tables, "a@y.example").deliveries
        assert (later.kind, later.endpoint, later.held, later.told) == (Kind.CAPTURE, "", True, "hold")

    def test_what_is_bounced_on_purpose_is_accepted_and_no_dead_branch(self) -> None:
        many = {"all@x.example": "back@x.example, gone@x.example", "one@x.example": "gone@x.example"}
        tables = routing(many, routes=(("back@x.example", BOUNCE),))
        made = plan(tables, "back@x.example")
        assert (made.reply.code, made.notes) == (250, ())
        assert [(copy.told, copy.dead) for copy in made.deliveries] == [("bounce", False)]
        made = plan(tables, "all@x.example")
        assert [copy.dead for copy in made.deliveries] == [False, True]
        assert len(made.notes) == 1 and "gone@x.example is a dead branch" in made.notes[0]
        assert plan(tables, "one@x.example").reply.code == 550

    def test_postmasters_mail_is_captured_where_a_route_would_send_it_back(self) -> None:
        tables = routing(routes=((f"postmaster@{HOST}", BOUNCE),))
        assert copies(plan(tables, None)) == [("capture", f"postmaster@{HOST}", "")]
        tables = routing(routes=((f"postmaster@{HOST}", HOLD),))
        assert copies(plan(tables, None)) == [("endpoint", f"postmaster@{HOST}", "partner")]

    def test_what_can_be_kept_wins_over_what_is_bounced(self) -> None:
        a, b = Address.parse("a@x.example"), Address.parse("b@x.example")
        back = Delivery(Kind.BOUNCE, a, a, refusal=Refusal(FULL, "routing"), deliberate=True)
        kept = Delivery(Kind.CAPTURE, a, b)
        both = tuple(Plan(each.recipient, FULL, (), (each,)) for each in (back, kept))
        assert distinct(both) == distinct(both[::-1]) == (kept,)

    def test_a_loop_is_refused_for_now_and_its_path_kept_for_the_trace(self) -> None:
        made = plan(routing({"a@x.example": "b@x.example", "b@x.example": "a@x.example"}), "a@x.example")
        assert made.reply.code == 451 and made.reply.enhanced == "4.4.6"
        assert "a@x.example" not in made.reply.text
        assert made.refusal is not None and "a@x.example -> b@x.example -> a@x.example" in made.refusal.detail

    def test_postmaster_is_always_accepted(self) -> None:
        assert copies(plan(routing(), None)) == [("capture", f"postmaster@{HOST}", "")]
        known = routing({"postmaster": "a@x.example"}, accounts=("a@x.example",))
        assert copies(plan(known, None)) == [("mailbox", "a@x.example", "")]
        assert copies(plan(routing(default=PARTNER), None)) == [("capture", f"postmaster@{HOST}", "")]
        broken = routing(text_table({}, fault="duplicate key"))
        assert plan(broken, None).reply.code == 250

    def test_a_pattern_that_gives_up_is_temporary(self) -> None:
        tables = routing(routes=(("regex:(a+)+[0-9]@x.example", PARTNER),))
        assert plan(tables, "a" * 60 + "@x.example").reply.code == 451

    def test_two_recipients_that_meet_give_one_copy(self) -> None:
        tables = routing({"a@x.example": "c@x.example", "b@x.example": "C@x.example"}, accounts=("c@x.example",))
        plans = (plan(tables, "a@x.example"), plan(tables, "b@x.example"))
        assert [str(each.recipient) for each in distinct(plans)] == ["a@x.example"]

    def test_every_step_names_its_rule(self) -> None:
        tables = routing({"a@x.example": "b@x.example"}, accounts=("b@x.example",))
        matched = [(s.rule, s.tried) for s in plan(tables, "a@x.example").steps if s.result is Tried.MATCHED]
        assert matched == [
            ("postfix-accounts.cf:1", "x.example"),
            ("postfix-virtual.cf:1", "a@x.example"),
            ("postfix-accounts.cf:1", "b@x.example"),
        ]


names = st.sampled_from([f"{local}@{domain}" for local in "abc" for domain in ("x.example", "y.example")])
tables = st.dictionaries(names | st.just("@x.example"), st.lists(names, min_size=1, max_size=3).map(", ".join))
targets = st.sampled_from([Target(Mode.CAPTURE), Target(Mode.REJECT), PARTNER, HOLD, BOUNCE])


@given(
    tables,
    st.lists(names, max_size=3, unique=True),
    st.lists(st.tuples(names | st.sampled_from(["*@x.example", "*@*.example"]), targets), max_size=3),
    st.lists(names, min_size=1, max_size=4),
    st.booleans(),
    targets,
)
def test_any_tables(
    table: dict[str, str],
    accounts: list[str],
    routes: list[tuple[str, Target]],
    recipients: list[str],
    trusted: bool,
    default: Target,
) -> None:
    made = routing(table, accounts=tuple(accounts), routes=tuple(routes), default=default)
    plans = tuple(plan(made, recipient, TRUSTED if trusted else STRANGER) for recipient in recipients)
    for each in plans:
        assert (each.refusal is None) == each.reply.positive == bool(each.deliveries)
        assert not each.deliveries or any(not copy.dead for copy in each.deliveries)
        assert all(copy.kind is not Kind.BOUNCE or copy.refusal is not None for copy in each.deliveries)
    final = [copy.address.key for copy in distinct(tuple(each for each in plans if each.refusal is None))]
    assert len(final) == len(set(final))
    for recipient, each in zip(recipients, plans, strict=True):
        kept = recipient in accounts and recipient in table.get(recipient, "").split(", ")
        if kept and each.refusal is None:
            assert any(copy.kind is Kind.MAILBOX and copy.address.key == recipient for copy in each.deliveries)


def held(made: Routing, usage: dict[str, int], recipient: str, size: int) -> Plan:
    return decide(Facts(made, usage, now=0.0), replace(STRANGER, size=size), Address.parse(recipient))


@given(
    tables,
    st.lists(names, min_size=1, max_size=4, unique=True),
    st.dictionaries(names, st.integers(0, 250)),
    names,
    st.integers(0, 60),
)
def test_quota_refuses_where_all_live_copies_are_for_full_mailboxes(
    table: dict[str, str], accounts: list[str], usage: dict[str, int], recipient: str, size: int
) -> None:
    quota = Quota(100, rule="dovecot-quotas.cf:1")
    made = routing(table, accounts=tuple(accounts), default=PARTNER)
    boxes = {key: Mailbox(box.address, box.rule, quota) for key, box in made.mailboxes.items()}
    made = replace(made, mailboxes=boxes, full=FULL)
    empty = held(made, {}, recipient, size)
    plan_now = held(made, usage, recipient, size)
    assert (
        weighed(empty, Facts(made, usage, now=0.0), replace(STRANGER, size=size), Address.parse(recipient)) == plan_now
    )
    if empty.refusal is not None:
        assert plan_now.reply == empty.reply
        return
    live = [copy for copy in empty.deliveries if copy.kind is not Kind.BOUNCE]
    full = [
        copy
        for copy in live
        if copy.mailbox is not None and copy.mailbox.key in usage and over(quota, usage[copy.mailbox.key], size)
    ]
    if len(full) == len(live):
        assert plan_now.reply == FULL and plan_now.deliveries == ()
    else:
        assert plan_now.deliveries == empty.deliveries  # the full mailbox's copy waits in the queue
        assert len(plan_now.notes) == len(empty.notes) + len(full)
    assert {account.key for account in limited(empty, made)} == {box.mailbox.key for box in live if box.mailbox}


def test_a_full_mailbox_beside_what_is_bounced_on_purpose_waits() -> None:
    made = routing(
        {"both@x.example": "a@x.example, back@x.example"},
        accounts=("a@x.example",),
        routes=(("back@x.example", BOUNCE),),
    )
    boxes = {key: replace(box, quota=Quota(100)) for key, box in made.mailboxes.items()}
    judged = held(replace(made, mailboxes=boxes, full=FULL), {"a@x.example": 100}, "both@x.example", 1)
    assert (judged.reply.code, len(judged.deliveries)) == (250, 2)


def test_full_mailboxes_of_a_plan_with_a_dead_branch() -> None:
    """Where it is refused, nobody is promised a DSN; `RCPT TO:<Postmaster>` is captured."""
    made = routing(
        {"both@x.example": "a@x.example, gone@x.example", f"postmaster@{HOST}": "a@x.example"},
        accounts=("a@x.example",),
    )
    boxes = {key: replace(box, quota=Quota(100)) for key, box in made.mailboxes.items()}
    made = replace(made, mailboxes=boxes, full=FULL)
    usage = {"a@x.example": 100}
    assert any("DSN" in note for note in plan(made, "both@x.example").notes)
    refused = decide(Facts(made, usage, now=0.0), STRANGER, Address.parse("both@x.example"))
    assert (refused.reply, refused.deliveries, refused.notes) == (FULL, (), ())
    captured = weighed(plan(made, None), Facts(made, usage, now=0.0), STRANGER, None)
    assert captured == decide(Facts(made, usage, now=0.0), STRANGER, None)
    assert (captured.reply.code, copies(captured)) == (250, [("capture", f"postmaster@{HOST}", "")])


class Counted:
    """A pattern that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def search(self, subject: bytes) -> None:
        self.asked.append(subject)


def test_a_domain_is_asked_for_its_claim_once_in_a_decision() -> None:
    pattern = Counted()
    table = PcreTable("postfix-regexp.cf", (PcreRule(1, Condition("/x/", pattern), ("a@x.example",)),))
    many = {"all@x.example": " ".join(f"{local}@{domain}.example" for local in "abc" for domain in "xyz")}
    made = routing(many, table, accounts=("z@x.example",))
    made = replace(made, aliases=replace(made.aliases, alias_domains=None))
    assert len(plan(made, "all@x.example", TRUSTED).deliveries) == 9
    assert sorted(each for each in pattern.asked if b"@" not in each) == [b"x.example", b"y.example", b"z.example"]


foreign = st.sampled_from(["a@far.example", "b@far.example", "a@deep.far.example"])


@given(
    tables,
    st.dictionaries(foreign | names, st.lists(names | foreign, min_size=1, max_size=2).map(" ".join)),
    st.lists(names, max_size=3, unique=True),
    foreign,
    targets,
)
def test_no_alias_opens_a_foreign_domain_to_strangers(
    table: dict[str, str], more: dict[str, str], accounts: list[str], recipient: str, default: Target
) -> None:
    """Neither local nor claimed nor routed: whatever the aliases say."""
    made = routing(table, more, accounts=tuple(accounts), routes=(("*@routed.example", PARTNER),), default=default)
    local = {domain: rule for domain, rule in made.local_domains.items() if "far.example" not in domain}
    refused = plan(replace(made, local_domains=local), recipient)
    assert refused.reply.code == 554 and refused.deliveries == ()


@given(
    tables,
    st.lists(names, min_size=1, max_size=3, unique=True),
    names,
    names | foreign,
    st.sampled_from(["", "+t"]),
    names | foreign,
)
def test_spoof_protection_lets_no_login_send_as_what_it_does_not_own(
    table: dict[str, str], accounts: list[str], login: str, sender: str, detail: str, recipient: str
) -> None:
    made = replace(routing(table, accounts=tuple(accounts)), spoof_protection=True)
    local, _, domain = sender.partition("@")
    reverse_path = Address.parse(f"{local}{detail}@{domain}")
    client = Client("192.0.2.1", 4711, "submission", Role.SUBMISSION, False, login=Address.parse(login))
    judged = decide(Facts(made, now=0.0), Envelope(client, reverse_path), Address.parse(recipient))
    owners = {name.lower() for _, name in direct(made.aliases, reverse_path)} | {reverse_path.key}
    if login not in owners:
        assert judged.reply.code == 553 and judged.deliveries == ()
    else:
        assert judged.reply.code != 553


def test_an_address_that_has_another_inside_it_is_for_trusted_clients() -> None:
    tables = routing({"@x.example": "all@x.example"}, accounts=("all@x.example",))
    for recipient in ("a%far.example@x.example", "far.example!a@x.example", '"a@far.example"@x.example'):
        assert plan(tables, recipient).reply.code == 554
        assert plan(tables, recipient, TRUSTED).reply.code == 250
