"""`smtproute test`: folders of scenarios, what is said of them, and the exit status."""

from __future__ import annotations

import os
import signal
import smtplib
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtproute.cli import main
from smtproute.cli.ending import Ending, Verdict
from smtproute.cli.junit import junit
from smtproute.cli.selection import SelectionFault, selection
from tests.e2e.conftest import LETTER
from tests.e2e.test_cli import SMTPROUTE, serving

GOOD = """
title = "{title}"
[config]
default = {{ mode = "capture" }}
[[message]]
from = "app@example.org"
to = ["anna@there.example"]
[[message.expect]]
capture = "{address}"
"""


SILENT = """
title = "A server that says nothing"
patience = "60s"
[config]
endpoint.far = { servers = ["mx.there.example"] }
default = { endpoint = "far" }
[upstream."mx.there.example"]
down = "silent"
[[message]]
from = "app@example.org"
to = ["anna@there.example"]
"""


def write(folder: Path, name: str, title: str, address: str = "anna@there.example") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(GOOD.format(title=title, address=address))
    return file


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`smtproute test` in the test's folder; in this process, since to start another takes longer than most tests."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr("sys.argv", ["smtproute", "test", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Done(int(ended.value.code or 0), *capsys.readouterr())

    return run


def test_a_folder_is_played_in_the_order_of_its_files(tmp_path: Path) -> None:
    write(tmp_path, "flows/b/second.toml", "The second")
    write(tmp_path, "flows/a.toml", "The first")
    (tmp_path / "flows/smtproute.toml").write_text('hostname = "mail.example.org"\n')
    done = subprocess.run(
        [*SMTPROUTE, "test", "flows", "flows/a.toml"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr + done.stdout
    first, second, _, last = done.stdout.splitlines()
    assert first.startswith("ok      flows/a.toml: The first (")
    assert second.startswith("ok      flows/b/second.toml: The second (")
    assert last.startswith("2 passed in ")


def test_failures_come_in_full_after_the_list(tmp_path: Path, command: Command) -> None:
    write(tmp_path, "good.toml", "Good")
    write(tmp_path, "bad.toml", "Bad", "otto@there.example")
    done = command("--jobs", "1", "--seed", "77", ".")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0].startswith("FAILED  bad.toml: Bad (")
    assert done.stdout.splitlines()[1].startswith("ok      good.toml: Good (")
    for said in (
        "\nbad.toml: Bad\n\nmessage 1: expected capture otto@there.example: there is none; "
        "instead there is capture anna@there.example, delivered (250 2.0.0 captured)\n\n",
        "1 message arrived:",
        "<- MAIL FROM:<app@example.org>",
        "\nseed 77\n",
        "\n1 passed, 1 failed in ",
    ):
        assert said in done.stdout


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"])
def test_nothing_is_left_of_a_run_that_a_signal_ends(tmp_path: Path, number: signal.Signals, status: int) -> None:
    """While the second scenario waits for a server that says nothing; its stage is there before the first one ends."""
    write(tmp_path, "1.toml", "Good")
    (tmp_path / "2.toml").write_text(SILENT)
    with subprocess.Popen([*SMTPROUTE, "test", "-j", "2", "."], cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"ok      1.toml")
        assert stages(process.pid)
        process.send_signal(number)
        assert process.wait(30) == status
    assert stages(process.pid) == []


def stages(process: int) -> list[Path]:
    """The folders of stages of a process."""
    folders = (Path("/dev/shm"), Path(tempfile.gettempdir()))
    return [each for folder in folders for each in folder.glob(f"smtproute-{process}-*")]


def test_a_broken_file_tells_all_its_mistakes_and_stops_no_other(tmp_path: Path, command: Command) -> None:
    write(tmp_path, "good.toml", "Good")
    (tmp_path / "config.toml").write_text(
        'title = "C"\nconfig.domain = []\n[[message]]\nfrom = ""\nto = ["a@b.example"]\n'
    )
    (tmp_path / "keys.toml").write_text('title = "K"\nsede = 7\n[[message]]\nform = ""\nto = ["a@b.example"]\n')
    (tmp_path / "no.toml").write_text("title = \n")
    done = command(".")
    assert done.returncode == 78
    assert "good.toml: Good (" in done.stdout
    assert 'config.toml: config.domain: unknown key. Did you mean "domains"?' in done.stdout
    assert 'keys.toml: sede: unknown key. Did you mean "seed"?' in done.stdout
    assert 'keys.toml: message[0].form: unknown key. Did you mean "from"?' in done.stdout
    assert "no.toml:1: not TOML: " in done.stdout
    assert "1 passed, 3 broken in " in done.stdout
    assert done.stdout.count("keys.toml") == 4  # in the list, and before each of its three mistakes


def test_a_fault_stops_no_other(tmp_path: Path, command: Command) -> None:
    """Something that breaks while a scenario is played: here nobody may seal what was sealed as broken before."""
    write(tmp_path, "good.toml", "Good")
    fault = write(tmp_path, "fault.toml", "Fault")
    sealed = 'content = "ARC-Seal: i=1\\n\\n"\nseal = ["else.example", "else.example"]\n[[message.expect]]\n'
    text = fault.read_text().replace("[[message.expect]]\n", sealed) + '[keys."else.example"]\n'
    fault.write_text(text)
    done = command(".")
    assert done.returncode == 1
    assert done.stdout.startswith("FAULT   fault.toml: Fault (")
    assert "good.toml: Good (" in done.stdout
    assert "SignFault: " in done.stdout
    assert "1 passed, 1 ended by a fault in " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Missing argument PATH"),
        (("nowhere",), "nowhere: there is no such file or folder"),
        (("empty",), "there is no scenario in empty"),
        ((".", "-k", "and"), "-k and: a word is wanted before 'and'"),
        ((".", "-k", "nothing"), "-k nothing: no scenario has that"),
        ((".", "--jobs", "0"), "--jobs"),
    ],
    ids=["no-path", "no-such-path", "nothing-found", "expression", "nothing-selected", "jobs"],
)
def test_wrong_usage(tmp_path: Path, command: Command, arguments: tuple[str, ...], said: str) -> None:
    write(tmp_path, "good.toml", "Good")
    (tmp_path / "empty").mkdir()
    done = command(*arguments)
    assert done.returncode == 64
    assert said in done.stderr


