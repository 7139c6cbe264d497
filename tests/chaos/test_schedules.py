"""Schedules whose ticks and submissions die at any point: each instant is decided once, and has a job or a reason."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise

import pytest
from sqlalchemy import func, select

from orchestrator import schedules
from orchestrator.bulk_inference.submit import _write
from orchestrator.bulk_inference.tables import BulkInferenceJobRow
from orchestrator.database import db_now, reading
from orchestrator.ledger.tables import JobRow
from orchestrator.schedules import NewSchedule, Occurrence, OccurrenceState, Overlap, Schedule
from orchestrator.schedules.firing import _settle
from orchestrator.schedules.ticking import _lock_and_decide
from tests.chaos.harness import Harness
from tests.chaos.points import Point
from tests.support.bulk_inference import Scene

pytestmark = pytest.mark.faults

SECOND = timedelta(seconds=1)
SUBMITTED = (OccurrenceState.FIRED, OccurrenceState.CAUGHT_UP)


class Timetable:
    """A schedule that is due every second for a while, and what must hold of it at the end."""

    def __init__(self, scene: Scene, overlap: Overlap, seconds: int, *, name: str | None = None) -> None:
        with reading() as session:
            now = session.scalars(select(db_now())).one()
        self.instants = [now + SECOND * number for number in range(2, seconds + 2)]
        self.schedule: Schedule = schedules.create_schedule(
            NewSchedule(
                project_id=scene.project_id,
                name=name or overlap.value,
                kind="bulk_inference",
                spec=scene.request().model_dump(mode="json"),
                every=SECOND,
                overlap=overlap,
                starts_at=self.instants[0],
                ends_at=self.instants[-1],
            )
        )

    def occurrences(self) -> list[Occurrence]:
        return schedules.list_occurrences(self.schedule.id, limit=10_000)[::-1]

    def is_over(self) -> bool:
        """Whether every instant is decided, and every job that was to be submitted has ended."""
        found = self.occurrences()
        settled = all(one.job_id or one.state is OccurrenceState.SKIPPED for one in found)
        return len(found) == len(self.instants) and settled and not self.open_jobs(found)

    def open_jobs(self, found: Sequence[Occurrence]) -> list[str]:
        ids = [one.job_id for one in found if one.job_id]
        with reading() as session:
            return list(session.scalars(select(JobRow.id).where(JobRow.id.in_(ids), JobRow.closed_at.is_(None))))

    def check(self) -> list[str]:
        """Hold the history against the timetable; returns the jobs."""
        found = self.occurrences()
        assert [one.due_at for one in found] == self.instants
        submitted = [one for one in found if one.state in SUBMITTED]
        assert all(one.state is OccurrenceState.SKIPPED and one.reason for one in found if one not in submitted)
        jobs = [one.job_id for one in submitted if one.job_id]
        assert len(set(jobs)) == len(submitted), "each has a job of its own"
        if self.schedule.overlap is not Overlap.ALLOW:
            spans = sorted(self.spans(jobs))
            assert all(end <= begin for (_, end), (begin, _) in pairwise(spans)), spans
        if self.schedule.overlap is not Overlap.SKIP:
            assert len(jobs) == len(self.instants)
        return jobs

    def spans(self, jobs: Sequence[str]) -> list[tuple[datetime, datetime]]:
        """From when to when the jobs were there."""
        with reading() as session:
            rows = session.execute(select(JobRow.created_at, JobRow.closed_at).where(JobRow.id.in_(jobs)))
            return [(created, closed) for created, closed in rows if closed is not None]


def is_struck(harness: Harness, points: set[Point]) -> bool:
    return points <= {strike.point for strike in harness.points.struck()}


def check_all(harness: Harness, timetables: Sequence[Timetable]) -> None:
    """Hold each against its history; and nobody submitted anything besides."""
    harness.job_ids += [job for timetable in timetables for job in timetable.check()]
    with reading() as session:
        assert session.scalar(select(func.count()).select_from(BulkInferenceJobRow)) == len(harness.job_ids)


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_tick_or_a_submission_that_dies_submits_each_instants_job_once(harness: Harness) -> None:
    scene = harness.scene(2)
    harness.start(workers=1, concurrency=2)
    harness.beat()
    timetables = []
    # One after the other: a submission that dies three times is given up, however unlucky it was.
    for work in (_lock_and_decide, _write, _settle):
        points = {Point("child", f"{moment} commit {work.__qualname__}") for moment in ("before", "after")}
        for point in points:
            harness.points.arm(point)
        timetables.append(Timetable(scene, Overlap.ALLOW, 3, name=work.__qualname__))
        harness.until(partial(is_struck, harness, points), "both points have struck", within=60)
        harness.until(timetables[-1].is_over, "every job has ended", within=60)
    check_all(harness, timetables)


@pytest.mark.endurance
@pytest.mark.timeout(600)
def test_schedules_survive_random_kills_of_everything_under_every_policy(harness: Harness) -> None:
    scene = harness.scene(2)
    workers = harness.start(workers=2, concurrency=2)
    beats = [harness.beat(), harness.beat()]
    timetables = [Timetable(scene, overlap, 60) for overlap in Overlap]
    kills, end = 0, time.monotonic() + 50
    while time.monotonic() < end:
        harness.pause(harness.chance.uniform(0.2, 1.5))
        if harness.chance.random() < 0.2:
            harness.kill(harness.chance.choice([*workers, *beats]))
            kills += 1
        else:
            kills += harness.kill_child(harness.chance.choice(workers))
    harness.until(lambda: all(one.is_over() for one in timetables), "every job has ended", within=240)
    check_all(harness, timetables)
    print(f"{kills} kills, {len(harness.job_ids)} jobs")
