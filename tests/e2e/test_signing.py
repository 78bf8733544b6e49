"""DKIM signatures on what our own people send, from the login to the next hop."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor

import dkim
import pytest

from smtproute.app import Relay
from smtproute.core.event import Event, Happening
from smtproute.core.message import fields
from smtproute.core.settings import Authentication
from smtproute.mailauth.dkim import DkimResult, check
from smtproute.mailauth.keys import KeyKind
from smtproute.testing.upstream import Rule, Upstream, on
from smtproute.trace.text import render
from tests.e2e.conftest import LETTER, Client, Lab
from tests.e2e.test_cli import run
from tests.mailauth.arc_peers import ZoneTxt

ANNA = "anna@example.org"
CONFIG = """
    default = {{ endpoint = "far" }}
    domains = ["example.org", "example.com"]
    [accounts]
    file = "accounts"
    [aliases]
    tables = ["aliases"]
    [listener.submission]
    bind = "127.0.0.1:0"
    role = "submission"
    auth_in_clear = "loopback"
    {listener}
    [listener.app]
    bind = "127.0.0.1:0"
    [listener.mx]
    bind = "127.0.0.1:0"
    role = "inbound"
    [endpoint.far]
    servers = ["mx.far.example:{port}"]
    {keys}
"""
KEY = """
    [[dkim.keys."{domain}"]]
    selector = "{selector}"
    file = "{file}"
"""


def key(lab: Lab, domain: str = "example.org", selector: str = "rsa", kind: KeyKind = KeyKind.RSA) -> str:
    """A new key, published, and the lines that name it."""
    return KEY.format(domain=domain, selector=selector, file=lab.key(domain, selector, kind))


def both(lab: Lab) -> str:
    return key(lab) + key(lab, selector="ed", kind=KeyKind.ED25519)


async def started(lab: Lab, keys: str, listener: str = "", script: tuple[Rule, ...] = ()) -> tuple[Relay, Upstream]:
    lab.write("accounts", f"{ANNA}|{{PLAIN}}secret\n")
    lab.write("aliases", f"sales@example.com {ANNA}\nforward@example.org me@far.example\n")
    far = await lab.upstream("mx.far.example", script)
    return await lab.started(CONFIG.format(port=far.port, keys=keys, listener=listener)), far


def letter(author: str) -> bytes:
    return LETTER.replace(b"Friend <friend@else.example>", author.encode())


async def submitted(lab: Lab, relay: Relay, content: bytes) -> str:
    """One transaction of Anna's; the queue id, once it has been delivered."""
    client = await Client.connect(relay.addresses["submission"])
    login = b64encode(f"\0{ANNA}\0secret".encode()).decode()
    for line in ("EHLO laptop.example", f"AUTH PLAIN {login}", f"MAIL FROM:<{ANNA}>", "RCPT TO:<you@far.example>"):
        assert (await client.say(line)).startswith("2"), line
    assert (await client.say("DATA")).startswith("354 ")
    client.writer.write(content + b".\r\n")
    message = (await client.reply()).rsplit(" ", 1)[-1]
    await lab.journal.finished(message, 1)
    return message


async def signers(lab: Lab, content: bytes) -> list[str]:
    """Domain and selector of the signatures, from the top, all of which must be right."""
    if b"DKIM-Signature" in content and b"a=rsa-sha256" in content:
        assert dkim.verify(content, dnsfunc=lab.txt)
    records = {}
    for selector in ("rsa", "ed", "new"):
        for domain in ("example.org", "example.com", "mail.example.org"):
            text = lab.txt(f"{selector}._domainkey.{domain}.".encode())
            records |= {f"{selector}._domainkey.{domain}": text} if text is not None else {}
    with ThreadPoolExecutor(1) as pool:
        found = await check(content, ZoneTxt(records), pool, Authentication(), lab.world.clock.now())
    assert all(each.result is DkimResult.PASS for each in found), found
    names = []
    for each in fields(content):
        if each.name == b"dkim-signature":
            tags = dkim.util.parse_tag_value(each.value(content))
            names.append(f"{tags[b'd'].decode()} {tags[b's'].decode()}")
    return names


