"""New expectations in a scenario's file, whose other octets stay as they are."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from smtproute.testing.scenarios.update import Append, Change, NotUpdated, Put, Remove, difference, updated

TEXT = '''# A flow, told by hand.
title = "one"   # short

[config]
domains = ["example.org"]

# The first message.
[[message]]
name = "[[message.expect]]"
from = "friend@else.example"
to = ["name@example.org", "other@example.org"]
content = """
Subject: [message.replies]

[[message.expect]]
# no comment
"""
[message.replies]
"name@example.org" = "250"     # a code

# What the mailbox gets.
[[message.expect]]
mailbox = "name@example.org"
attempts = 1   # at once

# What the partner gets.
[[message.expect]]
endpoint = "partner"
to = "b@there.example"
headers = { Subject = "x", "X-Y" = [
    "a#b",
] }

[[message]]
from = ""
to = ["third@example.org"]
replies."third@example.org" = '250'
expect = [{ mailbox = "third@example.org", attempts = 2 }, { capture = "x@y.example" }] # inline

[[explain]]
address = "name@example.org"
routes = [
    "mailbox name@example.org",
]'''


def changed(*changes: Change, text: str = TEXT) -> tuple[list[str], list[str], dict[str, Any]]:
    """The lines that went, the lines that came, and what the text is then."""
    new = updated(text, changes)
    lines = difference(text, new, "flow.toml").splitlines()[2:]
    gone, came = ([line[1:] for line in lines if line[0] == sign] for sign in "-+")
    return gone, came, tomllib.loads(new)


def test_a_value_is_replaced_in_its_line() -> None:
    gone, came, _ = changed(Put(("message", 0, "expect", 0, "attempts"), 3))
    assert gone == ["attempts = 1   # at once"]
    assert came == ["attempts = 3   # at once"]


def test_a_quoted_key_and_a_dotted_one() -> None:
    gone, came, _ = changed(
        Put(("message", 0, "replies", "name@example.org"), '550 5.1.1 "no"'),
        Put(("message", 1, "replies", "third@example.org"), "451"),
    )
    assert gone == ['"name@example.org" = "250"     # a code', "replies.\"third@example.org\" = '250'"]
    assert came == ['"name@example.org" = "550 5.1.1 \\"no\\""     # a code', 'replies."third@example.org" = "451"']


def test_a_value_of_several_lines() -> None:
    gone, came, _ = changed(Put(("explain", 0, "routes"), ["capture name@example.org"]))
    assert gone[0] == "routes = [" and len(gone) == 3
    assert came == ['routes = ["capture name@example.org"]']


def test_inside_of_a_value() -> None:
    gone, came, new = changed(
        Put(("message", 1, "expect", 1, "status"), "held"),
        Remove(("message", 1, "expect", 0)),
        Append(("message", 1, "expect"), {"endpoint": "far", "to": "a@b.example"}),
    )
    assert len(gone) == len(came) == 1
    assert came[0].endswith(" # inline")
    assert new["message"][1]["expect"] == [
        {"capture": "x@y.example", "status": "held"},
        {"endpoint": "far", "to": "a@b.example"},
    ]


def test_a_key_that_was_not_there_comes_at_the_end_of_its_table() -> None:
    gone, came, new = changed(
        Put(("message", 0, "expect", 1, "status"), "failed"),
        Put(("message", 0, "expect", 1, "headers", "To"), "a*"),
        Put(("message", 0, "replies", "DATA"), "451"),
        Put(("message", 0, "replies", "other@example.org"), "550"),
    )
    assert 'status = "failed"' in came and 'DATA = "451"' in came and '"other@example.org" = "550"' in came
    assert len(gone) == 3, "the header patterns, on one line now"
    assert new["message"][0]["expect"][1]["headers"] == {"Subject": "x", "X-Y": ["a#b"], "To": "a*"}


def test_a_table_that_goes_takes_the_comment_over_it() -> None:
    gone, came, new = changed(Remove(("message", 0, "expect", 0)))
    assert gone[0] == "# What the mailbox gets." and "# What the partner gets." not in gone
    assert came == [] and len(new["message"][0]["expect"]) == 1


def test_a_table_of_tables() -> None:
    text = TEXT.replace("attempts = 1   # at once", "[message.expect.headers]\nSubject = 'x'")
    gone, _, new = changed(Remove(("message", 0, "expect", 0)), text=text)
    assert "[message.expect.headers]" in gone and len(new["message"][0]["expect"]) == 1
    _, came, _ = changed(Put(("message", 0, "expect", 0, "headers", "Subject"), "y"), text=text)
    assert came == ['Subject = "y"']


def test_one_more_comes_behind_the_last_of_its_message() -> None:
    new = updated(TEXT, [Append(("message", 0, "expect"), {"capture": "new@example.org", "seal": False})])
    assert '] }\n\n[[message.expect]]\ncapture = "new@example.org"\nseal = false\n\n[[message]]\nfrom = ""\n' in new


def test_the_first_expectation_and_the_first_reply_of_a_message() -> None:
    text = 'title = "x"\r\n[[message]]\r\nfrom = ""\r\n[message.before]\r\nadvance = "1h"'
    new = updated(
        text,
        [Append(("message", 0, "expect"), {"mailbox": "a@b.example"}), Put(("message", 0, "replies", "MAIL"), "550")],
    )
    assert new == (
        'title = "x"\r\n[[message]]\r\nfrom = ""\r\n\r\n[message.replies]\r\nMAIL = "550"\r\n[message.before]\r\n'
        'advance = "1h"\r\n\r\n[[message.expect]]\r\nmailbox = "a@b.example"\r\n'
    )


def test_all_may_go_and_others_come() -> None:
    _, _, new = changed(
        Remove(("message", 0, "expect", 0)),
        Remove(("message", 0, "expect", 1)),
        Remove(("message", 0, "replies", "name@example.org")),
        Append(("message", 0, "expect"), {"held": "a@b.example"}),
    )
    assert new["message"][0]["expect"] == [{"held": "a@b.example"}]
    assert new["message"][0]["replies"] == {}


def test_what_does_not_change_stays() -> None:
    assert updated(TEXT, []) == TEXT
    assert difference(TEXT, TEXT, "flow.toml") == ""


@pytest.mark.parametrize(
    "change", [Put(("config", "domains"), []), Put(("message", 0, "to"), []), Remove(("message", 0))], ids=repr
)
def test_only_expectations_change(change: Change) -> None:
    with pytest.raises(NotUpdated, match="is no expectation"):
        updated(TEXT, [change])


def test_a_message_without_a_table_of_its_own_is_left_alone() -> None:
    text = 'message = [{from="", to = ["a@b.example"]}]\n'
    with pytest.raises(NotUpdated, match="line 1 says more than what is expected"):
        updated(text, [Append(("message", 0, "expect"), {"mailbox": "a@b.example"})])


@pytest.mark.parametrize(
    ("lines", "lost"),
    [
        ("routes = [  # both\n]", True),
        ("routes = [\n 'x#',\n # why\n]", True),
        ("routes = [\n]  # behind", True),
        ("""routes = [\n '#',\n "\\"#",\n '''#''''', ""\"\n#\\""\"#\""\"",\n]""", False),
    ],
    ids=["behind-bracket", "own-line", "last-line", "texts"],
)
def test_no_comment_inside_of_a_value_is_lost(lines: str, lost: bool) -> None:
    text = f"[[explain]]\naddress = 'a@b.example'\n{lines}\n"
    change = Put(("explain", 0, "routes"), ["mailbox a@b.example"])
    if lost:
        with pytest.raises(NotUpdated, match="line 3: comments inside of this value would be lost: change it by hand"):
            updated(text, [change])
    else:
        assert updated(text, [change]).endswith('\nroutes = ["mailbox a@b.example"]\n')


def test_what_servers_had_is_an_expectation_as_a_whole() -> None:
    text = 'arrived = { "mx.b.example" = { messages = 1 } }\n'
    new = updated(text, [Put(("arrived", "mx.b.example", "messages"), 2)])
    assert tomllib.loads(new) == {"arrived": {"mx.b.example": {"messages": 2}}}
