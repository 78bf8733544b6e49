"""Quota from RCPT to the mailbox, with a real Dovecot over the same Maildir as the witness of what is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from smtproute.app import Relay
from smtproute.config.load import load
from smtproute.core.address import Address
from smtproute.core.event import Happening
from smtproute.core.outcome import Stage
from smtproute.core.quota import Quota, over
from smtproute.delivery.maildir import Maildir
from smtproute.testing.upstream import Upstream
from tests.e2e.conftest import LETTER, Client, Lab
from tests.e2e.dovecot import dovecot
from tests.e2e.test_cli import run

ANNA = Address.parse("anna@example.org")


def message(octets: int) -> bytes:
    """A message of so many octets."""
    head = b"Subject: x\r\n\r\n"
    return head + b"x" * (octets - len(head) - 2) + b"\r\n"


# Counting, and the rule, side by side with Dovecot's


@pytest.mark.peer("dovecot", "doveadm")
async def test_usage_is_what_dovecot_counts() -> None:
    user = str(ANNA)
    with dovecot({user: "1G"}) as witness:
        maildir = Maildir(lambda: str(witness.mail))
        box = witness.mail / "example.org" / "anna"

        async def same(expected: int) -> None:
            assert (await maildir.usage(ANNA), witness.usage(user)) == (expected, expected)

        await same(0)
        await maildir.deliver(ANNA, "1.own.host", message(5000))
        await maildir.deliver(ANNA, "2.own.host", message(700))
        await same(5700)
        witness.doveadm("save", "-u", user, stdin=b"Subject: y\n\nsaved\n")  # the lines with a lone LF
        await same(5721)
        # Other programs' messages: no size in the name, or one that is believed as it stands.
        (box / "cur" / "3.other.host:2,S").write_bytes(b"a\nb\n")
        (box / "new" / "4.other.host").write_bytes(b"a\r\nb\n")
        (box / "cur" / "5.other.host,S=3,W=2000:2,S").write_bytes(b"abc")
        (box / "cur" / "6.other.host,W=:2,S").write_bytes(b"abc")
        (box / "cur" / "7.other.host,W=1x,W=9:2,S").write_bytes(b"abc")
        (box / "cur" / "8.other.host:2,,W=40").write_bytes(b"abc")
        await same(7776)
        witness.doveadm("flags", "add", "-u", user, "\\Seen \\Flagged", "mailbox", "INBOX", "all")
        await same(7776)
        for name in ("Work", "Work.2026", "Trash", "Entwürfe"):
            witness.doveadm("mailbox", "create", "-u", user, name)
            witness.doveadm("copy", "-u", user, name, "mailbox", "INBOX", "larger", "4000")
        await same(27776)
        uncounted = [box / place for place in (".INBOX/cur", "..dots/cur", "folder/cur", "tmp")]
        for place in uncounted:
            place.mkdir(parents=True, exist_ok=True)
            (place / "9.other.host,W=80000:2,S").write_bytes(b"abc")
        assert await maildir.usage(ANNA) == 27776
        witness.doveadm("quota", "recalc", "-u", user)
        assert witness.kibibytes(user)[0] == 28
        for place in uncounted:  # not all of them have a name that doveadm could list
            (place / "9.other.host,W=80000:2,S").unlink()
        (box / "..dots" / "cur").rmdir()
        (box / "..dots").rmdir()
        witness.doveadm("expunge", "-u", user, "mailbox", "Trash", "all")
        witness.doveadm("expunge", "-u", user, "mailbox", "INBOX", "larger", "4000")
        await maildir.deliver(ANNA, "10.own.host", message(608))
        await same(18384)
        witness.doveadm("mailbox", "delete", "-u", user, "Work.2026")
        await same(13384)
        maildir.close()


@pytest.mark.peer("dovecot", "doveadm")
@pytest.mark.parametrize(("written", "limit"), [("1000B", 1000), ("2k", 2048), ("0", 0), ("", 3000)])
async def test_the_rule_is_dovecots(written: str, limit: int) -> None:
    """docker-mailserver asks Dovecot's quota-status service at RCPT; "" is an account that has no line."""
    user = str(ANNA)
    quota = Quota(limit)
    with dovecot({user: written}, default="3000") as witness:
        maildir = Maildir(lambda: str(witness.mail))
        assert witness.kibibytes(user)[1] == -(-limit // 1024)
        top, used = limit or 3000, 0
        for number, more in enumerate((100, top - 200, 99, 1, 100)):  # to 1 below the limit, to it, and above
            await maildir.deliver(ANNA, f"{number}.own.host", message(more) if more > 20 else b"x" * more)
            used += more
            assert await maildir.usage(ANNA) == used
            room = max(0, top - used)
            sizes = {0, 1, room - 1, room, room + 1, room + top // 10 - 1, room + top // 10, room + top // 10 + 1, 9999}
            for size in [None, *sorted(size for size in sizes if size >= 0)]:
                assert witness.takes(user, size) is not over(quota, used, size or 0), (used, size)
        maildir.close()


@pytest.mark.peer("dovecot", "doveadm")
async def test_what_is_in_trash_fills_the_mailbox() -> None:
    """`Trash:storage=+50M` is room for what a user moves there, not for what is delivered."""
    user = str(ANNA)
    with dovecot({user: "10k"}) as witness:
        maildir = Maildir(lambda: str(witness.mail))
        await maildir.deliver(ANNA, "1.own.host", message(9000))
        witness.doveadm("mailbox", "create", "-u", user, "Trash")
        witness.doveadm("copy", "-u", user, "Trash", "mailbox", "INBOX", "all")
        assert await maildir.usage(ANNA) == 18000
        assert not witness.takes(user, 1)
        maildir.close()


# The relay, configured by a docker-mailserver folder

CONFIG = """
    [docker_mailserver]
    config = "dms"
    env = "mailserver.env"
    [accounts]
    maildir = "{mail}"
    [listener.mx]
    bind = "127.0.0.1:0"
    role = "inbound"
    [endpoint.far]
    servers = ["mx.far.example:{port}"]
    [[route]]
    match = "*@far.example"
    endpoint = "far"
    [[route]]
    match = "*@else.example"
    mode = "capture"
"""
LIMITS = {
    "anna@example.org": "10k",
    "keep@example.org": "10k",
    "away@example.org": "10k",
    "free@example.org": "0",
    "usual@example.org": "",
}
VIRTUAL = """\
    keep@example.org keep@example.org,me@far.example
    away@example.org me@far.example
    sales@example.org anna@example.org
    both@example.org anna@example.org,free@example.org
"""
FULL = 10 * 1024


def folder(lab: Lab, limits: Mapping[str, str] = LIMITS) -> None:
    lab.write("dms/postfix-accounts.cf", "".join(f"{name}|{{SHA512-CRYPT}}$6$x$y\n" for name in limits))
    lab.write("dms/dovecot-quotas.cf", "".join(f"{name}:{limit}\n" for name, limit in limits.items() if limit))
    lab.write("dms/postfix-virtual.cf", VIRTUAL)
    lab.write("mailserver.env", "POSTFIX_MAILBOX_SIZE_LIMIT=4096000\n")


@pytest.fixture
def mail(tmp_path: Path) -> Path:
    return tmp_path / "state" / "mail"


async def filled(mail: Path, address: str, octets: int = FULL) -> None:
    """The mailbox holds so much, and it was not delivered just now."""
    maildir = Maildir(lambda: str(mail))
    await maildir.deliver(Address.parse(address), "1.before.host", message(octets))
    maildir.close()


def emptied(mail: Path, address: str) -> None:
    local, domain = address.split("@")
    for file in (mail / domain / local / "new").iterdir():
        file.unlink()


async def answer(lab: Lab, relay: Relay, recipient: str, content: bytes = LETTER) -> tuple[Stage, str]:
    (answered,) = (await lab.send(relay, recipient, content=content)).answers
    assert answered.reply is not None
    return answered.stage, f"{answered.reply.code} {answered.reply.enhanced}"


async def dms(lab: Lab, mail: Path, more: str = "") -> tuple[Relay, Upstream]:
    folder(lab)
    far = await lab.upstream("mx.far.example")
    return await lab.started(CONFIG.format(mail=mail, port=far.port) + more), far


async def test_a_full_mailbox_is_refused_while_the_client_listens(lab: Lab, mail: Path) -> None:
    relay, _ = await dms(lab, mail)
    for account in ("anna@example.org", "away@example.org", "free@example.org"):
        assert await answer(lab, relay, account) == (Stage.CONTENT, "250 2.0.0")
        await filled(mail, account)
    assert await answer(lab, relay, "anna@example.org") == (Stage.RCPT, "552 5.2.2")
    assert await answer(lab, relay, "anna+tag@example.org") == (Stage.RCPT, "552 5.2.2")
    assert await answer(lab, relay, "sales@example.org") == (Stage.RCPT, "552 5.2.2")
    refused = lab.journal.of(Happening.REFUSED)[0].facts
    assert refused["says"] == "quota" and "anna@example.org is full" in refused["why"]
    # A limit of 0 is none.
    assert await answer(lab, relay, "free@example.org") == (Stage.CONTENT, "250 2.0.0")
    emptied(mail, "anna@example.org")
    assert await answer(lab, relay, "sales@example.org") == (Stage.CONTENT, "250 2.0.0")


async def test_a_pure_forward_does_not_ask_the_idle_mailbox(lab: Lab, mail: Path) -> None:
    relay, far = await dms(lab, mail)
    await filled(mail, "away@example.org")
    await lab.delivered(relay, "away@example.org")
    assert [sent.recipients for sent in far.received] == [("me@far.example",)]


async def test_the_default_is_the_environments(lab: Lab, mail: Path) -> None:
    """4096000 is 4M to docker-mailserver: 4194304 octets, and a tenth of grace."""
    relay, _ = await dms(lab, mail)
    await filled(mail, "usual@example.org", 4194303)
    assert await answer(lab, relay, "usual@example.org") == (Stage.CONTENT, "250 2.0.0")
    await lab.journal.seen(Happening.DELIVERED)
    assert await answer(lab, relay, "usual@example.org") == (Stage.RCPT, "552 5.2.2")


async def test_a_size_that_would_not_fit_is_refused(lab: Lab, mail: Path) -> None:
    relay, _ = await dms(lab, mail)
    await filled(mail, "anna@example.org", FULL - 1000)
    room = 1000 + FULL // 10
    assert await answer(lab, relay, "anna@example.org", message(room + 1)) == (Stage.RCPT, "552 5.2.2")
    # It fits without our header fields, so it is taken; with them it waits for room.
    accepted = await lab.accepted(relay, "anna@example.org", content=message(room))
    (deferred,) = await lab.journal.seen(Happening.DEFERRED, accepted)
    assert deferred.facts["reply"].startswith("452 4.2.2 ")
    assert await answer(lab, relay, "anna@example.org", message(room - 500)) == (Stage.CONTENT, "250 2.0.0")


async def test_a_message_that_can_never_fit_is_told_at_once(lab: Lab, mail: Path) -> None:
    """Taken without SIZE, or for somebody else too: no wait would make room for it."""
    relay, _ = await dms(lab, mail)
    accepted = await lab.accepted(relay, "both@example.org", content=message(FULL + FULL // 10))
    (failed,) = await lab.journal.seen(Happening.FAILED, accepted)
    assert failed.facts["reply"].startswith("552 5.2.2 ") and "never fit" in failed.facts["detail"]
    await lab.journal.seen(Happening.BOUNCED)
    assert len(lab.mailbox("free@example.org")) == 1


async def test_no_size_is_refused_by_a_full_mailbox_only(lab: Lab, mail: Path) -> None:
    relay, _ = await dms(lab, mail)
    await filled(mail, "anna@example.org", FULL - 1)
    client = await Client.connect(relay.addresses["mx"])
    assert (await client.say("HELO client.example")).startswith("250")
    assert (await client.say("MAIL FROM:<friend@else.example>")).startswith("250 ")
    assert (await client.say("RCPT TO:<anna@example.org>")).startswith("250 ")
    await filled(mail, "anna@example.org", FULL)
    # What was promised is promised; another transaction hears what is so now.
    assert (await client.say("RCPT TO:<anna@example.org>")).startswith("250 ")
    assert (await client.say("RCPT TO:<sales@example.org>")).startswith("552 5.2.2 ")


async def test_keep_and_forward_with_a_full_mailbox(lab: Lab, mail: Path) -> None:
    """The forward goes out; the mailbox's copy waits until there is room."""
    clock = lab.turned()
    relay, far = await dms(lab, mail)
    await filled(mail, "keep@example.org")
    accepted = await lab.accepted(relay, "keep@example.org")
    (delivered,) = await lab.journal.seen(Happening.DELIVERED, accepted)
    (deferred,) = await lab.journal.seen(Happening.DEFERRED, accepted)
    assert [sent.recipients for sent in far.received] == [("me@far.example",)]
    assert deferred.delivery != delivered.delivery
    assert deferred.facts["reply"].startswith("452 4.2.2 Mailbox is full")
    (planned,) = [each for each in await lab.trace(relay, accepted) if each.what is Happening.PLANNED]
    assert "the mailbox of keep@example.org is full (10240 of 10240 octets)" in planned.facts["notes"][0]
    emptied(mail, "keep@example.org")
    await clock.advance(60)
    await lab.journal.finished(accepted, 2)
    (kept,) = lab.mailbox("keep@example.org")
    assert kept.endswith(LETTER.replace(b"\r\n", b"\n"))
    assert len(far.received) == 1


async def test_a_full_mailbox_among_others_is_told_at_the_end_of_the_lifetime(lab: Lab, mail: Path) -> None:
    clock = lab.turned()
    relay, _ = await dms(lab, mail, '[queue]\nretry = ["1h"]\nlifetime = "90m"')
    await filled(mail, "anna@example.org")
    accepted = await lab.accepted(relay, "both@example.org")
    await lab.journal.seen(Happening.DEFERRED, accepted)
    await clock.advance(3600)
    await lab.journal.seen(Happening.DEFERRED, accepted, 2)
    await clock.advance(3600)
    (failed,) = await lab.journal.seen(Happening.FAILED, accepted)
    assert failed.facts["reply"].startswith("452 4.2.2 ")
    await lab.journal.seen(Happening.BOUNCED)
    assert len(lab.mailbox("free@example.org")) == 1


async def test_a_mailbox_that_cannot_be_counted_is_not_judged(lab: Lab, mail: Path) -> None:
    relay, _ = await dms(lab, mail)
    (mail / "example.org").mkdir(parents=True)
    (mail / "example.org" / "anna").write_text("not a folder")
    accepted = await lab.accepted(relay, "anna@example.org")
    (planned,) = [each for each in await lab.trace(relay, accepted) if each.what is Happening.PLANNED]
    assert "the quota of anna@example.org is not judged" in planned.facts["notes"][0]
    (deferred,) = await lab.journal.seen(Happening.DEFERRED, accepted)
    assert deferred.facts["reply"].startswith("451 4.3.0 ")


async def test_explain_asks_too(lab: Lab, mail: Path) -> None:
    await dms(lab, mail)
    await filled(mail, "anna@example.org")
    command = ("explain", "-c", str(lab.folder / "smtproute.toml"), "sales@example.org", "both@example.org")
    explained = await asyncio.to_thread(run, *command)  # the name server is in this thread
    assert explained.returncode == 2
    assert "reply 552 5.2.2 Mailbox is full" in explained.stdout
    assert "over quota: 10240 of 10240 octets" in explained.stdout
    assert "the mailbox of anna@example.org is full (10240 of 10240 octets): its copy is deferred" in explained.stdout


async def test_without_docker_mailserver_a_full_mailbox_is_a_temporary_refusal(lab: Lab, mail: Path) -> None:
    folder(lab)
    text = """
        [accounts]
        file = "dms/postfix-accounts.cf"
        quotas = "dms/dovecot-quotas.cf"
        [listener.mx]
        bind = "127.0.0.1:0"
        role = "inbound"
    """
    relay = await lab.started(text)
    await filled(mail, "anna@example.org")
    assert await answer(lab, relay, "anna@example.org") == (Stage.RCPT, "452 4.2.2")
    assert await answer(lab, relay, "keep@example.org") == (Stage.CONTENT, "250 2.0.0")


# docker-mailserver's own scenarios (dovecot_quotas.bats)


@pytest.mark.peer("dovecot", "doveadm")
@pytest.mark.parametrize(
    ("written", "limit"),
    [("10B", 10), ("10k", 10 << 10), ("10M", 10 << 20), ("10G", 10 << 30), ("10T", 10 << 40), ("0", 0), ("", 4 << 20)],
)
async def test_units_are_dovecots(lab: Lab, mail: Path, written: str, limit: int) -> None:
    limits = {"anna@example.org": written}
    folder(lab, limits)
    snapshot = load(str(lab.config(CONFIG.format(mail=mail, port=25))), {}, fqdn=lambda: "x.example")
    quota = snapshot.routing.mailboxes["anna@example.org"].quota
    assert quota.limit == limit
    with dovecot(limits, default="4M") as witness:
        assert witness.kibibytes("anna@example.org")[1] == -(-limit // 1024)


@pytest.mark.peer("dovecot", "doveadm")
async def test_over_quota_as_dovecot_tells_it(lab: Lab) -> None:
    """Of three large messages the first is there, the others were refused: the mailbox is full."""
    limits = {"anna@example.org": "10k"}
    with dovecot(limits) as witness:
        relay, _ = await dms(lab, witness.mail)
        large = message(10_500)
        assert witness.takes("anna@example.org", len(large))
        await lab.delivered(relay, "anna@example.org", content=large)
        assert not witness.takes("anna@example.org", len(large))
        for _ in range(2):
            assert await answer(lab, relay, "anna@example.org", large) == (Stage.RCPT, "552 5.2.2")
        (held,) = (witness.mail / "example.org" / "anna" / "new").iterdir()
        assert witness.usage("anna@example.org") == int(held.name.rpartition("W=")[2]) > 10_240
        # Read and deleted by IMAP, it makes room again.
        witness.doveadm("expunge", "-u", "anna@example.org", "mailbox", "INBOX", "all")
        assert witness.takes("anna@example.org", len(large))
        await lab.delivered(relay, "anna@example.org", content=large)
        assert witness.kibibytes("anna@example.org")[0] == 11
