"""[srs]: whose senders are rewritten, and where the secret comes from; and what docker-mailserver's variables say."""

from __future__ import annotations

from pathlib import Path

import pytest

from smtproute.config import Mistake, load
from smtproute.core.address import Domain
from smtproute.core.settings import Srs
from smtproute.core.snapshot import Snapshot, carried
from smtproute.doctor import examine
from tests.config.folders import loaded as with_folder

SECRET = "Pw7hunter2"
ANNA = "anna@example.org|{X}y\n"
HERE = Domain.parse("example.org")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(text: str, environ: dict[str, str] | None = None) -> Snapshot:
    Path("smtproute.toml").write_text(f'state = "state"\n{text}')
    return load("smtproute.toml", environ or {}, fqdn=lambda: "h.example")


def srs(text: str, environ: dict[str, str] | None = None) -> Srs:
    snapshot = read(text, environ)
    assert snapshot.routing.srs == snapshot.settings.srs
    return snapshot.settings.srs


def mistakes(text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(Mistake) as caught:
        srs(text, environ)
    assert SECRET not in str(caught.value)
    return [line.removeprefix("smtproute.toml: ") for line in caught.value.lines]


# The file


def test_nobody_is_rewritten() -> None:
    assert srs("") == Srs()


def test_defaults(tmp_path: Path) -> None:
    assert srs('[srs]\ndomain = "example.org"') == Srs(HERE, f"{tmp_path}/state/srs.secret")


def test_everything_written(tmp_path: Path) -> None:
    text = '[srs]\ndomain = "Example.ORG"\nsecret_file = "old"\nexclude = ["Example.net", ".München.example"]'
    assert srs(text) == Srs(HERE, f"{tmp_path}/old", (), ("example.net", ".xn--mnchen-3ya.example"))


@pytest.mark.parametrize(
    ("text", "secrets"),
    [(SECRET, (SECRET,)), ("new,old", ("new", "old")), (",a,,b,", ("a", "b")), ('"x y"', ('"x y"',)), ("12", ("12",))],
)
def test_a_variable_is_the_secret(text: str, secrets: tuple[str, ...]) -> None:
    assert srs('[srs]\ndomain = "example.org"', {"SMTPROUTE__SRS__SECRET": text}) == Srs(HERE, "", secrets)


def test_variables(tmp_path: Path) -> None:
    environ = {"SMTPROUTE__SRS__DOMAIN": "example.org", "SMTPROUTE__SRS__EXCLUDE": '["a.example"]'}
    assert srs("", environ) == Srs(HERE, f"{tmp_path}/state/srs.secret", (), ("a.example",))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "[srs]",
            'srs.domain: missing. Add domain = "example.org", a domain whose mail comes here: bounces come back to it.',
        ),
        ('[srs]\ndomain = "a b"', 'srs.domain = "a b": \'a b\' is no domain name. Write it as "example.org".'),
        (
            '[srs]\ndomain = "a.example"\nsecret_file = ""',
            'srs.secret_file = "": a path is wanted. Write it, or leave the key out.',
        ),
        (
            '[srs]\ndomain = "a.example"\nexclude = ["."]',
            'srs.exclude[0] = ".": the domain is empty. Write it as "example.org".',
        ),
        (
            '[srs]\ndomain = "a.example"\nexclude = "b.example"',
            'srs.exclude = "b.example": a list is wanted. Put it in [brackets].',
        ),
        (
            f'[srs]\ndomain = "a.example"\nsecret = "{SECRET}"',
            'srs.secret: a secret is never in the TOML. Write secret_file = "FILE", or set SMTPROUTE__SRS__SECRET.',
        ),
        (f'[srs]\ndomain = "a.example"\nsecrets = "{SECRET}"', 'srs.secrets: unknown key. Did you mean "secret"?'),
        (f'srs = "{SECRET}"', "srs: a table is wanted. Write { key = value }, or the key under a [table]."),
    ],
)
def test_mistakes(text: str, line: str) -> None:
    assert mistakes(text) == [line]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty. Write it, or leave the key out."),
        (",", "empty. Write it, or leave the key out."),
        (f"{SECRET}\n", "not one line of UTF-8 without control characters. Write it so."),
    ],
)
def test_a_variable_that_is_no_secret(text: str, why: str) -> None:
    assert mistakes('[srs]\ndomain = "a.example"', {"SMTPROUTE__SRS__SECRET": text}) == [
        f"environment: SMTPROUTE__SRS__SECRET: {why}"
    ]


