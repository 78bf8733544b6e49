"""The examples in `config/` are what an administrator copies: each loads, and so does what it has commented out."""

from __future__ import annotations

import re
import shutil
from base64 import b64decode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)

from smtproute.config import load
from smtproute.core.address import Address
from smtproute.core.aliases import expand
from smtproute.core.settings import Discover, EndpointTls, Mode, Role, Server, SignBy
from smtproute.core.snapshot import Snapshot

EXAMPLES = Path(__file__).parents[2] / "config"


def uncommented(text: str) -> str:
    """The example with every commented-out line in force; of a key written twice the later one."""
    text = re.sub(r"^# (?=\[|[a-z_]+ = )", "", text, flags=re.MULTILINE)
    return re.sub(r"^default = .*\n(?=(?s:.*)^default = )", "", text, flags=re.MULTILINE)


def loaded(name: str, folder: Path, *, whole: bool) -> Snapshot:
    """The example at a site that has the files it names."""
    text = (EXAMPLES / f"{name}.toml").read_text()
    (folder / f"{name}.toml").write_text(uncommented(text) if whole else text)
    shutil.copytree(EXAMPLES / "demo", folder / "docker-data/dms/config")
    (folder / "docker-data/dms/config/postfix-virtual.cf").write_text("sales@example.org team@partner.example\n")
    (folder / "docker-data/dms/certs").mkdir()
    (folder / "docker-data/dms/config/mailserver.env").rename(folder / "mailserver.env")
    (folder / "provider.password").write_text("secret\n")
    for file in (
        "mx.pem",
        "mx.key",
        "internal-ca.pem",
        "docker-data/dms/certs/fullchain.pem",
        "docker-data/dms/certs/privkey.pem",
    ):
        (folder / file).touch()
    return load(str(folder / f"{name}.toml"), {}, fqdn=lambda: "host.example.org")


@pytest.mark.parametrize("name", ["docker-mailserver", "gitlab", "sidecar"])
@pytest.mark.parametrize("whole", [False, True])
def test_example(name: str, whole: bool, tmp_path: Path) -> None:
    assert loaded(name, tmp_path, whole=whole).findings == ()


def test_docker_mailserver(tmp_path: Path) -> None:
    snapshot = loaded("docker-mailserver", tmp_path, whole=False)
    assert snapshot.routing.default.mode is Mode.CAPTURE
    assert snapshot.settings.endpoints == {}
    assert snapshot.settings.arc.sign is SignBy.RECIPIENT  # as the folder's arc.conf says


def test_docker_mailserver_to_the_internet(tmp_path: Path) -> None:
    snapshot = loaded("docker-mailserver", tmp_path, whole=True)
    assert snapshot.routing.default.endpoint == "internet"
    assert snapshot.settings.endpoints["internet"].discover is Discover.RECIPIENT
    assert snapshot.settings.arc.sign is SignBy.RECIPIENT


def test_sidecar_and_gitlab(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    sidecar = loaded("sidecar", tmp_path / "a", whole=False)
    assert sidecar.routing.default.endpoint == "provider"
    provider = sidecar.settings.endpoints["provider"]
    assert (provider.tls, provider.username, provider.password) == (EndpointTls.REQUIRE, "app@example.org", "secret")
    (tmp_path / "b").mkdir()
    gitlab = loaded("gitlab", tmp_path / "b", whole=False).settings
    assert gitlab.listeners["mx"].role is Role.INBOUND
    assert gitlab.endpoints["gitlab"].tls is EndpointTls.REQUIRE
    assert gitlab.endpoints["gitlab"].backup == (Server("gitlab-standby.internal"),)
    assert gitlab.resolver.static["gitlab.internal"] == ("10.0.0.5",)


# The demo


def demo(environ: dict[str, str] | None = None) -> Snapshot:
    return load(str(EXAMPLES / "demo.toml"), environ or {}, fqdn=lambda: "host.example.org")


def test_demo_routes() -> None:
    snapshot = demo()
    assert snapshot.findings == ()

    def becomes(address: str) -> list[str]:
        return [str(final) for final in expand(snapshot.routing.aliases, Address.parse(address)).finals]

    assert becomes("name@example.org") == ["name@example.org", "name@external.example"]
    assert becomes("sales@example.org") == ["team@partner.example"]
    assert becomes("info@example.org") == ["anna@example.org"]
    assert becomes("support42@example.org") == ["anna@example.org"]
    assert becomes("nobody@example.org") == ["nobody@example.org"]
    assert list(snapshot.routing.mailboxes) == ["name@example.org", "anna@example.org"]
    own = {"mail.example.org", "localhost", "localhost.example.org"}
    assert set(snapshot.routing.local_domains) == {"example.org", "example.com", *own}
    assert [(route.match.text, route.target.endpoint) for route in snapshot.routing.routes] == [
        ("*@external.example", "external"),
        ("*@partner.example", "external"),
        ("*@git.example.org", "gitlab"),
    ]
    listener = snapshot.settings.listeners["mx"]
    assert (listener.host, listener.port, listener.role, listener.debug) == ("127.0.0.1", 0, Role.INBOUND, True)


def test_demo_ports_are_set_by_variables() -> None:
    settings = demo(
        {
            "SMTPROUTE__ENDPOINT__GITLAB__SERVERS": '["gitlab.internal:4025"]',
            "SMTPROUTE__ENDPOINT__EXTERNAL__SERVERS": '["mx.external.example:4026"]',
            "SMTPROUTE__RESOLVER__SERVERS": '["127.0.0.1:5353"]',
            "SMTPROUTE__RESOLVER__ORDER": '["dns"]',
            "SMTPROUTE__STATE": "/tmp/state",
        }
    ).settings
    assert settings.endpoints["gitlab"].servers == (Server("gitlab.internal", 4025),)
    assert settings.endpoints["external"].servers == (Server("mx.external.example", 4026),)
    assert settings.resolver.servers == ("127.0.0.1:5353",)
    assert (settings.state, settings.accounts.maildir) == ("/tmp/state", "/tmp/state/mail")


@pytest.mark.parametrize("domain", ["example.org", "example.com"])
def test_demo_keys_belong_together(domain: str) -> None:
    key = demo().settings.arc.keys[domain]
    assert key.selector == "mail"
    private = load_pem_private_key(Path(key.file).read_bytes(), None)
    record = Path(key.file.replace(".private.txt", ".public.dns.txt")).read_text()
    public = load_der_public_key(b64decode(record.strip().rpartition("p=")[2]))
    assert isinstance(public, RSAPublicKey)
    assert public.key_size == 2048
    assert record.startswith("v=DKIM1; k=rsa; p=")
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert private.public_key().public_bytes(*form) == public.public_bytes(*form)
    conf = (EXAMPLES / "demo/rspamd/override.d/arc.conf").read_text()
    assert f"/tmp/docker-mailserver/rspamd/dkim/{Path(key.file).name}" in conf
