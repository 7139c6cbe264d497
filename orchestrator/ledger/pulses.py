"""Signs of life of workers and of beat's ticks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from orchestrator.database import db_now, insert_ignoring
from orchestrator.ledger.tables import PulseRow

#: Who has been silent for longer counts as gone.
SILENCE = timedelta(seconds=30)
#: Who has been silent for longer is forgotten.
FORGOTTEN = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Pulse:
    """The last sign of life of one name."""

    name: str
    details: Mapping[str, Any]
    started_at: datetime
    seen_at: datetime
    age: timedelta


def beat(session: Session, name: str, details: Mapping[str, Any]) -> None:
    """Record that `name` lives now, by the database's clock."""
    now = session.scalar(select(db_now()))
    insert_ignoring(session, PulseRow, [{"name": name, "details": dict(details), "started_at": now, "seen_at": now}])
    session.execute(
        update(PulseRow).where(PulseRow.name == name).values(seen_at=now, details=dict(details)),
        execution_options={"synchronize_session": False},
    )


def forget(session: Session, name: str) -> None:
    """`name` has ended as it should."""
    session.execute(delete(PulseRow).where(PulseRow.name == name))


def prune(session: Session) -> None:
    """Forget who has been silent for a day: workers have new names in every new container."""
    session.execute(
        delete(PulseRow).where(PulseRow.seen_at < db_now(-FORGOTTEN)),
        execution_options={"synchronize_session": False},
    )


def pulses(session: Session, prefix: str) -> list[Pulse]:
    """Those whose name starts with `prefix`, dead or alive, by name."""
    now = session.scalar(select(db_now()))
    assert now is not None, "the database has a clock"
    rows = session.scalars(
        select(PulseRow).where(PulseRow.name.startswith(prefix, autoescape=True)).order_by(PulseRow.name)
    )
    return [Pulse(row.name, row.details, row.started_at, row.seen_at, now - row.seen_at) for row in rows]
