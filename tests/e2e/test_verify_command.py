"""`smtproute verify`, as a process that asks a name server: what it says of stored messages."""

from __future__ import annotations

import asyncio
import os
import re
import smtplib
import textwrap

import dkim
import pytest

from smtproute.core.address import Domain
from smtproute.core.event import Happening
from smtproute.core.settings import Authentication, DomainKey
from smtproute.mailauth import arc
from smtproute.mailauth.arc import Chain, ChainStatus
from smtproute.mailauth.keys import SigningKey, load
from smtproute.testing.zone import Fault
from tests.e2e.conftest import Lab
from tests.e2e.test_cli import SMTPROUTE
from tests.e2e.test_endpoints_command import Done

BOUNDS = Authentication()
NO_CLOSER = "What was changed was not looked for: the broken signatures before this one took all the work it may cost."
LETTER = (
    b"From: Ada <ada@sender.example>\r\n"
    b"To: list@lists.example\r\n"
    b"Subject: Engines\r\n"
    b"Date: Sun, 22 Nov 2026 10:00:00 +0000\r\n"
    b"\r\n"
    b"Dear Charles,\r\nit weaves.\r\n"
)
RECEIVED = (
    b"Return-Path: <ada@sender.example>\r\n"
    b"Received: from localhost (localhost [127.0.0.1])\r\n\tby mx.example.org; Sun, 22 Nov 2026 10:00:03 +0000\r\n"
    b"Received: from out.sender.example (out.sender.example [192.0.2.7])\r\n"
    b"\tby mx.example.org; Sun, 22 Nov 2026 10:00:02 +0000\r\n"
)
SPF = "v=spf1 ip4:192.0.2.0/24 -all"
DMARC = "v=DMARC1; p=reject; rua=mailto:dmarc@sender.example"


def key(lab: Lab, domain: str) -> SigningKey:
    return load(DomainKey(Domain.parse(domain), "mail", str(lab.folder / lab.key(domain))))


def signed(letter: bytes, by: SigningKey, lab: Lab) -> bytes:
    pem = (lab.folder / f"mail-{by.domain}.pem").read_bytes()
    field = dkim.sign(letter, b"mail", by.domain.encode(), pem, include_headers=[b"from", b"to", b"subject", b"date"])
    return field + letter


def sealed(letter: bytes, by: SigningKey, chain: Chain, results: str) -> bytes:
    return arc.seal(letter, chain=chain, key=by, results=results, at=1, bounds=BOUNDS) + letter


@pytest.fixture
def world(lab: Lab) -> Lab:
    lab.zone.set("sender.example", "TXT", [SPF, "another=text"])
    lab.zone.set("_dmarc.sender.example", "TXT", [DMARC])
    return lab


async def verify(lab: Lab, message: bytes, *arguments: str, name: str = "letter.eml", more: str = "") -> Done:
    file = lab.folder / name
    file.write_bytes(message)
    return await run(lab, str(file), *arguments, more=more)


