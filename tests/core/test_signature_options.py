"""Which copies are signed by the options of rspamd's dkim_signing.conf."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from smtproute.core.address import Address, Domain
from smtproute.core.aliases import Aliases
from smtproute.core.author import Author
from smtproute.core.envelope import Client, Envelope
from smtproute.core.settings import Accounts, Dkim, DomainKey, Role, Settings
from smtproute.core.signatures import Signatures, plan_signatures

HERE = Domain.parse("here.example")
KEY = DomainKey(HERE, "mail", "here.pem")
LOGIN = Client("192.0.2.1", 4711, "mx", Role.SUBMISSION, False, login=Address.parse("anna@here.example"))
TRUSTED = replace(LOGIN, role=Role.TRUSTED, trusted=True, login=None)


def planned(
    client: Client, sender: str = "anna@here.example", author: str = "anna@here.example", **dkim: Any
) -> Signatures:
    settings = Settings(
        hostname=Domain.parse("mail.here.example"),
        state="/nowhere",
        listeners={},
        endpoints={},
        accounts=Accounts("/nowhere/mail"),
        dkim=Dkim(**{"keys": {"here.example": (KEY,), "also.example": (replace(KEY, selector="also"),)}, **dkim}),
    )
    envelope = Envelope(client, Address.parse(sender) if sender else None)
    return plan_signatures(settings, Aliases((), HERE), envelope, Author((Address.parse(author),)))


@pytest.mark.parametrize(("client", "option"), [(TRUSTED, "local"), (LOGIN, "authenticated")])
def test_whose_mail_is_signed(client: Client, option: str) -> None:
    assert planned(client).keys == (KEY,)
    off: dict[str, Any] = {option: False}
    signatures = planned(client, **off)
    assert (signatures.keys, signatures.wanted) == ((), False)
    assert f"sign_{option}" in signatures.reason


def test_the_null_sender() -> None:
    assert planned(TRUSTED, "").keys == (KEY,)
    signatures = planned(TRUSTED, "", null_sender=False)
    assert (signatures.keys, signatures.wanted) == ((), False)
    assert planned(TRUSTED, null_sender=False).keys == (KEY,)


def test_an_author_of_another_domain_than_the_sender() -> None:
    assert planned(TRUSTED, "bounces@else.example").keys == (KEY,)
    signatures = planned(TRUSTED, "bounces@else.example", author_mismatch=False)
    assert (signatures.keys, signatures.wanted) == ((), True)
    assert "here.example" in signatures.reason and "else.example" in signatures.reason
    assert planned(TRUSTED, "", author_mismatch=False).keys == (KEY,)
    assert planned(TRUSTED, "x@sub.here.example", author_mismatch=False).keys == ()
    assert planned(TRUSTED, "x@sub.here.example", author_mismatch=False, parents=True).keys == (KEY,)


def test_a_login_of_another_domain_than_the_key() -> None:
    both = {"here.example": (KEY,), "else.example": (KEY,)}  # one key for two domains
    bob = "bob@else.example"
    login = replace(LOGIN, login=Address.parse(bob))
    assert planned(login, author=bob, keys=both).keys == (KEY,)
    signatures = planned(login, author=bob, keys=both, username_mismatch=False)
    assert (signatures.keys, signatures.wanted) == ((), True)
    assert "bob@else.example" in signatures.reason
    assert planned(LOGIN, keys=both, username_mismatch=False).keys == (KEY,)


@pytest.mark.parametrize("author", ["ceo@here.example", "hr@people.here.example"])
def test_a_login_below_a_domain_does_not_sign_for_all_of_it(author: str) -> None:
    """That its own domain has the same keys is no reason."""
    login = replace(LOGIN, login=Address.parse("bob@sales.here.example"))
    assert planned(login, author="bob@sales.here.example", parents=True).keys == (KEY,)
    signatures = planned(login, author=author, parents=True)
    assert (signatures.keys, signatures.wanted) == ((), True)
    assert signatures.reason.startswith(f"bob@sales.here.example may not sign as {author}: ")
    both = {"here.example": (KEY,), "sales.here.example": (KEY,)}
    assert planned(login, author=author, keys=both).keys == ()


def test_a_parent_signs_for_its_children() -> None:
    assert planned(TRUSTED, author="anna@sub.here.example").keys == ()
    assert planned(TRUSTED, author="anna@sub.here.example", parents=True).keys == (KEY,)
