"""Relays: what docker-mailserver's scripts make of the relay files and variables, and what Postfix does with that.

The scripts (helpers/relay.sh) write two tables: next hops by sender, from the lines of `postfix-relaymap.cf` that have
a value, and `RELAY_HOST` for each of docker-mailserver's domains that has neither entry nor opt-out line; and
credentials, from `postfix-sasl-password.cf` and `RELAY_USER`. `DEFAULT_RELAY_HOST` becomes `relayhost`, and
`postfix-main.cf`, which is read last, overrides it all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from smtproute.config.docker_mailserver.nexthops import Hop, names, parse_nexthop
from smtproute.config.docker_mailserver.scripts import valid_lines
from smtproute.config.tables import decoded, text_table
from smtproute.core.aliases import TextTable
from smtproute.core.docker_mailserver import Environment, Line
from smtproute.core.finding import Finding, error, warning
from smtproute.core.relays import Relay, Relays, endpoint_name
from smtproute.core.settings import Endpoint, EndpointTls

__all__ = ["ReadRelays", "read_relays"]

RELAYMAP = "postfix-relaymap.cf"
PASSWORDS = "postfix-sasl-password.cf"

_CREDENTIALS = "user:password"
"""Stands in findings for what no finding may show."""
_NULL_SENDER = "<>"
"""How the null sender is looked up (Postfix empty_address_relayhost_maps_lookup_key)."""
_DUNNO = "dunno"
"""As a next hop: no relay of its own, postconf(5) sender_dependent_relayhost_maps."""
_UNREAD = ("sender_dependent_relayhost_maps", "smtp_sasl_password_maps", "transport_maps", "smtp_tls_policy_maps")
"""Parameters of postfix-main.cf that replace the tables, or overrule them."""


@dataclass(frozen=True, slots=True)
class ReadRelays:
    """What the relay files say."""

    relays: Relays
    endpoints: Mapping[str, Endpoint]
    """By the name that `core.relays.endpoint_name` gives them: one for each next hop with each of its credentials. A
    next hop that is malformed has none, so that its mail waits."""
    relaymap: tuple[Line, ...] = ()
    """With opt-out lines, which have no value."""
    passwords: tuple[Line, ...] = field(default=(), repr=False)
    findings: tuple[Finding, ...] = ()


def read_relays(
    relaymap: bytes | None,
    passwords: bytes | None,
    environment: Environment,
    vhost: Sequence[str],
    main: Mapping[str, Line],
) -> ReadRelays:
    """What is relayed where, and as whom. `relaymap` and `passwords` are the two files, None where there is none.

    `vhost` has docker-mailserver's domains, those of accounts and of alias keys, as they are written; `main` the
    parameters of `postfix-main.cf`.
    """
    findings: list[Finding] = []
    mapped = tuple(_lines(RELAYMAP, relaymap or b""))
    secret = tuple(_lines(PASSWORDS, passwords or b""))
    relayhost = _relayhost(environment, main)
    configured = relaymap is not None or environment["DEFAULT_RELAY_HOST"] or environment["RELAY_HOST"]

    hops = _hops(decoded(relaymap or b""), environment, vhost, findings)
    without = frozenset(key for key, entry in hops.table.entries.items() if entry.value.lower() == _DUNNO)
    by_sender = {
        key: Relay(entry.value, hops.rule(entry.line))
        for key, entry in hops.table.entries.items()
        if key not in without
    }

    login = configured and (passwords is not None or bool(environment["RELAY_USER"] and environment["RELAY_PASSWORD"]))
    known = _credentials(passwords, environment, findings) if login else None
    by_login = _yes(main, "smtp_sasl_auth_enable", default=True)
    sender_login = by_login and _yes(main, "smtp_sender_dependent_authentication", default=passwords is not None)
    used: Mapping[str, str] = {}
    rules: Mapping[str, str] = {}
    if known is not None and not known.table.fault and by_login:
        used = {key: entry.value for key, entry in known.table.entries.items()}
        rules = {key: known.rule(entry.line) for key, entry in known.table.entries.items()}
    senders = {key: rules[key] for key in used if "@" in key and sender_login}

    delimiter = main["recipient_delimiter"].value if "recipient_delimiter" in main else "+"
    relays = Relays(by_sender, relayhost, without, senders, hops.fault, delimiter)
    tls = _tls(main, encrypt=bool(login))
    endpoints: dict[str, Endpoint] = {}
    parsed: dict[str, tuple[Hop, ...]] = {}
    of_domain: dict[str, list[str]] = {}
    for key in senders:
        of_domain.setdefault(key.rpartition("@")[2], []).append(key)
    for domain, relay in _all(relays):
        if relay.nexthop not in parsed:
            parsed[relay.nexthop] = parse_nexthop(relay, findings)
        found = parsed[relay.nexthop]
        if found:
            for key in ("", *(senders if domain is None else of_domain.get(domain, ()))):
                name = endpoint_name(relay.nexthop, key)
                endpoints[name] = _endpoint(name, found, tls, used[key] if key else _own(found, used))
    findings += _idle(mapped, relays, environment, vhost)
    findings += _ports(relays, parsed, tls)
    findings += _unmatched(rules, senders, relays, parsed, vhost)
    findings += _settings(environment, secret, bool(configured), bool(login), main)
    return ReadRelays(relays, endpoints, mapped, secret, tuple(findings))


# The tables that the scripts write


@dataclass(frozen=True, slots=True)
class _Table:
    """A texthash table that the scripts put together: the lines of a file, and their own behind them."""

    table: TextTable
    lines: int
    """How many lines the file has."""
    own: str
    """The rule of the scripts' own lines."""

    @property
    def fault(self) -> str:
        if not self.table.fault:
            return ""
        return f"{self.table.file}: {self.table.fault}"

    def rule(self, line: int) -> str:
        return f"{self.table.file}:{line}" if line <= self.lines else self.own


