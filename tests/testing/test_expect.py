"""Where mail goes, how it is sealed, whether it was changed: what is not as it was expected, in words."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smtproute.core.address import AddressError
from smtproute.core.settings import Kind
from smtproute.intake.explain import Explained
from smtproute.mailauth import arc
from smtproute.testing.arrivals import Arrival
from smtproute.testing.difference import change
from smtproute.testing.expect import misrouted, missealed, routes, sealing
from smtproute.testing.pattern import Pattern
from smtproute.testing.signer import Signer
from smtproute.testing.stage import Flow, Stage
from tests.mailauth.arc_peers import AT, BOUNDS, FOUND, ZoneTxt, judged, results, signing_key, zone

CONFIG = """
domains = ["example.org"]
[aliases]
tables = ["{folder}/virtual"]
[accounts]
file = "{folder}/accounts"
[listener.mx]
bind = "127.0.0.1:25"
role = "inbound"
[endpoint.external]
servers = ["mx.external.example:25"]
[[route]]
match = "*@external.example"
endpoint = "external"
[[route]]
match = "kept@example.org"
mode = "capture"
[[route]]
match = "held@example.org"
mode = "hold"
[[route]]
match = "back@example.org"
mode = "bounce"
[arc.keys]
"example.org" = {{ selector = "mail", file = "none.pem" }}
"""


def house(folder: Path) -> str:
    """The configuration, with the files that it names in a folder."""
    (folder / "virtual").write_text(
        "name@example.org name@example.org, name@external.example\n"
        "all@example.org kept@example.org, held@example.org, back@example.org, gone@example.org\n"
        "two@example.org one@external.example, two@external.example\n"
    )
    (folder / "accounts").write_text("name@example.org|{PLAIN}x\n")
    return CONFIG.format(folder=folder)


@pytest.fixture
async def flow(tmp_path: Path) -> Any:
    async with Stage(seed=7, now=1_700_000_000) as stage:
        yield await stage.relay(house(tmp_path))


# Where mail goes


def told(found: Explained, refused: str = "2*", **expected: Any) -> str:
    """What is not so of these claims."""
    return misrouted(found, routes(**expected), Pattern.parse(refused))


async def test_each_place_is_named_and_each_must_be_there(flow: Flow) -> None:
    name, everywhere, two, nobody = await flow.explain(
        "name@example.org", "all@example.org", "two@example.org", "nobody@example.org", sender="friend@else.example"
    )
    assert not told(name, mailbox="name@example.org", endpoint=("external", "NAME@External.example"))
    assert not told(
        everywhere,
        capture="kept@example.org",
        held=["held@example.org"],
        bounce=["back@example.org", "gone@example.org"],
    )
    assert not told(two, endpoint=[("external", "one@external.example"), ("external", "two@external.example")])
    for refused in ("550", "550 5.1.1", "550 5.1.1 User unknown*", "regex:550 5\\.1\\.1 .*"):
        assert not told(nobody, refused=refused)
    wrong: list[dict[str, Any]] = [
        {"mailbox": "name@example.org"},
        {"endpoint": ("external", "name@external.example")},
        {"mailbox": "name@example.org", "endpoint": ("external", "other@external.example")},
        {"mailbox": "name@example.org", "endpoint": ("extern", "name@external.example")},
        {"mailbox": "name@example.org", "endpoint": ("external", "name@external.example"), "held": "a@example.org"},
        {"mailbox": "name@example.org", "endpoint": ("external", "name@external.example"), "refused": "550"},
        {"refused": "250"},
    ]
    for expected in wrong:
        assert told(name, **expected), expected


async def test_a_quoted_local_part(flow: Flow) -> None:
    (found,) = await flow.explain('"a b"@external.example')
    assert not told(found, endpoint=("external", '"a b"@external.example'))
    assert not told(found, endpoint=("external", '"A \\b"@External.example'))
    assert told(found, endpoint=("external", '"a  b"@external.example'))


async def test_mail_that_goes_elsewhere_is_explained(flow: Flow) -> None:
    (found,) = await flow.explain("name@example.org", sender="friend@else.example")
    expected = told(found, mailbox="name@example.org", endpoint=("partner", "b@partner.example"))
    said, why = expected.split("\n\n")
    assert (
        said
        == """\
mail for name@example.org goes elsewhere than expected
  expected:      mailbox name@example.org
                 endpoint partner b@partner.example
  it is:         mailbox name@example.org
                 endpoint external name@external.example
  missing:       endpoint partner b@partner.example
  not expected:  endpoint external name@external.example"""
    )
    assert why.splitlines() == ["why, as smtproute explain prints it:", *found.lines()]
    assert any("route[0]  " in line and line.endswith("*@external.example matches") for line in found.lines())


async def test_a_refusal_that_is_another_one(flow: Flow) -> None:
    name, nobody = await flow.explain("name@example.org", "nobody@example.org")
    assert (
        misrouted(nobody, [], Pattern("554")).split("\n\n")[0]
        == """\
mail for nobody@example.org is answered otherwise than expected
  expected:      the reply 554
  it is:         the reply 550 5.1.1 User unknown: check the spelling of the address"""
    )
    assert (
        misrouted(nobody, ["mailbox nobody@example.org"]).split("\n\n")[0]
        == """\
