"""Passwords against the hashes of Dovecot's own doveadm, and hashes that nobody should be made to work on."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from passlib.hash import argon2, bcrypt, ldap_salted_sha512, sha512_crypt

from smtproute.core.address import Address
from smtproute.core.login import Login
from smtproute.intake.passwords import MAX_PASSWORD, WAITING, HashFault, PasswordFault, Passwords

NAME = "name@example.org"
CLIENT = "192.0.2.1"
PLAIN = "{PLAIN}secret"
SHA512 = sha512_crypt.using(rounds=1000).hash("secret")


@pytest.fixture(scope="module")
def cpu() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def login(name: str, password: str, account: str = "") -> Login:
    return Login(Address.parse(name), Address.parse(account or name), password, "postfix-accounts.cf:3")


def accounts(*logins: Login) -> dict[str, Login]:
    return {each.name.key: each for each in logins}


async def right(cpu: Executor, stored: str, password: bytes) -> bool:
    mine = login(NAME, stored)
    found = await Passwords(cpu, 2).login(accounts(mine), NAME, password, CLIENT)
    assert found in (mine, None)
    return found is mine


def doveadm(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["doveadm", "-o", "stats_writer_socket_path=", "pw", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


SCHEMES = ["SHA512-CRYPT", "SSHA512", "BLF-CRYPT", "ARGON2ID", "ARGON2I", "PLAIN"]
ENCODED = ["SSHA512.HEX", "SSHA512.b64", "SHA512-CRYPT.HEX", "BLF-CRYPT.B64", "PLAIN.hex", "ARGON2ID.b64"]
WORDS = ["pässwörd €: {braces} 😀", "abcdefghij" * 10]


@pytest.mark.peer("doveadm")
@pytest.mark.parametrize("password", WORDS, ids=["signs", "long"])
@pytest.mark.parametrize("scheme", [*SCHEMES, *ENCODED])
async def test_hashes_of_doveadm(cpu: Executor, scheme: str, password: str) -> None:
    made = doveadm("-s", scheme, "-p", password)
    stored = made.stdout.strip()
    assert stored.startswith(f"{{{scheme.upper()}}}"), made
    assert await right(cpu, stored.replace(scheme.upper(), scheme.lower(), 1), password.encode())
    assert not await right(cpu, stored, password[1:].encode())


@pytest.mark.peer("doveadm")
@pytest.mark.parametrize("scheme", ["SHA512-CRYPT", "BLF-CRYPT", "ARGON2ID"])
async def test_hashes_of_doveadm_with_more_rounds(cpu: Executor, scheme: str) -> None:
    rounds = {"SHA512-CRYPT": "6000", "BLF-CRYPT": "6", "ARGON2ID": "3"}[scheme]
    stored = doveadm("-s", scheme, "-r", rounds, "-p", "secret").stdout.strip()
    assert await right(cpu, stored, b"secret") and not await right(cpu, stored, b"Secret")


@pytest.mark.peer("doveadm")
@pytest.mark.parametrize(
    ("scheme", "made"),
    [
        ("SHA512-CRYPT", SHA512),
        ("BLF-CRYPT", bcrypt.using(rounds=5).hash("secret")),
        ("ARGON2ID", argon2.using(type="ID", memory_cost=8192, rounds=2, parallelism=1).hash("secret")),
        ("ARGON2I", argon2.using(type="I", memory_cost=8192, rounds=3, parallelism=1).hash("secret")),
        ("SSHA512", ldap_salted_sha512.hash("secret").removeprefix("{SSHA512}")),
    ],
    ids=["SHA512-CRYPT", "BLF-CRYPT", "ARGON2ID", "ARGON2I", "SSHA512"],  # the hashes are other ones in each process
)
@pytest.mark.parametrize("password", ["secret", "wrong"])
async def test_dovecot_says_the_same(cpu: Executor, scheme: str, made: str, password: str) -> None:
    stored = f"{{{scheme}}}{made}"
    assert await right(cpu, stored, password.encode()) is (password == "secret")
    assert (doveadm("-t", stored, "-p", password).returncode == 0) is (password == "secret")


@pytest.mark.peer("doveadm")
async def test_bcrypt_looks_at_72_octets_as_dovecot_does(cpu: Executor) -> None:
    stored = doveadm("-s", "BLF-CRYPT", "-p", "x" * 72).stdout.strip()
    assert doveadm("-t", stored, "-p", "x" * 80).returncode == 0
    assert await right(cpu, stored, b"x" * 80) and not await right(cpu, stored, b"x" * 71)


async def test_without_a_scheme_it_is_sha512_crypt(cpu: Executor) -> None:
    assert await right(cpu, SHA512, b"secret") and not await right(cpu, SHA512, b"Secret")


SMALL = argon2.using(rounds=1, memory_cost=64, parallelism=1).hash("secret")
SHORT = bcrypt.using(rounds=4).hash("secret")


@pytest.mark.parametrize(
    "stored",
    [
        "{SHA512-CRYPT}" + SHA512.replace("$rounds=1000", "$rounds=1000001"),
        "{SHA512-CRYPT}" + SHA512.replace("$rounds=1000", "$rounds=999999999"),
        "{BLF-CRYPT}" + SHORT.replace("$04$", "$15$"),
        "{BLF-CRYPT}" + SHORT.replace("$04$", "$31$"),
        "{ARGON2ID}" + SMALL.replace("m=64", "m=9999999"),
        "{ARGON2ID}" + SMALL.replace("t=1", "t=99999"),
        "{ARGON2ID}" + SMALL.replace("p=1", "p=17"),
    ],
    ids=["rounds=1000001", "rounds=999999999", "$15$", "$31$", "m=9999999", "t=99999", "p=17"],
)
async def test_a_hash_that_would_take_minutes_is_not_worked_on(cpu: Executor, stored: str) -> None:
    with pytest.raises(HashFault, match="is not spent on one login") as fault:
        await right(cpu, stored, b"secret")
    assert str(fault.value).startswith(f"postfix-accounts.cf:3: the password of {NAME} cannot be checked: ")


BAD = {
    "{MD5-CRYPT}$1$T0pS3cr3tSalt": "scheme is not known",
    "{T0pS3cr3t}": "scheme is not known",
    "{}T0pS3cr3t": "scheme is not known",
    "{SHA512-CRYPT}": "no SHA512-CRYPT hash",
    "T0pS3cr3t": "no SHA512-CRYPT hash",
    "{T0pS3cr3t": "no SHA512-CRYPT hash",
    "{SHA512-CRYPT}$6$T0pS3cr3t$short": "doveadm pw -s SHA512-CRYPT",
    "{SHA512-CRYPT}$6$rounds=1$T0pS3cr3t$" + "x" * 86: "no SHA512-CRYPT hash",
    "{SHA512-CRYPT}ü": "no SHA512-CRYPT hash",
    "{BLF-CRYPT}$6$T0pS3cr3t": "no BLF-CRYPT hash",
    "{BLF-CRYPT}$2y$05$T0pS3cr3t": "no BLF-CRYPT hash",
    "{ARGON2ID}$argon2id$v=19$m=T0pS3cr3t": "no ARGON2ID hash",
    "{ARGON2ID}$argon2id$v=19$m=1,t=1,p=16$T0pS3cr3tSaltSalt$T0pS3cr3tHash": "no ARGON2ID hash",
    "{SSHA512}T0pS3cr3t!": "not in B64",
    "{SSHA512}T0pS3cr3": "no SSHA512 hash",
    "{SSHA512.HEX}T0pS3cr3t": "not in HEX",
    "{SSHA512.T0pS3cr3t}x": "encoding of its SSHA512 is not known",
}


@pytest.mark.parametrize("stored", BAD)
async def test_a_hash_that_cannot_be_read_is_named_and_not_shown(cpu: Executor, stored: str) -> None:
    with pytest.raises(HashFault, match=BAD[stored]) as fault:
        await right(cpu, stored, b"secret")
    assert str(fault.value).startswith(f"postfix-accounts.cf:3: the password of {NAME} cannot be checked: ")
    shown = "".join(str(each) for each in (fault.value, fault.value.__cause__))
    assert "T0pS3cr3t" not in shown and "T0PS3CR3T" not in shown and "secret" not in shown


class Counting(Executor):
    """A pool that says what it is given, and works on it when it is told to."""

    def __init__(self) -> None:
        self.given: list[tuple[Future[Any], Any, tuple[Any, ...]]] = []

    def submit(self, work: Any, /, *arguments: Any) -> Future[Any]:  # type: ignore[override]
        future: Future[Any] = Future()
        self.given.append((future, work, arguments))
        return future

    def finish(self) -> None:
        future, work, arguments = self.given.pop(0)
        future.set_result(work(*arguments))


@pytest.mark.parametrize("password", [b"", b"sec\0ret", b"x" * (MAX_PASSWORD + 1)])
@pytest.mark.parametrize("name", [NAME, "nobody@example.org"])
async def test_what_no_password_can_be_is_not_hashed(name: str, password: bytes) -> None:
    pool = Counting()
    assert await Passwords(pool, 1).login(accounts(login(NAME, "{PLAIN}")), name, password, CLIENT) is None
    assert not pool.given


async def test_the_longest_password(cpu: Executor) -> None:
    assert await right(cpu, "{PLAIN}" + "x" * MAX_PASSWORD, b"x" * MAX_PASSWORD)


NAMELESS = ["nobody@example.org", "name", "", f"{NAME} ", "näme@example.org", r"a\xffb@example.org"]


@pytest.mark.parametrize("name", NAMELESS)
async def test_a_name_that_nobody_has_takes_as_long(name: str) -> None:
    """It is worked on somebody's hash, and even with that one's password it is nobody's."""
    pool = Counting()
    trying = asyncio.create_task(Passwords(pool, 1).login(accounts(login(NAME, PLAIN)), name, b"secret", CLIENT))
    while not pool.given:
        await asyncio.sleep(0)
    assert pool.given[0][2] == (PLAIN, b"secret")
    pool.finish()
    assert await trying is None


