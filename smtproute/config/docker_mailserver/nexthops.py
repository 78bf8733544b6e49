"""Next hops, as Postfix's smtp client reads `relayhost` and what stands for it: `[host]:port`, or a list of such."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from smtproute.config.docker_mailserver import quoting
from smtproute.core.address import AddressError, Domain, written_ip
from smtproute.core.finding import Finding, error, warning
from smtproute.core.relays import Relay
from smtproute.core.settings import Discover, Server

__all__ = ["Hop", "names", "parse_nexthop"]


@dataclass(frozen=True, slots=True)
class Hop:
    """One destination of a next hop."""

    written: str
    server: Server
    discover: Discover
    ip: bool


_HOP = re.compile(r"(?:\[(?P<exact>[^\[\]]+)\]|(?P<name>[^\[\]:]+))(?::(?P<port>[A-Za-z0-9-]+))?")
_SERVICES = {"smtp": 25, "submission": 587, "submissions": 465, "smtps": 465}


def parse_nexthop(relay: Relay, findings: list[Finding]) -> tuple[Hop, ...]:
    """The destinations of a next hop in the order in which Postfix tries them; none where the first is malformed."""
    hops: list[Hop] = []
    for written in re.split(r"[,\s]+", relay.nexthop):
        hop = _hop(written)
        if hop is None:
            what = f'"{quoting.nexthop(written)}" is no next hop: '
            what += "it is skipped." if hops else "mail for this relay is deferred."
            findings.append(error("relay-syntax", relay.rule, what, _mended(written)))
            if not hops:
                return ()
        elif hops and hop.discover is not hops[0].discover:
            shown = quoting.nexthop(written)
            what = f'"{shown}" is not used here: of several next hops, all are with brackets or none is.'
            findings.append(warning("relay-syntax", relay.rule, what))
        else:
            if hop.ip:
                findings.append(_by_address(relay, hop))
            hops.append(hop)
    return tuple(hops)


def _hop(written: str) -> Hop | None:
    match = _HOP.fullmatch(written)
    if match is None:
        return None
    port = match["port"] or "25"
    number = _SERVICES.get(port.lower(), int(port) if port.isdecimal() and len(port) < 6 else 0)
    if not 0 < number < 65536:
        return None
    host = match["exact"] or match["name"]
    if match["exact"] and host.lower().startswith("ipv6:"):
        host = host[5:]
    ip = written_ip(host) is not None
    if not ip:
        try:
            Domain.parse(host)
        except AddressError:
            return None
    return Hop(written, Server(host, number), Discover.A if match["exact"] else Discover.MX, ip)


def _by_address(relay: Relay, hop: Hop) -> Finding:
    address = hop.server.host
    what = f"{address} is an IP address: it breaks when the server moves, and no certificate can be checked."
    instead = f"[smtp.example.org]:{hop.server.port}"
    if hop.discover is Discover.MX:
        what = f"{address} stands without brackets: Postfix asks for its MX, and an IP address has none."
        instead = f"[{address}]:{hop.server.port}"
    return warning("relay-ip", relay.rule, what, instead)


def _mended(written: str) -> str:
    """A next hop that was meant, if that is plain to see: brackets or a port where the scripts add them again."""
    words = re.findall(r"[A-Za-z0-9][A-Za-z0-9.-]*", written)
    if not words or not any("." in word for word in words[:1]):
        return "[smtp.example.org]:587"
    port = next((word for word in words[1:] if word.isdecimal()), "25")
    return f"[{words[0]}]:{port}"


def names(hops: tuple[Hop, ...]) -> Iterator[str]:
    """The keys by which a relay's own credentials are found; which names its MX have cannot be known here."""
    for hop in hops:
        if hop.discover is Discover.A:
            yield hop.server.host.lower()
        yield hop.written.lower()