mail for nobody@example.org goes elsewhere than expected
  expected:      mailbox nobody@example.org
  it is:         the reply 550 5.1.1 User unknown: check the spelling of the address
  missing:       mailbox nobody@example.org"""
    )
    assert (
        misrouted(name, [], Pattern("550 5.1.1")).split("\n\n")[0]
        == """\
mail for name@example.org goes elsewhere than expected
  expected:      the reply 550 5.1.1
  it is:         mailbox name@example.org
                 endpoint external name@external.example
                 the reply 250 2.1.5 name@example.org accepted
  not expected:  mailbox name@example.org
                 endpoint external name@external.example"""
    )


def test_what_cannot_be_expected_is_told() -> None:
    with pytest.raises(AddressError, match="'name' is no address"):
        routes(mailbox="name")


# How mail is sealed

DAY = 86_400.0
LETTER = b"From: Ada <ada@sender.example>\r\nTo: name@example.org\r\nSubject: Hello\r\n\r\nHello.\r\n"
OTHER = replace(signing_key(), domain="list.example", selector="s1")
KEYS = ZoneTxt(zone(signing_key(), OTHER))


def sealed(message: bytes, key: Any) -> bytes:
    chain = judged(message, KEYS)
    return arc.seal(message, chain=chain, key=key, results=results(FOUND), at=AT, bounds=BOUNDS) + message


ONE = sealed(LETTER, OTHER)
TWO = sealed(ONE, signing_key())
BROKEN = TWO + b"footer\r\n"
ENDED = sealed(ONE + b"footer\r\n", signing_key())


def claimed(message: bytes, **expected: Any) -> str:
    """What is said of this claim."""
    with ThreadPoolExecutor(1) as pool:
        return missealed(asyncio.run(sealing(message, KEYS, pool, AT)), **expected)


async def missed(flow: Flow, arrival: Arrival, at: float, **expected: Any) -> str:
    """The same of what arrived on a stage."""
    return missealed(await sealing(arrival.wire, flow.lookup, flow.stage.pool, at), **expected)


SO: list[tuple[bytes, dict[str, Any]]] = [
    (LETTER, {"i": 0}),
    (ONE, {}),
    (ONE, {"cv": "none", "i": 1, "domain": "LIST.example", "selector": "s1"}),
    (TWO, {"cv": "pass", "i": 2, "domain": "example.org", "selector": "mail"}),
    (ENDED, {"cv": "fail", "i": 2, "domain": "example.org"}),
]
NOT_SO: list[tuple[bytes, dict[str, Any]]] = [
    (LETTER, {}),
    (ONE, {"i": 0}),
    (ONE, {"i": 2}),
    (ONE, {"cv": "pass"}),
    (TWO, {"domain": "list.example"}),
    (TWO, {"selector": "s1"}),
    (BROKEN, {}),
    (BROKEN, {"i": 0}),
    (ENDED, {}),
    (ENDED, {"cv": "fail", "i": 1}),
    (ENDED + b"footer\r\n", {"cv": "fail"}),
    (ENDED.replace(b"t=1700000000", b"t=1700000001", 1), {"cv": "fail"}),
    (TWO.replace(b"cv=pass", b"cv=fail"), {"cv": "fail"}),
]


@pytest.mark.parametrize("number", range(len(SO)))
def test_a_chain_that_is_as_it_is_claimed(number: int) -> None:
    message, expected = SO[number]
    assert claimed(message, **expected) == ""


@pytest.mark.parametrize("number", range(len(NOT_SO)))
def test_a_chain_that_is_not(number: int) -> None:
    message, expected = NOT_SO[number]
    assert claimed(message, **expected).startswith("the ARC seal is not as expected\n  expected:      ")


def test_a_broken_chain_is_told_set_by_set() -> None:
    said, chain = claimed(BROKEN, cv="pass", i=2).split("\n\n")
    assert (
        said
        == """\
the ARC seal is not as expected
  expected:      i=2, cv=pass
                 the chain verifies
  it is:         i=2, cv=pass, d=example.org, s=mail
                 the chain does not verify: ARC-Message-Signature 2: the body was changed"""
    )
    assert (
        chain
        == """\
set by set, as smtproute verify prints it:
arc        fail       2 sets
                      ARC-Message-Signature 2: the body was changed
arc i=1    cv=none    ARC-Seal of list.example: pass
                      ARC-Message-Signature of list.example: the body was changed
                      - 1 line (8 octets), the first of them "footer", was put after the body that
                        was signed.
                      - The signed header fields are as they were.
                      it says: mx.example.org; arc=none; spf=pass (192.0.2.1 is permitted)
                      smtp.mailfrom=ada@sender.example; dkim=pass header.d=sender.example
                      header.b="ab/+cd=="
arc i=2    cv=pass    ARC-Seal of example.org: pass
                      ARC-Message-Signature of example.org: the body was changed
                      - 1 line (8 octets), the first of them "footer", was put after the body that
                        was signed.
                      - The signed header fields are as they were.
                      it says: mx.example.org; arc=none; spf=pass (192.0.2.1 is permitted)
                      smtp.mailfrom=ada@sender.example; dkim=pass header.d=sender.example
                      header.b="ab/+cd==\""""
    )


