"""The client against a real server that does as the script says."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smtproute.core.address import Address
from smtproute.core.outcome import Answer, Judgement, Stage, judge
from smtproute.core.reply import Reply
from smtproute.core.settings import EndpointTls, Server
from smtproute.core.transcript import Arrow
from smtproute.smtp.client import Connection, Dialogue, Gone, Mail
from smtproute.smtp.opening import TIMEOUTS, Timeouts, Unreachable
from smtproute.testing.network import blackhole
from smtproute.testing.upstream import EXTENSIONS, Drop, Hang, Raw, Reset, Rule, Upstream, Wait, on
from smtproute.world import World

CONTENT = b"Subject: hello\r\n\r\nHello.\r\n"
BARE = tuple(keyword for keyword in EXTENSIONS if keyword != "PIPELINING")
TAKEN = Answer(Stage.CONTENT, Reply(250, "2.0.0", "Taken"))

A = Address.parse


def mail(*recipients: str, **more: bool) -> Mail:
    return Mail(A("sender@here.test"), tuple(A(recipient) for recipient in recipients or ("a@there.test",)), **more)


async def connect_to(port: int, timeouts: Timeouts = TIMEOUTS) -> Connection:
    return await Connection.open(
        Server("mx.test", port),
        "127.0.0.1",
        tls=EndpointTls.NEVER,
        context=None,
        helo="relay.test",
        world=World(),
        timeouts=timeouts,
    )


@asynccontextmanager
async def connected(
    *script: Rule, extensions: Sequence[str] = EXTENSIONS, timeouts: Timeouts = TIMEOUTS
) -> AsyncIterator[tuple[Connection, Upstream]]:
    async with Upstream(script, extensions=extensions) as upstream:
        connection = await connect_to(upstream.port, timeouts)
        try:
            yield connection, upstream
        finally:
            connection.abort()


async def unreachable(*script: Rule, timeouts: Timeouts = TIMEOUTS) -> Unreachable:
    async with Upstream(script) as upstream:
        with pytest.raises(Unreachable) as raised:
            await connect_to(upstream.port, timeouts)
        return raised.value


def told(dialogue: Dialogue) -> list[str]:
    return [f"{line.arrow} {line.text}" for line in dialogue.transcript]


pipelined_or_not = pytest.mark.parametrize("extensions", [EXTENSIONS, BARE], ids=["pipelining", "one by one"])


async def test_a_message_arrives_as_it_was_sent_and_the_transcript_tells_how() -> None:
    async with connected() as (connection, upstream):
        dialogue = await connection.send(mail("a@there.test", "b@there.test"), b".first\r\n..second\r\n.\r\nlast")
        (received,) = await upstream.wait(1)
        await connection.quit()
        await upstream.quiet()
    assert received.content == b".first\r\n..second\r\n.\r\nlast\r\n"
    assert (received.reverse_path, received.recipients) == ("sender@here.test", ("a@there.test", "b@there.test"))
    assert (received.parameters, received.recipient_parameters) == (("SIZE=25",), ((), ()))
    assert (received.helo, received.tls) == ("relay.test", "")
    assert dialogue.answers == (TAKEN, TAKEN)
    assert (dialogue.usable, dialogue.tls, dialogue.downgrade) == (True, "", "")
    assert told(dialogue) == [
        f"== connected to mx.test (127.0.0.1:{upstream.port})",
        "<- 220 upstream.test ESMTP",
        "-> EHLO relay.test",
        "<- 250-upstream.test",
        "<- 250-PIPELINING",
        "<- 250-SIZE 50000000",
        "<- 250-8BITMIME",
        "<- 250-SMTPUTF8",
        "<- 250 ENHANCEDSTATUSCODES",
        "-> MAIL FROM:<sender@here.test> SIZE=25",
        "-> RCPT TO:<a@there.test>",
        "-> RCPT TO:<b@there.test>",
        "-> DATA",
        "<- 250 2.1.0 Ok",
        "<- 250 2.1.5 Ok",
        "<- 250 2.1.5 Ok",
        "<- 354 End with a dot",
        "-> [25 octets]",
        "-> .",
        "<- 250 2.0.0 Taken",
    ]
    assert upstream.sessions[0].commands()[-1] == "QUIT"


async def test_without_pipelining_every_command_waits_for_its_reply() -> None:
    async with connected(extensions=BARE) as (connection, _):
        dialogue = await connection.send(mail(), CONTENT)
    assert told(dialogue)[8:] == [
        f"-> MAIL FROM:<sender@here.test> SIZE={len(CONTENT)}",
        "<- 250 2.1.0 Ok",
        "-> RCPT TO:<a@there.test>",
        "<- 250 2.1.5 Ok",
        "-> DATA",
        "<- 354 End with a dot",
        f"-> [{len(CONTENT)} octets]",
        "-> .",
        "<- 250 2.0.0 Taken",
    ]


async def test_a_reused_connection_says_so() -> None:
    async with connected() as (connection, upstream):
        await connection.send(mail(), CONTENT)
        dialogue = await connection.send(mail(), b"again\r\n")
        assert [received.content for received in await upstream.wait(2)] == [CONTENT, b"again\r\n"]
    assert told(dialogue)[:2] == ["== connection reused (transaction 2)", "-> MAIL FROM:<sender@here.test> SIZE=7"]


@pytest.mark.parametrize(
    ("path", "wire"),
    [(None, ""), (A('"two words"@here.test'), '"two words"@here.test'), (A('"a>b"@here.test'), '"a>b"@here.test')],
)
async def test_reverse_paths(path: Address | None, wire: str) -> None:
    async with connected() as (connection, upstream):
        await connection.send(replace(mail(), reverse_path=path), CONTENT)
        assert upstream.received[0].reverse_path == wire


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(st.sampled_from([b".", b"..", b"a", b" ", b"\xc3\xa9", b"\xff", b"DATA"]), max_size=4).map(b"".join),
        max_size=8,
    ).map(lambda lines: b"".join(line + b"\r\n" for line in lines))
)
def test_any_content_is_received_byte_for_byte(content: bytes) -> None:
    async def deliver() -> bytes:
        async with connected() as (connection, upstream):
            assert (await connection.send(mail(), content)).answers == (TAKEN,)
            return upstream.received[0].content

    assert asyncio.run(deliver()) == content


async def test_large_content_is_received_byte_for_byte() -> None:
    content = b"".join(b".%d\r\n" % number for number in range(700_000))
    async with connected() as (connection, upstream):
        dialogue = await connection.send(mail(), content)
        assert dialogue.answers == (TAKEN,)
        assert dialogue.usable
        assert upstream.received[0].content == content


# Refusals


@pipelined_or_not
async def test_mail_refused_is_the_answer_for_every_recipient(extensions: Sequence[str]) -> None:
    async with connected(on("MAIL", "550 5.7.1 Not you", times=1), extensions=extensions) as (connection, upstream):
        refused = await connection.send(mail("a@there.test", "b@there.test"), CONTENT)
        taken = await connection.send(mail(), CONTENT)
        assert len(upstream.received) == 1
    assert refused.answers == (Answer(Stage.MAIL, Reply(550, "5.7.1", "Not you")),) * 2
    assert refused.usable
    assert taken.answers == (TAKEN,)


@pipelined_or_not
async def test_each_recipient_has_its_own_answer(extensions: Sequence[str]) -> None:
    script = (
        on("RCPT", "550 5.1.1 No such user\nReally not", match="b@"),
        on("RCPT", "450 4.2.1 Busy", match="c@"),
        on("CONTENT", "554 5.6.0 Do not like it", times=1),
    )
    async with connected(*script, extensions=extensions) as (connection, upstream):
        recipients = ("a@there.test", "b@there.test", "c@there.test", "d@there.test")
        refused = await connection.send(mail(*recipients), CONTENT)
        taken = await connection.send(mail(*recipients), CONTENT)
        (received,) = upstream.received
    no = Answer(Stage.RCPT, Reply(550, "5.1.1", "No such user\nReally not"))
    busy = Answer(Stage.RCPT, Reply(450, "4.2.1", "Busy"))
    bad = Answer(Stage.CONTENT, Reply(554, "5.6.0", "Do not like it"))
    assert refused.answers == (bad, no, busy, bad)
    assert taken.answers == (TAKEN, no, busy, TAKEN)
    assert received.recipients == ("a@there.test", "d@there.test")
    assert "RSET" not in upstream.sessions[0].commands()


@pipelined_or_not
@pytest.mark.parametrize(
    ("script", "stage"),
    [
        ((on("RCPT", "550 5.1.1 No", times=1),), Stage.RCPT),
        ((on("DATA", "451 4.3.0 Later", times=1),), Stage.DATA),
    ],
)
async def test_what_a_failed_transaction_left_is_reset_before_the_next(
    extensions: Sequence[str], script: tuple[Rule, ...], stage: Stage
) -> None:
    async with connected(*script, extensions=extensions) as (connection, upstream):
        refused = await connection.send(mail("old@there.test"), CONTENT)
        taken = await connection.send(mail("new@there.test"), CONTENT)
        assert [received.recipients for received in upstream.received] == [("new@there.test",)]
        assert upstream.sessions[0].commands().count("RSET") == 1
    assert [answer.stage for answer in refused.answers] == [stage]
    assert refused.usable
    assert taken.answers == (TAKEN,)


async def test_data_accepted_with_no_recipient_gets_a_lone_dot() -> None:
    script = (on("RCPT", "550 5.1.1 No", times=1), on("DATA", "354 Go on all the same", times=1))
    async with connected(*script) as (connection, upstream):
        refused = await connection.send(mail(), CONTENT)
        taken = await connection.send(mail(), CONTENT)
        assert len(upstream.received) == 1
        assert "RSET" not in upstream.sessions[0].commands()
    assert refused.answers == (Answer(Stage.RCPT, Reply(550, "5.1.1", "No")),)
    assert told(refused)[-3:] == ["<- 354 Go on all the same", "-> .", "<- 554 5.5.1 No valid recipients"]
    assert taken.answers == (TAKEN,)


async def test_no_dot_is_sent_for_recipients_of_a_refused_sender() -> None:
    script = (on("MAIL", "550 5.7.1 No"), on("RCPT", "250 Yes"), on("DATA", "354 Yes"))
    async with connected(*script) as (connection, upstream):
        dialogue = await connection.send(mail(), CONTENT)
        await upstream.quiet()
        assert upstream.received == []
        assert "." not in upstream.sessions[0].commands()
    assert dialogue.answers == (Answer(Stage.MAIL, Reply(550, "5.7.1", "No")),)
    assert not dialogue.usable


async def test_data_answered_with_250_is_no_success() -> None:
    async with connected(on("DATA", "250 2.0.0 Fine")) as (connection, upstream):
        dialogue = await connection.send(mail(), CONTENT)
        assert upstream.received == []
    assert [judge(answer) for answer in dialogue.answers] == [Judgement.NEXT_SERVER]
    assert not dialogue.usable


# Connections that end, servers that are silent or talk nonsense

STAGES = [("MAIL", Stage.MAIL), ("RCPT", Stage.RCPT), ("DATA", Stage.DATA), ("CONTENT", Stage.CONTENT)]
at_each_stage = pytest.mark.parametrize(("verb", "stage"), STAGES, ids=[verb for verb, _ in STAGES])


@pipelined_or_not
@at_each_stage
async def test_421_closes(verb: str, stage: Stage, extensions: Sequence[str]) -> None:
    async with connected(on(verb, "421 4.3.2 Going down"), extensions=extensions) as (connection, upstream):
        dialogue = await connection.send(mail("a@there.test", "b@there.test"), CONTENT)
        await upstream.quiet()
    assert dialogue.answers == (Answer(stage, Reply(421, "4.3.2", "Going down")),) * 2
    assert not dialogue.usable


@pipelined_or_not
@at_each_stage
@pytest.mark.parametrize("how", [Drop(), Reset()], ids=["closed", "reset"])
async def test_a_lost_connection(verb: str, stage: Stage, how: Drop | Reset, extensions: Sequence[str]) -> None:
    async with connected(on(verb, how), extensions=extensions) as (connection, upstream):
        dialogue = await connection.send(mail("a@there.test", "b@there.test"), CONTENT)
        await upstream.quiet()
    assert {(answer.stage, answer.reply) for answer in dialogue.answers} == {(stage, None)}
    if how == Drop():
        assert {answer.detail for answer in dialogue.answers} == {"the server closed the connection"}
    assert all(answer.ambiguous == (verb == "CONTENT") for answer in dialogue.answers)
    assert not dialogue.usable


async def test_who_was_refused_before_the_connection_broke_keeps_that_answer() -> None:
    script = (on("RCPT", "550 5.1.1 No", match="b@"), on("CONTENT", Drop()))
    async with connected(*script) as (connection, _):
        dialogue = await connection.send(mail("a@there.test", "b@there.test"), CONTENT)
    assert dialogue.answers == (
        Answer(Stage.CONTENT, None, "the server closed the connection"),
        Answer(Stage.RCPT, Reply(550, "5.1.1", "No")),
    )


@pipelined_or_not
@at_each_stage
@pytest.mark.parametrize(
    "octets",
    [b"what?\r\n", b"250-one\r\n550 two\r\n", b"\xff\xfe\x00\r\n", b"x" * 10_000, b"250 ok\r\n" * 500],
    ids=["no code", "two codes", "binary", "no end", "flood"],
)
async def test_nonsense_for_a_reply(verb: str, stage: Stage, octets: bytes, extensions: Sequence[str]) -> None:
    async with connected(on(verb, Raw(octets)), extensions=extensions) as (connection, upstream):
        dialogue = await connection.send(mail(), CONTENT)
        await upstream.quiet()
    assert not dialogue.usable
    if octets.startswith(b"250 ok"):
        return  # the first of them is the reply to what was asked
    assert [(answer.stage, answer.reply) for answer in dialogue.answers] == [(stage, None)]


@pipelined_or_not
@at_each_stage
async def test_a_silent_server(verb: str, stage: Stage, extensions: Sequence[str]) -> None:
    short = replace(TIMEOUTS, **{str(stage): 0.05})
    async with connected(on(verb, Hang()), extensions=extensions, timeouts=short) as (connection, _):
        dialogue = await connection.send(mail(), CONTENT)
    assert dialogue.answers == (Answer(stage, None, "no answer within 0.05 s"),)
    assert not dialogue.usable


async def test_a_slow_server_is_waited_for() -> None:
    go = asyncio.Event()
    script = on("CONTENT", Wait(go), "250 2.0.0 At last")
    async with connected(script) as (connection, upstream), asyncio.TaskGroup() as group:
        sending = group.create_task(connection.send(mail(), CONTENT))
        await upstream.wait(1)
        assert not sending.done()
        go.set()
    assert sending.result().answers == (Answer(Stage.CONTENT, Reply(250, "2.0.0", "At last")),)


async def test_a_cancelled_send_leaves_no_connection_behind() -> None:
    async with connected(on("CONTENT", Hang())) as (connection, upstream):
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(connection.send(mail(), CONTENT))
            await upstream.wait(1)
            sending.cancel()
        connection.abort()
        assert not connection.idle


async def test_a_connection_that_died_while_it_was_kept_is_gone() -> None:
    async with connected(on("CONTENT", "250 2.0.0 Ok", Drop())) as (connection, upstream):
        assert (await connection.send(mail(), CONTENT)).answers[0].reply == Reply(250, "2.0.0", "Ok")
        await upstream.quiet()
        with pytest.raises(Gone):
            await connection.send(mail(), CONTENT)
        assert len(upstream.received) == 1


@pipelined_or_not
@pytest.mark.parametrize("how", [Drop(), Reset(), "421 4.4.2 Idle too long", Raw(b"what?\r\n")])
async def test_a_kept_connection_that_ends_before_mail_was_answered_is_gone(
    how: Drop | Reset | str, extensions: Sequence[str]
) -> None:
    script = (on("MAIL", "250 2.1.0 Ok", times=1), on("MAIL", how))
    async with connected(*script, extensions=extensions) as (connection, upstream):
        await connection.send(mail(), CONTENT)
        with pytest.raises(Gone) as gone:
            await connection.send(mail(), CONTENT)
        assert len(upstream.received) == 1
    assert gone.value.transcript[0].text == "connection reused (transaction 2)"


async def test_a_kept_connection_that_is_silent_at_mail_is_gone_before_the_deadline_of_mail() -> None:
    script = (on("MAIL", "250 2.1.0 Ok", times=1), on("MAIL", Hang()))
    async with connected(*script, timeouts=Timeouts(patience=0.05)) as (connection, _):
        await connection.send(mail(), CONTENT)
        with pytest.raises(Gone) as gone:
            await connection.send(mail(), CONTENT)
    assert gone.value.transcript[-1].text == "no answer within 0.05 s"


@pipelined_or_not
async def test_a_server_is_well_once_it_has_answered_mail(extensions: Sequence[str]) -> None:
    heard = asyncio.Event()
    script = [on("CONTENT", Hang())]
    async with connected(*script, extensions=extensions) as (connection, _), asyncio.TaskGroup() as group:
        sending = group.create_task(connection.send(mail(), CONTENT, heard.set))
        await heard.wait()
        sending.cancel()


async def test_a_server_that_refuses_mail_with_421_is_not_well() -> None:
    heard = asyncio.Event()
    async with connected(on("MAIL", "421 4.3.2 Busy")) as (connection, _):
        await connection.send(mail(), CONTENT, heard.set)
    assert not heard.is_set()


async def test_a_kept_connection_whose_rset_is_refused_is_gone() -> None:
    async with connected(on("RCPT", "550 5.1.1 No"), on("RSET", "500 What?")) as (connection, _):
        await connection.send(mail(), CONTENT)
        with pytest.raises(Gone):
            await connection.send(mail(), CONTENT)


async def test_a_kept_connection_on_which_the_server_spoke_unasked_is_gone() -> None:
    async with connected(on("CONTENT", "250 2.0.0 Ok", "250 2.0.0 Ok again")) as (connection, upstream):
        dialogue = await connection.send(mail(), CONTENT)
        assert dialogue.answers[0].reply == Reply(250, "2.0.0", "Ok")
        while connection.idle:
            await asyncio.sleep(0)
        with pytest.raises(Gone):
            await connection.send(mail(), CONTENT)
        assert len(upstream.received) == 1


STRAY = b"250 2.0.0 stray\r\n"


@pipelined_or_not
async def test_a_new_connection_on_which_the_server_spoke_unasked_settles_nothing(extensions: Sequence[str]) -> None:
    """Else each reply is taken for that to the next command, and the good address has the bad one's refusal."""
    offers = "".join(f"250-{keyword}\r\n" for keyword in extensions).encode()
    script = (on("EHLO", Raw(b"250-x\r\n" + offers + b"250 x\r\n" + STRAY)), on("RCPT", "550 5.1.1 No", match="bad@"))
    async with connected(*script) as (connection, upstream):
        dialogue = await connection.send(mail("bad@there.test", "good@there.test"), CONTENT)
        await upstream.quiet()
        assert upstream.sessions[0].commands() == ["EHLO relay.test"]
    astray = Answer(Stage.MAIL, None, "the server is out of step: it answers what it was not asked")
    assert dialogue.answers == (astray, astray)
    assert judge(astray) is Judgement.NEXT_SERVER
    assert not dialogue.usable


