"""The late index: the same answers before, while and after a bulk job's inferences are taken apart."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select

from orchestrator import ledger
from orchestrator.bulk_inference.job import (
    abort_bulk_inference_job,
    create_bulk_inference_job,
    retry_bulk_inference_job,
)
from orchestrator.bulk_inference.record import FailedResult, StoredResult, Target, inference_id, record
from orchestrator.database import reading, transact, writing
from orchestrator.errors import LeaseLost
from orchestrator.inference_store import indexing, purge
from orchestrator.inference_store.filtering import found, page
from orchestrator.inference_store.models import (
    BaseInferenceFilter,
    DeconstructedInferenceFilter,
    EmbeddingFilter,
    NewGetInferencesRequest,
    NewRegisterModelRequest,
)
from orchestrator.inference_store.register import register_model_for_inference_storage
from orchestrator.inference_store.tables import EmbeddingRow, LabelRow, OriginRow
from orchestrator.ledger import Again, Done, Hopeless, Lease, UnitState
from orchestrator.ledger.tables import JobRow, UnitRow
from tests.support.bulk_inference import Scene, claim, datum_id, run_finish, run_plan, set_scene, settle


@pytest.fixture
def scene(database: object, broker: object, tmp_path: Path) -> Scene:
    return set_scene(tmp_path, datums=20)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty inferences stand for many."""
    monkeypatch.setattr(indexing, "AT_ONCE", 0)
    monkeypatch.setattr(indexing, "SMALLEST", 8)
    monkeypatch.setattr(indexing, "PAGE", 3)
    monkeypatch.setattr("orchestrator.bulk_inference.plan.AT_ONCE", 0)


def answer(ordinal: int) -> str:
    """A standard list: the even ones saw a cat, every third one a dog."""
    objects = [{"label": "cat", "score": 0.1 * ordinal}] if ordinal % 2 == 0 else []
    return json.dumps([*objects, {"label": "dog", "score": None}] if ordinal % 3 == 0 else objects)


def submit(scene: Scene, *, failing: Iterable[int] = ()) -> str:
    """A job whose units are done; the unit that finishes it waits."""
    job_id = create_bulk_inference_job(scene.request())
    assert job_id is not None
    run_plan(job_id)
    infer(scene, job_id, failing)
    return job_id


def infer(scene: Scene, job_id: str, failing: Iterable[int] = ()) -> None:
    lease = claim(job_id, "infer")
    ordinals = set(range(20)) - set(failing)
    results = [StoredResult(n, datum_id(lease, n), "sha", "key", answer(n), "v2") for n in sorted(ordinals)]
    failures = [FailedResult(n, datum_id(lease, n), "item", 400, "cannot be read", 1) for n in failing]
    record(lease, Target(scene.model_id, "predict_proba"), results, failures)
    settle(lease, Done())


def index_job(job_id: str) -> str | None:
    with reading() as session:
        return session.get_one(OriginRow, job_id).index_job_id


def is_indexed(job_id: str) -> bool:
    with reading() as session:
        return session.get_one(OriginRow, job_id).indexed_at is not None


def claim_index(job_id: str, kind: str = "inference_index.index") -> Lease:
    """Claim a unit of the job that indexes this one."""
    index_job_id = index_job(job_id)
    assert index_job_id is not None
    with reading() as session:
        waiting = session.scalars(
            select(UnitRow.id)
            .where(UnitRow.job_id == index_job_id, UnitRow.kind == kind)
            .where(UnitRow.state.in_([UnitState.READY, UnitState.PUBLISHED]))
            .order_by(UnitRow.id)
        ).all()
    lease = ledger.claim(waiting[0], "test")
    assert lease is not None
    return lease


def run_index(job_id: str) -> None:
    """Index the job, as a worker would."""
    for _ in range(3):
        lease = claim_index(job_id)
        settle(lease, indexing.index(lease))
    lease = claim_index(job_id, "inference_index.finish")
    settle(lease, indexing.finish(lease))


def labelled(scene: Scene, *labels: str, minimum: float | None = None) -> set[int]:
    """The ordinals that a label filter finds."""
    wanted = DeconstructedInferenceFilter(labels=list(labels), minimum_score=minimum)
    filter_ = BaseInferenceFilter(deconstructed_inference_filter=wanted)
    with reading() as session:
        return {int(found_id[-8:]) for found_id in session.scalars(found(scene.model_id, filter_))}


def assert_answers(scene: Scene) -> None:
    assert labelled(scene, "cat") == set(range(0, 20, 2))
    assert labelled(scene, "dog") == set(range(0, 20, 3))
    assert labelled(scene, "cat", minimum=1.0) == {10, 12, 14, 16, 18}
    assert labelled(scene, "dog", minimum=0.0) == set()


def label_rows(scene: Scene) -> int:
    with reading() as session:
        chosen = select(func.count()).select_from(LabelRow).where(LabelRow.model_id == scene.model_id)
        return session.scalar(chosen) or 0


def test_answers_are_the_same_before_while_and_after_a_job_is_indexed(scene: Scene) -> None:
    job_id = submit(scene)
    assert_answers(scene)
    run_finish(job_id)
    assert label_rows(scene) == 0
    assert_answers(scene)
    lease = claim_index(job_id)
    settle(lease, indexing.index(lease))
    assert not is_indexed(job_id)
    assert_answers(scene)
    for _ in range(2):
        lease = claim_index(job_id)
        settle(lease, indexing.index(lease))
    lease = claim_index(job_id, "inference_index.finish")
    settle(lease, indexing.finish(lease))
    assert is_indexed(job_id)
    assert label_rows(scene) == 10 + 7
    assert_answers(scene)


