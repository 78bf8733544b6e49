"""The same forward through Postfix and through smtproute, in turn: messages a second, and the ratio.

    scripts/bench [--rounds 5] [--messages 2000] [--sessions 20] [--size 4096] [--reuse] [--only NAME ...]

One alias leads to an address elsewhere; `smtp-source` sends to the alias, `smtp-sink` stands elsewhere and counts. The
time is that from the start of `smtp-source` to the last arrival at the sink. There are four contestants: postfix and
smtproute, and both again with each message ARC-sealed (Postfix by rspamd as its milter, with the same RSA key). Those
that this machine cannot run are named and left out.

Both sides keep every message on disk before they answer 250, each as it comes configured and on one file system, write
a log file, and may open 20 connections to the sink (Postfix's default). Before the rounds each contestant forwards one
message to a second sink that keeps it: whether it is sealed is looked at, not believed. Then a warm-up that does not
count, then the rounds.

Everything runs as private instances on loopback ports, in one folder that is removed at the end; what was started is
ended by its pid, after an error or an interrupt too. Nothing is judged: the exit status is 0 unless there was nothing
to measure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

SMTPROUTE = Path(__file__).parent.parent / ".venv" / "bin" / "smtproute"
ALIAS = "bench@example.org"
PROBE = "probe@example.org"
CONNECTIONS_OUT = 20
"""To the sink: default_destination_concurrency_limit of postconf(5)."""
START = 30.0
"""Seconds that a program has to start listening, and a probe to arrive."""
TICK = 0.005
"""Seconds between two looks at the counter: how exact a time is."""


class Skipped(Exception):
    """A contestant that cannot run here, and why."""


class Failed(Exception):
    """A contestant that did not do it, and what was seen."""


@dataclass(frozen=True)
class Load:
    """What is sent in each round."""

    messages: int
    sessions: int
    size: int
    """Octets of the body."""
    reuse: bool
    """Many messages a connection, or a connection for each."""
    timeout: float
    """Seconds that one round may take."""

    @property
    def connections_in(self) -> int:
        """What both servers must allow one client: their default of 50, or more where more is asked of them."""
        return max(50, 2 * self.sessions)


@dataclass(frozen=True)
class Round:
    """Messages a second."""

    accepted: float
    """Until the last 250 was heard."""
    delivered: float
    """Until the last message had arrived."""


# Processes


def start(command: Sequence[str | Path], log: Path, stdout: int | None = None) -> subprocess.Popen[bytes]:
    """Starts a program as leader of its own process group; what it says goes to `log`. Raises Failed."""
    with log.open("ab") as out:
        try:
            return subprocess.Popen(
                [str(each) for each in command],
                stdin=subprocess.DEVNULL,
                stdout=out if stdout is None else stdout,
                stderr=out,
                start_new_session=True,
            )
        except OSError as error:
            raise Failed(f"{command[0]} does not start: {error.strerror}") from None


def end(process: subprocess.Popen[bytes]) -> None:
    """Asks a program to end, and after ten seconds ends it and whatever it started."""
    try:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
    finally:  # a second interrupt comes here at once
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def until(true: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, what: str) -> None:
    """Waits for a program to get somewhere. Raises Failed when it ends or takes too long."""
    limit = time.monotonic() + START
    while not true():
        if process.poll() is not None:
            raise Failed(f"it ended with status {process.returncode} before {what}{tail(log)}")
        if time.monotonic() > limit:
            raise Failed(f"{START:.0f} s were not enough for {what}{tail(log)}")
        time.sleep(0.02)


def listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def tail(log: Path, lines: int = 8) -> str:
    """The last complaints of a log, or its last lines where it has none, to stand under a failure."""
    text = log.read_text(errors="replace").splitlines() if log.exists() else []
    trouble = [line for line in text if re.search("warning|error|fatal|panic|deferred|failed|refused|Traceback", line)]
    return "".join(f"\n    | {line[:300]}" for line in (trouble or text)[-lines:])


# The two ends


class Sink:
    """An `smtp-sink` and its counter."""

    def __init__(self, folder: Path, name: str, stack: contextlib.ExitStack, *, keep: bool = False) -> None:
        self.port = free_port()
        self.count = 0
        """Messages that have arrived, as of the last look."""
        self._kept = folder / f"{name}.kept"
        log = folder / f"{name}.log"
        command = ["smtp-sink", "-c"]
        if keep:
            self._kept.mkdir()
            command += ["-d", f"{self._kept}/"]
        if os.geteuid() == 0:
            command += ["-u", "nobody"]  # it wants to
            if keep:
                shutil.chown(self._kept, "nobody")
        command += [f"127.0.0.1:{self.port}", "1000"]
        process = start(command, log, subprocess.PIPE)
        stack.callback(end, process)
        assert process.stdout is not None
        stack.enter_context(process.stdout)
        self._pipe = process.stdout.fileno()
        os.set_blocking(self._pipe, False)
        self._rest = b""
        until(lambda: listening(self.port), process, log, "smtp-sink listened")

    def look(self) -> int:
        """Brings `count` up to date, and returns it."""
        with contextlib.suppress(BlockingIOError):
            while more := os.read(self._pipe, 65536):
                *whole, self._rest = (self._rest + more).split(b"\r")
                if whole and (found := re.search(rb"mesg=(\d+)", whole[-1])):
                    self.count = int(found[1])
        return self.count

    def kept(self) -> bytes:
        """The messages that it kept."""
        return b"".join(file.read_bytes() for file in self._kept.iterdir())


def source(port: int, recipient: str, load: Load, messages: int, log: Path) -> subprocess.Popen[bytes]:
    """An `smtp-source` on its way."""
    command = ["smtp-source", "-4", "-M", "client.example", "-f", "sender@client.example", "-t", recipient]
    command += ["-s", str(min(load.sessions, messages)), "-m", str(messages), "-l", str(load.size)]
    command += [*(["-d"] if load.reuse else []), f"127.0.0.1:{port}"]
    return start(command, log)


# The contestants


@dataclass
class Contestant:
    name: str
    sealed: bool
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    sink: Sink
    probe: Sink

    def probed(self, load: Load) -> None:
        """Forwards one message and looks at what arrives. Raises Failed."""
        log = self.log.with_suffix(".probe.log")
        sending = source(self.port, PROBE, load, 1, log)
        try:
            until(lambda: self.probe.look() == 1, self.process, self.log, "one message came through")
        except Failed as failed:
            raise Failed(f"{failed}{tail(log)}") from None
        finally:
            end(sending)
        arrived = self.probe.kept()
        if len(arrived) < load.size:
            raise Failed(f"{len(arrived)} octets arrived of a message of {load.size}")
        if self.sealed != (b"\nARC-Seal:" in arrived):
            raise Failed(f"the message arrived {'unsealed' if self.sealed else 'sealed'}{tail(self.log)}")

    def run(self, load: Load, messages: int) -> Round:
        """Sends `messages` and waits for all of them. Raises Failed."""
        log = self.log.with_suffix(".source.log")
        before = self.sink.look()
        began = time.monotonic()
        heard: float | None = None
        sending = source(self.port, ALIAS, load, messages, log)
        try:
            while (arrived := self.sink.look() - before) < messages or heard is None:
                now = time.monotonic()
                if heard is None and sending.poll() is not None:
                    heard = now
                    if sending.returncode:
                        raise Failed(f"smtp-source gave up, {arrived} arrived{tail(log)}{tail(self.log)}")
                if now - began > load.timeout:
                    raise Failed(
                        f"{arrived} of {messages} arrived in {load.timeout:g} s; smtp-source "
                        f"{'still sends' if heard is None else f'was done after {heard - began:.1f} s'}{tail(self.log)}"
                    )
                time.sleep(TICK)
            return Round(messages / (heard - began), messages / (time.monotonic() - began))
        finally:
            end(sending)


def smtproute(name: str, folder: Path, load: Load, key: Path, sealed: bool, stack: contextlib.ExitStack) -> Contestant:
    sink, probe = Sink(folder, "sink", stack), Sink(folder, "probe", stack, keep=True)
    (folder / "virtual.cf").write_text(f"{ALIAS} to@sink.example\n{PROBE} to@probe.example\n")
    log, ready, config = folder / "log", folder / "ready.json", folder / "smtproute.toml"
    seal = f'[arc.keys."example.org"]\nselector = "bench"\nfile = "{key}"\n' if sealed else ""
    config.write_text(
        f"""\
