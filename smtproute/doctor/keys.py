"""Keys: whether the sealing keys are kept as private keys should be, and used."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from smtproute.core.finding import Finding, error, warning
from smtproute.core.settings import SignBy
from smtproute.core.snapshot import Snapshot

__all__ = ["examine"]


def examine(snapshot: Snapshot) -> Iterator[Finding]:
    """Private keys that others can read, and keys that seal nothing."""
    arc = snapshot.settings.arc
    for key in arc.keys.values():
        where = f'arc.keys."{key.domain}"'
        try:
            mode = Path(key.file).stat().st_mode
        except OSError as fault:
            yield error("key-unreadable", where, f"{key.file}: {fault.strerror}")
            continue
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            shown = stat.filemode(mode)
            yield warning("key-mode", where, f"{key.file} is readable by others ({shown}). Run: chmod 600 {key.file}")
        unused = arc.sign is SignBy.RECIPIENT and key.domain.key not in snapshot.routing.local_domains
        if unused:
            yield warning("key-unused", where, f"{key.domain} is no local domain: this key seals nothing")
