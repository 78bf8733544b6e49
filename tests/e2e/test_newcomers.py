"""What people do first, and what must not surprise them."""

from __future__ import annotations

import asyncio
import contextlib
import textwrap
from pathlib import Path

import pytest
import trustme

from smtproute.core.event import Happening
from tests.e2e.conftest import Client, Lab
from tests.e2e.test_cli import run
from tests.e2e.test_seals import FORWARD


async def test_a_letter_without_a_header_gets_the_blank_line_that_it_lacks(lab: Lab) -> None:
    far = await lab.upstream("mx.far.example")
    lab.write("accounts", "name@example.org|{SHA512-CRYPT}$6$x$y\n")
    lab.write("aliases", "name@example.org name@example.org, me@far.example\n")
    accounts = '[accounts]\nfile = "accounts"\n'
    relay = await lab.started(accounts + textwrap.dedent(FORWARD.format(port=far.port, key=lab.key())))
    for content in (b"no header at all\r\nbut: two lines\r\n", b"\r\nonly a body\r\n", b""):
        before = len(far.received)
        message = await lab.delivered(relay, "name@example.org", content=content)
        head, blank, body = far.received[before].content.partition(b"\r\n\r\n")
        assert head.startswith(b"ARC-Seal:") and blank
        assert body == content.removeprefix(b"\r\n")
        kept = lab.mailbox("name@example.org")[-1]
        assert kept.partition(b"\n\n")[2] == content.removeprefix(b"\r\n").replace(b"\r\n", b"\n")
        assert not [each for each in await lab.trace(relay, message) if each.what == "unsealed"]


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_a_broken_handshake_ends_one_connection_and_nothing_else(lab: Lab, tls: str) -> None:
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(lab.folder / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(lab.folder / "cert.pem"))
    relay = await lab.started(
        f'[listener.tls]\nbind = "127.0.0.1:0"\ntls = "{tls}"\ncertificate = "cert.pem"\nkey = "key.pem"\n'
        '[listener.plain]\nbind = "127.0.0.1:0"'
    )
    reader, writer = await asyncio.open_connection(*relay.addresses["tls"])
    if tls == "starttls":
        writer.write(b"EHLO x\r\nSTARTTLS\r\n")
        assert b"220 2.0.0 Ready" in await reader.readuntil(b"Ready to start TLS\r\n")
    writer.write(b"QUIT, this is no handshake\r\n")
    with contextlib.suppress(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 20)  # raises TimeoutError unless the connection ends
    await lab.journal.until(lambda: any("TLS" in str(each.facts) for each in lab.journal.of(Happening.WARNING)))
    assert (await (await Client.connect(relay.addresses["plain"])).say("NOOP")).startswith("250 ")


async def test_the_bounce_says_what_was_tried_and_puts_it_in_nobodys_mouth(lab: Lab) -> None:
    lab.zone.set("a.far.example", "A", ["127.0.0.1"])
    relay = await lab.application("a.far.example:1", more="[queue]\nlifetime = 0")
    message = await lab.delivered(relay, "x@far.example")
    (bounced,) = await lab.journal.seen(Happening.BOUNCED, message)
    dsn = (await relay.spool.content(bounced.facts["dsn"])).decode()
    assert "<x@far.example>: this relay said: 451 4.4.1 No server took the message" in dsn
    assert "endpoint far: no server took the message: a.far.example (dns, 127.0.0.1:1) connection refused" in dsn
    assert "Remote-MTA" not in dsn


def test_explain_knows_that_strangers_are_refused_at_connect(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f'state = "{tmp_path}"\n')
    done = run("explain", "a@b.example", "--client-ip", "192.0.2.8", "-c", str(file))
    assert done.returncode == 2
    assert "554 5.7.1 This listener serves trusted networks only" in done.stdout


async def test_vrfy_of_an_unknown_address_is_no_250(lab: Lab) -> None:
    relay = await lab.started(
        'domains = ["here.example"]\n[listener.mx]\nbind = "127.0.0.1:0"\nrole = "inbound"\ndebug = true'
    )
    client = await Client.connect(relay.addresses["mx"])
    assert (await client.say("VRFY nobody@here.example")).startswith("550-5.1.1 nobody@here.example\n")
    assert (await client.say("EXPN postmaster@elsewhere.example")).startswith("554-5.7.1 ")


def test_a_ready_file_needs_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f'state = "{tmp_path}/state"\n[listener.a]\nbind = "127.0.0.1:0"\n')
    done = run("serve", "-c", str(file), "--ready-file", str(tmp_path / "none" / "ready"))
    assert done.returncode == 64 and "none is no folder" in done.stderr


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    file = tmp_path / "c.toml"
    file.write_text('state = "taken"\n[listener.a]\nbind = "127.0.0.1:0"\n')
    done = run("serve", "-c", str(file))
    assert done.returncode == 78
    assert done.stderr.splitlines()[-1].startswith(f'state = "{tmp_path}/taken": ')


def test_check_says_when_no_sender_can_be_told(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    text = (
        '[listener.mx]\nrole = "inbound"\n[endpoint.g]\nservers = ["g.internal"]\n'
        '[[route]]\nmatch = "*@g.example"\nendpoint = "g"\n'
    )
    file.write_text(text)
    done = run("check", "-c", str(file))
    assert done.returncode == 1 and "nobody is told" in done.stdout
    file.write_text('default = { endpoint = "i" }\n' + text + '[endpoint.i]\ndiscover = "recipient"\n')
    assert run("check", "-c", str(file)).returncode == 0


def test_check_says_what_is_silent_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    (tmp_path / "aliases").write_text(
        "info@here.example good@far.example, bad..x@far.example\nroot admin@far.example\n"
    )
    text = '[aliases]\ntables = ["aliases"]\n[listener.mx]\nbind = ":2525"\nrole = "inbound"\ndebug = true\n'
    file.write_text(text)
    done = run("check", "-c", str(file))
    assert done.returncode == 2
    assert "aliases:1: info@here.example: 'bad..x@far.example' is no address" in done.stdout
    assert "warning: listener.mx.debug: VRFY and EXPN tell every stranger" in done.stdout
    file.write_text(text.replace('role = "inbound"', 'role = "trusted"').replace(", bad..x@far.example", ""))
    (tmp_path / "aliases").write_text("info@here.example good@far.example\nroot admin@far.example\n")
    assert run("check", "-c", str(file)).returncode == 0


def test_the_version() -> None:
    assert run("--version").stdout.startswith("smtproute ")
    assert run("-h").returncode == 0
