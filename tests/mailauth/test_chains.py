"""Chains of three hops: we, dkimpy, Perl's Mail::DKIM and rspamd seal one behind the other, and all four verify."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path

import pytest
from arc_peers import (
    BODIES,
    HEADER,
    ZoneTxt,
    by_dkimpy,
    by_perl,
    dkimpy_sealed,
    message,
    pem,
    perl_sealed,
    private,
    sealed,
    zone,
)
from rspamd import OURS, rspamd

from smtproute.core.settings import Authentication
from smtproute.mailauth import arc
from smtproute.mailauth.keys import SigningKey
from smtproute.testing.zone import Zone

WE, DKIMPY, PERL, RSPAMD = (
    SigningKey(domain, "mail", private(1024))
    for domain in ("example.org", "dkimpy.example", "perl.example", "sender.example")
)
RECORDS = zone(WE, DKIMPY, PERL, RSPAMD)
SMTPUTF8 = HEADER.replace(b"Ada <ada@", "Ädä <ädä@".encode()).replace(b"a  subject", "ein  Gruß".encode())
MESSAGES = {
    **{
        name: message(BODIES[name])
        for name in ("trailing blank lines", "long lines", "8-bit", "empty", "no final newline")
    },
    "SMTPUTF8": message("Grüße\r\n".encode(), SMTPUTF8),
}
ORDERS = [
    order
    for order in permutations((WE, DKIMPY, PERL, RSPAMD), 3)
    # The third set of rspamd 3.4 signs the sets before it in the wrong order, and nobody believes it, itself included.
    if WE in order and order[2] is not RSPAMD
]
# Each message takes part, in two or three of the orders.
CHAINS = [(order, list(MESSAGES)[at % len(MESSAGES)]) for at, order in enumerate(ORDERS)]


@pytest.mark.peer("rspamd", "perl:Mail::DKIM::ARC::Signer", "perl:Net::DNS", "perl:JSON::PP")
async def test_everybody_believes_a_mixed_chain_at_each_hop(tmp_path: Path) -> None:
    pytest.importorskip("authres", reason="dkimpy signs ARC only with the package authres")
    assert {name for _, name in CHAINS} == set(MESSAGES)
    key = tmp_path / "rspamd.pem"
    key.write_bytes(pem(RSPAMD))
    hops: dict[str, bytes] = {}
    async with Zone({name: {"TXT": [text]} for name, text in RECORDS.items()}) as names:
        with ThreadPoolExecutor(1) as pool, rspamd(names.address, {RSPAMD.domain: (RSPAMD.selector, key)}) as server:
            for order, name in CHAINS:
                content = MESSAGES[name]
                for number, hop in enumerate(order, 1):
                    content = await _sealed_by(hop, content, tmp_path, server, pool)
                    at = f"{name}: {', '.join(each.domain for each in order[:number])}"
                    hops[at] = content
                    assert content.endswith(MESSAGES[name])
                    chain = await _judged(content, pool)
                    assert (chain.status, chain.sets) == (arc.ChainStatus.PASS, number), (at, chain)
                    assert chain.sealers == tuple(each.domain for each in order[:number])
                    assert by_dkimpy(content, RECORDS) == "pass success", at
                    assert "ARC_ALLOW" in (await server.scan(content)).symbols, at
    said = await asyncio.to_thread(by_perl, tmp_path, list(hops.values()), RECORDS)
    assert {at: each for at, each in zip(hops, said, strict=True) if each.split()[0] != "pass"} == {}


async def _sealed_by(hop: SigningKey, content: bytes, folder: Path, server, pool: ThreadPoolExecutor) -> bytes:
    chain = await _judged(content, pool)
    if hop is WE:
        return sealed(content, chain, WE)
    if hop is RSPAMD:
        return (await server.scan(content, OURS)).seal + content
    if hop is DKIMPY:
        return dkimpy_sealed(content, DKIMPY, chain.status.value)
    return await asyncio.to_thread(perl_sealed, folder, content, PERL, chain.status.value)


async def _judged(content: bytes, pool: ThreadPoolExecutor) -> arc.Chain:
    return await arc.evaluate(content, ZoneTxt(RECORDS), pool, Authentication(), time.time())


@pytest.mark.peer("rspamd")
async def test_rspamd_can_tell(tmp_path: Path) -> None:
    once = sealed(MESSAGES["8-bit"], arc.Chain(arc.ChainStatus.NONE), WE)
    async with Zone({name: {"TXT": [text]} for name, text in RECORDS.items()}) as names:
        with rspamd(names.address, {}) as server:
            assert "ARC_ALLOW" in (await server.scan(once)).symbols
            changed = once.replace("Grüße".encode(), "Grüsse".encode(), 1)
            assert "ARC_REJECT" in (await server.scan(changed)).symbols
