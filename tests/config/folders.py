"""A docker-mailserver folder of a test, and the configuration that names it."""

from __future__ import annotations

from pathlib import Path

from smtproute.config import load
from smtproute.core.finding import Finding
from smtproute.core.snapshot import Snapshot


def loaded(folder: Path, text: str = "", *, env: str | None = None, keys: str = "", **files: bytes | str) -> Snapshot:
    """The configuration of a folder that has these files: `accounts` is postfix-accounts.cf, `dovecot_quotas` is
    dovecot-quotas.cf. `env` is the environment file, `text` the configuration file's beginning, `keys` more of
    [docker_mailserver]."""
    config = folder / "config"
    config.mkdir(exist_ok=True)
    for name, content in files.items():
        known = (
            f"{name.replace('_', '-')}.cf" if name.startswith("dovecot_") else f"postfix-{name.replace('_', '-')}.cf"
        )
        (config / known).write_bytes(content if isinstance(content, bytes) else content.encode())
    if env is not None:
        (folder / "dms.env").write_text(env)
        keys += '\nenv = "dms.env"'
    file = folder / "smtproute.toml"
    file.write_text(f'{text}\n[docker_mailserver]\nconfig = "config"\n{keys}\n')
    return load(str(file), {}, fqdn=lambda: "mail.example.org")


def shown(findings: tuple[Finding, ...]) -> list[tuple[str, str, str]]:
    """Name, place and mend of each finding."""
    return [(finding.name, finding.where, finding.instead) for finding in findings]
