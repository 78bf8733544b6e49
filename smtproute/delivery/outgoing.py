"""Outgoing: the copy that leaves, made of the message that came by an Edit, signed and sealed where it must be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial

from smtproute.core.author import Author, author
from smtproute.core.message import Edit, apply
from smtproute.core.seals import Seal
from smtproute.core.settings import DomainKey, Settings
from smtproute.core.signatures import Signatures
from smtproute.mailauth import arc
from smtproute.mailauth.keys import SigningKey
from smtproute.mailauth.results import field as results_field
from smtproute.mailauth.results import resinfo
from smtproute.mailauth.sign import SignFault, sign
from smtproute.spool.queue import Entry, Message
from smtproute.world import World

__all__ = ["Copy", "Outgoing", "mailbox_edit", "results"]


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy for an endpoint: the exact octets, the Edit that made them, the keys that signed and sealed it."""

    content: bytes
    edit: Edit
    signed: tuple[DomainKey, ...] = ()
    unsigned: str = ""
    """Why a signature is missing that should be there."""
    sealed: DomainKey | None = None
    unsealed: str = ""
    """Why the seal is missing that should be there."""


class Outgoing:
    """Makes copies. The keys, those that seal by Domain.key, are those of the configuration now in force."""

    def __init__(
        self,
        sealing: Callable[[], Mapping[str, SigningKey]],
        signing: Callable[[], Mapping[DomainKey, SigningKey]],
        cpu: Executor,
        world: World,
    ) -> None:
        self._sealing = sealing
        self._signing = signing
        self._cpu = cpu
        self._world = world

    async def author(self, content: bytes) -> Author:
        """Whom the header From of a message names."""
        return await asyncio.get_running_loop().run_in_executor(self._cpu, author, content)

    async def copy(
        self, message: Message, content: bytes, signatures: Signatures, seal: Seal, settings: Settings
    ) -> Copy:
        """The copy of `content` for an endpoint, with signatures and over them a seal, where these have keys."""
        edit = Edit(message.forged, message.trace_header)
        copy = await self._signed(Copy(apply(edit, content), edit), signatures, settings)
        return await self._sealed(copy, message, seal, settings)

    async def _signed(self, copy: Copy, signatures: Signatures, settings: Settings) -> Copy:
        if not signatures.keys:
            return replace(copy, unsigned=signatures.reason if signatures.wanted else "")
        loaded = self._signing()
        keys = tuple(key for key in signatures.keys if key in loaded)
        missing = [key for key in signatures.keys if key not in loaded]
        unsigned = "; ".join(f"the key {key.selector} of {key.domain} is not loaded" for key in missing)
        at = int(self._world.clock.now())
        made = partial(sign, copy.content, [loaded[key] for key in keys], at, settings.authentication)
        try:
            added = await asyncio.get_running_loop().run_in_executor(self._cpu, made)
        except SignFault as fault:
            return replace(copy, unsigned=str(fault))
        return replace(_topped(copy, added), signed=keys, unsigned=unsigned)

    async def _sealed(self, copy: Copy, message: Message, seal: Seal, settings: Settings) -> Copy:
        if seal.key is None:
            return replace(copy, unsealed=seal.reason if seal.wanted else "")
        key = self._sealing().get(seal.key.domain.key)
        if key is None:
            return replace(copy, unsealed=f"the key of {seal.key.domain} is not loaded")
        made = partial(_seal, copy.content, message, key, settings, int(self._world.clock.now()))
        try:
            added = await asyncio.get_running_loop().run_in_executor(self._cpu, made)
        except SignFault as fault:
            return replace(copy, unsealed=str(fault))
        return replace(_topped(copy, added), sealed=seal.key)


def _topped(copy: Copy, added: bytes) -> Copy:
    edit = Edit(copy.edit.removed, added + copy.edit.prepended)
    return replace(copy, content=added + copy.content, edit=edit)


def _seal(copied: bytes, message: Message, key: SigningKey, settings: Settings, at: int) -> bytes:
    bounds = settings.authentication
    chain = arc.recall(copied, message.verdicts, bounds)
    results = " ".join(resinfo(str(settings.hostname), message.verdicts))
    return arc.seal(copied, chain=chain, key=key, results=results, at=at, bounds=bounds)


def mailbox_edit(entry: Entry, authserv_id: str) -> Edit:
    """What is put in front of a mailbox's copy: Return-Path, Delivered-To, our results, our Received."""
    message = entry.message
    reverse_path = message.envelope.reverse_path
    head = f"Return-Path: <{reverse_path or ''}>\r\nDelivered-To: {entry.delivery.address}\r\n".encode()
    return Edit(message.forged, head + results(message, authserv_id) + message.trace_header)


def results(message: Message, authserv_id: str) -> bytes:
    """What we found about the message, as a header field; nothing where nobody looked."""
    return results_field(authserv_id, message.verdicts) if message.verdicts else b""