async def test_a_name_that_nobody_has_is_always_worked_on_the_same_hash() -> None:
    pool = Counting()
    logins = accounts(*(login(f"a{n}@example.org", f"{{PLAIN}}{n}") for n in range(20)))

    async def decoy(name: str) -> str:
        trying = asyncio.create_task(Passwords(pool, 1).login(logins, name, b"secret", CLIENT))
        while not pool.given:
            await asyncio.sleep(0)
        stored: str = pool.given[0][2][0]
        pool.finish()
        assert await trying is None
        return stored

    names = [f"nobody{n}@example.org" for n in range(40)]
    first = [await decoy(name) for name in names]
    assert first == [await decoy(name.upper()) for name in names] and len(set(first)) > 10


async def test_a_decoy_whose_hash_is_broken_is_no_fault_of_the_client(cpu: Executor) -> None:
    logins = accounts(login(NAME, "{MD5}junk"))
    assert await Passwords(cpu, 1).login(logins, "nobody@example.org", b"secret", CLIENT) is None
    with pytest.raises(HashFault):
        await Passwords(cpu, 1).login(logins, NAME, b"secret", CLIENT)


async def test_without_a_password_nobody_logs_in(cpu: Executor) -> None:
    assert not await right(cpu, "", b"secret")
    assert await Passwords(cpu, 1).login({}, NAME, b"secret", CLIENT) is None


