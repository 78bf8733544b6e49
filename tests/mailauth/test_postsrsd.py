"""Senders that the real postsrsd has rewritten, and what it makes of ours, with the same secrets."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from smtproute.core.address import Address, AddressError, Domain
from smtproute.core.settings import Srs
from smtproute.core.srs import MAX_AGE, SrsFault, original, rewritten
from smtproute.mailauth import secret

pytestmark = pytest.mark.peer("postsrsd")

DAY = 86400.0
HOME = "srs.example.org"
SECRETS = ("first secret", "second+/=", "b\u00fc" + "x" * 100)
SENDERS = [
    "user@else.example",
    "User.Name+tag@Else.Example",
    "a=b+c-d@else.example",
    "bounce-123=me=far.example@list.example",
    "x@[192.0.2.1]",
    "J\u00fcrgen.\u00c4@b\u00fccher.example",
    "!#$%&'*/?^_`{|}~@else.example",
    "SRS0=abcd=TT=author.example=user@first.example",
    "SRS0+abcd=TT=author.example=user@first.example",
    "srs0-abcd=TT=author.example=user@first.example",
    "SRS1=abcd=first.example==hash=TT=author.example=user@second.example",
    "srs1+abcd=first.example=-hash=TT=author.example=user@second.example",
    "SRS0x=y@else.example",
    f"{'a' * 200}@else.example",
]


class Postsrsd:
    """Both of its tables (tcp_table(5)). Local parts go without quotes, as Postfix asks where it finds no other."""

    def __init__(self, forward: int, reverse: int) -> None:
        self._ports = forward, reverse

    def rewritten(self, address: Address) -> str | None:
        return self._get(self._ports[0], address)

    def original(self, address: Address) -> str | None:
        return self._get(self._ports[1], address)

    def _get(self, port: int, address: Address) -> str | None:
        """What is found; None where nothing is."""
        asked = quote(f"{address.local}@{address.domain.text}", safe="@")
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
            connection.makefile("rwb") as file,
        ):
            file.write(f"get {asked}\n".encode())
            file.flush()
            code, _, text = file.readline().decode("ascii").rstrip("\n").partition(" ")
        assert code in ("200", "500"), text
        return unquote(text) if code == "200" else None


def made(turn: Callable[[Srs, Address, float], Address | None], address: Address, at: float) -> str | None:
    """What we make of an address, written as postsrsd does it: without quotes."""
    try:
        there = turn(SRS, address, at)
    except SrsFault:
        return None
    return None if there is None else f"{there.local}@{there.domain.text}"


SRS = Srs(Domain.parse(HOME), secrets=SECRETS)


@contextmanager
def started(folder: Path, *options: str) -> Iterator[Postsrsd]:
    """A postsrsd that runs until the block is left."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = one.getsockname()[1], other.getsockname()[1]
    ready = folder / "pid"
    os.mkfifo(ready)
    command = ["postsrsd", "-4", f"-f{ports[0]}", f"-r{ports[1]}", f"-d{HOME}", f"-s{folder / 'secret'}", f"-p{ready}"]
    waiting = os.open(ready, os.O_RDONLY | os.O_NONBLOCK)
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    process = subprocess.Popen([*command, *options], env={**os.environ, "PATH": path})
    try:
        # It writes its number once it listens.
        assert select.select([waiting], [], [], 20)[0] and os.read(waiting, 20).decode() == str(process.pid)
        yield Postsrsd(*ports)
    finally:
        os.close(waiting)
        process.kill()
        process.wait(timeout=20)


@pytest.fixture(scope="module")
def postsrsd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postsrsd]:
    folder = tmp_path_factory.mktemp("postsrsd")
    file = folder / "secret"
    file.write_text("".join(f"{each}\n" for each in SECRETS))
    file.chmod(0o600)
    assert secret.read(str(file)) == SECRETS
    with started(folder) as running:
        yield running


