"""`smtproute keys`: makes the keys that sign and seal, and shows the DNS records to publish for them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from smtproute.cli.configuration import OPTION

if TYPE_CHECKING:
    from smtproute.core.address import Domain
    from smtproute.core.settings import DomainKey, Settings
    from smtproute.mailauth.keys import KeyKind, SigningKey

__all__ = ["app"]

app = typer.Typer(help="Make keys for DKIM and ARC, and show the DNS records to publish.", no_args_is_help=True)

_SEALS, _WAITS, _SIGNS = "seals (ARC)", "waits for a rotation (ARC)", "signs (DKIM)"
_JSON = "One JSON object a line, one a key."


@app.command("new")
def new(
    domain: Annotated[str, typer.Argument(metavar="DOMAIN", show_default=False)],
    selector: Annotated[str, typer.Option(help="The name of the key below _domainkey; a new one for a rotation.")] = (
        "mail"
    ),
    kind: Annotated[str, typer.Option(metavar="rsa|ed25519", help="Ed25519 signs (DKIM) and cannot seal.")] = "rsa",
    bits: Annotated[int, typer.Option(min=1024, max=4096, help="The size of an RSA key (RFC 8301).")] = 2048,
    folder: Annotated[Path, typer.Option(help="Where the file is written.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help=_JSON)] = False,
) -> None:
    """Make a private key, in a file that nobody else can read, and print what to publish and to configure.

    The file has the name that docker-mailserver gives it. One that is there is never overwritten. Exit status 1: it
    is there already, or it cannot be written.
    """
    from smtproute.core.settings import DomainKey
    from smtproute.mailauth.keys import KeyKind, generate, load

    named, below = _domain(domain, "DOMAIN"), _domain(selector, "--selector").key
    if len(_record_name(named.key, below)) > 253:
        raise typer.BadParameter("the name of the record is too long: take a shorter --selector")
    try:
        made = KeyKind(kind.lower())
    except ValueError:
        raise typer.BadParameter(f"--kind {kind}: it is rsa or ed25519") from None
    file = folder.absolute() / _file_name(named, below, made, bits)
    _write(file, generate(made, bits))
    key = load(DomainKey(named, below, str(file)))
    if as_json:
        print(json.dumps(_facts(key, file=str(file))))
    else:
        print("\n".join(_new(key, str(file))))


@app.command("show")
def show(
    domain: Annotated[
        str | None, typer.Argument(metavar="[DOMAIN]", help="Only the keys of this domain.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help=_JSON)] = False,
    config: Annotated[str | None, OPTION] = None,
) -> None:
    """List the keys of the configuration, also of its docker-mailserver folder: what each does, and its DNS record.

    Exit status 1: there is no key for DOMAIN.
    """
    from smtproute.cli.configuration import reader, refuse
    from smtproute.config.document import Mistake
    from smtproute.core.transcript import legible

    wanted = _domain(domain, "DOMAIN").key if domain is not None else None
    try:
        settings = reader(config)().settings
    except Mistake as mistake:
        refuse(str(mistake))
    used = {key: does for key, does in _used(settings).items() if wanted is None or key.domain.key == wanted}
    if not used and wanted is not None:
        there = dict.fromkeys(key.domain.key for key in _used(settings))
        known = f"there are keys for {', '.join(there)}" if there else "there is no key at all"
        _fail(f"there is no key for {wanted}: {known}. Make one with: smtproute keys new {wanted}")
    if not used and not as_json:
        print("there are no keys; make one with: smtproute keys new DOMAIN")
    for number, (key, does) in enumerate(used.items()):
        facts = _shown(key, does)
        if as_json:
            print(json.dumps(facts))
        else:
            print("\n".join(map(legible, ["", *_block(facts)] if number else _block(facts))))


# Making


def _domain(written: str, of: str) -> Domain:
    from smtproute.core.address import AddressError, Domain

    try:
        domain = Domain.parse(written)
    except AddressError as error:
        raise typer.BadParameter(f"{of}: {error}") from None
    if domain.literal:
        raise typer.BadParameter(f"{of}: {written} is an address, and keys belong to names")
    return domain


def _file_name(domain: Domain, selector: str, kind: KeyKind, bits: int) -> str:
    """As docker-mailserver's `setup config dkim` names keys for rspamd."""
    from smtproute.mailauth.keys import KeyKind

    size = f"-{bits}" if kind is KeyKind.RSA else ""
    return f"{kind}{size}-{selector}-{domain.key}.private.txt"


