"""Signing: the keys that seal (ARC) and those that sign (DKIM), of the file or else of a docker-mailserver folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from smtproute.config.document import Document, Location
from smtproute.config.schema import KeyTable, Root, Sign
from smtproute.core.address import Domain
from smtproute.core.seals import keyless
from smtproute.core.settings import Arc, Dkim, DomainKey, SignBy

__all__ = ["arc", "dkim"]


def arc(document: Document, root: Root, folder: Arc, local_domains: Mapping[str, str]) -> Arc:
    """Who seals: by the keys that are written here, else as the folder says. Of one domain's keys the first seals."""
    written = _keys(document, ("arc", "keys"), root.arc.keys)
    if not written and folder.keys:
        return _folder_arc(document, root, folder)
    keys = {domain: first for domain, (first, *_) in written.items()}
    others = tuple(key for _, *rest in written.values() for key in rest)
    sign = root.arc.sign or Sign(SignBy.RECIPIENT if keys else SignBy.OFF)
    match sign.by:
        case SignBy.OFF:
            pass
        case _ if not keys:
            text = 'there is no key to seal with. Add [arc.keys."example.org"] with selector and file.'
            document.wrong(("arc", "sign"), text)
        case SignBy.RECIPIENT | SignBy.SENDER:
            for domain_key, rule in keyless(Arc(sign.by, keys=keys), local_domains).items():
                text = (
                    f"missing, though {domain_key} is a local domain ({rule}) and its mail is sealed with its key. "
                    f'Add selector and file, or seal all with one key: [arc] sign = "{next(iter(keys))}".'
                )
                document.wrong(("arc", "keys", domain_key), text)
        case SignBy.DOMAIN:
            if sign.domain is not None and sign.domain.key not in keys:
                text = f'there is no key for it. Add [arc.keys."{sign.domain}"] with selector and file.'
                document.wrong(("arc", "sign"), text)
        case _:
            assert_never(sign.by)
    return Arc(sign.by, sign.domain, keys, others)


def _folder_arc(document: Document, root: Root, arc: Arc) -> Arc:
    """The folder's sealing, with the `sign` that is written here. A domain without a key is no mistake."""
    sign = root.arc.sign
    if sign is None:
        return arc
    if sign.by is SignBy.OFF:
        return Arc()
    if sign.domain is not None and sign.domain.key not in arc.keys:
        text = f"the folder's arc.conf has no key for it. Its keys: {', '.join(arc.keys)}."
        document.wrong(("arc", "sign"), text)
    return replace(arc, sign=sign.by, domain=sign.domain)


def dkim(document: Document, root: Root, folder: Dkim) -> Dkim:
    """Who signs: all keys that are written here, else as the folder says."""
    keys = _keys(document, ("dkim", "keys"), root.dkim.keys)
    return Dkim(keys) if keys else folder


def _keys(
    document: Document, at: Location, written: Mapping[Domain, tuple[KeyTable, ...]]
) -> dict[str, tuple[DomainKey, ...]]:
    """The keys of each domain, in their order. Two of one selector would be one record."""
    keys: dict[str, tuple[DomainKey, ...]] = {}
    for domain, tables in written.items():
        for number, table in enumerate(tables):
            here = (*at, domain.text, number)
            others = keys.get(domain.key, ())
            if any(table.selector.lower() == other.selector.lower() for other in others):
                text = f"{domain} has a key of this selector already. Give each key its own selector and record."
                document.wrong((*here, "selector"), text)
            file = document.file((*here, "file"), table.file)
            keys[domain.key] = (*others, DomainKey(domain, table.selector, str(file)))
    return keys
