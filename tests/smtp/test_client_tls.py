"""The client and TLS: what each mode takes, refuses and says."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
import trustme

from smtproute.core.address import Address
from smtproute.core.outcome import Answer, Judgement, Stage, judge
from smtproute.core.reply import Reply
from smtproute.core.settings import Endpoint, EndpointTls, Server
from smtproute.core.transcript import Arrow
from smtproute.smtp.client import Connection, Dialogue, Mail
from smtproute.smtp.opening import TIMEOUTS, Timeouts, Unreachable
from smtproute.smtp.tls import tls_context
from smtproute.testing.upstream import Drop, Hang, Raw, Rule, Upstream, on
from smtproute.world import World

CONTENT = b"Subject: hello\r\n\r\nHello.\r\n"
MAIL = Mail(Address.parse("sender@here.test"), (Address.parse("a@there.test"),))
TAKEN = (Answer(Stage.CONTENT, Reply(250, "2.0.0", "Taken")),)
CA = trustme.CA()
PLAIN_MODES = (EndpointTls.NEVER, EndpointTls.PREFER)
VERIFIED_MODES = (EndpointTls.REQUIRE, EndpointTls.IMPLICIT)


@pytest.fixture(scope="module")
def ca_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    CA.cert_pem.write_to_path(str(path))
    return path


def certified(*names: str, ca: trustme.CA = CA, expired: bool = False) -> ssl.SSLContext:
    """A server's context with a certificate for these names."""
    day = datetime.timedelta(days=1)
    end = datetime.datetime.now(datetime.UTC) - day if expired else None
    certificate = ca.issue_cert(*names, not_before=end - day if end else None, not_after=end)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


async def connect(
    upstream: Upstream,
    mode: EndpointTls,
    ca_file: Path,
    *,
    host: str = "mx.test",
    tls_name: str = "",
    verify: bool = True,
    certificate: str = "",
    timeouts: Timeouts = TIMEOUTS,
) -> Connection:
    endpoint = Endpoint("there", tls=mode, ca_file=str(ca_file), verify=verify, certificate=certificate)
    return await Connection.open(
        Server(host, upstream.port),
        "127.0.0.1",
        tls=mode,
        context=tls_context(endpoint),
        helo="relay.test",
        world=World(),
        tls_name=tls_name,
        timeouts=timeouts,
    )


async def deliver(upstream: Upstream, mode: EndpointTls, ca_file: Path, *, verify: bool = True) -> Dialogue:
    connection = await connect(upstream, mode, ca_file, verify=verify)
    dialogue = await connection.send(MAIL, CONTENT)
    await connection.quit()
    return dialogue


def texts(dialogue: Dialogue | Unreachable) -> list[str]:
    return [line.text for line in dialogue.transcript]


@pytest.mark.parametrize("mode", [EndpointTls.PREFER, EndpointTls.REQUIRE, EndpointTls.IMPLICIT])
async def test_tls_carries_the_message(mode: EndpointTls, ca_file: Path) -> None:
    content = b"".join(b".%d\r\n" % number for number in range(300_000))
    async with Upstream(tls=certified("mx.test"), implicit=mode is EndpointTls.IMPLICIT) as upstream:
        connection = await connect(upstream, mode, ca_file)
        first = await connection.send(MAIL, CONTENT)
        second = await connection.send(MAIL, content)
        await connection.quit()
        await upstream.quiet()
    assert first.answers == second.answers == TAKEN
    assert [received.content for received in upstream.received] == [CONTENT, content]
    assert upstream.received[0].tls == first.tls == second.tls
    assert first.tls.startswith("TLSv1.3 TLS_")
    assert first.usable
    assert first.downgrade == ""
    mail_line = next(line for line in first.transcript if line.text.startswith("MAIL"))
    assert mail_line.arrow is Arrow.SENT_TLS
    assert (mode is EndpointTls.IMPLICIT) == ("STARTTLS" not in texts(first))
    assert f"TLS started: {first.tls}" in texts(first)
    assert connection.learnt.tls == first.tls
    assert "mx.test" in connection.learnt.certificate.decode("latin-1")
    assert texts(first).count("EHLO relay.test") == (1 if mode is EndpointTls.IMPLICIT else 2)


async def test_never_does_not_ask_for_tls(ca_file: Path) -> None:
    async with Upstream(tls=certified("mx.test")) as upstream:
        dialogue = await deliver(upstream, EndpointTls.NEVER, ca_file)
        assert "STARTTLS" not in upstream.sessions[0].commands()
    assert (dialogue.answers, dialogue.tls) == (TAKEN, "")


