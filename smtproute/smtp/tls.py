"""TLS towards servers: what an endpoint's settings verify, and the certificate that they show."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import assert_never

from smtproute.core.settings import Endpoint, EndpointTls

__all__ = ["TlsFault", "tls_context"]


class TlsFault(Exception):
    """A file of an endpoint's TLS cannot be used; the message names key, file and reason."""


def tls_context(endpoint: Endpoint) -> ssl.SSLContext | None:
    """What an endpoint's TLS verifies and shows, TLS 1.2 or later; None for `NEVER`. Raises TlsFault.

    Reads files and parses certificates: tens of milliseconds with the system's authorities.
    """
    match endpoint.tls:
        case EndpointTls.NEVER:
            return None
        case EndpointTls.PREFER:
            verify = False
        case EndpointTls.REQUIRE | EndpointTls.IMPLICIT:
            verify = endpoint.verify
        case _:
            assert_never(endpoint.tls)
    if verify:
        try:
            context = ssl.create_default_context(cafile=endpoint.ca_file or None)
        except OSError as error:
            why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
            raise TlsFault(f"endpoint.{endpoint.name}.ca_file = {endpoint.ca_file!r}: {why}") from None
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if endpoint.certificate:
        _show(context, endpoint)
    return context


def _show(context: ssl.SSLContext, endpoint: Endpoint) -> None:
    """Has the context show the endpoint's certificate to whoever asks. Raises TlsFault."""
    where = f"endpoint.{endpoint.name}"
    certificate, key = endpoint.certificate, endpoint.key or endpoint.certificate
    for name, file in (("certificate", certificate), ("key", key)):
        try:
            Path(file).read_bytes()
        except OSError as error:
            raise TlsFault(f"{where}.{name} = {file!r}: {error.strerror}") from None
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # never asks at the terminal
    except (ssl.SSLError, ValueError) as error:
        why = error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error)
        raise TlsFault(f"{where}.certificate = {certificate!r} with key = {key!r}: {why}") from None
