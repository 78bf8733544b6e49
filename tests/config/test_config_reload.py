"""What a reload keeps of the configuration before it: a name, and every table that has become unusable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from smtproute.config import load
from smtproute.core.aliases import TextTable
from smtproute.core.snapshot import Snapshot, carried
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


JUNK = {"bytes": b"\xff\xfe\x80junk\n", "nul": b"a\0b\n\0\0\0\n", "utf-16": "a@example.org x\n".encode("utf-16")}


def lines(snapshot: Snapshot) -> list[list[int]]:
    """The lines of each alias table that count."""
    return [
        [each.line for each in (table.entries.values() if isinstance(table, TextTable) else table.rules)]
        for table in snapshot.routing.aliases.tables
    ]


@pytest.mark.parametrize("junk", JUNK)
def test_a_file_that_has_become_junk_stays_as_it_was(junk: str, tmp_path: Path) -> None:
    files = {
        "accounts": ANNA,
        "virtual": "sales@example.com anna@example.org\n",
        "regexp": "/^x@example\\.org$/ anna@example.org\n",
        "send_access": "a@example.org REJECT\n",
        "receive_access": "a@example.org REJECT\n",
    }
    old = loaded(tmp_path, **files)
    for name in files:
        new = loaded(tmp_path, **{**files, name: JUNK[junk]})
        kept = carried(old, new)
        assert replace(kept.routing, relays=old.routing.relays) == replace(old.routing, aliases=kept.routing.aliases)
        assert lines(kept) == lines(old)
        assert kept.logins == old.logins
        told = [str(each.severity) for each in kept.findings if each.name == "table-kept"]
        assert told == ["error"], name
        again = carried(kept, new)
        assert (again.routing.local_domains, again.logins) == (kept.routing.local_domains, kept.logins)
        assert lines(again) == lines(old)
    mended = carried(kept, loaded(tmp_path, **files))
    assert (mended.routing.mailboxes, mended.findings) == (old.routing.mailboxes, old.findings)


@pytest.mark.parametrize("empty", ["", "# nobody\n\n"])
def test_an_empty_file_means_nobody(empty: str, tmp_path: Path) -> None:
    good = "a@example.org REJECT\n"
    old = loaded(tmp_path, accounts=ANNA, virtual="sales@example.com anna@example.org\n", send_access=good)
    new = loaded(tmp_path, accounts=empty, virtual=empty, send_access=empty)
    kept = carried(old, new)
    assert kept.routing.mailboxes == kept.logins == {}
    assert kept.routing.send_access is not None and not kept.routing.send_access.entries
    assert "table-kept" not in {each.name for each in kept.findings}


def test_virtual_accounts_stay_with_their_aliases_and_have_the_new_password(tmp_path: Path) -> None:
    virtual = "sales@example.org anna@example.org\nx@example.org bob@example.org\n"
    old = loaded(tmp_path, accounts=ANNA + "bob@example.org|{X}z\n", virtual=virtual)
    kept = carried(old, loaded(tmp_path, accounts="anna@example.org|{X}new\n", virtual=b"\xff\n"))
    assert {key: login.password for key, login in kept.logins.items()} == {
        "anna@example.org": "{X}new",
        "sales@example.org": "{X}new",
    }


def test_parts_without_a_folder_stay_too(tmp_path: Path) -> None:
    file = tmp_path / "smtproute.toml"
    file.write_text('[accounts]\nfile = "accounts"\n[aliases]\ntables = ["virtual"]\n')
    (tmp_path / "accounts").write_text(ANNA)
    (tmp_path / "virtual").write_text("a@example.com anna@example.org\n")
    old = load(str(file), {}, fqdn=lambda: "mail.example.org")
    (tmp_path / "accounts").write_bytes(b"\xff\n")
    (tmp_path / "virtual").write_bytes(b"\xff\n")
    kept = carried(old, load(str(file), {}, fqdn=lambda: "mail.example.org"))
    assert (kept.routing, kept.logins) == (old.routing, old.logins)
    assert [each.where for each in kept.findings if each.name == "table-kept"] == ["virtual", "accounts"]
