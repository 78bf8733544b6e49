"""Author: whose address the header From names (RFC 5322 3.6.2)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from smtproute.core.address import Address, AddressError, Domain
from smtproute.core.message import fields, header_end

__all__ = ["Author", "author"]

MAX_FIELD = 8 * 1024
"""Octets of a From that is read; a real one has about one hundred."""
MAX_FIELDS = 10
"""From fields that are read, where there should be one."""
MAX_DOMAINS = 10
"""Domains of authors, where there should be one."""

_LONGEST = 200
"""Characters of a fault, which may quote the From."""
_OUTSIDE = re.compile(
    r"(?P<space>\s+)|(?P<open>\()|(?P<mark>[<>,:;@])|"
    r'(?P<text>(?:\[IPv6:[0-9A-Fa-f:.]*\]|[^\s"(<>,:;@]|"(?:[^"\\]|\\.)*")+)',
    re.S,
)
_COMMENT = re.compile(r"(?P<open>\()|(?P<close>\))|(?P<text>(?:[^()\\]|\\.)+)", re.S)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.S)
_BELOW = re.compile(rb"^from[ \t]*:", re.I | re.M)
_MBOX = re.compile(rb">?From [^\r\n]*\r\n")
_ATOM = r"""[^\s()<>@,;:\\".'\[\]]+"""
_LOOSE = re.compile(rf"""@\s*({_ATOM}(?:\s*\.\s*{_ATOM})*)\.?(?=[\s>,;'")]|\Z)""")


@dataclass(frozen=True, slots=True)
class Author:
    """The addresses that a message's From names, and why they are not those of one author; "" where they are."""

    addresses: tuple[Address, ...] = ()
    fault: str = ""
    others: tuple[Domain, ...] = ()
    """What stands behind each @ of a From that cannot be read."""
    hidden: bool = False
    """There is an address that we do not read, and mail programs may: so nobody can say whose mail it is."""

    @property
    def domains(self) -> tuple[Domain, ...]:
        """All domains that may be the author's, each once."""
        return tuple(dict.fromkeys((*(address.domain for address in self.addresses), *self.others)))

    @property
    def domain(self) -> Domain | None:
        """The one domain of the author; None where there is a fault."""
        return None if self.fault else self.addresses[0].domain


def author(message: bytes) -> Author:
    """Whom the header From names: one field with addresses of one domain, or a fault.

    A display name is not looked into: lists and ticket systems write the author's address there, often without the
    quotes that it needs. Obsolete syntax (RFC 5322 4.4) is read. Of what is malformed, each domain behind an @ may be
    the author's. An author is hidden where there is an @ and no domain, among too many fields or domains, and below a
    line that is no header field: there our header section ends, but mail programs go on. The line of an mbox file above
    all others is skipped.
    """
    mbox = _MBOX.match(message)
    message = message[mbox.end() :] if mbox is not None else message
    header = fields(message)
    found = [each for each in header if each.name == b"from"]
    end = header[-1].end if header else 0
    addresses: list[Address] = []
    others: list[Domain] = []
    faults = [f"it has {len(found)} From fields"] if len(found) > 1 else []
    hidden: list[str] = []
    if _BELOW.search(message[end : header_end(message)]) is not None:
        hidden.append("it has a From below a line that is no header field")
    for number, each in enumerate(found, 1):
        value = each.value(message)
        if number > MAX_FIELDS or len(value) > MAX_FIELD:
            why = f"one of more than {MAX_FIELDS}" if number > MAX_FIELDS else f"longer than {MAX_FIELD} octets"
            (hidden if b"@" in value else faults).append(f"its From cannot be read: it is {why}")
            continue
        text = value.decode("utf-8", "replace")
        named, fault = _read(text)
        addresses += named
        loose = [] if named else _loose(text)
        if loose is None:
            hidden.append(fault or "its From has an @, and names no address")
        elif fault or loose:
            faults.append(fault or "its From has an @, and names no address")
            others += loose
    domains = {*(address.domain for address in addresses), *others}
    if len(domains) > MAX_DOMAINS:
        hidden.append(f"its From names more than {MAX_DOMAINS} domains")
    if not found:
        faults.append("it has no From field")
    elif not domains:
        faults.append("its From names no address")
    elif len(domains) > 1:
        faults.append("its From names several domains")
    return Author(tuple(addresses), next(iter(hidden + faults), ""), tuple(dict.fromkeys(others)), bool(hidden))


def _read(text: str) -> tuple[list[Address], str]:
    """The addresses of one From, or why it cannot be read."""
    try:
        return _addresses(_tokens(text)), ""
    except AddressError as error:
        return [], f"its From cannot be read: {error}"[:_LONGEST]


def _loose(text: str) -> list[Domain] | None:
    """What stands behind each @; None where that is no domain."""
    found = [re.sub(r"\s", "", each) for each in _LOOSE.findall(text)]
    if len(found) < text.count("@"):
        return None
    try:
        return [Domain.parse(each) for each in found]
    except AddressError:
        return None


def _tokens(text: str) -> list[str]:
    """Words as they stand, and the marks between them; comments are left out. Raises AddressError."""
    tokens: list[str] = []
    depth = at = 0
    while at < len(text):
        token = (_COMMENT if depth else _OUTSIDE).match(text, at)
        if token is None:
            raise AddressError("something in quotes or in a comment does not end")
        at = token.end()
        match token.lastgroup:
            case "open":
                depth += 1
            case "close":
                depth -= 1
            case "text" | "mark" if not depth:
                tokens.append(token[0])
    if depth:
        raise AddressError("a comment does not end")
    return tokens


def _addresses(tokens: Sequence[str]) -> list[Address]:
    """Raises AddressError."""
    found: list[Address] = []
    words: list[str] = []
    bracketed: list[str] | None = None
    inside = False
    for token in (*tokens, ","):
        if inside and bracketed is not None and token not in "<>;":
            bracketed.append(token)
        elif inside and token == ">":
            inside = False
        elif inside or token == ">" or (bracketed is not None and token not in ",;"):
            raise AddressError("the brackets are in disorder")
        elif token == "<":
            bracketed, inside = [], True
        elif token == ":":  # it ends the name of a group
            words = []
        elif token in ",;":
            if bracketed is not None:
                found.append(_address(_unrouted(bracketed)))
            elif "@" in words:
                found.append(_address(words))
            words, bracketed = [], None
        else:
            words.append(token)
    if inside:
        raise AddressError("the brackets are in disorder")
    return found


def _unrouted(tokens: list[str]) -> list[str]:
    """Without the source route, which is ignored (RFC 5322 4.4)."""
    return tokens[tokens.index(":") + 1 :] if tokens[:1] in (["@"], [","]) and ":" in tokens else tokens


def _address(tokens: Sequence[str]) -> Address:
    """Of an address's words; dots may stand where they should not, as in some that providers gave out.

    Raises AddressError.
    """
    at = tokens.index("@") if "@" in tokens else len(tokens)
    local, domain = _joined(tokens[:at]), _joined(tokens[at + 1 :])
    if not local or at == len(tokens):
        raise AddressError(f"{' '.join(tokens)!r} is no address: it needs a local part, @ and a domain")
    local = _QUOTED.sub(lambda quoted: re.sub(r"\\(.)", r"\1", quoted[1]), local)
    quoted = re.sub(r'(["\\])', r"\\\1", local)
    return Address.parse(f'"{quoted}"@{domain}')


def _joined(words: Sequence[str]) -> str:
    """One word, with what blanks and comments around dots have parted from it. Raises AddressError for more."""
    joined = ""
    for word in words:
        if word in ",:@" or (joined and not joined.endswith(".") and not word.startswith(".")):
            raise AddressError(f"{' '.join(words)!r} is no part of an address")
        joined += word
    return joined
