"""What expectations of a scenario ask beyond the place of a copy, played, each as it holds and as it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from smtproute.testing.scenarios.play import play
from smtproute.testing.scenarios.scenario import read

FLOW = """
title = "Three letters to a busy server and one beside it"
[config]
default = { endpoint = "far" }
endpoint.far = { servers = ["a.far.example:25", "b.far.example:25"] }
[upstream."a.far.example"]
rule = [{ at = "CONNECT", reply = "421 4.3.2 Busy" }]
[[message]]
from = "app@example.org"
to = ["SRS0=abcd=TT=else.example=friend@far.example"]
copies = 3
size = "2KB"
[[message.expect]]
endpoint = "far"
"""
EXPECTATIONS = {
    "each copy": ('to = "SRS0=abcd=TT=else.example=friend@far.example"', ""),
    "a star": ('to = "SRS0=*=else.example=friend@FAR.example"', ""),
    "another": ('to = "SRS0=*=else.example=victim@far.example"', "there is none"),
    "all copies": ('to = "SRS0=*@far.example"\ncopies = 3', ""),
    "fewer copies": ('to = "SRS0=*@far.example"\ncopies = 2', "not expected: endpoint far for SRS0="),
    "more copies": (
        'to = "SRS0=*@far.example"\ncopies = 4',
        "expected endpoint far for SRS0=*@far.example: there is none",
    ),
    "the trace": (
        'to = "SRS0=*@far.example"\ntrace = ["*MAIL FROM:<app@example.org> SIZE=*", "delivered*", "x"]',
        "'delivered*'",
    ),
    "its order": (
        'to = "SRS0=*@far.example"\ntrace = ["*delivered *says b.far.example *", "*received *from <app@example.org>*"]',
        "its trace has no line '*received *from <app@example.org>*', or not in this order",
    ),
    "a line": ('to = "SRS0=*@far.example"\ntrace = "*b.far.example:25 at *"', ""),
    "a size": ('to = "SRS0=*@far.example"\ntrace = "regex:.*received .* 20[0-9][0-9] octets.*"', ""),
}


@pytest.mark.parametrize("name", EXPECTATIONS)
async def test_expectation(tmp_path: Path, name: str) -> None:
    expectation, said = EXPECTATIONS[name]
    file = tmp_path / "flow.toml"
    file.write_text(f"{FLOW}{expectation}\n")
    failures = (await play(read(file))).failures
    if said:
        assert failures and said in failures[0], failures
    else:
        assert not failures
