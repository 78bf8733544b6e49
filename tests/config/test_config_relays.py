"""docker-mailserver's relay files: which next hop takes whose mail, and who logs in there."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtproute.config.docker_mailserver.relays import ReadRelays, read_relays
from smtproute.core.address import Address
from smtproute.core.docker_mailserver import Environment, Line
from smtproute.core.finding import Finding
from smtproute.core.relays import relay_for
from smtproute.core.settings import Discover, EndpointTls, Server
from tests.config.test_config_postmap import postmap

VHOST = ("domainone.tld", "domaintwo.tld", "domainthree.tld", "domain1.tld")
"""What the accounts and aliases of docker-mailserver's own relay test come to."""


def environment(**variables: str) -> Environment:
    lines = {name: Line(f"mailserver.env:{at}", name, value) for at, (name, value) in enumerate(variables.items(), 1)}
    return Environment(lines, written=True)


def read(
    relaymap: str | None = None,
    passwords: str | None = None,
    main: dict[str, str] | None = None,
    vhost: tuple[str, ...] = VHOST,
    **variables: str,
) -> ReadRelays:
    lines = {
        name: Line(f"postfix-main.cf:{at}", name, value) for at, (name, value) in enumerate((main or {}).items(), 1)
    }
    return read_relays(
        None if relaymap is None else relaymap.encode(),
        None if passwords is None else passwords.encode(),
        environment(**variables),
        vhost,
        lines,
    )


def sent(found: ReadRelays, sender: str | None) -> tuple[str, str, str] | None:
    """The next hop of this sender's mail to other places, the name that logs in there, and the rule."""
    relay = relay_for(found.relays, Address.parse(sender) if sender else None, [])
    if relay is None:
        return None
    endpoint = found.endpoints[relay[0]]
    return " ".join(map(str, endpoint.servers)), endpoint.username, relay[1]


def told(found: ReadRelays, name: str) -> list[Finding]:
    return [each for each in found.findings if each.name == name]


# docker-mailserver's own test of relays: one relay for all by RELAY_HOST, another for one domain, none for a third


def own_scenario(vhost: tuple[str, ...] = VHOST) -> ReadRelays:
    return read(
        "@domaintwo.tld\t\t[other.relay.com]:587\n@domainthree.tld\n",
        "@domaintwo.tld\t\tsmtp_user_2:smtp_password_2\n",
        RELAY_HOST="default.relay.com",
        RELAY_PORT="2525",
        RELAY_USER="smtp_user",
        RELAY_PASSWORD="smtp_password",
        vhost=vhost,
    )


@pytest.mark.parametrize("sender", ["user1@domainone.tld", "anyone@domain1.tld"])
def test_relay_host_takes_the_mail_of_accounts_and_aliases(sender: str) -> None:
    assert sent(own_scenario(), sender) == ("default.relay.com:2525", "smtp_user", "mailserver.env:1")


@pytest.mark.parametrize("domain", ["domainzero.tld", "domain2.tld"])
def test_relay_host_takes_the_mail_of_a_new_domain(domain: str) -> None:
    assert sent(own_scenario(), f"user@{domain}") is None
    found = own_scenario((*VHOST, domain))
    assert sent(found, f"user@{domain}") == ("default.relay.com:2525", "smtp_user", "mailserver.env:1")


def test_a_domain_has_its_own_relay_and_credentials() -> None:
    found = own_scenario()
    assert sent(found, "user2@domaintwo.tld") == ("other.relay.com:587", "smtp_user_2", "postfix-relaymap.cf:1")
    endpoint = found.endpoints["relay [other.relay.com]:587 as @domaintwo.tld"]
    assert (endpoint.password, endpoint.tls, endpoint.verify) == ("smtp_password_2", EndpointTls.REQUIRE, False)


