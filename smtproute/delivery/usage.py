"""Usage: how much a Maildir holds, in octets of virtual size, as Dovecot's quota driver `count` counts it.

That is every message in `cur` and `new` of the mailbox and of its Maildir++ subfolders (`.Name`), Trash among them,
each with its line ends counted as CRLF. docker-mailserver lets Trash hold 50 MiB more than the limit, but only for
what a user moves there (Dovecot's rule `Trash:storage=+50M`): what is delivered to the inbox is judged by the whole.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from smtproute.world import Clock

__all__ = ["Counter"]

_TRUSTED_AFTER = 2.0
"""Seconds. A directory that changed less long ago may change again and keep its time (as Dovecot assumes too)."""
_ROUNDS = 3
"""How often a folder is counted again because a message moved from `new` to `cur` meanwhile."""
_CHUNK = 1 << 20
_MOST_READ = 1 << 30
"""Octets. A larger file (it may be sparse) counts with its size on disk, and is not read."""
_NO_MESSAGE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENXIO, errno.ENODEV}
)
"""What looking at a name ends in that is gone or renamed by now, leads nowhere, or is no regular file."""
_DIGITS = re.compile(r"([0-9]*)(?:[,:]|\Z)")


@dataclass(frozen=True, slots=True)
class _Counted:
    """A directory of messages, as it was when it was counted."""

    stamp: tuple[int, int] | None = None
    """Its mtime in nanoseconds and its inode; None: it must be counted again."""
    octets: int = 0
    read: Mapping[str, int] = field(default_factory=dict)
    """The sizes that had to be read from the files, by name without flags."""


class Counter:
    """Counts mailboxes, and remembers the sum of each directory until that changes. Threads may share it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[Path, Mapping[Path, _Counted]] = {}
        """By mailbox, then by directory."""
        self._stopped = False

    def octets(self, mailbox: Path) -> int:
        """What the mailbox holds; 0 where there is none. Raises OSError."""
        before = self._known.get(mailbox, {})
        counted: dict[Path, _Counted] = {}
        for folder in _folders(mailbox):
            new, cur = folder / "new", folder / "cur"
            for _ in range(_ROUNDS):
                stamp = _stamp(new)
                counted[new] = self._counted(new, before.get(new, _Counted()))
                counted[cur] = self._counted(cur, before.get(cur, _Counted()))
                if _stamp(new) == stamp:
                    break
        self._known[mailbox] = counted
        return sum(each.octets for each in counted.values())

    def stop(self) -> None:
        """Breaks off what is being counted: it raises OSError."""
        self._stopped = True

    def _counted(self, directory: Path, before: _Counted) -> _Counted:
        now = self._clock.now()
        stamp = _stamp(directory)
        if stamp is None:
            return _Counted()
        if stamp == before.stamp:
            return before
        octets = 0
        read: dict[str, int] = {}
        with os.scandir(directory) as entries:
            for entry in entries:
                self._go_on()
                if entry.name.startswith("."):
                    continue
                named = _named(entry.name, ",W=")
                if named is not None:
                    octets += named
                    continue
                unique = entry.name.partition(":")[0]
                size = before.read[unique] if unique in before.read else self._virtual(Path(entry))
                if size is not None:
                    read[unique] = size
                    octets += size
        trusted = now - stamp[0] / 1e9 >= _TRUSTED_AFTER
        return _Counted(stamp if trusted else None, octets, read)

    def _virtual(self, message: Path) -> int | None:
        """The size of a file with each line end as CRLF; the one in its name (on disk) where it cannot be read.

        None for what is no message: gone meanwhile, or no regular file, which might never end or never begin.
        """
        try:
            # Before it is opened, too: to open a device may do something.
            if not stat.S_ISREG(message.stat().st_mode):
                return None
            with open(message, "rb", buffering=0, opener=_without_waiting) as file:
                return self._with_crlf(file)
        except PermissionError:
            named = _named(message.name, ",S=")
            if named is None:
                raise
            return named
        except OSError as error:
            if error.errno in _NO_MESSAGE:
                return None
            raise

    def _with_crlf(self, file: FileIO) -> int | None:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            return None
        if found.st_size > _MOST_READ:
            return found.st_size
        octets, last, left = 0, b"", found.st_size
        while left > 0 and (chunk := file.read(min(left, _CHUNK))):
            self._go_on()
            bare = chunk.count(b"\n") - chunk.count(b"\r\n") - (last == b"\r" and chunk.startswith(b"\n"))
            octets += len(chunk) + bare
            last, left = chunk[-1:], left - len(chunk)
        return octets

    def _go_on(self) -> None:
        """Raises OSError once it is to stop."""
        if self._stopped:
            raise InterruptedError(errno.EINTR, "the relay stops")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _named(name: str, field: str) -> int | None:
    """The size that a file's name has behind `field`; as for Dovecot the first one counts, and none is 0."""
    _, found, rest = name.partition(field)
    digits = _DIGITS.match(rest) if found else None
    return int(digits[1] or 0) if digits is not None else None


def _folders(mailbox: Path) -> Iterator[Path]:
    """The mailbox and its subfolders; as for Dovecot no links, which would count a folder twice."""
    try:
        entries = list(os.scandir(mailbox))
    except FileNotFoundError:
        return
    yield mailbox
    for entry in entries:
        # No name begins with the separator (..DOVECOT-TRASHED is being deleted), and INBOX is the mailbox itself.
        named = entry.name.startswith(".") and not entry.name.startswith("..") and entry.name.upper() != ".INBOX"
        if named and entry.is_dir(follow_symlinks=False):
            yield Path(entry)


def _stamp(directory: Path) -> tuple[int, int] | None:
    """None where there is no such directory."""
    try:
        found = directory.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino
