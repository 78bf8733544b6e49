"""Certificates for servers of a test: sound ones, and ones with a fault, by an authority that is made for it."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import assert_never

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from smtproute.core.address import Domain, written_ip

__all__ = ["Authority", "CertificateFault"]

_DAY = timedelta(days=1)
_LIFETIME = 365 * _DAY
"""Some clients refuse a server's certificate that is valid for more than 825 days."""
_ELSEWHERE = "elsewhere.invalid"


class CertificateFault(StrEnum):
    """What is wrong with a certificate."""

    EXPIRED = "expired"
    """Since yesterday."""
    WRONG_NAME = "wrong-name"
    """It is for a host that does not exist."""
    SELF_SIGNED = "self-signed"
    """No authority vouches for it."""


class Authority:
    """A certificate authority. Its files lie in a folder of the caller's; the key that it signs with is nowhere."""

    def __init__(self, folder: Path) -> None:
        self.file = str(folder / "ca.pem")
        """Its own certificate: what a client must trust (`ca_file`, `SSL_CERT_FILE`)."""
        self._folder = folder
        self._key = generate_private_key(SECP256R1())
        self._name = _named("smtproute test authority")
        self._made: dict[tuple[str, CertificateFault | None, tuple[str, ...]], tuple[str, str]] = {}
        ours = self._key.public_key()
        certificate = (
            _begun(self._name, self._name, ours, datetime.now(UTC) + _LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .sign(self._key, SHA256())
        )
        Path(self.file).write_bytes(certificate.public_bytes(Encoding.PEM))

    def pair(self, name: str, *, fault: CertificateFault | None = None, more: Sequence[str] = ()) -> tuple[str, str]:
        """The files of a server's certificate, with its chain, and of its key; asked again, they are the same.

        `name` and `more` are host names or IP addresses. Raises AddressError for what is neither.
        """
        wanted = (name, fault, tuple(more))
        if wanted not in self._made:
            stem = f"{len(self._made) + 1}-{_key(name).replace(':', '-')}"
            certificate, key = self._folder / f"{stem}.pem", self._folder / f"{stem}.key"
            key.touch(mode=0o600)
            self._write(certificate, key, [name, *more], fault)
            self._made[wanted] = str(certificate), str(key)
        return self._made[wanted]

    def context(self, name: str, *, fault: CertificateFault | None = None, more: Sequence[str] = ()) -> ssl.SSLContext:
        """What a server with such a certificate listens with. Raises AddressError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.pair(name, fault=fault, more=more))
        return context

    def _write(self, file: Path, key_file: Path, names: Sequence[str], fault: CertificateFault | None) -> None:
        key = generate_private_key(SECP256R1())
        issuer, signer, until = self._name, self._key, datetime.now(UTC) + _LIFETIME
        subject = _named("a server of a test")
        match fault:
            case None:
                pass
            case CertificateFault.EXPIRED:
                until = datetime.now(UTC) - _DAY
            case CertificateFault.WRONG_NAME:
                names = [_ELSEWHERE]
            case CertificateFault.SELF_SIGNED:
                issuer, signer = subject, key
            case _:
                assert_never(fault)
        certificate = (
            _begun(subject, issuer, key.public_key(), until)
            .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
            .sign(signer, SHA256())
        )
        chain = certificate.public_bytes(Encoding.PEM)
        if signer is self._key:
            chain += Path(self.file).read_bytes()
        file.write_bytes(chain)
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _begun(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePublicKey, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(until - _LIFETIME - _DAY)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    """What the key is for: signing certificates, or a server's handshakes."""
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _key(name: str) -> str:
    """One text for a host name or an IP address. Raises AddressError."""
    return written_ip(name) or Domain.parse(name).key


def _alternative(name: str) -> x509.GeneralName:
    ip = written_ip(name)
    return x509.DNSName(_key(name)) if ip is None else x509.IPAddress(ip_address(ip))