_PAIR = re.compile(r"\s*[^#\s]\S*\s+\S", re.ASCII)
"""What the scripts copy of postfix-relaymap.cf: a line with a value."""
_COMMENT = re.compile(r"\s*(?:#|\Z)", re.ASCII)
"""What is no line to either."""


def _hops(text: str, environment: Environment, vhost: Iterable[str], findings: list[Finding]) -> _Table:
    """Next hops by sender. Lines that are not copied are left blank, so that the others keep their numbers."""
    lines = text.split("\n")
    copied = [line if _PAIR.match(line) else "" for line in lines]
    entries = _words(line for line in copied if line.startswith("@") and line.split(maxsplit=1)[1:])
    opt_outs = _words(line.strip() for line in lines if not line.split(maxsplit=1)[1:])
    own = []
    for domain in sorted(set(vhost)) if environment["RELAY_HOST"] else ():
        key = re.compile(re.escape(f"@{domain}").replace(r"\.", "."))  # to the scripts' grep a dot is any character
        alike = entries.get(len(domain) + 1, []) + opt_outs.get(len(domain) + 1, [])
        if not any(map(key.fullmatch, alike)):
            own.append(f"@{domain}    {_env_relay(environment)}")
    if copied[-1] and own:
        what = (
            "The last line does not end: docker-mailserver's scripts write their first entry for RELAY_HOST behind it, "
            "and neither of the two can be used."
        )
        findings.append(error("no-final-newline", f"{RELAYMAP}:{len(lines)}", what, f"{copied[-1].strip()}\\n"))
    return _table(
        RELAYMAP,
        "\n".join(copied) + "".join(f"{line}\n" for line in own),
        len(lines) if lines[-1] else len(lines) - 1,
        environment.rule("RELAY_HOST"),
        "mail from every sender to other places is deferred.",
        findings,
    )


