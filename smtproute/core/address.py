"""Address and Domain: what a mailbox name is once it has come through the door as text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address

import idna

__all__ = ["Address", "AddressError", "Domain", "written_ip"]

MAX_ADDRESS = 320
"""Octets of a whole address: 64 + "@" + 255 (RFC 5321 4.5.3.1)."""
MAX_DOMAIN, MAX_LABEL = 253, 63
"""Octets of a domain as text, and of one of its labels (RFC 1035 2.3.4). A U-label is never longer than its A-label."""
MAX_LOCAL = 255
"""Octets of a local part. RFC 5321 says 64; SRS and VERP senders are longer, and Postfix lets them be."""

_UNFIT = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""Controls, and of the rest of UTF-8, all of which RFC 6531 3.3 takes, what `transcript.legible` escapes: no mailbox
needs it, and it lies."""
_ATEXT = rf'[^ "(),.:;<>@\[\\\]{_UNFIT}]'
_DOT_STRING = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*")
_QUOTED = re.compile(rf'"(?:[^"\\{_UNFIT}]|\\[ -~])*"')
_SIGNS = rf" -,./:-@\[-^`{{-~{_UNFIT}"
"""What is neither letter nor digit nor underscore nor hyphen."""
_LABEL = re.compile(rf"[^\-{_SIGNS}](?:[^{_SIGNS}]*[^\-{_SIGNS}])?")
_LITERAL = re.compile(r"\[(?:\d{1,3}(?:\.\d{1,3}){3}|IPv6:[0-9A-Fa-f:.]{2,45})\]")
_QUOTE_OUT = re.compile(r'(["\\])')


class AddressError(ValueError):
    """A text is no address or no domain; the message says why, fit to be shown to whoever wrote it."""


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain as written (`text`), and the form in which domains are compared: lower-case A-labels (`key`)."""

    key: str
    text: str = field(compare=False)

    @classmethod
    def parse(cls, text: str) -> Domain:
        """A domain name or an address literal (RFC 5321 4.1.2, 4.1.3); one trailing dot is dropped.

        Raises AddressError.
        """
        return _parse_domain(text)

    @property
    def literal(self) -> bool:
        """Whether it is an address literal, `[192.0.2.1]`."""
        return self.key.startswith("[")

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=4096)
def _parse_domain(text: str) -> Domain:
    if text.startswith("["):
        if _LITERAL.fullmatch(text) is None:
            raise AddressError(f"{text!r} is no address literal")
        return Domain(text.lower(), text)
    text = text.removesuffix(".")
    if not text:
        raise AddressError("the domain is empty")
    for label in text.split("."):
        if _LABEL.fullmatch(label) is None:
            raise AddressError(f"{text!r} is no domain name")
    if text.isascii():
        key = text.lower()
    else:
        try:
            key = idna.uts46_remap(text, std3_rules=False)
            _check_length(key)  # before it is encoded, which is quadratic in a label
            key = idna.encode(key).decode("ascii")
        except idna.IDNAError as error:
            raise AddressError(f"{text!r} is no domain name: {error}") from None
    _check_length(key)
    return Domain(key, text)


def _check_length(name: str) -> None:
    """Raises AddressError."""
    if len(name) > MAX_DOMAIN or any(len(label) > MAX_LABEL for label in name.split(".")):
        raise AddressError(f"{name!r} is too long for a domain name")


def written_ip(host: str) -> str | None:
    """The IP address that stands where a host name is expected, in its usual form; None where it is none."""
    try:
        return str(ip_address(host))
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Address:
    """`local@domain`. `local` is held without quotes; `str()` puts them back where the grammar wants them.

    The local part keeps its case, because the next hop gets the address unchanged; look-ups go by `key`.
    """

    local: str
    domain: Domain

    @classmethod
    def parse(cls, text: str) -> Address:
        """A Mailbox of RFC 5321 4.1.2, without angle brackets. Raises AddressError."""
        local, at, domain = text.rpartition("@")
        if not at or not local:
            raise AddressError(f"{text!r} is no address: it needs a local part, @ and a domain")
        if local.startswith('"'):
            if _QUOTED.fullmatch(local) is None:
                raise AddressError(f"{text!r} is no address: its quoted local part is malformed")
            local = re.sub(r"\\(.)", r"\1", local[1:-1])
        elif _DOT_STRING.fullmatch(local) is None:
            raise AddressError(f"{text!r} is no address: its local part is malformed")
        if len(text.encode("utf-8", "surrogatepass")) > MAX_ADDRESS or len(local) > MAX_LOCAL:
            raise AddressError("the address is too long")
        return cls(local, Domain.parse(domain))

    @property
    def key(self) -> str:
        """The whole address in the form in which addresses are compared: lower-case (Postfix tables fold case)."""
        return f"{self.local.lower()}@{self.domain.key}"

    @property
    def ascii(self) -> bool:
        """Whether it can be sent without SMTPUTF8 (RFC 6531)."""
        return self.local.isascii() and self.domain.text.isascii()

    def split_detail(self, delimiter: str) -> tuple[str, str]:
        """The local part without its `+detail`, and the detail with its delimiter ("" where there is none).

        As Postfix split_addr(3): at the first of the characters in `delimiter`, unless that begins the local part;
        `postmaster`, `mailer-daemon` and `double-bounce` are never split, nor `owner-x` and `x-request` where "-"
        delimits.
        """
        name = self.local.lower()
        if not delimiter or name in _NEVER_SPLIT:
            return self.local, ""
        if "-" in delimiter and (name.startswith("owner-") or name.endswith("-request")):
            return self.local, ""
        found = [at for each in delimiter if (at := self.local.find(each)) >= 0]
        if 0 in found:  # its user would be empty
            return self.local, ""
        return (self.local[: min(found)], self.local[min(found) :]) if found else (self.local, "")

    def without_detail(self, delimiter: str) -> Address | None:
        """The same address without its `+detail`; None where it has none."""
        local, detail = self.split_detail(delimiter)
        return Address(local, self.domain) if detail else None

    @property
    def quoted_local(self) -> str:
        """The local part as it is written: with quotes where the grammar wants them."""
        if _DOT_STRING.fullmatch(self.local) is not None:
            return self.local
        return '"' + _QUOTE_OUT.sub(r"\\\1", self.local) + '"'

    def __str__(self) -> str:
        return f"{self.quoted_local}@{self.domain.text}"


_NEVER_SPLIT = frozenset({"postmaster", "mailer-daemon", "double-bounce"})
