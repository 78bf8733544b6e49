"""The five verbs, by one process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from spooling import (
    NOW,
    Clock,
    beside,
    bodies,
    claim,
    deferred,
    delivered,
    deliveries,
    failed,
    happened,
    keys,
    mail,
    octets,
    opened,
    told,
)

from smtproute.core.event import Happening
from smtproute.spool.queue import LARGEST_ROW, Accepted, Change, Changed, SpoolFailed, SpoolFull, State

MB = 1 << 20


async def test_what_was_accepted_is_claimed_as_it_was_given(tmp_path: Path) -> None:
    given = mail("A", count=3)
    async with opened(tmp_path / "spool") as spool:
        await spool.accept(given)
        entries, due = await spool.claim(NOW, 10)
        assert keys(entries) == [("A", 0), ("A", 1), ("A", 2)]
        assert [entry.delivery for entry in entries] == list(given.deliveries)
        assert {entry.state for entry in entries} == {State.QUEUED}
        assert due is None
        assert await spool.content("A") == given.content
        assert await spool.entries("A") == entries
        assert [event for _, event in await spool.events("A")] == list(given.events)


async def test_what_was_accepted_is_the_same_after_a_restart(tmp_path: Path) -> None:
    given = mail("A", count=2)
    async with opened(tmp_path) as spool:
        await spool.accept(given)
        before = await claim(spool)
    async with opened(tmp_path) as spool:
        assert await claim(spool) == before
        assert before[0].message == given.message
        assert await spool.content("A") == given.content


async def test_a_delivery_is_claimed_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        for n in range(50):
            await spool.accept(mail(f"M{n:02}"))
        claimed = []
        while entries := await claim(spool, limit=7):
            claimed += keys(entries)
        assert claimed == [(f"M{n:02}", 0) for n in range(50)]


async def test_more_than_fits_in_memory_is_claimed_once_and_in_order(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await asyncio.gather(*(spool.accept(mail(f"M{n:04}", count=2, at=NOW - 5000 + n)) for n in range(1500)))
        claimed = []
        while True:
            entries, due = await spool.claim(NOW, 700)
            if not entries:
                break
            claimed += keys(entries)
        assert due is None
        assert sorted(claimed) == [(f"M{n:04}", each) for n in range(1500) for each in range(2)]


async def test_claims_by_several_at_once_do_not_overlap(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        for n in range(30):
            await spool.accept(mail(f"M{n:02}"))
    async with opened(tmp_path) as spool:
        taken = await asyncio.gather(*(claim(spool, limit=5) for _ in range(8)))
        assert sorted(key for entries in taken for key in keys(entries)) == [(f"M{n:02}", 0) for n in range(30)]


async def test_a_deferred_delivery_is_due_when_its_outcome_says(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.accept(mail("A"))
        [entry] = await claim(spool)
        await spool.settle([deferred(entry, NOW + 60)], [told(Happening.DEFERRED, entry)])
        assert await spool.claim(NOW + 59, 10) == ([], NOW + 60)
        [again] = await claim(spool, NOW + 60)
        assert (again.attempts, again.due_at, again.state) == (1, NOW + 60, State.QUEUED)
        assert again.last == "451 4.0.0 said (gitlab.internal: detail)"
        await spool.settle([deferred(again, NOW + 360)], [told(Happening.DEFERRED, again)])
    async with opened(tmp_path) as spool:
        assert await spool.claim(NOW + 359, 10) == ([], NOW + 360)
        [third] = await claim(spool, NOW + 360)
        assert third.attempts == 2


async def test_older_ones_come_first_although_new_ones_arrive(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock=clock) as spool:
        await spool.accept(mail("A"))
        [entry] = await claim(spool)
        await spool.settle([deferred(entry, NOW + 60)], [])
        clock.time = NOW + 70
        await spool.accept(mail("B", at=NOW + 70))
        assert keys(await claim(spool, NOW + 70)) == [("A", 0), ("B", 0)]


async def test_claim_says_when_more_is_due(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.accept(mail("A", count=3))
        entries, due = await spool.claim(NOW, 2)
        assert len(entries) == 2
        assert due is not None and due <= NOW


@pytest.mark.parametrize("captured", [False, True])
async def test_a_delivered_one_is_never_claimed_again(tmp_path: Path, captured: bool) -> None:
    async with opened(tmp_path) as spool:
        await spool.accept(mail("A", count=2))
        first, second = await claim(spool)
        await spool.settle([delivered(first, captured=captured), failed(second)], [told(Happening.DELIVERED, first)])
        assert await spool.claim(NOW + 1e6, 10) == ([], None)
        assert await happened(spool, "A") == ["received", "planned", "planned", "delivered"]
    async with opened(tmp_path) as spool:
        assert await spool.claim(NOW + 1e6, 10) == ([], None)
        states = [entry.state for entry in await spool.entries("A")]
        assert states == [State.CAPTURED if captured else State.DELIVERED, State.FAILED]


async def test_a_bounce_comes_with_the_outcome_that_causes_it(tmp_path: Path) -> None:
    async with opened(tmp_path, max_size=500) as spool:
        await spool.accept(mail("A"))
        [entry] = await claim(spool)
        await spool.settle([failed(entry)], [told(Happening.FAILED, entry)], [mail("B", octets("B", MB))])
        assert keys(await claim(spool)) == [("B", 0)]
        assert await spool.content("B") == octets("B", MB)
    assert bodies(tmp_path) == []


async def test_a_message_for_nobody_is_kept_and_finished(tmp_path: Path) -> None:
    async with opened(tmp_path, max_size=600) as spool:
        await spool.accept(mail("A", count=0))
        await spool.accept(mail("B"))
        assert keys(await claim(spool)) == [("B", 0)]
        assert await spool.content("A") == octets("A", 500)


async def test_many_recipients_and_many_settlements_in_one_commit(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.accept(mail("A", count=1000))
        entries = await claim(spool, limit=2000)
        assert keys(entries) == [("A", n) for n in range(1000)]
        await spool.settle([delivered(entry) for entry in entries], [told(Happening.DELIVERED, e) for e in entries])
        assert {entry.state for entry in await spool.entries("A")} == {State.DELIVERED}
        assert len(await spool.events("A")) == 2001


async def test_an_id_that_is_taken_fails_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.accept(mail("A"))
        given = [mail("B"), mail("A", b"another"), mail("C"), mail("D", octets("D", 2 * MB)), mail("E")]
        came = await asyncio.gather(*(spool.accept(each) for each in given), return_exceptions=True)
        assert [type(each) for each in came] == [type(None), SpoolFailed, type(None), type(None), type(None)]
        assert sorted(keys(await claim(spool))) == [("A", 0), ("B", 0), ("C", 0), ("D", 0), ("E", 0)]
        assert await spool.content("A") == octets("A", 500)


async def test_facts_that_are_no_json_harm_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        bad = mail("A")
        object.__setattr__(bad.events[0], "facts", {"octets": b"x"})
        with pytest.raises(TypeError):
            await spool.accept(bad)
        await spool.accept(mail("A"))
        assert keys(await claim(spool)) == [("A", 0)]


async def test_the_wrong_size_is_an_error_of_the_caller(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        given = mail("A")
        with pytest.raises(ValueError, match="499 octets, not 500"):
            await spool.accept(Accepted(given.message, b"x" * 499, given.deliveries))
        assert await spool.entries("A") == []


# Bodies


@pytest.mark.parametrize("size", [LARGEST_ROW, LARGEST_ROW + 1, MB, 3 * MB + 17])
@pytest.mark.parametrize("staged", [False, True])
async def test_contents_of_every_size_come_back(tmp_path: Path, size: int, staged: bool) -> None:
    content = octets("A", size)
    async with opened(tmp_path) as spool:
        if staged:
            body = spool.stage("A")
            for start in range(0, size, 100_000):
                await body.write(content[start : start + 100_000])
            await spool.accept(mail("A", body, size=size))
            await body.discard()
        else:
            await spool.accept(mail("A", content))
        assert await spool.content("A") == content
    assert bodies(tmp_path) == (["A"] if staged or size > LARGEST_ROW else [])
    async with opened(tmp_path) as spool:
        assert await spool.content("A") == content
        assert keys(await claim(spool)) == [("A", 0)]


async def test_a_discarded_body_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        body = spool.stage("A")
        await body.write(b"x" * 2 * MB)
        assert bodies(tmp_path) == ["A.tmp"]
        await body.discard()
        assert bodies(tmp_path) == []
        await spool.stage("B").discard()
        with pytest.raises(SpoolFailed):
            await spool.accept(mail("A", body, size=2 * MB))
        assert await spool.entries("A") == []


async def test_a_body_whose_file_is_gone_or_cut_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.accept(mail("A", octets("A", MB)))
        (tmp_path / "bodies" / "A").write_bytes(b"short")
        with pytest.raises(SpoolFailed, match="5 octets"):
            await spool.content("A")
        (tmp_path / "bodies" / "A").unlink()
        with pytest.raises(SpoolFailed):
            await spool.content("A")
        with pytest.raises(SpoolFailed, match="no message B"):
            await spool.content("B")


# wait


async def test_wait_returns_for_what_may_be_claimed(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool, asyncio.timeout(10):
        waiting = asyncio.ensure_future(spool.wait())
        await spool.accept(mail("A"))
        await waiting
        [entry] = await claim(spool)
        waiting = asyncio.ensure_future(spool.wait())
        await spool.settle([deferred(entry, NOW + 1)], [])
        await waiting
        waiting = asyncio.ensure_future(spool.wait())
        await spool.change(Change.RETRY, ["A"], NOW)
        await waiting
        [entry] = await claim(spool)
        waiting = asyncio.ensure_future(spool.wait())
        await spool.settle([failed(entry)], [], [mail("B")])
        await waiting
        assert keys(await claim(spool)) == [("B", 0)]


async def test_cancelling_who_waits_for_the_commit_does_not_lose_the_message(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool, asyncio.timeout(10):
        task = asyncio.ensure_future(spool.accept(mail("A")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await spool.wait()
        [entry] = await claim(spool)
        settling = asyncio.ensure_future(spool.settle([delivered(entry)], []))
        await asyncio.sleep(0)
        settling.cancel()
        await spool.accept(mail("B"))
        assert [entry.state for entry in await spool.entries("A")] == [State.DELIVERED]
        assert keys(await claim(spool)) == [("B", 0)]


async def test_what_is_asked_for_when_it_closes_is_committed(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        accepting = [asyncio.ensure_future(spool.accept(mail(f"M{n:02}"))) for n in range(20)]
        await asyncio.sleep(0)
    await asyncio.gather(*accepting)
    with pytest.raises(SpoolFailed, match="closed"):
        await spool.accept(mail("Z"))
    async with opened(tmp_path) as spool:
        assert len(await claim(spool)) == 20


# change


async def test_the_operators_changes(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.accept(mail("A", count=2))
        await spool.accept(mail("B"))
        first, second, other = await claim(spool)
        await spool.settle([deferred(first, NOW + 100), delivered(second), deferred(other, NOW + 100)], [])

        assert await spool.change(Change.HOLD, ["A", "A", "unknown"], NOW + 1) == [
            Changed("A", 0, State.QUEUED, State.HELD)
        ]
        assert await spool.change(Change.HOLD, ["A"], NOW + 1) == []
        assert await spool.change(Change.RETRY, None, NOW + 2) == [Changed("B", 0, State.QUEUED, State.QUEUED)]
        assert keys(await claim(spool, NOW + 2)) == [("B", 0)]
        assert await spool.change(Change.RELEASE, None, NOW + 3) == [Changed("A", 0, State.HELD, State.QUEUED)]
        assert keys(await claim(spool, NOW + 3)) == [("A", 0)]
        assert await spool.change(Change.REMOVE, None, NOW + 4) == [
            Changed("A", 0, State.QUEUED, State.REMOVED, in_flight=True),
            Changed("B", 0, State.QUEUED, State.REMOVED, in_flight=True),
        ]
        assert (await happened(spool, "A"))[3:] == ["held", "released", "removed"]
        assert (await happened(spool, "B"))[2:] == ["retried", "removed"]
        told = [event for _, event in await spool.events("A")]
        assert (told[-1].at, told[-1].delivery, told[-1].message) == (NOW + 4, 0, "A")


async def test_what_is_changed_before_it_is_claimed_is_not_claimed(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        for name in "ABC":
            await spool.accept(mail(name))
        await spool.change(Change.HOLD, ["A"], NOW)
        await spool.change(Change.REMOVE, ["B"], NOW)
        assert keys(await claim(spool)) == [("C", 0)]


@pytest.mark.parametrize(
    ("change", "settlement", "after"),
    [
        (Change.HOLD, deferred, State.HELD),
        (Change.REMOVE, deferred, State.REMOVED),
        (Change.HOLD, failed, State.FAILED),
        (Change.REMOVE, failed, State.FAILED),
        (Change.HOLD, delivered, State.DELIVERED),
        (Change.REMOVE, delivered, State.DELIVERED),
        (Change.RETRY, deferred, State.QUEUED),
        (Change.RETRY, failed, State.FAILED),
    ],
)
async def test_a_change_made_while_the_attempt_ran_stands(tmp_path: Path, change, settlement, after) -> None:  # type: ignore[no-untyped-def]
    async with opened(tmp_path) as spool:
        await spool.accept(mail("A"))
        [entry] = await claim(spool)
        [changed] = await spool.change(change, None, NOW)
        assert changed.in_flight
        assert await claim(spool) == []
        await spool.settle([settlement(entry, NOW + 60) if settlement is deferred else settlement(entry)], [])
        [entry] = await spool.entries("A")
        assert (entry.state, entry.attempts) == (after, 1)
        assert len(await claim(spool, NOW + 60)) == (after is State.QUEUED)


async def test_a_retry_asked_for_while_the_attempt_ran_comes_after_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.accept(mail("A"))
        [entry] = await claim(spool)
        await spool.change(Change.RETRY, ["A"], NOW + 5)
        await spool.settle([deferred(entry, NOW + 3600)], [])
        assert keys(await claim(spool, NOW + 5)) == [("A", 0)]


async def test_one_held_and_released_while_its_attempt_ran_is_claimed_after_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.accept(mail("A"))
        [entry] = await claim(spool)
        await spool.change(Change.HOLD, ["A"], NOW)
        await spool.change(Change.RELEASE, ["A"], NOW)
        assert await claim(spool) == []
        await spool.settle([deferred(entry, NOW + 60)], [])
        assert await spool.claim(NOW, 10) == ([], NOW + 60)


# max_size


async def test_beyond_max_size_nothing_is_accepted_until_mail_is_finished(tmp_path: Path) -> None:
    async with opened(tmp_path, max_size=1200) as spool:
        came = await asyncio.gather(*(spool.accept(mail(name)) for name in "ABC"), return_exceptions=True)
        assert [type(each) for each in came] == [type(None), type(None), SpoolFull]
        entries = await claim(spool)
        assert keys(entries) == [("A", 0), ("B", 0)]
        with pytest.raises(SpoolFull):
            await spool.accept(mail("D", octets("D", MB)))
        assert bodies(tmp_path) == []
        await spool.settle([delivered(entries[0])], [])
        await spool.accept(mail("E"))
        with pytest.raises(SpoolFull):
            await spool.accept(mail("F"))
        await spool.change(Change.REMOVE, ["B"], NOW)
        await spool.accept(mail("G"))
    async with opened(tmp_path, max_size=1200) as spool:
        with pytest.raises(SpoolFull, match="1000 octets"):
            await spool.accept(mail("H"))


# read


async def test_pages_go_from_the_newest_to_the_oldest(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        for name in "ABCDEFG":
            await spool.accept(mail(name, count=3))
        for entry in await claim(spool):
            match entry.message.id:
                case "B":
                    await spool.settle([delivered(entry)], [])
                case "C":
                    await spool.settle([delivered(entry, captured=True)], [])
        await spool.change(Change.HOLD, ["D"], NOW)

        async def listed(**wanted: bool) -> list[tuple[str, int]]:
            found: list[tuple[str, int]] = []
            cursor = ""
            while True:
                page = await spool.read(cursor, 4, **wanted)
                found += keys(page.entries)
                if not page.cursor:
                    return found
                assert len(page.entries) == 4
                cursor = page.cursor

        assert await listed() == [(name, n) for name in "GFEDA" for n in range(3)]
        assert await listed(unfinished=False, captured=True) == [("C", n) for n in range(3)]
        assert await listed(captured=True) == [(name, n) for name in "GFEDCA" for n in range(3)]
        assert await listed(unfinished=False) == [(name, n) for name in "GFEDCBA" for n in range(3)]
        with pytest.raises(ValueError):
            await spool.read("nonsense")


async def test_events_after_a_number(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.accept(mail("A", count=2))
        events = await spool.events("A")
        assert [number for number, _ in events] == sorted(number for number, _ in events)
        assert await spool.events("A", events[0][0]) == events[1:]
        assert await spool.events("A", events[-1][0]) == []
        assert await spool.events("B") == []


async def test_an_operator_reads_beside_the_relay(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool, beside(tmp_path) as operator:
        await spool.accept(mail("A"))
        await spool.accept(mail("B", octets("B", MB)))
        assert keys((await operator.read()).entries) == [("B", 0), ("A", 0)]
        assert await operator.entries("A") == await spool.entries("A")
        assert await operator.events("A") == await spool.events("A")
        assert await operator.content("A") == octets("A", 500)
        assert await operator.content("B") == octets("B", MB)


def test_the_helpers_make_different_mail() -> None:
    assert octets("A", 500) != octets("B", 500)
    assert len(deliveries(3)) == len(set(deliveries(3)))
