"""The attempts of a simulation: which of them got nowhere, and what may follow from it."""

from __future__ import annotations

from collections import Counter

from tests.simulation.database import Row

#: A unit whose attempts got nowhere so often in a row is given up.
MOST = 3


class Attempts:
    """How often in a row each unit's attempts got nowhere, told from its rows alone."""

    def __init__(self) -> None:
        self.fruitless: Counter[str] = Counter()
        #: Units whose attempt at work has left something behind.
        self.fruitful: set[str] = set()

    def claimed(self, old: Row) -> None:
        """A unit was claimed, perhaps from an attempt whose lease had run out."""
        if old["state"] == "leased":
            self._failed(old["id"])
        self.fruitful.discard(old["id"])

    def written(self, old: Row, new: Row) -> None:
        """A unit was written to under its lease."""
        if new["done_count"] > old["done_count"] or new["failed_count"] > old["failed_count"]:
            self.fruitless[new["id"]] = 0
            self.fruitful.add(new["id"])

    def lost(self, unit_id: str, *, dead: bool) -> str:
        """A unit was taken from an attempt that fell silent; what is wrong with that, empty if nothing."""
        self._failed(unit_id)
        times = self.fruitless[unit_id]
        if dead == (times >= MOST):
            return ""
        return f"{times} of its attempts in a row got nowhere, and it was {'' if dead else 'not '}given up"

    def begun_anew(self, unit_id: str) -> None:
        """A person wants the unit to be tried again."""
        self.fruitless[unit_id] = 0

    def _failed(self, unit_id: str) -> None:
        self.fruitless[unit_id] += unit_id not in self.fruitful
