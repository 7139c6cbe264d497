"""What there is to know of a run beyond the documented model: where its launch is, and why it waits or ended."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from orchestrator.database import reading
from orchestrator.training_v2.models import Progress, RunState
from orchestrator.training_v2.steering import find_run
from orchestrator.training_v2.tables import TERMINAL


class RunDetails(BaseModel):
    """How a run stands."""

    run_id: str
    name: str
    version: str
    status: RunState
    #: Why the run waits, or how it ended; empty when there is nothing to say.
    reason: str
    progress: list[Progress]
    runtime: str
    #: The number of its newest launch, 0 before the first, and where that is.
    launch: int
    place: str | None
    heartbeat_at: datetime | None
    #: Until when a run that is to stop may take its time.
    kill_at: datetime | None
    #: Launches because a trainer was lost.
    restarts: int
    #: Reports of launches that were over: refused.
    stale_writes: int
    created_at: datetime
    status_updated_at: datetime
    finished_at: datetime | None

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self.status in TERMINAL


def get_run_details(run_id: str) -> RunDetails:
    """How a run stands.

    Raises:
        RunDoesNotExistError: there is no such run.
    """
    with reading() as session:
        row = find_run(session, run_id)
    same = set(RunDetails.model_fields) - {"run_id", "status", "reason"}
    said = {name: getattr(row, name) for name in same}
    return RunDetails(run_id=row.id, status=RunState(row.state), reason=row.message, **said)
