"""What becomes of mail that fails DMARC: policy, pct, trusted seals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.address import Domain
from smtproute.core.policy import Asked, Override, Ruling, Seal, refusal, rule
from smtproute.core.settings import Authentication, Policy
from smtproute.core.verdict import Disposition, Judged

LIST, OTHER = Domain.parse("list.example"), Domain.parse("other.example")
SEALERS = [Domain.parse(name) for name in ("list.example", "relay.example", "other.example")]
STRENGTH = list(Disposition)


def ruled(
    asked: Disposition, *chain: Seal, trusted: tuple[Domain, ...] = (), chance: float = 0.0, **more: Any
) -> Ruling:
    percent, exempt = more.pop("percent", 100), more.pop("exempt", False)
    settings = Authentication(policy=Policy.ENFORCE, trusted_sealers=trusted, **more)
    return rule(settings, Asked("a.example", asked, percent), chain, chance=chance, exempt=exempt)


def test_enforce_does_what_is_asked() -> None:
    assert ruled(Disposition.REJECT) == Ruling(Disposition.REJECT, "a.example asks for reject")
    assert ruled(Disposition.QUARANTINE) == Ruling(Disposition.QUARANTINE, "a.example asks for quarantine")
    assert ruled(Disposition.NONE) == Ruling()


def test_observe_says_what_would_have_been() -> None:
    said = rule(Authentication(), Asked("a.example", Disposition.REJECT), (), chance=0.0)
    why = "a.example asks for reject, which is not done: policy is observe"
    assert said == Ruling(Disposition.NONE, why, Override.LOCAL_POLICY)


def test_a_trusted_client_is_exempt() -> None:
    said = ruled(Disposition.REJECT, exempt=True)
    why = "a.example asks for reject, which is not done: the client is in trusted_networks"
    assert said == Ruling(Disposition.NONE, why, Override.LOCAL_POLICY)


def test_what_cannot_be_judged_now_is_accepted() -> None:
    enforce = Authentication(policy=Policy.ENFORCE)
    doubtful = Asked("a.example", doubtful=True)
    assert rule(enforce, doubtful, (), chance=0.0).reason == "it is accepted, since DMARC cannot be judged now"
    assert rule(Authentication(), doubtful, (), chance=0.0) == Ruling()


def test_what_may_be_disowned_is_not_taken_while_that_cannot_be_told() -> None:
    enforce = Authentication(policy=Policy.ENFORCE, trusted_sealers=(LIST,))
    for asked in (Disposition.REJECT, Disposition.QUARANTINE):
        doubtful = Asked("a.example", asked, 60, doubtful=True)
        reason = f"a.example asks for {asked} where it fails, and that cannot be told now"
        assert rule(enforce, doubtful, (), chance=0.5) == Ruling(reason=reason, deferred=True)
        assert rule(Authentication(), doubtful, (), chance=0.5) == Ruling()
        assert rule(enforce, doubtful, (), chance=0.5, exempt=True) == Ruling()
        assert not rule(enforce, doubtful, [Seal(LIST, "dmarc=pass")], chance=0.5).deferred
        assert rule(enforce, doubtful, (), chance=0.6).deferred is (asked is Disposition.REJECT), "then a quarantine"


def test_who_hides_its_author_is_refused() -> None:
    """Whatever DMARC came to, and whoever vouches."""
    hidden = Asked("", hidden=True)
    chain = [Seal(LIST, "dmarc=pass")]
    enforce = Authentication(policy=Policy.ENFORCE, trusted_sealers=(LIST,))
    assert rule(enforce, hidden, chain, chance=0.9) == Ruling(Disposition.REJECT, "nobody can say whose mail it is")
    assert rule(enforce, hidden, chain, chance=0.9, exempt=True) == Ruling()
    assert rule(Authentication(), hidden, chain, chance=0.9) == Ruling()


@pytest.mark.parametrize(
    ("percent", "chance", "asked", "done"),
    [
        (100, 0.999999, "reject", "reject"),
        (50, 0.49, "reject", "reject"),
        (50, 0.5, "reject", "quarantine"),
        (50, 0.5, "quarantine", "none"),
        (0, 0.0, "reject", "quarantine"),
        (0, 0.0, "quarantine", "none"),
        (1, 0.0, "reject", "reject"),
    ],
)
def test_outside_of_pct_the_next_weaker_policy_counts(percent: int, chance: float, asked: str, done: str) -> None:
    said = ruled(Disposition(asked), percent=percent, chance=chance)
    assert said.disposition == done
    assert said.override == (None if done == asked else Override.SAMPLED_OUT)
    assert (f"of {percent} % of such mail, and this is not among it: {done}" in said.reason) is (done != asked)


def test_a_trusted_seal_stands_against_the_policy() -> None:
    said = ruled(Disposition.REJECT, Seal(LIST, "dmarc=pass"), Seal(OTHER), trusted=(LIST,))
    why = "a.example asks for reject, but arc=pass, and list.example, which is trusted, sealed dmarc=pass"
    assert said == Ruling(Disposition.NONE, why, Override.LOCAL_POLICY)


def test_only_seals_with_nothing_untrusted_after_them_count() -> None:
    passed, nothing = "dmarc=pass", ""
    trusting = {"trusted": (LIST,)}
    assert ruled(Disposition.REJECT, Seal(LIST, nothing), Seal(LIST, passed), **trusting).override
    assert not ruled(Disposition.REJECT, Seal(OTHER, passed), Seal(LIST, passed), **trusting).override
    assert not ruled(Disposition.REJECT, Seal(LIST, nothing), Seal(OTHER, passed), **trusting).override
    assert not ruled(Disposition.REJECT, Seal(LIST, nothing), Seal(OTHER), Seal(LIST, passed), **trusting).override
    assert not ruled(Disposition.REJECT, Seal(LIST, passed)).override


seals = st.lists(st.builds(Seal, st.sampled_from(SEALERS), st.sampled_from(["", "dmarc=pass"])), max_size=5)


@given(
    st.sampled_from(Policy),
    st.sampled_from(Disposition),
    st.integers(0, 100),
    st.booleans(),
    seals,
    st.lists(st.sampled_from(SEALERS), unique=True),
    st.floats(0, 1, exclude_max=True),
    st.booleans(),
)
def test_rulings(
    policy: Policy,
    wanted: Disposition,
    percent: int,
    doubtful: bool,
    chain: list[Seal],
    trusted: list[Domain],
    chance: float,
    exempt: bool,
) -> None:
    """Never more than is asked; nothing at all where nobody acts; what is less has its reason."""
    settings = Authentication(policy=policy, trusted_sealers=tuple(trusted))
    said = rule(settings, Asked("a.example", wanted, percent, doubtful), chain, chance=chance, exempt=exempt)
    assert STRENGTH.index(said.disposition) <= STRENGTH.index(wanted)
    if policy is Policy.OBSERVE or exempt or doubtful:
        assert said.disposition is Disposition.NONE
    if said.deferred:
        assert doubtful and wanted is not Disposition.NONE and policy is Policy.ENFORCE and not exempt
    if said.disposition is not wanted and not doubtful:
        assert said.override is not None and said.reason
    first = next((at for at, seal in enumerate(chain) if seal.sealer not in trusted), len(chain))
    vouched = any(seal.passed for seal in chain[:first])
    if vouched:
        assert said.disposition is Disposition.NONE and not said.deferred
    # What an untrusted sealer has handed on changes nothing.
    again = rule(settings, Asked("a.example", wanted, percent, doubtful), chain[:first], chance=chance, exempt=exempt)
    assert again == said


@given(st.text(max_size=3000), st.text(max_size=255), st.booleans())
def test_a_refusal_fits_into_reply_lines(reason: str, author: str, deferred: bool) -> None:
    said = refusal(Judged(disposition=Disposition.REJECT, deferred=deferred, reason=reason, author=author))
    lines = said.wire().split(b"\r\n")
    assert lines.pop() == b""
    assert all(len(line) <= 510 and line.isascii() and b"\r" not in line and b"\n" not in line for line in lines)
    assert {line[:3] for line in lines} == {b"451" if deferred else b"550"}
    assert [line[3:4] for line in lines] == [b"-"] * (len(lines) - 1) + [b" "]


def test_what_the_sender_hears() -> None:
    said = refusal(Judged(reason="a.example asks for reject; nothing aligned passed", author="a.example"))
    assert str(said) == (
        "550 5.7.1 DMARC: mail in the name of a.example is refused, because a.example asks for reject; nothing aligned "
        "passed. / Send it by a server that the SPF record of a.example names, or sign it with DKIM as d=a.example."
    )
    said = refusal(Judged(reason="nobody can say whose mail it is; its From cannot be read: a comment does not end"))
    assert str(said) == (
        "550 5.7.1 The message is refused, because nobody can say whose mail it is; its From cannot be read: a comment "
        "does not end. / Send it with one From field, and the address of its author in it (RFC 5322 3.6.2)."
    )
