"""Postfix: `postfix-main.cf`, whose parameters go behind docker-mailserver's own main.cf and so override it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from ipaddress import ip_network

from smtproute.config.tables import decoded, logical_lines
from smtproute.core.address import AddressError, Domain
from smtproute.core.docker_mailserver import Environment, Line
from smtproute.core.finding import Finding, error, warning
from smtproute.core.settings import Network

__all__ = ["MAIN", "Overrides", "overrides", "permitted", "read_main"]

MAIN = "postfix-main.cf"

_ROUTING = (
    "alias_database",
    "alias_maps",
    "allow_percent_hack",
    "always_bcc",
    "append_at_myorigin",
    "append_dot_mydomain",
    "*_bcc_maps",
    "*body_checks",
    "*canonical_classes",
    "*canonical_maps",
    "content_filter",
    "default_transport",
    "dms_smtpd_sender_restrictions",
    "fallback_transport*",
    "*header_checks",
    "local_recipient_maps",
    "local_transport",
    "luser_relay",
    "mailbox_command*",
    "mailbox_transport*",
    "masquerade_*",
    "*milters",
    "mua_*_restrictions",
    "mydomain",
    "myhostname",
    "myorigin",
    "parent_domain_matches_subdomains",
    "propagate_unmatched_extensions",
    "receive_override_options",
    "relay_domains",
    "relay_recipient_maps",
    "relay_transport",
    "relocated_maps",
    "sender_dependent_default_transport_maps",
    "smtp_fallback_relay",
    "smtp_generic_maps",
    "smtpd_proxy_filter",
    "smtpd_reject_unlisted_*",
    "smtpd_restriction_classes",
    "smtpd_*_restrictions",
    "smtpd_sender_login_maps",
    "virtual_alias_expansion_limit",
    "virtual_alias_recursion_limit",
    "virtual_mailbox_domains",
    "virtual_mailbox_limit*",
    "virtual_mailbox_maps",
    "virtual_transport",
)
"""Parameters that change where mail goes, or whether it is taken, and are not simulated. (The relays' own are
reported with the relays.)"""

_TEXT = ("texthash", "hash", "btree", "lmdb", "cdb", "dbm")
"""Kinds of tables that are made of a text in postmap(1) format."""


def read_main(octets: bytes) -> tuple[Mapping[str, Line], tuple[Finding, ...]]:
    """The parameters by name, the last line of each, and what is wrong with the lines."""
    parameters: dict[str, Line] = {}
    findings: list[Finding] = []
    for number, text in logical_lines(decoded(octets)):
        rule = f"{MAIN}:{number}"
        if text[0].isspace():
            what = (
                "A line that begins with white space continues the last line of docker-mailserver's own main.cf,"
                " compatibility_level, and makes it invalid: Postfix does not start."
            )
            findings.append(error("leading-space", rule, what, text.strip()))
            continue
        name, equals, value = text.partition("=")
        if not equals or re.fullmatch(r"\S+", name.strip()) is None:
            what = f'"{text.strip()}" is no parameter: Postfix does not start.'
            findings.append(error("main-line", rule, what, f"{next(iter(name.split()), 'name')} = value"))
            continue
        parameters[name.strip()] = Line(rule, name.strip(), value.strip())
    return parameters, tuple(findings)


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the parameters change; None is what docker-mailserver has without them."""

    delimiter: str | None = None
    networks: tuple[Network, ...] | None = None
    message_size: int | None = None
    """Octets; 0 is no limit."""
    destinations: Mapping[str, str] | None = None
    """Domain.key to the rule."""
    alias_domains: Mapping[str, str] | None = None
    """The same of domains that have aliases only; None: those that the alias tables have bare."""
    tables: tuple[tuple[str, str, str], ...] | None = None
    """The alias tables: kind ("texthash" or "pcre"), path in the container, rule."""
    findings: tuple[Finding, ...] = ()


def overrides(main: Mapping[str, Line], hostname: str, domain: str) -> Overrides:
    """What these parameters change. `hostname` and `domain` are docker-mailserver's (myhostname, mydomain)."""
    reader = _Reader(main, {"myhostname": hostname, "mydomain": domain, "myorigin": hostname})
    for name, line in main.items():
        emptied = name.endswith("_checks") and not line.value  # what rewrote or refused mail no longer does
        if not emptied and any(fnmatchcase(name, pattern) for pattern in _ROUTING):
            what = f"{name} changes what happens to mail, and is not simulated: production may decide otherwise."
            reader.findings.append(warning("not-simulated", line.rule, what))
    delimiter = main.get("recipient_delimiter")
    return Overrides(
        delimiter=None if delimiter is None else delimiter.value,
        networks=reader.networks(),
        message_size=reader.size(),
        destinations=reader.domains("mydestination"),
        alias_domains=reader.alias_domains(),
        tables=reader.tables(),
        findings=tuple(reader.findings),
    )


