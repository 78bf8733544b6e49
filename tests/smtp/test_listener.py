"""The listener: binding, limits, reload, draining."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from recording import LOCAL, House, codes, connected, greeted, listening, on_both_loops

from smtproute.core.event import Happening
from smtproute.core.reply import Reply
from smtproute.core.settings import Limits, ListenerTls
from smtproute.core.settings import Listener as Settings
from smtproute.smtp.listener import ListenerFailed, server_context

MAIL, RCPT = "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>"
SETTINGS = Settings("test", port=0, trusted_networks=LOCAL)


@on_both_loops
async def test_listens_and_says_where() -> None:
    house = House()
    async with listening(house) as listener:
        host, port = listener.address
        assert host == "127.0.0.1" and port > 0
        (event,) = house.said(Happening.LISTENING)
        assert event.facts == {"listener": "test", "host": host, "port": port, "role": "trusted", "tls": "none"}
        async with greeted(listener):
            assert listener.sessions == 1
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, port)


@on_both_loops
async def test_both_families() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 on this machine")
    house = House()
    async with listening(house, replace(SETTINGS, host="::")) as listener:
        for host in ("127.0.0.1", "::1"):
            reader, writer = await asyncio.open_connection(host, listener.address[1])
            assert (await reader.readline()).startswith(b"220 ")
            writer.transport.abort()
    assert [client.ip for client in house.clients] == ["127.0.0.1", "::1"]
    assert all(client.trusted for client in house.clients)


@on_both_loops
async def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenerFailed, match=rf"^listener test: 127\.0\.0\.1:{port}: .*in use"):
            async with listening(House(), replace(SETTINGS, port=port)):
                pass


async def test_a_host_that_is_no_name() -> None:
    with pytest.raises(ListenerFailed, match=r"^listener test: nowhere\.invalid:0: "):
        async with listening(House(), replace(SETTINGS, host="nowhere.invalid")):
            pass


def test_tls_files_that_cannot_be_used(tmp_path: Path) -> None:
    authority = trustme.CA()
    one, two = authority.issue_cert("one.example"), authority.issue_cert("two.example")
    certificate, key, missing, text = (tmp_path / name for name in ("one.pem", "two.key", "missing.pem", "text.pem"))
    one.cert_chain_pems[0].write_to_path(str(certificate))
    two.private_key_pem.write_to_path(str(key))
    text.write_text("no certificate\n")
    plain = replace(SETTINGS, tls=ListenerTls.STARTTLS)

    def failure(certificate: Path, key: Path) -> str:
        with pytest.raises(ListenerFailed) as failed:
            server_context(replace(plain, certificate=str(certificate), key=str(key)))
        return str(failed.value)

    assert failure(missing, key) == f"listener test: {missing}: No such file or directory"
    assert failure(certificate, missing) == f"listener test: {missing}: No such file or directory"
    assert failure(certificate, tmp_path) == f"listener test: {tmp_path}: Is a directory"
    assert failure(certificate, key) == f"listener test: certificate {certificate}, key {key}: KEY_VALUES_MISMATCH"
    assert failure(text, key).startswith(f"listener test: certificate {text}, key {key}: ")
    assert failure(certificate, text).startswith(f"listener test: certificate {certificate}, key {text}: ")
    assert server_context(SETTINGS) is None


def test_a_key_with_a_password_asks_nobody(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    issued = trustme.CA().issue_cert("one.example")
    certificate, key = tmp_path / "one.pem", tmp_path / "one.key"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    private = load_pem_private_key(issued.private_key_pem.bytes(), None)
    locked = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    key.write_bytes(locked)
    with pytest.raises(ListenerFailed, match=r"one\.key"):
        server_context(replace(SETTINGS, tls=ListenerTls.STARTTLS, certificate=str(certificate), key=str(key)))


@on_both_loops
async def test_a_broken_certificate_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ListenerFailed, match=r"mx\.pem: No such file"):
        async with listening(
            House(), replace(SETTINGS, tls=ListenerTls.IMPLICIT, certificate=str(tmp_path / "mx.pem"))
        ):
            pass


@on_both_loops
@pytest.mark.parametrize(
    ("limits", "enhanced"), [(Limits(connections=2), "4.3.2"), (Limits(connections_per_address=2), "4.7.0")]
)
async def test_connections_are_limited(limits: Limits, enhanced: str) -> None:
    house = House()
    async with listening(house, limits=limits) as listener, greeted(listener) as one, greeted(listener):
        async with connected(listener) as third:
            (reply,) = await third.rest()
            assert (reply.code, reply.enhanced) == (421, enhanced)
        (event,) = house.said(Happening.REFUSED)
        assert event.facts["reply"] == str(reply) and event.facts["client"] == "127.0.0.1"
        assert (await one.say("QUIT")).code == 221
        assert await one.rest() == []
        async with asyncio.timeout(10):
            while listener.sessions == 2:
                await asyncio.sleep(0)
        async with greeted(listener):
            pass
    assert listener.sessions == 0


@on_both_loops
async def test_new_limits_are_for_new_connections() -> None:
    async with listening(House()) as listener, greeted(listener) as old:
        listener.update(SETTINGS, Limits(message_size=5), None)
        async with greeted(listener) as new:
            assert "SIZE 5" in (await new.say("EHLO x")).text.split("\n")
        assert "SIZE 25000000" in (await old.say("EHLO x")).text.split("\n")


@on_both_loops
async def test_draining() -> None:
    """Idle sessions are told to go; one in a transaction finishes it; nobody new comes in."""
    house = House()
    async with AsyncExitStack() as stack:
        listener = await stack.enter_async_context(listening(house))
        idle, busy, sending = [await stack.enter_async_context(greeted(listener)) for _ in range(3)]
        await busy.say(MAIL)
        await sending.say(MAIL, RCPT, "DATA")
        await sending.send(b"hello\r\n")
        await house.reading.wait()
        draining = asyncio.create_task(listener.drain(20))
        replies = await idle.rest()
        assert codes(replies) == [421] and replies[0].enhanced == "4.3.2"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*listener.address)
        assert (await busy.say(RCPT, "DATA")).code == 354
        assert not draining.done()
        await busy.send(b"hello\r\n.\r\n")
        assert codes(await busy.rest()) == [250, 421]
        await sending.send(b".\r\n")
        assert codes(await sending.rest()) == [250, 421]
        await draining
        assert listener.sessions == 0
    assert len(house.taken) == 2


@on_both_loops
async def test_draining_has_a_deadline() -> None:
    house = House(gate=asyncio.Event())
    async with listening(house) as listener, greeted(listener) as busy, greeted(listener) as committing:
        await busy.say(MAIL)
        await committing.say(MAIL, RCPT, "DATA")
        await committing.send(b".\r\n")
        await house.holding.wait()
        await listener.drain(0.05)
        assert listener.sessions == 0
        for peer in (busy, committing):
            replies = await peer.rest()
            assert codes(replies) == [421] and replies[0].enhanced == "4.3.2"
    assert house.taken == [] and not house.said(Happening.FAULT)


@on_both_loops
async def test_a_rset_ends_what_draining_waits_for() -> None:
    async with listening(House()) as listener, greeted(listener) as busy:
        await busy.say(MAIL)
        draining = asyncio.create_task(listener.drain(20))
        await busy.send(b"RSET\r\n")
        assert codes(await busy.rest()) == [250, 421]
        await draining


@on_both_loops
async def test_draining_does_not_wait_for_a_handshake(tmp_path: Path) -> None:
    pem = tmp_path / "mx.pem"
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
    for tls in (ListenerTls.IMPLICIT, ListenerTls.STARTTLS):
        settings = replace(SETTINGS, tls=tls, certificate=str(pem))
        async with listening(House(), settings) as listener, connected(listener) as peer:
            if tls is ListenerTls.STARTTLS:
                await peer.reply()
                assert (await peer.say("STARTTLS")).code == 220
            async with asyncio.timeout(10):
                while not listener.sessions:
                    await asyncio.sleep(0)
                await listener.drain(1000)
            assert await peer.reader.read() == b""


@on_both_loops
async def test_leaving_ends_everything() -> None:
    house = House(gate=asyncio.Event())
    async with AsyncExitStack() as stack:
        async with listening(house) as listener:
            peers = [await stack.enter_async_context(greeted(listener)) for _ in range(3)]
            await peers[0].say(MAIL, RCPT, "DATA")
            await peers[0].send(b".\r\n")
            await house.holding.wait()
        for peer in peers:
            assert codes(await peer.rest()) == [421]


@on_both_loops
async def test_500_idle_connections_cost_the_next_one_nothing() -> None:
    house = House()
    limits = Limits(connections_per_address=1000)
    async with listening(house, limits=limits) as listener, AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(connected(listener)) for _ in range(500)]
        assert {(await peer.reply()).code for peer in idle} == {220}
        assert listener.sessions == 500
        async with greeted(listener) as peer:
            assert (await peer.say(MAIL, RCPT, "DATA")).code == 354
            await peer.send(b"hello\r\n.\r\n")
            assert (await peer.reply()).code == 250
        await listener.drain(10)
        assert [codes(await peer.rest()) for peer in idle] == [[421]] * 500


async def test_one_door_a_session() -> None:
    house = House(replies={"rcpt c@d.example": Reply(250, "2.1.5", "Ok")})
    async with listening(house) as listener, greeted(listener) as one, greeted(listener) as two:
        await one.say("MAIL FROM:<one@b.example>")
        await two.say("MAIL FROM:<two@b.example>")
        for peer in (one, two):
            assert (await peer.say(RCPT, "DATA")).code == 354
            await peer.send(b".\r\n")
            assert (await peer.reply()).code == 250
    assert [str(taken.envelope.reverse_path) for taken in house.taken] == ["one@b.example", "two@b.example"]
