"""The members of a task as an archive's writers see them, read a page at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Row

from orchestrator.database import reading
from orchestrator.errors import OrchestratorError
from orchestrator.inference_store.entries import Entry, metadata_of
from orchestrator.inference_store.exports import queries
from orchestrator.inference_store.exports.models import ArchiveFormat
from orchestrator.inference_store.exports.tables import ExportTaskRow

#: Members that are read from the database at once.
PAGE = 1024
#: A file up to this size is in memory as a whole, and in one blob with others; a larger one, or one whose size nobody
#: knows, passes through.
SMALL = 64 << 10
#: Files that are read at once.
BATCH = 64


class MemberLost(OrchestratorError):
    """An inference is gone although the task holds its model: the archive cannot be what was promised."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a task asks for."""

    task_id: str
    model_id: str
    archive_format: ArchiveFormat
    annotations: bool
    metadata: bool

    @classmethod
    def of(cls, task: ExportTaskRow) -> Order:
        """As the task's row has it."""
        return cls(
            task_id=task.id,
            model_id=task.model_id,
            archive_format=ArchiveFormat(task.archive_format),
            annotations=task.request["include_inferences_as_annotations"],
            metadata=task.request["include_custom_metadata"],
        )


class Member(NamedTuple):
    """A member of the set: the row of `queries.members`, and its metadata where that is asked for."""

    row: Row[Any]
    metadata: Sequence[Entry]
    is_large: bool


def members(order: Order, low: int, high: int) -> Iterator[Member]:
    """The members with `low <= ordinal < high`, in order, whether or not somebody deleted them meanwhile.

    Raises:
        MemberLost: one is not there.
    """
    while low < high:
        with reading() as session:
            statement = queries.members(order.task_id, order.model_id, low, high)
            rows = session.execute(statement.limit(PAGE)).all()
            known = metadata_of(session, order.model_id, rows) if order.metadata else {}
        if [row.ordinal for row in rows] != list(range(low, min(low + PAGE, high))):
            raise MemberLost(f"inferences of the pinned set were purged, of ordinals from {low} on: export again")
        for row in rows:
            size = row.size
            is_large = row.storage_key is not None and (size is None or size > SMALL)
            yield Member(row, known.get(row.inference_id, ()), is_large)
        low += len(rows)


def batches(found: Iterator[Member]) -> Iterator[list[Member]]:
    """The same members, some at a time."""
    batch: list[Member] = []
    for member in found:
        batch.append(member)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
