"""The scripted upstream, spoken to by clients that are not ours."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiosmtplib
import pytest
import trustme

from smtproute.core.address import Address
from smtproute.core.reply import Reply
from smtproute.core.settings import EndpointTls, Server
from smtproute.core.transcript import Arrow
from smtproute.smtp.client import Connection, Dialogue, Mail
from smtproute.smtp.opening import Unreachable
from smtproute.testing.certificates import Authority, CertificateFault
from smtproute.testing.clock import TurnedClock
from smtproute.testing.upstream import (
    Drop,
    HalfClose,
    Hang,
    Plaintext,
    Rate,
    Raw,
    Received,
    Reset,
    Rule,
    Session,
    Slow,
    Upstream,
    Wait,
    on,
)
from smtproute.world import World

CONTENT = b"Subject: hello\r\n\r\n.dot\r\nHello.\r\n"


@asynccontextmanager
async def telnet(upstream: Upstream) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def converse(upstream: Upstream, *typed: bytes) -> list[str]:
    """Types one piece after another, each once the reply to the one before has come; the replies, the greeting first.

    "" stands for the end of the connection.
    """
    async with telnet(upstream) as (reader, writer):
        heard = [await reply(reader)]
        for piece in typed:
            writer.write(piece)
            heard.append(await reply(reader))
        return heard


async def reply(reader: asyncio.StreamReader) -> str:
    lines = b""
    while not lines or (lines and lines.splitlines()[-1][3:4] == b"-"):
        line = await reader.readline()
        lines += line
        if not line:
            break
    return lines.decode("latin-1").rstrip("\r\n")


async def deliver(upstream: Upstream, *recipients: str, content: bytes = CONTENT) -> str:
    client = aiosmtplib.SMTP(
        hostname="127.0.0.1", port=upstream.port, start_tls=False, local_hostname="client.test", timeout=10
    )
    async with client:
        _, said = await client.sendmail("sender@here.test", list(recipients or ("a@there.test",)), content)
        return said


async def opened(upstream: Upstream, trusted: ssl.SSLContext | None = None) -> Connection:
    """Our own client's connection. Raises Unreachable."""
    return await Connection.open(
        Server("mx.test", upstream.port),
        "127.0.0.1",
        tls=EndpointTls.NEVER if trusted is None else EndpointTls.REQUIRE,
        context=trusted,
        helo="relay.test",
        world=World(),
    )


async def relayed(upstream: Upstream, *recipients: str) -> Dialogue:
    """One message by our own client."""
    connection = await opened(upstream)
    try:
        mail = Mail(Address.parse("sender@here.test"), tuple(map(Address.parse, recipients or ("a@there.test",))))
        return await connection.send(mail, CONTENT)
    finally:
        connection.abort()


async def test_left_alone_it_takes_everything() -> None:
    async with Upstream() as upstream:
        assert await deliver(upstream, "a@there.test", "b@there.test") == "2.0.0 Taken"
        (received,) = await upstream.wait(1)
        await upstream.quiet()
    assert received.content == CONTENT
    assert (received.reverse_path, received.recipients) == ("sender@here.test", ("a@there.test", "b@there.test"))
    assert received.parameters == (f"size={len(CONTENT)}",)
    assert received.recipient_parameters == ((), ())
    assert (received.helo, received.tls, received.connection) == ("client.test", "", 1)
    assert [f"{line.arrow} {line.text}" for line in received.transcript][:2] == [
        "-> 220 upstream.test ESMTP",
        "<- EHLO client.test",
    ]
    assert received.transcript[-1].text == "."
    assert upstream.sessions[0].commands()[-1] == "QUIT"
    assert upstream.connections == 1


async def test_each_recipient_by_the_rule_that_matches_it() -> None:
    script = [
        on("RCPT", "550 5.1.1 No such user\nTry another", match="bob@"),
        on("RCPT", "451 4.2.1 Later", match="ann@", times=1),
    ]
    async with Upstream(script) as upstream:
        client = aiosmtplib.SMTP(hostname="127.0.0.1", port=upstream.port, start_tls=False)
        async with client:
            refused, _ = await client.sendmail("s@here.test", ["BOB@there.test", "ann@x.test", "c@x.test"], CONTENT)
            assert {address: answer.code for address, answer in refused.items()} == {
                "BOB@there.test": 550,
                "ann@x.test": 451,
            }
            assert refused["BOB@there.test"].message == "5.1.1 No such user\nTry another"
            refused, _ = await client.sendmail("s@here.test", ["bob@there.test", "ann@x.test"], CONTENT)
            assert list(refused) == ["bob@there.test"]
        assert [received.recipients for received in upstream.received] == [("c@x.test",), ("ann@x.test",)]


