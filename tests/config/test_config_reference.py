"""docs/configuration.md: its keys are the keys, its defaults the defaults."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from smtproute.config import schema
from smtproute.config.load import load

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def blocks() -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_defaults_are_the_defaults(tmp_path: Path) -> None:
    defaults, _ = blocks()
    file = tmp_path / "smtproute.toml"
    file.write_text(defaults)
    written = load(str(file), {}, fqdn=lambda: "mail.example.org")
    unwritten = load(None, {"HOME": str(tmp_path)}, fqdn=lambda: "mail.example.org")
    same = replace(unwritten.settings, state=written.settings.state, accounts=written.settings.accounts)
    assert written.settings == same
    assert written.routing == unwritten.routing


def test_the_rest_loads(tmp_path: Path) -> None:
    _, rest = blocks()
    for name in (
        "docker-data/dms/config/postfix-accounts.cf",
        "mailserver.env",
        "rsa-2048-mail-example.org.private.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    file = tmp_path / "smtproute.toml"
    file.write_text(f'state = "{tmp_path}"\n{rest}')
    settings = load(str(file), {}, fqdn=lambda: "mail.example.org").settings
    assert settings.endpoints["gitlab"].seal and settings.arc.keys["example.org"].selector == "mail"


@pytest.mark.parametrize(
    "room",
    [
        "accounts",
        "arc",
        "docker_mailserver",
        "endpoint",
        "limits",
        "listener",
        "log",
        "queue",
        "resolver",
        "route",
        "trace",
    ],
)
def test_no_key_is_missing(room: str) -> None:
    page = PAGE.read_text()
    for table in re.findall(r"(\w+Table)", str(schema.Root.model_fields[room].annotation)):
        for key in getattr(schema, table).model_fields:
            assert re.search(rf"\b{key} = |\[{room}\.{key}", page), f"{room}: {key}"
