"""The scripted upstream, spoken to by clients that are not ours."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiosmtplib
import pytest
import trustme

from smtproute.core.transcript import Arrow
from smtproute.testing.upstream import Drop, Hang, Raw, Received, Reset, Upstream, Wait, on

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
            await upstream.wait(1, seconds=0.01)


def test_a_verb_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="RCTP"):
        on("RCTP", "550 No")