def test_some_are_selected(tmp_path: Path, command: Command) -> None:
    write(tmp_path, "srs/a.toml", "A forward")
    write(tmp_path, "srs/b.toml", "A bounce")
    write(tmp_path, "c.toml", "A forward")
    done = command(".", "-k", "SRS and not bounce")
    assert done.returncode == 0
    assert "srs/a.toml" in done.stdout
    assert "1 passed in " in done.stdout


@pytest.mark.parametrize(
    ("expression", "chosen"),
    [
        ("one", ["one two", "ONE"]),
        ("not one", ["two"]),
        ("one and two or not one", ["one two", "two"]),
        ("one and (two or not one)", ["one two"]),
        ("not not two", ["one two", "two"]),
    ],
)
def test_expressions(expression: str, chosen: list[str]) -> None:
    selects = selection(expression)
    assert [name for name in ("one two", "ONE", "two") if selects(name)] == chosen


@pytest.mark.parametrize("expression", ["", "one two", "(one", "one)", "one and", "or one", "not", "()"])
def test_what_is_no_expression(expression: str) -> None:
    with pytest.raises(SelectionFault):
        selection(expression)


def test_a_junit_report(tmp_path: Path, command: Command) -> None:
    """What CI servers read: counts, a case each, the text of each failure, nothing that XML cannot hold."""
    write(tmp_path, "flows/good.toml", "Good <&>")
    write(tmp_path, "flows/bad.toml", "Bad \\u001b", "otto@there.example")
    (tmp_path / "flows/broken.toml").write_text('title = "K"\n"\\u001bsede" = 7\n')
    done = command("flows", "--junit", "report.xml")
    assert done.returncode == 78
    suites = ElementTree.parse(tmp_path / "report.xml").getroot()
    assert suites.tag == "testsuites"
    (suite,) = suites
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "3", "failures": "1", "errors": "1", "skipped": "0"}
    cases = {case.get("name"): case for case in suite}
    assert list(cases) == ["Bad \\x1b", "broken.toml", "Good <&>"]
    assert all(float(case.get("time") or "") >= 0 and case.get("classname") for case in suite)
    failure = cases["Bad \\x1b"].find("failure")
    assert failure is not None
    assert (failure.get("message") or "").startswith("message 1: expected capture otto@there.example: there is none; ")
    assert "<- MAIL FROM:<app@example.org>" in (failure.text or "")
    error = cases["broken.toml"].find("error")
    assert error is not None and "sede" in (error.text or "")
    assert len(cases["Good <&>"]) == 0


