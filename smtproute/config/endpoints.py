"""Endpoints: what the keys of an endpoint say together, and its password, which stands outside the file."""

from __future__ import annotations

from typing import assert_never

from smtproute.config import files
from smtproute.config.document import Document, Location, variable
from smtproute.config.schema import EndpointTable, Root, credential
from smtproute.core.settings import Balance, Discover, Endpoint, EndpointTls

__all__ = ["endpoints"]


def endpoints(document: Document, root: Root) -> dict[str, Endpoint]:
    """The endpoints of the file, by name. What is wrong with them is noted in the document."""
    return {name: _endpoint(document, name, table) for name, table in root.endpoint.items()}


def _endpoint(document: Document, name: str, table: EndpointTable) -> Endpoint:
    at: Location = ("endpoint", name)
    _check_servers(document, at, table)
    _check_tls(document, at, table)
    values = dict(table)
    for key in ("ca_file", "certificate", "key"):
        written = values[key]
        values[key] = "" if written is None else str(document.file((*at, key), written))
    del values["password_file"]
    return Endpoint(**{**values, "name": name, "password": _password(document, at, table)})


def _check_servers(document: Document, at: Location, table: EndpointTable) -> None:
    if table.discover is Discover.RECIPIENT:
        for key in ("servers", "backup"):
            if getattr(table, key):
                text = 'discover = "recipient" asks the MX of each recipient\'s domain. Remove one of the two.'
                document.wrong((*at, key), text)
        if table.balance is Balance.ROUND_ROBIN:
            text = 'discover = "recipient" goes by the preferences of the MX. Remove one of the two.'
            document.wrong((*at, "balance"), text)
        if table.username:
            text = 'discover = "recipient" would tell the password to whoever has a domain. Remove one of the two.'
            document.wrong((*at, "username"), text)
    elif not table.servers:
        document.wrong((*at, "servers"), 'no server. Write servers = ["mail.example.org:25"].')


_VERIFYING = ("ca_file", "verify", "tls_name")


def _check_tls(document: Document, at: Location, table: EndpointTable) -> None:
    idle: tuple[str, ...] = ()
    why = ""
    exposed = ""
    match table.tls:
        case EndpointTls.NEVER:
            idle, why = (*_VERIFYING, "certificate"), "speaks no TLS"
            exposed = 'credentials go over TLS or nowhere. Write tls = "require", or remove username.'
        case EndpointTls.PREFER:
            idle, why = _VERIFYING, "takes any certificate"
            exposed = (
                'tls = "prefer" verifies nothing, and whoever is in between would read the password. '
                'Write tls = "require" or "implicit".'
            )
        case EndpointTls.REQUIRE | EndpointTls.IMPLICIT:
            pass
        case _:
            assert_never(table.tls)
    for key in idle:
        if key in table.model_fields_set:
            document.wrong((*at, key), f'tls = "{table.tls}" {why}. Write tls = "require", or remove {key}.')
    if table.certificate is not None and table.key is None:
        document.wrong((*at, "certificate"), "there is no key. Add key, the file with the private key.")
    if table.key is not None and table.certificate is None:
        document.wrong((*at, "key"), "there is no certificate. Add certificate, the file with the chain.")
    if table.username and exposed:
        document.wrong((*at, "username"), exposed)


def _password(document: Document, at: Location, table: EndpointTable) -> str:
    """The password that the environment sets or a file holds."""
    written = tuple(key for key in ("password", "password_file") if getattr(table, key) is not None)
    if table.username and not written:
        text = f'there is no password. Write password_file = "FILE", or set {variable((*at, "password"))}.'
        document.wrong((*at, "username"), text)
    if written and not table.username:
        document.wrong((*at, written[0]), "there is no username. Add username.")
    if len(written) == 2:
        document.wrong((*at, "password_file"), "the environment sets the password as well. Remove one of the two.")
    return table.password or _held(document, (*at, "password_file"), table.password_file)


def _held(document: Document, at: Location, written: str | None) -> str:
    """The password that the file named at `at` holds, without the line end behind it; no mistake shows it."""
    if written is None:
        return ""
    try:
        octets = files.read(document.path(at, written))
    except OSError as error:
        document.unreadable(at, error)
        return ""
    try:
        return credential(octets.decode(errors="surrogateescape").removesuffix("\n").removesuffix("\r"))
    except ValueError as error:
        document.wrong(at, f"what it holds is {error}")
        return ""
