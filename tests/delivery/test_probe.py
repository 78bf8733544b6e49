"""Probes of endpoints: what is learnt from each address, and at which step a bad one fails."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.address import Address, Domain
from smtproute.core.choice import Resolution
from smtproute.core.outcome import Stage
from smtproute.core.reply import Refusal, Reply
from smtproute.core.settings import Discover, Endpoint, EndpointTls, Family, Resolver, Server, Source
from smtproute.delivery.certificate import DAY, Certificate, read
from smtproute.delivery.endpoint import Endpoints
from smtproute.delivery.hops import Trial, hops, lost
from smtproute.delivery.probe import AT_ONCE, TIMEOUTS, Probe, Prober
from smtproute.resolve.resolver import Resolver as Names
from smtproute.testing.upstream import Drop, Hang, Rule, Upstream, on
from smtproute.testing.zone import Fault, Zone
from smtproute.world import World

CA, STRANGER = trustme.CA(), trustme.CA()
SOON = replace(TIMEOUTS, connect=2.0, tls=0.2, greeting=0.2, ehlo=0.2, mail=0.2)


def certified(*names: str, by: trustme.CA = CA, days: int = 30) -> ssl.SSLContext:
    """A server's context with a certificate for these names that ends in so many days."""
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days, hours=1)
    certificate = by.issue_cert(*names, not_before=end - datetime.timedelta(days=400), not_after=end)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@pytest.fixture
async def zone() -> AsyncIterator[Zone]:
    async with Zone({}) as made:
        yield made


@pytest.fixture(scope="module")
def ca_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    CA.cert_pem.write_to_path(str(path))
    return str(path)


def names(zone: Zone, **static: str) -> Endpoints:
    table = {name.replace("_", "."): (ip,) for name, ip in static.items()}
    settings = Resolver(servers=(zone.address,), static=table, hosts_file="/nowhere")
    resolver = Names(settings, World())
    return Endpoints(lambda: resolver, Domain.parse("mail.example.org"), World())


async def probed(zone: Zone, endpoint: Endpoint, recipient: str = "", **static: str) -> list[Probe]:
    trial = Trial(endpoint, recipient=Address.parse(recipient) if recipient else None)
    prober = Prober([trial], "mail.example.org", World(), SOON)
    return await prober.probe(await hops(names(zone, **static), [trial]))


async def one(upstream: Upstream, endpoint: Endpoint, zone: Zone) -> Probe:
    """The probe of an endpoint whose one server is this."""
    endpoint = replace(endpoint, servers=(Server("mx.test", upstream.port),))
    (probe,) = await probed(zone, endpoint, mx_test=upstream.host)
    return probe


def texts(probe: Probe) -> list[str]:
    return [line.text for line in probe.transcript]


async def test_all_that_a_good_server_shows(zone: Zone, ca_file: str) -> None:
    endpoint = Endpoint("there", tls=EndpointTls.REQUIRE, ca_file=ca_file, username="relay", password="s3cret-word")
    async with Upstream(tls=certified("mx.test"), users={"relay": "s3cret-word"}) as upstream:
        probe = await one(upstream, endpoint, zone)
        await upstream.quiet()
    assert probe.ok and probe.answer.reply == Reply(250, "2.1.5", "Ok")
    assert probe.hop.found is not None and probe.hop.found.source is Source.STATIC
    learnt = probe.learnt
    assert learnt.seconds is not None and learnt.seconds > 0
    assert str(learnt.greeting) == "220 upstream.test ESMTP"
    assert learnt.extensions["SIZE"] == "50000000" and learnt.extensions["AUTH"] == "PLAIN LOGIN"
    assert learnt.tls.startswith("TLSv1.")
    assert probe.verified and probe.certificate is not None
    assert probe.certificate.names == ("mx.test",) and "trustme" in probe.certificate.issuer
    assert probe.certificate.days(probe.at) == 30 and probe.certificate.refused == ""
    (session,) = upstream.sessions
    assert session.login == "relay"
    assert session.commands()[-4:] == ["MAIL FROM:<> SIZE=0", "RCPT TO:<postmaster>", "RSET", "QUIT"]
    assert "~> AUTH PLAIN [credentials]" in [f"{line.arrow} {line.text}" for line in probe.transcript]
    assert upstream.received == []


