"""The import of a snapshot, told from its beginning to its end."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, insert, literal, select, update
from sqlalchemy.orm import Session

from orchestrator.database import db_now, insert_ignoring, transact
from orchestrator.errors import BadArchive
from orchestrator.ids import new_id
from orchestrator.registry.datasets import get_dataset
from orchestrator.registry.importing.discard import discard, sweep_unfinished_imports
from orchestrator.registry.importing.intake import Intake
from orchestrator.registry.importing.limits import Limits
from orchestrator.registry.importing.lines import bad, read_lines, read_list
from orchestrator.registry.importing.members import Member, Source
from orchestrator.registry.importing.ownership import Ownership, OwnershipLost, begin
from orchestrator.registry.importing.paths import (
    ANNOTATIONS_LINES,
    ANNOTATIONS_LIST,
    CONTROL_FILES,
    IGNORED_FILES,
    METADATA_LINES,
)
from orchestrator.registry.importing.sources import open_source, stem
from orchestrator.registry.importing.spool import Spool, SpooledDatum, spooling
from orchestrator.registry.models import Snapshot
from orchestrator.registry.names import LONGEST_NAME, check_name
from orchestrator.registry.presence import require_store
from orchestrator.registry.snapshots import get_snapshot
from orchestrator.registry.tables import DatumRow, ImportBlobRow, SnapshotRow, SnapshotSplitRow

#: Rows of datums that go into the database at once.
BATCH_ROWS = 500

#: Is told how many files are stored, and how many entries the source has where that is known.
Progress = Callable[[int, int | None], None]


def import_snapshot(
    dataset_id: str,
    source: Path,
    *,
    name: str | None = None,
    progress: Progress | None = None,
    limits: Limits | None = None,
) -> Snapshot:
    """Make a snapshot of a folder, or of a `.zip`, `.tar`, `.tar.gz` or `.tgz` file, in bounded memory.

    `annotations.jsonl` (or `annotations.json`) and `metadata.jsonl` at the root describe the other
    files; without them every file is a datum without annotations. What else an export has at its
    root is passed over. A datum's split is what its line says, else its first folder where that is
    train, test, val or validation, else `default`. Nobody sees the snapshot before it is complete.
    Without a `name` it is called after the source.

    Raises:
        BadArchive: the source is refused, with the member and the line; nothing was kept.
        DatasetNotFound: no dataset has this id.
        Conflict: the dataset has a snapshot of this name, or the import was cleared away because
            this process stood still for longer than the lease.
        Unavailable: the blobs cannot be stored, such as on a disk that is full or not mounted,
            or the folder for temporary files is full; nothing was kept.
    """
    limits = limits or Limits()
    get_dataset(dataset_id)
    require_store()
    sweep_unfinished_imports()
    with _readable():
        opened = open_source(source, limits)
    ownership = begin(dataset_id, check_name(name or _default_name(source), "snapshot"))
    try:
        with ownership.kept_alive(), spooling() as spool:
            with _readable():
                described_by = _take_in(opened, Intake(ownership, spool, _reporter(progress, opened.total)), limits)
            _refuse_strays(spool, described_by)
            _write_datums(spool.datums(by_path=opened.unordered), ownership)
            transact(_finish, ownership)
    except OwnershipLost:
        raise  # whoever owns it now clears it away
    except BaseException:
        discard(ownership)
        raise
    return get_snapshot(ownership.snapshot_id)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (PermissionError, FileNotFoundError) as error:
        raise BadArchive(f"{error.filename}: {error.strerror}", member=str(error.filename)) from error


def _default_name(source: Path) -> str:
    suffix = f"-{new_id()[-8:]}"
    return "".join(filter(str.isprintable, stem(source))).strip()[: LONGEST_NAME - len(suffix)] + suffix


def _reporter(progress: Progress | None, total: int | None) -> Callable[[int], None]:
    return lambda done: progress(done, total) if progress else None


def _take_in(source: Source, intake: Intake, limits: Limits) -> set[str]:
    """Store every file and spool every line; return the names of the files that describe the others."""
    seen: set[str] = set()
    for member in source.members():
        if member.path in CONTROL_FILES:
            if member.path in seen:
                raise BadArchive(f"{member.path} is there twice", member=member.path)
            seen.add(member.path)
            _take_lines(member, intake.spool, limits)
        elif member.path in IGNORED_FILES:
            deque(member.chunks, maxlen=0)
        else:
            intake.take(member)
    intake.flush()
    if {ANNOTATIONS_LINES, ANNOTATIONS_LIST} <= seen:
        raise BadArchive(f"both {ANNOTATIONS_LINES} and {ANNOTATIONS_LIST} are there: keep one")
    if not intake.count:
        raise BadArchive("there are no files to import")
    return seen


def _take_lines(member: Member, spool: Spool, limits: Limits) -> None:
    read = read_list if member.path == ANNOTATIONS_LIST else read_lines
    add = spool.add_metadata if member.path == METADATA_LINES else spool.add_annotations
    for record in read(member.path, member.chunks, limits.line_bytes):
        try:
            add(member.path, record)
        except BadArchive as error:
            # A refused path does not know which line it came from.
            raise error if error.line else bad(member.path, record.line, error.body) from error


def _refuse_strays(spool: Spool, described_by: set[str]) -> None:
    annotations_file = ANNOTATIONS_LIST if ANNOTATIONS_LIST in described_by else ANNOTATIONS_LINES
    for table, member in (("annotations", annotations_file), ("metadata", METADATA_LINES)):
        stray = spool.stray(table)
        if stray:
            path, line = stray
            raise bad(member, line, f"names {path!r}, which is not there")


def _write_datums(datums: Iterator[SpooledDatum], ownership: Ownership) -> None:
    ordinals: Counter[str] = Counter()
    while batch := list(islice(datums, BATCH_ROWS)):
        rows = [_row(datum, ownership.snapshot_id, ordinals) for datum in batch]
        transact(partial(_insert, rows=rows, ownership=ownership))


def _row(datum: SpooledDatum, snapshot_id: str, ordinals: Counter[str]) -> dict[str, Any]:
    ordinal = ordinals[datum.split]
    ordinals[datum.split] += 1
    return {"id": new_id(), "snapshot_id": snapshot_id, "ordinal": ordinal, **datum._asdict()}


def _insert(session: Session, rows: list[dict[str, Any]], ownership: Ownership) -> None:
    ownership.renew(session)
    inserted = insert_ignoring(session, DatumRow, rows)
    if inserted != len(rows):
        raise AssertionError(f"{len(rows) - inserted} datums of snapshot {ownership.snapshot_id} were there before")


def _finish(session: Session, ownership: Ownership) -> None:
    """Count the splits and show the snapshot to the world; its blobs are referred to by datums now."""
    ownership.renew(session)
    snapshot_id = ownership.snapshot_id
    counted = (
        select(literal(snapshot_id), DatumRow.split, func.count(), func.count(DatumRow.annotations))
        .where(DatumRow.snapshot_id == snapshot_id)
        .group_by(DatumRow.split)
    )
    columns = ["snapshot_id", "split", "datum_count", "annotated_count"]
    session.execute(insert(SnapshotSplitRow).from_select(columns, counted))
    session.execute(delete(ImportBlobRow).where(ImportBlobRow.snapshot_id == snapshot_id))
    ready = {"state": "ready", "ready_at": db_now(), "import_owner": None, "import_expires_at": None}
    session.execute(update(SnapshotRow).where(SnapshotRow.id == snapshot_id).values(ready))
