"""TLS to endpoints, each mode by its word in the configuration, against each kind of server."""

from __future__ import annotations

import io
import json
import ssl

import pytest

from smtproute.core.event import Happening
from smtproute.core.settings import LogFormat
from smtproute.smtp.opening import Timeouts
from smtproute.testing.upstream import Drop, Raw, Rule, Upstream, on
from smtproute.trace.log import log_to
from smtproute.trace.text import render
from tests.e2e.authority import AUTHORITY, STRANGER, ca_file, certified
from tests.e2e.conftest import Lab

BRISK = Timeouts(greeting=0.5)
"""A server with implicit TLS and a client without it wait for each other."""
PLAIN, TLS = "plain text", "TLS"
UNTRUSTED, WRONG_NAME = "certificate refused: unable to get", "certificate refused: Hostname mismatch"
NOT_OFFERED = "TLS is required, and the server does not offer STARTTLS"
FAILED, SILENT = "TLS handshake failed: ", "no answer within 0.5 s"

TABLE = {
    "never": {
        "plaintext": PLAIN,
        "starttls": PLAIN,
        "implicit": SILENT,
        "starttls-untrusted": PLAIN,
        "starttls-wrong-name": PLAIN,
        "implicit-untrusted": SILENT,
        "implicit-wrong-name": SILENT,
    },
    "prefer": {
        "plaintext": PLAIN,
        "starttls": TLS,
        "implicit": SILENT,
        "starttls-untrusted": TLS,
        "starttls-wrong-name": TLS,
        "implicit-untrusted": SILENT,
        "implicit-wrong-name": SILENT,
    },
    "require": {
        "plaintext": NOT_OFFERED,
        "starttls": TLS,
        "implicit": SILENT,
        "starttls-untrusted": UNTRUSTED,
        "starttls-wrong-name": WRONG_NAME,
        "implicit-untrusted": SILENT,
        "implicit-wrong-name": SILENT,
    },
    "implicit": {
        "plaintext": FAILED,
        "starttls": FAILED,
        "implicit": TLS,
        "starttls-untrusted": FAILED,
        "starttls-wrong-name": FAILED,
        "implicit-untrusted": UNTRUSTED,
        "implicit-wrong-name": WRONG_NAME,
    },
}
"""How the message travels, or why it waits."""


async def server(lab: Lab, kind: str) -> Upstream:
    host = f"{kind}.far.example"
    match kind.partition("-")[2]:
        case "untrusted":
            context = certified(host, by=STRANGER)
        case "wrong-name":
            context = certified("elsewhere.example")
        case _:
            context = certified(host)
    return await lab.upstream(host, tls=None if kind == "plaintext" else context, implicit=kind.startswith("implicit"))


@pytest.mark.parametrize("mode", TABLE)
async def test_each_mode_with_each_server(lab: Lab, mode: str) -> None:
    lab.timeouts = BRISK
    ca_file(lab.folder)
    checked = 'ca_file = "ca.pem"' if mode in ("require", "implicit") else ""
    config = '[listener.app]\nbind = "127.0.0.1:0"\n'
    servers = {kind: await server(lab, kind) for kind in TABLE[mode]}
    for kind, each in servers.items():
        config += f"""
[[route]]
match = "*@{kind}.example"
endpoint = "{kind}"
[endpoint.{kind}]
servers = ["{kind}.far.example:{each.port}"]
tls = "{mode}"
{checked}
"""
    relay = await lab.started(config)
    messages = {kind: await lab.accepted(relay, f"x@{kind}.example") for kind in servers}
    for kind, message in messages.items():
        (event,) = await lab.ended(message)
        expected = TABLE[mode][kind]
        if event.what is Happening.DELIVERED:
            (received,) = servers[kind].received
            assert (TLS if received.tls else PLAIN) == expected, kind
        else:
            assert servers[kind].received == [], kind
            assert f" {expected}" in event.facts["detail"], kind
            assert not any("MAIL" in command for each in servers[kind].sessions for command in each.commands()), kind


async def test_verification_ends_only_where_that_is_written(lab: Lab) -> None:
    far = await lab.upstream("far.example", tls=certified("elsewhere.example", by=STRANGER))
    relay = await lab.started(_one("far.example", far.port, 'tls = "require"\nverify = false'))
    await lab.delivered(relay, "x@far.example")
    assert far.received[0].tls


async def test_without_a_ca_file_the_systems_authorities_are_the_ones_believed(lab: Lab) -> None:
    far = await lab.upstream("far.example", tls=certified("far.example"))
    relay = await lab.started(_one("far.example", far.port, 'tls = "require"'))
    event = await lab.deferred(relay, "x@far.example")
    assert UNTRUSTED in event.facts["detail"]


# A name of its own, and a certificate of our own


async def test_tls_name_is_what_the_certificate_must_be_good_for(lab: Lab) -> None:
    ca_file(lab.folder)
    asked: list[str | None] = []
    context = certified("mail.provider.example")
    context.sni_callback = lambda _, name, __: asked.append(name)
    far = await lab.upstream("tunnel.internal", tls=context)
    more = 'tls = "require"\nca_file = "ca.pem"\n'
    relay = await lab.started(_one("tunnel.internal", far.port, more + 'tls_name = "mail.provider.example"'))
    await lab.delivered(relay, "x@far.example")
    assert (bool(far.received[0].tls), asked) == (True, ["mail.provider.example"])

    lab.config(_one("tunnel.internal", far.port, more))
    await relay.reload()
    assert WRONG_NAME in (await lab.deferred(relay, "x@far.example")).facts["detail"]


