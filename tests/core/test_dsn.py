"""The DSN, read back by Python's own MIME parser."""

from __future__ import annotations

import email
import email.policy

from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.address import Address, Domain
from smtproute.core.dsn import MAX_ORIGINAL, Failure, compose
from smtproute.core.reply import Reply

ORIGINAL = b"From: a@b.example\r\nSubject: hello\r\n\r\nbody\r\n"


def made(*failures: Failure, original: bytes = ORIGINAL, sender: str = "a@b.example") -> bytes:
    return compose(
        reporting=Domain.parse("mail.example.org"),
        sender=Address.parse(sender),
        queue_id="QUEUEID",
        message_id="1",
        date="Sun, 22 Nov 2026 10:00:00 -0000",
        arrival="Sun, 22 Nov 2026 09:00:00 -0000",
        boundary="=boundary=",
        failures=failures,
        original=original,
    )


FAILED = Failure(Address.parse("no@x.example"), Reply(550, "5.1.1", "unknown\nreally"), "mx.x.example")


def test_its_three_parts() -> None:
    dsn = email.message_from_bytes(made(FAILED), policy=email.policy.default)
    assert dsn["To"] == "a@b.example" and dsn["Auto-Submitted"] == "auto-replied"
    assert dsn.get_content_type() == "multipart/report"
    human, status, returned = dsn.iter_parts()
    assert "<no@x.example>: mx.x.example said: 550 5.1.1 unknown / really" in human.get_content()
    reporting, recipient = status.get_payload()
    assert reporting["Reporting-MTA"] == "dns; mail.example.org"
    assert recipient["Final-Recipient"] == "rfc822; no@x.example"
    assert recipient["Action"] == "failed" and recipient["Status"] == "5.1.1"
    assert recipient["Remote-MTA"] == "dns; mx.x.example"
    assert returned.get_content_type() == "message/rfc822"
    assert returned.get_payload()[0]["Subject"] == "hello"


def test_a_large_original_is_returned_as_its_header() -> None:
    original = ORIGINAL + b"x" * 70 + b"\r\n" * MAX_ORIGINAL
    returned = list(
        email.message_from_bytes(made(FAILED, original=original), policy=email.policy.default).iter_parts()
    )[2]
    assert returned.get_content_type() == "text/rfc822-headers"
    assert b"Subject: hello" in returned.get_payload(decode=True)
    assert len(made(FAILED, original=original)) < MAX_ORIGINAL


def test_an_eight_bit_original_is_said_to_be_one() -> None:
    dsn = made(FAILED, original=b"Subject: x\r\n\r\n\xe4\r\n")
    assert b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n" in dsn


def test_an_international_recipient_makes_it_a_global_one() -> None:
    dsn = made(Failure(Address.parse("jos\u00e9@x.example"), Reply(550, "5.1.1", "no")))
    assert "Final-Recipient: utf-8; jos\u00e9@x.example".encode() in dsn
    assert b"message/global-delivery-status" in dsn


@given(st.text(max_size=200), st.binary(max_size=300))
def test_no_reply_text_can_break_out_of_its_line(text: str, original: bytes) -> None:
    dsn = made(Failure(Address.parse("no@x.example"), Reply(550, "5.0.0", text)), original=original)
    head = dsn[: dsn.index(b"\r\n--=boundary=\r\nContent-Type: message/rfc822")]
    assert head.count(b"\r\n") == head.count(b"\n") == head.count(b"\r")
    assert head.count(b"Final-Recipient:") <= 1 + text.count("Final-Recipient:") * 2


def test_a_header_that_is_too_long_is_cut_between_two_lines() -> None:
    for length in range(MAX_ORIGINAL - 30, MAX_ORIGINAL + 2):
        header = b"A: " + b"x" * (length - 5) + b"\r\n" + b"B: y\r\n" * 10_000
        dsn = made(FAILED, original=header + b"\r\nbody\r\n")
        assert dsn.count(b"\r") == dsn.count(b"\n") == dsn.count(b"\r\n")


def test_a_reply_beyond_ascii_fits_into_a_seven_bit_dsn() -> None:
    dsn = made(
        Failure(Address.parse("no@x.example"), Reply(550, "5.1.1", "caf\u00e9 \u009b2J \u202e"), detail="\u00e9")
    )
    assert dsn.isascii()
    assert b"550 5.1.1 caf\\xe9 \\x9b2J \\u202e" in dsn
