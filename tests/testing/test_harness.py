"""The harness: a relay in a thread of its own, asked from threads and event loops."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.message import EmailMessage

import pytest

from smtproute.app import Refused
from smtproute.config.document import Mistake
from smtproute.core.settings import Kind
from smtproute.testing import Drop, Fault, Hang, Harness, MailAssertion, on
from smtproute.testing.thread import NotRunning

PARTNER = {
    "domains": ["example.org"],
    "endpoint": {"partner": {"servers": ["mx.partner.example"]}},
    "route": [{"match": "*@partner.example", "endpoint": "partner"}],
}
SEALED = {
    **PARTNER,
    "listener": {"mx": {"role": "inbound", "bind": ":25"}},
    "arc": {"keys": {"relay.test": {"selector": "mail", "file": "/nowhere/mail.pem"}}, "sign": "relay.test"},
}
LETTER = b"From: a@else.example\r\nSubject: Hello\r\n\r\nHello.\r\n"


@pytest.fixture
def harness() -> Iterator[Harness]:
    with Harness(PARTNER, seed=1) as harness:
        yield harness


def test_a_message_from_end_to_end(harness: Harness) -> None:
    sent = harness.send(LETTER, sender="a@else.example", to=["b@partner.example", "c@nobody.example"])
    assert sent.accepted == ("b@partner.example", "c@nobody.example")
    copy = harness.inbox.wait_for(to="b@partner.example", subject="Hello")
    assert (copy.kind, copy.endpoint, copy.upstream) == (Kind.ENDPOINT, "partner", "mx.partner.example")
    assert harness.inbox.at("partner").messages == [copy]
    assert harness.inbox.wait_for(n=1).recipients == ("c@nobody.example",)
    harness.inbox.assert_none()
    assert len(harness.inbox.messages) == 2
    assert "endpoint partner" in harness.trace(sent.id)
    assert harness.upstream().received[0].recipients == ("b@partner.example",)
    assert harness.upstream().inbox.messages == [copy]


def test_any_client_can_send_to_it(harness: Harness) -> None:
    with smtplib.SMTP(harness.host, harness.port) as client:
        client.login("whoever", "whatever")
        client.sendmail("a@else.example", ["b@partner.example"], LETTER)
    assert harness.upstream("mx.partner.example").inbox.wait_for().content.endswith(b"\r\n\r\nHello.\r\n")


@pytest.mark.parametrize(
    ("written", "arrived"),
    [
        ("Subject: Hi\n\nOne\ntwo\n", b"Subject: Hi\r\n\r\nOne\r\ntwo\r\n"),
        (LETTER, LETTER),
    ],
    ids=["text", "octets"],
)
def test_what_is_sent_is_as_it_was_written(written: str | bytes, arrived: bytes) -> None:
    with Harness() as harness:
        assert harness.send(written, to="b@partner.example").content == arrived
        assert harness.inbox.wait_for().content == arrived


def test_a_message_of_the_email_package() -> None:
    letter = EmailMessage()
    letter["Subject"] = "Grüße"
    letter.set_content("Zeile\n")
    with Harness() as harness:
        harness.send(letter, to="b@partner.example")
        copy = harness.inbox.wait_for(subject="Grüße")
    assert copy.text == "Zeile\n"


def test_from_another_event_loop(harness: Harness) -> None:
    async def asked() -> None:
        aio = harness.aio
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(aio.inbox.wait_for(to="b@partner.example"))
            group.create_task(aio.send(to="b@partner.example"))
        assert waiting.result().endpoint == "partner"
        partner = await aio.upstream("partner")
        await partner.script(on("RCPT", "550 5.1.1 No"))
        await aio.dns.set("else.example", "TXT", ["v=spf1 -all"])
        await aio.clock.advance("1m")
        await aio.inbox.assert_none()
        with pytest.raises(MailAssertion, match="expected 1 message to nobody@partner"):
            await aio.inbox.at("partner").wait_for(to="nobody@partner.example", timeout=0.01)

    asyncio.run(asked())


def test_from_its_own_event_loop(harness: Harness) -> None:
    """As in what a server calls after a message: there a coroutine is awaited, and nothing is waited for."""

    async def asked() -> str:
        assert threading.current_thread() is not threading.main_thread()
        assert (await harness.aio.send(to="b@partner.example")).id
        assert (await harness.aio.inbox.wait_for()).endpoint == "partner"
        with pytest.raises(RuntimeError, match=r"use \.aio"):
            harness.send(to="b@partner.example")
        return "done"

    assert harness._ask(asked()) == "done"


def test_who_stops_waiting_does_not_take_a_message(harness: Harness) -> None:
    async def asked() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await harness.aio.inbox.wait_for(timeout=60)

    asyncio.run(asked())
    harness.send(to="b@partner.example")
    harness.inbox.wait_for()


def test_it_is_asked_only_while_it_runs() -> None:
    harness = Harness()
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            harness.inbox.wait_for(to="nobody@example.org", timeout=60)
        except NotRunning as raised:
            ended.append(raised)

    with pytest.raises(NotRunning):
        harness.quiet()
    with harness:
        waiting = threading.Thread(target=wait)
        waiting.start()
        harness.quiet()
    waiting.join(30)
    assert [str(each) for each in ended] == ["it is not running any more"]
    with pytest.raises(NotRunning):
        harness.send(to="a@example.org")


@pytest.mark.parametrize("waits", ["in a thread", "in a loop"])
def test_what_the_relay_dies_of_is_told_to_who_waits(waits: str) -> None:
    async def broken() -> None:
        raise ArithmeticError("a fault of ours")

    async def fail(harness: Harness) -> None:
        harness._core.flow.relay._tasks.create_task(broken())
        await asyncio.Event().wait()

    async def elsewhere(harness: Harness) -> None:
        await harness.aio._ask(fail(harness))

    harness = Harness()
    told: list[NotRunning] = []
    with pytest.raises(ExceptionGroup) as left, harness:
        try:
            if waits == "in a loop":
                asyncio.run(elsewhere(harness))
            else:
                harness._ask(fail(harness))
        except NotRunning as raised:
            told.append(raised)
    assert ["a fault of ours" in str(each) for each in told] == [True]
    assert isinstance(told[0].__cause__, ExceptionGroup)
    assert left.group_contains(ArithmeticError, match="a fault of ours")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"domain": ["example.org"]}, 'unknown key. Did you mean "domains"?'),
        ("domains = ", "config"),
        (42, "config: 42 is no configuration"),
    ],
    ids=["key", "toml", "number"],
)
def test_a_mistake_in_the_configuration(config: dict[str, object] | str | int, told: str) -> None:
    with pytest.raises(Mistake) as mistake, Harness(config):  # type: ignore[arg-type]
        pass
    assert told in str(mistake.value)


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda each: each.settings("tls"), 'there is no tls = \'tls\'. Write "starttls", "implicit" or None.'),
        (lambda each: each.send(to="b@c.example", listener="zz"), "there is no listener 'zz'. There are: default, tls"),
        (lambda each: each.clock.advance("1 hour"), 'advance(\'1 hour\'): a duration is wanted. Write "30s", "5m"'),
        (lambda each: each.dns.set("a", "A", "1.2.3"), "set('a', 'A', '1.2.3'): Text input is malformed. Write"),
        (lambda each: each.dns.set("a", "AB", "1"), "set('a', 'AB', '1'): DNS resource record type is unknown. Write"),
        (
            lambda each: each.upstream().wait(1, timeout=0.01),
            "waited 0.01 s for 1 message: there were 0 messages on 0 connections",
        ),
    ],
    ids=["tls", "listener", "time", "record", "type", "wait"],
)
def test_what_cannot_be_is_told_in_a_line(harness: Harness, ask: Callable[[Harness], object], told: str) -> None:
    with pytest.raises((ValueError, LookupError, TimeoutError)) as raised:
        ask(harness)
    assert str(raised.value).startswith(told) and "\n" not in str(raised.value)
    assert raised.value.__context__ is None or raised.value.__suppress_context__, "nothing else is shown"
    files = [entry.path.name for entry in raised.traceback]  # type: ignore[union-attr]
    assert {*files} <= {"test_harness.py", "harness.py", "bench.py", "thread.py"}, files


def test_it_says_how_it_is_begun() -> None:
    for ask in (lambda: Harness().send(to="a@b.example"), lambda: Harness().host, lambda: Harness().inbox.wait_for()):
        with pytest.raises(NotRunning, match=r"not running yet: ask it inside `with Harness\(\.\.\.\) as smtproute:`"):
            ask()


def test_a_report_names_what_was_refused_and_who_connected() -> None:
    with Harness({"default": {"mode": "reject"}}, seed=1) as harness:
        assert f"no client has connected to {harness.host}:{harness.port}" in harness.report()
        with pytest.raises(MailAssertion, match="no client has connected to"):
            harness.inbox.wait_for(timeout=0.01)
        with smtplib.SMTP(harness.host, harness.port) as client:
            client.ehlo()
            assert "relay had 1 connection and no message: the last words were\n  -> 250" in harness.report()
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                client.sendmail("a@else.example", ["b@partner.example"], LETTER)
        assert "relay refused b@partner.example: 550 5.7.1" in harness.report()
    with Harness() as harness:
        with pytest.raises(ssl.SSLError), smtplib.SMTP(harness.host, harness.port) as client:
            client.starttls(context=ssl.create_default_context())
        harness.quiet()
        assert "no message: the last words were\n  TLS handshake failed: " in harness.report()


def test_time_that_does_not_pass_says_what_is_open(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtproute.testing.bench.REST", 0.1)
    harness.upstream().script(on("EHLO", Hang()))
    sent = harness.send(to="b@partner.example")
    with pytest.raises(MailAssertion, match=f"delivery 0 of {sent.id}, endpoint partner for b@partner.example, is"):
        harness.clock.advance("1h")


def test_a_new_configuration(harness: Harness) -> None:
    harness.assert_route("b@partner.example", endpoint=("partner", "b@partner.example"))
    harness.configure(None)
    harness.assert_route("b@partner.example", capture="b@partner.example")
    with pytest.raises(Mistake, match="domain"):
        harness.configure({"domain": []})
    with pytest.raises(Refused):
        harness.configure({"arc": {"keys": {"example.org": {"selector": "mail", "file": __file__}}}})
    harness.assert_route("b@partner.example", capture="b@partner.example")


def test_explain(harness: Harness) -> None:
    told = harness.explain("b@partner.example", "c@nobody.example", sender="a@else.example")
    assert "endpoint partner" in told and "c@nobody.example" in told
    with pytest.raises(ValueError, match="there is no listener 'mx'"):
        harness.explain("b@partner.example", listener="mx")
    with pytest.raises(ValueError, match="say where it goes: mailbox, endpoint, capture, held or bounce; or refused"):
        harness.assert_route("b@partner.example")
    with pytest.raises(MailAssertion, match=r"seed 1: reproduce with Harness\(seed=1\)$"):
        harness.assert_route("b@partner.example", refused="550")


@pytest.mark.parametrize("tls", [None, "starttls", "implicit"])
def test_the_settings_of_an_application(tls: str | None) -> None:
    with Harness() as harness:
        found = harness.settings(tls)  # type: ignore[arg-type]
        assert (found["EMAIL_HOST"], found["MAIL_SERVER"]) == (harness.host, harness.host)
        assert found["EMAIL_PORT"] == harness.addresses["tls" if tls == "implicit" else "default"][1]
        assert found["EMAIL_USE_TLS"] == found["MAIL_USE_TLS"] == found["MAIL_STARTTLS"] == (tls == "starttls")
        assert found["EMAIL_USE_SSL"] == found["MAIL_USE_SSL"] == found["MAIL_SSL_TLS"] == (tls == "implicit")


def test_the_listener_for_an_application() -> None:
    listeners = {
        "mx": {"role": "inbound", "bind": ":25"},
        "app": {"role": "submission", "bind": ":587", "auth": "any"},
    }
    with Harness({"listener": listeners}) as harness:
        found = harness.settings()
        assert found["EMAIL_PORT"] == harness.addresses["app"][1] != harness.port
        with smtplib.SMTP(found["MAIL_SERVER"], found["MAIL_PORT"]) as client:
            client.login(found["MAIL_USERNAME"], found["MAIL_PASSWORD"])
        with pytest.raises(LookupError, match=r"There are: mx \(tls = none\), app"):
            harness.settings("implicit")


def test_time(harness: Harness) -> None:
    harness.upstream().script(on("RCPT", "451 4.7.1 Come back", times=3))
    before = harness.clock.now()
    harness.send(to="b@partner.example")
    harness.inbox.assert_none()
    harness.clock.advance("1d")
    assert harness.inbox.wait_for().at < harness.clock.now()
    assert harness.clock.now() - before >= 86400
    harness.clock.advance(60)
    with pytest.raises(ValueError, match='Write "30s"'):
        harness.clock.advance("soon")


def test_where_the_clock_begins() -> None:
    with Harness(now=datetime(2030, 1, 2, tzinfo=UTC)) as harness:
        harness.send(to="a@example.org")
        assert harness.inbox.wait_for().header("Date") == "Wed, 02 Jan 2030 00:00:00 -0000"


def test_dns() -> None:
    config = {"default": {"endpoint": "far"}, "endpoint": {"far": {"discover": "recipient"}}}
    with Harness(config) as harness:
        harness.dns.set("far.example", "MX", ["10 mx.far.example"])
        far = harness.upstream("mx.far.example")
        harness.send(to="b@far.example")
        assert far.inbox.wait_for().upstream == "mx.far.example"
        assert ("far.example", "MX") in [each[:2] for each in harness.dns.queries]
        harness.dns.set("gone.example", "MX", Fault.SERVFAIL)
        sent = harness.send(to="b@gone.example")
        harness.inbox.assert_none(to="b@gone.example")
        assert "deferred" in harness.trace(sent.id)
        assert list(harness.upstreams) == ["mx.far.example"]
        with pytest.raises(LookupError, match="ask for one by its host"):
            harness.upstream("far")
        with pytest.raises(LookupError, match=r"There are: far, mx\.far\.example"):
            harness.upstream("nowhere")


def test_which_upstream_is_meant(harness: Harness) -> None:
    assert harness.upstream("partner").address == harness.upstream("MX.partner.example").address
    harness.upstream("mx.other.example")
    with pytest.raises(LookupError, match="which upstream is meant"):
        harness.upstream()


def test_a_seed_repeats_what_chance_decides() -> None:
    def outcomes(seed: int) -> list[bool]:
        with Harness(PARTNER, seed=seed) as harness:
            harness.upstream().script(on("CONTENT", "554 5.6.0 No", chance=0.5))
            found = []
            for _ in range(12):
                sent = harness.send(to="b@partner.example")
                harness.quiet()
                found.append("failed" in harness.trace(sent.id))
            return found

    assert outcomes(1) == outcomes(1)
    assert outcomes(1) != outcomes(2)


def test_mail_as_somebody_else_signs_and_seals_it() -> None:
    with Harness(SEALED) as harness:
        author, mailing_list = harness.key("else.example"), harness.key("list.example", "s1")
        assert (mailing_list.domain, mailing_list.selector) == ("list.example", "s1")
        letter = mailing_list.seal(author.sign(LETTER), results="dkim=pass header.d=else.example")
        sent = harness.send(letter, sender="a@else.example", to="b@partner.example")
        copy = harness.inbox.wait_for()
        assert "dkim=pass" in harness.trace(sent.id)
        harness.assert_arc(copy, cv="pass", i=2, domain="relay.test", selector="mail")
        harness.assert_unchanged(sent, copy)
        with pytest.raises(MailAssertion) as failed:
            harness.assert_arc(copy, cv="none", i=1)
        assert "boss" not in str(failed.value) and f"seed {harness.seed}" in str(failed.value)
        assert "endpoint partner for b@partner.example" in str(failed.value)


def test_a_message_that_was_changed(harness: Harness) -> None:
    sent = harness.send(LETTER, to="b@partner.example")
    copy = harness.inbox.wait_for()
    harness.assert_unchanged(sent, copy)
    with pytest.raises(MailAssertion) as failed:
        harness.assert_unchanged(LETTER.replace(b"Hello.", b"Hallo."), copy)
    text = str(failed.value)
    assert text.startswith(
        "expected the message as it was sent, with header fields put in front; it was changed:\n  line "
    )
    assert "Hallo." in text and "1 message arrived:" in text and sent.id in text and text.count("seed 1:") == 1


def test_a_shared_relay_has_a_view_for_each() -> None:
    with Harness({"srs": {"domain": "relay.test"}, **PARTNER}) as harness:
        one, other = harness.shared("t1"), harness.shared("t11")
        assert one.address("anna@example.org") == "anna+t1@example.org"
        assert one.address() != one.address()
        one.send(to=one.address("b@partner.example"))
        other.send(to=other.address("b@partner.example"))
        other.send(sender=other.address("a@else.example"), to="b@partner.example")
        assert one.inbox.wait_for().recipients == ("b+t1@partner.example",)
        one.inbox.assert_none()
        assert [each.sender for each in other.inbox.wait_for(n=2)] == ["sender@client.test", "a+t11@else.example"]
        other.inbox.assert_none()
        assert len(one.upstream("partner").inbox.messages) == 1
        assert one.report().count("received") == 1 and other.report().count("received") == 2


def test_a_server_that_breaks_off(harness: Harness) -> None:
    partner = harness.upstream()
    partner.script(on("CONTENT", Drop(), times=1))
    harness.send(to="b@partner.example")
    partner.connected()
    partner.quiet()
    harness.clock.advance("1h")
    assert len(partner.wait(2)) == 2, "what it took before it broke off it takes again"


def test_what_does_not_come_to_rest_is_told(harness: Harness) -> None:
    partner = harness.upstream("partner")
    partner.script(on("DATA", Hang()))
    harness.send(to="b@partner.example")
    with pytest.raises(TimeoutError, match=r"there were 0 messages on 1 connection\nconnection 1 is open:\n"):
        partner.wait(1, timeout=0.5)
    with pytest.raises(MailAssertion, match=r"endpoint partner for b@partner.example, is under way"):
        harness.quiet(timeout=0.01)


def test_a_route_that_is_not_so_is_told_with_what_arrived(harness: Harness) -> None:
    harness.send(to="b@partner.example")
    harness.quiet()
    with pytest.raises(MailAssertion) as raised:
        harness.assert_route("b@partner.example", capture="b@partner.example")
    assert "1 message arrived:" in str(raised.value)
    assert "<- RCPT TO:<b@partner.example>" in str(raised.value)


def test_the_line_end_that_smtp_adds_is_no_change(harness: Harness) -> None:
    sent = b"Subject: x\r\n\r\nno end"
    harness.send(sent, to="b@partner.example")
    harness.assert_unchanged(sent, harness.inbox.wait_for())
