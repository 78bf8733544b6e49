"""Login: the names by which clients authenticate, each the identity of one account."""

from __future__ import annotations

from dataclasses import dataclass, field

from smtproute.core.address import Address

__all__ = ["Login"]


@dataclass(frozen=True, slots=True)
class Login:
    """An account; or a virtual account, which docker-mailserver makes of an alias so that its quota can be asked.

    A virtual account logs in with the password of its account, and shares its quota.
    """

    name: Address
    account: Address
    """The account whose mailbox, quota and password it has; the name itself unless it is virtual."""
    password: str = field(repr=False)
    """`{SCHEME}hash`, as in the accounts file; empty: nobody can log in."""
    rule: str
    """`file:line`."""

    @property
    def virtual(self) -> bool:
        return self.name.key != self.account.key
