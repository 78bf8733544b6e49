"""What routes and the default become, and what is wrong with them."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from smtproute.config import Mistake, load
from smtproute.core.routes import Route, Target
from smtproute.core.settings import Mode

HEAD = """
[listener.mx]
bind = "127.0.0.1:0"
role = "inbound"
[listener.application]
bind = "127.0.0.1:0"
[endpoint.far]
servers = ["far.internal"]
"""
ROUTE = '[[route]]\nmatch = "*@far.example"\n'


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loaded(text: str) -> tuple[tuple[Route, ...], Target]:
    Path("smtproute.toml").write_text(text)
    routing = load("smtproute.toml", {}, fqdn=lambda: "mail.example.org").routing
    return routing.routes, routing.default


def mistakes(text: str) -> tuple[str, ...]:
    with pytest.raises(Mistake) as caught:
        loaded(text)
    return tuple(line.removeprefix("smtproute.toml: ") for line in caught.value.lines)


@pytest.mark.parametrize(
    ("written", "target"),
    [
        ('endpoint = "far"', Target(Mode.ENDPOINT, "far")),
        ('mode = "endpoint"\nendpoint = "far"', Target(Mode.ENDPOINT, "far")),
        ('mode = "capture"', Target(Mode.CAPTURE)),
        ('mode = "hold"', Target(Mode.HOLD)),
        ('mode = "hold"\nendpoint = "far"', Target(Mode.HOLD, "far")),
        ('mode = "bounce"', Target(Mode.BOUNCE)),
        ('mode = "reject"', Target(Mode.REJECT)),
    ],
)
def test_modes(written: str, target: Target) -> None:
    (route,), default = loaded(f"default = {{ {written.replace(chr(10), ', ')} }}\n{HEAD}{ROUTE}{written}\n")
    assert (route.target, default) == (target, target)


def test_conditions() -> None:
    (none, one, several), _ = loaded(
        HEAD
        + ROUTE
        + 'mode = "capture"\n'
        + ROUTE
        + 'mode = "capture"\nsender = "<>"\nclient = "10.0.0.0/8"\nlistener = "application"\n'
        + ROUTE
        + 'mode = "capture"\nsender = "*@Example.org"\nclient = ["192.0.2.1", "2001:db8::/32"]\n'
    )
    assert none.conditions == ()
    assert one.clients == (ip_network("10.0.0.0/8"),)
    assert one.conditions == ("sender <>", "client 10.0.0.0/8", "listener application")
    assert several.conditions == ("sender *@Example.org", "client 192.0.2.1/32, 2001:db8::/32")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('mode = "bounce"\nendpoint = "far"', 'mode = "bounce": contradicts endpoint = "far". Remove one of the two.'),
        (
            'mode = "held"',
            'mode = "held": not one of endpoint, capture, hold, bounce, reject. Did you mean "hold"?',
        ),
        ('mode = "hold"\nendpoint = "fra"', 'endpoint = "fra": there is no [endpoint.fra]. Did you mean "far"?'),
        (
            'mode = "capture"\nlistener = "aplication"',
            'listener = "aplication": there is no [listener.aplication]. Did you mean "application"?',
        ),
        (
            'mode = "capture"\nlistener = ""',
            'listener = "": there is no [listener.]. The listeners: mx, application.',
        ),
        (
            'mode = "capture"\nclient = "10.0.0.1/8"',
            'client = "10.0.0.1/8": no network: it has bits beyond its length. Write "10.0.0.0/8".',
        ),
        ('mode = "capture"\nclient = []', 'client = []: a network is wanted, or a list of them. Write "10.0.0.0/8".'),
        ('mode = "capture"\nclient = 10', 'client = 10: a network is wanted, or a list of them. Write "10.0.0.0/8".'),
        (
            'mode = "capture"\nclient = ["10.0.0.0/8", "here"]',
            'client = ["10.0.0.0/8", "here"]: no network. Write "192.0.2.0/24", "2001:db8::/32" or one address.',
        ),
        (
            'mode = "capture"\nsender = "example.org"',
            'sender = "example.org": write user@domain, *@domain, *@*.domain, * or regex:PATTERN. Known forms: '
            '"user@domain", "*@domain", "*@*.domain", "*", "regex:...", "<>" for the null sender',
        ),
    ],
)
def test_what_is_wrong(written: str, said: str) -> None:
    assert mistakes(f"{HEAD}{ROUTE}{written}\n") == (f"route[0].{said}",)


@pytest.mark.parametrize(
    ("conditions", "opened"),
    [
        ("", True),
        ('listener = "mx"', True),
        ('client = "0.0.0.0/0"', True),
        ('client = ["::/0", "10.0.0.0/8"]', True),
        ('listener = "application"', False),
        ('client = "10.0.0.0/8"', False),
        ('client = "10.0.0.0/8"\nlistener = "mx"', False),
        ('sender = "*"', False),
        ('sender = "*@example.org"\nclient = "0.0.0.0/0"\nlistener = "mx"', False),
    ],
)
def test_a_route_for_everybody(conditions: str, opened: bool) -> None:
    """The judgement itself: tests/core/test_routes.py."""
    text = f'{HEAD}[[route]]\nmatch = "*"\nmode = "capture"\n{conditions}\n'
    if opened:
        (said,) = mistakes(text)
        assert said.startswith('route[0].match = "*": anyone could send anywhere through the inbound listener mx')
    else:
        loaded(text)
