"""Survey: what `decide` says of every address that a configuration names, asked once for all families."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from smtproute.core.address import Address, AddressError, Domain
from smtproute.core.aliases import (
    Aliases,
    Fault,
    LookupFault,
    PcreTable,
    TextTable,
    Trouble,
    claimed,
    completed,
    expand,
    targets,
)
from smtproute.core.decide import Facts, Routing, decide
from smtproute.core.docker_mailserver import Folder
from smtproute.core.envelope import Client, Envelope
from smtproute.core.plan import Delivery, Plan, Step, Tried
from smtproute.core.reply import Refusal
from smtproute.core.routes import Route, parse_match
from smtproute.core.settings import Kind, Mode, Role, Srs
from smtproute.core.snapshot import Snapshot

__all__ = ["Alias", "Outlook", "Survey", "listed", "place"]

ANYBODY = "nobody-7c1e"
"""A local part that no file names: what a catch-all is asked with."""

MISREAD = frozenset({"duplicate-key", "inline-comment", "key-with-colon", "leading-space"})
"""Findings of the readers about lines that do not say what their author meant: nothing more is said about those."""


@dataclass(frozen=True, slots=True)
class Alias:
    """One entry of a text table."""

    key: str
    value: str
    where: str
    address: Address | None
    """Whom to ask about; None where the key is no address. Of a catch-all: somebody whom no file names."""

    @property
    def catch_all(self) -> bool:
        return self.key.startswith("@")


@dataclass(frozen=True, slots=True)
class Outlook:
    """What becomes of mail for one address, once nobody refuses its sender."""

    address: Address
    alias: Step | None
    """The first alias that takes it."""
    deliveries: tuple[Delivery, ...]
    refusal: Refusal | None
    notes: tuple[str, ...]

    def reaches(self, account: Address) -> bool:
        """Whether a copy gets into the account's mailbox."""
        return any(each.mailbox is not None and each.mailbox.key == account.key for each in self.deliveries)


