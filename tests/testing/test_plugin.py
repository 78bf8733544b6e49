"""The pytest plugin, in pytest runs of its own."""

from __future__ import annotations

import re

import pytest

import smtproute.testing.harness
import smtproute.testing.scenarios.play  # noqa: F401 (an inner run in this process leaves what is imported before it)

CONFIG = """
domains = ["example.org"]
[aliases]
tables = ["virtual"]
[listener.mx]
bind = "0.0.0.0:25"
role = "inbound"
[endpoint.partner]
servers = ["mx.partner.example:25"]
[[route]]
match = "*@partner.example"
endpoint = "partner"
[arc.keys."example.org"]
selector = "mail"
file = "/etc/smtproute/mail.pem"
"""

SUITE = """
import unittest

import pytest
from smtproute.testing import Harness, on

partner = pytest.mark.smtproute_config("smtproute.toml")


@partner
def test_alias(smtproute, mail_upstreams, mail_inbox):
    smtproute.send(sender="customer@else.example", to="sales@example.org")
    copy = mail_upstreams("partner").inbox.wait_for(to="boss@partner.example")
    smtproute.assert_route("sales@example.org", endpoint=("partner", "boss@partner.example"))
    smtproute.assert_arc(copy, cv="none", i=1, domain="example.org")
    assert mail_upstreams("partner").inbox.messages == [copy]
    mail_inbox.assert_none()


@partner
@pytest.mark.asyncio
async def test_greylisted(smtproute, mail_upstreams):
    far = mail_upstreams("mx.partner.example")
    far.script(on("RCPT", "451 4.7.1 Come back", times=1))
    await smtproute.aio.send(to="sales@example.org")
    await smtproute.aio.inbox.assert_none()
    await smtproute.aio.clock.advance("1h")
    assert (await far.aio.wait(1))[0].recipients == ("boss@partner.example",)


@pytest.mark.asyncio
async def test_blocking_in_a_coroutine(mail_inbox, smtproute):
    smtproute.send(to="a@b.example")
    assert mail_inbox.wait_for().recipients == ("a@b.example",)


def test_the_upstream_of_a_test_without_a_configuration(smtproute, mail_upstream):
    smtproute.send(to="a@b.example")
    assert mail_upstream.inbox.wait_for().endpoint == "upstream"


@pytest.mark.smtproute_config(default={"endpoint": "far"}, endpoint={"far": {"discover": "recipient"}})
def test_names(smtproute, mail_dns, mail_upstreams):
    mail_dns.set("b.example", "MX", ["10 mx.b.example"])
    far = mail_upstreams("mx.b.example")
    smtproute.send(to="a@b.example")
    assert far.inbox.wait_for().upstream == "mx.b.example"


@partner
def test_keys(smtproute, arc_keys, mail_inbox):
    letter = arc_keys("list.example").seal(b"From: a@else.example\\r\\n\\r\\nHello.\\r\\n")
    smtproute.send(letter, to="sales@example.org")
    smtproute.assert_arc(mail_inbox.wait_for(), cv="pass", i=2)


@pytest.mark.parametrize("number", range(4))
def test_shared(smtproute_session, mail_inbox, number):
    mine = smtproute_session.address("anna@example.org")
    assert mine.startswith("anna+t")
    smtproute_session.send(to=mine)
    smtproute_session.send(to="nobody@example.org")
    assert mail_inbox.wait_for().recipients == (mine,)
    mail_inbox.assert_none()


def test_both(smtproute, smtproute_session, mail_inbox):
    smtproute.send(to="a@b.example")
    assert mail_inbox.wait_for().recipients == ("a@b.example",)
    smtproute_session.inbox.assert_none()


class TestOverride:
    @pytest.fixture
    def smtproute_config(self):
        return {"default": {"mode": "reject"}}

    def test_overridden(self, smtproute):
        smtproute.assert_route("a@b.example", refused="550 5.7.1")


class Together(unittest.TestCase):
    def test_it(self):
        with Harness() as smtproute:
            smtproute.send(to="a@b.example")
            smtproute.inbox.wait_for()
"""
PASSES = 13


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makefile(".toml", smtproute=CONFIG)
    pytester.path.joinpath("virtual").write_text("sales@example.org boss@partner.example\n")
    pytester.makepyfile(test_suite=SUITE)
    return pytester


