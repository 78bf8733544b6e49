"""The wire: commands, replies and the DATA phase as values and octets, for both sides. No I/O.

Octets go in by `feed`, in pieces cut anywhere; lines, replies and content come out, the same however they were cut.
What a peer sends is taken, or refused by the one error, WireError, which carries the reply that says what to do
instead. Everything is bounded, and after a refusal both sides still agree where the next command begins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from smtproute.core.address import Address, AddressError, Domain
from smtproute.core.reply import Reply
from smtproute.core.settings import BareNewline
from smtproute.core.transcript import legible

__all__ = [
    "MAX_COMMAND",
    "MAX_RESPONSE",
    "SECRET",
    "SYNTAX",
    "Auth",
    "ClientGone",
    "Command",
    "CommandLines",
    "Content",
    "ContentRefused",
    "Data",
    "Ehlo",
    "Expn",
    "Helo",
    "Help",
    "Mail",
    "Noop",
    "Quit",
    "Rcpt",
    "Replies",
    "Rset",
    "Starttls",
    "Verb",
    "Vrfy",
    "WireError",
    "concealed",
    "parse_command",
    "secretive",
    "stuff",
]

MAX_COMMAND = 2048
"""Octets of a command with its CRLF. RFC 5321 4.5.3.1.4 says 512; each extension adds its parameters to that."""
MAX_RESPONSE = 12_288
"""Octets of a line inside an AUTH exchange with its CRLF (RFC 4954 4)."""
MAX_REPLY_LINE = 4096
"""Octets of a reply line that we read. RFC 5321 4.5.3.1.5 says 512; servers that explain themselves say more."""
MAX_REPLY_LINES = 512

_END = b"\r\n.\r\n"
_COMMAND_TOO_LONG = Reply(500, "5.5.2", f"The line is too long: a command has at most {MAX_COMMAND} octets")
_RESPONSE_TOO_LONG = Reply(500, "5.5.6", f"The response is too long: it has at most {MAX_RESPONSE} octets")


class WireError(ValueError):
    """What the peer sent is malformed. `reply` says how, and what to do instead; after a 421 the session closes."""

    def __init__(self, code: int, enhanced: str, text: str, line: bytes = b"") -> None:
        super().__init__(text)
        self.reply = Reply(code, enhanced, text)
        self.line = line
        """The line as received, where it could not be given out as one and was short enough to keep."""


class ContentRefused(Exception):
    """The content that just ended cannot be taken: bare newlines, NUL, too large. `reply` goes to the client."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


class ClientGone(Exception):
    """The client hung up or fell silent, in the middle of its content perhaps: whoever reads that lets this pass."""


class Verb(StrEnum):
    """The commands that are spoken here, in the order in which HELP lists them."""

    EHLO = "EHLO"
    HELO = "HELO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    RSET = "RSET"
    VRFY = "VRFY"
    EXPN = "EXPN"
    NOOP = "NOOP"
    HELP = "HELP"
    QUIT = "QUIT"


SYNTAX = {
    Verb.EHLO: "EHLO your.host.name",
    Verb.HELO: "HELO your.host.name",
    Verb.STARTTLS: "STARTTLS",
    Verb.AUTH: "AUTH PLAIN|LOGIN [initial-response]",
    Verb.MAIL: "MAIL FROM:<address> [SIZE=octets] [BODY=7BIT|8BITMIME] [SMTPUTF8]",
    Verb.RCPT: "RCPT TO:<address>",
    Verb.DATA: "DATA, then the message, then a line with a single dot",
    Verb.RSET: "RSET",
    Verb.VRFY: "VRFY address",
    Verb.EXPN: "EXPN address",
    Verb.NOOP: "NOOP",
    Verb.HELP: "HELP [verb]",
    Verb.QUIT: "QUIT",
}


@dataclass(frozen=True, slots=True)
class Ehlo:
    host: str


@dataclass(frozen=True, slots=True)
class Helo:
    host: str


@dataclass(frozen=True, slots=True)
class Starttls:
    pass


@dataclass(frozen=True, slots=True)
class Auth:
    mechanism: str
    """In upper case; whether it is one of ours is not looked at."""
    initial: str | None = field(default=None, repr=False)
    """The initial response as it was sent, in base64; "=" is an empty one."""


@dataclass(frozen=True, slots=True)
class Mail:
    reverse_path: Address | None
    """None is `<>`."""
    size: int | None = None
    """Octets (RFC 1870)."""
    eight_bit: bool = False
    smtputf8: bool = False


@dataclass(frozen=True, slots=True)
class Rcpt:
    recipient: Address | None
    """None is `<Postmaster>` without a domain (RFC 5321 4.5.1)."""


