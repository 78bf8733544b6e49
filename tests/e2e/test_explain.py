"""`smtproute explain` over docker-mailserver folders: differences, who has logged in, every address, what changes."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtproute.config.load import load
from smtproute.core.address import Address, Domain
from smtproute.core.choice import Choice
from smtproute.core.envelope import Client, Envelope
from smtproute.core.settings import Endpoint, Kind, Role
from smtproute.core.snapshot import Snapshot
from smtproute.intake.explain import Explained, explain
from smtproute.intake.listing import ANYBODY, changes, known, listed
from tests.e2e.test_cli import run

CONFIG = """\
state = "state"
hostname = "mail.example.org"
default = { endpoint = "far" }
[docker_mailserver]
config = "dms"
[listener.mx]
bind = "127.0.0.1:0"
role = "inbound"
[listener.sub]
bind = "127.0.0.1:0"
role = "submission"
auth_in_clear = "loopback"
[endpoint.far]
servers = ["far.internal:25"]
[resolver]
order = ["static"]
static = { "far.internal" = ["127.0.0.1"] }
"""
HASH = "{SHA512-CRYPT}$6$llx5yo0dPJOPnTpt$gOyb0dRgalXSmO6U5WQ1wGjdyfLV5OG3pBzrBZPx43XDKP"
FILES = {
    "postfix-accounts.cf": f"name@example.org|{HASH}\nanna@example.org|{HASH}\nzoe@other.example|{HASH}\n",
    "postfix-virtual.cf": (
        "name@example.org name@example.org,me@far.example\n"
        "info@example.org anna@example.org\n"
        "out@example.org me@far.example\n"
        "gone@example.org nobody@example.org\n"
        "round@example.org about@example.org\n"
        "about@example.org round@example.org\n"
        "anna@other.example me@far.example\n"
        "@catch.example anna@example.org\n"
    ),
    "postfix-regexp.cf": "/^support[0-9]*@example\\.org$/ anna@example.org, desk@far.example\n",
    "postfix-aliases.cf": "desk: zoe@other.example\n",
    "dovecot-quotas.cf": "anna@example.org:1k\n",
}
LISTED = """\
*@catch.example -> mailbox anna@example.org
about@example.org -> 451 4.4.6 Alias loop: the address leads back to itself
anna@example.org -> mailbox anna@example.org
gone@example.org -> 550 5.1.1 User unknown: check the spelling of the address
info@example.org -> mailbox anna@example.org
name@example.org -> mailbox name@example.org; endpoint far for me@far.example
nobody@example.org -> 550 5.1.1 User unknown: check the spelling of the address
out@example.org -> endpoint far for me@far.example
postmaster@example.org -> 550 5.1.1 User unknown: check the spelling of the address
round@example.org -> 451 4.4.6 Alias loop: the address leads back to itself
anna@other.example -> endpoint far for me@far.example
zoe@other.example -> mailbox zoe@other.example
/^support[0-9]*@example\\.org$/ -> pattern, to anna@example.org, desk@far.example
"""


def write(folder: Path, **changed: str) -> None:
    """A docker-mailserver folder; `postfix_virtual="..."` replaces postfix-virtual.cf."""
    folder.mkdir()
    files = FILES | {f"{name.replace('_', '-')}.cf": text for name, text in changed.items()}
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "dms")
    made = tmp_path / "smtproute.toml"
    made.write_text(CONFIG)
    return made


def told(file: Path, *arguments: str) -> list[dict]:
    done = run("explain", "-c", str(file), "--json", *arguments)
    assert done.stdout, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def there(explained: dict) -> str:
    """What docker-mailserver does otherwise with a recipient."""
    assert explained["docker_mailserver"]["version"] == "15"
    return " ".join(explained["docker_mailserver"]["differences"])


def test_what_docker_mailserver_does_otherwise_stands_beside_our_decision(file: Path) -> None:
    name, loop, plain = told(file, "name@example.org", "round@example.org", "zoe@other.example")
    assert "2 copies go to me@far.example" in there(name)
    assert "if ENABLE_AMAVIS=1 (the default)" in there(name)
    assert "451 4.6.0 Alias expansion error after DATA" in there(loop)
    assert there(plain) == ""
    text = run("explain", "gone@example.org", "-c", str(file)).stdout
    assert "\n  docker-mailserver 15: It answers 250 at RCPT and bounces later" in text
    file.write_text(file.read_text().replace('config = "dms"', 'config = "dms"\nversion = "16"'))
    text = run("explain", "out@example.org", "-c", str(file)).stdout
    assert "\n  docker-mailserver 16: At RCPT it answers 554 5.7.1 Unknown user: " in text


def test_the_environment_file_says_what_the_container_has(file: Path) -> None:
    (file.parent / "mailserver.env").write_text("ENABLE_AMAVIS=0\nENABLE_QUOTAS=0\n")
    file.write_text(file.read_text().replace('config = "dms"', 'config = "dms"\nenv = "mailserver.env"'))
    (name,) = told(file, "name@example.org")
    assert there(name) == ""


@pytest.mark.parametrize(
    ("relaymap", "passwords", "why"),
    [
        (
            "@example.org [relay.example:587\n",
            "",
            '451 4.3.5 .*postfix-relaymap.cf:1: "\\[relay.example:587" is no next hop',
        ),
        (
            "@example.org [relay.example]:587\n",
            "[relay.example]:587 a:b\n[relay.example]:587 c:d\n",
            "451 4.3.0 .*postfix-sasl-password.cf: duplicate key",
        ),
    ],
)
def test_a_relay_whose_mail_waits(file: Path, relaymap: str, passwords: str, why: str) -> None:
    (file.parent / "dms" / "postfix-relaymap.cf").write_text(relaymap)
    (file.parent / "dms" / "postfix-sasl-password.cf").write_text(passwords)
    done = run("explain", "me@far.example", "--from", "name@example.org", "--auth", "name@example.org", "-c", str(file))
    assert done.returncode == 1, done.stderr
    assert "  reply 250 2.1.5 " in done.stdout
    assert re.search(f"\n     {why}", done.stdout), done.stdout


def test_a_full_mailbox(file: Path) -> None:
    inbox = file.parent / "state" / "mail" / "example.org" / "anna" / "new"
    inbox.mkdir(parents=True)
    (inbox / "1.M1P1.host").write_bytes(b"Subject: x\r\n\r\n" + b"x" * 2000)
    (explained,) = told(file, "info@example.org")
    assert (explained["reply"]["code"], explained["reply"]["enhanced"]) == (552, "5.2.2")
    assert "dovecot-quotas.cf:1" in [step["rule"] for step in explained["steps"]]
    assert "for info@example.org, a virtual account with the limit of anna@example.org" in there(explained)
    (file.parent / "dms" / "postfix-virtual.cf").write_text("anna@example.org me@far.example\n")
    (explained,) = told(file, "anna@example.org")
    assert (explained["reply"]["code"], explained["deliveries"][0]["address"]) == (250, "me@far.example")
    said = there(explained)
    assert "At RCPT it answers 552 5.2.2 Mailbox is full: " in said and "though nothing of this mail goes there" in said


def test_the_size_decides_whether_a_mailbox_has_room(file: Path) -> None:
    (small,) = told(file, "anna@example.org", "--size", "1126")
    (large,) = told(file, "anna@example.org", "--size", "1127")
    assert (small["reply"]["code"], large["reply"]["code"]) == (250, 552)  # 1k, and a tenth of grace
    done = run("explain", "anna@example.org", "--size", "99999999", "-c", str(file))
    assert done.returncode == 64
    assert "--size 99999999: no message is taken that is larger than 10240000 octets" in done.stderr


def test_two_recipients_that_meet_are_one_copy_here(file: Path) -> None:
    first, second = told(file, "out@example.org", "anna@other.example")
    assert first["notes"] == []
    assert "Postfix would send it two" in second["notes"][0]


def test_without_a_folder_there_is_no_docker_mailserver(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[aliases]\ntables = ["aliases"]\n')
    (tmp_path / "aliases").write_text("a@x.example b@y.example\n")
    (explained,) = told(file, "a@x.example")
    assert "docker_mailserver" not in explained
    assert run("explain", "--all", "-c", str(file)).stdout == "a@x.example -> capture of b@y.example\n"
    done = run("explain", "--diff", str(tmp_path), "-c", str(file))
    assert done.returncode == 64 and "write docker_mailserver.config first" in done.stderr


def test_who_has_logged_in(file: Path) -> None:
    (explained,) = told(file, "x@elsewhere.example", "--auth", "Name@example.org", "--from", "boss@else.example")
    assert explained["reply"]["code"] == 250
    assert ("listener.sub", "name@example.org") in [(step["rule"], step["tried"]) for step in explained["steps"]]
    assert "may send as anybody, name@example.org as boss@else.example" in there(explained)
    (virtual,) = told(file, "x@elsewhere.example", "--auth", "info@example.org")
    assert ("listener.sub", "info@example.org") in [(step["rule"], step["tried"]) for step in virtual["steps"]]
    (nobody,) = told(file, "x@elsewhere.example", "--listener", "sub")
    assert nobody["reply"]["code"] == 530
    done = run("explain", "x@elsewhere.example", "--auth", "nmae@example.org", "-c", str(file))
    assert done.returncode == 64
    assert "there is no such login. Did you mean name@example.org" in done.stderr


def test_every_address_that_the_folder_knows(file: Path) -> None:
    done = run("explain", "--all", "-c", str(file))
    assert done.returncode == 2, done.stderr
    shown = done.stdout.splitlines()
    assert "desk@mail.example.org -> mailbox zoe@other.example" in shown
    local = [line for line in shown if "@mail.example.org -> " in line]
    assert "\n".join(line for line in shown if line not in local) + "\n" == LISTED
    assert run("explain", "--all", "-c", str(file)).stdout == done.stdout
    objects = told(file, "--all")
    assert [each["address"] for each in objects] == [line.partition(" -> ")[0] for line in shown]
    (catch,) = [each for each in objects if each["address"] == "*@catch.example"]
    assert catch["reply"] == {"code": 250, "enhanced": "2.1.5", "text": "*@catch.example accepted"}
    assert [each["address"] for each in catch["deliveries"]] == ["anna@example.org"]
    assert objects[-1]["reply"] is None


def test_a_catch_all_that_keeps_the_name(file: Path) -> None:
    (file.parent / "dms" / "postfix-virtual.cf").write_text("@catch.example @far.example\n")
    done = run("explain", "--all", "-c", str(file))
    assert "*@catch.example -> endpoint far for *@far.example" in done.stdout.splitlines()


def test_what_changes_with_another_folder(file: Path) -> None:
    other = file.parent / "new"
    table = FILES["postfix-virtual.cf"]
    table = table.replace("out@example.org me@far.example", "out@example.org anna@example.org")
    table = table.replace("gone@example.org nobody@example.org\n", "") + "new@example.org zoe@other.example\n"
    write(other, postfix_virtual=table, postfix_regexp="/^help@example\\.org$/ anna@example.org\n")
    done = run("explain", "--diff", str(other), "-c", str(file))
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines() == [
        "- new@example.org -> 550 5.1.1 User unknown: check the spelling of the address",
        "+ new@example.org -> mailbox zoe@other.example",
        "- out@example.org -> endpoint far for me@far.example",
        "+ out@example.org -> mailbox anna@example.org",
        "- /^support[0-9]*@example\\.org$/ -> pattern, to anna@example.org, desk@far.example",
        "+ /^help@example\\.org$/ -> pattern, to anna@example.org",
    ]
    assert done.stderr.splitlines()[-1] == "4 lines change"
    back = run("explain", "--all", "--diff", "dms", "-c", str(file), SMTPROUTE__DOCKER_MAILSERVER__CONFIG=str(other))
    assert back.returncode == 78 and "--diff dms: no such folder" in back.stderr  # it starts at the working folder
    objects = told(file, "--diff", str(other))
    assert [each["address"] for each in objects[:2]] == ["new@example.org", "out@example.org"]
    assert objects[1]["will_be"]["deliveries"][0]["kind"] == "mailbox"
    assert (objects[2]["will_be"], objects[3]["was"]) == (None, None)


def test_what_does_not_change(file: Path) -> None:
    shutil.copytree(file.parent / "dms", file.parent / "copy")
    done = run("explain", "--diff", str(file.parent / "copy"), "-c", str(file))
    assert (done.returncode, done.stdout, done.stderr.splitlines()[-1]) == (0, "", "nothing changes")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--all", "a@example.org"], 64, "not both"),
        (["--diff", "/", "a@example.org"], 64, "not both"),
        ([], 64, "ADDRESS"),
        (["--diff", "/none/such"], 78, "--diff /none/such: no such folder"),
        (["--diff", "/"], 78, "postfix-virtual.cf"),
        (["--all", "--listener", "none"], 64, "there is no listener 'none'"),
    ],
)
def test_wrong_usage(file: Path, arguments: list[str], status: int, said: str) -> None:
    done = run("explain", *arguments, "-c", str(file))
    assert done.returncode == status, done.stderr
    assert said in done.stderr


# Properties, over folders made at random


LOCALS = st.sampled_from(["a", "b", "c", "name", "root"])
PLACES = st.sampled_from(["one.example", "two.example", "far.example", "mail.example.org"])
ADDRESSES = st.builds(lambda local, domain: f"{local}@{domain}", LOCALS, PLACES)
KEYS = st.one_of(ADDRESSES, st.sampled_from(["@one.example", "@two.example", "root", "b"]))
TARGETS = st.lists(ADDRESSES, min_size=1, max_size=3).map(", ".join)
TABLES = st.dictionaries(KEYS, st.one_of(TARGETS, st.just("@far.example")), max_size=8)
PATTERNS = st.lists(st.sampled_from(["/^a@/", "/^(.*)@two\\.example$/", "/two/", "!/example/"]), max_size=2)
STRANGER = Envelope(Client("192.0.2.1", 0, "mx", Role.INBOUND, False), Address.parse("s@else.example"))


def snapshot(folder: Path, accounts: set[str], table: dict[str, str], patterns: list[str]) -> Snapshot:
    (folder / "dms").mkdir()
    (folder / "dms" / "postfix-accounts.cf").write_text("".join(f"{each}|{HASH}\n" for each in sorted(accounts)))
    (folder / "dms" / "postfix-virtual.cf").write_text("".join(f"{key} {value}\n" for key, value in table.items()))
    (folder / "dms" / "postfix-regexp.cf").write_text("".join(f"{each} a@one.example\n" for each in patterns))
    (folder / "smtproute.toml").write_text(CONFIG)
    return load(str(folder / "smtproute.toml"), {}, fqdn=lambda: "mail.example.org")


async def nowhere(endpoint: Endpoint, domain: Domain) -> Choice:
    return Choice()


async def empty(account: Address) -> int:
    return 0


def one(made: Snapshot, address: Address) -> Explained:
    (explained,) = asyncio.run(explain(made, nowhere, empty, STRANGER, [address], 0.0))
    return explained


@settings(max_examples=60)
@given(accounts=st.sets(ADDRESSES, max_size=4), table=TABLES, patterns=PATTERNS)
def test_each_line_agrees_with_the_explanation_of_its_address(
    accounts: set[str], table: dict[str, str], patterns: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = snapshot(Path(folder), accounts, table, patterns)
    lines = [listed(made, STRANGER, each, 0.0) for each in known(made)]
    addresses = [each.known.address for each in lines if each.known.address is not None]
    order = [(each.domain.key, "" if each.local == ANYBODY else each.local) for each in addresses]
    assert order == sorted(set(order))
    assert {each.lower() for each in accounts} <= {each.key for each in addresses}
    for line in lines:
        if line.known.address is None:
            assert line.known.shown in patterns
            continue
        explained = one(made, line.known.address)
        assert line.plan is not None and line.plan.reply == explained.plan.reply
        assert [(leg.delivery, leg.seal) for leg in line.legs] == [(leg.delivery, leg.seal) for leg in explained.legs]
        assert line.status <= explained.status
        for leg in explained.legs:
            said = leg.delivery.mailbox if leg.delivery.kind is Kind.MAILBOX else leg.delivery.address
            assert str(said).replace(ANYBODY, "*") in line.what
        if explained.plan.refusal is not None:
            assert line.what == str(explained.plan.reply)


@settings(max_examples=40)
@given(accounts=st.sets(ADDRESSES, max_size=3), table=TABLES, other=TABLES, patterns=PATTERNS)
def test_what_is_not_named_as_a_change_is_the_same(
    accounts: set[str], table: dict[str, str], other: dict[str, str], patterns: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as old, tempfile.TemporaryDirectory() as new:
        was = snapshot(Path(old), accounts, table, patterns)
        will_be = snapshot(Path(new), accounts, other, patterns)
    changed = {each.was.known.shown for each in changes(was, will_be, STRANGER, 0.0) if each.was is not None}
    for each in (*known(was), *known(will_be)):
        if each.address is not None:
            same = listed(was, STRANGER, each, 0.0).line() == listed(will_be, STRANGER, each, 0.0).line()
            assert same == (each.shown not in changed)
    assert list(changes(was, was, STRANGER, 0.0)) == []
