"""Bodies: contents too large for a row, each a file named by its queue id.

A body grows as `ID.tmp` while DATA arrives. It is synced and renamed before the row that names it commits, and
unlinked after the commit that lets go of it; so a file without a row is a leftover, and goes at the next start.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from smtproute.spool.queue import SpoolFailed

__all__ = ["Bodies", "StagedBody", "free_octets", "sync_folder"]

_TMP = ".tmp"
_STEP = 1 << 20
"""Octets written at once. Each step is synced at its end: the last sync, which the sender waits for, finds little
left, and between two steps the writer gets to its commits."""


class Bodies:
    """The folder. Its methods block and raise OSError; all but `read` belong to the writer's thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, message_id: str) -> int:
        """A descriptor of a new `ID.tmp`."""
        return os.open(self._staged(message_id), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def publish(self, message_id: str) -> None:
        """Gives a synced `ID.tmp` its final name, or removes it. FileExistsError where another body has the name."""
        path = self._folder / message_id
        try:
            if path.exists():
                raise FileExistsError(f"{path} exists")
            self._staged(message_id).rename(path)
        except OSError:
            self.remove_staged(message_id)
            raise
        try:
            sync_folder(self._folder)
        except OSError:
            self.remove(message_id)
            raise

    def read(self, message_id: str) -> bytes:
        return (self._folder / message_id).read_bytes()

    def remove(self, message_id: str) -> None:
        (self._folder / message_id).unlink(missing_ok=True)

    def remove_staged(self, message_id: str) -> None:
        self._staged(message_id).unlink(missing_ok=True)

    def remove_strays(self, wanted: Callable[[str], bool]) -> None:
        """Unlinks what was still being staged, and what no row wants."""
        for path in list(self._folder.iterdir()):
            if path.is_file() and (path.suffix == _TMP or not wanted(path.name)):
                path.unlink()

    def _staged(self, message_id: str) -> Path:
        return self._folder / (message_id + _TMP)


class StagedBody:
    """A `Staged` in the folder. Its steps run in the writer's thread, in the order in which they were asked for."""

    def __init__(
        self, bodies: Bodies, message_id: str, submit: Callable[[Callable[[], None]], Awaitable[None]]
    ) -> None:
        self.message_id = message_id
        self.size = 0
        """Octets written so far."""
        self._bodies = bodies
        self._submit = submit
        self._buffer = bytearray()
        self._descriptor: int | None = None
        self._failed = False
        self._over = False

    async def write(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self._buffer += chunk
        while len(self._buffer) >= _STEP:
            step = bytes(self._buffer[:_STEP])
            del self._buffer[:_STEP]
            await self._submit(partial(self._append, step))

    def fill(self, content: bytes) -> None:
        """Takes a content that is already whole; `finish` writes it."""
        self.size += len(content)
        self._buffer += content

    async def discard(self) -> None:
        if not self._over:
            self._over = True
            await self._submit(self._drop)

    def hand_over(self) -> None:
        """From here on it is the accept's that was called with it."""
        self._over = True

    def finish(self) -> None:
        """In the writer's thread: the rest, sync, rename. Raises OSError, SpoolFailed; then nothing is left."""
        self._append(bytes(self._buffer))
        self._close()
        self._bodies.publish(self.message_id)

    def take_back(self) -> None:
        """In the writer's thread: undoes `finish`."""
        self._bodies.remove(self.message_id)

    def _append(self, octets: bytes) -> None:
        if self._failed:
            raise SpoolFailed(f"body of {self.message_id}: an earlier write failed")
        try:
            if self._descriptor is None:
                self._descriptor = self._bodies.create(self.message_id)
            left = memoryview(octets)
            while left:
                left = left[os.write(self._descriptor, left) :]
            os.fsync(self._descriptor)
        except OSError:
            self._drop()
            raise

    def _drop(self) -> None:
        self._failed = True
        if self._descriptor is not None:
            self._close()
            self._bodies.remove_staged(self.message_id)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_octets(folder: Path) -> int:
    """How much may still be written to the disk that a folder is on. Raises OSError."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
