"""A scenario passes where everything is as it says, and fails with a text of what is not, for everything it can say."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from smtproute.config.document import Mistake
from smtproute.testing.scenarios.play import Result, play
from smtproute.testing.scenarios.scenario import read
from smtproute.testing.scenarios.update import updated

WORLD = """
title = "A mailbox that is a forwarding alias too"
patience = "1s"
{head}

[config]
hostname = "mail.example.org"
domains = ["example.org"]
accounts.file = "accounts"
aliases.tables = ["virtual"]
arc.keys."example.org" = {{ selector = "mail", file = "none.pem" }}
endpoint.external = {{ servers = ["mx.external.example:25"] }}
endpoint.bounces = {{ discover = "recipient" }}
default = {{ endpoint = "bounces" }}
listener.mx = {{ bind = ":25", role = "inbound" }}

[[config.route]]
match = "*@external.example"
endpoint = "external"

[[config.route]]
match = "later@example.org"
mode = "hold"

[[config.route]]
match = "never@example.org"
mode = "bounce"

[[config.route]]
match = "kept@example.org"
mode = "capture"

[files]
accounts = "name@example.org|{{PLAIN}}x"
virtual = "name@example.org name@example.org, name@external.example"

[dns."else.example"]
MX = "10 mx.else.example"

[upstream."mx.else.example"]
"""
FORWARD = """
[[message]]
from = "friend@else.example"
to = ["name@example.org"]
client = "203.0.113.9"
"""
MAILBOX = """
[[message.expect]]
mailbox = "name@example.org"
"""
EXTERNAL = """
[[message.expect]]
endpoint = "external"
to = "name@external.example"
"""


async def played(folder: Path, flow: str, *, head: str = "", seed: int | None = None) -> Result:
    file = folder / "flow.toml"
    file.write_text(WORLD.format(head=head) + flow)
    return await play(read(file), seed=seed)


async def test_what_is_as_expected_passes(tmp_path: Path) -> None:
    result = await played(tmp_path, FORWARD + MAILBOX + EXTERNAL)
    assert result.passed, result.report
    assert (result.report, result.changes) == ("", ())
    assert result.seconds > 0


@pytest.mark.parametrize(
    ("wanted", "is_there"),
    [
        ('status = "deferred"', "status is delivered (250 2.0.0 Taken), not deferred"),
        ('server = "mx2.external.example"', "server is mx.external.example:25, not mx2.external.example"),
        ("attempts = 2", "attempts are 1, not 2"),
        ('reply = "250 2.0.0 Queued*"', "reply is 250 2.0.0 Taken, not 250 2.0.0 Queued*"),
        ('after = "5m"', "not 300 s at least"),
        ('within = "0s"', "not 0 s at most"),
        ('sender = "SRS0=*"', "sender is <friend@else.example>, not <SRS0=*>"),
        ("tls = false", "it went in TLS, not in plain text"),
        ('headers = { Subject = "Hello*" }', "Subject is 'A letter', not 'Hello*'"),
        ('headers = { X-Spam = "*" }', "X-Spam is not there, not '*'"),
        ('absent = ["Subject"]', "Subject is there: 'A letter'"),
        ("seal = { i = 2 }", "  expected:      i=2\n"),
        ('seal = { cv = "pass" }', "  it is:         i=1, cv=none, d=example.org, s=mail\n"),
        ('seal = { domain = "else.example" }', "  expected:      d=else.example\n"),
        ('seal = { selector = "other" }', "  expected:      s=other\n"),
        ("seal = false", "relay has sealed it: i 1, cv none, domain example.org, selector mail"),
        ('signed = ["example.org"]', "signed by nobody, not by example.org"),
        ('dsn = { status = "5.1.1" }', "it is no delivery status notification"),
        ('trace = ["*-> RSET"]', "its trace has no line '*-> RSET'"),
    ],
    ids=lambda text: text.partition(" ")[0],
)
async def test_an_expectation_that_does_not_hold_fails(tmp_path: Path, wanted: str, is_there: str) -> None:
    result = await played(tmp_path, FORWARD + MAILBOX + EXTERNAL + wanted)
    (failure,) = result.failures
    assert failure.startswith("message 1: expected endpoint external for name@external.example: it arrived, but ")
    assert is_there in failure
    assert failure in result.report


async def test_a_change_of_the_octets_is_shown(tmp_path: Path) -> None:
    flow = """
