"""From the name of an endpoint's server to its addresses: which, whence, in which order, and what if there are none."""

from __future__ import annotations

import asyncio
import io
import socket
from pathlib import Path

import pytest

from smtproute.app import Relay
from smtproute.core.event import Event, Happening
from smtproute.core.settings import LogFormat
from smtproute.core.settings import Resolver as ResolverSettings
from smtproute.resolve.resolver import Resolver
from smtproute.testing.upstream import Upstream, Wait, on
from smtproute.testing.zone import Fault
from smtproute.trace.log import log_to
from smtproute.world import SystemNetwork, World
from tests.e2e.conftest import Client, Lab


def ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not ipv6(), reason="no IPv6 here")
V4, V6 = "127.0.0.1", "::1"


def tried(lab: Lab) -> list[str]:
    """The addresses that were connected to, in order."""
    return [each.facts["ip"] for each in lab.journal.of(Happening.ATTEMPT)]


# Which addresses, in which order


@needs_ipv6
@pytest.mark.parametrize(
    ("records", "family", "expected"),
    [
        ((V4, V6), "any", [V4, V6]),
        ((V4, V6), "ipv4", [V4]),
        ((V4, V6), "ipv6", [V6]),
        ((V4,), "any", [V4]),
        ((V4,), "ipv4", [V4]),
        ((V4,), "ipv6", []),
        ((V6,), "any", [V6]),
        ((V6,), "ipv4", []),
        ((V6,), "ipv6", [V6]),
    ],
)
async def test_the_addresses_of_a_name_are_tried_as_configured(
    lab: Lab, records: tuple[str, ...], family: str, expected: list[str]
) -> None:
    busy = [on("CONNECT", "421 4.3.2 Busy")]
    four = await lab.upstream("4.far.example", busy)
    await lab.upstream("6.far.example", busy, ip=V6, port=four.port)
    lab.zone.set("far.example", "A", [ip for ip in records if ip == V4])
    lab.zone.set("far.example", "AAAA", [ip for ip in records if ip == V6])
    relay = await lab.application(f"far.example:{four.port}", keys=f'family = "{family}"')
    event = await lab.deferred(relay, "x@far.example")
    assert tried(lab) == expected
    shown = {V4: f"far.example (dns, 127.0.0.1:{four.port})", V6: f"far.example (dns, [::1]:{four.port})"}
    for ip in records:
        why = (
            "greeting: 421 4.3.2 Busy" if ip in expected else f"{'IPv4' if ip == V4 else 'IPv6'}, and family = {family}"
        )
        assert f"{shown[ip]} {why}" in event.facts["detail"]


@needs_ipv6
async def test_a_message_goes_over_ipv6(lab: Lab) -> None:
    far = await lab.upstream("far.example", ip=V6)
    relay = await lab.application(f"far.example:{far.port}")
    await lab.delivered(relay, "x@far.example")
    assert (len(far.received), tried(lab)) == (1, [V6])


@needs_ipv6
class WithoutIpv6(SystemNetwork):
    def routed(self, ip: str) -> bool:
        return ip != V6


async def test_an_address_without_a_route_is_skipped_and_named(lab: Lab) -> None:
    six = await lab.upstream("a.far.example", ip=V6)
    four = await lab.upstream("b.far.example", [on("MAIL", "451 4.3.0 Not now", times=1)])
    lab.world = World(network=WithoutIpv6())
    relay = await lab.application(f"a.far.example:{six.port}", f"b.far.example:{four.port}")
    event = await lab.deferred(relay, "1@far.example")
    assert f"a.far.example (dns, [::1]:{six.port}) no route" in event.facts["detail"]
    await lab.delivered(relay, "2@far.example")
    assert (six.connections, tried(lab)) == (0, [V4, V4])


# From where


