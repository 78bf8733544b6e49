"""SRS: the sender of a forward, rewritten to a domain of ours that takes its bounces back (postsrsd(8), libsrs2).

`SRS0=hash=stamp=domain=user@ours` stands for `user@domain`. Of a sender that somebody else has rewritten already,
`SRS1=hash=domain=user@ours` leads to `SRS0user@domain`, past all who forwarded between. The sign behind the tag may be
one of = + -; hash, stamp and tag are compared without case, since not every server keeps it.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass

from smtproute.core.address import Address, AddressError, Domain
from smtproute.core.plan import Delivery
from smtproute.core.settings import Kind, Srs

__all__ = ["Sender", "SrsFault", "original", "rewritten", "sender_for"]

MAX_AGE = 21
"""Days for which an SRS0 address is good, as with postsrsd. An SRS1 address has no stamp of its own."""

_DAY = 86400
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_DAYS = len(_DIGITS) ** 2
"""After so many days the stamps begin again."""
_HASH = 4
"""Characters of a hash that are written and compared."""


class SrsFault(ValueError):
    """An address cannot be rewritten, or be turned back; the text says why."""


@dataclass(frozen=True, slots=True)
class Sender:
    """The reverse-path of one copy."""

    path: Address | None
    rewritten: bool
    why: str
    """In words, why it was rewritten, or left as it is."""
    wanted: bool = False
    """It should have been rewritten, and could not be."""


def sender_for(
    srs: Srs, sender: Address | None, delivery: Delivery, local: Callable[[Domain], bool], at: float
) -> Sender:
    """The reverse-path of a copy of a message from `sender` that was received `at`: rewritten if it is a forward.

    That is a copy that came of an alias and leaves for a domain that is not `local`. The next server asks whether we
    may send for the sender's domain (SPF), and for nobody else's mail is the answer no.
    """
    left = _left(srs, sender, delivery, local)
    if sender is None or left:
        return Sender(sender, False, left)
    try:
        path = rewritten(srs, sender, at)
    except SrsFault as fault:
        return Sender(sender, False, str(fault), wanted=True)
    why = f"it is a forward, and {sender.domain} is not ours"
    if not srs.secrets:
        why += "; HASH and TT stand for what the secret makes: it is not there yet, or not for strangers"
    return Sender(path, True, why)


def _left(srs: Srs, sender: Address | None, delivery: Delivery, local: Callable[[Domain], bool]) -> str:
    """Why the sender is left alone; empty where it is not."""
    if srs.domain is None:
        return "no domain is configured to rewrite senders to ([srs])"
    if delivery.kind is not Kind.ENDPOINT:
        return "the copy does not leave the house"
    if not delivery.expanded:
        return "it is no forward: no alias led there"
    if local(delivery.address.domain):
        return f"it is no forward: {delivery.address.domain} is a local domain"
    if sender is None:
        return "it is the null sender"
    if sender.domain == srs.domain:
        return f"{sender.domain} is the domain that senders are rewritten to"
    if local(sender.domain):
        return f"{sender.domain} is a local domain"
    name = sender.domain.key
    excluded = next((each for each in srs.exclude if name == each or (each[0] == "." and name.endswith(each))), "")
    return f"{name} is excluded (srs.exclude has {excluded})" if excluded else ""


def rewritten(srs: Srs, sender: Address, at: float) -> Address:
    """The address at `srs.domain` that stands for a sender of somebody else, from `at` on.

    Without a secret it has HASH and TT in place of hash and stamp. Raises SrsFault, also where there is no domain.
    """
    if srs.domain is None:
        raise SrsFault("no domain is configured to rewrite senders to ([srs])")
    host, user = sender.domain.text, sender.local
    match _tag(sender), user[5:].split("=", 2):
        case "SRS0", _:
            rest = user[4:]
            local = f"SRS1={_signed(srs, host, rest)}={host}={rest}"
        case "SRS1", [_, first, rest]:
            local = f"SRS1={_signed(srs, first, rest)}={first}={rest}"
        case "SRS1", _:
            raise SrsFault(f"{sender} begins as an SRS1 address, and is none")
        case _:
            stamp = _stamp(at) if srs.secrets else "TT"
            local = f"SRS0={_signed(srs, stamp, host, user)}={stamp}={host}={user}"
    try:
        return Address.parse(str(Address(local, Domain(srs.domain.key, srs.domain.key))))
    except AddressError as error:
        raise SrsFault(f"{sender} cannot be rewritten: {error}") from None


def original(srs: Srs, address: Address, at: float) -> Address | None:
    """The address that an SRS address of ours stands for; None where it is none.

    Raises SrsFault where it is malformed, its hash is wrong, or it has expired at the time `at`.
    """
    tag = _tag(address)
    if not tag or srs.domain is None or address.domain != srs.domain:
        return None
    match tag, address.local[5:].split("=", 3 if tag == "SRS0" else 2):
        case "SRS0", [seal, stamp, host, user]:
            _verify(srs, seal, stamp, host, user)
            _check_age(stamp, at)
        case "SRS1", [seal, host, rest]:
            _verify(srs, seal, host, rest)
            user = f"SRS0{rest}"
        case _:
            raise SrsFault("it begins as an SRS address, and parts of it are missing")
    try:
        return Address.parse(str(Address(user, Domain.parse(host))))
    except AddressError as error:
        raise SrsFault(f"what it stands for is no address: {error}") from None


def _tag(address: Address) -> str:
    """SRS0 or SRS1, where the address begins as such an address does; else empty."""
    tag = address.local[:4].upper()
    return tag if tag in ("SRS0", "SRS1") and address.local[4:5] in ("=", "+", "-") else ""


def _signed(srs: Srs, *parts: str) -> str:
    return _hash(srs.secrets[0], parts) if srs.secrets else "HASH"


def _verify(srs: Srs, seal: str, *parts: str) -> None:
    """Raises SrsFault where no secret makes this hash."""
    if not srs.secrets:
        raise SrsFault("the secret to check its hash with is not there yet (serve makes it), or not for strangers")
    given = seal[:_HASH].lower().encode()
    if not any(hmac.compare_digest(given, _hash(secret, parts).lower().encode()) for secret in srs.secrets):
        raise SrsFault("its hash is wrong: it is not of our making, or was changed, or the secret was")


def _hash(secret: str, parts: tuple[str, ...]) -> str:
    """HMAC-SHA1 over the parts, of which only ASCII letters are folded to lower case."""
    key, text = (each.encode("utf-8", "surrogateescape") for each in (secret, "".join(parts)))
    return b64encode(hmac.digest(key, text.lower(), "sha1"))[:_HASH].decode()


def _stamp(at: float) -> str:
    high, low = divmod(int(at) // _DAY % _DAYS, len(_DIGITS))
    return _DIGITS[high] + _DIGITS[low]


def _check_age(stamp: str, at: float) -> None:
    """Raises SrsFault."""
    digits = [_DIGITS.find(digit) for digit in stamp.upper()]
    if len(digits) != 2 or -1 in digits:
        raise SrsFault(f"its time stamp is malformed: {stamp}")
    made = digits[0] * len(_DIGITS) + digits[1]
    if (int(at) // _DAY - made) % _DAYS > MAX_AGE:
        raise SrsFault(f"it has expired: it was good for {MAX_AGE} days")
