"""The keys of the configuration, and what each value may be.

A validator takes a TOML value and returns the value that `core.settings` wants, or raises ValueError with a text
that says what is wrong and how to mend it. Defaults are those of `core.settings`.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from types import UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from smtproute.core.address import AddressError, Domain
from smtproute.core.routes import Match, RouteError, parse_match, parse_sender
from smtproute.core.settings import (
    Auth,
    Authentication,
    AuthInClear,
    Balance,
    BareNewline,
    Discover,
    Endpoint,
    EndpointTls,
    Family,
    Limits,
    Listener,
    ListenerTls,
    LogFormat,
    Mode,
    Network,
    OverQuota,
    Policy,
    Queue,
    ReplyAfter,
    Resolver,
    Role,
    Server,
    SignBy,
    Source,
    Store,
    Trace,
)

__all__ = [
    "EndpointTable",
    "IpLiteral",
    "KeyTable",
    "ListenerTable",
    "Root",
    "RouteTable",
    "Sign",
    "TargetTable",
    "close",
    "credential",
    "known_keys",
]

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

_FOREVER = 100 * 365 * 86400
_LARGEST = 2**63 - 1


def close(word: str, known: tuple[str, ...]) -> str:
    """` Did you mean "x"?`, or nothing."""
    written = {each.lower(): each for each in known}
    found = get_close_matches(word.lower(), written, 1, 0.65)
    return f' Did you mean "{written[found[0]]}"?' if found else ""


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("text is wanted. Write it in quotes.")  # noqa: TRY004 (pydantic takes ValueError only)
    return value


def _path(value: object) -> str:
    if not _text(value) or "\0" in _text(value):
        raise ValueError("a path is wanted. Write it, or leave the key out.")
    return _text(value)


def _name(value: object) -> str:
    name = _text(value)
    if re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?", name) is None or "__" in name:
        raise ValueError("a name is made of letters, digits, - and _. Choose another.")
    return name


def _choice(kind: type[E]) -> Callable[[object], E]:
    def choice(value: object) -> E:
        known = tuple(kind)
        if _text(value) not in known:
            raise ValueError(f"not one of {', '.join(known)}.{close(_text(value), known)}")
        return kind(_text(value))

    return choice


def _duration(value: object) -> float:
    """Seconds."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    seconds = _quantity(value, units, 'a duration is wanted. Write "30s", "5m", "1h" or "5d".')
    if seconds > _FOREVER:
        raise ValueError("longer than a hundred years. Write a shorter duration.")
    return float(seconds)


def _pause(value: object) -> float:
    if not (seconds := _duration(value)):
        raise ValueError("nothing can be waited for in no time. Write one second at least.")
    return seconds


def _size(value: object) -> int:
    """Octets."""
    units = {"b": 1}
    for power, letter in enumerate("kmgt", 1):
        units |= {f"{letter}b": 1000**power, f"{letter}ib": 1024**power}
    octets = _quantity(value, units, 'a size is wanted. Write "256KiB", "25MB" or "1GB".')
    if not 1 <= octets <= _LARGEST:
        raise ValueError('a size between one octet and 2^63 is wanted. Write "256KiB", "25MB" or "1GB".')
    return octets


def _source(value: object) -> Source:
    known = (Source.STATIC, Source.HOSTS, Source.DNS)
    if _text(value) not in known:
        raise ValueError(f"not one of {', '.join(known)}.{close(_text(value), known)}")
    return Source(_text(value))


