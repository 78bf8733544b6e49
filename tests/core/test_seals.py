"""Which copies are sealed by the options of rspamd's arc.conf; without them, see test_rules.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from smtproute.core.address import Address, Domain
from smtproute.core.envelope import Client, Envelope
from smtproute.core.plan import Delivery
from smtproute.core.seals import Seal, excluded, plan_seal
from smtproute.core.settings import Accounts, Arc, DomainKey, Endpoint, Kind, Listener, Role, Server, Settings, SignBy

HERE = Domain.parse("here.example")
COPY = Delivery(Kind.ENDPOINT, Address.parse("me@far.example"), Address.parse("name@here.example"), "far")


def key(domain: str) -> DomainKey:
    return DomainKey(Domain.parse(domain), "mail", f"{domain}.pem")


def settings(*domains: str, seal: bool = False, **arc: Any) -> Settings:
    keys = {domain: key(domain) for domain in domains or ("here.example",)}
    return Settings(
        hostname=Domain.parse("mail.example.org"),
        state="/nowhere",
        listeners={"mx": Listener("mx", seal=seal)},
        endpoints={"far": Endpoint("far", (Server("far.example"),))},
        accounts=Accounts("/nowhere/mail"),
        arc=Arc(**{"sign": SignBy.RECIPIENT, "keys": keys, **arc}),
    )


STRANGER = Client("192.0.2.1", 4711, "mx", Role.INBOUND, False)
TRUSTED = replace(STRANGER, role=Role.TRUSTED, trusted=True)
LOGIN = replace(STRANGER, role=Role.SUBMISSION, login=Address.parse("anna@here.example"))


def planned(
    made: Settings, client: Client = STRANGER, sender: str = "s@else.example", author: str = "", copy: Delivery = COPY
) -> Seal:
    envelope = Envelope(client, Address.parse(sender) if sender else None)
    return plan_seal(made, envelope, copy, Domain.parse(author) if author else None)


@pytest.mark.parametrize(
    ("client", "option", "default"),
    [(STRANGER, "inbound", True), (TRUSTED, "local", False), (LOGIN, "authenticated", False)],
)
def test_whose_mail_is_sealed(client: Client, option: str, default: bool) -> None:
    assert (planned(settings(), client).key is not None) is default
    for value in (True, False):
        made = settings(**{option: value})
        seal = planned(made, client)
        assert (seal.key == key("here.example"), seal.wanted) == (value, value)
        assert bool(seal.reason) is bool(excluded(made, client)) is not value
    others = {"inbound": False, "local": False, "authenticated": False}
    assert planned(settings(**{**others, option: True}), client).key is not None
    assert planned(settings(seal=True, **others), client).key is not None


def test_a_login_that_is_also_trusted_counts_as_a_login() -> None:
    both = replace(LOGIN, trusted=True)
    assert planned(settings(local=True), both).key is None
    assert planned(settings(authenticated=True), both).key is not None


def test_a_login_seals_for_its_own_domain_only() -> None:
    made = settings(authenticated=True, username_mismatch=False)
    assert planned(made, LOGIN).key == key("here.example")
    other = replace(LOGIN, login=Address.parse("anna@other.example"))
    seal = planned(made, other)
    assert (seal.key, seal.wanted) == (None, True)
    assert "anna@other.example" in seal.reason
    assert planned(settings(authenticated=True), other).key is not None
    assert planned(made, STRANGER).key is not None


def test_the_author_may_have_to_be_of_the_senders_domain() -> None:
    made = settings(author_mismatch=False)
    assert made.arc.by_author
    assert planned(made, author="ELSE.example").key is not None
    assert planned(made, author="").key is not None
    assert planned(made, sender="", author="other.example").key is not None
    seal = planned(made, author="other.example")
    assert (seal.key, seal.wanted) == (None, True)
    assert "other.example" in seal.reason
    assert planned(settings(), author="other.example").key is not None


@pytest.mark.parametrize("client", [LOGIN, TRUSTED])
def test_what_is_no_forward_goes_quietly_without_a_key(client: Client) -> None:
    made = settings(local=True, authenticated=True)
    plain = replace(COPY, recipient=COPY.address)
    quiet = Seal(reason="it is no forward, and there is no sealing key for far.example")
    assert planned(made, client, copy=plain) == quiet
    forward = replace(COPY, recipient=Address.parse("name@nokey.example"))
    assert planned(made, client, copy=forward).wanted
    assert planned(made, STRANGER, copy=plain).wanted
    assert planned(settings(seal=True), TRUSTED, copy=plain).wanted, "what others have brought to that client"


def test_the_null_sender() -> None:
    assert planned(settings(), sender="").key is not None
    seal = planned(settings(null_sender=False), sender="")
    assert (seal.key, seal.wanted) == (None, False)
    assert planned(settings(null_sender=False)).key is not None


def test_a_subdomain_is_sealed_for_by_its_parent() -> None:
    copy = replace(COPY, recipient=Address.parse("name@a.b.here.example"))
    assert planned(settings(), copy=copy) == Seal(wanted=True, reason="there is no sealing key for a.b.here.example")
    assert planned(settings(parents=True), copy=copy).key == key("here.example")
    assert planned(settings("here.example", "b.here.example", parents=True), copy=copy).key == key("b.here.example")
    assert planned(settings("other.example", parents=True), copy=copy).key is None
    login = replace(LOGIN, login=Address.parse("anna@b.here.example"))
    strict = settings(parents=True, authenticated=True, username_mismatch=False)
    assert planned(strict, login, copy=copy).key == key("here.example")
    literal = replace(COPY, recipient=Address.parse("name@[192.0.2.1]"))
    assert planned(settings(parents=True), copy=literal).key is None


def test_by_sender_with_parents() -> None:
    made = settings("author.example", "here.example", sign=SignBy.SENDER, parents=True)
    assert planned(made, author="x.author.example").key == key("author.example")
    assert planned(made, author="other.example").key == key("here.example")
    assert made.arc.by_author
    assert not settings().arc.by_author


def test_sealing_that_is_off_stays_off() -> None:
    assert planned(settings(sign=SignBy.OFF, local=True), TRUSTED) == Seal(
        reason="no sealing key is configured ([arc.keys])"
    )
