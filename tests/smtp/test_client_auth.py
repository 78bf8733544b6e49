"""The client logs in: with what, when, and what nobody gets to read."""

from __future__ import annotations

import ssl
from base64 import b64encode
from dataclasses import replace

import pytest
import trustme

from smtproute.core.address import Address
from smtproute.core.choice import Candidate
from smtproute.core.outcome import Answer, Judgement, Stage, judge
from smtproute.core.reply import Reply
from smtproute.core.settings import Endpoint, EndpointTls, Server, Source
from smtproute.core.transcript import Line
from smtproute.smtp.client import Dialogue, Mail
from smtproute.smtp.opening import TIMEOUTS, Timeouts, Unreachable
from smtproute.smtp.pool import NobodyReached, Pool
from smtproute.testing.upstream import Drop, Hang, Raw, Rule, Upstream, on
from smtproute.world import World

CONTENT = b"Subject: hello\r\n\r\nHello.\r\n"
MAIL = Mail(Address.parse("sender@here.test"), (Address.parse("a@there.test"),))
TAKEN = (Answer(Stage.CONTENT, Reply(250, "2.0.0", "Taken")),)
PASSWORD = "s3cret wörd"
USERS = {"app": PASSWORD, "other": "two", "long": "x" * 500}
LOGGED_IN = Endpoint("there", tls=EndpointTls.REQUIRE, verify=False, username="app", password=PASSWORD)


@pytest.fixture(scope="module")
def context() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("mx.test").configure_cert(made)
    return made


async def send(pool: Pool, upstream: Upstream, endpoint: Endpoint = LOGGED_IN) -> Dialogue:
    candidate = Candidate(Server("mx.test", upstream.port), "127.0.0.1", Source.STATIC)
    return (await pool.send(endpoint, [candidate], MAIL, CONTENT, 0.0)).dialogue


async def delivered(upstream: Upstream, endpoint: Endpoint = LOGGED_IN) -> Dialogue:
    pool = Pool("relay.test", World())
    try:
        return await send(pool, upstream, endpoint)
    finally:
        await pool.close()


async def refused(upstream: Upstream, endpoint: Endpoint = LOGGED_IN, timeouts: Timeouts = TIMEOUTS) -> Unreachable:
    pool = Pool("relay.test", World(), timeouts)
    with pytest.raises(NobodyReached) as raised:
        await send(pool, upstream, endpoint)
    assert not upstream.received
    assert not any(line.startswith("MAIL") for session in upstream.sessions for line in session.commands())
    ((_, unreachable),) = raised.value.unreached
    assert judge(unreachable.answer) is Judgement.NEXT_SERVER
    return unreachable


def texts(lines: tuple[Line, ...]) -> list[str]:
    return [line.text for line in lines]


def encoded(text: str) -> str:
    return b64encode(text.encode()).decode()


RESPONSES = (encoded(f"\0app\0{PASSWORD}"), encoded("app"), encoded(PASSWORD), PASSWORD)


async def test_plain_is_one_command_and_no_transcript_shows_it(context: ssl.SSLContext) -> None:
    async with Upstream(tls=context, users=USERS) as upstream:
        dialogue = await delivered(upstream)
    assert dialogue.answers == TAKEN
    assert upstream.received[0].login == "app"
    told = texts(dialogue.transcript)
    at = told.index("AUTH PLAIN [credentials]")
    assert told[at + 1] == "235 2.7.0 Welcome"
    assert told.index(f"TLS started: {dialogue.tls}") < at < told.index("MAIL FROM:<sender@here.test> SIZE=26")
    assert "AUTH PLAIN [credentials]" in upstream.sessions[0].commands()
    assert not any(secret in line for secret in RESPONSES for line in told)


async def test_login_where_there_is_no_plain(context: ssl.SSLContext) -> None:
    async with Upstream(tls=context, users=USERS, mechanisms="CRAM-MD5 LOGIN") as upstream:
        dialogue = await delivered(upstream)
    assert upstream.received[0].login == "app"
    told = texts(dialogue.transcript)
    at = told.index("AUTH LOGIN")
    assert told[at : at + 6] == [
        "AUTH LOGIN",
        "334 VXNlcm5hbWU6",
        "[credentials]",
        "334 UGFzc3dvcmQ6",
        "[credentials]",
        "235 2.7.0 Welcome",
    ]


async def test_a_response_too_long_for_a_command_goes_by_itself(context: ssl.SSLContext) -> None:
    async with Upstream(tls=context, users=USERS) as upstream:
        dialogue = await delivered(upstream, replace(LOGGED_IN, username="long", password=USERS["long"]))
    assert upstream.received[0].login == "long"
    assert "AUTH PLAIN" in upstream.sessions[0].commands()
    assert USERS["long"] not in str(dialogue.transcript)


@pytest.mark.parametrize("mode", [EndpointTls.PREFER, EndpointTls.IMPLICIT])
async def test_any_kind_of_tls_will_do(context: ssl.SSLContext, mode: EndpointTls) -> None:
    async with Upstream(tls=context, implicit=mode is EndpointTls.IMPLICIT, users=USERS) as upstream:
        assert (await delivered(upstream, replace(LOGGED_IN, tls=mode))).answers == TAKEN


@pytest.mark.parametrize("mode", [EndpointTls.NEVER, EndpointTls.PREFER])
async def test_credentials_are_not_sent_in_plain_text_not_even_to_loopback(mode: EndpointTls) -> None:
    async with Upstream(extensions=("AUTH PLAIN LOGIN",)) as upstream:
        failed = await refused(upstream, replace(LOGGED_IN, tls=mode))
        assert not any(line.startswith("AUTH") for line in upstream.sessions[0].commands())
    detail = "not logged in: there is no TLS, and credentials are not sent in plain text"
    assert failed.answer == Answer(Stage.AUTH, None, detail)
    assert failed.transcript[-1].text == detail


