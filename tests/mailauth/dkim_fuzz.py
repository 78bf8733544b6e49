"""Mutates messages and key records until something comes out of DKIM or ARC that is no result.

python dkim_fuzz.py FOLDER RUNS: ends with 0 after so many runs or 15 seconds, and keeps its corpus in FOLDER.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["dkim", "smtproute.core", "smtproute.mailauth"]):
    import dkim  # noqa: F401
    from arc_peers import AT, ZoneTxt, message, sealed
    from dkim_peers import BOUNDS, TAGS, both, ed25519_key, signed

    from smtproute.mailauth import arc
    from smtproute.mailauth.dkim import DkimResult, check, verdict

TEXT = message(b"text\r\n", b"From: ada@example.org\r\nTo: bob@example.net\r\nSubject: x\r\n")
BETWEEN = b"\0\0"
"""Between a key record, which may be left out, and a message."""
POOL = ThreadPoolExecutor(1)


async def judge(raw: bytes, text: bytes) -> None:
    lookup = ZoneTxt({name: text or known for name, known in both().items()})
    for each in await check(raw, lookup, POOL, BOUNDS, AT):
        assert isinstance(each.result, DkimResult)
        assert each.reason
        assert str(verdict(each))
    chain = await arc.evaluate(raw, lookup, POOL, BOUNDS)
    assert (chain.status is arc.ChainStatus.FAIL) == bool(chain.reason)
    for instance in await arc.instances(raw, lookup, POOL, BOUNDS):
        assert instance.number


def run(data: bytes) -> None:
    text, _, raw = data.rpartition(BETWEEN)
    asyncio.run(judge(raw, text))


def main(folder: str, runs: str) -> None:
    seeds = {
        "signed": signed(signed(TEXT, TAGS.replace("v=1", f"v=1; i=ada@example.org; l=6; t=1; x={AT}"), ed25519_key())),
        "sealed": sealed(sealed(TEXT)),
        "keyed": both()["ed._domainkey.example.org"].encode() + BETWEEN + signed(TEXT, key=ed25519_key()),
    }
    for name, seed in seeds.items():
        Path(folder, name).write_bytes(seed)
    options = [f"-runs={runs}", "-max_total_time=15", "-max_len=8192", "-timeout=10", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], *options, folder], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
