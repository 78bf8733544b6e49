"""Everything about a message at once, through `examine`; and beside it what the stock authheaders makes of the same."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import authheaders
import authheaders.dmarc_lookup
import authres
import dkim
import dns.exception
import pytest
from arc_peers import pem, signing_key, zone
from hypothesis import given, settings
from hypothesis import strategies as st
from spf_zone import TIMEOUT, Names, ZoneLookup

from smtproute.core.address import Address
from smtproute.core.envelope import Client, Envelope
from smtproute.core.lookup import Unanswered
from smtproute.core.settings import Authentication, Policy, Role
from smtproute.core.verdict import Disposition, Judged, Verdict
from smtproute.mailauth import dmarc, judgement
from smtproute.mailauth.results import field, read

LETTER = b"From: a@{author}\r\nTo: b@here.example\r\nSubject: x\r\n\r\nbody\r\n"
CLIENT = Client("192.0.2.1", 4711, "mx", Role.INBOUND, False, helo="mail.example.org")
ENVELOPE = Envelope(CLIENT, Address.parse("bounce@other.example"))


def letter(author: str = "example.org", *signers: str) -> bytes:
    """Signed by dkimpy; the first signer is on top."""
    message = LETTER.replace(b"{author}", author.encode())
    for domain in reversed(signers):
        message = dkim.sign(message, b"mail", domain.encode(), pem(signing_key(domain))) + message
    return message


def names(*signers: str, **records: str) -> dict[str, dict[str, list[str]]]:
    """The keys of these signers, and the TXT records at these names, in which `__` is a dot."""
    texts = {**zone(*map(signing_key, signers or ("nobody.example",))), **records}
    return {name.replace("__", "."): {"TXT": [text]} for name, text in texts.items()}


def judged(
    message: bytes, asked: Names | ZoneLookup, envelope: Envelope = ENVELOPE, chance: float = 0.0, **switches: Any
) -> Judged:
    lookup = asked if isinstance(asked, ZoneLookup) else ZoneLookup(asked)

    async def found() -> Judged:
        with ThreadPoolExecutor(2) as pool:
            settings = Authentication(**switches)
            return await judgement.judge(
                message, envelope, settings, lookup, pool, "mx.here.example", at=time.time(), chance=chance
            )

    return asyncio.run(found())


def methods(found: Judged) -> list[str]:
    return [f"{verdict.method}={verdict.result}" for verdict in found.verdicts]


def stock(message: bytes, texts: Mapping[str, Any], prev: str = "") -> dict[str, Verdict]:
    """What authheaders as it comes says, with the results of SPF given as `prev`."""

    def look_up(name: Any, **_: Any) -> Any:
        plain = name.decode() if isinstance(name, bytes) else name
        found = texts.get(plain.rstrip("."), {})
        if found == TIMEOUT:
            raise dns.exception.Timeout
        text = found["TXT"][0] if found else ""
        return text.encode() if isinstance(name, bytes) else text

    known = f"Authentication-Results: mx.here.example; {prev or 'spf=none smtp.mailfrom=a@other.example'}"
    said = authheaders.authenticate_message(message, "mx.here.example", prev=known, dnsfunc=look_up)
    return {each.method: each for each in read(said)}


def test_a_hyphen_belongs_to_a_domain() -> None:
    """authheaders' pattern of a domain has none: it asks for the record of `my`."""
    zone = names("my-domain.com", _dmarc__my="v=DMARC1; p=reject")
    zone["_dmarc.my-domain.com"] = {"TXT": ["v=DMARC1; p=none"]}
    message = letter("my-domain.com", "my-domain.com")
    assert stock(message, zone)["dmarc"].properties == (("header.from", "my"), ("policy.dmarc", "reject"))
    assert "dmarc=pass" in methods(judged(message, zone))


def test_every_signature_counts() -> None:
    """authheaders looks at the first alone: of mail that a service sends in somebody's name it says fail."""
    zone = names("esp.example", "example.org", _dmarc__example__org="v=DMARC1; p=reject")
    message = letter("example.org", "esp.example", "example.org")
    assert stock(message, zone)["dmarc"].result == "fail"
    assert methods(judged(message, zone))[2:] == ["dkim=pass", "dkim=pass", "dmarc=pass", "arc=none"]


