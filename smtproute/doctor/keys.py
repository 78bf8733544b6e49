"""Keys: whether the private keys that sign are there, strong enough, kept as private keys should be, and used."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from smtproute.config import files
from smtproute.core.address import Domain
from smtproute.core.docker_mailserver import KeyFile
from smtproute.core.finding import Finding, error, warning
from smtproute.core.settings import DomainKey, SignBy
from smtproute.doctor.survey import Survey
from smtproute.mailauth.keys import MIN_BITS, KeyFault, load, read, record

__all__ = ["examine"]

_MISSING = "setup config dkim domain {domain} selector {selector}"


def examine(survey: Survey) -> Iterator[Finding]:
    """The keys of the configuration file, then those of a docker-mailserver folder."""
    yield from _configured(survey)
    yield from _one_record(survey)
    folder = survey.folder
    if folder is None:
        return
    seen: set[str] = set()
    for key in folder.private_keys:
        if key.file and key.file not in seen:
            seen.add(key.file)
            yield from _mode(key.rule, key.file)
    for key in folder.arc.keys if folder.arc is not None else ():
        yield from _usable(key, f"mail to {key.domain} that is forwarded is not sealed", sealing=True)
    for key in folder.dkim.keys if folder.dkim is not None else ():
        yield from _usable(key, f"mail of {key.domain} goes out without this signature", sealing=False)
    for key in folder.opendkim:
        if files.there(Path(key.file)):  # the reader has said where one is missing
            yield from _usable(key, f"mail of {key.domain} goes out without this signature", sealing=False)


def _configured(survey: Survey) -> Iterator[Finding]:
    """`[arc.keys]` and `[dkim.keys]`: that they can be used was seen when they were read."""
    arc, dkim = survey.snapshot.settings.arc, survey.snapshot.settings.dkim
    theirs = {key.file for key in survey.folder.private_keys} if survey.folder is not None else set()
    signing = (key for several in dkim.keys.values() for key in several)
    for table, keys in (("arc", (*arc.keys.values(), *arc.others)), ("dkim", signing)):
        for key in keys:
            if key.file not in theirs:
                yield from _mode(f'{table}.keys."{key.domain}"', key.file)
    for key in arc.keys.values():
        if key.file in theirs:
            continue
        where = f'arc.keys."{key.domain}"'
        if arc.sign is SignBy.RECIPIENT and key.domain.key not in survey.routing.local_domains:
            yield warning("key-unused", where, f"{key.domain} is no local domain: this key seals nothing.")


def _one_record(survey: Survey) -> Iterator[Finding]:
    """Two keys in use whose public halves belong at one name of DNS: it can hold only one (RFC 6376 3.6.2.2)."""
    first: dict[str, tuple[str, str]] = {}
    for where, key, here in _in_use(survey):
        try:
            text = record(load(key))
        except KeyFault:
            continue  # which is a finding of its own
        name = f"{key.selector.lower()}._domainkey.{key.domain.key}"
        other, theirs = first.setdefault(name, (where, text))
        if theirs != text:
            only = "" if here else f" Here only the key of {other} signs, and docker-mailserver signs with both."
            what = (
                f"{other} has another key with the same selector and domain, and {name} can hold only one of the two:"
                f" what is signed with the other does not verify.{only}"
            )
            new = f"smtproute keys new {key.domain} --selector <another than {key.selector}>"
            if not here:
                another = f"setup config dkim domain {key.domain} selector <another than {key.selector}>"
                new = f"ENABLE_OPENDKIM=0\n(or a new selector, and record, for one of them: {another})"
            yield error("dkim-one-record", where, what, new)


def _in_use(survey: Survey) -> Iterator[tuple[str, DomainKey, bool]]:
    """Each key that signs or seals, where it is named, and whether it does so here or in docker-mailserver alone."""
    settings, folder = survey.snapshot.settings, survey.folder
    theirs = {key.file: key.rule for key in reversed(folder.private_keys)} if folder is not None else {}
    signing = [key for keys in settings.dkim.keys.values() for key in keys]
    for key in (*settings.arc.keys.values(), *settings.arc.others):
        yield theirs.get(key.file, f'arc.keys."{key.domain}"'), key, True
    for key in signing:
        yield theirs.get(key.file, f'dkim.keys."{key.domain}"'), key, True
    if folder is None or not folder.environment.written or not folder.environment.on("ENABLE_OPENDKIM"):
        return
    if any(key.file in theirs for key in signing):
        for each in folder.opendkim:
            yield each.rule, DomainKey(Domain(each.domain, each.domain), each.selector, each.file), False


def _mode(where: str, file: str) -> Iterator[Finding]:
    try:
        mode = Path(file).stat().st_mode
    except OSError:
        return  # a missing key is a finding of its own
    if mode & (stat.S_IRGRP | stat.S_IWGRP | stat.S_IRWXO):
        shown = stat.filemode(mode)
        what = f"{file} is readable by others ({shown}): whoever can read it can sign in the domain's name."
        yield warning("key-mode", where, what, f"chmod 600 {file}")


def _usable(key: KeyFile, consequence: str, *, sealing: bool) -> Iterator[Finding]:
    """Whether mail can be sealed or else signed with it."""
    new = _MISSING.format(domain=key.domain, selector=key.selector)
    if not key.file:
        return  # the reader has said that the path is nowhere here
    try:
        load(DomainKey(Domain(key.domain, key.domain), key.selector, key.file), sealing=sealing)
    except KeyFault as fault:
        if not files.there(Path(key.file)):
            what = f"{key.written} is not there: {consequence}."
            yield error("arc-key-missing" if sealing else "dkim-key-missing", key.rule, what, new)
        elif (bits := _bits(key.file)) and bits < MIN_BITS:
            what = f"{key.written} has {bits} bits, and verifiers take {MIN_BITS} at least (RFC 8301): what it signs"
            yield error(
                "arc-key-short" if sealing else "dkim-key-short",
                key.rule,
                f"{what} counts for nothing.",
                f"{new} keysize 2048",
            )
        else:
            what = f"{str(fault).replace(key.file, key.written)}. Until then {consequence}."
            yield error("arc-key-unusable" if sealing else "dkim-key-unusable", key.rule, what, new)


def _bits(file: str) -> int:
    """The size of an RSA key; 0 where it cannot be told."""
    try:
        private = load_pem_private_key(read(file), password=None)
    except (OSError, TypeError, ValueError, UnsupportedAlgorithm):
        return 0
    return private.key_size if isinstance(private, RSAPrivateKey) else 0
