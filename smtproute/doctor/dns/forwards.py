"""Forwards: which providers take what aliases send elsewhere, and what these ask of those who forward."""

from __future__ import annotations

from dataclasses import dataclass

from smtproute.core.providers import Provider, provider_of
from smtproute.doctor.dns.answers import Answers

__all__ = ["Forwarded", "forwarded"]


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A provider, and the targets of aliases whose mail it takes."""

    provider: Provider
    addresses: tuple[str, ...]


def forwarded(answers: Answers) -> tuple[Forwarded, ...]:
    """By provider; targets at domains of nobody who is known are left out."""
    found: dict[Provider, list[str]] = {}
    for domain, addresses in answers.questions.targets.items():
        provider = provider_of(answers.exchanges[domain].records)
        if provider is not None:
            found.setdefault(provider, []).extend(addresses)
    return tuple(Forwarded(provider, tuple(addresses)) for provider, addresses in found.items())
