"""Signing: `rspamd/override.d/arc.conf` and `dkim_signing.conf`, as rspamd's arc and dkim_signing modules take them.

docker-mailserver copies `override.d` over rspamd's own files, so what stands here goes before rspamd's defaults. How
options and keys are taken is lualib/lua_dkim_tools.lua.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from smtproute.config import files
from smtproute.config.docker_mailserver.paths import Paths
from smtproute.config.docker_mailserver.ucl import Block, Items, Text, UclError, Value, parse
from smtproute.config.tables import decoded
from smtproute.core.address import AddressError, Domain
from smtproute.core.docker_mailserver import Environment, KeyFile, Line, Signing
from smtproute.core.finding import Finding, error, warning
from smtproute.core.settings import Arc, Dkim, DomainKey, SignBy

__all__ = ["arc_of", "dkim_of", "read_signing", "signed_twice", "with_registered"]

_BOOLEANS = (
    "allow_envfrom_empty",
    "allow_hdrfrom_mismatch",
    "allow_hdrfrom_multiple",
    "allow_username_mismatch",
    "enabled",
    "sign_authenticated",
    "sign_inbound",
    "sign_local",
    "try_fallback",
    "use_esld",
)
_TRUE, _FALSE = frozenset({"true", "yes", "on"}), frozenset({"false", "no", "off"})
_ELSEWHERE = (
    "allow_hdrfrom_mismatch_local",
    "allow_hdrfrom_mismatch_sign_networks",
    "key_table",
    "sign_condition",
    "sign_networks",
    "signing_table",
    "use_domain_custom",
    "use_domain_sign_inbound",
    "use_domain_sign_local",
    "use_domain_sign_networks",
    "use_http_headers",
    "use_redis",
    "use_vault",
)
"""Options by which rspamd finds keys, or mail to sign, in ways that are not simulated."""
_VARIABLES = {"CONFDIR": "/etc/rspamd", "LOCAL_CONFDIR": "/etc/rspamd", "DBDIR": "/var/lib/rspamd"}
"""What rspamd puts into paths in Debian's package, which docker-mailserver has."""


@dataclass(slots=True)
class _Pair:
    """A selector and a path, as far as they are written."""

    selector: str | None
    path: str | None
    line: int


def read_signing(
    shown: str, octets: bytes, paths: Paths, domains: Iterable[str] = ()
) -> tuple[Signing, tuple[Finding, ...]]:
    """The options and keys of a file, and what is wrong with it. `shown` names it in rules and findings.

    `domains` are those for which a path with `$domain` at the top is looked up: docker-mailserver's own.
    """
    try:
        block, macros = parse(decoded(octets))
    except UclError as fault:
        what = f"{_sentence(str(fault))} Nothing of this file is used, and rspamd does not start with it."
        return Signing(shown, {}, ()), (error("rspamd-syntax", f"{shown}:{fault.line}", what),)
    reader = _RspamdFile(shown, paths)
    for macro in macros:
        reader.warn("rspamd-syntax", macro.line, f"{macro.text} is not followed here.")
    module = shown.rpartition("/")[2].removesuffix(".conf")
    options = reader.options(block, module)
    keys = tuple(reader.keys(block, options, domains, module))
    return Signing(shown, options, keys), tuple(reader.findings)


def arc_of(signing: Signing, environment: Environment) -> Arc:
    """How mail is sealed by arc.conf; not at all where the environment has no rspamd.

    Of the keys of one domain rspamd takes the first. One whose file is nowhere here seals nothing.
    """
    if (environment.written and not environment.on("ENABLE_RSPAMD")) or not signing.option("enabled", True):
        return Arc()
    line = signing.options.get("use_domain")
    sign, domain = _sign(line.value if line is not None else "recipient")
    if sign is SignBy.OFF:
        return Arc()
    keys: dict[str, DomainKey] = {}
    seen: set[str] = set()
    for each in signing.keys:
        found = _lower(each.domain)
        if found is not None and found.key not in seen:
            seen.add(found.key)
            if each.file:
                keys[found.key] = DomainKey(found, each.selector, each.file)
    return Arc(
        sign,
        domain,
        keys,
        inbound=signing.option("sign_inbound", True),
        local=signing.option("sign_local", False),
        authenticated=signing.option("sign_authenticated", False),
        null_sender=signing.option("allow_envfrom_empty", True),
        username_mismatch=signing.option("allow_username_mismatch", False),
        author_mismatch=signing.option("allow_hdrfrom_mismatch", True),
        parents=signing.option("use_esld", True),
    )