def test_one_of_the_two() -> None:
    text = '[srs]\ndomain = "a.example"\nsecret_file = "x"'
    assert mistakes(text, {"SMTPROUTE__SRS__SECRET": SECRET}) == [
        'srs.secret_file = "x": the environment sets the secret as well. Remove one of the two.'
    ]


def test_a_reload_takes_it() -> None:
    before, after = read(""), read('[srs]\ndomain = "example.org"')
    kept = carried(before, after)
    assert kept.settings.srs == kept.routing.srs == after.settings.srs


# A docker-mailserver folder


def folder(tmp_path: Path, env: str, text: str = "", **keys: str) -> Srs:
    return with_folder(tmp_path, f'state = "state"\n{text}', env=env, accounts=ANNA, **keys).settings.srs


def test_what_the_variables_say(tmp_path: Path) -> None:
    made = f"{tmp_path}/state/srs.secret"
    assert folder(tmp_path, "SRS_DOMAINNAME=a.example\n") == Srs()
    assert folder(tmp_path, "ENABLE_SRS=1\n") == Srs(HERE, made)  # the host is mail.example.org
    env = "ENABLE_SRS=1\nSRS_DOMAINNAME=a.example\nSRS_EXCLUDE_DOMAINS=B.example, .c.example\n"
    assert folder(tmp_path, env) == Srs(Domain.parse("a.example"), made, (), ("b.example", ".c.example"))
    assert folder(tmp_path, "ENABLE_SRS=1\nSRS_SECRET=new,old\n") == Srs(HERE, "", ("new", "old"))
    assert folder(tmp_path, "ENABLE_SRS=1\nSRS_DOMAINNAME=a..b\n") == Srs()
    (tmp_path / "config/secrets").write_text("one\ntwo\n")
    env = "ENABLE_SRS=1\nSRS_SECRET__FILE=/tmp/docker-mailserver/secrets\n"
    assert folder(tmp_path, env).secrets == ("one", "two")


def test_the_secret_of_the_container(tmp_path: Path) -> None:
    where = 'paths = { "/etc/postsrsd.secret" = "state/etc-postsrsd.secret" }'
    assert folder(tmp_path, "ENABLE_SRS=1\n", keys=where) == Srs(HERE, f"{tmp_path}/state/etc-postsrsd.secret")
    assert folder(tmp_path, "ENABLE_SRS=1\nSRS_SECRET=x\n", keys=where) == Srs(HERE, "", ("x",))


def test_what_is_written_goes_before_the_variables_key_by_key(tmp_path: Path) -> None:
    env = "ENABLE_SRS=1\nSRS_SECRET=x\nSRS_EXCLUDE_DOMAINS=b.example\n"
    assert folder(tmp_path, env, "[srs]\nexclude = []") == Srs(HERE, "", ("x",))
    assert folder(tmp_path, env, '[srs]\ndomain = "d.example"') == Srs(
        Domain.parse("d.example"), "", ("x",), ("b.example",)
    )
    assert folder(tmp_path, env, '[srs]\nsecret_file = "own"') == Srs(HERE, f"{tmp_path}/own", (), ("b.example",))
    with pytest.raises(Mistake, match=r"srs\.domain: missing"):
        folder(tmp_path, "", "[srs]\nexclude = []")


@pytest.mark.parametrize(
    "env",
    [
        f"SRS_SECRET={SECRET}\nSRS_SECRET={SECRET}",
        f'SRS_SECRET="{SECRET}" # ours',
        f"SRS_SECRET='{SECRET}",
        f"SRS_SECRET: {SECRET}",
        f"SRS_DOMAINNAME=a..b\nSRS_SECRET={SECRET},{SECRET}",
    ],
)
def test_no_finding_shows_the_secret(tmp_path: Path, env: str) -> None:
    snapshot = with_folder(tmp_path, env=f"ENABLE_SRS=1\n{env}\n", accounts=ANNA)
    assert SECRET not in "".join(map(str, (*snapshot.findings, *examine(snapshot))))
    assert SECRET not in repr(snapshot.settings) + repr(snapshot.routing)
