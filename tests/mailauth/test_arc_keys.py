"""Keys: what is read, and how each file that cannot be is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from arc_peers import pem, private, signing_key
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from smtproute.core.address import Domain
from smtproute.core.settings import DomainKey
from smtproute.mailauth.keys import KeyFault, load, published, record

PKCS1, PKCS8, OPENSSH = PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8, PrivateFormat.OpenSSH
NO = NoEncryption()


def arc_key(file: Path, domain: str = "example.org") -> DomainKey:
    return DomainKey(Domain.parse(domain), "mail", str(file))


@pytest.mark.parametrize("form", [PKCS1, PKCS8], ids=["PKCS#1", "PKCS#8"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_what_can_be_read(tmp_path: Path, form: PrivateFormat, newline: bytes) -> None:
    file = tmp_path / "rsa-2048-mail-example.org.private.txt"
    file.write_bytes(b"a comment\n" + private().private_bytes(Encoding.PEM, form, NO).replace(b"\n", newline))
    key = load(arc_key(file, "Bücher.example"))
    assert (key.domain, key.selector) == ("xn--bcher-kva.example", "mail")
    assert key.private.private_numbers() == private().private_numbers()


def test_the_record_holds_the_public_half() -> None:
    text = record(signing_key())
    assert text.startswith("v=DKIM1; k=rsa; p=MII")
    assert published(text.encode()).key.public_numbers() == private().public_key().public_numbers()


EC = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
PUBLIC = private().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
PEM = pem(signing_key())
# 512 bits: made once, because libraries no longer make one.
WEAK = b"""\
-----BEGIN RSA PRIVATE KEY-----
MIIBOwIBAAJBALWie/wKcxc4d4bTm+oSctBP/+gQoSOGgYxhP+o3+1bGYAJ+3koW
G9HWewPKRABmuVc2CO3GMuYFRInfAPO3bQ8CAwEAAQJBALTC/ez5YUysr5eIpNQw
g/74fs+vLQ6z392bMwafrAzQNPNilp7/Sg+9TPEJfU4OWbM0ZKKal6y009K4ij+w
vwECIQDr1r5oEYWrcbbxKTb2FwM4U6GX1YWSfpMWJ42dfsvwwQIhAMUpgClYr+3x
HALYpICqGDbpIejGDJJG0aj3H4tZnwHPAiEAiPnAvVDwAhOZ3ZfChEv5Ys2wHS+2
1M8PPt7aMY9jhAECICrfcmILSf5YvrmTuHnOAwP1wAzo/BTW14KBcleP/nabAiAk
+G7g7r/QeW++csmLwFtmgRlRMfaDw0hcCPI0KUMeBg==
-----END RSA PRIVATE KEY-----
"""


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the file is empty; make one with: smtproute keys new example.org"),
        (b" \n\n", "the file is empty"),
        (b"MIIEow==\n", "this is no PEM file; convert it"),
        (private().private_bytes(Encoding.DER, PKCS1, NO), "this is no PEM file; convert it"),
        (PUBLIC, "it holds no private key"),
        (b"-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n", "it holds no private key"),
        (private().private_bytes(Encoding.PEM, PKCS8, BestAvailableEncryption(b"x")), "the key is encrypted"),
        (private().private_bytes(Encoding.PEM, PKCS1, BestAvailableEncryption(b"x")), "the key is encrypted"),
        (EC.private_bytes(Encoding.PEM, PKCS8, NO), "another kind of key"),
        (EC.private_bytes(Encoding.PEM, PKCS1, NO), "another kind of key"),
        (ED25519.private_bytes(Encoding.PEM, OPENSSH, NO), "damaged or of an unknown kind"),
        (private().private_bytes(Encoding.PEM, OPENSSH, NO), "damaged or of an unknown kind"),
        (PEM[:300] + PEM[400:], "damaged"),
        (PEM[:300], "damaged"),
        (PEM.replace(b"M", b"N"), "damaged"),
        (b"-----BEGIN RSA PRIVATE KEY-----\n-----END RSA PRIVATE KEY-----\n", "damaged"),
        (b"\xff\xfe-----BEGIN RSA PRIVATE KEY-----\n\xff\n-----END RSA PRIVATE KEY-----\n", "damaged"),
        (WEAK, "the key has 512 bits, and verifiers take 1024 to 8192"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, content: bytes, why: str) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(content)
    with pytest.raises(KeyFault, match=why) as caught:
        load(arc_key(file))
    assert str(caught.value).startswith(f"{file}: ")
    assert ";" in str(caught.value)


def test_only_rsa_seals(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(ED25519.private_bytes(Encoding.PEM, PKCS8, NO))
    assert load(arc_key(file)).private.public_key() == ED25519.public_key()
    with pytest.raises(KeyFault, match="ARC is sealed with RSA, and this is another kind of key"):
        load(arc_key(file), sealing=True)
    file.write_bytes(PEM)
    assert load(arc_key(file), sealing=True).private.public_key() == private().public_key()


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(KeyFault, match="there is no such file"):
        load(arc_key(tmp_path / "none.pem"))
    with pytest.raises(KeyFault, match="it cannot be read"):
        load(arc_key(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "large").write_bytes(PEM + b"\n" * 65536)
    for name in ("pipe", "zero", "large"):
        with pytest.raises(KeyFault, match="no regular file of 64 KiB at most"):
            load(arc_key(tmp_path / name))
    if os.geteuid():
        secret = tmp_path / "secret.pem"
        secret.write_bytes(PEM)
        secret.chmod(0)
        with pytest.raises(KeyFault, match="it cannot be read"):
            load(arc_key(secret))
