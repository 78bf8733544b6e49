"""The network of a stage: production's addresses and ports, each standing on a port of loopback. Nothing leaves."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

from smtproute.world import Network, Place, dial

__all__ = ["RelayNetwork", "StagedNetwork", "blackhole"]


class StagedNetwork(Network):
    """A `world.Network`: what was not put on the stage refuses the connection, loopback excepted."""

    def __init__(self) -> None:
        self.unroutable: set[str] = set()
        """IP addresses without a route."""
        self._places: dict[str, dict[int, Place]] = {}
        self._listening: set[Place] = set()
        """Where relays of the stage listen, who ask who calls."""
        self._callers: dict[Place, Place] = {}
        self._lines: dict[Place, socket.socket] = {}
        """Between two relays of the stage, by the place from which the one calls that sends."""

    def put(self, ip: str, place: Place, port: int = 0) -> None:
        """From now on, connections to this address and port (0: to each port) are made to `place`."""
        self._places.setdefault(_plain(ip), {})[port] = place

    def take_away(self, ip: str, port: int = 0) -> None:
        """Connections to it are refused from now on."""
        self._places.get(_plain(ip), {}).pop(port, None)

    def holds(self, ip: str) -> bool:
        """Whether something stands at this address."""
        return bool(self._places.get(_plain(ip)))

    def listens(self, place: Place) -> None:
        """A relay of the stage listens at this place of loopback."""
        self._listening.add(place)

    async def connect(self, place: Place, ip: str = "", *, relay: bool = False) -> socket.socket:
        """As `Network.connect`. A relay that listens there takes the client for one at this IP address.

        `relay`: the client is a relay of the stage itself. Raises OSError.
        """
        place = self.route(place)

        def began(connection: socket.socket) -> None:
            if place not in self._listening:
                return
            connection.bind(("::1" if connection.family is socket.AF_INET6 else "127.0.0.1", 0))
            here = connection.getsockname()[:2]
            claimed = (ip or here[0], here[1])
            self._callers[here] = claimed
            if relay:
                self._lines[claimed] = connection

        return await dial(place, began)

    def line(self, place: Place) -> bool:
        """Whether a relay of the stage calls from this place: it may keep its connection for its next message."""
        line = self._lines.get(place)
        return line is not None and line.fileno() >= 0

    def route(self, place: Place) -> Place:
        """Where a connection to this place is really made. Raises OSError where there is nothing to connect to."""
        ip, port = place
        if not self.routed(ip):
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
        return _plain(ip) not in {_plain(each) for each in self.unroutable}

    def caller(self, place: Place) -> Place:
        return self._callers.pop(place, place)


class RelayNetwork(Network):
    """The network of a stage as one relay has it, which calls from an address of its own."""

    def __init__(self, stage: StagedNetwork, ip: Callable[[], str]) -> None:
        """`ip` tells that address; where it is empty, the relay calls from loopback."""
        self._stage = stage
        self._ip = ip
        self.connections = 0
        """How many clients have connected so far."""

    async def connect(self, place: Place) -> socket.socket:
        return await self._stage.connect(place, self._ip(), relay=True)

    def routed(self, ip: str) -> bool:
        return self._stage.routed(ip)

    def caller(self, place: Place) -> Place:
        self.connections += 1
        return self._stage.caller(place)


@contextmanager
def blackhole(host: str = "127.0.0.1") -> Iterator[int]:
    """A port that answers no attempt to connect, as behind a firewall that drops: its queue is full."""
    with socket.create_server((host, 0), backlog=0) as full, socket.socket() as first, socket.socket() as second:
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        yield full.getsockname()[1]


def _plain(ip: str) -> str:
    """One text for each address."""
    return str(ip_address(ip))
