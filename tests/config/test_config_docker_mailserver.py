"""A docker-mailserver folder, read as it is: what it all comes to, and where two readers differ about a line."""

from __future__ import annotations

import tempfile
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtproute.app import load as start
from smtproute.core.address import Address
from smtproute.core.aliases import Entry, PcreTable, TextTable, expand
from smtproute.core.finding import Severity
from smtproute.core.settings import ListenerTls, Role, SignBy
from smtproute.core.snapshot import Snapshot
from tests.config.folders import loaded, shown

ANNA = "anna@example.org|{X}y\n"


def becomes(snapshot: Snapshot, address: str) -> list[str]:
    return [str(final) for final in expand(snapshot.routing.aliases, Address.parse(address)).finals]


def test_the_whole_folder(tmp_path: Path) -> None:
    snapshot = loaded(
        tmp_path,
        'domains = ["example.net"]',
        accounts=ANNA,
        virtual="# aliases\nsales@example.com anna@example.org\n@example.org anna@example.org\nroot x@y.example\n",
        regexp="/^support@example\\.info$/ anna@example.org\n/(/ x\n",
        aliases="hostmaster: anna@example.org\n",
        dovecot_quotas="anna@example.org:5M\n",
    )
    routing = snapshot.routing
    assert routing.local_domains == {
        "example.net": "domains[0]",
        "example.org": "postfix-accounts.cf:1",
        "example.com": "postfix-virtual.cf:2",
        "mail.example.org": "hostname",
        "localhost": "hostname",
        "localhost.example.org": "hostname",
    }
    text, pcre = routing.aliases.tables
    assert isinstance(text, TextTable)
    assert isinstance(pcre, PcreTable)
    assert (text.file, pcre.file) == ("postfix-virtual.cf", "postfix-regexp.cf")
    assert (routing.aliases.origin.key, routing.aliases.alias_domains) == ("mail.example.org", None)
    names = {"mail.example.org", "localhost", "localhost.example.org"}
    assert routing.aliases.destinations == names | {"[127.0.0.1]", "[ipv6:::1]"}
    assert becomes(snapshot, "hostmaster@localhost") == ["anna@example.org"]
    assert becomes(snapshot, "root@localhost") == ["x@y.example"]
    assert list(routing.mailboxes) == ["anna@example.org"]
    assert (routing.mailboxes["anna@example.org"].quota.limit, str(routing.full)) == (
        5 << 20,
        "552 5.2.2 Mailbox is full",
    )
    assert shown(snapshot.findings) == [("pattern", "postfix-regexp.cf:2", "")]
    (listener,) = snapshot.settings.listeners.values()
    assert (listener.name, listener.host, listener.port) == ("default", "127.0.0.1", 2525)
    assert (listener.role, listener.tls, listener.trusted_networks) == (Role.INBOUND, ListenerTls.NONE, ())
    folder = snapshot.folder
    assert folder is not None
    assert (folder.version, folder.hostname, folder.domain) == ("15", "mail.example.org", "example.org")
    assert folder.environment.written is False
    assert folder.files == {
        "dovecot-quotas.cf",
        "postfix-accounts.cf",
        "postfix-aliases.cf",
        "postfix-regexp.cf",
        "postfix-virtual.cf",
    }


def test_a_hostname_that_is_a_mail_domain_is_named_by_the_file(tmp_path: Path) -> None:
    snapshot = loaded(tmp_path, accounts="anna@mail.example.org|{X}y\n")
    assert snapshot.routing.local_domains == {
        "mail.example.org": "postfix-accounts.cf:1",
        "localhost": "hostname",
        "localhost.example.org": "hostname",
    }


@pytest.mark.parametrize(("present", "octets"), [("accounts", ANNA), ("virtual", "anna@example.org x@y.example\n")])
def test_one_of_the_two_files_is_enough(tmp_path: Path, present: str, octets: str) -> None:
    snapshot = loaded(tmp_path, **{present: octets})
    assert "example.org" in snapshot.routing.local_domains
    assert [table.file for table in snapshot.routing.aliases.tables] == ["postfix-virtual.cf"] * (present == "virtual")


