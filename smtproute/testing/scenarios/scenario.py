"""Scenario: a mail flow as a file has it: who is there, what is sent, and what must come of it.

    title = "One address that is a mailbox and a forwarding alias"

    [config]                                  # the configuration itself, or config = "smtproute.toml"
    domains = ["example.org"]

    [[message]]
    from = "friend@else.example"
    to = ["name@example.org"]

    [[message.expect]]
    mailbox = "name@example.org"

Relative paths start at the file's folder; those of configurations among `[files]`, where there are any.
"""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, assert_never

from pydantic import (
    Field,
    PrivateAttr,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import NullableSchema, WithDefaultSchema

from smtproute.config import files
from smtproute.config.document import Document, Location, Mistake, parse
from smtproute.config.schema import Many, Some, close
from smtproute.config.validated import validated
from smtproute.core.address import Address
from smtproute.testing import staging
from smtproute.testing.pattern import Pattern
from smtproute.testing.records import NameTables
from smtproute.testing.scenarios.values import (
    Config,
    DomainName,
    Email,
    FilePath,
    Host,
    Hour,
    Ip,
    Login,
    Recipient,
    RelayName,
    ReversePath,
    Route,
    Sender,
    Text,
    Texts,
    referred,
)
from smtproute.testing.script import UpstreamTable
from smtproute.testing.tables import Count, Number, Octets, Pause, Table, Time

__all__ = [
    "FIRST",
    "ArrivedTable",
    "BeforeTable",
    "Down",
    "DsnTable",
    "ExpectTable",
    "ExplainTable",
    "ForeignKeyTable",
    "ListTable",
    "MessageTable",
    "Place",
    "RelayTable",
    "Scenario",
    "SealTable",
    "ServerTable",
    "Status",
    "Unsealed",
    "read",
    "schema",
]

FIRST = "relay"
"""The name of the relay whose configuration is `[config]`."""
_LATEST = datetime(9900, 1, 1, tzinfo=UTC).timestamp()
"""The latest end, in seconds since the epoch: what has the longest duration after it can be written as a date still."""
STEPS = ("CONNECT", "AUTH", "MAIL", "DATA")
"""What a client hears a reply to, beside its recipients; DATA is the dot."""


class Down(StrEnum):
    """What a connection to a server that is down meets."""

    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    SILENT = "silent"


class Status(StrEnum):
    """How a delivery stands in the end."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"
    HELD = "held"


class Place(StrEnum):
    """The keys of an expectation that say where the copy goes."""

    MAILBOX = "mailbox"
    ENDPOINT = "endpoint"
    CAPTURE = "capture"
    HELD = "held"
    BOUNCE = "bounce"

    @property
    def usual(self) -> Status:
        """How such a delivery stands in the end where nothing is said of that."""
        match self:
            case Place.HELD:
                return Status.HELD
            case Place.BOUNCE:
                return Status.FAILED
            case Place.MAILBOX | Place.ENDPOINT | Place.CAPTURE:
                return Status.DELIVERED
            case _:
                assert_never(self)


# Who is there


class RelayTable(Table):
    """A relay beside the first one, or, under the first one's name, what else there is to say of it."""

    host: Host = ""
    """The host name at which the others find it, at the ports of its listeners."""
    config: Config | None = None
    """Its configuration: a table, the path of a file, or of a docker-mailserver folder."""


class ListTable(Table):
    """A mailing list: what a server took comes back changed, to other recipients, by their MX or A."""

    to: Some[Email]
    """Who is on the list."""
    sender: Email | None = None
    """The reverse-path of what the list sends; default: the one with which the message came."""
    prefix: str = ""
    """Put before the subject."""
    footer: str = ""
    """Put under the text."""


class ServerTable(UpstreamTable):
    """A server on the stage; all that the configurations name are there without a table, and take everything."""

    down: Annotated[Down, Field(strict=False)] | None = None
    """Nobody answers: connections are refused, or have no route, or hear nothing."""
    bounces: bool = False
    """What it took comes back as a DSN to the reverse-path, by the MX of its domain."""
    list: ListTable | None = None
    """It is a mailing list."""


class ForeignKeyTable(Table):
    """A key of somebody else, published in DNS, by which messages are signed (DKIM) and sealed (ARC)."""

    selector: str = "mail"
    """Its name under `_domainkey`."""


# What is sent


class ExplainTable(Table):
    """Where mail would go; nothing is sent."""

    address: Email
    """The recipient."""
    relay: RelayName = FIRST
    """Which relay is asked."""
    listener: str = ""
    """By which listener it would come; default: the relay's first."""
    client: Ip | None = None
    """Whose mail, by IP address; default: this machine's."""
    login: Email | None = None
    """The account that has logged in."""
    sender: ReversePath = Field(default="", alias="from")
    """The reverse-path; "" is the null sender."""
    reply: Text = Pattern("250")
    """What RCPT answers: a code, "550 5.1.1", or a pattern of the whole."""
    routes: Many[Route] = ()
    """Every delivery: its kind, its endpoint if it has one, and its address; "endpoint external name@there.example"."""


class BeforeTable(Table):
    """What changes before a message is sent."""

    advance: Time = 0.0
    """So much time passes first."""
    dns: NameTables = Field(default={})
    """These names answer so from now on; the others stay as they are."""
    upstream: dict[Host, ServerTable] = Field(default={})
    """These servers take the place of those that stood there."""
    config: Annotated[dict[str, Any], Field(json_schema_extra={"type": "object"})] = Field(default={})
    """Keys of the configuration of the message's relay that change, by a reload; the others stay as they are."""


class SealTable(Table):
    """The newest ARC set of a copy."""

    i: Number | None = None
    """Its number in the chain."""
    cv: Literal["none", "pass", "fail"] | None = None
    """What it says of the chain before it."""
    domain: DomainName | None = None
    """Whose key it is."""
    selector: str | None = None
    """The name of the key."""


class Unsealed(SealTable):
    """`seal = false`: the relay has put no ARC set on the copy."""


class DsnTable(Table):
    """What a delivery status notification says (RFC 3464)."""

    recipient: Email | None = None
    """Final-Recipient: the address as the sender wrote it."""
    status: str | None = None
    """Status: "5.1.1"."""
    action: Literal["failed", "delayed", "delivered", "relayed", "expanded"] | None = None
    """Action."""
    diagnostic: Text | None = None
    """Diagnostic-Code, a pattern."""


def _seal(written: Any, handler: ValidatorFunctionWrapHandler) -> SealTable:
    if isinstance(written, bool):
        if written:
            raise ValueError('say which, as { i = 1, domain = "example.org" }, or {} for any.')
        return Unsealed()
    seal: SealTable = handler(written)
    return seal


class ExpectTable(Table):
    """One delivery. Exactly one of mailbox, endpoint, capture, held and bounce says where the copy goes."""

    mailbox: Email | None = None
    """The copy for this address lies in a mailbox."""
    endpoint: str | None = None
    """The copy goes to a server of this endpoint; `to` says for whom."""
    to: Email | None = None
    """With endpoint: the recipient as the server hears it; a * in it stands for any text, as in an SRS address."""
    capture: Email | None = None
    """The copy for this address is kept, and goes nowhere."""
    held: Email | None = None
    """The copy for this address waits for an operator."""
    bounce: Email | None = None
    """The copy for this address is returned to the sender, by its route or because nobody takes it."""
    relay: RelayName | None = None
    """Which relay's delivery it is; default: the message's."""
    copies: Number | None = None
    """How many such deliveries there are; default: as many as the message was sent times."""
    status: Annotated[Status, Field(strict=False)] | None = None
    """How it stands in the end; default: delivered; of what is held, held; of a bounce, failed."""
    server: Text | None = None
    """Who answered, "mx.there.example" or "mx.there.example:25"."""
    attempts: Count | None = None
    """How often it was tried."""
    reply: Text | None = None
    """The last answer: a code, "250 2.0.0", or a pattern of the whole."""
    after: Time | None = None
    """It was settled so long after it was sent at the earliest, on the stage's clock."""
    within: Time | None = None
    """It was settled so long after it was sent at the latest."""
    sender: Text | None = None
    """The reverse-path with which it left, "" if null; a pattern, so that "SRS0=*" is any rewritten one."""
    headers: dict[str, Texts] = Field(default={})
    """Header fields, each a pattern of the unfolded, decoded value, or several; one of that name must match each."""
    absent: Many[str] = ()
    """Header fields that are not there."""
    unchanged: bool = False
    """It has the octets that were sent, but for header fields put before them."""
    seal: Annotated[SealTable | None, WrapValidator(_seal, json_schema_input_type=SealTable | Literal[False])] = None
    """The newest ARC set, which must be valid; false: none by this relay."""
    signed: Many[DomainName] = ()
    """Domains with a valid DKIM signature on it."""
    tls: bool | None = None
    """Whether it left under TLS."""
    dsn: DsnTable | None = None
    """It is a delivery status notification, and says this."""
    trace: Texts = Field(default=())
    """Lines of the message's trace, as `smtproute trace` prints it, each a pattern; in this order, with any between."""

    @property
    def place(self) -> Place:
        """Where the copy goes."""
        return next(each for each in Place if getattr(self, each) is not None)

    @property
    def address(self) -> Address:
        """Whose copy it is."""
        found = self.to if self.place is Place.ENDPOINT else getattr(self, self.place)
        assert isinstance(found, Address)  # `read` has seen to it
        return found

    @property
    def stands(self) -> Status:
        """How it stands in the end, where `status` says nothing too."""
        return self.status or self.place.usual


class MessageTable(Table):
    """A message, and what must come of it."""

    name: str = ""
    """What reports call it, and "{NAME.sender}"; default: its number."""
    relay: RelayName = FIRST
    """To which relay it is sent."""
    listener: str = ""
    """To which listener; default: the relay's first."""
    client: Ip | None = None
    """Who connects, as the relay sees it; default: this machine."""
    helo: str = "client.example"
    """What the client says in EHLO."""
    login: Login | None = None
    """The name and the password with which it logs in."""
    tls: bool | None = None
    """Whether it begins TLS first; default: where it logs in and is offered TLS."""
    sender: Sender = Field(alias="from")
    """The reverse-path; "" is the null sender, "{1.sender}" the one with which the first message arrived (SRS)."""
    to: Some[Recipient]
    """The recipients: addresses, "postmaster", or "{1.sender}", the reverse-path with which the first message
    arrived."""
    content: str | None = None
    """Header and body; line ends become CRLF. Default: a short letter from the sender to the recipients."""
    file: str | None = None
    """A file with the content, in place of `content`."""
    size: Octets = 0
    """The short letter has so many octets at least: "300KB"."""
    sign: Many[DomainName] = ()
    """By whose `[keys]` it is signed (DKIM), one after the other."""
    seal: Many[DomainName] = ()
    """By whose `[keys]` it is sealed (ARC), one after the other."""
    results: str = ""
    """What these seals say of the message, as Authentication-Results does behind the host name, "dmarc=pass
    header.from=else.example"; default: what became of the chain so far."""
    copies: Number = 1
    """How many times it is sent."""
    wait: bool = True
    """Whether the next message waits until nothing of this one is due or under way."""
    within: Time | None = None
    """How much time passes after it, for retries; default: as for the whole scenario."""
    before: BeforeTable = BeforeTable()
    """What changes before it is sent."""
    replies: dict[str, Text] = Field(default={})
    """What the client hears: to CONNECT, AUTH, MAIL, DATA (the dot) or a recipient, as it is written in `to`; a code,
    "550 5.1.1", or a pattern of the whole reply. What is not here is accepted."""
    expect: Many[ExpectTable] = ()
    """The deliveries, in any order."""


class ArrivedTable(Table):
    """What a server has had in the end."""

    messages: Count | None = None
    """How many messages it took."""
    connections: Count | None = None
    """How many connections it accepted."""


class Scenario(Table):
    """A mail flow: configuration, surroundings, messages, expectations."""

    title: str
    """What it shows, in one line."""
    seed: int = 1
    """Decides all that is left to chance."""
    now: Hour | None = None
    """Where the clock begins, a time with its zone; default: the machine's time."""
    patience: Pause = 5.0
    """The longest wait for a server at each step, on the machine's clock."""
    within: Time = 0.0
    """How much time passes after each message, on the scenario's clock, for retries."""
    nothing_else: bool = True
    """Every delivery, refusal and DSN must be expected."""
    config: Config = Field(default={})
    """The configuration: a table, the path of a file, or of a docker-mailserver folder."""
    relay: dict[RelayName, RelayTable] = Field(default={})
    """Further relays, by name; the one with `[config]` is called relay."""
    files: dict[FilePath, str] = Field(default={})
    """Files that configurations name, by path. Where there are any, relative paths of configurations start here."""
    dns: NameTables = Field(default={})
    """What DNS says, by name."""
    upstream: dict[Host, ServerTable] = Field(default={})
    """Servers that do more than take everything, by host name."""
    keys: dict[DomainName, ForeignKeyTable] = Field(default={})
    """Keys of others, by domain."""
    explain: Many[ExplainTable] = ()
    """Where mail would go."""
    message: Many[MessageTable] = ()
    """What is sent, in order."""
    arrived: dict[Host, ArrivedTable] = Field(default={})
    """What servers have had in the end, by host name."""

    _document: Document = PrivateAttr()

    @classmethod
    def of(cls, document: Document) -> Self:
        """The scenario that a document is. Raises config.document.Mistake."""
        scenario = validated(cls, document)
        scenario._document = document
        _check(scenario, document)
        document.check()
        return scenario

    @property
    def shown(self) -> str:
        """What reports call the file."""
        return self._document.shown

    @property
    def folder(self) -> Path:
        """Where the file lies, absolute."""
        return self._document.folder

    def content(self, message: MessageTable) -> bytes | None:
        """What is sent, with CRLF; None: a short letter is to be made. Raises OSError."""
        if message.file is not None:
            written = files.read(self.folder / message.file)
        elif message.content is not None:
            written = message.content.encode()
        else:
            return None
        return re.sub(rb"\r?\n", b"\r\n", written)

    def lay_out(self, folder: Path) -> Path:
        """Writes `[files]` into an empty folder; where relative paths of configurations start.

        Raises config.document.Mistake for what cannot be a file there.
        """
        for name, text in self.files.items():
            file = folder / name
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch(mode=0o600)
                file.write_text(text)
            except OSError as error:
                why = (error.strerror or "error").lower()
                wrong = Document(self.shown, self.folder)
                wrong.wrong(("files", name), f"cannot be written: {why}. Choose another name.")
                raise Mistake(*wrong.mistakes) from None
        return folder if self.files else self.folder

    def configuration(self, relay: str, start: Path, changes: Sequence[Mapping[str, Any]] = ()) -> Document:
        """The configuration of a relay, for `Stage.relay`; what is wrong in it is said of this file, or of its own.

        `start`: what `lay_out` answered. `changes`: keys in place of those that are written, and of earlier changes.
        Raises Mistake where the file cannot be read.
        """
        at: Location = ("config",) if relay == FIRST else ("relay", relay, "config")
        written = self.config if relay == FIRST else self.relay[relay].config
        if isinstance(written, str):
            read = staging.document(start / written, written)
        else:
            read = staging.document(Document(self.shown, start, dict(written or {}), under=at))
        for each in changes:
            _change(read.tables, each)
        return read


def read(path: Path) -> Scenario:
    """The scenario in a file. Raises config.document.Mistake.

    What is wrong inside of a configuration, its relay says when it starts.
    """
    try:
        octets = files.read(path)
    except OSError as error:
        raise Mistake(f"{path}: cannot be read: {(error.strerror or 'error').lower()}.") from None
    return Scenario.of(Document(str(path), path.absolute().parent, parse(octets, str(path))))


# What the tables say of each other


def _check(scenario: Scenario, document: Document) -> None:
    """Notes what is wrong between the tables."""
    if not scenario.message and not scenario.explain:
        document.wrong(("message",), "nothing happens. Add [[message]] or [[explain]].")
    if scenario.now is not None:
        waits = (scenario.within if each.within is None else each.within for each in scenario.message)
        passes = sum(waits) + sum(each.before.advance for each in scenario.message)
        if not 0 <= scenario.now.timestamp() <= _LATEST - passes:
            said = "with all the time that passes, the clock is to stay between the years 1970 and 9900"
            document.wrong(("now",), f"{said}. Write another time.")
    _relays(scenario, document)
    for number, each in enumerate(scenario.explain):
        _known(document, ("explain", number, "relay"), each.relay, _names(scenario), "relay")
    for number, message in enumerate(scenario.message):
        _message(scenario, document, number, message)


def _names(scenario: Scenario) -> tuple[str, ...]:
    return tuple(dict.fromkeys((FIRST, *scenario.relay)))


def _relays(scenario: Scenario, document: Document) -> None:
    """What is said of relays, and whether there is what they are to be configured with."""
    _config_there(scenario, document, ("config",), scenario.config)
    for name, table in scenario.relay.items():
        at: Location = ("relay", name, "config")
        if name == FIRST and table.config is not None:
            document.wrong(at, "the configuration of this relay stands under [config]. Put it there.")
        elif name != FIRST and table.config is None:
            document.wrong(at, f"missing. Add [relay.{name}.config].")
        elif table.config is not None:
            _config_there(scenario, document, at, table.config)


def _config_there(scenario: Scenario, document: Document, at: Location, config: dict[str, Any] | str) -> None:
    if isinstance(config, dict):
        return
    inside = PurePosixPath(config)
    if scenario.files:
        if not any(inside in (path, *path.parents) for path in map(PurePosixPath, scenario.files)):
            near = close(config, tuple(scenario.files))
            document.wrong(at, f"not among [files], where paths start.{near}")
    elif not (scenario.folder / config).is_dir():
        document.file(at, config)


def _message(scenario: Scenario, document: Document, number: int, message: MessageTable) -> None:
    at: Location = ("message", number)
    earlier = scenario.message[:number]
    _known(document, (*at, "relay"), message.relay, _names(scenario), "relay")
    if message.name.isdecimal():
        document.wrong((*at, "name"), "a number means the message of that place. Choose a word.")
    elif message.name and message.name in [each.name for each in earlier]:
        document.wrong((*at, "name"), "another message has it. Choose another name.")
    known = (*map(str, range(1, number + 1)), *(each.name for each in earlier if each.name))
    for where, text in (("from",), message.sender), *((("to", n), text) for n, text in enumerate(message.to)):
        name = referred(text)
        if name is not None and name not in known:
            said = f"Write one of {', '.join(known)}." if known else "This one is the first."
            document.wrong((*at, *where), f"there is no earlier message {name}. {said}")
    if message.file is not None:
        if message.content is not None:
            document.wrong((*at, "file"), "the content is written here already. Remove one of the two.")
        document.file((*at, "file"), message.file)
    if message.within is not None and not message.wait and number + 1 < len(scenario.message):
        document.wrong((*at, "within"), "the next message does not wait. Write it at the next one that waits.")
    if message.size and (message.content is not None or message.file is not None):
        document.wrong((*at, "size"), "only the short letter grows, and the content is written here. Remove one.")
    for key in ("sign", "seal"):
        for n, domain in enumerate(getattr(message, key)):
            _known(document, (*at, key, n), domain, tuple(scenario.keys), "key", f'Add [keys."{domain}"].')
    answered = (*STEPS, *message.to)
    for step in message.replies:
        if step not in answered:
            near = close(step, answered) or f" Known here: {', '.join(answered)}."
            document.wrong((*at, "replies", step), f"neither a step nor a recipient of this message.{near}")
    for n, expected in enumerate(message.expect):
        _expected(scenario, document, (*at, "expect", n), message, expected)


def _expected(
    scenario: Scenario, document: Document, at: Location, message: MessageTable, expected: ExpectTable
) -> None:
    places = [each for each in Place if getattr(expected, each) is not None]
    if len(places) != 1:
        said = f"to {' and '.join(places)}" if places else "nowhere"
        document.wrong(at, f"it goes {said}. Write exactly one of {', '.join(Place)}.")
    if expected.to is not None and expected.endpoint is None and places:
        document.wrong((*at, "to"), "the recipient stands beside an endpoint only. Remove it here.")
    if expected.endpoint is not None and expected.to is None:
        document.wrong((*at, "endpoint"), 'for whom is not said. Add to = "name@there.example".')
    relay = expected.relay or message.relay
    _known(document, (*at, "relay"), relay, _names(scenario), "relay")
    if expected.endpoint is not None:
        _endpoint(scenario, document, (*at, "endpoint"), relay, expected.endpoint)
    if expected.after is not None and expected.within is not None and expected.within < expected.after:
        document.wrong((*at, "within"), "sooner than after allows. Write a longer time.")


def _endpoint(scenario: Scenario, document: Document, at: Location, relay: str, name: str) -> None:
    """An endpoint that is written nowhere, as far as that can be told without reading the configuration."""
    table = scenario.relay.get(relay)
    config = scenario.config if relay == FIRST else table.config if table is not None else None
    if not isinstance(config, dict) or " " in name:  # one that a docker-mailserver's relay map makes
        return
    written = [config, *(each.before.config for each in scenario.message if each.relay == relay)]
    named = [each["endpoint"] for each in written if isinstance(each.get("endpoint"), dict)]
    _known(document, at, name, tuple(key for table in named for key in table), "endpoint")


def _known(document: Document, at: Location, name: str, known: tuple[str, ...], what: str, mend: str = "") -> None:
    if name not in known:
        said = close(name, known) or (f" {mend}" if mend else f" Known here: {', '.join(known) or 'none'}.")
        document.wrong(at, f"there is no {what} of this name.{said}")


def _change(tables: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Puts values into tables; what else they have stays."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(tables.get(key), dict):
            _change(tables[key], value)
        else:
            tables[key] = copy.deepcopy(value)


# For editors


class _Published(GenerateJsonSchema):
    """The schema as a person reads it, of a format that has no null."""

    def nullable_schema(self, schema: NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        found = super().default_schema(schema)
        if not isinstance(found.get("default"), str | int | float):
            found.pop("default", None)
        return found

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema() -> dict[str, Any]:
    """The JSON schema of the format, for editors."""
    found = Scenario.model_json_schema(schema_generator=_Published)
    return {"$schema": GenerateJsonSchema.schema_dialect, **found}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(schema(), indent=2) + "\n")
