"""Places: what waits for each other in the spool, in this version and in spools of the first."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from spooling import NOW, claim, happened, keys, mail, opened, refusal, told

from smtproute.core.address import Address
from smtproute.core.event import Happening
from smtproute.core.outcome import Outcome, Result
from smtproute.spool import schema
from smtproute.spool.queue import Accepted, Settlement, State, left_out


def letter(name: str, sender: str, recipient: str = "r@git.example.org", at: float = NOW) -> Accepted:
    """Mail with one delivery to the endpoint; an empty sender is the null reverse-path."""
    given = mail(name, at=at)
    envelope = replace(given.message.envelope, reverse_path=Address.parse(sender) if sender else None)
    (delivery,) = given.deliveries
    delivery = replace(delivery, address=Address.parse(recipient))
    return replace(given, message=replace(given.message, envelope=envelope), deliveries=[delivery])


LETTERS = {
    "bulk": ("x@bulk.example", "endpoint gitlab/bulk.example/git.example.org"),
    "null": ("", "endpoint gitlab/<>/git.example.org"),
    "idn": ("x@Bücher.example", "endpoint gitlab/xn--bcher-kva.example/git.example.org"),
    "literal": ("x@[IPv6:2001:db8::1]", "endpoint gitlab/[ipv6:2001:db8::1]/git.example.org"),
}


def places(folder: Path) -> dict[str, str]:
    with closing(sqlite3.connect(folder / "spool.db")) as database:
        return dict(database.execute("SELECT message, place FROM delivery").fetchall())


async def test_a_place_is_the_endpoint_the_senders_domain_and_the_recipients(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        for name, (sender, place) in LETTERS.items():
            await spool.accept(letter(name, sender))
            [entry] = await claim(spool)
            assert entry.place == place
    assert places(tmp_path) == {name: place for name, (_, place) in LETTERS.items()}


def test_a_place_is_left_out_with_all_that_it_begins_with() -> None:
    place = "endpoint far/bulk.example/to.example"
    for without in "endpoint far", "endpoint far/bulk.example", place:
        assert left_out(place, {without})
    for without in "endpoint fa", "endpoint far/bulk.exampl", "endpoint far/to.example", "endpoint":
        assert not left_out(place, {without})
    assert not left_out(place, set())


async def test_the_database_leaves_out_what_memory_does(tmp_path: Path) -> None:
    """Also a sender or an endpoint whose name only begins like a full one's."""
    senders = ("bulk.example", "bulk.example0", "bulk.example.org", "bulk.exampl", "<>")
    async with opened(tmp_path) as spool:
        for sender in senders:
            await spool.accept(letter(sender, "" if sender == "<>" else f"x@{sender}"))
    every = [f"endpoint {name}" for name in ("gitlab", "gitla", "gitlab0")]
    every += [f"endpoint gitlab/{sender}" for sender in senders]
    every += [f"endpoint gitlab/{sender}/git.example.org" for sender in senders]
    for without in every:
        async with opened(tmp_path) as spool:
            entries, _ = await spool.claim(NOW, 10, frozenset({without}))
            found = {entry.place for entry in entries}
        assert found == {place for place in places(tmp_path).values() if not left_out(place, {without})}, without


async def test_any_number_of_places_is_left_out(tmp_path: Path) -> None:
    """Far more than may be full at a time."""
    full = {f"endpoint gitlab/bulk.example/d{n}.example" for n in range(2000)}
    full |= {f"endpoint e{n}" for n in range(1000)} | {"endpoint gitlab/news.example", "endpoint gitlab/a.example/b"}
    recipients = [f"x@d{n}.example" for n in (0, 7, 77, 777, 1999)]
    async with opened(tmp_path) as spool:
        for n, recipient in enumerate(recipients):
            await spool.accept(letter(f"B{n}", "x@bulk.example", recipient))
            await spool.accept(letter(f"N{n}", "x@news.example", recipient))
        await spool.accept(letter("P", "x@person.example", recipients[0]))
        await spool.accept(letter("Q", "x@bulk.example", "x@d2000.example"))
    async with opened(tmp_path) as spool:
        entries, _ = await spool.claim(NOW, 100, frozenset(full))
        assert {entry.message.id for entry in entries} == {"P", "Q"}


async def test_one_letter_is_found_behind_much_mail_of_a_domain_that_has_no_room(tmp_path: Path) -> None:
    without = frozenset({"endpoint gitlab/bulk.example"})
    async with opened(tmp_path) as spool:
        for n in range(50):
            await spool.accept(letter(f"B{n:02}", "x@bulk.example"))
        await spool.accept(letter("P", "x@person.example"))
    async with opened(tmp_path) as spool:
        entries, due = await spool.claim(NOW, 10, without)
        assert (keys(entries), due) == ([("P", 0)], None)
        await spool.accept(letter("Q", "x@person.example"))
        await spool.accept(letter("B99", "x@bulk.example"))
        entries, _ = await spool.claim(NOW, 10, without)
        assert keys(entries) == [("Q", 0)]
        entries, _ = await spool.claim(NOW, 100)
        assert len(entries) == 51


async def test_a_spool_of_the_first_version_learns_the_domains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        async with opened(tmp_path) as spool:
            for name, (sender, _) in LETTERS.items():
                await spool.accept(letter(name, sender))
            await spool.accept(letter("broken head", "x@bulk.example"))
            await spool.accept(letter("broken plan", "x@bulk.example"))
            await spool.accept(letter("strange plan", "x@bulk.example"))
    with closing(sqlite3.connect(tmp_path / "spool.db", isolation_level=None)) as database:
        database.execute("UPDATE delivery SET place = 'endpoint gitlab'")
        database.execute("UPDATE message SET head = '{' WHERE id = 'broken head'")
        database.execute("UPDATE delivery SET plan = '{' WHERE message = 'broken plan'")
        database.execute("UPDATE delivery SET plan = '[]' WHERE message = 'strange plan'")
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
    async with opened(tmp_path) as spool:
        claimed = await claim(spool)
        assert {entry.message.id: entry.place for entry in claimed} == {
            name: place for name, (_, place) in LETTERS.items()
        }
    found = places(tmp_path)
    assert {name: found[name] for name in LETTERS} == {name: place for name, (_, place) in LETTERS.items()}
    assert found["broken head"] == found["broken plan"] == "endpoint gitlab"


async def test_what_a_client_took_back_is_out_of_the_queue(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.accept(mail("A", count=2))
        claimed = await claim(spool)
        withdrawn = [
            Settlement("A", entry.number, Outcome(Result.WITHDRAWN, refusal(550)), entry.due_at) for entry in claimed
        ]
        await spool.settle(withdrawn, [told(Happening.WITHDRAWN, entry) for entry in claimed])
        assert [entry.state for entry in await spool.entries("A")] == [State.REMOVED, State.REMOVED]
        assert await spool.claim(NOW + 10**9, 10) == ([], None)
        assert (await spool.read()).entries == ()
        assert (await happened(spool, "A"))[-2:] == [Happening.WITHDRAWN] * 2
    async with opened(tmp_path) as spool:
        assert await spool.claim(NOW + 10**9, 10) == ([], None)
