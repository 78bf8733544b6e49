"""Alias tables become what Postfix would look up; every line that it would skip is a finding."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtproute.config.tables import key_domains, pcre_table, text_table
from smtproute.core.address import Address, Domain
from smtproute.core.aliases import Aliases, Entry, Table, expand
from smtproute.core.finding import warning

ORIGIN = Domain.parse("host.example")


def becomes(table: Table, address: str) -> list[str]:
    return [str(final) for final in expand(Aliases((table,), ORIGIN), Address.parse(address)).finals]


# Text


def test_text_grammar() -> None:
    table, findings = text_table(
        "postfix-virtual.cf",
        b"# a comment\n"
        b"Anna@Example.ORG\tx@y.example,\n"
        b"\n"
        b"   # a comment inside\n"
        b"  z@y.example \r\n"
        b"@example.com   catch@example.org\r\n"
        b"root anna@example.org",
    )
    assert table.file == "postfix-virtual.cf"
    assert table.entries == {
        "anna@example.org": Entry(2, "x@y.example,  z@y.example"),
        "@example.com": Entry(6, "catch@example.org"),
        "root": Entry(7, "anna@example.org"),
    }
    assert (table.fault, findings) == ("", ())
    assert key_domains(table) == {"example.org": "postfix-virtual.cf:2", "example.com": "postfix-virtual.cf:6"}
    assert becomes(table, "anna@example.org") == ["x@y.example", "z@y.example"]


def test_text_faults() -> None:
    table, findings = text_table(
        "v",
        b"  continues nothing\n"
        b"lonely\n"
        b"name: value\n"
        b'"a b@c.example d@e.example\n'
        b"\xe4@c.example d@e.example\n"
        b"a@c.example one@e.example\n"
        b"b@c.example two@e.example\n"
        b"A@C.example three@e.example\n"
        b"a@c.example four@e.example\n",
    )
    assert [str(each) for each in findings] == [
        "warning: v:1: A line that begins with white space continues the one above, and there is none: it is ignored. "
        "[leading-space] Instead: continues nothing",
        'warning: v:2: "lonely" has no value: the line is ignored. [no-value] Instead: lonely target@example.org',
        'warning: v:3: The key "name:" ends in a colon and never matches: this is no aliases(5) file. '
        "[key-with-colon] Instead: name value",
        "warning: v:4: An unbalanced quote: the line is ignored. [unbalanced-quote]",
        "warning: v:5: Not UTF-8: the line is ignored. [not-utf-8]",
        'error: v:8: The duplicate key "a@c.example" (lines 6 and 8) makes the whole table unusable: '
        "every recipient gets 451 4.3.0. [duplicate-key] Instead: A@C.example one@e.example, three@e.example",
        'error: v:9: The duplicate key "a@c.example" (lines 6 and 9) makes the whole table unusable: '
        "every recipient gets 451 4.3.0. [duplicate-key] Instead: a@c.example one@e.example, four@e.example",
    ]
    assert table.fault == 'duplicate key "a@c.example" (lines 6 and 8)'
    assert key_domains(table) == {"c.example": "v:6"}
    expansion = expand(Aliases((table,), ORIGIN), Address.parse("b@c.example"))
    assert expansion.fault is not None
    assert str(expansion.fault.refusal.reply) == "451 4.3.0 Temporary lookup failure: try again later"


@pytest.mark.parametrize(
    ("key", "address"),
    [
        ('"a b"@c.example', '"a b"@c.example'),
        (r'"a\ b"@c.example', '"a b"@c.example'),
        ("anna@münchen.example", "anna@xn--mnchen-3ya.example"),
        ("@MÜNCHEN.example", "anna@münchen.example"),
        ("müller@c.example", "MÜLLER@c.example"),
    ],
)
def test_keys_in_other_spellings_are_found(key: str, address: str) -> None:
    table, findings = text_table("v", f"{key} found@d.example\n")
    assert findings == ()
    assert becomes(table, address) == ["found@d.example"]


def test_quotes_that_are_not_needed_make_another_key() -> None:
    table, _ = text_table("v", 'anna@c.example one@d.example\n"anna"@c.example two@d.example\n')
    assert table.fault == ""
    assert becomes(table, "anna@c.example") == ["one@d.example"]


# PCRE


def test_pcre_grammar() -> None:
    table, findings = pcre_table(
        "postfix-regexp.cf",
        b"# a comment\n"
        b"/^support[0-9]*@example\\.org$/ anna@example.org\n"
        b"/^(.+)-list@(example\\.org)$/\n"
        b"  ${1}@$(2)\n"
        b"!/@example\\.(org|com)$/ $$elsewhere@example.org\n"
        b"if /^in/\n"
        b"IF !/x@/\n"
        b"~^inner@~ inner@d.example\n"
        b"endif\n"
        b"/^inx@/i only-lower@d.example\n"
        b"EndIf\n"
        b"/a\\/b@/ slash@d.example\r\n",
    )
    assert findings == ()
    assert [(rule.line, rule.condition.text) for rule in table.rules] == [
        (2, r"/^support[0-9]*@example\.org$/"),
        (3, r"/^(.+)-list@(example\.org)$/"),
        (5, r"!/@example\.(org|com)$/"),
        (8, "~^inner@~"),
        (10, "/^inx@/i"),
        (12, r"/a\/b@/"),
    ]
    assert [condition.text for condition in table.rules[3].enclosing] == ["/^in/", "!/x@/"]
    assert becomes(table, "SUPPORT12@example.org") == ["anna@example.org"]
    assert becomes(table, "dev-list@example.org") == ["dev@example.org"]
    assert becomes(table, "x@y.example") == ["$elsewhere@example.org"]
    assert becomes(table, "inner@example.org") == ["$elsewhere@example.org"]
    assert becomes(table, "inx@example.org") == ["$elsewhere@example.org"]
    assert becomes(table, "INX@example.org") == ["INX@example.org"]
    assert becomes(table, "a/b@example.org") == ["$elsewhere@example.org"]


def test_pcre_faults() -> None:
    table, findings = pcre_table(
        "p",
        "  /x/ continues nothing\n"
        "if /never closed/\n"
        "/(/ x\n"
        "/x x\n"
        "!\n"
        "/x/q x\n"
        "/a/b/ x\n"
        "/x/X x@y.example\n"
        "word /x/ y\n"
        "/(x)/ $2\n"
        "/(x)/ $0\n"
        "/(x)/ $1x\n"
        "/(x)/ ${1\n"
        "/(x)/ $\n"
        "/(x)/ $99999999999999999999\n"
        "!/(x)/ $1\n"
        "/x/\n"
        r"/\u0041/ x" + "\n"
        r"/\x{100}/ x" + "\n"
        "if /(/\n"
        "if /z/ x@y.example\n"
        "endif x\n"
        "endif\n"
        "endif\n",
    )
    assert [(each.where, each.what) for each in findings] == [
        ("p:1", "A line that begins with white space continues the one above, and there is none: the line is ignored."),
        ("p:3", "The pattern does not compile: missing closing parenthesis: the line is ignored."),
        ("p:4", "The pattern has no closing /: the line is ignored."),
        ("p:5", "No pattern: the line is ignored."),
        ("p:6", 'Unknown flag "q" (an unescaped / in the pattern?): the line is ignored.'),
        ("p:7", 'Unknown flag "b" (an unescaped / in the pattern?): the line is ignored.'),
        ("p:8", "The flag X means nothing to PCRE2."),
        ("p:9", "Neither a /pattern/ nor if nor endif: the line is ignored."),
        ("p:10", '"$2" in the result: the pattern has 1 groups, and $0 is none: the line is ignored.'),
        ("p:11", '"$0" in the result: the pattern has 1 groups, and $0 is none: the line is ignored.'),
        ("p:12", '"$1x" in the result is no group number: write ${1} where text follows: the line is ignored.'),
        ("p:13", '"${" in the result is not closed: the line is ignored.'),
        ("p:14", "A $ in the result without a group number: write $$ for a dollar sign: the line is ignored."),
        (
            "p:15",
            '"$99999999999999999999" in the result: the pattern has 1 groups, and $0 is none: the line is ignored.',
        ),
        ("p:16", '"$1" in the result of a negated pattern, which captures nothing: the line is ignored.'),
        ("p:17", "No result: what matches gets 451 4.3.0. Write the targets after the pattern."),
        (
            "p:18",
            "The pattern does not compile: PCRE2 does not support \\F, \\L, \\l, \\N{name}, \\U, or "
            "\\u: the line is ignored.",
        ),
        (
            "p:19",
            "The pattern does not compile: character code point value in \\x{} or \\o{} is too "
            "large: the line is ignored.",
        ),
        ("p:20", "The pattern does not compile: missing closing parenthesis: the line is ignored."),
        ("p:21", '"x@y.example" after if is ignored: begin the lines inside if without white space.'),
        ("p:22", "Text after endif is ignored."),
        ("p:24", "Endif without if: the line is ignored."),
    ]
    assert {each.name for each in findings} == {"pattern"}
    assert [rule.line for rule in table.rules] == [8, 17]


def test_an_if_that_is_never_closed_reaches_to_the_end() -> None:
    table, findings = pcre_table("p", "if /@d/\n/./ x@y.example\n")
    assert findings == (warning("pattern", "p:1", "if /@d/ has no endif.", "endif"),)
    assert becomes(table, "a@c.example") == ["a@c.example"]
    assert becomes(table, "a@d.example") == ["x@y.example"]


def test_an_empty_result_is_a_fault_of_the_look_up() -> None:
    table, _ = pcre_table("p", "/a/\n")
    fault = expand(Aliases((table,), ORIGIN), Address.parse("a@c.example")).fault
    assert fault is not None
    assert (fault.refusal.reply.code, fault.detail) == (451, "p:1: the result is empty")


def test_patterns_in_other_encodings() -> None:
    table, findings = pcre_table("p", b"/^\xe4@/ latin@d.example\n/^\xc3\xa4@/ utf@d.example\n")
    assert findings == ()
    assert becomes(table, "ä@c.example") == ["utf@d.example"]


SYNTAX = st.text('/!if endx()[]\\\n\t "$1{}@#:,\r\0ä').map(str.encode)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80) | SYNTAX)
def test_any_octets_are_a_table_and_findings(octets: bytes) -> None:
    for read in (text_table, pcre_table):
        table, findings = read("t", octets)
        assert table.file == "t"
        assert all(each.where.startswith("t:") and "\n" not in str(each) for each in findings)