@pytest.mark.parametrize("mode", PLAIN_MODES)
async def test_a_server_without_tls_gets_it_in_plain_text(mode: EndpointTls, ca_file: Path) -> None:
    async with Upstream() as upstream:
        dialogue = await deliver(upstream, mode, ca_file)
    assert (dialogue.answers, dialogue.tls) == (TAKEN, "")
    said = "the server does not offer STARTTLS" if mode is EndpointTls.PREFER else ""
    assert dialogue.downgrade == said
    assert (f"{said}: plain text" in texts(dialogue)) == (mode is EndpointTls.PREFER)


async def test_prefer_takes_any_certificate(ca_file: Path) -> None:
    async with Upstream(tls=certified("other.test", ca=trustme.CA(), expired=True)) as upstream:
        dialogue = await deliver(upstream, EndpointTls.PREFER, ca_file)
    assert dialogue.answers == TAKEN
    assert dialogue.tls


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (on("STARTTLS", "454 4.7.0 Not now"), "STARTTLS was refused (454 4.7.0 Not now)"),
        (on("STARTTLS", "421 4.3.2 No"), "STARTTLS was refused (421 4.3.2 No)"),
        (on("STARTTLS", Drop()), "the server closed the connection"),
        (on("STARTTLS", "220 2.0.0 Go", Drop()), "TLS handshake failed: "),
        (on("STARTTLS", "220 2.0.0 Go", Hang()), "TLS handshake failed: "),
        (on("STARTTLS", Raw(b"220 2.0.0 Go\r\nwhere?\r\n")), "TLS handshake failed: the server's reply is malformed"),
    ],
)
async def test_prefer_falls_back_to_plain_text_and_says_so(rule: Rule, why: str, ca_file: Path) -> None:
    async with Upstream([rule], tls=certified("mx.test")) as upstream:
        connection = await connect(upstream, EndpointTls.PREFER, ca_file, timeouts=Timeouts(tls=0.2))
        first = await connection.send(MAIL, CONTENT)
        second = await connection.send(MAIL, CONTENT)
        connection.abort()
        assert upstream.connections == 2
        assert [received.tls for received in upstream.received] == ["", ""]
    assert first.answers == second.answers == TAKEN
    assert first.downgrade.startswith(why)
    assert second.downgrade == first.downgrade
    assert (first.new, second.new) == (True, False)
    assert f"{first.downgrade}: once more in plain text" in texts(first)
    assert sum(text.startswith("connected to mx.test") for text in texts(first)) == 2


async def test_what_prefer_falls_back_to_may_be_unreachable_too(ca_file: Path) -> None:
    script = [on("STARTTLS", "454 4.7.0 No"), on("EHLO", "250-x\nSTARTTLS", times=1), on("EHLO", "421 4.3.2 Full")]
    async with Upstream(script, tls=certified("mx.test")) as upstream:
        with pytest.raises(Unreachable) as raised:
            await connect(upstream, EndpointTls.PREFER, ca_file)
    assert raised.value.answer == Answer(Stage.EHLO, Reply(421, "4.3.2", "Full"))
    assert "STARTTLS was refused (454 4.7.0 No): once more in plain text" in texts(raised.value)


@pytest.mark.parametrize("mode", VERIFIED_MODES)
@pytest.mark.parametrize(
    ("names", "own_ca", "expired", "why"),
    [
        (("other.test",), True, False, "Hostname mismatch"),
        (("mx.test",), True, True, "certificate has expired"),
        (("mx.test",), False, False, "unable to get local issuer certificate"),
    ],
    ids=["wrong name", "expired", "unknown authority"],
)
async def test_a_certificate_that_does_not_verify(
    mode: EndpointTls, names: tuple[str, ...], own_ca: bool, expired: bool, why: str, ca_file: Path
) -> None:
    context = certified(*names, ca=CA if own_ca else trustme.CA(), expired=expired)
    async with Upstream(tls=context, implicit=mode is EndpointTls.IMPLICIT) as upstream:
        with pytest.raises(Unreachable) as raised:
            await connect(upstream, mode, ca_file)
        await upstream.quiet()
        assert upstream.received == []
        unverified = await deliver(upstream, mode, ca_file, verify=False)
    answer = raised.value.answer
    assert (answer.stage, answer.reply) == (Stage.STARTTLS, None)
    assert answer.detail.startswith("TLS handshake failed: certificate refused: ")
    assert why in answer.detail
    assert judge(answer) is Judgement.NEXT_SERVER
    assert unverified.answers == TAKEN
    assert unverified.tls


