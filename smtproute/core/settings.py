"""The frozen values that rooms are built from, and every enum of the vocabulary, once.

Sizes are octets, durations seconds, files absolute paths as text. `config` makes these values from TOML; nothing
here reads anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network

from smtproute.core.address import Domain
from smtproute.core.reply import Refusal

__all__ = [
    "Accounts",
    "Arc",
    "Auth",
    "AuthInClear",
    "Authentication",
    "Balance",
    "BareNewline",
    "Discover",
    "Dkim",
    "DomainKey",
    "Endpoint",
    "EndpointTls",
    "Family",
    "Kind",
    "Limits",
    "Listener",
    "ListenerTls",
    "Log",
    "LogFormat",
    "Mode",
    "Network",
    "OverQuota",
    "Policy",
    "Queue",
    "ReplyAfter",
    "Resolver",
    "Role",
    "Server",
    "Settings",
    "SignBy",
    "Source",
    "Srs",
    "Store",
    "Trace",
]

Network = IPv4Network | IPv6Network


class Role(StrEnum):
    """What a listener is for; it decides who may send where."""

    INBOUND = "inbound"
    SUBMISSION = "submission"
    TRUSTED = "trusted"


class Mode(StrEnum):
    """What a route, or the default, does with a recipient."""

    ENDPOINT = "endpoint"
    CAPTURE = "capture"
    HOLD = "hold"
    """Queued until an operator releases it; then to the endpoint, or captured where none is named."""
    BOUNCE = "bounce"
    """Accepted, and then the sender is told that it was not delivered."""
    REJECT = "reject"


class Kind(StrEnum):
    """What a delivery is."""

    MAILBOX = "mailbox"
    ENDPOINT = "endpoint"
    CAPTURE = "capture"
    BOUNCE = "bounce"
    """A dead branch, or a route with `Mode.BOUNCE`: it fails at dispatch, and the sender is told."""


class ListenerTls(StrEnum):
    NONE = "none"
    STARTTLS = "starttls"
    IMPLICIT = "implicit"


class EndpointTls(StrEnum):
    NEVER = "never"
    PREFER = "prefer"
    """STARTTLS where offered, the certificate not checked; plain text otherwise, and said so."""
    REQUIRE = "require"
    IMPLICIT = "implicit"


class Discover(StrEnum):
    A = "a"
    """The servers' own addresses."""
    MX = "mx"
    """The MX of each server's name; an IP address, or a domain without MX, stands for itself."""
    RECIPIENT = "recipient"
    """The MX of the recipient's domain."""


class Balance(StrEnum):
    """Which of an endpoint's servers comes first."""

    FAILOVER = "failover"
    """The first in the order of the configuration; the others while it does not answer."""
    ROUND_ROBIN = "round-robin"
    """Each in turn, and each address of a server in turn; the others while it does not answer."""


class Family(StrEnum):
    """Which addresses of a server are used."""

    ANY = "any"
    """All: IPv4 first, which every network has."""
    IPV4 = "ipv4"
    IPV6 = "ipv6"


class Store(StrEnum):
    """How a copy gets into a mailbox."""

    MAILDIR = "maildir"
    LMTP = "lmtp"


class OverQuota(StrEnum):
    """What RCPT answers where every mailbox is full: a refusal for good, or for now."""

    REJECT = "reject"
    DEFER = "defer"


class Auth(StrEnum):
    """Whose logins a listener takes."""

    ACCOUNTS = "accounts"
    """Those of accounts, by submission alone."""
    ANY = "any"
    """Every name with every password, with or without TLS: it proves nothing, so that `trusted_networks` decides who
    may connect, and nobody may do more for having logged in."""


class AuthInClear(StrEnum):
    """Who may log in without TLS."""

    NEVER = "never"
    LOOPBACK = "loopback"


class ReplyAfter(StrEnum):
    """When the client hears what became of its message."""

    QUEUED = "queued"
    """Once it is on disk."""
    DELIVERED = "delivered"
    """Once every copy was tried: the next hop's own answer."""


class BareNewline(StrEnum):
    REFUSE = "refuse"
    NORMALIZE = "normalize"


class Source(StrEnum):
    """Where an address of a host name comes from."""

    STATIC = "static"
    HOSTS = "hosts"
    DNS = "dns"
    WRITTEN = "written"
    """The name is the address: docker-mailserver's relay files may have one."""


class SignBy(StrEnum):
    """Whose domain seals a forwarded copy."""

    RECIPIENT = "recipient"
    SENDER = "sender"
    DOMAIN = "domain"
    OFF = "off"


class Policy(StrEnum):
    """What becomes of mail that the domain of its author disowns (DMARC)."""

    OBSERVE = "observe"
    """Its verdicts are recorded, and it goes where it would."""
    ENFORCE = "enforce"
    """It is refused at DATA, or set aside, as that domain asks."""