@pytest.mark.parametrize(
    ("verb", "heard"),
    [
        ("CONNECT", 0),
        ("EHLO", 1),
        ("MAIL", 2),
        ("RCPT", 3),
        ("DATA", 4),
        ("CONTENT", 5),
        ("RSET", 6),
        ("QUIT", 7),
    ],
)
async def test_every_verb_can_be_scripted(verb: str, heard: int) -> None:
    typed = (
        b"EHLO x\r\n",
        b"MAIL FROM:<>\r\n",
        b"RCPT TO:<a@b.test>\r\n",
        b"DATA\r\n",
        b"hello\r\n.\r\n",
        b"RSET\r\n",
        b"QUIT\r\n",
    )
    async with Upstream([on(verb, "421 4.3.2 Scripted")]) as upstream:
        replies = await converse(upstream, *typed[:heard])
        assert replies[heard] == "421 4.3.2 Scripted"
        assert all(text[:1] in ("2", "3") for text in replies[:heard])
        await upstream.quiet()
        assert len(upstream.received) == (1 if heard > 5 else 0)


async def test_without_enhanced_codes_there_are_none() -> None:
    async with Upstream(extensions=["8BITMIME"]) as upstream:
        assert await converse(upstream, b"EHLO x\r\n", b"MAIL FROM:<>\r\n", b"RCPT TO:<a@b.test>\r\n") == [
            "220 upstream.test ESMTP",
            "250-upstream.test\r\n250 8BITMIME",
            "250 Ok",
            "250 Ok",
        ]


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ([b"MAIL FROM:<>\r\n"], "503"),
        ([b"EHLO x\r\n", b"RCPT TO:<a@b.test>\r\n"], "503"),
        ([b"EHLO x\r\n", b"DATA\r\n"], "554"),
        ([b"EHLO x\r\n", b"MAIL FROM:<>\r\n", b"MAIL FROM:<>\r\n"], "503"),
        ([b"EHLO x\r\n", b"MAIL FROM:<>\r\n", b"RCPT TO:<>\r\n"], "501"),
        ([b"EHLO x\r\n", b"MAIL FROM:a@b.test\r\n"], "501"),
        ([b"EHLO x\r\n", b"MAIL TO:<a@b.test>\r\n"], "501"),
        ([b"EHLO x\r\n", b"MAIL FROM:<> SIZE=50000001\r\n"], "552"),
        ([b"EHLO x\r\n", b"MAIL FROM:<> RET=FULL\r\n"], "555"),
        ([b"HELO x\r\n", b"MAIL FROM:<> SIZE=1\r\n"], "555"),
        ([b"EHLO x\r\n", "MAIL FROM:<jörg@b.test>\r\n".encode()], "553"),
        ([b"EHLO x\r\n", b"MAIL FROM:<>\r\n", "RCPT TO:<jörg@b.test>\r\n".encode()], "553"),
        ([b"EHLO x\r\n", b"STARTTLS\r\n"], "503"),
        ([b"EHLO x\n"], "500"),
        ([b"WHAT\r\n"], "500"),
        ([b"CONTENT\r\n"], "500"),
        ([b"EHLO x\r\nMAIL FROM:<>\r\n"], "503"),
        ([b"HELO x\r\n", b"MAIL FROM:<>\r\nRCPT TO:<a@b.test>\r\n"], "503"),
        ([b"EHLO x\r\n", b"MAIL FROM:<>\r\n", b"RCPT TO:<a@b.test>\r\n", b"DATA\r\nhello\r\n.\r\n"], "503"),
    ],
)
async def test_it_is_strict(typed: list[bytes], code: str) -> None:
    async with Upstream() as upstream:
        replies = await converse(upstream, *typed)
        assert replies[-1][:3] == code
        assert all(text[0] == "2" for text in replies[:-1])


