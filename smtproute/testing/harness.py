"""Harness: a relay under test, on a stage in the background; every call waits for what it asks.

    with Harness({"domains": ["example.org"], "aliases": {"tables": ["virtual"]}}) as smtproute:
        smtproute.send(to="sales@example.org")
        smtproute.inbox.wait_for(to="boss@partner.example")

`.aio` on it, and on each thing that it has, is the same for programs with an event loop.
"""

from __future__ import annotations

import random
from collections.abc import Coroutine
from datetime import datetime
from itertools import count
from types import TracebackType
from typing import Any, Literal, Self, overload

from smtproute.testing.bench import Bench, Tls
from smtproute.testing.certificates import Authority
from smtproute.testing.inbox import TIMEOUT, Arrival, Header, Inbox
from smtproute.testing.report import MailAssertion
from smtproute.testing.signer import Signer
from smtproute.testing.stage import PATIENCE, Stage
from smtproute.testing.staging import Config
from smtproute.testing.thread import Aio, Background, Blocking, Forwarded, Handle, M, NotRunning, in_background
from smtproute.testing.upstream import Received, Session, Upstream
from smtproute.testing.zone import Asked, Zone

__all__ = ["Harness", "MailClock", "MailDns", "MailInbox", "MailKey", "MailRelay", "MailUpstream", "SharedRelay"]


class MailInbox(Handle[Inbox, M]):
    """What arrived: see `testing.inbox.Inbox`."""

    @property
    def aio(self) -> MailInbox[Aio]:
        """The same names as coroutines, for every event loop."""
        return MailInbox(self._core, self._background, waits=False)

    @property
    def messages(self) -> list[Arrival]:
        """Everything so far, oldest first, whether it was returned or not."""
        return self._core.messages

    def at(self, where: str) -> Self:
        """What arrives at a host, or at an endpoint, by name."""
        return type(self)(self._core.at(where), self._background, waits=self._waits)

    assert_none = Forwarded(Inbox.assert_none)

    @overload
    def wait_for(  # type: ignore[overload-overlap] # 1 is an int
        self: MailInbox[Blocking],
        *,
        to: str | None = None,
        subject: str | None = None,
        header: Header | None = None,
        n: Literal[1] = 1,
        timeout: float = TIMEOUT,
    ) -> Arrival: ...
    @overload
    def wait_for(
        self: MailInbox[Blocking],
        *,
        to: str | None = None,
        subject: str | None = None,
        header: Header | None = None,
        n: int,
        timeout: float = TIMEOUT,
    ) -> list[Arrival]: ...
    @overload
    def wait_for(  # type: ignore[overload-overlap] # 1 is an int
        self: MailInbox[Aio],
        *,
        to: str | None = None,
        subject: str | None = None,
        header: Header | None = None,
        n: Literal[1] = 1,
        timeout: float = TIMEOUT,
    ) -> Coroutine[Any, Any, Arrival]: ...
    @overload
    def wait_for(
        self: MailInbox[Aio],
        *,
        to: str | None = None,
        subject: str | None = None,
        header: Header | None = None,
        n: int,
        timeout: float = TIMEOUT,
    ) -> Coroutine[Any, Any, list[Arrival]]: ...
    def wait_for(
        self,
        *,
        to: str | None = None,
        subject: str | None = None,
        header: Header | None = None,
        n: int = 1,
        timeout: float = TIMEOUT,
    ) -> Any:
        """The oldest message that is so and was not returned yet, once it is there; with `n` the list of so many.

        `to` is a recipient as the message arrived or as the client wrote it, in any case; `subject` the decoded one;
        `header` one field of that name among all. `timeout` is in seconds. See `testing.pattern.Pattern`.

        Raises MailAssertion where they do not come in time, ValueError for a pattern that is none.
        """
        __tracebackhide__ = True
        return self._ask(self._core.wait_for(to=to, subject=subject, header=header, n=n, timeout=timeout))


