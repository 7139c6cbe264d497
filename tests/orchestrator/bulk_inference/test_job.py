"""The doors: looking jobs up, listing them, waiting for them, and steering them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from orchestrator import ledger
from orchestrator.bulk_inference.job import (
    abort_bulk_inference_job,
    get_bulk_inference_details,
    get_bulk_inference_evaluation,
    get_bulk_inference_failures,
    get_bulk_inference_job,
    get_bulk_inference_jobs,
    list_bulk_inference_jobs,
    pause_bulk_inference_job,
    resume_bulk_inference_job,
    retry_bulk_inference_job,
    submit_bulk_inference_job,
    wait_for_bulk_inference_job,
)
from orchestrator.bulk_inference.models import JobDetails, ProgressState
from orchestrator.bulk_inference.record import fail_job
from orchestrator.errors import Conflict, InvalidRequest, JobNotFound
from orchestrator.ledger import UnitState
from orchestrator.registry.models import TaskType
from tests.orchestrator.bulk_inference.conftest import SceneOf
from tests.support.bulk_inference import (
    Scene,
    claim,
    run_all,
    run_finish,
    run_infer,
    run_plan,
    settle,
    store,
    stored,
    waiting,
)


@pytest.fixture
def job_id(scene: Scene) -> str:
    """A job on ten datums, just submitted."""
    return submit_bulk_inference_job(scene.request())


def test_a_job_that_does_not_exist_is_none_to_look_up_and_an_error_to_act_on(scene: Scene) -> None:
    assert get_bulk_inference_job("nobody") is None
    assert get_bulk_inference_jobs("nobody") == []
    doors: list[Callable[[str], object]] = [
        get_bulk_inference_details,
        get_bulk_inference_failures,
        get_bulk_inference_evaluation,
        abort_bulk_inference_job,
        pause_bulk_inference_job,
        resume_bulk_inference_job,
        retry_bulk_inference_job,
        wait_for_bulk_inference_job,
    ]
    for door in doors:
        with pytest.raises(JobNotFound, match="nobody"):
            door("nobody")


@pytest.mark.parametrize("name", ["nul\0", "\udcff", "long" * 1000])
def test_a_name_that_no_database_has_is_nobodys(scene: Scene, name: str) -> None:
    assert get_bulk_inference_job(name) is None
    assert get_bulk_inference_jobs(name, name, name, name, name) == []
    assert list_bulk_inference_jobs(model_id=name) == []
    with pytest.raises(JobNotFound):
        pause_bulk_inference_job(name)


def test_a_job_shows_its_progress(job_id: str) -> None:
    job = get_bulk_inference_job(job_id)
    assert job is not None
    assert (job.job_id, job.job_status) == (job_id, ProgressState.INITIALIZED)
    assert (job.num_computed, job.expected_total) == (0, None)
    run_plan(job_id)
    store(claim(job_id, "infer"), range(4))
    job = get_bulk_inference_job(job_id)
    assert job is not None
    assert (job.job_status, job.num_computed, job.expected_total) == (ProgressState.RUNNING, 4, 10)


@pytest.fixture
def jobs(scene: Scene) -> list[str]:
    """Six jobs of one model, oldest first, of which every second is of another method; and one of another model."""
    other = scene.register("other", TaskType.IMAGE_CLASSIFICATION)
    submit_bulk_inference_job(scene.request(model_id=other))
    methods = ["predict", "predict_proba"] * 3
    return [submit_bulk_inference_job(scene.request(inference_method=method)) for method in methods]


def listed(scene: Scene, **filters: Any) -> list[str]:
    return [job.job_id for job in get_bulk_inference_jobs(scene.model_id, **filters)]


def test_jobs_of_a_model_are_listed_newest_first(scene: Scene, jobs: list[str]) -> None:
    assert listed(scene) == jobs[::-1]


def test_a_listing_can_be_narrowed(scene: Scene, jobs: list[str]) -> None:
    assert listed(scene, inference_method="predict") == jobs[-2::-2]
    assert listed(scene, dataset_snapshot_id=scene.snapshot_id, dataset_version_split="default") == jobs[::-1]
    assert listed(scene, dataset_version_id=scene.snapshot_id) == jobs[::-1]
    for wrong in ("dataset_snapshot_id", "dataset_version_id", "dataset_version_split", "inference_method"):
        assert listed(scene, **{wrong: "other"}) == []


def test_a_listing_comes_in_pages(scene: Scene, jobs: list[str]) -> None:
    newest_first = jobs[::-1]
    assert listed(scene, limit=2) == newest_first[:2]
    assert listed(scene, limit=2, offset=4) == newest_first[4:]
    assert listed(scene, offset=5) == newest_first[5:]
    assert listed(scene, limit=0) == []
    assert listed(scene, offset=6) == []


@pytest.mark.parametrize("bounds", [{"limit": -1}, {"offset": -1}])
def test_negative_bounds_are_refused(scene: Scene, bounds: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="must not be negative"):
        get_bulk_inference_jobs(scene.model_id, **bounds)


def test_a_listing_without_a_limit_ends_after_fifty(scene: Scene) -> None:
    made = [submit_bulk_inference_job(scene.request()) for _ in range(52)]
    assert listed(scene) == made[:1:-1]


def test_all_jobs_can_be_listed_by_status_and_model(scene: Scene, jobs: list[str]) -> None:
    abort_bulk_inference_job(jobs[3])
    assert [job.job_id for job in list_bulk_inference_jobs(status=ProgressState.ABORTED)] == [jobs[3]]
    assert [job.job_id for job in list_bulk_inference_jobs(model_id=scene.model_id, limit=3)] == jobs[:2:-1]
    assert len(list_bulk_inference_jobs()) == 7
    with pytest.raises(InvalidRequest):
        list_bulk_inference_jobs(limit=-1)


def test_waiting_returns_once_the_job_has_ended_and_shows_every_look(job_id: str) -> None:
    seen: list[JobDetails] = []

    def look(details: JobDetails) -> None:
        seen.append(details)
        if len(seen) == 2:
            run_all(job_id)

    details = wait_for_bulk_inference_job(job_id, callback=look, interval=timedelta(milliseconds=1))
    assert [look.status for look in seen] == [ProgressState.INITIALIZED] * 2 + [ProgressState.SUCCEEDED]
    assert details == seen[-1]
    assert details.is_over


def test_waiting_gives_up_in_time_and_leaves_the_job_alone(job_id: str) -> None:
    with pytest.raises(TimeoutError, match=f"{job_id} is still initialized"):
        wait_for_bulk_inference_job(job_id, timeout=timedelta(milliseconds=20), interval=timedelta(hours=1))
    assert get_bulk_inference_details(job_id).status is ProgressState.INITIALIZED


def test_abort_ends_the_job_at_once_and_keeps_its_results(scene_of: SceneOf) -> None:
    job_id = submit_bulk_inference_job(scene_of(150).request())
    run_plan(job_id)
    run_infer(job_id)
    details = abort_bulk_inference_job(job_id, reason="wrong model")
    assert (details.status, details.reason, details.num_computed) == (ProgressState.ABORTED, "wrong model", 64)
    assert details.finished_at is not None
    assert details.units == {"done": 2, "cancelled": 2}
    assert len(stored(job_id)) == 64


def test_an_abort_takes_any_text_for_a_reason(job_id: str) -> None:
    assert abort_bulk_inference_job(job_id, reason="no\0 \udcff").reason == "no\N{REPLACEMENT CHARACTER} ?"


def test_aborting_a_job_that_has_ended_changes_nothing(job_id: str) -> None:
    run_all(job_id)
    before = get_bulk_inference_details(job_id)
    assert abort_bulk_inference_job(job_id) == before
    assert before.status is ProgressState.SUCCEEDED


def test_no_unit_of_a_paused_job_starts_and_resuming_lets_it_go_on(job_id: str) -> None:
    run_plan(job_id)
    assert pause_bulk_inference_job(job_id).paused
    [unit] = waiting(job_id, "infer")
    assert unit.state == UnitState.READY
    assert ledger.claim(unit.id, "test") is None
    assert ledger.dispatch() == 0
    assert not resume_bulk_inference_job(job_id).paused
    assert [unit.state for unit in waiting(job_id, "infer")] == [UnitState.PUBLISHED]
    run_infer(job_id)
    run_finish(job_id)
    assert get_bulk_inference_details(job_id).status is ProgressState.SUCCEEDED


def test_pausing_twice_and_resuming_what_runs_change_nothing(job_id: str) -> None:
    assert not resume_bulk_inference_job(job_id).paused
    assert pause_bulk_inference_job(job_id) == pause_bulk_inference_job(job_id)


def test_a_paused_job_can_be_aborted(job_id: str) -> None:
    pause_bulk_inference_job(job_id)
    details = abort_bulk_inference_job(job_id)
    assert (details.status, details.paused) == (ProgressState.ABORTED, False)


def test_a_job_that_has_ended_is_neither_paused_nor_resumed(job_id: str) -> None:
    abort_bulk_inference_job(job_id)
    for door in (pause_bulk_inference_job, resume_bulk_inference_job):
        with pytest.raises(Conflict, match="has ended: it is aborted"):
            door(job_id)


def test_a_retry_does_only_what_failed(scene_of: SceneOf) -> None:
    job_id = submit_bulk_inference_job(scene_of(150).request())
    run_all(job_id, failing={70, 140})
    assert get_bulk_inference_details(job_id).status is ProgressState.FAILED
    details = retry_bulk_inference_job(job_id)
    assert (details.status, details.num_computed, details.num_failed) == (ProgressState.RUNNING, 148, 0)
    assert (details.finished_at, details.reason) == (None, "")
    assert get_bulk_inference_failures(job_id) == []
    assert len(waiting(job_id, "infer")) == 2
    run_infer(job_id)
    run_infer(job_id)
    run_finish(job_id)
    details = get_bulk_inference_details(job_id)
    assert (details.status, details.num_computed, details.num_failed) == (ProgressState.SUCCEEDED, 150, 0)
    assert stored(job_id) == list(range(150))


def test_a_retry_that_fails_again_can_be_retried_again(scene: Scene) -> None:
    job_id = submit_bulk_inference_job(scene.request())
    run_all(job_id, failing={1, 2})
    for failing in ({2}, set[int]()):
        retry_bulk_inference_job(job_id)
        run_infer(job_id, failing=failing)
        run_finish(job_id)
    assert get_bulk_inference_details(job_id).status is ProgressState.SUCCEEDED


def test_a_success_with_failures_within_the_threshold_can_be_retried(scene: Scene) -> None:
    job_id = submit_bulk_inference_job(scene.request(), failure_threshold=0.5)
    run_all(job_id, failing={9})
    assert retry_bulk_inference_job(job_id).status is ProgressState.RUNNING


def test_a_job_that_its_endpoint_refused_is_retried_with_all_that_is_missing(scene_of: SceneOf) -> None:
    job_id = submit_bulk_inference_job(scene_of(150).request())
    run_plan(job_id)
    run_infer(job_id)
    lease = claim(job_id, "infer")
    fail_job(lease, "unknown model")
    settle(lease, ledger.Hopeless("unknown model"))
    retry_bulk_inference_job(job_id)
    run_infer(job_id)
    run_infer(job_id)
    run_finish(job_id)
    assert get_bulk_inference_details(job_id).status is ProgressState.SUCCEEDED
    assert stored(job_id) == list(range(150))


def test_what_cannot_be_retried_says_why(scene: Scene) -> None:
    running, aborted, clean = (submit_bulk_inference_job(scene.request()) for _ in range(3))
    abort_bulk_inference_job(aborted)
    run_all(clean)
    for job_id, words in ((running, "is initialized"), (aborted, "is aborted"), (clean, "nothing to retry")):
        with pytest.raises(Conflict, match=words):
            retry_bulk_inference_job(job_id)
    assert get_bulk_inference_details(clean).status is ProgressState.SUCCEEDED


def test_of_many_retries_at_the_same_time_one_takes_effect(scene: Scene) -> None:
    job_id = submit_bulk_inference_job(scene.request())
    run_all(job_id, failing={1})

    def retry(_: int) -> str:
        try:
            return retry_bulk_inference_job(job_id).status
        except Conflict:
            return "conflict"

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(retry, range(6)))
    assert sorted(answers) == ["conflict"] * 5 + ["running"]
    run_infer(job_id)
    run_finish(job_id)
    assert get_bulk_inference_details(job_id).status is ProgressState.SUCCEEDED


def test_failures_come_in_pages_in_the_order_of_the_split(scene: Scene) -> None:
    job_id = submit_bulk_inference_job(scene.request())
    run_all(job_id, failing={8, 2, 5})
    first = get_bulk_inference_failures(job_id, limit=2)
    assert [failure.ordinal for failure in first] == [2, 5]
    rest = get_bulk_inference_failures(job_id, after=first[-1].ordinal, limit=2)
    assert [(failure.ordinal, failure.path) for failure in rest] == [(8, "000008.png")]
    assert (rest[0].failure_class, rest[0].status, rest[0].message) == ("item", 400, "cannot be read")
    with pytest.raises(InvalidRequest):
        get_bulk_inference_failures(job_id, limit=-1)
