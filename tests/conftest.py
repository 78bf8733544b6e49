"""What every test may use."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import lru_cache

import pytest

pytest_plugins = ["pytester"]


@lru_cache
def present(program: str) -> bool:
    """Whether a peer is on this machine: a program, or a Perl module as `perl:Mod::Name`."""
    kind, _, module = program.partition(":")
    if kind == "perl" and module:
        perl = shutil.which("perl")
        return perl is not None and subprocess.run([perl, f"-M{module}", "-e1"], capture_output=True).returncode == 0
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("peer"):
            missing = [program for program in mark.args if not present(program)]
            if missing and os.environ.get("SMTPROUTE_PEERS") == "required":
                item.add_marker(pytest.mark.usefixtures("missing_peer"))
            elif missing:
                item.add_marker(pytest.mark.skip(reason=f"not on this machine: {', '.join(missing)}"))


@pytest.fixture
def missing_peer(request: pytest.FixtureRequest) -> None:
    """Where every peer is required (CI), a missing one fails the test instead of skipping it."""
    missing = [program for mark in request.node.iter_markers("peer") for program in mark.args if not present(program)]
    pytest.fail(f"required here, and missing: {', '.join(missing)}")
