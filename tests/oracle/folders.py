"""docker-mailserver folders by chance, and what their files become in Postfix and in smtproute."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from smtproute.config.docker_mailserver.folder import read_folder
from smtproute.config.docker_mailserver.paths import Paths
from smtproute.core.address import Address, Domain
from smtproute.core.decide import Routing
from smtproute.core.docker_mailserver import Environment, Line
from smtproute.core.routes import Target
from smtproute.core.settings import Mode
from tests.oracle.postfix import DOMAIN, FRIEND, HOST, STRANGER, Files

ROOT = f"root: postmaster@{DOMAIN}\n"
"""The line that docker-mailserver writes itself."""


@dataclass(frozen=True)
class Folder:
    virtual: str = ""
    regexp: str | None = None
    aliases: str = ""
    accounts: tuple[str, ...] = ()
    token: str = ""
    """What each name in it contains, and no name of another folder."""
    others: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Access lists and relay map, by file name: where the folder has a Postfix of its own."""
    spoof_protection: bool = False
    main: str = ""
    """postfix-main.cf, likewise."""

    def __str__(self) -> str:
        parts = (
            ("postfix-accounts.cf", "\n".join(self.accounts)),
            ("postfix-virtual.cf", self.virtual),
            ("postfix-regexp.cf", self.regexp),
            ("postfix-aliases.cf", self.aliases),
            ("postfix-main.cf", self.main),
            *self.others.items(),
        )
        return "\n".join(f"--- {name}\n{text}" for name, text in parts if text)


@dataclass(frozen=True)
class Case:
    folder: Folder
    recipient: str
    client: str = STRANGER
    sender: str = ""
    login: str = ""


SEND, RECEIVE, RELAYS = "postfix-send-access.cf", "postfix-receive-access.cf", "postfix-relaymap.cf"
MORE = {
    SEND: "dms_smtpd_sender_restrictions = check_sender_access texthash:{config}/" + SEND + ",\n"
    "  permit_sasl_authenticated, permit_mynetworks\n",
    RECEIVE: "smtpd_recipient_restrictions = check_recipient_access texthash:{config}/" + RECEIVE + ",\n"
    "  permit_sasl_authenticated, permit_mynetworks, reject_unauth_destination\n",
    RELAYS: "sender_dependent_relayhost_maps = texthash:{config}/" + RELAYS + "\n",
}
"""What docker-mailserver's scripts make of these files in main.cf."""
SPOOF_PROTECTION = """\
smtpd_sender_restrictions = reject_authenticated_sender_login_mismatch, $dms_smtpd_sender_restrictions
smtpd_sender_login_maps = unionmap:{{ texthash:{config}/virtual, hash:{config}/aliases,
  pcre:{config}/sender_login_maps, pcre:{config}/regexp }}
"""


def files(folders: Iterable[Folder]) -> Files:
    """The folders in one Postfix. Of several, each one's patterns see its own names only."""
    listed = list(folders)
    virtual = "".join(_ended(folder.virtual) for folder in listed)
    patterns = [folder for folder in listed if folder.regexp is not None]
    if len(listed) == 1:
        regexp = listed[0].regexp
    else:
        regexp = "".join(f"if /{each.token}/\n{_ended(each.regexp or '')}endif\n" for each in patterns) or None
    others = {name: text for folder in listed for name, text in folder.others.items()}
    more = "".join(MORE[name] for name in others)
    if any(folder.spoof_protection for folder in listed):
        regexp = regexp or ""  # docker-mailserver always makes the file
        others["sender_login_maps"] = "/^(.*)$/   ${1}\n"
        more += SPOOF_PROTECTION
    more += "".join(_ended(folder.main).replace("{", "{{").replace("}", "}}") for folder in listed)
    accounts = [account for folder in listed for account in folder.accounts]
    vhost = {account.partition("@")[2] for account in accounts}
    # As its scripts do it: each line by itself, whether it continues another or not.
    for line in virtual.split("\n"):
        words = line.split()
        if words and not words[0].startswith("#"):
            user, *domain = words[0].split("@")
            vhost.update(domain[:1] if domain[:1] != [user] else ())
    return Files(
        virtual=virtual,
        regexp=regexp,
        aliases=ROOT + "".join(_ended(folder.aliases) for folder in listed),
        vhost="".join(f"{domain}\n" for domain in sorted(vhost)),
        vmailbox="".join(f"{account} x/y/\n" for account in accounts),
        more=more,
        tables=others,
    )


