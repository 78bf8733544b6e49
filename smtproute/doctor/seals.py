"""Seals: whether rspamd seals what docker-mailserver forwards (ARC), and whether the seal survives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from smtproute.config import files
from smtproute.core.address import Domain
from smtproute.core.docker_mailserver import Folder, KeyFile, Signing
from smtproute.core.finding import Finding, error, warning
from smtproute.core.seals import keyless
from smtproute.core.settings import Arc, DomainKey, SignBy
from smtproute.doctor.survey import Survey, listed

__all__ = ["examine"]

ARC_CONF = "rspamd/override.d/arc.conf"
_SELECTOR = "rspamd"
"""Of a key that has to be made: "mail" is what others are called, and each key has a record of its own."""
_OTHER_KEYS = frozenset({"path", "path_map", "selector_map", "use_redis", "use_vault", "key_table"})
"""Options by which rspamd may find a key that is in no `domain` block."""


def examine(survey: Survey) -> Iterator[Finding]:
    """ARC that is missing, that signs nothing, or whose seals break."""
    folder = survey.folder
    if folder is None:
        return
    if folder.arc is None:
        if survey.forwards and survey.snapshot.settings.arc.sign is SignBy.OFF:
            yield _missing(survey, folder)
        return
    environment = folder.environment
    if environment.written and not environment.on("ENABLE_RSPAMD"):
        what = f"{ARC_CONF} is there, and rspamd does not run: no forwarded mail is sealed."
        yield error("arc-rspamd-off", environment.rule("ENABLE_RSPAMD"), what, "ENABLE_RSPAMD=1")
    if not folder.arc.option("enabled", True):
        what = "enabled = false: no forwarded mail is sealed."
        yield error("arc-off", folder.arc.options["enabled"].rule, what, "enabled = true;")
    elif not folder.arc.option("sign_inbound", True):
        what = "sign_inbound = false: what strangers send is not sealed, and that is what is forwarded."
        yield error("arc-off", folder.arc.options["sign_inbound"].rule, what, "sign_inbound = true;")
    yield from _keys(survey, folder.arc)
    yield from _headers(folder)


def _missing(survey: Survey, folder: Folder) -> Finding:
    named = [f"{key} (to {target})" for forwards in survey.forwards.values() for key, target in forwards]
    what = (
        f"{listed(named)}: this mail leaves the house without an ARC seal. Where the author's DKIM signature does not"
        " survive, DMARC fails at the next server, which refuses it or takes it for spam."
    )
    return warning("arc-missing", ARC_CONF, what, _sealing(survey, folder))


def _sealing(survey: Survey, folder: Folder) -> str:
    """What seals: an arc.conf, or where rspamd is off and OpenDKIM has keys, this relay with those."""
    off = folder.environment.written and not folder.environment.on("ENABLE_RSPAMD")
    if off and (here := {key.domain: key for key in reversed(folder.opendkim) if files.there(Path(key.file))}):
        return _sealing_here(survey, here)
    signing = folder.dkim.keys if folder.dkim is not None else ()
    keys = {key.domain: key for key in reversed(signing) if files.there(Path(key.file)) and "ed25519" not in key.file}
    lines = ["ENABLE_RSPAMD=1", "ENABLE_OPENDKIM=0"] if off else []
    blocks = []
    for domain in survey.forwards:
        selector, path = _SELECTOR, f"/tmp/docker-mailserver/rspamd/dkim/rsa-2048-{_SELECTOR}-{domain}.private.txt"
        if domain in keys:
            selector, path = keys[domain].selector, keys[domain].written
        else:
            lines.append(f"setup config dkim domain {domain} selector {selector}")
        blocks.append(f'{domain} {{ path = "{path}"; selector = "{selector}"; }}')
    if "smtp_header_checks" not in folder.main:
        lines.append("smtp_header_checks = (in postfix-main.cf)")
    lines += ["sign_local = true;", "sign_authenticated = true;", f"domain {{ {' '.join(blocks)} }}"]
    return "\n".join(lines)


def _sealing_here(survey: Survey, found: Mapping[str, KeyFile]) -> str:
    """This relay's own `[arc.keys]`. Where a local domain has no key, one key seals for all."""
    local = survey.routing.local_domains
    keys = {domain: key for domain, key in found.items() if domain in local} or dict(found)
    arc = Arc(SignBy.RECIPIENT, keys={domain: DomainKey(Domain(domain, domain), "", "") for domain in keys})
    lines = ["# in the configuration of this relay; docker-mailserver itself seals with ENABLE_RSPAMD=1,"]
    lines.append("# ENABLE_OPENDKIM=0 and keys of a selector of their own (setup config dkim selector rspamd)")
    if keyless(arc, local):
        first = next(iter(keys))
        keys = {first: keys[first]}
        lines += ["[arc]", f'sign = "{first}"']
    for domain, key in keys.items():
        lines += [f'[[arc.keys."{domain}"]]', f'selector = "{key.selector}"', f"file = {json.dumps(key.file)}"]
    return "\n".join(lines)


def _keys(survey: Survey, arc: Signing) -> Iterator[Finding]:
    """Domains that forward, and whether rspamd finds a key for each; keys that it never looks for."""
    line = arc.options.get("use_domain")
    if (line is not None and line.value != "recipient") or arc.options.keys() & _OTHER_KEYS:
        return
    keys = {key.domain.lower(): key for key in arc.keys}
    lost: set[str] = set()
    for domain, key in keys.items():
        asked = arc.asked(domain)
        if asked != domain:
            lost.add(domain)
            yield _never_found(survey, key, asked, found=asked in keys)
    for domain, forwards in survey.forwards.items():
        asked = arc.asked(domain)
        if asked in keys or domain in lost:
            continue
        names = listed([name for name, _ in forwards])
        because = f" (use_esld makes {asked} of it)" if asked != domain else ""
        what = (
            f"{names}: mail to {domain} is forwarded and there is no key for {asked}{because}. rspamd leaves it"
            " unsealed, and says so at debug level only."
        )
        yield error("arc-no-key", arc.file, what, _block(asked))


def _block(domain: str) -> str:
    """What `domain { }` needs."""
    return (
        f'{domain} {{ path = "/tmp/docker-mailserver/rspamd/dkim/rsa-2048-mail-{domain}.private.txt";'
        f' selector = "mail"; }}\n(inside domain {{ }}; the key is made by: setup config dkim domain {domain})'
    )


def _never_found(survey: Survey, key: KeyFile, registered: str, *, found: bool) -> Finding:
    what = f"use_esld, which is on by default, makes {registered} of {key.domain}: rspamd never finds this key."
    if found:
        return warning("arc-esld", key.rule, f"{what} It seals with the key of {registered}.", "use_esld = false;")
    if key.domain.lower() in survey.forwards:
        what += f" Mail to {key.domain} that is forwarded goes out unsealed, and the log says so at debug level only."
    return error("arc-esld", key.rule, what, "use_esld = false;")


def _headers(folder: Folder) -> Iterator[Finding]:
    """docker-mailserver's own smtp_header_checks, which change mail on its way out, after rspamd has signed it."""
    if "smtp_header_checks" not in folder.main:
        what = (
            "docker-mailserver shortens Mime-Version and removes User-Agent, X-Mailer and others as mail goes out,"
            " after rspamd has sealed it. Seals and signatures cover Mime-Version: where it has a comment, as in mail"
            " from Apple Mail, both break, and the next server takes the message for forged."
        )
        yield error("headers-after-seal", "postfix-main.cf", what, "smtp_header_checks =")
