"""The JUnit report, as CI servers read it: one test case a scenario."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePath
from xml.etree import ElementTree

from smtproute.cli.ending import Ending, Verdict
from smtproute.core.transcript import legible

__all__ = ["junit"]

_UNFIT = re.compile("[\ufffe\uffff]")
"""What XML 1.0 (2.2) has no place for, beside the controls and surrogates that no legible text has."""


def junit(tested: Sequence[Ending], seconds: float, now: float) -> bytes:
    """The file. `seconds`: how long all took; `now`: when they began, in seconds since the epoch."""
    counts = {
        "tests": str(len(tested)),
        "failures": str(sum(each.verdict is Verdict.FAILED for each in tested)),
        "errors": str(sum(each.verdict in (Verdict.BROKEN, Verdict.FAULT) for each in tested)),
        "time": f"{seconds:.3f}",
    }
    root = ElementTree.Element("testsuites", {"name": "smtproute test", **counts})
    began = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    about = {"name": "scenarios", "timestamp": began, "hostname": "localhost"}
    suite = ElementTree.SubElement(root, "testsuite", {**about, **counts, "skipped": "0"})
    for each in tested:
        path = PurePath(each.file)
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_fit(".".join(part for part in path.with_suffix("").parts if part != path.anchor)),
            name=_fit(each.title or path.name),
            time=f"{each.seconds:.3f}",
        )
        if not each.passed:
            what = "failure" if each.verdict is Verdict.FAILED else "error"
            first, *_ = each.told.splitlines() or [""]
            said = ElementTree.SubElement(case, what, message=_fit(first), type=str(each.verdict))
            said.text = "\n".join(map(_fit, each.told.splitlines()))
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _fit(text: str) -> str:
    """One line, legible, as XML can hold it."""
    return _UNFIT.sub(lambda found: f"\\u{ord(found[0]):04x}", legible(text))
