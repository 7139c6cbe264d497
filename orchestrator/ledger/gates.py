"""Gates: what units share that is outside of us, such as a model's endpoint, and how many of them it bears.

A gate is a circuit breaker. Shut, it keeps its units ready instead of letting each find out for itself
that nobody answers; once its time is up, one unit goes through, and what that finds opens the gate or
shuts it again for longer (M. Nygard, "Release It!", 2nd edition, section 5.2).
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import case, func, or_, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import UpdateBase

from orchestrator.database import db_now, insert_ignoring, storable
from orchestrator.ledger import queries
from orchestrator.ledger.backoff import LONGEST_POSTPONEMENT, backoff
from orchestrator.ledger.lifecycle import UnitState
from orchestrator.ledger.tables import GateRow, UnitRow

#: What remains of the width of a gate after a sign of overload.
NARROWING = 0.7
#: How much a new measurement of the rate counts against those before it.
FRESH = 0.5


@dataclass(frozen=True, slots=True)
class Gate:
    """What is known of a gate: why it is shut, empty while it is open; items a second of one unit behind it."""

    reason: str
    rate: float | None


def find(session: Session, name: str) -> Gate | None:
    """The gate, if anybody has had to do with it yet."""
    row = session.get(GateRow, name, populate_existing=True)
    return None if row is None else Gate(row.reason, row.rate)


def limit(session: Session, name: str, units: int | None) -> None:
    """Let no more than so many units be at work behind the gate at once; None for any number."""
    _ensure(session, name)
    _set(session, update(GateRow).where(GateRow.name == name).values(limit=units))


def shut(session: Session, name: str, reason: str) -> None:
    """Keep the gate's units back, at first for a second, and for longer each time that nothing came of it."""
    _ensure(session, name)
    shut_now = func.coalesce(GateRow.shut_until > db_now(), False)
    failures, is_shut = session.execute(
        select(GateRow.failures, shut_now).where(GateRow.name == name).with_for_update()
    ).one()
    if is_shut:
        return  # of many units that find the same at the same time, one counts
    delay = min(backoff(failures + 1), LONGEST_POSTPONEMENT)
    _set(
        session,
        update(GateRow)
        .where(GateRow.name == name)
        .values(failures=GateRow.failures + 1, shut_until=db_now(delay), reason=storable(reason)),
    )
    # Their messages would only be dropped; this way they are published again when the gate opens.
    _set(
        session,
        update(UnitRow)
        .where(UnitRow.gate == name, UnitRow.state == UnitState.PUBLISHED)
        .values(state=UnitState.READY, published_at=None),
    )


def open_up(session: Session, name: str) -> None:
    """Let the gate's units through: one of them was served."""
    _set(
        session,
        update(GateRow)
        .where(GateRow.name == name, or_(GateRow.failures > 0, GateRow.reason != ""))
        .values(failures=0, shut_until=None, reason=""),
    )


def narrow(session: Session, name: str) -> None:
    """Fewer units at once: the server was asked for more than it bears."""
    _ensure(session, name)
    at_work = UnitRow.state == UnitState.LEASED, UnitRow.gate == name
    busy = session.scalar(select(func.count()).select_from(UnitRow).where(*at_work)) or 1
    _set(session, update(GateRow).where(GateRow.name == name).values(width=max(1, int(busy * NARROWING))))


def rooms(session: Session) -> dict[str, int]:
    """How many more units each gate lets through that does not let through any number."""
    found = {}
    for name, failures, is_shut, limit, width, busy in session.execute(queries.gates_in_use()):
        # Of a gate that was shut and not opened since, one unit finds out how things are.
        bounds = [bound for bound in (1 if failures else None, limit, width) if bound is not None]
        found[name] = 0 if is_shut else max(0, min(bounds) - busy)
    return found


def learn(session: Session, name: str, rate: float) -> None:
    """A unit was done at so many items a second: remember that, and dare one more unit at once."""
    _ensure(session, name)
    blended = case((GateRow.rate.is_(None), rate), else_=GateRow.rate * (1 - FRESH) + rate * FRESH)
    _set(session, update(GateRow).where(GateRow.name == name).values(rate=blended, width=GateRow.width + 1))


def _ensure(session: Session, name: str) -> None:
    insert_ignoring(session, GateRow, [{"name": name, "failures": 0, "reason": ""}])


def _set(session: Session, statement: UpdateBase) -> None:
    session.execute(statement, execution_options={"synchronize_session": False})
