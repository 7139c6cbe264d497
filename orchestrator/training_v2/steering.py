"""What a person may do to a run: stop it, launch it again, delete it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import structlog
from sqlalchemy import CursorResult, delete, func, select, update
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import db_now, reading, storable, transact
from orchestrator.errors import Unavailable
from orchestrator.ledger.tables import JobRow
from orchestrator.training_v2 import checkpoint_files
from orchestrator.training_v2.exceptions import RunDoesNotExistError, TrainingConflict, ValidationError
from orchestrator.training_v2.fence import set_columns
from orchestrator.training_v2.lifecycle import STOPPING, move
from orchestrator.training_v2.models import RunState as State
from orchestrator.training_v2.submit import hold_checkpoints, step_unit
from orchestrator.training_v2.tables import TERMINAL, CheckpointRow, MetricRow, RunRow
from orchestrator.transitions import EventRow

log = structlog.get_logger(__name__)

#: What a run is given to end by itself, and the least.
GRACE = timedelta(minutes=10)
LEAST_GRACE = timedelta(seconds=1)
LONGEST_GRACE = timedelta(days=7)
#: Metrics that one transaction deletes: others wait for it.
BATCH = 10_000
#: Deleted runs that one sweep removes.
RUNS = 10


def stop(run_id: str, grace_period: timedelta | None = None) -> None:
    """Ask the run to end; it is killed once the grace period is over.

    Of several that ask, the shortest period counts. A run that has ended stays as it is.

    Raises:
        RunDoesNotExistError: there is no such run.
        ValidationError: the period is below a second, or above a week.
    """
    grace = GRACE if grace_period is None else grace_period
    if not LEAST_GRACE <= grace <= LONGEST_GRACE:
        raise ValidationError(f"grace_period: {grace} is not between one second and {LONGEST_GRACE.days} days")
    transact(_stop, run_id, grace)
    ledger.nudge()


def restart(run_id: str) -> None:
    """Launch a run again that was stopped, failed or was refused; it goes on from its latest checkpoint.

    Raises:
        RunDoesNotExistError: there is no such run.
        TrainingConflict: it is active, or has completed.
        CheckpointDoesNotExistError: a checkpoint that it starts from was deleted meanwhile.
    """
    transact(_restart, run_id)
    ledger.nudge()


def delete_run(run_id: str) -> None:
    """Delete a run that has ended, with its metrics, events, checkpoints and logs.

    Nobody sees it any more when this returns; what cannot be removed at once, the next sweeps remove.

    Raises:
        RunDoesNotExistError: there is no such run.
        TrainingConflict: it is active, or a model was made of one of its checkpoints.
    """
    transact(_hide, run_id)
    _remove_or_leave(run_id)


def sweep_deleted(*, limit: int = RUNS) -> int:
    """Go on with runs whose deletion was interrupted; returns how many were removed."""
    deleted = select(RunRow.id).where(RunRow.deleted_at.is_not(None)).order_by(RunRow.id).limit(limit)
    with reading() as session:
        found = session.scalars(deleted).all()
    return sum([_remove_or_leave(run_id) for run_id in found])


def find_run(session: Session, run_id: str, *, locks: bool = False) -> RunRow:
    """The row of a run that has not been deleted.

    Raises:
        RunDoesNotExistError: there is none.
    """
    options: Any = {"with_for_update": {"key_share": True}, "populate_existing": True} if locks else {}
    row = session.get(RunRow, storable(run_id), **options)
    if row is None or row.deleted_at is not None:
        raise RunDoesNotExistError(run_id)
    return row


def check_run(run_id: str) -> str:
    """The id, if it is that of a run that has not been deleted.

    Raises:
        RunDoesNotExistError: it is not.
    """
    with reading() as session:
        if session.scalar(select(RunRow.id).where(RunRow.id == storable(run_id), RunRow.deleted_at.is_(None))) is None:
            raise RunDoesNotExistError(run_id)
    return run_id


def _stop(session: Session, run_id: str, grace: timedelta) -> None:
    row = find_run(session, run_id, locks=True)
    if row.state in TERMINAL:
        return
    kill_at = session.scalars(select(db_now(grace))).one()
    if row.state in STOPPING:
        sooner = min(kill_at, row.kill_at or kill_at)
        set_columns(session, run_id, kill_at=sooner)
    else:
        details = {"grace_seconds": grace.total_seconds()}
        move(session, run_id, State.RUN_STOP_REQUESTED, reason="stopped by request", details=details, kill_at=kill_at)
    ledger.wake(session, [run_id])


def _restart(session: Session, run_id: str) -> None:
    row = find_run(session, run_id, locks=True)
    if row.state not in TERMINAL:
        raise TrainingConflict(f"run {run_id} is active ({row.state}): stop it first")
    if row.state == State.JOB_COMPLETED:
        raise TrainingConflict(f"run {run_id} has completed: create another run to train on")
    launch = row.launch + 1
    request_launch(session, run_id, launch, reason="restarted by request", restarts=0)
    # Whoever ended the run may have died before its own unit was settled, which would end the run again.
    ledger.cancel(session, run_id)
    ledger.reopen(session, run_id)
    ledger.add(session, run_id, [step_unit(launch)])
    hold_checkpoints(session, run_id, row.config)


def request_launch(session: Session, run_id: str, launch: int, *, reason: str, restarts: int) -> bool:
    """Let the run be launched again under a new number, from when the former launch can write nothing."""
    return move(
        session,
        run_id,
        State.RUN_RESTART_REQUESTED,
        reason=reason,
        details={"launch": launch},
        launch=launch,
        restarts=restarts,
        place=None,
        supervisor=None,
        heartbeat_at=None,
        kill_at=None,
        metrics_seen=0,
    )


def _hide(session: Session, run_id: str) -> None:
    row = find_run(session, run_id, locks=True)
    if row.state not in TERMINAL:
        raise TrainingConflict(f"run {run_id} is active ({row.state}): stop it, and delete it once it has ended")
    own = session.scalars(select(CheckpointRow.id).where(CheckpointRow.run_id == run_id)).all()
    held = sorted(set(own) - set(checkpoint_files.doom(session, own)))
    if held:
        raise TrainingConflict(f"run {run_id} has checkpoints that a model or another run needs: {', '.join(held)}")
    set_columns(session, run_id, deleted_at=db_now())
    # Whoever ended the run may have died before its own unit was settled, which would look for the run.
    ledger.cancel(session, run_id)
    # Who asks for the same again wants a run, and not this one.
    session.execute(update(JobRow).where(JobRow.id == run_id).values(request_id=None))


def _remove_or_leave(run_id: str) -> bool:
    """Remove a hidden run, or leave it to the next sweep when the blob store is away; returns whether it is gone."""
    try:
        _remove(run_id)
    except Unavailable as error:
        log.warning("run_not_removed", run=run_id, error=error.body)
        return False
    return True


def _remove(run_id: str) -> None:
    """Remove what a hidden run left, in short transactions; its job stays in the ledger's books."""
    with reading() as session:
        own = session.scalars(select(CheckpointRow.id).where(CheckpointRow.run_id == run_id)).all()
    for checkpoint_id in own:
        checkpoint_files.purge(checkpoint_id)
    # Logs, and what came too late for its checkpoint.
    checkpoint_files.delete_blobs(f"training/{run_id}")
    while transact(_remove_metrics, run_id):
        pass
    transact(_remove_run, run_id)


def _remove_metrics(session: Session, run_id: str) -> int:
    mine = MetricRow.run_id == run_id
    last = session.scalar(
        select(
            func.max(
                select(MetricRow.created_at).where(mine).order_by(MetricRow.created_at).limit(BATCH).subquery().c[0]
            )
        )
    )
    if last is None:
        return 0
    outcome = session.execute(delete(MetricRow).where(mine, MetricRow.created_at <= last))
    return cast(CursorResult[Any], outcome).rowcount


def _remove_run(session: Session, run_id: str) -> None:
    session.execute(delete(EventRow).where(EventRow.subject_id == run_id))
    session.execute(delete(RunRow).where(RunRow.id == run_id))
