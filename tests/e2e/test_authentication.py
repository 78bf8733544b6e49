"""Inbound mail judged by a running relay: what mailboxes and next hops are told, and what follows under `enforce`."""

from __future__ import annotations

import asyncio
import re
import textwrap
from collections.abc import Sequence
from dataclasses import replace

import authres
import dkim
import pytest

from smtproute.app import Relay
from smtproute.core.address import Address
from smtproute.core.envelope import Client as ClientOf
from smtproute.core.envelope import Envelope
from smtproute.core.event import Event, Happening
from smtproute.core.settings import Role
from smtproute.intake.explain import explain
from smtproute.spool.queue import Change, State
from smtproute.testing.upstream import Upstream
from smtproute.testing.zone import Fault
from smtproute.trace.text import render
from tests.e2e.conftest import DMS, LETTER, Client, Lab
from tests.e2e.dovecot import dovecot
from tests.smtp.swaks import swaks

ENFORCE = """
    [[route]]
    match = "*@captured.example"
    mode = "capture"
    [authentication]
    policy = "enforce"
"""
REFUSED = (
    "550 5.7.1 DMARC: mail in the name of else.example is refused, because else.example asks for reject; "
    "nothing aligned passed; SPF of else.example: fail; no DKIM signature. / "
    "Send it by a server that the SPF record of else.example names, or sign it with DKIM as d=else.example."
)


async def started(
    lab: Lab, more: str = ENFORCE, *, record: str = "v=DMARC1; p=reject", listener: str = ""
) -> tuple[Relay, Upstream]:
    """A relay whose sender's domain lets nobody send, and publishes this DMARC record.

    `listener`: a further line of the inbound listener.
    """
    lab.write("dms/postfix-accounts.cf", "anna@example.org|{PLAIN}secret\n")
    lab.write("dms/postfix-virtual.cf", "team@example.org anna@example.org, me@far.example, x@captured.example\n")
    lab.zone.set("else.example", "TXT", ["v=spf1 -all"])
    lab.zone.set("_dmarc.else.example", "TXT", [record])
    far = await lab.upstream("mx.far.example")
    config = DMS.format(port=far.port).replace('role = "inbound"', f'role = "inbound"\n    {listener}')
    return await lab.started(textwrap.dedent(config) + textwrap.dedent(more)), far


def signed(lab: Lab, *domains: str, content: bytes = LETTER, names: Sequence[bytes] | None = None) -> bytes:
    """The letter with a signature by dkimpy of each domain, the first on top; their keys are in DNS."""
    for domain in reversed(domains):
        file = lab.folder / f"mail-{domain}.pem"
        if not file.exists():
            lab.key(domain)
        field = dkim.sign(content, b"mail", domain.encode(), file.read_bytes(), include_headers=names)
        content = field + content
    return content


def sealed(lab: Lab, content: bytes, domain: str, results: bytes) -> bytes:
    """The message with an ARC set of this domain by dkimpy, whose results are these."""
    file = lab.folder / f"mail-{domain}.pem"
    if not file.exists():
        lab.key(domain)
    content = b"Authentication-Results: " + results + b"\r\n" + content
    fields = dkim.arc_sign(content, b"mail", domain.encode(), file.read_bytes(), results.partition(b";")[0])
    return b"".join(fields) + content


def results(message: bytes, field: bytes = b"Authentication-Results") -> list[tuple[str, str, dict[str, str]]]:
    """Method, result and properties of each result in our field, as the library authres reads them."""
    header = message.replace(b"\r\n", b"\n").partition(b"\n\n")[0].replace(b"\n ", b" ").decode()
    (value,) = re.findall(rf"(?m)^{field.decode()}: (?:i=\d+; )?(mail\.example\.org;.*)$", header)
    read = authres.parse(f"Authentication-Results: {value}")
    assert read.authserv_id == "mail.example.org"
    return [
        (each.method, each.result, {f"{one.type}.{one.name}": one.value for one in each.properties})
        for each in read.results
    ]


def told(results: list[tuple[str, str, dict[str, str]]]) -> list[str]:
    return [f"{method}={result}" for method, result, _ in results]


def text(event: Event) -> str:
    return "; ".join(event.facts["verdicts"])


