"""rspamd's files in a docker-mailserver folder: what they seal and sign with, and how they are read."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from smtproute.config.docker_mailserver.paths import Paths
from smtproute.config.docker_mailserver.signing import arc_of, dkim_of, read_signing, signed_twice
from smtproute.config.docker_mailserver.ucl import Block, Items, Text, UclError, Value, parse
from smtproute.core.address import Domain
from smtproute.core.docker_mailserver import Environment, KeyFile, Line, Signing
from smtproute.core.finding import Finding
from smtproute.core.settings import Arc, Dkim, DomainKey, SignBy

FOLDER = Path("/srv/dms/config")
RSPAMD = Environment({"ENABLE_RSPAMD": Line("mailserver.env:1", "ENABLE_RSPAMD", "1")}, written=True)


def read(text: str, *domains: str, name: str = "arc.conf", **paths: str) -> tuple[Signing, tuple[Finding, ...]]:
    return read_signing(name, text.encode(), Paths(FOLDER, paths), domains)


def keys(signing: Signing) -> list[tuple[str, str, str]]:
    return [(key.domain, key.selector, key.file.removeprefix(f"{FOLDER}/")) for key in signing.keys]


def arc(text: str, *domains: str, environment: Environment = RSPAMD) -> Arc:
    return arc_of(read(text, *domains)[0], environment)


# The files that docker-mailserver's documentation and its `setup config dkim` write

ARC = """
sign_local = true;
sign_authenticated = true;

domain {
    example.com {
        path = "/tmp/docker-mailserver/rspamd/dkim/rsa-2048-mail-example.com.private.txt";
        selector = "mail";
    }
}
"""


def test_the_documented_arc_conf() -> None:
    signing, findings = read(ARC)
    assert findings == ()
    assert keys(signing) == [("example.com", "mail", "rspamd/dkim/rsa-2048-mail-example.com.private.txt")]
    assert [(line.rule, line.value) for line in signing.options.values()] == [
        ("arc.conf:2", "true"),
        ("arc.conf:3", "true"),
    ]
    assert signing.keys[0].rule == "arc.conf:6"
    domain = Domain.parse("example.com")
    assert arc_of(signing, RSPAMD) == Arc(
        SignBy.RECIPIENT,
        keys={
            "example.com": DomainKey(domain, "mail", str(FOLDER / "rspamd/dkim/rsa-2048-mail-example.com.private.txt"))
        },
        local=True,
        authenticated=True,
        username_mismatch=False,
        parents=True,
    )


def test_what_setup_config_dkim_writes() -> None:
    signing, findings = read(
        """# documentation: https://rspamd.com/doc/modules/dkim_signing.html

enabled = true;

sign_authenticated = true;
sign_local = false;
try_fallback = false;

use_domain = "header";
use_redis = false; # don't change unless Redis also provides the DKIM keys
use_esld = true;
allow_username_mismatch = true;

check_pubkey = true; # you want to use this in the beginning

domain {
    example.test {
        path = "/tmp/docker-mailserver/rspamd/dkim/rsa-2048-mail-example.test.private.txt";
        selector = "mail";
    }
}

