"""Reply and Refusal: what is said to a peer, and what we keep to ourselves about it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LOG_IN_FIRST", "LOOKUP_FAILED", "Refusal", "Reply", "behind_alias"]


@dataclass(frozen=True, slots=True)
class Reply:
    """An SMTP reply (RFC 5321 4.2): code, enhanced status code (RFC 3463; "" where none belongs), text.

    The text may have several lines, parted by "\\n"; each goes out as a line of one multi-line reply.
    """

    code: int
    enhanced: str
    text: str

    @property
    def positive(self) -> bool:
        """2yz or 3yz."""
        return self.code < 400

    @property
    def completed(self) -> bool:
        """2yz: what was asked is done."""
        return 200 <= self.code < 300

    @property
    def temporary(self) -> bool:
        """4yz: the same command may succeed later."""
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        """5yz."""
        return self.code >= 500

    def wire(self) -> bytes:
        """The octets on the wire, each line with its CRLF."""
        lines = self.text.split("\n")
        prefix = f"{self.enhanced} " if self.enhanced else ""
        last = len(lines) - 1
        return "".join(
            f"{self.code}{' ' if n == last else '-'}{prefix}{line}\r\n" for n, line in enumerate(lines)
        ).encode("utf-8", "replace")

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.code), self.enhanced, self.text.replace("\n", " / ")) if part)


def behind_alias(reply: Reply) -> Reply:
    """What the sender hears of an alias's target: that it failed, in no words that could name it.

    Nor by a status code of the provider's own: those that are registered (RFC 5248) are small numbers.
    """
    subject, _, detail = reply.enhanced.rpartition(".")
    enhanced = f"{subject}.0" if detail.isdecimal() and int(detail) > _REGISTERED else reply.enhanced
    return Reply(reply.code, enhanced, "The address that it stands for did not take the message")


_REGISTERED = 30
"""The greatest detail of an enhanced status code that IANA has registered."""
LOOKUP_FAILED = Reply(451, "4.3.0", "Temporary lookup failure: try again later")
"""A table cannot be used; Postfix says the same."""
LOG_IN_FIRST = Reply(530, "5.7.0", "Authentication required: send AUTH first")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error that crosses a boundary. `reply` is generic, for the peer; `detail` is for the trace alone."""

    reply: Reply
    says: str
    """Which part of the system, or which server, says so."""
    detail: str = ""

    @property
    def temporary(self) -> bool:
        return self.reply.temporary

    def __str__(self) -> str:
        return f"{self.reply} ({self.says}{': ' + self.detail if self.detail else ''})"
