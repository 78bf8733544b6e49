"""Relays: what docker-mailserver's scripts make of the relay files and variables, and what Postfix does with that.

The scripts (helpers/relay.sh) write the two tables of `relay_tables`. `DEFAULT_RELAY_HOST` becomes `relayhost`, and
`postfix-main.cf`, which is read last, overrides it all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from smtproute.config.docker_mailserver import quoting
from smtproute.config.docker_mailserver.nexthops import Hop, names, parse_nexthop
from smtproute.config.docker_mailserver.relay_findings import idle, ports, unmatched, unused
from smtproute.config.docker_mailserver.relay_tables import PASSWORDS, RELAYMAP, credentials, hops, written
from smtproute.config.tables import decoded
from smtproute.core.docker_mailserver import Environment, Line
from smtproute.core.finding import Finding
from smtproute.core.relays import Relay, Relays, endpoint_name
from smtproute.core.reply import LOOKUP_FAILED, Refusal, Reply
from smtproute.core.settings import Discover, Endpoint, EndpointTls

__all__ = ["ReadRelays", "read_relays"]

_DUNNO = "dunno"
"""As a next hop: no relay of its own, postconf(5) sender_dependent_relayhost_maps."""
_MALFORMED = Reply(451, "4.3.5", "The relay is not configured properly")


@dataclass(frozen=True, slots=True)
class ReadRelays:
    """What the relay files say."""

    relays: Relays
    endpoints: Mapping[str, Endpoint]
    """By the name that `core.relays.endpoint_name` gives them: one for each next hop with each of its credentials."""
    relaymap: tuple[Line, ...] = ()
    """With opt-out lines, which have no value."""
    passwords: tuple[Line, ...] = field(default=(), repr=False)
    findings: tuple[Finding, ...] = ()


def read_relays(
    relaymap: bytes | None,
    passwords: bytes | None,
    environment: Environment,
    vhost: Sequence[str],
    main: Mapping[str, Line],
) -> ReadRelays:
    """What is relayed where, and as whom. `relaymap` and `passwords` are the two files, None where there is none.

    `vhost` has docker-mailserver's domains, those of accounts and of alias keys, as they are written; `main` the
    parameters of `postfix-main.cf`.
    """
    findings: list[Finding] = []
    mapped = tuple(written(RELAYMAP, relaymap or b""))
    secret = tuple(written(PASSWORDS, passwords or b""))
    relayhost = _relayhost(environment, main)
    configured = relaymap is not None or environment["DEFAULT_RELAY_HOST"] or environment["RELAY_HOST"]

    senders = hops(decoded(relaymap or b""), environment, vhost, findings)
    without = frozenset(key for key, entry in senders.table.entries.items() if entry.value.lower() == _DUNNO)
    by_sender = {
        key: Relay(entry.value, senders.rule(entry.line))
        for key, entry in senders.table.entries.items()
        if key not in without
    }

    login = configured and (passwords is not None or bool(environment["RELAY_USER"] and environment["RELAY_PASSWORD"]))
    known = credentials(passwords, environment, findings) if login else None
    by_login = _yes(main, "smtp_sasl_auth_enable", default=True)
    sender_login = by_login and _yes(main, "smtp_sender_dependent_authentication", default=passwords is not None)
    used: Mapping[str, str] = {}
    rules: Mapping[str, str] = {}
    credentials_fault = ""
    if known is not None and by_login:
        rules = {key: known.rule(entry.line) for key, entry in known.table.entries.items()}
        credentials_fault = known.fault
        if not known.fault:
            used = {key: entry.value for key, entry in known.table.entries.items()}
    # With a fault too: mail that is taken now goes out as this sender once the table is mended.
    by_sender_login = {key: rule for key, rule in rules.items() if "@" in key and sender_login}

    delimiter = main["recipient_delimiter"].value if "recipient_delimiter" in main else "+"
    relays = Relays(by_sender, relayhost, without, by_sender_login, senders.fault, credentials_fault, delimiter)
    tls = _tls(main, encrypt=bool(login))
    endpoints: dict[str, Endpoint] = {}
    parsed: dict[str, tuple[Hop, ...]] = {}
    of_domain: dict[str, list[str]] = {}
    for key in by_sender_login:
        of_domain.setdefault(key.rpartition("@")[2], []).append(key)
    for domain, relay in _all(relays):
        if relay.nexthop not in parsed:
            parsed[relay.nexthop] = parse_nexthop(relay, findings)
        found = parsed[relay.nexthop]
        fault = _fault(relay, found, credentials_fault)
        for key in ("", *(by_sender_login if domain is None else of_domain.get(domain, ()))):
            name = endpoint_name(relay.nexthop, key)
            endpoints[name] = _endpoint(name, found, tls, used.get(key, "") if key else _own(found, used), fault)
    findings += idle(mapped, relays, environment, vhost)
    findings += ports([relay for _, relay in _all(relays)], parsed, tls[0])
    findings += unmatched(rules, relays, parsed, vhost)
    findings += unused(environment, secret, bool(configured), bool(login), main)
    return ReadRelays(relays, endpoints, mapped, secret, tuple(findings))


def _relayhost(environment: Environment, main: Mapping[str, Line]) -> Relay | None:
    line = main.get("relayhost")
    if line is not None:
        return Relay(line.value, line.rule) if line.value else None
    host = environment["DEFAULT_RELAY_HOST"]
    return Relay(host, environment.rule("DEFAULT_RELAY_HOST")) if host else None


def _all(relays: Relays) -> Iterator[tuple[str | None, Relay]]:
    """Each relay with the domain of the senders whose mail it takes, None where they may have any."""
    for key, relay in relays.by_sender.items():
        _, at, domain = key.rpartition("@")
        yield domain if at else None, relay
    if relays.relayhost is not None:
        yield None, relays.relayhost


# Endpoints


def _fault(relay: Relay, found: tuple[Hop, ...], credentials_fault: str) -> Refusal | None:
    """Why mail for this relay waits, as in Postfix's queue."""
    if not found:
        return Refusal(_MALFORMED, relay.rule, f'"{quoting.nexthop(relay.nexthop)}" is no next hop')
    if credentials_fault:
        return Refusal(LOOKUP_FAILED, "relay credentials", credentials_fault)
    return None


