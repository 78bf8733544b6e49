"""The public ARC suite: ValiMail's arc_test_suite, validation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from arc_peers import ZoneTxt, judged

FOLDER = os.environ.get("SMTPROUTE_CONFORMANCE")


@pytest.mark.skipif(FOLDER is None, reason="SMTPROUTE_CONFORMANCE names no folder with the public suites")
def test_validation_suite() -> None:
    yaml = pytest.importorskip("yaml", reason="the suite is YAML: it needs the package pyyaml")
    seen, wrong = 0, []
    for scenario in yaml.safe_load_all((Path(FOLDER or "") / "arc-draft-validation-tests.yml").read_text("utf-8")):
        for name, case in (scenario or {"tests": {}})["tests"].items():
            raw = (case["message"] or "").replace("\n", "\r\n").encode()
            # Where the suite leaves cv empty the chain has ended: no more is sealed, and by RFC 8617 5.2 it has failed.
            expected = (case["cv"] or "").strip().lower() or "fail"
            chain = judged(raw, ZoneTxt(scenario.get("txt-records") or {}))
            seen += 1
            if chain.status.value != expected:
                wrong.append((name, expected, chain))
    assert not wrong
    assert seen == 171
