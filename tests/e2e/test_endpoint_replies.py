"""What each reply of a server does to a message: the next server, an end, a pause, or nobody knows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from smtproute.app import Relay
from smtproute.core.event import Event, Happening
from smtproute.smtp.opening import TIMEOUTS, Timeouts
from smtproute.testing.upstream import Action, Drop, Hang, Raw, Reset, Rule, Upstream, on
from smtproute.trace.text import render
from tests.e2e.authority import ca_file, certified
from tests.e2e.conftest import LETTER, SENDER, Client, Lab

NEXT, FINAL, AMBIGUOUS, DEFERRED = "next server", "final", "ambiguous", "deferred"
STAGES = ("connect", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "content")
SERVER = (NEXT, NEXT, NEXT, NEXT)
"""Up to AUTH, whatever is wrong is the server's fault."""
TABLE: dict[str, tuple[Action, tuple[str, ...]]] = {
    "4yz": ("451 4.3.0 Not now", (*SERVER, NEXT, NEXT, NEXT, NEXT)),
    "421": ("421 4.3.2 Closing", (*SERVER, NEXT, NEXT, NEXT, NEXT)),
    "50z": ("502 5.5.1 Not implemented", (*SERVER, FINAL, FINAL, FINAL, FINAL)),
    "530": ("530 5.7.0 Log in first", (*SERVER, NEXT, FINAL, FINAL, FINAL)),
    "535": ("535 5.7.8 Not you", (*SERVER, FINAL, FINAL, FINAL, FINAL)),
    "55z": ("554 5.7.1 No", (*SERVER, FINAL, FINAL, FINAL, FINAL)),
    "silence": (Hang(), (*SERVER, NEXT, NEXT, NEXT, AMBIGUOUS)),
    "garbage": (Raw(b"\xff\x00 what?\r\n"), (*SERVER, NEXT, NEXT, NEXT, AMBIGUOUS)),
    "closed": (Drop(), (*SERVER, NEXT, NEXT, NEXT, AMBIGUOUS)),
    "reset": (Reset(), (*SERVER, NEXT, NEXT, NEXT, AMBIGUOUS)),
}
"""What a server does, and what that comes to at each stage."""
BRISK = Timeouts(1, 1, 1, 1, 1, 1, 1, 1, 1)
LOGIN = """
    tls = "require"
    ca_file = "ca.pem"
    username = "app"
    password_file = "password"
"""


def step(event: Event) -> str:
    """Which of the steps of the table led to this end."""
    if event.what is Happening.DELIVERED:
        return NEXT if event.facts["says"].startswith("second.") else "taken"
    if event.what is Happening.FAILED:
        return FINAL
    return AMBIGUOUS if "ambiguous" in event.facts["detail"] else DEFERRED


@pytest.mark.parametrize("kind", TABLE)
async def test_at_each_stage(lab: Lab, kind: str) -> None:
    """Each stage has an endpoint whose first server misbehaves there, and one that has no other server."""
    action, expected = TABLE[kind]
    lab.timeouts = BRISK
    ca_file(lab.folder)
    lab.write("password", "secret")
    tls = certified("*.far.example")
    second = await lab.upstream("second.far.example", tls=tls, users={"app": "secret"})
    config = '[listener.app]\nbind = "127.0.0.1:0"\n'
    for stage in STAGES:
        for name in (stage, f"{stage}-alone"):
            first = await lab.upstream(
                f"{name}.far.example", [on(stage.upper(), action)], tls=tls, users={"app": "secret"}
            )
            servers = [f"{name}.far.example:{first.port}", f"second.far.example:{second.port}"]
            config += f'[[route]]\nmatch = "*@{name}.example"\nendpoint = "{name}"\n'
            config += f"[endpoint.{name}]\nservers = {servers if name == stage else servers[:1]}\n{LOGIN}"
    relay = await lab.started(config)

    both = [await lab.accepted(relay, f"x@{stage}.example") for stage in STAGES]
    alone = [await lab.accepted(relay, f"x@{stage}-alone.example") for stage in STAGES]
    assert tuple([step(event) for message in both for event in await lab.ended(message)]) == expected
    without = tuple(DEFERRED if each == NEXT else each for each in expected)
    assert tuple([step(event) for message in alone for event in await lab.ended(message)]) == without


