"""A small strict SMTP client for tests: one command after the other, everything that was said written down.

It shares no code with the relay's own client beyond the values of the transcript.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate

from smtproute.core.settings import ListenerTls
from smtproute.core.transcript import Arrow, Line, legible
from smtproute.world import Clock, Place, SystemClock, dial

__all__ = ["HELO", "TIMEOUT", "Client", "Sent", "letter"]

HELO = "client.test"
TIMEOUT = 60.0
"""Seconds that the client waits for each reply."""

_REPLY = re.compile(r"([2-5]\d\d)(?:([ -])(.*))?")
_ID = re.compile(r"(?:queued|relayed) as ([0-9A-Z]{15})\b")
_FILLER = b"The quick brown fox jumps over the lazy dog, and the dog does not mind it.\r\n"
_SECRET = "[credentials]"
_DOTTED = re.compile(rb"(\A|\r\n)\.")


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one message, as the client knows it."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    """As it was sent, with the CRLF that was added at its end if need be."""
    replies: Mapping[str, str]
    """By command: CONNECT, the hello, STARTTLS, AUTH, MAIL, DATA (the dot, or DATA where that is refused), QUIT; and
    by recipient (in LMTP that to the dot). Further lines of a reply come after a line break, without the code."""
    accepted: tuple[str, ...]
    """The recipients for whom the server has taken the message."""
    id: str
    """Queue id; empty where the server named none as smtproute does."""
    transcript: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Client:
    """How a client speaks to servers."""

    helo: str = HELO
    hello: str = "EHLO"
    """EHLO, HELO or LHLO (RFC 2033)."""
    tls: ListenerTls = ListenerTls.NONE
    context: ssl.SSLContext | None = None
    """What TLS needs."""
    host: str = "localhost"
    """The name that the server's certificate must be for."""
    login: tuple[str, str] | None = None
    """Name and password."""
    timeout: float = TIMEOUT
    clock: Clock = field(default_factory=SystemClock)
    """Tells the time of what was said."""

    async def send(
        self,
        place: Place,
        content: bytes,
        *,
        sender: str,
        to: Sequence[str],
        connect: Callable[[Place], Awaitable[socket.socket]] = dial,
    ) -> Sent:
        """Sends a message to the server at `place`, as it is; a CRLF that is missing at its end is added.

        `connect` makes the connection. A server that refuses or breaks
        the connection, once it is made, is an answer like any other. Raises OSError where no connection is made,
        TimeoutError where a reply does not come.
        """
        dialogue = _Dialogue(self, content, sender, to)
        await dialogue.run(place, connect)
        return dialogue.sent()


class _Lost(Exception):
    """The connection is over."""


class _Refused(Exception):
    """The server does not go on: the client takes its leave."""