@dataclass(frozen=True, slots=True)
class Data:
    pass


@dataclass(frozen=True, slots=True)
class Rset:
    pass


@dataclass(frozen=True, slots=True)
class Vrfy:
    address: Address


@dataclass(frozen=True, slots=True)
class Expn:
    address: Address


@dataclass(frozen=True, slots=True)
class Noop:
    pass


@dataclass(frozen=True, slots=True)
class Help:
    topic: Verb | None


@dataclass(frozen=True, slots=True)
class Quit:
    pass


Command = Ehlo | Helo | Starttls | Auth | Mail | Rcpt | Data | Rset | Vrfy | Expn | Noop | Help | Quit

_NOT_HERE = {
    "BDAT": "no CHUNKING here: send DATA",
    "ETRN": "the queue here is run by its operator",
    "LHLO": "this is SMTP, not LMTP: send EHLO",
    "SAML": "send MAIL",
    "SEND": "send MAIL",
    "SOML": "send MAIL",
    "TURN": "connect the other way round",
}
"""Verbs that belong to SMTP and are not offered (502, RFC 5321 4.2.4), and what to do instead."""

_HTTP = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PRI", "PUT", "TRACE"})

_HOST = re.compile(r"[!#-'*+\-./0-:=?-\[\]-~]{1,255}")
"""Printable, without what would open a comment or a second field in a Received header: `( ) < > ; , " \\`."""
_PATH = re.compile(r'<((?:"(?:[^"\\]|\\.)*+"|[^">])*+)>')
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([^\x00-\x20\x7f]+))?")
_AUTH = re.compile(r"([A-Za-z0-9_-]{1,20})(?: +([!-~]+))?")
_XTEXT = r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})"
_IGNORED = {
    ("MAIL", "RET"): re.compile(r"FULL|HDRS", re.IGNORECASE),
    ("MAIL", "ENVID"): re.compile(rf"{_XTEXT}{{1,100}}"),
    ("MAIL", "AUTH"): re.compile(rf"<>|{_XTEXT}+"),
    ("RCPT", "NOTIFY"): re.compile(r"NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY))*", re.IGNORECASE),
    ("RCPT", "ORCPT"): re.compile(r"[A-Za-z0-9-]+;[^\x00-\x20\x7f]+"),
}
"""Parameters that are taken though not offered, and not acted upon: DSN (RFC 3461 4), AUTH= (RFC 4954 5)."""


