"""The client of tests, against the scripted server."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from smtproute.core.settings import ListenerTls
from smtproute.core.transcript import Arrow
from smtproute.testing.certificates import Authority, CertificateFault
from smtproute.testing.client import Client, Sent, letter
from smtproute.testing.clock import TurnedClock
from smtproute.testing.rules import Rule
from smtproute.testing.upstream import Drop, Mute, Raw, Upstream, on

CONTENT = b"Subject: hello\r\n\r\n.dot\r\n..\r\nHello.\r\n"
ENVELOPE = ["EHLO", "MAIL", "RCPT", "RCPT"]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.file)


async def send(upstream: Upstream, content: bytes = CONTENT, to: tuple[str, ...] = ("a@x.test",), **how: Any) -> Sent:
    return await Client(**how).send((upstream.host, upstream.port), content, sender="from@here.test", to=to)


def said(sent: Sent) -> list[str]:
    """Its own lines."""
    return [line.text for line in sent.transcript if line.arrow in (Arrow.SENT, Arrow.SENT_TLS)]


def codes(replies: Mapping[str, str]) -> dict[str, str]:
    return {key: reply[:3] for key, reply in replies.items()}


async def test_a_message_is_sent_and_each_reply_kept() -> None:
    async with Upstream([on("EHLO", "250 far.test\nSIZE 1000\nAUTH PLAIN")]) as upstream:
        sent = await send(upstream, to=("a@x.test", "b@x.test"), clock=TurnedClock(7.0))
        await upstream.quiet()
    (received,) = upstream.received
    assert (received.content, received.recipients, received.helo) == (CONTENT, ("a@x.test", "b@x.test"), "client.test")
    assert sent.accepted == sent.recipients == ("a@x.test", "b@x.test")
    assert sent.replies == {
        "CONNECT": "220 upstream.test ESMTP",
        "EHLO": "250 far.test\nSIZE 1000\nAUTH PLAIN",
        "MAIL": "250 2.1.0 Ok",
        "a@x.test": "250 2.1.5 Ok",
        "b@x.test": "250 2.1.5 Ok",
        "DATA": "250 2.0.0 Taken",
        "QUIT": "221 2.0.0 Bye",
    }
    assert [f"{line.arrow} {line.text}" for line in sent.transcript][-6:] == [
        "<- 354 End with a dot",
        f"-> [{len(CONTENT)} octets]",
        "-> .",
        "<- 250 2.0.0 Taken",
        "-> QUIT",
        "<- 221 2.0.0 Bye",
    ]
    assert {line.at for line in sent.transcript} == {7.0}
    assert sent.id == ""


@pytest.mark.parametrize(
    ("reply", "id"),
    [
        ("250 2.0.0 Ok: queued as 0123456789ABCDE", "0123456789ABCDE"),
        ("250 2.0.0 Ok: queued as 4XyZ (relayed as 0123456789ABCDE)", "0123456789ABCDE"),
        ("250 2.0.0 Ok: queued as EDCBA9876543210 (relayed as 0123456789ABCDE)", "0123456789ABCDE"),
        ("250 2.0.0 Ok: queued as 4XyZ", ""),
    ],
)
async def test_the_queue_id_is_read_off_the_reply(reply: str, id: str) -> None:
    async with Upstream([on("CONTENT", reply)]) as upstream:
        assert (await send(upstream)).id == id


@pytest.mark.parametrize(
    ("script", "accepted", "replies", "commands"),
    [
        ([on("CONNECT", "421 4.3.2 Later")], (), {"CONNECT": "421"}, []),
        ([on("CONNECT", "554 5.7.1 Not you")], (), {"CONNECT": "554"}, ["QUIT"]),
        ([on("EHLO", "550 5.7.1 Not you")], (), {"CONNECT": "220", "EHLO": "550", "QUIT": "221"}, ["EHLO", "QUIT"]),
        ([on("MAIL", "550 5.7.1 No")], (), {"MAIL": "550", "QUIT": "221"}, ["EHLO", "MAIL", "QUIT"]),
        ([on("MAIL", Drop())], (), {"EHLO": "250"}, ["EHLO", "MAIL"]),
        ([on("MAIL", Raw(b"hello\r\n"), Mute())], (), {"EHLO": "250"}, ["EHLO", "MAIL"]),
        (
            [on("RCPT", "550 5.1.1 No", match="a@")],
            ("b@x.test",),
            {"a@x.test": "550", "b@x.test": "250", "DATA": "250", "QUIT": "221"},
            [*ENVELOPE, "DATA", ".", "QUIT"],
        ),
        (
            [on("RCPT", "550 5.1.1 No")],
            (),
            {"a@x.test": "550", "b@x.test": "550", "QUIT": "221"},
            [*ENVELOPE, "QUIT"],
        ),
        (
            [on("RCPT", "421 4.3.2 Later", match="b@")],
            (),
            {"a@x.test": "250", "b@x.test": "421"},
            ENVELOPE,
        ),
        ([on("DATA", "452 4.3.1 No room")], (), {"DATA": "452", "QUIT": "221"}, [*ENVELOPE, "DATA", "QUIT"]),
        ([on("CONTENT", "550 5.7.1 Spam")], (), {"DATA": "550", "QUIT": "221"}, [*ENVELOPE, "DATA", ".", "QUIT"]),
        ([on("CONTENT", Drop())], (), {"DATA": "354"}, [*ENVELOPE, "DATA", "."]),
    ],
    ids=[
        "421",
        "554",
        "EHLO",
        "MAIL",
        "MAIL, closed",
        "MAIL, garbage",
        "one recipient",
        "every recipient",
        "recipient, 421",
        "DATA",
        "content",
        "content, closed",
    ],
)
async def test_what_is_refused_is_an_answer(
    script: list[Rule], accepted: tuple[str, ...], replies: dict[str, str], commands: list[str]
) -> None:
    async with Upstream(script) as upstream:
        sent = await send(upstream, to=("a@x.test", "b@x.test"))
    assert sent.accepted == accepted
    assert replies.items() <= codes(sent.replies).items()
    assert ("QUIT" in sent.replies) is ("QUIT" in replies)
    assert [line.split()[0] for line in said(sent) if not line.startswith("[")] == commands


@pytest.mark.parametrize(
    ("content", "taken"),
    [
        (b"no end", b"no end\r\n"),
        (b"", b"\r\n"),
        (b".\r\n", b".\r\n"),
        (b"A: b\r\n\r\n.\r\n..\r\n", b"A: b\r\n\r\n.\r\n..\r\n"),
        (b"A: b\n\n.\nbare\r\n", b"A: b\n\n.\nbare\r\n"),
        (b"A: \xe9\x00\r\n", b"A: \xe9\x00\r\n"),
    ],
    ids=["no end", "empty", "a dot", "dots", "bare LF", "octets"],
)
async def test_content_is_sent_as_it_is(content: bytes, taken: bytes) -> None:
    async with Upstream(extensions=("PIPELINING",)) as upstream:
        sent = await send(upstream, content)
    assert upstream.received[0].content == sent.content == taken
    assert f"[{len(taken)} octets]" in said(sent)


@pytest.mark.parametrize(
    ("content", "to", "parameters"),
    [
        (CONTENT, "a@x.test", ()),
        ("Subject: a\r\n\r\nGrüße\r\n".encode(), "a@x.test", ("BODY=8BITMIME",)),
        ("Subject: Grüße\r\n\r\n".encode(), "a@x.test", ("BODY=8BITMIME", "SMTPUTF8")),
        (CONTENT, "grüße@x.test", ("SMTPUTF8",)),
    ],
    ids=["ASCII", "body", "header", "address"],
)
async def test_what_a_message_needs_is_declared(content: bytes, to: str, parameters: tuple[str, ...]) -> None:
    async with Upstream() as upstream:
        await send(upstream, content, (to,))
    assert upstream.received[0].parameters == parameters


@pytest.mark.parametrize("tls", [ListenerTls.STARTTLS, ListenerTls.IMPLICIT])
async def test_tls(authority: Authority, tls: ListenerTls) -> None:
    implicit = tls is ListenerTls.IMPLICIT
    async with Upstream(tls=authority.context("localhost"), implicit=implicit) as upstream:
        sent = await send(upstream, tls=tls, context=trusting(authority))
    assert upstream.received[0].tls.startswith("TLSv1.3")
    assert ("-> STARTTLS" in {f"{line.arrow} {line.text}" for line in sent.transcript}) is not implicit
    assert sent.transcript[-1].arrow is Arrow.RECEIVED_TLS


async def test_tls_that_fails_is_an_answer(authority: Authority) -> None:
    wrong = authority.context("localhost", fault=CertificateFault.WRONG_NAME)
    async with Upstream(tls=wrong) as upstream:
        sent = await send(upstream, tls=ListenerTls.STARTTLS, context=trusting(authority))
    assert sent.accepted == ()
    assert "certificate verify failed" in sent.transcript[-1].text


async def test_tls_that_is_refused_is_an_answer() -> None:
    async with Upstream() as upstream:
        sent = await send(upstream, tls=ListenerTls.STARTTLS)
    assert codes(sent.replies) == {"CONNECT": "220", "EHLO": "250", "STARTTLS": "503", "QUIT": "221"}


@pytest.mark.parametrize("mechanisms", ["PLAIN LOGIN", "PLAIN", "LOGIN"])
@pytest.mark.parametrize("password", ["grüße", "wrong"], ids=["good", "wrong"])
async def test_a_login(authority: Authority, mechanisms: str, password: str) -> None:
    tls = {"tls": ListenerTls.IMPLICIT, "context": trusting(authority)}
    server = {"tls": authority.context("localhost"), "implicit": True}
    async with Upstream(users={"anna": "grüße"}, mechanisms=mechanisms, **server) as upstream:
        sent = await send(upstream, login=("anna", password), **tls)
    good = password == "grüße"
    assert [each.login for each in upstream.received] == ["anna"] * good
    assert sent.replies["AUTH"][:3] == ("235" if good else "535")
    assert ("MAIL" in sent.replies) is good
    secrets = ["AUTH PLAIN [credentials]"]
    if mechanisms == "LOGIN":
        secrets = ["AUTH LOGIN", "[credentials]", "[credentials]"]
    assert said(sent)[1 : 1 + len(secrets)] == secrets


async def test_hello_is_as_asked() -> None:
    async with Upstream() as upstream:
        sent = await send(upstream, hello="HELO", helo="[192.0.2.1]")
    assert upstream.received[0].helo == "[192.0.2.1]"
    assert sent.replies["HELO"] == "250 upstream.test"


async def test_lmtp_answers_each_recipient() -> None:
    script = [on("RCPT", "550 5.1.1 No", match="a@"), on("CONTENT", "552 5.2.2 Full", match="b@")]
    async with Upstream(script, lmtp=True) as upstream:
        sent = await send(upstream, to=("a@x.test", "b@x.test", "c@x.test"), hello="LHLO")
    assert sent.accepted == ("c@x.test",)
    assert sent.replies["b@x.test"] == "552 5.2.2 Full"
    assert codes(sent.replies) == {
        "CONNECT": "220",
        "LHLO": "250",
        "MAIL": "250",
        "a@x.test": "550",
        "b@x.test": "552",
        "c@x.test": "250",
        "QUIT": "221",
    }


async def test_a_reply_that_does_not_come_is_not_waited_for_for_ever() -> None:
    async with Upstream([on("MAIL", Mute())]) as upstream:
        with pytest.raises(TimeoutError):
            await send(upstream, timeout=0.05)


async def test_where_nobody_listens_there_is_no_connection() -> None:
    async with Upstream() as upstream:
        pass
    with pytest.raises(ConnectionRefusedError):
        await send(upstream)


@pytest.mark.parametrize("size", [0, 1000, 100_000])
def test_a_letter_is_as_long_as_asked(size: int) -> None:
    content = letter("a@x.test", ["b@x.test", "c@x.test"], at=0.0, id="1", size=size)
    assert content.startswith(
        b"From: a@x.test\r\nTo: b@x.test, c@x.test\r\nSubject: A letter\r\n"
        b"Date: Thu, 01 Jan 1970 00:00:00 -0000\r\nMessage-ID: <1@x.test>\r\n\r\nHello.\r\n"
    )
    assert size <= len(content) < max(size, 200) + 100
    assert b"\n" not in content.replace(b"\r\n", b"")


def test_a_letter_from_the_null_sender_has_an_author() -> None:
    assert letter("", ["b@x.test"], at=0.0, id="1").startswith(b"From: postmaster@client.test\r\n")
