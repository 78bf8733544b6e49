"""Name servers: how they are written, dead ones, lying ones, and ones that make no sense."""

from __future__ import annotations

import asyncio
import resource
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import pytest

from smtproute.core.choice import Resolution
from smtproute.resolve.nameservers import AT_ONCE, NameServer, NameServers, system_servers
from smtproute.testing.zone import Fault, Zone


def ask(servers, name="a.example", *, attempt=5.0, total=10.0):
    asking = NameServers([NameServer.parse(server) for server in servers], attempt=attempt, total=total)
    return asking.ask(name, dns.rdatatype.A)


class Odd(asyncio.DatagramProtocol):
    """Sends for each query the datagrams that `replies(query)` names; over TCP it closes at once."""

    def __init__(self, replies):
        self._replies = replies

    def connection_made(self, transport):
        self._transport = transport

    def datagram_received(self, data, client):
        for reply in self._replies(dns.message.from_wire(data)):
            self._transport.sendto(reply if isinstance(reply, bytes) else reply.to_wire(), client)


@asynccontextmanager
async def odd(replies):
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport, _ = await loop.create_datagram_endpoint(lambda: Odd(replies), ("127.0.0.1", port))
    try:
        yield f"127.0.0.1:{port}"
    finally:
        transport.close()
        server.close()
        await server.wait_closed()


def response(query, ip=None, *, flags=dns.flags.RA):
    made = dns.message.make_response(query)
    made.flags |= flags
    if ip is not None:
        made.answer = [dns.rrset.from_text(query.question[0].name, 60, "IN", "A", ip)]
    return made


@pytest.mark.parametrize(
    ("text", "server", "shown"),
    [
        ("10.0.0.53", NameServer("10.0.0.53"), "10.0.0.53"),
        ("10.0.0.53:53", NameServer("10.0.0.53"), "10.0.0.53"),
        ("10.0.0.53:5353", NameServer("10.0.0.53", 5353), "10.0.0.53:5353"),
        ("::1", NameServer("::1"), "::1"),
        ("[::1]", NameServer("::1"), "::1"),
        ("[::1]:53", NameServer("::1"), "::1"),
        ("[::1]:5353", NameServer("::1", 5353), "[::1]:5353"),
    ],
)
def test_a_name_server_is_written(text, server, shown):
    assert NameServer.parse(text) == server
    assert str(server) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ns.example",
        "10.0.0.53:dns",
        "[::1",
        "[::1]53",
        "10.0.0.300",
        "10.0.0.53:70000",
        "10.0.0.53:",
        "10.0.0.53:0",
        "[::1]:",
        "10.0.0.53:\u0665",
    ],
)
def test_what_is_no_name_server_is_a_mistake(text):
    with pytest.raises(ValueError):
        NameServer.parse(text)


def test_resolv_conf(tmp_path):
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# nameserver 10.0.0.1\n; nameserver 10.0.0.2\nsearch example.org\nnameserver\nnameserver nonsense\n"
        "nameserver 10.0.0.3 # trailing\n\tnameserver\t::1\noptions ndots:5\nnameserverx 10.0.0.4\n"
    )
    assert system_servers(str(path)) == [NameServer("10.0.0.3"), NameServer("::1")]
    path.write_bytes(b"\xff\xfe\x00")
    assert system_servers(str(path)) == []
    assert system_servers(str(tmp_path / "absent")) == []


async def test_a_silent_server_is_passed_over_and_asked_last_from_then_on():
    async with Zone({"a.example": Fault.TIMEOUT}) as dead, Zone({"a.example": {"A": ["10.0.0.1"]}}) as good:
        servers = NameServers([NameServer.parse(dead.address), NameServer.parse(good.address)], attempt=0.5, total=10.0)
        first = await servers.ask("a.example", dns.rdatatype.A)
        second = await servers.ask("a.example", dns.rdatatype.A)
    assert (first.status, first.asked) == (Resolution.OK, good.address)
    assert second == first
    assert (len(dead.queries), len(good.queries)) == (1, 2)