async def test_pipelining_up_to_data() -> None:
    async with Upstream() as upstream, telnet(upstream) as (reader, writer):
        await reply(reader)
        writer.write(b"EHLO x\r\n")
        await reply(reader)
        writer.write(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n")
        assert [(await reply(reader))[:3] for _ in range(3)] == ["250", "250", "354"]
        writer.write(b"one\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<e@f.test>\r\nDATA\r\n")
        assert [(await reply(reader))[:3] for _ in range(4)] == ["250", "250", "250", "354"]
        for octet in b"..\r\n..\r\n\r\n.\r\n":
            writer.write(bytes([octet]))
            await writer.drain()
        assert (await reply(reader))[:3] == "250"
        assert [received.content for received in upstream.received] == [b"one\r\n", b".\r\n.\r\n\r\n"]


async def test_empty_content() -> None:
    async with Upstream() as upstream:
        await converse(upstream, b"HELO x\r\n", b"MAIL FROM:<>\r\n", b"RCPT TO:<a@b.test>\r\n", b"DATA\r\n", b".\r\n")
        assert [received.content for received in upstream.received] == [b""]


@pytest.mark.parametrize("how", [Drop(), Reset()])
async def test_a_message_whose_reply_was_lost_was_taken(how: Drop | Reset) -> None:
    async with Upstream([on("CONTENT", how, times=1)]) as upstream:
        with pytest.raises(aiosmtplib.SMTPServerDisconnected):
            await deliver(upstream)
        await deliver(upstream)
        assert [received.connection for received in upstream.received] == [1, 2]


async def test_a_refused_message_was_not_taken() -> None:
    async with Upstream([on("CONTENT", "451 4.3.0 Later", match="^subject: HELLO", times=1)]) as upstream:
        with pytest.raises(aiosmtplib.SMTPDataError):
            await deliver(upstream)
        await deliver(upstream)
        assert len(upstream.received) == 1


async def test_raw_octets_and_two_replies() -> None:
    script = [on("NOOP", Raw(b"\xff\r\n"), times=1), on("NOOP", "250 one", "250 two")]
    async with Upstream(script) as upstream, telnet(upstream) as (reader, writer):
        await reply(reader)
        writer.write(b"NOOP\r\n")
        assert await reader.readline() == b"\xff\r\n"
        writer.write(b"NOOP\r\n")
        assert [await reply(reader), await reply(reader)] == ["250 one", "250 two"]


async def test_waiting_for_an_event() -> None:
    go = asyncio.Event()
    async with Upstream([on("CONTENT", Wait(go))]) as upstream, asyncio.TaskGroup() as group:
        delivery = group.create_task(deliver(upstream))
        await upstream.wait(1)
        assert not delivery.done()
        go.set()
    assert delivery.result() == "2.0.0 Taken"


async def test_leaving_breaks_who_hangs() -> None:
    async with asyncio.TaskGroup() as group, Upstream([on("MAIL", Hang())]) as upstream:
        hanging = group.create_task(converse(upstream, b"EHLO x\r\n", b"MAIL FROM:<>\r\n"))
        await upstream.heard("MAIL FROM:<>")
    assert hanging.result()[-1] == ""


async def test_acting_in_the_middle_of_the_content() -> None:
    async with Upstream([on("CONTENT", "552 5.3.4 Too big", after=1000)]) as upstream:
        await deliver(upstream)
        async with telnet(upstream) as (reader, writer):
            await reply(reader)
            for command in (b"HELO x\r\n", b"MAIL FROM:<>\r\n", b"RCPT TO:<a@b.test>\r\n", b"DATA\r\n"):
                writer.write(command)
                await reply(reader)
            writer.write(b"x" * 1000)
            assert await reply(reader) == "552 5.3.4 Too big"
            writer.write(b"\r\n.\r\nNOOP\r\n")
            assert await reply(reader) == "250 2.0.0 Ok"  # of NOOP: the content has had its reply
        assert len(upstream.received) == 1


async def test_on_message_runs_before_the_reply() -> None:
    seen: list[bytes] = []

    async def look(received: Received) -> None:
        await asyncio.sleep(0)
        seen.append(received.content)

    async with Upstream(on_message=look) as upstream:
        await deliver(upstream)
        assert seen == [CONTENT]


@pytest.mark.parametrize("implicit", [False, True])
async def test_tls(implicit: bool) -> None:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)

    def talk(port: int) -> None:
        if implicit:
            smtp: smtplib.SMTP = smtplib.SMTP_SSL("localhost", port, context=client)
        else:
            smtp = smtplib.SMTP("localhost", port)
            smtp.starttls(context=client)
        with smtp:
            smtp.sendmail("s@here.test", "a@there.test", CONTENT)
            assert not smtp.has_extn("STARTTLS")

    async with Upstream(tls=server, implicit=implicit) as upstream:
        await asyncio.to_thread(talk, upstream.port)
        (received,) = upstream.received
    assert received.tls.startswith("TLSv1.3 ")
    assert received.content == CONTENT
    assert {line.arrow for line in received.transcript[-8:]} == {Arrow.SENT_TLS, Arrow.RECEIVED_TLS}


