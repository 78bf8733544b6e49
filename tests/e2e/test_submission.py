"""Submission from the login to the next hop: real hashes, TLS, another's client, reloads, and no password kept."""

from __future__ import annotations

import asyncio
import io
import ssl
from base64 import b64encode

import aiosmtplib
import pytest
import trustme
from passlib.hash import argon2, bcrypt, ldap_salted_sha512, sha512_crypt

from smtproute.app import Relay
from smtproute.core.address import Address
from smtproute.core.event import Happening
from smtproute.core.settings import LogFormat
from smtproute.testing.upstream import Upstream
from smtproute.trace.log import log_to
from smtproute.trace.text import render
from tests.e2e.conftest import LETTER, Client, Lab

NAME, PASSWORD = "name@example.org", "s3cr3t w0rd"
REFUSED = "535 5.7.8 Authentication failed: check the name and the password"
CONFIG = """
    default = {{ endpoint = "far" }}
    [docker_mailserver]
    config = "dms"
    [listener.mx]
    bind = "127.0.0.1:0"
    role = "inbound"
    [listener.submission]
    bind = "127.0.0.1:0"
    role = "submission"
    tls = "starttls"
    certificate = "mx.pem"
    key = "mx.pem"
    auth_in_clear = "loopback"
    [listener.submissions]
    bind = "127.0.0.1:0"
    role = "submission"
    tls = "implicit"
    certificate = "mx.pem"
    key = "mx.pem"
    [endpoint.far]
    servers = ["mx.far.example:{port}"]
"""
HASHES = {
    "sha512": "{SHA512-CRYPT}" + sha512_crypt.using(rounds=1000).hash(PASSWORD),
    "no scheme": sha512_crypt.using(rounds=1000).hash(PASSWORD),
    "ssha512": ldap_salted_sha512.hash(PASSWORD),
    "bcrypt": "{BLF-CRYPT}" + bcrypt.using(rounds=4).hash(PASSWORD),
    "argon2": "{ARGON2ID}" + argon2.using(type="ID", memory_cost=1024, rounds=1, parallelism=1).hash(PASSWORD),
    "plain": "{PLAIN}" + PASSWORD.replace(" ", "_"),
}
AUTHORITY = trustme.CA()


def plain(name: str = NAME, password: str = PASSWORD) -> str:
    return "AUTH PLAIN " + b64encode(f"\0{name}\0{password}".encode()).decode()


def folder(lab: Lab, accounts: str, virtual: str = "") -> None:
    lab.write("dms/postfix-accounts.cf", accounts)
    lab.write("dms/postfix-virtual.cf", virtual)


async def submitting(
    lab: Lab, accounts: str = f"{NAME}|{HASHES['sha512']}\n", virtual: str = ""
) -> tuple[Relay, Upstream]:
    folder(lab, accounts, virtual)
    AUTHORITY.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(lab.folder / "mx.pem"))
    far = await lab.upstream("mx.far.example")
    return await lab.started(CONFIG.format(port=far.port)), far


async def greeted(relay: Relay, listener: str = "submission") -> Client:
    client = await Client.connect(relay.addresses[listener])
    assert "AUTH PLAIN LOGIN" in await client.say("EHLO laptop.example")
    return client


async def letter(client: Client, recipient: str = "friend@else.example", parameters: str = "") -> str:
    """One transaction; the queue id."""
    for line in (f"MAIL FROM:<{NAME}>{parameters}", f"RCPT TO:<{recipient}>"):
        assert (await client.say(line)).startswith("250 ")
    assert (await client.say("DATA")).startswith("354 ")
    client.writer.write(LETTER + b".\r\n")
    reply = await client.reply()
    assert reply.startswith("250 2.0.0 Ok: queued as ")
    return reply.rsplit(" ", 1)[-1]


def kept(lab: Lab) -> bytes:
    """Every octet that the relay has written: spool, mailboxes, events, and the events as a log."""
    log = io.StringIO()
    for form in LogFormat:
        tell = log_to(log, form)
        for event in lab.journal.events:
            tell(event)
    files = [file.read_bytes() for file in (lab.folder / "state").rglob("*") if file.is_file()]
    return b"\n".join([*files, str(lab.journal.events).encode(), log.getvalue().encode()])


