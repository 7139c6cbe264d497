"""A retention task whose workers die at any point: it deletes the same, and no inference lacks its blob."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from orchestrator import ledger
from orchestrator.database import reading, transact
from orchestrator.inference_store import purge
from orchestrator.inference_store.blobs import ROOT
from orchestrator.inference_store.receipts import Action
from orchestrator.inference_store.retention.models import RetentionDetails, TaskState
from orchestrator.inference_store.retention.submit import NewTask, _write
from orchestrator.inference_store.retention.sweep import _sweep, begin
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.storage import blobs
from tests.chaos.harness import Harness
from tests.chaos.points import ANY, Point
from tests.support.retention import policy, receipts, register, run, store, task, visible, with_data

if TYPE_CHECKING:
    from tests.conftest import Database

pytestmark = pytest.mark.faults

#: Inferences of each kind in a model: more than an attempt's first page.
SIZE = 300
#: How many of them share a blob.
SHARE = 3
#: Seconds until a task is over, whatever was killed.
PATIENCE = 120.0
#: How often a point is tried that another process may pass first.
TRIES = 4


class Scene:
    """A model with inferences to delete, to strip and to keep, each kind on data of its own, and a policy for them."""

    def __init__(self, action: Action, *, is_approved: bool) -> None:
        self.model = register()
        self.kept = self._store("kept", hours=1)
        self.protected = self._store("protected", hours=50, protected=True)
        self.stripped = self._store("stripped", hours=5)
        self.old = self._store("old", hours=50)
        policy_id = policy(self.model, record=24, blob=2, action=action)
        manifest = run(self.model, policy_id, dry_run=True).manifest if is_approved else None
        self.request = NewTask(self.model, policy_id, False, manifest, False, None, 0)

    def _store(self, name: str, *, hours: float, protected: bool = False) -> set[str]:
        ids = [f"{name}-{number:03}" for number in range(SIZE)]
        for start in range(0, SIZE, SHARE):
            data = f"{self.model} {ids[start]}".encode()
            store(self.model, ids[start : start + SHARE], hours=hours, data=data, protected=protected)
        return set(ids)

    def check(self, done: RetentionDetails) -> None:
        """Hold what the task left against what it was to do."""
        assert (done.state, done.reason) == (TaskState.COMPLETE, "")
        assert set(visible(self.model)) == self.kept | self.protected | self.stripped
        assert set(with_data(self.model)) == self.kept | self.protected
        assert (done.total_record_count, done.deleted_record_count, done.stripped_count) == (SIZE, SIZE, SIZE)
        assert done.total_blob_count == done.deleted_blob_count == 2 * SIZE // SHARE
        assert sum(receipt.count for receipt in receipts(done.task_id)) == 2 * SIZE
        assert set(self.blobs()) == self.named(), "a blob is there as long as somebody sees an inference that names it"

    def blobs(self) -> list[str]:
        return [blob.key for blob in blobs().list(f"{ROOT}/{self.model}")]

    def named(self) -> set[str]:
        with reading() as session:
            chosen = select(InferenceRow.data_storage_key).where(InferenceRow.model_id == self.model)
            keys = session.scalars(chosen.where(InferenceRow.deleted_at.is_(None))).all()
        return {key for key in keys if key is not None}


def try_points(
    harness: Harness, scenes: Iterable[tuple[Point, Scene]], passes: Collection[int] = (1, 2)
) -> list[Point]:
    """Run each scene's task, and kill whoever passes its point on the task's behalf, at these passes.

    Returns the points that nobody passed.
    """
    missed = []
    for point, scene in scenes:
        task_id, _ = transact(_write, scene.request)
        harness.points.arm(point, passes, job_id=task_id)
        before = len(harness.points.struck())
        ledger.nudge()
        harness.until(lambda one=task_id: task(one).is_over, f"{point}: {task(task_id)}", within=PATIENCE)  # type: ignore[misc]  # bound early, on purpose
        harness.points.disarm(point, job_id=task_id)
        if len(harness.points.struck()) == before:
            missed.append(point)
        # What is doomed with a task's last breath may be left to the next purge.
        purge.remove_blobs()
        scene.check(task(task_id))
    return missed


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_sweep_whose_workers_die_deletes_the_same(harness: Harness) -> None:
    names = [f"before commit {_sweep.__qualname__}", f"after commit {_sweep.__qualname__}", "after blob delete"]
    scenes = [(Point("child", name), Scene(Action.HARD, is_approved=False)) for name in names]
    harness.start(workers=1, concurrency=2)
    assert not try_points(harness, scenes)


@pytest.mark.endurance
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "database, action, is_approved",
    [("postgres", Action.HARD, False), ("sqlite", Action.SOFT, False), ("sqlite", Action.HARD, True)],
    indirect=["database"],
)
def test_a_task_may_die_at_every_point(harness: Harness, action: Action, is_approved: bool, database: Database) -> None:
    scene = Scene(action, is_approved=is_approved)
    harness.start(workers=2, concurrency=2)
    harness.points.record()
    task_id, _ = transact(_write, scene.request)
    ledger.nudge()
    harness.until(lambda: task(task_id).is_over, "the task is over", within=PATIENCE)
    passed = [point for point, jobs in harness.points.passed().items() if task_id in jobs and point.role == "child"]
    # Whoever is quicker than a heartbeat does not come by there.
    found = [point for point in passed if ledger.renew.__qualname__ not in point.name]
    harness.points.stop_recording()
    scene.check(task(task_id))
    assert any(begin.__qualname__ in point.name for point in found), found
    left = [point for point in found if point.name != ANY]
    for _ in range(TRIES):
        left = try_points(harness, ((point, Scene(action, is_approved=is_approved)) for point in left), passes=(1,))
    assert not left, f"nobody passed these again: {', '.join(map(str, left))}"
    print(f"{len(harness.points.struck())} deaths at {len(found)} points")
