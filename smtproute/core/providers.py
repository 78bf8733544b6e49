"""Providers: who takes the mail of a domain, what they ask of those who forward, and what their refusals mean.

Two tables that anyone can extend: `PROVIDERS` and `REFUSALS`. Each entry has its source, the provider's own page where
there is one. What a refusal's cause says names no provider: a sender may read it about the target of an alias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smtproute.core.reply import Reply

__all__ = ["PROVIDERS", "REFUSALS", "Advice", "Known", "Provider", "explained", "provider_of"]

_LOOKED_AT = 2000
"""Characters of a reply."""


@dataclass(frozen=True, slots=True)
class Provider:
    name: str
    exchangers: tuple[str, ...]
    """How the names of its mail exchangers end, in lower case."""
    asks: str
    """What it asks of those who forward to it, in sentences."""
    source: str
    """The page that says so."""

    def json(self) -> dict[str, str]:
        return {"name": self.name, "asks": self.asks, "source": self.source}


@dataclass(frozen=True, slots=True)
class Advice:
    """What a refusal means."""

    cause: str
    """Why it was refused; it names neither a provider nor an address."""
    mend: str
    source: str

    def json(self) -> dict[str, str]:
        return {"cause": self.cause, "mend": self.mend, "source": self.source}


@dataclass(frozen=True, slots=True)
class Known:
    """A refusal that is known. What is empty matches every one."""

    advice: Advice
    providers: tuple[str, ...] = ()
    """Names of those who say it."""
    statuses: tuple[str, ...] = ()
    """Enhanced status codes without their class: the cause is the same for now and for good."""
    said: tuple[str, ...] = ()
    """Any of these, in lower case, is in its text."""

    def matches(self, provider: Provider | None, status: str, text: str) -> bool:
        """Whether it is this refusal; `status` without its class, `text` in lower case with single spaces."""
        if self.providers and (provider is None or provider.name not in self.providers):
            return False
        if self.statuses and status not in self.statuses:
            return False
        return not self.said or any(words in text for words in self.said)


GOOGLE, OUTLOOK, MICROSOFT, YAHOO, APPLE = "Google", "Outlook.com", "Microsoft 365", "Yahoo and AOL", "iCloud Mail"
GMX, TELEKOM, MAIL_RU = "GMX and WEB.DE", "T-Online", "Mail.ru"

_GMAIL_FORWARDS = "https://support.google.com/mail/answer/175365"
_GMAIL_ERRORS = "https://support.google.com/a/answer/3726730"
_OUTLOOK_POLICIES = "https://postmaster.live.com/pm/policies.aspx"
_OUTLOOK_ERRORS = "https://postmaster.live.com/pm/troubleshooting.aspx"
_MICROSOFT_ARC = "https://learn.microsoft.com/en-us/defender-office-365/email-authentication-arc-configure"
_MICROSOFT_ERRORS = (
    "https://learn.microsoft.com/en-us/troubleshoot/exchange/email-delivery/ndr/non-delivery-reports-in-exchange-online"
)
_YAHOO_PRACTICES = "https://senders.yahooinc.com/best-practices/"
_YAHOO_ERRORS = "https://senders.yahooinc.com/smtp-error-codes/"
_APPLE = "https://support.apple.com/en-us/102322"
_GMX_ERRORS = "https://postmaster.web.de/de/fehlermeldungen"
_GMX_POLICY = "https://postmaster.gmx.com/en/email-policy"
_GMX_REPLIES = "https://postmaster.gmx.com/en/error-messages"
_TELEKOM = "https://postmaster.t-online.de/"
_MAIL_RU_DMARC = "https://help.mail.ru/mail-help/postmaster/dmarc"
_STATUSES = "https://www.rfc-editor.org/rfc/rfc7372"
_SEALS = "https://www.rfc-editor.org/rfc/rfc8617"

PROVIDERS = (
    Provider(
        GOOGLE,
        (".google.com", ".googlemail.com"),
        "The envelope sender of a forward should be of the forwarding domain (SRS), whose SPF covers the relay."
        " Nothing that the author's DKIM signature covers may change, and spam should not be forwarded.",
        _GMAIL_FORWARDS,
    ),
    Provider(
        OUTLOOK,
        (".olc.protection.outlook.com", ".hotmail.com"),
        "Servers need a valid reverse DNS record. Mail of a domain that sends more than 5000 messages a day must pass"
        " SPF, DKIM and DMARC: of a forward the author's DKIM signature has to survive.",
        _OUTLOOK_POLICIES,
    ),
    Provider(
        MICROSOFT,
        (".mail.protection.outlook.com", ".mx.microsoft"),
        "A seal (ARC) counts where the recipient's administrator has made the sealing domain a trusted ARC sealer;"
        " otherwise the author's DKIM signature has to survive.",
        _MICROSOFT_ARC,
    ),
    Provider(
        YAHOO,
        (".yahoodns.net",),
        "Those who forward should seal with ARC.",
        _YAHOO_PRACTICES,
    ),
    Provider(
        APPLE,
        (".mail.icloud.com",),
        "Forwards need ARC headers. Servers need reverse DNS, and the DMARC policy of the author's domain is honoured.",
        _APPLE,
    ),
    Provider(
        GMX,
        (".gmx.net", ".web.de"),
        "Mail is refused by the SPF of its sender's domain: those who forward should rewrite the sender (SRS). The EHLO"
        " name should be the server's reverse DNS name.",
        _GMX_ERRORS,
    ),
    Provider(
        TELEKOM,
        (".t-online.de",),
        "Servers without a reputation are refused until their operator writes. The host name should show who operates"
        " the server, with a web page that says how to reach them.",
        _TELEKOM,
    ),
    Provider(
        "Proton Mail",
        (".protonmail.ch",),
        "Mail that fails the checks of its author's domain is shown under a warning that it may be improperly"
        " forwarded: the author's DKIM signature has to survive.",
        "https://proton.me/support/email-has-failed-its-domains-authentication-requirements-warning",
    ),
    Provider(
        "Fastmail",
        (".messagingengine.com",),
        "SPF, DKIM, DMARC and ARC are checked and change the spam score of a message; they do not get it refused.",
        "https://www.fastmail.help/hc/en-us/articles/1500000280461-Sender-authentication",
    ),
    Provider(
        MAIL_RU,
        (".mail.ru",),
        "Mail is refused by the DMARC policy of its author's domain: the author's DKIM signature has to survive.",
        _MAIL_RU_DMARC,
    ),
    Provider(
        "Yandex",
        (".yandex.ru", ".yandex.net"),
        "Of a domain with Yandex 360 the administrator can put the relay on the whitelist of incoming mail sources.",
        "https://yandex.com/support/yandex-360/business/admin/en/mail/configuration",
    ),
)

_AUTHOR = "The next server could not verify that the message comes from its author's domain (DMARC)."
_UNVERIFIED = "The next server could not verify the message: neither SPF nor DKIM passed."
_SENDER = "The domain of the envelope sender does not permit our address to send for it (SPF)."
_SIGNATURE = "The next server found no DKIM signature that it accepts."
_REVERSE = "The address that the message was sent from has no name in DNS, or one that does not lead back to it (PTR)."
_RATE = "The next server takes fewer messages from us than we send, or puts off mail that looks unsolicited."
_REPUTATION = "The next server does not take mail from our address, or from our network: it has a bad reputation."
_UNKNOWN = "The next server does not take mail from our address, which it does not know."
_DYNAMIC = "The address that the message was sent from counts as one of a home or of a dial-up line."
_LISTED = "The address that the message was sent from, or a domain in the message, is on a public block list."
_CONTENT = "The next server takes the message for spam or for dangerous."
_POLICY = "The next server refuses the message by its own policy: the content, the sender or our reputation."
_ENCRYPTION = "The next server takes the message over an encrypted connection only."
_NO_POLICY = "The domain of the author publishes no DMARC policy, or no valid one."
_SPF_RECORD = "The SPF record of the sender's domain cannot be used."
_FULL_SPEED = "The recipient gets more mail at the moment than the next server lets through."
_LATER = "The next server puts off mail from those whom it does not know yet (greylisting)."
_SEAL = "The seals (ARC) that the message came with do not verify."

_FORWARD = (
    "For a forward: rewrite the sender ([srs]), seal ([arc]) and change nothing that the author has signed. For mail of"
    " our own domains: sign it ([dkim.keys]) and publish SPF, DKIM and DMARC; see smtproute check --dns."
)
_REWRITE = "For a forward: rewrite the sender ([srs]). For our own domain: let its SPF cover this relay (check --dns)."
_NAME = "Have the address's PTR record made for our host name, which must resolve to it; see smtproute check --dns."
_CLEAN = "Keep spam out of what is forwarded, since it counts as ours, and look for accounts that send it."
_UNLIST = "Find out why at https://check.spamhaus.org/ or at the list that the reply names, mend it, ask for removal."
_SIGN = "Sign mail of our own domains ([dkim.keys]); of a forward change nothing that its author has signed."
_SMARTHOST = "Send through a server of the network's operator (an endpoint), or ask the operator for a mail address."
_BEFORE = "A server before us broke them, and has to mend it."

_BOTH = (OUTLOOK, MICROSOFT)

REFUSALS = (
    Known(Advice(_SENDER, _REWRITE, _GMAIL_ERRORS), (GOOGLE,), ("7.26",), ("hard fail policy",)),
    Known(Advice(_AUTHOR, _FORWARD, _GMAIL_FORWARDS), (GOOGLE,), ("7.26", "7.32"), ("dmarc", "aligned")),
    Known(Advice(_UNVERIFIED, _FORWARD, _GMAIL_FORWARDS), (GOOGLE,), ("7.26",)),
    Known(Advice(_SENDER, _REWRITE, _GMAIL_ERRORS), (GOOGLE,), ("7.27",)),
    Known(Advice(_SIGNATURE, _SIGN, _GMAIL_ERRORS), (GOOGLE,), ("7.30",)),
    Known(Advice(_NO_POLICY, _FORWARD, _GMAIL_ERRORS), (GOOGLE,), ("7.40",), ("dmarc",)),
    Known(Advice(_REVERSE, _NAME, _GMAIL_ERRORS), (GOOGLE,), ("7.25", "7.23")),
    Known(Advice(_REVERSE, _NAME, _GMAIL_ERRORS), (GOOGLE,), said=("ptr record", "ipv6 sending guidelines")),
    Known(Advice(_RATE, _CLEAN, _GMAIL_ERRORS), (GOOGLE,), ("7.28",)),
    Known(Advice(_SPF_RECORD, _REWRITE, _GMAIL_ERRORS), (GOOGLE,), ("7.24",)),
    Known(Advice(_ENCRYPTION, 'Write tls = "require" at the endpoint.', _GMAIL_ERRORS), (GOOGLE,), ("7.29",)),
    Known(Advice(_CONTENT, _CLEAN, _GMAIL_ERRORS), (GOOGLE,), said=("likely unsolicited", "nature of the content")),
    Known(Advice(_REPUTATION, _CLEAN, _GMAIL_ERRORS), (GOOGLE,), said=("very low reputation",)),
    Known(Advice(_DYNAMIC, _SMARTHOST, _GMAIL_ERRORS), (GOOGLE,), ("7.1",), ("not authorized to send",)),
    Known(
        Advice(_FULL_SPEED, "Nothing needs to be done: it is tried again.", _GMAIL_ERRORS),
        (GOOGLE,),
        ("2.1",),
        ("too quickly", "at a rate"),
    ),
    Known(Advice(_REVERSE, _NAME, _MICROSOFT_ERRORS), _BOTH, ("7.25",)),
    Known(Advice(_UNVERIFIED, _FORWARD, _MICROSOFT_ERRORS), _BOTH, ("7.26",)),
    Known(Advice(_LISTED, _UNLIST, _OUTLOOK_ERRORS), _BOTH, said=("ou-001",)),
    Known(Advice(_DYNAMIC, _SMARTHOST, _OUTLOOK_ERRORS), _BOTH, said=("dy-001",)),
    Known(Advice(_RATE, _CLEAN, _OUTLOOK_ERRORS), _BOTH, said=("rp-001", "rp-002", "rp-003", "rate limited")),
    Known(
        Advice(_REPUTATION, "Ask for mitigation at https://olcsupport.office.com/. " + _CLEAN, _OUTLOOK_ERRORS),
        _BOTH,
        said=("s3140", "s3150", "on our block list", "sc-001", "sc-004", "dy-002", "ou-002"),
    ),
    Known(Advice(_CONTENT, _CLEAN, _YAHOO_ERRORS), (YAHOO,), said=("[ph",)),
    Known(Advice(_UNVERIFIED, _FORWARD, _YAHOO_ERRORS), (YAHOO,), said=("authentication", "dmarc", "dkim")),
    Known(Advice(_POLICY, _FORWARD, _YAHOO_ERRORS), (YAHOO,), ("7.9",)),
    Known(
        Advice(_POLICY, f"{_CLEAN} If that is not it, write to icloudadmin@apple.com with the reply.", _APPLE),
        (APPLE,),
        said=("due to local policy",),
    ),
    Known(Advice(_SENDER, _REWRITE, _GMX_ERRORS), (GMX,), said=("spf policy",)),
    Known(Advice(_REVERSE, _NAME, _GMX_POLICY), (GMX,), said=("dns ptr",)),
    Known(
        Advice(_REPUTATION, f"Follow the link in the reply. {_CLEAN}", _GMX_REPLIES),
        (GMX,),
        said=("block listed", "blocklisted"),
    ),
    Known(Advice(_DYNAMIC, _SMARTHOST, _TELEKOM), (TELEKOM,), said=("dialup/transient",)),
    Known(
        Advice(_UNKNOWN, "Write to the address that the reply names; the page says what it wants to see.", _TELEKOM),
        (TELEKOM,),
        said=("bad reputation", "ask your postmaster"),
    ),
    Known(Advice(_AUTHOR, _FORWARD, _MAIL_RU_DMARC), (MAIL_RU,), said=("dmarc policy",)),
    Known(Advice(_UNVERIFIED, _FORWARD, _OUTLOOK_ERRORS), statuses=("7.515",)),
    Known(Advice(_AUTHOR, _FORWARD, _MICROSOFT_ARC), statuses=("7.509",)),
    Known(
        Advice(_REPUTATION, "Ask for removal at https://sender.office.com/. " + _CLEAN, _MICROSOFT_ERRORS),
        statuses=("7.511", *(f"7.{number}" for number in range(606, 650))),
    ),
    Known(Advice(_RATE, _CLEAN, _YAHOO_ERRORS), said=("[ts0", "[tss")),
    Known(Advice(_LISTED, _UNLIST, "https://www.spamhaus.org/faqs/dnsbl-usage/"), said=("spamhaus",)),
    Known(
        Advice(_LISTED, _UNLIST, "https://www.postfix.org/postconf.5.html#reject_rbl_client"),
        said=("blocked using",),
    ),
    Known(Advice(_SIGNATURE, _SIGN, _STATUSES), statuses=("7.20", "7.21", "7.22")),
    Known(Advice(_SENDER, _REWRITE, _STATUSES), statuses=("7.23",)),
    Known(Advice(_SPF_RECORD, _REWRITE, _STATUSES), statuses=("7.24",)),
    Known(Advice(_REVERSE, _NAME, _STATUSES), statuses=("7.25",)),
    Known(Advice(_SEAL, _BEFORE, _SEALS), statuses=("7.29",)),
    Known(Advice(_AUTHOR, _FORWARD, "https://www.rfc-editor.org/rfc/rfc7489"), said=("dmarc",)),
    Known(
        Advice(_SENDER, _REWRITE, "https://www.rfc-editor.org/rfc/rfc7208"),
        said=(
            "spf policy",
            "spf fail",
            "spf check",
            "failed spf",
            "spf validation",
            "blocked by spf",
            "hard fail policy",
        ),
    ),
    Known(Advice(_UNVERIFIED, _FORWARD, _STATUSES), statuses=("7.26",)),
    Known(
        Advice(_REVERSE, _NAME, "https://www.postfix.org/postconf.5.html#reject_unknown_client_hostname"),
        said=("cannot find your hostname", "cannot find your reverse hostname"),
    ),
    Known(
        Advice(_LATER, "Nothing needs to be done: it is tried again.", "https://www.rfc-editor.org/rfc/rfc6647"),
        said=("greylist", "graylist"),
    ),
)
"""The first that matches counts: those of a provider stand before those of everybody. What only one provider says,
and a server behind it hands on, needs no provider."""


def provider_of(exchangers: Sequence[str]) -> Provider | None:
    """Who takes mail at these hosts: the first of them that is somebody's decides."""
    for host in exchangers:
        name = f".{host.rstrip('.').lower()}"
        for provider in PROVIDERS:
            if name.endswith(provider.exchangers):
                return provider
    return None


def explained(reply: Reply, server: str) -> Advice | None:
    """What a refusal by this server means; None where that is not known, and for what is no refusal."""
    if reply.positive:
        return None
    provider = provider_of((server,))
    status = reply.enhanced.partition(".")[2]
    text = " ".join(reply.text[:_LOOKED_AT].lower().split())
    return next((known.advice for known in REFUSALS if known.matches(provider, status, text)), None)
