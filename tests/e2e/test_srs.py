"""SRS end to end: forwards leave with a sender of ours, bounces to it come back, and all else keeps its sender."""

from __future__ import annotations

import asyncio
import json
import stat

import pytest

from smtproute.app import Refused, Relay, load
from smtproute.config.load import load as read
from smtproute.core.address import Address, Domain
from smtproute.core.event import Happening
from smtproute.core.settings import Srs
from smtproute.core.srs import original, rewritten
from smtproute.spool.queue import Change
from smtproute.testing.upstream import Received, Upstream, on
from smtproute.trace.text import render
from tests.e2e.conftest import SENDER, Client, Lab
from tests.e2e.test_cli import run
from tests.e2e.test_docker_mailserver import environment, folder

CONFIG = """
    default = {{ mode = "reject" }}
    [docker_mailserver]
    config = "dms"
    [srs]
    domain = "srs.example.org"
    [listener.mx]
    bind = "127.0.0.1:0"
    role = "inbound"
    [listener.app]
    bind = "127.0.0.1:0"
    [endpoint.far]
    servers = ["mx.far.example:{far}"]
    [endpoint.home]
    servers = ["mx.else.example:{home}"]
    [[route]]
    match = "*@far.example"
    client = ["127.0.0.0/8"]
    endpoint = "far"
    [[route]]
    match = "*@else.example"
    client = ["127.0.0.0/8"]
    endpoint = "home"
"""


class House:
    """A relay that forwards to far.example, and the server of the original senders at else.example."""

    def __init__(self, lab: Lab, relay: Relay, far: Upstream, home: Upstream) -> None:
        self.lab, self.relay, self.far, self.home = lab, relay, far, home
        self.secret = lab.folder / "state" / "srs.secret"

    async def forwarded(self, *recipients: str, **options) -> list[Received]:
        """What arrives at far.example of one message."""
        before = len(self.far.received)
        await self.lab.delivered(self.relay, *recipients, **options)
        return self.far.received[before:]

    async def code(self, recipient: str) -> int:
        """What a bounce to this address hears."""
        dialogue = await self.lab.send(self.relay, recipient, sender=None)
        (answer,) = dialogue.answers
        assert answer.reply is not None
        return answer.reply.code

    def turned_back(self, address: str) -> str:
        """By the file of secrets alone."""
        srs = Srs(Domain.parse("srs.example.org"), secrets=tuple(self.secret.read_text().split()))
        return str(original(srs, Address.parse(address), self.lab.world.clock.now()))


async def house(lab: Lab, *script, config: str = CONFIG, **tables: str) -> House:
    folder(
        lab,
        postfix_accounts="name@example.org|{PLAIN}secret\n",
        postfix_virtual="name@example.org name@example.org,me@far.example\nout@example.org me@far.example\n",
        **tables,
    )
    far, home = await lab.upstream("mx.far.example", script), await lab.upstream("mx.else.example")
    return House(lab, await lab.started(config.format(far=far.port, home=home.port)), far, home)


async def test_a_forward_has_a_sender_of_ours_and_the_mailbox_the_senders_own(lab: Lab) -> None:
    made = await house(lab)
    (received,) = await made.forwarded("name@example.org", listener="mx")
    assert received.reverse_path.startswith("SRS0=") and received.reverse_path.endswith(
        "=else.example=friend@srs.example.org"
    )
    assert made.turned_back(received.reverse_path) == SENDER
    (kept,) = lab.mailbox("name@example.org")
    assert kept.startswith(f"Return-Path: <{SENDER}>\n".encode())
    (attempt,) = lab.journal.of(Happening.ATTEMPT)
    assert attempt.facts["sender"] == received.reverse_path
    assert f", from <{received.reverse_path}>" in render([attempt])[1]


async def test_a_bounce_comes_back_to_the_original_sender(lab: Lab) -> None:
    made = await house(lab)
    (received,) = await made.forwarded("out@example.org", listener="mx")
    for written in (received.reverse_path, received.reverse_path.lower(), received.reverse_path.replace("=", "+", 1)):
        message = await lab.delivered(made.relay, written, sender=None, listener="mx")
        assert (made.home.received[-1].reverse_path, made.home.received[-1].recipients) == ("", (SENDER,))
        (entry,) = await made.relay.spool.entries(message)
        assert str(entry.delivery.recipient) == written
        (planned,) = lab.journal.of(Happening.PLANNED, message)
        assert planned.facts["steps"][0][0] == "srs"
    assert await made.code(received.reverse_path.replace("=friend@", "=victim@")) == 550
    assert await made.code("SRS0=abcd=TT=else.example=friend@srs.example.org") == 550


