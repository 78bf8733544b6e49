"""A Postfix of the test's own, configured as docker-mailserver 15 configures it, that tells what became of a message.

Nothing leaves it: mail for virtual mailboxes and for elsewhere goes to discard(8), and what each recipient came to is
read from the log, which is a pipe, so that nobody waits for a file to grow.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HOST = "mail.oracle.test"
DOMAIN = "oracle.test"
STRANGER = "127.0.0.1"
FRIEND = "127.0.0.2"
"""In mynetworks: it may send anywhere."""
DEADLINE = 60.0
"""Seconds that one message may take to leave the queue."""
SESSIONS = 6


@dataclass(frozen=True)
class Files:
    """What docker-mailserver's scripts hand to Postfix, as text."""

    virtual: str = ""
    regexp: str | None = None
    aliases: str = ""
    vhost: str = ""
    vmailbox: str = ""
    more: str = ""
    """Lines for main.cf; `{config}` is the folder of `tables`."""
    tables: Mapping[str, str] = field(default_factory=dict)
    """Other tables, by file name."""


@dataclass(frozen=True)
class Asked:
    recipient: str
    client: str = STRANGER
    sender: str = ""
    login: str = ""
    """Who has logged in, as XCLIENT tells it."""


@dataclass(frozen=True)
class Became:
    """What became of one recipient."""

    code: int
    """The first reply that was not positive, else that after DATA."""
    text: str
    sent: tuple[tuple[str, str], ...] = ()
    """Final address and next hop: "virtual" for a mailbox."""
    bounced: tuple[str, ...] = ()
    deferred: tuple[str, ...] = ()
    """Given up after the first attempt; "" where the log does not say for whom."""


@dataclass
class _Message:
    """One queue file."""

    sent: list[tuple[str, str]] = field(default_factory=list)
    bounced: list[str] = field(default_factory=list)
    deferred: list[str] = field(default_factory=list)
    forwarded: list[str] = field(default_factory=list)
    removed: bool = False


_DELIVERY = re.compile(
    r": (?P<id>\w+): to=<(?P<to>.*?)>, (?:orig_to=<.*?>, )?relay=.*?, status=(?P<status>\w+) \((?P<text>.*)\)$"
)
_EXPIRED = re.compile(r"/qmgr\[\d+\]: (\w+): from=<.*>, status=expired, returned to sender$")
_REMOVED = re.compile(r"/qmgr\[\d+\]: (\w+): removed$")
_FORWARDED = re.compile(r"forwarded as (\w+)")


class Log:
    """The log, read from a pipe by a thread of its own."""

    def __init__(self, pipe: Path) -> None:
        os.mkfifo(pipe)
        # Both ends: the pipe has no end of file while postlogd comes and goes.
        self._end = os.open(pipe, os.O_RDWR)
        self._closing = False
        self._changed = threading.Condition()
        self._messages: dict[str, _Message] = defaultdict(_Message)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        rest = b""
        while not self._closing:
            octets = os.read(self._end, 65536)
            *lines, rest = (rest + octets).split(b"\n")
            with self._changed:
                for line in lines:
                    self._line(line.decode("utf-8", "replace"))
                self._changed.notify_all()

    def _line(self, line: str) -> None:
        self.lines.append(line)
        removed = _REMOVED.search(line)
        if removed is not None:
            self._messages[removed[1]].removed = True
        expired = _EXPIRED.search(line)
        if expired is not None:
            self._messages[expired[1]].deferred.append("")
        delivery = _DELIVERY.search(line)
        if delivery is None:
            return
        message, to, text = self._messages[delivery["id"]], delivery["to"], delivery["text"]
        match delivery["status"]:
            case "sent":
                forwarded = _FORWARDED.match(text)
                if forwarded is not None:
                    message.forwarded.append(forwarded[1])
                else:
                    message.sent.append((to, text))
            case "bounced":
                message.bounced.append(to)
            case "deferred":
                message.deferred.append(to)

    def started(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: any("daemon started" in line for line in self.lines), DEADLINE), (
                self.tail()
            )

    def became(self, queue_id: str, code: int, text: str) -> Became:
        """What became of an accepted message and of those that local(8) made of it."""
        sent: list[tuple[str, str]] = []
        bounced: list[str] = []
        deferred: list[str] = []
        waiting = [queue_id]
        with self._changed:
            while waiting:
                message = self._messages[waiting.pop()]
                assert self._changed.wait_for(lambda message=message: message.removed, DEADLINE), self.tail()
                sent += message.sent
                bounced += message.bounced
                deferred += message.deferred
                waiting += message.forwarded
        return Became(code, text, tuple(sent), tuple(bounced), tuple(deferred))

    def tail(self) -> str:
        return "\n".join(self.lines[-20:])

    def close(self) -> None:
        self._closing = True
        os.write(self._end, b"\n")
        self._reader.join()
        os.close(self._end)


