"""`smtproute keys`, as a process: what it writes, what it prints, and that others can read both."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from pathlib import Path

import dns.rdatatype
import dns.zone
import pytest

from smtproute.core.address import Domain
from smtproute.core.settings import DomainKey
from smtproute.mailauth.keys import load, record
from tests.e2e.test_cli import run

HEAD = 'state = "{folder}/state"\nhostname = "mail.example.org"\n'
RSA, ED25519 = "rsa-1024-mail-example.org.private.txt", "ed25519-mail-example.org.private.txt"


def new(folder: Path, *arguments: str, bits: str = "1024") -> str:
    """A key of example.org; what was printed."""
    done = run("keys", "new", "example.org", "--bits", bits, "--folder", str(folder), *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def text_of(file: Path, domain: str = "example.org", selector: str = "mail") -> str:
    return record(load(DomainKey(Domain.parse(domain), selector, str(file))))


def published(printed: str, name: str = "mail._domainkey.example.org.") -> tuple[bytes, ...]:
    """The strings of the TXT record in a zone of what was printed, which is read as name servers do."""
    first = next(line for line in printed.splitlines() if " IN TXT (" in line)
    text = printed[printed.index(first) : printed.index("\n)", printed.index(first)) + 2]
    zone = dns.zone.from_text(f"$TTL 60\n{text}\n", ".", check_origin=False, relativize=False)
    (txt,) = zone.find_rdataset(name, dns.rdatatype.TXT)
    return txt.strings


def test_a_key_its_record_and_its_place(tmp_path: Path) -> None:
    printed = new(tmp_path, bits="2048")
    (file,) = tmp_path.iterdir()
    assert file.name == "rsa-2048-mail-example.org.private.txt"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = text_of(file)
    assert printed.splitlines()[0] == f"{file}: an RSA key of 2048 bits, for its owner alone to read"
    strings = published(printed)
    assert b"".join(strings).decode() == text and [len(each) for each in strings] == [255, len(text) - 255]
    assert text in printed.splitlines(), "on one line for a web form"
    written = tomllib.loads(printed[printed.index("[[arc.") : printed.index("Once ")])
    key = {"selector": "mail", "file": str(file)}
    assert written == {"arc": {"keys": {"example.org": [key]}}, "dkim": {"keys": {"example.org": [key]}}}
    assert "smtproute check --dns" in printed


def test_what_it_prints_is_a_configuration(tmp_path: Path) -> None:
    printed = new(tmp_path) + new(tmp_path, "--kind", "ed25519")
    lines = [line for line in printed.splitlines() if line.startswith(("[[", "selector", "file"))]
    config = tmp_path / "smtproute.toml"
    # Two keys that sign are two records.
    written = "\n".join(lines).replace('selector = "mail"', 'selector = "ed"').replace('"ed"', '"mail"', 2)
    config.write_text(HEAD.format(folder=tmp_path) + 'domains = ["example.org"]\n' + written)
    shown = [json.loads(line) for line in run("keys", "show", "--json", "-c", str(config)).stdout.splitlines()]
    assert [(each["selector"], each["kind"], each["bits"], each["does"]) for each in shown] == [
        ("ed", "ed25519", 256, ["signs (DKIM)"]),
        ("mail", "rsa", 1024, ["seals (ARC)", "signs (DKIM)"]),
    ]


def test_an_ed25519_key_does_not_seal(tmp_path: Path) -> None:
    printed = new(tmp_path, "--kind", "ed25519")
    (file,) = tmp_path.iterdir()
    assert (file.name, stat.S_IMODE(file.stat().st_mode)) == (ED25519, 0o600)
    assert b"".join(published(printed)).decode() == text_of(file)
    assert "[[dkim.keys." in printed and "[[arc.keys." not in printed


def test_a_key_that_is_there_stays(tmp_path: Path) -> None:
    new(tmp_path)
    before = (tmp_path / RSA).read_bytes()
    done = run("keys", "new", "example.org", "--bits", "1024", "--folder", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{RSA} is there already" in done.stderr and "--selector" in done.stderr
    assert (tmp_path / RSA).read_bytes() == before
    (tmp_path / ED25519).symlink_to(tmp_path / "elsewhere")
    done = run("keys", "new", "example.org", "--kind", "ed25519", "--folder", str(tmp_path))
    assert done.returncode == 1 and not (tmp_path / "elsewhere").exists(), "no link is followed"


def test_a_generous_umask_opens_nothing(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        new(tmp_path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / RSA).stat().st_mode) == 0o600


def test_a_name_beyond_ascii_and_another_selector(tmp_path: Path) -> None:
    done = run("keys", "new", "Bücher.example", "--selector", "2026.a", "--bits", "1024", "--folder", str(tmp_path))
    (file,) = tmp_path.iterdir()
    assert file.name == "rsa-1024-2026.a-xn--bcher-kva.example.private.txt"
    assert b"".join(published(done.stdout, "2026.a._domainkey.xn--bcher-kva.example.")).decode() == text_of(file)
    assert '[[dkim.keys."xn--bcher-kva.example"]]' in done.stdout


def test_as_json(tmp_path: Path) -> None:
    (made,) = map(json.loads, new(tmp_path, "--json").splitlines())
    file = tmp_path / RSA
    assert made == {
        "domain": "example.org",
        "selector": "mail",
        "does": [],
        "kind": "rsa",
        "bits": 1024,
        "file": str(file),
        "name": "mail._domainkey.example.org",
        "record": text_of(file),
        "why": "",
    }


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["[192.0.2.1]"], 64, "keys belong to names"),
        (["not a domain"], 64, "is no domain name"),
        (["../etc"], 64, "is no domain name"),
        (["example.org", "--selector", "a/b"], 64, "--selector"),
        (["example.org", "--selector", ".".join(["x" * 60] * 4)], 64, "shorter --selector"),
        (["example.org", "--kind", "dsa"], 64, "it is rsa or ed25519"),
        (["example.org", "--bits", "512"], 64, "--bits"),
        (["example.org", "--folder", "/nowhere/at/all"], 1, "cannot be written: No such file or directory"),
    ],
)
def test_what_cannot_be_made(arguments: list[str], status: int, said: str) -> None:
    done = run("keys", "new", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in " ".join(done.stderr.replace("│", " ").split())


# Showing

KEYS = """\
domains = ["example.org"]
[[arc.keys."example.org"]]
selector = "mail"
file = "rsa-1024-mail-example.org.private.txt"
[[arc.keys."example.org"]]
selector = "next"
file = "broken.txt"
[[dkim.keys."example.org"]]
selector = "mail"
file = "rsa-1024-mail-example.org.private.txt"
[[dkim.keys."Bücher.example"]]
selector = "ed"
file = "ed25519-mail-example.org.private.txt"
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    new(tmp_path)
    new(tmp_path, "--kind", "ed25519")
    (tmp_path / "broken.txt").write_text("nothing")
    file = tmp_path / "smtproute.toml"
    file.write_text(HEAD.format(folder=tmp_path) + KEYS)
    return str(file)


