"""What a Maildir holds: counted once, and again when it changes. tests/e2e/test_quota.py asks Dovecot the same."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from smtproute.core.address import Address
from smtproute.core.quota import Quota
from smtproute.delivery.maildir import MailboxFailed, Maildir
from smtproute.world import SystemClock

ANNA = Address.parse("anna@example.org")
LETTER = b"Subject: hello\r\n\r\nbody\r\n"


@pytest.fixture
async def maildir(tmp_path: Path) -> AsyncIterator[Maildir]:
    made = Maildir(lambda: str(tmp_path))
    yield made
    made.close()


@pytest.fixture
def mailbox(tmp_path: Path) -> Path:
    folder = tmp_path / "example.org" / "anna"
    for sub in ("cur", "new", "tmp"):
        (folder / sub).mkdir(parents=True)
    return folder


class StuckClock(SystemClock):
    """Whoever counts a directory asks for the time first, and waits here, as for a server of files that is gone."""

    def __init__(self, first: int) -> None:
        self.asked, self.go_on = threading.Event(), threading.Event()
        self.first = first
        """The directory from which on it is stuck."""
        self.times = 0

    def now(self) -> float:
        self.times += 1
        if self.times >= self.first:
            self.asked.set()
            self.go_on.wait(60)
        return time.time()


@contextlib.contextmanager
def stuck(root: Path, patience: float = 60, first: int = 1) -> Iterator[tuple[Maildir, StuckClock]]:
    clock = StuckClock(first)
    maildir = Maildir(lambda: str(root), clock, patience)
    try:
        yield maildir, clock
    finally:
        clock.go_on.set()
        maildir.close()


def put(folder: Path, name: str, content: bytes = b"") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def age(directory: Path, seconds: float = 60) -> None:
    """As if the directory had last changed a while ago."""
    changed = directory.stat().st_mtime - seconds
    os.utime(directory, (changed, changed))


async def test_every_folder_counts_and_nothing_else(maildir: Maildir, mailbox: Path) -> None:
    put(mailbox / "new", "1.a.host,S=9,W=10")
    put(mailbox / "cur", "2.b.host,S=90,W=100:2,S")
    put(mailbox / ".Trash" / "cur", "3.c.host,W=1000,S=900:2,ST")
    put(mailbox / ".Work.2026" / "new", "4.d.host,S=9000,W=10000")
    put(mailbox / "tmp", "5.e.host,S=1,W=1")
    put(mailbox / "cur", ".6.f.host,W=1")
    put(mailbox / "home" / "cur", "7.g.host,W=1")
    put(mailbox / "..DOVECOT-TRASHED" / "cur", "8.h.host,W=1")
    (mailbox / ".Linked").symlink_to(".Trash")
    put(mailbox, ".subscriptions")
    assert await maildir.usage(ANNA) == 11110


async def test_a_size_that_the_name_does_not_tell_is_read(maildir: Maildir, mailbox: Path) -> None:
    put(mailbox / "cur", "1.a.host,S=4:2,S", b"a\nb\n")
    put(mailbox / "cur", "2.b.host:2,", b"a\r\nb\n")
    put(mailbox / "cur", "3.c.host,W=x:2,", b"a\rb")
    put(mailbox / "cur", "4.d.host", b"x" * ((1 << 20) - 1) + b"\r\n" + b"y" * (1 << 20) + b"\n")
    assert await maildir.usage(ANNA) == 6 + 6 + 3 + (1 << 21) + 3


async def test_a_mailbox_that_is_not_there_is_empty(maildir: Maildir) -> None:
    assert await maildir.usage(ANNA) == 0


async def test_what_cannot_be_read_is_said(maildir: Maildir, tmp_path: Path) -> None:
    put(tmp_path / "example.org", "anna")
    with pytest.raises(MailboxFailed) as failed:
        await maildir.usage(ANNA)
    assert str(failed.value.refusal.reply) == "451 4.3.0 The mailbox cannot be read now"


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
async def test_the_name_tells_the_size_on_disk_of_what_cannot_be_read(maildir: Maildir, mailbox: Path) -> None:
    put(mailbox / "cur", "1.a.host,S=4:2,S", b"a\nb\n").chmod(0)
    assert await maildir.usage(ANNA) == 4


async def test_a_directory_is_counted_again_only_when_it_changed(maildir: Maildir, mailbox: Path) -> None:
    message = put(mailbox / "cur", "1.a.host,W=5:2,")
    age(mailbox / "cur")
    before = (mailbox / "cur").stat()
    assert await maildir.usage(ANNA) == 5
    message.rename(message.with_name("1.a.host,W=7:2,"))
    os.utime(mailbox / "cur", ns=(before.st_atime_ns, before.st_mtime_ns))  # so that nothing shows
    assert await maildir.usage(ANNA) == 5
    put(mailbox / "cur", "2.b.host,W=100:2,S")
    assert await maildir.usage(ANNA) == 107


async def test_a_file_is_read_once(maildir: Maildir, mailbox: Path) -> None:
    message = put(mailbox / "cur", "1.a.host:2,", b"one\n")
    assert await maildir.usage(ANNA) == 5
    message.write_bytes(b"another\n")  # which no Maildir reader does: it shows that nobody looks
    message = message.rename(message.with_name("1.a.host:2,S"))
    assert await maildir.usage(ANNA) == 5
    message.unlink()
    assert await maildir.usage(ANNA) == 0


async def test_who_asks_meanwhile_waits_for_the_same_count(tmp_path: Path, mailbox: Path) -> None:
    put(mailbox / "cur", "1.a.host:2,", b"a\n")
    with stuck(tmp_path) as (maildir, clock):
        asked = [asyncio.create_task(maildir.usage(ANNA)) for _ in range(3)]
        await asyncio.to_thread(clock.asked.wait)
        asked[0].cancel()
        clock.go_on.set()
        assert await asyncio.gather(*asked[1:]) == [3, 3]
    assert clock.times == 2  # once for each of the two directories


async def test_what_is_no_regular_file_is_no_message(maildir: Maildir, mailbox: Path) -> None:
    cur = mailbox / "cur"
    put(cur, "1.a.host:2,", b"a\n")
    os.mkfifo(cur / "2.fifo")
    (cur / "3.directory").mkdir()
    for number, target in enumerate(("/dev/zero", "/dev/tty", "2.fifo", "loop", "9" * 300, "1.a.host:2,/x", "gone")):
        (cur / f"4.{number}.link").symlink_to(target)
    (cur / "loop").symlink_to("loop")
    (cur / "5.followed").symlink_to("1.a.host:2,")
    with socket.socket(socket.AF_UNIX) as bound, contextlib.chdir(cur):
        bound.bind("6.socket")
    async with asyncio.timeout(20):
        assert await maildir.usage(ANNA) == 3 + 3


async def test_a_file_without_end_counts_as_it_stands(maildir: Maildir, mailbox: Path) -> None:
    os.truncate(put(mailbox / "cur", "1.sparse"), 1 << 42)
    async with asyncio.timeout(20):
        assert await maildir.usage(ANNA) == 1 << 42


async def test_a_delivery_does_not_wait_for_a_count_for_ever(tmp_path: Path, mailbox: Path) -> None:
    """What is not known in time is not judged, as at RCPT; others in the line wait no longer than the first."""
    with stuck(tmp_path, patience=0.01) as (maildir, clock):
        await asyncio.gather(*(maildir.deliver(ANNA, f"{n}.host", LETTER, Quota(1000)) for n in range(3)))
        assert not clock.go_on.is_set()
    assert len(list((mailbox / "new").iterdir())) == 3


async def test_closing_does_not_wait_for_a_count(tmp_path: Path, mailbox: Path) -> None:
    with stuck(tmp_path) as (maildir, clock):
        asked = asyncio.create_task(maildir.usage(ANNA))
        await asyncio.to_thread(clock.asked.wait)
        await asyncio.wait_for(asyncio.to_thread(maildir.close), 20)
        put(mailbox / "cur", "1.a.host,W=5:2,")
        clock.go_on.set()
        with pytest.raises(MailboxFailed, match="the relay stops"):
            await asked


async def test_deliveries_at_once_do_not_overfill(maildir: Maildir, mailbox: Path) -> None:
    quota = Quota(10 * len(LETTER), grace=0)

    async def deliver(number: int) -> bool:
        try:
            await maildir.deliver(ANNA, f"{number}.host", LETTER, quota)
        except MailboxFailed as failed:
            assert failed.refusal.reply.code == 452
            return False
        return True

    assert sum(await asyncio.gather(*map(deliver, range(30)))) == 10
    assert await maildir.usage(ANNA) == 10 * len(LETTER)


async def test_a_count_that_began_before_the_last_delivery_does_not_judge_the_next(
    tmp_path: Path, mailbox: Path
) -> None:
    (mailbox / ".Work").mkdir()
    with stuck(tmp_path, first=3) as (maildir, clock):
        begun = asyncio.create_task(maildir.usage(ANNA))
        await asyncio.to_thread(clock.asked.wait)
        put(mailbox / "new", "1.host,W=90")  # where the count has passed
        judged = asyncio.create_task(maildir.deliver(ANNA, "2.host", LETTER, Quota(100, grace=0)))
        await asyncio.sleep(0)
        clock.go_on.set()
        assert await begun == 0
        with pytest.raises(MailboxFailed, match="90 of 100 octets"):
            await judged


async def test_what_never_fits_fails_for_good(maildir: Maildir, mailbox: Path) -> None:
    with pytest.raises(MailboxFailed) as failed:
        await maildir.deliver(ANNA, "1.host", LETTER, Quota(len(LETTER) - 3, grace=10))
    reply = failed.value.refusal.reply
    assert (reply.code, reply.enhanced) == (552, "5.2.2")
    await maildir.deliver(ANNA, "1.host", LETTER, Quota(len(LETTER) - 2, grace=10))
    assert await maildir.usage(ANNA) == len(LETTER)


async def test_a_directory_that_changed_just_now_is_not_trusted(maildir: Maildir, mailbox: Path) -> None:
    put(mailbox / "cur", "1.a.host,W=5:2,")
    before = (mailbox / "cur").stat()
    assert await maildir.usage(ANNA) == 5
    put(mailbox / "cur", "2.b.host,W=100:2,")
    os.utime(mailbox / "cur", ns=(before.st_atime_ns, before.st_mtime_ns))  # within the same tick of a coarse clock
    assert await maildir.usage(ANNA) == 105


async def test_another_directory_with_the_same_time_is_another(maildir: Maildir, mailbox: Path) -> None:
    put(mailbox / "cur", "1.a.host,W=5:2,")
    age(mailbox / "cur")
    assert await maildir.usage(ANNA) == 5
    before = (mailbox / "cur").stat()
    (mailbox / "cur").rename(mailbox / "old")
    put(mailbox / "cur", "1.a.host,W=7:2,")
    os.utime(mailbox / "cur", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert await maildir.usage(ANNA) == 7


async def test_our_own_deliveries_count_at_once(maildir: Maildir, mailbox: Path) -> None:
    age(mailbox / "new")
    assert await maildir.usage(ANNA) == 0
    for number in range(1, 4):
        await maildir.deliver(ANNA, f"{number}.host", LETTER)
        assert await maildir.usage(ANNA) == number * len(LETTER)


async def test_a_folder_that_goes_no_longer_counts(maildir: Maildir, mailbox: Path) -> None:
    put(mailbox / ".Old" / "cur", "1.a.host,W=5:2,")
    age(mailbox / ".Old" / "cur")
    assert await maildir.usage(ANNA) == 5
    (mailbox / ".Old").rename(mailbox / "gone")
    assert await maildir.usage(ANNA) == 0


async def test_a_full_mailbox_takes_no_copy_but_keeps_the_one_it_has(maildir: Maildir, mailbox: Path) -> None:
    quota = Quota(len(LETTER), grace=0)
    file = await maildir.deliver(ANNA, "1.host", LETTER, quota)
    with pytest.raises(MailboxFailed) as failed:
        await maildir.deliver(ANNA, "2.host", LETTER, quota)
    reply = failed.value.refusal.reply
    assert (reply.code, reply.enhanced) == (452, "4.2.2")
    assert f"{len(LETTER)} of {len(LETTER)} octets" in failed.value.refusal.detail
    # As after a crash between the write and its record: the copy is there, and it is no new one.
    assert await maildir.deliver(ANNA, "1.host", LETTER, quota) == file
    assert await maildir.usage(ANNA) == len(LETTER)
    await maildir.deliver(ANNA, "2.host", LETTER, Quota(0))
    assert await maildir.usage(ANNA) == 2 * len(LETTER)