@pytest.mark.parametrize("recipients", [("bad@there.test", "good@there.test"), ("good@there.test", "bad@there.test")])
async def test_a_server_that_goes_astray_in_a_transaction_settles_nothing(recipients: tuple[str, ...]) -> None:
    replies = {"bad@there.test": b"550 5.1.1 No\r\n", "good@there.test": b"250 2.1.5 Ok\r\n"}
    said = STRAY + b"250 2.1.0 Ok\r\n" + b"".join(replies[each] for each in recipients) + b"354 Go on\r\n"
    nothing = Raw(b"")
    async with connected(on("MAIL", Raw(said)), on("RCPT", nothing), on("DATA", nothing)) as (connection, upstream):
        dialogue = await connection.send(mail(*recipients), CONTENT)
        await upstream.quiet()
        assert upstream.received == []
    assert {judge(answer) for answer in dialogue.answers} == {Judgement.NEXT_SERVER}
    assert {(answer.stage, answer.reply) for answer in dialogue.answers} == {(Stage.DATA, None)}
    assert not dialogue.usable


async def test_a_stray_refusal_before_a_late_354_fails_nobody_for_good() -> None:
    """The stray reply is taken for the answer to DATA: RSET then has the answer that DATA should have had."""
    stray = on("RCPT", Raw(b"550 5.1.1 No\r\n554 5.7.1 stray\r\n"), match="bad@")
    late = on("DATA", Wait(late_354 := asyncio.Event()), "354 Go on")
    async with connected(stray, late) as (connection, upstream), asyncio.TaskGroup() as group:
        sending = group.create_task(connection.send(mail("good@there.test", "bad@there.test"), CONTENT))
        await upstream.heard("DATA")
        while "-> RSET" not in [f"{line.arrow} {line.text}" for line in connection.transcript]:
            await asyncio.sleep(0)
        late_354.set()
    dialogue = sending.result()
    assert {judge(answer) for answer in dialogue.answers} == {Judgement.NEXT_SERVER}
    assert not dialogue.usable
    assert upstream.received == []


