"""A server's replies, as a client reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.reply import Reply
from smtproute.core.transcript import legible
from smtproute.smtp.wire import Replies, WireError


def read(pieces: list[bytes]) -> list[Reply | str]:
    """The replies, and at the end the error if there is one."""
    found: list[Reply | str] = []
    feeding = Replies()
    try:
        for piece in pieces:
            feeding.feed(piece)
            while (reply := feeding.next()) is not None:
                found.append(reply)
    except WireError as error:
        assert (error.reply.code, error.reply.enhanced) == (451, "4.5.0")
        found.append(error.reply.text)
    return found


@pytest.mark.parametrize(
    ("octets", "replies"),
    [
        (b"220 mx.example ESMTP\r\n", [Reply(220, "", "mx.example ESMTP")]),
        (b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n", [Reply(250, "2.1.0", "Ok"), Reply(250, "2.1.5", "Ok")]),
        (b"250\r\n", [Reply(250, "", "")]),
        (b"250 \r\n", [Reply(250, "", "")]),
        (b"250 2.0.0\r\n", [Reply(250, "2.0.0", "")]),
        (b"250-a\r\n250-b\r\n250 c\r\n", [Reply(250, "", "a\nb\nc")]),
        (b"550-5.1.1 no\r\n550 5.1.1 such user\r\n", [Reply(550, "5.1.1", "no\nsuch user")]),
        (b"550-5.1.1 no\r\n550 such user\r\n", [Reply(550, "5.1.1", "no\nsuch user")]),
        (b"550-no\r\n550 5.1.1 such user\r\n", [Reply(550, "", "no\n5.1.1 such user")]),
        (b"250-\r\n250 \r\n", [Reply(250, "", "\n")]),
        (b"550 4.1.1 of another class\r\n", [Reply(550, "", "4.1.1 of another class")]),
        (b"550 5.1 no code\r\n", [Reply(550, "", "5.1 no code")]),
        (b"550 5.1.1no code\r\n", [Reply(550, "", "5.1.1no code")]),
        (b"354 3.0.0 go on\r\n", [Reply(354, "", "3.0.0 go on")]),
        (b"250 Ok\n250 Ok\r\n", [Reply(250, "", "Ok"), Reply(250, "", "Ok")]),
        (b"250 caf\xc3\xa9 \xff\r\n", [Reply(250, "", "café \\xff")]),
        (b"250 a\rb\0c\x1b[2J\td\r\n", [Reply(250, "", r"a\rb\x00c\x1b[2J\td")]),
        ("250 a\u009b2J\u202eb\u2028\u2066c\r\n".encode(), [Reply(250, "", r"a\x9b2J\u202eb\u2028\u2066c")]),
        (b"250 half", []),
        (b"250-half\r\n", []),
    ],
)
def test_replies(octets: bytes, replies: list[Reply]) -> None:
    assert read([octets]) == replies
    assert read([octets[n : n + 1] for n in range(len(octets))]) == replies


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"hello\r\n", "does not begin with a code"),
        (b"\r\n", "does not begin with a code"),
        (b"25 x\r\n", "does not begin with a code"),
        (b"2500 x\r\n", "does not begin with a code"),
        (b"150 x\r\n", "does not begin with a code"),
        (b"650 x\r\n", "does not begin with a code"),
        (b" 250 x\r\n", "does not begin with a code"),
        (b"\xd9\xa2\xd9\xa5\xd9\xa0 x\r\n", "does not begin with a code"),
        (b"250-a\r\n251 b\r\n", "codes 250 and 251"),
        (b"250-" + b"x" * 5000 + b"\r\n", "too long"),
        (b"x" * 5000, "too long"),
        (b"250-x\r\n" * 600, "too many lines"),
    ],
)
def test_garbage(octets: bytes, why: str) -> None:
    (said,) = read([octets])
    assert isinstance(said, str) and why in said and said.startswith("The server's reply is malformed: ")


PARTS = [
    b"250",
    b"-",
    b" ",
    b"550",
    b"5.1.1",
    b"2.0.0",
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"x" * 3000,
    b"\xff",
    b"ok",
    b"354",
]


@given(
    st.binary(max_size=100) | st.lists(st.sampled_from(PARTS), max_size=20).map(b"".join),
    st.data(),
)
def test_anything_is_replies_or_the_one_error_however_it_is_cut(octets: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=8)))
    pieces = [octets[a:b] for a, b in zip([0, *cuts], [*cuts, len(octets)], strict=True)]
    found = read([octets])
    assert read(pieces) == found
    for reply in found:
        if isinstance(reply, Reply):
            assert b"\r" not in reply.wire().replace(b"\r\n", b"")


TEXT = st.text(st.characters(blacklist_categories=["Cc", "Cs"]), max_size=30).map(legible)


@given(st.integers(200, 599), st.booleans(), st.lists(TEXT, min_size=1, max_size=4))
def test_our_own_replies_are_read_as_they_were_meant(code: int, enhanced: bool, lines: list[str]) -> None:
    reply = Reply(code, f"{str(code)[0]}.1.10" if enhanced and code // 100 != 3 else "", "\n".join(lines))
    assert read([reply.wire()]) == [reply]
