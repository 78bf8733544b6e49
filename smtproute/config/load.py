"""Load: from a document to one frozen Snapshot, or to a Mistake that names everything wrong in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import ip_network
from itertools import combinations
from pathlib import Path
from typing import Any, assert_never

from pydantic_core import ErrorDetails

from smtproute.config import files
from smtproute.config.authentication import authentication
from smtproute.config.docker_mailserver.accounts import ReadAccounts, read_accounts
from smtproute.config.docker_mailserver.environment import read_environment
from smtproute.config.docker_mailserver.folder import ReadFolder, read_folder
from smtproute.config.docker_mailserver.paths import Paths
from smtproute.config.docker_mailserver.quotas import ReadQuotas, no_account, read_quotas
from smtproute.config.document import Document, Location, read
from smtproute.config.endpoints import endpoints
from smtproute.config.routes import default, routes
from smtproute.config.schema import (
    DockerMailserverTable,
    IpLiteral,
    ListenerTable,
    Root,
    known_keys,
)
from smtproute.config.signing import arc, dkim
from smtproute.config.srs import srs
from smtproute.config.tables import inline_comments, key_domains, pcre_table, text_table, unread
from smtproute.config.validated import said, validated
from smtproute.core.address import AddressError, Domain
from smtproute.core.aliases import Aliases, Table
from smtproute.core.decide import Routing
from smtproute.core.docker_mailserver import Environment
from smtproute.core.finding import Finding, warning
from smtproute.core.permit import LOOPBACK
from smtproute.core.quota import FULL, FULL_FOR_NOW
from smtproute.core.reply import Reply
from smtproute.core.settings import (
    Accounts,
    Auth,
    AuthInClear,
    Limits,
    Listener,
    ListenerTls,
    Log,
    Network,
    OverQuota,
    Queue,
    ReplyAfter,
    Resolver,
    Role,
    Settings,
    Source,
    Store,
    Trace,
)
from smtproute.core.snapshot import Snapshot

__all__ = ["find", "load", "understood"]

_LOOPBACK = tuple(ip_network(each) for each in LOOPBACK)


def find(argument: str | None, environ: Mapping[str, str], cwd: str | Path) -> str | None:
    """The file to load: -c, else $SMTPROUTE_CONFIG, else the first of the usual places that is there, else None."""
    named = argument or environ.get("SMTPROUTE_CONFIG")
    if named:
        return named
    usual = (Path(cwd) / "smtproute.toml", Path("/etc/smtproute/smtproute.toml"))
    return next((str(path) for path in usual if files.present(path)), None)


def load(path: str | None, environ: Mapping[str, str], *, fqdn: Callable[[], str]) -> Snapshot:
    """The configuration in the file at `path` (None: all defaults), with the overrides in `environ`.

    Raises Mistake. See `understood`.
    """
    return understood(read(path, environ), environ, fqdn=fqdn)


def understood(document: Document, environ: Mapping[str, str], *, fqdn: Callable[[], str]) -> Snapshot:
    """The configuration that a document is.

    `fqdn` tells the machine's name; it is asked only where `hostname` is not written. Reads the file and the tables
    that it names; that private keys and certificates are sound is for those who load them. Raises Mistake.
    """
    root = validated(Root, document, _said)
    hostname, lists = _lists(document, root, fqdn)
    state = _state(document, root, environ)
    listeners = _listeners(document, root, lists.networks)
    in_order, otherwise = routes(document, root, listeners), default(document, root)
    settings = Settings(
        hostname=hostname,
        state=str(state),
        listeners=listeners,
        endpoints={**endpoints(document, root), **lists.endpoints},
        accounts=_accounts(document, root, state),
        resolver=_resolver(document, root),
        arc=arc(document, root, lists.arc, lists.local_domains),
        dkim=dkim(document, root, lists.dkim),
        srs=srs(document, root, lists.srs, state),
        queue=Queue(**dict(root.queue)),
        limits=_limits(root, lists.message_size),
        trace=Trace(**dict(root.trace)),
        log=Log(**dict(root.log)),
    )
    settings = replace(settings, authentication=authentication(document, root, settings.arc))
    document.check()
    aliases = lists.aliases
    if lists.folder is None or "recipient_delimiter" in root.aliases.model_fields_set:
        aliases = replace(aliases, delimiter=root.aliases.recipient_delimiter)
    routing = Routing(
        hostname=hostname,
        aliases=aliases,
        local_domains=lists.local_domains,
        mailboxes=lists.mailboxes,
        routes=in_order,
        default=otherwise,
        relays=replace(lists.relays, delimiter=aliases.delimiter),
        send_access=lists.send_access,
        receive_access=lists.receive_access,
        spoof_protection=lists.folder is not None and lists.folder.environment.on("SPOOF_PROTECTION"),
        full=_full(root),
        srs=settings.srs,
    )
    return Snapshot(
        settings, routing, logins=lists.logins, findings=lists.findings, folder=lists.folder, unread=lists.unread
    )


# What the schema finds wrong


def _said(location: Location, error: ErrorDetails) -> str:
    """What is wrong, in our words, and the mend."""
    match error["type"]:
        case "value_error":
            reason = error["ctx"]["error"]
            if isinstance(reason, IpLiteral) and location[0] == "endpoint" and location[2] != "tls_name":
                return _ip_literal("an endpoint", str(location[1]), reason.ip)
            if isinstance(reason, IpLiteral) and location == ("accounts", "lmtp"):
                return _ip_literal("the LMTP server", "lmtp", reason.ip)
            return said(Root, location, error)
        case "model_type" if location[0] in ("listener", "endpoint") and location[1] in known_keys((location[0], "x")):
            return f"a table is wanted. Give it a name: [{location[0]}.NAME]."
        case _:
            return said(Root, location, error)


def _ip_literal(what: str, endpoint: str, ip: str) -> str:
    name = f"{endpoint.lower().replace('_', '-')}.internal"
    return (
        f"{what} is a host name, not an IP address. Give it a name: "
        f'add "{name}" = ["{ip}"] under [resolver] static, or to your internal DNS.'
    )


# The parts


def _hostname(document: Document, fqdn: Callable[[], str]) -> Domain:
    name = fqdn()
    try:
        return Domain.parse(name)
    except AddressError as error:
        text = f'missing, and the name of this machine cannot stand in: {error}. Write hostname = "mail.example.org".'
        document.wrong(("hostname",), text)
        return Domain("localhost", "localhost")


def _state(document: Document, root: Root, environ: Mapping[str, str]) -> Path:
    if root.state is not None:
        return document.path(("state",), root.state)
    system = Path("/var/lib/smtproute")
    if os.access(system if system.exists() else system.parent, os.W_OK | os.X_OK):
        return system
    return Path(environ.get("HOME") or Path.home()) / ".local/state/smtproute"


def _listeners(document: Document, root: Root, networks: tuple[Network, ...]) -> dict[str, Listener]:
    """The listeners; `networks` are trusted by those for inbound mail that say nothing else."""
    if not root.listener:
        role = Role.TRUSTED if root.docker_mailserver is None else Role.INBOUND
        return {"default": _listener(document, "default", ListenerTable(role=role), networks)}
    listeners = {name: _listener(document, name, table, networks) for name, table in root.listener.items()}
    if root.docker_mailserver is None and root.accounts.file is None:
        for name, listener in listeners.items():
            if listener.role is Role.SUBMISSION and listener.auth is Auth.ACCOUNTS:
                text = 'nobody has an account to log in with. Add [accounts] file = "postfix-accounts.cf".'
                document.wrong(("listener", name, "role"), text)
    for (first, one), (second, other) in combinations(root.listener.items(), 2):
        if one.bind.port and one.bind.port == other.bind.port and _overlap(one.bind.host, other.bind.host):
            text = f"listener {first} listens there already. Choose another port."
            document.wrong(("listener", second, "bind"), text)
    return listeners


def _overlap(host: str, other: str) -> bool:
    """Whether two sockets on one port would be in each other's way: "" is every address, "0.0.0.0" every IPv4."""
    if host == other or "" in (host, other):
        return True
    return (":" in host) == (":" in other) and not {"0.0.0.0", "::"}.isdisjoint((host, other))