@pipelined_or_not
@pytest.mark.parametrize("then", [(), (Drop(),), ("421 4.7.0 Too many errors",)], ids=["stays", "hangs up", "says 421"])
async def test_a_refusal_of_data_counts_whatever_comes_of_the_rset_after_it(
    then: tuple[Drop | str, ...], extensions: Sequence[str]
) -> None:
    script = on("DATA", "554 5.7.1 No", *then, times=1)
    async with connected(script, extensions=extensions) as (connection, upstream):
        dialogue = await connection.send(mail(), CONTENT)
        assert dialogue.answers == (Answer(Stage.DATA, Reply(554, "5.7.1", "No")),)
        assert dialogue.usable == (not then)
        if dialogue.usable:
            assert (await connection.send(mail(), CONTENT)).answers == (TAKEN,)
            assert upstream.sessions[0].commands().count("RSET") == 1


async def test_a_refusal_of_data_counts_though_the_rset_after_it_is_refused() -> None:
    async with connected(on("DATA", "554 5.7.1 No"), on("RSET", "500 5.5.2 What?")) as (connection, _):
        dialogue = await connection.send(mail(), CONTENT)
    assert dialogue.answers == (Answer(Stage.DATA, Reply(554, "5.7.1", "No")),)


@pytest.mark.parametrize("verb", ["CONNECT", "EHLO"])
async def test_a_server_that_goes_astray_before_it_is_greeted(verb: str) -> None:
    """After the greeting, and after the refusal of EHLO, before HELO."""
    code = b"220" if verb == "CONNECT" else b"500"
    error = await unreachable(on(verb, Raw(code + b" x\r\n" + STRAY)))
    assert error.answer == Answer(Stage.EHLO, None, "the server is out of step: it answers what it was not asked")


