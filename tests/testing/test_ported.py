"""Ten tests that people have written for smtpdfix and for Mailpit, in the form that they have here.

Each says which test it is, and what falls away. The application is `application` and what is called by its name.
"""

from __future__ import annotations

import re
import smtplib
import ssl
import threading
from email.message import EmailMessage

import pytest

from smtproute.testing import Harness, MailAssertion, on
from smtproute.testing.harness import MailInbox, MailUpstream


def application(host: str, port: int, *to: str, text: str = "Hello.", bcc: str = "", pdf: bytes = b"") -> None:
    """Sends one message."""
    letter = EmailMessage()
    letter["From"] = "Shop <app@shop.example>"
    letter["To"] = ", ".join(to)
    letter["Subject"] = "Your order №1"
    letter.set_content(text)
    letter.add_alternative(f"<p>{text}</p>", subtype="html")
    if bcc:
        letter["Bcc"] = bcc
    if pdf:
        letter.add_attachment(pdf, maintype="application", subtype="pdf", filename="invoice.pdf")
    with smtplib.SMTP(host, port) as client:
        client.send_message(letter)


# smtpdfix


def test_a_message_is_sent(smtproute: Harness) -> None:
    """smtpdfix, README, test_sendmail: as short there, but it does not see mail that is sent by a thread later."""
    application(smtproute.host, smtproute.port, "to.addr@example.org")
    assert smtproute.inbox.wait_for(subject="Your order №1").recipients == ("to.addr@example.org",)
    smtproute.inbox.assert_none()


def test_with_a_login_under_starttls(smtproute: Harness) -> None:
    """smtpdfix, tests/test_fixture.py, test_send_message_logged_in, and test_login_no_tls: a setting of the environment
    for STARTTLS and another for AUTH without it, set before the fixture starts, and a fixture that knows the user whom
    the server knows: all three fall away."""
    for secure in (True, False):
        with smtplib.SMTP(smtproute.host, smtproute.port) as client:
            if secure:
                client.starttls(context=ssl.create_default_context(cafile=smtproute.ca_file))
            client.login("anybody", "any password")
            client.sendmail("app@shop.example", "anna@example.net", "Subject: Foo\r\n\r\nFoo bar")
    assert {each.subject for each in smtproute.inbox.wait_for(n=2)} == {"Foo"}


def test_both_addresses_of_a_user_are_written_to(mail_inbox: MailInbox, smtproute: Harness) -> None:
    """canaille, test_user_without_password_first_login: `len(smtpd.messages) == 0` before, and the envelope read off
    the header X-RcptTo, which the fixture writes into the message: both fall away, the content is what was sent."""
    for address in ("john@doe.test", "johnny@doe.test"):
        application(smtproute.host, smtproute.port, address)
    assert [each.recipients[0] for each in mail_inbox.wait_for(n=2)] == ["john@doe.test", "johnny@doe.test"]


def test_the_link_is_in_the_text(mail_inbox: MailInbox, smtproute: Harness) -> None:
    """canaille, test_registration_with_email_validation: the text part by its number in the tree, its transfer encoding
    and its character set undone by hand: they fall away."""
    application(smtproute.host, smtproute.port, "foo@bar.example", text="Grüße! https://shop.example/join?t=a&u=1")
    assert "Grüße! https://shop.example/join?t=a&u=1" in mail_inbox.wait_for(to="foo@bar.example").text


def test_nobody_is_written_to(mail_inbox: MailInbox, smtproute: Harness) -> None:
    """Arize Phoenix, TestWelcomeEmail: `not messages or messages[-1]["to"] != email`, which holds also where another
    message came after it, and where it is only on its way: here it does not."""
    application(smtproute.host, smtproute.port, "somebody.else@example.net")
    mail_inbox.assert_none(to="anna@example.net")
    mail_inbox.wait_for(to="somebody.else@example.net")


# Mailpit


def test_the_code_that_a_thread_sends(mail_inbox: MailInbox, smtproute: Harness) -> None:
    """A function fetch_login_code beside Playwright tests, as many have it: 15 lines that empty the mailbox, list it
    every half a second, look for the recipient, fetch the message, search it; and a daemon with two ports."""
    thread = threading.Thread(
        target=application, args=(smtproute.host, smtproute.port, "demo@example.com"), kwargs={"text": "A1B2-C3D4"}
    )
    thread.start()
    code = re.search(r"\b[A-Z0-9]{4}-[A-Z0-9]{4}\b", mail_inbox.wait_for(to="demo@example.com").text)
    assert code is not None and code[0] == "A1B2-C3D4"
    thread.join()


def test_a_blind_copy(mail_inbox: MailInbox, smtproute: Harness) -> None:
    """pytest-mailpit, test_recipient_can_be_in_bcc: there a header Bcc, which the server adds, tells of it, and nobody
    can see whether the application kept it secret."""
    application(smtproute.host, smtproute.port, "someone@example.net", bcc="boss@example.net")
    copy = mail_inbox.wait_for(to="boss@example.net")
    assert copy.header("Bcc") is None and b"boss@example.net" not in copy.content


def test_a_server_that_refuses_at_first(mail_upstream: MailUpstream) -> None:
    """pytest-mailpit, test_a_rejected_sender_can_send_after_a_reset: a daemon that was started with Chaos, whose faults
    every test of the run gets, and a reset in between: `times` ends them."""
    mail_upstream.script(on("RCPT", "451 4.3.0 Try again later", times=1))
    with pytest.raises(smtplib.SMTPRecipientsRefused, match="Try again later"):
        application(*mail_upstream.address, "anna@example.net")
    application(*mail_upstream.address, "anna@example.net")
    assert mail_upstream.inbox.wait_for().recipients == ("anna@example.net",)


def test_nothing_comes(mail_inbox: MailInbox, smtproute: Harness) -> None:
    """pytest-mailpit, test_assert_no_message: the mailbox is listed for `within` seconds, two unless a test says less,
    also where nothing can come any more, and what comes later is not seen: the number falls away."""
    mail_inbox.assert_none()
    application(smtproute.host, smtproute.port, "anna@example.net")
    with pytest.raises(MailAssertion, match=r"1 message arrived:[^$]*Your order №1"):
        mail_inbox.assert_none()


def test_the_invoice_is_attached(mail_inbox: MailInbox, smtproute: Harness) -> None:
    """pytest-mailpit, test_attachments_and_unsubscribe.py: `message.attachment("invoice-*.pdf")` is one line, and one
    more request for its octets; here a line of the standard library for both."""
    application(smtproute.host, smtproute.port, "anna@example.net", pdf=b"%PDF-1.7")
    (invoice,) = mail_inbox.wait_for(to="anna@example.net").email.iter_attachments()
    assert (invoice.get_filename(), invoice.get_content()) == ("invoice.pdf", b"%PDF-1.7")
