"""App: builds the rooms, hands each what it needs, starts and stops them, reloads. It alone knows everybody.

A reload reads the whole configuration anew into a frozen `Loaded` and swaps one reference; every room asks for what
is in force through a function. What cannot change while it runs (the state folder, the addresses that are listened
on) keeps its old value and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import assert_never

from smtproute.config.document import Mistake
from smtproute.core.address import Address
from smtproute.core.envelope import Envelope
from smtproute.core.event import Emit, Event, Happening
from smtproute.core.reply import Reply
from smtproute.core.routes import opens
from smtproute.core.seals import keyless
from smtproute.core.settings import Accounts, DomainKey, Settings, Srs, Store
from smtproute.core.snapshot import Snapshot, carried
from smtproute.core.verdict import Judged
from smtproute.delivery.attempt import Attempts
from smtproute.delivery.dispatcher import Dispatcher
from smtproute.delivery.endpoint import Endpoints
from smtproute.delivery.maildir import MailboxFailed, Maildir
from smtproute.delivery.outgoing import Outgoing
from smtproute.delivery.proxy import Proxy
from smtproute.intake.door import InFlight, Intake
from smtproute.intake.explain import explain
from smtproute.intake.facts import Usage, UsageUnknown
from smtproute.intake.passwords import Passwords
from smtproute.mailauth import secret
from smtproute.mailauth.judgement import judge
from smtproute.mailauth.keys import KeyFault, SigningKey
from smtproute.mailauth.keys import load as load_key
from smtproute.resolve.records import Records
from smtproute.resolve.resolver import Resolver
from smtproute.resolve.watch import Watch
from smtproute.smtp.listener import Listener, ListenerFailed, server_context
from smtproute.smtp.opening import TIMEOUTS, Timeouts
from smtproute.smtp.pool import Pool
from smtproute.smtp.session import Session
from smtproute.smtp.tls import TlsFault
from smtproute.spool.queue import SpoolFailed
from smtproute.spool.sqlite import SqliteSpool
from smtproute.world import Place, World

__all__ = ["DRAIN", "Loaded", "Refused", "Relay", "endpoints", "load", "records", "usage"]

DRAIN = 30.0
"""Seconds that sessions and deliveries under way have to finish when the relay stops."""
SWEEP = 60.0
"""Seconds between two rounds of retention."""
WARNINGS = 100
"""Of what is wrong with a configuration, how much the log tells at start and at a reload; `check` tells all."""
_UNFORESEEN = (ArithmeticError, LookupError, MemoryError, OSError, RecursionError, TypeError, ValueError)
"""What a reader may raise that nobody thought of: a running relay must outlive it."""


class Refused(Exception):
    """A configuration that cannot be used; the text is one line, or several, for its author."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration with the keys that it names."""

    snapshot: Snapshot
    keys: Mapping[str, SigningKey]
    """Those that seal (ARC), by Domain.key."""
    signing: Mapping[DomainKey, SigningKey] = field(default_factory=dict)
    """Those that sign (DKIM)."""
    unusable: Mapping[str, str] = field(default_factory=dict)
    """Why a docker-mailserver folder's sealing key cannot be used, by Domain.key."""
    unsigned: tuple[str, ...] = ()
    """What its signing keys that cannot be used leave unsigned."""


def load(read: Callable[[], Snapshot], world: World | None = None) -> Loaded:
    """Reads a configuration and its keys. A key of a docker-mailserver folder that cannot be used is as good as none.

    `world` is given by the relay: where there is no file of SRS secrets yet, it makes one.

    Raises Refused.
    """
    try:
        snapshot = read()
    except Mistake as mistake:
        raise Refused(str(mistake)) from None
    snapshot = _with_secrets(snapshot, world)
    arc, dkim = snapshot.settings.arc, snapshot.settings.dkim
    theirs = {key.file for key in snapshot.folder.private_keys} if snapshot.folder is not None else set()
    keys, unusable = {}, {}
    for domain, key in arc.keys.items():
        match _key(key, theirs, sealing=True):
            case KeyFault() as fault:
                unusable[domain] = f" ({fault})"
            case loaded:
                keys[domain] = loaded
    for key in arc.others:
        _key(key, theirs, sealing=True)
    signing: dict[DomainKey, SigningKey] = {}
    usable: dict[str, tuple[DomainKey, ...]] = dict.fromkeys(dkim.keys, ())  # without a key its mail is not silent
    unsigned = []
    for domain, several in dkim.keys.items():
        for key in several:
            match _key(key, theirs, sealing=False):
                case KeyFault() as fault:
                    unsigned.append(
                        f"{domain}: the key of the selector {key.selector} cannot be used ({fault}):"
                        " what is sent from here goes out without its DKIM signature (see smtproute check)"
                    )
                case loaded:
                    signing[key] = loaded
                    usable[domain] = (*usable[domain], key)
    settings = replace(
        snapshot.settings,
        arc=replace(arc, keys={domain: key for domain, key in arc.keys.items() if domain in keys}),
        dkim=replace(dkim, keys=usable),
    )
    return Loaded(replace(snapshot, settings=settings), keys, signing, unusable, tuple(unsigned))


