"""A docker-mailserver folder, read as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from smtproute.config import load
from smtproute.config.docker_mailserver.folder import accounts
from smtproute.core.aliases import PcreTable, TextTable
from smtproute.core.settings import ListenerTls, Role
from smtproute.core.snapshot import Snapshot


def loaded(folder: Path, text: str = "", **files: bytes) -> Snapshot:
    (folder / "config").mkdir()
    for name, octets in files.items():
        (folder / "config" / f"postfix-{name}.cf").write_bytes(octets)
    file = folder / "smtproute.toml"
    file.write_text(f'{text}\n[docker_mailserver]\nconfig = "config"\n')
    return load(str(file), {}, fqdn=lambda: "mail.example.org")


def test_accounts_grammar() -> None:
    mailboxes, warnings = accounts(
        "postfix-accounts.cf",
        b"# people\r\n"
        b"\r\n"
        b"  # more\n"
        b"Anna@Example.org|{SHA512-CRYPT}$6$x|userdb_quota_rule=*:bytes=1G\r\n"
        b"bob+x@example.org|{PLAIN}a|b|c\n"
        b"anna@example.org|{SHA512-CRYPT}$6$y\n"
        b"carl|{SHA512-CRYPT}x\n"
        b" dora@example.org|{SHA512-CRYPT}x\n"
        b"\xe4@example.org|{SHA512-CRYPT}x\n"
        b"emil@example.org\n"
        b"fred@m\xc3\xbcnchen.example|{SHA512-CRYPT}x",
    )
    assert {key: (str(mailbox.address), mailbox.rule) for key, mailbox in mailboxes.items()} == {
        "anna@example.org": ("Anna@Example.org", "postfix-accounts.cf:4"),
        "bob+x@example.org": ("bob+x@example.org", "postfix-accounts.cf:5"),
        "emil@example.org": ("emil@example.org", "postfix-accounts.cf:10"),
        "fred@xn--mnchen-3ya.example": ("fred@münchen.example", "postfix-accounts.cf:11"),
    }
    assert warnings == (
        "postfix-accounts.cf:6: anna@example.org is an account already (postfix-accounts.cf:4): the line is ignored",
        "postfix-accounts.cf:7: 'carl' is no address: it needs a local part, @ and a domain: the line is ignored. "
        "Write address|{SCHEME}hash",
        "postfix-accounts.cf:8: ' dora@example.org' is no address: its local part is malformed: the line is ignored. "
        "Write address|{SCHEME}hash",
        "postfix-accounts.cf:9: not UTF-8: the line is ignored",
        "postfix-accounts.cf:10: emil@example.org has no password hash: it gets mail, and nobody can log in",
    )


def test_the_whole_folder(tmp_path: Path) -> None:
    snapshot = loaded(
        tmp_path,
        'domains = ["example.net"]',
        accounts=b"anna@example.org|{X}y\n",
        virtual=b"# aliases\nsales@example.com anna@example.org\n@example.org anna@example.org\nroot x@y.example\n",
        regexp=b"/^support@example\\.info$/ anna@example.org\n/(/ x\n",
    )
    routing = snapshot.routing
    assert routing.local_domains == {
        "example.net": "domains[0]",
        "example.org": "postfix-accounts.cf:1",
        "example.com": "postfix-virtual.cf:2",
        "mail.example.org": "hostname",
        "localhost": "hostname",
    }
    text, pcre = routing.aliases.tables
    assert isinstance(text, TextTable)
    assert isinstance(pcre, PcreTable)
    assert (text.file, pcre.file) == ("postfix-virtual.cf", "postfix-regexp.cf")
    assert routing.aliases.origin.key == "mail.example.org"
    assert list(routing.mailboxes) == ["anna@example.org"]
    assert snapshot.warnings == (
        "postfix-regexp.cf:2: the pattern does not compile: missing closing parenthesis: the line is ignored",
    )
    (listener,) = snapshot.settings.listeners.values()
    assert (listener.name, listener.host, listener.port) == ("default", "127.0.0.1", 2525)
    assert (listener.role, listener.tls, listener.trusted_networks) == (Role.INBOUND, ListenerTls.NONE, ())


def test_a_hostname_that_is_a_mail_domain_is_named_by_the_file(tmp_path: Path) -> None:
    snapshot = loaded(tmp_path, accounts=b"anna@mail.example.org|{X}y\n")
    assert snapshot.routing.local_domains == {"mail.example.org": "postfix-accounts.cf:1", "localhost": "hostname"}


@pytest.mark.parametrize(
    ("present", "octets"), [("accounts", b"anna@example.org|{X}y\n"), ("virtual", b"anna@example.org x@y.example\n")]
)
def test_one_of_the_two_files_is_enough(tmp_path: Path, present: str, octets: bytes) -> None:
    snapshot = loaded(tmp_path, **{present: octets})
    assert "example.org" in snapshot.routing.local_domains
    assert [table.file for table in snapshot.routing.aliases.tables] == ["postfix-virtual.cf"] * (present == "virtual")


def test_a_duplicate_key_keeps_its_domain_local(tmp_path: Path) -> None:
    snapshot = loaded(tmp_path, virtual=b"a@example.org x@y.example\na@example.org z@y.example\n")
    assert snapshot.routing.local_domains["example.org"] == "postfix-virtual.cf:1"
    assert snapshot.routing.aliases.tables[0].fault == 'duplicate key "a@example.org" (lines 1 and 2)'
    assert snapshot.warnings[0].startswith("postfix-virtual.cf:2: ")


def test_delimiter_and_maildir_may_be_said_besides(tmp_path: Path) -> None:
    text = '[aliases]\nrecipient_delimiter = "-"\n[accounts]\nmaildir = "mail"'
    snapshot = loaded(tmp_path, text, accounts=b"anna@example.org|{X}y\n")
    assert snapshot.routing.aliases.delimiter == "-"
    assert snapshot.settings.accounts.maildir == f"{tmp_path}/mail"
