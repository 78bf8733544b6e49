"""The client speaks LMTP: one reply for each recipient after the dot (RFC 2033)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from smtproute.core.address import Address
from smtproute.core.outcome import Answer, Stage
from smtproute.core.reply import Reply
from smtproute.core.settings import EndpointTls, Server
from smtproute.smtp.client import Connection, Dialogue, Mail
from smtproute.smtp.opening import TIMEOUTS, Timeouts, Unreachable
from smtproute.testing.upstream import EXTENSIONS, Drop, Hang, Raw, Rule, Upstream, on
from smtproute.world import World

CONTENT = b"Subject: hello\r\n\r\nHello.\r\n"
LARGE = b"".join(b".%d\r\n" % number for number in range(200_000))
BARE = tuple(keyword for keyword in EXTENSIONS if keyword != "PIPELINING")
MAIL = Mail(Address.parse("sender@here.test"), tuple(Address.parse(f"{each}@home.test") for each in ("a", "b", "c")))
TAKEN = Answer(Stage.CONTENT, Reply(250, "2.0.0", "Taken"))
FULL = Answer(Stage.CONTENT, Reply(552, "5.2.2", "Full"))
UNKNOWN = Answer(Stage.RCPT, Reply(550, "5.1.1", "Unknown"))

pipelined_or_not = pytest.mark.parametrize("extensions", [EXTENSIONS, BARE], ids=["pipelining", "one by one"])


async def connect(upstream: Upstream, timeouts: Timeouts = TIMEOUTS) -> Connection:
    return await Connection.open(
        Server(upstream.host, upstream.port),
        upstream.host,
        tls=EndpointTls.NEVER,
        context=None,
        helo="relay.test",
        world=World(),
        lmtp=True,
        timeouts=timeouts,
    )


@asynccontextmanager
async def connected(
    *script: Rule, extensions: Sequence[str] = EXTENSIONS, timeouts: Timeouts = TIMEOUTS
) -> AsyncIterator[tuple[Connection, Upstream]]:
    async with Upstream(script, lmtp=True, extensions=extensions) as upstream:
        connection = await connect(upstream, timeouts)
        try:
            yield connection, upstream
        finally:
            connection.abort()


def told(dialogue: Dialogue) -> list[str]:
    return [f"{line.arrow} {line.text}" for line in dialogue.transcript]


async def test_each_recipient_is_answered_after_the_dot() -> None:
    async with connected() as (connection, upstream):
        dialogue = await connection.send(MAIL, CONTENT)
        (received,) = await upstream.wait(1)
    assert dialogue.answers == (TAKEN,) * 3
    assert dialogue.usable
    assert (received.helo, received.content) == ("relay.test", CONTENT)
    assert received.recipients == ("a@home.test", "b@home.test", "c@home.test")
    assert "-> LHLO relay.test" in told(dialogue)
    assert told(dialogue)[-5:] == [f"-> [{len(CONTENT)} octets]", "-> .", *["<- 250 2.0.0 Taken"] * 3]


@pipelined_or_not
async def test_every_answer_goes_to_its_own_recipient(extensions: Sequence[str]) -> None:
    later = Answer(Stage.CONTENT, Reply(452, "4.2.2", "Full for now"))
    script = (
        on("RCPT", "550 5.1.1 Unknown", match="b@", times=1),
        on("CONTENT", "552 5.2.2 Full", match="a@", times=1),
        on("CONTENT", "452 4.2.2 Full for now", match="c@", times=1),
    )
    async with connected(*script, extensions=extensions) as (connection, upstream):
        first = await connection.send(MAIL, CONTENT)
        second = await connection.send(MAIL, CONTENT)
        assert [received.recipients for received in upstream.received] == [
            ("a@home.test", "b@home.test", "c@home.test")
        ]
    assert first.answers == (FULL, UNKNOWN, later)
    assert second.answers == (TAKEN,) * 3
    assert upstream.connections == 1


@pipelined_or_not
async def test_nobody_is_known(extensions: Sequence[str]) -> None:
    async with connected(on("RCPT", "550 5.1.1 Unknown", times=3), extensions=extensions) as (connection, upstream):
        assert (await connection.send(MAIL, CONTENT)).answers == (UNKNOWN,) * 3
        assert (await connection.send(MAIL, CONTENT)).answers == (TAKEN,) * 3
        assert upstream.connections == 1


async def test_data_accepted_for_nobody_ends_the_connection() -> None:
    script = (on("RCPT", "550 5.1.1 Unknown"), on("DATA", "354 Go on"))
    async with connected(*script) as (connection, upstream):
        dialogue = await connection.send(MAIL, CONTENT)
        await upstream.quiet()
        assert not upstream.received
    assert dialogue.answers == (UNKNOWN,) * 3
    assert not dialogue.usable


async def test_closed_after_the_dot_is_ambiguous_for_all() -> None:
    async with connected(on("CONTENT", Drop())) as (connection, _):
        dialogue = await connection.send(MAIL, CONTENT)
    assert all(answer.ambiguous for answer in dialogue.answers)


async def test_closed_in_between_is_ambiguous_for_who_was_not_answered() -> None:
    async with connected(on("CONTENT", Drop(), match="b@")) as (connection, _):
        dialogue = await connection.send(MAIL, CONTENT)
    lost = Answer(Stage.CONTENT, None, "the server closed the connection")
    assert dialogue.answers == (TAKEN, lost, lost)
    assert not dialogue.usable


async def test_421_in_between_is_the_answer_for_who_had_none() -> None:
    async with connected(on("CONTENT", "421 4.3.2 Closing", match="b@")) as (connection, _):
        dialogue = await connection.send(MAIL, CONTENT)
    closing = Answer(Stage.CONTENT, Reply(421, "4.3.2", "Closing"))
    assert dialogue.answers == (TAKEN, closing, closing)
    assert not dialogue.usable


@pytest.mark.parametrize("action", [Hang(), Raw(b"")], ids=["silent from then on", "one answer left out"])
async def test_too_few_answers(action: Hang | Raw) -> None:
    script = on("CONTENT", action, match="c@" if isinstance(action, Hang) else "b@")
    async with connected(script, timeouts=Timeouts(content=0.2)) as (connection, _):
        dialogue = await connection.send(MAIL, CONTENT)
    assert dialogue.answers == (TAKEN, TAKEN, Answer(Stage.CONTENT, None, "no answer within 0.2 s"))
    assert not dialogue.usable


async def test_one_answer_for_all_as_in_smtp_settles_only_the_first() -> None:
    script = [on("CONTENT", Raw(b""), match=each) for each in ("b@", "c@")]
    async with connected(*script, timeouts=Timeouts(content=0.2)) as (connection, _):
        dialogue = await connection.send(MAIL, CONTENT)
    assert dialogue.answers[0] == TAKEN
    assert [answer.ambiguous for answer in dialogue.answers] == [False, True, True]


async def test_too_many_answers_end_the_connection() -> None:
    once_more = on("CONTENT", "250 2.0.0 Taken", "250 2.0.0 Taken", match="c@")
    async with connected(once_more) as (connection, _):
        dialogue = await connection.send(MAIL, CONTENT)
    assert dialogue.answers == (TAKEN,) * 3
    assert not dialogue.usable


async def test_large_content_and_mixed_answers() -> None:
    async with connected(on("CONTENT", "552 5.2.2 Full", match="b@")) as (connection, upstream):
        dialogue = await connection.send(MAIL, LARGE)
        assert upstream.received[0].content == LARGE
    assert dialogue.answers == (TAKEN, FULL, TAKEN)


async def test_a_refusal_in_mid_content_is_for_all() -> None:
    async with connected(on("CONTENT", "552 5.3.4 Too large", Drop(), after=1)) as (connection, upstream):
        dialogue = await connection.send(MAIL, LARGE)
        assert not upstream.received
    assert dialogue.answers == (Answer(Stage.CONTENT, Reply(552, "5.3.4", "Too large")),) * 3
    assert not dialogue.usable


async def test_a_server_that_speaks_smtp_only_is_not_asked_otherwise() -> None:
    async with Upstream() as upstream:
        with pytest.raises(Unreachable) as raised:
            await connect(upstream)
        await upstream.quiet()
        assert upstream.sessions[0].commands() == ["LHLO relay.test"]
    assert raised.value.answer == Answer(Stage.EHLO, Reply(500, "5.5.1", "This is no LMTP server"))


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "lmtp")
    async with Upstream(lmtp=True, host=path) as upstream:
        connection = await connect(upstream)
        dialogue = await connection.send(MAIL, LARGE)
        await connection.quit()
        await upstream.quiet()
    assert dialogue.answers == (TAKEN,) * 3
    assert told(dialogue)[0] == f"== connected to {path}"
    (received,) = upstream.received
    assert received.content == LARGE


@pytest.mark.parametrize(("name", "why"), [("missing", "no such file or directory"), ("file", "connection refused")])
async def test_a_unix_socket_where_nobody_listens(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    path = str(tmp_path / name)
    with pytest.raises(Unreachable) as raised:
        await connect(Upstream(host=path))
    assert raised.value.answer == Answer(Stage.CONNECT, None, why)
    assert [line.text for line in raised.value.transcript] == [f"not connected to {path}: {why}"]
