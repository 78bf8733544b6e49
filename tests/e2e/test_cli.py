"""The commands, as processes."""

from __future__ import annotations

import json
import os
import re
import signal
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMTPROUTE = [sys.executable, "-c", "from smtproute.cli import main; main()"]
DEMO = str(ROOT / "config" / "demo.toml")

APP = """\
state = "{folder}/state"
hostname = "relay.example.org"
default = {{ endpoint = "far" }}
[listener.app]
bind = "127.0.0.1:0"
[endpoint.far]
servers = ["far.internal:1"]
[resolver]
static = {{ "far.internal" = ["127.0.0.1"] }}
[[route]]
match = "*@kept.example"
mode = "capture"
"""
LETTER = "From: me@here.example\r\nSubject: hello\r\n\r\nbody\r\n"


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SMTPROUTE, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, **environ},
    )


@contextmanager
def serving(file: Path) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    """A relay process that listens, and where its first listener does."""
    process = subprocess.Popen(
        [*SMTPROUTE, "serve", "-c", str(file), "--ready-file", str(file.with_suffix(".ready"))],
        stdout=subprocess.PIPE,
        stderr=(file.parent / "log").open("a"),
        text=True,
    )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        found = re.match(r"listening on (\S+):(\d+) ", said)
        assert found is not None, (said, (file.parent / "log").read_text())
        yield process, (found[1], int(found[2]))
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "smtproute.toml"
    made.write_text(APP.format(folder=tmp_path))
    return made


def send(address: tuple[str, int], *recipients: str) -> str:
    """Sends by smtplib; returns the queue id."""
    with smtplib.SMTP(*address, timeout=20) as client:
        client.ehlo("client.example")
        client.mail("me@here.example")
        for recipient in recipients:
            assert client.rcpt(recipient)[0] == 250
        code, text = client.data(LETTER)
    assert code == 250
    return text.decode().rsplit(" ", 1)[-1]