async def test_a_421_may_come_unasked() -> None:
    script = on("EHLO", Raw(b"250-x\r\n250 PIPELINING\r\n421 4.3.2 Going down\r\n"))
    async with connected(script) as (connection, _):
        dialogue = await connection.send(mail(), CONTENT)
    assert dialogue.answers == (Answer(Stage.MAIL, Reply(421, "4.3.2", "Going down")),)
    script = on("DATA", "554 5.5.1 No valid recipients", "421 4.7.0 Too many errors")
    async with connected(on("RCPT", "550 5.1.1 No"), script) as (connection, _):
        dialogue = await connection.send(mail(), CONTENT)
    assert dialogue.answers == (Answer(Stage.RCPT, Reply(550, "5.1.1", "No")),)
    assert not dialogue.usable


# A server that answers before it has heard the end

LARGE = b"Subject: large\r\n\r\n" + (b"x" * 70 + b"\r\n") * 70_000


@pytest.mark.parametrize("then", [(), (Drop(),), (Reset(),), (Hang(),)], ids=["reads on", "closes", "resets", "hangs"])
async def test_an_early_552(then: tuple[Drop | Reset | Hang, ...]) -> None:
    async with connected(on("CONTENT", "552 5.3.4 Too big", *then, after=100_000)) as (connection, upstream):
        dialogue = await connection.send(mail(), LARGE)
        assert upstream.received == []
    if then != (Reset(),):  # a reset may overtake the reply
        assert dialogue.answers == (Answer(Stage.CONTENT, Reply(552, "5.3.4", "Too big")),)
    assert not dialogue.answers[0].ambiguous
    assert not dialogue.usable