def test_mail_without_a_signature_has_none() -> None:
    """authheaders says dkim=fail."""
    assert stock(letter(), names())["dkim"].result == "fail"
    found = judged(letter(), names())
    assert "dkim=none" in methods(found) and not any(method == "dkim=fail" for method in methods(found))


def test_a_message_without_an_author_gets_verdicts() -> None:
    """authheaders dies of it."""
    message = b"To: b@here.example\r\n\r\nbody\r\n"
    with pytest.raises(UnboundLocalError):
        stock(message, names())
    assert "dmarc=none" in methods(judged(message, names()))


def test_a_timeout_is_a_temperror() -> None:
    """authheaders dies of it."""
    silent: dict[str, Any] = {**names("example.org"), "_dmarc.example.org": TIMEOUT}
    with pytest.raises(dns.exception.Timeout):
        stock(letter("example.org", "example.org"), silent)
    found = judged(letter("example.org", "example.org"), silent, policy=Policy.ENFORCE)
    assert "dmarc=temperror" in methods(found)
    assert (found.disposition, found.faults) == (Disposition.NONE, ())
    assert found.reason.startswith("it is accepted, since DMARC cannot be judged now; _dmarc.example.org could not be")


def test_a_domains_own_record_is_followed_by_its_p() -> None:
    """authheaders follows sp= for the domain itself too."""
    zone = names(_dmarc__example__org="v=DMARC1; p=reject; sp=none")
    assert stock(letter(), zone)["dmarc"].properties == (("header.from", "example.org"), ("policy.dmarc", "none"))
    assert judged(letter(), zone, policy=Policy.ENFORCE).disposition is Disposition.REJECT


def test_the_public_suffix_list_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """authheaders reads it for every message, several times: most of what it takes."""
    read = []
    original = authheaders.dmarc_lookup.PublicSuffixList
    monkeypatch.setattr(authheaders.dmarc_lookup, "PublicSuffixList", lambda file: read.append(1) or original(file))
    zone = names(_dmarc__example__org="v=DMARC1; p=reject")
    for _ in range(2):
        stock(letter("mail.example.org"), zone, "spf=pass smtp.mailfrom=a@bounce.example.net")
    assert len(read) == 6
    lists = set()
    for _ in range(2):
        judged(letter("mail.example.org"), zone)
        lists.add(id(dmarc._suffixes()))
    assert len(lists) == 1


def test_everything_is_asked_at_once() -> None:
    """All first questions are out before any is answered."""

    class Gate(ZoneLookup):
        def __init__(self) -> None:
            super().__init__({})
            self.open = asyncio.Event()
            self.waiting: set[str] = set()

        async def texts(self, name: str) -> tuple[bytes, ...]:
            self.waiting.add(name)
            if len(self.waiting) == 5:
                self.open.set()
            await self.open.wait()
            return ()

    gate = Gate()
    found = judged(letter("mail.example.org", "esp.example"), gate)
    assert gate.waiting == {
        "other.example",
        "mail.example.org",
        "mail._domainkey.esp.example",
        "_dmarc.mail.example.org",
        "_dmarc.example.org",
    }
    assert "dmarc=none" in methods(found)


def test_one_budget_for_all_of_them() -> None:
    class Silent(ZoneLookup):
        async def texts(self, name: str) -> tuple[bytes, ...]:
            await asyncio.Event().wait()
            raise AssertionError

    message = letter("mail.example.org", "esp.example", "example.org")
    found = judged(message, Silent({}), timeout=0.05)
    assert methods(found) == ["spf=temperror"] * 2 + ["dkim=temperror"] * 2 + ["dmarc=temperror", "arc=none"]
    assert all("no answer within 0.05 seconds" in verdict.reason for verdict in found.verdicts[:5])
    few = judged(message, names("esp.example", "example.org"), lookups=0)
    assert all("not asked, after 0 look-ups" in verdict.reason for verdict in few.verdicts[:4])
    assert "dmarc=none" in methods(few)


