"""docs/configuration.md: its keys are the keys, its defaults the defaults."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from smtproute.config import schema
from smtproute.config.load import load
from smtproute.core.address import Domain
from smtproute.core.settings import Policy, Srs

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def blocks() -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_defaults_are_the_defaults(tmp_path: Path) -> None:
    defaults, _, _ = blocks()
    file = tmp_path / "smtproute.toml"
    file.write_text(defaults)
    written = load(str(file), {}, fqdn=lambda: "mail.example.org")
    unwritten = load(None, {"HOME": str(tmp_path)}, fqdn=lambda: "mail.example.org")
    same = replace(unwritten.settings, state=written.settings.state, accounts=written.settings.accounts)
    assert written.settings == same
    assert written.routing == unwritten.routing


def test_the_rest_loads(tmp_path: Path) -> None:
    _, rest, _ = blocks()
    for name in (
        "docker-data/dms/config/postfix-accounts.cf",
        "mailserver.env",
        "rsa-2048-mail-example.org.private.txt",
        "2026a.pem",
        "2026b.pem",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    file = tmp_path / "smtproute.toml"
    file.write_text(f'state = "{tmp_path}"\n{rest}')
    settings = load(str(file), {}, fqdn=lambda: "mail.example.org").settings
    assert settings.endpoints["gitlab"].seal and settings.arc.keys["example.org"].selector == "mail"
    assert [key.selector for key in settings.arc.others] == ["2026a"]
    assert settings.srs == Srs(Domain("example.org", "example.org"), f"{tmp_path}/srs.secret")


def test_the_example_loads(tmp_path: Path) -> None:
    _, _, example = blocks()
    for name in ("rsa.pem", "ed25519.pem"):
        (tmp_path / name).write_text("")
    file = tmp_path / "smtproute.toml"
    file.write_text(f'state = "{tmp_path}"\ndomains = ["example.org"]\n{example}')
    settings = load(str(file), {}, fqdn=lambda: "mail.example.org").settings
    assert [key.selector for key in settings.dkim.keys["example.org"]] == ["rsa", "ed25519"]
    assert settings.authentication.policy is Policy.ENFORCE


@pytest.mark.parametrize(
    "room",
    [
        "accounts",
        "arc",
        "authentication",
        "dkim",
        "docker_mailserver",
        "endpoint",
        "limits",
        "listener",
        "log",
        "queue",
        "resolver",
        "route",
        "srs",
        "trace",
    ],
)
def test_no_key_is_missing(room: str) -> None:
    page = PAGE.read_text()
    for table in re.findall(r"(\w+Table)", str(schema.Root.model_fields[room].annotation)):
        for key in getattr(schema, table).model_fields:
            assert re.search(rf"\b{key} = |\[{room}\.{key}", page), f"{room}: {key}"