async def test_an_early_421() -> None:
    async with connected(on("CONTENT", "421 4.3.2 Going down", after=100_000)) as (connection, _):
        dialogue = await connection.send(mail(), LARGE)
    assert dialogue.answers == (Answer(Stage.CONTENT, Reply(421, "4.3.2", "Going down")),)
    assert not dialogue.usable


async def test_an_early_250_is_no_success() -> None:
    async with connected(on("CONTENT", "250 2.0.0 Yes yes", after=100_000)) as (connection, upstream):
        dialogue = await connection.send(mail(), LARGE)
        await upstream.quiet()
        assert upstream.received == []
    (answer,) = dialogue.answers
    assert (answer.stage, answer.reply) == (Stage.DATA, None)
    assert not dialogue.usable


@pytest.mark.parametrize("how", [Drop(), Reset()])
async def test_a_connection_lost_in_mid_content_is_not_ambiguous(how: Drop | Reset) -> None:
    async with connected(on("CONTENT", how, after=100_000)) as (connection, _):
        dialogue = await connection.send(mail(), LARGE)
    assert [(answer.stage, answer.reply) for answer in dialogue.answers] == [(Stage.DATA, None)]


async def test_a_server_that_stops_reading() -> None:
    short = Timeouts(block=0.1)
    async with connected(on("CONTENT", Hang(), after=100_000), timeouts=short) as (connection, _):
        dialogue = await connection.send(mail(), LARGE * 4)
    assert dialogue.answers == (Answer(Stage.DATA, None, "the server took no content for 0.1 s"),)
    assert any(line.text.startswith("[about ") for line in dialogue.transcript)