def test_other_chains_that_are_not_as_claimed() -> None:
    told = {
        "none": claimed(LETTER, cv="pass", i=2),
        "too many": claimed(ONE, i=0),
        "in pieces": claimed(ONE.replace(b"ARC-Seal", b"X-Seal")),
        "another seal": claimed(TWO, i=1, cv="none", domain="list.example", selector="s1"),
        "ended": claimed(ENDED, cv="pass"),
        "ended, and changed": claimed(ENDED + b"more\r\n", cv="fail"),
    }
    head = "the ARC seal is not as expected"
    assert {name: said.split("\n\n")[0].removeprefix(f"{head}\n") for name, said in told.items()} == {
        "none": "  expected:      i=2, cv=pass\n                 the chain verifies\n  it is:         no ARC set",
        "too many": (
            "  expected:      no ARC set\n"
            "  it is:         i=1, cv=none, d=list.example, s=s1\n                 the chain verifies"
        ),
        "in pieces": (
            "  expected:      an ARC set\n                 the chain verifies\n"
            "  it is:         ARC fields that are no whole sets\n"
            "                 the chain does not verify: there is no ARC-Seal of i=1"
        ),
        "another seal": (
            "  expected:      i=1, cv=none, d=list.example, s=s1\n                 the chain verifies\n"
            "  it is:         i=2, cv=pass, d=example.org, s=mail\n                 the chain verifies"
        ),
        "ended": (
            "  expected:      cv=pass\n                 the chain verifies\n"
            "  it is:         i=2, cv=fail, d=example.org, s=mail\n"
            "                 the chain does not verify: ARC-Seal 2 says cv=fail"
        ),
        "ended, and changed": (
            "  expected:      cv=fail\n                 the newest set verifies\n"
            "  it is:         i=2, cv=fail, d=example.org, s=mail\n"
            "                 the newest set does not verify: the body was changed"
        ),
    }
    assert "\n\n" not in told["none"]


# Whether it was changed, and all of it by a relay


def test_a_message_that_was_changed() -> None:
    assert not change(LETTER, ONE)
    assert not change(LETTER, ONE.replace(b"Subject: Hello\r\n", b""), ["Subject"])
    assert (
        change(LETTER, ONE.replace(b"Subject: Hello", b"Subject: [list] Hello"))
        == r"""line 3 as sent:       "Subject: Hello\r\n"
line 16 as received:  "Subject: [list] Hello\r\n"
                                ^
header fields changed: Subject
header fields put in front: ARC-Seal, ARC-Message-Signature, ARC-Authentication-Results
the body is as it was sent"""
    )


def test_a_letter_in_a_maildir_has_the_line_ends_that_were_sent() -> None:
    kept = Arrival(
        kind=Kind.MAILBOX,
        relay="relay",
        sender="",
        recipients=("name@example.org",),
        written=(),
        content=ONE.replace(b"\r\n", b"\n"),
        message="01HF",
        at=0.0,
    )
    assert not change(LETTER, kept.wire)
    assert "only line ends differ" in change(LETTER, kept.content)
    assert "only line ends differ" in change(
        LETTER, replace(kept, kind=Kind.ENDPOINT, upstream="mx.external.example").wire
    )


async def test_what_a_relay_forwards_is_sealed_and_unchanged(flow: Flow) -> None:
    sent = await flow.send(LETTER, sender="ada@sender.example", to="name@example.org")
    forwarded = await flow.inbox.wait_for(to="name@external.example")
    kept = await flow.inbox.wait_for(to="name@example.org")
    assert sent.content == LETTER
    for each in (forwarded, kept):
        assert not change(LETTER, each.wire)
    assert not await missed(flow, forwarded, forwarded.at, cv="none", i=1, domain="example.org", selector="mail")
    assert not await missed(flow, kept, kept.at, i=0)
    assert forwarded.content != kept.wire


async def test_a_seal_is_of_the_time_of_the_stage(tmp_path: Path) -> None:
    """Its t= may lie days ahead of the machine's time."""
    async with Stage(seed=7) as stage:
        flow = await stage.relay(house(tmp_path))
        await flow.advance(3 * DAY)
        await flow.send(LETTER, sender="ada@sender.example", to="name@example.org")
        forwarded = await flow.inbox.wait_for(to="name@external.example")
        assert not await missed(flow, forwarded, stage.clock.now(), cv="none", i=1)


async def test_a_chain_is_judged_at_the_time_of_the_stage(tmp_path: Path) -> None:
    async with Stage(seed=7, now=4_000_000_000) as stage:
        flow = await stage.relay(house(tmp_path))
        once = await Signer(stage.signer("list.example"), flow).seal(LETTER)
        await flow.send(once, sender="ada@sender.example", to="name@example.org")
        forwarded = await flow.inbox.wait_for(to="name@external.example")
        assert not await missed(flow, forwarded, stage.clock.now(), cv="pass", i=2)
