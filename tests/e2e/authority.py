"""Certificates for upstreams: by an authority that a test's endpoint trusts, and by one that nobody does."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme

AUTHORITY = trustme.CA()
STRANGER = trustme.CA()


def certified(*names: str, by: trustme.CA = AUTHORITY) -> ssl.SSLContext:
    """A server's context with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    by.issue_cert(*names).configure_cert(context)
    return context


def ca_file(folder: Path) -> Path:
    """The trusted authority's certificate, as `ca_file` wants it."""
    file = folder / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(file))
    return file
