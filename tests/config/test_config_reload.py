"""What a reload keeps of the configuration before it: a name, and every table that has become unusable."""

from __future__ import annotations

from pathlib import Path

from smtproute.core.snapshot import carried
from tests.config.folders import loaded

ANNA = "anna@example.org|{X}y\n"
DOUBLE = "a@example.org REJECT\na@example.org OK\n"


def test_unusable_tables_stay_as_they_were(tmp_path: Path) -> None:
    good = "a@example.org REJECT\n"
    old = loaded(
        tmp_path,
        accounts=ANNA,
        virtual="a@example.org anna@example.org\n",
        send_access=good,
        receive_access=good,
        relaymap="@example.org [relay.example]:25\n",
    )
    new = loaded(
        tmp_path,
        accounts=ANNA,
        virtual="a@example.org x@y.example\na@example.org z@y.example\n",
        send_access=DOUBLE,
        receive_access=DOUBLE,
        relaymap="@example.org [one.example]:25\n@example.org [two.example]:25\n",
    )
    kept = carried(old, new)
    assert kept.routing.aliases.tables == old.routing.aliases.tables
    assert kept.routing.send_access == old.routing.send_access
    assert kept.routing.receive_access == old.routing.receive_access
    assert kept.routing.relays == old.routing.relays
    assert "relay [relay.example]:25" in kept.settings.endpoints
    assert [finding.where for finding in kept.findings if finding.name == "table-kept"] == [
        "postfix-virtual.cf",
        "postfix-send-access.cf",
        "postfix-receive-access.cf",
        "postfix-relaymap.cf",
    ]


def test_tables_that_were_unusable_may_stay_so_and_new_ones_count(tmp_path: Path) -> None:
    old = loaded(tmp_path, accounts=ANNA, send_access=DOUBLE)
    new = loaded(tmp_path, accounts=ANNA, send_access=DOUBLE, receive_access="a@example.org REJECT\n")
    kept = carried(old, new)
    assert kept.routing.send_access is not None and kept.routing.send_access.fault
    assert kept.routing.receive_access == new.routing.receive_access is not None
    assert [finding.name for finding in kept.findings] == ["duplicate-key"]


def test_the_name_stays_in_every_place(tmp_path: Path) -> None:
    old = loaded(tmp_path, accounts=ANNA, aliases="ops: anna@example.org\n")
    new = loaded(tmp_path, accounts=ANNA, env="OVERRIDE_HOSTNAME=mx.example.net\n", aliases="ops: x@y.example\n")
    kept = carried(old, new)
    aliases = kept.routing.aliases
    assert (kept.settings.hostname.key, kept.routing.hostname.key, aliases.origin.key) == ("mail.example.org",) * 3
    names = {"mail.example.org", "localhost", "localhost.example.org"}
    assert aliases.destinations == names | {"[127.0.0.1]", "[ipv6:::1]"}
    assert set(kept.routing.local_domains) == {"example.org", *names}
    assert aliases.local == new.routing.aliases.local
    assert [(finding.name, finding.where) for finding in kept.findings] == [("not-reloaded", "hostname")]


def test_accounts_quotas_and_logins_are_the_new_ones(tmp_path: Path) -> None:
    old = loaded(tmp_path, accounts=ANNA, dovecot_quotas="anna@example.org:1M\n")
    new = loaded(tmp_path, accounts=ANNA + "bob@example.org|{X}z\n", dovecot_quotas="anna@example.org:2M\n")
    kept = carried(old, new)
    assert list(kept.logins) == ["anna@example.org", "bob@example.org"]
    assert kept.routing.mailboxes["anna@example.org"].quota.limit == 2 << 20
    assert kept.folder == new.folder
