"""What trainers print: kept as blobs, a chunk every moment, and read in order, also while more comes."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.database import reading
from orchestrator.errors import BlobNotFound
from orchestrator.storage import blobs
from orchestrator.training_v2.tables import RunRow

#: Blobs that are deleted in one go.
BLOBS = 1000


def keep_log(run_id: str, launch: int, number: int, data: bytes) -> None:
    """Keep the chunk with this number, 0, 1, 2 …, of what the launch's trainer printed; kept again, it is replaced."""
    blobs().put(_key(run_id, launch, number), data)


def read_log(run_id: str, launch: int, number: int = 0) -> Iterator[bytes]:
    """The chunks of a launch's log from a number on, as many as there are now."""
    while True:
        try:
            yield blobs().get(_key(run_id, launch, number))
        except BlobNotFound:
            return
        number += 1


def forget(run_id: str) -> None:
    """Delete every log of a run."""
    keys = [info.key for info in blobs().list(f"training/{run_id}/logs")]
    for start in range(0, len(keys), BLOBS):
        blobs().delete_many(keys[start : start + BLOBS])


def forget_if_deleted(run_id: str) -> None:
    """Delete what was kept after the run was deleted, which nobody would find any more."""
    with reading() as session:
        row = session.get(RunRow, run_id)
    if row is None or row.deleted_at is not None:
        forget(run_id)


def _key(run_id: str, launch: int, number: int) -> str:
    return f"training/{run_id}/logs/{launch}/{number:08}"
