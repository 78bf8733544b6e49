"""Stage: relays in this process, with everything around them: names, servers, clients, keys, time. Nothing leaves.

    async with Stage(seed=7) as stage:
        stage.zone.set("external.example", "MX", ["10 mx.external.example"])
        flow = await stage.relay({"domains": ["example.org"], "aliases": {"tables": ["virtual"]}, ...})
        mx = stage.upstreams["mx.external.example"]

A relay runs with its configuration as production has it: host names, ports, roles, keys. Every server that it names
stands on the stage from the start and takes mail, at an address of its own; a script changes what it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import fields, replace
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import dns.message
import dns.rdatatype

from smtproute.app import Refused, Relay, records, usage
from smtproute.config.document import Mistake
from smtproute.config.load import understood
from smtproute.core.address import Address, Domain, written_ip
from smtproute.core.event import Event, Happening
from smtproute.core.settings import DomainKey, EndpointTls, ListenerTls, Server, Settings
from smtproute.core.snapshot import Snapshot
from smtproute.intake.explain import Explained, explain
from smtproute.intake.speaker import speaker
from smtproute.mailauth.keys import KeyFault, SigningKey, record
from smtproute.mailauth.keys import load as load_key
from smtproute.resolve.records import Records
from smtproute.smtp.opening import TIMEOUTS, Timeouts
from smtproute.testing.arrivals import Arrivals
from smtproute.testing.certificates import Authority
from smtproute.testing.client import HELO, Client, Sent, letter
from smtproute.testing.clock import StageClock
from smtproute.testing.inbox import Inbox
from smtproute.testing.network import RelayNetwork, StagedNetwork
from smtproute.testing.refusals import Refusal
from smtproute.testing.relay import Journal
from smtproute.testing.report import again
from smtproute.testing.rules import Rule
from smtproute.testing.staging import Config, document, key_file, staged
from smtproute.testing.upstream import Upstream
from smtproute.testing.zone import Zone
from smtproute.world import SystemClock, World

__all__ = ["PATIENCE", "REST", "Flow", "Stage"]

R = TypeVar("R")

PATIENCE = 5.0
"""Seconds that a relay on a stage waits for a server at each step, where production waits for minutes."""
REST = 60.0
"""Seconds of the machine's time that a stage may take to come to rest."""
_MEMORY = Path("/dev/shm")
_ROOMY = 1 << 30
"""Octets that must be free in memory for a stage to have its folder there."""