def _listener(document: Document, name: str, table: ListenerTable, inbound: tuple[Network, ...]) -> Listener:
    at: Location = ("listener", name)
    tls = table.tls or (ListenerTls.NONE if table.certificate is None else ListenerTls.STARTTLS)
    if table.role is Role.INBOUND and "seal" in table.model_fields_set:
        text = "mail from inbound clients is sealed as its route and endpoint say. Remove seal here."
        document.wrong((*at, "seal"), text)
    if table.certificate is None and table.tls in (ListenerTls.STARTTLS, ListenerTls.IMPLICIT):
        document.wrong((*at, "tls"), 'there is no certificate. Add certificate and key, or write tls = "none".')
    if table.certificate is not None and table.key is None:
        document.wrong((*at, "certificate"), "there is no key. Add key, the file with the private key.")
    if table.key is not None and table.certificate is None:
        document.wrong((*at, "key"), "there is no certificate. Add certificate, the file with the chain.")
    match table.role:
        case Role.TRUSTED:
            networks = table.trusted_networks or _LOOPBACK
            if table.auth is Auth.ACCOUNTS and "auth" in table.model_fields_set:
                text = 'accounts log in by role = "submission" alone. Remove it here, or write auth = "any".'
                document.wrong((*at, "auth"), text)
        case Role.INBOUND:
            networks = table.trusted_networks if "trusted_networks" in table.model_fields_set else inbound
            if "auth" in table.model_fields_set:
                document.wrong((*at, "auth"), 'nobody logs in where role = "inbound". Remove it here.')
        case Role.SUBMISSION if table.auth is Auth.ANY:
            networks = table.trusted_networks or _LOOPBACK
        case Role.SUBMISSION:
            networks = ()
            if table.trusted_networks:
                document.wrong((*at, "trusted_networks"), "who submits mail logs in, wherever from. Remove it here.")
            if tls is ListenerTls.NONE and table.auth_in_clear is AuthInClear.NEVER:
                text = 'nobody can log in without TLS. Add certificate and key, or auth_in_clear = "loopback".'
                document.wrong((*at, "role"), text)
        case _:
            assert_never(table.role)
    if table.auth is Auth.ANY and "auth_in_clear" in table.model_fields_set:
        document.wrong((*at, "auth_in_clear"), 'auth = "any" takes every login without TLS too. Remove it here.')
    elif table.role is not Role.SUBMISSION and "auth_in_clear" in table.model_fields_set:
        document.wrong((*at, "auth_in_clear"), 'only role = "submission" lets clients log in. Remove it here.')
    if table.reply is not ReplyAfter.DELIVERED and "proxy_timeout" in table.model_fields_set:
        document.wrong((*at, "proxy_timeout"), 'only reply = "delivered" waits for the next hop. Remove it here.')
    files: dict[str, Any] = {}
    for key, written in (("certificate", table.certificate), ("key", table.key)):
        if written is not None and tls is not ListenerTls.NONE:
            files[key] = str(document.file((*at, key), written))
    return Listener(
        name,
        table.bind.host,
        table.bind.port,
        table.role,
        tls,
        trusted_networks=networks,
        bare_newline=table.bare_newline,
        debug=table.debug,
        seal=table.seal,
        auth=table.auth,
        auth_in_clear=table.auth_in_clear,
        reply=table.reply,
        proxy_timeout=table.proxy_timeout,
        **files,
    )