async def test_from_the_login_to_the_next_hop(lab: Lab) -> None:
    relay, far = await submitting(lab)
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    for listener, options in (
        ("submission", {"start_tls": True}),
        ("submissions", {"use_tls": True}),
    ):
        host, port = relay.addresses[listener]
        options |= {"hostname": host, "port": port, "tls_context": context, "local_hostname": "laptop.example"}
        async with aiosmtplib.SMTP(**options, username=NAME.upper(), password=PASSWORD) as client:
            _, reply = await client.sendmail(NAME, ["friend@else.example"], LETTER)
        message = reply.rsplit(" ", 1)[-1]
        await lab.journal.finished(message, 1)
        received = far.received[-1]
        assert received.reverse_path == NAME and received.recipients == ("friend@else.example",)
        trace = received.content.partition(b"\r\nFrom:")[0]
        assert b"\r\n\tby mail.example.org with ESMTPSA id " in trace and b"name@example.org" not in trace
        (entry,) = await relay.spool.entries(message)
        client_ = entry.message.envelope.client
        assert client_.login == Address.parse(NAME) and str(client_.login) == NAME, "as the accounts file has it"
        (told,) = lab.journal.of(Happening.RECEIVED, message)
        assert told.facts["login"] == NAME
        shown = "\n".join(render(await lab.trace(relay, message), transcripts=True))
        assert f"logged in as {NAME}" in shown and "AUTH PLAIN [credentials]" in shown
    everything = kept(lab)
    for name in (NAME, NAME.upper()):
        for secret in (PASSWORD, b64encode(PASSWORD.encode()).decode(), plain(name).split()[2], HASHES["sha512"]):
            assert secret.encode() not in everything
    assert b"friend@else.example" in everything


@pytest.mark.parametrize("scheme", HASHES)
async def test_each_kind_of_hash(lab: Lab, scheme: str) -> None:
    relay, _ = await submitting(lab, f"{NAME}|{HASHES[scheme]}\n")
    client = await greeted(relay)
    assert (await client.say(plain(password="wrong"))).startswith("535 5.7.8 ")
    password = PASSWORD.replace(" ", "_") if scheme == "plain" else PASSWORD
    assert (await client.say(plain(password=password))).startswith("235 2.7.0 ")


async def test_who_cannot_log_in(lab: Lab) -> None:
    """Each hears the same; we hear who it was, unless the name may be a misplaced password."""
    relay, _ = await submitting(lab)
    for name, shown in ((NAME, NAME), ("nobody@example.org", "nobody@example.org"), (PASSWORD, "[no address]")):
        client = await greeted(relay)
        assert await client.say(plain(name, "wr0ng")) == REFUSED
        facts = lab.journal.of(Happening.REFUSED)[-1].facts
        assert (facts["login"], facts["says"], facts["listener"]) == (shown, "passwords", "submission")
    for _ in range(2):
        assert (await client.say(plain(NAME, "wr0ng"))).startswith("535 ")
    assert (await client.reply()).startswith("421 4.7.0 ")
    everything = kept(lab)
    assert b"wr0ng" not in everything and PASSWORD.encode() not in everything


async def test_a_hash_that_cannot_be_checked_is_no_fault_of_the_client(lab: Lab) -> None:
    costly = HASHES["bcrypt"].replace("$04$", "$31$")
    relay, _ = await submitting(lab, f"name@example.org|{costly}\nanna@example.org|{{MD5-CRYPT}}$1$x$y\n")
    client = await greeted(relay)
    assert (await client.say(plain())).startswith("454 4.7.0 ")
    assert (await client.say(plain("anna@example.org"))).startswith("454 4.7.0 ")
    first, second = (event.facts for event in lab.journal.of(Happening.REFUSED))
    assert "the cost of its hash is 31, and more than 14" in first["why"]
    assert "postfix-accounts.cf:2: the password of anna@example.org cannot be checked" in second["why"]
    assert costly.encode() not in kept(lab)


