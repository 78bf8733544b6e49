"""Mutates messages and records until something comes out of whatever reads them that is no result.

python dkim_fuzz.py FOLDER RUNS: ends with 0 after so many runs or 15 seconds, and keeps its corpus in FOLDER.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["dkim", "smtproute.core", "smtproute.mailauth"]):
    import dkim  # noqa: F401
    from arc_peers import AT, ZoneTxt, message, sealed
    from dkim_peers import BOUNDS, TAGS, both, ed25519_key, signed

    from smtproute.core.author import author
    from smtproute.core.message import Edit, apply
    from smtproute.core.verdict import Disposition, Verdict
    from smtproute.mailauth import arc, dmarc, spf
    from smtproute.mailauth.dkim import DkimResult, check, verdict
    from smtproute.mailauth.results import forged, read

TEXT = message(b"text\r\n", b"From: ada@example.org\r\nTo: bob@example.net\r\nSubject: x\r\n")
BETWEEN = b"\0\0"
"""Between a record, of a key or of SPF or DMARC, which may be left out, and a message."""
NEXT = b"\n"
"""Between what DNS answers to one question of SPF's and to the next."""
POOL = ThreadPoolExecutor(1)


class Answers:
    """A Lookup that answers each question, of whatever type, with the next of these texts."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self.left = list(texts)

    def _next(self) -> tuple[bytes, ...]:
        return (self.left.pop(0),) if self.left else ()

    async def texts(self, name: str) -> tuple[bytes, ...]:
        return self._next()

    async def addresses(self, name: str, version: int) -> tuple[str, ...]:
        return ("2001:db8::1" if version == 6 else "192.0.2.1",) if self._next() else ()

    async def exchanges(self, name: str) -> tuple[str, ...]:
        return tuple(text.decode("latin-1") for text in self._next())

    async def pointers(self, ip: str) -> tuple[str, ...]:
        return tuple(text.decode("latin-1") for text in self._next())


async def look_into(text: bytes) -> None:
    """A record of SPF with all that it asks for, and one of DMARC."""
    sender = "ada@sender.example"
    found = await spf.evaluate(
        "192.0.2.1", "sender.example", sender, "mx.example", Answers(text.split(NEXT)), POOL, "mx.example.org"
    )
    assert isinstance(found.result, spf.SpfResult)
    assert str(spf.verdict(found))
    try:
        record = dmarc.record_in([text])
    except dmarc.RecordFault as fault:
        assert str(fault)
    else:
        assert record is None or isinstance(record.policy, Disposition)


def read_out(raw: bytes) -> None:
    """From, and Authentication-Results."""
    found = author(raw)
    assert found.addresses or found.fault
    assert (found.domain is None) == bool(found.fault)
    left = apply(Edit(forged(raw, "mx.example.org")), raw)
    assert len(left) <= len(raw)
    for each in read(raw.decode("latin-1")):
        assert isinstance(each, Verdict)


async def judge(raw: bytes, text: bytes) -> None:
    lookup = ZoneTxt({name: text or known for name, known in both().items()})
    for each in await check(raw, lookup, POOL, BOUNDS, AT):
        assert isinstance(each.result, DkimResult)
        assert each.reason
        assert str(verdict(each))
    chain = await arc.evaluate(raw, lookup, POOL, BOUNDS, AT)
    assert (chain.status is arc.ChainStatus.FAIL) == bool(chain.reason)
    for instance in await arc.instances(raw, lookup, POOL, BOUNDS, AT):
        assert instance.number
    if text:
        await look_into(text)


def run(data: bytes) -> None:
    text, _, raw = data.rpartition(BETWEEN)
    read_out(raw)
    asyncio.run(judge(raw, text))


def main(folder: str, runs: str) -> None:
    seeds = {
        "signed": signed(signed(TEXT, TAGS.replace("v=1", f"v=1; i=ada@example.org; l=6; t=1; x={AT}"), ed25519_key())),
        "sealed": sealed(sealed(TEXT)),
        "spf": NEXT.join([b"v=spf1 include:%{d}.a mx/24 ptr exists:%{i}.b a:c exp=e -all", b"v=spf1 ?all", b"mx.c"])
        + BETWEEN
        + b'From: Ada <ada@sender.example>, x: "b c"@[192.0.2.1], (d) e . f @ g.example;\r\n\r\n',
        "dmarc": b"v=DMARC1; p=none; sp=quarantine; pct=5; adkim=s; aspf=r; rua=mailto:a@b.example!10m"
        + BETWEEN
        + b'Authentication-Results: mx.(a)example.org 1; spf=pass (b "c) smtp.mailfrom="d\\e"@f; dkim=fail\r\n\r\n',
        "keyed": both()["ed._domainkey.example.org"].encode() + BETWEEN + signed(TEXT, key=ed25519_key()),
    }
    for name, seed in seeds.items():
        Path(folder, name).write_bytes(seed)
    options = [f"-runs={runs}", "-max_total_time=15", "-max_len=8192", "-timeout=10", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], *options, folder], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
