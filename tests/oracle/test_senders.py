"""Who may send as whom, who may not send or receive, and by which relay: the same as Postfix, for every pair."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from smtproute.core.address import Address
from smtproute.core.plan import Step
from smtproute.core.relays import relay_for
from tests.oracle.differential import ours, planned
from tests.oracle.folders import RECEIVE, RELAYS, SEND, Case, Folder, files, read
from tests.oracle.postfix import FRIEND, HOST, STRANGER, Asked, Became, postfix

pytestmark = pytest.mark.peer("postconf", "postmap")


def asked(place: Path, cases: list[Case]) -> list[Became]:
    with postfix(place / "postfix", files([cases[0].folder])) as oracle:
        return oracle.ask([Asked(each.recipient, each.client, each.sender, each.login) for each in cases])


SPOOF = Folder(
    virtual="""\
alias@x.test anna@x.test
both@x.test anna@x.test, ben@y.test
Nested@x.test alias@x.test
detail@x.test anna+t@x.test
lower@x.test Anna@X.test
anna+own@x.test ben@y.test
@all.test anna@x.test
bare anna@x.test
taken@x.test ben@y.test
named@x.test Ben <ben@y.test>
self@y.test self@y.test
""",
    regexp=r"""
/^any.*@x\.test$/ anna@x.test
/^(b..)\.x@x\.test$/ $1@y.test
/^CASE@x\.test$/i anna@x.test
""",
    aliases=f"local: anna@x.test\nlocal@{HOST}: anna@x.test\n",
    accounts=("anna@x.test", "ben@y.test", "taken@x.test"),
    spoof_protection=True,
)
SENDERS = (
    "anna@x.test",
    "ANNA@X.test",
    "anna+t@x.test",
    "anna+own@x.test",
    "alias@x.test",
    "Alias@X.test",
    "alias+t@x.test",
    "both@x.test",
    "nested@x.test",
    "detail@x.test",
    "lower@x.test",
    "who@all.test",
    f"bare@{HOST}",
    "taken@x.test",
    "named@x.test",
    "self@y.test",
    "anyone@x.test",
    "anyone+t@x.test",
    "ben.x@x.test",
    "CASE@x.test",
    "case@x.test",
    f"local@{HOST}",
    "ben@y.test",
    "stranger@ext.test",
    '"anna"@x.test',
    "",
)
LOGINS = ("anna@x.test", "ben@y.test", "taken@x.test")


def test_spoof_protection(place: Path) -> None:
    """docker-mailserver's pattern that answers everything is in the way of looking up a sender without its detail,
    its domain or its bare name; patterns see it in lower case, as smtpd(8) resolved it."""
    cases = [Case(SPOOF, "to@ext.test", FRIEND, sender, login) for sender, login in product(SENDERS, LOGINS)]
    routing = read(place / "folder", SPOOF)
    owned = {(case.sender, case.login): became.code for case, became in zip(cases, asked(place, cases), strict=True)}
    plans = {(case.sender, case.login): planned(routing, case) for case in cases}
    found = {pair: plan.refusal.reply.code if plan.refusal else 250 for pair, plan in plans.items()}
    assert found == owned
    assert {sender for (sender, login), code in owned.items() if login == "anna@x.test" and code == 250} == {
        "",
        "anna@x.test",
        "ANNA@X.test",
        '"anna"@x.test',
        "alias@x.test",
        "Alias@X.test",
        "both@x.test",
        "lower@x.test",
        "anyone@x.test",
        "anyone+t@x.test",
    }


ACCESS = Folder(
    virtual="alias@x.test anna@x.test\n",
    accounts=("anna@x.test", "ben@sub.x.test"),
    others={
        SEND: """\
bad@ext.test REJECT
ext.test 450 4.3.2 Not now
good@ext.test OK
parent.test reject
ok.parent.test OK
name@ REJECT no such names
late@far.test DEFER
numeric@far.test 12345
dunno@far.test DUNNO
class@far.test reject
permits@far.test permit
<> REJECT
bad@x.test	550 No
tab@far.test REJECT	with a tab
tabbed@far.test defer	with a tab
timestamp@far.test 550
later@far.test 450
wide@far.test 550  5.7.9	two
dotted@far.test 550 5.7.9
detail+t@far.test REJECT
plain@far.test REJECT
""",
        RECEIVE: """\