[[message]]
from = "friend@else.example"
to = ["list@lists.example"]
content = "Subject: hello\\n\\nFirst line\\nsecond line\\n"
[[message.expect]]
endpoint = "bounces"
to = "list@lists.example"
unchanged = true
[[message.expect]]
mailbox = "name@example.org"
sender = "list-bounces@lists.example"
headers = { Subject = "[list] hello" }
unchanged = true
[[message.expect]]
endpoint = "external"
to = "name@external.example"
[upstream."mx.lists.example"]
list = { to = ["name@example.org"], sender = "list-bounces@lists.example", prefix = "[list] ", footer = "Bye." }
[dns."lists.example"]
MX = "10 mx.lists.example"
[dns."example.org"]
MX = "10 mail.example.org"
[relay.relay]
host = "mail.example.org"
"""
    flow = flow.replace("[[message]]\n", "[[message]]\nlistener = 'out'\n").replace(
        "[relay.relay]", "[config.listener.out]\nbind = ':2525'\n[relay.relay]"
    )
    (failure,) = (await played(tmp_path, flow)).failures
    assert failure.startswith("message 1: expected mailbox name@example.org: it arrived, but it was changed: ")
    assert "[list] hello" in failure


@pytest.mark.parametrize(
    ("place", "to"),
    [
        ('mailbox = "other@example.org"', "name@example.org"),
        ('endpoint = "external"\nto = "other@external.example"', "name@example.org"),
        ('capture = "name@example.org"', "name@example.org"),
        ('held = "kept@example.org"', "kept@example.org"),
        ('bounce = "later@example.org"', "later@example.org"),
    ],
    ids=["mailbox", "endpoint", "capture", "held", "bounce"],
)
async def test_a_copy_that_is_missing_fails(tmp_path: Path, place: str, to: str) -> None:
    flow = FORWARD.replace("name@example.org", to) + f"[[message.expect]]\n{place}\n"
    result = await played(tmp_path, flow, head="nothing_else = false")
    (failure,) = result.failures
    assert ": there is none" in failure
    assert failure.startswith(f"message 1: expected {place.split()[0]} ")


@pytest.mark.parametrize(
    ("to", "shown"),
    [
        ("name@example.org", "mailbox name@example.org, delivered (250 2.0.0 delivered to the mailbox)"),
        ("x@external.example", "endpoint external for x@external.example, delivered by mx.external.example:25"),
        ("kept@example.org", "capture kept@example.org, delivered"),
        ("later@example.org", "held later@example.org"),
        ("never@example.org", "bounce never@example.org, failed (550"),
        ("never@example.org", "endpoint bounces for friend@else.example, delivered by mx.else.example:25"),
    ],
    ids=["mailbox", "endpoint", "capture", "held", "bounce", "dsn"],
)
async def test_nothing_else_may_come(tmp_path: Path, to: str, shown: str) -> None:
    flow = FORWARD.replace("name@example.org", to)
    result = await played(tmp_path, flow)
    assert any(failure.startswith(f"message 1: not expected: {shown}") for failure in result.failures), result.failures
    assert (await played(tmp_path, flow, head="nothing_else = false")).passed


async def test_replies_are_expected_too(tmp_path: Path) -> None:
    flow = FORWARD.replace('"name@example.org"', '"name@example.org", "nobody@example.org"') + MAILBOX + EXTERNAL
    (failure,) = (await played(tmp_path, flow)).failures
    assert failure.startswith("message 1: expected nobody@example.org to be answered 250: the client heard 550 5.1.1 ")
    answered = flow.replace('client = "203', 'replies = { "nobody@example.org" = "550 5.1.1" }\nclient = "203')
    assert (await played(tmp_path, answered)).passed
    refused = answered.replace('"550 5.1.1"', '"550 5.1.1", MAIL = "550"')
    (failure,) = (await played(tmp_path, refused)).failures
    assert failure.startswith("message 1: expected MAIL to be answered 550: the client heard 250 2.1.0 ")


async def test_a_reply_that_is_otherwise_is_shown_as_it_was_said(tmp_path: Path) -> None:
    """In the trace of the message, or where nobody took it as the client had it."""
    flow = FORWARD.replace('"name@example.org"', '"name@example.org", "nobody@example.org"') + MAILBOX + EXTERNAL
    taken = (await played(tmp_path, flow)).report
    assert "  -> 550 5.1.1 " not in taken.partition("on 20")[0]
    assert "-> 550 5.1.1 " in taken and "~> RCPT TO:<name@external.example>" in taken
    refused = (await played(tmp_path, FORWARD.replace("name@example.org", "nobody@example.org"))).report
    said = refused.partition("message 1, as its client had it:\n")[2]
    assert said.index("-> RCPT TO:<nobody@example.org>") < said.index("<- 550 5.1.1 ")


async def test_nothing_is_said_of_a_server_that_there_is_not(tmp_path: Path) -> None:
    result = await played(tmp_path, FORWARD + MAILBOX + EXTERNAL + '[arrived."mx.typo.example"]\nmessages = 0\n')
    assert result.failures == (
        "arrived: there is no server mx.typo.example; there are: mx.else.example, mx.external.example",
    )
    assert result.changes == ()
    assert "-> RCPT TO:<name@external.example>" in result.report.replace("~>", "->")


async def test_the_sender_of_a_message_that_arrived_nowhere_is_nothing(tmp_path: Path) -> None:
    """What would have it is not sent, and nobody waits for what was to come of it."""
    gone = FORWARD + MAILBOX + EXTERNAL + 'status = "deferred"\n[upstream."mx.external.example"]\ndown = "refused"\n'
    back = FORWARD.replace('"name@example.org"', '"{1.sender}"') + '[[message.expect]]\ncapture = "kept@example.org"\n'
    result = await played(tmp_path, gone + back)
    assert result.failures == ("message 2 was not sent: message 1 arrived nowhere, so {1.sender} is nothing",)
    result = await played(tmp_path, gone + FORWARD.replace("friend@else.example", "{1.sender}"))
    assert result.failures == ("message 2 was not sent: message 1 arrived nowhere, so {1.sender} is nothing",)
    assert "client 2" not in result.transcript


async def test_a_server_that_nobody_asks_is_named(tmp_path: Path) -> None:
    """Its name may be misspelt, so that its script means nobody."""
    flow = FORWARD + MAILBOX + EXTERNAL + 'attempts = 2\n[upstream."mx.externl.example"]\n[upstream."mx.far.example"]\n'
    report = (await played(tmp_path, flow)).report
    assert "\nupstream mx.externl.example: nobody connected\nupstream mx.far.example: nobody connected\n" in report
    assert "upstream mx.external.example: nobody" not in report


async def test_an_earlier_seal_that_broke_is_no_valid_chain(tmp_path: Path) -> None:
    """The relay's own is valid; the chain that it ends is judged whole (RFC 8617 5.2)."""
    flow = (
        FORWARD
        + 'seal = ["a.example"]\nbefore.dns = {}\n'
        + MAILBOX
        + EXTERNAL
        + 'seal = { i = 2, cv = "pass" }\n[keys."a.example"]\n'
    )
    assert (await played(tmp_path, flow)).passed
    # Between the relay's look and ours the key goes.
    gone = '[[message]]\nfrom = "x@else.example"\nto = ["kept@example.org"]\nclient = "203.0.113.9"\n'
    gone += 'before.dns."mail._domainkey.a.example" = { TXT = [] }\n[[message.expect]]\ncapture = "kept@example.org"\n'
    first, second = flow.split('[keys."a.example"]')
    flow = first.replace("client = ", "wait = false\nclient = ") + gone + '[keys."a.example"]' + second
    (failure,) = (await played(tmp_path, flow)).failures
    assert "the ARC seal is not as expected\n" in failure
    assert "the chain does not verify: " in failure


