"""How fast a job goes and when it will be done: arithmetic on looks at its counts."""

from __future__ import annotations

from collections import deque
from datetime import timedelta

#: The rate is that of the last so many seconds: long enough to smooth over flushes, short enough to follow a change.
WINDOW = 15.0


class Pace:
    """Told of a count again and again, it knows the rate."""

    def __init__(self) -> None:
        self.looks: deque[tuple[float, int]] = deque()

    def look(self, at: float, count: int) -> None:
        """Count was `count` at the second `at` of any clock that only goes forward."""
        if self.looks and count < self.looks[-1][1]:
            self.looks.clear()  # a retry has forgotten failures: what came before is another story
        self.looks.append((at, count))
        while len(self.looks) > 2 and at - self.looks[1][0] >= WINDOW:
            self.looks.popleft()

    @property
    def rate(self) -> float | None:
        """Counts a second; None as long as nothing can be said."""
        if len(self.looks) < 2:
            return None
        (first, before), (last, after) = self.looks[0], self.looks[-1]
        return (after - before) / (last - first) if last > first else None

    def remaining(self, count: int) -> timedelta | None:
        """How long `count` more will take; None as long as nothing can be said."""
        return timedelta(seconds=count / self.rate) if self.rate else None
