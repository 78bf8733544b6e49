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
from smtproute.core.finding import Finding, Severity
from smtproute.doctor import examine, watch
from smtproute.doctor.dns.questions import questions
from smtproute.doctor.survey import Survey
from tests.doctor.test_findings import HERE, loaded, private_key

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


KEY_TABLE = "mail._domainkey.example.org example.org:mail:/etc/opendkim/keys/example.org/mail.private\n"


def without_seals(tmp_path: Path, env: str) -> Path:
    """A folder that forwards, with an OpenDKIM key and nothing that seals; the environment says `env`."""
    folder = tmp_path / "folder"
    shutil.copytree(HERE / "arc-missing", folder)
    key = folder / "opendkim/keys/example.org/mail.private"
    key.parent.mkdir(parents=True)
    key.write_bytes(private_key(2048))
    key.chmod(0o600)
    (folder / "opendkim/KeyTable").write_text(KEY_TABLE)
    (folder / "opendkim/SigningTable").write_text("*@example.org mail._domainkey.example.org\n")
    (folder / "mailserver.env").write_text(f"{env}\nENABLE_SRS=1\n")
    (folder / "smtproute.toml").open("a").write('env = "mailserver.env"\n')
    return folder


def findings(folder: Path) -> list[Finding]:
    return examine(load(str(folder / "smtproute.toml"), {}, fqdn=lambda: "mail.example.org"))


@pytest.mark.peer("openssl")
@pytest.mark.parametrize("more", ["", "lists@sub.example.net anna@example.org\n"])
def test_with_the_key_of_opendkim_this_relay_seals(more: str, tmp_path: Path) -> None:
    """What the finding says is done word for word, also where a domain has no key; then nothing is left to say."""
    folder = without_seals(tmp_path, "ENABLE_RSPAMD=0")
    (folder / "postfix-virtual.cf").open("a").write(more)
    before = findings(folder)
    (finding,) = [each for each in before if each.name == "arc-missing"]
    assert "ENABLE_OPENDKIM=0" in finding.instead
    (folder / "smtproute.toml").open("a").write(finding.instead + "\n")
    assert findings(folder) == [each for each in before if each != finding]


@pytest.mark.peer("openssl")
@pytest.mark.parametrize("made", [False, True])
def test_with_rspamd_off_and_no_key_both_are_asked_for(made: bool, tmp_path: Path) -> None:
    """An arc.conf names the key that is there, else one of a new selector with the command that makes it."""
    folder = without_seals(tmp_path, f"ENABLE_RSPAMD={int(made)}\nENABLE_OPENDKIM=0")
    shutil.rmtree(folder / "opendkim")
    if made:
        key = folder / "rspamd/dkim/other.txt"
        key.parent.mkdir(parents=True)
        key.write_bytes(private_key(2048))
        key.chmod(0o600)
        path = "/tmp/docker-mailserver/rspamd/dkim/other.txt"
        (folder / "rspamd/override.d").mkdir()
        signing = f'domain {{ example.org {{ path = "{path}"; selector = "here"; }} }}\n'
        (folder / "rspamd/override.d/dkim_signing.conf").write_text(signing)
    (finding,) = findings(folder)
    told = finding.instead.splitlines()
    assert ("ENABLE_RSPAMD=1" in told, "ENABLE_OPENDKIM=0" in told) == (not made, not made)
    assert ("setup config dkim domain example.org selector rspamd" in told) is not made
    if made:
        arc = "\n".join(line for line in told if line.endswith((";", "}")))
        (folder / "rspamd/override.d/arc.conf").write_text(arc + "\n")
        (folder / "postfix-main.cf").write_text("smtp_header_checks =\n")
        assert "smtp_header_checks = (in postfix-main.cf)" in told
        assert findings(folder) == []


@pytest.mark.peer("openssl")
def test_of_two_keys_for_one_record_the_one_that_signs_is_asked_for(tmp_path: Path) -> None:
    snapshot = loaded("dkim-one-record", tmp_path)
    (found,) = [each for each in examine(snapshot) if each.name == "dkim-one-record"]
    assert "mail._domainkey.example.org can hold only one" in found.what and "ENABLE_OPENDKIM=0" in found.instead
    (key,) = questions(Survey(snapshot)).keys
    assert key.where.startswith("rspamd/override.d/dkim_signing.conf")