async def test_what_comes_before_the_handshake_is_refused() -> None:
    async with Upstream(tls=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)) as upstream:
        assert (await converse(upstream, b"EHLO x\r\n", b"STARTTLS\r\nMAIL FROM:<>\r\n"))[-1][:3] == "503"


@pytest.mark.parametrize("mechanisms", ["PLAIN", "LOGIN", "PLAIN LOGIN"])
async def test_logins(mechanisms: str) -> None:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)

    def talk(port: int) -> None:
        with smtplib.SMTP("localhost", port) as smtp:
            smtp.ehlo()
            assert not smtp.has_extn("AUTH")
            assert smtp.mail("s@here.test")[0] == 530
            smtp.starttls(context=client)
            smtp.ehlo()
            assert smtp.esmtp_features["auth"].split() == mechanisms.split()
            assert smtp.mail("s@here.test")[0] == 530
            with pytest.raises(smtplib.SMTPAuthenticationError):
                smtp.login("me", "wrong")
            with pytest.raises(smtplib.SMTPAuthenticationError):
                smtp.login("nobody", "secret")
            for response in ("==", "bm8gbnVs"):
                if "PLAIN" in mechanisms:
                    assert smtp.docmd("AUTH", f"PLAIN {response}")[0] == 501
        with smtplib.SMTP("localhost", port) as smtp:
            smtp.starttls(context=client)
            smtp.login("me", "secret")
            assert smtp.docmd("AUTH", "PLAIN")[0] == 503
            smtp.sendmail("s@here.test", "a@there.test", CONTENT)

    async with Upstream(tls=server, users={"me": "secret"}, mechanisms=mechanisms) as upstream:
        await asyncio.to_thread(talk, upstream.port)
        (received,) = upstream.received
    assert received.login == "me"
    shown = "\n".join(line.text for session in upstream.sessions for line in session.transcript)
    secrets = [b64encode(text.encode()).decode() for text in ("me", "secret", "wrong", "\0me\0secret", "\0me\0wrong")]
    assert not [secret for secret in (*secrets, "bm8gbnVs") if secret in shown]
    assert shown.count("[credentials]") >= 3


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("AUTH PLAIN AG1lAHNlY3JldA==", "AUTH PLAIN [credentials]"),
        ("auth login bWU=", "auth login [credentials]"),
        ("AUTH LOGIN", "AUTH LOGIN"),
        ("AUTH AG1lAHNlY3JldA==", "AUTH [credentials]"),
        ("  AUTH  plain  AG1l", "  AUTH  plain [credentials]"),
        ("AUTHOR a", "AUTHOR a"),
    ],
)
async def test_what_a_login_says_is_not_written_down(line: str, shown: str) -> None:
    async with Upstream() as upstream:
        await converse(upstream, f"{line}\r\n".encode())
        await upstream.quiet()
    assert upstream.sessions[0].commands() == [shown]


async def test_lmtp_answers_each_recipient() -> None:
    begin = b"MAIL FROM:<s@here.test>\r\nRCPT TO:<a@home.test>\r\nRCPT TO:<b@home.test>\r\nDATA\r\n"
    async with Upstream([on("CONTENT", "552 5.2.2 Full", match="a@")], lmtp=True) as upstream:
        async with telnet(upstream) as (reader, writer):
            await reply(reader)
            for hello, code in ((b"EHLO x", "500"), (b"HELO x", "500"), (b"LHLO x", "250")):
                writer.write(hello + b"\r\n")
                assert (await reply(reader))[:3] == code
            writer.write(begin)
            assert [(await reply(reader))[:3] for _ in range(4)] == ["250", "250", "250", "354"]
            writer.write(CONTENT + b".\r\n")
            assert [await reply(reader) for _ in range(2)] == ["552 5.2.2 Full", "250 2.0.0 Taken"]
        (received,) = upstream.received
    assert (received.recipients, received.helo) == (("b@home.test",), "x")