def _endpoint(
    name: str, found: tuple[Hop, ...], tls: tuple[EndpointTls, bool], login: str, fault: Refusal | None
) -> Endpoint:
    level, verify = tls
    username, _, password = login.partition(":")
    return Endpoint(
        name,
        servers=tuple(hop.server for hop in found),
        discover=found[0].discover if found else Discover.A,
        tls=level,
        verify=verify,
        username=username,
        password=password,
        relay=True,
        fault=fault,
    )


def _own(found: tuple[Hop, ...], used: Mapping[str, str]) -> str:
    """What is used at a relay where the sender has no credentials: by the server's name, then by the next hop."""
    return next((used[key] for key in names(found[:1]) if key in used), "")


def _yes(main: Mapping[str, Line], name: str, default: bool) -> bool:
    return main[name].value.lower() == "yes" if name in main else default


def _tls(main: Mapping[str, Line], encrypt: bool) -> tuple[EndpointTls, bool]:
    """How relays are spoken to, and whether their certificate is checked: credentials alone never check it."""
    line = main.get("smtp_tls_security_level")
    level = line.value.lower() if line is not None else "encrypt" if encrypt else "may"
    if level in ("none", ""):
        return EndpointTls.NEVER, False
    if level in ("may", "dane"):
        return EndpointTls.PREFER, False
    verify = level in ("verify", "secure")
    if _yes(main, "smtp_tls_wrappermode", default=False):
        return EndpointTls.IMPLICIT, verify
    return EndpointTls.REQUIRE, verify
