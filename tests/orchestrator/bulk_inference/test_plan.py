"""Planning: every datum of the split is in one unit, whatever the sizes, and planning twice changes nothing."""

from __future__ import annotations

from itertools import chain, pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import ledger
from orchestrator.bulk_inference import plan as planning
from orchestrator.bulk_inference.job import abort_bulk_inference_job, create_bulk_inference_job
from orchestrator.bulk_inference.job import get_bulk_inference_details as details_of
from orchestrator.bulk_inference.models import NewBulkInferenceJobRequest, ProgressState
from orchestrator.bulk_inference.plan import LARGEST, SMALLEST, UNITS, plan, ranges_of, unit_size
from orchestrator.bulk_inference.submit import LARGEST_BATCH
from orchestrator.database import reading, transact
from orchestrator.errors import LeaseLost
from orchestrator.ledger import Failed, UnitState
from orchestrator.ledger.tables import UnitRow
from orchestrator.transitions import events_of
from tests.support.bulk_inference import Scene, claim, labelled, run_infer, run_plan, settle, skip_delay

if TYPE_CHECKING:
    from tests.orchestrator.bulk_inference.conftest import SceneOf


def submitted(request: NewBulkInferenceJobRequest) -> str:
    job_id = create_bulk_inference_job(request)
    assert job_id is not None
    return job_id


def ranges(job_id: str) -> list[tuple[int, int]]:
    """The ranges of the job's inferring units, in order."""
    with reading() as session:
        units = session.query(UnitRow).filter_by(job_id=job_id, kind="bulk_inference.infer").all()
        return sorted((unit.payload["low"], unit.payload["high"]) for unit in units)


totals = st.integers(0, 2_000_000)
batch_sizes = st.integers(1, LARGEST_BATCH)


@given(totals, batch_sizes)
def test_ranges_cover_every_ordinal_once_and_none_beyond(total: int, batch_size: int) -> None:
    cut = list(ranges_of(total, unit_size(total, batch_size)))
    assert [low for low, _ in cut[:1]] == ([0] if total else [])
    assert all(low < high for low, high in cut)
    assert all(high == low for (_, high), (low, _) in pairwise(cut))
    assert (cut[-1][1] if cut else 0) == total


@given(totals, batch_sizes)
def test_units_hold_whole_batches_and_are_neither_tiny_nor_huge(total: int, batch_size: int) -> None:
    size = unit_size(total, batch_size)
    assert size % batch_size == 0
    assert SMALLEST <= size < LARGEST + batch_size


@pytest.mark.parametrize("total", [UNITS * SMALLEST, 10_000, UNITS * LARGEST])
def test_a_job_of_some_size_is_cut_into_about_as_many_units_as_keep_all_workers_busy(total: int) -> None:
    assert UNITS - 2 <= len(list(ranges_of(total, unit_size(total, 1)))) <= UNITS


def test_planning_counts_the_datums_and_sets_the_job_running(scene_of: SceneOf) -> None:
    job_id = submitted(scene_of(150).request())
    run_plan(job_id)
    details = details_of(job_id)
    assert (details.status, details.expected_total) == (ProgressState.RUNNING, 150)
    assert details.started_at is not None
    assert ranges(job_id) == [(0, 64), (64, 128), (128, 150)]
    with reading() as session:
        states = [event.to_state for event in events_of(session, job_id)]
    assert states == ["initialized", "in_progress", "running"]