def dkim_of(signing: Signing | None, opendkim: Iterable[KeyFile], environment: Environment) -> Dkim:
    """Who signs by dkim_signing.conf and by OpenDKIM's tables: where both run, both do.

    Of two keys of one selector rspamd's signs alone, for DNS can hold only one of them.
    Whose mail OpenDKIM signs is no option of it, so with it rspamd's options do not hold either.
    """
    rspamd = signing if signing is not None and _signs(signing, environment) else None
    tables = tuple(opendkim) if environment.on("ENABLE_OPENDKIM") else ()
    keys: dict[str, tuple[DomainKey, ...]] = {}
    for each in (*(rspamd.keys if rspamd is not None else ()), *tables):
        domain, author = _lower(each.domain), _lower(each.author or each.domain)
        if domain is None or author is None or not each.file:
            continue
        others = keys.get(author.key, ())
        if all((domain, each.selector) != (other.domain, other.selector) for other in others):
            keys[author.key] = (*others, DomainKey(domain, each.selector, each.file))
    if rspamd is None or tables:
        return Dkim(keys, parents=rspamd is not None and rspamd.option("use_esld", True))
    return Dkim(
        keys,
        local=rspamd.option("sign_local", True),
        authenticated=rspamd.option("sign_authenticated", True),
        null_sender=rspamd.option("allow_envfrom_empty", True),
        username_mismatch=rspamd.option("allow_username_mismatch", False),
        author_mismatch=rspamd.option("allow_hdrfrom_mismatch", False),
        parents=rspamd.option("use_esld", True),
    )


def _signs(signing: Signing, environment: Environment) -> bool:
    """Whether rspamd signs by dkim_signing.conf in the way that is simulated: in the name of the header From."""
    line = signing.options.get("use_domain")
    runs = not environment.written or environment.on("ENABLE_RSPAMD")
    return runs and signing.option("enabled", True) and (line is None or line.value == "header")


def signed_twice(signing: Signing | None, opendkim: Iterable[KeyFile], environment: Environment) -> Iterator[Finding]:
    """That rspamd and OpenDKIM sign for one domain, which docker-mailserver warns of at its start."""
    if signing is None or not environment.written or not _signs(signing, environment):
        return
    both = dict.fromkeys(key.domain for key in signing.keys if any(key.domain == each.domain for each in opendkim))
    if environment.on("ENABLE_OPENDKIM") and both:
        what = (
            f"rspamd and OpenDKIM both sign mail of {', '.join(both)}, here as there (here of two keys with one"
            " selector only rspamd's). docker-mailserver advises against running both: rspamd is enough."
        )
        yield warning("dkim-twice", environment.rule("ENABLE_OPENDKIM"), what, "ENABLE_OPENDKIM=0")


def with_registered(signing: Signing, domains: Iterable[str]) -> Signing:
    """The same, knowing which domains were registered, of these and of those of its keys.

    A domain that is a public suffix itself stands for itself.
    """
    from publicsuffixlist import PublicSuffixList  # its list is long, and few folders need it

    suffixes = PublicSuffixList()
    asked = dict.fromkeys((*domains, *(key.domain.lower() for key in signing.keys)))
    return replace(signing, registered={domain: suffixes.privatesuffix(domain) or domain for domain in asked})


def _sign(use_domain: str) -> tuple[SignBy, Domain | None]:
    """`use_domain`: a word that says whose domain, else the domain itself. What is not simulated is off."""
    match use_domain:
        case "recipient":
            return SignBy.RECIPIENT, None
        case "header":
            return SignBy.SENDER, None
        case "envelope" | "auth":
            return SignBy.OFF, None
    try:
        return SignBy.DOMAIN, Domain.parse(use_domain)
    except AddressError:
        return SignBy.OFF, None


def _lower(domain: str) -> Domain | None:
    """The domain, if it is written as rspamd looks it up: in lower case."""
    try:
        found = Domain.parse(domain)
    except AddressError:
        return None
    return found if found.key == domain else None