async def test_lmtp_over_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "lmtp")

    def talk() -> None:
        with smtplib.LMTP(path) as lmtp:
            assert lmtp.sendmail("s@here.test", ["a@home.test"], CONTENT) == {}

    async with Upstream(lmtp=True, host=path) as upstream:
        await asyncio.to_thread(talk)
        assert [received.recipients for received in upstream.received] == [("a@home.test",)]


async def test_no_octets_in_place_of_a_reply_are_none() -> None:
    async with Upstream([on("RSET", Raw(b""))]) as upstream:
        assert (await converse(upstream, b"EHLO x\r\n", b"RSET\r\nNOOP x\r\nQUIT\r\n"))[-1] == "250 2.0.0 Ok"


async def test_waiting_in_vain_ends() -> None:
    async with Upstream() as upstream:
        with pytest.raises(TimeoutError):
            await upstream.wait(1, timeout=0.01)


def test_a_verb_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="RCTP"):
        on("RCTP", "550 No")


async def test_by_sender_and_recipient_over_the_transaction() -> None:
    script = [
        on("MAIL", "550 5.1.8 Not you", sender="bad@here.test"),
        on("RCPT", "550 5.1.1 Null senders only", recipient="bounces@there.test", sender="*@*.test"),
        on("DATA", "451 4.3.0 Not with her", recipient="ann@there.test"),
        on("CONTENT", "554 5.6.0 No", sender="late@here.test"),
    ]
    async with Upstream(script) as upstream:
        begun = b"EHLO x\r\n", b"MAIL FROM:<bad@here.test>\r\n", b"MAIL FROM:<late@here.test>\r\n"
        ann, bob = b"RCPT TO:<ann@there.test>\r\n", b"RCPT TO:<bob@there.test>\r\n"
        replies = await converse(upstream, *begun, b"RCPT TO:<bounces@there.test>\r\n", bob, ann, b"DATA\r\n")
        assert [text[:3] for text in replies[2:]] == ["550", "250", "550", "250", "250", "451"]
        replies = await converse(upstream, *begun, bob, b"DATA\r\n", b".\r\n")
        assert [text[:3] for text in replies[2:]] == ["550", "250", "250", "354", "554"]
        replies = await converse(upstream, b"EHLO x\r\n", b"MAIL FROM:<>\r\n", b"RCPT TO:<bounces@there.test>\r\n")
        assert replies[-1][:3] == "250"


async def test_lmtp_by_recipient_after_the_dot() -> None:
    script = [on("CONTENT", "452 4.2.2 Full", recipient="b@home.test", sender="s@here.test", times=1)]

    begin = b"MAIL FROM:<s@here.test>\r\nRCPT TO:<a@home.test>\r\nRCPT TO:<b@home.test>\r\nDATA\r\n"
    async with Upstream(script, lmtp=True) as upstream, telnet(upstream) as (reader, writer):
        await reply(reader)
        writer.write(b"LHLO x\r\n")
        await reply(reader)
        for second in ("452 4.2.2 Full", "250 2.0.0 Taken"):
            writer.write(begin)
            assert [(await reply(reader))[:3] for _ in range(4)] == ["250", "250", "250", "354"]
            writer.write(CONTENT + b".\r\n")
            assert [await reply(reader) for _ in range(2)] == ["250 2.0.0 Taken", second]
        taken = [received.recipients for received in upstream.received]
    assert taken == [("a@home.test",), ("a@home.test", "b@home.test")]


async def test_greylisting_until_the_clock_has_gone_on() -> None:
    clock = TurnedClock()
    async with Upstream([on("RCPT", greylist=300)], clock=clock) as upstream:
        for reply in (Reply(451, "4.7.1", "Greylisted, come back later"), Reply(250, "2.0.0", "Taken")):
            assert (await relayed(upstream)).answers[0].reply == reply
            await clock.advance(300)


