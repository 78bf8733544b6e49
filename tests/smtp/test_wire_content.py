"""The DATA phase: what ends it, what is refused, what is put right, and that the far side reads what we stuff."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtproute.core.reply import Reply
from smtproute.core.settings import BareNewline
from smtproute.smtp.wire import Content, stuff

PLENTY = 10_000_000


def received(
    octets: bytes, *cuts: int, limit: int = PLENTY, bare: BareNewline = BareNewline.REFUSE
) -> tuple[bytes | Reply | None, bytes]:
    """The message, or its refusal, or None where it has not ended; and what is left over."""
    content = Content(limit, bare)
    message = bytearray()
    edges = [0, *sorted(cuts), len(octets)]
    for start, end in pairwise(edges):
        message += content.feed(octets[start:end])
        if content.done:
            return content.refusal or bytes(message), content.leftover + octets[end:]
    return None, b""


def bytewise(octets: bytes, limit: int = PLENTY, bare: BareNewline = BareNewline.REFUSE) -> object:
    return received(octets, *range(1, len(octets)), limit=limit, bare=bare)


@pytest.mark.parametrize(
    ("octets", "message", "leftover"),
    [
        (b".\r\n", b"", b""),
        (b".\r\nQUIT\r\n", b"", b"QUIT\r\n"),
        (b"a\r\n.\r\n", b"a\r\n", b""),
        (b"a\r\n.\r\nMAIL", b"a\r\n", b"MAIL"),
        (b"\r\n.\r\n", b"\r\n", b""),
        (b"..\r\n.\r\n", b".\r\n", b""),
        (b"..a\r\n...\r\n..\r\n.\r\n", b".a\r\n..\r\n.\r\n", b""),
        (b".a\r\n.\r\n", b"a\r\n", b""),
        (b"a.\r\n.\r\n.\r\n", b"a.\r\n", b".\r\n"),
        (b"a\r\n\r\n\r\n.\r\n", b"a\r\n\r\n\r\n", b""),
        (b"x" * 100_000 + b"\r\n.\r\n", b"x" * 100_000 + b"\r\n", b""),
        (b"\xff\xfe\x80\r\n.\r\n", b"\xff\xfe\x80\r\n", b""),
    ],
)
def test_ends_and_is_unstuffed(octets: bytes, message: bytes, leftover: bytes) -> None:
    for bare in BareNewline:
        assert received(octets, bare=bare) == (message, leftover)
        assert bytewise(octets[:500] + octets[-500:], bare=bare) is not None
        if len(octets) < 1000:
            assert bytewise(octets, bare=bare) == (message, leftover)


@pytest.mark.parametrize("octets", [b"", b".", b".\r", b"a\r\n.", b"a\r\n.\r", b"a\r\n", b"a.\r\n", b"a\n.\n"])
def test_goes_on(octets: bytes) -> None:
    for bare in BareNewline:
        assert received(octets, bare=bare) == (None, b"")


SMUGGLED = {
    b"\n.\n": b"\r\n\r\n",
    b"\n.\r\n": b"\r\n\r\n",
    b"\r\n.\n": b"\r\n\r\n",
    b"\r.\r": b"\r\n\r\n",
    b"\r.\r\n": b"\r\n\r\n",
    b"\r\n.\r": b"\r\n\r\n",
    b"\n.\r": b"\r\n\r\n",
    b"\r.\n": b"\r\n\r\n",
    b"\r\r\n.\r\r\n": b"\r\n\r\n\r\n\r\n",
    b"\n\n.\n\n": b"\r\n\r\n\r\n\r\n",
}
"""Ends that are none, and what is left of them once their newlines are CRLF and the dot that began a line is off."""


@pytest.mark.parametrize("end", SMUGGLED)
def test_only_crlf_dot_crlf_ends_it(end: bytes) -> None:
    octets = b"one" + end + b"MAIL FROM:<evil@x.example>\r\n.\r\nQUIT\r\n"
    refused, leftover = received(octets)
    assert isinstance(refused, Reply)
    assert (refused.code, refused.enhanced, leftover) == (554, "5.6.0", b"QUIT\r\n")
    assert "CRLF" in refused.text
    assert bytewise(octets) == (refused, leftover)

    mended = b"one" + SMUGGLED[end] + b"MAIL FROM:<evil@x.example>\r\n"
    assert received(octets, bare=BareNewline.NORMALIZE) == (mended, b"QUIT\r\n")
    assert bytewise(octets, bare=BareNewline.NORMALIZE) == (mended, b"QUIT\r\n")


@pytest.mark.parametrize("end", [b"\0.\r\n", b"\r\n.\0\r\n", b"\r\n\0.\r\n", b"\r\0\n.\r\n", b"\r\n.\r\0\n", b"\0"])
def test_nul_is_refused_and_ends_nothing(end: bytes) -> None:
    octets = b"one" + end + b"two\r\n.\r\nQUIT\r\n"
    for bare in BareNewline:
        refused, leftover = received(octets, bare=bare)
        assert isinstance(refused, Reply)
        assert (refused.code, refused.enhanced, leftover) == (554, "5.6.0", b"QUIT\r\n")
        assert bytewise(octets, bare=bare) == (refused, leftover)


@pytest.mark.parametrize("octets", [b"a\rb\r\n", b"a\nb\r\n", b"a\r\n\nb\r\n", b"a\r", b"a\n\r\n", b"\n", b"\r"])
def test_a_bare_newline_anywhere(octets: bytes) -> None:
    refused, _ = received(octets + b"\r\n.\r\n")
    assert isinstance(refused, Reply) and refused.code == 554


def test_too_large_is_read_to_its_end_in_bounded_memory() -> None:
    content = Content(1000)
    for _ in range(1000):
        assert content.feed(b"x" * 9998 + b"\r\n") == b""
    assert content.size == 9_999_998 and content.refusal is not None and not content.done
    assert content.feed(b".\r\nQUIT\r\n") == b""
    assert content.done and content.leftover == b"QUIT\r\n"
    assert (content.refusal.code, content.refusal.enhanced) == (552, "5.3.4")


def test_the_limit_is_of_the_message_without_stuffing() -> None:
    assert received(b"..23456\r\n.\r\n", limit=8)[0] == b".23456\r\n"
    refused, _ = received(b"..234567\r\n.\r\n", limit=8)
    assert isinstance(refused, Reply) and refused.code == 552


TRICKY = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"..", b"a", b"\0", b"\r\n.\r\n", b"\r\n.", b"line\r\n", b"x" * 40]),
    max_size=25,
).map(b"".join)


@settings(max_examples=500)
@given(st.binary(max_size=60) | TRICKY, st.data(), st.sampled_from(BareNewline), st.sampled_from([PLENTY, 20]))
def test_the_same_however_the_octets_are_cut(octets: bytes, data: st.DataObject, bare: BareNewline, limit: int) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(octets)), max_size=10))
    whole = received(octets, limit=limit, bare=bare)
    assert received(octets, *cuts, limit=limit, bare=bare) == whole
    assert bytewise(octets, limit=limit, bare=bare) == whole


@settings(max_examples=500)
@given(TRICKY, st.sampled_from(BareNewline))
def test_ends_where_rfc_5321_says(octets: bytes, bare: BareNewline) -> None:
    """Against the rule in one line: the first CRLF.CRLF of the stream, which begins as if after a CRLF."""
    end = (b"\r\n" + octets).find(b"\r\n.\r\n")
    outcome, leftover = received(octets, bare=bare)
    if end < 0:
        assert outcome is None
    else:
        assert leftover == octets[end + 3 :]
        sent = octets[:end]
        malformed = b"\0" in sent or any(octet in sent.replace(b"\r\n", b"") for octet in b"\r\n")
        if bare is BareNewline.REFUSE:
            assert isinstance(outcome, Reply) == malformed
        elif isinstance(outcome, bytes):
            assert not any(octet in outcome.replace(b"\r\n", b"") for octet in b"\r\n")


@given(
    st.lists(st.sampled_from([b"\r\n", b".", b"..", b"a", b"\x80\xff", b"b" * 1200]), max_size=30).map(b"".join),
    st.data(),
    st.binary(max_size=10),
)
@example(b"", None, b"")
@example(b".\r\n.\r\n", None, b".\r\n")
def test_what_we_stuff_is_what_the_far_side_reads(content: bytes, data: st.DataObject | None, after: bytes) -> None:
    octets = stuff(content) + after
    cuts = data.draw(st.lists(st.integers(0, len(octets)), max_size=5)) if data else []
    complete = content if not content or content.endswith(b"\r\n") else content + b"\r\n"
    assert received(octets, *cuts) == (complete, after)


def test_stuffed_octets() -> None:
    assert stuff(b"") == b".\r\n"
    assert stuff(b"a") == b"a\r\n.\r\n"
    assert stuff(b".\r\n") == b"..\r\n.\r\n"
    assert stuff(b"a\r\n.b\r\n..\r\n") == b"a\r\n..b\r\n...\r\n.\r\n"
