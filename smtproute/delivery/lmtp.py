"""LMTP: the mailboxes' own server takes the copies, and answers for each recipient (RFC 2033).

It is an endpoint like any other, with servers, addresses, kept connections and transcripts, except that it speaks LMTP
and gets the mailboxes' copy: plain text, no seal. Return-Path and Delivered-To are the business of the server that
delivers (RFC 5321 4.4), and so is a Junk folder: what belongs there is marked.
"""

from __future__ import annotations

from smtproute.core.message import Edit, apply
from smtproute.core.settings import Accounts, Endpoint, EndpointTls
from smtproute.delivery.outgoing import Copy, results
from smtproute.spool.queue import Message

__all__ = ["lmtp_copy", "lmtp_endpoint"]

NAME = "accounts.lmtp"
"""What the trace calls it, after its key in the configuration."""
_JUNK = b"X-Spam-Flag: YES\r\n"
"""What docker-mailserver's sieve script moves to Junk."""


def lmtp_endpoint(accounts: Accounts) -> Endpoint:
    """The LMTP server as an endpoint."""
    assert accounts.lmtp is not None, "Store.LMTP needs a server"
    return Endpoint(NAME, (accounts.lmtp,), tls=EndpointTls.NEVER, seal=False, lmtp=True)


def lmtp_copy(message: Message, content: bytes, authserv_id: str, *, junk: bool) -> Copy:
    """Our results and our Received in front; forged results are gone."""
    mark = _JUNK if junk else b""
    edit = Edit(message.forged, mark + results(message, authserv_id) + message.trace_header)
    return Copy(apply(edit, content), edit)
