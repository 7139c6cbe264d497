"""The step: looks at one run, makes one transition towards what is wanted of it, and comes back later.

What a stage does to a runtime may be done again, by another worker after this one was killed; what it
learns it writes in one transaction, which holds the run's row, checks the lease, and moves the run from
the state that the stage was for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, assert_never

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import db_now, reading, storable, transact
from orchestrator.errors import Unavailable
from orchestrator.ledger import Again, Done, Lease, Outcome, Postponed
from orchestrator.settings import settings
from orchestrator.training_v2.fence import set_columns
from orchestrator.training_v2.intake import settle_exit
from orchestrator.training_v2.lifecycle import LAUNCHING, LOST, end, move
from orchestrator.training_v2.models import Resources
from orchestrator.training_v2.models import RunState as State
from orchestrator.training_v2.placement import reserve
from orchestrator.training_v2.quantities import demand_of
from orchestrator.training_v2.runtime import (
    Alive,
    Exited,
    Gone,
    Launch,
    LaunchName,
    LaunchRefused,
    Observation,
    OutOfSight,
    Runtime,
    Waiting,
)
from orchestrator.training_v2.steering import request_launch
from orchestrator.training_v2.tables import TERMINAL, BlueprintRow, RunRow

log = structlog.get_logger(__name__)

#: Seconds until a run is looked at again whose trainer trains: `watch` wakes it as soon as there is news.
TRAINING_PAUSE = 60.0
#: The same for one that waits for resources …
PENDING_PAUSE = 2.0
#: … and for one whose trainer is about to begin, or to end.
SOON = 1.0


@dataclass(frozen=True)
class Run:
    """A run as a step finds it."""

    lease: Lease
    row: RunRow
    blueprint: BlueprintRow
    runtime: Runtime
    #: The database's clock when it was read.
    now: datetime

    @property
    def state(self) -> State:
        """Where it stood."""
        return State(self.row.state)

    @property
    def in_sight(self) -> bool:
        """Whether its launch is where this worker's runtime can look."""
        return self.row.place == self.runtime.place

    @property
    def name(self) -> LaunchName:
        """Its launch."""
        assert self.row.place is not None, "only a launch with a place is asked about"
        return LaunchName(self.row.id, self.row.launch, self.row.place)

    @property
    def is_lost(self) -> bool:
        """Whether its launch was declared lost: only its last word counts."""
        return self.row.supervisor == LOST

    @property
    def grace(self) -> timedelta:
        """How long it may still take to end."""
        return max(timedelta(), self.row.kill_at - self.now) if self.row.kill_at else timedelta()

    def silent_for(self, seconds: float) -> bool:
        """Whether its trainer has given no sign of life for so long, since the run came to stand where it stands."""
        since = max(self.row.heartbeat_at or self.row.status_updated_at, self.row.status_updated_at)
        return self.now - since > timedelta(seconds=seconds)

    def is_cleared(self, seen: Observation) -> bool:
        """Whether nothing can be left of a launch that must end, as it is seen now.

        Out of sight its supervisor ends it as soon as it hears of that, or has heard nothing for as long as it takes
        us to give it up. It has twice that time, so that it is dead before another launch begins; and so that who can
        see it has the time to say how it ended, after the database was away from all of us.
        """
        if isinstance(seen, OutOfSight):
            return self.silent_for(2 * settings().training_heartbeat_seconds)
        return isinstance(seen, Exited | Gone)


def step(lease: Lease, runtimes: Mapping[str, Runtime]) -> Outcome:
    """Make one transition of the lease's run, if it is time for one; the unit is done when the run has ended.

    Raises:
        LeaseLost: the unit belongs to another attempt now; nothing was written.
    """
    run = look(lease, runtimes)
    if run is None:
        if _is_gone(lease.job_id):
            return Done()
        return Postponed("no runtime of this worker can launch the run: see ORCHESTRATOR_TRAINING_RUNTIME")
    if run.state in TERMINAL:
        return Done()
    try:
        return STAGES[run.state](run)
    except Unavailable as error:
        reason = f"waiting for the runtime: {error.body}"
        # In other states the message says how the run came there, which is no news to anybody who waits.
        if run.state in LAUNCHING and run.row.message != storable(reason):
            transact(_write, run, lambda session: set_columns(session, run.row.id, message=storable(reason)))
        return Postponed(reason)


