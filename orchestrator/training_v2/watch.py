"""The watch: one look at all live runs, which brings the steps of those that have news; and a little sweeping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy import or_, select, text
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import db_now, reading, transact
from orchestrator.errors import Unavailable
from orchestrator.settings import settings
from orchestrator.training_v2 import checkpoint_files, steering
from orchestrator.training_v2.models import RunState as State
from orchestrator.training_v2.runtime import Exited, Gone, LaunchName, Runtime
from orchestrator.training_v2.tables import INCOMPLETE, CheckpointRow, RunRow

log = structlog.get_logger(__name__)

#: States in which a launch may end, or fall silent, while its step sleeps.
WATCHED = (State.JOB_SUBMITTED, State.JOB_RUNNING)
#: Incomplete checkpoints that one sweep gives up.
BATCH = 100


@dataclass(frozen=True, slots=True)
class Watched:
    """What one look found: runs looked at, and those whose step was woken."""

    live: int = 0
    woken: int = 0


def watch(runtimes: Mapping[str, Runtime]) -> Watched:
    """Look at every live run once; any number of workers may, at any time."""
    with reading() as session:
        timeout = timedelta(seconds=settings().training_heartbeat_seconds)
        live = session.execute(
            select(RunRow.id, RunRow.launch, RunRow.place, RunRow.runtime, RunRow.heartbeat_at < db_now(-timeout))
            .where(RunRow.finished_at.is_(None), RunRow.state.in_(WATCHED), RunRow.place.is_not(None))
            .order_by(RunRow.id)
        ).all()
    news = {run_id for run_id, _, _, _, silent in live if silent}
    for name, runtime in runtimes.items():
        mine = [LaunchName(row[0], row[1], runtime.place) for row in live if row[2:4] == (runtime.place, name)]
        news.update(_ended(runtime, mine))
    woken = transact(ledger.wake, sorted(news)) if news else 0
    if woken:
        ledger.nudge()
    return Watched(len(live), woken)


def sweep() -> int:
    """Remove what was deleted, and checkpoints that nobody will complete; returns how many things."""
    doomed = transact(_doom_abandoned)
    return doomed + checkpoint_files.sweep_doomed() + steering.sweep_deleted()


def _ended(runtime: Runtime, launches: Sequence[LaunchName]) -> list[str]:
    if not launches:
        return []
    try:
        seen = runtime.observe(launches)
    except Unavailable as error:
        log.warning("runtime_away", place=runtime.place, error=error.body)
        return []
    return [launch.run_id for launch, one in zip(launches, seen, strict=True) if isinstance(one, Exited | Gone)]


def _doom_abandoned(session: Session) -> int:
    """Give up incomplete checkpoints of launches that are over."""
    over = or_(RunRow.launch != CheckpointRow.launch, RunRow.finished_at.is_not(None))
    abandoned = (
        select(CheckpointRow.id)
        .join(RunRow, RunRow.id == CheckpointRow.run_id)
        .where(text(f"training_checkpoints.{INCOMPLETE}"), CheckpointRow.deleted_at.is_(None), over)
        .limit(BATCH)
    )
    return len(checkpoint_files.doom(session, session.scalars(abandoned).all()))
