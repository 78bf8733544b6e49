"""Refusals: what a relay refused at the door, with what was said on that connection until then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from smtproute.core.event import Event
from smtproute.core.transcript import Arrow, Line, legible, plain
from smtproute.smtp.session import Session
from smtproute.trace.text import transcript

__all__ = ["Refusal", "told"]

_REFUSALS = 20
"""Refusals that a report names, the latest."""
_LINES = 40
"""The last lines of a transcript that it shows."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One command or connection that a relay refused."""

    relay: str
    event: Event
    before: tuple[Line, ...]
    """The transcript up to this reply."""
    reply: Line

    @classmethod
    def of(cls, relay: str, event: Event, session: Session | None) -> Self:
        """`session`: in which it was; None where the connection had none yet."""
        before = tuple(session.transcript()) if session is not None else ()
        arrow = Arrow.SENT_TLS if session is not None and session.client.tls else Arrow.SENT
        return cls(relay, event, before, Line(arrow, event.at, legible(event.facts["reply"])))

    @property
    def what(self) -> str:
        """What was refused, in words."""
        facts = self.event.facts
        message = f"a message from <{facts['sender']}>" if "sender" in facts else "a client"
        return facts.get("recipient") or facts.get("command") or facts.get("login") or message

    @property
    def envelope(self) -> list[str]:
        """What was said with addresses in it; empty where it was refused before that."""
        return [line.text for line in self.before if "@" in line.text]

    @property
    def recipients(self) -> list[str]:
        """Whose mail it was; empty where that is not known."""
        recipients: str = self.event.facts.get("recipient", "")
        return recipients.split(", ") if recipients else []


def told(refusals: Sequence[Refusal]) -> list[str]:
    """The latest of them, each in a line, and below it what was said on its connection.

    Refusals of one transaction, one after the other, have one transcript.
    """
    latest = refusals[-_REFUSALS:]
    lines = []
    for refusal, following in zip(latest, [*latest, None][1:], strict=True):
        lines.append(legible(f"{refusal.relay} refused {refusal.what}: {refusal.reply.text}"))
        said = (*refusal.before, refusal.reply)
        if following is None or refusal.before != following.before[: len(refusal.before)] or not refusal.before:
            cut = ["  ..."] if len(said) > _LINES else []
            lines += [*cut, *(f"  {line}" for line in transcript(plain(said[-_LINES:])))]
    return lines