async def test_a_static_entry_the_hosts_file_and_dns_are_asked_in_the_order_of_the_file(lab: Lab) -> None:
    """A hosts-file entry works; Postal asks DNS only."""
    ips = {"static": "127.0.0.2", "hosts": "127.0.0.3", "dns": "127.0.0.4"}
    far = {"static": await lab.upstream("far.example", ip=ips["static"])}
    for source in ("hosts", "dns"):
        far[source] = await lab.upstream("far.example", ip=ips[source], port=far["static"].port)
    lab.write("hosts", f"{ips['hosts']} far.example\n")
    for source in far:
        order = [source, *(each for each in far if each != source)]
        lab.resolver = f'order = {order}\nhosts_file = "hosts"\nstatic = {{ "far.example" = ["{ips["static"]}"] }}'
        if source == "static":
            relay = await lab.application(f"far.example:{far['static'].port}")
        else:
            lab.config(APPLICATION.format(port=far["static"].port))
            await relay.reload()
        await lab.delivered(relay, "x@far.example")
        attempt = lab.journal.of(Happening.ATTEMPT)[-1]
        assert (attempt.facts["source"], attempt.facts["ip"]) == (source, ips[source])
        assert len(far[source].received) == 1


APPLICATION = """
    default = {{ endpoint = "far" }}
    [listener.app]
    bind = "127.0.0.1:0"
    [endpoint.far]
    servers = ["far.example:{port}"]
"""


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("alias.far.example", "real.far.example"),
        ("MÜLLER.far.example", "xn--mller-kva.far.example"),
        ("xn--mller-kva.far.example", "xn--mller-kva.far.example"),
    ],
)
async def test_aliases_are_followed_and_international_names_asked_as_a_labels(lab: Lab, host: str, asked: str) -> None:
    far = await lab.upstream(asked)
    lab.zone.set("alias.far.example", "CNAME", ["real.far.example."])
    relay = await lab.application(f"{host}:{far.port}")
    await lab.delivered(relay, "x@far.example")
    assert len(far.received) == 1


# None


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (None, "NXDOMAIN"),
        ({"A": []}, "no data"),
        ({"ANY": Fault.SERVFAIL}, "SERVFAIL"),
        ({"ANY": Fault.REFUSED}, "refused"),
        ({"ANY": Fault.TIMEOUT}, "timeout"),
    ],
    ids=["NXDOMAIN", "no data", "SERVFAIL", "REFUSED", "timeout"],
)
async def test_a_name_without_an_address_defers_with_its_reason(
    lab: Lab, entry: dict[str, list[str] | Fault] | None, words: str
) -> None:
    """RCPT gets its 250 all the same, and the error names the endpoint, the name, what DNS said, and which server."""
    for kind, values in (entry or {}).items():
        lab.zone.set("far.internal", kind, values)
    lab.resolver = "watch = 0"
    relay = await lab.application("far.internal:25")
    hasty(lab, relay)
    event = await lab.deferred(relay, "x@far.example")
    assert event.facts["reply"] == "451 4.4.1 No server took the message"
    assert f"{event.facts['says']}: {event.facts['detail']}" == (
        f"endpoint far: no server took the message: far.internal: {words} from {lab.zone.address}"
    )


async def test_without_a_name_server_the_error_says_that(lab: Lab, tmp_path: Path) -> None:
    lab.resolver = "watch = 0"
    relay = await lab.application("far.internal:25")
    (tmp_path / "resolv.conf").write_text("# nothing\n")
    relay._resolver = Resolver(ResolverSettings(), lab.world, resolv_conf=str(tmp_path / "resolv.conf"))
    event = await lab.deferred(relay, "x@far.example")
    assert "far.internal: refused (no name server configured)" in event.facts["detail"]


async def test_a_name_that_does_not_resolve_keeps_nothing_from_the_others(lab: Lab) -> None:
    lab.zone.set("a.far.example", "ANY", Fault.SERVFAIL)
    far = await lab.upstream("b.far.example")
    relay = await lab.application("a.far.example:25", f"b.far.example:{far.port}")
    await lab.delivered(relay, "x@far.example")
    assert len(far.received) == 1


