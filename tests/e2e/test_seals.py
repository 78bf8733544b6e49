"""A forward sealed by a running relay, judged by two implementations that know nothing of ours."""

from __future__ import annotations

import dkim
import pytest

from smtproute.core.event import Happening
from tests.e2e.conftest import DMS, LETTER, Lab
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
