"""What a test of retention starts from: a model with inferences of a given age, and tasks run without workers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from sqlalchemy import select

from orchestrator import ledger
from orchestrator.database import db_now, insert_ignoring, reading, writing
from orchestrator.ids import new_id
from orchestrator.inference_store.receipts import Action, Receipt, list_receipts
from orchestrator.inference_store.retention import queries
from orchestrator.inference_store.retention.models import Manifest, RetentionDetails
from orchestrator.inference_store.retention.policies import set_policy
from orchestrator.inference_store.retention.submit import submit
from orchestrator.inference_store.retention.tasks import find_task
from orchestrator.inference_store.tables import InferenceRow, StoreBlobRow, StoreModelRow
from orchestrator.ledger import UnitState
from orchestrator.storage import blobs, content_key
from workers.tasks import retention

UNITS: dict[str, Callable[[str], Any]] = {
    "retention.plan": retention.plan,
    "retention.sweep": retention.sweep,
    "retention.finish": retention.finish,
}


def register(model_id: str = "", *, project_id: str = "project") -> str:
    """A model that is registered for inference storage; returns its id."""
    model_id = model_id or new_id()
    with writing() as session:
        session.add(
            StoreModelRow(model_id=model_id, project_id=project_id, task_type="Image Classification", embedding_size=0)
        )
    return model_id


def store(
    model_id: str, ids: Iterable[str], *, hours: float = 0, data: bytes | None = None, protected: bool = False
) -> None:
    """Inferences that were made so many hours ago, all on the same data, if any."""
    key = None if data is None else put(model_id, data)
    _insert(model_id, ids, hours, data_storage_key=key, is_protected=protected)


def store_of_job(model_id: str, ids: Iterable[str], *, hours: float, key: str) -> None:
    """Inferences of a bulk job, all on the datum whose blob is at `key`; their ids are their ordinals."""
    for inference_id in ids:
        of_job = {"bulk_inference_job_id": "job", "datum_id": "datum", "ordinal": int(inference_id)}
        _insert(model_id, [inference_id], hours, data_storage_key=key, **of_job)


def _insert(model_id: str, ids: Iterable[str], hours: float, **values: Any) -> None:
    with writing() as session:
        created = session.scalar(select(db_now(timedelta(hours=-hours))))
        rows = [
            {
                "model_id": model_id,
                "inference_id": inference_id,
                "created_at": created,
                "inference_action": "predict",
                "version": "v1",
                "data": "[]",
                "data_hash": "0" * 64,
                **values,
            }
            for inference_id in ids
        ]
        insert_ignoring(session, InferenceRow, rows)


def put(model_id: str, data: bytes) -> str:
    """A blob of the store, which is there once however often it is put; returns its key."""
    sha256 = hashlib.sha256(data).hexdigest()
    key = content_key(sha256, f"inferences/{model_id}")
    with writing() as session:
        session.merge(StoreBlobRow(storage_key=key, model_id=model_id, sha256=sha256, touched_at=None))
    blobs().put(key, data)
    return key


def policy(model_id: str, *, record: int = 0, blob: int = 0, action: Action = Action.HARD, interval: int = 0) -> str:
    """Set the model's policy; returns its id."""
    return set_policy(
        model_id,
        automated_interval=interval,
        maximum_record_age=record,
        maximum_blob_age=blob,
        delete_action=action,
    ).id


def run(model_id: str, policy_id: str, *, dry_run: bool = False, approved: Manifest | None = None) -> RetentionDetails:
    """Run a task to its end, as workers would."""
    task_id = submit(model_id, policy_id, dry_run=dry_run, approved=approved)
    run_units(task_id)
    return find_task(task_id)


def run_units(task_id: str, *, until: str = "") -> None:
    """Run the task's units as they become ready, up to but not including those of the kind `until`."""
    former = None
    while (unit := next_unit(task_id)) is not None and unit.kind != until:
        assert (unit.id, unit.attempt) != former, f"{unit.kind} gets nowhere: {unit.last_error}"
        former = unit.id, unit.attempt
        UNITS[unit.kind](unit.id)


def next_unit(task_id: str) -> ledger.UnitSummary | None:
    """The task's unit that waits for a worker."""
    waiting = ledger.list_units(task_id, states=[UnitState.READY, UnitState.PUBLISHED])
    return waiting[0] if waiting else None


def task(task_id: str) -> RetentionDetails:
    """The task as it stands."""
    return find_task(task_id)


def visible(model_id: str) -> list[str]:
    """The ids that a caller sees, in order."""
    return _ids(model_id, InferenceRow.deleted_at.is_(None))


def rows(model_id: str) -> list[str]:
    """The ids of all rows, deleted ones included, in order."""
    return _ids(model_id)


def with_data(model_id: str) -> list[str]:
    """The ids that a caller sees with data."""
    return _ids(model_id, InferenceRow.deleted_at.is_(None), InferenceRow.data_storage_key.is_not(None))


def stored() -> list[str]:
    """The keys of all blobs of inferences that are there."""
    return [blob.key for blob in blobs().list("inferences")]


def receipts(task_id: str) -> list[Receipt]:
    """The task's receipts."""
    return list_receipts(task_id=task_id, limit=10_000)


def _ids(model_id: str, *conditions: Any) -> list[str]:
    with reading() as session:
        chosen = select(InferenceRow.inference_id).where(InferenceRow.model_id == model_id, *conditions)
        return list(session.scalars(chosen.order_by(*queries.ORDER)))
