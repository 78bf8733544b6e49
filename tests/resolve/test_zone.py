"""Zone, seen by programs that share no code with it: dig asks it, and unbound forwards to it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket

import dns.exception
import pytest

from smtproute.core.choice import Exchange, Resolution
from smtproute.resolve.records import Records
from smtproute.testing.zone import Asked, Fault, Zone

LONG = "x" * 700
NAMES = {
    "gitlab.internal": {"A": ["127.0.0.1", "127.0.0.2"], "AAAA": ["::1"]},
    "example.net": {"MX": ["10 mx.example.net"], "TXT": ["v=spf1 -all", 'a "quoted" \\ text']},
    "www.example.net": {"CNAME": ["example.net"]},
    "long.example.net": {"TXT": [LONG]},
    "many.example.net": {"A": [f"10.0.0.{n}" for n in range(1, 101)]},
    "_sip._tcp.example.net": {"SRV": ["0 5 5060 sip.example.net"]},
    "servfail.example": Fault.SERVFAIL,
    "refused.example": Fault.REFUSED,
    "timeout.example": Fault.TIMEOUT,
    "half.example": {"A": ["10.0.0.1"], "AAAA": Fault.REFUSED},
}


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
        (["example.net", "A"], "status: NOERROR"),
        (["servfail.example", "MX"], "status: SERVFAIL"),
        (["refused.example", "A"], "status: REFUSED"),
        (["half.example", "AAAA"], "status: REFUSED"),
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


async def test_a_value_that_is_none_is_a_mistake_of_the_test():
    for type_, value in (("A", "10.0.0.300"), ("MX", "mx.example"), ("NONSENSE", "x")):
        with pytest.raises(dns.exception.DNSException):
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