async def run(lab: Lab, *arguments: str, given: bytes | None = None, more: str = "") -> Done:
    process = await asyncio.create_subprocess_exec(
        *SMTPROUTE,
        "verify",
        *arguments,
        "-c",
        str(lab.config(more)),
        stdin=-1,
        stdout=-1,
        stderr=-1,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    out, error = await process.communicate(given)
    assert b"Traceback" not in error, error
    return Done(process.returncode, out, error)


def named(done: Done, what: str) -> list[dict]:
    return [each for each in done.objects() if each["what"] == what]


async def test_a_message_that_passes(world: Lab) -> None:
    done = await verify(world, RECEIVED + signed(LETTER, key(world, "sender.example"), world))
    text = re.sub(r"\bb=\S+", "b=...", done.text)
    assert text == textwrap.dedent("""\
        message    969 octets
        MAIL FROM  <ada@sender.example> (Return-Path)
        EHLO       out.sender.example (Received)
        client     192.0.2.7 (Received)

        spf        pass       MAIL FROM sender.example
                              192.0.2.7 matches ip4:192.0.2.0/24 of sender.example
                              record: v=spf1 ip4:192.0.2.0/24 -all
        spf        none       EHLO out.sender.example
                              out.sender.example publishes no SPF record
        dkim 1     pass       sender.example, selector mail, rsa-sha256, i=@sender.example, b=...
                              2048-bit RSA key
        dmarc      pass       sender.example
                              SPF of sender.example: pass, aligned
                              _dmarc.sender.example: v=DMARC1; p=reject; rua=mailto:dmarc@sender.example
                              - spf=pass of sender.example: aligned (relaxed)
                              - dkim=pass of sender.example: aligned (relaxed)
        arc        none

        what the relay would write:
          Authentication-Results: mail.example.org;
           spf=pass (192.0.2.7 matches ip4:192.0.2.0/24 of sender.example)
           smtp.mailfrom=ada@sender.example;
           spf=none (out.sender.example publishes no SPF record)
           smtp.helo=out.sender.example;
           dkim=pass (2048-bit RSA key) header.d=sender.example
           header.i=@sender.example header.s=mail header.a=rsa-sha256
           header.b=...
           dmarc=pass (p=reject, SPF of sender.example: pass, aligned)
           header.from=sender.example;
           arc=none smtp.remote-ip=192.0.2.7
        """)
    assert done.status == 0


async def test_what_a_list_did(world: Lab) -> None:
    letter = signed(LETTER, key(world, "sender.example"), world)
    first = sealed(
        letter,
        key(world, "first.example"),
        Chain(ChainStatus.NONE),
        "mx.first.example; dkim=pass header.d=sender.example",
    )
    changed = first.replace(b"Subject: ", b"Subject: [looms] ") + b"____\r\nleave the list\r\n"
    second = sealed(changed, key(world, "lists.example"), Chain(ChainStatus.PASS, 1), "mx.lists.example; arc=pass")
    options = ("--from", "bounces@lists.example", "--helo", "lists.example", "--client-ip", "192.0.2.9")
    done = await verify(world, second, *options, "--json")
    (of_dkim,), (dmarc,), (chain,) = named(done, "dkim"), named(done, "dmarc"), named(done, "arc")
    changes = [
        '2 lines (22 octets), the first of them "____", were put after the body that was signed.',
        '"[looms]" was put into the Subject.',
    ]
    assert (of_dkim["result"], of_dkim["domain"], of_dkim["changes"]) == ("fail", "sender.example", changes)
    assert (dmarc["result"], dmarc["record_at"], dmarc["record"]) == ("fail", "_dmarc.sender.example", DMARC)
    assert [(each["method"], each["domain"], each["aligned"]) for each in dmarc["identifiers"]] == [
        ("spf", "lists.example", False),
        ("dkim", "sender.example", True),
    ]
    assert (dmarc["asked"], dmarc["policy"], dmarc["disposition"]) == ("reject", "observe", "none")
    assert (chain["result"], chain["sets"]) == ("pass", 2)
    one, two = named(done, "arc-set")
    assert (one["sealer"], one["cv"], one["seal"], one["signature"]) == ("first.example", "none", "pass", "fail")
    assert one["changes"] == changes and one["results"] == "mx.first.example; dkim=pass header.d=sender.example"
    assert (two["sealer"], two["cv"], two["seal"], two["signature"]) == ("lists.example", "pass", "pass", "pass")
    assert done.status == 1
    text = (await verify(world, second, *options)).text
    assert "\n                      - 2 lines (22 octets), the first of them" in text
    assert "\narc i=1    cv=none    ARC-Seal of first.example: pass\n" in text
    assert "policy: sender.example asks for reject, which is not done: policy is observe\n" in text
    assert max(map(len, text.splitlines())) <= 100
    trusting = '[authentication]\npolicy = "enforce"\ntrusted_sealers = ["lists.example", "first.example"]\n'
    (dmarc,) = named(await verify(world, second, *options, "--json", more=trusting), "dmarc")
    assert dmarc["disposition"] == "none" and "first.example, which is trusted" in dmarc["ruling"]
    (dmarc,) = named(await verify(world, second, *options, "--json", more=trusting.split("trusted")[0]), "dmarc")
    assert dmarc["disposition"] == "reject"


async def test_a_closer_look_at_many_broken_signatures_ends(world: Lab) -> None:
    letter = signed(LETTER, key(world, "sender.example"), world)
    signature = letter.removesuffix(LETTER)
    done = await verify(world, signature * 19 + letter.replace(b"Subject: ", b"Subject: [looms] "), "--json")
    changes = [each["changes"] for each in named(done, "dkim")]
    looked = [each for each in changes if each[0] == '"[looms]" was put into the Subject.']
    assert len(changes) == 20 and 10 < len(looked) < 20
    assert changes == looked + [[NO_CLOSER]] * (20 - len(looked))


async def test_a_chain_that_fails_and_one_that_is_torn(world: Lab) -> None:
    world.zone.remove("_dmarc.sender.example")
    letter = signed(LETTER, key(world, "sender.example"), world)
    by = key(world, "first.example")
    good = sealed(letter, by, Chain(ChainStatus.NONE), "mx.first.example; none")
    assert (await verify(world, good)).status == 0, "a signature passes, and no DMARC policy is published"
    assert (await verify(world, LETTER)).status == 1, "nothing passes"
    unsigned = sealed(LETTER, by, Chain(ChainStatus.NONE), "mx.first.example; none")
    assert (await verify(world, unsigned)).status == 0, "the chain passes"
    torn = good.replace(b"cv=none", b"cv=pass")
    done = await verify(world, torn, "--json")
    (chain,), (one,) = named(done, "arc"), named(done, "arc-set")
    assert chain["result"] == "fail" and chain["reason"] and one["seal"] == "fail"
    assert done.status == 1, "a chain that fails, whatever else passes"
    without = re.sub(rb"(?s)ARC-Authentication-Results:.*(?=DKIM-Signature)", b"", good)
    done = await verify(world, without, "--json")
    assert named(done, "arc")[0]["reason"] == "there is no ARC-Authentication-Results of i=1"
    assert named(done, "arc-set") == []


async def test_a_record_of_the_organisational_domain(world: Lab) -> None:
    message = RECEIVED + LETTER.replace(b"ada@sender", b"ada@news.sender")
    (dmarc,) = named(await verify(world, message, "--json"), "dmarc")
    assert (dmarc["domain"], dmarc["record_at"]) == ("news.sender.example", "_dmarc.sender.example")
    assert dmarc["identifiers"] == [
        {"method": "spf", "domain": "sender.example", "result": "pass", "aligned": True, "strict": False}
    ]


# The file


async def test_a_message_of_a_maildir_and_of_an_mbox(world: Lab) -> None:
    message = RECEIVED + signed(LETTER + b"and looms\r\n" * 100, key(world, "sender.example"), world)
    unix = message.replace(b"\r\n", b"\n")
    done = await verify(world, b"From ada@sender.example Sun Nov 22 10:00:00 2026\n" + unix, "--json")
    (told,), (of_dkim,) = named(done, "message"), named(done, "dkim")
    assert told["notes"] == [
        'its first line, "From ...", is that of an mbox file and was left out',
        f"{unix.count(10)} line ends that are LF are taken as CRLF, as SMTP has them",
    ]
    assert (done.status, told["octets"], of_dkim["result"]) == (0, len(message), "pass")
    piped = await run(world, "-", given=unix)
    assert (piped.status, "dkim 1     pass" in piped.text) == (0, True)
    assert f"message    {len(message)} octets\n{' ' * 22}{unix.count(10)} line ends that are LF" in piped.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b" \r\n\r\n", "it is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "it does not begin with a header field, so it is no message"),
        (b"Hello world\r\n", "it does not begin with a header field"),
        (LETTER + b"x" * 1000, "it has more octets than this relay takes (limits.message_size, 1000)"),
    ],
)
async def test_what_is_no_message(world: Lab, content: bytes, said: str) -> None:
    done = await verify(world, content, name="it\x1b.eml", more="[limits]\nmessage_size = 1000\n")
    assert (done.status, done.text) == (2, "")
    assert f"/it\\x1b.eml: {said}" in done.error