@pytest.mark.parametrize("mode", ["require", "implicit"])
async def test_a_server_that_wants_a_client_certificate_is_shown_ours(lab: Lab, mode: str) -> None:
    ca_file(lab.folder)
    context = certified("far.example")
    context.verify_mode = ssl.CERT_REQUIRED
    AUTHORITY.configure_trust(context)
    far = await lab.upstream("far.example", tls=context, implicit=mode == "implicit")
    ours = AUTHORITY.issue_cert("relay@example.org")
    ours.private_key_pem.write_to_path(str(lab.folder / "client.key"))
    (lab.folder / "client.pem").write_bytes(b"".join(each.bytes() for each in ours.cert_chain_pems))
    more = f'tls = "{mode}"\nca_file = "ca.pem"\n'
    relay = await lab.started(_one("far.example", far.port, more))
    await lab.deferred(relay, "x@far.example")
    assert far.received == []

    lab.config(_one("far.example", far.port, more + 'certificate = "client.pem"\nkey = "client.key"'))
    await relay.reload()
    await lab.delivered(relay, "y@far.example")
    assert far.received[0].recipients == ("y@far.example",)


# Prefer: in plain text where it must be, and never in silence


@pytest.mark.parametrize(
    ("script", "offered", "why"),
    [
        ((), False, "does not offer STARTTLS"),
        ((on("STARTTLS", "454 4.7.0 TLS not available"),), True, "454 4.7.0 TLS not available"),
        (
            (on("STARTTLS", "220 Go ahead", Raw(b"no TLS at all\r\n")),),
            True,
            "'no TLS at all' does not begin with a code",
        ),
        ((on("STARTTLS", "220 Go ahead", Drop()),), True, "TLS handshake failed"),
    ],
    ids=["not offered", "refused", "no TLS", "hung up"],
)
async def test_prefer_goes_on_in_plain_text_and_says_so(
    lab: Lab, script: tuple[Rule, ...], offered: bool, why: str
) -> None:
    far = await lab.upstream("far.example", script, tls=certified("far.example") if offered else None)
    relay = await lab.started(_one("far.example", far.port, 'tls = "prefer"'))
    message = await lab.delivered(relay, "x@far.example")
    assert far.received[0].tls == ""
    (downgraded,) = lab.journal.of(Happening.DOWNGRADED)
    assert why in downgraded.facts["why"]
    assert (downgraded.facts["endpoint"], downgraded.facts["server"]) == ("far", f"far.example:{far.port}")
    log = io.StringIO()
    log_to(log, LogFormat.JSON)(downgraded)
    assert why in json.loads(log.getvalue())["why"]
    assert why in "\n".join(render(await lab.trace(relay, message)))


async def test_prefer_says_nothing_where_there_is_tls(lab: Lab) -> None:
    far = await lab.upstream("far.example", tls=certified("elsewhere.example"))
    relay = await lab.started(_one("far.example", far.port, 'tls = "prefer"'))
    await lab.delivered(relay, "x@far.example")
    assert (bool(far.received[0].tls), lab.journal.of(Happening.DOWNGRADED)) == (True, [])


@pytest.mark.parametrize(
    "script",
    [
        (on("STARTTLS", "454 4.7.0 TLS not available"),),
        (on("STARTTLS", "220 Go ahead", Drop()),),
        (on("EHLO", "250 upstream.test\nPIPELINING"),),
        (on("EHLO", "502 5.5.1 No"),),
    ],
    ids=["refused", "hung up", "not offered", "no EHLO"],
)
async def test_require_never_goes_on_in_plain_text(lab: Lab, script: tuple[Rule, ...]) -> None:
    ca_file(lab.folder)
    far = await lab.upstream("far.example", script, tls=certified("far.example"))
    relay = await lab.started(_one("far.example", far.port, 'tls = "require"\nca_file = "ca.pem"'))
    await lab.deferred(relay, "x@far.example")
    assert lab.journal.of(Happening.DOWNGRADED) == []
    assert not any(command.startswith("MAIL") for session in far.sessions for command in session.commands())


# AUTH


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_a_login_whose_password_is_in_a_file(lab: Lab, mechanism: str) -> None:
    ca_file(lab.folder)
    lab.write("password", "pass:word\n")
    users = {"app": "pass:word"}
    far = await lab.upstream("far.example", tls=certified("far.example"), users=users, mechanisms=mechanism)
    login = 'tls = "require"\nca_file = "ca.pem"\nusername = "app"\npassword_file = "password"'
    relay = await lab.started(_one("far.example", far.port, login))
    message = await lab.delivered(relay, "x@far.example")
    assert far.received[0].login == "app"
    assert "pass:word" not in "\n".join(render(await lab.trace(relay, message)))


async def test_no_login_is_sent_over_a_connection_without_tls(lab: Lab) -> None:
    lab.write("password", "secret")
    far = await lab.upstream("far.example", extensions=("PIPELINING", "AUTH PLAIN LOGIN"))
    login = 'tls = "require"\nverify = false\nusername = "app"\npassword_file = "password"'
    relay = await lab.started(_one("far.example", far.port, login))
    event = await lab.deferred(relay, "x@far.example")
    assert "the server does not offer STARTTLS" in event.facts["detail"]
    assert far.sessions[0].commands() == ["EHLO mail.example.org"]


def _one(host: str, port: int, more: str) -> str:
    """A relay whose only endpoint has this server, and these further lines."""
    return f"""
default = {{ endpoint = "far" }}
[listener.app]
bind = "127.0.0.1:0"
[endpoint.far]
servers = ["{host}:{port}"]
{more}
"""