""",
        "else.test",
        name="dkim_signing.conf",
    )
    assert findings == ()
    assert keys(signing) == [("example.test", "mail", "rspamd/dkim/rsa-2048-mail-example.test.private.txt")]
    assert (signing.option("sign_local", True), signing.option("allow_username_mismatch", False)) == (False, True)
    assert signing.options["use_domain"].value == "header"


SELECTORS = """
selector = "mail";
path = "/tmp/docker-mailserver/dkim/keys/$domain/$selector.private";
domain {
    example.com {
        path = /tmp/docker-mailserver/rspamd/example.com/ed25519.private";
        selector = "dkim-ed25519";
    }
    example.org {
        selectors [
            {
                path = "/tmp/docker-mailserver/rspamd/dkim/example.org/rsa.private";
                selector = "dkim-rsa";
            },
            {
                path = "/tmp/docker-mailserver/rspamd/dkim/example.org/ed25519.private";
                selector = "dkim-ed25519";
            }
        ]
    }
}
"""


def test_the_documented_selectors_with_the_quotation_mark_that_is_missing_there() -> None:
    signing, findings = read(SELECTORS, "example.net", "example.com", name="dkim_signing.conf")
    assert keys(signing) == [
        ("example.com", "dkim-ed25519", 'rspamd/example.com/ed25519.private"'),
        ("example.org", "dkim-rsa", "rspamd/dkim/example.org/rsa.private"),
        ("example.org", "dkim-ed25519", "rspamd/dkim/example.org/ed25519.private"),
        ("example.net", "mail", "dkim/keys/example.net/mail.private"),
    ]
    assert [key.rule.rpartition(":")[2] for key in signing.keys] == ["5", "11", "15", "3"]
    (finding,) = findings
    assert (finding.name, finding.where) == ("rspamd-syntax", "dkim_signing.conf:6")
    assert finding.instead == 'path = "/tmp/docker-mailserver/rspamd/example.com/ed25519.private";'


# Keys


def test_arc_seals_with_the_first_key_of_a_domain() -> None:
    found = arc(SELECTORS)
    assert found.keys["example.org"].selector == "dkim-rsa"
    unknown_first = (
        'domain { a.example { selectors [ { path = "/x"; selector = a }, { path = "/tmp/docker-mailserver/y" } ] } }'
    )
    assert arc(unknown_first).keys == {}


def test_the_top_fills_in_what_a_block_leaves_out() -> None:
    text = """
        path = "/tmp/docker-mailserver/rspamd/dkim/${domain}.$selector.key";
        selector = top;
        domain { a.example { selector = own; } b.example { path = "/tmp/docker-mailserver/b.key"; } c.example { } }
    """
    signing, findings = read(text)
    assert keys(signing) == [
        ("a.example", "own", "rspamd/dkim/a.example.own.key"),
        ("b.example", "top", "b.key"),
        ("c.example", "top", "rspamd/dkim/c.example.top.key"),
    ]
    assert findings == ()


def test_other_domains_only_with_try_fallback() -> None:
    path = 'path = "/tmp/docker-mailserver/one.key"; selector = mail;'
    assert keys(read(path, "a.example", "b.example")[0]) == [
        ("a.example", "mail", "one.key"),
        ("b.example", "mail", "one.key"),
    ]
    assert keys(read(f"{path} try_fallback = false;", "a.example")[0]) == []
    assert keys(read("selector = mail;", "a.example")[0]) == []


def test_without_selector_or_path_rspamd_has_its_own() -> None:
    signing, findings = read('domain { a.example { path = "/tmp/docker-mailserver/a"; } b.example { selector = x; } }')
    assert keys(signing) == [("a.example", "arc", "a"), ("b.example", "x", "")]
    assert signing.keys[1].written == "/var/lib/rspamd/arc/b.example.x.key"
    assert [(each.name, each.where) for each in findings] == [("container-path", "arc.conf:1")]
    signing, _ = read('domain { a.example { path = "/tmp/docker-mailserver/a"; } }', name="dkim_signing.conf")
    assert signing.keys[0].selector == "dkim"


def test_a_path_that_the_user_maps() -> None:
    text = 'domain { a.example { path = "${DBDIR}/keys/../keys/a.key"; selector = mail } }'
    (finding,) = read(text)[1]
    assert finding.instead == '[docker_mailserver] paths = { "/var/lib/rspamd/keys/../keys" = "..." }'
    signing, findings = read(text, **{"/var/lib/rspamd/": "/srv/state"})
    assert (signing.keys[0].file, findings) == ("/srv/state/keys/a.key", ())


def test_maps_of_selectors_and_paths(tmp_path: Path) -> None:
    (tmp_path / "rspamd").mkdir()
    (tmp_path / "rspamd" / "selectors.map").write_text("# c\na.example one\n\nb.example two\n")
    text = """
        selector_map = "/tmp/docker-mailserver/rspamd/selectors.map";
        path_map = ["a.example /tmp/docker-mailserver/a.key", "b.example /tmp/docker-mailserver/$selector.key"];
    """
    signing, findings = read_signing("arc.conf", text.encode(), Paths(tmp_path, {}))
    assert findings == ()
    assert [(key.domain, key.selector, key.file, key.rule) for key in signing.keys] == [
        ("a.example", "one", f"{tmp_path}/a.key", "selectors.map:2"),
        ("b.example", "two", f"{tmp_path}/two.key", "selectors.map:4"),
    ]
    assert [each.name for each in read('selector_map = "/elsewhere";')[1]] == ["not-simulated"]


# How mail is sealed


def test_no_sealing_without_rspamd() -> None:
    off = Environment({}, written=True)
    assert arc(ARC, environment=off) == Arc()
    assert arc(ARC, environment=Environment()).sign is SignBy.RECIPIENT
    assert arc(f"enabled = false;{ARC}") == Arc()


@pytest.mark.parametrize(
    ("use_domain", "sign", "domain"),
    [
        ("recipient", SignBy.RECIPIENT, None),
        ("header", SignBy.SENDER, None),
        ("example.com", SignBy.DOMAIN, "example.com"),
        ("envelope", SignBy.OFF, None),
        ("auth", SignBy.OFF, None),
    ],
)
def test_use_domain(use_domain: str, sign: SignBy, domain: str | None) -> None:
    text = f'use_domain = "{use_domain}";{ARC}'
    found = arc(text)
    assert (found.sign, found.domain and str(found.domain)) == (sign, domain)
    assert [each.name for each in read(text)[1]] == (["not-simulated"] if sign is SignBy.OFF else [])


@pytest.mark.parametrize(
    ("option", "attribute", "default"),
    [
        ("sign_inbound", "inbound", True),
        ("sign_local", "local", False),
        ("sign_authenticated", "authenticated", False),
        ("allow_username_mismatch", "username_mismatch", False),
        ("allow_hdrfrom_mismatch", "author_mismatch", True),
        ("allow_envfrom_empty", "null_sender", True),
        ("use_esld", "parents", True),
    ],
)
def test_options(option: str, attribute: str, default: bool) -> None:
    assert getattr(arc("domain { }"), attribute) is default
    for text, value in (("true", True), ("Yes", True), ("on", True), ("false", False), ("NO", False), ("off", False)):
        assert getattr(arc(f"{option} = {text};"), attribute) is value
    for text in ('"false"', "'no'", "0"):  # to Lua anything but false is true
        assert getattr(arc(f"{option} = {text};"), attribute) is True
        assert [each.name for each in read(f"{option} = {text};")[1]] == ["rspamd-option"]


@pytest.mark.parametrize(
    ("text", "name", "line", "word"),
    [
        ('sign_local = "false";', "rspamd-option", 1, "takes it for true"),
        ("arc {\n sign_local = true;\n}", "rspamd-option", 1, "at the top"),
        ("selector = a;\nselector = b;", "rspamd-twice", 2, "list of both"),
        ("\nuse_redis = true;", "not-simulated", 2, "use_redis"),
        ("signing_table [ x ]", "not-simulated", 1, "signing_table"),
        ("domain { a.example { } }\ndomain { b.example { } }", "rspamd-twice", 2, "second domain"),
        ("domain a.example { selector = x }\ndomain b.example { selector = y }", "rspamd-twice", 2, "second domain"),
        ("domain {\n a.example { selector = x; path = y }\n a.example { }\n}", "rspamd-twice", 2, "more than one"),
        ("domain {\n a.example = x\n}", "rspamd-syntax", 2, "must be a block"),
        ("domain = x", "rspamd-syntax", 1, "must be a block"),
        ("domain { A.example { selector = x; path = /tmp/docker-mailserver/y } }", "rspamd-domain", 1, "lower case"),
        ('.include "/etc/rspamd/x"\nsign_local = true', "rspamd-syntax", 1, "not followed"),
        ("domain {\n a.example {\n  selector = x;\n}\n", "rspamd-syntax", 1, "not closed"),
        ("sign_local = true\n}", "rspamd-syntax", 2, "closes nothing"),
        ('sign_local = "true\n', "rspamd-syntax", 1, "quotation"),
        ("sign_local\n", "rspamd-syntax", 1, "no value"),
    ],
)
def test_findings(text: str, name: str, line: int, word: str) -> None:
    findings = read(text)[1]
    assert (findings[0].name, findings[0].where) == (name, f"arc.conf:{line}")
    assert word in findings[0].what


# DKIM


def dkim(text: str, *domains: str, environment: Environment = RSPAMD) -> Dkim:
    return dkim_of(read(text, *domains, name="dkim_signing.conf")[0], (), environment)


KEY = "domain { a.example { selector = x; path = /tmp/docker-mailserver/a } }\n"


@pytest.mark.parametrize(
    ("option", "attribute", "default"),
    [
        ("sign_local", "local", True),
        ("sign_authenticated", "authenticated", True),
        ("allow_username_mismatch", "username_mismatch", False),
        ("allow_hdrfrom_mismatch", "author_mismatch", False),
        ("allow_envfrom_empty", "null_sender", True),
        ("use_esld", "parents", True),
    ],
)
def test_dkim_options(option: str, attribute: str, default: bool) -> None:
    assert getattr(dkim(KEY), attribute) is default
    for text, value in (("true", True), ("off", False)):
        assert getattr(dkim(f"{option} = {text};\n{KEY}"), attribute) is value


def test_who_signs_by_rspamd() -> None:
    key = DomainKey(Domain.parse("a.example"), "x", f"{FOLDER}/a")
    assert dkim(KEY).keys == {"a.example": (key,)}
    assert dkim(f"use_domain = header;\n{KEY}").keys == {"a.example": (key,)}
    for text in ("enabled = false;", "use_domain = envelope;", "use_domain = recipient;", "use_domain = b.example;"):
        assert dkim(f"{text}\n{KEY}") == Dkim()
    assert dkim(KEY, environment=Environment(written=True)) == Dkim()
    assert dkim(KEY.replace("/tmp/docker-mailserver", "/elsewhere")).keys == {}


def test_a_key_of_each_domain_at_the_top() -> None:
    text = 'path = "/tmp/docker-mailserver/$domain/$selector.key"; selector = s;'
    assert {each: [key.file for key in keys] for each, keys in dkim(text, "a.example", "b.example").keys.items()} == {
        "a.example": [f"{FOLDER}/a.example/s.key"],
        "b.example": [f"{FOLDER}/b.example/s.key"],
    }


def test_one_key_of_both_signers_signs_once() -> None:
    signing, _ = read(KEY, name="dkim_signing.conf")
    same = KeyFile("a.example", "x", f"{FOLDER}/x.private", "/etc/opendkim/x.private", "opendkim/KeyTable:1")
    other = KeyFile("b.example", "x", f"{FOLDER}/x.private", "/x", "opendkim/KeyTable:1", author="a.example")
    both = dkim_of(signing, (same, other), RSPAMD)
    assert [(str(key.domain), key.selector) for key in both.keys["a.example"]] == [
        ("a.example", "x"),
        ("b.example", "x"),
    ]
    assert both.keys["a.example"][0].file == f"{FOLDER}/a", "of two keys for one record rspamd's"
    (finding,) = signed_twice(signing, (same, other), RSPAMD)
    assert finding.name == "dkim-twice" and "a.example" in finding.what
    assert list(signed_twice(signing, (other,), RSPAMD)) == []
    assert list(signed_twice(signing, (same,), Environment())) == []  # nobody knows what runs


@pytest.mark.parametrize("text", ["use_domain = envelope;", "use_domain = a.example;", "sign_inbound = true;"])
def test_what_of_dkim_is_not_simulated(text: str) -> None:
    assert [(each.name, each.where) for each in read(text, name="dkim_signing.conf")[1]] == [
        ("not-simulated", "dkim_signing.conf:1")
    ]


def test_what_is_hidden_from_rspamd_seals_nothing_here() -> None:
    block = "a.example { selector = x; path = /tmp/docker-mailserver/a }"
    assert list(arc(f"domain {{ {block} }}").keys) == ["a.example"]
    assert arc(f"domain {{ {block} }}\ndomain {{ b.example {{ }} }}").keys == {}
    assert arc(f"domain {{ {block}\n {block} }}").keys == {}
    assert arc(f"domain {{ {block.replace('a.ex', 'A.ex')} }}").keys == {}


def test_a_file_that_cannot_be_read_has_nothing() -> None:
    signing, findings = read("sign_local = true\n}")
    assert (signing.options, signing.keys) == ({}, ())
    assert "does not start" in findings[0].what


# Paths


@pytest.mark.parametrize(
    ("container", "host"),
    [
        ("/tmp/docker-mailserver/rspamd/x", "/srv/dms/config/rspamd/x"),
        ("/tmp/docker-mailserver", "/srv/dms/config"),
        ("//tmp//docker-mailserver/./x/", "/srv/dms/config/x"),
        ("/etc/opendkim/keys/d/mail.private", "/srv/dms/config/opendkim/keys/d/mail.private"),
        ("/etc/rspamd/override.d/arc.conf", "/srv/dms/config/rspamd/override.d/arc.conf"),
        ("/keys/a", "/own/a"),
        ("/tmp/docker-mailserver/special/a", "/elsewhere/a"),
        ("/tmp/docker-mailserver/special2/a", "/srv/dms/config/special2/a"),
        ("/tmp/docker-mailserver/../secret", None),
        ("/tmp/docker-mailserver/x/../../../etc/passwd", None),
        ("/tmp/docker-mailserver2/x", None),
        ("/etc/opendkimx", None),
        ("/var/lib/rspamd/x", None),
        ("rspamd/x", None),
        ("", None),
        ("/tmp/docker-mailserver/\0", None),
    ],
)
def test_paths(container: str, host: str | None) -> None:
    paths = Paths(FOLDER, {"/keys/": "/own", "/tmp/docker-mailserver/special": "/elsewhere"})
    assert paths.host(container) == (Path(host) if host is not None else None)


# The reader, beside libucl

PIECES = [
    *("a", "b", "domain", "x.y", "/p/q", "$domain", "true", "5", "1k", "é", "-", "_", "\\", "\\u0041"),
    *(" ", " ", " ", "\t", "\n", "\n", "\r\n", ";", ";", ",", "=", "=", " = ", ": ", "{", "}", "{", "}", "[", "]", '"'),
    *(
        '"q"',
        '"q;r"',
        "'s'",
        "#",
        "/*",
        "*/",
        "a = b;\n",
        "a { b = c }\n",
        "k [ 1, 2 ]",
        "c d {",
        "}\n",
        "<<E\n",
        "\nE\n",
    ),
]
SOUP = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)

BARE = st.sampled_from(["mail", "/tmp/a.key", "true", "no", "a b", "x\\;y", "a{b}c", "5min"])
WORD = BARE | st.sampled_from(['"mail"', '"a;b } # c"', '"\\"\\u00e9"', "'it\\'s'"])
GAP = st.sampled_from(["", " ", "\n", " # c }\n", "/* { /* x */ */"])


def block(entry: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds("{{{}{}{}}}".format, GAP, st.lists(entry, max_size=3).map("".join), GAP)


def items(value: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(value, max_size=3).map(", ".join).map("[ {} ]".format)


NAME = st.sampled_from(["a", "selector", "example.com", '"q r"', "_x", "a-b"])
ENTRY = st.recursive(
    st.builds(
        "{}{}{}{}\n".format, NAME, st.sampled_from([" ", " = ", ": ", " =\n"]), WORD, st.sampled_from([";", ",", ""])
    ),
    lambda inner: st.builds(
        "{}{}{}{}".format,
        NAME,
        st.sampled_from([" ", " = ", ' "n" ', " n "]),
        block(inner) | items(WORD | block(inner)),
        st.sampled_from(["", ";", "\n", " # c\n"]),
    ),
    max_leaves=8,
)
FILE = st.builds("{}{}".format, GAP, st.lists(ENTRY, max_size=4).map("".join))

LUA = """
local ucl = require "ucl"
for line in io.lines(CASES) do
  local text = line:gsub("..", function(octet) return string.char(tonumber(octet, 16)) end)
  local parser = ucl.parser()
  local read = parser:parse_string(text)
  print(read and ucl.to_format(parser:get_object(), "json-compact") or "")