def test_delimiter_and_maildir_may_be_said_besides(tmp_path: Path) -> None:
    text = '[aliases]\nrecipient_delimiter = "-"\n[accounts]\nmaildir = "mail"'
    snapshot = loaded(tmp_path, text, accounts=ANNA, main="recipient_delimiter = _\n")
    assert snapshot.routing.aliases.delimiter == "-"
    assert snapshot.settings.accounts.maildir == f"{tmp_path}/mail"


@pytest.mark.parametrize(("over_quota", "code"), [("reject", 552), ("defer", 452)])
def test_what_a_full_mailbox_answers_may_be_said(tmp_path: Path, over_quota: str, code: int) -> None:
    snapshot = loaded(tmp_path, f'[accounts]\nover_quota = "{over_quota}"', accounts=ANNA)
    assert snapshot.routing.full.code == code


def test_version_and_paths(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/postmaster").write_text("boss@example.org\n")
    snapshot = loaded(
        tmp_path,
        keys='version = "16"\npaths = { "/run/secrets" = "secrets" }',
        env="POSTMASTER_ADDRESS__FILE=/run/secrets/postmaster\n",
        accounts=ANNA,
    )
    assert snapshot.folder is not None
    assert (snapshot.folder.version, snapshot.folder.postmaster) == ("16", "boss@example.org")
    assert becomes(snapshot, "root@mail.example.org") == ["boss@example.org"]


# Lines that Postfix and the scripts read differently


def test_leading_space_is_a_continuation_and_an_alias(tmp_path: Path) -> None:
    snapshot = loaded(
        tmp_path,
        accounts=ANNA,
        virtual="a@example.org anna@example.org\n  b@example.org c@example.net\n",
    )
    assert becomes(snapshot, "a@example.org") == ["anna@example.org", "b@example.org", "c@example.net"]
    assert becomes(snapshot, "b@example.org") == ["b@example.org"]
    assert shown(snapshot.findings) == [
        ("leading-space", "postfix-virtual.cf:2", "b@example.org c@example.net"),
    ]


def test_a_continued_target_makes_its_domain_local(tmp_path: Path) -> None:
    snapshot = loaded(tmp_path, accounts=ANNA, virtual="a@example.org\n   anna@example.org,\n  me@gmail.example\n")
    assert becomes(snapshot, "a@example.org") == ["anna@example.org", "me@gmail.example"]
    assert snapshot.routing.local_domains["gmail.example"] == "postfix-virtual.cf:3"
    same, foreign, *without = snapshot.findings
    assert (same.severity, same.instead) == (Severity.WARNING, "a@example.org anna@example.org")
    assert (foreign.severity, foreign.instead) == (Severity.ERROR, "a@example.org me@gmail.example")
    assert "make gmail.example a local domain, whose other addresses bounce" in foreign.what
    assert [(each.name, each.where) for each in without] == [
        ("userdb-substring", "postfix-virtual.cf:1"),
        ("userdb-substring", "postfix-virtual.cf:3"),
    ]
    assert "who has the password of anna@example.org logs in as me@gmail.example too" in without[1].what


def test_leading_space_in_the_first_line(tmp_path: Path) -> None:
    snapshot = loaded(tmp_path, accounts=ANNA, virtual=" a@example.com anna@example.org\n")
    assert becomes(snapshot, "a@example.com") == ["a@example.com"]
    assert snapshot.routing.local_domains["example.com"] == "postfix-virtual.cf:1"
    assert shown(snapshot.findings) == [
        ("leading-space", "postfix-virtual.cf:1", "a@example.com anna@example.org"),
    ]


def test_an_inline_comment_is_more_recipients(tmp_path: Path) -> None:
    snapshot = loaded(tmp_path, accounts=ANNA, virtual="a@example.org anna@example.org # our boss\n")
    host = "mail.example.org"
    assert becomes(snapshot, "a@example.org") == ["anna@example.org", f"#@{host}", f"our@{host}", f"boss@{host}"]
    (finding,) = snapshot.findings
    assert shown((finding,)) == [("inline-comment", "postfix-virtual.cf:1", "a@example.org anna@example.org")]
    assert "(#, our, boss)" in finding.what


def test_a_key_with_a_colon(tmp_path: Path) -> None:
    snapshot = loaded(tmp_path, accounts=ANNA, virtual="a@example.com: anna@example.org\n")
    assert becomes(snapshot, "a@example.com") == ["a@example.com"]
    assert "example.com" not in snapshot.routing.local_domains
    assert shown(snapshot.findings) == [
        ("key-with-colon", "postfix-virtual.cf:1", "a@example.com anna@example.org"),
    ]


def test_crlf(tmp_path: Path) -> None:
    snapshot = loaded(
        tmp_path, accounts="anna@example.org|{X}y\r\n", virtual="# aliases\na@example.com anna@example.org\r\n"
    )
    assert becomes(snapshot, "a@example.com") == ["anna@example.org"]
    assert snapshot.logins["anna@example.org"].password == "{X}y"
    assert shown(snapshot.findings) == [("crlf", "postfix-accounts.cf:1", ""), ("crlf", "postfix-virtual.cf:2", "")]


def test_no_final_newline(tmp_path: Path) -> None:
    snapshot = loaded(tmp_path, accounts="anna@example.org|{X}y", virtual="\na@example.com anna@example.org")
    assert becomes(snapshot, "a@example.com") == ["anna@example.org"]
    assert list(snapshot.routing.mailboxes) == ["anna@example.org"]
    assert shown(snapshot.findings) == [
        ("no-final-newline", "postfix-accounts.cf:1", ""),
        ("no-final-newline", "postfix-virtual.cf:2", ""),
    ]


def test_a_duplicate_key_keeps_its_domain_local(tmp_path: Path) -> None:
    snapshot = loaded(tmp_path, virtual="a@example.org x@y.example\nA@example.org z@y.example\n")
    assert snapshot.routing.local_domains["example.org"] == "postfix-virtual.cf:1"
    assert snapshot.routing.aliases.tables[0].fault == 'duplicate key "a@example.org" (lines 1 and 2)'
    assert shown(snapshot.findings) == [
        ("duplicate-key", "postfix-virtual.cf:2", "A@example.org x@y.example, z@y.example")
    ]


def test_a_key_of_one_word_makes_no_domain_local(tmp_path: Path) -> None:
    snapshot = loaded(tmp_path, virtual="root anna@example.org\nx@x anna@example.org\na@b@c.example d@e.example\n")
    # the second field that `cut -d @` finds, unless it is as the first
    own = {"mail.example.org", "localhost", "localhost.example.org"}
    assert set(snapshot.routing.local_domains) - own == {"b"}


# Local aliases


def test_local_aliases_stand_behind_docker_mailservers_own_line(tmp_path: Path) -> None:
    snapshot = loaded(
        tmp_path, accounts=ANNA, aliases="root: anna@example.org\nops: root\nabuse: ops, anna@example.org\n"
    )
    first, second = snapshot.routing.aliases.local
    assert (first.file, first.entries) == ("/etc/aliases", {"root": Entry(1, "postmaster@example.org")})
    assert second.entries["abuse"] == Entry(3, "ops, anna@example.org")
    assert becomes(snapshot, "ops@mail.example.org") == ["postmaster@example.org"]
    (finding,) = snapshot.findings
    assert shown((finding,)) == [("root-shadowed", "postfix-aliases.cf:1", "POSTMASTER_ADDRESS=anna@example.org")]


def test_the_root_alias_is_there_without_the_file(tmp_path: Path) -> None:
    snapshot = loaded(tmp_path, accounts=ANNA, env="POSTMASTER_ADDRESS=anna@example.org\n")
    assert becomes(snapshot, "root@mail.example.org") == ["anna@example.org"]


def test_virtual_aliases_in_the_file_of_local_ones(tmp_path: Path) -> None:
    text = "sales@example.org: anna@example.org\ninfo@example.org anna@example.org\nlonely\n"
    snapshot = loaded(tmp_path, accounts=ANNA, aliases=text)
    assert snapshot.routing.aliases.local[1].entries == {}
    assert shown(snapshot.findings) == [
        ("wrong-file", "postfix-aliases.cf:1", "sales@example.org anna@example.org (in postfix-virtual.cf)"),
        ("wrong-file", "postfix-aliases.cf:2", "info@example.org anna@example.org (in postfix-virtual.cf)"),
        ("alias-line", "postfix-aliases.cf:3", "lonely: anna@example.org"),
    ]


# Access lists


def test_access_lists(tmp_path: Path) -> None:
    snapshot = loaded(
        tmp_path,
        accounts=ANNA,
        send_access="Anna@example.org \t\t REJECT\n",
        receive_access="x@example.org FILTER smtp:[127.0.0.1]:10025\ny@example.org 550 5.1.1 gone\nz@example.org OK\n",
    )
    send, receive = snapshot.routing.send_access, snapshot.routing.receive_access
    assert send is not None and send.entries == {"anna@example.org": Entry(1, "REJECT")}
    assert receive is not None and list(receive.entries) == ["x@example.org", "y@example.org", "z@example.org"]
    assert shown(snapshot.findings) == [("not-simulated", "postfix-receive-access.cf:1", "x@example.org REJECT")]


def test_a_duplicate_key_in_an_access_list(tmp_path: Path) -> None:
    snapshot = loaded(tmp_path, accounts=ANNA, send_access="a@example.org REJECT\na@example.org OK\n")
    assert snapshot.routing.send_access is not None
    assert snapshot.routing.send_access.fault == 'duplicate key "a@example.org" (lines 1 and 2)'
    assert [(finding.name, finding.where) for finding in snapshot.findings] == [
        ("duplicate-key", "postfix-send-access.cf:2")
    ]


# Sealing


def test_the_folder_says_who_seals(tmp_path: Path) -> None:
    override = tmp_path / "config/rspamd/override.d"
    override.mkdir(parents=True)
    path = "/tmp/docker-mailserver/rspamd/dkim/key.txt"
    (override / "arc.conf").write_text(f'domain {{ example.org {{ path = "{path}"; selector = "mail"; }} }}\n')
    (tmp_path / "config/rspamd/dkim").mkdir()
    (tmp_path / "config/rspamd/dkim/key.txt").touch()
    arc = loaded(tmp_path, accounts=ANNA, env="ENABLE_RSPAMD=1\n").settings.arc
    assert (arc.sign, arc.keys["example.org"].file) == (SignBy.RECIPIENT, f"{tmp_path}/config/rspamd/dkim/key.txt")
    # a local domain without a key is no mistake here, and what is written goes before the folder
    accounts = ANNA + "bob@example.com|{X}y\n"
    assert list(loaded(tmp_path, accounts=accounts).settings.arc.keys) == ["example.org"]
    assert loaded(tmp_path, '[arc]\nsign = "off"', accounts=accounts).settings.arc.keys == {}
    assert loaded(tmp_path, '[arc]\nsign = "sender"', accounts=accounts).settings.arc.sign is SignBy.SENDER
    (tmp_path / "own.txt").touch()
    own = '[arc.keys."example.org"]\nselector = "own"\nfile = "own.txt"'
    assert loaded(tmp_path, own, accounts=ANNA).settings.arc.keys["example.org"].selector == "own"


def test_which_domain_was_registered(tmp_path: Path) -> None:
    """By the list of public suffixes, as rspamd's use_esld has it; "co.uk" is one, "abc.de" is none."""
    override = tmp_path / "config/rspamd/override.d"
    override.mkdir(parents=True)
    (override / "arc.conf").write_text('domain { mx.abc.de { path = "/tmp/docker-mailserver/key"; } }\n')
    folder = loaded(tmp_path, accounts="anna@mx.example.co.uk|{X}y\n").folder
    assert folder is not None and folder.arc is not None
    asked = {each: folder.arc.asked(each) for each in ("mx.abc.de", "mx.example.co.uk", "mail.example.org", "co.uk")}
    assert list(asked.values()) == ["abc.de", "example.co.uk", "example.org", "co.uk"]
    (override / "arc.conf").write_text("use_esld = false;\n")
    folder = loaded(tmp_path).folder
    assert folder is not None and folder.arc is not None
    assert folder.arc.asked("mx.example.co.uk") == "mx.example.co.uk"


def test_a_key_of_the_folder_that_cannot_be_used_is_as_good_as_none(tmp_path: Path) -> None:
    override = tmp_path / "config/rspamd/override.d"
    override.mkdir(parents=True)
    path = "/tmp/docker-mailserver/rspamd/dkim/key.txt"
    (override / "arc.conf").write_text(f'domain {{ example.org {{ path = "{path}"; selector = "mail"; }} }}\n')
    for _ in ("there is none", "it is damaged"):
        started = start(lambda: loaded(tmp_path, accounts=ANNA))
        assert started.keys == started.snapshot.settings.arc.keys == {}
        assert started.snapshot.settings.arc.sign is SignBy.RECIPIENT
        (tmp_path / "config/rspamd/dkim").mkdir(exist_ok=True)
        (tmp_path / "config/rspamd/dkim/key.txt").write_text("-----BEGIN\n")


# Relays


def test_relays_become_endpoints(tmp_path: Path) -> None:
    snapshot = loaded(
        tmp_path, accounts=ANNA, relaymap="@example.org [relay.example]:587\n", main="recipient_delimiter = -\n"
    )
    assert snapshot.routing.relays.by_sender["@example.org"].nexthop == "[relay.example]:587"
    assert [str(server) for server in snapshot.settings.endpoints["relay [relay.example]:587"].servers] == [
        "relay.example:587"
    ]
    assert snapshot.routing.relays.delimiter == "-"


# What is not simulated


def test_files_that_are_not_simulated(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    for name in (
        "user-patches.sh",
        "dovecot.cf",
        "anna@example.org.dovecot.sieve",
        "postfix-master.cf",
        "ldap-users.cf",
    ):
        (tmp_path / "config" / name).touch()
    snapshot = loaded(tmp_path, accounts=ANNA)
    assert {finding.name for finding in snapshot.findings} == {"not-simulated"}
    assert {finding.severity for finding in snapshot.findings} == {Severity.WARNING}
    assert [finding.where for finding in snapshot.findings] == [
        "user-patches.sh",
        "dovecot.cf",
        "postfix-master.cf",
        "ldap-users.cf",
        "anna@example.org.dovecot.sieve",
    ]


SYNTAX = st.text("a@b.|:=#,/$(){}[]\\\"' \t\n\r\0ä0M+-", max_size=40).map(str.encode)
FILES = [
    "accounts",
    "virtual",
    "regexp",
    "aliases",
    "main",
    "relaymap",
    "sasl_password",
    "send_access",
    "receive_access",
]


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from([*FILES, "dovecot_quotas"]), st.binary(max_size=40) | SYNTAX, max_size=4), SYNTAX
)
def test_whatever_the_files_hold_the_folder_is_read(files: dict[str, bytes], env: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "dms.env").write_bytes(env)
        snapshot = loaded(Path(folder), keys='env = "dms.env"', **{"accounts": b"", **files})
    assert all("\n" not in f"{finding.where}{finding.what}" for finding in snapshot.findings)


