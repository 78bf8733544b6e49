"""Load: from a document to one frozen Snapshot, or to a Mistake that names everything wrong in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import ip_network
from itertools import combinations
from pathlib import Path
from typing import Any, assert_never

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from smtproute.config.docker_mailserver.folder import Lists, accounts, domains
from smtproute.config.docker_mailserver.folder import read as read_folder
from smtproute.config.document import Document, Location, read
from smtproute.config.schema import IpLiteral, ListenerTable, Root, Sign, TargetTable, close, known_keys
from smtproute.config.tables import key_domains, pcre_table, text_table
from smtproute.core.address import Address, AddressError, Domain
from smtproute.core.aliases import Aliases, Table
from smtproute.core.decide import Mailbox, Routing
from smtproute.core.finding import Finding
from smtproute.core.permit import LOOPBACK
from smtproute.core.routes import Match, Route, RouteError, Target
from smtproute.core.settings import (
    Accounts,
    Arc,
    ArcKey,
    Discover,
    Endpoint,
    Limits,
    Listener,
    ListenerTls,
    Log,
    Mode,
    Queue,
    Resolver,
    Role,
    Settings,
    SignBy,
    Source,
    Trace,
)
from smtproute.core.snapshot import Snapshot

__all__ = ["find", "load"]


def find(argument: str | None, environ: Mapping[str, str], cwd: str | Path) -> str | None:
    """The file to load: -c, else $SMTPROUTE_CONFIG, else the first of the usual places that is there, else None."""
    named = argument or environ.get("SMTPROUTE_CONFIG")
    if named:
        return named
    usual = (Path(cwd) / "smtproute.toml", Path("/etc/smtproute/smtproute.toml"))
    return next((str(path) for path in usual if path.exists()), None)


def load(path: str | None, environ: Mapping[str, str], *, fqdn: Callable[[], str]) -> Snapshot:
    """The configuration in the file at `path` (None: all defaults), with the overrides in `environ`.

    `fqdn` tells the machine's name; it is asked only where `hostname` is not written. Reads the file and the tables
    that it names; that private keys and certificates are sound is for those who load them. Raises Mistake.
    """
    document = read(path, environ)
    root = _validated(document)
    hostname = root.hostname or _hostname(document, fqdn)
    state = _state(document, root, environ)
    listeners = _listeners(document, root)
    endpoints = _endpoints(document, root)
    routes = tuple(
        Route(f"route[{number}]", route.match, _target(document, ("route", number), route, root, seal=route.seal))
        for number, route in enumerate(root.route)
    )
    default = _target(document, ("default",), root.default, root)
    _no_open_relay(document, root, listeners)
    lists = _lists(document, root, hostname)
    maildir = root.accounts.maildir
    settings = Settings(
        hostname=hostname,
        state=str(state),
        listeners=listeners,
        endpoints=endpoints,
        accounts=Accounts(str(document.path(("accounts", "maildir"), maildir) if maildir else state / "mail")),
        resolver=_resolver(document, root),
        arc=_arc(document, root, lists.local_domains),
        queue=Queue(**dict(root.queue)),
        limits=Limits(**dict(root.limits)),
        trace=Trace(**dict(root.trace)),
        log=Log(**dict(root.log)),
    )
    document.check()
    own = frozenset({"localhost"})
    aliases = Aliases(lists.tables, hostname, root.aliases.recipient_delimiter, own)
    routing = Routing(hostname, aliases, lists.local_domains, lists.mailboxes, routes, default)
    return Snapshot(settings, routing, findings=lists.findings)


# What the schema finds wrong


def _validated(document: Document) -> Root:
    root = Root()
    try:
        root = Root.model_validate(document.tables)
    except ValidationError as error:
        for each in error.errors():
            location = each["loc"]
            if each["type"] == "too_short" and each["input"]:
                continue  # its items are what is wrong, and each says so
            if location[-1] == "[key]":
                document.wrong(location[:-1], _said(location[:-1], each), with_value=False)
            else:
                document.wrong(location, _said(location, each))
    document.check()
    return root


def _said(location: Location, error: ErrorDetails) -> str:
    """What is wrong, in our words, and the mend."""
    match error["type"]:
        case "value_error":
            reason = error["ctx"]["error"]
            if isinstance(reason, IpLiteral) and location[0] == "endpoint":
                return _ip_literal(str(location[1]), reason.ip)
            return str(reason)
        case "extra_forbidden":
            key, known = str(location[-1]), known_keys(location[:-1])
            if meant := close(key, known):
                return f"unknown key.{meant}"
            if len(location) > 1 and key in known_keys(()):
                return f"unknown key. {key} is a key of the whole file: write it above the first [table]."
            return f"unknown key. Known here: {', '.join(known)}."
        case "missing":
            return f"missing. Add {location[-1]}."
        case "too_short":
            return "empty. Write one at least, or leave the key out."
        case "bool_type":
            return "true or false is wanted."
        case "tuple_type":
            return "a list is wanted. Put it in [brackets]."
        case "model_type" if location[0] in ("listener", "endpoint") and location[1] in known_keys((location[0], "x")):
            return f"a table is wanted. Give it a name: [{location[0]}.NAME]."
        case "model_type" | "dict_type":
            return "a table is wanted. Write { key = value }, or the key under a [table]."
        case _:
            return f"{error['msg']}."


def _ip_literal(endpoint: str, ip: str) -> str:
    name = f"{endpoint.lower().replace('_', '-')}.internal"
    return (
        f"an endpoint is a host name, not an IP address. Give it a name: "
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


def _listeners(document: Document, root: Root) -> dict[str, Listener]:
    if not root.listener:
        role = Role.TRUSTED if root.docker_mailserver is None else Role.INBOUND
        return {"default": _listener(document, "default", ListenerTable(role=role))}
    listeners = {name: _listener(document, name, table) for name, table in root.listener.items()}
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


def _listener(document: Document, name: str, table: ListenerTable) -> Listener:
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
    networks = table.trusted_networks
    if table.role is Role.TRUSTED and not networks:
        networks = tuple(ip_network(each) for each in LOOPBACK)
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
        **files,
    )


def _endpoints(document: Document, root: Root) -> dict[str, Endpoint]:
    endpoints = {}
    for name, table in root.endpoint.items():
        at: Location = ("endpoint", name)
        if table.discover is Discover.RECIPIENT:
            for key in ("servers", "backup"):
                if getattr(table, key):
                    text = 'discover = "recipient" asks the MX of each recipient\'s domain. Remove one of the two.'
                    document.wrong((*at, key), text)
        elif not table.servers:
            document.wrong((*at, "servers"), 'no server. Write servers = ["mail.example.org:25"].')
        ca_file = "" if table.ca_file is None else str(document.file((*at, "ca_file"), table.ca_file))
        endpoints[name] = Endpoint(**{**dict(table), "name": name, "ca_file": ca_file})
    return endpoints


def _target(document: Document, at: Location, table: TargetTable, root: Root, *, seal: bool = True) -> Target:
    """What a route or the default does, checked against the endpoints that there are."""
    name = table.endpoint
    if name is None:
        if table.mode is None:
            text = 'says not what to do. Add endpoint = "NAME", mode = "capture" or mode = "reject".'
            document.wrong(at, text)
        elif table.mode is Mode.ENDPOINT:
            document.wrong((*at, "mode"), 'which endpoint? Add endpoint = "NAME".')
        return Target(table.mode or Mode.REJECT, seal=seal)
    if table.mode not in (None, Mode.ENDPOINT):
        document.wrong((*at, "mode"), f'contradicts endpoint = "{name}". Remove one of the two.')
    if name not in root.endpoint:
        text = f"there is no [endpoint.{name}].{close(name, tuple(root.endpoint)) or ' Add it, with its servers.'}"
        document.wrong((*at, "endpoint"), text)
    return Target(Mode.ENDPOINT, name, seal)


_NOBODYS = ("a8f3@probe-7c1e.invalid", "x@y.test", "someone.else+tag@mail.probe-7c1e.example")
"""Addresses that no route has a reason to name."""


def _holds(match: Match, address: Address) -> bool:
    try:
        return match.holds(address)
    except RouteError:
        return False


def _no_open_relay(document: Document, root: Root, listeners: Mapping[str, Listener]) -> None:
    inbound = next((name for name, listener in listeners.items() if listener.role is Role.INBOUND), None)
    for number, route in enumerate(root.route):
        if inbound is not None and any(_holds(route.match, Address.parse(each)) for each in _NOBODYS):
            text = (
                f"anyone could send anywhere through the inbound listener {inbound}, an open relay. "
                'Name the domains, as in "*@example.org", or say it in default, which is for permitted senders only.'
            )
            document.wrong(("route", number, "match"), text)


def _lists(document: Document, root: Root, hostname: Domain) -> Lists:
    """Accounts, alias tables and local domains, from the docker-mailserver folder or from the parts one by one."""
    here = {domain.key: f"domains[{number}]" for number, domain in reversed([*enumerate(root.domains)])}
    if root.docker_mailserver is None:
        lists = _parts(document, root)
    else:
        for at, written in ((("aliases", "tables"), root.aliases.tables), (("accounts", "file"), root.accounts.file)):
            if written:
                text = "the folder named by docker_mailserver.config has accounts and aliases. Remove one of the two."
                document.wrong(at, text)
        lists = _folder(document, root.docker_mailserver.config, hostname)
    return replace(lists, local_domains={**lists.local_domains, **here})


def _folder(document: Document, written: str, hostname: Domain) -> Lists:
    at: Location = ("docker_mailserver", "config")
    folder = document.path(at, written)
    lists = None
    try:
        if not folder.is_dir():
            document.wrong(at, f"no such folder. A relative path starts at {document.start(at)}.")
        elif (lists := read_folder(folder, hostname)) is None:
            text = "holds neither postfix-accounts.cf nor postfix-virtual.cf. Name the folder that docker-mailserver "
            document.wrong(at, text + "has as /tmp/docker-mailserver.")
    except OSError as error:
        document.wrong(at, f"{error.filename} cannot be read: {(error.strerror or 'error').lower()}. Mend that file.")
    return lists or Lists({}, (), {}, ())


def _parts(document: Document, root: Root) -> Lists:
    mailboxes: Mapping[str, Mailbox] = {}
    findings: tuple[Finding, ...] = ()
    if root.accounts.file is not None:
        octets = document.content(("accounts", "file"), root.accounts.file)
        mailboxes, findings = accounts(root.accounts.file, octets)
    local = dict(domains(mailboxes))
    tables: list[Table] = []
    for number, (kind, written) in enumerate(root.aliases.tables):
        octets = document.content(("aliases", "tables", number), written)
        shown = written
        if kind == "pcre":
            patterns, more = pcre_table(shown, octets)
            tables.append(patterns)
        else:
            text, more = text_table(shown, octets)
            tables.append(text)
            local = {**key_domains(text), **local}
        findings += more
    return Lists(mailboxes, tuple(tables), local, findings)


def _resolver(document: Document, root: Root) -> Resolver:
    table = root.resolver
    at: Location = ("resolver", "hosts_file")
    asked = Source.HOSTS in table.order and "hosts_file" in table.model_fields_set
    path = document.file(at, table.hosts_file) if asked else document.path(at, table.hosts_file)
    return Resolver(**{**dict(table), "hosts_file": str(path)})


def _arc(document: Document, root: Root, local_domains: Mapping[str, str]) -> Arc:
    keys = {}
    for domain, table in root.arc.keys.items():
        file = document.file(("arc", "keys", domain.text, "file"), table.file)
        keys[domain.key] = ArcKey(domain, table.selector, str(file))
    sign = root.arc.sign or Sign(SignBy.RECIPIENT if keys else SignBy.OFF)
    match sign.by:
        case SignBy.OFF:
            pass
        case _ if not keys:
            text = 'there is no key to seal with. Add [arc.keys."example.org"] with selector and file.'
            document.wrong(("arc", "sign"), text)
        case SignBy.RECIPIENT | SignBy.SENDER:
            for domain_key, rule in local_domains.items():
                if domain_key not in keys and rule != "hostname":
                    text = (
                        f"missing, though {domain_key} is a local domain ({rule}) and its mail is sealed with its key. "
                        f'Add selector and file, or seal all with one key: [arc] sign = "{next(iter(keys))}".'
                    )
                    document.wrong(("arc", "keys", domain_key), text)
        case SignBy.DOMAIN:
            if sign.domain is not None and sign.domain.key not in keys:
                text = f'there is no key for it. Add [arc.keys."{sign.domain}"] with selector and file.'
                document.wrong(("arc", "sign"), text)
        case _:
            assert_never(sign.by)
    return Arc(sign.by, sign.domain, keys)