def _words(lines: Iterable[str]) -> dict[int, list[str]]:
    """The first word of each line, by its length."""
    words: dict[int, list[str]] = {}
    for line in lines:
        word = line.split(maxsplit=1)[:1]
        if word:
            words.setdefault(len(word[0]), []).append(word[0])
    return words


def _credentials(passwords: bytes | None, environment: Environment, findings: list[Finding]) -> _Table:
    """`user:password` by sender, server or next hop. No finding about it shows a value."""
    lines = decoded(passwords or b"").replace("\r", "").split("\n")
    kept = ["" if _COMMENT.match(line) else line for line in lines]
    count = len(lines) if lines[-1] else len(lines) - 1
    if kept[-1]:
        kept.append("")  # the scripts mend a missing newline here
    own = ""
    relay = environment["DEFAULT_RELAY_HOST"] or (environment["RELAY_HOST"] and _env_relay(environment))
    if relay and environment["RELAY_USER"] and environment["RELAY_PASSWORD"]:
        own = f"{relay}    {environment['RELAY_USER']}:{environment['RELAY_PASSWORD']}\n"
    found: list[Finding] = []
    table = _table(
        PASSWORDS, "\n".join(kept) + own, count, environment.rule("RELAY_USER"), "no login at a relay succeeds.", found
    )
    findings += [replace(each, instead=_CREDENTIALS if each.name == "no-value" else "") for each in found]
    for key, entry in table.table.entries.items():
        if ":" not in entry.value:
            what = f'The credentials for "{key}" have no colon: the password is empty.'
            findings.append(error("relay-credentials", table.rule(entry.line), what, f"{key} {_CREDENTIALS}"))
    return table


def _table(file: str, text: str, lines: int, own: str, consequence: str, findings: list[Finding]) -> _Table:
    """The table as Postfix reads it. `consequence` is what a duplicate key leads to."""
    read, found = text_table(file, text)
    table = _Table(read, lines, own)
    for each in found:
        rule = table.rule(int(each.where.rpartition(":")[2]))
        if each.name == "duplicate-key":
            what = f"{each.what.partition(' makes ')[0]} makes the whole table unusable: {consequence}"
            if rule == own:
                what += f" The second one is written by docker-mailserver's scripts because of {own}."
            each = replace(each, what=what, instead="")
        findings.append(replace(each, where=rule))
    before = False
    for number, line in enumerate(text.split("\n"), 1):
        if not _COMMENT.match(line):
            if line[0].isspace() and before:
                what = (
                    "A line that begins with white space continues the one above: Postfix reads the two as one entry."
                )
                findings.append(warning("continuation-line", f"{file}:{number}", what, line.strip()))
            before = True
    return table


def _env_relay(environment: Environment) -> str:
    """RELAY_HOST and RELAY_PORT as a next hop: the scripts always write brackets."""
    return f"[{environment['RELAY_HOST']}]:{environment['RELAY_PORT']}"


def _relayhost(environment: Environment, main: Mapping[str, Line]) -> Relay | None:
    line = main.get("relayhost")
    if line is not None:
        return Relay(line.value, line.rule) if line.value else None
    host = environment["DEFAULT_RELAY_HOST"]
    return Relay(host, environment.rule("DEFAULT_RELAY_HOST")) if host else None


def _lines(file: str, octets: bytes) -> Iterator[Line]:
    for number, line in valid_lines(octets):
        key, *value = line.split(maxsplit=1)
        yield Line(f"{file}:{number}", key, value[0].strip() if value else "")


def _all(relays: Relays) -> Iterator[tuple[str | None, Relay]]:
    """Each relay with the domain of the senders whose mail it takes, None for all."""
    for key, relay in relays.by_sender.items():
        yield key.rpartition("@")[2], relay
    if relays.relayhost is not None:
        yield None, relays.relayhost


# Endpoints