async def test_a_bounce_that_comes_too_late_is_refused(lab: Lab) -> None:
    clock = lab.turned()
    made = await house(lab)
    (received,) = await made.forwarded("out@example.org", listener="mx")
    assert await made.code(received.reverse_path) == 250
    await clock.advance(22 * 86400.0)
    assert await made.code(received.reverse_path) == 550


async def test_two_copies_of_one_message_for_one_endpoint_each_with_its_own_sender(lab: Lab) -> None:
    made = await house(lab)
    received = await made.forwarded("out@example.org", "direct@far.example", listener="app")
    senders = {each.recipients: each.reverse_path for each in received}
    assert senders[("direct@far.example",)] == SENDER
    assert made.turned_back(senders[("me@far.example",)]) == SENDER != senders[("me@far.example",)]


async def test_a_sender_that_cannot_be_rewritten_is_told(lab: Lab) -> None:
    made = await house(lab)
    (received,) = await made.forwarded("out@example.org", sender="SRS1=nonsense@else.example", listener="mx")
    assert received.reverse_path == "SRS1=nonsense@else.example"
    (attempt,) = lab.journal.of(Happening.ATTEMPT)
    why = "SRS1=nonsense@else.example begins as an SRS1 address, and is none"
    assert attempt.facts["unrewritten"] == why
    assert f"the sender is not rewritten: {why}" in render([attempt])[2]


@pytest.mark.parametrize("sender", ["name@example.org", None, "SRS0=abcd=TT=x.example=y@srs.example.org"])
async def test_what_our_own_people_send_and_bounces_keep_their_sender(lab: Lab, sender: str | None) -> None:
    made = await house(lab)
    for listener in ("app", "mx"):
        (received,) = await made.forwarded("out@example.org", sender=sender, listener=listener)
        assert received.reverse_path == (sender or "")


async def test_the_dsn_about_a_forward_goes_to_the_original_sender(lab: Lab) -> None:
    made = await house(lab, on("RCPT", "550 5.1.1 No such user"))
    message = await lab.accepted(made.relay, "out@example.org", listener="mx")
    await lab.journal.seen(Happening.FAILED, message)
    (dsn,) = await made.home.wait(1)
    assert (dsn.reverse_path, dsn.recipients) == ("", (SENDER,))
    assert b"Final-Recipient: rfc822; out@example.org\r\n" in dsn.content and b"SRS0" not in dsn.content


async def test_each_attempt_has_the_same_sender(lab: Lab) -> None:
    clock = lab.turned()
    config = CONFIG + '[queue]\nretry = ["2d"]\n'
    made = await house(lab, on("RCPT", "451 4.3.0 Not now", times=1), config=config)
    message = await lab.accepted(made.relay, "out@example.org", listener="mx")
    await lab.journal.seen(Happening.DEFERRED, message)
    await clock.asleep()
    await clock.advance(2 * 86400.0)
    await lab.journal.finished(message, 1)
    first, second = (each.facts["sender"] for each in lab.journal.of(Happening.ATTEMPT, message))
    assert first == second == made.far.received[0].reverse_path


async def test_somebody_elses_rewritten_sender_comes_back_past_whoever_is_between(lab: Lab) -> None:
    made = await house(lab)
    sender = "SRS1=abcd=else.example==hash=TT=author.example=user@second.example"
    (received,) = await made.forwarded("out@example.org", sender=sender, listener="mx")
    assert received.reverse_path.endswith("=else.example==hash=TT=author.example=user@srs.example.org")
    await lab.delivered(made.relay, received.reverse_path, sender=None, listener="mx")
    assert made.home.received[-1].recipients == ("SRS0=hash=TT=author.example=user@else.example",)


async def test_smtputf8(lab: Lab) -> None:
    made = await house(lab)
    (received,) = await made.forwarded("out@example.org", sender="J\u00fcrgen@b\u00fccher.example", listener="mx")
    assert "SMTPUTF8" in received.parameters
    assert made.turned_back(received.reverse_path) == "J\u00fcrgen@b\u00fccher.example"