def test_every_key_of_the_configuration(tmp_path: Path, config: str) -> None:
    done = run("keys", "show", "-c", config)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n\n") == [
        "example.org, selector mail: seals (ARC), signs (DKIM)\n"
        f"  rsa, 1024 bits, {tmp_path / RSA}\n"
        "  mail._domainkey.example.org. IN TXT (\n"
        f'      "{text_of(tmp_path / RSA)}"\n'
        "  )",
        "example.org, selector next: waits for a rotation (ARC)\n"
        f"  it cannot be used: {tmp_path / 'broken.txt'}: this is no PEM file; "
        f"convert it with: openssl pkey -inform DER -in {tmp_path / 'broken.txt'}",
        "xn--bcher-kva.example, selector ed: signs (DKIM)\n"
        f"  ed25519, {tmp_path / ED25519}\n"
        "  ed._domainkey.xn--bcher-kva.example. IN TXT (\n"
        f'      "{text_of(tmp_path / ED25519)}"\n'
        "  )\n",
    ]
    last = done.stdout.split("\n\n")[2].replace("\n  ", "\n")
    assert published(last, "ed._domainkey.xn--bcher-kva.example.") == (text_of(tmp_path / ED25519).encode(),)


def test_the_keys_of_one_domain(config: str) -> None:
    done = run("keys", "show", "bücher.example", "--json", "-c", config)
    (shown,) = map(json.loads, done.stdout.splitlines())
    assert (done.returncode, shown["domain"], shown["kind"]) == (0, "xn--bcher-kva.example", "ed25519")
    done = run("keys", "show", "example.com", "-c", config)
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no key for example.com: there are keys for example.org, xn--bcher-kva.example." in done.stderr


def test_the_keys_of_a_docker_mailserver_folder(tmp_path: Path, config: str) -> None:
    override = tmp_path / "dms" / "rspamd" / "override.d"
    override.mkdir(parents=True)
    (tmp_path / "dms" / "rspamd" / "dkim").mkdir()
    (tmp_path / RSA).rename(tmp_path / "dms" / "rspamd" / "dkim" / RSA)
    path = f"/tmp/docker-mailserver/rspamd/dkim/{RSA}"
    for name in ("arc.conf", "dkim_signing.conf"):
        (override / name).write_text(f'domain {{ example.org {{ path = "{path}"; selector = "mail"; }} }}\n')
    (tmp_path / "dms" / "postfix-accounts.cf").write_text("")
    (tmp_path / "smtproute.toml").write_text(HEAD.format(folder=tmp_path) + '[docker_mailserver]\nconfig = "dms"\n')
    (shown,) = map(json.loads, run("keys", "show", "--json", "-c", config).stdout.splitlines())
    assert (shown["domain"], shown["does"]) == ("example.org", ["seals (ARC)", "signs (DKIM)"])
    assert shown["file"] == str(tmp_path / "dms" / "rspamd" / "dkim" / RSA) and shown["record"].startswith("v=DKIM1")


def test_no_key_and_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "smtproute.toml"
    file.write_text(HEAD.format(folder=tmp_path))
    done = run("keys", "show", "-c", str(file))
    assert (done.returncode, done.stdout) == (0, "there are no keys; make one with: smtproute keys new DOMAIN\n")
    assert run("keys", "show", "--json", "-c", str(file)).stdout == ""
    file.write_text("states = 1")
    assert run("keys", "show", "-c", str(file)).returncode == 78
