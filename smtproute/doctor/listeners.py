"""Listeners: whether their certificates can be used."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

from smtproute.core.finding import Finding, error, warning
from smtproute.core.permit import LOOPBACK, inside
from smtproute.core.settings import Role
from smtproute.doctor.survey import Survey
from smtproute.smtp.listener import ListenerFailed, server_context

__all__ = ["examine"]

_LOOPBACK = tuple(ip_network(each) for each in LOOPBACK)


def examine(survey: Survey) -> Iterator[Finding]:
    """Certificates and keys that do not load or belong together; explanations for strangers."""
    for name, listener in survey.snapshot.settings.listeners.items():
        if listener.debug and listener.role is Role.INBOUND and not inside(listener.host or "0.0.0.0", _LOOPBACK):
            what = (
                "VRFY and EXPN tell every stranger where each alias leads, and how its mail goes on. Bind it to"
                " 127.0.0.1, or leave debug out."
            )
            yield warning("debug-for-strangers", f"listener.{name}.debug", what, "debug = false")
        try:
            server_context(listener)
        except ListenerFailed as fault:
            yield error("certificate", f"listener.{name}", str(fault))
