"""Probe: what an operator would try by hand with telnet, at one address of an endpoint, and what came of it.

It goes by the relay's own client and settings, up to a MAIL and a RCPT that RSET takes back.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from smtproute.core.outcome import Answer, Stage
from smtproute.core.settings import Endpoint, EndpointTls
from smtproute.core.transcript import Arrow, Line
from smtproute.delivery.certificate import Certificate, read
from smtproute.delivery.hops import Hop, Trial, lost
from smtproute.smtp.client import Connection, Mail
from smtproute.smtp.opening import Learnt, Opening, Terms, Timeouts, Unreachable
from smtproute.smtp.sasl import Credentials
from smtproute.smtp.tls import TlsFault, tls_context
from smtproute.world import World

__all__ = ["Probe", "Prober"]

AT_ONCE = 10
"""How many addresses are probed at the same time."""
TIMEOUTS = Timeouts(connect=5.0, tls=10.0, greeting=10.0, ehlo=10.0, mail=10.0, rcpt=10.0, quit=2.0)
"""Seconds: somebody waits for the answer. Servers that let clients wait greet after six (postscreen(8))."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of one hop."""

    hop: Hop
    at: float
    """When it was made, in seconds since the epoch."""
    answer: Answer
    """The server's to RCPT; or what went wrong, and at which stage. `Stage.DATA` is the RSET in its place."""
    learnt: Learnt
    certificate: Certificate | None = None
    downgrade: str = ""
    """Why it went in plain text, though TLS is preferred."""
    transcript: tuple[Line, ...] = ()

    @property
    def ok(self) -> bool:
        return _yes(self.answer)

    @property
    def verified(self) -> bool:
        """Whether a certificate was verified, and is good."""
        endpoint, shown = self.hop.trial.endpoint, self.certificate
        wanted = endpoint.verify and endpoint.tls in (EndpointTls.REQUIRE, EndpointTls.IMPLICIT)
        return wanted and shown is not None and not shown.refused

    @property
    def postmaster_refused(self) -> bool:
        """Whether all was well up to MAIL, and postmaster alone, whom nobody named, was refused for good."""
        recipient, answer = self.hop.trial.recipient, self.answer
        invented = recipient is None or recipient.local.lower() == "postmaster"
        return invented and answer.stage is Stage.RCPT and answer.reply is not None and answer.reply.permanent

    def __str__(self) -> str:
        """How it failed, in the words of a delivery that failed so."""
        if self.hop.found is None:
            return f"{self.hop.server.host if self.hop.server else self.hop.written}: {self.answer.told}"
        return f"{self.hop} {self.answer.told}"


class Prober:
    """Probes hops of these trials. Their TLS files are read here: tens of milliseconds, in which nothing else runs.

    A certificate that is refused is looked at in a second handshake, for information: it verifies nothing, shows no
    certificate of ours, and neither credentials nor mail follow it.
    """

    def __init__(self, trials: Collection[Trial], helo: str, world: World, timeouts: Timeouts = TIMEOUTS) -> None:
        self._helo = helo
        self._world = world
        self._timeouts = timeouts
        endpoints = [trial.endpoint for trial in trials]
        self._contexts = {each.name: _context(each) for each in endpoints}
        self._unverified = {
            each.name: _context(replace(each, verify=False, certificate="", key="")) for each in endpoints
        }

    async def probe(self, found: Sequence[Hop]) -> list[Probe]:
        """Every address, and every name that gives none, in their order; several at once.

        Addresses that the relay does not use (another family, no route) are left out, where the name has others.
        """
        without = lost(found)
        room = asyncio.Semaphore(AT_ONCE)

        async def one(hop: Hop) -> Probe:
            async with room:
                return await self._probe(hop)

        async with asyncio.TaskGroup() as tasks:
            tried = [hop for hop in found if hop.usable or hop.found is None or hop in without]
            made = [tasks.create_task(one(hop)) for hop in tried]
        return [each.result() for each in made]

    async def _probe(self, hop: Hop) -> Probe:
        now = self._world.clock.now()
        trial = hop.trial
        context = self._contexts[trial.endpoint.name]
        if not hop.usable:
            return Probe(hop, now, Answer(Stage.RESOLVE, None, hop.why), Learnt())
        if isinstance(context, TlsFault):
            note = Line(Arrow.NOTE, now, str(context))
            return Probe(hop, now, Answer(Stage.STARTTLS, None, str(context)), Learnt(), transcript=(note,))
        opening = self._opening(hop, context, Credentials.of(trial.endpoint))
        try:
            await _open(opening)
        except Unreachable as failed:
            shown = read(failed.learnt.certificate)
            if failed.answer.stage is Stage.STARTTLS and shown is None:
                shown = await self._refused(hop, failed.answer.how)
            return Probe(hop, now, failed.answer, failed.learnt, shown, transcript=failed.transcript)
        connection = Connection(opening)
        recipients = () if trial.recipient is None else (trial.recipient,)
        answers = await connection.rehearse(Mail(trial.reverse_path, recipients))
        await connection.quit()
        failures = [each for each in answers if not _yes(each)]
        answer = failures[0] if failures else answers[1]
        shown = read(opening.learnt.certificate)
        return Probe(hop, now, answer, opening.learnt, shown, opening.downgrade, connection.transcript)

    def _opening(self, hop: Hop, context: ssl.SSLContext | None, login: Credentials | None) -> Opening:
        assert hop.server is not None and hop.found is not None, "a hop without an address is not probed"
        endpoint = hop.trial.endpoint
        terms = Terms(endpoint.tls, context, self._helo, endpoint.tls_name, login, endpoint.lmtp, self._timeouts)
        return Opening(hop.server, hop.found.ip, terms, self._world)

    async def _refused(self, hop: Hop, why: str) -> Certificate | None:
        """What the certificate says that was refused."""
        context = self._unverified[hop.trial.endpoint.name]
        if isinstance(context, TlsFault):
            return None
        opening = self._opening(hop, context, None)
        try:
            await _open(opening)
        except Unreachable:
            pass
        finally:
            opening.abort()
        return read(opening.learnt.certificate, why)


async def _open(opening: Opening) -> None:
    """Raises Unreachable."""
    await opening.connect()
    await opening.greet()
    await opening.enter()


def _context(endpoint: Endpoint) -> ssl.SSLContext | TlsFault | None:
    try:
        return tls_context(endpoint)
    except TlsFault as fault:
        return fault


def _yes(answer: Answer) -> bool:
    return answer.reply is not None and answer.reply.completed