def test_with_evaluation_only_annotated_datums_are_planned(scene_of: SceneOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SMALLEST", 4)
    annotated = {3, 4, 7, 20, 21, 22, 50, 51, 52, 90}
    job_id = submitted(scene_of(100, annotations=labelled(annotated)).request(evaluate_metrics=True))
    run_plan(job_id)
    assert details_of(job_id).expected_total == len(annotated)
    assert ranges(job_id) == [(3, 21), (21, 52), (52, 91)]
    planned = set(chain.from_iterable(range(low, high) for low, high in ranges(job_id)))
    assert annotated <= planned


def test_planning_that_was_killed_midway_goes_on_and_writes_no_unit_twice(
    scene_of: SceneOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submitted(scene_of(300).request())
    monkeypatch.setattr(planning, "PAGE", 2)
    killed = claim(job_id, "plan")
    transact(planning._begin, killed, 300, 64)
    transact(planning._add, killed, [planning.infer_unit("model", 0, 64), planning.infer_unit("model", 64, 128)])
    settle(killed, Failed("killed"))
    skip_delay(killed.unit_id)
    run_plan(job_id)
    assert ranges(job_id) == [(0, 64), (64, 128), (128, 192), (192, 256), (256, 300)]
    assert details_of(job_id).status is ProgressState.RUNNING


def test_planning_that_is_run_again_cuts_the_same_units_although_the_rate_is_known_by_now(
    scene_of: SceneOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = scene_of(300)
    job_id = submitted(scene.request())
    killed = claim(job_id, "plan")
    plan(killed)
    before = ranges(job_id)
    transact(ledger.gates.learn, scene.model_id, 20.0)
    settle(killed, Failed("its last commit was never confirmed"))
    skip_delay(killed.unit_id)
    run_plan(job_id)
    assert ranges(job_id) == before


def test_a_plan_whose_job_was_aborted_writes_no_unit(scene: Scene) -> None:
    job_id = submitted(scene.request())
    lease = claim(job_id, "plan")
    abort_bulk_inference_job(job_id)
    with pytest.raises(LeaseLost):
        plan(lease)
    assert ranges(job_id) == []
    assert details_of(job_id).expected_total is None


def test_units_that_are_planned_while_the_job_is_aborted_end_with_it(scene: Scene) -> None:
    job_id = submitted(scene.request())
    lease = claim(job_id, "plan")
    transact(planning._begin, lease, 10, 64)
    transact(planning._add, lease, [planning.infer_unit("model", 0, 10)])
    abort_bulk_inference_job(job_id)
    assert {unit.state for unit in ledger.list_units(job_id)} == {UnitState.CANCELLED}


def test_failures_that_come_before_planning_ends_show_as_soon_as_the_job_runs(scene: Scene) -> None:
    job_id = submitted(scene.request())
    lease = claim(job_id, "plan")
    transact(planning._begin, lease, 10, 64)
    transact(planning._add, lease, [planning.infer_unit("model", 0, 10)])
    run_infer(job_id, failing={3})
    assert details_of(job_id).status is ProgressState.IN_PROGRESS
    transact(planning._set_running, lease)
    assert details_of(job_id).status is ProgressState.RUNNING_FAILED


def test_a_small_job_is_planned_as_it_is_submitted(scene_of: SceneOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "AT_ONCE", SMALLEST)
    job_id = submitted(scene_of(SMALLEST).request())
    details = details_of(job_id)
    assert (details.status, details.expected_total) == (ProgressState.RUNNING, SMALLEST)
    with reading() as session:
        assert [unit.kind for unit in session.query(UnitRow).filter_by(job_id=job_id)] == ["bulk_inference.infer"]
        states = [event.to_state for event in events_of(session, job_id)]
    assert ranges(job_id) == [(0, SMALLEST)]
    assert states == ["initialized", "in_progress", "running"]


def test_a_small_job_of_a_model_known_to_be_slow_is_cut_into_units(
    scene_of: SceneOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "AT_ONCE", SMALLEST)
    scene = scene_of(SMALLEST)
    transact(ledger.gates.learn, scene.model_id, 1.0)
    job_id = submitted(scene.request())
    assert details_of(job_id).status is ProgressState.INITIALIZED
    run_plan(job_id)
    assert len(ranges(job_id)) > 1


def test_a_small_job_that_asks_for_metrics_is_planned_in_a_unit_which_finds_the_annotated_datums(
    scene_of: SceneOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "AT_ONCE", SMALLEST)
    job_id = submitted(scene_of(10, annotations=labelled({4, 5})).request(evaluate_metrics=True))
    run_plan(job_id)
    assert ranges(job_id) == [(4, 6)]
