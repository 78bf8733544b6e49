"""Endpoints: ports that contradict `tls`; names that an entry hides from DNS; servers that do not take mail now.

What takes a network has been gathered before, and comes as values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from shlex import quote

from smtproute.core.finding import Finding, error, warning
from smtproute.core.settings import Endpoint, EndpointTls, Server, Source
from smtproute.delivery.probe import Probe
from smtproute.doctor.survey import Survey, listed
from smtproute.resolve.hidden import Hidden
from smtproute.resolve.lastgood import goes_on

__all__ = ["EXPIRES", "doubled", "examine", "reached"]

EXPIRES = 14
"""Days before its end from which a certificate is worth a warning."""
_IMPLICIT_PORT = 465
_STARTTLS_PORTS = (25, 587)


def examine(survey: Survey) -> Iterator[Finding]:
    """Servers on a port where `tls` waits for what never comes. docker-mailserver's relays are its own."""
    for endpoint in survey.snapshot.settings.endpoints.values():
        if endpoint.relay:
            continue
        if endpoint.tls is EndpointTls.IMPLICIT:
            yield from _starttls_ports(endpoint)
        else:
            yield from _implicit_port(endpoint)


def _implicit_port(endpoint: Endpoint) -> Iterator[Finding]:
    servers = _servers(endpoint)
    wrapped = [each for each in servers if each.port == _IMPLICIT_PORT]
    if wrapped:
        what = (
            f"{listed([str(each) for each in wrapped])}: on port 465 TLS begins with the connection (RFC 8314 3.3), and"
            f' tls = "{endpoint.tls}" waits for a greeting in plain text that never comes: no mail gets through.'
        )
        mend = 'tls = "implicit"' if wrapped == servers else f'"{wrapped[0].host}:587"'
        yield warning("port-465-without-implicit", f"endpoint.{endpoint.name}.tls", what, mend)


def _starttls_ports(endpoint: Endpoint) -> Iterator[Finding]:
    servers = _servers(endpoint)
    plain = [each for each in servers if each.port in _STARTTLS_PORTS]
    if plain:
        what = (
            f"{listed([str(each) for each in plain])}: on ports 25 and 587 a connection begins in plain text (RFC 6409"
            ' 3.1), and tls = "implicit" begins with TLS, which the server does not understand: no mail gets through.'
        )
        mend = 'tls = "require"' if plain == servers else f'"{plain[0].host}:465"'
        yield warning("implicit-without-port-465", f"endpoint.{endpoint.name}.tls", what, mend)


def _servers(endpoint: Endpoint) -> list[Server]:
    return [*endpoint.servers, *endpoint.backup]


def doubled(hidden: Sequence[Hidden], hosts_file: str) -> Iterator[Finding]:
    """Names of endpoints that a static or hosts entry answers, and DNS would answer too."""
    for each in hidden:
        host, static = each.used.host, each.source is Source.STATIC
        entry, dns = (", ".join(found.ip for found in answer.addresses) for answer in (each.used, each.dns))
        said = f"{dns}, and is not asked" if each.differs else "the same"
        what = (
            f"{host} is {entry} by this entry; DNS ({each.dns.asked}) says {said}. Mail goes to the entry's address,"
            " whatever changes in DNS. Remove the entry: DNS is where an address is changed once for everybody, and"
            " its changes are watched."
        )
        where = f'resolver.static."{host}"' if static else hosts_file
        yield warning("static-hides-dns" if static else "hosts-hides-dns", where, what)


def reached(probes: Sequence[Probe], stale: float) -> Iterator[Finding]:
    """Endpoints of which no address, or not every address, took a dry run; certificates that are about to expire.

    `stale`: as `resolver.stale`.
    """
    for endpoint, group in groupby(probes, lambda probe: probe.hop.trial.endpoint):
        made = list(group)
        where = endpoint.name if endpoint.relay or endpoint.lmtp else f"endpoint.{endpoint.name}"
        refused = [probe for probe in made if probe.postmaster_refused]
        failed = [probe for probe in made if not probe.ok and probe not in refused]
        mend = f"smtproute endpoints {quote(endpoint.name)} --probe"
        if len(failed) == len(made):
            what = f"No server takes mail now: {_told(failed)}.{_meanwhile(failed, stale)}"
            yield error("endpoint-unreachable", where, what, mend)
        elif failed:
            what = f"Mail goes to its other addresses; these take none now: {_told(failed)}.{_meanwhile(failed, stale)}"
            yield warning("server-unreachable", where, what, mend)
        if refused:
            what = (
                f"It takes connections, and refuses RCPT TO:<{refused[0].hop.trial.recipient or 'postmaster'}>:"
                f" {_told(refused)}: RFC 5321 4.5.1 wants that taken. Try an address that it has."
            )
            yield warning("postmaster-refused", where, what, f"{mend} --to ADDRESS")
        ending = list(dict.fromkeys(_ending(probe) for probe in made if _expires(probe)))
        if ending:
            what = f"{' '.join(ending)} Once it has expired, no mail gets through there."
            yield warning("certificate-expires", where, what)


def _told(probes: Sequence[Probe]) -> str:
    return "; ".join(str(probe) for probe in probes)


def _meanwhile(probes: Sequence[Probe], stale: float) -> str:
    """What goes on where DNS fails."""
    said = goes_on(stale) if any(probe.hop.unanswered for probe in probes) else ""
    return f" Where DNS fails, {said}." if said else ""


def _expires(probe: Probe) -> bool:
    """Whether a good certificate, that is verified, ends soon."""
    return probe.verified and probe.certificate is not None and probe.certificate.days(probe.at) < EXPIRES


def _ending(probe: Probe) -> str:
    assert probe.certificate is not None
    until = datetime.fromtimestamp(probe.certificate.expires, UTC)
    return f"The certificate of {probe.hop} expires on {until:%Y-%m-%d at %H:%M} (UTC)."