def unsigned(lab: Lab, message: str) -> list[str]:
    return [event.facts["why"] for event in lab.journal.of(Happening.UNSIGNED, message)]


def attempt(lab: Lab, message: str) -> Event:
    return lab.journal.of(Happening.ATTEMPT, message)[-1]


async def test_a_submission_is_signed_with_each_key(lab: Lab) -> None:
    relay, far = await started(lab, both(lab))
    message = await submitted(lab, relay, letter(f"Anna <{ANNA}>"))
    content = far.received[0].content
    assert await signers(lab, content) == ["example.org rsa", "example.org ed"]
    assert [each.name for each in fields(content)[:3]] == [b"dkim-signature", b"dkim-signature", b"received"]
    assert attempt(lab, message).facts["signed"] == [
        {"domain": "example.org", "selector": "rsa"},
        {"domain": "example.org", "selector": "ed"},
    ]
    assert ", signed by example.org (rsa), example.org (ed)" in "\n".join(render(await lab.trace(relay, message)))
    assert unsigned(lab, message) == []
    assert attempt(lab, message).facts["prepended"].encode("latin-1") + letter(f"Anna <{ANNA}>") == content
    entries = await relay.spool.entries(message)
    assert b"DKIM-Signature" not in await relay.spool.content(entries[0].message.id), "it is kept as it came"


@pytest.mark.parametrize(
    ("author", "why"),
    [
        ("Boss <boss@example.com>", f"{ANNA} may not sign as boss@example.com: no alias of boss@example.com names"),
        ("Eve <eve@else.example>", "there is no signing key for else.example"),
        (f"{ANNA}, boss@example.com", "its From names several domains"),
        ("nobody", "its From names no address"),
    ],
)
async def test_a_login_signs_for_nobody_else(lab: Lab, author: str, why: str) -> None:
    relay, far = await started(lab, both(lab) + key(lab, "example.com"))
    message = await submitted(lab, relay, letter(author))
    assert b"DKIM-Signature" not in far.received[0].content
    (told,) = unsigned(lab, message)
    assert told.startswith(why)
    assert f"unsigned  endpoint far: {why}" in "\n".join(render(await lab.trace(relay, message)))
    assert attempt(lab, message).facts["signed"] == []


async def test_a_login_signs_as_the_alias_that_it_owns(lab: Lab) -> None:
    relay, far = await started(lab, key(lab, "example.com"))
    await submitted(lab, relay, letter("Sales <sales@example.com>"))
    assert await signers(lab, far.received[0].content) == ["example.com rsa"]


async def test_a_trusted_client_is_signed_for_and_a_stranger_is_not(lab: Lab) -> None:
    relay, far = await started(lab, key(lab) + key(lab, "example.com"))
    await lab.delivered(relay, "you@far.example", listener="app", content=letter("App <app@example.com>"))
    assert await signers(lab, far.received[0].content) == ["example.com rsa"]
    message = await lab.delivered(relay, "forward@example.org", listener="mx", content=letter(f"Anna <{ANNA}>"))
    assert b"DKIM-Signature" not in far.received[1].content
    assert unsigned(lab, message) == []


async def test_keys_change_with_a_reload(lab: Lab) -> None:
    relay, far = await started(lab, key(lab))
    config = (lab.folder / "smtproute.toml").read_text()
    await submitted(lab, relay, letter(ANNA))
    key(lab, selector="new")
    (lab.folder / "smtproute.toml").write_text(
        config.replace('selector = "rsa"', 'selector = "new"').replace("rsa-example.org.pem", "new-example.org.pem")
    )
    await relay.reload()
    assert len(lab.journal.of(Happening.RELOADED)) == 1
    await submitted(lab, relay, letter(ANNA))
    key(lab, selector="new")  # another key in the same file
    await relay.reload()
    await submitted(lab, relay, letter(ANNA))
    told = [await signers(lab, each.content) for each in far.received[0::2]]
    assert told == [["example.org rsa"], ["example.org new"]]
    assert not dkim.verify(far.received[1].content, dnsfunc=lab.txt), "signed before the key was changed"


