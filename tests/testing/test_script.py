"""Scripts as text: what they become, and what is said of one that is wrong."""

from __future__ import annotations

import asyncio
import json
import math
import ssl
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtproute.config.document import Document, Mistake
from smtproute.config.validated import validated
from smtproute.testing.certificates import Authority
from smtproute.testing.rules import (
    Action,
    Drop,
    HalfClose,
    Hang,
    Mute,
    Plaintext,
    Rate,
    Raw,
    Reset,
    Rule,
    Slow,
    Verb,
    Wait,
    on,
)
from smtproute.testing.script import Then, UpstreamTable, options, read, rules
from smtproute.testing.upstream import EXTENSIONS, Upstream


def table(text: str, folder: Path) -> UpstreamTable:
    file = folder / "script.toml"
    file.write_text(text)
    return read(file)


def mistakes(text: str, folder: Path) -> list[str]:
    with pytest.raises(Mistake) as raised:
        table(text, folder)
    return [line.removeprefix(f"{folder}/") for line in raised.value.lines]


def test_all_that_a_rule_may_say(tmp_path: Path) -> None:
    text = """
        [[rule]]
        at = "rcpt"
        from = "*@else.example"
        to = "regex:bob@.*"
        match = "NOTIFY"
        skip = 2
        times = 1
        chance = 0.3
        since = "10m"
        until = "1h"
        delay = "2s"
        slow = 5
        reply = '''
451 4.7.1 Come back
later
'''
        garbage = "\\u00ff\\r\\n"
        then = "drop"

        [[rule]]
        at = "CONTENT"
        octets = "1KiB"
        then = "reset"
        [[rule]]
        at = "RCPT"
        greylist = "5m"
        [[rule]]
        at = "MAIL"
        from = "<>"
        rate = "5/m"
    """.replace("\\\\", "\\")
    first, *others = rules(table(text, tmp_path))
    assert (first.verb, first.match, first.skip, first.times, first.chance) == (Verb.RCPT, "NOTIFY", 2, 1, 0.3)
    assert (first.since, first.until) == (600.0, 3600.0)
    assert first.sender is not None
    assert first.recipient is not None
    assert (first.sender.text, first.recipient.text) == ("*@else.example", "regex:bob@.*")
    assert first.actions == (Wait(2.0), Slow(5), "451 4.7.1 Come back\nlater", Raw(b"\xff\r\n"), Drop())
    assert others[:2] == [on("CONTENT", Reset(), after=1024), on("RCPT", greylist=300)]
    assert (others[2].rate, others[2].actions) == (Rate(5, 60), ("421 4.7.0 Too many, come back later",))
    assert others[0].until == math.inf


@pytest.mark.parametrize(
    ("then", "action"),
    [
        (Then.DROP, Drop()),
        (Then.RESET, Reset()),
        (Then.HALF_CLOSE, HalfClose()),
        (Then.HANG, Hang()),
        (Then.MUTE, Mute()),
        (Then.PLAINTEXT, Plaintext()),
    ],
)
def test_what_becomes_of_the_connection(then: Then, action: Action, tmp_path: Path) -> None:
    (rule,) = rules(table(f'rule = [{{ at = "STARTTLS", then = "{then}" }}]', tmp_path))
    assert rule == Rule(Verb.STARTTLS, (action,))


def test_nothing_at_all_is_a_server_that_takes_everything(tmp_path: Path) -> None:
    empty = table("", tmp_path)
    assert rules(empty) == ()
    made = options(empty, Authority(tmp_path), "mx.far.example")
    assert made["tls"] is not None
    assert made == {
        "tls": made["tls"],
        "implicit": False,
        "users": None,
        "lmtp": False,
        "extensions": EXTENSIONS,
        "seed": None,
    }


def test_the_server(tmp_path: Path) -> None:
    text = """
        lmtp = true
        tls = "implicit"
        certificate = "expired"
        users = { app = "secret" }
        extensions = ["SIZE 1000", "8BITMIME"]
        seed = 7
    """
    authority = Authority(tmp_path)
    made = options(table(text, tmp_path), authority, "mx.far.example", ["localhost"])
    assert (made["implicit"], made["lmtp"], made["users"], made["seed"]) == (True, True, {"app": "secret"}, 7)
    assert made["extensions"] == ("SIZE 1000", "8BITMIME")
    assert options(table('tls = "none"', tmp_path), authority, "mx.far.example")["tls"] is None


