"""How long to wait before something is tried again."""

from __future__ import annotations

from datetime import timedelta

#: Delays grow from FIRST_DELAY by a factor of two up to LONGEST_DELAY.
FIRST_DELAY = timedelta(seconds=1)
LONGEST_DELAY = timedelta(seconds=60)
#: What waits for a server that is away looks again soon: the server may return at any moment.
LONGEST_POSTPONEMENT = timedelta(seconds=8)


def backoff(failures: int) -> timedelta:
    """The delay after the given number of failures in a row: 1 s, 2 s, 4 s … 60 s."""
    doublings = min(max(failures - 1, 0), 16)
    return min(FIRST_DELAY * (1 << doublings), LONGEST_DELAY)
