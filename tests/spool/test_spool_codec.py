"""What stands in a row comes back, also to another version."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spooling import CLIENT, NOW

from smtproute.core.address import Address, Domain
from smtproute.core.envelope import Client, Envelope
from smtproute.core.event import Happening
from smtproute.core.plan import Delivery
from smtproute.core.reply import Refusal, Reply
from smtproute.core.settings import Kind, Role
from smtproute.core.verdict import Verdict
from smtproute.spool.codec import (
    pack_delivery,
    pack_facts,
    pack_message,
    unpack_delivery,
    unpack_event,
    unpack_message,
)
from smtproute.spool.queue import Message

texts = st.text(max_size=20)
addresses = st.builds(Address, texts, st.builds(Domain, texts, texts))
clients = st.builds(
    Client,
    ip=texts,
    port=st.integers(0, 65535),
    listener=texts,
    role=st.sampled_from(Role),
    trusted=st.booleans(),
    helo=texts,
    esmtp=st.booleans(),
    tls=texts,
    login=st.none() | addresses,
    named=st.none() | texts,
)
envelopes = st.builds(
    Envelope,
    clients,
    st.none() | addresses,
    st.none() | st.integers(0),
    st.booleans(),
    st.booleans(),
)
verdicts = st.builds(Verdict, texts, texts, st.lists(st.tuples(texts, texts), max_size=2).map(tuple), texts)
messages = st.builds(
    Message,
    id=texts,
    received_at=st.floats(0, 1e10),
    envelope=envelopes,
    size=st.integers(0, 2**40),
    trace_header=st.binary(max_size=50),
    forged=st.lists(st.tuples(st.integers(0), st.integers(0)), max_size=2).map(tuple),
    verdicts=st.lists(verdicts, max_size=2).map(tuple),
    bounce=st.booleans(),
)
refusals = st.builds(Refusal, st.builds(Reply, st.integers(200, 599), texts, texts), texts, texts)
delivery_values = st.builds(
    Delivery,
    kind=st.sampled_from(Kind),
    address=addresses,
    recipient=addresses,
    endpoint=texts,
    mailbox=st.none() | addresses,
    rule=texts,
    seal=st.booleans(),
    refusal=st.none() | refusals,
    held=st.booleans(),
    deliberate=st.booleans(),
)


@given(messages)
def test_a_message_comes_back(message: Message) -> None:
    back = unpack_message(message.id, message.received_at, message.size, pack_message(message))
    assert back == message
    assert str(back.envelope.reverse_path) == str(message.envelope.reverse_path)
    assert str(back.envelope.client.login) == str(message.envelope.client.login)


@given(delivery_values)
def test_a_delivery_comes_back(delivery: Delivery) -> None:
    back = unpack_delivery(pack_delivery(delivery))
    assert back == delivery
    assert (str(back.address), str(back.recipient)) == (str(delivery.address), str(delivery.recipient))


@given(st.dictionaries(texts, st.none() | st.booleans() | texts | st.lists(st.integers(), max_size=3), max_size=4))
def test_facts_come_back(facts: dict[str, object]) -> None:
    event = unpack_event("A", 3, "received", NOW, pack_facts(facts))
    assert (event.what, event.message, event.delivery, event.at) == (Happening.RECEIVED, "A", 3, NOW)
    assert event.facts == facts


def test_the_case_that_a_domain_was_written_in_comes_back() -> None:
    lower, upper = Address.parse("a@example.org"), Address.parse("a@Example.ORG")
    delivery = Delivery(Kind.MAILBOX, lower, upper)
    assert str(unpack_delivery(pack_delivery(delivery)).recipient) == "a@Example.ORG"


@pytest.mark.parametrize("local", ["x" * 900, "a b", 'a"b', "\x00", "\udc80"])
def test_an_address_that_no_grammar_would_have_comes_back(local: str) -> None:
    delivery = Delivery(Kind.BOUNCE, Address(local, Domain.parse("example.org")), Address.parse("a@example.org"))
    assert unpack_delivery(pack_delivery(delivery)) == delivery


def test_what_an_older_version_wrote_is_neither_held_nor_bounced_on_purpose() -> None:
    address = Address.parse("a@example.org")
    assert unpack_delivery('{"kind":"bounce","address":["a","example.org"]}') == Delivery(Kind.BOUNCE, address, address)


def test_a_newer_version_may_have_written_more() -> None:
    message = Message("A", NOW, Envelope(CLIENT, Address.parse("a@b.example")), 5)
    value = json.loads(pack_message(message))
    value["colour"] = {"of": "money"}
    value["client"]["country"] = "xx"
    assert unpack_message("A", NOW, 5, json.dumps(value)) == message
    delivery = Delivery(Kind.ENDPOINT, Address.parse("a@b.example"), Address.parse("a@b.example"), "gitlab")
    plan = json.loads(pack_delivery(delivery)) | {"lane": 3}
    assert unpack_delivery(json.dumps(plan)) == delivery


def test_an_older_version_may_have_written_less() -> None:
    message = unpack_message("A", NOW, 5, "{}")
    assert message == Message("A", NOW, Envelope(Client("", 0, "", Role.INBOUND, False), None), 5)
    client = '{"ip": "192.0.2.1", "port": 5, "listener": "mx", "role": "inbound", "trusted": false, "esmtp": true}'
    before_logins = unpack_message("A", NOW, 5, f'{{"client": {client}}}').envelope.client
    assert before_logins == Client("192.0.2.1", 5, "mx", Role.INBOUND, False, esmtp=True, login=None)
    delivery = unpack_delivery('{"kind": "mailbox", "address": ["a", "b.example"]}')
    assert delivery == Delivery(Kind.MAILBOX, Address.parse("a@b.example"), Address.parse("a@b.example"))


KEYS = ["client", "reverse_path", "size", "trace_header", "forged", "verdicts", "kind", "address", "mailbox", "refusal"]
garbage = st.recursive(
    st.none() | st.booleans() | st.integers() | texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner)
)
clients_of_garbage = st.dictionaries(st.sampled_from(["ip", "port", "role", "login"]), garbage)
records = st.dictionaries(st.sampled_from(KEYS), garbage | clients_of_garbage)


@given(st.text() | garbage.map(json.dumps) | records.map(json.dumps))
def test_garbage_is_read_or_raises_the_one_error(text: str) -> None:
    for unpack in (lambda: unpack_message("A", NOW, 5, text), lambda: unpack_delivery(text)):
        try:
            unpack()
        except ValueError:
            pass
