"""Start, stop, restart, reload: nothing accepted is lost, nothing connected is dropped."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

import pytest
import trustme

from smtproute.app import Refused, Relay
from smtproute.cli.configuration import reader
from smtproute.core.event import Happening
from smtproute.core.settings import Queue
from smtproute.smtp.listener import ListenerFailed
from smtproute.spool.queue import SpoolBusy
from smtproute.testing.upstream import Wait, on
from tests.e2e.conftest import LETTER, Client, Lab

APP = """
    default = {{ endpoint = "far" }}
    [listener.app]
    bind = "127.0.0.1:0"
    [endpoint.far]
    servers = ["mx.far.example:{port}"]
    [queue]
    retry = ["1s"]
"""


async def test_what_is_unfinished_is_taken_up_again(lab: Lab) -> None:
    lab.zone.set("mx.far.example", "A", ["127.0.0.1"])
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    file = lab.config(APP.format(port=port))
    async with lab.relay(file) as relay:
        messages = [await lab.accepted(relay, f"{n}@far.example") for n in range(5)]
        await lab.journal.seen(Happening.DEFERRED, times=5)
    far = await lab.upstream("mx.far.example", port=port)
    async with lab.relay(file):
        await far.wait(5)
        for message in messages:
            await lab.journal.finished(message, 1)
    assert sorted(each.recipients for each in far.received) == [(f"{n}@far.example",) for n in range(5)]


async def test_stopping_waits_for_the_transaction_and_the_delivery_under_way(lab: Lab) -> None:
    gate = asyncio.Event()
    far = await lab.upstream("mx.far.example", [on("CONTENT", Wait(gate))])
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(lab.relay(lab.config(APP.format(port=far.port))))
        client = await Client.connect(relay.addresses["app"])
        idle = await Client.connect(relay.addresses["app"])
        await lab.accepted(relay, "slow@far.example")
        await far.heard("DATA")
        for line in ("EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<late@far.example>"):
            assert (await client.say(line)).startswith("250")
        stopping = asyncio.ensure_future(stack.aclose())
        await lab.journal.seen(Happening.DRAINING)
        assert (await idle.reply()).startswith("421 4.3.2 ")
        assert (await client.say("DATA")).startswith("354")
        client.writer.write(LETTER + b".\r\n")
        assert (await client.reply()).startswith("250 2.0.0 ")
        assert not stopping.done()
        gate.set()
        await stopping
    assert far.received[0].recipients == ("slow@far.example",)
    with pytest.raises(OSError):
        await Client.connect(relay.addresses["app"])
    async with lab.relay(lab.folder / "smtproute.toml"):
        await far.wait(2)


async def test_a_client_that_hangs_up_after_the_dot_has_its_mail_delivered(lab: Lab) -> None:
    far = await lab.upstream("mx.far.example")
    relay = await lab.started(APP.format(port=far.port))
    client = await Client.connect(relay.addresses["app"])
    for line in ("EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<x@far.example>", "DATA"):
        await client.say(line)
    client.writer.write(LETTER + b".\r\n")
    client.writer.close()
    await far.wait(1)


async def test_a_reload_takes_effect_and_drops_nobody(lab: Lab) -> None:
    lab.write("aliases", "old@here.example x@far.example\n")
    relay = await lab.started('[aliases]\ntables = ["aliases"]\n[listener.app]\nbind = "127.0.0.1:0"')
    client = await Client.connect(relay.addresses["app"])
    await client.say("EHLO x")
    await client.say("MAIL FROM:<a@b.example>")
    lab.write("aliases", "new@here.example x@far.example\n")
    await relay.reload()
    await lab.journal.seen(Happening.RELOADED)
    assert (await client.say("RCPT TO:<old@here.example>")).startswith("250 ")
    assert (await client.say("RCPT TO:<new@here.example>")).startswith("550 ")
    await client.say("RSET")
    await client.say("MAIL FROM:<a@b.example>")
    assert (await client.say("RCPT TO:<new@here.example>")).startswith("250 ")
    assert (await client.say("RCPT TO:<old@here.example>")).startswith("550 ")


async def test_a_broken_configuration_is_refused_and_the_old_one_stays(lab: Lab) -> None:
    relay = await lab.started(APP.format(port=25))
    before = relay.snapshot()
    lab.config(APP.format(port=25).replace("servers", "servrs"))
    await relay.reload()
    (refused,) = lab.journal.of(Happening.RELOAD_REFUSED)
    assert "servrs" in refused.facts["why"]
    assert relay.snapshot() is before


async def test_a_table_with_a_table_wide_fault_is_refused_on_reload(lab: Lab) -> None:
    lab.write("aliases", "a@here.example x@far.example\n")
    relay = await lab.started('[aliases]\ntables = ["aliases"]\n[listener.app]\nbind = "127.0.0.1:0"')
    lab.write("aliases", "a@here.example y@far.example\na@here.example z@far.example\n")
    await relay.reload()
    assert any("stays in force" in each.facts["what"] for each in lab.journal.of(Happening.WARNING))
    message = await lab.delivered(relay, "a@here.example")
    (entry,) = await relay.spool.entries(message)
    assert str(entry.delivery.address) == "x@far.example"


async def test_what_cannot_be_reloaded_says_so(lab: Lab) -> None:
    relay = await lab.started(APP.format(port=25))
    other = (
        APP.format(port=25).replace("listener.app", "listener.other").replace("[queue]", "[queue]\n    max_size = 1")
    )
    lab.config(other)
    await relay.reload()
    warnings = [each.facts["what"] for each in lab.journal.of(Happening.WARNING)]
    for where in ("listener.app.bind", "listener.other", "queue.max_size"):
        assert any(each.startswith(f"warning: {where}: ") and "[not-reloaded]" in each for each in warnings), where
    assert relay.snapshot().settings.queue.max_size == Queue().max_size
    await (await Client.connect(relay.addresses["app"])).say("NOOP")


async def test_two_tables_of_one_name_stay_apart(lab: Lab) -> None:
    lab.write("a/virtual", "a@here.example x@far.example\n")
    lab.write("b/virtual", "b@here.example y@far.example\n")
    relay = await lab.started('[aliases]\ntables = ["a/virtual", "b/virtual"]\n[listener.app]\nbind = "127.0.0.1:0"')
    lab.write("a/virtual", "a@here.example x@far.example\na@here.example z@far.example\n")
    await relay.reload()
    for local in "ab":
        message = await lab.delivered(relay, f"{local}@here.example")
        (entry,) = await relay.spool.entries(message)
        assert str(entry.delivery.address) == f"{'x' if local == 'a' else 'y'}@far.example"


async def test_a_file_that_is_gone_at_a_reload_is_a_mistake(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    file = lab.config('[listener.app]\nbind = "127.0.0.1:0"\ndebug = true')
    monkeypatch.chdir(lab.folder)
    read = reader(None)
    async with Relay.running(read, world=lab.world, emit=lab.journal) as relay:
        before = relay.snapshot()
        file.unlink()
        await relay.reload()
        assert relay.snapshot() is before
        assert "smtproute.toml" in lab.journal.of(Happening.RELOAD_REFUSED)[0].facts["why"]


async def test_a_second_relay_on_the_same_state_is_refused(lab: Lab) -> None:
    await lab.started(APP.format(port=25))
    with pytest.raises(SpoolBusy):
        async with lab.relay(lab.folder / "smtproute.toml"):
            pass


async def test_a_taken_port_and_a_missing_certificate_are_named(lab: Lab) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        file = lab.config(f'[listener.app]\nbind = "127.0.0.1:{port}"')
        with pytest.RaisesGroup(ListenerFailed, flatten_subgroups=True, allow_unwrapped=True):
            async with lab.relay(file):
                pass
    file = lab.config('[listener.app]\nbind = "127.0.0.1:0"\ncertificate = "none.pem"\nkey = "none.key"')
    with pytest.raises(Refused, match=r"none\.pem"):
        async with lab.relay(file):
            pass


async def test_starttls_and_implicit_tls(lab: Lab) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(lab.folder / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(lab.folder / "cert.pem"))
    files = 'certificate = "cert.pem"\nkey = "key.pem"'
    relay = await lab.started(
        f'[listener.start]\nbind = "127.0.0.1:0"\n{files}\n'
        f'[listener.wrapped]\nbind = "127.0.0.1:0"\ntls = "implicit"\n{files}'
    )
    context = ssl.create_default_context()
    authority.configure_trust(context)
    client = await Client.connect(relay.addresses["wrapped"], ssl=context)
    assert (await client.letter("a@b.example")).startswith("250 2.0.0 ")
    client = await Client.connect(relay.addresses["start"])
    assert "STARTTLS" in await client.say("EHLO x")
    assert (await client.say("STARTTLS")).startswith("220 ")
    await client.writer.start_tls(context, server_hostname="127.0.0.1")
    message = (await client.letter("a@b.example")).rsplit(" ", 1)[-1]
    assert "STARTTLS" not in await client.say("EHLO x")
    received = (await lab.trace(relay, message))[0]
    assert received.facts["tls"].startswith("TLSv1.")
    content = (await relay.spool.entries(message))[0].message.trace_header
    assert b" with ESMTPS id " in content


async def test_many_clients_at_once_lose_nothing(lab: Lab) -> None:
    far = await lab.upstream("mx.far.example")
    relay = await lab.started(APP.format(port=far.port))

    async def one(number: int) -> None:
        client = await Client.connect(relay.addresses["app"])
        for turn in range(10):
            assert (await client.letter(f"{number}.{turn}@far.example")).startswith("250 2.0.0 ")
        await client.say("QUIT")

    async with asyncio.TaskGroup() as clients:
        for number in range(30):
            clients.create_task(one(number))
    received = await far.wait(300)
    assert {each.recipients[0] for each in received} == {f"{a}.{b}@far.example" for a in range(30) for b in range(10)}
    assert far.connections <= 10
