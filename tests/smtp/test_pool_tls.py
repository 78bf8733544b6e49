"""The pool and TLS: what an endpoint's settings come to, with every kind of server, and files that are at fault."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from smtproute.core.address import Address
from smtproute.core.choice import Candidate
from smtproute.core.outcome import Answer, Stage
from smtproute.core.reply import Reply
from smtproute.core.settings import Endpoint, EndpointTls, Server, Source
from smtproute.smtp.client import Dialogue, Mail
from smtproute.smtp.opening import Timeouts, Unreachable
from smtproute.smtp.pool import NobodyReached, Pool
from smtproute.smtp.tls import TlsFault, tls_context
from smtproute.testing.upstream import Upstream
from smtproute.world import World

CONTENT = b"Subject: hello\r\n\r\nHello.\r\n"
MAIL = Mail(Address.parse("sender@here.test"), (Address.parse("a@there.test"),))
TAKEN = (Answer(Stage.CONTENT, Reply(250, "2.0.0", "Taken")),)


@pytest.fixture
def pool() -> Pool:
    return Pool("relay.test", World())


async def send(pool: Pool, upstream: Upstream, endpoint: Endpoint) -> Dialogue:
    candidate = Candidate(Server("mx.test", upstream.port), "127.0.0.1", Source.STATIC)
    return (await pool.send(endpoint, [candidate], MAIL, CONTENT, 0.0)).dialogue


async def unreached(pool: Pool, upstream: Upstream, endpoint: Endpoint) -> Unreachable:
    before = list(upstream.received)
    with pytest.raises(NobodyReached) as raised:
        await send(pool, upstream, endpoint)
    assert upstream.received == before
    ((_, why),) = raised.value.unreached
    return why


@pytest.fixture
def ca(tmp_path: Path) -> tuple[trustme.CA, str]:
    authority = trustme.CA()
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return authority, str(path)


SERVERS = ("plain", "starttls", "implicit", "bad certificate", "wrong name")
TLS, CLEAR, NOT_OFFERED, DOWNGRADED, NO_HANDSHAKE, NO_GREETING, REFUSED = (
    "TLS",
    "in plain text",
    "in plain text, and says that TLS was not offered",
    "in plain text, and says that TLS failed",
    "TLS handshake failed",
    "no greeting",
    "certificate refused",
)


@pytest.mark.parametrize(
    ("mode", "verify", "server", "expected"),
    [
        ("never", True, "plain", CLEAR),
        ("never", True, "starttls", CLEAR),
        ("never", True, "implicit", NO_GREETING),
        ("never", True, "bad certificate", CLEAR),
        ("never", True, "wrong name", CLEAR),
        ("prefer", True, "plain", NOT_OFFERED),
        ("prefer", True, "starttls", TLS),
        ("prefer", True, "implicit", NO_GREETING),
        ("prefer", True, "bad certificate", TLS),
        ("prefer", True, "wrong name", TLS),
        ("require", True, "plain", "TLS is required, and the server does not offer STARTTLS"),
        ("require", True, "starttls", TLS),
        ("require", True, "implicit", NO_GREETING),
        ("require", True, "bad certificate", REFUSED),
        ("require", True, "wrong name", REFUSED),
        ("require", False, "bad certificate", TLS),
        ("require", False, "wrong name", TLS),
        ("implicit", True, "plain", NO_HANDSHAKE),
        ("implicit", True, "starttls", NO_HANDSHAKE),
        ("implicit", True, "implicit", TLS),
    ],
)
async def test_every_mode_with_every_kind_of_server(
    ca: tuple[trustme.CA, str], mode: str, verify: bool, server: str, expected: str
) -> None:
    """The modes by the words of the configuration."""
    authority, path = ca
    issuer = trustme.CA() if server == "bad certificate" else authority
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer.issue_cert("other.test" if server == "wrong name" else "mx.test").configure_cert(context)
    pool = Pool("relay.test", World(), Timeouts(greeting=0.3))
    endpoint = Endpoint("there", tls=EndpointTls(mode), verify=verify, ca_file=path)
    async with Upstream(tls=None if server == "plain" else context, implicit=server == "implicit") as upstream:
        if expected in (TLS, CLEAR, NOT_OFFERED):
            dialogue = await send(pool, upstream, endpoint)
            await pool.close()
            assert dialogue.answers == TAKEN
            assert bool(dialogue.tls) == bool(upstream.received[0].tls) == (expected == TLS)
            assert dialogue.downgrade == ("the server does not offer STARTTLS" if expected == NOT_OFFERED else "")
        else:
            answer = (await unreached(pool, upstream, endpoint)).answer
            assert answer.stage is (Stage.GREETING if expected == NO_GREETING else Stage.STARTTLS)
            assert (expected if expected != NO_GREETING else "no answer within 0.3 s") in answer.detail


async def test_the_name_that_the_endpoint_gives_is_asked_for_and_verified(
    pool: Pool, ca: tuple[trustme.CA, str]
) -> None:
    authority, path = ca
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("service.test").configure_cert(context)
    endpoint = Endpoint("there", tls=EndpointTls.REQUIRE, ca_file=path, tls_name="service.test")
    async with Upstream(tls=context) as upstream:
        why = await unreached(pool, upstream, replace(endpoint, tls_name=""))
        assert "Hostname mismatch" in why.answer.detail
        assert (await send(pool, upstream, endpoint)).answers == TAKEN
        await pool.close()


async def test_the_certificate_that_the_endpoint_gives_is_shown(
    pool: Pool, ca: tuple[trustme.CA, str], tmp_path: Path
) -> None:
    authority, path = ca
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.issue_cert("mx.test").configure_cert(context)
    authority.configure_trust(context)
    client = authority.issue_cert("relay.test")
    client.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    client.private_key_pem.write_to_path(str(tmp_path / "client.key"))
    anonymous = Endpoint("there", tls=EndpointTls.REQUIRE, ca_file=path)
    known = replace(anonymous, certificate=str(tmp_path / "client.pem"), key=str(tmp_path / "client.key"))
    async with Upstream(tls=context) as upstream:
        await unreached(pool, upstream, anonymous)
        assert (await send(pool, upstream, known)).answers == TAKEN
        await pool.close()


async def test_the_contexts_are_built_once_and_again_at_a_reload(
    pool: Pool, ca: tuple[trustme.CA, str], tmp_path: Path
) -> None:
    authority, path = ca
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("mx.test").configure_cert(context)
    endpoint = Endpoint("there", tls=EndpointTls.REQUIRE, ca_file=path)
    async with Upstream(tls=context) as upstream:
        pool.prepare([endpoint])
        trustme.CA().cert_pem.write_to_path(path)
        assert (await send(pool, upstream, endpoint)).answers == TAKEN
        await pool.close()
        pool.prepare([endpoint])
        answer = (await unreached(pool, upstream, endpoint)).answer
        assert answer.stage is Stage.STARTTLS
        assert "certificate refused" in answer.detail


@pytest.mark.parametrize(("text", "why"), [(None, "No such file or directory"), ("hello", "it holds no certificate")])
async def test_a_ca_file_at_fault_is_named(
    pool: Pool, ca: tuple[trustme.CA, str], tmp_path: Path, text: str | None, why: str
) -> None:
    _, good = ca
    path = tmp_path / "bad.pem"
    if text is not None:
        path.write_text(text)
    endpoint = Endpoint("there", tls=EndpointTls.IMPLICIT, ca_file=str(path))
    fault = f"endpoint.there.ca_file = {str(path)!r}: {why}"
    fine = replace(endpoint, ca_file=good)
    pool.prepare([fine])
    with pytest.raises(TlsFault) as raised:
        pool.prepare([fine, endpoint])
    assert str(raised.value) == fault
    async with Upstream() as upstream:
        why = await unreached(pool, upstream, endpoint)
        assert upstream.connections == 0
    assert why.answer == Answer(Stage.STARTTLS, None, fault)
    assert [line.text for line in why.transcript] == [fault]


@pytest.mark.parametrize(
    ("mode", "verify", "checked"),
    [
        (EndpointTls.PREFER, True, False),
        (EndpointTls.REQUIRE, True, True),
        (EndpointTls.REQUIRE, False, False),
        (EndpointTls.IMPLICIT, True, True),
    ],
)
def test_what_is_verified(mode: EndpointTls, verify: bool, checked: bool) -> None:
    context = tls_context(Endpoint("there", tls=mode, verify=verify))
    assert context is not None
    assert (context.verify_mode is ssl.CERT_REQUIRED, context.check_hostname) == (checked, checked)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("certificate", "key", "why"),
    [
        ("missing", "good.key", "endpoint.there.certificate = '{missing}': No such file or directory"),
        ("good.pem", "missing", "endpoint.there.key = '{missing}': No such file or directory"),
        ("good.pem", "other.key", "endpoint.there.certificate = '{good.pem}' with key = '{other.key}': KEY_VALUES_M"),
        ("good.pem", "locked.key", "endpoint.there.certificate = '{good.pem}' with key = '{locked.key}': "),
        ("text", "good.key", "endpoint.there.certificate = '{text}' with key = '{good.key}': "),
    ],
)
def test_a_client_certificate_at_fault_is_named(
    ca: tuple[trustme.CA, str], tmp_path: Path, certificate: str, key: str, why: str
) -> None:
    authority, _ = ca
    made, other = authority.issue_cert("relay.test"), authority.issue_cert("relay.test")
    files = {name: tmp_path / name for name in ("missing", "good.pem", "good.key", "other.key", "locked.key", "text")}
    made.cert_chain_pems[0].write_to_path(str(files["good.pem"]))
    made.private_key_pem.write_to_path(str(files["good.key"]))
    other.private_key_pem.write_to_path(str(files["other.key"]))
    files["text"].write_text("hello")
    locked = load_pem_private_key(made.private_key_pem.bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    files["locked.key"].write_bytes(locked)
    endpoint = Endpoint("there", tls=EndpointTls.PREFER, certificate=str(files[certificate]), key=str(files[key]))
    with pytest.raises(TlsFault) as raised:
        tls_context(endpoint)
    for name, file in files.items():
        why = why.replace(f"{{{name}}}", str(file))
    assert str(raised.value).startswith(why)