def parse_command(line: bytes, *, smtputf8: bool = False) -> Command:
    """The command in a line without its CRLF; `smtputf8`: the open transaction has it, so RCPT may be non-ASCII.

    More lenient than RFC 5321 4.1.1 only where Postfix is: spaces after the colon of MAIL and RCPT and at the end
    of a line. Raises WireError.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise WireError(500, "5.5.2", "The command is neither ASCII nor UTF-8") from None
    word, _, argument = text.partition(" ")
    argument = argument.strip(" ")
    word = word.upper()
    if word not in Verb.__members__:
        raise _unknown(word)
    verb = Verb(word)
    match verb:
        case Verb.EHLO:
            return Ehlo(_host(verb, argument))
        case Verb.HELO:
            return Helo(_host(verb, argument))
        case Verb.AUTH:
            return _auth(argument)
        case Verb.MAIL:
            return _mail(argument)
        case Verb.RCPT:
            return _rcpt(argument, smtputf8)
        case Verb.VRFY:
            return Vrfy(_verified(verb, argument))
        case Verb.EXPN:
            return Expn(_verified(verb, argument))
        case Verb.NOOP:
            return Noop()
        case Verb.HELP:
            topic = argument.upper()
            if topic and topic not in Verb.__members__:
                raise WireError(504, "5.5.4", f"There is no {_shown(topic)} here: HELP lists the verbs")
            return Help(Verb(topic) if topic else None)
        case Verb.STARTTLS | Verb.DATA | Verb.RSET | Verb.QUIT:
            if argument:
                raise WireError(501, "5.5.4", f"{verb} takes no parameters: send {verb} alone")
            return _BARE[verb]


_BARE: dict[Verb, Command] = {
    Verb.STARTTLS: Starttls(),
    Verb.DATA: Data(),
    Verb.RSET: Rset(),
    Verb.QUIT: Quit(),
}


def _unknown(word: str) -> WireError:
    if word in _HTTP:
        return WireError(421, "4.7.0", "This is an SMTP server, not HTTP")
    if word in _NOT_HERE:
        return WireError(502, "5.5.1", f"{word} is not offered: {_NOT_HERE[word]}")
    if word.startswith(Verb.AUTH):
        return WireError(500, "5.5.2", f"Syntax: {SYNTAX[Verb.AUTH]}")  # the word may hold a password
    if not word:
        return WireError(500, "5.5.2", "An empty line is no command: HELP lists the verbs")
    return WireError(500, "5.5.2", f"There is no command {_shown(word)}: HELP lists the verbs")


def _host(verb: Verb, argument: str) -> str:
    if _HOST.fullmatch(argument) is None:
        raise WireError(501, "5.5.4", f"Name your host: {SYNTAX[verb]}")
    return argument


def _auth(argument: str) -> Auth:
    found = _AUTH.fullmatch(argument)
    if found is None:
        raise WireError(501, "5.5.4", f"Syntax: {SYNTAX[Verb.AUTH]}")
    return Auth(found[1].upper(), found[2])


def _mail(argument: str) -> Mail:
    path, given = _path(Verb.MAIL, "FROM:", "5.1.7", argument)
    size: int | None = None
    eight_bit = smtputf8 = False
    for name, value in given.items():
        match name, value.upper():
            case "SIZE", number if number.isascii() and number.isdigit() and len(number) <= 20:
                size = int(number)
            case "BODY", "7BIT" | "8BITMIME" as body:
                eight_bit = body == "8BITMIME"
            case "SMTPUTF8", "":
                smtputf8 = True
            case "SIZE" | "BODY" | "SMTPUTF8", _:
                raise WireError(501, "5.5.4", f"{name} is malformed: {SYNTAX[Verb.MAIL]}")
            case _:
                _ignore(Verb.MAIL, name, value)
    return Mail(_mailbox("5.1.7", path, smtputf8) if path else None, size, eight_bit, smtputf8)


def _rcpt(argument: str, smtputf8: bool) -> Rcpt:
    path, given = _path(Verb.RCPT, "TO:", "5.1.3", argument)
    for name, value in given.items():
        _ignore(Verb.RCPT, name, value)
    if not path:
        raise WireError(501, "5.1.3", "The empty address is for senders only: RCPT TO:<address>")
    if path.lower() == "postmaster":
        return Rcpt(None)
    return Rcpt(_mailbox("5.1.3", path, smtputf8))


def _path(verb: Verb, keyword: str, enhanced: str, argument: str) -> tuple[str, dict[str, str]]:
    """What is between `<` and `>`, and the parameters after it, their names in upper case."""
    if argument[: len(keyword)].upper() != keyword:
        raise WireError(501, "5.5.4", f"Syntax: {SYNTAX[verb]}")
    rest = argument[len(keyword) :].lstrip(" ")
    if not rest.startswith("<"):
        raise WireError(501, enhanced, f"Put the address in angle brackets: {verb} {keyword}<address>")
    found = _PATH.match(rest)
    if found is None:
        raise WireError(501, enhanced, f"The closing > or a quote is missing: {verb} {keyword}<address>")
    tail = rest[found.end() :]
    if tail and not tail.startswith(" "):
        raise WireError(501, "5.5.4", f"After > comes a space, then parameters: {SYNTAX[verb]}")
    given: dict[str, str] = {}
    for parameter in tail.split(" "):
        if not parameter:
            continue
        matched = _PARAMETER.fullmatch(parameter)
        if matched is None:
            raise WireError(501, "5.5.4", f"The parameter {_shown(parameter)} is malformed: {SYNTAX[verb]}")
        name = matched[1].upper()
        if name in given:
            raise WireError(501, "5.5.4", f"The parameter {name} is given twice")
        given[name] = matched[2] or ""
    return found[1], given


def _ignore(verb: Verb, name: str, value: str) -> None:
    syntax = _IGNORED.get((verb.value, name))
    if syntax is None:
        raise WireError(555, "5.5.4", f"The parameter {_shown(name)} is not known here: {SYNTAX[verb]}")
    if syntax.fullmatch(value) is None:
        raise WireError(501, "5.5.4", f"The value of {name} is malformed")


def _mailbox(enhanced: str, path: str, smtputf8: bool) -> Address:
    """The mailbox of a path; a source route before it is checked and dropped (RFC 5321 4.1.1.3, C)."""
    if not smtputf8 and not path.isascii():
        raise WireError(553, "5.6.7", "The address is not ASCII: give the parameter SMTPUTF8 at MAIL")
    try:
        if path.startswith("@"):
            route, colon, path = path.partition(":")
            for hop in route.split(","):
                if not colon or not hop.startswith("@"):
                    raise AddressError("its source route is malformed")
                Domain.parse(hop[1:])
        return Address.parse(path)
    except AddressError as error:
        why = str(error).encode("ascii", "backslashreplace").decode("ascii")
        raise WireError(501, enhanced, f"Bad address: {why[:400]}") from None


def _verified(verb: Verb, argument: str) -> Address:
    """VRFY and EXPN take the address with or without brackets, and SMTPUTF8 after it (RFC 6531 3.7.4.2)."""
    text = re.sub(r" +SMTPUTF8$", "", argument, flags=re.IGNORECASE)
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1]
    if "@" not in text:
        raise WireError(501, "5.1.3", f"Give a whole address: {verb} user@domain")
    return _mailbox("5.1.3", text, smtputf8=True)


def _shown(text: str) -> str:
    """What the peer wrote, safe and short enough to be said back."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")