def _write(file: Path, pem: bytes) -> None:
    """A file that is ours alone from the moment it is there."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        _fail(f"{file} is there already, and a key is not overwritten: take another --selector, or another --folder")
    except OSError as error:
        _fail(f"{file} cannot be written: {error.strerror}")
    try:
        with os.fdopen(descriptor, "wb") as key:
            key.write(pem)
            key.flush()
            os.fsync(key.fileno())
    except OSError as error:
        file.unlink()
        _fail(f"{file} cannot be written: {error.strerror}")


def _new(key: SigningKey, file: str) -> Iterator[str]:
    from smtproute.mailauth.keys import KeyKind, record

    name = _record_name(key.domain, key.selector)
    yield f"{file}: {_kind(key)}, for its owner alone to read"
    yield from ("", "Publish, as a zone file has it:", "", *_zone(name, record(key)))
    yield from ("", f"or in a web form: name {name}, type TXT, and all of this as its value:", "", record(key))
    yield from ("", "Add to the configuration what it is for:")
    rsa = key.kind is KeyKind.RSA
    for table, what in (("arc", "to seal what is forwarded (ARC)"), ("dkim", "to sign what is sent (DKIM)")):
        if rsa or table == "dkim":
            yield from ("", f'[[{table}.keys."{key.domain}"]]  # {what}', f'selector = "{key.selector}"')
            yield f"file = {json.dumps(file, ensure_ascii=False)}"
    if not rsa:
        yield from ("", "ARC knows RSA only, and so do many verifiers of DKIM: sign with an RSA key beside this one.")
    yield from ("", "Once the record is published, see whether it is the one of this key: smtproute check --dns")


# Showing


def _used(settings: Settings) -> dict[DomainKey, list[str]]:
    """The keys of the configuration, and what each does."""
    from smtproute.core.settings import SignBy

    used: dict[DomainKey, list[str]] = {}
    off = settings.arc.sign is SignBy.OFF
    for key in settings.arc.keys.values():
        used.setdefault(key, []).append('seals nothing: [arc] sign is "off"' if off else _SEALS)
    for key in settings.arc.others:
        used.setdefault(key, []).append(_WAITS)
    for several in settings.dkim.keys.values():
        for key in several:
            used.setdefault(key, []).append(_SIGNS)
    return dict(sorted(used.items(), key=lambda item: (item[0].domain.key, item[0].selector)))


def _shown(key: DomainKey, does: list[str]) -> dict[str, Any]:
    """What `--json` prints of a key; one whose file cannot be used has no record, and says why."""
    from smtproute.mailauth.keys import KeyFault, load

    sealing = _SEALS in does or _WAITS in does
    try:
        return _facts(load(key, sealing=sealing), file=key.file, does=does)
    except KeyFault as fault:
        place = {"domain": key.domain.key, "selector": key.selector}
        name = _record_name(key.domain.key, key.selector)
        unknown = {"kind": None, "bits": None, "file": key.file, "name": name, "record": None}
        return {**place, "does": does, **unknown, "why": str(fault)}


def _facts(key: SigningKey, *, file: str, does: list[str] | None = None) -> dict[str, Any]:
    from smtproute.mailauth.keys import record

    return {
        "domain": key.domain,
        "selector": key.selector,
        "does": does or [],
        "kind": str(key.kind),
        "bits": _bits(key),
        "file": file,
        "name": _record_name(key.domain, key.selector),
        "record": record(key),
        "why": "",
    }


def _block(facts: dict[str, Any]) -> Iterator[str]:
    yield f"{facts['domain']}, selector {facts['selector']}: {', '.join(facts['does'])}"
    if facts["record"] is None:
        yield f"  it cannot be used: {facts['why']}"
        return
    size = f"{facts['bits']} bits, " if facts["kind"] == "rsa" else ""
    yield f"  {facts['kind']}, {size}{facts['file']}"
    yield from (f"  {line}" for line in _zone(facts["name"], facts["record"]))


# The record


def _record_name(domain: str, selector: str) -> str:
    return f"{selector}._domainkey.{domain}"


def _zone(name: str, text: str) -> Iterator[str]:
    """The record in a zone file: strings of 255 octets at most, which resolvers join again (RFC 1035 3.3.14)."""
    from smtproute.mailauth.keys import zone_line

    head, txt, strings = zone_line(name, text).partition(" IN TXT ")
    yield f"{head}{txt}("
    yield from (f"    {string}" for string in strings.replace('" "', '"\n"').split("\n"))
    yield ")"


def _kind(key: SigningKey) -> str:
    from smtproute.mailauth.keys import KeyKind

    return f"an RSA key of {_bits(key)} bits" if key.kind is KeyKind.RSA else "an Ed25519 key"


def _bits(key: SigningKey) -> int:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    return key.private.key_size if isinstance(key.private, RSAPrivateKey) else 256


def _fail(text: str) -> NoReturn:
    print(text, file=sys.stderr)
    raise typer.Exit(1)
