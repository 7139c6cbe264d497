"""Work that never runs out, in small pieces: how soon a worker goes on after a fault shows in what it claims next."""

from __future__ import annotations

import time

from sqlalchemy import func, select

from orchestrator.bulk_inference import ProgressState
from orchestrator.database import reading
from orchestrator.ledger.tables import UnitRow
from tests.chaos.harness import Harness
from tests.support.bulk_inference import stored

#: Of each job, and how many jobs there are at a time.
DATUMS, LIVE = 1_000, 3


def claims(*job_ids: str) -> int:
    """How often a unit of the jobs was claimed."""
    with reading() as session:
        total = select(func.sum(UnitRow.attempt)).where(UnitRow.job_id.in_(job_ids))
        return int(session.scalar(total) or 0)


class Backlog:
    """Jobs of short units for one worker, some of which always wait: what it has at hand is done within a second."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.job_ids: list[str] = []
        self.live: list[str] = []
        harness.server.behaviour.delay = 0.02
        self.scene = harness.scene(DATUMS, max_concurrency=8)
        (self.worker,) = harness.start(workers=1, concurrency=1)
        self.fill()
        harness.until(lambda: harness.job(self.job_ids[0]).num_computed, "the first results")

    def fill(self) -> None:
        """Submit as many jobs as are lacking."""
        self.live = [job_id for job_id in self.live if not self.harness.is_over(job_id)]
        while len(self.live) < LIVE:
            self.live.append(self.harness.submit(self.scene))
            self.job_ids.append(self.live[-1])

    def await_resumption(self, within: float) -> float:
        """Wait until a unit is claimed that was not at hand; returns the seconds it took."""
        before, begun = claims(*self.job_ids) + 1, time.monotonic()
        self.harness.until(lambda: claims(*self.job_ids) > before, "work goes on", within=within)
        return time.monotonic() - begun

    def finish(self) -> None:
        """Let all the jobs come to their end, and look at what they stored."""
        self.harness.server.behaviour.delay = 0
        for details in self.harness.wait(self.job_ids, within=120):
            assert (details.status, details.reason, details.num_failed) == (ProgressState.SUCCEEDED, "", 0)
            assert stored(details.job_id) == list(range(DATUMS))