@pytest.mark.parametrize(
    ("script", "stage", "how"),
    [
        ([on("CONNECT", "554 5.7.1 Go away")], Stage.GREETING, "554 5.7.1 Go away"),
        ([on("CONNECT", Hang())], Stage.GREETING, "no answer within 0.2 s"),
        ([on("EHLO", "502 5.5.1 No"), on("HELO", "502 5.5.1 No")], Stage.EHLO, "502 5.5.1 No"),
        ([on("MAIL", "451 4.3.0 Later")], Stage.MAIL, "451 4.3.0 Later"),
        ([on("MAIL", Drop())], Stage.MAIL, "the server closed the connection"),
        ([on("RCPT", "550 5.1.1 Nobody")], Stage.RCPT, "550 5.1.1 Nobody"),
        ([on("RCPT", Hang())], Stage.RCPT, "no answer within 0.2 s"),
        ([on("RSET", "500 5.5.1 What")], Stage.DATA, "500 5.5.1 What"),
        ([on("RSET", Drop())], Stage.DATA, "the server closed the connection"),
    ],
)
async def test_the_step_that_fails(zone: Zone, script: list[Rule], stage: Stage, how: str) -> None:
    async with Upstream(script) as upstream:
        probe = await one(upstream, Endpoint("there"), zone)
    assert not probe.ok
    assert (probe.answer.stage, probe.answer.how) == (stage, how)
    assert str(probe) == f"mx.test (static, 127.0.0.1:{upstream.port}) {probe.answer.told}"
    assert any(text.startswith("connected to mx.test") for text in texts(probe))


async def test_a_closed_port(zone: Zone) -> None:
    async with Upstream() as upstream:
        pass
    probe = await one(upstream, Endpoint("there"), zone)
    assert (probe.answer.stage, probe.answer.how) == (Stage.CONNECT, "connection refused")
    assert probe.learnt.seconds is None and probe.certificate is None


@pytest.mark.parametrize("tls", [EndpointTls.REQUIRE, EndpointTls.IMPLICIT])
@pytest.mark.parametrize(
    ("name", "by", "days", "why"),
    [
        ("other.test", CA, 30, "not valid for 'mx.test'"),
        ("mx.test", STRANGER, 30, "unable to get local issuer certificate"),
        ("mx.test", CA, -3, "certificate has expired"),
    ],
)
async def test_a_certificate_that_is_refused_is_shown(
    zone: Zone, ca_file: str, tls: EndpointTls, name: str, by: trustme.CA, days: int, why: str
) -> None:
    """By a second handshake, over which no credentials go."""
    endpoint = Endpoint("there", tls=tls, ca_file=ca_file, username="relay", password="s3cret-word")
    context, implicit = certified(name, by=by, days=days), tls is EndpointTls.IMPLICIT
    async with Upstream(tls=context, implicit=implicit, users={"relay": "s3cret-word"}) as upstream:
        probe = await one(upstream, endpoint, zone)
        await upstream.quiet()
    assert probe.answer.stage is Stage.STARTTLS and why in probe.answer.how
    shown = probe.certificate
    assert shown is not None and not probe.verified
    assert (shown.names, shown.days(probe.at)) == ((name,), days) and why in shown.refused
    said = [command for session in upstream.sessions for command in session.commands()]
    assert not [command for command in said if command.startswith(("AUTH", "MAIL"))]


async def test_tls_that_is_not_offered(zone: Zone, ca_file: str) -> None:
    async with Upstream() as upstream:
        required = await one(upstream, Endpoint("there", tls=EndpointTls.REQUIRE, ca_file=ca_file), zone)
        preferred = await one(upstream, Endpoint("there"), zone)
    assert required.answer.how == "TLS is required, and the server does not offer STARTTLS"
    assert required.certificate is None
    assert preferred.ok and preferred.downgrade == "the server does not offer STARTTLS"


async def test_an_unverified_certificate_is_shown_as_such(zone: Zone) -> None:
    async with Upstream(tls=certified("other.test", by=STRANGER)) as upstream:
        probe = await one(upstream, Endpoint("there"), zone)
    assert probe.ok and not probe.verified
    assert probe.certificate is not None and probe.certificate.names == ("other.test",)