PAIR = """
    default = {{ endpoint = "far" }}
    [listener.app]
    bind = "127.0.0.1:0"
    [endpoint.far]
    servers = ["a.far.example:{a}", "b.far.example:{b}"]
    [[route]]
    match = "*@else.example"
    mode = "capture"
"""


async def pair(lab: Lab, *script: Rule, **options) -> tuple[Upstream, Upstream, Relay]:
    """Two servers of one endpoint, of which the first has the script and the options, and their relay."""
    first, second = await lab.upstream("a.far.example", script, **options), await lab.upstream("b.far.example")
    return first, second, await lab.started(PAIR.format(a=first.port, b=second.port))


LARGE = LETTER + b"All work and no play.\r\n" * 40_000
AMID = on("CONTENT", Reset(), after=100_000)


async def test_a_reset_in_the_middle_of_the_content_leads_to_the_next_server(lab: Lab) -> None:
    first, second, relay = await pair(lab, AMID)
    await lab.delivered(relay, "x@far.example", content=LARGE)
    assert (first.received, second.received[0].content.endswith(LARGE)) == ([], True)


async def test_a_reset_in_the_middle_of_the_content_defers_where_there_is_no_other(lab: Lab) -> None:
    far = await lab.upstream("a.far.example", [AMID])
    relay = await lab.application(f"a.far.example:{far.port}")
    event = await lab.deferred(relay, "x@far.example", content=LARGE)
    assert event.facts["reply"].startswith("451 4.4.1 ") and "ambiguous" not in event.facts["detail"]


@pytest.mark.parametrize("action", [Hang(), Reset()], ids=["silence", "reset"])
async def test_what_may_have_been_taken_waits_and_says_so(lab: Lab, action: Action) -> None:
    """Sent elsewhere at once it might arrive twice; never sent again it might be lost (RFC 1047)."""
    clock, lab.timeouts = lab.turned(), replace(TIMEOUTS, content=0.3)
    first, second, relay = await pair(lab, on("CONTENT", action, times=1))
    event = await lab.deferred(relay, "x@far.example")
    assert event.facts["retry_at"] == clock.now() + 60
    (attempt,) = lab.journal.of(Happening.ATTEMPT)
    assert attempt.facts["server"] == f"a.far.example:{first.port}"
    said = "\n".join(render(await lab.trace(relay, event.message)))
    assert "ambiguous: " in said and "after the final dot; it may have been taken" in said

    await clock.advance(60)
    await lab.journal.finished(event.message, 1)
    assert len(first.received) + len(second.received) == 2  # the first had taken it
    assert [each.what for each in await lab.ended(event.message, 2)] == [Happening.DEFERRED, Happening.DELIVERED]


async def test_after_a_refusal_the_session_goes_on_with_rset(lab: Lab) -> None:
    far = await lab.upstream("a.far.example", [on("RCPT", "550 5.1.1 Unknown", match="no@")])
    relay = await lab.application(f"a.far.example:{far.port}")
    await lab.delivered(relay, "no@far.example")
    await lab.delivered(relay, "yes@far.example")
    (session,) = far.sessions
    words = [command.partition(" ")[0] for command in session.commands() if not command.startswith("[")]
    assert words == ["EHLO", "MAIL", "RCPT", "DATA", "RSET", "MAIL", "RCPT", "DATA", "."]
    assert [each.recipients for each in far.received] == [("yes@far.example",)]


async def test_a_bounce_leaves_with_an_empty_reverse_path(lab: Lab) -> None:
    far = await lab.upstream("a.far.example", [on("RCPT", "550 5.1.1 Unknown", match="no@")])
    relay = await lab.started(
        f"""
        default = {{ endpoint = "far" }}
        [listener.app]
        bind = "127.0.0.1:0"
        [endpoint.far]
        servers = ["a.far.example:{far.port}"]
        """
    )
    await lab.delivered(relay, "no@far.example")
    (bounce,) = await far.wait(1)
    assert (bounce.reverse_path, bounce.recipients) == ("", (SENDER,))
    assert b"Content-Type: multipart/report" in bounce.content and b"550 5.1.1 Unknown" in bounce.content
    await lab.delivered(relay, "no@far.example", sender=None)
    assert len(far.received) == 1


