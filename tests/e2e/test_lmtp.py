"""Mailboxes by LMTP: a real Dovecot takes the copies, and each recipient's own answer settles its delivery."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from smtproute.app import Relay
from smtproute.core.event import Event, Happening
from smtproute.testing.clock import TurnedClock
from smtproute.testing.upstream import Drop, Rule, Upstream, on
from smtproute.trace.text import render
from tests.e2e.conftest import LETTER, Lab
from tests.e2e.dovecot import Dovecot, dovecot

CONFIG = """
    [docker_mailserver]
    config = "dms"
    [accounts]
    store = "lmtp"
    lmtp = "{lmtp}"
    [listener.mx]
    bind = "127.0.0.1:0"
    role = "inbound"
    [[route]]
    match = "*@else.example"
    mode = "capture"
"""
FORGED = b"Authentication-Results: mail.example.org; spf=pass\r\n"
HOUSE = ("anna@example.org", "full@example.org", "ghost@example.org")


@pytest.fixture
def witness() -> Iterator[Dovecot]:
    with dovecot({"anna@example.org": "", "full@example.org": "1"}) as running:
        yield running


async def started(lab: Lab, lmtp: str) -> Relay:
    lab.write("dms/postfix-accounts.cf", "".join(f"{each}|{{PLAIN}}secret\n" for each in HOUSE))
    lab.write("dms/postfix-virtual.cf", "sales@example.org anna@example.org\n")
    lab.zone.set("dovecot.internal", "A", ["127.0.0.1"])
    return await lab.started(CONFIG.format(lmtp=lmtp))


def stored(witness: Dovecot, user: str) -> list[bytes]:
    folder = witness.mail.joinpath(*reversed(user.split("@")), "new")
    return [file.read_bytes() for file in sorted(folder.glob("*"))]


def ended(lab: Lab, message: str) -> dict[str, Event]:
    """How each address's delivery stands, by address."""
    last = (Happening.DELIVERED, Happening.DEFERRED, Happening.FAILED)
    return {each.facts["address"]: each for each in lab.journal.events if each.message == message and each.what in last}


@pytest.mark.peer("dovecot", "doveadm")
@pytest.mark.parametrize("way", ["tcp", "unix"])
async def test_dovecot_answers_for_each_recipient(lab: Lab, witness: Dovecot, way: str) -> None:
    where = f"unix:{witness.socket}" if way == "unix" else f"dovecot.internal:{witness.lmtp}"
    relay = await started(lab, where)
    message = await lab.delivered(relay, *HOUSE, content=FORGED + LETTER)
    outcome = ended(lab, message)
    assert {address: event.what for address, event in outcome.items()} == {
        "anna@example.org": Happening.DELIVERED,
        "full@example.org": Happening.FAILED,
        "ghost@example.org": Happening.FAILED,
    }
    assert outcome["anna@example.org"].facts["reply"].startswith("250 2.0.0 ")
    assert outcome["full@example.org"].facts["reply"].startswith("552 5.2.2 ")
    assert outcome["ghost@example.org"].facts["reply"].startswith("550 5.1.1 ")

    (attempt,) = lab.journal.of(Happening.ATTEMPT, message)
    server, ip = where.removeprefix("unix:"), "127.0.0.1" if way == "tcp" else str(witness.socket)
    assert (attempt.facts["server"], attempt.facts["ip"], attempt.facts["sealed"]) == (server, ip, "")
    shown = f"{server} at {ip} (dns)" if way == "tcp" else f"{server} (written)"
    assert any(f"endpoint accounts.lmtp: {shown}, plain text" in line for line in render([attempt]))
    said = [text for _, _, text in attempt.facts["transcript"]]
    assert "LHLO mail.example.org" in said and "RCPT TO:<ghost@example.org>" in said

    head, _, body = stored(witness, "anna@example.org")[0].partition(b"\n\n")
    names = [line.partition(b":")[0] for line in head.split(b"\n") if line[:1] not in b" \t"]
    # Dovecot adds the first, and the second where the transaction has one recipient.
    assert (names.count(b"Return-Path"), names.count(b"Delivered-To")) == (1, 0)
    assert b"Return-Path: <friend@else.example>\n" in head
    assert b"spf=pass" not in head and f"id {message}".encode() in head
    assert body == b"Hello.\n"
    assert stored(witness, "full@example.org") == []

    (told,) = lab.journal.of(Happening.BOUNCED, message)
    notice = await relay.spool.content(told.facts["dsn"])
    assert b"Final-Recipient: rfc822; full@example.org\r\n" in notice
    assert b"Final-Recipient: rfc822; ghost@example.org\r\n" in notice
    assert (b"Remote-MTA: dns; dovecot.internal\r\n" in notice) == (way == "tcp")
    assert str(witness.socket).encode() not in notice


