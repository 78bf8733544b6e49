"""docker-mailserver's own delivery scenarios, and the set-ups that its users ask for, on folders of our own."""

from __future__ import annotations

import pytest

from smtproute.core.outcome import Stage
from smtproute.smtp.client import Dialogue
from tests.e2e.conftest import DMS, LETTER, Client, Lab

ENVIRONMENT = ("OVERRIDE_HOSTNAME=mail.example.org", "POSTMASTER_ADDRESS=postmaster@home.example")

CONFIG = DMS.replace('"dms"', '"dms"\n    env = "mailserver.env"')

SUBMISSION = """
    [listener.submission]
    bind = "127.0.0.1:0"
    role = "submission"
    auth_in_clear = "loopback"
"""


def folder(lab: Lab, **files: str) -> None:
    """A configuration folder; `postfix_virtual="..."` is postfix-virtual.cf."""
    for name, text in files.items():
        lab.write(f"dms/{name.replace('_', '-')}.cf", text)


def environment(lab: Lab, *lines: str) -> None:
    lab.write("mailserver.env", "\n".join((*ENVIRONMENT, *lines, "")))


def refusal(dialogue: Dialogue) -> tuple[Stage, str]:
    (answer,) = dialogue.answers
    assert answer.reply is not None
    return answer.stage, f"{answer.reply.code} {answer.reply.enhanced}"


# smtp_delivery.bats


@pytest.fixture
def delivery(lab: Lab) -> Lab:
    folder(
        lab,
        postfix_accounts="""\
            user1@home.example|{PLAIN}secret
            user2@other.example|{PLAIN}secret
            """,
        postfix_virtual="""\
            alias1@home.example user1@home.example
            # a comment
                # and one that is indented
            alias2@home.example external1@far.example
            @second.example user1@home.example
            """,
        postfix_regexp="""\
            /^test[0-9][0-9]*@home\\.example$/ user1@home.example
            # a comment
            /^bounce.*@home\\.example$/ external1@far.example
            /^postmaster@/ user1@home.example
            """,
        postfix_main="""\
            recipient_delimiter = ~
            """,
    )
    environment(lab)
    return lab


@pytest.mark.parametrize(
    ("recipient", "mailbox"),
    [
        ("user1@home.example", "user1@home.example"),
        ("USER2@other.EXAMPLE", "user2@other.example"),
        ("alias1@home.example", "user1@home.example"),
        ("alias1~test@home.example", "user1@home.example"),
        ("wildcard@second.example", "user1@home.example"),
        ("test123@home.example", "user1@home.example"),
        ("root@mail.example.org", "user1@home.example"),
        ("postmaster@other.example", "user1@home.example"),
    ],
)
async def test_it_reaches_the_mailbox(delivery: Lab, recipient: str, mailbox: str) -> None:
    far = await delivery.upstream("mx.far.example")
    relay = await delivery.started(CONFIG.format(port=far.port))
    await delivery.delivered(relay, recipient)
    (kept,) = delivery.mailbox(mailbox)
    assert kept.endswith(b"\n\nHello.\n")
    assert far.received == []


async def test_a_detail_is_carried_over_to_the_alias_target(delivery: Lab) -> None:
    far = await delivery.upstream("mx.far.example")
    relay = await delivery.started(CONFIG.format(port=far.port))
    await delivery.delivered(relay, "alias1~test@home.example")
    (kept,) = delivery.mailbox("user1@home.example")
    assert b"Delivered-To: user1~test@home.example\n" in kept


@pytest.mark.parametrize("recipient", ["alias2@home.example", "bounce-always@home.example"])
async def test_it_is_redirected_to_the_external_alias(delivery: Lab, recipient: str) -> None:
    far = await delivery.upstream("mx.far.example")
    relay = await delivery.started(CONFIG.format(port=far.port))
    await delivery.delivered(relay, recipient)
    (received,) = far.received
    assert received.recipients == ("external1@far.example",)