async def test_what_a_mailbox_and_a_next_hop_are_told(lab: Lab) -> None:
    key = lab.key()
    relay, far = await started(lab, f'\n[arc.keys."example.org"]\nselector = "mail"\nfile = "{key}"')
    lab.zone.set("else.example", "TXT", ["v=spf1 ip4:127.0.0.1 -all"])
    message = await lab.delivered(relay, "team@example.org", content=signed(lab, "esp.example", "else.example"))
    (kept,) = lab.mailbox("anna@example.org")
    found = results(kept)
    assert told(found) == ["spf=pass", "spf=none", "dkim=pass", "dkim=pass", "dmarc=pass", "arc=none"]
    assert found[0][2] == {"smtp.mailfrom": "friend@else.example"}
    assert found[1][2] == {"smtp.helo": "client.example"}
    assert [found[at][2]["header.d"] for at in (2, 3)] == ["esp.example", "else.example"]
    assert found[4][2] == {"header.from": "else.example"}
    assert found[5][2] == {"smtp.remote-ip": "127.0.0.1"}
    assert results(far.received[0].content, b"ARC-Authentication-Results") == found
    assert dkim.arc_verify(far.received[0].content, dnsfunc=lab.txt)[0] == b"pass"
    (verdict,) = [each for each in await lab.trace(relay, message) if each.what is Happening.VERDICT]
    assert "dmarc=pass (p=reject; SPF of else.example: pass, aligned) header.from=else.example" in text(verdict)
    assert (verdict.facts["disposition"], verdict.facts["reason"]) == ("none", "")
    for each in verdict.facts["verdicts"]:
        assert "(" in each or each.startswith("arc=none"), each


async def test_forged_results_are_gone_and_break_no_signature(lab: Lab) -> None:
    """A signature may cover them: it is verified over the message as it came."""
    relay, _ = await started(lab)
    forged = b"aUTHENTICATION-rESULTS:\r\n\t(c) MAIL.example.org;\r\n dmarc=pass\r\n"
    foreign = b"Authentication-Results: mx.else.example; dmarc=pass\r\n"
    content = signed(lab, "else.example", content=forged + foreign + LETTER, names=[b"from", b"authentication-results"])
    await lab.delivered(relay, "anna@example.org", content=content)
    (kept,) = lab.mailbox("anna@example.org")
    assert "dkim=pass" in told(results(kept)) and "dmarc=pass" in told(results(kept))
    assert kept.lower().count(b"authentication-results:") == 2
    assert b"MAIL.example.org" not in kept and foreign.replace(b"\r\n", b"\n") in kept


async def test_observe_tells_and_delivers(lab: Lab) -> None:
    relay, far = await started(lab, "")
    message = await lab.delivered(relay, "team@example.org")
    (kept,) = lab.mailbox("anna@example.org")
    found = {method: (result, properties) for method, result, properties in results(kept)}
    assert found["dmarc"] == (
        "fail",
        {
            "header.from": "else.example",
            "policy.dmarc": "reject",
            "policy.applied-disposition": "none",
            "policy.override-reason": "local_policy",
        },
    )
    assert len(far.received) == 1
    trace = "\n".join(render(await lab.trace(relay, message)))
    assert (
        "  disposition none: else.example asks for reject, which is not done: policy is observe; nothing aligned passed"
        in trace
    )


async def test_enforce_refuses_what_the_domain_disowns(lab: Lab) -> None:
    relay, far = await started(lab)
    dialogue = await lab.send(relay, "team@example.org", "anna@example.org")
    assert [str(answer.reply) for answer in dialogue.answers] == [REFUSED] * 2
    (event,) = lab.journal.of(Happening.REFUSED)
    assert event.facts["recipient"] == "team@example.org, anna@example.org"
    assert (event.facts["sender"], event.facts["client"]) == ("friend@else.example", "127.0.0.1")
    assert (event.facts["reply"], event.facts["says"]) == (REFUSED, "policy")
    for part in (
        "spf=fail",
        "smtp.mailfrom=friend@else.example",
        "smtp.helo=client.example",
        "dkim=none",
        "dmarc=fail",
    ):
        assert part in event.facts["why"]
    assert (await relay.spool.read(unfinished=False)).entries == ()
    assert lab.mailbox("anna@example.org") == [] and far.received == []

    await lab.delivered(relay, "anna@example.org", content=signed(lab, "mail.else.example"))
    assert "dmarc=pass" in told(results(lab.mailbox("anna@example.org")[0]))