@dataclass(slots=True)
class _RspamdFile:
    shown: str
    paths: Paths
    findings: list[Finding] = field(default_factory=list)

    def warn(self, name: str, line: int, what: str, instead: str = "") -> None:
        self.findings.append(warning(name, f"{self.shown}:{line}", what, instead))

    def wrong(self, name: str, line: int, what: str, instead: str = "") -> None:
        self.findings.append(error(name, f"{self.shown}:{line}", what, instead))

    # Options

    def options(self, block: Block, module: str) -> Mapping[str, Line]:
        """The texts at the top, the last of each name; booleans as rspamd takes them."""
        options: dict[str, Line] = {}
        for name, value in block.entries:
            if name == module:
                what = f"What stands in {module} {{ }} is not read: in override.d, options stand at the top."
                self.wrong("rspamd-option", value.line, what)
            if name in _ELSEWHERE and not (isinstance(value, Text) and value.text.lower() in _FALSE):
                what = f"{name} is not simulated: what rspamd does because of it, this relay does not."
                self.warn("not-simulated", value.line, what)
            if not isinstance(value, Text):
                continue
            rule = f"{self.shown}:{value.line}"
            before = options.get(name)
            if before is not None:
                what = f"{name} stands here twice (see {before.rule}): rspamd makes a list of both values"
                self.wrong("rspamd-twice", value.line, f"{what}, which it cannot use or takes for true.")
            text = self.boolean(name, value, twice=before is not None) if name in _BOOLEANS else value.text
            options[name] = Line(rule, name, text)
        line = options.get("use_domain")
        if module == "arc" and line is not None and _sign(line.value)[0] is SignBy.OFF:
            what = f"use_domain = {line.value} is not simulated: nothing is sealed here because of this file."
            self.findings.append(warning("not-simulated", line.rule, what, 'use_domain = "recipient";'))
        if module == "dkim_signing" and line is not None and line.value != "header":
            what = f"use_domain = {line.value} is not simulated: nothing is signed here because of this file."
            self.findings.append(warning("not-simulated", line.rule, what, 'use_domain = "header";'))
        line = options.get("sign_inbound")
        if module == "dkim_signing" and line is not None and line.value == "true":
            what = "sign_inbound is not simulated: what strangers send is never signed here."
            self.findings.append(warning("not-simulated", line.rule, what, "sign_inbound = false;"))
        return options

    def boolean(self, name: str, value: Text, twice: bool) -> str:
        """ "true" or "false". To rspamd, whatever is no boolean is true."""
        word = value.text.lower()
        if not twice and not value.quoted and word in _FALSE:
            return "false"
        if not twice and (value.quoted or word not in _TRUE):
            what = f'{name} = "{value.text}" is no boolean: rspamd takes it for true.'
            self.warn("rspamd-option", value.line, what, f"{name} = {'false' if word in _FALSE else 'true'};")
        return "true"

    # Keys

    def keys(self, block: Block, options: Mapping[str, Line], domains: Iterable[str], module: str) -> Iterator[KeyFile]:
        """The keys of domain blocks, then those that the top gives the other domains."""
        selectors = self.table(block, "selector_map")
        files = self.table(block, "path_map")
        top = options.get("path")
        path = top.value if top is not None else f"/var/lib/rspamd/{module.partition('_')[0]}/$domain.$selector.key"
        selector = options["selector"].value if "selector" in options else module.partition("_")[0]
        fallback = options["try_fallback"].value == "true" if "try_fallback" in options else True
        blocks = self.domains(block)
        for domain in dict.fromkeys((*blocks, *selectors, *files, *(domains if top is not None and fallback else ()))):
            pairs = blocks.get(domain, [])
            rule = f"{self.shown}:{pairs[0].line}" if pairs else ""
            if not pairs and (domain in selectors or domain in files):
                pairs = [_Pair(None, None, 0)]
                rule = (selectors.get(domain) or files[domain]).rule
            elif not pairs and top is not None and fallback:
                pairs, rule = [_Pair(None, None, 0)], top.rule
            for pair in pairs:
                chosen = pair.selector or (selectors[domain].value if domain in selectors else selector)
                written = pair.path or (files[domain].value if domain in files else path)
                yield self.key_file(domain, chosen, written, f"{self.shown}:{pair.line}" if pair.line else rule)

    def key_file(self, domain: str, selector: str, written: str, rule: str) -> KeyFile:
        path = _filled(written, {**_VARIABLES, "domain": domain, "selector": selector})
        here = self.paths.host(path)
        if here is None:
            what = f"{path} is in no place that is known outside the container: {domain} is not signed for here."
            folder = path.rpartition("/")[0] or "/"
            instead = f'[docker_mailserver] paths = {{ "{folder}" = "..." }}'
            self.findings.append(warning("container-path", rule, what, instead))
        return KeyFile(domain, selector, str(here) if here is not None else "", path, rule)

    def domains(self, block: Block) -> dict[str, list[_Pair]]:
        """The selectors and paths of each `domain { }`, by domain."""
        found = [value for name, value in block.entries if name == "domain"]
        if len(found) > 1:
            what = "A second domain { } hides all domains from rspamd: none of them is signed for. Put them into one."
            self.wrong("rspamd-twice", found[1].line, what)
            return {}
        pairs: dict[str, list[_Pair]] = {}
        for value in found:
            if not isinstance(value, Block):
                self.wrong("rspamd-syntax", value.line, "domain must be a block with a block for each domain.")
                continue
            names = [name for name, _ in value.entries]
            for name, inner in value.entries:
                if not isinstance(inner, Block):
                    self.wrong("rspamd-syntax", inner.line, f"{name} must be a block with selector and path.")
                elif names.count(name) > 1:
                    what = f"{name} has more than one block: rspamd finds neither, and {name} is not signed for."
                    self.wrong("rspamd-twice", inner.line, what)
                else:
                    pairs[name] = list(self.pairs(inner))
                    if _lower(name) is None:
                        what = f"rspamd looks domains up in lower case: the block {name} never signs."
                        self.wrong("rspamd-domain", inner.line, what, f"{name.lower()} {{")
        return pairs

    def pairs(self, block: Block) -> Iterator[_Pair]:
        """What a domain's block has: its own selector and path, then those of its `selectors [ ]`."""
        pair = self.pair(block)
        if pair.selector is not None or pair.path is not None:
            yield pair
        for name, value in block.entries:
            if name != "selectors":
                continue
            for each in value.items if isinstance(value, Items) else (value,):
                if isinstance(value, Items) and isinstance(each, Block):
                    yield self.pair(each)
                else:
                    what = "selectors must be a list of blocks: selectors [ { path = ...; selector = ...; } ]."
                    self.wrong("rspamd-syntax", each.line, what)

    def pair(self, block: Block) -> _Pair:
        found: dict[str, str] = {}
        for name, value in block.entries:
            if name in ("selector", "path"):
                if name in found:
                    what = f"{name} stands here twice: rspamd makes a list of both values, and cannot use it."
                    self.wrong("rspamd-twice", value.line, what)
                if isinstance(value, Text):
                    found[name] = value.text
                    self.check_quotes(name, value)
                else:
                    self.wrong("rspamd-syntax", value.line, f"{name} must be a text.")
        return _Pair(found.get("selector"), found.get("path"), block.line)

    def check_quotes(self, name: str, value: Text) -> None:
        if not value.quoted and '"' in value.text:
            what = f"{name} has a quotation mark at one end only: it is part of the text."
            self.wrong("rspamd-syntax", value.line, what, f'{name} = "{value.text.strip(chr(34))}";')

    def table(self, block: Block, name: str) -> dict[str, Line]:
        """`selector_map` or `path_map`: a file of `domain value` lines, or such lines in a list."""
        found: dict[str, Line] = {}
        for key, value in block.entries:
            if key == name:
                for rule, text in self.map_lines(name, value):
                    words = text.split(maxsplit=1)
                    if len(words) == 2 and not words[0].startswith("#"):
                        found[words[0]] = Line(rule, words[0], words[1].strip().strip('"'))
        return found

    def map_lines(self, name: str, value: Value) -> Iterator[tuple[str, str]]:
        if isinstance(value, Items):
            for each in value.items:
                if isinstance(each, Text):
                    yield f"{self.shown}:{each.line}", each.text
            return
        file = None
        if isinstance(value, Text):
            file = self.paths.host(_filled(value.text, _VARIABLES).removeprefix("map://").removeprefix("file://"))
        try:
            text = decoded(files.read(file)) if file is not None else None
        except OSError:
            text = None
        if file is None or text is None:
            self.warn("not-simulated", value.line, f"{name} cannot be read here: its domains are not signed for here.")
            return
        for number, line in enumerate(text.split("\n"), 1):
            yield f"{file.name}:{number}", line


def _filled(text: str, variables: Mapping[str, str]) -> str:
    """The text with `$name` and `${name}` filled in; unknown names stay."""

    def value(match: re.Match[str]) -> str:
        return variables.get(match[1] or match[2], match[0])

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, text, flags=re.ASCII)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