def test_a_junit_report_can_be_read_whatever_a_fault_says() -> None:
    tested = Ending("/flows/a.toml", Verdict.FAULT, told="first\nKeyError: '\x1b\ud800 <&>'")
    (suite,) = ElementTree.fromstring(junit([tested], 1.5, 0.0))
    (case,) = suite
    assert (case.get("classname"), case.get("name"), suite.get("errors")) == ("flows.a", "a.toml", "1")
    error = case.find("error")
    assert error is not None
    assert (error.get("message"), error.text) == ("first", "first\nKeyError: '\\x1b\\ud800 <&>'")


@given(st.text(), st.text(), st.text().map(lambda text: f"flows/{text}.toml"))
def test_a_junit_report_can_be_read_whatever_a_scenario_is_called(told: str, title: str, file: str) -> None:
    tested = [Ending(file, Verdict.FAILED, title, told=told), Ending("\x1b\n/\udcff\uffff\ufffe.toml", Verdict.OK)]
    (suite,) = ElementTree.fromstring(junit(tested, 1.5, 0.0))
    assert suite[1].attrib["classname"] == r"\x1b\n.\udcff\uffff\ufffe"


def test_update_shows_and_writes_what_is_accepted(tmp_path: Path, command: Command) -> None:
    file = write(tmp_path, "flow.toml", "Flow", "otto@there.example")
    good = write(tmp_path, "good.toml", "Good")
    was = good.read_text()
    done = command(".", "--update")
    assert done.returncode == 0, done.stdout + done.stderr
    assert '-capture = "otto@there.example"' in done.stdout
    assert '+capture = "anna@there.example"' in done.stdout
    assert 'capture = "anna@there.example"' in file.read_text()
    assert good.read_text() == was
    assert "\nupdated flow.toml: Flow (" in done.stdout
    assert "\nok      good.toml: Good (" in done.stdout
    assert "\n1 passed, 1 updated in " in done.stdout
    assert command(".").stdout.startswith("ok      flow.toml: Flow (")


def test_there_is_nothing_to_record_without_a_configuration(command: Command) -> None:
    done = command("--record", "flow.toml")
    assert done.returncode == 78
    assert "there is no spool here yet. Name the relay's configuration file by -c\n" in done.stderr


def test_what_update_cannot_show_it_does_not_write(tmp_path: Path) -> None:
    file = write(tmp_path, "flow.toml", "Flow", "otto@there.example")
    was = file.read_bytes()
    nobody, output = os.pipe()
    os.close(nobody)
    done = subprocess.run([*SMTPROUTE, "test", "--update", file], stdout=output, timeout=60)
    os.close(output)
    assert done.returncode == 141
    assert file.read_bytes() == was


def test_update_keeps_a_byte_order_mark(tmp_path: Path, command: Command) -> None:
    file = write(tmp_path, "flow.toml", "Flow", "otto@there.example")
    was = file.read_text()
    file.write_text(was, "utf-8-sig")
    assert command(".", "--update").returncode == 0
    assert file.read_bytes().decode() == "\ufeff" + was.replace("otto", "anna")


def test_what_a_relay_did_is_recorded_and_passes(tmp_path: Path, command: Command) -> None:
    """A scenario of the last message; while the relay runs."""
    config = tmp_path / "smtproute.toml"
    config.write_text('state = "state"\ndefault = { mode = "capture" }\n[listener.app]\nbind = "127.0.0.1:0"\n')
    with serving(config) as (_, address), smtplib.SMTP(*address) as client:
        client.sendmail("app@example.org", ["first@there.example"], LETTER)
        client.sendmail("app@example.org", ["last@there.example"], LETTER)
        done = command("--record", "flow.toml", "-c", config)
    assert (done.returncode, done.stdout) == (0, "flow.toml written\n"), done.stderr
    written = (tmp_path / "flow.toml").read_text()
    assert 'capture = "last@there.example"' in written
    assert "first@there.example" not in written
    done = command("flow.toml")
    assert done.returncode == 0, done.stdout
    again = command("--record", "flow.toml", "-c", config)
    assert again.returncode == 64
    assert "--record flow.toml: flow.toml is there already" in again.stderr
    unknown = command("--record", "other.toml", "NOSUCHID", "-c", config)
    assert unknown.returncode == 1
    assert "NOSUCHID" in unknown.stderr
    assert not (tmp_path / "other.toml").exists()