end
"""


def libucl(texts: list[str], folder: Path) -> list[Any]:
    """What rspamd's own parser makes of each text; None where it cannot read it."""
    cases, script = folder / "cases", folder / "read.lua"
    cases.write_text("".join(f"{text.encode().hex()}\n" for text in texts))
    script.write_text(LUA.replace("CASES", json.dumps(str(cases))))
    run = subprocess.run(["rspamadm", "lua", "-b", str(script)], capture_output=True, timeout=60)
    lines = run.stdout.decode("utf-8", "replace").split("\n")[:-1]
    assert len(lines) == len(texts), run.stderr
    return [json.loads(line) if line else None for line in lines]


def plain(value: Value) -> Any:
    """A value as libucl has it; None for a key that is written several times with lists, which it joins somehow."""
    match value:
        case Text():
            return value.text
        case Items():
            return [plain(each) for each in value.items]
    found: dict[str, list[Value]] = {}
    for key, each in value.entries:
        found.setdefault(key, []).append(each)
    return {key: _merged(values) for key, values in found.items()}


def _merged(values: list[Value]) -> Any:
    if len(values) == 1:
        return plain(values[0])
    return None if any(isinstance(each, Items) for each in values) else [plain(each) for each in values]


def alike(ours: Any, theirs: Any) -> bool:
    """Whether the two are the same, but for texts that libucl takes for numbers and the like."""
    if ours is None:
        return True
    if isinstance(theirs, dict):
        return (
            isinstance(ours, dict) and ours.keys() == theirs.keys() and all(alike(ours[k], theirs[k]) for k in theirs)
        )
    if isinstance(theirs, list):
        return isinstance(ours, list) and len(ours) == len(theirs) and all(map(alike, ours, theirs))
    return ours == theirs if isinstance(theirs, str) else isinstance(ours, str)