@pytest.mark.parametrize("certificate", ["", "expired", "wrong-name", "self-signed"])
async def test_the_certificate_has_the_fault_that_is_written(certificate: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    trusted = ssl.create_default_context(cafile=authority.file)
    made = table('tls = "implicit"\n' + (f'certificate = "{certificate}"' if certificate else ""), tmp_path)
    async with Upstream(rules(made), **options(made, authority, "mx.far.example")) as upstream:
        connecting = asyncio.open_connection(
            upstream.host, upstream.port, ssl=trusted, server_hostname="mx.far.example"
        )
        if not certificate:
            reader, writer = await connecting
            assert await reader.readline() == b"220 upstream.test ESMTP\r\n"
            writer.close()
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                await connecting


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lmpt = true", 'lmpt: unknown key. Did you mean "lmtp"?'),
        (
            "xyz = 1",
            "xyz: unknown key. Known here: lmtp, tls, certificate, users, extensions, seed, rule.",
        ),
        ('tls = "strattls"', 'tls = "strattls": not one of starttls, implicit, none. Did you mean "starttls"?'),
        ("tls = 5", "tls = 5: not one of starttls, implicit, none."),
        ("lmtp = 1", "lmtp = 1: true or false is wanted."),
        ('seed = "7"', 'seed = "7": a whole number is wanted.'),
        ("users = 5", "users = 5: a table is wanted. Write { key = value }, or the key under a [table]."),
        ('users = { app = "" }', 'users.app = "": empty. Write it, or leave the key out.'),
        (
            'tls = "none"\nusers = { app = "x" }',
            'users: clients log in under TLS only. Write tls = "starttls", or leave users out.',
        ),
        (
            'tls = "none"\ncertificate = "expired"',
            'certificate = "expired": there is a certificate under TLS only. Write tls = "starttls", or leave'
            " certificate out.",
        ),
        ('extensions = "SIZE"', 'extensions = "SIZE": a list is wanted. Put it in [brackets].'),
        (
            'extensions = ["A B\\n"]',
            'extensions[0] = "A B\\n": no extension (RFC 5321 4.1.1.1). Write it as EHLO shows it: "SIZE 1000000".',
        ),
        ("rule = 5", "rule = 5: a list is wanted. Put it in [brackets]."),
        ("rule = [5]", "rule[0] = 5: a table is wanted. Write { key = value }, or the key under a [table]."),
        ("x = ", "script.toml:1: not TOML: Invalid value (at the end of the file). Texts are written in quotes."),
    ],
)
def test_what_is_wrong_with_a_server(text: str, said: str, tmp_path: Path) -> None:
    (line,) = mistakes(text, tmp_path)
    assert line.removeprefix("script.toml: ") == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('reply = "451 L"', ".at: missing. Add at."),
        (
            'at = "RCTP"',
            '.at = "RCTP": not one of CONNECT, EHLO, HELO, LHLO, STARTTLS, AUTH, MAIL, RCPT, DATA, '
            'CONTENT, RSET, NOOP, QUIT. Did you mean "RCPT"?',
        ),
        ('at = "RCPT"', ': it does nothing. Write reply = "451 4.7.1 Come back", or delay, slow, garbage or then.'),
        (
            'at = "RCPT", then = "halfclose"',
            '.then = "halfclose": not one of drop, reset, half-close, hang, mute, plaintext. Did you mean'
            ' "half-close"?',
        ),
        (
            'at = "RCPT", then = "plaintext"',
            '.then = "plaintext": TLS begins at STARTTLS only. Write at = "STARTTLS".',
        ),
        ('at = "RCPT", frm = "x", then = "drop"', '.frm: unknown key. Did you mean "from"?'),
        (
            'at = "EHLO", from = "*@x.example", then = "drop"',
            '.from = "*@x.example": nobody knows that at EHLO yet. Act at MAIL or later.',
        ),
        (
            'at = "MAIL", to = "*@x.example", then = "drop"',
            '.to = "*@x.example": nobody knows that at MAIL yet. Act at RCPT or later.',
        ),
        (
            'at = "MAIL", from = "<bob>", then = "drop"',
            '.from = "<bob>": write user@domain, *@domain, *@*.domain, * or regex:PATTERN. "<>" is the null sender.',
        ),
        (
            'at = "RCPT", to = "bob@*", then = "drop"',
            '.to = "bob@*": * stands for a whole local part or leading labels: *@domain, *@*.domain; else use regex:.',
        ),
        (
            'at = "RCPT", match = "(a", then = "drop"',
            '.match = "(a": no regular expression: compilation failed at position 2; missing closing parenthesis. A \\'
            " before a sign means the sign itself.",
        ),
        ('at = "RCPT", match = 5, then = "drop"', ".match = 5: text is wanted. Write it in quotes."),
        (
            'at = "RCPT", octets = "1KB", then = "drop"',
            '.octets = "1KB": only a message has so many. Write at = "CONTENT".',
        ),
        (
            'at = "CONTENT", octets = "1KB", match = "x", then = "drop"',
            '.octets = "1KB": there is nothing to match yet. Leave match or octets out.',
        ),
        ('at = "RCPT", skip = 0, then = "drop"', ".skip = 0: a whole number is wanted, 1 or more."),
        ('at = "RCPT", times = 1.5, then = "drop"', ".times = 1.5: a whole number is wanted."),
        (
            'at = "RCPT", chance = 30, then = "drop"',
            ".chance = 30: a number from 0 to 1 is wanted. Write 0.3 for three in ten.",
        ),
        ('at = "RCPT", chance = "30%", then = "drop"', '.chance = "30%": a number is wanted.'),
        (
            'at = "RCPT", since = "5m", until = "5m", then = "drop"',
            '.until = "5m": it ends before it begins. Write a longer time than since has.',
        ),
        (
            'at = "RCPT", greylist = "5 minutes"',
            '.greylist = "5 minutes": a duration is wanted. Write "30s", "5m", "1h" or "5d".',
        ),
        (
            'at = "RCPT", rate = "5"',
            '.rate = "5": a rate is wanted, one at least. Write "5/s", "100/m" or "1000/h".',
        ),
        ('at = "RCPT", slow = 0', ".slow = 0: a number above 0 is wanted."),
        (
            'at = "RCPT", reply = "451-No"',
            '.reply = "451-No": no reply. Write "550 5.1.1 No such user"; further lines without a code, after "\\n".',
        ),
        (
            'at = "RCPT", garbage = "€"',
            '.garbage = "€": a sign here is one octet. Write octets as "\\u0000" to "\\u00ff".',
        ),
    ],
)
def test_what_is_wrong_with_a_rule(text: str, said: str, tmp_path: Path) -> None:
    (line,) = mistakes(f"rule = [{{ {text} }}]", tmp_path)
    assert line.removeprefix("script.toml: rule[0]") == said


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    text = 'seed = 1.5\n[[rule]]\nat = "X"\nreply = "451 L"\n[[rule]]\nat = "RCPT"\nreply = "x"\ntimes = 0\n'
    places = [line.split(": ")[1].split(" ")[0] for line in mistakes(text, tmp_path)]
    assert places == ["seed", "rule[0].at", "rule[1].times", "rule[1].reply"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match=r"none\.toml: cannot be read: no such file or directory\."):
        read(tmp_path / "none.toml")


