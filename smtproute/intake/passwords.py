"""Passwords: who it is that logs in. A password is checked as Dovecot checks it, and never on the event loop."""

from __future__ import annotations

import asyncio
import binascii
import hmac
import ipaddress
import zlib
from base64 import b64encode
from collections import Counter, deque
from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import suppress
from enum import StrEnum
from typing import assert_never

from smtproute.core.address import Address, AddressError
from smtproute.core.login import Login

__all__ = ["MAX_PASSWORD", "PATIENCE", "WAITING", "HashFault", "PasswordFault", "Passwords"]

MAX_PASSWORD = 1000
"""Octets of a password; a longer one is wrong."""
PATIENCE = 20.0
"""Seconds that a login waits for its turn."""
WAITING = 64
"""Logins of one client address that wait for their turn; more than one, for there are users behind NAT and webmail."""

_MAX_SHA512_ROUNDS = 1_000_000
_MAX_BCRYPT_COST = 14
_MAX_ARGON2_MEMORY = 256 * 1024
"""KiB."""
_MAX_ARGON2_WORK = 1024 * 1024
"""KiB times passes."""
_MAX_ARGON2_LANES = 16
_BCRYPT_READS = 72
"""Octets of a password that bcrypt looks at: crypt(3), which Dovecot calls, leaves out the others."""


class PasswordFault(Exception):
    """Nobody can tell now whether a password is right. The text says why; neither password nor hash is in it."""


class HashFault(PasswordFault):
    """What the accounts file has for a login cannot be checked against."""


class Scheme(StrEnum):
    """Dovecot's names for the kinds of hashes that are read here."""

    SHA512_CRYPT = "SHA512-CRYPT"
    SSHA512 = "SSHA512"
    BLF_CRYPT = "BLF-CRYPT"
    ARGON2ID = "ARGON2ID"
    ARGON2I = "ARGON2I"
    PLAIN = "PLAIN"


class Passwords:
    """Checks passwords in `cpu`, at most `at_once` of them; the others wait, and client addresses take turns."""

    def __init__(self, cpu: Executor, at_once: int, patience: float = PATIENCE) -> None:
        self._cpu = cpu
        self._turns = _Turns(at_once)
        self._patience = patience

    async def login(self, logins: Mapping[str, Login], name: str, password: bytes, client: str) -> Login | None:
        """Who of `logins` (by Address.key) has this name and password; None if nobody. Raises PasswordFault.

        A name that nobody has takes the time of one that somebody has. `client` is the IP address that asks.
        """
        if not 0 < len(password) <= MAX_PASSWORD or b"\0" in password:
            return None
        login = _named(logins, name)
        if login is None or not login.password:
            decoy = _decoy(logins, name)
            if decoy is not None:
                with suppress(HashFault):
                    await self._right(decoy, password, client)
            return None
        return login if await self._right(login, password, client) else None

    async def _right(self, login: Login, password: bytes, client: str) -> bool:
        network = _network(client)
        try:
            async with asyncio.timeout(self._patience):
                await self._turns.take(network)
        except TimeoutError:
            raise PasswordFault(f"too many log in at once: no turn within {self._patience:g} seconds") from None
        work = asyncio.get_running_loop().run_in_executor(self._cpu, _verify, login.password, password)
        # The turn is over when the work is, even if the client is gone before.
        work.add_done_callback(lambda _: self._turns.give_back(network))
        try:
            return await asyncio.shield(work)
        except HashFault as fault:
            raise HashFault(f"{login.rule}: the password of {login.account} cannot be checked: {fault}") from None


class _Turns:
    """`free` turns at a time. Each goes to the network that has the fewest, and of these to the one next in line.

    So whoever floods one address with logins holds up every other by no more than the login that is under way.
    """

    def __init__(self, free: int) -> None:
        self._free = free
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By network, in the order in which they are next."""

    async def take(self, network: str) -> None:
        """Waits for a turn. Raises PasswordFault at once where too many of the network wait already."""
        if self._free:
            self._free -= 1
            self._held[network] += 1
            return
        line = self._waiting.setdefault(network, deque())
        if len(line) >= WAITING:
            raise PasswordFault(f"too many log in at once from {network}: {len(line)} wait for their turn")
        turn = asyncio.get_running_loop().create_future()
        line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(network, turn)
            else:
                self.give_back(network)
            raise

    def give_back(self, network: str) -> None:
        """The turn goes on to who waits for one."""
        while self._waiting:
            chosen = min(self._waiting, key=lambda each: self._held[each])
            line = self._waiting.pop(chosen)
            turn = line.popleft()
            if line:
                self._waiting[chosen] = line
            if not turn.cancelled():
                turn.set_result(None)
                self._held[chosen] += 1
                break
        else:
            self._free += 1
        self._held[network] -= 1
        if not self._held[network]:
            del self._held[network]

    def _leave(self, network: str, turn: asyncio.Future[None]) -> None:
        line = self._waiting.get(network, deque())
        if turn in line:
            line.remove(turn)
            if not line:
                del self._waiting[network]


def _network(client: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 address, all of which one host may have."""
    address = ipaddress.ip_address(client)
    if isinstance(address, ipaddress.IPv4Address):
        return client
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