@pytest.mark.parametrize("recipient", ["nouser@home.example", "nouser@mail.example.org", "user1+x@home.example"])
async def test_an_unknown_user_is_refused(delivery: Lab, recipient: str) -> None:
    relay = await delivery.started(CONFIG.format(port=25))
    assert refusal(await delivery.send(relay, recipient)) == (Stage.RCPT, "550 5.1.1")


# permit_docker.bats


@pytest.mark.parametrize(
    ("lines", "permitted"),
    [((), False), (("PERMIT_DOCKER=none",), False), (("PERMIT_DOCKER=network",), True)],
)
async def test_who_may_send_elsewhere_without_a_login(lab: Lab, lines: tuple[str, ...], permitted: bool) -> None:
    folder(lab, postfix_accounts="user1@home.example|{PLAIN}secret\n")
    environment(lab, *lines)
    relay = await lab.started(CONFIG.format(port=25))
    dialogue = await lab.send(relay, "someone@else.example")
    if permitted:
        assert dialogue.answers[0].stage is Stage.CONTENT
    else:
        assert refusal(dialogue) == (Stage.RCPT, "554 5.7.1")


# What users ask for


async def test_a_domain_of_aliases_only(lab: Lab) -> None:
    folder(lab, postfix_virtual="anna@forward.example anna@far.example\n@forward.example rest@far.example\n")
    environment(lab)
    far = await lab.upstream("mx.far.example")
    relay = await lab.started(CONFIG.format(port=far.port))
    await lab.delivered(relay, "anna@forward.example")
    await lab.delivered(relay, "whoever@forward.example")
    assert [received.recipients for received in far.received] == [("anna@far.example",), ("rest@far.example",)]


async def test_everything_for_a_domain_to_a_third_party(lab: Lab) -> None:
    """Each address keeps its local part under the domain at the provider, and its name here stays known."""
    folder(lab, postfix_virtual="@home.example @far.example\n")
    environment(lab)
    far = await lab.upstream("mx.far.example")
    relay = await lab.started(CONFIG.format(port=far.port))
    await lab.delivered(relay, "anna+list@home.example")
    (received,) = far.received
    assert received.recipients == ("anna+list@far.example",)


async def test_an_external_mailbox_sends_as_the_address_through_submission(lab: Lab) -> None:
    """The address is an alias to a mailbox elsewhere, and an account: its owner logs in with the account's password."""
    folder(
        lab,
        postfix_accounts="name@home.example|{PLAIN}secret\n",
        postfix_virtual="name@home.example me@far.example\n",
    )
    environment(lab, "SPOOF_PROTECTION=1")
    far = await lab.upstream("mx.far.example")
    folder(lab, postfix_relaymap=f"@home.example [mx.far.example]:{far.port}\n")
    relay = await lab.started(CONFIG.format(port=far.port) + SUBMISSION)
    client = await Client.connect(relay.addresses["submission"])
    assert (await client.say("EHLO laptop.example")).startswith("250")
    assert (await client.say("AUTH PLAIN AG5hbWVAaG9tZS5leGFtcGxlAHNlY3JldA==")).startswith("235 2.7.0 ")
    for line, reply in (
        ("MAIL FROM:<name@home.example>", "250 "),
        ("RCPT TO:<friend@else.example>", "250 "),
        ("DATA", "354 "),
    ):
        assert (await client.say(line)).startswith(reply)
    client.writer.write(LETTER + b".\r\n")
    assert (await client.reply()).startswith("250 2.0.0 ")
    (received,) = await far.wait(1)
    assert (received.reverse_path, received.recipients) == ("name@home.example", ("friend@else.example",))
    assert b" with ESMTPA id " in received.content

    # Mail to the address itself goes to the mailbox elsewhere; the local one stays empty.
    await lab.delivered(relay, "name@home.example", listener="mx")
    assert lab.mailbox("name@home.example") == []
    assert far.received[-1].recipients == ("me@far.example",)
    for sender in ("other@home.example", "name+x@home.example"):
        assert (await client.say(f"MAIL FROM:<{sender}>")).startswith("250 ")
        assert (await client.say("RCPT TO:<friend@else.example>")).startswith("553 5.7.1 ")
        assert (await client.say("RSET")).startswith("250 ")