def _ended(text: str) -> str:
    return text if text.endswith("\n") or not text else text + "\n"


def read(path: Path, folder: Folder) -> Routing:
    """The folder, written to `path`, as smtproute reads it."""
    path.mkdir(parents=True)
    texts = {
        "postfix-accounts.cf": "".join(f"{account}|{{PLAIN}}secret\n" for account in folder.accounts),
        "postfix-virtual.cf": folder.virtual,
        "postfix-regexp.cf": folder.regexp,
        "postfix-aliases.cf": folder.aliases,
        "postfix-main.cf": folder.main,
        **folder.others,
    }
    for name, text in texts.items():
        if text is not None:
            (path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    host = Domain.parse(HOST)
    found = read_folder(path, Paths(path, {}), environment(folder), host, "15")
    assert found is not None
    return Routing(
        host,
        found.aliases,
        found.local_domains,
        found.mailboxes,
        (),
        Target(Mode.CAPTURE),
        found.relays,
        found.send_access,
        found.receive_access,
        spoof_protection=folder.spoof_protection,
    )


def environment(folder: Folder) -> Environment:
    protection = {"SPOOF_PROTECTION": Line("mailserver.env:1", "SPOOF_PROTECTION", "1")}
    return Environment(protection if folder.spoof_protection else {}, written=True)


@dataclass
class Chance:
    """A folder by chance. `token` is in each of its names, so that many folders fit into one Postfix."""

    dice: random.Random
    token: str
    alone: bool = False
    """Whether it has a Postfix of its own, and may hold what would spoil the others' files."""
    keys: list[str] = field(default_factory=list)

    def folder(self) -> Folder:
        dice = self.dice
        accounts = {self.case(self.address(self.domain(own=self.alone))) for _ in range(dice.choice((0, 1, 2, 3, 4)))}
        unique = {account.lower(): account for account in sorted(accounts)}
        virtual = self.virtual(dice.choice((0, 1, 2, 4, 6, 9)))
        regexp = self.regexp(dice.choice((1, 2, 3))) if dice.random() < 0.5 else None
        aliases = self.aliases(dice.choice((1, 2, 4))) if dice.random() < 0.4 else ""
        main = self.main() if self.alone and dice.random() < 0.4 else ""
        return Folder(virtual, regexp, aliases, tuple(unique.values()), self.token, main=main)

    def recipients(self, folder: Folder, count: int) -> list[str]:
        made: list[str] = []
        for _ in range(count):
            whole = [key for key in self.keys if "@" in key[1:]] + list(folder.accounts)
            if whole and self.dice.random() < 0.6:
                written = self.dice.choice(whole)
                made.append(self.case(self.detailed(written)))
            else:
                made.append(self.case(self.detailed(self.address(self.domain(own=True, foreign=True)))))
            if self.dice.random() < 0.03:
                made.append(self.odd())
        return [recipient for recipient in made if _speakable(recipient)]

    def odd(self) -> str:
        """An address that few people have."""
        domain = self.domain()
        return self.dice.choice(
            (
                f"{self.bare()}@[127.0.0.1]",
                f"{self.bare()}@{'[192.0.2.1]' if self.alone else '[127.0.0.1]'}",
                f"b%y.{self.token}.test@{domain}",
                f"y.{self.token}.test!b@{domain}",
                f'"b@y.{self.token}.test"@{domain}',
            )
        )

    # Names

    def local(self) -> str:
        return self.dice.choice(("a", "b", "c", "d", "info"))

    def domain(self, own: bool = True, foreign: bool = False) -> str:
        names = [f"d0.{self.token}.test", f"d1.{self.token}.test", f"sub.d0.{self.token}.test"]
        kind = self.dice.random()
        if own and kind < 0.08:
            return self.dice.choice((HOST, HOST, "localhost", f"localhost.{DOMAIN}"))
        if foreign and kind > 0.85:
            return f"ext.{self.token}.example"
        return self.dice.choice(names[: self.dice.choice((1, 2, 3))])

    def address(self, domain: str) -> str:
        local = self.local()
        return f"{local}-{self.token}@{domain}" if self.token not in domain else f"{local}@{domain}"

    def bare(self) -> str:
        return f"{self.local()}-{self.token}"

    def detailed(self, address: str) -> str:
        local, at, domain = address.rpartition("@")
        kind = self.dice.random()
        if kind < 0.25 and not local.endswith('"'):
            return local + self.dice.choice(("+t", "+T", "+x+y", "+")) + at + domain
        if kind < 0.27:
            return f"+{local}{at}{domain}"
        if kind < 0.29:
            return f"+{local}+t{at}{domain}"
        if kind < 0.31 and local.isalnum():
            return f'"{local} {local}"{at}{domain}'
        if kind < 0.33 and local.isalnum():
            return f'"{local}"{at}{domain}'
        return address

    def case(self, text: str) -> str:
        if self.dice.random() < 0.8:
            return text
        return self.dice.choice((text.upper(), text.title(), text.swapcase()))

    # Text tables

    def virtual(self, count: int) -> str:
        lines: list[str] = []
        entries: dict[str, str] = {}
        for _ in range(count):
            kind = self.dice.random()
            if kind < 0.6:
                key = self.address(self.domain())
            elif kind < 0.75:
                key = "@" + self.domain(own=self.alone)
            elif kind < 0.85:
                key = self.bare()
            elif kind < 0.93:
                key = self.detailed(self.address(self.domain()))
            elif kind < 0.96:
                key = self.address(f"ext.{self.token}.example")
            else:
                key = self.domain(own=False)
            if key.lower() not in entries:
                entries[key.lower()] = key
                self.keys.append(key)
                lines.append(self.line(self.case(key), self.targets(key)))
        text = self.decorated(lines)
        if self.alone and self.keys and self.dice.random() < 0.1:
            text = _ended(text) + f"{self.case(self.dice.choice(self.keys))} twice@d0.{self.token}.test\n"
        if self.alone and self.dice.random() < 0.1:
            text = f"  leading.{self.token} space@d0.{self.token}.test\n" + text
        return text

    def target(self, key: str) -> str:
        kind = self.dice.random()
        if kind < 0.15 and "@" in key[1:]:
            return key
        if kind < 0.22:
            return self.bare()
        if kind < 0.40:
            return self.address(f"ext.{self.token}.example")
        if kind < 0.45:
            return self.detailed(self.address(self.domain()))
        if kind < 0.48:
            return f"<{self.address(self.domain())}>"
        if kind < 0.52:
            return f"nobody.{self.token}@{self.domain()}"
        return self.address(self.domain())

    def targets(self, key: str) -> str:
        if self.dice.random() < (0.3 if key.startswith("@") else 0.05):
            return "@" + self.domain(own=False, foreign=True)
        made = [self.case(self.target(key)) for _ in range(self.dice.choice((1, 1, 1, 2, 2, 3)))]
        text = self.dice.choice((", ", ",", " ", " , ")).join(made)
        if self.dice.random() < 0.04:
            text += f" (a remark {self.token})"
        if self.dice.random() < 0.04:
            text += f" #note.{self.token}"
        return text

    def line(self, key: str, value: str) -> str:
        gap = self.dice.choice((" ", " ", "\t", "   ", " \t"))
        if self.dice.random() < 0.1:
            gap = "\n" + gap
        return key + gap + value + self.dice.choice(("", "", "", " ", "\t"))

    def decorated(self, lines: list[str]) -> str:
        made: list[str] = []
        for line in lines:
            if self.dice.random() < 0.1:
                made.append(self.dice.choice(("", "# a comment", "   ", "#")))
            if self.dice.random() < 0.08 and "," in line:
                line = line.replace(",", ",\n   ", 1)
            if self.dice.random() < 0.03 and "," in line:
                line = line.replace(",", ",\n# between\n\n \t", 1)
            made.append(line)
        return "\n".join(made) + ("" if self.dice.random() < 0.1 else "\n" if made else "")

    # Parameters

    def main(self) -> str:
        destinations = ("", "localhost.$mydomain, localhost", f"$myhostname, d1.{self.token}.test", None)
        domains = ("", f"d1.{self.token}.test", f"D0.{self.token}.test ext.{self.token}.example, $myhostname", None)
        chosen = {
            "mydestination": self.dice.choice(destinations),
            "virtual_alias_domains": self.dice.choice(domains),
        }
        return "".join(f"{name} = {value}\n" for name, value in chosen.items() if value is not None)

    # Patterns

    def regexp(self, count: int) -> str:
        lines: list[str] = []
        for _ in range(count):
            pattern, groups = self.pattern()
            flags = self.dice.choice(("", "", "", "", "i", "x", "U", "A"))
            result = self.result(groups)
            kind = self.dice.random()
            if kind < 0.1:
                lines.append(f"!/{pattern}/ {self.result(0)}")
            elif kind < 0.3:
                outer, _ = self.pattern()
                wrong = "!" if self.dice.random() < 0.2 else ""
                inside = [f"/{pattern}/{flags} {result}"]
                if self.dice.random() < 0.3:
                    other, more = self.pattern()
                    inside.append(f"/{other}/ {self.result(more)}")
                lines += [f"if {wrong}/{outer}/", *inside, "endif"]
            elif kind < 0.33:
                lines.append(f"/{pattern}/{flags}")  # without a result
            else:
                lines.append(f"/{pattern}/{flags}{self.dice.choice((' ', chr(9)))}{result}")
        return self.decorated(lines)

    def pattern(self) -> tuple[str, int]:
        """A pattern, and how many groups it has."""
        local, domain = self.local(), self.domain(own=self.alone)
        dots = domain.replace(".", r"\.")
        made: Callable[[], tuple[str, int]] = self.dice.choice(
            (
                lambda: (f"^{local}@{dots}$", 0),
                lambda: (f"^{local}.*@{dots}$", 0),
                lambda: (f"^(.*)@{dots}$", 1),
                lambda: (f"^([^+@]*)(\\+.*)?@{dots}$", 2),
                lambda: (f"@{dots}$", 0),
                lambda: (f"^({local}|b)[-.0-9]*@", 1),
                lambda: (f"{self.token}", 0),
                lambda: (f"{dots}$", 0),
                lambda: (f"^{dots}$", 0),
                lambda: (f"^(.+)@(d0)\\.{self.token}", 2),
                lambda: (f"^{local}", 0),
            )
        )
        return made()

    def result(self, groups: int) -> str:
        domain = self.domain(foreign=True, own=False)
        if groups and self.dice.random() < 0.6:
            group = self.dice.choice(("$1", "${1}", "$(1)"))
            if self.dice.random() < 0.2 and groups > 1:
                group += "$(2)"
            extra = f", {self.target('')}" if self.dice.random() < 0.2 else ""
            return f"{group}@{domain}{extra}"
        return self.targets("")

    # Local aliases

    def aliases(self, count: int) -> str:
        lines: dict[str, str] = {}
        for _ in range(count):
            name = self.bare() + ("+t" if self.dice.random() < 0.1 else "")
            if name in lines:
                continue
            self.keys.append(f"{name}@{HOST}")
            made = [self.case(self.local_target(name)) for _ in range(self.dice.choice((1, 1, 2, 3)))]
            gap = self.dice.choice((": ", ":", ":\t", " : "))
            lines[name] = self.case(name) + gap + self.dice.choice((", ", ",", " ")).join(made)
            if self.dice.random() < 0.05:
                lines[f"owner-{name}"] = f"owner-{name}: {self.address(self.domain())}"
        return self.decorated(list(lines.values()))

    def local_target(self, name: str) -> str:
        kind = self.dice.random()
        if kind < 0.1:
            return name
        if kind < 0.4:
            return self.bare() + ("+t" if self.dice.random() < 0.2 else "")
        if kind < 0.5:
            return f"{self.bare()}@{HOST}"
        if kind < 0.7:
            return self.address(f"ext.{self.token}.example")
        return self.address(self.domain(own=False))


def _speakable(recipient: str) -> bool:
    """Whether smtproute takes it as an address at all."""
    try:
        Address.parse(recipient)
    except ValueError:
        return False
    return True


def by_chance(seed: int, count: int, alone: bool = False) -> list[Case]:
    """So many cases, the same for the same seed."""
    cases: list[Case] = []
    number = 0
    while len(cases) < count:
        dice = random.Random(f"{seed} {number} {alone}")
        chance = Chance(dice, f"f{number:05}", alone)
        folder = chance.folder()
        for recipient in chance.recipients(folder, 10):
            client = FRIEND if dice.random() < 0.2 else STRANGER
            cases.append(Case(folder, recipient, client))
        number += 1
    return cases[:count]
