"""What befalls the header of a message on its way: known changes, each with the fields as they were before.

Changes that lists, filters and gateways make come together, so they are undone together too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, islice

from smtproute.core.message import Field
from smtproute.mailauth.body_changes import quoted

__all__ = ["Trial", "copied", "trials"]

_LONGEST = 998
"""Octets of a field whose text is taken apart."""
_PIECES = 30
"""Words at either end of a Subject that may have been put in; and guesses at what From was."""
_COMMON = 40
_OTHERS = 400

_WORD = re.compile(rb"[^ \t\r\n]+[ \t\r\n]*")
_MARK = re.compile(rb"\[[^\]\r\n]{1,100}\][ \t]*|[*]{3,5}[A-Z ]{1,30}[*]{3,5}[ \t]*|\b[A-Z]{4,12}:[ \t]*")
"""What lists and filters put into a Subject: [List], ***SPAM***, EXTERNAL:."""
_MAILBOX = re.compile(rb'(?:"?([^"<>]{0,200})"?[ \t]*<)?([^<>\s",]{1,250}@[^<>\s",]{1,250})>?')
_VIA = re.compile(rb"(?i)[ \t]via[ \t].*", re.S)
_QUOTED_PARAMETER = re.compile(rb'="([A-Za-z0-9._-]+)"')
_PLAIN_PARAMETER = re.compile(rb"=([A-Za-z0-9._-]+)")
_APPLE_MAIL = re.compile(rb"Apple Mail \(\d+\.([0-9.]+)\)")
_APPLE_RELEASES = {
    b"7.3": (),
    b"8.2": (),
    b"9.3": (),
    b"10.3": (b"3273",),
    b"11.5": (b"3445.9.1", b"3445.9.5"),
    b"12.4": (b"3445.104.8", b"3445.104.11", b"3445.104.15", b"3445.104.21"),
    b"13.4": (b"3608.80.23.2.2", b"3608.120.23.2.1", b"3608.120.23.2.4", b"3608.120.23.2.6", b"3608.120.23.2.7"),
    b"14.0": (b"3654.40.0.2.32", b"3654.60.0.2.21", b"3654.100.0.2.22", b"3654.120.0.1.13"),
    b"15.0": (b"3681.0.2.1.2", b"3693.20.0.1.32", b"3693.40.0.1.81", b"3693.60.0.1.1"),
    b"16.0": (
        *(b"3696.100.31", b"3696.120.41.1.1", b"3731.200.110.1.12", b"3731.400.51.1.1", b"3731.500.231"),
        *(b"3731.600.7", b"3731.700.6.1.21", b"3774.400.31", b"3774.600.62", b"3776.700.51", b"3818.100.11.1.3"),
        *(b"3826.300.87.4.3", b"3826.400.131.1.6", b"3826.500.181.1.5", b"3826.600.51.1.1", b"3826.700.81"),
        *(b"3864.200.81.1.6", b"3864.400.12"),
    ),
}
"""Of Apple Mail, each with the builds that are met in mail."""
_LIST = (b"reply-to", b"sender", b"list-", b"cc", b"errors-to", b"mail-followup-to")
"""How the names begin of fields that a list adds."""
_ORIGINALS = (b"x-original-from", b"original-from", b"reply-to", b"cc", b"x-original-sender")
"""Where a list that writes itself into From leaves the author."""
_ENCODINGS = (b"7bit", b"8bit", b"quoted-printable", b"base64")
_USUAL = {
    b"mime-version": (b"1.0",),
    b"content-transfer-encoding": _ENCODINGS,
    b"content-type": (b"text/plain", b"text/plain; charset=us-ascii", b"text/plain; charset=utf-8"),
}
"""What can be put back where it is gone, because nearly all mail has it alike."""
_SPELLINGS = {b"mime-version": b"Mime-Version", b"message-id": b"Message-Id", b"cc": b"Cc"}
_HEX = re.compile(rb"=([0-9A-F]{2})")


@dataclass(frozen=True, slots=True)
class Trial:
    """The signed fields as they may have been, and what then happened to them, in sentences."""

    section: bytes
    said: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Change:
    """What happened to the signed field number `at`, and what stood in its place before; nothing: it was put in."""

    at: int
    was: bytes
    said: str


def trials(message: bytes, found: Sequence[Field], signed: Sequence[Field], names: Sequence[bytes]) -> Iterator[Trial]:
    """The likelier first. `found` are the fields of the message, `signed` those of them that h= names (`names`)."""
    raws = [each.raw(message) for each in signed]
    common = list(islice(_common(message, found, signed), _COMMON))
    changes = [*common, *islice(_others(message, signed, names), _OTHERS)]
    yield from (_undone(raws, (change,)) for change in changes)
    yield from _reordered(raws, signed)
    yield from _written_otherwise(raws)
    for several in chain(combinations(common, 2), combinations(common, 3)):
        if len({change.at for change in several}) == len(several):
            yield _undone(raws, several)


def copied(message: bytes, found: Sequence[Field], copies: bytes) -> tuple[str, ...]:
    """What differs from the copies that the signer made of the fields (z=, RFC 6376 3.5)."""
    said = []
    then: dict[bytes, list[bytes]] = {}
    for copy in b"".join(copies.split()).split(b"|"):
        name, colon, value = copy.partition(b":")
        if colon:
            then.setdefault(name.lower(), []).append(_HEX.sub(lambda octet: bytes.fromhex(octet[1].decode()), value))
    for name, values in then.items():
        now = [_text(each.value(message)) for each in found if each.name == name]
        for value in values:
            if _text(value) in now:
                now.remove(_text(value))
            elif now:
                said.append(f"{_title(name)} was changed: it was {quoted(value)}, and is {quoted(now.pop())}.")
            else:
                said.append(f"{_title(name)} was removed: it was {quoted(value)}.")
        said += [f"A {_title(name)} was added: {quoted(value)}." for value in now]
    return tuple(said)


def _undone(raws: Sequence[bytes], changes: Sequence[_Change]) -> Trial:
    slots = [*raws, b""]
    for change in changes:
        slots[change.at] = change.was
    return Trial(b"".join(slots), tuple(change.said for change in changes))


def _common(message: bytes, found: Sequence[Field], signed: Sequence[Field]) -> Iterator[_Change]:
    """What a list does: a mark in the Subject, its own address in From, fields of its own."""
    for at, each in enumerate(signed):
        raw = each.raw(message)
        if each.name == b"subject":
            for mark in _MARK.finditer(raw[:_LONGEST]):
                said = f"{quoted(mark[0])} was put into the Subject."
                yield _Change(at, raw[: mark.start()] + raw[mark.end() :], said)
        elif each.name == b"from":
            for author in dict.fromkeys(islice(_authors(message, found, each.value(message)), _PIECES)):
                said = f"From was changed: it was {quoted(author)}, and is {quoted(each.value(message))}."
                yield _Change(at, b"From: " + author + b"\r\n", said)
        elif each.name.startswith(_LIST):
            yield _added(message, at, each)


def _added(message: bytes, at: int, field: Field) -> _Change:
    return _Change(at, b"", f"A {_title(field.name)} was added: {quoted(field.value(message))}.")


def _authors(message: bytes, found: Sequence[Field], now: bytes) -> Iterator[bytes]:
    """What From may have been before a list wrote `Name via List <list@...>` into it."""
    display = _MAILBOX.search(now[:_LONGEST])
    shown = _VIA.sub(b"", display[1] or b"").strip(b" \t'") if display is not None else b""
    for name in _ORIGINALS:
        for each in found:
            if each.name != name:
                continue
            value = each.value(message)[:_LONGEST].strip()
            yield value
            for mailbox in list(_MAILBOX.finditer(value))[-2:]:
                address = mailbox[2]
                yield from (address, b"<" + address + b">")
                for person in dict.fromkeys(((mailbox[1] or b"").strip(), shown)):
                    if person:
                        yield from (person + b" <" + address + b">", b'"' + person + b'" <' + address + b">")


def _others(message: bytes, signed: Sequence[Field], names: Sequence[bytes]) -> Iterator[_Change]:
    """What relays and gateways do to one field."""
    for at, each in enumerate(signed):
        if not each.name.startswith(_LIST):
            yield _added(message, at, each)
        raw, value = each.raw(message), each.value(message)
        if len(raw) > _LONGEST:
            continue
        written = raw[: each.value_start - each.start]
        if each.name == b"subject":
            yield from _pieces(at, raw)
        was: list[bytes] = []
        if each.name == b"mime-version":
            was = [b"1.0 (1.0)", *_apple(message)]
        elif each.name == b"content-transfer-encoding":
            was = [encoding for encoding in _ENCODINGS if encoding != value.strip().lower()]
        elif each.name == b"content-type":
            was = [_QUOTED_PARAMETER.sub(rb"=\1", value).strip(), _PLAIN_PARAMETER.sub(rb'="\1"', value).strip()]
        for text in was:
            said = f"{_title(each.name)} was changed: it was {quoted(text)}, and is {quoted(value)}."
            yield _Change(at, written + b" " + text + b"\r\n", said)
    there = {each.name for each in signed}
    for name, texts in _USUAL.items():
        if name in names and name not in there:
            for text in texts:
                said = f"{_title(name)} was removed: it was {quoted(text)}."
                yield _Change(len(signed), _title(name).encode() + b": " + text + b"\r\n", said)


def _pieces(at: int, raw: bytes) -> Iterator[_Change]:
    """The Subject without some of its first words, or some of its last."""
    words = list(_WORD.finditer(raw, raw.find(b":") + 1))
    for word in words[1 : _PIECES + 1]:
        said = f"{quoted(raw[words[0].start() : word.start()])} was put in front of the Subject."
        yield _Change(at, raw[: words[0].start()] + raw[word.start() :], said)
    for word in words[-1:-_PIECES:-1]:
        said = f"{quoted(raw[word.start() :])} was put behind the Subject."
        yield _Change(at, raw[: word.start()].rstrip() + b"\r\n", said)


def _apple(message: bytes) -> Iterator[bytes]:
    """The comment that Apple Mail puts into Mime-Version, which docker-mailserver's smtp_header_checks remove.

    They remove X-Mailer too, which names the build: without it those that are known are tried.
    """
    named = _APPLE_MAIL.search(message[:65536])
    for release, known in _APPLE_RELEASES.items():
        for build in known if named is None else (named[1],):
            yield b"1.0 (Mac OS X Mail " + release + rb" \(" + build + rb"\))"


def _reordered(raws: Sequence[bytes], signed: Sequence[Field]) -> Iterator[Trial]:
    """Fields of one name the other way round."""
    for name in dict.fromkeys(each.name for each in signed):
        places = [at for at, each in enumerate(signed) if each.name == name]
        if len(places) > 1:
            turned = list(raws)
            for at, other in zip(places, reversed(places), strict=True):
                turned[at] = raws[other]
            yield Trial(b"".join(turned), (f"The {_title(name)} fields changed their order.",))


def _written_otherwise(raws: Sequence[bytes]) -> Iterator[Trial]:
    """Fields with other folding, white space or capitals, most of which only simple canonicalization sees."""
    forms: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
        ("was folded", lambda raw: raw.replace(b"\r\n", b"") + b"\r\n"),
        ("was folded with a space, not a tab", lambda raw: raw.replace(b"\r\n ", b"\r\n\t")),
        ("was folded with a tab, not a space", lambda raw: raw.replace(b"\r\n\t", b"\r\n ")),
        ("got a space after the colon", lambda raw: raw.replace(b": ", b":", 1)),
        ("lost the space after the colon", lambda raw: raw.replace(b":", b": ", 1)),
        ("got other capitals in its name", _spelt),
        ("got white space at its end", lambda raw: raw.rstrip() + b"\r\n"),
        ("was broken within a word", lambda raw: raw.replace(b"\r\n ", b"")),
    )
    for said, undone in forms:
        before = [undone(raw) for raw in raws]
        changed = [at for at, raw in enumerate(raws) if raw != before[at]]
        for at in changed:
            name = raws[at].partition(b":")[0].decode("ascii", "replace")
            yield Trial(b"".join((*raws[:at], before[at], *raws[at + 1 :])), (f"{name} {said}.",))
        if len(changed) > 1:
            yield Trial(b"".join(before), (f"Every field {said}, or some did.",))


def _spelt(raw: bytes) -> bytes:
    name, colon, value = raw.partition(b":")
    usual = _title(name.lower()).encode("ascii")
    return (_SPELLINGS.get(name.lower(), usual) if name == usual else usual) + colon + value


def _title(name: bytes) -> str:
    """A field's name as it is usually written."""
    usual = {b"mime-version": "MIME-Version", b"message-id": "Message-ID"}.get(name)
    return usual or name.decode("ascii", "replace").title()


def _text(value: bytes) -> bytes:
    return b" ".join(value.split())
