"""What a model server's answers so far say of it: how often it fails by chance, and what it can do."""

from __future__ import annotations

import math
from dataclasses import dataclass

from workers.inference.failures import InferenceFailure

#: What is believed of a server that nobody has asked: better to try once too often than to blame an item.
PRIOR = 0.2
#: The weight of the latest request: what counts is about the last hundred.
FRESH = 1 / 64
#: The probability at which chance is out of the question.
NEVER = 1e-6
#: Tries after which an item is blamed at the earliest, and at the latest.
FEWEST, MOST = 2, 16


@dataclass(slots=True)
class Reputation:
    """One model's record, of one server, in this process."""

    #: The share of requests that failed by chance: the same succeeded when it was sent again.
    chance: float = PRIOR
    #: An item that the server has inferred, to be asked for again when there is doubt about the server.
    known_good: bytes | None = None
    #: Requests that timed out since the last that succeeded.
    hung: int = 0
    #: Why the server was given up, for those who still wait for their turn to ask it.
    verdict: InferenceFailure | None = None

    def succeeded(self, item: bytes, tries: int) -> None:
        """Count an answer, and the tries before it that failed."""
        self.known_good, self.verdict, self.hung = item, None, 0
        for _ in range(tries - 1):
            self.chance += (1 - self.chance) * FRESH
        self.chance -= self.chance * FRESH

    @property
    def tries(self) -> int:
        """How often an item must have failed for chance to be out of the question."""
        return min(MOST, max(FEWEST, math.ceil(math.log(NEVER) / math.log(max(self.chance, NEVER)))))


_reputations: dict[str, Reputation] = {}


def reputation_of(model: str) -> Reputation:
    """What this process knows of a model, named by its server and action."""
    return _reputations.setdefault(model, Reputation())
