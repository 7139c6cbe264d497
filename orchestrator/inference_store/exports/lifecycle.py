"""The states of an export task and the moves between them."""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.inference_store.exports.models import ExportTaskState as State
from orchestrator.inference_store.exports.tables import ExportTaskRow
from orchestrator.ledger import holds
from orchestrator.transitions import Lifecycle

KIND = "exports"

TERMINAL = frozenset({State.COMPLETE, State.FAILED})

LIFECYCLE = Lifecycle(
    name="export",
    table=ExportTaskRow,
    initial=State.PENDING,
    terminal=TERMINAL,
    moves={
        State.PENDING: frozenset({State.RUNNING, State.FAILED}),
        State.RUNNING: frozenset({State.COMPLETE, State.FAILED}),
        State.COMPLETE: frozenset(),
        State.FAILED: frozenset(),
    },
)


def end(session: Session, task_id: str, state: State, *, reason: str = "", by: str | None = None) -> bool:
    """Move the task to a terminal state, let go of what it held, and close its job; say whether it moved.

    One transaction, the caller's: the archive becomes visible in the moment in which nothing is held any more.
    `by` is the unit that ends the task, which is left to settle itself.
    """
    if not LIFECYCLE.move(session, task_id, state, reason=reason):
        return False
    set_columns(session, task_id, reason=reason)
    ledger.cancel(session, task_id, but=by)
    ledger.close(session, task_id)
    holds.release(session, task_id)
    return True


def set_columns(session: Session, task_id: str, /, **values: object) -> None:
    """Set columns of the task other than those that the lifecycle writes."""
    session.execute(
        update(ExportTaskRow).where(ExportTaskRow.id == task_id).values(**values),
        execution_options={"synchronize_session": False},
    )