@pytest.mark.parametrize("fault", [Fault.SERVFAIL, Fault.REFUSED])
async def test_a_failing_server_is_passed_over_and_keeps_its_place(fault):
    async with Zone({"a.example": fault}) as bad, Zone({"a.example": {"A": ["10.0.0.1"]}}) as good:
        servers = NameServers([NameServer.parse(bad.address), NameServer.parse(good.address)], attempt=5.0, total=10.0)
        for _ in range(2):
            assert (await servers.ask("a.example", dns.rdatatype.A)).asked == good.address
    assert (len(bad.queries), len(good.queries)) == (2, 2)


async def test_a_denial_of_the_first_server_is_believed():
    async with Zone() as first, Zone({"a.example": {"A": ["10.0.0.1"]}}) as second:
        answer = await ask([first.address, second.address])
    assert (answer.status, answer.asked) == (Resolution.NXDOMAIN, first.address)
    assert second.queries == []


async def test_a_closed_port_is_refused_at_once():
    async with Zone() as zone:
        address = zone.address
    answer = await ask([address], attempt=60.0, total=60.0)
    assert (answer.status, answer.asked) == (Resolution.REFUSED, address)
    assert answer.reason == "no name server there: connection refused"


async def test_a_lack_of_our_own_is_no_refusal_of_the_server():
    async with Zone({"a.example": {"A": ["10.0.0.1"]}}) as zone:
        asking = NameServers([NameServer.parse(zone.address)], attempt=60.0, total=60.0)
        assert (await asking.ask("a.example", dns.rdatatype.A)).status is Resolution.OK
        was = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, was[1]))
        try:
            answer = await asking.ask("a.example", dns.rdatatype.A)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, was)
    assert str(answer) == f"SERVFAIL from {zone.address} (not asked: too many open files (here))"


async def test_so_many_questions_are_asked_at_once():
    """The next one waits for a place as long as it may take."""
    async with Zone({"a.example": Fault.TIMEOUT, "b.example": {"A": ["10.0.0.1"]}}) as zone:
        asking = NameServers([NameServer.parse(zone.address)], attempt=60.0, total=60.0)
        async with asyncio.TaskGroup() as tasks:
            silent = [tasks.create_task(asking.ask("a.example", dns.rdatatype.A)) for _ in range(AT_ONCE)]
            while len(zone.queries) < AT_ONCE:
                await asyncio.sleep(0)
            full = await asking.ask("b.example", dns.rdatatype.A, within=0.1)
            silent[0].cancel()
            free = await asking.ask("b.example", dns.rdatatype.A)
            for each in silent:
                each.cancel()
    assert (full.status, free.status) == (Resolution.TIMEOUT, Resolution.OK)


async def test_who_has_little_time_divides_it_among_the_servers():
    async with Zone({"a.example": Fault.TIMEOUT}) as dead, Zone({"a.example": {"A": ["10.0.0.1"]}}) as good:
        servers = NameServers([NameServer.parse(each.address) for each in (dead, good)], attempt=60.0, total=60.0)
        answer = await servers.ask("a.example", dns.rdatatype.A, within=0.5)
    assert answer.status is Resolution.OK


async def test_where_all_fail_the_last_counts_and_the_others_are_told():
    async with Zone({"a.example": Fault.TIMEOUT}) as silent, Zone({"a.example": Fault.SERVFAIL}) as failing:
        answer = await ask([silent.address, failing.address], attempt=0.5)
    assert (answer.status, answer.asked) == (Resolution.SERVFAIL, failing.address)
    assert answer.reason == f"{silent.address}: timeout"
    assert (len(silent.queries), len(failing.queries)) == (2, 1), "only the silent one is worth a second question"


