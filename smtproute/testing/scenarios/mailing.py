"""Mailing: what servers of a stage send themselves: a bounce of what they took, or what a mailing list makes of it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from email.utils import formatdate

from smtproute.core.address import Address, AddressError, Domain
from smtproute.core.dsn import Failure, compose
from smtproute.core.message import fields, header_end
from smtproute.core.reply import Reply
from smtproute.testing.client import Client
from smtproute.testing.scenarios.scenario import ListTable
from smtproute.testing.stage import Stage
from smtproute.testing.upstream import Received
from smtproute.world import Place

__all__ = ["Mailing"]

_GONE = Reply(550, "5.1.1", "There is no such mailbox any more")


class Mailing:
    """A server that sends mail on."""

    def __init__(self, stage: Stage, host: str) -> None:
        self.failed: list[str] = []
        """What it could not send, and why."""
        self._stage = stage
        self._host = host

    async def bounce(self, received: Received) -> None:
        """Returns a message to its reverse-path, where it has one, by a DSN for all of its recipients."""
        if not received.reverse_path:
            return
        token = f"{self._stage.chance.getrandbits(64):016x}"
        now = formatdate(self._stage.clock.now())
        content = compose(
            reporting=Domain.parse(self._host),
            sender=Address.parse(received.reverse_path),
            queue_id=str(received.connection),
            message_id=token,
            date=now,
            arrival=now,
            boundary=f"={token}=",
            failures=[Failure(Address.parse(each), _GONE) for each in received.recipients],
            original=received.content,
        )
        await self._send(content, "", received.reverse_path)

    async def distribute(self, received: Received, table: ListTable) -> None:
        """Sends a message to everybody on the list, changed as the list has it."""
        content = _changed(received.content, table)
        sender = received.reverse_path if table.sender is None else str(table.sender)
        for each in table.to:
            await self._send(content, sender, str(each))

    async def _send(self, content: bytes, sender: str, recipient: str) -> None:
        """Sends to the first mail exchanger that answers (RFC 5321 5.1), or else to the domain's own address."""
        try:
            domain = Address.parse(recipient).domain.key
        except AddressError as error:
            self.failed.append(f"{self._host} cannot send to <{recipient}>: {error}")
            return
        why = "its domain has neither MX nor A on the stage"
        for ip in self._exchanges(domain):
            try:
                sent = await Client(helo=self._host, clock=self._stage.clock).send(
                    (ip, 25), content, sender=sender, to=[recipient], connect=self._connect
                )
            except OSError as error:
                why = str(error)
                continue
            if sent.accepted:
                return
            why = "; ".join(reply for reply in sent.replies.values() if reply[:1] in ("4", "5"))
        self.failed.append(f"{self._host} cannot send to <{recipient}>: {why}")

    async def _connect(self, place: Place) -> socket.socket:
        """A relay takes it for a client at the server's own address."""
        return await self._stage.network.connect(place, self._stage.addresses(self._host)[0])

    def _exchanges(self, domain: str) -> Sequence[str]:
        """IP addresses by rising preference."""
        written = sorted((int(each.split()[0]), each.split()[1]) for each in self._stage.texts(domain, "MX"))
        hosts = [host for _, host in written] or [domain]
        return [ip for host in hosts for type in ("A", "AAAA") for ip in self._stage.texts(host, type)]


def _changed(content: bytes, table: ListTable) -> bytes:
    """The message with the list's prefix before its subject, and its footer under its text."""
    for field in fields(content) if table.prefix else ():
        if field.name == b"subject":
            subject = b" " + table.prefix.encode() + field.value(content).lstrip()
            content = content[: field.value_start] + subject + b"\r\n" + content[field.end :]
            break
    if table.footer:
        if header_end(content) == len(content):
            content += b"\r\n"
        content += table.footer.rstrip("\n").replace("\n", "\r\n").encode() + b"\r\n"
    return content