class MailUpstream(Handle[Upstream, M]):
    """A server that the relay sends to: see `testing.upstream.Upstream`."""

    def __init__(self, upstream: Upstream, inbox: Inbox, background: Background, *, waits: bool = True) -> None:
        super().__init__(upstream, background, waits=waits)
        self.inbox: MailInbox[M] = MailInbox(inbox, background, waits=waits)
        """What it took."""

    @property
    def aio(self) -> MailUpstream[Aio]:
        """The same names as coroutines, for every event loop."""
        return MailUpstream(self._core, self.inbox._core, self._background, waits=False)

    @property
    def address(self) -> tuple[str, int]:
        """Where it really listens: host and port, for programs that are not on the stage."""
        return self._core.host, self._core.port

    @property
    def received(self) -> list[Received]:
        """What it took so far."""
        return [*self._core.received]

    @property
    def sessions(self) -> list[Session]:
        """Every connection so far, with its transcript."""
        return [*self._core.sessions]

    script = Forwarded.plain(Upstream.script)
    wait = Forwarded(Upstream.wait)
    connected = Forwarded(Upstream.connected)
    quiet = Forwarded(Upstream.quiet)
    heard = Forwarded(Upstream.heard)


class MailDns(Handle[Zone, M]):
    """What DNS says to the relay: see `testing.zone.Zone`. It keeps an answer as long as its TTL says."""

    @property
    def aio(self) -> MailDns[Aio]:
        """The same names as coroutines, for every event loop."""
        return MailDns(self._core, self._background, waits=False)

    @property
    def address(self) -> str:
        """`127.0.0.1:port`, over UDP and TCP, for programs that are not on the stage."""
        return self._core.address

    @property
    def queries(self) -> list[Asked]:
        """What was asked, in order."""
        return [*self._core.queries]

    set = Forwarded.plain(Zone.set)
    remove = Forwarded.plain(Zone.remove)
    recover = Forwarded.plain(Zone.recover)


class MailClock(Handle[Bench, M]):
    """The time of the stage. It runs, and can be set forward."""

    @property
    def aio(self) -> MailClock[Aio]:
        """The same names as coroutines, for every event loop."""
        return MailClock(self._core, self._background, waits=False)

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._core.stage.clock.now()

    advance = Forwarded(Bench.advance)


class MailKey(Handle[Signer, M]):
    """Somebody's key, published in DNS."""

    @property
    def aio(self) -> MailKey[Aio]:
        """The same names as coroutines, for every event loop."""
        return MailKey(self._core, self._background, waits=False)

    @property
    def domain(self) -> str:
        return self._core.key.domain

    @property
    def selector(self) -> str:
        return self._core.key.selector

    sign = Forwarded(Signer.sign)
    seal = Forwarded(Signer.seal)