@pytest.mark.peer("rspamadm")
@settings(max_examples=30, deadline=None, phases=[Phase.explicit, Phase.generate])  # the message names the one text
@given(made=st.lists(SOUP | FILE, min_size=5, max_size=12))
def test_the_reader_agrees_with_libucl(made: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    texts = [text for text in made if "." not in text.split("\n")]
    for text, theirs in zip(texts, libucl(texts, tmp_path_factory.mktemp("ucl")), strict=True):
        try:
            ours = plain(parse(text)[0])
        except UclError:
            ours = None
        if ours is None and theirs is not None and "null" in json.dumps(theirs):
            continue  # libucl forgives a value that is missing at the very end
        if isinstance(theirs, list):
            theirs = None  # a list has no options
        assert (ours is None) == (theirs is None), (text, ours, theirs)
        assert theirs is None or alike(ours, theirs), (text, ours, theirs)


@settings(max_examples=300, deadline=None)
@given(SOUP | FILE | st.text(max_size=60) | st.binary(max_size=60).map(lambda octets: octets.decode("latin-1")))
def test_whatever_the_file_holds_something_comes_out(text: str) -> None:
    signing, findings = read(text, "a.example")
    arc_of(signing, RSPAMD)
    dkim_of(signing, signing.keys, RSPAMD)
    assert all(finding.where.startswith("arc.conf:") for finding in findings)


@pytest.mark.parametrize("opening", ["{", "[", "a {", "a = [", "a b {", "/*", '"', "a b c d e f {", "a = {a"])
def test_a_file_of_openings_only_is_refused_in_time(opening: str) -> None:
    with pytest.raises(UclError):
        parse(opening * 5000)


def test_lines_are_those_of_the_file() -> None:
    found, macros = parse("# c\n\na = 1;\nb {\n  c = [ x,\n    y ]\n}\n.m x\n")
    (_, first), (_, second) = found.entries
    assert isinstance(second, Block)
    listed = second.entries[0][1]
    assert isinstance(listed, Items)
    assert (first.line, second.line, listed.line, [each.line for each in listed.items]) == (3, 4, 5, [5, 6])
    assert macros == (Text(".m x", 8),)
