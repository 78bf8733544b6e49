"""Outgoing: the copy that leaves, made of the message that came by an Edit, signed and sealed where it must be."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial

from smtproute.core.author import Author, author
from smtproute.core.message import Edit, apply
from smtproute.core.seals import Seal
from smtproute.core.settings import Authentication, DomainKey, Settings
from smtproute.core.signatures import Signatures
from smtproute.mailauth import arc
from smtproute.mailauth.keys import SigningKey
from smtproute.mailauth.results import field as results_field
from smtproute.mailauth.results import resinfo
from smtproute.mailauth.sign import SignFault, sign
from smtproute.spool.queue import Entry, Message
from smtproute.world import World

__all__ = ["Copy", "Outgoing", "mailbox_edit", "results"]

_KEPT = 400
"""Of what was put in front of messages lately: signatures and a seal each of 200, some kilobytes of header fields."""


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
    """Makes copies. The keys, those that seal by Domain.key, are those of the configuration now in force.

    All copies of a message share its signatures and, with one key, its seal, also those of a later attempt.
    """

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
        self._made: OrderedDict[Hashable, asyncio.Future[bytes]] = OrderedDict()
        """Header fields, made or being made, by all that they depend on; those asked for last at the end. What is cut
        out of a message is the same for all of its copies."""

    async def author(self, content: bytes) -> Author:
        """Whom the header From of a message names."""
        return await asyncio.get_running_loop().run_in_executor(self._cpu, author, content)

    async def copy(
        self, message: Message, content: bytes, signatures: Signatures, seal: Seal, settings: Settings
    ) -> Copy:
        """The copy of `content` for an endpoint, with signatures and over them a seal, where these have keys."""
        edit = Edit(message.forged, message.trace_header)
        copy = await self._signed(Copy(apply(edit, content), edit), message, signatures, settings)
        return await self._sealed(copy, message, seal, settings)

    async def _signed(self, copy: Copy, message: Message, signatures: Signatures, settings: Settings) -> Copy:
        if not signatures.keys:
            return replace(copy, unsigned=signatures.reason if signatures.wanted else "")
        loaded = self._signing()
        keys = tuple(key for key in signatures.keys if key in loaded)
        missing = [key for key in signatures.keys if key not in loaded]
        unsigned = "; ".join(f"the key {key.selector} of {key.domain} is not loaded" for key in missing)
        at = int(self._world.clock.now())
        with_keys, bounds = tuple(loaded[key] for key in keys), settings.authentication
        try:
            added = await self._shared(
                (message.id, copy.edit.prepended, with_keys, bounds), partial(sign, copy.content, with_keys, at, bounds)
            )
        except SignFault as fault:
            return replace(copy, unsigned=str(fault))
        return replace(_topped(copy, added), signed=keys, unsigned=unsigned)

    async def _sealed(self, copy: Copy, message: Message, seal: Seal, settings: Settings) -> Copy:
        if seal.key is None:
            return replace(copy, unsealed=seal.reason if seal.wanted else "")
        key = self._sealing().get(seal.key.domain.key)
        if key is None:
            return replace(copy, unsealed=f"the key of {seal.key.domain} is not loaded")
        hostname, bounds, at = str(settings.hostname), settings.authentication, int(self._world.clock.now())
        try:
            added = await self._shared(
                (message.id, copy.edit.prepended, key, bounds, hostname),
                partial(_seal, copy.content, message, key, hostname, bounds, at),
            )
        except SignFault as fault:
            return replace(copy, unsealed=str(fault))
        return replace(_topped(copy, added), sealed=seal.key)

    async def _shared(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """What `make` makes, once for everybody who asks for `key`, whoever of them is cancelled."""
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = asyncio.get_running_loop().run_in_executor(self._cpu, make)
            made.add_done_callback(partial(self._ended, key))
            if len(self._made) > _KEPT:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return await asyncio.shield(made)

    def _ended(self, key: Hashable, made: asyncio.Future[bytes]) -> None:
        """Forgets a failure."""
        if (made.cancelled() or made.exception() is not None) and self._made.get(key) is made:
            del self._made[key]


def _topped(copy: Copy, added: bytes) -> Copy:
    edit = Edit(copy.edit.removed, added + copy.edit.prepended)
    return replace(copy, content=added + copy.content, edit=edit)


def _seal(copied: bytes, message: Message, key: SigningKey, hostname: str, bounds: Authentication, at: int) -> bytes:
    chain = arc.recall(copied, message.verdicts, bounds)
    results = " ".join(resinfo(hostname, message.verdicts))
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
