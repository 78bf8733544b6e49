"""ARC (RFC 8617): judging the chain that a message brings, and sealing the copy that we forward."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from smtproute.core.lookup import Lookup
from smtproute.core.settings import Authentication
from smtproute.core.verdict import Verdict
from smtproute.mailauth import sign
from smtproute.mailauth.canonical import folded, relaxed_field
from smtproute.mailauth.header import Header, message_digest, opened
from smtproute.mailauth.keys import SigningKey
from smtproute.mailauth.sets import NAMES, Part, Survey, seal_digest, survey, surveyed
from smtproute.mailauth.sign import SignFault
from smtproute.mailauth.signature import domain_in, look_up
from smtproute.mailauth.validation import judge_each, key_names, validate

__all__ = ["Chain", "ChainStatus", "Instance", "evaluate", "instances", "recall", "seal", "verdict"]

SIGNED = sign.SIGNED.replace("(x)openpgp", "dkim-signature:(x)openpgp")
"""What rspamd signs when it seals, in the words of `sign.SIGNED`."""

_AFTER_SEMICOLON = re.compile(r"(?<=;) ")
_WIDTH = 900
"""Octets of a b= that stand on one line (998 are the limit, RFC 5322 2.1.1): later seals sign where it is folded."""
_LONGEST_REASON = 200


class ChainStatus(StrEnum):
    """The Chain Validation Status of RFC 8617 4.4."""

    NONE = "none"
    PASS = "pass"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Chain:
    """What the ARC sets of a message came to."""

    status: ChainStatus
    sets: int = 0
    """The highest instance seen, 1 to 50; 0 where there is none."""
    reason: str = ""
    """Why it failed, in words; "" for none and pass."""
    sealable: bool = True
    """False where the last seal says cv=fail (the chain has ended, RFC 8617 5.1.2) or 50 sets are there already."""
    sealers: tuple[str, ...] = ()
    """Whose seals they are, from instance 1 on: d= of each ARC-Seal as A-labels, "" where that is no domain."""
    results: tuple[str, ...] = ()
    """What each ARC-Authentication-Results says after its instance, as a stranger wrote it."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One ARC set, each signature in it judged on its own."""

    number: int
    sealer: str
    """d= of the ARC-Seal, "" where that is no domain."""
    signer: str
    """The same of the ARC-Message-Signature."""
    status: str
    """cv= of the ARC-Seal."""
    selector: str
    """s= of the ARC-Seal."""
    results: str
    """As in `Chain.results`."""
    seal_fault: str
    """Why the ARC-Seal does not verify; "" where it does."""
    signature_fault: str
    """The same of the ARC-Message-Signature. Of an earlier set that is usual: somebody has changed the message."""


async def evaluate(
    message: bytes, lookup: Lookup, pool: Executor, bounds: Authentication, at: float, header: Header | None = None
) -> Chain:
    """Judges the chain of a message (RFC 8617 5.2).

    `at` is when the message came in, in seconds since the epoch. `header` is the message as `opened`, where it was
    before. All keys are looked up at once, and one that is not answered fails the chain. What takes CPU runs in `pool`.
    Whatever the message holds, a Chain comes out.
    """
    if header is not None and not header.mentions(*NAMES):
        return Chain(ChainStatus.NONE)
    found = await _found(message, pool, bounds, header)
    if not found.present:
        return Chain(ChainStatus.NONE)
    fault = found.fault
    if not fault:
        records = await look_up(key_names(found), lookup)
        fault = await asyncio.get_running_loop().run_in_executor(pool, validate, found, records, at)
    return Chain(
        ChainStatus.FAIL if fault else ChainStatus.PASS,
        found.highest,
        fault[:_LONGEST_REASON],
        found.sealable,
        tuple(_domain(each.seal) for each in found.sets),
        tuple(each.results.text for each in found.sets),
    )


