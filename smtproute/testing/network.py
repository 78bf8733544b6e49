"""The network of a stage: production's addresses and ports, each standing on a port of loopback. Nothing leaves."""

from __future__ import annotations

import errno
import os
from ipaddress import ip_address

from smtproute.world import Network, Place

__all__ = ["StagedNetwork"]


class StagedNetwork(Network):
    """A `world.Network`: what was not put on the stage refuses the connection, loopback excepted."""

    def __init__(self) -> None:
        self.unroutable: set[str] = set()
        """IP addresses without a route."""
        self._places: dict[str, dict[int, Place]] = {}
        self._callers: dict[Place, Place] = {}

    def put(self, ip: str, place: Place, port: int = 0) -> None:
        """From now on, connections to this address and port (0: to each port) are made to `place`."""
        self._places.setdefault(_plain(ip), {})[port] = place

    def take_away(self, ip: str, port: int = 0) -> None:
        """Connections to it are refused from now on."""
        self._places.get(_plain(ip), {}).pop(port, None)

    def holds(self, ip: str) -> bool:
        """Whether something stands at this address."""
        return bool(self._places.get(_plain(ip)))

    def call(self, place: Place, claimed: Place) -> None:
        """A client that connects from `place` is taken for one at the `claimed` place."""
        self._callers[place] = claimed

    def route(self, place: Place) -> Place:
        ip, port = place
        if ip in self.unroutable:
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        standing = self._places.get(_plain(ip))
        if standing is None:
            if ip_address(ip).is_loopback:
                return place
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        found = standing.get(port) or standing.get(0)
        if found is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        return found

    def routed(self, ip: str) -> bool:
        return ip not in self.unroutable

    def caller(self, place: Place) -> Place:
        return self._callers.pop(place, place)


def _plain(ip: str) -> str:
    """One text for each address."""
    return str(ip_address(ip))
