"""The pytest plugin: fixtures over a relay on a stage, and scenario files as tests.

Nothing of the relay is imported before a test uses a fixture.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from smtproute.testing.scenarios.folder import is_scenario

if TYPE_CHECKING:
    from smtproute.testing.certificates import Authority
    from smtproute.testing.harness import (
        Harness,
        MailDns,
        MailInbox,
        MailKey,
        MailRelay,
        MailUpstream,
        SharedRelay,
    )
    from smtproute.testing.staging import Config

__all__ = [
    "arc_keys",
    "mail_dns",
    "mail_inbox",
    "mail_upstream",
    "mail_upstreams",
    "pytest_addoption",
    "pytest_collect_file",
    "pytest_configure",
    "pytest_runtest_makereport",
    "smtproute",
    "smtproute_authority",
    "smtproute_config",
    "smtproute_session",
    "smtproute_session_config",
    "smtproute_session_relay",
]

_FOLDER = "tests/scenarios"
"""Where scenarios are, unless the setting smtproute_scenarios says otherwise."""
_UPSTREAM = {"default": {"endpoint": "upstream"}, "endpoint": {"upstream": {"servers": ["upstream.test:25"]}}}
"""The configuration of a test that has none and asks for its upstream."""

_relays: pytest.StashKey[list[MailRelay[Any]]] = pytest.StashKey()
"""Of a test: the relays that it uses."""
_tokens: pytest.StashKey[set[str]] = pytest.StashKey()
"""Of a run: those that tests have had on the shared relay."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("smtproute")
    group.addoption(
        "--smtproute-seed",
        type=int,
        metavar="N",
        help="of all that is left to chance in mail flows; a test that fails names its own",
    )
    parser.addini("smtproute_scenarios", f"folders of scenario files (default: {_FOLDER})", type="paths")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "smtproute_config(config): the configuration of the relay under test: TOML text, a file or a docker-mailserver"
        " folder beside the test, tables, or these as keywords",
    )


@pytest.fixture(scope="session")
def smtproute_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whose certificates every relay of the run has: its `file` is what an application trusts."""
    from smtproute.testing.certificates import Authority

    return Authority(tmp_path_factory.mktemp("smtproute"))


# The relay of one test


@pytest.fixture
def smtproute_config(request: pytest.FixtureRequest) -> Config:
    """The configuration of `smtproute`: that of the marker; without one everything is captured."""
    marker = request.node.get_closest_marker("smtproute_config")
    if marker is None:
        return None
    if len(marker.args) + bool(marker.kwargs) > 1:
        raise pytest.fail.Exception(
            "smtproute_config: a file or a text is the whole configuration. Write one of them, or tables by keyword.",
            pytrace=False,
        )
    config: Config = marker.args[0] if marker.args else marker.kwargs
    if not marker.args and not marker.kwargs:
        raise pytest.fail.Exception(
            "smtproute_config: it has no configuration. Write TOML text, a file, a docker-mailserver folder or tables"
            " into its parentheses, or take the marker away: everything is captured then.",
            pytrace=False,
        )
    return config


@pytest.fixture
def smtproute(request: pytest.FixtureRequest, smtproute_config: Config) -> Iterator[Harness]:
    """A relay for this test alone, with its configuration as production has it, on a stage of its own."""
    if smtproute_config is None and "mail_upstream" in request.fixturenames:
        smtproute_config = _UPSTREAM
    with _running(request, smtproute_config, request.path.parent) as harness:
        request.node.stash.setdefault(_relays, []).append(harness)
        yield harness


# The relay of all tests


@pytest.fixture(scope="session")
def smtproute_session_config() -> Config:
    """The configuration of `smtproute_session`: everything is captured, unless it is overridden."""
    return None


@pytest.fixture(scope="session")
def smtproute_session_relay(request: pytest.FixtureRequest, smtproute_session_config: Config) -> Iterator[Harness]:
    """The relay that the tests of this run (of this process) share, for what is set up once for all of them."""
    with _running(request, smtproute_session_config, request.config.rootpath) as harness:
        yield harness


@pytest.fixture
def smtproute_session(request: pytest.FixtureRequest, smtproute_session_relay: Harness) -> SharedRelay:
    """The shared relay, of which this test sees the mail to and from its own addresses, which `address` makes."""
    tokens = request.config.stash.setdefault(_tokens, set())
    number = zlib.crc32(request.node.nodeid.encode()) & 0xFFFF  # one test, one token, wherever it runs
    while f"t{number:04x}" in tokens:
        number += 1
    tokens.add(f"t{number:04x}")
    shared = smtproute_session_relay.shared(f"t{number:04x}")
    request.node.stash.setdefault(_relays, []).append(shared)
    return shared


# What a relay has


@pytest.fixture
def mail_inbox(request: pytest.FixtureRequest) -> MailInbox:
    """Whatever reached a mailbox, a capture or a server."""
    return _relay(request).inbox


@pytest.fixture
def mail_dns(request: pytest.FixtureRequest) -> MailDns:
    """What DNS says to the relay."""
    return _relay(request).dns


@pytest.fixture
def mail_upstream(request: pytest.FixtureRequest) -> MailUpstream:
    """The one server that the relay sends to."""
    return _relay(request).upstream()


@pytest.fixture
def mail_upstreams(request: pytest.FixtureRequest) -> Callable[[str], MailUpstream]:
    """The server at a host name, or of an endpoint: `mail_upstreams("mx.partner.example")`."""
    return _relay(request).upstream


@pytest.fixture
def arc_keys(request: pytest.FixtureRequest) -> Callable[..., MailKey]:
    """A key of somebody else's, published, that signs and seals: `arc_keys("else.example")`."""
    return _relay(request).key


