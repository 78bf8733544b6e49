"""Play: one scenario on a stage of its own, from its first explanation to what its servers have had in the end.

    result = await play(read(Path("tests/scenarios/forward.toml")))
    assert result.passed, result.report

Nothing is left of the stage afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from smtproute.config.document import Location, Mistake
from smtproute.core.event import Event
from smtproute.core.message import apply
from smtproute.core.settings import ListenerTls
from smtproute.core.transcript import plain
from smtproute.intake.speaker import SpeakerFault
from smtproute.spool.queue import SpoolFailed
from smtproute.testing.client import Sent, letter
from smtproute.testing.expect import misrouted
from smtproute.testing.report import failure
from smtproute.testing.scenarios.acceptance import accepted, accepted_replies, accepted_routes
from smtproute.testing.scenarios.comparison import Expected, compared, told, unanswered
from smtproute.testing.scenarios.outcome import Copy, copies
from smtproute.testing.scenarios.scenario import ExplainTable, MessageTable, Scenario, Status
from smtproute.testing.scenarios.sessions import dialogues
from smtproute.testing.scenarios.signatures import judged
from smtproute.testing.scenarios.surroundings import Surroundings
from smtproute.testing.scenarios.update import Change, Put
from smtproute.testing.scenarios.values import referred
from smtproute.testing.signer import Signer
from smtproute.testing.stage import Flow, Stage
from smtproute.testing.upstream import Upstream
from smtproute.trace.text import transcript
from smtproute.world import SystemClock

__all__ = ["Result", "play"]

DEADLINE = 120.0
"""Seconds on the machine's clock after which a scenario has failed."""
_HERE = "127.0.0.1"
"""Whose mail is explained where nothing is said of that: this machine's."""


@dataclass(slots=True)
class _Played:
    """One message, as it went."""

    number: int
    """From 1."""
    message: MessageTable
    sent: tuple[Sent, ...] = ()
    """Each of its copies."""
    at: float = 0.0
    """When the first was sent, in seconds since the epoch, on the stage's clock."""
    copies: tuple[Copy, ...] = ()
    """Every delivery that came or stood otherwise when the message was done. Where the next one did not wait, those
    stand with the one that did."""

    @property
    def location(self) -> Location:
        """Where it stands in its file."""
        return "message", self.number - 1

    @property
    def told(self) -> str:
        """What reports call it."""
        return f"message {self.number} ({self.message.name})" if self.message.name else f"message {self.number}"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a scenario."""

    scenario: Scenario
    failures: tuple[str, ...]
    """What is not as it was expected, a text each."""
    report: str
    """The same with all that explains it; "" where it passed."""
    changes: tuple[Change, ...]
    """With these changes of its expectations it would have passed."""
    seconds: float
    """How long it took, on the machine's clock."""
    transcript: str
    """What was said in all sessions, without times, queue ids and ports: one seed, one text."""

    @property
    def passed(self) -> bool:
        """Whether everything is as it was expected."""
        return not self.failures


class _Nothing(Exception):
    """There is no such address; the text says why."""


async def play(scenario: Scenario, *, seed: int | None = None, deadline: float = DEADLINE) -> Result:
    """Plays a scenario. `seed` takes the place of its own. `deadline`: seconds on the machine's clock after which it
    has failed.

    Raises config.document.Mistake for a configuration that cannot be used.
    """
    clock = SystemClock()
    began = clock.monotonic()
    now = scenario.now.timestamp() if scenario.now is not None else None
    seed = scenario.seed if seed is None else seed
    mistake: Mistake | None = None
    async with Stage(seed=seed, now=now, patience=scenario.patience) as stage:
        with Surroundings(scenario, stage) as surroundings:
            playing = _Playing(scenario, stage, surroundings)
            try:
                await playing.run(deadline)
            except Mistake as found:  # what leaves a stage with relays on it leaves in a group
                mistake = found
            report, servers = playing.report(), surroundings.servers
    if mistake is not None:
        raise mistake
    return Result(
        scenario,
        tuple(playing.failures),
        report,
        tuple(playing.changes),
        clock.monotonic() - began,
        dialogues([sent.transcript for played in playing.played for sent in played.sent], servers),
    )


