"""docs/testing.md: what it says is done, block by block."""

from __future__ import annotations

import json
import os
import re
import shlex
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from smtproute.cli import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text()
README = (ROOT / "README.md").read_text()
SMTPROUTE = [sys.executable, "-c", "from smtproute.cli import main; main()"]
SECTIONS = re.split(r"(?m)^##+ ", PAGE)
APPLICATIONS = """
import aiosmtplib
import django
import flask
import flask_mail
import pytest
from django.conf import settings as django_settings
from django.core import mail as django_mail
from django.test import override_settings
from types import SimpleNamespace as ConnectionConfig  # fastapi-mail's own is not installed here

if not django_settings.configured:
    django_settings.configure()
    django.setup()
mail = flask_mail.Mail()

def sign_up(address):
    django_mail.send_mail("Welcome", "Hello.", "app@example.org", [address])

@pytest.fixture
def settings():
    class Settings:  # as pytest-django's
        def __setattr__(self, name, value):
            overridden.append(override_settings(**{name: value}))
            overridden[-1].enable()

    overridden = []
    yield Settings()
    for each in reversed(overridden):
        each.disable()

@pytest.fixture
def app():
    application = flask.Flask("application")

    @application.post("/sign-up")
    def view():
        mail.send(flask_mail.Message("Welcome", [flask.request.form["email"]], "Hello.", sender="app@example.org"))
        return "sent"

    return application
"""
FASTAPI = """
@pytest.mark.asyncio
async def test_fastapi(mail_config, smtproute):
    await aiosmtplib.send(  # as fastapi-mail does it
        "Subject: Welcome\\r\\n\\r\\nHello.\\r\\n",
        sender=mail_config.MAIL_FROM,
        recipients=["anna@example.org"],
        hostname=mail_config.MAIL_SERVER,
        port=mail_config.MAIL_PORT,
        use_tls=mail_config.MAIL_SSL_TLS,
        start_tls=mail_config.MAIL_STARTTLS,
    )
    await smtproute.aio.inbox.wait_for(to="anna@example.org", subject="Welcome")
"""


