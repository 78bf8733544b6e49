"""Folder: everything that a docker-mailserver folder and its environment say, brought together.

Local are the domains of accounts, those of the keys of `postfix-virtual.cf`, and what `mydestination` has: the host
name, localhost, and localhost in the host's domain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from smtproute.config import files
from smtproute.config.docker_mailserver.access import RECEIVE, SEND, read_access
from smtproute.config.docker_mailserver.accounts import read_accounts, virtual_logins
from smtproute.config.docker_mailserver.local import ALIASES, read_local
from smtproute.config.docker_mailserver.opendkim import read_opendkim
from smtproute.config.docker_mailserver.paths import Paths
from smtproute.config.docker_mailserver.postfix import MAIN, Overrides, overrides, permitted, read_main
from smtproute.config.docker_mailserver.quotas import ReadQuotas, default_quota, no_account, number, read_quotas
from smtproute.config.docker_mailserver.relay_tables import PASSWORDS, RELAYMAP
from smtproute.config.docker_mailserver.relays import read_relays
from smtproute.config.docker_mailserver.scripts import endings
from smtproute.config.docker_mailserver.signing import arc_of, dkim_of, read_signing, signed_twice, with_registered
from smtproute.config.docker_mailserver.srs import srs_of
from smtproute.config.docker_mailserver.userdb import Userdb
from smtproute.config.docker_mailserver.virtual import read_virtual
from smtproute.config.tables import pcre_table, text_table, unread
from smtproute.core.address import Domain
from smtproute.core.aliases import Aliases, Table, TextTable
from smtproute.core.decide import Mailbox
from smtproute.core.docker_mailserver import DEFAULTS, Environment, Folder, domain_of
from smtproute.core.finding import Finding, warning
from smtproute.core.login import Login
from smtproute.core.relays import Relays
from smtproute.core.settings import Arc, Dkim, Endpoint, Network, Srs

__all__ = ["ReadFolder", "read_folder"]

T = TypeVar("T")
TableT = TypeVar("TableT", bound=Table)

ACCOUNTS = "postfix-accounts.cf"
VIRTUAL = "postfix-virtual.cf"
REGEXP = "postfix-regexp.cf"
QUOTAS = "dovecot-quotas.cf"
ARC = "rspamd/override.d/arc.conf"
DKIM = "rspamd/override.d/dkim_signing.conf"
LOOPBACK = frozenset({"[127.0.0.1]", "[ipv6:::1]"})
"""Address literals that are docker-mailserver's own whatever its names are (inet_interfaces)."""
COPIES = {"/etc/postfix/virtual": VIRTUAL, "/etc/postfix/regexp": REGEXP}
"""Where docker-mailserver copies the alias tables to."""


@dataclass(frozen=True, slots=True)
class ReadFolder:
    """Who and what is here, as a folder says it."""

    aliases: Aliases
    local_domains: Mapping[str, str]
    """Domain.key to the rule that makes it local."""
    mailboxes: Mapping[str, Mailbox] = field(default_factory=dict)
    logins: Mapping[str, Login] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    relays: Relays = field(default_factory=Relays)
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    arc: Arc = field(default_factory=Arc)
    dkim: Dkim = field(default_factory=Dkim)
    srs: Srs = field(default_factory=Srs)
    networks: tuple[Network, ...] = ()
    """Who may send anywhere (mynetworks)."""
    message_size: int | None = None
    """Octets; 0 is no limit, None not said."""
    send_access: TextTable | None = None
    receive_access: TextTable | None = None
    unread: frozenset[str] = frozenset()
    """Files that have lines and not one that can be used, by the names that rules have."""
    folder: Folder | None = None
    """None where the same is put together of parts without a folder."""