def _key(key: DomainKey, theirs: Collection[str], *, sealing: bool) -> SigningKey | KeyFault:
    """The key, or why it cannot be used where its file is one of a docker-mailserver folder. Raises Refused."""
    try:
        return load_key(key, sealing=sealing)
    except KeyFault as fault:
        if key.file in theirs:
            return fault
        table = "arc" if sealing else "dkim"
        raise Refused(f'{table}.keys."{key.domain}".file = "{key.file}": {fault}') from None


def _with_secrets(snapshot: Snapshot, world: World | None) -> Snapshot:
    """The configuration with what SRS signs with: nothing yet, where the file is not there and must not be made.

    Raises Refused.
    """
    srs = snapshot.settings.srs
    if srs.secret_file:
        try:
            secrets = secret.read(srs.secret_file)
            if not secrets and world is not None:
                secret.make(srs.secret_file, world)
                secrets = secret.read(srs.secret_file)
            srs = replace(srs, secrets=secrets)
        except secret.SecretFault as fault:
            raise Refused(f'srs.secret_file = "{srs.secret_file}": {fault}') from None
    return _with_srs(snapshot, srs)


def _with_srs(snapshot: Snapshot, srs: Srs) -> Snapshot:
    settings, routing = replace(snapshot.settings, srs=srs), replace(snapshot.routing, srs=srs)
    return replace(snapshot, settings=settings, routing=routing)


def endpoints(settings: Settings, world: World) -> Endpoints:
    """Endpoints that are looked up and not connected to, for `explain`."""
    resolver = Resolver(settings.resolver, world)
    return Endpoints(lambda: resolver, settings.hostname, world)


def records(settings: Settings, world: World) -> Records:
    """What DNS says, for `explain` and `check`."""
    resolver = Resolver(settings.resolver, world)
    return Records(lambda: resolver)


@contextlib.contextmanager
def usage(settings: Settings) -> Iterator[Usage]:
    """What mailboxes hold, for `explain` and `accounts`; nothing is written, and a relay may run meanwhile."""
    maildir = Maildir(lambda: settings.accounts.maildir)
    try:
        yield _usage(maildir, lambda: settings.accounts)
    finally:
        maildir.close()


def _usage(maildir: Maildir, accounts: Callable[[], Accounts]) -> Usage:
    async def asked(account: Address) -> int:
        store = accounts().store
        match store:
            case Store.LMTP:
                raise UsageUnknown(f"it is for {accounts().lmtp} to judge, by LMTP")
            case Store.MAILDIR:
                try:
                    return await maildir.usage(account)
                except MailboxFailed as failed:
                    raise UsageUnknown(failed.refusal.detail) from failed
            case _:
                assert_never(store)

    return asked


