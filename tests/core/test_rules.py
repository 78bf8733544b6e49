"""The small rules: who is trusted, what is sealed, how answers are judged, when to try again, in which order."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.address import Address, Domain
from smtproute.core.choice import Found, Looked, Resolution, Resolved, order
from smtproute.core.outcome import Answer, Judgement, Stage, judge
from smtproute.core.permit import admits, trusts
from smtproute.core.plan import Delivery
from smtproute.core.reply import Refusal, Reply
from smtproute.core.retry import next_attempt
from smtproute.core.seals import plan_seal
from smtproute.core.settings import (
    Accounts,
    Arc,
    DomainKey,
    Endpoint,
    Kind,
    Listener,
    Queue,
    Role,
    Server,
    Settings,
    SignBy,
    Source,
)
from smtproute.core.verdict import Verdict, results
from smtproute.world import World
from tests.core.routing import HOST, envelope


@pytest.mark.parametrize(
    ("ip", "trusted"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.1", False),
        ("::ffff:192.0.2.1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_trusted_networks(ip: str, trusted: bool) -> None:
    networks = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    listener = Listener("l", role=Role.TRUSTED, trusted_networks=networks)
    assert trusts(listener, ip) is admits(listener, ip) is trusted
    assert admits(replace(listener, role=Role.INBOUND), ip)
    assert not trusts(replace(listener, trusted_networks=()), ip)


NO, LATER, YES = Reply(550, "5.1.1", "no"), Reply(451, "4.3.0", "later"), Reply(250, "2.0.0", "yes")


@pytest.mark.parametrize(
    ("answer", "judgement"),
    [
        (Answer(Stage.CONNECT, None, "refused"), Judgement.NEXT_SERVER),
        (Answer(Stage.GREETING, Reply(554, "5.3.2", "no")), Judgement.NEXT_SERVER),
        (Answer(Stage.EHLO, NO), Judgement.NEXT_SERVER),
        (Answer(Stage.STARTTLS, Reply(550, "5.7.0", "no TLS")), Judgement.NEXT_SERVER),
        (Answer(Stage.AUTH, Reply(535, "5.7.8", "who?")), Judgement.NEXT_SERVER),
        (Answer(Stage.AUTH, None, "not logged in"), Judgement.NEXT_SERVER),
        (Answer(Stage.MAIL, Reply(530, "5.7.0", "log in")), Judgement.NEXT_SERVER),
        (Answer(Stage.MAIL, NO), Judgement.FINAL),
        (Answer(Stage.RCPT, LATER), Judgement.NEXT_SERVER),
        (Answer(Stage.RCPT, NO), Judgement.FINAL),
        (Answer(Stage.DATA, NO), Judgement.FINAL),
        (Answer(Stage.DATA, None, "lost"), Judgement.NEXT_SERVER),
        (Answer(Stage.CONTENT, NO), Judgement.FINAL),
        (Answer(Stage.CONTENT, LATER), Judgement.NEXT_SERVER),
        (Answer(Stage.CONTENT, YES), Judgement.ACCEPTED),
        (Answer(Stage.CONTENT, None, "lost"), Judgement.AMBIGUOUS),
        (Answer(Stage.RCPT, YES), Judgement.NEXT_SERVER),
        (Answer(Stage.MAIL, NO, ours=True), Judgement.NEXT_SERVER),
        (Answer(Stage.CONTENT, Reply(354, "", "what?")), Judgement.NEXT_SERVER),
    ],
)
def test_judge(answer: Answer, judgement: Judgement) -> None:
    assert judge(answer) is judgement


@given(st.floats(0, 1e6), st.lists(st.floats(1, 1e4), min_size=1, max_size=5), st.floats(1, 1e6))
def test_retries_advance_and_end(start: float, pauses: list[float], lifetime: float) -> None:
    queue = Queue(retry=tuple(pauses), lifetime=lifetime)
    now, attempts = start, 1
    while (again := next_attempt(queue, start, attempts, now)) is not None and attempts < 1000:
        assert now < again <= start + lifetime or again == start + lifetime
        now, attempts = again, attempts + 1
    assert next_attempt(queue, start, attempts, start + lifetime) is None


def test_the_last_attempt_falls_on_the_end_of_the_lifetime() -> None:
    queue = Queue(retry=(60.0, 300.0), lifetime=400.0)
    assert next_attempt(queue, 0.0, 1, 0.0) == 60.0
    assert next_attempt(queue, 0.0, 2, 60.0) == 360.0
    assert next_attempt(queue, 0.0, 3, 360.0) == 400.0
    assert next_attempt(queue, 0.0, 4, 400.0) is None


def resolved(host: str, *ips: str) -> Resolved:
    found = tuple(Found(ip, Source.DNS) for ip in ips)
    return Resolved(host, Resolution.OK if found else Resolution.NXDOMAIN, found)


def test_order_is_that_of_the_configuration_with_backups_last() -> None:
    choice = order(
        [
            Looked(Server("standby", 26), resolved("standby", "192.0.2.9"), backup=True),
            Looked(Server("one"), resolved("one", "192.0.2.1", "2001:db8::1")),
            Looked(Server("gone"), resolved("gone")),
            Looked(Server("two"), resolved("two", "192.0.2.2")),
        ]
    )
    assert [str(each) for each in choice.candidates] == [
        "one (dns, 192.0.2.1:25)",
        "one (dns, [2001:db8::1]:25)",
        "two (dns, 192.0.2.2:25)",
        "standby (dns, 192.0.2.9:26)",
    ]
    assert [each.server.host for each in choice.looked] == ["one", "gone", "two", "standby"]


def key(domain: str) -> DomainKey:
    return DomainKey(Domain.parse(domain), "mail", f"{domain}.pem")


def settings(sign: SignBy, *domains: str, seal_endpoint: bool = True, seal_listener: bool = False) -> Settings:
    return Settings(
        hostname=Domain.parse(HOST),
        state="/nowhere",
        listeners={"mx": Listener("mx", seal=seal_listener)},
        endpoints={"far": Endpoint("far", (Server("far.example"),), seal=seal_endpoint)},
        accounts=Accounts("/nowhere/mail"),
        arc=Arc(sign, Domain.parse("fixed.example"), {domain: key(domain) for domain in domains}),
    )


COPY = Delivery(
    Kind.ENDPOINT, Address.parse("me@far.example"), Address.parse("name@here.example"), "far", rule="route[0]"
)
AUTHOR = Domain.parse("author.example")


class TestSeals:
    def test_the_domain_is_that_of_the_recipient_as_written(self) -> None:
        seal = plan_seal(settings(SignBy.RECIPIENT, "here.example", "far.example"), envelope(), COPY, AUTHOR)
        assert seal.key == key("here.example")

    def test_by_sender_falls_back_to_the_recipient(self) -> None:
        made = settings(SignBy.SENDER, "here.example", "author.example")
        assert plan_seal(made, envelope(), COPY, AUTHOR).key == key("author.example")
        assert plan_seal(made, envelope(), COPY, Domain.parse("other.example")).key == key("here.example")
        assert plan_seal(made, envelope(), COPY, None).key == key("here.example")

    def test_a_fixed_domain(self) -> None:
        assert plan_seal(settings(SignBy.DOMAIN, "fixed.example"), envelope(), COPY, None).key == key("fixed.example")

    def test_a_missing_key_is_wanted_and_said(self) -> None:
        seal = plan_seal(settings(SignBy.RECIPIENT, "else.example"), envelope(), COPY, None)
        assert (seal.key, seal.wanted) == (None, True)
        assert "here.example" in seal.reason

    @pytest.mark.parametrize("kind", [Kind.MAILBOX, Kind.CAPTURE, Kind.BOUNCE])
    def test_what_stays_in_the_house_is_not_sealed(self, kind: Kind) -> None:
        seal = plan_seal(settings(SignBy.RECIPIENT, "here.example"), envelope(), replace(COPY, kind=kind), None)
        assert (seal.key, seal.wanted) == (None, False)

    def test_route_and_endpoint_may_say_no(self) -> None:
        made = settings(SignBy.RECIPIENT, "here.example")
        assert plan_seal(made, envelope(), replace(COPY, seal=False), None).reason == "route[0] says seal = false"
        made = settings(SignBy.RECIPIENT, "here.example", seal_endpoint=False)
        assert plan_seal(made, envelope(), COPY, None).reason == "endpoint far says seal = false"

    def test_mail_of_a_trusted_client_only_where_its_listener_says_so(self) -> None:
        made = settings(SignBy.RECIPIENT, "here.example")
        assert plan_seal(made, envelope(trusted=True), COPY, None).key is None
        made = settings(SignBy.RECIPIENT, "here.example", seal_listener=True)
        assert plan_seal(made, envelope(trusted=True), COPY, None).key == key("here.example")

    def test_off(self) -> None:
        assert plan_seal(settings(SignBy.OFF), envelope(), COPY, None).wanted is False


def test_replies_on_the_wire() -> None:
    assert Reply(250, "2.0.0", "Ok").wire() == b"250 2.0.0 Ok\r\n"
    assert Reply(250, "", "one\ntwo").wire() == b"250-one\r\n250 two\r\n"
    assert Reply(214, "2.0.0", "a\nb").wire() == b"214-2.0.0 a\r\n214 2.0.0 b\r\n"
    assert str(Refusal(LATER, "spool", "disk")) == "451 4.3.0 later (spool: disk)"
    assert (NO.permanent, NO.temporary, LATER.temporary, YES.positive) == (True, False, True, True)


def test_results() -> None:
    assert results("mx.example", ()) == "mx.example; none"
    spf = Verdict("spf", "pass", (("smtp.mailfrom", "a@b.example"),), "by the record")
    assert results("mx.example", [spf]) == "mx.example; spf=pass (by the record) smtp.mailfrom=a@b.example"


def test_queue_ids_sort_by_time_and_differ() -> None:
    world = World()
    ids = [world.queue_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(re.fullmatch(r"[0-9A-Z]{15}", each) for each in ids)
    later = World()
    assert later.queue_id() > ids[0]
