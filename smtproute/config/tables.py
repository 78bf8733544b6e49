"""Tables: the text of alias tables becomes what `core.aliases` looks up, read as Postfix reads it.

A fault in a table never stops us. A line that Postfix skips is skipped with the same reason, a table that Postfix
could not use (a duplicate key) gets a `fault`; each is a finding with file and line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping

import pcre2

from smtproute.core.address import Address, AddressError, Domain
from smtproute.core.aliases import (
    Condition,
    Entry,
    PatternError,
    PcreRule,
    PcreTable,
    Table,
    TextTable,
    compile_pattern,
    targets,
)
from smtproute.core.finding import Finding, error, warning

__all__ = [
    "alias_table",
    "decoded",
    "inline_comments",
    "key_domains",
    "logical_lines",
    "pcre_table",
    "text_table",
    "unread",
    "utf8",
]

_SPACE = " \t\n\v\f\r"
"""What C's isspace() calls white space: str.strip() would take more."""


def decoded(text: bytes | str) -> str:
    """Octets as text; what is not UTF-8 survives as surrogates."""
    return text if isinstance(text, str) else text.decode("utf-8", "surrogateescape")


def utf8(text: str) -> bool:
    """Whether `decoded` text was UTF-8."""
    return not any("\udc80" <= character <= "\udcff" for character in text)


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines as Postfix joins them (readlline(3)), each with the number of its first physical line.

    Blank lines and comments vanish, even between a line and its continuation, which begins with white space.
    """
    first, joined = 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip(_SPACE) or line.lstrip(_SPACE).startswith("#"):
            continue
        if not joined or line[0] not in _SPACE:
            if joined:
                yield first, joined
            first, joined = number, ""
        joined += line
    if joined:
        yield first, joined


def unread(octets: bytes, table: Table | Collection[object]) -> bool:
    """Whether a file has lines and nothing came of them. Blank lines and comments are none."""
    if isinstance(table, TextTable):
        table = table.entries
    elif isinstance(table, PcreTable):
        table = table.rules
    return not table and next(logical_lines(decoded(octets)), None) is not None


def _usable(shown: str, text: bytes | str, findings: list[Finding]) -> Iterator[tuple[int, str]]:
    """The logical lines but for those that nothing can be read of, each of which is a finding."""
    for number, line in logical_lines(decoded(text)):
        where = f"{shown}:{number}"
        if "\0" in line:
            findings.append(warning("nul-octet", where, "A NUL octet: the line is ignored."))
        elif not utf8(line):
            findings.append(warning("not-utf-8", where, "Not UTF-8: the line is ignored."))
        elif line[0] in _SPACE:
            what = "A line that begins with white space continues the one above, and there is none: it is ignored."
            findings.append(warning("leading-space", where, what, line.strip(_SPACE)))
        else:
            yield number, line


# Text tables


_KEY = re.compile(r'(?:\\(?:.|\Z)|"(?:\\.|[^"\\])*"|[^\s"\\])*', re.ASCII | re.DOTALL)


def text_table(
    shown: str, text: bytes | str, quoted: Callable[[str], str] = str
) -> tuple[TextTable, tuple[Finding, ...]]:
    """A table in postmap(1) format, and what is wrong with it. `shown` names it in rules and findings.

    `quoted` is what `what` and `fault` may show of a key.
    """
    entries: dict[str, Entry] = {}
    findings: list[Finding] = []
    fault = ""
    twice: list[bool] = []  # for each duplicate, whether it is one in its letters too
    spellings: set[str] = set()
    for number, line in _usable(shown, text, findings):

        def warn(name: str, why: str, instead: str = "", number: int = number) -> None:
            findings.append(warning(name, f"{shown}:{number}", why, instead))

        match = _KEY.match(line)
        written = match[0] if match else ""
        value = line[len(written) :]
        if value.startswith('"'):
            warn("unbalanced-quote", "An unbalanced quote: the line is ignored.")
            continue
        value = value.strip(_SPACE)
        if not value:
            warn("no-value", f'"{quoted(written)}" has no value: the line is ignored.', f"{written} target@example.org")
            continue
        if written.endswith(":"):
            what = f'The key "{quoted(written)}" ends in a colon and never matches: this is no aliases(5) file.'
            warn("key-with-colon", what, f"{written.rstrip(':')} {value}")
        key = _key(written)
        earlier = entries.setdefault(key, Entry(number, value, written))
        if earlier.line != number:
            duplicate = f'duplicate key "{quoted(written.lower())}" (lines {earlier.line} and {number})'
            fault = fault or duplicate
            twice.append(written in spellings)
            what = f"The {duplicate} makes the whole table unusable: every recipient gets 451 4.3.0."
            both = ", ".join(dict.fromkeys((earlier.value, value)))
            findings.append(error("duplicate-key", f"{shown}:{number}", what, f"{written} {both}"))
        spellings.add(written)
    return TextTable(shown, entries, fault, folded=bool(fault) and not any(twice)), tuple(findings)


def _key(written: str) -> str:
    """The form in which `core.aliases` looks an address up; Postfix folds keys to lower case."""
    if written.startswith('"') or not written.isascii():
        try:
            if written.startswith("@"):
                return f"@{Domain.parse(written[1:]).key}"
            address = Address.parse(written)
        except AddressError:
            return written.lower()
        # Quotes that need not be there make a key that Postfix never asks for.
        if address.local and str(address).startswith('"') == written.startswith('"'):
            return address.key
    return written.lower()


def key_domains(table: TextTable) -> Mapping[str, str]:
    """The domains of a table's keys that have an `@`, each with the first rule that names it."""
    domains: dict[str, str] = {}
    for key, entry in table.entries.items():
        _, at, domain = key.rpartition("@")
        if at:
            try:
                domains.setdefault(Domain.parse(domain).key, f"{table.file}:{entry.line}")
            except AddressError:
                continue
    return domains


