"""`smtproute check`, as it is run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from smtproute.core.finding import Severity
from smtproute.doctor import watch
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