def _lists(document: Document, root: Root, fqdn: Callable[[], str]) -> tuple[Domain, ReadFolder]:
    """The host name, and who and what is here: from a docker-mailserver folder, or from the parts one by one."""
    here = {domain.key: f"domains[{number}]" for number, domain in reversed([*enumerate(root.domains)])}
    if root.docker_mailserver is None:
        hostname = root.hostname or _hostname(document, fqdn)
        lists = _parts(document, root, hostname)
    else:
        for at, written in (
            (("aliases", "tables"), root.aliases.tables),
            (("accounts", "file"), root.accounts.file),
            (("accounts", "quotas"), root.accounts.quotas),
        ):
            if written:
                text = "the folder named by docker_mailserver.config has accounts and aliases. Remove one of the two."
                document.wrong(at, text)
        hostname, lists = _folder(document, root, root.docker_mailserver, fqdn)
    return hostname, replace(lists, local_domains={**lists.local_domains, **here})


def _folder(
    document: Document, root: Root, table: DockerMailserverTable, fqdn: Callable[[], str]
) -> tuple[Domain, ReadFolder]:
    at: Location = ("docker_mailserver", "config")
    path = document.path(at, table.config)
    mapping = {
        inside: str(document.path(("docker_mailserver", "paths", inside), here)) for inside, here in table.paths.items()
    }
    paths = Paths(path, mapping)
    environment = Environment()
    findings: tuple[Finding, ...] = ()
    if table.env is not None:
        octets = document.content(("docker_mailserver", "env"), table.env)
        environment, findings = read_environment(table.env, octets, paths)
    hostname, more = _overridden(root, environment)
    hostname = hostname or _hostname(document, fqdn)
    lists: ReadFolder | None = None
    try:
        if not path.is_dir():
            document.wrong(at, f"no such folder. A relative path starts at {document.start(at)}.")
        elif (lists := read_folder(path, paths, environment, hostname, table.version)) is None:
            text = "holds neither postfix-accounts.cf nor postfix-virtual.cf. Name the folder that docker-mailserver "
            document.wrong(at, text + "has as /tmp/docker-mailserver.")
    except OSError as error:
        document.wrong(at, f"{error.filename} cannot be read: {(error.strerror or 'error').lower()}. Mend that file.")
    lists = lists or ReadFolder(Aliases((), hostname), {})
    return hostname, replace(lists, findings=(*findings, *more, *lists.findings))


