"""Sources: the tables that know host names without asking anybody, and the form in which names are looked up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from smtproute.core.address import AddressError, Domain
from smtproute.resolve.files import text_of

__all__ = ["Hosts", "askable", "static_table"]


def askable(name: str) -> str:
    """The name as it is looked up: lower-case A-labels (RFC 5891), no dot at the end.

    Raises AddressError, fit to be shown, for what is no host name: an IP address too.
    """
    domain = Domain.parse(name)
    if domain.literal or domain.key.rpartition(".")[2].isdigit():
        raise AddressError(f"{name!r} is an address, not a host name")
    return domain.key


def static_table(static: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """The static addresses of the configuration by askable name, in its order. A key that nobody can ask is left out.

    Raises ValueError for what is no IP address.
    """
    table = {}
    for name, addresses in static.items():
        try:
            table[askable(name)] = tuple(str(ip_address(address)) for address in addresses)
        except AddressError:
            continue
    return table


class Hosts:
    """The hosts file, hosts(5): read when made and again on `refresh`; a file that cannot be read is an empty one."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._stamp: tuple[int, int, int] | None = None
        self._table: dict[str, tuple[str, ...]] = {}
        self.refresh()

    def find(self, name: str) -> tuple[str, ...]:
        """The addresses of an askable name, IPv4 first, else in the order of the file."""
        return self._table.get(name, ())

    def refresh(self) -> None:
        """Reads the file again if its time, size or inode changed. Blocks for as long as a small local file takes."""
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp != self._stamp:
                self._table = _hosts_table(text_of(self._path))
                self._stamp = stamp
        except OSError:
            self._table, self._stamp = {}, None


def _hosts_table(text: str) -> dict[str, tuple[str, ...]]:
    """A line is an address, then its names; `#` opens a comment. A name may stand on several lines and has them all.

    What is malformed is passed over, a line with its address or one name, as the C library does.
    """
    table: dict[str, list[IPv4Address | IPv6Address]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        try:
            ip = ip_address(address)
        except ValueError:
            continue
        for name in names:
            try:
                table.setdefault(askable(name), []).append(ip)
            except AddressError:
                continue
    return {
        name: tuple(dict.fromkeys(str(ip) for ip in sorted(ips, key=lambda ip: ip.version)))
        for name, ips in table.items()
    }
