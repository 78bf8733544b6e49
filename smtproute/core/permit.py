"""Permit: who may send at all, and who may send where. It comes before routing."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import assert_never

from smtproute.core.reply import Reply
from smtproute.core.settings import Auth, AuthInClear, Listener, Network, Role

__all__ = ["LOOPBACK", "STRANGER", "admits", "inside", "logs_in", "takes_logins", "trusts"]

LOOPBACK = ("127.0.0.0/8", "::1/128")
"""The default `trusted_networks` where only those may connect, and what `auth_in_clear = "loopback"` exempts."""

STRANGER = Reply(554, "5.7.1", "This listener serves trusted networks only, and your address is in none of them")
"""What a listener for `trusted_networks` alone answers to everybody else, at connect."""


def inside(ip: str, networks: tuple[Network, ...]) -> bool:
    """Whether the address is in one of the networks. An IPv4-mapped IPv6 address counts as the IPv4 one."""
    address = ip_address(ip.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        address = mapped
    return any(address.version == network.version and address in network for network in networks)


def trusts(listener: Listener, ip: str) -> bool:
    """Whether a client at `ip` may send anywhere through this listener (Postfix permit_mynetworks).

    For submission it is who has logged in that counts, wherever from, unless everybody can.
    """
    by_login = listener.role is Role.SUBMISSION and listener.auth is Auth.ACCOUNTS
    return not by_login and inside(ip, listener.trusted_networks)


def admits(listener: Listener, ip: str) -> bool:
    """Whether a client at `ip` may speak at all.

    A trusted listener refuses strangers at connect. So does one where every login is good: it would relay for all.
    """
    closed = listener.role is Role.TRUSTED or listener.auth is Auth.ANY
    return not closed or trusts(listener, ip)


def takes_logins(listener: Listener) -> bool:
    """Whether clients can log in here, if only under TLS."""
    return listener.role is Role.SUBMISSION or listener.auth is Auth.ANY


def logs_in(listener: Listener, ip: str, *, tls: bool) -> bool:
    """Whether a client at `ip` may log in: by submission, and under TLS unless it is exempted; or anyhow."""
    if not takes_logins(listener):
        return False
    if listener.auth is Auth.ANY:
        return True
    match listener.auth_in_clear:
        case AuthInClear.NEVER:
            return tls
        case AuthInClear.LOOPBACK:
            return tls or inside(ip, tuple(ip_network(network) for network in LOOPBACK))
        case _:
            assert_never(listener.auth_in_clear)
