"""DSN: the message that tells a sender that delivery failed for good (RFC 3464, RFC 6522)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from smtproute.core.address import Address, Domain
from smtproute.core.message import header_end
from smtproute.core.reply import Reply
from smtproute.core.transcript import legible

__all__ = ["MAX_ORIGINAL", "Failure", "compose"]

MAX_ORIGINAL = 50_000
"""Octets of an original that is returned whole; of a larger one only the header section is (Postfix
bounce_size_limit)."""

MAX_WORDS = 400
"""Characters of a server's reply that are quoted."""
_MAX_DETAIL = 4000
"""Characters of what was tried."""
_SENTENCES = 76
"""Characters of a line of our own sentences."""
_FOLD = 900
"""Characters of it on one line: no line may have more than 998 octets (RFC 5322 2.1.1)."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One recipient that failed, as the sender wrote it.

    Where that is an alias, reply and server are not those of its target: it is nobody's business.
    """

    recipient: Address
    reply: Reply
    server: str = ""
    """Host name of the server that refused; empty when it was this relay."""
    detail: str = ""
    """What was tried and how it ended, where the sender may know."""
    gave_up: bool = False
    """The reply is temporary, and the lifetime is over."""
    cause: str = ""
    """What the reply means, where that is known."""
    mend: str = ""
    """What mends it, where the sender may know whose reply it was."""


def _beginning(header: bytes) -> bytes:
    """As many whole lines as `MAX_ORIGINAL` has room for."""
    return header if len(header) <= MAX_ORIGINAL else header[: header.rfind(b"\r\n", 0, MAX_ORIGINAL) + 2]


def _line(text: str, utf8: bool, most: int = MAX_WORDS) -> str:
    """One line of bounded length, with nothing in it that could end it or steer a terminal."""
    line = legible(text)[:most]
    return line if utf8 else line.encode("ascii", "backslashreplace").decode()


def compose(
    *,
    reporting: Domain,
    sender: Address,
    queue_id: str,
    message_id: str,
    date: str,
    arrival: str,
    boundary: str,
    failures: Sequence[Failure],
    original: bytes,
) -> bytes:
    """The whole DSN to `sender` about message `queue_id`, with CRLF line ends. Dates are RFC 5322 date-times."""
    utf8 = not sender.ascii or any(not failure.recipient.ascii for failure in failures)
    human = [
        f"This is the mail system at {reporting}.",
        "",
        "Your message could not be delivered to the recipients below. It is not being tried any more.",
        "Its beginning, or the whole of it, is attached.",
        "",
    ]
    status = [f"Reporting-MTA: dns; {reporting}", f"X-Smtproute-Queue-ID: {queue_id}", f"Arrival-Date: {arrival}", ""]
    for failure in failures:
        words = _line(str(failure.reply), utf8)
        said = f"{failure.server} said" if failure.server else "this relay said"
        over = " (it was tried until its time was over)" if failure.gave_up else ""
        human += [f"<{failure.recipient}>: {said}: {words}{over}"]
        human += [f"    {part}" for part in wrap(_line(failure.detail, utf8, _MAX_DETAIL), _FOLD)]
        for told in (failure.cause, failure.mend):
            human += [f"    {part}" for part in wrap(_line(told, utf8), _SENTENCES)]
        human.append("")
        address_type = "rfc822" if failure.recipient.ascii else "utf-8"
        status += [
            f"Final-Recipient: {address_type}; {failure.recipient}",
            "Action: failed",
            f"Status: {failure.reply.enhanced or ('4.0.0' if failure.reply.temporary else '5.0.0')}",
            *([f"Remote-MTA: dns; {failure.server}"] if failure.server else []),
            f"Diagnostic-Code: smtp; {words}",
            "",
        ]
    whole = len(original) <= MAX_ORIGINAL
    returned = original if whole else _beginning(original[: header_end(original)])
    returned_type = ("message/global" if utf8 else "message/rfc822") if whole else "text/rfc822-headers"
    encoding = "7bit" if returned.isascii() else "8bit"
    head = [
        f"From: MAILER-DAEMON@{reporting} (Mail Delivery System)",
        f"To: {sender}",
        "Subject: Undelivered Mail Returned to Sender",
        f"Date: {date}",
        f"Message-ID: <{message_id}@{reporting}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status; boundary="{boundary}"',
        "",
        "This is a MIME-encapsulated message.",
        "",
        f"--{boundary}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Transfer-Encoding: {'8bit' if utf8 else '7bit'}",
        "",
        *human,
        f"--{boundary}",
        f"Content-Type: message/{'global-' if utf8 else ''}delivery-status",
        "",
        *status,
        f"--{boundary}",
        f"Content-Type: {returned_type}",
        f"Content-Transfer-Encoding: {encoding}",
        "",
    ]
    end = b"" if returned.endswith(b"\r\n") else b"\r\n"
    return b"".join(
        ["\r\n".join(head).encode("utf-8", "replace"), b"\r\n", returned, end, f"--{boundary}--\r\n".encode()]
    )
