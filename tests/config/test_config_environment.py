"""The environment file and postfix-main.cf: what the container's variables and Postfix's parameters change."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from smtproute.config.docker_mailserver.environment import read_environment
from smtproute.config.docker_mailserver.paths import Paths
from smtproute.core.aliases import TextTable
from smtproute.core.finding import Severity
from smtproute.core.snapshot import Snapshot
from tests.config.folders import loaded, shown

ANNA = "anna@example.org|{X}y\n"
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"), ip_network("fe80::/64"))


def networks(snapshot: Snapshot) -> tuple[object, ...]:
    (listener,) = snapshot.settings.listeners.values()
    return listener.trusted_networks


# The environment file


def test_environment_grammar(tmp_path: Path) -> None:
    environment, findings = read_environment(
        "dms.env",
        b"\xef\xbb\xbf# variables\r\n"
        b"ENABLE_QUOTAS=0\r\n"
        b"\n"
        b'POSTMASTER_ADDRESS="boss@example.org"\n'
        b"RELAY_HOST=relay.example # ours\n"
        b"RELAY_PASSWORD='a b'\n"
        b"SPOOF_PROTECTION=\n"
        b"SMTP_ONLY\n"
        b"RELAY_HOST=other.example\n"
        b"RELAY_USER=a#b=c\n",
        Paths(tmp_path, {}),
    )
    assert environment.written
    assert {name: (line.value, line.rule) for name, line in environment.variables.items()} == {
        "ENABLE_QUOTAS": ("0", "dms.env:2"),
        "POSTMASTER_ADDRESS": ("boss@example.org", "dms.env:4"),
        "RELAY_HOST": ("other.example", "dms.env:9"),
        "RELAY_PASSWORD": ("a b", "dms.env:6"),
        "SPOOF_PROTECTION": ("", "dms.env:7"),
        "RELAY_USER": ("a#b=c", "dms.env:10"),
    }
    assert (environment["SPOOF_PROTECTION"], environment["SMTP_ONLY"]) == ("0", "0")
    assert shown(findings) == [
        ("environment-quotes", "dms.env:4", "POSTMASTER_ADDRESS=boss@example.org"),
        ("environment-quotes", "dms.env:5", "RELAY_HOST=relay.example"),
        ("environment-quotes", "dms.env:6", "RELAY_PASSWORD=..."),
        ("environment-line", "dms.env:8", "NAME=value"),
        ("duplicate-key", "dms.env:9", ""),
    ]


def test_a_variable_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n\n")
    environment, findings = read_environment(
        "dms.env",
        b"RELAY_PASSWORD__FILE=/tmp/docker-mailserver/password\n"
        b"RELAY_USER=\nRELAY_USER__FILE=/tmp/docker-mailserver/password\n"
        b"RELAY_HOST__FILE=/run/secrets/host\n"
        b"RELAY_PORT__FILE=/tmp/docker-mailserver/none\n",
        Paths(tmp_path, {}),
    )
    assert environment["RELAY_PASSWORD"] == "secret"
    assert (environment["RELAY_USER"], environment["RELAY_HOST"], environment["RELAY_PORT"]) == ("", "", "25")
    assert [(finding.name, finding.where) for finding in findings] == [
        ("environment-file", "dms.env:3"),
        ("environment-file", "dms.env:4"),
        ("environment-file", "dms.env:5"),
    ]


def test_the_hostname(tmp_path: Path) -> None:
    env = "OVERRIDE_HOSTNAME=mx.example.net\n"
    assert loaded(tmp_path, accounts=ANNA, env=env).settings.hostname.key == "mx.example.net"
    assert loaded(tmp_path, 'hostname = "own.example"', accounts=ANNA, env=env).settings.hostname.key == "own.example"
    broken = loaded(tmp_path, accounts=ANNA, env="OVERRIDE_HOSTNAME=a..b\n")
    assert broken.settings.hostname.key == "mail.example.org"
    assert [(finding.name, finding.where) for finding in broken.findings] == [("hostname", "dms.env:1")]


def test_the_size_of_a_message(tmp_path: Path) -> None:
    env = "POSTFIX_MESSAGE_SIZE_LIMIT=2000000\n"
    assert loaded(tmp_path, accounts=ANNA).settings.limits.message_size == 10_240_000
    assert loaded(tmp_path, accounts=ANNA, env=env).settings.limits.message_size == 2_000_000
    own = "[limits]\nmessage_size = 5"
    assert loaded(tmp_path, own, accounts=ANNA, env=env).settings.limits.message_size == 5
    main = loaded(tmp_path, accounts=ANNA, env=env, main="message_size_limit = 3000000\n")
    assert main.settings.limits.message_size == 3_000_000
    none = loaded(tmp_path, "[limits]\nin_flight = 7000000", accounts=ANNA, main="message_size_limit = 0\n")
    assert none.settings.limits.message_size == 7_000_000


def test_spoof_protection(tmp_path: Path) -> None:
    assert loaded(tmp_path, accounts=ANNA, env="SPOOF_PROTECTION=1\n").routing.spoof_protection
    assert not loaded(tmp_path, accounts=ANNA, env="").routing.spoof_protection


@pytest.mark.parametrize(
    ("value", "trusted", "found"),
    [
        ("none", (), []),
        ("network", (*LOOPBACK, ip_network("172.16.0.0/12")), ["permit-docker"]),
        ("container", LOOPBACK, ["permit-docker"]),
        ("host", LOOPBACK, ["permit-docker"]),
        ("connected-networks", LOOPBACK, ["permit-docker"]),
        ("everybody", (), ["permit-docker"]),
    ],
)
def test_permit_docker(tmp_path: Path, value: str, trusted: tuple[object, ...], found: list[str]) -> None:
    snapshot = loaded(tmp_path, accounts=ANNA, env=f"PERMIT_DOCKER={value}\n")
    assert networks(snapshot) == trusted
    assert [finding.name for finding in snapshot.findings] == found


@pytest.mark.parametrize("line", ["ACCOUNT_PROVISIONER=LDAP", "SMTP_ONLY=1", "POSTFIX_DAGENT=lmtp:elsewhere:24"])
def test_variables_that_are_not_simulated(tmp_path: Path, line: str) -> None:
    (finding,) = loaded(tmp_path, accounts=ANNA, env=f"{line}\n").findings
    assert (finding.name, finding.where, finding.severity) == ("not-simulated", "dms.env:1", Severity.WARNING)


# postfix-main.cf


def test_main_overrides(tmp_path: Path) -> None:
    snapshot = loaded(
        tmp_path,
        env="PERMIT_DOCKER=network\n",
        accounts=ANNA,
        main="# ours\n"
        "recipient_delimiter = -\n"
        "recipient_delimiter = +-\n"
        "mynetworks = 127.0.0.0/8,\n"
        "    [::1]/128\n"
        "# a comment inside\n"
        "    10.1.0.0/16\n"
        "mydestination = $myhostname, localhost.$mydomain, list.example.org\n"
        "biff = no\n",
    )
    assert snapshot.routing.aliases.delimiter == "+-"
    assert networks(snapshot) == (ip_network("127.0.0.0/8"), ip_network("::1/128"), ip_network("10.1.0.0/16"))
    names = {"mail.example.org", "localhost.example.org", "list.example.org"}
    assert snapshot.routing.aliases.destinations - {"[127.0.0.1]", "[ipv6:::1]"} == names
    assert snapshot.routing.local_domains == {
        "mail.example.org": "postfix-main.cf:8",
        "localhost.example.org": "postfix-main.cf:8",
        "list.example.org": "postfix-main.cf:8",
        "example.org": "postfix-accounts.cf:1",
    }
    assert snapshot.findings == ()
    assert snapshot.folder is not None
    assert snapshot.folder.main["recipient_delimiter"].rule == "postfix-main.cf:3"


@pytest.mark.parametrize(
    ("line", "domains"),
    [
        ("", None),
        ("virtual_alias_domains = $virtual_alias_maps", None),
        ("virtual_alias_domains = ${virtual_alias_maps}", None),
        ("virtual_alias_domains =", {}),
        ("virtual_alias_domains = forward.example", {"forward.example": "postfix-main.cf:1"}),
    ],
)
def test_domains_of_aliases(tmp_path: Path, line: str, domains: dict[str, str] | None) -> None:
    routing = loaded(tmp_path, accounts=ANNA, main=f"{line}\n").routing
    assert routing.aliases.alias_domains == domains
    assert ("forward.example" in routing.local_domains) is ("forward.example" in (domains or {}))


def test_other_alias_tables(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/more.cf").write_text("b@example.org anna@example.org\n")
    snapshot = loaded(
        tmp_path,
        accounts=ANNA,
        virtual="a@example.org anna@example.org\n",
        regexp="/^c@example/ anna@example.org\n",
        main="virtual_alias_maps = texthash:/etc/postfix/virtual pcre:/etc/postfix/regexp,"
        " hash:/tmp/docker-mailserver/more.cf ldap:/etc/postfix/x texthash:/srv/away\n",
    )
    tables = snapshot.routing.aliases.tables
    assert [table.file for table in tables] == [
        "postfix-virtual.cf",
        "postfix-regexp.cf",
        "/tmp/docker-mailserver/more.cf",
    ]
    assert isinstance(tables[2], TextTable) and "b@example.org" in tables[2].entries
    assert shown(snapshot.findings) == [
        ("not-simulated", "postfix-main.cf:1", ""),
        ("not-simulated", "postfix-main.cf:1", 'paths = { "/srv/away" = "..." } under [docker_mailserver]'),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "relay_domains = example.net",
        "virtual_mailbox_domains = example.org",
        "recipient_canonical_maps = pcre:/etc/x",
        "smtpd_recipient_restrictions = permit",
        "content_filter = smtp:[127.0.0.1]:1",
        "smtp_header_checks = pcre:/etc/x",
        "mydestination = hash:/etc/x",
        "mynetworks = /etc/networks",
    ],
)
def test_parameters_that_are_not_simulated(tmp_path: Path, line: str) -> None:
    (finding,) = loaded(tmp_path, accounts=ANNA, main=f"\n{line}\n").findings
    assert (finding.name, finding.where, finding.severity) == ("not-simulated", "postfix-main.cf:2", Severity.WARNING)
    assert line.split()[0] in finding.what


def test_checks_that_are_taken_away_are_no_finding(tmp_path: Path) -> None:
    assert loaded(tmp_path, accounts=ANNA, main="smtp_header_checks =\n").findings == ()


def test_lines_that_keep_postfix_from_starting(tmp_path: Path) -> None:
    snapshot = loaded(tmp_path, accounts=ANNA, main="  biff = no\nrecipient_delimiter +\nmessage_size_limit = 10M\n")
    assert snapshot.routing.aliases.delimiter == "+"
    assert shown(snapshot.findings) == [
        ("leading-space", "postfix-main.cf:1", "biff = no"),
        ("main-line", "postfix-main.cf:2", "recipient_delimiter = value"),
        ("main-line", "postfix-main.cf:3", "message_size_limit = 10240000"),
    ]
    assert {finding.severity for finding in snapshot.findings} == {Severity.ERROR}


@pytest.mark.parametrize("digits", ["9" * 5000, "9" * 19, "5G", "-1", "٣"])
def test_a_size_that_is_no_number_leaves_the_default(digits: str, tmp_path: Path) -> None:
    names = ("POSTFIX_MAILBOX_SIZE_LIMIT", "POSTFIX_MESSAGE_SIZE_LIMIT")
    snapshot = loaded(
        tmp_path,
        accounts="anna@example.org|{X}y\n",
        dovecot_quotas=f"bob@example.org:{'9' * 5000}\n",
        main=f"message_size_limit = {'9' * 5000}\n",
        env="".join(f"{name}={digits}\n" for name in names)
        + f"RELAY_HOST=relay.example\nRELAY_PORT={'9' * 5000}\nRELAY_USER={'9' * 5000}\nRELAY_PASSWORD=x\n",
    )
    assert snapshot.settings.limits.message_size == 10_240_000
    assert snapshot.routing.mailboxes["anna@example.org"].quota.limit == 0
    found = [(each.where, each.instead) for each in snapshot.findings if each.name == "environment-number"]
    assert found == [("dms.env:1", f"{names[0]}=0"), ("dms.env:2", f"{names[1]}=10240000")]
    assert {"main-line", "quota-unit", "relay-syntax"} <= {each.name for each in snapshot.findings}