def test_a_big_folder_is_read_as_a_small_one(tmp_path: Path) -> None:
    """Twenty thousand aliases are looked for among five thousand accounts."""
    accounts = "".join(f"user{number}.x@d{number % 50}.example|{{X}}y\n" for number in range(5000))
    virtual = "".join(f"a{number}@d1.example user{number}.x@d{number % 50}.example\n" for number in range(20000))
    folder = loaded(tmp_path, accounts=accounts, virtual=virtual).folder
    assert folder is not None
    assert len(folder.userdb) == 10000
    assert folder.userdb[-1].account == "user4999.x@d49.example"


def test_networks_of_inbound_listeners(tmp_path: Path) -> None:
    text = """
        [listener.mx]
        bind = "127.0.0.1:0"
        role = "inbound"
        [listener.own]
        bind = "127.0.0.1:0"
        role = "inbound"
        trusted_networks = []
        [listener.submission]
        bind = "127.0.0.1:0"
        role = "submission"
        auth_in_clear = "loopback"
    """
    listeners = loaded(tmp_path, text, env="PERMIT_DOCKER=network\n", accounts=ANNA).settings.listeners
    assert listeners["mx"].trusted_networks == (
        ip_network("127.0.0.0/8"),
        ip_network("::1/128"),
        ip_network("fe80::/64"),
        ip_network("172.16.0.0/12"),
    )
    assert listeners["own"].trusted_networks == listeners["submission"].trusted_networks == ()
