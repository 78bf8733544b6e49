"""Reloads that meet more than was foreseen."""

from __future__ import annotations

from smtproute.app import WARNINGS, Relay
from smtproute.config.load import load
from smtproute.core.event import Happening
from smtproute.core.snapshot import Snapshot
from tests.e2e.conftest import Lab

CONFIG = """
    [docker_mailserver]
    config = "dms"
    [listener.mx]
    bind = "127.0.0.1:0"
    role = "inbound"
"""


async def test_whatever_reading_raises_the_relay_goes_on(lab: Lab) -> None:
    lab.write("dms/postfix-accounts.cf", "anna@example.org|{PLAIN}secret\n")
    file = lab.config(CONFIG)
    raised: list[Exception] = []

    def read() -> Snapshot:
        if raised:
            raise raised[0]
        return load(str(file), {}, fqdn=lambda: "mail.example.org")

    async with Relay.running(read, world=lab.world, emit=lab.journal) as relay:
        raised.append(ValueError("nobody thought of this"))
        await relay.reload()
        (refused,) = lab.journal.of(Happening.RELOAD_REFUSED)
        assert "nobody thought of this" in refused.facts["why"]
        await lab.delivered(relay, "anna@example.org")
        raised.clear()
        await relay.reload()
        assert len(lab.journal.of(Happening.RELOADED)) == 1


async def test_of_many_findings_the_log_tells_the_worst(lab: Lab) -> None:
    lab.write("dms/postfix-accounts.cf", "anna@example.org|{PLAIN}secret\n")
    lab.write("dms/postfix-virtual.cf", "".join(f"x{n}@example.org\n" for n in range(WARNINGS)) + "a b\na b\n")
    await lab.started(CONFIG)
    told = [event.facts["what"] for event in lab.journal.of(Happening.WARNING)]
    assert len(told) == WARNINGS + 1
    assert "duplicate" in told[0]
    assert told[-1].endswith(" more: see smtproute check")