def listed(file: Path, *options: str) -> list[dict[str, object]]:
    done = run("queue", "list", "--json", "-c", str(file), *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_serve_from_ready_to_sigterm(file: Path) -> None:
    with serving(file) as (process, (host, port)):
        message = send((host, port), "x@kept.example")
        ready = json.loads(file.with_suffix(".ready").read_text())
        assert ready == {"listeners": {"app": {"host": host, "port": port}}}
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert [each["id"] for each in listed(file, "--captured")] == [message]
    log = (file.parent / "log").read_text()
    assert "received" in log and message in log and "Traceback" not in log


def test_sighup_reloads_and_refuses_what_is_broken(file: Path) -> None:
    with serving(file) as (process, address):
        file.write_text(file.read_text().replace('mode = "capture"', 'mode = "reject"'))
        process.send_signal(signal.SIGHUP)
        with smtplib.SMTP(*address, timeout=20) as client:
            client.ehlo("client.example")
            for _ in range(5000):
                client.rset()
                client.mail("me@here.example")
                if client.rcpt("x@kept.example")[0] == 550:
                    break
            else:
                pytest.fail("the reload took no effect")
            file.write_text("hostnam = 1")
            process.send_signal(signal.SIGHUP)
            assert client.noop()[0] == 250
            assert client.rset()[0] == 250


def test_the_queue_of_a_running_and_of_a_stopped_relay(file: Path) -> None:
    with serving(file) as (process, address):
        message = send(address, "a@far.example", "b@kept.example")
        for _ in range(100):
            (entry,) = listed(file)
            if entry["attempts"] == 1:
                break
        assert (entry["id"], entry["number"], entry["state"], entry["attempts"]) == (message, 0, "queued", 1)
        assert "far.internal (static, 127.0.0.1:1) connection refused" in str(entry["last"])
        done = run("queue", "hold", message, "-c", str(file))
        assert (done.returncode, done.stdout) == (0, f"{message}.0  queued -> held\n")
        assert listed(file)[0]["state"] == "held"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert run("queue", "release", message, "-c", str(file)).stdout == f"{message}.0  held -> queued\n"
    assert run("queue", "retry", "--all", "-c", str(file)).stdout == f"{message}.0  queued -> queued\n"
    shown = run("queue", "show", message, "-c", str(file)).stdout
    assert f"{message}.0  queued" in shown and f"{message}.1  captured" in shown and "Subject: hello" in shown
    assert run("queue", "remove", message, "-c", str(file)).stdout == f"{message}.0  queued -> removed\n"
    assert run("queue", "list", "-c", str(file)).stdout == "the queue is empty\n"
    again = run("queue", "remove", message, "-c", str(file))
    assert (again.returncode, again.stdout) == (1, f"{message}  nothing to remove: it is finished\n")
    assert run("queue", "remove", "-c", str(file)).returncode == 64
    assert run("queue", "show", "NOSUCH", "-c", str(file)).returncode == 1
    assert run("queue", "hold", "NOSUCH", "-c", str(file)).stdout == "NOSUCH  there is no such message\n"


def test_the_trace_of_a_message(file: Path) -> None:
    with serving(file) as (_, address):
        message = send(address, "a@far.example", "b@kept.example")
        for _ in range(100):
            text = run("trace", message, "-c", str(file)).stdout
            if "deferred" in text and "delivered" in text:
                break
    for expected in (
        "-> 250 2.1.5",
        "default  a@far.example: nothing else claims it: endpoint far",
        "=> capture for b@kept.example (route[0])",
        "attempt   endpoint far: far.internal:1 at 127.0.0.1 (static)",
        "far.internal (static, 127.0.0.1:1) connection refused",
    ):
        assert expected in text
    assert re.search(r"<- MAIL FROM:<me@here\.example>", text, re.IGNORECASE)
    events = [json.loads(line) for line in run("trace", message, "--json", "-c", str(file)).stdout.splitlines()]
    assert [each["what"] for each in events[:3]] == ["received", "planned", "planned"]
    assert all(each["message"] == message for each in events)
    octets = subprocess.run([*SMTPROUTE, "trace", message, "--in", "-c", str(file)], capture_output=True).stdout
    assert octets == LETTER.encode()
    octets = subprocess.run([*SMTPROUTE, "trace", message, "--out", "0", "-c", str(file)], capture_output=True).stdout
    assert octets.startswith(b"Received: from client.example ") and octets.endswith(LETTER.encode())
    assert run("trace", message, "--out", "1", "-c", str(file)).returncode == 1
    assert run("trace", "NOSUCH", "-c", str(file)).returncode == 1


def test_a_trace_is_followed_to_its_end(file: Path) -> None:
    file.write_text(file.read_text() + '[queue]\nretry = ["1s"]\nlifetime = "2s"\n')
    with serving(file) as (_, address):
        message = send(address, "a@far.example")
        done = run("trace", message, "--follow", "-c", str(file))
    assert done.returncode == 0
    assert done.stdout.count("== not connected to far.internal (127.0.0.1:1)") >= 2
    assert re.search(r"^\S+ failed +endpoint far for a@far\.example", done.stdout, re.MULTILINE)


def test_a_second_relay_on_the_same_spool_is_refused(file: Path) -> None:
    with serving(file):
        second = run("serve", "-c", str(file))
    assert second.returncode == 78
    assert second.stderr.splitlines()[-1].endswith("another relay has this spool")


def test_explain() -> None:
    local = {
        "SMTPROUTE__RESOLVER__ORDER": '["static"]',
        "SMTPROUTE__RESOLVER__STATIC": '{"mx.external.example" = ["192.0.2.7"]}',
    }
    done = run("explain", "name@example.org", "--json", "-c", DEMO, "--from", "a@b.example", **local)
    assert done.returncode == 0, done.stderr
    (explained,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert explained["reply"] == {"code": 250, "enhanced": "2.1.5", "text": "name@example.org accepted"}
    assert {"rule", "tried", "result", "why"} == set(explained["steps"][0])
    assert ("postfix-virtual.cf:1", "name@example.org", "matched") in [
        (step["rule"], step["tried"], step["result"]) for step in explained["steps"]
    ]
    mailbox, endpoint = explained["deliveries"]
    assert (mailbox["kind"], mailbox["servers"], mailbox["seal"]) == ("mailbox", [], None)
    assert endpoint == {
        "kind": "endpoint",
        "address": "name@external.example",
        "endpoint": "external",
        "servers": [
            {
                "host": "mx.external.example",
                "port": 25,
                "backup": False,
                "status": "ok",
                "addresses": ["192.0.2.7"],
                "source": "static",
                "asked": "",
                "ttl": None,
                "age": None,
                "stale": "",
            }
        ],
        "passed_over": [],
        "seal": {"domain": "example.org", "selector": "mail"},
        "signatures": [],
        "sender": "a@b.example",
        "srs": {"rewritten": False, "why": "no domain is configured to rewrite senders to ([srs])"},
        "provider": None,
        "rule": "route[0]",
    }
    text = run("explain", "name@example.org", "-c", DEMO, **local).stdout
    assert "skipped  postfix-regexp.cf:" in text and "-> mailbox name@example.org" in text


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["anna@example.org"], 0, "250 2.1.5"),
        (["name@example.org"], 1, "no server has an address now"),
        (["nobody@example.org"], 2, "550 5.1.1"),
        (["x@elsewhere.example"], 2, "554 5.7.1"),
        (["anna@example.org", "nobody@example.org"], 2, "550 5.1.1"),
        ([], 64, "ADDRESS"),
        (["no address"], 64, "no address"),
        (["anna@example.org", "--listener", "none"], 64, "there is no listener 'none'"),
        (["anna@example.org", "--client-ip", "here"], 64, "no IP address"),
        (["anna@example.org", "-c", "/none/such.toml"], 78, "/none/such.toml"),
    ],
)
def test_exit_status_of_explain(arguments: list[str], status: int, said: str) -> None:
    config = [] if "-c" in arguments else ["-c", DEMO]
    done = run("explain", *config, *arguments, SMTPROUTE__RESOLVER__ORDER='["static"]')
    assert done.returncode == status, done.stderr
    assert said in done.stdout + done.stderr


