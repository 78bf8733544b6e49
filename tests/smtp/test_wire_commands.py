"""Command lines and commands: what is taken, what is refused and with which words, and that nothing else happens."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtproute.core.address import Address
from smtproute.smtp import wire
from smtproute.smtp.wire import MAX_COMMAND, CommandLines, Verb, WireError, parse_command

A = Address.parse("a@b.example")


@pytest.mark.parametrize(
    ("line", "command"),
    [
        (b"EHLO client.example", wire.Ehlo("client.example")),
        (b"ehlo [IPv6:2001:db8::1]", wire.Ehlo("[IPv6:2001:db8::1]")),
        (b"EHLO my_laptop ", wire.Ehlo("my_laptop")),
        (b"HELO client", wire.Helo("client")),
        (b"MAIL FROM:<>", wire.Mail(None)),
        (b"mail from:<a@b.example>", wire.Mail(A)),
        (b"MAIL FROM:  <a@b.example>", wire.Mail(A)),
        (b"MAIL FROM:<a@b.example>  SIZE=1000   BODY=8bitmime ", wire.Mail(A, 1000, True)),
        (b"MAIL FROM:<a@b.example> BODY=7BIT", wire.Mail(A)),
        (b"MAIL FROM:<a@b.example> size=0 smtputf8", wire.Mail(A, 0, smtputf8=True)),
        (b"MAIL FROM:<@one.example,@two.example:a@b.example>", wire.Mail(A)),
        (b"MAIL FROM:<a@b.example> RET=HDRS ENVID=QQ+3D314159 AUTH=<>", wire.Mail(A)),
        (b"MAIL FROM:<a@b.example> AUTH=e+3Dmc2@example.com", wire.Mail(A)),
        ("MAIL FROM:<ü@b.example> SMTPUTF8".encode(), wire.Mail(Address.parse("ü@b.example"), smtputf8=True)),
        (b'MAIL FROM:<"a>b"@b.example>', wire.Mail(Address.parse('"a>b"@b.example'))),
        (b"MAIL FROM:<a@[192.0.2.1]>", wire.Mail(Address.parse("a@[192.0.2.1]"))),
        (b"RCPT TO:<a@b.example>", wire.Rcpt(A)),
        (b"rcpt to: <a@b.example>", wire.Rcpt(A)),
        (b"RCPT TO:<@relay.example:a@b.example>", wire.Rcpt(A)),
        (b"RCPT TO:<Postmaster>", wire.Rcpt(None)),
        (b"RCPT TO:<pOSTMASTER>", wire.Rcpt(None)),
        (b"RCPT TO:<a@b.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb@b.example", wire.Rcpt(A)),
        (b"DATA", wire.Data()),
        (b"data ", wire.Data()),
        (b"RSET", wire.Rset()),
        (b"QUIT", wire.Quit()),
        (b"STARTTLS", wire.Starttls()),
        (b"AUTH LOGIN", wire.Auth("LOGIN")),
        (b"auth plain =", wire.Auth("PLAIN", "=")),
        (b"AUTH  XOAUTH2   AGEAYg== ", wire.Auth("XOAUTH2", "AGEAYg==")),
        (b"NOOP", wire.Noop()),
        (b"NOOP whatever you like", wire.Noop()),
        (b"HELP", wire.Help(None)),
        (b"help mail", wire.Help(Verb.MAIL)),
        (b"VRFY a@b.example", wire.Vrfy(A)),
        (b"EXPN <a@b.example>", wire.Expn(A)),
        ("VRFY ü@b.example SMTPUTF8".encode(), wire.Vrfy(Address.parse("ü@b.example"))),
    ],
)
def test_taken(line: bytes, command: wire.Command) -> None:
    assert parse_command(line) == command


@pytest.mark.parametrize(
    ("line", "code", "enhanced", "words"),
    [
        (b"", 500, "5.5.2", "HELP lists the verbs"),
        (b" EHLO a", 500, "5.5.2", "HELP lists the verbs"),
        (b"FROB", 500, "5.5.2", "'FROB'"),
        (b"MAIL\tFROM:<a@b.example>", 500, "5.5.2", "HELP"),
        (b"\xff\xfe", 500, "5.5.2", "UTF-8"),
        (b"F\x1b[2J", 500, "5.5.2", r"'F\x1b[2J'"),
        (b"F" * 2000, 500, "5.5.2", "..."),
        (b"GET / HTTP/1.1", 421, "4.7.0", "not HTTP"),
        (b"POST / HTTP/1.1", 421, "4.7.0", "not HTTP"),
        (b"CONNECT x:25 HTTP/1.1", 421, "4.7.0", "not HTTP"),
        (b"AUTH", 501, "5.5.4", "AUTH PLAIN|LOGIN"),
        (b"AUTH PLAIN AGEAYg== more", 501, "5.5.4", "AUTH PLAIN|LOGIN"),
        (b"AUTH AGFAYi5leGFtcGxlAHNlY3JldA==", 501, "5.5.4", "AUTH PLAIN|LOGIN"),
        (b"AUTH:AGFAYi5leGFtcGxlAHNlY3JldA==", 500, "5.5.2", "Syntax: AUTH PLAIN|LOGIN"),
        (b"BDAT 100 LAST", 502, "5.5.1", "send DATA"),
        (b"LHLO a", 502, "5.5.1", "send EHLO"),
        (b"EHLO", 501, "5.5.4", "EHLO your.host.name"),
        (b"EHLO two words", 501, "5.5.4", "EHLO your.host.name"),
        (b"HELO (comment)", 501, "5.5.4", "HELO your.host.name"),
        ("EHLO größe".encode(), 501, "5.5.4", "EHLO your.host.name"),
        (b"EHLO " + b"a" * 300, 501, "5.5.4", "EHLO your.host.name"),
        (b"MAIL", 501, "5.5.4", "MAIL FROM:<address>"),
        (b"MAIL <a@b.example>", 501, "5.5.4", "MAIL FROM:<address>"),
        (b"MAIL FROM <a@b.example>", 501, "5.5.4", "MAIL FROM:<address>"),
        (b"MAIL FROM:", 501, "5.1.7", "angle brackets: MAIL FROM:<address>"),
        (b"MAIL FROM:a@b.example", 501, "5.1.7", "angle brackets: MAIL FROM:<address>"),
        (b"MAIL FROM:<a@b.example", 501, "5.1.7", "closing >"),
        (b'MAIL FROM:<"a@b.example>', 501, "5.1.7", "quote"),
        (b"MAIL FROM:<a@b.example>SIZE=1", 501, "5.5.4", "a space"),
        (b"MAIL FROM:<a@b.example>>", 501, "5.5.4", "a space"),
        (b"MAIL FROM:<a>", 501, "5.1.7", "it needs a local part, @ and a domain"),
        (b"MAIL FROM:< a@b.example >", 501, "5.1.7", "malformed"),
        (b"MAIL FROM:<<a@b.example>", 501, "5.1.7", "malformed"),
        (b"MAIL FROM:<a@@b.example>", 501, "5.1.7", "malformed"),
        (b"MAIL FROM:<a..b@b.example>", 501, "5.1.7", "malformed"),
        (b"MAIL FROM:<a@b..example>", 501, "5.1.7", "no domain name"),
        (b"MAIL FROM:<a@[bad]>", 501, "5.1.7", "address literal"),
        (b"MAIL FROM:<@one.example>", 501, "5.1.7", "source route"),
        (b"MAIL FROM:<@one.example,two:a@b.example>", 501, "5.1.7", "source route"),
        (b"MAIL FROM:<@one..example:a@b.example>", 501, "5.1.7", "no domain name"),
        (b"MAIL FROM:<" + b"a" * 500 + b"@b.example>", 501, "5.1.7", "too long"),
        ("MAIL FROM:<ü@b.example>".encode(), 553, "5.6.7", "SMTPUTF8"),
        (b"MAIL FROM:<a@b.example> SIZE=", 501, "5.5.4", "malformed"),
        (b"MAIL FROM:<a@b.example> SIZE", 501, "5.5.4", "SIZE is malformed"),
        (b"MAIL FROM:<a@b.example> SIZE=-1", 501, "5.5.4", "SIZE is malformed"),
        (b"MAIL FROM:<a@b.example> SIZE=1e3", 501, "5.5.4", "SIZE is malformed"),
        ("MAIL FROM:<a@b.example> SIZE=²".encode(), 501, "5.5.4", "SIZE is malformed"),
        (b"MAIL FROM:<a@b.example> SIZE=" + b"1" * 21, 501, "5.5.4", "SIZE is malformed"),
        (b"MAIL FROM:<a@b.example> BODY=BINARYMIME", 501, "5.5.4", "BODY is malformed"),
        (b"MAIL FROM:<a@b.example> SMTPUTF8=yes", 501, "5.5.4", "SMTPUTF8 is malformed"),
        (b"MAIL FROM:<a@b.example> SIZE=1 SIZE=2", 501, "5.5.4", "twice"),
        (b"MAIL FROM:<a@b.example> SIZE=1 size=1", 501, "5.5.4", "twice"),
        (b"MAIL FROM:<a@b.example> RET=SOME", 501, "5.5.4", "RET"),
        (b"MAIL FROM:<a@b.example> ENVID=+3", 501, "5.5.4", "ENVID"),
        (b"MAIL FROM:<a@b.example> NOTIFY=NEVER", 555, "5.5.4", "NOTIFY"),
        (b"MAIL FROM:<a@b.example> BY=120;R", 555, "5.5.4", "BY"),
        (b"MAIL FROM:<a@b.example> -=", 501, "5.5.4", "malformed"),
        (b"RCPT", 501, "5.5.4", "RCPT TO:<address>"),
        (b"RCPT TO:<>", 501, "5.1.3", "senders only"),
        (b"RCPT TO:a@b.example", 501, "5.1.3", "angle brackets: RCPT TO:<address>"),
        (b"RCPT TO:<postmaster1>", 501, "5.1.3", "it needs"),
        (b"RCPT TO:<a@b.example> NOTIFY=NEVER,DELAY", 501, "5.5.4", "NOTIFY"),
        (b"RCPT TO:<a@b.example> SIZE=1", 555, "5.5.4", "SIZE"),
        ("RCPT TO:<ü@b.example>".encode(), 553, "5.6.7", "SMTPUTF8"),
        (b"DATA now", 501, "5.5.4", "DATA alone"),
        (b"RSET now", 501, "5.5.4", "RSET alone"),
        (b"QUIT now", 501, "5.5.4", "QUIT alone"),
        (b"STARTTLS now", 501, "5.5.4", "STARTTLS alone"),
        (b"HELP frob", 504, "5.5.4", "HELP lists the verbs"),
        (b"VRFY", 501, "5.1.3", "user@domain"),
        (b"VRFY joe", 501, "5.1.3", "VRFY user@domain"),
        (b"EXPN a@b..example", 501, "5.1.3", "no domain name"),
    ],
)
def test_refused(line: bytes, code: int, enhanced: str, words: str) -> None:
    with pytest.raises(WireError) as refused:
        parse_command(line)
    reply = refused.value.reply
    assert (reply.code, reply.enhanced) == (code, enhanced)
    assert words in reply.text
    assert reply.wire().isascii() and len(reply.wire()) <= 512


def test_recipients_are_utf8_in_a_transaction_that_has_smtputf8() -> None:
    line = "RCPT TO:<ü@bücher.example>".encode()
    assert parse_command(line, smtputf8=True) == wire.Rcpt(Address.parse("ü@bücher.example"))


PIECES = (
    [*Verb, "FROM:", "TO:", "<", ">", "@", ",", ":", "a", "b.example", '"', "\\", " ", "  ", "SIZE=", "BODY=", "1"],
    ["8BITMIME", "SMTPUTF8", "RET=", "ENVID=", "NOTIFY=", "ORCPT=rfc822;", "AUTH=", "+3D", "=", ";", "[", "]"],
    ["postmaster", "ü", "\0", "\t", "\x7f", "\u2028", "xn--", "a" * 70, "."],
)
PLAUSIBLE = st.lists(st.sampled_from([*chain(*PIECES)]), max_size=14).map(lambda parts: "".join(parts).encode())


def judged(line: bytes, smtputf8: bool) -> wire.Command | None:
    try:
        return parse_command(line, smtputf8=smtputf8)
    except WireError as refused:
        assert refused.reply.code in {421, 500, 501, 502, 504, 553, 555}
        assert refused.reply.wire().isascii()
        assert "\n" not in refused.reply.text and "\r" not in refused.reply.text
        return None


@settings(max_examples=500)
@given(st.binary(max_size=200) | PLAUSIBLE, st.booleans())
def test_any_line_is_a_command_or_the_one_error(line: bytes, smtputf8: bool) -> None:
    judged(line, smtputf8)


@given(st.sampled_from([b"MAIL FROM:<", b"RCPT TO:<", b"MAIL FROM:<a@b.example> ", b"VRFY "]), PLAUSIBLE, st.booleans())
def test_an_address_taken_is_one_that_can_be_written_again(start: bytes, rest: bytes, smtputf8: bool) -> None:
    match judged(start + rest, smtputf8):
        case wire.Mail(address) | wire.Rcpt(address) | wire.Vrfy(address) if address is not None:
            assert Address.parse(str(address)) == address


# Lines.


def lines(chunks: list[bytes]) -> list[bytes | tuple[int, bytes]]:
    """What comes out: lines, and the refusals as code and line."""
    found: list[bytes | tuple[int, bytes]] = []
    feeding = CommandLines()
    for chunk in chunks:
        feeding.feed(chunk)
        while True:
            try:
                line = feeding.next()
            except WireError as refused:
                found.append((refused.reply.code, refused.line))
                if refused.reply.code == 421:
                    return found
                continue
            if line is None:
                break
            found.append(line)
    return found


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"NOOP\r\nRSET\r\nQU", [b"NOOP", b"RSET"]),
        (b"\r\n", [b""]),
        (b"NOOP\nRSET\r\n", [(500, b"NOOP"), b"RSET"]),
        (b"NO\rOP\r\nRSET\r\n", [(500, b"NO\rOP"), b"RSET"]),
        (b"NOOP\r\r\nRSET\r\n", [(500, b"NOOP"), b"RSET"]),
        (b"NO\0OP\r\nRSET\r\n", [(500, b"NO\0OP"), b"RSET"]),
        (b"x" * (MAX_COMMAND - 2) + b"\r\nRSET\r\n", [b"x" * (MAX_COMMAND - 2), b"RSET"]),
        (b"x" * (MAX_COMMAND - 1) + b"\r\nRSET\r\n", [(500, b""), b"RSET"]),
        (b"x" * 100_000 + b"\r\nRSET\r\n", [(500, b""), b"RSET"]),
        (b"\x16\x03\x01\x02\x00\x01\x00", [(421, b"")]),
    ],
)
def test_lines(octets: bytes, expected: list[bytes | tuple[int, bytes]]) -> None:
    assert lines([octets]) == expected
    assert lines([octets[n : n + 1] for n in range(len(octets))]) == expected


def test_a_lone_lf_is_told_what_to_do() -> None:
    feeding = CommandLines()
    feeding.feed(b"EHLO me\n")
    with pytest.raises(WireError, match="end lines with CRLF: telnet does, nc needs -C"):
        feeding.next()


def test_an_endless_line_takes_no_memory() -> None:
    feeding = CommandLines()
    for _ in range(1000):
        feeding.feed(b"x" * 10_000)
        assert feeding.next() is None
        assert len(feeding.take()) <= MAX_COMMAND


@given(
    st.lists(
        st.sampled_from([b"NOOP", b"\r\n", b"\n", b"\r", b"\0", b"x" * 1500, b"\x16\x03", b"\x16", b"\x03", b"\xff"]),
        max_size=20,
    ),
    st.data(),
)
def test_lines_are_the_same_however_the_octets_are_cut(parts: list[bytes], data: st.DataObject) -> None:
    octets = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=8)))
    pieces = [octets[a:b] for a, b in zip([0, *cuts], [*cuts, len(octets)], strict=True)]
    assert lines(pieces) == lines([octets])


def test_what_is_buffered_is_handed_over() -> None:
    feeding = CommandLines()
    feeding.feed(b"DATA\r\nSubject: x\r\n")
    assert feeding.next() == b"DATA"
    assert feeding.take() == b"Subject: x\r\n"
    assert feeding.next() is None
    feeding.feed(b"QUIT\r\n")
    assert feeding.next() == b"QUIT"