def test_a_domain_opts_out() -> None:
    found = own_scenario()
    assert sent(found, "user3@domainthree.tld") is None
    assert found.findings == ()
    assert [(line.key, line.value) for line in found.relaymap] == [
        ("@domaintwo.tld", "[other.relay.com]:587"),
        ("@domainthree.tld", ""),
    ]


def test_default_relay_host_takes_all_mail_and_asks_for_mx() -> None:
    found = read(DEFAULT_RELAY_HOST="default.relay.host.invalid:25")
    for sender in ("user1@domainone.tld", "stranger@else.example", None):
        assert sent(found, sender) == ("default.relay.host.invalid:25", "", "mailserver.env:1")
    (endpoint,) = found.endpoints.values()
    assert (endpoint.discover, endpoint.tls) == (Discover.MX, EndpointTls.PREFER)


# Who is asked for


def test_the_sender_is_asked_for_before_its_domain() -> None:
    found = read("@domainone.tld [all.example]:25\nVIP@domainone.tld [vip.example]\n<> [null.example]:26\n")
    assert sent(found, "user@domainone.tld") == ("all.example:25", "", "postfix-relaymap.cf:1")
    assert sent(found, "vip@DOMAINONE.tld") == ("vip.example:25", "", "postfix-relaymap.cf:2")
    assert sent(found, "vip+news@domainone.tld") == ("vip.example:25", "", "postfix-relaymap.cf:2")
    assert sent(found, None) == ("null.example:26", "", "postfix-relaymap.cf:3")
    assert sent(found, "user@else.example") is None


def test_dunno_leaves_a_sender_to_the_relayhost() -> None:
    table = "@domainone.tld [one.example]:25\nvip@domainone.tld DUNNO\n"
    found = read(table, DEFAULT_RELAY_HOST="[all.example]:25")
    assert sent(found, "vip@domainone.tld") == ("all.example:25", "", "mailserver.env:1")
    assert sent(found, "a@domainone.tld") == ("one.example:25", "", "postfix-relaymap.cf:1")
    assert sent(read(table), "vip@domainone.tld") is None


def test_the_delimiter_is_that_of_postfix_main() -> None:
    table = "vip@domainone.tld [vip.example]:25\n"
    assert sent(read(table, main={"recipient_delimiter": "-"}), "vip+x@domainone.tld") is None
    assert sent(read(table, main={"recipient_delimiter": "-"}), "vip-x@domainone.tld") is not None


def test_postfix_main_has_the_last_word() -> None:
    found = read(DEFAULT_RELAY_HOST="[env.example]", main={"relayhost": "[main.example]:587"})
    assert sent(found, "a@b.example") == ("main.example:587", "", "postfix-main.cf:1")
    assert sent(read(DEFAULT_RELAY_HOST="[env.example]", main={"relayhost": ""}), "a@b.example") is None


def test_nothing_at_all() -> None:
    assert read() == ReadRelays(read().relays, {})
    assert sent(read(), "a@domainone.tld") is None


@pytest.mark.peer("postmap")
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["@a.x", "@b.x", "u@a.x", "[h.x]:25", "h.x", "#", " ", "\t", "\r", "\n", "\n", "\n"]),
        max_size=30,
    ).map("".join)
)
def test_the_table_is_the_one_that_postfix_reads(relaymap: str) -> None:
    copied = "\n".join(line for line in relaymap.split("\n") if re.match(r"\s*[^#\s]\S*\s+\S", line))
    queries = ["@a.x", "@b.x", "u@a.x", "h.x", "[h.x]:25"]
    answers, complaints = postmap("texthash", copied.encode(), queries)
    found = read(relaymap)
    assert bool(found.relays.fault) == ("duplicate entry" in complaints)
    assert {key: found.relays.by_sender[key].nexthop for key in queries if key in found.relays.by_sender} == answers


SENDERS = ["u@a.x", "v@a.x", "u@b.x", "u+d@a.x", "u", "@a.x", "@b.x", "<>"]


