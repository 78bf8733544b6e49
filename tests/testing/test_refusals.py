"""What a failure says of mail that was refused at the door: the reply, and all that was said until then."""

from __future__ import annotations

import re
import smtplib
import socket

import pytest

from smtproute.testing import Harness, MailAssertion

CONFIG = {
    "domains": ["example.org"],
    "listener": {"mx": {"bind": "127.0.0.1:0", "role": "inbound", "certificate": "mx.pem", "key": "mx.key"}},
    "limits": {"errors": 100},
}


def report(harness: Harness, to: str | None = None) -> str:
    """Of a wait that fails, without times."""
    with pytest.raises(MailAssertion) as failed:
        harness.inbox.wait_for(to=to, timeout=0.01)
    return re.sub(r"\d\d:\d\d:\d\d\.\d{3} ", "", str(failed.value))


def test_a_recipient() -> None:
    with Harness(CONFIG) as harness:
        harness.send(sender="friend@else.example", to=["nobody@example.org", "none@example.org"])
        told = report(harness)
    assert re.search(
        r"""^relay refused nobody@example\.org: 550 5\.1\.1 User unknown.*
relay refused none@example\.org: 550 5\.1\.1 User unknown.*
  == connected from \[127\.0\.0\.1\]:\d+
  -> 220 .*
  <- EHLO .*
(  -> 250.*
)+  <- MAIL FROM:<friend@else\.example>.*
  -> 250 2\.1\.0 .*
  <- RCPT TO:<nobody@example\.org>
  -> 550 5\.1\.1 User unknown.*
  <- RCPT TO:<none@example\.org>
  -> 550 5\.1\.1 User unknown.*
$""",
        told,
        re.MULTILINE,
    ), told


def test_each_transaction_and_each_connection_has_its_own() -> None:
    with Harness(CONFIG) as harness, smtplib.SMTP(harness.host, harness.port, "one.example", timeout=30) as client:
        client.ehlo()
        for sender in ("first@else.example", "second@else.example"):
            client.mail(sender)
            client.rcpt("nobody@example.org")
            client.rset()
        with smtplib.SMTP(harness.host, harness.port, "two.example", timeout=30) as other:
            other.helo()
            other.docmd("MAIL FROM:<>")
            other.docmd("DATA")
        told = report(harness)
    refused = told.split("relay refused ")[1:]
    assert [each.split(":")[0] for each in refused] == ["nobody@example.org", "nobody@example.org", "DATA"]
    assert ["mail FROM:<first@else.example>" in each for each in refused] == [True, False, False]
    assert ["mail FROM:<second@else.example>" in each for each in refused] == [False, True, False]
    assert ["helo two.example" in each for each in refused] == [False, False, True]


def test_only_what_may_be_the_message_that_is_missing() -> None:
    with Harness(CONFIG) as harness:
        harness.send(sender="friend@else.example", to=["nobody@example.org"])
        assert "550 5.1.1" not in report(harness, "anna@example.org")
        assert "RCPT TO:<nobody@example.org>" in report(harness, "nobody@example.org")


def test_under_tls() -> None:
    with Harness(CONFIG) as harness:
        harness.send(sender="friend@else.example", to="nobody@example.org", tls=True)
        told = report(harness)
    assert "== TLS started" in told
    assert "  ~> 550 5.1.1" in told


def test_a_message() -> None:
    with Harness() as harness:
        loop = "Received: from a by b\r\n" * 51
        harness.send(f"{loop}\r\nHello.\r\n", sender="friend@else.example", to="anna@example.org")
        told = report(harness)
    assert re.search(
        r"""^relay refused a message from <friend@else\.example>: 554 5\.4\.6 (?s:.*)
  <- DATA
  -> 354 .*
  <- \[\d+ octets\]
  -> 554 5\.4\.6 """,
        told,
        re.MULTILINE,
    ), told


def test_a_password_is_not_shown() -> None:
    with Harness() as harness, smtplib.SMTP(harness.host, harness.port, "one.example", timeout=30) as client:
        client.ehlo()
        assert client.docmd("AUTH PLAIN c2VjcmV0")[0] == 501
        told = report(harness)
    assert "c2VjcmV0" not in told
    assert re.search(r"^  <- AUTH PLAIN (?!c2).*\n  -> 501 ", told, re.MULTILINE), told


def test_a_connection() -> None:
    with (
        Harness({**CONFIG, "limits": {"connections": 1}}) as harness,
        socket.create_connection((harness.host, harness.port), 30) as first,
    ):
        first.recv(100)
        with socket.create_connection((harness.host, harness.port), 30) as second:
            assert second.recv(100).startswith(b"421 4.3.2 ")
        told = report(harness)
    assert re.search(r"relay refused a client: 421 4\.3\.2 .*\n  -> 421 4\.3\.2 ", told), told


def test_a_flood_is_cut() -> None:
    with Harness(CONFIG) as harness, smtplib.SMTP(harness.host, harness.port, "one.example", timeout=30) as client:
        client.ehlo()
        client.mail("friend@else.example")
        for number in range(60):
            client.rcpt(f"n{number}@example.org")
        told = report(harness)
    assert told.count("relay refused ") == 20
    assert len(told.splitlines()) < 75
    assert "  ...\n" in told
    assert told.count("rcpt TO:<n59@example.org>") == 1


def test_a_report_without_a_wait() -> None:
    with Harness(CONFIG) as harness:
        harness.send(sender="friend@else.example", to="nobody@example.org")
        assert "<- RCPT TO:<nobody@example.org>" in harness.report()


def test_each_test_on_a_shared_relay_sees_its_own() -> None:
    with Harness(CONFIG) as harness:
        one, two = harness.shared("one"), harness.shared("two")
        one.send(sender="friend@else.example", to=one.address("nobody@example.org"))
        with smtplib.SMTP(harness.host, harness.port, "two.example", timeout=30) as client:
            client.ehlo()
            client.mail(two.address("friend@else.example"))
            client.docmd("DATA")
            assert client.docmd("NONE")[0] == 500
        assert "RCPT TO:<nobody+one@example.org>" in one.report()
        assert "friend+two@else.example" not in one.report()
        assert "mail FROM:<friend+two@else.example>" in two.report()
        assert "nobody+one@example.org" not in two.report()
