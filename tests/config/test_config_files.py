"""Files that are none: pipes, devices, links to nowhere, folders. Nobody waits for them, and none passes for absent."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from smtproute.config import files
from smtproute.config.document import Mistake
from tests.config.folders import loaded, shown

ANNA = "anna@example.org|{X}y\n"


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _large(path: Path) -> None:
    path.touch()
    os.truncate(path, files.LARGEST + 1)


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "no regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
    "folder": (Path.mkdir, "is a directory"),
    "socket": (_socket, "no such device or address"),
    "nowhere": (lambda path: path.symlink_to("/nonexistent"), "no such file or directory"),
    "loop": (lambda path: path.symlink_to(path.name), "too many levels of symbolic links"),
    "large": (_large, "larger than 64 mib"),
}
FILES = [
    "dovecot-quotas.cf",
    "opendkim/KeyTable",
    "opendkim/SigningTable",
    "postfix-accounts.cf",
    "postfix-aliases.cf",
    "postfix-main.cf",
    "postfix-receive-access.cf",
    "postfix-regexp.cf",
    "postfix-relaymap.cf",
    "postfix-sasl-password.cf",
    "postfix-send-access.cf",
    "postfix-virtual.cf",
    "rspamd/override.d/arc.conf",
    "rspamd/override.d/dkim_signing.conf",
]


def _made(folder: Path, name: str, make: Callable[[Path], object]) -> Path:
    file = folder / "config" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    make(file)
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_is_unreadable(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    make, why = KINDS[kind]
    make(Path("x"))
    with pytest.raises(OSError) as caught:
        files.read(Path("x"))
    assert (caught.value.strerror or "").lower() == why
    assert files.present(Path("x"))


def test_a_file_is_read_and_one_that_is_not_there_is_absent(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"x\0")
    (tmp_path / "link").symlink_to("real")
    assert files.read(tmp_path / "link") == b"x\0"
    assert not files.present(tmp_path / "none")
    assert not files.present(tmp_path / "real" / "x")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["pipe", "nowhere", "folder"])
def test_no_file_of_a_folder_passes_for_absent(name: str, kind: str, tmp_path: Path) -> None:
    loaded(tmp_path, accounts=ANNA)
    make, why = KINDS[kind]
    if name.endswith("SigningTable"):
        _made(tmp_path, "opendkim/KeyTable", Path.touch)
    file = _made(tmp_path, name, make)
    with pytest.raises(Mistake) as caught:
        loaded(tmp_path)
    assert f"{file} cannot be read: {why}. Mend that file." in str(caught.value)


@pytest.mark.parametrize("kind", ["pipe", "nowhere"])
@pytest.mark.parametrize(
    "text",
    [
        '[docker_mailserver]\nconfig = "config"\nenv = "x"\n',
        '[accounts]\nfile = "x"\n',
        '[aliases]\ntables = ["texthash:x"]\n',
        '[listener.a]\nbind = "127.0.0.1:0"\nrole = "trusted"\ncertificate = "x"\nkey = "x"\n',
        '[arc.keys."example.org"]\nselector = "s"\nfile = "x"\n',
    ],
)
def test_no_file_that_the_configuration_names_is_waited_for(text: str, kind: str, tmp_path: Path) -> None:
    from smtproute.config import load

    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "postfix-accounts.cf").write_text(ANNA)
    KINDS[kind][0](tmp_path / "x")
    file = tmp_path / "smtproute.toml"
    file.write_text(text)
    with pytest.raises(Mistake, match=f"cannot be read: {KINDS[kind][1]}"):
        load(str(file), {}, fqdn=lambda: "mail.example.org")


@pytest.mark.parametrize("kind", ["pipe", "nowhere"])
def test_the_configuration_itself_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    from smtproute.config import find, load

    file = tmp_path / "smtproute.toml"
    KINDS[kind][0](file)
    assert find(None, {}, tmp_path) == str(file)
    with pytest.raises(Mistake, match=f"cannot be read: {KINDS[kind][1]}"):
        load(str(file), {}, fqdn=lambda: "mail.example.org")


def test_a_pipe_for_a_variable_leaves_it_unset(tmp_path: Path) -> None:
    loaded(tmp_path, accounts=ANNA)
    os.mkfifo(tmp_path / "config" / "host")
    snapshot = loaded(tmp_path, env="RELAY_HOST__FILE=/tmp/docker-mailserver/host\n")
    assert shown(snapshot.findings) == [("environment-file", "dms.env:1", "")]


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_table_that_main_cf_names_is_unreadable_too(kind: str, tmp_path: Path) -> None:
    main = "virtual_alias_maps = texthash:/tmp/docker-mailserver/more\n"
    loaded(tmp_path, accounts=ANNA, main=main)
    _made(tmp_path, "more", KINDS[kind][0])
    with pytest.raises(Mistake, match=f"more cannot be read: {KINDS[kind][1]}"):
        loaded(tmp_path)


def test_a_key_with_a_name_beyond_every_limit_is_not_there(tmp_path: Path) -> None:
    loaded(tmp_path, accounts=ANNA)
    tables = {"KeyTable": f"k example.org:{'s' * 300}:/etc/opendkim/{'s' * 300}\n", "SigningTable": "*@example.org k\n"}
    for name, text in tables.items():
        _made(tmp_path, f"opendkim/{name}", lambda file, text=text: file.write_text(text))
    snapshot = loaded(tmp_path)
    assert [(each.name, each.where) for each in snapshot.findings] == [("opendkim-table", "opendkim/KeyTable:1")]