def _relay(request: pytest.FixtureRequest) -> MailRelay:
    """The test's own relay, unless it uses nothing but the shared one."""
    names = request.fixturenames
    shared = "smtproute_session" in names and "smtproute" not in names
    relay: MailRelay = request.getfixturevalue("smtproute_session" if shared else "smtproute")
    return relay


@contextlib.contextmanager
def _running(request: pytest.FixtureRequest, config: Config, folder: Path) -> Iterator[Harness]:
    """A relay with this configuration, whose relative paths start at `folder`."""
    from smtproute.app import Refused
    from smtproute.config.document import Mistake
    from smtproute.testing.harness import Harness

    with contextlib.ExitStack() as stack:
        try:
            found = _found(config, folder, request.config.rootpath)
            seed, authority = request.config.getoption("smtproute_seed"), request.getfixturevalue("smtproute_authority")
            harness = stack.enter_context(Harness(found, seed=seed, authority=authority, how="--smtproute-seed {}"))
        except (Mistake, Refused) as wrong:
            raise pytest.fail.Exception(str(wrong), pytrace=False) from None
        yield harness


def _found(config: Config, folder: Path, root: Path) -> Config:
    """The configuration; a file or a folder is looked for in `folder`, then in `root`. Raises Mistake."""
    from smtproute.config.document import Mistake
    from smtproute.testing.staging import document

    if config is None:
        return None
    if isinstance(config, Path) or (isinstance(config, str) and config and not {"\n", "="} & set(config)):
        for path in (folder / config, root / config):
            if path.exists():
                return path
        folders = " nor in ".join(dict.fromkeys(map(str, (folder, root))))
        raise Mistake(f"smtproute_config: there is no {config} in {folders}")
    return replace(document(config, "smtproute_config"), folder=folder)


# What a failure shows


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where a test fails, its report has what its relays saw, unless the failure itself tells it."""
    report = yield
    relays = item.stash.get(_relays, [])
    if call.when == "teardown":
        item.stash[_relays] = []  # it may run again
    if report.failed and relays and call.excinfo is not None:
        from smtproute.testing.report import MailAssertion

        for relay in relays if not call.excinfo.errisinstance(MailAssertion) else ():
            dead = [f"it died of {relay.fault!r}"] if relay.fault is not None else []
            report.sections.append(("smtproute", "\n\n".join([*dead, relay.report_in_the_end()])))
    return report


# Scenario files


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Every scenario in the folders of scenarios is a test."""
    if file_path.suffix != ".toml":
        return None
    config = parent.config
    folders = config.getini("smtproute_scenarios") or [config.rootpath / _FOLDER]
    if not any(file_path.is_relative_to(folder) for folder in folders) or not is_scenario(file_path):
        return None
    collected: pytest.Collector = _ScenarioFile.from_parent(parent, path=file_path)
    return collected


class _ScenarioFile(pytest.File):
    def collect(self) -> Iterator[pytest.Item]:
        yield _ScenarioItem.from_parent(self, name=self.path.stem)


class _ScenarioItem(pytest.Item):
    def runtest(self) -> None:
        from smtproute.testing.report import MailAssertion
        from smtproute.testing.scenarios.play import play
        from smtproute.testing.scenarios.scenario import read
        from smtproute.testing.thread import in_background

        scenario = read(self.path)
        result = in_background(play(scenario, seed=self.config.getoption("smtproute_seed")))
        if not result.passed:
            raise MailAssertion(f"{scenario.title}\n\n{result.report}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        from smtproute.app import Refused
        from smtproute.config.document import Mistake
        from smtproute.testing.report import MailAssertion

        if excinfo.errisinstance((MailAssertion, Mistake, Refused)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.name