def test_a_crowd_of_silent_servers_hides_no_failure() -> None:
    """An unanswered key of the author's domain would be a temperror, by which nobody is refused."""

    class Slow(ZoneLookup):
        async def texts(self, name: str) -> tuple[bytes, ...]:
            if name.endswith(".silent.example"):
                await asyncio.Event().wait()
            return await super().texts(name)

    form = b"DKIM-Signature: v=1; a=rsa-sha256; d=%s; s=s; c=relaxed/relaxed; h=from; bh=%s; b=AAAA\r\n"
    digest = base64.b64encode(hashlib.sha256(b"body\r\n").digest())
    signers = [*(b"a%d.silent.example" % number for number in range(19)), b"z.example.org"]
    crowd = b"".join(form % (signer, digest) for signer in signers)
    zone = Slow(names(_dmarc__example__org="v=DMARC1; p=reject"))
    found = judged(crowd + letter(), zone, policy=Policy.ENFORCE, timeout=3.0)
    assert methods(found).count("dkim=temperror") == 19
    assert found.disposition is Disposition.REJECT


SWITCHES: list[tuple[dict[str, bool], Sequence[str]]] = [
    ({}, ["spf", "spf", "dkim", "dmarc", "arc"]),
    ({"spf": False}, ["dkim", "dmarc", "arc"]),
    ({"dkim": False}, ["spf", "spf", "dmarc", "arc"]),
    ({"dmarc": False}, ["spf", "spf", "dkim", "arc"]),
    ({"arc": False}, ["spf", "spf", "dkim", "dmarc"]),
    ({"spf": False, "dkim": False, "dmarc": False, "arc": False}, []),
]


@pytest.mark.parametrize(("switches", "wanted"), SWITCHES)
def test_switches(switches: dict[str, bool], wanted: Sequence[str]) -> None:
    zone = names("example.org", _dmarc__example__org="v=DMARC1; p=reject")
    found = judged(letter("example.org", "example.org"), zone, **switches)
    assert [verdict.method for verdict in found.verdicts] == wanted
    dmarcs = [verdict.result for verdict in found.verdicts if verdict.method == "dmarc"]
    assert dmarcs == ([] if "dmarc" not in wanted else ["pass"] if "dkim" in wanted else ["fail"])


def test_only_inbound_mail_is_judged_in_full() -> None:
    client = Client("192.0.2.1", 4711, "app", Role.TRUSTED, True)
    assert methods(judged(letter(), names(), Envelope(client, None))) == ["arc=none"]


def test_a_trusted_client_is_judged_and_let_be() -> None:
    client = Client("192.0.2.1", 4711, "mx", Role.INBOUND, True, helo="mail.example.org")
    zone = names(_dmarc__example__org="v=DMARC1; p=reject")
    found = judged(letter(), zone, Envelope(client, None), policy=Policy.ENFORCE)
    assert "dmarc=fail" in methods(found)
    assert found.disposition is Disposition.NONE
    assert "the client is in trusted_networks" in found.reason
    assert judged(letter(), zone, policy=Policy.ENFORCE).disposition is Disposition.REJECT


def test_where_the_chain_came_from_is_told() -> None:
    """RFC 8617 10.2."""
    for ip in ("192.0.2.1", "2001:db8::1"):
        client = Client(ip, 4711, "mx", Role.INBOUND, False)
        (*_, arc) = judged(letter(), names(), Envelope(client, None)).verdicts
        assert (arc.method, arc.properties) == ("arc", (("smtp.remote-ip", ip),))
        read = authres.parse(field("mx.here.example", [arc]).decode().replace("\r\n", ""))
        assert [each.method for each in read.results] == ["arc"]


