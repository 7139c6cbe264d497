"""The states of a unit of work and the moves between them (`docs/architecture.md` draws them)."""

from __future__ import annotations

from enum import StrEnum


class UnitState(StrEnum):
    """Where a unit stands."""

    READY = "ready"  #: may be published once `not_before` has passed
    PUBLISHED = "published"  #: its id waits in the broker, or was lost there
    LEASED = "leased"  #: an attempt works on it
    DONE = "done"  #: its effect is stored
    DEAD = "dead"  #: every attempt failed; kept with its error
    CANCELLED = "cancelled"  #: its job ended without it


MOVES: dict[UnitState, frozenset[UnitState]] = {
    UnitState.READY: frozenset({UnitState.PUBLISHED, UnitState.LEASED, UnitState.CANCELLED}),
    UnitState.PUBLISHED: frozenset({UnitState.READY, UnitState.LEASED, UnitState.CANCELLED}),
    UnitState.LEASED: frozenset(
        {UnitState.LEASED, UnitState.READY, UnitState.DONE, UnitState.DEAD, UnitState.CANCELLED}
    ),
    # A person may ask for what failed to be tried again.
    UnitState.DONE: frozenset({UnitState.READY}),
    UnitState.DEAD: frozenset({UnitState.READY}),
    UnitState.CANCELLED: frozenset({UnitState.READY}),
}

#: States in which a unit still has something to do.
UNFINISHED = (UnitState.READY, UnitState.PUBLISHED, UnitState.LEASED)


def sources(to: UnitState) -> tuple[UnitState, ...]:
    """The states from which `to` can be reached in one move."""
    return tuple(state for state, targets in MOVES.items() if to in targets)
