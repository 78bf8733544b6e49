"""Bounces: whether a sender elsewhere can be told that delivery failed."""

from __future__ import annotations

from collections.abc import Iterator

from smtproute.core.finding import Finding, warning
from smtproute.core.settings import Mode, Role
from smtproute.core.snapshot import Snapshot

__all__ = ["examine"]


def examine(snapshot: Snapshot) -> Iterator[Finding]:
    """Strangers may send, mail goes on to endpoints, and what is for strangers goes nowhere."""
    settings, default = snapshot.settings, snapshot.routing.default
    inbound = any(listener.role is Role.INBOUND for listener in settings.listeners.values())
    if inbound and settings.endpoints and default.mode is not Mode.ENDPOINT:
        what = (
            f"mail that fails for good is bounced to its sender, and mode = {default.mode} keeps the bounce from"
            ' leaving: nobody is told. Write default = { endpoint = "internet" }, and under [endpoint.internet]'
            ' discover = "recipient".'
        )
        yield warning("bounces-stay", "default", what)
