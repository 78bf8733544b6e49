"""Maildir: writes a copy into a mailbox so that it is there for good, or not at all.

The file is written and synced in `tmp`, renamed into `new`, and the directory synced (maildir(5)). Lines end in LF
on disk, as every Maildir reader expects: bare newlines were refused at the door, so nothing is lost by it. The name
carries the size on disk (`S=`) and with CRLF (`W=`), as Dovecot reads them, and is the same at every attempt: a
delivery repeated after a crash replaces its first copy while that is unread.

A mailbox with a quota is counted before it is written. Two deliveries that are counted at once may both fit, as
they may in Dovecot.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from smtproute.core.address import Address
from smtproute.core.quota import FULL_FOR_NOW, UNLIMITED, Quota, over
from smtproute.core.reply import Refusal, Reply
from smtproute.delivery.usage import Counter
from smtproute.world import SystemClock

__all__ = ["MailboxFailed", "Maildir"]

_SAYS = "maildir"


class MailboxFailed(Exception):
    """The mailbox could not be counted or written, or is full; nothing of the copy is there."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class Maildir:
    """All mailboxes: `<root>/<domain>/<user>/`. Owns the threads that write and that count them."""

    def __init__(self, root: Callable[[], str]) -> None:
        self._root = root
        self._writers = ThreadPoolExecutor(4, thread_name_prefix="maildir")
        # Apart: a large mailbox that is counted for the first time must not hold up what is written.
        self._counters = ThreadPoolExecutor(2, thread_name_prefix="usage")
        self._counter = Counter(SystemClock())  # the clock that dates files, whatever time it is for the relay
        self._counting: dict[Path, asyncio.Future[int]] = {}

    async def deliver(self, mailbox: Address, name: str, content: bytes, quota: Quota = UNLIMITED) -> str:
        """Writes `content` (CRLF) under the unique base `name`, if there is room; returns the file.

        Raises MailboxFailed.
        """
        folder = self._folder(mailbox)
        used = await self.usage(mailbox) if quota.limit else 0
        full = f"{used} of {quota.limit} octets, and {len(content)} more" if over(quota, used, len(content)) else ""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._writers, _write, folder, name, content, full)
        except OSError as error:
            raise MailboxFailed(_refusal(error, folder, "written")) from error

    async def usage(self, mailbox: Address) -> int:
        """Octets of virtual size in the mailbox; 0 where it is not there yet. Raises MailboxFailed."""
        folder = self._folder(mailbox)
        counting = self._counting.get(folder)
        if counting is None:
            counting = asyncio.get_running_loop().run_in_executor(self._counters, self._counter.octets, folder)
            self._counting[folder] = counting
            counting.add_done_callback(lambda done: self._counted(folder, done))
        try:
            # Whoever waits may give up: the count goes on, and the next one finds it.
            return await asyncio.shield(counting)
        except OSError as error:
            raise MailboxFailed(_refusal(error, folder, "read")) from error

    def close(self) -> None:
        """Waits for what is being written."""
        self._counter.stop()
        self._counters.shutdown(cancel_futures=True)
        self._writers.shutdown()

    def _folder(self, mailbox: Address) -> Path:
        """Raises MailboxFailed."""
        return Path(self._root()) / _component(mailbox.domain.key) / _component(mailbox.local.lower())

    def _counted(self, folder: Path, done: asyncio.Future[int]) -> None:
        del self._counting[folder]
        if not done.cancelled():
            done.exception()  # it may be that nobody waited until then


def _component(name: str) -> str:
    """A path component that cannot leave its folder. Raises MailboxFailed."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        reply = Reply(451, "4.3.5", "The mailbox is not usable")
        raise MailboxFailed(Refusal(reply, _SAYS, f"{name!r} cannot name a folder"))
    return name


def _write(folder: Path, name: str, content: bytes, full: str) -> str:
    """Writes the file, unless the mailbox is `full` and does not hold it yet. Raises OSError, MailboxFailed."""
    on_disk = content.replace(b"\r\n", b"\n")
    named = f"{name},S={len(on_disk)},W={len(content)}"
    part, final = folder / "tmp" / named, folder / "new" / named
    if full and not final.exists():
        raise MailboxFailed(Refusal(FULL_FOR_NOW, _SAYS, f"{folder} is full: {full}"))
    for sub in ("cur", "tmp", "new"):
        _make(folder / sub)
    try:
        with open(part, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(on_disk)
            file.flush()
            os.fsync(file.fileno())
        part.rename(final)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    _sync(folder / "new")
    return str(final)


def _make(folder: Path) -> None:
    """The folder and its parents, each synced into its parent when it is new."""
    if folder.is_dir():
        return
    _make(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refusal(error: OSError, folder: Path, how: str) -> Refusal:
    if error.errno == errno.EDQUOT:
        reply = FULL_FOR_NOW
    elif error.errno == errno.ENOSPC:
        reply = Reply(452, "4.3.1", "No room for the message now")
    else:
        reply = Reply(451, "4.3.0", f"The mailbox cannot be {how} now")
    return Refusal(reply, _SAYS, f"{folder}: {error}")