class MailRelay(Handle[Bench, M]):
    """A relay that runs, and everything around it."""

    def __init__(self, bench: Bench, background: Background, *, waits: bool = True) -> None:
        super().__init__(bench, background, waits=waits)

    @property
    def aio(self) -> MailRelay[Aio]:
        """The same names as coroutines, for every event loop."""
        return MailRelay(self._core, self._background, waits=False)

    @property
    def seed(self) -> int:
        """Of all that is left to chance."""
        return self._core.stage.seed

    @property
    def addresses(self) -> dict[str, tuple[str, int]]:
        """Where each listener really listens: host and port, by its name."""
        return self._core.flow.relay.addresses

    @property
    def host(self) -> str:
        """Of the first listener, as `port` and `url`."""
        return next(iter(self.addresses.values()))[0]

    @property
    def port(self) -> int:
        return next(iter(self.addresses.values()))[1]

    @property
    def url(self) -> str:
        return f"smtp://{self.host}:{self.port}"

    @property
    def ca_file(self) -> str:
        """The certificate of who signs every certificate here: `SSL_CERT_FILE` of a program that verifies."""
        return self._core.stage.authority.file

    def settings(self, tls: Tls | None = None) -> dict[str, Any]:
        """Where to send mail, as Django, Flask-Mail and fastapi-mail call it.

        With `tls` the relay is spoken to so; the program must then trust `ca_file`. Raises LookupError where no
        listener does it so.
        """
        return self._core.settings(tls)

    @property
    def inbox(self) -> MailInbox[M]:
        """Whatever reached a mailbox, a capture or a server."""
        return MailInbox(self._core.inbox, self._background, waits=self._waits)

    @property
    def dns(self) -> MailDns[M]:
        """What DNS says to the relay."""
        return MailDns(self._core.stage.zone, self._background, waits=self._waits)

    @property
    def clock(self) -> MailClock[M]:
        """The time that the relay has."""
        return MailClock(self._core, self._background, waits=self._waits)

    @property
    def upstreams(self) -> dict[str, MailUpstream[M]]:
        """The servers that there are, by host name."""
        return {host: self._upstream(host, upstream) for host, upstream in self._core.stage.upstreams.items()}

    @overload
    def upstream(self: MailRelay[Blocking], name: str = "") -> MailUpstream[Blocking]: ...
    @overload
    def upstream(self: MailRelay[Aio], name: str = "") -> Coroutine[Any, Any, MailUpstream[Aio]]: ...
    def upstream(self, name: str = "") -> Any:
        """The server at a host name, or the first one of an endpoint; without a name the only one that there is.

        Where only DNS knows the host, a server is put there. Raises LookupError where the name is none of those.
        """

        async def found() -> MailUpstream[M]:
            return self._upstream(*await self._core.upstream(name))

        return self._ask(found())

    @overload
    def key(self: MailRelay[Blocking], domain: str, selector: str = "mail") -> MailKey[Blocking]: ...
    @overload
    def key(self: MailRelay[Aio], domain: str, selector: str = "mail") -> Coroutine[Any, Any, MailKey[Aio]]: ...
    def key(self, domain: str, selector: str = "mail") -> Any:
        """A key of somebody else's, published in DNS, that signs and seals."""

        async def made() -> MailKey[M]:
            return MailKey(await self._core.signer(domain, selector), self._background, waits=self._waits)

        return self._ask(made())

    send = Forwarded(Bench.send)
    explain = Forwarded(Bench.explain)
    trace = Forwarded(Bench.trace)
    configure = Forwarded(Bench.configure)
    quiet = Forwarded(Bench.quiet)
    assert_route = Forwarded(Bench.assert_route)
    assert_arc = Forwarded(Bench.assert_arc)
    assert_unchanged = Forwarded(Bench.assert_unchanged)
    report = Forwarded(Bench.report)

    @property
    def fault(self) -> BaseException | None:
        """What it died of; None where it did not."""
        return self._background.fault

    def report_in_the_end(self) -> str:
        """As `report`, also where it does not run any more, or died."""
        return in_background(self._core.report())

    def _upstream(self, name: str, upstream: Upstream) -> MailUpstream[M]:
        return MailUpstream(upstream, self._core.inbox.at(name), self._background, waits=self._waits)


class Harness(MailRelay[Blocking]):
    """A relay under test, from `with` on."""

    def __init__(
        self,
        config: Config = None,
        *,
        seed: int | None = None,
        patience: float = PATIENCE,
        now: datetime | None = None,
        authority: Authority | None = None,
        how: str = "Harness(seed={})",
    ) -> None:
        """`config` as production has it; None: everything is captured. `seed` decides all that is left to chance; None:
        another one each time. `patience`: the longest wait for a server at each step, in seconds. `now`: where the
        clock begins; None: the machine's time. `authority`: whose certificates it has; None: one of its own.
        `how` the seed is given, for who reads a failure.
        """
        seed = random.SystemRandom().getrandbits(32) if seed is None else seed
        stage = Stage(
            seed=seed,
            patience=patience,
            now=now.timestamp() if now is not None else None,
            authority=authority,
            how=how,
        )
        bench = Bench(config, stage)
        super().__init__(bench, Background(bench))

    def __enter__(self) -> Self:
        self._background.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Whatever fails inside is told with what arrived and why, unless it tells that itself."""
        if isinstance(error, Exception) and not isinstance(error, (MailAssertion, NotRunning)):
            error.add_note(f"\n{self.report_in_the_end()}")
        self._background.stop()

    def shared(self, token: str) -> SharedRelay:
        """The same relay for one test of several; `token` is this test's own, of letters and digits."""
        return SharedRelay(self._core.shared(token), self._background)


class SharedRelay(MailRelay[Blocking]):
    """A relay that serves several tests: one of them sees only mail that has its token in the envelope."""

    def __init__(self, bench: Bench, background: Background) -> None:
        super().__init__(bench, background)
        self._numbers = count(1)

    def address(self, address: str = "") -> str:
        """This test's own of an address: `anna@example.org` with its token, `anna+t3f2@example.org`, which is routed
        as the address itself. Without one, an address that nobody has had."""
        if not address:
            address = f"user{next(self._numbers)}@example.org"
        local, _, domain = address.rpartition("@")
        return f"{local}+{self._core.token}@{domain}"
