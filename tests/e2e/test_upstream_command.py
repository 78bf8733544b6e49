"""`smtproute upstream`, as a process."""

from __future__ import annotations

import json
import re
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from smtproute.cli import main

UPSTREAM = [sys.executable, "-c", "from smtproute.cli import main; main()", "upstream"]
LETTER = b"Subject: hello\r\n\r\n.body\r\n"


def refused(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit status in this process."""
    monkeypatch.setattr(sys, "argv", ["smtproute", "upstream", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@contextmanager
def listening(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process, and the line that says where it listens."""
    process = subprocess.Popen([*UPSTREAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline()
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """What it said until the signal ended it."""
    process.send_signal(number)
    said, complained = process.communicate(timeout=30)
    assert (process.returncode, complained) == (0, "")
    return re.sub(r"(?m)^  [0-9:.]{12} ", "  ", said)


def test_any_program_can_be_tested_against_it(tmp_path: Path) -> None:
    script, ready, saved = tmp_path / "script.toml", tmp_path / "ready.json", tmp_path / "saved"
    script.write_text("""
        seed = 7
        users = { app = "secret" }
        [[rule]]
        at = "RCPT"
        to = "*@no.example"
        reply = "550 5.1.1 No such user\\nAsk again"
        [[rule]]
        at = "NOOP"
        chance = 0.5
        then = "drop"
    """)
    with listening(str(script), "--ready-file", str(ready), "--save", str(saved)) as (process, first):
        where = json.loads(ready.read_text())
        address = where["listeners"]["smtp"]
        assert (
            first == f"listening on 127.0.0.1:{address['port']} (SMTP, STARTTLS, CA file {where['ca_file']}, seed 7)\n"
        )
        with smtplib.SMTP("localhost", address["port"], local_hostname="client.test", timeout=30) as smtp:
            smtp.starttls(context=ssl.create_default_context(cafile=where["ca_file"]))
            smtp.login("app", "secret")
            refused = smtp.sendmail("me@here.example", ["a@no.example", "b@far.example"], LETTER)
        assert refused == {"a@no.example": (550, b"5.1.1 No such user\nAsk again")}
        said = ended(process, signal.SIGTERM)
    assert (saved / "1.eml").read_bytes() == LETTER
    assert said.splitlines()[:2] == [
        f"message from <me@here.example> to <b@far.example>: {len(LETTER)} octets, by connection 1, in {saved}/1.eml",
        "connection 1 (TLSv1.3 TLS_AES_256_GCM_SHA384):",
    ]
    assert "  <~ rcpt TO:<a@no.example>\n  ~> 550-5.1.1 No such user\n  ~> 550 Ask again\n" in said
    assert said.endswith("  <~ QUIT\n  ~> 221 2.0.0 Bye\n")
    assert not ready.exists()
    assert not Path(where["ca_file"]).exists()


def test_without_a_script_it_takes_everything_until_it_is_interrupted() -> None:
    with listening() as (process, first):
        found = re.fullmatch(r"listening on 127\.0\.0\.1:(\d+) \(SMTP, STARTTLS, CA file \S+/ca\.pem\)\n", first)
        assert found is not None
        with socket.create_connection(("127.0.0.1", int(found[1])), timeout=30) as client:
            assert client.recv(100) == b"220 upstream.test ESMTP\r\n"
            client.sendall(b"HELO \x1b[2J\r\n")
            assert client.recv(100) == b"250 upstream.test\r\n"
            said = ended(process, signal.SIGINT)
    assert said == "connection 1:\n  -> 220 upstream.test ESMTP\n  <- HELO \\x1b[2J\n  -> 250 upstream.test\n"


@pytest.mark.peer("swaks")
def test_swaks_meets_a_server_without_tls_that_drops(tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    script.write_text('tls = "none"\nrule = [{ at = "CONTENT", then = "drop", times = 1 }]')
    with listening(str(script)) as (process, first):
        found = re.fullmatch(r"listening on 127\.0\.0\.1:(\d+) \(SMTP\)\n", first)
        assert found is not None
        command = ["swaks", "--server", f"127.0.0.1:{found[1]}", "-f", "me@here.example", "-t", "you@far.example"]
        codes = [subprocess.run(command, capture_output=True, timeout=30).returncode for _ in range(2)]
        said = ended(process, signal.SIGTERM)
    assert codes == [6, 0]
    assert len(re.findall(r"(?m)^message from <me@here.example> to <you@far.example>: ", said)) == 2


def test_a_script_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "script.toml"
    script.write_text('rule = [{ at = "RCPT", reply = "No" }]\nlmpt = true')
    assert refused(monkeypatch, str(script)) == 78
    assert capsys.readouterr().err.splitlines() == [
        f'{script}: rule[0].reply = "No": no reply. Write "550 5.1.1 No such user"; further lines without a code, '
        'after "\\n".',
        f'{script}: lmpt: unknown key. Did you mean "lmtp"?',
    ]


def test_a_scenario_is_no_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "flow.toml"
    file.write_text('title = "x"\n[[message]]\nfrom = ""\nto = ["a@b.example"]')
    assert refused(monkeypatch, str(file)) == 78
    said = f"{file}: a scenario, and no script of one server. Play it: smtproute test {file}\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("arguments", [["upstream", "none.toml"], ["serve", "-c", "none.toml"]], ids=lambda it: it[0])
def test_an_old_ready_file_is_gone_whatever_comes(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is of a process that was killed, whose port is nobody's now, or somebody else's."""
    ready = tmp_path / "ready.json"
    ready.write_text("old")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["smtproute", *arguments, "--ready-file", str(ready)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 78 and not ready.exists()


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refused(monkeypatch, "--port", str(port)) == 78
    said = f"127.0.0.1:{port}: cannot be listened on: address already in use. Choose another.\n"
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--port", "65536", "--port"),
        ("--host", "localhost", "'localhost' is no IP address"),
        ("--name", "a b", "'a b' is no domain name"),
        ("--save", "/dev/null/got", "/dev/null/got: not a directory"),
        ("--ready-file", "/nowhere/at/all", "/nowhere/at is no folder: make it first"),
    ],
)
def test_wrong_usage(
    option: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(monkeypatch, option, value) == 64
    heard = capsys.readouterr()
    assert heard.out == ""
    assert said in heard.err
