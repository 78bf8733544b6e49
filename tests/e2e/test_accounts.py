"""`smtproute accounts`, as a process, beside a running relay and without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.test_cli import run, send, serving

CONFIG = """\
state = "{folder}/state"
hostname = "mail.example.org"
[docker_mailserver]
config = "dms"
[listener.mx]
bind = "127.0.0.1:0"
role = "inbound"
"""
ACCOUNTS = """\
anna@example.org|{SHA512-CRYPT}$6$x$y
ben@example.org|{SHA512-CRYPT}$6$x$y
"""
VIRTUAL = """\
sales@example.org ben@example.org
anna@example.org anna@example.org, me@far.example
me@example.org me@far.example
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "dms").mkdir()
    (tmp_path / "dms" / "postfix-accounts.cf").write_text(ACCOUNTS)
    (tmp_path / "dms" / "postfix-virtual.cf").write_text(VIRTUAL)
    (tmp_path / "dms" / "dovecot-quotas.cf").write_text("anna@example.org:0\nben@example.org:2k\n")
    made = tmp_path / "smtproute.toml"
    made.write_text(CONFIG.format(folder=tmp_path))
    return made


def put(file: Path, user: str, octets: int) -> None:
    folder = file.parent / "state" / "mail" / "example.org" / user / "cur"
    folder.mkdir(parents=True)
    (folder / f"1.own.host,S=1,W={octets}:2,S").write_text("")


def test_a_line_for_each_account_and_virtual_account(file: Path) -> None:
    put(file, "ben", 1536)
    done = run("accounts", "-c", str(file))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "account            stands for       quota root  used      limit  full  rule",
        "anna@example.org   -                User quota    0B  unlimited     -  dovecot-quotas.cf:1",
        "ben@example.org    -                User quota  1.5k         2k   75%  dovecot-quotas.cf:2",
        "sales@example.org  ben@example.org  User quota  1.5k         2k   75%  dovecot-quotas.cf:2",
    ]


def test_as_json(file: Path) -> None:
    put(file, "ben", 2500)
    done = run("accounts", "--json", "-c", str(file))
    assert done.returncode == 0, done.stderr
    anna, _, sales = map(json.loads, done.stdout.splitlines())
    assert (anna["name"], anna["usage"], anna["limit"], anna["percent"]) == ("anna@example.org", 0, 0, None)
    assert sales == {
        "name": "sales@example.org",
        "account": "ben@example.org",
        "virtual": True,
        "root": "User quota",
        "usage": 2500,
        "limit": 2048,
        "percent": 122,
        "rule": "dovecot-quotas.cf:2",
        "why": "",
    }


def test_nobody_set_the_default(file: Path) -> None:
    (file.parent / "dms" / "dovecot-quotas.cf").unlink()
    rows = run("accounts", "-c", str(file)).stdout.splitlines()[1:]
    assert [row.split()[-3:] for row in rows] == [["unlimited", "-", "default"]] * 3
    (file.parent / "mailserver.env").write_text("POSTFIX_MAILBOX_SIZE_LIMIT=5000000\n")
    file.write_text(file.read_text().replace('config = "dms"', 'config = "dms"\nenv = "mailserver.env"'))
    rows = run("accounts", "-c", str(file)).stdout.splitlines()[1:]
    assert [row.split()[-3:] for row in rows] == [["5M", "0%", "mailserver.env:1"]] * 3


def test_an_alias_of_several_targets_is_a_name_to_log_in_with_since_16(file: Path) -> None:
    (file.parent / "dms" / "postfix-virtual.cf").write_text("all@example.org ben@example.org, anna@example.org\n")
    listed = {}
    for version in ("15", "16"):
        file.write_text(CONFIG.format(folder=file.parent).replace('"dms"', f'"dms"\nversion = "{version}"'))
        objects = map(json.loads, run("accounts", "--json", "-c", str(file)).stdout.splitlines())
        listed[version] = {each["name"]: each["account"] for each in objects if each["virtual"]}
    assert listed == {"15": {}, "16": {"all@example.org": "ben@example.org"}}


def test_beside_a_running_relay(file: Path) -> None:
    with serving(file) as (_, address):
        message = send(address, "ben@example.org")
        assert "delivered" in run("trace", message, "--follow", "-c", str(file)).stdout
        done = run("accounts", "--json", "-c", str(file))
    assert done.returncode == 0, done.stderr
    (held,) = (file.parent / "state" / "mail" / "example.org" / "ben" / "new").iterdir()
    assert json.loads(done.stdout.splitlines()[1])["usage"] == int(held.name.rpartition("W=")[2]) > 0


def test_what_cannot_be_read_and_why(file: Path) -> None:
    folder = file.parent / "state" / "mail" / "example.org"
    folder.mkdir(parents=True)
    (folder / "ben").write_text("no folder")
    done = run("accounts", "-c", str(file))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[2].split() == ["ben@example.org", "-", "User", "quota", "-", "2k", "-", "dovecot-quotas.cf:2"]
    assert lines[4].startswith("the usage of ben@example.org is not known: ") and "Not a directory" in lines[4]
    assert len(lines) == 5


def test_with_lmtp_the_server_knows(file: Path) -> None:
    put(file, "ben", 2500)
    with file.open("a") as more:
        more.write('[accounts]\nstore = "lmtp"\nlmtp = "dovecot.internal:24"\n')
    done = run("accounts", "--json", "-c", str(file))
    assert done.returncode == 0, done.stderr
    ben = json.loads(done.stdout.splitlines()[1])
    assert (ben["usage"], ben["limit"], ben["percent"]) == (None, 2048, None)
    assert "dovecot.internal:24" in ben["why"]


def test_nobody_and_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "smtproute.toml"
    file.write_text(f'state = "{tmp_path}"')
    assert run("accounts", "-c", str(file)).stdout == "there are no accounts\n"
    assert run("accounts", "--json", "-c", str(file)).stdout == ""
    file.write_text("states = 1")
    done = run("accounts", "-c", str(file))
    assert done.returncode == 78 and "states" in done.stderr
