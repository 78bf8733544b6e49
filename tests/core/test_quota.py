"""Dovecot's rule (quota.c: quota_transaction_set_limits, quota_transaction_is_over), said in another way.

tests/e2e/test_quota.py asks a real Dovecot at the same boundaries.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtproute.core.quota import UNLIMITED, Quota, over

octets = st.integers(0, 1 << 45)
limits = st.integers(1, 1 << 40)
graces = st.integers(0, 100)


@given(octets, octets)
def test_without_a_limit_everything_fits(used: int, size: int) -> None:
    assert not over(UNLIMITED, used, size)
    assert not over(Quota(0, grace=0), used, size)


@given(limits, graces, octets, octets)
def test_a_full_mailbox_takes_nothing(limit: int, grace: int, above: int, size: int) -> None:
    assert over(Quota(limit, grace), limit + above, size)


@given(limits, graces, st.data())
@example(10, 10, None)
def test_the_last_message_may_exceed_by_the_grace_and_no_more(
    limit: int, grace: int, data: st.DataObject | None
) -> None:
    used = data.draw(st.integers(0, limit - 1)) if data is not None else limit - 1
    room = limit - used + limit * grace // 100
    quota = Quota(limit, grace)
    assert not over(quota, used, room)
    assert over(quota, used, room + 1)


@given(limits, graces, octets, octets, octets, octets)
def test_more_never_fits_better(limit: int, grace: int, used: int, size: int, more: int, larger: int) -> None:
    quota = Quota(limit, grace)
    assert over(quota, used, size) <= over(quota, used + more, size + larger)


@pytest.mark.parametrize(
    ("used", "size", "expected"),
    [(999, 0, False), (999, 101, False), (999, 102, True), (1000, 0, True), (1000, 1, True), (0, 1101, True)],
)
def test_ten_percent_is_docker_mailservers_grace(used: int, size: int, expected: bool) -> None:
    assert over(Quota(1000), used, size) is expected