class _Dialogue:
    """One connection."""

    def __init__(self, client: Client, content: bytes, sender: str, to: Sequence[str]) -> None:
        self._client = client
        self._content = content if content.endswith(b"\r\n") else content + b"\r\n"
        self._sender = sender
        self._to = tuple(to)
        self._replies: dict[str, str] = {}
        self._accepted: tuple[str, ...] = ()
        self._transcript: list[Line] = []
        self._offered: dict[str, str] = {}
        self._secured = False
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    def sent(self) -> Sent:
        ids = _ID.findall(" ".join(self._replies.get(key, "") for key in ("DATA", *self._accepted)))
        return Sent(
            self._sender,
            self._to,
            self._content,
            self._replies,
            self._accepted,
            ids[-1] if ids else "",  # the server's own comes last: before it stands what its next hop said
            tuple(self._transcript),
        )

    async def run(self, place: Place, connect: Callable[[Place], Awaitable[socket.socket]]) -> None:
        async with asyncio.timeout(self._client.timeout):
            self._reader, self._writer = await asyncio.open_connection(sock=await connect(place))
        try:
            try:
                await self._converse()
            except _Refused:
                pass
            await self._command("QUIT")
        except (_Lost, _Refused):
            pass
        except (ConnectionError, ssl.SSLError) as error:
            self._note(f"connection lost: {error}")
        finally:
            self._writer.close()

    async def _converse(self) -> None:
        client = self._client
        if client.tls is ListenerTls.IMPLICIT:
            await self._start_tls()
        self._positive(await self._reply("CONNECT"))
        await self._hello()
        if client.tls is ListenerTls.STARTTLS:
            self._positive(await self._command("STARTTLS"))
            await self._start_tls()
            await self._hello()
        if client.login is not None:
            await self._log_in(*client.login)
        self._positive(await self._command(f"MAIL FROM:<{self._sender}>{self._parameters()}", "MAIL"))
        taken = [each for each in self._to if _good(await self._command(f"RCPT TO:<{each}>", each))]
        if not taken:
            return
        if not (await self._command("DATA")).startswith("354"):
            return
        await self._data()
        if client.hello == "LHLO":
            del self._replies["DATA"]
            self._accepted = tuple([each for each in taken if _good(await self._reply(each))])
        elif _good(await self._reply("DATA")):
            self._accepted = tuple(taken)

    async def _hello(self) -> None:
        client = self._client
        said = self._positive(await self._command(f"{client.hello} {client.helo}", client.hello))
        words = [line.partition(" ") for line in said.split("\n")[1:]]
        self._offered = {keyword.upper(): value for keyword, _, value in words}

    async def _start_tls(self) -> None:
        async with asyncio.timeout(self._client.timeout):
            assert self._client.context is not None
            await self._writer.start_tls(self._client.context, server_hostname=self._client.host)
        self._secured = True
        secured = self._writer.get_extra_info("ssl_object")
        self._note(f"{secured.version()} {secured.cipher()[0]}")

    async def _log_in(self, name: str, password: str) -> None:
        """AUTH PLAIN, or LOGIN where that is all there is (RFC 4954)."""
        offered = self._offered.get("AUTH", "").upper().split()
        if "LOGIN" not in offered or "PLAIN" in offered:
            response = _encoded("\0".join(("", name, password)))
            self._positive(await self._command(f"AUTH PLAIN {response}", "AUTH", f"AUTH PLAIN {_SECRET}"))
            return
        self._prompted(await self._command("AUTH LOGIN", "AUTH"))
        self._prompted(await self._command(_encoded(name), "AUTH", _SECRET))
        self._positive(await self._command(_encoded(password), "AUTH", _SECRET))

    def _parameters(self) -> str:
        """What this message needs, of what the server offers."""
        head, _, _ = self._content.partition(b"\r\n\r\n")
        eight_bit = " BODY=8BITMIME" if "8BITMIME" in self._offered and not self._content.isascii() else ""
        ascii = head.isascii() and "".join((self._sender, *self._to)).isascii()
        return eight_bit + (" SMTPUTF8" if "SMTPUTF8" in self._offered and not ascii else "")

    async def _data(self) -> None:
        self._write(f"[{len(self._content)} octets]", _DOTTED.sub(rb"\1..", self._content))
        self._write(".", b".\r\n")
        await self._drain()

    async def _command(self, line: str, key: str = "", shown: str = "") -> str:
        """The reply, written down under `key`. `shown` stands for the line in the transcript."""
        self._write(shown or line, f"{line}\r\n".encode())
        await self._drain()
        return await self._reply(key or line)

    async def _reply(self, key: str) -> str:
        """The next reply, written down under `key`. Raises _Lost after a 421, too: the server closes then."""
        lines = []
        more: str | None = "-"
        while more == "-":
            async with asyncio.timeout(self._client.timeout):
                octets = await self._reader.readline()
            if not octets.endswith(b"\n"):
                self._note("the server has closed the connection")
                raise _Lost
            text = octets.decode("utf-8", "backslashreplace").rstrip("\r\n")
            self._record(Arrow.RECEIVED_TLS if self._secured else Arrow.RECEIVED, text)
            parts = _REPLY.fullmatch(text)
            if parts is None:
                self._note("that is no reply")
                raise _Lost
            code, more = parts[1], parts[2]
            lines.append(parts[3] or "")
        self._replies[key] = said = " ".join((code, "\n".join(lines))).rstrip(" ")
        if code == "421":
            raise _Lost
        return said

    def _positive(self, said: str) -> str:
        if not _good(said):
            raise _Refused
        return said

    def _prompted(self, said: str) -> None:
        if not said.startswith("334"):
            raise _Refused

    def _write(self, shown: str, octets: bytes) -> None:
        self._record(Arrow.SENT_TLS if self._secured else Arrow.SENT, shown)
        self._writer.write(octets)

    async def _drain(self) -> None:
        async with asyncio.timeout(self._client.timeout):
            await self._writer.drain()

    def _note(self, text: str) -> None:
        self._record(Arrow.NOTE, text)

    def _record(self, arrow: Arrow, text: str) -> None:
        self._transcript.append(Line(arrow, self._client.clock.now(), legible(text)))


def letter(sender: str, to: Sequence[str], *, at: float, id: str, size: int = 0) -> bytes:
    """A short letter, or one of at least `size` octets.

    `at` is when it was written, in seconds since the epoch, `id` the left half of its Message-ID.
    """
    author = sender or f"postmaster@{HELO}"
    head = [
        f"From: {author}",
        f"To: {', '.join(to)}",
        "Subject: A letter",
        f"Date: {formatdate(at)}",
        f"Message-ID: <{id}@{author.rpartition('@')[2]}>",
    ]
    content = "\r\n".join([*head, "", "Hello.", ""]).encode()
    return content + _FILLER * -(-max(0, size - len(content)) // len(_FILLER))


def _good(said: str) -> bool:
    return said.startswith("2")


def _encoded(text: str) -> str:
    return b64encode(text.encode()).decode()
