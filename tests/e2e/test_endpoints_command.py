"""`smtproute endpoints` and `check --connect`, as processes, with a name server and scripted servers."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import re
import ssl
from pathlib import Path
from typing import Any

import pytest

from smtproute.testing.upstream import Upstream, on
from smtproute.testing.zone import Fault
from tests.e2e.authority import AUTHORITY, STRANGER, ca_file, certified
from tests.e2e.conftest import Lab
from tests.e2e.dovecot import dovecot
from tests.e2e.test_cli import SMTPROUTE
from tests.e2e.test_docker_mailserver import folder

APP = """
    [listener.app]
    bind = "127.0.0.1:0"
"""
PASSWORD = "s3cret-word"


class Done:
    """A command that has ended."""

    def __init__(self, status: int | None, out: bytes, error: bytes) -> None:
        self.status = status
        self.text = out.decode()
        self.lines = self.text.splitlines()
        self.error = error.decode()

    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def names(self) -> list[str]:
        """Of the findings."""
        return re.findall(r"\[([a-z0-9-]+)\]$", self.text, re.MULTILINE)


async def run(file: Path, *arguments: str) -> Done:
    """Beside the servers of this process, which it talks to."""
    process = await asyncio.create_subprocess_exec(
        *SMTPROUTE, *arguments, "-c", str(file), stdout=-1, stderr=-1, env={**os.environ, "PYTHONIOENCODING": "utf-8"}
    )
    out, error = await process.communicate()
    assert b"Traceback" not in error, error
    return Done(process.returncode, out, error)


def endpoint(lab: Lab, keys: str, more: str = "") -> Path:
    """A configuration with one endpoint, named gitlab."""
    return lab.config(f"{APP}    [endpoint.gitlab]\n    {keys}\n{more}")


def words(line: str) -> list[str]:
    """The columns of a line."""
    return re.split(r"  +", line)


async def secured(lab: Lab, host: str, ip: str, name: str, **options: Any) -> Upstream:
    """A server with a login and a certificate for this name."""
    return await lab.upstream(host, ip=ip, tls=certified(name), users={"relay": PASSWORD}, **options)


def keys(lab: Lab, *servers: str) -> str:
    """Keys of an endpoint that wants TLS and logs in."""
    lab.write("password", PASSWORD + "\n").chmod(0o600)
    return (
        f'servers = {json.dumps(servers)}\n    tls = "require"\n    ca_file = "{ca_file(lab.folder)}"\n'
        '    username = "relay"\n    password_file = "password"'
    )


# The list


async def test_what_each_name_resolves_to(lab: Lab) -> None:
    lab.zone.set("a.internal", "A", ["127.0.0.2", "127.0.0.3"])
    lab.resolver = 'static = { "b.internal" = ["127.0.0.4"] }\n'
    file = endpoint(lab, 'servers = ["a.internal", "b.internal:26"]\n    backup = ["gone.internal"]')
    done = await run(file, "endpoints")
    assert [words(line) for line in done.lines] == [
        ["endpoint", "server", "address", "from", "ttl", "age"],
        ["gitlab", "a.internal:25", "127.0.0.2", f"dns {lab.zone.address}", "60 s", "0 s"],
        ["gitlab", "a.internal:25", "127.0.0.3", f"dns {lab.zone.address}", "60 s", "0 s"],
        ["gitlab", "b.internal:26", "127.0.0.4", "static", "-", "-"],
        ["gitlab", "gone.internal:25", "-", "-", "60 s", "0 s", f"NXDOMAIN from {lab.zone.address}, backup"],
    ]
    assert done.status == 0, "only a backup has no address"


@pytest.mark.parametrize(("fault", "said"), [(Fault.SERVFAIL, "SERVFAIL"), (Fault.REFUSED, "refused")])
async def test_a_primary_name_without_an_address(lab: Lab, fault: Fault, said: str) -> None:
    lab.zone.set("a.internal", "ANY", fault)
    lab.zone.set("b.internal", "A", ["127.0.0.2"])
    file = endpoint(lab, 'servers = ["a.internal", "b.internal"]')
    done = await run(file, "endpoints", "gitlab", "--json")
    first, second = done.objects()
    assert done.status == 2
    assert (first["address"], first["why"]) == (None, f"{said} from {lab.zone.address}")
    assert second == {
        "endpoint": "gitlab",
        "name": "b.internal:25",
        "server": "b.internal",
        "port": 25,
        "backup": False,
        "address": "127.0.0.2",
        "source": "dns",
        "status": "ok",
        "asked": lab.zone.address,
        "ttl": second["ttl"],
        "age": second["age"],
        "stale": "",
        "why": "",
    }
    assert 0 < second["ttl"] <= 60 and second["ttl"] + second["age"] == 60


async def test_explain_tells_what_dns_answered_as_the_list_does(lab: Lab) -> None:
    lab.zone.set("a.internal", "A", ["127.0.0.2"])
    lab.zone.set("a.internal", "AAAA", Fault.SERVFAIL)
    lab.resolver = 'static = { "b.internal" = ["127.0.0.4"] }\n'
    route = '[[route]]\nmatch = "*@gitlab.example"\nendpoint = "gitlab"\n'
    file = endpoint(lab, 'servers = ["a.internal", "b.internal"]', route)
    listed = (await run(file, "endpoints", "--json")).objects()
    (explained,) = (await run(file, "explain", "anna@gitlab.example", "--json")).objects()
    servers = explained["deliveries"][0]["servers"]
    known = ("asked", "ttl", "age", "stale")
    assert [[server[key] for key in known] for server in servers] == [
        [lab.zone.address, 60, 0, ""],
        ["", None, None, ""],
    ]
    assert [[hop[key] for key in known] for hop in listed] == [[server[key] for key in known] for server in servers]
    text = (await run(file, "explain", "anna@gitlab.example")).lines
    dns = f"127.0.0.2 (dns), from {lab.zone.address} for 60 s more, AAAA: SERVFAIL from {lab.zone.address}"
    assert f"     server a.internal:25: {dns}" in text
    assert "     server b.internal:25: 127.0.0.4 (static)" in text


async def test_the_servers_of_a_recipient_take_a_recipient(lab: Lab) -> None:
    lab.zone.set("example.net", "MX", ["10 mx.example.net"])
    lab.zone.set("mx.example.net", "A", ["127.0.0.2"])
    file = endpoint(lab, 'discover = "recipient"')
    done = await run(file, "endpoints")
    assert (done.status, done.lines) == (
        0,
        ["gitlab: its servers are those of each recipient's domain; --to ADDRESS names one"],
    )
    done = await run(file, "endpoints", "--to", "anna@example.net")
    assert words(done.lines[1])[1:3] == ["mx.example.net:25", "127.0.0.2"] and done.lines[1].endswith(
        "MX of example.net"
    )
    assert (await run(file, "endpoints", "--to", "anna@gone.example")).status == 2


async def test_relays_and_the_mailboxes_server_are_endpoints(lab: Lab) -> None:
    folder(
        lab,
        postfix_accounts="anna@example.org|{PLAIN}secret\n",
        postfix_relaymap="@example.org [127.0.0.9]:2025\n",
    )
    file = lab.config(
        """
        [docker_mailserver]
        config = "dms"
        [accounts]
        store = "lmtp"
        lmtp = "lmtp.internal:24"
        """
    )
    lab.zone.set("lmtp.internal", "A", ["127.0.0.2"])
    done = await run(file, "endpoints")
    assert [words(line)[:4] for line in done.lines[1:]] == [
        ["relay [127.0.0.9]:2025", "127.0.0.9:2025", "127.0.0.9", "written"],
        ["accounts.lmtp", "lmtp.internal:24", "127.0.0.2", f"dns {lab.zone.address}"],
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gitlap"], "there is no endpoint 'gitlap': the configuration has gitlab"),
        (["-v"], "--from and --verbose are for --probe"),
        (["--from", "anna@example.org"], "--from and --verbose are for --probe"),
        (["--to", "anna"], "no address"),
    ],
)
async def test_wrong_usage(lab: Lab, arguments: list[str], said: str) -> None:
    done = await run(endpoint(lab, 'servers = ["a.internal"]'), "endpoints", *arguments)
    assert done.status == 64 and said in done.error


# The probe


async def test_one_line_for_each_address_tells_what_fails(lab: Lab) -> None:
    good = await secured(lab, "a.internal", "127.0.0.2", "a.internal")
    port = good.port
    await secured(lab, "b.internal", "127.0.0.3", "wrong.internal", port=port)
    await secured(lab, "c.internal", "127.0.0.4", "c.internal", port=port, script=[on("RCPT", "550 5.1.1 \x1b[2J")])
    lab.zone.set("d.internal", "A", ["127.0.0.5"])
    servers = [f"{name}.internal:{port}" for name in "abcd"]
    route = '[[route]]\nmatch = "*@gitlab.example"\nendpoint = "gitlab"\n'
    file = endpoint(lab, f'{keys(lab, *servers[:3])}\n    backup = ["{servers[3]}", "gone.internal"]', route)
    done = await run(file, "endpoints", "--probe")
    source = f"dns {lab.zone.address}"
    assert [words(line)[1:] for line in done.lines[-5:]] == [
        [servers[0], f"127.0.0.2 ({source})", "ok"],
        [
            servers[1],
            f"127.0.0.3 ({source})",
            "starttls FAILED: TLS handshake failed: certificate refused: Hostname mismatch, certificate is not valid"
            " for 'b.internal'.",
        ],
        [servers[2], f"127.0.0.4 ({source})", "rcpt FAILED: 550 5.1.1 \\x1b[2J"],
        [servers[3], f"127.0.0.5 ({source}, backup)", "connect FAILED: connection refused"],
        ["gone.internal:25", "- (backup)", f"resolve FAILED: NXDOMAIN from {lab.zone.address}"],
    ]
    assert done.status == 2
    assert "for wrong.internal by OU=Testing CA" in done.text and "certificate for a.internal by" in done.text
    assert "rcpt      from <> to <postmaster@gitlab.example>: 250 2.1.5 Ok" in done.text
    assert PASSWORD not in done.text
    await good.quiet()
    assert good.sessions[0].login == "relay" and good.received == []


@pytest.mark.parametrize(
    ("mode", "encrypted", "verdict"),
    [
        ('tls = "require"', True, "ok"),
        ('tls = "require"\n    verify = false', True, "ok, TLS not verified"),
        ('tls = "prefer"', True, "ok, TLS not verified"),
        ('tls = "prefer"', False, "ok, plain text"),
        ('tls = "never"', True, "ok, plain text"),
    ],
)
async def test_the_summary_tells_how_safe_the_way_is(lab: Lab, mode: str, encrypted: bool, verdict: str) -> None:
    server = await lab.upstream("a.internal", tls=certified("a.internal") if encrypted else None)
    authority = f'\n    ca_file = "{ca_file(lab.folder)}"' if verdict == "ok" else ""
    file = endpoint(lab, f'servers = ["a.internal:{server.port}"]\n    {mode}{authority}')
    done = await run(file, "endpoints", "--probe")
    assert done.status == 0 and words(done.lines[-1])[-1] == verdict


async def test_who_is_tried_is_whom_the_first_route_names(lab: Lab) -> None:
    server = await lab.upstream("a.internal", [on("RCPT", "550 5.1.1 Nobody", match="postmaster")])
    routes = "".join(
        f'[[route]]\nmatch = "{match}"\nendpoint = "gitlab"\n'
        for match in ("*", "Incoming@gitlab.example", "*@gitlab.example")
    )
    file = endpoint(lab, f'servers = ["a.internal:{server.port}"]', routes)
    done = await run(file, "endpoints", "--probe")
    assert done.status == 0 and "to <Incoming@gitlab.example>: 250 2.1.5 Ok" in done.text


async def test_transcripts_of_failures_or_of_all(lab: Lab) -> None:
    good = await secured(lab, "a.internal", "127.0.0.2", "a.internal")
    file = endpoint(lab, keys(lab, f"a.internal:{good.port}"))
    brief, long = await run(file, "endpoints", "--probe"), await run(file, "endpoints", "--probe", "-v")
    assert brief.status == long.status == 0
    assert " ~> RCPT TO" not in brief.text
    assert " ~> AUTH PLAIN [credentials]" in long.text and " ~> RCPT TO:<postmaster>" in long.text
    assert " ~> RSET" in long.text and "auth      logged in as relay" in long.text


async def test_the_envelope_of_a_probe(lab: Lab) -> None:
    server = await lab.upstream("a.internal")
    file = endpoint(lab, f'servers = ["a.internal:{server.port}"]')
    done = await run(file, "endpoints", "--probe", "--from", "me@here.example", "--to", "you@there.example")
    assert "rcpt      from <me@here.example> to <you@there.example>: 250 2.1.5 Ok" in done.text
    assert server.sessions[0].commands()[1:3] == ["MAIL FROM:<me@here.example> SIZE=0", "RCPT TO:<you@there.example>"]


async def test_a_probe_as_json(lab: Lab) -> None:
    server = await secured(lab, "a.internal", "127.0.0.2", "a.internal")
    file = endpoint(lab, keys(lab, f"a.internal:{server.port}", "gone.internal"))
    done = await run(file, "endpoints", "--probe", "--json")
    good, bad = done.objects()
    assert (good["ok"], good["step"], good["answer"], good["login"]) == (True, "rcpt", "250 2.1.5 Ok", "relay")
    assert good["greeting"] == "220 upstream.test ESMTP" and good["extensions"]["8BITMIME"] == ""
    assert good["connect_ms"] > 0 and good["tls"].startswith("TLSv1.")
    assert good["certificate"]["names"] == ["a.internal"] and good["certificate"]["verified"] is True
    assert (bad["ok"], bad["step"], bad["answer"]) == (False, "resolve", f"NXDOMAIN from {lab.zone.address}")
    assert bad["connect_ms"] is None and bad["certificate"] is None and bad["transcript"] == []
    assert PASSWORD not in done.text


@pytest.mark.peer("dovecot")
async def test_the_mailboxes_server_knows_the_mailboxes(lab: Lab) -> None:
    """postmaster is nobody there."""
    folder(lab, postfix_accounts="anna@example.org|{PLAIN}secret\n")
    with dovecot({"anna@example.org": ""}) as running:
        lab.zone.set("dovecot.internal", "A", ["127.0.0.1"])
        lmtp = f"dovecot.internal:{running.lmtp}"
        file = lab.config(f'[docker_mailserver]\nconfig = "dms"\n[accounts]\nstore = "lmtp"\nlmtp = "{lmtp}"\n')
        done = await run(file, "endpoints", "--probe")
        assert done.lines[-1].endswith("ok, plain text") and "to <anna@example.org>: 250 2.1.5 OK" in done.text
        done = await run(file, "endpoints", "--probe", "--to", "nobody@example.org")
        assert "rcpt FAILED: 550 5.1.1" in done.lines[-1] and done.status == 2


# check --connect


async def test_an_endpoint_that_nobody_answers_is_one_error(lab: Lab) -> None:
    lab.zone.set("a.internal", "A", ["127.0.0.2"])
    file = endpoint(lab, 'servers = ["a.internal:1"]\n    backup = ["gone.internal"]')
    assert (await run(file, "check")).status == 0
    done = await run(file, "check", "--connect")
    assert done.status == 2 and done.names() == ["endpoint-unreachable"]
    assert (
        "error: endpoint.gitlab: No server takes mail now: a.internal (dns, 127.0.0.2:1) connection refused;"
        f" gone.internal: NXDOMAIN from {lab.zone.address}. [endpoint-unreachable]"
    ) in done.lines
    assert "    instead: smtproute endpoints gitlab --probe" in done.lines


async def test_a_server_that_refuses_postmaster_alone_is_reached(lab: Lab) -> None:
    """As GitLab's, which knows its projects' addresses only."""
    server = await lab.upstream("a.internal", [on("RCPT", "550 5.1.1 Nobody")])
    keys = f'servers = ["a.internal:{server.port}", "b.internal:{server.port}"]'
    file = endpoint(lab, keys, '[[route]]\nmatch = "*@gitlab.example"\nendpoint = "gitlab"\n')
    done = await run(file, "check", "--connect")
    assert done.status == 1 and done.names() == ["server-unreachable", "postmaster-refused"]
    assert (
        "warning: endpoint.gitlab: It takes connections, and refuses RCPT TO:<postmaster@gitlab.example>:"
        f" a.internal (dns, 127.0.0.1:{server.port}) 550 5.1.1 Nobody: RFC 5321 4.5.1 wants that taken."
        " Try an address that it has. [postmaster-refused]"
    ) in done.lines
    assert "    instead: smtproute endpoints gitlab --probe --to ADDRESS" in done.lines


@pytest.mark.parametrize(
    ("match", "reply"), [("*@gitlab.example", "450 4.2.0 Later"), ("anna@gitlab.example", "550 5.1.1 Nobody")]
)
async def test_any_other_refusal_of_a_recipient_is_an_error(lab: Lab, match: str, reply: str) -> None:
    server = await lab.upstream("a.internal", [on("RCPT", reply)])
    route = f'[[route]]\nmatch = "{match}"\nendpoint = "gitlab"\n'
    done = await run(endpoint(lab, f'servers = ["a.internal:{server.port}"]', route), "check", "--connect")
    assert done.status == 2 and done.names() == ["endpoint-unreachable"]


GOES_ON = "a running relay goes on with its last good answer, where it has one, for up to 1.5h (resolver.stale)"


@pytest.mark.parametrize(
    ("discover", "fault", "stale", "said"),
    [("a", Fault.SERVFAIL, "90m", True), ("mx", Fault.REFUSED, "90m", True), ("a", Fault.SERVFAIL, "0s", False)],
)
async def test_while_dns_fails_a_running_relay_goes_on(
    lab: Lab, discover: str, fault: Fault, stale: str, said: bool
) -> None:
    lab.resolver = f'stale = "{stale}"\n'
    lab.zone.set("a.internal", "ANY", fault)
    route = '[[route]]\nmatch = "*@gitlab.example"\nendpoint = "gitlab"\n'
    file = endpoint(lab, f'servers = ["a.internal"]\n    discover = "{discover}"', route)
    listed, probed = await run(file, "endpoints"), await run(file, "endpoints", "--probe")
    assert (f"note: {GOES_ON}" in listed.lines) == (f"note: {GOES_ON}" in probed.lines) == said
    as_json = await run(file, "endpoints", "--json")
    assert len(as_json.objects()) == 1 and (f"note: {GOES_ON}" in as_json.error) == said
    explained = await run(file, "explain", "anna@gitlab.example")
    assert (f"  note: {GOES_ON}" in explained.lines) == said
    checked = await run(file, "check", "--connect")
    assert checked.names() == ["endpoint-unreachable"] and (f" Where DNS fails, {GOES_ON}. [" in checked.text) == said


async def test_a_server_among_others_is_a_warning(lab: Lab) -> None:
    server = await lab.upstream("a.internal", [on("RCPT", "451 4.3.0 Later")])
    backup = await lab.upstream("b.internal", ip="127.0.0.2")
    file = endpoint(lab, f'servers = ["a.internal:{server.port}"]\n    backup = ["b.internal:{backup.port}"]')
    done = await run(file, "check", "--connect", "--json")
    (finding,) = done.objects()
    assert (done.status, finding["name"], finding["where"]) == (1, "server-unreachable", "endpoint.gitlab")
    assert f"a.internal (dns, 127.0.0.1:{server.port}) 451 4.3.0 Later." in finding["what"]


async def test_servers_that_all_take_mail_are_no_finding(lab: Lab) -> None:
    server = await lab.upstream("a.internal")
    more = '[endpoint.internet]\ndiscover = "recipient"\n'
    done = await run(endpoint(lab, f'servers = ["a.internal:{server.port}"]', more), "check", "--connect")
    assert (done.status, done.names()) == (0, [])


@pytest.mark.parametrize(("days", "mode", "names"), [(13, "require", 1), (15, "require", 0), (13, "prefer", 0)])
async def test_a_certificate_that_ends_soon(lab: Lab, days: int, mode: str, names: int) -> None:
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days, hours=1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("a.internal", not_after=end).configure_cert(context)
    server = await lab.upstream("a.internal", tls=context)
    verified = f'\n    ca_file = "{ca_file(lab.folder)}"' if mode == "require" else ""
    file = endpoint(lab, f'servers = ["a.internal:{server.port}"]\n    tls = "{mode}"{verified}')
    done = await run(file, "check", "--connect")
    assert done.names() == ["certificate-expires"] * names
    if names:
        assert f"expires on {end:%Y-%m-%d at %H:%M} (UTC)." in done.text


async def test_a_certificate_that_is_not_trusted(lab: Lab) -> None:
    server = await lab.upstream("a.internal", tls=certified("a.internal", by=STRANGER))
    file = endpoint(
        lab, f'servers = ["a.internal:{server.port}"]\n    tls = "require"\n    ca_file = "{ca_file(lab.folder)}"'
    )
    done = await run(file, "check", "--connect")
    assert done.names() == ["endpoint-unreachable"] and "certificate refused" in done.text


# Entries that hide DNS


async def hiding(lab: Lab, hosts: str = "", **static: str) -> Done:
    """`check` with these entries for servers of an endpoint."""
    lab.write("hosts", hosts)
    table = ", ".join(f'"{name}.internal" = ["{ip}"]' for name, ip in static.items())
    lab.resolver = f'static = {{ {table} }}\nhosts_file = "{lab.folder}/hosts"\n{lab.resolver}'
    return await run(endpoint(lab, 'servers = ["a.internal"]\n    backup = ["b.internal", "localhost"]'), "check")


async def test_an_entry_that_says_otherwise_than_dns(lab: Lab) -> None:
    lab.zone.set("a.internal", "A", ["127.0.0.2"])
    done = await hiding(lab, a="127.0.0.3", other="127.0.0.4")
    assert (done.status, done.names()) == (1, ["static-hides-dns"])
    assert done.lines[0].startswith(
        'warning: resolver.static."a.internal": a.internal is 127.0.0.3 by this entry;'
        f" DNS ({lab.zone.address}) says 127.0.0.2, and is not asked."
    )
    assert {asked.name for asked in lab.zone.queries} == {"a.internal"}, "nothing else is asked"


async def test_an_entry_that_says_the_same(lab: Lab) -> None:
    lab.zone.set("b.internal", "A", ["127.0.0.2"])
    done = await hiding(lab, b="127.0.0.2")
    assert done.names() == ["static-hides-dns"] and "says the same." in done.text


async def test_lines_of_the_hosts_file(lab: Lab) -> None:
    lab.zone.set("a.internal", "A", ["127.0.0.2"])
    lab.zone.set("b.internal", "A", ["127.0.0.2"])
    lab.zone.set("localhost", "A", ["127.0.0.1"])
    done = await hiding(lab, "127.0.0.1 localhost\n127.0.0.3 a.internal b.internal\n")
    assert done.names() == ["hosts-hides-dns"] * 2
    assert [line.split(": ")[1] for line in done.lines[:2]] == [f"{lab.folder}/hosts"] * 2


@pytest.mark.parametrize("fault", [Fault.SERVFAIL, Fault.TIMEOUT])
async def test_entries_that_hide_nothing(lab: Lab, fault: Fault) -> None:
    """DNS does not have the name, or fails."""
    lab.zone.set("a.internal", "ANY", fault)
    assert (await hiding(lab, a="127.0.0.3", b="127.0.0.3")).names() == []


@pytest.mark.parametrize("order", [["dns", "static"], ["static"]])
async def test_entries_before_which_dns_is_asked_or_never(lab: Lab, order: list[str]) -> None:
    lab.zone.set("a.internal", "A", ["127.0.0.2"])
    lab.resolver = f"order = {json.dumps(order)}\n"
    assert (await hiding(lab, a="127.0.0.3")).names() == []
    assert lab.zone.queries == []
