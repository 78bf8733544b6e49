"""STARTTLS and implicit TLS, on both loops."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from recording import LOCAL, House, Peer, connected, greeted, listening, on_both_loops

from smtproute.core.event import Happening
from smtproute.core.settings import Limits, ListenerTls
from smtproute.core.settings import Listener as Settings
from smtproute.smtp.listener import Listener

MAIL, RCPT = "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>"


@pytest.fixture(scope="module")
def settings(pem: str) -> Settings:
    return Settings("test", port=0, trusted_networks=LOCAL, tls=ListenerTls.STARTTLS, certificate=pem)


async def secured(peer: Peer, context: ssl.SSLContext) -> None:
    """The handshake on the open connection, and nothing else."""
    await peer.writer.start_tls(context, server_hostname="localhost")


@on_both_loops
async def test_starttls(settings: Settings, context: ssl.SSLContext) -> None:
    house = House()
    async with listening(house, settings) as listener, greeted(listener) as peer:
        assert "STARTTLS" in (await peer.say("EHLO plain.example")).text.split("\n")
        assert "STARTTLS" in (await peer.say("HELP")).text
        ready = await peer.say("STARTTLS")
        assert (ready.code, ready.enhanced) == (220, "2.0.0")
        await secured(peer, context)
        assert (await peer.say(MAIL)).code == 503, "the session starts over: EHLO first"
        assert "STARTTLS" not in (await peer.say("EHLO tls.example")).text
        assert (await peer.say(MAIL, RCPT, "DATA")).code == 354
        await peer.send(b"hello\r\n.\r\n")
        assert (await peer.reply()).code == 250
        again = await peer.say("STARTTLS")
        assert (again.code, again.enhanced) == (503, "5.5.1")
        assert (await peer.say("QUIT")).code == 221
        assert await peer.rest() == []
    (taken,) = house.taken
    assert taken.envelope.client.tls.startswith("TLSv1.3 TLS_") and taken.envelope.client.helo == "tls.example"
    lines = [f"{line.arrow} {line.text}" for line in taken.transcript]
    at = lines.index("<- STARTTLS")
    assert lines[at + 1] == "-> 220 2.0.0 Ready to start TLS"
    assert lines[at + 2] == f"== TLS started: {taken.envelope.client.tls}"
    assert {line[:2] for line in lines[at + 3 :]} == {"<~", "~>"}
    assert lines[-1] == "<~ [7 octets]"


@on_both_loops
async def test_what_was_sent_before_the_handshake_is_dropped(settings: Settings, context: ssl.SSLContext) -> None:
    """STARTTLS injection: commands in plain text behind STARTTLS must not be obeyed under TLS (RFC 3207 5)."""
    house = House()
    async with listening(house, settings) as listener, greeted(listener) as peer:
        await peer.send(f"STARTTLS\r\nEHLO evil.example\r\n{MAIL}\r\n{RCPT}\r\nRSE".encode())
        assert (await peer.reply()).code == 220
        await secured(peer, context)
        assert (await peer.say("NOOP")).code == 250
        assert (await peer.say(RCPT)).code == 503
        assert (await peer.say("EHLO good.example")).code == 250
    assert not [call for call in house.calls if call.startswith("mail")]


@on_both_loops
async def test_an_open_transaction_ends_at_starttls(settings: Settings, context: ssl.SSLContext) -> None:
    house = House()
    async with listening(house, settings) as listener, greeted(listener) as peer:
        await peer.say(MAIL, RCPT)
        house.calls.clear()
        assert (await peer.say("STARTTLS")).code == 220
        assert house.calls == ["reset"]
        await secured(peer, context)
        assert (await peer.say("DATA")).code == 503


@on_both_loops
async def test_a_failed_handshake_ends_its_own_session_only(settings: Settings, context: ssl.SSLContext) -> None:
    house = House()
    async with listening(house, settings) as listener, greeted(listener) as other:
        async with greeted(listener) as peer:
            assert (await peer.say("STARTTLS")).code == 220
            await peer.send(b"EHLO in.plain.text\r\n" * 100)
            assert b"250" not in await peer.reader.read()
        assert (await other.say("NOOP")).code == 250
        async with asyncio.timeout(10):
            while not house.said(Happening.WARNING):
                await other.say("NOOP")
    assert "TLS handshake failed" in house.said(Happening.WARNING)[0].facts["what"]


@on_both_loops
async def test_a_handshake_that_never_comes_has_a_deadline(settings: Settings) -> None:
    async with listening(House(), settings, Limits(timeout=0.2)) as listener, greeted(listener) as peer:
        assert (await peer.say("STARTTLS")).code == 220
        assert await peer.reader.read() == b""


@on_both_loops
async def test_implicit_tls(settings: Settings, context: ssl.SSLContext) -> None:
    house = House()
    settings = replace(settings, tls=ListenerTls.IMPLICIT)
    async with listening(house, settings) as listener, greeted(listener, context) as peer:
        assert "STARTTLS" not in (await peer.say("EHLO x")).text
        assert (await peer.say("STARTTLS")).code == 503
        assert (await peer.say(MAIL, RCPT, "DATA")).code == 354
        await peer.send(b"x" * 1_000_000 + b"\r\n.\r\n")
        assert (await peer.reply()).code == 250
    assert house.clients[0].tls.startswith("TLSv1.3 ")
    assert [line.arrow for line in house.taken[0].transcript[:3]] == ["==", "==", "~>"]


@on_both_loops
async def test_slow_handshakes_hold_nobody_up_and_end(settings: Settings, context: ssl.SSLContext) -> None:
    house = House()
    settings = replace(settings, tls=ListenerTls.IMPLICIT)
    limits = Limits(timeout=1.0)
    async with (
        listening(house, settings, limits) as listener,
        connected(listener) as silent,
        connected(listener) as slow,
    ):
        await slow.send(b"\x16\x03\x01")
        async with greeted(listener, context) as peer:
            assert (await peer.say("NOOP")).code == 250
            assert listener.sessions == 3
        assert await silent.reader.read() == b""
        assert await slow.reader.read() == b""


@on_both_loops
async def test_plain_text_spoken_to_implicit_tls(settings: Settings) -> None:
    house = House()
    settings = replace(settings, tls=ListenerTls.IMPLICIT)
    async with listening(house, settings) as listener, connected(listener) as peer:
        await peer.send(b"EHLO x\r\n")
        assert b"220" not in await peer.reader.read()
    assert house.clients == []


@on_both_loops
async def test_a_client_that_ends_tls_after_its_message_has_it_taken(
    settings: Settings, context: ssl.SSLContext
) -> None:
    house = House(gate=asyncio.Event())
    assert house.gate is not None
    settings = replace(settings, tls=ListenerTls.IMPLICIT)
    async with listening(house, settings) as listener, greeted(listener, context) as peer:
        await peer.say(MAIL, RCPT, "DATA")
        await peer.send(b"hello\r\n.\r\n")
        await house.holding.wait()
        peer.writer.close()
        house.gate.set()
        await house.committed.wait()
    assert house.taken[0].content == b"hello\r\n" and not house.said(Happening.FAULT)


async def test_tls_1_1_is_refused(settings: Settings) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.minimum_version = ssl.TLSVersion.TLSv1
    old.set_ciphers("ALL:@SECLEVEL=0")
    async with listening(House(), replace(settings, tls=ListenerTls.IMPLICIT)) as listener:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with greeted(listener, old):
                pass


@on_both_loops
async def test_a_reload_takes_a_new_certificate(
    settings: Settings, context: ssl.SSLContext, authority: trustme.CA, tmp_path: Path
) -> None:
    from smtproute.smtp.listener import server_context

    renewed = tmp_path / "new.pem"
    authority.issue_cert("localhost", "renewed.example").private_key_and_cert_chain_pem.write_to_path(str(renewed))

    async def names(listener: Listener) -> set[str]:
        async with greeted(listener) as peer:
            await peer.say("STARTTLS")
            await secured(peer, context)
            certificate = peer.writer.get_extra_info("ssl_object").getpeercert()
            return {name for _, name in certificate["subjectAltName"]}

    async with listening(House(), settings) as listener:
        assert "renewed.example" not in await names(listener)
        changed = replace(settings, certificate=str(renewed))
        listener.update(changed, Limits(message_size=77), server_context(changed))
        assert await names(listener) == {"localhost", "renewed.example"}
        async with greeted(listener) as peer:
            assert "SIZE 77" in (await peer.say("EHLO x")).text
