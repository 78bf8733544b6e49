"""What a scenario's file may say, and what it is told where it says something else."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from smtproute.config.document import Mistake
from smtproute.core.address import Address
from smtproute.testing.pattern import Pattern
from smtproute.testing.scenarios.scenario import Place, SealTable, Status, Unsealed, read, schema
from smtproute.testing.scenarios.values import referred
from smtproute.testing.stage import Stage

ROOT = Path(__file__).parents[2]
WHOLE = """#:schema https://smtproute.example/scenario.schema.json
title = "All that can be said"
seed = 7
now = 2026-11-22T10:00:00Z
patience = "2s"
within = "5d"
nothing_else = false
[config]
domains = ["example.org"]
[config.endpoint.external]
servers = ["mx.external.example"]
[relay.relay]
host = "mx.example.org"
[relay.b]
host = "MX.b.example"
config = "b/smtproute.toml"
[files]
"b/smtproute.toml" = "domains = []"
[dns."external.example"]
MX = ["10 mx.external.example"]
TXT = { values = ["v=spf1 -all"], ttl = 5 }
[upstream."mx.external.example"]
down = "silent"
bounces = true
list = { to = ["anna@far.example"], sender = "bounces@lists.example", prefix = "[list] ", footer = "--" }
[[upstream."mx.external.example".rule]]
at = "RCPT"
reply = "451 4.7.1 Greylisted"
times = 1
[keys."Else.example"]
selector = "s1"
[keys."list.example"]
[[explain]]
address = "name@example.org"
from = "friend@else.example"
reply = "250"
routes = ["mailbox name@example.org", "endpoint external name@external.example"]
[[message]]
name = "hello"
listener = "mx"
client = "203.0.113.9"
helo = "mail.else.example"
login = ["user", "password"]
tls = true
from = "friend@else.example"
to = ["name@example.org", "postmaster"]
content = "Subject: x\\n\\nline\\r\\n"
sign = ["else.example"]
seal = ["list.example", "else.example"]
results = "dmarc=pass"
copies = 2
wait = false
[message.before]
advance = "1h"
dns."external.example".A = { fault = "timeout" }
upstream."mx.external.example".tls = "none"
config.queue.lifetime = "1d"
[message.replies]
"name@example.org" = "250"
DATA = "regex:250 2\\\\.0\\\\.0 .*"
[[message.expect]]
endpoint = "external"
to = "name@external.example"
server = "mx.external.example:25"
status = "deferred"
copies = 1
attempts = 1
reply = "250*"
after = "5m"
within = "10m"
sender = "SRS0=*"
headers = { Subject = "Hello", "Authentication-Results" = ["*spf=pass*", "*dmarc=pass*"] }
absent = ["X-Removed"]
unchanged = true
seal = { i = 1, cv = "none", domain = "example.org", selector = "mail" }
signed = ["example.org"]
tls = true
dsn = { recipient = "name@example.org", status = "5.1.1", action = "failed", diagnostic = "*" }
trace = "*delivered *"
[[message.expect]]
held = "name@example.org"
relay = "b"
seal = false
[[message]]
from = "{hello.sender}"
to = ["{1.sender}"]
within = "1h"
[arrived."mx.external.example"]
messages = 2
connections = 1
"""
SHORT = 'title = "x"\n[config]\n[[message]]\nfrom = ""\nto = ["a@b.example"]\n'


def mistakes(tmp_path: Path, text: str) -> list[str]:
    """What is said of a file, without its name."""
    file = tmp_path / "flow.toml"
    file.write_text(text)
    with pytest.raises(Mistake) as caught:
        read(file)
    assert all(line.startswith(f"{file}:") for line in caught.value.lines)
    return [line.removeprefix(f"{file}").lstrip(": ") for line in caught.value.lines]


def test_everything_is_understood(tmp_path: Path) -> None:
    file = tmp_path / "flow.toml"
    file.write_text(WHOLE)
    scenario = read(file)
    assert (scenario.seed, scenario.patience, scenario.within, scenario.nothing_else) == (7, 2.0, 432000.0, False)
    assert scenario.now == datetime(2026, 11, 22, 10, tzinfo=UTC)
    assert scenario.relay["b"].host == "mx.b.example"
    assert list(scenario.keys) == ["else.example", "list.example"]
    (explain,) = scenario.explain
    assert explain.sender == "friend@else.example" and explain.address == Address.parse("name@example.org")
    hello, back = scenario.message
    assert hello.sign == ("else.example",) and hello.login == ("user", "password") and not hello.wait
    assert hello.before.advance == 3600 and hello.before.config == {"queue": {"lifetime": "1d"}}
    assert scenario.content(hello) == b"Subject: x\r\n\r\nline\r\n"
    first, second = hello.expect
    assert (first.place, str(first.address)) == (Place.ENDPOINT, "name@external.example")
    assert (first.stands, second.stands) == (Status.DEFERRED, Status.HELD)
    assert first.seal == SealTable(i=1, cv="none", domain="example.org", selector="mail")
    assert isinstance(second.seal, Unsealed)
    assert first.headers["Authentication-Results"] == (Pattern("*spf=pass*"), Pattern("*dmarc=pass*"))
    assert referred(back.sender) == "hello" and referred(back.to[0]) == "1"
    assert scenario.content(back) is None and back.within == 3600


def test_defaults(tmp_path: Path) -> None:
    file = tmp_path / "flow.toml"
    file.write_text(SHORT + '[[message.expect]]\nbounce = "a@b.example"\nseal = {}\n')
    scenario = read(file)
    assert (scenario.seed, scenario.now, scenario.patience, scenario.within) == (1, None, 5.0, 0.0)
    assert scenario.nothing_else
    (message,) = scenario.message
    assert (message.relay, message.copies, message.wait, message.within) == ("relay", 1, True, None)
    (expected,) = message.expect
    assert expected.stands is Status.FAILED and expected.seal == SealTable()


def test_a_quoted_local_part_may_have_blanks(tmp_path: Path) -> None:
    routes = ('mailbox "a b"@c.example', 'endpoint far "a b"@c.example')
    file = tmp_path / "flow.toml"
    file.write_text(SHORT + f"[[explain]]\naddress = 'a@c.example'\nroutes = ['{routes[0]}', '{routes[1]}']\n")
    assert read(file).explain[0].routes == routes


async def test_where_the_paths_of_configurations_start(tmp_path: Path) -> None:
    stage, beside = tmp_path / "stage", tmp_path / "flow.toml"
    stage.mkdir()
    beside.write_text(WHOLE)
    scenario = read(beside)
    start = scenario.lay_out(stage)
    assert start == stage and (stage / "b/smtproute.toml").read_text() == "domains = []"
    assert scenario.configuration("b", start).tables == {"domains": []}
    first, second = {"queue": {"lifetime": "1d"}, "domains": []}, {"queue": {"max_size": "1GB"}}
    changed = scenario.configuration("relay", start, [{"endpoint": {"external": {"seal": False}}}, first, second])
    assert changed.tables["endpoint"] == {"external": {"servers": ["mx.external.example"], "seal": False}}
    assert changed.tables["queue"] == {"lifetime": "1d", "max_size": "1GB"}
    assert first["queue"] == {"lifetime": "1d"}, "a change stays as it is written"
    assert changed.tables["domains"] == [] and scenario.config["domains"] == ["example.org"]  # type: ignore[index]
    (tmp_path / "dms").mkdir()
    beside.write_text(SHORT.replace("[config]", 'config = "dms"'))
    scenario = read(beside)
    assert scenario.lay_out(stage) == tmp_path, "without files of its own"
    assert scenario.configuration("relay", tmp_path).tables["docker_mailserver"]["config"] == str(tmp_path / "dms")


async def test_a_mistake_in_a_configuration_names_the_scenario(tmp_path: Path) -> None:
    beside = tmp_path / "flow.toml"
    beside.write_text(SHORT.replace("[config]", "[relay.b.config]\ndomans = []\n[config.listener.mx]\nrole = 'inbond'"))
    scenario = read(beside)
    async with Stage() as stage:
        for relay, said in (
            ("relay", 'config.listener.mx.role = "inbond": not one of inbound, submission, trusted. Did you'),
            ("b", 'relay.b.config.domans: unknown key. Did you mean "domains"?'),
        ):
            with pytest.raises(Mistake) as caught:
                await stage.relay(scenario.configuration(relay, tmp_path), name=relay)
            (line,) = caught.value.lines
            assert line.startswith(f"{beside}: {said}")


MISTAKES = {
    "empty": ("", "title: missing. Add title."),
    "misspelled": ('titel = "x"\n' + SHORT, 'titel: unknown key. Did you mean "title"?'),
    "below": (
        SHORT + "nothing_else = true\n",
        "message[0].nothing_else: unknown key. nothing_else is a key of the whole",
    ),
    "number": (SHORT.replace('"x"', "3"), "title = 3: text is wanted. Write it in quotes."),
    "time": ('now = "2026"\n' + SHORT, 'now = "2026": a time with its zone is wanted. Write it without quotes:'),
    "naive": ("now = 2026-11-22T10:00:00\n" + SHORT, "now = 2026-11-22 10:00:00: a time with its zone is wanted."),
    "duration": ('within = "1 week"\n' + SHORT, 'within = "1 week": a duration is wanted. Write "30s", "5m", "1h" or'),
    "nothing": ('title = "x"\n', "message: nothing happens. Add [[message]] or [[explain]]."),
    "single": ('title = "x"\n[message]\nfrom = ""\n', "message: there may be several. Write each with double brackets"),
    "no list": (SHORT.replace('["a@b.example"]', '"a@b.example"'), 'message[0].to = "a@b.example": a list is wanted.'),
    "nobody": (SHORT.replace('["a@b.example"]', "[]"), "message[0].to = []: empty. Write one at least, or leave"),
    "address": (SHORT.replace("a@b", "a@b@c"), "message[0].to[0] = \"a@b@c.example\": 'a@b@c.example' is no address:"),
    "no sender": (SHORT.replace('from = ""', ""), "message[0].from: missing. Add from."),
    "config": (SHORT.replace("[config]", "config = 5"), "config = 5: the configuration is a table, [config], or the"),
    "no file": (
        SHORT.replace("[config]", 'config = "absent.toml"'),
        'config = "absent.toml": cannot be read: no such file or directory. A relative path starts at',
    ),
    "not laid out": (
        SHORT.replace("[config]", 'config = "smtproute.tml"\n[files]\n"smtproute.toml" = ""'),
        'config = "smtproute.tml": not among [files], where paths start. Did you mean "smtproute.toml"?',
    ),
    "outside": (SHORT + '[files]\n"../x" = ""\n', 'files."../x": a path below the configuration\'s folder is wanted.'),
    "no config": (SHORT + '[relay.b]\nhost = "b.example"\n', "relay.b.config: missing. Add [relay.b.config]."),
    "two configs": (
        SHORT + "[relay.relay.config]\n",
        "relay.relay.config: the configuration of this relay stands under",
    ),
    "relay": (
        SHORT + 'relay = "rely"\n',
        'message[0].relay = "rely": there is no relay of this name. Did you mean "relay"?',
    ),
    "name": (SHORT + 'name = "1"\n', 'message[0].name = "1": a number means the message of that place. Choose a word.'),
    "names": (
        SHORT + 'name = "a"\n[[message]]\nname = "a"\nfrom = ""\nto = ["a@b.example"]\n',
        'message[1].name = "a": another message has it. Choose another name.',
    ),
    "explained before anything is sent": (
        SHORT + '[[explain]]\naddress = "a@b.example"\nfrom = "{1.sender}"\n',
        'explain[0].from = "{1.sender}": ',
    ),
    "later": (SHORT.replace('""', '"{1.sender}"'), 'message[0].from = "{1.sender}": there is no earlier message 1.'),
    "reference": (
        SHORT.replace('""', '"{1.sendr}"'),
        'message[0].from = "{1.sendr}": no reference. Write "{1.sender}"',
    ),
    "contents": (SHORT + 'content = ""\nfile = "x.eml"\n', 'message[0].file = "x.eml": the content is written here'),
    "size": (SHORT + 'content = ""\nsize = "1KB"\n', 'message[0].size = "1KB": only the short letter grows, and the'),
    "eml": (SHORT + 'file = "x.eml"\n', 'message[0].file = "x.eml": cannot be read: no such file or directory.'),
    "key": (
        SHORT + 'sign = ["d.example"]\n',
        'message[0].sign[0] = "d.example": there is no key of this name. Add [keys.',
    ),
    "route": (
        SHORT + '[[explain]]\naddress = "a@b.c"\nroutes = ["mailbox far a@b.c"]\n',
        'explain[0].routes[0] = "mailbox far a@b.c": no route. Write "mailbox name@example.org" or "endpoint',
    ),
    "client": (SHORT + 'client = "a"\n', 'message[0].client = "a": an IP address is wanted. Write "203.0.113.9" or'),
    "login": (SHORT + 'login = "a"\n', 'message[0].login = "a": a name and a password are wanted. Write'),
    "copies": (SHORT + "copies = 0\n", "message[0].copies = 0: a whole number is wanted, 1 or more."),
    "step": (SHORT + "replies.HELLO = '250'\n", 'message[0].replies.HELLO = "250": neither a step nor a recipient of'),
    "typo": (
        SHORT + "replies.'a@b.exampel' = '250'\n",
        'message[0].replies."a@b.exampel" = "250": neither a step nor a recipient of this message. Did you mean "a@b.',
    ),
    "pattern": (
        SHORT + "replies.MAIL = 'regex:('\n",
        'message[0].replies.MAIL = "regex:(": the pattern does not compile',
    ),
    "before": (SHORT + "before.advanc = '1h'\n", 'message[0].before.advanc: unknown key. Did you mean "advance"?'),
    "down": (
        SHORT + '[upstream."x.example"]\ndown = "of"\n',
        'upstream."x.example".down = "of": not one of refused, unr',
    ),
    "rule": (
        SHORT + '[[upstream."x.example".rule]]\nat = "RCPT"\n',
        'upstream."x.example".rule[0]: it does nothing. Write reply = "451 4.7.1 Come back", or delay',
    ),
    "list": (
        SHORT + '[upstream."x.example"]\nlist.to = []\n',
        'upstream."x.example".list.to = []: empty. Write one at',
    ),
    "dns": (SHORT + '[dns."x.example"]\nMY = ""\n', 'dns."x.example".MY: unknown key. Known here: A, AAAA, MX,'),
    "keys": (SHORT + '[keys."x.example"]\nselctor = ""\n', 'keys."x.example".selctor: unknown key. Did you mean "sel'),
    "arrived": (
        SHORT + '[arrived."x.example"]\nmessages = -1\n',
        'arrived."x.example".messages = -1: a whole number is',
    ),
    "nobody waits": (
        SHORT + 'wait = false\nwithin = "1h"\n[[message]]\nfrom = ""\nto = ["a@b.example"]\n',
        'message[0].within = "1h": the next message does not wait. Write it at the next one that waits.',
    ),
    "no later": (
        "now = 9999-12-31T10:00:00Z\n" + SHORT,
        "now = 9999-12-31 10:00:00+00:00: with all the time that passes",
    ),
    "too long": (
        "now = 9899-12-01T00:00:00Z\n" + SHORT + 'within = "5d"\nbefore.advance = "30d"\n',
        "now = 9899-12-01 00:00:00+00:00: with all the time that passes, the clock is to stay between",
    ),
    "no earlier": ("now = 0001-01-01T00:00:00Z\n" + SHORT, "now = 0001-01-01 00:00:00+00:00: with all"),
}
EXPECTED = {
    "unknown": ('mailbx = "a@b.example"', 'mailbx: unknown key. Did you mean "mailbox"?'),
    "nowhere": (
        'status = "failed"',
        ": it goes nowhere. Write exactly one of mailbox, endpoint, capture, held, bounce.",
    ),
    "two places": ('mailbox = "a@b.c"\nheld = "a@b.c"', ": it goes to mailbox and held. Write exactly one of mailbox"),
    "for whom": ('endpoint = "far"', 'endpoint = "far": for whom is not said. Add to = "name@there.example".'),
    "to": ('mailbox = "a@b.c"\nto = "a@b.c"', 'to = "a@b.c": the recipient stands beside an endpoint only. Remove it'),
    "endpoint": ('endpoint = "far"\nto = "a@b.c"', 'endpoint = "far": there is no endpoint of this name. Known here:'),
    "status": ('held = "a@b.c"\nstatus = "hold"', 'status = "hold": not one of delivered, deferred, failed, held. Did'),
    "cv": (
        'held = "a@b.c"\nseal.cv = "passed"',
        'seal.cv = "passed": not one of none, pass, fail. Did you mean "pass"?',
    ),
    "seal": ('held = "a@b.c"\nseal = true', 'seal = true: say which, as { i = 1, domain = "example.org" }, or {} for'),
    "seal key": ('held = "a@b.c"\nseal = { d = "x" }', "seal.d: unknown key. Known here: i, cv, domain, selector."),
    "other relay": ('held = "a@b.c"\nrelay = "b"', 'relay = "b": there is no relay of this name. Known here: relay.'),
    "times": ('held = "a@b.c"\nafter = "2s"\nwithin = "1s"', 'within = "1s": sooner than after allows. Write a longer'),
}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a", "a/b"), 'files."a/b": cannot be written: '),
        (("a/b", "a"), "files.a: cannot be written: is a directory. Choose another name."),
        (("n" * 300,), f"files.{'n' * 300}: cannot be written: file name too long. Choose another name."),
    ],
    ids=["file-first", "folder-first", "long"],
)
def test_what_cannot_be_a_file(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    file, stage = tmp_path / "flow.toml", tmp_path / "stage"
    stage.mkdir()
    file.write_text(SHORT + "[files]\n" + "".join(f'"{name}" = "x"\n' for name in names))
    with pytest.raises(Mistake) as caught:
        read(file).lay_out(stage)
    assert str(caught.value).startswith(f"{file}: {said}")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_names_key_value_and_mend(tmp_path: Path, name: str) -> None:
    text, said = MISTAKES[name]
    assert any(line.startswith(said) for line in mistakes(tmp_path, text)), mistakes(tmp_path, text)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_mistake_in_an_expectation(tmp_path: Path, name: str) -> None:
    text, said = EXPECTED[name]
    lines = mistakes(tmp_path, f"{SHORT}[[message.expect]]\n{text}\n")
    separator = "" if said.startswith(":") else "."
    assert any(line.startswith(f"message[0].expect[0]{separator}{said}") for line in lines), lines


def test_no_toml_and_no_file(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, "title = ")
    assert line.startswith("1: not TOML: Invalid value (at the end of the file).")
    with pytest.raises(Mistake, match=r"absent\.toml: cannot be read: no such file or directory\."):
        read(tmp_path / "absent.toml")


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    assert len(mistakes(tmp_path, 'titel = "x"\n[[message]]\nto = []\ncopies = 0\n')) == 5


# Patterns


@pytest.mark.parametrize(
    ("text", "said", "holds"),
    [
        ("a.b", "a.b", True),
        ("a.b", "aXb", False),
        ("a*", "abc\nd", True),
        ("*b*", "abc", True),
        ("*b", "abc", False),
        ("regex:a+", "aa", True),
        ("regex:a+", "aab", False),
        ("regex:a|b", "ab", False),
        ("regex:é.", "éß", True),
    ],
)
def test_a_pattern_is_the_whole_text(text: str, said: str, holds: bool) -> None:
    assert Pattern.parse(text).holds(said) is holds


@pytest.mark.parametrize(
    ("text", "reply", "answers"),
    [
        ("250", "250 2.0.0 Ok", True),
        ("250", "2500 Ok", False),
        ("550 5.1.1", "550 5.1.1 No such user", True),
        ("550 5.1.1", "550 5.1.10 No such user", False),
        ("550 5.1.1 No such user", "550 5.1.1 No such user", True),
        ("250*queued*", "250 2.0.0 Ok: queued as X", True),
    ],
)
def test_a_reply_may_be_named_by_its_codes(text: str, reply: str, answers: bool) -> None:
    assert Pattern.parse(text).answers(reply) is answers


# The schema for editors


def test_the_published_schema_is_that_of_the_model() -> None:
    published = json.loads((ROOT / "docs/scenario.schema.json").read_text())
    assert published == schema(), "python -m smtproute.testing.scenarios.scenario > docs/scenario.schema.json"


def test_everything_in_the_schema_is_described() -> None:
    definitions = {**schema()["$defs"], "Scenario": schema()}
    for name, definition in definitions.items():
        assert definition.get("description"), name
        for key, value in definition.get("properties", {}).items():
            assert value.get("description"), f"{name}.{key}"


def faults(value: Any, rule: dict[str, Any], whole: dict[str, Any], at: str = "") -> Iterator[str]:
    """In what way a value is not as a JSON schema has it, as far as ours goes."""
    known = {
        "$schema",
        "$defs",
        "$ref",
        "title",
        "description",
        "default",
        "examples",
        "format",
        "additionalProperties",
    }
    tested = {"type", "properties", "required", "items", "anyOf", "enum", "const", "pattern", "minimum", "maximum"}
    sizes = {"minItems", "maxItems"}
    assert rule.keys() <= known | tested | sizes, rule.keys() - known - tested - sizes
    if "$ref" in rule:
        yield from faults(value, whole["$defs"][rule["$ref"].removeprefix("#/$defs/")], whole, at)
    if "anyOf" in rule and all(list(faults(value, each, whole, at)) for each in rule["anyOf"]):
        yield f"{at}: none of several"
    types = {"object": dict, "array": list, "string": (str, datetime), "integer": int, "number": (int, float)}
    types |= {"boolean": bool}
    wanted = rule.get("type", [])
    wanted = [wanted] if isinstance(wanted, str) else wanted
    if wanted and not any(isinstance(value, types[each]) for each in wanted):  # type: ignore[arg-type]
        yield f"{at}: no {wanted}"
        return
    if value not in rule.get("enum", [value]) or value != rule.get("const", value):
        yield f"{at}: another value"
    if isinstance(value, str) and re.search(rule.get("pattern", ""), value) is None:
        yield f"{at}: does not match"
    if isinstance(value, int) and not rule.get("minimum", value) <= value <= rule.get("maximum", value):
        yield f"{at}: out of bounds"
    if isinstance(value, list):
        if not rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", len(value)):
            yield f"{at}: too many or too few"
        for number, each in enumerate(value):
            yield from faults(each, rule.get("items", {}), whole, f"{at}[{number}]")
    if isinstance(value, dict):
        properties, more = rule.get("properties", {}), rule.get("additionalProperties", True)
        yield from (f"{at}.{key}: missing" for key in rule.get("required", ()) if key not in value)
        for key, each in value.items():
            if key in properties:
                yield from faults(each, properties[key], whole, f"{at}.{key}")
            elif more is False:
                yield f"{at}.{key}: unknown"
            elif isinstance(more, dict):
                yield from faults(each, more, whole, f"{at}.{key}")


def test_scenarios_are_as_the_schema_says() -> None:
    whole = schema()
    texts = {"WHOLE": WHOLE, "SHORT": SHORT}
    texts |= {str(path): path.read_text() for path in (ROOT / "tests/scenarios").rglob("*.toml")}
    for name, text in texts.items():
        assert list(faults(tomllib.loads(text), whole, whole)) == [], name


@pytest.mark.parametrize("name", ["misspelled", "no list", "nobody", "duration", "copies", "down", "dns", "arrived"])
def test_an_editor_sees_the_plain_mistakes(name: str) -> None:
    whole = schema()
    assert list(faults(tomllib.loads(MISTAKES[name][0]), whole, whole))
