"""Limits: how many messages a second may go to an endpoint."""

from __future__ import annotations

__all__ = ["pause"]


def pause(last: float | None, rate: float, now: float) -> float:
    """Seconds until the next message may go, where `last` is when the one before it went (None: there was none).

    `rate` is messages a second, evenly spaced: what was not used up earlier is not made up for by a burst, which is
    what the server would complain of. Never longer than one such space, whatever the clock does.
    """
    if last is None:
        return 0.0
    space = 1 / rate
    return min(max(0.0, last + space - now), space)