@pytest.mark.parametrize("mode", VERIFIED_MODES)
async def test_tls_name_stands_in_for_the_host_name(mode: EndpointTls, ca_file: Path) -> None:
    asked: list[str | None] = []
    context = certified("service.test")
    context.sni_callback = lambda _, name, __: asked.append(name)
    async with Upstream(tls=context, implicit=mode is EndpointTls.IMPLICIT) as upstream:
        connection = await connect(upstream, mode, ca_file, tls_name="service.test")
        assert (await connection.send(MAIL, CONTENT)).answers == TAKEN
        connection.abort()
        with pytest.raises(Unreachable) as raised:
            await connect(upstream, mode, ca_file, host="service.test", tls_name="mx.test")
    assert "Hostname mismatch" in raised.value.answer.detail
    assert asked == ["service.test", "mx.test"]


# A client certificate


@pytest.fixture(scope="module")
def client_certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("client") / "client.pem"
    CA.issue_cert("relay.test").private_key_and_cert_chain_pem.write_to_path(str(path))
    return str(path)


def demanding() -> ssl.SSLContext:
    """A server's context that wants a certificate of our authority's from the client."""
    context = certified("mx.test")
    context.verify_mode = ssl.CERT_REQUIRED
    CA.configure_trust(context)
    return context


@pytest.mark.parametrize("mode", [EndpointTls.PREFER, *VERIFIED_MODES])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_certificate_is_shown_to_a_server_that_asks(
    mode: EndpointTls, version: ssl.TLSVersion, ca_file: Path, client_certificate: str
) -> None:
    context = demanding()
    context.minimum_version = context.maximum_version = version
    async with Upstream(tls=context, implicit=mode is EndpointTls.IMPLICIT) as upstream:
        connection = await connect(upstream, mode, ca_file, certificate=client_certificate)
        dialogue = await connection.send(MAIL, CONTENT)
        connection.abort()
        shown = ssl.DER_cert_to_PEM_cert(upstream.sessions[0].certificate)
    assert (dialogue.answers, dialogue.downgrade) == (TAKEN, "")
    assert shown in Path(client_certificate).read_text()


@pytest.mark.parametrize("mode", VERIFIED_MODES)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_without_a_client_certificate_a_server_that_wants_one_is_unreachable(
    mode: EndpointTls, version: ssl.TLSVersion, ca_file: Path
) -> None:
    """Under TLS 1.3 it says no only after the handshake, which has ended well for us (RFC 8446 4.4.2.4)."""
    context = demanding()
    context.minimum_version = context.maximum_version = version
    async with Upstream(tls=context, implicit=mode is EndpointTls.IMPLICIT) as upstream:
        with pytest.raises(Unreachable) as raised:
            await connect(upstream, mode, ca_file)
        await upstream.quiet()
        assert upstream.received == []
    assert raised.value.answer.reply is None
    assert raised.value.answer.detail


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_prefer_goes_in_plain_text_where_the_server_wants_a_certificate_that_we_lack(
    version: ssl.TLSVersion, ca_file: Path
) -> None:
    context = demanding()
    context.minimum_version = context.maximum_version = version
    async with Upstream(tls=context) as upstream:
        connection = await connect(upstream, EndpointTls.PREFER, ca_file)
        dialogue = await connection.send(MAIL, CONTENT)
        connection.abort()
        assert upstream.connections == 2
    assert (dialogue.answers, dialogue.tls) == (TAKEN, "")
    assert (connection.learnt.tls, connection.learnt.certificate) == ("", b"")
    assert dialogue.downgrade
    assert f"{dialogue.downgrade}: once more in plain text" in texts(dialogue)