@given(
    st.lists(st.tuples(st.sampled_from(SENDERS), st.sampled_from(["[h.x]:25", "h.x", "h:x:1", "DUNNO"])), max_size=5),
    st.lists(st.sampled_from([*SENDERS, "h.x", "[h.x]:25"]), max_size=5),
    st.sampled_from(["", "[d.x]:25", "d:x:1"]),
)
def test_whatever_the_tables_say_each_sender_has_an_endpoint(
    relaymap: list[tuple[str, str]], passwords: list[str], default: str
) -> None:
    found = read(
        "".join(f"{key} {value}\n" for key, value in relaymap),
        "".join(f"{key} user:password\n" for key in passwords),
        DEFAULT_RELAY_HOST=default,
    )
    for sender in (None, *map(Address.parse, ("u@a.x", "v@a.x", "u@b.x", "u+d@a.x", "w@c.x"))):
        for own in (False, True):
            relay = relay_for(found.relays, sender, [], own)
            assert relay is None or found.endpoints[relay[0]].relay


# Next hops


@pytest.mark.parametrize(
    ("nexthop", "server", "discover"),
    [
        ("[smtp.example]:587", Server("smtp.example", 587), Discover.A),
        ("[smtp.example]", Server("smtp.example", 25), Discover.A),
        ("smtp.example:587", Server("smtp.example", 587), Discover.MX),
        ("smtp.example", Server("smtp.example", 25), Discover.MX),
        ("[smtp.example]:submission", Server("smtp.example", 587), Discover.A),
        ("[192.0.2.1]:25", Server("192.0.2.1", 25), Discover.A),
        ("192.0.2.1:26", Server("192.0.2.1", 26), Discover.MX),
        ("[2001:db8::1]:25", Server("2001:db8::1", 25), Discover.A),
        ("[IPv6:2001:db8::1]", Server("2001:db8::1", 25), Discover.A),
    ],
)
def test_next_hops(nexthop: str, server: Server, discover: Discover) -> None:
    found = read(f"@domainone.tld {nexthop}\n")
    (endpoint,) = found.endpoints.values()
    assert (endpoint.servers, endpoint.discover) == ((server,), discover)
    assert [each.name for each in found.findings] == (["relay-ip"] if server.host[0] in "12" else [])


def test_an_address_without_brackets_is_asked_for_its_mx() -> None:
    (finding,) = told(read("@domainone.tld 192.0.2.1:26\n"), "relay-ip")
    assert (finding.where, finding.instead) == ("postfix-relaymap.cf:1", "[192.0.2.1]:26")
    assert "without brackets" in finding.what


def test_several_next_hops_are_tried_in_turn() -> None:
    found = read("@domainone.tld [a.example]:587, [b.example] c.example\n")
    (endpoint,) = found.endpoints.values()
    assert endpoint.servers == (Server("a.example", 587), Server("b.example", 25))
    assert "c.example" in told(found, "relay-syntax")[0].what


@pytest.mark.parametrize(
    ("nexthop", "instead"),
    [
        ("smtp.example:587:1", "[smtp.example]:587"),
        ("[smtp.example:587", "[smtp.example]:587"),
        ("[smtp.example]587", "[smtp.example]:587"),
        ("smtp://smtp.example", "[smtp.example.org]:587"),
        ("[smtp.example]:99999", "[smtp.example]:99999"),
        ("2001:db8::1", "[smtp.example.org]:587"),
        ("$mydomain", "[smtp.example.org]:587"),
        ("# note", "[smtp.example.org]:587"),
    ],
)
def test_mail_for_a_malformed_next_hop_waits(nexthop: str, instead: str) -> None:
    found = read(f"@domainone.tld {nexthop}\n")
    relay = relay_for(found.relays, Address.parse("a@domainone.tld"), [])
    assert relay is not None
    fault = found.endpoints[relay[0]].fault
    assert fault is not None and fault.temporary
    assert (fault.says, fault.detail) == ("postfix-relaymap.cf:1", f'"{nexthop}" is no next hop')
    (finding,) = told(found, "relay-syntax")
    assert finding.where == "postfix-relaymap.cf:1"
    if instead != "[smtp.example]:99999":
        assert finding.instead == instead