async def test_a_file_that_is_missing(zone: Zone, tmp_path: Path) -> None:
    async with Upstream(tls=certified("mx.test")) as upstream:
        endpoint = Endpoint("there", tls=EndpointTls.REQUIRE, ca_file=str(tmp_path / "absent.pem"))
        probe = await one(upstream, endpoint, zone)
    assert probe.answer.stage is Stage.STARTTLS and "absent.pem" in probe.answer.how
    assert upstream.connections == 0


async def test_a_login_that_is_refused(zone: Zone, ca_file: str) -> None:
    endpoint = Endpoint("there", tls=EndpointTls.REQUIRE, ca_file=ca_file, username="relay", password="s3cret-word")
    async with Upstream(tls=certified("mx.test"), users={"relay": "another"}) as upstream:
        probe = await one(upstream, endpoint, zone)
    assert (probe.answer.stage, probe.verified) == (Stage.AUTH, True)
    assert not [text for text in texts(probe) if "s3cret" in text or "AHJlbGF5" in text]


async def test_every_address_of_every_server_backups_too(zone: Zone) -> None:
    zone.set("a.test", "A", ["127.0.0.2", "127.0.0.3"])
    zone.set("broken.test", "A", Fault.SERVFAIL)
    zone.set("broken.test", "AAAA", Fault.SERVFAIL)
    async with Upstream(host="127.0.0.2") as first, Upstream(host="127.0.0.4", port=first.port) as backup:
        endpoint = Endpoint(
            "there",
            servers=(Server("a.test", first.port), Server("broken.test", first.port)),
            backup=(Server("b.test", backup.port), Server("gone.test", 25)),
        )
        probes = await probed(zone, endpoint, b_test="127.0.0.4")
    assert [(probe.ok, probe.hop.backup, str(probe)) for probe in probes] == [
        (True, False, f"a.test (dns, 127.0.0.2:{first.port}) 250 2.1.5 Ok"),
        (False, False, f"a.test (dns, 127.0.0.3:{first.port}) connection refused"),
        (False, False, f"broken.test: SERVFAIL from {zone.address}"),
        (True, True, f"b.test (static, 127.0.0.4:{first.port}) 250 2.1.5 Ok"),
        (False, True, f"gone.test: NXDOMAIN from {zone.address}"),
    ]
    assert {hop.written for hop in lost([probe.hop for probe in probes])} == {
        f"broken.test:{first.port}",
        "gone.test:25",
    }


async def test_so_many_are_tried_at_once(zone: Zone) -> None:
    hosts = [f"mx{number}.test" for number in range(AT_ONCE + 5)]
    async with Upstream([on("CONNECT", Hang())]) as upstream:
        endpoint = Endpoint("there", tuple(Server(host, upstream.port) for host in hosts))
        probes = await probed(zone, endpoint, **{host.replace(".", "_"): upstream.host for host in hosts})
    assert [str(probe.hop.server) for probe in probes] == [f"{host}:{upstream.port}" for host in hosts]
    lives = [(probe.at, probe.transcript[-1].at) for probe in probes]
    assert max(sum(begun <= now < ended for begun, ended in lives) for now, _ in lives) == AT_ONCE


async def test_an_address_of_the_wrong_family_is_listed_and_not_tried(zone: Zone) -> None:
    zone.set("two.test", "A", ["127.0.0.1"])
    zone.set("two.test", "AAAA", ["::1"])
    zone.set("four.test", "A", ["127.0.0.1"])
    endpoint = Endpoint("there", (Server("two.test", 1), Server("four.test", 1)), family=Family.IPV6)
    trial = Trial(endpoint)
    found = await hops(names(zone), [trial])
    assert [(hop.shown, hop.usable, hop.why) for hop in found] == [
        ("two.test:1", False, "IPv4, and family = ipv6"),
        ("two.test:1", True, ""),
        ("four.test:1", False, "IPv4, and family = ipv6"),
    ]
    assert lost(found) == found[2:]
    probes = await Prober([trial], "mail.example.org", World(), SOON).probe(found)
    assert [probe.answer.stage for probe in probes] == [Stage.CONNECT, Stage.RESOLVE]


