"""One seed, one run: the same scenario is the same dialogue each time, faults by chance included."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from smtproute.core.transcript import Arrow, Line
from smtproute.testing.scenarios.play import play
from smtproute.testing.scenarios.scenario import read
from smtproute.testing.scenarios.sessions import masked

RUNS = 100
# `now`: the senders that SRS makes have the day in them, and chance is drawn for each sender on its own.
SCENARIO = """
title = "A server that fails now and then, and two messages at once"
seed = 21
now = 2026-03-01T10:00:00Z
within = "1d"
nothing_else = false
patience = "10s"

[config]
hostname = "mail.example.org"
domains = ["example.org"]
aliases.tables = ["virtual"]
endpoint.external = { servers = ["mx.external.example:25"], tls = "never", max_messages = 1 }
default = { endpoint = "external" }
queue.retry = ["1m", "5m"]
srs = { domain = "example.org", secret_file = "none" }

[files]
virtual = "name@example.org name@external.example"

[upstream."mx.external.example"]
rule = [
    { at = "RCPT", chance = 0.4, reply = "451 4.7.1 Come back" },
    { at = "CONTENT", chance = 0.3, then = "drop" },
    { at = "MAIL", chance = 0.2, reply = "421 4.3.2 Going down" },
]

[[message]]
from = "friend@else.example"
to = ["name@example.org"]
wait = false

[[message]]
from = "other@else.example"
to = ["name@example.org"]
"""


@pytest.fixture
def scenario(tmp_path: Path):
    file = tmp_path / "flow.toml"
    file.write_text(SCENARIO)
    return read(file)


async def test_a_hundred_runs_of_one_seed_are_one_transcript(scenario) -> None:
    """Several at a time, so that the machine's own order of things differs from run to run, and with it which message
    has which connection. Each has its own: which one would find a connection still open is that order too."""
    free = asyncio.Semaphore(8)

    async def one() -> str:
        async with free:
            result = await play(scenario)
        assert result.passed, result.report
        return result.transcript

    transcripts = set(await asyncio.gather(*(one() for _ in range(RUNS))))
    assert len(transcripts) == 1
    (transcript,) = transcripts
    sessions = [each for each in transcript.split("\n\n") if each.startswith("server ")]
    deferred, closed = "-> 451 4.7.1 Come back", "-> 421 4.3.2 Going down"
    assert sum(deferred in each for each in sessions) == 1
    assert sum(each.endswith(closed) for each in sessions) == 1
    assert sum(each.endswith("<- .") for each in sessions) == 1  # the content was taken, and the connection dropped
    assert sum("-> 250 2.0.0 Taken" in each for each in sessions) == 2


async def test_another_seed_is_another_run(scenario) -> None:
    transcripts = {(await play(scenario, seed=seed)).transcript for seed in range(5)}
    assert len(transcripts) > 1


def test_what_differs_each_time_is_masked() -> None:
    lines = [
        Line(Arrow.NOTE, 1.0, "connected from [127.0.0.1]:4711"),
        Line(Arrow.SENT, 2.0, "250 2.0.0 Ok: queued as CR6TH99SE354WX2"),
        Line(Arrow.RECEIVED, 3.0, "MAIL FROM:<SRS0=Ab1/=2X=else.example=friend@example.org> SIZE=12"),
        Line(Arrow.RECEIVED, 4.0, "NOOP 127.0.0.1:4711 0123456789abcdef"),
    ]
    assert masked(lines) == (
        "-> 250 2.0.0 Ok: queued as QUEUE-ID\n"
        "<- MAIL FROM:<SRS0=HASH=TIME=else.example=friend@example.org> SIZE=12\n"
        "<- NOOP 127.0.0.1:PORT TOKEN"
    )