@pytest.mark.peer("swaks")
async def test_what_swaks_hears(lab: Lab) -> None:
    relay, _ = await started(lab)
    options = ("--from", "friend@else.example", "--to", "anna@example.org", "--header", "From: friend@else.example")
    status, out = await swaks(relay.addresses["mx"], *options)
    assert status != 0
    assert "<** 550-5.7.1 DMARC: mail in the name of else.example is refused" in out
    assert "<** 550 5.7.1 Send it by a server that the SPF record of else.example names" in out


async def test_a_session_goes_on_after_a_refusal(lab: Lab) -> None:
    relay, _ = await started(lab)
    client = await Client.connect(relay.addresses["mx"])
    assert (await client.letter("anna@example.org")).startswith("550-5.7.1 DMARC")
    lab.zone.set("_dmarc.else.example", "TXT", ["v=DMARC1; p=none"])
    assert (await client.say("QUIT")).startswith("221")


async def test_quarantine(lab: Lab) -> None:
    """The mailbox's copy goes to Junk, the forward waits for the operator, what is captured is captured."""
    relay, far = await started(lab, record="v=DMARC1; p=quarantine")
    message = await lab.accepted(relay, "team@example.org")
    await lab.journal.finished(message, 2)
    states = {str(each.delivery.address): each.state for each in await relay.spool.entries(message)}
    assert states == {
        "anna@example.org": State.DELIVERED,
        "me@far.example": State.HELD,
        "x@captured.example": State.CAPTURED,
    }
    assert lab.mailbox("anna@example.org") == []
    (junk,) = (lab.folder / "state/mail/example.org/anna/.Junk/new").iterdir()
    found = {method: (result, properties) for method, result, properties in results(junk.read_bytes())}
    assert found["dmarc"][1]["policy.applied-disposition"] == "quarantine"
    why = "else.example asks for quarantine; nothing aligned passed; SPF of else.example: fail; no DKIM signature"
    (held,) = lab.journal.of(Happening.HELD, message)
    assert held.facts == {"address": "me@far.example", "rule": f"DMARC: {why}"}
    trace = "\n".join(render(await lab.trace(relay, message)))
    assert f" held      me@far.example by DMARC: {why}, until the operator releases it\n" in trace
    assert f"  disposition quarantine: {why}" in trace

    await relay.spool.change(Change.RELEASE, [message], lab.world.clock.now())
    await lab.journal.finished(message, 3)
    assert len(far.received) == 1


async def test_a_share_of_such_mail(lab: Lab) -> None:
    """pct=0: what is asked for of none of it is done as the next weaker policy."""
    relay, _ = await started(lab, record="v=DMARC1; p=reject; pct=0")
    await lab.delivered(relay, "anna@example.org")
    (junk,) = (lab.folder / "state/mail/example.org/anna/.Junk/new").iterdir()
    assert b"sampled_out" in junk.read_bytes()


async def test_enforce_waits_where_a_name_server_that_fails_hides_who_it_is(lab: Lab) -> None:
    """Else whoever forges a letter signs it with a name below the domain that nobody can look up."""
    relay, _ = await started(lab)
    content = signed(lab, "lame.else.example")
    lab.zone.set("mail._domainkey.lame.else.example", "TXT", Fault.SERVFAIL)
    (answer,) = (await lab.send(relay, "anna@example.org", content=content)).answers
    said = str(answer.reply)
    assert said.startswith("451 4.7.0 DMARC: mail in the name of else.example is not taken now, because else.example")
    assert "DKIM of lame.else.example: temperror, aligned: " in said
    assert "mail._domainkey.lame.else.example" in said and "This is temporary, and nothing is lost" in said
    (event,) = lab.journal.of(Happening.REFUSED)
    assert event.facts["says"] == "policy" and "dmarc=temperror" in event.facts["why"]

    lab.zone.set("_dmarc.sub.else.example", "TXT", Fault.SERVFAIL)
    below = LETTER.replace(b"friend@else.example", b"friend@sub.else.example")
    (answer,) = (await lab.send(relay, "anna@example.org", content=below)).answers
    assert str(answer.reply).startswith("451 4.7.0 ") and "_dmarc.sub.else.example could not be" in str(answer.reply)


