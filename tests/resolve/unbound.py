"""A real unbound on loopback, as the internal name server that one has.

    async with Zone({"gitlab.internal": {"A": ["127.0.0.2"]}}) as zone:
        with unbound(forward=zone.address) as server:
            settings = Resolver(servers=(server.address,))

What the zone says goes through unbound's cache: with `zone.ttl = 0` it keeps nothing, else `control("flush_zone", ".")`
makes it forget. `lines` are of the `server:` clause of unbound.conf(5): local-data, local-zone.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

DEADLINE = 20.0
"""Seconds to start in, and to stop."""

_CONF = """
server:
  interface: 127.0.0.1@{port}
  directory: "{base}"
  username: ""
  chroot: ""
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  do-not-query-localhost: no
  module-config: "iterator"
  num-threads: 1
  {lines}
remote-control:
  control-enable: yes
  control-interface: "{base}/control"
  control-use-cert: no
"""
_FORWARD = """
forward-zone:
  name: "."
  forward-addr: {forward}
"""


class Unbound:
    """Made by `unbound`."""

    def __init__(self, base: Path, port: int) -> None:
        self._base = base
        self.address = f"127.0.0.1:{port}"
        """As the settings of a resolver want it."""

    def control(self, *arguments: str) -> None:
        """What `unbound-control` does: `flush_zone`, `local_data`, `local_data_remove`."""
        done = subprocess.run(
            ["unbound-control", "-c", str(self._base / "unbound.conf"), *arguments],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            env=_environ(),
        )
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def unbound(*lines: str, forward: str = "") -> Iterator[Unbound]:
    """Runs until the block is left. What `lines` do not answer is asked of `forward`, `ip:port`."""
    base = Path(tempfile.mkdtemp(prefix="unbound"))  # short: the name of its socket has 107 octets
    port = _free_port()
    conf = _CONF.format(base=base, port=port, lines="\n  ".join(lines))
    conf += _FORWARD.format(forward=forward.replace(":", "@")) if forward else ""
    (base / "unbound.conf").write_text(conf)
    process = subprocess.Popen(
        ["unbound", "-d", "-v", "-c", str(base / "unbound.conf")], stderr=subprocess.PIPE, env=_environ()
    )
    try:
        _started(process)
        yield Unbound(base, port)
    finally:
        process.terminate()
        try:
            process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        shutil.rmtree(base)


def _started(process: subprocess.Popen[bytes]) -> None:
    """Until it says so."""
    assert process.stderr is not None
    said, until = b"", monotonic() + DEADLINE
    while b"start of service" not in said:
        ready, _, _ = select.select([process.stderr], [], [], max(0.0, until - monotonic()))
        more = os.read(process.stderr.fileno(), 65536) if ready else b""
        assert more, f"unbound did not start: {said.decode()}"
        said += more


def _free_port() -> int:
    """One of 127.0.0.1 that is free for UDP and for TCP."""
    for _ in range(20):
        with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            port: int = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no port is free for both")


def _environ() -> dict[str, str]:
    return {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
