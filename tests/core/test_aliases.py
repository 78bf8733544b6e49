"""Alias expansion, by Postfix's rules (virtual(5), pcre_table(5))."""

from __future__ import annotations

import pcre2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.address import Address
from smtproute.core.aliases import Aliases, Condition, PcreRule, PcreTable, Trouble, compile_pattern, expand, targets
from tests.core.routing import HOST, aliases, text_table


def finals(made: Aliases, recipient: str) -> list[str]:
    expansion = expand(made, Address.parse(recipient))
    assert expansion.fault is None, expansion.fault
    return [str(final) for final in expansion.finals]


def pcre(*rules: tuple[str, tuple[str | int, ...]], file: str = "postfix-regexp.cf") -> PcreTable:
    return PcreTable(
        file,
        tuple(
            PcreRule(number, Condition(f"/{text}/", compile_pattern(text, pcre2.I)), result)
            for number, (text, result) in enumerate(rules, 1)
        ),
    )


@pytest.mark.parametrize(
    ("table", "recipient", "expected"),
    [
        ({}, "a@x.example", ["a@x.example"]),
        ({"a@x.example": "b@y.example"}, "a@x.example", ["b@y.example"]),
        (
            {"a@x.example": "b@y.example, c@z.example d@z.example"},
            "a@x.example",
            ["b@y.example", "c@z.example", "d@z.example"],
        ),
        ({"A@X.example": "b@y.example"}, "a@x.EXAMPLE", ["b@y.example"]),
        # keep a copy and forward: the address names itself
        ({"a@x.example": "a@x.example, me@ext.example"}, "a@x.example", ["a@x.example", "me@ext.example"]),
        ({"a@x.example": "me@ext.example, A@X.example"}, "a@x.example", ["a@x.example", "me@ext.example"]),
        # nested
        ({"a@x.example": "b@x.example", "b@x.example": "c@y.example"}, "a@x.example", ["c@y.example"]),
        # +detail is carried over to each target; a key that names it wins
        ({"a@x.example": "b@y.example"}, "a+tag@x.example", ["b+tag@y.example"]),
        ({"a@x.example": "b@y.example, c@y.example"}, "a+tag@x.example", ["b+tag@y.example", "c+tag@y.example"]),
        ({"a+tag@x.example": "t@y.example", "a@x.example": "b@y.example"}, "a+tag@x.example", ["t@y.example"]),
        ({"a@x.example": "a@x.example, me@ext.example"}, "a+tag@x.example", ["a+tag@x.example", "me+tag@ext.example"]),
        # catch-all: the exact key first; @a @b keeps the local part with its detail
        ({"@x.example": "all@y.example"}, "who@x.example", ["all@y.example"]),
        ({"@x.example": "all@y.example", "a@x.example": "a@x.example"}, "a@x.example", ["a@x.example"]),
        ({"@x.example": "@y.example"}, "who+tag@x.example", ["who+tag@y.example"]),
        ({"@x.example": "@x.example"}, "who@x.example", ["who@x.example"]),
        # keys and targets without a domain belong to our own host name
        ({"root": "admin@x.example"}, f"root@{HOST}", ["admin@x.example"]),
        ({"root": "admin@x.example"}, f"root+tag@{HOST}", ["admin+tag@x.example"]),
        ({"root": "admin@x.example"}, "root@x.example", ["root@x.example"]),
        ({"a@x.example": "root"}, "a@x.example", [f"root@{HOST}"]),
        # an inline comment is no comment
        (
            {"a@x.example": "b@y.example # a note"},
            "a@x.example",
            ["b@y.example", f"#@{HOST}", f"a@{HOST}", f"note@{HOST}"],
        ),
        # a circle through an address that stays ends there
        ({"a@x.example": "a@x.example, b@x.example", "b@x.example": "a@x.example"}, "b@x.example", ["a@x.example"]),
        ({"a@x.example": "a@x.example, b@x.example", "b@x.example": "a@x.example"}, "a@x.example", ["a@x.example"]),
    ],
)
def test_text_tables(table: dict[str, str], recipient: str, expected: list[str]) -> None:
    assert finals(aliases(table), recipient) == expected


def test_each_key_is_tried_in_every_table_before_the_next_key() -> None:
    catch_all = text_table({"@x.example": "all@y.example"})
    pattern = pcre((r"^who\+tag@", ("pattern@y.example",)))
    assert finals(aliases(catch_all, pattern), "who+tag@x.example") == ["pattern@y.example"]
    assert finals(aliases(catch_all, pattern), "other@x.example") == ["all@y.example"]


def test_a_pcre_table_sees_the_whole_address_only() -> None:
    made = aliases(pcre(("^who@x", ("hit@y.example",))))
    assert finals(made, "who@x.example") == ["hit@y.example"]
    assert finals(made, "who+tag@x.example") == ["who+tag@x.example"]


def test_groups_keep_their_case_and_missing_ones_are_empty() -> None:
    made = aliases(pcre((r"^([^@]+)(-x)?@x\.example$", (1, 2, "@y.example"))))
    assert finals(made, "WhoEver@x.example") == ["WhoEver@y.example"]


def test_a_loop_is_named() -> None:
    table = {"a@x.example": "b@x.example", "b@x.example": "c@x.example", "c@x.example": "b@x.example, d@x.example"}
    fault = expand(aliases(table), Address.parse("a@x.example")).fault
    assert fault is not None
    assert str(fault.refusal.reply) == "451 4.4.6 Alias loop: the address leads back to itself"
    assert fault.detail == "loop: b@x.example -> c@x.example -> b@x.example"
    assert (fault.trouble, fault.circle) == (Trouble.LOOP, ("b@x.example", "c@x.example", "b@x.example"))