async def test_a_rate_that_was_passed_ends_the_connection() -> None:
    clock = TurnedClock()
    async with Upstream([on("MAIL", rate=Rate(2))], clock=clock) as upstream:
        mail, rset = b"MAIL FROM:<>\r\n", b"RSET\r\n"
        replies = await converse(upstream, b"EHLO x\r\n", mail, rset, mail, rset, mail, b"NOOP\r\n")
        assert replies[-2:] == ["421 4.7.0 Too many, come back later", ""]
        assert [text[:3] for text in replies[2:6]] == ["250"] * 4
        assert (await relayed(upstream)).answers[0].reply == Reply(421, "4.7.0", "Too many, come back later")
        await clock.advance(1)
        assert (await relayed(upstream)).answers[0].reply == Reply(250, "2.0.0", "Taken")


async def test_slowly_octet_by_octet() -> None:
    clock = TurnedClock()
    script = [on("NOOP", Slow(4), "250-", times=1), on("NOOP", Slow(2), times=1)]
    async with Upstream(script, clock=clock) as upstream, telnet(upstream) as (reader, writer):
        await reply(reader)
        for expected, pause in ((b"250 \r\n", 0.25), (b"250 2.0.0 Ok\r\n", 0.5)):
            began = clock.now()
            writer.write(b"NOOP\r\n")
            for octet in expected:
                await clock.asleep()
                await clock.advance(pause)
                assert await reader.readexactly(1) == bytes([octet])
            assert clock.now() - began == pytest.approx(pause * len(expected))
        writer.write(b"WHAT\r\nNOOP\r\n")
        assert [(await reply(reader))[:3] for _ in range(2)] == ["500", "250"]


async def test_our_client_takes_a_slow_reply() -> None:
    async with Upstream([on("CONTENT", Slow(1000))]) as upstream:
        assert (await relayed(upstream)).answers[0].reply == Reply(250, "2.0.0", "Taken")


async def test_a_client_that_leaves_a_slow_server() -> None:
    clock = TurnedClock()
    async with Upstream([on("CONNECT", Slow(1), "220 " + "x" * 10_000)], clock=clock) as upstream:
        began = clock.now()
        async with telnet(upstream):
            await clock.asleep()
        while upstream.sessions[0].open:
            await clock.advance(1)
            await asyncio.sleep(0)
        assert clock.now() - began < 10_000


@pytest.mark.parametrize("said", [(), ("451 4.3.0 Later",)], ids=["silent", "with a reply"])
async def test_half_closed_it_reads_on(said: tuple[str, ...]) -> None:
    ended: list[Session] = []
    async with Upstream([on("MAIL", *said, HalfClose())], on_end=ended.append) as upstream:
        async with telnet(upstream) as (reader, writer):
            await reply(reader)
            writer.write(b"HELO x\r\n")
            await reply(reader)
            writer.write(b"MAIL FROM:<>\r\n")
            assert await reader.read() == b"".join(text.encode() + b"\r\n" for text in said)
            writer.write(b"x" * 3_000_000)  # more than sockets hold
            await writer.drain()
            assert upstream.sessions[0].open
            assert ended == []
        await upstream.quiet()
        assert ended == upstream.sessions
        assert upstream.sessions[0].transcript[-1].text == "our side is closed"
        dialogue = await relayed(upstream)
    assert not dialogue.usable
    assert [answer.reply for answer in dialogue.answers] == [Reply(451, "4.3.0", "Later") if said else None]


async def test_half_closed_under_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    trusted = ssl.create_default_context(cafile=authority.file)

    def talk(port: int) -> bytes:
        with smtplib.SMTP("localhost", port) as smtp:
            smtp.starttls(context=trusted)
            assert smtp.noop()[0] == 250
            smtp.putcmd("NOOP")
            try:
                return smtp.sock.recv(100)
            except ssl.SSLEOFError:
                return b""

    script = [on("NOOP", HalfClose(), skip=1)]
    async with Upstream(script, tls=authority.context("localhost")) as upstream:
        assert await asyncio.to_thread(talk, upstream.port) == b""
        await upstream.quiet()


