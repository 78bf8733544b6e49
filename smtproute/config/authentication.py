"""Authentication: what is judged, and what of it hangs together."""

from __future__ import annotations

from smtproute.config.document import Document
from smtproute.config.schema import Root
from smtproute.core.settings import Arc, Authentication, Policy, SignBy

__all__ = ["authentication"]


def authentication(document: Document, root: Root, arc: Arc) -> Authentication:
    """What is judged. A check is off only where nothing that is on needs its verdict; `arc` says who seals."""
    table = root.authentication
    for key, needed, text in (
        ("spf", table.dmarc, "DMARC would fail what only SPF passes. Write spf = true, or dmarc = false."),
        ("dkim", table.dmarc, "DMARC would fail what only DKIM passes. Write dkim = true, or dmarc = false."),
        (
            "dmarc",
            table.policy is Policy.ENFORCE,
            'policy = "enforce" does what DMARC says. Write dmarc = true, or policy = "observe".',
        ),
        (
            "arc",
            arc.sign is not SignBy.OFF,
            'a seal (ARC) says what the chain was worth on arrival. Write arc = true, or [arc] sign = "off".',
        ),
        (
            "arc",
            bool(table.trusted_sealers),
            "trusted_sealers vouch by the chain (ARC). Write arc = true, or remove trusted_sealers.",
        ),
    ):
        if needed and not getattr(table, key):
            document.wrong(("authentication", key), text)
    return Authentication(**dict(table))