hostname = "relay.example.org"
state = "state"
domains = ["example.org"]
[aliases]
tables = ["virtual.cf"]
[listener.mx]
bind = "127.0.0.1:0"
role = "inbound"
[limits]
connections_per_address = {load.connections_in}
[authentication]
spf = false
dkim = false
dmarc = false
arc = {str(sealed).lower()}
[resolver]
static = {{ "sink.internal" = ["127.0.0.1"] }}
[endpoint.sink]
servers = ["sink.internal:{sink.port}"]
tls = "never"
max_connections = {CONNECTIONS_OUT}
[endpoint.probe]
servers = ["sink.internal:{probe.port}"]
tls = "never"
[[route]]
match = "*@sink.example"
endpoint = "sink"
[[route]]
match = "*@probe.example"
endpoint = "probe"
{seal}"""
    )
    process = start([SMTPROUTE, "serve", "-c", config, "--ready-file", ready], log)
    stack.callback(end, process)
    until(ready.exists, process, log, "smtproute listened")
    port = json.loads(ready.read_text())["listeners"]["mx"]["port"]
    return Contestant(name, sealed, port, process, log, sink, probe)


def postfix(name: str, folder: Path, load: Load, key: Path, sealed: bool, stack: contextlib.ExitStack) -> Contestant:
    owner, daemons = postfix_installed()
    milter = rspamd(folder / "rspamd", key, stack) if sealed else None
    sink, probe = Sink(folder, "sink", stack), Sink(folder, "probe", stack, keep=True)
    port = free_port()
    config, queue, data = folder / "config", folder / "queue", folder / "data"
    for folder_made in (config, queue, data):
        folder_made.mkdir()
    shutil.chown(data, owner)
    for part, mode in QUEUE_FOLDERS.items():
        (queue / part).mkdir()
        (queue / part).chmod(mode)
        if part != "pid":
            shutil.chown(queue / part, owner, "postdrop" if part in ("maildrop", "public") else None)
    (config / "virtual").write_text(f"{ALIAS} to@sink.example\n{PROBE} to@probe.example\n")
    (config / "transport").write_text(
        f"sink.example smtp:[127.0.0.1]:{sink.port}\nprobe.example smtp:[127.0.0.1]:{probe.port}\n"
    )
    log = folder / "log"
    (config / "main.cf").write_text(
        f"""\