class LogFormat(StrEnum):
    CONSOLE = "console"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Listener:
    name: str
    host: str = "127.0.0.1"
    port: int = 2525
    role: Role = Role.TRUSTED
    tls: ListenerTls = ListenerTls.NONE
    certificate: str = ""
    key: str = ""
    trusted_networks: tuple[Network, ...] = ()
    bare_newline: BareNewline = BareNewline.REFUSE
    debug: bool = False
    seal: bool = False
    auth: Auth = Auth.ACCOUNTS
    auth_in_clear: AuthInClear = AuthInClear.NEVER
    reply: ReplyAfter = ReplyAfter.QUEUED
    proxy_timeout: float = 30.0
    """With `ReplyAfter.DELIVERED`: how long the client waits for the next hops; then the message is queued."""


@dataclass(frozen=True, slots=True)
class Server:
    """One host name of an endpoint, and its port.

    Of docker-mailserver's relays it may be an IP address; of the mailboxes' LMTP server the path of a UNIX socket.
    """

    host: str
    port: int = 25

    @property
    def socket(self) -> bool:
        """Whether it is a UNIX socket; the port then says nothing."""
        return self.host.startswith("/")

    def __str__(self) -> str:
        if self.socket:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    name: str
    servers: tuple[Server, ...] = ()
    backup: tuple[Server, ...] = ()
    discover: Discover = Discover.A
    balance: Balance = Balance.FAILOVER
    family: Family = Family.ANY
    tls: EndpointTls = EndpointTls.PREFER
    ca_file: str = ""
    verify: bool = True
    tls_name: str = ""
    """The name that the certificate must be good for, and the server name asked for; empty: the host name."""
    certificate: str = ""
    """File of the client certificate that we show, with its chain; empty: none."""
    key: str = ""
    """File of its private key."""
    max_connections: int = 10
    max_messages: int = 1000
    """On one connection; then a new one, so that load balancers and DNS changes get their say."""
    rate: float = 0.0
    """Messages a second; 0: as many as there are."""
    seal: bool = True
    username: str = ""
    """Whom to log in as (SMTP AUTH); empty: not at all."""
    password: str = field(default="", repr=False)
    lmtp: bool = False
    """Speaks LMTP (RFC 2033), which answers for each recipient: the mailboxes' server, never one of the file's."""
    relay: bool = False
    """Stands for a relay of docker-mailserver's files (`core.relays`), not for a table of the configuration file."""
    fault: Refusal | None = None
    """Why its mail waits and no server is asked: what docker-mailserver's files say of the relay cannot be used."""


@dataclass(frozen=True, slots=True)
class Accounts:
    maildir: str
    """Root of the mailboxes: `<maildir>/<domain>/<user>/`."""
    store: Store = Store.MAILDIR
    lmtp: Server | None = None
    """With `Store.LMTP`: where it listens."""


@dataclass(frozen=True, slots=True)
class Resolver:
    order: tuple[Source, ...] = (Source.STATIC, Source.HOSTS, Source.DNS)
    static: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Lower-case host name to IP addresses."""
    hosts_file: str = "/etc/hosts"
    servers: tuple[str, ...] = ()
    """IP addresses, each with an optional `:port` (`[v6]:port`); empty: the system's."""
    watch: float = 30.0
    """Seconds between two looks at the names of endpoints; 0: they are looked up for mail only."""
    stale: float = 3600.0
    """How long the last good answer of DNS is kept in use while DNS fails."""


@dataclass(frozen=True, slots=True)
class DomainKey:
    """What a domain signs or seals with: the private key in `file`, its public half at `<selector>._domainkey.`"""

    domain: Domain
    selector: str
    file: str


@dataclass(frozen=True, slots=True)
class Arc:
    sign: SignBy = SignBy.OFF
    domain: Domain | None = None
    """With `SignBy.DOMAIN`."""
    keys: Mapping[str, DomainKey] = field(default_factory=dict)
    """By Domain.key."""
    others: tuple[DomainKey, ...] = ()
    """Keys of a rotation, before or after: loaded and checked like `keys`, they seal nothing."""
    inbound: bool = True
    """Whether mail of strangers is sealed. This and what follows are the options of rspamd's arc.conf."""
    local: bool = False
    """Whether mail of trusted clients is sealed wherever it comes in, not only where the listener says so."""
    authenticated: bool = False
    """The same of mail of those who have logged in."""
    null_sender: bool = True
    """Whether mail of the null reverse-path is sealed."""
    username_mismatch: bool = True
    """Whether mail of a login may be sealed in the name of another domain than the login's."""
    author_mismatch: bool = True
    """Whether mail is sealed whose From is of another domain than its reverse-path: a forward often is."""
    parents: bool = False
    """Whether a domain without a key is sealed for by its nearest parent that has one (use_esld)."""

    @property
    def by_author(self) -> bool:
        """Whether the header From has a say in what is sealed."""
        return self.sign is SignBy.SENDER or not self.author_mismatch