def _quantity(value: object, units: Mapping[str, int], wanted: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = re.fullmatch(r"([0-9]{1,18}) ?([A-Za-z]+)", value) if isinstance(value, str) else None
    if match is None or match[2].lower() not in units:
        raise ValueError(wanted)
    return int(match[1]) * units[match[2].lower()]


def _rate(value: object) -> float:
    """Messages a second."""
    units = {"s": 1, "m": 60, "h": 3600}
    match = re.fullmatch(r"([1-9][0-9]{0,8}) ?/ ?([smh])", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('a rate is wanted, one message at least. Write "100/s", "600/m" or "1000/h".')
    return int(match[1]) / units[match[2]]


def credential(value: object) -> str:
    """A username or a password that a server can be told. What is raised never has it."""
    if not _text(value):
        raise ValueError("empty. Write it, or leave the key out.")
    if re.search(r"[\0-\x1f\x7f\ud800-\udfff]", _text(value)):
        raise ValueError("not one line of UTF-8 without control characters. Write it so.")
    return _text(value)


def _number(least: int) -> Callable[[object], int]:
    def number(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _LARGEST:
            raise ValueError(f"a whole number is wanted, {least} or more.")
        return value

    return number


# Names and addresses


class IpLiteral(ValueError):
    """An IP address, in any of its spellings, stands where a host name must."""

    def __init__(self, ip: str) -> None:
        super().__init__("a host name is wanted, not an IP address. Write the name of the machine.")
        self.ip = ip


_NUMERIC = r"(?:0[xX][0-9A-Fa-f]*|[0-9]+)"
_INET_ATON = re.compile(rf"{_NUMERIC}(?:\.{_NUMERIC}){{0,3}}")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")


def _ip(text: str) -> IPv4Address | IPv6Address | None:
    """The address that `text` is to a resolver: dotted, IPv6, and the forms of inet_aton(3): decimal, hexadecimal,
    octal, short."""
    try:
        ip = ip_address(text)
    except ValueError:
        pass
    else:
        return getattr(ip, "ipv4_mapped", None) or ip
    try:
        return IPv4Address(socket.inet_aton(text)) if _INET_ATON.fullmatch(text) else None
    except OSError:
        return None


def _host(value: object) -> str:
    """A host name (RFC 1123 2.1) in lower-case A-labels; U-labels are taken. Raises IpLiteral too."""
    text = _text(value)
    literal = _ip(text.removesuffix("."))
    if literal is not None:
        raise IpLiteral(str(literal))
    try:
        name = Domain.parse(text).key
    except AddressError as error:
        raise ValueError(f'no host name: {error}. Write it as "mail.example.org".') from None
    literal = _ip(name)  # again: IDNA maps other scripts' digits and full stops to ASCII
    if literal is not None:
        raise IpLiteral(str(literal))
    if "_" in name:
        better = re.sub(r"[^a-z0-9.]+", "-", name)
        raise ValueError(f'a host name has no underscore. Give it a name that has none, such as "{better}".')
    labels = name.split(".")
    if len(name) > 253 or any(_LABEL.fullmatch(label) is None for label in labels):
        raise ValueError('no host name. Write it as "mail.example.org".')
    if re.fullmatch(_NUMERIC, labels[-1]):
        raise ValueError('no host name: it ends in a number, as only addresses do. Write it as "mail.example.org".')
    return name


def _domain(value: object) -> Domain:
    try:
        return Domain.parse(_text(value))
    except AddressError as error:
        raise ValueError(f'{error}. Write it as "example.org".') from None


def _hostname(value: object) -> Domain:
    _host(value)
    return _domain(value)


def _port(text: str, least: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and least <= int(text) <= 65535):
        raise ValueError(f'"{text}" is no port. Write a number from {least} to 65535.')
    return int(text)


def _server(value: object, default: int = 25) -> Server:
    """`host` or `host:port`, port `default` where none is written. Raises IpLiteral too."""
    text = _text(value)
    literal = _ip(text)
    if literal is not None:
        raise IpLiteral(str(literal))
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](:.*)?", text)
    if bracketed:
        name = _host(bracketed[1].removeprefix("IPv6:"))
        raise ValueError(f'brackets belong to IP addresses. Write "{name}{bracketed[2] or ""}".')
    host, colon, port = text.partition(":")
    if not host:
        raise ValueError('the host name is missing. Write "mail.example.org:25".')
    if "/" in text or "@" in text:
        raise ValueError('neither a URL nor an address is wanted. Write "mail.example.org:25".')
    return Server(_host(host), _port(port, 1) if colon else default)


def _lmtp(value: object) -> Server:
    """`host`, `host:port` or `unix:/path`; RFC 2033 leaves the port open, and 24 is Dovecot's. Raises IpLiteral too."""
    text = _text(value)
    if text.startswith("unix:"):
        if not text.startswith("unix:/") or "\0" in text:
            raise ValueError('an absolute path is wanted. Write "unix:/run/dovecot/lmtp".')
        return Server(text.removeprefix("unix:"))
    return _server(value, 24)


def _static_ip(value: object) -> str:
    try:
        return str(ip_address(_text(value)))
    except ValueError:
        raise ValueError('an IP address is wanted. Write "192.0.2.1" or "2001:db8::1".') from None


def _nameserver(value: object) -> str:
    """An IP address, with `:port` where one is written."""
    text = _text(value)
    match = re.fullmatch(r"\[(?P<v6>[^\]]+)\](?::(?P<port6>.*))?|(?P<v4>[0-9.]+)(?::(?P<port4>.*))?", text)
    try:
        ip_address(text if match is None else match["v6"] or match["v4"])
    except ValueError:
        raise ValueError('a DNS server is given by IP address. Write "192.0.2.53", or "192.0.2.53:5353".') from None
    if match is not None and (port := match["port6"] or match["port4"]) is not None:
        _port(port, 1)
    return text


def _network(value: object) -> Network:
    try:
        return ip_network(_text(value))
    except ValueError:
        pass
    try:
        better = f'no network: it has bits beyond its length. Write "{ip_network(_text(value), strict=False)}".'
    except ValueError:
        better = 'no network. Write "192.0.2.0/24", "2001:db8::/32" or one address.'
    raise ValueError(better)


class Bind(NamedTuple):
    """Where a listener listens; an empty host is every address of the machine."""

    host: str
    port: int


def _bind(value: object) -> Bind:
    match = re.fullmatch(r"(?:\[(?P<v6>[^\]]*)\]|(?P<v4>[^\[\]:]*)):(?P<port>.*)", _text(value))
    wanted = 'an IP address and a port are wanted. Write "127.0.0.1:25", "[::1]:25", or ":25" for all addresses.'
    if match is None:
        raise ValueError(wanted)
    host, version = (match["v4"], 4) if match["v6"] is None else (match["v6"], 6)
    try:
        good = (not host and version == 4) or ip_address(host).version == version
    except ValueError:
        good = False
    if not good:
        raise ValueError(wanted)
    return Bind(host, _port(match["port"], 0))


# Rules


def _match(value: object) -> Match:
    try:
        return parse_match(_text(value))
    except RouteError as error:
        raise ValueError(f"{error}. Known forms: {_FORMS}") from None


_FORMS = '"user@domain", "*@domain", "*@*.domain", "*", "regex:..."'


def _sender(value: object) -> Match:
    try:
        return parse_sender(_text(value))
    except RouteError as error:
        raise ValueError(f'{error}. Known forms: {_FORMS}, "<>" for the null sender') from None


def _client(value: object) -> tuple[Network, ...]:
    """One network or several."""
    written = [value] if isinstance(value, str) else value
    if not isinstance(written, list) or not written:
        raise ValueError('a network is wanted, or a list of them. Write "10.0.0.0/8".')
    return tuple(map(_network, written))


class TableFile(NamedTuple):
    """One entry of `[aliases] tables`."""

    kind: str
    """"texthash" or "pcre"."""
    path: str


def _table(value: object) -> TableFile:
    prefix, colon, path = _text(value).partition(":")
    if not colon or re.fullmatch(r"[a-z]+", prefix) is None:
        return TableFile("texthash", _path(value))
    if prefix in ("texthash", "pcre"):
        return TableFile(prefix, _path(path))
    other = "pcre" if prefix == "regexp" else "texthash"
    raise ValueError(f'{prefix} tables are not read here. Write "{other}:FILE", with the text that postmap reads.')


def _delimiter(value: object) -> str:
    if len(_text(value)) > 1 or _text(value) in ("@", '"', "\\", " "):
        raise ValueError('one character is wanted, or none. Write "+", or "" for no delimiter.')
    return _text(value)


def _version(value: object) -> str:
    known = ("15", "16")
    if str(value) not in known or isinstance(value, bool | float):
        raise ValueError(f"not one of {', '.join(known)}. Write the number before the first point, in quotes.")
    return str(value)


def _container_path(value: object) -> str:
    if not _path(value).startswith("/"):
        raise ValueError('a path in the container is wanted. Write it from the top: "/etc/opendkim".')
    return _path(value)


class Sign(NamedTuple):
    """What `[arc] sign` says."""

    by: SignBy
    domain: Domain | None = None


def _sign(value: object) -> Sign:
    text = _text(value)
    words = (SignBy.RECIPIENT, SignBy.SENDER, SignBy.OFF)
    if text in words:
        return Sign(SignBy(text))
    if "." not in text:
        known = ", ".join(words)
        raise ValueError(f"neither {known} nor a domain.{close(text, words)}")
    return Sign(SignBy.DOMAIN, _domain(value))


def _selector(value: object) -> str:
    labels = _text(value).split(".")
    if any(re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?", label) is None for label in labels):
        raise ValueError('no selector (RFC 6376 3.1). Write it as "mail".')
    return _text(value)


def _excluded(value: object) -> str:
    """A domain, or `.domain` for what is below it, in lower-case A-labels."""
    below = "." if _text(value).startswith(".") else ""
    return below + _domain(_text(value).removeprefix(below)).key


def _secrets(value: object) -> tuple[str, ...]:
    """Secrets of SRS with commas between them, as docker-mailserver's SRS_SECRET has them."""
    found = tuple(each for each in credential(value).split(",") if each)
    if not found:
        raise ValueError("empty. Write it, or leave the key out.")
    return found


def _listed(value: object) -> object:
    """`[arc.keys."d"]` is `[[arc.keys."d"]]` written once."""
    if not isinstance(value, dict | list):
        raise ValueError("a table is wanted. Write { selector = ..., file = ... }.")  # noqa: TRY004 (see _text)
    return [value] if isinstance(value, dict) else value


# Tables of the file


class Table(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


Many = Annotated[tuple[T, ...], Field(strict=False)]
Some = Annotated[tuple[T, ...], Field(strict=False, min_length=1)]
Text = Annotated[str, PlainValidator(_text)]
Path = Annotated[str, PlainValidator(_path)]
Name = Annotated[str, PlainValidator(_name)]
Duration = Annotated[float, PlainValidator(_duration)]
Pause = Annotated[float, PlainValidator(_pause)]
Size = Annotated[int, PlainValidator(_size)]
Count = Annotated[int, PlainValidator(_number(1))]
Credential = Annotated[str, PlainValidator(credential)]
Servers = Many[Annotated[Server, PlainValidator(_server)]]

_LISTENER = Listener("")
_ENDPOINT = Endpoint("")
_RESOLVER = Resolver()
_AUTHENTICATION = Authentication()
_QUEUE = Queue()
_LIMITS = Limits()
_TRACE = Trace()


class TargetTable(Table):
    mode: Annotated[Mode, PlainValidator(_choice(Mode))] | None = None
    endpoint: Text | None = None


class RouteTable(TargetTable):
    match: Annotated[Match, PlainValidator(_match)]
    sender: Annotated[Match, PlainValidator(_sender)] | None = None
    client: Annotated[tuple[Network, ...], PlainValidator(_client)] = ()
    listener: Text | None = None
    seal: bool = True


class DockerMailserverTable(Table):
    config: Path
    env: Path | None = None
    version: Annotated[str, PlainValidator(_version)] = "15"
    paths: dict[Annotated[str, PlainValidator(_container_path)], Path] = {}


class AccountsTable(Table):
    file: Path | None = None
    quotas: Path | None = None
    maildir: Path | None = None
    store: Annotated[Store, PlainValidator(_choice(Store))] = Store.MAILDIR
    lmtp: Annotated[Server, PlainValidator(_lmtp)] | None = None
    over_quota: Annotated[OverQuota, PlainValidator(_choice(OverQuota))] | None = None


class AliasesTable(Table):
    tables: Many[Annotated[TableFile, PlainValidator(_table)]] = ()
    recipient_delimiter: Annotated[str, PlainValidator(_delimiter)] = "+"


class ListenerTable(Table):
    bind: Annotated[Bind, PlainValidator(_bind)] = Bind(_LISTENER.host, _LISTENER.port)
    role: Annotated[Role, PlainValidator(_choice(Role))] = _LISTENER.role
    tls: Annotated[ListenerTls, PlainValidator(_choice(ListenerTls))] | None = None
    certificate: Path | None = None
    key: Path | None = None
    trusted_networks: Many[Annotated[Network, PlainValidator(_network)]] = _LISTENER.trusted_networks
    bare_newline: Annotated[BareNewline, PlainValidator(_choice(BareNewline))] = _LISTENER.bare_newline
    debug: bool = _LISTENER.debug
    seal: bool = _LISTENER.seal
    auth: Annotated[Auth, PlainValidator(_choice(Auth))] = _LISTENER.auth
    auth_in_clear: Annotated[AuthInClear, PlainValidator(_choice(AuthInClear))] = _LISTENER.auth_in_clear
    reply: Annotated[ReplyAfter, PlainValidator(_choice(ReplyAfter))] = _LISTENER.reply
    proxy_timeout: Pause = _LISTENER.proxy_timeout


class EndpointTable(Table):
    servers: Servers = ()
    backup: Servers = ()
    discover: Annotated[Discover, PlainValidator(_choice(Discover))] = _ENDPOINT.discover
    balance: Annotated[Balance, PlainValidator(_choice(Balance))] = _ENDPOINT.balance
    family: Annotated[Family, PlainValidator(_choice(Family))] = _ENDPOINT.family
    tls: Annotated[EndpointTls, PlainValidator(_choice(EndpointTls))] = _ENDPOINT.tls
    ca_file: Path | None = None
    verify: bool = _ENDPOINT.verify
    tls_name: Annotated[str, PlainValidator(_host)] = _ENDPOINT.tls_name
    certificate: Path | None = None
    key: Path | None = None
    username: Credential = _ENDPOINT.username
    password_file: Path | None = None
    password: Credential | None = None
    max_connections: Count = _ENDPOINT.max_connections
    max_messages: Count = _ENDPOINT.max_messages
    rate: Annotated[float, PlainValidator(_rate)] = _ENDPOINT.rate
    seal: bool = _ENDPOINT.seal


class ResolverTable(Table):
    order: Some[Annotated[Source, PlainValidator(_source)]] = _RESOLVER.order
    static: dict[Annotated[str, PlainValidator(_host)], Some[Annotated[str, PlainValidator(_static_ip)]]] = {}
    hosts_file: Path = _RESOLVER.hosts_file
    servers: Many[Annotated[str, PlainValidator(_nameserver)]] = _RESOLVER.servers
    watch: Duration = _RESOLVER.watch
    stale: Duration = _RESOLVER.stale


class KeyTable(Table):
    selector: Annotated[str, PlainValidator(_selector)]
    file: Path


Keys = dict[Annotated[Domain, PlainValidator(_domain)], Annotated[Some[KeyTable], BeforeValidator(_listed)]]


class ArcTable(Table):
    sign: Annotated[Sign, PlainValidator(_sign)] | None = None
    keys: Keys = {}


class DkimTable(Table):
    keys: Keys = {}


class SrsTable(Table):
    domain: Annotated[Domain, PlainValidator(_domain)] | None = None
    secret_file: Path | None = None
    secret: Annotated[tuple[str, ...], PlainValidator(_secrets)] | None = None
    exclude: Many[Annotated[str, PlainValidator(_excluded)]] | None = None


class AuthenticationTable(Table):
    spf: bool = _AUTHENTICATION.spf
    dkim: bool = _AUTHENTICATION.dkim
    dmarc: bool = _AUTHENTICATION.dmarc
    arc: bool = _AUTHENTICATION.arc
    policy: Annotated[Policy, PlainValidator(_choice(Policy))] = _AUTHENTICATION.policy
    trusted_sealers: Many[Annotated[Domain, PlainValidator(_domain)]] = _AUTHENTICATION.trusted_sealers
    timeout: Pause = _AUTHENTICATION.timeout
    lookups: Count = _AUTHENTICATION.lookups
    signatures: Count = _AUTHENTICATION.signatures
    signature_size: Size = _AUTHENTICATION.signature_size
    header_size: Size = _AUTHENTICATION.header_size
    header_lines: Count = _AUTHENTICATION.header_lines


class QueueTable(Table):
    retry: Some[Pause] = _QUEUE.retry
    lifetime: Duration = _QUEUE.lifetime
    max_size: Size = _QUEUE.max_size


class LimitsTable(Table):
    message_size: Size = _LIMITS.message_size
    recipients: Count = _LIMITS.recipients
    connections: Count = _LIMITS.connections
    connections_per_address: Count = _LIMITS.connections_per_address
    errors: Count = _LIMITS.errors
    auth_failures: Count = _LIMITS.auth_failures
    in_flight: Size = _LIMITS.in_flight
    timeout: Pause = _LIMITS.timeout


class TraceTable(Table):
    content: Duration = _TRACE.content
    events: Duration = _TRACE.events
    captures: Annotated[int, PlainValidator(_number(0))] = _TRACE.captures
    captured: Duration = _TRACE.captured


class LogTable(Table):
    format: Annotated[LogFormat, PlainValidator(_choice(LogFormat))] = LogFormat.CONSOLE


class Root(Table):
    """The whole file."""

    hostname: Annotated[Domain, PlainValidator(_hostname)] | None = None
    state: Path | None = None
    domains: Many[Annotated[Domain, PlainValidator(_domain)]] = ()
    default: TargetTable = TargetTable(mode=Mode.CAPTURE)
    docker_mailserver: DockerMailserverTable | None = None
    accounts: AccountsTable = AccountsTable()
    aliases: AliasesTable = AliasesTable()
    listener: dict[Name, ListenerTable] = {}
    endpoint: dict[Name, EndpointTable] = {}
    route: Many[RouteTable] = ()
    resolver: ResolverTable = ResolverTable()
    authentication: AuthenticationTable = AuthenticationTable()
    arc: ArcTable = ArcTable()
    dkim: DkimTable = DkimTable()
    srs: SrsTable | None = None
    queue: QueueTable = QueueTable()
    limits: LimitsTable = LimitsTable()
    trace: TraceTable = TraceTable()
    log: LogTable = LogTable()


def known_keys(location: tuple[str | int, ...], model: type[BaseModel] = Root) -> tuple[str, ...]:
    """The keys that the table at `location` of a file may have."""
    at: Any = model
    for part in location:
        if isinstance(at, type) and issubclass(at, BaseModel):
            at = next(each.annotation for name, each in at.model_fields.items() if (each.alias or name) == part)
        else:
            at = get_args(at)[0 if isinstance(part, int) else 1]  # a list's items, or a dict's values
        while get_origin(at) in (Union, UnionType, Annotated):  # a table or None; a list and its bounds
            at = get_args(at)[0]
    return tuple(each.alias or name for name, each in at.model_fields.items())
