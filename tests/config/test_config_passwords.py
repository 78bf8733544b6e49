"""The password of an endpoint: where it comes from, and that nothing ever shows it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtproute.config import Mistake, load
from smtproute.core.settings import Endpoint, EndpointTls
from smtproute.core.snapshot import carried
from smtproute.doctor import examine
from tests.e2e.test_cli import run

SECRET = "Pw7hunter2"
LOGS_IN = '[endpoint.Git-Lab]\nservers = ["gitlab.internal"]\ntls = "require"\nusername = "us"\n'
VARIABLE = "SMTPROUTE__ENDPOINT__GIT_LAB__PASSWORD"
READ = 'password_file = "pw"\n'


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def endpoint(text: str, environ: dict[str, str] | None = None) -> Endpoint:
    Path("smtproute.toml").write_text(text)
    (made,) = load("smtproute.toml", environ or {}, fqdn=lambda: "h.example").settings.endpoints.values()
    return made


def mistakes(text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(Mistake) as caught:
        endpoint(text, environ)
    assert SECRET not in str(caught.value)
    return [line.removeprefix("smtproute.toml: ") for line in caught.value.lines]


@pytest.mark.parametrize(
    ("held", "password"),
    [
        (b"secret", "secret"),
        (b"secret\n", "secret"),
        (b"secret\r\n", "secret"),
        (b" sec ret ", " sec ret "),
        ("pä§§\n".encode(), "pä§§"),
    ],
)
def test_a_file_holds_it(held: bytes, password: str) -> None:
    Path("pw").write_bytes(held)
    assert endpoint(LOGS_IN + READ).password == password


ODD = "not one line of UTF-8 without control characters. Write it so."


@pytest.mark.parametrize(
    ("held", "why"),
    [
        (b"", "what it holds is empty. Write it, or leave the key out."),
        (b"\n", "what it holds is empty. Write it, or leave the key out."),
        (f"{SECRET}\n\n".encode(), f"what it holds is {ODD}"),
        (f"us\n{SECRET}\n".encode(), f"what it holds is {ODD}"),
        (f"{SECRET}\0".encode(), f"what it holds is {ODD}"),
        (SECRET.encode() + b"\xff", f"what it holds is {ODD}"),
        (SECRET.encode("utf-16"), f"what it holds is {ODD}"),
    ],
)
def test_a_file_that_holds_none(held: bytes, why: str) -> None:
    Path("pw").write_bytes(held)
    assert mistakes(LOGS_IN + READ) == [f'endpoint.Git-Lab.password_file = "pw": {why}']


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    place = 'endpoint.Git-Lab.password_file = "pw": cannot be read: '
    start = f"A relative path starts at {tmp_path}."
    assert mistakes(LOGS_IN + READ) == [f"{place}no such file or directory. {start}"]
    os.mkfifo("pw")
    assert mistakes(LOGS_IN + READ) == [f"{place}no regular file. {start}"]


@pytest.mark.parametrize("text", ["secret", '"secret"', "12345", "true", "{ a = 1 }", "#x", " x ", "pä§§"])
@pytest.mark.parametrize("variable", [VARIABLE, "SMTPROUTE__endpoint__git_lab__password"])
def test_a_variable_is_it(text: str, variable: str) -> None:
    assert endpoint(LOGS_IN, {variable: text}).password == text


def test_a_variable_may_set_the_whole_endpoint() -> None:
    whole = f'{{ x = {{ servers = ["a.b"], tls = "implicit", username = "us", password = "{SECRET}" }} }}'
    made = endpoint("", {"SMTPROUTE__ENDPOINT": whole})
    assert (made.username, made.password, made.tls) == ("us", SECRET, EndpointTls.IMPLICIT)


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "empty. Write it, or leave the key out."), (f"{SECRET}\n", ODD), (f"{SECRET}\udcff", ODD)],
)
def test_a_variable_that_is_none(text: str, why: str) -> None:
    assert mistakes(LOGS_IN, {VARIABLE: text}) == [f"environment: {VARIABLE}: {why}"]


def test_one_of_the_two() -> None:
    Path("pw").write_text("other")
    assert mistakes(LOGS_IN + READ, {VARIABLE: SECRET}) == [
        'endpoint.Git-Lab.password_file = "pw": the environment sets the password as well. Remove one of the two.'
    ]


def test_a_variable_for_an_endpoint_that_does_not_log_in() -> None:
    text = '[endpoint.git-lab]\nservers = ["gitlab.internal"]\n'
    assert mistakes(text, {VARIABLE: SECRET}) == [f"environment: {VARIABLE}: there is no username. Add username."]


@pytest.mark.parametrize("environ", [{}, {VARIABLE: "other"}])
def test_it_is_never_in_the_file(environ: dict[str, str]) -> None:
    assert mistakes(f'{LOGS_IN}password = "{SECRET}"\n', environ) == [
        f'endpoint.Git-Lab.password: a secret is never in the TOML. Write password_file = "FILE", or set {VARIABLE}.'
    ]


def test_a_reload_reads_it_again() -> None:
    def loaded(password: str) -> Endpoint:
        Path("pw").write_text(password)
        snapshot = load("smtproute.toml", {}, fqdn=lambda: "h.example")
        return carried(before, snapshot).settings.endpoints["Git-Lab"]

    Path("smtproute.toml").write_text(LOGS_IN + READ)
    Path("pw").write_text("one")
    before = load("smtproute.toml", {}, fqdn=lambda: "h.example")
    assert loaded("one") == before.settings.endpoints["Git-Lab"]
    assert loaded("two") != before.settings.endpoints["Git-Lab"]  # so that connections of the old one are not reused


@pytest.mark.parametrize(
    "text",
    [
        f'password = "{SECRET}"',
        f'passwrd = "{SECRET}"',
        f'auth = ["us", "{SECRET}"]',
        f'[endpoint.x]\nauth = "us:{SECRET}"',
        f'[endpoint.x]\npassword = ["{SECRET}"]',
        f'[endpoint.x]\npassword.plain = "{SECRET}"',
        f'[endpoint.x]\nservers = ["smtp://us:{SECRET}@a.b"]',
        f'[endpoint.x]\nservers = "us:{SECRET}@a.b"',
        f'[endpoint.x]\nservers = ["a.b"]\nbackup = ["us:{SECRET}@a.b:587"]',
        f'[[endpoint.x]]\npassword = "{SECRET}"',
        f'[[endpoint]]\nname = "x"\npassword = "{SECRET}"',
        f'[endpoints.x]\npassword = "{SECRET}"',
        f'[endpoint]\nservers = ["a.b"]\npassword = "{SECRET}"',
        f'[listener.app]\npassword = "{SECRET}"',
        f"[endpoint.x]\npassword = {SECRET}",
    ],
)
def test_no_mistake_in_the_file_shows_it(text: str) -> None:
    assert mistakes(text)


NAMES = st.builds(
    lambda table, *keys: "__".join(["SMTPROUTE", table, *keys]),
    st.sampled_from(["ENDPOINT", "ENDPONT", "PASSWORD", "ENDPOINT__X", "SRS"]),
    *[st.sampled_from(["X", "PASSWORD", "PASSWRD", "AUTH", "0", "SECRET"])] * 2,
) | st.sampled_from(
    [
        *("SMTPROUTE__ENDPOINT", "SMTPROUTE__ENDPOINTS", "SMTPROUTE__ENDPOINT__X", "SMTPROUTE__PASSWORD"),
        *("SMTPROUTE__SRS", "SMTPROUTE__SRS__SECRET"),
    ]
)
TEXTS = st.sampled_from(
    [
        SECRET,
        f'"{SECRET}"',
        f'"{SECRET}',
        f'["{SECRET}"]',
        f'{{ password = "{SECRET}" }}',
        f'{{ password = "{SECRET}" ',
        f'{{ domain = "a.b", secret = "{SECRET}" }}',
        f'{{ x = {{ servers = ["a.b"], password = "{SECRET}" }} }}',
        f'[{{ x = "{SECRET}" }}]',
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(NAMES, TEXTS, min_size=1, max_size=3))
def test_no_mistake_in_the_environment_shows_it(environ: dict[str, str]) -> None:
    try:
        snapshot = load(None, environ, fqdn=lambda: "h.example")
    except Mistake as mistake:
        assert SECRET not in str(mistake)
    else:
        assert SECRET not in repr(snapshot)


def test_no_command_shows_it(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(f"{SECRET}\n")
    file = tmp_path / "smtproute.toml"
    file.write_text(
        f'state = "{tmp_path}/state"\nhostname = "h.example"\ndefault = {{ endpoint = "Git-Lab" }}\n{LOGS_IN}{READ}'
        '[resolver]\norder = ["static"]\nstatic = { "gitlab.internal" = ["127.0.0.1"] }\n'
    )
    snapshot = load(str(file), {}, fqdn=lambda: "h.example")
    assert snapshot.settings.endpoints["Git-Lab"].password == SECRET
    assert SECRET not in repr(snapshot) + json.dumps([each.json() for each in examine(snapshot)])
    for as_json in ((), ("--json",)):
        explained = run("explain", "-c", str(file), *as_json, "anna@far.example")
        assert "gitlab.internal" in explained.stdout
        checked = run("check", "-c", str(file), *as_json)
        assert checked.returncode == 0
        assert SECRET not in explained.stdout + explained.stderr + checked.stdout + checked.stderr