def test_relay_host_is_always_put_into_brackets() -> None:
    assert sent(read(RELAY_HOST="smtp.example"), "a@domainone.tld") == ("smtp.example:25", "", "mailserver.env:1")
    for written in ("[smtp.example]", "smtp.example:587"):
        found = read(RELAY_HOST=written)
        assert all(endpoint.fault is not None for endpoint in found.endpoints.values())
        assert (len(found.endpoints), len(told(found, "relay-syntax"))) == (1, 1)


# Credentials


def test_credentials_by_sender_then_server_then_next_hop() -> None:
    found = read(
        "@domainone.tld [a.example]:587\n@domaintwo.tld [b.example]:587\n@domainthree.tld [c.example]:587\n",
        "@domainone.tld one:1\nvip@domainone.tld vip:2\nB.example two:3:4\n[c.example]:587 three\n[b.example]:587 n:1",
    )
    assert sent(found, "u@domainone.tld") == ("a.example:587", "one", "postfix-relaymap.cf:1")
    assert sent(found, "vip@domainone.tld") == ("a.example:587", "vip", "postfix-relaymap.cf:1")
    assert sent(found, "u@domaintwo.tld") == ("b.example:587", "two", "postfix-relaymap.cf:2")
    assert sent(found, "u@domainthree.tld") == ("c.example:587", "three", "postfix-relaymap.cf:3")
    assert found.endpoints["relay [b.example]:587"].password == "3:4"
    assert [each.where for each in told(found, "relay-credentials")] == ["postfix-sasl-password.cf:4"]  # no colon


def test_a_sender_with_credentials_logs_in_at_the_relayhost_too() -> None:
    found = read(passwords="@domainone.tld one:1\n", DEFAULT_RELAY_HOST="[all.example]:587")
    assert sent(found, "u@domainone.tld") == ("all.example:587", "one", "mailserver.env:1")
    assert sent(found, "u@domaintwo.tld") == ("all.example:587", "", "mailserver.env:1")


def test_any_credentials_force_tls_for_every_delivery() -> None:
    found = read("@domainone.tld [a.example]\n@domaintwo.tld [b.example]\n", "[a.example] u:p\n")
    assert {endpoint.tls for endpoint in found.endpoints.values()} == {EndpointTls.REQUIRE}
    assert not any(endpoint.verify for endpoint in found.endpoints.values())
    found = read("@domainone.tld [a.example]\n", "")
    assert {endpoint.tls for endpoint in found.endpoints.values()} == {EndpointTls.REQUIRE}


@pytest.mark.parametrize(
    ("main", "tls", "verify"),
    [
        ({"smtp_tls_security_level": "may"}, EndpointTls.PREFER, False),
        ({"smtp_tls_security_level": "none"}, EndpointTls.NEVER, False),
        ({"smtp_tls_security_level": "secure"}, EndpointTls.REQUIRE, True),
        ({"smtp_tls_wrappermode": "yes"}, EndpointTls.IMPLICIT, False),
    ],
)
def test_postfix_main_decides_on_tls(main: dict[str, str], tls: EndpointTls, verify: bool) -> None:
    found = read("@domainone.tld [a.example]:465\n", "[a.example]:465 u:p\n", main)
    (endpoint,) = found.endpoints.values()
    assert (endpoint.tls, endpoint.verify, endpoint.username) == (tls, verify, "u")
    assert bool(told(found, "relay-no-effect")) == (tls is not EndpointTls.IMPLICIT)


def test_postfix_main_may_turn_logins_off() -> None:
    found = read("@domainone.tld [a.example]\n", "[a.example] u:p\n", {"smtp_sasl_auth_enable": "no"})
    assert sent(found, "u@domainone.tld") == ("a.example:25", "", "postfix-relaymap.cf:1")