async def test_what_does_not_come_to_an_end_fails(tmp_path: Path) -> None:
    """With what is open then, and what was said so far."""
    file = tmp_path / "flow.toml"
    mute = '[upstream."mx.external.example"]\nrule = [{ at = "RCPT", then = "mute" }]\n'
    flow = WORLD.format(head="").replace('patience = "1s"', 'patience = "60s"') + FORWARD + MAILBOX + EXTERNAL + mute
    file.write_text(flow)
    result = await play(read(file), deadline=1.0)
    assert result.failures == (
        "it did not come to an end within 1 s: message 1 is under way and a connection to mx.external.example is open",
    )
    assert "virtual:1  name@example.org: alias to" in result.report


async def test_a_reply_that_does_not_come_fails(tmp_path: Path) -> None:
    flow = FORWARD.replace("name@example.org", "nobody@example.org") + 'replies = { DATA = "250" }\n'
    failures = (await played(tmp_path, flow)).failures
    assert "message 1: expected DATA to be answered 250: the client heard nothing there" in failures


async def test_explanations_are_expected_too(tmp_path: Path) -> None:
    flow = """
[[explain]]
address = "name@example.org"
routes = ["mailbox name@example.org"]
"""
    result = await played(tmp_path, flow)
    assert "not expected:  endpoint external name@external.example" in result.report
    assert "virtual:1" in result.report


