"""Expect: where mail goes and how it is sealed, against what is expected; what is not so, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from smtproute.core.address import Address, Domain
from smtproute.core.lookup import Lookup
from smtproute.core.plan import Delivery
from smtproute.core.settings import Authentication, Kind
from smtproute.core.transcript import legible
from smtproute.intake.explain import Explained
from smtproute.mailauth.arc import Chain, ChainStatus, Instance, evaluate, instances
from smtproute.mailauth.closer import Closer
from smtproute.mailauth.lookups import Lookups
from smtproute.testing.pattern import Pattern
from smtproute.trace.judged import told

__all__ = [
    "Sealing",
    "misrouted",
    "missealed",
    "route",
    "routes",
    "sealing",
]

_BOUNDS = Authentication()
_ACCEPTED = Pattern("2*")


# Where mail goes


def route(delivery: Delivery) -> str:
    """Where one copy goes: "mailbox a@x", "endpoint partner b@y", "capture c@x", "held d@x", "bounce e@x"."""
    if delivery.held:
        return f"held {delivery.address}"
    return f"{delivery.place} {delivery.mailbox or delivery.address}"


def routes(
    *,
    mailbox: str | Sequence[str] = (),
    endpoint: tuple[str, str] | Sequence[tuple[str, str]] = (),
    capture: str | Sequence[str] = (),
    held: str | Sequence[str] = (),
    bounce: str | Sequence[str] = (),
) -> list[str]:
    """The same of what is expected: addresses, of endpoints each with the name before it; one, or several.

    Raises AddressError.
    """
    found = [f"mailbox {address}" for address in _several(mailbox)]
    found += [f"endpoint {name} {address}" for name, address in _pairs(endpoint)]
    found += [f"capture {address}" for address in _several(capture)]
    found += [f"held {address}" for address in _several(held)]
    found += [f"bounce {address}" for address in _several(bounce)]
    for each in found:
        _key(each)
    return found


def misrouted(explained: Explained, expected: Sequence[str], reply: Pattern = _ACCEPTED) -> str:
    """What is not so where a recipient's mail was to go by exactly these `routes` and RCPT to be answered so.

    "" where all is so; else lines, of which the last ones are the decisions as `explain` prints them. Raises
    AddressError for an address that is none.
    """
    plan = explained.plan
    is_there = [route(leg.delivery) for leg in explained.legs]
    there, wanted = {*map(_key, is_there)}, {*map(_key, expected)}
    answered = reply.answers(plan.reply)
    if there == wanted and answered:
        return ""
    lines = [f"mail for {plan.recipient} goes elsewhere than expected"]
    if there == wanted:
        lines = [f"mail for {plan.recipient} is answered otherwise than expected"]
    lines += _listed("expected:", [*expected, *([] if reply == _ACCEPTED else [f"the reply {reply}"])])
    lines += _listed("it is:", [*is_there, *([] if answered and reply == _ACCEPTED else [f"the reply {plan.reply}"])])
    lines += _listed("missing:", [each for each in expected if _key(each) not in there])
    lines += _listed("not expected:", [each for each in is_there if _key(each) not in wanted])
    return "\n".join([*lines, "", "why, as smtproute explain prints it:", *map(legible, explained.lines())])


def _several(written: str | Sequence[str]) -> Sequence[str]:
    return [written] if isinstance(written, str) else written


def _pairs(written: tuple[str, str] | Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    match written:
        case (str(name), str(address)):
            yield name, address
        case _:
            for name, address in written:
                yield name, address


def _key(text: str) -> tuple[str, str, str]:
    """A route in the form in which routes are compared: kind, endpoint or "", address. Raises AddressError."""
    kind, _, address = text.partition(" ")
    endpoint = ""
    if kind == Kind.ENDPOINT:
        endpoint, _, address = address.partition(" ")
    return kind, endpoint, Address.parse(address).key


def _listed(label: str, texts: Sequence[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        yield f"  {'' if number else label:<14} {legible(text)}"


# How mail is sealed


@dataclass(frozen=True, slots=True)
class Sealing:
    """The ARC chain of a message, as whoever gets it finds it."""

    chain: Chain
    sets: tuple[Instance, ...]
    """From 1 on; none where they are not complete."""
    told: tuple[str, ...]
    """Set by set who sealed and what does not verify, as `smtproute verify` prints it."""


async def sealing(message: bytes, lookup: Lookup, pool: Executor, at: float) -> Sealing:
    """What can be found out about the ARC chain of a message. `lookup` is asked for the keys.

    `at`: when it is judged, in seconds since the epoch.
    """
    lookups = Lookups(lookup, _BOUNDS.timeout, _BOUNDS.lookups)
    chain = await evaluate(message, lookups, pool, _BOUNDS, at)
    sets = await instances(message, lookups, pool, _BOUNDS, at)
    facts = await Closer(message, lookups, pool, _BOUNDS, at).chain(chain)
    return Sealing(chain, sets, tuple(line for each in facts for line in told(each)))


def missealed(
    found: Sealing,
    *,
    cv: str | None = None,
    i: int | None = None,
    domain: str | None = None,
    selector: str | None = None,
) -> str:
    """What is not so of a chain, in lines; "" where all is so. The arguments are those of `Bench.assert_arc`."""
    newest = found.sets[-1] if found.sets else None
    alone = "newest set" if cv == "fail" else "chain"
    wanted = [_set(i, cv, domain, selector) or "an ARC set", f"the {alone} verifies"]
    right, state = _state(found, cv)
    right = right and newest is not None and _is_so(newest, i, cv, domain, selector)
    if i == 0:
        right, wanted = found.chain.status is ChainStatus.NONE, ["no ARC set"]
    if right:
        return ""
    is_there = ["no ARC set"]
    if newest is not None:
        is_there = [_set(newest.number, newest.status, newest.sealer or "(no domain)", newest.selector), state]
    elif found.chain.status is not ChainStatus.NONE:
        is_there = ["ARC fields that are no whole sets", state]
    lines = ["the ARC seal is not as expected", *_listed("expected:", wanted), *_listed("it is:", is_there)]
    if found.chain.status is not ChainStatus.NONE:
        lines += ["", "set by set, as smtproute verify prints it:", *found.told]
    return "\n".join(lines)


def _is_so(newest: Instance, i: int | None, cv: str | None, domain: str | None, selector: str | None) -> bool:
    return (
        i in (None, newest.number)
        and cv in (None, newest.status)
        and (domain is None or Domain.parse(domain).key == newest.sealer)
        and selector in (None, newest.selector)
    )


def _state(found: Sealing, cv: str | None) -> tuple[bool, str]:
    """Whether the chain verifies, or where it had failed and the last seal was to say so the last set; in words."""
    newest = found.sets[-1] if found.sets else None
    if newest is not None and cv == newest.status == "fail":
        fault = newest.seal_fault or newest.signature_fault
        return not fault, f"the newest set does not verify: {fault}" if fault else "the newest set verifies"
    if found.chain.status is ChainStatus.PASS:
        return True, "the chain verifies"
    return False, f"the chain does not verify: {found.chain.reason}"


def _set(number: int | None, status: str | None, domain: str | None, selector: str | None) -> str:
    parts = (("i", number), ("cv", status), ("d", domain), ("s", selector))
    return ", ".join(f"{tag}={value}" for tag, value in parts if value is not None)