compatibility_level = 3.6
queue_directory = {queue}
data_directory = {data}
daemon_directory = {daemons}
mail_owner = {owner}
maillog_file = {log}
maillog_file_prefixes = {folder}
myhostname = relay.example.org
mydestination =
mynetworks =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
virtual_alias_domains = example.org
virtual_alias_maps = texthash:{config}/virtual
transport_maps = texthash:{config}/transport
smtpd_relay_restrictions = reject_unauth_destination
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
smtpd_client_connection_count_limit = {load.connections_in}
default_destination_concurrency_limit = {CONNECTIONS_OUT}
default_process_limit = {max(100, load.connections_in)}
"""
        + (f"smtpd_milters = inet:127.0.0.1:{milter}\nmilter_default_action = tempfail\n" if milter else "")
    )
    (config / "master.cf").write_text(f"127.0.0.1:{port} inet n - n - - smtpd\n{SERVICES}")
    process = start([daemons / "master", "-c", config, "-s"], folder / "master.log")
    stack.callback(end, process)
    until(lambda: listening(port), process, log, "Postfix listened")
    return Contestant(name, sealed, port, process, log, sink, probe)


QUEUE_FOLDERS = dict.fromkeys(
    ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace"),
    0o700,
) | {"maildrop": 0o730, "public": 0o710, "pid": 0o755}
"""As `postfix check` makes them."""

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
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
postlog   unix-dgram n  -       n       -       1       postlogd
"""
"""The master.cf that Postfix comes with, without chroot; of its listeners and local agents none."""


def postfix_installed() -> tuple[str, Path]:
    """Postfix's user, and where its daemons are. Raises Skipped."""
    if shutil.which("postconf") is None:
        raise Skipped("Postfix is not installed")
    if os.geteuid() != 0:
        raise Skipped("Postfix's master starts as root only")
    said = subprocess.run(["postconf", "-dh", "mail_owner", "daemon_directory"], capture_output=True, text=True)
    owner, daemons = said.stdout.split()
    try:
        pwd.getpwnam(owner)
    except KeyError:
        raise Skipped(f"Postfix's user {owner} is missing") from None
    return owner, Path(daemons)


