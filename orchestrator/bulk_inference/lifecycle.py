"""The states of a bulk inference job and the moves between them."""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.bulk_inference.models import ProgressState as State
from orchestrator.bulk_inference.tables import BulkInferenceJobRow
from orchestrator.database import storable
from orchestrator.inference_store import indexing
from orchestrator.transitions import Lifecycle

TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.ABORTED})

LIFECYCLE = Lifecycle(
    name="bulk_inference",
    table=BulkInferenceJobRow,
    initial=State.INITIALIZED,
    terminal=TERMINAL,
    moves={
        State.INITIALIZED: frozenset({State.IN_PROGRESS, State.FAILED, State.ABORTED}),
        State.IN_PROGRESS: frozenset({State.RUNNING, State.FAILED, State.ABORTED}),
        State.RUNNING: frozenset({State.RUNNING_FAILED, State.SUCCEEDED, State.ABORTED}),
        State.RUNNING_FAILED: frozenset({State.FAILED, State.SUCCEEDED, State.ABORTED}),
        # A person may ask for what failed to be tried again.
        State.SUCCEEDED: frozenset({State.RUNNING}),
        State.FAILED: frozenset({State.RUNNING}),
        State.ABORTED: frozenset(),
    },
)


def end(session: Session, job_id: str, state: State, *, reason: str = "", by: str | None = None) -> bool:
    """Move the job to a terminal state, cancel what it has left to do, and close it; say whether it moved.

    One transaction, the caller's: a job never ends with work still running in its name. `by` is the
    unit that ends it, which is left to settle itself.
    """
    if state is State.FAILED:
        LIFECYCLE.move(session, job_id, State.RUNNING_FAILED, reason=reason)
    if not LIFECYCLE.move(session, job_id, state, reason=reason):
        return False
    set_columns(session, job_id, reason=storable(reason))
    ledger.cancel(session, job_id, but=by)
    ledger.close(session, job_id)
    # After the cancel, which waits for whoever still writes results.
    indexing.schedule(session, job_id)
    return True


def set_columns(session: Session, job_id: str, /, **values: object) -> None:
    """Set columns of the job other than those that the lifecycle writes."""
    session.execute(
        update(BulkInferenceJobRow).where(BulkInferenceJobRow.id == job_id).values(**values),
        execution_options={"synchronize_session": False},
    )
