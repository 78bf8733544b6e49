"""Files: the one way in which configuration is read. Nothing but a regular file of a sane size is, so nobody waits."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["LARGEST", "present", "read", "readable", "there"]

LARGEST = 64 << 20
"""Octets."""


def present(path: Path) -> bool:
    """Whether there is anything of this name, be it a link to nowhere. Raises OSError where that cannot be told."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def there(path: Path) -> bool:
    """Whether a link leads to something, or may: where that cannot be looked at, whoever reads it will say why."""
    try:
        return path.exists()
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG


def read(path: Path) -> bytes:
    """What a file holds. Raises OSError, also where it is no regular file, and where it has more than 64 MiB."""
    descriptor = _opened(path)
    with os.fdopen(descriptor, "rb") as file:
        octets = file.read(LARGEST + 1)
    if len(octets) > LARGEST:
        raise _too_large(path)
    return octets


def readable(path: Path) -> None:
    """Raises OSError where `read` would refuse the file."""
    os.close(_opened(path))


def _opened(path: Path) -> int:
    """Its descriptor. Opening a pipe without O_NONBLOCK would wait for a writer."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "No regular file", str(path))
        if status.st_size > LARGEST:
            raise _too_large(path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _too_large(path: Path) -> OSError:
    return OSError(errno.EFBIG, f"Larger than {LARGEST >> 20} MiB", str(path))
