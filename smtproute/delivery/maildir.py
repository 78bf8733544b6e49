"""Maildir: writes a copy into a mailbox so that it is there for good, or not at all.

The file is written and synced in `tmp`, renamed into `new`, and the directory synced (maildir(5)). Lines end in LF
on disk, as every Maildir reader expects: bare newlines were refused at the door, so nothing is lost by it. The name
carries the size on disk (`S=`) and with CRLF (`W=`), as Dovecot reads them, and is the same at every attempt: a
delivery repeated after a crash replaces its first copy while that is unread.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from smtproute.core.address import Address
from smtproute.core.reply import Refusal, Reply

__all__ = ["MailboxFailed", "Maildir"]

_SAYS = "maildir"


class MailboxFailed(Exception):
    """The copy could not be written, and nothing of it is there."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class Maildir:
    """All mailboxes: `<root>/<domain>/<user>/`. Owns the threads that write them."""

    def __init__(self, root: Callable[[], str], threads: int = 4) -> None:
        self._root = root
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="maildir")

    async def deliver(self, mailbox: Address, name: str, content: bytes) -> str:
        """Writes `content` (CRLF) under the unique base `name`; returns the file. Raises MailboxFailed."""
        folder = Path(self._root()) / _component(mailbox.domain.key) / _component(mailbox.local.lower())
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, _write, folder, name, content)
        except OSError as error:
            raise MailboxFailed(_refusal(error, folder)) from error

    def close(self) -> None:
        """Waits for what is being written."""
        self._threads.shutdown()


def _component(name: str) -> str:
    """A path component that cannot leave its folder. Raises MailboxFailed."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        reply = Reply(451, "4.3.5", "The mailbox is not usable")
        raise MailboxFailed(Refusal(reply, _SAYS, f"{name!r} cannot name a folder"))
    return name


def _write(folder: Path, name: str, content: bytes) -> str:
    on_disk = content.replace(b"\r\n", b"\n")
    for sub in ("cur", "tmp", "new"):
        _make(folder / sub)
    named = f"{name},S={len(on_disk)},W={len(content)}"
    part, final = folder / "tmp" / named, folder / "new" / named
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


def _refusal(error: OSError, folder: Path) -> Refusal:
    if error.errno == errno.EDQUOT:
        reply = Reply(452, "4.2.2", "The mailbox is full")
    elif error.errno == errno.ENOSPC:
        reply = Reply(452, "4.3.1", "No room for the message now")
    else:
        reply = Reply(451, "4.3.0", "The mailbox cannot be written now")
    return Refusal(reply, _SAYS, f"{folder}: {error}")