def look(lease: Lease, runtimes: Mapping[str, Runtime]) -> Run | None:
    """The lease's run as it stands; None if none of the runtimes is its own, or it was deleted."""
    with reading() as session:
        found = session.execute(
            select(RunRow, BlueprintRow, db_now())
            .join(BlueprintRow, BlueprintRow.id == RunRow.blueprint_id)
            .where(RunRow.id == lease.job_id)
        ).one_or_none()
    if found is None:
        return None
    row, blueprint, now = found
    runtime = runtimes.get(row.runtime)
    return None if runtime is None else Run(lease, row, blueprint, runtime, now)


def create(run: Run) -> Outcome:
    """Number the first launch."""
    return advance(run, State.JOB_CREATED, details={"launch": 1}, launch=1)


def launch(run: Run) -> Outcome:
    """Find a place for the launch and submit it, as often as it takes."""
    try:
        seen = submitted(run)
    except LaunchRefused as error:
        return conclude(run, State.JOB_CREATE_FAILED, str(error))
    if seen is None:
        return Again()
    if run.state in (State.JOB_CREATED, State.RUN_RESTART_REQUESTED):
        return advance(run, State.JOB_SUBMITTED, details={"launch": run.row.launch, "place": run.row.place})
    return begin(run, seen)


def begin(run: Run, seen: Observation) -> Outcome:
    """See how far a launch has come that was submitted."""
    match seen:
        case Waiting(reason):
            return wait(run, reason)
        case Alive() | OutOfSight():
            return await_arrival(run)
        case Exited():
            return accept_exit(run, seen)
        case Gone(reason):
            return lose(run, reason or "its trainer ended before it had begun")
        case _:
            assert_never(seen)


def watch_over(run: Run) -> Outcome:
    """See whether the trainer still trains."""
    seen = observed(run)
    if isinstance(seen, Exited):
        return accept_exit(run, seen)
    if isinstance(seen, Gone):
        return lose(run, seen.reason or "no process of its trainer is left, and nobody knows how it ended")
    if run.silent_for(settings().training_heartbeat_seconds):
        return lose(run, f"its trainer was silent for {settings().training_heartbeat_seconds:g} seconds")
    return Again(TRAINING_PAUSE)


def recover(run: Run) -> Outcome:
    """Make sure that nothing is left of a launch that was lost, then launch anew, or give up."""
    if run.in_sight:
        run.runtime.terminate(run.name, timedelta())
    seen = observed(run)
    if isinstance(seen, Exited) and seen.is_last_word:
        return accept_exit(run, seen)
    if not run.is_cleared(seen):
        return Again(SOON if run.in_sight else settings().training_heartbeat_seconds / 3)
    if run.row.restarts >= settings().training_restarts:
        return conclude(run, State.JOB_FAILED, f"{run.row.message}; launched again {run.row.restarts} times already")
    following, restarts = run.row.launch + 1, run.row.restarts + 1
    return written(
        run,
        lambda session: request_launch(
            session, run.row.id, following, reason=f"restart {restarts}: {run.row.message}", restarts=restarts
        ),
    )


def heed(run: Run) -> Outcome:
    """Begin to end a run: at once if nothing was ever started."""
    if run.row.place is None:
        return conclude(run, State.JOB_TERMINATED, "stopped by request before it was launched")
    return advance(run, State.JOB_TERMINATE_REQUESTED)


def tell(run: Run) -> Outcome:
    """Tell the trainer to end; one that is out of sight hears it from its supervisor."""
    if run.in_sight:
        run.runtime.terminate(run.name, run.grace)
    return advance(run, State.JOB_TERMINATING, details={"grace_seconds": run.grace.total_seconds()})


def await_end(run: Run) -> Outcome:
    """See whether the trainer has ended."""
    if run.in_sight:
        run.runtime.terminate(run.name, run.grace)  # once more: the grace period may have been cut short
    seen = observed(run)
    if isinstance(seen, Exited) and (seen.is_last_word or not run.is_lost):
        return accept_exit(run, seen)
    if run.is_cleared(seen) and not (isinstance(seen, OutOfSight) and run.grace):
        return conclude(run, State.JOB_TERMINATED, "stopped by request")
    return Again(SOON)


def submitted(run: Run) -> Observation | None:
    """What has become of the launch, submitted if it has a place or now gets one; None if the run has moved on."""
    if run.row.place is None:
        lacking = transact(_reserve, run)
        if lacking is None:
            return None
        if lacking:
            return Waiting(lacking)
        run.row.place = run.runtime.place
    if not run.in_sight:
        return OutOfSight()
    return run.runtime.submit(
        Launch(
            run_id=run.row.id,
            number=run.row.launch,
            place=run.runtime.place,
            image=run.blueprint.image,
            entry_point=run.blueprint.entry_point,
            demand=demand_of(Resources.model_validate(run.row.resources)),
            config=run.row.config,
        )
    )


