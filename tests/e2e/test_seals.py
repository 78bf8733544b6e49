"""A forward sealed by a running relay, judged by two implementations that know nothing of ours."""

from __future__ import annotations

import asyncio
import re
import signal
import smtplib
import threading
from collections.abc import Callable
from typing import Any

import dkim
import pytest

from smtproute.core.event import Happening
from smtproute.core.message import fields
from smtproute.mailauth.keys import PublicKey, SigningKey
from smtproute.testing.clock import TurnedClock
from smtproute.testing.upstream import Received, Upstream, on
from smtproute.world import World
from tests.e2e.conftest import DMS, LETTER, Lab
from tests.e2e.test_cli import serving
from tests.mailauth.arc_peers import by_perl

FORWARD = """
    [aliases]
    tables = ["aliases"]
    [listener.mx]
    bind = "127.0.0.1:0"
    role = "inbound"
    [endpoint.far]
    servers = ["mx.far.example:{port}"]
    [[route]]
    match = "*@far.example"
    endpoint = "far"
    [arc.keys."example.org"]
    selector = "mail"
    file = "{key}"
"""

SEVERAL = """
    [aliases]
    tables = ["aliases"]
    [listener.mx]
    bind = "127.0.0.1:0"
    role = "inbound"
    [listener.app]
    bind = "127.0.0.1:0"
    seal = true
    [queue]
    retry = ["60s"]
    [endpoint.a]
    servers = ["mx.far.example:{a}"]
    [endpoint.b]
    servers = ["mx.far.example:{b}"]
    [[route]]
    match = "regex:.*@far[1-3].example"
    endpoint = "a"
    [[route]]
    match = "regex:.*@far[4-6].example"
    endpoint = "b"
    [arc]
    sign = "example.org"
    [[arc.keys."example.org"]]
    selector = "{0}"
    file = "{0}-example.org.pem"
    [[arc.keys."example.org"]]
    selector = "{1}"
    file = "{1}-example.org.pem"
    [[dkim.keys."example.org"]]
    selector = "{0}"
    file = "{0}-example.org.pem"
"""
BEFORE, AFTER = ("mail", "next"), ("next", "mail")
"""The selectors before and after a rotation; the first of them seals and signs."""
FAR = [f"{name}@far{number}.example" for number in range(1, 7) for name in ("x", "y")]
"""Two recipients in each of six domains, three for each of two endpoints."""

TEXT = b"A line of text, with  spaces \t and .dots.\r\n..\r\n"
EIGHT_BIT = b"Zur\xc3\xbcck \xff\xfe\x80 ohne Ende\r\n"
BODIES = {
    "1 KB text": TEXT * 20,
    "50 KB 8-bit": EIGHT_BIT * 1800,
    "1 MB text": TEXT * 21_000,
    "5 MB 8-bit": EIGHT_BIT * 180_000,
    "no body": b"",
    "trailing blank lines": TEXT + b"\r\n" * 50,
    "long lines": b"x" * 5000 + b"\r\n" + b"y " * 4000 + b"\r\n",
}


@pytest.mark.peer("perl:Mail::DKIM::ARC::Verifier", "perl:Net::DNS")
async def test_dkimpy_and_perl_believe_every_sealed_forward(lab: Lab) -> None:
    """Each body is forwarded three times, each time with the chain that the time before made."""
    lab.write("aliases", "name@example.org me@far.example\n")
    far = await lab.upstream("mx.far.example")
    key = lab.key()
    relay = await lab.started(FORWARD.format(port=far.port, key=key))
    head = LETTER[: LETTER.index(b"\r\n\r\n") + 4]
    for name, body in BODIES.items():
        content = head + body
        for hop in (1, 2, 3):
            await lab.delivered(relay, "name@example.org", content=content)
            content = far.received[-1].content
            assert content.endswith(head + body), name
            cv, sets, why = dkim.arc_verify(content, dnsfunc=lab.txt)
            assert (cv, len(sets)) == (b"pass", hop), (name, why)
    record = lab.txt(b"mail._domainkey.example.org.")
    assert record is not None
    said = by_perl(
        lab.folder, [each.content for each in far.received], {"mail._domainkey.example.org": record.decode()}
    )
    assert [each.split()[0] for each in said] == ["pass"] * 3 * len(BODIES)


async def test_a_missing_key_is_never_silent(lab: Lab) -> None:
    """A route's domain is not local: its key may be missing, and each unsealed copy says so."""
    far = await lab.upstream("mx.far.example")
    lab.write("aliases", "name@example.org me@far.example\n")
    relay = await lab.started(FORWARD.format(port=far.port, key=lab.key()))
    message = await lab.delivered(relay, "direct@far.example")
    (unsealed,) = [each for each in await lab.trace(relay, message) if each.what == "unsealed"]
    assert unsealed.facts["why"] == "there is no sealing key for far.example"
    assert b"ARC-Seal" not in far.received[0].content