async def instances(
    message: bytes, lookup: Lookup, pool: Executor, bounds: Authentication, at: float, header: Header | None = None
) -> tuple[Instance, ...]:
    """Every set of a message judged on its own, from instance 1 on; none where they are not complete.

    It tells an administrator more than `evaluate`, which decides what a chain is worth; the arguments are the same.
    """
    found = await _found(message, pool, bounds, header)
    if not found.sets:
        return ()
    records = await look_up(key_names(found, every=True), lookup)
    faults = await asyncio.get_running_loop().run_in_executor(pool, judge_each, found, records, at)
    return tuple(
        Instance(
            number,
            _domain(each.seal),
            _domain(each.signature),
            each.seal.tags.get(b"cv", b"").decode("utf-8", "replace"),
            each.seal.tags.get(b"s", b"").decode("utf-8", "replace"),
            each.results.text,
            seal_fault[:_LONGEST_REASON],
            signature_fault[:_LONGEST_REASON],
        )
        for number, (each, (signature_fault, seal_fault)) in enumerate(zip(found.sets, faults, strict=True), 1)
    )


async def _found(message: bytes, pool: Executor, bounds: Authentication, header: Header | None) -> Survey:
    def look() -> Survey:
        return surveyed(header or opened(message, bounds), bounds)

    return await asyncio.get_running_loop().run_in_executor(pool, look)


def _domain(part: Part) -> str:
    return domain_in(part.tags.get(b"d", b"")) or ""


def verdict(chain: Chain) -> Verdict:
    """The chain as one result of Authentication-Results (RFC 8617 10.1)."""
    return Verdict("arc", chain.status.value, reason=chain.reason)


def recall(message: bytes, verdicts: Sequence[Verdict], bounds: Authentication) -> Chain:
    """The Chain that was judged at the door, from the verdicts that were kept and the message. CPU bound."""
    # One that died of a fault (temperror) says nothing about the chain.
    kept = next((each for each in verdicts if each.method == "arc" and each.result in [*ChainStatus]), None)
    found = survey(message, bounds)
    if kept is None or not found.present:
        return Chain(ChainStatus.NONE)
    return Chain(ChainStatus(kept.result), found.highest, kept.reason, found.sealable)


def seal(
    message: bytes,
    *,
    chain: Chain,
    key: SigningKey,
    results: str,
    at: int,
    bounds: Authentication,
    signed: str = SIGNED,
) -> bytes:
    """The next ARC set of a message (RFC 8617 5.1): ARC-Seal, ARC-Message-Signature, ARC-Authentication-Results.

    The three fields, each with CRLF, go in front of exactly these octets; trace fields may be put in front of or
    between them. `chain` is what `evaluate` said of the message, `at` is in seconds since the epoch. `results` is the
    value of an Authentication-Results field, printable ASCII in one line (`results.resinfo`), and all that the set
    says: no such field of the message is read. `signed` lists header fields as `sign.SIGNED` does. Tags stand in the
    order of the alphabet and b= on one line, as in the public suite (arc_test_suite), so that what is signed is the
    same.

    CPU bound, the GIL released in hashing and RSA: call it in a pool. Raises SignFault.
    """
    if not chain.sealable:
        raise SignFault(f"no set may be added to this chain: {chain.reason or 'it has 50 sets'}")
    found = survey(message, bounds)
    if found.header is None:
        raise SignFault(found.fault)
    if found.highest != chain.sets or (found.fault and chain.status is not ChainStatus.FAIL):
        raise SignFault("the chain that was judged is not the chain of this message")
    header, number = found.header, chain.sets + 1
    signer = f"i={number}; s={key.selector}; t={at}"
    first, *others = _AFTER_SEMICOLON.split(results)
    recorded = folded("ARC-Authentication-Results", [f"i={number}; {first}", *others]) + b"\r\n"
    names = sign.signed_names(header, signed)
    tags = [
        f"a={key.algorithm};",
        "b=;",
        f"bh={sign.body_hash(header)};",
        f"c=relaxed/relaxed; d={key.domain};",
        sign.names_tag(names),
        signer,
    ]
    signature = sign.signature("ARC-Message-Signature", tags, key, partial(message_digest, header, names), _WIDTH)
    # A failed chain is not vouched for: its last seal covers its own set alone (RFC 8617 5.1.2).
    covered = found.sets if chain.status is ChainStatus.PASS else ()
    tags = [f"a={key.algorithm};", "b=;", f"cv={chain.status}; d={key.domain}; {signer}"]
    digest = partial(seal_digest, covered, relaxed_field(recorded), relaxed_field(signature))
    return sign.signature("ARC-Seal", tags, key, digest, _WIDTH) + signature + recorded
