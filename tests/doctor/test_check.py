"""`smtproute check`, as it is run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from smtproute.config import load
from smtproute.core.finding import Severity
from smtproute.doctor import examine, watch
from tests.doctor.test_findings import HERE, loaded

MAIN = "from smtproute.cli import main; main()"


def check(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MAIN, "check", "-c", str(HERE / name / "smtproute.toml"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_errors_first_then_the_sum_then_the_log_lines() -> None:
    done = check("wrong-file")
    lines = done.stdout.splitlines()
    severities = [line.partition(":")[0] for line in lines if line.startswith(("error:", "warning:"))]
    assert severities == ["error"] * 2 + ["warning"] * 2
    assert "2 errors, 2 warnings" in lines
    assert done.returncode == Severity.ERROR.status
    assert lines.index("2 errors, 2 warnings") < lines.index(next(line for line in lines if "worth watching" in line))


def test_what_to_write_instead_stands_below_line_by_line() -> None:
    lines = check("domain-alias").stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if "[domain-alias]" in line)
    assert lines[at + 1 : at + 3] == [
        "    instead: anna@example.net anna@example.org",
        "             bob@example.net bob@example.org",
    ]


def test_json_has_findings_only() -> None:
    done = check("alias-takes-account", "--json")
    (finding,) = map(json.loads, done.stdout.splitlines())
    assert finding["name"] == "alias-takes-account" and finding["where"] == "postfix-virtual.cf:2"
    assert finding["instead"] == "bob@example.org bob@example.org,anna@example.org"
    assert done.returncode == Severity.WARNING.status


def test_the_log_lines_are_those_of_what_the_folder_uses(tmp_path: Path) -> None:
    def said(name: str) -> str:
        return " ".join(f"{each.log}:{each.pattern}" for each in watch(loaded(name, tmp_path)))

    rich = said("clean")
    assert all(
        word in rich for word in ("ARC_SIGNED", r"5\.2\.2", "srs_reverse", "SASL authentication failed", "orig_to")
    )
    plain = said("alias-takes-account")
    assert "ARC" not in plain and "srs" not in plain and "orig_to" not in plain and "not owned" not in plain
    assert "lookup failure" in plain


def test_without_a_folder_no_log_is_watched(tmp_path: Path) -> None:
    assert watch(loaded("alias-foreign", tmp_path)) == ()


def test_what_steers_a_terminal_is_escaped(tmp_path: Path) -> None:
    shutil.copytree(HERE / "alias-takes-account", tmp_path / "a")
    table = tmp_path / "a" / "postfix-virtual.cf"
    table.write_bytes(table.read_bytes() + b"x\x1b[2J@example.org bob\x1b[2J@example.org\n")
    table.with_name("postfix-regexp.cf").write_bytes(b"/\xfc@example.org/ bob\x1b[2J\xc2\x9b@example.org\n")
    for command in ("check", "explain --all", "explain bob@example.org", "accounts"):
        for form in ((), ("--json",)):
            line = [sys.executable, "-c", MAIN, *command.split(), "-c", str(tmp_path / "a" / "smtproute.toml"), *form]
            done = subprocess.run(
                line, capture_output=True, timeout=60, env={**os.environ, "PYTHONIOENCODING": "utf-8"}
            )
            assert done.returncode in (0, 1, 2) and not done.stderr
            assert done.stdout.decode().replace("\n", "").isprintable()
            if command in ("check", "explain --all"):
                assert b"[2J" in done.stdout and b"udcfc" in done.stdout


@pytest.mark.parametrize(("selector", "name"), [("s" * 300, "arc-key-missing"), ("pipe", "arc-key-unusable")])
def test_a_key_that_no_file_can_be(selector: str, name: str, tmp_path: Path) -> None:
    override = tmp_path / "rspamd" / "override.d"
    override.mkdir(parents=True)
    os.mkfifo(override / "example.org.pipe.key")
    (tmp_path / "postfix-accounts.cf").write_text("anna@example.org|{PLAIN}x\n")
    (override / "arc.conf").write_text(
        "enabled = true;\n"
        'domain { example.org { path = "/etc/rspamd/override.d/$domain.$selector.key";\n'
        f'selector = "{selector}"; }} }}\n'
    )
    (tmp_path / "mailserver.env").write_text("ENABLE_RSPAMD=1\n")
    file = tmp_path / "smtproute.toml"
    file.write_text('[docker_mailserver]\nconfig = "."\nenv = "mailserver.env"\n')
    found = examine(load(str(file), {}, fqdn=lambda: "mail.example.org"))
    assert name in {each.name for each in found}