def test_its_json_schema_tells_of_every_key() -> None:
    schema = UpstreamTable.model_json_schema()
    for each in (schema, schema["$defs"]["RuleTable"]):
        assert each["additionalProperties"] is False
        for key, entry in each["properties"].items():
            assert entry["description"], key
            assert {} not in entry.get("anyOf", [entry]), key
    assert schema["$defs"]["RuleTable"]["required"] == ["at"]
    assert "from" in schema["$defs"]["RuleTable"]["properties"]
    json.dumps(schema)


_KEYS = st.sampled_from(
    [
        "at",
        "from",
        "to",
        "match",
        "octets",
        "skip",
        "times",
        "chance",
        "since",
        "until",
        "greylist",
        "rate",
        "delay",
        "slow",
        "reply",
        "garbage",
        "then",
        "else",
    ]
)
_VALUES = st.one_of(
    st.sampled_from(["RCPT", "CONTENT", "5m", "1h", "5/s", "451 L", "drop", "*", "a@b.test", "regex:("]),
    st.text(max_size=8),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.lists(st.integers(), max_size=2),
)


@settings(deadline=None)
@given(st.lists(st.dictionaries(_KEYS, _VALUES, max_size=5), max_size=3))
def test_any_table_is_a_script_or_a_mistake(written: list[dict[str, Any]]) -> None:
    try:
        made = validated(UpstreamTable, Document("s", Path("/"), {"rule": written}))
    except Mistake as mistake:
        assert all(line.startswith("s: rule[") and line[-1] in ".?" for line in mistake.lines)
    else:
        assert len(rules(made)) == len(written)
