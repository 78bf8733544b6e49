"""Zone, seen by programs that share no code with it: dig asks it, and unbound forwards to it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket

import dns.asyncquery
import dns.message
import pytest

from smtproute.core.choice import Exchange, Resolution
from smtproute.core.settings import Resolver as Settings
from smtproute.resolve import Resolver
from smtproute.resolve.records import Records
from smtproute.testing.zone import Asked, BadRecord, Fault, Zone
from smtproute.world import World

LONG = "x" * 700
NAMES = {
    "gitlab.internal": {"A": ["127.0.0.1", "127.0.0.2"], "AAAA": ["::1"]},
    "example.net": {"MX": ["10 mx.example.net"], "TXT": ["v=spf1 -all", 'a "quoted" \\ text']},
    "www.example.net": {"CNAME": ["example.net"]},
    "long.example.net": {"TXT": [LONG]},
    "many.example.net": {"A": [f"10.0.0.{n}" for n in range(1, 101)]},
    "_sip._tcp.example.net": {"SRV": ["0 5 5060 sip.example.net"]},
    "gone.example": Fault.NXDOMAIN,
    "servfail.example": Fault.SERVFAIL,
    "refused.example": Fault.REFUSED,
    "timeout.example": Fault.TIMEOUT,
    "half.example": {"A": ["10.0.0.1"], "AAAA": Fault.REFUSED},
    "203.0.113.9": {"PTR": "mx.example.net"},
    "2001:db8::9": {"PTR": ["mx.example.net", "mail.example.net"]},
    "192.0.2.9": Fault.SERVFAIL,
}


@pytest.fixture
def resolver(tmp_path):
    """Makes a resolver that asks this server, and nothing of the machine's."""
    absent = str(tmp_path / "absent")
    return lambda server: Resolver(Settings(servers=(server,), hosts_file=absent), World(), resolv_conf=absent)