class Stage:
    """Made for one test; everything ends with `async with`."""

    def __init__(
        self,
        *,
        seed: int = 0,
        now: float | None = None,
        patience: float = PATIENCE,
        authority: Authority | None = None,
        how: str = "Stage(seed={})",
    ) -> None:
        """`seed` decides all that is left to chance. `now`: where the clock begins, in seconds since the epoch; None:
        the machine's time. `patience`: seconds, see `PATIENCE`. `how` the seed is given, for who reads a failure."""
        self.seed = seed
        self.how = how
        self.patience = patience
        self.clock = StageClock(SystemClock().now() if now is None else now, runs=now is None)
        self.zone = Zone({})
        self.network = StagedNetwork()
        self.upstreams: dict[str, Upstream] = {}
        """By host name, in lower case, or IP address."""
        self.flows: dict[str, Flow] = {}
        """The relays, by name."""
        self.arrivals = Arrivals(self)
        self.inbox = Inbox(self)
        """All that arrives anywhere."""
        self.chance = random.Random(f"{seed}/clients")
        """Of what clients leave to chance."""
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="stage")
        """Where keys are made, and signatures checked."""
        self._authority = authority
        self._stack = AsyncExitStack()
        self._servers = AsyncExitStack()
        self._ends: dict[str, AsyncExitStack] = {}
        """What ends each server, by its host name."""
        self._numbers = count(1)
        self._static: dict[str, Sequence[str]] = {}
        """The addresses that configurations have for host names."""

    @property
    def folder(self) -> Path:
        """Where everything of the stage lies; it goes when the stage ends. Its name has the process's id, by which a
        folder can be told that a killed process has left."""
        return self._folder

    @property
    def again(self) -> str:
        """How the same is seen again."""
        return again(self.seed, self.how)

    @property
    def authority(self) -> Authority:
        """Whose certificates everybody on the stage has, and trusts."""
        if self._authority is None:
            self._authority = Authority(self._folder)
        return self._authority

    async def __aenter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix=f"smtproute-{os.getpid()}-", dir=_memory()))
        async with AsyncExitStack() as stack:  # of a stage that does not come to stand, nothing is left
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            stack.callback(self.pool.shutdown)
            await stack.enter_async_context(self.zone)
            await self.arrivals.__aenter__()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.arrivals.__aexit__(kind, error, traceback)  # it reads what the relays have
        finally:
            try:
                await self._servers.__aexit__(kind, error, traceback)  # the relays would wait for their answers
            finally:
                await self._stack.__aexit__(kind, error, traceback)

    async def relay(self, config: Config = None, *, name: str = "relay", host: str = "") -> Flow:
        """A relay with this configuration, until the stage ends. Where it is given a `host` name, the others find it
        there, at the ports that its listeners have in production, and it calls them from there.

        Raises config.document.Mistake and app.Refused.
        """
        folder = self._folder / name
        folder.mkdir()
        flow = Flow(self, name, folder, config, host)
        snapshot = await self.aside(flow.read)  # it may make a key
        await self.stand(snapshot.settings)
        flow.relay = await self._stack.enter_async_context(
            Relay.running(flow.read, world=flow.world, emit=flow.journal, timeouts=self._timeouts())
        )
        flow.stand()
        self.flows[name] = flow
        return flow

    async def aside(self, work: Callable[[], R]) -> R:
        """Does it beside the loop."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)

    async def rest(self, timeout: float = REST) -> float | None:
        """Until no relay has a delivery that is due or under way; answers when the next will be due, if any waits.

        Raises TimeoutError after so many seconds of the machine's time."""
        async with asyncio.timeout(timeout):
            return await self._still(Relay.rest)

    async def quiet(self, timeout: float = 30.0) -> float | None:
        """Until, besides, no session is open on any relay; answers as `rest`. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            return await self._still(lambda relay: relay.quiet(self.network.line))

    async def _still(self, asked: Callable[[Relay], Awaitable[float | None]]) -> float | None:
        """Until every relay has answered without that anything happened meanwhile, which may be for one asked before.

        All that has arrived by then is in the inbox.
        """
        while True:
            before = self._happened
            hours = [await asked(flow.relay) for flow in self.flows.values()]
            if self._happened == before:
                await self.arrivals.caught_up()
                return min((hour for hour in hours if hour is not None), default=None)

    @property
    def _happened(self) -> int:
        """How many events there have been."""
        return sum(len(flow.journal.events) for flow in self.flows.values())

    async def stand(self, settings: Settings) -> None:
        """Puts every server on the stage that these settings name and that is not there, and publishes their keys."""
        static = settings.resolver.static
        for endpoint in settings.endpoints.values():
            users = {endpoint.username: endpoint.password} if endpoint.username else None
            for server in (*endpoint.servers, *endpoint.backup):
                implicit = endpoint.tls is EndpointTls.IMPLICIT
                await self._stand(server, static.get(server.host.lower(), ()), users=users, implicit=implicit)
        mailboxes = settings.accounts.lmtp
        if mailboxes is not None and not mailboxes.socket:
            await self._stand(mailboxes, static.get(mailboxes.host.lower(), ()), lmtp=True)
        signing = (key for keys in settings.dkim.keys.values() for key in keys)
        for key in (*settings.arc.keys.values(), *settings.arc.others, *signing):
            with contextlib.suppress(KeyFault):  # the relay says what is wrong with it
                self.publish(load_key(key))

    async def upstream(
        self, host: str, script: Sequence[Rule] = (), *, ips: Sequence[str] = (), **options: Any
    ) -> Upstream:
        """A server at this host name, on every port of its addresses: `ips`, or else those that the zone has for the
        name, or else one of its own. It takes the place of one that stands there.

        `options` are those of `testing.upstream.Upstream`; it offers STARTTLS unless they say otherwise.
        """
        host = host.lower()
        seed = random.Random(f"{self.seed}/{host}").getrandbits(32)
        options = {"tls": self.authority.context(host), "clock": self.clock, "seed": seed, **options}
        options["on_taken"] = partial(self.arrivals.taken, host)
        if (before := self._ends.pop(host, None)) is not None:
            await before.aclose()  # and with it the connections that relays keep to it
        end = self._ends[host] = await self._servers.enter_async_context(AsyncExitStack())
        made = await end.enter_async_context(Upstream(script, **options))
        ips = (host,) if written_ip(host) is not None else ips or self.addresses(host)
        for ip in ips:
            self.network.put(ip, (made.host, made.port))
        self.upstreams[host] = made
        return made

    def publish(self, key: SigningKey) -> None:
        """Puts the public half of a key into DNS, where there is none under its name."""
        name = f"{key.selector}._domainkey.{key.domain}"
        if not self.texts(name, "TXT"):
            self.zone.set(name, "TXT", [record(key)])

    def signer(self, domain: str, selector: str = "mail") -> SigningKey:
        """A key that signs and seals for a domain, published; one that is no relay's."""
        key = load_key(DomainKey(Domain.parse(domain), selector, str(key_file(self._folder))))
        self.publish(key)
        return key

    async def _stand(self, server: Server, ips: Sequence[str], **options: Any) -> None:
        """`ips`: those that the configuration itself has for the name."""
        host = server.host.lower()
        known = self._static.get(host, ())
        if ips:
            self._static[host] = ips
        if (standing := self.upstreams.get(host)) is not None:
            for ip in set(ips).difference(known):
                self.network.put(ip, (standing.host, standing.port))
        elif not (ips := self.addresses(host)) or not all(ip in self.upstreams for ip in ips):
            await self.upstream(host, **options)

    def addresses(self, host: str) -> Sequence[str]:
        """Those that a configuration or the zone has for a host name; where neither says anything of any, the name is
        given one."""
        if (static := self._static.get(host.lower())) is not None:
            return static
        found = [*self.texts(host, "A"), *self.texts(host, "AAAA")]
        if not found and not self.zone.speaks(host, "A", "AAAA", "CNAME"):
            number = next(self._numbers)
            found = [f"198.18.{number // 250}.{number % 250 + 1}"]  # RFC 2544: nobody's
            self.zone.set(host, "A", found)
        return found

    def texts(self, name: str, type: str) -> list[str]:
        """What the zone says, each record as text; of TXT the strings joined."""
        answer = self.zone.answer(dns.message.make_query(name, type))
        rdtype = dns.rdatatype.from_text(type)
        return [
            b"".join(each.strings).decode() if rdtype is dns.rdatatype.TXT else str(each)
            for rrset in (answer.answer if answer is not None else ())
            if rrset.rdtype == rdtype
            for each in rrset
        ]

    def _timeouts(self) -> Timeouts:
        """Production's, none longer than the stage's patience."""
        most = {each.name: min(getattr(TIMEOUTS, each.name), self.patience) for each in fields(TIMEOUTS)}
        return replace(TIMEOUTS, **most)


