"""The trace of one message as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, assert_never

from smtproute.core.event import Event, Happening
from smtproute.core.settings import Mode
from smtproute.core.transcript import legible

__all__ = ["clock", "render", "transcript"]


def clock(at: float) -> str:
    """A time of day in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3]


def transcript(lines: Sequence[Sequence[Any]]) -> list[str]:
    """A transcript's lines: time, swaks's arrow, text."""
    return [f"{clock(at)} {arrow} {text}" for arrow, at, text in lines]


def render(events: Sequence[Event], *, transcripts: bool = True) -> list[str]:
    """The journey that these events tell, oldest first."""
    lines: list[str] = []
    today = ""
    for event in events:
        day = datetime.fromtimestamp(event.at, UTC).strftime("%Y-%m-%d")
        if day != today:
            lines.append(f"{event.message} on {day} (UTC)")
            today = day
        first, *more = _event(event, transcripts)
        lines.append(f"{clock(event.at)} {event.what:<9} {legible(first)}")
        lines += [f"             {legible(line)}" for line in more]
    return lines


def _event(event: Event, transcripts: bool) -> list[str]:
    """What one event tells: its first line goes beside the time."""
    facts = event.facts
    said = [f"  {line}" for line in transcript(facts.get("transcript", ()))] if transcripts else []
    match event.what:
        case Happening.RECEIVED:
            return [_received(facts), *said]
        case Happening.PLANNED:
            return _planned(facts)
        case Happening.VERDICT:
            ruled = [f"  disposition {facts['disposition']}: {facts['reason']}"] if facts.get("reason") else []
            first, *others = facts["verdicts"] or ["none"]
            return [first, *(f"  {each}" for each in others), *ruled]
        case Happening.ATTEMPT:
            standby = ", a backup" if facts["backup"] else ""
            failed = f" FAILED: {facts['failed']}" if facts.get("failed") else ""
            # One that failed without TLS may not have come to plain text either.
            plain = ", plain text" if facts["downgrade"] or not failed else ""
            secured = f", {facts['tls']}" if facts["tls"] else plain
            secured += f" ({facts['downgrade']})" if facts["downgrade"] else ""
            signers = [f"{key['domain']} ({key['selector']})" for key in facts.get("signed", ())]
            signed = f", signed by {', '.join(signers)}" if signers and not failed else ""
            sealed = f", sealed by {facts['sealed']}" if facts["sealed"] and not failed else ""
            rewritten = f", from <{facts['sender']}>" if facts.get("rewritten") and not failed else ""
            kept = [f"  the sender is not rewritten: {why}"] if (why := facts.get("unrewritten")) else []
            at = f" at {facts['ip']}" if facts["ip"] != facts["server"] else ""
            where = f"{facts['server']}{at} ({facts['source']}{standby})"
            return [f"endpoint {facts['endpoint']}: {where}{secured}{rewritten}{signed}{sealed}{failed}", *kept, *said]
        case Happening.DELIVERED | Happening.DEFERRED | Happening.FAILED | Happening.WITHDRAWN:
            return _outcome(event)
        case Happening.ANSWERED:
            return [f"the client heard: {facts['reply']}"]
        case Happening.UNSEALED | Happening.UNSIGNED:
            return [f"endpoint {facts['endpoint']}: {facts['why']}"]
        case Happening.BOUNCED:
            return [f"DSN {facts['dsn']} to {facts['to']}" if facts["dsn"] else f"no DSN: {facts['why']}"]
        case Happening.HELD if "rule" in facts:
            return [f"{facts['address']} by {facts['rule']}, until the operator releases it"]
        case Happening.HELD | Happening.RELEASED | Happening.RETRIED | Happening.REMOVED:
            return ["by the operator"]
        case Happening.DOWNGRADED:
            return [f"endpoint {facts['endpoint']}: {facts['server']} at {facts['ip']} in plain text: {facts['why']}"]
        case (
            Happening.RESOLVED
            | Happening.RESTING
            | Happening.RECOVERED
            | Happening.LISTENING
            | Happening.RELOADED
            | Happening.RELOAD_REFUSED
            | Happening.DRAINING
            | Happening.STOPPED
            | Happening.WARNING
            | Happening.REFUSED
            | Happening.FAULT
        ):
            return [" ".join(f"{name}={value}" for name, value in facts.items() if value not in ("", None))]
        case _:
            assert_never(event.what)


def _received(facts: Mapping[str, Any]) -> str:
    sender = f"from <{facts['sender']}>, {facts['size']} octets"
    if "bounce_of" in facts:
        return f"{sender}: a DSN of this relay about {facts['bounce_of']}"
    secured = f", {facts['tls']}" if facts["tls"] else ""
    removed = f", {facts['forged']} forged result fields removed" if facts["forged"] else ""
    who = f"{facts['client']} ({facts['helo']})" + (f" logged in as {facts['login']}" if facts.get("login") else "")
    if (named := facts.get("named")) is not None:
        who += f' logged in as {named or "nobody"} (auth = "any")'
    return f"{sender}, by {who} on listener {facts['listener']} ({facts['role']}{secured}){removed}"


def _planned(facts: Mapping[str, Any]) -> list[str]:
    lines = [facts["recipient"]]
    lines += [f"  {rule}  {tried}: {why}" for rule, tried, why in facts["steps"]]
    for copy in facts["deliveries"]:
        endpoint = f" {copy['endpoint']}" if copy["endpoint"] else ""
        what = f"hold, then {'endpoint' if endpoint else 'capture'}" if copy["kind"] == Mode.HOLD else copy["kind"]
        lines.append(f"  => {what}{endpoint} for {copy['address']} ({copy['rule']})")
    return lines + [f"  note: {note}" for note in facts["notes"]]


def _outcome(event: Event) -> list[str]:
    facts = event.facts
    name = f"{facts['kind']} {facts['endpoint']}".rstrip()
    again = ""
    if facts["retry_at"] is not None:
        again = datetime.fromtimestamp(facts["retry_at"], UTC).strftime(", again on %Y-%m-%d at %H:%M:%S")
    first = f"{name} for {facts['address']}: {facts['reply']} (says {facts['says']}){again}"
    said = [f"  {facts['says']}: {facts['detail']}"] if facts["detail"] else []
    if advice := facts.get("advice"):
        said += [f"  cause: {advice['cause']}", f"  mend: {advice['mend']} See {advice['source']}"]
    return [first, *said]
