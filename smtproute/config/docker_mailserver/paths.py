"""Paths of the container, as docker-mailserver's files have them, and where they are on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from posixpath import normpath

__all__ = ["Paths"]

FOLDER = "/tmp/docker-mailserver"
"""Where the container has the folder."""


class Paths:
    """Where the paths that docker-mailserver's files name are on this machine."""

    def __init__(self, folder: Path, mapping: Mapping[str, str]) -> None:
        """`mapping` is the user's own, container path to path here (absolute); it goes first."""
        copied = {
            FOLDER: folder,
            "/etc/opendkim": folder / "opendkim",
            "/etc/rspamd/override.d": folder / "rspamd" / "override.d",
        }
        own = {_normal(path): Path(here) for path, here in mapping.items()}
        known = {**copied, **own}
        self._known = [(path, known[path]) for path in sorted(known, key=lambda path: (path not in own, -len(path)))]

    def host(self, container_path: str) -> Path | None:
        """Where it is here; None where it is in no place that is known, or is no absolute path.

        The user's own mapping goes first, then the longest prefix. `..` is resolved before anything is looked up.
        """
        if not container_path.startswith("/") or "\0" in container_path:
            return None
        path = PurePosixPath(_normal(container_path))
        for known, here in self._known:
            if path.is_relative_to(known):
                return here / path.relative_to(known)
        return None


def _normal(path: str) -> str:
    """Without `.`, `..`, double and trailing slashes."""
    return normpath("/" + path.lstrip("/"))