async def test_the_mail_exchangers_of_a_name(zone: Zone) -> None:
    zone.set("example.net", "MX", ["10 mx1.example.net", "20 mx2.example.net", "30 gone.example.net"])
    zone.set("mx1.example.net", "A", ["127.0.0.2"])
    zone.set("mx2.example.net", "A", ["127.0.0.3"])
    endpoint = Endpoint("there", (Server("example.net", 1), Server("none.example", 1)), discover=Discover.MX)
    trial = Trial(endpoint)
    found = await hops(names(zone), [trial])
    assert [(hop.written, hop.shown, hop.why) for hop in found] == [
        ("example.net:1", "mx1.example.net:1", ""),
        ("example.net:1", "mx2.example.net:1", ""),
        ("example.net:1", "gone.example.net:1", f"NXDOMAIN from {zone.address}"),
        ("none.example:1", "none.example:1", f"MX of none.example: NXDOMAIN from {zone.address}"),
    ]
    assert [hop.written for hop in lost(found)] == ["none.example:1"]
    assert found[0].resolved is not None and found[0].resolved.status is Resolution.OK
    probes = await Prober([trial], "mail.example.org", World(), SOON).probe(found)
    assert [probe.hop for probe in probes] == list(found)


async def test_the_servers_of_a_recipient(zone: Zone) -> None:
    zone.set("example.net", "MX", ["10 mx.example.net"])
    zone.set("mx.example.net", "A", ["127.0.0.2"])
    endpoint = Endpoint("internet", discover=Discover.RECIPIENT)
    undirected = Trial(endpoint)
    assert undirected.undirected and await hops(names(zone), [undirected]) == ()
    (hop,) = await hops(names(zone), [Trial(endpoint, recipient=Address.parse("anna@example.net"))])
    assert (hop.written, hop.shown, hop.usable) == ("example.net", "mx.example.net:25", True)


async def test_an_endpoint_that_cannot_be_used(zone: Zone) -> None:
    fault = Refusal(Reply(451, "4.3.0", "Temporary lookup failure"), "relays:1", '"[x" is no next hop')
    (probe,) = await probed(zone, Endpoint("relay [x", relay=True, fault=fault))
    assert (probe.ok, str(probe)) == (False, 'relay [x: "[x" is no next hop')


async def test_lmtp(zone: Zone, tmp_path: Path) -> None:
    async with Upstream(lmtp=True, host=str(tmp_path / "socket")) as upstream:
        endpoint = Endpoint("accounts.lmtp", (Server(upstream.host),), tls=EndpointTls.NEVER, lmtp=True)
        (probe,) = await probed(zone, endpoint, "anna@example.org")
    assert probe.ok and probe.hop.shown == upstream.host
    assert upstream.sessions[0].commands()[:3] == [
        "LHLO mail.example.org",
        "MAIL FROM:<> SIZE=0",
        "RCPT TO:<anna@example.org>",
    ]


# Certificates


def self_signed(common_name: str, names: x509.SubjectAlternativeName | None, end: datetime.datetime) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(end)
    )
    if names is not None:
        made = made.add_extension(names, critical=False)
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def test_the_common_name_counts_where_no_other_name_stands() -> None:
    end = datetime.datetime(2030, 1, 1)
    named = x509.SubjectAlternativeName([x509.DNSName("a.test"), x509.IPAddress(ip_address("::1"))])
    shown = read(self_signed("old.test", None, end))
    assert shown is not None and shown.names == ("old.test",) and shown.issuer == "CN=old.test"
    shown = read(self_signed("old.test", named, end))
    assert shown is not None and shown.names == ("a.test", "::1")


def test_the_days_that_are_left() -> None:
    shown = Certificate(("a.test",), "CN=ca", 100 * DAY)
    assert shown.told(98.5 * DAY) == "for a.test by CN=ca, until 1970-04-11 (1 day left)"
    assert shown.told(90 * DAY) == "for a.test by CN=ca, until 1970-04-11 (10 days left)"
    assert shown.told(100 * DAY + 1) == "for a.test by CN=ca, expired on 1970-04-11"
    assert shown.days(100 * DAY + 1) == -1


@given(st.binary(max_size=200))
def test_what_is_no_certificate_is_none(octets: bytes) -> None:
    assert read(octets) is None
