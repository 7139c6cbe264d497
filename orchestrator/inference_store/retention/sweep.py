"""Sweeping: page by page in the order of age, each in one fenced transaction that leaves a receipt.

What a page deletes, how far the sweep has come, and that the lease holds are true together or not at all. So an
attempt that is killed, or frozen and woken, neither loses count nor deletes in the name of a task that was stopped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, and_
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import db_now, transact
from orchestrator.inference_store import purge
from orchestrator.inference_store.purge import INFERENCES
from orchestrator.inference_store.receipts import Action, Cause
from orchestrator.inference_store.retention import queries
from orchestrator.inference_store.retention.lifecycle import LIFECYCLE, set_columns
from orchestrator.inference_store.retention.manifest import Batch, Written
from orchestrator.inference_store.retention.models import TaskState
from orchestrator.inference_store.retention.submit import NEVER
from orchestrator.inference_store.retention.tables import RetentionTaskRow
from orchestrator.ledger import Lease


class Stage(StrEnum):
    """What a sweep takes one after the other."""

    RECORDS = "records"  #: inferences that are too old
    BLOBS = "blobs"  #: the data of inferences that stay


@dataclass(frozen=True, slots=True)
class Place:
    """How far a sweep has come: everything before is dealt with. `after` is the last inference that was looked at."""

    stage: Stage
    after: tuple[datetime, str]

    @classmethod
    def of(cls, lease: Lease) -> Place:
        """Where the attempt begins."""
        found = lease.payload.get("place")
        if found is None:
            return cls(Stage.RECORDS, (NEVER, ""))
        return cls(Stage(found["stage"]), (datetime.fromisoformat(found["created_at"]), found["inference_id"]))

    def noted(self) -> dict[str, str]:
        """As a unit's payload keeps it."""
        return {"stage": self.stage, "created_at": self.after[0].isoformat(), "inference_id": self.after[1]}


@dataclass(frozen=True, slots=True)
class Page:
    """What one transaction did: how many inferences it dealt with, in which way, in how many seconds."""

    action: Action
    count: int
    seconds: float


def begin(lease: Lease) -> None:
    """Set the task running.

    Raises:
        LeaseLost: the unit belongs to another attempt now, or its task was stopped.
    """

    def move(session: Session) -> None:
        ledger.check(session, lease)
        LIFECYCLE.move(session, lease.job_id, TaskState.RUNNING, started_at=db_now())

    transact(move)


def sweep_page(
    lease: Lease, task: RetentionTaskRow, action: Action, place: Place, size: int
) -> tuple[Page, Place | None]:
    """Deal with the next `size` inferences; also says where the next page begins, if this was not the last.

    Those that are protected by then are passed over.

    Raises:
        LeaseLost: the unit belongs to another attempt now, or its task was stopped; nothing was deleted.
    """
    action = action if place.stage is Stage.RECORDS else Action.BLOB
    begun, reached, count = transact(_sweep, lease, task, action, place, size)
    return Page(action, count, time.monotonic() - begun), reached


def run_batch(lease: Lease, task: RetentionTaskRow, batch: Batch) -> Page:
    """Deal with inferences that a manifest names; those that are protected by now are passed over.

    Raises:
        LeaseLost: as `sweep_page`.
    """
    begun, count = transact(_run, lease, task, batch)
    return Page(batch.action, count, time.monotonic() - begun)


def record_manifest(lease: Lease, written: Written) -> None:
    """Let the dry run have this manifest, and count what it names.

    Raises:
        LeaseLost: as `sweep_page`.
    """

    def work(session: Session) -> None:
        ledger.check(session, lease)
        set_columns(
            session,
            lease.job_id,
            manifest_key=written.key,
            manifest_sha256=written.sha256,
            total_record_count=written.records,
            total_blob_count=written.blobs,
        )

    transact(work)


def _sweep(
    session: Session, lease: Lease, task: RetentionTaskRow, action: Action, place: Place, size: int
) -> tuple[float, Place | None, int]:
    ledger.check(session, lease)
    begun = time.monotonic()
    before = task.maximum_record_age_limit if place.stage is Stage.RECORDS else task.maximum_blob_age_limit
    row = session.execute(queries.boundary(task.model_id, place.after, before, size)).one_or_none()
    last = None if row is None else (row[0], row[1])
    reached = _following(task, place.stage) if last is None else Place(place.stage, last)
    which = queries.within(place.after, last, before)
    count = _remove(session, lease, task, which, action)
    if reached is not None:
        ledger.note(session, lease, place=reached.noted())
    return begun, reached, count


def _run(session: Session, lease: Lease, task: RetentionTaskRow, batch: Batch) -> tuple[float, int]:
    ledger.check(session, lease)
    begun = time.monotonic()
    limit = task.maximum_blob_age_limit if batch.action is Action.BLOB else task.maximum_record_age_limit
    # One that was deleted since and made anew, under the same id, is younger than what was approved.
    which = and_(
        queries.too_old(task.model_id, limit, batch.action), INFERENCES.c.inference_id.in_(batch.inference_ids)
    )
    count = _remove(session, lease, task, which, batch.action)
    ledger.note(session, lease, offset=batch.end)
    return begun, count


def _remove(session: Session, lease: Lease, task: RetentionTaskRow, which: ColumnElement[bool], action: Action) -> int:
    removed = purge.remove(session, task.model_id, which, action, Cause(task.id, task.policy_id))
    ledger.hold(session, lease, done=len(removed.ids))
    return len(removed.ids)


def _following(task: RetentionTaskRow, stage: Stage) -> Place | None:
    """Where the next stage begins; None after the last."""
    if stage is Stage.BLOBS or task.maximum_blob_age_limit <= task.maximum_record_age_limit:
        return None
    return Place(Stage.BLOBS, (task.maximum_record_age_limit, ""))
