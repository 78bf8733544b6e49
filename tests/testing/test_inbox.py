"""The inbox of a stage: what arrives where, waiting for it, and that nothing more comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from smtproute.core.event import Happening
from smtproute.core.settings import Kind
from smtproute.testing.arrivals import Arrival
from smtproute.testing.client import Client
from smtproute.testing.inbox import Inbox
from smtproute.testing.report import MailAssertion
from smtproute.testing.stage import Flow, Stage
from smtproute.testing.upstream import Drop, Wait, on

FAR: dict[str, Any] = {
    "route": [{"match": "*", "mode": "endpoint", "endpoint": "far"}],
    "endpoint": {"far": {"servers": ["mx.far.example:25"]}},
}
CAPTURE: dict[str, Any] = {"route": [{"match": "*", "mode": "capture"}]}
SENDER = "friend@else.example"
ANNA = "anna@far.example"


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with Stage(seed=7) as standing:
        yield standing


def letter(*fields: str, body: str = "Hello.") -> bytes:
    return "\r\n".join([*fields, "", body, ""]).encode()


async def send(flow: Flow, subject: str, to: str = ANNA) -> str:
    """The queue id."""
    sent = await flow.send(letter(f"Subject: {subject}"), sender=SENDER, to=to)
    assert sent.id
    return sent.id


def house(folder: Path, **more: Any) -> dict[str, Any]:
    """A relay with a mailbox, and with an alias to it, to a capture and to an endpoint."""
    (folder / "accounts").write_text("name@example.org|{PLAIN}secret\n")
    (folder / "virtual").write_text("all@example.org name@example.org,kept@example.net,anna@far.example\n")
    return {
        "accounts": {"file": str(folder / "accounts")} | more,
        "aliases": {"tables": [str(folder / "virtual")]},
        "route": [{"match": "*@example.net", "mode": "capture"}, *FAR["route"]],
        "endpoint": FAR["endpoint"],
    }


async def test_copies_of_each_kind_arrive(stage: Stage, tmp_path: Path) -> None:
    flow = await stage.relay(house(tmp_path))
    sent = await flow.send(letter("Subject: Hello"), sender=SENDER, to="all@example.org")
    arrivals = {each.kind: each for each in await stage.inbox.wait_for(n=3)}
    (received,) = stage.upstreams["mx.far.example"].received
    mailbox, capture, endpoint = arrivals[Kind.MAILBOX], arrivals[Kind.CAPTURE], arrivals[Kind.ENDPOINT]
    assert {(each.message, each.relay, each.sender, each.written) for each in arrivals.values()} == {
        (sent.id, "relay", SENDER, ("all@example.org",))
    }
    assert mailbox.recipients == ("name@example.org",)
    assert mailbox.content.startswith(b"Return-Path: <friend@else.example>\nDelivered-To: name@example.org\n")
    assert mailbox.content.endswith(b"Subject: Hello\n\nHello.\n")
    assert (capture.recipients, capture.content) == (("kept@example.net",), sent.content)
    assert (endpoint.recipients, endpoint.endpoint, endpoint.upstream) == ((ANNA,), "far", "mx.far.example")
    assert endpoint.received is received
    assert endpoint.content == received.content
    assert {(each.upstream, each.endpoint, each.received) for each in (mailbox, capture)} == {("", "", None)}


async def test_one_copy_for_two_recipients_was_written_by_both(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "virtual").write_text("one@example.org anna@far.example\ntwo@example.org anna@far.example\n")
    flow = await stage.relay({**FAR, "aliases": {"tables": [str(tmp_path / "virtual")]}})
    await flow.send(sender=SENDER, to=["one@example.org", "two@example.org"])
    arrival = await stage.inbox.wait_for(to="TWO@example.org")
    assert (arrival.recipients, arrival.written) == ((ANNA,), ("one@example.org", "two@example.org"))


async def test_a_mailbox_by_lmtp_is_a_mailbox(stage: Stage, tmp_path: Path) -> None:
    flow = await stage.relay(house(tmp_path, store="lmtp", lmtp="dovecot.internal:24"))
    await send(flow, "Hello", "name@example.org")
    arrival = await stage.inbox.wait_for()
    assert (arrival.kind, arrival.upstream) == (Kind.MAILBOX, "dovecot.internal")
    await stage.inbox.assert_none()


async def test_our_dsn_is_tied_to_its_own_queue_id(stage: Stage) -> None:
    flow = await stage.relay(FAR)
    stage.upstreams["mx.far.example"].script(on("RCPT", "550 5.1.1 No such user", match="anna"))
    message = await send(flow, "Hello")
    dsn = await stage.inbox.wait_for(to=SENDER)
    (told,) = flow.journal.of(Happening.BOUNCED, message)
    assert (dsn.message, dsn.sender, dsn.kind) == (told.facts["dsn"], "", Kind.ENDPOINT)
    assert "550 5.1.1 No such user" in dsn.text


async def test_what_the_relay_did_not_send_is_nobodys(stage: Stage) -> None:
    flow = await stage.relay(FAR)
    message = await send(flow, "Hello")
    list_copy = (await stage.inbox.wait_for()).content  # it has the relay's Received field, and goes on elsewhere
    far = stage.upstreams["mx.far.example"]
    for content in (list_copy, letter("Subject: direct")):
        await Client().send((far.host, far.port), content, sender="", to=["ben@far.example"])
    passed, direct = await stage.inbox.at("mx.far.example").of("").wait_for(n=2)
    assert message.encode() in passed.content
    assert (passed.message, passed.relay, passed.written) == ("", "", ())
    assert (direct.message, direct.relay, direct.subject) == ("", "", "direct")


async def test_a_server_that_breaks_after_the_dot_has_it_twice(stage: Stage) -> None:
    flow = await stage.relay(FAR)
    stage.upstreams["mx.far.example"].script(on("CONTENT", Drop(), times=1))
    await send(flow, "Hello")
    assert (await stage.inbox.wait_for()).recipients == (ANNA,)
    await flow.advance(3600)
    assert len(stage.inbox.messages) == 2


async def test_what_came_before_all_was_at_rest_is_there(stage: Stage, tmp_path: Path) -> None:
    flow = await stage.relay(house(tmp_path))
    for rest in (stage.rest, stage.quiet):
        before = len(stage.inbox.messages)
        await send(flow, "Hello", "name@example.org")
        await rest()
        assert len(stage.inbox.messages) == before + 1


async def test_waiting_wakes_on_what_comes(stage: Stage) -> None:
    flow = await stage.relay(FAR)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(stage.inbox.wait_for(subject="second"))
        await send(flow, "first")
        await send(flow, "second")
    assert waiting.result().subject == "second"


async def test_a_message_is_returned_once_the_oldest_first(stage: Stage) -> None:
    flow = await stage.relay(CAPTURE)
    for subject in ("a1", "b1", "a2", "a3"):
        await send(flow, subject)
    inbox = stage.inbox
    await flow.stage.quiet()
    assert (await inbox.wait_for(subject="b*")).subject == "b1"
    assert [each.subject for each in await inbox.wait_for(subject="a*", n=2)] == ["a1", "a2"]
    with pytest.raises(MailAssertion, match="and none came; 1 message that is so was returned before"):
        await inbox.wait_for(subject="b*", timeout=0.01)
    assert (await inbox.wait_for()).subject == "a3"
    assert [each.subject for each in inbox.messages] == ["a1", "b1", "a2", "a3"]
    await inbox.assert_none()


async def test_two_who_wait_do_not_get_the_same(stage: Stage) -> None:
    flow = await stage.relay(CAPTURE)
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(stage.inbox.wait_for()) for _ in range(2)]
        messages = {await send(flow, "first"), await send(flow, "second")}
    assert {each.result().message for each in waiting} == messages


async def test_a_message_is_returned_by_one_part_only(stage: Stage) -> None:
    flow = await stage.relay(
        {
            "route": [{"match": "*@far.example", "mode": "endpoint", "endpoint": "far"}, *CAPTURE["route"]],
            "endpoint": FAR["endpoint"],
        }
    )
    await send(flow, "far")
    await send(flow, "captured", "kept@example.net")
    assert (await stage.inbox.at("far").wait_for()).subject == "far"
    await stage.inbox.at("MX.far.example").assert_none()
    assert (await flow.inbox.wait_for()).subject == "captured"
    assert stage.inbox.at("far") is stage.inbox.at("far")
    assert [each.subject for each in stage.inbox.at("far").messages] == ["far"]
    await stage.inbox.at("far").assert_none()
    await stage.inbox.assert_none()
    with pytest.raises(MailAssertion, match=r"expected 1 message at far within 0\.01 s, and none came"):
        await stage.inbox.at("far").wait_for(timeout=0.01)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"to": "ANNA@far.example"}, True),
        ({"to": "*@far.example"}, True),
        ({"to": "regex:A.{3}@far\\..*"}, True),
        ({"to": "regex:anna"}, False),
        ({"to": "ben@far.example"}, False),
        ({"subject": "Grüße, Anna"}, True),
        ({"subject": "grüße, anna"}, False),
        ({"subject": "*Anna"}, True),
        ({"subject": "Anna"}, False),
        ({"header": "x-tag: second"}, True),
        ({"header": {"X-Tag": "fir*"}}, True),
        ({"header": {"X-Tag": "first", "Subject": "Gr*"}}, True),
        ({"header": {"X-Tag": "third"}}, False),
        ({"header": "X-Other: *"}, False),
        ({"to": ANNA, "subject": "Other"}, False),
    ],
    ids=str,
)
async def test_what_is_asked_for(stage: Stage, wanted: dict[str, Any], found: bool) -> None:
    flow = await stage.relay(CAPTURE)
    subject = "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe=2C?=\r\n Anna"
    await flow.send(letter("X-Tag: first", subject, "X-Tag: second"), sender=SENDER, to="Anna@far.example")
    await flow.stage.quiet()
    if found:
        assert await stage.inbox.wait_for(**wanted, timeout=0.01)
    else:
        with pytest.raises(MailAssertion):
            await stage.inbox.wait_for(**wanted, timeout=0.01)


@pytest.mark.parametrize("header", ["X-Tag", {"X-Tag": "regex:("}], ids=["no colon", "no pattern"])
async def test_what_cannot_be_asked_for(stage: Stage, header: Any) -> None:
    with pytest.raises(ValueError, match=r"^header = |^the pattern does not compile"):
        await stage.inbox.wait_for(header=header)


async def test_nothing_comes_where_nothing_is_due(stage: Stage) -> None:
    flow = await stage.relay(FAR)
    stage.upstreams["mx.far.example"].script(on("RCPT", "451 4.7.1 Greylisted", times=1))
    await send(flow, "later")
    await stage.inbox.assert_none()  # one that waits for its next attempt is not under way
    await flow.advance(3600)
    with pytest.raises(MailAssertion, match=r"expected no more mail to \*, and 1 message came") as raised:
        await stage.inbox.assert_none(to="*")
    assert "451 4.7.1 Greylisted" in str(raised.value)
    await stage.inbox.assert_none(subject="another")


async def test_nothing_comes_only_once_what_is_under_way_has_come(stage: Stage) -> None:
    flow = await stage.relay(FAR)
    go = asyncio.Event()
    far = stage.upstreams["mx.far.example"]
    far.script(on("DATA", Wait(go)))
    await send(flow, "slow")

    async def goes_on() -> None:
        await far.heard("DATA")
        go.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(goes_on())
        with pytest.raises(MailAssertion, match='expected no more mail with the subject "slow", and 1 message came'):
            await stage.inbox.assert_none(subject="slow")


async def test_what_is_still_open_is_named(stage: Stage) -> None:
    flow = await stage.relay(FAR)
    go = asyncio.Event()
    stage.upstreams["mx.far.example"].script(on("EHLO", Wait(go)))
    message = await send(flow, "stuck")
    reader, writer = await asyncio.open_connection(*flow.relay.addresses["default"])
    writer.write(b"EHLO idle.client.test\r\n")
    await reader.readuntil(b"250 HELP\r\n")
    with pytest.raises(MailAssertion, match=r"expected that all comes to rest within 0\.1 s, and it did not") as raised:
        await stage.inbox.assert_none(timeout=0.1)
    said = str(raised.value)
    assert "relay: a session of 127.0.0.1 on listener default is open\n" in said
    assert "<- EHLO idle.client.test\n" in said
    assert f"relay: delivery 0 of {message}, endpoint far for {ANNA}, is under way" in said
    go.set()
    writer.close()


async def test_a_failure_tells_what_came_and_why(stage: Stage) -> None:
    flow = await stage.relay({"domains": ["far.example"], "route": [{"match": "kept@far.example", "mode": "capture"}]})
    await send(flow, "other", "kept@far.example")
    await flow.send(sender=SENDER, to=ANNA)
    with pytest.raises(MailAssertion) as raised:
        await stage.inbox.wait_for(to=ANNA, n=2, timeout=0.1)
    first, refused, table, *_, seed = str(raised.value).split("\n\n")
    assert first == "expected 2 messages to anna@far.example within 0.1 s, and none came"
    assert refused.startswith("relay refused anna@far.example: 550 5.1.1 User unknown: check the spelling of the addr")
    assert table.startswith("1 message arrived:\n")
    assert "kept@far.example" in table
    assert seed.startswith("seed 7: ")


async def test_a_shared_stage_shows_each_test_its_own(stage: Stage) -> None:
    flow = await stage.relay(CAPTURE)
    mine = Inbox(stage, lambda addresses: any("+me@" in each for each in addresses), " with +me")
    await send(flow, "theirs", "anna+them@far.example")
    await send(flow, "mine", "anna+me@far.example")
    await stage.inbox.wait_for(subject="mine")
    with pytest.raises(MailAssertion) as raised:
        await mine.assert_none()
    assert str(raised.value).startswith("expected no more mail with +me, and 1 message came\n")
    assert "anna+them" not in str(raised.value)
    assert [each.subject for each in mine.messages] == ["mine"]


def arrived(content: bytes) -> Arrival:
    return Arrival(Kind.CAPTURE, "relay", SENDER, (ANNA,), (ANNA,), content, "", 0.0)


@pytest.mark.parametrize("end", [b"\r\n", b"\n"], ids=["wire", "Maildir"])
def test_a_message_is_read(end: bytes) -> None:
    content = letter(
        "X-Tag: first",
        "subject: =?utf-8?b?R3LDvMOfZQ==?=\r\n  to all",
        "X-Tag:second",
        "X-Raw: Grüße",
        "X-Fold: a\r\n\tb",
        "MIME-Version: 1.0",
        'Content-Type: multipart/alternative; boundary="="',
        body="--=\r\n\r\nText\r\n--=\r\nContent-Type: text/html; charset=latin-1\r\n\r\n<p>HTML\r\n--=--",
    )
    message = arrived(content.replace(b"\r\n", end))
    assert message.subject == "Grüße to all"
    assert (message.headers("x-tag"), message.header("X-Tag")) == (["first", "second"], "first")
    assert (message.header("X-Raw"), message.header("X-Fold")) == ("Grüße", "a b")
    assert repr(message) == f"<Arrival: capture to {ANNA}, 'Grüße to all', {len(message.content)} octets>"
    assert (message.header("X-None"), message.headers("X-None")) == (None, [])
    assert (message.text, message.html) == ("Text", "<p>HTML")
    assert message.email["X-Tag"] == "first"


def test_a_message_without_anything_is_read() -> None:
    message = arrived(b"")
    assert (message.subject, message.text, message.html) == ("", "", "")
