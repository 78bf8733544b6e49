"""Providers by their mail exchangers, and what refusals mean: the texts are those that the servers send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.providers import PROVIDERS, REFUSALS, explained, provider_of
from smtproute.core.reply import Reply, behind_alias

GMAIL, OUTLOOK, OFFICE = (
    "gmail-smtp-in.l.google.com",
    "outlook-com.olc.protection.outlook.com",
    "example-org.mail.protection.outlook.com",
)
YAHOO, APPLE, GMX = "mta5.am0.yahoodns.net", "mx01.mail.icloud.com", "mx00.emig.gmx.net"
TELEKOM, MAIL_RU, OTHER = "mx00.t-online.de", "mxs.mail.ru", "mx.example.net"


@pytest.mark.parametrize(
    ("exchanger", "name"),
    [
        (GMAIL, "Google"),
        ("aspmx2.googlemail.com.", "Google"),
        ("SMTP.Google.COM", "Google"),
        (OUTLOOK, "Outlook.com"),
        (OFFICE, "Microsoft 365"),
        ("example-org.k-v1.mx.microsoft", "Microsoft 365"),
        (YAHOO, "Yahoo and AOL"),
        (APPLE, "iCloud Mail"),
        (GMX, "GMX and WEB.DE"),
        ("mx-ha02.web.de", "GMX and WEB.DE"),
        (TELEKOM, "T-Online"),
        ("mail.protonmail.ch", "Proton Mail"),
        ("in1-smtp.messagingengine.com", "Fastmail"),
        (MAIL_RU, "Mail.ru"),
        ("mx.yandex.net", "Yandex"),
    ],
)
def test_a_provider_by_its_exchanger(exchanger: str, name: str) -> None:
    provider = provider_of((OTHER, exchanger))
    assert provider is not None and provider.name == name


@pytest.mark.parametrize("host", [OTHER, "google.com.example.net", "notgoogle.com", "mygmx.net", "", "."])
def test_hosts_of_nobody(host: str) -> None:
    assert provider_of((host,)) is None and provider_of(()) is None


HARD_FAIL = (
    "The MAIL FROM domain [else.example] has an SPF record with a hard\nfail policy (-all) but it fails to pass SPF"
)
DMARC = "Unauthenticated email from else.example is not accepted due to\ndomain's DMARC policy. Please contact gsmtp"
BLOCKED = "Unfortunately, messages from [192.0.2.1] weren't sent. Part of their network is on our block list (S3150)."


@pytest.mark.parametrize(
    ("server", "code", "enhanced", "text", "cause"),
    [
        (GMAIL, 550, "5.7.26", "This email has been blocked because the sender is unauthenticated.", "nor DKIM passed"),
        (GMAIL, 421, "4.7.26", "This email has been rate limited because it is unauthenticated.", "nor DKIM passed"),
        (GMAIL, 550, "5.7.26", HARD_FAIL, "does not permit our address"),
        (GMAIL, 550, "5.7.26", DMARC, "(DMARC)"),
        (GMAIL, 550, "5.7.25", "The IP address sending this message does not have a PTR record", "(PTR)"),
        (GMAIL, 421, "4.7.28", "Gmail has detected an unusual rate of unsolicited email", "unsolicited"),
        (GMAIL, 550, "5.7.28", "There is an unusual rate of unsolicited email", "unsolicited"),
        (
            GMAIL,
            550,
            "5.7.1",
            "[192.0.2.1      12] Gmail has detected that this message is\nlikely unsolicited",
            "spam",
        ),
        (OUTLOOK, 550, "5.7.515", "Access denied, sending domain else.example does not meet", "nor DKIM passed"),
        (OFFICE, 550, "5.7.509", "Access denied, sending domain else.example does not pass DMARC", "(DMARC)"),
        (OFFICE, 550, "5.7.606", "Access denied, banned sending IP [192.0.2.1]", "bad reputation"),
        (OFFICE, 550, "5.7.649", "Access denied, banned sending IP [192.0.2.1]", "bad reputation"),
        (OUTLOOK, 550, "5.7.1", BLOCKED, "bad reputation"),
        (OUTLOOK, 451, "4.7.650", "The mail server [192.0.2.1] has been temporarily rate limited", "fewer messages"),
        (
            YAHOO,
            421,
            "4.7.0",
            "[TSS04] Messages from 192.0.2.1 temporarily deferred due to user complaints",
            "puts off",
        ),
        (YAHOO, 553, "5.7.2", "[TSS09] All messages from 192.0.2.1 will be permanently deferred", "puts off"),
        (YAHOO, 421, "4.7.1", "[TS03] All messages from 192.0.2.1 will be permanently deferred", "puts off"),
        (YAHOO, 554, "5.7.9", "Message not accepted for policy reasons.", "its own policy"),
        (APPLE, 550, "5.7.1", "[CS01] Message rejected due to local policy.", "its own policy"),
        (APPLE, 554, "5.7.1", "[HM08] Message rejected due to local policy.", "its own policy"),
        (GMX, 550, "", "Requested action not taken\nReject due to SPF policy.", "does not permit our address"),
        (
            GMX,
            554,
            "",
            "gmx.net (mxgmx104) Nemesis ESMTP Service not available\nIP address is block listed.",
            "reputation",
        ),
        (TELEKOM, 554, "", "IP=192.0.2.1 - None/bad reputation. Ask your postmaster for help. (NOWL)", "does not know"),
        (MAIL_RU, 550, "5.7.1", "This message was not accepted due to domain owner DMARC policy (RFC 7489)", "(DMARC)"),
        (OTHER, 550, "5.7.1", "Rejected by DMARC policy for else.example", "(DMARC)"),
        (OTHER, 550, "5.7.515", "Access denied, sending domain else.example does not meet", "nor DKIM passed"),
        (OTHER, 550, "5.7.509", "Access denied, sending domain else.example does not pass DMARC", "(DMARC)"),
        (OTHER, 550, "5.7.606", "Access denied, banned sending IP [192.0.2.1]", "bad reputation"),
        (OTHER, 421, "4.7.0", "[TSS04] Messages from 192.0.2.1 temporarily deferred", "puts off"),
        (OTHER, 550, "5.7.26", DMARC, "(DMARC)"),
        (OTHER, 550, "5.7.26", HARD_FAIL, "does not permit our address"),
        (OTHER, 550, "5.7.26", "no", "nor DKIM passed"),
        (OTHER, 550, "5.7.23", "no", "does not permit our address"),
        (OTHER, 554, "5.7.1", "Client host [192.0.2.1] blocked using zen.spamhaus.org", "block list"),
        (OTHER, 554, "5.7.1", "Client host [192.0.2.1] blocked using bl.example.net", "block list"),
        (OTHER, 450, "4.7.25", "Client host rejected: cannot find your hostname, [192.0.2.1]", "(PTR)"),
        (OTHER, 450, "4.2.0", "Greylisted, see http://postgrey.example.net", "greylisting"),
    ],
)
def test_a_known_refusal(server: str, code: int, enhanced: str, text: str, cause: str) -> None:
    advice = explained(Reply(code, enhanced, text), server)
    assert advice is not None and cause in advice.cause
    assert advice.mend and advice.source.startswith("https://")


@pytest.mark.parametrize(
    ("server", "reply"),
    [
        (GMAIL, Reply(250, "2.0.0", "OK dmarc spamhaus - gsmtp")),
        (GMAIL, Reply(354, "", "Go ahead")),
        (GMAIL, Reply(550, "5.1.1", "The email account that you tried to reach does not exist.")),
        (OTHER, Reply(421, "4.7.0", "[TSx] nobody says so")),
        ("", Reply(451, "4.3.0", "Not now")),
    ],
)
def test_what_is_not_known(server: str, reply: Reply) -> None:
    assert explained(reply, server) is None


def test_a_cause_betrays_nobody() -> None:
    names = {word.lower() for each in PROVIDERS for word in (*each.name.split(), *each.exchangers)} - {"and", "mail"}
    names |= {"gmail", "microsoft", "aol", "apple", "telekom", "http", "srs", "s3150", "tss"}
    for known in REFUSALS:
        assert not [name for name in names if name in known.advice.cause.lower()], known
        assert known.advice.cause.endswith(".") and known.advice.mend.endswith(".")


@pytest.mark.parametrize(
    ("enhanced", "told"),
    [
        ("5.7.515", "5.7.0"),
        ("5.7.606", "5.7.0"),
        ("4.7.650", "4.7.0"),
        ("5.7.26", "5.7.26"),
        ("5.1.1", "5.1.1"),
        ("", ""),
    ],
)
def test_behind_an_alias_a_provider_s_own_status_is_not_told(enhanced: str, told: str) -> None:
    reply = behind_alias(Reply(550, enhanced, "gsmtp says no"))
    assert (reply.code, reply.enhanced) == (550, told) and "gsmtp" not in reply.text


@given(
    st.integers(200, 599),
    st.from_regex(r"([245]\.\d{1,3}\.\d{1,3})?", fullmatch=True) | st.text(max_size=9),
    st.text(max_size=300) | st.sampled_from(["dmarc", "[TSS04]\r\nx", "SPAMHAUS\t" * 400]),
    st.sampled_from([GMAIL, OUTLOOK, YAHOO, GMX, OTHER, ""]) | st.text(max_size=80),
)
def test_nothing_raises(code: int, enhanced: str, text: str, server: str) -> None:
    advice = explained(Reply(code, enhanced, text), server)
    assert advice is None or (code >= 400 and advice.cause)
    assert behind_alias(Reply(code, enhanced, text)).code == code
    provider_of((server, text))
