"""Whose mail is signed (DKIM), and with which keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from smtproute.core.address import Address, Domain
from smtproute.core.aliases import Aliases
from smtproute.core.author import Author
from smtproute.core.envelope import Client, Envelope
from smtproute.core.settings import Accounts, Dkim, DomainKey, Role, Settings
from smtproute.core.signatures import Signatures, bounce_signatures, plan_signatures, unsigned
from tests.core.routing import aliases

STRANGER = Client("192.0.2.1", 4711, "mx", Role.INBOUND, False)
TRUSTED = replace(STRANGER, role=Role.TRUSTED, trusted=True)
LOGIN = replace(STRANGER, role=Role.SUBMISSION, login=Address.parse("anna@here.example"))


def key(domain: str, selector: str = "rsa") -> DomainKey:
    return DomainKey(Domain.parse(domain), selector, f"{selector}-{domain}.pem")


BOTH = (key("here.example"), key("here.example", "ed"))
KEYS = {"here.example": BOTH, "other.example": (key("other.example"),)}


def settings(**dkim: Any) -> Settings:
    return Settings(
        hostname=Domain.parse("mail.here.example"),
        state="/nowhere",
        listeners={},
        endpoints={},
        accounts=Accounts("/nowhere/mail"),
        dkim=Dkim(**{"keys": KEYS, **dkim}),
    )


def planned(
    client: Client, *authors: str, made: Settings | None = None, by: Aliases | None = None, fault: str = ""
) -> Signatures:
    """For mail whose sender is somebody else altogether, because only the From counts."""
    envelope = Envelope(client, Address.parse("bounces@elsewhere.example"))
    author = Author(tuple(map(Address.parse, authors)), fault)
    return plan_signatures(made or settings(), by or aliases({}), envelope, author)


@pytest.mark.parametrize(
    ("client", "option"),
    [(TRUSTED, "local"), (LOGIN, "authenticated"), (replace(LOGIN, trusted=True), "authenticated")],
)
def test_whose_mail_is_signed(client: Client, option: str) -> None:
    for value in (True, False):
        made = settings(**{option: value})
        signatures = planned(client, "anna@here.example", made=made)
        assert (signatures.keys, signatures.wanted) == ((BOTH, True) if value else ((), False))
        assert bool(signatures.reason) is bool(unsigned(made, client)) is not value


def test_mail_of_strangers_is_never_signed() -> None:
    assert planned(STRANGER, "anna@here.example") == Signatures(reason="it comes from outside")


def test_without_keys_nothing_is_wanted() -> None:
    none = planned(LOGIN, "anna@here.example", made=settings(keys={}))
    assert none == Signatures(reason="no signing key is configured ([dkim.keys])")


def test_a_login_signs_for_its_own_domain_only() -> None:
    assert planned(LOGIN, "BOB@Here.Example").keys == BOTH
    other = planned(LOGIN, "bob@other.example")
    assert (other.keys, other.wanted) == ((), True)
    assert other.reason == (
        "anna@here.example may not sign as bob@other.example: no alias of bob@other.example names anna@here.example"
    )
    assert planned(TRUSTED, "bob@other.example").keys == KEYS["other.example"]


def test_a_login_signs_as_an_address_that_it_owns() -> None:
    owned = aliases({"sales@other.example": "anna@here.example, bob@here.example"})
    assert planned(LOGIN, "sales@other.example", by=owned).keys == KEYS["other.example"]
    assert not planned(LOGIN, "boss@other.example", by=owned).keys
    assert not planned(LOGIN, "sales@other.example", "boss@other.example", by=owned).keys


def test_what_the_from_does_not_say_is_told() -> None:
    assert planned(LOGIN, fault="it has no From field") == Signatures(wanted=True, reason="it has no From field")
    missing = planned(TRUSTED, "x@nokey.example")
    assert missing == Signatures(wanted=True, reason="there is no signing key for nokey.example")


def test_a_subdomain_is_signed_for_by_its_parent() -> None:
    parents = settings(parents=True)
    assert not planned(TRUSTED, "x@a.b.here.example").keys
    assert planned(TRUSTED, "x@a.b.here.example", made=parents).keys == BOTH
    assert not planned(LOGIN, "x@a.b.here.example", made=parents).keys, "not the login's own domain"
    below = replace(LOGIN, login=Address.parse("anna@sub.here.example"))
    assert planned(below, "bob@sub.here.example", made=parents).keys == BOTH
    assert not planned(below, "x@a.here.example", made=parents).keys
    owned = aliases({"x@a.here.example": "anna@sub.here.example"})
    assert planned(below, "x@a.here.example", made=parents, by=owned).keys == BOTH
    own = settings(parents=True, keys={**KEYS, "sub.here.example": (key("sub.here.example"),)})
    assert not planned(LOGIN, "x@sub.here.example", made=own).keys, "that domain signs with a key of its own"
    assert not planned(below, "x@here.example", made=own).keys


def test_a_bounce_of_ours_is_signed_by_the_nearest_domain_above_the_host_name() -> None:
    assert bounce_signatures(settings()) == Signatures(BOTH, wanted=True)
    off = settings(local=False, null_sender=False, author_mismatch=False)
    assert bounce_signatures(off).keys == BOTH
    own = (key("mail.here.example"),)
    assert bounce_signatures(settings(keys={**KEYS, "mail.here.example": own})).keys == own
    others = bounce_signatures(settings(keys={"other.example": KEYS["other.example"]}))
    assert (others.keys, others.wanted) == ((), True) and "mail.here.example, nor" in others.reason
    assert bounce_signatures(settings(keys={})) == Signatures(reason="no signing key is configured ([dkim.keys])")