async def test_what_cannot_be_read(world: Lab) -> None:
    assert "it cannot be read: no such file or directory" in (await run(world, "/nowhere")).error
    done = await run(world, str(world.folder))
    assert done.status == 2 and "it is a folder, and not a message" in done.error
    done = await verify(world, b"a:\r\n" * 70_000 + LETTER)
    assert (done.status, done.text) == (2, "")
    assert "its header section is larger than 262144 octets, so this relay does not take it" in done.error
    os.mkfifo(world.folder / "pipe")
    done = await run(world, str(world.folder / "pipe"))
    assert done.status == 2 and "it is no regular file (what comes through a pipe is read where FILE" in done.error
    assert (await run(world, "-", given=b"")).error == "-: it is empty\n"


# The envelope


async def test_the_envelope_of_the_options_and_of_the_message(world: Lab) -> None:
    options = ("--from", "<>", "--helo", "sender.example", "--client-ip", "192.0.2.8")
    done = await verify(world, RECEIVED + LETTER, *options, "--json")
    (told,), by_spf = named(done, "message"), named(done, "spf")
    assert told["mail_from"] == {"value": "", "where": "--from"}
    assert (told["helo"]["value"], told["client_ip"]["value"]) == ("sender.example", "192.0.2.8")
    assert [(each["identity"], each["domain"], each["result"]) for each in by_spf] == [
        ("mailfrom", "sender.example", "pass"),
        ("helo", "sender.example", "pass"),
    ]
    assert "MAIL FROM  <> (--from)" in (await verify(world, RECEIVED + LETTER, *options)).text
    six = b"Received: from six.example (unknown [IPv6:2001:db8::7]) by mx.example.org; x\r\n" + LETTER
    (told,) = named(await verify(world, six, "--json"), "message")
    assert (told["helo"]["value"], told["client_ip"]["value"]) == ("six.example", "2001:db8::7")
    assert told["mail_from"] == {"value": "ada@sender.example", "where": "From, since there is no Return-Path"}


