"""A scenario that was recorded of a live relay plays as the relay went."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from smtproute.core.event import Event
from smtproute.spool.sqlite import SqliteSpool
from smtproute.testing.rules import Drop, on
from smtproute.testing.scenarios.play import play
from smtproute.testing.scenarios.record import NotRecorded, Recorded, latest, record
from smtproute.testing.scenarios.scenario import read
from smtproute.testing.stage import Flow, Stage
from smtproute.world import World

CONFIG = """
hostname = "mail.example.org"
default = { endpoint = "partner" }
[docker_mailserver]
config = "dms"
[listener.mx]
bind = ":25"
role = "inbound"
[listener.app]
bind = ":2525"
auth = "any"
[endpoint.partner]
servers = ["mx.partner.example"]
[arc.keys."example.org"]
selector = "mail"
file = "absent.pem"
[srs]
domain = "example.org"
secret_file = "absent.secret"
"""
LETTER = b"From: friend@else.example\r\nTo: name@example.org\r\nSubject: It's \\ \xc3\xa9\r\n\r\n'''\r\n.\r\nend\r\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "dms").mkdir()
    (tmp_path / "dms/postfix-accounts.cf").write_text("name@example.org|{PLAIN}x\nfriend@example.org|{PLAIN}x\n")
    (tmp_path / "dms/postfix-virtual.cf").write_text(
        "name@example.org name@example.org,away@partner.example\nlist@example.org a@partner.example,b@partner.example\n"
    )
    file = tmp_path / "smtproute.toml"
    file.write_text(CONFIG)
    return file


async def recorded(flow: Flow, config: Path, *ids: str, number: int = 1) -> Recorded:
    """What `smtproute test --record` writes beside the relay, of these messages, or the last so many."""
    unread: list[Event] = []
    spool = await SqliteSpool.beside(f"{flow.snapshot.settings.state}/spool", World(), unread.append)
    try:
        written = await record(
            spool,
            ids or await latest(spool, number),
            config.parent / "flow.toml",
            config=str(config),
            settings=flow.snapshot.settings,
            environ={},
        )
    finally:
        await spool.close()
    (config.parent / "flow.toml").write_text(written.text)
    for name, octets in written.beside.items():
        (config.parent / name).write_bytes(octets)
    assert not unread
    return written


async def replayed(config: Path) -> None:
    """It plays as it says."""
    result = await play(read(config.parent / "flow.toml"))
    assert result.passed, result.report + (config.parent / "flow.toml").read_text()


async def sent(flow: Flow, to: Sequence[str], content: bytes = LETTER, **options: object) -> str:
    options = {"sender": "friend@else.example", "listener": "mx", "client": "203.0.113.9", **options}
    return (await flow.send(content, to=to, **options)).id  # type: ignore[arg-type]


async def test_a_forward_that_was_greylisted(config: Path) -> None:
    async with Stage(now=1_700_000_000) as stage:
        script = [on("RCPT", "451 4.7.1 Greylisted", times=1), on("CONTENT", "452 4.2.2 Full", times=1)]
        await stage.upstream("mx.partner.example", script)
        flow = await stage.relay(config)
        await sent(flow, ["name@example.org", "nobody@example.org"])
        await flow.advance(3600)
        written = await recorded(flow, config)
    tables = tomllib.loads(written.text)
    assert tables["config"] == "smtproute.toml"
    assert tables["dns"] == {"mx.partner.example": {"A": list(stage.addresses("mx.partner.example"))}}
    assert tables["upstream"]["mx.partner.example"]["rule"] == [
        {"at": "RCPT", "to": "away@partner.example", "times": 1, "reply": "451 4.7.1 Greylisted"},
        {"at": "CONTENT", "times": 1, "reply": "452 4.2.2 Full"},
    ]
    (message,) = tables["message"]
    assert message["client"] == "203.0.113.9" and message["listener"] == "mx"
    assert message["from"] == "friend@else.example" and message["to"] == ["name@example.org", "nobody@example.org"]
    assert message["content"].replace("\n", "\r\n").encode() == LETTER
    assert message["replies"] == {"nobody@example.org": "550 5.1.1"}
    mailbox, endpoint = message["expect"]
    assert mailbox == {"mailbox": "name@example.org"}
    assert endpoint == {
        "endpoint": "partner",
        "to": "away@partner.example",
        "attempts": 3,
        "server": "mx.partner.example:25",
        "sender": "SRS0*",
        "tls": True,
        "seal": {"i": 1, "cv": "none", "domain": "example.org"},
    }
    await replayed(config)


async def test_a_refusal_and_its_dsn(config: Path) -> None:
    async with Stage() as stage:
        await stage.upstream(
            "mx.partner.example", [on("RCPT", "550 5.1.1 Gone\nfor good", recipient="b@partner.example")]
        )
        flow = await stage.relay(config)
        id = await sent(flow, ["list@example.org"], sender="friend@example.org", listener="app", client="127.0.0.1")
        await flow.stage.quiet()
        written = await recorded(flow, config)
        (dsn,) = [event.facts["dsn"] for event in await flow.trace(id) if event.what == "bounced"]
        assert (await recorded(flow, config, dsn)).text == written.text, "of a DSN, the message it is about"
    (message,) = tomllib.loads(written.text)["message"]
    taken, refused, returned = message["expect"]
    assert (taken["to"], refused["to"], refused["status"]) == ("a@partner.example", "b@partner.example", "failed")
    assert refused["reply"].startswith("550 5.1.1 Gone")
    assert returned == {
        "mailbox": "friend@example.org",
        "dsn": {"recipient": "list@example.org", "status": "5.1.1", "action": "failed"},
    }
    await replayed(config)


async def test_a_server_that_is_down_and_mail_that_waits(config: Path) -> None:
    async with Stage() as stage:
        flow = await stage.relay(config)
        for ip in stage.addresses("mx.partner.example"):
            stage.network.take_away(ip)
        await sent(flow, ["name@example.org"])
        await flow.advance(100)
        written = await recorded(flow, config)
    tables = tomllib.loads(written.text)
    assert tables["upstream"]["mx.partner.example"] == {"down": "refused"}
    waiting = tables["message"][0]["expect"][1]
    assert waiting["status"] == "deferred" and waiting["attempts"] == 2
    await replayed(config)


async def test_several_messages_octets_and_no_secret(config: Path) -> None:
    odd = b"Subject: \xff\r\n\r\nlatin-1: \xe9\r\n"
    async with Stage() as stage:
        mx = await stage.upstream("mx.partner.example", [on("MAIL", "451 4.3.2 Later", skip=1, times=1)])
        flow = await stage.relay(config)
        first = await sent(
            flow, ["x@partner.example"], listener="app", client="127.0.0.1", login=("app", "s3cr3t w0rd")
        )
        await flow.stage.quiet()
        second = await sent(flow, ["a@partner.example", "b@partner.example"], odd, listener="app", client="127.0.0.1")
        await flow.advance(90)
        assert len(mx.received) == 2
        written = await recorded(flow, config, number=2)
    tables = tomllib.loads(written.text)
    assert "s3cr3t" not in written.text
    assert tables["upstream"]["mx.partner.example"]["rule"] == [
        {"at": "MAIL", "skip": 1, "times": 1, "reply": "451 4.3.2 Later"}
    ]
    assert [message["to"] for message in tables["message"]] == [
        ["x@partner.example"],
        ["a@partner.example", "b@partner.example"],
    ]
    assert tables["message"][0]["login"] == ["app", "PASSWORD"]
    assert tables["message"][1]["file"] == f"flow-{second}.eml" and written.beside == {f"flow-{second}.eml": odd}
    assert written.text.startswith(f"# Recorded from a live relay: {first}, {second}.\n")
    await replayed(config)


async def test_mx_records_a_hang_up_and_what_a_scenario_does_not_have(config: Path) -> None:
    config.write_text(CONFIG.replace('servers = ["mx.partner.example"]', 'discover = "recipient"'))
    async with Stage() as stage:
        stage.zone.set("partner.example", "MX", ["5 mx.partner.example", "7 mx2.partner.example"])
        stage.zone.set("else.example", "TXT", ["v=spf1 ip4:203.0.113.9 -all"])
        await stage.upstream("mx.partner.example", [on("MAIL", Drop())], tls=None)
        await stage.upstream("mx2.partner.example")
        flow = await stage.relay(config)
        id = await sent(flow, ["list@example.org"])
        await flow.stage.quiet()
        written = await recorded(flow, config)
    tables = tomllib.loads(written.text)
    assert tables["dns"]["partner.example"] == {"MX": ["10 mx.partner.example", "20 mx2.partner.example"]}
    assert tables["upstream"] == {
        "mx.partner.example": {"tls": "none", "rule": [{"at": "MAIL", "then": "drop"}]},
        "mx2.partner.example": {},
    }
    assert f"# - the DNS of those who sent {id}, on which hung what was found of it: spf=pass" in written.text
    await replayed(config)


async def test_what_is_not_there(config: Path) -> None:
    async with Stage() as stage:
        flow = await stage.relay(config)
        with pytest.raises(NotRecorded, match="there is no message 01ABC"):
            await recorded(flow, config, "01ABC")
