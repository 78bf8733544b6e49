"""What is put in front of a message: made once for all its copies, whoever asks for it, and kept within bounds.

The time stands in each signature and seal (t=): two with the same one, at different times, were made once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from smtproute.core.address import Address, Domain
from smtproute.core.envelope import Client, Envelope
from smtproute.core.message import apply
from smtproute.core.seals import Seal
from smtproute.core.settings import Accounts, DomainKey, Role, Settings
from smtproute.core.signatures import Signatures
from smtproute.core.verdict import Verdict
from smtproute.delivery.outgoing import Copy, Outgoing
from smtproute.mailauth.keys import SigningKey
from smtproute.spool.queue import Message
from smtproute.testing.clock import TurnedClock
from smtproute.world import World

CONTENT = b"From: anna@example.org\r\nSubject: x\r\n\r\nbody\r\n"
NAMED = DomainKey(Domain.parse("example.org"), "mail", "mail.pem")
SETTINGS = Settings(Domain.parse("mx.example.org"), "", {}, {}, Accounts(""))
ENVELOPE = Envelope(Client("127.0.0.1", 4711, "mx", Role.INBOUND, trusted=False), Address.parse("friend@else.example"))
MESSAGE = Message("M", 0.0, ENVELOPE, len(CONTENT), b"Received: from a by b\r\n")


@cache
def seals() -> SigningKey:
    return SigningKey("example.org", "mail", generate_private_key(65537, 1024))


@cache
def signs() -> SigningKey:
    return SigningKey("example.org", "mail", Ed25519PrivateKey.generate())


class House:
    """Makes copies with one thread and a clock that the test turns."""

    def __init__(self, cpu: ThreadPoolExecutor) -> None:
        self.cpu, self.clock = cpu, TurnedClock()
        self.sealing, self.signing = {"example.org": seals()}, {NAMED: signs()}
        self.outgoing = Outgoing(lambda: self.sealing, lambda: self.signing, cpu, World(clock=self.clock))

    async def copy(
        self,
        message: Message = MESSAGE,
        content: bytes = CONTENT,
        settings: Settings = SETTINGS,
        keys: tuple[DomainKey, ...] = (NAMED,),
    ) -> Copy:
        return await self.outgoing.copy(message, content, Signatures(keys, True), Seal(NAMED, True), settings)

    async def added(self, *of: object) -> bytes:
        """What is put in front, a second later than the last time."""
        await self.clock.advance(1)
        copy = await self.copy(*of)
        assert copy.sealed is not None and copy.signed and not copy.unsealed
        assert apply(copy.edit, CONTENT) == copy.content
        return copy.edit.prepended


@pytest.fixture
async def house() -> AsyncIterator[House]:
    with ThreadPoolExecutor(1) as cpu:
        yield House(cpu)


async def test_all_copies_of_a_message_share_it(house: House) -> None:
    first = await house.added()
    assert first.count(b"ARC-Seal:") == first.count(b"DKIM-Signature:") == 1
    assert await house.added() == first


async def test_all_that_enters_it_makes_another(house: House) -> None:
    other = replace(SETTINGS, hostname=Domain.parse("mx2.example.org"))
    bounds = replace(SETTINGS, authentication=replace(SETTINGS.authentication, header_lines=5000))
    made = [
        await house.added(),
        await house.added(replace(MESSAGE, id="N")),
        await house.added(replace(MESSAGE, trace_header=b"Received: from c by d\r\n")),
        await house.added(MESSAGE, CONTENT, other),
        await house.added(MESSAGE, CONTENT, bounds),
    ]
    house.sealing = {"example.org": replace(seals(), selector="new")}
    made.append(await house.added())
    house.signing = {NAMED: replace(signs(), private=Ed25519PrivateKey.generate())}
    made.append(await house.added())
    forged = b"X: y\r\n"
    removed = replace(MESSAGE, id="R", forged=((0, len(forged)),))
    await house.clock.advance(1)
    copy = await house.copy(removed, forged + CONTENT)
    assert copy.content.endswith(b"by b\r\n" + CONTENT)
    assert len({*made, copy.edit.prepended}) == len(made) + 1
    unsigned = await house.copy(keys=())
    assert unsigned.content.startswith(b"ARC-Seal:") and b"DKIM-Signature:" not in unsigned.content


async def test_who_asks_meanwhile_waits_and_outlives_who_asked_first(house: House) -> None:
    go_on = threading.Event()
    house.cpu.submit(go_on.wait, 60)
    async with asyncio.TaskGroup() as tasks:
        first, second, third = (tasks.create_task(house.copy(keys=())) for _ in range(3))
        await house.clock.advance(1)  # each runs up to its wait
        first.cancel()
        await house.clock.advance(1)
        assert first.cancelled() and not second.done()
        go_on.set()
    assert second.result() == third.result()
    assert second.result().sealed is NAMED
    assert (await house.copy(keys=())).content == second.result().content


async def test_a_failure_is_not_kept(house: House) -> None:
    copy = await house.copy(content=b"no header field at all\r\n\r\n")
    assert "malformed header" in copy.unsigned and "malformed header" in copy.unsealed
    assert (await house.added()).startswith(b"ARC-Seal:")


async def test_it_is_kept_for_the_last_messages_that_were_asked_for(house: House) -> None:
    old, first, *others = [replace(MESSAGE, id=str(number)) for number in range(201)]
    for each in (old, first):
        await house.added(each)
    kept = await house.added(first)
    for each in others:
        await house.added(each)
        assert await house.added(first) == kept
    assert await house.added(others[1]) == await house.added(others[1])
    forgotten = await house.added(old)
    assert forgotten == await house.added(old)
    assert b"t=1700000001" not in forgotten


async def test_the_verdicts_of_the_message_are_in_the_seal(house: House) -> None:
    judged = replace(MESSAGE, verdicts=(Verdict("spf", "pass"),))
    assert b"mx.example.org;\r\n spf=pass\r\n" in await house.added(judged)
