"""Questions: what has to be known of DNS about a configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from smtproute.core.address import Domain
from smtproute.core.docker_mailserver import KeyFile
from smtproute.core.seals import nearest
from smtproute.core.settings import Discover, DomainKey, Role
from smtproute.doctor.survey import Survey
from smtproute.mailauth.keys import KeyFault, load, record

__all__ = ["Key", "Questions", "questions"]


@dataclass(frozen=True, slots=True)
class Key:
    """A private key that seals or signs, or will, and what has to be published of it."""

    domain: str
    """A-labels."""
    selector: str
    text: str
    """The text of the TXT record that belongs to it."""
    where: str
    """Where the configuration names it."""
    used: bool = True
    """False of a key that waits for its turn in a rotation."""

    @property
    def name(self) -> str:
        """Where its public half belongs (RFC 6376 3.6.2.1)."""
        return f"{self.selector}._domainkey.{self.domain}"


@dataclass(frozen=True, slots=True)
class Questions:
    """Domains and hosts are A-labels in lower case."""

    hostname: str
    """What this relay says at EHLO."""
    domains: tuple[str, ...] = ()
    """The local domains, without the names of the machine itself."""
    srs: str = ""
    """The domain of rewritten senders; empty: none are."""
    keys: tuple[Key, ...] = ()
    signers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By local domain: the domains in whose names its mail is signed."""
    targets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By domain elsewhere: the addresses that aliases forward to."""
    inbound: bool = False
    """Whether strangers may bring mail here."""
    sending: bool = False
    """Whether people send through this relay, or aliases forward."""
    direct: bool = False
    """Whether mail leaves for the servers of its recipients, with no other server between: that of this relay, or of
    the docker-mailserver whose folder it simulates."""

    @property
    def senders(self) -> tuple[str, ...]:
        """The domains of envelope senders: SPF is theirs. A bounce has none and is judged by the host name."""
        return tuple(dict.fromkeys((*self.domains, *((self.srs,) if self.srs else ()), self.hostname)))


def questions(survey: Survey) -> Questions:
    """Reads the private keys; one that cannot be used is a finding of its own, and nothing is asked for it."""
    settings = survey.snapshot.settings
    domains = tuple(_domains(survey))
    signers = {}
    for domain in domains:
        keys = nearest(settings.dkim.keys, Domain.parse(domain), settings.dkim.parents)
        if keys is not None:
            signers[domain] = tuple(dict.fromkeys(key.domain.key for key in keys))
    targets: dict[str, dict[str, None]] = {}
    for alias in survey.aliases:
        for address in survey.leaving(alias.address) if alias.address is not None else ():
            if not address.domain.literal:
                targets.setdefault(address.domain.key, {})[str(address)] = None
    return Questions(
        hostname=settings.hostname.key,
        domains=domains,
        srs=settings.srs.domain.key if settings.srs.domain is not None else "",
        keys=tuple(_keys(survey)),
        signers=signers,
        targets={domain: tuple(addresses) for domain, addresses in targets.items()},
        inbound=survey.inbound,
        sending=bool(targets) or any(each.role is not Role.INBOUND for each in settings.listeners.values()),
        direct=any(each.discover is Discover.RECIPIENT for each in settings.endpoints.values())
        or (survey.folder is not None and survey.routing.relays.relayhost is None),
    )


def _domains(survey: Survey) -> Iterator[str]:
    own = survey.tables.destinations
    for domain in survey.routing.local_domains:
        if domain not in own and "." in domain and not domain.startswith("["):
            yield domain


def _domain_key(key: KeyFile) -> DomainKey:
    return DomainKey(Domain(key.domain.lower(), key.domain), key.selector, key.file)


def _keys(survey: Survey) -> Iterator[Key]:
    """Each key once, under the first name that it is configured by; of two for one record the one that signs here."""
    settings = survey.snapshot.settings
    named = [(f'arc.keys."{key.domain}"', key) for key in settings.arc.keys.values()]
    named += [(f'dkim.keys."{key.domain}"', key) for keys in settings.dkim.keys.values() for key in keys]
    if survey.folder is not None:
        theirs = [each for each in survey.folder.private_keys if each.file]
        rules = {each.file: each.rule for each in theirs}
        named = [(rules.get(key.file, where), key) for where, key in named]
        named += [(each.rule, _domain_key(each)) for each in theirs]
    waiting = [(f'arc.keys."{key.domain}"', key) for key in settings.arc.others]
    seen = set()
    for number, (where, key) in enumerate((*named, *waiting)):
        place = (key.domain.key, key.selector.lower())
        if place in seen:
            continue
        try:
            text = record(load(key))
        except KeyFault:
            continue
        seen.add(place)
        yield Key(key.domain.key, key.selector, text, where, used=number < len(named))