def ran(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    """The suite of a folder, run in this process. Hypothesis would be imported anew by each run."""
    return pytester.runpytest_inprocess("-p", "no:hypothesispytest", "-o", _SCOPE, *args)


_SCOPE = "asyncio_default_fixture_loop_scope=function"


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_one_suite_in_both_modes_of_asyncio(suite: pytest.Pytester, mode: str) -> None:
    ran(suite, "-o", f"asyncio_mode={mode}", "--strict-markers").assert_outcomes(passed=PASSES)


def test_the_same_suite_in_two_processes(suite: pytest.Pytester) -> None:
    result = suite.runpytest_subprocess("-n", "2", "-p", "no:hypothesispytest", "-o", _SCOPE)
    result.assert_outcomes(passed=PASSES)


FAILURES = """
import pytest

pytestmark = pytest.mark.smtproute_config("smtproute.toml")
LETTER = b"From: a@else.example\\r\\nSubject: Hello\\r\\n\\r\\nHello.\\r\\n"


def test_missing(smtproute, mail_inbox):
    smtproute.send(to="sales@example.org")
    smtproute.quiet()
    mail_inbox.wait_for(to="bose@partner.example", timeout=0.01)


def test_too_much(smtproute, mail_inbox):
    smtproute.send(to="sales@example.org")
    mail_inbox.assert_none()


def test_route(smtproute):
    smtproute.assert_route("sales@example.org", mailbox="sales@example.org")


def test_arc(smtproute, mail_inbox):
    smtproute.send(LETTER, to="sales@example.org")
    smtproute.assert_arc(mail_inbox.wait_for(), cv="pass", i=2)


def test_changed(smtproute, mail_inbox):
    smtproute.send(LETTER, to="sales@example.org")
    smtproute.assert_unchanged(LETTER.replace(b"Hello.", b"Hallo."), mail_inbox.wait_for())


def test_plain(smtproute):
    smtproute.send(to="sales@example.org")
    smtproute.quiet()
    assert len(smtproute.inbox.messages) == 7


@pytest.mark.asyncio
async def test_coroutine(smtproute):
    await smtproute.aio.send(to="sales@example.org")
    await smtproute.aio.inbox.assert_none()


@pytest.mark.smtproute_config()
def test_shared(smtproute_session):
    smtproute_session.send(to=smtproute_session.address("anna@example.org"), sender="me@example.org")
    smtproute_session.send(to="others@example.org")
    smtproute_session.quiet()
    assert not smtproute_session.inbox.messages
"""

TRACE = r"""
received  from <sender@client\.test>
.* <- RCPT TO:<sales@example\.org>
planned   sales@example\.org
.*virtual:1  sales@example\.org: alias to boss@partner\.example
.*=> endpoint partner for boss@partner\.example \(route\[0\]\)
attempt   endpoint partner: mx\.partner\.example:25 .*sealed by example\.org
.* ~> RCPT TO:<boss@partner\.example>
delivered endpoint partner for boss@partner\.example: 250 2\.0\.0 Taken
"""
TABLE = r"""
1 message arrived:
\s+\S+ UTC +place +from +to +subject +octets
1 .*mx\.partner\.example +<\S+> +boss@partner\.example
"""
SEED = r"""
seed 7: reproduce with --smtproute-seed 7
"""


def told(output: str, test: str) -> str:
    """What the failure of one test shows."""
    sections = re.split(r"^_{3,} (\w+) _{3,}$", output, flags=re.M)
    return dict(zip(sections[1::2], sections[2::2], strict=True))[test]


def has(text: str, *patterns: str) -> bool:
    """Whether all lines of the patterns are there, in order."""
    lines = [line for pattern in patterns for line in pattern.strip("\n").splitlines()]
    assert re.search(".*?".join(f"(?:{line})" for line in lines), text, re.S), f"{lines}\n\n{text}"
    return True


@pytest.fixture
def failures(suite: pytest.Pytester) -> str:
    suite.makepyfile(test_suite=FAILURES)
    result = ran(suite, "--smtproute-seed", "7")
    result.assert_outcomes(failed=8)
    return result.stdout.str().split("short test summary")[0].replace("E   ", "")


def test_every_failure_explains_itself(failures: str) -> None:
    assert has(
        told(failures, "test_missing"),
        r"expected 1 message to bose@partner\.example within 0\.01 s",
        TABLE,
        TRACE,
        SEED,
    )
    assert has(told(failures, "test_too_much"), r"expected no more mail, and 1 message came", TABLE, TRACE, SEED)
    assert has(told(failures, "test_route"), r"sales@example\.org", r"mailbox sales@example\.org", SEED)
    assert has(told(failures, "test_arc"), r"MailAssertion: .*i=1", TABLE, TRACE.replace("sender@client", r"\S+"), SEED)
    assert has(told(failures, "test_changed"), r"Hallo\.", TABLE, SEED)
    assert has(told(failures, "test_plain"), r"assert 1 == 7", r"- smtproute -", TABLE, TRACE, SEED)
    assert has(told(failures, "test_coroutine"), r"expected no more mail, and 1 message came", TABLE, TRACE, SEED)


def test_nothing_is_told_twice(failures: str) -> None:
    for test in re.findall(r"^_{3,} (\w+) _{3,}$", failures, re.M):
        assert told(failures, test).count("seed 7: reproduce") == 1, test
        assert "thread.py" not in told(failures, test), "the test's own line is the last one"


def test_a_failure_on_the_shared_relay_tells_of_this_test_alone(failures: str) -> None:
    text = told(failures, "test_shared")
    assert "anna+t" in text and "others@example.org" not in text.partition("- smtproute -")[2]


def test_a_seed_of_its_own_for_each_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        def test_one(smtproute): print("seeds", smtproute.seed)
        def test_two(smtproute): print("seeds", smtproute.seed)
    """)

    def seeds(*args: str) -> list[str]:
        return re.findall(r"seeds (\d+)", ran(pytester, "-s", *args).stdout.str())

    assert len({*seeds(), *seeds()}) == 4
    assert seeds("--smtproute-seed", "3") == ["3", "3"]


def test_a_mistake_in_a_configuration_is_one_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.smtproute_config("nowhere.toml")
        def test_no_file(smtproute): pass

        @pytest.mark.smtproute_config()
        def test_nothing(smtproute): pass

        @pytest.mark.smtproute_config(42)
        def test_number(smtproute): pass

        @pytest.mark.smtproute_config(domain=["example.org"])
        def test_key(smtproute): pass

        @pytest.mark.smtproute_config({"endpoint": {"a": {"servers": ["a.example"]}, "b": {"servers": ["b.example"]}}})
        def test_which(mail_upstream): pass
    """)
    result = ran(pytester)
    result.assert_outcomes(errors=5)
    result.stdout.re_match_lines(
        [
            r"smtproute_config: there is no nowhere\.toml in [^ ]+$",
            r"smtproute_config: it has no configuration\. Write TOML text, .*",
            r"smtproute_config: 42 is no configuration\. Write tables, .*",
            r'smtproute_config: domain: unknown key\. Did you mean "domains"\?',
            r"E +LookupError: which upstream is meant\? There are: a, b, a\.example, b\.example",
        ]
    )
    assert "another exception" not in result.stdout.str()