alias@x.test REJECT
sub.x.test OK
.x.test REJECT
test DUNNO
nobody@ 550 5.7.9 never
anna+t@x.test 451 later
""",
    },
)
ACCESS_SENDERS = (
    "",
    "bad@ext.test",
    "Bad@EXT.test",
    "good@ext.test",
    "good+t@ext.test",
    "bad+t@ext.test",
    "other@ext.test",
    "a@parent.test",
    "a@deep.sub.parent.test",
    "a@ok.parent.test",
    "name@far.test",
    "name+t@far.test",
    "late@far.test",
    "numeric@far.test",
    "dunno@far.test",
    "class@far.test",
    "permits@far.test",
    "bad@x.test",
    "tab@far.test",
    "tabbed@far.test",
    "timestamp@far.test",
    "later@far.test",
    "wide@far.test",
    "dotted@far.test",
    "detail@far.test",
    "detail+t@far.test",
    "plain+t@far.test",
)
ACCESS_RECIPIENTS = ("anna@x.test", "alias@x.test", "ben@sub.x.test", "anna+t@x.test", "nobody@ext.test")


def test_access_lists(place: Path) -> None:
    """Replies are compared by number: the words are ours."""
    pairs = [(sender, "anna@x.test") for sender in ACCESS_SENDERS]
    pairs += [("dunno@far.test", recipient) for recipient in ACCESS_RECIPIENTS]
    cases = [Case(ACCESS, recipient, FRIEND, sender) for sender, recipient in pairs]
    routing = read(place / "folder", ACCESS)
    answered = {(case.sender, case.recipient): each.code for case, each in zip(cases, asked(place, cases), strict=True)}
    plans = {(case.sender, case.recipient): planned(routing, case) for case in cases}
    found = {pair: plan.refusal.reply.code if plan.refusal else 250 for pair, plan in plans.items()}
    assert found == answered
    assert set(answered.values()) == {250, 450, 451, 550, 554}


POSTMASTER = Folder(
    virtual=f"postmaster@{HOST} anna@x.test\n",
    accounts=("anna@x.test",),
    others={SEND: "bad@ext.test REJECT\n", RECEIVE: "postmaster@ REJECT\n"},
    spoof_protection=True,
)


@pytest.mark.parametrize(
    ("client", "sender", "login"),
    [
        (STRANGER, "bad@ext.test", ""),
        (FRIEND, "bad@ext.test", ""),
        (FRIEND, "who@ext.test", ""),
        (FRIEND, "other@x.test", "anna@x.test"),
    ],
)
def test_the_bare_postmaster_is_accepted_from_anybody(place: Path, client: str, sender: str, login: str) -> None:
    """smtpd(8) lets `RCPT TO:<postmaster>` pass before it asks any restriction; with a domain it does not."""
    bare, whole = "postmaster", f"postmaster@{HOST}"
    cases = [Case(POSTMASTER, each, client, sender, login) for each in (bare, whole)]
    routing = read(place / "folder", POSTMASTER)
    named, refused = asked(place, cases)
    assert named.code == 250 and {address for address, _ in named.sent} == {"anna@x.test"}
    assert ours(routing, cases[0]).finals == {"anna@x.test"}
    assert refused.code >= 500 and ours(routing, cases[1]).word == "refused"


BROKEN = Folder(accounts=("anna@x.test",), others={SEND: "a@x.test REJECT\na@x.test OK\n"})


def test_an_access_list_with_a_duplicate_key_answers_for_nobody(place: Path) -> None:
    case = Case(BROKEN, "anna@x.test", sender="b@y.test")
    (became,) = asked(place, [case])
    assert became.code == 451
    assert ours(read(place / "folder", BROKEN), case).word == "deferred"


RELAYED = Folder(
    accounts=("anna@x.test",),
    others={
        RELAYS: f"""\
@x.test [domain.relay]:587
anna@x.test [address.relay]:25
ben+t@x.test [detail.relay]:465
Upper@X.test mx.relay
<> [null.relay]
@{HOST} [host.relay]
bare [bare.relay]
dunno@x.test DUNNO
"""
    },
)
RELAY_SENDERS = (
    "",
    "anna@x.test",
    "ANNA@x.TEST",
    "anna+t@x.test",
    "ben@x.test",
    "ben+t@x.test",
    "ben+u@x.test",
    "upper@x.test",
    "who@x.test",
    "who@sub.x.test",
    f"bare@{HOST}",
    f"bare+t@{HOST}",
    f"other@{HOST}",
    "dunno@x.test",
    "dunno+t@x.test",
)


def test_relays(place: Path) -> None:
    """By the sender's address, without its detail, the bare name at our own names, then the domain; null is <>."""
    cases = [Case(RELAYED, "to@ext.test", FRIEND, sender) for sender in RELAY_SENDERS]
    routing = read(place / "folder", RELAYED)
    hops = {case.sender: each.sent[0][1] for case, each in zip(cases, asked(place, cases), strict=True)}
    found = {}
    for sender in RELAY_SENDERS:
        steps: list[Step] = []
        address = Address.parse(sender) if sender else None
        own = address is not None and routing.aliases.own(address.domain)
        relay = relay_for(routing.relays, address, steps, own)
        found[sender] = relay[0].removeprefix("relay ") if relay is not None else "ext.test"
    assert found == hops
