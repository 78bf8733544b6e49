"""Listeners: whether their certificates can be used, and whom they serve."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

from smtproute.core.finding import Finding, error, warning
from smtproute.core.permit import LOOPBACK, inside
from smtproute.core.settings import Auth, Role
from smtproute.doctor.survey import Survey
from smtproute.smtp.listener import ListenerFailed, server_context

__all__ = ["examine"]

_LOOPBACK = tuple(ip_network(each) for each in LOOPBACK)


def examine(survey: Survey) -> Iterator[Finding]:
    """Certificates and keys that do not load or belong together; trust in everybody; explanations for strangers."""
    for name, listener in survey.snapshot.settings.listeners.items():
        if any(network.prefixlen == 0 for network in listener.trusted_networks):
            what = "Whoever can connect may send anywhere: as soon as others reach the port, they send spam through it."
            if listener.auth is Auth.ANY:
                what += ' The login keeps nobody out: auth = "any" takes every one.'
            instead = 'trusted_networks = ["10.0.0.0/8"], with the networks of your own machines'
            yield warning("open-relay", f"listener.{name}.trusted_networks", what, instead)
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
