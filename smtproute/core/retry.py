"""Retry: when a deferred delivery is tried again, and when it is given up."""

from __future__ import annotations

from smtproute.core.settings import Queue

__all__ = ["next_attempt"]


def next_attempt(queue: Queue, received_at: float, attempts: int, now: float) -> float | None:
    """When to try again after attempt number `attempts` (from 1) failed for now; None: give up.

    Times are seconds since the epoch. The pauses are the schedule's, its last one repeated. The last attempt falls
    on the end of the lifetime, so that a message is tried until it is over (Postfix maximal_queue_lifetime).
    """
    end = received_at + queue.lifetime
    if now >= end:
        return None
    pause = queue.retry[min(attempts, len(queue.retry)) - 1]
    return min(now + pause, end)
