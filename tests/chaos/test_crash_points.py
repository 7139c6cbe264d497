"""A process that dies at any point of a job, in any role: the job comes to the same end, within half a minute."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from orchestrator import ledger
from orchestrator.bulk_inference import ProgressState, get_bulk_inference_details
from orchestrator.bulk_inference.finish import _end
from orchestrator.bulk_inference.models import SubmitOptions
from orchestrator.bulk_inference.record import _record
from orchestrator.bulk_inference.submit import _write
from orchestrator.database import writing
from orchestrator.ids import new_id
from orchestrator.ledger.dispatch import choose
from orchestrator.settings import settings
from tests.chaos.actor import Killed
from tests.chaos.harness import Harness
from tests.chaos.points import ANY, CLAIM, Point
from tests.support.bulk_inference import labelled, stored

pytestmark = pytest.mark.faults

DATUMS = 200
#: Seconds from the last death to the end of a job.
CONVERGENCE = 30.0
#: Jobs at a time.
AT_ONCE = 5
#: Seconds in which a point is passed that the clock leads to: a worker tells of itself every ten.
PATIENCE = 12.0
#: Seconds that a process may take from the transaction that ends its job to its death.
LAST_BREATH = 1.0
#: How often a point is tried that another process may pass first.
TRIES = 8
#: A point is struck at its first pass; one in so many also at a later one, up to this.
AGAIN, LATEST_PASS = 3, 6


@dataclass
class Trial:
    """A job with a point at which it is struck."""

    point: Point
    job_id: str
    armed_for: str
    begun: float
    #: How many strikes there were before.
    before: int
    struck_at: float | None = None
    over_at: float | None = None

    @property
    def patience(self) -> float:
        """Seconds in which the point should be passed, whatever becomes of the job: some are passed by the clock."""
        return PATIENCE if self.armed_for == ANY and self.point.role != "submitter" else 0.0

    def is_missed(self, now: float) -> bool:
        """Whether the point of a job that has ended would have struck by now."""
        self.over_at = self.over_at or now
        return now - self.begun >= self.patience and now - self.over_at >= LAST_BREATH


class Matrix:
    """Jobs of one kind, each of which is struck at another point."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.points = harness.points
        self.scene = harness.scene(DATUMS, annotations=labelled(range(DATUMS)))
        self.actor = harness.actor()
        self.deaths = 0
        #: How many strikes were seen, and when the last of them.
        self.seen, self.struck_at = 0, 0.0
        #: Seconds from a death to the end of its job, and where it was.
        self.times: list[tuple[float, str]] = []
        harness.server.behaviour.delay = 0.002
        harness.start(workers=2, concurrency=2)

    def find_points(self) -> tuple[list[Point], list[Point]]:
        """Every point that a job passes, its submission and its index included: its own, and those of others."""
        self.points.record()
        plain, evaluating = (self.actor.submit(self.scene.request(evaluate_metrics=flag), new_id()) for flag in (0, 1))
        self.harness.wait([plain, evaluating], within=60)
        self.harness.job_ids += [plain, evaluating]
        self.harness.drain()  # an index follows each job
        self.harness.pause(2 * settings().reconcile_interval)  # beat passes points without any job
        # Whoever is quicker than a heartbeat does not come by there.
        found = {point: at for point, at in self.points.passed().items() if ledger.renew.__qualname__ not in point.name}
        self.points.stop_recording()
        self.evaluating = {point for point, passes in found.items() if set(passes) == {evaluating}}
        jobs = {plain, evaluating}
        own = [point for point, passes in found.items() if jobs & set(passes)]
        return own, [point for point, passes in found.items() if ANY in passes or not jobs & set(passes)]

    def try_all(self, chosen: Collection[Point], *, own: bool, at_once: int) -> None:
        """Try each of the points, some at a time, until it has struck or was missed over and over.

        With `own` only what a process does on behalf of the point's own job counts.
        """
        left: Collection[Point] = chosen
        for _ in range(TRIES):
            left = self.run(left, own=own, at_once=at_once)

    def run(self, chosen: Iterable[Point], *, own: bool, at_once: int) -> list[Point]:
        """Try each of the points once; returns those that were not passed."""
        waiting, live, missed = deque(chosen), list[Trial](), list[Point]()
        while waiting or live:
            while waiting and len(live) < at_once:
                live.append(self.begin(waiting.popleft(), own=own))
            self.harness.pause(0.03)
            ended = [trial for trial in live if self.has_ended(trial)]
            live = [trial for trial in live if trial not in ended]
            missed += [trial.point for trial in ended if trial.struck_at is None]
        return missed

    def begin(self, point: Point, *, own: bool) -> Trial:
        """Submit a job that is struck at the point."""
        before = len(self.points.struck())
        passes = [1]
        if self.harness.chance.randrange(AGAIN) == 0:
            passes.append(self.harness.chance.randint(2, LATEST_PASS))
        request = self.scene.request(evaluate_metrics=point in self.evaluating)
        if point.role == "submitter":
            self.points.arm(point, passes)
            return Trial(point, self.submit_till_answered(request), ANY, time.monotonic(), before)
        with writing() as session:
            # Armed before anybody can see the job.
            job_id, _ = _write(session, request, SubmitOptions())
            armed_for = job_id if own else ANY
            self.points.arm(point, passes, job_id=armed_for)
        if own:
            ledger.nudge()  # otherwise a tick publishes the job, and passes the points of that
        self.harness.job_ids.append(job_id)
        return Trial(point, job_id, armed_for, time.monotonic(), before)

    def submit_till_answered(self, request: Any) -> str:
        """Submit as a caller does whose process is restarted: under the same request id, until there is an answer."""
        request_id = new_id()
        while True:
            try:
                job_id = self.actor.submit(request, request_id)
            except Killed:
                continue
            self.harness.job_ids.append(job_id)
            return job_id

    def has_ended(self, trial: Trial) -> bool:
        """Whether the trial's job has ended, as it must in time, and its point has struck or could have."""
        mine = trial.point, trial.armed_for
        now, struck = time.monotonic(), self.points.struck()
        strikes = [strike for strike in struck[trial.before :] if (strike.point, strike.job_id) == mine]
        if len(struck) > self.seen:
            self.seen, self.struck_at = len(struck), now
        if strikes and trial.struck_at is None:
            trial.struck_at = now
        details = get_bulk_inference_details(trial.job_id)
        if not details.is_over:
            # What strikes others meanwhile takes away the workers that would have done this job.
            calm = now - max(trial.begun, self.struck_at)
            assert calm < CONVERGENCE, f"{trial.point} (struck: {bool(strikes)}): {details}"
            return False
        if not strikes and not trial.is_missed(now):
            return False
        self.points.disarm(trial.point, job_id=trial.armed_for)
        assert (details.status, details.reason) == (ProgressState.SUCCEEDED, ""), f"{trial.point}: {details}"
        assert stored(trial.job_id) == list(range(DATUMS)), str(trial.point)
        self.deaths += len(strikes)
        if strikes:
            self.times.append((now - (trial.struck_at or now), str(trial.point)))
        return True


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_process_that_dies_at_a_point_that_matters_leaves_nothing_behind(harness: Harness) -> None:
    matrix = Matrix(harness)
    matrix.evaluating = set()
    own = [
        f"after commit {CLAIM}",
        f"before commit {_record.__qualname__}",
        f"after commit {ledger.conclude.__qualname__}",
        f"after commit {_end.__qualname__}",
    ]
    assert not matrix.run([Point("child", name) for name in own], own=True, at_once=4)
    shared = [
        Point("submitter", f"after commit {_write.__qualname__}"),
        Point("child", f"after commit {choose.__qualname__}"),
        Point("parent", "before ack"),
        Point("beat", "before send ticks.dispatch"),
    ]
    assert not matrix.run(shared, own=False, at_once=4)


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_process_may_die_at_every_point_in_every_role(harness: Harness) -> None:
    matrix = Matrix(harness)
    own, others = matrix.find_points()
    found = {*own, *others}
    assert {point.role for point in found} == {"child", "parent", "beat", "submitter"}
    begun = time.monotonic()
    matrix.try_all(others, own=False, at_once=2)
    matrix.try_all(own, own=True, at_once=AT_ONCE)
    took = time.monotonic() - begun
    print(f"{matrix.deaths} deaths at {len(found)} points in {took:.0f} s; seconds to the end of the job:")
    print(*(f"{seconds:6.1f}  {point}" for seconds, point in sorted(matrix.times, reverse=True)), sep="\n")
    never = found - {strike.point for strike in harness.points.struck()}
    assert not never, f"nobody passed these again: {', '.join(map(str, never))}"
