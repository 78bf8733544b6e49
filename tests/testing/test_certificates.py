"""Certificates of a test: who takes them, and who does not."""

from __future__ import annotations

import os
import ssl
import stat
import subprocess
from pathlib import Path

import pytest

from smtproute.core.address import AddressError
from smtproute.testing.certificates import Authority, CertificateFault


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def shaken(server: ssl.SSLContext, trusted: ssl.SSLContext, name: str) -> ssl.SSLObject:
    """A handshake in memory; the client's side of it. Raises SSLError."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusted.wrap_bio(to_client, to_server, server_hostname=name)
    other = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, other):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    return client


@pytest.mark.parametrize("name", ["mx.far.example", "MX.far.example", "localhost", "127.0.0.1", "::1"])
def test_good_for_each_of_its_names(authority: Authority, name: str) -> None:
    server = authority.context("mx.far.example", more=["localhost", "127.0.0.1", "::1"])
    trusted = ssl.create_default_context(cafile=authority.file)
    trusted.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    assert shaken(server, trusted, name).version() == "TLSv1.3"


def test_good_for_a_name_of_other_letters(authority: Authority) -> None:
    trusted = ssl.create_default_context(cafile=authority.file)
    assert shaken(authority.context("mx.bücher.example"), trusted, "mx.xn--bcher-kva.example").version()


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (CertificateFault.EXPIRED, "certificate has expired"),
        (CertificateFault.WRONG_NAME, "Hostname mismatch"),
        (CertificateFault.SELF_SIGNED, "self-signed certificate"),
    ],
)
def test_a_fault_is_what_it_says_and_nothing_else(authority: Authority, fault: CertificateFault, why: str) -> None:
    trusted = ssl.create_default_context(cafile=authority.file)
    with pytest.raises(ssl.SSLCertVerificationError, match=why):
        shaken(authority.context("mx.far.example", fault=fault), trusted, "mx.far.example")
    if fault is CertificateFault.WRONG_NAME:
        assert shaken(authority.context("mx.far.example", fault=fault), trusted, "elsewhere.invalid")


def test_nobody_else_trusts_the_authority(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    trusted = ssl.create_default_context(cafile=Authority(tmp_path / "other").file)
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken(authority.context("mx.far.example"), trusted, "mx.far.example")


def test_asked_again_it_is_the_same(authority: Authority) -> None:
    first = authority.pair("mx.far.example")
    assert authority.pair("mx.far.example") == first
    others = {
        authority.pair("mx.far.example", fault=CertificateFault.EXPIRED),
        authority.pair("mx.far.example", more=["localhost"]),
        authority.pair("other.example"),
    }
    assert len({first, *others}) == 4
    assert stat.S_IMODE(os.stat(first[1]).st_mode) == 0o600


@pytest.mark.parametrize("name", ["../x", "", "a b", "x/y.example"])
def test_what_is_no_name(authority: Authority, name: str) -> None:
    with pytest.raises(AddressError):
        authority.pair(name)


@pytest.mark.peer("openssl")
def test_openssl_takes_it_strictly(authority: Authority) -> None:
    certificate, _ = authority.pair("mx.far.example")
    command = ["openssl", "verify", "-x509_strict", "-verify_hostname", "mx.far.example", "-CAfile", authority.file]
    done = subprocess.run([*command, certificate], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