def _endpoint(name: str, hops: tuple[Hop, ...], tls: tuple[EndpointTls, bool], credentials: str) -> Endpoint:
    level, verify = tls
    username, _, password = credentials.partition(":")
    return Endpoint(
        name,
        servers=tuple(hop.server for hop in hops),
        discover=hops[0].discover,
        tls=level,
        verify=verify,
        username=username,
        password=password,
    )


def _own(hops: tuple[Hop, ...], credentials: Mapping[str, str]) -> str:
    """What is used at a relay where the sender has no credentials: by the server's name, then by the next hop."""
    return next((credentials[key] for key in names(hops[:1]) if key in credentials), "")


def _yes(main: Mapping[str, Line], name: str, default: bool) -> bool:
    return main[name].value.lower() == "yes" if name in main else default


def _tls(main: Mapping[str, Line], encrypt: bool) -> tuple[EndpointTls, bool]:
    """How relays are spoken to, and whether their certificate is checked: credentials alone never check it."""
    line = main.get("smtp_tls_security_level")
    level = line.value.lower() if line is not None else "encrypt" if encrypt else "may"
    if level in ("none", ""):
        return EndpointTls.NEVER, False
    if level in ("may", "dane"):
        return EndpointTls.PREFER, False
    verify = level in ("verify", "secure")
    if _yes(main, "smtp_tls_wrappermode", default=False):
        return EndpointTls.IMPLICIT, verify
    return EndpointTls.REQUIRE, verify


# Findings


def _idle(
    relaymap: tuple[Line, ...], relays: Relays, environment: Environment, vhost: Iterable[str]
) -> Iterator[Finding]:
    """The lines of postfix-relaymap.cf that can have no effect."""
    domains = {domain.lower() for domain in vhost}
    for line in relaymap:
        local, at, domain = line.key.rpartition("@")

        def idle(what: str, instead: str = "", line: Line = line) -> Finding:
            return warning("relay-no-effect", line.rule, what, instead)

        if not at:
            if line.key != _NULL_SENDER:
                what = f'"{line.key}" is hardly ever asked for: Postfix asks for user@domain, then for @domain.'
                yield idle(what, f"@{line.key} {line.value}".rstrip())
        elif not line.value and local:
            yield idle(f"Only whole domains can opt out of RELAY_HOST: {line.key} does not.", f"@{domain}")
        elif not line.value and not environment["RELAY_HOST"]:
            what = f"{line.key} opts out of RELAY_HOST, which is not set: the line has no effect."
            if relays.relayhost is not None:
                what += f" Its mail goes to {relays.relayhost.nexthop} ({relays.relayhost.rule}) all the same."
            yield idle(what)
        elif not line.value and f"@{domain.lower()}" in relays.by_sender:
            found = relays.by_sender[f"@{domain.lower()}"]
            yield idle(f"{line.key} opts out of RELAY_HOST, and has a relay all the same ({found.rule}).")
        elif not line.value and relays.relayhost is not None:
            relay = relays.relayhost
            yield idle(f"{line.key} opts out of RELAY_HOST, but its mail goes to {relay.nexthop} then ({relay.rule}).")
        elif domain.lower() not in domains:
            what = f"No account and no alias has the domain {domain}: only forwarded mail can have such a sender."
            yield idle(what)


def _ports(relays: Relays, parsed: Mapping[str, tuple[Hop, ...]], tls: tuple[EndpointTls, bool]) -> Iterator[Finding]:
    """The relays at port 465, which greets nobody before TLS; each rule once."""
    if tls[0] is EndpointTls.IMPLICIT:
        return
    for relay in dict.fromkeys(relay for _, relay in _all(relays)):
        for hop in parsed[relay.nexthop]:
            if hop.server.port == 465:
                what = (
                    f"{hop.written} expects TLS from the first octet, and this setup begins in plain text (STARTTLS): "
                    "both sides wait for each other, and the mail is deferred."
                )
                yield error("relay-no-effect", relay.rule, what, hop.written.rpartition(":")[0] + ":587")