async def test_what_servers_have_had_is_expected_too(tmp_path: Path) -> None:
    flow = FORWARD + MAILBOX + EXTERNAL + '[arrived."mx.external.example"]\nmessages = 2\nconnections = 0\n'
    assert (await played(tmp_path, flow)).failures == (
        "expected mx.external.example to have had 2 messages: it had 1",
        "expected mx.external.example to have had 0 connections: it had 1",
    )


async def test_the_report_explains(tmp_path: Path) -> None:
    result = await played(tmp_path, FORWARD + MAILBOX + EXTERNAL + "attempts = 2\n", seed=42)
    for said in (
        "expected endpoint external for name@external.example",
        "2 messages arrived:",
        "external at mx.external.example",
        "virtual:1  name@example.org: alias to",
        "<- MAIL FROM:<friend@else.example>",
        "~> RCPT TO:<name@external.example>",
        "seed 42",
    ):
        assert said in result.report


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('to = "name@external.example"', 'to = "nema@external.example"'),
        ('mailbox = "name@example.org"', 'mailbox = "eman@example.org"'),
    ],
    ids=["the recipient at an endpoint", "the mailbox"],
)
async def test_an_expectation_of_another_copy_keeps_what_holds(tmp_path: Path, old: str, new: str) -> None:
    """Only the address was wrong: nothing else of the file changes."""
    right = (
        FORWARD
        + MAILBOX
        + 'headers = { Subject = "*" }\nstatus = "delivered"\n'
        + EXTERNAL
        + 'attempts = 1 # at once\nseal = { i = 1, cv = "none" }\nserver = "mx.external.example"\n'
    )
    assert right.count(old) == 1
    result = await played(tmp_path, right.replace(old, new))
    assert not result.passed
    file = tmp_path / "flow.toml"
    assert updated(file.read_text(), result.changes) == WORLD.format(head="") + right


async def test_what_holds_of_another_copy_no_more_goes(tmp_path: Path) -> None:
    flow = FORWARD + MAILBOX + EXTERNAL.replace("name@", "nema@") + "attempts = 7\nunchanged = true\ntls = true\n"
    result = await played(tmp_path, flow + "after = '1h'\n")
    (message,) = tomllib.loads(updated((tmp_path / "flow.toml").read_text(), result.changes))["message"]
    assert message["expect"][1:] == [
        {"endpoint": "external", "to": "name@external.example", "attempts": 1, "unchanged": True, "tls": True}
    ]


