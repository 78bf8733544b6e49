"""A world whose time stands still until a test turns it, and resolvers that live in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smtproute.core.settings import Resolver as Settings
from smtproute.resolve import Resolver
from smtproute.testing.clock import TurnedClock
from smtproute.world import World


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock(1_700_000_000.0)


@pytest.fixture
def resolver(clock: TurnedClock, tmp_path: Path) -> Callable[..., Resolver]:
    """Makes a resolver that asks these servers; without a hosts file and the machine's resolv.conf unless given."""

    def make(
        *servers: str,
        resolv_conf: str = "",
        attempt: float = 5.0,
        total: float = 10.0,
        patience: float = 1.8,
        **more: Any,
    ) -> Resolver:
        more.setdefault("hosts_file", str(tmp_path / "absent"))
        settings = Settings(servers=servers, **more)
        resolv_conf = resolv_conf or str(tmp_path / "absent")
        world = World(clock=clock)
        return Resolver(settings, world, resolv_conf=resolv_conf, attempt=attempt, total=total, patience=patience)

    return make
