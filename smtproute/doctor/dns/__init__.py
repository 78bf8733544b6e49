"""What an administrator has to publish in DNS for this relay, and whether it is there (`check --dns`).

`questions` tells what is asked of DNS, and reads the keys for it; `answers` asks, all at once and within one deadline;
the others judge the answers, one module a kind of record. A question without an answer is said to be one: nothing is
concluded from it.
"""

from __future__ import annotations

from collections.abc import Iterator

from smtproute.core.finding import Finding, warning
from smtproute.doctor.dns import dkim, dmarc, exchangers, relay, spf
from smtproute.doctor.dns.answers import Answers
from smtproute.doctor.survey import listed

__all__ = ["examine"]


def examine(answers: Answers) -> Iterator[Finding]:
    """What is missing or wrong, each with the record to publish."""
    for family in (relay, exchangers, spf, dkim, dmarc):
        yield from family.examine(answers)
    match list(answers.unanswered().items()):
        case []:
            return
        case [(name, why)]:
            what = f"DNS does not answer now: {why}. What is published there is not judged."
            yield warning("dns-unanswered", name, what)
        case [(name, why), *_] as several:
            names = [each for each, _ in several]
            what = (
                f"DNS does not answer now for {len(names)} names: {listed(names, len(names))} (of the first: {why})."
                " What is published there is not judged."
            )
            yield warning("dns-unanswered", name, what)