def rspamd(folder: Path, key: Path, stack: contextlib.ExitStack) -> int:
    """Starts rspamd as a milter that seals and does nothing else, one worker a core; returns its port."""
    if shutil.which("rspamd") is None:
        raise Skipped("rspamd is not installed")
    user = next((each.pw_name for each in pwd.getpwall() if each.pw_name in ("_rspamd", "rspamd")), None)
    if user is None:
        raise Skipped("rspamd's user is missing")
    folder.mkdir()
    shutil.chown(folder, user)
    port, log, config = free_port(), folder / "log", folder / "rspamd.conf"
    config.write_text(
        f"""\
options {{
  filters = "dkim";
  pidfile = "{folder}/pid";
  control_socket = "{folder}/control mode=0600";
  dns {{ nameserver = ["127.0.0.1:9"]; timeout = 1s; }}
}}
logging {{ type = "file"; filename = "{log}"; level = "notice"; }}
modules {{ path = "${{PLUGINSDIR}}/arc.lua"; }}
worker "rspamd_proxy" {{
  bind_socket = "127.0.0.1:{port}";
  milter = yes;
  timeout = 60s;
  count = {os.cpu_count() or 1};
  upstream "local" {{ default = yes; self_scan = yes; }}
}}
dkim {{ enabled = true; }}
arc {{
  sign_local = true;
  sign_inbound = true;
  sign_authenticated = true;
  use_domain = "recipient";
  allow_hdrfrom_mismatch = true;
  domain {{ example.org {{ path = "{key}"; selector = "bench"; }} }}
}}
"""
    )
    out = folder / "out.log"
    process = start(["rspamd", "-f", "-u", user, "-g", user, "-c", config, f"--var=DBDIR={folder}"], out)
    stack.callback(end, process)
    until(lambda: listening(port), process, out, "rspamd listened")
    return port


MAKERS = {
    "postfix": (postfix, False),
    "smtproute": (smtproute, False),
    "postfix+rspamd": (postfix, True),
    "smtproute+seal": (smtproute, True),
}
"""In the order in which they take turns."""
PAIRS = (("smtproute", "postfix"), ("smtproute+seal", "postfix+rspamd"))


# What is printed


def say(text: str = "") -> None:
    print(text, flush=True)


def version(*command: str) -> str:
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except FileNotFoundError:
        return f"no {command[0]}"
    return " ".join((said.stdout or said.stderr).split()).removeprefix("mail_version = ")


def file_system(folder: Path) -> str:
    """Of which kind, and where it is mounted."""
    kind, point = "unknown", Path("/")
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, mounted, its_kind, *_ = line.split()
            if folder.is_relative_to(mounted) and len(mounted) >= len(str(point)):
                kind, point = its_kind, Path(mounted)
    return f"{kind}, mounted at {point}"


class Table:
    """One column a contestant, and after each pair its ratio."""

    def __init__(self, names: Sequence[str]) -> None:
        self._columns: list[tuple[str, str | None]] = []
        for ours, theirs in PAIRS:
            self._columns += [(name, None) for name in (theirs, ours) if name in names]
            if ours in names and theirs in names:
                self._columns.append((theirs, ours))
        self._widths = [max(7, len(name)) if ours is None else 7 for name, ours in self._columns]

    def head(self) -> str:
        return self._line("", [name if ours is None else "ratio" for name, ours in self._columns])

    def row(self, title: str, rates: dict[str, float]) -> str:
        """Messages a second by name; who has none gets a dash."""
        cells = []
        for name, ours in self._columns:
            if name not in rates or (ours is not None and ours not in rates):
                cells.append("-")
            else:
                cells.append(f"{rates[name]:.0f}" if ours is None else f"{rates[ours] / rates[name]:.2f}")
        return self._line(title, cells)

    def _line(self, title: str, cells: Sequence[str]) -> str:
        return f"{title:<18}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, self._widths, strict=True))


# The benchmark


@contextlib.contextmanager
def workplace(parent: Path, keep: bool) -> Iterator[Path]:
    """A folder that Postfix and rspamd may pass through, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="smtproute-bench.", dir=parent)).resolve()
    try:
        folder.chmod(0o711)
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def make_key(file: Path) -> None:
    """An RSA key for this one run, readable for rspamd's user."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    file.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))


def ceiling(folder: Path, load: Load) -> str:
    """What source and sink do with nobody between them."""
    with contextlib.ExitStack() as stack:
        sink = Sink(folder, "ceiling", stack)
        began = time.monotonic()
        sending = source(sink.port, ALIAS, load, load.messages, folder / "ceiling.source.log")
        stack.callback(end, sending)
        while sink.look() < load.messages:
            if time.monotonic() - began > load.timeout:
                return f"only {sink.count} messages arrived"
            time.sleep(TICK)
        return f"{load.messages / (time.monotonic() - began):.0f} messages a second"