async def test_a_trusted_listener_seals_only_when_told(lab: Lab) -> None:
    far = await lab.upstream("mx.far.example")
    lab.write("aliases", "name@example.org me@far.example\n")
    config = FORWARD.format(port=far.port, key=lab.key()).replace('role = "inbound"', "seal = true")
    relay = await lab.started(config + '\n[listener.plain]\nbind = "127.0.0.1:0"')
    await lab.delivered(relay, "name@example.org", listener="mx")
    await lab.delivered(relay, "name@example.org", listener="plain")
    assert dkim.arc_verify(far.received[0].content, dnsfunc=lab.txt)[0] == b"pass"
    assert b"ARC-Seal" not in far.received[1].content


async def test_a_message_that_cannot_be_sealed_leaves_unsealed_and_says_why(lab: Lab) -> None:
    far = await lab.upstream("mx.far.example")
    lab.write("aliases", "name@example.org me@far.example\n")
    relay = await lab.started(FORWARD.format(port=far.port, key=lab.key()))
    message = await lab.delivered(relay, "name@example.org", content=b"Subject: x\r\nno field at all\r\n\r\nbody\r\n")
    (unsealed,) = [each for each in await lab.trace(relay, message) if each.what == "unsealed"]
    assert "malformed header" in unsealed.facts["why"]
    assert far.received[0].content.endswith(b"Subject: x\r\nno field at all\r\n\r\nbody\r\n")


async def test_a_chain_that_fails_is_sealed_once_more_and_then_has_ended(lab: Lab) -> None:
    """RFC 8617 5.1.2."""
    far = await lab.upstream("mx.far.example")
    lab.write("aliases", "name@example.org me@far.example\n")
    relay = await lab.started(FORWARD.format(port=far.port, key=lab.key()))
    await lab.delivered(relay, "name@example.org")
    changed = far.received[0].content.replace(b"Hello.", b"Hallo.")
    failed = await lab.delivered(relay, "name@example.org", content=changed)
    content = far.received[1].content
    assert content.count(b"ARC-Seal:") == 2 and b" cv=fail; d=example.org; i=2;" in content
    assert lab.journal.of(Happening.UNSEALED, failed) == []
    ended = await lab.delivered(relay, "name@example.org", content=content)
    assert far.received[2].content.count(b"ARC-Seal:") == 2
    (unsealed,) = lab.journal.of(Happening.UNSEALED, ended)
    assert unsealed.facts["why"] == "no set may be added to this chain: ARC-Seal 2 says cv=fail"


async def test_a_folder_without_a_key_for_a_domain_starts_and_says_so(lab: Lab) -> None:
    key = lab.key()
    lab.write("dms/postfix-virtual.cf", "name@example.org me@far.example\nname@example.com me@far.example\n")
    conf = f'domain {{ example.org {{ path = "/tmp/docker-mailserver/{key}"; selector = "mail"; }} }}'
    lab.write("dms/rspamd/override.d/arc.conf", conf)
    (lab.folder / key).rename(lab.folder / "dms" / key)
    far = await lab.upstream("mx.far.example")
    relay = await lab.started(DMS.format(port=far.port))
    warnings = [event.facts["what"] for event in lab.journal.of(Happening.WARNING)]
    assert [what for what in warnings if "no sealing key" in what] == [
        "postfix-virtual.cf:2: example.com has no sealing key: what is forwarded for it goes out unsealed"
        " (see smtproute check)"
    ]
    sealed = await lab.delivered(relay, "name@example.org")
    unsealed = await lab.delivered(relay, "name@example.com")
    assert far.received[0].content.startswith(b"ARC-Seal: ")
    assert b"ARC-Seal" not in far.received[1].content
    assert Happening.UNSEALED not in {event.what for event in await lab.trace(relay, sealed)}
    assert Happening.UNSEALED in {event.what for event in await lab.trace(relay, unsealed)}


Using = list[tuple[str, threading.Thread]]


