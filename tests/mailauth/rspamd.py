"""A real rspamd on loopback, which judges messages and says what it would sign them with.

    async with Zone(...) as zone:
        with rspamd(zone.address, {"example.org": ("mail", "/path/of/key.pem")}) as server:
            found = await server.scan(message)

A message that comes from 127.0.0.1 is signed (DKIM) for the domain of its From, and sealed (ARC), where there is a key;
one from elsewhere is judged alone.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

DEADLINE = 30.0
"""Seconds to start in, to answer in, and to stop."""
STRANGER, OURS = "192.0.2.1", "127.0.0.1"

_CONF = """
options {{
  pidfile = "{base}/pid";
  hs_cache_dir = "{base}";
  disable_hyperscan = true;
  url_tld = "{base}/suffixes";
  control_socket = "{base}/control mode=0600";
  filters = "dkim";
  check_local = true;
  dns {{ nameserver = ["{resolver}"]; timeout = 5s; }}
}}
logging {{ type = "file"; filename = "{base}/log"; level = "info"; }}
lua = "/dev/null";
modules {{ path = "/usr/share/rspamd/plugins/arc.lua"; path = "/usr/share/rspamd/plugins/dkim_signing.lua"; }}
worker "normal" {{ bind_socket = "{base}/worker mode=0600"; count = 1; }}
worker "hs_helper" {{ count = 0; }}
dkim {{ check_local = true; }}
arc {{ check_local = true; sign_local = true; {signing} }}
dkim_signing {{ sign_local = true; {signing} }}
"""
_SIGNING = "use_domain = header; use_esld = false; allow_hdrfrom_mismatch = true; domain {{ {keys} }}"
_KEY = '"{domain}" {{ selector = "{selector}"; path = "{file}"; }}'
_SET = ("ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results")


@dataclass(frozen=True)
class Scanned:
    """What rspamd said: the symbols of DKIM and ARC, and the fields that it would put on top."""

    symbols: Mapping[str, list[str]]
    signatures: bytes
    """DKIM-Signature fields."""
    seal: bytes
    """ARC-Seal, ARC-Message-Signature, ARC-Authentication-Results."""


class Rspamd:
    """Made by `rspamd`."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def scan(self, message: bytes, ip: str = STRANGER) -> Scanned:
        """What it says of a message that came from this address."""
        head = f"POST /checkv2 HTTP/1.0\r\nIP: {ip}\r\nFrom: ada@sender.example\r\nRcpt: bob@example.org\r\n"
        async with asyncio.timeout(DEADLINE):
            reader, writer = await asyncio.open_unix_connection(self._socket)
            writer.write(f"{head}Content-Length: {len(message)}\r\n\r\n".encode() + message)
            answer = await reader.read()
            writer.close()
        said = json.loads(answer.partition(b"\r\n\r\n")[2])
        symbols = {
            name: symbol.get("options", [])
            for name, symbol in said["symbols"].items()
            if name.startswith(("R_DKIM_", "ARC_"))
        }
        made = said.get("milter", {}).get("add_headers", {})
        signed = said.get("dkim-signature", [])
        return Scanned(
            symbols,
            b"".join(_field("DKIM-Signature", each) for each in ([signed] if isinstance(signed, str) else signed)),
            b"".join(_field(title, made[title]["value"]) for title in _SET if title in made),
        )


@contextmanager
def rspamd(resolver: str, keys: Mapping[str, tuple[str, Path]]) -> Iterator[Rspamd]:
    """Runs until the block is left. `resolver` is `ip:port`, `keys` are selector and file by domain."""
    base = Path(tempfile.mkdtemp(prefix="rspamd"))  # short: the names of its sockets have 107 octets
    blocks = " ".join(_KEY.format(domain=name, selector=key[0], file=key[1]) for name, key in keys.items())
    conf = _CONF.format(base=base, resolver=resolver, signing=_SIGNING.format(keys=blocks))
    (base / "rspamd.conf").write_text(conf)
    (base / "suffixes").write_text("example\norg\n")  # the whole list takes many seconds to compile
    process = subprocess.Popen(
        ["rspamd", "-f", "-i", "-c", str(base / "rspamd.conf"), "--var", f"DBDIR={base}"], stderr=subprocess.DEVNULL
    )
    try:
        _started(process, base / "log")
        yield Rspamd(base / "worker")
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(base)


def _started(process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it says so."""
    until = monotonic() + DEADLINE
    while not log.exists() or b"listening for control commands" not in log.read_bytes():
        assert process.poll() is None and monotonic() < until, "rspamd did not start"
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue


def _field(title: str, value: str) -> bytes:
    return f"{title}: ".encode() + re.sub(r"\r?\n", "\r\n", value).encode() + b"\r\n"
