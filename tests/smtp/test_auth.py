"""AUTH line by line (RFC 4954): where it may be said, what comes of it, and that nobody reads a password again."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from recording import LOCAL, House, Peer, codes, connected, greeted, listening, on_both_loops

from smtproute.core.address import Address
from smtproute.core.event import Happening
from smtproute.core.permit import admits, logs_in, trusts
from smtproute.core.reply import Reply
from smtproute.core.settings import Auth, AuthInClear, Limits, ListenerTls, Role
from smtproute.core.settings import Listener as Settings

NAME, PASSWORD = "name@example.org", "s3cr3t w0rd"
MAIL, RCPT = "MAIL FROM:<name@example.org>", "RCPT TO:<c@d.example>"
CLEAR = Settings("out", port=0, role=Role.SUBMISSION, auth_in_clear=AuthInClear.LOOPBACK)


def b64(text: str) -> str:
    return b64encode(text.encode()).decode()


PLAIN = f"AUTH PLAIN {b64(f'{chr(0)}{NAME}{chr(0)}{PASSWORD}')}"
WRONG = f"AUTH PLAIN {b64(f'{chr(0)}{NAME}{chr(0)}wr0ng')}"
SECRETS = (PASSWORD, b64(PASSWORD), PLAIN.split()[2], "wr0ng", WRONG.split()[2], b64("wr0ng"))


def house() -> House:
    return House(passwords={NAME: PASSWORD.encode()})


@pytest.fixture(scope="module")
def secure(pem: str) -> Settings:
    return replace(CLEAR, auth_in_clear=AuthInClear.NEVER, tls=ListenerTls.STARTTLS, certificate=pem)


async def encrypted(peer: Peer, context: ssl.SSLContext) -> None:
    """STARTTLS, the handshake, EHLO."""
    assert (await peer.say("STARTTLS")).code == 220
    await peer.writer.start_tls(context, server_hostname="localhost")
    assert (await peer.say("EHLO client.example")).code == 250


@asynccontextmanager
async def submitting(house: House, limits: Limits | None = None) -> AsyncIterator[Peer]:
    async with listening(house, CLEAR, limits) as listener, greeted(listener) as peer:
        yield peer


def written(house: House) -> str:
    """Everything that is kept of what was said."""
    return str(house.events) + str(house.calls) + "".join(str(taken.transcript) for taken in house.taken)


async def letter(peer: Peer) -> Reply:
    assert (await peer.say(MAIL, RCPT, "DATA")).code == 354
    await peer.send(b"hello\r\n.\r\n")
    return await peer.reply()


@on_both_loops
async def test_under_tls(secure: Settings, context: ssl.SSLContext) -> None:
    mine = house()
    async with listening(mine, secure) as listener, greeted(listener) as peer:
        offered = (await peer.say("EHLO client.example")).text.split("\n")
        assert "STARTTLS" in offered and not [line for line in offered if line.startswith("AUTH")]
        first = Reply(530, "5.7.0", "Must issue a STARTTLS command first")
        assert await peer.say(PLAIN) == await peer.say("AUTH LOGIN") == await peer.say(MAIL) == first
        assert "AUTH" not in (await peer.say("HELP")).text
        await encrypted(peer, context)
        offered = (await peer.say("EHLO client.example")).text.split("\n")
        assert "AUTH PLAIN LOGIN" in offered and "STARTTLS" not in offered
        assert "STARTTLS" not in (await peer.say("HELP")).text and "AUTH" in (await peer.say("HELP")).text
        assert await peer.say(MAIL) == Reply(530, "5.7.0", "Authentication required: send AUTH first")
        assert await peer.say(PLAIN) == Reply(235, "2.7.0", "Authentication successful")
        assert "AUTH" not in (await peer.say("EHLO client.example")).text, "it may be said once"
        assert (await letter(peer)).code == 250
        again = await peer.say(PLAIN)
        assert (again.code, again.enhanced) == (503, "5.5.1")
        assert (await letter(peer)).code == 250
    assert mine.logins == [(NAME, PASSWORD.encode())]
    for taken in mine.taken:
        assert taken.envelope.client.login == Address.parse(NAME) and not taken.envelope.client.trusted
        said = [f"{line.arrow} {line.text}" for line in taken.transcript]
        assert said.count("<~ AUTH PLAIN [credentials]") == said.count("~> 235 2.7.0 Authentication successful") == 1
    assert not [secret for secret in SECRETS if secret in written(mine)]


ANY = Settings("tests", port=0, auth=Auth.ANY, trusted_networks=LOCAL)


@pytest.mark.parametrize("role", [Role.TRUSTED, Role.SUBMISSION])
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
async def test_any_login_is_good(role: Role, tls: bool, secure: Settings, context: ssl.SSLContext) -> None:
    mine = house()
    settings = replace(ANY, role=role, tls=ListenerTls.STARTTLS, certificate=secure.certificate)
    async with listening(mine, settings) as listener, greeted(listener) as peer:
        if tls:
            await encrypted(peer, context)
        assert "AUTH PLAIN LOGIN" in (await peer.say("EHLO client.example")).text.split("\n")
        assert "AUTH" in (await peer.say("HELP")).text
        assert (await peer.say(WRONG)) == Reply(235, "2.7.0", "Authentication successful")
        assert "AUTH" not in (await peer.say("EHLO client.example")).text, "it may be said once"
        assert (await peer.say("AUTH LOGIN")).code == 503
        assert (await letter(peer)).code == 250
    client = mine.taken[0].envelope.client
    assert (client.named, client.login, client.trusted) == (NAME, None, True)
    assert not mine.logins, "nobody's password is checked"
    said = [f"{line.arrow} {line.text}" for line in mine.taken[0].transcript]
    assert f"<{'~' if tls else '-'} AUTH PLAIN [credentials]" in said
    assert not [secret for secret in SECRETS if secret in written(mine)]


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["AUTH LOGIN", b64("apikey"), b64(PASSWORD)], "apikey"),
        (["AUTH PLAIN", b64(f"{chr(0)}no address{chr(0)}{PASSWORD}")], "no address"),
        (["AUTH LOGIN", "", b64(PASSWORD)], ""),
        (["AUTH LOGIN", b64(PASSWORD), b64(PASSWORD)], "[credentials]"),
        (["AUTH LOGIN", b64("n" * 300), ""], "n" * 255),
        (["AUTH LOGIN", "/w==", b64(PASSWORD)], r"\xff"),
    ],
    ids=["a word", "plain", "no name", "a token twice", "long", "no text"],
)
async def test_what_a_client_calls_itself_is_noted_where_any_login_is_good(lines: list[str], named: str) -> None:
    mine = house()
    async with listening(mine, ANY) as listener, greeted(listener) as peer:
        assert (await peer.say(*lines)).code == 235
        assert (await letter(peer)).code == 250
    assert mine.taken[0].envelope.client.named == named
    assert not [secret for secret in SECRETS if secret in written(mine) + str(mine.taken)]


async def test_where_any_login_is_good_submission_still_wants_one() -> None:
    mine = house()
    async with listening(mine, replace(ANY, role=Role.SUBMISSION)) as listener, greeted(listener) as peer:
        assert await peer.say(MAIL) == Reply(530, "5.7.0", "Authentication required: send AUTH first")
        assert (await peer.say("AUTH PLAIN", "*")).code == 501
        assert (await peer.say("AUTH CRAM-MD5")).code == 504
        assert (await peer.say(MAIL)).code == 530
    async with listening(mine, ANY) as listener, greeted(listener) as peer:
        assert (await peer.say(MAIL)).code == 250, "a trusted listener wants none"


async def test_starttls_forgets_what_a_client_called_itself(secure: Settings, context: ssl.SSLContext) -> None:
    mine = house()
    settings = replace(ANY, role=Role.SUBMISSION, tls=ListenerTls.STARTTLS, certificate=secure.certificate)
    async with listening(mine, settings) as listener, greeted(listener) as peer:
        assert (await peer.say(PLAIN)).code == 235
        await encrypted(peer, context)
        assert (await peer.say(MAIL)).code == 530


@pytest.mark.parametrize("role", [Role.TRUSTED, Role.SUBMISSION])
async def test_where_any_login_is_good_strangers_are_refused_at_connect(role: Role) -> None:
    """Else it would be an open relay to whoever thinks of a name."""
    settings = replace(ANY, role=role, trusted_networks=LOCAL[1:])
    async with listening(house(), settings) as listener, connected(listener) as peer:
        assert codes(await peer.rest()) == [554]
    assert not admits(settings, "192.0.2.1") and not trusts(settings, "192.0.2.1")
    assert admits(settings, "::1") and trusts(settings, "::1")


@on_both_loops
async def test_implicit_tls(secure: Settings, context: ssl.SSLContext) -> None:
    mine = house()
    async with (
        listening(mine, replace(secure, tls=ListenerTls.IMPLICIT)) as listener,
        greeted(listener, context) as peer,
    ):
        assert (await peer.say("AUTH LOGIN", b64(NAME))) == Reply(334, "", b64("Password:"))
        assert (await peer.say(b64(PASSWORD))).code == 235
        assert (await letter(peer)).code == 250
    said = [f"{line.arrow} {line.text}" for line in mine.taken[0].transcript]
    at = said.index("<~ AUTH LOGIN")
    assert said[at + 1 : at + 6] == [
        "~> 334 VXNlcm5hbWU6",
        "<~ [credentials]",
        "~> 334 UGFzc3dvcmQ6",
        "<~ [credentials]",
        "~> 235 2.7.0 Authentication successful",
    ]


@pytest.mark.parametrize(
    ("lines", "code", "enhanced"),
    [
        ([PLAIN], 235, "2.7.0"),
        (["AUTH PLAIN", PLAIN.split()[2]], 235, "2.7.0"),
        (["AUTH LOGIN", b64(NAME), b64(PASSWORD)], 235, "2.7.0"),
        ([f"auth login {b64(NAME)}", b64(PASSWORD)], 235, "2.7.0"),
        ([WRONG], 535, "5.7.8"),
        (["AUTH LOGIN", b64(NAME), b64("wr0ng")], 535, "5.7.8"),
        (["AUTH LOGIN", "", ""], 535, "5.7.8"),
        (["AUTH LOGIN =", ""], 535, "5.7.8"),
        ([f"AUTH PLAIN {b64(f'root{chr(0)}{NAME}{chr(0)}{PASSWORD}')}"], 535, "5.7.8"),
        (["AUTH PLAIN", "*"], 501, "5.0.0"),
        (["AUTH LOGIN", b64(NAME), "*"], 501, "5.0.0"),
        (["AUTH PLAIN *"], 501, "5.5.2"),
        (["AUTH PLAIN", "="], 501, "5.5.2"),
        (["AUTH PLAIN", "junk!"], 501, "5.5.2"),
        (["AUTH PLAIN", MAIL], 501, "5.5.2"),
        (["AUTH PLAIN", ""], 501, "5.5.2"),
        (["AUTH PLAIN ="], 501, "5.5.2"),
        (["AUTH LOGIN", "ü"], 501, "5.5.2"),
        (["AUTH PLAIN", "A" * 12_286], 501, "5.5.2"),
        (["AUTH PLAIN", "A" * 12_287], 500, "5.5.6"),
        (["AUTH PLAIN", "A" * 500_000], 500, "5.5.6"),
        (["AUTH PLAIN", "A\rA"], 500, "5.5.2"),
        (["AUTH PLAIN", "A\0A"], 500, "5.5.2"),
        ([f"AUTH PLAIN {'A' * 2048}"], 500, "5.5.2"),
        (["AUTH CRAM-MD5"], 504, "5.5.4"),
        (["AUTH"], 501, "5.5.4"),
        ([f"AUTH {PLAIN.split()[2]}"], 501, "5.5.4"),
        ([MAIL], 530, "5.7.0"),
        ([RCPT], 503, "5.5.1"),
        ([PLAIN, PLAIN], 503, "5.5.1"),
        ([PLAIN, MAIL, PLAIN], 503, "5.5.1"),
        ([PLAIN, "MAIL FROM:<>", RCPT], 250, "2.1.5"),
        ([PLAIN, MAIL, RCPT, "RSET", MAIL], 250, "2.1.0"),
        ([PLAIN, "EHLO other.example", MAIL], 250, "2.1.0"),
        ([PLAIN, "HELO other.example", MAIL], 250, "2.1.0"),
        (["HELO old.example", PLAIN], 503, "5.5.1"),
        ([f"{MAIL} AUTH={NAME}"], 530, "5.7.0"),
        ([PLAIN, f"{MAIL} AUTH=<>"], 250, "2.1.0"),
    ],
)
async def test_what_is_answered(lines: list[str], code: int, enhanced: str) -> None:
    mine = house()
    async with submitting(mine) as peer:
        reply = await peer.say(*lines)
        assert (reply.code, reply.enhanced) == (code, enhanced)
        assert (await peer.say("NOOP")).code == 250, "both sides agree where the next command begins"
        if lines[0] != PLAIN and code != 235:
            assert (await peer.say("EHLO x", PLAIN)).code == 235, "and it may be tried again"
    assert not [secret for secret in SECRETS if secret in written(mine)]


async def test_before_ehlo() -> None:
    async with listening(house(), CLEAR) as listener, connected(listener) as peer:
        await peer.reply()
        reply = await peer.say(PLAIN)
        assert (reply.code, reply.enhanced) == (503, "5.5.1")


@pytest.mark.parametrize("role", [Role.INBOUND, Role.TRUSTED])
async def test_other_listeners_have_no_login(role: Role, secure: Settings, context: ssl.SSLContext) -> None:
    mine = house()
    settings = replace(secure, role=role, trusted_networks=LOCAL, tls=ListenerTls.IMPLICIT)
    settings = replace(settings, auth_in_clear=AuthInClear.LOOPBACK)
    async with listening(mine, settings) as listener, greeted(listener, context) as peer:
        assert "AUTH" not in (await peer.say("EHLO client.example")).text
        assert "AUTH" not in (await peer.say("HELP")).text
        for line in (PLAIN, "AUTH LOGIN", "AUTH CRAM-MD5"):
            reply = await peer.say(line)
            assert (reply.code, reply.enhanced) == (502, "5.5.1")
        assert (await letter(peer)).code == 250
    assert mine.taken[0].envelope.client.login is None and not mine.logins
    assert not [secret for secret in SECRETS if secret in written(mine)]


async def test_in_clear_nobody_logs_in_where_it_is_not_allowed() -> None:
    mine = house()
    async with listening(mine, replace(CLEAR, auth_in_clear=AuthInClear.NEVER)) as listener, greeted(listener) as peer:
        for line in (PLAIN, MAIL):
            reply = await peer.say(line)
            assert (reply.code, reply.enhanced) == (538, "5.7.11")
    assert not mine.logins


@pytest.mark.parametrize(
    ("ip", "clear"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("192.0.2.1", False), ("172.17.0.1", False)],
)
def test_loopback_may_be_exempted_from_tls(ip: str, clear: bool) -> None:
    assert logs_in(CLEAR, ip, tls=False) is clear
    assert logs_in(CLEAR, ip, tls=True)
    assert not logs_in(replace(CLEAR, auth_in_clear=AuthInClear.NEVER), ip, tls=False)
    assert not logs_in(replace(CLEAR, role=Role.TRUSTED), ip, tls=True)


async def test_trusted_networks_make_nobody_trusted_here() -> None:
    mine = house()
    async with listening(mine, replace(CLEAR, trusted_networks=LOCAL)) as listener, greeted(listener) as peer:
        assert (await peer.say(MAIL)).code == 530
        assert (await peer.say(PLAIN, MAIL)).code == 250
    assert not mine.clients[0].trusted


async def test_starttls_forgets_the_login(secure: Settings, context: ssl.SSLContext) -> None:
    """RFC 3207 4.2: what was learnt in plain text counts no more."""
    mine = house()
    async with (
        listening(mine, replace(secure, auth_in_clear=AuthInClear.LOOPBACK)) as listener,
        greeted(listener) as peer,
    ):
        assert (await peer.say(PLAIN)).code == 235
        await encrypted(peer, context)
        assert (await peer.say(MAIL)).code == 530
        assert (await peer.say(PLAIN)).code == 235
        assert (await letter(peer)).code == 250


async def test_what_was_sent_before_the_handshake_logs_nobody_in(secure: Settings, context: ssl.SSLContext) -> None:
    """STARTTLS injection, with a login as the command that is slipped in."""
    mine = house()
    async with listening(mine, secure) as listener, greeted(listener) as peer:
        await peer.send(f"STARTTLS\r\n{PLAIN}\r\n{MAIL}\r\n".encode())
        assert (await peer.reply()).code == 220
        await peer.writer.start_tls(context, server_hostname="localhost")
        assert (await peer.say("EHLO client.example")).code == 250
        assert (await peer.say(MAIL)).code == 530
    assert not mine.logins


async def test_pipelined_with_what_follows() -> None:
    """MAIL that is sent before the login is answered is obeyed after it, and is no response to it."""
    mine = house()
    async with submitting(mine) as peer:
        await peer.send("\r\n".join([WRONG, MAIL, PLAIN, MAIL, RCPT, "DATA", ""]).encode())
        assert [(await peer.reply()).code for _ in range(6)] == [535, 530, 235, 250, 250, 354]
        await peer.send(b"hello\r\n.\r\n")
        assert (await peer.reply()).code == 250
        await peer.send(f"QUIT\r\n{PLAIN}\r\n".encode())
        assert codes(await peer.rest()) == [221]
    assert len(mine.logins) == 2


async def test_a_whole_exchange_at_once() -> None:
    mine = house()
    async with submitting(mine) as peer:
        await peer.send("\r\n".join(["AUTH LOGIN", b64(NAME), b64(PASSWORD), MAIL, ""]).encode())
        assert [(await peer.reply()).code for _ in range(4)] == [334, 334, 235, 250]


async def test_in_pieces_of_one_octet() -> None:
    async with submitting(house()) as peer:
        for octet in "\r\n".join(["AUTH LOGIN", b64(NAME), b64(PASSWORD), ""]).encode():
            await peer.send(bytes([octet]))
        assert [(await peer.reply()).code for _ in range(3)] == [334, 334, 235]


REFUSED = [
    ["AUTH LOGIN", b64(NAME), b64(PASSWORD)],
    ["AUTH CRAM-MD5", b64(NAME), b64(PASSWORD), PLAIN.split()[2]],
    ["AUTH LOGIN", b64(NAME), PASSWORD.replace(" ", "_")],
    [PLAIN.replace(" ", ":"), b64(PASSWORD)],
    [PLAIN.replace(" ", "\t"), b64(PASSWORD)],
    [f" {PLAIN}"],
    [f"AUTH {PLAIN.split()[2]}", b64(PASSWORD)],
    [f"{PLAIN}\0", b64(PASSWORD)],
    [f"{PLAIN} {b64(PASSWORD)}", b64(PASSWORD) + "A" * 3000],
]


@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize("lines", REFUSED)
@pytest.mark.parametrize("role", [Role.INBOUND, Role.SUBMISSION])
async def test_responses_that_nobody_asked_for_are_not_written_down(lines: list[str], role: Role, end: str) -> None:
    """A script that sends name and password without listening: after a refused AUTH they arrive as commands."""
    mine = house()
    settings = replace(CLEAR, role=role, auth_in_clear=AuthInClear.NEVER)
    async with listening(mine, settings) as listener, greeted(listener) as peer:
        await peer.send("".join(line + end for line in lines).encode() + b"FROB one\r\nNOOP\r\nFROB two\r\nQUIT\r\n")
        replies = await peer.rest()
    shown = written(mine) + str(replies)
    assert not [secret for secret in (*SECRETS, PASSWORD.replace(" ", "_")) if secret in shown]
    assert "FROB two" in shown and replies[-1].code == 221, "what follows another command is heard as ever"


async def test_too_many_failures() -> None:
    mine = house()
    async with submitting(mine, Limits(auth_failures=3)) as peer:
        assert [(await peer.say(WRONG)).code for _ in range(2)] == [535, 535]
        assert (await peer.say(WRONG)).code == 535
        assert codes(await peer.rest()) == [421]
    assert len(mine.logins) == 3
    assert "421 4.7.0 Too many failed logins" in mine.said(Happening.REFUSED)[-1].facts["reply"]


async def test_failures_do_not_end_with_a_message() -> None:
    mine = house()
    async with submitting(mine, Limits(auth_failures=2)) as peer:
        assert (await peer.say(WRONG, "RSET", "EHLO x", WRONG)).code == 535
        assert codes(await peer.rest()) == [421]


async def test_temporary_trouble_is_no_failure() -> None:
    mine = house()
    mine.replies["login"] = Reply(454, "4.7.0", "The password cannot be checked now: try again later")
    async with submitting(mine, Limits(auth_failures=1)) as peer:
        assert [(await peer.say(WRONG)).code for _ in range(5)] == [454] * 5
        assert (await peer.say(PLAIN)).code == 235


async def test_a_fault_tells_nobody_the_password() -> None:
    mine = house()
    mine.replies["login"] = RuntimeError("something of ours")
    async with submitting(mine) as peer:
        assert (await peer.say(PLAIN)).code == 451
        assert (await peer.say("NOOP")).code == 250
    (fault,) = mine.said(Happening.FAULT)
    assert fault.facts["where"] == "session: AUTH PLAIN [credentials]"
    assert not [secret for secret in SECRETS if secret in written(mine)]


async def test_a_silent_client_is_told_to_go() -> None:
    async with submitting(house(), Limits(timeout=0.2)) as peer:
        assert (await peer.say("AUTH LOGIN")).code == 334
        assert codes(await peer.rest()) == [421]


async def test_a_client_that_hangs_up_in_between() -> None:
    mine = house()
    async with listening(mine, CLEAR) as listener:
        async with greeted(listener) as peer:
            assert (await peer.say("AUTH LOGIN")).code == 334
        async with greeted(listener) as peer:
            assert (await peer.say(PLAIN)).code == 235
    assert not mine.said(Happening.FAULT)


async def test_shutting_down_does_not_wait_for_a_response() -> None:
    async with listening(house(), CLEAR) as listener, greeted(listener) as peer:
        assert (await peer.say("AUTH LOGIN")).code == 334
        await listener.drain(10)
        assert codes(await peer.rest()) == [421]


async def test_others_are_served_while_fifty_log_in() -> None:
    mine = house()
    mine.checking = asyncio.Event()
    limits = Limits(connections_per_address=100)
    async with listening(mine, CLEAR, limits) as listener, AsyncExitStack() as entering:
        peers = [await entering.enter_async_context(greeted(listener)) for _ in range(50)]
        for peer in peers:
            await peer.send(f"{PLAIN}\r\n".encode())
        async with greeted(listener) as other:
            while len(mine.logins) < 50:
                assert (await other.say("NOOP")).code == 250
            assert (await other.say("HELP")).code == 214
        mine.checking.set()
        assert {(await peer.reply()).code for peer in peers} == {235}


async def test_a_login_under_way_is_answered_before_the_listener_ends() -> None:
    mine = house()
    mine.checking = asyncio.Event()
    async with listening(mine, CLEAR) as listener, greeted(listener) as peer:
        await peer.send(f"{PLAIN}\r\n".encode())
        async with asyncio.timeout(10):
            while not mine.logins:
                await asyncio.sleep(0)
        async with asyncio.TaskGroup() as group:
            group.create_task(listener.drain(10))
            mine.checking.set()
            assert codes(await peer.rest()) == [235, 421]


SAID = (
    [PLAIN, WRONG, "AUTH PLAIN", "AUTH LOGIN", "AUTH X", "*", "=", "", b64(NAME), b64(PASSWORD), "junk!", "A" * 13_000],
    [MAIL, RCPT, "RSET", "EHLO x", "NOOP", "HELP", "\0", "A" * 3000, "STARTTLS", "\xff"],
)
LINES = st.lists(st.sampled_from([*chain(*SAID)]).map(str.encode) | st.binary(max_size=30), max_size=12)


@examples(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(LINES, st.sampled_from([b"\r\n", b"\n"]))
def test_whatever_is_said(lines: list[bytes], end: bytes) -> None:
    """No fault, no silence, no password written down; and nobody sends who has not logged in."""

    async def said() -> House:
        mine = house()
        async with submitting(mine, Limits(errors=1000, auth_failures=1000)) as peer:
            await peer.send(b"".join(line + end for line in lines) + b"*\r\nRSET\r\nQUIT\r\n")
            replies = await peer.rest()
        assert replies[-1].code in {221, 421}
        return mine

    mine = asyncio.run(said())
    assert not mine.said(Happening.FAULT)
    assert not [line for line in (PLAIN, WRONG) if line.split()[2] in written(mine)]
    if (NAME, PASSWORD.encode()) not in mine.logins:
        assert not [call for call in mine.calls if call.startswith("mail")]


def test_the_search_for_passwords_finds_one() -> None:
    mine = house()
    mine.calls.append(PLAIN)
    assert [secret for secret in SECRETS if secret in written(mine)] == [b64(PASSWORD), PLAIN.split()[2]]
