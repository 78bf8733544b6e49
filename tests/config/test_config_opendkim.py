"""The OpenDKIM layout that `setup config dkim` writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from smtproute.config.docker_mailserver.opendkim import read_opendkim
from smtproute.config.docker_mailserver.paths import Paths
from smtproute.core.docker_mailserver import KeyFile
from smtproute.core.finding import Finding

KEYS = (
    "mail._domainkey.one.example one.example:mail:/etc/opendkim/keys/one.example/mail.private\n"
    "mail._domainkey.two.example two.example:mail:/etc/opendkim/keys/two.example/mail.private\n"
)
SIGNERS = "*@one.example mail._domainkey.one.example\n*@two.example mail._domainkey.two.example\n"


def read(
    folder: Path,
    keys: str | None = KEYS,
    signers: str | None = SIGNERS,
    files: tuple[str, ...] = ("one", "two"),
    domains: tuple[str, ...] = (),
) -> tuple[tuple[KeyFile, ...], tuple[Finding, ...]]:
    there = folder / "opendkim"
    there.mkdir()
    (there / "TrustedHosts").write_text("127.0.0.1\nlocalhost\n")
    for name, text in (("KeyTable", keys), ("SigningTable", signers)):
        if text is not None:
            (there / name).write_text(text)
    for name in files:
        (there / "keys" / f"{name}.example").mkdir(parents=True)
        (there / "keys" / f"{name}.example" / "mail.private").touch()
    return read_opendkim(folder, Paths(folder, {}), domains)


def test_what_setup_config_dkim_writes(tmp_path: Path) -> None:
    found, findings = read(tmp_path)
    assert findings == ()
    assert found == tuple(
        KeyFile(
            f"{name}.example",
            "mail",
            f"{tmp_path}/opendkim/keys/{name}.example/mail.private",
            f"/etc/opendkim/keys/{name}.example/mail.private",
            f"opendkim/KeyTable:{line}",
        )
        for line, name in ((1, "one"), (2, "two"))
    )


def test_no_folder(tmp_path: Path) -> None:
    assert read_opendkim(tmp_path, Paths(tmp_path, {})) == ((), ())


@pytest.mark.parametrize(
    "signers",
    ["*@ONE.example mail._domainkey.one.example\n", "# c\n\n*@one.example\tmail._domainkey.one.example # c\r\n"],
)
def test_forms_of_signers(tmp_path: Path, signers: str) -> None:
    found, findings = read(tmp_path, KEYS.split("\n")[0], signers)
    assert ([key.domain for key in found], findings) == (["one.example"], ())


def test_one_key_for_all_domains(tmp_path: Path) -> None:
    keys = "all %:mail:/tmp/docker-mailserver/opendkim/keys/one.example/mail.private\n"
    found, findings = read(tmp_path, keys, "*@one.example all\n*@two.example all\n")
    assert [(key.domain, key.file == found[0].file) for key in found] == [("one.example", True), ("two.example", True)]
    assert findings == ()


@pytest.mark.parametrize(
    ("signers", "authors"),
    [
        ("* a", ["one.example", "sub.one.example", "two.example"]),
        ("*@* a", ["one.example", "sub.one.example", "two.example"]),
        ("*@*.one.example a", ["sub.one.example"]),
        ("*one.example a", ["one.example", "sub.one.example"]),
        ("*@else.example a", ["else.example"]),
        ("*@oneXexample a", ["onexexample"]),
        ("*@two.example a\n*@one.example a\n* a", ["two.example", "one.example", "sub.one.example"]),
    ],
)
def test_patterns_of_signers(tmp_path: Path, signers: str, authors: list[str]) -> None:
    keys = "a one.example:mail:/etc/opendkim/keys/one.example/mail.private\n"
    found, findings = read(tmp_path, keys, signers, domains=("one.example", "sub.one.example", "two.example"))
    assert ([key.author or key.domain for key in found], findings) == (authors, ())
    assert {key.domain for key in found} == {"one.example"}


def test_of_two_lines_for_a_domain_the_first_counts(tmp_path: Path) -> None:
    keys = KEYS + KEYS.split("\n")[0].replace("mail", "next")
    found, _ = read(tmp_path, keys, SIGNERS + "*@one.example next._domainkey.one.example\n")
    assert [(key.domain, key.selector) for key in found] == [("one.example", "mail"), ("two.example", "mail")]


def test_single_users_are_not_simulated(tmp_path: Path) -> None:
    found, (finding,) = read(tmp_path, KEYS.split("\n")[0], "user@one.example mail._domainkey.one.example\n")
    assert found == ()
    assert (finding.name, finding.instead) == ("not-simulated", "*@one.example mail._domainkey.one.example")


@pytest.mark.parametrize(
    ("keys", "signers", "files", "where", "word"),
    [
        (None, SIGNERS, (), "opendkim/SigningTable", "no KeyTable"),
        (KEYS, None, ("one", "two"), "opendkim/KeyTable", "no SigningTable"),
        (KEYS, SIGNERS, ("one",), "opendkim/KeyTable:2", "There is no"),
        (
            KEYS,
            SIGNERS + "*@three.example mail._domainkey.three.example\n",
            ("one", "two"),
            "opendkim/SigningTable:3",
            "no key",
        ),
        (KEYS, SIGNERS + "*@three.example\n", ("one", "two"), "opendkim/SigningTable:3", "names no key"),
        (KEYS, SIGNERS.split("\n")[0], ("one", "two"), "opendkim/KeyTable:2", "signs nothing"),
        (KEYS + "x y:z\n", SIGNERS, ("one", "two"), "opendkim/KeyTable:3", "domain:selector:file"),
        (KEYS + KEYS.split("\n")[0], SIGNERS, ("one", "two"), "opendkim/KeyTable:3", "stands here already"),
        (
            KEYS.replace("/etc/opendkim/keys/two", "/keys/two"),
            SIGNERS,
            ("one", "two"),
            "opendkim/KeyTable:2",
            "outside the",
        ),
        (KEYS, SIGNERS.replace("*@two", "two"), ("one", "two"), "opendkim/SigningTable:2", "refile"),
    ],
)
def test_findings(
    tmp_path: Path, keys: str | None, signers: str | None, files: tuple[str, ...], where: str, word: str
) -> None:
    (finding,) = read(tmp_path, keys, signers, files)[1]
    assert (finding.name, finding.where) == ("opendkim-table", where)
    assert word in finding.what


def test_a_path_that_leads_out_of_the_folder_is_none(tmp_path: Path) -> None:
    (key, _), findings = read(tmp_path, KEYS.replace("keys/one.example/mail", "../../etc/passwd"))
    assert (key.file, len(findings)) == ("", 1)