def test_two_recipients_that_meet_are_named(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[aliases]\ntables = ["aliases"]\n')
    (tmp_path / "aliases").write_text("a@x.example c@far.example\nb@x.example c@far.example\n")
    done = run("explain", "a@x.example", "b@x.example", "-c", str(file))
    assert "one copy, already counted under a@x.example; Postfix would send it two" in done.stdout


def test_check(tmp_path: Path, file: Path) -> None:
    assert run("check", "-c", str(file)).returncode == 0
    file.write_text(file.read_text() + '[aliases]\ntables = ["aliases"]\n')
    aliases = tmp_path / "aliases"
    aliases.write_text("a@x.example b@x.example\nb@x.example a@x.example\nc@x.example c@y.example, gone@x.example\n")
    done = run("check", "--json", "-c", str(file))
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 2
    assert [(each["severity"], each["where"]) for each in findings] == [
        ("error", "aliases:1"),
        ("error", "aliases:3"),
    ]
    assert "loop: a@x.example -> b@x.example -> a@x.example" in findings[0]["what"]
    assert "gone@x.example is a dead branch" in findings[1]["what"]
    aliases.write_text("a@x.example b@y.example\na@x.example c@y.example\n")
    done = run("check", "-c", str(file))
    assert done.returncode == 2 and "duplicate key" in done.stdout and "451 4.3.0" in done.stdout
    aliases.write_text("a@x.example\n")
    assert run("check", "-c", str(file)).returncode == 1
    file.write_text("hostname = 1\n")
    done = run("check", "-c", str(file))
    assert done.returncode == 2 and "hostname" in done.stdout


def test_a_key_that_is_none_is_a_mistake(tmp_path: Path, file: Path) -> None:
    (tmp_path / "key.pem").write_text("no key")
    file.write_text(
        file.read_text() + '[arc]\nsign = "x.example"\n[arc.keys."x.example"]\nselector = "s"\nfile = "key.pem"\n'
    )
    done = run("serve", "-c", str(file))
    assert done.returncode == 78 and "key.pem" in done.stderr and 'arc.keys."x.example"' in done.stderr


def test_without_any_file_it_is_a_trusted_capture(tmp_path: Path) -> None:
    done = subprocess.run(
        [*SMTPROUTE, "explain", "anyone@anywhere.example"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "SMTPROUTE__STATE": str(tmp_path / "state")},
    )
    assert done.returncode == 0
    assert "-> capture of anyone@anywhere.example (default)" in done.stdout


@pytest.mark.parametrize("command", ["serve", "demo", "explain", "check", "endpoints", "trace", "queue"])
def test_every_command_says_what_it_does(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0 and "Usage:" in done.stdout


def test_the_demo_ends_by_itself_with_seals_that_pass() -> None:
    done = run("demo", "--once")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("at the far end, checked by dkimpy: arc=pass") == 2
    assert done.stdout.count("dmarc=pass") == 4
    assert "550 5.1.1" in done.stdout and "=> mailbox for name@example.org" in done.stdout
