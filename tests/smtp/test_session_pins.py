"""What the session relies on in aiosmtpd, pinned: each of these fails when a release of it changes the ground."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Iterator
from importlib.metadata import version

import pytest
from aiosmtpd.smtp import SMTP

from smtproute.smtp import session


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def looked_up(*_: object) -> str:
        raise AssertionError("the name of the machine was looked up")

    monkeypatch.setattr(socket, "getfqdn", looked_up)
    yield


def test_the_release_that_these_pins_were_read_from() -> None:
    assert version("aiosmtpd").startswith("1.4.")
    assert "aiosmtpd (1.4.6)" in (session.__doc__ or "")


async def test_the_constructor_makes_a_protocol_that_reads_up_to_the_class_s_limit(no_network: None) -> None:
    class Large(SMTP):
        line_length_limit = 123_456

    loop = asyncio.get_running_loop()
    made = Large(None, hostname="mx.example", loop=loop)
    assert made.hostname == "mx.example" and made.loop is loop and made.transport is None
    assert made._stream_reader._limit == 123_456


def test_the_connection_callbacks_that_are_passed_over() -> None:
    assert SMTP.__mro__[1] is asyncio.StreamReaderProtocol
    for name in ("connection_made", "connection_lost", "eof_received"):
        assert name in SMTP.__dict__, f"SMTP has no {name} of its own: there is nothing to pass over"
    assert "create_task" in inspect.getsource(SMTP.connection_made)
    assert "cancel" in inspect.getsource(SMTP.eof_received)
    assert "cancel" in inspect.getsource(SMTP.connection_lost)
    assert {name for name in ("data_received", "pause_writing", "resume_writing") if name in SMTP.__dict__} == set()


async def test_reader_and_writer_are_kept_when_the_connection_stands() -> None:
    near, far = socket.socketpair()
    loop = asyncio.get_running_loop()

    class Passing(SMTP):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super(SMTP, self).connection_made(transport)
            self.transport = transport

        def connection_lost(self, error: Exception | None) -> None:
            super(SMTP, self).connection_lost(error)

    transport, made = await loop.connect_accepted_socket(lambda: Passing(None, hostname="x", loop=loop), near)
    assert isinstance(made._reader, asyncio.StreamReader) and isinstance(made._writer, asyncio.StreamWriter)
    far.sendall(b"octets")
    assert await made._reader.read(100) == b"octets"
    made._writer.write(b"back")
    assert far.recv(100) == b"back"
    assert made._handler_coroutine is None, "no task that nobody owns"
    made._writer.close()
    await made._writer.wait_closed()
    far.close()
    assert transport.is_closing()


def test_the_conversation_is_a_method_of_that_name() -> None:
    assert inspect.iscoroutinefunction(SMTP._handle_client)
    assert inspect.iscoroutinefunction(session.Session._handle_client)


def test_no_verb_of_aiosmtpd_is_reached() -> None:
    """Its verbs are looked up by its own loop alone, which the session's replaces."""
    assert "_smtp_methods" not in inspect.getsource(session)
    assert "smtp_" not in "".join(name for name in vars(session.Session))
