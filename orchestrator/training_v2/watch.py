"""The watch: one look at all live runs, which brings the steps of those that have news; and a little sweeping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy import or_, select, text
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import db_now, reading, transact
from orchestrator.errors import Unavailable
from orchestrator.settings import settings
from orchestrator.training_v2 import checkpoint_files, intake, steering
from orchestrator.training_v2.exceptions import StaleLaunch
from orchestrator.training_v2.models import RunState as State
from orchestrator.training_v2.runtime import Exited, Gone, LaunchName, Runtime
from orchestrator.training_v2.tables import INCOMPLETE, CheckpointRow, RunRow

log = structlog.get_logger(__name__)

#: States in which a launch may end, or fall silent, while its step sleeps.
WATCHED = (State.JOB_SUBMITTED, State.JOB_RUNNING)
#: States in which it matters how a launch ended.
LOOKED_AT = (*WATCHED, State.JOB_UNKNOWN)
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
        silent = (RunRow.heartbeat_at < db_now(-timeout)).label("silent")
        live = session.execute(
            select(RunRow.id, RunRow.launch, RunRow.place, RunRow.runtime, RunRow.state, silent)
            .where(RunRow.finished_at.is_(None), RunRow.state.in_(LOOKED_AT), RunRow.place.is_not(None))
            .order_by(RunRow.id)
        ).all()
    news = {run.id for run in live if run.silent}
    # Their steps come back by themselves, and may be taken where nobody can see how the launch ended.
    lost = {run.id for run in live if run.state == State.JOB_UNKNOWN}
    for name, runtime in runtimes.items():
        for launch, end in _ended(runtime, [(run.id, run.launch, run.place) for run in live if run.runtime == name]):
            news.add(launch.run_id)
            if launch.run_id in lost and isinstance(end, Exited) and end.is_last_word:
                with suppress(StaleLaunch):
                    intake.leave(launch.run_id, launch.number, end)
    woken = transact(ledger.wake, sorted(news - lost)) if news - lost else 0
    if woken:
        ledger.nudge()
    return Watched(len(live), woken)


def sweep() -> int:
    """Remove what was deleted, and checkpoints that nobody will complete; returns how many things."""
    doomed = transact(_doom_abandoned)
    return doomed + checkpoint_files.sweep_doomed() + steering.sweep_deleted()


def _ended(runtime: Runtime, runs: Sequence[tuple[str, int, str | None]]) -> list[tuple[LaunchName, Exited | Gone]]:
    """The launches at the runtime's place that have ended, and how."""
    try:
        place = runtime.place
        launches = [LaunchName(run_id, number, place) for run_id, number, where in runs if where == place]
        seen = runtime.observe(launches) if launches else []
    except Unavailable as error:
        log.warning("runtime_away", error=error.body)
        return []
    return [(launch, end) for launch, end in zip(launches, seen, strict=True) if isinstance(end, Exited | Gone)]


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
