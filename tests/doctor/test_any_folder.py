"""Whatever stands in the files, `check` has an answer."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from smtproute.config import load
from smtproute.doctor import examine, watch

TOML = 'hostname = "mail.example.org"\n\n[docker_mailserver]\nconfig = "."\nenv = "mailserver.env"\n'

locals_ = st.sampled_from(["anna", "bob", "a", "in..fo", '"a b"', "x+y", "", "@", "#", "postmaster", "root"])
domains = st.sampled_from(
    ["example.org", "example.net", "mail.example.org", "gmail.com", "[192.0.2.1]", "münchen.example", "bad..x", ""]
)
addresses = st.tuples(locals_, st.sampled_from(["@", "@", ""]), domains).map("".join)
values = st.lists(addresses | st.sampled_from(["# note", "|prog", "/file"]), max_size=3).map(",".join)
matchers = [
    "a",
    "@",
    r"\.",
    ".",
    "example",
    "org",
    ".*",
    ".+",
    "[a-z]",
    "[^@]",
    "[]a]",
    r"\d",
    r"\/",
    r"\x41",
    "é",
    " ",
]
others = ["(a|b)", "(.*)", "^", "$", "(", "|", "{2}", "?", "(?i)", "x{", "\\", "[a"]
fragments = st.sampled_from([*matchers, *others])
patterns = st.lists(fragments, max_size=7).map("".join)
rules = st.tuples(
    st.sampled_from(["/", "!/", "if /"]), patterns, st.sampled_from(["/ ", "/i ", "/x ", "/A ", " "]), values
)


def text(lines: st.SearchStrategy[tuple[str, ...]]) -> st.SearchStrategy[str]:
    return st.lists(lines.map("".join), max_size=6).map("\n".join)


@settings(max_examples=60, deadline=None)
@given(
    accounts=text(st.tuples(addresses, st.sampled_from(["|{PLAIN}x", "|x", "", " |{PLAIN}x"]))),
    virtual=text(st.tuples(st.sampled_from(["", "", " "]), addresses, st.sampled_from([" ", ": "]), values)),
    regexp=text(rules),
    local=text(st.tuples(locals_, st.just(": "), values)),
    srs=addresses,
    postmaster=addresses,
)
def test_no_folder_is_too_odd(accounts: str, virtual: str, regexp: str, local: str, srs: str, postmaster: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (
            ("smtproute.toml", TOML),
            ("postfix-accounts.cf", accounts),
            ("postfix-virtual.cf", virtual),
            ("postfix-regexp.cf", regexp),
            ("postfix-aliases.cf", local),
            ("mailserver.env", f"ENABLE_SRS=1\nSRS_DOMAINNAME={srs}\nPOSTMASTER_ADDRESS={postmaster}\n"),
        ):
            (Path(folder) / name).write_text(content)
        snapshot = load(str(Path(folder) / "smtproute.toml"), {}, fqdn=lambda: "mail.example.org")
        findings = examine(snapshot)
        assert all(each.what and each.name and each.where for each in findings)
        assert len({(each.name, each.where, each.what) for each in findings}) == len(findings)
        watch(snapshot)
