"""docker-mailserver: what its folder says besides routing, and what that version would do where it differs from us."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["DEFAULTS", "Environment", "Folder", "KeyFile", "Line", "Signing", "UserdbLine"]

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
    "SRS_SENDER_CLASSES": "envelope_sender",
}
"""The variables that change routing, with docker-mailserver's defaults. Empty ones that name a domain or an address
follow from the host name."""


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


@dataclass(frozen=True, slots=True)
class Signing:
    """`rspamd/override.d/arc.conf` or `dkim_signing.conf`."""

    file: str
    options: Mapping[str, Line]
    """What is written at the top, by name; values as text, without quotes."""
    keys: tuple[KeyFile, ...]
    """One for each block of `domain { }`."""

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
    accounts: tuple[Line, ...] = ()
    """postfix-accounts.cf: address, and the rest of the line."""
    virtual: tuple[Line, ...] = ()
    """postfix-virtual.cf."""
    quotas: tuple[Line, ...] = ()
    """dovecot-quotas.cf, cut at the colon."""
    relaymap: tuple[Line, ...] = ()
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
    def domain(self) -> str:
        """docker-mailserver's DOMAINNAME: the host name without its first label where it has more than two."""
        return self.hostname.partition(".")[2] if self.hostname.count(".") > 1 else self.hostname

    @property
    def postmaster(self) -> str:
        return self.environment["POSTMASTER_ADDRESS"] or f"postmaster@{self.domain}"
