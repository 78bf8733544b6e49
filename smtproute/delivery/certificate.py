"""Certificate: what a server's certificate says of itself, whether anybody trusts it or not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID

__all__ = ["DAY", "Certificate", "read"]

DAY = 86400.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Certificate:
    names: tuple[str, ...]
    """Host names and IP addresses that it is good for; of one without them, its common name."""
    issuer: str
    """As RFC 4514 writes it: "CN=R11,O=Let's Encrypt,C=US"."""
    expires: float
    """Seconds since the epoch."""
    refused: str = ""
    """Why verification refuses it; empty where it does not, or where nothing is verified."""

    def days(self, now: float) -> int:
        """Whole days that are left; negative once it has expired."""
        return int((self.expires - now) // DAY)

    def told(self, now: float) -> str:
        """In a line: for whom, by whom, until when."""
        until = datetime.fromtimestamp(self.expires, UTC).strftime("%Y-%m-%d")
        left = self.days(now)
        life = f"until {until} ({_days(left)} left)" if left >= 0 else f"expired on {until}"
        return f"for {', '.join(self.names) or 'nobody'} by {self.issuer or 'nobody'}, {life}"


def _days(number: int) -> str:
    return f"{number} day{'' if number == 1 else 's'}"


def read(der: bytes, refused: str = "") -> Certificate | None:
    """None for what is no certificate that can be read."""
    try:
        found = x509.load_der_x509_certificate(der)
        names = _names(found)
        issuer = found.issuer.rfc4514_string()
        expires = found.not_valid_after_utc.timestamp()
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return None
    return Certificate(names, issuer, expires, refused)


def _names(found: x509.Certificate) -> tuple[str, ...]:
    """By RFC 6125 6.4.4 the common name counts only where there is no name that says what it is."""
    try:
        named = found.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    except x509.ExtensionNotFound:
        named = None
    if isinstance(named, x509.SubjectAlternativeName):
        hosts = named.get_values_for_type(x509.DNSName)
        return (*hosts, *map(str, named.get_values_for_type(x509.IPAddress)))
    common = _common_name(found.subject)
    return (common,) if common else ()


def _common_name(name: x509.Name) -> str:
    return next((str(each.value) for each in name.get_attributes_for_oid(NameOID.COMMON_NAME)), "")
