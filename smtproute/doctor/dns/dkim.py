"""DKIM (RFC 6376): whether the records that our signatures and seals are verified with belong to our private keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from smtproute.core.finding import Finding, error, warning
from smtproute.doctor.dns.answers import Answers
from smtproute.doctor.dns.questions import Key
from smtproute.mailauth.keys import PublicKey, RecordFault, WeakKey, chosen, published, zone_line

__all__ = ["examine"]

_GOOD_BITS = 2048
"""RFC 8301 3.2: signers should use that much at least."""

Say = Callable[[str, str, str, str], Finding]


def examine(answers: Answers) -> Iterator[Finding]:
    """Records that are missing, broken, doubled, revoked, short or on trial, or belong to another key."""
    for key in answers.questions.keys:
        found = answers.texts[key.name]
        if not found.fault:
            yield from _key(key, found.records, error if key.used else warning)


def _key(key: Key, texts: Sequence[str], say: Say) -> Iterator[Finding]:
    def finding(name: str, what: str) -> Finding:
        lost = (
            f"What is signed or sealed with the key of {key.where} does not verify."
            if key.used
            else f"The key of {key.where} cannot take its turn before that is mended."
        )
        return say(name, key.name, f"{what} {lost}", zone_line(key.name, key.text))

    if not texts:
        yield finding("dkim-missing", f"There is no record at {key.name}.")
        return
    keys = [text for text in texts if text.startswith("v=DKIM1") or "p=" in text]
    whole, joined = _value(key.text), [_value("".join(parts)) for parts in (texts, texts[::-1])]
    if whole in joined and whole not in map(_value, texts):
        what = f"The record at {key.name} is in {len(texts)} records, where it has to be one of several strings."
        yield finding("dkim-broken", what)
        return
    if len(keys) > 1:
        what = f"There are {len(keys)} keys at {key.name}: which of them counts is left to chance (RFC 6376 3.6.2.2)."
        yield finding("dkim-two-records", what)
        return
    text = chosen(text.encode("latin-1") for text in texts)
    assert text is not None
    try:
        theirs = published(text)
    except WeakKey as fault:
        yield finding("dkim-short", f"The record at {key.name} has a key that nobody takes: {fault}.")
    except RecordFault as fault:
        yield _faulty(key, text.decode("latin-1"), str(fault), finding)
    else:
        yield from _good(key, theirs, finding)


def _faulty(key: Key, text: str, fault: str, finding: Callable[[str, str], Finding]) -> Finding:
    """A record that holds no key, as published() says."""
    value, whole = _value(text), _value(key.text) or ""
    if value == "":
        return finding("dkim-revoked", f"The record at {key.name} revokes the key: its p= is empty.")
    if '"' in text or "\\" in text:
        why = "it has quotes or backslashes of a zone file in it, which a form of a provider does not want"
    elif value is None and re.search(r"\bp\s*=", text):
        why = "no tag of it begins with p=, because there has to be a semicolon between tags"
    elif value and value != whole and whole.startswith(value):
        why = f"it is cut off after {len(value)} of {len(whole)} characters of p="
    else:
        why = fault
    return finding("dkim-broken", f"The record at {key.name} is broken: {why}.")


def _good(key: Key, theirs: PublicKey, finding: Callable[[str, str], Finding]) -> Iterator[Finding]:
    """A record that holds a key that verifiers take."""
    if theirs.key != published(key.text.encode()).key:
        what = (
            f"The record at {key.name} holds another key ({theirs}) than the private one here; where another server"
            " signs with that one, take another selector here instead."
        )
        yield finding("dkim-other-key", what)
        return
    if isinstance(theirs.key, RSAPublicKey) and theirs.key.key_size < _GOOD_BITS:
        what = (
            f"The key at {key.name} has {theirs.key.key_size} bits: verifiers take it still, and RFC 8301 3.2 asks for"
            f" {_GOOD_BITS}."
        )
        mend = f"smtproute keys new {key.domain} --selector <another than {key.selector}>"
        yield warning("dkim-short", key.name, what, mend)
    if theirs.testing:
        what = (
            f"The record at {key.name} says t=y, that signing is on trial (RFC 6376 3.6.1): verifiers may treat what it"
            " signs as unsigned."
        )
        yield warning("dkim-testing", key.name, what, zone_line(key.name, key.text))


def _value(text: str) -> str | None:
    """The value of p=, without white space; None where there is no such tag."""
    for tag in text.split(";"):
        name, _, value = tag.partition("=")
        if name.strip() == "p":
            return "".join(value.split())
    return None
