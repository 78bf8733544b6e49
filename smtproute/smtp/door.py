"""The Door: what a session asks of whoever answers for the mail. Intake implements it; a session knows no more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from smtproute.core.address import Address
from smtproute.core.envelope import Client, Envelope
from smtproute.core.login import Login
from smtproute.core.reply import Reply
from smtproute.core.settings import Listener
from smtproute.core.transcript import Line

__all__ = ["Door", "Doors"]


class Door(Protocol):
    """One session's counterpart; its methods are called one at a time, in the order of the protocol."""

    async def connect(self, client: Client) -> Reply:
        """The greeting (220), or a refusal after which the session closes."""
        ...

    async def login(self, client: Client, name: str, password: bytes) -> Login | Reply:
        """Whose credentials these are, or why nobody logs in with them: 535 5.7.8, or 454 4.7.0 (RFC 4954 6)."""
        ...

    async def mail(self, envelope: Envelope) -> Reply:
        """Opens a transaction if positive."""
        ...

    async def rcpt(self, recipient: Address | None) -> Reply:
        """Adds a recipient if positive. None is `RCPT TO:<Postmaster>` without a domain (RFC 5321 4.5.1)."""
        ...

    async def data(self, content: AsyncIterator[bytes], transcript: Callable[[], Sequence[Line]]) -> Reply:
        """Takes the message and ends the transaction, whatever it answers.

        `content` yields the message's octets, dots unstuffed, in chunks; it raises `wire.ContentRefused` once the
        whole content has been read past, if it was malformed or too large, and `wire.ClientGone` if the client went
        in the middle of it. Both may be let pass: the session answers with the refusal, and calls `reset`.
        `transcript()` is the session so far.
        """
        ...

    def reset(self) -> None:
        """Drops the open transaction: RSET, EHLO, STARTTLS, a lost connection."""
        ...

    def hurry(self) -> None:
        """The client is gone, or the relay stops: `data` answers as soon as the message is on disk.

        Comes at any time, also before `data` and while it runs, and more than once.
        """
        ...

    async def explain(self, client: Client, address: Address) -> Reply:
        """For VRFY and EXPN on a listener with `debug`: the address's decision in several lines (250)."""
        ...


Doors = Callable[[Listener], Door]
"""Makes a Door for each new session of a listener."""
