"""Bounces: whether a sender elsewhere can be told that delivery failed."""

from __future__ import annotations

from collections.abc import Iterator

from smtproute.core.finding import Finding, warning
from smtproute.core.settings import Mode, Role
from smtproute.doctor.survey import Survey

__all__ = ["examine"]


def examine(survey: Survey) -> Iterator[Finding]:
    """Strangers may send, mail goes on to endpoints, and what is for strangers goes nowhere."""
    settings, default = survey.snapshot.settings, survey.snapshot.routing.default
    if survey.routing.relays.relayhost is not None:
        return  # it takes the bounces
    inbound = any(listener.role is Role.INBOUND for listener in settings.listeners.values())
    if inbound and settings.endpoints and default.mode is not Mode.ENDPOINT:
        what = (
            f"Mail that fails for good is bounced to its sender, and mode = {default.mode} keeps the bounce from"
            " leaving: nobody is told."
        )
        mend = 'default = { endpoint = "internet" }\n[endpoint.internet]\ndiscover = "recipient"'
        yield warning("bounces-stay", "default", what, mend)
