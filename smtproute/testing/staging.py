"""Staging: a configuration as production has it, made fit for a stage.

Who may send what where, and where mail goes, stays as it is written. What is of the machine changes: the state folder,
the addresses that are listened on, the name server, certificates, and the secrets and keys that are not in the tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from smtproute.config.document import Document, Location, Mistake, parse, read
from smtproute.core.settings import EndpointTls, Role
from smtproute.mailauth.keys import KeyKind, generate
from smtproute.testing.certificates import Authority

__all__ = ["PASSWORD", "Config", "document", "key_file", "staged"]

Config = Mapping[str, Any] | Path | str | Document | None
"""Tables as TOML has them, a file, a docker-mailserver folder, the text of a file, or what was read of one; None: a
capture of everything."""

PASSWORD = "secret"
"""Of the relay at an endpoint whose password is not in the tree."""
_HOSTNAME = "relay.test"


def document(config: Config, shown: str = "config") -> Document:
    """The document that a configuration is, without the environment. Raises config.document.Mistake."""
    match config:
        case None:
            return Document(shown, Path.cwd())
        case Document():
            return replace(config, tables=_copied(config.tables), mistakes=[*config.mistakes])
        case Path() if config.is_dir():
            return Document(shown, Path.cwd(), {"docker_mailserver": {"config": str(config.absolute())}})
        case Path():
            return read(str(config), {})
        case str() if "\n" not in config and "=" not in config and config:
            return document(Path(config), shown)
        case str():
            return Document(shown, Path.cwd(), parse(config.encode(), shown))
        case Mapping():
            return Document(shown, Path.cwd(), _copied(config))
        case _:
            raise Mistake(f"{shown}: {config!r} is no configuration. Write tables, TOML text, or a file or folder.")


def staged(document: Document, folder: Path, authority: Authority, name_server: str) -> dict[str, int]:
    """Changes the document for a stage whose relay has `folder`; answers with the port that each listener had."""
    tables = document.tables
    tables["state"] = str(folder / "state")
    resolver = _table(tables, "resolver")
    resolver["servers"] = [name_server]
    resolver["hosts_file"] = str(folder / "hosts")
    (folder / "hosts").touch()
    for name, endpoint in _tables(tables, "endpoint"):
        if endpoint.get("tls") in (EndpointTls.REQUIRE, EndpointTls.IMPLICIT):
            endpoint["ca_file"] = authority.file
        if "certificate" in endpoint:
            endpoint["certificate"], endpoint["key"] = authority.pair(str(name))
        if "username" in endpoint and not _there(document, ("endpoint", name, "password_file"), endpoint):
            endpoint.pop("password_file", None)
            endpoint.setdefault("password", PASSWORD)
    if "srs" in tables and not _there(document, ("srs", "secret_file"), _table(tables, "srs")):
        secret = folder / "srs.secret"
        secret.write_text("stage\n")
        secret.chmod(0o600)
        tables["srs"]["secret_file"] = str(secret)
    _table(tables, "accounts").pop("maildir", None)
    for use in ("arc", "dkim"):
        for _, keys in _entries(_table(tables, use), "keys") if use in tables else ():
            for key in keys if isinstance(keys, list) else [keys]:
                if isinstance(key, dict) and not _there(document, (use, "keys", "file"), key):
                    key["file"] = str(key_file(folder))
    return _listeners(document, authority)


def _listeners(document: Document, authority: Authority) -> dict[str, int]:
    tables = document.tables
    if "listener" not in tables:
        inbound = "docker_mailserver" in tables
        role = str(Role.INBOUND if inbound else Role.TRUSTED)
        tables["listener"] = {"default": {"role": role, "certificate": "made", "key": "made"}}
        if not inbound:
            tables["listener"]["tls"] = {**tables["listener"]["default"], "bind": ":465", "tls": "implicit"}
    ports = {}
    for name, listener in _tables(tables, "listener"):
        port = str(listener.get("bind", "")).rpartition(":")[2]
        ports[name] = int(port) if port.isdecimal() else 25
        listener["bind"] = "127.0.0.1:0"
        if "certificate" in listener:
            listener["certificate"], listener["key"] = authority.pair(
                str(tables.get("hostname", _HOSTNAME)), more=("localhost", "127.0.0.1")
            )
        if listener.get("role", Role.TRUSTED) == Role.TRUSTED:
            listener.setdefault("auth", "any")
    return ports


def key_file(folder: Path) -> Path:
    """A file in this folder with the RSA key that stands for every key which is not in the tree."""
    file = folder / "rsa.pem"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_bytes(_key())
    return file


@cache
def _key() -> bytes:
    """One for the process, since to make one takes longer than a test."""
    return generate(KeyKind.RSA)


def _there(document: Document, at: Location, table: Mapping[str, Any]) -> bool:
    """Whether the file that the table names at the last key of `at` is there."""
    written = table.get(str(at[-1]))
    return isinstance(written, str) and document.path(at, written).exists()


def _table(tables: dict[str, Any], key: str) -> dict[str, Any]:
    """A table of the document; one that is none, which is the loader's to refuse, is left alone."""
    found = tables.setdefault(key, {})
    return found if isinstance(found, dict) else {}


def _tables(tables: Mapping[str, Any], key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tables of a table, by name."""
    return ((name, table) for name, table in _entries(tables, key) if isinstance(table, dict))


def _entries(tables: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any]]:
    found = tables.get(key)
    yield from found.items() if isinstance(found, dict) else ()


def _copied(value: Any) -> Any:
    """The same tables, lists and values, free to be changed."""
    match value:
        case Mapping():
            return {key: _copied(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_copied(inner) for inner in value]
        case _:
            return value