async def test_names_fold_case_and_virtual_accounts_have_their_account_s_password(cpu: Executor) -> None:
    account = login("Name@Example.org", PLAIN)
    alias = login("Sales@example.org", PLAIN, "name@example.org")
    logins = accounts(account, alias)
    assert await Passwords(cpu, 1).login(logins, "NAME@EXAMPLE.ORG", b"secret", CLIENT) is account
    assert await Passwords(cpu, 1).login(logins, "sales@example.org", b"secret", CLIENT) is alias
    assert await Passwords(cpu, 1).login(logins, "sales@example.org", b"wrong", CLIENT) is None


async def test_at_most_so_many_at_once_and_in_their_order() -> None:
    pool = Counting()
    passwords = Passwords(pool, 2)
    logins = accounts(*(login(f"a{n}@example.org", f"{{PLAIN}}{n}") for n in range(6)))
    done: list[int] = []

    async def enter(n: int) -> None:
        assert await passwords.login(logins, f"a{n}@example.org", str(n).encode(), CLIENT)
        done.append(n)

    async with asyncio.timeout(20), asyncio.TaskGroup() as entering:
        for n in range(6):
            entering.create_task(enter(n))
        for n in range(6):
            while len(done) < n or not pool.given:
                await asyncio.sleep(0)
            assert len(pool.given) <= 2
            pool.finish()
    assert done == [0, 1, 2, 3, 4, 5]


