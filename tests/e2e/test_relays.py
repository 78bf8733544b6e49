"""docker-mailserver's relays, end to end: whose mail goes to which relay, and as whom (mail_with_relays.bats)."""

from __future__ import annotations

import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from smtproute.app import Relay
from smtproute.core.event import Event, Happening
from smtproute.spool.queue import Change
from smtproute.testing.upstream import Received, Rule, Upstream, on
from tests.e2e.conftest import LETTER, Lab
from tests.e2e.dovecot import PASSWORD, dovecot
from tests.e2e.test_docker_mailserver import environment, folder
from tests.oracle.postfix import Files, postfix

CONFIG = """
    default = {{ endpoint = "direct" }}
    [docker_mailserver]
    config = "dms"
    env = "mailserver.env"
    [listener.app]
    bind = "127.0.0.1:0"
    role = "trusted"
    [endpoint.direct]
    servers = ["direct.example:{direct}"]
"""
USERS = {"smtp_user": "smtp_password", "smtp_user_2": "smtp:password_2", "one": "first"}
FRIEND = "friend@else.example"
CERTIFIED = trustme.CA().issue_cert("another.name.example", "127.0.0.1", "::1")


def secured() -> ssl.SSLContext:
    """With a certificate that no client of ours has reason to trust: docker-mailserver's relays are not checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CERTIFIED.configure_cert(context)
    return context


async def provider(lab: Lab, host: str, *script: Rule) -> Upstream:
    """A relay that wants a login over TLS."""
    return await lab.upstream(host, script, tls=secured(), users=USERS)


async def sent(lab: Lab, relay: Relay, sender: str | None, where: Upstream) -> Received:
    """What arrives there of a message from this sender."""
    before = len(where.received)
    await lab.delivered(relay, FRIEND, sender=sender)
    (received,) = where.received[before:]
    assert received.content.endswith(LETTER)
    return received


def accounts(lab: Lab, *names: str) -> None:
    folder(lab, postfix_accounts="".join(f"{name}|{{PLAIN}}secret\n" for name in names))


async def deferred(lab: Lab, relay: Relay, sender: str) -> Event:
    message = await lab.accepted(relay, FRIEND, sender=sender)
    (event,) = await lab.journal.seen(Happening.DEFERRED, message)
    return event


async def test_a_domain_with_its_own_relay_an_opt_out_and_relay_host_for_the_others(lab: Lab) -> None:
    other = await provider(lab, "other.relay.example")
    common = await provider(lab, "default.relay.example")
    direct = await lab.upstream("direct.example")
    accounts(lab, "user1@one.example", "user2@two.example", "user3@three.example")
    folder(
        lab,
        postfix_virtual="@alias.example user1@one.example\n",
        postfix_relaymap=f"@two.example\t\t[other.relay.example]:{other.port}\n@three.example\n",
        postfix_sasl_password="@two.example\t\tsmtp_user_2:smtp:password_2\n",
    )
    environment(
        lab,
        "RELAY_HOST=default.relay.example",
        f"RELAY_PORT={common.port}",
        "RELAY_USER=smtp_user",
        "RELAY_PASSWORD=smtp_password",
    )
    relay = await lab.started(CONFIG.format(direct=direct.port))
    for sender, where, login in (
        ("user1@one.example", common, "smtp_user"),
        ("anybody@alias.example", common, "smtp_user"),
        ("user2@two.example", other, "smtp_user_2"),
        ("User2+x@Two.Example", other, "smtp_user_2"),
        ("user3@three.example", direct, ""),
        ("stranger@abroad.example", direct, ""),
        (None, direct, ""),
    ):
        received = await sent(lab, relay, sender, where)
        assert (received.login, bool(received.tls)) == (login, bool(login)), sender
    passwords = ("smtp_password", "smtp:password_2")
    assert not any(password in str(event.facts) for event in lab.journal.events for password in passwords)

    assert (await sent(lab, relay, "new@zero.example", direct)).login == ""
    accounts(lab, "user1@one.example", "user2@two.example", "user3@three.example", "new@zero.example")
    await relay.reload()
    assert (await sent(lab, relay, "new@zero.example", common)).login == "smtp_user"


async def test_mail_to_the_house_is_not_relayed(lab: Lab) -> None:
    common = await provider(lab, "default.relay.example")
    accounts(lab, "user1@one.example")
    folder(lab, postfix_virtual="out@one.example me@abroad.example\n")
    environment(lab, "RELAY_HOST=default.relay.example", f"RELAY_PORT={common.port}")
    relay = await lab.started(CONFIG.format(direct=1))
    await lab.delivered(relay, "user1@one.example", sender="user1@one.example")
    assert len(lab.mailbox("user1@one.example")) == 1
    # No credentials are known, so none are sent; the relay has its own mind about that.
    event = await deferred(lab, relay, "user1@one.example")
    assert "530 5.7.0 Log in first" in event.facts["detail"]
    assert common.received == []


async def test_default_relay_host_takes_all_that_has_no_relay(lab: Lab) -> None:
    """Without brackets, so its MX are asked."""
    other = await provider(lab, "other.relay.example")
    mx = await provider(lab, "mx1.relay.example")
    lab.zone.set("relay.example", "MX", ["20 backup.relay.example", "10 mx1.relay.example"])
    lab.zone.set("backup.relay.example", "A", ["127.0.0.9"])
    accounts(lab, "user1@one.example", "user2@two.example")
    folder(
        lab,
        postfix_relaymap=f"@two.example [other.relay.example]:{other.port}\n@one.example\n",
        postfix_sasl_password="@two.example smtp_user_2:smtp:password_2\n",
    )
    environment(
        lab, f"DEFAULT_RELAY_HOST=relay.example:{mx.port}", "RELAY_USER=smtp_user", "RELAY_PASSWORD=smtp_password"
    )
    relay = await lab.started(CONFIG.format(direct=1))
    assert (await sent(lab, relay, "user2@two.example", other)).login == "smtp_user_2"
    for sender in ("user1@one.example", "stranger@abroad.example", None):
        assert (await sent(lab, relay, sender, mx)).login == "smtp_user", sender
    assert {event.facts["server"] for event in lab.journal.of(Happening.ATTEMPT)} == {
        f"other.relay.example:{other.port}",
        f"mx1.relay.example:{mx.port}",
    }


async def test_credentials_by_sender_and_by_next_hop(lab: Lab) -> None:
    shared = await provider(lab, "shared.relay.example")
    accounts(lab, "boss@one.example", "user@one.example", "user@two.example")
    hop = f"[shared.relay.example]:{shared.port}"
    folder(
        lab,
        postfix_relaymap=f"@one.example {hop}\n@two.example {hop}\n",
        postfix_sasl_password=f"boss@one.example one:first\n@one.example smtp_user_2:smtp:password_2\n"
        f"{hop} smtp_user:smtp_password\n",
    )
    environment(lab)
    relay = await lab.started(CONFIG.format(direct=1))
    logins = {
        sender: (await sent(lab, relay, sender, shared)).login
        for sender in ("boss@one.example", "user@one.example", "user@two.example", "boss@one.example")
    }
    assert logins == {
        "boss@one.example": "one",
        "user@one.example": "smtp_user_2",
        "user@two.example": "smtp_user",
    }
    assert shared.connections == 3  # one for each login, kept for the next message of the same


@pytest.mark.parametrize("hop", ["[127.0.0.1]", "127.0.0.1", "[::1]"])
async def test_a_relay_that_is_an_ip_address(lab: Lab, hop: str) -> None:
    if hop == "[::1]" and not _ipv6():
        pytest.skip("no IPv6 here")
    far = await lab.stack.enter_async_context(Upstream(host=hop.strip("[]"), tls=secured(), users=USERS))
    accounts(lab, "user@one.example")
    folder(
        lab,
        postfix_relaymap=f"@one.example {hop}:{far.port}\n",
        postfix_sasl_password="@one.example smtp_user:smtp_password\n",
    )
    environment(lab)
    relay = await lab.started(CONFIG.format(direct=1))
    assert (await sent(lab, relay, "user@one.example", far)).login == "smtp_user"
    (attempt,) = lab.journal.of(Happening.ATTEMPT)
    assert (attempt.facts["ip"], attempt.facts["source"]) == (hop.strip("[]"), "written")


async def test_a_relay_without_tls_gets_no_credentials(lab: Lab) -> None:
    far = await lab.upstream("plain.relay.example", extensions=("PIPELINING", "AUTH PLAIN LOGIN"))
    accounts(lab, "user@one.example")
    folder(
        lab,
        postfix_relaymap=f"@one.example [plain.relay.example]:{far.port}\n",
        postfix_sasl_password="@one.example smtp_user:smtp_password\n",
        postfix_main="smtp_tls_security_level = may\n",
    )
    environment(lab)
    relay = await lab.started(CONFIG.format(direct=1))
    event = await deferred(lab, relay, "user@one.example")
    assert event.facts["reply"].startswith("451 4.4.1 ")
    assert "there is no TLS, and credentials are not sent in plain text" in event.facts["detail"]
    assert far.received == [] and far.sessions[0].commands() == ["EHLO mail.example.org"]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ((on("AUTH", "535 5.7.8 Authentication failed"),), "535 5.7.8 Authentication failed"),
        ((on("AUTH", "454 4.7.0 Temporary authentication failure"),), "454 4.7.0 Temporary authentication failure"),
    ],
)
async def test_a_refused_login_defers_and_says_so(lab: Lab, script: tuple[Rule, ...], why: str) -> None:
    far = await provider(lab, "far.relay.example", *script)
    accounts(lab, "user@one.example")
    folder(
        lab,
        postfix_relaymap=f"@one.example [far.relay.example]:{far.port}\n",
        postfix_sasl_password="@one.example smtp_user:smtp_password\n",
    )
    environment(lab)
    relay = await lab.started(CONFIG.format(direct=1))
    event = await deferred(lab, relay, "user@one.example")
    assert why in event.facts["detail"]
    assert far.received == []


def _ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


# Credentials that are there twice

RETRY = """
    [queue]
    retry = ["1s"]
