"""ARC (RFC 8617): judging the chain that a message brings, and sealing the copy that we forward."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from textwrap import wrap
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from smtproute.core.message import header_end
from smtproute.core.verdict import Verdict
from smtproute.mailauth.canonical import folded, relaxed_body, relaxed_field
from smtproute.mailauth.keys import SigningKey
from smtproute.mailauth.results import resinfo
from smtproute.mailauth.sets import MAX_SIGNATURE, Header, seal_digest, survey
from smtproute.mailauth.validation import Records, Unavailable, key_names, message_digest, validate

__all__ = ["Chain", "ChainStatus", "SealFault", "Txt", "TxtUnavailable", "evaluate", "recall", "seal", "verdict"]

SIGNED = (
    "from",
    "sender",
    "reply-to",
    "subject",
    "date",
    "message-id",
    "to",
    "cc",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "resent-to",
    "resent-cc",
    "resent-from",
    "resent-sender",
    "resent-message-id",
    "in-reply-to",
    "references",
    "list-id",
    "list-help",
    "list-owner",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "list-subscribe",
    "list-post",
    "dkim-signature",
    "openpgp",
    "autocrypt",
)
"""What rspamd signs by default when it seals: no field that a later hop adds or removes (RFC 8617 4.1.2)."""

_LONGEST_REASON = 200


class TxtUnavailable(Exception):
    """A look-up could not be answered for now; the text says why."""


class Txt(Protocol):
    """Looks a TXT record up: its strings joined, None where there is no such record. Raises TxtUnavailable."""

    async def __call__(self, name: str) -> bytes | None: ...


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


class SealFault(ValueError):
    """A message cannot be sealed; the text says why."""


async def evaluate(message: bytes, txt: Txt, pool: Executor, budget: float = 10.0) -> Chain:
    """Judges the chain of a message (RFC 8617 5.2).

    All keys are looked up at once, and what is not answered within `budget` seconds is as good as missing: the chain
    fails, with that as the reason. What takes CPU runs in `pool`. Whatever the message holds, a Chain comes out.
    """
    if b"arc-" not in message[: header_end(message)].lower():
        return Chain(ChainStatus.NONE)
    loop = asyncio.get_running_loop()
    found = await loop.run_in_executor(pool, survey, message)
    if not found.present:
        return Chain(ChainStatus.NONE)
    fault = found.fault
    if not fault:
        records = await _look_up(key_names(found), txt, budget)
        fault = await loop.run_in_executor(pool, validate, found, records)
    if fault:
        return Chain(ChainStatus.FAIL, found.highest, fault[:_LONGEST_REASON], found.sealable)
    return Chain(ChainStatus.PASS, found.highest, sealable=found.sealable)


async def _look_up(names: Iterable[str], txt: Txt, budget: float) -> Records:
    records: dict[str, bytes | Unavailable | None] = {}

    async def ask(name: str) -> None:
        records[name] = Unavailable(f"no answer within {budget:g} seconds")
        try:
            records[name] = await txt(name)
        except TxtUnavailable as error:
            records[name] = Unavailable(str(error))

    try:
        async with asyncio.timeout(budget), asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(ask(name))
    except TimeoutError:
        pass
    return records


def verdict(chain: Chain) -> Verdict:
    """The chain as one result of Authentication-Results (RFC 8617 10.1)."""
    return Verdict("arc", chain.status.value, reason=chain.reason)


def recall(message: bytes, verdicts: Sequence[Verdict]) -> Chain:
    """The Chain that was judged at the door, from the verdicts that were kept and the message. CPU bound."""
    kept = next((each for each in verdicts if each.method == "arc"), None)
    found = survey(message)
    if kept is None or not found.present:
        return Chain(ChainStatus.NONE)
    return Chain(ChainStatus(kept.result), found.highest, kept.reason, found.sealable)


def seal(
    message: bytes, *, chain: Chain, key: SigningKey, authserv_id: str, verdicts: Sequence[Verdict], at: int
) -> bytes:
    """The next ARC set of a message (RFC 8617 5.1): ARC-Seal, ARC-Message-Signature, ARC-Authentication-Results.

    The three fields, each with CRLF, go in front of exactly these octets; trace fields may be put in front of or
    between them. `chain` is what `evaluate` said of the message, `at` is in seconds since the epoch. The results are
    `verdicts` and nothing else: no Authentication-Results field of the message is read. From is signed once more
    than it is there, so a message without one is sealed too, and one put in later breaks the seal.

    CPU bound, the GIL released in hashing and RSA: call it in a pool. Raises SealFault.
    """
    if not chain.sealable:
        raise SealFault(f"no set may be added to this chain: {chain.reason or 'it has 50 sets'}")
    found = survey(message)
    if found.header is None:
        raise SealFault(found.fault)
    if found.highest != chain.sets or (found.fault and chain.status is not ChainStatus.FAIL):
        raise SealFault("the chain that was judged is not the chain of this message")
    number = chain.sets + 1
    signer = f"d={key.domain}; s={key.selector}; t={at};"
    first, *others = resinfo(authserv_id, verdicts)
    results = folded("ARC-Authentication-Results", [f"i={number}; {first}", *others]) + b"\r\n"
    names = _signed_names(found.header)
    body_hash = base64.b64encode(sha256(relaxed_body(message[found.header.body :])).digest()).decode("ascii")
    signature = folded(
        "ARC-Message-Signature",
        [f"i={number}; a=rsa-sha256; c=relaxed/relaxed; {signer}", f"h={_joined(names)};", f"bh={body_hash};", "b="],
    )
    digest = message_digest(found.header, [name.encode("ascii") for name in names], signature)
    signature = _signed(signature, digest, key)
    if len(signature) > MAX_SIGNATURE:
        raise SealFault(f"it has too many header fields to sign: {len(names)}")
    # A failed chain is not vouched for: its last seal covers its own set alone (RFC 8617 5.1.2).
    before = found.sets if chain.status is ChainStatus.PASS else ()
    last = folded("ARC-Seal", [f"i={number}; a=rsa-sha256; cv={chain.status}; {signer}", "b="])
    last = _signed(last, seal_digest(before, relaxed_field(results), relaxed_field(signature), last), key)
    return last + signature + results


def _signed_names(header: Header) -> list[str]:
    """The names for h=, each as often as it is there, From once more."""
    there = Counter(field.name.decode("ascii") for field in header.fields)
    return ["from", *(name for name in SIGNED for _ in range(there[name]))]


def _joined(names: Sequence[str]) -> str:
    """The value of h=, with spaces only where a line may break."""
    lines = wrap(": ".join(names), 70, break_long_words=False, break_on_hyphens=False)
    return " ".join(line.replace(": ", ":") for line in lines)


def _signed(field: bytes, digest: bytes, key: SigningKey) -> bytes:
    """The field, which ends in an empty b=, with its signature and CRLF."""
    value = base64.b64encode(key.private.sign(digest, PKCS1v15(), Prehashed(SHA256())))
    return field + b"\r\n ".join(value[at : at + 72] for at in range(0, len(value), 72)) + b"\r\n"