def hasty(lab: Lab, relay: Relay) -> None:
    """Makes it wait for no name server longer than a moment."""
    settings = relay.snapshot().settings.resolver
    relay._resolver = Resolver(settings, lab.world, attempt=0.2, total=1.0)


# DNS that fails, and names that change


async def test_the_last_good_answer_serves_while_dns_fails_and_no_longer_than_configured(lab: Lab) -> None:
    clock = lab.turned()
    lab.resolver = 'stale = "1h"'
    far = await lab.upstream("far.internal")
    relay = await lab.application(f"far.internal:{far.port}")
    await lab.delivered(relay, "1@far.example")
    lab.zone.set("far.internal", "ANY", Fault.SERVFAIL)
    await clock.advance(90)  # past the record's time to live
    await lab.delivered(relay, "2@far.example")
    (stale,) = await lab.journal.seen(Happening.RESOLVED)
    assert "stale" in stale.facts["now"] and "SERVFAIL" in stale.facts["now"]
    await clock.advance(3600)
    while len(lab.journal.of(Happening.RESOLVED)) < 2:  # the watch may have been asking as the clock was turned
        await clock.advance(30)
    over = lab.journal.of(Happening.RESOLVED)[1]
    assert (over.facts["vanished"], over.facts["now"]) == ([], f"far.internal: SERVFAIL from {lab.zone.address}")
    event = await lab.deferred(relay, "3@far.example")
    assert f"far.internal: SERVFAIL from {lab.zone.address}" in event.facts["detail"]
    assert len(far.received) == 2


async def test_who_asks_while_another_is_asking_gets_no_answer_that_is_too_old(lab: Lab) -> None:
    clock = lab.turned()
    lab.resolver = 'watch = 0\nstale = "1h"'
    far = await lab.upstream("far.internal")
    relay = await lab.application(f"far.internal:{far.port}")
    hasty(lab, relay)
    await lab.delivered(relay, "1@far.example")
    lab.zone.set("far.internal", "ANY", Fault.TIMEOUT)
    await clock.advance(90)
    await lab.delivered(relay, "2@far.example")
    await clock.advance(3600)
    messages = [await lab.accepted(relay, f"{number}@far.example") for number in (3, 4)]
    assert [(await lab.ended(message))[0].what for message in messages] == [Happening.DEFERRED] * 2
    assert len(far.received) == 2


async def test_a_reload_keeps_the_last_good_answers(lab: Lab) -> None:
    lab.resolver = 'watch = "0s"'
    far = await lab.upstream("far.internal")
    relay = await lab.application(f"far.internal:{far.port}")
    await lab.delivered(relay, "anna@far.example")
    lab.zone.set("far.internal", "ANY", Fault.SERVFAIL)
    await relay.reload()
    assert lab.journal.of(Happening.RELOADED)
    await lab.delivered(relay, "anna@far.example")
    file = lab.folder / "smtproute.toml"
    file.write_text(file.read_text().replace("[resolver]", '[resolver]\nstale = "30m"'))
    await relay.reload()
    deferred = await lab.deferred(relay, "anna@far.example")
    assert f"far.internal: SERVFAIL from {lab.zone.address}" in deferred.facts["detail"]


async def test_while_dns_fails_explain_says_that_the_answer_is_stale(lab: Lab) -> None:
    lab.resolver = 'watch = "1s"'
    lab.zone.set("far.internal", "A", ["127.0.0.2"])
    relay = await lab.started(
        """
        default = { endpoint = "far" }
        [listener.app]
        bind = "127.0.0.1:0"
        debug = true
        [endpoint.far]
        servers = ["far.internal:2525"]
        """
    )
    client = await Client.connect(relay.addresses["app"])
    dns = f"far.internal:2525: 127.0.0.2 (dns), from {lab.zone.address}"
    assert f"{dns} for " in await client.say("VRFY anna@far.example")
    lab.zone.set("far.internal", "ANY", Fault.SERVFAIL)
    (event,) = await lab.journal.seen(Happening.RESOLVED)
    why = f"stale: SERVFAIL from {lab.zone.address}, answer of "
    assert event.facts["vanished"] == []
    assert event.facts["now"].startswith(f"far.internal = 127.0.0.2 (dns), {why}")
    assert f"{dns}, {why}" in await client.say("VRFY anna@far.example")