class Flow:
    """A relay on a stage. Made by `Stage.relay`."""

    relay: Relay

    def __init__(self, stage: Stage, name: str, folder: Path, config: Config, host: str) -> None:
        self.stage = stage
        self.name = name
        self.folder = folder
        self.config = config
        self.host = host
        self.journal = Journal(self._happened)
        """Every event so far."""
        self.refusals: list[Refusal] = []
        """What it refused at the door, and what was said until then."""
        self.network = RelayNetwork(stage.network, self._ip)
        self.world = World(stage.clock, random.Random(f"{stage.seed}/{name}"), self.network)
        self._ports: dict[str, int] = {}

    def read(self) -> Snapshot:
        """The configuration as it is now, staged. Raises config.document.Mistake."""
        read = document(self.config)
        self._ports = staged(read, self.folder, self.stage.authority, self.stage.zone.address)
        return understood(read, {}, fqdn=lambda: "relay.test")

    async def configure(self, config: Config) -> None:
        """From now on this is the configuration, by a reload. Raises config.document.Mistake, and app.Refused where
        the relay keeps the old one."""
        was, self.config = self.config, config
        try:
            await self.stage.stand((await self.stage.aside(self.read)).settings)
            refused = len(self.journal.of(Happening.RELOAD_REFUSED))
            await self.relay.reload()
            for event in self.journal.of(Happening.RELOAD_REFUSED)[refused:]:
                raise Refused(event.facts["why"])
        except (Mistake, Refused):
            self.config = was
            raise

    def stand(self) -> None:
        """Puts its listeners on the stage, at its host name and the ports that they have in production."""
        for place in self.relay.addresses.values():
            self.stage.network.listens(place)
        for ip in self.stage.addresses(self.host) if self.host else ():
            for listener, place in self.relay.addresses.items():
                self.stage.network.put(ip, place, self._ports[listener])

    @property
    def snapshot(self) -> Snapshot:
        """The configuration in force."""
        return self.relay.snapshot()

    @property
    def inbox(self) -> Inbox:
        """What this relay delivers."""
        return self.stage.inbox.of(self.name)

    async def send(
        self,
        content: bytes | None = None,
        *,
        sender: str,
        to: str | Sequence[str],
        listener: str | None = None,
        client: str | None = None,
        helo: str = HELO,
        login: tuple[str, str] | None = None,
        tls: bool = False,
    ) -> Sent:
        """Sends a message to this relay, exactly as it is; None: a short letter.

        `listener`: its name; None: the first one. `client`: the IP address that the relay takes the client for.
        `tls`: by STARTTLS; a listener with implicit TLS has it anyhow. Raises LookupError where there is no such
        listener, TimeoutError where a reply does not come.
        """
        if listener is not None and listener not in self.relay.addresses:
            raise LookupError(f"there is no listener {listener!r}. There are: {', '.join(self.relay.addresses)}")
        to = (to,) if isinstance(to, str) else tuple(to)
        if content is None:
            chance = self.stage.chance.getrandbits(64)
            content = letter(sender, to, at=self.stage.clock.now(), id=f"{chance:016x}")
        name = next(iter(self.relay.addresses)) if listener is None else listener
        implicit = self.snapshot.settings.listeners[name].tls is ListenerTls.IMPLICIT
        speaks = Client(
            helo=helo,
            tls=ListenerTls.IMPLICIT if implicit else ListenerTls.STARTTLS if tls else ListenerTls.NONE,
            context=ssl.create_default_context(cafile=self.stage.authority.file) if implicit or tls else None,
            login=login,
            clock=self.stage.clock,
        )
        connect = partial(self.stage.network.connect, ip=client or "")
        return await speaks.send(self.relay.addresses[name], content, sender=sender, to=to, connect=connect)

    @property
    def lookup(self) -> Records:
        """What DNS says on the stage, as this relay asks it; nothing is remembered from one question to the next."""
        return records(self.snapshot.settings, self.world)

    async def explain(
        self,
        *addresses: str,
        sender: str = "",
        client: str | None = None,
        listener: str | None = None,
        login: str | None = None,
    ) -> list[Explained]:
        """Where one message to these addresses would go, and why, as the relay would have it go now; nothing is sent.

        The arguments are those of `intake.speaker.speaker`. Raises AddressError, SpeakerFault.
        """
        path = Address.parse(sender) if sender else None
        snapshot = self.snapshot
        envelope = speaker(snapshot, sender=path, client=client, listener=listener, login=login)
        candidates, now = self.relay.endpoints.candidates, self.world.clock.now()
        with usage(snapshot.settings) as held:
            recipients = [Address.parse(address) for address in addresses]
            return await explain(snapshot, candidates, held, envelope, recipients, now, self.lookup)

    async def trace(self, message: str) -> list[Event]:
        """The events of one message, by its queue id."""
        return [event for _, event in await self.relay.spool.events(message)]

    def _happened(self, event: Event) -> None:
        if event.what is Happening.REFUSED:
            self.refusals.append(Refusal.of(self.name, event, self.relay.session))
        self.stage.arrivals.happened(self, event)

    def _ip(self) -> str:
        """From where it calls other relays: its first address in DNS; empty where it has none."""
        name = self.host or str(self.snapshot.settings.hostname)
        return next(iter([*self.stage.texts(name, "A"), *self.stage.texts(name, "AAAA")]), "")

    async def advance(self, seconds: float, timeout: float = REST) -> None:
        """Lets time pass for every relay on the stage: each retry happens at its hour, one after the other.

        Raises TimeoutError where all does not come to rest before the next hour: `timeout` is that of `Stage.rest`.
        """
        await self.stage.clock.run(seconds, partial(self.stage.rest, timeout))


def _memory() -> Path | None:
    """A folder in memory with room for mail; None where the machine has none."""
    try:
        free = shutil.disk_usage(_MEMORY).free
    except OSError:
        return None
    return _MEMORY if free >= _ROOMY and os.access(_MEMORY, os.W_OK) else None