def inline_comments(table: TextTable) -> tuple[Finding, ...]:
    """The entries of an alias table with a comment among their targets."""
    findings = []
    for key, entry in table.entries.items():
        comment = re.search(r"(?:^|[\s,])#", entry.value)
        if comment is not None:
            at = entry.value.index("#", comment.start())
            extra = ", ".join(dict.fromkeys(targets(entry.value[at:])))
            what = (
                f"A comment needs a line of its own. Here it makes more recipients of its words ({extra}), and mail for"
                " them bounces."
            )
            instead = f"{entry.key or key} {entry.value[:at].rstrip(_SPACE + ',')}".rstrip()
            findings.append(warning("inline-comment", f"{table.file}:{entry.line}", what, instead))
    return tuple(findings)


# Local aliases


_ALIAS = re.compile(r'(?P<name>"(?:[^"\\]|\\.)*"|[^\s":]+)\s*:(?P<value>.*)', re.ASCII | re.DOTALL)


def alias_table(shown: str, text: bytes | str) -> tuple[TextTable, tuple[Finding, ...]]:
    """A table in aliases(5) format, `name: value`, as postalias(1) takes it. `shown` names it in rules and findings.

    Of two lines of one name the first counts.
    """
    entries: dict[str, Entry] = {}
    findings: list[Finding] = []
    for number, line in _usable(shown, text, findings):

        def warn(name: str, why: str, instead: str = "", number: int = number) -> None:
            findings.append(warning(name, f"{shown}:{number}", why, instead))

        first = line.split(None, 1)[0]
        match = _ALIAS.match(line)
        name = "" if match is None else match["name"]
        if "@" in first and first.partition("@")[2] and (match is None or "@" in name):
            rest = line[len(first) :].strip(_SPACE + ":")
            what = "Names here have no domain, as in root: anna@example.org: the line is ignored. Write it elsewhere."
            warn("wrong-file", what, f"{first.rstrip(':')} {rest} (in postfix-virtual.cf)")
            continue
        value = "" if match is None else match["value"].strip(_SPACE)
        if not value or set(name) & set(",@%"):
            what = "No name: value pair: the line is ignored."
            warn(
                "alias-line",
                what,
                f"{first.rstrip(':')}: {line[len(first) :].strip(_SPACE + ':') or 'anna@example.org'}",
            )
            continue
        name = re.sub(r'"((?:[^"\\]|\\.)*)"', lambda quoted: re.sub(r"\\(.)", r"\1", quoted[1]), name)
        earlier = entries.setdefault(name.lower(), Entry(number, value, name))
        if earlier.line != number:
            warn("duplicate-key", f"{name} has an alias already (line {earlier.line}): the line is ignored.")
    table = TextTable(shown, entries)
    return table, (*findings, *inline_comments(table))


