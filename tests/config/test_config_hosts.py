"""What may stand where a host name must: names, and no IP address in any spelling that a resolver would take."""

from __future__ import annotations

import json
import socket
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtproute.config import Mistake, load
from smtproute.core.settings import Server, Settings


def servers(*written: str) -> tuple[Server, ...]:
    environ = {"SMTPROUTE__ENDPOINT__X__SERVERS": json.dumps(written)}
    return load(None, environ, fqdn=lambda: "h.example").settings.endpoints["x"].servers


def refused(written: str) -> str:
    with pytest.raises(Mistake) as caught:
        servers(written)
    (line,) = caught.value.lines
    return line


ADDRESSES = [
    ("10.0.0.5", "10.0.0.5"),
    ("10.0.0.5.", "10.0.0.5"),
    ("[10.0.0.5]", "10.0.0.5"),
    ("167772165", "10.0.0.5"),
    ("0x0a000005", "10.0.0.5"),
    ("0X0A000005", "10.0.0.5"),
    ("0x0a.0.0.5", "10.0.0.5"),
    ("0xa.0x0.0x0.0x5", "10.0.0.5"),
    ("012.0.0.5", "10.0.0.5"),
    ("010.0.0.5", "8.0.0.5"),
    ("01200000005", "10.0.0.5"),
    ("10.5", "10.0.0.5"),
    ("10.0.5", "10.0.0.5"),
    ("127.1", "127.0.0.1"),
    ("0", "0.0.0.0"),
    ("１０.０.０.５", "10.0.0.5"),
    ("10。0。0。5", "10.0.0.5"),
    ("[::1]", "::1"),
    ("[IPv6:::1]", "::1"),
    ("[2001:db8::5]", "2001:db8::5"),
    ("[::ffff:10.0.0.5]", "10.0.0.5"),
]


@pytest.mark.parametrize("port", ["", ":25"])
@pytest.mark.parametrize(("written", "ip"), ADDRESSES)
def test_an_address_is_refused_with_the_mend(written: str, ip: str, port: str) -> None:
    assert refused(written + port) == (
        f'environment: SMTPROUTE__ENDPOINT__X__SERVERS[0] = "{written}{port}": an endpoint is a host name, not an IP '
        f'address. Give it a name: add "x.internal" = ["{ip}"] under [resolver] static, or to your internal DNS.'
    )


@pytest.mark.parametrize("written", ["::1", "::", "2001:db8::5", "::ffff:10.0.0.5", "fe80::1%eth0", "::1:25"])
def test_bare_ipv6_is_refused(written: str) -> None:
    assert "an endpoint is a host name, not an IP address" in refused(written)


@settings(max_examples=200, deadline=None)
@given(st.text("0123456789xXaf.", min_size=1, max_size=14), st.sampled_from(["", ":25", "."]))
def test_whatever_the_resolver_takes_as_an_address_is_refused(host: str, end: str) -> None:
    try:
        ip = str(IPv4Address(socket.inet_aton(host)))
    except OSError:
        try:
            assert servers(host + end)[0].host == host.lower().removesuffix(".")
        except Mistake:
            return
    else:
        assert f'["{ip}"]' in refused(host + end)


@pytest.mark.parametrize(
    ("written", "server"),
    [
        ("gitlab.internal", Server("gitlab.internal", 25)),
        ("gitlab.internal:4025", Server("gitlab.internal", 4025)),
        ("GitLab.Internal.:65535", Server("gitlab.internal", 65535)),
        ("localhost:1", Server("localhost", 1)),
        ("a-1", Server("a-1", 25)),
        ("1and1.example", Server("1and1.example", 25)),
        ("10.0.0.5.nip.example", Server("10.0.0.5.nip.example", 25)),
        ("münchen.example:25", Server("xn--mnchen-3ya.example", 25)),
        ("xn--mnchen-3ya.example", Server("xn--mnchen-3ya.example", 25)),
        ("face", Server("face", 25)),
        ("0xyz", Server("0xyz", 25)),
    ],
)
def test_a_name_is_taken(written: str, server: Server) -> None:
    assert servers(written) == (server,)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("", "the host name is missing"),
        ("a b:25", "no host name"),
        ("-a.example", "no host name"),
        ("a-.example", "no host name"),
        ("a..example", "no host name"),
        ("a" * 64 + ".example", "no host name"),
        (".".join(["a" * 60] * 5), "no host name"),
        ("a_b.example", 'a host name has no underscore. Give it a name that has none, such as "a-b.example".'),
        ("10.0.0.256", "no host name: it ends in a number"),
        ("10.0.0.0.5", "no host name: it ends in a number"),
        ("host.0x10", "no host name: it ends in a number"),
        ("unix:/run/lmtp", "neither a URL nor an address"),
        ("user@host", "neither a URL nor an address"),
        ("host:", '"" is no port'),
        ("host:25:25", '"25:25" is no port'),
        ("host:٢٥", "is no port"),
        ("host:-1", "is no port"),
        ("host:65536", "is no port"),
        ("[host", "no host name"),
        ("[]:25", "no host name"),
        ("\x00.example", "no host name"),
    ],
)
def test_what_is_no_name_is_refused(written: str, why: str) -> None:
    assert why in refused(written)


# Every place that wants a host name


def said(place: str, written: str) -> Settings:
    """The settings with this host name in one place."""
    environ = {
        "servers": {"SMTPROUTE__ENDPOINT__X__SERVERS": json.dumps([written])},
        "backup": {
            "SMTPROUTE__ENDPOINT__X__SERVERS": '["first.example"]',
            "SMTPROUTE__ENDPOINT__X__BACKUP": json.dumps([written]),
        },
        "tls_name": {
            "SMTPROUTE__ENDPOINT__X__SERVERS": '["first.example"]',
            "SMTPROUTE__ENDPOINT__X__TLS": "require",
            "SMTPROUTE__ENDPOINT__X__TLS_NAME": json.dumps(written),
        },
        "static": {"SMTPROUTE__RESOLVER__STATIC": f"{{ {json.dumps(written)} = ['10.0.0.5'] }}"},
    }[place]
    return load(None, environ, fqdn=lambda: "h.example").settings


def name_in(place: str, settings: Settings) -> str:
    match place:
        case "servers":
            return settings.endpoints["x"].servers[0].host
        case "backup":
            return settings.endpoints["x"].backup[0].host
        case "tls_name":
            return settings.endpoints["x"].tls_name
        case _:
            return next(iter(settings.resolver.static))


PLACES = ["servers", "backup", "tls_name", "static"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "written",
    [
        "10.0.0.5",
        "::1",
        "0x0a000005",
        "..",
        ".",
        "",
        "-bad-",
        "bad-",
        "-bad.example",
        "a..b",
        ".a",
        "a_b",
        "a b",
        "10.0.0.256",
    ],
)
def test_no_place_takes_what_is_no_host_name(place: str, written: str) -> None:
    with pytest.raises(Mistake) as caught:
        said(place, written)
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("GITLAB.Internal", "gitlab.internal"),
        ("gitlab.internal.", "gitlab.internal"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("localhost", "localhost"),
        ("3com.example", "3com.example"),
    ],
)
def test_every_place_takes_a_host_name(place: str, written: str, name: str) -> None:
    assert name_in(place, said(place, written)) == name
