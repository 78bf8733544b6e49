"""Maildir: writes a copy into a mailbox so that it is there for good, or not at all.

The file is written and synced in `tmp`, renamed into `new`, and the directory synced (maildir(5)). Lines end in LF
on disk, as every Maildir reader expects: bare newlines were refused at the door, so nothing is lost by it. The name
carries the size on disk (`S=`) and with CRLF (`W=`), as Dovecot reads them, and is the same at every attempt: a
delivery repeated after a crash replaces its first copy while that is unread. Junk is a folder of Maildir++ inside the
mailbox, and counts towards its quota.

A mailbox with a quota is counted before it is written, and its deliveries take turns, so that each is judged by what
the one before it left. What others write meanwhile is not known.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from smtproute.core.address import Address
from smtproute.core.quota import FULL, FULL_FOR_NOW, UNLIMITED, Quota, over
from smtproute.core.reply import Refusal, Reply
from smtproute.delivery.usage import Counter
from smtproute.world import Clock, SystemClock

__all__ = ["MailboxFailed", "Maildir"]

JUNK = ".Junk"
"""The folder that an IMAP server shows as Junk, which is what docker-mailserver's \\Junk mailbox is called."""
PATIENCE = 10.0
"""Seconds that a delivery waits for its mailbox to be counted, from when that count was asked for."""

_SAYS = "maildir"


class MailboxFailed(Exception):
    """The mailbox could not be counted or written, or is full; nothing of the copy is there."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class _Count:
    """A mailbox that is being counted."""

    octets: asyncio.Future[int]
    due: float
    """The loop's time at which deliveries wait for it no longer."""


class Maildir:
    """All mailboxes: `<root>/<domain>/<user>/`. Owns the threads that write and that count them."""

    def __init__(self, root: Callable[[], str], clock: Clock | None = None, patience: float = PATIENCE) -> None:
        """`clock` is the one that dates files, whatever time it is for the relay."""
        self._root = root
        self._patience = patience
        self._writers = ThreadPoolExecutor(4, thread_name_prefix="maildir")
        # Apart: a large mailbox that is counted for the first time must not hold up what is written.
        self._counters = ThreadPoolExecutor(2, thread_name_prefix="usage")
        self._counter = Counter(clock or SystemClock())
        self._counting: dict[Path, _Count] = {}
        self._turns: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()

    async def deliver(
        self, mailbox: Address, name: str, content: bytes, quota: Quota = UNLIMITED, *, junk: bool = False
    ) -> str:
        """Writes `content` (CRLF) under the unique base `name`, if there is room; returns the file.

        `junk`: into the Junk folder.

        A mailbox that is not counted in time is not judged. Raises MailboxFailed: for good where the content would
        not fit into the mailbox if that were empty, since no wait makes room for it.
        """
        folder = self._folder(mailbox)
        into = folder / JUNK if junk else folder
        if not quota.limit:
            return await self._written(into, name, content, None)
        if over(quota, 0, len(content)):
            why = f"{len(content)} octets never fit into {folder}, which may hold {quota.limit} ({quota.rule})"
            return await self._written(into, name, content, Refusal(FULL, _SAYS, why))
        turn = self._turns.setdefault(folder, asyncio.Lock())
        async with turn:
            used = await self._used(folder)
            full = None
            if used is not None and over(quota, used, len(content)):
                why = f"{folder} is full: {used} of {quota.limit} octets, and {len(content)} more"
                full = Refusal(FULL_FOR_NOW, _SAYS, why)
            return await self._written(into, name, content, full)

    async def usage(self, mailbox: Address) -> int:
        """Octets of virtual size in the mailbox; 0 where it is not there yet. Raises MailboxFailed."""
        folder = self._folder(mailbox)
        try:
            # Whoever waits may give up: the count goes on, and the next one finds it.
            return await asyncio.shield(self._count(folder).octets)
        except OSError as error:
            raise MailboxFailed(_refusal(error, folder, "read")) from error

    def close(self) -> None:
        """Waits for what is being written, and not for what is being counted."""
        self._counter.stop()
        self._counters.shutdown(wait=False, cancel_futures=True)
        self._writers.shutdown()

    async def _used(self, folder: Path) -> int | None:
        """What the mailbox holds, by a count that begins now; None where it is late. Raises MailboxFailed."""
        earlier = self._counting.get(folder)  # it may have passed by what was written since
        if earlier is not None and not await _in_time(earlier):
            return None
        count = self._count(folder)
        if not await _in_time(count):
            return None
        try:
            return count.octets.result()
        except OSError as error:
            raise MailboxFailed(_refusal(error, folder, "read")) from error

    def _count(self, folder: Path) -> _Count:
        """The count that is under way, or a new one."""
        count = self._counting.get(folder)
        if count is None or count.octets.done():
            loop = asyncio.get_running_loop()
            octets = loop.run_in_executor(self._counters, self._counter.octets, folder)
            count = self._counting[folder] = _Count(octets, loop.time() + self._patience)
            octets.add_done_callback(lambda done: self._counted(folder, done))
        return count

    async def _written(self, folder: Path, name: str, content: bytes, full: Refusal | None) -> str:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._writers, _write, folder, name, content, full)
        except OSError as error:
            raise MailboxFailed(_refusal(error, folder, "written")) from error

    def _folder(self, mailbox: Address) -> Path:
        """Raises MailboxFailed."""
        return Path(self._root()) / _component(mailbox.domain.key) / _component(mailbox.local.lower())

    def _counted(self, folder: Path, done: asyncio.Future[int]) -> None:
        if self._counting[folder].octets is done:
            del self._counting[folder]
        if not done.cancelled():
            done.exception()  # it may be that nobody waited until then


async def _in_time(count: _Count) -> bool:
    """Waits for the count; whether it ended before it was due."""
    left = max(0.0, count.due - asyncio.get_running_loop().time())
    done, _ = await asyncio.wait([count.octets], timeout=left)
    return bool(done)


def _component(name: str) -> str:
    """A path component that cannot leave its folder. Raises MailboxFailed."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        reply = Reply(451, "4.3.5", "The mailbox is not usable")
        raise MailboxFailed(Refusal(reply, _SAYS, f"{name!r} cannot name a folder"))
    return name


def _write(folder: Path, name: str, content: bytes, full: Refusal | None) -> str:
    """Writes the file, unless the mailbox is `full` and does not hold it yet. Raises OSError, MailboxFailed."""
    on_disk = content.replace(b"\r\n", b"\n")
    named = f"{name},S={len(on_disk)},W={len(content)}"
    part, final = folder / "tmp" / named, folder / "new" / named
    if full is not None and not final.exists():
        raise MailboxFailed(full)
    for sub in ("cur", "tmp", "new"):
        _make(folder / sub)
    if folder.name == JUNK:
        (folder / "maildirfolder").touch(mode=0o600)
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
