"""Mail flows under test: relays on a stage, with scripted servers, names, keys and a clock around them.

A Stage has everything: names, servers, clients, the clock, and relays, each a Flow on it. A copy that has come where it
goes is an Arrival, in the stage's Inbox. Scenarios play on a stage as it is.
A Bench is a stage with one flow, and what a test asks of them. It lives in the relay's event loop.
A Harness is a bench with that loop in a thread, each call of which waits: what fixtures and unittest have.

What a test writes is here by name; it is imported when it is asked for. Nothing here is imported by the relay.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smtproute.testing.harness import Harness
    from smtproute.testing.inbox import Arrival
    from smtproute.testing.report import MailAssertion
    from smtproute.testing.rules import Drop, HalfClose, Hang, Mute, Plaintext, Rate, Raw, Reset, Slow, Wait, on
    from smtproute.testing.zone import Fault

__all__ = [
    "Arrival",
    "Drop",
    "Fault",
    "HalfClose",
    "Hang",
    "Harness",
    "MailAssertion",
    "Mute",
    "Plaintext",
    "Rate",
    "Raw",
    "Reset",
    "Slow",
    "Wait",
    "on",
]

_MODULES = {"Arrival": "inbox", "Fault": "zone", "Harness": "harness", "MailAssertion": "report"}
"""Where the names are; the others are rules."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'rules')}"), name)