async def test_the_whole_look_up_has_a_deadline():
    async with Zone({"a.example": Fault.TIMEOUT}) as zone:
        answer = await ask([zone.address], attempt=60.0, total=0.1)
    assert (answer.status, answer.asked) == (Resolution.TIMEOUT, zone.address)


async def test_a_silent_server_that_wakes_up_answers_the_second_question():
    asked = []

    def replies(query):
        asked.append(query)
        return [response(query, "10.0.0.1")] if len(asked) > 1 else []

    async with odd(replies) as server:
        answer = await ask([server], attempt=0.5)
    assert answer.status is Resolution.OK
    assert asked[0].id != asked[1].id


async def test_no_server_at_all():
    answer = await ask([])
    assert (answer.status, answer.reason) == (Resolution.REFUSED, "no name server configured")


async def test_answers_to_other_questions_are_not_believed():
    def replies(query):
        wrong_id = response(query, "10.6.6.6")
        wrong_id.id ^= 1
        other = dns.message.make_query("other.example", "A", id=query.id)
        return [b"", b"\x00garbage", wrong_id, response(other, "10.6.6.6"), query, response(query, "10.0.0.1")]

    async with odd(replies) as server:
        answer = await ask([server])
    assert [str(record) for record in answer.records] == ["10.0.0.1"]


async def test_records_of_other_names_are_not_believed():
    def replies(query):
        made = response(query)
        made.answer = [dns.rrset.from_text("other.example.", 60, "IN", "A", "10.6.6.6")]
        return [made]

    async with odd(replies) as server:
        answer = await ask([server])
    assert (answer.status, answer.records) == (Resolution.NODATA, ())


def truncated(query):
    return [response(query, flags=dns.flags.RA | dns.flags.TC)]


def cut_short(query):
    return [response(query, "10.0.0.1", flags=dns.flags.RA | dns.flags.TC).to_wire()[:-3]]


def referral(query):
    return [response(query, flags=dns.flags.RD)]


def not_implemented(query):
    made = response(query)
    made.set_rcode(4)
    return [made]


def denied_with_answer(query):
    made = response(query, "10.0.0.1")
    made.set_rcode(3)
    return [made]


def alias_loop(query):
    made = response(query)
    name = query.question[0].name
    made.answer = [dns.rrset.from_text(name, 60, "IN", "CNAME", str(name))]
    return [made]


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        (truncated, "malformed answer: EOF"),
        (cut_short, "malformed answer: EOF"),
        (referral, "a referral: the server is not recursive"),
        (not_implemented, "NOTIMP"),
        (denied_with_answer, "malformed answer"),
        (alias_loop, "malformed answer"),
    ],
)
async def test_what_makes_no_sense_is_a_failure_with_its_reason(replies, reason):
    async with odd(replies) as server:
        answer = await ask([server])
    assert (answer.status, answer.asked) == (Resolution.SERVFAIL, server)
    assert answer.reason.startswith(reason)


@pytest.mark.parametrize(
    ("ttl", "status", "lifetime"),
    [
        (0, "ok", 5),
        (300, "ok", 300),
        (10**6, "ok", 86400),
        (0, "NXDOMAIN", 5),
        (30, "NXDOMAIN", 30),
        (900, "NXDOMAIN", 60),
    ],
)
async def test_lifetimes_are_bounded(ttl, status, lifetime):
    async with Zone({"a.example": {"A": ["10.0.0.1"]}}, ttl=ttl) as zone:
        answer = await ask([zone.address], "a.example" if status == "ok" else "b.example")
    assert (answer.status, answer.lifetime) == (status, lifetime)


async def test_an_ipv6_name_server():
    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.create_datagram_endpoint(
            lambda: Odd(lambda query: [response(query, "10.0.0.1")]), ("::1", 0)
        )
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}")
    server = f"[::1]:{transport.get_extra_info('sockname')[1]}"
    try:
        answer = await ask([server])
    finally:
        transport.close()
    assert (answer.status, answer.asked) == (Resolution.OK, server)