def blocks(section: str, language: str = "") -> list[str]:
    """The blocks of a section that are in this language."""
    (text,) = [each for each in SECTIONS if each.startswith(f"{section}\n")]
    return [text for kind, text in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", text) if kind == language]


def write(folder: Path, *, virtual: str, more: str = "") -> None:
    """The five minutes' tree."""
    folder.mkdir()
    (folder / "virtual").write_text(virtual)
    (folder / "smtproute.toml").write_text(blocks("Five minutes", "toml")[0])
    (folder / "test_mail.py").write_text(blocks("Five minutes", "python")[0] + more)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest says of all that the page has for it: the five minutes' tree before and after it is mended, the
    blocks that go on there, README's, a scenario, and applications."""
    root = tmp_path_factory.mktemp("docs")
    wrong = blocks("Five minutes")[1]
    fixtures = blocks("The fixtures", "python")
    write(root / "before", virtual=wrong)
    write(root / "after", virtual=wrong.replace("exmaple", "example"), more="\n\n" + "\n\n".join(fixtures))
    scenarios = root / "after" / "tests" / "scenarios"
    scenarios.mkdir(parents=True)
    (root / "after" / "test_readme.py").write_text(re.findall(r"(?ms)^```python\n(.*?)^```$", README)[0])
    (scenarios / "sales.toml").write_text(blocks("Scenario files", "toml")[0])
    for name in ("Django", "Flask", "FastAPI", "unittest"):
        more = FASTAPI if name == "FastAPI" else ""
        (root / f"test_{name}.py").write_text(f"import unittest\n{APPLICATIONS}\n{blocks(name, 'python')[0]}{more}")
    (root / "pytest.ini").write_text("[pytest]\nsmtproute_scenarios = after/tests/scenarios\n")
    options = ["-v", "--import-mode=importlib", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=root, capture_output=True, text=True, timeout=100
    )
    return done.stdout + done.stderr


def test_five_minutes(ran: str) -> None:
    assert "before/test_mail.py::test_sales_reaches_the_partner FAILED" in ran
    assert "after/test_mail.py::test_sales_reaches_the_partner PASSED" in ran
    promised = blocks("Five minutes")[-1].splitlines()
    assert len(promised) == 2
    report = re.sub(" +", " ", ran)
    for line in promised:
        assert re.sub(" +", " ", line) in report
    assert re.search(r"1 message arrived:[^$]* capture +<customer@else.example> +boss@partner.exmaple ", ran)
    assert "--smtproute-seed" in ran


@pytest.mark.parametrize(
    "name",
    [
        "after/test_mail.py::test_it",
        "after/test_mail.py::test_no_open_relay",
        "after/test_mail.py::test_greylisted",
        "after/test_mail.py::test_mine",
        "after/test_readme.py::test_sales_reaches_the_partner",
        "after/tests/scenarios/sales.toml::sales",
        "test_Django.py::test_welcome_mail",
        "test_Flask.py::test_welcome_mail",
        "test_FastAPI.py::test_fastapi",
        "test_unittest.py::Welcome::test_welcome",
    ],
)
def test_what_pytest_runs(ran: str, name: str) -> None:
    assert f"{name} PASSED" in ran, ran
    assert " 1 failed, 11 passed" in ran


def commands(section: str) -> list[list[str]]:
    """The arguments of the commands that a section has, one a line."""
    (text,) = blocks(section)
    return [shlex.split(line.replace("&", ""), comments=True)[1:] for line in text.splitlines()]


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit status of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["smtproute", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code if isinstance(ended.value.code, int) else int(ended.value.code is not None)


def test_a_folder_of_scenarios(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "tree", virtual="sales@example.org boss@partner.example\n")
    monkeypatch.chdir(tmp_path / "tree")
    scenario = Path("tests/scenarios/sales.toml")
    scenario.parent.mkdir(parents=True)
    written = blocks("Scenario files", "toml")[0]
    scenario.write_text(written.replace("attempts = 2", "attempts = 3"))
    play, _, update = commands("Scenario files")
    play += ["-k", "sealed", "--junit", "scenarios.xml"]
    assert called(monkeypatch, *play) == 1
    called(monkeypatch, *update)
    assert scenario.read_text() == written
    assert called(monkeypatch, *play) == 0
    assert 'failures="0"' in Path("scenarios.xml").read_text()


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[int]:
    """A server process, and the port of its first listener."""
    process = subprocess.Popen(
        [*SMTPROUTE, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=(folder / "log").open("w"), text=True
    )
    assert process.stdout is not None
    try:
        listening = re.match(r"listening on 127\.0\.0\.1:(\d+) ", process.stdout.readline())
        assert listening is not None, (folder / "log").read_text()
        yield int(listening[1])
    finally:
        process.terminate()
        process.communicate(timeout=30)


APPLICATION = """#!{python}
import json, smtplib
with open("ready.json") as ready, open("id", "w") as id:
    port = json.load(ready)["listeners"]["app"]["port"]
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        client.login("app", "secret")
        client.mail("app@example.org")
        client.rcpt("anna@example.org")
        id.write(client.data("Subject: Welcome\\r\\n\\r\\nHello.\\r\\n")[1].decode().split()[-1])
"""


def program(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


def test_a_sidecar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    section = "A program in another language"
    (tmp_path / "test.toml").write_text(blocks(section, "toml")[0])
    (tmp_path / "ready.json").write_text('{"listeners": {"app": {"port": 1}}}')  # as a killed one leaves it
    program(tmp_path / "smtproute", f'#!/bin/sh\nexec {shlex.join(SMTPROUTE)} "$@"\n')
    program(tmp_path / "npm", APPLICATION.format(python=sys.executable))
    done = subprocess.run(
        ["sh", "-c", blocks(section)[0].replace(" ID ", ' "$(cat id)" ') + "wait\n"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    before, shown, after = done.stdout.partition(b"\n\nSubject: Welcome\r\n\r\nHello.\r\n")
    captured = json.loads(re.findall(rb"(?m)^\{.*\}$", before)[0])
    assert (captured["state"], captured["recipient"]) == ("captured", "anna@example.org")
    assert shown, done.stdout
    assert [json.loads(line)["what"] for line in after.splitlines()] == ["received", "planned", "delivered"]
    monkeypatch.chdir(tmp_path)
    _, record, _ = commands("Scenario files")
    called(monkeypatch, *["test.toml" if each == "FILE" else each for each in record])
    assert "anna@example.org" in Path("new.toml").read_text()
    assert called(monkeypatch, "test", "new.toml") == 0, capfd.readouterr().out


def test_a_server_that_misbehaves(tmp_path: Path) -> None:
    script = blocks("A program in another language", "toml")[1]
    (tmp_path / "greylist.toml").write_text(script)
    command = shlex.split(script.splitlines()[0].partition("smtproute ")[2].replace("2526", "0"))
    with (
        serving(tmp_path, *command) as port,
        smtplib.SMTP("127.0.0.1", port, timeout=30) as client,
        pytest.raises(smtplib.SMTPRecipientsRefused, match=r"451, b'4\.7\.1 Greylisted"),
    ):
        client.sendmail("app@example.org", "anna@slow.example", "Subject: Welcome\r\n\r\nHello.\r\n")


@pytest.mark.parametrize(
    ("section", "path"), [("GitHub Actions", ("jobs", "mail", "steps")), ("GitLab CI", ("mail", "script"))]
)
def test_continuous_integration(section: str, path: tuple[str, ...]) -> None:
    found = yaml.safe_load(blocks(section, "yaml")[0])
    for key in path:
        found = found[key]
    said = [each.get("run", "") if isinstance(each, dict) else each for each in found]
    ours = [each.split() for each in said if each.startswith("smtproute")]
    assert ours == [["smtproute", "test", "tests/scenarios", "--junit", "scenarios.xml"]]
