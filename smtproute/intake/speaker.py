"""Speaker: who sends the mail that is explained, from what is said of him and what is usual."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches

from smtproute.core.address import Address
from smtproute.core.envelope import Client, Envelope
from smtproute.core.permit import admits, trusts
from smtproute.core.settings import Auth, Role
from smtproute.core.snapshot import Snapshot

__all__ = ["SpeakerFault", "speaker"]


class SpeakerFault(ValueError):
    """What is said of him cannot be: `named` is which argument of `speaker`, the text gives its value and why."""

    def __init__(self, named: str, text: str) -> None:
        super().__init__(text)
        self.named = named


def speaker(
    snapshot: Snapshot,
    *,
    sender: Address | None = None,
    client: str | None = None,
    listener: str | None = None,
    login: str | None = None,
    size: int | None = None,
) -> Envelope:
    """The envelope of one message.

    `sender` None is the null one. `client` is an IP address; None: a stranger's (TEST-NET-1), or of a listener that
    admits none this machine's. `listener` None: the first, with a `login` the first for submission. `size` is in
    octets. Raises SpeakerFault, AddressError for a login that is no address.
    """
    listeners = snapshot.settings.listeners
    name = next(iter(listeners)) if listener is None else listener
    if listener is None and login is not None:
        name = next((each.name for each in listeners.values() if each.role is Role.SUBMISSION), name)
    if name not in listeners:
        raise SpeakerFault("listener", f"there is no listener {name!r}: the configuration has {', '.join(listeners)}")
    usual = "192.0.2.1" if admits(listeners[name], "192.0.2.1") else "127.0.0.1"
    ip = client if client is not None else usual
    try:
        trusted = trusts(listeners[name], ip)
    except ValueError:
        raise SpeakerFault("client", f"{ip}: it is no IP address") from None
    most = snapshot.settings.limits.message_size
    if size is not None and size > most:
        raise SpeakerFault("size", f"{size}: no message is taken that is larger than {most} octets")
    speaks = Client(ip, 0, name, listeners[name].role, trusted)
    if login is not None and listeners[name].auth is Auth.ANY:
        speaks = replace(speaks, named=login)
    elif login is not None:
        speaks = replace(speaks, login=_login(snapshot, login))
    return Envelope(speaks, sender, size)


def _login(snapshot: Snapshot, written: str) -> Address:
    found = snapshot.logins.get(Address.parse(written).key)
    if found is None:
        close = get_close_matches(written.lower(), snapshot.logins, 3, 0.6)
        meant = f" Did you mean {' or '.join(close)}?" if close else ""
        raise SpeakerFault("login", f"{written}: there is no such login.{meant}")
    return found.name
