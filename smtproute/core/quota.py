"""Quota: whether a mailbox has room for one more message, as Dovecot's quota plugin judges it."""

from __future__ import annotations

from dataclasses import dataclass

from smtproute.core.reply import Reply

__all__ = ["FULL", "FULL_FOR_NOW", "UNLIMITED", "Quota", "over"]

FULL = Reply(552, "5.2.2", "Mailbox is full")
"""What RCPT answers where every copy is for a full mailbox, as docker-mailserver does."""
FULL_FOR_NOW = Reply(452, "4.2.2", "Mailbox is full: try again later")


@dataclass(frozen=True, slots=True)
class Quota:
    """How much a mailbox may hold."""

    limit: int = 0
    """Octets of virtual size (line ends counted as CRLF); 0 is unlimited."""
    grace: int = 10
    """Percent of the limit by which the last message may exceed it (Dovecot quota_grace)."""
    rule: str = ""
    """`file:line`, or the configuration key, that sets it."""


UNLIMITED = Quota()


def over(quota: Quota, used: int, size: int) -> bool:
    """Whether a message of `size` octets does not fit into a mailbox that holds `used` octets.

    A mailbox that is not yet full takes one message that exceeds the limit by no more than the grace; a full one
    takes nothing.
    """
    if not quota.limit:
        return False
    return used >= quota.limit or used + size > quota.limit + quota.limit * quota.grace // 100
