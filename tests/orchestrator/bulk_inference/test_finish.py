"""Finishing: what nobody could infer is written down, the threshold decides, and metrics are computed last."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import ledger
from orchestrator.bulk_inference import finish as finishing
from orchestrator.bulk_inference.finish import finish
from orchestrator.bulk_inference.job import get_bulk_inference_details as details_of
from orchestrator.bulk_inference.job import (
    get_bulk_inference_evaluation,
    get_bulk_inference_failures,
    retry_bulk_inference_job,
    submit_bulk_inference_job,
)
from orchestrator.bulk_inference.models import ProgressState
from orchestrator.database import transact
from orchestrator.errors import InvalidRequest, LeaseLost, Unavailable
from orchestrator.ledger import Failed, Hopeless, Lease
from tests.orchestrator.bulk_inference.conftest import SceneOf
from tests.support.bulk_inference import (
    claim,
    labelled,
    refuse,
    run_all,
    run_finish,
    run_infer,
    run_plan,
    settle,
    skip_delay,
    store,
    stored,
)


@pytest.mark.parametrize(
    "datums, failing, threshold, state",
    [
        (10, 0, 0.0, ProgressState.SUCCEEDED),
        (10, 1, 0.0, ProgressState.FAILED),
        (10, 3, 0.3, ProgressState.SUCCEEDED),
        (10, 4, 0.3, ProgressState.FAILED),
        (100, 7, 0.07, ProgressState.SUCCEEDED),
        (100, 8, 0.07, ProgressState.FAILED),
        (10, 10, 1.0, ProgressState.SUCCEEDED),
        (10, 10, 0.99, ProgressState.FAILED),
    ],
)
def test_the_share_of_failed_datums_against_the_threshold_decides(
    scene_of: SceneOf, datums: int, failing: int, threshold: float, state: ProgressState
) -> None:
    job_id = submit_bulk_inference_job(scene_of(datums).request(), failure_threshold=threshold)
    run_all(job_id, failing=range(failing))
    details = details_of(job_id)
    assert (details.status, details.num_computed, details.num_failed) == (state, datums - failing, failing)
    assert details.finished_at is not None
    if state is ProgressState.FAILED:
        assert details.reason.startswith(f"{failing} of {datums} datums failed")
    else:
        assert details.reason == ""


def die(lease: Lease, error: str) -> None:
    settle(lease, Hopeless(error))


def test_every_datum_of_a_dead_unit_without_a_result_becomes_a_failure_that_says_why(
    scene_of: SceneOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finishing, "PAGE", 7)
    job_id = submit_bulk_inference_job(scene_of(100).request())
    run_plan(job_id)
    lease = claim(job_id, "infer")
    store(lease, [0, 5, 6, 63], failed=[9])
    die(lease, "its process was killed")
    run_infer(job_id)
    run_finish(job_id)
    missing = sorted(set(range(64)) - {0, 5, 6, 9, 63})
    failures = get_bulk_inference_failures(job_id)
    abandoned = [failure for failure in failures if failure.failure_class == "abandoned"]
    assert [failure.ordinal for failure in abandoned] == missing
    assert abandoned[0].message == "its unit died after 1 attempts: its process was killed"
    assert abandoned[0].path == "000001.png"
    assert (len(failures), details_of(job_id).num_failed) == (60, 60)
    assert (len(stored(job_id)), details_of(job_id).status) == (40, ProgressState.FAILED)


def test_a_finish_that_was_killed_midway_counts_nothing_twice(scene_of: SceneOf) -> None:
    job_id = submit_bulk_inference_job(scene_of(10).request(), failure_threshold=1.0)
    run_plan(job_id)
    die(claim(job_id, "infer"), "dead")
    killed = claim(job_id, "finish")
    finish(killed, refuse)
    settle(killed, ledger.Again())
    run_finish(job_id)
    assert (details_of(job_id).num_failed, len(get_bulk_inference_failures(job_id))) == (10, 10)
    assert details_of(job_id).status is ProgressState.SUCCEEDED


def test_a_dead_unit_of_an_evaluated_job_gives_up_annotated_datums_only(scene_of: SceneOf) -> None:
    scene = scene_of(10, annotations=labelled({2, 5}))
    job_id = submit_bulk_inference_job(scene.request(evaluate_metrics=True))
    run_plan(job_id)
    die(claim(job_id, "infer"), "dead")
    run_finish(job_id)
    assert [failure.ordinal for failure in get_bulk_inference_failures(job_id)] == [2, 5]


def test_a_job_that_could_not_be_planned_says_why(scene_of: SceneOf) -> None:
    job_id = submit_bulk_inference_job(scene_of(10).request(), failure_threshold=1.0)
    die(claim(job_id, "plan"), "the table is gone")
    run_finish(job_id)
    details = details_of(job_id)
    assert (details.status, details.expected_total) == (ProgressState.FAILED, None)
    assert details.reason == "the job could not be planned: the table is gone"


def test_datums_that_nobody_accounts_for_count_as_failed(scene_of: SceneOf) -> None:
    job_id = submit_bulk_inference_job(scene_of(10).request(), failure_threshold=0.1)
    run_plan(job_id)
    lease = claim(job_id, "infer")
    store(lease, range(8))
    settle(lease, ledger.Done())
    run_finish(job_id)
    assert details_of(job_id).status is ProgressState.FAILED
    assert "2 of 10 datums failed" in details_of(job_id).reason


def evaluated(scene_of: SceneOf) -> str:
    """A job whose inferences are all there, and whose metrics are not."""
    scene = scene_of(10, annotations=labelled(range(10)))
    job_id = submit_bulk_inference_job(scene.request(evaluate_metrics=True))
    run_plan(job_id)
    run_infer(job_id)
    return job_id


def test_the_metrics_are_stored_with_the_job(scene_of: SceneOf) -> None:
    job_id = evaluated(scene_of)
    run_finish(job_id, lambda job: {"of": job.id})
    assert get_bulk_inference_evaluation(job_id) == {"of": job_id}
    assert details_of(job_id).status is ProgressState.SUCCEEDED


def test_a_job_that_failed_is_not_evaluated(scene_of: SceneOf) -> None:
    scene = scene_of(10, annotations=labelled(range(10)))
    job_id = submit_bulk_inference_job(scene.request(evaluate_metrics=True))
    run_all(job_id, failing={0})
    assert details_of(job_id).status is ProgressState.FAILED
    assert get_bulk_inference_evaluation(job_id) is None


def raise_(error: Exception) -> Any:
    raise error


def test_a_failed_evaluation_fails_the_job_with_its_reason_and_keeps_the_results(scene_of: SceneOf) -> None:
    job_id = evaluated(scene_of)
    run_finish(job_id, lambda job: raise_(InvalidRequest("an annotation has no label")))
    details = details_of(job_id)
    assert (details.status, details.num_computed, details.num_failed) == (ProgressState.FAILED, 10, 0)
    assert details.reason == "the results are stored, but could not be evaluated: an annotation has no label"
    assert len(stored(job_id)) == 10


def test_retrying_a_failed_evaluation_infers_nothing_again(scene_of: SceneOf) -> None:
    job_id = evaluated(scene_of)
    run_finish(job_id, lambda job: raise_(InvalidRequest("an annotation has no label")))
    retry_bulk_inference_job(job_id)
    run_finish(job_id, lambda job: {"accuracy": 1})
    assert details_of(job_id).status is ProgressState.SUCCEEDED
    assert get_bulk_inference_evaluation(job_id) == {"accuracy": 1}
    assert details_of(job_id).reason == ""


def test_an_evaluation_that_finds_a_server_away_is_tried_again(scene_of: SceneOf) -> None:
    job_id = evaluated(scene_of)
    lease = claim(job_id, "finish")
    with pytest.raises(Unavailable):
        finish(lease, lambda job: raise_(Unavailable("the blob store is away")))
    assert details_of(job_id).status is ProgressState.RUNNING


def test_a_finish_that_died_is_followed_by_one_that_fails_the_job_and_says_why(scene_of: SceneOf) -> None:
    job_id = evaluated(scene_of)
    die(claim(job_id, "finish"), "Unavailable: the blob store is away")
    run_finish(job_id)
    details = details_of(job_id)
    assert details.status is ProgressState.FAILED
    assert details.reason == "the job could not be finished: Unavailable: the blob store is away"
    assert details.num_computed == 10


def test_a_finish_that_lost_its_unit_ends_nothing(scene_of: SceneOf) -> None:
    job_id = evaluated(scene_of)
    zombie = claim(job_id, "finish")
    settle(zombie, Failed("frozen"))
    skip_delay(zombie.unit_id)
    claim(job_id, "finish")
    with pytest.raises(LeaseLost):
        finish(zombie, lambda job: {})
    assert details_of(job_id).status is ProgressState.RUNNING


def test_a_finish_that_ended_the_job_but_never_settled_cannot_end_its_retry(scene_of: SceneOf) -> None:
    """Its process was killed behind the last transaction; a person retries before the lease runs out."""
    job_id = submit_bulk_inference_job(scene_of(10).request())
    run_plan(job_id)
    run_infer(job_id, failing={4})
    late = claim(job_id, "finish")
    finish(late, refuse)
    assert details_of(job_id).status is ProgressState.FAILED
    retry_bulk_inference_job(job_id)
    with pytest.raises(LeaseLost):
        transact(ledger.settle, late, ledger.Done())
    with pytest.raises(LeaseLost):
        finish(late, refuse)
    assert ledger.claim(late.unit_id, "test") is None
    assert details_of(job_id).status is ProgressState.RUNNING
    run_infer(job_id)
    run_finish(job_id)
    assert details_of(job_id).status is ProgressState.SUCCEEDED
    assert stored(job_id) == list(range(10))


def test_a_job_that_asks_for_no_metrics_has_none(scene_of: SceneOf) -> None:
    job_id = submit_bulk_inference_job(scene_of(10).request())
    run_all(job_id)
    assert get_bulk_inference_evaluation(job_id) is None
