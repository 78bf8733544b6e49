"""What a Maildir holds: counted once, and again when it changes. tests/e2e/test_quota.py asks Dovecot the same."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from smtproute.core.address import Address
from smtproute.core.quota import Quota
from smtproute.delivery.maildir import MailboxFailed, Maildir

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


async def test_who_asks_meanwhile_waits_for_the_same_count(maildir: Maildir, mailbox: Path) -> None:
    message = mailbox / "cur" / "1.a.host:2,"
    os.mkfifo(message)  # it is read when it is written
    asked = [asyncio.create_task(maildir.usage(ANNA)) for _ in range(3)]
    await asyncio.sleep(0)
    asked[0].cancel()
    await asyncio.to_thread(message.write_bytes, b"a\n")
    assert await asyncio.gather(*asked[1:]) == [3, 3]


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
