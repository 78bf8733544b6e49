"""Listeners: whether their certificates can be used."""

from __future__ import annotations

from collections.abc import Iterator

from smtproute.core.snapshot import Snapshot
from smtproute.doctor.finding import Finding, Severity
from smtproute.smtp.listener import ListenerFailed, server_context

__all__ = ["examine"]


def examine(snapshot: Snapshot) -> Iterator[Finding]:
    """Certificates and keys that do not load, or do not belong together."""
    for name, listener in snapshot.settings.listeners.items():
        try:
            server_context(listener)
        except ListenerFailed as fault:
            yield Finding(Severity.ERROR, f"listener.{name}", str(fault))
