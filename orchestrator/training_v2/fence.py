"""The fence: what a launch writes goes in a transaction that holds its run's row, and is refused once it is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import structlog
from sqlalchemy import ColumnElement, or_, select, true, update
from sqlalchemy.orm import Session

from orchestrator.database import db_now, transact
from orchestrator.training_v2.exceptions import StaleLaunch
from orchestrator.training_v2.lifecycle import LOST, STOPPING, WRITABLE
from orchestrator.training_v2.models import RunState as State
from orchestrator.training_v2.tables import RunRow

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Orders:
    """What a supervisor is to do: go on, or end its trainer, which may take `grace` seconds from now."""

    stop: bool = False
    grace: float = 0.0


class Standing(NamedTuple):
    """What a report needs to know of its run, whose row it holds."""

    state: State
    supervisor: str | None
    metrics_seen: int
    metrics_at: datetime | None
    kill_at: datetime | None
    now: datetime

    @property
    def orders(self) -> Orders:
        """What the run's supervisor is to do."""
        if self.state not in STOPPING:
            return Orders()
        left = (self.kill_at - self.now).total_seconds() if self.kill_at is not None else 0.0
        return Orders(stop=True, grace=max(0.0, left))


def fenced(
    work: Callable[Concatenate[Session, str, int, P], T], run_id: str, launch: int, *args: P.args, **options: P.kwargs
) -> T:
    """`work` in a transaction of its own; one that is refused is counted."""
    try:
        return transact(work, run_id, launch, *args, **options)
    except StaleLaunch:
        transact(_count_stale, run_id)
        log.warning("stale_launch", run=run_id, launch=launch, report=work.__name__.strip("_"))
        raise


def hold_launch(
    session: Session, run_id: str, launch: int, states: frozenset[State] = WRITABLE, *, also_lost: bool = False
) -> Standing:
    """Lock the run's row; nobody moves the run until the transaction ends.

    Raises:
        StaleLaunch: it stands elsewhere, or this is not its launch, or was declared lost.
    """
    return standing_of(session, run_id, launch, states, also_lost=also_lost, locks=True)


def standing_of(
    session: Session,
    run_id: str,
    launch: int,
    states: frozenset[State],
    *,
    also_lost: bool = False,
    locks: bool = False,
) -> Standing:
    found: ColumnElement[bool] = true() if also_lost else or_(RunRow.supervisor.is_(None), RunRow.supervisor != LOST)
    statement = select(
        RunRow.state, RunRow.supervisor, RunRow.metrics_seen, RunRow.metrics_at, RunRow.kill_at, db_now()
    ).where(RunRow.id == run_id, RunRow.launch == launch, RunRow.state.in_(states), found)
    row = session.execute(statement.with_for_update(key_share=True, of=RunRow) if locks else statement).one_or_none()
    if row is None:
        raise StaleLaunch(run_id, launch)
    return Standing(State(row[0]), *row[1:])


def _count_stale(session: Session, run_id: str) -> None:
    set_columns(session, run_id, stale_writes=RunRow.stale_writes + 1)


def set_columns(session: Session, run_id: str, **values: Any) -> None:
    session.execute(
        update(RunRow).where(RunRow.id == run_id).values(**values), execution_options={"synchronize_session": False}
    )