async def test_who_waits_for_too_long_hears_so_whatever_the_name() -> None:
    pool = Counting()
    passwords = Passwords(pool, 1, patience=0.05)
    logins = accounts(login(NAME, PLAIN))
    first = asyncio.create_task(passwords.login(logins, NAME, b"secret", CLIENT))
    while not pool.given:
        await asyncio.sleep(0)
    for name in (NAME, "nobody@example.org"):
        with pytest.raises(PasswordFault, match="too many log in at once"):
            await passwords.login(logins, name, b"secret", CLIENT)
    pool.finish()
    assert await first is not None
    again = asyncio.create_task(passwords.login(logins, NAME, b"secret", CLIENT))
    while not pool.given:
        await asyncio.sleep(0)
    pool.finish()
    assert await again is not None


class Gate:
    """Logins from several addresses, one hash at a time, each worked on when the test says so."""

    def __init__(self) -> None:
        self.pool = Counting()
        self.passwords = Passwords(self.pool, 1)
        self.logins = accounts(login(NAME, PLAIN))
        self.entering: list[asyncio.Task[Login | None]] = []

    async def enter(self, client: str, password: bytes = b"wrong") -> asyncio.Task[Login | None]:
        """A login that has come as far as it can."""
        entering = asyncio.create_task(self.passwords.login(self.logins, NAME, password, client))
        self.entering.append(entering)
        await asyncio.sleep(0)
        return entering

    async def finish(self) -> None:
        """The hash that is under way is done, and the next one is begun."""
        self.pool.finish()
        for _ in range(5):  # through the pool's future, the turn, and whoever has it next
            await asyncio.sleep(0)

    async def leave(self) -> None:
        while self.pool.given:
            await self.finish()
        await asyncio.gather(*self.entering, return_exceptions=True)


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    made = Gate()
    yield made
    await made.leave()


@pytest.mark.parametrize(("many", "one"), [(CLIENT, "192.0.2.2"), ("2001:db8::%x", "2001:db8:0:1::1")])
async def test_another_address_waits_for_one_hash_of_a_flood(gate: Gate, many: str, one: str) -> None:
    """Of IPv6 a /64 is one address."""
    for n in range(1 + WAITING):
        await gate.enter(many % n if "%" in many else many)
    user = await gate.enter(one, b"secret")
    assert len(gate.pool.given) == 1 and not user.done()
    await gate.finish()
    assert gate.pool.given[0][2] == (PLAIN, b"secret")
    await gate.finish()
    assert await user is not None


async def test_addresses_that_wait_take_turns(gate: Gate) -> None:
    for client, password in ((1, b"1"), (1, b"2"), (1, b"3"), (2, b"4"), (2, b"5"), (3, b"6")):
        await gate.enter(f"192.0.2.{client}", password)
    order = []
    while gate.pool.given:
        order.append(gate.pool.given[0][2][1])
        await gate.finish()
    assert order == [b"1", b"4", b"2", b"6", b"5", b"3"]


async def test_of_one_address_only_so_many_wait(gate: Gate) -> None:
    for _ in range(1 + WAITING):
        await gate.enter(CLIENT)
    with pytest.raises(PasswordFault, match=f"too many log in at once from {CLIENT}"):
        await (await gate.enter(CLIENT))
    assert not (await gate.enter("192.0.2.2")).done()
    await gate.finish()
    await gate.finish()
    assert not (await gate.enter(CLIENT)).done()


async def test_who_goes_leaves_the_turn_to_the_next(gate: Gate) -> None:
    first = await gate.enter(CLIENT)
    gone, going = await gate.enter(CLIENT), await gate.enter(CLIENT)
    user = await gate.enter(CLIENT, b"secret")
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    going.cancel()  # and its turn comes before it knows
    await gate.finish()
    assert await first is None
    assert gate.pool.given[0][2] == (PLAIN, b"secret")
    await gate.finish()
    assert await user is not None


async def test_a_hash_that_nobody_waits_for_is_still_under_way(gate: Gate) -> None:
    first = await gate.enter(CLIENT)
    user = await gate.enter("192.0.2.2", b"secret")
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert len(gate.pool.given) == 1
    await gate.finish()
    await gate.finish()
    assert await user is not None