async def test_a_refusal_of_large_content_ends_the_connection_since_it_may_have_been_early() -> None:
    async with connected(on("CONTENT", "554 5.6.0 No")) as (connection, _):
        dialogue = await connection.send(mail(), LARGE)
    assert dialogue.answers == (Answer(Stage.CONTENT, Reply(554, "5.6.0", "No")),)
    assert not dialogue.usable


@contextmanager
def serving(server: Callable[[socket.socket], None]) -> Iterator[int]:
    """A thread that serves one connection after another by blocking calls; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def run() -> None:
            with suppress(OSError):
                while True:
                    talker, _ = listening.accept()
                    with talker:
                        server(talker)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


async def send_to(port: int, envelope: Mail, content: bytes) -> Dialogue:
    connection = await connect_to(port)
    dialogue = await connection.send(envelope, content)
    connection.abort()
    await asyncio.sleep(0)
    return dialogue


def hangs_up_in_the_middle(talker: socket.socket) -> None:
    """Closes after 100 KB of content with the rest unread, so that a TCP reset follows."""
    with talker.makefile("rb") as lines:
        talker.sendall(b"220 hasty.test\r\n")
        for reply in (b"250 hasty.test", b"250 ok", b"250 ok", b"354 go"):
            lines.readline()
            talker.sendall(reply + b"\r\n")
        lines.read(100_000)


def refuses_in_the_middle(talker: socket.socket) -> None:
    """The same, but it says why."""
    hangs_up_in_the_middle(talker)
    talker.sendall(b"552 5.3.4 Too big\r\n")


loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def answers_on(loop: str, server: Callable[[socket.socket], None]) -> set[tuple[Stage, Reply | None]]:
    """The answers to ten large messages, on this event loop."""

    async def answers(port: int) -> list[Answer]:
        return [(await send_to(port, mail(), LARGE)).answers[0] for _ in range(10)]

    new_loop = asyncio.new_event_loop if loop == "asyncio" else pytest.importorskip("uvloop").new_event_loop
    with serving(server) as port, asyncio.Runner(loop_factory=new_loop) as runner:
        return {(answer.stage, answer.reply) for answer in runner.run(answers(port))}


@loops
def test_a_server_that_hangs_up_in_mid_content_leaves_no_doubt(loop: str) -> None:
    assert answers_on(loop, hangs_up_in_the_middle) == {(Stage.DATA, None)}


@loops
def test_an_early_552_is_heard_though_a_reset_follows_it(loop: str) -> None:
    assert answers_on(loop, refuses_in_the_middle) == {(Stage.CONTENT, Reply(552, "5.3.4", "Too big"))}


def blocks(talker: socket.socket) -> None:
    """Answers each command with 3 KB before it reads the next one: it blocks as soon as nobody reads."""
    with talker.makefile("rb") as lines:
        talker.sendall(b"220 blocking.test\r\n")
        for line in lines:
            if line.startswith(b"EHLO"):
                talker.sendall(b"250-blocking.test\r\n250 PIPELINING\r\n")
            elif line.startswith(b"DATA"):
                talker.sendall(b"354 go\r\n")
            elif line == b".\r\n":
                talker.sendall(b"250 taken\r\n")
            elif line.startswith((b"MAIL", b"RCPT")):
                talker.sendall(b"250 " + b"x" * 3000 + b"\r\n")


async def test_many_recipients_do_not_block_a_server_that_writes_before_it_reads() -> None:
    with serving(blocks) as port:
        dialogue = await send_to(port, mail(*(f"{n}-{'long' * 15}@there.test" for n in range(3000))), CONTENT)
    assert dialogue.answers == (Answer(Stage.CONTENT, Reply(250, "", "taken")),) * 3000


# Extensions: parameters, and our own refusals

NON_ASCII = A("jörg@there.test")
EIGHT_BIT = "Subject: x\r\n\r\nGrüße\r\n".encode()
UTF8_HEADER = "Subject: Grüße\r\n\r\nx\r\n".encode()


def without(*missing: str) -> tuple[str, ...]:
    return tuple(keyword for keyword in EXTENSIONS if keyword.split()[0] not in missing)


@pytest.mark.parametrize(
    ("envelope", "content", "extensions", "parameters"),
    [
        (mail(), CONTENT, without("SIZE"), ()),
        (mail(), CONTENT, EXTENSIONS, (f"SIZE={len(CONTENT)}",)),
        (mail(eight_bit=True), CONTENT, without("SIZE"), ("BODY=8BITMIME",)),
        (mail(eight_bit=True), CONTENT, without("SIZE", "8BITMIME"), ()),
        (mail(), EIGHT_BIT, without("SIZE"), ("BODY=8BITMIME",)),
        (mail(smtputf8=True), CONTENT, without("SIZE"), ("SMTPUTF8",)),
        (mail(smtputf8=True), CONTENT, without("SIZE", "SMTPUTF8"), ()),
        (mail(smtputf8=True), EIGHT_BIT, without("SIZE", "SMTPUTF8"), ("BODY=8BITMIME",)),
        (replace(mail(), recipients=(NON_ASCII,)), CONTENT, without("SIZE"), ("SMTPUTF8",)),
        (replace(mail(), reverse_path=NON_ASCII), CONTENT, without("SIZE"), ("SMTPUTF8",)),
    ],
)
async def test_parameters_are_what_is_needed_and_offered(
    envelope: Mail, content: bytes, extensions: Sequence[str], parameters: tuple[str, ...]
) -> None:
    async with connected(extensions=extensions) as (connection, upstream):
        assert (await connection.send(envelope, content)).answers == (TAKEN,)
        assert upstream.received[0].parameters == parameters
        assert upstream.received[0].content == content


@pytest.mark.parametrize(
    ("envelope", "content", "extensions", "code", "enhanced"),
    [
        (replace(mail(), recipients=(NON_ASCII, NON_ASCII)), CONTENT, without("SMTPUTF8"), 550, "5.6.7"),
        (replace(mail(), reverse_path=NON_ASCII), CONTENT, without("SMTPUTF8"), 550, "5.6.7"),
        (mail(smtputf8=True), UTF8_HEADER, without("SMTPUTF8"), 550, "5.6.7"),
        (mail(eight_bit=True), EIGHT_BIT, without("8BITMIME"), 554, "5.6.3"),
        (mail(), EIGHT_BIT, without("8BITMIME"), 554, "5.6.3"),
        (mail(), CONTENT, (*without("SIZE"), "SIZE 20"), 552, "5.3.4"),
    ],
)
async def test_what_would_have_to_be_converted_is_refused_and_not_an_octet_sent(
    envelope: Mail, content: bytes, extensions: Sequence[str], code: int, enhanced: str
) -> None:
    async with connected(extensions=extensions) as (connection, upstream):
        dialogue = await connection.send(envelope, content)
        assert upstream.sessions[0].commands() == ["EHLO relay.test"]
        assert dialogue.usable
    assert len(dialogue.answers) == len(envelope.recipients)
    for answer in dialogue.answers:
        assert answer.reply is not None
        assert (answer.stage, answer.reply.code, answer.reply.enhanced) == (Stage.MAIL, code, enhanced)
        assert answer.detail.startswith("not sent by smtproute: ")
        assert judge(answer) is Judgement.NEXT_SERVER and answer.ours


@pytest.mark.parametrize("size", ["SIZE", "SIZE 0", "size 26", "SIZE much"])
async def test_a_size_that_is_no_limit_for_this_message(size: str) -> None:
    async with connected(on("MAIL", "250 2.1.0 Ok"), extensions=(*without("SIZE"), size)) as (connection, _):
        assert (await connection.send(mail(), CONTENT)).answers == (TAKEN,)


async def test_helo_where_ehlo_is_not_known() -> None:
    async with connected(on("EHLO", "502 5.5.1 What?")) as (connection, upstream):
        assert (await connection.send(mail(), CONTENT)).answers == (TAKEN,)
        assert upstream.sessions[0].commands()[:3] == [
            "EHLO relay.test",
            "HELO relay.test",
            "MAIL FROM:<sender@here.test>",
        ]


# No dialogue


@pytest.mark.parametrize(
    ("script", "stage", "reply"),
    [
        ((on("CONNECT", "554 5.7.1 Go away"),), Stage.GREETING, Reply(554, "5.7.1", "Go away")),
        ((on("CONNECT", "421 4.3.2 Full"),), Stage.GREETING, Reply(421, "4.3.2", "Full")),
        ((on("CONNECT", Drop()),), Stage.GREETING, None),
        ((on("CONNECT", Raw(b"SSH-2.0-OpenSSH\r\n")),), Stage.GREETING, None),
        ((on("EHLO", "451 4.3.0 Later"),), Stage.EHLO, Reply(451, "4.3.0", "Later")),
        ((on("EHLO", "421 4.3.2 Full"),), Stage.EHLO, Reply(421, "4.3.2", "Full")),
        ((on("EHLO", Drop()),), Stage.EHLO, None),
        ((on("EHLO", "550 No"), on("HELO", "550 5.7.1 No")), Stage.EHLO, Reply(550, "5.7.1", "No")),
    ],
)
async def test_unreachable(script: tuple[Rule, ...], stage: Stage, reply: Reply | None) -> None:
    error = await unreachable(*script)
    assert (error.answer.stage, error.answer.reply) == (stage, reply)
    assert error.transcript[0].text.startswith("connected to mx.test (127.0.0.1:")
    assert judge(error.answer) is Judgement.NEXT_SERVER


@pytest.mark.parametrize(("verb", "stage"), [("CONNECT", Stage.GREETING), ("EHLO", Stage.EHLO)])
async def test_a_server_silent_from_the_start(verb: str, stage: Stage) -> None:
    error = await unreachable(on(verb, Hang()), timeouts=replace(TIMEOUTS, **{str(stage): 0.05}))
    assert error.answer == Answer(stage, None, "no answer within 0.05 s")


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unreachable) as raised:
        await connect_to(port)
    assert raised.value.answer == Answer(Stage.CONNECT, None, "connection refused")
    assert [line.text for line in raised.value.transcript] == [
        f"not connected to mx.test (127.0.0.1:{port}): connection refused"
    ]


async def test_a_connect_that_is_never_answered() -> None:
    with blackhole() as port, pytest.raises(Unreachable) as raised:
        await connect_to(port, Timeouts(connect=0.2))
    assert raised.value.answer == Answer(Stage.CONNECT, None, "no connection within 0.2 s")


async def test_control_characters_in_a_reply_are_escaped_in_the_transcript() -> None:
    async with connected(on("MAIL", Raw("250 \x1b[2J \u009b2J \u202e \u2028 ok ".encode() + b"\xff\r\n"))) as (
        connection,
        _,
    ):
        dialogue = await connection.send(mail(), CONTENT)
    line = next(line for line in dialogue.transcript if line.arrow is Arrow.RECEIVED and "2J" in line.text)
    assert line.text == r"250 \x1b[2J \x9b2J \u202e \u2028 ok \xff"


async def test_what_came_of_an_unfinished_line_is_in_the_transcript() -> None:
    error = await unreachable(on("CONNECT", Raw(b"SSH-2.0-OpenSSH"), Drop()))
    assert [(line.arrow, line.text) for line in error.transcript[1:3]] == [
        (Arrow.RECEIVED, "SSH-2.0-OpenSSH"),
        (Arrow.NOTE, "the server closed the connection"),
    ]


async def test_a_server_that_never_stops_explaining() -> None:
    async with connected(on("RCPT", Raw(b"250-" + b"x" * 1000 + b"\r\n"), Raw(b"250-y\r\n" * 20_000))) as (
        connection,
        _,
    ):
        dialogue = await connection.send(mail(), CONTENT)
    assert dialogue.answers[0].stage is Stage.RCPT
    assert dialogue.answers[0].reply is None
    assert not dialogue.usable
    lines = Raw(b"".join(b"250-%d " % n + b"x" * 3000 + b"\r\n" for n in range(100)))
    async with connected(on("RCPT", lines)) as (connection, _):
        dialogue = await connection.send(mail(), CONTENT)
    assert dialogue.answers == (Answer(Stage.RCPT, None, "the server says too much"),)


async def test_quit_does_not_wait_for_a_server_that_does_not_answer_it() -> None:
    async with connected(on("QUIT", Hang()), timeouts=Timeouts(quit=0.05)) as (connection, upstream):
        await connection.quit()
        assert not connection.idle
        assert upstream.sessions[0].commands()[-1] == "QUIT"


# For whoever asks by hand


async def test_what_was_learnt_of_a_server() -> None:
    async with connected(extensions=("SIZE 10", "pipelining")) as (connection, _):
        learnt = connection.learnt
    assert learnt.seconds is not None
    assert learnt.greeting == Reply(220, "", "upstream.test ESMTP")
    assert learnt.extensions == {"SIZE": "10", "PIPELINING": ""}
    assert (learnt.tls, learnt.certificate) == ("", b"")
    error = await unreachable(on("EHLO", "451 4.3.0 Later"))
    assert (error.learnt.greeting, error.learnt.extensions) == (learnt.greeting, {})


async def test_a_rehearsal_sends_no_message() -> None:
    async with connected(on("RCPT", "550 5.1.1 No", match="b@")) as (connection, upstream):
        answers = await connection.rehearse(mail("a@there.test", "b@there.test"))
        assert upstream.sessions[0].commands() == [
            "EHLO relay.test",
            "MAIL FROM:<sender@here.test> SIZE=0",
            "RCPT TO:<a@there.test>",
            "RCPT TO:<b@there.test>",
            "RSET",
        ]
    assert [str(answer.reply) for answer in answers] == ["250 2.1.0 Ok", "250 2.1.5 Ok", "550 5.1.1 No", "250 2.0.0 Ok"]
    assert connection.transcript[-1].text == "connection given up"


@pytest.mark.parametrize(
    ("rule", "answer"),
    [
        (on("RCPT", Drop()), Answer(Stage.RCPT, None, "the server closed the connection")),
        (on("RCPT", "421 4.3.2 Full"), Answer(Stage.RCPT, Reply(421, "4.3.2", "Full"))),
    ],
)
async def test_a_rehearsal_ends_where_the_connection_does(rule: Rule, answer: Answer) -> None:
    async with connected(rule) as (connection, _):
        answers = await connection.rehearse(mail("a@there.test"))
    assert answers[1] == answer
    assert {each.stage for each in answers[2:]} <= {Stage.DATA}