@pytest.mark.parametrize("domain", ["mail.example.org", "example.org"])
async def test_a_bounce_is_signed_for_the_hostname_or_a_domain_above(lab: Lab, domain: str) -> None:
    relay, far = await started(lab, key(lab, domain), script=(on("RCPT", "550 5.7.1 No", times=1),))
    message = await lab.accepted(relay, "you@far.example", listener="app", sender="x@far.example")
    (told,) = await lab.journal.seen(Happening.BOUNCED, message)
    await lab.journal.finished(told.facts["dsn"], 1)
    content = far.received[-1].content
    assert b"MAILER-DAEMON@mail.example.org" in content
    assert await signers(lab, content) == [f"{domain} rsa"]
    assert unsigned(lab, told.facts["dsn"]) == []


async def test_a_seal_covers_the_signatures(lab: Lab) -> None:
    arc = f'[arc]\nsign = "example.org"\n[arc.keys."example.org"]\nselector = "arc"\nfile = "{lab.key(selector="arc")}"'
    relay, far = await started(lab, both(lab) + arc, listener="seal = true")
    message = await submitted(lab, relay, letter(ANNA))
    content = far.received[0].content
    assert [each.name.decode() for each in fields(content)[:6]] == [
        "arc-seal",
        "arc-message-signature",
        "arc-authentication-results",
        "dkim-signature",
        "dkim-signature",
        "received",
    ]
    assert await signers(lab, content) == ["example.org rsa", "example.org ed"]
    assert dkim.arc_verify(content, dnsfunc=lab.txt)[0] == b"pass"
    without = content.replace(b"DKIM-Signature: v=1; a=ed", b"X-Signature: v=1; a=ed")
    assert without != content and dkim.arc_verify(without, dnsfunc=lab.txt)[0] == b"fail"
    facts = attempt(lab, message).facts
    assert (len(facts["signed"]), facts["sealed"]) == (2, "example.org")
    shown = "\n".join(render(await lab.trace(relay, message)))
    assert ", signed by example.org (rsa), example.org (ed), sealed by example.org" in shown


async def test_what_cannot_be_signed_leaves_unsigned_and_says_why(lab: Lab) -> None:
    relay, far = await started(lab, both(lab))
    broken = letter(ANNA).replace(b"\r\n\r\n", b"\r\nno field at all\r\n\r\n", 1)
    message = await lab.delivered(relay, "you@far.example", listener="app", content=broken)
    (why,) = unsigned(lab, message)
    assert "malformed header" in why
    assert far.received[0].content.endswith(broken)


async def test_explain_tells_who_signs(lab: Lab) -> None:
    await started(lab, both(lab))
    file = str(lab.folder / "smtproute.toml")

    async def explained(*arguments: str) -> str:
        done = await asyncio.to_thread(run, "explain", "-c", file, *arguments)  # the name server is in this thread
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    text = await explained("you@far.example", "--from", ANNA, "--auth", ANNA)
    assert "signed by example.org with selector rsa\n     signed by example.org with selector ed\n" in text
    assert "note: you@far.example: not predicted: the header From decides who signs, not the sender" in text
    (copy,) = json.loads(await explained("you@far.example", "--from", ANNA, "--auth", ANNA, "--json"))["deliveries"]
    assert copy["signatures"] == [
        {"domain": "example.org", "selector": "rsa"},
        {"domain": "example.org", "selector": "ed"},
    ]
    text = await explained("you@far.example", "--from", "x@example.com", "--auth", ANNA)
    assert "UNSIGNED: there is no signing key for example.com" in text
    text = await explained("forward@example.org", "--listener", "mx")
    assert "not signed: it comes from outside" in text and "not predicted" not in text
    text = await explained("--all", "--auth", ANNA, "--from", ANNA)
    signed = "signed by example.org with selector rsa; signed by example.org with selector ed"
    assert f"forward@example.org -> endpoint far for me@far.example ({signed})" in text