# PCRE tables


_OPTIONS = {
    "i": int(pcre2.IGNORECASE),
    "m": int(pcre2.MULTILINE),
    "s": int(pcre2.DOTALL),
    "x": int(pcre2.VERBOSE),
}
"""E is missing: it is about a newline at the end, which no address has."""
_DEFAULT = int(pcre2.IGNORECASE) | int(pcre2.DOTALL)


class _Skip(Exception):
    """Postfix skips this line; the text says why."""


def pcre_table(shown: str, text: bytes | str) -> tuple[PcreTable, tuple[Finding, ...]]:
    """A table in pcre_table(5) format, and what is wrong with it. `shown` names it in rules and findings."""
    rules: list[PcreRule] = []
    enclosing: list[tuple[int, Condition]] = []
    findings: list[Finding] = []
    for number, raw in logical_lines(decoded(text)):
        line = raw.rstrip(_SPACE)
        word = re.match(r"(if|endif)(?![A-Za-z0-9])", line, re.IGNORECASE)
        notes: list[str] = []
        try:
            if "\0" in line:
                raise _Skip("a NUL octet")
            if line[0] in _SPACE:
                raise _Skip("a line that begins with white space continues the one above, and there is none")
            if not (line[0].isascii() and line[0].isalnum()):
                condition, result = _condition(line, notes)
                outer = tuple(each for _, each in enclosing)
                rules.append(PcreRule(number, condition, _result(result, condition, notes), outer))
            elif word is None:
                raise _Skip("neither a /pattern/ nor if nor endif")
            elif word[1].lower() == "if":
                condition, extra = _condition(line[word.end() :].lstrip(_SPACE), notes)
                enclosing.append((number, condition))
                if extra:
                    notes.append(f'"{extra}" after if is ignored: begin the lines inside if without white space')
            elif not enclosing:
                raise _Skip("endif without if")
            else:
                enclosing.pop()
                if line[word.end() :].strip(_SPACE):
                    notes.append("text after endif is ignored")
        except _Skip as why:
            notes.append(f"{why}: the line is ignored")
        findings += [warning("pattern", f"{shown}:{number}", f"{note[0].upper()}{note[1:]}.") for note in notes]
    findings += [
        warning("pattern", f"{shown}:{number}", f"if {condition.text} has no endif.", "endif")
        for number, condition in enclosing
    ]
    return PcreTable(shown, tuple(rules)), tuple(findings)


def _condition(line: str, notes: list[str]) -> tuple[Condition, str]:
    """The pattern at the head of `line`, and the text after it. Raises _Skip."""
    at, negated = 0, False
    while at < len(line) and (line[at] == "!" or line[at] in _SPACE):
        negated ^= line[at] == "!"
        at += 1
    if at == len(line):
        raise _Skip("no pattern")
    delimiter = line[at]
    end = at + 1
    while end < len(line) and line[end] != delimiter:
        end += 2 if line[end] == "\\" else 1
    if end >= len(line):
        raise _Skip(f"the pattern has no closing {delimiter}")
    pattern, rest = line[at + 1 : end], line[end + 1 :]
    flags = rest[: len(rest) - len(rest.lstrip("imsxAEUX"))]
    rest = rest[len(flags) :]
    if rest and rest[0] not in _SPACE:
        raise _Skip(f'unknown flag "{rest[0]}" (an unescaped {delimiter} in the pattern?)')
    if "X" in flags:
        notes.append("the flag X means nothing to PCRE2")
    options = _DEFAULT
    for flag in flags:
        options ^= _OPTIONS.get(flag, 0)
    ungreedy = "(?U)" if flags.count("U") % 2 else ""
    text = ("!" if negated else "") + line[at : end + 1] + flags
    try:
        compiled = compile_pattern(ungreedy + _plain_escapes(pattern), options)
    except PatternError as error:
        raise _Skip(f"the pattern does not compile: {str(error).rpartition('; ')[2]}") from None
    return Condition(text, compiled, negated, flags.count("A") % 2 == 1), rest.strip(_SPACE)