async def test_plain_text_after_starttls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    trusted = ssl.create_default_context(cafile=authority.file)

    def talk(port: int) -> None:
        smtp = smtplib.SMTP("localhost", port)
        with pytest.raises(ssl.SSLError, match=r"wrong version|record layer"):
            smtp.starttls(context=trusted)
        smtp.close()

    async with Upstream([on("STARTTLS", Plaintext())], tls=authority.context("mx.test")) as upstream:
        await asyncio.to_thread(talk, upstream.port)
        with pytest.raises(Unreachable, match="TLS handshake failed"):
            await opened(upstream, trusted)
        replies = await converse(upstream, b"EHLO x\r\n", b"STARTTLS\r\n", b"\x16\x03\x01", b"NOOP\r\n")
        assert replies[-3:] == ["220 2.0.0 Go ahead", "500 5.5.2 There is no such command", "250 2.0.0 Ok"]
        assert not any(session.tls for session in upstream.sessions)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (None, ""),
        (CertificateFault.EXPIRED, "certificate has expired"),
        (CertificateFault.WRONG_NAME, "Hostname mismatch"),
        (CertificateFault.SELF_SIGNED, "self-signed certificate"),
    ],
)
async def test_certificates_with_a_fault(fault: CertificateFault | None, why: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    trusted = ssl.create_default_context(cafile=authority.file)

    def talk(port: int) -> str:
        smtp = smtplib.SMTP("localhost", port)
        try:
            smtp.starttls(context=trusted)
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
        finally:
            smtp.close()
        return ""

    async with Upstream(tls=authority.context("mx.test", fault=fault, more=["localhost"])) as upstream:
        assert why in await asyncio.to_thread(talk, upstream.port)
        if fault is None:
            (await opened(upstream, trusted)).abort()
        else:
            with pytest.raises(Unreachable):
                await opened(upstream, trusted)


@pytest.mark.parametrize(
    ("rule", "pattern"),
    [
        (on("RCPT", "550 5.1.1 No", match="(a+)+b$"), "(a+)+b$"),
        (on("RCPT", "550 5.1.1 No", recipient="regex:(a+)+b"), "regex:(a+)+b"),
    ],
    ids=["match", "recipient"],
)
async def test_a_pattern_that_takes_too_long_does_not_act(rule: Rule, pattern: str) -> None:
    async with Upstream([rule]) as upstream:
        await deliver(upstream, f"{'a' * 30}@b.test")
        await deliver(upstream, "other@there.test")
        await upstream.quiet()
    assert [each.recipients for each in upstream.received] == [(f"{'a' * 30}@b.test",), ("other@there.test",)]
    (note,) = [line.text for line in upstream.sessions[0].transcript if line.arrow is Arrow.NOTE]
    assert note == f"a rule at RCPT does not act: {pattern}: match limit exceeded"


@pytest.mark.parametrize("before", [(), (b"AUTH LOGIN\r\n",)], ids=["command", "response"])
async def test_a_line_without_end_is_refused(before: tuple[bytes, ...], tmp_path: Path) -> None:
    script = [on("EHLO", "250 far.test\nAUTH LOGIN")]
    async with Upstream(script, users={"me": "secret"}) as upstream, telnet(upstream) as (reader, writer):
        await reply(reader)
        for piece in (b"EHLO client.test\r\n", *before):
            writer.write(piece)
            await reply(reader)
        writer.write(b"x" * 65_536)
        assert await reply(reader) == "500 5.5.2 The line is too long"
        assert await reader.read() == b""


async def test_another_script_while_it_runs() -> None:
    async with Upstream([on("NOOP", "250 one", times=1)]) as upstream, telnet(upstream) as (reader, writer):

        async def noops(number: int) -> list[str]:
            heard = []
            for _ in range(number):
                writer.write(b"NOOP\r\n")
                heard.append(await reply(reader))
            return heard

        await reply(reader)
        assert await noops(2) == ["250 one", "250 2.0.0 Ok"]
        upstream.script(on("NOOP", "250 two", times=1))
        assert await noops(2) == ["250 two", "250 2.0.0 Ok"]
        upstream.script(on("NOOP", "250 two", times=1))
        assert await noops(2) == ["250 two", "250 2.0.0 Ok"]
        upstream.script()
        assert await noops(1) == ["250 2.0.0 Ok"]


async def test_a_seed_that_was_read_back_gives_the_same_again() -> None:
    async def course(*rules: Rule, seed: int | None) -> tuple[int, list[str]]:
        async with Upstream(rules, seed=seed) as upstream:
            return upstream.seed, await converse(upstream, *[b"NOOP\r\n"] * 40)

    rule = on("NOOP", "451 4.3.0 Later", chance=0.5)
    seed, first = await course(rule, seed=None)
    assert {text[:3] for text in first[1:]} == {"250", "451"}
    assert await course(rule, seed=seed) == (seed, first)
    other, second = await course(rule, seed=None)
    assert (other, second) != (seed, first)
