"""Authentication-Results fields (RFC 8601): the ones that claim to be ours, the one that is, and those of others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from operator import contains

import idna

from smtproute.core.address import AddressError, Domain
from smtproute.core.message import Span, header_end
from smtproute.core.verdict import Verdict
from smtproute.mailauth.canonical import folded

__all__ = ["field", "forged", "read", "resinfo"]

_NAME = b"authentication-results"
_REST = re.compile(rb"[ \t]*:((?:[^\n]*\n[ \t])*[^\n]*(?:\n|\Z))")
_OUTSIDE = re.compile(r'(?P<open>\()|(?P<end>;)|"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>(?:[^(;"\\]|\\[^\r\n])+)', re.S)
_COMMENT = re.compile(r"(?P<open>\()|(?P<close>\))|(?P<text>(?:[^()\\]|\\.)+)", re.S)
_SPACE = re.compile(r"\s+")
_QUOTED_PAIR = re.compile(r"\\(.)", re.S)
_READ_FIELDS = 100
_READ_OCTETS = 400
_READ_RESULTS = 8 * 1024
_LONG_NAME = 64
"""Characters."""

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+"
_DOTTED = r"[A-Za-z0-9!#$%&'*+./=?^_`{|}~-]+"
_PVALUE = re.compile(rf'(?:(?:{_DOTTED}|"(?:[^"\\]|\\.)*")?@)?{_TOKEN}')
_NO_KEYWORD = re.compile(r"[^A-Za-z0-9._/-]")
_UNPRINTABLE = re.compile(r"[^ -~]")
_COMMENT_MARKS = str.maketrans("()\\;", "[]/,")
"""What ends a comment, or would look to simple readers as if a result ended there."""
_QUOTED_MARKS = str.maketrans({'"': '\\"', "\\": "\\\\"})
_LONGEST = 400
"""Characters of one value or reason that we write: with every one of them escaped a line still has under 998."""


def forged(message: bytes, authserv_id: str) -> tuple[Span, ...]:
    """Where the Authentication-Results fields stand that claim `authserv_id`, each with its CRLF; ascending.

    A border MTA removes them (RFC 8601 5). Whoever reads them later may read more loosely than the grammar, so this
    does too: case, folding, comments, quoted strings, a version, a trailing dot, U-labels for A-labels. A field that
    cannot be read claims us if it names us at all; and after the first hundred fields none is read, all go. Lines
    that are no header field do not end the search, because the next hop may skip them.
    """
    header = message[: header_end(message)]
    caseless = header.lower()
    ours = _Name(authserv_id)
    found: list[Span] = []
    read = 0
    at = 0
    while (start := caseless.find(_NAME, at)) >= 0:
        at = start + len(_NAME)
        if header[start - 1 : start] not in (b"", b"\n"):
            continue  # before anything is matched: in folding, every name would be followed to the end of the field
        rest = _REST.match(header, at)
        if rest is None:
            continue
        at = rest.end()
        read += 1
        if read > _READ_FIELDS or _claims(rest[1], ours):
            found.append((start, at))
    return tuple(found)


def field(authserv_id: str, verdicts: Sequence[Verdict]) -> bytes:
    """Our own Authentication-Results field, with CRLF."""
    return folded("Authentication-Results", resinfo(authserv_id, verdicts)) + b"\r\n"


def resinfo(authserv_id: str, verdicts: Sequence[Verdict]) -> list[str]:
    """The value of an Authentication-Results field in parts that each fit on a line: authserv-id, then each result.

    Whatever the texts hold, the parts are printable ASCII and keep to the grammar of RFC 8601 2.2.
    """
    named = _pvalue(authserv_id if authserv_id.isascii() else _key(authserv_id))
    *parts, last = [named, *(str(_safe(verdict)) for verdict in verdicts)] if verdicts else [named, "none"]
    return [f"{part};" for part in parts] + [last]


def _safe(verdict: Verdict) -> Verdict:
    reason = _UNPRINTABLE.sub("?", " ".join(verdict.reason.split()))[:_LONGEST].translate(_COMMENT_MARKS)
    return Verdict(
        _NO_KEYWORD.sub("", verdict.method),
        _NO_KEYWORD.sub("", verdict.result),
        tuple((_NO_KEYWORD.sub("", name), _pvalue(value)) for name, value in verdict.properties),
        reason,
    )


def _pvalue(text: str) -> str:
    text = _UNPRINTABLE.sub("?", text)[:_LONGEST]
    return text if _PVALUE.fullmatch(text) else f'"{text.translate(_QUOTED_MARKS)}"'


def _claims(value: bytes, ours: _Name) -> bool:
    """Whether somebody could read `ours` as the authserv-id of a field's value."""
    text = value.decode("utf-8", "replace")
    words, whole = next(_parts(text, _READ_OCTETS))
    if not whole:
        return ours.within("".join(text.replace("\\", "").lower().split()))
    # RFC 8601 2.2 lets a version follow; a looser reader joins what folding has torn, or cuts at a slash.
    readings = {words[0], "".join(words), "".join(words[:-1])} if words else set()
    return any(ours.said(part) for part in {part for each in readings for part in (each, each.partition("/")[0])})


