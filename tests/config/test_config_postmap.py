"""Our tables against Postfix's own: whatever `postmap -q` finds in a file, we find, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtproute.config.tables import alias_table, pcre_table, text_table
from smtproute.core.address import Address, Domain
from smtproute.core.aliases import Aliases, PcreTable, expand
from smtproute.core.plan import Tried

POSTALIAS = shutil.which("postalias", path=os.environ.get("PATH", "") + ":/usr/sbin") or "postalias"
POSTMAP = shutil.which("postmap", path=os.environ.get("PATH", "") + ":/usr/sbin") or "postmap"
ORIGIN = Domain.parse("origin.example")


def postmap(kind: str, table: bytes, queries: list[str]) -> tuple[dict[str, str], str]:
    """What `postmap -q -` answers for each query that it knows, and what it complains of."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table"
        for path, octets in ((Path(folder) / "main.cf", b"compatibility_level = 3.6\n"), (file, table)):
            path.write_bytes(octets)
            os.utime(path, (0, 0))  # Postfix waits for files of this second to cool down
        asked = subprocess.run(
            [POSTMAP, "-c", folder, "-q", "-", f"{kind}:{file}"],
            input="".join(f"{query}\n" for query in queries).encode(),
            capture_output=True,
            timeout=20,
        )
    complaints = asked.stderr.decode(errors="replace")
    if "unsupported dictionary type" in complaints:
        pytest.skip(f"this Postfix has no {kind} tables")
    assert "fatal" not in complaints, complaints
    answers = dict(line.split("\t", 1) for line in asked.stdout.decode("utf-8", "surrogateescape").split("\n") if line)
    return answers, complaints


# Text

TEXT_PIECES = ["a", "B", "a@x.y", "@x.y", "#", " ", "  ", "\t", "\r", "\v", "\n", "\n", "\n", ":", ",", '"', "é", "v"]
TEXT_QUERIES = ["a", "b", "A", "B", "a@x.y", "ab", "@x.y", "aa", "v", "a:", ":", ",", "é", "av", "ba", "va", "bb", "vv"]


@pytest.mark.peer("postmap")
@settings(max_examples=120, deadline=None)
@given(st.lists(st.sampled_from(TEXT_PIECES), max_size=40).map("".join))
@example("a v\r\n\r\n# c\r\n  b\r\nb\tv")
@example("a v\n\n   # c\n v\nA b\n")
@example(' a\n b\n\n#\na "b" c\n')
def test_text_tables_agree(text: str) -> None:
    answers, complaints = postmap("texthash", text.encode(), TEXT_QUERIES)
    table, _ = text_table("t", text)
    assert {
        query: table.entries[query.lower()].value for query in TEXT_QUERIES if query.lower() in table.entries
    } == answers
    assert bool(table.fault) == ("duplicate entry" in complaints)


# PCRE

ATOMS = r"""\. \/ \x61 \x{62} \x{100} \x{ \xg \u \x6 \1 \\ \Qa.b\E \Q\x{61} (a) (b)? (b|(a)) [ab] [^a] (?i) (?!a) {2}
    #c / ~ é ( ["""
PATTERN = st.lists(st.sampled_from([*"ab.@^$|+?x ", *ATOMS.split()]), max_size=6).map("".join)
RESULTS = "r s@x.y $1 ${2} $(1) $$ $0 $3 $a ${1 $(1(2)) $ - $1$2"
RESULT = st.lists(st.sampled_from([" ", *RESULTS.split()]), max_size=3).map("".join)
FLAGS = st.text("imsxAEUXq", max_size=2)
RULE = st.builds(
    "{}{}{}{}{} {}".format,
    st.sampled_from(["", "", "", "!", "! !", "! "]),
    delimiter := st.shared(st.sampled_from(["/", "/", "/", "~", "{", '"', "a"]), key="delimiter"),
    PATTERN,
    delimiter,
    FLAGS | st.just(""),
    RESULT,
)
LINE = st.one_of(
    RULE,
    RULE,
    st.builds("{}{}".format, st.sampled_from(["if ", "IF", "if !", "ifa", "If  "]), RULE),
    st.builds("/{}/ r".format, PATTERN),
    st.builds("if /{}/".format, PATTERN),
    st.builds("if !/{}/".format, PATTERN),
    st.sampled_from(["endif", "ENDIF x", "endifx", "#/a/ r", "", "  ", "  continued", "\t$1", "word", "/a/ r\r"]),
)
QUERIES = ["a@b", "b@a", "ab@a.b", "B@A", "aa@ab", "b.a@a", "aab@b.b", "x@x", "A@a", "a/b@a", "é@a", "abab@aabb"]