def test_a_secret_is_in_no_finding() -> None:
    texts = [
        "@domainone.tld hunter2",
        "  hunter2",
        "[x.example] u:hunter2",
        "[x.example] v:hunter2",
        "y.example: u:hunter2",
    ]
    found = read(
        "@domainone.tld [a.example]:587\n", "\n".join(texts), RELAY_USER="u", RELAY_PASSWORD="hunter2", RELAY_HOST="h"
    )
    assert len(found.findings) >= 4
    assert "hunter2" not in repr(found)


# Findings


def test_a_duplicate_key_defers_all_mail() -> None:
    found = read("@domainone.tld [a.example]\n@DomainOne.tld [b.example]\n")
    assert found.relays.fault == 'postfix-relaymap.cf: duplicate key "@domainone.tld" (lines 1 and 2)'
    (finding,) = told(found, "duplicate-key")
    assert (finding.where, "deferred" in finding.what) == ("postfix-relaymap.cf:2", True)


def test_the_scripts_make_a_duplicate_of_a_key_in_capitals() -> None:
    found = read("@DomainOne.tld [a.example]\n", RELAY_HOST="b.example")
    assert found.relays.fault
    (finding,) = told(found, "duplicate-key")
    assert (finding.where, "mailserver.env:1" in finding.what) == ("mailserver.env:1", True)


def test_duplicate_credentials_defer_the_mail_of_every_relay() -> None:
    relaymap = "@domainone.tld [a.example]\n@domaintwo.tld [b.example]\n"
    passwords = "@domaintwo.tld two:hunter2\n[a.example] u:hunter2\n[a.example] v:hunter3\n"
    found = read(relaymap, passwords)
    why = 'postfix-sasl-password.cf: duplicate key "[a.example]" (lines 2 and 3)'
    assert (found.relays.fault, found.relays.credentials_fault) == ("", why)
    assert {str(endpoint.fault) for endpoint in found.endpoints.values()} == {
        f"451 4.3.0 Temporary lookup failure: try again later (relay credentials: {why})"
    }
    assert set(found.endpoints) == set(read(relaymap, passwords.partition("[a.example] v")[0]).endpoints)
    (finding,) = told(found, "duplicate-key")
    assert (finding.where, "mail for every relay is deferred" in finding.what) == ("postfix-sasl-password.cf:3", True)
    assert "hunter" not in repr(found)


def test_duplicate_credentials_that_nobody_asks_for_change_nothing() -> None:
    passwords = "[a.example] u:p\n[a.example] v:q\n"
    assert read(passwords=passwords).relays.credentials_fault == ""
    found = read("@domainone.tld [a.example]\n", passwords, {"smtp_sasl_auth_enable": "no"})
    assert sent(found, "u@domainone.tld") == ("a.example:25", "", "postfix-relaymap.cf:1")
    assert [endpoint.fault for endpoint in found.endpoints.values()] == [None]


def test_a_last_line_that_does_not_end_swallows_the_first_entry_of_the_scripts() -> None:
    found = read("@domaintwo.tld [two.example]:587", RELAY_HOST="all.example", vhost=("domainone.tld", "domaintwo.tld"))
    assert sent(found, "u@domainone.tld") is None
    assert found.relays.by_sender["@domaintwo.tld"].nexthop == "[two.example]:587@domainone.tld    [all.example]:25"
    assert [each.where for each in told(found, "no-final-newline")] == ["postfix-relaymap.cf:1"]
    assert not told(read("@domaintwo.tld [two.example]:587"), "no-final-newline")


def test_a_dot_is_any_character_to_the_scripts() -> None:
    found = read("@domainXone.tld [x.example]\n", RELAY_HOST="all.example", vhost=("domain.one.tld", "domainXone.tld"))
    assert sent(found, "u@domain.one.tld") is None


