"""The states of a retention task and the moves between them."""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.inference_store.retention.models import TaskState as State
from orchestrator.inference_store.retention.tables import RetentionTaskRow
from orchestrator.transitions import Lifecycle

KIND = "retention"

TERMINAL = frozenset({State.COMPLETE, State.FAILED, State.STOPPED})

LIFECYCLE = Lifecycle(
    name="retention",
    table=RetentionTaskRow,
    initial=State.PENDING,
    terminal=TERMINAL,
    moves={
        State.PENDING: frozenset({State.SCHEDULED, State.FAILED, State.STOPPED}),
        State.SCHEDULED: frozenset({State.RUNNING, State.FAILED, State.STOPPED}),
        State.RUNNING: frozenset({State.COMPLETE, State.FAILED, State.STOPPED}),
        State.COMPLETE: frozenset(),
        State.FAILED: frozenset(),
        State.STOPPED: frozenset(),
    },
)


def end(session: Session, task_id: str, state: State, *, reason: str = "", by: str | None = None) -> bool:
    """Move the task to a terminal state, cancel what it has left to do, and close its job; say whether it moved.

    One transaction, the caller's. `by` is the unit that ends it, which is left to settle itself. An attempt at
    work is refused its next write, and so deletes nothing any more.
    """
    if not LIFECYCLE.move(session, task_id, state, reason=reason):
        return False
    set_columns(session, task_id, reason=reason)
    ledger.cancel(session, task_id, but=by)
    ledger.close(session, task_id)
    return True


def set_columns(session: Session, task_id: str, /, **values: object) -> None:
    """Set columns of the task other than those that the lifecycle writes."""
    session.execute(
        update(RetentionTaskRow).where(RetentionTaskRow.id == task_id).values(**values),
        execution_options={"synchronize_session": False},
    )
