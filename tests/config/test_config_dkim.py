"""Keys that sign (DKIM) and seal (ARC): one of a domain or several, of the file or of a docker-mailserver folder."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from smtproute.app import Refused
from smtproute.app import load as start
from smtproute.config import Mistake, load
from smtproute.core.address import Domain
from smtproute.core.settings import Dkim, DomainKey, Settings, SignBy
from smtproute.core.snapshot import Snapshot, carried
from smtproute.mailauth.keys import KeyKind, generate
from tests.config.folders import loaded as with_folder
from tests.config.folders import shown

ANNA = "anna@example.org|{X}y\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.pem", "b.pem", "c.pem"):
        (tmp_path / name).touch()


def read(text: str, environ: dict[str, str] | None = None) -> Snapshot:
    Path("smtproute.toml").write_text(text)
    return load("smtproute.toml", environ or {}, fqdn=lambda: "h.example")


def settings(text: str, environ: dict[str, str] | None = None) -> Settings:
    return read(text, environ).settings


def mistakes(text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(Mistake) as caught:
        settings(text, environ)
    return [line.removeprefix("smtproute.toml: ") for line in caught.value.lines]


def key(domain: str, selector: str, file: str) -> DomainKey:
    return DomainKey(Domain.parse(domain), selector, str(Path.cwd() / file))


def one(table: str, domain: str, selector: str, file: str = "a.pem") -> str:
    return f'[{table}.keys."{domain}"]\nselector = "{selector}"\nfile = "{file}"\n'


def another(table: str, domain: str, selector: str, file: str = "a.pem") -> str:
    return f'[[{table}.keys."{domain}"]]\nselector = "{selector}"\nfile = "{file}"\n'


# The file


def test_no_keys() -> None:
    assert settings("").dkim == Dkim()


def test_all_keys_of_a_domain_sign() -> None:
    text = (
        another("dkim", "Example.org", "rsa")
        + another("dkim", "Example.org", "ed", "b.pem")
        + one("dkim", "b.example", "x")
    )
    assert settings(text).dkim == Dkim(
        {
            "example.org": (key("Example.org", "rsa", "a.pem"), key("Example.org", "ed", "b.pem")),
            "b.example": (key("b.example", "x", "a.pem"),),
        }
    )


def test_the_first_key_of_a_domain_seals() -> None:
    keys = [another("arc", "example.org", selector, f"{selector}.pem") for selector in "bac"]
    arc = settings("".join(keys)).arc
    assert arc.sign is SignBy.RECIPIENT
    assert arc.keys == {"example.org": key("example.org", "b", "b.pem")}
    assert arc.others == (key("example.org", "a", "a.pem"), key("example.org", "c", "c.pem"))


@pytest.mark.parametrize("table", ["arc", "dkim"])
@pytest.mark.parametrize("second", ["s", "S"])
def test_one_selector_is_one_key(table: str, second: str) -> None:
    again = "example.org has a key of this selector already. Give each key its own selector and record."
    assert mistakes(another(table, "example.org", "s") + another(table, "example.org", second, "b.pem")) == [
        f'{table}.keys."example.org"[1].selector = "{second}": {again}'
    ]
    settings(one(table, "example.org", "s") + one(table, "example.com", "s"))


@pytest.mark.parametrize("table", ["arc", "dkim"])
def test_mistakes(table: str, tmp_path: Path) -> None:
    at = f'{table}.keys."example.org"'
    gone = f"cannot be read: no such file or directory. A relative path starts at {tmp_path}."
    assert mistakes(one(table, "example.org", "s", "no.pem")) == [f'{at}.file = "no.pem": {gone}']
    assert mistakes(another(table, "example.org", "s") + another(table, "example.org", "t", "no.pem")) == [
        f'{at}[1].file = "no.pem": {gone}'
    ]
    assert mistakes(f'[{at}]\nfile = "a.pem"') == [f"{at}.selector: missing. Add selector."]
    assert mistakes(f'[[{at}]]\nfile = "a.pem"') == [f"{at}[0].selector: missing. Add selector."]
    assert mistakes(one(table, "example.org", "s") + 'selectr = "x"') == [
        f'{at}.selectr: unknown key. Did you mean "selector"?'
    ]
    assert mistakes(f"[{table}.keys]\n'example.org' = []") == [
        f"{at} = []: empty. Write one at least, or leave the key out."
    ]
    assert mistakes(f"[{table}.keys]\n'example.org' = 'a.pem'") == [
        f'{at} = "a.pem": a table is wanted. Write {{ selector = ..., file = ... }}.'
    ]
    assert mistakes(one(table, "a b", "s")) == [
        f'{table}.keys."a b": \'a b\' is no domain name. Write it as "example.org".'
    ]


def test_variables(tmp_path: Path) -> None:
    text = one("dkim", "example.org", "s") + one("arc", "example.org", "s")
    environ = {
        "SMTPROUTE__DKIM__KEYS__EXAMPLE_ORG__FILE": "b.pem",
        "SMTPROUTE__ARC__KEYS__EXAMPLE_ORG__SELECTOR": "t",
    }
    made = settings(text, environ)
    assert made.dkim.keys == {"example.org": (key("example.org", "s", "b.pem"),)}
    assert made.arc.keys == {"example.org": key("example.org", "t", "a.pem")}
    whole = '{ "example.org" = [{ selector = "s", file = "a.pem" }, { selector = "t", file = "b.pem" }] }'
    several = settings("", {"SMTPROUTE__DKIM__KEYS": whole}).dkim.keys["example.org"]
    assert [each.selector for each in several] == ["s", "t"]
    (line,) = mistakes(text, {"SMTPROUTE__DKIM__KEYS__EXAMPLE_ORG__FILE": "no.pem"})
    assert line.startswith('environment: SMTPROUTE__DKIM__KEYS__EXAMPLE_ORG__FILE = "no.pem": cannot be read')
    (line,) = mistakes(another("dkim", "example.org", "s"), {"SMTPROUTE__DKIM__KEYS__EXAMPLE_ORG__FILE": "b.pem"})
    assert line.endswith("is no table. Set it whole: SMTPROUTE__DKIM__KEYS__EXAMPLE_ORG.")


# What the files hold


def started(text: str) -> Mapping[str, list[KeyKind]]:
    """The kinds of keys that sign, by domain."""
    loaded = start(lambda: read(text))
    dkim = loaded.snapshot.settings.dkim
    return {domain: [loaded.signing[key].kind for key in several] for domain, several in dkim.keys.items()}


def test_keys_of_both_kinds_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_bytes(generate(KeyKind.RSA))
    (tmp_path / "b.pem").write_bytes(generate(KeyKind.ED25519))
    text = another("dkim", "example.org", "rsa") + another("dkim", "example.org", "ed", "b.pem")
    assert started(text) == {"example.org": [KeyKind.RSA, KeyKind.ED25519]}


@pytest.mark.peer("rspamadm")
def test_a_key_as_rspamd_writes_it() -> None:
    command = ["rspamadm", "dkim_keygen", "-t", "ed25519", "-s", "ed", "-d", "example.org", "-k", "ed.txt"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert started(one("dkim", "example.org", "ed", "ed.txt")) == {"example.org": [KeyKind.ED25519]}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (one("dkim", "example.org", "s", "c.pem"), 'dkim.keys."example.org".file = "'),
        (one("arc", "example.org", "s", "c.pem"), 'arc.keys."example.org".file = "'),
        (one("arc", "example.org", "s", "b.pem"), 'arc.keys."example.org".file = "'),
        (another("arc", "example.org", "s") + another("arc", "example.org", "t", "c.pem"), 'arc.keys."example.org".'),
    ],
)
def test_a_key_that_cannot_be_used_is_refused(tmp_path: Path, text: str, where: str) -> None:
    (tmp_path / "a.pem").write_bytes(generate(KeyKind.RSA))
    (tmp_path / "b.pem").write_bytes(generate(KeyKind.ED25519))  # nobody seals with that
    (tmp_path / "c.pem").write_text("-----BEGIN\n")
    with pytest.raises(Refused) as refused:
        start(lambda: read(text))
    assert str(refused.value).startswith(where)


def test_a_reload_takes_keys() -> None:
    before = read("")
    after = carried(before, read(one("dkim", "example.org", "s") + one("arc", "example.org", "s"))).settings
    assert list(after.dkim.keys) == list(after.arc.keys) == ["example.org"]


# A docker-mailserver folder

SIGNING = """
sign_local = false;
allow_username_mismatch = true;
domain {
    example.org {
        selectors [
            { path = "/tmp/docker-mailserver/rspamd/dkim/rsa.txt"; selector = "rsa"; },
            { path = "/tmp/docker-mailserver/rspamd/dkim/ed25519.txt"; selector = "ed"; }
        ]
    }
}
"""
RSPAMD, OPENDKIM = "ENABLE_RSPAMD=1\nENABLE_OPENDKIM=0\n", "ENABLE_OPENDKIM=1\n"


def folder(tmp_path: Path, text: str = "", env: str | None = None) -> Snapshot:
    """One that has keys for both signers, which are there and empty."""
    config = tmp_path / "config"
    for name in (
        "rspamd/dkim/rsa.txt",
        "rspamd/dkim/ed25519.txt",
        "opendkim/keys/example.org/mail.private",
    ):
        (config / name).parent.mkdir(parents=True, exist_ok=True)
        (config / name).touch()
    (config / "rspamd/override.d").mkdir(exist_ok=True)
    (config / "rspamd/override.d/dkim_signing.conf").write_text(SIGNING)
    record = "mail._domainkey.example.org"
    (config / "opendkim/KeyTable").write_text(
        f"{record} example.org:mail:/etc/opendkim/keys/example.org/mail.private\n"
    )
    (config / "opendkim/SigningTable").write_text(f"*@example.org {record}\n")
    return with_folder(tmp_path, text, env=env, accounts=ANNA)


def selectors(snapshot: Snapshot) -> list[str]:
    return [each.selector for each in snapshot.settings.dkim.keys.get("example.org", ())]


@pytest.mark.parametrize(
    ("env", "signers"),
    [
        (RSPAMD, ["rsa", "ed"]),
        (OPENDKIM, ["mail"]),
        ("", ["mail"]),  # as docker-mailserver does if nothing is said
        ("ENABLE_OPENDKIM=0\n", []),
        ("ENABLE_RSPAMD=1\n", ["rsa", "ed", "mail"]),
        (None, ["rsa", "ed", "mail"]),
    ],
)
def test_who_signs_in_a_folder(tmp_path: Path, env: str | None, signers: list[str]) -> None:
    snapshot = folder(tmp_path, env=env)
    assert selectors(snapshot) == signers
    twice = env is not None and len(signers) == 3
    assert shown(snapshot.findings) == ([("dkim-twice", "ENABLE_OPENDKIM", "ENABLE_OPENDKIM=0")] if twice else [])


def test_what_the_folder_says_of_whose_mail(tmp_path: Path) -> None:
    by_rspamd = folder(tmp_path, env=RSPAMD).settings.dkim
    assert (by_rspamd.local, by_rspamd.authenticated, by_rspamd.parents) == (False, True, True)
    assert (by_rspamd.username_mismatch, by_rspamd.author_mismatch, by_rspamd.null_sender) == (True, False, True)
    by_opendkim = folder(tmp_path, env=OPENDKIM).settings.dkim
    assert by_opendkim == Dkim(by_opendkim.keys)


def test_what_is_written_goes_before_the_folder(tmp_path: Path) -> None:
    snapshot = folder(tmp_path, one("dkim", "example.net", "own"), env=RSPAMD)
    assert snapshot.settings.dkim == Dkim({"example.net": (key("example.net", "own", "a.pem"),)})


def test_a_key_of_the_folder_that_cannot_be_used_is_as_good_as_none(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "config/rspamd/dkim/rsa.txt").write_bytes(generate(KeyKind.RSA))
    (tmp_path / "config/rspamd/dkim/ed25519.txt").unlink()
    loaded = start(lambda: folder_as_it_is(tmp_path))
    assert [each.selector for each in loaded.signing] == selectors(loaded.snapshot) == ["rsa"]
    (warning,) = loaded.unsigned
    assert warning.startswith("example.org: the key of the selector ed cannot be used (") and "no such file" in warning
    (tmp_path / "config/rspamd/dkim/rsa.txt").write_text("-----BEGIN\n")
    loaded = start(lambda: folder_as_it_is(tmp_path))
    # The domain stays known, so that its mail is `unsigned` and not merely without a signature.
    assert (loaded.signing, loaded.snapshot.settings.dkim.keys) == ({}, {"example.org": ()})
    assert len(loaded.unsigned) == 2


def folder_as_it_is(tmp_path: Path) -> Snapshot:
    return with_folder(tmp_path, env=RSPAMD)