def entered(names: Sequence[str], folder: Path, load: Load, stack: contextlib.ExitStack) -> list[Contestant]:
    """Those that run and forward as they should; the others are named with the reason."""
    key = folder / "rsa.pem"
    make_key(key)
    running = []
    for name in names:
        make, sealed = MAKERS[name]
        place = folder / name
        place.mkdir(mode=0o755)
        try:
            contestant = make(name, place, load, key, sealed, stack)
            contestant.probed(load)
            contestant.run(load, 5 * load.sessions)
        except Skipped as skipped:
            say(f"{name}: left out: {skipped}")
        except Failed as failed:
            say(f"{name}: FAILED before the rounds: {failed}")
        else:
            running.append(contestant)
    return running


def bench(names: Sequence[str], rounds: int, load: Load, parent: Path, keep: bool) -> int:
    """Returns the exit status."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(workplace(parent, keep))
        how = "many messages a connection" if load.reuse else "one message a connection"
        say(f"{load.messages} messages of {load.size} octets in {load.sessions} sessions, {how}; {rounds} rounds")
        say(
            f"Postfix {version('postconf', '-d', 'mail_version')}; {version('rspamd', '--version')}; "
            f"smtproute on Python {sys.version.split()[0]}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        )
        say(f"queues and spools in {folder} ({file_system(folder)})")
        say(f"smtp-source straight into smtp-sink: {ceiling(folder, load)}")
        running = entered(names, folder, load, stack)
        if not running:
            return 1
        results: dict[str, list[Round]] = {each.name: [] for each in running}
        expected = {each.name: each.sink.look() + rounds * load.messages for each in running}
        table = Table(list(results))
        say("\nmessages a second, until the last had arrived")
        say(table.head())
        for number in range(1, rounds + 1):
            if not running:
                break
            rates = {}
            complaints = []
            for each in list(running):
                try:
                    done = each.run(load, load.messages)
                except Failed as failed:
                    complaints.append(f"{each.name}: FAILED in round {number}: {failed}")
                    end(each.process)
                    running.remove(each)
                else:
                    results[each.name].append(done)
                    rates[each.name] = done.delivered
            say(table.row(f"round {number}", rates))
            for complaint in complaints:
                say(complaint)
        had = {name: its for name, its in results.items() if its}
        say(table.row("median", {name: statistics.median(each.delivered for each in its) for name, its in had.items()}))
        say(
            table.row(
                "median, to 250", {name: statistics.median(each.accepted for each in its) for name, its in had.items()}
            )
        )
        time.sleep(1)
        for each in running:
            if (more := each.sink.look() - expected[each.name]) > 0:
                say(f"{each.name}: {more} messages arrived more than were sent")
        return 0 if had else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--messages", type=int, default=2000, help="in each round; default: 2000")
    parser.add_argument("--sessions", type=int, default=20, help="of smtp-source, at once; default: 20")
    parser.add_argument("--size", type=int, default=4096, help="octets of the body; default: 4096")
    parser.add_argument("--reuse", action="store_true", help="many messages a connection, instead of one")
    parser.add_argument("--only", nargs="+", choices=MAKERS, metavar="NAME", help=f"of {', '.join(MAKERS)}")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds that one round may take; default: 120")
    parser.add_argument(
        "--folder", type=Path, default=Path("/var/tmp"), help="where queues and spools are made; default: /var/tmp"
    )
    parser.add_argument("--keep", action="store_true", help="leave that folder, with the logs in it")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    if min(given.rounds, given.messages, given.sessions, given.size) < 1:
        print("--rounds, --messages, --sessions and --size are 1 or more", file=sys.stderr)
        return 64
    for program in ("smtp-source", "smtp-sink"):
        if shutil.which(program) is None:
            print(f"{program} is missing: it comes with Postfix", file=sys.stderr)
            return 1
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    names = [name for name in MAKERS if given.only is None or name in given.only]
    load = Load(given.messages, given.sessions, given.size, given.reuse, given.timeout)
    try:
        return bench(names, given.rounds, load, given.folder, given.keep)
    except KeyboardInterrupt:
        return 130
    except Failed as failed:
        print(f"without contestants: {failed}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
