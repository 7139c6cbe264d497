"""Sweeping: what a task that has ended leaves behind is removed, again until nothing can come after it.

Blobs of pieces lie below a folder of the task, so that whatever an attempt wrote before it was killed is found by
listing that folder: the task's row is the record that precedes every write.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import islice
from typing import Any, cast

from sqlalchemy import CursorResult, delete, select
from sqlalchemy.orm import Session

from orchestrator.database import db_now, reading, transact
from orchestrator.inference_store.exports import queries
from orchestrator.inference_store.exports.lifecycle import set_columns
from orchestrator.inference_store.exports.models import ExportTaskState
from orchestrator.inference_store.exports.tables import (
    ExportMemberRow,
    ExportPieceRow,
    ExportTaskRow,
    NamedInferenceRow,
)
from orchestrator.storage import blobs

#: Rows, or blobs, that go at once.
BATCH = 5000
#: After this long no attempt can still be at work, be it one that puts together an archive of any size.
SETTLED = timedelta(hours=7)


def folder_of(task_id: str) -> str:
    """Where the blobs of a task lie."""
    return f"exports/{task_id}"


def sweep(*, settled: timedelta = SETTLED, limit: int = 20) -> int:
    """Clear what tasks that ended so long ago have left, for the last time; returns how many tasks."""
    with reading() as session:
        tasks = session.scalars(queries.unswept(settled, limit)).all()
    for task_id in tasks:
        clear(task_id)
        transact(set_columns, task_id, swept_at=db_now())
    blobs().remove_partial()
    return len(tasks)


def clear(task_id: str) -> None:
    """Remove what an ended task needs no more: all but its row and, if it is complete, its archive.

    Killed midway and run again, it removes the rest.
    """
    with reading() as session:
        task = session.get_one(ExportTaskRow, task_id)
    archive = task.storage_key if task.state == ExportTaskState.COMPLETE else None
    leftovers = (blob.key for blob in blobs().list(folder_of(task_id)) if blob.key != archive)
    while page := list(islice(leftovers, BATCH)):
        blobs().delete_many(page)
    while transact(_delete_members, task_id):
        pass
    transact(_delete_pieces, task_id)


def _delete_members(session: Session, task_id: str) -> bool:
    some = select(ExportMemberRow.ordinal).where(ExportMemberRow.task_id == task_id).limit(BATCH)
    outcome = session.execute(
        delete(ExportMemberRow).where(ExportMemberRow.task_id == task_id, ExportMemberRow.ordinal.in_(some)),
        execution_options={"synchronize_session": False},
    )
    return cast(CursorResult[Any], outcome).rowcount > 0


def _delete_pieces(session: Session, task_id: str) -> None:
    session.execute(delete(ExportPieceRow).where(ExportPieceRow.task_id == task_id))
    session.execute(delete(NamedInferenceRow).where(NamedInferenceRow.task_id == task_id))
