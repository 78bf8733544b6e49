"""Each finding, on a small folder of its own; and a clean folder, about which nothing is said."""

from __future__ import annotations

import ast
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import pytest

from smtproute.config import load
from smtproute.core.finding import Finding
from smtproute.core.snapshot import Snapshot
from smtproute.doctor import examine

HERE = Path(__file__).parent / "folders"
SOURCE = Path(__file__).parents[2] / "smtproute"
FOLDERS = sorted(folder.name for folder in HERE.iterdir())

PUBLISHED = (
    "address-private",
    "dkim-broken",
    "dkim-missing",
    "dkim-other-key",
    "dkim-revoked",
    "dkim-short",
    "dkim-testing",
    "dkim-two-records",
    "dmarc-idle",
    "dmarc-missing",
    "dmarc-policy",
    "dmarc-report-address",
    "dmarc-syntax",
    "dmarc-two-records",
    "dmarc-unaligned",
    "dmarc-unsigned",
    "dns-unanswered",
    "hostname-without-address",
    "mx-address",
    "mx-alias",
    "mx-elsewhere",
    "mx-missing",
    "mx-null",
    "mx-without-address",
    "ptr-leads-elsewhere",
    "ptr-missing",
    "ptr-other-name",
    "spf-lookups",
    "spf-lookups-near",
    "spf-missing",
    "spf-not-covered",
    "spf-pass-all",
    "spf-syntax",
    "spf-two-records",
    "spf-void-lookups",
)
"""Names that only DNS can give rise to."""
ELSEWHERE = {
    "configuration": "a configuration that cannot be used at all: tests/config",
    "not-reloaded": "a reload: tests/e2e/test_lifecycle.py",
    "table-kept": "a reload: tests/config/test_config_reload.py",
    "static-hides-dns": "a name server: tests/e2e/test_endpoints_command.py",
    "hosts-hides-dns": "a name server: tests/e2e/test_endpoints_command.py",
    "endpoint-unreachable": "servers: tests/e2e/test_endpoints_command.py",
    "server-unreachable": "servers: tests/e2e/test_endpoints_command.py",
    "postmaster-refused": "servers: tests/e2e/test_endpoints_command.py",
    "certificate-expires": "servers: tests/e2e/test_endpoints_command.py",
    **dict.fromkeys(PUBLISHED, "a name server: tests/doctor/test_dns.py"),
    "dmarc-report-foreign": "a name server: tests/doctor/test_dns_advice.py",
}
"""Names that no folder can have a finding of: what it takes, and where they are tested."""


@lru_cache
def private_key(bits: int) -> bytes:
    """A key for one test run; no private key is kept among the tests."""
    return subprocess.run(["openssl", "genrsa", str(bits)], capture_output=True, check=True, timeout=60).stdout


def loaded(name: str, tmp_path: Path) -> Snapshot:
    """A folder, with the keys that its file `keys` lists: path, bits (0: as it stands), mode."""
    folder = tmp_path / name
    shutil.copytree(HERE / name, folder)
    keys = folder / "keys"
    for line in keys.read_text().splitlines() if keys.exists() else ():
        file, bits, mode = line.split()
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if int(bits):
            path.write_bytes(private_key(int(bits)))
        path.chmod(int(mode, 8))
    return load(str(folder / "smtproute.toml"), {}, fqdn=lambda: "mail.example.org")


def examined(name: str, tmp_path: Path) -> list[Finding]:
    return examine(loaded(name, tmp_path))


@pytest.mark.peer("openssl")
@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_has_exactly_its_findings(name: str, tmp_path: Path) -> None:
    found = examined(name, tmp_path)
    expected = (HERE / name / "findings").read_text().splitlines()
    said = sorted(f"{each.severity} {each.name} {each.where}" for each in found)
    assert said == sorted(expected), "\n".join(map(str, found))


def emitted() -> set[str]:
    """The names in every call that makes a finding."""
    names: set[str] = set()
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                names |= finding_names(node)
    return names


def finding_names(call: ast.Call) -> set[str]:
    """What stands first in a call of `error`, `warning` or a method that ends in one of them; both of a choice."""
    function = call.func
    called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    chosen = isinstance(function, ast.IfExp)  # (error if ... else warning)("name", ...)
    if len(call.args) < 2 or not (called in {"error", "warning", "warn", "wrong", "finding", "say"} or chosen):
        return set()
    first = call.args[0]
    texts = (first.body, first.orelse) if isinstance(first, ast.IfExp) else (first,)
    return {text.value for text in texts if isinstance(text, ast.Constant)}


def test_every_finding_that_can_be_made_has_a_folder() -> None:
    shown = {line.split()[1] for name in FOLDERS for line in (HERE / name / "findings").read_text().splitlines()}
    made = emitted()
    assert len(made) > 50
    assert sorted(made - shown - ELSEWHERE.keys()) == []
    assert sorted(ELSEWHERE.keys() - made) == []


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_finding_without_a_folder_is_tested_elsewhere(name: str) -> None:
    where = SOURCE.parent / ELSEWHERE[name].rpartition(": ")[2]
    tests = where.rglob("*.py") if where.is_dir() else [where]
    assert any(name in test.read_text() for test in tests)
