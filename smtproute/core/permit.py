"""Permit: who may send at all, and who may send where. It comes before routing."""

from __future__ import annotations

from ipaddress import ip_address

from smtproute.core.reply import Reply
from smtproute.core.settings import Listener, Network, Role

__all__ = ["LOOPBACK", "STRANGER", "admits", "inside", "trusts"]

LOOPBACK = ("127.0.0.0/8", "::1/128")
"""The default `trusted_networks` of a trusted listener."""

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
    """Whether a client at `ip` may send anywhere through this listener (Postfix permit_mynetworks)."""
    return inside(ip, listener.trusted_networks)


def admits(listener: Listener, ip: str) -> bool:
    """Whether a client at `ip` may speak at all: a trusted listener refuses strangers at connect."""
    return listener.role is not Role.TRUSTED or trusts(listener, ip)
