"""Relay findings: the lines and variables about relays that have no effect, or another one than was meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from smtproute.config.docker_mailserver import quoting
from smtproute.config.docker_mailserver.nexthops import Hop, names
from smtproute.config.docker_mailserver.relay_tables import LOGIN, PASSWORDS, RELAYMAP, env_relay
from smtproute.core.docker_mailserver import Environment, Line
from smtproute.core.finding import Finding, error, warning
from smtproute.core.relays import Relay, Relays
from smtproute.core.settings import EndpointTls

__all__ = ["idle", "ports", "unmatched", "unused"]

_NULL_SENDER = "<>"
"""How the null sender is looked up (Postfix empty_address_relayhost_maps_lookup_key)."""
_UNREAD = ("sender_dependent_relayhost_maps", "smtp_sasl_password_maps", "transport_maps", "smtp_tls_policy_maps")
"""Parameters of postfix-main.cf that replace the tables, or overrule them."""


def idle(
    relaymap: tuple[Line, ...], relays: Relays, environment: Environment, vhost: Iterable[str]
) -> Iterator[Finding]:
    """The lines of postfix-relaymap.cf that can have no effect."""
    domains = {domain.lower() for domain in vhost}
    for line in relaymap:
        local, at, domain = line.key.rpartition("@")

        def without_effect(what: str, instead: str = "", line: Line = line) -> Finding:
            return warning("relay-no-effect", line.rule, what, instead)

        if not at:
            if line.key != _NULL_SENDER:
                what = f'"{line.key}" is hardly ever asked for: Postfix asks for user@domain, then for @domain.'
                yield without_effect(what, f"@{line.key} {line.value}".rstrip())
        elif not line.value and local:
            yield without_effect(f"Only whole domains can opt out of RELAY_HOST: {line.key} does not.", f"@{domain}")
        elif not line.value and not environment["RELAY_HOST"]:
            what = f"{line.key} opts out of RELAY_HOST, which is not set: the line has no effect."
            if relays.relayhost is not None:
                hop = quoting.nexthop(relays.relayhost.nexthop)
                what += f" Its mail goes to {hop} ({relays.relayhost.rule}) all the same."
            yield without_effect(what)
        elif not line.value and f"@{domain.lower()}" in relays.by_sender:
            found = relays.by_sender[f"@{domain.lower()}"]
            yield without_effect(f"{line.key} opts out of RELAY_HOST, and has a relay all the same ({found.rule}).")
        elif not line.value and relays.relayhost is not None:
            hop, rule = quoting.nexthop(relays.relayhost.nexthop), relays.relayhost.rule
            yield without_effect(f"{line.key} opts out of RELAY_HOST, but its mail goes to {hop} then ({rule}).")
        elif domain.lower() not in domains:
            what = f"No account and no alias has the domain {domain}: only forwarded mail can have such a sender."
            yield without_effect(what)


def ports(relays: Iterable[Relay], parsed: Mapping[str, tuple[Hop, ...]], tls: EndpointTls) -> Iterator[Finding]:
    """The relays at port 465, which greets nobody before TLS; each rule once."""
    if tls is EndpointTls.IMPLICIT:
        return
    for relay in dict.fromkeys(relays):
        for hop in parsed[relay.nexthop]:
            if hop.server.port == 465:
                what = (
                    f"{hop.written} expects TLS from the first octet, and this setup begins in plain text (STARTTLS): "
                    "both sides wait for each other, and the mail is deferred."
                )
                yield error("relay-no-effect", relay.rule, what, hop.written.rpartition(":")[0] + ":587")


def unmatched(
    rules: Mapping[str, str], relays: Relays, parsed: Mapping[str, tuple[Hop, ...]], vhost: Iterable[str]
) -> Iterator[Finding]:
    """The credentials, each with its rule, that no relay and no sender can have."""
    domains = {domain.lower() for domain in vhost}
    reached = {name for hops in parsed.values() for name in names(hops)}
    for key, rule in rules.items():
        domain, shown = key.rpartition("@")[2], quoting.key(key)
        if "@" not in key:
            if key not in reached:
                known = " and ".join(sorted({hop.written for hops in parsed.values() for hop in hops})) or "none"
                what = f'"{shown}" is not, letter by letter, one of the next hops (there is {known}): nobody gets them.'
                yield warning("relay-credentials", rule, what, _nearest(key, parsed))
        elif key not in relays.credentials:
            what = f"The credentials of {shown} are not asked for: smtp_sender_dependent_authentication is off."
            yield warning("relay-credentials", rule, what)
        elif domain not in domains:
            named = quoting.head(domain)
            what = f"No account and no alias has the domain {named}: only forwarded mail can have such a sender."
            yield warning("relay-credentials", rule, what)
        elif relays.relayhost is None and not any(each.rpartition("@")[2] == domain for each in relays.by_sender):
            what = (
                f"No relay takes the mail of {shown}: Postfix would show these credentials to whichever server the "
                "recipient's domain has."
            )
            yield warning("relay-credentials", rule, what, f"{shown} [smtp.example.org]:587 (in {RELAYMAP})")


def _nearest(key: str, parsed: Mapping[str, tuple[Hop, ...]]) -> str:
    """The line for the next hop that was meant: the one of the same host, or the only one."""
    hops = [hop for found in parsed.values() for hop in found]
    host = key.strip("[").partition("]")[0].partition(":")[0]
    meant = [hop for hop in hops if hop.server.host.lower() == host] or (hops if len(hops) == 1 else [])
    return f"{meant[0].written} {LOGIN}" if meant else ""


def unused(
    environment: Environment, passwords: tuple[Line, ...], configured: bool, login: bool, main: Mapping[str, Line]
) -> Iterator[Finding]:
    """What is set and not used."""
    if passwords and not configured:
        what = (
            f"{PASSWORDS} is only read where there is {RELAYMAP}, RELAY_HOST or DEFAULT_RELAY_HOST: nobody gets these "
            "credentials."
        )
        yield warning("relay-credentials", passwords[0].rule, what)
    user, password = environment["RELAY_USER"], environment["RELAY_PASSWORD"]
    default, host = environment["DEFAULT_RELAY_HOST"], environment["RELAY_HOST"]
    if bool(user) != bool(password):
        written, missing = ("RELAY_USER", "RELAY_PASSWORD") if user else ("RELAY_PASSWORD", "RELAY_USER")
        what = f"{written} is set and {missing} is not: nobody logs in with it."
        yield warning("relay-credentials", environment.rule(written), what)
    elif user and not (default or host):
        what = "RELAY_USER is for RELAY_HOST or DEFAULT_RELAY_HOST, and neither is set: nobody logs in with it."
        if login:
            what += " Yet all mail to other places needs TLS now."
        yield warning("relay-credentials", environment.rule("RELAY_USER"), what)
    elif user and default and host:
        one, other = quoting.nexthop(default), quoting.nexthop(env_relay(environment))
        what = f"RELAY_USER logs in at DEFAULT_RELAY_HOST ({one}) only, not at RELAY_HOST ({other})."
        yield warning("relay-credentials", environment.rule("RELAY_USER"), what)
    for name in _UNREAD:
        if name in main:
            what = f"{name} is not read: next hops and credentials are those of docker-mailserver's own files here."
            yield warning("not-simulated", main[name].rule, what)
