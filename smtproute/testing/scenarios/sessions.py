"""Sessions: what was said on a stage, without what is different each time: one scenario, one text.

That holds for messages that are waited for: which of several that are under way at once share a connection is chance.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from smtproute.core.transcript import Arrow, Line
from smtproute.testing.upstream import Upstream

__all__ = ["dialogues", "masked"]

_MASKS = (
    (re.compile(r"\b[0-9A-HJKMNP-TV-Z]{15}\b"), "QUEUE-ID"),
    (re.compile(r"\b[0-9a-f]{16}\b"), "TOKEN"),
    (re.compile(r"(127\.0\.0\.1|\[::1\]):\d+"), r"\1:PORT"),
    (re.compile(r"(?i)\bSRS0=[^=]+=[^=]+="), "SRS0=HASH=TIME="),
)
"""What comes of the clock, of the order in which things happen at once, or of the machine."""


def masked(lines: Iterable[Line]) -> str:
    """The lines of one session, without their times, and without the notes: what the two sides said."""
    said = [f"{line.arrow} {line.text}" for line in lines if line.arrow is not Arrow.NOTE]
    text = "\n".join(said)
    for pattern, mask in _MASKS:
        text = pattern.sub(mask, text)
    return text


def dialogues(clients: Sequence[Sequence[Line]], servers: Mapping[str, Sequence[Upstream]]) -> str:
    """Every session: those of clients in the order in which they came, those of each server in order of their text,
    since which of two connections was there first is chance."""
    parts = [f"client {number}\n{masked(lines)}" for number, lines in enumerate(clients, 1)]
    for host, standing in sorted(servers.items()):
        said = sorted(masked(session.transcript) for each in standing for session in each.sessions)
        parts += [f"server {host}\n{text}" for text in said]
    return "\n\n".join(parts)