def _overridden(root: Root, environment: Environment) -> tuple[Domain | None, tuple[Finding, ...]]:
    """The host name that is written, in the file or else in the environment; None where it is nowhere."""
    name = environment["OVERRIDE_HOSTNAME"]
    if root.hostname is not None or not name:
        return root.hostname, ()
    try:
        return Domain.parse(name), ()
    except AddressError as fault:
        what = f"{fault}: the name of this machine stands in for it."
        wanted = "OVERRIDE_HOSTNAME=mail.example.org"
        return None, (warning("hostname", environment.rule("OVERRIDE_HOSTNAME"), what, wanted),)


def _parts(document: Document, root: Root, hostname: Domain) -> ReadFolder:
    accounts = ReadAccounts()
    junk: set[str] = set()
    findings: tuple[Finding, ...] = ()
    if root.accounts.file is None:
        if root.accounts.quotas is not None:
            text = 'there are no accounts to have quotas. Add file = "postfix-accounts.cf".'
            document.wrong(("accounts", "quotas"), text)
    else:
        quotas = ReadQuotas()
        if root.accounts.quotas is not None:
            octets = document.content(("accounts", "quotas"), root.accounts.quotas)
            quotas = read_quotas(root.accounts.quotas, octets)
        octets = document.content(("accounts", "file"), root.accounts.file)
        accounts = read_accounts(root.accounts.file, octets, quotas)
        if unread(octets, accounts.mailboxes):
            junk.add(root.accounts.file)
        findings = (*accounts.findings, *quotas.findings, *no_account(quotas, accounts.mailboxes))
    local = dict(accounts.domains)
    tables: list[Table] = []
    for number, (kind, written) in enumerate(root.aliases.tables):
        octets = document.content(("aliases", "tables", number), written)
        if kind == "pcre":
            patterns, more = pcre_table(written, octets)
            tables.append(patterns)
        else:
            text_, more = text_table(written, octets)
            more = (*more, *inline_comments(text_))
            tables.append(text_)
            local = {**key_domains(text_), **local}
        if unread(octets, tables[-1]):
            junk.add(written)
        findings += more
    aliases = Aliases(tuple(tables), hostname, unqualified=frozenset({"localhost"}))
    return ReadFolder(aliases, local, accounts.mailboxes, accounts.logins, findings=findings, unread=frozenset(junk))


def _accounts(document: Document, root: Root, state: Path) -> Accounts:
    table, maildir = root.accounts, root.accounts.maildir
    if table.store is Store.LMTP and table.lmtp is None:
        document.wrong(("accounts", "store"), 'where is it? Add lmtp = "dovecot.internal:24" or "unix:/run/lmtp".')
    if table.store is Store.MAILDIR and table.lmtp is not None:
        document.wrong(("accounts", "lmtp"), 'mailboxes are Maildir folders here. Add store = "lmtp".')
    where = document.path(("accounts", "maildir"), maildir) if maildir else state / "mail"
    return Accounts(str(where), table.store, table.lmtp)


def _full(root: Root) -> Reply:
    """What RCPT answers where every mailbox is full: docker-mailserver refuses for good."""
    match root.accounts.over_quota:
        case OverQuota.REJECT:
            return FULL
        case OverQuota.DEFER:
            return FULL_FOR_NOW
        case None:
            return FULL_FOR_NOW if root.docker_mailserver is None else FULL
        case _:
            assert_never(root.accounts.over_quota)


def _limits(root: Root, message_size: int | None) -> Limits:
    """The limits, with docker-mailserver's size of a message (0: none but what memory takes) where none is written."""
    limits = Limits(**dict(root.limits))
    if message_size is None or "message_size" in root.limits.model_fields_set:
        return limits
    return replace(limits, message_size=message_size or limits.in_flight)


def _resolver(document: Document, root: Root) -> Resolver:
    table = root.resolver
    at: Location = ("resolver", "hosts_file")
    asked = Source.HOSTS in table.order and "hosts_file" in table.model_fields_set
    path = document.file(at, table.hosts_file) if asked else document.path(at, table.hosts_file)
    return Resolver(**{**dict(table), "hosts_file": str(path)})
