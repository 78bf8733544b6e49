"""Where smtproute and Postfix once differed, or easily would: small folders, each with what Postfix does and why."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.oracle.differential import Outcome, ours, theirs
from tests.oracle.folders import Case, Folder, files, read
from tests.oracle.postfix import FRIEND, HOST, STRANGER, Asked, postfix

REFUSED = "refused"
DEFERRED = "deferred"
_WORDS = re.compile(r'(?:"[^"]*"|\S)+')


@dataclass(frozen=True)
class Known:
    name: str
    folder: Folder
    expected: dict[str, str]
    """For each recipient: the final addresses, "refused" or "deferred"."""
    client: str = STRANGER


KNOWN = (
    # Domains that a table claims (virtual_alias_domains = $virtual_alias_maps)
    Known(
        "a key that is a bare domain makes it one of aliases: its accounts are never reached",
        Folder(virtual="x.test b@ext.test\nalias@x.test b@ext.test\n", accounts=("a@x.test",)),
        {"a@x.test": REFUSED, "alias@x.test": "b@ext.test"},
    ),
    Known(
        "such keys are not folded: written in capitals it claims nothing",
        Folder(virtual="X.test b@ext.test\n", accounts=("a@x.test",)),
        {"a@x.test": "a@x.test", "A@X.TEST": "a@x.test"},
    ),
    Known(
        "a pattern that matches a foreign bare domain makes it local, whatever its result",
        Folder(regexp=r"/^gmail\.test$/" + "\n" + r"/^me@gmail\.test$/ a@x.test" + "\n", accounts=("a@x.test",)),
        {"me@gmail.test": "a@x.test", "you@gmail.test": REFUSED, "you@mail.test": REFUSED},
    ),
    Known(
        "a pattern that has no $ at its start matches the domain as well as its addresses",
        Folder(regexp=r"/gmail\.test$/ a@x.test" + "\n", accounts=("a@x.test",)),
        {"anyone@gmail.test": "a@x.test", "anyone@sub.gmail.test": "a@x.test", "anyone@gmail.test.example": REFUSED},
    ),
    Known(
        "our own name is claimed by nothing: mydestination goes first",
        Folder(virtual=f"{HOST} b@ext.test\n", aliases="info: b@ext.test\n", accounts=("a@x.test",)),
        {f"info@{HOST}": "b@ext.test", f"other@{HOST}": REFUSED},
    ),
    Known(
        "an account at the host name is never reached: mydestination goes before virtual mailboxes",
        Folder(accounts=(f"a@{HOST}", "a@x.test")),
        {f"a@{HOST}": REFUSED, "a@x.test": "a@x.test"},
    ),
    # Our own names, and domains of aliases, as postfix-main.cf has them
    Known(
        "a host name that is taken out of mydestination is a mail domain: accounts there, and no local aliases",
        Folder(
            virtual=f"info@{HOST} a@{HOST}\nbare b@ext.test\nto@x.test bare, a\n",
            aliases="loc: b@ext.test\nouter: bare, b@x.test\n",
            accounts=(f"a@{HOST}", "b@x.test"),
            main="mydestination = localhost.$mydomain, localhost\n",
        ),
        {
            f"a+t@{HOST}": f"a+t@{HOST}",
            f"info@{HOST}": f"a@{HOST}",
            f"bare@{HOST}": "b@ext.test",
            "bare@localhost": "b@ext.test",
            "to@x.test": f"a@{HOST} b@ext.test",
            f"other@{HOST}": REFUSED,
            f"loc@{HOST}": REFUSED,
            "loc@localhost": "b@ext.test",
            "outer@localhost": "b@ext.test b@x.test",
            "a@localhost": REFUSED,
            "info@[127.0.0.1]": REFUSED,
            "bare@[127.0.0.1]": "b@ext.test",
        },
    ),
    Known(
        "a host name without mydestination, accounts and keys is a stranger",
        Folder(virtual="bare b@ext.test\n", accounts=("a@x.test",), main="mydestination =\n"),
        {f"bare@{HOST}": REFUSED, "bare@localhost": REFUSED, "bare@[127.0.0.1]": "b@ext.test", "a@x.test": "a@x.test"},
    ),
    Known(
        "such a host name can be claimed",
        Folder(virtual=f"{HOST} b@ext.test\n", accounts=(f"a@{HOST}",), main="mydestination = localhost\n"),
        {f"a@{HOST}": REFUSED},
    ),
    Known(
        "domains of aliases that are named have no mailboxes, the host name neither, and bare keys claim nothing",
        Folder(
            virtual="info@ali.test a@x.test\nx.test b@ext.test\n",
            accounts=("a@x.test", "a@ali.test", f"a@{HOST}"),
            main="virtual_alias_domains = Ali.test, only.test\n",
        ),
        {
            "info@ali.test": "a@x.test",
            "a@ali.test": REFUSED,
            "a@sub.ali.test": REFUSED,
            "a@only.test": REFUSED,
            "a@x.test": "a@x.test",
            f"a@{HOST}": REFUSED,
        },
    ),
    Known(
        "mydestination goes before domains of aliases, and those before mailboxes",
        Folder(
            aliases="loc: b@ext.test\n",
            accounts=("a@dest.test", "a@x.test"),
            main="mydestination = $myhostname, dest.test\nvirtual_alias_domains = dest.test $myhostname x.test\n",
        ),
        {
            f"loc@{HOST}": "b@ext.test",
            "loc@dest.test": "b@ext.test",
            "a@dest.test": REFUSED,
            "a@x.test": REFUSED,
            "loc@localhost": REFUSED,
        },
    ),
    Known(
        "without domains of aliases the host name has no mailboxes all the same",
        Folder(virtual="x.test b@ext.test\n", accounts=(f"a@{HOST}", "a@x.test"), main="virtual_alias_domains =\n"),
        {f"a@{HOST}": REFUSED, "a@x.test": "a@x.test"},
    ),
    Known(
        "a bare domain that Postfix knows by its duplicate in other letters only",
        Folder(virtual="a@x.test b@ext.test\nA@x.test c@ext.test\n", accounts=("z@x.test",)),
        {"a@x.test": DEFERRED, "z@x.test": DEFERRED, "who@ext.test": REFUSED},
    ),
    Known(
        "the same key twice in the same letters: not even the domain of a stranger's recipient can be judged",
        Folder(virtual="a@x.test b@ext.test\na@x.test c@ext.test\n", accounts=("z@x.test",)),
        {"a@x.test": DEFERRED, "z@x.test": DEFERRED, "who@ext.test": DEFERRED},
    ),
    # Vhost, which docker-mailserver's scripts write
    Known(
        "the scripts take a continuation line for an alias: its first target's domain becomes local",
        Folder(virtual="a@x.test\n  b@ext.test, c@x.test\n", accounts=("c@x.test",)),
        {"a@x.test": "c@x.test", "b@ext.test": REFUSED},
    ),
    Known(
        "of a continuation line without a space after the comma too",
        Folder(virtual="a@x.test\n  b@ext.test,c@x.test\n", accounts=("c@x.test",)),
        {"a@x.test": "c@x.test"},
    ),
    Known(
        "a quoted key with a space makes no domain local: the scripts cut it at the space",
        Folder(virtual='"a b"@x.test c@ext.test\n', accounts=("c@y.test",)),
        {'"a b"@x.test': REFUSED},
    ),
    # Targets
    Known(
        "what stands before <...>, back to the comma, is a name and no target",
        Folder(virtual="a@x.test b@ext.test, c@ext.test d@ext.test <e@ext.test> f@ext.test\n"),
        {"a@x.test": "b@ext.test e@ext.test f@ext.test"},
    ),
    Known(
        "a remark in brackets is no target, and a note is several",
        Folder(virtual="a@x.test b@ext.test (the boss) #note\n"),
        {"a@x.test": "b@ext.test"},
    ),
    Known(
        "an address that grows without end is given up",
        Folder(regexp=r"/^(.+)@x\.test$/ ${1}more@x.test, b@ext.test" + "\n", accounts=("a@x.test",)),
        {"a@x.test": DEFERRED},
    ),
    Known(
        "a pattern that heeds the case lets an address lead to itself in other letters, once",
        Folder(regexp="/^a@X/i a@x.test\n/^A@x/i b@ext.test\n", accounts=("a@x.test",)),
        {"a@x.test": "a@x.test"},
    ),
    Known(
        "a result that is empty is a fault",
        Folder(regexp=r"/^a@x\.test$/" + "\n", accounts=("a@x.test", "b@x.test")),
        {"a@x.test": DEFERRED, "b@x.test": "b@x.test"},
    ),
    # Details
    Known(
        "a local part that begins with the delimiter has no detail",
        Folder(virtual="a@x.test b@ext.test\n+a@x.test c@ext.test\n", accounts=("d@x.test",)),
        {
            "+a@x.test": "c@ext.test",
            "+a+t@x.test": REFUSED,
            "a+@x.test": "b+@ext.test",
            "a+t+u@x.test": "b+t+u@ext.test",
        },
    ),
    Known(
        "a detail goes to each target, behind one that it has",
        Folder(virtual="a@x.test b+one@ext.test, c\n@y.test @ext.test\n", aliases="c: d@ext.test\n"),
        {"a+t@x.test": "b+one+t@ext.test d@ext.test", "who+t@y.test": "who+t@ext.test"},
    ),
    # Local aliases
    Known(
        "local aliases carry no detail over, and a key with the detail goes first",
        Folder(aliases="info: a@ext.test\ninfo+t: b@ext.test\n", accounts=("z@x.test",)),
        {f"info+u@{HOST}": "a@ext.test", f"INFO+T@{HOST}": "b@ext.test", "info@localhost": "a@ext.test"},
    ),
    Known(
        "a local alias that names itself means the system's user, and there is none",
        Folder(aliases="info: info, a@ext.test\nsole: sole\n", accounts=("z@x.test",)),
        {f"info@{HOST}": "a@ext.test", f"sole@{HOST}": REFUSED},
    ),
    Known(
        "the alias with the detail may lead to itself, and the one without is asked then",
        Folder(aliases="info+t: info+t\ninfo: a@ext.test\n", accounts=("z@x.test",)),
        {f"info+t@{HOST}": "a@ext.test"},
    ),
    Known(
        "what local aliases yield at our own name is asked of local aliases only",
        Folder(virtual="inner a@ext.test\n", aliases="outer: inner, b@ext.test\n", accounts=("z@x.test",)),
        {f"outer@{HOST}": "b@ext.test", f"inner@{HOST}": "a@ext.test"},
    ),
    Known(
        "with an owner it is sent as a new message, and virtual aliases see it",
        Folder(virtual="inner a@ext.test\n", aliases="outer: inner\nowner-outer: b@ext.test\n", accounts=("z@x.test",)),
        {f"outer@{HOST}": "a@ext.test"},
    ),
    Known(
        "a circle of local aliases goes round once more where it has got an owner on its way",
        Folder(
            virtual="inner a@ext.test\n",
            aliases="outer: inner, b@ext.test\ninner: inner, list\nlist: outer\nowner-list: c@ext.test\n",
            accounts=("z@x.test",),
        ),
        {f"outer@{HOST}": "a@ext.test b@ext.test"},
    ),
    Known(
        "what they yield elsewhere is asked of the virtual aliases",
        Folder(virtual="a@x.test b@ext.test\n", aliases="info: a@x.test\n"),
        {f"info@{HOST}": "b@ext.test"},
    ),
    Known(
        "local aliases in a circle bounce what is in it, and deliver the rest",
        Folder(aliases="a: b, c@ext.test\nb: a\nd: e\ne: d\n", accounts=("z@x.test",)),
        {f"a@{HOST}": "c@ext.test", f"d@{HOST}": REFUSED},
    ),
    Known(
        "a circle through a virtual alias and a local one is a mail loop, which bounces",
        Folder(virtual="a@x.test info\n", aliases="info: a@x.test\n"),
        {"a@x.test": REFUSED, f"info@{HOST}": REFUSED},
    ),
    Known(
        "virtual aliases go before local ones, and the whole address before the bare name",
        Folder(virtual=f"info a@ext.test\nother@{HOST} b@ext.test\n", aliases="info: c@ext.test\nother: c@ext.test\n"),
        {f"info@{HOST}": "a@ext.test", f"other@{HOST}": "b@ext.test", "other@localhost": "c@ext.test"},
    ),
    Known(
        "root is docker-mailserver's own: its line goes before the folder's",
        Folder(virtual="postmaster@oracle.test a@ext.test\n", aliases="root: b@ext.test\n"),
        {f"root@{HOST}": "a@ext.test", f"root+t@{HOST}": "a@ext.test"},
    ),
    Known(
        "a local alias to a file takes the mail",
        Folder(virtual="a@x.test devnull@localhost, b@ext.test\n", aliases="devnull: /dev/null\n"),
        {"a@x.test": "devnull@localhost b@ext.test", f"devnull@{HOST}": f"devnull@{HOST}"},
    ),
    Known(
        "a command in quotes is one, and so is a list of addresses; a tilde is none without its slash",
        Folder(
            aliases='prog: "|/bin/true -x", b@ext.test\nbare: |/bin/true\nfile: "/dev/null"\ntilde: ~joe\n',
            accounts=("z@x.test",),
        ),
        {
            f"prog@{HOST}": f"prog@{HOST} b@ext.test",
            f"bare@{HOST}": f"bare@{HOST}",
            f"file@{HOST}": f"file@{HOST}",
            f"tilde@{HOST}": REFUSED,
        },
    ),
    # Addresses
    Known(
        "quotes that need not be there are not there",
        Folder(virtual='a@x.test b@ext.test\n"c d"@x.test e@ext.test\n"f"@x.test g@ext.test\n', accounts=("z@x.test",)),
        {'"a"@x.test': "b@ext.test", '"c d"@x.test': "e@ext.test", "f@x.test": REFUSED},
    ),
    Known(
        "a local part may be half quoted, as a pattern makes it",
        Folder(regexp=r"/^(.+)@x\.test$/ ${1}.tail@ext.test" + "\n", accounts=("z@x.test",)),
        {'"a b"@x.test': '"a b.tail"@ext.test'},
    ),
    Known(
        "an address literal of ours is our own name",
        Folder(virtual="info a@ext.test\n", accounts=("z@x.test",)),
        {"info@[127.0.0.1]": "a@ext.test", "other@[127.0.0.1]": REFUSED, "info@[192.0.2.1]": REFUSED},
    ),
    Known(
        "a stranger's address with another inside it is relayed to nobody",
        Folder(virtual="@x.test a@ext.test\n"),
        {
            "b%y.test@x.test": REFUSED,
            "y.test!b@x.test": REFUSED,
            '"b@y.test"@x.test': REFUSED,
            "b@x.test": "a@ext.test",
        },
    ),
    Known(
        "a target without a domain is at our own name, and so is a bare catch-all's",
        Folder(virtual="a@x.test info\n@x.test info\n", aliases="info: c@ext.test\n"),
        {"a@x.test": "c@ext.test", "who+t@x.test": "c@ext.test"},
    ),
    Known(
        "a target whose domain is a number is no address",
        Folder(virtual="a@x.test b@192.0.2.1, c@ext.test\n"),
        {"a@x.test": "c@ext.test"},
    ),
    Known(
        "the catch-all of the host name goes before its local aliases",
        Folder(virtual=f"@{HOST} a@ext.test\n", aliases="info: c@ext.test\n"),
        {f"info@{HOST}": "a@ext.test", "info@localhost": "c@ext.test"},
    ),
    Known(
        "who may send anywhere is refused at unknown local addresses all the same",
        Folder(virtual="@x.test @y.test\n", accounts=("a@y.test",)),
        {"a@x.test": "a@y.test", "b@x.test": REFUSED, "c@ext.test": "c@ext.test"},
        FRIEND,
    ),
)


@pytest.mark.peer("postconf", "postmap")
@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_as_postfix(known: Known, place: Path) -> None:
    expected = {
        recipient: Outcome(text)
        if text in (REFUSED, DEFERRED)
        else Outcome("delivered", frozenset(_WORDS.findall(text)))
        for recipient, text in known.expected.items()
    }
    with postfix(place / "postfix", files([known.folder])) as oracle:
        became = oracle.ask([Asked(recipient, known.client) for recipient in expected])
    found = {recipient: theirs(each, known.folder.accounts) for recipient, each in zip(expected, became, strict=True)}
    assert found == expected, f"Postfix: {became}"
    routing = read(place / "folder", known.folder)
    assert {each: ours(routing, Case(known.folder, each, known.client)) for each in expected} == expected


@pytest.mark.peer("postconf", "postmap")
def test_an_address_without_a_local_part_gets_nothing(place: Path) -> None:
    """Postfix takes a target @domain that is not the first for an address whose local part is empty, and sends to it.
    We do not: that is no address, and meant was something else."""
    folder = Folder(virtual="a@x.test b@ext.test, @ext.test\n")
    with postfix(place / "postfix", files([folder])) as oracle:
        (became,) = oracle.ask([Asked("a@x.test")])
    assert theirs(became, ()).finals == {"b@ext.test", '""@ext.test'}
    assert ours(read(place / "folder", folder), Case(folder, "a@x.test")).finals == {"b@ext.test"}


@pytest.mark.peer("postconf", "postmap")
def test_an_address_with_another_inside_it_is_no_route(place: Path) -> None:
    """Postfix relays a trusted client's a%b@HOST to a@b (percent_hack). To us it is nobody's name at the host."""
    folder = Folder(accounts=("a@x.test",))
    recipient = f"b%y.test@{HOST}"
    with postfix(place / "postfix", files([folder])) as oracle:
        (became,) = oracle.ask([Asked(recipient, FRIEND)])
    assert theirs(became, ()).finals == {"b@y.test"}
    assert ours(read(place / "folder", folder), Case(folder, recipient, FRIEND)).word == REFUSED