def _unmatched(
    rules: Mapping[str, str],
    senders: Mapping[str, str],
    relays: Relays,
    parsed: Mapping[str, tuple[Hop, ...]],
    vhost: Iterable[str],
) -> Iterator[Finding]:
    """The credentials that no relay and no sender can have."""
    domains = {domain.lower() for domain in vhost}
    reached = {name for hops in parsed.values() for name in names(hops)}
    for key, rule in rules.items():
        domain = key.rpartition("@")[2]
        if "@" not in key:
            if key not in reached:
                known = " and ".join(sorted({hop.written for hops in parsed.values() for hop in hops})) or "none"
                what = f'"{key}" is not, letter by letter, one of the next hops (there is {known}): nobody gets them.'
                yield warning("relay-credentials", rule, what, _nearest(key, parsed))
        elif key not in senders:
            what = f"The credentials of {key} are not asked for: smtp_sender_dependent_authentication is off."
            yield warning("relay-credentials", rule, what)
        elif domain not in domains:
            what = f"No account and no alias has the domain {domain}: only forwarded mail can have such a sender."
            yield warning("relay-credentials", rule, what)
        elif relays.relayhost is None and not any(each.rpartition("@")[2] == domain for each in relays.by_sender):
            what = (
                f"No relay takes the mail of {key}: Postfix would show these credentials to whichever server the "
                "recipient's domain has."
            )
            yield warning("relay-credentials", rule, what, f"{key} [smtp.example.org]:587 (in {RELAYMAP})")


def _nearest(key: str, parsed: Mapping[str, tuple[Hop, ...]]) -> str:
    """The line for the next hop that was meant: the one of the same host, or the only one."""
    hops = [hop for found in parsed.values() for hop in found]
    host = key.strip("[").partition("]")[0].partition(":")[0]
    meant = [hop for hop in hops if hop.server.host.lower() == host] or (hops if len(hops) == 1 else [])
    return f"{meant[0].written} {_CREDENTIALS}" if meant else ""


def _settings(
    environment: Environment, passwords: tuple[Line, ...], configured: bool, login: bool, main: Mapping[str, Line]
) -> Iterator[Finding]:
    """What is set and not used."""
    if passwords and not configured:
        what = (
            f"{PASSWORDS} is only read where there is {RELAYMAP}, RELAY_HOST or DEFAULT_RELAY_HOST: nobody gets these "
            "credentials."
        )
        yield warning("relay-credentials", passwords[0].rule, what)
    user, password = environment["RELAY_USER"], environment["RELAY_PASSWORD"]
    default, host = environment["DEFAULT_RELAY_HOST"], environment["RELAY_HOST"]
    if bool(user) != bool(password):
        written, missing = ("RELAY_USER", "RELAY_PASSWORD") if user else ("RELAY_PASSWORD", "RELAY_USER")
        what = f"{written} is set and {missing} is not: nobody logs in with it."
        yield warning("relay-credentials", environment.rule(written), what)
    elif user and not (default or host):
        what = "RELAY_USER is for RELAY_HOST or DEFAULT_RELAY_HOST, and neither is set: nobody logs in with it."
        if login:
            what += " Yet all mail to other places needs TLS now."
        yield warning("relay-credentials", environment.rule("RELAY_USER"), what)
    elif user and default and host:
        what = (
            f"RELAY_USER logs in at DEFAULT_RELAY_HOST ({default}) only, not at RELAY_HOST ({_env_relay(environment)})."
        )
        yield warning("relay-credentials", environment.rule("RELAY_USER"), what)
    for name in _UNREAD:
        if name in main:
            what = f"{name} is not read: next hops and credentials are those of docker-mailserver's own files here."
            yield warning("not-simulated", main[name].rule, what)
