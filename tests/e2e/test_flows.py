"""Both documented flows and their neighbours: real sockets from the client to the next hop."""

from __future__ import annotations

import re

import dkim
import pytest

from smtproute.core.event import Happening
from smtproute.core.outcome import Stage
from smtproute.testing.upstream import Drop, on
from tests.e2e.conftest import DMS, LETTER, SENDER, Lab


def folder(lab: Lab) -> None:
    lab.write(
        "dms/postfix-accounts.cf",
        """\
        name@example.org|{SHA512-CRYPT}$6$x$y
        anna@example.org|{SHA512-CRYPT}$6$x$y
        """,
    )
    lab.write(
        "dms/postfix-virtual.cf",
        """\
        name@example.org name@example.org,me@far.example
        sales@example.org team@far.example
        half@example.org anna@example.org, gone@example.org
        """,
    )


async def test_one_address_is_mailbox_and_alias(lab: Lab) -> None:
    folder(lab)
    far = await lab.upstream("mx.far.example")
    key = lab.key()
    relay = await lab.started(
        DMS.format(port=far.port) + f'[arc.keys."example.org"]\nselector = "mail"\nfile = "{key}"'
    )
    message = await lab.delivered(relay, "name@example.org")

    (kept,) = lab.mailbox("name@example.org")
    head, _, body = kept.partition(b"\n\n")
    assert head.startswith(b"Return-Path: <friend@else.example>\nDelivered-To: name@example.org\n")
    assert b"\nAuthentication-Results: mail.example.org; spf=none " in head.replace(b"\n ", b" ")
    assert b"; arc=none smtp.remote-ip=127.0.0.1\n" in head.replace(b"\n ", b" ")
    assert b"\nReceived: from client.example ([127.0.0.1])\n\tby mail.example.org with ESMTP id " in head
    assert f"id {message}\n\tfor <name@example.org>; ".encode() in head
    assert kept.endswith(LETTER.replace(b"\r\n", b"\n"))
    assert body == b"Hello.\n"

    (sent,) = far.received
    assert (sent.reverse_path, sent.recipients) == (SENDER, ("me@far.example",))
    assert sent.content.endswith(LETTER)
    names = [line.partition(b":")[0] for line in sent.content.split(b"\r\n") if line[:1] not in b" \t"]
    assert names[:4] == [b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results", b"Received"]
    assert b"i=1; mail.example.org; spf=none " in re.sub(rb"\s+", b" ", sent.content)
    assert dkim.arc_verify(sent.content, dnsfunc=lab.txt)[0] == b"pass"

    out = next(each for each in await lab.trace(relay, message) if each.what is Happening.ATTEMPT)
    assert out.facts["prepended"].encode("latin-1") + LETTER == sent.content


async def test_alias_mailbox_and_unknown(lab: Lab) -> None:
    folder(lab)
    far = await lab.upstream("mx.far.example")
    relay = await lab.started(DMS.format(port=far.port))
    await lab.delivered(relay, "sales@example.org")
    assert far.received[0].recipients == ("team@far.example",)
    await lab.delivered(relay, "anna+tag@example.org")
    assert b"Delivered-To: anna+tag@example.org\n" in lab.mailbox("anna@example.org")[0]
    (answer,) = (await lab.send(relay, "nobody@example.org")).answers
    assert answer.stage is Stage.RCPT and answer.reply is not None
    assert (answer.reply.code, answer.reply.enhanced) == (550, "5.1.1")
    (answer,) = (await lab.send(relay, "x@elsewhere.example")).answers
    assert answer.reply is not None and (answer.reply.code, answer.reply.enhanced) == (554, "5.7.1")


async def test_each_recipient_goes_its_own_way(lab: Lab) -> None:
    """Postal applies the first recipient's route to all (#3274)."""
    one, two = await lab.upstream("one.internal"), await lab.upstream("two.internal")
    relay = await lab.started(
        f"""
        default = {{ mode = "reject" }}
        [listener.mx]
        bind = "127.0.0.1:0"
        [endpoint.one]
        servers = ["one.internal:{one.port}"]
        [endpoint.two]
        servers = ["two.internal:{two.port}"]
        [[route]]
        match = "*@one.example"
        endpoint = "one"
        [[route]]
        match = "*@two.example"
        endpoint = "two"
        [[route]]
        match = "kept@three.example"
        mode = "capture"
        """
    )
    dialogue = await lab.send(
        relay, "a@one.example", "b@two.example", "c@one.example", "kept@three.example", "no@three.example"
    )
    said = [(answer.stage, answer.reply.code) for answer in dialogue.answers if answer.reply is not None]
    assert said == [(Stage.CONTENT, 250)] * 4 + [(Stage.RCPT, 550)]
    await one.wait(1)
    await two.wait(1)
    assert [each.recipients for each in one.received] == [("a@one.example", "c@one.example")]
    assert [each.recipients for each in two.received] == [("b@two.example",)]
    await lab.journal.seen(Happening.DELIVERED, times=4)
    page = await relay.spool.read(captured=True)
    assert [str(entry.delivery.address) for entry in page.entries] == ["kept@three.example"]


ENDPOINT = """
    default = {{ endpoint = "far" }}
    [listener.app]
    bind = "127.0.0.1:0"
    [endpoint.far]
    servers = ["a.far.example:{a}", "b.far.example:{b}"]
    backup = ["c.far.example:{c}"]
    [queue]
    retry = ["1m", "5m"]
    lifetime = "1h"
"""


async def test_the_first_server_that_takes_it_is_enough(lab: Lab) -> None:
    servers = [await lab.upstream(f"{name}.far.example") for name in "abc"]
    relay = await lab.started(ENDPOINT.format(a=servers[0].port, b=servers[1].port, c=servers[2].port))
    await lab.delivered(relay, "x@far.example")
    assert [len(each.received) for each in servers] == [1, 0, 0]


@pytest.mark.parametrize(
    "rule",
    [
        on("CONNECT", "554 5.3.2 go away"),
        on("CONNECT", Drop()),
        on("MAIL", "450 4.3.2 not now"),
        on("MAIL", "530 5.7.0 log in first"),
        on("RCPT", "452 4.2.2 full"),
        on("DATA", "451 4.3.0 no"),
        on("CONTENT", "451 4.3.0 no"),
        on("RCPT", Drop()),
        on("DATA", Drop()),
    ],
)
async def test_what_one_server_cannot_take_now_another_does(lab: Lab, rule) -> None:
    first, second = await lab.upstream("a.far.example", [rule]), await lab.upstream("b.far.example")
    third = await lab.upstream("c.far.example")
    relay = await lab.started(ENDPOINT.format(a=first.port, b=second.port, c=third.port))
    await lab.delivered(relay, "x@far.example")
    assert [len(each.received) for each in (first, second, third)] == [0, 1, 0]


async def test_a_backup_serves_while_no_other_answers(lab: Lab) -> None:
    third = await lab.upstream("c.far.example")
    lab.zone.set("b.far.example", "A", ["127.0.0.1"])
    relay = await lab.started(ENDPOINT.format(a=25, b=1, c=third.port))
    message = await lab.delivered(relay, "x@far.example")
    attempts = [each.facts for each in await lab.trace(relay, message) if each.what is Happening.ATTEMPT]
    assert [(each["server"], each["backup"]) for each in attempts] == [
        ("b.far.example:1", False),
        (f"c.far.example:{third.port}", True),
    ]


async def test_a_refusal_for_good_is_told_to_the_sender_and_only_for_that_recipient(lab: Lab) -> None:
    script = [on("RCPT", "550 5.1.1 <no@far.example> unknown here", match="no@")]
    far = await lab.upstream("a.far.example", script)
    relay = await lab.started(
        ENDPOINT.format(a=far.port, b=1, c=1) + '[[route]]\nmatch = "*@else.example"\nmode = "capture"'
    )
    message = await lab.delivered(relay, "yes@far.example", "no@far.example")
    assert far.received[0].recipients == ("yes@far.example",)
    (bounced,) = await lab.journal.seen(Happening.BOUNCED, message)
    await lab.journal.finished(bounced.facts["dsn"], 1)
    dsn = (await relay.spool.content(bounced.facts["dsn"])).decode()
    assert "To: friend@else.example\r\n" in dsn
    assert "Final-Recipient: rfc822; no@far.example\r\nAction: failed\r\nStatus: 5.1.1\r\n" in dsn
    assert "Remote-MTA: dns; a.far.example\r\n" in dsn
    assert "Diagnostic-Code: smtp; 550 5.1.1 <no@far.example> unknown here\r\n" in dsn
    assert "yes@far.example" not in dsn
    (entry,) = await relay.spool.entries(bounced.facts["dsn"])
    assert entry.message.envelope.reverse_path is None
    assert entry.delivery.kind == "capture"


async def test_a_dsn_never_names_the_private_target_of_an_alias(lab: Lab) -> None:
    far = await lab.upstream("mx.far.example", [on("RCPT", "550 5.1.1 mailbox Team unknown at Far.example")])
    folder(lab)
    relay = await lab.started(DMS.format(port=far.port) + '[[route]]\nmatch = "*@else.example"\nmode = "capture"')
    message = await lab.delivered(relay, "sales@example.org")
    (bounced,) = await lab.journal.seen(Happening.BOUNCED, message)
    dsn = (await relay.spool.content(bounced.facts["dsn"])).decode()
    assert "Final-Recipient: rfc822; sales@example.org\r\n" in dsn
    assert "Status: 5.1.1\r\n" in dsn
    assert "far.example" not in dsn.lower() and "team" not in dsn.lower()


async def test_a_dead_branch_bounces_and_the_others_get_their_copy(lab: Lab) -> None:
    folder(lab)
    relay = await lab.started(DMS.format(port=1) + '[[route]]\nmatch = "*@else.example"\nmode = "capture"')
    message = await lab.delivered(relay, "half@example.org")
    assert len(lab.mailbox("anna@example.org")) == 1
    (bounced,) = await lab.journal.seen(Happening.BOUNCED, message)
    assert bounced.facts["to"] == SENDER


async def test_no_dsn_for_a_null_sender(lab: Lab) -> None:
    far = await lab.upstream("a.far.example", [on("CONTENT", "554 5.6.0 no")])
    relay = await lab.started(ENDPOINT.format(a=far.port, b=1, c=1))
    message = await lab.delivered(relay, "x@far.example", sender=None)
    (bounced,) = await lab.journal.seen(Happening.BOUNCED, message)
    assert bounced.facts["dsn"] == "" and "null sender" in bounced.facts["why"]


async def test_retries_follow_the_schedule_until_the_lifetime_is_over(lab: Lab) -> None:
    clock = lab.turned()
    far = await lab.upstream("a.far.example", [on("MAIL", "451 4.7.1 later")])
    lab.zone.set("b.far.example", "A", [])
    relay = await lab.started(
        ENDPOINT.format(a=far.port, b=1, c=1).replace('backup = ["c.far.example:1"]', "")
        + '[[route]]\nmatch = "*@else.example"\nmode = "capture"'
    )
    message = await lab.accepted(relay, "x@far.example")
    pauses = []
    for attempt in range(1, 20):
        deferred = await lab.journal.seen(Happening.DEFERRED, message, attempt)
        pauses.append(deferred[-1].facts["retry_at"] - clock.now())
        assert "451 4.7.1 later" in deferred[-1].facts["reply"]
        await clock.advance(pauses[-1])
        await lab.journal.until(lambda n=attempt: len(lab.journal.of(Happening.ATTEMPT, message)) > n)
        if lab.journal.of(Happening.FAILED, message):
            break
        await lab.journal.until(
            lambda n=attempt: (
                len(lab.journal.of(Happening.DEFERRED, message)) > n or bool(lab.journal.of(Happening.FAILED, message))
            )
        )
        if lab.journal.of(Happening.FAILED, message):
            break
    assert pauses[:3] == [60.0, 300.0, 300.0]
    assert sum(pauses) == 3600.0
    (bounced,) = await lab.journal.seen(Happening.BOUNCED, message)
    dsn = (await relay.spool.content(bounced.facts["dsn"])).decode()
    assert "Status: 4.7.1\r\n" in dsn


async def test_a_connection_lost_after_the_dot_is_ambiguous_and_not_sent_elsewhere(lab: Lab) -> None:
    first = await lab.upstream("a.far.example", [on("CONTENT", Drop())])
    second = await lab.upstream("b.far.example")
    relay = await lab.started(ENDPOINT.format(a=first.port, b=second.port, c=1))
    message = await lab.accepted(relay, "x@far.example")
    (deferred,) = await lab.journal.seen(Happening.DEFERRED, message)
    assert "ambiguous" in deferred.facts["detail"]
    assert second.received == []


async def test_the_error_says_what_was_tried(lab: Lab) -> None:
    lab.zone.set("a.far.example", "A", ["127.0.0.1"])
    relay = await lab.started(ENDPOINT.format(a=1, b=25, c=25))
    message = await lab.accepted(relay, "x@far.example")
    (deferred,) = await lab.journal.seen(Happening.DEFERRED, message)
    detail = f"{deferred.facts['says']}: {deferred.facts['detail']}"
    assert detail.startswith("endpoint far: no server took the message: a.far.example (dns, 127.0.0.1:1) ")
    assert "refused" in detail
    assert f"b.far.example: NXDOMAIN from {lab.zone.address.split(':')[0]}" in detail


RECIPIENT = """
    default = { endpoint = "world" }
    [listener.app]
    bind = "127.0.0.1:0"
    [endpoint.world]
    discover = "recipient"
    [[route]]
    match = "*@else.example"
    mode = "capture"
"""


async def test_null_mx_is_refused_for_good(lab: Lab) -> None:
    lab.zone.set("null.example", "MX", ["0 ."])
    relay = await lab.started(RECIPIENT)
    message = await lab.delivered(relay, "x@null.example")
    (failed,) = lab.journal.of(Happening.FAILED, message)
    assert failed.facts["reply"].startswith("556 5.1.10 ")
    await lab.journal.seen(Happening.BOUNCED, message)


async def test_a_domain_that_does_not_exist_fails_and_a_broken_dns_defers(lab: Lab) -> None:
    relay = await lab.started(RECIPIENT)
    message = await lab.delivered(relay, "x@nxdomain.example")
    (failed,) = lab.journal.of(Happening.FAILED, message)
    assert failed.facts["reply"].startswith("550 5.1.2 ")
    from smtproute.testing.zone import Fault

    lab.zone.set("broken.example", "ANY", Fault.SERVFAIL)
    message = await lab.accepted(relay, "x@broken.example")
    (deferred,) = await lab.journal.seen(Happening.DEFERRED, message)
    assert "SERVFAIL" in deferred.facts["detail"]


async def test_the_recipients_own_mx_in_order_of_preference(lab: Lab) -> None:
    lab.zone.set("far.example", "MX", ["20 b.far.example", "10 a.far.example"])
    lab.zone.set("a.far.example", "A", ["127.0.0.1"])
    lab.zone.set("b.far.example", "A", ["127.0.0.1"])
    lab.zone.set("implicit.example", "A", ["127.0.0.1"])
    relay = await lab.started(RECIPIENT)
    from smtproute.core.address import Domain

    world = relay.snapshot().settings.endpoints["world"]
    choice = await relay.endpoints.candidates(world, Domain.parse("far.example"))
    assert [str(each.server) for each in choice.candidates] == ["a.far.example:25", "b.far.example:25"]
    choice = await relay.endpoints.candidates(world, Domain.parse("implicit.example"))
    assert [str(each.server) for each in choice.candidates] == ["implicit.example:25"]


async def test_forged_results_are_removed_and_foreign_ones_stay(lab: Lab) -> None:
    folder(lab)
    far = await lab.upstream("mx.far.example")
    relay = await lab.started(DMS.format(port=far.port))
    forged = b"authentication-results: (x) MAIL.example.ORG 1;\r\n\tdkim=pass header.d=bank.example\r\n"
    foreign = b"Authentication-Results: mx.else.example; spf=pass\r\n"
    await lab.delivered(relay, "name@example.org", content=forged + foreign + LETTER)
    assert far.received[0].content.endswith(b"\r\n" + foreign + LETTER)
    assert b"bank.example" not in far.received[0].content
    assert b"bank.example" not in lab.mailbox("name@example.org")[0]


async def test_a_loop_of_hops_is_refused(lab: Lab) -> None:
    folder(lab)
    relay = await lab.started(DMS.format(port=1))
    hops = b"Received: from a by b; Sun, 22 Nov 2026 10:00:00 +0000\r\n"
    (answer,) = (await lab.send(relay, "anna@example.org", content=hops * 51 + LETTER)).answers
    assert answer.reply is not None and (answer.reply.code, answer.reply.enhanced) == (554, "5.4.6")
    await lab.delivered(relay, "anna@example.org", content=hops * 50 + LETTER)


async def test_a_large_message_arrives_whole(lab: Lab) -> None:
    folder(lab)
    far = await lab.upstream("mx.far.example")
    key = lab.key()
    relay = await lab.started(
        DMS.format(port=far.port) + f'[arc.keys."example.org"]\nselector = "mail"\nfile = "{key}"'
    )
    content = LETTER + b"".join(b".%d \xe9 line\r\n" % number for number in range(300_000))
    message = await lab.delivered(relay, "name@example.org", content=content)
    assert far.received[0].content.endswith(content)
    assert dkim.arc_verify(far.received[0].content, dnsfunc=lab.txt)[0] == b"pass"
    assert await relay.spool.content(message) == content
    assert lab.mailbox("name@example.org")[0].endswith(content.replace(b"\r\n", b"\n"))


async def test_a_chain_that_comes_in_is_extended(lab: Lab) -> None:
    """Two relays in a row, each sealing; a third party's dkimpy believes both."""
    folder(lab)
    far = await lab.upstream("mx.far.example")
    arc = '[arc.keys."example.org"]\nselector = "mail"\nfile = "{}"'
    relay = await lab.started(DMS.format(port=far.port) + arc.format(lab.key()))
    await lab.delivered(relay, "sales@example.org")
    once = far.received[0].content
    await lab.delivered(relay, "sales@example.org", content=once)
    twice = far.received[1].content
    unfolded = re.sub(rb"\s+", b" ", twice)
    assert b"i=2; mail.example.org; spf=none " in unfolded and b"; arc=pass smtp.remote-ip=127.0.0.1 " in unfolded
    cv, results, _ = dkim.arc_verify(twice, dnsfunc=lab.txt)
    assert cv == b"pass" and len(results) == 2
    broken = once.replace(b"Subject: Hello", b"Subject: Hallo")
    await lab.delivered(relay, "sales@example.org", content=broken)
    assert b"cv=fail" in far.received[2].content


async def test_an_endpoint_that_a_reload_removed_defers_and_says_so(lab: Lab) -> None:
    lab.zone.set("a.far.example", "A", ["127.0.0.1"])
    clock = lab.turned()
    relay = await lab.started(ENDPOINT.format(a=1, b=1, c=1))
    message = await lab.accepted(relay, "x@far.example")
    await lab.journal.seen(Happening.DEFERRED, message)
    lab.config('[listener.app]\nbind = "127.0.0.1:0"')
    await relay.reload()
    await clock.advance(60)
    deferred = await lab.journal.seen(Happening.DEFERRED, message, 2)
    assert "endpoint far" in deferred[-1].facts["says"] and "removed" in deferred[-1].facts["detail"]
