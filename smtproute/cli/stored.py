"""A message in a file: the octets as SMTP would bring them, and what the message itself says of its envelope."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import BinaryIO

from smtproute.core.address import Address, AddressError
from smtproute.core.author import author
from smtproute.core.message import fields, header_end
from smtproute.spool.queue import LARGEST_ROW

__all__ = ["Known", "Stored", "Unreadable", "helo_and_ip", "read", "reverse_path"]

_BARE_LF = re.compile(rb"(?<!\r)\n")
_FROM_CLIENT = re.compile(r"from\s+(\S+)\s+\([^()]*\[(?:IPv6:)?([0-9A-Fa-f:.]{2,45})\]")
"""The client in a Received field, as nearly all servers write it: what it said, then its address in brackets."""


class Unreadable(ValueError):
    """There is no message to be had from a file; the text says why."""


@dataclass(frozen=True, slots=True)
class Stored:
    message: bytes
    notes: tuple[str, ...]
    """What was done to the file to have the message."""


@dataclass(frozen=True, slots=True)
class Known:
    """Something of the envelope, and where it was found."""

    value: str
    where: str


def read(file: str, most: int) -> Stored:
    """The message in `file`, "-" for standard input, of `most` octets at most. Raises Unreadable."""
    try:
        content = _content(sys.stdin.buffer, most) if file == "-" else _content_of(Path(file), most)
    except OSError as error:
        raise Unreadable(f"it cannot be read: {(error.strerror or 'error').lower()}") from None
    if not content.strip():
        raise Unreadable("it is empty")
    notes = []
    if content.startswith(b"From "):
        content = content.partition(b"\n")[2]
        notes.append('its first line, "From ...", is that of an mbox file and was left out')
    bare = len(_BARE_LF.findall(content))
    if bare:
        content = _BARE_LF.sub(b"\r\n", content)
        notes.append(f"{bare} line ends that are LF are taken as CRLF, as SMTP has them")
    if not fields(content[:LARGEST_ROW]):
        raise Unreadable("it does not begin with a header field, so it is no message")
    if header_end(content) > LARGEST_ROW:
        raise Unreadable(f"its header section is larger than {LARGEST_ROW} octets, so this relay does not take it")
    return Stored(content, tuple(notes))


def _content_of(path: Path, most: int) -> bytes:
    """Raises OSError and Unreadable."""
    if path.is_dir():
        raise Unreadable("it is a folder, and not a message")
    if path.exists() and not path.is_file():  # a pipe without a writer would be waited for
        raise Unreadable("it is no regular file (what comes through a pipe is read where FILE is -)")
    with path.open("rb") as opened:
        return _content(opened, most)


def _content(opened: BinaryIO, most: int) -> bytes:
    content = opened.read(most + 1)
    if len(content) > most:
        raise Unreadable(f"it has more octets than this relay takes (limits.message_size, {most})")
    return content


def reverse_path(message: bytes) -> Known | None:
    """The sender of the envelope ("" is the null sender): what the last server wrote, or else who wrote the message."""
    for field in fields(message):
        if field.name == b"return-path":
            text = field.value(message).decode("utf-8", "replace").strip().removeprefix("<").removesuffix(">")
            try:
                return Known(str(Address.parse(text)) if text else "", "Return-Path")
            except AddressError:
                break
    addresses = author(message).addresses
    return Known(str(addresses[0]), "From, since there is no Return-Path") if addresses else None


def helo_and_ip(message: bytes) -> tuple[Known, Known] | None:
    """What the client said that it is, and its address, in the newest Received field with a client beyond loopback."""
    for field in fields(message):
        if field.name != b"received":
            continue
        found = _FROM_CLIENT.match(field.value(message)[:2000].decode("utf-8", "replace").strip())
        try:
            if found is not None and not ip_address(found[2]).is_loopback:
                return Known(found[1], "Received"), Known(found[2], "Received")
        except ValueError:
            continue
    return None
