"""Routing tables in a line, for tests."""

from __future__ import annotations

from smtproute.core.address import Address, Domain
from smtproute.core.aliases import Aliases, Entry, TextTable
from smtproute.core.decide import Mailbox, Routing
from smtproute.core.envelope import Client, Envelope
from smtproute.core.routes import Route, Target, parse_match
from smtproute.core.settings import Mode, Role

HOST = "mail.example.org"
CAPTURE = Target(Mode.CAPTURE)


def text_table(entries: dict[str, str], file: str = "postfix-virtual.cf", fault: str = "") -> TextTable:
    lines = {key.lower(): Entry(number, value) for number, (key, value) in enumerate(entries.items(), 1)}
    return TextTable(file, lines, fault)


def aliases(*tables, delimiter: str = "+") -> Aliases:
    made = tuple(text_table(table) if isinstance(table, dict) else table for table in tables)
    return Aliases(made, Domain.parse(HOST), delimiter)


def routing(
    *tables,
    accounts: tuple[str, ...] = (),
    domains: tuple[str, ...] = (),
    routes: tuple[tuple[str, Target], ...] = (),
    default: Target = CAPTURE,
    delimiter: str = "+",
) -> Routing:
    made = aliases(*tables, delimiter=delimiter)
    local = {Domain.parse(name).key: f"domains[{number}]" for number, name in enumerate(domains)}
    mailboxes = {}
    for number, account in enumerate(accounts, 1):
        address = Address.parse(account)
        rule = f"postfix-accounts.cf:{number}"
        mailboxes[address.key] = Mailbox(address, rule)
        local.setdefault(address.domain.key, rule)
    for table in made.tables:
        for key, entry in table.entries.items() if isinstance(table, TextTable) else ():
            if "@" in key:
                local.setdefault(key.rpartition("@")[2], f"{table.file}:{entry.line}")
    listed = tuple(
        Route(f"route[{number}]", parse_match(match), target) for number, (match, target) in enumerate(routes)
    )
    return Routing(Domain.parse(HOST), made, local, mailboxes, listed, default)


def envelope(trusted: bool = False, role: Role = Role.INBOUND, sender: str | None = "s@else.example") -> Envelope:
    client = Client("127.0.0.1" if trusted else "192.0.2.1", 4711, "mx", role, trusted)
    return Envelope(client, Address.parse(sender) if sender else None)
