"""A message opened for its signatures: its header fields, and what signatures are made over (RFC 6376 3.7)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from hashlib import sha256
from threading import Lock
from typing import TypeVar

from smtproute.core.message import Field, fields, header_end
from smtproute.core.settings import Authentication
from smtproute.mailauth.canonical import relaxed_field, relaxed_slices, simple_field, simple_slices, without_signature

__all__ = ["FORMS", "Header", "looked", "message_digest", "opened"]

_SMALL = 8 * 1024
"""Octets of a header section that is read where it is: the way to the pool and back takes longer. In a larger one
something hostile takes a millisecond for each 1024."""

_FIELD_FORMS = {b"relaxed": relaxed_field, b"simple": simple_field}
_BODY_FORMS = {b"relaxed": relaxed_slices, b"simple": simple_slices}
FORMS = _FIELD_FORMS.keys() & _BODY_FORMS.keys()
"""The canonical forms that there are, by their names in c=."""

Seen = TypeVar("Seen")


class Header:
    """A message taken apart: its fields, and where its body starts.

    What signatures have in common is worked out once: the canonical fields, and the hash of the body. Threads may
    share it. CPU bound.
    """

    def __init__(
        self, message: bytes, fields: tuple[Field, ...], body: int, fault: str = "", *, ends: bool = True
    ) -> None:
        self.message = message
        self.fields = fields
        self.body = body
        self.fault = fault
        """Why the header section is not looked into; there are no fields then."""
        self._ends = ends
        self._raw: dict[bytes, list[bytes]] = defaultdict(list)
        for field in fields:
            self._raw[field.name].append(field.raw(message))
        self._canonical: dict[bytes, dict[bytes, bytes]] = {form: {} for form in _FIELD_FORMS}
        self._bodies: dict[bytes, tuple[int, bytes]] = {}
        self._hashing = Lock()

    def mentions(self, *names: bytes) -> bool:
        """Whether it has a field of one of these names (lower-case), or may have, where it is not looked into."""
        if not self._ends:
            return True
        if not self.fault:
            return any(name in self._raw for name in names)
        text = b"\n" + self.message[: self.body].lower()
        return any(b"\n" + name in text for name in names)

    def count(self, name: bytes) -> int:
        """How many fields have this name (lower-case)."""
        return len(self._raw.get(name, ()))

    def others(self, name: bytes, signature: bytes) -> list[bytes]:
        """The fields of a name, as they stand and in order, without `signature` itself."""
        return [raw for raw in self._raw.get(name, ()) if raw != signature]

    def canonical(self, raw: bytes, form: bytes) -> bytes:
        """A field in canonical form."""
        known = self._canonical[form]
        if raw not in known:
            known[raw] = _FIELD_FORMS[form](raw)
        return known[raw]

    def body_hash(self, form: bytes) -> tuple[int, bytes]:
        """The length of the body in canonical form, and its SHA-256 digest."""
        with self._hashing:
            if form not in self._bodies:
                length, digest = 0, sha256()
                for part in _BODY_FORMS[form](self.message, self.body):
                    length += len(part)
                    digest.update(part)
                self._bodies[form] = length, digest.digest()
            return self._bodies[form]


async def looked(message: bytes, pool: Executor, look: Callable[[bytes], Seen]) -> Seen:
    """What `look` sees in the header section of a message; in `pool`, unless that is small."""
    if header_end(message[:_SMALL]) < _SMALL:
        return look(message)
    return await asyncio.get_running_loop().run_in_executor(pool, look, message)


def opened(message: bytes, bounds: Authentication) -> Header:
    """The message, taken apart as far as `bounds` let us look into its header section. CPU bound."""
    # Of a larger header section no more is looked at than that.
    end = header_end(message[: bounds.header_size + 4])
    fault = ""
    found: tuple[Field, ...] = ()
    if end > bounds.header_size:
        fault = f"the header section has more than {bounds.header_size} octets"
    elif message.count(b"\r\n", 0, end) > bounds.header_lines:
        fault = f"the header section has more than {bounds.header_lines} lines"
    else:
        found = fields(message)
        if (found[-1].end if found else 0) < end:
            fault = "malformed header section: it has a line that is no header field"
    return Header(message, () if fault else found, end + 2, fault, ends=end <= bounds.header_size)


def message_digest(header: Header, names: Sequence[bytes], signature: bytes, form: bytes = b"relaxed") -> bytes:
    """The SHA-256 digest that a DKIM-Signature or ARC-Message-Signature signs (RFC 6376 3.7).

    `names` are those of h=, lower-case; several of one name take the fields from the bottom up (5.4.2), one without
    a field is null. `signature` is the field itself as it stands, with or without its b=.
    """
    left: dict[bytes, list[bytes]] = {}
    signed = []
    for name in names:
        if name not in left:
            left[name] = header.others(name, signature)
        if left[name]:
            signed.append(header.canonical(left[name].pop(), form))
    signed.append(_FIELD_FORMS[form](without_signature(signature)).removesuffix(b"\r\n"))
    return sha256(b"".join(signed)).digest()
