"""Exchanges: what a transcript says that was asked and answered, and the script by which a server answers so again."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from smtproute.core.transcript import Arrow
from smtproute.testing.rules import Verb

__all__ = ["Exchange", "exchanges", "script"]

_OURS = (Arrow.SENT, Arrow.SENT_TLS)
_PATH = re.compile(r"(?:MAIL FROM|RCPT TO): ?<([^>]*)>", re.IGNORECASE)
_CONTENT = re.compile(r"\[(?:about )?\d+ (?:of \d+ )?octets\]")
_CREDENTIALS = "[credentials]"


@dataclass(frozen=True, slots=True)
class Exchange:
    """Something that a client said, and the answer."""

    verb: Verb
    path: str
    """The address of MAIL and RCPT; of the content in LMTP the recipient."""
    reply: str
    """Further lines after a line break, without the code; "" where none came."""

    @property
    def refused(self) -> bool:
        return self.reply[:1] not in ("2", "3")


def exchanges(transcript: Sequence[Sequence[Any]], *, server: bool = False) -> list[Exchange]:
    """What was asked and answered in a transcript of ours, as events have it. `server`: where we are the server.

    Commands of which nothing was heard are one exchange, the first of them: there the dialogue ended.
    """
    asked: deque[tuple[Verb, str]] = deque()
    found: list[Exchange] = []
    taken: list[str] = []
    lmtp, lines = False, list[str]()
    for arrow, _, text in transcript:
        if arrow == Arrow.NOTE:
            continue
        if (arrow in _OURS) is server:
            lines.append(text)
            if text[3:4] == "-":
                continue
            reply, lines = f"{text[:3]} " + "\n".join(line[4:] for line in lines), []
            verb, path = asked.popleft() if asked else (Verb.CONNECT, "")
            if verb is Verb.RCPT and reply.startswith("2"):
                taken.append(path)
            found.append(Exchange(verb, path, reply))
        elif _CONTENT.fullmatch(text):
            asked.extend([(Verb.CONTENT, path) for path in taken] if lmtp else [(Verb.CONTENT, "")])
        elif text == _CREDENTIALS:
            asked.append((Verb.AUTH, ""))
        elif (word := text.split(" ")[0].upper()) in tuple(Verb):
            lmtp = lmtp or word == Verb.LHLO
            if word == Verb.MAIL:
                taken = []
            written = _PATH.match(text)
            asked.append((Verb(word), written[1] if written else ""))
    if asked and asked[0][0] is not Verb.QUIT:
        found.append(Exchange(*asked[0], ""))
    return found


def script(dialogues: Sequence[Sequence[Exchange]]) -> list[dict[str, Any]]:
    """The rules of a server that refuses and hangs up as it did in these dialogues, in their order."""
    said: dict[tuple[Verb, str], list[str]] = defaultdict(list)
    for dialogue in dialogues:
        for each in _causes(dialogue):
            path = each.path if each.verb in (Verb.RCPT, Verb.CONTENT) else ""
            said[each.verb, path].append(each.reply if each.refused else "2")
    return [rule for (verb, path), replies in said.items() for rule in _rules(verb, path, replies)]


def _causes(dialogue: Sequence[Exchange]) -> Iterator[Exchange]:
    """Without the refusals that only follow from an earlier one: a strict server has them anyway."""
    mail = rcpt = True
    for each in dialogue:
        match each.verb:
            case Verb.MAIL:
                mail, rcpt = not each.refused, False
            case Verb.RCPT if mail:
                rcpt = rcpt or not each.refused
            case Verb.RCPT:
                continue
            case Verb.DATA | Verb.CONTENT if not rcpt:
                continue
            case _:
                pass
        yield each


def _rules(verb: Verb, path: str, replies: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What has a server say this at one verb: where a refusal is not the last word, it is said so many times."""
    passed, at = 0, 0
    for reply, run in groupby(replies):
        times = len(list(run))
        at += times
        if reply == "2":
            passed += times
            continue
        rule: dict[str, Any] = {"at": str(verb)}
        if path:
            rule["to"] = path
        if passed:
            rule["skip"] = passed
        if at < len(replies):
            rule["times"] = times
        yield rule | ({"reply": reply} if reply else {"then": "drop"})