def compared(postsrsd: Postsrsd, sender: Address) -> str | None:
    """What both make of a sender, and of what they have made of it."""
    before = time.time()
    there = postsrsd.rewritten(sender)
    assert there in {made(rewritten, sender, at) for at in (before, time.time())}  # it may be midnight
    if there is not None:
        local, _, domain = there.rpartition("@")
        address = Address(local, Domain.parse(domain))
        back = postsrsd.original(address)
        assert made(original, address, time.time()) == (back if back is not None and has_domain(back) else None)
        return back
    return None


def has_domain(address: str) -> bool:
    """postsrsd makes no difference between an SRS1 sender of a server and one of nothing."""
    try:
        Domain.parse(address.rpartition("@")[2])
    except AddressError:
        return False
    return True


@pytest.mark.parametrize("sender", SENDERS)
def test_both_make_the_same_of_a_sender(postsrsd: Postsrsd, sender: str) -> None:
    back = compared(postsrsd, Address.parse(sender))
    assert back is not None
    assert back == sender or "SRS" in sender.upper()


LETTERS = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="@")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(
    st.one_of(
        st.text(LETTERS, min_size=1, max_size=60),
        st.builds(
            "".join, st.tuples(st.sampled_from(["SRS0", "SRS1", "srs0", "sRs1"]), st.text("=+-aB1/", max_size=20))
        ),
    ),
    st.sampled_from(["else.example", "A.Example", "b\u00fccher.example", "[192.0.2.1]"]),
)
def test_of_any_sender(postsrsd: Postsrsd, local: str, domain: str) -> None:
    """Left out: an @ in it, behind which postsrsd sees the domain, and a bare tag, whose end it takes for a sign."""
    assume(local.upper() not in ("SRS0", "SRS1"))
    try:
        sender = Address.parse(str(Address(local, Domain.parse(domain))))
    except AddressError:
        assume(False)
    compared(postsrsd, sender)


@pytest.mark.parametrize("number", range(len(SECRETS)))
def test_it_verifies_what_any_of_the_secrets_has_signed(postsrsd: Postsrsd, number: int) -> None:
    sender = Address.parse("user@else.example")
    there = rewritten(replace(SRS, secrets=SECRETS[number:]), sender, time.time())
    for address in (there, Address(there.local.lower(), there.domain), Address(there.local.upper(), there.domain)):
        back = postsrsd.original(address)
        assert back == made(original, address, time.time())
        assert back is not None and back.lower() == "user@else.example"
    assert postsrsd.original(rewritten(replace(SRS, secrets=("another",)), sender, time.time())) is None


@pytest.mark.parametrize("separator", "=+-")
def test_it_reads_each_separator_and_we_read_what_it_writes_with_each(tmp_path: Path, separator: str) -> None:
    (tmp_path / "secret").write_text(f"{SECRETS[0]}\n")
    with started(tmp_path, f"-a{separator}") as peer:
        sender = Address.parse("user@else.example")
        there = peer.rewritten(sender)
        assert there is not None and there[4] == separator
        assert original(SRS, Address.parse(there), time.time()) == sender
        assert peer.original(rewritten(SRS, sender, time.time())) == "user@else.example"


@pytest.mark.parametrize("days", [-1, 0, 1, MAX_AGE, MAX_AGE + 1, 500, 1023])
def test_both_hold_it_for_the_same_days(postsrsd: Postsrsd, days: int) -> None:
    noon = time.time() // DAY * DAY + DAY / 2
    address = rewritten(SRS, Address.parse("user@else.example"), noon - days * DAY)
    theirs = postsrsd.original(address)
    if time.time() // DAY == noon // DAY:  # it is not midnight
        assert theirs == made(original, address, noon)
        assert (theirs is not None) is (0 <= days <= MAX_AGE)


@pytest.mark.parametrize("at", range(5, 30))
def test_both_find_out_what_was_changed(postsrsd: Postsrsd, at: int) -> None:
    there = rewritten(SRS, Address.parse("user@else.example"), time.time())
    local = there.local[:at] + ("x" if there.local[at] not in "xX" else "y") + there.local[at + 1 :]
    address = Address(local, there.domain)
    assert len(there.local) > at
    assert postsrsd.original(address) is None and made(original, address, time.time()) is None