async def dig(zone, *question):
    host, port = zone.address.split(":")
    process = await asyncio.create_subprocess_exec(
        "dig", f"@{host}", "-p", port, "+tries=1", "+timeout=1", *question, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(20):
        out, _ = await process.communicate()
    return out.decode()


@pytest.mark.peer("dig")
@pytest.mark.parametrize(
    ("question", "lines"),
    [
        (["gitlab.internal", "A"], ["127.0.0.1", "127.0.0.2"]),
        (["GITLAB.Internal", "AAAA"], ["::1"]),
        (["example.net", "MX"], ["10 mx.example.net."]),
        (["www.example.net", "MX"], ["example.net.", "10 mx.example.net."]),
        (["example.net", "TXT"], ['"v=spf1 -all"', r'"a \"quoted\" \\ text"']),
        (["long.example.net", "TXT"], [f'"{"x" * 255}" "{"x" * 255}" "{"x" * 190}"']),
        (["_sip._tcp.example.net", "SRV"], ["0 5 5060 sip.example.net."]),
        (["half.example", "A"], ["10.0.0.1"]),
        (["-x", "203.0.113.9"], ["mx.example.net."]),
        (["-x", "2001:db8::9"], ["mx.example.net.", "mail.example.net."]),
        (["+tcp", "gitlab.internal", "A"], ["127.0.0.1", "127.0.0.2"]),
    ],
)
async def test_dig_reads_the_records(question, lines):
    async with Zone(NAMES) as zone:
        assert (await dig(zone, "+short", *question)).splitlines() == lines


@pytest.mark.peer("dig")
@pytest.mark.parametrize(
    ("question", "said"),
    [
        (["nowhere.example", "A"], "status: NXDOMAIN"),
        (["gone.example", "A"], "status: NXDOMAIN"),
        (["example.net", "A"], "status: NOERROR"),
        (["servfail.example", "MX"], "status: SERVFAIL"),
        (["refused.example", "A"], "status: REFUSED"),
        (["half.example", "AAAA"], "status: REFUSED"),
        (["-x", "192.0.2.9"], "status: SERVFAIL"),
        (["timeout.example", "A"], "no servers could be reached"),
        (["+tcp", "timeout.example", "A"], "no servers could be reached"),
    ],
)
async def test_dig_reads_the_status(question, said):
    async with Zone(NAMES) as zone:
        out = await dig(zone, *question)
    assert said in out
    if "status: NOERROR" in said or "NXDOMAIN" in said:
        assert "ANSWER: 0" in out
        assert "SOA" in out


@pytest.mark.peer("dig")
async def test_dig_sees_the_truncation_and_asks_again_over_tcp():
    question = ("+noedns", "many.example.net", "A")
    async with Zone(NAMES) as zone:
        cut = await dig(zone, "+ignore", *question)
        whole = await dig(zone, "+short", *question)
    assert " tc " in cut.partition("flags:")[2].partition(";")[0]
    assert len(whole.splitlines()) >= 100
    asked = ("many.example.net", "A")
    assert zone.queries == [Asked(*asked, "udp"), Asked(*asked, "udp"), Asked(*asked, "tcp")]


@pytest.mark.peer("dig")
async def test_it_changes_while_it_runs():
    async with Zone({"a.example": {"A": ["10.0.0.1"]}}) as zone:
        zone.set("A.example", "A", ["10.0.0.2"])
        zone.set("a.example", "MX", [])
        assert await dig(zone, "+short", "a.example", "A") == "10.0.0.2\n"
        assert "status: NOERROR" in await dig(zone, "a.example", "MX")
        zone.remove("a.example")
        assert "status: NXDOMAIN" in await dig(zone, "a.example", "A")


@pytest.mark.peer("dig")
async def test_each_record_set_has_its_own_ttl():
    async with Zone(ttl=300) as zone:
        zone.set("a.example", "A", ["10.0.0.1", "10.0.0.2"], ttl=5)
        zone.set("a.example", "TXT", "kept for long")
        zone.set("b.example", "CNAME", "a.example", ttl=0)
        answers = [line.split() for line in (await dig(zone, "+noall", "+answer", "b.example", "A")).splitlines()]
        assert [(line[1], line[3]) for line in answers] == [("0", "CNAME"), ("5", "A"), ("5", "A")]
        assert " 300 " in (await dig(zone, "+noall", "+answer", "a.example", "TXT")).replace("\t", " ")


@pytest.mark.peer("dig")
async def test_a_fault_leaves_the_records_for_later():
    async with Zone({"a.example": {"A": "10.0.0.1", "TXT": "hello"}}) as zone:
        zone.set("a.example", "ANY", Fault.SERVFAIL)
        zone.set("a.example", "A", Fault.REFUSED)
        assert "status: REFUSED" in await dig(zone, "a.example", "A")
        assert "status: SERVFAIL" in await dig(zone, "a.example", "TXT")
        zone.recover("a.example")
        assert await dig(zone, "+short", "a.example", "A") == "10.0.0.1\n"
        zone.set("a.example", "A", Fault.TIMEOUT)
        zone.set("a.example", "A", "10.0.0.2")
        assert await dig(zone, "+short", "a.example", "A") == "10.0.0.2\n"
        assert await dig(zone, "+short", "a.example", "TXT") == '"hello"\n'


@pytest.mark.peer("dig")
async def test_a_short_answer_that_is_cut():
    names = {"a.example": {"A": "10.0.0.1"}, "b.example": {"CNAME": "a.example"}}
    async with Zone(names) as zone:
        zone.set("a.example", "A", Fault.TRUNCATED)
        for name in names:
            cut = await dig(zone, "+ignore", name, "A")
            assert " tc " in cut.partition("flags:")[2].partition(";")[0] and "ANSWER: 0" in cut
            assert (await dig(zone, "+short", name, "A")).splitlines()[-1] == "10.0.0.1"
        assert {asked.transport for asked in zone.queries} == {"udp", "tcp"}
        zone.set("a.example", "A", Fault.NO_TCP)
        assert " tc " in (await dig(zone, "+ignore", "a.example", "A")).partition("flags:")[2].partition(";")[0]
        assert "10.0.0.1" not in await dig(zone, "a.example", "A")


async def test_a_cut_answer_is_asked_for_again_by_our_resolver(resolver):
    async with Zone({"a.example": {"A": "10.0.0.1"}}) as zone:
        zone.set("a.example", "A", Fault.TRUNCATED)
        found = await resolver(zone.address).addresses("a.example")
        assert [each.ip for each in found.addresses] == ["10.0.0.1"]
        assert Asked("a.example", "A", "tcp") in zone.queries


@pytest.mark.peer("dig")
async def test_host_and_port_can_be_chosen():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with Zone({"a.example": {"A": "10.0.0.1"}}, host="127.0.0.2", port=port) as zone:
        assert zone.address == f"127.0.0.2:{port}"
        assert await dig(zone, "+short", "a.example", "A") == "10.0.0.1\n"
        assert await dig(zone, "+short", "+tcp", "a.example", "A") == "10.0.0.1\n"
        with pytest.raises(OSError, match="in use"):
            async with Zone(host="127.0.0.2", port=port):
                pass
    async with Zone({"a.example": {"A": "10.0.0.1"}}, host="::1") as zone:
        assert zone.address == f"[::1]:{zone.port}"
        query = dns.message.make_query("a.example", "A")
        answer = await dns.asyncquery.udp(query, zone.host, port=zone.port, timeout=10)
        assert [str(record) for each in answer.answer for record in each] == ["10.0.0.1"]


@pytest.mark.peer("dig")
async def test_a_name_can_lose_all_that_is_said_of_it():
    async with Zone({"a.example": {"A": "10.0.0.1", "TXT": Fault.REFUSED}, "192.0.2.1.": {"A": "10.0.0.2"}}) as zone:
        zone.set("a.example", "ANY", [])
        for type_ in ("A", "TXT"):
            assert "status: NOERROR" in (said := await dig(zone, "a.example", type_)) and "ANSWER: 0" in said
        assert await dig(zone, "+short", "192.0.2.1.", "A") == "10.0.0.2\n", "with a last dot it is no address"


async def test_a_value_that_is_none_is_a_mistake_of_the_test():
    for type_, value in (("A", "10.0.0.300"), ("MX", "mx.example"), ("NONSENSE", "x")):
        with pytest.raises(BadRecord, match=rf"^set\('a.example', '{type_}', \['{value}'\]\): .*as in a zone file"):
            Zone({"a.example": {type_: [value]}})
    with pytest.raises(KeyError):
        Zone().remove("a.example")


async def test_garbage_is_not_answered_and_does_not_stop_it(resolver):
    async with Zone({"a.example": {"A": ["10.0.0.1"]}}) as zone:
        host, port = zone.address.split(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            for garbage in (b"", b"x", b"\xff" * 12, b"\x00" * 600):
                udp.sendto(garbage, (host, int(port)))
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"\x00\x03abc\x00")
        assert (await resolver(zone.address).addresses("a.example")).status is Resolution.OK
    assert await reader.read() == b"", "leaving the zone closes its connections"
    writer.close()


UNBOUND = """\
server:
  interface: 127.0.0.1@{port}
  do-not-query-localhost: no
  do-daemonize: no
  use-syslog: no
  logfile: ""
  verbosity: 1
  module-config: "iterator"
  num-threads: 1
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
remote-control:
  control-enable: no
forward-zone:
  name: "."
  forward-addr: {zone}
"""


@pytest.mark.peer("unbound")
async def test_an_independent_resolver_between_us_and_the_zone(resolver, tmp_path):
    program = shutil.which("unbound", path=os.environ.get("PATH", "") + ":/usr/sbin")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with Zone(NAMES) as zone:
        config = tmp_path / "unbound.conf"
        config.write_text(UNBOUND.format(port=port, folder=tmp_path, zone=zone.address.replace(":", "@")))
        unbound = await asyncio.create_subprocess_exec(
            program, "-d", "-c", str(config), stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(20):
                while b"start of service" not in (line := await unbound.stderr.readline()):
                    assert line, "unbound did not start"
            asking = resolver(f"127.0.0.1:{port}")
            hosts = await asking.addresses("gitlab.internal")
            assert {found.ip for found in hosts.addresses} == {"127.0.0.1", "127.0.0.2", "::1"}
            assert hosts.asked == f"127.0.0.1:{port}"
            assert (await asking.exchanges("www.example.net")).exchanges == (Exchange(10, "mx.example.net"),)
            assert (await asking.exchanges("gitlab.internal")).exchanges == (Exchange(0, "gitlab.internal"),)
            assert len((await asking.addresses("many.example.net")).addresses) == 100
            assert await Records(lambda: asking).texts("long.example.net") == (LONG.encode(),)
            assert (await asking.exchanges("nowhere.example")).status is Resolution.NXDOMAIN
            assert (await asking.exchanges("servfail.example")).status is Resolution.SERVFAIL
        finally:
            unbound.terminate()
            await unbound.wait()