@dataclass(frozen=True, slots=True)
class Dkim:
    """DKIM signing (RFC 6376) of what our own people send."""

    keys: Mapping[str, tuple[DomainKey, ...]] = field(default_factory=dict)
    """By Domain.key: every one of them signs, an RSA key and an Ed25519 key side by side (RFC 8463 3)."""
    local: bool = True
    """Whether mail of trusted clients is signed. This and what follows are options of rspamd's dkim_signing.conf."""
    authenticated: bool = True
    """Whether mail of those who have logged in is signed."""
    null_sender: bool = True
    """Whether mail of the null reverse-path is signed."""
    username_mismatch: bool = True
    """Whether mail of a login may be signed in the name of another domain than the login's."""
    author_mismatch: bool = True
    """Whether mail is signed whose From is of another domain than its reverse-path."""
    parents: bool = False
    """Whether a domain without a key is signed for by its nearest parent that has one (use_esld)."""


@dataclass(frozen=True, slots=True)
class Srs:
    """The Sender Rewriting Scheme, as postsrsd(8) does it."""

    domain: Domain | None = None
    """Where rewritten senders are; None: nothing is rewritten."""
    secret_file: str = ""
    """A secret a line. Without it (docker-mailserver's SRS_SECRET) `secrets` are all there is."""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """The first signs, all of them verify. Empty until `app` has read or made `secret_file`."""
    exclude: tuple[str, ...] = ()
    """Domains whose senders are left alone, in lower case; `.example.org` stands for what is below it."""


@dataclass(frozen=True, slots=True)
class Authentication:
    """What is judged about mail of inbound listeners, and what follows from it."""

    spf: bool = True
    dkim: bool = True
    dmarc: bool = True
    arc: bool = True
    policy: Policy = Policy.OBSERVE
    trusted_sealers: tuple[Domain, ...] = ()
    """Whose seals (ARC) may vouch for mail that fails DMARC."""
    timeout: float = 10.0
    """Seconds that all look-ups for one message may take together."""
    lookups: int = 200
    """DNS questions that one message may cause."""
    signatures: int = 20
    """DKIM signatures of one message that are verified."""
    signature_size: int = 16 * 1024
    """Octets of one DKIM-Signature, ARC-Seal or ARC-Message-Signature; a real one has about one thousand."""
    header_size: int = 256 * 1024
    """Octets of a header section that is looked into."""
    header_lines: int = 10_000
    """Lines of it."""


@dataclass(frozen=True, slots=True)
class Queue:
    retry: tuple[float, ...] = (60.0, 300.0, 900.0, 1800.0, 3600.0)
    """Pauses between attempts; the last one repeats."""
    lifetime: float = 5 * 86400.0
    max_size: int = 10_000_000_000
    """Octets of unfinished mail; beyond it 452 4.3.1."""


@dataclass(frozen=True, slots=True)
class Limits:
    message_size: int = 25_000_000
    recipients: int = 1000
    """Of one transaction (RFC 5321 4.5.3.1.8 wants 100 at least)."""
    connections: int = 1000
    connections_per_address: int = 50
    errors: int = 20
    """Refused commands in one session before 421 (Postfix smtpd_hard_error_limit)."""
    auth_failures: int = 3
    """Failed logins in one session before 421."""
    in_flight: int = 200_000_000
    """Octets of message content held in memory over all sessions; beyond it 452 4.3.1."""
    timeout: float = 300.0
    """How long a session waits for its client (RFC 5321 4.5.3.2.7)."""


@dataclass(frozen=True, slots=True)
class Trace:
    content: float = 86400.0
    """How long the content of finished mail is kept."""
    events: float = 14 * 86400.0
    captures: int = 10_000
    """How many captured messages are kept."""
    captured: float = 14 * 86400.0
    """How long a captured message is kept."""


@dataclass(frozen=True, slots=True)
class Log:
    format: LogFormat = LogFormat.CONSOLE


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything but the routing tables (`core.decide.Routing`)."""

    hostname: Domain
    state: str
    listeners: Mapping[str, Listener]
    endpoints: Mapping[str, Endpoint]
    accounts: Accounts
    resolver: Resolver = Resolver()
    arc: Arc = Arc()
    dkim: Dkim = Dkim()
    srs: Srs = Srs()
    authentication: Authentication = Authentication()
    queue: Queue = Queue()
    limits: Limits = Limits()
    trace: Trace = Trace()
    log: Log = Log()
