"""What Postfix does with a recipient and what smtproute does, in the same few words."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from smtproute.core.address import Address
from smtproute.core.decide import Facts, Routing, decide
from smtproute.core.envelope import Client, Envelope
from smtproute.core.plan import Plan
from smtproute.core.settings import Kind, Role
from tests.oracle.folders import Case, files, read
from tests.oracle.postfix import FRIEND, Asked, Became, postfix


@dataclass(frozen=True)
class Outcome:
    """Where a recipient's mail goes in the end."""

    word: str
    """delivered, refused or deferred."""
    finals: frozenset[str] = frozenset()
    """The final addresses that get it, in lower case."""

    def __str__(self) -> str:
        return f"{self.word} {' '.join(sorted(self.finals))}".strip()


def theirs(became: Became, accounts: Iterable[str]) -> Outcome:
    """Postfix's. What bounces after it was accepted is as good as refused, what expires as good as deferred."""
    known = {account.lower() for account in accounts}
    if became.code >= 400:
        return Outcome("deferred" if became.code < 500 else "refused")
    finals = frozenset(
        address.lower()
        for address, nexthop in became.sent
        if nexthop != "virtual" or address.lower() in known or _undetailed(address.lower()) in known
    )
    if finals:
        return Outcome("delivered", finals)
    return Outcome("deferred" if became.deferred else "refused")


def _undetailed(address: str) -> str:
    """As Dovecot's LMTP finds the user."""
    local, _, domain = address.rpartition("@")
    return f"{local.partition('+')[0]}@{domain}"


def ours(routing: Routing, case: Case, recipient: str = "") -> Outcome:
    """smtproute's, for another recipient where one is given."""
    plan = planned(routing, case, recipient)
    if plan.refusal is not None:
        return Outcome("deferred" if plan.refusal.temporary else "refused")
    live = (copy for copy in plan.deliveries if copy.kind is not Kind.BOUNCE)
    return Outcome("delivered", frozenset(str(copy.address).lower() for copy in live))


def planned(routing: Routing, case: Case, recipient: str = "") -> Plan:
    if case.login:
        login = Address.parse(case.login)
        peer = Client(case.client, 4711, "submission", Role.SUBMISSION, False, login=login)
    else:
        peer = Client(case.client, 4711, "mx", Role.INBOUND, case.client == FRIEND)
    sender = Address.parse(case.sender) if case.sender else None
    written = recipient or case.recipient
    asked = None if written.lower() == "postmaster" else Address.parse(written)
    return decide(Facts(routing, now=0.0), Envelope(peer, sender), asked)


@dataclass(frozen=True)
class Difference:
    case: Case
    theirs: Outcome
    ours: Outcome
    became: Became

    def __str__(self) -> str:
        return (
            f"<{self.case.recipient}> from <{self.case.sender}> {self.case.login} at {self.case.client}\n"
            f"Postfix: {self.theirs}\n         {self.became}\n"
            f"ours:    {self.ours}\n{self.case.folder}\n"
        )


def differences(folder: Path, cases: Iterable[Case]) -> Iterator[Difference]:
    """All that differs, with the folders of all cases in one Postfix, which lives in `folder`."""
    asked = list(cases)
    folders = list(dict.fromkeys(case.folder for case in asked))
    routings = {each: read(folder / "folders" / str(number), each) for number, each in enumerate(folders)}
    with postfix(folder / "postfix", files(folders)) as oracle:
        answers = oracle.ask([Asked(case.recipient, case.client, case.sender, case.login) for case in asked])
    for case, became in zip(asked, answers, strict=True):
        found = Difference(
            case,
            theirs(became, case.folder.accounts),
            ours(routings[case.folder], case),
            became,
        )
        if found.theirs != found.ours and not deliberate(routings[case.folder], found):
            yield found


def deliberate(routing: Routing, found: Difference) -> bool:
    """Whether it is a difference that we want."""
    # smtpd(8) asks the tables for the recipient in lower case and cleanup(8) for it as it is written, so that with
    # case-sensitive patterns a recipient may be unknown at RCPT whom cleanup(8) would deliver to. We answer as
    # cleanup(8) does, at any port.
    lower = found.case.recipient.lower()
    if found.became.code >= 400 and found.theirs == ours(routing, found.case, lower):
        return True
    # A trusted client's a%b@HOST is a@b to Postfix (percent_hack, swap_bangpath). Such routes are long dead, and to
    # us it is a name at the host that nobody has. A stranger's is refused even where the tables cannot be used.
    if set("@%!") & set(Address.parse(found.case.recipient).local) and found.ours.word != "delivered":
        return found.case.client == FRIEND or found.theirs.word == "deferred"
    # Where a local alias leads to a virtual one that cannot be expanded, Postfix delivers to the others and tries
    # this one until it expires. We answer 451 for the whole, as both do where a virtual alias leads there.
    return found.ours.word == "deferred" and bool(found.became.deferred)


def each_alone(folder: Path, cases: Iterable[Case]) -> Iterator[Difference]:
    """The same with a Postfix for each folder."""
    for number, (_, group) in enumerate(itertools.groupby(cases, key=lambda case: id(case.folder))):
        yield from differences(folder / str(number), group)
