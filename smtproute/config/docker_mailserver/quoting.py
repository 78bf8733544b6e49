"""Quoting: how much findings show of lines that may hold a password or a hash, wherever in the line that has got to."""

from __future__ import annotations

import re

__all__ = ["head", "key", "nexthop"]


def head(text: str) -> str:
    """What stands before the first sign that may part a name from a secret: `|`, `{`, `:`, `$` or white space."""
    return re.split(r"[|{:$=\s\0\"'\\]", text.strip(), maxsplit=1)[0]


def key(written: str) -> str:
    """The key of a table of credentials: an address, a domain or a next hop, and of anything else the head."""
    if re.fullmatch(r"\[[^]|{:$\s]*\](:([0-9]{1,5}|smtps?|submissions?))?", written, re.IGNORECASE):
        return written
    shown = head(written)
    return shown if shown == written and re.search(r"[@.]", shown) else f"{shown if shown != written else ''}..."


def nexthop(written: str) -> str:
    """A next hop, or several, without what may be the password of a URL: `smtp://user:password@host`."""
    return " ".join(map(_hop, written.split()))


def _hop(written: str) -> str:
    secret = "@" in written or re.fullmatch(r"[^][:/]+:(?!(?:[0-9]+|smtps?|submissions?)$)[^]:/]*", written)
    return f"{head(written)}..." if secret else written
