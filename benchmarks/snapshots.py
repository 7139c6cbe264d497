"""Snapshots far larger than the folder they were made from: their datums share the blobs of a small one.

A million files would measure the disk's directories before anything else. Blobs are stored by their content, so a
real snapshot may name one blob many times; the rows here are those that an import writes, one for each datum, with
an id, a path and an ordinal of its own.
"""

from __future__ import annotations

from sqlalchemy import text

from benchmarks.stage import Stage
from orchestrator import clock, registry
from orchestrator.database import engine, insert_ignoring, writing
from orchestrator.ids import new_id
from orchestrator.registry.models import Datum, Snapshot
from orchestrator.registry.tables import DatumRow, SnapshotRow, SnapshotSplitRow

#: Rows in one transaction.
PAGE = 10_000


def repeated(stage: Stage, count: int) -> Snapshot:
    """A snapshot of `count` datums that go through the stage's files again and again."""
    files = registry.list_datums(stage.snapshot.id, stage.split, limit=PAGE)
    snapshot_id = new_id()
    with writing() as session:
        session.add(
            SnapshotRow(
                id=snapshot_id,
                dataset_id=stage.snapshot.dataset_id,
                name=f"repeated-{snapshot_id}",
                state="ready",
                ready_at=clock.now(),
            )
        )
        session.flush()
        session.add(SnapshotSplitRow(snapshot_id=snapshot_id, split=stage.split, datum_count=count, annotated_count=0))
    for low in range(0, count, PAGE):
        page = range(low, min(low + PAGE, count))
        with writing() as session:
            insert_ignoring(session, DatumRow, [row(snapshot_id, n, files[n % len(files)]) for n in page])
    analyze()
    return registry.get_snapshot(snapshot_id)


def row(snapshot_id: str, ordinal: int, datum: Datum) -> dict[str, object]:
    """The datum's row under another ordinal."""
    return {
        "id": new_id(),
        "snapshot_id": snapshot_id,
        "split": datum.split,
        "ordinal": ordinal,
        "path": f"{ordinal:08d}.png",
        "sha256": datum.sha256,
        "size": datum.size,
        "content_type": datum.content_type,
        "storage_key": datum.storage_key,
        "metadata": None,
        "annotations": None,
    }


def analyze() -> None:
    """Let PostgreSQL count what came in, as it does by itself within a minute; SQLite is never asked to."""
    if engine().dialect.name == "postgresql":
        with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))
