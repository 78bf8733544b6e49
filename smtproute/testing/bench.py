"""Bench: one relay on a stage of its own, and what a test asks of it. Everything here runs in the relay's own loop."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from email.message import EmailMessage
from email.policy import SMTP
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import TypeAdapter, ValidationError

from smtproute.config.schema import Duration
from smtproute.core.settings import Auth, Listener, ListenerTls, Role
from smtproute.core.transcript import legible
from smtproute.testing.arrivals import Arrival
from smtproute.testing.client import HELO, Sent
from smtproute.testing.difference import change
from smtproute.testing.expect import misrouted, missealed, routes, sealing
from smtproute.testing.inbox import TIMEOUT, Inbox
from smtproute.testing.pattern import Pattern
from smtproute.testing.report import MailAssertion
from smtproute.testing.signer import Signer
from smtproute.testing.stage import REST, Flow, Stage
from smtproute.testing.staging import Config, key_file
from smtproute.testing.thread import BEFORE, NotRunning
from smtproute.testing.upstream import Upstream
from smtproute.trace.text import render

__all__ = ["SENDER", "Bench", "Tls"]

SENDER = "sender@client.test"
"""Who writes, where a test does not say."""

Tls = Literal["starttls", "implicit"]
Message = Arrival | Sent | bytes
"""Something that has the octets of a message."""

_HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")


class Bench:
    """Stands from `async with` on."""

    def __init__(self, config: Config, stage: Stage) -> None:
        """See `testing.harness.Harness`."""
        self.stage = stage
        self.inbox = stage.inbox
        """What arrived, as far as this test sees it."""
        self.token = ""
        """What the addresses of this test have after their `+`, where the relay is shared with others."""
        self._config = config
        self._flow: Flow | None = None

    async def __aenter__(self) -> Self:
        """Raises config.document.Mistake and app.Refused."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.stage)
            self._flow = await self.stage.relay(self._config)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    @property
    def flow(self) -> Flow:
        """Its relay. Raises NotRunning."""
        if self._flow is None:
            raise NotRunning(BEFORE)
        return self._flow

    def shared(self, token: str) -> Bench:
        """The same for one test of several: it sees only mail to or from addresses with its token."""
        part = copy.copy(self)
        part.token = token
        part.inbox = Inbox(self.stage, part._mine, f" with +{token} in its envelope")
        return part

    # What is asked of the relay

    def settings(self, tls: Tls | None) -> dict[str, Any]:
        """See `testing.harness.MailRelay`."""
        listener = self._listener(tls)
        host, port = self.flow.relay.addresses[listener.name]
        named = listener.role is Role.SUBMISSION and listener.auth is Auth.ANY
        user, password = ("app", "secret") if named else ("", "")
        starttls, implicit = tls == "starttls", tls == "implicit"
        return {
            "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
            "EMAIL_HOST": host,
            "EMAIL_PORT": port,
            "EMAIL_HOST_USER": user,
            "EMAIL_HOST_PASSWORD": password,
            "EMAIL_USE_TLS": starttls,
            "EMAIL_USE_SSL": implicit,
            "EMAIL_TIMEOUT": 10,
            "MAIL_SERVER": host,
            "MAIL_PORT": port,
            "MAIL_USERNAME": user,
            "MAIL_PASSWORD": password,
            "MAIL_USE_TLS": starttls,
            "MAIL_USE_SSL": implicit,
            "MAIL_STARTTLS": starttls,
            "MAIL_SSL_TLS": implicit,
            "MAIL_SUPPRESS_SEND": False,
        }

    async def send(
        self,
        content: bytes | str | EmailMessage | None = None,
        *,
        to: str | Sequence[str],
        sender: str = SENDER,
        listener: str | None = None,
        client: str | None = None,
        helo: str = HELO,
        login: tuple[str, str] | None = None,
        tls: bool = False,
    ) -> Sent:
        """Sends a message to the relay, and answers with what the client heard, refusals among it.

        Octets go as they are, a text with CRLF for its line ends; None: a short letter. An empty `sender` is the null
        one. `listener`: its name; None: the first one. `client`: the IP address that the relay takes the client for.
        Raises LookupError where there is no such listener, TimeoutError where a reply does not come.
        """
        return await self.flow.send(
            _content(content),
            sender=sender,
            to=to,
            listener=listener,
            client=client,
            helo=helo,
            login=login,
            tls=tls,
        )

    async def configure(self, config: Config) -> None:
        """From now on this is the configuration, by a reload. Raises config.document.Mistake, and app.Refused where
        the relay keeps the old one."""
        await self.flow.configure(config)

    async def quiet(self, timeout: float = TIMEOUT) -> None:
        """Until no session is open and no delivery is due or under way.

        Raises MailAssertion, which says what is, after so many seconds.
        """
        try:
            await self.stage.quiet(timeout)
        except TimeoutError:
            raise await self.inbox.restless(timeout) from None

    async def explain(
        self, *addresses: str, sender: str = "", client: str = "", listener: str = "", login: str = ""
    ) -> str:
        """Where mail would go, rule by rule, as `smtproute explain` prints it; nothing is sent.

        Who speaks is as in `intake.speaker`; an empty `sender` is the null one. Raises AddressError, SpeakerFault.
        """
        explained = await self.flow.explain(
            *addresses, sender=sender, client=client or None, listener=listener or None, login=login or None
        )
        return "\n".join(legible(line) for each in explained for line in each.lines())

    async def trace(self, message: str) -> str:
        """What became of a message, by its queue id: every step, both dialogues."""
        return "\n".join(render(await self.flow.trace(message)))

    async def advance(self, time: str | float) -> None:
        """Lets time pass, "5d" or seconds: each retry happens at its hour.

        Raises ValueError for no such time, MailAssertion where all does not come to rest before the next hour.
        """
        try:
            seconds = TypeAdapter(Duration).validate_python(time) if isinstance(time, str) else time
        except ValidationError as wrong:
            raise ValueError(f"advance({time!r}): {wrong.errors()[0]['ctx']['error']}") from None
        try:
            await self.flow.advance(seconds, REST)
        except TimeoutError:
            raise await self.inbox.restless(REST) from None

    async def upstream(self, name: str) -> tuple[str, Upstream]:
        """A server by its host name or its endpoint's name, which is then the name of its inbox too.

        Raises LookupError.
        """
        upstreams, endpoints = self.stage.upstreams, self.flow.snapshot.settings.endpoints
        known = ", ".join([*endpoints, *upstreams]) or "none"
        if not name:
            if len(upstreams) != 1:
                raise LookupError(f"which upstream is meant? There are: {known}")
            return next(iter(upstreams.items()))
        if name in endpoints:
            servers = endpoints[name].servers
            if not servers:
                raise LookupError(f"the endpoint {name} sends to the servers that DNS names: ask for one by its host")
            return name, upstreams[servers[0].host.lower()]
        host = name.lower()
        if host not in upstreams:
            if _HOST.fullmatch(host) is None:
                raise LookupError(f"{name} is no endpoint and no host name. There are: {known}")
            await self.stage.upstream(host)
        return host, upstreams[host]

    async def signer(self, domain: str, selector: str) -> Signer:
        """A key of somebody else's, published."""
        await self.stage.aside(partial(key_file, self.stage.folder))  # the first one takes a while
        return Signer(self.stage.signer(domain, selector), self.flow)

    # What is claimed of it

    async def assert_route(
        self,
        address: str,
        *,
        mailbox: str | Sequence[str] = (),
        endpoint: tuple[str, str] | Sequence[tuple[str, str]] = (),
        capture: str | Sequence[str] = (),
        held: str | Sequence[str] = (),
        bounce: str | Sequence[str] = (),
        refused: str = "",
        sender: str = "",
        client: str = "",
        listener: str = "",
        login: str = "",
    ) -> None:
        """That mail to this address goes exactly there: to each of these mailboxes, endpoints (name and address),
        captures, and nowhere else; or that it is `refused` with this reply: a code, "550 5.1.1", or a pattern of it
        all. A dead branch of an alias is a bounce.

        Who sends it is as in `explain`. Raises MailAssertion; ValueError where nothing is expected, AddressError for an
        address that is none.
        """
        expected = routes(mailbox=mailbox, endpoint=endpoint, capture=capture, held=held, bounce=bounce)
        if not expected and not refused:
            raise ValueError("say where it goes: mailbox, endpoint, capture, held or bounce; or refused")
        (explained,) = await self.flow.explain(
            address, sender=sender, client=client or None, listener=listener or None, login=login or None
        )
        if wrong := misrouted(explained, expected, Pattern.parse(refused or "2*")):
            raise MailAssertion(await self.report(wrong))

    async def assert_arc(
        self,
        message: Message,
        *,
        cv: str | None = None,
        i: int | None = None,
        domain: str | None = None,
        selector: str | None = None,
    ) -> None:
        """That the newest ARC set of a message is so, and that the chain verifies as it arrived.

        `i` is its instance; 0: there is no ARC field. `cv` is what its seal says of the chain before it: "none" of the
        first set, "pass", or "fail", which ends the chain, so that the newest set alone must verify (RFC 8617 5.1.2).
        `domain` and `selector` are those of its seal. None is anything. Raises MailAssertion, AddressError.
        """
        now = self.stage.clock.now()
        found = await sealing(_octets(message), self.flow.lookup, self.stage.pool, now)
        if wrong := missealed(found, cv=cv, i=i, domain=domain, selector=selector):
            raise MailAssertion(await self.report(wrong, [_queue_id(message)]))

    async def assert_unchanged(self, sent: Message, received: Message, *, without: Iterable[str] = ()) -> None:
        """That a message arrived octet by octet as it was sent, with header fields put in front and nothing else.

        `without`: names of header fields that were to be removed on the way. SMTP ends the last line of every message,
        so that it may be missing in what was `sent`. Raises MailAssertion.
        """
        octets = _octets(sent)
        octets += b"" if octets.endswith(b"\r\n") else b"\r\n"
        if wrong := change(octets, _octets(received), without):
            indented = "\n".join(f"  {line}" for line in wrong.split("\n"))
            told = f"expected the message as it was sent, with header fields put in front; it was changed:\n{indented}"
            raise MailAssertion(await self.report(told, [_queue_id(received), _queue_id(sent)]))

    async def report(self, headline: str = "", messages: Iterable[str] = ()) -> str:
        """What arrived and what was refused, the traces of these messages (queue ids; none: of all, the latest first),
        and the seed."""
        return self.inbox.report(headline, [message for message in messages if message])

    def _listener(self, tls: Tls | None) -> Listener:
        """The listener for an application's mail: one that relays for it rather than one for strangers."""
        listeners = self.flow.snapshot.settings.listeners.values()
        wanted = {
            None: (ListenerTls.NONE, ListenerTls.STARTTLS),
            "starttls": (ListenerTls.STARTTLS,),
            "implicit": (ListenerTls.IMPLICIT,),
        }.get(tls)
        if wanted is None:
            raise ValueError(f'there is no tls = {tls!r}. Write "starttls", "implicit" or None.')
        fit = [each for each in listeners if each.tls in wanted]
        if not fit:
            known = ", ".join(f"{each.name} (tls = {each.tls})" for each in listeners)
            raise LookupError(f"no listener is for tls = {tls!r}. There are: {known}")
        return min(fit, key=lambda each: each.role is Role.INBOUND)

    def _mine(self, addresses: Iterable[str]) -> bool:
        # In a sender that SRS has rewritten the token ends the local part.
        has = re.compile(rf"\+{self.token}(?![a-z0-9])", re.IGNORECASE)
        return not self.token or any(has.search(address) for address in addresses)


def _content(written: bytes | str | EmailMessage | None) -> bytes | None:
    match written:
        case str():
            return re.sub(r"\r?\n", "\r\n", written).encode()
        case EmailMessage():
            return written.as_bytes(policy=SMTP)
        case _:
            return written


def _octets(message: Message) -> bytes:
    """As they go over the wire."""
    match message:
        case Arrival():
            return message.wire
        case Sent():
            return message.content
        case _:
            return message


def _queue_id(message: Message) -> str:
    match message:
        case Arrival():
            return message.message
        case Sent():
            return message.id
        case _:
            return ""