async def test_a_relay_map_is_asked_for_the_sender_that_leaves(lab: Lab) -> None:
    """docker-mailserver's SRS sends all mail through one relay (#4544); without it forwards bypass the map (#3962)."""
    ours, hosted = await lab.upstream("ours.relay.example"), await lab.upstream("hosted.relay.example")
    folder(
        lab,
        postfix_accounts="name@example.org|{PLAIN}secret\nuser@hosted.example|{PLAIN}secret\n",
        postfix_virtual="out@example.org me@far.example\n",
        postfix_relaymap=f"@example.org [ours.relay.example]:{ours.port}\n"
        f"@hosted.example [hosted.relay.example]:{hosted.port}\n",
    )
    environment(lab)
    relay = await lab.started(
        """
        default = { mode = "reject" }
        [docker_mailserver]
        config = "dms"
        env = "mailserver.env"
        [srs]
        domain = "example.org"
        [listener.mx]
        bind = "127.0.0.1:0"
        role = "inbound"
        [listener.app]
        bind = "127.0.0.1:0"
        """
    )
    await lab.delivered(relay, "out@example.org", listener="mx")
    (forwarded,) = ours.received
    assert forwarded.reverse_path.endswith("=else.example=friend@example.org")
    for listener, sender, where in (
        ("app", "user@hosted.example", hosted),
        ("mx", "user@hosted.example", hosted),
        ("app", "name@example.org", ours),
    ):
        await lab.delivered(relay, "out@example.org", sender=sender, listener=listener)
        assert where.received[-1].reverse_path == sender


async def test_a_forward_that_waits_for_a_mistyped_relay_goes_to_the_mended_one(lab: Lab) -> None:
    ours = await lab.upstream("ours.relay.example")
    tables = {
        "postfix_accounts": "name@example.org|{PLAIN}secret\n",
        "postfix_virtual": "out@example.org me@far.example\n",
    }
    folder(lab, **tables, postfix_relaymap=f"@example.org [rous.relay.example]:{ours.port}\n")
    environment(lab)
    relay = await lab.started(
        """
        [docker_mailserver]
        config = "dms"
        env = "mailserver.env"
        [srs]
        domain = "example.org"
        [listener.mx]
        bind = "127.0.0.1:0"
        role = "inbound"
        """
    )
    message = await lab.accepted(relay, "out@example.org")
    await lab.journal.seen(Happening.DEFERRED, message)
    folder(lab, postfix_relaymap=f"@example.org [ours.relay.example]:{ours.port}\n")
    await relay.reload()
    await relay.spool.change(Change.RETRY, [message], lab.world.clock.now())
    (received,) = await ours.wait(1)
    assert received.reverse_path.endswith("=else.example=friend@example.org")


# The secret


async def test_the_secret_is_made_once_and_for_our_user_only(lab: Lab) -> None:
    folder(lab, postfix_virtual="out@example.org me@far.example\n")
    file, secret = lab.config(CONFIG.format(far=1, home=1)), lab.folder / "state" / "srs.secret"
    made = []
    for _ in range(2):
        async with lab.relay(file):
            assert stat.S_IMODE(secret.stat().st_mode) == 0o600
            made.append(secret.read_text())
    assert made[0] == made[1] and len(made[0]) == 25 and made[0].endswith("\n")


