"""The conversation, over real sockets: order, limits, faults, framing, and what the Door is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from recording import LOCAL, House, Peer, codes, connected, greeted, listening, on_both_loops

from smtproute.core.address import Address
from smtproute.core.event import Happening
from smtproute.core.reply import Reply
from smtproute.core.settings import BareNewline, Limits, Role
from smtproute.core.settings import Listener as Settings
from smtproute.core.transcript import Arrow

MAIL = "MAIL FROM:<a@b.example>"
RCPT = "RCPT TO:<c@d.example>"
SETTINGS = Settings("test", port=0, trusted_networks=LOCAL)


async def sent(peer: Peer, content: bytes = b"Subject: x\r\n\r\nhello\r\n.\r\n") -> Reply:
    """One transaction; `content` with its end."""
    assert (await peer.say(MAIL, RCPT)).code == 250
    assert (await peer.say("DATA")).code == 354
    await peer.send(content)
    return await peer.reply()


@on_both_loops
async def test_a_whole_conversation() -> None:
    house = House()
    async with listening(house) as listener, connected(listener) as peer:
        assert await peer.reply() == Reply(220, "", "mx.example ESMTP")
        offered = await peer.say("EHLO client.example")
        assert offered == Reply(
            250, "", "mx.example\nPIPELINING\nSIZE 25000000\n8BITMIME\nSMTPUTF8\nENHANCEDSTATUSCODES\nHELP"
        )
        assert (await peer.say("MAIL FROM:<a@b.example> SIZE=30 BODY=8BITMIME SMTPUTF8")).enhanced == "2.1.0"
        assert (await peer.say("RCPT TO:<c@d.example>")).enhanced == "2.1.5"
        assert (await peer.say("RCPT TO:<ü@d.example>")).enhanced == "2.1.5"
        assert (await peer.say("RCPT TO:<postmaster>")).enhanced == "2.1.5"
        assert (await peer.say("DATA")) == Reply(354, "", "Send the message, then a line with a single dot")
        await peer.send(b"Subject: x\r\n\r\n..hello\r\n.\r\n")
        assert await peer.reply() == Reply(250, "2.0.0", "Ok: queued as T1")
        assert (await peer.say("QUIT")) == Reply(221, "2.0.0", "Bye")
        assert await peer.rest() == []
        port = peer.writer.get_extra_info("sockname")[1]

    (taken,) = house.taken
    envelope = taken.envelope
    assert taken.content == b"Subject: x\r\n\r\n.hello\r\n"
    assert taken.recipients == [Address.parse("c@d.example"), Address.parse("ü@d.example"), None]
    assert (envelope.reverse_path, envelope.size) == (Address.parse("a@b.example"), 30)
    assert envelope.eight_bit and envelope.smtputf8
    client = envelope.client
    assert (client.ip, client.port, client.listener, client.role) == ("127.0.0.1", port, "test", Role.TRUSTED)
    assert client.trusted and client.esmtp and client.helo == "client.example" and client.tls == ""
    assert house.clients == [replace(client, helo="", esmtp=False)]
    assert [f"{line.arrow} {line.text}" for line in taken.transcript] == [
        f"== connected from [127.0.0.1]:{port}",
        "-> 220 mx.example ESMTP",
        "<- EHLO client.example",
        *(f"-> 250-{line}" for line in offered.text.split("\n")[:-1]),
        "-> 250 HELP",
        "<- MAIL FROM:<a@b.example> SIZE=30 BODY=8BITMIME SMTPUTF8",
        "-> 250 2.1.0 Sender ok",
        "<- RCPT TO:<c@d.example>",
        "-> 250 2.1.5 Recipient ok",
        "<- RCPT TO:<ü@d.example>",
        "-> 250 2.1.5 Recipient ok",
        "<- RCPT TO:<postmaster>",
        "-> 250 2.1.5 Recipient ok",
        "<- DATA",
        "-> 354 Send the message, then a line with a single dot",
        "<- [22 octets]",
    ]
    assert not house.said(Happening.REFUSED) and not house.said(Happening.FAULT)


@pytest.mark.parametrize(
    ("before", "command", "code", "enhanced", "words"),
    [
        ([], MAIL, 503, "5.5.1", "Send EHLO or HELO first"),
        ([], RCPT, 503, "5.5.1", "Send MAIL first"),
        ([], "DATA", 503, "5.5.1", "Send MAIL and RCPT first"),
        ([], "NOOP", 250, "2.0.0", ""),
        ([], "RSET", 250, "2.0.0", ""),
        ([], "HELP", 214, "2.0.0", "EHLO HELO MAIL RCPT DATA RSET NOOP HELP QUIT"),
        ([], "HELP RCPT", 214, "2.0.0", "RCPT TO:<address>"),
        ([], "HELP FROB", 504, "5.5.4", "HELP lists the verbs"),
        ([], "FROB", 500, "5.5.2", "HELP lists the verbs"),
        ([], "", 500, "5.5.2", "HELP lists the verbs"),
        ([], "AUTH LOGIN", 502, "5.5.1", "no login here"),
        ([], "STARTTLS", 502, "5.5.1", "no TLS on this listener"),
        ([], "VRFY c@d.example", 252, "2.5.2", "send MAIL and RCPT"),
        ([], "EXPN c@d.example", 502, "5.5.1", "debug"),
        ([], "HELO old.example", 250, "", "mx.example"),
        ([], "EHLO", 501, "5.5.4", "EHLO your.host.name"),
        (["HELO old.example"], MAIL, 250, "2.1.0", ""),
        (["EHLO x"], RCPT, 503, "5.5.1", "Send MAIL first"),
        (["EHLO x"], "MAIL FROM:a@b.example", 501, "5.1.7", "angle brackets"),
        (["EHLO x"], "MAIL FROM:<a@b.example> SIZE=25000001", 552, "5.3.4", "25000000"),
        (["EHLO x", MAIL], MAIL, 503, "5.5.1", "RSET"),
        (["EHLO x", MAIL], "DATA", 503, "5.5.1", "Send RCPT first"),
        (["EHLO x", MAIL], "RCPT TO:<>", 501, "5.1.3", "RCPT TO:<address>"),
        (["EHLO x", MAIL, "RCPT TO:<no@d.example>"], "DATA", 554, "5.5.1", "No recipient"),
        (["EHLO x", MAIL, "RCPT TO:<no@d.example>", RCPT], "DATA", 354, "", "dot"),
        (["EHLO x", MAIL, RCPT, "RSET"], "DATA", 503, "5.5.1", "Send MAIL and RCPT first"),
        (["EHLO x", MAIL, RCPT, "EHLO y"], "DATA", 503, "5.5.1", "Send MAIL and RCPT first"),
        (["EHLO x", MAIL, RCPT, "HELO y"], RCPT, 503, "5.5.1", "Send MAIL first"),
        (["EHLO x", MAIL, RCPT, "NOOP", "HELP", "VRFY a@b.example", "FROB"], "DATA", 354, "", "dot"),
        (["EHLO x", "MAIL FROM:<a@b.example> SMTPUTF8"], "RCPT TO:<ü@d.example>", 250, "2.1.5", ""),
        (["EHLO x", MAIL], "RCPT TO:<ü@d.example>", 553, "5.6.7", "SMTPUTF8"),
    ],
)
async def test_order_and_words(before: list[str], command: str, code: int, enhanced: str, words: str) -> None:
    house = House(replies={"rcpt no@d.example": Reply(550, "5.1.1", "No such user")})
    async with listening(house) as listener, connected(listener) as peer:
        await peer.reply()
        reply = await peer.say(*before, command)
        assert (reply.code, reply.enhanced) == (code, enhanced)
        assert words in reply.text
        if not reply.positive:
            last = house.said(Happening.REFUSED)[-1].facts
            assert last == {"listener": "test", "client": "127.0.0.1", "command": command, "reply": str(reply)} or (
                command == "" and last["command"] == "[an empty line]"
            )
        if code != 354:
            assert (await peer.say("NOOP")).code == 250


@pytest.mark.parametrize("verb", ["VRFY", "EXPN"])
async def test_a_debug_listener_explains(verb: str) -> None:
    house = House()
    async with listening(house, replace(SETTINGS, debug=True)) as listener, greeted(listener) as peer:
        assert await peer.say(f"{verb} <c@d.example>") == Reply(250, "2.1.5", "c@d.example\nis explained")
        assert verb in (await peer.say("HELP")).text


@on_both_loops
async def test_everything_in_one_write() -> None:
    """Two messages and their commands without waiting for a single reply: not as RFC 2920 has it, and in step."""
    house = House()
    async with listening(house) as listener, connected(listener) as peer:
        transaction = f"{MAIL}\r\n{RCPT}\r\nDATA\r\nSubject: %d\r\n\r\n..\r\n.\r\n".encode()
        await peer.send(b"EHLO x\r\n" + transaction % 1 + b"NOOP\r\n" + transaction % 2 + b"QUIT\r\n")
        assert codes(await peer.rest()) == [220, 250, 250, 250, 354, 250, 250, 250, 250, 354, 250, 221]
    assert [taken.content for taken in house.taken] == [b"Subject: 1\r\n\r\n.\r\n", b"Subject: 2\r\n\r\n.\r\n"]


async def test_the_replies_to_pipelined_commands_come_in_one_piece() -> None:
    async with listening(House()) as listener, greeted(listener) as peer:
        await peer.send(f"{MAIL}\r\n{RCPT}\r\n{RCPT}\r\nDATA\r\n".encode())
        octets = await peer.reader.read(65536)
        assert octets.count(b"\r\n") == 4 and b"\r\n354 " in octets


async def test_a_flood_of_commands_is_answered_as_it_comes() -> None:
    async with listening(House()) as listener, greeted(listener) as peer:
        writing = asyncio.create_task(peer.send(b"HELP\r\n" * 5_000 + b"QUIT\r\n"))
        assert codes(await peer.rest()) == [214] * 5_000 + [221]
        await writing


@on_both_loops
async def test_a_client_that_has_sent_all_and_half_closes_is_served() -> None:
    house = House()
    async with listening(house) as listener, connected(listener) as peer:
        await peer.send(f"EHLO x\r\n{MAIL}\r\n{RCPT}\r\nDATA\r\nhello\r\n.\r\n".encode())
        peer.half_close()
        assert codes(await peer.rest()) == [220, 250, 250, 250, 354, 250]
    assert [taken.content for taken in house.taken] == [b"hello\r\n"]


@on_both_loops
async def test_half_closed_while_the_door_commits() -> None:
    house = House(gate=asyncio.Event())
    assert house.gate is not None
    async with listening(house) as listener, greeted(listener) as peer:
        await peer.say(MAIL, RCPT, "DATA")
        await peer.send(b"hello\r\n.\r\n")
        peer.half_close()
        await house.holding.wait()
        house.gate.set()
        assert codes(await peer.rest()) == [250]
    assert len(house.taken) == 1


@on_both_loops
async def test_a_client_that_vanishes_while_the_door_commits_does_not_stop_it() -> None:
    house = House(gate=asyncio.Event())
    assert house.gate is not None
    async with listening(house) as listener, greeted(listener) as peer:
        await peer.say(MAIL, RCPT, "DATA")
        await peer.send(b"hello\r\n.\r\n")
        await house.holding.wait()
        peer.writer.transport.abort()
        await peer.rest()
        house.gate.set()
        await house.committed.wait()
    assert not house.said(Happening.FAULT)


@on_both_loops
async def test_a_client_that_vanishes_in_its_content_leaves_nothing() -> None:
    house = House()
    async with listening(house) as listener, greeted(listener) as peer:
        await peer.say(MAIL, RCPT, "DATA")
        await peer.send(b"hello\r\n.\r")
        await house.reading.wait()
        house.gone.clear()
        peer.half_close()
        assert await peer.rest() == []
        await house.gone.wait()
    assert house.taken == [] and not house.said(Happening.FAULT)


async def test_silence_is_ended() -> None:
    house = House()
    async with listening(house, limits=Limits(timeout=0.05)) as listener, connected(listener) as peer:
        replies = await peer.rest()
        assert codes(replies) == [220, 421] and replies[1].enhanced == "4.4.2"


async def test_silence_in_content_is_ended() -> None:
    house = House()
    async with listening(house, limits=Limits(timeout=0.2)) as listener, greeted(listener) as peer:
        await peer.say(MAIL, RCPT, "DATA")
        await peer.send(b"hello\r\n")
        replies = await peer.rest()
        assert codes(replies) == [421] and replies[0].enhanced == "4.4.2"
    assert house.taken == [] and not house.said(Happening.FAULT)


async def test_a_client_that_reads_nothing_is_cut() -> None:
    house = House()
    async with listening(house, limits=Limits(timeout=0.2)) as listener, greeted(listener) as peer:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        peer.writer.write(b"HELP\r\n" * 150_000)
        house.gone.clear()
        await house.gone.wait()


# Limits.


async def test_recipients_are_limited() -> None:
    house = House()
    async with listening(house, limits=Limits(recipients=2, errors=5)) as listener, greeted(listener) as peer:
        await peer.say(MAIL, RCPT, RCPT)
        for _ in range(10):
            reply = await peer.say(RCPT)
            assert (reply.code, reply.enhanced) == (452, "4.5.3")
            assert "another transaction" in reply.text
        await peer.say("DATA")
        await peer.send(b"hello\r\n.\r\n")
        assert (await peer.reply()).code == 250
        assert (await peer.say(MAIL, RCPT)).code == 250
    assert len(house.taken[0].recipients) == 2


async def test_errors_are_limited() -> None:
    house = House()
    async with listening(house, limits=Limits(errors=3)) as listener, greeted(listener) as peer:
        await peer.send(b"FROB\r\nFROB\r\nFROB\r\nFROB\r\nFROB\r\n")
        replies = await peer.rest()
    assert codes(replies) == [500, 500, 500, 421]
    assert replies[-1].enhanced == "4.7.0"


async def test_an_accepted_message_clears_the_errors() -> None:
    async with listening(House(), limits=Limits(errors=3)) as listener, greeted(listener) as peer:
        for _ in range(3):
            assert codes([await peer.say("FROB"), await peer.say("FROB")]) == [500, 500]
            assert (await sent(peer)).code == 250


async def test_temporary_refusals_are_no_errors_of_the_client() -> None:
    house = House(replies={"rcpt c@d.example": Reply(451, "4.3.0", "Later")})
    async with listening(house, limits=Limits(errors=3)) as listener, greeted(listener) as peer:
        await peer.say(MAIL)
        assert codes([await peer.say(RCPT) for _ in range(10)]) == [451] * 10


async def test_a_message_too_large_is_read_past() -> None:
    house = House()
    async with listening(house, limits=Limits(message_size=1000)) as listener, greeted(listener) as peer:
        reply = await sent(peer, b"x" * 200_000 + b"\r\n.\r\n")
        assert (reply.code, reply.enhanced) == (552, "5.3.4")
        assert house.calls[-1] == "reset"
        assert (await sent(peer, b"x" * 998 + b"\r\n.\r\n")).code == 250
        assert (await peer.say("EHLO x")).text.split("\n")[2] == "SIZE 1000"
    assert [len(taken.content) for taken in house.taken] == [1000]
    assert house.said(Happening.REFUSED)[0].facts["command"] == "DATA"


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"POST /x HTTP/1.0", b"CONNECT a:25 HTTP/1.1"])
async def test_http_is_dropped(line: bytes) -> None:
    async with listening(House()) as listener, connected(listener) as peer:
        await peer.send(line + b"\r\nHost: x\r\n\r\n")
        replies = await peer.rest()
        assert codes(replies) == [220, 421] and "HTTP" in replies[1].text


async def test_tls_spoken_to_a_plain_port_is_told_so() -> None:
    async with listening(House()) as listener, connected(listener) as peer:
        await peer.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")
        replies = await peer.rest()
        assert codes(replies) == [220, 421] and "STARTTLS" in replies[1].text


async def test_a_door_may_close_the_session() -> None:
    house = House(replies={"mail": Reply(421, "4.3.2", "Not now")})
    async with listening(house) as listener, greeted(listener) as peer:
        await peer.send(f"{MAIL}\r\nNOOP\r\n".encode())
        assert codes(await peer.rest()) == [421]


async def test_a_door_may_refuse_a_connection() -> None:
    house = House(replies={"connect": Reply(554, "5.7.1", "Not you")})
    async with listening(house) as listener, connected(listener) as peer:
        assert await peer.rest() == [Reply(554, "5.7.1", "Not you")]


async def test_a_trusted_listener_refuses_strangers() -> None:
    house = House()
    async with listening(house, replace(SETTINGS, trusted_networks=())) as listener, connected(listener) as peer:
        (reply,) = await peer.rest()
        assert (reply.code, reply.enhanced) == (554, "5.7.1")
    assert house.clients == []


@pytest.mark.parametrize("networks", [(), LOCAL])
async def test_an_inbound_listener_knows_whom_it_trusts(networks: tuple[()]) -> None:
    house = House()
    settings = replace(SETTINGS, role=Role.INBOUND, trusted_networks=networks)
    async with listening(house, settings) as listener, greeted(listener):
        assert house.clients[0].trusted is bool(networks)


# Faults of ours.


@pytest.mark.parametrize("verb", ["mail", "rcpt c@d.example", "data"])
async def test_a_fault_is_451_and_the_session_goes_on(verb: str) -> None:
    house = House(replies={verb: ValueError("secret /etc/path")})
    async with listening(house) as listener, greeted(listener) as peer:
        await peer.send(f"{MAIL}\r\n{RCPT}\r\n{RCPT}\r\nDATA\r\n".encode())
        replies = [await peer.reply() for _ in range(4)]
        if verb == "data":
            await peer.send(b"hello\r\n.\r\n")
            replies.append(await peer.reply())
        faults = [reply for reply in replies if not reply.positive]
        assert {(reply.code, reply.enhanced) for reply in faults} == {(451, "4.3.0")}
        assert "secret" not in str(replies)
        (event,) = house.said(Happening.FAULT)
        assert "secret /etc/path" in event.facts["error"] and "Traceback" in event.facts["traceback"]
        assert event.facts["where"].startswith("session: " + verb[:4].upper())

        house.replies.clear()
        assert (await sent(peer)).code == 250
    assert len(house.taken) == 1


async def test_a_fault_at_connect_closes() -> None:
    house = House(replies={"connect": OSError("disk")})
    async with listening(house) as listener:
        async with connected(listener) as peer:
            replies = await peer.rest()
            assert codes(replies) == [421] and "disk" not in str(replies)
        house.replies.clear()
        async with greeted(listener):
            pass


async def test_a_fault_in_reset_harms_no_other_session() -> None:
    house = House(replies={"reset": RuntimeError("reset")})
    async with listening(house) as listener, connected(listener) as peer:
        await peer.reply()
        assert codes([await peer.say("EHLO x"), await peer.say("RSET"), await peer.say("QUIT")]) == [451, 451, 221]
        assert await peer.rest() == []
        house.replies.clear()
        async with greeted(listener) as other:
            assert (await sent(other)).code == 250


# Framing.


async def test_a_door_that_answers_early_leaves_the_session_in_step() -> None:
    house = House(early=True)
    async with listening(house) as listener, greeted(listener) as peer:
        assert (await sent(peer, b"QUIT\r\n" * 50_000 + b".\r\n")).code == 452
        house.early = False
        assert (await sent(peer)).code == 250
    assert len(house.taken) == 1


ENDS = [
    b"\n.\n",
    b"\r\n.\n",
    b"\n.\r\n",
    b"\r.\r",
    b"\r\n.\r",
    b"\r.\r\n",
    b"\r\n\0.\r\n",
    b"\0\r\n.\n",
    b"\r\n.\0\r\n",
]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("bare", BareNewline)
async def test_nothing_is_smuggled(end: bytes, bare: BareNewline) -> None:
    house = House()
    async with listening(house, replace(SETTINGS, bare_newline=bare)) as listener, greeted(listener) as peer:
        smuggled = f"MAIL FROM:<evil@x.example>\r\n{RCPT}\r\nDATA\r\nevil\r\n.\r\n".encode()
        reply = await sent(peer, b"Subject: one\r\n\r\none" + end + smuggled)
        taken = bare is BareNewline.NORMALIZE and b"\0" not in end
        assert (reply.code, reply.enhanced) == ((250, "2.0.0") if taken else (554, "5.6.0"))
        assert (await sent(peer, b"Subject: two\r\n\r\n.\r\n")).code == 250
        assert (await peer.say("QUIT")).code == 221
    assert len(house.taken) == 1 + taken
    assert house.taken[-1].content == b"Subject: two\r\n\r\n"
    if taken:
        content = house.taken[0].content
        assert b"MAIL FROM:<evil@x.example>\r\n" in content
        assert content.count(b"\r") == content.count(b"\n") == content.count(b"\r\n")


async def test_pieces_that_end_anywhere() -> None:
    house = House()
    async with listening(house) as listener, greeted(listener) as peer:
        await peer.say(MAIL, RCPT, "DATA")
        for octet in b"..a\r\n\r\n..\r\n.\r\nNOOP\r\n":
            await peer.send(bytes([octet]))
            await asyncio.sleep(0)
        assert codes([await peer.reply(), await peer.reply()]) == [250, 250]
    assert house.taken[0].content == b".a\r\n\r\n.\r\n"


@on_both_loops
async def test_long_lines_and_ten_megabytes_pass_unchanged() -> None:
    house = House()
    line = bytes(octet for octet in range(1, 256) if octet not in b"\r\n") * 40
    message = b"Subject: x\r\n\r\n" + (line + b"\r\n") * 1000
    assert len(message) > 10_000_000
    async with listening(house) as listener, greeted(listener) as peer:
        assert (await sent(peer, message.replace(b"\r\n.", b"\r\n..") + b".\r\n")).code == 250
    assert house.taken[0].content == message


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"NOOP\n", "end lines with CRLF: telnet does, nc needs -C"),
        (b"NO\rOP\r\n", "lone CR"),
        (b"NO\0OP\r\n", "NUL"),
        (b"NOOP " + b"x" * 2048 + b"\r\n", "at most 2048 octets"),
        (b"NOOP " + b"x" * 500_000 + b"\r\n", "at most 2048 octets"),
    ],
)
async def test_a_malformed_line_gets_one_answer(octets: bytes, words: str) -> None:
    house = House()
    async with listening(house) as listener, greeted(listener) as peer:
        await peer.send(octets + b"RSET\r\n")
        reply = await peer.reply()
        assert (reply.code, reply.enhanced) == (500, "5.5.2") and words in reply.text
        assert (await peer.reply()).code == 250
    assert [event.facts["reply"] for event in house.said(Happening.REFUSED)] == [str(reply)]


# The transcript.


async def test_the_transcript_does_not_grow_with_the_connection() -> None:
    house = House()
    async with listening(house) as listener, greeted(listener) as peer:
        for _ in range(300):
            assert (await sent(peer)).code == 250
            assert (await peer.say("NOOP")).code == 250
        await peer.say("EHLO again.example")
        await sent(peer)
    lengths = {len(taken.transcript) for taken in house.taken}
    assert len(lengths) == 1
    last = [line.text for line in house.taken[-1].transcript]
    assert "EHLO again.example" in last and "EHLO client.example" not in last and last.count(MAIL) == 1


HEAVY = b"NOOP \xf0\x9f\x98\x80" + b"\x01" * 2000


async def flood(peer: Peer, line: bytes, times: int) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(peer.send((line + b"\r\n") * times))
        for _ in range(times):
            await peer.reply()


@pytest.mark.parametrize(
    ("line", "times"), [(HEAVY, 500), (b"NOOP", 3000), (b"\xff" * 2000, 500)], ids=["heavy", "short", "refused"]
)
async def test_the_transcript_of_a_flood_is_bounded(line: bytes, times: int) -> None:
    """Before MAIL, after it, and in the next transaction none is left."""
    house = House()
    async with listening(house, limits=Limits(errors=10_000)) as listener, greeted(listener) as peer:
        await flood(peer, line, times)
        await peer.say(MAIL, RCPT)
        await flood(peer, line, times)
        await peer.say(RCPT, "DATA")
        await peer.send(b".\r\n")
        assert (await peer.reply()).code == 250
        await flood(peer, line, times)
        assert (await sent(peer)).code == 250
    flooded, calm = ([line.text for line in taken.transcript] for taken in house.taken)
    assert sum(map(len, flooded)) < 262_144 and len(flooded) < 5000
    assert max(map(len, flooded)) < 1100
    assert flooded[-1] == "the transcript is cut here: more was said than it keeps"
    assert flooded.count(flooded[-1]) == 1
    assert MAIL in flooded and flooded.count(RCPT) == 1
    assert calm[-1] == "[21 octets]" and len(calm) < 20
    assert all(len(event.facts["command"]) < 1100 for event in house.said(Happening.REFUSED))


async def test_a_long_line_is_cut_and_says_so() -> None:
    house = House()
    async with listening(house) as listener, greeted(listener) as peer:
        await peer.say(MAIL, RCPT, HEAVY, b"NOOP " + b"x" * 995, "DATA")
        await peer.send(b".\r\n")
        await peer.reply()
    heard = [line.text for line in house.taken[0].transcript if line.text.startswith("NOOP")]
    assert heard == [
        ("NOOP \U0001f600" + r"\x01" * 1000)[:1000] + " [cut: the line has 2009 octets]",
        "NOOP " + "x" * 995,
    ]


async def test_a_flood_of_ehlo_leaves_the_last() -> None:
    house = House()
    async with listening(house) as listener, greeted(listener) as peer:
        await flood(peer, b"EHLO " + b"x" * 255, 1000)
        assert (await sent(peer)).code == 250
    texts = [line.text for line in house.taken[0].transcript]
    assert sum(text.startswith("EHLO") for text in texts) == 1 and len(texts) < 30


async def test_other_tasks_have_their_turn_while_pipelined_commands_are_answered() -> None:
    house = House()

    async def tick() -> None:
        while True:
            house.calls.append("tick")
            await asyncio.sleep(0)

    async with listening(house) as listener, greeted(listener) as peer:
        await peer.say(MAIL)
        async with asyncio.TaskGroup() as group:
            ticking = group.create_task(tick())
            await peer.send(f"{RCPT}\r\n".encode() * 200)
            for _ in range(200):
                await peer.reply()
            ticking.cancel()
    turns = " ".join(house.calls).replace("rcpt c@d.example", "rcpt").split("tick")
    assert sum(turn.count("rcpt") for turn in turns) == 200
    assert max(turn.count("rcpt") for turn in turns) <= 16


async def test_secrets_and_control_characters_stay_out_of_it() -> None:
    house = House()
    async with listening(house) as listener, greeted(listener) as peer:
        await peer.say(MAIL)
        await peer.say("AUTH PLAIN AGJvYgBzM2NyM3Q=", "NOOP")
        await peer.say(b"\x1b[2J\xff")
        await peer.say("\u009b2J\u202e\u2028")
        await peer.say(RCPT, "DATA")
        await peer.send(b".\r\n")
        await peer.reply()
    heard = [line.text for line in house.taken[0].transcript if line.arrow is Arrow.RECEIVED]
    assert "AUTH PLAIN [credentials]" in heard and r"\x1b[2J\xff" in heard
    assert r"\x9b2J\u202e\u2028" in heard
    assert "AGJvYg" not in str(house.taken[0].transcript) + str(house.events)
