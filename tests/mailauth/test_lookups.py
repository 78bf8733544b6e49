"""Lookups: one question once, one deadline, one budget, and what cancelling does."""

from __future__ import annotations

import asyncio

import pytest
from spf_zone import TIMEOUT, ZoneLookup

from smtproute.core.lookup import Unanswered
from smtproute.mailauth.lookups import AT_ONCE, Lookups

NAMES = {
    "a.example": {"TXT": ["hello"], "A": ["192.0.2.1"], "AAAA": ["2001:db8::1"], "MX": ["10 b.example"]},
    "1.2.0.192.in-addr.arpa": {"PTR": ["a.example"]},
    "silent.example": TIMEOUT,
}


class Gate(ZoneLookup):
    """Answers once it is allowed to."""

    def __init__(self) -> None:
        super().__init__(NAMES)
        self.begun = 0
        self.arrived = asyncio.Event()
        self.allowed = asyncio.Event()

    async def texts(self, name: str) -> tuple[bytes, ...]:
        self.begun += 1
        self.arrived.set()
        await self.allowed.wait()
        return await super().texts(name)


async def test_each_question_is_asked_once() -> None:
    zone = ZoneLookup(NAMES)
    lookups = Lookups(zone, 60.0, 100)
    for _ in range(2):
        assert await lookups.texts("a.example") == await lookups.texts("A.Example.") == (b"hello",)
        assert await lookups.addresses("a.example", 4) == ("192.0.2.1",)
        assert await lookups.addresses("a.example", 6) == ("2001:db8::1",)
        assert await lookups.exchanges("a.example") == ("b.example",)
        assert await lookups.pointers("192.0.2.1") == ("a.example",)
        assert await lookups.texts("none.example") == ()
        with pytest.raises(Unanswered, match="silent"):
            await lookups.texts("silent.example")
    assert len(zone.asked) == len(set(zone.asked)) == 7


async def test_a_question_that_many_put_at_once_is_asked_once() -> None:
    gate = Gate()
    lookups = Lookups(gate, 60.0, 100)
    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(lookups.texts("a.example")) for _ in range(10)]
        await gate.arrived.wait()
        gate.allowed.set()
    assert {task.result() for task in asking} == {(b"hello",)}
    assert gate.begun == 1


async def test_who_is_cancelled_leaves_the_others_their_answer() -> None:
    """The first is he who asks: the next takes over. One who only waits is missed by nobody."""
    for cancelled in range(3):
        gate = Gate()
        lookups = Lookups(gate, 60.0, 1)
        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(lookups.texts("a.example")) for _ in range(3)]
            await gate.arrived.wait()
            asking[cancelled].cancel()
            gate.allowed.set()
        assert [task.cancelled() for task in asking] == [number == cancelled for number in range(3)]
        assert {task.result() for task in asking if not task.cancelled()} == {(b"hello",)}
        assert gate.begun == (2 if cancelled == 0 else 1)


async def test_there_is_one_deadline_for_all() -> None:
    gate = Gate()
    lookups = Lookups(gate, 0.01, 100)
    assert await lookups.addresses("a.example", 4) == ("192.0.2.1",)
    asked = await asyncio.gather(
        lookups.texts("a.example"), lookups.texts("a.example"), lookups.texts("b.example"), return_exceptions=True
    )
    assert all(isinstance(each, Unanswered) for each in asked)
    assert str(asked[0]) == "a.example: no answer within 0.01 seconds"
    begun = gate.begun
    with pytest.raises(Unanswered, match="no answer within"):
        await lookups.texts("a.example")
    assert gate.begun == begun
    assert await lookups.addresses("a.example", 4) == ("192.0.2.1",)


async def test_the_time_runs_from_the_making(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    lookups = Lookups(Gate(), 60.0, 100)
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + 60.0)
    async with asyncio.timeout(30):
        with pytest.raises(Unanswered, match="no answer within 60 seconds"):
            await lookups.texts("a.example")


async def test_there_is_a_most_of_questions() -> None:
    zone = ZoneLookup(NAMES)
    lookups = Lookups(zone, 60.0, 2)
    await lookups.texts("a.example")
    await lookups.texts("b.example")
    for _ in range(2):
        with pytest.raises(Unanswered, match="not asked, after 2 look-ups for one message"):
            await lookups.texts("c.example")
    assert await lookups.texts("a.example") == (b"hello",)
    assert zone.asked == [("a.example", "TXT"), ("b.example", "TXT")]


class Silent(ZoneLookup):
    """Never answers for names that begin with `silent`."""

    def __init__(self) -> None:
        super().__init__(NAMES)
        self.now = self.most = 0

    async def texts(self, name: str) -> tuple[bytes, ...]:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if name.startswith("silent"):
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            return await super().texts(name)
        finally:
            self.now -= 1


async def test_of_one_check_a_few_are_asked_at_once() -> None:
    silent = Silent()
    share = Lookups(silent, 60.0, 100).share()
    await asyncio.gather(*(share.texts(f"{number}.example") for number in range(50)))
    assert silent.most == AT_ONCE


async def test_silent_servers_keep_nobody_from_being_asked() -> None:
    """Who comes last is asked in time; and another check does not wait at all."""
    lookups = Lookups(Silent(), 3.0, 100)
    share, other = lookups.share(), lookups.share()
    names = [f"silent{number}.example" for number in range(4 * AT_ONCE)]
    *silent, last, beside = await asyncio.gather(
        *map(share.texts, names), share.texts("a.example"), other.texts("b.example"), return_exceptions=True
    )
    assert (last, beside) == ((b"hello",), ())
    said = {str(each).partition(": ")[2] for each in silent}
    assert "no answer while other questions of the message waited" in said
    assert said <= {"no answer while other questions of the message waited", "no answer within 3 seconds"}


async def test_where_nobody_waits_the_time_is_whole() -> None:
    with pytest.raises(Unanswered, match=r"no answer within 0\.01 seconds"):
        await Lookups(Silent(), 0.01, 100).share().texts("silent.example")