async def test_a_reload_reads_it_again_and_the_old_one_still_verifies(lab: Lab) -> None:
    made = await house(lab)
    (before,) = await made.forwarded("out@example.org", listener="mx")
    made.secret.write_text(f"the next secret\n{made.secret.read_text()}")
    await made.relay.reload()
    (after,) = await made.forwarded("out@example.org", listener="mx")
    assert after.reverse_path != before.reverse_path
    assert [await made.code(each.reverse_path) for each in (before, after)] == [250, 250]
    made.secret.write_text("the next secret\n")
    await made.relay.reload()
    assert [await made.code(each.reverse_path) for each in (before, after)] == [550, 250]


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        ("", 0o600, "the file is empty"),
        ("\n", 0o600, "line 1 is blank"),
        ("one\n\ntwo\n", 0o600, "line 2 is blank"),
        ("one\n", 0o644, r"others can read it (-rw-r--r--)"),
    ],
)
async def test_a_file_that_is_no_secret_is_refused(lab: Lab, text: str, mode: int, why: str) -> None:
    made = await house(lab)
    (before,) = await made.forwarded("out@example.org", listener="mx")
    made.secret.write_text(text)
    made.secret.chmod(mode)
    await made.relay.reload()
    (refused,) = lab.journal.of(Happening.RELOAD_REFUSED)
    assert f'srs.secret_file = "{made.secret}": ' in refused.facts["why"] and why in refused.facts["why"]
    assert await made.code(before.reverse_path) == 250
    with pytest.raises(Refused) as caught:
        load(lambda: read(str(lab.folder / "smtproute.toml"), {}, fqdn=lambda: "mail.example.org"), lab.world)
    assert why in str(caught.value)
    assert made.secret.read_text() == text


# explain


async def test_explain_shows_the_sender_as_it_leaves_and_why(lab: Lab) -> None:
    def explained(*arguments: str) -> str:
        return run(
            "explain",
            *arguments,
            "--listener",
            "mx",
            "--client-ip",
            "127.0.0.1",
            "-c",
            str(lab.folder / "smtproute.toml"),
        ).stdout

    folder(
        lab,
        postfix_accounts="name@example.org|{PLAIN}secret\n",
        postfix_virtual="name@example.org name@example.org,me@far.example\nout@example.org me@far.example\n",
    )
    far, home = await lab.upstream("mx.far.example"), await lab.upstream("mx.else.example")
    file = lab.config(CONFIG.format(far=far.port, home=home.port))
    secret = lab.folder / "state" / "srs.secret"
    said = await asyncio.to_thread(explained, "out@example.org", "--from", SENDER)
    assert "     sender rewritten by SRS: SRS0=HASH=TT=else.example=friend@srs.example.org (it is a forward" in said
    assert "the secret makes: it is not there yet" in said and not secret.exists()
    said = await asyncio.to_thread(explained, "out@example.org", "--from", "name@example.org")
    assert "     sender left: example.org is a local domain\n" in said
    async with lab.relay(file) as relay:
        await lab.delivered(relay, "out@example.org", listener="mx")
    (received,) = far.received
    told = json.loads(await asyncio.to_thread(explained, "out@example.org", "--from", SENDER, "--json"))
    (copy,) = told["deliveries"]
    assert copy["sender"] == received.reverse_path
    assert copy["srs"] == {"rewritten": True, "why": "it is a forward, and else.example is not ours"}
    told = json.loads(await asyncio.to_thread(explained, received.reverse_path, "--json"))
    assert told["reply"]["code"] == 250 and told["deliveries"][0]["address"] == SENDER
    assert told["steps"][0] == {
        "rule": "srs",
        "tried": received.reverse_path,
        "result": "matched",
        "why": f"a sender that we rewrote: {SENDER}",
    }
    listing = await asyncio.to_thread(explained, "--all", "--from", SENDER)
    assert "endpoint far for me@far.example (sender rewritten" in listing


async def test_vrfy_and_expn_tell_no_stranger_an_address_that_he_could_send_to(lab: Lab) -> None:
    """Whoever has one with a right hash relays through us to the address in it."""
    config = CONFIG.replace('role = "inbound"', 'role = "inbound"\n    debug = true').replace("*@far.", "*@other.")
    made = await house(lab, config=config, postfix_relaymap="@srs.example.org [mx.far.example]:25\n")
    client = await Client.connect(made.relay.addresses["mx"])
    await client.say("EHLO x")
    await client.say(f"MAIL FROM:<{SENDER}>")
    valid = rewritten(made.relay.snapshot().settings.srs, Address.parse(SENDER), lab.world.clock.now())
    assert valid != rewritten(Srs(valid.domain), Address.parse(SENDER), 0.0)
    for said in (await client.say("EXPN out@example.org"), await client.say("VRFY name@example.org")):
        assert "SRS0=HASH=TT=else.example=friend@srs.example.org (it is a forward" in said
        assert "not for strangers" in said and "relay [mx.far.example]:25" in said
        assert valid.local[:9] not in said
    assert (await client.say(f"RCPT TO:<{valid}>")).startswith("250 ")
