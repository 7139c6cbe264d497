"""Snapshots and their datums, as readers see them: only those whose import has finished."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from orchestrator.database import reading
from orchestrator.errors import InvalidRequest, SnapshotNotFound, SplitNotFound
from orchestrator.registry.datasets import get_dataset
from orchestrator.registry.models import Datum, Snapshot, Split
from orchestrator.registry.tables import DatumRow, SnapshotRow, SnapshotSplitRow

#: Datums that one page of a listing may hold.
LONGEST_PAGE = 10_000


def get_snapshot(snapshot_id: str) -> Snapshot:
    """The snapshot with this id.

    Raises:
        SnapshotNotFound: there is none, or its import has not finished.
    """
    with reading() as session:
        found = _snapshots(session, _ready().where(SnapshotRow.id == snapshot_id))
    if not found:
        raise SnapshotNotFound(f"no finished snapshot has the id {snapshot_id!r}")
    return found[0]


def list_snapshots(dataset_id: str) -> list[Snapshot]:
    """The dataset's snapshots, newest first.

    Raises:
        DatasetNotFound: no dataset has this id.
    """
    dataset = get_dataset(dataset_id)
    with reading() as session:
        return _snapshots(session, _ready().where(SnapshotRow.dataset_id == dataset.id))


def list_datums(snapshot_id: str, split: str, after_ordinal: int = -1, limit: int = 1000) -> list[Datum]:
    """The datums of a split that follow `after_ordinal`, in order: pass the last one's for the next page.

    Raises:
        InvalidRequest: `limit` is not between 1 and `LONGEST_PAGE`.
        SnapshotNotFound, SplitNotFound: there is no such snapshot, or it has no such split.
    """
    if not 1 <= limit <= LONGEST_PAGE:
        raise InvalidRequest(f"a page holds 1 to {LONGEST_PAGE} datums, not {limit}")
    with reading() as session:
        rows = session.scalars(_page(snapshot_id, split, after_ordinal, limit)).all()
    # Datums are also there while an import runs, so the snapshot is asked for in any case.
    _require_split(get_snapshot(snapshot_id), split)
    return [_datum(row) for row in rows]


def _page(snapshot_id: str, split: str, after_ordinal: int, limit: int) -> Select[DatumRow]:
    """One page of a split by keyset: its cost does not grow with how far the reader has come."""
    return (
        select(DatumRow)
        .where(DatumRow.snapshot_id == snapshot_id, DatumRow.split == split, DatumRow.ordinal > after_ordinal)
        .order_by(DatumRow.ordinal)
        .limit(limit)
    )


def _ready() -> Select[SnapshotRow]:
    """Finished snapshots, newest first."""
    return select(SnapshotRow).where(SnapshotRow.state == "ready").order_by(SnapshotRow.id.desc())


def _snapshots(session: Session, chosen: Select[SnapshotRow]) -> list[Snapshot]:
    rows = session.scalars(chosen).all()
    splits = _splits(session, [row.id for row in rows])
    return [
        Snapshot(id=row.id, dataset_id=row.dataset_id, name=row.name, created_at=row.created_at, splits=splits[row.id])
        for row in rows
    ]


def _splits(session: Session, snapshot_ids: Sequence[str]) -> defaultdict[str, list[Split]]:
    counted = select(SnapshotSplitRow).where(SnapshotSplitRow.snapshot_id.in_(snapshot_ids))
    found = defaultdict(list)
    for row in session.scalars(counted.order_by(SnapshotSplitRow.split)):
        found[row.snapshot_id].append(
            Split(split=row.split, datum_count=row.datum_count, annotated_count=row.annotated_count)
        )
    return found


def _require_split(snapshot: Snapshot, split: str) -> None:
    names = [known.split for known in snapshot.splits]
    if split not in names:
        raise SplitNotFound(f"snapshot {snapshot.id} has no split {split!r}: it has {', '.join(names)}")


def _datum(row: DatumRow) -> Datum:
    return Datum(
        id=row.id,
        snapshot_id=row.snapshot_id,
        split=row.split,
        ordinal=row.ordinal,
        path=row.path,
        sha256=row.sha256,
        size=row.size,
        content_type=row.content_type,
        storage_key=row.storage_key,
        metadata=row.custom_metadata,
        annotations=row.annotations,
    )
