"""Files: how the hosts file and resolv.conf are read, so that nobody waits."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["LARGEST", "text_of"]

LARGEST = 16 << 20
"""Octets; lists of blocked names that are kept as a hosts file have a few MiB."""


def text_of(path: Path) -> str:
    """The text of a regular file. Raises OSError, also where it is none, or larger than 16 MiB.

    Opening a pipe without O_NONBLOCK would wait for a writer.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "No regular file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            octets = file.read(LARGEST + 1)
    finally:
        os.close(descriptor)
    if len(octets) > LARGEST:
        raise OSError(errno.EFBIG, f"Larger than {LARGEST >> 20} MiB", str(path))
    return octets.decode("utf-8", errors="replace")