class _Name:
    """Our authserv-id, in the forms in which others may write it."""

    def __init__(self, authserv_id: str) -> None:
        labels = _key(authserv_id).split(".")
        self._forms = [(label, _u_label(label)) for label in labels]

    def said(self, name: str) -> bool:
        """Whether `name` is ours: each label an A-label or a U-label.

        One outside of ASCII that is long is taken for ours, because to find out takes long too.
        """
        if not name.isascii():
            if len(name) > _LONG_NAME:
                return True
            try:
                name = idna.uts46_remap(name, std3_rules=False)
            except idna.IDNAError:
                return False
        labels = name.lower().removesuffix(".").split(".")
        return len(labels) == len(self._forms) and all(map(contains, self._forms, labels))

    def within(self, text: str) -> bool:
        """Whether a lower-case text has our name in it."""
        return any(".".join(form) in text for form in zip(*self._forms, strict=True))


def read(text: str) -> tuple[Verdict, ...]:
    """The results in such a field of another host, or of its ARC set, as far as they can be read; without comments.

    `text` begins with the authserv-id.
    """
    parts = [words for words, _ in _parts(text, _READ_RESULTS)]
    return tuple(found for part in parts[1:] if (found := _result(part)) is not None)


def _result(words: Sequence[str]) -> Verdict | None:
    """One resinfo; None where it is none, such as `none` or an authserv-id."""
    joined: list[str] = []
    for word in words:
        if joined and (word.startswith("=") or joined[-1].endswith("=")):
            joined[-1] += word
        else:
            joined.append(word)
    if not joined or "=" not in joined[0]:
        return None
    (method, result), *properties = [
        (name.lower(), value) for name, _, value in (each.partition("=") for each in joined)
    ]
    return Verdict(method.partition("/")[0], result.lower(), tuple(properties))


def _parts(text: str, most: int) -> Iterator[tuple[list[str], bool]]:
    """The words between semicolons, without comments and quotes, and whether they could be read to the semicolon.

    Of `text` no more than `most` characters are read; to the last words belongs whether that was its end.
    """
    words = [""]
    depth = at = 0
    while at < len(text):
        token = (_COMMENT if depth else _OUTSIDE).match(text, at, most)
        if token is None:
            break
        at = token.end()
        match token.lastgroup:
            case "open":
                depth += 1
                words.append("")
            case "close":
                depth -= 1
            case "quoted":
                words[-1] += _QUOTED_PAIR.sub(r"\1", token["quoted"])
            case "plain":
                rest, *others = _SPACE.split(_QUOTED_PAIR.sub(r"\1", token["plain"]))
                words[-1] += rest
                words += others
            case "end":
                yield [word for word in words if word], True
                words = [""]
    yield [word for word in words if word], at == len(text) and not depth


def _u_label(label: str) -> str:
    try:
        return idna.decode(label)
    except idna.IDNAError:
        return label


def _key(name: str) -> str:
    """A name in the form in which names are compared."""
    if len(name) <= 255:
        try:
            return Domain.parse(name).key
        except AddressError:
            pass
    return name.lower()