@pytest.mark.parametrize(
    ("expected", "there"),
    [
        (MAILBOX + EXTERNAL + "copies = 3\n", [{}, {"copies": 2}]),
        (MAILBOX + EXTERNAL.replace("name@", "nema@"), [{}, {}]),
        (MAILBOX, [{}, {}]),
        ("", [{}, {}]),
    ],
    ids=["more than came", "of another", "one is missing", "none"],
)
async def test_copies_are_accepted_together(tmp_path: Path, expected: str, there: list[dict[str, int]]) -> None:
    result = await played(tmp_path, FORWARD + "copies = 2\n" + expected)
    file = tmp_path / "flow.toml"
    file.write_text(updated(file.read_text(), result.changes))
    again = await play(read(file))
    assert again.passed, again.report
    (message,) = tomllib.loads(file.read_text())["message"]
    assert [{key: each[key] for key in ("copies",) if key in each} for each in message["expect"]] == there


async def test_what_is_accepted_makes_it_pass(tmp_path: Path) -> None:
    """The changes that a result proposes are those with which the same file passes."""
    flow = (
        '[[explain]]\naddress = "name@example.org"\nroutes = []\n'
        + FORWARD.replace('"name@example.org"', '"name@example.org", "nobody@example.org"')
        + 'replies = { "name@example.org" = "550" }\n'
        + MAILBOX
        + 'attempts = 7\nheaders = { Subject = "Bye" }\nabsent = ["Subject", "X-No"]\nseal = { i = 1 }\n'
        + '[[message.expect]]\ncapture = "nowhere@example.org"\n'
        + '[arrived."mx.external.example"]\nmessages = 3\n'
    )
    result = await played(tmp_path, flow)
    assert len(result.failures) == 7, result.failures
    file = tmp_path / "flow.toml"
    file.write_text(updated(file.read_text(), result.changes))
    again = await play(read(file))
    assert again.passed, again.report
    (message,) = read(file).message
    assert {step: str(reply) for step, reply in message.replies.items()} == {"nobody@example.org": "550 5.1.1"}
    assert [str(each.address) for each in message.expect] == ["name@example.org", "name@external.example"]


async def test_a_server_can_be_down_and_come_back(tmp_path: Path) -> None:
    """The relay's connection to a server that is replaced ends with it."""
    flow = f"""
{FORWARD}{MAILBOX}{EXTERNAL}
{FORWARD}before.upstream."mx.external.example" = {{ down = "refused" }}
{MAILBOX}{EXTERNAL}status = "deferred"
{FORWARD.replace("name@", "kept@")}before.upstream."mx.external.example" = {{}}
within = "1h"
[[message.expect]]
capture = "kept@example.org"
{EXTERNAL}after = "0s"
"""
    result = await played(tmp_path, flow)
    assert result.passed, result.report


@pytest.mark.parametrize("down", ["refused", "unreachable", "silent"])
async def test_nobody_answers(tmp_path: Path, down: str) -> None:
    flow = FORWARD + MAILBOX + EXTERNAL + f'status = "deferred"\n[upstream."mx.external.example"]\ndown = "{down}"\n'
    result = await played(tmp_path, flow)
    assert result.passed, result.report


async def test_what_a_server_cannot_send_is_a_failure(tmp_path: Path) -> None:
    flow = (
        FORWARD.replace("friend@else.example", "friend@nowhere.example")
        + MAILBOX
        + EXTERNAL
        + '[upstream."mx.external.example"]\nbounces = true\n'
    )
    (failure,) = (await played(tmp_path, flow)).failures
    assert failure == (
        "mx.external.example cannot send to <friend@nowhere.example>: its domain has neither MX nor A on the stage"
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('role = "inbound"', 'role = "inbond"', 'config.listener.mx.role = "inbond"'),
        ('client = "203.0.113.9"', 'listener = "my"', "message[0].listener: there is no listener 'my'"),
        ('routes = ["', 'listener = "my"\nroutes = ["', "explain[0].listener: "),
    ],
    ids=["config", "listener", "explain"],
)
async def test_a_configuration_that_cannot_be_used_is_a_mistake(tmp_path: Path, old: str, new: str, said: str) -> None:
    flow = '[[explain]]\naddress = "kept@example.org"\nroutes = ["capture kept@example.org"]\n' + FORWARD
    file = tmp_path / "flow.toml"
    file.write_text((WORLD.format(head="") + flow).replace(old, new))
    with pytest.raises(Mistake) as mistake:
        await play(read(file))
    assert str(mistake.value).startswith(f"{file}: ")
    assert said in str(mistake.value)