def test_the_data_is_not_looked_into_once_a_job_is_indexed(scene: Scene) -> None:
    job_id = submit(scene)
    run_finish(job_id)
    run_index(job_id)
    with writing() as session:
        session.execute(delete(LabelRow))
        wanted = DeconstructedInferenceFilter(labels=["cat"])
        assert (
            session.scalars(found(scene.model_id, BaseInferenceFilter(deconstructed_inference_filter=wanted))).all()
            == []
        )


def test_a_small_job_is_indexed_as_it_ends(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "AT_ONCE", 64)
    job_id = submit(scene)
    run_finish(job_id)
    assert is_indexed(job_id)
    assert index_job(job_id) is None
    assert_answers(scene)


def test_a_unit_that_was_killed_goes_on_behind_its_last_page(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = submit(scene)
    run_finish(job_id)
    lease = claim_index(job_id)
    transact(indexing._index_page, lease, job_id, 0, 3)
    transact(ledger.settle, lease, Again())
    again = claim_index(job_id)
    assert again.payload["position"] == 3
    settle(again, indexing.index(again))
    for _ in range(2):
        lease = claim_index(job_id)
        settle(lease, indexing.index(lease))
    assert label_rows(scene) == 10 + 7


def test_a_unit_that_works_long_gives_way(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "SLICE", -1.0)
    job_id = submit(scene)
    run_finish(job_id)
    assert indexing.index(claim_index(job_id)) == Again()


def test_an_attempt_that_lost_its_unit_writes_nothing(scene: Scene) -> None:
    job_id = submit(scene)
    run_finish(job_id)
    zombie = claim_index(job_id)
    transact(ledger.settle, zombie, Again())
    claim_index(job_id)
    with pytest.raises(LeaseLost):
        indexing.index(zombie)
    assert label_rows(scene) == 0


def test_a_retried_job_is_looked_into_again_until_it_is_indexed_anew(scene: Scene) -> None:
    job_id = submit(scene, failing=[4])
    run_finish(job_id)
    run_index(job_id)
    assert labelled(scene, "cat") == set(range(0, 20, 2)) - {4}
    retry_bulk_inference_job(job_id)
    assert not is_indexed(job_id)
    infer_again(scene, job_id)
    assert_answers(scene)
    run_finish(job_id)
    run_index(job_id)
    assert_answers(scene)


def infer_again(scene: Scene, job_id: str) -> None:
    lease = claim(job_id, "infer")
    result = StoredResult(4, datum_id(lease, 4), "sha", "key", answer(4), "v2")
    record(lease, Target(scene.model_id, "predict_proba"), [result])
    settle(lease, Done())


def test_an_index_of_before_a_retry_is_refused(scene: Scene) -> None:
    job_id = submit(scene, failing=[4])
    run_finish(job_id)
    stale = claim_index(job_id)
    retry_bulk_inference_job(job_id)
    with pytest.raises(LeaseLost):
        indexing.index(stale)
    assert index_job(job_id) is None
    with reading() as session:
        assert session.get_one(JobRow, stale.job_id).closed_at is not None


def test_a_range_that_cannot_be_indexed_leaves_the_answers_right(scene: Scene) -> None:
    job_id = submit(scene)
    run_finish(job_id)
    for number in range(3):
        lease = claim_index(job_id)
        settle(lease, Hopeless("it cannot") if number == 1 else indexing.index(lease))
    lease = claim_index(job_id, "inference_index.finish")
    settle(lease, indexing.finish(lease))
    assert not is_indexed(job_id)
    assert_answers(scene)
    with reading() as session:
        assert session.get_one(JobRow, lease.job_id).closed_at is not None


def test_what_an_aborted_job_stored_is_indexed(scene: Scene) -> None:
    job_id = submit(scene)
    abort_bulk_inference_job(job_id)
    run_index(job_id)
    assert is_indexed(job_id)
    assert_answers(scene)


def test_a_job_that_stored_nothing_needs_no_index(scene: Scene) -> None:
    job_id = create_bulk_inference_job(scene.request())
    assert job_id is not None
    abort_bulk_inference_job(job_id)
    assert is_indexed(job_id)


def test_inferences_that_are_deleted_meanwhile_are_passed_over(scene: Scene) -> None:
    job_id = submit(scene)
    run_finish(job_id)
    purge.delete_inferences(scene.model_id, [inference_id(job_id, 2), inference_id(job_id, 3)])
    run_index(job_id)
    assert labelled(scene, "cat") == set(range(0, 20, 2)) - {2}


def test_embeddings_are_indexed_as_labels_are(scene: Scene) -> None:
    register_model_for_inference_storage(
        NewRegisterModelRequest(
            model_id=scene.model_id, project_id=scene.project_id, task_type="Image Embedding", embedding_size=2
        )
    )
    job_id = create_bulk_inference_job(scene.request())
    assert job_id is not None
    run_plan(job_id)
    lease = claim(job_id, "infer")
    results = [StoredResult(n, datum_id(lease, n), "sha", "key", json.dumps([n, 1.5]), "v1") for n in range(20)]
    record(lease, Target(scene.model_id, "embed"), results)
    settle(lease, Done())
    request = NewGetInferencesRequest(embedding_filters=EmbeddingFilter(query_embedding=[0, 1], distance_metric="l2"))
    with reading() as session:
        before = page(session, scene.model_id, request)
    run_finish(job_id)
    run_index(job_id)
    with reading() as session:
        assert page(session, scene.model_id, request) == before
        assert session.scalar(select(func.count()).select_from(EmbeddingRow)) == 20
    assert [int(one.inference_id[-8:]) for one in before] == list(range(20))
