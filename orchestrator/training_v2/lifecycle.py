"""The states of a training run and the moves between them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import db_now, storable
from orchestrator.training_v2.models import RunState as State
from orchestrator.training_v2.tables import TERMINAL, RunRow
from orchestrator.transitions import Lifecycle

ENDS = frozenset({State.JOB_COMPLETED, State.JOB_FAILED})

LIFECYCLE = Lifecycle(
    name="training",
    table=RunRow,
    initial=State.RUN_CREATED,
    terminal=TERMINAL,
    moves={
        State.RUN_CREATED: frozenset({State.JOB_CREATED, State.JOB_CREATE_FAILED, State.RUN_STOP_REQUESTED}),
        State.JOB_CREATED: frozenset({State.JOB_SUBMITTED, State.JOB_CREATE_FAILED, State.RUN_STOP_REQUESTED}),
        State.JOB_SUBMITTED: ENDS
        | {State.JOB_PENDING, State.JOB_RUNNING, State.JOB_CREATE_FAILED, State.JOB_UNKNOWN, State.RUN_STOP_REQUESTED},
        State.JOB_PENDING: ENDS
        | {State.JOB_RUNNING, State.JOB_CREATE_FAILED, State.JOB_UNKNOWN, State.RUN_STOP_REQUESTED},
        State.JOB_RUNNING: ENDS | {State.JOB_UNKNOWN, State.RUN_STOP_REQUESTED},
        # Until it is launched again, somebody may turn up who knows how its trainer ended.
        State.JOB_UNKNOWN: ENDS | {State.RUN_RESTART_REQUESTED, State.RUN_STOP_REQUESTED},
        State.RUN_RESTART_REQUESTED: frozenset(
            {State.JOB_SUBMITTED, State.JOB_CREATE_FAILED, State.RUN_STOP_REQUESTED}
        ),
        # Whoever ends by himself before he is told to, ends as he does.
        State.RUN_STOP_REQUESTED: ENDS | {State.JOB_TERMINATE_REQUESTED, State.JOB_TERMINATED},
        State.JOB_TERMINATE_REQUESTED: ENDS | {State.JOB_TERMINATING, State.JOB_TERMINATED},
        State.JOB_TERMINATING: ENDS | {State.JOB_TERMINATED},
        # A person may want what ended early to go on from its latest checkpoint.
        State.JOB_CREATE_FAILED: frozenset({State.RUN_RESTART_REQUESTED}),
        State.JOB_TERMINATED: frozenset({State.RUN_RESTART_REQUESTED}),
        State.JOB_FAILED: frozenset({State.RUN_RESTART_REQUESTED}),
        State.JOB_COMPLETED: frozenset(),
    },
)

#: States of a run that is on its way to its end because somebody wants it.
STOPPING = frozenset({State.RUN_STOP_REQUESTED, State.JOB_TERMINATE_REQUESTED, State.JOB_TERMINATING})
#: States of a run whose trainer is about to be started.
LAUNCHING = frozenset({State.JOB_CREATED, State.RUN_RESTART_REQUESTED, State.JOB_SUBMITTED, State.JOB_PENDING})
#: States in which a launch may write: metrics, progress, checkpoints, signs of life.
WRITABLE = frozenset({State.JOB_RUNNING}) | STOPPING
#: The supervisor of a launch that was declared lost: nobody, until the run is launched again, and also if it is
#: stopped before.
LOST = "lost"


def move(
    session: Session,
    run_id: str,
    to: State,
    *,
    reason: str = "",
    only_from: Iterable[State] | None = None,
    details: dict[str, Any] | None = None,
    **values: Any,
) -> bool:
    """Move the run if the table allows it, and leave an event; say whether it moved."""
    if to is State.JOB_UNKNOWN:
        values["supervisor"] = LOST
    return LIFECYCLE.move(
        session,
        run_id,
        to,
        reason=reason,
        only_from=only_from,
        details=details,
        status_updated_at=db_now(),
        message=storable(reason),
        **values,
    )


def end(
    session: Session,
    run_id: str,
    state: State,
    *,
    reason: str = "",
    details: dict[str, Any] | None = None,
    by: str | None = None,
) -> bool:
    """Move the run to a terminal state, cancel what it has left to do, and close it; say whether it moved.

    One transaction, the caller's. `by` is the unit that ends it, which is left to settle itself.
    """
    if not move(session, run_id, state, reason=reason, details=details):
        return False
    ledger.cancel(session, run_id, but=by)
    ledger.close(session, run_id)
    ledger.holds.release(session, run_id)
    return True
