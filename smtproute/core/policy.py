"""Policy: what becomes of mail that the domain of its author disowns (RFC 7489 6.3, 6.7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile
from textwrap import wrap

from smtproute.core.address import Domain
from smtproute.core.reply import Reply
from smtproute.core.settings import Authentication, Policy
from smtproute.core.transcript import legible
from smtproute.core.verdict import Disposition, Judged

__all__ = ["Asked", "Override", "Ruling", "Seal", "refusal", "rule"]

_WEAKER = {
    Disposition.REJECT: Disposition.QUARANTINE,
    Disposition.QUARANTINE: Disposition.NONE,
    Disposition.NONE: Disposition.NONE,
}
_LINE = 400
"""Characters of one line of a reply; with its code it may have 512 (RFC 5321 4.5.3.1.5)."""


class Override(StrEnum):
    """Why less is done than is asked for (RFC 7489 appendix C, PolicyOverrideType)."""

    LOCAL_POLICY = "local_policy"
    SAMPLED_OUT = "sampled_out"


@dataclass(frozen=True, slots=True)
class Asked:
    """What DMARC came to, and what the domain of the author asks for."""

    domain: str
    disposition: Disposition = Disposition.NONE
    """NONE where DMARC has not failed; if it is doubtful, where it would not fail or no policy is known."""
    percent: int = 100
    """Of how much such mail it asks that (`pct`)."""
    doubtful: bool = False
    """It could not be judged for now."""
    hidden: bool = False
    """Nobody can say whose mail it is (`core.author`)."""


@dataclass(frozen=True, slots=True)
class Seal:
    """One set of an ARC chain that passes."""

    sealer: Domain
    passed: str = ""
    """What its results say of the message as it came there, such as `dmarc=pass`; "" where it passed nothing."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is done, and why, in words; "" where nothing was asked for."""

    disposition: Disposition = Disposition.NONE
    reason: str = ""
    override: Override | None = None
    deferred: bool = False
    """It is not taken now, since it cannot be told yet whether the disposition would be another."""


def rule(
    authentication: Authentication, asked: Asked, chain: Sequence[Seal], *, chance: float, exempt: bool = False
) -> Ruling:
    """What follows.

    `chain` is the ARC chain, newest set first; empty where it does not pass. `chance` is drawn from 0 to 1, 1 not
    included: what falls outside of `pct` gets the next weaker policy (RFC 7489 6.6.4). `exempt`: the client is in
    trusted_networks. Mail that may be disowned is not taken while that cannot be told: whoever forges it could see to
    that. A message that hides its author is refused whatever else is known: mail programs show somebody,
    and no domain's policy can be followed (RFC 7489 6.6.1).
    """
    enforced = authentication.policy is Policy.ENFORCE and not exempt
    if asked.hidden and enforced:
        return Ruling(Disposition.REJECT, "nobody can say whose mail it is")
    if asked.doubtful and (asked.disposition is Disposition.NONE or not enforced):
        return Ruling(reason="it is accepted, since DMARC cannot be judged now" if enforced else "")
    if asked.disposition is Disposition.NONE:
        return Ruling()
    reason = f"{asked.domain} asks for {asked.disposition}"
    seal = _trusted(authentication.trusted_sealers, chain)
    if seal is not None:
        words = f"{reason}, but arc=pass, and {seal.sealer}, which is trusted, sealed {seal.passed}"
        return Ruling(Disposition.NONE, words, Override.LOCAL_POLICY)
    disposition: Disposition = asked.disposition
    override: Override | None = None
    if chance * 100 >= asked.percent:
        disposition, override = _WEAKER[disposition], Override.SAMPLED_OUT
        reason += f" of {asked.percent} % of such mail, and this is not among it: {disposition}"
    if asked.doubtful and disposition is not Disposition.NONE:
        return Ruling(reason=f"{reason} where it fails, and that cannot be told now", deferred=True)
    if disposition is Disposition.NONE or enforced:
        return Ruling(disposition, reason, override)
    why = "the client is in trusted_networks" if exempt else f"policy is {authentication.policy}"
    return Ruling(Disposition.NONE, f"{reason}, which is not done: {why}", Override.LOCAL_POLICY)


def _trusted(sealers: Sequence[Domain], chain: Sequence[Seal]) -> Seal | None:
    """The newest seal that vouches for the message, of those from the newest back to the first that is not trusted.

    What is behind a sealer that nobody trusts may be of its making.
    """
    trusted = takewhile(lambda seal: seal.sealer in sealers, chain)
    return next((seal for seal in trusted if seal.passed), None)


def refusal(judged: Judged) -> Reply:
    """What a client hears at DATA of a message that is refused: for the postmaster of whoever sent it."""
    domain = judged.author
    said = f"DMARC: mail in the name of {domain} is refused, because {judged.reason}."
    mend = f"Send it by a server that the SPF record of {domain} names, or sign it with DKIM as d={domain}."
    if judged.deferred:
        said = f"DMARC: mail in the name of {domain} is not taken now, because {judged.reason}."
        mend = "This is temporary, and nothing is lost: send it again later."
    if not domain:
        said = f"The message is refused, because {judged.reason}."
        mend = "Send it with one From field, and the address of its author in it (RFC 5322 3.6.2)."
    plain = (legible(text).encode("ascii", "backslashreplace").decode("ascii") for text in (said, mend))
    lines = "\n".join(line for text in plain for line in wrap(text, _LINE, break_on_hyphens=False))
    return Reply(451, "4.7.0", lines) if judged.deferred else Reply(550, "5.7.1", lines)
