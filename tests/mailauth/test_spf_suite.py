"""The public SPF suite: the OpenSPF test suite for RFC 7208."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from spf_zone import TIMEOUT, ZoneLookup, evaluated

FOLDER = os.environ.get("SMTPROUTE_CONFORMANCE")


@pytest.mark.skipif(FOLDER is None, reason="SMTPROUTE_CONFORMANCE names no folder with the public suites")
def test_suite() -> None:
    yaml = pytest.importorskip("yaml", reason="the suite is YAML: it needs the package pyyaml")
    seen, wrong = 0, []
    for scenario in yaml.safe_load_all((Path(FOLDER or "") / "rfc7208-tests.yml").read_text("utf-8")):
        names = zone(scenario["zonedata"])
        for name, case in scenario["tests"].items():
            sender = case["mailfrom"] or f"postmaster@{case['helo']}"
            lookup = ZoneLookup(names)
            found = evaluated(lookup, case["host"], sender, case["helo"])
            expected = case["result"] if isinstance(case["result"], list) else [case["result"]]
            # What the suite calls DEFAULT is what a receiver says itself.
            words = str(case.get("explanation", found.explanation)).replace("DEFAULT", "")
            seen += 1
            if found.result not in expected or found.explanation != words:
                wrong.append((name, expected, words, found))
    assert not wrong
    assert seen == 203


def zone(data: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """SPF (type 99, which RFC 7208 3.1 ended) stands for TXT where a name says nothing of TXT; NONE: it has none.
    TIMEOUT is for all types of a name that have no value."""
    names: dict[str, dict[str, Any]] = {}
    for name, entries in data.items():
        types = names[name] = {type: [] for entry in entries if isinstance(entry, dict) for type in entry}
        for type, value in (
            (type, value) for entry in entries if isinstance(entry, dict) for type, value in entry.items()
        ):
            match type, value:
                case _, "NONE":
                    pass
                case "MX", [preference, host]:
                    types[type].append(f"{preference} {host or '.'}")
                case "TXT" | "SPF", list():
                    types[type].append("".join(value).encode("latin-1"))
                case "TXT" | "SPF", str():
                    types[type].append(value.encode("latin-1"))
                case _:
                    types[type].append(value)
        types.setdefault("TXT", types.get("SPF", []))
        if TIMEOUT in entries:
            types |= {type: TIMEOUT for type in ("TXT", "A", "AAAA", "MX", "PTR") if not types.get(type)}
    return names