def _named(logins: Mapping[str, Login], name: str) -> Login | None:
    try:
        return logins.get(Address.parse(name).key)
    except AddressError:
        return None


def _decoy(logins: Mapping[str, Login], name: str) -> Login | None:
    """Whose hash is worked on for a name that nobody has: always the same one's, so that the name has one speed."""
    made = [login for login in logins.values() if login.password]
    return made[zlib.crc32(name.lower().encode("utf-8", "replace")) % len(made)] if made else None


def _verify(stored: str, password: bytes) -> bool:
    """Whether the password is that of a `{SCHEME}hash`. Takes CPU time. Raises HashFault.

    What reads hashes is loaded with the first that is read: most processes read none.
    """
    scheme, octets = _read(stored)
    if scheme is Scheme.PLAIN:
        return hmac.compare_digest(octets, password)
    try:
        match scheme:
            case Scheme.SHA512_CRYPT:
                from passlib.hash import sha512_crypt

                text = octets.decode("ascii")
                _bounded("number of rounds", sha512_crypt.from_string(text).rounds, _MAX_SHA512_ROUNDS)
                right = sha512_crypt.verify(password, text)
            case Scheme.SSHA512:
                from passlib.hash import ldap_salted_sha512

                right = ldap_salted_sha512.verify(password, "{SSHA512}" + b64encode(octets).decode("ascii"))
            case Scheme.BLF_CRYPT:
                from passlib.hash import bcrypt

                text = octets.decode("ascii")
                _bounded("cost", bcrypt.from_string(text).rounds, _MAX_BCRYPT_COST)
                right = bcrypt.verify(password[:_BCRYPT_READS], text)
            case Scheme.ARGON2ID | Scheme.ARGON2I:
                from passlib.hash import argon2

                text = octets.decode("ascii")
                found = argon2.from_string(text)
                _bounded("memory in KiB", found.memory_cost, _MAX_ARGON2_MEMORY)
                _bounded("memory times passes", found.memory_cost * found.rounds, _MAX_ARGON2_WORK)
                _bounded("number of lanes", found.parallelism, _MAX_ARGON2_LANES)
                right = argon2.verify(password, text)
            case _:
                assert_never(scheme)
    except ValueError:  # its text may hold the hash
        raise HashFault(f"this is no {scheme} hash: make one with doveadm pw -s {scheme}") from None
    return bool(right)


def _read(stored: str) -> tuple[Scheme, bytes]:
    """Scheme and octets as Dovecot reads `{SCHEME.ENCODING}text`. Raises HashFault.

    Without a scheme it is SHA512-CRYPT, as docker-mailserver's passdb has it.
    """
    label, text = Scheme.SHA512_CRYPT.value, stored
    if stored.startswith("{") and "}" in stored:
        label, _, text = stored[1:].partition("}")
    name, _, encoding = label.upper().partition(".")
    try:
        scheme = Scheme(name)
    except ValueError:
        raise HashFault(f"its scheme is not known here: write one of {', '.join(Scheme)}") from None
    if not encoding and scheme is Scheme.SSHA512:
        encoding = "B64"
    try:
        match encoding:
            case "":
                return scheme, text.encode()
            case "HEX":
                return scheme, binascii.unhexlify(text)
            case "B64" | "BASE64":
                return scheme, binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise HashFault(f"what follows {{{label}}} is not in {encoding}") from None
    raise HashFault(f"the encoding of its {scheme} is not known here: write {{{scheme}.HEX}} or {{{scheme}.B64}}")


def _bounded(what: str, cost: int, most: int) -> None:
    """Raises HashFault for a hash that would keep a processor busy for long."""
    if cost > most:
        raise HashFault(f"the {what} of its hash is {cost}, and more than {most} is not spent on one login")
