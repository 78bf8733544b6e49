"""Accounts, quotas, and what docker-mailserver makes of them for Dovecot."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtproute.config.docker_mailserver.accounts import read_accounts
from smtproute.config.docker_mailserver.quotas import ReadQuotas, octets_of, read_quotas
from smtproute.config.docker_mailserver.scripts import Grep
from smtproute.config.docker_mailserver.userdb import Userdb
from smtproute.config.docker_mailserver.virtual import read_virtual
from tests.config.folders import loaded, shown

ACCOUNTS = "postfix-accounts.cf"
QUOTAS = "dovecot-quotas.cf"


# Accounts


def test_accounts_grammar() -> None:
    read = read_accounts(
        ACCOUNTS,
        b"# people\r\n"
        b"\r\n"
        b"  # more\n"
        b"Anna@Example.org|{SHA512-CRYPT}$6$x|userdb_quota_rule=*:bytes=1G\r\n"
        b"bob+x@example.org|{PLAIN}a|b|c\n"
        b"Anna@Example.org|{SHA512-CRYPT}$6$y\n"
        b"carl|{SHA512-CRYPT}x\n"
        b"\xe4@example.org|{SHA512-CRYPT}x\n"
        b"emil@example.org\n"
        b"fred@m\xc3\xbcnchen.example|{SHA512-CRYPT}x",
        ReadQuotas(),
    )
    assert {key: (str(mailbox.address), mailbox.rule) for key, mailbox in read.mailboxes.items()} == {
        "anna@example.org": ("Anna@Example.org", "postfix-accounts.cf:4"),
        "bob+x@example.org": ("bob+x@example.org", "postfix-accounts.cf:5"),
        "emil@example.org": ("emil@example.org", "postfix-accounts.cf:9"),
        "fred@xn--mnchen-3ya.example": ("fred@münchen.example", "postfix-accounts.cf:10"),
    }
    assert read.mailboxes["anna@example.org"].quota.limit == 1 << 30
    assert [login.password for login in read.logins.values()] == [
        "{SHA512-CRYPT}$6$x",
        "{PLAIN}a",
        "",
        "{SHA512-CRYPT}x",
    ]
    assert read.domains == {
        "example.org": "postfix-accounts.cf:4",
        "carl": "postfix-accounts.cf:7",
        "xn--mnchen-3ya.example": "postfix-accounts.cf:10",
    }
    assert [(finding.name, finding.where) for finding in read.findings] == [
        ("account-twice", "postfix-accounts.cf:6"),
        ("account-line", "postfix-accounts.cf:7"),
        ("not-utf-8", "postfix-accounts.cf:8"),
        ("no-password", "postfix-accounts.cf:9"),
    ]


def test_white_space_belongs_to_the_name() -> None:
    read = read_accounts(ACCOUNTS, b" dora@example.org|{X}y\nemil@example.org |{X}y\n")
    assert read.mailboxes == read.logins == {}
    assert list(read.domains) == ["example.org"]
    assert shown(read.findings) == [
        ("leading-space", "postfix-accounts.cf:1", "dora@example.org|{SHA512-CRYPT}hash"),
        ("trailing-space", "postfix-accounts.cf:2", "emil@example.org|{SHA512-CRYPT}hash"),
    ]


def test_the_domain_is_the_second_field() -> None:
    assert list(read_accounts(ACCOUNTS, b"a@b.example@c.example|{X}y\n").domains) == ["b.example"]


def test_one_account_in_two_cases_breaks_the_table_of_mailboxes() -> None:
    read = read_accounts(ACCOUNTS, b"Anna@example.org|{X}y\nanna@example.org|{X}z\n")
    assert read.logins["anna@example.org"].password == "{X}y"
    assert shown(read.findings) == [("duplicate-key", "postfix-accounts.cf:2", "")]
    assert "451 4.3.0" in read.findings[0].what


def test_a_password_without_scheme_is_a_sha512_crypt_hash() -> None:
    """As in docker-mailserver's passdb."""
    read = read_accounts(ACCOUNTS, b"anna@example.org|$6$x$y\nbob@example.org|secret\ncarl@example.org| \n")
    assert [login.password for login in read.logins.values()] == ["$6$x$y", "secret", ""]
    assert shown(read.findings) == [
        ("no-scheme", "postfix-accounts.cf:2", "bob@example.org|{SHA512-CRYPT}hash"),
        ("no-password", "postfix-accounts.cf:3", "carl@example.org|{SHA512-CRYPT}hash"),
    ]


def test_an_inline_comment_spoils_the_password() -> None:
    read = read_accounts(ACCOUNTS, b"anna@example.org|{X}y # our boss\n")
    assert shown(read.findings) == [("inline-comment", "postfix-accounts.cf:1", "anna@example.org|{SHA512-CRYPT}hash")]