class Survey:
    """A snapshot, and questions to it.

    Faults of whole tables are left out of account: they have findings of their own, and what else is wrong should
    not wait until they are mended. So are the access lists, which refuse on purpose, and SRS, whose addresses nobody
    writes into a table. The conditions of routes are
    taken to hold where that brings mail somewhere: what nobody gets then, nobody ever gets.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        routing = snapshot.routing
        tables = tuple(replace(table, fault="") for table in routing.aliases.tables)
        local = tuple(replace(table, fault="") for table in routing.aliases.local)
        self.routing = replace(
            routing,
            aliases=replace(routing.aliases, tables=tables, local=local),
            relays=replace(routing.relays, fault=""),
            send_access=None,
            receive_access=None,
            srs=Srs(),
            routes=tuple(_at_best(route) for route in routing.routes if not _refuses_some(route)),
        )
        self._files = tuple(f"{table.file}:" for table in (*tables, *local))
        self._outlooks: dict[str, Outlook] = {}
        self._claims: dict[str, str | None] = {}

    @property
    def folder(self) -> Folder | None:
        return self.snapshot.folder

    @property
    def tables(self) -> Aliases:
        return self.routing.aliases

    @cached_property
    def inbound(self) -> bool:
        """Whether strangers may send any mail here."""
        return any(each.role is Role.INBOUND for each in self.snapshot.settings.listeners.values())

    @cached_property
    def picky(self) -> bool:
        """Whether mail to elsewhere may be refused here."""
        return bool(self.snapshot.routing.routes) or self.routing.default.mode is Mode.REJECT

    @cached_property
    def misread(self) -> frozenset[str]:
        """The lines that a reader has found not to say what they seem to say, and those that such a line continues."""
        found = {each.where for each in self.snapshot.findings if each.name in MISREAD}
        continued = {place(each.where) for each in self.snapshot.findings if each.name == "leading-space"}
        for table in self.tables.tables:
            lines = sorted(entry.line for entry in table.entries.values()) if isinstance(table, TextTable) else []
            for file, line in continued:
                if file == table.file and (above := bisect_left(lines, line)):
                    found.add(f"{file}:{lines[above - 1]}")
        return frozenset(found)

    @cached_property
    def aliases(self) -> tuple[Alias, ...]:
        """Every entry of every text table, but for misread lines."""
        found = []
        for table in self.tables.tables:
            for key, entry in table.entries.items() if isinstance(table, TextTable) else ():
                where = f"{table.file}:{entry.line}"
                if where not in self.misread:
                    found.append(Alias(key, entry.value, where, self._address(key)))
        return tuple(found)

    @cached_property
    def local_aliases(self) -> tuple[Alias, ...]:
        """Every entry of the local aliases, for addresses at the names of the machine itself."""
        return tuple(
            Alias(key, entry.value, f"{table.file}:{entry.line}", self._address(key))
            for table in self.tables.local
            for key, entry in table.entries.items()
        )

    @cached_property
    def entries(self) -> dict[str, Alias]:
        """By the line."""
        return {alias.where: alias for alias in self.aliases}

    @cached_property
    def patterns(self) -> frozenset[str]:
        """The lines of all pattern rules."""
        return frozenset(
            f"{table.file}:{rule.line}"
            for table in self.tables.tables
            if isinstance(table, PcreTable)
            for rule in table.rules
        )

    @cached_property
    def mail_domains(self) -> tuple[str, ...]:
        """The domains of accounts and of alias keys, each once."""
        named = [mailbox.address.domain.key for mailbox in self.routing.mailboxes.values()]
        named += [alias.address.domain.key for alias in self.aliases if alias.address is not None and "@" in alias.key]
        return tuple(dict.fromkeys(named))

    @cached_property
    def peopled(self) -> frozenset[str]:
        """The domains of accounts."""
        return frozenset(mailbox.address.domain.key for mailbox in self.routing.mailboxes.values())

    def accounts(self, domain: str) -> list[Address]:
        """The accounts of a domain."""
        return [each.address for each in self.routing.mailboxes.values() if each.address.domain.key == domain]

    def _address(self, key: str) -> Address | None:
        whole = f"{ANYBODY}{key}" if key.startswith("@") else key if "@" in key else f"{key}@{self.tables.origin}"
        try:
            return Address.parse(whole)
        except AddressError:
            return None

    def outlook(self, address: Address) -> Outlook:
        """What becomes of mail for it, from a client that may send anywhere."""
        found = self._outlooks.get(address.key)
        if found is None:
            envelope = Envelope(Client("127.0.0.1", 0, "", Role.INBOUND, trusted=True), None)
            plan = decide(Facts(self.routing, now=0.0), envelope, address)
            found = self._outlooks[address.key] = self._seen(address, plan)
        return found

    def _seen(self, address: Address, plan: Plan) -> Outlook:
        """The plan without its steps, which for a large folder would be millions."""
        matched = (step for step in plan.steps if step.result is Tried.MATCHED and step.tried != address.domain.key)
        alias = next((step for step in matched if step.rule.startswith(self._files)), None)
        return Outlook(address, alias, plan.deliveries, plan.refusal, plan.notes)

    def fault(self, address: Address) -> Fault | None:
        """Why mail for it is put off."""
        refusal = self.outlook(address).refusal
        if refusal is None or not refusal.temporary:
            return None
        return expand(self.tables, address).fault or Fault(Trouble.TABLE, refusal.detail)

    def stranger(self, address: Address, routing: Routing | None = None) -> Refusal | None:
        """Why a stranger may not send to it; None where it is accepted."""
        envelope = Envelope(Client("192.0.2.1", 0, "", Role.INBOUND, trusted=False), None)
        return decide(Facts(routing or self.routing, now=0.0), envelope, address).refusal

    def claim(self, domain: str) -> str | None:
        """The rule that makes it a domain of aliases only."""
        if domain not in self._claims:
            try:
                self._claims[domain] = claimed(self.tables, Domain.parse(domain))
            except (AddressError, LookupFault):
                self._claims[domain] = None
        return self._claims[domain]

    def local(self, domain: str) -> bool:
        """Whether mail to it stays here."""
        return domain in self.routing.local_domains or self.claim(domain) is not None

    def leaving(self, address: Address) -> tuple[Address, ...]:
        """The final addresses elsewhere to which mail for it is forwarded."""
        outlook = self.outlook(address)
        if outlook.alias is None:
            return ()
        return tuple(
            each.address
            for each in outlook.deliveries
            if each.kind in (Kind.ENDPOINT, Kind.CAPTURE) and not self.local(each.address.domain.key)
        )

    @cached_property
    def forwards(self) -> dict[str, list[tuple[str, Address]]]:
        """What leaves the house: by the domain of the recipient as its sender wrote it, the key and one target."""
        found: dict[str, list[tuple[str, Address]]] = {}
        for alias in self.aliases:
            if alias.address is not None and (away := self.leaving(alias.address)):
                found.setdefault(alias.address.domain.key, []).append((alias.key, away[0]))
        return found

    def somebody(self, alias: Alias) -> str:
        """An account, to show where an alias may lead."""
        domain = alias.address.domain.key if alias.address is not None else ""
        near = self.accounts(domain) or [each.address for each in self.routing.mailboxes.values()]
        return str(near[0]) if near else f"somebody@{domain}"

    def direct(self, alias: Alias) -> Iterator[Address]:
        """The addresses that an entry names; a target that is none is left out."""
        for target in targets(alias.value):
            if not target.startswith("@"):
                try:
                    yield completed(target, self.tables.origin)
                except AddressError:
                    continue


def _at_best(route: Route) -> Route:
    """The route where its conditions hold; one for certain senders still permits nobody."""
    return replace(route, sender=parse_match("*") if route.sender is not None else None, clients=(), listener="")


def _refuses_some(route: Route) -> bool:
    """Whether it takes mail from some senders to refuse or to return it."""
    return bool(route.conditions) and route.target.mode in (Mode.REJECT, Mode.BOUNCE)


def place(where: str) -> tuple[str, int]:
    """File and line of `file:line`, to sort by; line 0 of what has none."""
    file, _, line = where.rpartition(":")
    return (file, int(line)) if line.isdecimal() else (where, 0)


def listed(names: list[str] | tuple[str, ...], most: int = 8) -> str:
    """Names in a sentence, those beyond `most` only counted."""
    shown = [str(name) for name in names[:most]]
    if len(names) > most:
        shown.append(f"{len(names) - most} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