class _Playing:
    """One scenario, while it is played."""

    def __init__(self, scenario: Scenario, stage: Stage, surroundings: Surroundings) -> None:
        self.failures: list[str] = []
        self.played: list[_Played] = []
        self.changes: list[Change] = []
        self._scenario = scenario
        self._stage = stage
        self._surroundings = surroundings
        self._waiting: list[_Played] = []
        """Messages whose expectations were not looked at yet."""
        self._known: dict[tuple[str, str, int], Copy] = {}
        """Every delivery, as it stood when it was looked at last."""
        self._concerned: dict[str, str] = {}
        """The messages that failures are about, by queue id, each with its relay."""
        self._refused: list[str] = []
        """What was said where the client heard something else than it should and no relay has the message."""

    async def run(self, deadline: float) -> None:
        """Everything, in order, for so many seconds at most."""
        try:
            async with asyncio.timeout(deadline) as limit:
                await self._surroundings.set_up()
                await self._all()
        except TimeoutError:
            if not limit.expired():
                raise
            is_open = " and ".join(self._open())
            self.failures.append(f"it did not come to an end within {deadline:g} s{is_open and f': {is_open}'}")
            for played in self._waiting:
                self._concern(played)

    async def _all(self) -> None:
        for number, table in enumerate(self._scenario.explain):
            await self._explain(number, table)
        for message in self._scenario.message:
            await self._message(message)
        if self._waiting:
            await self._settled(self._waiting[-1].message)
        self.failures += self._surroundings.failed
        self._arrived()

    def report(self) -> str:
        """Why it failed; "" where it did not."""
        if not self.failures:
            return ""
        said = failure(
            "\n".join(self.failures),
            arrivals=self._stage.arrivals.all if self.played else None,
            traces=[_events(self._stage.flows[relay], message) for message, relay in self._concerned.items()],
            more=[each for each in ("\n".join(self._surroundings.unvisited), *self._refused) if each],
        )
        return f"{said}\n\nseed {self._stage.seed}"

    def _open(self) -> Iterator[str]:
        """What has not come to its end."""
        for played in self._waiting:
            sending = len(played.sent) < played.message.copies
            yield f"{played.told} {'is being sent' if sending else 'is under way'}"
        for host, standing in self._surroundings.servers.items():
            if any(session.open for each in standing for session in each.sessions):
                yield f"a connection to {host} is open"

    def _concern(self, played: _Played) -> None:
        """The report has the traces of this message."""
        self._concerned |= {sent.id: played.message.relay for sent in played.sent if sent.id}

    async def _explain(self, number: int, table: ExplainTable) -> None:
        flow = self._stage.flows[table.relay]
        try:
            (explained,) = await flow.explain(
                str(table.address),
                sender=table.sender,
                client=table.client or _HERE,
                listener=table.listener or None,
                login=str(table.login) if table.login is not None else None,
            )
        except SpeakerFault as fault:
            raise Mistake(f"{self._scenario.shown}: explain[{number}].{fault.named}: {fault}") from None
        if wrong := misrouted(explained, table.routes, table.reply):
            self.failures.append(wrong)
            self.changes += accepted_routes(("explain", number), table, explained)

    async def _message(self, message: MessageTable) -> None:
        """One message, up to the look at what became of it, unless the next does not wait for that."""
        flow = self._stage.flows[message.relay]
        await self._surroundings.change(flow, message.before)
        played = _Played(len(self.played) + 1, message, at=self._stage.clock.now())
        self.played.append(played)
        try:
            to = [self._address(each) for each in message.to]
            sender = self._address(message.sender)
        except _Nothing as why:
            self.failures.append(f"{played.told} was not sent: {why}")
        else:
            self._waiting.append(played)
            content = await self._content(flow, message, sender, to)
            for _ in range(message.copies):
                played.sent += (await self._send(flow, message, content, sender, to),)
            for sent in played.sent:
                self._heard(played, to, sent)
        if message.wait and self._waiting:
            await self._settled(message)

    def _heard(self, played: _Played, to: Sequence[str], sent: Sent) -> None:
        """Looks at the replies to one copy."""
        wrong = unanswered(played.message, _replies(played.message, to, sent))
        self.failures += [f"{played.told}: {each.text}" for each in wrong]
        if sent is played.sent[0]:
            self.changes += accepted_replies(played.location, wrong, played.message.replies)
        if wrong and sent.id:
            self._concerned[sent.id] = played.message.relay
        elif wrong:
            said = transcript(plain(sent.transcript))
            self._refused.append("\n".join([f"{played.told}, as its client had it:", *(f"  {line}" for line in said)]))

    async def _send(
        self, flow: Flow, message: MessageTable, content: bytes | None, sender: str, to: Sequence[str]
    ) -> Sent:
        listeners = flow.snapshot.settings.listeners
        listener = listeners.get(message.listener or next(iter(listeners)))
        if listener is None:
            known = f"The configuration has {', '.join(listeners)}."
            at = f"message[{len(self.played) - 1}].listener"
            raise Mistake(f"{self._scenario.shown}: {at}: there is no listener {message.listener!r}. {known}")
        tls = message.tls
        if tls is None:
            tls = message.login is not None and listener.tls is ListenerTls.STARTTLS
        return await flow.send(
            content,
            sender=sender,
            to=to,
            listener=listener.name,
            client=message.client,
            helo=message.helo,
            login=message.login,
            tls=tls,
        )

    async def _content(self, flow: Flow, message: MessageTable, sender: str, to: Sequence[str]) -> bytes | None:
        """What is sent, signed and sealed; None: what the client makes itself."""
        content = self._scenario.content(message)
        if content is None and (message.sign or message.seal or message.size):
            chance = self._stage.chance.getrandbits(64)
            content = letter(sender, to, at=self._stage.clock.now(), id=f"{chance:016x}", size=message.size)
        if content is None:
            return None
        for domain in message.sign:
            content = await Signer(self._surroundings.keys[domain], flow).sign(content)
        for domain in message.seal:
            content = await Signer(self._surroundings.keys[domain], flow).seal(content, message.results)
        return content

    async def _settled(self, last: MessageTable) -> None:
        """Looks at what became of all messages that wait for it, once so much time has passed as the last one wants."""
        within = self._scenario.within if last.within is None else last.within
        await self._stage.flows[last.relay].advance(within)
        fresh = await self._fresh()
        self._known |= {(copy.relay, copy.message, copy.number): copy for copy in fresh}
        self._waiting[-1].copies = tuple(fresh)
        expected = [
            Expected(
                table,
                table.relay or each.message.relay,
                tuple(sent.content for sent in each.sent),
                each.at,
                (*each.location, "expect", place),
            )
            for each in self._waiting
            for place, table in enumerate(each.message.expect)
            for _ in range(table.copies or each.message.copies)
        ]
        found = compared(expected, fresh, nothing_else=self._scenario.nothing_else)
        latest = self._waiting[-1]
        self.changes += accepted(latest.location, latest.message, found)
        messages = " and ".join(each.told for each in self._waiting)
        self.failures += [f"{messages}: {text}" for text in told(found)]
        for mismatch in found:
            self._concerned |= {copy.message: copy.relay for copy in mismatch.copies}
        if any(mismatch.expected is not None and not mismatch.copies for mismatch in found):
            for each in self._waiting:
                self._concern(each)
        self._waiting = []

    async def _fresh(self) -> list[Copy]:
        """Every delivery of every relay that was not there at the last look, or stood otherwise."""
        found: list[Copy] = []
        for flow in self._stage.flows.values():
            lookup = flow.lookup
            fresh = filter(self._is_new, copies(flow.name, flow.journal.events, self._stage.arrivals.all))
            found += [await judged(await _whole(flow, copy), lookup, self._stage.pool) for copy in fresh]
        return found

    def _is_new(self, copy: Copy) -> bool:
        before = self._known.get((copy.relay, copy.message, copy.number))
        return before is None or (before.status, before.place) != (copy.status, copy.place)

    def _arrived(self) -> None:
        """Looks at what servers have had."""
        failed = len(self.failures)
        self._count_arrived(self._surroundings.servers)
        for played in self.played if len(self.failures) > failed else ():
            self._concern(played)

    def _count_arrived(self, servers: Mapping[str, Sequence[Upstream]]) -> None:
        for host, table in self._scenario.arrived.items():
            standing = servers.get(host)
            if standing is None:
                there = f"there are: {', '.join(sorted(servers))}" if servers else "there is none"
                self.failures.append(f"arrived: there is no server {host}; {there}")
                continue
            had = {
                "messages": sum(len(each.received) for each in standing),
                "connections": sum(each.connections for each in standing),
            }
            for what, count in had.items():
                wanted = getattr(table, what)
                if wanted is not None and count != wanted:
                    self.failures.append(f"expected {host} to have had {wanted} {what}: it had {count}")
                    self.changes.append(Put(("arrived", host, what), count))

    def _address(self, text: str) -> str:
        """An address of a message; in place of "{1.sender}" the reverse-path with which the first one arrived.

        Raises _Nothing where it did not.
        """
        name = referred(text)
        if name is None:
            return text
        (named,) = (played for played in self.played if name in (str(played.number), played.message.name))
        for copy in named.copies:
            if copy.server and copy.content is not None:
                return copy.sender
        raise _Nothing(f"{named.told} arrived nowhere, so {text} is nothing")


def _replies(message: MessageTable, to: Sequence[str], sent: Sent) -> dict[str, str]:
    """What the client heard, by step and by recipient as the scenario has it; "" where it should have heard something
    and did not."""
    heard: dict[str, str] = {}
    steps = {"CONNECT": "CONNECT", **({"AUTH": "AUTH"} if message.login else {}), "MAIL": "MAIL"}
    for step in steps:
        heard[step] = sent.replies.get(step, "")
        if heard[step][:1] != "2":
            return heard
    heard |= {written: sent.replies.get(each, "") for written, each in zip(message.to, to, strict=True)}
    if any(heard[written][:1] == "2" for written in message.to):
        heard["DATA"] = sent.replies.get("DATA", "")
    return heard


def _events(flow: Flow, message: str) -> list[Event]:
    return [event for event in flow.journal.events if event.message == message]


async def _whole(flow: Flow, copy: Copy) -> Copy:
    """The copy with its content, also where another relay took it, which is no server of the stage."""
    if copy.content is not None or copy.edit is None or copy.status is not Status.DELIVERED:
        return copy
    with suppress(SpoolFailed):  # it is kept for a time only
        return replace(copy, content=apply(copy.edit, await flow.relay.spool.content(copy.message)))
    return copy