async def test_an_alias_logs_in_with_the_password_of_its_account(lab: Lab) -> None:
    """docker-mailserver makes a virtual account of an alias; an account of the same name wins."""
    other = "{SHA512-CRYPT}" + sha512_crypt.using(rounds=1000).hash("other")
    relay, far = await submitting(
        lab,
        f"name@example.org|{HASHES['sha512']}\nanna@example.org|{other}\n",
        "sales@example.org name@example.org\nanna@example.org name@example.org\n",
    )
    client = await greeted(relay)
    assert (await client.say(plain("anna@example.org"))).startswith("535 "), "its own password counts, not the target's"
    assert (await client.say(plain("Sales@example.org"))).startswith("235 ")
    await letter(client)
    (received,) = await far.wait(1)
    (told,) = lab.journal.of(Happening.RECEIVED)
    assert told.facts["login"] == "sales@example.org" and b"sales@example.org" not in received.content


async def test_smtputf8_is_in_the_trace_header_too(lab: Lab) -> None:
    relay, _ = await submitting(lab)
    client = await greeted(relay)
    assert (await client.say(plain())).startswith("235 ")
    await lab.journal.finished(await letter(client, NAME, " SMTPUTF8"), 1)
    assert b"with UTF8SMTPA id " in lab.mailbox(NAME)[0]


async def test_without_a_login_nobody_sends(lab: Lab) -> None:
    relay, far = await submitting(lab)
    client = await greeted(relay)
    assert (await client.say(f"MAIL FROM:<{NAME}>")).startswith("530 5.7.0 ")
    assert (await client.say(f"RCPT TO:<{NAME}>")).startswith("503 ")
    assert (await client.say("DATA")).startswith("503 ")
    secret = await Client.connect(relay.addresses["mx"])
    assert "AUTH" not in await secret.say("EHLO laptop.example")
    assert (await secret.say(plain())).startswith("502 ")
    assert not far.received


async def test_the_null_sender_may_be_submitted(lab: Lab) -> None:
    relay, _ = await submitting(lab)
    client = await greeted(relay)
    assert (await client.say(plain())).startswith("235 ")
    assert (await client.say("MAIL FROM:<>")).startswith("250 ")
    assert (await client.say("RCPT TO:<friend@else.example>")).startswith("250 ")


async def test_a_reload_that_removes_an_account(lab: Lab) -> None:
    """Who has logged in goes on; nobody logs in anew."""
    other = f"anna@example.org|{HASHES['plain']}\n"
    relay, far = await submitting(lab, f"{NAME}|{HASHES['sha512']}\n{other}")
    inside, outside = await greeted(relay), await greeted(relay)
    assert (await inside.say(plain())).startswith("235 ")
    folder(lab, other)
    await relay.reload()
    assert lab.journal.of(Happening.RELOADED)
    assert (await outside.say(plain())).startswith("535 ")
    await letter(inside)
    await far.wait(1)
    (told,) = lab.journal.of(Happening.RECEIVED)
    assert told.facts["login"] == NAME


async def test_a_reload_that_changes_a_password(lab: Lab) -> None:
    relay, _ = await submitting(lab)
    client = await greeted(relay)
    folder(lab, f"{NAME}|{{PLAIN}}changed\n")
    await relay.reload()
    assert (await client.say(plain())).startswith("535 ")
    assert (await client.say(plain(password="changed"))).startswith("235 ")


async def test_fifty_log_in_while_others_are_served(lab: Lab) -> None:
    relay, _ = await submitting(lab, f"{NAME}|{{SHA512-CRYPT}}{sha512_crypt.using(rounds=10_000).hash(PASSWORD)}\n")
    entering = [await greeted(relay) for _ in range(50)]
    stranger = await Client.connect(relay.addresses["mx"])
    async with asyncio.TaskGroup() as group:
        logins = [group.create_task(client.say(plain())) for client in entering]
        served = group.create_task(stranger.letter(NAME))
    assert {(await login)[:9] for login in logins} == {"235 2.7.0"}
    assert (await served).startswith("250 2.0.0 ")