def observed(run: Run) -> Observation:
    """How the launch fares."""
    return run.runtime.observe([run.name])[0] if run.in_sight else OutOfSight()


def wait(run: Run, reason: str) -> Outcome:
    """Wait for resources, and say for which."""
    if run.state is State.JOB_SUBMITTED:
        return advance(run, State.JOB_PENDING, reason=reason, pause=PENDING_PAUSE)
    if run.row.message != reason:
        return written(run, lambda session: set_columns(session, run.row.id, message=reason), pause=PENDING_PAUSE)
    return Again(PENDING_PAUSE)


def await_arrival(run: Run) -> Outcome:
    """Give the supervisor as much time to report as it has between two signs of life."""
    if run.row.heartbeat_at is None:
        return written(run, lambda session: set_columns(session, run.row.id, heartbeat_at=db_now()), pause=SOON)
    if run.silent_for(settings().training_heartbeat_seconds):
        return lose(run, "its trainer was started, and never reported")
    return Again(SOON)


def accept_exit(run: Run, exited: Exited) -> Outcome:
    """End the run as its trainer did, unless its supervisor has told of that already."""
    return written(run, lambda session: settle_exit(session, run.row.id, run.row.launch, exited, by=run.lease.unit_id))


def lose(run: Run, reason: str) -> Outcome:
    """Declare the launch lost: from now on it can write nothing."""
    log.warning("launch_lost", run=run.row.id, launch=run.row.launch, reason=reason)
    return advance(run, State.JOB_UNKNOWN, reason=reason, details={"launch": run.row.launch})


def advance(
    run: Run, to: State, *, reason: str = "", details: dict[str, Any] | None = None, pause: float = 0.0, **values: Any
) -> Outcome:
    """Move the run on from where it stood, and come back."""
    return written(
        run,
        lambda session: move(session, run.row.id, to, reason=reason, details=details, **values),
        pause=pause,
    )


def conclude(run: Run, to: State, reason: str) -> Outcome:
    """End the run; the next look finds that the unit has nothing left to do."""
    details = {"launch": run.row.launch}
    return written(
        run,
        lambda session: end(session, run.row.id, to, reason=reason, details=details, by=run.lease.unit_id),
    )


def written(run: Run, work: Callable[[Session], object], *, pause: float = 0.0) -> Outcome:
    """Do `work` in one fenced transaction if the run still stands where it stood; come back unless it has ended."""
    state = transact(_write, run, work)
    if state in TERMINAL:
        return Done()
    return Again(pause if state is not None else 0.0)


def _write(session: Session, run: Run, work: Callable[[Session], object]) -> str | None:
    """Where the run stands after `work`; None if it had moved on before."""
    if not _holds(session, run):
        return None
    work(session)
    ledger.hold(session, run.lease, done=1)
    return session.scalar(select(RunRow.state).where(RunRow.id == run.row.id))


def _is_gone(run_id: str) -> bool:
    """Whether the run was deleted, after another attempt had ended it."""
    with reading() as session:
        return session.get(RunRow, run_id) is None


def _reserve(session: Session, run: Run) -> str | None:
    return reserve(session, run.row, run.runtime) if _holds(session, run) else None


def _holds(session: Session, run: Run) -> bool:
    """Lock the run, then the unit: whoever reports on a run takes the two in the same order."""
    standing = session.execute(
        select(RunRow.state, RunRow.launch).where(RunRow.id == run.row.id).with_for_update(key_share=True)
    ).one_or_none()
    ledger.check(session, run.lease)
    return standing is not None and tuple(standing) == (run.state, run.row.launch)


#: What is done to a run in each state from which it can go on by itself.
STAGES: Mapping[State, Callable[[Run], Outcome]] = {
    State.RUN_CREATED: create,
    State.JOB_CREATED: launch,
    State.RUN_RESTART_REQUESTED: launch,
    State.JOB_SUBMITTED: launch,
    State.JOB_PENDING: launch,
    State.JOB_RUNNING: watch_over,
    State.JOB_UNKNOWN: recover,
    State.RUN_STOP_REQUESTED: heed,
    State.JOB_TERMINATE_REQUESTED: tell,
    State.JOB_TERMINATING: await_end,
}
