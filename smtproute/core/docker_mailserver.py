"""docker-mailserver: what its folder says besides routing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["DEFAULTS", "Environment", "Folder", "KeyFile", "Line", "Signing", "UserdbLine", "domain_of"]

DEFAULTS: Mapping[str, str] = {
    "ACCOUNT_PROVISIONER": "FILE",
    "DEFAULT_RELAY_HOST": "",
    "ENABLE_AMAVIS": "1",
    "ENABLE_OPENDKIM": "1",
    "ENABLE_QUOTAS": "1",
    "ENABLE_RSPAMD": "0",
    "ENABLE_SRS": "0",
    "OVERRIDE_HOSTNAME": "",
    "PERMIT_DOCKER": "none",
    "POSTFIX_DAGENT": "",
    "POSTFIX_MAILBOX_SIZE_LIMIT": "0",
    "POSTFIX_MESSAGE_SIZE_LIMIT": "10240000",
    "POSTMASTER_ADDRESS": "",
    "RELAY_HOST": "",
    "RELAY_PASSWORD": "",
    "RELAY_PORT": "25",
    "RELAY_USER": "",
    "SMTP_ONLY": "0",
    "SPOOF_PROTECTION": "0",
    "SRS_DOMAINNAME": "",
    "SRS_EXCLUDE_DOMAINS": "",
    "SRS_SECRET": "",
    "SRS_SENDER_CLASSES": "envelope_sender",
}
"""The variables that change routing, with docker-mailserver's defaults. Empty ones that name a domain or an address
follow from the host name."""


def domain_of(hostname: str) -> str:
    """docker-mailserver's DOMAINNAME: the host name without its first label where it has more than two."""
    return hostname.partition(".")[2] if hostname.count(".") > 1 else hostname


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file as docker-mailserver's scripts read it, cut into key and value at the first white space."""

    rule: str
    """`file:line`."""
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Environment:
    """The variables of the container."""

    variables: Mapping[str, Line] = field(default_factory=dict)
    """Those that are written, by name."""
    written: bool = False
    """Whether there is an environment file at all; without one nothing is known."""

    def __getitem__(self, name: str) -> str:
        """The value, or docker-mailserver's default: an empty variable is an unset one."""
        line = self.variables.get(name)
        return line.value if line is not None and line.value else DEFAULTS[name]

    def on(self, name: str) -> bool:
        return self[name] == "1"

    def rule(self, name: str) -> str:
        """Where it is written, else its name."""
        line = self.variables.get(name)
        return line.rule if line is not None else name

    def source(self, name: str) -> str:
        """What set it: where it is written, else `default`."""
        line = self.variables.get(name)
        return line.rule if line is not None and line.value else "default"

    def postmaster(self, domain: str) -> str:
        """Whom root's mail goes to; `domain` is docker-mailserver's DOMAINNAME."""
        return self["POSTMASTER_ADDRESS"] or f"postmaster@{domain}"

    @property
    def srs_secrets(self) -> tuple[str, ...]:
        """SRS_SECRET: the first signs, all of them verify."""
        return tuple(each for each in re.split(r"[,\r\n]+", self["SRS_SECRET"]) if each)

    @property
    def srs_excluded(self) -> tuple[str, ...]:
        """SRS_EXCLUDE_DOMAINS, in lower case."""
        return tuple(each for each in re.split(r"[\s,]+", self["SRS_EXCLUDE_DOMAINS"].lower()) if each)


@dataclass(frozen=True, slots=True)
class UserdbLine:
    """A line that the scripts write into Dovecot's userdb: an account, or an alias's virtual account."""

    name: str
    account: str
    """The address of the account whose password and quota it got: for an alias the first line that its target is a
    part of, which may be another account's."""
    password: str = field(repr=False)
    home: str
    quota: str
    """As written, "5M"; empty where it has the default."""
    rule: str


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A private key that signs."""

    domain: str
    selector: str
    file: str
    """Where it is on this machine; empty where the path in the container leads to nowhere that is known."""
    written: str
    """The path as written."""
    rule: str
    author: str = ""
    """The domain of those whose mail it signs; empty: its own."""


@dataclass(frozen=True, slots=True)
class Signing:
    """`rspamd/override.d/arc.conf` or `dkim_signing.conf`."""

    file: str
    options: Mapping[str, Line]
    """What is written at the top, by name; values as text, without quotes."""
    keys: tuple[KeyFile, ...]
    """One for each block of `domain { }`."""
    registered: Mapping[str, str] = field(default_factory=dict)
    """The domain that was registered (a public suffix and one label), of each local domain and of those of the keys,
    in lower case."""

    def asked(self, domain: str) -> str:
        """The domain whose key rspamd looks for where this one is signed for: with use_esld, which is on by default,
        the one that was registered. A domain that is not known here was so together with one that it is inside.
        """
        known = domain
        while known not in self.registered and "." in known:
            known = known.partition(".")[2]
        return self.registered.get(known, domain) if self.option("use_esld", True) else domain

    def option(self, name: str, default: bool) -> bool:
        line = self.options.get(name)
        return default if line is None else line.value.lower() in ("true", "yes", "on", "1")


@dataclass(frozen=True, slots=True)
class Folder:
    """Everything of a docker-mailserver folder that is looked at and is not in the routing tables."""

    path: str
    version: str = "15"
    hostname: str = ""
    environment: Environment = Environment()
    files: frozenset[str] = frozenset()
    """Names of what is in the folder, "rspamd/override.d/arc.conf"."""
    passwords: tuple[Line, ...] = field(default=(), repr=False)
    """postfix-sasl-password.cf."""
    main: Mapping[str, Line] = field(default_factory=dict)
    """postfix-main.cf: the last entry of each parameter."""
    userdb: tuple[UserdbLine, ...] = ()
    arc: Signing | None = None
    dkim: Signing | None = None
    opendkim: tuple[KeyFile, ...] = ()
    """What SigningTable and KeyTable sign with."""

    @property
    def private_keys(self) -> tuple[KeyFile, ...]:
        """Every key that seals or signs."""
        return (*(self.arc.keys if self.arc else ()), *(self.dkim.keys if self.dkim else ()), *self.opendkim)

    @property
    def domain(self) -> str:
        """docker-mailserver's DOMAINNAME."""
        return domain_of(self.hostname)

    @property
    def postmaster(self) -> str:
        return self.environment.postmaster(self.domain)

    @property
    def srs_domain(self) -> str:
        """Where postsrsd's senders are, as it is written."""
        return self.environment["SRS_DOMAINNAME"] or self.domain

    def srs_spares(self, domain: str) -> bool:
        """Whether SRS_EXCLUDE_DOMAINS keeps postsrsd from rewriting senders of the domain (in lower case).

        ".example.org" stands for subdomains.
        """
        excluded = self.environment.srs_excluded
        return any(domain == each or (each.startswith(".") and domain.endswith(each)) for each in excluded)
