"""What was done to a message, said so that one sees it."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from smtproute.testing.difference import change

SENT = (
    b"Received: from a\r\n"
    b"Subject: Hello\t\r\n"
    b"From: Anna <anna@example.org>\r\n"
    b"To: b@example.org,\r\n"
    b" c@example.org\r\n"
    b"X-Spam: no\r\n"
    b"\r\n"
    b"Gr\xfc\xdfe \r\n"
    b"Anna\r\n"
)
TRACE = b"ARC-Seal: i=1;\r\n b=x\r\nReceived: from b\r\n"


def test_header_fields_put_in_front_are_no_change() -> None:
    assert change(SENT, SENT) == ""
    assert change(SENT, TRACE + SENT) == ""
    assert change(b"", TRACE) == ""


def test_a_field_that_was_to_be_removed_must_be_gone() -> None:
    left = SENT.replace(b"X-Spam: no\r\n", b"")
    assert change(SENT, TRACE + left, without=["x-spam"]) == ""
    assert (
        change(SENT, TRACE + SENT, without=["X-Spam"])
        == r"""line 7 as sent:      "\r\n"
line 9 as received:  "X-Spam: no\r\n"
                      ^
header fields added among those sent: X-Spam
header fields put in front: ARC-Seal, Received
the body is as it was sent"""
    )


CHANGES = {
    "one octet of a field": (
        TRACE + SENT.replace(b"Hello\t", b"Hallo\t"),
        r"""line 2 as sent:      "Subject: Hello\t\r\n"
line 5 as received:  "Subject: Hallo\t\r\n"
                                ^
header fields changed: Subject
header fields put in front: ARC-Seal, Received
the body is as it was sent""",
    ),
    "a trailing tab": (
        TRACE + SENT.replace(b"Hello\t", b"Hello"),
        r"""line 2 as sent:      "Subject: Hello\t\r\n"
line 5 as received:  "Subject: Hello\r\n"
                                    ^
header fields changed: Subject
header fields put in front: ARC-Seal, Received
the body is as it was sent""",
    ),
    "a field is gone": (
        TRACE + SENT.replace(b"X-Spam: no\r\n", b""),
        r"""line 6 as sent:      "X-Spam: no\r\n"
line 9 as received:  "\r\n"
                      ^
header fields missing: X-Spam
header fields put in front: ARC-Seal, Received
the body is as it was sent""",
    ),
    "a field between those sent": (
        TRACE + SENT.replace(b"From:", b"List-Id: <l.example>\r\nFrom:"),
        r"""line 3 as sent:      "From: Anna <anna@example.org>\r\n"
line 6 as received:  "List-Id: <l.example>\r\n"
                      ^
header fields added among those sent: List-Id
header fields put in front: ARC-Seal, Received
the body is as it was sent""",
    ),
    "the first field under another name": (
        SENT.replace(b"Received: from a", b"X-Received: from a, now"),
        r"""line 1 as sent:      "Received: from a\r\n"
line 1 as received:  "X-Received: from a, now\r\n"
                      ^
header fields missing: Received
header fields added among those sent: X-Received
the body is as it was sent""",
    ),
    "refolded, and a footer": (
        TRACE + SENT.replace(b",\r\n c@", b", c@") + b"-- \r\nlist footer\r\n",
        r"""line 4 as sent:      "To: b@example.org,\r\n"
line 7 as received:  "To: b@example.org, c@example.org\r\n"
                                        ^
header fields changed: To
header fields put in front: ARC-Seal, Received
the body was changed: 14 octets were sent, 32 received""",
    ),
    "8-bit octets": (
        SENT.replace(b"\xfc\xdf", b"=FC=DF"),
        r"""line 8 as sent:      "Gr\xfc\xdfe \r\n"
line 8 as received:  "Gr=FC=DFe \r\n"
                        ^
the body was changed: 14 octets were sent, 18 received""",
    ),
    "the end is gone": (
        TRACE + SENT.removesuffix(b"Anna\r\n"),
        r"""line 9 as sent:       "Anna\r\n"
line 12 as received:  (the message has ended)
header fields put in front: ARC-Seal, Received
the body was changed: 14 octets were sent, 8 received""",
    ),
    "line ends": (
        SENT.replace(b"Anna\r\n", b"Anna\n"),
        r"""line 9 as sent:      "Anna\r\n"
line 9 as received:  "Anna\n"
                          ^
only line ends differ: as sent 9 CRLF, as received 8 CRLF, 1 LF""",
    ),
    "no field in front": (
        b"Received: from b\r\n>From anna\r\n" + SENT,
        r'''what was put in front is no header field:
line 2 as received:  ">From anna\r\n"''',
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_told(name: str) -> None:
    received, said = CHANGES[name]
    assert change(SENT, received) == said


def test_of_a_long_line_what_is_near_the_difference_is_shown() -> None:
    sent = b"Subject: x\r\n\r\n" + b"a" * 500 + b"b" + b"c" * 400 + b"\r\n"
    shown, other, caret, *_ = change(sent, sent.replace(b"ab", b'a"')[:-400] + b"\r\n").splitlines()
    near = "a" * 60
    assert shown == f'line 3 as sent:      ..."{near}b{"c" * 49}"...'
    assert other == f'line 3 as received:  ..."{near}\\"cc\\r\\n"'
    assert caret.index("^") == shown.index("b")


def test_many_names_are_counted() -> None:
    many = b"".join(b"X-%d: x\r\n" % number for number in range(25))
    told = change(many + b"\r\n", b"\r\n").splitlines()
    names = ", ".join(f"X-{number}" for number in range(20))
    assert f"header fields missing: {names} and 5 more" in told


NAME = st.from_regex(r"\A[!-9;-~]{1,12}\Z")
VALUE = st.lists(st.binary(max_size=20).map(lambda octets: octets.replace(b"\n", b"")), min_size=1, max_size=3)
FIELDS = st.lists(st.tuples(NAME, VALUE), max_size=6).map(
    lambda each: b"".join(name.encode() + b": " + b"\r\n ".join(lines) + b"\r\n" for name, lines in each)
)
MESSAGE = st.one_of(st.binary(max_size=200), st.tuples(FIELDS, st.binary(max_size=100)).map(b"\r\n".join))


@given(MESSAGE, FIELDS)
def test_any_message_may_have_any_fields_in_front(sent: bytes, front: bytes) -> None:
    assert change(sent, front + sent) == ""


@given(MESSAGE.filter(bool), FIELDS, st.data())
def test_any_octet_that_is_another_one_is_found(sent: bytes, front: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(sent) - 1))
    octet = data.draw(st.integers(0, 255))
    assume(octet != sent[at])
    received = front + sent[:at] + bytes([octet]) + sent[at + 1 :]
    was, is_now, *_ = change(sent, received).splitlines()
    assert was.startswith(f"line {_line(sent, at)} as sent:")
    assert is_now.startswith(f"line {_line(received, len(front) + at)} as received:")


def _line(message: bytes, at: int) -> int:
    return message.count(b"\n", 0, at) + 1