@pytest.mark.parametrize("listener", ["", 'trusted_networks = ["127.0.0.0/8"]'])
async def test_enforce_waits_for_nobody_else(lab: Lab, listener: str) -> None:
    """Not where no such policy is known, nor for a trusted client."""
    relay, _ = await started(lab, record="v=DMARC1; p=reject" if listener else "v=DMARC1; p=none", listener=listener)
    content = signed(lab, "lame.else.example")
    lab.zone.set("mail._domainkey.lame.else.example", "TXT", Fault.SERVFAIL)
    await lab.delivered(relay, "anna@example.org", content=content)
    assert "dmarc=temperror" in told(results(lab.mailbox("anna@example.org")[0]))


TRUSTING = ENFORCE + '    trusted_sealers = ["list.example"]\n'
PASSED = b"mx.list.example; arc=none; dmarc=pass header.from=else.example"


async def test_a_trusted_seal_saves_what_a_list_has_changed(lab: Lab) -> None:
    relay, _ = await started(lab, TRUSTING)
    changed = LETTER.replace(b"Subject: ", b"Subject: [list] ")
    await lab.delivered(relay, "anna@example.org", content=sealed(lab, changed, "list.example", PASSED))
    (kept,) = lab.mailbox("anna@example.org")
    found = {method: (result, properties) for method, result, properties in results(kept)}
    assert found["arc"][0] == "pass"
    assert found["dmarc"][0] == "fail"
    assert found["dmarc"][1]["policy.applied-disposition"] == "none"
    assert found["dmarc"][1]["policy.override-reason"] == "local_policy"
    assert b"but arc=pass, and list.example, which is trusted, sealed dmarc=pass" in b" ".join(kept.split())


@pytest.mark.parametrize(
    ("case", "status"),
    [
        ("not trusted", "pass"),
        ("did not pass there", "pass"),
        ("sealed again by others", "pass"),
        ("changed since", "fail"),
        ("a chain that failed", "fail"),
    ],
)
async def test_other_seals_save_nothing(lab: Lab, case: str, status: str) -> None:
    relay, _ = await started(lab, TRUSTING)
    match case:
        case "not trusted":
            content = sealed(lab, LETTER, "other.example", PASSED)
        case "did not pass there":
            content = sealed(lab, LETTER, "list.example", PASSED.replace(b"dmarc=pass", b"dmarc=fail"))
        case "sealed again by others":
            content = sealed(lab, sealed(lab, LETTER, "list.example", PASSED), "other.example", b"x; arc=pass")
        case "changed since":
            content = sealed(lab, LETTER, "list.example", PASSED).replace(b"Hello.", b"Hello!")
        case _:
            broken = sealed(lab, LETTER, "other.example", PASSED).replace(b"Hello.", b"Hello!")
            content = sealed(lab, broken, "list.example", PASSED.replace(b"arc=none", b"arc=fail"))
    dialogue = await lab.send(relay, "anna@example.org", content=content)
    reply = dialogue.answers[0].reply
    assert reply is not None and str(reply).startswith("550 5.7.1 DMARC")
    (event,) = lab.journal.of(Happening.REFUSED)
    assert f"arc={status}" in event.facts["why"]


async def test_silent_dns_is_a_temperror_within_the_budget(lab: Lab) -> None:
    for name in ("else.example", "_dmarc.else.example", "mail._domainkey.else.example"):
        lab.zone.set(name, "TXT", ["v=spf1 -all"])
    relay, _ = await started(lab, ENFORCE + '    timeout = "1s"\n')
    content = signed(lab, "else.example")
    for name in ("else.example", "_dmarc.else.example", "mail._domainkey.else.example"):
        lab.zone.set(name, "TXT", Fault.TIMEOUT)
    await lab.delivered(relay, "anna@example.org", content=content)
    (kept,) = lab.mailbox("anna@example.org")
    assert told(results(kept)) == ["spf=temperror", "spf=none", "dkim=temperror", "dmarc=temperror", "arc=none"]
    assert b"no answer within 1 seconds" in b" ".join(kept.split())
    assert not lab.journal.of(Happening.FAULT)