@dataclass(slots=True)
class _Reader:
    main: Mapping[str, Line]
    known: Mapping[str, str]
    """Values of parameters that others may name."""
    findings: list[Finding] = field(default_factory=list)

    def networks(self) -> tuple[Network, ...] | None:
        if "mynetworks" not in self.main:
            return None
        found: list[Network] = []
        for word in self._words("mynetworks"):
            bare = word.replace("[", "").replace("]", "")
            try:
                found.append(ip_network(bare))
            except ValueError:
                self._unread("mynetworks", word)
        return tuple(found)

    def size(self) -> int | None:
        line = self.main.get("message_size_limit")
        if line is None:
            return None
        if re.fullmatch(r"[0-9]{1,18}", line.value) is None:
            what = f'"{line.value}" is no number of octets: Postfix does not start.'
            self.findings.append(error("main-line", line.rule, what, "message_size_limit = 10240000"))
            return None
        return int(line.value)

    def domains(self, name: str) -> Mapping[str, str] | None:
        """The domains that a parameter lists; None where it is not written."""
        line = self.main.get(name)
        if line is None:
            return None
        found: dict[str, str] = {}
        for word in self._words(name):
            try:
                found.setdefault(Domain.parse(word).key, line.rule)
            except AddressError:
                self._unread(name, word)
        return found

    def alias_domains(self) -> Mapping[str, str] | None:
        line = self.main.get("virtual_alias_domains")
        if line is None or re.fullmatch(r"\$(virtual_alias_maps|[({]virtual_alias_maps[)}])", line.value):
            return None
        return self.domains("virtual_alias_domains")

    def tables(self) -> tuple[tuple[str, str, str], ...] | None:
        line = self.main.get("virtual_alias_maps")
        if line is None:
            return None
        found = []
        for word in self._words("virtual_alias_maps"):
            kind, _, path = word.partition(":")
            if kind in (*_TEXT, "pcre") and path.startswith("/"):
                found.append(("pcre" if kind == "pcre" else "texthash", path, line.rule))
            else:
                self._unread("virtual_alias_maps", word)
        return tuple(found)

    def _words(self, name: str) -> Iterator[str]:
        """The words of a list, each `$name` in them replaced where its value is known."""
        for word in re.split(r"[\s,]+", self.main[name].value):
            if word:
                yield re.sub(r"\$(?:\{(\w+)\}|\((\w+)\)|(\w+))", self._value, word)

    def _value(self, found: re.Match[str]) -> str:
        name = found[1] or found[2] or found[3]
        line = self.main.get(name)
        return self.known.get(name, found[0]) if line is None or "$" in line.value else line.value

    def _unread(self, name: str, word: str) -> None:
        what = f'"{word}" in {name} is not simulated: production may decide otherwise.'
        self.findings.append(warning("not-simulated", self.main[name].rule, what))


_OWN = ("127.0.0.0/8", "::1/128", "fe80::/64")
"""docker-mailserver's mynetworks before PERMIT_DOCKER."""
_DOCKER = "172.16.0.0/12"


def permitted(environment: Environment) -> tuple[tuple[Network, ...], tuple[Finding, ...]]:
    """Who may send anywhere without logging in, by PERMIT_DOCKER."""
    value, rule = environment["PERMIT_DOCKER"], environment.rule("PERMIT_DOCKER")
    own = tuple(ip_network(each) for each in _OWN)
    match value:
        case "none":
            return (), ()
        case "network":
            what = (
                f"Whoever comes from {_DOCKER} may send anywhere without logging in. Where Docker's gateway hides who"
                " connects (a userland proxy, IPv6 without ip6tables), every stranger comes from there: an open relay."
            )
            return (*own, ip_network(_DOCKER)), (warning("permit-docker", rule, what, "PERMIT_DOCKER=none"),)
        case "container" | "host" | "connected-networks":
            what = (
                f"Which networks PERMIT_DOCKER={value} trusts depends on the container. Here it is loopback only: write"
                " the networks as trusted_networks of the inbound listener."
            )
            return own, (warning("permit-docker", rule, what, 'trusted_networks = ["172.18.0.0/16"]'),)
    what = f'PERMIT_DOCKER={value} is unknown to docker-mailserver, which then trusts nobody, as with "none".'
    return (), (warning("permit-docker", rule, what, "PERMIT_DOCKER=none"),)