async def test_preferred_tls_that_fails_is_not_left_out_for_a_login(context: ssl.SSLContext) -> None:
    async with Upstream([on("STARTTLS", "454 4.7.0 Not now")], tls=context, users=USERS) as upstream:
        failed = await refused(upstream, replace(LOGGED_IN, tls=EndpointTls.PREFER))
        assert upstream.connections == 1
    assert failed.answer == Answer(Stage.STARTTLS, Reply(454, "4.7.0", "Not now"))


@pytest.mark.parametrize(
    ("mechanisms", "detail"),
    [
        (None, "not logged in: the server does not offer AUTH"),
        ("CRAM-MD5 XOAUTH2", "not logged in: the server offers neither PLAIN nor LOGIN but CRAM-MD5 XOAUTH2"),
        ("", "not logged in: the server offers neither PLAIN nor LOGIN but nothing"),
    ],
)
async def test_a_server_that_takes_no_login_of_ours(
    context: ssl.SSLContext, mechanisms: str | None, detail: str
) -> None:
    users = USERS if mechanisms is not None else None
    async with Upstream(tls=context, users=users, mechanisms=mechanisms or "") as upstream:
        assert (await refused(upstream)).answer == Answer(Stage.AUTH, None, detail)


@pytest.mark.parametrize("mechanisms", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("who", [("app", "wrong"), ("nobody", PASSWORD)])
async def test_a_wrong_login_concerns_the_server(
    context: ssl.SSLContext, mechanisms: str, who: tuple[str, str]
) -> None:
    async with Upstream(tls=context, users=USERS, mechanisms=mechanisms) as upstream:
        failed = await refused(upstream, replace(LOGGED_IN, username=who[0], password=who[1]))
    assert failed.answer == Answer(Stage.AUTH, Reply(535, "5.7.8", "No"))


@pytest.mark.parametrize(
    ("rule", "answer"),
    [
        (on("AUTH", "454 4.7.0 Later"), Answer(Stage.AUTH, Reply(454, "4.7.0", "Later"))),
        (on("AUTH", "421 4.3.2 Closing"), Answer(Stage.AUTH, Reply(421, "4.3.2", "Closing"))),
        (on("AUTH", Drop()), Answer(Stage.AUTH, None, "the server closed the connection")),
        (on("AUTH", Hang()), Answer(Stage.AUTH, None, "no answer within 0.2 s")),
        (
            on("AUTH", "334 "),
            Answer(Stage.AUTH, None, "not logged in: the server asks for more than username and password"),
        ),
    ],
    ids=["4yz", "421", "closes", "silent", "asks on"],
)
async def test_a_login_that_comes_to_nothing(context: ssl.SSLContext, rule: Rule, answer: Answer) -> None:
    timeouts = Timeouts(ehlo=0.2) if rule.actions == (Hang(),) else TIMEOUTS
    async with Upstream([rule], tls=context, users=USERS) as upstream:
        assert (await refused(upstream, timeouts=timeouts)).answer == answer


@pytest.mark.parametrize(
    "echo",
    [
        f"535 5.7.8 No such login: {RESPONSES[0]} ({PASSWORD})".encode() + b"\r\n",
        f"535-{RESPONSES[0]}\r\n535 {PASSWORD}".encode() + b"\r\n",
        f"AUTH PLAIN {RESPONSES[0]}?\r\n".encode(),
        f"{RESPONSES[0]}\r\n".encode(),
    ],
    ids=["one line", "two lines", "no reply", "nothing else"],
)
async def test_a_server_that_says_what_it_heard_tells_no_secret(context: ssl.SSLContext, echo: bytes) -> None:
    async with Upstream([on("AUTH", Raw(echo))], tls=context, users=USERS) as upstream:
        failed = await refused(upstream)
    told = " ".join((*texts(failed.transcript), str(failed.answer), str(failed)))
    assert not any(secret in told for secret in RESPONSES)
    assert told.count("[credentials]") > 1


async def test_half_a_line_tells_no_secret_either(context: ssl.SSLContext) -> None:
    echo = f"535 {RESPONSES[0][:20]}".encode()
    async with Upstream([on("AUTH", Raw(echo), Drop())], tls=context, users=USERS) as upstream:
        failed = await refused(upstream)
    assert RESPONSES[0][:20] not in " ".join((*texts(failed.transcript), str(failed.answer)))


async def test_a_password_of_digits_leaves_reply_codes_alone(context: ssl.SSLContext) -> None:
    async with Upstream(tls=context, users={"app": "2"}) as upstream:
        assert (await delivered(upstream, replace(LOGGED_IN, password="2"))).answers == TAKEN


async def test_other_credentials_are_another_connection(context: ssl.SSLContext) -> None:
    pool = Pool("relay.test", World())
    other = replace(LOGGED_IN, username="other", password="two")
    async with Upstream(tls=context, users=USERS) as upstream:
        for endpoint in (LOGGED_IN, other, LOGGED_IN, other):
            assert (await send(pool, upstream, endpoint)).answers == TAKEN
        assert [(received.connection, received.login) for received in upstream.received] == [
            (1, "app"),
            (2, "other"),
            (1, "app"),
            (2, "other"),
        ]
        await pool.close()


def test_nothing_prints_a_password() -> None:
    assert PASSWORD not in repr(LOGGED_IN)
