"""Outgoing: the copy that leaves, made of the message that came by an Edit, sealed where it must be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from email.utils import getaddresses

from smtproute.core.address import Address, AddressError, Domain
from smtproute.core.message import Edit, apply, fields
from smtproute.core.seals import Seal
from smtproute.core.settings import DomainKey
from smtproute.mailauth import arc
from smtproute.mailauth.keys import SigningKey
from smtproute.mailauth.results import field as results_field
from smtproute.spool.queue import Entry, Message
from smtproute.world import World

__all__ = ["Copy", "Outgoing", "author_domain", "mailbox_edit", "results"]

MAX_COMMENTS = 50
"""Comments in a header From, beyond which it names nobody."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy for an endpoint: the exact octets, the Edit that made them, the key that sealed it or why none did."""

    content: bytes
    edit: Edit
    sealed: DomainKey | None
    unsealed: str = ""


class Outgoing:
    """Makes copies. The signing keys are those of the configuration now in force."""

    def __init__(self, keys: Callable[[], Mapping[str, SigningKey]], cpu: Executor, world: World) -> None:
        self._keys = keys
        self._cpu = cpu
        self._world = world

    async def copy(self, message: Message, content: bytes, seal: Seal, authserv_id: str) -> Copy:
        """The copy of `content` for an endpoint, with a seal where `seal` has a key."""
        edit = Edit(message.forged, message.trace_header)
        copied = apply(edit, content)
        if seal.key is None:
            return Copy(copied, edit, None, seal.reason if seal.wanted else "")
        key = self._keys().get(seal.key.domain.key)
        if key is None:
            return Copy(copied, edit, None, f"the key of {seal.key.domain} is not loaded")
        try:
            sealed = await asyncio.get_running_loop().run_in_executor(
                self._cpu, _seal, copied, message, key, authserv_id, int(self._world.clock.now())
            )
        except arc.SealFault as fault:
            return Copy(copied, edit, None, str(fault))
        return Copy(sealed + copied, Edit(edit.removed, sealed + edit.prepended), seal.key)


def _seal(copied: bytes, message: Message, key: SigningKey, authserv_id: str, at: int) -> bytes:
    chain = arc.recall(copied, message.verdicts)
    return arc.seal(copied, chain=chain, key=key, authserv_id=authserv_id, verdicts=message.verdicts, at=at)


def mailbox_edit(entry: Entry, authserv_id: str) -> Edit:
    """What is put in front of a mailbox's copy: Return-Path, Delivered-To, our results, our Received."""
    message = entry.message
    reverse_path = message.envelope.reverse_path
    head = f"Return-Path: <{reverse_path or ''}>\r\nDelivered-To: {entry.delivery.address}\r\n".encode()
    return Edit(message.forged, head + results(message, authserv_id) + message.trace_header)


def results(message: Message, authserv_id: str) -> bytes:
    """What we found about the message, as a header field; nothing where nobody looked."""
    return results_field(authserv_id, message.verdicts) if message.verdicts else b""


def author_domain(content: bytes) -> Domain | None:
    """The domain of the header From (RFC 5322 3.6.2), for sealing in the sender's name; None where it names none."""
    for each in fields(content):
        if each.name == b"from":
            value = each.value(content).decode("utf-8", "replace")
            if value.count("(") > MAX_COMMENTS:  # the parser nests as deep as they do
                return None
            found = getaddresses([value])
            try:
                return Address.parse(found[0][1]).domain if found else None
            except AddressError:
                return None
    return None