class Relay:
    """One running relay. Made by `running`."""

    def __init__(
        self,
        loaded: Loaded,
        read: Callable[[], Snapshot],
        spool: SqliteSpool,
        tasks: asyncio.TaskGroup,
        world: World,
        emit: Emit,
        timeouts: Timeouts,
    ) -> None:
        settings = loaded.snapshot.settings
        self._loaded = loaded
        self._read = read
        self.spool = spool
        self._tasks = tasks
        self._world = world
        self._emit = emit
        processors = os.cpu_count() or 1
        self._cpu = ThreadPoolExecutor(processors, thread_name_prefix="cpu")
        self._resolver = Resolver(settings.resolver, world)
        self._lookup = Records(lambda: self._resolver)
        self.endpoints = Endpoints(lambda: self._resolver, settings.hostname, world, emit)
        self._pool = Pool(str(settings.hostname), world, timeouts)
        self._maildir = Maildir(lambda: self.snapshot().settings.accounts.maildir)
        self._usage = _usage(self._maildir, lambda: self.snapshot().settings.accounts)
        proxy = Proxy()
        self._dispatcher = Dispatcher(
            snapshot=self.snapshot,
            spool=spool,
            attempts=Attempts(
                snapshot=self.snapshot,
                spool=spool,
                endpoints=self.endpoints,
                outgoing=Outgoing(lambda: self._loaded.keys, lambda: self._loaded.signing, self._cpu, world),
                pool=self._pool,
                maildir=self._maildir,
                world=world,
            ),
            proxy=proxy,
            world=world,
            emit=emit,
        )
        self._watch = Watch(
            settings=lambda: self.snapshot().settings,
            resolver=lambda: self._resolver,
            refresh=self._refresh,
            vanished=self._pool.vanished,
            world=world,
            emit=emit,
        )
        self._intake = Intake(
            snapshot=self.snapshot,
            spool=spool,
            usage=self._usage,
            passwords=Passwords(self._cpu, max(1, processors - 1)),  # one is left for the seals
            judge=self._judge,
            explain=self._explain,
            cpu=self._cpu,
            wait=proxy.wait,
            tasks=tasks,
            in_flight=InFlight(),
            world=world,
            emit=emit,
        )
        self._listeners: dict[str, Listener] = {}
        self._leave_by = 0.0
        """The loop's time until which what is under way may go on, once the relay stops."""

    def snapshot(self) -> Snapshot:
        """The configuration in force."""
        return self._loaded.snapshot

    @property
    def addresses(self) -> dict[str, tuple[str, int]]:
        """Where each listener really listens: host and port."""
        return {name: listener.address for name, listener in self._listeners.items()}

    @property
    def sessions(self) -> list[Session]:
        """Those that are open, of every listener."""
        return [session for listener in self._listeners.values() for session in listener.open]

    @property
    def session(self) -> Session | None:
        """The one whose task asks; None where it is no session's."""
        task = asyncio.current_task()
        found = (listener.served(task) for listener in self._listeners.values())
        return next((session for session in found if session is not None), None)

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls, read: Callable[[], Snapshot], *, world: World, emit: Emit, timeouts: Timeouts = TIMEOUTS
    ) -> AsyncIterator[Relay]:
        """A relay that listens and delivers until the block is left; then it drains.

        Raises Refused for a configuration that cannot be used, TlsFault and ListenerFailed for the files and
        addresses that it names, SpoolFailed for its state folder (`SpoolBusy` where another relay has it).
        """
        loaded = load(read, world)
        settings = loaded.snapshot.settings
        folder = Path(settings.state) / "spool"
        try:
            spool = await SqliteSpool.open(
                str(folder),
                world,
                emit,
                max_size=settings.queue.max_size,
                reserve=settings.limits.message_size * 3 // 2,
            )
        except SpoolFailed as failed:
            raise type(failed)(f'state = "{settings.state}": {failed}') from failed
        try:
            async with asyncio.TaskGroup() as tasks:
                relay = cls(loaded, read, spool, tasks, world, emit, timeouts)
                background = [
                    tasks.create_task(spool.watch()),
                    tasks.create_task(relay._pool.run()),
                    tasks.create_task(relay._watch.run()),
                    tasks.create_task(relay._sweep()),
                ]
                delivering = tasks.create_task(relay._dispatcher.run())
                try:
                    relay._pool.prepare(settings.endpoints.values())
                    async with contextlib.AsyncExitStack() as listening:
                        await relay._listen(listening)
                        try:
                            yield relay
                        finally:
                            await relay._leave()
                finally:
                    for task in background:
                        task.cancel()
                    await relay._drain(delivering)
        finally:
            await spool.close()
            emit(Event(Happening.STOPPED, world.clock.now()))

    async def rest(self) -> float | None:
        """Until no delivery is due or under way; answers when one will be due, if any waits."""
        return await self._dispatcher.rest()

    async def quiet(self, besides: Callable[[Place], bool] = lambda place: False) -> float | None:
        """Until no session is open and no delivery is due or under way; answers as `rest`.

        Sessions with clients at places such as `besides` may stay open.
        """
        while True:
            for listener in self._listeners.values():
                await listener.quiet(besides)
            due = await self._dispatcher.rest()
            if not any(listener.serving(besides) for listener in self._listeners.values()):
                return due

    async def reload(self) -> None:
        """Reads the configuration again. A broken one is refused, and the old one stays in force."""
        try:
            loaded, contexts, resolver = await asyncio.get_running_loop().run_in_executor(self._cpu, self._prepared)
        except (Refused, ListenerFailed, TlsFault) as refused:
            self._emit(Event(Happening.RELOAD_REFUSED, self._world.clock.now(), facts={"why": str(refused)}))
            return
        except _UNFORESEEN as fault:
            why = f"the configuration could not be read: {fault!r}"
            self._emit(Event(Happening.RELOAD_REFUSED, self._world.clock.now(), facts={"why": why}))
            return
        settings = loaded.snapshot.settings
        for name, listener in self._listeners.items():
            listener.update(settings.listeners[name], settings.limits, contexts[name])
        self._loaded = loaded
        self._resolver = resolver
        self._warn()
        self.endpoints.forget()
        self._emit(Event(Happening.RELOADED, self._world.clock.now()))
        self._dispatcher.nudge()
        self._watch.nudge()

    def _prepared(self) -> tuple[Loaded, dict[str, ssl.SSLContext | None], Resolver]:
        """The configuration read anew, with everything made that may still refuse it. Runs in the CPU pool."""
        loaded = load(self._read, self._world)
        loaded = replace(loaded, snapshot=carried(self.snapshot(), loaded.snapshot))
        settings = loaded.snapshot.settings
        for route in loaded.snapshot.routing.routes:
            if listener := opens(route, settings.listeners):
                why = f"anyone could send anywhere through the inbound listener {listener}, which only a restart closes"
                raise Refused(f"{route.rule}: {why}")
        contexts = {name: server_context(settings.listeners[name]) for name in self._listeners}
        self._pool.prepare(settings.endpoints.values())
        resolver = self._resolver
        if resolver.serves(settings.resolver):
            resolver.refresh()
        else:
            resolver = Resolver(settings.resolver, self._world)
        return loaded, contexts, resolver

    async def _listen(self, listening: contextlib.AsyncExitStack) -> None:
        settings = self.snapshot().settings
        self._warn()
        for name, listener in settings.listeners.items():
            opened = Listener(
                listener, settings.limits, str(settings.hostname), self._intake.door, self._world, self._emit
            )
            self._listeners[name] = await listening.enter_async_context(opened)

    async def _leave(self) -> None:
        """Lets the sessions finish their transactions, for a while. Deliveries under way go on meanwhile."""
        self._leave_by = asyncio.get_running_loop().time() + DRAIN
        self._dispatcher.drain()
        self._emit(Event(Happening.DRAINING, self._world.clock.now()))
        async with asyncio.TaskGroup() as closing:
            for listener in self._listeners.values():
                closing.create_task(listener.drain(DRAIN))

    async def _drain(self, delivering: asyncio.Task[None]) -> None:
        """Lets deliveries under way finish, as long as sessions had; the others are taken up at the next start."""
        self._dispatcher.drain()
        loop = asyncio.get_running_loop()
        await asyncio.wait([delivering], timeout=max(0.0, self._leave_by - loop.time()))
        delivering.cancel()
        await self._pool.close()
        writing = loop.run_in_executor(self._cpu, self._maildir.close)
        await asyncio.wait([writing], timeout=max(1.0, self._leave_by - loop.time()))
        self._cpu.shutdown(wait=False, cancel_futures=True)

    async def _sweep(self) -> None:
        """Once a minute: retention, and the hosts file if it was edited, which the watch may see before."""
        while True:
            await self._refresh()
            await self.spool.sweep(self._world.clock.now(), self.snapshot().settings.trace)
            await self._world.clock.sleep(SWEEP)

    async def _refresh(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._cpu, self._resolver.refresh)

    def _warn(self) -> None:
        """Makes known what is wrong with the configuration in force, and stops nothing."""
        snapshot = self.snapshot()
        unsealed = [
            f"{rule}: {domain} has no sealing key{self._loaded.unusable.get(domain, '')}:"
            " what is forwarded for it goes out unsealed (see smtproute check)"
            for domain, rule in keyless(snapshot.settings.arc, snapshot.routing.local_domains).items()
        ]
        worst = sorted(snapshot.findings, key=lambda finding: -finding.severity.status)
        told = [*map(str, worst), *unsealed, *self._loaded.unsigned]
        if len(told) > WARNINGS:
            told[WARNINGS:] = [f"{len(told) - WARNINGS} more: see smtproute check"]
        for what in told:
            self._emit(Event(Happening.WARNING, self._world.clock.now(), facts={"what": what}))

    async def _judge(self, content: bytes, envelope: Envelope, settings: Settings) -> Judged:
        return await judge(
            content,
            envelope,
            settings.authentication,
            self._lookup,
            self._cpu,
            str(settings.hostname),
            at=self._world.clock.now(),
            chance=self._world.chance.random(),
        )

    async def _explain(self, envelope: Envelope, address: Address) -> tuple[Reply, Sequence[str]]:
        # Whoever sees an SRS address with its hash could send to it: it is not for strangers.
        snapshot = self.snapshot()
        snapshot = _with_srs(snapshot, replace(snapshot.settings.srs, secrets=()))
        now, candidates = self._world.clock.now(), self.endpoints.candidates
        (explained,) = await explain(snapshot, candidates, self._usage, envelope, (address,), now, self._lookup)
        return explained.plan.reply, explained.lines()
