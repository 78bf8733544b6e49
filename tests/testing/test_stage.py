"""The stage: relays with production's configuration, everything around them in this process, and nothing leaves."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from smtproute.app import Refused
from smtproute.config.document import Mistake
from smtproute.core.event import Happening
from smtproute.testing.network import RelayNetwork, StagedNetwork
from smtproute.testing.stage import Stage
from smtproute.testing.upstream import Mute, Upstream, on
from smtproute.testing.zone import Fault

FAR: dict[str, Any] = {
    "route": [{"match": "*", "mode": "endpoint", "endpoint": "far"}],
    "endpoint": {"far": {"servers": ["mx.far.example:25"]}},
}
CAPTURE: dict[str, Any] = {"route": [{"match": "*", "mode": "capture"}]}
SENDER = "friend@else.example"
ANNA = "anna@far.example"


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with Stage(seed=7) as standing:
        yield standing


async def test_production_is_on_the_stage(stage: Stage) -> None:
    config = {
        "hostname": "mail.example.org",
        "listener": {"mx": {"bind": "0.0.0.0:25", "role": "inbound", "certificate": "/etc/x.pem", "key": "/etc/x.key"}},
        "domains": ["example.org"],
        "route": [{"match": "*@example.org", "mode": "endpoint", "endpoint": "far"}],
        "endpoint": {
            "far": {
                "servers": ["smtp.far.example:587", "internal.far.example:2525"],
                "backup": ["standby.far.example:465"],
                "tls": "require",
                "username": "us",
                "password_file": "/etc/smtproute/password",
            }
        },
        "resolver": {"static": {"internal.far.example": ["192.0.2.7"]}},
        "arc": {"keys": {"example.org": {"selector": "mail", "file": "/etc/smtproute/arc.pem"}}},
    }
    flow = await stage.relay(config)
    assert set(stage.upstreams) == {"smtp.far.example", "internal.far.example", "standby.far.example"}
    assert stage.network.holds("192.0.2.7")
    assert stage.texts("mail._domainkey.example.org", "TXT")[0].startswith("v=DKIM1; ")
    sent = await flow.send(
        sender=SENDER, to="name@example.org", client="203.0.113.9", helo="mail.else.example", tls=True
    )
    arrival = await stage.inbox.wait_for()
    received = arrival.received
    assert received is not None
    assert (received.login, received.helo) == ("us", "mail.example.org")
    assert received.tls
    assert arrival.header("ARC-Seal") is not None
    assert "203.0.113.9" in (arrival.header("Received") or "")
    await flow.stage.quiet()
    trace = await flow.trace(sent.id)
    (attempt,) = [event.facts for event in trace if event.what is Happening.ATTEMPT]
    assert (attempt["server"], attempt["ip"]) == ("smtp.far.example:587", stage.addresses("smtp.far.example")[0])
    (verdict,) = [event.facts["verdicts"] for event in trace if event.what is Happening.VERDICT]
    assert any(each.startswith("spf=none (else.example publishes no SPF record)") for each in verdict)


async def test_a_server_stands_at_the_addresses_that_the_configuration_has(stage: Stage) -> None:
    """Also one that stood on the stage before, and one that takes its place."""
    far = await stage.upstream("mx.far.example")
    flow = await stage.relay({**FAR, "resolver": {"static": {"mx.far.example": ["192.0.2.7"]}}})
    await flow.send(sender=SENDER, to=ANNA)
    await stage.rest()
    other = await stage.upstream("mx.far.example")
    await flow.send(sender=SENDER, to=ANNA)
    await stage.rest()
    assert (len(far.received), len(other.received)) == (1, 1)


async def test_a_server_at_an_ip_address_is_found_by_name(stage: Stage) -> None:
    stage.zone.set("mx.far.example", "A", "192.0.2.7")
    far = await stage.upstream("192.0.2.7")
    flow = await stage.relay(FAR)
    await flow.send(sender=SENDER, to=ANNA)
    await stage.rest()
    assert (len(far.received), set(stage.upstreams)) == (1, {"192.0.2.7"})


@pytest.mark.parametrize("said", [Fault.NXDOMAIN, Fault.SERVFAIL, []], ids=["no name", "failure", "no address"])
async def test_what_dns_says_of_a_server_holds(stage: Stage, said: Fault | list[str]) -> None:
    stage.zone.set("mx.far.example", "A", said)
    flow = await stage.relay(FAR)
    await flow.send(sender=SENDER, to=ANNA)
    await stage.rest()
    assert [len(flow.journal.of(each)) for each in (Happening.DEFERRED, Happening.DELIVERED)] == [1, 0]


async def test_relays_reach_each_other_by_host(stage: Stage) -> None:
    """Each sees who calls: the first a client of the test, the second the first at its address."""
    stage.zone.set("mx.b.example", "A", ["198.51.100.2"])
    stage.zone.set("mx.a.example", "A", ["198.51.100.1"])
    stage.zone.set("else.example", "TXT", ["v=spf1 a:mx.a.example -all"])
    mx = {"mx": {"role": "inbound"}}
    second = {"domains": ["b.example"], "listener": mx, "route": [{"match": "*@b.example", "mode": "capture"}]}
    first = {
        "domains": ["b.example"],
        "listener": mx,
        "route": [{"match": "*@b.example", "mode": "endpoint", "endpoint": "b"}],
        "endpoint": {"b": {"servers": ["mx.b.example:25"]}},
    }
    b = await stage.relay(second, name="b", host="mx.b.example")
    a = await stage.relay(first, name="a", host="mx.a.example")
    sent = await a.send(sender=SENDER, to="name@b.example", client="203.0.113.9")
    arrival = await stage.inbox.wait_for()
    await stage.inbox.assert_none()  # though the one keeps its connection to the other
    assert (arrival.relay, arrival.recipients, a.inbox.messages) == ("b", ("name@b.example",), [])
    assert sent.id.encode() in arrival.content
    clients, verdicts = {}, {}
    for flow in (a, b):
        (received,), (found,) = flow.journal.of(Happening.RECEIVED), flow.journal.of(Happening.VERDICT)
        clients[flow.name], verdicts[flow.name] = received.facts["client"], found.facts["verdicts"][0].split()[0]
    assert clients == {"a": "203.0.113.9", "b": "198.51.100.1"}
    assert verdicts == {"a": "spf=fail", "b": "spf=pass"}
    assert stage.upstreams["mx.b.example"].received == []


async def test_five_days_pass_from_retry_to_retry(stage: Stage) -> None:
    flow = await stage.relay(FAR)
    await stage.upstream("mx.far.example", [on("RCPT", "451 4.7.1 Later", match="anna")], tls=None)
    began = stage.clock.now()
    sent = await flow.send(sender=SENDER, to=ANNA)
    await flow.advance(6 * 86400)
    deferred, (failed,) = flow.journal.of(Happening.DEFERRED, sent.id), flow.journal.of(Happening.FAILED, sent.id)
    assert stage.clock.now() - began >= 6 * 86400
    assert len(deferred) > 10
    assert 4.5 * 86400 < failed.at - began <= 5.1 * 86400
    for before, after in zip(deferred, [*deferred[1:], failed], strict=True):
        assert before.facts["retry_at"] <= after.at < before.facts["retry_at"] + 60
    assert (await stage.inbox.wait_for(timeout=0)).recipients == (SENDER,)


async def test_where_the_clock_is_given_each_retry_has_the_same_hour_in_every_run() -> None:
    runs = []
    for _ in range(2):
        async with Stage(seed=7, now=1_800_000_000.0) as stage:
            flow = await stage.relay(FAR)
            await stage.upstream("mx.far.example", [on("RCPT", "451 4.7.1 Later", match="anna")], tls=None)
            await flow.send(sender=SENDER, to=ANNA)
            await flow.advance(86400)
            runs.append([event.at for event in flow.journal.of(Happening.ATTEMPT)])
    assert runs[0] == runs[1]
    assert len(runs[0]) > 10


async def test_a_reload_takes_the_new_configuration(stage: Stage) -> None:
    flow = await stage.relay(FAR)
    await flow.configure(CAPTURE)
    await flow.send(sender=SENDER, to=ANNA)
    assert (await stage.inbox.wait_for()).kind == "capture"
    new = {**FAR, "endpoint": {"far": {"servers": ["new.far.example:25"]}}}
    await flow.configure(new)
    await flow.send(sender=SENDER, to=ANNA)
    assert (await stage.inbox.wait_for()).upstream == "new.far.example"


async def test_a_reload_with_a_mistake_keeps_the_old_configuration(stage: Stage, tmp_path: Path) -> None:
    flow = await stage.relay(CAPTURE)
    with pytest.raises(Mistake, match="unknown key"):
        await flow.configure({**CAPTURE, "rute": []})
    key = tmp_path / "key.pem"
    key.write_text("no key")
    with pytest.raises(Refused, match=re.escape(str(key))):
        await flow.configure({**CAPTURE, "dkim": {"keys": {"example.org": {"selector": "mail", "file": str(key)}}}})
    await flow.send(sender=SENDER, to=ANNA)
    assert (await stage.inbox.wait_for()).kind == "capture"
    assert flow.config == CAPTURE


async def test_a_mistake_names_the_key(stage: Stage) -> None:
    with pytest.raises(Mistake, match=r"^config: endpoint\.far\.server: unknown key\. Did you mean \"servers\"\?"):
        await stage.relay({"endpoint": {"far": {"server": "mx.far.example"}}})


async def test_nothing_leaves(stage: Stage) -> None:
    flow = await stage.relay(FAR)
    stage.zone.set("mx.far.example", "A", ["192.0.2.99"])
    await flow.advance(120)  # what the relay may have asked as it began is forgotten
    sent = await flow.send(sender=SENDER, to=ANNA)
    (deferred,) = await flow.journal.seen(Happening.DEFERRED, sent.id)
    assert "192.0.2.99" in deferred.facts["detail"]
    assert "connection refused" in deferred.facts["detail"]
    assert stage.upstreams["mx.far.example"].connections == 0


@pytest.mark.parametrize("ip", ["192.0.2.1", "2001:db8::1", "1.1.1.1"])
async def test_an_address_that_is_not_on_the_stage_is_refused(ip: str) -> None:
    with pytest.raises(ConnectionRefusedError):
        await RelayNetwork(StagedNetwork(), str).connect((ip, 25))


async def test_a_network_leads_where_things_stand() -> None:
    network = StagedNetwork()
    async with Upstream() as one, Upstream() as other:
        network.put("192.0.2.1", (one.host, one.port))
        network.put("192.0.2.1", (other.host, other.port), 587)
        for place, port in ((("192.0.2.1", 25), one.port), (("192.0.2.1", 587), other.port)):
            with await network.connect(place) as connection:
                assert connection.getpeername() == ("127.0.0.1", port)
                assert connection.proto == socket.IPPROTO_TCP  # or asyncio does not set TCP_NODELAY on it
        network.unroutable.add("192.0.2.1")
        with pytest.raises(OSError, match="Network is unreachable"):
            await network.connect(("192.0.2.1", 25))
        network.unroutable.add("2001:DB8:0::1")
        assert not network.routed("2001:db8::1"), "an address is one, however it is written"
        network.unroutable.clear()
        network.take_away("192.0.2.1")
        with pytest.raises(ConnectionRefusedError):
            await network.connect(("192.0.2.1", 25))


async def test_a_server_takes_the_place_of_another(stage: Stage) -> None:
    flow = await stage.relay(FAR)
    first = stage.upstreams["mx.far.example"]
    await stage.upstream("MX.far.example", [on("CONTENT", "250 2.0.0 By the new one")])
    await flow.send(sender=SENDER, to=ANNA)
    await stage.inbox.wait_for()
    assert first.connections == 0


async def test_rest_tells_when_something_is_due(stage: Stage) -> None:
    flow = await stage.relay(FAR)
    assert await stage.rest() is None
    stage.upstreams["mx.far.example"].script(on("RCPT", "451 4.7.1 Later"))
    sent = await flow.send(sender=SENDER, to=ANNA)
    due = await stage.rest()
    (deferred,) = flow.journal.of(Happening.DEFERRED, sent.id)
    assert due == deferred.facts["retry_at"]
    assert await stage.quiet() == due


async def test_an_open_session_is_waited_for(stage: Stage) -> None:
    flow = await stage.relay(CAPTURE)
    reader, writer = await asyncio.open_connection(*flow.relay.addresses["default"])
    await reader.readline()
    with pytest.raises(TimeoutError):
        await stage.quiet(0.05)
    async with asyncio.TaskGroup() as group:
        quiet = group.create_task(stage.quiet())
        writer.write(b"QUIT\r\n")
    assert quiet.result() is None
    writer.close()


async def test_clients_are_taken_for_whom_they_claim(stage: Stage) -> None:
    flow = await stage.relay({**CAPTURE, "listener": {"app": {"trusted_networks": ["10.0.0.0/8"]}}})
    refused = await flow.send(sender=SENDER, to=ANNA, client="203.0.113.9")
    assert (refused.accepted, refused.id) == ((), "")
    assert set(refused.replies) <= {"CONNECT", "QUIT"}
    assert refused.replies["CONNECT"][0] in "45"
    taken = await flow.send(sender=SENDER, to=ANNA, client="10.1.2.3", helo="app.example")
    (received,) = flow.journal.of(Happening.RECEIVED)
    assert (received.message, received.facts["client"], received.facts["helo"]) == (taken.id, "10.1.2.3", "app.example")


async def test_any_login_is_taken_with_tls_and_without(stage: Stage) -> None:
    flow = await stage.relay()
    for how in ({}, {"tls": True}, {"listener": "tls"}):
        sent = await flow.send(sender=SENDER, to=ANNA, login=("anna", "secret"), **how)
        assert sent.accepted == (ANNA,)
        received = flow.journal.of(Happening.RECEIVED, sent.id)[0]
        assert (received.facts["named"], bool(received.facts["tls"])) == ("anna", bool(how))
    with pytest.raises(LookupError, match=r"there is no listener 'none'\. There are: default, tls"):
        await flow.send(sender=SENDER, to=ANNA, listener="none")


async def test_a_seed_decides_what_is_left_to_chance() -> None:
    letters, ids = [], []
    for seed in (7, 7, 8):
        async with Stage(seed=seed, now=1_700_000_000.0) as stage:
            flow = await stage.relay()
            sent = await flow.send(sender=SENDER, to=ANNA)
            letters.append(re.findall(rb"Message-ID: .*", sent.content))
            ids.append(flow.world.token())
    assert letters[0] == letters[1] != letters[2]
    assert ids[0] == ids[1] != ids[2]


async def test_a_stage_ends_though_a_server_is_silent() -> None:
    async with Stage(patience=3600) as stage:
        flow = await stage.relay(FAR)
        stage.upstreams["mx.far.example"].script(on("EHLO", Mute()))
        await flow.send(sender=SENDER, to=ANNA)
        await stage.upstreams["mx.far.example"].heard("EHLO relay.test")


async def test_a_stage_leaves_nothing_behind() -> None:
    async with Stage() as stage:
        await stage.relay()
        assert (stage.folder / "relay" / "state").is_dir()
    assert not stage.folder.exists()


async def test_a_key_of_others_is_published(stage: Stage) -> None:
    key = stage.signer("else.example", "s1")
    published = stage.texts("s1._domainkey.else.example", "TXT")
    stage.zone.set("s2._domainkey.else.example", "TXT", ["theirs"])
    stage.signer("else.example", "s2")
    assert published
    assert (key.domain, key.selector) == ("else.example", "s1")
    assert stage.texts("s2._domainkey.else.example", "TXT") == ["theirs"]  # what a test says of DNS stands
    assert stage.texts("s3._domainkey.else.example", "TXT") == []


async def test_nothing_is_left_of_a_stage_that_does_not_come_to_stand() -> None:
    """Its zone's port is taken."""
    async with Stage() as standing:
        stage = Stage()
        stage.zone.port = standing.zone.port
        with pytest.raises(OSError, match="address already in use"):
            await stage.__aenter__()
        assert not stage.folder.exists()