def test_a_loop_is_found_behind_an_address_that_stays() -> None:
    """v -> s, w; s stays and leads to u; w -> u; u -> v: without s there is still v -> w -> u -> v."""
    table = {
        "v@x.example": "s@x.example, w@x.example",
        "s@x.example": "s@x.example, u@x.example",
        "w@x.example": "u@x.example",
        "u@x.example": "v@x.example",
    }
    fault = expand(aliases(table), Address.parse("v@x.example")).fault
    assert fault is not None
    assert fault.refusal.reply.enhanced == "4.4.6"


def test_growth_without_end_is_a_fault() -> None:
    fault = expand(aliases({"a@x.example": "a+b@x.example"}), Address.parse("a+c@x.example")).fault
    assert fault is not None
    assert str(fault.refusal.reply) == "451 4.6.0 Alias expansion error"
    assert fault.trouble is Trouble.TOO_DEEP


def test_too_many_targets_are_a_fault() -> None:
    wide = {"a@x.example": " ".join(f"u{n}@y.example" for n in range(1001))}
    fault = expand(aliases(wide), Address.parse("a@x.example")).fault
    assert fault is not None
    assert (fault.trouble, fault.refusal.reply.enhanced) == (Trouble.TOO_WIDE, "4.6.0")
    del wide["a@x.example"]
    wide["a@x.example"] = " ".join(f"u{n}@y.example" for n in range(1000))
    assert len(finals(aliases(wide), "a@x.example")) == 1000


def test_a_table_that_cannot_be_used_answers_for_nobody() -> None:
    broken = text_table({"a@x.example": "b@y.example"}, fault="duplicate key a@x.example (lines 1 and 2)")
    fault = expand(aliases(broken), Address.parse("someone@else.example")).fault
    assert fault is not None
    assert str(fault.refusal.reply) == "451 4.3.0 Temporary lookup failure: try again later"
    assert fault.trouble is Trouble.TABLE and "lines 1 and 2" in fault.detail
    good = text_table({"a@x.example": "a@x.example"}, file="good")
    assert finals(aliases(good, broken), "a@x.example") == ["a@x.example"]


def test_passing_the_match_limit_is_temporary() -> None:
    made = aliases(pcre((r"^(a+)+$", ("never@y.example",))))
    expansion = expand(made, Address.parse("a" * 60 + "!@x.example"))
    assert expansion.fault is not None
    assert expansion.fault.refusal.reply.code == 451
    assert "postfix-regexp.cf:1" in expansion.fault.detail
    assert "match limit" in expansion.fault.detail


def test_a_target_that_is_no_address_is_named() -> None:
    expansion = expand(aliases({"a@x.example": "b@@y..example, c@y.example"}), Address.parse("a@x.example"))
    assert [str(final) for final in expansion.finals] == ["c@y.example"]
    assert "b@@y..example" in expansion.notes[0]


def test_targets() -> None:
    assert targets('a@b, <c@d> "x y"@z (a comment) e@f,,') == ("a@b", "c@d", '"x y"@z', "e@f")
    assert targets(" , ") == ()


names = st.sampled_from([f"{local}@{domain}" for local in "abcd" for domain in ("x.example", "y.example")])
keys = names | st.sampled_from(["@x.example", "@y.example"])
tables = st.dictionaries(
    keys, st.lists(names | st.just("@y.example"), min_size=1, max_size=4).map(" ".join), max_size=9
)


@given(tables, names, st.sampled_from(["", "+t"]))
def test_expansion_ends_with_each_final_address_once(table: dict[str, str], name: str, detail: str) -> None:
    local, domain = name.split("@")
    expansion = expand(aliases(table), Address.parse(f"{local}{detail}@{domain}"))
    found = [final.key for final in expansion.finals]
    assert len(found) == len(set(found))
    if expansion.fault is None:
        assert found or expansion.notes
    else:
        assert expansion.fault.refusal.temporary


@given(tables, names)
def test_an_address_that_names_itself_keeps_its_copy(table: dict[str, str], name: str) -> None:
    table[name] = f"{name} z@z.example"
    expansion = expand(aliases(table), Address.parse(name))
    if expansion.fault is None:
        assert name in [final.key for final in expansion.finals]


@given(tables, names)
def test_loops_are_what_postfix_could_not_finish(table: dict[str, str], name: str) -> None:
    """Against a direct reading of cleanup_map1n.c, with a smaller limit."""
    made = aliases(table)
    expansion = expand(made, Address.parse(name))
    simulated = postfix(table, name)
    if expansion.fault is not None:
        assert simulated is None
    else:
        assert simulated is not None
        assert {final.key for final in expansion.finals} == simulated


def postfix(table: dict[str, str], name: str, limit: int = 60) -> set[str] | None:
    """The array of cleanup_map1n.c, expanded in place; None where a limit is passed."""

    def lookup(address: str) -> list[str] | None:
        value = table.get(address) or table.get("@" + address.partition("@")[2])
        if value is None:
            return None
        if value.startswith("@"):
            value = address.partition("@")[0] + value
        return [each for each in value.split() if not each.startswith("@")]

    array, seen, at = [name], set(), 0
    while at < len(array):
        if len(array) > limit:
            return None
        for count in range(limit + 1):
            if array[at] in seen:
                break
            if count >= limit:
                return None
            found = lookup(array[at])
            if found is None:
                break
            if array[at] in found:
                seen.add(array[at])
            array[at] = found[0]
            array += found[1:]
        at += 1
    return set(array)
