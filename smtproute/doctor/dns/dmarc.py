"""DMARC (RFC 7489): whether the local domains publish a policy that can be followed, and our signatures align."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches

from smtproute.core.finding import Finding, error, warning
from smtproute.core.verdict import Disposition
from smtproute.doctor.dns.answers import Answer, Answers, permissions
from smtproute.doctor.survey import listed
from smtproute.mailauth.dmarc import VERSION, Record, RecordFault, aligned, organisational, parse
from smtproute.mailauth.keys import zone_line

__all__ = ["examine"]

_VALUES = {
    "v": re.compile("DMARC1"),
    "p": re.compile("none|quarantine|reject", re.I),
    "sp": re.compile("none|quarantine|reject", re.I),
    "np": re.compile("none|quarantine|reject", re.I),
    "adkim": re.compile("[rs]", re.I),
    "aspf": re.compile("[rs]", re.I),
    "pct": re.compile("[0-9]{1,2}|100"),
    "fo": re.compile(r"[01ds](?:\s*:\s*[01ds])*", re.I),
    "rf": re.compile(r"afrf(?:\s*:\s*[a-z0-9-]+)*", re.I),
    "ri": re.compile("[0-9]{1,10}"),
    "rua": re.compile(r".*", re.S),
    "ruf": re.compile(r".*", re.S),
    "psd": re.compile("[ynu]", re.I),
    "t": re.compile("[yn]", re.I),
}
"""The tags of RFC 7489 6.3 and RFC 9091, those that replace some of them later, and their values."""
_WORDS = {
    **dict.fromkeys(("p", "sp", "np"), ("none", "quarantine", "reject")),
    **dict.fromkeys(("adkim", "aspf"), ("relaxed", "strict")),
}
"""What values that are none are compared with."""
_UNPARTED = re.compile(rf"(?<=[^\s;,])[\s,]+(?=({'|'.join(_VALUES)})\s*=)", re.I)
"""What stands where a semicolon should."""
_URI = re.compile(r"mailto:[^\s@,!]+@[^\s@,!]+(?:![0-9]+[kmgt]?)?", re.I)


def examine(answers: Answers) -> Iterator[Finding]:
    """Records that are missing, doubled or do not say what they mean; signatures that do not align."""
    for domain in answers.questions.domains:
        name = f"_dmarc.{domain}"
        parent = f"_dmarc.{organisational(domain)}"
        found = answers.texts[name]
        if found.fault:
            continue
        records = _records(found)
        if len(records) == 1:
            yield from _record(answers, domain, records[0])
        elif records:
            mildest = min((_values(_tags(text)) for text in records), key=_strictness)
            what = (
                f"{domain} has {len(records)} DMARC records, {' and '.join(records)}, and with more than one none"
                " counts (RFC 7489 6.6.3). Keep one; proposed is the mildest."
            )
            yield warning("dmarc-two-records", name, what, zone_line(name, _mended(domain, mildest)))
        elif not (parent != name and (answers.texts[parent].fault or _records(answers.texts[parent]))):
            what = (
                f"{domain} has no DMARC record: nobody is told what to do with mail that forges it, and Gmail, Outlook"
                " and Yahoo want one of those who send much."
            )
            yield warning("dmarc-missing", name, what, zone_line(name, _mended(domain, {})))
        elif len(inherited := _records(answers.texts[parent])) == 1:
            with contextlib.suppress(RecordFault):
                record = parse(inherited[0])
                yield from _alignment(answers, domain, replace(record, policy=record.subdomains))


def _records(answer: Answer) -> list[str]:
    """What is meant to be a DMARC record."""
    return [text for text in answer.records if re.match(r"\s*v\s*=\s*dmarc", text, re.I)]


def _tags(text: str) -> list[tuple[str, str]]:
    """Names and values, as they are meant where semicolons are missing."""
    parts = [tag.partition("=") for tag in _UNPARTED.sub(";", text).split(";") if tag.strip()]
    return [(tag.strip(), value.strip()) for tag, _, value in parts]


def _values(tags: list[tuple[str, str]]) -> dict[str, str]:
    return {tag.lower(): value for tag, value in reversed(tags)}


def _strictness(values: Mapping[str, str]) -> int:
    policy = _meant("p", values.get("p", ""))
    return ("quarantine", "reject").index(policy.lower()) + 1 if policy and policy.lower() != "none" else 0


def _mended(domain: str, values: Mapping[str, str]) -> str:
    """The record with what is right of these values, by tag, or close to it; of none, what to begin with."""
    meant = {tag: _meant(tag, value) for tag, value in values.items()}
    kept = {tag: value for tag, value in meant.items() if value}
    reports = {tag: kept.pop(tag).split(",") for tag in ("rua", "ruf") if tag in kept}
    reports.setdefault("rua", [f"postmaster@{domain}"])
    for tag, uris in reports.items():
        named = [uri if uri.lower().startswith("mailto:") else f"mailto:{uri}" for uri in map(str.strip, uris)]
        if good := [uri for uri in named if _URI.fullmatch(uri)]:
            kept[tag] = ",".join(good)
    first = {"v": "DMARC1", "p": kept.pop("p", "none")}
    kept.pop("v", None)
    return "; ".join(f"{tag}={value}" for tag, value in {**first, **kept}.items())


def _meant(tag: str, value: str) -> str:
    """The value, or the one that is probably meant by it; "" where none is."""
    if tag not in _VALUES or _VALUES[tag].fullmatch(value):
        return value if tag in _VALUES else ""
    close = get_close_matches(value.lower(), _WORDS.get(tag, ()), 1, 0.5)
    return "".join(close) if tag in ("p", "sp", "np") else "".join(close)[:1]


def _record(answers: Answers, domain: str, text: str) -> Iterator[Finding]:
    name = f"_dmarc.{domain}"
    tags = _tags(text)
    values = _values(tags)
    mended = zone_line(name, _mended(domain, values))
    wrong = list(_syntax(text, tags))
    if wrong:
        what = f"The DMARC record of {domain} does not say what it means: {'; '.join(wrong)}."
        yield warning("dmarc-syntax", name, what, mended)
    if "p" not in values:
        what = f"The DMARC record of {domain} has no p=, so it is no policy (RFC 7489 6.3): it is passed over."
        yield warning("dmarc-policy", name, what, mended)
    reports = [uri.strip() for tag in ("rua", "ruf") for uri in values.get(tag, "").split(",") if tag in values]
    bad = [uri or "an empty one" for uri in reports if not _URI.fullmatch(uri)]
    if bad:
        what = f"The DMARC record of {domain} wants reports at {listed(bad)}: that is no mailto: address, none comes."
        yield warning("dmarc-report-address", name, what, mended)
    lacking = {
        host: record
        for host, record in permissions(domain, text).items()
        if not answers.texts[record].fault and not any(map(VERSION.match, answers.texts[record].records))
    }
    if lacking:
        what = (
            f"The DMARC record of {domain} wants reports at {listed(list(lacking))}, of another organisation, which"
            " does not say that it takes them (RFC 7489 7.1): most send none there. It has to publish that."
        )
        mend = "\n".join(zone_line(record, "v=DMARC1") for record in lacking.values())
        yield warning("dmarc-report-foreign", name, what, mend)
    try:
        record = parse(text)
    except RecordFault:
        return
    yield from _alignment(answers, domain, record)
    if values.get("p", "").lower() == "none" and "rua" not in values:
        what = (
            f"The DMARC record of {domain} says p=none and has no rua=: forged mail is taken as ever, and nobody tells"
            " you of it."
        )
        yield warning("dmarc-idle", name, what, mended)


def _syntax(text: str, tags: list[tuple[str, str]]) -> Iterator[str]:
    """What is wrong with single tags, in words."""
    unparted = _UNPARTED.findall(text)
    if unparted:
        yield f"a semicolon is missing before {listed([f'{tag}=' for tag in unparted])}"
    if tags[0] != ("v", "DMARC1"):
        yield "it has to begin with v=DMARC1, in capitals"
    seen: set[str] = set()
    for tag, value in tags:
        key = tag.lower()
        if key in seen:
            yield f"{tag}= is there twice"
        elif key not in _VALUES:
            close = get_close_matches(key, _VALUES, 1, 0.5)
            yield f"there is no tag {tag}" + (f": {close[0]}=?" if close else "")
        elif key != "v" and not _VALUES[key].fullmatch(value):
            meant = _meant(key, value)
            yield f"{tag}={value} is no value of it" + (f": {meant}?" if meant else "")
        seen.add(key)


def _alignment(answers: Answers, domain: str, record: Record) -> Iterator[Finding]:
    signers = answers.questions.signers.get(domain, ())
    if not signers and answers.questions.sending and record.policy is not Disposition.NONE:
        what = (
            f"Mail of {domain} is not signed here (DKIM), and its DMARC record asks for {record.policy}: what this"
            " relay sends for it passes by SPF alone, and fails wherever it is forwarded."
        )
        mend = f'smtproute keys new {domain}\n[[dkim.keys."{domain}"]] with the key that it makes'
        yield warning("dmarc-unsigned", f"_dmarc.{domain}", what, mend)
    if not signers or any(aligned(signer, domain, strict=record.strict_dkim) for signer in signers):
        return
    how = "adkim=s wants the very same domain" if record.strict_dkim else "that is another organisation's domain"
    what = (
        f"Mail of {domain} is signed in the name of {listed(list(signers))}, which does not align with it: {how}"
        " (RFC 7489 3.1.1). For DMARC it is as good as unsigned."
    )
    say = warning if record.policy is Disposition.NONE else error
    yield say("dmarc-unaligned", f"_dmarc.{domain}", what, f'[[dkim.keys."{domain}"]] with a key of {domain}')
