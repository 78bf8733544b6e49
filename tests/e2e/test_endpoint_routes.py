"""Several recipients of one message, each on its own way (Postal #3274)."""

from __future__ import annotations

from smtproute.core.event import Happening
from smtproute.core.outcome import Stage
from smtproute.testing.upstream import on
from tests.e2e.conftest import LETTER, Lab

CONFIG = """
    default = {{ mode = "reject" }}
    [listener.app]
    bind = "127.0.0.1:0"
    [endpoint.one]
    servers = ["one.internal:{one}"]
    [endpoint.two]
    servers = ["two.internal:{two}"]
    [endpoint.dead]
    servers = ["dead.internal:25"]
    [[route]]
    match = "*@one.example"
    endpoint = "one"
    [[route]]
    match = "vip@two.example"
    endpoint = "one"
    [[route]]
    match = "*@two.example"
    endpoint = "two"
    [[route]]
    match = "*@dead.example"
    endpoint = "dead"
    [[route]]
    match = "*@kept.example"
    mode = "capture"
    [[route]]
    match = "*@held.example"
    mode = "hold"
    endpoint = "one"
    [[route]]
    match = "*@returned.example"
    mode = "bounce"
    [[route]]
    match = "*@else.example"
    mode = "capture"
"""


async def test_each_recipient_keeps_its_own_route_and_its_own_outcome(lab: Lab) -> None:
    one = await lab.upstream("one.internal")
    two = await lab.upstream("two.internal", [on("RCPT", "550 5.1.1 Unknown", match="gone@")])
    relay = await lab.started(CONFIG.format(one=one.port, two=two.port))
    recipients = (
        "a@one.example",
        "b@two.example",
        "vip@two.example",
        "gone@two.example",
        "c@dead.example",
        "d@kept.example",
        "e@held.example",
        "f@returned.example",
    )
    dialogue = await lab.send(relay, *recipients, "nobody@nowhere.example")
    said = [(answer.stage, answer.reply.code) for answer in dialogue.answers if answer.reply is not None]
    assert said == [(Stage.CONTENT, 250)] * len(recipients) + [(Stage.RCPT, 550)]
    assert dialogue.answers[0].reply is not None
    message = dialogue.answers[0].reply.text.rsplit(" ", 1)[-1]

    became = {event.facts["address"]: event.what for event in await lab.ended(message, 7)}
    assert became == {
        "a@one.example": Happening.DELIVERED,
        "b@two.example": Happening.DELIVERED,
        "vip@two.example": Happening.DELIVERED,
        "gone@two.example": Happening.FAILED,
        "c@dead.example": Happening.DEFERRED,
        "d@kept.example": Happening.DELIVERED,
        "f@returned.example": Happening.FAILED,
    }
    assert [each.recipients for each in one.received] == [("a@one.example", "vip@two.example")]
    assert [each.recipients for each in two.received] == [("b@two.example",)]
    assert one.received[0].content.endswith(LETTER)
    captured = await relay.spool.read(captured=True)
    assert "d@kept.example" in [str(entry.delivery.address) for entry in captured.entries]

    told = {event.facts["dsn"] for event in await lab.journal.seen(Happening.BOUNCED, message, 2)}
    dsns = "".join([(await relay.spool.content(dsn)).decode() for dsn in told])
    failed = [line for line in dsns.splitlines() if line.startswith("Final-Recipient: ")]
    assert sorted(failed) == [
        "Final-Recipient: rfc822; f@returned.example",
        "Final-Recipient: rfc822; gone@two.example",
    ]