async def moved(lab: Lab) -> tuple[Upstream, Upstream, Relay]:
    """A server that has taken a message, the one that has its name since then, and the relay."""
    old = await lab.upstream("far.internal", ip="127.0.0.2")
    relay = await lab.application(f"far.internal:{old.port}")
    await lab.delivered(relay, "1@far.example")
    return old, await lab.upstream("far.internal", ip="127.0.0.3", port=old.port), relay


async def test_an_address_that_changes_is_an_event_and_its_connections_end(lab: Lab) -> None:
    clock = lab.turned()
    lab.resolver = 'watch = "5s"'
    old, new, relay = await moved(lab)
    assert old.sessions[0].open
    await clock.advance(5)
    (changed,) = await lab.journal.seen(Happening.RESOLVED)
    assert changed.facts["endpoint"] == "far" and changed.facts["server"] == f"far.internal:{old.port}"
    assert (changed.facts["appeared"], changed.facts["vanished"]) == (["127.0.0.3"], ["127.0.0.2"])
    await old.quiet()
    assert old.sessions[0].commands()[-1] == "QUIT"
    await lab.delivered(relay, "2@far.example")
    assert [each.recipients for each in (*old.received, *new.received)] == [("1@far.example",), ("2@far.example",)]


async def test_a_connection_whose_address_vanishes_ends_after_its_transaction(lab: Lab) -> None:
    clock, gate = lab.turned(), asyncio.Event()
    lab.resolver = 'watch = "5s"'
    old = await lab.upstream("far.internal", [on("CONTENT", Wait(gate))], ip="127.0.0.2")
    relay = await lab.application(f"far.internal:{old.port}")
    message = await lab.accepted(relay, "1@far.example")
    await old.heard("DATA")
    new = await lab.upstream("far.internal", ip="127.0.0.3", port=old.port)
    await clock.advance(5)
    await lab.journal.seen(Happening.RESOLVED)
    gate.set()
    await lab.journal.finished(message, 1)
    await old.quiet()
    assert ([len(each.received) for each in (old, new)], old.sessions[0].commands()[-1]) == ([1, 0], "QUIT")


async def test_without_a_watch_a_change_counts_once_the_time_to_live_is_over(lab: Lab) -> None:
    clock = lab.turned()
    lab.resolver = "watch = 0"
    old, new, relay = await moved(lab)
    await clock.advance(lab.zone.ttl - 1)
    await lab.delivered(relay, "2@far.example")
    await clock.advance(1)
    await lab.delivered(relay, "3@far.example")
    assert ([len(each.received) for each in (old, new)], lab.journal.of(Happening.RESOLVED)) == ([2, 1], [])


async def test_a_name_that_begins_to_resolve_is_used_for_the_next_attempt(lab: Lab) -> None:
    clock = lab.turned()
    relay = await lab.application("far.internal:25")
    event = await lab.deferred(relay, "x@far.example")
    far = await lab.upstream("far.internal")
    lab.config(APPLICATION.format(port=far.port).replace("far.example", "far.internal"))
    await relay.reload()
    await clock.advance(60)
    await lab.journal.finished(event.message, 1)
    assert len(far.received) == 1


@pytest.mark.parametrize("form", list(LogFormat))
def test_a_change_is_a_line_of_the_log(form: LogFormat) -> None:
    facts = {
        "endpoint": "gitlab",
        "server": "gitlab.internal:25",
        "appeared": [],
        "vanished": ["10.0.0.5", "fd00::5"],
        "now": "gitlab.internal: NXDOMAIN from 10.0.0.53",
    }
    event = Event(Happening.RESOLVED, 0.0, facts=facts)
    log = io.StringIO()
    log_to(log, form)(event)
    assert "10.0.0.5, fd00::5" in log.getvalue()
    assert "appeared" not in log.getvalue()