@pytest.fixture
def using(monkeypatch: pytest.MonkeyPatch) -> Using:
    """Each use of a key, private (`sign`) or public (`made`), and the thread that it was in."""
    uses: Using = []

    def watched(name: str, use: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            uses.append((name, threading.current_thread()))
            return use(*arguments)

        return noted

    monkeypatch.setattr(SigningKey, "sign", watched("sign", SigningKey.sign))
    monkeypatch.setattr(PublicKey, "made", watched("made", PublicKey.made))
    return uses


async def several(lab: Lab, *deferred: str) -> tuple[Upstream, Upstream]:
    """The upstreams of SEVERAL, of which the first defers these recipients once; the aliases and the keys."""
    script = [on("RCPT", "450 4.2.0 later", match=each, times=1) for each in deferred]
    lab.write("aliases", f"all@example.org {', '.join(FAR)}\nname@example.org {FAR[0]}\n")
    for selector in BEFORE:
        lab.key(selector=selector)
    return await lab.upstream("mx.far.example", script), await lab.upstream("mx.far.example")


def ours(first: Upstream, second: Upstream, selectors: tuple[str, str] = BEFORE) -> str:
    return SEVERAL.format(*selectors, a=first.port, b=second.port)


def selector(content: bytes, name: bytes = b"arc-seal") -> str:
    """That of the topmost field of this name."""
    field = next(each for each in fields(content) if each.name == name)
    return dkim.util.parse_tag_value(field.value(content))[b"s"].decode()


async def test_recipients_with_one_seal_domain_share_one_seal(lab: Lab, using: Using) -> None:
    """Two RSA signatures are one seal; what is tried again takes none."""
    clock = TurnedClock()  # a seal of the future is believed by nobody
    lab.world = World(clock=clock)
    far = await several(lab, FAR[0], FAR[3])
    relay = await lab.started(ours(*far))
    message = await lab.accepted(relay, "all@example.org")
    await lab.ended(message, len(FAR))
    assert [name for name, _ in using] == ["sign"] * 2
    assert len(lab.journal.of(Happening.DEFERRED, message)) == 2
    await clock.advance(60)
    await lab.journal.finished(message, len(FAR))
    copies = [each.content for upstream in far for each in upstream.received]
    assert sorted(to for upstream in far for each in upstream.received for to in each.recipients) == sorted(FAR)
    assert len(copies) >= 3 and len(set(copies)) == 1
    assert dkim.arc_verify(copies[0], dnsfunc=lab.txt)[0] == b"pass"
    assert [name for name, _ in using] == ["sign"] * 2


async def test_copies_of_a_message_share_its_signatures(lab: Lab, using: Using) -> None:
    far = await several(lab)
    relay = await lab.started(ours(*far))
    content = LETTER.replace(b"friend@else.example", b"anna@example.org")
    await lab.delivered(relay, *FAR, listener="app", content=content, sender="anna@example.org")
    assert all(upstream.received for upstream in far)
    (copy,) = {each.content for upstream in far for each in upstream.received}
    assert dkim.verify(copy, dnsfunc=lab.txt) and dkim.arc_verify(copy, dnsfunc=lab.txt)[0] == b"pass"
    assert [name for name, _ in using] == ["sign"] * 3


async def test_keys_are_used_off_the_loop(lab: Lab, using: Using) -> None:
    """To sign, to seal, and to verify what comes back."""
    far = await several(lab)
    relay = await lab.started(ours(*far))
    content = LETTER.replace(b"friend@else.example", b"anna@example.org")
    await lab.delivered(relay, FAR[0], listener="app", content=content, sender="anna@example.org")
    await lab.delivered(relay, "all@example.org", listener="mx", content=far[0].received[0].content)
    assert {name for name, _ in using} == {"sign", "made"}
    assert [name for name, _ in using].count("made") == 3
    assert threading.current_thread() not in {thread for _, thread in using}


async def test_a_retry_after_a_reload_is_sealed_with_the_key_of_then(lab: Lab) -> None:
    clock = TurnedClock()  # a seal of the future is believed by nobody
    lab.world = World(clock=clock)
    far = await several(lab, FAR[0])
    relay = await lab.started(ours(*far))
    message = await lab.accepted(relay, "name@example.org", "all@example.org")
    await lab.ended(message, len(FAR))
    lab.config(ours(*far, AFTER))
    await relay.reload()
    await clock.advance(60)
    await lab.journal.finished(message, len(FAR))
    assert [selector(far[0].received[at].content) for at in (0, -1)] == ["mail", "next"]
    assert dkim.arc_verify(far[0].received[-1].content, dnsfunc=lab.txt)[0] == b"pass"


async def test_keys_are_rotated_by_sighup(lab: Lab) -> None:
    far = await several(lab)
    file = lab.config(ours(*far))
    came: asyncio.Queue[bytes] = asyncio.Queue()

    async def forwarded(message: Received) -> None:
        came.put_nowait(message.content)

    far[0].on_message = forwarded

    def hand_over(address: tuple[str, int], sender: str, recipient: str) -> None:
        with smtplib.SMTP(*address, timeout=20) as client:
            client.sendmail(sender, [recipient], LETTER.replace(b"friend@else.example", sender.encode()))

    with serving(file) as (process, mx):
        assert process.stdout is not None
        second = re.fullmatch(r"listening on (\S+):(\d+) \(app\)\n", process.stdout.readline())
        assert second is not None
        app = second[1], int(second[2])

        async def sent() -> tuple[str, str]:
            """The selectors that a forward is sealed and a submission signed with."""
            await asyncio.to_thread(hand_over, mx, "friend@else.example", "name@example.org")
            forward = await came.get()
            await asyncio.to_thread(hand_over, app, "anna@example.org", FAR[0])
            submission = await came.get()
            for each in (forward, submission):
                assert dkim.arc_verify(each, dnsfunc=lab.txt)[0] == b"pass"
            assert dkim.verify(submission, dnsfunc=lab.txt)
            return selector(forward), selector(submission, b"dkim-signature")

        assert await sent() == ("mail", "mail")
        lab.config(ours(*far, AFTER))
        process.send_signal(signal.SIGHUP)
        for _ in range(100):
            if await sent() == ("next", "next"):
                break
        else:
            pytest.fail("the reload took no effect")