async def test_a_large_signed_message_is_verified(lab: Lab) -> None:
    relay, _ = await started(lab)
    content = signed(lab, "else.example", content=LETTER + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * 10_000)
    await lab.delivered(relay, "anna@example.org", content=content)
    assert "dmarc=pass" in told(results(lab.mailbox("anna@example.org")[0]))
    dialogue = await lab.send(relay, "anna@example.org", content=content + b"changed\r\n")
    reply = dialogue.answers[0].reply
    assert reply is not None and "DKIM of else.example: fail" in reply.text.replace("\n", " ")


async def test_a_large_unsigned_message_is_judged_too(lab: Lab) -> None:
    relay, _ = await started(lab)
    dialogue = await lab.send(relay, "anna@example.org", content=LETTER + (b"y" * 70 + b"\r\n") * 10_000)
    assert str(dialogue.answers[0].reply) == REFUSED
    assert [each.name for each in (lab.folder / "state/spool/bodies").iterdir()] == []


async def test_trusted_clients_are_judged_and_never_refused(lab: Lab) -> None:
    relay, _ = await started(lab, listener='trusted_networks = ["127.0.0.0/8"]')
    await lab.delivered(relay, "anna@example.org")
    (kept,) = lab.mailbox("anna@example.org")
    assert "dmarc=fail" in told(results(kept))
    assert b"the client is in trusted_networks" in b" ".join(kept.split())


async def test_what_explain_cannot_know_it_says(lab: Lab) -> None:
    note = "not predicted: policy is enforce, by which mail that fails DMARC is refused or set aside"
    relay, _ = await started(lab)
    stranger = Envelope(ClientOf("127.0.0.1", 1, "mx", Role.INBOUND, False), None)
    recipients = (Address.parse("anna@example.org"), Address.parse("nobody@example.org"))

    async def notes(envelope: Envelope, relay: Relay) -> list[tuple[str, ...]]:
        told = await explain(relay.snapshot(), relay.endpoints.candidates, usage, envelope, recipients, 0.0)
        return [each.notes for each in told]

    async def usage(account: Address) -> int:
        return 0

    assert await notes(stranger, relay) == [(note,), ()]
    trusted = Envelope(replace(stranger.client, trusted=True), None)
    assert await notes(trusted, relay) == [(), ()]


@pytest.mark.peer("dovecot", "doveadm")
async def test_imap_sees_junk_as_junk(lab: Lab) -> None:
    config = """
        [accounts]
        maildir = "{maildir}"
        [authentication]
        policy = "enforce"
    """
    with dovecot({"anna@example.org": ""}) as server:
        relay, _ = await started(lab, config.format(maildir=server.mail), record="v=DMARC1; p=quarantine")
        await lab.delivered(relay, "anna@example.org")

        def seen() -> tuple[list[bytes], int, int]:
            with server.imap("anna@example.org") as session:
                listed = session.list()[1]
                junk = int((session.select("Junk")[1][0] or b"0").decode())
                return [bytes(each) for each in listed], junk, int((session.select("INBOX")[1][0] or b"0").decode())

        listed, junk, inbox = await asyncio.to_thread(seen)
        assert any(each.endswith(b" Junk") for each in listed)
        assert (junk, inbox) == (1, 0)


async def test_junk_counts_towards_the_quota(lab: Lab) -> None:
    lab.write("dms/dovecot-quotas.cf", "anna@example.org:4k\n")
    relay, _ = await started(lab, record="v=DMARC1; p=quarantine")
    content = LETTER + b"x" * 900 + b"\r\n" + b"x" * 900 + b"\r\n"
    await lab.delivered(relay, "anna@example.org", content=content)
    dialogue = await lab.send(relay, "anna@example.org", content=content)
    assert str(dialogue.answers[0].reply) == "552 5.2.2 Mailbox is full"


@pytest.mark.parametrize(("record", "flagged"), [("v=DMARC1; p=quarantine", 1), ("v=DMARC1; p=none", 0)])
async def test_what_lmtp_takes_to_junk_is_marked(lab: Lab, record: str, flagged: int) -> None:
    """As rspamd marks it, which docker-mailserver's sieve script looks for."""
    store = await lab.upstream("lmtp.example.org", lmtp=True)
    config = f'[accounts]\nstore = "lmtp"\nlmtp = "lmtp.example.org:{store.port}"\n'
    relay, _ = await started(lab, config + ENFORCE, record=record)
    await lab.delivered(relay, "anna@example.org")
    assert store.received[0].content.count(b"X-Spam-Flag: YES\r\n") == flagged
    assert told(results(store.received[0].content))[-2:] == ["dmarc=fail", "arc=none"]