def test_a_continuation_line_is_part_of_the_line_above() -> None:
    found = read("@domainone.tld [a.example]\n  @domaintwo.tld [b.example]\n")
    assert sent(found, "u@domaintwo.tld") is None
    assert [each.where for each in told(found, "continuation-line")] == ["postfix-relaymap.cf:2"]


@pytest.mark.parametrize(
    ("relaymap", "variables", "line", "word"),
    [
        ("@domainone.tld\n", {}, 1, "RELAY_HOST, which is not set"),
        ("@domainone.tld\n", {"DEFAULT_RELAY_HOST": "[a.example]"}, 1, "all the same"),
        ("@domainone.tld\n", {"DEFAULT_RELAY_HOST": "[a.example]", "RELAY_HOST": "b.example"}, 1, "[a.example] then"),
        ("@DOMAINONE.tld\n", {"RELAY_HOST": "b.example"}, 1, "has a relay all the same (mailserver.env:1)"),
        ("user@domainone.tld\n", {"RELAY_HOST": "b.example"}, 1, "Only whole domains"),
        ("domainone.tld [a.example]\n", {}, 1, "hardly ever asked for"),
        ("# c\n\n@else.tld [a.example]\n", {}, 3, "No account and no alias"),
        ("@domainone.tld [a.example]:465\n", {}, 1, "TLS from the first octet"),
        ("@domainone.tld [a.example]:smtps\n", {}, 1, "TLS from the first octet"),
    ],
)
def test_lines_that_can_have_no_effect(relaymap: str, variables: dict[str, str], line: int, word: str) -> None:
    (finding,) = told(read(relaymap, **variables), "relay-no-effect")
    assert finding.where == f"postfix-relaymap.cf:{line}"
    assert word in finding.what


@pytest.mark.parametrize(
    ("passwords", "instead"),
    [
        ("a.example:587 u:p\n", "[a.example]:587 user:password"),
        ("[a.example] u:p\n", "[a.example]:587 user:password"),
        ("[other.example]:587 u:p\n", "[a.example]:587 user:password"),
        ("@else.tld u:p\n", ""),
        ("@domaintwo.tld u:p\n", "@domaintwo.tld [smtp.example.org]:587 (in postfix-relaymap.cf)"),
    ],
)
def test_credentials_that_match_no_relay(passwords: str, instead: str) -> None:
    (finding,) = told(read("@domainone.tld [a.example]:587\n", passwords), "relay-credentials")
    assert (finding.where, finding.instead) == ("postfix-sasl-password.cf:1", instead)


@pytest.mark.parametrize(
    ("variables", "where"),
    [
        ({"RELAY_USER": "u", "RELAY_PASSWORD": "p"}, "mailserver.env:1"),
        ({"RELAY_HOST": "h.example", "RELAY_USER": "u"}, "mailserver.env:2"),
        ({"RELAY_HOST": "h.example", "RELAY_PASSWORD": "p"}, "mailserver.env:2"),
        (
            {"RELAY_HOST": "h.example", "DEFAULT_RELAY_HOST": "[d.example]", "RELAY_USER": "u", "RELAY_PASSWORD": "p"},
            "mailserver.env:3",
        ),
    ],
)
def test_variables_that_log_nobody_in(variables: dict[str, str], where: str) -> None:
    assert [each.where for each in told(read(**variables), "relay-credentials")] == [where]


def test_passwords_alone_are_never_read() -> None:
    found = read(passwords="# c\n[a.example] u:p\n")
    assert [each.where for each in told(found, "relay-credentials")] == ["postfix-sasl-password.cf:2"]


def test_tables_that_postfix_main_replaces_are_not_read() -> None:
    found = read("@domainone.tld [a.example]\n", main={"smtp_sasl_password_maps": "hash:/etc/x"})
    assert [each.where for each in told(found, "not-simulated")] == ["postfix-main.cf:1"]
