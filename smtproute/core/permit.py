"""Permit: who may send at all, and who may send where. It comes before routing."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import assert_never

from smtproute.core.reply import Reply
from smtproute.core.settings import AuthInClear, Listener, Network, Role

__all__ = ["LOOPBACK", "STRANGER", "admits", "inside", "logs_in", "trusts"]

LOOPBACK = ("127.0.0.0/8", "::1/128")
"""The default `trusted_networks` of a trusted listener, and what `auth_in_clear = "loopback"` exempts."""

STRANGER = Reply(554, "5.7.1", "This listener serves trusted networks only, and your address is in none of them")
"""What a trusted listener answers to everybody else, at connect."""


def inside(ip: str, networks: tuple[Network, ...]) -> bool:
    """Whether the address is in one of the networks. An IPv4-mapped IPv6 address counts as the IPv4 one."""
    address = ip_address(ip.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        address = mapped
    return any(address.version == network.version and address in network for network in networks)


def trusts(listener: Listener, ip: str) -> bool:
    """Whether a client at `ip` may send anywhere through this listener (Postfix permit_mynetworks).

    For submission it is who has logged in that counts, wherever from.
    """
    return listener.role is not Role.SUBMISSION and inside(ip, listener.trusted_networks)


def admits(listener: Listener, ip: str) -> bool:
    """Whether a client at `ip` may speak at all: a trusted listener refuses strangers at connect."""
    return listener.role is not Role.TRUSTED or trusts(listener, ip)


def logs_in(listener: Listener, ip: str, *, tls: bool) -> bool:
    """Whether a client at `ip` may log in: by submission, and under TLS unless it is exempted."""
    if listener.role is not Role.SUBMISSION:
        return False
    match listener.auth_in_clear:
        case AuthInClear.NEVER:
            return tls
        case AuthInClear.LOOPBACK:
            return tls or inside(ip, tuple(ip_network(network) for network in LOOPBACK))
        case _:
            assert_never(listener.auth_in_clear)