def answered(table: PcreTable, address: str) -> str | None:
    """The first result of the table; "" for one that is empty."""
    expansion = expand(Aliases((table,), ORIGIN), Address.parse(address))
    for step in expansion.steps:
        if "the result is empty" in step.why:
            return ""
        if step.result is Tried.MATCHED:
            return step.why.partition(": alias to ")[2]
        if step.tried != address:
            break
    return None


@pytest.mark.peer("postmap")
@settings(max_examples=200, deadline=None)
@given(st.lists(LINE, min_size=1, max_size=6).map("\n".join))
@example("/^(a)(x)?b?@/ [$1][$2]|${1}|$(1)|$$\n")
@example("if /b/\nif !/^a/\n/./ r\nendif\n/a/ s\nendif\n/./ v\n")
@example("if /b\n/a/ s\nendif\n/./ v\n")
@example("/b/A v\n/B@A/i r\n/x @/x s\n/a.*?(.)/U $1\n")
def test_pcre_tables_agree(text: str) -> None:
    answers, _ = postmap("pcre", text.encode(), QUERIES)
    table, _ = pcre_table("t", text)
    ours = {query: answered(table, query) for query in QUERIES}
    assert {query: value for query, value in ours.items() if value is not None} == answers


# Local aliases

ALIAS_PIECES = [
    "a",
    "B",
    "a: ",
    "root: ",
    "b:",
    '"a": ',
    "b@c.d: ",
    " x@y",
    " ",
    "\t",
    "\n",
    "\n",
    "\n",
    "# ",
    ",",
    ":",
]
ALIAS_QUERIES = ["a", "b", "A", "B", "root", "aa", "ab", "x@y", "b@c.d", "c", "f"]


@pytest.mark.peer("postalias")
@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(ALIAS_PIECES), max_size=24).map("".join))
@example('root: a\nRoot: b\n"a": x@y,\n  b\nb : a # c\n')
@example("a@b: x\na:\na,b: x\na b: x\n")
def test_local_aliases_agree(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "aliases"
        for path, octets in ((Path(folder) / "main.cf", b"compatibility_level = 3.6\n"), (file, text.encode())):
            path.write_bytes(octets)
            os.utime(path, (0, 0))
        made = subprocess.run([POSTALIAS, "-c", folder, f"hash:{file}"], capture_output=True, timeout=20)
        if b"unsupported dictionary type" in made.stderr:
            pytest.skip("this Postfix has no hash tables")
        asked = subprocess.run(
            [POSTALIAS, "-c", folder, "-q", "-", f"hash:{file}"],
            input="".join(f"{query}\n" for query in ALIAS_QUERIES).encode(),
            capture_output=True,
            timeout=20,
        )
    answers = dict(re.split(r":?\t", line, maxsplit=1) for line in asked.stdout.decode().splitlines())
    table, _ = alias_table("t", text)
    ours = {query: table.entries[query.lower()].value for query in ALIAS_QUERIES if query.lower() in table.entries}
    assert {query: bare(value) for query, value in ours.items()} == {
        query: bare(value) for query, value in answers.items()
    }


def bare(value: str) -> str:
    """Without white space: Postfix writes the value anew from its tokens, with white space of its own."""
    return re.sub(r"\s+", "", value)