@pytest.mark.parametrize("method", ["spf", "dkim", "dmarc", "arc"])
def test_a_fault_of_one_check_leaves_the_others(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it died of is for the trace; outside it is a temperror, by which nobody is refused."""

    async def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a secret")

    module, name = {
        "spf": (judgement.spf, "check"),
        "dkim": (judgement.dkim, "check"),
        "dmarc": (judgement.dmarc, "discover"),
        "arc": (judgement.arc, "evaluate"),
    }[method]
    monkeypatch.setattr(module, name, broken)
    zone = names("example.org", _dmarc__example__org="v=DMARC1; p=reject")
    found = judged(letter("example.org"), zone, policy=Policy.ENFORCE)
    assert f"{method}=temperror" in methods(found)
    assert {each.method for each in found.verdicts} == {"spf", "dkim", "dmarc", "arc"}
    (fault,) = found.faults
    assert fault.startswith(f"{method}: Traceback") and "ZeroDivisionError: a secret" in fault
    assert "secret" not in "".join(map(str, found.verdicts)) + found.reason
    assert found.disposition is (Disposition.REJECT if method == "arc" else Disposition.NONE)


def test_a_lookup_that_dies_is_a_fault_of_ours() -> None:
    class Broken(ZoneLookup):
        async def texts(self, name: str) -> tuple[bytes, ...]:
            raise ZeroDivisionError

    found = judged(letter("example.org", "example.org"), Broken({}))
    assert sorted(set(methods(found))) == ["arc=none", "dkim=temperror", "dmarc=temperror", "spf=temperror"]
    assert len(found.faults) == 3


PIECES = [
    b"From: a@example.org\r\n",
    b"From: <\r\n",
    b'from : "x" <b@my-domain.com>, c@example.org\r\n',
    b"DKIM-Signature: v=1; a=rsa-sha256; d=example.org; s=mail; h=from; bh=eA==; b=eA==\r\n",
    b"DKIM-Signature: v=1;;;=\r\n",
    b"DKIM-Signature: " + b"a=b; " * 300 + b"\r\n",
    b"ARC-Seal: i=1; cv=none; a=rsa-sha256; d=example.org; s=mail; b=eA==\r\n",
    b"ARC-Message-Signature: i=1; a=rsa-sha256; d=example.org; s=mail; h=from; bh=eA==; b=eA==\r\n",
    b"ARC-Authentication-Results: i=1; x; dmarc=pass\r\n",
    b"Authentication-Results: mx.here.example; dmarc=pass\r\n",
    b"no field\r\n",
    b"\r\n",
    b"\xff\x00: \xfe\r\n",
    b"\tfolded\r\n",
]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES) | st.binary(max_size=30), max_size=12),
    st.sampled_from([b"v=DMARC1; p=reject", b"v=DMARC1; p=x", b"v=DMARC1; p=none; rua=\xff:x", b"", b"v=spf1 a ?all"]),
    st.text(max_size=20),
    st.sampled_from([None, Address.parse("a@example.org"), Address.parse('"a b"@[192.0.2.1]')]),
)
def test_only_verdicts_come_out(parts: list[bytes], record: bytes, helo: str, reverse_path: Address | None) -> None:
    class Everywhere(ZoneLookup):
        async def texts(self, name: str) -> tuple[bytes, ...]:
            return (record,)

    envelope = Envelope(replace(CLIENT, helo=helo), reverse_path)
    found = judged(b"".join(parts), Everywhere({}), envelope, policy=Policy.ENFORCE)
    assert found.faults == ()
    assert {"spf", "dkim", "dmarc", "arc"} == {verdict.method for verdict in found.verdicts}
    read_back = authres.parse(field("mx.here.example", found.verdicts).decode().replace("\r\n", ""))
    assert [each.method for each in read_back.results] == [verdict.method for verdict in found.verdicts]


def test_the_loop_is_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of suffixes is read, and From looked at, in the pool."""
    threads = set()
    original = dmarc.author
    monkeypatch.setattr(dmarc, "author", lambda message: threads.add(threading.get_ident()) or original(message))
    judged(letter(), names())
    assert threads and threading.get_ident() not in threads


def test_unanswered_is_no_fault() -> None:
    class Refusing(ZoneLookup):
        async def texts(self, name: str) -> tuple[bytes, ...]:
            raise Unanswered(f"{name}: refused")

    found = judged(letter("example.org", "example.org"), Refusing({}))
    assert (sorted(set(methods(found))), found.faults) == (
        ["arc=none", "dkim=temperror", "dmarc=temperror", "spf=temperror"],
        (),
    )
