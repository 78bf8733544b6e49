"""Senders: whose address a login may put into MAIL FROM (Postfix reject_authenticated_sender_login_mismatch).

docker-mailserver's SPOOF_PROTECTION asks, for the sender as it is written, the virtual aliases, the local aliases,
the pattern aliases, and a pattern that answers every address with itself; whoever any of them names owns it. Since
that pattern always answers, the sender without its `+detail` and `@domain` are never asked.
"""

from __future__ import annotations

from smtproute.core.address import Address
from smtproute.core.aliases import Aliases, LookupFault, direct
from smtproute.core.plan import Step, Tried
from smtproute.core.reply import LOOKUP_FAILED, Refusal, Reply

__all__ = ["owns"]


def owns(aliases: Aliases, login: Address, sender: Address, steps: list[Step]) -> Refusal | None:
    """Why `login` may not send as `sender`, or None."""
    if login.key == sender.key:
        steps.append(Step("SPOOF_PROTECTION", str(sender), Tried.MATCHED, "the login is the sender"))
        return None
    try:
        named = direct(aliases, sender)
    except LookupFault as fault:
        return Refusal(LOOKUP_FAILED, "senders", str(fault))
    for rule, owner in named:
        if owner.lower() == login.key:
            steps.append(Step(rule, str(sender), Tried.MATCHED, f"names {login}, who may therefore send as it"))
            return None
    steps.append(Step("SPOOF_PROTECTION", str(sender), Tried.SKIPPED, f"{login} does not own it"))
    reply = Reply(553, "5.7.1", f"Sender address rejected: not owned by user {login}")
    return Refusal(reply, "senders", f"no alias of {sender} names {login}")