"""


async def test_a_duplicate_key_among_the_credentials_at_start(lab: Lab) -> None:
    """Without a login it would not be tried: a relay may say "Relay access denied" to that, and the mail bounces."""
    far = await provider(lab, "far.relay.example")
    direct = await lab.upstream("direct.example")
    accounts(lab, "user@one.example", "user@two.example")
    hop = f"[far.relay.example]:{far.port}"
    good = "@one.example smtp_user:smtp_password\n"
    folder(lab, postfix_relaymap=f"@one.example {hop}\n", postfix_sasl_password=f"{good}{hop} a:b\n{hop} c:d\n")
    environment(lab)
    relay = await lab.started(CONFIG.format(direct=direct.port) + RETRY)

    message = await lab.accepted(relay, FRIEND, sender="user@one.example")
    (event,) = await lab.journal.seen(Happening.DEFERRED, message)
    assert event.facts["reply"] == "451 4.3.0 Temporary lookup failure: try again later"
    why = f'postfix-sasl-password.cf: duplicate key "{hop}" (lines 2 and 3)'
    assert event.facts["detail"] == why
    assert far.connections == 0
    await lab.delivered(relay, "user@two.example", sender="user@one.example")
    assert len(lab.mailbox("user@two.example")) == 1
    await sent(lab, relay, "user@two.example", direct)

    folder(lab, postfix_sasl_password=good)
    await relay.reload()
    (received,) = await far.wait(1)
    assert received.login == "smtp_user"
    await lab.journal.seen(Happening.DELIVERED, message)


@pytest.mark.parametrize("table", ["postfix_relaymap", "postfix_sasl_password"])
async def test_a_duplicate_key_at_a_reload_leaves_the_relays_as_they_were(lab: Lab, table: str) -> None:
    far = await provider(lab, "far.relay.example")
    accounts(lab, "user@one.example")
    hop = f"[far.relay.example]:{far.port}"
    files = {
        "postfix_relaymap": f"@one.example {hop}\n",
        "postfix_sasl_password": "@one.example smtp_user:smtp_password\n",
    }
    folder(lab, **files)
    environment(lab)
    relay = await lab.started(CONFIG.format(direct=1))
    before = relay.snapshot()

    broken = {"postfix_relaymap": f"{files['postfix_relaymap']}@new.example {hop}\n", table: files[table] * 2}
    folder(lab, **(files | broken))
    await relay.reload()
    name = f"{table.replace('_', '-')}.cf"
    kept = [each.facts["what"] for each in lab.journal.of(Happening.WARNING) if name in each.facts["what"]]
    assert any("the relays as they were stay in force" in each for each in kept)
    assert not any("deferred" in each or "451" in each for each in kept)
    assert relay.snapshot().routing.relays == before.routing.relays
    assert relay.snapshot().settings.endpoints == before.settings.endpoints
    assert (await sent(lab, relay, "user@one.example", far)).login == "smtp_user"

    folder(lab, **files, postfix_virtual="info@one.example user@one.example\n")
    await relay.reload()
    assert (await sent(lab, relay, "user@one.example", far)).login == "smtp_user"


# A next hop without brackets


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ({"MX": ["0 ."]}, "has a null MX"),
        ({}, "NXDOMAIN"),
        ({"MX": ["10 gone.example"]}, "gone.example: NXDOMAIN"),
    ],
    ids=["null MX", "no such domain", "no such exchanger"],
)
async def test_mail_waits_for_a_relay_that_takes_none(lab: Lab, records: dict[str, list[str]], words: str) -> None:
    """A typing error must not bounce mail: Postfix waits for a relayhost, with brackets and without."""
    for kind, values in records.items():
        lab.zone.set("relay.example", kind, values)
    accounts(lab, "user@one.example")
    folder(lab, postfix_relaymap="@one.example relay.example\n")
    environment(lab)
    relay = await lab.started(CONFIG.format(direct=1))
    event = await deferred(lab, relay, "user@one.example")
    assert event.facts["reply"].startswith("451 4.4.4 ")
    assert words in event.facts["detail"]


async def test_mail_for_a_relay_that_is_ourselves_comes_back(lab: Lab) -> None:
    """As in Postfix for the relay of a sender: waiting would not end the loop."""
    lab.zone.set("relay.example", "MX", ["10 mail.example.org", "20 other.example"])
    accounts(lab, "user@one.example")
    folder(lab, postfix_relaymap="@one.example relay.example\n")
    environment(lab)
    relay = await lab.started(CONFIG.format(direct=1))
    message = await lab.accepted(relay, FRIEND, sender="user@one.example")
    (failed,) = await lab.journal.seen(Happening.FAILED, message)
    assert failed.facts["reply"].startswith("554 5.4.6 ")
    assert failed.facts["detail"] == "mail.example.org is the best MX of relay.example"


async def test_mail_waits_for_a_next_hop_that_is_malformed(lab: Lab) -> None:
    accounts(lab, "user@one.example")
    folder(lab, postfix_relaymap="@one.example [relay.example\n")
    environment(lab)
    relay = await lab.started(CONFIG.format(direct=1))
    event = await deferred(lab, relay, "user@one.example")
    assert event.facts["reply"].startswith("451 4.3.5 ")
    assert (event.facts["says"], event.facts["detail"]) == ("postfix-relaymap.cf:1", '"[relay.example" is no next hop')


async def test_a_relay_without_mx_stands_for_itself(lab: Lab) -> None:
    far = await lab.upstream("relay.example")
    accounts(lab, "user@one.example")
    folder(lab, postfix_relaymap=f"@one.example relay.example:{far.port}\n")
    environment(lab)
    relay = await lab.started(CONFIG.format(direct=1))
    assert (await sent(lab, relay, "user@one.example", far)).reverse_path == "user@one.example"


async def test_of_several_relays_the_one_that_has_no_mx_takes_nothing_from_the_others(lab: Lab) -> None:
    far = await lab.upstream("relay.example")
    accounts(lab, "user@one.example")
    folder(lab, postfix_relaymap=f"@one.example nowhere.example:25, relay.example:{far.port}\n")
    environment(lab)
    relay = await lab.started(CONFIG.format(direct=1))
    assert (await sent(lab, relay, "user@one.example", far)).reverse_path == "user@one.example"


# A real relay


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that Postfix's user may pass through, which those of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="smtproute-relay.") as made:
        folder = Path(made).resolve()
        folder.chmod(0o711)
        yield folder


SASL = """
smtpd_sasl_path = {auth}
smtpd_sasl_mechanism_filter = {mechanism}
smtpd_tls_cert_file = {{config}}/certificate
smtpd_tls_key_file = {{config}}/certificate
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_recipient_restrictions = permit_sasl_authenticated, reject
"""


@pytest.mark.peer("postfix", "postconf", "dovecot")
@pytest.mark.skipif("os.geteuid() != 0", reason="Postfix's master starts as root only")
@pytest.mark.parametrize("mechanism", ["plain", "login"])
async def test_postfix_with_dovecot_behind_it(lab: Lab, place: Path, mechanism: str) -> None:
    accounts(lab, "user@one.example", "user@two.example")
    environment(lab)
    with dovecot({"customer": ""}) as logins:
        more = SASL.format(auth=logins.auth, mechanism=mechanism)
        certificate = CERTIFIED.private_key_and_cert_chain_pem.bytes().decode()
        with postfix(place / "postfix", Files(more=more, tables={"certificate": certificate})) as far:
            host, port = far.address
            lab.zone.set("real.relay.example", "A", [host])
            hop = f"[real.relay.example]:{port}"
            folder(
                lab,
                postfix_relaymap=f"@one.example {hop}\n@two.example {hop}\n",
                postfix_sasl_password=f"@one.example customer:{PASSWORD}\n@two.example customer:wrong\n",
            )
            relay = await lab.started(CONFIG.format(direct=1))
            await lab.delivered(relay, FRIEND, sender="user@one.example")
            assert any(f"sasl_method={mechanism.upper()}, sasl_username=customer" in line for line in far.log.lines)
            event = await deferred(lab, relay, "user@two.example")
            assert "535 5.7.8 " in event.facts["detail"]


async def test_mail_that_waits_for_a_mistyped_relay_goes_to_the_mended_one(lab: Lab) -> None:
    right = await lab.upstream("right.relay.example")
    direct = await lab.upstream("direct.example")
    accounts(lab, "user1@one.example")
    environment(lab)
    folder(lab, postfix_relaymap=f"@one.example [rihgt.relay.example]:{right.port}\n")
    relay = await lab.started(CONFIG.format(direct=direct.port))
    message = await lab.accepted(relay, FRIEND, sender="user1@one.example")
    await lab.journal.seen(Happening.DEFERRED, message)
    folder(lab, postfix_relaymap=f"@one.example [right.relay.example]:{right.port}\n")
    await relay.reload()
    await relay.spool.change(Change.RETRY, [message], lab.world.clock.now())
    await right.wait(1)
    assert direct.received == []