BANK = b"ceo@else.example"
SPOOFS = {
    "an empty From above": b"From: \r\nFrom: " + BANK,
    "an empty From below": b"From: " + BANK + b"\r\nFrom:",
    "a group of nobody above": b"From: x:;\r\nFrom: " + BANK,
    "a broken From above": b"From: <\r\nFrom: " + BANK,
    "a broken From below": b"From: " + BANK + b"\r\nFrom: <",
    "a source route": b"From: <@a.example:" + BANK + b">",
    "blanks around the @": b"From: ceo @ else.example",
    "a comment in the domain": b"From: ceo@else(x).example",
    "the line of an mbox file": b"From x@y Sun Nov 22 10:00:00 2026\r\nFrom: " + BANK,
    "a quote that does not end": b'From: "Ceo <' + BANK + b">",
    "a bracket that does not end": b"From: Ceo <" + BANK,
    "text behind the bracket": b"From: Ceo <" + BANK + b"> x",
    "a bracket behind": b"From: <" + BANK + b"> <",
    "two addresses without a comma": b"From: <" + BANK + b"> <x@nobody.example>",
    "octets before the address": b"From: \xff\xfe " + BANK,
    "an address in quotes": b'From: "' + BANK + b'"',
}
HIDDEN = {
    "a comment in what cannot be read": b'From: "Ceo <ceo@else(x).example>',
    "more than 8 KiB": b"From: " + b"\r\n ".join([b"x" * 900] * 10) + b" <" + BANK + b">",
    "the 11th From": b"From: a@a.example\r\n" * 10 + b"From: " + BANK,
    "the 11th domain": b"From: " + b",".join(b"a@d%d.example" % number for number in range(10)) + b", " + BANK,
    "a line that is no field above": b"no field\r\nFrom: " + BANK,
}
HARMLESS = {
    "cron": b"From: root (Cron Daemon)",
    "no From": b"X-From: x",
    "nobody": b"From: <>",
    "a display name": b'From: "ceo@else.example" <x@nobody.example>',
    "a list": b"From: ceo@else.example via List <x@nobody.example>",
    "malformed": b"From: Foo <x@nobody.example>>",
}


async def test_no_odd_from_gets_past_the_policy(lab: Lab) -> None:
    relay, _ = await started(lab)
    rest = LETTER[LETTER.index(b"\r\n") + 2 :]
    assert LETTER.startswith(b"From:") and b"\r\nFrom:" not in rest

    async def reply(head: bytes) -> str:
        dialogue = await lab.send(relay, "anna@example.org", content=head + b"\r\n" + rest, sender="x@nobody.example")
        return str(dialogue.answers[0].reply)

    spoofs = {case: await reply(head) for case, head in SPOOFS.items()}
    assert {case: said[:56] for case, said in spoofs.items()} == dict.fromkeys(
        SPOOFS, "550 5.7.1 DMARC: mail in the name of else.example is ref"
    )
    hidden = {case: await reply(head) for case, head in HIDDEN.items()}
    assert {case: said[:73] for case, said in hidden.items()} == dict.fromkeys(
        HIDDEN, "550 5.7.1 The message is refused, because nobody can say whose mail it is"
    )
    assert {(await reply(head))[:3] for head in HARMLESS.values()} == {"250"}


@pytest.mark.parametrize(("more", "listener"), [("", ""), (ENFORCE, 'trusted_networks = ["127.0.0.0/8"]')])
async def test_who_hides_is_only_told_where_nothing_is_enforced(lab: Lab, more: str, listener: str) -> None:
    relay, _ = await started(lab, more, listener=listener)
    content = LETTER[LETTER.index(b"\r\n") + 2 :]
    await lab.delivered(
        relay, "anna@example.org", content=HIDDEN["a comment in what cannot be read"] + b"\r\n" + content
    )
    (kept,) = lab.mailbox("anna@example.org")
    assert "dmarc=permerror" in told(results(kept))
    assert b"its From cannot be read: something in quotes or in a comment does not end" in b" ".join(kept.split())