@pytest.mark.peer("dovecot", "doveadm")
async def test_detail_null_sender_and_connections_that_are_kept(lab: Lab, witness: Dovecot) -> None:
    relay = await started(lab, f"dovecot.internal:{witness.lmtp}")
    await lab.delivered(relay, "anna+tag@example.org", sender=None)
    dotted = LETTER + b".\r\n..two\r\n" + b"x" * 200_000 + b"\r\n"
    message = await lab.delivered(relay, "sales@example.org", content=dotted)
    first, second = sorted(stored(witness, "anna@example.org"), key=len)
    assert first.count(b"Return-Path:") == first.count(b"Delivered-To:") == 1
    assert b"Return-Path: <>\n" in first and b"Delivered-To: anna+tag@example.org\n" in first
    assert second.endswith(dotted.replace(b"\r\n", b"\n"))
    (attempt,) = lab.journal.of(Happening.ATTEMPT, message)
    assert attempt.facts["transcript"][0][2] == "connection reused (transaction 2)"


@pytest.mark.peer("dovecot", "doveadm")
async def test_dovecot_stopped_and_started_again(lab: Lab, witness: Dovecot) -> None:
    clock = lab.turned()
    relay = await started(lab, f"dovecot.internal:{witness.lmtp}")
    await lab.delivered(relay, "anna@example.org")
    await asyncio.to_thread(witness.stop)
    message = await lab.accepted(relay, "anna@example.org")
    (deferred,) = await lab.journal.seen(Happening.DEFERRED, message)
    assert deferred.facts["reply"].startswith("451 4.4.1 ")
    assert "dovecot.internal" in deferred.facts["detail"] and "connection refused" in deferred.facts["detail"]
    assert (await lab.send(relay, "anna@example.org")).answers[0].reply.code == 250  # taken all the same
    await asyncio.to_thread(witness.start)
    await clock.advance(60)
    await lab.journal.seen(Happening.DELIVERED, times=3)
    assert len(stored(witness, "anna@example.org")) == 3


# Odd servers


async def odd(lab: Lab, *script: Rule) -> tuple[Relay, Upstream, TurnedClock]:
    clock = lab.turned()
    server = await lab.upstream("dovecot.internal", script, lmtp=True)
    return await started(lab, f"dovecot.internal:{server.port}"), server, clock


async def settled(lab: Lab, message: str, deliveries: int) -> dict[str, Event]:
    await lab.journal.until(lambda: len(ended(lab, message)) >= deliveries)
    return ended(lab, message)


async def test_only_who_was_not_answered_is_tried_again(lab: Lab) -> None:
    relay, server, clock = await odd(lab, on("CONTENT", Drop(), match="full@", times=1))
    message = await lab.accepted(relay, *HOUSE)
    outcome = await settled(lab, message, 3)
    assert outcome["anna@example.org"].what is Happening.DELIVERED
    for address in HOUSE[1:]:
        assert outcome[address].what is Happening.DEFERRED
        assert outcome[address].facts["detail"].startswith("ambiguous: the server closed the connection")
    await clock.advance(60)
    await lab.journal.seen(Happening.DELIVERED, message, 3)
    assert server.received[1].recipients == HOUSE[1:]


@pytest.mark.parametrize("reply", ["421 4.3.2 Closing", "452 4.2.2 Over quota"])
async def test_a_temporary_answer_after_the_dot(lab: Lab, reply: str) -> None:
    relay, server, clock = await odd(lab, on("CONTENT", reply, match="ghost@", times=1))
    message = await lab.accepted(relay, *HOUSE)
    outcome = await settled(lab, message, 3)
    assert [outcome[address].what for address in HOUSE] == [Happening.DELIVERED] * 2 + [Happening.DEFERRED]
    assert outcome["ghost@example.org"].facts["reply"] == reply
    await clock.advance(60)
    await lab.journal.seen(Happening.DELIVERED, message, 3)
    assert [received.recipients for received in server.received] == [HOUSE[:2], HOUSE[2:]]


async def test_several_addresses_in_order(lab: Lab) -> None:
    relay, server, _ = await odd(lab)
    lab.zone.set("dovecot.internal", "A", ["127.0.0.9", "127.0.0.1"])
    message = await lab.delivered(relay, "anna@example.org")
    (received,) = server.received
    assert received.recipients == ("anna@example.org",)
    assert [each.facts["ip"] for each in lab.journal.of(Happening.ATTEMPT, message)] == ["127.0.0.9", "127.0.0.1"]


async def test_a_name_without_address_defers(lab: Lab) -> None:
    relay = await started(lab, "nowhere.internal:24")
    message = await lab.accepted(relay, "anna@example.org")
    (deferred,) = await lab.journal.seen(Happening.DEFERRED, message)
    assert deferred.facts["says"] == "endpoint accounts.lmtp"
    assert "nowhere.internal: NXDOMAIN" in deferred.facts["detail"]