def read_folder(
    path: Path, paths: Paths, environment: Environment, hostname: Domain, version: str
) -> ReadFolder | None:
    """What is in the folder; None where it has neither accounts nor aliases. Raises OSError."""
    if not files.present(path / ACCOUNTS) and not files.present(path / VIRTUAL):
        return None
    reader = _Reader(path, paths)
    main = reader.took(read_main(reader.octets(MAIN)))
    domain = domain_of(hostname.key)
    changed = overrides(main, hostname.key, domain)
    reader.findings += changed.findings
    quotas_on = environment.on("ENABLE_QUOTAS")
    quotas = read_quotas(QUOTAS, reader.octets(QUOTAS)) if quotas_on else None
    accounts = read_accounts(ACCOUNTS, reader.octets(ACCOUNTS), quotas, default_quota(environment))
    virtual = read_virtual(VIRTUAL, reader.octets(VIRTUAL))
    userdb = Userdb(
        accounts, ACCOUNTS, reader.octets(ACCOUNTS), quotas or ReadQuotas(), (QUOTAS, reader.octets(QUOTAS)), version
    )
    userdb.add_accounts()
    if quotas_on:
        userdb.add_virtual(virtual.lines)
    reader.findings += (*accounts.findings, *endings(ACCOUNTS, reader.octets(ACCOUNTS)), *virtual.findings)
    if quotas is not None:
        reader.findings += (*quotas.findings, *no_account(quotas, accounts.mailboxes), *userdb.findings)
    tables = reader.tables(changed, virtual.table)
    local = reader.took(read_local(reader.present(ALIASES), environment.postmaster(domain)))
    if unread(reader.octets(ACCOUNTS), accounts.mailboxes):
        reader.unread.add(ACCOUNTS)
    if unread(reader.octets(VIRTUAL), virtual.table):
        reader.unread.add(VIRTUAL)
    vhost = sorted(virtual.vhost | accounts.vhost)
    relays = read_relays(reader.present(RELAYMAP), reader.present(PASSWORDS), environment, vhost, main)
    reader.findings += relays.findings
    signing = {
        name: reader.took(read_signing(name, octets, paths, vhost))
        for name in (ARC, DKIM)
        if (octets := reader.present(name)) is not None
    }
    destinations = changed.destinations
    if destinations is None:
        destinations = dict.fromkeys((hostname.key, "localhost", f"localhost.{domain}"), "hostname")
    local_domains = {**(changed.alias_domains or {}), **destinations, **virtual.domains, **accounts.domains}
    if ARC in signing:
        signing[ARC] = with_registered(signing[ARC], local_domains)
    opendkim = reader.took(read_opendkim(path, paths, vhost))
    reader.findings += signed_twice(signing.get(DKIM), opendkim, environment)
    delimiter = changed.delimiter if changed.delimiter is not None else "+"
    networks = changed.networks if changed.networks is not None else reader.took(permitted(environment))
    size = number(environment["POSTFIX_MESSAGE_SIZE_LIMIT"])
    reader.findings += _no_numbers(environment)
    return ReadFolder(
        folder=Folder(
            path=str(path),
            version=version,
            hostname=hostname.key,
            environment=environment,
            files=frozenset(_files(path)),
            passwords=relays.passwords,
            main=main,
            userdb=tuple(userdb.lines),
            arc=signing.get(ARC),
            dkim=signing.get(DKIM),
            opendkim=opendkim,
        ),
        aliases=Aliases(
            tables,
            hostname,
            delimiter,
            destinations=frozenset(destinations) | LOOPBACK,
            local=local,
            alias_domains=changed.alias_domains,
        ),
        local_domains=local_domains,
        mailboxes=accounts.mailboxes,
        logins={**(virtual_logins(virtual.lines, accounts, version) if quotas_on else {}), **accounts.logins},
        relays=relays.relays,
        endpoints=relays.endpoints,
        arc=arc_of(signing[ARC], environment) if ARC in signing else Arc(),
        dkim=dkim_of(signing.get(DKIM), opendkim, environment),
        srs=srs_of(environment, domain, paths),
        networks=networks,
        message_size=changed.message_size if changed.message_size is not None else 10_240_000 if size is None else size,
        send_access=reader.access(SEND),
        receive_access=reader.access(RECEIVE),
        unread=frozenset(reader.unread),
        findings=(*reader.findings, *_not_simulated(path, environment)),
    )


def _no_numbers(environment: Environment) -> Iterator[Finding]:
    """The sizes among the variables that are none."""
    for name in ("POSTFIX_MAILBOX_SIZE_LIMIT", "POSTFIX_MESSAGE_SIZE_LIMIT"):
        if number(environment[name]) is None:
            what = f"{name} is no number of octets (of 18 digits at most): here the default counts, {DEFAULTS[name]}."
            yield warning("environment-number", environment.rule(name), what, f"{name}={DEFAULTS[name]}")