# Quotas


@pytest.mark.parametrize(
    ("written", "octets"),
    [
        ("0", 0),
        ("50", 50),
        ("50B", 50),
        ("50k", 51_200),
        ("10M", 10_485_760),
        ("20G", 21_474_836_480),
        ("1T", 1_099_511_627_776),
        ("5m", 5_242_880),
        ("5MB", 5_242_880),
    ],
)
def test_units(written: str, octets: int) -> None:
    assert octets_of(written) == octets


@pytest.mark.parametrize("written", ["", "M", "5W", "5 M", " 5M", "-5M", "5.5M", "five"])
def test_no_units(written: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        octets_of(written)


def test_quotas_grammar() -> None:
    read = read_quotas(
        QUOTAS,
        b"# limits\r\n"
        b"Anna@Example.org:5M\r\n"
        b"\n"
        b"bob@example.org:0\n"
        b"anna@example.org:6M\n"
        b"carl@example.org:5W\n"
        b"dora@example.org:5000\n"
        b"emil@example.org 5M\n"
        b"fred@example.org:5M:x\n",
    )
    assert {key: (quota.limit, quota.grace, quota.rule) for key, quota in read.quotas.items()} == {
        "anna@example.org": (5 << 20, 10, "dovecot-quotas.cf:2"),
        "bob@example.org": (0, 10, "dovecot-quotas.cf:4"),
        "dora@example.org": (5000, 10, "dovecot-quotas.cf:7"),
    }
    assert shown(read.findings) == [
        ("duplicate-key", "dovecot-quotas.cf:5", ""),
        ("quota-unit", "dovecot-quotas.cf:6", "carl@example.org:5G"),
        ("quota-unit", "dovecot-quotas.cf:7", "dora@example.org:5000M"),
        ("quota-line", "dovecot-quotas.cf:8", "emil@example.org:5G"),
        ("quota-line", "dovecot-quotas.cf:9", "fred@example.org:5G"),
    ]


def limits(folder: Path, **more: str) -> dict[str, int]:
    accounts = "anna@example.org|{X}y\nbob@example.org|{X}y|userdb_quota_rule=*:storage=2048\ncarl@example.org|{X}y\n"
    snapshot = loaded(folder, accounts=accounts, dovecot_quotas="carl@example.org:0\n", **more)
    return {key: mailbox.quota.limit for key, mailbox in snapshot.routing.mailboxes.items()}


def test_the_default_is_the_environments(tmp_path: Path) -> None:
    unlimited = {"anna@example.org": 0, "bob@example.org": 2 << 20, "carl@example.org": 0}
    assert limits(tmp_path) == unlimited
    # millions of octets, each an M of Dovecot's
    assert limits(tmp_path, env="POSTFIX_MAILBOX_SIZE_LIMIT=5242880\n") == {**unlimited, "anna@example.org": 5 << 20}
    assert limits(tmp_path, env="POSTFIX_MAILBOX_SIZE_LIMIT=999999\n") == unlimited


def test_quotas_can_be_off(tmp_path: Path) -> None:
    off = limits(tmp_path, env="ENABLE_QUOTAS=0\nPOSTFIX_MAILBOX_SIZE_LIMIT=5242880\n")
    assert off == dict.fromkeys(("anna@example.org", "bob@example.org", "carl@example.org"), 0)


def test_a_quota_for_no_account(tmp_path: Path) -> None:
    snapshot = loaded(
        tmp_path,
        accounts="anna@example.org|{X}y\n",
        virtual="info@example.org anna@example.org\n",
        dovecot_quotas="info@example.org:5M\n",
    )
    assert shown(snapshot.findings) == [("quota-no-account", "dovecot-quotas.cf:1", "")]


# Logins


@pytest.mark.parametrize("version", ["15", "16"])
def test_virtual_accounts_log_in_as_their_account(tmp_path: Path, version: str) -> None:
    """Of several targets since 16 the first counts that is an account; before, there is no virtual account (#4581)."""
    snapshot = loaded(
        tmp_path,
        keys=f'version = "{version}"',
        accounts="anna@example.org|{X}a\nbob@example.org|{X}b\n",
        virtual="several@example.org x@y.example, bob@example.org anna@example.org\n"
        "info@example.org Bob@example.org\n"
        "anna@example.org bob@example.org\n"
        "@example.com anna@example.org\n"
        "root anna@example.org\n"
        "far@example.org x@y.example\n",
    )
    several = {"several@example.org": ("bob@example.org", "{X}b", "postfix-virtual.cf:1")}
    assert {key: (str(login.account), login.password, login.rule) for key, login in snapshot.logins.items()} == {
        **(several if version == "16" else {}),
        "info@example.org": ("bob@example.org", "{X}b", "postfix-virtual.cf:2"),
        "anna@example.org": ("anna@example.org", "{X}a", "postfix-accounts.cf:1"),
        "bob@example.org": ("bob@example.org", "{X}b", "postfix-accounts.cf:2"),
    }
    assert [finding.name for finding in snapshot.findings] == ["userdb-case"]
    assert snapshot.folder is not None
    made = [line.name for line in snapshot.folder.userdb if line.rule.startswith("postfix-virtual.cf")]
    assert made == (
        ["several@example.org", "anna@example.org"] if version == "16" else ["anna@example.org", "@example.com"]
    )


def test_without_quotas_there_are_no_virtual_accounts(tmp_path: Path) -> None:
    snapshot = loaded(
        tmp_path,
        env="ENABLE_QUOTAS=0\n",
        accounts="anna@example.org|{X}a\n",
        virtual="info@example.org anna@example.org\n",
    )
    assert list(snapshot.logins) == ["anna@example.org"]
    assert snapshot.folder is not None
    assert [line.name for line in snapshot.folder.userdb] == ["anna@example.org"]


# Dovecot's users


def userdb(accounts: str, virtual: str = "", quotas: str = "", version: str = "15") -> Userdb:
    read = read_quotas(QUOTAS, quotas.encode())
    octets = accounts.encode()
    made = Userdb(
        read_accounts(ACCOUNTS, octets, read), ACCOUNTS, octets, read, (QUOTAS, quotas.encode()), version=version
    )
    made.add_accounts()
    made.add_virtual(read_virtual("postfix-virtual.cf", virtual.encode()).lines)
    return made


def test_the_list_of_docker_mailservers_own_test() -> None:
    """account_management.bats, since version 16 without the catch-all."""
    made = userdb(
        "# comment with user@mail.example\n"
        "user1@local.example|{X}1\nuser2@other.example|{X}2\nuser3@local.example|{X}3|userdb_mail=mbox:~/mail\n"
        "added@local.example|{X}4\n",
        "alias1@local.example user1@local.example\n"
        "alias2@local.example external1@far.example\n"
        "@domain2.example user1@local.example\n"
        "prefixtest@local.example user2@other.example\n"
        "test@local.example user2@other.example\n"
        "first-name@local.example user2@other.example\n"
        "first.name@local.example user2@other.example\n",
        version="16",
    )
    assert [(line.name, line.account, line.home) for line in made.lines] == [
        ("user1@local.example", "user1@local.example", "/var/mail/local.example/user1/home"),
        ("user2@other.example", "user2@other.example", "/var/mail/other.example/user2/home"),
        ("user3@local.example", "user3@local.example", "/var/mail/local.example/user3/home"),
        ("added@local.example", "added@local.example", "/var/mail/local.example/added/home"),
        ("alias1@local.example", "user1@local.example", "/var/mail/local.example/user1/home"),
        ("prefixtest@local.example", "user2@other.example", "/var/mail/other.example/user2/home"),
        ("test@local.example", "user2@other.example", "/var/mail/other.example/user2/home"),
        ("first-name@local.example", "user2@other.example", "/var/mail/other.example/user2/home"),
        ("first.name@local.example", "user2@other.example", "/var/mail/other.example/user2/home"),
    ]
    assert made.findings == []


def test_a_target_is_found_inside_another_account() -> None:
    made = userdb("auser3@d.example|{X}a\nuser3@d.example|{X}b\n", "info@d.example user3@d.example\n")
    assert (made.lines[2].account, made.lines[2].password) == ("auser3@d.example", "{X}a")
    assert made.lines[2].home == "/var/mail/d.example/user3/home"
    (finding,) = made.findings
    assert (finding.name, finding.where) == ("userdb-substring", "postfix-virtual.cf:1")
    assert "who has the password of auser3@d.example logs in as info@d.example too" in finding.what


def test_a_dot_stands_for_any_character() -> None:
    made = userdb("auser3@d.example|{X}a\na.ser3@d.example|{X}b\n", "info@d.example a.ser3@d.example\n")
    assert made.lines[2].account == "auser3@d.example"
    assert [finding.name for finding in made.findings] == ["userdb-substring"]


def test_case_counts_among_accounts() -> None:
    made = userdb("anna@d.example|{X}a\n", "info@d.example Anna@d.example\n")
    assert [line.name for line in made.lines] == ["anna@d.example"]
    assert shown(tuple(made.findings)) == [("userdb-case", "postfix-virtual.cf:1", "info@d.example anna@d.example")]


def test_the_first_target_that_is_found_counts() -> None:
    made = userdb(
        "anna@d.example|{X}a\nbob@d.example|{X}b\n",
        "info@d.example x@y.example,bob@d.example anna@d.example\n",
        version="16",
    )
    assert [(line.name, line.account) for line in made.lines][2:] == [("info@d.example", "bob@d.example")]
    assert made.findings == []


def test_before_16_several_targets_are_found_nowhere_and_a_catch_all_is_a_name() -> None:
    made = userdb("anna@d.example|{X}a\n", "both@d.example anna@d.example,x@y.example\n@c.example anna@d.example\n")
    assert [(line.name, line.account) for line in made.lines][1:] == [("@c.example", "anna@d.example")]
    assert made.findings == []


def test_before_16_no_target_is_found_in_the_first_line() -> None:
    accounts, virtual = "anna@d.example|{X}a\nbob@d.example|{X}b\n", "info@d.example\n"
    made = userdb(accounts, virtual)
    assert [(line.name, line.account) for line in made.lines][2:] == [("info@d.example", "anna@d.example")]
    (finding,) = made.findings
    assert (finding.name, finding.where) == ("userdb-substring", "postfix-virtual.cf:1")
    assert "who has the password of anna@d.example logs in as info@d.example too" in finding.what
    assert shown(tuple(userdb(f"# people\n{accounts}", virtual).findings)) == [
        ("userdb-panic", "postfix-virtual.cf:1", "")
    ]
    assert userdb(accounts, virtual, version="16").lines == made.lines[:2]


def test_a_target_in_a_line_without_password_stops_docker_mailserver() -> None:
    """The # of an inline comment is found in any comment of the accounts file."""
    made = userdb("# people\nanna@d.example|{X}a\n", "info@d.example x@y.example # elsewhere\n", version="16")
    assert [line.name for line in made.lines] == ["anna@d.example"]
    assert shown(tuple(made.findings)) == [("userdb-panic", "postfix-virtual.cf:1", "info@d.example x@y.example")]


def test_a_self_alias_adds_nothing_and_an_account_stands_before_an_alias_of_its_name() -> None:
    made = userdb(
        "anna@d.example|{X}a\nbob@d.example|{X}b\n",
        "anna@d.example anna@d.example,x@y.example\nbob@d.example anna@d.example\n",
    )
    assert [(line.name, line.account) for line in made.lines] == [
        ("anna@d.example", "anna@d.example"),
        ("bob@d.example", "bob@d.example"),
        ("bob@d.example", "anna@d.example"),
    ]


def test_a_quota_is_found_inside_another_line() -> None:
    made = userdb(
        "xbob@d.example|{X}a\nbob@d.example|{X}b\n",
        "info@d.example bob@d.example\n",
        "XBob@d.example:5M\nbob@d.example:1M\n",
    )
    assert [(line.name, line.quota) for line in made.lines] == [
        ("xbob@d.example", "5M"),
        ("bob@d.example", "5M"),
        ("info@d.example", "5M"),
    ]
    assert [(each.name, each.where, each.instead) for each in made.findings if each.name == "quota-substring"] == [
        ("quota-substring", "dovecot-quotas.cf:1", "bob@d.example:1M")
    ]


def test_a_quota_in_a_comment_counts() -> None:
    made = userdb("bob@d.example|{X}b\n", "", "# bob@d.example:5M\n")
    assert made.lines[0].quota == "5M"
    assert shown(tuple(made.findings)) == [("quota-substring", "dovecot-quotas.cf:1", "bob@d.example:0")]


def test_here_the_exact_quota_counts(tmp_path: Path) -> None:
    snapshot = loaded(
        tmp_path,
        accounts="xbob@example.org|{X}y\nbob@example.org|{X}y\n",
        dovecot_quotas="xbob@example.org:5M\n",
    )
    assert [mailbox.quota.limit for mailbox in snapshot.routing.mailboxes.values()] == [5 << 20, 0]
    assert shown(snapshot.findings) == [("quota-substring", "dovecot-quotas.cf:1", "bob@example.org:0")]


PATTERN = st.lists(st.sampled_from(["a", "b", "@", ".", "*", "^", "$", "d", "+"]), min_size=1, max_size=7).map("".join)
LINES = st.lists(st.text("abAB@.d+*#|\n ", max_size=12), max_size=4).map("\n".join)


@pytest.mark.peer("grep")
@settings(max_examples=150, deadline=None)
@example("a***d", "aad", False)
@given(PATTERN, LINES, st.booleans())
def test_grep_agrees(pattern: str, text: str, ignore_case: bool) -> None:
    ours = Grep(text.encode(), ignore_case=ignore_case).first(pattern)
    asked = subprocess.run(
        ["grep", "-n", "-m1", *(["-i"] if ignore_case else []), "-e", pattern],
        input=text.encode(),
        capture_output=True,
        timeout=20,
        env={**os.environ, "LC_ALL": "C"},
    )
    number, _, line = asked.stdout.decode().removesuffix("\n").partition(":")
    assert ours == ((int(number), line) if number else None)
