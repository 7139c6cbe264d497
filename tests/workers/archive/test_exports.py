"""Export tasks from submission to archive, in this process: which inferences, which bytes, and what remains."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from orchestrator.database import writing
from orchestrator.errors import ModelNotFound
from orchestrator.inference_store.blobs import hold_subject
from orchestrator.inference_store.export_task import (
    cancel_export_task,
    create_export_task,
    get_export_details,
    get_export_task,
)
from orchestrator.inference_store.exports import sweep
from orchestrator.inference_store.exports.models import ExportTaskState
from orchestrator.inference_store.models import BaseInferenceFilter, NewExportTaskRequest
from orchestrator.ledger import holds
from orchestrator.storage import blobs
from tests.support import exports
from tests.support.exports import Stored, archived, register, run, several, step
from workers.archive import part, piece
from workers.unit import UnitFailed

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.support.services import Broker


@pytest.fixture
def stored(database: Database, broker: Broker) -> Stored:
    return register()


def ids_of(archive: exports.Archived) -> list[str]:
    return [line["inference_id"] for line in archive.lines("inferences.jsonl")]


def test_an_archive_holds_every_inference_and_its_data(stored: Stored) -> None:
    stored.store_many(several(20))
    archive = stored.export()
    assert archive.images == {f"images/inference-{n:05d}.txt": f"content {n}".encode() for n in range(20) if n % 7 != 6}
    assert ids_of(archive) == [f"inference-{n:05d}" for n in range(20)]
    assert archive.lines("manifest.jsonl")[0]["counts"] == {
        "inferences": 20,
        "files": 18,
        "bytes": sum(map(len, archive.images.values())),
        "without_file": 2,
        "missing": 0,
        "annotated": 0,
        "with_metadata": 0,
    }
    assert set(archive.files) - set(archive.images) == {"inferences.jsonl", "manifest.jsonl"}


def test_a_set_is_what_filters_find_and_what_is_included_without_what_is_excluded(stored: Stored) -> None:
    for name, action in (("a", "predict"), ("b", "predict"), ("c", "embed"), ("d", "embed"), ("e", "predict")):
        stored.store(name, name.encode(), inference_action=action)
    register().store("f", b"another model's")
    archive = stored.export(
        filters=BaseInferenceFilter(inference_action_filter="predict"),
        include_inference_ids=["c", "c", "d", "a", "f", "nobody's"],
        exclude_inference_ids=["b", "d", "nobody's"],
    )
    assert ids_of(archive) == ["a", "c", "e"]


def test_a_set_without_inferences_makes_an_archive_without_files(stored: Stored) -> None:
    archive = stored.export()
    assert (archive.details.progress_count, archive.details.expected_count) == (0, 0)
    assert set(archive.files) == {"inferences.jsonl", "manifest.jsonl"}


def test_a_set_is_pinned_when_the_task_starts(stored: Stored) -> None:
    stored.store_many(several(5))
    task_id = stored.submit()
    stored.store("inference-1", b"before it starts")
    step(task_id)
    stored.store("inference-2", b"after it started")
    run(task_id)
    assert ids_of(archived(task_id)) == ["inference-00000", *(f"inference-0000{n}" for n in range(1, 5)), "inference-1"]


def test_progress_counts_what_is_in_the_archive(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.inference_store.exports.plan.MOST", 4)
    stored.store_many(several(10))
    task = create_export_task(stored.model_id, NewExportTaskRequest())
    assert task is not None
    assert (task.state, task.progress_count, task.expected_count, task.presigned_url) == ("pending", 0, 0, None)
    seen = []
    while step(task.id):
        looked = get_export_task(stored.model_id, task.id)
        assert looked is not None
        seen.append((looked.state, looked.progress_count, looked.expected_count, looked.presigned_url is not None))
    running = [("running", count, 10, False) for count in (0, 4, 8, 10)]
    assert seen == [*running, ("complete", 10, 10, True)]


def test_a_url_is_made_anew_at_each_look(stored: Stored) -> None:
    task_id = stored.export().details.task_id
    task = get_export_task(stored.model_id, task_id)
    assert task is not None
    assert task.presigned_url is not None
    assert blobs().verify(task.presigned_url, "GET") == archived(task_id).details.archive.key  # type: ignore[union-attr]  # checked there
    assert get_export_task(register().model_id, task_id) is None


def test_the_same_set_makes_the_same_bytes(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    stored.store_many(several(30, metadata={"place": ("string", "Bern")}))
    asked = {"include_inferences_as_annotations": True, "include_custom_metadata": True}
    first = stored.export(**asked)
    monkeypatch.setattr("workers.archive.records.PAGE", 7)
    monkeypatch.setattr("workers.archive.records.BATCH", 3)
    second = stored.export(**asked)
    assert first.content == second.content
    assert first.details.task_id != second.details.task_id


def test_a_large_file_passes_through_and_is_the_same(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * 1000
    stored.store("large", content)
    stored.store("unknown", content, data_size=None)
    plain = stored.export()
    monkeypatch.setattr("orchestrator.storage.local.CHUNK", 999)
    assert stored.export().content == plain.content
    monkeypatch.setattr("orchestrator.storage.local.LocalBlobs.is_local", False)  # as if it were a bucket
    assert stored.export().content == plain.content
    assert plain.images == {"images/large.bin": content, "images/unknown.bin": content}


def test_an_attempt_goes_on_where_another_was_killed(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    stored.store_many(several(12))
    monkeypatch.setattr(piece, "PIECE_BYTES", 2000)
    whole = stored.export()
    monkeypatch.setattr(part, "SLICE", 0.0)  # every piece is an attempt
    task_id = stored.submit()
    while step(task_id):
        pass
    assert archived(task_id).content == whole.content


def test_what_is_deleted_meanwhile_is_in_the_archive(stored: Stored) -> None:
    from orchestrator.inference_store.purge import delete_inferences, purge

    stored.store_many(several(6))
    whole = stored.export()
    task_id = stored.submit()
    step(task_id)
    delete_inferences(stored.model_id, [f"inference-{n:05d}" for n in range(4)])
    purge()
    run(task_id)
    assert archived(task_id).content == whole.content
    assert purge() == 4


def test_a_blob_that_is_lost_is_counted_and_the_others_are_there(stored: Stored) -> None:
    stored.store_many(several(5))
    blobs().delete(stored.key_of("inference-00002"))
    archive = stored.export()
    assert len(archive.images) == 4
    counts = archive.lines("manifest.jsonl")[0]["counts"]
    assert (counts["missing"], counts["without_file"]) == (1, 1)


def test_a_model_that_nobody_registered_is_refused(database: Database) -> None:
    with pytest.raises(ModelNotFound, match="register it first"):
        create_export_task("nobody", NewExportTaskRequest())


def test_a_model_is_held_from_start_to_end(stored: Stored) -> None:
    stored.store_many(several(3))
    task_id = stored.submit()
    held = []
    while step(task_id):
        with writing() as session:
            held.append(holds.is_held(session, hold_subject(stored.model_id)))
    assert held == [True, True, False]


def test_a_task_that_has_ended_leaves_nothing_but_its_archive(stored: Stored) -> None:
    stored.store_many(several(10))
    archive = stored.export()
    details = archive.details
    assert details.archive is not None
    assert [blob.key for blob in blobs().list(sweep.folder_of(details.task_id))] == [details.archive.key]
    # A zombie's blob: nobody knows of it but the folder.
    blobs().put(f"{sweep.folder_of(details.task_id)}/parts/000000-0000-9.files.gz", b"late")
    assert sweep.sweep() == 0
    assert sweep.sweep(settled=timedelta()) == 1
    assert sweep.sweep(settled=timedelta()) == 0
    assert archived(details.task_id).content == archive.content


def test_a_cancelled_task_keeps_nothing_and_lets_go(stored: Stored) -> None:
    stored.store_many(several(10))
    task_id = stored.submit()
    step(task_id)
    step(task_id)
    details = cancel_export_task(task_id)
    assert (details.state, details.reason, details.archive) == (ExportTaskState.FAILED, "cancelled by request", None)
    assert list(blobs().list(sweep.folder_of(task_id))) == []
    assert step(task_id) is None
    with writing() as session:
        assert not holds.is_held(session, hold_subject(stored.model_id))


def test_a_piece_that_was_damaged_never_becomes_an_archive(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    stored.store_many(several(10))
    task_id = stored.submit()
    step(task_id)
    step(task_id)
    damaged = next(blob.key for blob in blobs().list(sweep.folder_of(task_id)) if "files" in blob.key)
    content = blobs().get(damaged)
    blobs().put(damaged, content[:-20] + bytes(20))
    with pytest.raises(UnitFailed, match="is not what was written"):
        step(task_id)
    assert get_export_details(task_id).archive is None
    assert not [blob.key for blob in blobs().list(sweep.folder_of(task_id)) if "archive" in blob.key]


def test_a_large_file_that_changed_since_it_was_listed_never_gets_into_an_archive(stored: Stored) -> None:
    stored.store("large", bytes(100_000))
    task_id = stored.submit()
    step(task_id)
    step(task_id)
    blobs().put(stored.key_of("large"), bytes(99_999) + b"1")
    with pytest.raises(UnitFailed, match="is not what was written"):
        step(task_id)


def test_a_task_whose_archive_cannot_be_put_together_fails_and_says_why(stored: Stored) -> None:
    stored.store("large", bytes(100_000))
    task_id = stored.submit()
    step(task_id)
    step(task_id)
    blobs().delete(stored.key_of("large"))
    for _ in range(3):
        with pytest.raises(UnitFailed):
            step(task_id)
        exports.skip_delays(task_id)
    details = run(task_id)
    assert details.state is ExportTaskState.FAILED
    assert details.reason.startswith("the archive could not be put together: BlobNotFound: no blob at ")
    assert list(blobs().list(sweep.folder_of(task_id))) == []


def test_the_digest_is_that_of_the_whole_file(stored: Stored) -> None:
    stored.store_many(several(3))
    archive = stored.export()
    assert archive.details.archive is not None
    assert archive.details.archive.sha256 == hashlib.sha256(archive.content).hexdigest()
