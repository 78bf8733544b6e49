"""Passwords and hashes are in no finding, wherever in a line they stand, and whatever is wrong there."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtproute.core.snapshot import Snapshot, carried
from smtproute.doctor import examine
from tests.config.folders import loaded

SECRET = "Pw7hunter2"
"""Findings may have it folded to lower case."""

ACCOUNTS = [
    f"anna@example.org|{{PLAIN}}{SECRET} # the boss",
    f"anna@example.org|{SECRET} {SECRET}",
    f"anna@example.org|{SECRET}",
    f"anna@example.org{{SHA512-CRYPT}}$6$x${SECRET}",
    f"anna@example.org{{PLAIN}}{SECRET}|userdb_quota_rule=*:bytes=1G",
    f"anna@example.org {{PLAIN}}{SECRET}",
    f"anna@example.org {SECRET}",
    f"anna@example.org\t{SECRET}|x",
    f"anna@example.org:{SECRET}",
    f"anna@example.org$6$x${SECRET}",
    f"anna:{SECRET}",
    f"anna {SECRET}",
    f"anna|{{PLAIN}}{SECRET}",
    f"{{PLAIN}}{SECRET}|anna@example.org",
    f" {{PLAIN}}{SECRET}",
    f"|{SECRET}|anna@example.org",
    f" anna@example.org|{SECRET}",
    f"anna@example.org |{SECRET}",
    f"ANNA@example.org|{SECRET}",
    f"anna@example.org||{SECRET}",
    f"anna@example.org|{{PLAIN}}\0{SECRET}",
    f"anna@example.org\0{SECRET}",
]
ENVIRONMENT = [
    f"RELAY_PASSWORD: {SECRET}",
    f"RELAY_PASSWORD:{SECRET}",
    f"RELAY_PASSWORD {SECRET}",
    f"export RELAY_PASSWORD={SECRET}",
    f"- RELAY_PASSWORD={SECRET}",
    f"  RELAY_PASSWORD : '{SECRET}'",
    f'RELAY_PASSWORD="{SECRET}" # x',
    f"RELAY_PASSWORD='{SECRET}",
    f"={SECRET}",
    f'"RELAY_PASSWORD={SECRET}"',
    f"RELAY_PASSWORD={SECRET}",
    f"RELAY_USER={SECRET}",
    f"SRS_SECRET={SECRET},{SECRET}",
    f"SRS_SECRET='{SECRET}' # x",
    f'LDAP_BIND_TOKEN="{SECRET}"',
    f"two words{SECRET}",
    f"{SECRET}'",
    f'RELAY_HOST="smtp://user:{SECRET}@relay.example"',
    f"DEFAULT_RELAY_HOST=user:{SECRET}@relay.example:587",
    f"DEFAULT_RELAY_HOST=[relay.example]:587 user:{SECRET}",
]
PASSWORDS = [
    f"user:{SECRET}",
    f"user:{SECRET}:",
    f"user:{SECRET} [relay.example]:587",
    f"user@example.org:{SECRET} x:y",
    f"anna@example.org user:{SECRET}",
    f"[relay.example]:587\nuser:{SECRET}",
    f"[relay.example]:587\n user:{SECRET}",
    f"[relay.example]:587 user {SECRET}",
    f"[relay.example]:587:{SECRET}",
    f"[relay.example]:{SECRET} x",
    f"[relay.example]|user:{SECRET}",
    f"[relay.example]{{PLAIN}}{SECRET} y",
    f"[relay.example]: user:{SECRET}",
    f'user:"{SECRET}',
    f'[relay.example]:587 "user:{SECRET}',
    f"[relay.example]:587 user:{SECRET}\n[relay.example]:587 other:{SECRET}",
    f"user:{SECRET} a:b\nuser:{SECRET} a:b",
    f"[relay.example]:587 user:\0{SECRET}",
    f"user:\0{SECRET}",
]
RELAYS = ["", "RELAY_HOST=relay.example\n", "DEFAULT_RELAY_HOST=[relay.example]:587\n"]


def said(snapshot: Snapshot) -> str:
    """Everything that is told about a configuration, at the start, by `check` and by a reload."""
    findings = (*snapshot.findings, *examine(snapshot), *carried(snapshot, snapshot).findings)
    endpoints = [each.fault for each in snapshot.settings.endpoints.values() if each.fault is not None]
    faults = [snapshot.routing.relays.fault, snapshot.routing.relays.credentials_fault]
    told = [str(each) + json.dumps(each.json()) for each in findings]
    return "\n".join([*told, *map(repr, endpoints), *faults]).lower()


def loaded_with(folder: Path, accounts: str, environment: str, passwords: str) -> Snapshot:
    return loaded(
        folder,
        accounts=f"anna@example.org|{{PLAIN}}x\n{accounts}\n",
        virtual="sales@example.org anna@example.org\nlost@example.org nobody\n",
        dovecot_quotas="carl@example.org:1M\n",
        relaymap="@example.org [relay.example]:587\n",
        sasl_password=f"{passwords}\n",
        env=f"{environment}\n",
    )


@pytest.mark.parametrize("relay", RELAYS)
@pytest.mark.parametrize(
    ("accounts", "environment", "passwords"),
    [
        *((line, "", "") for line in ACCOUNTS),
        *(("", line, "") for line in ENVIRONMENT),
        *(("", "", line) for line in PASSWORDS),
    ],
)
def test_no_finding_has_a_secret(accounts: str, environment: str, passwords: str, relay: str, tmp_path: Path) -> None:
    snapshot = loaded_with(tmp_path, accounts, relay + environment, passwords)
    assert SECRET.lower() not in said(snapshot)


marks = st.sampled_from(["|", ":", "{", "}", " ", "\t", "=", "#", '"', "'", "\\", "\n ", ",", "[", "]", "\0", "é"])
heads = st.sampled_from(
    ["anna@example.org", "@example.org", "RELAY_PASSWORD", "RELAY_USER", "[relay.example]:587", "x"]
)
lines = st.tuples(heads, st.lists(marks, max_size=2), st.sampled_from("|:{ \t"), st.lists(marks, max_size=3)).map(
    lambda parts: f"{parts[0]}{''.join(parts[1])}{parts[2]}{''.join(parts[3])}{SECRET}".replace("\n", "")
)


@settings(max_examples=60, deadline=None)
@given(accounts=lines, environment=lines, passwords=lines, relay=st.sampled_from(RELAYS))
def test_however_it_is_written(accounts: str, environment: str, passwords: str, relay: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        snapshot = loaded_with(Path(folder), accounts, relay + environment, passwords)
        assert SECRET.lower() not in said(snapshot)


def test_a_password_of_several_lines_from_a_file(tmp_path: Path) -> None:
    loaded(tmp_path, accounts="anna@example.org|{PLAIN}x\n")
    (tmp_path / "config" / "pw").write_text(f"one:{SECRET}\ntwo:{SECRET}\n{SECRET} x\n{SECRET}\n")
    names = ("RELAY_PASSWORD", "RELAY_USER")
    env = "RELAY_HOST=relay.example\n" + "".join(f"{name}__FILE=/tmp/docker-mailserver/pw\n" for name in names)
    assert SECRET.lower() not in said(loaded(tmp_path, env=env))