async def test_each_recipient_has_its_own_outcome(lab: Lab) -> None:
    """What one server took is not sent to another; what it refused for good is not asked elsewhere."""
    first, second, relay = await pair(
        lab,
        on("RCPT", "550 5.1.1 Unknown", match="gone@"),
        on("RCPT", "452 4.2.2 Full", match="later@"),
    )
    message = await lab.delivered(relay, "yes@far.example", "gone@far.example", "later@far.example")
    assert [each.recipients for each in first.received] == [("yes@far.example",)]
    assert [each.recipients for each in second.received] == [("later@far.example",)]
    became = {event.facts["address"]: event for event in await lab.ended(message, 3)}
    assert {address: event.what for address, event in became.items()} == {
        "yes@far.example": Happening.DELIVERED,
        "gone@far.example": Happening.FAILED,
        "later@far.example": Happening.DELIVERED,
    }
    assert became["gone@far.example"].facts["reply"] == "550 5.1.1 Unknown"
    (bounced,) = await lab.journal.seen(Happening.BOUNCED, message)
    dsn = (await relay.spool.content(bounced.facts["dsn"])).decode()
    assert "Final-Recipient: rfc822; gone@far.example\r\n" in dsn and "later@" not in dsn.partition("From: Friend")[0]


async def test_one_transaction_carries_all_recipients_of_an_endpoint(lab: Lab) -> None:
    first, second, relay = await pair(lab)
    recipients = tuple(f"{number}@far.example" for number in range(10))
    await lab.delivered(relay, *recipients)
    assert ([each.recipients for each in first.received], second.connections) == ([recipients], 0)


# What the next server must offer, for nothing is converted on the way

EIGHT_BIT = LETTER + "Grüße\r\n".encode()
UTF8_HEADER = LETTER.replace(b"Hello\r\n", "Grüße\r\n".encode(), 1)


@dataclass(frozen=True, slots=True)
class Need:
    """A message that needs an extension."""

    lacking: tuple[str, ...]
    """What a server offers that cannot take it."""
    refusal: str
    content: bytes = LETTER
    parameters: str = ""
    """Of MAIL."""
    recipient: str = "x@far.example"


NEEDS = {
    "8-bit content": Need(("PIPELINING", "SMTPUTF8"), "554 5.6.3 ", EIGHT_BIT, " BODY=8BITMIME"),
    "UTF-8 header": Need(("PIPELINING", "8BITMIME"), "550 5.6.7 ", UTF8_HEADER, " BODY=8BITMIME SMTPUTF8"),
    "UTF-8 address": Need(("PIPELINING", "8BITMIME"), "550 5.6.7 ", LETTER, " SMTPUTF8", "grüße@far.example"),
    "size": Need(("PIPELINING", "SIZE 100", "8BITMIME", "SMTPUTF8"), "552 5.3.4 "),
}


async def hand_in(relay: Relay, need: Need) -> str:
    """The queue id; by a client that declares what the message needs."""
    client = await Client.connect(relay.addresses["app"])
    assert (await client.say("EHLO client.example")).startswith("250")
    for line in (f"MAIL FROM:<{SENDER}>{need.parameters}", f"RCPT TO:<{need.recipient}>"):
        assert (await client.say(line)).startswith("250 ")
    assert (await client.say("DATA")).startswith("354 ")
    client.writer.write(need.content + b".\r\n")
    said = await client.reply()
    assert said.startswith("250 "), said
    return said.rsplit(" ", 1)[-1]


@pytest.mark.parametrize("need", NEEDS.values(), ids=NEEDS)
async def test_a_server_that_lacks_what_the_message_needs_is_passed_over(lab: Lab, need: Need) -> None:
    first, second, relay = await pair(lab, extensions=need.lacking)
    message = await hand_in(relay, need)
    await lab.journal.finished(message, 1)
    assert (first.received, second.received[0].content.endswith(need.content)) == ([], True)
    assert not any(command.startswith("MAIL") for session in first.sessions for command in session.commands())


@pytest.mark.parametrize("need", NEEDS.values(), ids=NEEDS)
async def test_where_no_server_has_it_the_sender_is_told(lab: Lab, need: Need) -> None:
    far = await lab.upstream("a.far.example", extensions=need.lacking)
    relay = await lab.application(f"a.far.example:{far.port}")
    message = await hand_in(relay, need)
    (failed,) = await lab.journal.seen(Happening.FAILED, message)
    assert failed.facts["reply"].startswith(need.refusal)
    await lab.journal.seen(Happening.BOUNCED, message)
    assert far.received == []
