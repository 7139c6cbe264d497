"""What a retention task deletes, what it spares, and what it leaves behind."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from orchestrator.database import db_now, writing
from orchestrator.errors import Conflict, InvalidRequest, ModelNotFound, NotFound, RequestIdReused
from orchestrator.inference_store import purge
from orchestrator.inference_store.blobs import hold_subject
from orchestrator.inference_store.protection import protect_inference
from orchestrator.inference_store.receipts import Action, digest, list_receipts
from orchestrator.inference_store.retention import manifest
from orchestrator.inference_store.retention.models import Manifest, TaskState
from orchestrator.inference_store.retention.policies import end_policy, find_policy
from orchestrator.inference_store.retention.submit import submit, submit_approved, submit_message
from orchestrator.inference_store.retention.tasks import stop
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.ledger import holds
from orchestrator.storage import blobs
from tests.conftest import Database
from tests.support.retention import (
    next_unit,
    policy,
    receipts,
    register,
    rows,
    run,
    run_units,
    store,
    store_of_job,
    stored,
    task,
    visible,
    with_data,
)
from workers import sweep
from workers.tasks.retention import sweep as sweep_unit
from workers.unit import UnitFailed


@pytest.fixture
def model(database: Database) -> str:
    return register()


def take_small_pages(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    for bound in ("FIRST", "SMALLEST", "LARGEST"):
        monkeypatch.setattr(sweep, bound, size)


def test_records_go_by_their_age_and_a_receipt_tells_of_them(model: str) -> None:
    store(model, ["old-1", "old-2"], hours=30)
    store(model, ["young"], hours=10)
    policy_id = policy(model, record=24, blob=24)
    done = run(model, policy_id)
    assert visible(model) == rows(model) == ["young"]
    assert (done.state, done.reason) == (TaskState.COMPLETE, "")
    assert (done.total_record_count, done.deleted_record_count) == (2, 2)
    (receipt,) = receipts(done.task_id)
    assert (receipt.model_id, receipt.policy_id, receipt.action, receipt.count) == (model, policy_id, "hard", 2)
    assert (receipt.first_id, receipt.last_id, receipt.sha256) == ("old-1", "old-2", digest(["old-1", "old-2"]))


def test_a_soft_deletion_hides_the_record_and_removes_its_data(model: str) -> None:
    store(model, ["old"], hours=2, data=b"image")
    done = run(model, policy(model, action=Action.SOFT))
    assert (visible(model), rows(model)) == ([], ["old"])
    assert stored() == []
    assert (done.deleted_record_count, done.deleted_blob_count, done.total_blob_count) == (1, 1, 1)


def test_data_may_go_before_its_record(model: str) -> None:
    store(model, ["old"], hours=30, data=b"1")
    store(model, ["middle"], hours=10, data=b"2")
    store(model, ["young"], hours=1, data=b"3")
    done = run(model, policy(model, record=24, blob=5))
    assert visible(model) == ["middle", "young"]
    assert with_data(model) == ["young"]
    assert (done.total_record_count, done.deleted_record_count) == (1, 1)
    assert (done.total_blob_count, done.deleted_blob_count, done.stripped_count) == (2, 2, 1)


def test_a_record_age_of_minus_one_keeps_every_record(model: str) -> None:
    store(model, ["old"], hours=10_000, data=b"1")
    done = run(model, policy(model, record=-1, blob=0))
    assert (visible(model), with_data(model), done.deleted_record_count) == (["old"], [], 0)


def test_a_protected_inference_keeps_its_record_and_its_data(model: str) -> None:
    store(model, ["protected"], hours=2, data=b"1", protected=True)
    store(model, ["other"], hours=2, data=b"2")
    done = run(model, policy(model))
    assert with_data(model) == ["protected"]
    assert (done.total_record_count, done.total_blob_count, done.deleted_blob_count) == (1, 1, 1)


def test_shared_data_leaves_with_its_last_inference(model: str) -> None:
    store(model, ["old-1", "old-2"], hours=30, data=b"same")
    store(model, ["young"], hours=1, data=b"same")
    policy_id = policy(model, record=24, blob=24)
    first = run(model, policy_id)
    assert (first.deleted_record_count, first.total_blob_count, first.deleted_blob_count) == (2, 0, 0)
    assert len(stored()) == 1
    last = run(model, policy(model))
    assert (last.deleted_record_count, last.total_blob_count, last.deleted_blob_count) == (1, 1, 1)
    assert stored() == []


def test_a_bulk_inference_lets_go_of_its_datum_whose_blob_stays(model: str) -> None:
    blobs().put("datasets/one", b"datum")
    store_of_job(model, ["0", "1"], hours=30, key="datasets/one")
    store_of_job(model, ["2"], hours=10, key="datasets/one")
    done = run(model, policy(model, record=24, blob=5))
    assert (visible(model), with_data(model)) == (["2"], [])
    assert (done.deleted_record_count, done.stripped_count, done.total_blob_count) == (2, 1, 0)
    assert blobs().exists("datasets/one")


def test_inferences_of_other_models_stay(model: str) -> None:
    other = register()
    store(model, ["one"], hours=2)
    store(other, ["one"], hours=2)
    run(model, policy(model))
    assert (visible(model), visible(other)) == ([], ["one"])


def test_a_sweep_of_many_pages_deletes_each_inference_once(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take_small_pages(monkeypatch, 7)
    ids = [f"{number:03}" for number in range(50)]
    store(model, ids[::2], hours=3)
    store(model, ids[1::2], hours=2, protected=True)
    done = run(model, policy(model))
    assert (visible(model), done.deleted_record_count) == (ids[1::2], 25)
    assert sum(receipt.count for receipt in receipts(done.task_id)) == 25
    assert len(receipts(done.task_id)) > 3


def test_a_unit_whose_time_is_up_comes_back_and_goes_on(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take_small_pages(monkeypatch, 5)
    monkeypatch.setattr(sweep, "SLICE", -1.0)
    store(model, [f"{number:02}" for number in range(20)], hours=2)
    done = run(model, policy(model))
    assert (visible(model), done.deleted_record_count, len(receipts(done.task_id))) == ([], 20, 4)


def test_a_dry_run_counts_and_lists_and_deletes_nothing(model: str) -> None:
    store(model, ["old"], hours=30, data=b"1")
    store(model, ["middle"], hours=10, data=b"2")
    done = run(model, policy(model, record=24, blob=5, interval=6), dry_run=True)
    assert with_data(model) == ["old", "middle"]
    assert (done.total_record_count, done.total_blob_count) == (1, 2)
    assert (done.deleted_record_count, done.deleted_blob_count, receipts(done.task_id)) == (0, 0, [])
    assert done.manifest is not None


def test_a_hard_policy_takes_what_was_only_hidden_before(model: str) -> None:
    store(model, ["hidden-1", "hidden-2"], hours=3, data=b"1")
    store(model, ["hidden-young"], hours=3)
    run(model, policy(model, action=Action.SOFT))
    store(model, ["old"], hours=3)
    with writing() as session:
        later = {"created_at": db_now(timedelta(hours=-1))}
        session.execute(update(InferenceRow).where(InferenceRow.inference_id == "hidden-young").values(later))
    policy_id = policy(model, record=2)
    dry = run(model, policy_id, dry_run=True)
    assert (dry.total_record_count, dry.total_blob_count) == (3, 0)
    done = run(model, policy_id)
    assert (done.total_record_count, done.deleted_record_count, done.deleted_blob_count) == (3, 3, 0)
    assert rows(model) == ["hidden-young"]
    assert run(model, policy(model, record=2, action=Action.SOFT)).total_record_count == 0


def test_an_approved_manifest_takes_what_was_only_hidden_before(model: str) -> None:
    store(model, ["hidden"], hours=2)
    run(model, policy(model, action=Action.SOFT))
    policy_id = policy(model)
    dry = run(model, policy_id, dry_run=True)
    assert run(model, policy_id, approved=dry.manifest).deleted_record_count == 1
    assert rows(model) == []


def test_what_was_hidden_goes_once_no_export_needs_it(model: str) -> None:
    store(model, ["hidden"], hours=2)
    run(model, policy(model, action=Action.SOFT))
    with writing() as session:
        holds.place(session, hold_subject(model), "export")
    assert run(model, policy(model)).deleted_record_count == 1
    assert rows(model) == ["hidden"]
    with writing() as session:
        holds.release(session, "export")
    assert purge.purge() == 1
    assert rows(model) == []


def test_a_caller_deletes_what_was_only_hidden_and_its_id_is_free_again(model: str) -> None:
    store(model, ["hidden"], hours=2)
    run(model, policy(model, action=Action.SOFT))
    assert purge.delete_inferences(model, ["hidden"]) == ["hidden"]
    assert purge.delete_inferences(model, ["hidden"]) == []
    store(model, ["hidden"])
    assert visible(model) == ["hidden"]


def test_a_dry_run_that_is_stopped_while_it_lists_leaves_no_list(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store(model, ["person-1@example.org"], hours=2)
    task_id = submit(model, policy(model), dry_run=True)
    run_units(task_id, until="retention.sweep")
    write = manifest.write

    def written_too_late(*given: Any) -> manifest.Written:
        written = write(*given)
        assert blobs().exists(written.key)
        stop(model, task_id)
        return written

    monkeypatch.setattr(manifest, "write", written_too_late)
    run_units(task_id)
    assert task(task_id).state is TaskState.STOPPED
    assert list(blobs().list("retention")) == []


def test_an_approved_manifest_deletes_what_it_names_less_what_was_protected_since(model: str) -> None:
    store(model, ["old-1", "old-2", "old-3"], hours=30, data=b"1")
    store(model, ["middle"], hours=10, data=b"2")
    policy_id = policy(model, record=24, blob=5)
    dry = run(model, policy_id, dry_run=True)
    protect_inference(model, "old-2")
    store(model, ["late"], hours=40)
    done = run(model, policy_id, approved=dry.manifest)
    assert sorted(visible(model)) == ["late", "middle", "old-2"]
    assert with_data(model) == ["old-2"]
    assert (done.state, done.approved_task_id) == (TaskState.COMPLETE, dry.task_id)
    assert (done.total_record_count, done.deleted_record_count, done.deleted_blob_count) == (3, 2, 1)


def test_an_inference_that_was_made_anew_is_not_what_was_approved(model: str) -> None:
    store(model, ["one"], hours=30)
    policy_id = policy(model, record=24, blob=24)
    dry = run(model, policy_id, dry_run=True)
    purge.delete_inferences(model, ["one"])
    store(model, ["one"])
    assert run(model, policy_id, approved=dry.manifest).deleted_record_count == 0
    assert visible(model) == ["one"]


def test_a_manifest_that_was_changed_is_refused(model: str) -> None:
    store(model, ["old", "other"], hours=2)
    policy_id = policy(model)
    dry = run(model, policy_id, dry_run=True)
    assert dry.manifest is not None
    with pytest.raises(Conflict, match="another digest"):
        submit(model, policy_id, dry_run=False, approved=Manifest(dry.task_id, "0" * 64))
    task_id = submit(model, policy_id, dry_run=False, approved=dry.manifest)
    key = next(blob.key for blob in blobs().list("retention"))
    blobs().put(key, blobs().get(key).replace(b"other", b"third"))
    with pytest.raises(UnitFailed, match="was changed"):
        run_units(task_id)
    assert visible(model) == ["old", "other"]
    run_units(task_id)
    assert (task(task_id).state, "was changed" in task(task_id).reason) == (TaskState.FAILED, True)


def test_a_manifest_of_a_policy_that_was_replaced_is_refused(model: str) -> None:
    dry = run(model, policy(model), dry_run=True)
    assert dry.manifest is not None
    policy(model)
    with pytest.raises(Conflict, match="holds no more"):
        submit_approved(model, dry.manifest)


def test_a_task_that_is_stopped_deletes_nothing_any_more(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take_small_pages(monkeypatch, 5)
    store(model, [f"{number:02}" for number in range(20)], hours=2)
    task_id = submit(model, policy(model), dry_run=False)
    run_units(task_id, until="retention.sweep")
    monkeypatch.setattr(sweep, "give_way", lambda _: stop(model, task_id))
    unit = next_unit(task_id)
    assert unit is not None
    sweep_unit(unit.id)
    stopped = task(task_id)
    assert (stopped.state, stopped.deleted_record_count, len(visible(model))) == (TaskState.STOPPED, 5, 15)
    assert next_unit(task_id) is None
    assert not stop(model, task_id)


def test_a_task_that_has_ended_cannot_be_stopped(model: str) -> None:
    done = run(model, policy(model))
    with pytest.raises(Conflict, match="complete"):
        stop(model, done.task_id)
    with pytest.raises(NotFound):
        stop(model, "nobody")


def test_a_new_policy_stops_what_runs_under_the_old_one(model: str) -> None:
    store(model, ["old"], hours=30)
    task_id = submit(model, policy(model, record=24, blob=24), dry_run=False)
    run_units(task_id, until="retention.sweep")
    policy_id = policy(model, record=48, blob=48)
    assert (task(task_id).state, task(task_id).reason) == (TaskState.STOPPED, "its policy was replaced")
    run(model, policy_id)
    assert visible(model) == ["old"]


def test_a_policy_is_the_only_one_until_it_is_ended(model: str) -> None:
    first, second = policy(model), policy(model)
    assert not end_policy(model, first)
    found = find_policy(model)
    assert found is not None
    assert found.id == second
    assert end_policy(model, second)
    assert find_policy(model) is None
    with pytest.raises(NotFound):
        submit(model, second, dry_run=False)


@pytest.mark.parametrize("record, blob, interval", [(-2, 0, 0), (5, 6, 0), (5, -1, 0), (5, 5, -1), (2**31, 0, 0)])
def test_a_policy_that_makes_no_sense_is_refused(model: str, record: int, blob: int, interval: int) -> None:
    with pytest.raises(InvalidRequest):
        policy(model, record=record, blob=blob, interval=interval)


def test_a_policy_needs_a_registered_model(database: Database) -> None:
    with pytest.raises(ModelNotFound):
        policy("nobody")


def test_a_policy_that_runs_by_itself_leaves_only_dry_runs_to_callers(model: str) -> None:
    policy_id = policy(model, interval=1)
    with pytest.raises(Conflict, match="every 1 hours"):
        submit(model, policy_id, dry_run=False)
    submit(model, policy_id, dry_run=True)


def test_a_message_submits_once_however_often_it_comes(model: str) -> None:
    spec = {"model_id": model, "retention_policy_id": policy(model, interval=1), "automated": True}
    task_id = submit_message(spec, {"request_id": "again"})
    assert submit_message(spec, {"request_id": "again"}) == task_id
    with pytest.raises(RequestIdReused, match="another dry_run: take a new one"):
        submit_message({**spec, "dry_run": True}, {"request_id": "again"})
    found = find_policy(model)
    assert found is not None
    assert found.last_scheduled_at == task(task_id).created_at
    with pytest.raises(InvalidRequest, match="model_id"):
        submit_message({}, {})


def test_what_an_export_holds_is_hidden_at_once_and_purged_when_it_is_free(model: str) -> None:
    store(model, ["one", "two"], hours=2, data=b"1")
    with writing() as session:
        holds.place(session, hold_subject(model), "export")
    done = run(model, policy(model))
    assert (visible(model), rows(model), done.deleted_record_count) == ([], ["one", "two"], 2)
    assert (purge.purge(), len(stored())) == (0, 1)
    with writing() as session:
        holds.release(session, "export")
    assert (purge.purge(), rows(model)) == (2, [])
    assert purge.remove_blobs()
    assert stored() == []


def test_a_caller_deletes_what_is_protected_too_and_leaves_a_receipt(model: str) -> None:
    store(model, ["one"], data=b"1", protected=True)
    store(model, ["two"], data=b"1")
    assert purge.delete_inferences(model, ["one", "nobody"]) == ["one"]
    assert purge.remove_blobs()
    assert len(stored()) == 1
    assert purge.delete_inferences(model, ["two", "one"]) == ["two"]
    assert purge.remove_blobs()
    assert stored() == []
    assert [(one.action, one.task_id, one.first_id) for one in list_receipts(model_id=model)] == [
        ("hard", None, "one"),
        ("hard", None, "two"),
    ]
