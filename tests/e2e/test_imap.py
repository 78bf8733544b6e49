"""A real Dovecot over our Maildir: IMAP sees the mail, and what IMAP does with it does not disturb deliveries."""

from __future__ import annotations

import asyncio
import imaplib

import pytest

from tests.e2e.conftest import LETTER, Lab
from tests.e2e.dovecot import Dovecot, dovecot

CONFIG = """
    [docker_mailserver]
    config = "dms"
    [accounts]
    maildir = "{maildir}"
    [listener.mx]
    bind = "127.0.0.1:0"
    role = "inbound"
"""


def read(server: Dovecot, user: str) -> list[bytes]:
    """Every message of the inbox in full, and deletes the first."""
    with server.imap(user) as session:
        session.select("INBOX")
        _, (numbers,) = session.search(None, "ALL")
        messages = [part[1] for number in numbers.split() for part in [session.fetch(number, "(BODY.PEEK[])")[1][0]]]
        session.store("1", "+FLAGS", r"(\Deleted)")
        session.expunge()
    return messages


@pytest.mark.peer("dovecot", "doveadm")
async def test_imap_sees_the_mail(lab: Lab) -> None:
    lab.write("dms/postfix-accounts.cf", "Anna@example.org|{PLAIN}secret\n")
    lab.write("dms/postfix-virtual.cf", "sales@example.org anna@example.org\n")
    with dovecot({"anna@example.org": ""}) as server:
        relay = await lab.started(CONFIG.format(maildir=server.mail))
        large = LETTER + b"\r\n" + 5000 * (b".dots and \xc3\xbc" + b"x" * 60 + b"\r\n")
        await lab.delivered(relay, "sales+tag@example.org")
        await lab.delivered(relay, "anna@example.org", content=large)
        seen = await asyncio.to_thread(read, server, "anna@example.org")
        assert any(message.endswith(LETTER) for message in seen)
        assert any(message.endswith(large) for message in seen)
        assert all(message.startswith(b"Return-Path: <friend@else.example>\r\nDelivered-To: ") for message in seen)

        await lab.delivered(relay, "anna@example.org")
        with pytest.raises(imaplib.IMAP4.error):
            await asyncio.to_thread(server.imap, "nobody@example.org")
        assert len(await asyncio.to_thread(read, server, "anna@example.org")) == 2
