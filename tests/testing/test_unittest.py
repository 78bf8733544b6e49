"""The harness in unittest: a context manager, and one for a whole class."""

from __future__ import annotations

import smtplib
import unittest
from email.message import EmailMessage

from smtproute.testing import Harness, MailAssertion


def sign_up(host: str, port: int, address: str) -> None:
    """What the application does."""
    letter = EmailMessage()
    letter["From"] = "app@example.org"
    letter["To"] = address
    letter["Subject"] = "Welcome"
    letter.set_content("Hello.\n")
    with smtplib.SMTP(host, port) as client:
        client.send_message(letter)


class Welcome(unittest.TestCase):
    def test_it_is_sent(self) -> None:
        with Harness() as smtproute:
            sign_up(smtproute.host, smtproute.port, "anna@example.net")
            self.assertEqual(smtproute.inbox.wait_for(to="anna@example.net").subject, "Welcome")
            smtproute.inbox.assert_none()

    def test_a_failure_is_a_failure(self) -> None:
        with Harness(seed=5) as smtproute, self.assertRaisesRegex(self.failureException, "nothing arrived[^$]*seed 5"):
            smtproute.inbox.wait_for(timeout=0.01)
        self.assertTrue(issubclass(MailAssertion, self.failureException))

    def test_whatever_fails_has_a_report(self) -> None:
        with self.assertRaises(self.failureException) as failed, Harness(seed=5) as smtproute:
            sign_up(smtproute.host, smtproute.port, "anna@example.net")
            self.assertEqual(smtproute.inbox.wait_for().subject, "Goodbye")
        (note,) = failed.exception.__notes__
        self.assertRegex(note, r"(?s)1 message arrived:.* rcpt TO:<anna@example\.net>.*seed 5: ")


class Together(unittest.TestCase):
    smtproute: Harness

    @classmethod
    def setUpClass(cls) -> None:
        cls.smtproute = cls.enterClassContext(Harness())

    def setUp(self) -> None:
        self.mine = self.smtproute.shared(self.id().rpartition("_")[2])

    def test_one(self) -> None:
        sign_up(self.mine.host, self.mine.port, self.mine.address("anna@example.net"))
        self.assertEqual(self.mine.inbox.wait_for().recipients, ("anna+one@example.net",))
        self.mine.inbox.assert_none()

    def test_two(self) -> None:
        self.mine.inbox.assert_none()


class InACoroutine(unittest.IsolatedAsyncioTestCase):
    async def test_it_is_sent(self) -> None:
        smtproute = self.enterContext(Harness())
        await smtproute.aio.send(to="anna@example.net")
        self.assertEqual((await smtproute.aio.inbox.wait_for()).recipients, ("anna@example.net",))