async def test_without_a_client_there_is_no_spf(world: Lab) -> None:
    done = await verify(world, LETTER)
    assert "client     not known" in done.text
    assert "spf        not judged the client's address is not known: give --client-ip\n" in done.text
    assert "remote-ip" not in done.text
    assert done.status == 1
    lines = done.lines[done.lines.index("dmarc      fail, as far as DKIM goes") + 1 :]
    said = " ".join(line.strip() for line in lines[:4])
    assert said.startswith(
        "sender.example nothing aligned passed; SPF was not judged; no DKIM signature (the client's address is not"
        " known: give --client-ip)"
    )
    assert "SPF was not judged" in " ".join(done.text.partition("what the relay would write:")[2].split())
    done = await verify(world, signed(LETTER, key(world, "sender.example"), world))
    assert "dmarc      pass       sender.example\n" in done.text and done.status == 0


@pytest.mark.parametrize(
    ("option", "said"), [(("--client-ip", "x"), "it is no IP address"), (("--from", "x"), "is no address")]
)
async def test_wrong_usage(world: Lab, option: tuple[str, str], said: str) -> None:
    done = await verify(world, LETTER, *option)
    assert done.status == 64 and said in " ".join(done.error.replace("│", " ").split())


# Trouble


async def test_a_name_server_that_fails(world: Lab) -> None:
    message = RECEIVED + signed(LETTER, key(world, "sender.example"), world)
    world.zone.set("mail._domainkey.sender.example", "ANY", Fault.SERVFAIL)
    world.zone.set("sender.example", "ANY", Fault.SERVFAIL)
    done = await verify(world, message, "--json")
    assert [each["result"] for each in (*named(done, "spf"), *named(done, "dkim"), *named(done, "dmarc"))] == [
        "temperror",
        "none",
        "temperror",
        "temperror",
    ]
    assert "SERVFAIL" in named(done, "dkim")[0]["reason"] and done.status == 1


async def test_what_is_switched_off(world: Lab) -> None:
    off = "[authentication]\nspf = false\ndkim = false\ndmarc = false\narc = false\n"
    done = await verify(world, RECEIVED + LETTER, more=off)
    for method in ("spf", "dkim", "dmarc", "arc"):
        assert f"{method:<10} not judged [authentication] {method} is false" in done.lines
    assert done.status == 1


async def test_what_strangers_write_stays_on_its_line(world: Lab) -> None:
    by = key(world, "first.example")
    letter = sealed(LETTER, by, Chain(ChainStatus.NONE), "mx.first.example; none")
    evil = letter.replace(b"mx.first.example; none", "mx; x=\x1b[2J\u202e\u2028\x07".encode())
    evil = evil.replace(b"Subject: ", b"Subject: \x1b]0;x\x07 ")
    evil = b"Received: from \x1b[31m (x [192.0.2.7])\r\n" + evil
    done = await verify(world, evil)
    assert done.status == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", done.text)
    assert r"\x1b" in done.text


async def test_it_is_what_the_relay_finds(world: Lab) -> None:
    message = signed(LETTER, key(world, "sender.example"), world)
    message = sealed(
        message,
        key(world, "first.example"),
        Chain(ChainStatus.NONE),
        "mx.first.example; dkim=pass header.d=sender.example",
    )
    message = message.replace(b"Engines", b"Machines")
    relay = await world.started("""
        domains = ["lists.example"]
        [listener.mx]
        bind = "127.0.0.1:0"
        role = "inbound"
        [[route]]
        match = "*@lists.example"
        mode = "capture"
    """)

    def send() -> None:
        with smtplib.SMTP(*relay.addresses["mx"], local_hostname="out.sender.example", timeout=30) as client:
            client.sendmail("ada@sender.example", ["list@lists.example"], message)

    await asyncio.to_thread(send)
    event = next(each for each in world.journal.events if each.what is Happening.VERDICT)
    options = ("--from", "ada@sender.example", "--helo", "out.sender.example", "--client-ip", "127.0.0.1")
    (told,) = named(await verify(world, message, *options, "--json"), "authentication-results")
    verdicts = "; ".join(each.replace(";", ",") for each in event.facts["verdicts"])  # no ; in comments
    field = " ".join(told["field"].replace('"', "").split())  # b= is quoted when the signature has a slash in it
    assert field == f"Authentication-Results: mail.example.org; {verdicts}"
