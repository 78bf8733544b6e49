"""Folders and recipients by chance: where Postfix delivers, we deliver; whom it refuses or bounces, we refuse.

`SMTPROUTE_ORACLE_CASES=20000 SMTPROUTE_ORACLE_SEED=7 pytest tests/oracle` asks more and others.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.oracle.differential import differences, each_alone, ours
from tests.oracle.folders import by_chance, read

CASES = int(os.environ.get("SMTPROUTE_ORACLE_CASES", "1100"))
SEED = int(os.environ.get("SMTPROUTE_ORACLE_SEED", "20261"))
DEADLINE = 120 + CASES / 10
"""Seconds."""


@pytest.mark.peer("postconf", "postmap")
@pytest.mark.timeout(DEADLINE)
def test_many_folders_in_one_postfix(place: Path) -> None:
    found = list(differences(place, by_chance(SEED, CASES)))
    assert not found, "\n".join(map(str, found[:5]))


@pytest.mark.peer("postconf", "postmap")
@pytest.mark.timeout(DEADLINE)
def test_folders_that_would_spoil_others(place: Path) -> None:
    """Duplicate keys, text tables that begin with white space, catch-alls and patterns for the host itself."""
    found = list(each_alone(place, by_chance(SEED, CASES // 10, alone=True)))
    assert not found, "\n".join(map(str, found[:5]))


def test_chance_leaves_out_no_outcome(tmp_path: Path) -> None:
    """What is asked is worth asking: mail is delivered, refused and deferred, to one address and to several."""
    cases = by_chance(1, 1000)
    folders = list(dict.fromkeys(case.folder for case in cases))
    routings = {folder: read(tmp_path / str(number), folder) for number, folder in enumerate(folders)}
    outcomes = [ours(routings[case.folder], case) for case in cases]
    words = Counter(outcome.word for outcome in outcomes)
    assert words["delivered"] > 200 and words["refused"] > 200 and words["deferred"] > 20
    assert sum(len(outcome.finals) > 1 for outcome in outcomes) > 30
