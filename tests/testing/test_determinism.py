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
SCENARIO = """
title = "A server that fails now and then"
seed = 11
within = "1d"
nothing_else = false
patience = "10s"

[config]
hostname = "mail.example.org"
domains = ["example.org"]
aliases.tables = ["virtual"]
endpoint.external = { servers = ["mx.external.example:25"], tls = "never" }
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

[[message]]
from = "friend@else.example"
to = ["name@example.org"]
"""


@pytest.fixture
def scenario(tmp_path: Path):
    file = tmp_path / "flow.toml"
    file.write_text(SCENARIO)
    return read(file)


async def test_a_hundred_runs_of_one_seed_are_one_transcript(scenario) -> None:
    """Several at a time, so that the machine's own order of things differs from run to run."""
    free = asyncio.Semaphore(8)

    async def one() -> str:
        async with free:
            result = await play(scenario)
        assert result.passed, result.report
        return result.transcript

    transcripts = set(await asyncio.gather(*(one() for _ in range(RUNS))))
    assert len(transcripts) == 1
    (transcript,) = transcripts
    assert "451 4.7.1 Come back" in transcript or "421 4.3.2 Going down" in transcript


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