@pytest.mark.parametrize("mode", VERIFIED_MODES)
@pytest.mark.parametrize(("host", "name"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.0.0.1", "mx.test")])
async def test_a_server_that_is_an_ip_address_is_verified_by_it(
    mode: EndpointTls, host: str, name: str, ca_file: Path
) -> None:
    async with Upstream(tls=certified(name), implicit=mode is EndpointTls.IMPLICIT) as upstream:
        if host == name:
            connection = await connect(upstream, mode, ca_file, host=host)
            assert (await connection.send(MAIL, CONTENT)).answers == TAKEN
            connection.abort()
        else:
            with pytest.raises(Unreachable) as raised:
                await connect(upstream, mode, ca_file, host=host)
            assert "certificate refused: IP address mismatch" in raised.value.answer.detail


@pytest.mark.parametrize(
    ("rule", "answer"),
    [
        (
            on("EHLO", "250 mx.test"),
            Answer(Stage.STARTTLS, None, "TLS is required, and the server does not offer STARTTLS"),
        ),
        (
            on("EHLO", "502 5.5.1 What?"),
            Answer(Stage.STARTTLS, None, "TLS is required, and the server does not offer STARTTLS"),
        ),
        (on("STARTTLS", "454 4.7.0 Not now"), Answer(Stage.STARTTLS, Reply(454, "4.7.0", "Not now"))),
        (on("STARTTLS", Drop()), Answer(Stage.STARTTLS, None, "the server closed the connection")),
        (on("EHLO", "250-x\nSTARTTLS", times=1), None),
    ],
)
async def test_require_never_goes_in_plain_text(rule: Rule, answer: Answer | None, ca_file: Path) -> None:
    script = [rule, on("EHLO", "451 4.3.0 Not under TLS")] if answer is None else [rule]
    async with Upstream(script, tls=certified("mx.test")) as upstream:
        with pytest.raises(Unreachable) as raised:
            await connect(upstream, EndpointTls.REQUIRE, ca_file)
        await upstream.quiet()
        assert upstream.connections == 1
    assert raised.value.answer == (answer or Answer(Stage.EHLO, Reply(451, "4.3.0", "Not under TLS")))


async def test_a_plain_text_server_where_tls_is_implicit(ca_file: Path) -> None:
    async with Upstream() as upstream:
        with pytest.raises(Unreachable) as raised:
            await connect(upstream, EndpointTls.IMPLICIT, ca_file)
    assert raised.value.answer.stage is Stage.STARTTLS
    assert raised.value.answer.detail.startswith("TLS handshake failed: ")


async def test_a_silent_server_where_tls_is_implicit(ca_file: Path) -> None:
    async with Upstream([on("CONNECT", Hang())]) as upstream:
        with pytest.raises(Unreachable) as raised:
            await connect(upstream, EndpointTls.IMPLICIT, ca_file, timeouts=Timeouts(tls=0.1))
    assert raised.value.answer.stage is Stage.STARTTLS


async def test_what_the_server_says_before_the_handshake_is_dropped(ca_file: Path) -> None:
    injected = Raw(b"220 2.0.0 Go\r\n250-evil.test\r\n250 SIZE 1\r\n")
    async with Upstream([on("STARTTLS", injected)], tls=certified("mx.test")) as upstream:
        dialogue = await deliver(upstream, EndpointTls.REQUIRE, ca_file)
    assert dialogue.answers == TAKEN
    assert f"MAIL FROM:<sender@here.test> SIZE={len(CONTENT)}" in texts(dialogue)
    assert "dropped what the server sent in plain text before TLS" in texts(dialogue)


async def test_what_was_offered_in_plain_text_counts_no_more_under_tls(ca_file: Path) -> None:
    script = [on("EHLO", "250-x\nSTARTTLS\nSIZE 9999\nPIPELINING", times=1), on("EHLO", "250 x")]
    async with Upstream(script, tls=certified("mx.test")) as upstream:
        await deliver(upstream, EndpointTls.REQUIRE, ca_file)
        assert upstream.received[0].parameters == ()


async def test_tls_1_1_is_too_old(ca_file: Path) -> None:
    context = certified("mx.test")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with Upstream(tls=context) as upstream:
        with pytest.raises(Unreachable) as raised:
            await connect(upstream, EndpointTls.REQUIRE, ca_file, verify=False)
    assert raised.value.answer.stage is Stage.STARTTLS


async def test_a_broken_connection_under_tls(ca_file: Path) -> None:
    async with Upstream([on("CONTENT", Drop())], tls=certified("mx.test")) as upstream:
        connection = await connect(upstream, EndpointTls.REQUIRE, ca_file)
        dialogue = await connection.send(MAIL, CONTENT)
    assert [(answer.stage, answer.reply) for answer in dialogue.answers] == [(Stage.CONTENT, None)]
    assert not dialogue.usable


@pytest.mark.parametrize("mode", [EndpointTls.PREFER, EndpointTls.REQUIRE])
@pytest.mark.parametrize("secured", [False, True], ids=["in plain text", "under TLS"])
async def test_a_server_out_of_step_is_left_and_not_asked_in_plain_text(
    mode: EndpointTls, secured: bool, ca_file: Path
) -> None:
    stray = Raw(b"250-x\r\n250 STARTTLS\r\n250 2.0.0 stray\r\n")
    script = [on("EHLO", "250-x\nSTARTTLS", times=1), on("EHLO", stray)] if secured else [on("EHLO", stray)]
    detail = "the server is out of step: it answers what it was not asked"
    async with Upstream(script, tls=certified("mx.test")) as upstream:
        if secured:
            dialogue = await deliver(upstream, mode, ca_file)
            assert dialogue.answers == (Answer(Stage.MAIL, None, detail),)
            assert dialogue.tls
        else:
            with pytest.raises(Unreachable) as raised:
                await connect(upstream, mode, ca_file)
            assert raised.value.answer == Answer(Stage.STARTTLS, None, detail)
        await upstream.quiet()
        assert upstream.connections == 1
        assert "MAIL" not in str(upstream.sessions[0].commands())