def test_a_relay_that_dies_is_reported(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import asyncio

        async def fault():
            raise ArithmeticError("a fault of ours")

        async def hurt(harness):
            harness._core.flow.relay._tasks.create_task(fault())
            await asyncio.sleep(60)

        def test_it(smtproute):
            smtproute._ask(hurt(smtproute))
    """)
    result = ran(pytester)
    result.assert_outcomes(failed=1, errors=1)
    result.stdout.fnmatch_lines(["*NotRunning: it died of *a fault of ours*", "*- smtproute -*", "it died of *"])


def test_it_costs_nothing_before_it_is_used(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys
        import threading

        def test_it():
            assert "smtproute.testing.plugin" in sys.modules
            heavy = {"asyncio", "cryptography", "dns", "pydantic", "smtproute.app", "smtproute.core.settings"}
            assert not heavy & sys.modules.keys()
            assert threading.active_count() == 1
    """)
    pytester.runpytest_subprocess("-p", "no:asyncio", "-p", "no:xdist", "-p", "no:timeout").assert_outcomes(passed=1)


SCENARIO = """
title = "A letter"
[[message]]
to = ["anna@example.org"]
from = "friend@else.example"
[[message.expect]]
%s = "anna@example.org"
"""


def scenarios(pytester: pytest.Pytester, folder: str) -> None:
    at = pytester.mkdir("tests") if folder.startswith("tests") else pytester.path
    at = at / folder.removeprefix("tests/")
    at.joinpath("more").mkdir(parents=True)
    at.joinpath("good.toml").write_text(SCENARIO % "capture")
    at.joinpath("more", "bad.toml").write_text(SCENARIO % "mailbox")
    at.joinpath("smtproute.toml").write_text("domains = ['example.org']  # what a scenario names")
    at.joinpath("typo.toml").write_text((SCENARIO % "capture").replace("[[message.expect]]", "[[message.expects]]"))


@pytest.mark.parametrize(
    ("folder", "ini"),
    [("tests/scenarios", "[pytest]"), ("flows", "[pytest]\nsmtproute_scenarios = flows")],
    ids=["default", "setting"],
)
def test_scenario_files_are_tests(pytester: pytest.Pytester, folder: str, ini: str) -> None:
    pytester.makefile(".ini", pytest=ini)
    pytester.makefile(".toml", pyproject="[project]\nname = 'x'")
    scenarios(pytester, folder)
    result = ran(pytester, "-v")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines_random(
        [
            f"{folder}/good.toml::good PASSED*",
            f"{folder}/more/bad.toml::bad FAILED*",
            f"{folder}/typo.toml::typo FAILED*",
            '*typo.toml:*unknown key. Did you mean "expect"?*',
            "A letter",
            "1 message arrived:",
            "seed 1*",
        ]
    )
    assert "Traceback" not in result.stdout.str()


def test_the_seed_of_a_scenario(pytester: pytest.Pytester) -> None:
    scenarios(pytester, "tests/scenarios")
    result = ran(pytester, "--smtproute-seed", "9", "-k", "bad")
    result.stdout.fnmatch_lines(["seed 9*"])


def test_a_failure_in_the_teardown_of_a_fixture_is_told_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.fixture
        def application(smtproute):
            smtproute.send(to="anna@example.org")
            smtproute.quiet()
            yield
            raise ArithmeticError("a fault in the end")

        def test_it(application):
            pass
    """)
    result = ran(pytester)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*ArithmeticError: a fault in the end", "*- smtproute -*", "1 message arrived:", "seed *"]
    )
