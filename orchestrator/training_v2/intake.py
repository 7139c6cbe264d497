"""The intake: what a launch's supervisor reports, each in one transaction that a launch which is over cannot make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import db_now, reading, storable
from orchestrator.training_v2 import checkpoint_files
from orchestrator.training_v2.checkpoint_files import CheckpointDraft, CheckpointFile
from orchestrator.training_v2.exceptions import StaleLaunch, ValidationError
from orchestrator.training_v2.fence import Orders, fenced, hold_launch, set_columns, standing_of
from orchestrator.training_v2.lifecycle import LAUNCHING, STOPPING, WRITABLE, end, move
from orchestrator.training_v2.measured import NewMetric, check_metrics
from orchestrator.training_v2.metrics import TICK, insert_metrics
from orchestrator.training_v2.models import Progress
from orchestrator.training_v2.models import RunState as State
from orchestrator.training_v2.runtime import Exited
from orchestrator.training_v2.tables import RunRow

log = structlog.get_logger(__name__)


def claim(run_id: str, launch: int, supervisor: str) -> dict[str, Any]:
    """Become the one supervisor of a launch whose trainer cannot be started yet; returns the run's config.

    Who claimed it says that it has arrived once the trainer is started.

    Raises:
        StaleLaunch: the launch is over, or wanted no more, or another supervises it: start nothing.
    """
    return fenced(_claim, run_id, launch, supervisor)


def arrive(run_id: str, launch: int, supervisor: str) -> Orders:
    """Say that the launch's trainer is about to be started, which may be done by one supervisor for each launch.

    `supervisor` is a name that no other has. Said again by the same, it changes nothing.

    Raises:
        StaleLaunch: the launch is over, or another supervises it: start nothing.
    """
    return fenced(_arrive, run_id, launch, supervisor)


def beat(run_id: str, launch: int) -> Orders:
    """Say that the trainer is alive.

    Raises:
        StaleLaunch: the launch is over: kill the trainer.
    """
    return fenced(_beat, run_id, launch)


def orders(run_id: str, launch: int) -> Orders:
    """What is to be done, without a sign of life: it writes nothing, and may be asked often.

    Raises:
        StaleLaunch: the launch is over: kill the trainer.
    """
    with reading() as session:
        return standing_of(session, run_id, launch, WRITABLE).orders


def record_metrics(run_id: str, launch: int, position: int, metrics: Sequence[NewMetric]) -> int:
    """Keep metrics; returns the position that follows them.

    Parameters:
        position: How many metrics of this launch came before these, kept or not. What was recorded already is
            passed over, so that a batch may be sent again when nobody knows whether it arrived.
        metrics: Those that have no finite value are counted and not kept.

    Raises:
        StaleLaunch: the launch is over; nothing was written.
        ValidationError: a tag or a step is wrong, or metrics between those recorded and these are missing.
    """
    check_metrics(metrics)
    return fenced(_record_metrics, run_id, launch, position, metrics)


def record_progress(run_id: str, launch: int, progress: Sequence[Progress]) -> None:
    """Replace the run's whole progress.

    Raises:
        StaleLaunch: the launch is over; nothing was written.
        ValidationError: a value is no finite number.
    """
    if not all(math.isfinite(value) for each in progress for value in (each.value, each.final_value)):
        raise ValidationError("progress: value and final_value must be finite numbers")
    stored = [
        {**each.model_dump(mode="json"), "operation": storable(each.operation), "units": storable(each.units)}
        for each in progress
    ]
    fenced(_record_progress, run_id, launch, stored)


def begin_checkpoint(run_id: str, launch: int, global_step: int) -> CheckpointDraft:
    """A new incomplete checkpoint, and where its files go.

    Raises:
        StaleLaunch: the launch is over; nothing was written.
    """
    return fenced(checkpoint_files.begin, run_id, launch, global_step)


def complete_checkpoint(run_id: str, launch: int, checkpoint_id: str, files: Sequence[CheckpointFile]) -> None:
    """Make a checkpoint complete whose files are stored, in this order, at `CheckpointDraft.key`.

    Done again, it changes nothing. What the run's policy does not keep any more is deleted.

    Raises:
        StaleLaunch: the launch is over; nothing was written.
        ValidationError: a path is wrong or occurs twice, or a file is not stored in its size.
        CheckpointDoesNotExistError: it was discarded, or is not of this launch.
    """
    checkpoint_files.check_files(run_id, checkpoint_id, files)
    doomed = fenced(checkpoint_files.complete, run_id, launch, checkpoint_id, files)
    checkpoint_files.purge_soon(doomed)


def discard_checkpoint(run_id: str, launch: int, checkpoint_id: str) -> None:
    """Forget an incomplete checkpoint; one that is complete, or gone, stays as it is.

    Raises:
        StaleLaunch: the launch is over; nothing was written.
    """
    checkpoint_files.purge_soon(fenced(checkpoint_files.discard, run_id, launch, checkpoint_id))


def leave(run_id: str, launch: int, exited: Exited) -> State:
    """Say that the trainer has ended, after everything else was reported; returns how the run ended.

    The last word on a launch that was lost is heard until the run is launched again, and also while it is stopped.

    Raises:
        StaleLaunch: the launch is over, perhaps because this was said before.
    """
    ended = fenced(_leave, run_id, launch, exited)
    log.info("run_ended", run=run_id, launch=launch, state=ended.value, code=exited.code)
    return ended


def settle_exit(session: Session, run_id: str, launch: int, exited: Exited, *, by: str | None = None) -> State | None:
    """Move the run on as its trainer ended; None if it has ended already. The caller holds its row.

    Who ended because he was told to was terminated, or is lost if nobody here told him; who did not,
    ended as his exit code says.
    """
    details = {"launch": launch, "exit_code": exited.code}
    stopping = session.scalar(select(RunRow.state).where(RunRow.id == run_id)) in STOPPING
    if exited.signalled and not stopping:
        reason = exited.reason or "its trainer was ended from outside"
        return State.JOB_UNKNOWN if move(session, run_id, State.JOB_UNKNOWN, reason=reason, details=details) else None
    if exited.signalled:
        state, reason = State.JOB_TERMINATED, "stopped by request"
    elif exited.code == 0:
        state, reason = State.JOB_COMPLETED, ""
    else:
        state, reason = State.JOB_FAILED, exited.reason or f"its trainer ended with exit code {exited.code}"
    return state if end(session, run_id, state, reason=reason, details=details, by=by) else None


def _claim(session: Session, run_id: str, launch: int, supervisor: str) -> dict[str, Any]:
    standing = hold_launch(session, run_id, launch, LAUNCHING)
    if standing.supervisor not in (None, supervisor):
        raise StaleLaunch(run_id, launch)
    set_columns(session, run_id, supervisor=supervisor)
    return dict(session.execute(select(RunRow.config).where(RunRow.id == run_id)).scalar_one())


def _arrive(session: Session, run_id: str, launch: int, supervisor: str) -> Orders:
    standing = hold_launch(session, run_id, launch, LAUNCHING | WRITABLE)
    if standing.supervisor not in (None, supervisor):
        raise StaleLaunch(run_id, launch)
    # Whoever submitted the launch may not have had the time to say so.
    if standing.state in LAUNCHING:
        details = {"launch": launch}
        move(session, run_id, State.JOB_SUBMITTED, details=details)
        move(session, run_id, State.JOB_RUNNING, details=details)
    set_columns(session, run_id, supervisor=supervisor, heartbeat_at=db_now())
    return standing.orders


def _beat(session: Session, run_id: str, launch: int) -> Orders:
    standing = hold_launch(session, run_id, launch)
    set_columns(session, run_id, heartbeat_at=db_now())
    return standing.orders


def _record_metrics(session: Session, run_id: str, launch: int, position: int, metrics: Sequence[NewMetric]) -> int:
    standing = hold_launch(session, run_id, launch)
    seen, following = standing.metrics_seen, position + len(metrics)
    if position > seen:
        raise ValidationError(f"metrics {seen} to {position - 1} of run {run_id} are missing: send them first")
    if following <= seen:
        return seen
    new = check_metrics(metrics[seen - position :])
    first_at = standing.now if standing.metrics_at is None else max(standing.now, standing.metrics_at + TICK)
    next_at = insert_metrics(session, run_id, launch, new, first_at)
    set_columns(session, run_id, metrics_seen=following, **({"metrics_at": next_at - TICK} if new else {}))
    return following


def _record_progress(session: Session, run_id: str, launch: int, progress: list[dict[str, Any]]) -> None:
    hold_launch(session, run_id, launch)
    set_columns(session, run_id, progress=progress, progress_updated_at=db_now())


def _leave(session: Session, run_id: str, launch: int, exited: Exited) -> State:
    states = WRITABLE | {State.JOB_UNKNOWN} if exited.is_last_word else WRITABLE
    hold_launch(session, run_id, launch, states, also_lost=exited.is_last_word)
    ended = settle_exit(session, run_id, launch, exited)
    if ended is None:
        raise StaleLaunch(run_id, launch)
    if ended is State.JOB_UNKNOWN:
        ledger.wake(session, [run_id])
    return ended
