"""The rate of an endpoint: messages are evenly spaced."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.limits import pause

RATES = st.floats(0.001, 1000)
TIMES = st.floats(0, 1e6)


def test_the_first_message_goes_at_once_and_the_next_one_a_space_later() -> None:
    assert pause(None, 2, 100.0) == 0
    assert pause(100.0, 2, 100.0) == 0.5
    assert pause(100.0, 2, 100.2) == 100.5 - 100.2
    assert pause(100.0, 2, 101.0) == 0


@given(st.one_of(st.none(), TIMES), RATES, TIMES)
def test_nobody_waits_longer_than_one_space(last: float | None, rate: float, now: float) -> None:
    """Not even where the clock was set back."""
    assert 0 <= pause(last, rate, now) <= 1 / rate


@given(RATES, st.lists(TIMES, min_size=2))
def test_no_two_messages_are_closer_than_one_space(rate: float, arrivals: list[float]) -> None:
    last: float | None = None
    for arrival in sorted(arrivals):
        now = arrival if last is None else max(arrival, last)
        goes = now + pause(last, rate, now)
        assert last is None or goes - last >= (1 / rate) * (1 - 1e-6) - 1e-6
        last = goes