SECRET = "[credentials]"
"""What is written down instead of them."""

_MECHANISM = re.compile(
    rb"(AUTH (?:CRAM-MD5|DIGEST-MD5|EXTERNAL|GSSAPI|LOGIN|NTLM|OAUTHBEARER|PLAIN|SCRAM-SHA-(?:1|256)|XOAUTH2))(?: .*)?",
    re.IGNORECASE | re.DOTALL,
)


def secretive(line: bytes) -> bool:
    """Whether the line begins like AUTH, well written or not: it may hold a password."""
    return line.lstrip()[:4].upper() == b"AUTH"


def concealed(line: bytes) -> bytes:
    """The line as it may be written down: of what is `secretive` only the mechanism stays.

    What stands where a mechanism should may be the password itself, so that only names of mechanisms are kept.
    """
    if not secretive(line):
        return line
    found = _MECHANISM.fullmatch(line)
    kept = found[1] if found is not None else line.lstrip()[:4]
    return line if len(kept) == len(line) else kept + b" " + SECRET.encode()


class CommandLines:
    """Octets in, command lines out. A malformed line is consumed and raised as WireError: one line, one answer."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._overlong = False

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> bytes | None:
        """The next line without its CRLF; None until more is fed. Raises WireError."""
        return self._next(MAX_COMMAND, _COMMAND_TOO_LONG)

    def response(self) -> bytes | None:
        """The same inside an AUTH exchange, where lines may be longer (RFC 4954 4). Raises WireError."""
        return self._next(MAX_RESPONSE, _RESPONSE_TOO_LONG)

    def _next(self, limit: int, too_long: Reply) -> bytes | None:
        buffer = self._buffer
        if buffer.startswith(b"\x16\x03") and not self._overlong:
            buffer.clear()
            raise WireError(421, "4.7.0", "This port begins in plain text: do not start with TLS, send STARTTLS")
        end = buffer.find(b"\n", self._searched)
        if end < 0:
            if len(buffer) > limit:
                self._overlong = True
                buffer.clear()
            self._searched = len(buffer)
            return None
        line = bytes(buffer[: end + 1])
        del buffer[: end + 1]
        self._searched = 0
        if self._overlong or len(line) > limit:
            self._overlong = False
            raise WireError(too_long.code, too_long.enhanced, too_long.text)
        if not line.endswith(b"\r\n"):
            why = "The line ends in a lone LF: end lines with CRLF: telnet does, nc needs -C"
        elif line.count(b"\r") > 1:
            why = "There is a lone CR inside the line: end lines with CRLF"
        elif b"\0" in line:
            why = "There is a NUL inside the line: leave it out"
        else:
            return line[:-2]
        raise WireError(500, "5.5.2", why, line.rstrip(b"\r\n"))

    def take(self) -> bytes:
        """All that is buffered, which is then no command: content after DATA, plain text before TLS."""
        data = bytes(self._buffer)
        self._buffer.clear()
        self._searched = 0
        return data


class Content:
    """The DATA phase as received (RFC 5321 4.5.2): octets in, the message's octets out, dots unstuffed.

    Only CRLF.CRLF as it stands on the wire ends it. A NUL, more than `limit` octets, and, unless they are
    normalised, a bare CR or LF make it refused: it is then read past up to its real end. With `NORMALIZE` each bare
    CR or LF becomes CRLF before dots are looked for, as if the client had sent it so (Postfix
    smtpd_forbid_bare_newline = normalize); still it ends nothing.
    """

    def __init__(self, limit: int, bare_newline: BareNewline = BareNewline.REFUSE) -> None:
        self.size = 0
        """Octets of the message so far, those not given out included."""
        self.done = False
        self.leftover = b""
        """What came after the end: the next commands."""
        self._limit = limit
        self._normalize = bare_newline is BareNewline.NORMALIZE
        self._held = b"\r\n"
        """Octets that may turn out to belong to the end. At first a line end that nobody sent: the first line may
        be the dot already. `_unsent` takes it out again."""
        self._unsent = 2
        self._bare = False
        self._nul = False

    @property
    def refusal(self) -> Reply | None:
        """Why the message cannot be taken; None while it can. Final when `done`."""
        if self._bare:
            return Reply(554, "5.6.0", "The message has a lone CR or LF: end every line with CRLF and send it again")
        if self._nul:
            return Reply(554, "5.6.0", "The message has a NUL: take it out, or send it base64-encoded")
        if self.size > self._limit:
            return Reply(552, "5.3.4", f"The message is larger than {self._limit} octets: send less")
        return None

    def feed(self, data: bytes) -> bytes:
        """More octets from the wire in; the octets of the message that are certain now out, none once refused."""
        data = self._held + data if self._held else data
        end = data.find(_END)
        if end >= 0:
            self.done = True
            self.leftover = data[end + len(_END) :]
            self._held = b""
            piece = data[: end + 2]
        else:
            keep = self._undecided(data)
            piece, self._held = data[: len(data) - keep], data[len(data) - keep :]
        if not piece:
            return b""
        lines = piece.count(b"\r\n")
        if piece.count(b"\n") != lines or piece.count(b"\r") != lines:
            if self._normalize:
                piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
            else:
                self._bare = True
        if b"\0" in piece:
            self._nul = True
        piece = piece.replace(b"\r\n.", b"\r\n")
        if self._unsent:
            piece, self._unsent = piece[self._unsent :], 0
        self.size += len(piece)
        return b"" if self.refusal else piece

    def _undecided(self, data: bytes) -> int:
        """How many octets at the end mean something else once more have come."""
        for keep in (4, 3, 2, 1):
            if data.endswith(_END[:keep]):
                return keep
        return 1 if self._normalize and data.endswith(b"\n") else 0


class Replies:
    """A server's replies (RFC 5321 4.2.1): octets in, Reply values out.

    Lenient in what harms nobody: a line may end in a lone LF; octets that are no UTF-8 become backslash escapes, and
    so does what is not `legible`. After a WireError the two sides are out of step and the connection is of no use.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._code = 0
        self._lines: list[str] = []

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> Reply | None:
        """The next whole reply; None until more is fed. Raises WireError."""
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if (len(self._buffer) if end < 0 else end) > MAX_REPLY_LINE:
                raise self._malformed("a line is too long")
            if end < 0:
                self._searched = len(self._buffer)
                return None
            line = bytes(self._buffer[:end]).removesuffix(b"\r")
            del self._buffer[: end + 1]
            self._searched = 0
            reply = self._line(line)
            if reply is not None:
                return reply

    def _line(self, line: bytes) -> Reply | None:
        found = _REPLY.fullmatch(line)
        if found is None:
            shown = _shown(line[:60].decode("latin-1"))
            raise self._malformed(f"{shown} does not begin with a code")
        code = int(found[1])
        if self._lines and code != self._code:
            raise self._malformed(f"its lines have the codes {self._code} and {code}")
        if len(self._lines) == MAX_REPLY_LINES:
            raise self._malformed("it has too many lines")
        self._code = code
        self._lines.append(legible((found[3] or b"").decode("utf-8", "backslashreplace")))
        if found[2] == b"-":
            return None
        lines, self._lines = self._lines, []
        return _reply(code, lines)

    @staticmethod
    def _malformed(why: str) -> WireError:
        return WireError(451, "4.5.0", f"The server's reply is malformed: {why}")


_REPLY = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?", re.DOTALL)
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?: |$)", re.ASCII)


def _reply(code: int, lines: list[str]) -> Reply:
    """Splits off the enhanced code of the first line (RFC 2034 4) if its class is that of the code (RFC 3463 2)."""
    found = _ENHANCED.match(lines[0])
    if found is None or found[1][0] != str(code)[0]:
        return Reply(code, "", "\n".join(lines))
    enhanced = found[1]
    texts = [
        line.removeprefix(enhanced).removeprefix(" ") if line.split(" ", 1)[0] == enhanced else line for line in lines
    ]
    return Reply(code, enhanced, "\n".join(texts))


def stuff(content: bytes) -> bytes:
    """The exact octets of the DATA phase: dots stuffed, a last CRLF if it is missing, then the end (RFC 5321 4.5.2).

    `content` has no bare CR or LF: the Door let none in.
    """
    body = content.replace(b"\r\n.", b"\r\n..")
    first = b"." if body.startswith(b".") else b""
    last = b"" if not body or body.endswith(b"\r\n") else b"\r\n"
    return b"".join((first, body, last, b".\r\n"))
