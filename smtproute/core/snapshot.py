"""Snapshot: one whole configuration, frozen. A reload makes another and swaps the reference."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from smtproute.core.aliases import Table, TextTable
from smtproute.core.decide import Routing
from smtproute.core.docker_mailserver import Folder
from smtproute.core.finding import Finding, error, warning
from smtproute.core.login import Login
from smtproute.core.relays import Relays
from smtproute.core.settings import Listener, Settings

__all__ = ["Snapshot", "carried"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    settings: Settings
    routing: Routing
    logins: Mapping[str, Login] = field(default_factory=dict)
    """Accounts, and the virtual accounts of aliases, by Address.key of the name."""
    findings: tuple[Finding, ...] = ()
    """What reading the tables and files found wrong; none of it stops `serve`."""
    folder: Folder | None = None
    """The docker-mailserver folder, where there is one."""
    unread: frozenset[str] = frozenset()
    """Files of accounts and tables that have lines and not one that can be used, by the names that rules have."""


def carried(old: Snapshot, new: Snapshot) -> Snapshot:
    """What is in force after a reload: `new`, but for what cannot change while the relay runs, each with a warning.

    That is the state folder, the name, what is listened on, the size of the queue and the form of the log; and a
    table of aliases or of access that has become unusable, of which the good one stays, and the relays where one of
    their two tables has. A file of which nothing can be read any more (`unread`) stays as it was too, the accounts with
    their logins; an empty one means nobody.
    """
    was, will = old.settings, new.settings
    fixed = [
        warning("not-reloaded", key, f"{value} does not take effect by a reload: restart to change it.")
        for key, value, before in (
            ("state", will.state, was.state),
            ("hostname", will.hostname, was.hostname),
            ("queue.max_size", will.queue.max_size, was.queue.max_size),
            ("log.format", will.log.format, was.log.format),
        )
        if value != before
    ]
    listeners, more = _listeners(was.listeners, will.listeners)
    before, after = old.routing, new.routing
    tables, kept_aliases = _tables(before.aliases.tables, after.aliases.tables, new.unread)
    local, kept_local = _tables(before.aliases.local, after.aliases.local, new.unread)
    send, kept_send = _tables(_one(before.send_access), _one(after.send_access), new.unread)
    receive, kept_receive = _tables(_one(before.receive_access), _one(after.receive_access), new.unread)
    kept: list[Table] = [*kept_aliases, *kept_local, *kept_send, *kept_receive]
    unusable = [error("table-kept", table.file, f"{table.fault or _UNREAD}: {_TABLE_KEPT}") for table in kept]
    mailboxes, logins, lost = after.mailboxes, new.logins, {table.file for table in kept if table.file in new.unread}
    accounts = {_file(each.rule) for each in before.mailboxes.values()} & new.unread
    if accounts:
        mailboxes, logins = before.mailboxes, old.logins
        what = f"{_UNREAD}: the accounts as they were stay in force until this is mended."
        unusable += [error("table-kept", file, what) for file in accounts]
    elif lost:
        logins = {**_virtual(old.logins, lost, new.logins), **new.logins}
    relays, endpoints = after.relays, will.endpoints
    if not _faults(before.relays) and _faults(relays):
        unusable += [
            error("table-kept", fault.partition(":")[0], f"{fault}: {_RELAYS_KEPT}") for fault in _faults(relays)
        ]
        relays = before.relays
        endpoints = {
            **{name: each for name, each in was.endpoints.items() if each.relay},
            **{name: each for name, each in endpoints.items() if not each.relay},
        }
    local_domains = {
        **{domain: rule for domain, rule in before.local_domains.items() if _file(rule) in lost | accounts},
        **after.local_domains,
    }
    said = [each for each in new.findings if not any(each.where.startswith(f"{table.where}:") for table in unusable)]
    settings = replace(
        will,
        state=was.state,
        hostname=was.hostname,
        listeners=listeners,
        endpoints=endpoints,
        queue=replace(will.queue, max_size=was.queue.max_size),
        log=was.log,
    )
    aliases = replace(after.aliases, tables=tables, local=local, origin=was.hostname)
    if will.hostname != was.hostname:
        aliases = replace(aliases, destinations=before.aliases.destinations)
        own = {domain: rule for domain, rule in before.local_domains.items() if rule == "hostname"}
        others = {domain: rule for domain, rule in local_domains.items() if rule != "hostname"}
        local_domains = {**own, **others}
    routing = replace(
        after,
        hostname=was.hostname,
        aliases=aliases,
        local_domains=local_domains,
        mailboxes=mailboxes,
        relays=relays,
        send_access=next(iter(send), None),
        receive_access=next(iter(receive), None),
    )
    return replace(new, settings=settings, routing=routing, logins=logins, findings=(*said, *fixed, *more, *unusable))


_UNREAD = "Not a line of it can be used"
_TABLE_KEPT = "the table as it was stays in force until this is mended."
_RELAYS_KEPT = "the relays as they were stay in force until this is mended."


def _listeners(was: Mapping[str, Listener], will: Mapping[str, Listener]) -> tuple[dict[str, Listener], list[Finding]]:
    """The listeners that are there, with their new settings; where they listen stays."""
    findings = []
    listeners = {}
    for name, before in was.items():
        after = will.get(name)
        if after is None or (after.host, after.port) != (before.host, before.port):
            what = "a reload does not change what is listened on: restart."
            findings.append(warning("not-reloaded", f"listener.{name}.bind", what))
        listeners[name] = replace(after or before, host=before.host, port=before.port)
    findings += [
        warning("not-reloaded", f"listener.{name}", "a reload adds no listener: restart to listen there.")
        for name in will
        if name not in was
    ]
    return listeners, findings


T = TypeVar("T", bound=Table)


def _faults(relays: Relays) -> tuple[str, ...]:
    return tuple(fault for fault in (relays.fault, relays.credentials_fault) if fault)


def _lines(table: Table) -> int:
    return len(table.entries if isinstance(table, TextTable) else table.rules)


def _one(table: TextTable | None) -> tuple[TextTable, ...]:
    return () if table is None else (table,)


def _file(rule: str) -> str:
    return rule.rpartition(":")[0]


def _virtual(was: Mapping[str, Login], files: Collection[str], will: Mapping[str, Login]) -> dict[str, Login]:
    """The virtual accounts of these alias files, as long as their accounts are there, whose passwords they have."""
    return {
        key: replace(login, password=will[login.account.key].password)
        for key, login in was.items()
        if login.virtual and _file(login.rule) in files and login.account.key in will
    }


def _tables(was: tuple[T, ...], will: tuple[T, ...], unread: Collection[str]) -> tuple[tuple[T, ...], list[T]]:
    """The tables in force, and those of the new ones that are not, because they were good before."""
    good = {table.file: table for table in was if not table.fault and (table.file not in unread or _lines(table))}
    refused = [table for table in will if (table.fault or table.file in unread) and table.file in good]
    return tuple(good[table.file] if table in refused else table for table in will), refused
