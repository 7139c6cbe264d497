"""The gates of a simulation: what the invariants know of them, and whether a unit may pass."""

from __future__ import annotations

from collections.abc import Iterable

from tests.simulation.database import Row


class Gates:
    """What the rows of the gates said last."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def learn(self, new: Row) -> None:
        """A gate's row was written."""
        self.rows[new["name"]] = new

    def why_not_claim(self, unit: Row, time: str) -> str:
        """Why the unit must not be claimed now; empty if it may."""
        gate = self.rows.get(unit["gate"])
        is_shut = gate is not None and gate["shut_until"] is not None and gate["shut_until"] > time
        return f"gate {unit['gate']} is shut" if is_shut else ""

    def why_not_publish(self, unit: Row, units: Iterable[Row], time: str) -> str:
        """Why the unit must not be published beside the others now; empty if it may."""
        gate = self.rows.get(unit["gate"])
        if gate is None:
            return ""
        # Of a gate that was shut and not opened since, one unit finds out how things are.
        bounds = [1 if gate["failures"] else None, gate["unit_limit"], gate["width"]]
        busy = sum(row["gate"] == unit["gate"] and row["state"] in ("published", "leased") for row in units)
        for bound in bounds:
            if bound is not None and busy >= bound:
                return f"gate {unit['gate']} lets {bound} through, and {busy} are"
        return self.why_not_claim(unit, time)