_ESCAPE = re.compile(
    r"""\\Q.*?(?:\\E|\Z)
      | \\x\{(?P<braced>[0-9A-Fa-f]+)\}
      | \\x(?P<open>\{)
      | \\x(?P<bare>[0-9A-Fa-f]{0,2})
      | \\(?P<unsupported>[uU])
      | \\.""",
    re.DOTALL | re.VERBOSE,
)


def _plain_escapes(pattern: str) -> str:
    r"""`pattern` in escapes that mean to our binding what they mean to Postfix.

    The binding always sets PCRE2_ALT_BSUX, under which `\x{40}` is forty letters x, `\x4` an x and a 4, `\u` a u.
    Without it, a malformed `\x{` and `\u` are errors, and so are the escapes that stand for them here.
    """

    def plain(escape: re.Match[str]) -> str:
        match escape.lastgroup:
            case "braced":
                return f"\\o{{{int(escape['braced'], 16):o}}}"
            case "bare":
                return f"\\x{int(escape['bare'] or '0', 16):02x}"
            case "open":
                return "\\o{}"
            case "unsupported":
                return "\\L"
        return escape[0]

    return _ESCAPE.sub(plain, pattern)


_NAME = re.compile(r"[A-Za-z0-9_]*")
_CLOSING = {"{": "}", "(": ")"}


def _result(text: str, condition: Condition, notes: list[str]) -> tuple[str | int, ...]:
    """The result of a rule: text, and groups by number (mac_parse(3)). Raises _Skip."""
    if not text:
        notes.append("no result: what matches gets 451 4.3.0. Write the targets after the pattern")
    pieces: list[str | int] = []
    at = 0
    while (dollar := text.find("$", at)) >= 0:
        pieces.append(text[at:dollar])
        opening = text[dollar + 1 : dollar + 2]
        if opening == "$":
            pieces.append("$")
            at = dollar + 2
        elif opening in _CLOSING:
            at = _after_closing(text, dollar + 1)
            pieces.append(_group(text[dollar + 2 : at - 1], condition))
        else:
            match = _NAME.match(text, dollar + 1)
            name = match[0] if match else ""
            at = dollar + 1 + len(name)
            pieces.append(_group(name, condition))
    pieces.append(text[at:])
    return tuple(piece for piece in pieces if piece != "")


def _after_closing(text: str, at: int) -> int:
    """Where the text goes on after the bracket that closes the one at `at`. Raises _Skip."""
    opening, level = text[at], 0
    for position in range(at, len(text)):
        level += (text[position] == opening) - (text[position] == _CLOSING[opening])
        if level == 0:
            return position + 1
    raise _Skip(f'"${opening}" in the result is not closed')


def _group(name: str, condition: Condition) -> int:
    if not name:
        raise _Skip("a $ in the result without a group number: write $$ for a dollar sign")
    if not (name.isascii() and name.isdigit()):
        raise _Skip(f'"${name}" in the result is no group number: write ${{1}} where text follows')
    if condition.negated:
        raise _Skip(f'"${name}" in the result of a negated pattern, which captures nothing')
    number = int(name) if len(name) < 6 else 0
    if not 1 <= number <= condition.pattern.groups:
        raise _Skip(f'"${name}" in the result: the pattern has {condition.pattern.groups} groups, and $0 is none')
    return number