class Postfix:
    def __init__(self, log: Log, address: tuple[str, int]) -> None:
        self.log = log
        self.address = address
        """Where it listens."""

    def ask(self, questions: Iterable[Asked]) -> list[Became]:
        """Sends a message for each, over several sessions at a time, and waits until all have left the queue."""
        asked = list(questions)
        shares = [asked[at::SESSIONS] for at in range(min(SESSIONS, len(asked)))]
        with ThreadPoolExecutor(SESSIONS) as pool:
            answered = list(pool.map(self._session, shares))
        became: list[Became] = []
        for number in range(len(asked)):
            code, text = answered[number % SESSIONS][number // SESSIONS]
            queued = re.search(r"queued as (\w+)", text)
            became.append(self.log.became(queued[1], code, text) if queued else Became(code, text))
        return became

    def _session(self, share: list[Asked]) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        dialogues: dict[tuple[str, str], Dialogue] = {}
        try:
            for each in share:
                who = each.client, each.login
                if who not in dialogues:
                    dialogues[who] = Dialogue(each.client, self.address, each.login)
                found.append(dialogues[who].send(each.sender, each.recipient))
        finally:
            for dialogue in dialogues.values():
                dialogue.close()
        return found


class Dialogue:
    """One SMTP session."""

    def __init__(self, client: str, server: tuple[str, int], login: str = "") -> None:
        self._socket = socket.create_connection(server, DEADLINE, (client, 0))
        self._file = self._socket.makefile("rb")
        self.reply()
        self.command("EHLO client.test")
        if login:
            code, text = self.command(f"XCLIENT LOGIN={login}")
            assert code == 220, text
            self.command("EHLO client.test")

    def reply(self) -> tuple[int, str]:
        while True:
            line = self._file.readline().decode()
            if line[3:4] != "-":
                return int(line[:3]), line[4:].strip()

    def command(self, line: str) -> tuple[int, str]:
        self._socket.sendall(line.encode() + b"\r\n")
        return self.reply()

    def send(self, sender: str, recipient: str) -> tuple[int, str]:
        """The first reply that is not positive, else that after DATA."""
        self._socket.sendall(f"MAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode())
        mail, rcpt, data = self.reply(), self.reply(), self.reply()
        if data[0] == 354:
            return self.command("Subject: x\r\n\r\n.")
        self.command("RSET")
        return next(reply for reply in (mail, rcpt, data) if reply[0] >= 400)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@contextmanager
def postfix(folder: Path, files: Files) -> Iterator[Postfix]:
    """A Postfix in `folder`, which its user must be able to reach; it has ended when this does."""
    owner, daemons = subprocess.run(
        ["/usr/sbin/postconf", "-dh", "mail_owner", "daemon_directory"], capture_output=True, text=True, check=True
    ).stdout.split()
    config, queue, data = folder / "config", folder / "queue", folder / "data"
    for made in (config, queue, data, folder / "mail"):
        made.mkdir(parents=True)
    shutil.chown(data, owner)
    (folder / "mail").chmod(0o1777)
    for name, mode in QUEUE_FOLDERS.items():
        (queue / name).mkdir()
        (queue / name).chmod(mode)
        if name != "pid":
            shutil.chown(queue / name, owner, "postdrop" if name in ("maildrop", "public") else None)
    tables = {"virtual": files.virtual, "aliases": files.aliases, "vhost": files.vhost, "vmailbox": files.vmailbox}
    tables |= files.tables
    if files.regexp is not None:
        tables["regexp"] = files.regexp
    for name, text in tables.items():
        (config / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    address = f"127.83.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"  # where nobody else takes the port meanwhile
    port = _free_port(address)
    patterns = f" pcre:{config}/regexp" if files.regexp is not None else ""
    main = MAIN.format(
        config=config, queue=queue, data=data, daemons=daemons, owner=owner, folder=folder, patterns=patterns
    )
    (config / "main.cf").write_text(_overridden(main, files.more.format(config=config)))
    (config / "master.cf").write_text(f"{address}:{port} inet n - n - {SESSIONS * 2} smtpd\n{SERVICES}")
    for written in config.iterdir():
        os.utime(written, (0, 0))  # Postfix waits for files of this second to cool down
    subprocess.run(["/usr/sbin/postalias", "-c", config, f"hash:{config}/aliases"], check=True, capture_output=True)
    with closing(Log(folder / "log")) as log:
        master = subprocess.Popen(
            [Path(daemons) / "master", "-c", config, "-s"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            log.started()
            yield Postfix(log, (address, port))
        finally:
            master.terminate()
            master.wait(DEADLINE)


def _overridden(main: str, more: str) -> str:
    """Both, each parameter once: postlogd warns of one given twice, into a queue that it does not read yet."""
    names = re.findall(r"^(\w+) =", more, re.MULTILINE)
    return "".join(line for line in main.splitlines(True) if line.partition(" =")[0] not in names) + more


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


QUEUE_FOLDERS = dict.fromkeys(
    ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace"),
    0o700,
) | {"maildrop": 0o730, "public": 0o710, "pid": 0o755}
"""As `postfix check` makes them."""

MAIN = """\
compatibility_level = 3.6
queue_directory = {queue}
data_directory = {data}
daemon_directory = {daemons}
mail_owner = {owner}
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
enable_long_queue_ids = yes
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
notify_classes =
mail_spool_directory = {folder}/mail
default_process_limit = 20
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
smtpd_hard_error_limit = 1000000
smtpd_soft_error_limit = 1000000
smtpd_junk_command_limit = 1000000
smtpd_client_connection_count_limit = 0
in_flow_delay = 0
# What cannot be delivered now is given up at once.
maximal_queue_lifetime = 0
bounce_queue_lifetime = 0
# What follows is docker-mailserver's, without DNS, milters and Dovecot.
myhostname = mail.oracle.test
mydomain = oracle.test
append_dot_mydomain = no
smtputf8_enable = no
mydestination = $myhostname, localhost.$mydomain, localhost
mynetworks = 127.0.0.2/32
recipient_delimiter = +
alias_maps = hash:{config}/aliases
alias_database = hash:{config}/aliases
virtual_mailbox_domains = {config}/vhost
virtual_mailbox_maps = texthash:{config}/vmailbox
virtual_alias_maps = texthash:{config}/virtual{patterns}
virtual_transport = discard:virtual
default_transport = discard
# A login is what XCLIENT says; no password is ever asked for.
smtpd_authorized_xclient_hosts = 127.0.0.0/8
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = nowhere
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_helo_required = yes
smtpd_delay_reject = yes
smtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated defer_unauth_destination
smtpd_client_restrictions = permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination
smtpd_sender_restrictions = $dms_smtpd_sender_restrictions
dms_smtpd_sender_restrictions = permit_sasl_authenticated, permit_mynetworks
smtpd_recipient_restrictions = permit_sasl_authenticated, permit_mynetworks, reject_unauth_destination
"""

SERVICES = """\
pickup    unix  n       -       n       60      1       pickup
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
verify    unix  -       -       n       -       1       verify
flush     unix  n       -       n       1000?   0       flush
proxymap  unix  -       -       n       -       -       proxymap
smtp      unix  -       -       n       -       -       smtp
showq     unix  n       -       n       -       -       showq
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
discard   unix  -       -       n       -       -       discard
local     unix  -       n       n       -       -       local
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
postlog   unix-dgram n  -       n       -       1       postlogd
"""
"""Without chroot, postscreen and the submission services."""