class _Reader:
    """The files of one folder, each read once."""

    def __init__(self, path: Path, paths: Paths) -> None:
        self.findings: list[Finding] = []
        self.unread: set[str] = set()
        self._path = path
        self._paths = paths
        self._read: dict[str, bytes | None] = {}

    def present(self, name: str) -> bytes | None:
        """What a file holds, None where there is none. Raises OSError."""
        if name not in self._read:
            file = self._path / name
            self._read[name] = files.read(file) if files.present(file) else None
        return self._read[name]

    def octets(self, name: str) -> bytes:
        """What a file holds, nothing where there is none. Raises OSError."""
        return self.present(name) or b""

    def took(self, read: tuple[T, tuple[Finding, ...]]) -> T:
        """What was read; its findings are kept."""
        value, findings = read
        self.findings += findings
        return value

    def access(self, name: str) -> TextTable | None:
        octets = self.present(name)
        return None if octets is None else self._table(octets, read_access(name, octets))

    def _table(self, octets: bytes, read: tuple[TableT, tuple[Finding, ...]]) -> TableT:
        """As `took`; a table of which nothing can be read is noted."""
        table = self.took(read)
        if unread(octets, table):
            self.unread.add(table.file)
        return table

    def tables(self, changed: Overrides, virtual: TextTable) -> tuple[Table, ...]:
        """The alias tables, docker-mailserver's own two or those that postfix-main.cf names. Raises OSError."""
        if changed.tables is None:
            regexp = self.present(REGEXP)
            patterns = () if regexp is None else (self._table(regexp, pcre_table(REGEXP, regexp)),)
            return (*((virtual,) if self.present(VIRTUAL) is not None else ()), *patterns)
        found: list[Table] = []
        for kind, written, rule in changed.tables:
            name = COPIES.get(written)
            file = self._paths.host(written) if name is None else self._path / name
            if name == VIRTUAL and kind == "texthash":
                found.append(virtual)
            elif file is None or not files.present(file):
                what = f"{written} is not to be found here: its aliases are not simulated."
                instead = f'paths = {{ "{written}" = "..." }} under [docker_mailserver]'
                self.findings.append(warning("not-simulated", rule, what, instead))
            else:
                octets = files.read(file)
                if kind == "pcre":
                    found.append(self._table(octets, pcre_table(name or written, octets)))
                else:
                    found.append(self._table(octets, text_table(name or written, octets)))
        return tuple(found)


def _files(path: Path) -> Iterator[str]:
    """The files of the folder, and of its folders that hold keys. Raises OSError."""
    yield from (each.name for each in path.iterdir() if each.is_file())
    for folder in ("opendkim", "rspamd"):
        yield from (each.relative_to(path).as_posix() for each in (path / folder).rglob("*") if each.is_file())


_ELSEWHERE = {
    "user-patches.sh": "It may change anything in the container",
    "dovecot.cf": "It changes Dovecot's settings",
    "postfix-master.cf": "It changes Postfix's services",
    "ldap-*.cf": "It takes accounts and aliases from LDAP",
    "*.dovecot.sieve": "It may file, forward or discard mail after delivery",
}
"""Files by whose means production may do something else with mail."""


def _not_simulated(path: Path, environment: Environment) -> Iterator[Finding]:
    """What changes the way of mail and is not read here."""
    for pattern, what in _ELSEWHERE.items():
        for file in sorted(path.glob(pattern)):
            yield warning("not-simulated", file.name, f"{what}, and is not simulated: production may do otherwise.")
    for name, normal, what in (
        ("ACCOUNT_PROVISIONER", "FILE", "Accounts and aliases come from elsewhere"),
        ("SMTP_ONLY", "0", "There are no mailboxes and no Dovecot"),
        ("POSTFIX_DAGENT", "", "Mailboxes are not Dovecot's to write"),
    ):
        value = environment[name]
        if value != normal:
            why = f"{what} with {name}={value}, which is not simulated: here the files of the folder count."
            yield warning("not-simulated", environment.rule(name), why)
